// SPDX-License-Identifier: GPL-2.0
/*
 * EXPORT: our dma-bufs. Pages are looked up when a device maps them, and that mapping holds the page store, whatever
 * becomes of the object. Lock order: reservation lock of the dma-buf -> object->lock; own->lock by itself.
 *
 * There is no vmap: what another driver maps into the kernel could not be taken back by REVOKE.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "map.h"
#include "object.h"
#include "pages.h"
#include "region.h"
#include "stat.h"

#define MCK_SEGMENT_MAX SZ_2G /* bytes of one scatter list entry: its length has 32 bits */

struct mck_dmabuf {
	struct mck_export export;
	bool write;
	atomic_t attached;
	struct mutex lock;	/* dmabuf, against its release */
	struct dma_buf *dmabuf; /* no reference; NULL once it is going */
};

/* What a device's attachment hangs into it. Under the reservation lock. */
struct mck_attachment {
	unsigned int pins, maps;
	struct list_head mapped; /* mck_mapping.node */
};

struct mck_mapping {
	struct list_head node;
	struct sg_table sgt;
	enum dma_data_direction direction;
	struct mck_pages *pages; /* a reference */
};

static struct mck_dmabuf *mck_dmabuf_of(struct mck_export *export)
{
	return container_of(export, struct mck_dmabuf, export);
}

static int mck_dmabuf_alive(struct mck_handle *handle)
{
	int ret;

	down_read(&handle->object->lock);
	ret = mck_handle_alive(handle);
	up_read(&handle->object->lock);
	return ret;
}

static int mck_dmabuf_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct mck_dmabuf *own = dmabuf->priv;
	struct mck_handle *handle = own->export.handle;
	const struct mck_object_ops *ops = handle->object->ops;
	struct mck_attachment *attachment;
	int ret;

	ret = mck_dmabuf_alive(handle);
	if (!ret && ops->check)
		ret = ops->check(handle->object);
	if (!ret && ops->attach)
		ret = ops->attach(handle->object, attach);
	if (ret)
		return ret;
	attachment = mck_zalloc(sizeof(*attachment));
	if (!attachment)
		return -ENOMEM;
	INIT_LIST_HEAD(&attachment->mapped);
	attach->priv = attachment;
	atomic_inc(&own->attached);
	return 0;
}

static void mck_dmabuf_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct mck_attachment *attachment = attach->priv;
	struct mck_dmabuf *own = dmabuf->priv;

	WARN_ON_ONCE(!list_empty(&attachment->mapped));
	atomic_dec(&own->attached);
	mck_free(attachment, sizeof(*attachment));
}

/* The device relies on the memory staying where it is. It may do so as long as it is there at all. */
static int mck_dmabuf_pin(struct dma_buf_attachment *attach)
{
	struct mck_attachment *attachment = attach->priv;
	struct mck_dmabuf *own = attach->dmabuf->priv;
	int ret;

	ret = mck_dmabuf_alive(own->export.handle);
	if (!ret)
		attachment->pins++;
	return ret;
}

static void mck_dmabuf_unpin(struct dma_buf_attachment *attach)
{
	struct mck_attachment *attachment = attach->priv;

	attachment->pins--;
}

/* Scatter list entries of one block: calls with sg == NULL count them. */
static unsigned int mck_sg_block(struct scatterlist **sg, struct page *page, unsigned long nr)
{
	unsigned long part, most = MCK_SEGMENT_MAX >> PAGE_SHIFT;
	unsigned int entries = 0;

	for (; nr; nr -= part) {
		part = min(nr, most);
		if (sg) {
			sg_set_page(*sg, page, part << PAGE_SHIFT, 0);
			*sg = sg_next(*sg);
			page = mck_nth_page(page, part);
		}
		entries++;
	}
	return entries;
}

static unsigned int mck_sg_walk(const struct mck_pages *pages, unsigned long index, unsigned long nr,
				struct scatterlist **sg)
{
	const struct mck_block *block = mck_pages_find(pages, index);
	unsigned int entries = 0;
	unsigned long part;

	for (; nr; block++, index += part, nr -= part) {
		part = min(nr, (unsigned long)block->first + block->count - index);
		entries += mck_sg_block(sg, mck_nth_page(block->page, index - block->first), part);
		cond_resched();
	}
	return entries;
}

static int mck_sg_build(struct sg_table *sgt, const struct mck_pages *pages, const struct mck_handle *handle)
{
	unsigned long index = handle->offset >> PAGE_SHIFT, nr = handle->length >> PAGE_SHIFT;
	struct scatterlist *sg;
	int ret;

	if (index + nr > pages->nr_pages)
		return -EINVAL;
	ret = sg_alloc_table(sgt, mck_sg_walk(pages, index, nr, NULL), GFP_KERNEL);
	if (ret)
		return ret;
	sg = sgt->sgl;
	mck_sg_walk(pages, index, nr, &sg);
	return 0;
}

