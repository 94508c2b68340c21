// SPDX-License-Identifier: MIT
/*
 * Initiator: requests of one peer, from submit to their verdict. They wait in a queue until all their slices
 * are handed out, then in flight until the last one is back. peer->lock guards them; verdicts are told
 * outside.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/hmac.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "transport/rdma/initiator.h"

#define SPIN_NS 30000u /* of a waiting thread without success, before it sleeps */
#define HELP_NS 200000u
#define TURNS 8 /* without a look at the clock */

struct mci_rdma_remote *mci_rdma_remote_of(const struct mci_rdma_peer *peer, const struct mci_request *r)
{
	return peer->classic ? mci_rdma_classic_remote(r) : &peer->remote[r->remote - peer->regions];
}

/* ---- lists ---- */

#define LIST_ADD(list, r)                         \
	do {                                      \
		(r)->next = NULL;                 \
		(r)->prev = (list)->last;         \
		if ((list)->last)                 \
			(list)->last->next = (r); \
		else                              \
			(list)->first = (r);      \
		(list)->last = (r);               \
	} while (0)
#define LIST_DEL(list, r)                            \
	do {                                         \
		if ((r)->prev)                       \
			(r)->prev->next = (r)->next; \
		else                                 \
			(list)->first = (r)->next;   \
		if ((r)->next)                       \
			(r)->next->prev = (r)->prev; \
		else                                 \
			(list)->last = (r)->prev;    \
	} while (0)

static void unlink_request(struct mci_rdma_peer *peer, struct mci_request *r)
{
	if (r->state & MCI_RDMA_QUEUED)
		LIST_DEL(&peer->queue[r->priority <= 0], r);
	else if (r->state & MCI_RDMA_FLIGHT)
		LIST_DEL(&peer->flight, r);
	r->state &= ~(uint32_t)(MCI_RDMA_QUEUED | MCI_RDMA_FLIGHT);
}

static enum mc_state end_of(const struct mci_request *r) { return (enum mc_state)(r->state >> 8); }

bool mci_rdma_request_ended(const struct mci_request *r) { return end_of(r) != MC_PENDING; }

static void finish(struct mci_rdma_peer *peer, struct mci_request *r, struct mci_request **finals)
{
	unlink_request(peer, r);
	/* Written under the lock only: no locked instruction for each. */
	atomic_store_explicit(&peer->pending, atomic_load_explicit(&peer->pending, memory_order_relaxed) - 1,
			      memory_order_release);
	if (!mci_rdma_request_ended(r))
		r->state |= (uint32_t)MC_DONE << 8;
	r->next = *finals;
	*finals = r;
}

void mci_rdma_request_end(struct mci_rdma_peer *peer, struct mci_request *r, enum mc_state end, int err,
			  struct mci_request **finals)
{
	if (mci_rdma_request_ended(r))
		return;
	r->state |= (uint32_t)end << 8;
	r->tag = (uint64_t)(int64_t)err;
	if (r->outstanding) {
		/* Nothing more of it is handed out; what is out has to come back first. */
		if (r->state & MCI_RDMA_QUEUED)
			mci_rdma_request_handed(peer, r);
		return;
	}
	finish(peer, r, finals);
}

/* A flush that is not done: from the start, once what broke has ended. */
static void flush_again(struct mci_rdma_peer *peer, struct mci_request *r)
{
	r->tag = 0;
	unlink_request(peer, r);
	r->state |= MCI_RDMA_QUEUED;
	LIST_ADD(&peer->queue[r->priority <= 0], r);
}

void mci_rdma_request_slice(struct mci_rdma_peer *peer, struct mci_request *r, uint64_t bytes,
			    struct mci_request **finals)
{
	r->outstanding--;
	r->done_bytes += bytes;
	if (r->op == MCI_OP_FLUSH && !mci_rdma_request_ended(r)) {
		r->tag |= !bytes;
		if (!r->outstanding && r->tag) {
			flush_again(peer, r);
			return;
		}
	}
	if (!r->outstanding && (mci_rdma_request_ended(r) || r->cursor == r->length))
		finish(peer, r, finals);
}

