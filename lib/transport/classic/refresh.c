// SPDX-License-Identifier: MIT
/*
 * What may block: reading the descriptor of a peer that cannot be reached any more, and connecting by
 * name. One helper thread per transport, started with the first peer.
 * Lock order: classic->lock is a leaf.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "transport/classic/classic.h"

#define COMPARE_MAX 1000000u /* steps, when looking for our regions among the buffers of a descriptor */

/* ---- what a descriptor says ---- */

static bool speaks_tcp(const json_t *protocol)
{
	const json_t *one;
	size_t i;

	if (json_is_string(protocol))
		return !strcmp(json_string_value(protocol), "tcp");
	for (i = 0; i < json_array_size(protocol); i++) {
		one = json_array_get(protocol, i);
		if (json_is_string(one) && !strcmp(json_string_value(one), "tcp"))
			return true;
	}
	return false;
}

/* 0 = missing or none. */
static uint32_t number(const json_t *object, const char *key, uint32_t max)
{
	const json_t *value = json_object_get(object, key);
	json_int_t n = json_integer_value(value);

	return n < 0 || n > max ? 0 : (uint32_t)n;
}

/*
 * Data port and protocol version of a peer. Without a data port (releases before 0.3.5) the rpc port serves
 * data, v1, and there is no handshake port (@rpc). -EOPNOTSUPP: not for us.
 */
int mci_classic_endpoint(const struct mci_peer_info *info, uint16_t *port, uint32_t *version, bool *rpc)
{
	if (json_object_get(info->descriptor, "mooncake_c") && !info->transport)
		return mci_fail(-EOPNOTSUPP,
				"segment '%s' does not serve the classic data protocol; start its process with "
				"--classic, or use --protocol=tcp or auto",
				info->name);
	if (!info->transport && !speaks_tcp(json_object_get(info->descriptor, "protocol")))
		return mci_fail(-EOPNOTSUPP, "classic segment '%s' is not served over tcp", info->name);
	*port = (uint16_t)number(info->transport ? info->transport : info->descriptor,
				 info->transport ? "port" : "tcp_data_port", UINT16_MAX);
	*version = info->transport ? 2 : number(info->descriptor, "tcp_proto_version", UINT32_MAX);
	*rpc = !*port;
	if (*rpc) {
		*port = info->port;
		*version = 1;
	}
	if (!*port)
		return mci_fail(-EOPNOTSUPP, "classic segment '%s' says no port to send data to", info->name);
	return 0;
}

static bool has_range(const json_t *buffer, const struct mci_remote_region *region)
{
	return (uint64_t)json_integer_value(json_object_get(buffer, "addr")) == region->base &&
	       (uint64_t)json_integer_value(json_object_get(buffer, "length")) == region->length;
}

/*
 * Classic descriptors carry no identity. The same data port and the same ranges are taken for the same
 * process; regions whose range is not listed any more are stale. Returns how many are still there.
 */
static unsigned int match_regions(struct classic_peer *peer, const json_t *buffers)
{
	size_t n = json_array_size(buffers), at = 0, k, steps = 0;
	unsigned int i, matched = 0;

	for (i = 0; i < peer->region_count; i++) {
		for (k = 0; k < n && steps < COMPARE_MAX; k++, steps++, at = (at + 1) % n)
			if (has_range(json_array_get(buffers, at), &peer->regions[i]))
				break;
		if (k < n && steps < COMPARE_MAX) {
			at = (at + 1) % n;
			matched++;
		} else {
			atomic_store(&peer->regions[i].stale, true);
		}
	}
	return matched;
}

/* ---- connecting ---- */

static int keep_hosts(struct classic_peer *peer, const struct mci_peer_info *info)
{
	char **hosts = calloc(info->address_count + 1, sizeof(*hosts));
	unsigned int i;

	for (i = 0; hosts && i < info->address_count; i++) {
		hosts[i] = strdup(info->addresses[i]);
		if (!hosts[i])
			break;
	}
	if (!hosts || i < info->address_count) {
		while (hosts && i)
			free(hosts[--i]);
		free(hosts);
		return mci_fail(-ENOMEM, "no memory for the addresses of a peer");
	}
	for (i = 0; i < peer->host_count; i++)
		free(peer->hosts[i]);
	free(peer->hosts);
	peer->hosts = hosts;
	peer->host_count = info->address_count;
	return 0;
}

static int connect_hosts(struct classic_peer *peer, uint64_t deadline_ns, int *fd,
			 struct classic_address *target)
{
	const struct mci_transport_options *options = &peer->classic->host->options;
	int ret;

	ret = mci_connect_any((const char *const *)peer->hosts, peer->host_count, peer->data_port,
			      options->source, deadline_ns, fd);
	if (ret)
		return ret;
	target->length = sizeof(target->sa);
	if (getpeername(*fd, (struct sockaddr *)&target->sa, &target->length)) {
		ret = mci_fail(-errno, "segment '%s' closed the connection at once: %s", peer->name,
			       strerror(errno));
		close(*fd);
	}
	return ret;
}

