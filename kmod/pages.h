/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A page store: the struct pages behind an object, as runs of adjacent pages in order. It has a
 * reference count of its own, since REVOKE with REPLACE changes an object's store while dma-bufs
 * and copies still use the old one. Immutable once built.
 */
#ifndef MCK_PAGES_H
#define MCK_PAGES_H

#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/types.h>
#include <linux/workqueue.h>

struct mck_user;

struct mck_block {
	struct page *page; /* the first */
	u32 first;	   /* its index in the store */
	u32 count;	   /* pages, physically adjacent */
};

struct mck_pages {
	struct kref ref;
	unsigned long nr_pages;
	unsigned long nr_blocks, max_blocks;
	struct mck_block *blocks;
	void (*free)(struct mck_pages *pages); /* gives the pages back, then calls mck_pages_destroy() */
	void *private;			       /* of the kind that built it */
	bool foreign;			       /* pages of others: who else holds them cannot be told */
	struct mck_user *user;		       /* charged with nr_pages; NULL: nobody */
	struct work_struct work;
};

/* An empty store; add runs in order with mck_pages_add(), adjacent ones are joined if @join. */
struct mck_pages *mck_pages_create(void (*free)(struct mck_pages *pages));
int mck_pages_add(struct mck_pages *pages, struct page *page, u32 count, bool join);
/* Frees the store itself, not its pages: the end of a free() and of a failed build. */
void mck_pages_destroy(struct mck_pages *pages);

/* Kernel memory, zeroed, charged to @user (a reference is taken); -EINTR, -ENOMEM, -EDQUOT. */
struct mck_pages *mck_pages_alloc(struct mck_user *user, unsigned long nr_pages, int node);

static inline struct mck_pages *mck_pages_get(struct mck_pages *pages)
{
	kref_get(&pages->ref);
	return pages;
}

void mck_pages_put(struct mck_pages *pages);

/* The page @n after @page in one run. */
static inline struct page *mck_nth_page(struct page *page, unsigned long n)
{
	return pfn_to_page(page_to_pfn(page) + n);
}

/* The block that holds @index, or NULL past the end. */
const struct mck_block *mck_pages_find(const struct mck_pages *pages, unsigned long index);
/* The page at @index, or NULL past the end. */
struct page *mck_pages_at(const struct mck_pages *pages, unsigned long index);

/*
 * Pages that somebody other than the store and page tables holds a reference to, of those in
 * [first, first + count). A block of several pages has one count: what it says is bounded by its
 * size, and a page held twice may count as two. 0 is exact.
 */
u64 mck_pages_held(const struct mck_pages *pages, unsigned long first, unsigned long count);

int mck_pages_init(void);
void mck_pages_exit(void);
/* Waits until all that was handed to the work queue is freed. */
void mck_pages_flush(void);

#endif
