/* SPDX-License-Identifier: MIT */
/*
 * The seam between the engine and the transports. The engine checks, queues and reports; a transport
 * moves bytes and decides nothing about names, retries across peers or restarts.
 *
 * A request belongs to the transport from submit() until the transport calls host->complete() on it,
 * exactly once. Completing means (contracts B2): the library does not touch the local memory any more,
 * and any later write by this engine to that peer lands after it.
 */
#ifndef MCI_TRANSPORT_H
#define MCI_TRANSPORT_H

#include <jansson.h>

#include "net/auth.h"
#include "net/loop.h"
#include "net/service.h"
#include "transport/region.h"

enum mci_transport_id {
	MCI_TRANSPORT_TCP,
	MCI_TRANSPORT_SHM,
	MCI_TRANSPORT_CLASSIC,
	MCI_TRANSPORT_RDMA,
	MCI_TRANSPORT_RDMA_CLASSIC,
	MCI_TRANSPORT_COUNT
};

struct mci_transport; /* one per engine and kind; first member of a transport's own struct is free */
struct mci_peer;      /* a transport's way to one remote segment */

/* A region of a remote segment, owned by the engine's segment handle, stable until peer_close(). */
struct mci_remote_region {
	/* The engine rewrites these four after a restart that kept the content, inside the host->refresh() of the
	 * peer that serves the region, and of no other: it must not encode requests then. */
	_Atomic uint32_t id, generation;
	_Atomic uint32_t rights;
	_Atomic uint64_t base; /* owner's address, 0 = hidden */
	uint64_t length;
	struct mc_uuid content_id;
	_Atomic bool stale; /* complete requests to it with -ESTALE, do not send them */
	char location[MCI_LOCATION_MAX];
	json_t *json; /* this region's object in the descriptor, for transport members */
};

/* MCI_OP_FLUSH: final once all that was written before is in the destination memory for every reader; only for
 * transports with ops->flushes. No memory, no region. */
enum mci_op { MCI_OP_READ = 0, MCI_OP_WRITE = 1, MCI_OP_NOTIFY = 2, MCI_OP_FLUSH = 4 };

/* MCI_OP_NOTIFY: @local/@length hold an encoded notify (mci_notify_encode), @remote is NULL. */
struct mci_request {
	/* the engine's, read-only for transports */
	uint8_t op;
	int8_t priority;
	struct mci_remote_region *remote;
	uint64_t offset; /* in the remote region; already checked against its length */
	uint8_t *local;	 /* inside a registered region, kept alive by the engine */
	struct mci_region *region; /* that one */
	uint64_t length; /* > 0 */
	uint64_t deadline_ns;
	_Atomic bool cancelled; /* set before ops->cancel(), some time before: hand out no more of it */
	void *owner;		/* engine's */
	/* the transport's, zeroed at submit */
	struct mci_request *next, *prev;
	uint64_t cursor; /* e.g. bytes handed to streams so far */
	uint64_t done_bytes;
	uint32_t outstanding; /* e.g. slices in flight */
	uint32_t state;
	uint64_t tag;
	struct mci_peer *peer;
};

struct mci_peer_info { /* how to reach a remote segment; valid during the call only */
	const char *name;
	struct mc_uuid uuid;
	uint64_t generation;
	const char *const *addresses; /* hosts, in order of preference */
	unsigned int address_count;
	uint16_t port;		  /* rpc port */
	struct mci_secret secret; /* to prove ourselves there */
	const json_t *descriptor; /* whole, as read */
	const json_t *transport;  /* mooncake_c.transports.<name> of it, or NULL */
	const char *rails;	  /* "own:peer,...": pairs of NICs to use, NULL = all */
	bool try_rails;		  /* open, and try every pair of NICs, even if none gets through */
};

