// SPDX-License-Identifier: GPL-2.0
/*
 * Page stores. Building one can be killed; giving back a large one is done by a work queue, off the
 * path of whoever dropped the last reference, with a chance to reschedule every 512 pages at most.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "account.h"
#include "compat.h"
#include "pages.h"
#include "stat.h"
#include "trace.h"

#define MCK_ORDER_MAX	9U	/* 2 MiB, and what may be freed in one go */
#define MCK_FREE_INLINE 16384UL /* pages: more go to the work queue */
#define MCK_BLOCKS_MIN	64UL

static struct workqueue_struct *mck_free_queue;

static void mck_pages_work(struct work_struct *work)
{
	struct mck_pages *pages = container_of(work, struct mck_pages, work);

	pages->free(pages);
}

struct mck_pages *mck_pages_create(void (*free)(struct mck_pages *pages))
{
	struct mck_pages *pages = mck_zalloc(sizeof(*pages));

	if (!pages)
		return ERR_PTR(-ENOMEM);
	kref_init(&pages->ref);
	pages->free = free;
	INIT_WORK(&pages->work, mck_pages_work);
	return pages;
}

static int mck_pages_grow(struct mck_pages *pages)
{
	unsigned long max = max(pages->max_blocks * 2, MCK_BLOCKS_MIN);
	size_t size = max * sizeof(*pages->blocks);
	struct mck_block *blocks;

	/* 256 GiB in single pages take 2 GiB, which kvmalloc() warns of. */
	blocks = size <= INT_MAX ? kvmalloc(size, GFP_KERNEL_ACCOUNT) :
				   __vmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!blocks)
		return -ENOMEM;
	if (pages->nr_blocks)
		memcpy(blocks, pages->blocks, pages->nr_blocks * sizeof(*blocks));
	kvfree(pages->blocks);
	mck_count(MCK_COUNT_METADATA_BYTES, (max - pages->max_blocks) * sizeof(*blocks));
	pages->blocks = blocks;
	pages->max_blocks = max;
	return 0;
}

int mck_pages_add(struct mck_pages *pages, struct page *page, u32 count, bool join)
{
	struct mck_block *last;
	int ret;

	if (join && pages->nr_blocks) {
		last = &pages->blocks[pages->nr_blocks - 1];
		if (page_to_pfn(last->page) + last->count == page_to_pfn(page) &&
		    page_zone(last->page) == page_zone(page)) {
			last->count += count;
			pages->nr_pages += count;
			return 0;
		}
	}
	if (pages->nr_blocks == pages->max_blocks) {
		ret = mck_pages_grow(pages);
		if (ret)
			return ret;
	}
	last = &pages->blocks[pages->nr_blocks++];
	last->page = page;
	last->first = pages->nr_pages;
	last->count = count;
	pages->nr_pages += count;
	return 0;
}

void mck_pages_destroy(struct mck_pages *pages)
{
	mck_count(MCK_COUNT_METADATA_BYTES, -(s64)(pages->max_blocks * sizeof(*pages->blocks)));
	kvfree(pages->blocks);
	mck_user_put(pages->user);
	mck_free(pages, sizeof(*pages));
}

static void mck_note_batch(unsigned long batch)
{
	s64 old = atomic64_read(&mck_counters[MCK_COUNT_MAX_FREE_BATCH]);

	while (old < (s64)batch && !atomic64_try_cmpxchg(&mck_counters[MCK_COUNT_MAX_FREE_BATCH], &old, batch))
		;
}

/* Pages that are still pinned go back to the allocator with their last pin: we drop our own reference only. */
static void mck_pages_free_kernel(struct mck_pages *pages)
{
	unsigned long i, batch = 0;

	for (i = 0; i < pages->nr_blocks; i++) {
		struct mck_block *block = &pages->blocks[i];

		if (batch + block->count > (1UL << MCK_ORDER_MAX)) {
			mck_note_batch(batch);
			batch = 0;
			cond_resched();
		}
		batch += block->count;
		put_page(block->page);
		mck_count(MCK_COUNT_BUFFER_PAGES, -(s64)block->count);
	}
	mck_note_batch(batch);
	trace_mooncake_free(pages->nr_pages, pages->nr_blocks);
	mck_user_uncharge(pages->user, (u64)pages->nr_pages << PAGE_SHIFT);
	mck_pages_destroy(pages);
}

static struct page *mck_alloc_block(int node, unsigned int order)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;

	/* Large blocks are a wish; for single pages try hard, but rather fail than have somebody killed. */
	gfp |= order ? __GFP_COMP | __GFP_NORETRY : __GFP_RETRY_MAYFAIL;
	if (node == NUMA_NO_NODE)
		return alloc_pages(gfp, order);
	return alloc_pages_node(node, gfp, order);
}

