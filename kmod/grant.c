// SPDX-License-Identifier: GPL-2.0
/*
 * Grants. mck_grant_lock guards the table of keys, uses, users and ended; it is a leaf below object->lock.
 * A grant ends when it is revoked, when the id that it was made of ends, and when it is spent or
 * expired; its number in the context stays for REVOKE as long as there are attachments.
 */
#include <linux/hashtable.h>
#include <linux/ktime.h>
#include <linux/overflow.h>
#include <linux/random.h>
#include <linux/siphash.h>
#include "compat.h"
#include "context.h"
#include "event.h"
#include "grant.h"
#include "ioctl.h"
#include "object.h"
#include "stat.h"
#include "trace.h"

#define MCK_SWEEP_MIN 64

static DEFINE_HASHTABLE(mck_grants, 12);
static DEFINE_SPINLOCK(mck_grant_lock);
static siphash_key_t mck_grant_secret;

static u64 mck_grant_hash(const u8 *key)
{
	return siphash(key, MOONCAKE_KEY_SIZE, &mck_grant_secret);
}

/* mck_grant_lock is held. */
static bool mck_grant_usable(const struct mck_grant *grant)
{
	return !grant->ended && grant->uses &&
	       (!grant->expiry_ns || ktime_get_boottime_ns() < grant->expiry_ns);
}

/* No attachments, and none to come. mck_grant_lock is held. */
static bool mck_grant_over(const struct mck_grant *grant)
{
	return !grant->users && !mck_grant_usable(grant);
}

static void mck_grant_release(struct kref *ref)
{
	struct mck_grant *grant = container_of(ref, struct mck_grant, ref);
	struct mck_object *object = grant->handle->object;

	mck_grant_end(grant);
	down_write(&object->lock);
	list_del(&grant->node);
	up_write(&object->lock);
	atomic_dec(&grant->handle->ctx->nr_grants);
	mck_handle_put(grant->handle);
	memzero_explicit(grant->key, sizeof(grant->key));
	mck_free(grant, sizeof(*grant));
	mck_count(MCK_COUNT_GRANTS, -1);
}

void mck_grant_put(struct mck_grant *grant)
{
	kref_put(&grant->ref, mck_grant_release);
}

void mck_grant_end(struct mck_grant *grant)
{
	spin_lock(&mck_grant_lock);
	grant->ended = true;
	hash_del(&grant->hash);
	spin_unlock(&mck_grant_lock);
}

/* The number's reference, if nobody else has taken it out. */
void mck_grant_drop(struct mck_grant *grant)
{
	if (xa_cmpxchg(&grant->handle->ctx->grants, grant->number, grant, NULL, 0) == grant)
		mck_grant_put(grant);
}

void mck_grant_end_all(struct mck_handle *handle)
{
	struct mck_grant *grant;

	lockdep_assert_held_write(&handle->object->lock);
	list_for_each_entry(grant, &handle->grants, node)
		mck_grant_end(grant);
}

void mck_grant_drop_idle(struct mck_handle *handle)
{
	struct mck_object *object = handle->object;
	struct mck_grant *grant, *next;
	LIST_HEAD(idle);

	down_read(&object->lock);
	list_for_each_entry(grant, &handle->grants, node) {
		spin_lock(&mck_grant_lock);
		if (mck_grant_over(grant) && kref_get_unless_zero(&grant->ref))
			list_add_tail(&grant->idle, &idle);
		spin_unlock(&mck_grant_lock);
	}
	up_read(&object->lock);
	list_for_each_entry_safe(grant, next, &idle, idle) {
		mck_grant_drop(grant);
		mck_grant_put(grant);
		cond_resched();
	}
}

void mck_grant_sweep(struct mck_context *ctx)
{
	struct mck_grant *grant;
	unsigned long number;

	xa_for_each(&ctx->grants, number, grant) {
		bool over;

		/* The number's reference may go as soon as we look away. */
		grant = mck_grant_find(ctx, number);
		if (IS_ERR(grant))
			continue;
		spin_lock(&mck_grant_lock);
		over = mck_grant_over(grant);
		spin_unlock(&mck_grant_lock);
		if (over)
			mck_grant_drop(grant);
		mck_grant_put(grant);
		cond_resched();
	}
}

/* Undoes mck_grant_take(), but for the use. */
static void mck_grant_leave(struct mck_grant *grant)
{
	bool over;

	spin_lock(&mck_grant_lock);
	grant->users--;
	over = mck_grant_over(grant);
	spin_unlock(&mck_grant_lock);
	if (over)
		mck_grant_drop(grant);
	mck_grant_put(grant);
}

