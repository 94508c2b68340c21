// SPDX-License-Identifier: MIT
/*
 * Initiator: mapping what a target grants, a file or memory of the kernel module, and giving it back.
 * peer->lock held, or nobody else there yet.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "transport/shm/shm.h"

#define HUGE_2M (2ul << 20)

void mci_shm_map_drop(struct mci_shm_map *map)
{
	if (map->users)
		return;
	for (int i = 0; i < 2; i++)
		if (map->mapped[i])
			munmap(map->mapped[i], map->mapped_length);
	map->mapped[0] = map->mapped[1] = NULL;
	map->base = NULL;
	map->view = NULL;
	map->revocable = map->guarded = false;
	free((void *)map->touched);
	map->touched = NULL;
}

bool mci_shm_safe_to_map(const struct mci_shm_link *link, int fd)
{
	int seals;

	if (mci_shm_same_user(link->uid))
		return true;
	seals = fcntl(fd, F_GET_SEALS);
	return seals >= 0 && seals & F_SEAL_SHRINK;
}

static uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

/* Map at an address that is congruent with the file modulo 2 MiB, so that huge pages of the file can be used.
 */
static void *map_aligned(int fd, uint64_t at, size_t size, int prot)
{
	size_t want = (size_t)(at % HUGE_2M);
	uint8_t *hole, *start;
	void *p;

	if (size < HUGE_2M)
		return mmap(NULL, size, prot, MAP_SHARED, fd, (off_t)at);
	hole = mmap(NULL, size + HUGE_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (hole == MAP_FAILED)
		return MAP_FAILED;
	start = (uint8_t *)round_up((uintptr_t)hole, HUGE_2M) + want;
	if (start - HUGE_2M >= hole)
		start -= HUGE_2M;
	p = mmap(start, size, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)at);
	if (p == MAP_FAILED) {
		munmap(hole, size + HUGE_2M);
		return MAP_FAILED;
	}
	/* Give back what lies around it; huge pages of hugetlbfs end on the boundaries used here. */
	if (start > hole)
		munmap(hole, (size_t)(start - hole));
	munmap(start + size, (size_t)(hole + size + HUGE_2M - (start + size)));
	return p;
}

static int map_file(struct mci_shm_link *link, struct mci_shm_map *map, const struct mci_shm_grant *grant,
		    int fd)
{
	bool both =
		(grant->rights & (MC_REMOTE_READ | MC_REMOTE_WRITE)) == (MC_REMOTE_READ | MC_REMOTE_WRITE);
	int prot = grant->rights & MC_REMOTE_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
	uint64_t page, from, to;
	struct stat st;

	if (fstat(fd, &st) || (uint64_t)st.st_size < grant->place + grant->length ||
	    !mci_shm_safe_to_map(link, fd))
		return -EPROTO;
	page = mci_shm_file_page(fd, &st);
	from = grant->place & ~(page - 1);
	to = round_up(grant->place + grant->length, page);
	map->mapped_length = (size_t)(to - from);
	map->mapped[0] = map->mapped[1] = NULL;
	for (int i = 0; i < (both ? 2 : 1); i++) {
		void *p = page > HUGE_2M ? mmap(NULL, map->mapped_length, i ? PROT_READ : prot, MAP_SHARED,
						fd, (off_t)from)
					 : map_aligned(fd, from, map->mapped_length, i ? PROT_READ : prot);

		if (p == MAP_FAILED) {
			int ret = -errno;

			if (i)
				munmap(map->mapped[0], map->mapped_length);
			map->mapped[0] = NULL;
			return ret;
		}
		madvise(p, map->mapped_length, MADV_DONTFORK);
		madvise(p, map->mapped_length, MADV_DONTDUMP);
		madvise(p, map->mapped_length, MADV_HUGEPAGE);
		map->mapped[i] = p;
	}
	map->base = (uint8_t *)map->mapped[0] + (grant->place - from);
	map->view = both ? (uint8_t *)map->mapped[1] + (grant->place - from) : map->base;
	if (grant->rights & MC_REMOTE_WRITE)
		map->touched =
			calloc(grant->length / MCI_SHM_UNIT + 1, 1); /* without it pages come one by one */
	return 0;
}

int mci_shm_copy_guarded(bool write, void *mapped, void *local, uint64_t length)
{
	struct iovec there = {mapped, length}, here = {local, length};

	/* The kernel pins what is "remote" here, our own memory, and copies to or from @mapped under its own
	 * guard: what was revoked meanwhile is not reached, not even through pages pinned before. */
	while (there.iov_len) {
		ssize_t n = write ? process_vm_readv(getpid(), &there, 1, &here, 1, 0)
				  : process_vm_writev(getpid(), &there, 1, &here, 1, 0);

		if (n <= 0)
			return n ? -errno : -EFAULT;
		there.iov_base = (uint8_t *)there.iov_base + n;
		here.iov_base = (uint8_t *)here.iov_base + n;
		there.iov_len -= (size_t)n;
		here.iov_len -= (size_t)n;
	}
	return 0;
}