void mci_rdma_request_handed(struct mci_rdma_peer *peer, struct mci_request *r)
{
	unlink_request(peer, r);
	r->state |= MCI_RDMA_FLIGHT;
	LIST_ADD(&peer->flight, r);
}

int mci_rdma_again_push(struct mci_rdma_peer *peer, const struct mci_rdma_slot *slot)
{
	if (peer->again_count == peer->again_size) {
		uint32_t size = peer->again_size ? 2 * peer->again_size : 256, i;
		struct mci_rdma_again *more = malloc(size * sizeof(*more));

		if (!more)
			return -ENOMEM;
		for (i = 0; i < peer->again_count; i++)
			more[i] = peer->again[(peer->again_first + i) % peer->again_size];
		free(peer->again);
		peer->again = more;
		peer->again_first = 0;
		peer->again_size = size;
	}
	peer->again[(peer->again_first + peer->again_count++) % peer->again_size] =
		(struct mci_rdma_again){slot->request, slot->at, slot->length};
	return 0;
}

void mci_rdma_finals_tell(struct mci_rdma_peer *peer, struct mci_request *finals)
{
	struct mci_request *r, *next, *forward = NULL;
	uint32_t n = 0;

	for (r = finals; r; r = next, n++) { /* in the order in which they ended */
		next = r->next;
		r->next = forward;
		forward = r;
	}
	if (n)
		atomic_fetch_sub(&peer->rdma->in_flight, n);
	for (r = forward; r; r = next) {
		enum mc_state state = end_of(r);

		next = r->next;
		peer->rdma->host->complete(r, state, state == MC_DONE ? 0 : (int)(int64_t)r->tag,
					   state == MC_DONE ? r->length : r->done_bytes, 0);
	}
}

/* ---- time ---- */

static void expire_list(struct mci_rdma_peer *peer, struct mci_request *first, uint64_t now,
			uint64_t *next_at, struct mci_request **finals)
{
	struct mci_request *r, *next;

	for (r = first; r; r = next) {
		next = r->next;
		if (now >= r->deadline_ns)
			mci_rdma_request_end(peer, r, MC_TIMED_OUT, -ETIMEDOUT, finals);
		else if (!*next_at || r->deadline_ns < *next_at)
			*next_at = r->deadline_ns;
	}
}

static bool carries_ended(const struct mci_rdma_endpoint *e)
{
	unsigned int i;
	uint32_t at;

	for (i = 0; i < e->count; i++)
		for (at = e->queue[i]->tail; at != e->queue[i]->head; at++) {
			const struct mci_request *r = e->queue[i]->slot[at % MCI_RDMA_DEPTH].request;

			if (r && mci_rdma_request_ended(r))
				return true;
		}
	return false;
}

static bool any_ended(const struct mci_rdma_peer *peer)
{
	const struct mci_request *r;

	for (r = peer->flight.first; r; r = r->next)
		if (mci_rdma_request_ended(r))
			return true;
	return false;
}

/* Slices of ended requests that only wait to be sent anew are not needed any more. */
static void drop_again(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	uint32_t n = peer->again_count;

	for (; n; n--) {
		struct mci_rdma_again slice = peer->again[peer->again_first];
		const struct mci_rdma_slot slot = {
			.request = slice.request, .at = slice.at, .length = slice.length};

		peer->again_first = (peer->again_first + 1) % peer->again_size;
		peer->again_count--;
		if (mci_rdma_request_ended(slice.request))
			mci_rdma_request_slice(peer, slice.request, 0, finals);
		else
			mci_rdma_again_push(peer, &slot);
	}
}

/* What timed out or was cancelled in flight had its grace: its endpoints are broken, so that it can be final.
 */
