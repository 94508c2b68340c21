/* SPDX-License-Identifier: MIT */
/* Time in nanoseconds. Deadlines use CLOCK_MONOTONIC. */
#ifndef MCI_CLOCK_H
#define MCI_CLOCK_H

#include <stdint.h>
#include <time.h>

#define MCI_NS_PER_MS 1000000ull
#define MCI_NS_PER_S 1000000000ull

static inline uint64_t mci_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * MCI_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Milliseconds until @deadline_ns, rounded up, 0 if past, at most INT32_MAX: for poll() and friends. */
static inline int mci_ms_left(uint64_t deadline_ns)
{
	uint64_t now = mci_now_ns();
	uint64_t ms;

	if (deadline_ns <= now)
		return 0;
	ms = (deadline_ns - now + MCI_NS_PER_MS - 1) / MCI_NS_PER_MS;
	return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

#endif
