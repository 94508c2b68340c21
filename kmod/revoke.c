// SPDX-License-Identifier: GPL-2.0
/*
 * REVOKE, and the death of an object. In three steps: under object->lock for writing, what ends is
 * marked, so that nothing new comes through it; then, without the lock, mappings are zapped and
 * dma-bufs told; then what others still hold is counted. object->revoking orders two of them, so
 * that the second does not return before the first has zapped.
 */
#include <linux/random.h>
#include "context.h"
#include "event.h"
#include "grant.h"
#include "ioctl.h"
#include "kept.h"
#include "map.h"
#include "object.h"
#include "revoke.h"
#include "stat.h"
#include "trace.h"

/* What is left to do once the lock is dropped. */
struct mck_revocation {
	struct list_head zap;  /* mck_handle.zap, referenced */
	struct list_head tell; /* mck_export.tell, referenced */
};

/* object->lock is held for writing. A handle whose last reference is gone has no mappings any more. */
static void mck_revocation_add(struct mck_revocation *rev, struct mck_handle *handle)
{
	struct mck_export *export;

	if (!kref_get_unless_zero(&handle->ref))
		return;
	list_add_tail(&handle->zap, &rev->zap);
	list_for_each_entry(export, &handle->exports, node) {
		kref_get(&export->ref);
		list_add_tail(&export->tell, &rev->tell);
	}
}

static void mck_revocation_mark(struct mck_revocation *rev, struct mck_handle *handle)
{
	if (handle->revoked)
		return;
	handle->revoked = true;
	mck_event_post(handle, MOONCAKE_EVENT_REVOKED, 0, handle->object->generation);
	mck_revocation_add(rev, handle);
}

/* object->revoking is held, object->lock is not. */
static void mck_revocation_run(struct mck_revocation *rev)
{
	struct mck_export *export, *next_export;
	struct mck_handle *handle, *next;

	list_for_each_entry(handle, &rev->zap, zap)
		mck_map_zap(handle);
	list_for_each_entry_safe(export, next_export, &rev->tell, tell) {
		export->ops->revoked(export, !READ_ONCE(export->handle->revoked));
		mck_export_put(export);
	}
	list_for_each_entry_safe(handle, next, &rev->zap, zap)
		mck_handle_put(handle);
}

static void mck_revocation_init(struct mck_revocation *rev)
{
	INIT_LIST_HEAD(&rev->zap);
	INIT_LIST_HEAD(&rev->tell);
}

/* object->lock is held for writing: grants and attachments of @object, and its use by all but @keep. */
static void mck_revoke_handles(struct mck_object *object, struct mck_context *keep, struct mck_revocation *rev)
{
	struct mck_handle *handle;
	struct mck_grant *grant;

	list_for_each_entry(handle, &object->handles, node) {
		mck_grant_end_all(handle);
		list_for_each_entry(grant, &handle->grants, node)
			grant->revoked = true;
		if (handle->grant || handle->ctx != keep)
			mck_revocation_mark(rev, handle);
	}
}

/* New pages for @object under the lock; those who keep it find the new ones at their next fault. */
static struct mck_pages *mck_revoke_replace(struct mck_object *object, struct mck_pages *fresh,
					    struct mck_revocation *rev)
{
	struct mck_pages *old = object->pages;
	struct mck_handle *handle;

	object->pages = fresh;
	get_random_bytes(object->content_id, sizeof(object->content_id));
	list_for_each_entry(handle, &object->handles, node)
		if (!handle->revoked)
			mck_revocation_add(rev, handle);
	return old;
}

/* A dma-buf is what was handed on, also by a context that keeps its use: its mappings go, and come again at a touch. */
static void mck_revoke_exports(struct mck_object *object, struct mck_revocation *rev)
{
	struct mck_handle *handle;

	list_for_each_entry(handle, &object->handles, node)
		if (!handle->revoked && !list_empty(&handle->exports))
			mck_revocation_add(rev, handle);
}

void mck_object_kill(struct mck_object *object)
{
	struct mck_revocation rev;
	bool first;

	mck_revocation_init(&rev);
	mutex_lock(&object->revoking);
	down_write(&object->lock);
	first = !object->dead;
	if (first) {
		object->dead = true;
		object->generation++;
		mck_revoke_handles(object, NULL, &rev);
	}
	up_write(&object->lock);
	mck_revocation_run(&rev);
	if (first && object->ops->killed)
		object->ops->killed(object);
	mutex_unlock(&object->revoking);
	trace_mooncake_revoke(object);
}

/* object->revoking is held: what others still hold of @pages, and of dma-bufs. */
static void mck_revoke_report(struct mck_object *object, struct mck_pages *pages, struct mooncake_revoke *arg)
{
	u32 dmabufs;

	down_read(&object->lock);
	arg->generation = object->generation;
	arg->dmabuf_attached = mck_stat_attached(object, &dmabufs);
	up_read(&object->lock);
	arg->pinned = pages ? mck_pages_held(pages, 0, pages->nr_pages) : 0;
}

