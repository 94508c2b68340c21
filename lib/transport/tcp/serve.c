// SPDX-License-Identifier: MIT
/*
 * Target's side of a data connection: every request is checked where the memory lives, and the use of
 * its region is held until the last byte is stored or sent. Runs in the connection's loop thread only.
 */
#include "transport/tcp/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <xxhash.h>

#include "core/log.h"

#define TLS_BYTES (48u << 10) /* about: records in and out, and their state */
#define ROUNDS 8 /* per turn, of a connection whose ring of answers was full */

static void add(_Atomic uint64_t *total, uint64_t *count)
{
	if (*count)
		atomic_fetch_add_explicit(total, *count, memory_order_relaxed);
	*count = 0;
}

static void flush_counts(struct mci_tcp_conn *conn)
{
	struct mci_transport_stats *stats = &conn->tcp->host->stats;

	add(&stats->served_reads, &conn->count.reads);
	add(&stats->served_writes, &conn->count.writes);
	add(&stats->served_bytes_read, &conn->count.bytes_read);
	add(&stats->served_bytes_written, &conn->count.bytes_written);
	add(&stats->refused, &conn->count.refused);
}

static void drop_region(struct mci_tcp_conn *conn)
{
	if (conn->region)
		mci_region_put(conn->region);
	conn->region = NULL;
}

/*
 * Where a WRITE goes. The use of the last region is kept until the bytes at hand are done with: an atomic
 * operation behind every small payload would wait for its stores to drain.
 */
static void check_write(struct mci_tcp_conn *conn, const struct mci_tcp_header *h)
{
	struct mci_region *region = conn->region;

	if (!region || region->id != h->region || region->generation != h->generation || mci_region_dying(region)) {
		drop_region(conn);
		conn->status = mci_region_get_remote(conn->tcp->host->regions, h->region, h->generation,
						     h->offset, h->length, MC_REMOTE_WRITE, &conn->region);
	} else if (!(region->rights & MC_REMOTE_WRITE)) {
		conn->status = -EACCES;
	} else if (h->offset > region->length || h->length > region->length - h->offset) {
		conn->status = -EFAULT;
	}
	if (conn->status)
		return;
	conn->start = conn->region->addr + h->offset;
	conn->storing = true;
}

/* A READ's use of its region goes along with the answer, until that is sent. */
static void check_read(struct mci_tcp_conn *conn, const struct mci_tcp_header *h)
{
	conn->status = mci_region_get_remote(conn->tcp->host->regions, h->region, h->generation, h->offset,
					     h->length, MC_REMOTE_READ, &conn->source);
	if (!conn->status)
		conn->start = conn->source->addr + h->offset;
}

static int room_for_notify(struct mci_tcp_conn *conn)
{
	struct mci_transport_host *host = conn->tcp->host;
	char why[MCI_SENTENCE_MAX + 1];

	if (conn->notify)
		return 0;
	if (mci_ledger_take(conn->ledger, &conn->payer, MCI_TCP_NOTIFY_MAX, why)) {
		mci_info("a notify is refused: %s", why);
		return -ENOBUFS;
	}
	conn->charged += MCI_TCP_NOTIFY_MAX;
	conn->notify = malloc(MCI_TCP_NOTIFY_MAX);
	atomic_fetch_add_explicit(&host->stats.allocs, 1, memory_order_relaxed);
	return conn->notify ? 0 : -ENOMEM;
}

static int request_header(struct mci_tcp_rx *rx)
{
	struct mci_tcp_conn *conn = (struct mci_tcp_conn *)((char *)rx - offsetof(struct mci_tcp_conn, rx));
	const struct mci_tcp_header *h = &rx->header;

	/* One place in the ring per answer: a peer that reads no answers gets no more requests done. */
	if (mci_tcp_tx_count(&conn->tx) >= conn->slots)
		return -EAGAIN;
	if (h->type & MCI_TCP_REPLY) {
		rx->why = "a reply came where requests are expected";
		return -EPROTO;
	}
	if (conn->checksum && (h->type == MCI_TCP_WRITE || h->type == MCI_TCP_NOTIFY) &&
	    !(h->flags & MCI_TCP_CHECKSUM)) {
		rx->why = "a payload came without the checksum that was agreed";
		return -EPROTO;
	}
	conn->status = 0;
	conn->start = NULL;
	if (!mci_uuid_equal(&h->target, &conn->tcp->host->self->uuid)) {
		conn->status = -ESTALE;
		return 0;
	}
	switch (h->type) {
	case MCI_TCP_READ:
		check_read(conn, h);
		break;
	case MCI_TCP_WRITE:
		check_write(conn, h);
		break;
	case MCI_TCP_NOTIFY:
		conn->status = room_for_notify(conn);
		conn->start = conn->notify;
		break;
	}
	if (h->type != MCI_TCP_READ)
		rx->dest = conn->start;
	return 0;
}

