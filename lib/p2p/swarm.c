// SPDX-License-Identifier: MIT
/* Pieces and peers of one swarm: what we hold, what each peer says, and the counts that follow from both. */
#include "p2p/swarm_inner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/uuid.h"

int mci_swarm_new(const struct mci_swarm_attr *attr, struct mci_swarm **out)
{
	struct mci_swarm *swarm = calloc(1, sizeof(*swarm));
	uint64_t **maps[] = {&swarm->held,  &swarm->taken, &swarm->want,
			     &swarm->fresh, &swarm->told,  &swarm->cease};
	uint16_t **counts[] = {&swarm->holders, &swarm->seeds, &swarm->fetchers};
	uint32_t words = (attr->pieces + 63) / 64;
	bool complete = true;

	if (!swarm)
		goto err;
	swarm->attr = *attr;
	swarm->words = words;
	swarm->random = attr->random;
	swarm->members = 1;
	swarm->turn_ns = swarm->timer_ns = UINT64_MAX;
	for (size_t i = 0; i < sizeof(maps) / sizeof(*maps); i++)
		complete &= (*maps[i] = calloc(words + 1, sizeof(uint64_t))) != NULL;
	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		complete &= (*counts[i] = calloc(attr->pieces + 1ull, sizeof(uint16_t))) != NULL;
	swarm->flights = calloc(2ull * attr->window + 1, sizeof(*swarm->flights));
	if (!complete || !swarm->flights)
		goto err_free;
	if (attr->seed)
		swarm->held_count = attr->pieces;
	else
		swarm->want_count = swarm->missing = attr->pieces;
	for (uint32_t i = 0; i < attr->pieces; i++) {
		if (attr->seed) {
			swarm_set(swarm->held, i);
			continue;
		}
		swarm_set(swarm->want, i);
		swarm_set(swarm->fresh, i);
	}
	*out = swarm;
	return 0;
err_free:
	mci_swarm_free(swarm);
err:
	return mci_fail(-ENOMEM, "no memory for the state of a swarm of %u pieces", attr->pieces);
}

static void peer_free(struct mci_swarm_peer *peer)
{
	free(peer->has);
	free(peer->fetching);
	free(peer);
}

void mci_swarm_free(struct mci_swarm *swarm)
{
	struct mci_swarm_peer *peer, *next;

	if (!swarm)
		return;
	for (peer = swarm->first; peer; peer = next) {
		next = peer->next;
		peer_free(peer);
	}
	free(swarm->held);
	free(swarm->taken);
	free(swarm->want);
	free(swarm->fresh);
	free(swarm->told);
	free(swarm->cease);
	free(swarm->holders);
	free(swarm->seeds);
	free(swarm->fetchers);
	free(swarm->flights);
	free(swarm);
}

uint32_t swarm_next_bit(const struct mci_swarm *swarm, const uint64_t *map, uint32_t from)
{
	uint64_t bits;

	for (uint32_t w = from / 64; w < swarm->words; w++) {
		bits = map[w];
		if (w == from / 64)
			bits &= ~0ull << (from % 64);
		if (bits)
			return w * 64 + (uint32_t)__builtin_ctzll(bits);
	}
	return SWARM_NONE;
}

void swarm_dirty(struct mci_swarm *swarm, struct mci_swarm_peer *peer)
{
	if (peer->dirty)
		return;
	peer->dirty = true;
	peer->next_dirty = NULL;
	if (swarm->dirty_last)
		swarm->dirty_last->next_dirty = peer;
	else
		swarm->dirty_first = peer;
	swarm->dirty_last = peer;
}

static void count(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t *counter, bool up)
{
	*counter += up ? 1 : -1u;
	if (*counter == (up ? 1 : 0))
		swarm_dirty(swarm, peer);
}

void swarm_piece_changed(struct mci_swarm *swarm, uint32_t piece)
{
	bool want = !swarm_bit(swarm->held, piece) && !swarm_bit(swarm->taken, piece) &&
		    !mci_swarm_flights(swarm, piece);
	bool fresh = want && !swarm->holders[piece] && !swarm->fetchers[piece];
	bool want_changed = want != swarm_bit(swarm->want, piece);
	bool fresh_changed = fresh != swarm_bit(swarm->fresh, piece);

	if (!want_changed && !fresh_changed)
		return;
	if (want_changed) {
		swarm->want[piece / 64] ^= 1ull << (piece % 64);
		swarm->want_count += want ? 1 : -1u;
		swarm->timer_stale = true; /* the endgame begins when nothing is wanted */
	}
	if (fresh_changed)
		swarm->fresh[piece / 64] ^= 1ull << (piece % 64);
	for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next) {
		if (!swarm_counts(peer) || !swarm_bit(peer->has, piece))
			continue;
		if (want_changed)
			count(swarm, peer, &peer->useful, want);
		if (fresh_changed && peer->seed)
			count(swarm, peer, &peer->fresh, fresh);
	}
}