void mck_grant_detach(struct mck_handle *handle)
{
	struct mck_grant *grant = handle->grant;
	struct mck_object *object = handle->object;
	u64 generation;

	down_write(&object->lock);
	list_del(&handle->attached);
	generation = object->generation;
	up_write(&object->lock);
	if (handle->published)
		mck_event_post(grant->handle, MOONCAKE_EVENT_DETACHED, grant->number, generation);
	mck_grant_leave(grant);
}

void mck_grant_close(struct mck_context *ctx)
{
	struct mck_grant *grant;
	unsigned long number;

	xa_for_each(&ctx->grants, number, grant) {
		if (xa_erase(&ctx->grants, number))
			mck_grant_put(grant);
		cond_resched();
	}
}

u32 mck_grant_count(struct mck_object *object)
{
	struct mck_handle *handle;
	struct mck_grant *grant;
	u32 count = 0;

	lockdep_assert_held(&object->lock);
	list_for_each_entry(handle, &object->handles, node)
		list_for_each_entry(grant, &handle->grants, node) {
			spin_lock(&mck_grant_lock);
			count += mck_grant_usable(grant);
			spin_unlock(&mck_grant_lock);
		}
	return count;
}

struct mck_grant *mck_grant_find(struct mck_context *ctx, u64 number)
{
	struct mck_grant *grant = NULL;

	xa_lock(&ctx->grants);
	if (number <= U32_MAX)
		grant = xa_load(&ctx->grants, number);
	if (grant)
		kref_get(&grant->ref);
	xa_unlock(&ctx->grants);
	return grant ?: ERR_PTR(-ENOENT);
}

static int mck_grant_check(struct mck_call *call, const struct mooncake_grant *arg)
{
	u64 end;

	if (arg->reserved)
		return -EINVAL;
	if (arg->rights != MOONCAKE_RIGHT_READ && arg->rights != (MOONCAKE_RIGHT_READ | MOONCAKE_RIGHT_WRITE))
		return -EINVAL;
	if (!PAGE_ALIGNED(arg->offset) || !PAGE_ALIGNED(arg->length))
		return -EINVAL;
	if (!arg->uses || (arg->expiry_ns && arg->expiry_ns <= ktime_get_boottime_ns()))
		return -EINVAL;
	if (!memcmp(arg->context_id, call->ctx->id, MOONCAKE_KEY_SIZE))
		return -EINVAL;
	return check_add_overflow(arg->offset, arg->length, &end) ? -EOVERFLOW : 0;
}

/* A grant of @handle as asked for, in the lists of its handle and of its context, but not yet among the keys. */
static struct mck_grant *mck_grant_create(struct mck_context *ctx, struct mck_handle *handle,
					  const struct mooncake_grant *arg)
{
	struct mck_object *object = handle->object;
	struct mck_grant *grant;
	int ret;

	grant = mck_zalloc(sizeof(*grant));
	if (!grant)
		return ERR_PTR(-ENOMEM);
	kref_init(&grant->ref);
	grant->handle = handle;
	grant->offset = handle->offset + arg->offset;
	grant->length = arg->length ?: handle->length - arg->offset;
	grant->expiry_ns = arg->expiry_ns;
	grant->rights = arg->rights;
	grant->uses = arg->uses;
	memcpy(grant->context_id, arg->context_id, sizeof(grant->context_id));
	get_random_bytes(grant->key, sizeof(grant->key));
	INIT_HLIST_NODE(&grant->hash);
	INIT_LIST_HEAD(&grant->attachments);
	ret = xa_alloc_cyclic(&ctx->grants, &grant->number, NULL, XA_LIMIT(1, U32_MAX), &ctx->next_grant,
			      GFP_KERNEL_ACCOUNT);
	if (ret < 0)
		goto err_free;

	down_write(&object->lock);
	ret = mck_handle_alive(handle);
	if (!ret && !handle->id)
		ret = -ENOENT;
	if (!ret)
		list_add_tail(&grant->node, &handle->grants);
	up_write(&object->lock);
	if (ret)
		goto err_number;
	mck_handle_get(handle);
	atomic_inc(&ctx->nr_grants);
	mck_count(MCK_COUNT_GRANTS, 1);
	return grant;

err_number:
	xa_erase(&ctx->grants, grant->number);
err_free:
	mck_free(grant, sizeof(*grant));
	return ERR_PTR(ret);
}

static int mck_grant_room(struct mck_context *ctx)
{
	int nr = atomic_read(&ctx->nr_grants);

	if (nr >= max(atomic_read(&ctx->sweep_grants), MCK_SWEEP_MIN)) {
		mck_grant_sweep(ctx);
		nr = atomic_read(&ctx->nr_grants);
		atomic_set(&ctx->sweep_grants, min(nr * 2, MCK_OBJECTS_MAX));
	}
	return nr < MCK_OBJECTS_MAX ? 0 : -EDQUOT;
}

