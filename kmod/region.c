// SPDX-License-Identifier: GPL-2.0
/* What the kinds of memory that are no buffers have in common: setting up, and what there is. */
#include <linux/mooncake.h>
#include "bar.h"
#include "pin.h"
#include "region.h"
#include "window.h"

u64 mck_region_features(void)
{
	u64 features = MOONCAKE_FEATURE_PIN | MOONCAKE_FEATURE_IMPORT | MOONCAKE_FEATURE_EXPORT | MOONCAKE_FEATURE_BAR |
		       MOONCAKE_FEATURE_CXL | MOONCAKE_FEATURE_CXL_MAPPED;

	if (mck_bar_pages_allowed())
		features |= MOONCAKE_FEATURE_BAR_PAGES;
	return features;
}

int mck_region_init(void)
{
	int ret;

	ret = mck_pin_init();
	if (ret)
		return ret;
	ret = mck_bar_init();
	if (ret)
		goto err_pin;
	return 0;

err_pin:
	mck_pin_exit();
	return ret;
}

void mck_region_exit(void)
{
	mck_bar_exit();
	mck_pin_exit();
	mck_window_exit();
}
