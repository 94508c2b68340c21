// SPDX-License-Identifier: MIT
/*
 * One connection at a server, from its first byte to its handler: a state machine driven by
 * edge-triggered events, which reads exactly the bytes of the opening and never one more.
 * Lock order: service->lock is a leaf (see incoming.h); no callback runs under it.
 */
#include "net/incoming.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "net/addr.h"
#include "net/tls.h"

#define LINGER_BYTES (64 * 1024)

#define of(ptr, member) ((struct mci_incoming *)((char *)(ptr) - offsetof(struct mci_incoming, member)))

static void unwatch(struct mci_incoming *in)
{
	if (in->watched)
		mci_loop_del(in->loop, &in->watch);
	in->watched = false;
}

static void free_buffers(struct mci_incoming *in)
{
	if (in->in != in->in_small) {
		atomic_fetch_sub(&in->service->classic_bytes, (int64_t)in->in_size);
		free(in->in);
	}
	if (in->out != in->out_small)
		free(in->out);
	in->in = in->in_small;
	in->in_size = sizeof(in->in_small);
	in->out = in->out_small;
}

static void release(struct mci_incoming *in)
{
	struct mci_service *service = in->service;

	mci_wipe(in->key, sizeof(in->key));
	mci_wipe(&in->hello, sizeof(in->hello));
	free(in);
	mci_service_put(service);
}

/* The connection is over, or was handed over (sock.fd is -1 then). */
static void drop(struct mci_incoming *in)
{
	struct mci_service *service = in->service;
	bool evicting;

	unwatch(in);
	mci_loop_timer_clear(in->loop, &in->timer);
	mci_sock_close(&in->sock);
	free_buffers(in);
	if (in->charged)
		mci_ledger_give(service->attr.ledger, &in->payer, sizeof(*in));
	in->charged = false;
	in->state = INCOMING_CLOSED;

	pthread_mutex_lock(&service->lock);
	if (in->in_unproved)
		mci_incoming_unlist(in);
	if (in->all_prev)
		in->all_prev->all_next = in->all_next;
	else
		service->all = in->all_next;
	if (in->all_next)
		in->all_next->all_prev = in->all_prev;
	evicting = in->evicting;
	in->over = true;
	pthread_mutex_unlock(&service->lock);
	if (!evicting)
		release(in);
}

/* After the decision the handler hears of every end; before, nobody has to. */
static void fail(struct mci_incoming *in, int err)
{
	struct mci_sock none = {.fd = -1, .tls = NULL};

	unwatch(in); /* before the close: the number may be another's right after */
	mci_sock_close(&in->sock);
	if (in->ready)
		in->ready(in->ready_arg, none, &in->hello, err);
	drop(in);
}

static void refuse(struct mci_incoming *in, const char *why)
{
	char peer[MCI_ADDR_TEXT + 64];

	atomic_fetch_add(&in->service->refused, 1);
	if (mci_log_threshold >= MCI_LOG_INFO) {
		mci_peer_text(in->sock.fd, peer, sizeof(peer));
		mci_info("connection from %s closed: %s", peer, why);
	}
}

/* Say why, then close once the peer has read it. */
static void reject(struct mci_incoming *in, int err, const char *sentence)
{
	ssize_t n = mci_reject_write(err, sentence, in->out_small, sizeof(in->out_small));

	refuse(in, sentence);
	in->out = in->out_small;
	in->out_length = n > 0 ? (size_t)n : 0;
	in->out_done = 0;
	in->state = INCOMING_SENDING;
	in->after = INCOMING_LINGER;
}

/* Proved: out of the bounds for strangers, to the handler. Returns false if it was evicted just before. */
static bool leave_unproved(struct mci_incoming *in)
{
	bool evicted;

	pthread_mutex_lock(&in->service->lock);
	evicted = in->evicting;
	if (in->in_unproved)
		mci_incoming_unlist(in);
	pthread_mutex_unlock(&in->service->lock);
	return !evicted;
}

