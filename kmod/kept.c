// SPDX-License-Identifier: GPL-2.0
/*
 * Kept buffers. mck_kept_lock guards the registry; it is taken before an object's locks and never
 * below mmap_lock. A name holds a reference to its object and to the module.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/ctype.h>
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pid_namespace.h>
#include <linux/random.h>
#include <linux/stringhash.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "kept.h"
#include "netlink.h"
#include "object.h"
#include "stat.h"

static DEFINE_HASHTABLE(mck_by_name, 8);
static DEFINE_HASHTABLE(mck_by_key, 8);
static DEFINE_MUTEX(mck_kept_lock);
static u64 mck_kept_total;

static unsigned long kept_limit;
module_param(kept_limit, ulong, 0644);
MODULE_PARM_DESC(kept_limit, "bytes in kept buffers of all users; 0: half of RAM; the largest number: no limit");

static int kept_gid = -1;
module_param(kept_gid, int, 0644);
MODULE_PARM_DESC(kept_gid,
		 "group whose members may keep buffers, root besides; -1: everybody who may open the device");

u64 mck_kept_limit(void)
{
	unsigned long limit = READ_ONCE(kept_limit);

	return limit ?: (u64)totalram_pages() / 2 << PAGE_SHIFT;
}

u64 mck_kept_bytes(void)
{
	return READ_ONCE(mck_kept_total);
}

static int mck_kept_allowed(void)
{
	int gid = READ_ONCE(kept_gid);

	if (gid < 0 || in_egroup_p(make_kgid(&init_user_ns, gid)) || capable(CAP_IPC_OWNER))
		return 0;
	return -EACCES;
}

static u32 mck_kept_name_hash(kuid_t uid, const char *name, u32 length)
{
	return full_name_hash((void *)(unsigned long)__kuid_val(uid), name, length);
}

/* Keys are random. */
static u32 mck_kept_key_hash(const u8 *key)
{
	u32 hash;

	memcpy(&hash, key, sizeof(hash));
	return hash;
}

static int mck_kept_copy_name(char *to, u64 name, u32 length)
{
	u32 i;

	if (!length || length > MOONCAKE_NAME_MAX)
		return -EINVAL;
	if (copy_from_user(to, u64_to_user_ptr(name), length))
		return -EFAULT;
	for (i = 0; i < length; i++)
		if (!(isascii(to[i]) && isalnum(to[i])) && to[i] != '_' && to[i] != '-' && (to[i] != '.' || !i))
			return -EINVAL;
	return 0;
}

/* mck_kept_lock is held. */
static struct mck_kept *mck_kept_by_name(kuid_t uid, const char *name, u32 length)
{
	struct mck_kept *kept;

	hash_for_each_possible(mck_by_name, kept, by_name, mck_kept_name_hash(uid, name, length))
		if (uid_eq(kept->uid, uid) && kept->name_length == length && !memcmp(kept->name, name, length))
			return kept;
	return NULL;
}

static struct mck_kept *mck_kept_by_key(const u8 *key)
{
	struct mck_kept *kept;

	hash_for_each_possible(mck_by_key, kept, by_key, mck_kept_key_hash(key))
		if (!crypto_memneq(kept->key, key, MOONCAKE_KEY_SIZE))
			return kept;
	return NULL;
}

/* mck_kept_lock is held: out of the registry, its bytes no longer kept. */
static void mck_kept_remove(struct mck_kept *kept)
{
	hash_del(&kept->by_name);
	hash_del(&kept->by_key);
	mck_kept_total -= kept->bytes;
	mck_count(MCK_COUNT_KEPT, -1);
	mck_count(MCK_COUNT_KEPT_PAGES, -(s64)(kept->bytes >> PAGE_SHIFT));
}

static void mck_kept_free(struct mck_kept *kept)
{
	memzero_explicit(kept->key, sizeof(kept->key));
	mck_free(kept, sizeof(*kept));
}

struct mck_kept *mck_kept_reserve(u64 name, u32 name_length, u64 bytes)
{
	struct mck_kept *kept = mck_zalloc(sizeof(*kept));
	u64 limit = mck_kept_limit();
	int ret;

	if (!kept)
		return ERR_PTR(-ENOMEM);
	ret = mck_kept_copy_name(kept->name, name, name_length);
	if (!ret)
		ret = mck_kept_allowed();
	if (ret)
		goto err_free;
	kept->name_length = name_length;
	kept->uid = current_euid();
	kept->bytes = bytes;
	get_random_bytes(kept->key, sizeof(kept->key));

