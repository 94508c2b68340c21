// SPDX-License-Identifier: MIT
/*
 * Notifies to a classic peer: one message of type 2 each, on a connection of its own to the rpc port,
 * one after the other. Loop thread of the peer.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "core/clock.h"
#include "transport/classic/classic.h"

void mci_classic_notify_close(struct classic_peer *peer)
{
	struct classic_notify *notify = &peer->notify;

	mci_loop_timer_clear(peer->loop, &notify->timer);
	if (notify->sock.fd >= 0) {
		mci_loop_del(peer->loop, &notify->watch);
		mci_sock_close(&notify->sock);
		notify->watch.fd = -1;
	}
	free(notify->frame);
	notify->frame = NULL;
}

static void end(struct classic_peer *peer, enum mc_state state, int error)
{
	struct mci_request *request = peer->notify.request;

	peer->notify.request = NULL;
	mci_classic_notify_close(peer);
	mci_classic_finish(peer, request, state, error, 0);
	mci_classic_notify_next(peer);
}

/* Returns 1 when the reply is complete and good, 0 when more has to come, or -errno. */
static int examine(struct classic_notify *notify)
{
	size_t length;
	int ret;

	if (notify->received < MCI_CLASSIC_PREFIX)
		return 0;
	ret = mci_classic_prefix(notify->reply, MCI_CLASSIC_NOTIFY, CLASSIC_REPLY_MAX - MCI_CLASSIC_PREFIX,
				 &length);
	if (ret)
		return ret;
	if (notify->received < MCI_CLASSIC_PREFIX + length)
		return 0;
	ret = mci_classic_notify_reply((const char *)notify->reply + MCI_CLASSIC_PREFIX, length);
	return ret ? ret : 1;
}

static void pump(struct classic_peer *peer)
{
	struct classic_notify *notify = &peer->notify;
	struct iovec iov;
	ssize_t n;
	int ret;

	while (notify->sent < notify->frame_length) {
		iov = (struct iovec){notify->frame + notify->sent, notify->frame_length - notify->sent};
		n = mci_sock_sendv(&notify->sock, &iov, 1);
		if (n == -EAGAIN)
			break;
		if (n < 0) {
			end(peer, MC_FAILED, (int)n);
			return;
		}
		notify->sent += (size_t)n;
	}
	for (;;) {
		iov = (struct iovec){notify->reply + notify->received, CLASSIC_REPLY_MAX - notify->received};
		n = iov.iov_len ? mci_sock_recvv(&notify->sock, &iov, 1) : -EPROTO;
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			end(peer, MC_FAILED, n ? (int)n : -ECONNRESET);
			return;
		}
		notify->received += (size_t)n;
		ret = examine(notify);
		if (ret) {
			end(peer, ret > 0 ? MC_DONE : MC_FAILED, ret > 0 ? 0 : ret);
			return;
		}
	}
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	struct classic_peer *peer = container(watch, struct classic_peer, notify.watch);
	int ret;

	(void)events;
	if (!peer->notify.connected) {
		ret = mci_classic_dialled(watch->fd);
		if (ret == -EINPROGRESS)
			return;
		if (ret) {
			end(peer, MC_FAILED, ret);
			return;
		}
		peer->notify.connected = true;
	}
	pump(peer);
}

static void on_timer(struct mci_timer *timer)
{
	end(container(timer, struct classic_peer, notify.timer), MC_TIMED_OUT, -ETIMEDOUT);
}

static int make_frame(const struct mci_request *request, uint8_t **frame, size_t *length)
{
	char *text;
	int ret;

	ret = mci_classic_notify_encode(request->local, request->length, &text);
	if (ret)
		return ret;
	ret = mci_classic_frame(MCI_CLASSIC_NOTIFY, text, frame, length);
	free(text);
	return ret;
}

static int start(struct classic_peer *peer, struct mci_request *request)
{
	struct classic_notify *notify = &peer->notify;
	int ret, fd;

	if (peer->no_notify)
		return -EOPNOTSUPP;
	ret = make_frame(request, &notify->frame, &notify->frame_length);
	ret = ret ?: mci_classic_dial(peer, peer->rpc_port, &fd);
	if (ret)
		return ret;
	notify->sent = 0;
	notify->received = 0;
	notify->connected = false;
	notify->sock.fd = fd;
	notify->watch.fd = fd;
	mci_loop_timer_set(peer->loop, &notify->timer, request->deadline_ns);
	return mci_loop_add(peer->loop, &notify->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

void mci_classic_notify_next(struct classic_peer *peer)
{
	struct mci_request *request;
	enum mc_state state;
	int error;

	while (!peer->notify.request && (request = mci_classic_pop(&peer->notifies))) {
		state = mci_classic_verdict(peer, request, &error);
		if (state == MC_PENDING) {
			peer->notify.request = request;
			error = start(peer, request);
			if (!error)
				return;
			state = MC_FAILED;
			peer->notify.request = NULL;
			mci_classic_notify_close(peer);
		}
		mci_classic_finish(peer, request, state, error, 0);
	}
}

void mci_classic_notify_check(struct classic_peer *peer)
{
	enum mc_state state;
	int error;

	if (!peer->notify.request)
		return;
	state = mci_classic_verdict(peer, peer->notify.request, &error);
	if (state != MC_PENDING)
		end(peer, state, error);
}

void mci_classic_notify_init(struct classic_peer *peer)
{
	peer->notify.sock.fd = -1;
	peer->notify.watch.fd = -1;
	peer->notify.watch.fn = on_event;
	peer->notify.timer.fn = on_timer;
}
