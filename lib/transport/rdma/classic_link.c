// SPDX-License-Identifier: MIT
/*
 * Links: the queue pairs between one NIC of ours and one NIC path of a peer, at most one set per pair, as classic
 * peers have it. Whoever asked first made it; both sides may send over it.
 */
#include "transport/rdma/classic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"

#define LINKS_MAX 4096u /* with queue pairs */

int mci_rdma_links_open(struct mci_rdma *rdma)
{
	rdma->links = calloc(1, sizeof(*rdma->links));
	if (!rdma->links)
		return mci_fail(-ENOMEM, "no memory for the rdma-classic transport");
	pthread_mutex_init(&rdma->links->lock, NULL);
	pthread_cond_init(&rdma->links->joined, NULL);
	return 0;
}

static void destroy_queues(struct mci_rdma *rdma, struct mci_rdma_link *link)
{
	unsigned int i;

	for (i = 0; i < link->count; i++)
		rdma->verbs->ibv_destroy_qp(link->qp[i]);
	if (link->state != MCI_RDMA_LINK_BARE)
		rdma->links->count--;
	link->count = 0;
	link->state = MCI_RDMA_LINK_BARE;
	link->fresh_until = 0;
}

void mci_rdma_links_close(struct mci_rdma *rdma)
{
	struct mci_rdma_link *link;

	while ((link = rdma->links->first)) {
		rdma->links->first = link->next;
		destroy_queues(rdma, link);
		free(link);
	}
	pthread_cond_destroy(&rdma->links->joined);
	pthread_mutex_destroy(&rdma->links->lock);
	free(rdma->links);
	rdma->links = NULL;
}

void mci_rdma_own_path(const struct mci_nic *device, char path[MCI_RDMA_PATH_MAX])
{
	snprintf(path, MCI_RDMA_PATH_MAX, "%s@%s", device->rdma->host->self->name, device->name);
}

struct mci_rdma_link *mci_rdma_link_find(struct mci_rdma *rdma, const struct mci_nic *device, const char *path)
{
	struct mci_rdma_link *link;

	for (link = rdma->links->first; link; link = link->next)
		if (link->device == device && !link->retired && !strcmp(link->path, path))
			return link;
	return NULL;
}

struct mci_rdma_link *mci_rdma_link_await(struct mci_rdma *rdma, const struct mci_nic *device, const char *path)
{
	struct mci_rdma_link *link;

	while ((link = mci_rdma_link_find(rdma, device, path)) && link->state == MCI_RDMA_LINK_JOINING)
		pthread_cond_wait(&rdma->links->joined, &rdma->links->lock);
	return link;
}

static void forget(struct mci_rdma *rdma, struct mci_rdma_link *link)
{
	struct mci_rdma_link **at;

	for (at = &rdma->links->first; *at != link; at = &(*at)->next)
		;
	*at = link->next;
	free(link);
}

void mci_rdma_link_end(struct mci_rdma *rdma, struct mci_rdma_link *link, bool owed)
{
	destroy_queues(rdma, link);
	link->owed = owed;
	if (!owed || link->retired)
		forget(rdma, link);
}

/* Peers that went leave queue pairs behind: the oldest that nobody of ours sends over makes room. */
static int make_room(struct mci_rdma *rdma)
{
	struct mci_rdma_link *link, *oldest = NULL;

	if (rdma->links->count < LINKS_MAX)
		return 0;
	for (link = rdma->links->first; link; link = link->next)
		if (link->state == MCI_RDMA_LINK_CONNECTED && !link->user && !link->fresh_until)
			oldest = link;
	if (!oldest)
		return mci_fail(-EBUSY, "segment '%s' holds as many classic connections as it can (%u)",
				rdma->host->self->name, LINKS_MAX);
	mci_rdma_link_end(rdma, oldest, oldest->owed);
	return 0;
}

static int create_queues(struct mci_rdma *rdma, struct mci_rdma_link *link)
{
	int ret = make_room(rdma);

	while (!ret && link->count < rdma->qps) {
		ret = mci_rdma_qp_create(link->device, MCI_RDMA_DEPTH, &link->qp[link->count]);
		link->count += !ret;
	}
	if (ret) {
		destroy_queues(rdma, link);
		return ret;
	}
	link->state = MCI_RDMA_LINK_ASKED;
	rdma->links->count++;
	return 0;
}

int mci_rdma_link_get(struct mci_rdma *rdma, struct mci_nic *device, const char *path, struct mci_rdma_link **out)
{
	struct mci_rdma_link *link = mci_rdma_link_find(rdma, device, path);
	int ret = 0;

	if (!link) {
		link = calloc(1, sizeof(*link));
		if (!link)
			return mci_fail(-ENOMEM, "no memory for a connection");
		link->device = device;
		snprintf(link->path, sizeof(link->path), "%s", path);
		link->next = rdma->links->first;
		rdma->links->first = link;
	}
	if (link->state == MCI_RDMA_LINK_BARE)
		ret = create_queues(rdma, link);
	if (ret) {
		mci_rdma_link_end(rdma, link, link->owed);
		return ret;
	}
	*out = link;
	return 0;
}

int mci_rdma_link_connect(struct mci_rdma_link *link, const struct mci_rdma_record *peer)
{
	/* Nobody negotiates an MTU here: each side takes its own. */
	struct mci_rdma_end end = {.count = (uint8_t)link->count, .mtu = IBV_MTU_4096, .lid = peer->lid};
	struct mci_rdma_links *links = link->device->rdma->links;
	unsigned int i;
	int ret = 0;

	memcpy(end.gid, peer->gid, sizeof(end.gid));
	memcpy(end.qpn, peer->qpn, sizeof(end.qpn));
	link->state = MCI_RDMA_LINK_JOINING;
	pthread_mutex_unlock(&links->lock);
	for (i = 0; i < link->count && !ret; i++)
		ret = mci_rdma_qp_ready(link->device, link->qp[i], &end, i, 0, true);
	pthread_mutex_lock(&links->lock);
	link->state = MCI_RDMA_LINK_ASKED;
	pthread_cond_broadcast(&links->joined);
	if (ret)
		return ret;
	memcpy(link->peer_qpn, peer->qpn, sizeof(link->peer_qpn));
	link->state = MCI_RDMA_LINK_CONNECTED;
	/* It has made new queue pairs for these, so the old ones are no more. */
	link->owed = false;
	return 0;
}

bool mci_rdma_link_same(const struct mci_rdma_link *link, const struct mci_rdma_record *peer)
{
	return link->state == MCI_RDMA_LINK_CONNECTED && peer->count == link->count &&
	       !memcmp(link->peer_qpn, peer->qpn, link->count * sizeof(link->peer_qpn[0]));
}

void mci_rdma_link_record(const struct mci_rdma_link *link, struct mci_rdma_record *own)
{
	struct mci_rdma_port port;
	unsigned int i;

	memset(own, 0, sizeof(*own));
	mci_rdma_device_port(link->device, &port);
	mci_rdma_own_path(link->device, own->local);
	snprintf(own->peer, sizeof(own->peer), "%s", link->path);
	own->has_gid = true;
	own->lid = port.lid;
	memcpy(own->gid, port.gid, sizeof(own->gid));
	own->count = link->count;
	for (i = 0; i < link->count; i++)
		own->qpn[i] = link->qp[i]->qp_num;
}
