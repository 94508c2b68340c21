// SPDX-License-Identifier: MIT
/*
 * The transport "rdma-classic" as the engine sees it: client of classic segments, and their server under
 * --classic. Devices are opened for it at once only where it serves; else when the first such segment is opened.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/errors.h"
#include "topology/topology.h"
#include "transport/rdma/classic.h"

#define GRACE_NS MCI_NS_PER_S

struct classic {
	struct mci_transport_host *host;
	pthread_mutex_t lock;
	struct mci_rdma *rdma; /* NULL: not needed so far; stays once it is there */
};

static struct classic *of(struct mci_transport *transport) { return (struct classic *)transport; }

static int start(struct classic *classic)
{
	struct mci_rdma *rdma;
	int ret = mci_rdma_new(classic->host, MCI_TRANSPORT_RDMA_CLASSIC, &rdma);

	if (ret)
		return ret;
	pthread_mutex_init(&rdma->memory_lock, NULL);
	ret = mci_rdma_links_open(rdma);
	if (ret)
		goto err_free;
	if (classic->host->options.classic)
		ret = mci_rdma_classic_serve_open(rdma);
	if (ret)
		goto err_close_links;
	classic->rdma = rdma;
	return 0;

err_close_links:
	mci_rdma_links_close(rdma);
err_free:
	mci_rdma_free(rdma);
	return ret;
}

/* @fresh: it was not there before. */
static int needed(struct classic *classic, bool *fresh)
{
	int ret = 0;

	pthread_mutex_lock(&classic->lock);
	*fresh = !classic->rdma;
	if (*fresh)
		ret = start(classic);
	pthread_mutex_unlock(&classic->lock);
	return ret;
}

static struct mci_rdma *rdma_of(struct mci_transport *transport)
{
	struct mci_rdma *rdma;

	pthread_mutex_lock(&of(transport)->lock);
	rdma = of(transport)->rdma;
	pthread_mutex_unlock(&of(transport)->lock);
	return rdma;
}

static int classic_open(struct mci_transport_host *host, struct mci_transport **transport)
{
	struct classic *classic = calloc(1, sizeof(*classic));
	bool fresh;
	int ret;

	if (!classic)
		return mci_fail(-ENOMEM, "no memory for the rdma-classic transport");
	classic->host = host;
	pthread_mutex_init(&classic->lock, NULL);
	ret = host->options.classic ? needed(classic, &fresh) : 0;
	if (ret) {
		pthread_mutex_destroy(&classic->lock);
		free(classic);
		return ret;
	}
	*transport = (struct mci_transport *)classic;
	return 0;
}

static void classic_close(struct mci_transport *transport)
{
	struct mci_rdma *rdma = of(transport)->rdma;

	if (rdma) {
		mci_rdma_classic_serve_close(rdma);
		mci_rdma_links_close(rdma);
		pthread_mutex_destroy(&rdma->memory_lock);
		mci_rdma_free(rdma);
	}
	pthread_mutex_destroy(&of(transport)->lock);
	free(transport);
}

/* ---- serving ---- */

static struct mci_rdma *serving(struct mci_transport *transport)
{
	struct mci_rdma *rdma = rdma_of(transport);

	return rdma && rdma->classic_serve ? rdma : NULL;
}

static int classic_describe(struct mci_transport *transport, json_t *mine)
{
	(void)mine; /* all that is to be known stands where classic peers look for it */
	return serving(transport) ? 0 : -EOPNOTSUPP;
}

/* Exactly the devices that are listed: classic readers number them by the matrix. */
static json_t *matrix(struct mci_rdma *rdma)
{
	json_t *all = json_object(), *names, *given = NULL, *pair;
	struct mci_topology *topology;
	const char *location;
	uint8_t i;

	if (rdma->host->options.rdma.matrix)
		given = json_loads(rdma->host->options.rdma.matrix, 0, NULL);
	else if (!mci_topology_scan("/sys", &topology)) {
		given = mci_topology_matrix(topology);
		mci_topology_free(topology);
	}
	json_object_foreach(given, location, pair)
	{
		json_t *near = json_array(), *other = json_array();

		for (i = 0; i < rdma->device_count; i++) {
			const char *name = rdma->device[i]->name;
			const json_t *one;
			bool preferred = false;
			size_t k;

			json_array_foreach(json_array_get(pair, 0), k, one)
			{
				preferred |= json_is_string(one) && !strcmp(json_string_value(one), name);
			}
			json_array_append_new(preferred ? near : other, json_string(name));
		}
		json_object_set_new(all, location, json_pack("[o, o]", near, other));
	}
	json_decref(given);
	if (json_object_size(all))
		return all;
	names = json_array();
	for (i = 0; i < rdma->device_count; i++)
		json_array_append_new(names, json_string(rdma->device[i]->name));
	json_object_set_new(all, "cpu:0", json_pack("[o, []]", names));
	return all;
}

static int classic_root(struct mci_transport *transport, json_t *root)
{
	struct mci_rdma *rdma = rdma_of(transport);
	json_t *list = json_array();
	char gid[MCI_RDMA_GID_TEXT];
	struct mci_rdma_port port;
	uint8_t i;
	int ret = 0;

	if (!rdma) {
		json_decref(list);
		return -EOPNOTSUPP;
	}
	for (i = 0; i < rdma->device_count; i++) {
		mci_rdma_device_port(rdma->device[i], &port);
		mci_rdma_gid_text(port.gid, gid);
		ret |= json_array_append_new(
			list, json_pack("{s:s, s:i, s:s}", "name", rdma->device[i]->name, "lid", port.lid, "gid", gid));
	}
	ret |= json_object_set_new(root, "devices", list);
	ret |= json_object_set_new(root, "priority_matrix", matrix(rdma));
	return ret ? mci_fail(-ENOMEM, "no memory to describe the rdma-classic transport") : 0;
}

