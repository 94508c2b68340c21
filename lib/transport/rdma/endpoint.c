// SPDX-License-Identifier: MIT
/*
 * Initiator: an endpoint is what leads from one NIC of ours to one NIC of a peer. Its end takes three steps,
 * so that nothing of it lands after what is sent next (contracts B2): our queue pairs go to error and all
 * their work requests come back; ours are destroyed and the peer is asked to destroy his; he confirms. Only
 * then is what was in flight final, or sent anew. peer->lock is held throughout.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/rdma/initiator.h"

#define REST_FIRST_NS (100 * MCI_NS_PER_MS)
#define REST_LAST_NS (5 * MCI_NS_PER_S)
#define ASK_NS (3 * MCI_NS_PER_S)

struct mci_rdma_rail *mci_rdma_rail_of(struct mci_rdma_peer *peer, const struct mci_nic *device, uint8_t to)
{
	return &peer->rail[device->index * MCI_RDMA_DEVICES_MAX + to];
}

static void rest(struct mci_rdma_rail *rail)
{
	rail->rest_ns = rail->rest_ns ? rail->rest_ns * 2 : REST_FIRST_NS;
	if (rail->rest_ns > REST_LAST_NS)
		rail->rest_ns = REST_LAST_NS;
	rail->rest_until = mci_now_ns() + rail->rest_ns;
}

/* Its queue pairs are not ours as long as the driver has them: joined() destroys them then. */
static void give_up(struct mci_rdma_endpoint *e)
{
	struct mci_rdma_peer *peer = e->peer;

	if (e->join && mci_rdma_join_give_up(&peer->lane[e->device->index], e->join)) {
		mci_rdma_join_destroy(e->join);
		free(e->join);
		mci_rdma_peer_put(peer);
	}
	e->join = NULL;
}

static void destroy_queues(struct mci_rdma_endpoint *e)
{
	unsigned int i;

	if (e->peer->classic) {
		mci_rdma_classic_detach(e);
		return;
	}
	give_up(e);
	for (i = 0; i < e->count; i++) {
		if (e->queue[i]->qp)
			e->peer->rdma->verbs->ibv_destroy_qp(e->queue[i]->qp);
		e->queue[i]->qp = NULL;
	}
}

static void release(struct mci_rdma_endpoint *e)
{
	unsigned int i;

	for (i = 0; i < MCI_RDMA_QPS_MAX; i++)
		free(e->queue[i]);
	free(e);
}

static void cannot(struct mci_rdma_peer *peer, const struct mci_nic *device, const char *why)
{
	snprintf(peer->why, sizeof(peer->why), "%s", why);
	mci_warn("no way to segment '%s' over %s: %s", peer->name, device->name, why);
}

int mci_rdma_endpoint_open(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to)
{
	struct mci_rdma_rail *rail = mci_rdma_rail_of(peer, device, to);
	struct mci_rdma_endpoint *e, **last;
	unsigned int i;
	int ret = 0;

	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->peer = peer;
	e->device = device;
	e->to = to;
	for (i = 0; i < peer->rdma->qps && !ret; i++) {
		e->queue[i] = calloc(1, sizeof(*e->queue[i]));
		if (e->queue[i])
			mci_rdma_queue_init(e->queue[i], (uint8_t)i);
		else
			ret = -ENOMEM;
	}
	if (ret || !mci_rdma_pool_take(peer, e)) {
		release(e);
		return ret ? ret : -EAGAIN;
	}
	if (peer->classic) /* its link brings them along */
		e->count = (uint8_t)peer->rdma->qps;
	for (; e->count < peer->rdma->qps && !ret; e->count++) {
		ret = mci_rdma_qp_create(device, MCI_RDMA_DEPTH, &e->queue[e->count]->qp);
		e->queue[e->count]->psn = mci_rdma_psn();
	}
	if (ret) {
		cannot(peer, device, mc_errmsg());
		mci_rdma_rail_why(rail, "", mc_errmsg());
		rest(rail);
		destroy_queues(e);
		mci_rdma_pool_give(peer->rdma, e);
		release(e);
		return ret;
	}
	e->state = MCI_RDMA_ASKED;
	e->send_connect = true;
	/* The classic dialect's thread sees to it itself. */
	e->step_at = peer->classic ? UINT64_MAX : mci_now_ns() + ASK_NS;
	for (last = &peer->endpoints; *last; last = &(*last)->next)
		;
	*last = e;
	rail->endpoint = e;
	mci_rdma_peer_post(peer);
	return 0;
}

static struct mci_rdma_endpoint *find(struct mci_rdma_peer *peer, uint32_t number)
{
	struct mci_rdma_endpoint *e;