struct mci_rdma_options {
	const char *devices; /* comma list of NICs; NULL or "" = all with an active port */
	bool devices_by_matrix; /* they are those that the matrix or a filter names: one that is missing is left out */
	const char *matrix;  /* JSON text of a priority matrix, or NULL: by topology */
	int gid_index;	     /* -1 = automatic */
	uint32_t port, pkey_index, mtu; /* mtu: bytes, 0 = the port's */
	int traffic_class;		/* -1 = the NIC's default */
	uint32_t service_level;
	uint32_t endpoints_max, qps;
	uint32_t timeout; /* 4.096 us * 2^timeout until a packet is sent again */
};

struct mci_transport_options {
	uint32_t streams;    /* TCP connections per peer, 0 = automatic */
	uint32_t slice_size; /* 0 = automatic */
	bool classic, require_ack, integrity, checksum;
	bool no_module; /* do without the kernel module */
	const char *source;	      /* local address to connect from, or NULL */
	uint32_t connect_timeout_ms;  /* 3000 */
	uint16_t port_low, port_high; /* for further listeners */
	const char *bind;
	struct mci_rdma_options rdma;
};

struct mci_transport_stats {
	_Atomic uint64_t served_reads, served_writes, served_bytes_read, served_bytes_written;
	_Atomic uint64_t refused, reconnects, resent, allocs, unconfirmed;
};

/* What the engine gives to every transport; outlives it. */
struct mci_transport_host {
	void *engine;
	const struct mci_identity *self;
	struct mci_secret secret; /* of our own segment */
	struct mci_region_table *regions;
	struct mci_loops *loops;
	struct mci_transport_options options;
	struct mci_transport_stats stats;
	struct mci_ledger *ledger; /* of what serving connections hold; NULL = no bounds; outlives the loops */
	/* A request is final. Any thread, no transport lock held that submit() takes. Must not be slow; does
	 * not block. */
	void (*complete)(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
			 uint32_t flags);
	/*
	 * After a lost connection that could not be re-opened, or a peer that answered -ESTALE to the hello:
	 * read the descriptor anew. @cookie is what peer_open() got. Calls @use with the new info (same or
	 * compatible segment; the regions that this peer serves updated) and returns its result, or returns
	 * -ESTALE (restarted: other memory; every remote region is marked stale), -EINPROGRESS (restarted a moment
	 * ago, its memory may be on the way: let requests wait and try again), or -errno (not known now; try again
	 * later). @use may answer -ESTALE: it cannot follow, ever. May block up to @deadline_ns: not from a loop
	 * thread.
	 */
	int (*refresh)(void *engine, void *cookie, uint64_t deadline_ns,
		       int (*use)(void *arg, const struct mci_peer_info *info), void *arg);
	/* A notify for us arrived (loop thread; @p only during the call). 0: taken; else -ENOBUFS (nobody
	 * fetches them), -EBADMSG: the sender's request fails with that status. */
	int (*notify)(void *engine, const struct mc_uuid *sender, uint64_t sequence, const void *p,
		      uint32_t length);
	/* A transport has more to describe than when the descriptor was published. Blocks; not in open(). */
	int (*publish)(void *engine);
	/* The descriptor that @name leads to, a new reference. Blocks up to @deadline_ns: not from a loop. */
	int (*lookup)(void *engine, const char *name, uint64_t deadline_ns, json_t **descriptor);
};