/* One buffer per registration: a NIC that takes no more in one piece makes several of a region. */
static int classic_buffers(struct mci_transport *transport, struct mci_region *region, json_t *buffers)
{
	struct mci_rdma *rdma = serving(transport);
	const struct mci_rdma_memory *m = rdma ? mci_rdma_memory_of(rdma, region) : NULL;
	uint64_t at = 0, length;
	uint16_t chunk;
	uint8_t i;
	int ret = 0;

	if (!m)
		return 0;
	for (chunk = 0; chunk < m->chunks; chunk++, at += length) {
		json_t *rkeys = json_array(), *lkeys = json_array();

		length = m->length - at < m->chunk ? m->length - at : m->chunk;
		for (i = 0; i < rdma->device_count; i++) {
			ret |= json_array_append_new(rkeys,
						     json_integer(m->mr[chunk * rdma->device_count + i]->rkey));
			/* As many as there are rkeys, else readers refuse; what they are is nobody's business. */
			ret |= json_array_append_new(lkeys, json_integer(0));
		}
		ret |= json_array_append_new(buffers, json_pack("{s:s, s:I, s:I, s:o, s:o}", "name", region->location,
								"addr", (json_int_t)((uintptr_t)region->addr + at),
								"length", (json_int_t)length, "rkey", rkeys, "lkey",
								lkeys));
	}
	return ret ? mci_fail(-ENOMEM, "no memory for the descriptor") : 0;
}

static void classic_connection(struct mci_transport *transport, struct mci_incoming *in, const char *json,
			       size_t length)
{
	mci_rdma_classic_serve(of(transport)->rdma, in, json, length);
}

static int classic_region_add(struct mci_transport *transport, struct mci_region *region, json_t *json)
{
	struct mci_rdma *rdma = serving(transport);

	(void)json;
	return rdma && region->classic ? mci_rdma_memory_add(rdma, region) : 0;
}

static int classic_region_remove(struct mci_transport *transport, struct mci_region *region, uint64_t deadline_ns)
{
	struct mci_rdma *rdma = rdma_of(transport);
	int ret;

	if (!rdma)
		return 0;
	/* A request that is inside already may be the first to register it. */
	ret = mci_regions_wait(rdma->host->regions, region, deadline_ns + GRACE_NS);
	return ret ? ret : mci_rdma_memory_remove(rdma, region);
}

/* ---- initiator ---- */

static int classic_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
			     struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
			     struct mci_peer **peer)
{
	struct classic *classic = of(transport);
	const struct mci_transport_host *host = classic->host;
	bool fresh;
	int ret;

	if (!mci_rdma_classic_speaks(info))
		return mci_fail(-EOPNOTSUPP, "segment '%s' does not serve classic RDMA", info->name);
	if (host->secret.mode == MCI_AUTH_CLUSTER && !host->options.classic)
		return mci_fail(-EKEYREJECTED,
				"segment '%s' is served by a classic peer, which knows no cluster key; "
				"give --classic to talk to it all the same",
				info->name);
	ret = needed(classic, &fresh);
	if (!ret && fresh)
		ret = host->publish(host->engine);
	return ret ? ret
		   : mci_rdma_classic_open(classic->rdma, info, cookie, regions, count, deadline_ns,
					   (struct mci_rdma_handle **)peer);
}

static struct mci_rdma_handle *handle_of(struct mci_peer *peer) { return (struct mci_rdma_handle *)peer; }

static void classic_peer_close(struct mci_peer *peer) { mci_rdma_classic_close(handle_of(peer)); }

static void classic_submit(struct mci_peer *peer, struct mci_request *first)
{
	mci_rdma_classic_submit(handle_of(peer), first);
}

static void classic_cancel(struct mci_peer *peer, struct mci_request *request)
{
	mci_rdma_peer_cancel((struct mci_peer *)handle_of(peer)->peer, request);
}

static bool classic_help(struct mci_peer *peer)
{
	return mci_rdma_peer_help((struct mci_peer *)handle_of(peer)->peer);
}

static int classic_fence(struct mci_peer *peer, uint64_t deadline_ns)
{
	return mci_rdma_classic_fence(handle_of(peer), deadline_ns);
}

static int classic_usable(struct mci_peer *peer, struct mci_remote_region *region)
{
	return mci_rdma_classic_usable(handle_of(peer), region);
}

static void classic_detail(struct mci_peer *peer, const struct mci_remote_region *region, char *text, size_t size)
{
	mci_rdma_peer_detail((struct mci_peer *)handle_of(peer)->peer, region, text, size);
}

const struct mci_transport_ops mci_transport_rdma_classic = {
	.id = MCI_TRANSPORT_RDMA_CLASSIC,
	.name = "rdma-classic",
	.classic = true,
	.flushes = true,
	.open = classic_open,
	.close = classic_close,
	.describe = classic_describe,
	.classic_describe = classic_root,
	.classic_buffers = classic_buffers,
	.classic_connection = classic_connection,
	.region_add = classic_region_add,
	.region_remove = classic_region_remove,
	.peer_open = classic_peer_open,
	.peer_close = classic_peer_close,
	.submit = classic_submit,
	.cancel = classic_cancel,
	.help = classic_help,
	.fence = classic_fence,
	.region_usable = classic_usable,
	.detail = classic_detail,
};
