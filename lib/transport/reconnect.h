/* SPDX-License-Identifier: MIT */
/*
 * How often a lost peer is tried again, and when it is given up: the same for all transports that keep a
 * connection. What is here is guarded by the peer's lock.
 */
#ifndef MCI_RECONNECT_H
#define MCI_RECONNECT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mci_reconnect {
	uint64_t backoff_ns, retry_at;	      /* 0 = the next attempt may begin at once */
	uint64_t refused_since, refused_last; /* 0 = it is not refused */
};

/* An attempt begins: the next one not before retry_at. From 10 ms, twice as long each time, to a second. */
void mci_reconnect_attempt(struct mci_reconnect *r);

/* It failed with @err. True: refused for a second already, so that requests should not wait any longer. */
bool mci_reconnect_given_up(struct mci_reconnect *r, int err);

/* @lock is held, and let go meanwhile. Until the next attempt, or until @changed says that the peer is @closing. */
void mci_reconnect_wait(uint64_t until_ns, pthread_cond_t *changed, pthread_mutex_t *lock, const bool *closing);

#endif
