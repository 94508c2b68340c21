// SPDX-License-Identifier: MIT
/*
 * How an initiator reaches its peer: incarnations of the session, the connector thread that opens a
 * new one after a loss (one at a time per peer, gone when done), and the descriptor read anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/tcp/peer.h"

static void free_hosts(char **hosts, unsigned int count)
{
	while (count)
		free(hosts[--count]);
	free(hosts);
}

static char **copy_hosts(const char *const *hosts, unsigned int count)
{
	char **copy = calloc(count ? count : 1, sizeof(*copy));
	unsigned int i;

	for (i = 0; copy && i < count; i++) {
		copy[i] = strdup(hosts[i]);
		if (!copy[i]) {
			free_hosts(copy, i);
			return NULL;
		}
	}
	return copy;
}

int mci_tcp_peer_set_info(struct mci_tcp_peer *peer, const struct mci_peer_info *info)
{
	unsigned int old_count;
	char **hosts, **old;

	hosts = copy_hosts(info->addresses, info->address_count);
	if (!hosts)
		return mci_fail(-ENOMEM, "no memory for the addresses of segment '%s'", info->name);
	pthread_mutex_lock(&peer->lock);
	old = peer->hosts;
	old_count = peer->host_count;
	peer->hosts = hosts;
	peer->host_count = info->address_count;
	peer->port = info->port;
	peer->secret = info->secret;
	strncpy(peer->name, info->name, sizeof(peer->name) - 1);
	pthread_mutex_unlock(&peer->lock);
	free_hosts(old, old_count);
	return 0;
}

/* One stream of the present incarnation. Only the connector (or peer_open) changes what is read here. */
static int connect_stream(struct mci_tcp_peer *peer, struct mci_tcp_link *link, uint64_t incarnation,
			  uint64_t deadline_ns)
{
	const struct mci_transport_host *host = peer->tcp->host;
	const struct mci_tcp_params params = {
		.session = peer->session,
		.incarnation = incarnation,
		.index = (uint16_t)link->count,
		.count = (uint16_t)peer->stream_count,
		.slots = MCI_TCP_SLOTS,
		.slice_max = MCI_TCP_SLICE_MAX,
	};
	uint8_t encoded[MCI_TCP_PARAMS];
	const struct mci_connect_attr attr = {
		.hosts = (const char *const *)peer->hosts,
		.host_count = peer->host_count,
		.port = peer->port,
		.source = host->options.source,
		.self = host->self,
		.secret = &peer->secret,
		.wanted = &peer->uuid,
		.features = MCI_FEATURE_NOTIFY,
		.features_required = (host->options.checksum ? MCI_FEATURE_CHECKSUM : 0) |
				     (host->options.integrity ? MCI_FEATURE_INTEGRITY : 0),
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_DATA,
		.params = encoded,
		.params_length = sizeof(encoded),
		.deadline_ns = deadline_ns,
	};
	struct mci_hello hello;
	struct mci_sock sock;
	int ret;

	mci_tcp_params_encode(&params, encoded);
	ret = mci_connect(&attr, &sock, &hello);
	if (ret)
		return ret;
	ret = mci_tcp_stream_new(peer, link, sock, &hello);
	if (ret)
		mci_sock_close(&sock);
	return ret;
}

int mci_tcp_peer_connect(struct mci_tcp_peer *peer, uint64_t deadline_ns)
{
	struct mci_tcp_link *link;
	uint64_t incarnation;
	unsigned int i;
	int ret;

	link = calloc(1, sizeof(*link));
	if (!link)
		return mci_fail(-ENOMEM, "no memory for data connections");
	link->refs = 1;
	pthread_mutex_lock(&peer->lock);
	/* Each attempt its own: nobody knows how far the last one got. */
	incarnation = atomic_fetch_add(&peer->tcp->incarnations, 1) + 1;
	pthread_mutex_unlock(&peer->lock);

	while (link->count < peer->stream_count) {
		ret = connect_stream(peer, link, incarnation, deadline_ns);
		if (ret == -EBUSY && link->count)
			break; /* the target is full: fewer streams will do */
		if (ret)
			goto err_discard;
	}
	ret = mci_tcp_link_watch(link);
	if (ret)
		goto err_discard;

	pthread_mutex_lock(&peer->lock);
	peer->link = link;
	peer->state = MCI_TCP_UP;
	peer->checksum = link->streams[0]->checksum;
	peer->integrity = link->streams[0]->sock.tls;
	peer->reconnect.refused_since = 0;
	mci_tcp_link_get(link);
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	/* What happened on the sockets before we were up raised its edge too early: look once. */
	for (i = 0; i < link->count; i++)
		mci_tcp_stream_look(link->streams[i]);
	mci_tcp_link_put(link);
	return 0;
err_discard:
	mci_tcp_link_discard(link);
	return ret;
}

