// SPDX-License-Identifier: MIT
/* Buffers of the kernel module, kept ones among them, and granting, attaching, revoking. No state. */
#include <errno.h>
#include <linux/mooncake.h>
#include <string.h>

#include "core/errors.h"
#include "kdev/kdev.h"

static int alloc(struct mci_kdev *kdev, struct mooncake_buffer_alloc *a, const struct mci_kdev_call *call,
		 struct mci_kdev_buffer *buffer)
{
	int ret = mci_kdev_call(kdev, MOONCAKE_BUFFER_ALLOC, a, call);

	if (ret)
		return ret;
	*buffer = (struct mci_kdev_buffer){
		.id = a->id, .length = a->length, .mmap_offset = a->mmap_offset, .generation = a->generation};
	memcpy(buffer->content_id.b, a->content_id, sizeof(buffer->content_id.b));
	return 0;
}

int mci_kdev_alloc(struct mci_kdev *kdev, uint64_t length, int node, struct mci_kdev_buffer *buffer)
{
	struct mooncake_buffer_alloc a = {.size = sizeof(a), .length = length, .numa_node = node};
	const struct mci_kdev_call call = {.what = "a buffer of the kernel module", .length = length};

	return alloc(kdev, &a, &call, buffer);
}

int mci_kdev_alloc_kept(struct mci_kdev *kdev, const char *name, uint64_t length, int node,
			struct mci_kdev_buffer *buffer)
{
	struct mooncake_buffer_alloc a = {
		.size = sizeof(a),
		.flags = MOONCAKE_BUFFER_KEEP | MOONCAKE_BUFFER_EXCLUSIVE,
		.length = length,
		.numa_node = node,
		.name_length = (uint32_t)strlen(name),
		.name = (uintptr_t)name,
	};
	const struct mci_kdev_call call = {
		.what = "kept memory of the kernel module", .name = name, .length = length};

	return alloc(kdev, &a, &call, buffer);
}

int mci_kdev_open_kept(struct mci_kdev *kdev, const char *name, bool exclusive,
		       struct mci_kdev_buffer *buffer, uint32_t *holder)
{
	struct mooncake_buffer_open o = {
		.size = sizeof(o),
		.flags = exclusive ? MOONCAKE_OPEN_EXCLUSIVE : 0,
		.uid = MOONCAKE_UID_SELF,
		.name_length = (uint32_t)strlen(name),
		.name = (uintptr_t)name,
	};
	const struct mci_kdev_call call = {.what = "opening kept memory", .name = name};
	int ret = mci_kdev_call(kdev, MOONCAKE_BUFFER_OPEN, &o, &call);

	if (ret == -EBUSY && holder)
		*holder = o.holder_pid;
	if (ret)
		return ret;
	*buffer = (struct mci_kdev_buffer){
		.id = o.id, .length = o.length, .mmap_offset = o.mmap_offset, .generation = o.generation};
	memcpy(buffer->content_id.b, o.content_id, sizeof(buffer->content_id.b));
	return 0;
}

int mci_kdev_unlink(struct mci_kdev *kdev, const char *name)
{
	struct mooncake_buffer_unlink u = {
		.size = sizeof(u),
		.uid = MOONCAKE_UID_SELF,
		.name_length = (uint32_t)strlen(name),
		.name = (uintptr_t)name,
	};
	const struct mci_kdev_call call = {.what = "removing kept memory", .name = name};

	return mci_kdev_call(kdev, MOONCAKE_BUFFER_UNLINK, &u, &call);
}

int mci_kdev_grant(struct mci_kdev *kdev, uint32_t id, uint64_t offset, uint64_t length, bool writable,
		   const struct mc_uuid *receiver, uint64_t *grant, uint8_t key[MCI_KDEV_KEY])
{
	struct mooncake_grant g = {
		.size = sizeof(g),
		.id = id,
		.rights = MOONCAKE_RIGHT_READ | (writable ? MOONCAKE_RIGHT_WRITE : 0),
		.offset = offset,
		.length = length,
		.uses = 1,
	};
	const struct mci_kdev_call call = {.what = "granting memory of the kernel module", .length = length};
	int ret;

	memcpy(g.context_id, receiver->b, sizeof(g.context_id));
	ret = mci_kdev_call(kdev, MOONCAKE_GRANT, &g, &call);
	if (ret)
		return ret;
	*grant = g.grant;
	memcpy(key, g.key, MCI_KDEV_KEY);
	return 0;
}

int mci_kdev_attach(struct mci_kdev *kdev, const uint8_t key[MCI_KDEV_KEY],
		    struct mci_kdev_attachment *attachment)
{
	struct mooncake_attach a = {.size = sizeof(a)};
	const struct mci_kdev_call call = {.what = "attaching memory of another process by its key"};
	int ret;

	memcpy(a.key, key, sizeof(a.key));
	ret = mci_kdev_call(kdev, MOONCAKE_ATTACH, &a, &call);
	if (ret)
		return ret;
	*attachment = (struct mci_kdev_attachment){
		.id = a.id,
		.writable = a.rights & MOONCAKE_RIGHT_WRITE,
		.length = a.length,
		.mmap_offset = a.mmap_offset,
		.generation = a.generation,
	};
	memcpy(attachment->content_id.b, a.content_id, sizeof(attachment->content_id.b));
	return 0;
}

static int revoke(struct mci_kdev *kdev, struct mooncake_revoke *r, const char *name, bool replace,
		  struct mci_kdev_revoked *revoked)
{
	const struct mci_kdev_call call = {.what = "revoking memory of the kernel module", .name = name};
	int ret;

	r->size = sizeof(*r);
	r->flags |= replace ? MOONCAKE_REVOKE_REPLACE : 0;
	ret = mci_kdev_call(kdev, MOONCAKE_REVOKE, r, &call);
	if (!ret && revoked)
		*revoked = (struct mci_kdev_revoked){.dmabuf_attached = r->dmabuf_attached,
						     .pinned_pages = r->pinned,
						     .generation = r->generation};
	return ret;
}

int mci_kdev_revoke_grant(struct mci_kdev *kdev, uint64_t grant)
{
	struct mooncake_revoke r = {.flags = MOONCAKE_REVOKE_GRANT, .grant = grant};

	return revoke(kdev, &r, NULL, false, NULL);
}

int mci_kdev_revoke(struct mci_kdev *kdev, uint32_t id, bool replace, struct mci_kdev_revoked *revoked)
{
	struct mooncake_revoke r = {.id = id};

	return revoke(kdev, &r, NULL, replace, revoked);
}

int mci_kdev_revoke_kept(struct mci_kdev *kdev, const char *name, bool replace,
			 struct mci_kdev_revoked *revoked)
{
	struct mooncake_revoke r = {
		.flags = MOONCAKE_REVOKE_NAMED,
		.uid = MOONCAKE_UID_SELF,
		.name = (uintptr_t)name,
		.name_length = (uint32_t)strlen(name),
	};

	return revoke(kdev, &r, name, replace, revoked);
}
