// SPDX-License-Identifier: MIT
/*
 * Target: control connections of initiators. They are told keys, and get queue pairs that answer theirs;
 * a connection that ends takes its queue pairs along, and one of a newer incarnation ends the older one
 * first (contracts B1). No byte moves here. serve->lock guards the list; a connection's endpoints are its
 * loop thread's. Queue pairs that the driver still has (join.c) are destroyed when they come back: no peer
 * was told of them, so nothing can arrive through them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "transport/rdma/rdma.h"

#define CONNECTIONS_MAX 4096
#define ENDPOINTS_MAX 4096	 /* responders of all peers */
#define ENDPOINTS_OF_ONE_MAX 1024 /* of one of them */
#define QP_BYTES (8u << 10) /* what a queue pair without queues costs here, in the driver and below it, roughly */

struct responder { /* queue pairs that answer one endpoint of an initiator */
	struct mci_rdma_join join; /* first; join.peer: what was asked for */
	struct responder *next;
	bool ready;		   /* the initiator was told of them */
	bool given_up;		   /* not in the list any more */
	struct mci_rdma_port port; /* as it was when they were made */
	uint64_t charged;	   /* to the peer */
};

struct lanes { /* of one peer, however many connections it has; serve->lock */
	struct lanes *next;
	struct mc_uuid peer;
	unsigned int users;
	_Atomic unsigned int responders;
	struct mci_rdma_lane lane[MCI_RDMA_DEVICES_MAX];
};

struct served {
	struct mci_rdma_serve *serve;
	struct served *prev, *next;
	struct mci_loop *loop;
	struct mci_conn *conn;
	struct mc_uuid session, owner;
	uint64_t incarnation;
	char name[MCI_NAME_MAX + 1];
	struct mci_payer payer;
	struct mci_incoming *in; /* waits for an older incarnation to end */
	bool closing;		 /* has to end, or is no more */
	bool tell_ports, task_posted;
	unsigned int refs;
	struct mci_task task;
	struct mci_rdma_ask *gone; /* to be told */
	unsigned int gone_count, gone_size;
	struct responder *responders; /* loop thread */
	struct lanes *lanes;
};

struct mci_rdma_serve {
	struct mci_rdma *rdma;
	pthread_mutex_t lock;
	pthread_cond_t empty;
	struct served *first;
	struct lanes *lanes;
	unsigned int count; /* in the list of @first */
	unsigned int alive; /* those that something still knows, too */
	bool closing;
	_Atomic unsigned int responders;
};

static void on_task(struct mci_task *task);

int mci_rdma_serve_open(struct mci_rdma *rdma)
{
	struct mci_rdma_serve *serve = calloc(1, sizeof(*serve));

	if (!serve)
		return mci_fail(-ENOMEM, "no memory for the rdma transport");
	serve->rdma = rdma;
	pthread_mutex_init(&serve->lock, NULL);
	pthread_cond_init(&serve->empty, NULL);
	rdma->serve = serve;
	return 0;
}

/* serve->lock held. NULL: no memory. */
static struct lanes *lanes_get(struct mci_rdma_serve *serve, const struct mc_uuid *peer)
{
	struct lanes *lanes;

	for (lanes = serve->lanes; lanes && !mci_uuid_equal(&lanes->peer, peer); lanes = lanes->next)
		;
	if (!lanes) {
		lanes = calloc(1, sizeof(*lanes));
		if (!lanes)
			return NULL;
		lanes->peer = *peer;
		lanes->next = serve->lanes;
		serve->lanes = lanes;
	}
	lanes->users++;
	return lanes;
}

/* serve->lock held */
static void lanes_put(struct mci_rdma_serve *serve, struct lanes *lanes)
{
	struct lanes **at;

	if (--lanes->users)
		return;
	for (at = &serve->lanes; *at != lanes; at = &(*at)->next)
		;
	*at = lanes->next;
	free(lanes);
}

