/* SPDX-License-Identifier: MIT */
/*
 * Within lib/net: one connection after the other to a peer with many addresses. mci_dial_next() gives
 * the next that is up; a caller that finds the wrong program behind it asks for another one.
 */
#ifndef MCI_DIAL_H
#define MCI_DIAL_H

#include <stdbool.h>
#include <stdint.h>

struct mci_dial;

int mci_dial_open(const char *const *hosts, unsigned int count, uint16_t port, const char *source,
		  struct mci_dial **dial);
/* 0 and a connected socket as of mci_connect_any(); or -errno with a sentence: none is left, or -ETIMEDOUT.
 */
int mci_dial_next(struct mci_dial *dial, uint64_t deadline_ns, int *fd);
bool mci_dial_more(const struct mci_dial *dial); /* addresses are left to be tried */
void mci_dial_close(struct mci_dial *dial);

#endif
