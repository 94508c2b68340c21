/* SPDX-License-Identifier: MIT */
/*
 * Within lib/p2p: what its files share.
 *
 * Threads: one loop thread owns all state of objects, links and members; calls of the interface run in it for
 * a moment by mci_loop_call(). What blocks is done by the caller's thread, by a fetch's own thread (task.c),
 * or by a pool, whose jobs come back to the loop. Locks are leaves: store->lock for what callers wait for,
 * store->regions_lock for the regions (held while the engine registers), task->lock.
 */
#ifndef MCI_P2P_H
#define MCI_P2P_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>
#include <sys/types.h>

#include <mooncake/p2p.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "engine/role.h"
#include "net/conn.h"
#include "net/loop.h"
#include "net/work.h"
#include "p2p/manifest.h"
#include "p2p/swarm.h"
#include "p2p/wire.h"

#define MCI_P2P_DIAL_MS 3000
#define MCI_P2P_DRAIN_MS 10000
#define MCI_P2P_SENTENCE 512

#define mci_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* ---- place.c: where bytes lie ---- */

struct mci_store_region;
struct mci_place {
	struct mc_p2p *store;
	struct mc_p2p_range *range;
	uint32_t count, added; /* @added: ranges that are registered */
	uint32_t *id;	       /* of each range: region and offset in it, for peers */
	uint64_t *offset;
	struct mci_store_region **region;
	char *path, *part; /* of a file; @part: a sink that is not complete */
	int fd;
	void *map, *old; /* @old: what was under the name before, to be looked through */
	uint64_t map_length, old_length;
	bool fresh; /* nothing is in it: need not be looked through */
};

struct mci_parts { /* bounce buffers: places for reads of pieces whose own place is in use */
	uint8_t *memory;
	uint64_t size;
	unsigned int busy; /* bits */
	mc_region *region;
};
#define MCI_P2P_BOUNCE 4u

/* Ranges of a source as they are; registered by mci_place_register(). */
int mci_place_source(struct mc_p2p *store, const struct mc_p2p_place *given, struct mci_place *place);
/* Must fit @manifest: -EINVAL names both size lists. */
int mci_place_sink(struct mc_p2p *store, const struct mc_p2p_place *given, const char *name,
		   const struct mci_manifest *manifest, struct mci_place *place);
int mci_place_register(struct mci_place *place, const char *location);
int mci_place_finish(struct mci_place *place); /* a file gets its name */
/* Waits for who still reads. -EIO: somebody did not let go; what is mapped stays so. */
int mci_place_close(struct mci_place *place);
int mci_parts_open(struct mc_p2p *store, uint64_t size, struct mci_parts *parts);
void mci_parts_close(struct mci_parts *parts);
static inline uint8_t *mci_place_at(const struct mci_place *place, struct mci_piece piece)
{
	return (uint8_t *)place->range[piece.range].addr + piece.offset;
}
void mci_sizes_text(const uint64_t *sizes, uint32_t count, char *text, size_t size);

/* ---- store.c: objects ---- */

enum mci_object_state {
	MCI_OBJECT_STARTING, /* its name is taken, no more; not the loop's yet */
	MCI_OBJECT_LIVE,
	MCI_OBJECT_LEAVING, /* serves those who hold slots, then goes */
};

struct mci_piece_list { /* what is to be said to one peer soon */
	uint32_t count, room;
	uint32_t *piece; /* in changes: bit 31 set = ceases */
};

struct mci_blamed {
	struct mc_uuid uuid;
	unsigned int bad;
};
#define MCI_P2P_BAD 2u /* then it is avoided */

struct mci_object {
	TAILQ_ENTRY(mci_object) next;
	struct mc_p2p *store;
	char name[MCI_P2P_NAME_MAX + 1];
	enum mci_object_state state;
	bool seed;	   /* registered here */
	bool known;	   /* the loop may look at @manifest */
	bool whole;	   /* a fetch that got everything */
	_Atomic bool told; /* the member key says so */
	uint64_t number;   /* of the member key */
	uint64_t max_shard_size;
	struct mci_manifest *manifest;
	struct mci_place place;
	char *member_key; /* NULL = not published */
	struct mc_p2p_task *task;

