// SPDX-License-Identifier: MIT
/*
 * Initiator: a classic peer. All handles to one process share it, as there is one link per pair of NICs. A thread
 * of its own asks for queue pairs, blocking, one question at a time: classic servers answer no more; it is gone when
 * nothing is to be asked. What broke with writes unanswered is settled by other queue pairs that the peer accepts
 * on the same pair of NICs (contracts B2).
 */
#include "transport/rdma/classic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/classic_message.h"

#define ASK_NS (2 * MCI_NS_PER_S)
#define PROOF_NS (3 * MCI_NS_PER_S)

static int patience_ms(const struct mci_rdma *rdma)
{
	return rdma->host->options.connect_timeout_ms ? (int)rdma->host->options.connect_timeout_ms : 3000;
}

/* ---- asking for queue pairs; no lock held ---- */

struct hosts { /* copies: the peer's may be read anew meanwhile */
	char *name[8];
	unsigned int count;
	uint16_t port;
};

static void copy_hosts(struct mci_rdma_peer *peer, struct hosts *hosts)
{
	unsigned int i;

	memset(hosts, 0, sizeof(*hosts));
	pthread_mutex_lock(&peer->lock);
	hosts->port = peer->service_port;
	for (i = 0; i < peer->host_count && hosts->count < 8; i++) {
		hosts->name[hosts->count] = strdup(peer->hosts[i]);
		hosts->count += hosts->name[hosts->count] != NULL;
	}
	pthread_mutex_unlock(&peer->lock);
}

static int exchange(struct mci_rdma_peer *peer, enum mci_classic_type type, const char *json, uint64_t deadline_ns,
		    char **reply)
{
	struct hosts hosts;
	unsigned int i;
	int ret;

	copy_hosts(peer, &hosts);
	ret = mci_classic_exchange((const char *const *)hosts.name, hosts.count, hosts.port, type, json, deadline_ns,
				   reply);
	for (i = 0; i < hosts.count; i++)
		free(hosts.name[i]);
	return ret;
}

static int ask(struct mci_rdma_peer *peer, const struct mci_rdma_record *own, struct mci_rdma_record *answer,
	       uint64_t deadline_ns)
{
	char *json = mci_rdma_record_encode(own), *reply = NULL;
	int ret;

	if (!json)
		return mci_fail(-ENOMEM, "no memory for a question");
	ret = exchange(peer, MCI_CLASSIC_CONNECTION, json, deadline_ns, &reply);
	free(json);
	if (!ret)
		ret = mci_rdma_record_decode(reply, strlen(reply), answer);
	free(reply);
	return ret;
}

/* Does the answer fit? Then it says where the peer is, or his descriptor does (before 0.3.11). */
static int judge(const struct mci_rdma_peer *peer, uint8_t to, const struct mci_rdma_record *own,
		 struct mci_rdma_record *answer)
{
	if (answer->reply[0])
		return mci_fail(-EREMOTEIO, "'%s' refuses queue pairs: %s%s", own->peer, answer->reply,
				strstr(answer->reply, "QP count mismatch")
					? "; set MC_NUM_QP_PER_EP alike"
					: "");
	if (strcmp(answer->local, own->peer) || strcmp(answer->peer, own->local))
		return mci_fail(-EPROTO, "'%s' answers for '%s' to '%s': another process than was asked", own->peer,
				answer->local, answer->peer);
	if (answer->count != own->count)
		return mci_fail(-EPROTO, "'%s' answers with %u queue pairs instead of %u; set MC_NUM_QP_PER_EP alike",
				own->peer, answer->count, own->count);
	if (!answer->has_gid) {
		answer->lid = peer->port[to].lid;
		memcpy(answer->gid, peer->port[to].gid, sizeof(answer->gid));
	}
	return 0;
}

/* The peer waits for a second message (from 0.3.12 on, if it says so) before it sends itself. */
static int acknowledge(struct mci_rdma_peer *peer, struct mci_rdma_record *own, uint64_t deadline_ns)
{
	struct mci_rdma_record answer;
	int ret;

	own->has_ack = own->ack = true;
	ret = ask(peer, own, &answer, deadline_ns);
	/* An answer that is no record (older servers send their default) says nothing against it. */
	if (!ret && answer.reply[0])
		return mci_fail(-EREMOTEIO, "'%s' refuses queue pairs: %s", own->peer, answer.reply);
	return ret == -EBADMSG ? 0 : ret;
}

