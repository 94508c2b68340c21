/* SPDX-License-Identifier: GPL-2.0 */
/* The only place that knows kernel versions: 5.10 to 7.x. */
#ifndef MCK_COMPAT_H
#define MCK_COMPAT_H

#include <linux/dma-buf.h>
#include <linux/file.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/version.h>

/* crypto_memneq() */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
#include <crypto/algapi.h>
#else
#include <crypto/utils.h>
#endif

#ifndef CONFIG_64BIT
#error "mooncake.ko needs a 64-bit kernel: its mmap offsets take 62 bits"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 10, 0)
#error "mooncake.ko needs Linux 5.10 or newer"
#endif

/* vma->vm_flags became read-only, with accessors, in 6.3. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void mck_vm_flags_mod(struct vm_area_struct *vma, unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#else
static inline void mck_vm_flags_mod(struct vm_area_struct *vma, unsigned long set, unsigned long clear)
{
	vm_flags_mod(vma, set, clear);
}
#endif

/* The argument of MODULE_IMPORT_NS: no such thing before 5.16 for dma-buf, a bare word before 6.13, then a string. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 16, 0)
#define MCK_IMPORT_DMA_BUF()
#elif LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
#define MCK_IMPORT_DMA_BUF() MODULE_IMPORT_NS(DMA_BUF)
#else
#define MCK_IMPORT_DMA_BUF() MODULE_IMPORT_NS("DMA_BUF")
#endif

/*
 * How many page table entries show a block of @count pages that begins at its (head) page. Up to 6.9 folio_mapcount()
 * calls what modules have not.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 10, 0)
static inline long mck_block_mapcount(struct page *page, unsigned long count)
{
	unsigned long i;
	long sum = 0;

	for (i = 0; i < count; i++)
		sum += page_mapcount(page + i);
	return sum;
}
#else
static inline long mck_block_mapcount(struct page *page, unsigned long count)
{
	return folio_mapcount(page_folio(page));
}
#endif

/* Groups whose messages only administrators may hear: the flag came with 6.7 and went into stable kernels. */
#ifdef GENL_MCAST_CAP_SYS_ADMIN
#define MCK_GENL_ADMIN_GROUP .flags = GENL_MCAST_CAP_SYS_ADMIN
#else
#define MCK_GENL_ADMIN_GROUP
#endif

/* Pages of the caller, pinned; mmap_lock is held and stays so. The unused argument went in 6.5. */
static inline long mck_pin_user_pages(unsigned long addr, unsigned long nr, unsigned int flags, struct page **pages)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	return pin_user_pages(addr, nr, flags, pages, NULL);
#else
	return pin_user_pages(addr, nr, flags, pages);
#endif
}

/* Pages of any address space, referenced; mmap_lock is held and stays so. */
static inline long mck_get_pages_remote(struct mm_struct *mm, unsigned long addr, unsigned long nr, struct page **pages)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	return get_user_pages_remote(mm, addr, nr, 0, pages, NULL, NULL);
#else
	return get_user_pages_remote(mm, addr, nr, 0, pages, NULL);
#endif
}

/* Read-only pins that do not come loose from what the process sees: since 6.2 they unshare. */
#define MCK_PIN_CAN_UNSHARE (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0))

/* CXL windows in the resource tree: since 6.0. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 0, 0)
#define MCK_HAS_CXL_WINDOWS 0
#define MCK_DESC_CXL	    IORES_DESC_NONE
#else
#define MCK_HAS_CXL_WINDOWS 1
#define MCK_DESC_CXL	    IORES_DESC_CXL
#endif

/* A reference to a file that may be on its way out. */
static inline bool mck_file_tryget(struct file *file)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
	return get_file_rcu(file);
#else
	return get_file_active(&file);
#endif
}

/* Telling an importer to move: the callback got another name in 7.0, and became optional. */
static inline void mck_dmabuf_tell(struct dma_buf_attachment *attach)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
	attach->importer_ops->move_notify(attach);
#else
	if (attach->importer_ops->invalidate_mappings)
		attach->importer_ops->invalidate_mappings(attach);
#endif
}

/* Whether the kernel pins for dynamic importers while they have a mapping: an option up to 7.0, and then never. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
#define MCK_DMABUF_MAPPING_PINS (!IS_ENABLED(CONFIG_DMABUF_MOVE_NOTIFY))
#else
#define MCK_DMABUF_MAPPING_PINS 0
#endif

/* The kernel's mapping of a dma-buf: an address, since 5.11 a struct, since 5.18 of another name; locking since 6.2. */
struct mck_dmabuf_map {
	void *addr;
	void __iomem *io;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 18, 0)
	struct iosys_map map;
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
	struct dma_buf_map map;
#endif
};

static inline int mck_dmabuf_vmap(struct dma_buf *dmabuf, struct mck_dmabuf_map *to)
{
	int ret = 0;

	to->addr = NULL;
	to->io = NULL;
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
	to->addr = dma_buf_vmap(dmabuf);
	if (!to->addr)
		ret = -EOPNOTSUPP;
#else
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	ret = dma_buf_vmap(dmabuf, &to->map);
#else
	ret = dma_buf_vmap_unlocked(dmabuf, &to->map);
#endif
	if (!ret && to->map.is_iomem)
		to->io = to->map.vaddr_iomem;
	else if (!ret)
		to->addr = to->map.vaddr;
#endif
	return ret;
}

static inline void mck_dmabuf_vunmap(struct dma_buf *dmabuf, struct mck_dmabuf_map *from)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
	dma_buf_vunmap(dmabuf, from->addr);
#elif LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	dma_buf_vunmap(dmabuf, &from->map);
#else
	dma_buf_vunmap_unlocked(dmabuf, &from->map);
#endif
}

#endif
