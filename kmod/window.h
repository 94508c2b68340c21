/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Windows: device memory that gets struct pages for as long as somebody holds one of them. What they stand for must not
 * be given back before the last of them is let go.
 */
#ifndef MCK_WINDOW_H
#define MCK_WINDOW_H

#include <linux/types.h>

struct mck_pages;

/* What start and length must be multiples of. */
u64 mck_window_align(void);

/*
 * A page store of [start, start + length), which belongs to the caller: -EBUSY if it has struct pages, -EINVAL if it is
 * not aligned. End it with mck_window_retire().
 */
struct mck_pages *mck_window_create(u64 start, u64 length);

/*
 * Nobody reaches for pages of the store any more: when the last of them is let go, which may be now, the struct pages
 * go and @done is called. It may sleep. @pages is referenced until then.
 */
void mck_window_retire(struct mck_pages *pages, void (*done)(void *private), void *private);

/* The same, but waits for it, and calls nothing; what was retired is called for later. */
void mck_window_close(struct mck_pages *pages);

void mck_window_exit(void);

#endif