/* serve->lock held */
static void served_put(struct served *s)
{
	struct mci_rdma_serve *serve = s->serve;

	if (--s->refs)
		return;
	lanes_put(serve, s->lanes);
	free(s->gone);
	free(s);
	if (!--serve->alive)
		pthread_cond_broadcast(&serve->empty);
}

/* serve->lock held */
static void post(struct served *s)
{
	if (s->task_posted)
		return;
	s->task_posted = true;
	s->refs++;
	mci_loop_post(s->loop, &s->task);
}

static void destroy_responder(struct served *s, struct responder *r)
{
	struct mci_rdma_serve *serve = s->serve;

	mci_rdma_join_destroy(&r->join);
	mci_ledger_give(serve->rdma->host->ledger, &s->payer, r->charged);
	free(r);
	atomic_fetch_sub(&serve->responders, 1);
	atomic_fetch_sub(&s->lanes->responders, 1);
}

static void put(struct served *s)
{
	struct mci_rdma_serve *serve = s->serve;

	pthread_mutex_lock(&serve->lock);
	served_put(s);
	pthread_mutex_unlock(&serve->lock);
}

/* It is out of the list. If the driver has its queue pairs, joined() will destroy it. */
static void end_responder(struct served *s, struct responder *r)
{
	struct mci_rdma_serve *serve = s->serve;
	bool ours = r->ready;

	if (!ours) {
		pthread_mutex_lock(&serve->lock);
		ours = mci_rdma_join_give_up(&s->lanes->lane[r->join.device->index], &r->join);
		if (ours)
			served_put(s); /* the join's; the caller has another */
		pthread_mutex_unlock(&serve->lock);
	}
	if (ours)
		destroy_responder(s, r);
	else
		r->given_up = true;
}

/* Serve->lock held. The next one of the session that waits, if nothing older is left. */
static struct served *next_waiting(struct mci_rdma_serve *serve, const struct mc_uuid *session)
{
	struct served *s, *waiting = NULL;

	for (s = serve->first; s; s = s->next) {
		if (!mci_uuid_equal(&s->session, session))
			continue;
		if (!s->in)
			return NULL;
		waiting = s;
	}
	return waiting;
}

static void on_ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error);

/* Loop thread: the connection is no more, nor are its queue pairs. */
static void served_forget(struct served *s)
{
	struct mci_rdma_serve *serve = s->serve;
	struct served *waiting;
	struct mci_incoming *in = NULL;
	struct responder *r;

	while ((r = s->responders)) {
		s->responders = r->next;
		end_responder(s, r);
	}
	pthread_mutex_lock(&serve->lock);
	s->conn = NULL;
	s->closing = true;
	if (s->prev)
		s->prev->next = s->next;
	else
		serve->first = s->next;
	if (s->next)
		s->next->prev = s->prev;
	serve->count--;
	waiting = next_waiting(serve, &s->session);
	if (waiting) {
		in = waiting->in;
		waiting->in = NULL;
	}
	served_put(s);
	pthread_mutex_unlock(&serve->lock);
	if (in)
		mci_incoming_accept(in, NULL, 0, on_ready, waiting);
}

