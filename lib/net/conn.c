// SPDX-License-Identifier: MIT
/*
 * Framed connection on a loop. Everything happens in the loop's thread; there is no lock. Ends are told
 * by a task of their own, so that closed() never runs inside a call of the owner.
 */
#include "net/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/errors.h"
#include "net/frame.h"

#define QUEUE_MAX (1u << 20)
#define FIRST_ROOM 4096
#define BYTES_PER_TURN (1u << 20) /* then other connections of the loop have theirs */
#define IOV_BATCH 16

#define of(ptr, member) ((struct mci_conn *)((char *)(ptr) - offsetof(struct mci_conn, member)))

struct outgoing {
	struct outgoing *next;
	size_t length, done, charged;
	int fd; /* goes beside the first byte; -1 = none, or gone */
	uint8_t bytes[];
};

struct mci_conn {
	struct mci_watch watch;
	struct mci_task turn; /* go on reading, or end */
	bool turn_posted, ending;
	int err;
	struct mci_loop *loop;
	struct mci_sock sock;
	uint32_t limit;
	const struct mci_conn_ops *ops;
	void *arg;
	uint8_t *in;
	size_t in_length, in_size;
	int in_fd; /* received, its frame is not complete; -1 = none */
	struct outgoing *out, **out_last;
	size_t out_bytes;
	struct mci_ledger *ledger; /* NULL = none */
	struct mci_payer payer;
};

static void post_turn(struct mci_conn *conn)
{
	if (conn->turn_posted)
		return;
	conn->turn_posted = true;
	mci_loop_post(conn->loop, &conn->turn);
}

static void free_outgoing(struct mci_conn *conn, struct outgoing *out)
{
	mci_ledger_give(conn->ledger, &conn->payer, out->charged);
	if (out->fd >= 0)
		close(out->fd);
	free(out);
}

/* From now on nothing is read, written or called but closed(). */
static void end(struct mci_conn *conn, int err)
{
	if (conn->ending)
		return;
	conn->ending = true;
	conn->err = err;
	mci_loop_del(conn->loop, &conn->watch);
	post_turn(conn);
}

static void destroy(struct mci_conn *conn)
{
	struct outgoing *out;

	mci_sock_close(&conn->sock);
	while ((out = conn->out)) {
		conn->out = out->next;
		free_outgoing(conn, out);
	}
	if (conn->in_fd >= 0)
		close(conn->in_fd);
	free(conn->in);
	free(conn);
}

/* Send what is queued, as far as the socket takes it. */
static void flush(struct mci_conn *conn)
{
	while (conn->out && !conn->ending) {
		struct iovec iov[IOV_BATCH];
		struct outgoing *out;
		int count = 0;
		ssize_t n;

		/* A descriptor rides with the first byte of its frame: that frame begins a call of its own.
		 */
		for (out = conn->out; out && count < IOV_BATCH && (!count || out->fd < 0); out = out->next) {
			iov[count].iov_base = out->bytes + out->done;
			iov[count++].iov_len = out->length - out->done;
		}
		n = mci_frame_sendv(&conn->sock, iov, count, conn->out->fd);
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			end(conn, (int)n);
			return;
		}
		if (conn->out->fd >= 0) {
			close(conn->out->fd);
			conn->out->fd = -1;
		}
		conn->out_bytes -= (size_t)n;
		while (n) {
			size_t left;

			out = conn->out;
			left = out->length - out->done;
			if ((size_t)n < left) {
				out->done += (size_t)n;
				break;
			}
			n -= (ssize_t)left;
			conn->out = out->next;
			if (!conn->out)
				conn->out_last = &conn->out;
			free_outgoing(conn, out);
		}
	}
}

/* Hand out the whole frames in the buffer. 0, or -EPROTO. */
static int deliver(struct mci_conn *conn, size_t *need)
{
	size_t at = 0, used = 0;
	struct mci_frame frame;
	int ret = 0;

	while (!conn->ending) {
		ret = mci_frame_parse(conn->in + at, conn->in_length - at, conn->limit, &frame, &used);
		if (ret)
			break;
		if (frame.flags & MCI_FRAME_FD) {
			if (conn->in_fd < 0) {
				ret = -EPROTO; /* promised, and lost on the way: our descriptors may be used
						  up */
				break;
			}
			frame.fd = conn->in_fd;
			conn->in_fd = -1;
		}
		conn->ops->frame(conn, &frame, conn->arg);
		at += used;
	}
	memmove(conn->in, conn->in + at, conn->in_length - at);
	conn->in_length -= at;
	*need = used;
	return ret == -EAGAIN ? 0 : ret;
}

