// SPDX-License-Identifier: MIT
/*
 * Threads of the shared memory transport, started when first needed, asleep when not: workers copy what
 * no caller copies, the mender finds lost peers again. pool->lock is a leaf.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "transport/shm/shm.h"

#define MEND_MS 3000u
#define MEND_PAUSE_MS 50u
#define MEND_PAUSE_MAX_MS 1000u
#define LOAD_NS 500000u /* how long a look at the load is good for */

struct mci_shm_pool {
	struct mci_transport *transport;
	pthread_mutex_t lock;
	pthread_cond_t work, mend, left;
	struct mci_peer *peers;
	struct mci_peer *lost; /* to be mended */
	pthread_t workers[MCI_SHM_WORKERS], mender;
	unsigned int worker_count, worker_max, asleep, called;
	bool mender_runs, closing;
	int cores, load_fd;
	_Atomic uint64_t load_at_ns;
	_Atomic int idle;
};

int mci_shm_pool_open(struct mci_transport *transport, struct mci_shm_pool **out)
{
	struct mci_shm_pool *pool = calloc(1, sizeof(*pool));
	pthread_condattr_t attr;
	cpu_set_t cpus;

	if (!pool)
		return mci_fail(-ENOMEM, "no memory for the shared memory transport");
	pool->transport = transport;
	pool->cores = sched_getaffinity(0, sizeof(cpus), &cpus) ? 1 : CPU_COUNT(&cpus);
	pool->worker_max = pool->cores < MCI_SHM_WORKERS ? (unsigned int)pool->cores : MCI_SHM_WORKERS;
	pool->load_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work, &attr);
	pthread_cond_init(&pool->mend, &attr);
	pthread_cond_init(&pool->left, &attr);
	pthread_condattr_destroy(&attr);
	*out = pool;
	return 0;
}

void mci_shm_pool_close(struct mci_shm_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->closing = true;
	pthread_cond_broadcast(&pool->work);
	pthread_cond_broadcast(&pool->mend);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned int i = 0; i < pool->worker_count; i++)
		pthread_join(pool->workers[i], NULL);
	if (pool->mender_runs)
		pthread_join(pool->mender, NULL);
	if (pool->load_fd >= 0)
		close(pool->load_fd);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->mend);
	pthread_cond_destroy(&pool->left);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static struct mci_peer *peer_with_work(struct mci_shm_pool *pool)
{
	struct mci_peer *peer;

	for (peer = pool->peers; peer; peer = peer->pool_next)
		if (atomic_load_explicit(&peer->queued, memory_order_relaxed))
			return peer;
	return NULL;
}

