/* SPDX-License-Identifier: MIT */
/*
 * Inside of the shared memory transport.
 *
 *   serve.c   target: connections; grant.c: what they may be given
 *   fence.c   target: table of regions, and the fence of region_remove()
 *   link.c    initiator: one connection; setup.c: its opening; map.c: what it maps
 *   peer.c    initiator: ops on a peer: submit, cancel, help, close, loss
 *   work.c    initiator: claiming and finishing of requests; move.c: the copying
 *   pool.c    threads: workers for requests that nobody helps, the mender of lost peers
 *   view.c    zero-copy views
 *
 * Lock order: peer->lock, then pool->lock. The target's serve->lock is apart from both. host->complete()
 * and host->refresh() are called under none of them.
 */
#ifndef MCI_SHM_H
#define MCI_SHM_H

#include <pthread.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "kdev/kdev.h"
#include "net/conn.h"
#include "transport/shm/control.h"
#include "transport/transport.h"

/* A copy larger than the first is cut into parts of that size up to the second: cancel and deadline are seen
 * in between. */
#define MCI_SHM_CHUNK (512u << 10)
#define MCI_SHM_CHUNK_MAX (2u << 20)
#define MCI_SHM_INLINE (64u << 10) /* submits up to this are copied before submit() returns */
#define MCI_SHM_SHARE (1u << 20)   /* bytes queued per thread that is woken to help */
#define MCI_SHM_UNIT (64u << 10)   /* pages are made present for writing in these */
#define MCI_SHM_PAGE 4096u
#define MCI_SHM_LOT 64 /* small requests that one thread takes at a time */
#define MCI_SHM_WORKERS 4
#define MCI_SHM_VIEWS 1024	 /* per peer */
#define MCI_SHM_CONNECTIONS 1024 /* served by one target */

/* Ways to break a rule on purpose, for the tests that prove that it is needed. */
struct mci_shm_hooks {
	bool no_fence;		   /* target: region_remove() does not wait for those inside */
	bool no_revoke;		   /* target: region_remove() leaves mappings of the module's memory alive */
	bool no_liveness;	   /* initiator: nobody looks whether the target still lives */
	bool no_helpers;	   /* initiator: workers and further threads are never woken early */
	void (*inside)(void *arg); /* initiator: has entered a region, is about to copy */
	void *arg;
};

struct mci_shm_serve;
struct mci_shm_pool;

struct mci_transport {
	struct mci_transport_host *host;
	struct mci_shm_serve *serve;
	struct mci_shm_pool *pool;
	struct mci_shm_hooks hooks;
	char boot_id[40];
	struct mci_kdev *kdev; /* initiator: our context, for which keys are made out; NULL: no module */
	struct mc_uuid context_id;
};

/* serve.c */
int mci_shm_serve_open(struct mci_transport *transport, struct mci_shm_serve **serve);
void mci_shm_serve_close(struct mci_shm_serve *serve);
int mci_shm_serve_add(struct mci_shm_serve *serve, const struct mci_region *region);
int mci_shm_serve_remove(struct mci_shm_serve *serve, const struct mci_region *region, uint64_t deadline_ns);
void mci_shm_serve_incoming(struct mci_shm_serve *serve, struct mci_incoming *in);
/* The unix socket that the service of a segment listens on. */
void mci_shm_socket_name(const struct mc_uuid *uuid, char name[64]);

/* grant.c: may a peer have a descriptor of the file behind a region? */
struct mci_shm_file {
	bool there;  /* a file that can be mapped */
	bool whole;  /* the region is all of it */
	bool sealed; /* no new writable mapping, by anybody */
	bool shut;   /* users other than its owner cannot open it */
	bool fixed;  /* cannot shrink */
};
uint64_t mci_shm_file_page(int fd, const struct stat *st); /* what its size is a multiple of */
void mci_shm_file_look(int fd, uint64_t offset, uint64_t length, struct mci_shm_file *file);
bool mci_shm_file_grantable(struct mci_shm_file *file, int fd, uint32_t rights, bool trusted);
/* A descriptor of its own for the peer, read-only if it may not write; or -errno. */
int mci_shm_file_open(int fd, uint32_t rights);

/* Initiator */

struct mci_shm_queue {
	struct mci_request *first, *last;
};

enum { MCI_SHM_MAP_IDLE, MCI_SHM_MAP_ASKED, MCI_SHM_MAP_READY, MCI_SHM_MAP_UNUSABLE };

/* What this initiator knows of one remote region; peer->lock. */
struct mci_shm_map {
	uint8_t state, mode, rights;
	uint32_t slot;
	uint64_t stamp;
	uint64_t address;    /* VM: of the region in the owner */
	uint8_t *base;	     /* MEMFD, MODULE: the region here, writable if granted */
	const uint8_t *view; /* MEMFD, MODULE: the region here, read-only */
	bool revocable;	     /* MODULE: its owner can take it away at any time */
	bool guarded;	     /* and is not trusted not to: only the kernel may touch it */
	void *mapped[2];     /* what to unmap */
	size_t mapped_length;
	_Atomic uint8_t *touched;     /* by unit: its pages were made present for writing */
	unsigned int users;	      /* requests and views inside */
	int error;		      /* of the last answer */
	uint32_t answers;	      /* counts them */
	struct mci_shm_queue waiting; /* requests for the answer to an ASK */
};

