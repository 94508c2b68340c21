// SPDX-License-Identifier: GPL-2.0
/*
 * Contexts. All files of /dev/mooncake, by whatever device node they were opened, share the address
 * space of one inode of a pseudo filesystem: so zapping finds every mapping.
 */
#include <linux/fs_context.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/random.h>
#include "account.h"
#include "context.h"
#include "event.h"
#include "grant.h"
#include "ioctl.h"
#include "map.h"
#include "object.h"
#include "stat.h"

#define MCK_FS_MAGIC 0x6d6f6f6e

static struct vfsmount *mck_mount;
static struct inode *mck_inode;

struct address_space *mck_context_mapping(void)
{
	return mck_inode->i_mapping;
}

static void mck_context_free(struct kref *ref)
{
	struct mck_context *ctx = container_of(ref, struct mck_context, ref);

	xa_destroy(&ctx->handles);
	xa_destroy(&ctx->grants);
	mck_user_put(ctx->user);
	mck_free(ctx, sizeof(*ctx));
}

void mck_context_put(struct mck_context *ctx)
{
	kref_put(&ctx->ref, mck_context_free);
}

static int mck_context_open(struct inode *inode, struct file *file)
{
	struct mck_context *ctx = mck_zalloc(sizeof(*ctx));

	if (!ctx)
		return -ENOMEM;
	ctx->user = mck_user_find(current_euid());
	if (IS_ERR(ctx->user)) {
		int ret = PTR_ERR(ctx->user);

		mck_free(ctx, sizeof(*ctx));
		return ret;
	}
	kref_init(&ctx->ref);
	get_random_bytes(ctx->id, sizeof(ctx->id));
	xa_init_flags(&ctx->handles, XA_FLAGS_ALLOC1);
	xa_init_flags(&ctx->grants, XA_FLAGS_ALLOC1);
	spin_lock_init(&ctx->event_lock);
	mutex_init(&ctx->read_lock);
	INIT_LIST_HEAD(&ctx->events);
	init_waitqueue_head(&ctx->wait);
	file->private_data = ctx;
	file->f_mapping = mck_inode->i_mapping;
	mck_count(MCK_COUNT_CONTEXTS, 1);
	return stream_open(inode, file);
}

/* No descriptor and no mapping of the file is left, so nobody makes new ids. */
static int mck_context_release(struct inode *inode, struct file *file)
{
	struct mck_context *ctx = file->private_data;
	struct mck_handle *handle;
	unsigned long id;

	xa_for_each(&ctx->handles, id, handle) {
		mck_handle_destroy(ctx, id);
		cond_resched();
	}
	mck_grant_close(ctx);
	mck_count(MCK_COUNT_CONTEXTS, -1);
	mck_context_put(ctx);
	return 0;
}

const struct file_operations mck_context_fops = {
	.owner = THIS_MODULE,
	.open = mck_context_open,
	.release = mck_context_release,
	.unlocked_ioctl = mck_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = mck_mmap,
	.read = mck_event_read,
	.poll = mck_event_poll,
};

static int mck_fs_init(struct fs_context *fc)
{
	return init_pseudo(fc, MCK_FS_MAGIC) ? 0 : -ENOMEM;
}

/* No owner: the mount is ours, and would otherwise keep the module from ever being unloaded. */
static struct file_system_type mck_fs = {
	.name = "mooncake",
	.init_fs_context = mck_fs_init,
	.kill_sb = kill_anon_super,
};

int mck_context_init(void)
{
	mck_mount = kern_mount(&mck_fs);
	if (IS_ERR(mck_mount))
		return PTR_ERR(mck_mount);
	mck_inode = alloc_anon_inode(mck_mount->mnt_sb);
	if (IS_ERR(mck_inode)) {
		kern_unmount(mck_mount);
		return PTR_ERR(mck_inode);
	}
	return 0;
}

void mck_context_exit(void)
{
	iput(mck_inode);
	kern_unmount(mck_mount);
}
