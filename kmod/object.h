/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Objects (what memory is) and handles (what a context's id names): the seam on which every kind
 * of memory is built.
 *
 * Lock order:
 *   kept registry -> object->revoking -> mmap_lock -> object->lock -> { spinlocks and xarray locks }
 * object->revoking is not taken below mmap_lock; neither lock of an object is held while user memory
 * is touched, a page table is zapped, or a dma-buf's reservation lock is taken (importers take that
 * one outside object->lock). Callbacks of MMU notifiers take spinlocks only.
 */
#ifndef MCK_OBJECT_H
#define MCK_OBJECT_H

#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/rwsem.h>
#include <linux/types.h>
#include "event.h"
#include "pages.h"
#include <linux/mooncake.h>

struct dma_buf;
struct dma_buf_attachment;
struct mck_context;
struct mck_export;
struct mck_grant;
struct mck_handle;
struct mck_kept;
struct mck_object;
struct mck_user;

/* What a kind can do; a call without the bit gives -EOPNOTSUPP. */
#define MCK_CAN_MAP	BIT(0) /* mmap of /dev/mooncake */
#define MCK_CAN_GRANT	BIT(1)
#define MCK_CAN_REPLACE BIT(2)

/* A contiguous piece of an object as this CPU reaches it: one of the two addresses is set. */
struct mck_span {
	void *addr;
	void __iomem *io;
	u64 length;
};

struct mck_object_ops {
	u32 kind; /* MOONCAKE_KIND_* */
	u32 can;

	/* A mapping begins: caching mode, flags. object->lock is held for reading. Optional. */
	int (*mmap)(struct mck_object *object, struct vm_area_struct *vma);
	/*
	 * A fault at @index, which is within bounds and alive; object->lock is held for reading.
	 * Optional: without it, the pages of object->pages are inserted.
	 */
	vm_fault_t (*fault)(struct mck_object *object, struct vm_fault *vmf, pgoff_t index);
	/* mck_object_kill() has made the object dead and zapped all mappings. Optional, may sleep. */
	void (*killed)(struct mck_object *object);
	/* What STAT adds to the state (MOONCAKE_STATE_SUSPECT). Optional, object->lock is held. */
	u32 (*state)(struct mck_object *object);
	/*
	 * Is the memory still what it was: asked before COPY, EXPORT and the attachment of a device.
	 * -ESTALE (then the object is dead), -EINTR. Optional, may sleep, takes mmap_lock.
	 */
	int (*check)(struct mck_object *object);
	/* The dma-buf that EXPORT gives again, no reference. Optional: without it, we make one of object->pages. */
	struct dma_buf *(*dmabuf)(struct mck_object *object);
	/* May this device reach it. Optional, may sleep. */
	int (*attach)(struct mck_object *object, struct dma_buf_attachment *attach);
	/* COPY begins and ends: around any number of span(). Optional, may sleep, no lock is held. */
	int (*reach)(struct mck_object *object, bool write);
	void (*leave)(struct mck_object *object, bool write);
	/* The piece at @offset; object->lock is held, the object is alive. Optional: else object->pages. */
	void (*span)(struct mck_object *object, u64 offset, struct mck_span *span);
	/*
	 * The last reference is gone; object->pages is put by the caller afterwards. May sleep, may be
	 * called with some mmap_lock held. The struct that embeds the object is freed here.
	 */
	void (*release)(struct mck_object *object);
};

/* Embedded in what a kind needs beyond it (container_of). */
struct mck_object {
	struct kref ref;
	const struct mck_object_ops *ops;
	u64 serial; /* module-wide, never used again */
	u64 length; /* bytes */
	struct mck_user *user;
	kuid_t uid;	 /* who made it */
	struct pid *pid; /* the process that made it */
	atomic_t mappings;

	struct mutex revoking;	  /* one REVOKE at a time, to the end of its zapping */
	struct rw_semaphore lock; /* all that follows */
	bool dead;		  /* revoked for good, for everybody */
	u64 generation;
	u8 content_id[MOONCAKE_KEY_SIZE];
	struct mck_pages *pages; /* NULL: memory without struct pages */
	struct list_head handles;
	struct mck_kept *kept;
};

/*
 * A context's use of an object: what an id names, and what stays of it while mappings and dma-bufs
 * made by that id live. Referenced by: the id, each VMA, each dma-buf, calls under way, and grants
 * of it.
 */
