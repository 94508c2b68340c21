/* SPDX-License-Identifier: MIT */
/*
 * What the files of our own TCP transport share. Two halves that never meet: the initiator (peer.c,
 * link.c, connect.c) and the target (session.c, serve.c); stream.c and frame.c serve both.
 */
#ifndef MCI_TCP_H
#define MCI_TCP_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/uuid.h"
#include "net/connect.h"
#include "transport/tcp/stream.h"
#include "transport/transport.h"

#define MCI_TCP_SLOTS 512u	      /* requests in flight per stream; what a target grants at most */
#define MCI_TCP_CONNECTIONS_MAX 4096u /* data connections that a target serves */
#define MCI_TCP_SESSIONS_MAX 65536u   /* sessions without a connection that a target remembers ... */
#define MCI_TCP_SESSION_MEMORY_NS (120 * MCI_NS_PER_S) /* ... for this long */
#define MCI_TCP_TURN (4u << 20) /* bytes per turn of a connection before others in its loop are served */

struct mci_tcp_session;
struct mci_tcp_conn;
struct mci_tcp_peer;

struct mci_tcp {
	struct mci_transport_host *host;
	/* Target half. Lock order: a leaf, but for the lock of a loop's task list. */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* connections went down */
	bool closing;
	unsigned int conn_count; /* waiting and accepting ones included */
	unsigned int session_count;
	struct mci_tcp_session **buckets;
	struct mci_tcp_session *oldest, *newest; /* without connections, by time */

	/* Initiator half; peers.c. */
	struct mc_uuid secret;			  /* session ids derive from it */
	_Atomic uint64_t incarnations, sequences; /* of all sessions: they only grow */
	pthread_mutex_t table_lock;		  /* before any peer's */
	struct mci_tcp_peer *peers;		  /* in use */
	pthread_mutex_t fence_lock;		  /* a leaf */
	pthread_cond_t fence_done;
};

/* session.c */
/*
 * Test hook: switches off what contracts B1 demands of a target (closing the older connections of a
 * session first, refusing lower incarnations), so that a test can show that it matters.
 */
extern _Atomic bool mci_tcp_fence_off;
int mci_tcp_sessions_open(struct mci_tcp *tcp);
/* Closes all connections and waits for it, 5 s at most; false: some did not end, @tcp must stay. */
bool mci_tcp_sessions_close(struct mci_tcp *tcp);
void mci_tcp_incoming(struct mci_transport *transport, struct mci_incoming *in);
int mci_tcp_region_remove(struct mci_transport *transport, struct mci_region *region, uint64_t deadline_ns);
/*
 * 0: it is news, deliver it and call _notified(); -EALREADY: it was delivered, with *status; -ENOMEM, -ENOBUFS:
 * no memory, or none for @payer.
 */
int mci_tcp_session_notify(struct mci_tcp *tcp, struct mci_tcp_session *session, const struct mci_payer *payer,
			   uint64_t sequence, int *status);
void mci_tcp_session_notified(struct mci_tcp *tcp, struct mci_tcp_session *session, uint64_t sequence,
			      int status);
/* Loop thread: the connection does not touch memory any more; forgets and perhaps frees it. */
void mci_tcp_session_left(struct mci_tcp_conn *conn);

/* peers.c */
/* Test hook: each handle has a session of its own, so that a test can show why handles share one. */
extern _Atomic bool mci_tcp_sharing_off;
void mci_tcp_peers_open(struct mci_tcp *tcp);
void mci_tcp_peers_close(struct mci_tcp *tcp);

/* The loop of a session's stream: the same number on both sides, so that on one host both ends can share a core. */
static inline struct mci_loop *mci_tcp_loop_of(struct mci_tcp *tcp, const struct mc_uuid *session,
					       unsigned int index)
{
	return mci_loops_at(tcp->host->loops, session->b[0] + index);
}

/* peer.c, connect.c */
int mci_tcp_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
		      struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
		      struct mci_peer **peer);
void mci_tcp_peer_close(struct mci_peer *peer);
void mci_tcp_submit(struct mci_peer *peer, struct mci_request *first);
void mci_tcp_cancel(struct mci_peer *peer, struct mci_request *request);
int mci_tcp_fence(struct mci_peer *peer, uint64_t deadline_ns);
void mci_tcp_detail(struct mci_peer *peer, const struct mci_remote_region *region, char *text, size_t size);

#endif
