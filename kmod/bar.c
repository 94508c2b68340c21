// SPDX-License-Identifier: GPL-2.0
/*
 * REGION_BAR: a range of a memory BAR, claimed, with the device awake and decoding. It has one of two faces: page frame
 * numbers for CPUs, write-combining or uncached, or struct pages (module parameter bar_pages), which NICs can register.
 * When the device is unbound or goes away, the bus tells us first.
 *
 * A claim is what the device knows of: it outlives the object while memory registrations hold struct pages of it.
 *
 * Lock order: pci_lock_rescan_remove() -> lock of the device -> mck_bar_lock (the list of claims, their objects).
 */
#include <linux/capability.h>
#include <linux/io.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pci.h>
#include <linux/pci-p2pdma.h>
#include <linux/dma-buf.h>
#include <linux/pm_runtime.h>
#include <linux/security.h>
#include <linux/slab.h>
#include "bar.h"
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "netlink.h"
#include "object.h"
#include "pages.h"
#include "region.h"
#include "stat.h"
#include "window.h"

struct mck_claim {
	struct kref ref;
	struct list_head node;	   /* mck_claims */
	struct mck_object *object; /* no reference; NULL once that is released */
	struct pci_dev *pdev;	   /* a reference */
	int index;
	bool prefetch;
	resource_size_t start; /* of the range */
	u64 length;
	atomic_t open;		   /* claimed, awake, decoding */
	void __iomem *io;	   /* until the object is dead; NULL with struct pages */
	struct mck_window *window; /* a reference; NULL with io */
};

struct mck_bar {
	struct mck_object object;
	struct mck_claim *claim; /* a reference */
};

static LIST_HEAD(mck_claims);
static DEFINE_MUTEX(mck_bar_lock);

static bool bar_pages;
module_param(bar_pages, bool, 0644);
MODULE_PARM_DESC(bar_pages, "allow REGION_BAR with MOONCAKE_BAR_PAGES (test devices on x86 only)");

bool mck_bar_pages_allowed(void)
{
	return READ_ONCE(bar_pages) && IS_ENABLED(CONFIG_X86);
}

static struct mck_claim *mck_claim_of(struct mck_object *object)
{
	return container_of(object, struct mck_bar, object)->claim;
}

/* ---- what may be mapped ---- */

static bool mck_ranges_meet(u64 a, u64 a_length, u64 b, u64 b_length)
{
	return a < b + b_length && b < a + a_length;
}

/* Whole pages that hold a table of the device's interrupts. */
static bool mck_claim_meets_table(const struct mck_claim *claim, u64 offset, u32 where, u64 length)
{
	u64 first = where & PCI_MSIX_TABLE_OFFSET;
	u64 start = round_down(first, PAGE_SIZE);

	if ((where & PCI_MSIX_TABLE_BIR) != claim->index)
		return false;
	return mck_ranges_meet(offset, claim->length, start, PAGE_ALIGN(first + length) - start);
}

static int mck_claim_check_msix(struct mck_claim *claim, u64 offset)
{
	int at = pci_find_capability(claim->pdev, PCI_CAP_ID_MSIX);
	u32 table, pending;
	unsigned int nr;
	u16 control;

	if (!at)
		return 0;
	pci_read_config_word(claim->pdev, at + PCI_MSIX_FLAGS, &control);
	pci_read_config_dword(claim->pdev, at + PCI_MSIX_TABLE, &table);
	pci_read_config_dword(claim->pdev, at + PCI_MSIX_PBA, &pending);
	nr = (control & PCI_MSIX_FLAGS_QSIZE) + 1;
	if (mck_claim_meets_table(claim, offset, table, (u64)nr * PCI_MSIX_ENTRY_SIZE) ||
	    mck_claim_meets_table(claim, offset, pending, DIV_ROUND_UP(nr, 64) * sizeof(u64)))
		return -EACCES;
	return 0;
}

