// SPDX-License-Identifier: GPL-2.0
/*
 * Pins. An interval notifier tells what becomes of the mapping. pin->lock guards what it says: a spinlock, taken below
 * whatever locks the address space is being changed with. All else that follows is done by a work queue.
 */
#include <linux/hugetlb.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include "account.h"
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "netlink.h"
#include "object.h"
#include "pages.h"
#include "pin.h"
#include "region.h"
#include "stat.h"
#include "trace.h"

#define MCK_PIN_CHUNK  (PAGE_SIZE / sizeof(struct page *)) /* pages between two looks at signals */
#define MCK_PIN_BATCH  32U
#define MCK_PIN_ROUNDS 16 /* of checking against a mapping that does not come to rest */

struct mck_pin {
	struct mck_object object;
	struct mmu_interval_notifier notifier; /* holds the mm_struct, not what it maps */
	struct work_struct work;
	unsigned long addr;
	bool readable_only;
	spinlock_t lock; /* all that follows */
	bool live;	 /* the object is initialized: somebody may want to know */
	bool queued;	 /* the work holds a reference to the object */
	bool gone;	 /* part of the range is mapped no more, or something else is */
	bool suspect;	 /* page table entries went since the last check */
};

/* What a store of pinned pages still owes. */
struct mck_pin_charge {
	struct mck_locked locked;
	bool dirty;
};

static struct workqueue_struct *mck_pin_queue;

static struct mck_pin *mck_pin_of(struct mck_object *object)
{
	return container_of(object, struct mck_pin, object);
}

static void mck_pin_unpin_block(const struct mck_block *block, bool dirty)
{
	struct page *batch[MCK_PIN_BATCH];
	u32 done = 0, i, nr;

	while (done < block->count) {
		nr = min(block->count - done, MCK_PIN_BATCH);
		for (i = 0; i < nr; i++)
			batch[i] = mck_nth_page(block->page, done + i);
		unpin_user_pages_dirty_lock(batch, nr, dirty);
		done += nr;
		cond_resched();
	}
}

static void mck_pin_free_pages(struct mck_pages *pages)
{
	struct mck_pin_charge *charge = pages->private;
	unsigned long i;

	for (i = 0; i < pages->nr_blocks; i++)
		mck_pin_unpin_block(&pages->blocks[i], charge->dirty);
	mck_count(MCK_COUNT_PINNED_PAGES, -(s64)pages->nr_pages);
	mck_user_uncharge(pages->user, (u64)charge->locked.pages << PAGE_SHIFT);
	mck_locked_uncharge(&charge->locked);
	mck_free(charge, sizeof(*charge));
	mck_pages_destroy(pages);
}

static struct mck_pages *mck_pin_try_store(unsigned long nr)
{
	struct mck_pin_charge *charge;
	struct mck_pages *pages;
	struct mck_user *user;
	int ret;

	user = mck_user_find(current_euid());
	if (IS_ERR(user))
		return ERR_CAST(user);
	charge = mck_zalloc(sizeof(*charge));
	if (!charge) {
		ret = -ENOMEM;
		goto err_user;
	}
	ret = mck_locked_charge(&charge->locked, nr);
	if (ret)
		goto err_free;
	ret = mck_user_charge(user, (u64)nr << PAGE_SHIFT);
	if (ret)
		goto err_locked;
	pages = mck_pages_create(mck_pin_free_pages);
	if (IS_ERR(pages)) {
		ret = PTR_ERR(pages);
		goto err_uncharge;
	}
	pages->private = charge;
	pages->user = user;
	pages->foreign = true;
	return pages;

err_uncharge:
	mck_user_uncharge(user, (u64)nr << PAGE_SHIFT);
err_locked:
	mck_locked_uncharge(&charge->locked);
err_free:
	mck_free(charge, sizeof(*charge));
err_user:
	mck_user_put(user);
	return ERR_PTR(ret);
}