static void take_hello(struct mci_incoming *in)
{
	char sentence[MCI_SENTENCE_MAX + 1];
	int ret = mci_greet_hello(in, sentence);

	if (ret) {
		reject(in, ret, sentence);
		return;
	}
	in->in_length = 0;
	in->out_done = 0;
	in->state = INCOMING_SENDING;
	in->after = INCOMING_PROOF;
}

static void take_proof(struct mci_incoming *in)
{
	char sentence[MCI_SENTENCE_MAX + 1];
	int ret = mci_greet_proof(in, sentence);

	if (!ret) {
		mci_payer_of(in->sock.fd, &in->hello.peer.uuid, &in->payer);
		ret = mci_ledger_take(in->service->attr.ledger, &in->payer, sizeof(*in), sentence);
		in->charged = !ret;
	}
	if (ret) { /* it stays among the unproved, whose bounds hold for it */
		reject(in, ret, sentence);
		return;
	}
	if (!leave_unproved(in)) {
		in->state = INCOMING_CLOSED; /* the evict task does the rest */
		unwatch(in);
		return;
	}
	unwatch(in);
	mci_loop_timer_clear(in->loop, &in->timer);
	in->state = INCOMING_WAITING;
	in->service->attr.connection(in->service->attr.arg, in);
}

/* Room for @need bytes and a NUL; a classic message grows as its bytes come, not by what it claims. */
static int make_room(struct mci_incoming *in, size_t need)
{
	size_t size = in->in_size;
	uint8_t *bigger;

	if (need < size || in->in_length + 1 < size)
		return 0;
	size = size * 2 > need + 1 ? need + 1 : size * 2;
	if (atomic_fetch_add(&in->service->classic_bytes, (int64_t)size) + (int64_t)size > MCI_CLASSIC_TOTAL)
		goto err_uncount;
	bigger = malloc(size);
	if (!bigger)
		goto err_uncount;
	memcpy(bigger, in->in, in->in_length);
	if (in->in != in->in_small) {
		atomic_fetch_sub(&in->service->classic_bytes, (int64_t)in->in_size);
		free(in->in);
	}
	in->in = bigger;
	in->in_size = size;
	return 0;

err_uncount:
	atomic_fetch_sub(&in->service->classic_bytes, (int64_t)size);
	return -ENOMEM;
}

/* Read up to the end of the message and no further. 0 = it is there, -EAGAIN, 1 = closed and dropped. */
static int read_message(struct mci_incoming *in)
{
	for (;;) {
		ssize_t need = in->state == INCOMING_OPENING
				       ? mci_opening_need(in->in, in->in_length, in->service->attr.classic)
				       : mci_message_need(in->in, in->in_length);
		struct iovec iov;
		ssize_t n;

		if (need == (ssize_t)in->in_length)
			return 0;
		if (need < 0) {
			refuse(in, need == -EACCES ? "a classic message, and classic peers are not served "
						     "here (--classic)"
						   : "these are no messages of ours");
			goto err_drop;
		}
		if (make_room(in, (size_t)need)) {
			refuse(in, "too many classic messages at once");
			goto err_drop;
		}
		iov.iov_base = in->in + in->in_length;
		iov.iov_len = (size_t)need - in->in_length;
		if (iov.iov_len > in->in_size - 1 - in->in_length)
			iov.iov_len = in->in_size - 1 - in->in_length;
		n = mci_sock_recvv(&in->sock, &iov, 1);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n <= 0) {
			/* Who connects and goes without a word was another's second choice: no offence. */
			if (in->in_length || in->state != INCOMING_OPENING)
				refuse(in, "it ended in the middle of the opening");
			goto err_drop;
		}
		in->in_length += (size_t)n;
	}

err_drop:
	drop(in);
	return 1;
}

/* 0 = all is out, -EAGAIN, 1 = broken and dropped. */
static int write_out(struct mci_incoming *in)
{
	while (in->out_done < in->out_length) {
		struct iovec iov = {in->out + in->out_done, in->out_length - in->out_done};
		ssize_t n = mci_sock_sendv(&in->sock, &iov, 1);

		if (n == -EAGAIN)
			return -EAGAIN;
		if (n < 0) {
			fail(in, (int)n);
			return 1;
		}
		in->out_done += (size_t)n;
	}
	return 0;
}

