// SPDX-License-Identifier: MIT
/*
 * Regions on the NICs: registered on all of them at once, a thread each, under a random address per
 * registration, so that an old {address, key} misses (contracts I1). Split where a NIC's limit demands it.
 * Memory of the kernel module goes by its dma-buf where the NIC takes one: its pages are not pinned again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "kdev/kdev.h"
#include "transport/rdma/initiator.h"

#define ALIGN (2ull << 20) /* registered and mapped address agree below this: large pages keep their use */

/* The classic dialect registers at first use: another thread may do so right now. */
struct mci_rdma_memory *mci_rdma_memory_of(const struct mci_rdma *rdma, const struct mci_region *region)
{
	return __atomic_load_n(&region->transport_private[rdma->id], __ATOMIC_ACQUIRE);
}

/* Classic peers know addresses and nothing else. */
static bool by_address(const struct mci_rdma *rdma, const struct mci_region *region)
{
	return mci_rdma_is_classic(rdma) && region->classic && rdma->host->options.classic;
}

struct job {
	struct mci_rdma *rdma;
	struct mci_rdma_memory *memory;
	uint64_t object_offset; /* of the region in what @dmabuf is of */
	int dmabuf;		/* -1: none */
	uint8_t device;
	int access, error;
};

/* A dma-buf of memory of the kernel module, or -1: it is none, no NIC would take it, or the module gives none. */
static int export_memory(const struct mci_rdma *rdma, const struct mci_region *region)
{
	bool wanted = false;
	int fd = -1;
	uint8_t i;

	for (i = 0; i < rdma->device_count; i++)
		wanted |= !atomic_load(&rdma->device[i]->no_dmabuf);
	if (!region->kdev || !wanted)
		return -1;
	if (mci_kdev_export(region->kdev, region->object, true, &fd))
		mci_debug("region %u is registered by its mapping: %s", region->id, mc_errmsg());
	return fd;
}

static struct ibv_mr *register_piece(const struct job *job, uint64_t at, uint64_t length)
{
	const struct mci_verbs *verbs = job->rdma->verbs;
	const struct mci_rdma_memory *m = job->memory;
	struct mci_nic *device = job->rdma->device[job->device];
	struct ibv_mr *mr;

	if (job->dmabuf >= 0 && !atomic_load(&device->no_dmabuf)) {
		errno = 0;
		mr = verbs->ibv_reg_dmabuf_mr(device->pd, job->object_offset + at, length, m->iova + at,
					      job->dmabuf, job->access);
		if (mr)
			return mr;
		/* What the driver cannot it will not learn; a lack of memory is over one day. */
		if (errno != ENOMEM)
			atomic_store(&device->no_dmabuf, true);
		mci_debug("%s takes no dma-buf (%s): memory of the kernel module is registered by its mapping",
			  device->name, strerror(errno));
	}
	errno = 0;
	return (verbs->ibv_reg_mr_iova)(device->pd, m->addr + at, length, m->iova + at, /* no macro */
					(unsigned int)job->access);
}

static void *register_on(void *arg)
{
	struct job *job = arg;
	struct mci_rdma_memory *m = job->memory;
	uint64_t at = 0;
	uint16_t i;

	for (i = 0; i < m->chunks; i++, at += m->chunk) {
		uint64_t length = m->length - at < m->chunk ? m->length - at : m->chunk;
		struct ibv_mr *mr = register_piece(job, at, length);

		if (!mr) {
			job->error = errno ? -errno : -EIO;
			return NULL;
		}
		m->mr[i * job->rdma->device_count + job->device] = mr;
	}
	return NULL;
}

/* Every NIC is asked, also behind one that refuses: the fewer keys are left, the better. */
static int release(struct mci_rdma *rdma, struct mci_rdma_memory *m)
{
	unsigned int i;
	int err, ret = 0;

	for (i = 0; i < (unsigned int)m->chunks * rdma->device_count; i++) {
		struct mci_nic *device = rdma->device[i % rdma->device_count];

		if (!m->mr[i])
			continue;
		err = rdma->verbs->ibv_dereg_mr(m->mr[i]);
		/* With a device that was taken out the kernel has ended all that it had. */
		if (err && !(err == EIO && atomic_load(&device->fatal)))
			ret = mci_fail(-EIO,
				       "%s does not let go of registered memory: %s; it must stay mapped until "
				       "mc_engine_unregister(), called again, returns 0",
				       device->name, strerror(err));
		else
			m->mr[i] = NULL;
	}
	return ret;
}

