// SPDX-License-Identifier: GPL-2.0
/* What the kinds of memory that are no buffers have in common: setting up, and what there is. */
#include <linux/mooncake.h>
#include "region.h"

u64 mck_region_features(void)
{
	return 0;
}

int mck_region_init(void)
{
	return 0;
}

void mck_region_exit(void)
{
}