static void cut_off(struct mci_rdma_peer *peer, uint64_t now, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e, *next;

	drop_again(peer, finals);
	if (!any_ended(peer)) {
		peer->grace_at = 0;
		return;
	}
	if (!peer->grace_at)
		peer->grace_at = now + MCI_RDMA_GRACE_NS;
	if (now < peer->grace_at)
		return;
	peer->grace_at = 0;
	for (e = peer->endpoints; e; e = next) {
		next = e->next;
		if (e->state == MCI_RDMA_UP && carries_ended(e))
			mci_rdma_endpoint_break(e, -ETIMEDOUT, false, finals);
	}
}

static void sooner(uint64_t *at, uint64_t other)
{
	if (other && (!*at || other < *at))
		*at = other;
}

/* Loop thread. All that time demands, and when it will demand something next. */
static void look(struct mci_rdma_peer *peer)
{
	struct mci_request *finals = NULL;
	struct mci_rdma_endpoint *e, *after;
	uint64_t now = mci_now_ns(), next = 0;

	pthread_mutex_lock(&peer->lock);
	expire_list(peer, peer->queue[0].first, now, &next, &finals);
	expire_list(peer, peer->queue[1].first, now, &next, &finals);
	expire_list(peer, peer->flight.first, now, &next, &finals);
	cut_off(peer, now, &finals);
	if (atomic_exchange(&peer->ports_changed, false))
		mci_rdma_endpoint_ports(peer, &finals);
	for (e = peer->endpoints; e; e = after) {
		after = e->next;
		if (e->state == MCI_RDMA_UP && !atomic_load(&peer->pending))
			mci_rdma_pool_settle(e);
		mci_rdma_endpoint_idle(e, &finals);
	}
	mci_rdma_endpoint_steps(peer, now, &finals);
	peer->asked_pool = false;
	mci_rdma_pump(peer, &finals);
	if (!peer->asked_pool && !peer->probing)
		mci_rdma_pool_leave(peer); /* nothing to send, or no way to send it: others first */
	for (e = peer->endpoints; e; e = e->next)
		if (e->state != MCI_RDMA_UP && e->step_at != UINT64_MAX)
			sooner(&next, e->step_at);
	sooner(&next, peer->grace_at);
	if (atomic_load(&peer->pending) && peer->state == MCI_RDMA_LIVE)
		sooner(&next, mci_rdma_rail_wake(peer, now));
	if (next && next <= now)
		next = now + MCI_NS_PER_MS;
	peer->timer_at = next;
	pthread_mutex_unlock(&peer->lock);
	if (next)
		mci_loop_timer_set(peer->loop, &peer->timer, next);
	else
		mci_loop_timer_clear(peer->loop, &peer->timer);
	mci_rdma_finals_tell(peer, finals);
}

static void on_timer(struct mci_timer *timer)
{
	look((struct mci_rdma_peer *)((char *)timer - offsetof(struct mci_rdma_peer, timer)));
}

static void on_task(struct mci_task *task)
{
	struct mci_rdma_peer *peer =
		(struct mci_rdma_peer *)((char *)task - offsetof(struct mci_rdma_peer, task));

	atomic_store(&peer->posted, false);
	mci_rdma_control_frames(peer);
	look(peer);
	mci_rdma_peer_put(peer);
}

void mci_rdma_peer_post(struct mci_rdma_peer *peer)
{
	if (atomic_exchange(&peer->posted, true))
		return;
	atomic_fetch_add(&peer->refs, 1);
	mci_loop_post(peer->loop, &peer->task);
}

/* ---- loss ---- */

void mci_rdma_peer_lost(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e, *next;

	if (peer->state == MCI_RDMA_LIVE)
		peer->state = MCI_RDMA_DOWN;
	peer->conn_there = false;
	for (e = peer->endpoints; e; e = next) {
		next = e->next;
		if (e->state == MCI_RDMA_UP || e->state == MCI_RDMA_PROVING)
			mci_rdma_endpoint_break(e, -ECONNRESET, false, finals);
		else if (e->state == MCI_RDMA_ASKED || e->state == MCI_RDMA_JOINING || e->state == MCI_RDMA_FENCING)
			mci_rdma_endpoint_end(e, finals);
	}
	if (mci_rdma_peer_wanted(peer) && peer->state == MCI_RDMA_DOWN && !peer->closing)
		mci_rdma_connector_start(peer, finals);
}

