// SPDX-License-Identifier: MIT
/*
 * Initiator, the blocking part of opening a connection: take the control pages, prove in both directions
 * that the memory is the same, ask how each region can be reached. And the mapping of what comes back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/uuid.h"
#include "transport/shm/shm.h"

#define HUGE_2M (2ul << 20)

static int protocol(const char *what)
{
	return mci_fail(-EPROTO,
			"the peer on this host sent a malformed or unexpected %s frame; run the same release "
			"on both sides",
			what);
}

/* The next frame, which must be of @want; what the target says at any time is passed over. */
static int receive(struct mci_sock *sock, uint16_t want, const char *what, void **body, uint32_t *length,
		   int *fd, uint64_t deadline_ns)
{
	uint16_t type;
	uint32_t id;
	int ret;

	do {
		*fd = -1;
		ret = mci_frame_recv(sock, MCI_SHM_FRAME_LIMIT, &type, &id, body, length, fd, deadline_ns);
		if (ret)
			return ret;
		if (type == want)
			return 0;
		free(*body);
		if (*fd >= 0)
			close(*fd);
	} while (type == MCI_SHM_GONE);
	return protocol(what);
}

/* A peer of our user could as well kill us: only others must prove that the file cannot shrink under us. */
static bool safe_to_map(const struct mci_shm_link *link, int fd)
{
	int seals;

	if (mci_shm_same_user(link->uid))
		return true;
	seals = fcntl(fd, F_GET_SEALS);
	return seals >= 0 && seals & F_SEAL_SHRINK;
}

static int map_control(const struct mci_shm_link *link, int fd, uint64_t size, int prot, void **out)
{
	struct stat st;
	void *p;

	if (fd < 0)
		return protocol("control");
	if (fstat(fd, &st) || (uint64_t)st.st_size < size || !safe_to_map(link, fd))
		return mci_fail(-EPROTO, "the peer's control page is too small, or could shrink");
	p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return mci_fail(-errno, "cannot map the peer's control page: %s", strerror(errno));
	madvise(p, size, MADV_DONTFORK);
	*out = p;
	return 0;
}

static int take_table(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns)
{
	struct mci_shm_table_frame frame;
	uint32_t length;
	void *body, *mapped;
	int fd, ret;

	ret = receive(sock, MCI_SHM_TABLE, "TABLE", &body, &length, &fd, deadline_ns);
	if (ret)
		return ret;
	ret = mci_shm_table_decode(body, length, &frame) ? protocol("TABLE") : 0;
	free(body);
	if (!ret)
		ret = map_control(link, fd, sizeof(struct mci_shm_table), PROT_READ, &mapped);
	if (fd >= 0)
		close(fd);
	if (ret)
		return ret;
	link->table = mapped;
	return mci_shm_table_check(link->table);
}

static int take_use(struct mci_shm_link *link, struct mci_sock *sock, uint64_t *probe, uint64_t deadline_ns)
{
	struct mci_shm_use_frame frame;
	uint32_t length;
	void *body, *mapped;
	int fd, ret;

	ret = receive(sock, MCI_SHM_USE, "USE", &body, &length, &fd, deadline_ns);
	if (ret)
		return ret;
	ret = mci_shm_use_decode(body, length, &frame) ? protocol("USE") : 0;
	free(body);
	if (!ret)
		ret = map_control(link, fd, sizeof(struct mci_shm_use), PROT_READ | PROT_WRITE, &mapped);
	if (fd >= 0)
		close(fd);
	if (ret)
		return ret;
	link->use = mapped;
	*probe = frame.probe;
	return mci_shm_use_check(link->use);
}

/* Read the target's nonce in its own memory: works or not, the answer tells whether process_vm_* may be used.
 */
static bool probe_vm(const struct mci_shm_link *link, uint64_t address, uint8_t nonce[MCI_SHM_NONCE])
{
	struct iovec here = {nonce, MCI_SHM_NONCE};
	struct iovec there = {(void *)(uintptr_t)address, MCI_SHM_NONCE};

	return link->pidfd >= 0 && process_vm_readv(link->pid, &here, 1, &there, 1, 0) == MCI_SHM_NONCE;
}