/* Room to read into: doubled as bytes come, up to what the frame at hand needs. */
static int make_room(struct mci_conn *conn, size_t need)
{
	size_t size = conn->in_size ? conn->in_size * 2 : FIRST_ROOM;
	uint8_t *bigger;

	if (conn->in_length < conn->in_size)
		return 0;
	if (size > need && need > FIRST_ROOM)
		size = need;
	bigger = realloc(conn->in, size);
	if (!bigger)
		return -ENOMEM;
	conn->in = bigger;
	conn->in_size = size;
	return 0;
}

static void pump(struct mci_conn *conn)
{
	size_t got = 0, need = MCI_FRAME_HEAD;
	int ret = 0;

	while (!conn->ending) {
		struct iovec iov;
		ssize_t n;

		ret = make_room(conn, need);
		if (ret)
			break;
		iov.iov_base = conn->in + conn->in_length;
		iov.iov_len = conn->in_size - conn->in_length;
		n = mci_frame_recvv(&conn->sock, &iov, 1, &conn->in_fd);
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			/* An end between frames is orderly. */
			ret = n ? (int)n : conn->in_length ? -ECONNRESET : 0;
			end(conn, ret);
			return;
		}
		conn->in_length += (size_t)n;
		got += (size_t)n;
		ret = deliver(conn, &need);
		if (ret)
			break;
		if (got >= BYTES_PER_TURN) {
			post_turn(conn);
			return;
		}
	}
	if (ret)
		end(conn, ret);
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	struct mci_conn *conn = of(watch, watch);

	(void)events; /* with TLS either direction may wait for either event */
	flush(conn);
	pump(conn);
}

static void on_turn(struct mci_task *task)
{
	struct mci_conn *conn = of(task, turn);

	conn->turn_posted = false;
	if (!conn->ending) {
		pump(conn);
		return;
	}
	mci_sock_close(&conn->sock);
	conn->ops->closed(conn, conn->err, conn->arg);
	destroy(conn);
}

int mci_conn_start(struct mci_loop *loop, struct mci_sock sock, uint32_t limit,
		   const struct mci_conn_ops *ops, void *arg, struct mci_conn **out)
{
	struct mci_conn *conn = calloc(1, sizeof(*conn));
	int ret;

	if (!conn)
		return mci_fail(-ENOMEM, "no memory for a connection");
	conn->watch.fd = sock.fd;
	conn->watch.fn = on_event;
	conn->turn.fn = on_turn;
	conn->loop = loop;
	conn->sock = sock;
	conn->limit = limit;
	conn->ops = ops;
	conn->arg = arg;
	conn->in_fd = -1;
	conn->out_last = &conn->out;
	ret = mci_loop_add(loop, &conn->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	if (ret) {
		free(conn);
		return ret;
	}
	*out = conn;
	return 0;
}

int mci_conn_send(struct mci_conn *conn, uint16_t type, uint32_t id, const void *body, uint32_t length,
		  int fd)
{
	char why[MCI_SENTENCE_MAX + 1];
	struct outgoing *out;

	if (conn->ending)
		return mci_fail(-EPIPE, "the connection is closed");
	if (conn->out_bytes >= QUEUE_MAX)
		return mci_fail(-EAGAIN, "%zu bytes wait for the peer to take them", conn->out_bytes);
	if (length > UINT32_MAX - MCI_FRAME_REST)
		return mci_fail(-EMSGSIZE, "%u bytes are too many for a frame", length);
	out = malloc(sizeof(*out) + MCI_FRAME_HEAD + length);
	if (!out)
		return mci_fail(-ENOMEM, "no memory for a frame of %u bytes", length);
	out->next = NULL;
	out->length = MCI_FRAME_HEAD + (size_t)length;
	out->done = out->charged = 0;
	out->fd = -1;
	if (conn->ledger) {
		int ret = mci_ledger_take(conn->ledger, &conn->payer, out->length, why);

		if (ret) {
			free(out);
			return mci_fail(ret, "%s", why);
		}
		out->charged = out->length;
	}
	if (fd >= 0) {
		out->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (out->fd < 0) {
			int ret = -errno;

			free_outgoing(conn, out);
			return mci_fail(ret, "cannot duplicate descriptor %d to send it: %s", fd,
					strerror(-ret));
		}
	}
	mci_frame_head(out->bytes, type, fd >= 0 ? MCI_FRAME_FD : 0, id, length);
	if (length)
		memcpy(out->bytes + MCI_FRAME_HEAD, body, length);
	*conn->out_last = out;
	conn->out_last = &out->next;
	conn->out_bytes += out->length;
	flush(conn);
	return 0;
}

void mci_conn_account(struct mci_conn *conn, struct mci_ledger *ledger, const struct mci_payer *payer)
{
	conn->ledger = ledger;
	conn->payer = *payer;
}

void mci_conn_close(struct mci_conn *conn) { end(conn, 0); }