void mci_rdma_initiator_port(struct mci_nic *device)
{
	struct mci_rdma *rdma = device->rdma;
	struct mci_rdma_peer *peer;

	/* Peers are looked at by their own loops: they may be closing. */
	pthread_mutex_lock(&rdma->pool_lock);
	for (peer = rdma->peers; peer; peer = peer->peers_next) {
		atomic_store(&peer->ports_changed, true);
		mci_rdma_peer_post(peer);
	}
	pthread_mutex_unlock(&rdma->pool_lock);
}

/* ---- ops ---- */

static struct mci_rdma_peer *of(struct mci_peer *peer) { return (struct mci_rdma_peer *)peer; }

void mci_rdma_peer_submit(struct mci_peer *opaque, struct mci_request *first)
{
	struct mci_rdma_peer *peer = of(opaque);
	struct mci_request *r, *next, *finals = NULL;
	uint64_t earliest = 0;
	uint32_t n = 0;

	for (r = first; r; r = r->next)
		n++;
	atomic_fetch_add(&peer->rdma->in_flight, n);
	pthread_mutex_lock(&peer->lock);
	atomic_fetch_add(&peer->pending, n);
	for (r = first; r; r = next) {
		next = r->next;
		r->state = MCI_RDMA_QUEUED;
		LIST_ADD(&peer->queue[r->priority <= 0], r);
		if (r->op == MCI_OP_NOTIFY)
			mci_rdma_request_end(peer, r, MC_FAILED, -EOPNOTSUPP, &finals);
		else
			sooner(&earliest, r->deadline_ns);
	}
	if (peer->state == MCI_RDMA_LIVE)
		mci_rdma_pump(peer, &finals);
	else if (peer->state == MCI_RDMA_DOWN && atomic_load(&peer->pending))
		mci_rdma_connector_start(peer, &finals);
	if (earliest && (!peer->timer_at || earliest < peer->timer_at)) {
		peer->timer_at = earliest;
		mci_rdma_peer_post(peer);
	}
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
}

void mci_rdma_peer_cancel(struct mci_peer *opaque, struct mci_request *r)
{
	struct mci_rdma_peer *peer = of(opaque);
	struct mci_request *finals = NULL;

	pthread_mutex_lock(&peer->lock);
	if (r->state & (MCI_RDMA_QUEUED | MCI_RDMA_FLIGHT)) {
		mci_rdma_request_end(peer, r, MC_CANCELLED, -ECANCELED, &finals);
		mci_rdma_peer_post(peer);
	}
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
}

/*
 * Polls as long as something comes (bounded: it may be others' completions), and a moment longer. Events are
 * off meanwhile, so who leaves while anything is in flight, or a new endpoint waits for its proof, has to turn them on
 * again, and to look once more.
 */
bool mci_rdma_peer_help(struct mci_peer *opaque)
{
	struct mci_rdma *rdma = of(opaque)->rdma;
	uint64_t now, until, end;
	bool did = false, now_did;
	unsigned int turn;
	uint8_t i;

	if (!atomic_load(&of(opaque)->pending))
		return false;
	for (i = 0; i < rdma->device_count; i++)
		atomic_fetch_add(&rdma->device[i]->pollers, 1);
	now = mci_now_ns();
	until = now + SPIN_NS;
	end = now + HELP_NS;
	do {
		for (turn = 0, now_did = false; turn < TURNS && !now_did; turn++)
			for (i = 0; i < rdma->device_count; i++)
				now_did |= mci_rdma_poll(rdma->device[i], false);
		did |= now_did;
		now = mci_now_ns();
		if (now_did)
			until = now + SPIN_NS;
	} while (atomic_load(&rdma->in_flight) && now < until && now < end);
	for (i = 0; i < rdma->device_count; i++) {
		struct mci_nic *device = rdma->device[i];

		atomic_fetch_sub(&device->pollers, 1);
		if (atomic_load(&device->armed) || (!atomic_load(&rdma->in_flight) && !atomic_load(&rdma->unsettled)))
			continue;
		mci_rdma_poll_arm(device);
		did |= mci_rdma_poll(device, true);
	}
	return did;
}

