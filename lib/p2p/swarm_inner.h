/* SPDX-License-Identifier: MIT */
/*
 * Shared by the swarm's files alone: swarm.c (pieces and peers: who has what), swarm_pick.c (reads: which
 * piece, how long, which second source), swarm_slots.c (slots that we give), swarm_step.c (what to do next).
 *
 * A piece is in one state: held; taken (came, is being verified); in flight; or wanted. "Fresh": wanted, and
 * nobody but seeds has it or fetches it. A peer counts until it leaves or is avoided; then it is no source
 * any more.
 */
#ifndef MCI_P2P_SWARM_INNER_H
#define MCI_P2P_SWARM_INNER_H

#include "p2p/swarm.h"

#include <stddef.h>

#define SWARM_NONE UINT32_MAX
#define SWARM_SAMPLE 256u /* candidates that a pick looks at */
#define SWARM_BAD 2u	  /* mismatches until a peer is avoided */

struct swarm_flight {
	struct mci_swarm_peer *peer;
	uint32_t piece;
	bool late;    /* a second source is wanted */
	bool overdue; /* this one ends when the second begins; else the faster of both wins */
	bool doubled; /* there are two reads of the piece */
	bool cancel;  /* MCI_SWARM_CANCEL is due */
	bool cancelled;
	uint64_t begun_ns;
};

struct mci_swarm_peer {
	struct mci_swarm_peer *next, *previous;
	struct mci_swarm_peer *next_dirty;
	void *user;
	struct mc_uuid uuid;
	bool seed, leaving, avoided, dirty;
	bool told_interest; /* it knows that we are interested */
	bool behind;	    /* came after announcements: those from behind_at on are told yet */
	bool interested;    /* it wants slots from us */
	uint32_t behind_at;
	uint32_t bad;	 /* pieces from it that did not match */
	uint32_t errors; /* in a row */
	/* Its slots that we hold. */
	uint32_t slots, used, recalled;
	uint32_t has_count;
	uint32_t useful; /* pieces that it has and we want */
	uint32_t fresh;	 /* a seed's: of those, fresh ones */
	uint64_t usual_ns, rest_until_ns;
	/* Our slots that it holds. */
	uint32_t given, asked_back;
	uint64_t since_ns;
	uint64_t *has, *fetching; /* bitmaps */
};

struct mci_swarm {
	struct mci_swarm_attr attr;
	uint32_t words; /* of a bitmap */
	uint64_t random;
	/* Pieces. */
	uint64_t *held, *taken, *want, *fresh; /* bitmaps */
	uint64_t *told, *cease;		       /* announced as being fetched; the end of that is to be told */
	uint16_t *holders, *seeds, *fetchers;  /* per piece: peers that count */
	uint32_t held_count, want_count, missing, told_count, cease_count;
	/* Peers. */
	struct mci_swarm_peer *first, *last;
	struct mci_swarm_peer *dirty_first, *dirty_last;
	uint32_t peer_count, behind_count, resting;
	uint32_t members, rank; /* receivers, we among them, and our place by uuid */
	uint32_t whole;		/* peers that have everything and count */
	/* Reads. */
	struct swarm_flight *flights; /* 2 * window */
	uint32_t flight_count, second_count, late_count, cancel_count;
	uint32_t slots; /* that we hold of peers */
	uint64_t usual_ns;
	/* Slots that we give. */
	uint32_t given, asked_back, interested;
	struct mci_swarm_peer *yielder; /* was asked for a slot last */
	uint64_t turn_ns;		/* when to look again for a turn that is over */
	bool draining, slots_dirty;
	/* The announcement that is being told to one peer after the other. */
	struct mci_swarm_peer *tell;
	uint32_t tell_piece;
	bool tell_on;
	bool all_dirty, timer_stale;
	uint64_t timer_ns;
};

static inline bool swarm_bit(const uint64_t *map, uint32_t i) { return map[i / 64] >> (i % 64) & 1; }
static inline void swarm_set(uint64_t *map, uint32_t i) { map[i / 64] |= 1ull << (i % 64); }
static inline void swarm_clear(uint64_t *map, uint32_t i) { map[i / 64] &= ~(1ull << (i % 64)); }
/* First set bit at or after @from, or SWARM_NONE. */
uint32_t swarm_next_bit(const struct mci_swarm *swarm, const uint64_t *map, uint32_t from);

static inline bool swarm_counts(const struct mci_swarm_peer *peer)
{
	return !peer->leaving && !peer->avoided;
}
/* Something about the peer changed: swarm_step.c looks at it. */
void swarm_dirty(struct mci_swarm *swarm, struct mci_swarm_peer *peer);
/* Bring want, fresh and the counts of peers in line with the state of the piece. */
void swarm_piece_changed(struct mci_swarm *swarm, uint32_t piece);
/* We do not fetch it any more, and do not have it: whoever was told is told. */
void swarm_ceased(struct mci_swarm *swarm, uint32_t piece);

/* swarm_pick.c */
uint32_t swarm_below(struct mci_swarm *swarm, uint32_t n);			 /* at random, 0 to n - 1 */
uint32_t swarm_pick(struct mci_swarm *swarm, const struct mci_swarm_peer *peer); /* SWARM_NONE */
struct swarm_flight *swarm_pick_second(struct mci_swarm *swarm, const struct mci_swarm_peer *peer);
bool swarm_wants(struct mci_swarm *swarm, const struct mci_swarm_peer *peer);
void swarm_begin(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, uint64_t now_ns);
void swarm_drop(struct mci_swarm *swarm, const struct mci_swarm_peer *peer); /* its reads are over */
void swarm_cancel_others(struct mci_swarm *swarm, uint32_t piece);
void swarm_mark_late(struct mci_swarm *swarm, uint64_t now_ns);
uint64_t swarm_late_ns(const struct mci_swarm *swarm); /* when the next flight will be late */

/* swarm_slots.c: true: a step. */
bool swarm_slots_step(struct mci_swarm *swarm, uint64_t now_ns, struct mci_swarm_step *step);

#endif
