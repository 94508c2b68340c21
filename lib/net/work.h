/* SPDX-License-Identifier: MIT */
/* Threads for what blocks or computes, so that no loop does. Jobs run in order of arrival, then come back to a loop. */
#ifndef MCI_WORK_H
#define MCI_WORK_H

#include <sys/queue.h>

#include "net/loop.h"

struct mci_pool;

struct mci_job {
	void (*run)(struct mci_job *job);  /* a thread of the pool */
	void (*done)(struct mci_job *job); /* in @loop; NULL = @run may free the job */
	struct mci_loop *loop;
	struct mci_pool *pool;
	struct mci_task back;
	STAILQ_ENTRY(mci_job) next;
};

/* One thread at once, up to @threads when all are busy. */
int mci_pool_start(const char *name, unsigned int threads, struct mci_pool **pool);
void mci_pool_add(struct mci_pool *pool, struct mci_job *job); /* any thread */
void mci_pool_stop(struct mci_pool *pool);		       /* what was added runs before; NULL is fine */

#endif