/* Tell keys of regions, one frame each. */
static int on_keys_ask(struct served *s, const struct mci_frame *frame)
{
	struct mci_rdma *rdma = s->serve->rdma;
	struct mci_rdma_ask ask[MCI_RDMA_ASK_MAX];
	uint16_t count, i;
	int ret;

	ret = mci_rdma_asks_decode(frame->body, frame->length, ask, &count);
	for (i = 0; i < count && !ret; i++) {
		struct mci_rdma_keys keys = {.id = ask[i].id, .generation = ask[i].generation};
		struct mci_rdma_memory *m = NULL;
		struct mci_region *region = NULL;
		uint8_t *out;
		uint32_t k;

		keys.status = mci_region_get_remote(rdma->host->regions, ask[i].id, ask[i].generation, 0, 0,
						    0, &region);
		if (!keys.status) {
			m = mci_rdma_memory_of(rdma, region);
			if (!m)
				keys.status = -EOPNOTSUPP;
		}
		if (!keys.status) {
			keys.rights = region->rights;
			keys.length = m->length;
			keys.iova = m->iova;
			keys.chunk = m->chunk;
			keys.chunks = m->chunks;
			keys.devices = rdma->device_count;
		} else {
			atomic_fetch_add_explicit(&rdma->host->stats.refused, 1, memory_order_relaxed);
		}
		out = malloc(mci_rdma_keys_size(&keys));
		if (out) {
			mci_rdma_keys_encode(&keys, out);
			for (k = 0; k < (uint32_t)keys.chunks * keys.devices; k++)
				mci_put32(out + MCI_RDMA_KEYS_HEAD + 4 * k, m->mr[k]->rkey);
		}
		if (region)
			mci_region_put(region);
		ret = out ? mci_conn_send(s->conn, MCI_RDMA_KEYS, frame->id, out, mci_rdma_keys_size(&keys),
					  -1)
			  : -ENOMEM;
		free(out);
	}
	return ret;
}

static int answer(struct served *s, const struct mci_rdma_end *own)
{
	uint8_t out[MCI_RDMA_END_MAX];

	return mci_conn_send(s->conn, MCI_RDMA_CONNECTED, 0, out, mci_rdma_end_encode(own, out), -1);
}

static int refuse(struct served *s, const struct mci_rdma_end *peer, int err, const char *sentence)
{
	struct mci_rdma_end own = {.number = peer->number, .from = peer->from, .to = peer->to, .status = err};

	snprintf(own.sentence, sizeof(own.sentence), "%s", sentence);
	return answer(s, &own);
}

static int accept_endpoint(struct served *s, struct responder *r)
{
	const struct mci_rdma_join *join = &r->join;
	struct mci_rdma_end own = {
		.number = join->peer.number,
		.from = join->peer.from,
		.to = join->peer.to,
		.count = join->count,
		.mtu = r->port.mtu,
		.lid = r->port.lid,
		.flush_iova = (uintptr_t)join->device->flush_word,
		.flush_key = join->device->flush_mr->rkey,
	};
	unsigned int i;

	memcpy(own.gid, r->port.gid, 16);
	for (i = 0; i < join->count; i++)
		own.qpn[i] = join->qp[i]->qp_num;
	r->ready = true;
	return answer(s, &own);
}

static void unlist(struct served *s, struct responder *r)
{
	struct responder **link;

	for (link = &s->responders; *link != r; link = &(*link)->next)
		;
	*link = r->next;
}

static void joined(struct mci_job *job) /* loop thread */
{
	struct responder *r = (struct responder *)job;
	struct served *s = r->join.owner;
	int ret = 0;

	pthread_mutex_lock(&s->serve->lock);
	mci_rdma_join_over(&s->lanes->lane[r->join.device->index]);
	pthread_mutex_unlock(&s->serve->lock);
	if (r->given_up) {
		destroy_responder(s, r);
	} else if (r->join.ret) {
		unlist(s, r);
		ret = refuse(s, &r->join.peer, r->join.ret, r->join.why);
		destroy_responder(s, r);
	} else {
		ret = accept_endpoint(s, r);
	}
	if (ret)
		mci_conn_close(s->conn);
	put(s);
}

