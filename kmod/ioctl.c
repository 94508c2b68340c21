// SPDX-License-Identifier: GPL-2.0
/* The table of calls and their dispatcher. Minimum sizes are those of the first release, for ever. */
#include <linux/nospec.h>
#include <linux/uaccess.h>
#include "account.h"
#include "buffer.h"
#include "context.h"
#include "grant.h"
#include "ioctl.h"
#include "kept.h"
#include "object.h"
#include "region.h"
#include "revoke.h"
#include "stat.h"

static int mck_query(struct mck_call *call)
{
	struct mooncake_query *q = call->arg;
	struct mck_user *user = mck_user_find(current_euid());

	if (IS_ERR(user))
		return PTR_ERR(user);
	q->abi_version = MOONCAKE_ABI_VERSION;
	q->page_size = PAGE_SIZE;
	q->features = MCK_FEATURES_CORE | mck_region_features();
	memcpy(q->context_id, call->ctx->id, sizeof(q->context_id));
	q->length_max = MOONCAKE_LENGTH_MAX;
	q->user_bytes = atomic64_read(&user->bytes);
	q->user_limit = mck_user_limit();
	q->kept_bytes = mck_kept_bytes();
	q->kept_limit = mck_kept_limit();
	q->objects = atomic_read(&call->ctx->nr_handles);
	q->objects_max = MCK_OBJECTS_MAX;
	mck_user_put(user);
	return mck_respond(call);
}

static int mck_destroy(struct mck_call *call)
{
	struct mooncake_destroy *arg = call->arg;

	if (arg->reserved)
		return -EINVAL;
	return mck_handle_destroy(call->ctx, arg->id);
}

#define MCK_SIZE_MAX 65536 /* of a caller's struct: what is beyond ours is read to the end for zeros */

struct mck_op {
	u32 cmd, size, min_size, flags;
	int (*fn)(struct mck_call *call);
};

union mck_arg {
	struct mooncake_query query;
	struct mooncake_buffer_alloc buffer_alloc;
	struct mooncake_buffer_open buffer_open;
	struct mooncake_buffer_unlink buffer_unlink;
	struct mooncake_region_pin region_pin;
	struct mooncake_region_import region_import;
	struct mooncake_region_bar region_bar;
	struct mooncake_region_cxl region_cxl;
	struct mooncake_export export;
	struct mooncake_grant grant;
	struct mooncake_attach attach;
	struct mooncake_revoke revoke;
	struct mooncake_stat stat;
	struct mooncake_copy copy;
	struct mooncake_destroy destroy;
};

#define OP(_name, _type, _last, _flags, _fn)                                                       \
	[MOONCAKE_CMD_##_name - MOONCAKE_CMD_BASE] = {                                             \
		.cmd = MOONCAKE_##_name,                                                           \
		.size = sizeof(_type),                                                             \
		.min_size = offsetofend(_type, _last),                                             \
		.flags = (_flags),                                                                 \
		.fn = (_fn),                                                                       \
	}

static const struct mck_op mck_ops[] = {
	OP(QUERY, struct mooncake_query, objects_max, 0, mck_query),
	OP(BUFFER_ALLOC, struct mooncake_buffer_alloc, keep_key, MOONCAKE_BUFFER_KEEP | MOONCAKE_BUFFER_EXCLUSIVE,
	   mck_buffer_alloc),
	OP(BUFFER_OPEN, struct mooncake_buffer_open, content_id, MOONCAKE_OPEN_EXCLUSIVE | MOONCAKE_OPEN_BY_KEY,
	   mck_buffer_open),
	OP(BUFFER_UNLINK, struct mooncake_buffer_unlink, keep_key, MOONCAKE_UNLINK_BY_KEY, mck_buffer_unlink),
	OP(REGION_PIN, struct mooncake_region_pin, reserved, 0, mck_region_pin),
	OP(REGION_IMPORT, struct mooncake_region_import, length, 0, mck_region_import),
	OP(REGION_BAR, struct mooncake_region_bar, mmap_offset, MOONCAKE_BAR_PAGES, mck_region_bar),
	OP(REGION_CXL, struct mooncake_region_cxl, mmap_offset, MOONCAKE_CXL_MAPPED, mck_region_cxl),
	OP(EXPORT, struct mooncake_export, fd, MOONCAKE_EXPORT_WRITE, mck_export),
	OP(GRANT, struct mooncake_grant, key, 0, mck_grant),
	OP(ATTACH, struct mooncake_attach, content_id, 0, mck_attach),
	OP(REVOKE, struct mooncake_revoke, generation,
	   MOONCAKE_REVOKE_GRANT | MOONCAKE_REVOKE_NAMED | MOONCAKE_REVOKE_REPLACE, mck_revoke),
	OP(STAT, struct mooncake_stat, nodes, 0, mck_stat),
	OP(COPY, struct mooncake_copy, copied, 0, mck_copy),
	OP(DESTROY, struct mooncake_destroy, reserved, 0, mck_destroy),
};

static const struct mck_op *mck_find_op(unsigned int cmd)
{
	unsigned int nr = _IOC_NR(cmd) - MOONCAKE_CMD_BASE;
	const struct mck_op *op;

	if (nr >= ARRAY_SIZE(mck_ops))
		return NULL;
	op = &mck_ops[array_index_nospec(nr, ARRAY_SIZE(mck_ops))];
	return op->fn && op->cmd == cmd ? op : NULL;
}

long mck_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	const struct mck_op *op = mck_find_op(cmd);
	union mck_arg buf;
	struct mck_call call = {
		.ctx = file->private_data,
		.user = (void __user *)arg,
		.arg = &buf,
	};
	int ret;

	if (!op)
		return -ENOTTY;
	if (get_user(call.user_size, (u32 __user *)call.user))
		return -EFAULT;
	if (call.user_size < op->min_size)
		return -EINVAL;
	if (call.user_size > MCK_SIZE_MAX)
		return -E2BIG;
	call.size = op->size;
	ret = copy_struct_from_user(&buf, op->size, call.user, call.user_size);
	if (ret)
		return ret;
	/* Every struct begins with size and flags. The size may have changed since: ours is what we read first. */
	buf.query.size = call.user_size;
	if (buf.query.flags & ~op->flags)
		return -EOPNOTSUPP;
	return op->fn(&call);
}

int mck_respond(struct mck_call *call)
{
	return copy_to_user(call->user, call->arg, min(call->user_size, call->size)) ? -EFAULT : 0;
}
