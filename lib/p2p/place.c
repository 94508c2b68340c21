// SPDX-License-Identifier: MIT
/*
 * Where the bytes of an object lie: the caller's ranges, or a mapped file; and the regions that peers read
 * them from. Objects of one store that share memory share regions. Lock: store->regions_lock, held while the
 * engine registers.
 */
#include "p2p/p2p.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZES_SHOWN 8

struct mci_store_region {
	LIST_ENTRY(mci_store_region) next;
	mc_region *region;
	char *addr;
	uint64_t length;
	unsigned int users;
};

void mci_sizes_text(const uint64_t *sizes, uint32_t count, char *text, size_t size)
{
	size_t n = (size_t)snprintf(text, size, "[");
	uint32_t i;

	for (i = 0; i < count && i < SIZES_SHOWN && n < size; i++)
		n += (size_t)snprintf(text + n, size - n, "%s%llu", i ? ", " : "",
				      (unsigned long long)sizes[i]);
	if (n < size)
		snprintf(text + n, size - n, count > SIZES_SHOWN ? ", ... (%u in all)]" : "]", count);
}

static int no_memory(uint32_t ranges)
{
	return mci_fail(-ENOMEM, "no memory to keep track of %u ranges", ranges);
}

static int set_ranges(struct mci_place *place, const struct mc_p2p_range *ranges, uint32_t count)
{
	place->range = calloc(count, sizeof(*place->range));
	place->id = calloc(count, sizeof(*place->id));
	place->offset = calloc(count, sizeof(*place->offset));
	place->region = calloc(count, sizeof(*place->region));
	if (!place->range || !place->id || !place->offset || !place->region)
		return no_memory(count);
	memcpy(place->range, ranges, count * sizeof(*ranges));
	place->count = count;
	return 0;
}

static int map(struct mci_place *place, const char *path, int prot)
{
	struct mc_p2p_range range = {.length = place->map_length};

	place->map = mmap(NULL, place->map_length, prot, MAP_SHARED, place->fd, 0);
	if (place->map == MAP_FAILED) {
		place->map = NULL;
		return mci_fail(-errno, "cannot map %llu bytes of '%s': %s",
				(unsigned long long)place->map_length, path, strerror(errno));
	}
	range.addr = place->map;
	return set_ranges(place, &range, 1);
}

static int check(const struct mc_p2p_place *given)
{
	uint32_t i;

	if (!given || given->size != sizeof(*given) || given->reserved0)
		return mci_fail(-EINVAL,
				"struct mc_p2p_place is missing, or not as this library knows it; use "
				"MC_P2P_PLACE_INIT, and build against the headers of this library");
	if (given->path ? given->count || !*given->path : !given->ranges || !given->count)
		return mci_fail(-EINVAL,
				"a place is either ranges of memory or the path of a file, and not empty");
	if (given->count > MCI_P2P_RANGES_MAX)
		return mci_fail(-EINVAL, "an object has at most %u ranges, not %u; put small ones together",
				MCI_P2P_RANGES_MAX, given->count);
	for (i = 0; i < given->count; i++)
		if (!given->ranges[i].addr || !given->ranges[i].length ||
		    (uintptr_t)given->ranges[i].addr + given->ranges[i].length <
			    (uintptr_t)given->ranges[i].addr)
			return mci_fail(-EINVAL, "range %u is not memory: %llu bytes at %p", i,
					(unsigned long long)given->ranges[i].length, given->ranges[i].addr);
	return 0;
}