	mutex_lock(&mck_kept_lock);
	if (mck_kept_by_name(kept->uid, kept->name, name_length))
		ret = -EEXIST;
	else if (bytes > limit || mck_kept_total > limit - bytes)
		ret = -EDQUOT;
	if (!ret) {
		hash_add(mck_by_name, &kept->by_name, mck_kept_name_hash(kept->uid, kept->name, name_length));
		hash_add(mck_by_key, &kept->by_key, mck_kept_key_hash(kept->key));
		mck_kept_total += bytes;
		mck_count(MCK_COUNT_KEPT, 1);
		mck_count(MCK_COUNT_KEPT_PAGES, bytes >> PAGE_SHIFT);
	}
	mutex_unlock(&mck_kept_lock);
	if (ret)
		goto err_free;
	return kept;

err_free:
	mck_kept_free(kept);
	return ERR_PTR(ret);
}

void mck_kept_publish(struct mck_kept *kept, struct mck_object *object)
{
	/* The caller's open file holds the module too. */
	__module_get(THIS_MODULE);
	mutex_lock(&mck_kept_lock);
	kept->object = mck_object_get(object);
	down_write(&object->lock);
	object->kept = kept;
	up_write(&object->lock);
	mutex_unlock(&mck_kept_lock);
	mck_netlink_event(object, MOONCAKE_EVENT_KEPT);
}

void mck_kept_abort(struct mck_kept *kept)
{
	mutex_lock(&mck_kept_lock);
	mck_kept_remove(kept);
	mutex_unlock(&mck_kept_lock);
	mck_kept_free(kept);
}

/* How a call names a kept buffer: by key, or by user and name. */
struct mck_kept_ref {
	bool by_key;
	const u8 *key;
	kuid_t uid;
	u32 name_length;
	char name[MOONCAKE_NAME_MAX];
};

static int mck_kept_ref_name(struct mck_kept_ref *ref, u32 uid, u64 name, u32 name_length)
{
	ref->by_key = false;
	ref->name_length = name_length;
	ref->uid = uid == MOONCAKE_UID_SELF ? current_euid() : make_kuid(current_user_ns(), uid);
	return mck_kept_copy_name(ref->name, name, name_length);
}

static int mck_kept_ref(struct mck_kept_ref *ref, bool by_key, const u8 *key, u32 uid, u64 name, u32 name_length)
{
	if (!by_key)
		return memchr_inv(key, 0, MOONCAKE_KEY_SIZE) ? -EINVAL :
							       mck_kept_ref_name(ref, uid, name, name_length);
	if (uid || name || name_length)
		return -EINVAL;
	ref->by_key = true;
	ref->key = key;
	return 0;
}

/* mck_kept_lock is held. Who knows the key owns the buffer; a name is its user's, where that user exists. */
static struct mck_kept *mck_kept_lookup(const struct mck_kept_ref *ref)
{
	struct mck_kept *kept;

	if (ref->by_key)
		kept = mck_kept_by_key(ref->key);
	else if (!uid_valid(ref->uid))
		kept = NULL;
	else
		kept = mck_kept_by_name(ref->uid, ref->name, ref->name_length);
	if (!kept || !kept->object)
		return ERR_PTR(-ENOENT);
	if (ref->by_key || (uid_eq(ref->uid, current_euid()) && kuid_has_mapping(current_user_ns(), ref->uid)))
		return kept;
	/* Last: asking is noted, and refusing is reported. */
	return capable(CAP_IPC_OWNER) ? kept : ERR_PTR(-EACCES);
}

struct mck_object *mck_kept_find_name(u32 uid, u64 name, u32 name_length)
{
	struct mck_object *object;
	struct mck_kept_ref ref;
	struct mck_kept *kept;
	int ret;

	ret = mck_kept_ref_name(&ref, uid, name, name_length);
	if (ret)
		return ERR_PTR(ret);
	mutex_lock(&mck_kept_lock);
	kept = mck_kept_lookup(&ref);
	object = IS_ERR(kept) ? ERR_CAST(kept) : mck_object_get(kept->object);
	mutex_unlock(&mck_kept_lock);
	return object;
}

u32 mck_kept_name(struct mck_object *object, char name[MOONCAKE_NAME_MAX])
{
	u32 length = 0;

	mutex_lock(&mck_kept_lock);
	if (object->kept) {
		length = object->kept->name_length;
		memcpy(name, object->kept->name, length);
	}
	mutex_unlock(&mck_kept_lock);
	return length;
}

/*
 * object->lock is held. Whom an open by @ctx has to wait for: another context's id or mapping that
 * was opened, exclusively or, for an exclusive open, at all. Attachments are by the owner's leave and
 * do not count.
 */
static struct mck_handle *mck_kept_holder(struct mck_object *object, struct mck_context *ctx, bool exclusive)
{
	struct mck_handle *handle;

	list_for_each_entry(handle, &object->handles, node)
		if (!handle->grant && handle->ctx != ctx && (exclusive || handle->exclusive) &&
		    mck_handle_open(handle))
			return handle;
	return NULL;
}

