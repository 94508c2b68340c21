// SPDX-License-Identifier: GPL-2.0
/* BUFFER_ALLOC: an object of kernel memory, kept under a name if asked. */
#include <linux/nodemask.h>
#include <linux/nospec.h>
#include "account.h"
#include "buffer.h"
#include "context.h"
#include "ioctl.h"
#include "kept.h"
#include "netlink.h"
#include "object.h"
#include "stat.h"
#include "trace.h"

static void mck_buffer_release(struct mck_object *object)
{
	mck_free(object, sizeof(*object));
}

static const struct mck_object_ops mck_buffer_ops = {
	.kind = MOONCAKE_KIND_BUFFER,
	.can = MCK_CAN_MAP | MCK_CAN_GRANT | MCK_CAN_REPLACE,
	.release = mck_buffer_release,
};

static struct mck_object *mck_buffer_create(u64 length, int node)
{
	struct mck_object *object;
	struct mck_pages *pages;
	struct mck_user *user;
	int ret;

	user = mck_user_find(current_euid());
	if (IS_ERR(user))
		return ERR_CAST(user);
	pages = mck_pages_alloc(user, length >> PAGE_SHIFT, node);
	mck_user_put(user);
	if (IS_ERR(pages))
		return ERR_CAST(pages);
	object = mck_zalloc(sizeof(*object));
	if (!object) {
		mck_pages_put(pages);
		return ERR_PTR(-ENOMEM);
	}
	ret = mck_object_init(object, &mck_buffer_ops, length, pages);
	if (ret) {
		mck_free(object, sizeof(*object));
		return ERR_PTR(ret);
	}
	trace_mooncake_alloc(object);
	mck_netlink_event(object, MOONCAKE_EVENT_CREATED);
	return object;
}

static int mck_buffer_check(const struct mooncake_buffer_alloc *arg, int *node)
{
	bool keep = arg->flags & MOONCAKE_BUFFER_KEEP;

	if (arg->reserved)
		return -EINVAL;
	if (!arg->length || arg->length > MOONCAKE_LENGTH_MAX)
		return -EINVAL;
	*node = NUMA_NO_NODE;
	if (arg->numa_node != -1) {
		if (arg->numa_node < 0 || arg->numa_node >= MAX_NUMNODES)
			return -EINVAL;
		*node = array_index_nospec(arg->numa_node, MAX_NUMNODES);
		if (!node_online(*node))
			return -EINVAL;
	}
	if (!keep && (arg->name || arg->name_length || arg->flags & MOONCAKE_BUFFER_EXCLUSIVE))
		return -EINVAL;
	return 0;
}

int mck_buffer_alloc(struct mck_call *call)
{
	struct mooncake_buffer_alloc *arg = call->arg;
	struct mck_kept *kept = NULL;
	struct mck_object *object;
	struct mck_handle *handle;
	int node, ret;

	ret = mck_buffer_check(arg, &node);
	if (ret)
		return ret;
	arg->length = PAGE_ALIGN(arg->length);
	memset(arg->keep_key, 0, sizeof(arg->keep_key));
	if (arg->flags & MOONCAKE_BUFFER_KEEP) {
		kept = mck_kept_reserve(arg->name, arg->name_length, arg->length);
		if (IS_ERR(kept))
			return PTR_ERR(kept);
		memcpy(arg->keep_key, kept->key, sizeof(arg->keep_key));
	}
	object = mck_buffer_create(arg->length, node);
	if (IS_ERR(object)) {
		ret = PTR_ERR(object);
		goto err_kept;
	}
	handle = mck_handle_create(call->ctx, object);
	if (IS_ERR(handle)) {
		ret = PTR_ERR(handle);
		goto err_object;
	}
	handle->exclusive = arg->flags & MOONCAKE_BUFFER_EXCLUSIVE;
	arg->id = handle->id;
	arg->mmap_offset = mck_handle_mmap_offset(handle);
	arg->generation = object->generation;
	memcpy(arg->content_id, object->content_id, sizeof(arg->content_id));
	ret = mck_respond(call);
	if (ret)
		goto err_handle;
	if (kept)
		mck_kept_publish(kept, object);
	mck_handle_publish(handle);
	mck_object_put(object);
	return 0;

err_handle:
	mck_handle_abort(handle);
err_object:
	mck_object_put(object);
err_kept:
	if (kept)
		mck_kept_abort(kept);
	return ret;
}
