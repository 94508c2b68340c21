// SPDX-License-Identifier: MIT
/*
 * From requests to work requests: each request is cut into slices, each slice takes a rail, and what goes to
 * one queue pair is posted as chains of up to 16 with a doorbell each. Of what is posted together only the
 * last, and every 32nd, asks for a completion. peer->lock is held.
 */
#include <errno.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/rdma/initiator.h"

/* What all its work requests have in common: one piece of memory each, and the next behind it. */
void mci_rdma_queue_init(struct mci_rdma_queue *q, uint8_t index)
{
	unsigned int i;

	q->index = index;
	for (i = 0; i < MCI_RDMA_CHAIN; i++)
		q->wr[i] = (struct ibv_send_wr){.next = &q->wr[i + 1], .sg_list = &q->sge[i], .num_sge = 1};
}

static void device_armed(struct mci_nic *device)
{
	/* Somebody who polls arms it when he leaves. */
	if (!atomic_load(&device->armed) && !atomic_load(&device->pollers))
		mci_rdma_poll_arm(device);
}

/* Ring the doorbell for what was chained on one queue. @last: nothing follows now. False: it broke, and @e may be
 * gone. */
static bool post(struct mci_rdma_endpoint *e, unsigned int index, bool last, struct mci_request **finals)
{
	struct mci_rdma_queue *q = e->queue[index];
	struct ibv_send_wr *bad, *end;
	int ret;

	if (!q->chained)
		return true;
	end = &q->wr[q->chained - 1];
	end->next = NULL;
	q->unsignalled += q->chained;
	if (last || q->unsignalled >= MCI_RDMA_SIGNAL) {
		end->send_flags = IBV_SEND_SIGNALED;
		q->unsignalled = 0;
		atomic_fetch_add_explicit(&e->peer->rdma->signalled, 1, memory_order_relaxed);
	}
	atomic_fetch_add_explicit(&e->peer->rdma->posted, q->chained, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->peer->rdma->doorbells, 1, memory_order_relaxed);
	q->chained = 0;
	device_armed(e->device); /* before: what completes at once must raise an event, too */
	ret = ibv_post_send(q->qp, q->wr, &bad);
	end->next = end + 1;
	if (!ret)
		return true;
	/* What was not taken is still in its slot: it comes back as if the NIC had returned it. */
	mci_warn("%s takes no work requests: %s", e->device->name, strerror(ret));
	mci_rdma_endpoint_break(e, -ret, true, finals);
	return false;
}

static void post_all(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e, *next;
	unsigned int i, n;

	for (e = peer->endpoints; e; e = next) {
		next = e->next;
		if (e->state != MCI_RDMA_UP)
			continue;
		for (i = 0, n = e->count; i < n && post(e, i, true, finals); i++)
			;
	}
}

int mci_rdma_post_marker(struct mci_rdma_endpoint *e, unsigned int index)
{
	struct mci_rdma_queue *q = e->queue[index];
	struct ibv_send_wr *bad, wr = {
					 .wr_id = mci_rdma_wr_id(e, index, q->head),
					 .opcode = IBV_WR_RDMA_WRITE,
					 .send_flags = IBV_SEND_SIGNALED,
				 };
	int ret;

	q->chained = 0; /* never posted: they go back with the others */
	device_armed(e->device);
	ret = ibv_post_send(q->qp, &wr, &bad);
	if (ret)
		return -ret;
	q->slot[q->head++ % MCI_RDMA_DEPTH] = (struct mci_rdma_slot){.kind = MCI_RDMA_MARKER};
	return 0;
}

/* Before one more is chained: a chain that is full goes. False: as post(). */
static bool make_place(struct mci_rdma_endpoint *e, const struct mci_rdma_queue *q, struct mci_request **finals)
{
	return q->chained < MCI_RDMA_CHAIN || post(e, q->index, false, finals);
}

/* The next work request of a chain. */
static void build(const struct mci_rdma_endpoint *e, struct mci_rdma_queue *q, enum ibv_wr_opcode opcode,
		  struct ibv_sge local, uint64_t address, uint32_t key)
{
	struct ibv_send_wr *wr = &q->wr[q->chained];

	q->sge[q->chained++] = local;
	wr->wr_id = mci_rdma_wr_id(e, q->index, q->head);
	wr->opcode = opcode;
	wr->send_flags = 0;
	wr->wr.rdma.remote_addr = address;
	wr->wr.rdma.rkey = key;
}

