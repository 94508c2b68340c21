// SPDX-License-Identifier: MIT
/*
 * Initiator: what a classic descriptor says of a peer: its NICs, and the keys of its buffers. It carries no
 * identity, so buffers are taken for the same memory only while address, length and all keys are what they were;
 * anything else is stale (contracts A2).
 */
#include "transport/rdma/classic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"

bool mci_rdma_classic_speaks(const struct mci_peer_info *info)
{
	const char *protocol = json_string_value(json_object_get(info->descriptor, "protocol"));

	if (json_object_get(info->descriptor, "mooncake_c"))
		return info->transport != NULL;
	return protocol && !strcmp(protocol, "rdma");
}

/* The NIC's number here, which stays while the peer lives: a new one is added. -1: no room. */
static int number_of(struct mci_rdma_peer *peer, const char *name)
{
	uint8_t i;

	for (i = 0; i < peer->ports; i++)
		if (!strcmp(peer->port_name[i], name))
			return i;
	if (peer->ports == MCI_RDMA_DEVICES_MAX)
		return -1;
	snprintf(peer->port_name[i], sizeof(peer->port_name[i]), "%s", name);
	return peer->ports++;
}

int mci_rdma_classic_take_devices(struct mci_rdma_peer *peer, const struct mci_peer_info *info)
{
	struct mci_rdma_classic_device device[MCI_RDMA_DEVICES_MAX];
	uint8_t count, i;
	int ret, number;

	ret = mci_rdma_classic_devices(info->descriptor, device, &count);
	if (ret)
		return ret;
	for (i = 0; i < peer->ports; i++)
		peer->port[i].up = false;
	for (i = 0; i < count; i++) {
		number = number_of(peer, device[i].name);
		if (number < 0)
			return mci_fail(-EBADMSG, "segment '%s' names ever new RDMA devices", info->name);
		/* The link layer is not said; Ethernet has no local identifiers. */
		peer->port[number] = (struct mci_rdma_port){
			.up = 1,
			.mtu = IBV_MTU_4096,
			.link = device[i].lid ? IBV_LINK_LAYER_INFINIBAND : IBV_LINK_LAYER_ETHERNET,
			.lid = device[i].lid};
		memcpy(peer->port[number].gid, device[i].gid, sizeof(device[i].gid));
	}
	return 0;
}

/* Keys of one buffer by our numbers of the peer's NICs. False: not what the devices say. */
static bool read_keys(const struct mci_rdma_peer *peer, const json_t *list, const json_t *devices, uint32_t *key)
{
	const json_t *one;
	size_t i;

	if (json_array_size(list) != json_array_size(devices))
		return false;
	json_array_foreach(list, i, one)
	{
		const char *name = json_string_value(json_object_get(json_array_get(devices, i), "name"));
		uint8_t number;

		if (!json_is_integer(one) || !name)
			return false;
		for (number = 0; number < peer->ports; number++)
			if (!strcmp(peer->port_name[number], name))
				key[number] = (uint32_t)json_integer_value(one);
	}
	return true;
}

/* What the descriptor says of one region; *@remote's key is malloc'd. */
static int read_remote(const struct mci_rdma_peer *peer, const struct mci_peer_info *info,
		       const struct mci_rdma_buffers *buffers, const struct mci_remote_region *region,
		       struct mci_rdma_remote *remote)
{
	const json_t *devices = json_object_get(info->descriptor, "devices");
	unsigned int first;
	int n, i;

	memset(remote, 0, sizeof(*remote));
	n = mci_rdma_buffers_find(buffers, region->base, region->length, &first);
	if (!region->base || n < 0)
		return -ENOENT;
	remote->iova = region->base;
	remote->chunk = buffers->list[first].length;
	remote->chunks = (uint16_t)n;
	remote->devices = peer->ports;
	remote->state = MCI_RDMA_KEYS_REFUSED;
	remote->error = -EACCES;
	if (!json_array_size(buffers->list[first].keys))
		return 0; /* not for peers */
	remote->key = calloc((size_t)n * peer->ports, sizeof(*remote->key));
	if (!remote->key)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		if (!read_keys(peer, buffers->list[first + (unsigned int)i].keys, devices,
			       remote->key + (size_t)i * peer->ports)) {
			free(remote->key);
			remote->key = NULL;
			return -EBADMSG;
		}
	remote->state = MCI_RDMA_KEYS_THERE;
	remote->error = 0;
	return 0;
}

/* Equal where both name a NIC: numbers are only ever added. */
static bool same_keys(const struct mci_rdma_remote *a, const struct mci_rdma_remote *b)
{
	uint16_t n = a->devices < b->devices ? a->devices : b->devices, c;

	if (a->iova != b->iova || a->chunk != b->chunk || a->chunks != b->chunks || !a->key != !b->key)
		return false;
	for (c = 0; a->key && c < a->chunks; c++)
		if (memcmp(a->key + c * a->devices, b->key + c * b->devices, n * sizeof(*a->key)))
			return false;
	return true;
}

