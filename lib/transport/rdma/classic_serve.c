// SPDX-License-Identifier: MIT
/*
 * Answers to classic peers that ask for queue pairs, under --classic only. Creating queue pairs takes its time,
 * looking for a peer that does not answer takes the driver a second, and the descriptor of a peer before 0.3.11 has
 * to be read, so a few threads do it, never a loop; one host gets half of them, and of the queue. The texts of
 * refusals are those of classic servers. serve->lock guards the queue.
 */
#include "transport/rdma/classic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"

#define THREADS 4
#define QUEUE_MAX 128
#define LOOKUP_NS (2 * MCI_NS_PER_S)

struct question {
	struct question *next;
	struct mci_incoming *in;
	struct mc_uuid host;
	const char *json;
	size_t length;
};

struct mci_rdma_classic_serve {
	struct mci_rdma *rdma;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct question *first, **last;
	struct question *answering;
	unsigned int waiting, idle, threads;
	bool closing;
	pthread_t thread[THREADS];
};

static void refuse(struct mci_rdma_record *answer, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void refuse(struct mci_rdma_record *answer, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(answer->reply, sizeof(answer->reply), fmt, ap);
	va_end(ap);
	answer->count = 0;
	mci_info("classic peer '%s' is refused: %s", answer->peer, answer->reply);
}

/* Our NIC that is meant. The whole path must be ours, to the letter. */
static struct mci_nic *named_device(struct mci_rdma *rdma, const struct mci_rdma_record *question,
				    struct mci_rdma_record *answer)
{
	char server[MCI_NAME_MAX + 1], nic[MCI_RDMA_NIC_MAX], path[MCI_RDMA_PATH_MAX];
	uint8_t i;

	mci_rdma_own_path(rdma->device[0], path);
	if (mci_rdma_path_split(question->peer, server, nic))
		for (i = 0; i < rdma->device_count; i++) {
			if (strcmp(rdma->device[i]->name, nic))
				continue;
			mci_rdma_own_path(rdma->device[i], path);
			if (!strcmp(path, question->peer))
				return rdma->device[i];
		}
	snprintf(answer->local, sizeof(answer->local), "%s", path);
	refuse(answer, "Invalid argument: peer nic path inconsistency, expect %.200s", path);
	return NULL;
}

/* Peers before 0.3.11 do not say where they are: their descriptor does. */
static int look_up(struct mci_rdma *rdma, struct mci_rdma_record *question)
{
	struct mci_rdma_classic_device device[MCI_RDMA_DEVICES_MAX];
	char server[MCI_NAME_MAX + 1], nic[MCI_RDMA_NIC_MAX];
	json_t *descriptor;
	uint8_t count = 0, i;
	int ret;

	if (!mci_rdma_path_split(question->local, server, nic))
		return mci_fail(-EBADMSG, "'%s' is no NIC path", question->local);
	ret = rdma->host->lookup(rdma->host->engine, server, mci_now_ns() + LOOKUP_NS, &descriptor);
	if (ret)
		return ret;
	ret = mci_rdma_classic_devices(descriptor, device, &count);
	json_decref(descriptor);
	for (i = 0; i < count && !ret; i++) {
		if (strcmp(device[i].name, nic))
			continue;
		question->lid = device[i].lid;
		memcpy(question->gid, device[i].gid, sizeof(question->gid));
		question->has_gid = true;
		return 0;
	}
	return ret ? ret : mci_fail(-ENODEV, "the descriptor of '%s' lists no device '%s'", server, nic);
}

/*
 * The peer has made other queue pairs than those that @link is connected to: the old ones are over, on both sides.
 * The lock of the links is let go meanwhile if one of our endpoints uses it.
 */
static void retire(struct mci_rdma *rdma, struct mci_rdma_link *link)
{
	struct mci_rdma_endpoint *e = link->user, *other;
	struct mci_request *finals = NULL;
	struct mci_rdma_peer *peer;

	if (!e) {
		mci_rdma_link_end(rdma, link, false);
		return;
	}
	link->retired = true;
	peer = e->peer;
	atomic_fetch_add(&peer->refs, 1);
	pthread_mutex_unlock(&rdma->links->lock);
	pthread_mutex_lock(&peer->lock);
	for (other = peer->endpoints; other && other != e; other = other->next)
		;
	if (other && other->link == link && link->retired) {
		e->confirmed = true;
		mci_rdma_endpoint_break(e, -ECONNRESET, false, &finals);
	}
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	mci_rdma_peer_put(peer);
	pthread_mutex_lock(&rdma->links->lock);
}

static int connect_link(struct mci_rdma *rdma, struct mci_nic *device, const struct mci_rdma_record *question,
			struct mci_rdma_record *answer)
{
	struct mci_rdma_link *link;
	int ret = 0;

	pthread_mutex_lock(&rdma->links->lock);
	while ((link = mci_rdma_link_await(rdma, device, question->local)) &&
	       link->state == MCI_RDMA_LINK_CONNECTED && !mci_rdma_link_same(link, question))
		retire(rdma, link);
	/* One that we asked for at the same moment is connected from here: the answer to us will agree. */
	if (!link || link->state != MCI_RDMA_LINK_CONNECTED) {
		ret = mci_rdma_link_get(rdma, device, question->local, &link);
		if (!ret) {
			ret = mci_rdma_link_connect(link, question);
			if (ret)
				mci_rdma_link_end(rdma, link, link->owed);
		}
	}
	if (!ret)
		mci_rdma_link_record(link, answer);
	pthread_mutex_unlock(&rdma->links->lock);
	return ret;
}

/* The second message of peers from 0.3.12 on. We send nothing before they did, so there is nothing to wait for. */
static void confirm(struct mci_rdma *rdma, struct mci_nic *device, const struct mci_rdma_record *question,
		    struct mci_rdma_record *answer)
{
	struct mci_rdma_link *link;

	pthread_mutex_lock(&rdma->links->lock);
	link = mci_rdma_link_find(rdma, device, question->local);
	if (!link || !mci_rdma_link_same(link, question))
		refuse(answer, "Invalid argument: ready_ack for an endpoint that is not connected");
	else
		memset(answer, 0, sizeof(*answer)); /* a default record: accepted */
	pthread_mutex_unlock(&rdma->links->lock);
}

static void decide(struct mci_rdma *rdma, struct mci_rdma_record *question, struct mci_rdma_record *answer)
{
	struct mci_nic *device;
	int ret;

	memset(answer, 0, sizeof(*answer));
	memcpy(answer->local, question->peer, sizeof(answer->local));
	memcpy(answer->peer, question->local, sizeof(answer->peer));
	device = named_device(rdma, question, answer);
	if (!device)
		return;
	if (question->count != rdma->qps) {
		refuse(answer, "QP count mismatch in peer and local endpoints, check MC_MAX_EP_PER_CTX");
		return;
	}
	if (question->ack) {
		confirm(rdma, device, question, answer);
		return;
	}
	ret = question->has_gid ? 0 : look_up(rdma, question);
	if (!ret)
		ret = connect_link(rdma, device, question, answer);
	if (ret)
		refuse(answer, "%.200s", mc_errmsg());
	else
		mci_info("classic peer '%s' is connected to %s", question->local, device->name);
}

static unsigned int from_host(const struct question *q, const struct mc_uuid *host)
{
	unsigned int n = 0;

	for (; q; q = q->next)
		n += mci_uuid_equal(&q->host, host);
	return n;
}

/* serve->lock held. The first one whose host has not got its share already. */
static struct question *take(struct mci_rdma_classic_serve *serve)
{
	struct question **at, *q;

	for (at = &serve->first; (q = *at) && from_host(serve->answering, &q->host) >= THREADS / 2; at = &q->next)
		;
	if (!q)
		return NULL;
	*at = q->next;
	if (!*at)
		serve->last = at;
	serve->waiting--;
	q->next = serve->answering;
	serve->answering = q;
	return q;
}

/* serve->lock held. One more of its host may be taken, by this thread if by nobody else. */
static void answered(struct mci_rdma_classic_serve *serve, struct question *q)
{
	struct question **at;

	for (at = &serve->answering; *at != q; at = &(*at)->next)
		;
	*at = q->next;
	free(q);
}

static void answer_one(struct mci_rdma *rdma, const struct question *q)
{
	struct mci_rdma_record *question = malloc(2 * sizeof(*question)), *answer = question + 1;
	char *reply = NULL;

	if (question && !mci_rdma_record_decode(q->json, q->length, question)) {
		decide(rdma, question, answer);
		reply = mci_rdma_record_encode(answer);
	}
	free(question);
	mci_incoming_answer(q->in, reply);
}

static void *serve_main(void *arg)
{
	struct mci_rdma_classic_serve *serve = arg;
	struct question *q;

	pthread_mutex_lock(&serve->lock);
	while (!serve->closing) {
		q = take(serve);
		if (!q) {
			serve->idle++;
			pthread_cond_wait(&serve->changed, &serve->lock);
			serve->idle--;
			continue;
		}
		pthread_mutex_unlock(&serve->lock);
		answer_one(serve->rdma, q);
		pthread_mutex_lock(&serve->lock);
		answered(serve, q);
	}
	pthread_mutex_unlock(&serve->lock);
	return NULL;
}

/* serve->lock held. One more thread, if all are busy. */
static void start_thread(struct mci_rdma_classic_serve *serve)
{
	if (serve->idle >= serve->waiting || serve->threads == THREADS)
		return;
	if (!mci_thread_start(&serve->thread[serve->threads], serve_main, serve))
		serve->threads++;
}

void mci_rdma_classic_serve(struct mci_rdma *rdma, struct mci_incoming *in, const char *json, size_t length)
{
	const struct mc_uuid *host = &mci_incoming_payer(in)->host;
	struct mci_rdma_classic_serve *serve = rdma->classic_serve;
	struct question *q = malloc(sizeof(*q));
	bool taken = false;

	pthread_mutex_lock(&serve->lock);
	if (q && !serve->closing && serve->waiting < QUEUE_MAX &&
	    from_host(serve->first, host) < QUEUE_MAX / 2) {
		*q = (struct question){.in = in, .host = *host, .json = json, .length = length};
		*serve->last = q;
		serve->last = &q->next;
		serve->waiting++;
		start_thread(serve);
		taken = serve->threads > 0;
		if (!taken) { /* it is the only one */
			serve->first = NULL;
			serve->last = &serve->first;
			serve->waiting = 0;
		}
		pthread_cond_signal(&serve->changed);
	}
	pthread_mutex_unlock(&serve->lock);
	if (taken)
		return;
	free(q);
	mci_incoming_answer(in, NULL);
}

int mci_rdma_classic_serve_open(struct mci_rdma *rdma)
{
	struct mci_rdma_classic_serve *serve = calloc(1, sizeof(*serve));

	if (!serve)
		return mci_fail(-ENOMEM, "no memory for the rdma-classic transport");
	serve->rdma = rdma;
	serve->last = &serve->first;
	pthread_mutex_init(&serve->lock, NULL);
	pthread_cond_init(&serve->changed, NULL);
	rdma->classic_serve = serve;
	return 0;
}

void mci_rdma_classic_serve_close(struct mci_rdma *rdma)
{
	struct mci_rdma_classic_serve *serve = rdma->classic_serve;
	struct question *q;
	unsigned int i;

	if (!serve)
		return;
	pthread_mutex_lock(&serve->lock);
	serve->closing = true;
	pthread_cond_broadcast(&serve->changed);
	pthread_mutex_unlock(&serve->lock);
	for (i = 0; i < serve->threads; i++)
		pthread_join(serve->thread[i], NULL);
	while ((q = serve->first)) {
		serve->first = q->next;
		mci_incoming_answer(q->in, NULL);
		free(q);
	}
	pthread_cond_destroy(&serve->changed);
	pthread_mutex_destroy(&serve->lock);
	free(serve);
	rdma->classic_serve = NULL;
}
