// SPDX-License-Identifier: MIT
/*
 * How many endpoints one engine holds at a time. When they do not suffice, the SIEVE algorithm (Zhang et al.,
 * NSDI 2024) says who gives his back: a hand goes from the oldest to the newest, spares those used since its
 * last visit, and takes the first that was not.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/errors.h"
#include "transport/rdma/initiator.h"

static void pool_task(struct mci_task *task);

int mci_rdma_pool_open(struct mci_rdma *rdma)
{
	rdma->slot = calloc(rdma->endpoints_max, sizeof(*rdma->slot));
	rdma->slot_stamp = calloc(rdma->endpoints_max, sizeof(*rdma->slot_stamp));
	if (!rdma->slot || !rdma->slot_stamp) {
		free(rdma->slot);
		free(rdma->slot_stamp);
		return mci_fail(-ENOMEM, "no memory for %u endpoints", rdma->endpoints_max);
	}
	pthread_mutex_init(&rdma->pool_lock, NULL);
	rdma->pool_task.fn = pool_task;
	rdma->loop = mci_loops_next(rdma->host->loops);
	return 0;
}

static void nothing(void *arg) { (void)arg; }

void mci_rdma_pool_close(struct mci_rdma *rdma)
{
	mci_loop_call(rdma->loop, nothing, NULL); /* the task has run */
	pthread_mutex_destroy(&rdma->pool_lock);
	free(rdma->slot);
	free(rdma->slot_stamp);
}

static void post(struct mci_rdma *rdma)
{
	if (rdma->pool_posted)
		return;
	rdma->pool_posted = true;
	mci_loop_post(rdma->loop, &rdma->pool_task);
}

static void sieve_del(struct mci_rdma *rdma, struct mci_rdma_endpoint *e)
{
	if (rdma->hand == e)
		rdma->hand = e->newer;
	if (e->older)
		e->older->newer = e->newer;
	else
		rdma->sieve_tail = e->newer;
	if (e->newer)
		e->newer->older = e->older;
	else
		rdma->sieve_head = e->older;
}

static void starve(struct mci_rdma *rdma, struct mci_rdma_peer *peer)
{
	if (!peer->starving) {
		peer->starving = true;
		peer->starving_next = NULL;
		if (rdma->starving_last)
			rdma->starving_last->starving_next = peer;
		else
			rdma->starving_first = peer;
		rdma->starving_last = peer;
		atomic_fetch_add(&rdma->starving, 1);
	}
	post(rdma);
}

static void unstarve(struct mci_rdma *rdma, struct mci_rdma_peer *peer)
{
	struct mci_rdma_peer **link = &rdma->starving_first, *last = NULL;

	if (!peer->starving)
		return;
	for (; *link != peer; link = &(*link)->starving_next)
		last = *link;
	*link = peer->starving_next;
	if (rdma->starving_last == peer)
		rdma->starving_last = last;
	peer->starving = false;
	atomic_fetch_sub(&rdma->starving, 1);
}

bool mci_rdma_pool_take(struct mci_rdma_peer *peer, struct mci_rdma_endpoint *e)
{
	struct mci_rdma *rdma = peer->rdma;
	uint32_t i;

	peer->asked_pool = true;
	pthread_mutex_lock(&rdma->pool_lock);
	/* Those who wait come first, in their order; who has one already waits for none. */
	if (rdma->slots_used == rdma->endpoints_max || (rdma->starving_first && rdma->starving_first != peer)) {
		if (!peer->endpoints)
			starve(rdma, peer);
		pthread_mutex_unlock(&rdma->pool_lock);
		return false;
	}
	/* A number rests before it is used again. */
	for (i = rdma->slot_turn; rdma->slot[i]; i = (i + 1) % rdma->endpoints_max)
		;
	rdma->slot_turn = (i + 1) % rdma->endpoints_max;
	rdma->slot[i] = e;
	rdma->slots_used++;
	atomic_fetch_add(&rdma->unsettled, 1);
	e->number = i;
	e->stamp = ++rdma->slot_stamp[i];
	e->older = rdma->sieve_head;
	e->newer = NULL;
	if (e->older)
		e->older->newer = e;
	else
		rdma->sieve_tail = e;
	rdma->sieve_head = e;
	unstarve(rdma, peer);
	pthread_mutex_unlock(&rdma->pool_lock);
	return true;
}