static int prove(struct mci_shm_link *link, struct mci_sock *sock, uint64_t probe, uint64_t deadline_ns)
{
	struct mci_shm_prove_frame frame = {.probed = false};
	struct mci_shm_ready_frame ready;
	uint8_t mine[MCI_SHM_NONCE], out[MCI_SHM_SMALL_MAX];
	uint32_t length;
	void *body;
	int fd, ret;

	mci_random(mine, sizeof(mine));
	memcpy(link->use->initiator_nonce, mine, sizeof(mine));
	memcpy(frame.nonce, link->use->target_nonce, sizeof(frame.nonce));
	frame.probed = probe_vm(link, probe, frame.probe);
	ret = mci_frame_send(sock, MCI_SHM_PROVE, 0, out, mci_shm_prove_encode(&frame, out), deadline_ns);
	if (!ret)
		ret = receive(sock, MCI_SHM_READY, "READY", &body, &length, &fd, deadline_ns);
	if (ret)
		return ret;
	ret = mci_shm_ready_decode(body, length, &ready) ? protocol("READY") : 0;
	free(body);
	if (fd >= 0)
		close(fd);
	if (!ret && memcmp(ready.nonce, mine, sizeof(mine)))
		ret = mci_fail(-EOPNOTSUPP,
			       "the peer does not see this process's memory: it is not on this host");
	if (!ret)
		link->probed = frame.probed && ready.probed;
	return ret;
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

int mci_shm_map_file(struct mci_shm_link *link, struct mci_shm_map *map, const struct mci_shm_grant *grant,
		     int fd)
{
	bool both =
		(grant->rights & (MC_REMOTE_READ | MC_REMOTE_WRITE)) == (MC_REMOTE_READ | MC_REMOTE_WRITE);
	int prot = grant->rights & MC_REMOTE_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
	uint64_t page, from, to;
	struct stat st;

	if (fstat(fd, &st) || (uint64_t)st.st_size < grant->place + grant->length || !safe_to_map(link, fd))
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
	else if (!ret && grant->mode == MCI_SHM_VM && !link->probed)
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
	} else if (map->mapped[0]) {
		map->state = MCI_SHM_MAP_READY; /* the same region, alive again under another stamp */
	} else if (fd >= 0) {
		ret = mci_shm_map_file(link, map, grant, fd);
		map->error = ret;
		if (!ret)
			map->state = MCI_SHM_MAP_READY;
	}
	return ret;
}

static int ask_all(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns)
{
	struct mci_peer *peer = link->peer;
	uint8_t *list = malloc(4 + MCI_SHM_ASK_MAX * MCI_SHM_ASK_SIZE);
	uint16_t got, flags;
	uint32_t length;
	void *body;
	int fd, ret = 0;

	if (!list)
		return mci_fail(-ENOMEM, "no memory to ask for %u regions", peer->count);
	for (unsigned int first = 0; first < peer->count && !ret;) {
		unsigned int n =
			peer->count - first < MCI_SHM_ASK_MAX ? peer->count - first : MCI_SHM_ASK_MAX;

		for (unsigned int i = 0; i < n; i++)
			mci_shm_ask_encode(&(struct mci_shm_ask){peer->regions[first + i].id,
								 peer->regions[first + i].generation},
					   i, list);
		ret = mci_frame_send(sock, MCI_SHM_ASK, 0, list,
				     mci_shm_list_encode((uint16_t)n, 0, list) + n * MCI_SHM_ASK_SIZE,
				     deadline_ns);
		if (!ret)
			ret = receive(sock, MCI_SHM_GRANT, "GRANT", &body, &length, &fd, deadline_ns);
		if (ret)
			break;
		if (fd >= 0)
			close(fd);
		ret = mci_shm_list_decode(body, length, MCI_SHM_GRANT_SIZE, &got, &flags);
		for (unsigned int i = 0; i < n && !ret && got == n; i++) {
			struct mci_shm_grant grant;

			ret = mci_shm_grant_decode(body, i, &grant);
			if (!ret)
				mci_shm_map_take(link, first + i, &grant, -1);
		}
		free(body);
		if (ret || got != n)
			ret = protocol("GRANT");
		first += n;
	}
	free(list);
	return ret;
}

int mci_shm_setup(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns)
{
	uint64_t probe;
	int ret;

	ret = take_table(link, sock, deadline_ns);
	if (!ret)
		ret = take_use(link, sock, &probe, deadline_ns);
	if (!ret)
		ret = prove(link, sock, probe, deadline_ns);
	return ret ? ret : ask_all(link, sock, deadline_ns);
}