int mci_classic_connect(struct classic_peer *peer, const struct mci_peer_info *info, uint64_t deadline_ns,
			int *fd, struct classic_address *target)
{
	int ret = keep_hosts(peer, info);

	return ret ?: connect_hosts(peer, deadline_ns, fd, target);
}

/* ---- helper thread ---- */

struct attempt {
	struct classic_peer *peer;
	uint64_t deadline_ns;
	bool connected, tried;
};

static int use(void *arg, const struct mci_peer_info *info)
{
	struct attempt *attempt = arg;
	struct classic_peer *peer = attempt->peer;
	uint32_t version;
	uint16_t port;
	bool rpc;
	int ret;

	ret = mci_classic_endpoint(info, &port, &version, &rpc);
	if (ret || port != peer->data_port || info->port != peer->rpc_port ||
	    (!info->transport && peer->region_count &&
	     !match_regions(peer, json_object_get(info->descriptor, "buffers"))))
		return mci_fail(-ESTALE, "classic segment '%s' was restarted; open it anew", peer->name);
	attempt->tried = true;
	ret = mci_classic_connect(peer, info, attempt->deadline_ns, &peer->fresh_fd, &peer->fresh_target);
	attempt->connected = !ret;
	return ret;
}

static int refresh(struct classic_peer *peer)
{
	struct mci_transport_host *host = peer->classic->host;
	struct attempt attempt = {.peer = peer};
	int ret;

	attempt.deadline_ns = mci_now_ns() + host->options.connect_timeout_ms * MCI_NS_PER_MS;
	ret = host->refresh(host->engine, peer->cookie, attempt.deadline_ns, use, &attempt);
	if (ret && attempt.connected) {
		close(peer->fresh_fd);
		return ret;
	}
	/* The metadata service may be away while the peer is not. */
	if (ret && ret != -ESTALE && ret != -EINPROGRESS && !attempt.tried)
		ret = connect_hosts(peer, attempt.deadline_ns, &peer->fresh_fd, &peer->fresh_target);
	if (!ret && !attempt.connected && attempt.tried)
		ret = -EIO;
	return ret;
}

static void *helper_main(void *arg)
{
	struct classic *classic = arg;
	struct classic_peer *peer;

	pthread_mutex_lock(&classic->lock);
	while (!classic->stopping) {
		peer = classic->queue;
		if (!peer) {
			pthread_cond_wait(&classic->changed, &classic->lock);
			continue;
		}
		classic->queue = peer->helper_next;
		classic->busy = peer;
		pthread_mutex_unlock(&classic->lock);
		peer->refresh_result = refresh(peer);
		mci_loop_post(peer->loop, &peer->refreshed);
		pthread_mutex_lock(&classic->lock);
		classic->busy = NULL;
		pthread_cond_broadcast(&classic->changed);
	}
	pthread_mutex_unlock(&classic->lock);
	return NULL;
}

void mci_classic_refresh(struct classic_peer *peer)
{
	struct classic *classic = peer->classic;
	struct classic_peer **link;

	pthread_mutex_lock(&classic->lock);
	for (link = &classic->queue; *link; link = &(*link)->helper_next)
		;
	peer->helper_next = NULL;
	*link = peer;
	pthread_cond_broadcast(&classic->changed);
	pthread_mutex_unlock(&classic->lock);
}

void mci_classic_refresh_forget(struct classic_peer *peer)
{
	struct classic *classic = peer->classic;
	struct classic_peer **link;

	pthread_mutex_lock(&classic->lock);
	for (link = &classic->queue; *link; link = &(*link)->helper_next) {
		if (*link == peer) {
			*link = peer->helper_next;
			break;
		}
	}
	while (classic->busy == peer)
		pthread_cond_wait(&classic->changed, &classic->lock);
	pthread_mutex_unlock(&classic->lock);
}

int mci_classic_helper_start(struct classic *classic)
{
	int ret = 0;

	pthread_mutex_lock(&classic->lock);
	if (!classic->helper_runs) {
		ret = mci_thread_start(&classic->helper, helper_main, classic);
		classic->helper_runs = !ret;
	}
	pthread_mutex_unlock(&classic->lock);
	return ret ? mci_fail(ret, "cannot start a thread: %s", strerror(-ret)) : 0;
}

void mci_classic_helper_stop(struct classic *classic)
{
	pthread_mutex_lock(&classic->lock);
	classic->stopping = true;
	pthread_cond_broadcast(&classic->changed);
	pthread_mutex_unlock(&classic->lock);
	if (classic->helper_runs)
		pthread_join(classic->helper, NULL);
}