/* Put @answer into effect. -EAGAIN: somebody else changed the link meanwhile. */
static int apply(struct mci_rdma *rdma, struct mci_nic *device, const struct mci_rdma_record *own,
		 const struct mci_rdma_record *answer)
{
	struct mci_rdma_link *link = mci_rdma_link_await(rdma, device, own->peer);
	int ret = 0;

	/* It has accepted other queue pairs, so the old ones are over, whatever becomes of these. */
	if (link)
		link->owed = false;
	if (!link || link->state == MCI_RDMA_LINK_BARE || link->qp[0]->qp_num != own->qpn[0])
		return -EAGAIN;
	if (link->state == MCI_RDMA_LINK_ASKED) {
		ret = mci_rdma_link_connect(link, answer);
	} else if (!mci_rdma_link_same(link, answer)) {
		/* Connected to a predecessor of who answers now, or to what he has given up. */
		ret = -EAGAIN;
	}
	if (!ret)
		link->fresh_until = mci_now_ns() + MCI_NS_PER_S;
	else if (!link->user)
		mci_rdma_link_end(rdma, link, link->owed);
	return ret;
}

/* Nobody answered: what was made for the question is not needed. */
static void withdraw(struct mci_rdma *rdma, struct mci_nic *device, const char *path)
{
	struct mci_rdma_link *link;

	pthread_mutex_lock(&rdma->links->lock);
	link = mci_rdma_link_find(rdma, device, path);
	if (link && link->state == MCI_RDMA_LINK_ASKED)
		mci_rdma_link_end(rdma, link, link->owed);
	pthread_mutex_unlock(&rdma->links->lock);
}

static int link_up_once(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to, uint64_t deadline_ns)
{
	char path[MCI_RDMA_PATH_MAX], mine[MCI_RDMA_PATH_MAX];
	struct mci_rdma *rdma = peer->rdma;
	struct mci_rdma_record own, answer;
	struct mci_rdma_link *link;
	int ret;

	snprintf(path, sizeof(path), "%s@%s", peer->classic->server, peer->port_name[to]);
	pthread_mutex_lock(&rdma->links->lock);
	ret = mci_rdma_link_get(rdma, device, path, &link);
	if (!ret && mci_now_ns() < link->fresh_until) {
		pthread_mutex_unlock(&rdma->links->lock);
		return 0;
	}
	if (!ret)
		mci_rdma_link_record(link, &own);
	pthread_mutex_unlock(&rdma->links->lock);
	if (ret)
		return ret;
	mci_rdma_own_path(device, mine);
	answer = own;
	if (strcmp(mine, path)) /* else its queue pairs are connected to themselves */
		ret = ask(peer, &own, &answer, deadline_ns);
	if (!ret)
		ret = judge(peer, to, &own, &answer);
	if (ret) {
		withdraw(rdma, device, path);
		return ret;
	}
	pthread_mutex_lock(&rdma->links->lock);
	ret = apply(rdma, device, &own, &answer);
	pthread_mutex_unlock(&rdma->links->lock);
	if (!ret && answer.has_ack && strcmp(mine, path))
		ret = acknowledge(peer, &own, deadline_ns);
	return ret;
}

/* A connected link between @device and NIC @to of the peer, that both sides agree on. */
static int link_up(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to, uint64_t deadline_ns)
{
	int tries, ret = -EAGAIN;

	for (tries = 0; tries < 3 && ret == -EAGAIN; tries++)
		ret = link_up_once(peer, device, to, deadline_ns);
	return ret == -EAGAIN ? mci_fail(ret, "segment '%s' and this one ask each other for queue pairs over and over",
					 peer->name)
			      : ret;
}

/* A link to this peer that is owed a confirmation. False: none. */
static bool next_owed(struct mci_rdma_peer *peer, struct mci_nic **device, char nic[MCI_RDMA_NIC_MAX])
{
	struct mci_rdma *rdma = peer->rdma;
	char server[MCI_NAME_MAX + 1];
	struct mci_rdma_link *link;

	pthread_mutex_lock(&rdma->links->lock);
	for (link = rdma->links->first; link; link = link->next)
		if (link->owed && mci_rdma_path_split(link->path, server, nic) &&
		    !strcmp(server, peer->classic->server))
			break;
	if (link)
		*device = link->device;
	pthread_mutex_unlock(&rdma->links->lock);
	return link != NULL;
}

