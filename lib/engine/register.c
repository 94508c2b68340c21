// SPDX-License-Identifier: MIT
/* Registration: memory of this process becomes a region that requests may use and peers may reach. */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/uuid.h"
#include "memory/memory.h"

/* How long a waiting unregister waits before it reports -EBUSY. */
#define UNREGISTER_MS 30000
/* Past that, transports have cut whoever still held the region: their threads let go within this. */
#define UNREGISTER_GRACE_MS 1000

static int check(mc_engine *engine, const void *addr, uint64_t length, const struct mc_region_attr *attr)
{
	if (attr->size != sizeof(*attr) || (attr->rights & ~(MC_REMOTE_READ | MC_REMOTE_WRITE)) ||
	    attr->reserved0)
		return mci_fail(
			-EINVAL,
			"struct mc_region_attr has a size, a right or a reserved member that this library "
			"does not know");
	if (attr->location && strlen(attr->location) >= MCI_LOCATION_MAX)
		return mci_fail(-EINVAL, "location '%s' is longer than %d bytes", attr->location,
				MCI_LOCATION_MAX - 1);
	if (!addr || !length)
		return mci_fail(-EINVAL, "cannot register %llu bytes at %p: give a range that is not empty",
				(unsigned long long)length, addr);
	if (atomic_load(&engine->lost))
		return mci_fail(-EOWNERDEAD, "the name '%s' was taken over by another process",
				engine->self.name);
	return 0;
}

/* Every page must be mapped now, else the first transfer would find the hole. mincore() tells without
 * touching. */
static int check_mapped(const void *addr, uint64_t length)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = (uintptr_t)addr & ~(page - 1);
	uintptr_t end = (uintptr_t)addr + length;

	/* An empty advice walks the range and fails with ENOMEM where nothing is mapped. */
	if (end < start || madvise((void *)start, end - start, MADV_NORMAL))
		return mci_fail(-EFAULT, "cannot register %llu bytes at %p: not all of it is mapped memory",
				(unsigned long long)length, addr);
	return 0;
}

static void remember_memory(struct mc_region *region)
{
	struct mci_region *base = &region->base;

	base->memfd = -1;
	mci_uuid_new(&base->content_id);
	if (mci_memory_hold(base->addr, base->length, &region->memory))
		return;
	if (mci_memory_find(base->addr, base->length, &base->memfd, &base->memfd_offset, &base->content_id))
		return;
	mci_memory_object(region->memory, &base->kdev, &base->object, &base->object_length);
	base->object_offset = base->memfd_offset;
	/* The id is the memory's; several ranges of it are several contents. */
	mci_put64(base->content_id.b, mci_get64(base->content_id.b) ^ base->memfd_offset);
	mci_put64(base->content_id.b + 8, mci_get64(base->content_id.b + 8) ^ base->length);
}

/* Whole pages only: on those at the ends live others' data (heap, stack) that a child needs to get to exec.
 */
static void inherit(const struct mc_region *region, int advice)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), addr = (uintptr_t)region->base.addr;
	uintptr_t start = (addr + page - 1) & ~(page - 1), end = (addr + region->base.length) & ~(page - 1);

	/* Memory of mc_memory_alloc() is marked for all its life. */
	if (!region->memory && start < end)
		madvise((void *)start, end - start, advice);
}

static void release(struct mc_region *region)
{
	if (region->memory)
		mci_memory_put(region->memory);
	json_decref(region->json);
	free(region);
}

/**
 * mc_engine_register() - make memory usable in requests, and reachable by peers as far as @attr says
 * @engine: engine
 * @addr, @length: mapped memory; any alignment
 * @attr: NULL for the defaults (readable and writable by peers)
 * @out: the region; mc_engine_unregister() it before the memory goes
 *
 * Memory from mc_memory_alloc() is mapped by peers on this host, by a key of the kernel module or a descriptor;
 * other memory is reached there through the kernel, or by TCP. Its whole pages are marked MADV_DONTFORK. The
 * descriptor is published anew before this returns. Thread-safe; blocks for the metadata service.
 *
 * Return: 0; -EINVAL; -EEXIST: overlaps another region; -EFAULT: not mapped; -EOWNERDEAD: our name was taken
 * over; -EADDRINUSE: it was taken before we published later; -ENOSPC: 65,536 regions; -ENOMEM; errors of the
 * metadata service; -ECHILD.
 */