/* One connection to a target. Dies with it; what it maps lives until nobody uses it. */
struct mci_shm_link {
	struct mci_peer *peer;
	const struct mci_shm_table *table;
	struct mci_shm_use *use;
	struct mci_loop *loop;
	struct mci_conn *conn; /* loop thread; changed under peer->lock */
	struct mci_task ask;   /* loop thread: send what maps are ASKED for */
	int fd;		       /* our own descriptor of the connection: open as long as anybody is inside */
	int pidfd;
	pid_t pid;
	uid_t uid;
	bool probed;   /* process_vm_* works */
	bool attaches; /* the target knows our context of the module */
	_Atomic bool dead;
	bool ask_posted, started;
	uint32_t refs;		  /* requests and views inside, the connection, peer->link */
	uint32_t inside;	  /* requests inside */
	struct mci_shm_map *maps; /* by index in peer->regions */
	uint8_t *asked;		  /* by index: in need of a question */
};

struct mci_peer {
	struct mci_transport *transport;
	struct mci_transport_host *host;
	void *cookie;
	struct mci_remote_region *regions;
	unsigned int count;
	struct mci_loop *loop;

	pthread_mutex_t lock;
	pthread_cond_t changed;	       /* an answer came, a link drained, mending ended */
	struct mci_shm_link *link;     /* NULL: lost */
	int lost;		       /* what requests get while there is no link */
	unsigned int old_inside;       /* requests inside of lost links */
	unsigned int links;	       /* that are not freed yet */
	struct mci_shm_queue queue[2]; /* 0: priority > 0 */
	struct mci_shm_queue parked;   /* came while the link was lost: wait for the mender's verdict */
	_Atomic uint32_t queued;       /* requests in queue[] */
	uint64_t queued_bytes;
	uint32_t waiting; /* requests in maps[].waiting */
	uint32_t active;  /* threads that copy */
	uint32_t claims, submits;
	_Atomic unsigned int eager; /* submits that wake a worker at once: callers do not help */
	unsigned int views;
	bool closing;
	bool mending;	   /* a verdict will come */
	uint64_t attempts; /* of the mender, begun */
	uint64_t mend_deadline_ns;

	/* loop thread, but ticking: peer->lock */
	struct mci_task tick_task;
	struct mci_timer tick;
	bool ticking;
	unsigned int tick_ms;
	uint64_t expire_at_ns;
	uint32_t seen_claims, seen_submits;

	/* pool.c: pool->lock */
	struct mci_peer *pool_next, *mend_next;
	unsigned int workers;
	bool being_mended, mend_queued, leaving;
	uint64_t mend_at_ns, mend_pause_ns;
};

/* Final verdicts that wait to be told, outside of all locks. */
struct mci_shm_finals {
	struct mci_request *first, **last;
};
static inline void mci_shm_finals_init(struct mci_shm_finals *finals)
{
	finals->first = NULL;
	finals->last = &finals->first;
}
void mci_shm_finals_push(struct mci_shm_finals *finals, struct mci_request *r, enum mc_state state,
			 int error);
void mci_shm_finals_tell(struct mci_peer *peer, struct mci_shm_finals *finals);

static inline struct mci_shm_map *mci_shm_map_of(struct mci_shm_link *link, const struct mci_request *r)
{
	return &link->maps[r->remote - link->peer->regions];
}

/* A descriptor that tells the end of a process; -1: the kernel has none, or the process is not visible here.
 */
int mci_shm_pidfd(pid_t pid);
/* Could a peer with this user do to us, or read of us, what it likes anyway? */
bool mci_shm_same_user(uid_t uid);

/* link.c: all under peer->lock but for open, close and free */
int mci_shm_link_open(struct mci_peer *peer, const struct mci_peer_info *info, uint64_t deadline_ns,
		      struct mci_shm_link **link);
void mci_shm_link_ask(struct mci_shm_link *link, unsigned int index);
void mci_shm_link_close(struct mci_shm_link *link); /* soon, by the loop thread */
void mci_shm_link_put(struct mci_shm_link *link);   /* frees it with the last reference */

/* setup.c: the blocking part of opening */
int mci_shm_setup(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns);
/* map.c: peer->lock held, or nobody else there yet */
void mci_shm_map_drop(struct mci_shm_map *map); /* unmap, if nobody is inside */
/* A peer of our user could as well kill us: only others must prove that the file cannot shrink under us. */
bool mci_shm_safe_to_map(const struct mci_shm_link *link, int fd);
/* Copy within this process by the kernel: memory that is not there any more is -EFAULT instead of SIGBUS. */
int mci_shm_copy_guarded(bool write, void *mapped, void *local, uint64_t length);
int mci_shm_map_take(struct mci_shm_link *link, unsigned int index, const struct mci_shm_grant *grant,
		     int fd);

