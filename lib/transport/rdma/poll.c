// SPDX-License-Identifier: MIT
/*
 * Completions. Whoever waits for a batch polls himself; when nobody does, the channel of the completion queue
 * wakes a loop. One thread at a time takes completions off a queue and works on them, so that they are seen
 * in their order.
 */
#include <errno.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/rdma/initiator.h"

#define ROUNDS 16 /* of MCI_RDMA_POLL each, for one caller */

void mci_rdma_poll_arm(struct mci_nic *device)
{
	if (!atomic_exchange(&device->armed, true))
		ibv_req_notify_cq(device->cq, 0);
}

/* All up to @position are done: work requests of a queue pair complete in order. */
static void retire(struct mci_rdma_endpoint *e, struct mci_rdma_queue *q, uint32_t position,
		   struct mci_request **finals)
{
	while ((int32_t)(position - q->tail) >= 0 && q->tail != q->head) {
		struct mci_rdma_slot *slot = &q->slot[q->tail++ % MCI_RDMA_DEPTH];
		struct mci_request *r = slot->request;

		if (slot->kind == MCI_RDMA_PROOF) {
			e->bytes -= slot->length;
			e->in_flight--;
			mci_rdma_endpoint_proven(e);
			continue;
		}
		if (!r)
			continue;
		slot->request = NULL;
		e->in_flight--;
		e->bytes -= slot->length;
		if (slot->kind == MCI_RDMA_DATA)
			mci_rdma_remote_of(e->peer, r)->faults = 0;
		mci_rdma_request_slice(e->peer, r, slot->length, finals);
	}
	mci_rdma_rail_of(e->peer, e->device, e->to)->rest_ns = 0;
}

/* The peer's NIC refused an access: the region may be gone, or registered anew. */
static void refused(struct mci_rdma_peer *peer, struct mci_request *r, struct mci_request **finals)
{
	struct mci_rdma_remote *remote = mci_rdma_remote_of(peer, r);

	/* What else was under way with the same keys is refused with it: that counts once. */
	if (remote->state != MCI_RDMA_KEYS_THERE)
		return;
	if (++remote->faults > 2) {
		mci_rdma_request_end(peer, r, MC_FAILED, -EREMOTEIO, finals);
		return;
	}
	remote->state = MCI_RDMA_KEYS_NONE;
	peer->ask_keys = true;
	mci_rdma_peer_post(peer);
}

static void failed(struct mci_rdma_endpoint *e, struct mci_rdma_queue *q, uint32_t position,
		   const struct ibv_wc *wc, struct mci_request **finals)
{
	struct mci_rdma_peer *peer = e->peer;
	struct mci_rdma_slot *slot = &q->slot[position % MCI_RDMA_DEPTH];
	bool path = false;
	int err = -EIO;

	if (position != q->tail)
		retire(e, q, position - 1, finals);
	switch (wc->status) {
	case IBV_WC_REM_ACCESS_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
		err = -EACCES;
		if (slot->request && slot->kind == MCI_RDMA_DATA)
			refused(peer, slot->request, finals);
		path = slot->kind == MCI_RDMA_PROOF;
		break;
	case IBV_WC_LOC_PROT_ERR:
	case IBV_WC_LOC_LEN_ERR:
	case IBV_WC_LOC_ACCESS_ERR:
		err = -EFAULT;
		if (slot->request)
			mci_rdma_request_end(peer, slot->request, MC_FAILED, err, finals);
		break;
	default:
		path = true;
		err = wc->status == IBV_WC_RETRY_EXC_ERR ? -EHOSTUNREACH : -EIO;
	}
	mci_info("%s to segment '%s': %s", e->device->name, peer->name,
		 peer->rdma->verbs->ibv_wc_status_str(wc->status));
	mci_rdma_endpoint_break(e, err, path, finals);
}

static struct mci_rdma_endpoint *endpoint_of(struct mci_rdma_peer *peer, uint64_t id)
{
	struct mci_rdma_endpoint *e;

	for (e = peer->endpoints; e; e = e->next)
		if (e->number == (id >> 20 & 0xfff) && e->stamp == (uint32_t)(id >> 32))
			return e;
	return NULL;
}

