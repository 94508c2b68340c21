/* SPDX-License-Identifier: MIT */
/* The pure parts of redis.c, for tests. */
#ifndef MCI_REDIS_H
#define MCI_REDIS_H

#include <stddef.h>
#include <stdint.h>

uint64_t mci_redis_version(const char *text, size_t length); /* as the scripts compute it */
char *mci_redis_pattern(const char *prefix);		     /* for SCAN MATCH; malloc'd */

#endif
