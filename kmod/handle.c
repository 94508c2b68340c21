// SPDX-License-Identifier: GPL-2.0
/* Handles: ids of a context and what stays of them; exports hanging in them. */
#include <linux/compat.h>
#include <linux/sched.h>
#include <linux/xarray.h>
#include "account.h"
#include "context.h"
#include "grant.h"
#include "map.h"
#include "object.h"
#include "stat.h"

/* Slots of mmap offsets. A slot is free again when the last mapping by it is gone. */
static DEFINE_XARRAY_ALLOC1(mck_slots);

int mck_handle_alive(const struct mck_handle *handle)
{
	lockdep_assert_held(&handle->object->lock);
	return handle->revoked || handle->object->dead ? -ESTALE : 0;
}

bool mck_handle_open(const struct mck_handle *handle)
{
	lockdep_assert_held(&handle->object->lock);
	return !mck_handle_alive(handle) && (handle->id || atomic_read(&handle->mappings));
}

u64 mck_handle_mmap_offset(const struct mck_handle *handle)
{
	return mck_slot_offset(handle->slot);
}

/* The list of the object, and of the grant; fails when what it would be a use of has ended. */
static int mck_handle_join(struct mck_handle *handle)
{
	struct mck_object *object = handle->object;
	struct mck_grant *grant = handle->grant;
	int ret = 0;

	down_write(&object->lock);
	if (object->dead || (grant && (grant->revoked || grant->handle->revoked))) {
		ret = -ESTALE;
	} else {
		list_add_tail(&handle->node, &object->handles);
		if (grant)
			list_add_tail(&handle->attached, &grant->attachments);
	}
	up_write(&object->lock);
	return ret;
}

/* What a 32-bit program makes gets a slot that its mmap() can name, as long as there are any. */
static int mck_handle_reserve_slot(struct mck_handle *handle)
{
	int ret = -EBUSY;

	if (in_compat_syscall() && handle->length <= 1ULL << MCK_SLOT_SHIFT)
		ret = xa_alloc(&mck_slots, &handle->slot, NULL, XA_LIMIT(1, MCK_SLOT_WIDE - 1), GFP_KERNEL_ACCOUNT);
	if (ret == -EBUSY)
		ret = xa_alloc(&mck_slots, &handle->slot, NULL, XA_LIMIT(MCK_SLOT_WIDE, MCK_SLOT_MAX),
			       GFP_KERNEL_ACCOUNT);
	return ret;
}

/* An id and a slot, reserved: nobody finds the handle by them, and storing it when it is published cannot fail. */
static int mck_handle_reserve(struct mck_handle *handle)
{
	struct mck_context *ctx = handle->ctx;
	int ret;

	if (atomic_inc_return(&ctx->user->handles) > MCK_USER_HANDLES_MAX) {
		ret = -EDQUOT;
		goto err_count;
	}
	ret = xa_alloc(&ctx->handles, &handle->id, NULL, XA_LIMIT(1, MCK_OBJECTS_MAX), GFP_KERNEL_ACCOUNT);
	if (ret) {
		ret = ret == -EBUSY ? -EDQUOT : ret;
		goto err_count;
	}
	if (handle->object->ops->can & MCK_CAN_MAP) {
		ret = mck_handle_reserve_slot(handle);
		if (ret) {
			ret = ret == -EBUSY ? -EDQUOT : ret;
			goto err_id;
		}
	}
	atomic_inc(&ctx->nr_handles);
	return 0;

err_id:
	xa_erase(&ctx->handles, handle->id);
err_count:
	atomic_dec(&ctx->user->handles);
	return ret;
}

struct mck_handle *mck_handle_create_range(struct mck_context *ctx, struct mck_object *object, u64 offset,
					   u64 length, u32 rights, struct mck_grant *grant)
{
	struct mck_handle *handle = mck_zalloc(sizeof(*handle));
	int i, ret;

	if (!handle)
		return ERR_PTR(-ENOMEM);
	kref_init(&handle->ref);
	handle->object = object;
	handle->ctx = ctx;
	handle->offset = offset;
	handle->length = length;
	handle->rights = rights;
	handle->grant = grant;
	INIT_LIST_HEAD(&handle->grants);
	INIT_LIST_HEAD(&handle->exports);
	for (i = 0; i < MCK_EVENT_TYPES; i++) {
		handle->pending[i].type = i + 1;
		INIT_LIST_HEAD(&handle->pending[i].node);
	}
	ret = mck_handle_reserve(handle);
	if (ret)
		goto err_free;
	ret = mck_handle_join(handle);
	if (ret)
		goto err_reserve;
	mck_object_get(object);
	kref_get(&ctx->ref);
	handle->pid = get_pid(task_tgid(current));
	mck_count(MCK_COUNT_HANDLES, 1);
	if (grant)
		mck_count(MCK_COUNT_ATTACHMENTS, 1);
	return handle;

err_reserve:
	xa_erase(&ctx->handles, handle->id);
	if (handle->slot)
		xa_erase(&mck_slots, handle->slot);
	atomic_dec(&ctx->nr_handles);
	atomic_dec(&ctx->user->handles);
err_free:
	mck_free(handle, sizeof(*handle));
	return ERR_PTR(ret);
}

