// SPDX-License-Identifier: GPL-2.0
/* Counters in debugfs, and STAT. mck_mark_lock orders counts of distinct contexts; below object->lock. */
#include <linux/debugfs.h>
#include <linux/nodemask.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include "context.h"
#include "grant.h"
#include "ioctl.h"
#include "object.h"
#include "stat.h"

atomic64_t mck_counters[MCK_COUNTERS];

static const char * const mck_counter_names[MCK_COUNTERS] = {
	[MCK_COUNT_CONTEXTS] = "contexts",
	[MCK_COUNT_OBJECTS] = "objects",
	[MCK_COUNT_HANDLES] = "handles",
	[MCK_COUNT_ATTACHMENTS] = "attachments",
	[MCK_COUNT_GRANTS] = "grants",
	[MCK_COUNT_MAPPINGS] = "mappings",
	[MCK_COUNT_BUFFER_PAGES] = "buffer_pages",
	[MCK_COUNT_PINNED_PAGES] = "pinned_pages",
	[MCK_COUNT_KEPT] = "kept",
	[MCK_COUNT_KEPT_PAGES] = "kept_pages",
	[MCK_COUNT_DMABUFS] = "dmabufs",
	[MCK_COUNT_USERS] = "users",
	[MCK_COUNT_METADATA_BYTES] = "metadata_bytes",
	[MCK_COUNT_MAX_FREE_BATCH] = "max_free_batch",
	[MCK_COUNT_FAULTS] = "faults",
	[MCK_COUNT_ZAPS] = "zaps",
};

static DEFINE_MUTEX(mck_mark_lock);
static u64 mck_mark;
static struct dentry *mck_dir;

static int counters_show(struct seq_file *m, void *v)
{
	int i;

	for (i = 0; i < MCK_COUNTERS; i++)
		seq_printf(m, "%s %lld\n", mck_counter_names[i], (s64)atomic64_read(&mck_counters[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(counters);

u32 mck_stat_contexts(struct mck_object *object)
{
	struct mck_handle *handle;
	u32 count = 0;
	u64 mark;

	mutex_lock(&mck_mark_lock);
	mark = ++mck_mark;
	list_for_each_entry(handle, &object->handles, node) {
		if (!mck_handle_open(handle) || handle->ctx->mark == mark)
			continue;
		handle->ctx->mark = mark;
		count++;
	}
	mutex_unlock(&mck_mark_lock);
	return count;
}

u32 mck_stat_attached(struct mck_object *object, u32 *dmabufs)
{
	struct mck_handle *handle;
	struct mck_export *export;
	u32 attached = 0;

	lockdep_assert_held(&object->lock);
	*dmabufs = 0;
	list_for_each_entry(handle, &object->handles, node)
		list_for_each_entry(export, &handle->exports, node) {
			(*dmabufs)++;
			attached += export->ops->attached(export);
		}
	return attached;
}

u32 mck_stat_state(struct mck_object *object)
{
	struct mck_handle *handle;
	u32 state = 0;

	lockdep_assert_held(&object->lock);
	if (object->dead)
		state |= MOONCAKE_STATE_REVOKED;
	if (object->kept)
		state |= MOONCAKE_STATE_KEPT;
	if (object->ops->state)
		state |= object->ops->state(object);
	list_for_each_entry(handle, &object->handles, node)
		if (handle->exclusive && mck_handle_open(handle))
			state |= MOONCAKE_STATE_EXCLUSIVE;
	return state;
}

/* Pages and runs of the handle's range; how many pages each node has, if @nodes. */
static void mck_stat_pages(const struct mck_handle *handle, struct mooncake_stat *arg, u64 *nodes)
{
	const struct mck_pages *pages = handle->object->pages;
	unsigned long first = handle->offset >> PAGE_SHIFT;
	unsigned long end = first + DIV_ROUND_UP_ULL(handle->length, PAGE_SIZE);
	unsigned long pfn, next = 0;
	const struct mck_block *block;

	end = min(end, pages->nr_pages);
	for (block = mck_pages_find(pages, first); first < end; block++) {
		unsigned long stop = min_t(unsigned long, end, block->first + block->count);

		pfn = page_to_pfn(block->page) + first - block->first;
		if (!arg->extents || pfn != next)
			arg->extents++;
		next = pfn + stop - first;
		arg->pages += stop - first;
		if (nodes)
			nodes[page_to_nid(block->page)] += stop - first;
		first = stop;
		cond_resched();
	}
	first = handle->offset >> PAGE_SHIFT;
	arg->pinned = mck_pages_held(pages, first, end - first);
}

static void mck_stat_fill(struct mck_handle *handle, struct mooncake_stat *arg, u64 *nodes)
{
	struct mck_object *object = handle->object;

	arg->kind = object->ops->kind;
	arg->rights = handle->rights;
	arg->length = handle->length;
	arg->mmap_offset = mck_handle_mmap_offset(handle);
	arg->owner_uid = from_kuid_munged(current_user_ns(), object->uid);
	arg->mappings = atomic_read(&object->mappings);
	arg->pages = 0;
	arg->extents = 0;
	arg->pinned = 0;
	down_read(&object->lock);
	arg->state = mck_stat_state(object);
	if (handle->revoked)
		arg->state |= MOONCAKE_STATE_REVOKED;
	if (handle->grant)
		arg->state |= MOONCAKE_STATE_ATTACHMENT;
	arg->generation = object->generation;
	memcpy(arg->content_id, object->content_id, sizeof(arg->content_id));
	arg->contexts = mck_stat_contexts(object);
	arg->dmabuf_attached = mck_stat_attached(object, &arg->dmabufs);
	arg->grants = mck_grant_count(object);
	if (object->pages)
		mck_stat_pages(handle, arg, nodes);
	up_read(&object->lock);
}

int mck_stat(struct mck_call *call)
{
	struct mooncake_stat *arg = call->arg;
	u32 room = arg->node_count;
	struct mck_handle *handle;
	u64 *nodes = NULL;
	int ret = 0;

	if (arg->reserved || (!arg->nodes && room))
		return -EINVAL;
	handle = mck_handle_find(call->ctx, arg->id);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	if (room) {
		nodes = kcalloc(nr_node_ids, sizeof(*nodes), GFP_KERNEL_ACCOUNT);
		if (!nodes) {
			ret = -ENOMEM;
			goto out_put;
		}
	}
	mck_stat_fill(handle, arg, nodes);
	arg->node_count = nr_node_ids;
	if (room && copy_to_user(u64_to_user_ptr(arg->nodes), nodes, min(room, nr_node_ids) * sizeof(*nodes)))
		ret = -EFAULT;
	if (!ret)
		ret = mck_respond(call);
	kfree(nodes);
out_put:
	mck_handle_put(handle);
	return ret;
}

int mck_stat_init(void)
{
	/* debugfs may be absent or locked down; its functions accept their own errors. */
	mck_dir = debugfs_create_dir("mooncake", NULL);
	debugfs_create_file("counters", 0444, mck_dir, NULL, &counters_fops);
	return 0;
}

void mck_stat_exit(void)
{
	debugfs_remove_recursive(mck_dir);
}