/* A slice of a request onto a queue that has a place. */
static void chain(struct mci_rdma_endpoint *e, struct mci_rdma_queue *q, const struct mci_rdma_again *slice,
		  const struct mci_rdma_remote *remote)
{
	struct mci_request *r = slice->request;
	const struct mci_rdma_memory *m = mci_rdma_memory_of(e->peer->rdma, r->region);
	uint64_t from = (uint64_t)(r->local - m->addr) + slice->at, to = r->offset + slice->at;
	uint64_t here = m->chunks > 1 ? from / m->chunk : 0, there = remote->chunks > 1 ? to / remote->chunk : 0;
	const struct ibv_mr *mr = m->mr[here * e->peer->rdma->device_count + e->device->index];

	build(e, q, r->op == MCI_OP_READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
	      (struct ibv_sge){.addr = m->iova + from, .length = slice->length, .lkey = mr->lkey},
	      remote->iova + to, remote->key[there * remote->devices + e->to]);
	q->slot[q->head++ % MCI_RDMA_DEPTH] = (struct mci_rdma_slot){
		.request = r, .at = slice->at, .length = slice->length, .kind = MCI_RDMA_DATA};
	if (r->op == MCI_OP_WRITE)
		q->dirty = true;
	e->in_flight++;
	e->bytes += slice->length;
	atomic_store_explicit(&e->visited, true, memory_order_relaxed);
	mci_rdma_pool_settle(e);
}

/* How much of a request goes into one slice. */
static uint32_t slice_length(const struct mci_rdma_peer *peer, const struct mci_request *r,
			     const struct mci_rdma_remote *remote)
{
	uint32_t configured = peer->rdma->host->options.slice_size;
	const struct mci_rdma_memory *m = mci_rdma_memory_of(peer->rdma, r->region);
	uint64_t left = r->length - r->cursor, slice = configured, room;
	uint64_t from = (uint64_t)(r->local - m->addr) + r->cursor, to = r->offset + r->cursor;

	if (!slice) {
		/* One rail gains nothing from small ones; several share a request evenly. */
		unsigned int rails = mci_rdma_rails(peer);

		slice = rails > 1 ? r->length / (2 * rails) : MCI_RDMA_SLICE_MAX;
		if (slice < MCI_RDMA_SLICE)
			slice = MCI_RDMA_SLICE;
		if (slice > MCI_RDMA_SLICE_MAX)
			slice = MCI_RDMA_SLICE_MAX;
	}
	/* A short tail goes along with the slice before it. */
	if (left > slice && left - slice < slice / 2)
		slice = left;
	if (slice > left)
		slice = left;
	room = m->chunks > 1 ? m->chunk - from % m->chunk : slice;
	if (slice > room)
		slice = room;
	room = remote->chunks > 1 ? remote->chunk - to % remote->chunk : slice;
	return (uint32_t)(slice > room ? room : slice);
}

enum verdict { GO, LATER, DONE };

/* Can this request be worked on now? */
static enum verdict judge(struct mci_rdma_peer *peer, struct mci_request *r,
			  const struct mci_rdma_remote *remote, struct mci_request **finals)
{
	int err = 0;

	if (mci_rdma_request_ended(r))
		return DONE;
	if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
		err = -ECANCELED;
	else if (atomic_load_explicit(&r->remote->stale, memory_order_relaxed))
		err = -ESTALE;
	else if (remote->state == MCI_RDMA_KEYS_REFUSED)
		err = remote->error;
	else if (!mci_rdma_memory_of(peer->rdma, r->region))
		err = -EFAULT;
	else if (remote->state != MCI_RDMA_KEYS_THERE)
		return LATER;
	if (!err)
		return GO;
	mci_rdma_request_end(peer, r, err == -ECANCELED ? MC_CANCELLED : MC_FAILED, err, finals);
	return DONE;
}

/* Where the next slice of a request goes; NULL: nowhere now. The peer may have more NICs by now than there are keys. */
static struct mci_rdma_endpoint *pick(struct mci_rdma_peer *peer, const struct mci_request *r,
				      const struct mci_rdma_remote *remote, struct mci_rdma_queue **q)
{
	uint32_t reach = remote->devices < 32 ? (1u << remote->devices) - 1 : UINT32_MAX;

	return mci_rdma_rail_pick(peer, mci_rdma_memory_of(peer->rdma, r->region)->prefer, remote->prefer, reach, q);
}

/* Slices that came back go first. False: no rail has room. */
static bool pump_again(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	uint32_t turns = peer->again_count;

	for (; turns && peer->again_count; turns--) {
		struct mci_rdma_again slice = peer->again[peer->again_first];
		struct mci_rdma_remote *remote = mci_rdma_remote_of(peer, slice.request);
		struct mci_rdma_endpoint *e = NULL;
		struct mci_rdma_queue *q;
		enum verdict verdict = judge(peer, slice.request, remote, finals);

		if (verdict == GO) {
			e = pick(peer, slice.request, remote, &q);
			if (!e)
				return false;
			if (!make_place(e, q, finals))
				continue; /* it broke: another, if there is one */
		}
		peer->again_first = (peer->again_first + 1) % peer->again_size;
		peer->again_count--;
		if (verdict == GO) {
			chain(e, q, &slice, remote);
			atomic_fetch_add_explicit(&peer->rdma->host->stats.resent, 1, memory_order_relaxed);
		} else if (verdict == LATER) {
			const struct mci_rdma_slot slot = {
				.request = slice.request, .at = slice.at, .length = slice.length};

			mci_rdma_again_push(peer, &slot); /* there is room: it just left */
		} else {
			mci_rdma_request_slice(peer, slice.request, 0, finals);
		}
	}
	return true;
}

