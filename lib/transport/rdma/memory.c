// SPDX-License-Identifier: MIT
/*
 * Regions on the NICs: registered on all of them at once, a thread each, under a random address per
 * registration, so that an old {address, key} misses (contracts I1). Split where a NIC's limit demands it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "transport/rdma/initiator.h"

#define ALIGN (2ull << 20) /* registered and mapped address agree below this: large pages keep their use */

struct mci_rdma_memory *mci_rdma_memory_of(const struct mci_region *region)
{
	return region->transport_private[MCI_TRANSPORT_RDMA];
}

struct job {
	struct mci_rdma *rdma;
	struct mci_rdma_memory *memory;
	uint8_t device;
	int access, error;
};

static void *register_on(void *arg)
{
	struct job *job = arg;
	struct mci_rdma *rdma = job->rdma;
	struct mci_rdma_memory *m = job->memory;
	struct mci_nic *device = rdma->device[job->device];
	uint64_t at = 0;
	uint16_t i;

	for (i = 0; i < m->chunks; i++, at += m->chunk) {
		uint64_t length = m->length - at < m->chunk ? m->length - at : m->chunk;
		struct ibv_mr *mr;

		errno = 0;
		mr = (rdma->verbs->ibv_reg_mr_iova)(device->pd, m->addr + at, length,
						    m->iova + at, /* no macro */
						    (unsigned int)job->access);
		if (!mr) {
			job->error = errno ? -errno : -EIO;
			return NULL;
		}
		m->mr[i * rdma->device_count + job->device] = mr;
	}
	return NULL;
}

static int release(struct mci_rdma *rdma, struct mci_rdma_memory *m)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < (unsigned int)m->chunks * rdma->device_count; i++) {
		if (!m->mr[i])
			continue;
		ret = rdma->verbs->ibv_dereg_mr(m->mr[i]);
		if (ret)
			return mci_fail(-EBUSY, "a NIC does not let go of registered memory: %s",
					strerror(ret));
		m->mr[i] = NULL;
	}
	return 0;
}

static int explain(const struct mci_nic *device, const struct mci_region *region, int err)
{
	const char *hint = "";

	if (err == -ENOMEM)
		hint = "; raise the limit on locked memory (ulimit -l unlimited, or LimitMEMLOCK=infinity of "
		       "the unit)";
	else if (err == -EFAULT)
		hint = "; this kind of memory cannot be pinned by the NIC's driver";
	return mci_fail(err, "cannot register %llu bytes with %s: %s%s", (unsigned long long)region->length,
			device->name, strerror(-err), hint);
}

/* Registers on every NIC, side by side. */
static int register_all(struct mci_rdma *rdma, struct mci_region *region, struct mci_rdma_memory *m)
{
	struct job job[MCI_RDMA_DEVICES_MAX];
	pthread_t thread[MCI_RDMA_DEVICES_MAX];
	bool started[MCI_RDMA_DEVICES_MAX] = {false};
	int access = IBV_ACCESS_LOCAL_WRITE;
	uint8_t i;

	if (region->rights & MC_REMOTE_READ)
		access |= IBV_ACCESS_REMOTE_READ;
	if (region->rights & MC_REMOTE_WRITE)
		access |= IBV_ACCESS_REMOTE_WRITE;
	for (i = 0; i < rdma->device_count; i++) {
		job[i] = (struct job){.rdma = rdma, .memory = m, .device = i, .access = access};
		/* The last one is ours. */
		if (i + 1 < rdma->device_count)
			started[i] = !pthread_create(&thread[i], NULL, register_on, &job[i]);
		if (!started[i])
			register_on(&job[i]);
	}
	for (i = 0; i < rdma->device_count; i++)
		if (started[i])
			pthread_join(thread[i], NULL);
	for (i = 0; i < rdma->device_count; i++)
		if (job[i].error)
			return explain(rdma->device[i], region, job[i].error);
	return 0;
}

int mci_rdma_memory_add(struct mci_rdma *rdma, struct mci_region *region)
{
	uint64_t limit = rdma->hooks.max_mr ? rdma->hooks.max_mr : UINT64_MAX, random;
	struct mci_rdma_memory *m;
	uint64_t chunks;
	uint8_t i;
	int ret;

	for (i = 0; i < rdma->device_count; i++)
		if (rdma->device[i]->max_mr && rdma->device[i]->max_mr < limit)
			limit = rdma->device[i]->max_mr;
	/* Chunks end where pages do, whatever their size. */
	if (limit < region->length)
		limit = limit > ALIGN ? limit / ALIGN * ALIGN : limit / 4096 * 4096;
	chunks = limit ? (region->length - 1) / limit + 1 : UINT64_MAX;
	if (chunks > MCI_RDMA_CHUNKS_MAX)
		return mci_fail(-EFBIG,
				"a region of %llu bytes is more than the NICs can register (%llu at a time)",
				(unsigned long long)region->length, (unsigned long long)limit);
	m = calloc(1, sizeof(*m) + chunks * rdma->device_count * sizeof(m->mr[0]));
	if (!m)
		return mci_fail(-ENOMEM, "no memory to register one more region");
	m->addr = region->addr;
	m->length = region->length;
	m->chunks = (uint16_t)chunks;
	m->chunk = chunks == 1 ? region->length : limit;
	m->prefer = mci_rdma_prefer(rdma, region->location);
	mci_random(&random, sizeof(random));
	m->iova = ((random >> 2) & ~(ALIGN - 1)) | ((uintptr_t)region->addr & (ALIGN - 1));
	ret = register_all(rdma, region, m);
	if (ret) {
		release(rdma, m);
		free(m);
		return ret;
	}
	region->transport_private[MCI_TRANSPORT_RDMA] = m;
	return 0;
}

int mci_rdma_memory_remove(struct mci_rdma *rdma, struct mci_region *region)
{
	struct mci_rdma_memory *m = mci_rdma_memory_of(region);
	int ret;

	if (!m)
		return 0;
	/* From here on an access through an old key fails at the NIC. */
	ret = release(rdma, m);
	if (ret)
		return ret;
	region->transport_private[MCI_TRANSPORT_RDMA] = NULL;
	free(m);
	return 0;
}
