/* SPDX-License-Identifier: GPL-2.0 */
/* Pins of a process's memory: REGION_PIN, and REGION_CXL of a mapped dax device. */
#ifndef MCK_PIN_H
#define MCK_PIN_H

#include <linux/types.h>

struct mck_context;
struct mck_handle;

/*
 * Pins [addr, addr + length) of the caller, as an object of @kind: MOONCAKE_KIND_PIN, or _CXL, of dax devices only.
 * The handle is to be published or aborted. -EINVAL, -EOVERFLOW, -EOPNOTSUPP, -EFAULT, -ENOMEM, -EDQUOT, -EINTR.
 */
struct mck_handle *mck_pin_create(struct mck_context *ctx, u64 addr, u64 length, u32 kind);

int mck_pin_init(void);
void mck_pin_exit(void);

#endif