/* Sets start and length of the range; length 0: to the end. */
static int mck_claim_check_range(struct mck_claim *claim, u64 offset, u64 length)
{
	struct pci_dev *pdev = claim->pdev;
	u64 size = pci_resource_len(pdev, claim->index);

	if (!(pci_resource_flags(pdev, claim->index) & IORESOURCE_MEM) || !pci_resource_start(pdev, claim->index) ||
	    pci_resource_flags(pdev, claim->index) & IORESOURCE_UNSET)
		return -EINVAL;
	if (!PAGE_ALIGNED(pci_resource_start(pdev, claim->index)) || offset >= size)
		return -EINVAL;
	claim->length = length ?: size - offset;
	if (!PAGE_ALIGNED(offset | claim->length) || claim->length > min_t(u64, size - offset, MOONCAKE_LENGTH_MAX))
		return -EINVAL;
	claim->start = pci_resource_start(pdev, claim->index) + offset;
	claim->prefetch = pci_resource_flags(pdev, claim->index) & IORESOURCE_PREFETCH;
	return mck_claim_check_msix(claim, offset);
}

/* ---- open and close ---- */

/* The device is awake, and stays so until the claim is closed. */
static int mck_claim_open(struct mck_claim *claim)
{
	if (pci_request_region(claim->pdev, claim->index, "mooncake"))
		return -EBUSY;
	if (pci_enable_device_mem(claim->pdev)) {
		pci_release_region(claim->pdev, claim->index);
		return -ENODEV;
	}
	atomic_set(&claim->open, 1);
	return 0;
}

/* Nobody reaches the BAR any more. The first one does it. */
static void mck_claim_close(struct mck_claim *claim)
{
	if (!atomic_xchg(&claim->open, 0))
		return;
	if (claim->io)
		iounmap(claim->io);
	pci_disable_device(claim->pdev);
	pm_runtime_put(&claim->pdev->dev);
	pci_release_region(claim->pdev, claim->index);
}

static void mck_claim_release(struct kref *ref)
{
	struct mck_claim *claim = container_of(ref, struct mck_claim, ref);

	list_del(&claim->node);
	mutex_unlock(&mck_bar_lock);
	mck_claim_close(claim);
	mck_window_put(claim->window);
	pci_dev_put(claim->pdev);
	mck_free(claim, sizeof(*claim));
}

static void mck_claim_put(struct mck_claim *claim)
{
	kref_put_mutex(&claim->ref, mck_claim_release, &mck_bar_lock);
}

/* There are no struct pages any more; the window's reference goes. */
static void mck_claim_done(void *private)
{
	struct mck_claim *claim = private;

	mck_claim_close(claim);
	mck_claim_put(claim);
}

static struct mck_pages *mck_claim_pages(struct mck_claim *claim)
{
	struct mck_pages *pages;

	kref_get(&claim->ref);
	pages = mck_window_create(claim->start, claim->length, mck_claim_done, claim);
	if (IS_ERR(pages)) {
		mck_claim_put(claim);
		return pages == ERR_PTR(-EINVAL) ? ERR_PTR(-EOPNOTSUPP) : pages;
	}
	claim->window = mck_window_get(pages);
	return pages;
}

/* What we map here decides, on x86, how user mappings of the same page frames may be cached. */
static int mck_claim_map(struct mck_claim *claim)
{
	claim->io = claim->prefetch ? ioremap_wc(claim->start, claim->length) : ioremap(claim->start, claim->length);
	return claim->io ? 0 : -ENOMEM;
}

static void mck_bar_release(struct mck_object *object)
{
	struct mck_bar *bar = container_of(object, struct mck_bar, object);

	mutex_lock(&mck_bar_lock);
	bar->claim->object = NULL;
	mutex_unlock(&mck_bar_lock);
	mck_claim_put(bar->claim);
	mck_free(bar, sizeof(*bar));
}

/* ---- use ---- */

static int mck_bar_mmap(struct mck_object *object, struct vm_area_struct *vma)
{
	vma->vm_page_prot = mck_claim_of(object)->prefetch ? pgprot_writecombine(vma->vm_page_prot) :
							   pgprot_noncached(vma->vm_page_prot);
	return 0;
}

static vm_fault_t mck_bar_fault(struct mck_object *object, struct vm_fault *vmf, pgoff_t index)
{
	return vmf_insert_pfn(vmf->vma, vmf->address & PAGE_MASK, PHYS_PFN(mck_claim_of(object)->start) + index);
}

static void mck_bar_span(struct mck_object *object, u64 offset, struct mck_span *span)
{
	struct mck_claim *claim = mck_claim_of(object);

	span->io = claim->io + offset;
	span->length = claim->length - offset;
}

