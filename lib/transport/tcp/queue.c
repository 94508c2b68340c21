// SPDX-License-Identifier: MIT
/*
 * A peer's queues: where a request stands, which slice of it goes next, what answers do to it. A request
 * is on exactly one list from submit to completion. Lock order: see peer.h; all but the functions that
 * say otherwise are called with peer->lock held.
 */
#include <errno.h>

#include "transport/tcp/peer.h"

#define READ_WINDOW (8u << 20) /* bytes asked for and not here yet, per stream */

/* request->state: list, and how it ended while slices are still in flight: enum mc_state, errno. */
#define STATE(list, end, err) ((uint32_t)(list) | (uint32_t)(end) << 8 | (uint32_t)(err) << 16)

enum mci_tcp_list mci_tcp_request_list(const struct mci_request *r)
{
	return (enum mci_tcp_list)(r->state & 0xff);
}

enum mc_state mci_tcp_request_end(const struct mci_request *r)
{
	return (enum mc_state)(r->state >> 8 & 0xff);
}

static int error_of(const struct mci_request *r) { return -(int)(r->state >> 16); }

void mci_tcp_request_set_end(struct mci_request *r, enum mc_state end, int err)
{
	if (!mci_tcp_request_end(r))
		r->state = STATE(mci_tcp_request_list(r), end, -err);
}

void mci_tcp_request_link(struct mci_tcp_peer *peer, struct mci_request *r, enum mci_tcp_list list,
			  bool front)
{
	struct mci_request *first = peer->list[list].first, *last = peer->list[list].last;

	r->state = (r->state & ~0xffu) | (uint32_t)list;
	r->prev = front ? NULL : last;
	r->next = front ? first : NULL;
	if (r->prev)
		r->prev->next = r;
	else
		peer->list[list].first = r;
	if (r->next)
		r->next->prev = r;
	else
		peer->list[list].last = r;
	if (list != MCI_TCP_FLIGHT)
		atomic_fetch_add_explicit(&peer->queued, 1, memory_order_relaxed);
}

void mci_tcp_request_unlink(struct mci_tcp_peer *peer, struct mci_request *r)
{
	enum mci_tcp_list list = mci_tcp_request_list(r);

	if (r->prev)
		r->prev->next = r->next;
	else
		peer->list[list].first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		peer->list[list].last = r->prev;
	if (list != MCI_TCP_FLIGHT)
		atomic_fetch_sub_explicit(&peer->queued, 1, memory_order_relaxed);
	r->next = NULL;
	r->prev = NULL;
	r->state &= ~0xffu;
}

enum mci_tcp_list mci_tcp_request_class(const struct mci_request *r)
{
	if (r->op >= MCI_OP_NOTIFY)
		return MCI_TCP_ORDERED;
	return r->priority > 0 ? MCI_TCP_HIGH : MCI_TCP_LOW;
}

/* Off the lists, onto the chain of those to complete. */
void mci_tcp_request_finish(struct mci_tcp_peer *peer, struct mci_request *r, struct mci_request **chain)
{
	mci_tcp_request_unlink(peer, r);
	r->next = *chain;
	*chain = r;
}

bool mci_tcp_peer_pending(const struct mci_tcp_peer *peer)
{
	return peer->queued || peer->list[MCI_TCP_FLIGHT].first;
}

static void complete_fence(struct mci_tcp_peer *peer, struct mci_request *r, int err)
{
	struct mci_tcp_fence *fence = (struct mci_tcp_fence *)r;
	struct mci_tcp *tcp = peer->tcp;

	pthread_mutex_lock(&tcp->fence_lock);
	fence->error = err;
	fence->done = true;
	pthread_cond_broadcast(&tcp->fence_done);
	pthread_mutex_unlock(&tcp->fence_lock);
}

void mci_tcp_peer_complete(struct mci_tcp_peer *peer, struct mci_request *chain)
{
	while (chain) {
		struct mci_request *r = chain;
		enum mc_state end = mci_tcp_request_end(r) ? mci_tcp_request_end(r) : MC_DONE;
		int err = error_of(r);

		chain = r->next;
		r->next = NULL;
		if (r->op == MCI_TCP_OP_FENCE)
			complete_fence(peer, r, err);
		else
			peer->tcp->host->complete(r, end, err, r->done_bytes, 0);
	}
}

/* Answers that came in order of completion are completed in that order, too. */
struct mci_request *mci_tcp_chain_reversed(struct mci_request *chain)
{
	struct mci_request *out = NULL;

	while (chain) {
		struct mci_request *next = chain->next;

		chain->next = out;
		out = chain;
		chain = next;
	}
	return out;
}

bool mci_tcp_peer_done(struct mci_tcp_peer *peer, struct mci_tcp_link *link, const struct mci_tcp_done *done,
		       unsigned int count)
{
	struct mci_request *chain = NULL;
	unsigned int i;
	bool more;

	pthread_mutex_lock(&peer->lock);
	if (peer->link != link) { /* broken meanwhile: these slices are sent anew */
		pthread_mutex_unlock(&peer->lock);
		return false;
	}
	for (i = 0; i < count; i++) {
		struct mci_request *r = done[i].request;

		r->outstanding--;
		if (done[i].status)
			mci_tcp_request_set_end(r, MC_FAILED, done[i].status);
		else
			r->done_bytes += done[i].length;
		if (!r->outstanding && (r->cursor == r->length || mci_tcp_request_end(r)))
			mci_tcp_request_finish(peer, r, &chain);
		else if (done[i].status && mci_tcp_request_list(r) != MCI_TCP_FLIGHT) {
			mci_tcp_request_unlink(peer, r); /* send no more of it */
			mci_tcp_request_link(peer, r, MCI_TCP_FLIGHT, false);
		}
	}
	peer->reconnect.backoff_ns = 0;
	more = peer->queued > 0;
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_complete(peer, mci_tcp_chain_reversed(chain));
	return more;
}

