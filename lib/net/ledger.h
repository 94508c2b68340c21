/* SPDX-License-Identifier: MIT */
/*
 * Bytes that serving connections may hold (contracts B6): in total, per peer, and per host, since who has the key can
 * call himself by many names. What one takes within its bounds is never taken from others.
 * Thread-safe; its lock is a leaf.
 */
#ifndef MCI_LEDGER_H
#define MCI_LEDGER_H

#include "core/uuid.h"
#include "net/hello.h"

struct mci_ledger;

struct mci_payer {
	struct mc_uuid peer; /* as it proved itself */
	struct mc_uuid host; /* its address: IPv6, or IPv4 mapped; all ones on a unix socket */
};

/* @per_peer: at most that for one peer; one host gets at most half of @total. */
int mci_ledger_open(uint64_t total, uint64_t per_peer, struct mci_ledger **ledger);
void mci_ledger_close(struct mci_ledger *ledger);
/* 0; or -EBUSY, -ENOMEM with a sentence for the peer, and nothing is taken. No @ledger: no bounds. */
int mci_ledger_take(struct mci_ledger *ledger, const struct mci_payer *payer, uint64_t bytes,
		    char why[MCI_SENTENCE_MAX + 1]);
void mci_ledger_give(struct mci_ledger *ledger, const struct mci_payer *payer, uint64_t bytes);
uint64_t mci_ledger_used(struct mci_ledger *ledger);
/* Who is at the other end of @fd. */
void mci_payer_of(int fd, const struct mc_uuid *peer, struct mci_payer *payer);

#endif
