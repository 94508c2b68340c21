// SPDX-License-Identifier: MIT
/*
 * A peer's life: submitting, deadlines, cancelling, breaking a session and starting over, fences, its end; and
 * the opening and closing of handles.
 * Lock order: see peer.h.
 */
#include "transport/tcp/peer.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/errors.h"
#include "core/log.h"

#define INLINE_MAX (128u << 10) /* a submit of more is sent by the loops, if near */
#define INLINE_BYTES (1u << 20) /* else what a submitting thread sends itself, per stream */
#define TIMER_STEP_NS (10 * MCI_NS_PER_MS)

/* Loop thread. */
static void arm_timer(struct mci_task *task)
{
	struct mci_tcp_peer *peer =
		(struct mci_tcp_peer *)((char *)task - offsetof(struct mci_tcp_peer, timer_task));
	uint64_t at;

	pthread_mutex_lock(&peer->lock);
	peer->timer_posted = false;
	at = peer->closing ? 0 : peer->timer_at;
	pthread_mutex_unlock(&peer->lock);
	if (at)
		mci_loop_timer_set(peer->loop, &peer->timer, at);
	mci_tcp_peer_put(peer);
}

/* Locked. Look at the requests at @at_ns the latest. */
static void need_timer(struct mci_tcp_peer *peer, uint64_t at_ns)
{
	if (peer->timer_at && peer->timer_at <= at_ns)
		return;
	peer->timer_at = at_ns;
	if (peer->timer_posted)
		return;
	peer->timer_posted = true;
	atomic_fetch_add(&peer->refs, 1);
	mci_loop_post(peer->loop, &peer->timer_task);
}

/* Locked. @r ends with @end: at once, or once its slices in flight are answered or their session is broken.
 */
static void stop_request(struct mci_tcp_peer *peer, struct mci_request *r, enum mc_state end, int err,
			 struct mci_request **chain)
{
	mci_tcp_request_set_end(r, end, err);
	if (!r->outstanding) {
		mci_tcp_request_finish(peer, r, chain);
		return;
	}
	if (mci_tcp_request_list(r) != MCI_TCP_FLIGHT) {
		mci_tcp_request_unlink(peer, r);
		mci_tcp_request_link(peer, r, MCI_TCP_FLIGHT, false);
	}
	if (!peer->grace_at) {
		peer->grace_at = mci_now_ns() + MCI_TCP_GRACE_NS;
		need_timer(peer, peer->grace_at);
	}
}

static void on_timer(struct mci_timer *timer)
{
	struct mci_tcp_peer *peer =
		(struct mci_tcp_peer *)((char *)timer - offsetof(struct mci_tcp_peer, timer));
	struct mci_request *chain = NULL, *r, *next;
	uint64_t now = mci_now_ns(), soonest = UINT64_MAX;
	struct mci_tcp_link *broken = NULL;
	bool overdue = false;
	int i;

	pthread_mutex_lock(&peer->lock);
	peer->timer_at = 0;
	for (i = MCI_TCP_HIGH; i < MCI_TCP_LISTS; i++) {
		for (r = peer->list[i].first; r; r = next) {
			next = r->next;
			if (now >= r->deadline_ns)
				stop_request(peer, r, MC_TIMED_OUT, -ETIMEDOUT, &chain);
			else if (r->deadline_ns < soonest)
				soonest = r->deadline_ns;
		}
	}
	for (r = peer->list[MCI_TCP_FLIGHT].first; r && !overdue; r = r->next)
		overdue = mci_tcp_request_end(r) == MC_CANCELLED || now >= r->deadline_ns;
	if (!overdue || peer->state != MCI_TCP_UP) {
		peer->grace_at = 0;
	} else if (now >= peer->grace_at) {
		peer->grace_at = 0;
		broken = peer->link;
		mci_tcp_link_get(broken);
	} else if (peer->grace_at < soonest) {
		soonest = peer->grace_at;
	}
	if (soonest != UINT64_MAX)
		need_timer(peer, soonest < now + TIMER_STEP_NS ? now + TIMER_STEP_NS : soonest);
	pthread_mutex_unlock(&peer->lock);

	if (broken) {
		mci_tcp_peer_break(peer, broken, -ETIMEDOUT,
				   "requests timed out or were cancelled, and no answer came");
		mci_tcp_link_put(broken);
	}
	mci_tcp_peer_complete(peer, mci_tcp_chain_reversed(chain));
}