	for (e = peer->endpoints; e && e->number != number; e = e->next)
		;
	return e;
}

static void cannot_join(struct mci_rdma_endpoint *e, int err, const char *sentence, struct mci_request **finals)
{
	struct mci_rdma_peer *peer = e->peer;
	struct mci_rdma_rail *rail = mci_rdma_rail_of(peer, e->device, e->to);

	cannot(peer, e->device, sentence);
	mci_rdma_endpoint_break(e, err, true, finals); /* it may be gone now */
	mci_rdma_rail_why(rail, "", peer->why);
}

static void prove(struct mci_rdma_endpoint *e, const struct mci_rdma_join *join, struct mci_request **finals)
{
	unsigned int i, count;

	if (join->ret) {
		cannot_join(e, join->ret, join->why, finals);
		return;
	}
	e->state = MCI_RDMA_PROVING;
	e->step_at = mci_now_ns() + ASK_NS;
	for (i = 0, count = e->count; i < count && mci_rdma_post_proof(e, i, finals); i++)
		;
}

/* Loop thread. Who has given up meanwhile is not found. */
static void joined(struct mci_job *job)
{
	struct mci_rdma_join *join = (struct mci_rdma_join *)job;
	struct mci_rdma_peer *peer = join->owner;
	struct mci_request *finals = NULL;
	struct mci_rdma_endpoint *e;
	unsigned int i;

	pthread_mutex_lock(&peer->lock);
	mci_rdma_join_over(&peer->lane[join->device->index]);
	for (e = peer->endpoints; e && e->join != join; e = e->next)
		;
	if (e) {
		for (i = 0; i < e->count; i++) {
			e->queue[i]->qp = join->qp[i];
			join->qp[i] = NULL;
		}
		e->join = NULL;
		prove(e, join, &finals);
		mci_rdma_peer_post(peer); /* the timer has to know */
		mci_rdma_pump(peer, &finals);
	}
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	mci_rdma_join_destroy(join);
	free(join);
	mci_rdma_peer_put(peer);
}

/* Our queue pairs to those of @end: a thread of the NIC has them now. */
static int start_join(struct mci_rdma_endpoint *e, const struct mci_rdma_end *end)
{
	struct mci_rdma_peer *peer = e->peer;
	struct mci_rdma_join *join = calloc(1, sizeof(*join));
	unsigned int i;
	int ret;

	if (!join)
		return mci_fail(-ENOMEM, "no memory to connect queue pairs to segment '%s'", peer->name);
	join->job.done = joined;
	join->job.loop = peer->loop;
	join->owner = peer;
	join->device = e->device;
	join->send = true;
	join->peer = *end;
	join->count = e->count;
	for (i = 0; i < e->count; i++) {
		join->qp[i] = e->queue[i]->qp;
		join->psn[i] = e->queue[i]->psn;
	}
	ret = mci_rdma_join_add(&peer->lane[e->device->index], join);
	if (ret) {
		free(join);
		return ret;
	}
	atomic_fetch_add(&peer->refs, 1);
	for (i = 0; i < e->count; i++)
		e->queue[i]->qp = NULL;
	e->join = join;
	e->state = MCI_RDMA_JOINING;
	e->step_at = mci_now_ns() + ASK_NS;
	return 0;
}

/* An address is another one than it was opened with. */
static bool moved(const struct mci_rdma_endpoint *e)
{
	struct mci_rdma_port port;

	mci_rdma_device_port(e->device, &port);
	return memcmp(port.gid, e->own_gid, 16) || memcmp(e->peer->port[e->to].gid, e->peer_gid, 16);
}

void mci_rdma_endpoint_connected(struct mci_rdma_peer *peer, const struct mci_rdma_end *end,
				 struct mci_request **finals)
{
	struct mci_rdma_endpoint *e = find(peer, end->number);
	int ret = 0;

	if (!e || e->state != MCI_RDMA_ASKED || e->send_connect)
		return; /* given up meanwhile */
	if (end->status) {
		snprintf(peer->why, sizeof(peer->why), "%s", end->sentence);
		mci_info("segment '%s' refuses an endpoint: %s", peer->name, end->sentence);
		mci_rdma_rail_why(mci_rdma_rail_of(peer, e->device, e->to),
				  "it is refused there: ", end->sentence);
		e->path_failed = true;
		destroy_queues(e);
		mci_rdma_endpoint_end(e, finals);
		return;
	}
	if (end->count != e->count)
		ret = mci_fail(-EPROTO, "segment '%s' answers with %u queue pairs instead of %u", peer->name,
			       end->count, e->count);
	memcpy(e->peer_gid, end->gid, sizeof(e->peer_gid));
	e->flush_iova = end->flush_iova;
	e->flush_key = end->flush_key;
	if (!ret && moved(e)) {
		mci_rdma_endpoint_break(e, -EADDRNOTAVAIL, false, finals);
		return;
	}
	if (!ret)
		ret = start_join(e, end);
	if (ret)
		cannot_join(e, ret, mc_errmsg(), finals);
}