/* Closing with bytes unread would reset the connection and take our last words with it. */
static int linger(struct mci_incoming *in)
{
	uint8_t waste[4096];

	for (;;) {
		struct iovec iov = {waste, sizeof(waste)};
		ssize_t n = mci_sock_recvv(&in->sock, &iov, 1);

		if (n == -EAGAIN)
			return -EAGAIN;
		if (n > 0)
			in->discarded += (size_t)n;
		if (n <= 0 || in->discarded > LINGER_BYTES) {
			drop(in);
			return 1;
		}
	}
}

static void hand_over(struct mci_incoming *in)
{
	struct mci_sock sock = in->sock;

	unwatch(in);
	mci_loop_timer_clear(in->loop, &in->timer);
	in->sock.fd = -1;
	in->sock.tls = NULL;
	in->ready(in->ready_arg, sock, &in->hello, 0);
	drop(in);
}

static int start_tls(struct mci_incoming *in)
{
	uint8_t key[MCI_TLS_KEY];
	int ret;

	mci_tls_key(&in->hello, key);
	ret = mci_tls_start(&in->sock, true, key);
	mci_wipe(key, sizeof(key));
	return ret;
}

/* A classic message that its handler answers later. False: it is none. */
static bool take_connection(struct mci_incoming *in)
{
	const char *json;
	size_t length;

	if (!mci_incoming_classic_later(in, &json, &length))
		return false;
	/* The handler bounds how many wait. */
	if (!leave_unproved(in)) {
		in->state = INCOMING_CLOSED; /* the evict task does the rest */
		unwatch(in);
		return true;
	}
	unwatch(in);
	mci_loop_timer_clear(in->loop, &in->timer);
	in->is_classic = true;
	mci_payer_of(in->sock.fd, &in->payer.peer, &in->payer); /* nobody proved who he is */
	in->state = INCOMING_WAITING;
	in->service->attr.classic_connection(in->service->attr.arg, in, json, length);
	return true;
}

/* As far as it goes without waiting. @in may be gone afterwards. */
static void drive(struct mci_incoming *in)
{
	int ret;

	for (;;) {
		switch (in->state) {
		case INCOMING_OPENING:
			if (read_message(in))
				return;
			if (mci_opening_is_hello(in->in, in->in_length)) {
				take_hello(in);
				break;
			}
			if (take_connection(in))
				return;
			ret = mci_incoming_classic(in);
			if (ret) {
				refuse(in, "a classic message that has no answer");
				drop(in);
				return;
			}
			in->state = INCOMING_SENDING;
			in->after = INCOMING_LINGER;
			break;
		case INCOMING_PROOF:
			if (read_message(in))
				return;
			take_proof(in);
			if (in->state == INCOMING_SENDING)
				break;
			return;
		case INCOMING_SENDING:
			if (write_out(in))
				return;
			in->state = in->after;
			if (in->state == INCOMING_LINGER)
				shutdown(in->sock.fd, SHUT_WR);
			if (in->state == INCOMING_TLS) {
				ret = start_tls(in);
				if (ret) {
					fail(in, ret);
					return;
				}
			}
			break;
		case INCOMING_TLS:
			ret = mci_tls_handshake(&in->sock);
			if (ret == -EAGAIN)
				return;
			if (ret) {
				refuse(in, mc_errmsg());
				fail(in, ret);
				return;
			}
			in->state = INCOMING_READY;
			break;
		case INCOMING_READY:
			hand_over(in);
			return;
		case INCOMING_LINGER:
			linger(in);
			return;
		case INCOMING_WAITING:
		case INCOMING_CLOSED:
			return;
		}
	}
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	(void)events;
	drive(of(watch, watch));
}

static void on_timer(struct mci_timer *timer)
{
	struct mci_incoming *in = of(timer, timer);

	if (in->state != INCOMING_LINGER)
		refuse(in, "it took too long");
	fail(in, -ETIMEDOUT);
}

