/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mappings. An mmap offset of /dev/mooncake is where the handle's slot begins + offset within the handle's
 * range; slots are module-wide, one per handle, so that one grantee can be zapped alone.
 */
#ifndef MCK_MAP_H
#define MCK_MAP_H

#include <linux/fs.h>
#include <linux/mm.h>

/*
 * Slots 1 to 4095 are of 4 GiB each: below 2^44, which is what mmap() of a 32-bit program can say. From there on they
 * are of 4 TiB each, up to 2^63.
 */
#define MCK_SLOT_WIDE	     4096U
#define MCK_SLOT_SHIFT	     32
#define MCK_SLOT_SHIFT_WIDE  42
#define MCK_SLOT_FIRST_WIDE  (MCK_SLOT_WIDE >> (MCK_SLOT_SHIFT_WIDE - MCK_SLOT_SHIFT))
#define MCK_SLOT_MAX	     (MCK_SLOT_WIDE - MCK_SLOT_FIRST_WIDE + (1U << (63 - MCK_SLOT_SHIFT_WIDE)) - 1)

static inline u64 mck_slot_offset(u32 slot)
{
	if (slot < MCK_SLOT_WIDE)
		return (u64)slot << MCK_SLOT_SHIFT;
	return (u64)(slot - MCK_SLOT_WIDE + MCK_SLOT_FIRST_WIDE) << MCK_SLOT_SHIFT_WIDE;
}

static inline unsigned long mck_slot_at(u64 offset)
{
	unsigned long slot = offset >> MCK_SLOT_SHIFT;

	return slot < MCK_SLOT_WIDE ? slot : (offset >> MCK_SLOT_SHIFT_WIDE) - MCK_SLOT_FIRST_WIDE + MCK_SLOT_WIDE;
}

struct mck_handle;

int mck_mmap(struct file *file, struct vm_area_struct *vma);

/*
 * Makes @vma, whose vm_pgoff within the handle's slot is the page offset in the handle's range, a mapping of
 * @handle: for mck_mmap() and for the mmap of a dma-buf (whose revocation must zap it itself).
 * Takes a reference to the handle for the VMA. -EINVAL, -EACCES, -ESTALE, -EOPNOTSUPP.
 */
int mck_map_handle(struct mck_handle *handle, struct vm_area_struct *vma);

/* No CPU reaches memory through mappings of @handle's slot any more, until they fault again. */
void mck_map_zap(struct mck_handle *handle);

#endif