struct mck_handle *mck_handle_create(struct mck_context *ctx, struct mck_object *object)
{
	return mck_handle_create_range(ctx, object, 0, object->length,
				       MOONCAKE_RIGHT_READ | MOONCAKE_RIGHT_WRITE, NULL);
}

void mck_handle_publish(struct mck_handle *handle)
{
	handle->published = true;
	if (handle->slot)
		xa_store(&mck_slots, handle->slot, handle, GFP_KERNEL_ACCOUNT);
	xa_store(&handle->ctx->handles, handle->id, handle, GFP_KERNEL_ACCOUNT);
}

static void mck_handle_release(struct kref *ref)
{
	struct mck_handle *handle = container_of(ref, struct mck_handle, ref);
	struct mck_object *object = handle->object;
	struct mck_context *ctx = handle->ctx;

	/* First of all, so that whoever finds the handle from here on finds it without references. */
	if (handle->slot)
		xa_erase(&mck_slots, handle->slot);
	down_write(&object->lock);
	list_del(&handle->node);
	up_write(&object->lock);
	if (handle->grant) {
		mck_grant_detach(handle);
		mck_count(MCK_COUNT_ATTACHMENTS, -1);
	}
	WARN_ON_ONCE(!list_empty(&handle->grants) || !list_empty(&handle->exports));
	atomic_dec(&ctx->user->handles);
	put_pid(handle->pid);
	mck_free(handle, sizeof(*handle));
	mck_count(MCK_COUNT_HANDLES, -1);
	mck_object_put(object);
	mck_context_put(ctx);
}

void mck_handle_put(struct mck_handle *handle)
{
	kref_put(&handle->ref, mck_handle_release);
}

/* The id is out of the context's array: its grants and events end, then its reference. */
static void mck_handle_close(struct mck_handle *handle)
{
	struct mck_object *object = handle->object;

	down_write(&object->lock);
	mck_grant_end_all(handle);
	mck_event_drop(handle);
	up_write(&object->lock);
	mck_grant_drop_idle(handle);
	atomic_dec(&handle->ctx->nr_handles);
	mck_handle_put(handle);
}

void mck_handle_abort(struct mck_handle *handle)
{
	xa_erase(&handle->ctx->handles, handle->id);
	mck_handle_close(handle);
}

struct mck_handle *mck_handle_find(struct mck_context *ctx, u32 id)
{
	struct mck_handle *handle;

	xa_lock(&ctx->handles);
	handle = xa_load(&ctx->handles, id);
	if (handle)
		kref_get(&handle->ref);
	xa_unlock(&ctx->handles);
	return handle ?: ERR_PTR(-ENOENT);
}

struct mck_handle *mck_handle_by_slot(unsigned long slot)
{
	struct mck_handle *handle;

	xa_lock(&mck_slots);
	handle = xa_load(&mck_slots, slot);
	if (handle && !kref_get_unless_zero(&handle->ref))
		handle = NULL;
	xa_unlock(&mck_slots);
	return handle;
}

int mck_handle_destroy(struct mck_context *ctx, u32 id)
{
	struct mck_handle *handle;

	xa_lock(&ctx->handles);
	handle = xa_load(&ctx->handles, id);
	/* An id that is reserved must stay so. */
	if (handle)
		__xa_erase(&ctx->handles, id);
	xa_unlock(&ctx->handles);
	if (!handle)
		return -ENOENT;
	mck_handle_close(handle);
	return 0;
}

int mck_export_add(struct mck_export *export, struct mck_handle *handle, const struct mck_export_ops *ops)
{
	int ret;

	kref_init(&export->ref);
	export->ops = ops;
	down_write(&handle->object->lock);
	ret = mck_handle_alive(handle);
	if (!ret) {
		export->handle = mck_handle_get(handle);
		list_add_tail(&export->node, &handle->exports);
		mck_count(MCK_COUNT_DMABUFS, 1);
	}
	up_write(&handle->object->lock);
	return ret;
}

static void mck_export_release(struct kref *ref)
{
	struct mck_export *export = container_of(ref, struct mck_export, ref);

	export->ops->free(export);
}

void mck_export_put(struct mck_export *export)
{
	kref_put(&export->ref, mck_export_release);
}

void mck_export_remove(struct mck_export *export)
{
	struct mck_handle *handle = export->handle;

	down_write(&handle->object->lock);
	list_del(&export->node);
	up_write(&handle->object->lock);
	mck_count(MCK_COUNT_DMABUFS, -1);
	mck_export_put(export);
	mck_handle_put(handle);
}
