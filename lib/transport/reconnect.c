// SPDX-License-Identifier: MIT
#include "transport/reconnect.h"

#include <errno.h>
#include <time.h>

#include "core/clock.h"

#define BACKOFF_FIRST_NS (10 * MCI_NS_PER_MS)
#define BACKOFF_LAST_NS MCI_NS_PER_S
#define REFUSED_LONG_ENOUGH_NS MCI_NS_PER_S
#define REFUSED_FORGOTTEN_NS (5 * MCI_NS_PER_S)

void mci_reconnect_attempt(struct mci_reconnect *r)
{
	r->backoff_ns = r->backoff_ns ? r->backoff_ns * 2 : BACKOFF_FIRST_NS;
	if (r->backoff_ns > BACKOFF_LAST_NS)
		r->backoff_ns = BACKOFF_LAST_NS;
	r->retry_at = mci_now_ns() + r->backoff_ns;
}

/* Errors by which the peer, or its host, said no: waiting longer changes little. */
static bool is_refusal(int err)
{
	switch (err) {
	case -ETIMEDOUT:
	case -EHOSTUNREACH:
	case -ENETUNREACH:
	case -ECONNRESET:
	case -EAGAIN:
	case -EINPROGRESS:
	case -EBUSY:
	case -EUSERS:
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
		return false;
	default:
		return true;
	}
}

bool mci_reconnect_given_up(struct mci_reconnect *r, int err)
{
	uint64_t now = mci_now_ns();

	if (!is_refusal(err)) {
		r->refused_since = 0;
		return false;
	}
	if (!r->refused_since || now - r->refused_last > REFUSED_FORGOTTEN_NS)
		r->refused_since = now;
	r->refused_last = now;
	return now - r->refused_since >= REFUSED_LONG_ENOUGH_NS;
}

void mci_reconnect_wait(uint64_t until_ns, pthread_cond_t *changed, pthread_mutex_t *lock, const bool *closing)
{
	struct timespec at = {.tv_sec = (time_t)(until_ns / MCI_NS_PER_S),
			      .tv_nsec = (long)(until_ns % MCI_NS_PER_S)};

	while (!*closing && mci_now_ns() < until_ns)
		pthread_cond_timedwait(changed, lock, &at);
}
