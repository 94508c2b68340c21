/* SPDX-License-Identifier: MIT */
/* Inside of struct mci_metadata, shared by metadata.c, lease.c and watch.c. */
#ifndef MCI_LEASE_H
#define MCI_LEASE_H

#include <pthread.h>
#include <signal.h>

#include "metadata/metadata.h"

/* One key that this process keeps alive. */
struct mci_published {
	struct mci_published *next;
	char *key, *text;
	char *other;	  /* a text that a failed update may have left there; or NULL */
	uint64_t version; /* as the server last told it; 0 = not known, or backend has none */
	uint64_t round;	  /* heartbeat that saw it last */
	bool busy;	  /* a thread is talking to the server about it */
	bool leaving;	  /* to be removed: the server could not be asked in time */
};

struct mci_metadata {
	const struct mci_metadata_ops *ops;
	void *backend;
	uint32_t lease_ms, timeout_ms;

	/* lease.c */
	pthread_mutex_t lock;	/* guards what follows; never held while a server is asked or @lost runs */
	pthread_cond_t changed; /* an entry is no longer busy; stopping */
	struct mci_published *published;
	void (*lost)(void *arg, const char *key);
	void *lost_arg;
	pthread_t heartbeat;
	bool heartbeat_runs, stopping, unreachable;
	uint64_t round;

	/* watch.c */
	pthread_mutex_t watch_lock; /* one start or end of a watch at a time; outside @lock */
	struct mci_watch *watch;
};

/* A thread that takes none of the application's signals. Returns as pthread_create(). */
static inline int mci_thread_start(pthread_t *thread, void *(*fn)(void *arg), void *arg)
{
	sigset_t all, before;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

int mci_lease_init(struct mci_metadata *metadata);
/* Stops the heartbeat and withdraws what is still published; gives up at the first unreachable answer. */
void mci_lease_finish(struct mci_metadata *metadata);
void mci_watch_end(struct mci_metadata *metadata);

#endif
