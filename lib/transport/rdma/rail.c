// SPDX-License-Identifier: MIT
/*
 * Which pair of NICs the next slice takes. Near ones first: near our memory and near the peer's. Among those
 * that are up the least loaded wins; a pair that failed rests, longer each time, and is tried again. Each NIC
 * of ours has one pair of first choice (and each of the peer's), so that n NICs need n endpoints and not n
 * times n.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "topology/topology.h"
#include "transport/rdma/initiator.h"

static bool first_choice(const struct mci_rdma_peer *peer, uint8_t from, uint8_t to)
{
	return from % peer->ports == to || to % peer->rdma->device_count == from;
}

struct pick {
	struct mci_rdma_peer *peer;
	struct mci_rdma_endpoint *best;
	struct mci_rdma_queue *queue;
	bool usable;
};

static struct mci_rdma_queue *queue_with_room(struct mci_rdma_endpoint *e)
{
	struct mci_rdma_queue *best = e->queue[0];
	unsigned int i;

	for (i = 1; i < e->count; i++)
		if (mci_rdma_room(e->queue[i]) > mci_rdma_room(best))
			best = e->queue[i];
	return mci_rdma_room(best) ? best : NULL;
}

static void consider(struct pick *pick, struct mci_nic *device, uint8_t to)
{
	struct mci_rdma_rail *rail = mci_rdma_rail_of(pick->peer, device, to);
	struct mci_rdma_endpoint *e = rail->endpoint;
	struct mci_rdma_queue *q;

	if (rail->excluded)
		return;
	if (!e) {
		if (rail->rest_until && rail->rest_until > mci_now_ns())
			return;
		/* It counts as usable while it is being opened. */
		if (!mci_rdma_endpoint_open(pick->peer, device, to))
			pick->usable = true;
		return;
	}
	if (mci_rdma_endpoint_opens(e)) {
		pick->usable = true;
		return;
	}
	if (e->state != MCI_RDMA_UP || atomic_load_explicit(&e->evict, memory_order_relaxed))
		return;
	pick->usable = true;
	q = queue_with_room(e);
	if (q && (!pick->best || e->bytes < pick->best->bytes)) {
		pick->best = e;
		pick->queue = q;
	}
}

/* @all: pairs of second choice too. */
static void consider_all(struct pick *pick, uint32_t near, uint32_t far, bool all)
{
	struct mci_rdma *rdma = pick->peer->rdma;
	uint8_t i, j, link;

	for (i = 0; i < rdma->device_count; i++) {
		struct mci_nic *device = rdma->device[i];

		if (!(near & 1u << i) || !atomic_load_explicit(&device->up, memory_order_relaxed))
			continue;
		link = atomic_load_explicit(&device->link_layer, memory_order_relaxed);
		for (j = 0; j < pick->peer->ports; j++) {
			const struct mci_rdma_port *port = &pick->peer->port[j];

			if (far & 1u << j && port->up && port->link == link &&
			    (all || first_choice(pick->peer, i, j)))
				consider(pick, device, j);
		}
	}
}

struct mci_rdma_endpoint *mci_rdma_rail_pick(struct mci_rdma_peer *peer, uint32_t near, uint32_t far, uint32_t reach,
					     struct mci_rdma_queue **queue)
{
	struct pick pick = {.peer = peer};

	consider_all(&pick, near, far & reach, false);
	if (!pick.usable)
		consider_all(&pick, near, far & reach, true);
	if (!pick.usable)
		consider_all(&pick, UINT32_MAX, reach, true);
	*queue = pick.queue;
	return pick.best;
}

unsigned int mci_rdma_rails(const struct mci_rdma_peer *peer)
{
	unsigned int own = peer->rdma->device_count;

	return own > peer->ports ? own : peer->ports;
}

uint64_t mci_rdma_rail_wake(const struct mci_rdma_peer *peer, uint64_t now)
{
	uint64_t at = 0;
	unsigned int i;

	for (i = 0; i < peer->rdma->device_count * MCI_RDMA_DEVICES_MAX; i++) {
		uint64_t rest = peer->rail[i].rest_until;

		if (rest > now && (!at || rest < at))
			at = rest;
	}
	return at;
}

/* Bits of the NICs that @list of the matrix names. */
static uint32_t bits(const struct mci_rdma *rdma, const json_t *list)
{
	uint32_t mask = 0;
	const json_t *name;
	uint8_t d;
	size_t i;

	json_array_foreach(list, i, name) for (d = 0; d < rdma->device_count;
					       d++) if (json_is_string(name) &&
							!strcmp(json_string_value(name),
								rdma->device[d]->name)) mask |= 1u << d;
	return mask;
}

json_t *mci_rdma_matrix(const struct mci_rdma *rdma)
{
	const char *text = rdma->host->options.rdma.matrix;
	struct mci_topology *topology;
	json_t *json;

	if (text)
		return json_loads(text, 0, NULL);
	if (mci_topology_now(&topology))
		return NULL;
	json = mci_topology_matrix(topology);
	mci_topology_free(topology);
	return json;
}

/* NICs near @location, by the matrix; all, if it says nothing of any that we use. */
uint32_t mci_rdma_prefer(const struct mci_rdma *rdma, const char *location)
{
	const json_t *entry = json_object_get(rdma->matrix, location);
	uint32_t mask;

	mask = bits(rdma, entry ? json_array_get(entry, 0) : NULL);
	if (!mask)
		mask = bits(rdma, entry ? json_array_get(entry, 1) : NULL);
	return mask ? mask : UINT32_MAX;
}

static int take_names(struct mci_rdma_peer *peer, const struct mci_peer_info *info)
{
	const json_t *list = info->transport ? json_object_get(info->transport, "devices") : NULL, *device;
	size_t i;

	if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > MCI_RDMA_DEVICES_MAX)
		return mci_fail(-EOPNOTSUPP, "segment '%s' does not offer RDMA", info->name);
	json_array_foreach(list, i, device)
	{
		const char *name = json_string_value(json_object_get(device, "name"));

		snprintf(peer->port_name[i], sizeof(peer->port_name[i]), "%s", name ? name : "?");
	}
	peer->ports = (uint8_t)json_array_size(list);
	return 0;
}

/* NICs of the peer that are near a region, by the matrix it publishes. */
static uint32_t prefer_far(const struct mci_rdma_peer *peer, const json_t *matrix, const char *location)
{
	const json_t *list = json_array_get(json_object_get(matrix, location), 0), *name;
	uint32_t mask = 0;
	uint8_t p;
	size_t i;

	json_array_foreach(list, i, name) for (p = 0; p < peer->ports;
					       p++) if (json_is_string(name) &&
							!strcmp(json_string_value(name), peer->port_name[p]))
		mask |= 1u << p;
	return mask ? mask : UINT32_MAX;
}

/* The NICs of the peer, as its descriptor has them: they may be others after a restart. peer->lock held. */
int mci_rdma_rails_learn(struct mci_rdma_peer *peer, const struct mci_peer_info *info)
{
	const json_t *matrix = info->transport ? json_object_get(info->transport, "matrix") : NULL;
	unsigned int i;
	int ret;

	ret = take_names(peer, info);
	for (i = 0; i < peer->count && !ret; i++)
		peer->remote[i].prefer = prefer_far(peer, matrix, peer->regions[i].location);
	return ret;
}
