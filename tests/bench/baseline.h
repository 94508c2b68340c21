/* SPDX-License-Identifier: MIT */
/*
 * What the baseline programs share: the same memory as the engine's (mc_memory), the same walk over it,
 * flags, and one JSON line of figures. Included once by each program; takes the flag parser in directly.
 */
#ifndef TESTS_BENCH_BASELINE_H
#define TESTS_BENCH_BASELINE_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>

#include "../../tools/common/options.c"

#define MAX_THREADS 256

static struct {
	const char *operation;
	uint64_t block_size, threads, working_set;
	double duration, warmup;
} base;

/* clang-format off */
#define BASE_OPTIONS \
	{"operation", OPT_CHOICE, &base.operation, "read", .choices = "read|write", .help = "direction"}, \
	{"block_size", OPT_SIZE, &base.block_size, "65536", 1, 1ll << 32, .help = "bytes of a piece"}, \
	{"threads", OPT_UINT, &base.threads, "1", 1, MAX_THREADS, .help = "threads, or connections"}, \
	{"working_set", OPT_SIZE, &base.working_set, "256M", 1, 1ll << 40, .help = "bytes on each side"}, \
	{"duration", OPT_DOUBLE, &base.duration, "0.5", 0, 3600, .help = "seconds measured"}, \
	{"warmup", OPT_DOUBLE, &base.warmup, "0.2", 0, 3600, .help = "seconds before"}
/* clang-format on */

/* Counters in memory that both processes see; a cache line for each thread. */
struct lane {
	_Alignas(64) atomic_uint_fast64_t bytes;
};

struct shared {
	struct lane lanes[MAX_THREADS];
	atomic_int stop, ready, port;
};

static inline struct shared *shared_new(void)
{
	void *at =
		mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return at;
}

/* Memory as the bench's own buffers: pre-faulted and filled. */
static inline uint8_t *memory_new(uint64_t length, uint32_t flags)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;
	uint8_t *at;

	attr.length = length;
	attr.flags = MC_MEMORY_PREFAULT | flags;
	if (mc_memory_alloc(&attr, &memory)) {
		fprintf(stderr, "%s\n", mc_errmsg());
		exit(1);
	}
	at = mc_memory_addr(memory);
	memset(at, 0xcc, length);
	return at;
}

/* The walk of transfer_engine_bench --working_set. */
static inline uint64_t walk(uint64_t i, uint64_t thread)
{
	return (i * base.threads + thread) % (base.working_set / base.block_size) * base.block_size;
}

static inline void count(struct lane *lane, uint64_t bytes)
{
	atomic_store_explicit(&lane->bytes, atomic_load_explicit(&lane->bytes, memory_order_relaxed) + bytes,
			      memory_order_relaxed);
}

static inline uint64_t total(struct shared *shared)
{
	uint64_t bytes = 0;
	unsigned int i;

	for (i = 0; i < MAX_THREADS; i++)
		bytes += atomic_load_explicit(&shared->lanes[i].bytes, memory_order_relaxed);
	return bytes;
}

static double clock_seconds(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		return 0;
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* CPU seconds of another process; 0 for none. */
static inline double cpu_of(pid_t pid)
{
	clockid_t clock;

	return pid && !clock_getcpuclockid(pid, &clock) ? clock_seconds(clock) : 0;
}

static void nap(double seconds)
{
	struct timespec t = {.tv_sec = (time_t)seconds,
			     .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

/* Let it run, and print the figures: what both processes did between two moments. */
static inline void measure(struct shared *shared, pid_t peer)
{
	double t0, t1, own0, own1, peer0, peer1, gib;
	uint64_t b0, b1;

	nap(base.warmup);
	own0 = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
	peer0 = cpu_of(peer);
	b0 = total(shared);
	t0 = clock_seconds(CLOCK_MONOTONIC);
	nap(base.duration);
	b1 = total(shared);
	t1 = clock_seconds(CLOCK_MONOTONIC);
	own1 = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
	peer1 = cpu_of(peer);
	gib = (double)(b1 - b0) / 1073741824.0;
	printf("{\"bytes\": %llu, \"bytes_per_second\": %.0f, \"cpu_seconds_per_gib_initiator\": %.6f, "
	       "\"cpu_seconds_per_gib_target\": %.6f}\n",
	       (unsigned long long)(b1 - b0), (double)(b1 - b0) / (t1 - t0),
	       gib > 0 ? (own1 - own0) / gib : 0, gib > 0 ? (peer1 - peer0) / gib : 0);
}

#endif
