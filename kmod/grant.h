/* SPDX-License-Identifier: GPL-2.0 */
/* Grants: keys for a range of an object, made out to one context. Keys are never logged. */
#ifndef MCK_GRANT_H
#define MCK_GRANT_H

#include <linux/kref.h>
#include <linux/list.h>
#include <linux/types.h>
#include <linux/mooncake.h>

struct mck_call;
struct mck_context;
struct mck_handle;
struct mck_object;

/* Referenced by its number in the granting context, and by each attachment. */
struct mck_grant {
	struct kref ref;
	struct mck_handle *handle; /* what was granted; a reference */
	u8 key[MOONCAKE_KEY_SIZE];
	u8 context_id[MOONCAKE_KEY_SIZE];
	u64 offset, length; /* within the object */
	u64 expiry_ns;
	u32 rights;
	u32 number;		      /* in the granting context */
	struct hlist_node hash;	      /* by key; mck_grant_lock, as what follows */
	u32 uses;		      /* left */
	u32 users;		      /* attachments, and ATTACHes under way */
	bool ended;		      /* no ATTACH any more */
	bool revoked;		      /* object->lock, as all below */
	struct list_head node;	      /* handle->grants */
	struct list_head attachments; /* mck_handle.attached */
	struct list_head idle;	      /* of mck_grant_drop_idle() alone */
};

int mck_grant(struct mck_call *call);
int mck_attach(struct mck_call *call);

/* object->lock is held for writing: no ATTACH by any grant of @handle from now on. */
void mck_grant_end_all(struct mck_handle *handle);
/* After mck_grant_end_all(), without the lock, once: the numbers of those end that have no attachments. */
void mck_grant_drop_idle(struct mck_handle *handle);
/* An attachment ends: out of its grant's list (object->lock is not held), the owner is told. */
void mck_grant_detach(struct mck_handle *handle);
/* The context is closing: its numbers end. */
void mck_grant_close(struct mck_context *ctx);
/* Live grants of @object; object->lock is held. */
u32 mck_grant_count(struct mck_object *object);
struct mck_grant *mck_grant_find(struct mck_context *ctx, u64 number);
void mck_grant_put(struct mck_grant *grant);
/* No ATTACH any more. */
void mck_grant_end(struct mck_grant *grant);
/* Its number ends. */
void mck_grant_drop(struct mck_grant *grant);
/* The numbers of @ctx end whose grants cannot be used any more and have no attachments. */
void mck_grant_sweep(struct mck_context *ctx);

void mck_grant_init(void);

#endif
