/* SPDX-License-Identifier: MIT */
/* libcurl and hiredis may write to a socket that the peer closed: keep SIGPIPE from the application. */
#ifndef MCI_SIGPIPE_H
#define MCI_SIGPIPE_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

struct mci_sigpipe {
	sigset_t before;
	bool was_pending;
};

/* SIGPIPE from write() goes to the writing thread, so blocking it here, and eating it after, is enough. */
static inline void mci_sigpipe_block(struct mci_sigpipe *guard)
{
	sigset_t set, pending;

	sigpending(&pending);
	guard->was_pending = sigismember(&pending, SIGPIPE);
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, &guard->before);
}

static inline void mci_sigpipe_unblock(struct mci_sigpipe *guard)
{
	static const struct timespec none;
	sigset_t set, pending;

	sigpending(&pending);
	if (!guard->was_pending && sigismember(&pending, SIGPIPE)) {
		sigemptyset(&set);
		sigaddset(&set, SIGPIPE);
		sigtimedwait(&set, NULL, &none);
	}
	pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
}

#endif
