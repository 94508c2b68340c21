// SPDX-License-Identifier: MIT
/*
 * Everything that the shared memory transport reads of another process: frames, control pages, counters, and
 * grants together with the file they speak of. First byte: what the rest is.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/shm/shm.h"

#define FILE_SIZE (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What decodes must encode to the same bytes. */
static void same(const uint8_t *out, uint32_t length, const uint8_t *p, size_t n)
{
	if (length != n || memcmp(out, p, n))
		abort();
}

static void small_frames(unsigned int which, const uint8_t *p, size_t n)
{
	struct mci_shm_table_frame table;
	struct mci_shm_use_frame use;
	struct mci_shm_prove_frame prove;
	struct mci_shm_ready_frame ready;
	uint8_t out[MCI_SHM_SMALL_MAX];

	switch (which) {
	case 0:
		if (!mci_shm_table_decode(p, n, &table))
			same(out, mci_shm_table_encode(&table, out), p, n);
		break;
	case 1:
		if (!mci_shm_use_decode(p, n, &use))
			same(out, mci_shm_use_encode(&use, out), p, n);
		break;
	case 2:
		if (!mci_shm_prove_decode(p, n, &prove))
			same(out, mci_shm_prove_encode(&prove, out), p, n);
		break;
	default:
		if (!mci_shm_ready_decode(p, n, &ready))
			same(out, mci_shm_ready_encode(&ready, out), p, n);
	}
}

static void asks(const uint8_t *p, size_t n)
{
	uint16_t count, flags;
	uint8_t *out;

	if (mci_shm_list_decode(p, n, MCI_SHM_ASK_SIZE, &count, &flags))
		return;
	out = malloc(n);
	mci_shm_list_encode(count, flags, out);
	for (uint32_t i = 0; i < count; i++) {
		struct mci_shm_ask ask;

		mci_shm_ask_decode(p, i, &ask);
		mci_shm_ask_encode(&ask, i, out);
	}
	same(out, 4 + count * MCI_SHM_ASK_SIZE, p, n);
	free(out);
}

static int file(void)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, FILE_SIZE))
		abort();
	return fd;
}

/* A grant, taken as the initiator takes it: whatever becomes READY must be readable from end to end. */
static void grants(const uint8_t *p, size_t n, bool probed, bool other_user)
{
	struct mci_remote_region region = {.length = FILE_SIZE / 2};
	struct mci_transport transport = {.kdev = NULL};
	struct mci_peer peer = {.transport = &transport, .regions = &region, .count = 1};
	struct mci_shm_map map = {.state = MCI_SHM_MAP_ASKED};
	struct mci_shm_link link = {
		.peer = &peer, .maps = &map, .probed = probed, .attaches = probed, .uid = geteuid() + other_user};
	volatile uint8_t sum = 0;
	uint16_t count, flags;
	int fd;

	if (mci_shm_list_decode(p, n, MCI_SHM_GRANT_SIZE, &count, &flags))
		return;
	fd = file();
	for (uint32_t i = 0; i < count; i++) {
		struct mci_shm_grant grant;

		if (mci_shm_grant_decode(p, i, &grant))
			continue;
		region.id = grant.id;
		region.generation = grant.generation;
		if (!mci_shm_map_take(&link, 0, &grant, fd) && map.state == MCI_SHM_MAP_READY &&
		    map.mode == MCI_SHM_MEMFD)
			for (uint64_t at = 0; at < region.length; at += 4096)
				sum += map.base[at] + map.view[region.length - 1];
		if (map.state == MCI_SHM_MAP_READY && (map.slot >= MCI_SHM_SLOTS || !map.stamp))
			abort();
		if (map.state == MCI_SHM_MAP_READY && map.mode == MCI_SHM_VM && !probed)
			abort();
		if (map.state == MCI_SHM_MAP_READY && map.mode == MCI_SHM_MODULE)
			abort(); /* nothing can be attached without the module */
		mci_shm_map_drop(&map);
	}
	(void)sum;
	close(fd);
}

/* Pages that the other side may fill with anything at any time. */
static void pages(const uint8_t *p, size_t n)
{
	static struct mci_shm_table table;
	static struct mci_shm_use use;
	uint64_t words[3] = {0};
	struct mci_shm_use_slot *slot;

	memcpy(&table, p, n < 64 ? n : 64);
	memcpy(&use, p, n < 4096 ? n : 4096);
	mci_shm_table_check(&table);
	mci_shm_use_check(&use);
	memcpy(words, p, n < sizeof(words) ? n : sizeof(words));
	slot = &use.slot[words[0] % MCI_SHM_SLOTS];
	atomic_store(&slot->copies, (uint32_t)words[1]);
	atomic_store(&table.word[0], words[2]);
	if (mci_shm_enter(slot, &table.word[0], words[1])) {
		if (words[1] != words[2] || !mci_shm_alive(&table.word[0], words[1] & ~MCI_SHM_DYING))
			abort();
		mci_shm_leave(slot);
	}
	if (atomic_load(&slot->copies) != (uint32_t)words[1])
		abort(); /* in and out, or not in at all */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	data++;
	size--;
	switch (data[-1] % 8) {
	case 4:
		asks(data, size);
		break;
	case 5:
		grants(data, size, false, false);
		break;
	case 6:
		grants(data, size, true, data[-1] & 8);
		break;
	case 7:
		pages(data, size);
		break;
	default:
		small_frames(data[-1] % 4, data, size);
	}
	return 0;
}