/*
 * Send what is queued, as far as the sockets take it now; the loops go on from there. Where a stream's ends
 * share a core, much is left to its loop: sent from here, most of it would be copied from another core's cache.
 */
static void pump_all(struct mci_tcp_link *link, unsigned int turn, uint64_t bytes)
{
	unsigned int i;

	if (bytes > INLINE_MAX && link->streams[0]->near) {
		for (i = 0; i < link->count; i++)
			mci_tcp_stream_post(link->streams[(turn + i) % link->count]);
		return;
	}
	for (i = 0; i < link->count; i++)
		mci_tcp_stream_pump(link->streams[(turn + i) % link->count], INLINE_BYTES);
}

void mci_tcp_peer_go(struct mci_tcp_peer *peer, uint64_t soonest, uint64_t bytes, struct mci_request *chain)
{
	struct mci_tcp_link *link = NULL;
	unsigned int turn = peer->turn++;

	if (peer->queued && soonest != UINT64_MAX)
		need_timer(peer, soonest);
	if (peer->state == MCI_TCP_UP) {
		link = peer->link;
		mci_tcp_link_get(link);
	} else if (peer->state == MCI_TCP_DOWN && peer->queued) {
		mci_tcp_connector_start(peer, &chain);
	}
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_complete(peer, mci_tcp_chain_reversed(chain));
	if (link) {
		pump_all(link, turn, bytes);
		mci_tcp_link_put(link);
	}
}

void mci_tcp_submit(struct mci_peer *p, struct mci_request *first)
{
	struct mci_tcp_peer *peer = mci_tcp_handle_lock((struct mci_tcp_handle *)p);
	struct mci_request *chain = NULL, *r, *next;
	uint64_t soonest = UINT64_MAX, bytes = 0;

	for (r = first; r; r = next) {
		next = r->next;
		bytes += r->length;
		r->next = NULL;
		r->prev = NULL;
		r->cursor = 0;
		r->done_bytes = 0;
		r->outstanding = 0;
		r->state = 0;
		r->tag = 0;
		r->peer = p;
		if (r->deadline_ns < soonest)
			soonest = r->deadline_ns;
		mci_tcp_request_link(peer, r, mci_tcp_request_class(r), false);
		if (r->remote && atomic_load_explicit(&r->remote->stale, memory_order_relaxed))
			stop_request(peer, r, MC_FAILED, -ESTALE, &chain);
		else if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
			stop_request(peer, r, MC_CANCELLED, -ECANCELED, &chain);
	}
	mci_tcp_peer_go(peer, soonest, bytes, chain);
}

void mci_tcp_cancel(struct mci_peer *p, struct mci_request *r)
{
	struct mci_tcp_peer *peer = mci_tcp_handle_lock((struct mci_tcp_handle *)p);
	struct mci_request *chain = NULL;

	if (mci_tcp_request_list(r) != MCI_TCP_NOWHERE)
		stop_request(peer, r, MC_CANCELLED, -ECANCELED, &chain);
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_complete(peer, chain);
}

void mci_tcp_peer_break(struct mci_tcp_peer *peer, struct mci_tcp_link *link, int err, const char *why)
{
	unsigned int i, n;

	pthread_mutex_lock(&peer->lock);
	if (peer->state != MCI_TCP_UP || peer->link != link) {
		pthread_mutex_unlock(&peer->lock);
		return;
	}
	peer->state = MCI_TCP_CLOSING;
	n = link->count;
	peer->closing_left = n;
	if (!peer->closing)
		mci_info("connections to segment '%s' are closed: %s (%s)", peer->name, why, strerror(-err));
	mci_tcp_link_get(link); /* the last of these tasks drops the peer's */
	pthread_mutex_unlock(&peer->lock);
	for (i = 0; i < n; i++)
		mci_loop_post(link->streams[i]->loop, &link->streams[i]->close_task);
	mci_tcp_link_put(link);
}

