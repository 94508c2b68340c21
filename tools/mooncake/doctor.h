/* SPDX-License-Identifier: MIT */
/* Findings of mooncake doctor: each check says ok, warn or fail, what it saw, and the fix. */
#ifndef TOOLS_MOONCAKE_DOCTOR_H
#define TOOLS_MOONCAKE_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>

enum finding_status { FINDING_OK, FINDING_WARN, FINDING_FAIL };

/* Report; @fix may be NULL. Both texts are copied. */
void finding(enum finding_status status, const char *check, const char *fix, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* First line of a small file, "" if it cannot be read; number in it, or @missing. */
const char *small_file(const char *path, char *out, int size);
int64_t small_number(const char *path, int64_t missing);

/* doctor_host.c: the machine and this process's limits */
void check_kernel(void);
void check_memlock(void);
void check_open_files(void);
void check_huge_pages(void);
void check_shm_space(void);
void check_process_copy(void);
/* doctor_module.c */
void check_module(void);
/* doctor_net.c */
void check_congestion(void);
void check_socket_buffers(void);
void check_port_range(void);
void check_proxy(void);
/* doctor_rdma.c: @devices as --device_name, or NULL */
void check_rdma(const char *devices);
/* doctor_rails.c: every pair of NICs to @peer; a JSON array of them */
struct json_t *check_peer(const char *peer, const char *devices, bool insecure, bool print);

#endif