/* The process that listed that NIC is gone, and its queue pairs with it. */
static void write_off(struct mci_rdma_peer *peer, struct mci_nic *device, const char *nic)
{
	char path[MCI_RDMA_PATH_MAX];
	struct mci_rdma_link *link;

	snprintf(path, sizeof(path), "%s@%s", peer->classic->server, nic);
	pthread_mutex_lock(&peer->rdma->links->lock);
	link = mci_rdma_link_find(peer->rdma, device, path);
	if (link && link->state == MCI_RDMA_LINK_BARE)
		mci_rdma_link_end(peer->rdma, link, false);
	else if (link)
		link->owed = false;
	pthread_mutex_unlock(&peer->rdma->links->lock);
}

static bool is_owed(struct mci_rdma_peer *peer, struct mci_nic *device, const char *nic)
{
	char path[MCI_RDMA_PATH_MAX];
	struct mci_rdma_link *link;
	bool owed;

	snprintf(path, sizeof(path), "%s@%s", peer->classic->server, nic);
	pthread_mutex_lock(&peer->rdma->links->lock);
	link = mci_rdma_link_find(peer->rdma, device, path);
	owed = link && link->owed;
	pthread_mutex_unlock(&peer->rdma->links->lock);
	return owed;
}

/* All that is owed to this peer is confirmed. That a confirmed path does not work is another matter. */
static int settle(struct mci_rdma_peer *peer, uint64_t deadline_ns)
{
	char nic[MCI_RDMA_NIC_MAX];
	struct mci_nic *device;
	int ret = 0, to;

	while (!ret && next_owed(peer, &device, nic)) {
		pthread_mutex_lock(&peer->lock);
		for (to = 0; to < peer->ports && strcmp(peer->port_name[to], nic); to++)
			;
		if (to == peer->ports || !peer->port[to].up)
			to = -1;
		pthread_mutex_unlock(&peer->lock);
		if (to < 0)
			write_off(peer, device, nic);
		else
			ret = link_up(peer, device, (uint8_t)to, deadline_ns);
		if (ret && !is_owed(peer, device, nic))
			ret = 0;
	}
	return ret;
}

/* In place of a control connection: nothing is sent before what is owed is settled. */
int mci_rdma_classic_connect(struct mci_rdma_peer *peer, uint64_t deadline_ns)
{
	struct mci_request *finals = NULL;
	int ret = settle(peer, deadline_ns);

	if (ret)
		return ret;
	pthread_mutex_lock(&peer->lock);
	peer->state = MCI_RDMA_LIVE;
	peer->dropping = false;
	peer->reconnect = (struct mci_reconnect){0};
	mci_rdma_pump(peer, &finals);
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	return 0;
}

/* ---- endpoints; peer->lock held ---- */

/* A place in the peer's memory of which eight bytes may be read: to see that a path works, and behind writes. */
static bool find_readable(const struct mci_rdma_peer *peer, struct mci_rdma_endpoint *e)
{
	const struct mci_rdma_handle *handle;
	unsigned int i;

	for (handle = peer->classic->handles; handle; handle = handle->next)
		for (i = 0; i < handle->count; i++) {
			const struct mci_rdma_remote *remote = &handle->remote[i];

			if (remote->state != MCI_RDMA_KEYS_THERE || remote->devices <= e->to || remote->chunk < 8 ||
			    atomic_load(&handle->regions[i].stale))
				continue;
			e->flush_iova = remote->iova;
			e->flush_key = remote->key[e->to];
			return true;
		}
	return false;
}

/* The endpoint sends over its link from now on. */
static int attach(struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	char path[MCI_RDMA_PATH_MAX];
	struct mci_rdma_peer *peer = e->peer;
	struct mci_rdma_link *link;
	unsigned int i, count;

	snprintf(path, sizeof(path), "%s@%s", peer->classic->server, peer->port_name[e->to]);
	pthread_mutex_lock(&peer->rdma->links->lock);
	link = mci_rdma_link_find(peer->rdma, e->device, path);
	if (link && (link->state != MCI_RDMA_LINK_CONNECTED || link->user))
		link = NULL;
	if (link) {
		link->user = e;
		link->fresh_until = 0;
		e->link = link;
		for (i = 0; i < e->count; i++)
			e->queue[i]->qp = link->qp[i];
	}
	pthread_mutex_unlock(&peer->rdma->links->lock);
	if (!link)
		return -EAGAIN;
	e->state = MCI_RDMA_PROVING;
	e->step_at = mci_now_ns() + PROOF_NS;
	if (!find_readable(peer, e)) {
		mci_rdma_endpoint_proven(e);
		return 0;
	}
	for (i = 0, count = e->count; i < count && mci_rdma_post_proof(e, i, finals); i++)
		;
	return 0;
}

