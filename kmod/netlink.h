/* SPDX-License-Identifier: GPL-2.0 */
/* The generic netlink family: dumps, and best-effort events for administrators. */
#ifndef MCK_NETLINK_H
#define MCK_NETLINK_H

#include <linux/types.h>

struct mck_object;

/* Tells listeners; may fail silently. May sleep. */
void mck_netlink_event(struct mck_object *object, u32 event);
int mck_netlink_init(void);
void mck_netlink_exit(void);

#endif
