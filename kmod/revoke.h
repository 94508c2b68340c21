/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MCK_REVOKE_H
#define MCK_REVOKE_H

struct mck_call;

int mck_revoke(struct mck_call *call);

#endif
