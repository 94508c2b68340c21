/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MCK_BUFFER_H
#define MCK_BUFFER_H

struct mck_call;

int mck_buffer_alloc(struct mck_call *call);

#endif