/* An empty store that is charged for @nr pages: putting it gives back the charge and the pages that it got. */
static struct mck_pages *mck_pin_store(unsigned long nr)
{
	struct mck_pages *pages = mck_pin_try_store(nr);

	if (pages != ERR_PTR(-ENOMEM) && pages != ERR_PTR(-EDQUOT))
		return pages;
	/* A large pin that has just ended may still be charged. */
	mck_pages_flush();
	return mck_pin_try_store(nr);
}

static bool mck_pin_is_dax(struct vm_area_struct *vma)
{
	return vma->vm_file && S_ISCHR(file_inode(vma->vm_file)->i_mode) &&
	       vma->vm_file->f_mapping->host->i_sb->s_magic == DAXFS_MAGIC;
}

/* tmpfs, memfd, shared anonymous and System V memory. Nodes of devices also lie in a tmpfs, and are no memory of it. */
static bool mck_pin_is_shmem(struct vm_area_struct *vma)
{
	return vma->vm_file && S_ISREG(file_inode(vma->vm_file)->i_mode) &&
	       file_inode(vma->vm_file)->i_sb->s_magic == TMPFS_MAGIC;
}

/* Memory whose pages can be held for long without harm: no file system waits for them. */
static int mck_pin_fits(struct vm_area_struct *vma, u32 kind)
{
	if (mck_pin_is_dax(vma))
		return 0;
	if (kind == MOONCAKE_KIND_CXL || vma->vm_flags & (VM_IO | VM_PFNMAP))
		return -EOPNOTSUPP;
	if (vma_is_anonymous(vma) || is_vm_hugetlb_page(vma))
		return 0;
	return mck_pin_is_shmem(vma) && vma->vm_flags & VM_SHARED ? 0 : -EOPNOTSUPP;
}

/* mmap_lock is held. All of the range is mapped and fits; *@writable is cleared if part of it may not be written. */
static int mck_pin_survey(unsigned long addr, unsigned long end, u32 kind, bool *writable)
{
	struct vm_area_struct *vma;
	int ret;

	while (addr < end) {
		vma = find_vma(current->mm, addr);
		if (!vma || vma->vm_start > addr)
			return -EFAULT;
		ret = mck_pin_fits(vma, kind);
		if (ret)
			return ret;
		if (!(vma->vm_flags & VM_WRITE))
			*writable = false;
		addr = vma->vm_end;
	}
	return 0;
}

static int mck_pin_survey_all(struct mck_pin *pin, u32 kind)
{
	bool writable = true;
	int ret;

	if (mmap_read_lock_killable(current->mm))
		return -EINTR;
	ret = mck_pin_survey(pin->addr, pin->addr + pin->object.length, kind, &writable);
	mmap_read_unlock(current->mm);
	pin->readable_only = !writable && MCK_PIN_CAN_UNSHARE;
	return ret;
}

/* Pins up to @nr pages. What is mapped may have changed since the survey: it is looked at again, under one lock. */
static long mck_pin_some(struct mck_pin *pin, unsigned long addr, unsigned long nr, u32 kind, struct page **batch)
{
	unsigned int flags = FOLL_LONGTERM | (pin->readable_only ? 0 : FOLL_WRITE);
	bool writable = true;
	long got;

	if (mmap_read_lock_killable(current->mm))
		return -EINTR;
	got = mck_pin_survey(addr, addr + (nr << PAGE_SHIFT), kind, &writable);
	if (!got)
		got = mck_pin_user_pages(addr, nr, flags, batch);
	mmap_read_unlock(current->mm);
	return got ?: -EFAULT;
}