/* Under object->lock: @own, or else the object. */
static bool mck_revoke_stale(struct mck_object *object, struct mck_handle *own)
{
	return object->dead || (own && own->revoked);
}

/* Pages to replace those of @object. Who has no say in it any more must not charge its owner, not even for a moment. */
static struct mck_pages *mck_revoke_fresh(struct mck_object *object, struct mck_handle *own)
{
	bool stale;

	if (!(object->ops->can & MCK_CAN_REPLACE))
		return ERR_PTR(-EOPNOTSUPP);
	down_read(&object->lock);
	stale = mck_revoke_stale(object, own);
	up_read(&object->lock);
	if (stale)
		return ERR_PTR(-ESTALE);
	return mck_pages_alloc(object->user, mck_object_npages(object), NUMA_NO_NODE);
}

static int mck_revoke_object(struct mck_object *object, struct mck_context *keep, struct mck_handle *own,
			     struct mooncake_revoke *arg)
{
	struct mck_pages *fresh = NULL, *held;
	struct mck_revocation rev;

	if (arg->flags & MOONCAKE_REVOKE_REPLACE) {
		fresh = mck_revoke_fresh(object, own);
		if (IS_ERR(fresh))
			return PTR_ERR(fresh);
	}
	mck_revocation_init(&rev);
	mutex_lock(&object->revoking);
	down_write(&object->lock);
	if (mck_revoke_stale(object, own)) {
		up_write(&object->lock);
		mutex_unlock(&object->revoking);
		mck_pages_put(fresh);
		return -ESTALE;
	}
	object->generation++;
	mck_revoke_handles(object, keep, &rev);
	if (!fresh)
		mck_revoke_exports(object, &rev);
	held = fresh ? mck_revoke_replace(object, fresh, &rev) :
		       object->pages ? mck_pages_get(object->pages) : NULL;
	up_write(&object->lock);
	mck_revocation_run(&rev);
	mck_revoke_report(object, held, arg);
	mutex_unlock(&object->revoking);
	trace_mooncake_revoke(object);
	mck_pages_put(held);
	return 0;
}

static int mck_revoke_grant(struct mck_context *ctx, struct mooncake_revoke *arg)
{
	struct mck_grant *grant = mck_grant_find(ctx, arg->grant);
	struct mck_revocation rev;
	struct mck_object *object;
	struct mck_handle *handle;
	struct mck_pages *held;

	if (IS_ERR(grant))
		return PTR_ERR(grant);
	object = grant->handle->object;
	mck_revocation_init(&rev);
	mutex_lock(&object->revoking);
	down_write(&object->lock);
	grant->revoked = true;
	mck_grant_end(grant);
	list_for_each_entry(handle, &grant->attachments, attached)
		mck_revocation_mark(&rev, handle);
	held = object->pages ? mck_pages_get(object->pages) : NULL;
	up_write(&object->lock);
	mck_revocation_run(&rev);
	mck_revoke_report(object, held, arg);
	mutex_unlock(&object->revoking);
	trace_mooncake_revoke(object);
	mck_pages_put(held);
	mck_grant_drop(grant);
	mck_grant_put(grant);
	return 0;
}

static int mck_revoke_named(struct mooncake_revoke *arg)
{
	struct mck_object *object = mck_kept_find_name(arg->uid, arg->name, arg->name_length);
	int ret;

	if (IS_ERR(object))
		return PTR_ERR(object);
	ret = mck_revoke_object(object, NULL, NULL, arg);
	mck_object_put(object);
	return ret;
}

static int mck_revoke_id(struct mck_context *ctx, struct mooncake_revoke *arg)
{
	struct mck_handle *handle = mck_handle_find(ctx, arg->id);
	int ret;

	if (IS_ERR(handle))
		return PTR_ERR(handle);
	if (handle->grant)
		ret = -EOPNOTSUPP;
	else
		ret = mck_revoke_object(handle->object, ctx, handle, arg);
	mck_handle_put(handle);
	return ret;
}

int mck_revoke(struct mck_call *call)
{
	struct mooncake_revoke *arg = call->arg;
	bool by_grant = arg->flags & MOONCAKE_REVOKE_GRANT;
	bool by_name = arg->flags & MOONCAKE_REVOKE_NAMED;
	int ret;

	/* One way to say what is meant, and nothing else filled in. */
	if (by_grant && arg->flags != MOONCAKE_REVOKE_GRANT)
		return -EINVAL;
	if ((by_grant || by_name) && arg->id)
		return -EINVAL;
	if (!by_grant && arg->grant)
		return -EINVAL;
	if (!by_name && (arg->uid || arg->name || arg->name_length))
		return -EINVAL;
	if (by_grant)
		ret = mck_revoke_grant(call->ctx, arg);
	else if (by_name)
		ret = mck_revoke_named(arg);
	else
		ret = mck_revoke_id(call->ctx, arg);
	/* What was revoked stays so; a caller who cannot be told learns it from STAT. */
	return ret ?: mck_respond(call);
}