void mci_tcp_peer_stream_closed(struct mci_tcp_peer *peer)
{
	struct mci_request *chain;
	struct mci_tcp_link *link;

	pthread_mutex_lock(&peer->lock);
	if (--peer->closing_left) {
		pthread_mutex_unlock(&peer->lock);
		return;
	}
	link = peer->link;
	peer->link = NULL;
	peer->grace_at = 0;
	chain = mci_tcp_peer_take_back(peer);
	peer->state = MCI_TCP_DOWN;
	if (!peer->closing && peer->queued)
		mci_tcp_connector_start(peer, &chain);
	pthread_cond_broadcast(&peer->changed);
	atomic_fetch_add(&peer->refs, 1);
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_complete(peer, chain);
	mci_tcp_link_put(link);
	mci_tcp_peer_put(peer);
}

int mci_tcp_fence(struct mci_peer *p, uint64_t deadline_ns)
{
	struct mci_tcp_peer *peer = atomic_load(&((struct mci_tcp_handle *)p)->peer);
	struct mci_tcp *tcp = peer->tcp;
	struct mci_tcp_fence fence = {
		.request = {.op = MCI_TCP_OP_FENCE, .length = 1, .deadline_ns = deadline_ns}};

	/*
	 * A request that failed or timed out in flight took its session with it, so an incarnation that the
	 * target accepted since is all it takes; the answer to the fence shows that there is one.
	 */
	mci_tcp_submit(p, &fence.request);
	pthread_mutex_lock(&tcp->fence_lock);
	while (!fence.done) /* the request's deadline ends this */
		pthread_cond_wait(&tcp->fence_done, &tcp->fence_lock);
	pthread_mutex_unlock(&tcp->fence_lock);
	if (fence.error)
		return mci_fail(fence.error, "segment '%s' did not confirm a fence: %s", peer->name,
				strerror(-fence.error));
	return 0;
}

void mci_tcp_detail(struct mci_peer *p, const struct mci_remote_region *region, char *text, size_t size)
{
	struct mci_tcp_peer *peer = mci_tcp_handle_lock((struct mci_tcp_handle *)p);
	unsigned int n;

	(void)region;
	n = peer->link ? peer->link->count : 0;
	snprintf(text, size, "%u stream%s%s%s", n ? n : peer->stream_count, n == 1 ? "" : "s",
		 peer->integrity ? ", TLS" : "", peer->checksum ? ", checksums" : "");
	if (!n)
		snprintf(text, size, "disconnected");
	pthread_mutex_unlock(&peer->lock);
}

int mci_tcp_peer_new(struct mci_tcp *tcp, const struct mci_peer_info *info, struct mci_tcp_peer **out)
{
	const struct mci_transport_options *options = &tcp->host->options;
	struct mci_tcp_peer *peer;
	pthread_condattr_t attr;
	int ret;

	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return mci_fail(-ENOMEM, "no memory for a TCP peer");
	peer->tcp = tcp;
	peer->refs = 1;
	peer->uuid = info->uuid;
	peer->loop = mci_loops_next(tcp->host->loops);
	peer->slice_size = options->slice_size ? options->slice_size : MCI_TCP_SLICE;
	if (peer->slice_size > MCI_TCP_SLICE_MAX)
		peer->slice_size = MCI_TCP_SLICE_MAX;
	peer->stream_count = options->streams ? options->streams : tcp->host->loops->count;
	if (peer->stream_count > MCI_TCP_STREAMS_MAX)
		peer->stream_count = MCI_TCP_STREAMS_MAX;
	peer->timer.fn = on_timer;
	peer->timer_task.fn = arm_timer;
	pthread_mutex_init(&peer->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&peer->changed, &attr);
	pthread_condattr_destroy(&attr);
	ret = mci_tcp_peer_set_info(peer, info);
	if (ret) {
		mci_tcp_peer_put(peer);
		return ret;
	}
	*out = peer;
	return 0;
}