void mci_rdma_classic_detach(struct mci_rdma_endpoint *e)
{
	struct mci_rdma *rdma = e->peer->rdma;
	unsigned int i;

	for (i = 0; i < e->count; i++)
		e->queue[i]->qp = NULL;
	if (!e->link)
		return;
	pthread_mutex_lock(&rdma->links->lock);
	e->link->user = NULL;
	mci_rdma_link_end(rdma, e->link, e->owes);
	pthread_mutex_unlock(&rdma->links->lock);
	e->link = NULL;
}

void mci_rdma_classic_suspect(struct mci_rdma_peer *peer) { peer->classic->suspect = true; }

struct mci_rdma_remote *mci_rdma_classic_remote(const struct mci_request *r)
{
	struct mci_rdma_handle *handle = (struct mci_rdma_handle *)r->peer;

	return &handle->remote[r->remote - handle->regions];
}

/* ---- the peer's thread ---- */

static struct mci_rdma_endpoint *next_work(struct mci_rdma_peer *peer)
{
	struct mci_rdma_endpoint *e, *found = NULL;

	for (e = peer->endpoints; e; e = e->next) {
		if (e->send_drop && e->state == MCI_RDMA_FENCING)
			return e;
		if (e->send_connect && e->state == MCI_RDMA_ASKED)
			found = e;
	}
	return found;
}

static bool any_works(const struct mci_rdma_peer *peer)
{
	const struct mci_rdma_endpoint *e;

	for (e = peer->endpoints; e; e = e->next)
		if (e->state == MCI_RDMA_UP || e->state == MCI_RDMA_PROVING)
			return true;
	return false;
}

static void reached(struct mci_rdma_peer *peer, struct mci_rdma_endpoint *e, int ret, struct mci_request **finals)
{
	struct mci_rdma_classic_peer *side = peer->classic;

	side->error = ret;
	if (!ret) {
		peer->reconnect = (struct mci_reconnect){0};
		ret = attach(e, finals);
		if (!ret)
			return;
	} else {
		snprintf(side->why, sizeof(side->why), "%s", mc_errmsg());
		mci_info("no queue pairs to segment '%s': %s", peer->name, side->why);
	}
	e->path_failed = true;
	mci_rdma_endpoint_end(e, finals);
	/* One pair of NICs that is refused is no reason to give up while another works. */
	if (ret != -EAGAIN && !any_works(peer) && mci_reconnect_given_up(&peer->reconnect, ret))
		mci_rdma_fail_waiting(peer, ret, false, finals);
	pthread_cond_broadcast(&peer->changed);
}

/* The descriptor, before the peer is asked for queue pairs after something broke. peer->lock is let go meanwhile. */
static void read_again(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	uint64_t patience = (uint64_t)patience_ms(peer->rdma) * MCI_NS_PER_MS;
	struct mci_rdma_endpoint *e;
	int ret;

	peer->ask_keys = false;
	peer->classic->suspect = false;
	pthread_mutex_unlock(&peer->lock);
	ret = mci_rdma_classic_refresh(peer, mci_now_ns() + patience);
	pthread_mutex_lock(&peer->lock);
	if (!ret)
		return;
	peer->classic->suspect = true;
	if (ret == -ESTALE)
		mci_rdma_fail_waiting(peer, ret, true, finals);
	e = next_work(peer);
	if (e && e->state == MCI_RDMA_ASKED)
		reached(peer, e, ret, finals);
}