static bool has_key(const struct mci_shm_grant *grant)
{
	static const uint8_t none[MCI_SHM_KEY];

	return memcmp(grant->key, none, sizeof(none));
}

static int map_attachment(struct mci_kdev *kdev, const struct mci_kdev_attachment *a, struct mci_shm_map *map,
			  const struct mci_shm_grant *grant)
{
	bool both =
		(grant->rights & (MC_REMOTE_READ | MC_REMOTE_WRITE)) == (MC_REMOTE_READ | MC_REMOTE_WRITE);
	bool writable = grant->rights & MC_REMOTE_WRITE;
	int ret;

	if (a->length < grant->place || a->length - grant->place < grant->length ||
	    (writable && !a->writable))
		return -EPROTO;
	map->mapped_length = (size_t)a->length;
	map->mapped[0] = map->mapped[1] = NULL;
	ret = mci_kdev_map(kdev, a->mmap_offset, a->length, writable, &map->mapped[0]);
	if (!ret && both)
		ret = mci_kdev_map(kdev, a->mmap_offset, a->length, false, &map->mapped[1]);
	if (ret) {
		if (map->mapped[0])
			munmap(map->mapped[0], map->mapped_length);
		map->mapped[0] = NULL;
		return ret;
	}
	map->base = (uint8_t *)map->mapped[0] + grant->place;
	map->view = both ? (uint8_t *)map->mapped[1] + grant->place : map->base;
	return 0;
}

/* Spend a key. The attachment lives as long as what is mapped of it. */
static int map_object(struct mci_shm_link *link, struct mci_shm_map *map, const struct mci_shm_grant *grant)
{
	struct mci_kdev *kdev = link->peer->transport->kdev;
	struct mci_kdev_attachment a;
	uint8_t byte;
	int ret;

	if (map->users)
		return -ESTALE; /* of what this key replaces: it is on its way out */
	mci_shm_map_drop(map);
	ret = mci_kdev_attach(kdev, grant->key, &a);
	if (ret)
		return ret == -ENOENT ? -ESTALE : ret; /* revoked before we came */
	ret = map_attachment(kdev, &a, map, grant);
	mci_kdev_destroy(kdev, a.id);
	if (ret)
		return ret;
	map->revocable = true;
	map->guarded = !mci_shm_same_user(link->uid);
	if (map->guarded && (ret = mci_shm_copy_guarded(false, (void *)(uintptr_t)map->view, &byte, 1))) {
		mci_shm_map_drop(map);
		return ret == -EFAULT ? -ESTALE : -EOPNOTSUPP; /* process_vm_writev() is forbidden here */
	}
	if (grant->rights & MC_REMOTE_WRITE && !map->guarded)
		map->touched = calloc(grant->length / MCI_SHM_UNIT + 1, 1);
	return 0;
}

/* An answer for region @index: peer->lock held, or nobody else there yet. */
int mci_shm_map_take(struct mci_shm_link *link, unsigned int index, const struct mci_shm_grant *grant, int fd)
{
	const struct mci_remote_region *remote = &link->peer->regions[index];
	struct mci_shm_map *map = &link->maps[index];
	int ret = grant->status;

	if (grant->id != remote->id || grant->generation != remote->generation)
		ret = -ESTALE; /* asked before it changed its name */
	else if (!ret && grant->length < remote->length)
		ret = -EPROTO;
	else if (!ret && map->mapped[0] && grant->rights != map->rights)
		ret = -EPROTO; /* it is mapped, by those who are inside, with what rights it had */
	else if (!ret && grant->mode == MCI_SHM_VM && !link->probed)
		ret = -EPROTO;
	else if (!ret && grant->mode == MCI_SHM_MODULE && !link->attaches)
		ret = -EPROTO;
	map->answers++;
	map->error = ret;
	map->state = MCI_SHM_MAP_IDLE;
	if (ret) {
		mci_shm_map_drop(map);
		if (ret == -EOPNOTSUPP)
			map->state = MCI_SHM_MAP_UNUSABLE;
		return ret;
	}
	map->mode = grant->mode;
	map->rights = grant->rights;
	map->slot = grant->slot;
	map->stamp = grant->stamp;
	if (grant->mode == MCI_SHM_VM) {
		map->address = grant->place;
		map->state = MCI_SHM_MAP_READY;
	} else if (grant->mode == MCI_SHM_MODULE) {
		ret = has_key(grant) ? map_object(link, map, grant) : 0;
		map->error = ret;
		if (!ret && has_key(grant))
			map->state = MCI_SHM_MAP_READY;
		if (ret == -EOPNOTSUPP)
			map->state = MCI_SHM_MAP_UNUSABLE;
	} else if (map->mapped[0]) {
		map->state = MCI_SHM_MAP_READY; /* the same region, alive again under another stamp */
	} else if (fd >= 0) {
		ret = map_file(link, map, grant, fd);
		map->error = ret;
		if (!ret)
			map->state = MCI_SHM_MAP_READY;
	}
	return ret;
}