static int open_source_file(struct mci_place *place, const char *path)
{
	struct stat st;

	place->path = strdup(path);
	if (!place->path)
		return no_memory(1);
	place->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would block */
	if (place->fd < 0 || fstat(place->fd, &st))
		return mci_fail(-errno, "cannot open '%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || !st.st_size)
		return mci_fail(-EINVAL, "'%s' is no file with anything in it; give a regular file", path);
	place->map_length = (uint64_t)st.st_size;
	return map(place, path, PROT_READ);
}

int mci_place_source(struct mc_p2p *store, const struct mc_p2p_place *given, struct mci_place *place)
{
	int ret = check(given);

	memset(place, 0, sizeof(*place));
	place->store = store;
	place->fd = -1;
	if (ret)
		return ret;
	ret = given->path ? open_source_file(place, given->path)
			  : set_ranges(place, given->ranges, given->count);
	if (ret)
		mci_place_close(place);
	return ret;
}

/* The file takes the place of what is there: that may be a file only, no device, pipe or directory. */
static int check_target(const char *path)
{
	struct stat st;

	if (stat(path, &st) || S_ISREG(st.st_mode))
		return 0;
	return mci_fail(-EINVAL, "'%s' is there and is no regular file; fetch to another path", path);
}

/* What lies under the name already may hold pieces: it is looked through, and stays until the new file is
 * whole. */
static void look_at_old(struct mci_place *place)
{
	int fd = open(place->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size) {
		place->old_length = (uint64_t)st.st_size;
		place->old = mmap(NULL, place->old_length, PROT_READ, MAP_SHARED, fd, 0);
		if (place->old == MAP_FAILED)
			place->old = NULL;
	}
	close(fd);
}

static int reserve_space(struct mci_place *place)
{
	int ret = ftruncate(place->fd, (off_t)place->map_length) ? -errno : 0;

	/* Space is taken now: a full file system found out by a store to the mapping would be a signal. */
	if (!ret)
		ret = -posix_fallocate(place->fd, 0, (off_t)place->map_length);
	if (!ret)
		return 0;
	if (place->fresh)
		unlink(place->part);
	return mci_fail(ret,
			"no space for %llu bytes at '%s': %s; free some, or fetch to another file system",
			(unsigned long long)place->map_length, place->part, strerror(-ret));
}

/* Is @path still the file that is open as @fd? */
static bool is_at(int fd, const char *path)
{
	struct stat open, there;

	return !fstat(fd, &open) && !lstat(path, &there) && open.st_dev == there.st_dev && open.st_ino == there.st_ino;
}

/* Opened and locked: nobody else writes it, and what is under the name is what is locked. */
static int open_part(struct mci_place *place, struct stat *st)
{
	for (;;) {
		place->fd = open(place->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
		if (place->fd < 0 && errno == ENOENT) /* -ENOENT would mean the object */
			return mci_fail(-ENOTDIR, "cannot make '%s': its directory is not there; make that first",
					place->part);
		if (place->fd < 0 || fstat(place->fd, st))
			return mci_fail(-errno, "cannot make '%s': %s", place->part, strerror(errno));
		if (!S_ISREG(st->st_mode))
			return mci_fail(-EINVAL, "'%s' is no regular file; remove it, or fetch to another path",
					place->part);
		if (flock(place->fd, LOCK_EX | LOCK_NB))
			return mci_fail(
				-EBUSY,
				"'%s' is being written by another fetch; wait for it, or fetch to another path",
				place->part);
		if (is_at(place->fd, place->part))
			return 0;
		/* Between our open and our lock its writer finished it: it has its name now, and is not ours. */
		close(place->fd);
		place->fd = -1;
	}
}

static int open_sink_file(struct mci_place *place, const char *path, uint64_t bytes)
{
	struct stat st;
	int ret;

	place->path = strdup(path);
	if (!place->path || asprintf(&place->part, "%s.part", path) < 0) {
		place->part = NULL;
		return no_memory(1);
	}
	ret = check_target(path);
	if (ret)
		return ret;
	place->map_length = bytes;
	ret = open_part(place, &st);
	if (ret)
		return ret;
	look_at_old(place);
	place->fresh = !st.st_size;
	ret = reserve_space(place);
	if (ret)
		return ret;
	place->fresh = place->fresh && !place->old;
	return map(place, place->part, PROT_READ | PROT_WRITE);
}

static int check_sizes(const struct mc_p2p_place *given, const char *name,
		       const struct mci_manifest *manifest)
{
	char theirs[256], ours[256];
	uint64_t *sizes;
	uint32_t i;

	for (i = 0; i < given->count && i < manifest->range_count; i++)
		if (given->ranges[i].length != manifest->ranges[i])
			break;
	if (given->count == manifest->range_count && i == given->count)
		return 0;
	sizes = calloc(given->count, sizeof(*sizes));
	if (!sizes)
		return no_memory(given->count);
	for (i = 0; i < given->count; i++)
		sizes[i] = given->ranges[i].length;
	mci_sizes_text(sizes, given->count, ours, sizeof(ours));
	mci_sizes_text(manifest->ranges, manifest->range_count, theirs, sizeof(theirs));
	free(sizes);
	return mci_fail(-EINVAL,
			"object '%s' has the sizes %s, but the place given for it has %s; give ranges of "
			"exactly these "
			"lengths, in this order",
			name, theirs, ours);
}

int mci_place_sink(struct mc_p2p *store, const struct mc_p2p_place *given, const char *name,
		   const struct mci_manifest *manifest, struct mci_place *place)
{
	int ret = check(given);

	memset(place, 0, sizeof(*place));
	place->store = store;
	place->fd = -1;
	if (ret)
		return ret;
	if (given->path && manifest->range_count != 1)
		return mci_fail(
			-EINVAL,
			"object '%s' has %u ranges; only an object of one range goes to a file, so give "
			"memory ranges",
			name, manifest->range_count);
	if (given->path)
		ret = open_sink_file(place, given->path, manifest->bytes);
	else
		ret = check_sizes(given, name, manifest) ?: set_ranges(place, given->ranges, given->count);
	if (ret)
		mci_place_close(place);
	return ret;
}

/* A region that holds all of it, registered or shared. regions_lock held. */
static int take_region(struct mc_p2p *store, char *addr, uint64_t length, const char *location,
		       struct mci_store_region **out)
{
	struct mc_region_attr attr = MC_REGION_ATTR_INIT;
	struct mci_store_region *region;
	int ret;

	LIST_FOREACH(region, &store->regions, next) {
		if (addr >= region->addr && length <= region->length &&
		    (uint64_t)(addr - region->addr) <= region->length - length) {
			region->users++;
			*out = region;
			return 0;
		}
	}
	region = calloc(1, sizeof(*region));
	if (!region)
		return no_memory(1);
	region->addr = addr;
	region->length = length;
	region->users = 1;
	attr.rights = MC_REMOTE_READ;
	attr.location = location;
	ret = mc_engine_register(store->engine, addr, length, &attr, &region->region);
	if (ret) {
		free(region);
		return ret;
	}
	LIST_INSERT_HEAD(&store->regions, region, next);
	*out = region;
	return 0;
}

/* 0, or why its memory is still in others' hands. */
static int put_region(struct mc_p2p *store, struct mci_store_region *region)
{
	mc_region *last = NULL;

	pthread_mutex_lock(&store->regions_lock);
	if (!--region->users) {
		LIST_REMOVE(region, next);
		last = region->region;
		free(region);
	}
	pthread_mutex_unlock(&store->regions_lock);
	return last ? mc_engine_unregister(last, MC_UNREGISTER_WAIT) : 0;
}

int mci_place_register(struct mci_place *place, const char *location)
{
	struct mc_p2p *store = place->store;
	uint32_t i, end;
	int ret = 0, published;

	pthread_mutex_lock(&store->regions_lock);
	mci_engine_hold(store->engine, true);
	for (i = 0; i < place->count && !ret; i = end) {
		char *addr = place->range[i].addr;
		uint64_t length = place->range[i].length;

		/* Ranges that touch are one region. */
		for (end = i + 1; end < place->count && place->range[end].addr == addr + length; end++)
			length += place->range[end].length;
		ret = take_region(store, addr, length, location, &place->region[i]);
		if (ret)
			break;
		for (; place->added < end; place->added++) {
			const struct mci_store_region *region = place->region[i];

			place->id[place->added] = mc_region_id(region->region);
			place->offset[place->added] =
				(uint64_t)((char *)place->range[place->added].addr - region->addr);
		}
	}
	published = mci_engine_hold(store->engine, false);
	pthread_mutex_unlock(&store->regions_lock);
	return ret ? ret : published;
}

int mci_place_finish(struct mci_place *place)
{
	if (!place->part)
		return 0;
	if (check_target(place->path))
		return -EINVAL;
	/* Once the file has its name it is whole, also after a crash of the host. */
	if (fdatasync(place->fd))
		return mci_fail(-errno, "cannot write '%s' out: %s", place->part, strerror(errno));
	if (!is_at(place->fd, place->part))
		return mci_fail(-ESTALE,
				"'%s' was removed or replaced while it was being written, and what came is lost; "
				"fetch it again, and let nobody else write there",
				place->part);
	if (rename(place->part, place->path))
		return mci_fail(-errno, "every byte is in '%s', but it cannot be renamed to '%s': %s",
				place->part, place->path, strerror(errno));
	free(place->part);
	place->part = NULL;
	flock(place->fd, LOCK_UN);
	if (place->old)
		munmap(place->old, place->old_length);
	place->old = NULL;
	return 0;
}

int mci_place_close(struct mci_place *place)
{
	uint32_t i;
	int ret = 0;

	if (place->added)
		mci_engine_hold(place->store->engine, true);
	for (i = 0; i < place->added; i++) {
		if (!place->region[i] || !put_region(place->store, place->region[i]))
			continue;
		ret = -EIO;
		mci_error("memory of an object stays registered: %s", mc_errmsg());
	}
	/* The memory is fenced whatever the metadata service says. */
	if (place->added && mci_engine_hold(place->store->engine, false))
		mci_warn("the regions of an object are gone, but the descriptor could not be updated: %s",
			 mc_errmsg());
	if (place->map && !ret)
		munmap(place->map, place->map_length);
	if (place->old && !ret)
		munmap(place->old, place->old_length);
	if (place->fd >= 0)
		close(place->fd);
	free(place->range);
	free(place->id);
	free(place->offset);
	free(place->region);
	free(place->path);
	free(place->part);
	memset(place, 0, sizeof(*place));
	place->fd = -1;
	return ret;
}

int mci_parts_open(struct mc_p2p *store, uint64_t size, struct mci_parts *parts)
{
	struct mc_region_attr attr = MC_REGION_ATTR_INIT;

	parts->size = size;
	parts->memory =
		mmap(NULL, size * MCI_P2P_BOUNCE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (parts->memory == MAP_FAILED) {
		parts->memory = NULL;
		return mci_fail(-ENOMEM, "no memory for %u buffers of %llu bytes", MCI_P2P_BOUNCE,
				(unsigned long long)size);
	}
	attr.rights = 0;
	return mc_engine_register(store->engine, parts->memory, size * MCI_P2P_BOUNCE, &attr, &parts->region);
}

void mci_parts_close(struct mci_parts *parts)
{
	bool held = parts->region && mc_engine_unregister(parts->region, MC_UNREGISTER_WAIT);

	if (held)
		mci_error("buffers of an object stay registered, and mapped: %s", mc_errmsg());
	if (parts->memory && !held)
		munmap(parts->memory, parts->size * MCI_P2P_BOUNCE);
}
