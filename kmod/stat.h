/* SPDX-License-Identifier: GPL-2.0 */
/* Counters (debugfs mooncake/counters) and STAT. */
#ifndef MCK_STAT_H
#define MCK_STAT_H

#include <linux/atomic.h>
#include <linux/slab.h>
#include <linux/types.h>

/* What is counted; stat.c has the names. All but the last three return to 0 when nothing is in use. */
enum mck_counter {
	MCK_COUNT_CONTEXTS,
	MCK_COUNT_OBJECTS,
	MCK_COUNT_HANDLES,
	MCK_COUNT_ATTACHMENTS,
	MCK_COUNT_GRANTS,
	MCK_COUNT_MAPPINGS,
	MCK_COUNT_BUFFER_PAGES,
	MCK_COUNT_PINNED_PAGES,
	MCK_COUNT_KEPT,
	MCK_COUNT_KEPT_PAGES,
	MCK_COUNT_DMABUFS,
	MCK_COUNT_USERS,
	MCK_COUNT_METADATA_BYTES,
	MCK_COUNT_MAX_FREE_BATCH,
	MCK_COUNT_FAULTS,
	MCK_COUNT_ZAPS,
	MCK_COUNTERS
};

extern atomic64_t mck_counters[MCK_COUNTERS];

static inline void mck_count(enum mck_counter counter, s64 n)
{
	atomic64_add(n, &mck_counters[counter]);
}

/* The module's own memory, counted; charged to the caller's memory cgroup. */
static inline void *mck_zalloc(size_t size)
{
	void *p = kzalloc(size, GFP_KERNEL_ACCOUNT);

	if (p)
		mck_count(MCK_COUNT_METADATA_BYTES, size);
	return p;
}

static inline void mck_free(void *p, size_t size)
{
	if (!p)
		return;
	mck_count(MCK_COUNT_METADATA_BYTES, -(s64)size);
	kfree(p);
}

struct mck_call;
struct mck_handle;
struct mck_object;

int mck_stat(struct mck_call *call);
/* Contexts that have @object open; object->lock is held. */
u32 mck_stat_contexts(struct mck_object *object);
/* Devices attached to dma-bufs of @object; object->lock is held. */
u32 mck_stat_attached(struct mck_object *object, u32 *dmabufs);
u32 mck_stat_state(struct mck_object *object);

int mck_stat_init(void);
void mck_stat_exit(void);

#endif