/* The share of what only seeds have that is ours to ask for first: every members-th piece, by the order of
 * uuids. */
static void find_rank(struct mci_swarm *swarm)
{
	swarm->members = 1;
	swarm->rank = 0;
	if (mci_uuid_is_zero(&swarm->attr.self))
		return;
	for (struct mci_swarm_peer *peer = swarm->first; peer; peer = peer->next) {
		if (peer->seed || !swarm_counts(peer))
			continue;
		swarm->members++;
		swarm->rank += memcmp(peer->uuid.b, swarm->attr.self.b, sizeof(peer->uuid.b)) < 0;
	}
}

int mci_swarm_peer_add(struct mci_swarm *swarm, const struct mc_uuid *uuid, bool seed, void *user,
		       struct mci_swarm_peer **out)
{
	struct mci_swarm_peer *peer;

	if (swarm->peer_count == UINT16_MAX)
		return mci_fail(-ENOSPC, "a swarm has at most %u members", UINT16_MAX);
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		goto err;
	peer->has = calloc(swarm->words + 1, sizeof(uint64_t));
	peer->fetching = calloc(swarm->words + 1, sizeof(uint64_t));
	if (!peer->has || !peer->fetching)
		goto err_free;
	peer->uuid = *uuid;
	peer->seed = seed;
	peer->user = user;
	peer->previous = swarm->last;
	if (swarm->last)
		swarm->last->next = peer;
	else
		swarm->first = peer;
	swarm->last = peer;
	swarm->peer_count++;
	if (!seed && swarm->told_count) {
		peer->behind = true;
		swarm->behind_count++;
	}
	find_rank(swarm);
	*out = peer;
	return 0;
err_free:
	peer_free(peer);
err:
	return mci_fail(-ENOMEM, "no memory for one more member of a swarm of %u pieces", swarm->attr.pieces);
}

static void hold_change(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, bool on)
{
	uint16_t *counter = (peer->seed ? swarm->seeds : swarm->holders) + piece;

	swarm->whole -= peer->has_count == swarm->attr.pieces;
	peer->has_count += on ? 1 : -1u;
	swarm->whole += peer->has_count == swarm->attr.pieces;
	*counter = (uint16_t)(*counter + (on ? 1 : -1));
	if (!swarm_bit(swarm->held, piece) && swarm->holders[piece] + swarm->seeds[piece] == (on ? 1 : 0))
		swarm->missing += on ? -1u : 1;
}

static void fetch_change(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, bool on)
{
	if (on)
		swarm_set(peer->fetching, piece);
	else
		swarm_clear(peer->fetching, piece);
	swarm->fetchers[piece] = (uint16_t)(swarm->fetchers[piece] + (on ? 1 : -1));
	swarm_piece_changed(swarm, piece);
}

/* Take back all that the peer's maps added to the counts. */
static void uncount(struct mci_swarm *swarm, struct mci_swarm_peer *peer)
{
	uint32_t i;

	for (i = 0; (i = swarm_next_bit(swarm, peer->fetching, i)) != SWARM_NONE; i++)
		fetch_change(swarm, peer, i, false);
	for (i = 0; (i = swarm_next_bit(swarm, peer->has, i)) != SWARM_NONE; i++) {
		hold_change(swarm, peer, i, false);
		swarm_clear(peer->has, i);
		swarm_piece_changed(swarm, i);
	}
	peer->useful = peer->fresh = 0;
	swarm_dirty(swarm, peer);
}

void mci_swarm_peer_remove(struct mci_swarm *swarm, struct mci_swarm_peer *peer)
{
	struct mci_swarm_peer **link, *before = NULL;

	swarm_drop(swarm, peer);
	uncount(swarm, peer);
	for (link = &swarm->dirty_first; *link; before = *link, link = &before->next_dirty)
		if (*link == peer)
			break;
	if (*link == peer) {
		*link = peer->next_dirty;
		if (swarm->dirty_last == peer)
			swarm->dirty_last = before;
	}
	if (swarm->yielder == peer)
		swarm->yielder = NULL;
	if (swarm->tell == peer)
		swarm->tell = peer->next;
	*(peer->previous ? &peer->previous->next : &swarm->first) = peer->next;
	*(peer->next ? &peer->next->previous : &swarm->last) = peer->previous;
	swarm->peer_count--;
	swarm->behind_count -= peer->behind;
	swarm->resting -= peer->rest_until_ns != 0;
	swarm->slots -= peer->slots;
	swarm->given -= peer->given;
	swarm->asked_back -= peer->asked_back;
	swarm->interested -= peer->interested;
	swarm->all_dirty = swarm->slots_dirty = swarm->timer_stale = true;
	peer_free(peer);
	find_rank(swarm);
}

