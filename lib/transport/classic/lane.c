// SPDX-License-Identifier: MIT
/*
 * One client connection: a header out with its payload, a status or payload back, never two requests at
 * a time. Everything in the loop thread of the peer.
 */
#include <stddef.h>
#include <sys/epoll.h>

#include "core/clock.h"
#include "transport/classic/classic.h"

#define TURN_BYTES (4u << 20) /* then other lanes get their turn */
#define LINGER_NS                                                                                          \
	(5 * MCI_NS_PER_S) /* for a v1 server, busy as it may be, to close behind the last byte of a write \
			    */

static bool is_write(const struct classic_lane *lane) { return lane->header.write; }

static uint64_t to_send(const struct classic_lane *lane)
{
	return MCI_CLASSIC_HEADER + (is_write(lane) ? lane->header.size : 0);
}

static uint64_t to_receive(const struct classic_lane *lane)
{
	return (lane->header.v2 ? MCI_CLASSIC_STATUS : 0) + (is_write(lane) ? 0 : lane->header.size);
}

bool mci_classic_lane_idle(const struct classic_lane *lane, bool connected)
{
	if (lane->request || lane->state == LANE_CONNECTING || lane->state == LANE_LINGER)
		return false;
	return (lane->state == LANE_OPEN) == connected;
}

