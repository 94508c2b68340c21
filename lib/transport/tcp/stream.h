/* SPDX-License-Identifier: MIT */
/*
 * Both directions of a data connection, without knowing which side we are: a receiver that turns the
 * byte stream into frames and puts payloads where they belong, and a ring of frames to send.
 * No locks here: whoever calls owns that direction.
 */
#ifndef MCI_TCP_STREAM_H
#define MCI_TCP_STREAM_H

#include <stdatomic.h>

#include "net/loop.h"
#include "net/sock.h"
#include "transport/tcp/frame.h"

#define MCI_TCP_STAGING (256u << 10)
#define MCI_TCP_SEND_IOVECS 256	       /* per system call; at most as many frames end in one */
#define MCI_TCP_DIRECT_MIN (16u << 10) /* payload bytes from which they are not staged */

struct mci_tcp_rx;

struct mci_tcp_rx_ops {
	/*
	 * A header arrived: set rx->dest (NULL = throw the payload away). 0; -EAGAIN: not now, ask again at
	 * the next run; else -errno ends the connection.
	 */
	int (*header)(struct mci_tcp_rx *rx);
	/* The frame is complete. 0 or -errno. */
	int (*frame)(struct mci_tcp_rx *rx);
};

struct mci_tcp_rx {
	const struct mci_tcp_rx_ops *ops;
	uint8_t *staging;
	uint32_t head, tail; /* what lies in it */
	enum { MCI_TCP_RX_HEADER, MCI_TCP_RX_DECIDE, MCI_TCP_RX_EXTENSION, MCI_TCP_RX_PAYLOAD } phase;
	struct mci_tcp_header header;
	uint32_t extension_left;
	uint64_t left;	 /* payload bytes to come */
	uint8_t *dest;	 /* where the next goes */
	bool large;	 /* the last payload was: do not stage much of the next */
	const char *why; /* behind -EPROTO */
};

enum mci_tcp_rx_end { MCI_TCP_RX_DRAINED, MCI_TCP_RX_PAUSED, MCI_TCP_RX_MORE };

int mci_tcp_rx_init(struct mci_tcp_rx *rx, const struct mci_tcp_rx_ops *ops);
void mci_tcp_rx_free(struct mci_tcp_rx *rx);
/*
 * Receive and handle up to about @budget bytes. @hurry: the peer hung up, so read to the very end.
 * >= 0: enum mci_tcp_rx_end; -ECONNRESET at the end of the stream, else -errno.
 */
int mci_tcp_rx_run(struct mci_tcp_rx *rx, struct mci_sock *sock, size_t budget, bool hurry);
/* Handle bytes that are there: what rx_run() does behind the socket, for the fuzzer. */
int mci_tcp_rx_feed(struct mci_tcp_rx *rx, const uint8_t *p, size_t n);

struct mci_tcp_tx_entry {
	const uint8_t *payload;
	uint64_t length;
	void *cookie;
	uint8_t header[MCI_TCP_HEADER];
};

struct mci_tcp_tx {
	struct mci_tcp_tx_entry *ring;
	uint32_t mask;
	uint32_t head, tail; /* free-running */
	uint64_t sent;	     /* bytes of the entry at head that are gone */
	uint64_t unsent;     /* of all */
	_Atomic uint64_t gone; /* bytes sent since the loop last lingered; a hint */
};

int mci_tcp_tx_init(struct mci_tcp_tx *tx, uint32_t slots); /* rounded up to a power of two */
void mci_tcp_tx_free(struct mci_tcp_tx *tx);

static inline uint32_t mci_tcp_tx_count(const struct mci_tcp_tx *tx) { return tx->tail - tx->head; }

static inline bool mci_tcp_tx_full(const struct mci_tcp_tx *tx) { return mci_tcp_tx_count(tx) > tx->mask; }

/* Socket options of a data connection that @loop serves. True: both ends may share a core, see stream.c. */
bool mci_tcp_tune(int fd, const struct mci_loop *loop);
/* Loop thread: @bytes moved since the last time; if that is much, more may follow at once. */
void mci_tcp_linger(struct mci_loop *loop, _Atomic uint64_t *bytes);
/* Room must be there. */
void mci_tcp_tx_push(struct mci_tcp_tx *tx, const struct mci_tcp_header *h, const uint8_t *payload,
		     void *cookie);
/*
 * One system call with what is in the ring, at most about 1 MiB. @sent is called for each entry that
 * is gone completely. Bytes sent, *full set if the socket took less than it was given; or -errno.
 */
ssize_t mci_tcp_tx_send(struct mci_tcp_tx *tx, struct mci_sock *sock, bool *full,
			void (*sent)(void *cookie, void *arg), void *arg);

#endif
