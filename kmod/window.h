/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Windows: device memory that gets struct pages for as long as somebody holds one of them. What they stand for must not
 * be given back before the last of them is let go.
 */
#ifndef MCK_WINDOW_H
#define MCK_WINDOW_H

#include <linux/types.h>

struct mck_pages;
struct mck_window;

/* What start and length must be multiples of. */
u64 mck_window_align(void);

/*
 * A page store of [start, start + length), which belongs to the caller: -EBUSY if it has struct pages, -EINVAL if it is
 * not aligned. When the store is put and its last page is let go, the struct pages go and @done is called, from a work
 * queue or mck_window_wait().
 */
struct mck_pages *mck_window_create(u64 start, u64 length, void (*done)(void *private), void *private);

/* The window of a store, referenced. */
struct mck_window *mck_window_get(struct mck_pages *pages);
void mck_window_put(struct mck_window *window);

/* Waits for the end of the struct pages and of @done. The caller has put the store. */
void mck_window_wait(struct mck_window *window);

/* Windows whose store was put and whose pages nobody holds are gone after this. */
void mck_window_flush(void);
void mck_window_exit(void);

#endif