void mci_rdma_endpoint_proven(struct mci_rdma_endpoint *e)
{
	if (e->state != MCI_RDMA_PROVING || e->in_flight)
		return;
	e->state = MCI_RDMA_UP;
	mci_rdma_rail_why(mci_rdma_rail_of(e->peer, e->device, e->to), "", NULL);
	e->peer->proven = true;
	atomic_store(&e->visited, true);
	if (!atomic_load(&e->peer->pending))
		mci_rdma_pool_settle(e);
	pthread_cond_broadcast(&e->peer->changed);
}

static bool unanswered_write(const struct mci_rdma_endpoint *e)
{
	unsigned int i;
	uint32_t at;

	for (i = 0; i < e->count; i++)
		for (at = e->queue[i]->tail; at != e->queue[i]->head; at++) {
			const struct mci_rdma_slot *slot = &e->queue[i]->slot[at % MCI_RDMA_DEPTH];

			if (slot->kind == MCI_RDMA_DATA && slot->request && slot->request->op == MCI_OP_WRITE)
				return true;
		}
	return false;
}

/*
 * A classic peer cannot be asked to end its side; but it does before it accepts other queue pairs in place of
 * those. Only writes without an answer have to wait for that: reads change nothing over there.
 */
static void fence_classic(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	struct mci_rdma_peer *peer = e->peer;

	e->owes = !e->confirmed && unanswered_write(e) && !peer->rdma->hooks.no_fence;
	destroy_queues(e);
	if (e->error)
		mci_rdma_classic_suspect(peer);
	if (!e->owes || peer->state != MCI_RDMA_LIVE) {
		mci_rdma_endpoint_end(e, finals);
		return;
	}
	e->state = MCI_RDMA_FENCING;
	e->send_drop = true;
	e->step_at = mci_now_ns() + MCI_RDMA_STEP_NS;
	mci_rdma_peer_post(peer);
}

/* Ours are gone: ask the peer to end his, if there is one to be asked. */
static void fence(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	struct mci_rdma_peer *peer = e->peer;

	if (peer->classic) {
		fence_classic(e, finals);
		return;
	}
	destroy_queues(e);
	if (!peer->conn_there || peer->rdma->hooks.no_fence) {
		mci_rdma_endpoint_end(e, finals);
		return;
	}
	e->state = MCI_RDMA_FENCING;
	e->send_drop = !e->send_connect; /* what was never asked for needs no end */
	e->step_at = mci_now_ns() + MCI_RDMA_STEP_NS;
	if (e->send_drop)
		mci_rdma_peer_post(peer);
	else
		mci_rdma_endpoint_end(e, finals);
}

void mci_rdma_endpoint_break(struct mci_rdma_endpoint *e, int err, bool path_failed,
			     struct mci_request **finals)
{
	bool idle = e->state == MCI_RDMA_ASKED || e->state == MCI_RDMA_JOINING;
	unsigned int i;

	if (!mci_rdma_endpoint_opens(e) && e->state != MCI_RDMA_UP)
		return;
	e->error = err;
	e->path_failed = path_failed;
	e->peer->breaking++;
	if (path_failed) {
		mci_info("endpoint over %s to %s of segment '%s' failed: %s", e->device->name,
			 e->peer->port_name[e->to], e->peer->name, strerror(-err));
		mci_rdma_rail_why(mci_rdma_rail_of(e->peer, e->device, e->to), "",
				  err == -ETIMEDOUT || err == -EHOSTUNREACH ? "nothing comes through"
									    : strerror(-err));
	}
	e->state = MCI_RDMA_BREAKING;
	e->step_at = mci_now_ns() + MCI_RDMA_STEP_NS;
	mci_rdma_peer_post(e->peer); /* the timer has to know */
	for (i = 0; i < e->count && !idle; i++) {
		struct mci_rdma_queue *q = e->queue[i];

		q->drained = q->head == q->tail;
		if (q->drained)
			continue;
		/* A marker behind all others: when it comes back, nothing of the queue is under way here. */
		if (mci_rdma_qp_error(e->device, q->qp) || mci_rdma_post_marker(e, i))
			q->drained = true;
	}
	for (i = 0; i < e->count && !idle; i++)
		if (!e->queue[i]->drained)
			return;
	fence(e, finals);
}

