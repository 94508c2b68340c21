// SPDX-License-Identifier: GPL-2.0
/* REGION_CXL: a window that nobody uses, by its address, or what a dax device has mapped, by pinning it. */
#include <linux/capability.h>
#include <linux/ioport.h>
#include <linux/overflow.h>
#include <linux/security.h>
#include <linux/slab.h>
#include "compat.h"
#include "context.h"
#include "ioctl.h"
#include "netlink.h"
#include "object.h"
#include "pages.h"
#include "pin.h"
#include "region.h"
#include "stat.h"
#include "window.h"

struct mck_cover {
	u64 next; /* all before is covered */
};

/* Called for each resource of the kind within the range, in order. */
static int mck_cxl_cover(struct resource *res, void *arg)
{
	struct mck_cover *cover = arg;

	if (res->start > cover->next)
		return 1;
	cover->next = max_t(u64, cover->next, res->end + 1);
	return 0;
}

/* region_intersects() is content with ranges that run into a hole: count what is covered as well. */
static bool mck_cxl_is(u64 start, u64 length, unsigned long desc)
{
	struct mck_cover cover = { .next = start };

	if (region_intersects(start, length, IORESOURCE_MEM, desc) != REGION_INTERSECTS)
		return false;
	walk_iomem_res_desc(desc, IORESOURCE_MEM, start, start + length - 1, &cover, mck_cxl_cover);
	return cover.next >= start + length;
}

static int mck_cxl_allowed(u64 start, u64 length)
{
	if (region_intersects(start, length, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT)
		return -EACCES;
	if (mck_cxl_is(start, length, IORES_DESC_SOFT_RESERVED))
		return 0;
	if (MCK_HAS_CXL_WINDOWS && mck_cxl_is(start, length, MCK_DESC_CXL))
		return 0;
	return -EACCES;
}

static void mck_cxl_release(struct mck_object *object)
{
	mck_free(object, sizeof(*object));
}

static const struct mck_object_ops mck_cxl_ops = {
	.kind = MOONCAKE_KIND_CXL,
	.can = MCK_CAN_MAP | MCK_CAN_GRANT,
	.release = mck_cxl_release,
};

/* The window is nobody's any more. */
static void mck_cxl_done(void *private)
{
	struct resource *res = private;

	release_mem_region(res->start, resource_size(res));
}

/* The window becomes ours: of no driver before, and without struct pages. */
static struct mck_pages *mck_cxl_claim(u64 start, u64 length)
{
	struct mck_pages *pages;
	struct resource *res;
	int ret;

	ret = mck_cxl_allowed(start, length);
	if (ret)
		return ERR_PTR(ret);
	res = request_mem_region(start, length, "mooncake");
	if (!res)
		return ERR_PTR(-EBUSY);
	pages = mck_window_create(start, length, mck_cxl_done, res);
	if (IS_ERR(pages))
		release_mem_region(start, length);
	return pages;
}

static struct mck_object *mck_cxl_create(u64 start, u64 length)
{
	struct mck_object *object;
	struct mck_pages *pages;
	int ret;

	pages = mck_cxl_claim(start, length);
	if (IS_ERR(pages))
		return ERR_CAST(pages);
	object = mck_zalloc(sizeof(*object));
	if (!object) {
		mck_pages_put(pages);
		return ERR_PTR(-ENOMEM);
	}
	ret = mck_object_init(object, &mck_cxl_ops, length, pages);
	if (ret) {
		mck_free(object, sizeof(*object));
		return ERR_PTR(ret);
	}
	mck_netlink_event(object, MOONCAKE_EVENT_CREATED);
	return object;
}

static struct mck_handle *mck_cxl_window(struct mck_context *ctx, u64 start, u64 length)
{
	struct mck_object *object;
	struct mck_handle *handle;
	u64 end;

	if (!length || !IS_ALIGNED(start | length, mck_window_align()) || length > MOONCAKE_LENGTH_MAX)
		return ERR_PTR(-EINVAL);
	if (check_add_overflow(start, length, &end))
		return ERR_PTR(-EOVERFLOW);
	if (!capable(CAP_SYS_RAWIO) || security_locked_down(LOCKDOWN_DEV_MEM))
		return ERR_PTR(-EPERM);
	mck_window_flush();
	object = mck_cxl_create(start, length);
	if (IS_ERR(object))
		return ERR_CAST(object);
	handle = mck_handle_create(ctx, object);
	mck_object_put(object);
	return handle;
}

int mck_region_cxl(struct mck_call *call)
{
	struct mooncake_region_cxl *arg = call->arg;
	struct mck_handle *handle;
	int ret;

	if (arg->reserved)
		return -EINVAL;
	if (arg->flags & MOONCAKE_CXL_MAPPED)
		handle = mck_pin_create(call->ctx, arg->start, arg->length, MOONCAKE_KIND_CXL);
	else
		handle = mck_cxl_window(call->ctx, arg->start, arg->length);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	arg->id = handle->id;
	arg->mmap_offset = mck_handle_mmap_offset(handle);
	ret = mck_respond(call);
	if (ret)
		mck_handle_abort(handle);
	else
		mck_handle_publish(handle);
	return ret;
}
