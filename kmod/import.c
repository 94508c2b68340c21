// SPDX-License-Identifier: GPL-2.0
/*
 * REGION_IMPORT: dma-bufs of other drivers. Nothing is attached and nothing mapped but while COPY runs, so that the
 * exporter can move the memory; import->lock guards the mapping that concurrent COPYs share.
 */
#include <linux/dma-buf.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "netlink.h"
#include "object.h"
#include "region.h"
#include "stat.h"

struct mck_import {
	struct mck_object object;
	struct dma_buf *dmabuf;
	struct mutex lock; /* all that follows */
	unsigned int users;
	struct mck_dmabuf_map map;
};

static struct mck_import *mck_import_of(struct mck_object *object)
{
	return container_of(object, struct mck_import, object);
}

static struct dma_buf *mck_import_dmabuf(struct mck_object *object)
{
	return mck_import_of(object)->dmabuf;
}

/* An exporter that shows nothing to CPUs has no vmap, or fails it in ways of its own. */
static int mck_import_map(struct mck_import *import)
{
	int ret = 0;

	mutex_lock(&import->lock);
	if (!import->users)
		ret = mck_dmabuf_vmap(import->dmabuf, &import->map);
	if (!ret)
		import->users++;
	mutex_unlock(&import->lock);
	return ret == 0 || ret == -ENOMEM || ret == -EINTR ? ret : -EOPNOTSUPP;
}

static void mck_import_unmap(struct mck_import *import)
{
	mutex_lock(&import->lock);
	if (!--import->users)
		mck_dmabuf_vunmap(import->dmabuf, &import->map);
	mutex_unlock(&import->lock);
}

static int mck_import_reach(struct mck_object *object, bool write)
{
	struct mck_import *import = mck_import_of(object);
	int ret;

	ret = mck_import_map(import);
	if (ret)
		return ret;
	ret = dma_buf_begin_cpu_access(import->dmabuf, write ? DMA_TO_DEVICE : DMA_FROM_DEVICE);
	if (ret) {
		mck_import_unmap(import);
		return ret == -EINTR || ret == -ERESTARTSYS ? -EINTR : -EOPNOTSUPP;
	}
	return 0;
}

static void mck_import_leave(struct mck_object *object, bool write)
{
	struct mck_import *import = mck_import_of(object);

	dma_buf_end_cpu_access(import->dmabuf, write ? DMA_TO_DEVICE : DMA_FROM_DEVICE);
	mck_import_unmap(import);
}

static void mck_import_span(struct mck_object *object, u64 offset, struct mck_span *span)
{
	struct mck_dmabuf_map *map = &mck_import_of(object)->map;

	if (map->io)
		span->io = map->io + offset;
	else
		span->addr = map->addr + offset;
	span->length = object->length - offset;
}

static void mck_import_release(struct mck_object *object)
{
	struct mck_import *import = mck_import_of(object);

	dma_buf_put(import->dmabuf);
	mck_free(import, sizeof(*import));
}

static const struct mck_object_ops mck_import_ops = {
	.kind = MOONCAKE_KIND_IMPORT,
	.dmabuf = mck_import_dmabuf,
	.reach = mck_import_reach,
	.leave = mck_import_leave,
	.span = mck_import_span,
	.release = mck_import_release,
};

/* Takes over the caller's reference to @dmabuf, also on failure. */
static struct mck_object *mck_import_create(struct dma_buf *dmabuf)
{
	struct mck_import *import;
	int ret;

	ret = -EINVAL;
	if (!dmabuf->size || dmabuf->size > MOONCAKE_LENGTH_MAX)
		goto err_put;
	ret = -ENOMEM;
	import = mck_zalloc(sizeof(*import));
	if (!import)
		goto err_put;
	import->dmabuf = dmabuf;
	mutex_init(&import->lock);
	ret = mck_object_init(&import->object, &mck_import_ops, dmabuf->size, NULL);
	if (ret)
		goto err_free;
	mck_netlink_event(&import->object, MOONCAKE_EVENT_CREATED);
	return &import->object;

err_free:
	mck_free(import, sizeof(*import));
err_put:
	dma_buf_put(dmabuf);
	return ERR_PTR(ret);
}

int mck_region_import(struct mck_call *call)
{
	struct mooncake_region_import *arg = call->arg;
	u32 rights = MOONCAKE_RIGHT_READ;
	struct mck_object *object;
	struct mck_handle *handle;
	struct dma_buf *dmabuf;
	int ret;

	dmabuf = dma_buf_get(arg->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	/* What its maker handed out to be read is not written by way of us. */
	if (dmabuf->file->f_mode & FMODE_WRITE)
		rights |= MOONCAKE_RIGHT_WRITE;
	object = mck_import_create(dmabuf);
	if (IS_ERR(object))
		return PTR_ERR(object);
	handle = mck_handle_create_range(call->ctx, object, 0, object->length, rights, NULL);
	mck_object_put(object);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	arg->id = handle->id;
	arg->length = object->length;
	ret = mck_respond(call);
	if (ret)
		mck_handle_abort(handle);
	else
		mck_handle_publish(handle);
	return ret;
}
