// SPDX-License-Identifier: MIT
/* Receiver and sender of frames on a data connection. No locks: each direction has one caller at a time. */
#include "transport/tcp/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"

#define STAGE_SMALL 4096u /* behind large payloads: a header and little more */
#define SEND_BYTES (1u << 20)
/*
 * Send buffer where both ends share a core (the system doubles it): bytes should still lie in that core's
 * cache when the receiver fetches them, and there is no path to fill. What the system would let it grow to
 * made the copies of 64 KiB slices a third dearer.
 */
#define LOCAL_BUFFER (512 << 10)

#define LINGER_BYTES (64u << 10)
#define LINGER_NS (50 * MCI_NS_PER_MS / 1000) /* more than an application takes to submit the next batch */

int mci_tcp_rx_init(struct mci_tcp_rx *rx, const struct mci_tcp_rx_ops *ops)
{
	memset(rx, 0, sizeof(*rx));
	rx->ops = ops;
	rx->staging = malloc(MCI_TCP_STAGING);
	return rx->staging ? 0 : -ENOMEM;
}

void mci_tcp_rx_free(struct mci_tcp_rx *rx)
{
	free(rx->staging);
	rx->staging = NULL;
}

static int frame_done(struct mci_tcp_rx *rx)
{
	rx->phase = MCI_TCP_RX_HEADER;
	return rx->ops->frame(rx);
}

/* Move on behind a header or an extension: to the payload, or to the end of a frame without one. */
static int begin_payload(struct mci_tcp_rx *rx)
{
	if (!rx->left)
		return frame_done(rx);
	rx->phase = MCI_TCP_RX_PAYLOAD;
	return 0;
}

static int decide(struct mci_tcp_rx *rx)
{
	int ret;

	rx->dest = NULL;
	ret = rx->ops->header(rx);
	if (ret)
		return ret;
	rx->left = mci_tcp_payload_length(&rx->header);
	rx->large = rx->left >= MCI_TCP_DIRECT_MIN;
	rx->extension_left = rx->header.extension;
	if (!rx->extension_left)
		return begin_payload(rx);
	rx->phase = MCI_TCP_RX_EXTENSION;
	return 0;
}

/* Handle what is staged. 0: more bytes are needed. */
static int consume(struct mci_tcp_rx *rx)
{
	uint32_t have, n;
	int ret = 0;

	for (;;) {
		have = rx->tail - rx->head;
		switch (rx->phase) {
		case MCI_TCP_RX_HEADER:
			if (have < MCI_TCP_HEADER)
				return 0;
			ret = mci_tcp_header_decode(rx->staging + rx->head, &rx->header, &rx->why);
			if (ret)
				return ret;
			rx->head += MCI_TCP_HEADER;
			rx->phase = MCI_TCP_RX_DECIDE;
			/* fall through */
		case MCI_TCP_RX_DECIDE:
			ret = decide(rx);
			break;
		case MCI_TCP_RX_EXTENSION:
			n = have < rx->extension_left ? have : rx->extension_left;
			if (!n)
				return 0;
			rx->head += n;
			rx->extension_left -= n;
			if (!rx->extension_left)
				ret = begin_payload(rx);
			break;
		case MCI_TCP_RX_PAYLOAD:
			n = have < rx->left ? have : (uint32_t)rx->left;
			if (!n)
				return 0;
			if (rx->dest) {
				memcpy(rx->dest, rx->staging + rx->head, n);
				rx->dest += n;
			}
			rx->head += n;
			rx->left -= n;
			if (!rx->left)
				ret = frame_done(rx);
			break;
		}
		if (ret)
			return ret;
	}
}

int mci_tcp_rx_feed(struct mci_tcp_rx *rx, const uint8_t *p, size_t n)
{
	int ret = 0;

	while (n && !ret) {
		uint32_t have = rx->tail - rx->head, take;

		memmove(rx->staging, rx->staging + rx->head, have);
		rx->head = 0;
		take = MCI_TCP_STAGING - have < n ? MCI_TCP_STAGING - have : (uint32_t)n;
		memcpy(rx->staging + have, p, take);
		rx->tail = have + take;
		p += take;
		n -= take;
		ret = consume(rx);
	}
	return ret;
}

/* One system call. Bytes received, 0 at the end of the stream, or -errno; *asked is what there was room for.
 */
static ssize_t receive(struct mci_tcp_rx *rx, struct mci_sock *sock, size_t *asked)
{
	uint32_t have = rx->tail - rx->head, room;
	size_t direct = 0;
	struct iovec iov[2];
	ssize_t got;
	int n = 0;

	/* consume() leaves less than a header behind, so this is cheap. */
	if (have && rx->head)
		memmove(rx->staging, rx->staging + rx->head, have);
	rx->head = 0;
	rx->tail = have;
	room = MCI_TCP_STAGING - have;
	/* Also the last bytes of a large one: staged, they would bring much of the next payload along. */
	if (rx->phase == MCI_TCP_RX_PAYLOAD && rx->dest && rx->large) {
		direct = rx->left;
		iov[n++] = (struct iovec){.iov_base = rx->dest, .iov_len = direct};
		room = MCI_TCP_HEADER; /* exactly the next header: its payload can go straight, too */
	} else if (rx->large && rx->phase == MCI_TCP_RX_HEADER) {
		room = STAGE_SMALL;
	}
	iov[n++] = (struct iovec){.iov_base = rx->staging + have, .iov_len = room};
	*asked = direct + room;

	got = mci_sock_recvv(sock, iov, n);
	if (got <= 0)
		return got;
	if ((size_t)got > direct) {
		rx->tail = have + (uint32_t)((size_t)got - direct);
	} else {
		direct = (size_t)got;
	}
	if (direct) {
		rx->dest += direct;
		rx->left -= direct;
	}
	return got;
}

