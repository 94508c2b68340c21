// SPDX-License-Identifier: MIT
/* The slots that we give: to whoever is interested and holds fewest, in turn; and asked back where others
 * wait. */
#include "p2p/swarm_inner.h"

#define TURN_NS 500000000ull /* after that a slot may be asked back for one who has as many less one */

/*
 * Until we hold everything we give half: then reads of what a seed alone has keep a fair share of each
 * receiver's link, and a piece takes less long from member to member.
 */
static uint32_t to_give(const struct mci_swarm *swarm)
{
	uint32_t slots = swarm->attr.slots;

	if (swarm->draining)
		return 0;
	return mci_swarm_complete(swarm) || slots < 2 ? slots : slots / 2;
}

/* One alone gets no more than half, so that the next one need not wait until some come back. */
static uint32_t most_each(uint32_t slots) { return (slots + 1) / 2; }

static uint32_t share(const struct mci_swarm *swarm, uint32_t slots)
{
	uint32_t each = slots / (swarm->interested ? swarm->interested : 1);

	if (each > most_each(slots))
		each = most_each(slots);
	return each ? each : 1;
}

/* Who was asked for a slot last stands behind the others, or it would get the same one again. */
static uint32_t rank(const struct mci_swarm *swarm, const struct mci_swarm_peer *peer)
{
	return peer->given + (peer == swarm->yielder);
}

/*
 * Who is served next: of those with fewest slots the one with fewer pieces of two at random. At random, so
 * that not all sources serve the same one; of two, so that who fell behind catches up.
 */
static struct mci_swarm_peer *hungriest(struct mci_swarm *swarm)
{
	struct mci_swarm_peer *two[2] = {NULL, NULL};
	uint32_t equal = 0, place, least = UINT32_MAX;

	for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next) {
		if (!peer->interested || rank(swarm, peer) > least)
			continue;
		if (rank(swarm, peer) < least)
			equal = 0;
		least = rank(swarm, peer);
		place = equal < 2 ? equal : swarm_below(swarm, equal + 1);
		if (place < 2)
			two[place] = peer;
		equal++;
	}
	return equal > 1 && two[1]->has_count < two[0]->has_count ? two[1] : two[0];
}

/* Who has most, less what was asked back, and of these since longest. */
static struct mci_swarm_peer *richest(const struct mci_swarm *swarm)
{
	struct mci_swarm_peer *best = NULL;

	for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next) {
		uint32_t has = peer->given - peer->asked_back,
			 most = best ? best->given - best->asked_back : 0;

		if (!has)
			continue;
		if (has > most || (has == most && peer->since_ns < best->since_ns))
			best = peer;
	}
	return best;
}

/* Slots that interested peers lack of their share. */
static uint32_t lacking(const struct mci_swarm *swarm, uint32_t each)
{
	uint32_t sum = 0;

	for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next)
		if (peer->interested && peer->given < each)
			sum += each - peer->given;
	return sum;
}

static bool recall(struct mci_swarm *swarm, uint64_t now_ns, uint32_t each, struct mci_swarm_step *step)
{
	struct mci_swarm_peer *poor = hungriest(swarm), *rich = richest(swarm);
	uint32_t has;

	if (!rich || poor == rich || swarm->asked_back >= lacking(swarm, each))
		return false;
	has = rich->given - rich->asked_back;
	if (has <= poor->given)
		return false;
	if (has == poor->given + 1 && now_ns < rich->since_ns + TURN_NS) {
		swarm->turn_ns = rich->since_ns + TURN_NS;
		return false;
	}
	rich->asked_back++;
	swarm->asked_back++;
	rich->since_ns = now_ns;
	swarm->yielder = rich;
	*step = (struct mci_swarm_step){.action = MCI_SWARM_GRANT, .peer = rich};
	return true;
}

bool swarm_slots_step(struct mci_swarm *swarm, uint64_t now_ns, struct mci_swarm_step *step)
{
	uint32_t slots = to_give(swarm), each = share(swarm, slots), count;
	struct mci_swarm_peer *peer;

	swarm->timer_stale = true;
	swarm->turn_ns = UINT64_MAX;
	if (!slots || !swarm->interested)
		return false;
	if (swarm->given >= slots)
		return recall(swarm, now_ns, each, step);
	peer = hungriest(swarm);
	if (peer->given >= most_each(slots))
		return false;
	count = slots - swarm->given;
	if (peer->given >= each)
		count = 1;
	else if (count > each - peer->given)
		count = each - peer->given;
	peer->given += count;
	swarm->given += count;
	peer->since_ns = now_ns;
	swarm->yielder = NULL;
	*step = (struct mci_swarm_step){.action = MCI_SWARM_GRANT, .peer = peer, .slots = count};
	return true;
}