struct refresh {
	struct mci_tcp_peer *peer, *next; /* next: where the handle's target lives now */
	struct mci_tcp_handle *handle;
};

/* The target is known: the one that we look for, or another process that holds the same memory. */
static int use_info(void *arg, const struct mci_peer_info *info)
{
	struct refresh *refresh = arg;
	struct mci_tcp_handle *handle = refresh->handle;
	struct mci_tcp_peer **past;
	int ret;

	if (mci_uuid_equal(&info->uuid, &refresh->peer->uuid))
		return mci_tcp_peer_set_info(refresh->peer, info);
	/* Its regions have the ids of the other process already: what cannot move there is stale. */
	past = realloc(handle->past, (handle->past_count + 1) * sizeof(*past));
	if (!past)
		return mci_fail(-ESTALE, "no memory to follow segment '%s' to its new process", info->name);
	handle->past = past;
	ret = mci_tcp_peer_use(refresh->peer->tcp, info, &refresh->next);
	if (ret)
		return -ESTALE;
	past[handle->past_count++] = refresh->peer;
	return 0;
}

/* Locked. Among those that wait for something: whose turn is it? */
static struct mci_tcp_handle *next_handle(struct mci_tcp_peer *peer)
{
	struct mci_tcp_handle *handle;
	struct mci_request *r;
	int i;

	for (handle = peer->handles; handle; handle = handle->next) {
		for (i = MCI_TCP_HIGH; i < MCI_TCP_LISTS && handle->round != peer->round; i++)
			for (r = peer->list[i].first; r; r = r->next)
				if (r->peer == (struct mci_peer *)handle)
					return handle;
	}
	return NULL;
}

/*
 * Read the descriptor anew, for each handle by itself: they may have been opened at different times, and by
 * different names. -ESTALE: the memory is not there any more; requests to it end. Returns -EINPROGRESS if one of
 * them has to wait for a target that is just being restarted, else 0.
 */
static int refresh_handles(struct mci_tcp_peer *peer, uint64_t deadline_ns)
{
	struct mci_transport_host *host = peer->tcp->host;
	struct refresh refresh = {.peer = peer};
	struct mci_request *chain;
	int ret, result = 0;

	pthread_mutex_lock(&peer->lock);
	peer->round++;
	while ((refresh.handle = next_handle(peer))) {
		refresh.handle->round = peer->round;
		refresh.handle->refreshing = true;
		refresh.next = NULL;
		chain = NULL;
		pthread_mutex_unlock(&peer->lock);
		ret = host->refresh(host->engine, refresh.handle->cookie, deadline_ns, use_info, &refresh);
		if (refresh.next) {
			mci_tcp_handle_move(refresh.handle, peer, refresh.next);
			pthread_mutex_lock(&peer->lock);
			continue;
		}
		pthread_mutex_lock(&peer->lock);
		if (ret == -EINPROGRESS)
			result = ret;
		if (ret == -ESTALE)
			mci_tcp_peer_fail(peer, ret, refresh.handle, &chain);
		refresh.handle->refreshing = false;
		pthread_cond_broadcast(&peer->changed);
		if (!chain)
			continue;
		pthread_mutex_unlock(&peer->lock);
		mci_tcp_peer_complete(peer, mci_tcp_chain_reversed(chain));
		pthread_mutex_lock(&peer->lock);
	}
	pthread_mutex_unlock(&peer->lock);
	return result;
}

