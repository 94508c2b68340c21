// SPDX-License-Identifier: MIT
/* Reads of one swarm: which piece from whom, how long a read usually takes, and when a second source is
 * asked. */
#include "p2p/swarm_inner.h"

#define LATE_TIMES 6u		    /* of the usual time, then a second source is asked... */
#define LATE_FLOOR_NS 500000000ull  /* ...but not before */
#define LATE_FIRST_NS 5000000000ull /* nothing came yet, so nothing is usual */
#define END_FLOOR_NS 20000000ull    /* of the endgame */
#define END_SLOWER 3u /* so many times slower than usual: a source is doubled at once in the endgame */
#define REST_FIRST_NS 100000000ull /* after an error; doubles with each in a row */
#define REST_LAST_NS 10000000000ull

static uint64_t next_random(struct mci_swarm *swarm)
{
	uint64_t z = swarm->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint32_t swarm_below(struct mci_swarm *swarm, uint32_t n)
{
	return (uint32_t)((next_random(swarm) >> 32) * n >> 32);
}

/*
 * One of the best among what @has and @mask share, at random. Best: fewest holders; of fresh pieces (which
 * nobody holds): of our own share. Looks at SWARM_SAMPLE of them from a random place on, which near the end
 * is all of them.
 */
static uint32_t choose(struct mci_swarm *swarm, const uint64_t *has, const uint64_t *mask, bool fresh)
{
	uint32_t best[SWARM_SAMPLE + 64], count = 0, seen = 0, least = UINT32_MAX;
	uint32_t start = swarm->words ? swarm_below(swarm, swarm->words) : 0;

	for (uint32_t i = 0; i < swarm->words && seen < SWARM_SAMPLE; i++) {
		uint32_t w = start + i < swarm->words ? start + i : start + i - swarm->words;

		for (uint64_t bits = has[w] & mask[w]; bits; bits &= bits - 1, seen++) {
			uint32_t piece = w * 64 + (uint32_t)__builtin_ctzll(bits);
			uint32_t rank = fresh ? piece % swarm->members != swarm->rank : swarm->holders[piece];

			if (rank > least)
				continue;
			if (rank < least)
				count = 0;
			least = rank;
			best[count++] = piece;
		}
	}
	return count ? best[swarm_below(swarm, count)] : SWARM_NONE;
}

static bool idle(const struct mci_swarm *swarm) { return !swarm->flight_count; }

uint32_t swarm_pick(struct mci_swarm *swarm, const struct mci_swarm_peer *peer)
{
	if (swarm->flight_count - swarm->second_count >= swarm->attr.window)
		return SWARM_NONE;
	if (peer->seed && peer->fresh)
		return choose(swarm, peer->has, swarm->fresh, true);
	if (!peer->useful || (peer->seed && !idle(swarm)))
		return SWARM_NONE;
	return choose(swarm, peer->has, swarm->want, false);
}

/* A late read whose piece this peer has too. */
struct swarm_flight *swarm_pick_second(struct mci_swarm *swarm, const struct mci_swarm_peer *peer)
{
	if (!swarm->late_count || swarm->flight_count == 2 * swarm->attr.window)
		return NULL;
	for (uint32_t i = 0; i < swarm->flight_count; i++) {
		struct swarm_flight *flight = &swarm->flights[i];

		if (flight->late && !flight->doubled && !flight->cancel && !flight->cancelled &&
		    flight->peer != peer && swarm_bit(peer->has, flight->piece))
			return flight;
	}
	return NULL;
}

/* Would we use a slot of this peer? */
bool swarm_wants(struct mci_swarm *swarm, const struct mci_swarm_peer *peer)
{
	if (peer->seed ? peer->fresh || (peer->useful && idle(swarm)) : peer->useful)
		return true;
	return swarm_pick_second(swarm, peer) != NULL;
}

static struct swarm_flight *find(struct mci_swarm *swarm, const struct mci_swarm_peer *peer, uint32_t piece)
{
	for (uint32_t i = 0; i < swarm->flight_count; i++)
		if (swarm->flights[i].piece == piece && (!peer || swarm->flights[i].peer == peer))
			return &swarm->flights[i];
	return NULL;
}

uint32_t mci_swarm_flights(const struct mci_swarm *swarm, uint32_t piece)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < swarm->flight_count; i++)
		count += swarm->flights[i].piece == piece;
	return count;
}

static void cancel(struct mci_swarm *swarm, struct swarm_flight *flight)
{
	if (flight->cancel || flight->cancelled)
		return;
	flight->cancel = true;
	swarm->cancel_count++;
}

void swarm_cancel_others(struct mci_swarm *swarm, uint32_t piece)
{
	for (uint32_t i = 0; i < swarm->flight_count; i++)
		if (swarm->flights[i].piece == piece)
			cancel(swarm, &swarm->flights[i]);
}