/* Queue pairs for an endpoint, or others in place of those that broke. peer->lock is let go meanwhile. */
static void ask_for(struct mci_rdma_peer *peer, struct mci_rdma_endpoint *e, struct mci_request **finals)
{
	uint64_t deadline = mci_now_ns() + ASK_NS;
	uint32_t number = e->number, stamp = e->stamp;
	struct mci_nic *device = e->device;
	bool fencing = e->send_drop;
	uint8_t to = e->to;
	int ret;

	e->send_connect = e->send_drop = false;
	if (peer->probing && peer->classic->probe_until < deadline)
		deadline = peer->classic->probe_until;
	pthread_mutex_unlock(&peer->lock);
	ret = link_up(peer, device, to, deadline);
	if (ret && fencing && !is_owed(peer, device, peer->port_name[to]))
		ret = 0;
	pthread_mutex_lock(&peer->lock);
	for (e = peer->endpoints; e && (e->number != number || e->stamp != stamp); e = e->next)
		;
	if (!e)
		return;
	if (fencing && e->state == MCI_RDMA_FENCING && !ret)
		mci_rdma_endpoint_end(e, finals);
	else if (!fencing && e->state == MCI_RDMA_ASKED)
		reached(peer, e, ret, finals);
}

static bool work_once(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	struct mci_rdma_endpoint *e = next_work(peer);

	if (peer->ask_keys || (peer->classic->suspect && e && e->state == MCI_RDMA_ASKED))
		read_again(peer, finals);
	else if (e)
		ask_for(peer, e, finals);
	else
		return false;
	return true;
}

static bool send_notify(struct mci_rdma_peer *peer)
{
	struct mci_rdma_classic_peer *side = peer->classic;
	struct mci_request *r = side->notify_first;
	char *json = NULL, *reply = NULL;
	enum mc_state state = MC_DONE;
	int ret;

	if (!r)
		return false;
	side->notify_first = r->next;
	if (!r->next)
		side->notify_last = NULL;
	r->next = NULL;
	pthread_mutex_unlock(&peer->lock);
	ret = mci_classic_notify_encode(r->local, r->length, &json);
	if (!ret)
		ret = exchange(peer, MCI_CLASSIC_NOTIFY, json, r->deadline_ns, &reply);
	if (!ret)
		ret = mci_classic_notify_reply(reply, strlen(reply));
	free(json);
	free(reply);
	if (ret)
		state = ret == -ETIMEDOUT ? MC_TIMED_OUT : MC_FAILED;
	peer->rdma->host->complete(r, state, ret, ret ? 0 : r->length, 0);
	pthread_mutex_lock(&peer->lock);
	return true;
}

static void *asker_main(void *arg)
{
	struct mci_rdma_peer *peer = arg;
	struct mci_request *finals;
	bool more;

	pthread_mutex_lock(&peer->lock);
	do {
		finals = NULL;
		more = !peer->closing && work_once(peer, &finals);
		if (more)
			mci_rdma_pump(peer, &finals);
		more |= send_notify(peer);
		pthread_mutex_unlock(&peer->lock);
		mci_rdma_finals_tell(peer, finals);
		pthread_mutex_lock(&peer->lock);
	} while (more || (!peer->closing && (peer->ask_keys || next_work(peer))) || peer->classic->notify_first);
	peer->classic->asking = false;
	peer->connectors--;
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_peer_put(peer);
	return NULL;
}

static int start_asker(struct mci_rdma_peer *peer)
{
	int ret;

	peer->classic->asking = true;
	peer->connectors++;
	atomic_fetch_add(&peer->refs, 1);
	ret = mci_thread_start(NULL, asker_main, peer);
	if (!ret)
		return 0;
	atomic_fetch_sub(&peer->refs, 1);
	peer->connectors--;
	peer->classic->asking = false;
	return mci_fail(ret, "cannot start a thread to reach segment '%s': %s", peer->name, strerror(-ret));
}

/* Loop thread, no lock: is there something to ask? */
void mci_rdma_classic_control(struct mci_rdma_peer *peer)
{
	struct mci_request *finals = NULL;
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	if (!peer->closing && !peer->classic->asking && (next_work(peer) || peer->ask_keys))
		ret = start_asker(peer);
	if (ret)
		mci_rdma_fail_waiting(peer, ret, false, &finals);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
}

/* ---- handles ---- */

/* The peer that @server is, if a handle to it is open: with one more handle. */
static struct mci_rdma_peer *find_peer(struct mci_rdma *rdma, const char *server)
{
	struct mci_rdma_peer *peer;