static void take_notify(struct mci_tcp_conn *conn, const struct mci_tcp_header *h)
{
	struct mci_transport_host *host = conn->tcp->host;
	struct mci_notify_body body;
	int ret;

	conn->status = mci_notify_decode(conn->notify, h->length, &body);
	if (conn->status)
		return;
	ret = mci_tcp_session_notify(conn->tcp, conn->session, &conn->payer, h->offset, &conn->status);
	if (ret) {
		if (ret != -EALREADY)
			conn->status = ret;
		return;
	}
	conn->status = host->notify(host->engine, &conn->owner, h->offset, conn->notify, (uint32_t)h->length);
	mci_tcp_session_notified(conn->tcp, conn->session, h->offset, conn->status);
}

static int request_frame(struct mci_tcp_rx *rx)
{
	struct mci_tcp_conn *conn = (struct mci_tcp_conn *)((char *)rx - offsetof(struct mci_tcp_conn, rx));
	const struct mci_tcp_header *h = &rx->header;
	struct mci_tcp_header reply = {.type = h->type | MCI_TCP_REPLY, .id = h->id, .length = h->length};

	if (!conn->status && (h->flags & MCI_TCP_CHECKSUM) &&
	    (h->type == MCI_TCP_WRITE || h->type == MCI_TCP_NOTIFY) &&
	    XXH3_64bits(conn->start, h->length) != h->checksum)
		conn->status = -EBADMSG;
	if (!conn->status && h->type == MCI_TCP_NOTIFY)
		take_notify(conn, h);
	if (conn->status) {
		conn->count.refused++;
	} else if (h->type == MCI_TCP_WRITE) {
		conn->count.writes++;
		conn->count.bytes_written += h->length;
	} else if (h->type == MCI_TCP_READ) {
		conn->count.reads++;
		conn->count.bytes_read += h->length;
		if (conn->checksum) {
			reply.flags = MCI_TCP_CHECKSUM;
			reply.checksum = XXH3_64bits(conn->start, h->length);
		}
	}
	reply.status = conn->status;
	mci_tcp_tx_push(&conn->tx, &reply, conn->start, conn->source);
	conn->source = NULL;
	conn->storing = false;
	return 0;
}

static const struct mci_tcp_rx_ops request_ops = {.header = request_header, .frame = request_frame};

static void on_sent(void *cookie, void *arg)
{
	(void)arg;
	if (cookie)
		mci_region_put(cookie);
}

/* 1: all is sent or the socket is full; 0: the turn is over; or -errno. */
static int send_replies(struct mci_tcp_conn *conn, uint64_t *budget)
{
	while (mci_tcp_tx_count(&conn->tx)) {
		bool full;
		ssize_t n = mci_tcp_tx_send(&conn->tx, &conn->sock, &full, on_sent, NULL);

		if (n == -EAGAIN)
			return 1;
		if (n < 0)
			return (int)n;
		if (full && !conn->sock.tls)
			return 1;
		if ((uint64_t)n >= *budget)
			return 0;
		*budget -= (uint64_t)n;
	}
	return 1;
}

static void post_rest(struct mci_tcp_conn *conn)
{
	if (conn->posted)
		return;
	conn->posted = true;
	atomic_fetch_add(&conn->refs, 1);
	mci_loop_post(conn->loop, &conn->task);
}