/* The object's pages, referenced, if the handle is alive. */
static struct mck_pages *mck_dmabuf_pages(struct mck_handle *handle)
{
	struct mck_object *object = handle->object;
	struct mck_pages *pages;
	int ret;

	down_read(&object->lock);
	ret = mck_handle_alive(handle);
	pages = ret ? ERR_PTR(ret) : mck_pages_get(object->pages);
	up_read(&object->lock);
	return pages;
}

/*
 * A device that is not told apart from one that writes gets nothing of what it may only read: without an IOMMU nothing
 * else would keep it from writing.
 *
 * Several devices map the same memory, each at its time: caches are synchronized by themselves, not with the mapping.
 *
 * Whether a pin is suspect is not looked into here: that takes mmap_lock, which comes before the reservation lock. Its
 * pages are its own as long as it lives; only the process may not see them any more.
 */
static struct sg_table *mck_dmabuf_map_device(struct dma_buf_attachment *attach, enum dma_data_direction direction)
{
	struct mck_attachment *attachment = attach->priv;
	struct mck_dmabuf *own = attach->dmabuf->priv;
	struct mck_handle *handle = own->export.handle;
	struct mck_mapping *mapping;
	int ret;

	dma_resv_assert_held(attach->dmabuf->resv);
	if (!own->write && direction != DMA_TO_DEVICE)
		return ERR_PTR(-EACCES);
	mapping = mck_zalloc(sizeof(*mapping));
	if (!mapping)
		return ERR_PTR(-ENOMEM);
	mapping->direction = direction;
	mapping->pages = mck_dmabuf_pages(handle);
	if (IS_ERR(mapping->pages)) {
		ret = PTR_ERR(mapping->pages);
		goto err_free;
	}
	ret = mck_sg_build(&mapping->sgt, mapping->pages, handle);
	if (ret)
		goto err_pages;
	ret = dma_map_sgtable(attach->dev, &mapping->sgt, direction, DMA_ATTR_SKIP_CPU_SYNC);
	if (ret)
		goto err_table;
	dma_sync_sgtable_for_device(attach->dev, &mapping->sgt, direction);
	list_add(&mapping->node, &attachment->mapped);
	attachment->maps++;
	return &mapping->sgt;

err_table:
	sg_free_table(&mapping->sgt);
err_pages:
	mck_pages_put(mapping->pages);
err_free:
	mck_free(mapping, sizeof(*mapping));
	return ERR_PTR(ret);
}

static void mck_dmabuf_unmap_device(struct dma_buf_attachment *attach, struct sg_table *sgt,
				    enum dma_data_direction direction)
{
	struct mck_mapping *mapping = container_of(sgt, struct mck_mapping, sgt);
	struct mck_attachment *attachment = attach->priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	list_del(&mapping->node);
	attachment->maps--;
	dma_sync_sgtable_for_cpu(attach->dev, sgt, direction);
	dma_unmap_sgtable(attach->dev, sgt, direction, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(sgt);
	mck_pages_put(mapping->pages);
	mck_free(mapping, sizeof(*mapping));
}

/* For machines whose devices do not see the caches: DMA_BUF_IOCTL_SYNC around accesses by CPUs. */
static void mck_dmabuf_sync(struct dma_buf *dmabuf, enum dma_data_direction direction, bool begin)
{
	struct dma_buf_attachment *attach;
	struct mck_mapping *mapping;

	list_for_each_entry(attach, &dmabuf->attachments, node) {
		struct mck_attachment *attachment = attach->priv;

		list_for_each_entry(mapping, &attachment->mapped, node) {
			if (begin)
				dma_sync_sgtable_for_cpu(attach->dev, &mapping->sgt, direction);
			else
				dma_sync_sgtable_for_device(attach->dev, &mapping->sgt, direction);
		}
	}
}

static int mck_dmabuf_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction direction)
{
	int ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);

	if (ret)
		return ret;
	mck_dmabuf_sync(dmabuf, direction, true);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static int mck_dmabuf_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction direction)
{
	dma_resv_lock(dmabuf->resv, NULL);
	mck_dmabuf_sync(dmabuf, direction, false);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

/* Faults look at the handle as those of /dev/mooncake do; these mappings are those of the dma-buf's own file. */
static int mck_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct mck_dmabuf *own = dmabuf->priv;

	return mck_map_handle(own->export.handle, vma);
}

static void mck_dmabuf_release(struct dma_buf *dmabuf)
{
	struct mck_dmabuf *own = dmabuf->priv;

	mutex_lock(&own->lock);
	own->dmabuf = NULL;
	mutex_unlock(&own->lock);
	mck_export_remove(&own->export);
}

static const struct dma_buf_ops mck_dmabuf_ops = {
	.attach = mck_dmabuf_attach,
	.detach = mck_dmabuf_detach,
	.pin = mck_dmabuf_pin,
	.unpin = mck_dmabuf_unpin,
	.map_dma_buf = mck_dmabuf_map_device,
	.unmap_dma_buf = mck_dmabuf_unmap_device,
	.begin_cpu_access = mck_dmabuf_begin_cpu_access,
	.end_cpu_access = mck_dmabuf_end_cpu_access,
	.mmap = mck_dmabuf_mmap,
	.release = mck_dmabuf_release,
};

