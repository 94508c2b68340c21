/* SPDX-License-Identifier: MIT */
/*
 * What the rest of the library may ask about memory of mc_memory_alloc(), and the seam between the
 * files of this folder: memory.c (handles), module.c (memory of the kernel module), named.c (files that
 * outlive the process), listing.c and show.c (what there is), pages.c (page sizes, huge pages, NUMA nodes),
 * prefault.c.
 * Lock order: the table's mutex in memory.c is a leaf.
 */
#ifndef MCI_MEMORY_H
#define MCI_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include <mooncake/memory.h>

#include "kdev/kdev.h"

/*
 * The live mc_memory that wholly contains [@addr, @addr + @length): its descriptor (owned by the memory;
 * -1 if it cannot be shared), the range's offset in it, its content id. Outputs may be NULL.
 * -ENOENT: none (no sentence: memory of other origin is quite normal).
 */
int mci_memory_find(const void *addr, uint64_t length, int *fd, uint64_t *offset, struct mc_uuid *content_id);
/* The same lookup; mc_memory_free() of it is -EBUSY until mci_memory_put(). -ENOENT: none. */
int mci_memory_hold(const void *addr, uint64_t length, mc_memory **memory);
void mci_memory_put(mc_memory *memory);
/* Of a memory that is held: the object of the kernel module that it is, owned by it; *@kdev is NULL for others. */
void mci_memory_object(const mc_memory *memory, struct mci_kdev **kdev, uint32_t *object, uint64_t *length);

/* ---- inside this folder ---- */

#define MCI_PAGE_2M (2ull << 20)
#define MCI_PAGE_1G (1ull << 30)
#define MCI_SIZE_TEXT 24

struct mci_backing { /* a file to be mapped */
	int fd;
	uint64_t length, page_size;
	const char *kind;
	bool reattached; /* content intact */
	struct mc_uuid content_id;
	int dir_fd, data_dir_fd; /* named: where sidecar and data are; else -1 */
	char name[256];		 /* named: else "" */
	uint64_t inode;
	/* of the kernel module; no descriptor then */
	struct mci_kdev *kdev; /* else NULL */
	uint32_t object;
	uint64_t mmap_offset;
};

/* "8.0 GiB"; exact when it is a multiple. */
const char *mci_size_text(uint64_t bytes, char text[MCI_SIZE_TEXT]);
uint64_t mci_base_page(void);
/* Free huge pages of @page_size that nobody has reserved; @node < 0: of all nodes. 0 if none or unknown size.
 */
uint64_t mci_huge_pages_free(uint64_t page_size, int node);
/* -ENOMEM with the counts and the command that adds more. */
int mci_huge_pages_missing(uint64_t page_size, uint64_t length, int node);
/* Bytes that this process can still get: of the machine, and of the memory cgroups it lies in. UINT64_MAX:
 * unknown. */
uint64_t mci_memory_available(void);
/* The same of the cgroups alone. @mount: "/sys/fs/cgroup"; @membership: text of /proc/self/cgroup; v1 and v2.
 */
uint64_t mci_cgroup_available(const char *mount, const char *membership);
int mci_numa_check(int node); /* -EINVAL with a sentence: no such node */
int mci_numa_place(void *addr, uint64_t length, int node);

/*
 * Make every page of a mapping present and writable without changing its content.
 * -ENOMEM, -ENOSPC (file system full), -EFAULT; no sentence.
 */
int mci_prefault(void *addr, uint64_t length, uint64_t page_size);
bool mci_prefault_is_safe(void *addr, uint64_t page_size); /* a full file system is an error, not SIGBUS */

int mci_memory_attr_check(const struct mc_memory_attr *in, struct mc_memory_attr *out);

/*
 * The kernel module: the context that all memory of this process shares, or NULL: there is none, or it is not
 * wanted. @quiet: an error is no news. To be given back.
 */
struct mci_kdev *mci_module_get(bool quiet);
void mci_module_put(struct mci_kdev *kdev);
void mci_module_after_fork(void); /* in the child */
bool mci_module_wanted(void);	  /* by the setting memory.module */
/* Memory without a name; false: let somebody else do it. */
bool mci_module_alloc(const struct mc_memory_attr *attr, struct mci_backing *backing);
/* @taken: by the module; else a file of that name is meant. */
int mci_module_open_named(const struct mc_memory_attr *attr, struct mci_backing *backing, bool *taken);
void mci_module_close(struct mci_backing *backing, bool undo);
int mci_module_list(int (*fn)(const struct mc_memory_entry *entry, void *arg), void *arg);
/* 0: removed; -ENOENT (no sentence): not there; -EBUSY and others. */
int mci_module_unlink(const char *name);

/* Open, lock and size the file of attr->name. The content counts only after mci_named_commit(). */
int mci_named_open(const struct mc_memory_attr *attr, struct mci_backing *backing);
int mci_named_commit(struct mci_backing *backing);
/* Unlock and close. @undo: it was never committed, remove what was created. */
void mci_named_close(struct mci_backing *backing, bool undo);

/* The sidecar of a named memory: the codec, for named.c and its tests. */
#define MCI_SIDECAR_SIZE 72

struct mci_sidecar {
	uint64_t length, page_size, inode;
	struct mc_uuid content_id;
	uint32_t pid;
};

void mci_sidecar_encode(const struct mci_sidecar *sidecar, uint8_t out[MCI_SIDECAR_SIZE]);
int mci_sidecar_decode(const void *in, size_t length, struct mci_sidecar *sidecar); /* -EBADMSG: not whole */

#endif