/* Peers reach each other through the root complex only where the kernel knows that the chipset allows it. */
static int mck_bar_attach(struct mck_object *object, struct dma_buf_attachment *attach)
{
	struct device *dev = attach->dev;

	if (!dev_is_pci(dev))
		return 0;
	if (!attach->peer2peer || pci_p2pdma_distance_many(mck_claim_of(object)->pdev, &dev, 1, false) < 0)
		return -EOPNOTSUPP;
	return 0;
}

static const struct mck_object_ops mck_bar_ops = {
	.kind = MOONCAKE_KIND_BAR,
	.can = MCK_CAN_MAP | MCK_CAN_GRANT,
	.mmap = mck_bar_mmap,
	.fault = mck_bar_fault,
	.span = mck_bar_span,
	.release = mck_bar_release,
};

static const struct mck_object_ops mck_bar_pages_ops = {
	.kind = MOONCAKE_KIND_BAR,
	.can = MCK_CAN_MAP | MCK_CAN_GRANT,
	.attach = mck_bar_attach,
	.release = mck_bar_release,
};

/* ---- the device goes ---- */

/* A claim of the device that is open, and its object if that still lives; both referenced. */
static struct mck_claim *mck_claim_find(struct device *dev, struct mck_object **object)
{
	struct mck_claim *claim, *found = NULL;

	mutex_lock(&mck_bar_lock);
	list_for_each_entry(claim, &mck_claims, node) {
		if (&claim->pdev->dev != dev || !atomic_read(&claim->open))
			continue;
		found = claim;
		kref_get(&claim->ref);
		*object = claim->object;
		if (*object && !kref_get_unless_zero(&(*object)->ref))
			*object = NULL;
		break;
	}
	mutex_unlock(&mck_bar_lock);
	return found;
}

/* Nothing reaches the BAR through the object, whose page store goes; then whoever still holds pages is waited for. */
static void mck_claim_end(struct mck_claim *claim, struct mck_object *object)
{
	struct mck_pages *pages;

	if (object) {
		mck_object_kill(object);
		down_write(&object->lock);
		pages = object->pages;
		object->pages = NULL;
		up_write(&object->lock);
		mck_pages_put(pages);
	}
	if (claim->window)
		mck_window_wait(claim->window);
	mck_claim_close(claim);
}

static int mck_bar_notify(struct notifier_block *block, unsigned long action, void *data)
{
	struct mck_object *object;
	struct mck_claim *claim;

	if (action != BUS_NOTIFY_UNBIND_DRIVER && action != BUS_NOTIFY_DEL_DEVICE)
		return NOTIFY_DONE;
	while ((claim = mck_claim_find(data, &object))) {
		mck_claim_end(claim, object);
		mck_object_put(object);
		mck_claim_put(claim);
	}
	return NOTIFY_OK;
}

static struct notifier_block mck_bar_notifier = {
	.notifier_call = mck_bar_notify,
};

/* ---- the call ---- */

/* Awake first: a device that sleeps may show no capabilities, and so no interrupt table. */
static struct mck_claim *mck_claim_create(struct pci_dev *pdev, const struct mooncake_region_bar *arg)
{
	struct mck_claim *claim;
	int ret;

	claim = mck_zalloc(sizeof(*claim));
	if (!claim)
		return ERR_PTR(-ENOMEM);
	kref_init(&claim->ref);
	INIT_LIST_HEAD(&claim->node);
	claim->index = arg->bar;
	claim->pdev = pci_dev_get(pdev);
	if (pm_runtime_resume_and_get(&pdev->dev) < 0) {
		ret = -ENODEV;
		goto err_device;
	}
	ret = mck_claim_check_range(claim, arg->offset, arg->length);
	if (!ret)
		ret = mck_claim_open(claim);
	if (ret)
		goto err_power;
	return claim;

err_power:
	pm_runtime_put(&pdev->dev);
err_device:
	pci_dev_put(pdev);
	mck_free(claim, sizeof(*claim));
	return ERR_PTR(ret);
}

/* Takes over the reference to @claim, also on failure. */
static struct mck_object *mck_bar_create(struct mck_claim *claim, bool use_pages)
{
	struct mck_pages *pages = NULL;
	struct mck_bar *bar;
	int ret;