/* The answer follows when the driver has connected the queue pairs; or why there is no endpoint. */
static int build(struct served *s, const struct mci_rdma_end *peer)
{
	struct mci_rdma_serve *serve = s->serve;
	struct mci_rdma *rdma = serve->rdma;
	struct mci_nic *device;
	char refusal[MCI_SENTENCE_MAX + 1];
	uint64_t bytes = sizeof(struct responder) + (uint64_t)peer->count * QP_BYTES;
	unsigned int one, all;
	struct responder *r;
	int ret;

	if (peer->to >= rdma->device_count)
		return mci_fail(-ENODEV, "segment '%s' has no RDMA device number %u", rdma->host->self->name,
				peer->to);
	ret = mci_ledger_take(rdma->host->ledger, &s->payer, bytes, refusal);
	if (ret)
		return mci_fail(ret, "segment '%s': %s", rdma->host->self->name, refusal);
	r = calloc(1, sizeof(*r));
	if (!r) {
		mci_ledger_give(rdma->host->ledger, &s->payer, bytes);
		return mci_fail(-ENOMEM, "no memory for an endpoint");
	}
	r->charged = bytes;
	one = atomic_fetch_add(&s->lanes->responders, 1);
	all = atomic_fetch_add(&serve->responders, 1);
	if (one >= ENDPOINTS_OF_ONE_MAX || all >= ENDPOINTS_MAX) {
		destroy_responder(s, r);
		return mci_fail(-EBUSY, "segment '%s' answers as many endpoints as it can (%u of this peer, %u in all)",
				rdma->host->self->name, one, all);
	}
	device = rdma->device[peer->to];
	mci_rdma_device_port(device, &r->port);
	r->join.job.done = joined;
	r->join.job.loop = s->loop;
	r->join.owner = s;
	r->join.device = device;
	r->join.peer = *peer;
	if (!r->port.up)
		ret = mci_fail(-ENETDOWN, "port %u of %s is down", device->port, device->name);
	while (r->join.count < peer->count && !ret) {
		ret = mci_rdma_qp_create(device, 1, &r->join.qp[r->join.count]);
		r->join.count += !ret;
	}
	if (!ret) {
		pthread_mutex_lock(&serve->lock);
		ret = mci_rdma_join_add(&s->lanes->lane[device->index], &r->join);
		s->refs += !ret; /* joined() comes in this thread, later */
		pthread_mutex_unlock(&serve->lock);
	}
	if (ret) {
		destroy_responder(s, r);
		return ret;
	}
	r->next = s->responders;
	s->responders = r;
	return 0;
}

static int on_connect(struct served *s, const struct mci_frame *frame)
{
	struct mci_rdma_end peer;
	struct responder *r;
	int ret;

	if (mci_rdma_end_decode(frame->body, frame->length, &peer) || peer.status || !peer.count)
		return -EPROTO;
	for (r = s->responders; r; r = r->next)
		if (r->join.peer.number == peer.number)
			return -EPROTO;
	ret = build(s, &peer);
	return ret ? refuse(s, &peer, ret, mc_errmsg()) : 0;
}

/* When the answer goes out, nothing of that endpoint can arrive in our memory any more: its queue pairs are no more,
 * or the initiator was never told of them. */
static int on_drop(struct served *s, const struct mci_frame *frame)
{
	struct responder **link, *r;
	uint8_t out[4];

	if (frame->length != 4)
		return -EPROTO;
	for (link = &s->responders; (r = *link); link = &r->next) {
		if (r->join.peer.number != mci_get32(frame->body))
			continue;
		*link = r->next;
		end_responder(s, r);
		break;
	}
	memcpy(out, frame->body, 4);
	return mci_conn_send(s->conn, MCI_RDMA_DROPPED, 0, out, 4, -1);
}

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	struct served *s = arg;
	int ret = -EPROTO;

	if (frame->type == MCI_RDMA_KEYS_ASK)
		ret = on_keys_ask(s, frame);
	else if (frame->type == MCI_RDMA_CONNECT)
		ret = on_connect(s, frame);
	else if (frame->type == MCI_RDMA_DROP)
		ret = on_drop(s, frame);
	if (!ret)
		return;
	mci_warn("rdma control connection of '%s' closed: %s", s->name,
		 ret == -EPROTO ? "malformed or unexpected frame" : strerror(-ret));
	mci_conn_close(conn);
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	(void)conn;
	(void)err;
	served_forget(arg);
}

