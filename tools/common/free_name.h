/* SPDX-License-Identifier: MIT */
/* A name for a process whose host name is taken. */
#ifndef TOOLS_COMMON_FREE_NAME_H
#define TOOLS_COMMON_FREE_NAME_H

#include <stddef.h>

/* "HOST:PORT" with a port that is free now; 0 or a negative errno. */
int free_name(const char *host, char *name, size_t size);

#endif
