/* SPDX-License-Identifier: MIT */
/*
 * The P2P store: an object (a checkpoint, a file) that one process registers reaches many others in about the time
 * of one transfer, since whoever holds a piece serves it. docs/p2p.md tells how.
 */
#ifndef MOONCAKE_P2P_H
#define MOONCAKE_P2P_H

#include <mooncake/engine.h>
#include <mooncake/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef struct mc_p2p mc_p2p;
typedef struct mc_p2p_task mc_p2p_task;

/**
 * struct mc_p2p_attr - how to open a store
 * @size: sizeof(struct mc_p2p_attr)
 * @engine: of the engine that the store opens for itself: metadata service, name, transports, key. With
 *          MC_ENGINE_CLASSIC classic records are written and read too. NULL = all defaults
 * @peers: without a metadata service (P2PHANDSHAKE): comma list of segment names to ask for objects and members
 * @slots: pieces of one object that this process serves at one time, over all receivers; 0 = 16
 * @window: pieces that one fetch has in flight, over all sources; 0 = 16
 * @hash_threads: threads that hash pieces; 0 = min(4, cores)
 */
struct mc_p2p_attr {
	size_t size;
	uint32_t flags; /* none yet */
	uint32_t slots, window, hash_threads;
	const struct mc_engine_attr *engine;
	const char *peers;
	uint64_t reserved[6];
};
#define MC_P2P_ATTR_INIT { .size = sizeof(struct mc_p2p_attr) }

int mc_p2p_open(const struct mc_p2p_attr *attr, mc_p2p **store);
int mc_p2p_close(mc_p2p *store);
const char *mc_p2p_name(const mc_p2p *store);

/** struct mc_p2p_range - one piece of memory of an object. */
struct mc_p2p_range {
	void *addr;
	uint64_t length;
};

/**
 * struct mc_p2p_place - where the bytes of an object are, or shall go
 * @size: sizeof(struct mc_p2p_place)
 * @ranges, @count: memory, in the object's order; stays the caller's, and stays as it is until the object is
 *                  unregistered or deleted. Its lengths are the object's size list
 * @path: instead of ranges: a file. As a source it is mapped; as a sink it is made, or completed if it is there,
 *        under the name PATH.part until every piece is verified
 * @location: "cpu:0" and so on; NULL = found out
 */
struct mc_p2p_place {
	size_t size;
	const struct mc_p2p_range *ranges;
	unsigned int count;
	unsigned int reserved0;
	const char *path;
	const char *location;
	uint64_t reserved[4];
};
#define MC_P2P_PLACE_INIT { .size = sizeof(struct mc_p2p_place) }

/* struct mc_p2p_register_attr.flags */
#define MC_P2P_FORCE (1u << 0)	/* take the name even if other content is registered under it */

/**
 * struct mc_p2p_register_attr - how to register an object
 * @max_shard_size: unit of the classic record; 0 = 64 MiB
 * @piece_size: unit of the swarm: a power of two from 4 KiB to 4 MiB; 0 = by size
 */
struct mc_p2p_register_attr {
	size_t size;
	uint32_t flags;
	uint32_t reserved0;
	uint64_t max_shard_size;
	uint64_t piece_size;
	uint64_t reserved[4];
};
#define MC_P2P_REGISTER_ATTR_INIT { .size = sizeof(struct mc_p2p_register_attr) }

#define MC_P2P_ROOT_TEXT 65	/* 64 hexadecimal digits and a NUL */

int mc_p2p_register(mc_p2p *store, const char *name, const struct mc_p2p_place *place,
		    const struct mc_p2p_register_attr *attr, char root[MC_P2P_ROOT_TEXT]);
int mc_p2p_unregister(mc_p2p *store, const char *name);
/* Removes the record of an object that no living member holds, whoever made it; with MC_P2P_FORCE in any case. */
int mc_p2p_remove(mc_p2p *store, const char *name, uint32_t flags);