/* Slices of the first request of @list; false: nothing more can be had from it now. */
static bool take_one(struct mci_tcp_peer *peer, struct mci_tcp_stream *s, enum mci_tcp_list list,
		     struct mci_tcp_slice *slice, struct mci_request **ended, bool *got)
{
	struct mci_request *r = peer->list[list].first;
	uint32_t size = peer->slice_size < s->slice_max ? peer->slice_size : s->slice_max;
	uint64_t left;

	*got = false;
	if (!r)
		return false;
	if (r->remote && atomic_load_explicit(&r->remote->stale, memory_order_relaxed)) {
		mci_tcp_request_set_end(r, MC_FAILED, -ESTALE);
		if (!r->outstanding) {
			mci_tcp_request_finish(peer, r, ended);
		} else {
			mci_tcp_request_unlink(peer, r);
			mci_tcp_request_link(peer, r, MCI_TCP_FLIGHT, false);
		}
		return true;
	}
	left = r->length - r->cursor;
	if (left > size && (list == MCI_TCP_HIGH || list == MCI_TCP_LOW)) {
		/* A short tail rides with the last slice. */
		left = left < size + size / 2 && left <= s->slice_max ? left : size;
	}
	if (r->op == MCI_OP_READ) {
		uint64_t reading = atomic_load_explicit(&s->reading, memory_order_relaxed);

		if (reading && reading + left > READ_WINDOW)
			return false;
		atomic_fetch_add_explicit(&s->reading, left, memory_order_relaxed);
	}
	if (r->op == MCI_OP_NOTIFY && !r->tag)
		r->tag = atomic_fetch_add(&peer->tcp->sequences, 1) + 1;
	*slice = (struct mci_tcp_slice){.request = r, .at = r->cursor, .length = (uint32_t)left};
	r->cursor += left;
	r->outstanding++;
	if (r->cursor == r->length) {
		mci_tcp_request_unlink(peer, r);
		mci_tcp_request_link(peer, r, MCI_TCP_FLIGHT, false);
	}
	*got = true;
	return true;
}

unsigned int mci_tcp_peer_take(struct mci_tcp_peer *peer, struct mci_tcp_stream *s,
			       struct mci_tcp_slice *slices, unsigned int max, uint64_t room,
			       struct mci_request **ended)
{
	/* Notifies and fences travel on one stream, in order. */
	static const enum mci_tcp_list order[] = {MCI_TCP_ORDERED, MCI_TCP_HIGH, MCI_TCP_LOW};
	unsigned int n = 0, i;
	uint64_t taken = 0;
	bool got;

	pthread_mutex_lock(&peer->lock);
	for (i = s->index ? 1 : 0; i < 3 && peer->state == MCI_TCP_UP && peer->link == s->link; i++) {
		while (n < max && taken < room && take_one(peer, s, order[i], &slices[n], ended, &got)) {
			if (got)
				taken += MCI_TCP_HEADER + slices[n++].length;
		}
		if (n == max || taken >= room)
			break;
	}
	pthread_mutex_unlock(&peer->lock);
	return n;
}

void mci_tcp_peer_fail(struct mci_tcp_peer *peer, int err, const struct mci_tcp_handle *handle,
		       struct mci_request **chain)
{
	struct mci_request *r, *next;
	int i;

	for (i = MCI_TCP_HIGH; i < MCI_TCP_LISTS; i++) {
		for (r = peer->list[i].first; r; r = next) {
			next = r->next;
			if (handle && (r->peer != (const struct mci_peer *)handle ||
				       (r->remote && !atomic_load(&r->remote->stale))))
				continue;
			mci_tcp_request_set_end(r, MC_FAILED, err);
			mci_tcp_request_finish(peer, r, chain);
		}
	}
}

/* Locked; all streams are closed. What was in flight ends, or goes back to where it came from. */
struct mci_request *mci_tcp_peer_take_back(struct mci_tcp_peer *peer)
{
	struct mci_request *chain = NULL, *r, *prev;
	int i;

	for (r = peer->list[MCI_TCP_FLIGHT].last; r; r = prev) {
		prev = r->prev;
		r->outstanding = 0;
		if (mci_tcp_request_end(r)) {
			mci_tcp_request_finish(peer, r, &chain);
			continue;
		}
		mci_tcp_request_unlink(peer, r);
		mci_tcp_request_link(peer, r, mci_tcp_request_class(r), true);
	}
	for (i = MCI_TCP_HIGH; i < MCI_TCP_FLIGHT; i++) {
		for (r = peer->list[i].first; r; r = r->next) {
			if (r->cursor)
				atomic_fetch_add_explicit(&peer->tcp->host->stats.resent, 1,
							  memory_order_relaxed);
			r->cursor = 0;
			r->outstanding = 0;
			r->done_bytes = 0;
		}
	}
	return chain;
}