/* NICs of the peer that are near a region, by the matrix it publishes. */
static uint32_t prefer(const struct mci_rdma_peer *peer, const json_t *descriptor, const char *location)
{
	const json_t *matrix = json_object_get(descriptor, "priority_matrix");
	const json_t *list = json_array_get(json_object_get(matrix, location), 0), *name;
	uint32_t mask = 0;
	uint8_t p;
	size_t i;

	json_array_foreach(list, i, name)
	{
		for (p = 0; p < peer->ports && json_is_string(name); p++)
			if (!strcmp(json_string_value(name), peer->port_name[p]))
				mask |= 1u << p;
	}
	return mask ? mask : UINT32_MAX;
}

static void keep(struct mci_rdma_remote *old, const struct mci_rdma_remote *now)
{
	uint8_t faults = old->faults;

	free(old->key);
	*old = *now;
	old->faults = faults;
}

/* First (@first: no region was known), or again. Returns how many regions are there. */
static unsigned int match(struct mci_rdma_handle *handle, const struct mci_peer_info *info,
			  const struct mci_rdma_buffers *buffers, bool first)
{
	/* A process of ours that lives on under another uuid: the engine found the same content there. */
	bool reborn = !mci_uuid_is_zero(&info->uuid) && !mci_uuid_equal(&info->uuid, &handle->uuid);
	unsigned int i, matched = 0;

	for (i = 0; i < handle->count; i++) {
		struct mci_remote_region *region = &handle->regions[i];
		struct mci_rdma_remote *old = &handle->remote[i], now;
		int ret = read_remote(handle->peer, info, buffers, region, &now);

		if (first && ret) {
			old->state = MCI_RDMA_KEYS_REFUSED;
			old->error = ret;
			continue;
		}
		if (ret || !(first || reborn || same_keys(old, &now))) {
			free(now.key);
			if (old->state != MCI_RDMA_KEYS_REFUSED) {
				atomic_store(&region->stale, true);
				old->state = MCI_RDMA_KEYS_REFUSED;
				old->error = -ESTALE;
			}
			continue;
		}
		now.prefer = prefer(handle->peer, info->descriptor, region->location);
		keep(old, &now);
		matched++;
	}
	handle->uuid = info->uuid;
	return matched;
}

int mci_rdma_classic_take_keys(struct mci_rdma_handle *handle, const struct mci_peer_info *info)
{
	struct mci_rdma_buffers buffers;
	int ret = mci_rdma_buffers_load(info->descriptor, &buffers);

	if (ret)
		return ret;
	match(handle, info, &buffers, true);
	mci_rdma_buffers_free(&buffers);
	return 0;
}

/* host->refresh() has read the descriptor of @arg's handle. */
static int use(void *arg, const struct mci_peer_info *info)
{
	struct mci_rdma_handle *handle = arg;
	struct mci_rdma_peer *peer = handle->peer;
	const char *server = mci_rdma_classic_server(info->descriptor);
	struct mci_rdma_buffers buffers;
	unsigned int matched = 0;
	int ret;

	if (!mci_rdma_classic_speaks(info) || !server || strcmp(server, peer->classic->server))
		return mci_fail(-ESTALE, "classic segment '%s' was restarted; open it anew", peer->name);
	ret = mci_rdma_peer_set_info(peer, info);
	if (!ret)
		ret = mci_rdma_buffers_load(info->descriptor, &buffers);
	if (ret)
		return ret;
	pthread_mutex_lock(&peer->lock);
	ret = mci_rdma_classic_take_devices(peer, info);
	if (!ret)
		matched = match(handle, info, &buffers, false);
	pthread_mutex_unlock(&peer->lock);
	mci_rdma_buffers_free(&buffers);
	if (ret || matched || !handle->count)
		return ret;
	return mci_fail(-ESTALE, "classic segment '%s' was restarted, or has registered its memory anew; open it anew",
			peer->name);
}

/* Keys that were in doubt and could not be read again are tried again. */
static void settle_doubts(struct mci_rdma_handle *handle)
{
	unsigned int i;

	for (i = 0; i < handle->count; i++)
		if (handle->remote[i].state == MCI_RDMA_KEYS_NONE)
			handle->remote[i].state = MCI_RDMA_KEYS_THERE;
}

/* Read the descriptor of every handle again. 0, -ESTALE: nothing of it is there, or -errno. */
int mci_rdma_classic_refresh(struct mci_rdma_peer *peer, uint64_t deadline_ns)
{
	struct mci_transport_host *host = peer->rdma->host;
	struct mci_rdma_handle *handle;
	int ret = 0, one;
	bool fresh = false;

	/* Handles come at the front of the list, and one that is being read stays in it. */
	pthread_mutex_lock(&peer->lock);
	handle = peer->classic->handles;
	while (handle && !peer->closing) {
		handle->reading++;
		pthread_mutex_unlock(&peer->lock);
		one = host->refresh(host->engine, handle->cookie, deadline_ns, use, handle);
		pthread_mutex_lock(&peer->lock);
		settle_doubts(handle);
		handle->reading--;
		pthread_cond_broadcast(&peer->changed);
		fresh |= !one;
		if (one)
			ret = one;
		handle = handle->next;
	}
	pthread_mutex_unlock(&peer->lock);
	/* Who is stale has ended; the others go on if one of them was found alive. */
	return fresh && ret == -ESTALE ? 0 : ret;
}
