// SPDX-License-Identifier: GPL-2.0
/*
 * mooncake_peer.ko: importer and exporter of dma-bufs for tests, see peer.h. One attachment per open file; peer->lock
 * is taken before the reservation lock of the dma-buf, and not in move_notify, which is called under the latter.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "peer.h"

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS("DMA_BUF");
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(5, 16, 0)
MODULE_IMPORT_NS(DMA_BUF);
#endif

struct peer {
	struct mutex lock; /* everything but what the reservation lock guards */
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct sg_table *sgt; /* under the reservation lock */
	bool pinned;
	unsigned int notified; /* under the reservation lock */
};

static struct platform_device *engine;

static void peer_unmap(struct peer *peer)
{
	dma_resv_assert_held(peer->dmabuf->resv);
	if (peer->sgt)
		dma_buf_unmap_attachment(peer->attach, peer->sgt, DMA_BIDIRECTIONAL);
	peer->sgt = NULL;
}

/* Maps if it is not mapped. Before 6.2 a static importer maps without the reservation lock; all static exporters of
 * that time, and cached mappings of dynamic ones, do not mind that it is held.
 */
static int peer_map(struct peer *peer)
{
	struct sg_table *sgt;

	dma_resv_assert_held(peer->dmabuf->resv);
	if (peer->sgt)
		return 0;
	sgt = dma_buf_map_attachment(peer->attach, DMA_BIDIRECTIONAL);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	peer->sgt = sgt;
	return 0;
}

static void peer_move_notify(struct dma_buf_attachment *attach)
{
	struct peer *peer = attach->importer_priv;

	peer->notified++;
	if (!peer->pinned)
		peer_unmap(peer);
}

static const struct dma_buf_attach_ops peer_dynamic_ops = {
	.allow_peer2peer = true,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	.invalidate_mappings = peer_move_notify,
#else
	.move_notify = peer_move_notify,
#endif
};

static void peer_detach(struct peer *peer)
{
	if (!peer->attach)
		return;
	dma_resv_lock(peer->dmabuf->resv, NULL);
	peer_unmap(peer);
	if (peer->pinned)
		dma_buf_unpin(peer->attach);
	peer->pinned = false;
	dma_resv_unlock(peer->dmabuf->resv);
	dma_buf_detach(peer->dmabuf, peer->attach);
	peer->attach = NULL;
	dma_buf_put(peer->dmabuf);
	peer->dmabuf = NULL;
}

static int peer_attach(struct peer *peer, struct peer_attach __user *arg)
{
	struct dma_buf_attachment *attach;
	struct peer_attach a;
	struct scatterlist *sg;
	int i, ret;

	if (copy_from_user(&a, arg, sizeof(a)))
		return -EFAULT;
	if (peer->attach)
		return -EBUSY;
	peer->dmabuf = dma_buf_get(a.fd);
	if (IS_ERR(peer->dmabuf)) {
		ret = PTR_ERR(peer->dmabuf);
		peer->dmabuf = NULL;
		return ret;
	}
	if (a.flags & (PEER_DYNAMIC | PEER_PINNED))
		attach = dma_buf_dynamic_attach(peer->dmabuf, &engine->dev, &peer_dynamic_ops, peer);
	else
		attach = dma_buf_attach(peer->dmabuf, &engine->dev);
	if (IS_ERR(attach)) {
		dma_buf_put(peer->dmabuf);
		peer->dmabuf = NULL;
		return PTR_ERR(attach);
	}
	peer->attach = attach;
	dma_resv_lock(peer->dmabuf->resv, NULL);
	ret = 0;
	if (a.flags & PEER_PINNED) {
		ret = dma_buf_pin(attach);
		peer->pinned = !ret;
	}
	if (!ret)
		ret = peer_map(peer);
	a.length = 0;
	a.entries = 0;
	if (!ret) {
		for_each_sgtable_dma_sg(peer->sgt, sg, i) {
			a.length += sg_dma_len(sg);
			a.entries++;
		}
	}
	dma_resv_unlock(peer->dmabuf->resv);
	if (!ret && copy_to_user(arg, &a, sizeof(a)))
		ret = -EFAULT;
	if (ret)
		peer_detach(peer);
	return ret;
}

