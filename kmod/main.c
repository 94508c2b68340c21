// SPDX-License-Identifier: GPL-2.0
/* Loading and unloading: what each file sets up, in order, and down in reverse. */
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include "compat.h"
#include "context.h"
#include "grant.h"
#include "netlink.h"
#include "pages.h"
#include "region.h"
#include "stat.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static struct miscdevice mck_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mooncake",
	.mode = 0660,
	.fops = &mck_context_fops,
};

static int __init mck_init(void)
{
	int ret;

	ret = mck_stat_init();
	if (ret)
		return ret;
	mck_grant_init();
	ret = mck_pages_init();
	if (ret)
		goto err_stat;
	ret = mck_context_init();
	if (ret)
		goto err_pages;
	ret = mck_region_init();
	if (ret)
		goto err_context;
	ret = mck_netlink_init();
	if (ret)
		goto err_region;
	/* Last: from here on calls come in. */
	ret = misc_register(&mck_device);
	if (ret)
		goto err_netlink;
	return 0;

err_netlink:
	mck_netlink_exit();
err_region:
	mck_region_exit();
err_context:
	mck_context_exit();
err_pages:
	mck_pages_exit();
err_stat:
	mck_stat_exit();
	return ret;
}

static void __exit mck_exit(void)
{
	misc_deregister(&mck_device);
	mck_netlink_exit();
	mck_region_exit();
	mck_context_exit();
	mck_pages_exit();
	mck_stat_exit();
}

module_init(mck_init);
module_exit(mck_exit);

MODULE_DESCRIPTION("Memory between processes, kept and shared by key, for LLM clusters");
MODULE_AUTHOR("The Mooncake in C authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
MCK_IMPORT_DMA_BUF();
