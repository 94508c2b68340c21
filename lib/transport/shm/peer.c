// SPDX-License-Identifier: MIT
/*
 * Initiator: a way to one segment on this host. peer->lock guards its queues and its link; verdicts are
 * told outside of it. When the connection breaks, what is in flight and what comes later waits until the peer
 * was looked for once more: it fails, or begins anew on another connection.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "core/clock.h"
#include "core/errors.h"
#include "transport/shm/copy.h"
#include "transport/shm/shm.h"

#define TICK_MS 1u
#define TICK_MAX_MS 16u
#define EXPIRE_NS (100 * MCI_NS_PER_MS) /* between looks for requests that nobody came to in time */
#define EAGER_MAX 16u
#define EAGER_STEP 8u
#define MAP_ROUNDING (4u << 20) /* address space that a mapping may take beyond its length */

/* peer->lock held */
void mci_shm_peer_queue(struct mci_peer *peer, struct mci_request *r)
{
	r->state = MCI_SHM_QUEUED;
	mci_shm_queue_add(&peer->queue[r->priority <= 0], r);
	atomic_fetch_add_explicit(&peer->queued, 1, memory_order_relaxed);
	peer->queued_bytes += r->length;
}

/* peer->lock held */
void mci_shm_peer_wake(struct mci_peer *peer)
{
	if (atomic_load_explicit(&peer->queued, memory_order_relaxed))
		mci_shm_pool_wake(peer->transport->pool, 1);
}

static void expire(struct mci_peer *peer, struct mci_shm_queue *queue, uint64_t now,
		   struct mci_shm_finals *finals)
{
	struct mci_request *r, *next;

	for (r = queue->first; r; r = next) {
		next = r->next;
		if (now >= r->deadline_ns)
			mci_shm_end(peer, r, MC_TIMED_OUT, -ETIMEDOUT, finals);
	}
}

/*
 * While requests are queued: is anybody at work on them? Callers that wait help themselves; for those that
 * only watch the completion fd a worker is woken, and from then on at once.
 */
static void tick(struct mci_timer *timer)
{
	struct mci_peer *peer = (struct mci_peer *)((char *)timer - offsetof(struct mci_peer, tick));
	struct mci_shm_finals finals;
	uint64_t now = mci_now_ns();
	unsigned int eager;
	bool left, quiet;

	mci_shm_finals_init(&finals);
	pthread_mutex_lock(&peer->lock);
	if (now >= peer->expire_at_ns) {
		peer->expire_at_ns = now + EXPIRE_NS;
		for (int i = 0; i < 2; i++)
			expire(peer, &peer->queue[i], now, &finals);
		expire(peer, &peer->parked, now, &finals);
		for (unsigned int i = 0; peer->waiting && i < peer->count; i++)
			expire(peer, &peer->link->maps[i].waiting, now, &finals);
	}
	left = peer->queue[0].first || peer->queue[1].first || peer->waiting || peer->parked.first;
	quiet = peer->submits == peer->seen_submits;
	peer->tick_ms = peer->tick_ms * 2 > TICK_MAX_MS ? TICK_MAX_MS : peer->tick_ms * 2;
	if (atomic_load(&peer->queued) && !peer->active && peer->claims == peer->seen_claims) {
		eager = atomic_load_explicit(&peer->eager, memory_order_relaxed) + EAGER_STEP;
		atomic_store_explicit(&peer->eager, eager > EAGER_MAX ? EAGER_MAX : eager,
				      memory_order_relaxed);
		peer->tick_ms = TICK_MS;
		mci_shm_peer_wake(peer);
	}
	peer->seen_submits = peer->submits;
	peer->seen_claims = peer->claims;
	peer->ticking = left || !quiet;
	if (peer->ticking)
		mci_loop_timer_set(peer->loop, timer, now + peer->tick_ms * MCI_NS_PER_MS);
	pthread_mutex_unlock(&peer->lock);
	mci_shm_finals_tell(peer, &finals);
}

static void start_ticking(struct mci_task *task)
{
	struct mci_peer *peer = (struct mci_peer *)((char *)task - offsetof(struct mci_peer, tick_task));

	mci_loop_timer_set(peer->loop, &peer->tick, mci_now_ns() + TICK_MS * MCI_NS_PER_MS);
}

void mci_shm_peer_tick(struct mci_peer *peer)
{
	if (peer->ticking)
		return;
	peer->ticking = true;
	peer->tick_ms = TICK_MS;
	mci_loop_post(peer->loop, &peer->tick_task);
}