	/* live; loop thread */
	struct mci_swarm *swarm;
	uint8_t *direct; /* of each piece: a read or a check uses its place */
	struct mci_parts parts;
	TAILQ_HEAD(, mci_link) links;
	unsigned int parked; /* reads that are verified in a bounce buffer, while their place is in use */
	bool retry;	     /* waiting reads may have found room */
	TAILQ_HEAD(, mci_member) members;
	uint32_t member_count; /* of @members, those who are not gone */
	unsigned int jobs;     /* of pools, that know this object */
	struct mci_task kick;
	bool kicked;
	struct mci_timer step, say, dial, refresh, guard;
	bool refreshing, refresh_again;
	bool lost;	     /* the metadata service does not answer */
	uint64_t refresh_ns; /* not before */
	bool guarding;
	uint64_t start_ns, end_ns, held, fetched, from_seeds, reused;
	uint32_t bad;
	struct mci_blamed *blamed; /* whose pieces did not match: outlives their connections */
	unsigned int blamed_count;
	char note[256];
	uint64_t leave_ns; /* leaving: readers have until then */
	bool settled;	   /* leaving: nobody holds a slot, nothing is in flight */
	bool gone;	   /* leaving: no link and no job is left; store->lock */
};

struct mci_p2p_hooks {	/* ways to break a rule on purpose, for tests */
	bool forge_map; /* claim to hold every piece */
	bool corrupt;	/* change a byte of each piece after it was verified, and serve that */
	bool no_check;	/* believe every piece that comes */
	uint32_t patience_ms; /* with peers that do not say or give back what they should; 0 = as it is */
};

struct mc_p2p {
	mc_engine *engine;
	struct mc_uuid uuid;
	struct mci_loop *loop;
	struct mci_pool *hashers, *callers, *clerk;
	struct mci_metadata *metadata; /* NULL with P2PHANDSHAKE */
	char *member_prefix;	       /* of all objects */
	uint32_t slots, window, hash_threads;
	char **peers;
	unsigned int peer_count;
	struct mci_p2p_hooks hooks;
	bool classic; /* serve and believe classic records */

	/* loop thread */
	struct mci_watch completions;
	TAILQ_HEAD(, mci_object) objects;
	LIST_HEAD(, mci_link) strangers; /* connections that are not about an object yet */
	unsigned int stranger_count;
	LIST_HEAD(, mci_read) spare;
	uint64_t numbers;
	struct mci_task changed; /* members changed, says the metadata service */
	_Atomic bool changed_posted;

	pthread_mutex_t lock;
	pthread_cond_t
		wake; /* an object settled, or is gone; an incoming connection was decided; a task ended */
	unsigned int accepting;
	LIST_HEAD(, mc_p2p_task) tasks;
	bool closing;

	pthread_mutex_t regions_lock;
	LIST_HEAD(, mci_store_region) regions;

	pthread_mutex_t watch_lock; /* mc_p2p_watch(); a leaf but for the metadata service */
	struct mci_p2p_watcher *watcher;
};

/* Run @fn in the loop; its result, and its sentence, become the caller's. */
int mci_store_call(struct mc_p2p *store, int (*fn)(void *arg), void *arg);
int mci_object_reserve(struct mc_p2p *store, const char *name, bool seed, struct mci_object **object);
int mci_object_live(struct mci_object *object, const uint8_t *held); /* held: a byte per piece; NULL = all */
void mci_object_begin_leave(struct mci_object *object);		     /* loop */
int mci_object_leave(struct mci_object *object); /* any state; waits; frees it; as mci_place_close() */
int mci_object_no_twin(
	struct mci_object *object); /* -EEXIST: this store has the same content under another name */
/* Hash all pieces with the pool. @found NULL: into the manifest; else compare, and say which are there. @task:
 * NULL, or the fetch that it is for: -ECANCELED, -ETIMEDOUT when that is over. */
