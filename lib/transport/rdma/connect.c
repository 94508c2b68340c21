// SPDX-License-Identifier: MIT
/*
 * Initiator: the control connection to a peer. Each opening is an incarnation of the session, so that the
 * peer ends all queue pairs of the ones before; then the keys of all regions are asked for. A thread does
 * that after a loss, one at a time per peer, gone when done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "net/connect.h"
#include "transport/rdma/initiator.h"

int mci_rdma_peer_set_info(struct mci_rdma_peer *peer, const struct mci_peer_info *info)
{
	char **hosts = calloc(info->address_count ? info->address_count : 1, sizeof(*hosts)), **old;
	unsigned int i, n = 0, old_count;
	int ret;

	for (i = 0; hosts && i < info->address_count; i++) {
		hosts[n] = strdup(info->addresses[i]);
		n += hosts[n] ? 1 : 0;
	}
	if (!hosts)
		return mci_fail(-ENOMEM, "no memory for the addresses of segment '%s'", info->name);
	pthread_mutex_lock(&peer->lock);
	/* The classic dialect reads its own descriptor. */
	ret = peer->classic ? 0 : mci_rdma_rails_learn(peer, info);
	old = peer->hosts;
	old_count = peer->host_count;
	peer->hosts = hosts;
	peer->host_count = n;
	peer->service_port = info->port;
	peer->uuid = info->uuid;
	peer->secret = info->secret;
	strncpy(peer->name, info->name, sizeof(peer->name) - 1);
	pthread_mutex_unlock(&peer->lock);
	for (i = 0; i < old_count; i++)
		free(old[i]);
	free(old);
	return ret;
}

static int use_info(void *arg, const struct mci_peer_info *info)
{
	int ret = mci_rdma_peer_set_info(arg, info);

	return ret == -EOPNOTSUPP ? -ESTALE : ret; /* it has come back without RDMA */
}

/* ---- frames of the peer; peer->lock held ---- */

static int take_keys(struct mci_rdma_peer *peer, const void *body, size_t length, struct mci_request **finals)
{
	struct mci_rdma_remote *remote;
	struct mci_remote_region *region;
	struct mci_rdma_keys keys;
	const uint8_t *key;
	unsigned int i, k;

	if (mci_rdma_keys_decode(body, length, &keys, &key))
		return -EPROTO;
	for (i = 0; i < peer->count; i++)
		if (peer->regions[i].id == keys.id && peer->regions[i].generation == keys.generation)
			break;
	if (i == peer->count)
		return 0; /* asked before the regions were matched anew */
	remote = &peer->remote[i];
	region = &peer->regions[i];
	if (!keys.status && (keys.length != region->length || keys.devices != peer->ports))
		return -EPROTO;
	free(remote->key);
	remote->key = NULL;
	remote->state = MCI_RDMA_KEYS_REFUSED;
	remote->error = keys.status;
	if (!keys.status) {
		remote->key = malloc(4u * keys.chunks * keys.devices);
		remote->error = -ENOMEM;
	}
	if (remote->key) {
		for (k = 0; k < (unsigned int)keys.chunks * keys.devices; k++)
			remote->key[k] = mci_get32(key + 4 * k);
		remote->iova = keys.iova;
		remote->chunk = keys.chunk;
		remote->chunks = keys.chunks;
		remote->devices = keys.devices;
		remote->state = MCI_RDMA_KEYS_THERE;
		remote->error = 0;
	}
	mci_rdma_pump(peer, finals);
	return 0;
}

static int take_gone(struct mci_rdma_peer *peer, const uint8_t *body, size_t length,
		     struct mci_request **finals)
{
	unsigned int i;

	if (length != 8)
		return -EPROTO;
	for (i = 0; i < peer->count; i++)
		if (peer->regions[i].id == mci_get32(body) &&
		    peer->regions[i].generation == mci_get32(body + 4)) {
			peer->remote[i].state = MCI_RDMA_KEYS_REFUSED; /* for as long as this session lives */
			peer->remote[i].error = -ESTALE;
		}
	mci_rdma_pump(peer, finals);
	return 0;
}

static int take_port_states(struct mci_rdma_peer *peer, const void *body, size_t length,
			    struct mci_request **finals)
{
	struct mci_rdma_port port[MCI_RDMA_DEVICES_MAX];
	uint8_t count;

	if (mci_rdma_ports_decode(body, length, port, &count) || count != peer->ports)
		return -EPROTO;
	memcpy(peer->port, port, count * sizeof(port[0]));
	mci_rdma_endpoint_ports(peer, finals);
	mci_rdma_pump(peer, finals);
	return 0;
}

static int take_dropped(struct mci_rdma_peer *peer, const uint8_t *body, size_t length,
			struct mci_request **finals)
{
	struct mci_rdma_endpoint *e;