int mci_rdma_peer_usable(struct mci_peer *opaque, struct mci_remote_region *region)
{
	struct mci_rdma_peer *peer = of(opaque);
	const struct mci_rdma_remote *remote = &peer->remote[region - peer->regions];
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	if (remote->state == MCI_RDMA_KEYS_REFUSED && remote->error != -ESTALE)
		ret = -EOPNOTSUPP;
	pthread_mutex_unlock(&peer->lock);
	return ret ? mci_fail(ret, "region %u of segment '%s' is not registered with its NICs", region->id,
			      peer->name)
		   : 0;
}

void mci_rdma_peer_detail(struct mci_peer *opaque, const struct mci_remote_region *region, char *text,
			  size_t size)
{
	struct mci_rdma_peer *peer = of(opaque);
	struct mci_rdma_endpoint *e;
	size_t used = 0;

	(void)region;
	text[0] = 0;
	pthread_mutex_lock(&peer->lock);
	for (e = peer->endpoints; e && used + 1 < size; e = e->next) {
		if (e->state != MCI_RDMA_UP)
			continue;
		used += (size_t)snprintf(text + used, size - used, "%s%s to %s", used ? ", " : "",
					 e->device->name, peer->port_name[e->to]);
	}
	pthread_mutex_unlock(&peer->lock);
	if (!text[0])
		snprintf(text, size, "%u NICs to %u, connected on demand", peer->rdma->device_count,
			 peer->ports);
}

void mci_rdma_wait_changed(struct mci_rdma_peer *peer, uint64_t deadline)
{
	struct timespec at = {.tv_sec = (time_t)(deadline / MCI_NS_PER_S),
			      .tv_nsec = (long)(deadline % MCI_NS_PER_S)};

	pthread_cond_timedwait(&peer->changed, &peer->lock, &at);
}

/* A classic peer has no incarnations: what it owes is noted with its links. */
static bool unconfirmed(const struct mci_rdma_peer *peer) { return peer->unconfirmed && !peer->classic; }

/*
 * What a failed write may still do is over once the peer has confirmed the end of the endpoints that broke: each
 * by itself, or all, if the connection was lost, by accepting the next incarnation.
 */
int mci_rdma_peer_fence(struct mci_peer *opaque, uint64_t deadline_ns)
{
	struct mci_rdma_peer *peer = of(opaque);
	struct mci_request *finals = NULL;
	bool started = false;
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	peer->fencing++;
	while ((peer->breaking || unconfirmed(peer)) && !ret) {
		if (mci_now_ns() >= deadline_ns)
			ret = -ETIMEDOUT;
		else if (unconfirmed(peer) && peer->state == MCI_RDMA_DOWN && started)
			ret = peer->error ? peer->error : -ECONNRESET;
		else if (unconfirmed(peer) && peer->state == MCI_RDMA_DOWN)
			mci_rdma_connector_start(peer, &finals);
		else
			mci_rdma_wait_changed(peer, deadline_ns);
		started |= peer->state == MCI_RDMA_CONNECTING;
	}
	peer->fencing--;
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	return ret ? mci_fail(ret, "segment '%s' did not confirm that nothing old is under way: %s", peer->name,
			      strerror(-ret))
		   : 0;
}