/* request->tag: slot and stamp that it entered. */
static inline uint64_t mci_shm_tag(const struct mci_shm_map *map)
{
	return (uint64_t)map->slot << MCI_SHM_STAMP_BITS | map->stamp;
}
static inline uint32_t mci_shm_tag_slot(uint64_t t) { return (uint32_t)(t >> MCI_SHM_STAMP_BITS); }
static inline uint64_t mci_shm_tag_stamp(uint64_t t) { return t & ((1ull << MCI_SHM_STAMP_BITS) - 1); }

/* What one thread does at a time: several whole requests, or a part of one. */
struct mci_shm_lot {
	struct mci_shm_link *link;
	unsigned int count;
	struct mci_request *item[MCI_SHM_LOT];
	struct mci_shm_map *map[MCI_SHM_LOT];
	int error[MCI_SHM_LOT];
	uint64_t bytes;
	bool part;
	uint64_t offset, length; /* of the part */
};

/* move.c: no lock held */
void mci_shm_move(struct mci_shm_lot *lot);
/* Was the target alive just now? */
bool mci_shm_link_lives(struct mci_shm_link *link);

/* work.c */
enum { MCI_SHM_QUEUED = 1, MCI_SHM_WAITING = 2, MCI_SHM_INSIDE = 4, MCI_SHM_PARKED = 8 };
void mci_shm_queue_add(struct mci_shm_queue *queue, struct mci_request *r);
void mci_shm_queue_del(struct mci_shm_queue *queue, struct mci_request *r);
/* Take one lot or one chunk from the peer's queues, or from @own (requests that are in no queue), and do it.
 * Returns false if there was nothing to do. */
bool mci_shm_work(struct mci_peer *peer, struct mci_shm_queue *own);
/* Take @r off its queue with a verdict; the last thread inside tells it. Lock held. */
void mci_shm_end(struct mci_peer *peer, struct mci_request *r, enum mc_state state, int error,
		 struct mci_shm_finals *finals);
/* Off its queue, and onto @left unless somebody copies for it. Lock held. */
void mci_shm_take_off(struct mci_peer *peer, struct mci_request *r, struct mci_shm_queue *left);

/* peer.c */
void mci_shm_peer_closed(struct mci_shm_link *link); /* loop thread */
void mci_shm_peer_detach(struct mci_peer *peer, struct mci_shm_link *link,
			 struct mci_shm_finals *finals); /* lock held */
/* @r, which nobody copies, has to begin anew: on another connection, if there will be one. Lock held. */
void mci_shm_peer_again(struct mci_peer *peer, struct mci_request *r, struct mci_shm_finals *finals);
int mci_shm_peer_use(void *peer, const struct mci_peer_info *info);    /* for host->refresh() */
void mci_shm_peer_mended(struct mci_peer *peer, int ret);	       /* the verdict on what is lost */
void mci_shm_peer_queue(struct mci_peer *peer, struct mci_request *r); /* lock held */
void mci_shm_peer_tick(struct mci_peer *peer); /* lock held: something waits, keep an eye on it */
void mci_shm_peer_wake(struct mci_peer *peer); /* lock held: queued work that nobody waits for */

int mci_shm_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
		      struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
		      struct mci_peer **peer);
void mci_shm_peer_close(struct mci_peer *peer);
void mci_shm_peer_submit(struct mci_peer *peer, struct mci_request *first);
void mci_shm_peer_cancel(struct mci_peer *peer, struct mci_request *r);
bool mci_shm_peer_help(struct mci_peer *peer);
int mci_shm_peer_usable(struct mci_peer *peer, struct mci_remote_region *region);
void mci_shm_peer_detail(struct mci_peer *peer, const struct mci_remote_region *region, char *text,
			 size_t size);

/* pool.c */
int mci_shm_pool_open(struct mci_transport *transport, struct mci_shm_pool **pool);
void mci_shm_pool_close(struct mci_shm_pool *pool);
void mci_shm_pool_join(struct mci_shm_pool *pool, struct mci_peer *peer);
void mci_shm_pool_leave(struct mci_shm_pool *pool, struct mci_peer *peer); /* waits for those at work on it */
void mci_shm_pool_wake(struct mci_shm_pool *pool, unsigned int threads);
unsigned int mci_shm_pool_idle_cores(struct mci_shm_pool *pool);
bool mci_shm_pool_mend(struct mci_shm_pool *pool, struct mci_peer *peer); /* true: a verdict will come */

/* view.c */
int mci_shm_view_map(struct mci_peer *peer, struct mci_remote_region *region, uint64_t offset,
		     uint64_t length, const void **addr, void **view);
void mci_shm_view_unmap(void *view);

#endif
