// SPDX-License-Identifier: MIT
/*
 * Zero-copy views: read-only addresses inside a mapping of the owner's memory. A view is a reference in
 * the use page: the owner's unregister waits for it, or finds it ended with this process.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/errors.h"
#include "transport/shm/shm.h"

#define MAP_MS 3000u

struct view {
	struct mci_peer *peer;
	struct mci_shm_link *link;
	struct mci_shm_map *map;
	uint32_t slot;
};

/* Ask for a region that is not mapped yet, and wait; peer->lock held. */
static int wait_for(struct mci_peer *peer, struct mci_shm_link *link, unsigned int index,
		    uint64_t deadline_ns)
{
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / MCI_NS_PER_S),
				 .tv_nsec = (long)(deadline_ns % MCI_NS_PER_S)};
	struct mci_shm_map *map = &link->maps[index];
	uint32_t answers = map->answers;
	int ret = 0;

	if (map->state != MCI_SHM_MAP_ASKED)
		mci_shm_link_ask(link, index);
	link->refs++;
	while (map->answers == answers && !ret)
		ret = -pthread_cond_timedwait(&peer->changed, &peer->lock, &until);
	if (map->answers != answers)
		ret = map->error;
	mci_shm_link_put(link);
	return ret;
}

static int explain(int err, const struct mci_remote_region *region)
{
	switch (err) {
	case -ESTALE:
		return mci_fail(err, "region %u was unregistered by its owner; open the segment anew",
				region->id);
	case -ECONNRESET:
		return mci_fail(err, "the connection to the owner of region %u on this host is lost",
				region->id);
	case -ETIMEDOUT:
		return mci_fail(err, "the owner of region %u on this host does not answer", region->id);
	default:
		return mci_fail(err, "region %u cannot be mapped: %s", region->id, strerror(-err));
	}
}

int mci_shm_view_map(struct mci_peer *peer, struct mci_remote_region *region, uint64_t offset,
		     uint64_t length, const void **addr, void **out)
{
	uint64_t deadline = mci_now_ns() + MAP_MS * MCI_NS_PER_MS;
	unsigned int index = (unsigned int)(region - peer->regions);
	struct view *view = malloc(sizeof(*view));
	struct mci_shm_link *link;
	struct mci_shm_map *map;
	int ret;

	if (!view)
		return mci_fail(-ENOMEM, "no memory for a view");
	if (!length || offset > region->length || length > region->length - offset) {
		free(view);
		return mci_fail(-EFAULT, "the view is not inside region %u", region->id);
	}
	pthread_mutex_lock(&peer->lock);
	for (;;) {
		link = peer->link;
		ret = link ? 0 : peer->lost;
		if (ret)
			break;
		map = &link->maps[index];
		if (peer->views >= MCI_SHM_VIEWS)
			ret = -ENOSPC;
		else if (map->mode == MCI_SHM_VM || map->state == MCI_SHM_MAP_UNUSABLE)
			ret = -EOPNOTSUPP;
		else if (map->state == MCI_SHM_MAP_READY && map->guarded)
			ret = -EPERM;
		else if (map->state == MCI_SHM_MAP_READY && !(map->rights & MC_REMOTE_READ))
			ret = -EACCES;
		else if (map->state == MCI_SHM_MAP_READY &&
			 mci_shm_view_enter(&link->use->slot[map->slot], &link->table->word[map->slot],
					    map->stamp))
			break;
		else if (map->state == MCI_SHM_MAP_READY)
			map->state = MCI_SHM_MAP_IDLE;
		if (!ret)
			ret = wait_for(peer, link, index, deadline);
		if (ret)
			break;
	}
	if (!ret) {
		*view = (struct view){peer, link, map, map->slot};
		*addr = map->view + offset;
		map->users++;
		link->refs++;
		peer->views++;
	}
	pthread_mutex_unlock(&peer->lock);
	if (!ret && !mci_shm_link_lives(link)) {
		mci_shm_view_unmap(view);
		return explain(-ECONNRESET, region);
	}
	if (ret)
		goto err_free;
	*out = view;
	return 0;

err_free:
	free(view);
	if (ret == -EOPNOTSUPP)
		return mci_fail(ret,
				"region %u is not memory of mc_memory_alloc(), so it cannot be mapped; read "
				"it instead",
				region->id);
	if (ret == -EPERM)
		return mci_fail(-EOPNOTSUPP,
				"region %u belongs to another user, who could revoke it under a view (SIGBUS); read it "
				"instead",
				region->id);
	if (ret == -EACCES)
		return mci_fail(ret, "region %u may not be read", region->id);
	if (ret == -ENOSPC)
		return mci_fail(ret, "%u views of this segment are open already; close some", MCI_SHM_VIEWS);
	return explain(ret, region);
}

void mci_shm_view_unmap(void *arg)
{
	struct view *view = arg;
	struct mci_peer *peer = view->peer;

	pthread_mutex_lock(&peer->lock);
	mci_shm_view_leave(&view->link->use->slot[view->slot]);
	peer->views--;
	if (!--view->map->users && view->map->state != MCI_SHM_MAP_READY)
		mci_shm_map_drop(view->map);
	mci_shm_link_put(view->link);
	pthread_mutex_unlock(&peer->lock);
	free(view);
}
