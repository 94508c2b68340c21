/* SPDX-License-Identifier: MIT */
/*
 * Initiator half: a peer (queue of requests, session, state), its link (the connections of the present
 * incarnation), and the handles that share it: one per segment that the engine opened.
 * Lock order: stream->tx_lock or tcp->table_lock, then peer->lock. host->complete() is called under none.
 */
#ifndef MCI_TCP_PEER_H
#define MCI_TCP_PEER_H

#include "core/clock.h"
#include "transport/reconnect.h"
#include "transport/tcp/tcp.h"

#define MCI_TCP_GRACE_NS \
	(100 *           \
	 MCI_NS_PER_MS)	   /* for answers to what timed out or was cancelled, before the session is broken */
#define MCI_TCP_OP_FENCE 3 /* beside enum mci_op: an internal request */
#define MCI_TCP_SLICE (1u << 20) /* default; 256 KiB measured about a tenth slower with large blocks */

struct mci_tcp_peer;
struct mci_tcp_link;

/* A piece of a request, as a stream sends it. */
struct mci_tcp_slice {
	struct mci_request *request;
	uint64_t at; /* bytes from the request's start */
	uint32_t length;
};

struct mci_tcp_done { /* a slice that was answered */
	struct mci_request *request;
	uint32_t length;
	int32_t status;
};

struct mci_tcp_slot {	       /* a slice in flight on a stream */
	_Atomic uint64_t id;   /* of the reply that is awaited, 0 = none */
	_Atomic uint32_t ends; /* whoever brings the second of SENT and ANSWERED finishes the slice */
	uint32_t length;
	int32_t status;
	uint8_t type;
	uint8_t *local;
	struct mci_request *request;
};

#define MCI_TCP_DONE_BATCH 64

struct mci_tcp_stream {
	struct mci_watch watch; /* first */
	struct mci_tcp_peer *peer;
	struct mci_tcp_link *link;
	struct mci_loop *loop;
	struct mci_sock sock;
	uint16_t index;
	bool checksum, near; /* near: both ends may share a core */
	uint32_t slots, slice_max; /* as granted */
	struct mci_tcp_slot *slot;

	/* sending: under tx_lock */
	pthread_mutex_t tx_lock;
	bool dead;    /* the socket is closed */
	bool blocked; /* its buffer is full: wait for an edge */
	struct mci_tcp_tx tx;
	uint32_t *free, free_count; /* slots */
	_Atomic uint64_t count;	    /* of slices, for their ids */
	_Atomic bool want_tx, edge;

	/* receiving: loop thread */
	struct mci_tcp_rx rx;
	struct mci_tcp_done done[MCI_TCP_DONE_BATCH];
	unsigned int done_count;
	bool more, hurry;
	uint64_t answered; /* slices */
	_Atomic uint64_t came; /* bytes of theirs since the loop last lingered */

	/* from the receiver to the sender: slots that are free again */
	uint32_t *freed;
	_Atomic uint32_t freed_head, freed_tail;
	_Atomic uint64_t reading; /* bytes asked for and not here yet */

	struct mci_task task, close_task;
	_Atomic bool posted, look;
};

struct mci_tcp_link {
	_Atomic int refs;
	unsigned int count;
	struct mci_tcp_stream *streams[MCI_TCP_STREAMS_MAX];
};

enum mci_tcp_list {
	MCI_TCP_NOWHERE,
	MCI_TCP_HIGH,
	MCI_TCP_LOW,
	MCI_TCP_ORDERED,
	MCI_TCP_FLIGHT,
	MCI_TCP_LISTS
};

enum mci_tcp_peer_state {
	MCI_TCP_DOWN,	    /* no connection; the next submit starts the connector */
	MCI_TCP_CONNECTING, /* the connector thread (or peer_open) is at work */
	MCI_TCP_UP,
	MCI_TCP_CLOSING, /* streams are being closed in their loops */
};

