/* SPDX-License-Identifier: MIT */
/* Two engines in one process, a metadata server between them, and memory on both sides. */
#ifndef PAIR_H
#define PAIR_H

#include <dirent.h>
#include <stdarg.h>
#include <stdbool.h>
#include <setjmp.h>
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>
#include <cmocka.h>

#include <mooncake/mooncake.h>

#include "only.h"

#define PAIR_BYTES (8u << 20)

struct pair {
	const char *transport;			  /* "tcp", "tcp-classic", "shm" */
	const char *memory;			  /* "memfd", "module" or "malloc" */
	uint32_t flags;				  /* of both engines */
	const char *initiator_nics, *target_nics; /* NULL: all */
	mc_metadata_server *server;
	char uri[64], target_name[64];
	mc_engine *target, *initiator;
	mc_memory *target_memory, *initiator_memory;
	uint8_t *remote, *local; /* PAIR_BYTES each */
	mc_region *remote_region, *local_region;
	mc_segment *segment;
};

#define must(expression)                                                              \
	do {                                                                          \
		int must_ret_ = (expression);                                         \
		if (must_ret_)                                                        \
			fail_msg("%s: %d (%s)", #expression, must_ret_, mc_errmsg()); \
	} while (0)

static inline void pair_open_engine(struct pair *p, const char *name, uint32_t depth, mc_engine **engine)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;

	attr.metadata = p->uri;
	attr.name = name;
	attr.transports = p->transport;
	attr.flags = p->flags;
	attr.queue_depth = depth;
	attr.devices = engine == &p->initiator ? p->initiator_nics : p->target_nics;
	must(mc_engine_open(&attr, engine));
}

/* Does this process get memory from the kernel module? */
static inline int pair_has_module(void)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	struct mc_memory_info info = {.size = sizeof(info)};
	mc_memory *memory;
	int has;

	attr.length = attr.page_size = 4096;
	if (mc_memory_alloc(&attr, &memory))
		return 0;
	has = !mc_memory_info(memory, &info) && !strcmp(info.kind, "module");
	mc_memory_free(memory);
	return has;
}

static inline uint8_t *pair_alloc(struct pair *p, mc_memory **memory)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	void *addr = NULL;

	*memory = NULL;
	if (!strcmp(p->memory, "malloc")) {
		assert_int_equal(posix_memalign(&addr, 4096, PAIR_BYTES), 0);
		return addr;
	}
	attr.length = PAIR_BYTES;
	attr.page_size = 4096;
	attr.flags = strcmp(p->memory, "module") ? MC_MEMORY_NO_MODULE : 0;
	must(mc_memory_alloc(&attr, memory));
	return mc_memory_addr(*memory);
}

static inline void pair_start_target(struct pair *p)
{
	pair_open_engine(p, p->target_name, 0, &p->target);
	must(mc_engine_register(p->target, p->remote, PAIR_BYTES, NULL, &p->remote_region));
}

static inline void pair_stop_target(struct pair *p)
{
	must(mc_engine_unregister(p->remote_region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(p->target));
	p->remote_region = NULL;
	p->target = NULL;
}

static inline void pair_setup(struct pair *p)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;

	must(mc_metadata_server_open(&attr, &p->server));
	snprintf(p->uri, sizeof(p->uri), "http://127.0.0.1:%u/metadata", mc_metadata_server_port(p->server));
	snprintf(p->target_name, sizeof(p->target_name), "target-%s-%s", p->transport, p->memory);
	p->remote = pair_alloc(p, &p->target_memory);
	p->local = pair_alloc(p, &p->initiator_memory);
	memset(p->remote, 0xa5, PAIR_BYTES);
	memset(p->local, 0x5a, PAIR_BYTES);
	pair_start_target(p);
	pair_open_engine(p, "initiator", 4096, &p->initiator);
	must(mc_engine_register(p->initiator, p->local, PAIR_BYTES, NULL, &p->local_region));
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
}

static inline void pair_free_memory(mc_memory *memory, uint8_t *addr)
{
	if (memory)
		must(mc_memory_free(memory));
	else
		free(addr);
}

static inline void pair_teardown(struct pair *p)
{
	if (p->segment)
		must(mc_segment_close(p->segment));
	must(mc_engine_unregister(p->local_region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(p->initiator));
	if (p->target)
		pair_stop_target(p);
	pair_free_memory(p->target_memory, p->remote);
	pair_free_memory(p->initiator_memory, p->local);
	must(mc_metadata_server_close(p->server));
}

static inline struct mc_remote at(struct pair *p, uint64_t offset)
{
	struct mc_segment_region region = {.size = sizeof(region)};

	must(mc_segment_region(p->segment, 0, &region));
	return (struct mc_remote){.region = region.id, .offset = offset};
}

/* One request from submit to its final status. */
static inline struct mc_status move(struct pair *p, enum mc_op op, void *local, struct mc_remote remote,
				    uint64_t length)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_status status;
	mc_batch *batch;

	attr.timeout_ms = 30000;
	must(mc_batch_alloc(p->initiator, 1, &batch));
	must(mc_batch_add(batch, op, local, p->segment, remote, length));
	must(mc_batch_submit(batch, &attr));
	must(mc_batch_wait(batch, -1));
	must(mc_batch_status(batch, 0, &status));
	must(mc_batch_free(batch));
	return status;
}

/* Soft-RoCE, in a guest, counts as well as a card. */
static inline bool pair_has_device(void)
{
	DIR *dir = opendir("/sys/class/infiniband");
	struct dirent *entry;
	bool found = false;

	while (dir && (entry = readdir(dir)))
		found |= entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return found;
}

/* Is there a NIC? Where there is no device, the program starts again with one in software (tests/softnic). */
static inline bool pair_has_nic(char **argv)
{
	char exe[256] = "", folder[300];
	ssize_t n;

	if (pair_has_device() || getenv("MOONCAKE_SOFTNIC"))
		return true;
	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (n <= 0 || !strrchr(exe, '/'))
		return false;
	*strrchr(exe, '/') = 0;
	snprintf(folder, sizeof(folder), "%s/../softnic", exe);
	if (access(folder, X_OK))
		return false;
	setenv("LD_LIBRARY_PATH", folder, 1);
	setenv("MOONCAKE_SOFTNIC", "1", 1);
	execv("/proc/self/exe", argv);
	return false;
}

#define assert_done(status)                                                \
	do {                                                               \
		struct mc_status s_ = (status);                            \
		if (s_.state != MC_DONE)                                   \
			fail_msg("state %d error %d", s_.state, s_.error); \
	} while (0)
#define assert_failed(status, err)                       \
	do {                                             \
		struct mc_status s_ = (status);          \
		assert_int_equal(s_.error, err);         \
		assert_int_not_equal(s_.state, MC_DONE); \
	} while (0)

#endif