/* Something was queued: who should do it? peer->lock held. */
static void call_workers(struct mci_peer *peer)
{
	struct mci_shm_pool *pool = peer->transport->pool;
	unsigned int threads = 0;

	peer->submits++;
	mci_shm_peer_tick(peer);
	if (peer->transport->hooks.no_helpers)
		return;
	if (atomic_load_explicit(&peer->eager, memory_order_relaxed))
		threads = 1;
	if (peer->queued_bytes > MCI_SHM_SHARE) {
		uint64_t more = peer->queued_bytes / MCI_SHM_SHARE;
		unsigned int idle = mci_shm_pool_idle_cores(pool);

		threads += more < idle ? (unsigned int)more : idle;
	}
	if (threads)
		mci_shm_pool_wake(pool, threads);
}

/* There is no connection: wait for the mender's verdict, or fail. peer->lock held. */
static void park(struct mci_peer *peer, struct mci_request *r, struct mci_shm_finals *finals)
{
	int ret = atomic_load_explicit(&r->remote->stale, memory_order_relaxed) ? -ESTALE : peer->lost;

	if (ret == -ECONNRESET && !peer->mending)
		peer->mending = mci_shm_pool_mend(peer->transport->pool, peer);
	if (ret != -ECONNRESET || !peer->mending) {
		mci_shm_finals_push(finals, r, MC_FAILED, ret);
		return;
	}
	r->state = MCI_SHM_PARKED;
	r->tag = peer->attempts;
	mci_shm_queue_add(&peer->parked, r);
	mci_shm_peer_tick(peer);
}

void mci_shm_peer_again(struct mci_peer *peer, struct mci_request *r, struct mci_shm_finals *finals)
{
	r->state = 0;
	r->cursor = 0;
	r->outstanding = 0;
	if (peer->link)
		mci_shm_peer_queue(peer, r);
	else
		park(peer, r, finals);
}

void mci_shm_peer_submit(struct mci_peer *peer, struct mci_request *first)
{
	struct mci_shm_queue own = {NULL, NULL};
	struct mci_shm_finals finals;
	struct mci_request *r, *next;
	uint64_t total = 0;

	for (r = first; r && total <= MCI_SHM_INLINE; r = r->next)
		total += r->length;
	mci_shm_finals_init(&finals);
	pthread_mutex_lock(&peer->lock);
	for (r = first; r; r = next) {
		next = r->next;
		if (r->op == MCI_OP_NOTIFY)
			mci_shm_finals_push(&finals, r, MC_FAILED, -EOPNOTSUPP);
		else if (!peer->link)
			park(peer, r, &finals);
		else if (total <= MCI_SHM_INLINE)
			mci_shm_queue_add(&own, r);
		else
			mci_shm_peer_queue(peer, r);
	}
	if (total > MCI_SHM_INLINE && peer->link)
		call_workers(peer);
	pthread_mutex_unlock(&peer->lock);
	mci_shm_finals_tell(peer, &finals);
	while (own.first)
		mci_shm_work(peer, &own);
}

/*
 * The mender is done: those who waited for it go on, or learn why not. Those who came while it was at
 * work have a right to an attempt of their own: what it found may be older than they are.
 */
void mci_shm_peer_mended(struct mci_peer *peer, int ret)
{
	struct mci_shm_finals finals;
	struct mci_request *r, *next;

	mci_shm_finals_init(&finals);
	pthread_mutex_lock(&peer->lock);
	peer->mending = false;
	if (ret == -ESTALE || ret == -EOPNOTSUPP)
		peer->lost = ret; /* for good */
	for (r = peer->parked.first; r; r = next) {
		next = r->next;
		/* -EINPROGRESS: it was restarted, and is about to register its memory again. */
		if (!peer->link && peer->lost == -ECONNRESET &&
		    (r->tag == peer->attempts || ret == -EINPROGRESS)) {
			if (!peer->mending)
				peer->mending = mci_shm_pool_mend(peer->transport->pool, peer);
			if (peer->mending)
				continue;
		}
		if (!peer->link) {
			mci_shm_end(peer, r, MC_FAILED, peer->lost, &finals);
			continue;
		}
		mci_shm_queue_del(&peer->parked, r);
		mci_shm_peer_again(peer, r, &finals);
	}
	mci_shm_peer_wake(peer);
	pthread_mutex_unlock(&peer->lock);
	mci_shm_finals_tell(peer, &finals);
}

