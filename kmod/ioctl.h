/* SPDX-License-Identifier: GPL-2.0 */
/* A call under way: what a handler gets from the dispatcher. */
#ifndef MCK_IOCTL_H
#define MCK_IOCTL_H

#include <linux/fs.h>
#include <linux/types.h>

struct mck_context;

struct mck_call {
	struct mck_context *ctx;
	void __user *user; /* the caller's struct */
	u32 user_size;	   /* as he knows it */
	u32 size;	   /* as we know it */
	void *arg;	   /* our copy; what he did not have is zero. Flags are checked. */
};

long mck_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/*
 * Writes the struct back: the last thing that may fail in a handler. What it tells of is published
 * afterwards, or undone on -EFAULT.
 */
int mck_respond(struct mck_call *call);

#define MCK_FEATURES_CORE (MOONCAKE_FEATURE_KEEP | MOONCAKE_FEATURE_REPLACE)

#endif
