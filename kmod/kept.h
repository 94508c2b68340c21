/* SPDX-License-Identifier: GPL-2.0 */
/* The registry of kept buffers: by (user, name) and by keep key. */
#ifndef MCK_KEPT_H
#define MCK_KEPT_H

#include <linux/list.h>
#include <linux/types.h>
#include <linux/uidgid.h>
#include <linux/mooncake.h>

struct mck_call;
struct mck_handle;
struct mck_object;

/* Holds a reference to the object and to the module. */
struct mck_kept {
	struct hlist_node by_name, by_key;
	kuid_t uid;
	u8 key[MOONCAKE_KEY_SIZE];
	struct mck_object *object; /* NULL: the name is taken, the buffer not yet there */
	u64 bytes;
	u32 name_length;
	char name[MOONCAKE_NAME_MAX];
};

int mck_buffer_open(struct mck_call *call);
int mck_buffer_unlink(struct mck_call *call);

/* Takes a name for a buffer of @bytes to come: -EEXIST, -EDQUOT, -ENOMEM, -EINVAL, -EFAULT. */
struct mck_kept *mck_kept_reserve(u64 name, u32 name_length, u64 bytes);
/* The name stands for @object from now on; a reference is taken. */
void mck_kept_publish(struct mck_kept *kept, struct mck_object *object);
void mck_kept_abort(struct mck_kept *kept);
/* The object of a name that the caller owns, referenced; -EINVAL, -EFAULT, -ENOENT, -EACCES. */
struct mck_object *mck_kept_find_name(u32 uid, u64 name, u32 name_length);
/* The name of @object into @name; its length, 0: not kept (any more). */
u32 mck_kept_name(struct mck_object *object, char name[MOONCAKE_NAME_MAX]);
u64 mck_kept_bytes(void);
u64 mck_kept_limit(void);

#endif
