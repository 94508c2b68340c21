/* SPDX-License-Identifier: MIT */
/*
 * Target half: sessions (session.c) and their connections (serve.c). A connection belongs to one loop
 * and only its thread touches sockets and memory; what the table knows of it is under tcp->lock.
 */
#ifndef MCI_TCP_SERVE_H
#define MCI_TCP_SERVE_H

#include "core/clock.h"
#include "transport/tcp/tcp.h"

enum mci_tcp_conn_state {
	MCI_TCP_CONN_WAITING,	/* for older connections to end, with @in in hand */
	MCI_TCP_CONN_ACCEPTING, /* ACCEPT is on its way; nothing is received yet */
	MCI_TCP_CONN_LIVE,
};

struct mci_tcp_conn {
	struct mci_watch watch; /* first */
	struct mci_tcp *tcp;
	struct mci_tcp_session *session;
	struct mci_loop *loop;
	struct mc_uuid owner; /* the peer's engine */
	struct mci_ledger *ledger; /* outlives the loops, while @tcp may go before the last task has run */
	struct mci_payer payer;
	uint64_t charged; /* to it */
	_Atomic int refs; /* the table's, and one per posted task */

	/* under tcp->lock */
	struct mci_tcp_conn *next, *prev; /* of the session */
	enum mci_tcp_conn_state state;
	bool doomed;		 /* a newer incarnation came */
	struct mci_incoming *in; /* WAITING */
	struct mci_task close_task;

	/* loop thread */
	struct mci_sock sock;
	struct mci_tcp_rx rx;
	struct mci_tcp_tx tx;
	uint32_t slots;
	bool started, near, closed, hurry, checksum, posted;
	struct mci_task task;	   /* the rest of the work, after others had their turn */
	struct mci_region *region; /* in use by WRITEs of the bytes at hand */
	bool storing;		   /* ... one of which is not complete */
	struct mci_region *source; /* of the READ at hand */
	uint8_t *start;		   /* where the frame's bytes go to or come from */
	int32_t status;		   /* why it is refused */
	uint8_t *notify;	   /* MCI_TCP_NOTIFY_MAX, once one came */
	struct {
		uint64_t reads, writes, bytes_read, bytes_written, refused;
	} count; /* not yet in the host's statistics */
};

struct mci_tcp_session {
	struct mc_uuid id;
	struct mc_uuid owner; /* of the engine that opened it */
	uint64_t incarnation;
	uint64_t sequence; /* of the last notify delivered ... */
	struct {
		uint64_t sequence;
		int status;
	} * outcomes; /* ... and how the last MCI_TCP_SLOTS of them ended */
	unsigned int outcome_next;
	struct mci_payer payer; /* of the outcomes */
	struct mci_tcp_session *chain; /* of the bucket */
	struct mci_tcp_conn *conns;
	unsigned int count;		       /* of conns */
	unsigned int ending;		       /* live ones of older incarnations: new ones wait for them */
	struct mci_tcp_session *older, *newer; /* without connections */
	uint64_t idle_since;
};

/* serve.c; loop thread, unless said otherwise */
uint64_t mci_tcp_conn_bytes(uint32_t slots, bool tls); /* what a connection holds */
int mci_tcp_conn_init(struct mci_tcp_conn *conn, uint32_t slots);
void mci_tcp_conn_put(struct mci_tcp_conn *conn);
void mci_tcp_conn_start(struct mci_tcp_conn *conn); /* any thread; sock, features are set */
void mci_tcp_conn_close(struct mci_tcp_conn *conn, int err, const char *why);
bool mci_tcp_conn_uses(const struct mci_tcp_conn *conn, const struct mci_region *region);

#endif