void mci_rdma_peer_put(struct mci_rdma_peer *peer)
{
	unsigned int i;

	if (atomic_fetch_sub(&peer->refs, 1) != 1)
		return;
	for (i = 0; i < peer->count; i++)
		free(peer->remote[i].key);
	for (i = 0; i < peer->host_count; i++)
		free(peer->hosts[i]);
	free(peer->hosts);
	free(peer->remote);
	for (i = 0; i < peer->rail_count; i++)
		free(peer->rail[i].why);
	free(peer->rail);
	free(peer->again);
	free(peer->classic);
	pthread_cond_destroy(&peer->changed);
	pthread_mutex_destroy(&peer->lock);
	explicit_bzero(&peer->secret, sizeof(peer->secret));
	free(peer);
}

static void close_conn(void *arg) /* loop thread */
{
	struct mci_rdma_peer *peer = arg;

	if (peer->conn)
		mci_conn_close(peer->conn);
}

static void clear_timer(void *arg) /* loop thread */
{
	struct mci_rdma_peer *peer = arg;

	mci_loop_timer_clear(peer->loop, &peer->timer);
}

void mci_rdma_peer_close(struct mci_peer *opaque)
{
	struct mci_rdma_peer *peer = of(opaque);
	struct mci_rdma_peer **link;
	struct mci_request *finals = NULL;

	pthread_mutex_lock(&peer->lock);
	peer->closing = true;
	pthread_cond_broadcast(&peer->changed);
	while (peer->connectors)
		mci_rdma_wait_changed(peer, mci_now_ns() + 50 * MCI_NS_PER_MS);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_pool_leave(peer);
	mci_loop_call(peer->loop, close_conn, peer);
	pthread_mutex_lock(&peer->lock);
	while (peer->conn)
		mci_rdma_wait_changed(peer, mci_now_ns() + 50 * MCI_NS_PER_MS);
	/* Nothing is in flight: the peer destroys his queue pairs with the connection, and ours can go. */
	peer->conn_there = false;
	while (peer->endpoints)
		mci_rdma_endpoint_end(peer->endpoints, &finals);
	pthread_mutex_unlock(&peer->lock);
	pthread_mutex_lock(&peer->rdma->pool_lock);
	for (link = &peer->rdma->peers; *link != peer; link = &(*link)->peers_next)
		;
	*link = peer->peers_next;
	pthread_mutex_unlock(&peer->rdma->pool_lock);
	mci_loop_call(peer->loop, clear_timer, peer);
	mci_rdma_peer_put(peer);
}

/* pool_lock held */
static bool place_is_taken(const struct mci_rdma *rdma, const struct mc_uuid *target, uint32_t place)
{
	const struct mci_rdma_peer *peer;

	for (peer = rdma->peers; peer; peer = peer->peers_next)
		if (peer->place == place && mci_uuid_equal(&peer->target, target))
			return true;
	return false;
}

/*
 * The session of this engine with that target: whoever opens it after this handle was closed comes as the
 * same one, so that the target lets go of the old queue pairs first (contracts B1, B2).
 */
static void join(struct mci_rdma_peer *peer, const struct mc_uuid *target)
{
	uint8_t mac[EVP_MAX_MD_SIZE], text[20];
	struct mci_rdma *rdma = peer->rdma;

	pthread_mutex_lock(&rdma->pool_lock);
	while (place_is_taken(rdma, target, peer->place))
		peer->place++;
	peer->target = *target;
	peer->peers_next = rdma->peers;
	rdma->peers = peer;
	pthread_mutex_unlock(&rdma->pool_lock);
	memcpy(text, target->b, 16);
	mci_put32(text + 16, peer->place);
	if (!HMAC(EVP_sha256(), peer->rdma->secret.b, sizeof(peer->rdma->secret.b), text, sizeof(text), mac,
		  NULL))
		mci_random(mac, sizeof(mac));
	memcpy(peer->session.b, mac, 16);
}

/*
 * A way is only offered if something gets through: GIDs, MTUs, firewalls and cables are wrong more often than
 * not at first. Waits for the first endpoint, which is up once a few bytes came through it.
 */