/* object->lock is held: what an open by @handle would find. */
static void mck_kept_describe(struct mck_handle *handle, struct mooncake_buffer_open *arg)
{
	struct mck_object *object = handle->object;

	arg->generation = object->generation + handle->exclusive;
	memcpy(arg->content_id, object->content_id, sizeof(arg->content_id));
}

/* The handle joins the object's list before it is known whether it may; the check comes under one hold of the lock. */
static int mck_kept_admit(struct mck_handle *handle, bool exclusive, struct mooncake_buffer_open *arg)
{
	struct mck_object *object = handle->object;
	struct mck_handle *holder;

	lockdep_assert_held(&mck_kept_lock);
	down_write(&object->lock);
	holder = mck_kept_holder(object, handle->ctx, exclusive);
	if (holder) {
		arg->holder_pid = pid_nr_ns(holder->pid, task_active_pid_ns(current));
		up_write(&object->lock);
		return -EBUSY;
	}
	handle->exclusive = exclusive;
	mck_kept_describe(handle, arg);
	up_write(&object->lock);
	return 0;
}

/*
 * The caller was told of @arg: an exclusive open makes the generation grow now, which nothing takes back. False: a call
 * of his own context got in between, and @arg is what he has to be told instead. One that was revoked changes nothing.
 */
static bool mck_kept_settle(struct mck_handle *handle, struct mooncake_buffer_open *arg)
{
	struct mck_object *object = handle->object;
	u64 told = arg->generation;
	bool settled;

	down_write(&object->lock);
	mck_kept_describe(handle, arg);
	settled = arg->generation == told || handle->revoked;
	if (settled && !handle->revoked)
		object->generation = told;
	up_write(&object->lock);
	return settled;
}

static struct mck_handle *mck_kept_open(struct mck_call *call, const struct mck_kept_ref *ref)
{
	struct mooncake_buffer_open *arg = call->arg;
	struct mck_handle *handle;
	struct mck_kept *kept;
	int ret;

	/* Opens are ordered by the registry's lock: two exclusive ones cannot each find the other half open. */
	mutex_lock(&mck_kept_lock);
	kept = mck_kept_lookup(ref);
	if (IS_ERR(kept)) {
		handle = ERR_CAST(kept);
		goto out_unlock;
	}
	handle = mck_handle_create(call->ctx, kept->object);
	if (IS_ERR(handle))
		goto out_unlock;
	ret = mck_kept_admit(handle, arg->flags & MOONCAKE_OPEN_EXCLUSIVE, arg);
	if (ret) {
		mck_handle_abort(handle);
		handle = ERR_PTR(ret);
	}
out_unlock:
	mutex_unlock(&mck_kept_lock);
	return handle;
}

int mck_buffer_open(struct mck_call *call)
{
	struct mooncake_buffer_open *arg = call->arg;
	struct mck_handle *handle;
	struct mck_kept_ref ref;
	int ret;

	ret = mck_kept_ref(&ref, arg->flags & MOONCAKE_OPEN_BY_KEY, arg->keep_key, arg->uid, arg->name,
			   arg->name_length);
	if (ret)
		return ret;
	handle = mck_kept_open(call, &ref);
	if (IS_ERR(handle)) {
		struct mooncake_buffer_open __user *user = call->user;

		if (handle == ERR_PTR(-EBUSY) && put_user(arg->holder_pid, &user->holder_pid))
			return -EFAULT;
		return PTR_ERR(handle);
	}
	arg->holder_pid = 0;
	arg->id = handle->id;
	arg->length = handle->length;
	arg->mmap_offset = mck_handle_mmap_offset(handle);
	do {
		ret = mck_respond(call);
		if (ret) {
			mck_handle_abort(handle);
			return ret;
		}
	} while (!mck_kept_settle(handle, arg));
	mck_handle_publish(handle);
	return 0;
}

int mck_buffer_unlink(struct mck_call *call)
{
	struct mooncake_buffer_unlink *arg = call->arg;
	struct mck_object *object;
	struct mck_kept_ref ref;
	struct mck_kept *kept;
	int ret;

	ret = mck_kept_ref(&ref, arg->flags & MOONCAKE_UNLINK_BY_KEY, arg->keep_key, arg->uid, arg->name,
			   arg->name_length);
	if (ret)
		return ret;
	mutex_lock(&mck_kept_lock);
	kept = mck_kept_lookup(&ref);
	if (IS_ERR(kept)) {
		mutex_unlock(&mck_kept_lock);
		return PTR_ERR(kept);
	}
	object = kept->object;
	mck_kept_remove(kept);
	down_write(&object->lock);
	object->kept = NULL;
	up_write(&object->lock);
	mutex_unlock(&mck_kept_lock);

	mck_kept_free(kept);
	mck_netlink_event(object, MOONCAKE_EVENT_UNLINKED);
	mck_object_put(object);
	/* The caller's open file holds the module too. */
	module_put(THIS_MODULE);
	return 0;
}