void mci_rdma_pool_give(struct mci_rdma *rdma, struct mci_rdma_endpoint *e)
{
	pthread_mutex_lock(&rdma->pool_lock);
	rdma->slot[e->number] = NULL;
	rdma->slots_used--;
	if (!atomic_load(&e->settled))
		atomic_fetch_sub(&rdma->unsettled, 1);
	sieve_del(rdma, e);
	if (rdma->starving_first)
		post(rdma);
	pthread_mutex_unlock(&rdma->pool_lock);
}

struct mci_rdma_peer *mci_rdma_pool_find(struct mci_rdma *rdma, uint32_t number, uint32_t stamp)
{
	struct mci_rdma_peer *peer = NULL;

	pthread_mutex_lock(&rdma->pool_lock);
	if (number < rdma->endpoints_max && rdma->slot[number] && rdma->slot[number]->stamp == stamp) {
		peer = rdma->slot[number]->peer;
		atomic_fetch_add(&peer->refs, 1);
	}
	pthread_mutex_unlock(&rdma->pool_lock);
	return peer;
}

void mci_rdma_pool_leave(struct mci_rdma_peer *peer)
{
	struct mci_rdma *rdma = peer->rdma;

	if (!atomic_load(&rdma->starving))
		return;
	pthread_mutex_lock(&rdma->pool_lock);
	unstarve(rdma, peer);
	if (rdma->starving_first)
		post(rdma); /* the next one in the line */
	pthread_mutex_unlock(&rdma->pool_lock);
}

bool mci_rdma_pool_waits(struct mci_rdma_peer *peer)
{
	bool waits;

	pthread_mutex_lock(&peer->rdma->pool_lock);
	waits = peer->starving;
	pthread_mutex_unlock(&peer->rdma->pool_lock);
	return waits;
}

void mci_rdma_pool_settle(struct mci_rdma_endpoint *e)
{
	struct mci_rdma *rdma = e->peer->rdma;

	if (atomic_load_explicit(&e->settled, memory_order_relaxed))
		return;
	atomic_store(&e->settled, true);
	atomic_fetch_sub(&rdma->unsettled, 1);
	if (!atomic_load(&rdma->starving))
		return;
	pthread_mutex_lock(&rdma->pool_lock);
	post(rdma);
	pthread_mutex_unlock(&rdma->pool_lock);
}

/*
 * The next victim. One that is on its way out already counts. One that was opened for something and has not
 * carried it yet stays: else all who wait could take them from each other for ever.
 */
static struct mci_rdma_endpoint *victim(struct mci_rdma *rdma)
{
	struct mci_rdma_endpoint *e = rdma->hand ? rdma->hand : rdma->sieve_tail;
	uint32_t rounds = 2 * rdma->slots_used + 1;

	for (; e && rounds; rounds--, e = e->newer ? e->newer : rdma->sieve_tail) {
		if (atomic_load(&e->evict) || !atomic_load(&e->settled))
			continue;
		if (atomic_exchange(&e->visited, false))
			continue;
		rdma->hand = e->newer;
		return e;
	}
	return NULL;
}

static unsigned int leaving(const struct mci_rdma *rdma)
{
	const struct mci_rdma_endpoint *e;
	unsigned int n = 0;

	for (e = rdma->sieve_tail; e; e = e->newer)
		n += atomic_load(&e->evict);
	return n;
}

/* As many leave as peers wait for; those who wait are woken for what is free. */
static void pool_task(struct mci_task *task)
{
	struct mci_rdma *rdma = (struct mci_rdma *)((char *)task - offsetof(struct mci_rdma, pool_task));
	struct mci_rdma_peer *peer;
	struct mci_rdma_endpoint *e;
	unsigned int spare, going;

	pthread_mutex_lock(&rdma->pool_lock);
	rdma->pool_posted = false;
	spare = rdma->endpoints_max - rdma->slots_used;
	for (peer = rdma->starving_first; peer && spare; peer = peer->starving_next, spare--)
		mci_rdma_peer_post(peer);
	for (going = leaving(rdma); going < atomic_load(&rdma->starving) && going < rdma->slots_used;
	     going++) {
		e = victim(rdma);
		if (!e)
			break;
		atomic_store(&e->evict, true);
		atomic_fetch_add(&rdma->evictions, 1);
		mci_rdma_peer_post(e->peer);
	}
	pthread_mutex_unlock(&rdma->pool_lock);
}