	if (length != 4)
		return -EPROTO;
	for (e = peer->endpoints; e; e = e->next)
		if (e->number == mci_get32(body) && e->state == MCI_RDMA_FENCING && !e->send_drop)
			break;
	if (e)
		mci_rdma_endpoint_end(e, finals);
	mci_rdma_pump(peer, finals);
	return 0;
}

static int take_connected(struct mci_rdma_peer *peer, const void *body, size_t length,
			  struct mci_request **finals)
{
	struct mci_rdma_end end;

	if (mci_rdma_end_decode(body, length, &end))
		return -EPROTO;
	mci_rdma_endpoint_connected(peer, &end, finals);
	mci_rdma_pump(peer, finals);
	return 0;
}

static int take(struct mci_rdma_peer *peer, uint16_t type, const void *body, size_t length,
		struct mci_request **finals)
{
	switch (type) {
	case MCI_RDMA_KEYS:
		return take_keys(peer, body, length, finals);
	case MCI_RDMA_GONE:
		return take_gone(peer, body, length, finals);
	case MCI_RDMA_PORTS:
		return take_port_states(peer, body, length, finals);
	case MCI_RDMA_CONNECTED:
		return take_connected(peer, body, length, finals);
	case MCI_RDMA_DROPPED:
		return take_dropped(peer, body, length, finals);
	default:
		return -EPROTO;
	}
}

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	struct mci_rdma_peer *peer = arg;
	struct mci_request *finals = NULL;
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	if (peer->conn_there && !peer->closing)
		ret = take(peer, frame->type, frame->body, frame->length, &finals);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	if (!ret)
		return;
	mci_warn("segment '%s' sent a malformed rdma frame; its connection is closed", peer->name);
	mci_conn_close(conn);
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	struct mci_rdma_peer *peer = arg;
	struct mci_request *finals = NULL;

	(void)conn;
	(void)err;
	pthread_mutex_lock(&peer->lock);
	peer->conn = NULL;
	if (peer->conn_there)
		mci_rdma_peer_lost(peer, &finals);
	peer->dropping = false;
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	mci_rdma_peer_put(peer);
}

/* ---- opening ---- */

static int next_frame(struct mci_rdma_peer *peer, struct mci_sock *sock, uint16_t *type, uint64_t deadline_ns)
{
	struct mci_request *finals = NULL;
	uint32_t id, length;
	void *body;
	int ret;

	ret = mci_frame_recv(sock, MCI_RDMA_FRAME_LIMIT, type, &id, &body, &length, NULL, deadline_ns);
	if (ret)
		return ret;
	pthread_mutex_lock(&peer->lock);
	ret = take(peer, *type, body, length, &finals);
	pthread_mutex_unlock(&peer->lock);
	if (ret)
		mci_debug("segment '%s' sent frame type %u of %u bytes: malformed", peer->name, *type,
			  length);
	mci_rdma_finals_tell(peer, finals);
	free(body);
	return ret ? mci_fail(ret,
			      "segment '%s' sent a malformed rdma frame; run the same release on both sides",
			      peer->name)
		   : 0;
}

/* The state of the peer's ports, then the keys of all regions. */
static int ask_all(struct mci_rdma_peer *peer, struct mci_sock *sock, uint64_t deadline_ns)
{
	struct mci_rdma_ask ask[MCI_RDMA_ASK_MAX];
	uint8_t out[4 + 8 * MCI_RDMA_ASK_MAX];
	unsigned int i, n, answers;
	uint16_t type = 0;
	int ret = 0;

	while (!ret && type != MCI_RDMA_PORTS)
		ret = next_frame(peer, sock, &type, deadline_ns);
	for (i = 0; i < peer->count && !ret; i += n) {
		pthread_mutex_lock(&peer->lock);
		for (n = 0; n < MCI_RDMA_ASK_MAX && i + n < peer->count; n++)
			ask[n] = (struct mci_rdma_ask){peer->regions[i + n].id,
						       peer->regions[i + n].generation};
		pthread_mutex_unlock(&peer->lock);
		ret = mci_frame_send(sock, MCI_RDMA_KEYS_ASK, 0, out,
				     mci_rdma_asks_encode(ask, (uint16_t)n, out), deadline_ns);
		for (answers = 0; answers < n && !ret;) {
			ret = next_frame(peer, sock, &type, deadline_ns);
			answers += type == MCI_RDMA_KEYS;
		}
	}
	return ret;
}

struct start {
	struct mci_rdma_peer *peer;
	struct mci_sock sock;
	int ret;
};