static void work(struct mci_tcp_conn *conn)
{
	uint64_t budget = MCI_TCP_TURN;
	int ret, sent, rounds = 0;
	bool paused;

	if (conn->closed)
		return;
	do {
		ret = mci_tcp_rx_run(&conn->rx, &conn->sock, MCI_TCP_TURN, conn->hurry);
		if (ret < 0) {
			mci_tcp_conn_close(conn, ret, conn->rx.why ? conn->rx.why : "the peer hung up");
			return;
		}
		if (!conn->storing)
			drop_region(conn);
		flush_counts(
			conn); /* before anybody can know from an answer that there is something to count */
		sent = send_replies(conn, &budget);
		if (sent < 0) {
			mci_tcp_conn_close(conn, sent, "sending failed");
			return;
		}
		/* Answers went out, so that there is room for more requests. */
		paused = ret == MCI_TCP_RX_PAUSED && mci_tcp_tx_count(&conn->tx) < conn->slots;
	} while (sent && paused && ++rounds < ROUNDS);
	if (ret == MCI_TCP_RX_MORE || paused || !sent)
		post_rest(conn);
	else if (conn->near)
		mci_tcp_linger(conn->loop, &conn->tx.gone);
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	struct mci_tcp_conn *conn = (struct mci_tcp_conn *)watch;

	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->hurry = true;
	work(conn);
}

uint64_t mci_tcp_conn_bytes(uint32_t slots, bool tls)
{
	uint32_t ring = 1;

	while (ring < slots)
		ring <<= 1;
	return sizeof(struct mci_tcp_conn) + MCI_TCP_STAGING + ring * sizeof(struct mci_tcp_tx_entry) +
	       (tls ? TLS_BYTES : 0);
}

static void begin(struct mci_tcp_conn *conn)
{
	int ret;

	conn->started = true;
	if (conn->closed)
		return;
	conn->near = mci_tcp_tune(conn->sock.fd, conn->loop);
	conn->watch.fd = conn->sock.fd;
	conn->watch.fn = on_event;
	ret = mci_loop_add(conn->loop, &conn->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	if (ret)
		mci_tcp_conn_close(conn, ret, "it cannot be watched");
}

static void on_task(struct mci_task *task)
{
	struct mci_tcp_conn *conn =
		(struct mci_tcp_conn *)((char *)task - offsetof(struct mci_tcp_conn, task));

	conn->posted = false;
	if (conn->started)
		work(conn);
	else
		begin(conn);
	mci_tcp_conn_put(conn);
}

int mci_tcp_conn_init(struct mci_tcp_conn *conn, uint32_t slots)
{
	conn->refs = 1;
	conn->slots = slots;
	conn->sock.fd = -1;
	conn->task.fn = on_task;
	if (mci_tcp_rx_init(&conn->rx, &request_ops))
		return -ENOMEM;
	if (mci_tcp_tx_init(&conn->tx, slots)) {
		mci_tcp_rx_free(&conn->rx);
		return -ENOMEM;
	}
	return 0;
}

void mci_tcp_conn_put(struct mci_tcp_conn *conn)
{
	if (atomic_fetch_sub(&conn->refs, 1) != 1)
		return;
	mci_tcp_rx_free(&conn->rx);
	mci_tcp_tx_free(&conn->tx);
	free(conn->notify);
	mci_ledger_give(conn->ledger, &conn->payer, conn->charged);
	free(conn);
}

void mci_tcp_conn_start(struct mci_tcp_conn *conn) { post_rest(conn); }

void mci_tcp_conn_close(struct mci_tcp_conn *conn, int err, const char *why)
{
	if (conn->closed)
		return;
	conn->closed = true;
	mci_debug("data connection from a peer is closed: %s (%s)", why, strerror(-err));
	mci_loop_del(conn->loop, &conn->watch);
	mci_sock_close(&conn->sock);
	drop_region(conn);
	on_sent(conn->source, NULL);
	conn->source = NULL;
	for (; mci_tcp_tx_count(&conn->tx); conn->tx.head++)
		on_sent(conn->tx.ring[conn->tx.head & conn->tx.mask].cookie, NULL);
	flush_counts(conn);
	mci_tcp_session_left(conn);
}

bool mci_tcp_conn_uses(const struct mci_tcp_conn *conn, const struct mci_region *region)
{
	uint32_t i;

	if (conn->region == region || conn->source == region)
		return true;
	for (i = conn->tx.head; i != conn->tx.tail; i++)
		if (conn->tx.ring[i & conn->tx.mask].cookie == region)
			return true;
	return false;
}