/* What a DMA engine does, without one: the addresses that the exporter gave for the device are those of its pages,
 * since the engine has no IOMMU.
 */
static int peer_move_bytes(struct peer *peer, const struct peer_transfer *t, char *bounce)
{
	u64 at = 0, left = t->length, offset = t->offset;
	struct scatterlist *sg;
	int i;

	for_each_sgtable_dma_sg(peer->sgt, sg, i) {
		u64 len = sg_dma_len(sg);

		for (; left && offset >= at && offset < at + len;) {
			phys_addr_t phys = sg_dma_address(sg) + (offset - at);
			size_t part = min3(left, at + len - offset, (u64)(PAGE_SIZE - offset_in_page(phys)));
			char *virt;

			if (!pfn_valid(PHYS_PFN(phys)))
				return -EIO;
			virt = (char *)page_address(pfn_to_page(PHYS_PFN(phys))) + offset_in_page(phys);
			if (t->write)
				memcpy(virt, bounce, part);
			else
				memcpy(bounce, virt, part);
			bounce += part;
			offset += part;
			left -= part;
		}
		at += len;
	}
	return left ? -ERANGE : 0;
}

static int peer_transfer(struct peer *peer, const struct peer_transfer __user *arg)
{
	struct peer_transfer t;
	void __user *user;
	char *bounce;
	int ret;

	if (copy_from_user(&t, arg, sizeof(t)))
		return -EFAULT;
	if (!peer->attach)
		return -ENOTCONN;
	if (!t.length || t.length > SZ_64M)
		return -EINVAL;
	user = u64_to_user_ptr(t.buffer);
	bounce = kvmalloc(t.length, GFP_KERNEL);
	if (!bounce)
		return -ENOMEM;
	ret = -EFAULT;
	if (t.write && copy_from_user(bounce, user, t.length))
		goto out;
	dma_resv_lock(peer->dmabuf->resv, NULL);
	ret = peer_map(peer);
	if (!ret)
		ret = peer_move_bytes(peer, &t, bounce);
	dma_resv_unlock(peer->dmabuf->resv);
	if (!ret && !t.write && copy_to_user(user, bounce, t.length))
		ret = -EFAULT;
out:
	kvfree(bounce);
	return ret;
}

static int peer_state(struct peer *peer, struct peer_state __user *arg)
{
	struct peer_state s = {};

	if (peer->attach) {
		dma_resv_lock(peer->dmabuf->resv, NULL);
		s.mapped = !!peer->sgt;
		s.notified = peer->notified;
		dma_resv_unlock(peer->dmabuf->resv);
	}
	return copy_to_user(arg, &s, sizeof(s)) ? -EFAULT : 0;
}

/* The exporter: addresses for devices, and nothing for CPUs. */

struct hidden {
	size_t length;
	struct page *pages;
};

static struct sg_table *hidden_map(struct dma_buf_attachment *attach, enum dma_data_direction direction)
{
	struct hidden *hidden = attach->dmabuf->priv;
	struct sg_table *sgt = kzalloc(sizeof(*sgt), GFP_KERNEL);
	int ret;

	if (!sgt)
		return ERR_PTR(-ENOMEM);
	ret = sg_alloc_table(sgt, 1, GFP_KERNEL);
	if (ret)
		goto err_free;
	sg_set_page(sgt->sgl, hidden->pages, hidden->length, 0);
	ret = dma_map_sgtable(attach->dev, sgt, direction, 0);
	if (ret)
		goto err_table;
	return sgt;
err_table:
	sg_free_table(sgt);
err_free:
	kfree(sgt);
	return ERR_PTR(ret);
}