struct mck_handle {
	struct kref ref;
	struct mck_object *object;  /* a reference */
	struct mck_context *ctx;    /* a reference to the struct; the context may be closed */
	u64 offset, length;	    /* the range within the object, whole pages but for the end */
	u32 rights;		    /* MOONCAKE_RIGHT_* */
	u32 slot;		    /* of mmap offsets, module-wide; 0: cannot be mapped */
	struct mck_grant *grant;    /* a reference: this is an attachment; NULL: it is not */
	struct pid *pid;	    /* the process that opened it */
	atomic_t mappings;	    /* VMAs */
	struct list_head node;	    /* object->handles; object->lock, as all below */
	u32 id;			    /* 0 once destroyed */
	bool published; /* its maker was told of it */
	bool revoked;
	bool exclusive;		    /* opened so */
	struct list_head grants;    /* made of this handle: mck_grant.node */
	struct list_head attached;  /* mck_grant.attachments */
	struct list_head exports;   /* mck_export.node */
	struct list_head zap;	    /* list of a REVOKE under way; object->revoking */
	struct mck_pending pending[MCK_EVENT_TYPES];
};

/*
 * What a dma-buf hangs into the handle that it was made by. It holds a reference to the handle and
 * is removed before the dma-buf's release ends.
 */
struct mck_export_ops {
	/*
	 * The handle was revoked, or the object's pages were replaced (@replaced, with the handle
	 * alive): zap mappings of the dma-buf, tell dynamic importers to move. Called without locks
	 * but object->revoking; a reference to the export is held, the dma-buf may be going.
	 */
	void (*revoked)(struct mck_export *export, bool replaced);
	/* Devices attached now. Called with object->lock held: no reservation lock. */
	u32 (*attached)(struct mck_export *export);
	/* The last reference is gone. */
	void (*free)(struct mck_export *export);
};

struct mck_export {
	struct kref ref;
	const struct mck_export_ops *ops;
	struct mck_handle *handle;
	struct list_head node; /* handle->exports */
	struct list_head tell; /* list of a REVOKE under way; object->revoking */
};

/* -ESTALE if the handle was revoked. On success the export holds a reference to the handle. */
int mck_export_add(struct mck_export *export, struct mck_handle *handle, const struct mck_export_ops *ops);
/* At the dma-buf's release: out of the list, the first reference dropped. */
void mck_export_remove(struct mck_export *export);
void mck_export_put(struct mck_export *export);

/*
 * Prepares @object: reference count 1, serial, owner and user (the caller's), generation 1, random
 * content id. It is in the module's list from here on. On success mck_object_put() ends it, by
 * ops->release. @pages becomes the object's, also on failure (then it is put); may be NULL.
 */
int mck_object_init(struct mck_object *object, const struct mck_object_ops *ops, u64 length,
		    struct mck_pages *pages);
static inline struct mck_object *mck_object_get(struct mck_object *object)
{
	kref_get(&object->ref);
	return object;
}

void mck_object_put(struct mck_object *object);
/* The object with the lowest serial >= @serial, referenced; NULL: none. */
struct mck_object *mck_object_next(u64 serial);
u64 mck_object_npages(const struct mck_object *object);

/*
 * Whoever the object belongs to, it is dead from now on: for a device that went away, a range that
 * was unmapped. Sleeps; not below mmap_lock or object->lock.
 */
void mck_object_kill(struct mck_object *object);

/* Two objects for reading, in an order that cannot deadlock; they may be the same. */
void mck_object_lock_pair(struct mck_object *a, struct mck_object *b);
void mck_object_unlock_pair(struct mck_object *a, struct mck_object *b);

/* Under object->lock: -ESTALE if nothing may go through @handle any more. */
int mck_handle_alive(const struct mck_handle *handle);
/* Under object->lock: does the handle count as a user of the object (an id or a mapping). */
bool mck_handle_open(const struct mck_handle *handle);

/*
 * A handle of @ctx for all of @object with all rights, its id reserved but not yet to be found.
 * Takes a reference to the object. Then, when the caller has been told of it:
 * mck_handle_publish(); or, when something failed: mck_handle_abort().
 * -ENOMEM, -EDQUOT (objects_max).
 */
struct mck_handle *mck_handle_create(struct mck_context *ctx, struct mck_object *object);
/* The same for a range, rights and the grant that they came by (reference taken over on success). */
struct mck_handle *mck_handle_create_range(struct mck_context *ctx, struct mck_object *object, u64 offset,
					   u64 length, u32 rights, struct mck_grant *grant);
void mck_handle_publish(struct mck_handle *handle);
void mck_handle_abort(struct mck_handle *handle);

/* What @id names in @ctx, referenced, or -ENOENT. */
struct mck_handle *mck_handle_find(struct mck_context *ctx, u32 id);
/* What an mmap offset names, referenced; NULL: nothing. The caller checks the context. */
struct mck_handle *mck_handle_by_slot(unsigned long slot);
static inline struct mck_handle *mck_handle_get(struct mck_handle *handle)
{
	kref_get(&handle->ref);
	return handle;
}

void mck_handle_put(struct mck_handle *handle);
/* The id ends: DESTROY, and the end of the context. */
int mck_handle_destroy(struct mck_context *ctx, u32 id);
u64 mck_handle_mmap_offset(const struct mck_handle *handle);

#endif