	bar = mck_zalloc(sizeof(*bar));
	if (!bar) {
		ret = -ENOMEM;
		goto err_claim;
	}
	bar->claim = claim;
	if (use_pages) {
		pages = mck_claim_pages(claim);
		ret = PTR_ERR_OR_ZERO(pages);
	} else {
		ret = mck_claim_map(claim);
	}
	if (ret)
		goto err_free;
	ret = mck_object_init(&bar->object, use_pages ? &mck_bar_pages_ops : &mck_bar_ops, claim->length, pages);
	if (ret)
		goto err_free;
	mck_netlink_event(&bar->object, MOONCAKE_EVENT_CREATED);
	/* The notifier closes what it finds, and must find the object with it. */
	mutex_lock(&mck_bar_lock);
	claim->object = &bar->object;
	list_add(&claim->node, &mck_claims);
	mutex_unlock(&mck_bar_lock);
	return &bar->object;

err_free:
	mck_free(bar, sizeof(*bar));
err_claim:
	mck_claim_put(claim);
	return ERR_PTR(ret);
}

/*
 * Neither the device nor its driver goes until the notifier finds the claim. The device's lock is not waited for: who
 * has it may wait for the rescan lock.
 */
static struct mck_object *mck_bar_open_device(struct pci_dev *pdev, const struct mooncake_region_bar *arg)
{
	struct mck_object *object;
	struct mck_claim *claim;

	if (!device_trylock(&pdev->dev))
		return ERR_PTR(-EBUSY);
	claim = mck_claim_create(pdev, arg);
	object = IS_ERR(claim) ? ERR_CAST(claim) : mck_bar_create(claim, arg->flags & MOONCAKE_BAR_PAGES);
	device_unlock(&pdev->dev);
	return object;
}

static struct mck_object *mck_bar_open(const struct mooncake_region_bar *arg)
{
	struct mck_object *object = ERR_PTR(-ENODEV);
	struct pci_dev *pdev;

	mck_window_flush();
	pci_lock_rescan_remove();
	pdev = pci_get_domain_bus_and_slot(arg->domain, arg->bus, PCI_DEVFN(arg->device, arg->function));
	if (pdev)
		object = mck_bar_open_device(pdev, arg);
	pci_unlock_rescan_remove();
	pci_dev_put(pdev);
	return object;
}

static int mck_bar_check_call(const struct mooncake_region_bar *arg)
{
	u64 end;

	if (arg->reserved)
		return -EINVAL;
	if (arg->device > 31 || arg->function > 7 || arg->bar >= PCI_STD_NUM_BARS)
		return -EINVAL;
	if (!PAGE_ALIGNED(arg->offset | arg->length))
		return -EINVAL;
	if (check_add_overflow(arg->offset, arg->length, &end))
		return -EOVERFLOW;
	if (arg->flags & MOONCAKE_BAR_PAGES && !mck_bar_pages_allowed())
		return -EOPNOTSUPP;
	if (!capable(CAP_SYS_RAWIO) || security_locked_down(LOCKDOWN_PCI_ACCESS))
		return -EPERM;
	return 0;
}

int mck_region_bar(struct mck_call *call)
{
	struct mooncake_region_bar *arg = call->arg;
	struct mck_object *object;
	struct mck_handle *handle;
	int ret;

	ret = mck_bar_check_call(arg);
	if (ret)
		return ret;
	object = mck_bar_open(arg);
	if (IS_ERR(object))
		return PTR_ERR(object);
	handle = mck_handle_create(call->ctx, object);
	arg->length = object->length;
	mck_object_put(object);
	if (IS_ERR(handle))
		return handle == ERR_PTR(-ESTALE) ? -ENODEV : PTR_ERR(handle);
	arg->id = handle->id;
	arg->mmap_offset = mck_handle_mmap_offset(handle);
	ret = mck_respond(call);
	if (ret)
		mck_handle_abort(handle);
	else
		mck_handle_publish(handle);
	return ret;
}

int mck_bar_init(void)
{
	return bus_register_notifier(&pci_bus_type, &mck_bar_notifier);
}

void mck_bar_exit(void)
{
	bus_unregister_notifier(&pci_bus_type, &mck_bar_notifier);
}
