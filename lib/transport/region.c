// SPDX-License-Identifier: MIT
/*
 * Table of registered regions: by id for our dialect, by address for local buffers and classic peers.
 * The table's mutex is a leaf; users are counted in one atomic per region so that put() is cheap.
 */
#include "transport/region.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/uuid.h"

#define DYING (1ull << 63)
#define MAX_REGIONS 65536u

struct slot {
	struct mci_region *region; /* NULL = free */
	uint32_t generation;	   /* of the last tenant */
};

struct mci_region_table {
	pthread_mutex_t lock;
	pthread_cond_t idle; /* a dying region lost its last user */
	struct slot *slots;  /* by id */
	uint32_t slot_count;
	struct mci_region **sorted; /* by address */
	uint32_t count, room;
};

int mci_regions_create(struct mci_region_table **out)
{
	struct mci_region_table *table = calloc(1, sizeof(*table));
	pthread_condattr_t attr;

	if (!table)
		return mci_fail(-ENOMEM, "no memory for the table of regions");
	pthread_mutex_init(&table->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&table->idle, &attr);
	pthread_condattr_destroy(&attr);
	*out = table;
	return 0;
}

void mci_regions_destroy(struct mci_region_table *table)
{
	if (!table)
		return;
	pthread_cond_destroy(&table->idle);
	pthread_mutex_destroy(&table->lock);
	free(table->sorted);
	free(table->slots);
	free(table);
}

/* Index of the first region that ends behind @addr. */
static uint32_t lower_bound(const struct mci_region_table *table, uintptr_t addr)
{
	uint32_t low = 0, high = table->count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		const struct mci_region *region = table->sorted[mid];

		if ((uintptr_t)region->addr + region->length <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int grow(struct mci_region_table *table)
{
	uint32_t room = table->room ? table->room * 2 : 16;
	struct mci_region **sorted = realloc(table->sorted, room * sizeof(*sorted));

	if (!sorted)
		return -ENOMEM;
	table->sorted = sorted;
	table->room = room;
	return 0;
}

/* A free id: the lowest that is not taken. */
static int take_id(struct mci_region_table *table, uint32_t *id)
{
	struct slot *slots;
	uint32_t i, n;

	for (i = 0; i < table->slot_count; i++) {
		if (!table->slots[i].region && table->slots[i].generation != UINT32_MAX) {
			*id = i;
			return 0;
		}
	}
	n = table->slot_count ? table->slot_count * 2 : 16;
	if (n > MAX_REGIONS)
		return -ENOSPC;
	slots = realloc(table->slots, n * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + table->slot_count, 0, (n - table->slot_count) * sizeof(*slots));
	*id = table->slot_count;
	table->slots = slots;
	table->slot_count = n;
	return 0;
}

int mci_regions_add(struct mci_region_table *table, struct mci_region *region)
{
	uintptr_t start = (uintptr_t)region->addr;
	uint32_t at, id;
	int ret;

	if (!region->length || start + region->length < start)
		return mci_fail(-EINVAL,
				"cannot register %llu bytes at %p: the range is empty or wraps around",
				(unsigned long long)region->length, (void *)region->addr);
	pthread_mutex_lock(&table->lock);
	at = lower_bound(table, start);
	if (at < table->count && (uintptr_t)table->sorted[at]->addr < start + region->length) {
		ret = mci_fail(
			-EEXIST,
			"cannot register %llu bytes at %p: they overlap region %u; unregister that first",
			(unsigned long long)region->length, (void *)region->addr, table->sorted[at]->id);
		goto out_unlock;
	}
	if (table->count == table->room) {
		ret = grow(table);
		if (ret)
			goto err_room;
	}
	ret = take_id(table, &id);
	if (ret)
		goto err_room;
	memmove(table->sorted + at + 1, table->sorted + at, (table->count - at) * sizeof(*table->sorted));
	table->sorted[at] = region;
	table->count++;
	region->id = id;
	region->generation = ++table->slots[id].generation;
	region->table = table;
	atomic_store(&region->users, 0);
	table->slots[id].region = region;
	goto out_unlock;
err_room:
	mci_fail(ret, ret == -ENOSPC ? "cannot register more than 65536 regions; register larger ranges"
				     : "no memory for one more region");
out_unlock:
	pthread_mutex_unlock(&table->lock);
	return ret;
}

static void forget(struct mci_region_table *table, struct mci_region *region)
{
	uint32_t at = lower_bound(table, (uintptr_t)region->addr);

	memmove(table->sorted + at, table->sorted + at + 1, (table->count - at - 1) * sizeof(*table->sorted));
	table->count--;
	table->slots[region->id].region = NULL;
}

static int busy(const struct mci_region *region)
{
	return mci_fail(-EBUSY,
			"region %u is in use by transfers in flight; wait for them, or unregister with "
			"MC_UNREGISTER_WAIT",
			region->id);
}

int mci_regions_retire(struct mci_region_table *table, struct mci_region *region, bool force)
{
	bool used;

	pthread_mutex_lock(&table->lock);
	used = atomic_fetch_or(&region->users, DYING) & ~DYING;
	if (used && !force)
		atomic_fetch_and(&region->users, ~DYING);
	pthread_mutex_unlock(&table->lock);
	return used && !force ? busy(region) : 0;
}

void mci_regions_revive(struct mci_region_table *table, struct mci_region *region)
{
	pthread_mutex_lock(&table->lock);
	atomic_fetch_and(&region->users, ~DYING);
	pthread_mutex_unlock(&table->lock);
}

/* Locked. */
static int wait_idle(struct mci_region_table *table, struct mci_region *region, uint64_t deadline_ns)
{
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / MCI_NS_PER_S),
				 .tv_nsec = (long)(deadline_ns % MCI_NS_PER_S)};
	int ret = 0;

	while (atomic_load(&region->users) != DYING && !ret)
		ret = pthread_cond_timedwait(&table->idle, &table->lock, &until);
	return atomic_load(&region->users) == DYING ? 0 : -EBUSY;
}

