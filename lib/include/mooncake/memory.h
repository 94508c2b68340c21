/* SPDX-License-Identifier: MIT */
/* Memory fit for transfers: huge pages, NUMA placement, sharing, names that survive the process. */
#ifndef MOONCAKE_MEMORY_H
#define MOONCAKE_MEMORY_H

#include <mooncake/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define MC_NUMA_ANY (-1)

/* struct mc_memory_attr.flags */
#define MC_MEMORY_LOCK (1u << 0)     /* mlock(); fails with -ENOMEM or -EPERM beyond RLIMIT_MEMLOCK */
#define MC_MEMORY_PREFAULT (1u << 1) /* touch every page now, with all cores */
#define MC_MEMORY_PRIVATE (1u << 2)  /* anonymous memory: not shareable by descriptor */
#define MC_MEMORY_EXCLUSIVE \
	(1u << 3) /* named: refuse with -EBUSY if another process holds it (default for named) */
#define MC_MEMORY_CREATE (1u << 4)   /* named: fail with -EEXIST if it exists already */
#define MC_MEMORY_EXISTING (1u << 5) /* named: fail with -ENOENT if it does not exist */
#define MC_MEMORY_NO_MODULE \
	(1u << 6) /* not from the kernel module: a memfd, or a file, as where there is none */

/**
 * struct mc_memory_attr - what to allocate
 * @size: sizeof(struct mc_memory_attr)
 * @flags: MC_MEMORY_* bits
 * @length: bytes; rounded up to the page size
 * @numa_node: node to place the pages on, or MC_NUMA_ANY
 * @page_size: 0 = largest that is there without being reserved by hand (2 MiB if free huge pages
 *             suffice, else the base page), or exactly 4096, 2 MiB, 1 GiB
 *             Memory of base pages comes from the kernel module where that is loaded and this process may
 *             use it (setting memory.module), else from a memfd or a file: same names, same behaviour
 * @name: NULL, or a name under which the memory outlives the process (hot restart): 1 to 200
 *        bytes of [A-Za-z0-9._-], not beginning with a dot
 */
struct mc_memory_attr {
	size_t size;
	uint32_t flags;
	int32_t numa_node;
	uint64_t length;
	uint64_t page_size;
	const char *name;
	uint64_t reserved[4];
};

#define MC_MEMORY_ATTR_INIT                                                     \
	{                                                                       \
		.size = sizeof(struct mc_memory_attr), .numa_node = MC_NUMA_ANY \
	}

/**
 * struct mc_memory_info - what was allocated
 * @length: bytes mapped
 * @page_size: bytes of a page
 * @kind: "memfd", "hugetlb-memfd", "tmpfs", "hugetlbfs", "anonymous", "module", "module-kept" (named)
 * @fd: file descriptor behind the mapping, or -1 (anonymous, module); owned by the memory
 * @reattached: 1 if named memory existed and its content is intact, else 0
 * @content_id: changes whenever the content can not be what it was
 * @prefault_ns: time pre-faulting took, 0 if not asked
 */
struct mc_memory_info {
	size_t size;
	uint64_t length;
	uint64_t page_size;
	const char *kind;
	int fd;
	int reattached;
	struct mc_uuid content_id;
	uint64_t prefault_ns;
	uint64_t reserved[4];
};

int mc_memory_alloc(const struct mc_memory_attr *attr, mc_memory **memory);
int mc_memory_free(mc_memory *memory);
void *mc_memory_addr(const mc_memory *memory);
int mc_memory_info(const mc_memory *memory, struct mc_memory_info *info);
int mc_memory_unlink(const char *name);

/**
 * struct mc_memory_entry - a named memory, for mc_memory_list()
 * @holder_pid: 0 = held by nobody, -1 = by somebody who is not seen from here
 * @kind: "tmpfs", "hugetlbfs", "module-kept"
 * @content_id: zeros if it is not known
 * @generation, @contexts, @mappings, @grants, @dmabufs: of "module-kept", else 0: how often it was opened
 *      exclusively or revoked; who has it open or attached; mappings; live grants; dma-bufs
 */
struct mc_memory_entry {
	size_t size;
	const char *name;
	uint64_t length;
	uint64_t page_size;
	int holder_pid;
	uint32_t contexts;
	const char *kind;
	struct mc_uuid content_id;
	uint64_t generation;
	uint32_t mappings, grants, dmabufs, reserved0;
	uint64_t reserved[4];
};
int mc_memory_list(int (*fn)(const struct mc_memory_entry *entry, void *arg), void *arg);

/* mc_memory_revoke(): give the memory fresh, zeroed pages, so that DMA that goes on hits orphans. */
#define MC_MEMORY_REPLACE (1u << 0)

/**
 * struct mc_memory_revoked - what a revocation could not end
 * @pinned_pages: pages that a NIC's registration, io_uring or O_DIRECT still holds
 * @dmabuf_attached: devices attached to dma-bufs of it
 * @generation: of the memory, from now on
 */
struct mc_memory_revoked {
	size_t size;
	uint64_t pinned_pages;
	uint64_t generation;
	uint32_t dmabuf_attached, reserved0;
	uint64_t reserved[4];
};
int mc_memory_revoke(const char *name, uint32_t flags, struct mc_memory_revoked *revoked);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