/* peer->lock held */
static void completion(struct mci_rdma_peer *peer, const struct ibv_wc *wc, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e = endpoint_of(peer, wc->wr_id);
	struct mci_rdma_queue *q;
	uint32_t position;

	if (!e || (wc->wr_id >> 16 & 0xf) >= e->count)
		return;
	q = e->queue[wc->wr_id >> 16 & 0xf];
	position = q->tail + ((uint32_t)(wc->wr_id - q->tail) & 0xffff);
	if (position - q->tail >= q->head - q->tail)
		return; /* retired with a later one */
	if (wc->status == IBV_WC_SUCCESS)
		retire(e, q, position, finals);
	else if (q->slot[position % MCI_RDMA_DEPTH].kind == MCI_RDMA_MARKER) {
		q->drained = true;
		mci_rdma_endpoint_drained(e, finals);
		return;
	} else if (wc->status != IBV_WC_WR_FLUSH_ERR) {
		failed(e, q, position, wc, finals);
		return;
	} else {
		/* Flushed without our doing: the queue pair went to error by itself. */
		mci_rdma_endpoint_break(e, -EIO, true, finals);
		return;
	}
	mci_rdma_endpoint_idle(e, finals);
}

/* The peer of a completion, with a reference; NULL: it is not there any more. */
static struct mci_rdma_peer *peer_of(struct mci_rdma *rdma, uint64_t id)
{
	return mci_rdma_pool_find(rdma, (uint32_t)(id >> 20 & 0xfff), (uint32_t)(id >> 32));
}

struct told { /* peers with final requests, to be told when all locks are free */
	struct mci_rdma_peer *peer;
	struct mci_request *finals;
};

static unsigned int work(struct mci_nic *device, const struct ibv_wc *wc, int n, struct told *told)
{
	struct mci_rdma *rdma = device->rdma;
	unsigned int count = 0;
	int i;

	for (i = 0; i < n;) {
		struct mci_rdma_peer *peer = peer_of(rdma, wc[i].wr_id);
		struct mci_request *finals = NULL;

		if (!peer) {
			i++;
			continue;
		}
		pthread_mutex_lock(&peer->lock);
		do {
			completion(peer, &wc[i++], &finals);
		} while (i < n && endpoint_of(peer, wc[i].wr_id));
		mci_rdma_pump(peer, &finals);
		pthread_mutex_unlock(&peer->lock);
		told[count++] = (struct told){peer, finals};
	}
	return count;
}

bool mci_rdma_poll(struct mci_nic *device, bool wait)
{
	struct told told[MCI_RDMA_POLL];
	struct ibv_wc wc[MCI_RDMA_POLL];
	unsigned int count, i;
	int round, n = MCI_RDMA_POLL;
	bool did = false;

	for (round = 0; round < ROUNDS && n == MCI_RDMA_POLL; round++) {
		/* Who leaves it to another thread must not be the one who was woken for what that has missed.
		 */
		if (wait)
			pthread_mutex_lock(&device->cq_lock);
		else if (pthread_mutex_trylock(&device->cq_lock))
			return did;
		n = ibv_poll_cq(device->cq, MCI_RDMA_POLL, wc);
		count = n > 0 ? work(device, wc, n, told) : 0;
		pthread_mutex_unlock(&device->cq_lock);
		if (n > 0) {
			did = true;
			atomic_fetch_add_explicit(&device->rdma->polled, (uint64_t)n, memory_order_relaxed);
		}
		for (i = 0; i < count; i++) {
			mci_rdma_finals_tell(told[i].peer, told[i].finals);
			mci_rdma_peer_put(told[i].peer);
		}
	}
	/* There may be more, and what was there before the queue was armed raises no event. */
	if (n == MCI_RDMA_POLL && !atomic_load(&device->ignored) && !atomic_exchange(&device->rest_posted, true))
		mci_loop_post(device->loop, &device->rest);
	return did;
}

void mci_rdma_poll_rest(struct mci_task *task) /* loop thread */
{
	struct mci_nic *device = (struct mci_nic *)((char *)task - offsetof(struct mci_nic, rest));

	atomic_store(&device->rest_posted, false);
	mci_rdma_poll(device, true);
}

void mci_rdma_poll_event(struct mci_watch *watch, uint32_t events)
{
	struct mci_nic *device = (struct mci_nic *)((char *)watch - offsetof(struct mci_nic, completions));
	const struct mci_verbs *verbs = device->rdma->verbs;
	unsigned int n = 0;
	struct ibv_cq *cq;
	void *context;

	(void)events;
	do
		errno = 0;
	while (!verbs->ibv_get_cq_event(device->channel, &cq, &context) && ++n);
	if (errno && errno != EAGAIN && errno != EINTR)
		mci_loop_del(device->loop, watch); /* the device is gone, and this would never end */
	if (n)
		verbs->ibv_ack_cq_events(device->cq, n);
	atomic_store(&device->armed, false);
	/* Armed first, then polled: what comes in between raises the next event. A thread that polls does
	 * both. */
	if (!atomic_load(&device->pollers))
		mci_rdma_poll_arm(device);
	mci_rdma_poll(device, true);
}
