/* SPDX-License-Identifier: MIT */
/* Types that every public header of libmooncake shares. */
#ifndef MOONCAKE_TYPES_H
#define MOONCAKE_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define MC_VERSION_MAJOR 0
#define MC_VERSION_MINOR 1
#define MC_VERSION_PATCH 0
#define MC_VERSION_STRING "0.1.0"

typedef struct mc_engine mc_engine;
typedef struct mc_memory mc_memory;
typedef struct mc_region mc_region;
typedef struct mc_segment mc_segment;
typedef struct mc_batch mc_batch;
typedef struct mc_view mc_view;

/** enum mc_op - what a request does, seen from the initiator. */
enum mc_op {
	MC_READ = 0,	/* remote memory -> local memory */
	MC_WRITE = 1,	/* local memory -> remote memory */
};

/** enum mc_state - where a request stands; all but MC_PENDING are final. */
enum mc_state {
	MC_PENDING = 0,
	MC_DONE = 1,		/* WRITE: bytes are in the destination memory; READ: in the local memory */
	MC_FAILED = 2,		/* see error */
	MC_TIMED_OUT = 3,	/* the deadline passed first; error is -ETIMEDOUT */
	MC_CANCELLED = 4,	/* error is -ECANCELED */
};

/* Set in mc_status.flags: a classic v1 peer cannot confirm a write; it was sent, no more is known. */
#define MC_STATUS_UNCONFIRMED 1u

/**
 * struct mc_status - result of one request
 * @state: where it stands
 * @error: 0 or a negative errno once @state is final
 * @bytes: bytes moved; equal to the length when MC_DONE, else undefined for a WRITE's destination
 * @flags: MC_STATUS_* bits
 */
struct mc_status {
	enum mc_state state;
	int32_t error;
	uint64_t bytes;
	uint32_t flags;
	uint32_t reserved;
};

/** struct mc_uuid - a random 128-bit identity. */
struct mc_uuid {
	uint8_t b[16];
};

/**
 * mc_errmsg() - the calling thread's last failure as a full sentence
 *
 * What failed, where, why and what to do about it. Never NULL; empty before the first failure.
 * The pointer is valid until the next failing call of this thread.
 */
const char *mc_errmsg(void);

/** mc_version() - version of the library that is loaded, e.g. "0.1.0". */
const char *mc_version(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
