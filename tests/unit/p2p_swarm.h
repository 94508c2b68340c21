/* SPDX-License-Identifier: MIT */
/* What the tests of the swarm share: making one, and looking at all that it wants to be done. */
#ifndef TEST_P2P_SWARM_H
#define TEST_P2P_SWARM_H

#include "p2p/swarm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MS 1000000ull
#define STEPS 512

static struct mci_swarm_step steps[STEPS];
static unsigned int step_count;

static inline struct mci_swarm *swarm_new(uint32_t pieces, bool seed, uint64_t random)
{
	struct mci_swarm_attr attr = {
		.pieces = pieces, .slots = 8, .window = 16, .seed = seed, .random = random};
	struct mci_swarm *swarm;

	assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
	return swarm;
}

static inline struct mci_swarm_peer *peer_new(struct mci_swarm *swarm, bool seed, uint8_t id)
{
	struct mc_uuid uuid = {.b = {id}};
	struct mci_swarm_peer *peer;

	assert_int_equal(mci_swarm_peer_add(swarm, &uuid, seed, NULL, &peer), 0);
	return peer;
}

static inline void has(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t first, uint32_t end)
{
	for (; first < end; first++)
		mci_swarm_peer_has(swarm, peer, first);
}

/* All steps until there is nothing to do. */
static inline void run(struct mci_swarm *swarm, uint64_t now_ns)
{
	for (step_count = 0; step_count < STEPS; step_count++) {
		mci_swarm_step(swarm, now_ns, &steps[step_count]);
		if (steps[step_count].action == MCI_SWARM_NOTHING)
			return;
	}
	fail_msg("the swarm does not come to rest");
}

static inline unsigned int times(enum mci_swarm_action action, const struct mci_swarm_peer *peer)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < step_count; i++)
		n += steps[i].action == action && (!peer || steps[i].peer == peer);
	return n;
}

/* The only step of its kind (for that peer). */
static inline const struct mci_swarm_step *only(enum mci_swarm_action action,
						const struct mci_swarm_peer *peer)
{
	const struct mci_swarm_step *found = NULL;

	assert_int_equal(times(action, peer), 1);
	for (unsigned int i = 0; i < step_count; i++)
		if (steps[i].action == action && (!peer || steps[i].peer == peer))
			found = &steps[i];
	return found;
}

#endif
