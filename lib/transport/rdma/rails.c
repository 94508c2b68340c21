// SPDX-License-Identifier: MIT
/* All pairs of NICs to a peer: restricted to some, tried one and all, and shown. peer->lock guards the rails. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "topology/topology.h"
#include "transport/rdma/initiator.h"

/* What becomes of a pair within these three steps: it is asked for, joined, then a few bytes are read. */
#define TRY_NS (10 * MCI_NS_PER_S)

void mci_rdma_rail_why(struct mci_rdma_rail *rail, const char *before, const char *why)
{
	size_t n = why ? strlen(before) + strlen(why) + 1 : 0;

	free(rail->why);
	rail->why = why ? malloc(n) : NULL;
	if (rail->why)
		snprintf(rail->why, n, "%s%s", before, why);
}

static int allow(struct mci_rdma_peer *peer, const char *pair)
{
	const char *colon = strchr(pair, ':');
	uint8_t i, j;

	for (i = 0; colon && i < peer->rdma->device_count; i++) {
		const char *own = peer->rdma->device[i]->name;

		for (j = 0; j < peer->ports; j++) {
			if (strlen(own) == (size_t)(colon - pair) && !strncmp(pair, own, strlen(own)) &&
			    !strcmp(colon + 1, peer->port_name[j])) {
				mci_rdma_rail_of(peer, peer->rdma->device[i], j)->excluded = false;
				return 0;
			}
		}
	}
	return mci_fail(-EINVAL,
			"'%s' is no pair of RDMA devices to segment '%s': want OWN:PEER, both of them in use; "
			"`mooncake doctor` lists the pairs",
			pair, peer->name);
}

/* Before anybody else sees the peer. */
int mci_rdma_rails_restrict(struct mci_rdma_peer *peer, const char *list)
{
	char *copy = strdup(list), *save = NULL, *pair;
	unsigned int i;
	int ret = copy ? 0 : mci_fail(-ENOMEM, "no memory for the rails of segment '%s'", peer->name);

	for (i = 0; i < peer->rail_count; i++)
		peer->rail[i].excluded = true;
	for (pair = copy ? strtok_r(copy, ",", &save) : NULL; pair && !ret; pair = strtok_r(NULL, ",", &save))
		ret = allow(peer, pair);
	free(copy);
	return ret;
}

enum rail_state { UP, OPENING, FAILED, DOWN, EXCLUDED, IDLE };

/* peer->lock held */
static enum rail_state state_of(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to)
{
	const struct mci_rdma_rail *rail = mci_rdma_rail_of(peer, device, to);
	struct mci_rdma_port own;

	mci_rdma_device_port(device, &own);
	if (rail->excluded)
		return EXCLUDED;
	if (!own.up || !peer->port[to].up)
		return DOWN;
	if (rail->endpoint && rail->endpoint->state == MCI_RDMA_UP)
		return UP;
	if (rail->endpoint && mci_rdma_endpoint_opens(rail->endpoint))
		return OPENING;
	return rail->why ? FAILED : IDLE;
}

/* peer->lock held. True: not decided yet. */
static bool try(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to)
{
	struct mci_rdma_rail *rail = mci_rdma_rail_of(peer, device, to);
	enum rail_state state = state_of(peer, device, to);
	struct mci_rdma_port own;

	mci_rdma_device_port(device, &own);
	if (state == IDLE && own.link != peer->port[to].link)
		mci_rdma_rail_why(rail, "", "one end is InfiniBand, the other is Ethernet");
	else if (state == IDLE)
		mci_rdma_endpoint_open(peer, device, to); /* no room, no error: again in a moment */
	return state == IDLE || state == OPENING;
}

void mci_rdma_rails_try(struct mci_rdma_peer *peer, uint64_t deadline)
{
	uint64_t now = mci_now_ns(), soon;
	bool undecided = true;
	uint8_t i, j;

	if (now + TRY_NS < deadline)
		deadline = now + TRY_NS;
	pthread_mutex_lock(&peer->lock);
	for (; undecided && now < deadline; now = mci_now_ns()) {
		struct timespec at;

		undecided = false;
		for (i = 0; i < peer->rdma->device_count; i++)
			for (j = 0; j < peer->ports; j++)
				undecided |= try(peer, peer->rdma->device[i], j);
		soon = now + 20 * MCI_NS_PER_MS;
		at = (struct timespec){.tv_sec = (time_t)(soon / MCI_NS_PER_S), .tv_nsec = (long)(soon % MCI_NS_PER_S)};
		if (undecided)
			pthread_cond_timedwait(&peer->changed, &peer->lock, &at);
	}
	pthread_mutex_unlock(&peer->lock);
}

static int bytes(unsigned int mtu) { return mtu ? 128 << mtu : 0; } /* of enum ibv_mtu */

json_t *mci_rdma_nics_json(struct mci_transport *transport)
{
	struct mci_rdma *rdma = (struct mci_rdma *)transport;
	json_t *list = json_array(), *item;
	char gid[MCI_GID_TEXT];
	uint8_t i;

	for (i = 0; i < rdma->device_count; i++) {
		struct mci_nic *d = rdma->device[i];

		pthread_mutex_lock(&d->state_lock);
		mci_gid_address(d->gid.raw, gid);
		item = json_pack("{ss si sb si ss ss si si}", "name", d->name, "port", d->port, "up", d->up,
				 "gid_index", d->gid_index, "gid", gid, "gid_why", d->gid_why, "mtu",
				 bytes(d->attr.active_mtu), "numa_node", d->numa_node);
		pthread_mutex_unlock(&d->state_lock);
		json_array_append_new(list, item);
	}
	return list;
}

static json_t *rail_json(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to)
{
	static const char *const names[] = {
		[UP] = "up",	 [OPENING] = "opening",	  [FAILED] = "failed",
		[DOWN] = "down", [EXCLUDED] = "excluded", [IDLE] = "idle",
	};
	const struct mci_rdma_rail *rail = mci_rdma_rail_of(peer, device, to);
	const struct mci_rdma_port *there = &peer->port[to];
	char own_gid[MCI_GID_TEXT], peer_gid[MCI_GID_TEXT], why[sizeof(device->gid_why)];
	struct mci_rdma_port own;
	unsigned int mtu;

	mci_rdma_device_port(device, &own);
	pthread_mutex_lock(&device->state_lock);
	memcpy(why, device->gid_why, sizeof(why));
	pthread_mutex_unlock(&device->state_lock);
	mtu = own.mtu < there->mtu ? own.mtu : there->mtu;
	return json_pack("{ss ss ss ss? si sb sb si si ss ss ss sb}", "own", device->name, "peer", peer->port_name[to],
			 "state", names[state_of(peer, device, to)], "error", rail->why, "mtu", bytes(mtu),
			 "own_up", own.up, "peer_up", there->up, "own_mtu", bytes(own.mtu), "peer_mtu",
			 bytes(there->mtu), "own_gid", mci_gid_address(own.gid, own_gid), "peer_gid",
			 mci_gid_address(there->gid, peer_gid), "own_gid_why", why, "same_link_layer",
			 own.link == there->link);
}

json_t *mci_rdma_rails_json(struct mci_peer *opaque)
{
	struct mci_rdma_peer *peer = (struct mci_rdma_peer *)opaque;
	json_t *list = json_array();
	uint8_t i, j;

	pthread_mutex_lock(&peer->lock);
	for (i = 0; i < peer->rdma->device_count; i++)
		for (j = 0; j < peer->ports; j++)
			json_array_append_new(list, rail_json(peer, peer->rdma->device[i], j));
	pthread_mutex_unlock(&peer->lock);
	return list;
}