/* All NICs or none. */
static int count_in(struct mci_rdma *rdma, uint32_t pieces)
{
	uint8_t i;

	for (i = 0; i < rdma->device_count; i++) {
		struct mci_nic *device = rdma->device[i];
		uint32_t max = rdma->hooks.max_mrs ? rdma->hooks.max_mrs : device->max_mrs;
		uint32_t mrs = atomic_fetch_add(&device->mrs, pieces);

		if (pieces <= max && mrs <= max - pieces)
			continue;
		do
			atomic_fetch_sub(&rdma->device[i]->mrs, pieces);
		while (i--);
		return mci_fail(-ENOSPC,
				"%s registers at most %u pieces of memory, and %u are registered already; unregister "
				"some, or register fewer, larger ranges",
				device->name, max, mrs);
	}
	return 0;
}

static void count_out(struct mci_rdma *rdma, uint32_t pieces)
{
	uint8_t i;

	for (i = 0; i < rdma->device_count; i++)
		atomic_fetch_sub(&rdma->device[i]->mrs, pieces);
}

static int explain(const struct mci_nic *device, const struct mci_region *region, int err)
{
	const char *hint = "";

	if (err == -ENOMEM)
		hint = "; raise the limit on locked memory (ulimit -l unlimited, or LimitMEMLOCK=infinity of "
		       "the unit)";
	else if (err == -EFAULT)
		hint = "; this kind of memory cannot be pinned by the NIC's driver";
	return mci_fail(err, "cannot register %llu bytes with %s: %s%s (%u of at most %u registrations are ours)",
			(unsigned long long)region->length, device->name, strerror(-err), hint,
			atomic_load(&device->mrs), device->max_mrs);
}

/* Registers on every NIC, side by side. */
static int register_all(struct mci_rdma *rdma, struct mci_region *region, struct mci_rdma_memory *m)
{
	struct job job[MCI_RDMA_DEVICES_MAX];
	pthread_t thread[MCI_RDMA_DEVICES_MAX];
	bool started[MCI_RDMA_DEVICES_MAX] = {false};
	bool remote = !mci_rdma_is_classic(rdma) || by_address(rdma, region);
	int access = IBV_ACCESS_LOCAL_WRITE, dmabuf = export_memory(rdma, region);
	uint8_t i;

	if (remote && region->rights & MC_REMOTE_READ)
		access |= IBV_ACCESS_REMOTE_READ;
	if (remote && region->rights & MC_REMOTE_WRITE)
		access |= IBV_ACCESS_REMOTE_WRITE;
	for (i = 0; i < rdma->device_count; i++) {
		job[i] = (struct job){.rdma = rdma,
				      .memory = m,
				      .object_offset = region->object_offset,
				      .dmabuf = dmabuf,
				      .device = i,
				      .access = access};
		/* The last one is ours. */
		if (i + 1 < rdma->device_count)
			started[i] = !mci_thread_start(&thread[i], register_on, &job[i]);
		if (!started[i])
			register_on(&job[i]);
	}
	for (i = 0; i < rdma->device_count; i++)
		if (started[i])
			pthread_join(thread[i], NULL);
	if (dmabuf >= 0)
		close(dmabuf);
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
	ret = count_in(rdma, (uint32_t)chunks);
	if (ret)
		return ret;
	m = calloc(1, sizeof(*m) + chunks * rdma->device_count * sizeof(m->mr[0]));
	if (!m) {
		count_out(rdma, (uint32_t)chunks);
		return mci_fail(-ENOMEM, "no memory to register one more region");
	}
	m->addr = region->addr;
	m->length = region->length;
	m->chunks = (uint16_t)chunks;
	m->chunk = chunks == 1 ? region->length : limit;
	m->prefer = mci_rdma_prefer(rdma, region->location);
	mci_random(&random, sizeof(random));
	m->iova = ((random >> 2) & ~(ALIGN - 1)) | ((uintptr_t)region->addr & (ALIGN - 1));
	if (by_address(rdma, region))
		m->iova = (uintptr_t)region->addr;
	ret = register_all(rdma, region, m);
	if (ret) {
		count_out(rdma, (uint32_t)chunks);
		release(rdma, m);
		free(m);
		return ret;
	}
	__atomic_store_n(&region->transport_private[rdma->id], (void *)m, __ATOMIC_RELEASE);
	return 0;
}

int mci_rdma_memory_remove(struct mci_rdma *rdma, struct mci_region *region)
{
	struct mci_rdma_memory *m = mci_rdma_memory_of(rdma, region);
	int ret;

	if (!m)
		return 0;
	/* From here on an access through an old key fails at the NIC. */
	ret = release(rdma, m);
	if (ret)
		return ret;
	region->transport_private[rdma->id] = NULL;
	count_out(rdma, m->chunks);
	free(m);
	return 0;
}
