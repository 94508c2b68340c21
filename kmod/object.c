// SPDX-License-Identifier: GPL-2.0
/* Objects: what memory is, counted from first id to last reference, listed by serial number. */
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/xarray.h>
#include "account.h"
#include "netlink.h"
#include "object.h"
#include "stat.h"
#include "trace.h"

static DEFINE_XARRAY(mck_objects);
static atomic64_t mck_serial;

int mck_object_init(struct mck_object *object, const struct mck_object_ops *ops, u64 length,
		    struct mck_pages *pages)
{
	int ret;

	kref_init(&object->ref);
	object->ops = ops;
	object->length = length;
	object->uid = current_euid();
	mutex_init(&object->revoking);
	init_rwsem(&object->lock);
	object->generation = 1;
	get_random_bytes(object->content_id, sizeof(object->content_id));
	INIT_LIST_HEAD(&object->handles);
	object->user = mck_user_find(object->uid);
	if (IS_ERR(object->user)) {
		ret = PTR_ERR(object->user);
		goto err_pages;
	}
	object->pid = get_pid(task_tgid(current));
	object->pages = pages;
	object->serial = atomic64_inc_return(&mck_serial);
	ret = xa_insert(&mck_objects, object->serial, object, GFP_KERNEL_ACCOUNT);
	if (ret)
		goto err_user;
	mck_count(MCK_COUNT_OBJECTS, 1);
	return 0;

err_user:
	put_pid(object->pid);
	mck_user_put(object->user);
err_pages:
	mck_pages_put(pages);
	return ret;
}

static void mck_object_release(struct kref *ref)
{
	struct mck_object *object = container_of(ref, struct mck_object, ref);
	struct mck_pages *pages = object->pages;
	struct mck_user *user = object->user;
	struct pid *pid = object->pid;

	xa_erase(&mck_objects, object->serial);
	trace_mooncake_release(object);
	mck_netlink_event(object, MOONCAKE_EVENT_DESTROYED);
	WARN_ON_ONCE(!list_empty(&object->handles));
	object->ops->release(object);
	mck_pages_put(pages);
	mck_user_put(user);
	put_pid(pid);
	mck_count(MCK_COUNT_OBJECTS, -1);
}

void mck_object_put(struct mck_object *object)
{
	if (object)
		kref_put(&object->ref, mck_object_release);
}

struct mck_object *mck_object_next(u64 serial)
{
	struct mck_object *object;
	unsigned long index = serial;

	xa_lock(&mck_objects);
	xa_for_each_start(&mck_objects, index, object, serial)
		if (kref_get_unless_zero(&object->ref))
			break;
	xa_unlock(&mck_objects);
	return object;
}

u64 mck_object_npages(const struct mck_object *object)
{
	return DIV_ROUND_UP_ULL(object->length, PAGE_SIZE);
}

void mck_object_lock_pair(struct mck_object *a, struct mck_object *b)
{
	if (a->serial > b->serial)
		swap(a, b);
	down_read(&a->lock);
	if (a != b)
		down_read_nested(&b->lock, SINGLE_DEPTH_NESTING);
}

void mck_object_unlock_pair(struct mck_object *a, struct mck_object *b)
{
	up_read(&a->lock);
	if (a != b)
		up_read(&b->lock);
}