static int mck_pin_fill(struct mck_pin *pin, struct mck_pages *pages, unsigned long nr, u32 kind)
{
	struct page **batch = (struct page **)__get_free_page(GFP_KERNEL);
	long got, i;
	int ret = 0;

	if (!batch)
		return -ENOMEM;
	while (!ret && pages->nr_pages < nr) {
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		got = mck_pin_some(pin, pin->addr + (pages->nr_pages << PAGE_SHIFT),
				   min(nr - pages->nr_pages, MCK_PIN_CHUNK), kind, batch);
		if (got < 0) {
			ret = got;
			break;
		}
		for (i = 0; i < got; i++) {
			ret = mck_pages_add(pages, batch[i], 1, true);
			if (ret) {
				unpin_user_pages(batch + i, got - i);
				break;
			}
			mck_count(MCK_COUNT_PINNED_PAGES, 1);
		}
		cond_resched();
	}
	free_page((unsigned long)batch);
	return ret;
}

/* The object's part of what the notifier said. Holds a reference to the object. */
static void mck_pin_work(struct work_struct *work)
{
	struct mck_pin *pin = container_of(work, struct mck_pin, work);
	struct mck_object *object = &pin->object;
	struct mck_handle *handle;
	bool gone;

	spin_lock(&pin->lock);
	pin->queued = false;
	gone = pin->gone;
	spin_unlock(&pin->lock);
	if (gone) {
		mck_object_kill(object);
	} else {
		down_read(&object->lock);
		list_for_each_entry(handle, &object->handles, node)
			mck_event_post(handle, MOONCAKE_EVENT_SUSPECT, 0, object->generation);
		up_read(&object->lock);
	}
	mck_object_put(object);
}

/* pin->lock is held. The last reference must not be dropped here: the work holds one for as long as it is queued. */
static void mck_pin_tell(struct mck_pin *pin)
{
	lockdep_assert_held(&pin->lock);
	if (!pin->live || pin->queued || !kref_get_unless_zero(&pin->object.ref))
		return;
	pin->queued = true;
	queue_work(mck_pin_queue, &pin->work);
}

static bool mck_pin_invalidate(struct mmu_interval_notifier *notifier, const struct mmu_notifier_range *range,
			       unsigned long seq)
{
	struct mck_pin *pin = container_of(notifier, struct mck_pin, notifier);
	bool news = false;

	spin_lock(&pin->lock);
	mmu_interval_set_seq(notifier, seq);
	switch (range->event) {
	case MMU_NOTIFY_PROTECTION_VMA:
	case MMU_NOTIFY_PROTECTION_PAGE:
	case MMU_NOTIFY_SOFT_DIRTY:
		break; /* the pages stay */
	case MMU_NOTIFY_UNMAP:
	case MMU_NOTIFY_RELEASE:
		news = !pin->gone;
		pin->gone = true;
		break;
	default:
		news = !pin->gone && !pin->suspect;
		pin->suspect = true;
	}
	if (news)
		mck_pin_tell(pin);
	spin_unlock(&pin->lock);
	return true;
}

static const struct mmu_interval_notifier_ops mck_pin_notifier_ops = {
	.invalidate = mck_pin_invalidate,
};

/*
 * mmap_lock is held for reading: are the pages in the page tables, brought in if need be, those that we hold? How many
 * were looked at: fewer when a signal for the caller, which says nothing of the pages, ended it.
 */
static long mck_pin_compare_some(struct mck_pin *pin, struct mck_pages *pages, unsigned long first, unsigned long nr,
				 struct page **batch)
{
	long got, ret, i;

	got = mck_get_pages_remote(pin->notifier.mm, pin->addr + (first << PAGE_SHIFT), nr, batch);
	if (got <= 0)
		return got == -EINTR || got == -ENOMEM ? got : -ESTALE;
	ret = got;
	for (i = 0; i < got; i++) {
		if (batch[i] != mck_pages_at(pages, first + i))
			ret = -ESTALE;
		put_page(batch[i]);
	}
	return ret;
}