static int send_ports(struct served *s)
{
	struct mci_rdma *rdma = s->serve->rdma;
	struct mci_rdma_port port[MCI_RDMA_DEVICES_MAX];
	uint8_t out[2 + MCI_RDMA_PORT_SIZE * MCI_RDMA_DEVICES_MAX], i;

	for (i = 0; i < rdma->device_count; i++)
		mci_rdma_device_port(rdma->device[i], &port[i]);
	return mci_conn_send(s->conn, MCI_RDMA_PORTS, 0, out,
			     mci_rdma_ports_encode(port, rdma->device_count, out), -1);
}

static void on_task(struct mci_task *task) /* loop thread */
{
	struct served *s = (struct served *)((char *)task - offsetof(struct served, task));
	struct mci_rdma_serve *serve = s->serve;
	struct mci_rdma_ask *gone;
	unsigned int count, i;
	bool ports, closing;
	int ret = 0;

	pthread_mutex_lock(&serve->lock);
	s->task_posted = false;
	closing = s->closing;
	ports = s->tell_ports;
	s->tell_ports = false;
	gone = s->gone;
	count = s->gone_count;
	s->gone = NULL;
	s->gone_count = s->gone_size = 0;
	pthread_mutex_unlock(&serve->lock);
	for (i = 0; i < count && !ret && s->conn && !closing; i++) {
		uint8_t out[8];

		mci_put32(out, gone[i].id);
		mci_put32(out + 4, gone[i].generation);
		ret = mci_conn_send(s->conn, MCI_RDMA_GONE, 0, out, 8, -1);
	}
	if (ports && !ret && s->conn && !closing)
		ret = send_ports(s);
	if (s->conn && (closing || ret))
		mci_conn_close(s->conn);
	free(gone);
	put(s);
}

static void on_ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	static const struct mci_conn_ops ops = {.frame = on_frame, .closed = on_closed};
	struct served *s = arg;
	bool closing;

	(void)hello;
	pthread_mutex_lock(&s->serve->lock);
	closing = s->closing;
	pthread_mutex_unlock(&s->serve->lock);
	if (error < 0) {
		served_forget(s);
		return;
	}
	if (closing || mci_conn_start(s->loop, sock, MCI_RDMA_FRAME_LIMIT, &ops, s, &s->conn)) {
		mci_sock_close(&sock);
		served_forget(s);
		return;
	}
	mci_conn_account(s->conn, s->serve->rdma->host->ledger, &s->payer);
	if (send_ports(s))
		mci_conn_close(s->conn);
}

/* Serve->lock held. Ends older incarnations of the session; -ESTALE: there is a newer one. */
static int supersede(struct mci_rdma_serve *serve, const struct served *now, bool *wait,
		     struct served **replaced, struct mci_incoming **in)
{
	struct served *s;

	*wait = false;
	*replaced = NULL;
	for (s = serve->first; s; s = s->next) {
		if (!mci_uuid_equal(&s->session, &now->session))
			continue;
		if (!mci_uuid_equal(&s->owner, &now->owner) || s->incarnation >= now->incarnation)
			return -ESTALE;
	}
	for (s = serve->first; s; s = s->next) {
		if (!mci_uuid_equal(&s->session, &now->session))
			continue;
		if (s->in) {
			*replaced = s; /* at most one waits: its place is taken */
			*in = s->in;
			s->in = NULL;
			s->closing = true;
			continue;
		}
		*wait = true;
		s->closing = true;
		post(s);
	}
	return 0;
}

static void take_in(struct mci_rdma_serve *serve, struct served *s)
{
	s->next = serve->first;
	if (s->next)
		s->next->prev = s;
	serve->first = s;
	serve->count++;
	serve->alive++;
}

