/* SPDX-License-Identifier: GPL-2.0 */
/* Who pays: bytes of a user against his quota, locked memory of whoever pins. */
#ifndef MCK_ACCOUNT_H
#define MCK_ACCOUNT_H

#include <linux/kref.h>
#include <linux/types.h>
#include <linux/uidgid.h>

struct cred;

struct mck_user {
	struct kref ref;
	struct hlist_node node;
	kuid_t uid;
	atomic64_t bytes;   /* buffers and pins */
	atomic_t handles;
};

/* The record of @uid, made if need be; -ENOMEM. */
struct mck_user *mck_user_find(kuid_t uid);
struct mck_user *mck_user_get(struct mck_user *user);
void mck_user_put(struct mck_user *user);
/* -EDQUOT beyond the module parameter user_limit. */
int mck_user_charge(struct mck_user *user, u64 bytes);
void mck_user_uncharge(struct mck_user *user, u64 bytes);
u64 mck_user_limit(void);

/* Locked memory, charged to the caller's user and given back to the same, whoever calls then. */
struct mck_locked {
	const struct cred *cred; /* of the user who is charged, a reference; NULL: nothing charged */
	unsigned long pages;
};

/* -ENOMEM beyond the caller's RLIMIT_MEMLOCK without CAP_IPC_LOCK. */
int mck_locked_charge(struct mck_locked *locked, unsigned long pages);
void mck_locked_uncharge(struct mck_locked *locked);

#endif