static void hidden_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt, enum dma_data_direction direction)
{
	dma_unmap_sgtable(attach->dev, sgt, direction, 0);
	sg_free_table(sgt);
	kfree(sgt);
}

static void hidden_release(struct dma_buf *dmabuf)
{
	struct hidden *hidden = dmabuf->priv;

	__free_pages(hidden->pages, get_order(hidden->length));
	kfree(hidden);
}

static const struct dma_buf_ops hidden_ops = {
	.map_dma_buf = hidden_map,
	.unmap_dma_buf = hidden_unmap,
	.release = hidden_release,
};

static int peer_export(struct peer_export __user *arg)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct hidden *hidden;
	struct dma_buf *dmabuf;
	struct peer_export e;
	int fd;

	if (copy_from_user(&e, arg, sizeof(e)))
		return -EFAULT;
	if (!e.length || e.length > SZ_4M || !PAGE_ALIGNED(e.length))
		return -EINVAL;
	hidden = kzalloc(sizeof(*hidden), GFP_KERNEL);
	if (!hidden)
		return -ENOMEM;
	hidden->length = e.length;
	hidden->pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, get_order(e.length));
	if (!hidden->pages) {
		kfree(hidden);
		return -ENOMEM;
	}
	info.ops = &hidden_ops;
	info.size = e.length;
	info.flags = O_RDWR;
	info.priv = hidden;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		__free_pages(hidden->pages, get_order(hidden->length));
		kfree(hidden);
		return PTR_ERR(dmabuf);
	}
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		dma_buf_put(dmabuf);
		return fd;
	}
	e.fd = fd;
	if (copy_to_user(arg, &e, sizeof(e))) {
		put_unused_fd(fd);
		dma_buf_put(dmabuf);
		return -EFAULT;
	}
	fd_install(fd, dmabuf->file);
	return 0;
}

static long peer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct peer *peer = file->private_data;
	void __user *user = (void __user *)arg;
	int ret;

	mutex_lock(&peer->lock);
	switch (cmd) {
	case PEER_ATTACH:
		ret = peer_attach(peer, user);
		break;
	case PEER_TRANSFER:
		ret = peer_transfer(peer, user);
		break;
	case PEER_STATE:
		ret = peer_state(peer, user);
		break;
	case PEER_DETACH:
		peer_detach(peer);
		ret = 0;
		break;
	case PEER_EXPORT:
		ret = peer_export(user);
		break;
	default:
		ret = -ENOTTY;
	}
	mutex_unlock(&peer->lock);
	return ret;
}

static int peer_open(struct inode *inode, struct file *file)
{
	struct peer *peer = kzalloc(sizeof(*peer), GFP_KERNEL);

	if (!peer)
		return -ENOMEM;
	mutex_init(&peer->lock);
	file->private_data = peer;
	return 0;
}

static int peer_release(struct inode *inode, struct file *file)
{
	struct peer *peer = file->private_data;

	peer_detach(peer);
	kfree(peer);
	return 0;
}

static const struct file_operations peer_fops = {
	.owner = THIS_MODULE,
	.open = peer_open,
	.release = peer_release,
	.unlocked_ioctl = peer_ioctl,
};

static struct miscdevice peer_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mooncake_peer",
	.fops = &peer_fops,
	.mode = 0666,
};

static int __init peer_init(void)
{
	int ret;

	engine = platform_device_register_simple("mooncake_peer", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(engine))
		return PTR_ERR(engine);
	ret = dma_coerce_mask_and_coherent(&engine->dev, DMA_BIT_MASK(64));
	if (ret)
		goto err_engine;
	dma_set_max_seg_size(&engine->dev, UINT_MAX);
	ret = misc_register(&peer_device);
	if (ret)
		goto err_engine;
	return 0;
err_engine:
	platform_device_unregister(engine);
	return ret;
}

static void __exit peer_exit(void)
{
	misc_deregister(&peer_device);
	platform_device_unregister(engine);
}

module_init(peer_init);
module_exit(peer_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A dma-buf importer and exporter for the tests of mooncake.ko");
