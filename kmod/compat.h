/* SPDX-License-Identifier: GPL-2.0 */
/* The only place that knows kernel versions: 5.10 to 7.x. */
#ifndef MCK_COMPAT_H
#define MCK_COMPAT_H

/* crypto_memneq() */
#if __has_include(<crypto/utils.h>)
#include <crypto/utils.h>
#else
#include <crypto/algapi.h>
#endif
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/version.h>

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

/* How many page table entries show a block of 1 << order pages that begins at its (head) page. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
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

#endif