/*
 * What the engine knows as its peer. Its target's restart (another uuid, the same memory) moves it and its requests
 * to another peer, while the other handles of the old one find out by themselves.
 */
struct mci_tcp_handle {
	struct mci_tcp_peer *_Atomic peer; /* changes under the locks of the old one and the new one */
	void *cookie;
	/* under the peer's lock */
	struct mci_tcp_handle *next;
	uint64_t round;	 /* of refreshing, in which its turn was */
	bool refreshing; /* by the connector: do not close it now */
	/* connector: peers that it had before; in use until it is closed, since others may just look at one */
	struct mci_tcp_peer **past;
	unsigned int past_count;
};

struct mci_tcp_peer {
	struct mci_tcp *tcp;
	_Atomic int refs;
	struct mci_loop *loop; /* of the timer */
	uint32_t slice_size;
	unsigned int stream_count; /* wanted */
	struct mc_uuid uuid;	   /* of the target; never changes */
	struct mc_uuid session;
	struct mci_tcp_peer *next; /* tcp->table_lock, and */
	unsigned int users;	   /* handles, present and past */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct mci_tcp_handle *handles;
	uint64_t round; /* of refreshing them */
	enum mci_tcp_peer_state state;
	bool closing;		   /* nobody uses it any more */
	unsigned int closing_left; /* streams */
	struct mci_tcp_link *link; /* while UP or CLOSING */
	unsigned int turn;
	struct {
		struct mci_request *first, *last;
	} list[MCI_TCP_LISTS];	     /* FLIGHT: handed to streams entirely */
	_Atomic unsigned int queued; /* on the others; changes under the lock */
	bool checksum, integrity;    /* as agreed */

	/* time */
	struct mci_timer timer; /* loop thread */
	struct mci_task timer_task;
	bool timer_posted;
	uint64_t timer_at; /* 0 = not armed */
	uint64_t grace_at; /* 0, or when the session is broken for those that ended in flight */

	/* connector */
	unsigned int connectors; /* threads that are not done yet; one at most is at work */
	struct mci_reconnect reconnect;

	/* how to reach it; replaced by whoever made the state CONNECTING */
	struct mci_secret secret;
	char name[MCI_NAME_MAX + 1];
	char **hosts;
	unsigned int host_count;
	uint16_t port;
};

/* A fence waits in the thread that asked for it. */
struct mci_tcp_fence {
	struct mci_request request; /* first */
	bool done;
	int error;
};

/* queue.c; peer->lock is held unless said otherwise */
enum mci_tcp_list mci_tcp_request_list(const struct mci_request *r);
enum mci_tcp_list mci_tcp_request_class(const struct mci_request *r); /* the list it waits on */
enum mc_state mci_tcp_request_end(
	const struct mci_request *r); /* MC_PENDING, or how it will end once no slice is in flight */
void mci_tcp_request_set_end(struct mci_request *r, enum mc_state end, int err); /* the first counts */
void mci_tcp_request_link(struct mci_tcp_peer *peer, struct mci_request *r, enum mci_tcp_list list,
			  bool front);
void mci_tcp_request_unlink(struct mci_tcp_peer *peer, struct mci_request *r);
/* Off the lists, onto the chain of those to complete. */
void mci_tcp_request_finish(struct mci_tcp_peer *peer, struct mci_request *r, struct mci_request **chain);
/* Chains are gathered backwards: requests complete in the order in which their answers came. */
struct mci_request *mci_tcp_chain_reversed(struct mci_request *chain);
/* End all requests that wait (with @handle: its own, to stale regions, and notifies); none is in flight. */
void mci_tcp_peer_fail(struct mci_tcp_peer *peer, int err, const struct mci_tcp_handle *handle,
		       struct mci_request **chain);
bool mci_tcp_peer_pending(const struct mci_tcp_peer *peer);
/* All streams are closed: what was in flight ends (chain), or goes back to where it came from. */
struct mci_request *mci_tcp_peer_take_back(struct mci_tcp_peer *peer);
/* No lock. Takes slices for @stream: at most @max, about @room bytes. Requests that ended here are chained to
 * *ended. */