void *mci_swarm_peer_user(const struct mci_swarm_peer *peer) { return peer->user; }
bool mci_swarm_peer_is_seed(const struct mci_swarm_peer *peer) { return peer->seed; }
bool mci_swarm_peer_avoided(const struct mci_swarm_peer *peer) { return peer->avoided; }

void mci_swarm_peer_has(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece)
{
	if (!swarm_counts(peer) || swarm_bit(peer->has, piece))
		return;
	hold_change(swarm, peer, piece, true);
	swarm_piece_changed(swarm, piece);
	swarm_set(peer->has, piece);
	if (swarm_bit(swarm->want, piece))
		count(swarm, peer, &peer->useful, true);
	if (peer->seed && swarm_bit(swarm->fresh, piece))
		count(swarm, peer, &peer->fresh, true);
	if (swarm->late_count)
		swarm_dirty(swarm, peer);
}

void mci_swarm_peer_fetches(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, bool on)
{
	if (!swarm_counts(peer) || swarm_bit(peer->has, piece) || swarm_bit(peer->fetching, piece) == on)
		return;
	fetch_change(swarm, peer, piece, on);
}

void mci_swarm_peer_interested(struct mci_swarm *swarm, struct mci_swarm_peer *peer, bool on)
{
	if (peer->interested == on)
		return;
	peer->interested = on;
	swarm->interested += on ? 1 : -1u;
	swarm->slots_dirty = true;
}

void mci_swarm_peer_granted(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t slots)
{
	if (slots) {
		peer->slots += slots;
		swarm->slots += slots;
		swarm->all_dirty = true; /* enough may be enough */
	} else if (peer->recalled < peer->slots) {
		peer->recalled++;
	}
	swarm_dirty(swarm, peer);
}

int mci_swarm_peer_returned(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t slots)
{
	uint32_t asked = slots < peer->asked_back ? slots : peer->asked_back;

	if (slots > peer->given)
		return mci_fail(-EPROTO, "a member gave back %u slots and had %u", slots, peer->given);
	peer->given -= slots;
	swarm->given -= slots;
	peer->asked_back -= asked;
	swarm->asked_back -= asked;
	swarm->slots_dirty = true;
	return 0;
}

uint32_t mci_swarm_peer_owes(const struct mci_swarm_peer *peer) { return peer->asked_back; }

static void stop_counting(struct mci_swarm *swarm, struct mci_swarm_peer *peer, bool *why)
{
	if (swarm_counts(peer))
		uncount(swarm, peer);
	*why = true;
	find_rank(swarm);
	swarm->all_dirty = swarm->timer_stale = true;
}

void mci_swarm_peer_leaving(struct mci_swarm *swarm, struct mci_swarm_peer *peer)
{
	stop_counting(swarm, peer, &peer->leaving);
}

void swarm_ceased(struct mci_swarm *swarm, uint32_t piece)
{
	if (!swarm_bit(swarm->told, piece))
		return;
	swarm_clear(swarm->told, piece);
	swarm->told_count--;
	swarm_set(swarm->cease, piece);
	swarm->cease_count++;
}

void mci_swarm_have(struct mci_swarm *swarm, uint32_t piece)
{
	if (swarm_bit(swarm->held, piece))
		return;
	swarm_clear(swarm->taken, piece);
	swarm_set(swarm->held, piece);
	swarm->held_count++;
	if (swarm_bit(swarm->told, piece)) {
		swarm_clear(swarm->told, piece);
		swarm->told_count--;
	}
	swarm->missing -= !swarm->holders[piece] && !swarm->seeds[piece];
	swarm_cancel_others(swarm, piece);
	swarm_piece_changed(swarm, piece);
	swarm->slots_dirty |= mci_swarm_complete(swarm);
}

bool mci_swarm_bad(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece)
{
	if (swarm_bit(swarm->taken, piece)) {
		swarm_clear(swarm->taken, piece);
		if (!mci_swarm_flights(swarm, piece))
			swarm_ceased(swarm, piece);
		swarm_piece_changed(swarm, piece);
	}
	if (!peer || ++peer->bad != SWARM_BAD)
		return false;
	stop_counting(swarm, peer, &peer->avoided);
	return true;
}

bool mci_swarm_holds(const struct mci_swarm *swarm, uint32_t piece) { return swarm_bit(swarm->held, piece); }
uint32_t mci_swarm_held(const struct mci_swarm *swarm) { return swarm->held_count; }
bool mci_swarm_complete(const struct mci_swarm *swarm) { return swarm->held_count == swarm->attr.pieces; }
uint32_t mci_swarm_missing(const struct mci_swarm *swarm) { return swarm->missing; }
uint32_t mci_swarm_given(const struct mci_swarm *swarm) { return swarm->given; }

void mci_swarm_drain(struct mci_swarm *swarm) { swarm->draining = true; }