static void *connector_main(void *arg)
{
	struct mci_tcp_peer *peer = arg;
	struct mci_transport_host *host = peer->tcp->host;
	uint64_t patience =
		(host->options.connect_timeout_ms ? host->options.connect_timeout_ms : 3000) * MCI_NS_PER_MS;
	struct mci_request *chain = NULL;
	int ret = -ECANCELED;

	atomic_fetch_add_explicit(&host->stats.reconnects, 1, memory_order_relaxed);
	pthread_mutex_lock(&peer->lock);
	while (!peer->closing && mci_tcp_peer_pending(peer)) {
		/* From attempt to attempt, whoever makes them: requests with less time than that have their turn. */
		if (peer->reconnect.backoff_ns)
			mci_reconnect_wait(peer->reconnect.retry_at, &peer->changed, &peer->lock, &peer->closing);
		if (peer->closing || !mci_tcp_peer_pending(peer))
			break;
		/* Reset by the first answer: a peer that accepts and hangs up again is not hammered, either.
		 */
		mci_reconnect_attempt(&peer->reconnect);
		pthread_mutex_unlock(&peer->lock);

		ret = mci_tcp_peer_connect(peer, mci_now_ns() + patience);
		if (ret) {
			mci_info("cannot reach segment '%s': %s", peer->name, mc_errmsg());
			/* Restarted, and about to register its memory again: worth waiting for. */
			if (refresh_handles(peer, mci_now_ns() + patience) == -EINPROGRESS)
				ret = -EINPROGRESS;
		}

		pthread_mutex_lock(&peer->lock);
		if (!ret)
			break;
		if (mci_reconnect_given_up(&peer->reconnect, ret)) {
			mci_tcp_peer_fail(peer, ret, NULL, &chain);
			break;
		}
	}
	/* After a success it is not ours any more: the link may have broken since, and the next connector be
	 * at work. */
	if (ret && peer->state == MCI_TCP_CONNECTING)
		peer->state = MCI_TCP_DOWN; /* the next submit starts the next connector */
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_complete(peer, chain);

	pthread_mutex_lock(&peer->lock);
	peer->connectors--;
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_put(peer);
	return NULL;
}

void mci_tcp_connector_start(struct mci_tcp_peer *peer, struct mci_request **failed)
{
	int ret;

	/* mci_tcp_peer_end() waits for connectors by their count. */
	peer->state = MCI_TCP_CONNECTING;
	peer->connectors++;
	atomic_fetch_add(&peer->refs, 1);
	ret = mci_thread_start(NULL, connector_main, peer);
	if (!ret)
		return;
	atomic_fetch_sub(&peer->refs, 1);
	peer->connectors--;
	peer->state = MCI_TCP_DOWN;
	mci_warn("cannot start a thread to reach segment '%s': %s", peer->name, strerror(-ret));
	mci_tcp_peer_fail(peer, ret, NULL, failed);
}

int mci_tcp_peer_ready(struct mci_tcp_peer *peer, const struct mci_peer_info *info, uint64_t deadline_ns)
{
	struct timespec at = {.tv_sec = (time_t)(deadline_ns / MCI_NS_PER_S),
			      .tv_nsec = (long)(deadline_ns % MCI_NS_PER_S)};
	struct mci_request *chain = NULL;
	int ret = 0;

	pthread_mutex_lock(&peer->lock);
	while ((peer->state == MCI_TCP_CONNECTING || peer->state == MCI_TCP_CLOSING) && !ret)
		ret = pthread_cond_timedwait(&peer->changed, &peer->lock, &at);
	if (peer->state != MCI_TCP_DOWN) {
		ret = peer->state == MCI_TCP_UP ? 0 : -ETIMEDOUT;
		pthread_mutex_unlock(&peer->lock);
		if (ret)
			mci_fail(ret, "segment '%s': its connections broke, and new ones did not come up in time",
				 info->name);
		return ret;
	}
	peer->state = MCI_TCP_CONNECTING;
	pthread_mutex_unlock(&peer->lock);
	ret = mci_tcp_peer_set_info(peer, info);
	if (!ret)
		ret = mci_tcp_peer_connect(peer, deadline_ns);
	if (!ret)
		return 0;
	pthread_mutex_lock(&peer->lock);
	peer->state = MCI_TCP_DOWN;
	if (peer->queued) /* of other handles */
		mci_tcp_connector_start(peer, &chain);
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	mci_tcp_peer_complete(peer, chain);
	return ret;
}