int mc_engine_register(mc_engine *engine, void *addr, uint64_t length, const struct mc_region_attr *attr,
		       mc_region **out)
{
	struct mc_region_attr defaults = MC_REGION_ATTR_INIT;
	struct mc_region *region, **link;
	unsigned int added = 0;
	int ret;

	if (mci_forked(engine))
		return mci_fork_fail();
	if (!attr)
		attr = &defaults;
	ret = check(engine, addr, length, attr);
	if (!ret)
		ret = check_mapped(addr, length);
	if (ret)
		return ret;
	region = calloc(1, sizeof(*region));
	if (!region)
		return mci_fail(-ENOMEM, "no memory for one more region");
	region->engine = engine;
	region->json = json_object();
	region->base.addr = addr;
	region->base.length = length;
	region->base.rights = attr->rights;
	region->base.classic = attr->rights && engine->flags & MC_ENGINE_CLASSIC;
	snprintf(region->base.location, sizeof(region->base.location), "%s",
		 attr->location ? attr->location : "cpu:0");
	remember_memory(region);

	pthread_mutex_lock(&engine->publish_lock);
	ret = mci_regions_add(engine->host.regions, &region->base);
	if (ret)
		goto err_free;
	for (; added < MCI_TRANSPORT_COUNT; added++) {
		if (!engine->transport[added] || !mci_transports[added]->region_add)
			continue;
		ret = mci_transports[added]->region_add(engine->transport[added], &region->base, region->json);
		if (ret)
			goto err_remove;
	}
	/* Regions stay in the order of registration: readers match buffers by index. */
	for (link = &engine->regions; *link; link = &(*link)->next)
		;
	*link = region;
	ret = region->base.rights ? mci_publish_update(engine) : 0;
	if (ret) {
		*link = NULL;
		goto err_remove;
	}
	engine->open_regions++;
	pthread_mutex_unlock(&engine->publish_lock);
	inherit(region, MADV_DONTFORK);
	*out = region;
	return 0;

err_remove:
	mci_regions_retire(engine->host.regions, &region->base, true);
	while (added--)
		if (engine->transport[added] && mci_transports[added]->region_remove)
			mci_transports[added]->region_remove(engine->transport[added], &region->base,
							 mci_now_ns() + UNREGISTER_GRACE_MS * MCI_NS_PER_MS);
	if (mci_regions_remove(engine->host.regions, &region->base,
			       mci_now_ns() + UNREGISTER_GRACE_MS * MCI_NS_PER_MS)) {
		pthread_mutex_unlock(&engine->publish_lock);
		return ret; /* somebody is inside already: the region, which is retired, must stay */
	}
err_free:
	pthread_mutex_unlock(&engine->publish_lock);
	release(region);
	return ret;
}

static int leave_transports(struct mc_region *region, uint64_t deadline)
{
	struct mc_engine *engine = region->engine;
	unsigned int i;
	int ret;

	for (i = 0; i < MCI_TRANSPORT_COUNT; i++) {
		if (!engine->transport[i] || !mci_transports[i]->region_remove)
			continue;
		ret = mci_transports[i]->region_remove(engine->transport[i], &region->base, deadline);
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * mc_engine_unregister() - end a region
 * @region: region
 * @flags: MC_UNREGISTER_WAIT: wait up to 30 s for transfers in flight; peers that still hold on then are cut
 * off
 *
 * When it returned 0 no transfer of ours or of a peer touches the memory any more. Thread-safe.
 *
 * Return: 0; -EBUSY: in use, nothing changed (with MC_UNREGISTER_WAIT: a peer on this host is stopped inside
 * a copy; the region takes no new transfers, call again); -EIO: a NIC does not let go of the memory, which must stay
 * mapped; the region takes no new transfers, call again; -EINVAL; -ECHILD.
 */
int mc_engine_unregister(mc_region *region, uint32_t flags)
{
	struct mc_engine *engine;
	struct mci_region_table *table;
	struct mc_region **link;
	bool wait = flags & MC_UNREGISTER_WAIT;
	uint64_t deadline = wait ? mci_now_ns() + UNREGISTER_MS * MCI_NS_PER_MS : 0;
	int ret;

	if (!region)
		return 0;
	engine = region->engine;
	table = engine->host.regions;
	if (mci_forked(engine))
		return mci_fork_fail();
	if (flags & ~MC_UNREGISTER_WAIT)
		return mci_fail(-EINVAL, "mc_engine_unregister() knows no flag %#x",
				flags & ~MC_UNREGISTER_WAIT);
	ret = mci_regions_retire(table, &region->base, wait || region->retired);
	if (ret)
		return ret;
	ret = leave_transports(region, deadline);
	/* What a NIC has let go of in part is of no use any more. */
	if (ret == -EBUSY && !wait && !region->retired) {
		mci_regions_revive(table, &region->base);
		return ret;
	}
	if (!ret)
		ret = mci_regions_remove(table, &region->base,
					 (wait ? deadline : mci_now_ns()) +
						 UNREGISTER_GRACE_MS * MCI_NS_PER_MS);
	if (ret) {
		region->retired = true;
		return ret;
	}
	pthread_mutex_lock(&engine->publish_lock);
	for (link = &engine->regions; *link != region; link = &(*link)->next)
		;
	*link = region->next;
	engine->open_regions--;
	/* The memory is fenced whatever the metadata service says; the record follows at the next change. */
	if (region->base.rights && mci_publish_update(engine))
		mci_warn("region %u is gone, but the descriptor could not be updated: %s", region->base.id,
			 mc_errmsg());
	pthread_mutex_unlock(&engine->publish_lock);
	inherit(region, MADV_DOFORK);
	release(region);
	return 0;
}

/** mc_region_id() - id of a region, for peers that are told of it by other means than the descriptor. */
uint32_t mc_region_id(const mc_region *region) { return region->base.id; }