struct mci_transport_ops {
	enum mci_transport_id id;
	const char *name; /* "tcp", "shm", "tcp-classic", "rdma", "rdma-classic" */
	bool classic;	  /* for peers that know no member of ours, or where it is asked for by name */
	bool flushes;	  /* a notify needs a MCI_OP_FLUSH before it */
	/* -EOPNOTSUPP with a sentence: this machine cannot. */
	int (*open)(struct mci_transport_host *host, struct mci_transport **transport);
	/* All peers are closed before. */
	void (*close)(struct mci_transport *transport);
	/* Add what peers need to @mine (object, becomes mooncake_c.transports.<name>); NULL = nothing. */
	int (*describe)(struct mci_transport *transport, json_t *mine);
	/* Regions come and go; add may extend @json (region's object in the descriptor). May be NULL. */
	int (*region_add)(struct mci_transport *transport, struct mci_region *region, json_t *json);
	/* Called when the region is dying, before the engine waits for its users: hurry them, fence mappings.
	 * Returns 0, or -EBUSY if remote users were still inside at @deadline_ns. May be NULL. */
	int (*region_remove)(struct mci_transport *transport, struct mci_region *region,
			     uint64_t deadline_ns);
	/* A connection for us (role DATA for tcp, SHM for shm). Accept or reject it. May be NULL. */
	void (*incoming)(struct mci_transport *transport, struct mci_incoming *in);
	/*
	 * Serving classic peers, under --classic only; all NULL but in one transport. classic_describe(): add to @root
	 * what the descriptor says outside of our member; -EOPNOTSUPP: nothing. classic_buffers(): append
	 * one object or more for a region flagged classic. classic_connection(): see struct mci_service_attr.
	 */
	int (*classic_describe)(struct mci_transport *transport, json_t *root);
	int (*classic_buffers)(struct mci_transport *transport, struct mci_region *region, json_t *buffers);
	void (*classic_connection)(struct mci_transport *transport, struct mci_incoming *in, const char *json,
				   size_t length);

	/*
	 * Open a way to a peer. May block until @deadline_ns. -EOPNOTSUPP: not for this peer (the engine
	 * tries the next transport). @regions: array of @count, stable until peer_close().
	 */
	int (*peer_open)(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
			 struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
			 struct mci_peer **peer);
	/* Nothing is in flight. */
	void (*peer_close)(struct mci_peer *peer);
	/* Takes a list of requests chained by ->next, in order. Never fails: each is completed in the end,
	 * at the latest 1 s after its deadline. No allocation once warm. */
	void (*submit)(struct mci_peer *peer, struct mci_request *first);
	/* request->cancelled was set: make it final soon. May race with completion: harmless then. The engine tells
	 * its owner MC_DONE or MC_CANCELLED, whatever the transport says. */
	void (*cancel)(struct mci_peer *peer, struct mci_request *request);
	/* A thread is about to sleep for completions of requests on this peer: work for it instead, as
	 * long as there is something to do. Returns true if it did something. May be NULL. */
	bool (*help)(struct mci_peer *peer);
	/* Everything a failed or timed-out write may still do has happened or never will. May be NULL:
	 * already so. */
	int (*fence)(struct mci_peer *peer, uint64_t deadline_ns);
	/* Can this peer reach that region? 0, or -EOPNOTSUPP: the engine uses the next transport for it. May
	 * be NULL. */
	int (*region_usable)(struct mci_peer *peer, struct mci_remote_region *region);
	/* Text such as "4 streams"; into the caller's buffer. */
	void (*detail)(struct mci_peer *peer, const struct mci_remote_region *region, char *text,
		       size_t size);
	/* NICs in use as a JSON array, see mc_engine_nics(). May be NULL. */
	json_t *(*nics)(struct mci_transport *transport);
	/* Pairs of NICs as a JSON array, see mc_engine_paths(). May be NULL. */
	json_t *(*rails)(struct mci_peer *peer);
	/* Read-only mapping; shm only. */
	int (*map)(struct mci_peer *peer, struct mci_remote_region *region, uint64_t offset, uint64_t length,
		   const void **addr, void **view);
	void (*unmap)(void *view);
};

extern const struct mci_transport_ops mci_transport_tcp, mci_transport_shm, mci_transport_classic,
	mci_transport_rdma, mci_transport_rdma_classic;

/* Notify body: u16 name length, name, u32 message length, message. -EINVAL for a malformed one. */
struct mci_notify_body {
	const char *name;
	uint16_t name_length;
	const void *message;
	uint32_t message_length;
};
int mci_notify_decode(const void *p, size_t n, struct mci_notify_body *body);

#endif
