/* SPDX-License-Identifier: MIT */
/*
 * The kernel module, as the rest of the library sees it: one function per call of /dev/mooncake, with
 * types instead of flags and sizes. Only this folder knows <linux/mooncake.h>.
 *
 * A struct mci_kdev is a context: objects are numbers in it. A child after fork() has none: its copy of the
 * file is closed, so that what the parent held ends with the parent.
 * Every function returns 0 or a negative errno with a sentence, -ENODEV where the module is not there (then
 * @kdev may be NULL), -ECHILD in a child. Outputs are set on success only, unless said. Any thread.
 */
#ifndef MCI_KDEV_H
#define MCI_KDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mooncake/types.h>

#define MCI_KDEV_PATH "/dev/mooncake"
#define MCI_KDEV_KEY 16
#define MCI_KDEV_NO_LIMIT UINT64_MAX
#define MCI_KDEV_SELF UINT32_MAX /* a user: the caller */

struct mci_kdev;

/* MCI_KDEV_* features of struct mci_kdev_info. */
enum mci_kdev_feature {
	MCI_KDEV_KEEP,
	MCI_KDEV_PIN,
	MCI_KDEV_IMPORT,
	MCI_KDEV_EXPORT,
	MCI_KDEV_BAR,
	MCI_KDEV_BAR_PAGES,
	MCI_KDEV_CXL,
	MCI_KDEV_CXL_MAPPED,
	MCI_KDEV_HUGE_MAP,
	MCI_KDEV_REPLACE,
	MCI_KDEV_FEATURES
};

struct mci_kdev_info {
	uint32_t abi_version, page_size;
	uint32_t features; /* bit i: enum mci_kdev_feature i */
	struct mc_uuid context_id;
	uint64_t length_max, user_bytes, user_limit, kept_bytes, kept_limit;
	uint32_t objects, objects_max;
};

struct mci_kdev_buffer {
	uint32_t id;
	uint64_t length, mmap_offset, generation;
	struct mc_uuid content_id;
};

struct mci_kdev_attachment {
	uint32_t id;
	bool writable;
	uint64_t length, mmap_offset, generation;
	struct mc_uuid content_id;
};

struct mci_kdev_revoked {
	uint32_t dmabuf_attached;
	uint64_t pinned_pages, generation;
};

struct mci_kdev_stat {
	const char *kind; /* "buffer", "pin", ... */
	bool revoked, kept, exclusive, attachment, suspect, readable, writable;
	uint64_t length, mmap_offset, pages, extents, generation, pinned_pages;
	uint32_t contexts, mappings, dmabufs, dmabuf_attached, grants, owner;
	struct mc_uuid content_id;
	uint32_t node_count;	/* NUMA nodes that there are */
	uint64_t node_pages[8]; /* of the first eight */
};

/* kdev.c: contexts */

/*
 * -ENODEV: the module is not loaded; -EACCES: the user is not in the group; -EOPNOTSUPP: a build without it,
 * or a file of that name that is something else.
 */
int mci_kdev_open(struct mci_kdev **kdev);
void mci_kdev_close(struct mci_kdev *kdev); /* NULL is fine */
int mci_kdev_query(struct mci_kdev *kdev, struct mci_kdev_info *info);
const char *mci_kdev_feature_name(enum mci_kdev_feature feature);
int mci_kdev_destroy(struct mci_kdev *kdev, uint32_t id);
int mci_kdev_stat(struct mci_kdev *kdev, uint32_t id, struct mci_kdev_stat *stat);
/* A descriptor of a dma-buf of the whole object, close-on-exec. */
int mci_kdev_export(struct mci_kdev *kdev, uint32_t id, bool writable, int *fd);
/* Map a whole object, MAP_SHARED; large ones on a 2 MiB boundary, if nobody is quicker. Not inherited by a child. */
int mci_kdev_map(struct mci_kdev *kdev, uint64_t mmap_offset, uint64_t length, bool writable, void **addr);

/* buffer.c: buffers and who may use them */

int mci_kdev_alloc(struct mci_kdev *kdev, uint64_t length, int node, struct mci_kdev_buffer *buffer);
/* Kept and held exclusively. -EEXIST: the name is taken. */
int mci_kdev_alloc_kept(struct mci_kdev *kdev, const char *name, uint64_t length, int node,
			struct mci_kdev_buffer *buffer);
/* -ENOENT; -EBUSY: somebody has it open: *@holder is his pid then, 0: not seen from here. */
int mci_kdev_open_kept(struct mci_kdev *kdev, const char *name, bool exclusive,
		       struct mci_kdev_buffer *buffer, uint32_t *holder);
int mci_kdev_unlink(struct mci_kdev *kdev, const char *name);
/* For the context @receiver, to be used once. */
int mci_kdev_grant(struct mci_kdev *kdev, uint32_t id, uint64_t offset, uint64_t length, bool writable,
		   const struct mc_uuid *receiver, uint64_t *grant, uint8_t key[MCI_KDEV_KEY]);
/* -ENOENT: not for us, or spent, or revoked. */
int mci_kdev_attach(struct mci_kdev *kdev, const uint8_t key[MCI_KDEV_KEY],
		    struct mci_kdev_attachment *attachment);
/* A grant and what was attached by it. -ENOENT: there is nothing of it any more. */
int mci_kdev_revoke_grant(struct mci_kdev *kdev, uint64_t grant);
/* An object, for everybody else. */
int mci_kdev_revoke(struct mci_kdev *kdev, uint32_t id, bool replace, struct mci_kdev_revoked *revoked);
/* A kept buffer of the calling user, for everybody. */
int mci_kdev_revoke_kept(struct mci_kdev *kdev, const char *name, bool replace,
			 struct mci_kdev_revoked *revoked);

/* listing.c: dumps by generic netlink */

struct mci_kdev_entry {
	const char *name; /* NULL: none */
	const char *kind;
	uint64_t serial, length, generation;
	uint32_t uid, pid, contexts, mappings, grants, dmabufs;
	bool revoked, kept, exclusive;
	struct mc_uuid content_id;
};

/*
 * Call @fn for every kept buffer (or every live object) that the kernel shows to us: our own, with
 * CAP_SYS_ADMIN all. Stops at the first non-zero value that @fn returns, and returns it.
 */
int mci_kdev_list(bool kept, int (*fn)(const struct mci_kdev_entry *entry, void *arg), void *arg);

/* ---- inside this folder ---- */

struct mci_kdev_call { /* for sentences */
	const char *what;
	const char *name; /* of a kept buffer, or NULL */
	uint64_t length;
};

/* One ioctl; @args begins with its size. */
int mci_kdev_call(struct mci_kdev *kdev, unsigned long number, void *args, const struct mci_kdev_call *call);
const char *mci_kdev_kind_name(uint32_t kind);

#endif
