/* SPDX-License-Identifier: GPL-2.0 */
/* A context: an open file of /dev/mooncake and the ids in it. */
#ifndef MCK_CONTEXT_H
#define MCK_CONTEXT_H

#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/xarray.h>
#include <linux/mooncake.h>

#define MCK_OBJECTS_MAX	     65536 /* ids in a context, and grants made by it */
#define MCK_USER_HANDLES_MAX 262144 /* of all contexts that a user opened: slots of mmap offsets are finite */

struct mck_user;

struct mck_context {
	struct kref ref; /* the file, and every handle */
	struct mck_user *user; /* who opened the file */
	u8 id[MOONCAKE_KEY_SIZE];
	struct xarray handles; /* id -> mck_handle; NULL: reserved */
	struct xarray grants;  /* number -> mck_grant */
	u32 next_grant;
	atomic_t nr_handles, nr_grants;
	atomic_t sweep_grants;	   /* at this many grants, look for expired ones */
	u64 mark;		   /* of a count under way; mck_stat's mutex */
	spinlock_t event_lock;	   /* events, and the id of a handle as far as events go */
	struct list_head events;   /* mck_pending.node */
	struct mutex read_lock;	   /* one reader at a time, so that each event goes to one */
	wait_queue_head_t wait;
};

extern const struct file_operations mck_context_fops;

void mck_context_put(struct mck_context *ctx);

/* All mappings of all contexts, whatever device node they were made by. */
struct address_space *mck_context_mapping(void);
int mck_context_init(void);
void mck_context_exit(void);

#endif
