// SPDX-License-Identifier: GPL-2.0
/*
 * COPY: in pieces, each under the locks of both objects and after a look whether both handles live, so that a REVOKE
 * waits for one piece at most and nothing is copied once it returned.
 */
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/overflow.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "object.h"
#include "pages.h"
#include "region.h"

#define MCK_COPY_PIECE SZ_64K /* between two chances to reschedule, to be killed and to be revoked */

/* One side of a copy; offset is within the object. */
struct mck_end {
	struct mck_handle *handle;
	u64 offset;
	bool write;
};

/* object->lock is held. Memory with pages is given a page at a time where it has no address of its own. */
static int mck_end_span(const struct mck_end *end, struct mck_span *span)
{
	struct mck_object *object = end->handle->object;
	const struct mck_block *block;
	unsigned long index, into;

	memset(span, 0, sizeof(*span));
	if (object->ops->span) {
		object->ops->span(object, end->offset, span);
		return 0;
	}
	index = end->offset >> PAGE_SHIFT;
	into = offset_in_page(end->offset);
	block = object->pages ? mck_pages_find(object->pages, index) : NULL;
	if (!block)
		return -EOPNOTSUPP;
	span->addr = page_address(mck_nth_page(block->page, index - block->first)) + into;
	span->length = ((u64)(block->first + block->count - index) << PAGE_SHIFT) - into;
	return 0;
}

static void mck_copy_span(const struct mck_span *dst, const struct mck_span *src, size_t length, void *bounce)
{
	if (dst->io && src->io) {
		memcpy_fromio(bounce, src->io, length);
		memcpy_toio(dst->io, bounce, length);
	} else if (dst->io) {
		memcpy_toio(dst->io, src->addr, length);
	} else if (src->io) {
		memcpy_fromio(dst->addr, src->io, length);
	} else {
		memcpy(dst->addr, src->addr, length);
	}
}

/* Bytes copied: one piece at most. */
static ssize_t mck_copy_piece(struct mck_end *dst, struct mck_end *src, u64 left, void *bounce)
{
	struct mck_object *to = dst->handle->object, *from = src->handle->object;
	struct mck_span dspan, sspan;
	u64 length = min_t(u64, left, MCK_COPY_PIECE);
	u64 done = 0, part;
	int ret;

	mck_object_lock_pair(to, from);
	ret = mck_handle_alive(dst->handle);
	if (!ret)
		ret = mck_handle_alive(src->handle);
	while (!ret && done < length) {
		ret = mck_end_span(dst, &dspan);
		if (!ret)
			ret = mck_end_span(src, &sspan);
		if (ret)
			break;
		part = min3(length - done, dspan.length, sspan.length);
		if (dspan.io && sspan.io)
			part = min_t(u64, part, PAGE_SIZE);
		mck_copy_span(&dspan, &sspan, part, bounce);
		dst->offset += part;
		src->offset += part;
		done += part;
	}
	mck_object_unlock_pair(to, from);
	return ret ?: done;
}

static int mck_copy_all(struct mck_end *dst, struct mck_end *src, u64 length, u64 *copied)
{
	void *bounce = (void *)__get_free_page(GFP_KERNEL);
	ssize_t done = 0;

	if (!bounce)
		return -ENOMEM;
	while (*copied < length) {
		if (fatal_signal_pending(current)) {
			done = -EINTR;
			break;
		}
		done = mck_copy_piece(dst, src, length - *copied, bounce);
		if (done < 0)
			break;
		*copied += done;
		cond_resched();
	}
	free_page((unsigned long)bounce);
	return done < 0 ? done : 0;
}

static int mck_end_reach(struct mck_end *end)
{
	struct mck_object *object = end->handle->object;
	int ret = 0;

	if (!object->ops->span && !object->pages)
		return -EOPNOTSUPP;
	if (object->ops->check)
		ret = object->ops->check(object);
	if (!ret && object->ops->reach)
		ret = object->ops->reach(object, end->write);
	return ret;
}

static void mck_end_leave(struct mck_end *end)
{
	struct mck_object *object = end->handle->object;

	if (object->ops->leave)
		object->ops->leave(object, end->write);
}

static int mck_end_range(const struct mck_end *end, u64 length)
{
	const struct mck_handle *handle = end->handle;

	return end->offset > handle->length || length > handle->length - end->offset ? -EINVAL : 0;
}

static int mck_copy_alive(struct mck_end *dst, struct mck_end *src)
{
	struct mck_object *to = dst->handle->object, *from = src->handle->object;
	int ret;

	mck_object_lock_pair(to, from);
	ret = mck_handle_alive(dst->handle);
	if (!ret)
		ret = mck_handle_alive(src->handle);
	mck_object_unlock_pair(to, from);
	return ret;
}

/* Rights, state, ranges; then offsets are those within the objects, and ranges of one object must not meet. */
static int mck_copy_check(struct mck_end *dst, struct mck_end *src, u64 length)
{
	int ret;

	if (!(dst->handle->rights & MOONCAKE_RIGHT_WRITE) || !(src->handle->rights & MOONCAKE_RIGHT_READ))
		return -EACCES;
	ret = mck_copy_alive(dst, src);
	if (!ret)
		ret = mck_end_range(dst, length);
	if (!ret)
		ret = mck_end_range(src, length);
	if (ret)
		return ret;
	dst->offset += dst->handle->offset;
	src->offset += src->handle->offset;
	if (dst->handle->object == src->handle->object && dst->offset < src->offset + length &&
	    src->offset < dst->offset + length)
		return -EINVAL;
	return 0;
}

static int mck_copy_between(struct mck_end *dst, struct mck_end *src, u64 length, u64 *copied)
{
	int ret;

	ret = mck_copy_check(dst, src, length);
	if (ret)
		return ret;
	ret = mck_end_reach(dst);
	if (ret)
		return ret;
	ret = mck_end_reach(src);
	if (ret)
		goto out_dst;
	ret = mck_copy_all(dst, src, length, copied);
	mck_end_leave(src);
out_dst:
	mck_end_leave(dst);
	return ret;
}

int mck_copy(struct mck_call *call)
{
	struct mooncake_copy *arg = call->arg;
	struct mck_end dst = { .offset = arg->dst_offset, .write = true };
	struct mck_end src = { .offset = arg->src_offset };
	u64 end;
	int ret, told;

	if (!arg->length)
		return -EINVAL;
	if (check_add_overflow(arg->dst_offset, arg->length, &end) ||
	    check_add_overflow(arg->src_offset, arg->length, &end))
		return -EOVERFLOW;
	dst.handle = mck_handle_find(call->ctx, arg->dst_id);
	if (IS_ERR(dst.handle))
		return PTR_ERR(dst.handle);
	src.handle = mck_handle_find(call->ctx, arg->src_id);
	if (IS_ERR(src.handle)) {
		ret = PTR_ERR(src.handle);
		goto out_dst;
	}
	arg->copied = 0;
	ret = mck_copy_between(&dst, &src, arg->length, &arg->copied);
	if (!ret || ret == -EINTR) {
		told = mck_respond(call);
		ret = ret ?: told;
	}
	mck_handle_put(src.handle);
out_dst:
	mck_handle_put(dst.handle);
	return ret;
}
