// SPDX-License-Identifier: GPL-2.0
/*
 * Struct pages for device memory. The kernel's memunmap_pages() does not wait for references to pages of this type, so
 * we do: a window whose store is gone, but with pages that a memory registration still holds, waits in a list that is
 * looked through now and then.
 *
 * Lock order: window->lock -> what @done takes. mck_window_lock is a leaf: stores are put below mmap_lock, which must
 * not wait for memory hotplug.
 */
#include <linux/delay.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include "compat.h"
#include "pages.h"
#include "stat.h"
#include "window.h"

#define MCK_WINDOW_LOOK_MS 100
#define MCK_WINDOW_POLL_MS 10
#define MCK_WINDOW_WARN_MS 10000
#define MCK_WINDOW_STEP	   512 /* pages between two chances to reschedule */

struct mck_window {
	struct kref ref; /* the store, the list, mck_window_get() */
	struct dev_pagemap pgmap;
	struct list_head node; /* mck_windows, then mck_window_waiting */
	void (*done)(void *private);
	void *private;
	struct page *first;
	unsigned long nr;
	int base;	   /* references to a page that nobody holds */
	struct mutex lock; /* open, to the end of done() */
	bool open;	   /* there are struct pages */
	unsigned long let_go; /* pages before this one were found held by nobody, after the store was gone */
	bool unused;	   /* the store is gone */
	bool waiting;	   /* the work's: not closed at once */
};

static LIST_HEAD(mck_windows); /* whose store is gone */
static DEFINE_SPINLOCK(mck_window_lock);
static LIST_HEAD(mck_window_waiting); /* the work's own */
static void mck_window_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(mck_window_work, mck_window_look);

u64 mck_window_align(void)
{
	return memremap_compat_align();
}

/* Nobody finds a page that is not held any more: the next look goes on where this one ends. */
static bool mck_window_held(struct mck_window *window)
{
	for (; window->let_go < window->nr; window->let_go++) {
		if (page_ref_count(mck_nth_page(window->first, window->let_go)) != window->base)
			return true;
		if (!(window->let_go % MCK_WINDOW_STEP))
			cond_resched();
	}
	return false;
}

static void mck_window_release(struct kref *ref)
{
	struct mck_window *window = container_of(ref, struct mck_window, ref);

	WARN_ON_ONCE(window->open);
	mck_free(window, sizeof(*window));
}

void mck_window_put(struct mck_window *window)
{
	if (window)
		kref_put(&window->ref, mck_window_release);
}

struct mck_window *mck_window_get(struct mck_pages *pages)
{
	struct mck_window *window = pages->private;

	kref_get(&window->ref);
	return window;
}

/* Whether the struct pages are gone, and all is done. */
static bool mck_window_try_close(struct mck_window *window)
{
	bool closed;

	mutex_lock(&window->lock);
	if (window->open && READ_ONCE(window->unused) && !mck_window_held(window)) {
		memunmap_pages(&window->pgmap);
		window->done(window->private);
		window->open = false;
	}
	closed = !window->open;
	mutex_unlock(&window->lock);
	return closed;
}

/* The module stays for a window that is waited for. */
static void mck_window_look(struct work_struct *work)
{
	struct mck_window *window, *next;

	spin_lock(&mck_window_lock);
	list_splice_tail_init(&mck_windows, &mck_window_waiting);
	spin_unlock(&mck_window_lock);
	list_for_each_entry_safe(window, next, &mck_window_waiting, node) {
		if (mck_window_try_close(window)) {
			list_del(&window->node);
			if (window->waiting)
				module_put(THIS_MODULE);
			mck_window_put(window);
		} else if (!window->waiting) {
			__module_get(THIS_MODULE);
			window->waiting = true;
		}
	}
	if (!list_empty(&mck_window_waiting))
		schedule_delayed_work(&mck_window_work, msecs_to_jiffies(MCK_WINDOW_LOOK_MS));
}