static void start(void *arg) /* loop thread */
{
	static const struct mci_conn_ops ops = {.frame = on_frame, .closed = on_closed};
	struct start *s = arg;
	struct mci_rdma_peer *peer = s->peer;
	struct mci_request *finals = NULL;

	pthread_mutex_lock(&peer->lock);
	if (peer->conn || peer->closing)
		s->ret = mci_fail(-ECANCELED, "the way to segment '%s' is being closed", peer->name);
	else
		s->ret = mci_conn_start(peer->loop, s->sock, MCI_RDMA_FRAME_LIMIT, &ops, peer, &peer->conn);
	if (!s->ret) {
		atomic_fetch_add(&peer->refs, 1);
		peer->conn_there = true;
		peer->dropping = false;
		peer->state = MCI_RDMA_LIVE;
		peer->reconnect = (struct mci_reconnect){0};
		peer->unconfirmed = false;
		mci_rdma_pump(peer, &finals);
		pthread_cond_broadcast(&peer->changed);
	}
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
}

int mci_rdma_peer_connect(struct mci_rdma_peer *peer, uint64_t deadline_ns)
{
	struct mci_transport_host *host = peer->rdma->host;
	const struct mci_rdma_params params = {
		.version = MCI_RDMA_VERSION,
		.session = peer->session,
		.incarnation = atomic_fetch_add(&peer->rdma->incarnations, 1) + 1,
	};
	uint8_t encoded[MCI_RDMA_PARAMS];
	/* Only the connector (or peer_open) changes what is read here. */
	const struct mci_connect_attr attr = {
		.hosts = (const char *const *)peer->hosts,
		.host_count = peer->host_count,
		.port = peer->service_port,
		.source = host->options.source,
		.self = host->self,
		.secret = &peer->secret,
		.wanted = &peer->uuid,
		.features_required = host->options.integrity ? MCI_FEATURE_INTEGRITY : 0,
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_RDMA,
		.params = encoded,
		.params_length = sizeof(encoded),
		.deadline_ns = deadline_ns,
	};
	struct start s = {.peer = peer};
	struct mci_hello *hello;
	int ret;

	if (peer->classic)
		return mci_rdma_classic_connect(peer, deadline_ns);
	hello = malloc(sizeof(*hello));
	if (!hello)
		return mci_fail(-ENOMEM, "no memory for a connection to segment '%s'", peer->name);
	mci_rdma_params_encode(&params, encoded);
	ret = mci_connect(&attr, &s.sock, hello);
	free(hello);
	if (ret)
		return ret;
	ret = ask_all(peer, &s.sock, deadline_ns);
	if (!ret) {
		mci_loop_call(peer->loop, start, &s);
		ret = s.ret;
	}
	if (ret)
		mci_sock_close(&s.sock);
	return ret;
}

/* Loop thread: send what endpoints owe the peer, and what is to be asked. */
void mci_rdma_control_frames(struct mci_rdma_peer *peer)
{
	uint8_t out[MCI_RDMA_END_MAX];
	struct mci_rdma_endpoint *e;
	struct mci_rdma_port port;
	unsigned int i;
	int ret = 0;

	if (peer->classic) {
		mci_rdma_classic_control(peer);
		return;
	}
	pthread_mutex_lock(&peer->lock);
	if (peer->dropping && peer->conn)
		mci_conn_close(peer->conn);
	for (e = peer->endpoints; e && peer->conn && peer->conn_there && !ret; e = e->next) {
		if (e->send_connect && e->state == MCI_RDMA_ASKED) {
			struct mci_rdma_end end = {.number = e->number,
						   .from = e->device->index,
						   .to = e->to,
						   .count = e->count};

			mci_rdma_device_port(e->device, &port);
			end.mtu = port.mtu;
			end.lid = port.lid;
			memcpy(end.gid, port.gid, 16);
			memcpy(e->own_gid, port.gid, 16);
			for (i = 0; i < e->count; i++) {
				end.qpn[i] = e->queue[i]->qp->qp_num;
				end.psn[i] = e->queue[i]->psn;
			}
			e->send_connect = false;
			ret = mci_conn_send(peer->conn, MCI_RDMA_CONNECT, 0, out,
					    mci_rdma_end_encode(&end, out), -1);
		} else if (e->send_drop && e->state == MCI_RDMA_FENCING) {
			mci_put32(out, e->number);
			e->send_drop = false;
			ret = mci_conn_send(peer->conn, MCI_RDMA_DROP, 0, out, 4, -1);
		}
	}
	for (i = 0; i < peer->count && peer->ask_keys && peer->conn && peer->conn_there && !ret; i++) {
		const struct mci_rdma_ask ask = {peer->regions[i].id, peer->regions[i].generation};

		if (peer->remote[i].state != MCI_RDMA_KEYS_NONE)
			continue;
		peer->remote[i].state = MCI_RDMA_KEYS_ASKED;
		ret = mci_conn_send(peer->conn, MCI_RDMA_KEYS_ASK, 0, out, mci_rdma_asks_encode(&ask, 1, out),
				    -1);
	}
	peer->ask_keys = false;
	if (ret && peer->conn)
		mci_conn_close(peer->conn);
	pthread_mutex_unlock(&peer->lock);
}