static int mck_grant_state(struct mck_handle *handle, const struct mooncake_grant *arg)
{
	int ret;

	if (handle->grant || !(handle->object->ops->can & MCK_CAN_GRANT))
		return -EOPNOTSUPP;
	if (arg->rights & ~handle->rights)
		return -EACCES;
	down_read(&handle->object->lock);
	ret = mck_handle_alive(handle);
	up_read(&handle->object->lock);
	if (ret)
		return ret;
	if (arg->offset >= handle->length || arg->length > handle->length - arg->offset)
		return -EINVAL;
	return mck_grant_room(handle->ctx);
}

static void mck_grant_publish(struct mck_context *ctx, struct mck_grant *grant)
{
	bool ended;

	kref_get(&grant->ref);
	xa_store(&ctx->grants, grant->number, grant, GFP_KERNEL_ACCOUNT);
	spin_lock(&mck_grant_lock);
	ended = grant->ended;
	if (!ended)
		hash_add(mck_grants, &grant->hash, mck_grant_hash(grant->key));
	spin_unlock(&mck_grant_lock);
	/* Its id was destroyed meanwhile, when the number was not there to be dropped. */
	if (ended)
		mck_grant_drop(grant);
	mck_grant_put(grant);
}

int mck_grant(struct mck_call *call)
{
	struct mooncake_grant *arg = call->arg;
	struct mck_context *ctx = call->ctx;
	struct mck_handle *handle;
	struct mck_grant *grant;
	int ret;

	ret = mck_grant_check(call, arg);
	if (ret)
		return ret;
	handle = mck_handle_find(ctx, arg->id);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	ret = mck_grant_state(handle, arg);
	if (ret)
		goto out_put;
	grant = mck_grant_create(ctx, handle, arg);
	if (IS_ERR(grant)) {
		ret = PTR_ERR(grant);
		goto out_put;
	}
	arg->grant = grant->number;
	memcpy(arg->key, grant->key, sizeof(arg->key));
	ret = mck_respond(call);
	if (ret) {
		xa_erase(&ctx->grants, grant->number);
		mck_grant_put(grant);
		goto out_put;
	}
	trace_mooncake_grant(handle->object->serial, grant->offset, grant->length, grant->rights);
	mck_grant_publish(ctx, grant);
out_put:
	mck_handle_put(handle);
	return ret;
}

/* The grant of @key if @ctx may use it now, with one use taken, and not to be dropped; NULL: whatever the reason. */
static struct mck_grant *mck_grant_take(struct mck_context *ctx, const u8 *key)
{
	struct mck_grant *grant, *found = NULL;

	spin_lock(&mck_grant_lock);
	hash_for_each_possible(mck_grants, grant, hash, mck_grant_hash(key)) {
		if (crypto_memneq(grant->key, key, MOONCAKE_KEY_SIZE))
			continue;
		if (!crypto_memneq(grant->context_id, ctx->id, MOONCAKE_KEY_SIZE) && mck_grant_usable(grant)) {
			grant->uses--;
			grant->users++;
			kref_get(&grant->ref);
			found = grant;
		}
		break;
	}
	spin_unlock(&mck_grant_lock);
	return found;
}

static void mck_grant_give_back(struct mck_grant *grant)
{
	spin_lock(&mck_grant_lock);
	grant->uses++;
	spin_unlock(&mck_grant_lock);
}

int mck_attach(struct mck_call *call)
{
	struct mooncake_attach *arg = call->arg;
	struct mck_object *object;
	struct mck_handle *handle;
	struct mck_grant *grant;
	u64 generation;
	int ret;

	grant = mck_grant_take(call->ctx, arg->key);
	if (!grant)
		return -ENOENT;
	object = grant->handle->object;
	handle = mck_handle_create_range(call->ctx, object, grant->offset, grant->length, grant->rights, grant);
	if (IS_ERR(handle)) {
		ret = PTR_ERR(handle);
		mck_grant_give_back(grant);
		mck_grant_leave(grant);
		return ret == -ESTALE ? -ENOENT : ret;
	}
	arg->id = handle->id;
	arg->rights = handle->rights;
	arg->length = handle->length;
	arg->mmap_offset = mck_handle_mmap_offset(handle);
	down_read(&object->lock);
	generation = object->generation;
	memcpy(arg->content_id, object->content_id, sizeof(arg->content_id));
	up_read(&object->lock);
	arg->generation = generation;
	ret = mck_respond(call);
	if (ret) {
		mck_grant_give_back(grant);
		mck_handle_abort(handle);
		return ret;
	}
	trace_mooncake_attach(object->serial, handle->offset, handle->length, handle->rights);
	mck_event_post(grant->handle, MOONCAKE_EVENT_ATTACHED, grant->number, generation);
	mck_handle_publish(handle);
	return 0;
}

void mck_grant_init(void)
{
	get_random_bytes(&mck_grant_secret, sizeof(mck_grant_secret));
}