unsigned int mci_tcp_peer_take(struct mci_tcp_peer *peer, struct mci_tcp_stream *stream,
			       struct mci_tcp_slice *slices, unsigned int max, uint64_t room,
			       struct mci_request **ended);
/* Slices of @link were answered. Call without locks. True: there is more to send. */
bool mci_tcp_peer_done(struct mci_tcp_peer *peer, struct mci_tcp_link *link, const struct mci_tcp_done *done,
		       unsigned int count);
void mci_tcp_peer_complete(struct mci_tcp_peer *peer, struct mci_request *chain); /* without locks */

/* peers.c */
/* The peer for a target, made if there is none; takes a use of it. */
int mci_tcp_peer_use(struct mci_tcp *tcp, const struct mci_peer_info *info, struct mci_tcp_peer **peer);
void mci_tcp_peer_unuse(struct mci_tcp_peer *peer); /* the last ends it; may block */
struct mci_tcp_peer *mci_tcp_handle_lock(struct mci_tcp_handle *handle); /* its peer, locked */
void mci_tcp_handle_attach(struct mci_tcp_handle *handle, struct mci_tcp_peer *peer);
void mci_tcp_handle_detach(struct mci_tcp_handle *handle, struct mci_tcp_peer *peer);
/* With its requests; connector of @from, no locks. */
void mci_tcp_handle_move(struct mci_tcp_handle *handle, struct mci_tcp_peer *from, struct mci_tcp_peer *to);

/* peer.c */
int mci_tcp_peer_new(struct mci_tcp *tcp, const struct mci_peer_info *info, struct mci_tcp_peer **peer);
void mci_tcp_peer_end(struct mci_tcp_peer *peer); /* no handle uses it */
/* Locked on entry, not on return: requests were queued, @soonest is their first deadline: send them. @chain ended. */
void mci_tcp_peer_go(struct mci_tcp_peer *peer, uint64_t soonest, uint64_t bytes, struct mci_request *chain);
/* Something is wrong with @link: close all its streams; what was in flight is sent anew or ends. Any thread,
 * no locks. */
void mci_tcp_peer_break(struct mci_tcp_peer *peer, struct mci_tcp_link *link, int err, const char *why);
void mci_tcp_peer_stream_closed(struct mci_tcp_peer *peer); /* loop thread */
void mci_tcp_peer_put(struct mci_tcp_peer *peer);

/* link.c */
int mci_tcp_stream_new(struct mci_tcp_peer *peer, struct mci_tcp_link *link, struct mci_sock sock,
		       const struct mci_hello *hello);
void mci_tcp_link_get(struct mci_tcp_link *link);
void mci_tcp_link_put(struct mci_tcp_link *link);
void mci_tcp_stream_pump(struct mci_tcp_stream *s, uint64_t budget);
void mci_tcp_stream_post(struct mci_tcp_stream *s);   /* let its loop pump; any thread */
void mci_tcp_stream_look(struct mci_tcp_stream *s);   /* as if there had been an event; any thread */
int mci_tcp_link_watch(struct mci_tcp_link *link);    /* all or none */
void mci_tcp_link_discard(struct mci_tcp_link *link); /* never used: close and put */

/* connect.c */
/* Up, or brought up now. */
int mci_tcp_peer_ready(struct mci_tcp_peer *peer, const struct mci_peer_info *info, uint64_t deadline_ns);
int mci_tcp_peer_connect(struct mci_tcp_peer *peer, uint64_t deadline_ns); /* state is CONNECTING, no locks */
int mci_tcp_peer_set_info(struct mci_tcp_peer *peer, const struct mci_peer_info *info);
void mci_tcp_connector_start(struct mci_tcp_peer *peer,
			     struct mci_request **failed); /* locked, state is DOWN */

#endif