void mci_rdma_endpoint_drained(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	unsigned int i;

	if (e->state != MCI_RDMA_BREAKING)
		return;
	for (i = 0; i < e->count; i++)
		if (!e->queue[i]->drained)
			return;
	fence(e, finals);
}

static void give_back(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	struct mci_rdma_peer *peer = e->peer;
	unsigned int i;

	for (i = 0; i < e->count; i++) {
		struct mci_rdma_queue *q = e->queue[i];

		for (; q->tail != q->head; q->tail++) {
			struct mci_rdma_slot *slot = &q->slot[q->tail % MCI_RDMA_DEPTH];

			if (!slot->request)
				continue;
			/* A queue pair that the peer has destroyed has nothing left to be flushed. */
			if (slot->kind == MCI_RDMA_FLUSH || mci_rdma_request_ended(slot->request))
				mci_rdma_request_slice(peer, slot->request, 0, finals);
			else if (mci_rdma_again_push(peer, slot)) {
				mci_rdma_request_end(peer, slot->request, MC_FAILED, -ENOMEM, finals);
				mci_rdma_request_slice(peer, slot->request, 0, finals);
			}
		}
	}
}

void mci_rdma_endpoint_end(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	struct mci_rdma_peer *peer = e->peer;
	struct mci_rdma_rail *rail = mci_rdma_rail_of(peer, e->device, e->to);
	struct mci_rdma_endpoint **link;

	destroy_queues(e);
	give_back(e, finals);
	if (e->state == MCI_RDMA_BREAKING || e->state == MCI_RDMA_FENCING)
		peer->breaking--;
	/* Queue pairs that were connected ended, and the peer did not say that his are gone. */
	if (e->state != MCI_RDMA_ASKED && e->state != MCI_RDMA_JOINING && !peer->conn_there)
		peer->unconfirmed = true;
	if (e->path_failed) {
		rest(rail);
		mci_rdma_peer_post(peer); /* the timer has to know when it is over */
	}
	if (rail->endpoint == e)
		rail->endpoint = NULL;
	for (link = &peer->endpoints; *link != e; link = &(*link)->next)
		;
	*link = e->next;
	mci_rdma_pool_give(peer->rdma, e);
	release(e);
	pthread_cond_broadcast(&peer->changed);
}

void mci_rdma_endpoint_idle(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	if (e->state == MCI_RDMA_UP && !e->in_flight && atomic_load(&e->evict))
		mci_rdma_endpoint_break(e, 0, false, finals);
}

/* Steps that take too long: the NIC or the peer does not answer any more. */
void mci_rdma_endpoint_steps(struct mci_rdma_peer *peer, uint64_t now, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e, *next;
	bool silent = false;
	unsigned int i;

	for (e = peer->endpoints; e; e = next) {
		next = e->next;
		if (e->state == MCI_RDMA_UP || now < e->step_at)
			continue;
		if (e->state == MCI_RDMA_BREAKING) {
			mci_warn("%s does not give back its work requests; its queue pairs are destroyed",
				 e->device->name);
			for (i = 0; i < e->count; i++)
				e->queue[i]->drained = true;
			fence(e, finals);
		} else if (e->state == MCI_RDMA_JOINING || e->state == MCI_RDMA_PROVING) {
			mci_rdma_endpoint_break(e, -ETIMEDOUT, true, finals);
		} else {
			silent = true;
		}
	}
	if (!silent || peer->dropping)
		return;
	mci_info("segment '%s' does not answer on its control connection; it is opened anew", peer->name);
	peer->dropping = true;
	mci_rdma_peer_post(peer);
	/* Nothing is sent to it before the next incarnation: what broke is settled by that (contracts B1). */
	mci_rdma_peer_lost(peer, finals);
}

/* Ports changed: what leads over one that is down, or has another address, breaks now, before its time-outs
 * do. */
void mci_rdma_endpoint_ports(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e, *next;
	struct mci_rdma_port port;

	for (e = peer->endpoints; e; e = next) {
		next = e->next;
		mci_rdma_device_port(e->device, &port);
		if (!port.up || !peer->port[e->to].up)
			mci_rdma_endpoint_break(e, -ENETDOWN, true, finals);
		else if (e->state >= MCI_RDMA_JOINING && e->state <= MCI_RDMA_UP && !peer->classic && moved(e))
			mci_rdma_endpoint_break(e, -EADDRNOTAVAIL, false, finals);
	}
}