/**
 * struct mc_p2p_progress - how far a fetch is
 * @bytes: of the object, @held: verified and here, @reused: of those, found in the place when the fetch began
 * @fetched: that came over the wire, with what was thrown away; @from_seeds: of those, from who registered it
 * @pieces, @pieces_held: the same in pieces
 * @members: who holds or fetches the object now, without us; @sources: of those, whom we fetch from
 * @missing: pieces that nobody who is there holds: the fetch goes on when a seed appears
 * @bad_pieces: that did not match their hash
 * @elapsed_ns: since the start
 * @note: the last thing worth telling, a sentence, or "": who was avoided and why, what is being waited for
 */
struct mc_p2p_progress {
	size_t size;
	uint64_t bytes, held, reused, fetched, from_seeds;
	uint32_t pieces, pieces_held, missing, bad_pieces;
	uint32_t members, sources;
	uint64_t elapsed_ns;
	char note[256];
	uint64_t reserved[6];
};

/* struct mc_p2p_get_attr.flags */
#define MC_P2P_RESUME (1u << 0)	/* look first at what the memory holds already; always so for files */

/**
 * struct mc_p2p_get_attr - how to fetch
 * @timeout_ms: for the whole; 0 = none: as long as it takes, also while pieces are missing
 * @stall_ms: give up when nothing came for so long; 0 = never
 * @progress: called now and then (not more than ten times a second) and once at the end, in a thread of the
 *            store, without a lock; may call mc_p2p_task_cancel() and nothing else of the store. NULL = none
 * @progress_arg: for @progress
 */
struct mc_p2p_get_attr {
	size_t size;
	uint32_t flags;
	uint32_t timeout_ms, stall_ms;
	uint32_t reserved0;
	void (*progress)(const struct mc_p2p_progress *progress, void *arg);
	void *progress_arg;
	uint64_t reserved[4];
};
#define MC_P2P_GET_ATTR_INIT { .size = sizeof(struct mc_p2p_get_attr) }

/* @name may be "name@root": then nobody but the bearer of exactly that content is believed. */
int mc_p2p_get(mc_p2p *store, const char *name, const struct mc_p2p_place *place,
	       const struct mc_p2p_get_attr *attr);
int mc_p2p_get_start(mc_p2p *store, const char *name, const struct mc_p2p_place *place,
		     const struct mc_p2p_get_attr *attr, mc_p2p_task **task);
int mc_p2p_task_wait(mc_p2p_task *task, int timeout_ms);
int mc_p2p_task_cancel(mc_p2p_task *task);
int mc_p2p_task_progress(mc_p2p_task *task, struct mc_p2p_progress *progress);
const char *mc_p2p_task_error(mc_p2p_task *task);
int mc_p2p_task_free(mc_p2p_task *task);
int mc_p2p_delete_replica(mc_p2p *store, const char *name);

/**
 * struct mc_p2p_object - a registered object
 * @name, @root: root is "" for an object that only a classic record tells of
 * @size_list, @size_count: lengths of its ranges; valid during the callback
 * @seeds: living members that registered it; @holders: living members that hold all of it, seeds included;
 *         @members: all living members. 0 where there is no metadata service that could tell
 */
struct mc_p2p_object {
	size_t size;
	char name[256];
	char root[MC_P2P_ROOT_TEXT];
	uint8_t classic; /* known by a classic record */
	uint8_t reserved0[6];
	uint64_t bytes, piece_size, max_shard_size;
	const uint64_t *size_list;
	uint32_t size_count;
	uint32_t seeds, holders, members;
	uint64_t reserved[4];
};
/* Objects whose names begin with @prefix, in order of names. @fn returns nonzero to end the list. */
int mc_p2p_list(mc_p2p *store, const char *prefix, int (*fn)(const struct mc_p2p_object *object, void *arg), void *arg);

/* Calls @fn in a thread of the store soon after objects or members under @prefix changed, and once at the start.
 * One watch per store; NULL @fn ends it and waits for a running @fn. */
int mc_p2p_watch(mc_p2p *store, const char *prefix, void (*fn)(void *arg), void *arg);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
