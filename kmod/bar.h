/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MCK_BAR_H
#define MCK_BAR_H

#include <linux/types.h>

/* The module parameter bar_pages. */
bool mck_bar_pages_allowed(void);
int mck_bar_init(void);
void mck_bar_exit(void);

#endif
