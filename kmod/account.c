// SPDX-License-Identifier: GPL-2.0
/* Users and what they are charged with. mck_user_lock guards the table only and is a leaf. */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/hashtable.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include "account.h"
#include "stat.h"

static DEFINE_HASHTABLE(mck_users, 8);
static DEFINE_SPINLOCK(mck_user_lock);

static unsigned long user_limit;
module_param(user_limit, ulong, 0644);
MODULE_PARM_DESC(user_limit,
		 "bytes that one user may have in buffers and pins; 0: half of RAM; the largest number: no limit");

u64 mck_user_limit(void)
{
	unsigned long limit = READ_ONCE(user_limit);

	return limit ?: (u64)totalram_pages() / 2 << PAGE_SHIFT;
}

static struct mck_user *mck_user_lookup(kuid_t uid)
{
	struct mck_user *user;

	hash_for_each_possible(mck_users, user, node, __kuid_val(uid))
		if (uid_eq(user->uid, uid) && kref_get_unless_zero(&user->ref))
			return user;
	return NULL;
}

struct mck_user *mck_user_find(kuid_t uid)
{
	struct mck_user *user, *fresh;

	spin_lock(&mck_user_lock);
	user = mck_user_lookup(uid);
	spin_unlock(&mck_user_lock);
	if (user)
		return user;

	fresh = mck_zalloc(sizeof(*fresh));
	if (!fresh)
		return ERR_PTR(-ENOMEM);
	kref_init(&fresh->ref);
	fresh->uid = uid;
	spin_lock(&mck_user_lock);
	user = mck_user_lookup(uid);
	if (!user)
		hash_add(mck_users, &fresh->node, __kuid_val(uid));
	spin_unlock(&mck_user_lock);
	if (user) {
		mck_free(fresh, sizeof(*fresh));
		return user;
	}
	mck_count(MCK_COUNT_USERS, 1);
	return fresh;
}

struct mck_user *mck_user_get(struct mck_user *user)
{
	kref_get(&user->ref);
	return user;
}

static void mck_user_release(struct kref *ref)
{
	struct mck_user *user = container_of(ref, struct mck_user, ref);

	spin_lock(&mck_user_lock);
	hash_del(&user->node);
	spin_unlock(&mck_user_lock);
	WARN_ON_ONCE(atomic64_read(&user->bytes));
	mck_count(MCK_COUNT_USERS, -1);
	mck_free(user, sizeof(*user));
}

void mck_user_put(struct mck_user *user)
{
	if (user)
		kref_put(&user->ref, mck_user_release);
}

int mck_user_charge(struct mck_user *user, u64 bytes)
{
	u64 limit = mck_user_limit();
	s64 old = atomic64_read(&user->bytes);

	do {
		if (bytes > limit || (u64)old > limit - bytes)
			return -EDQUOT;
	} while (!atomic64_try_cmpxchg(&user->bytes, &old, old + bytes));
	return 0;
}

void mck_user_uncharge(struct mck_user *user, u64 bytes)
{
	atomic64_sub(bytes, &user->bytes);
}

int mck_locked_charge(struct mck_locked *locked, unsigned long pages)
{
	struct user_struct *user = current_user();
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	long old = atomic_long_read(&user->locked_vm);

	do {
		if ((pages > limit || (unsigned long)old > limit - pages) && !capable(CAP_IPC_LOCK))
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &old, old + pages));
	/* Credentials hold their user, whom old kernels do not let modules hold by himself. */
	locked->cred = get_current_cred();
	locked->pages = pages;
	return 0;
}

void mck_locked_uncharge(struct mck_locked *locked)
{
	if (!locked->cred)
		return;
	atomic_long_sub(locked->pages, &locked->cred->user->locked_vm);
	put_cred(locked->cred);
	locked->cred = NULL;
}