/* The read is booked; the second of a piece too. */
void swarm_begin(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, uint64_t now_ns)
{
	struct swarm_flight *first = find(swarm, NULL, piece);
	struct swarm_flight *flight = &swarm->flights[swarm->flight_count];
	bool fresh = swarm_bit(swarm->fresh, piece);

	*flight = (struct swarm_flight){.peer = peer, .piece = piece, .begun_ns = now_ns, .doubled = first};
	swarm->all_dirty |= !swarm->flight_count++; /* not idle any more */
	swarm->timer_stale = true;
	peer->used++;
	if (first) {
		first->doubled = true;
		swarm->second_count++;
		if (first->overdue)
			cancel(swarm, first);
	}
	swarm_piece_changed(swarm, piece);
	if (!peer->seed || !fresh)
		return;
	swarm_set(swarm->told, piece);
	swarm->told_count++;
	swarm->tell = swarm->first;
	swarm->tell_piece = piece;
	swarm->tell_on = true;
}

static void learn(uint64_t *usual, uint64_t took, unsigned int shift)
{
	*usual = *usual ? *usual - (*usual >> shift) + (took >> shift) : took;
	*usual += !*usual;
}

/* Takes the flight off the table. */
static void end(struct mci_swarm *swarm, struct swarm_flight *flight)
{
	struct mci_swarm_peer *peer = flight->peer;
	struct swarm_flight *other;
	uint32_t piece = flight->piece;

	swarm->late_count -= flight->late;
	swarm->cancel_count -= flight->cancel;
	*flight = swarm->flights[--swarm->flight_count];
	other = find(swarm, NULL, piece);
	if (other) {
		other->doubled = false;
		swarm->second_count--;
	}
	peer->used--;
	/* There is room again, or nothing left to do, or what was late is alone again. */
	swarm->all_dirty = swarm->timer_stale = true;
}

bool mci_swarm_done(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, uint64_t now_ns)
{
	struct swarm_flight *flight = find(swarm, peer, piece);
	uint64_t took;

	if (!flight)
		return false;
	took = now_ns - flight->begun_ns;
	learn(&peer->usual_ns, took, 2);
	learn(&swarm->usual_ns, took, 3);
	peer->errors = 0;
	end(swarm, flight);
	if (swarm_bit(swarm->held, piece) || swarm_bit(swarm->taken, piece))
		return false;
	swarm_set(swarm->taken, piece);
	swarm_cancel_others(swarm, piece);
	swarm_piece_changed(swarm, piece);
	return true;
}

void mci_swarm_failed(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, uint64_t now_ns,
		      enum mci_swarm_failure why)
{
	struct swarm_flight *flight = find(swarm, peer, piece);
	uint64_t took, rest = REST_FIRST_NS;

	if (!flight)
		return;
	took = now_ns - flight->begun_ns;
	if (why == MCI_SWARM_CANCELLED && took > peer->usual_ns)
		learn(&peer->usual_ns, took, 2);
	end(swarm, flight);
	if (why == MCI_SWARM_ERROR) {
		for (uint32_t i = 0; i < peer->errors && rest < REST_LAST_NS; i++)
			rest *= 2;
		peer->errors++;
		swarm->resting += !peer->rest_until_ns;
		peer->rest_until_ns = now_ns + (rest < REST_LAST_NS ? rest : REST_LAST_NS);
	}
	if (swarm_bit(swarm->held, piece) || swarm_bit(swarm->taken, piece))
		return;
	if (!mci_swarm_flights(swarm, piece))
		swarm_ceased(swarm, piece);
	swarm_piece_changed(swarm, piece);
}

void swarm_drop(struct mci_swarm *swarm, const struct mci_swarm_peer *peer)
{
	for (uint32_t i = swarm->flight_count; i-- > 0;)
		if (swarm->flights[i].peer == peer)
			mci_swarm_failed(swarm, swarm->flights[i].peer, swarm->flights[i].piece,
					 swarm->flights[i].begun_ns, MCI_SWARM_CANCELLED);
}

/*
 * When a second source is wanted: far beyond the usual time. In the endgame, when nothing is left to begin,
 * sooner: at once where the source is far slower than others, else when it took its time and that of two
 * more.
 */
static uint64_t late_at(const struct mci_swarm *swarm, const struct swarm_flight *flight)
{
	uint64_t own = flight->peer->usual_ns, all = swarm->usual_ns, wait, end_wait;

	if (!all)
		return flight->begun_ns + LATE_FIRST_NS;
	wait = LATE_TIMES * (own > all ? own : all);
	wait = wait > LATE_FLOOR_NS ? wait : LATE_FLOOR_NS;
	if (!swarm->want_count) {
		end_wait = own > END_SLOWER * all ? 0 : own + 2 * all;
		end_wait = end_wait > END_FLOOR_NS ? end_wait : END_FLOOR_NS;
		wait = wait < end_wait ? wait : end_wait;
	}
	return flight->begun_ns + wait;
}

uint64_t swarm_late_ns(const struct mci_swarm *swarm)
{
	uint64_t soonest = UINT64_MAX, at;

	for (uint32_t i = 0; i < swarm->flight_count; i++) {
		if (swarm->flights[i].late)
			continue;
		at = late_at(swarm, &swarm->flights[i]);
		soonest = at < soonest ? at : soonest;
	}
	return soonest;
}

void swarm_mark_late(struct mci_swarm *swarm, uint64_t now_ns)
{
	for (uint32_t i = 0; i < swarm->flight_count; i++) {
		struct swarm_flight *flight = &swarm->flights[i];

		if (flight->late || now_ns < late_at(swarm, flight))
			continue;
		flight->late = true;
		flight->overdue = swarm->want_count != 0;
		swarm->late_count++;
		swarm->all_dirty = true;
	}
}
