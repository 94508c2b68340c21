/* SPDX-License-Identifier: MIT */
/* Inside of a batch; batch.c and completion.c. */
#ifndef MCI_BATCH_H
#define MCI_BATCH_H

#include "engine/engine.h"

struct mci_entry {
	struct mci_request request; /* first: complete() gets its address */
	struct mc_batch *batch;
	struct mc_segment *segment;
	struct mci_way *way;
	struct mci_region *local_region;
	struct mc_status status; /* written once, before pending drops */
	_Atomic uint32_t final;	 /* status is readable */
};

enum mci_batch_phase { MCI_BATCH_FILLING, MCI_BATCH_FLYING, MCI_BATCH_FINAL };

struct mc_batch {
	struct mc_engine *engine;
	void *user;
	unsigned int capacity, count;
	_Atomic uint32_t phase;	  /* futex; enum mci_batch_phase */
	_Atomic uint32_t pending; /* requests without a final status, plus one while submit runs */
	_Atomic uint32_t notify_pending;
	_Atomic int notify_error;
	_Atomic uint32_t failures;
	/* Notifies to send once all is done: one request per segment, sharing one body. */
	struct mci_entry *notify;
	unsigned int notify_count;
	struct mci_entry *flush; /* what has to be final before the notifies go */
	unsigned int flush_count;
	_Atomic uint32_t flush_pending;
	void *notify_body;
	uint64_t deadline_ns;
	bool in_done_list; /* engine->done_lock */
	struct mc_batch *done_next, *done_prev;
	struct mci_entry entry[];
};

/* batch_notify.c */
int mci_batch_notify_prepare(struct mc_batch *batch, const struct mc_submit_attr *attr, struct mc_segment *only);
void mci_batch_notify_free(struct mc_batch *batch);

#endif
