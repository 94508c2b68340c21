// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings of handles. A fault checks under object->lock that the handle is alive and inserts
 * pages there and then; REVOKE takes the lock for writing before it zaps, so no page comes in after.
 */
#include <linux/mm.h>
#include "compat.h"
#include "context.h"
#include "map.h"
#include "object.h"
#include "stat.h"

#define MCK_FAULT_BATCH 16U
#define MCK_FAULT_PAGES 64UL /* brought in by one fault, from the page touched on */

/* Slots begin at multiples of their size; a dma-buf's offsets begin at 0. */
static unsigned long mck_map_index(const struct mck_handle *handle, unsigned long pgoff)
{
	unsigned int shift = handle->slot < MCK_SLOT_WIDE ? MCK_SLOT_SHIFT : MCK_SLOT_SHIFT_WIDE;

	return pgoff & ((1UL << (shift - PAGE_SHIFT)) - 1);
}

static void mck_vma_open(struct vm_area_struct *vma)
{
	struct mck_handle *handle = vma->vm_private_data;

	mck_handle_get(handle);
	atomic_inc(&handle->mappings);
	atomic_inc(&handle->object->mappings);
	mck_count(MCK_COUNT_MAPPINGS, 1);
}

static void mck_vma_close(struct vm_area_struct *vma)
{
	struct mck_handle *handle = vma->vm_private_data;

	atomic_dec(&handle->mappings);
	atomic_dec(&handle->object->mappings);
	mck_count(MCK_COUNT_MAPPINGS, -1);
	mck_handle_put(handle);
}

/* Page tables hold a reference to each page, so that it outlives REPLACE and the object's end. */
static vm_fault_t mck_fault_pages(struct mck_object *object, struct vm_fault *vmf, unsigned long index,
				  unsigned long nr)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PAGE_MASK;
	const struct mck_block *block;
	struct page *batch[MCK_FAULT_BATCH];
	unsigned long done = 0;
	int ret = 0;

	if (!object->pages)
		return VM_FAULT_SIGBUS;
	block = mck_pages_find(object->pages, index);
	while (block && done < nr) {
		unsigned long want, left;

		for (want = 0; want < MCK_FAULT_BATCH && done + want < nr; want++) {
			if (index + want >= block->first + block->count)
				block = mck_pages_find(object->pages, index + want);
			if (!block)
				break;
			batch[want] = mck_nth_page(block->page, index + want - block->first);
		}
		left = want;
		ret = vm_insert_pages(vma, addr, batch, &left);
		done += want - left;
		/* Somebody else brought in the next one. For the page touched that is as good. */
		if (ret || left)
			break;
		index += want;
		addr += want << PAGE_SHIFT;
	}
	mck_count(MCK_COUNT_FAULTS, 1);
	if (done || ret == -EBUSY)
		return VM_FAULT_NOPAGE;
	return ret == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
}

static vm_fault_t mck_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct mck_handle *handle = vma->vm_private_data;
	struct mck_object *object = handle->object;
	unsigned long offset = mck_map_index(handle, vmf->pgoff);
	unsigned long nr = handle->length >> PAGE_SHIFT;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	if (offset >= nr)
		return VM_FAULT_SIGBUS;
	nr = min3(nr - offset, MCK_FAULT_PAGES, (vma->vm_end - (vmf->address & PAGE_MASK)) >> PAGE_SHIFT);
	offset += handle->offset >> PAGE_SHIFT;
	down_read(&object->lock);
	if (!mck_handle_alive(handle))
		ret = object->ops->fault ? object->ops->fault(object, vmf, offset) :
					   mck_fault_pages(object, vmf, offset, nr);
	up_read(&object->lock);
	return ret;
}

static const struct vm_operations_struct mck_vm_ops = {
	.open = mck_vma_open,
	.close = mck_vma_close,
	.fault = mck_fault,
};

int mck_map_handle(struct mck_handle *handle, struct vm_area_struct *vma)
{
	struct mck_object *object = handle->object;
	unsigned long offset = mck_map_index(handle, vma->vm_pgoff);
	unsigned long nr = handle->length >> PAGE_SHIFT;
	unsigned long set = VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP;
	unsigned long clear = 0;
	int ret;

	if (!(vma->vm_flags & VM_MAYSHARE)) /* VM_SHARED goes where the file may not be written */
		return -EINVAL;
	if (!(object->ops->can & MCK_CAN_MAP))
		return -EOPNOTSUPP;
	if (!(handle->rights & MOONCAKE_RIGHT_WRITE)) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		clear |= VM_MAYWRITE;
	}
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	clear |= VM_MAYEXEC;
	if (offset >= nr || vma_pages(vma) > nr - offset)
		return -EINVAL;

	/* VM_MIXEDMAP now: inserting the first page would otherwise have to change the flags, below mmap_lock. */
	set |= object->ops->fault ? VM_IO | VM_PFNMAP : VM_MIXEDMAP;
	down_read(&object->lock);
	ret = mck_handle_alive(handle);
	if (!ret && object->ops->mmap)
		ret = object->ops->mmap(object, vma);
	up_read(&object->lock);
	if (ret)
		return ret;
	mck_vm_flags_mod(vma, set, clear);
	vma->vm_ops = &mck_vm_ops;
	vma->vm_private_data = handle;
	mck_vma_open(vma);
	return 0;
}

int mck_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct mck_handle *handle = mck_handle_by_slot(mck_slot_at((u64)vma->vm_pgoff << PAGE_SHIFT));
	int ret = -EINVAL;

	if (!handle)
		return -EINVAL;
	/* A slot of another context, or of an id that is no more, is no slot. */
	if (handle->ctx == file->private_data && READ_ONCE(handle->id))
		ret = mck_map_handle(handle, vma);
	mck_handle_put(handle);
	return ret;
}

void mck_map_zap(struct mck_handle *handle)
{
	if (!handle->slot)
		return;
	unmap_mapping_range(mck_context_mapping(), mck_handle_mmap_offset(handle), handle->length, 1);
	mck_count(MCK_COUNT_ZAPS, 1);
}