	pthread_mutex_lock(&rdma->pool_lock);
	for (peer = rdma->peers; peer; peer = peer->peers_next)
		if (peer->classic->open_handles && !strcmp(peer->classic->server, server))
			break;
	if (peer)
		peer->classic->open_handles++;
	pthread_mutex_unlock(&rdma->pool_lock);
	return peer;
}

static int make_peer(struct mci_rdma *rdma, const struct mci_peer_info *info, const char *server,
		     struct mci_rdma_peer **out)
{
	struct mci_rdma_classic_peer *side = calloc(1, sizeof(*side));
	struct mci_rdma_peer *peer = side ? mci_rdma_peer_new(rdma, 0) : NULL;

	if (!peer) {
		free(side);
		return mci_fail(-ENOMEM, "no memory for a way to segment '%s'", info->name);
	}
	peer->classic = side;
	snprintf(side->server, sizeof(side->server), "%s", server);
	side->open_handles = 1;
	peer->state = MCI_RDMA_LIVE;
	pthread_mutex_lock(&rdma->pool_lock);
	peer->peers_next = rdma->peers;
	rdma->peers = peer;
	pthread_mutex_unlock(&rdma->pool_lock);
	*out = peer;
	return 0;
}

/* Whoever did not answer in time, or asked at the same moment, is asked again. */
static bool may_come(int err) { return !err || err == -EAGAIN || err == -ETIMEDOUT; }

/* A way is only offered if something gets through. */
static int probe(struct mci_rdma_peer *peer, uint64_t deadline)
{
	struct mci_rdma_classic_peer *side = peer->classic;
	struct mci_rdma_endpoint *e = NULL;
	struct mci_rdma_queue *queue;
	uint64_t now = mci_now_ns();
	char why[sizeof(side->why)] = "";
	int ret = 0;

	deadline = mci_rdma_probe_until(now, deadline);
	pthread_mutex_lock(&peer->lock);
	side->error = 0;
	side->probe_until = deadline;
	peer->probing = true;
	for (; now < deadline && !e && may_come(side->error); now = mci_now_ns()) {
		if (peer->state == MCI_RDMA_LIVE)
			e = mci_rdma_rail_pick(peer, UINT32_MAX, UINT32_MAX, UINT32_MAX, &queue);
		if (!e)
			mci_rdma_wait_changed(peer, now + 20 * MCI_NS_PER_MS);
	}
	peer->probing = false;
	if (!e && side->error)
		snprintf(why, sizeof(why), "%s", side->why);
	ret = side->error;
	pthread_mutex_unlock(&peer->lock);
	if (e)
		return 0;
	if (why[0] && (ret == -ETIMEDOUT || ret == -ECONNREFUSED || ret == -EHOSTUNREACH))
		return mci_fail(ret, "%s", why);
	if (why[0])
		return mci_fail(-EOPNOTSUPP, "%s", why);
	return mci_fail(-EOPNOTSUPP,
			"RDMA to classic segment '%s' does not get through, though its rpc port answers; compare GIDs "
			"and MTUs (MC_MTU must be equal on both sides) and look for firewalls on UDP port 4791 (own "
			"GID: %s)",
			peer->name, peer->rdma->device[0]->gid_why);
}

static void free_handle(struct mci_rdma_handle *handle)
{
	unsigned int i;

	for (i = 0; handle->remote && i < handle->count; i++)
		free(handle->remote[i].key);
	free(handle->remote);
	free(handle);
}

int mci_rdma_classic_open(struct mci_rdma *rdma, const struct mci_peer_info *info, void *cookie,
			  struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
			  struct mci_rdma_handle **out)
{
	const char *server = mci_rdma_classic_server(info->descriptor);
	struct mci_rdma_handle *handle = calloc(1, sizeof(*handle));
	struct mci_rdma_peer *peer;
	int ret = 0;

