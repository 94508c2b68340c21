/* SPDX-License-Identifier: MIT */
/* Pieces of transfer_engine_bench: set-up of both sides, the measured run, the check, the report. */
#ifndef TOOLS_COMMON_BENCH_H
#define TOOLS_COMMON_BENCH_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <mooncake/mooncake.h>

#include "histogram.h"

/* Flags as given; names as on the command line. */
struct bench_options {
	const char *program;
	const char *local_server_name, *metadata_server, *mode, *operation, *protocol;
	const char *device_name, *nic_priority_matrix, *segment_id;
	uint64_t buffer_size, batch_size, block_size, threads;
	double duration, warmup;
	bool auto_discovery;
	const char *report_unit;
	double unit_bytes;
	uint64_t report_precision;
	const char *backend;
	bool use_vram, init_mem;
	int64_t gpu_id;
	bool json, check, sweep;
	const char *sweep_block_size, *sweep_batch_size, *sweep_threads;
	const char *key_file, *config, *bind, *advertise;
	bool insecure, classic, require_ack, integrity, checksum, follow_restart;
	uint64_t streams, io_threads, timeout_ms, open_timeout_ms, depth, page_size, working_set, seed;
	const char *memory;
	bool name_given, buffer_size_given, duration_given, metadata_given, timeout_given, protocol_given, device_given;
	bool classic_given, insecure_given, require_ack_given, integrity_given, checksum_given;
	bool streams_given, io_threads_given;
};

struct bench_buffer {
	mc_memory *memory;
	mc_region *region;
	uint8_t *addr;
	uint64_t length;
	int node;
};

#define BENCH_NODES 64

/* An open engine with registered buffers, and the signals that end a run. */
struct bench {
	const struct bench_options *o;
	mc_engine *engine;
	struct bench_buffer buffers[BENCH_NODES];
	unsigned int buffer_count;
	sigset_t signals;
	bool usage; /* the library refused what it was given: exit status 2 */
	uint64_t started_ns; /* 0 = begun long ago, and well */
};

/*
 * bench_setup.c. Failures are printed; 0 or -1. bench_block_signals() comes first, before any thread. A signal
 * during the steps ends the process.
 */
void bench_block_signals(struct bench *b);
int bench_open(struct bench *b); /* the engine; what is wrong with names and services shows here */
int bench_add_buffers(struct bench *b, uint64_t length, uint32_t rights);
void bench_close(struct bench *b);
/* Run @step, which may take long, on a thread of its own. @engine_idle: it does not use the engine. */
int bench_step(struct bench *b, bool engine_idle, int (*step)(void *arg), void *arg);
/* Wait for a signal to end; true if one came within @seconds. */
bool bench_signalled(const struct bench *b, double seconds);
uint64_t bench_now_ns(void);
double bench_cpu_seconds(void);

/* bench_target.c: exit status. */
int bench_target(const struct bench_options *o);

/* What one run does. */
struct bench_shape {
	enum mc_op op;
	uint64_t block, batch, threads;
	double duration, warmup;
};

/* The opened segment of the target, shared by the workers; replaced when it goes stale. */
struct bench_peer {
	mc_segment *segment;
	unsigned int refs;
	unsigned int count; /* of regions that take the operation */
	struct mc_segment_region *regions;
};

/* Counted by one worker, read by the main thread. */
struct bench_counts {
	atomic_uint_fast64_t batches, bytes;
	atomic_uint_fast64_t failed, timed_out, stale, cancelled, unconfirmed;
	atomic_uint_fast64_t checked_bytes, wrong_bytes, rounds;
};

struct bench_run;

struct bench_slot {
	mc_batch *batch;
	uint64_t submitted_ns;
	unsigned int epoch;
	bool in_flight;
};

struct bench_worker {
	struct bench_run *run;
	struct bench_counts counts;
	struct histogram latency; /* of batches, ns */
	struct bench_peer *peer;
	struct bench_slot *slots;
	uint64_t position; /* in blocks, for --working_set */
	unsigned int tid, epoch;
	bool fatal; /* cannot go on */
	bool cancelled; /* what was in flight, at the end */
	int error;  /* last */
	char sentence[512];
	pthread_t thread;
};

struct bench_run {
	struct bench *b;
	struct bench_shape shape;
	uint64_t span; /* bytes of each buffer that the run walks over */
	struct bench_worker *workers;
	atomic_uint epoch; /* 0 = warming up, 1 = measuring */
	atomic_bool stop, cancel;
	atomic_uint_fast64_t reopened;
	pthread_mutex_t lock; /* guards peer and its refs */
	struct bench_peer *peer;
	uint64_t retry_ns; /* no re-opening before this */
	_Atomic uint64_t over_ns; /* when the time was over; 0 = not yet */
	atomic_uint alive; /* workers */
	char reopen_error[512];
};

struct bench_result {
	struct bench_shape shape;
	double seconds;
	uint64_t batches, requests, bytes;
	uint64_t failed, timed_out, stale, cancelled, unconfirmed, reopened;
	uint64_t checked_bytes, wrong_bytes, rounds;
	double rate; /* bytes per second */
	struct histogram latency;
	double cpu_own, cpu_target; /* seconds per GiB; NAN = unknown */
	uint64_t allocs;	    /* on the data path, while measuring */
	bool interrupted;
	char path[256];
	char error[512];
};

/* bench_peer.c */
struct bench_peer *bench_peer_open(struct bench *b, enum mc_op op);
/* The same, waiting a few seconds for a target that is still registering its memory. @say: progress */
struct bench_peer *bench_peer_await(struct bench *b, enum mc_op op, bool say);
void bench_peer_close(struct bench_peer *peer);
struct bench_peer *bench_peer_get(struct bench_run *run);
void bench_peer_put(struct bench_run *run, struct bench_peer *peer);
/* A peer other than @old, opened by whoever comes first; NULL with a sentence in @text if that failed. */
struct bench_peer *bench_peer_renew(struct bench_run *run, struct bench_peer *old, char *text, size_t size);
/* 0, or -1 with a sentence in @text if a region is smaller than @span. */
int bench_peer_fits(const struct bench_run *run, const struct bench_peer *peer, char *text, size_t size);

/* Bytes of each buffer that a run of this shape walks over. */
uint64_t bench_span(const struct bench_options *o, const struct bench_shape *shape);
/* bench_run.c: 0 or -1 (printed); @peer is the caller's. */
int bench_measure(struct bench *b, struct bench_peer **peer, const struct bench_shape *shape,
		  struct bench_result *result);
/* Of the worker: fill, submit, wait. Results in counts; a failure goes to bench_worker_recover(). */
int bench_worker_submit(struct bench_worker *w, struct bench_slot *slot, enum mc_op op);
int bench_worker_finish(struct bench_worker *w, struct bench_slot *slot);
void bench_worker_recover(struct bench_worker *w, int rc);
void bench_worker_failed(struct bench_worker *w, int error, const char *sentence);
uint64_t bench_worker_offset(const struct bench_worker *w, uint64_t i);
uint8_t *bench_worker_local(const struct bench_worker *w);

/* bench_check.c: one round of --check: write a pattern, read it back, compare. */
void bench_check_round(struct bench_worker *w);

/* bench_report.c */
void bench_report(const struct bench *b, const struct bench_result *result);
/* A line for each RDMA NIC in use: which GID it speaks with, and why. */
void bench_print_nics(const struct bench *b, const char *before);
void bench_report_sweep(const struct bench *b, const struct bench_result *results, unsigned int count);

#endif