int mci_tcp_rx_run(struct mci_tcp_rx *rx, struct mci_sock *sock, size_t budget, bool hurry)
{
	size_t asked, total = 0;
	ssize_t got;
	int ret;

	ret = consume(rx);
	while (!ret) {
		if (total >= budget)
			return MCI_TCP_RX_MORE;
		got = receive(rx, sock, &asked);
		if (got == -EAGAIN)
			return MCI_TCP_RX_DRAINED;
		if (got <= 0)
			return got ? (int)got : -ECONNRESET;
		total += (size_t)got;
		if (rx->phase == MCI_TCP_RX_PAYLOAD && !rx->left)
			ret = frame_done(rx);
		if (!ret)
			ret = consume(rx);
		/* Less than there was room for: the socket is empty, and what comes next raises a new edge.
		 */
		if (!ret && (size_t)got < asked && !sock->tls && !hurry)
			return MCI_TCP_RX_DRAINED;
	}
	return ret == -EAGAIN ? MCI_TCP_RX_PAUSED : ret;
}

int mci_tcp_tx_init(struct mci_tcp_tx *tx, uint32_t slots)
{
	uint32_t size = 1;

	while (size < slots)
		size <<= 1;
	memset(tx, 0, sizeof(*tx));
	tx->ring = calloc(size, sizeof(*tx->ring));
	tx->mask = size - 1;
	return tx->ring ? 0 : -ENOMEM;
}

void mci_tcp_tx_free(struct mci_tcp_tx *tx)
{
	free(tx->ring);
	tx->ring = NULL;
}

bool mci_tcp_tune(int fd, const struct mci_loop *loop)
{
	static const int bytes = LOCAL_BUFFER;

	mci_sock_tune(fd);
	if (!mci_loop_has_core(loop) || !mci_sock_is_local(fd))
		return false;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)); /* or as much as may be */
	return true;
}

void mci_tcp_linger(struct mci_loop *loop, _Atomic uint64_t *bytes)
{
	if (atomic_load_explicit(bytes, memory_order_relaxed) < LINGER_BYTES)
		return;
	atomic_store_explicit(bytes, 0, memory_order_relaxed);
	mci_loop_linger(loop, LINGER_NS);
}

void mci_tcp_tx_push(struct mci_tcp_tx *tx, const struct mci_tcp_header *h, const uint8_t *payload,
		     void *cookie)
{
	struct mci_tcp_tx_entry *entry = &tx->ring[tx->tail++ & tx->mask];

	mci_tcp_header_encode(h, entry->header);
	entry->payload = payload;
	entry->length = mci_tcp_payload_length(h);
	entry->cookie = cookie;
	tx->unsent += MCI_TCP_HEADER + entry->length;
}

/* One more piece of the system call, behind @skip bytes of it that are gone already. */
static void add_iovec(struct iovec *iov, int *n, const uint8_t *p, uint64_t length, uint64_t *skip,
		      uint64_t *room)
{
	uint64_t off = *skip < length ? *skip : length;

	*skip -= off;
	length -= off;
	if (length > *room)
		length = *room;
	if (!length)
		return;
	iov[(*n)++] = (struct iovec){.iov_base = (void *)(uintptr_t)(p + off), .iov_len = length};
	*room -= length;
}

ssize_t mci_tcp_tx_send(struct mci_tcp_tx *tx, struct mci_sock *sock, bool *full,
			void (*sent)(void *cookie, void *arg), void *arg)
{
	uint64_t skip = tx->sent, room = SEND_BYTES;
	struct iovec iov[MCI_TCP_SEND_IOVECS];
	uint64_t left;
	ssize_t done;
	uint32_t i;
	int n = 0;

	for (i = tx->head; i != tx->tail && n <= MCI_TCP_SEND_IOVECS - 2 && room; i++) {
		const struct mci_tcp_tx_entry *entry = &tx->ring[i & tx->mask];

		add_iovec(iov, &n, entry->header, MCI_TCP_HEADER, &skip, &room);
		add_iovec(iov, &n, entry->payload, entry->length, &skip, &room);
	}
	*full = false;
	if (!n)
		return 0;
	done = mci_sock_sendv(sock, iov, n);
	if (done < 0)
		return done;
	atomic_store_explicit(&tx->gone, atomic_load_explicit(&tx->gone, memory_order_relaxed) + (uint64_t)done,
			      memory_order_relaxed);
	*full = (uint64_t)done < SEND_BYTES - room;
	tx->unsent -= (uint64_t)done;
	left = tx->sent + (uint64_t)done;
	while (tx->head != tx->tail) {
		const struct mci_tcp_tx_entry *entry = &tx->ring[tx->head & tx->mask];
		uint64_t whole = MCI_TCP_HEADER + entry->length;

		if (left < whole)
			break;
		left -= whole;
		tx->head++;
		sent(entry->cookie, arg);
	}
	tx->sent = left;
	return done;
}
