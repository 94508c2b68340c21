// SPDX-License-Identifier: GPL-2.0
/* Events of a context: posting never allocates and never fails; reading takes them in order of arrival. */
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include "context.h"
#include "event.h"
#include "object.h"

void mck_event_post(struct mck_handle *handle, u32 type, u64 value, u64 generation)
{
	struct mck_context *ctx = handle->ctx;
	struct mck_pending *pending = &handle->pending[type - 1];

	spin_lock(&ctx->event_lock);
	if (!handle->id) {
		spin_unlock(&ctx->event_lock);
		return;
	}
	pending->value = value;
	pending->generation = generation;
	pending->count++;
	if (list_empty(&pending->node))
		list_add_tail(&pending->node, &ctx->events);
	spin_unlock(&ctx->event_lock);
	wake_up_interruptible(&ctx->wait);
}

void mck_event_drop(struct mck_handle *handle)
{
	int i;

	spin_lock(&handle->ctx->event_lock);
	WRITE_ONCE(handle->id, 0);
	for (i = 0; i < MCK_EVENT_TYPES; i++)
		list_del_init(&handle->pending[i].node);
	spin_unlock(&handle->ctx->event_lock);
}

/* event_lock is held. The type is the place in the handle's array, which begins at pending - i. */
static struct mck_handle *mck_event_handle(struct mck_pending *pending)
{
	int i = pending->type - 1;

	return container_of(pending - i, struct mck_handle, pending[0]);
}

static bool mck_event_peek(struct mck_context *ctx, struct mooncake_event *event)
{
	struct mck_pending *pending;

	spin_lock(&ctx->event_lock);
	pending = list_first_entry_or_null(&ctx->events, struct mck_pending, node);
	if (pending)
		*event = (struct mooncake_event){
			.type = pending->type,
			.id = mck_event_handle(pending)->id,
			.value = pending->value,
			.generation = pending->generation,
			.count = pending->count,
		};
	spin_unlock(&ctx->event_lock);
	return pending;
}

/* The reader has it. What was posted meanwhile stays; the object may have gone, and its events with it. */
static void mck_event_taken(struct mck_context *ctx, const struct mooncake_event *event)
{
	struct mck_pending *pending;

	spin_lock(&ctx->event_lock);
	pending = list_first_entry_or_null(&ctx->events, struct mck_pending, node);
	if (pending && pending->type == event->type && mck_event_handle(pending)->id == event->id) {
		pending->count -= min(pending->count, event->count);
		if (!pending->count)
			list_del_init(&pending->node);
	}
	spin_unlock(&ctx->event_lock);
}

/* As many as there are and fit; an event is taken when it has reached the reader, not before. read_lock is held. */
static ssize_t mck_event_copy(struct mck_context *ctx, char __user *buf, size_t count)
{
	struct mooncake_event event;
	ssize_t done = 0;

	while (count - done >= sizeof(event) && mck_event_peek(ctx, &event)) {
		if (copy_to_user(buf + done, &event, sizeof(event)))
			return done ?: -EFAULT;
		mck_event_taken(ctx, &event);
		done += sizeof(event);
		/* Others may post as fast as we read. */
		if (signal_pending(current))
			break;
		cond_resched();
	}
	return done;
}

ssize_t mck_event_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct mck_context *ctx = file->private_data;
	ssize_t done;
	int ret;

	if (count < sizeof(struct mooncake_event))
		return -EINVAL;
	for (;;) {
		if (mutex_lock_interruptible(&ctx->read_lock))
			return -ERESTARTSYS;
		done = mck_event_copy(ctx, buf, count);
		mutex_unlock(&ctx->read_lock);
		if (done)
			return done;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible(ctx->wait, !list_empty_careful(&ctx->events));
		if (ret)
			return ret;
	}
}

__poll_t mck_event_poll(struct file *file, poll_table *wait)
{
	struct mck_context *ctx = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &ctx->wait, wait);
	spin_lock(&ctx->event_lock);
	if (!list_empty(&ctx->events))
		mask = EPOLLIN | EPOLLRDNORM;
	spin_unlock(&ctx->event_lock);
	return mask;
}
