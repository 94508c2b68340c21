/* SPDX-License-Identifier: GPL-2.0 */
/* Counters (debugfs mooncake/counters) and STAT. */
#ifndef MCK_STAT_H
#define MCK_STAT_H

#include <linux/atomic.h>
#include <linux/slab.h>
#include <linux/types.h>

/* One name per counter: the file prints them in this order. */
#define MCK_COUNTERS(X)                                                                            \
	X(contexts)                                                                                \
	X(objects)                                                                                 \
	X(handles)                                                                                 \
	X(attachments)                                                                             \
	X(grants)                                                                                  \
	X(mappings)                                                                                \
	X(buffer_pages)                                                                            \
	X(pinned_pages)                                                                            \
	X(kept)                                                                                    \
	X(kept_pages)                                                                              \
	X(dmabufs)                                                                                 \
	X(users)                                                                                   \
	X(metadata_bytes)                                                                          \
	X(max_free_batch)                                                                          \
	X(faults)                                                                                  \
	X(zaps)

struct mck_counters {
#define X(name) atomic64_t name;
	MCK_COUNTERS(X)
#undef X
};

extern struct mck_counters mck_counters;

#define mck_count(name, n) atomic64_add(n, &mck_counters.name)

/* The module's own memory, counted; charged to the caller's memory cgroup. */
static inline void *mck_zalloc(size_t size)
{
	void *p = kzalloc(size, GFP_KERNEL_ACCOUNT);

	if (p)
		mck_count(metadata_bytes, size);
	return p;
}

static inline void mck_free(void *p, size_t size)
{
	if (!p)
		return;
	mck_count(metadata_bytes, -(s64)size);
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