/* Watch it for the time that openings have; drive() once by the event that comes at once. */
static void watch(struct mci_incoming *in, uint64_t until_ns)
{
	int ret;

	in->watch.fd = in->sock.fd;
	ret = mci_loop_add(in->loop, &in->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	if (ret) {
		mci_warn("a connection was closed: %s", mc_errmsg());
		fail(in, ret);
		return;
	}
	in->watched = true;
	mci_loop_timer_set(in->loop, &in->timer, until_ns);
}

/* The handler has answered a classic message. */
static void decide_classic(struct mci_incoming *in)
{
	char *reply = in->classic_reply;

	in->classic_reply = NULL;
	if (in->state == INCOMING_CLOSED || !reply || mci_incoming_classic_reply(in, reply)) {
		if (in->state != INCOMING_CLOSED)
			refuse(in, "a classic message that has no answer");
		free(reply);
		drop(in);
		return;
	}
	free(reply);
	in->state = INCOMING_SENDING;
	in->after = INCOMING_LINGER;
	watch(in, mci_now_ns() + MCI_UNPROVED_NS);
}

static void decide(struct mci_task *task)
{
	struct mci_incoming *in = of(task, decide);

	if (in->is_classic) {
		decide_classic(in);
		return;
	}
	if (in->state == INCOMING_CLOSED) { /* the service stopped meanwhile */
		if (in->accepted)
			fail(in, -ECANCELED);
		else
			drop(in);
		return;
	}
	if (!in->accepted) {
		reject(in, in->error, in->sentence);
	} else if (in->error) {
		fail(in, in->error);
		return;
	} else {
		mci_greet_accept(in);
		in->out_done = 0;
		in->state = INCOMING_SENDING;
		in->after = in->hello.features & MCI_FEATURE_INTEGRITY ? INCOMING_TLS : INCOMING_READY;
	}
	watch(in, mci_now_ns() + MCI_UNPROVED_NS);
}

static void on_evict(struct mci_task *task)
{
	struct mci_incoming *in = of(task, evict);
	bool over;

	pthread_mutex_lock(&in->service->lock);
	in->evicting = false;
	over = in->over;
	pthread_mutex_unlock(&in->service->lock);
	if (over) {
		release(in);
		return;
	}
	if (in->state != INCOMING_LINGER)
		refuse(in, "too many connections that have not proved themselves; it was the oldest of them");
	drop(in);
}

void mci_incoming_prepare(struct mci_incoming *in)
{
	in->watch.fn = on_event;
	in->timer.fn = on_timer;
	in->evict.fn = on_evict;
	in->decide.fn = decide;
}

void mci_incoming_begin(struct mci_incoming *in) { watch(in, in->until_ns); }

void mci_incoming_abort(struct mci_incoming *in)
{
	if (in->state == INCOMING_WAITING) { /* the handler has it: its decision will free it */
		mci_sock_close(&in->sock);
		in->state = INCOMING_CLOSED;
	} else if (in->state != INCOMING_CLOSED) {
		fail(in, -ECANCELED);
	}
}

const struct mci_hello *mci_incoming_hello(const struct mci_incoming *in) { return &in->hello; }

bool mci_incoming_is_unix(const struct mci_incoming *in) { return in->is_unix; }

const struct mci_payer *mci_incoming_payer(const struct mci_incoming *in) { return &in->payer; }

struct mci_loop *mci_incoming_loop(const struct mci_incoming *in) { return in->loop; }

void mci_incoming_accept(struct mci_incoming *in, const void *params, uint16_t length,
			 void (*ready)(void *arg, struct mci_sock sock, const struct mci_hello *hello,
				       int error),
			 void *arg)
{
	in->accepted = true;
	in->ready = ready;
	in->ready_arg = arg;
	if (length > MCI_PARAMS_MAX) {
		in->error = -EMSGSIZE;
	} else {
		in->accept.params_length = length;
		if (length)
			memcpy(in->accept.params, params, length);
	}
	mci_loop_post(in->loop, &in->decide);
}

void mci_incoming_answer(struct mci_incoming *in, char *reply)
{
	in->classic_reply = reply;
	mci_loop_post(in->loop, &in->decide);
}

void mci_incoming_reject(struct mci_incoming *in, int err, const char *sentence)
{
	in->error = err;
	snprintf(in->sentence, sizeof(in->sentence), "%s", sentence);
	mci_loop_post(in->loop, &in->decide);
}