int mci_regions_wait(struct mci_region_table *table, struct mci_region *region, uint64_t deadline_ns)
{
	int ret;

	pthread_mutex_lock(&table->lock);
	ret = wait_idle(table, region, deadline_ns);
	pthread_mutex_unlock(&table->lock);
	return ret ? busy(region) : 0;
}

int mci_regions_remove(struct mci_region_table *table, struct mci_region *region, uint64_t deadline_ns)
{
	int ret;

	pthread_mutex_lock(&table->lock);
	ret = wait_idle(table, region, deadline_ns);
	if (!ret)
		forget(table, region);
	pthread_mutex_unlock(&table->lock);
	return ret ? busy(region) : 0;
}

static bool use(struct mci_region *region)
{
	/* The mutex is held: DYING cannot be set in between. */
	if (atomic_load_explicit(&region->users, memory_order_relaxed) & DYING)
		return false;
	atomic_fetch_add(&region->users, 1);
	return true;
}

int mci_region_get_remote(struct mci_region_table *table, uint32_t id, uint32_t generation, uint64_t offset,
			  uint64_t length, uint32_t right, struct mci_region **out)
{
	struct mci_region *region = NULL;
	int ret = 0;

	pthread_mutex_lock(&table->lock);
	if (id < table->slot_count)
		region = table->slots[id].region;
	if (!region || region->generation != generation)
		ret = -ESTALE;
	else if ((region->rights & right) != right)
		ret = -EACCES;
	else if (offset > region->length || length > region->length - offset)
		ret = -EFAULT;
	else if (!use(region))
		ret = -ESTALE;
	pthread_mutex_unlock(&table->lock);
	if (!ret)
		*out = region;
	return ret;
}

int mci_region_get_address(struct mci_region_table *table, const void *addr, uint64_t length, uint32_t right,
			   bool classic_only, struct mci_region **out)
{
	uintptr_t start = (uintptr_t)addr;
	struct mci_region *region = NULL;
	int ret = -EFAULT;
	uint32_t at;

	pthread_mutex_lock(&table->lock);
	at = lower_bound(table, start);
	if (at < table->count)
		region = table->sorted[at];
	if (region && (uintptr_t)region->addr <= start &&
	    length <= region->length - (start - (uintptr_t)region->addr) &&
	    (!classic_only || region->classic)) {
		if ((region->rights & right) != right)
			ret = -EACCES;
		else if (use(region))
			ret = 0;
	}
	pthread_mutex_unlock(&table->lock);
	if (!ret)
		*out = region;
	return ret;
}

bool mci_region_dying(const struct mci_region *region) { return atomic_load(&region->users) & DYING; }

void mci_region_put(struct mci_region *region)
{
	struct mci_region_table *table = region->table;

	/* Behind the subtraction the region may be gone: only the table is touched. */
	if (atomic_fetch_sub(&region->users, 1) == (DYING | 1)) {
		pthread_mutex_lock(&table->lock);
		pthread_cond_broadcast(&table->idle);
		pthread_mutex_unlock(&table->lock);
	}
}

void mci_regions_each(struct mci_region_table *table, void (*fn)(struct mci_region *region, void *arg),
		      void *arg)
{
	uint32_t i;

	pthread_mutex_lock(&table->lock);
	for (i = 0; i < table->slot_count; i++)
		if (table->slots[i].region)
			fn(table->slots[i].region, arg);
	pthread_mutex_unlock(&table->lock);
}