	if (!handle || !server || !(handle->remote = calloc(count + 1, sizeof(*handle->remote)))) {
		free(handle);
		return server ? mci_fail(-ENOMEM, "no memory for a way to segment '%s'", info->name)
			      : mci_fail(-EBADMSG, "the descriptor of segment '%s' has no name", info->name);
	}
	handle->cookie = cookie;
	handle->regions = regions;
	handle->count = count;
	peer = find_peer(rdma, server);
	if (!peer)
		ret = make_peer(rdma, info, server, &peer);
	if (ret) {
		free_handle(handle);
		return ret;
	}
	handle->peer = peer;
	ret = mci_rdma_peer_set_info(peer, info);
	pthread_mutex_lock(&peer->lock);
	if (!ret)
		ret = mci_rdma_classic_take_devices(peer, info);
	if (!ret)
		ret = mci_rdma_classic_take_keys(handle, info);
	handle->next = peer->classic->handles;
	peer->classic->handles = handle;
	pthread_mutex_unlock(&peer->lock);
	/* What an earlier handle left open. */
	if (!ret)
		ret = mci_rdma_classic_connect(peer, deadline_ns);
	if (!ret && count)
		ret = probe(peer, deadline_ns);
	if (ret) {
		mci_rdma_classic_close(handle);
		return ret;
	}
	*out = handle;
	return 0;
}

void mci_rdma_classic_close(struct mci_rdma_handle *handle)
{
	struct mci_rdma_peer *peer = handle->peer;
	struct mci_rdma_handle **at;
	bool last;

	pthread_mutex_lock(&peer->rdma->pool_lock);
	last = !--peer->classic->open_handles;
	pthread_mutex_unlock(&peer->rdma->pool_lock);
	pthread_mutex_lock(&peer->lock);
	while (handle->reading)
		mci_rdma_wait_changed(peer, mci_now_ns() + 50 * MCI_NS_PER_MS);
	for (at = &peer->classic->handles; *at != handle; at = &(*at)->next)
		;
	*at = handle->next;
	pthread_mutex_unlock(&peer->lock);
	free_handle(handle);
	if (last)
		mci_rdma_peer_close((struct mci_peer *)peer);
}

/* Memory of ours that no classic peer may reach is registered when it is first used, for our side only. */
static void register_local(struct mci_rdma *rdma, struct mci_region *region)
{
	if (mci_rdma_memory_of(rdma, region))
		return;
	pthread_mutex_lock(&rdma->memory_lock);
	if (!mci_rdma_memory_of(rdma, region) && mci_rdma_memory_add(rdma, region))
		mci_warn("requests fail: %s", mc_errmsg());
	pthread_mutex_unlock(&rdma->memory_lock);
}

void mci_rdma_classic_submit(struct mci_rdma_handle *handle, struct mci_request *first)
{
	struct mci_rdma_peer *peer = handle->peer;
	struct mci_request *r;
	int ret;
	bool notifies = first->op == MCI_OP_NOTIFY; /* they come alone */

	for (r = first; r; r = r->next) {
		r->peer = (struct mci_peer *)handle;
		if (r->region)
			register_local(peer->rdma, r->region);
	}
	if (!notifies) {
		mci_rdma_peer_submit((struct mci_peer *)peer, first);
		return;
	}
	pthread_mutex_lock(&peer->lock);
	if (peer->classic->notify_last)
		peer->classic->notify_last->next = first;
	else
		peer->classic->notify_first = first;
	for (r = first; r->next; r = r->next)
		;
	peer->classic->notify_last = r;
	ret = peer->classic->asking ? 0 : start_asker(peer);
	first = ret ? peer->classic->notify_first : NULL; /* nobody would come for them */
	if (ret)
		peer->classic->notify_first = peer->classic->notify_last = NULL;
	pthread_mutex_unlock(&peer->lock);
	while ((r = first)) {
		first = r->next;
		peer->rdma->host->complete(r, MC_FAILED, ret, 0, 0);
	}
}

/* What failed writes may still do: settled by other queue pairs in place of those that broke. */
int mci_rdma_classic_fence(struct mci_rdma_handle *handle, uint64_t deadline_ns)
{
	int ret = mci_rdma_peer_fence((struct mci_peer *)handle->peer, deadline_ns);

	return ret ? ret : settle(handle->peer, deadline_ns);
}

int mci_rdma_classic_usable(struct mci_rdma_handle *handle, const struct mci_remote_region *region)
{
	struct mci_rdma_peer *peer = handle->peer;
	const struct mci_rdma_remote *remote = &handle->remote[region - handle->regions];
	bool usable;

	pthread_mutex_lock(&peer->lock);
	usable = remote->state != MCI_RDMA_KEYS_REFUSED || remote->error == -ESTALE;
	pthread_mutex_unlock(&peer->lock);
	return usable ? 0
		      : mci_fail(-EOPNOTSUPP, "segment '%s' publishes no keys for region %u", peer->name, region->id);
}
