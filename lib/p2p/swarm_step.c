// SPDX-License-Identifier: MIT
/* What to do next: one answer at a time, the cheapest to tell first. */
#include "p2p/swarm_inner.h"

static bool finish(struct mci_swarm_step *step, enum mci_swarm_action action, struct mci_swarm_peer *peer,
		   uint32_t piece, uint32_t slots, bool on)
{
	*step = (struct mci_swarm_step){
		.action = action, .peer = peer, .piece = piece, .slots = slots, .on = on};
	return true;
}

/* That we began, or ceased, to fetch a piece: to receivers that lack it. */
static bool tell(struct mci_swarm *swarm, struct mci_swarm_step *step)
{
	while (swarm->tell || swarm->cease_count) {
		struct mci_swarm_peer *peer = swarm->tell;

		if (!peer) {
			swarm->tell_piece = swarm_next_bit(swarm, swarm->cease, 0);
			swarm->tell_on = false;
			swarm->tell = swarm->first;
			swarm_clear(swarm->cease, swarm->tell_piece);
			swarm->cease_count--;
			continue;
		}
		swarm->tell = peer->next;
		if (!peer->seed && !swarm_bit(peer->has, swarm->tell_piece))
			return finish(step, MCI_SWARM_ANNOUNCE, peer, swarm->tell_piece, 0, swarm->tell_on);
	}
	return false;
}

/* Who came later is told what is being fetched already. */
static bool tell_newcomer(struct mci_swarm *swarm, struct mci_swarm_step *step)
{
	for (struct mci_swarm_peer *peer = swarm->first; peer && swarm->behind_count; peer = peer->next) {
		uint32_t piece;

		if (!peer->behind)
			continue;
		piece = swarm_next_bit(swarm, swarm->told, peer->behind_at);
		if (piece != SWARM_NONE) {
			peer->behind_at = piece + 1;
			return finish(step, MCI_SWARM_ANNOUNCE, peer, piece, 0, true);
		}
		peer->behind = false;
		swarm->behind_count--;
	}
	return false;
}

static bool cancel(struct mci_swarm *swarm, struct mci_swarm_step *step)
{
	for (uint32_t i = 0; i < swarm->flight_count && swarm->cancel_count; i++) {
		struct swarm_flight *flight = &swarm->flights[i];

		if (!flight->cancel)
			continue;
		flight->cancel = false;
		flight->cancelled = true;
		swarm->cancel_count--;
		return finish(step, MCI_SWARM_CANCEL, flight->peer, flight->piece, 0, false);
	}
	return false;
}

/*
 * How many slots we want to hold: no more than reads, and no more than a fair share of all slots that there
 * are, if others give as many as we do. Whoever holds more takes them from one who waits.
 */
static uint32_t limit(const struct mci_swarm *swarm)
{
	uint64_t parts = swarm->peer_count - swarm->whole, slots = swarm->attr.slots;
	uint64_t fair = (swarm->whole * slots + parts * (slots / 2) + parts) / (parts + 1);

	fair = fair ? fair : 1;
	return (uint32_t)(fair < swarm->attr.window ? fair : swarm->attr.window) + swarm->late_count;
}

static bool fetch(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint64_t now_ns,
		  struct mci_swarm_step *step)
{
	struct swarm_flight *late = swarm_pick_second(swarm, peer);
	uint32_t piece = late ? late->piece : swarm_pick(swarm, peer);

	if (piece == SWARM_NONE)
		return false;
	swarm_begin(swarm, peer, piece, now_ns);
	return finish(step, MCI_SWARM_FETCH, peer, piece, 0, true);
}

/* All that concerns one peer as our source. */
static bool look_at(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint64_t now_ns,
		    struct mci_swarm_step *step)
{
	bool usable = swarm_counts(peer) && !peer->rest_until_ns, wants;
	uint32_t unused = peer->slots - peer->used, back = peer->recalled;

	if (swarm->slots > limit(swarm) + back)
		back = swarm->slots - limit(swarm);
	if (back > unused)
		back = unused;
	if (usable && unused > back && fetch(swarm, peer, now_ns, step))
		return true;
	wants = usable && swarm_wants(swarm, peer);
	if (!wants)
		back = unused;
	/* Interest ends before slots go back, or they would come again at once. */
	wants &= swarm->slots < limit(swarm);
	if (wants != peer->told_interest) {
		peer->told_interest = wants;
		return finish(step, MCI_SWARM_INTEREST, peer, 0, 0, wants);
	}
	if (!back)
		return false;
	peer->slots -= back;
	swarm->slots -= back;
	peer->recalled -= back < peer->recalled ? back : peer->recalled;
	swarm->all_dirty |= swarm->slots + back >= limit(swarm);
	return finish(step, MCI_SWARM_RETURN, peer, 0, back, false);
}

static void pop_dirty(struct mci_swarm *swarm)
{
	struct mci_swarm_peer *peer = swarm->dirty_first;

	swarm->dirty_first = peer->next_dirty;
	if (!swarm->dirty_first)
		swarm->dirty_last = NULL;
	peer->dirty = false;
}

static bool look_at_dirty(struct mci_swarm *swarm, uint64_t now_ns, struct mci_swarm_step *step)
{
	for (;;) {
		if (swarm->all_dirty) {
			swarm->all_dirty = false;
			for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next)
				swarm_dirty(swarm, peer);
		}
		if (!swarm->dirty_first)
			return false;
		if (look_at(swarm, swarm->dirty_first, now_ns, step))
			return true; /* it stays first */
		pop_dirty(swarm);
	}
}

static uint64_t timer(const struct mci_swarm *swarm)
{
	uint64_t soonest = swarm_late_ns(swarm);

	if (swarm->turn_ns < soonest)
		soonest = swarm->turn_ns;
	if (!swarm->resting)
		return soonest;
	for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next)
		if (peer->rest_until_ns && peer->rest_until_ns < soonest)
			soonest = peer->rest_until_ns;
	return soonest;
}

static void look_at_clock(struct mci_swarm *swarm, uint64_t now_ns)
{
	swarm_mark_late(swarm, now_ns);
	swarm->slots_dirty |= now_ns >= swarm->turn_ns;
	for (struct mci_swarm_peer *peer = swarm->first; peer && swarm->resting; peer = peer->next) {
		if (!peer->rest_until_ns || now_ns < peer->rest_until_ns)
			continue;
		peer->rest_until_ns = 0;
		swarm->resting--;
		swarm_dirty(swarm, peer);
	}
	swarm->timer_stale = true;
}

void mci_swarm_step(struct mci_swarm *swarm, uint64_t now_ns, struct mci_swarm_step *step)
{
	if (swarm->timer_stale) {
		swarm->timer_ns = timer(swarm);
		swarm->timer_stale = false;
	}
	if (now_ns >= swarm->timer_ns)
		look_at_clock(swarm, now_ns);
	if (tell(swarm, step) || (swarm->behind_count && tell_newcomer(swarm, step)) ||
	    (swarm->cancel_count && cancel(swarm, step)) || look_at_dirty(swarm, now_ns, step))
		return;
	if (swarm->slots_dirty) {
		if (swarm_slots_step(swarm, now_ns, step))
			return;
		swarm->slots_dirty = false;
	}
	*step = (struct mci_swarm_step){.action = MCI_SWARM_NOTHING};
}

uint64_t mci_swarm_next_ns(const struct mci_swarm *swarm)
{
	return swarm->timer_stale ? timer(swarm) : swarm->timer_ns;
}