void mci_shm_peer_cancel(struct mci_peer *peer, struct mci_request *r)
{
	struct mci_shm_finals finals;

	mci_shm_finals_init(&finals);
	pthread_mutex_lock(&peer->lock);
	if (r->state & (MCI_SHM_QUEUED | MCI_SHM_WAITING | MCI_SHM_PARKED))
		mci_shm_end(peer, r, MC_CANCELLED, -ECANCELED, &finals);
	pthread_mutex_unlock(&peer->lock);
	mci_shm_finals_tell(peer, &finals);
}

bool mci_shm_peer_help(struct mci_peer *peer)
{
	unsigned int eager;

	if (!atomic_load_explicit(&peer->queued, memory_order_relaxed) || !mci_shm_work(peer, NULL))
		return false;
	eager = atomic_load_explicit(&peer->eager, memory_order_relaxed);
	if (eager) /* a hint: it may get lost */
		atomic_store_explicit(&peer->eager, eager - 1, memory_order_relaxed);
	return true;
}

/*
 * The connection broke: nothing that was not final yet is done. What nobody copies waits for the mender now;
 * the rest does when the last thread is out of it (work.c).
 */
void mci_shm_peer_detach(struct mci_peer *peer, struct mci_shm_link *link, struct mci_shm_finals *finals)
{
	struct mci_shm_queue left = {NULL, NULL};
	struct mci_request *r;

	atomic_store(&link->dead, true);
	if (peer->link != link)
		return;
	for (unsigned int i = 0; i < peer->count; i++) {
		while ((r = link->maps[i].waiting.first))
			mci_shm_take_off(peer, r, &left);
		link->maps[i].error = -ECONNRESET;
		link->maps[i].answers++;
	}
	for (int i = 0; i < 2; i++)
		while ((r = peer->queue[i].first))
			mci_shm_take_off(peer, r, &left);
	peer->link = NULL;
	peer->lost = -ECONNRESET;
	peer->old_inside += link->inside;
	peer->mending = !peer->closing && mci_shm_pool_mend(peer->transport->pool, peer);
	while ((r = left.first)) {
		mci_shm_queue_del(&left, r);
		mci_shm_peer_again(peer, r, finals);
	}
	pthread_cond_broadcast(&peer->changed);
	mci_shm_link_close(link);
	mci_shm_link_put(link);
}

/* Loop thread: the connection is no more. */
void mci_shm_peer_closed(struct mci_shm_link *link)
{
	struct mci_peer *peer = link->peer;
	struct mci_shm_finals finals;

	mci_shm_finals_init(&finals);
	pthread_mutex_lock(&peer->lock);
	link->conn = NULL;
	mci_shm_peer_detach(peer, link, &finals);
	pthread_cond_broadcast(&peer->changed);
	mci_shm_link_put(link);
	pthread_mutex_unlock(&peer->lock);
	mci_shm_finals_tell(peer, &finals);
}

/* Take a link into use; one that died meanwhile is as good as lost. */
static int install(struct mci_peer *peer, struct mci_shm_link *link)
{
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	if (atomic_load(&link->dead)) {
		mci_shm_link_put(link);
		ret = mci_fail(-ECONNRESET,
			       "the connection to the process on this host broke while it was opened");
	} else {
		peer->link = link;
		peer->lost = -ECONNRESET;
	}
	pthread_mutex_unlock(&peer->lock);
	return ret;
}

int mci_shm_peer_use(void *arg, const struct mci_peer_info *info)
{
	struct mci_peer *peer = arg;
	struct mci_shm_link *link;
	int ret;

	ret = mci_shm_link_open(peer, info, peer->mend_deadline_ns, &link);
	return ret ? ret : install(peer, link);
}

static void close_loop_part(void *arg) /* loop thread */
{
	struct mci_peer *peer = arg;

	mci_loop_timer_clear(peer->loop, &peer->tick);
	if (peer->link && peer->link->conn)
		mci_conn_close(peer->link->conn);
}

void mci_shm_peer_close(struct mci_peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	peer->closing = true;
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_shm_pool_leave(peer->transport->pool, peer);
	/* What is posted runs first, so the timer is known; closing ends with mci_shm_peer_closed(). */
	mci_loop_call(peer->loop, close_loop_part, peer);
	pthread_mutex_lock(&peer->lock);
	while (peer->links)
		pthread_cond_wait(&peer->changed, &peer->lock);
	pthread_mutex_unlock(&peer->lock);
	pthread_cond_destroy(&peer->changed);
	pthread_mutex_destroy(&peer->lock);
	free(peer);
}

