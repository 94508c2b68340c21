/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Events of a context, one per (object, type). Their memory is part of the handle, so that
 * none can be lost for want of it.
 */
#ifndef MCK_EVENT_H
#define MCK_EVENT_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/poll.h>
#include <linux/types.h>

#define MCK_EVENT_TYPES 4 /* MOONCAKE_EVENT_REVOKED ... SUSPECT */

struct mck_context;
struct mck_handle;

struct mck_pending {
	u32 type; /* MOONCAKE_EVENT_*, also the place in handle->pending */
	struct list_head node; /* context->events; context->event_lock */
	u64 value, generation, count;
};

/* Any context but hard interrupts; the caller keeps @handle alive. Does nothing once the id ended. */
void mck_event_post(struct mck_handle *handle, u32 type, u64 value, u64 generation);
/* The id ends: what is pending is dropped, nothing comes after. */
void mck_event_drop(struct mck_handle *handle);
ssize_t mck_event_read(struct file *file, char __user *buf, size_t count, loff_t *pos);
__poll_t mck_event_poll(struct file *file, poll_table *wait);

#endif
