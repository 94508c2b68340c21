/* SPDX-License-Identifier: MIT */
/*
 * Framed connection on a loop, for control traffic (describe, stats, shm set-up, master RPC later).
 * Frame: u32 LE length of what follows (8 .. limit), u16 type, u16 flags, u32 id, body.
 * Outgoing bytes are queued up to a bound; descriptors ride along on unix sockets.
 */
#ifndef MCI_CONN_H
#define MCI_CONN_H

#include "net/ledger.h"
#include "net/loop.h"
#include "net/sock.h"

struct mci_conn;

struct mci_frame {
	uint16_t type, flags;
	uint32_t id;
	const void *body;
	uint32_t length;
	int fd; /* -1, or a received descriptor that the callee now owns */
};

struct mci_conn_ops {
	void (*frame)(struct mci_conn *conn, const struct mci_frame *frame, void *arg); /* loop thread */
	/* loop thread, once; @err 0 = the peer ended between frames, or mci_conn_close(); conn is freed after
	 * it */
	void (*closed)(struct mci_conn *conn, int err, void *arg);
};

/* Loop thread of @loop. Takes over @sock (on failure it stays the caller's). @limit: largest frame length. */
int mci_conn_start(struct mci_loop *loop, struct mci_sock sock, uint32_t limit,
		   const struct mci_conn_ops *ops, void *arg, struct mci_conn **conn);
/* Loop thread. From now on what is queued is booked in an account. */
void mci_conn_account(struct mci_conn *conn, struct mci_ledger *ledger, const struct mci_payer *payer);
/*
 * Loop thread. -EAGAIN when 1 MiB is queued; -EBUSY when the account has no room for more. @fd is duplicated,
 * -1 = none; a descriptor needs a unix socket, else the connection ends with -EOPNOTSUPP.
 */
int mci_conn_send(struct mci_conn *conn, uint16_t type, uint32_t id, const void *body, uint32_t length,
		  int fd);
/* Loop thread. What the socket has not taken yet is dropped; closed() follows, from the loop. */
void mci_conn_close(struct mci_conn *conn);

/* Blocking client side on a stream from mci_connect(): one frame out, one frame in. */
int mci_frame_send(struct mci_sock *sock, uint16_t type, uint32_t id, const void *body, uint32_t length,
		   uint64_t deadline_ns);
/* Body is malloc'd (one NUL behind it). @fd may be NULL; else -1 or a received descriptor. */
int mci_frame_recv(struct mci_sock *sock, uint32_t limit, uint16_t *type, uint32_t *id, void **body,
		   uint32_t *length, int *fd, uint64_t deadline_ns);

#endif
