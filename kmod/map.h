/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mappings. An mmap offset of /dev/mooncake is (slot << 42) + offset within the handle's range;
 * slots are module-wide, one per handle, so that one grantee can be zapped alone.
 */
#ifndef MCK_MAP_H
#define MCK_MAP_H

#include <linux/fs.h>
#include <linux/mm.h>

#define MCK_SLOT_SHIFT	 42
#define MCK_SLOT_MAX	 ((1u << (63 - MCK_SLOT_SHIFT)) - 1)
#define MCK_PGOFF_MASK	 ((1ul << (MCK_SLOT_SHIFT - PAGE_SHIFT)) - 1)

struct mck_handle;

int mck_mmap(struct file *file, struct vm_area_struct *vma);

/*
 * Makes @vma, whose low bits of vm_pgoff are the page offset in the handle's range, a mapping of
 * @handle: for mck_mmap() and for the mmap of a dma-buf (whose revocation must zap it itself).
 * Takes a reference to the handle for the VMA. -EINVAL, -EACCES, -ESTALE, -EOPNOTSUPP.
 */
int mck_map_handle(struct mck_handle *handle, struct vm_area_struct *vma);

/* No CPU reaches memory through mappings of @handle's slot any more, until they fault again. */
void mck_map_zap(struct mck_handle *handle);

#endif