static int mck_pin_compare(struct mck_pin *pin)
{
	struct mck_pages *pages = pin->object.pages;
	struct mm_struct *mm = pin->notifier.mm;
	unsigned long first = 0;
	struct page **batch;
	long ret = 0;

	batch = (struct page **)__get_free_page(GFP_KERNEL);
	if (!batch)
		return -ENOMEM;
	if (!mmget_not_zero(mm)) {
		ret = -ESTALE;
		goto out_free;
	}
	while (ret >= 0 && first < pages->nr_pages) {
		if (fatal_signal_pending(current) || mmap_read_lock_killable(mm)) {
			ret = -EINTR;
			break;
		}
		ret = mck_pin_compare_some(pin, pages, first, min(pages->nr_pages - first, MCK_PIN_CHUNK), batch);
		mmap_read_unlock(mm);
		first += max(ret, 0L);
		cond_resched();
	}
	mmput(mm);
out_free:
	free_page((unsigned long)batch);
	return min(ret, 0L);
}

/* One round: -EAGAIN when the mapping changed meanwhile. */
static int mck_pin_check_once(struct mck_pin *pin)
{
	unsigned long seq = mmu_interval_read_begin(&pin->notifier);
	int ret = mck_pin_compare(pin);

	spin_lock(&pin->lock);
	if (pin->gone)
		ret = -ESTALE;
	else if (!ret && mmu_interval_read_retry(&pin->notifier, seq))
		ret = -EAGAIN;
	else if (!ret)
		pin->suspect = false;
	spin_unlock(&pin->lock);
	return ret;
}

/* A range that never comes to rest was found good each time; it stays suspect. */
static int mck_pin_settle(struct mck_pin *pin)
{
	int round, ret = 0;

	for (round = 0; round < MCK_PIN_ROUNDS; round++) {
		if (!READ_ONCE(pin->suspect) && !READ_ONCE(pin->gone))
			return 0;
		ret = READ_ONCE(pin->gone) ? -ESTALE : mck_pin_check_once(pin);
		if (ret != -EAGAIN)
			return ret;
	}
	return 0;
}

static int mck_pin_check(struct mck_object *object)
{
	int ret = mck_pin_settle(mck_pin_of(object));

	if (ret == -ESTALE)
		mck_object_kill(object);
	return ret;
}

static u32 mck_pin_state(struct mck_object *object)
{
	struct mck_pin *pin = mck_pin_of(object);

	return READ_ONCE(pin->suspect) && !READ_ONCE(pin->gone) ? MOONCAKE_STATE_SUSPECT : 0;
}

static void mck_pin_release(struct mck_object *object)
{
	struct mck_pin *pin = mck_pin_of(object);

	mmu_interval_notifier_remove(&pin->notifier);
	mck_free(pin, sizeof(*pin));
}

static const struct mck_object_ops mck_pin_ops = {
	.kind = MOONCAKE_KIND_PIN,
	.check = mck_pin_check,
	.state = mck_pin_state,
	.release = mck_pin_release,
};

static const struct mck_object_ops mck_pin_dax_ops = {
	.kind = MOONCAKE_KIND_CXL,
	.check = mck_pin_check,
	.state = mck_pin_state,
	.release = mck_pin_release,
};

static int mck_pin_check_range(u64 addr, u64 length)
{
	u64 end;

	if (!length || !PAGE_ALIGNED(addr) || !PAGE_ALIGNED(length) || length > MOONCAKE_LENGTH_MAX)
		return -EINVAL;
	return check_add_overflow(addr, length, &end) ? -EOVERFLOW : 0;
}

/* The store with the pages in it; the notifier is registered from before the first page is pinned. */
static struct mck_pages *mck_pin_take(struct mck_pin *pin, u32 kind)
{
	unsigned long nr = pin->object.length >> PAGE_SHIFT;
	struct mck_pin_charge *charge;
	struct mck_pages *pages;
	int ret;

