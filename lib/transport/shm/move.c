// SPDX-License-Identifier: MIT
/*
 * Initiator: the bytes of a lot move, between mapped memories or by the kernel's process_vm_*(). No lock is
 * held; the requests' regions have been entered, so that their owner does not take them away meanwhile.
 */
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "transport/shm/copy.h"
#include "transport/shm/shm.h"

/* Asked of the process too: a child that it forked may hold its end of the connection open. */
bool mci_shm_link_lives(struct mci_shm_link *link)
{
	struct pollfd fds[2] = {{.fd = link->fd, .events = POLLRDHUP}, {.fd = link->pidfd, .events = POLLIN}};

	if (link->peer->transport->hooks.no_liveness)
		return true;
	if (atomic_load_explicit(&link->dead, memory_order_acquire))
		return false;
	/* The loop thread may not have heard yet; the kernel knows since before the process was reaped. */
	return poll(fds, link->pidfd >= 0 ? 2 : 1, 0) <= 0;
}

/*
 * Before the first write to pages: make them present at once instead of fault by fault, which halves the
 * time of a first pass. For reading, the kernel maps around each fault, and nothing is gained.
 */
static void touch(struct mci_shm_map *map, uint64_t offset, uint64_t length)
{
#ifdef MADV_POPULATE_WRITE
	uint64_t unit = offset / MCI_SHM_UNIT, last = (offset + length - 1) / MCI_SHM_UNIT;
	uint8_t *start = map->mapped[0], *from, *to;
	uint64_t shift = (uint64_t)(map->base - start);

	if (!map->touched || length < MCI_SHM_UNIT)
		return;
	while (unit <= last && atomic_load_explicit(&map->touched[unit], memory_order_relaxed))
		unit++;
	if (unit > last)
		return;
	from = start + ((shift + unit * MCI_SHM_UNIT) & ~(uint64_t)(MCI_SHM_PAGE - 1));
	to = start + ((shift + (last + 1) * MCI_SHM_UNIT) & ~(uint64_t)(MCI_SHM_PAGE - 1));
	if (to > start + map->mapped_length)
		to = start + map->mapped_length;
	madvise(from, (size_t)(to - from), MADV_POPULATE_WRITE);
	for (; unit <= last; unit++)
		atomic_store_explicit(&map->touched[unit], 1, memory_order_relaxed);
#else
	(void)map, (void)offset, (void)length;
#endif
}

/* Is the region that @r entered granted still? Looked at just before a touch that could be the first too late. */
static bool granted(const struct mci_shm_link *link, const struct mci_request *r)
{
	return link->peer->transport->hooks.no_liveness ||
	       mci_shm_alive(&link->table->word[mci_shm_tag_slot(r->tag)], mci_shm_tag_stamp(r->tag));
}

static int copy_mapped(const struct mci_shm_link *link, struct mci_shm_map *map, const struct mci_request *r,
		       uint64_t at, uint64_t length)
{
	uint8_t *there = map->base + r->offset + at, *here = r->local + at;
	int ret;

	if (map->revocable && !granted(link, r))
		return -ESTALE;
	if (map->guarded) {
		ret = mci_shm_copy_guarded(r->op == MCI_OP_WRITE, there, here, length);
		return ret && !granted(link, r) ? -ESTALE : ret;
	}
	if (r->op == MCI_OP_WRITE) {
		touch(map, r->offset + at, length);
		mci_shm_copy(there, here, length);
	} else {
		mci_shm_copy(here, there, length);
	}
	return 0;
}

static int vm_error(int err)
{
	switch (err) {
	case ESRCH:
		return -ECONNRESET; /* the target is gone */
	case EPERM:
		return -EACCES; /* it took the permission away: changed its user, or is not dumpable any more
				 */
	default:
		return -err; /* EFAULT: unmapped on either side */
	}
}

static ssize_t vm_copy(const struct mci_shm_link *link, uint8_t op, const struct iovec *here,
		       const struct iovec *there, unsigned int count)
{
	if (op == MCI_OP_WRITE)
		return process_vm_writev(link->pid, here, count, there, count, 0);
	return process_vm_readv(link->pid, here, count, there, count, 0);
}

static int vm_part(const struct mci_shm_link *link, const struct mci_shm_map *map,
		   const struct mci_request *r, uint64_t at, uint64_t length)
{
	while (length) {
		struct iovec here = {r->local + at, length};
		struct iovec there = {(void *)(uintptr_t)(map->address + r->offset + at), length};
		ssize_t n = vm_copy(link, r->op, &here, &there, 1);

		if (n <= 0)
			return n ? vm_error(errno) : -EFAULT;
		at += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return 0;
}

/* Requests [@i, @end) of one direction in as few calls as the kernel lets us. */
static void vm_run(struct mci_shm_lot *lot, unsigned int i, unsigned int end)
{
	struct iovec here[MCI_SHM_LOT], there[MCI_SHM_LOT];

	while (i < end) {
		unsigned int n = end - i;
		ssize_t moved;

		for (unsigned int k = 0; k < n; k++) {
			const struct mci_request *r = lot->item[i + k];

			here[k] = (struct iovec){r->local, r->length};
			there[k] = (struct iovec){(void *)(uintptr_t)(lot->map[i + k]->address + r->offset),
						  r->length};
		}
		moved = vm_copy(lot->link, lot->item[i]->op, here, there, n);
		for (; i < end && moved >= (ssize_t)lot->item[i]->length; i++)
			moved -= (ssize_t)lot->item[i]->length;
		/* The one that stopped it is judged by itself; those behind it go on. */
		if (i < end) {
			lot->error[i] =
				vm_part(lot->link, lot->map[i], lot->item[i], 0, lot->item[i]->length);
			i++;
		}
	}
}

static bool is_vm(const struct mci_shm_lot *lot, unsigned int i) { return lot->map[i]->mode == MCI_SHM_VM; }

void mci_shm_move(struct mci_shm_lot *lot)
{
	unsigned int i, end;
	bool vm = false;

	for (i = 0; i < lot->count; i++)
		vm |= is_vm(lot, i);
	/* A process id may be another process by now: never write to one that is not known to live. */
	if (vm && !mci_shm_link_lives(lot->link)) {
		for (i = 0; i < lot->count; i++)
			lot->error[i] = -ECONNRESET;
		return;
	}
	if (lot->part) {
		if (vm)
			lot->error[0] =
				vm_part(lot->link, lot->map[0], lot->item[0], lot->offset, lot->length);
		else
			lot->error[0] = copy_mapped(lot->link, lot->map[0], lot->item[0], lot->offset,
						    lot->length);
		return;
	}
	for (i = 0; i < lot->count; i = end) {
		end = i + 1;
		if (!is_vm(lot, i)) {
			lot->error[i] = copy_mapped(lot->link, lot->map[i], lot->item[i], 0,
						    lot->item[i]->length);
			continue;
		}
		while (end < lot->count && is_vm(lot, end) && lot->item[end]->op == lot->item[i]->op)
			end++;
		vm_run(lot, i, end);
	}
}