void mci_rdma_serve_incoming(struct mci_rdma *rdma, struct mci_incoming *in)
{
	const struct mci_hello *hello = mci_incoming_hello(in);
	struct mci_rdma_serve *serve = rdma->serve;
	struct mci_rdma_params params;
	struct served *s, *replaced = NULL;
	struct mci_incoming *old = NULL;
	bool wait = false;
	int ret;

	if (mci_rdma_params_decode(hello->params, hello->params_length, &params) ||
	    params.version != MCI_RDMA_VERSION) {
		mci_incoming_reject(
			in, -EPROTO,
			"another version of the rdma protocol; run the same release on both sides");
		return;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		mci_incoming_reject(in, -ENOMEM, "no memory for one more connection");
		return;
	}
	s->serve = serve;
	s->loop = mci_incoming_loop(in);
	s->refs = 1;
	s->task.fn = on_task;
	s->session = params.session;
	s->owner = hello->peer.uuid;
	s->payer = *mci_incoming_payer(in);
	s->incarnation = params.incarnation;
	snprintf(s->name, sizeof(s->name), "%s", hello->peer.name);
	pthread_mutex_lock(&serve->lock);
	s->lanes = lanes_get(serve, &s->payer.peer);
	ret = serve->closing			? -ESHUTDOWN
	      : !s->lanes			? -ENOMEM
	      : serve->count >= CONNECTIONS_MAX ? -EUSERS
						: supersede(serve, s, &wait, &replaced, &old);
	if (!ret) {
		s->in = wait ? in : NULL;
		take_in(serve, s);
	} else if (s->lanes) {
		lanes_put(serve, s->lanes);
	}
	pthread_mutex_unlock(&serve->lock);
	if (ret) {
		free(s);
		mci_incoming_reject(in, ret,
				    ret == -ESTALE   ? "the session has a newer incarnation"
				    : ret == -EUSERS ? "too many rdma connections"
				    : ret == -ENOMEM ? "no memory for one more connection"
						     : "this segment is closing");
		return;
	}
	if (replaced) {
		mci_incoming_reject(old, -ESTALE, "the session has a newer incarnation");
		served_forget(replaced);
	}
	if (!wait)
		mci_incoming_accept(in, NULL, 0, on_ready, s);
}

void mci_rdma_serve_gone(struct mci_rdma *rdma, const struct mci_region *region)
{
	struct mci_rdma_serve *serve = rdma->serve;
	struct served *s;

	pthread_mutex_lock(&serve->lock);
	for (s = serve->first; s; s = s->next) {
		if (s->gone_count == s->gone_size) {
			unsigned int size = s->gone_size ? 2 * s->gone_size : 16;
			struct mci_rdma_ask *more = realloc(s->gone, size * sizeof(*more));

			if (!more)
				continue; /* a hint that is lost: the NIC refuses all the same */
			s->gone = more;
			s->gone_size = size;
		}
		s->gone[s->gone_count++] = (struct mci_rdma_ask){region->id, region->generation};
		post(s);
	}
	pthread_mutex_unlock(&serve->lock);
}

void mci_rdma_serve_ports(struct mci_rdma *rdma)
{
	struct served *s;

	if (!rdma->serve)
		return;
	pthread_mutex_lock(&rdma->serve->lock);
	for (s = rdma->serve->first; s; s = s->next) {
		s->tell_ports = true;
		post(s);
	}
	pthread_mutex_unlock(&rdma->serve->lock);
}

void mci_rdma_serve_close(struct mci_rdma *rdma)
{
	struct mci_rdma_serve *serve = rdma->serve;
	struct mci_incoming *in;
	struct served *s;

	pthread_mutex_lock(&serve->lock);
	serve->closing = true;
	for (;;) {
		for (s = serve->first; s && !s->in; s = s->next)
			;
		if (!s)
			break;
		in = s->in;
		s->in = NULL;
		s->closing = true;
		pthread_mutex_unlock(&serve->lock);
		mci_incoming_reject(in, -ESHUTDOWN, "this segment is closing");
		served_forget(s);
		pthread_mutex_lock(&serve->lock);
	}
	for (s = serve->first; s; s = s->next) {
		s->closing = true;
		post(s);
	}
	while (serve->alive)
		pthread_cond_wait(&serve->empty, &serve->lock);
	pthread_mutex_unlock(&serve->lock);
	pthread_cond_destroy(&serve->empty);
	pthread_mutex_destroy(&serve->lock);
	free(serve);
	rdma->serve = NULL;
}
