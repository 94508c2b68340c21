/* SPDX-License-Identifier: GPL-2.0 */
/* The calls whose memory is not a buffer, each in a file of its own, and what they need at load time. */
#ifndef MCK_REGION_H
#define MCK_REGION_H

#include <linux/types.h>

struct mck_call;

int mck_region_pin(struct mck_call *call);
int mck_region_import(struct mck_call *call);
int mck_region_bar(struct mck_call *call);
int mck_region_cxl(struct mck_call *call);
int mck_export(struct mck_call *call);
int mck_copy(struct mck_call *call);

/* What of this there is on this kernel and machine: MOONCAKE_FEATURE_*. */
u64 mck_region_features(void);
int mck_region_init(void);
void mck_region_exit(void);

#endif