static int probe(struct mci_rdma_peer *peer, uint64_t deadline)
{
	uint64_t now = mci_now_ns(), until = mci_rdma_probe_until(now, deadline);
	struct mci_rdma_queue *queue;
	bool proven, waits = false;

	pthread_mutex_lock(&peer->lock);
	peer->probing = true;
	for (; now < until && !peer->proven; now = mci_now_ns()) {
		peer->asked_pool = false;
		mci_rdma_rail_pick(peer, UINT32_MAX, UINT32_MAX, UINT32_MAX, &queue);
		if (!peer->asked_pool)
			mci_rdma_pool_leave(peer);
		waits = mci_rdma_pool_waits(peer);
		if (waits)
			until = mci_rdma_probe_until(now, deadline); /* it has not begun */
		if (!peer->proven)
			mci_rdma_wait_changed(peer, now + 20 * MCI_NS_PER_MS);
	}
	peer->probing = false;
	proven = peer->proven;
	pthread_mutex_unlock(&peer->lock);
	if (proven)
		return 0;
	if (waits)
		return mci_fail(-EOPNOTSUPP,
				"all %u RDMA endpoints are in use, and none became free for segment '%s' in time; "
				"raise MC_MAX_EP_PER_CTX",
				peer->rdma->endpoints_max, peer->name);
	if (peer->why[0])
		return mci_fail(-EOPNOTSUPP, "no RDMA to segment '%s': %s", peer->name, peer->why);
	return mci_fail(-EOPNOTSUPP,
			"RDMA to segment '%s' does not get through; its address is reached by TCP, so compare GIDs "
			"and MTUs (`mooncake topology`) and look for firewalls on UDP port 4791 (own GID: %s)",
			peer->name, peer->rdma->device[0]->gid_why);
}

struct mci_rdma_peer *mci_rdma_peer_new(struct mci_rdma *rdma, unsigned int count)
{
	struct mci_rdma_peer *peer = calloc(1, sizeof(*peer));
	pthread_condattr_t attr;

	if (!peer)
		return NULL;
	peer->rdma = rdma;
	peer->count = count;
	peer->refs = 1;
	peer->loop = mci_loops_next(rdma->host->loops);
	peer->state = MCI_RDMA_CONNECTING;
	peer->task.fn = on_task;
	peer->timer.fn = on_timer;
	peer->remote = calloc(count + 1, sizeof(*peer->remote));
	peer->rail_count = rdma->device_count * MCI_RDMA_DEVICES_MAX;
	peer->rail = calloc(peer->rail_count, sizeof(*peer->rail));
	if (!peer->remote || !peer->rail) {
		free(peer->remote);
		free(peer->rail);
		free(peer);
		return NULL;
	}
	pthread_mutex_init(&peer->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&peer->changed, &attr);
	pthread_condattr_destroy(&attr);
	return peer;
}

int mci_rdma_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
		       struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
		       struct mci_peer **out)
{
	struct mci_rdma *rdma = (struct mci_rdma *)transport;
	struct mci_rdma_peer *peer = mci_rdma_peer_new(rdma, count);
	int ret;

	if (!peer)
		return mci_fail(-ENOMEM, "no memory for a way to segment '%s'", info->name);
	peer->cookie = cookie;
	peer->regions = regions;
	join(peer, &info->uuid);
	ret = mci_rdma_peer_set_info(peer, info);
	if (!ret && info->rails)
		ret = mci_rdma_rails_restrict(peer, info->rails);
	if (!ret)
		ret = mci_rdma_peer_connect(peer, deadline_ns);
	if (!ret && info->try_rails)
		mci_rdma_rails_try(peer, deadline_ns);
	else if (!ret)
		ret = probe(peer, deadline_ns);
	if (ret) {
		mci_rdma_peer_close((struct mci_peer *)peer);
		return ret;
	}
	*out = (struct mci_peer *)peer;
	return 0;
}
