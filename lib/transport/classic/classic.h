/* SPDX-License-Identifier: MIT */
/*
 * Client side of the classic data protocol. A peer lives on one loop: its queue, its lanes (connections,
 * one request at a time each) and its notifies belong to that loop's thread; other threads reach them
 * through peer->incoming. Blocking work (reading the descriptor anew, connecting by name) is done by
 * the helper thread of the transport.
 * Lock order: peer->lock > loop's own; helper lock is a leaf. None is held when the engine is called.
 */
#ifndef MCI_CLASSIC_H
#define MCI_CLASSIC_H

#include <pthread.h>

#include "net/sock.h"
#include "transport/classic/server.h"
#include "transport/classic_message.h"

#define CLASSIC_LANES_MAX 16
#define CLASSIC_LANES 4
#define CLASSIC_REPLY_MAX 4096 /* reply to a notify */

struct classic_peer;

struct classic_address {
	struct sockaddr_storage sa;
	socklen_t length;
};

struct classic_queue {
	struct mci_request *first, *last;
};

enum lane_state {
	LANE_CLOSED,
	LANE_CONNECTING,
	LANE_OPEN,   /* idle without a request, else busy */
	LANE_LINGER, /* v1 write is sent: waiting for the server to close, which it does behind the last byte
		      */
};

struct classic_lane {
	struct mci_watch watch; /* first */
	struct mci_task task;	/* go on after a turn's worth of bytes */
	struct mci_timer timer;
	struct classic_peer *peer;
	struct mci_sock sock;
	enum lane_state state;
	bool posted, readable, writable;
	bool used; /* served a request before: may have gone stale while idle */
	struct mci_request *request;
	struct mci_classic_request header;
	uint8_t header_bytes[MCI_CLASSIC_HEADER], status[MCI_CLASSIC_STATUS];
	uint64_t sent, received; /* header and payload; status and payload */
	int send_error;		 /* sending broke: what was received before says more about why */
};

struct classic_notify {
	struct mci_watch watch; /* first */
	struct mci_timer timer;
	struct mci_sock sock;
	struct mci_request *request; /* the one under way */
	bool connected;
	uint8_t *frame;
	size_t frame_length, sent, received;
	uint8_t reply[CLASSIC_REPLY_MAX + 1];
};

struct classic_peer {
	struct classic *classic;
	struct mci_loop *loop;
	void *cookie;
	char *name;
	struct mci_remote_region *regions;
	unsigned int region_count;
	bool v2, no_notify;
	uint16_t data_port, rpc_port;

	pthread_mutex_t lock;
	struct classic_queue incoming;
	bool wake_posted, sweep_asked;

	/* loop thread */
	struct mci_task wake;
	struct mci_timer sweep;
	uint64_t swept_ns;
	struct classic_queue urgent, pending, notifies;
	struct classic_lane lanes[CLASSIC_LANES_MAX];
	unsigned int lane_count;
	struct classic_notify notify;
	struct classic_address target, source; /* source.length 0 = any */
	bool stale, refreshing, dispatching;
	int lost_error;	       /* why the connection could not be opened */
	uint64_t refreshed_ns; /* when a refresh last failed */

	/* written by the helper between being queued and posting refreshed; then the loop's again */
	struct mci_task refreshed;
	struct classic_peer *helper_next;
	int refresh_result;
	int fresh_fd;
	struct classic_address fresh_target;
	char **hosts;
	unsigned int host_count;

	_Atomic bool unsettled; /* a write ended without an answer since the peer was opened */
};

struct classic { /* the transport */
	struct mci_transport_host *host;
	struct classic_server *server; /* NULL unless under --classic */
	pthread_mutex_t lock;	       /* helper's */
	pthread_cond_t changed;
	struct classic_peer *queue, *busy;
	bool helper_runs, stopping;
	pthread_t helper;
};

static inline void mci_classic_push(struct classic_queue *queue, struct mci_request *request)
{
	request->next = NULL;
	if (queue->last)
		queue->last->next = request;
	else
		queue->first = request;
	queue->last = request;
}

static inline void mci_classic_push_front(struct classic_queue *queue, struct mci_request *request)
{
	request->next = queue->first;
	queue->first = request;
	if (!queue->last)
		queue->last = request;
}

static inline struct mci_request *mci_classic_pop(struct classic_queue *queue)
{
	struct mci_request *request = queue->first;

	if (request) {
		queue->first = request->next;
		if (!queue->first)
			queue->last = NULL;
		request->next = NULL;
	}
	return request;
}

static inline void mci_classic_count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* peer.c: loop thread unless said otherwise */
int mci_classic_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
			  struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
			  struct mci_peer **peer);  /* any thread */
void mci_classic_peer_close(struct mci_peer *peer); /* any thread but a loop's */
void mci_classic_finish(struct classic_peer *peer, struct mci_request *request, enum mc_state state,
			int error, uint32_t flags);   /* the request is the engine's again */
void mci_classic_dispatch(struct classic_peer *peer); /* give waiting requests to idle lanes */
/* @request (may be NULL) could not be sent: no connection. It waits for a refresh, or fails. */
void mci_classic_lost(struct classic_peer *peer, struct mci_request *request, int error);
/* The state a request is in without anybody's doing: MC_PENDING, or timed out, or cancelled, or failed
 * (stale). */
enum mc_state mci_classic_verdict(const struct classic_peer *peer, const struct mci_request *request,
				  int *error);
int mci_classic_dial(const struct classic_peer *peer, uint16_t port,
		     int *fd);	 /* starts a non-blocking connect */
int mci_classic_dialled(int fd); /* what became of it */
void mci_classic_refreshed(struct mci_task *task);

/* refresh.c */
void mci_classic_refresh(struct classic_peer *peer);	    /* queue it for the helper */
void mci_classic_refresh_forget(struct classic_peer *peer); /* any thread: waits until the helper is off it */
int mci_classic_helper_start(struct classic *classic);	    /* any thread; at once if it runs */
void mci_classic_helper_stop(struct classic *classic);
int mci_classic_endpoint(const struct mci_peer_info *info, uint16_t *port, uint32_t *version, bool *rpc);
int mci_classic_connect(struct classic_peer *peer, const struct mci_peer_info *info, uint64_t deadline_ns,
			int *fd, struct classic_address *target);

/* lane.c: loop thread */
void mci_classic_lane_init(struct classic_lane *lane, struct classic_peer *peer);
bool mci_classic_lane_idle(const struct classic_lane *lane, bool connected);
void mci_classic_lane_begin(struct classic_lane *lane, struct mci_request *request);
void mci_classic_lane_adopt(struct classic_lane *lane, int fd); /* a connected socket */
void mci_classic_lane_close(struct classic_lane *lane, bool reset);
void mci_classic_lane_check(struct classic_lane *lane); /* cancelled, or past its deadline? */

/* notify.c: loop thread */
void mci_classic_notify_init(struct classic_peer *peer);
void mci_classic_notify_next(struct classic_peer *peer);
void mci_classic_notify_check(struct classic_peer *peer);
void mci_classic_notify_close(struct classic_peer *peer);

#endif
