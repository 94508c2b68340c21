// SPDX-License-Identifier: MIT
/* Handles from before a fork() are dead in the child: threads, locks and connections are the parent's. */
#include "engine/engine.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic unsigned int epoch;

static void child(void) { atomic_fetch_add(&epoch, 1); }

static void install(void) { pthread_atfork(NULL, NULL, child); }

unsigned int mci_fork_epoch(void)
{
	pthread_once(&once, install);
	return atomic_load_explicit(&epoch, memory_order_relaxed);
}

int mci_fork_fail(void)
{
	return mci_fail(-ECHILD,
			"this handle belongs to the parent process; after fork() the child may only exec or "
			"exit, or open an engine of its own");
}