/* Anything that only shared memory fails at must not keep the engine from other ways. */
static int other_way(int err, const char *name)
{
	char why[512];

	if (err == -ESTALE || err == -EKEYREJECTED || err == -EOPNOTSUPP)
		return err;
	snprintf(why, sizeof(why), "%s", mc_errmsg());
	return mci_fail(-EOPNOTSUPP, "segment '%s' cannot be reached by shared memory: %s", name, why);
}

int mci_shm_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
		      struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
		      struct mci_peer **out)
{
	struct mci_peer *peer = calloc(1, sizeof(*peer));
	pthread_condattr_t attr;
	struct mci_shm_link *link;
	int ret;

	if (!peer)
		return mci_fail(-ENOMEM, "no memory for a way to segment '%s'", info->name);
	peer->transport = transport;
	peer->host = transport->host;
	peer->cookie = cookie;
	peer->regions = regions;
	peer->count = count;
	peer->loop = mci_loops_next(transport->host->loops);
	peer->lost = -ECONNRESET;
	peer->eager = 1;
	peer->tick.fn = tick;
	peer->tick_task.fn = start_ticking;
	pthread_mutex_init(&peer->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&peer->changed, &attr);
	pthread_condattr_destroy(&attr);
	mci_shm_pool_join(transport->pool, peer);
	ret = mci_shm_link_open(peer, info, deadline_ns, &link);
	if (!ret)
		ret = install(peer, link);
	if (ret) {
		ret = other_way(ret, info->name);
		mci_shm_peer_close(peer);
		return ret;
	}
	*out = peer;
	return 0;
}

static struct mci_shm_map *known(struct mci_peer *peer, const struct mci_remote_region *region)
{
	return peer->link ? &peer->link->maps[region - peer->regions] : NULL;
}

/*
 * Regions are mapped when they are first used. Under a limit on address space (ulimit -v) it must be known
 * before whether they will fit, with those that come before them: another way is then taken. Locked.
 */
static bool fits_address_space(const struct mci_peer *peer, const struct mci_remote_region *region)
{
	struct rlimit limit;
	uint64_t need = 0;
	void *p;

	if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY)
		return true;
	for (const struct mci_remote_region *r = peer->regions; r <= region; r++) {
		const struct mci_shm_map *map = &peer->link->maps[r - peer->regions];

		/* A view for reading lies beside what may be written. */
		if (map->state != MCI_SHM_MAP_UNUSABLE && map->mode != MCI_SHM_VM && !map->mapped[0])
			need += (r->length + MAP_ROUNDING) * (map->rights & MC_REMOTE_WRITE ? 2 : 1);
	}
	if (!need)
		return true;
	p = mmap(NULL, need, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return false;
	munmap(p, need);
	return true;
}

int mci_shm_peer_usable(struct mci_peer *peer, struct mci_remote_region *region)
{
	bool room = true;
	const struct mci_shm_map *map;
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	map = known(peer, region);
	if (!map || map->state == MCI_SHM_MAP_UNUSABLE)
		ret = -EOPNOTSUPP;
	else
		room = fits_address_space(peer, region);
	pthread_mutex_unlock(&peer->lock);
	if (!room)
		return mci_fail(-EOPNOTSUPP,
				"region %u of %llu bytes does not fit into what the limit on address space leaves "
				"this process (ulimit -v); raise it to reach the region by shared memory",
				region->id, (unsigned long long)region->length);
	if (ret)
		mci_fail(ret,
			 "region %u cannot be reached by shared memory: it is not from mc_memory_alloc(), "
			 "and this "
			 "process may not read the memory of the other (see ptrace(2), \"Ptrace access mode "
			 "checking\")",
			 region->id);
	return ret;
}

void mci_shm_peer_detail(struct mci_peer *peer, const struct mci_remote_region *region, char *text,
			 size_t size)
{
	const struct mci_shm_map *map;

	pthread_mutex_lock(&peer->lock);
	map = known(peer, region);
	if (!map)
		snprintf(text, size, "connection lost");
	else if (map->mode == MCI_SHM_MEMFD)
		snprintf(text, size, "memfd mapped, copied by %s", mci_shm_copy_name());
	else if (map->mode == MCI_SHM_MODULE)
		snprintf(text, size, "module, attached by key, copied by %s",
			 mci_shm_same_user(peer->link->uid) ? mci_shm_copy_name() : "the kernel");
	else if (map->mode == MCI_SHM_VM)
		snprintf(text, size, "process_vm_readv");
	else
		snprintf(text, size, "not reachable");
	pthread_mutex_unlock(&peer->lock);
}