/* @reset: what the kernel still holds is thrown away on both sides, instead of being delivered. */
void mci_classic_lane_close(struct classic_lane *lane, bool reset)
{
	static const struct linger now = {.l_onoff = 1};

	mci_loop_timer_clear(lane->peer->loop, &lane->timer);
	if (lane->state == LANE_CLOSED)
		return;
	mci_loop_del(lane->peer->loop, &lane->watch);
	if (reset)
		setsockopt(lane->sock.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	mci_sock_close(&lane->sock);
	lane->watch.fd = -1;
	lane->state = LANE_CLOSED;
	lane->used = false;
}

/* The request is final. An idle lane takes the next one, so callers must not touch the lane's state after
 * this. */
static void end(struct classic_lane *lane, enum mc_state state, int error, uint32_t flags, bool keep)
{
	struct classic_peer *peer = lane->peer;
	struct mci_request *request = lane->request;

	lane->request = NULL;
	mci_loop_timer_clear(peer->loop, &lane->timer);
	/* Part of it may be on its way still. A rejection means that nothing was stored, nor will be. */
	if (state != MC_DONE && error != -EFAULT && is_write(lane) && lane->sent > MCI_CLASSIC_HEADER)
		atomic_store(&peer->unsettled, true);
	if (keep)
		lane->used = true;
	else
		/* A v1 read is complete: a reset spares our side the minute in TIME_WAIT, of which ports run
		 * out. */
		mci_classic_lane_close(lane, state != MC_DONE || !is_write(lane));
	mci_classic_finish(peer, request, state, error, flags);
	mci_classic_dispatch(peer);
}

static void connect_failed(struct classic_lane *lane, int error)
{
	struct mci_request *request = lane->request;

	lane->request = NULL;
	mci_classic_lane_close(lane, false);
	mci_classic_lost(lane->peer, request, error);
}

/*
 * The connection broke. One that had served before may have been closed by the server while it was idle,
 * which says nothing about this request: as long as not a byte came back, it is sent once more on a fresh
 * one.
 */
static void broken(struct classic_lane *lane, int error)
{
	struct mci_transport_stats *stats = &lane->peer->classic->host->stats;
	struct mci_request *request = lane->request;

	if (!lane->header.v2 || !lane->used || lane->received || request->state) {
		end(lane, MC_FAILED, error, 0, false);
		return;
	}
	/* Who reset it reads no more of it; of who fell silent nobody knows. */
	if (is_write(lane) && lane->sent > MCI_CLASSIC_HEADER && error != -ECONNRESET && error != -EPIPE)
		atomic_store(&lane->peer->unsettled, true);
	request->state = 1;
	mci_classic_count(&stats->resent);
	mci_classic_count(&stats->reconnects);
	lane->request = NULL;
	mci_classic_lane_close(lane, true);
	mci_classic_lane_begin(lane, request);
}

static ssize_t send_some(struct classic_lane *lane)
{
	struct iovec iov[2];
	uint64_t done = 0;
	int n = 0;

	if (lane->sent < MCI_CLASSIC_HEADER)
		iov[n++] = (struct iovec){lane->header_bytes + lane->sent, MCI_CLASSIC_HEADER - lane->sent};
	else
		done = lane->sent - MCI_CLASSIC_HEADER;
	if (is_write(lane))
		iov[n++] = (struct iovec){lane->request->local + done, lane->header.size - done};
	return mci_sock_sendv(&lane->sock, iov, n);
}

static ssize_t receive_some(struct classic_lane *lane)
{
	uint64_t status = lane->header.v2 ? MCI_CLASSIC_STATUS : 0, done = 0;
	struct iovec iov[2];
	uint8_t waste;
	int n = 0;

	if (lane->received < status)
		iov[n++] = (struct iovec){lane->status + lane->received, status - lane->received};
	else
		done = lane->received - status;
	if (!is_write(lane))
		iov[n++] = (struct iovec){lane->request->local + done, lane->header.size - done};
	if (!n)
		iov[n++] = (struct iovec){&waste, 1}; /* v1 write: only its end can come */
	return mci_sock_recvv(&lane->sock, iov, n);
}

/* Bytes came. Returns false if that ended the request. */
static bool examine(struct classic_lane *lane)
{
	int error = 0;

	if (lane->header.v2) {
		if (lane->received < MCI_CLASSIC_STATUS)
			return true;
		error = mci_classic_status_decode(lane->status);
	}
	/* An answer before the question is complete can only be a rejection. */
	if (!error && (lane->sent < to_send(lane) || lane->received > to_receive(lane)))
		error = -EPROTO;
	if (error) {
		end(lane, MC_FAILED, error, 0, false);
		return false;
	}
	if (lane->received < to_receive(lane))
		return true;
	end(lane, MC_DONE, 0, 0, lane->header.v2);
	return false;
}

/* A v1 write is on its way. Returns false if that ended the request. */
static void linger(struct classic_lane *lane)
{
	uint64_t until = mci_now_ns() + LINGER_NS;

	/*
	 * The server reads in order, so it closes behind the last byte; awaiting that keeps a later write
	 * from overtaking this one on another connection. It is no confirmation: a server that rejects the
	 * address closes too.
	 */
	shutdown(lane->sock.fd, SHUT_WR);
	lane->state = LANE_LINGER;
	if (until > lane->request->deadline_ns)
		until = lane->request->deadline_ns;
	mci_loop_timer_set(lane->peer->loop, &lane->timer, until);
}

static void at_end_of_stream(struct classic_lane *lane)
{
	if (lane->state == LANE_LINGER)
		end(lane, MC_DONE, 0, MC_STATUS_UNCONFIRMED, false);
	else
		broken(lane, lane->send_error ? lane->send_error : -ECONNRESET);
}

static void pump(struct classic_lane *lane)
{
	uint64_t budget = TURN_BYTES;
	ssize_t n;

	for (;;) {
		if (!lane->writable && !lane->readable)
			return;
		if (!budget) {
			lane->posted = true;
			mci_loop_post(lane->peer->loop, &lane->task);
			return;
		}
		n = 0;
		if (lane->writable && lane->sent < to_send(lane)) {
			n = send_some(lane);
			if (n > 0) {
				lane->sent += (uint64_t)n;
				budget = (uint64_t)n < budget ? budget - (uint64_t)n : 0;
			} else {
				lane->writable = false;
			}
			if (n < 0 && n != -EAGAIN) {
				lane->send_error = (int)n;
				lane->readable = true;
			}
			if (lane->sent == to_send(lane) && !to_receive(lane))
				linger(lane);
		}
		if (!lane->readable) {
			if (n <= 0)
				return;
			continue;
		}
		n = receive_some(lane);
		if (n == -EAGAIN) {
			lane->readable = false;
			if (lane->send_error) {
				broken(lane, lane->send_error);
				return;
			}
			continue;
		}
		if (n == 0) {
			at_end_of_stream(lane);
			return;
		}
		if (n < 0) {
			broken(lane, (int)n);
			return;
		}
		lane->received += (uint64_t)n;
		budget = (uint64_t)n < budget ? budget - (uint64_t)n : 0;
		if (!examine(lane))
			return;
	}
}

static void connected(struct classic_lane *lane)
{
	int error = mci_classic_dialled(lane->sock.fd);

	if (error == -EINPROGRESS)
		return;
	if (error) {
		connect_failed(lane, error);
		return;
	}
	lane->state = LANE_OPEN;
	lane->readable = false;
	lane->writable = true;
	mci_loop_timer_set(lane->peer->loop, &lane->timer, lane->request->deadline_ns);
	pump(lane);
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	struct classic_lane *lane = (struct classic_lane *)watch;
	struct iovec iov = {lane->status, 1};

	if (lane->state == LANE_CONNECTING) {
		connected(lane);
		return;
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		lane->readable = true;
	if (events & EPOLLOUT)
		lane->writable = true;
	if (lane->request) {
		if (!lane->posted)
			pump(lane);
	} else if (lane->readable) {
		/* Nothing is asked: the server closed, or is none of this protocol. */
		if (mci_sock_recvv(&lane->sock, &iov, 1) == -EAGAIN)
			lane->readable = false;
		else
			mci_classic_lane_close(lane, false);
	}
}

static void on_go_on(struct mci_task *task)
{
	struct classic_lane *lane = container(task, struct classic_lane, task);

	lane->posted = false;
	if (lane->request && lane->state >= LANE_OPEN)
		pump(lane);
}

static void on_timer(struct mci_timer *timer)
{
	struct classic_lane *lane = container(timer, struct classic_lane, timer);

	if (lane->state == LANE_LINGER) {
		/* It was sent, and nobody says more. */
		atomic_store(&lane->peer->unsettled, true);
		end(lane, MC_DONE, 0, MC_STATUS_UNCONFIRMED, false);
	} else if (mci_now_ns() >= lane->request->deadline_ns) {
		end(lane, MC_TIMED_OUT, -ETIMEDOUT, 0, false);
	} else {
		connect_failed(lane, -EHOSTUNREACH);
	}
}

void mci_classic_lane_init(struct classic_lane *lane, struct classic_peer *peer)
{
	lane->peer = peer;
	lane->sock.fd = -1;
	lane->watch.fd = -1;
	lane->watch.fn = on_event;
	lane->task.fn = on_go_on;
	lane->timer.fn = on_timer;
}

static int watch(struct classic_lane *lane, int fd)
{
	int ret;

	lane->sock.fd = fd;
	lane->watch.fd = fd;
	ret = mci_loop_add(lane->peer->loop, &lane->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	if (ret) {
		mci_sock_close(&lane->sock);
		lane->watch.fd = -1;
	}
	return ret;
}

void mci_classic_lane_adopt(struct classic_lane *lane, int fd)
{
	if (watch(lane, fd))
		return;
	lane->state = LANE_OPEN;
	lane->readable = false;
	lane->writable = true;
	lane->used = true; /* it may wait for long: one that breaks then is stale like any other */
}

static void connect_lane(struct classic_lane *lane)
{
	struct classic_peer *peer = lane->peer;
	uint64_t until = mci_now_ns() + peer->classic->host->options.connect_timeout_ms * MCI_NS_PER_MS;
	int fd, ret;

	ret = mci_classic_dial(peer, peer->data_port, &fd);
	if (!ret)
		ret = watch(lane, fd);
	if (ret) {
		connect_failed(lane, ret);
		return;
	}
	lane->state = LANE_CONNECTING;
	if (until > lane->request->deadline_ns)
		until = lane->request->deadline_ns;
	mci_loop_timer_set(peer->loop, &lane->timer, until);
}

void mci_classic_lane_begin(struct classic_lane *lane, struct mci_request *request)
{
	lane->request = request;
	lane->header = (struct mci_classic_request){
		.size = request->length,
		.addr = request->remote->base + request->offset,
		.write = request->op == MCI_OP_WRITE,
		.v2 = lane->peer->v2,
	};
	mci_classic_request_encode(lane->header_bytes, &lane->header);
	lane->sent = 0;
	lane->received = 0;
	lane->send_error = 0;
	if (lane->state == LANE_CLOSED) {
		connect_lane(lane);
		return;
	}
	mci_loop_timer_set(lane->peer->loop, &lane->timer, request->deadline_ns);
	if (!lane->posted)
		pump(lane);
}

void mci_classic_lane_check(struct classic_lane *lane)
{
	enum mc_state state;
	int error;

	if (!lane->request)
		return;
	state = mci_classic_verdict(lane->peer, lane->request, &error);
	if (state != MC_PENDING)
		end(lane, state, error, 0, false);
}