static void clear_timer(void *arg)
{
	struct mci_tcp_peer *peer = arg;

	mci_loop_timer_clear(peer->loop, &peer->timer);
}

void mci_tcp_peer_end(struct mci_tcp_peer *peer)
{
	struct mci_tcp_link *link;

	pthread_mutex_lock(&peer->lock);
	peer->closing = true;
	pthread_cond_broadcast(&peer->changed);
	while (peer->connectors)
		pthread_cond_wait(&peer->changed, &peer->lock);
	link = peer->state == MCI_TCP_UP ? peer->link : NULL;
	if (link)
		mci_tcp_link_get(link);
	pthread_mutex_unlock(&peer->lock);
	if (link) {
		mci_tcp_peer_break(peer, link, -ECANCELED, "its last handle is closed");
		mci_tcp_link_put(link);
	}
	pthread_mutex_lock(&peer->lock);
	while (peer->state != MCI_TCP_DOWN)
		pthread_cond_wait(&peer->changed, &peer->lock);
	pthread_mutex_unlock(&peer->lock);
	mci_loop_call(peer->loop, clear_timer, peer);
	mci_tcp_peer_put(peer);
}

int mci_tcp_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
		      struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
		      struct mci_peer **out)
{
	struct mci_tcp_handle *handle;
	struct mci_tcp_peer *peer;
	int ret;

	(void)regions;
	(void)count;
	if (!info->transport ||
	    json_integer_value(json_object_get(info->transport, "version")) != MCI_TCP_VERSION)
		return mci_fail(-EOPNOTSUPP,
				"segment '%s' does not serve TCP of our version; is it a classic peer?",
				info->name);
	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return mci_fail(-ENOMEM, "no memory for a way to segment '%s'", info->name);
	handle->cookie = cookie;
	ret = mci_tcp_peer_use((struct mci_tcp *)transport, info, &peer);
	if (ret)
		goto err_free;
	ret = mci_tcp_peer_ready(peer, info, deadline_ns);
	if (ret)
		goto err_unuse;
	pthread_mutex_lock(&peer->lock);
	mci_tcp_handle_attach(handle, peer);
	pthread_mutex_unlock(&peer->lock);
	*out = (struct mci_peer *)handle;
	return 0;
err_unuse:
	mci_tcp_peer_unuse(peer);
err_free:
	free(handle);
	return ret;
}

void mci_tcp_peer_close(struct mci_peer *p)
{
	struct mci_tcp_handle *handle = (struct mci_tcp_handle *)p;
	struct mci_tcp_peer *peer = mci_tcp_handle_lock(handle);

	while (handle->refreshing) {
		pthread_cond_wait(&peer->changed, &peer->lock);
		pthread_mutex_unlock(&peer->lock); /* it may have moved */
		peer = mci_tcp_handle_lock(handle);
	}
	mci_tcp_handle_detach(handle, peer);
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_unuse(peer);
	while (handle->past_count)
		mci_tcp_peer_unuse(handle->past[--handle->past_count]);
	free(handle->past);
	free(handle);
}

void mci_tcp_peer_put(struct mci_tcp_peer *peer)
{
	unsigned int i;

	if (atomic_fetch_sub(&peer->refs, 1) != 1)
		return;
	for (i = 0; i < peer->host_count; i++)
		free(peer->hosts[i]);
	free(peer->hosts);
	explicit_bzero(&peer->secret, sizeof(peer->secret));
	pthread_cond_destroy(&peer->changed);
	pthread_mutex_destroy(&peer->lock);
	free(peer);
}