static int mck_pages_fill(struct mck_pages *pages, unsigned long nr_pages, int node)
{
	unsigned int order = MCK_ORDER_MAX;
	struct page *page;
	int ret;

	while (pages->nr_pages < nr_pages) {
		if (fatal_signal_pending(current))
			return -EINTR;
		order = min_t(unsigned int, order, ilog2(nr_pages - pages->nr_pages));
		/* Blocks of two pages cannot count their pins: never made. */
		if (order == 1)
			order = 0;
		page = mck_alloc_block(node, order);
		if (!page) {
			if (!order)
				return -ENOMEM;
			order--;
			continue;
		}
		ret = mck_pages_add(pages, page, 1U << order, false);
		if (ret) {
			put_page(page);
			return ret;
		}
		mck_count(MCK_COUNT_BUFFER_PAGES, 1L << order);
		cond_resched();
	}
	return 0;
}

static struct mck_pages *mck_pages_try(struct mck_user *user, unsigned long nr_pages, int node)
{
	struct mck_pages *pages;
	int ret;

	pages = mck_pages_create(mck_pages_free_kernel);
	if (IS_ERR(pages))
		return pages;
	ret = mck_user_charge(user, (u64)nr_pages << PAGE_SHIFT);
	if (ret)
		goto err_destroy;
	pages->user = mck_user_get(user);
	/* Hopeless: not worth driving everybody else out of memory. */
	ret = nr_pages > totalram_pages() ? -ENOMEM : mck_pages_fill(pages, nr_pages, node);
	if (ret)
		goto err_free;
	return pages;

err_free:
	/* What is there is given back by free(), what never came, here. */
	mck_user_uncharge(user, (u64)(nr_pages - pages->nr_pages) << PAGE_SHIFT);
	mck_pages_free_kernel(pages);
	return ERR_PTR(ret);
err_destroy:
	mck_pages_destroy(pages);
	return ERR_PTR(ret);
}

struct mck_pages *mck_pages_alloc(struct mck_user *user, unsigned long nr_pages, int node)
{
	struct mck_pages *pages;

	pages = mck_pages_try(user, nr_pages, node);
	if (pages != ERR_PTR(-ENOMEM) && pages != ERR_PTR(-EDQUOT))
		return pages;
	/* What a process left that has just died may still be on its way back. */
	mck_pages_flush();
	return mck_pages_try(user, nr_pages, node);
}

static void mck_pages_release(struct kref *ref)
{
	struct mck_pages *pages = container_of(ref, struct mck_pages, ref);

	if (pages->nr_pages > MCK_FREE_INLINE)
		queue_work(mck_free_queue, &pages->work);
	else
		pages->free(pages);
}

void mck_pages_put(struct mck_pages *pages)
{
	if (pages)
		kref_put(&pages->ref, mck_pages_release);
}

const struct mck_block *mck_pages_find(const struct mck_pages *pages, unsigned long index)
{
	unsigned long low = 0, high = pages->nr_blocks;

	if (index >= pages->nr_pages)
		return NULL;
	while (high - low > 1) {
		unsigned long mid = low + (high - low) / 2;

		if (pages->blocks[mid].first <= index)
			low = mid;
		else
			high = mid;
	}
	return &pages->blocks[low];
}

struct page *mck_pages_at(const struct mck_pages *pages, unsigned long index)
{
	const struct mck_block *block = mck_pages_find(pages, index);

	return block ? mck_nth_page(block->page, index - block->first) : NULL;
}

/*
 * References to the (compound) page beyond one of ours and one per page table entry. Entries come and go meanwhile:
 * they are counted before and after, so that none hides somebody's reference.
 */
static u64 mck_page_held(struct page *page, unsigned long nr)
{
	long mapped = mck_block_mapcount(page, nr);
	long held;

	smp_rmb(); /* an entry goes before its reference */
	held = page_count(page) - 1;
	smp_rmb(); /* and comes after it */
	held -= min(mapped, mck_block_mapcount(page, nr));
	return held > 0 ? held : 0;
}

u64 mck_pages_held(const struct mck_pages *pages, unsigned long first, unsigned long count)
{
	unsigned long end = min(first + count, pages->nr_pages);
	const struct mck_block *block = mck_pages_find(pages, first);
	u64 held = 0;

	if (pages->foreign)
		return 0;
	for (; first < end; block++) {
		unsigned long stop = min_t(unsigned long, end, block->first + block->count);

		if (PageCompound(block->page)) {
			held += min_t(u64, mck_page_held(block->page, block->count), stop - first);
			first = stop;
			cond_resched();
		}
		for (; first < stop; first++) {
			held += !!mck_page_held(mck_nth_page(block->page, first - block->first), 1);
			if (!(first & 511))
				cond_resched();
		}
	}
	return held;
}

void mck_pages_flush(void)
{
	flush_workqueue(mck_free_queue);
}

int mck_pages_init(void)
{
	mck_free_queue = alloc_workqueue("mooncake_free", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return mck_free_queue ? 0 : -ENOMEM;
}

void mck_pages_exit(void)
{
	destroy_workqueue(mck_free_queue);
}