/*
 * Those that can move are told to; those that have pinned the memory cannot, and are counted only. Some kernels pin on
 * behalf of a device while it has a mapping: such pins come in pairs with the mappings.
 */
static void mck_dmabuf_notify(struct dma_buf *dmabuf)
{
	struct dma_buf_attachment *attach;

	dma_resv_lock(dmabuf->resv, NULL);
	list_for_each_entry(attach, &dmabuf->attachments, node) {
		struct mck_attachment *attachment = attach->priv;
		unsigned int by_kernel = MCK_DMABUF_MAPPING_PINS ? attachment->maps : 0;

		if (attach->importer_ops && attachment->pins <= by_kernel)
			mck_dmabuf_tell(attach);
	}
	dma_resv_unlock(dmabuf->resv);
}

/* With the lock held the dma-buf cannot go, and with a reference to its file neither can the file's mappings. */
static void mck_dmabuf_revoked(struct mck_export *export, bool replaced)
{
	struct mck_dmabuf *own = mck_dmabuf_of(export);
	struct dma_buf *dmabuf;
	bool going;

	mutex_lock(&own->lock);
	dmabuf = own->dmabuf;
	going = !dmabuf || !mck_file_tryget(dmabuf->file);
	mutex_unlock(&own->lock);
	if (going)
		return;
	unmap_mapping_range(dmabuf->file->f_mapping, 0, 0, 1);
	mck_dmabuf_notify(dmabuf);
	dma_buf_put(dmabuf);
}

static u32 mck_dmabuf_attached(struct mck_export *export)
{
	return atomic_read(&mck_dmabuf_of(export)->attached);
}

static void mck_dmabuf_free(struct mck_export *export)
{
	struct mck_dmabuf *own = mck_dmabuf_of(export);

	mck_free(own, sizeof(*own));
}

static const struct mck_export_ops mck_dmabuf_export_ops = {
	.revoked = mck_dmabuf_revoked,
	.attached = mck_dmabuf_attached,
	.free = mck_dmabuf_free,
};

/* From here on the handle's REVOKE finds it. */
static struct dma_buf *mck_dmabuf_create(struct mck_handle *handle, bool write)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	struct mck_dmabuf *own;
	int ret;

	own = mck_zalloc(sizeof(*own));
	if (!own)
		return ERR_PTR(-ENOMEM);
	own->write = write;
	mutex_init(&own->lock);
	ret = mck_export_add(&own->export, handle, &mck_dmabuf_export_ops);
	if (ret) {
		mck_free(own, sizeof(*own));
		return ERR_PTR(ret);
	}
	info.ops = &mck_dmabuf_ops;
	info.size = handle->length;
	info.flags = write ? O_RDWR : O_RDONLY;
	info.priv = own;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		mck_export_remove(&own->export);
		return dmabuf;
	}
	mutex_lock(&own->lock);
	own->dmabuf = dmabuf;
	mutex_unlock(&own->lock);
	/* A REVOKE between the two found no dma-buf, which is not mapped yet: all that follows finds a dead handle. */
	return dmabuf;
}

static struct dma_buf *mck_export_handle(struct mck_handle *handle, bool write)
{
	struct mck_object *object = handle->object;
	struct dma_buf *dmabuf;
	int ret;

	/* What is mapped by page frame numbers has no struct pages for a dma-buf of ours. */
	if (!object->ops->dmabuf && object->ops->fault)
		return ERR_PTR(-EOPNOTSUPP);
	if (write && !(handle->rights & MOONCAKE_RIGHT_WRITE))
		return ERR_PTR(-EACCES);
	ret = mck_dmabuf_alive(handle);
	if (!ret && object->ops->check)
		ret = object->ops->check(object);
	if (ret)
		return ERR_PTR(ret);
	if (!object->ops->dmabuf)
		return mck_dmabuf_create(handle, write);
	/* What came from elsewhere goes out as it came. */
	dmabuf = object->ops->dmabuf(object);
	get_dma_buf(dmabuf);
	return dmabuf;
}

int mck_export(struct mck_call *call)
{
	struct mooncake_export *arg = call->arg;
	struct mck_handle *handle;
	struct dma_buf *dmabuf;
	int ret, fd;

	handle = mck_handle_find(call->ctx, arg->id);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	dmabuf = mck_export_handle(handle, arg->flags & MOONCAKE_EXPORT_WRITE);
	mck_handle_put(handle);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		ret = fd;
		goto err_dmabuf;
	}
	arg->fd = fd;
	ret = mck_respond(call);
	if (ret)
		goto err_fd;
	fd_install(fd, dmabuf->file);
	return 0;

err_fd:
	put_unused_fd(fd);
err_dmabuf:
	dma_buf_put(dmabuf);
	return ret;
}