/* ---- after a loss ---- */

/* Locked. All requests that wait end with @err (@stale_only: those to stale regions). */
void mci_rdma_fail_waiting(struct mci_rdma_peer *peer, int err, bool stale_only,
			   struct mci_request **finals)
{
	struct mci_request *r, *next,
		*first[3] = {peer->queue[0].first, peer->queue[1].first, peer->flight.first};
	unsigned int i;

	for (i = 0; i < 3; i++)
		for (r = first[i]; r; r = next) {
			next = r->next;
			if (!stale_only || (r->remote && atomic_load(&r->remote->stale)))
				mci_rdma_request_end(peer, r, MC_FAILED, err, finals);
		}
	mci_rdma_peer_post(peer); /* slices that wait to be sent anew are dropped there */
}

/* Read the descriptor anew. -ESTALE: the memory is not there any more; requests to it end. */
static int refresh(struct mci_rdma_peer *peer, uint64_t deadline_ns)
{
	struct mci_transport_host *host = peer->rdma->host;
	struct mci_request *finals = NULL;
	int ret;

	ret = peer->classic ? mci_rdma_classic_refresh(peer, deadline_ns)
			    : host->refresh(host->engine, peer->cookie, deadline_ns, use_info, peer);
	if (ret != -ESTALE)
		return ret;
	pthread_mutex_lock(&peer->lock);
	mci_rdma_fail_waiting(peer, -ESTALE, true, &finals);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	return ret;
}

static void *connector_main(void *arg)
{
	struct mci_rdma_peer *peer = arg;
	struct mci_transport_host *host = peer->rdma->host;
	uint64_t patience =
		(host->options.connect_timeout_ms ? host->options.connect_timeout_ms : 3000) * MCI_NS_PER_MS;
	struct mci_request *finals = NULL;
	int ret = -ECANCELED;

	atomic_fetch_add_explicit(&host->stats.reconnects, 1, memory_order_relaxed);
	pthread_mutex_lock(&peer->lock);
	while (!peer->closing && mci_rdma_peer_wanted(peer)) {
		/* The connection that was lost may not be closed yet: that is worth as long a wait. */
		if (peer->conn && !peer->reconnect.backoff_ns)
			mci_reconnect_attempt(&peer->reconnect);
		if (peer->reconnect.backoff_ns)
			mci_reconnect_wait(peer->reconnect.retry_at, &peer->changed, &peer->lock, &peer->closing);
		if (peer->closing || !mci_rdma_peer_wanted(peer))
			break;
		/* Reset once it is up; a peer that accepts and hangs up again is not hammered, either. */
		mci_reconnect_attempt(&peer->reconnect);
		pthread_mutex_unlock(&peer->lock);
		ret = mci_rdma_peer_connect(peer, mci_now_ns() + patience);
		if (ret) {
			mci_info("cannot reach segment '%s': %s", peer->name, mc_errmsg());
			/* Restarted, and about to register its memory again: worth waiting for. */
			if (refresh(peer, mci_now_ns() + patience) == -EINPROGRESS)
				ret = -EINPROGRESS;
		}
		pthread_mutex_lock(&peer->lock);
		if (!ret)
			break;
		peer->error = ret;
		if (mci_reconnect_given_up(&peer->reconnect, ret)) {
			mci_rdma_fail_waiting(peer, ret, false, &finals);
			break;
		}
	}
	if (ret && peer->state == MCI_RDMA_CONNECTING)
		peer->state = MCI_RDMA_DOWN; /* the next submit starts the next connector */
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_finals_tell(peer, finals);
	pthread_mutex_lock(&peer->lock);
	peer->connectors--;
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_peer_put(peer);
	return NULL;
}

void mci_rdma_connector_start(struct mci_rdma_peer *peer, struct mci_request **finals)
{
	int ret;

	/* peer_close() waits for connectors by their count. */
	peer->state = MCI_RDMA_CONNECTING;
	peer->connectors++;
	atomic_fetch_add(&peer->refs, 1);
	ret = mci_thread_start(NULL, connector_main, peer);
	if (!ret)
		return;
	atomic_fetch_sub(&peer->refs, 1);
	peer->connectors--;
	peer->state = MCI_RDMA_DOWN;
	mci_warn("cannot start a thread to reach segment '%s': %s", peer->name, strerror(-ret));
	mci_rdma_fail_waiting(peer, ret, false, finals);
}
