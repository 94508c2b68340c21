// SPDX-License-Identifier: MIT
/*
 * A way is only offered if something gets through: GIDs, MTUs, firewalls and cables are wrong more often than
 * not at first. One rail is opened and a few bytes are read through it; else the engine takes another
 * transport.
 */
#include <errno.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/rdma/initiator.h"

#define PROBE_NS (3 * MCI_NS_PER_S)

struct probe {
	struct mci_request request; /* first */
	struct mci_rdma_peer *peer;
	bool done;
	int error;
};

static char mark; /* its address says whose request it is */

bool mci_rdma_probe_told(struct mci_request *r, enum mc_state state, int error)
{
	struct probe *probe = (struct probe *)r;

	if (r->owner != &mark)
		return false;
	pthread_mutex_lock(&probe->peer->lock);
	probe->error = state == MC_DONE ? 0 : error ? error : -EIO;
	probe->done = true;
	pthread_cond_broadcast(&probe->peer->changed);
	pthread_mutex_unlock(&probe->peer->lock);
	return true;
}

static void wait_changed(struct mci_rdma_peer *peer, uint64_t until)
{
	struct timespec at = {.tv_sec = (time_t)(until / MCI_NS_PER_S),
			      .tv_nsec = (long)(until % MCI_NS_PER_S)};

	pthread_cond_timedwait(&peer->changed, &peer->lock, &at);
}

/* Locked. An endpoint that is up, opened if need be; NULL: none came up in time. */
static struct mci_rdma_endpoint *any_up(struct mci_rdma_peer *peer, uint64_t deadline)
{
	struct mci_rdma_endpoint *e;
	struct mci_rdma_queue *queue;
	uint64_t now;

	while ((now = mci_now_ns()) < deadline && !peer->closing) {
		e = mci_rdma_rail_pick(peer, UINT32_MAX, UINT32_MAX, &queue);
		if (e)
			return e;
		wait_changed(peer, now + 20 * MCI_NS_PER_MS);
	}
	return NULL;
}

int mci_rdma_peer_probe(struct mci_rdma_peer *peer, uint64_t deadline_ns)
{
	uint64_t now = mci_now_ns(), until = now + PROBE_NS < deadline_ns ? now + PROBE_NS : deadline_ns;
	struct probe probe = {
		.request = {.op = MCI_OP_FLUSH, .owner = &mark, .deadline_ns = until},
		.peer = peer,
		.error = -ETIMEDOUT,
	};
	struct mci_rdma_endpoint *e;

	pthread_mutex_lock(&peer->lock);
	e = any_up(peer, until);
	if (e)
		e->queue[0]->dirty = true;
	pthread_mutex_unlock(&peer->lock);
	if (e)
		mci_rdma_peer_submit((struct mci_peer *)peer, &probe.request);
	pthread_mutex_lock(&peer->lock);
	/* Final at the latest a second past its deadline, as every request. */
	while (e && !probe.done)
		wait_changed(peer, mci_now_ns() + 100 * MCI_NS_PER_MS);
	/* What was flushed by the end of its endpoint got nowhere. */
	if (!probe.error && !peer->proven)
		probe.error = -EHOSTUNREACH;
	pthread_mutex_unlock(&peer->lock);
	if (!probe.error)
		return 0;
	return mci_fail(-EOPNOTSUPP,
			"RDMA to segment '%s' does not get through (%s); `mooncake doctor` tells which pair "
			"of NICs and "
			"why (own GID: %s)",
			peer->name, strerror(-probe.error), peer->rdma->device[0]->gid_why);
}