	ret = mck_pin_survey_all(pin, kind);
	if (ret)
		return ERR_PTR(ret);
	pages = mck_pin_store(nr);
	if (IS_ERR(pages))
		return pages;
	charge = pages->private;
	charge->dirty = !pin->readable_only;
	ret = mmu_interval_notifier_insert(&pin->notifier, current->mm, pin->addr, pin->object.length,
					   &mck_pin_notifier_ops);
	if (ret)
		goto err_pages;
	ret = mck_pin_fill(pin, pages, nr, kind);
	if (ret)
		goto err_notifier;
	return pages;

err_notifier:
	mmu_interval_notifier_remove(&pin->notifier);
err_pages:
	mck_pages_put(pages);
	return ERR_PTR(ret);
}

/* A reference to a new object whose mapping was still the same when all of it was pinned. */
static struct mck_pin *mck_pin_new(u64 addr, u64 length, u32 kind)
{
	struct mck_pin *pin = mck_zalloc(sizeof(*pin));
	struct mck_pages *pages;
	int ret;

	if (!pin)
		return ERR_PTR(-ENOMEM);
	pin->addr = addr;
	pin->object.length = length;
	spin_lock_init(&pin->lock);
	INIT_WORK(&pin->work, mck_pin_work);
	pages = mck_pin_take(pin, kind);
	if (IS_ERR(pages)) {
		ret = PTR_ERR(pages);
		goto err_free;
	}
	ret = mck_object_init(&pin->object, kind == MOONCAKE_KIND_CXL ? &mck_pin_dax_ops : &mck_pin_ops, length, pages);
	if (ret)
		goto err_notifier;
	spin_lock(&pin->lock);
	pin->live = true;
	spin_unlock(&pin->lock);
	ret = mck_pin_settle(pin);
	if (ret) {
		mck_object_put(&pin->object);
		return ERR_PTR(ret == -ESTALE ? -EFAULT : ret);
	}
	trace_mooncake_pin(&pin->object);
	mck_netlink_event(&pin->object, MOONCAKE_EVENT_CREATED);
	return pin;

err_notifier:
	mmu_interval_notifier_remove(&pin->notifier);
err_free:
	mck_free(pin, sizeof(*pin));
	return ERR_PTR(ret);
}

struct mck_handle *mck_pin_create(struct mck_context *ctx, u64 addr, u64 length, u32 kind)
{
	u32 rights = MOONCAKE_RIGHT_READ;
	struct mck_handle *handle;
	struct mck_pin *pin;
	int ret;

	ret = mck_pin_check_range(addr, length);
	if (ret)
		return ERR_PTR(ret);
	pin = mck_pin_new(addr, length, kind);
	if (IS_ERR(pin))
		return ERR_CAST(pin);
	if (!pin->readable_only)
		rights |= MOONCAKE_RIGHT_WRITE;
	handle = mck_handle_create_range(ctx, &pin->object, 0, length, rights, NULL);
	mck_object_put(&pin->object);
	/* It was unmapped in the very moment. */
	return handle == ERR_PTR(-ESTALE) ? ERR_PTR(-EFAULT) : handle;
}

int mck_region_pin(struct mck_call *call)
{
	struct mooncake_region_pin *arg = call->arg;
	struct mck_handle *handle;
	int ret;

	if (arg->reserved)
		return -EINVAL;
	handle = mck_pin_create(call->ctx, arg->addr, arg->length, MOONCAKE_KIND_PIN);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	arg->id = handle->id;
	ret = mck_respond(call);
	if (ret)
		mck_handle_abort(handle);
	else
		mck_handle_publish(handle);
	return ret;
}

int mck_pin_init(void)
{
	mck_pin_queue = alloc_workqueue("mooncake_pin", WQ_UNBOUND, 0);
	return mck_pin_queue ? 0 : -ENOMEM;
}

/* Waits for what is queued: the references that it holds are the last ones of their objects. */
void mck_pin_exit(void)
{
	destroy_workqueue(mck_pin_queue);
}