static void *worker(void *arg)
{
	struct mci_shm_pool *pool = arg;
	struct mci_peer *peer;

	pthread_setname_np(pthread_self(), "mc-shm-copy");
	pthread_mutex_lock(&pool->lock);
	while (!pool->closing) {
		if (!pool->called || !(peer = peer_with_work(pool))) {
			pool->called = 0;
			pool->asleep++;
			pthread_cond_wait(&pool->work, &pool->lock);
			pool->asleep--;
			continue;
		}
		pool->called--;
		peer->workers++;
		pthread_mutex_unlock(&pool->lock);
		while (mci_shm_work(peer, NULL))
			;
		pthread_mutex_lock(&pool->lock);
		if (!--peer->workers)
			pthread_cond_broadcast(&pool->left);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

void mci_shm_pool_wake(struct mci_shm_pool *pool, unsigned int threads)
{
	pthread_mutex_lock(&pool->lock);
	if (threads > pool->worker_max)
		threads = pool->worker_max;
	if (pool->called < threads)
		pool->called = threads;
	for (unsigned int i = 0; i < threads && i < pool->asleep; i++)
		pthread_cond_signal(&pool->work);
	while (pool->asleep < threads && pool->worker_count < pool->worker_max && !pool->closing) {
		if (mci_thread_start(&pool->workers[pool->worker_count], worker, pool)) {
			if (!pool->worker_count)
				mci_warn("cannot start a thread for shared memory; copies are left to those "
					 "who wait for them");
			break;
		}
		pool->worker_count++;
		threads--;
	}
	pthread_mutex_unlock(&pool->lock);
}

/* Cores that nothing runs on now, as the kernel sees it: the fourth field of /proc/loadavg is "running/all".
 */
unsigned int mci_shm_pool_idle_cores(struct mci_shm_pool *pool)
{
	uint64_t now = mci_now_ns();
	int running, idle = 0;
	char text[64];
	ssize_t n;

	if (pool->cores == 1)
		return 0;
	if (now - atomic_load_explicit(&pool->load_at_ns, memory_order_relaxed) < LOAD_NS)
		return (unsigned int)atomic_load_explicit(&pool->idle, memory_order_relaxed);
	n = pool->load_fd < 0 ? -1 : pread(pool->load_fd, text, sizeof(text) - 1, 0);
	if (n > 0) {
		text[n] = 0;
		if (sscanf(text, "%*s %*s %*s %d/", &running) == 1 && running < pool->cores)
			idle = pool->cores - running;
	}
	atomic_store_explicit(&pool->idle, idle, memory_order_relaxed);
	atomic_store_explicit(&pool->load_at_ns, now, memory_order_relaxed);
	return (unsigned int)idle;
}

static int mend(struct mci_peer *peer)
{
	uint64_t deadline = mci_now_ns() + MEND_MS * MCI_NS_PER_MS;
	bool needless;
	int ret;

	/* Nothing new is begun before the last of the old has ended. */
	pthread_mutex_lock(&peer->lock);
	while (peer->old_inside && !peer->closing)
		pthread_cond_wait(&peer->changed, &peer->lock);
	needless = peer->link || peer->closing;
	peer->attempts++;
	pthread_mutex_unlock(&peer->lock);
	if (needless)
		return 0;
	peer->mend_deadline_ns = deadline;
	ret = peer->host->refresh(peer->host->engine, peer->cookie, deadline, mci_shm_peer_use, peer);
	if (!ret)
		atomic_fetch_add_explicit(&peer->host->stats.reconnects, 1, memory_order_relaxed);
	return ret;
}

static void unlist(struct mci_shm_pool *pool, struct mci_peer *peer)
{
	struct mci_peer **link;

	for (link = &pool->lost; *link != peer; link = &(*link)->mend_next)
		;
	*link = peer->mend_next;
	peer->mend_queued = false;
}

/* The lost peer whose turn comes first. */
static struct mci_peer *next_lost(struct mci_shm_pool *pool)
{
	struct mci_peer *peer, *first = pool->lost;

	for (peer = first; peer; peer = peer->mend_next)
		if (peer->mend_at_ns < first->mend_at_ns)
			first = peer;
	return first;
}

static void *mender(void *arg)
{
	struct mci_shm_pool *pool = arg;
	struct mci_peer *peer;
	struct timespec until;
	int ret;

	pthread_setname_np(pthread_self(), "mc-shm-mend");
	pthread_mutex_lock(&pool->lock);
	while (!pool->closing) {
		peer = next_lost(pool);
		if (!peer) {
			pthread_cond_wait(&pool->mend, &pool->lock);
			continue;
		}
		if (mci_now_ns() < peer->mend_at_ns) {
			until.tv_sec = (time_t)(peer->mend_at_ns / MCI_NS_PER_S);
			until.tv_nsec = (long)(peer->mend_at_ns % MCI_NS_PER_S);
			pthread_cond_timedwait(&pool->mend, &pool->lock, &until);
			continue;
		}
		unlist(pool, peer);
		peer->being_mended = true;
		pthread_mutex_unlock(&pool->lock);
		ret = mend(peer);
		if (ret)
			mci_debug("a process on this host cannot be reached again: %s", mc_errmsg());
		mci_shm_peer_mended(peer, ret);
		pthread_mutex_lock(&pool->lock);
		peer->mend_pause_ns =
			ret && peer->mend_pause_ns ? peer->mend_pause_ns * 2 : MEND_PAUSE_MS * MCI_NS_PER_MS;
		if (peer->mend_pause_ns > MEND_PAUSE_MAX_MS * MCI_NS_PER_MS)
			peer->mend_pause_ns = MEND_PAUSE_MAX_MS * MCI_NS_PER_MS;
		peer->mend_at_ns = mci_now_ns() + peer->mend_pause_ns;
		peer->being_mended = false;
		pthread_cond_broadcast(&pool->left);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Look for a lost peer, at once or when a while has passed since that was last tried. */
bool mci_shm_pool_mend(struct mci_shm_pool *pool, struct mci_peer *peer)
{
	bool will = false;

	pthread_mutex_lock(&pool->lock);
	if (peer->leaving || pool->closing)
		goto out_unlock;
	if (!pool->mender_runs) {
		if (mci_thread_start(&pool->mender, mender, pool)) {
			mci_warn("cannot start the thread that finds lost peers again");
			goto out_unlock;
		}
		pool->mender_runs = true;
	}
	will = true;
	if (peer->mend_queued)
		goto out_unlock;
	peer->mend_queued = true;
	peer->mend_next = pool->lost;
	pool->lost = peer;
	pthread_cond_signal(&pool->mend);
out_unlock:
	pthread_mutex_unlock(&pool->lock);
	return will;
}

void mci_shm_pool_join(struct mci_shm_pool *pool, struct mci_peer *peer)
{
	pthread_mutex_lock(&pool->lock);
	peer->pool_next = pool->peers;
	pool->peers = peer;
	pthread_mutex_unlock(&pool->lock);
}

void mci_shm_pool_leave(struct mci_shm_pool *pool, struct mci_peer *peer)
{
	struct mci_peer **link;

	pthread_mutex_lock(&pool->lock);
	peer->leaving = true;
	for (link = &pool->peers; *link != peer; link = &(*link)->pool_next)
		;
	*link = peer->pool_next;
	if (peer->mend_queued)
		unlist(pool, peer);
	while (peer->workers || peer->being_mended)
		pthread_cond_wait(&pool->left, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
}
