/* SPDX-License-Identifier: MIT */
/* Inside of the metadata server's store, and the thread that syncs and compacts its log file. */
#ifndef MCI_SERVER_COMPACT_H
#define MCI_SERVER_COMPACT_H

#include <pthread.h>

#include "metadata/server_store.h"

#define MCI_CHANGES 1024 /* remembered, for watchers that come a little late */

struct mci_change {
	char *key;
	uint64_t version;
};

struct mci_keystore {
	pthread_mutex_t lock; /* over all that follows, but for the budget */
	struct mci_keys keys;
	struct mci_budget budget;
	uint64_t max_bytes, version;

	struct mci_change ring[MCI_CHANGES];
	uint64_t ring_next, ring_floor; /* all changes after version ring_floor are in the ring */
	struct mci_watcher *watchers;
	unsigned int watcher_count, firing; /* firing: fn() was decided, but has not returned yet */
	pthread_cond_t fired;
	bool ending, closing; /* ending: no new watchers; closing: the threads end */

	pthread_t timer_thread;
	pthread_cond_t timer_wake;
	uint64_t timer_at; /* when the timer thread wakes by itself */

	struct mci_keylog *log; /* NULL = none */
	uint64_t live_bytes;	/* of records that a new log file would have */
	pthread_t log_thread;
	pthread_cond_t log_wake;
	bool dirty, want_compact;
	uint64_t dirty_since;
};

void mci_keystore_wait(struct mci_keystore *store, pthread_cond_t *cond, uint64_t at_ns); /* lock held */

int mci_compact_start(struct mci_keystore *store, bool now);
void mci_compact_join(struct mci_keystore *store);		      /* store->closing is set */
void mci_compact_note(struct mci_keystore *store, int append_result); /* lock held, after each append */

#endif