/*
 * Who put the store cannot wait, since it may be whoever holds the pages, and may hold locks that do not go with memory
 * hotplug. The store's reference becomes that of the list.
 */
static void mck_window_free_pages(struct mck_pages *pages)
{
	struct mck_window *window = pages->private;

	mck_pages_destroy(pages);
	spin_lock(&mck_window_lock);
	WRITE_ONCE(window->unused, true);
	list_add_tail(&window->node, &mck_windows);
	spin_unlock(&mck_window_lock);
	mod_delayed_work(system_wq, &mck_window_work, 0);
}

void mck_window_flush(void)
{
	/* A large store is put by a work of its own. */
	mck_pages_flush();
	flush_delayed_work(&mck_window_work);
}

void mck_window_wait(struct mck_window *window)
{
	unsigned int waited = 0;

	while (!mck_window_try_close(window)) {
		msleep(MCK_WINDOW_POLL_MS);
		waited += MCK_WINDOW_POLL_MS;
		if (waited % MCK_WINDOW_WARN_MS == 0)
			pr_warn("mooncake: a device cannot go while registrations hold its memory at %#llx: end them\n",
				window->pgmap.range.start);
	}
}

/* memremap_pages() warns of what is wrong with a range, and a warning may be the end of the machine: look before. */
static int mck_window_check(u64 start, u64 length)
{
	u64 at, step = mck_window_align();

	if (!IS_ALIGNED(start | length, step))
		return -EINVAL;
	for (at = start; at < start + length; at += step) {
		if (pfn_valid(PHYS_PFN(at)))
			return -EBUSY;
		cond_resched();
	}
	return 0;
}

static int mck_window_map(struct mck_window *window, u64 start, u64 length)
{
	void *at;

	window->pgmap.type = MEMORY_DEVICE_GENERIC;
	window->pgmap.range.start = start;
	window->pgmap.range.end = start + length - 1;
	window->pgmap.nr_range = 1;
	at = memremap_pages(&window->pgmap, NUMA_NO_NODE);
	if (IS_ERR(at))
		return PTR_ERR(at) == -ENOMEM ? -ENOMEM : -EBUSY;
	window->open = true;
	window->first = pfn_to_page(PHYS_PFN(start));
	window->nr = length >> PAGE_SHIFT;
	window->base = page_ref_count(window->first);
	return 0;
}

struct mck_pages *mck_window_create(u64 start, u64 length, void (*done)(void *private), void *private)
{
	struct mck_window *window;
	struct mck_pages *pages;
	int ret;

	ret = mck_window_check(start, length);
	if (ret)
		return ERR_PTR(ret);
	if (length >> PAGE_SHIFT > U32_MAX)
		return ERR_PTR(-EOPNOTSUPP);
	window = mck_zalloc(sizeof(*window));
	if (!window)
		return ERR_PTR(-ENOMEM);
	kref_init(&window->ref);
	mutex_init(&window->lock);
	window->done = done;
	window->private = private;
	pages = mck_pages_create(mck_window_free_pages);
	if (IS_ERR(pages)) {
		ret = PTR_ERR(pages);
		goto err_free;
	}
	ret = mck_window_map(window, start, length);
	if (ret)
		goto err_pages;
	ret = mck_pages_add(pages, window->first, window->nr, false);
	if (ret)
		goto err_map;
	pages->private = window;
	return pages;

err_map:
	memunmap_pages(&window->pgmap);
err_pages:
	mck_pages_destroy(pages);
err_free:
	mck_free(window, sizeof(*window));
	return ERR_PTR(ret);
}

/* What waits holds the module; what was put a moment ago is gone after a look, or waited for here. */
void mck_window_exit(void)
{
	mck_window_flush();
	while (!list_empty(&mck_window_waiting)) {
		msleep(MCK_WINDOW_POLL_MS);
		flush_delayed_work(&mck_window_work);
	}
	cancel_delayed_work_sync(&mck_window_work);
}