int mci_object_hash(struct mci_object *object, uint8_t *found, const struct mc_p2p_task *task);
struct mci_object *mci_object_by_root(struct mc_p2p *store, const uint8_t root[MCI_P2P_HASH]); /* living */
struct mci_object *mci_object_by_name(struct mc_p2p *store, const char *name);		       /* any state */
void mci_object_note(struct mci_object *object, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mci_object_check(struct mci_object *object); /* is it settled, is it gone? */
/* "name" or "name@root" */
int mci_object_name(const char *text, char name[MCI_P2P_NAME_MAX + 1], uint8_t root[MCI_P2P_HASH],
		    bool *by_root);

/* ---- fetch.c: what the swarm decides is carried out ---- */

struct mci_arrival {				 /* user of every batch of the store */
	void (*fn)(struct mci_arrival *arrival); /* loop: it is final; the last that the loop does with it */
};

enum mci_read_state { MCI_READ_WAITING, MCI_READ_FLYING, MCI_READ_CHECKING, MCI_READ_PARKED };

struct mci_read {
	struct mci_arrival arrival;
	LIST_ENTRY(mci_read) next; /* of the link, or among the spare */
	struct mci_link *link;
	uint32_t piece;
	enum mci_read_state state;
	int bounce; /* number of the buffer; -1 = straight to the place */
	uint8_t *to;
	uint32_t length;
	mc_batch *batch;
	bool ok, seed;
	bool overdue; /* cancelled while no other had come: its source is too slow */
	struct mci_job check;
};

/* Is it avoided, from an earlier connection? */
bool mci_fetch_avoids(const struct mci_object *object, const struct mc_uuid *uuid);
void mci_fetch_kick(struct mci_object *object); /* the swarm may have something to do */
int mci_fetch_open(struct mci_object *object);
void mci_fetch_close(struct mci_object *object);
void mci_fetch_completions(struct mci_watch *watch, uint32_t events);
void mci_fetch_cancel(struct mci_link *link); /* all reads that it is the source of */
void mci_fetch_progress(struct mci_object *object, struct mc_p2p_progress *progress);

/* ---- link.c: connections to other members ---- */

struct mci_link {
	TAILQ_ENTRY(mci_link) next; /* of the object */
	LIST_ENTRY(mci_link) next_stranger;
	struct mc_p2p *store;
	struct mci_object *object; /* NULL = not known yet */
	struct mci_member *member; /* or NULL */
	struct mci_conn *conn;	   /* NULL = being dialled, or closed */
	struct mci_identity peer;
	bool dialled;
	bool joined; /* both said what this is about */
	bool ending; /* closed or to be closed */
	bool seed;
	struct mci_swarm_peer *swarm;
	mc_segment *segment;
	bool opening;
	uint32_t *region; /* of each range */
	uint64_t *offset;
	LIST_HEAD(, mci_read) reads;
	unsigned int read_count, in_flight; /* of those, that the swarm waits for */
	unsigned int errors;		    /* in a row */
	struct mci_piece_list have, changes;
	struct mci_timer stay; /* it has so long to say what it wants; then, to give back a slot */
	struct mci_payer payer; /* of one that was taken in */

	struct mci_job job;   /* dial, open the segment, close it: one at a time */
	struct mci_task task; /* it arrived; it may go */
	bool posted;
	char name[MCI_NAME_MAX + 1]; /* to be dialled */
	struct mci_sock sock;
	mc_segment *opened;
	int error;
	char why[MCI_P2P_SENTENCE];
};

void mci_link_incoming(void *store, struct mci_incoming *in);
int mci_link_dial(struct mci_object *object, struct mci_member *member);
void mci_link_open_segment(struct mci_link *link);
void mci_link_close(struct mci_link *link, const char *why);
void mci_link_check(struct mci_link *link);				   /* ending: may it go? */
void mci_link_asked_back(struct mci_link *link);			   /* a slot, which it has so long to return */
void mci_link_gave_back(struct mci_link *link);
int mci_link_join(struct mci_link *link, const struct mci_p2p_join *join); /* -EPROTO */

/* ---- say.c ---- */

int mci_link_error(struct mci_link *link, uint32_t id, int error, const char *sentence);
int mci_link_say_join(struct mci_link *link);
void mci_link_say_map(struct mci_link *link);
void mci_link_say_members(struct mci_link *link);
int mci_link_say(struct mci_link *link, enum mci_p2p_type type, uint32_t id, uint8_t *body, uint32_t length);
void mci_link_number(struct mci_link *link, enum mci_p2p_type type, uint32_t number);
void mci_link_have(struct mci_object *object, uint32_t piece); /* tell all */
void mci_link_fetches(struct mci_link *link, uint32_t piece, bool on);
void mci_link_flush(struct mci_timer *timer);

/* ---- message.c: what peers say ---- */

void mci_message(struct mci_link *link, const struct mci_frame *frame);

/* ---- member.c: whom there is, and whom to dial ---- */

struct mci_member {
	TAILQ_ENTRY(mci_member) next;
	char segment[MCI_NAME_MAX + 1];
	struct mc_uuid uuid; /* zero = not known */
	bool seed, whole, fixed /* given by the user */, listed, self;
	struct mci_link *link; /* one that is dialled or joined */
	uint64_t next_ns;
	unsigned int tries;
};

struct mci_member *mci_member_add(struct mci_object *object, const char *segment);
struct mci_member *mci_member_of(struct mci_object *object, const char *segment);
void mci_member_refresh(struct mci_object *object);
void mci_member_dial(struct mci_object *object); /* whoever is worth it now */
void mci_member_later(struct mci_object *object, struct mci_member *member);
void mci_member_free_all(struct mci_object *object);
void mci_member_changed(void *store); /* any thread */
void mci_member_on_changed(struct mci_task *task);

/* ---- directory.c: the metadata service; ask.c: the same without one. All block. ---- */

struct mci_found {
	struct mci_manifest *manifest;
	uint64_t max_shard_size;
};
struct mci_seen { /* a living member */
	char segment[MCI_NAME_MAX + 1];
	char object[MCI_P2P_NAME_MAX + 1];
	char root[2 * MCI_P2P_HASH + 1];
	struct mc_uuid uuid;
	bool seed, whole;
};

int mci_directory_open(struct mc_p2p *store);
void mci_directory_close(struct mc_p2p *store);
/* Record and hashes of what @task is to fetch. -ENOENT, -EKEYREJECTED, -EBADMSG, ... with a sentence. */
int mci_directory_read(const struct mc_p2p_task *task, struct mci_found *found);
int mci_directory_read_layout(struct mc_p2p *store, const char *name, struct mci_found *found,
			      uint64_t *version);
int mci_directory_write(struct mci_object *object, bool force); /* record and hashes */
/* The record again, where it got lost though a member that holds everything lives: the service was restarted.
 */
void mci_directory_restore(struct mci_object *object);
int mci_directory_publish(struct mci_object *object); /* the member key, again when it holds all */
void mci_directory_leave(
	struct mci_object *object); /* withdraw; the last one takes record and hashes along */
/* The record of an object that nobody holds, or by force; -EBUSY names a holder. */
int mci_directory_remove(struct mc_p2p *store, const char *name, bool force);
int mci_directory_members(struct mc_p2p *store, const char *root, /* "" = of all objects */
			  int (*fn)(const struct mci_seen *seen, void *arg), void *arg);
int mci_ask_read(const struct mc_p2p_task *task, struct mci_found *found);

/* ---- task.c: a fetch's thread; get.c: its handle ---- */

struct mc_p2p_task {
	LIST_ENTRY(mc_p2p_task) next;
	struct mc_p2p *store; /* NULL once that is closed; the owner's threads only */
	char name[MCI_P2P_NAME_MAX + 1];
	uint8_t root[MCI_P2P_HASH];
	bool by_root;
	struct mc_p2p_place place;
	struct mc_p2p_range *ranges;
	char *path, *location;
	struct mc_p2p_get_attr attr;
	uint64_t start_ns, deadline_ns;
	pid_t pid; /* whose it is: a child's calls would wait for threads that it does not have */
	bool missing_told;
	struct mci_object *object; /* of the task's thread, while it runs */
	struct mci_object *shown;  /* the same, loop thread: whose progress is to be told */
	pthread_t thread;
	pthread_mutex_t lock; /* below */
	pthread_cond_t changed;
	_Atomic bool cancelled;
	bool complete, finished;
	int result;
	char error[MCI_P2P_SENTENCE];
	struct mc_p2p_progress progress; /* the last one */
};

int mci_task_start(struct mc_p2p_task *task);
int mci_task_over(const struct mc_p2p_task *task); /* any thread: -ECANCELED, -ETIMEDOUT: begin nothing more */
void mci_task_look(struct mc_p2p_task *task);	  /* task->progress becomes that of now */
void mci_task_complete(struct mc_p2p_task *task); /* loop: every piece is verified */
void mci_task_poke(struct mc_p2p_task *task);	  /* loop: something happened */
void mci_task_end_all(struct mc_p2p *store);

/* ---- classic_share.c, classic_fetch.c: the classic store; all block ---- */

struct mci_classic_record;
/* -ENOENT, without a sentence. */
int mci_p2p_classic_read(struct mc_p2p *store, const char *name, struct mci_classic_record **record,
			 uint64_t *version);
void mci_p2p_classic_share(
	struct mci_object *object); /* under classic: into the record, a warning if that fails */
void mci_p2p_classic_unshare(struct mci_object *object);
int mci_p2p_classic_each(struct mc_p2p *store, const char *prefix,
			 int (*fn)(const struct mci_classic_record *record, void *arg), void *arg);
/* Place, bytes and manifest of an object that only a classic record tells of. -ENOENT, without a sentence. */
int mci_p2p_classic_fetch(struct mc_p2p_task *task);

/* ---- watch.c ---- */

void mci_watcher_poke(struct mc_p2p *store); /* any thread */
void mci_watcher_stop(struct mc_p2p *store);

#endif
