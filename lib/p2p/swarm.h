/* SPDX-License-Identifier: MIT */
/*
 * Who fetches which piece from whom: one member's view of one object's swarm. Pure decisions: the clock is an argument,
 * nothing blocks, no thread, no socket; allocation only when a peer is added. The same code runs in the store and in
 * the simulation (tests/bench/p2p_sim). One thread at a time. docs/p2p.md, "How a piece is chosen".
 *
 * As a receiver: a peer that has something we lack is told that we are interested. It gives slots; a slot is the right
 * to read one piece from it at one time, as often as we like, until we give it back or it asks for it (a grant of 0).
 * With a slot, mci_swarm_step() chooses the piece: rarest first among what that peer announced and nobody here fetches,
 * ties at random; a seed (who registered, contracts F) is asked for pieces that only seeds hold, unless this member
 * would otherwise be idle. Near the end (endgame), and where a source is slow, a piece in flight is asked of a second
 * source, and the later one is cancelled.
 * As a source: slots go to interested peers in turn, as many as attr.slots at one time.
 */
#ifndef MCI_P2P_SWARM_H
#define MCI_P2P_SWARM_H

#include <mooncake/types.h>

#include <stdbool.h>
#include <stdint.h>

struct mci_swarm;
struct mci_swarm_peer;

struct mci_swarm_attr {
	uint32_t pieces;
	struct mc_uuid self; /* our segment; members share out what they ask of the seed by it. Zeros: do not */
	uint32_t slots;	 /* to give, over all peers; half as many (at least 1) until we hold everything */
	uint32_t window; /* pieces in flight here, over all sources; a second read of a piece does not count */
	bool seed;	 /* we registered it: every piece is held */
	uint64_t random; /* start of the generator: same value, same choices */
};

int mci_swarm_new(const struct mci_swarm_attr *attr, struct mci_swarm **swarm); /* -ENOMEM */
void mci_swarm_free(struct mci_swarm *swarm);

/* Peers. @user comes back from the calls below. @seed: it says that it registered the object. */
int mci_swarm_peer_add(struct mci_swarm *swarm, const struct mc_uuid *uuid, bool seed, void *user,
		       struct mci_swarm_peer **peer);
/* Its slots, ours at it and its reads from us are over. The caller says mci_swarm_failed() of what is in flight from it
 * before; a read that it did not is forgotten. */
void mci_swarm_peer_remove(struct mci_swarm *swarm, struct mci_swarm_peer *peer);
void *mci_swarm_peer_user(const struct mci_swarm_peer *peer);
bool mci_swarm_peer_is_seed(const struct mci_swarm_peer *peer);
bool mci_swarm_peer_avoided(const struct mci_swarm_peer *peer); /* blamed: a mismatch repeated */

/* What a peer says. An index beyond the end is the caller's to refuse before. */
void mci_swarm_peer_has(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece);
void mci_swarm_peer_fetches(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, bool on);
void mci_swarm_peer_interested(struct mci_swarm *swarm, struct mci_swarm_peer *peer, bool on);
/* It gave us so many more slots. 0: others wait for one; we give one back as soon as a read from it ends. */
void mci_swarm_peer_granted(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t slots);
/* It gives back so many of the slots that we gave. -EPROTO: more than it had. */
int mci_swarm_peer_returned(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t slots);
uint32_t mci_swarm_peer_owes(const struct mci_swarm_peer *peer); /* slots that were asked back of it */
/* It does not serve any more (drains): no further picks from it. */
void mci_swarm_peer_leaving(struct mci_swarm *swarm, struct mci_swarm_peer *peer);

/* What we have. */
void mci_swarm_have(struct mci_swarm *swarm, uint32_t piece); /* verified and held */
bool mci_swarm_holds(const struct mci_swarm *swarm, uint32_t piece);
uint32_t mci_swarm_held(const struct mci_swarm *swarm);
bool mci_swarm_complete(const struct mci_swarm *swarm);
/* Pieces that we lack and no peer that is there (and not avoided or leaving) announced. */
uint32_t mci_swarm_missing(const struct mci_swarm *swarm);
/* Stop serving: no further slots are given. */
void mci_swarm_drain(struct mci_swarm *swarm);
uint32_t mci_swarm_given(const struct mci_swarm *swarm); /* slots that peers hold of us now */

/*
 * What to do now; call in a loop until MCI_SWARM_NOTHING, after any of the calls above and at the time that
 * mci_swarm_next_ns() tells. Each answer is already booked here; the caller carries it out.
 */
enum mci_swarm_action {
	MCI_SWARM_NOTHING,
	MCI_SWARM_FETCH,      /* read @piece from @peer; ends with mci_swarm_done/_bad/_failed */
	MCI_SWARM_CANCEL,     /* @piece came from elsewhere, or @peer is too slow and another has it: cancel this
			       * read; ends with mci_swarm_failed(MCI_SWARM_CANCELLED) or, if it was faster, _done */
	MCI_SWARM_INTEREST,   /* tell @peer that we are interested (@on) or not any more */
	MCI_SWARM_GRANT,      /* tell @peer that it has @slots more slots; 0: that it shall give one back when it can */
	MCI_SWARM_RETURN,     /* tell @peer that we give back @slots of its slots */
	MCI_SWARM_ANNOUNCE,   /* tell @peer that we began (@on) or ceased to fetch @piece */
};
struct mci_swarm_step {
	enum mci_swarm_action action;
	struct mci_swarm_peer *peer;
	uint32_t piece, slots;
	bool on;
};
void mci_swarm_step(struct mci_swarm *swarm, uint64_t now_ns, struct mci_swarm_step *step);
uint64_t mci_swarm_next_ns(const struct mci_swarm *swarm); /* UINT64_MAX: nothing by time alone */

/*
 * How a FETCH ended. After _done() the slot is free again at once. True: the piece is new here; the caller verifies,
 * then says mci_swarm_have() or mci_swarm_bad(). False: it came before from elsewhere, there is nothing to do.
 * A second read of the piece may be in flight then, into the same memory; its CANCEL is the next step. Who verifies in
 * place waits until mci_swarm_flights() is 0.
 */
enum mci_swarm_failure { MCI_SWARM_CANCELLED, MCI_SWARM_ERROR };
bool mci_swarm_done(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, uint64_t now_ns);
void mci_swarm_failed(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece, uint64_t now_ns,
		      enum mci_swarm_failure why);
uint32_t mci_swarm_flights(const struct mci_swarm *swarm, uint32_t piece); /* reads of it in flight here: 0, 1, 2 */
/* The piece from @peer (NULL: it is gone) did not match. True: the second time from it; it is avoided from now on. */
bool mci_swarm_bad(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint32_t piece);

#endif