/* Eight bytes of the peer's NIC, read into ours: chained on a queue, for a flush or as a proof. */
static void chain_read(struct mci_rdma_endpoint *e, unsigned int index, const struct mci_rdma_slot *slot)
{
	struct mci_rdma_queue *q = e->queue[index];

	build(e, q, IBV_WR_RDMA_READ,
	      (struct ibv_sge){.addr = (uintptr_t)&e->device->flush_word[4],
			       .length = 8,
			       .lkey = e->device->flush_mr->lkey},
	      e->flush_iova, e->flush_key);
	q->slot[q->head++ % MCI_RDMA_DEPTH] = *slot;
	e->in_flight++;
}

/* Something has to come back through a new queue pair before it is used. False: it broke. */
bool mci_rdma_post_proof(struct mci_rdma_endpoint *e, unsigned int index, struct mci_request **finals)
{
	const struct mci_rdma_slot slot = {.kind = MCI_RDMA_PROOF, .length = 8};

	e->bytes += slot.length;
	chain_read(e, index, &slot);
	return post(e, index, true, finals);
}

static bool has_room_to_flush(const struct mci_rdma_peer *peer)
{
	const struct mci_rdma_endpoint *e;
	unsigned int i;

	for (e = peer->endpoints; e; e = e->next)
		for (i = 0; i < e->count && e->state == MCI_RDMA_UP; i++)
			if (e->queue[i]->dirty && !mci_rdma_room(e->queue[i]))
				return false;
	return true;
}

/*
 * A small read behind the writes of each queue pair: what it overtakes is in memory (contracts I4). One that does not
 * come back, or cannot be posted, is no flush: all is looked at once more when that endpoint has ended.
 */
static void flush(struct mci_rdma_peer *peer, struct mci_request *r, struct mci_request **finals)
{
	const struct mci_rdma_slot slot = {.request = r, .length = 8, .kind = MCI_RDMA_FLUSH};
	struct mci_rdma_endpoint *e, *next;
	unsigned int i, n;
	bool ok, all = true;

	r->outstanding = 1; /* what comes back at once must not end it */
	mci_rdma_request_handed(peer, r);
	for (e = peer->endpoints; e; e = next) {
		next = e->next;
		n = e->state == MCI_RDMA_UP ? e->count : 0;
		for (i = 0, ok = true; i < n && ok; i++) {
			if (!e->queue[i]->dirty)
				continue;
			ok = make_place(e, e->queue[i], finals);
			if (!ok)
				break;
			e->bytes += slot.length;
			chain_read(e, i, &slot);
			e->queue[i]->dirty = false;
			r->outstanding++;
			ok = post(e, i, true, finals);
		}
		all &= ok;
	}
	mci_rdma_request_slice(peer, r, all ? slot.length : 0, finals);
}

/* False: no rail has room. */
static bool pump_request(struct mci_rdma_peer *peer, struct mci_request *r, struct mci_request **finals)
{
	struct mci_rdma_remote *remote;
	enum verdict verdict;

	if (r->op == MCI_OP_FLUSH) {
		if (peer->breaking || !has_room_to_flush(peer))
			return true; /* what breaks may hold writes that go anew: later */
		flush(peer, r, finals);
		return true;
	}
	remote = mci_rdma_remote_of(peer, r);
	verdict = judge(peer, r, remote, finals);
	if (verdict != GO)
		return true;
	while (r->cursor < r->length) {
		struct mci_rdma_again slice = {.request = r, .at = r->cursor};
		struct mci_rdma_endpoint *e;
		struct mci_rdma_queue *q;

		e = pick(peer, r, remote, &q);
		if (!e)
			return false;
		if (!make_place(e, q, finals)) {
			if (peer->state != MCI_RDMA_LIVE || mci_rdma_request_ended(r))
				return false;
			continue;
		}
		slice.length = slice_length(peer, r, remote);
		r->cursor += slice.length;
		r->outstanding++;
		chain(e, q, &slice, remote);
	}
	mci_rdma_request_handed(peer, r);
	return true;
}

void mci_rdma_pump(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	struct mci_request *r, *next;
	bool room = true;
	unsigned int i;

	if (peer->state != MCI_RDMA_LIVE || peer->closing)
		return;
	if (peer->again_count)
		room = pump_again(peer, finals);
	for (i = 0; i < 2 && room; i++) {
		for (r = peer->queue[i].first; r && room; r = next) {
			next = r->next;
			room = pump_request(peer, r, finals);
		}
	}
	post_all(peer, finals);
}
