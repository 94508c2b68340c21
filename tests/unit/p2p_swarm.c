// SPDX-License-Identifier: MIT
/* The swarm as a receiver: which piece, from whom, and what is told to whom. */
#include "unit/p2p_swarm.h"

/* Begin, end, verify one piece from a peer that grants one slot. */
static void get(struct mci_swarm *swarm, struct mci_swarm_peer *peer, uint64_t begin_ns, uint64_t end_ns)
{
	uint32_t piece;

	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, begin_ns);
	piece = only(MCI_SWARM_FETCH, peer)->piece;
	assert_true(mci_swarm_done(swarm, peer, piece, end_ns));
	mci_swarm_have(swarm, piece);
}

static void test_the_rarest_piece_is_fetched_first(void **state)
{
	struct mci_swarm *swarm = swarm_new(3, false, 1);
	struct mci_swarm_peer *all = peer_new(swarm, false, 1), *two = peer_new(swarm, false, 2),
			      *one = peer_new(swarm, false, 3);

	(void)state;
	has(swarm, all, 0, 3);
	has(swarm, two, 0, 2);
	has(swarm, one, 0, 1);
	mci_swarm_peer_granted(swarm, all, 3);
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 3);
	for (unsigned int i = 0, expected = 3; i < step_count; i++)
		if (steps[i].action == MCI_SWARM_FETCH)
			assert_int_equal(steps[i].piece, --expected);
	mci_swarm_free(swarm);
}

static uint32_t first_choice(uint64_t random)
{
	struct mci_swarm *swarm = swarm_new(200, false, random);
	struct mci_swarm_peer *peer = peer_new(swarm, true, 1);
	uint32_t piece;

	has(swarm, peer, 0, 200);
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, 1);
	piece = only(MCI_SWARM_FETCH, peer)->piece;
	mci_swarm_free(swarm);
	return piece;
}

static void test_equally_rare_pieces_are_chosen_at_random_and_alike_for_one_start(void **state)
{
	bool seen[200] = {false};
	unsigned int different = 0;

	(void)state;
	for (uint64_t random = 0; random < 64; random++) {
		uint32_t piece = first_choice(random);

		assert_int_equal(piece, first_choice(random));
		different += !seen[piece];
		seen[piece] = true;
	}
	assert_in_range(different, 40, 64); /* 55 are expected; of the same it would be 1 */
}

static void test_a_peer_is_never_asked_for_what_it_did_not_announce(void **state)
{
	struct mci_swarm *swarm = swarm_new(8, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);

	(void)state;
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0);
	mci_swarm_peer_has(swarm, peer, 3);
	run(swarm, 1);
	assert_true(only(MCI_SWARM_INTEREST, peer)->on);
	mci_swarm_peer_granted(swarm, peer, 2);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_FETCH, peer)->piece, 3);
	mci_swarm_free(swarm);
}

static void test_a_slot_without_use_goes_back_at_once_and_interest_ends_first(void **state)
{
	struct mci_swarm *swarm = swarm_new(8, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);

	(void)state;
	mci_swarm_peer_has(swarm, peer, 0);
	run(swarm, 1);
	assert_true(only(MCI_SWARM_INTEREST, peer)->on);
	mci_swarm_peer_granted(swarm, peer, 3);
	run(swarm, 1);
	assert_int_equal(step_count, 3);
	assert_int_equal(steps[0].action, MCI_SWARM_FETCH);
	assert_int_equal(steps[1].action, MCI_SWARM_INTEREST);
	assert_false(steps[1].on);
	assert_int_equal(steps[2].action, MCI_SWARM_RETURN);
	assert_int_equal(steps[2].slots, 2);
	assert_true(mci_swarm_done(swarm, peer, 0, 2));
	run(swarm, 2);
	assert_int_equal(step_count, 1);
	assert_int_equal(only(MCI_SWARM_RETURN, peer)->slots, 1);
	mci_swarm_peer_has(swarm, peer, 1);
	run(swarm, 3);
	assert_int_equal(step_count, 1);
	assert_true(only(MCI_SWARM_INTEREST, peer)->on);
	mci_swarm_free(swarm);
}

static void test_a_slot_stays_while_there_is_something_to_fetch(void **state)
{
	struct mci_swarm *swarm = swarm_new(8, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);

	(void)state;
	has(swarm, peer, 0, 8);
	get(swarm, peer, 1, 2);
	run(swarm, 2);
	assert_int_equal(times(MCI_SWARM_FETCH, peer), 1); /* the next one, without a grant */
	assert_int_equal(times(MCI_SWARM_RETURN, peer), 0);
	mci_swarm_free(swarm);
}

static void test_a_seed_is_asked_only_for_what_seeds_alone_hold_and_nobody_fetches(void **state)
{
	struct mci_swarm *swarm = swarm_new(3, false, 1);
	struct mci_swarm_peer *seed = peer_new(swarm, true, 1), *peer = peer_new(swarm, false, 2);

	(void)state;
	has(swarm, seed, 0, 3);
	mci_swarm_peer_has(swarm, peer, 0);
	mci_swarm_peer_fetches(swarm, peer, 1, true);
	mci_swarm_peer_granted(swarm, seed, 3);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_FETCH, NULL)->piece, 2);
	assert_int_equal(only(MCI_SWARM_RETURN, seed)->slots, 2);
	mci_swarm_peer_fetches(swarm, peer, 1, false);
	run(swarm, 1);
	assert_true(only(MCI_SWARM_INTEREST, seed)->on);
	mci_swarm_free(swarm);
}

static void test_an_idle_member_asks_a_seed_for_anything(void **state)
{
	struct mci_swarm *swarm = swarm_new(3, false, 1);
	struct mci_swarm_peer *seed = peer_new(swarm, true, 1), *peer = peer_new(swarm, false, 2);

	(void)state;
	has(swarm, seed, 0, 3);
	has(swarm, peer, 0, 3);
	peer_new(swarm, false, 3);
	mci_swarm_peer_granted(swarm, seed, 3);
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, seed), 1); /* after one it is not idle */
	assert_int_equal(times(MCI_SWARM_ANNOUNCE, NULL), 0); /* others need not keep away from it */
	assert_int_equal(only(MCI_SWARM_RETURN, seed)->slots, 2);
	mci_swarm_free(swarm);
}

static void test_receivers_share_out_what_they_ask_of_the_seed(void **state)
{
	bool taken[64] = {false};

	(void)state;
	for (uint8_t id = 1; id <= 4; id++) {
		struct mci_swarm_attr attr = {
			.pieces = 64, .self = {.b = {id}}, .slots = 16, .window = 16, .random = 7};
		struct mci_swarm *swarm;
		struct mci_swarm_peer *seed;

		assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
		seed = peer_new(swarm, true, 9);
		for (uint8_t other = 1; other <= 4; other++)
			if (other != id)
				peer_new(swarm, false, other);
		has(swarm, seed, 0, 64);
		mci_swarm_peer_granted(swarm, seed, 1);
		for (int n = 0; n < 16; n++) { /* all of its share, and nothing else before that */
			uint32_t piece;

			run(swarm, 1);
			piece = only(MCI_SWARM_FETCH, seed)->piece;
			assert_false(taken[piece]);
			taken[piece] = true;
			assert_true(mci_swarm_done(swarm, seed, piece, 2));
			mci_swarm_have(swarm, piece);
		}
		assert_int_equal(mci_swarm_held(swarm), 16);
		mci_swarm_free(swarm);
	}
}

static void test_what_is_fetched_from_a_seed_is_announced_to_receivers_that_lack_it(void **state)
{
	struct mci_swarm *swarm = swarm_new(1, false, 1);
	struct mci_swarm_peer *seed = peer_new(swarm, true, 1), *one = peer_new(swarm, false, 2), *late;

	(void)state;
	peer_new(swarm, true, 4); /* a seed is not told, even before it said what it has */
	mci_swarm_peer_has(swarm, seed, 0);
	mci_swarm_peer_granted(swarm, seed, 1);
	run(swarm, 1);
	assert_true(only(MCI_SWARM_ANNOUNCE, NULL)->on);
	assert_ptr_equal(only(MCI_SWARM_ANNOUNCE, NULL)->peer, one);
	late = peer_new(swarm, false, 3);
	run(swarm, 1);
	assert_true(only(MCI_SWARM_ANNOUNCE, NULL)->on); /* who comes later learns it too */
	assert_ptr_equal(only(MCI_SWARM_ANNOUNCE, NULL)->peer, late);
	mci_swarm_peer_has(swarm, one, 0);
	mci_swarm_failed(swarm, seed, 0, 2, MCI_SWARM_ERROR);
	run(swarm, 2);
	assert_false(only(MCI_SWARM_ANNOUNCE, NULL)->on);
	assert_ptr_equal(only(MCI_SWARM_ANNOUNCE, NULL)->peer, late);
	mci_swarm_free(swarm);
}

static void test_a_piece_that_came_is_not_announced_as_ceased_unless_it_is_bad(void **state)
{
	struct mci_swarm *swarm = swarm_new(2, false, 1);
	struct mci_swarm_peer *seed = peer_new(swarm, true, 1), *one = peer_new(swarm, false, 2);
	uint32_t piece;

	(void)state;
	has(swarm, seed, 0, 2);
	get(swarm, seed, 1, 2);
	run(swarm, 2);
	piece = only(MCI_SWARM_FETCH, seed)->piece;
	assert_true(only(MCI_SWARM_ANNOUNCE, one)->on);
	assert_true(mci_swarm_done(swarm, seed, piece, 3));
	run(swarm, 3);
	assert_int_equal(times(MCI_SWARM_ANNOUNCE, one), 0);
	assert_false(mci_swarm_bad(swarm, seed, piece));
	run(swarm, 3);
	assert_false(only(MCI_SWARM_ANNOUNCE, one)->on);
	assert_int_equal(only(MCI_SWARM_ANNOUNCE, one)->piece, piece);
	mci_swarm_free(swarm);
}

static void test_what_a_lost_member_was_fetching_is_asked_of_the_seed_again(void **state)
{
	struct mci_swarm *swarm = swarm_new(2, false, 1);
	struct mci_swarm_peer *seed = peer_new(swarm, true, 1), *peer = peer_new(swarm, false, 2);

	(void)state;
	has(swarm, seed, 0, 2);
	mci_swarm_peer_fetches(swarm, peer, 0, true);
	mci_swarm_peer_granted(swarm, seed, 2);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_FETCH, seed)->piece, 1);
	mci_swarm_peer_remove(swarm, peer);
	run(swarm, 1);
	assert_true(only(MCI_SWARM_INTEREST, seed)->on);
	mci_swarm_peer_granted(swarm, seed, 1);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_FETCH, seed)->piece, 0);
	mci_swarm_free(swarm);
}

static void test_no_more_pieces_are_in_flight_than_the_window(void **state)
{
	struct mci_swarm_attr attr = {.pieces = 8, .slots = 8, .window = 2};
	struct mci_swarm *swarm;
	struct mci_swarm_peer *peer;

	(void)state;
	assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
	peer = peer_new(swarm, false, 1);
	has(swarm, peer, 0, 8);
	mci_swarm_peer_granted(swarm, peer, 5);
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 2);
	assert_int_equal(only(MCI_SWARM_RETURN, peer)->slots, 3);
	mci_swarm_free(swarm);
}

static void test_a_late_read_does_not_widen_the_window(void **state)
{
	struct mci_swarm_attr attr = {.pieces = 9, .slots = 8, .window = 1};
	struct mci_swarm *swarm;
	struct mci_swarm_peer *stuck, *other;

	(void)state;
	assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
	stuck = peer_new(swarm, false, 1);
	other = peer_new(swarm, false, 2);
	mci_swarm_peer_has(swarm, stuck, 1);
	mci_swarm_peer_granted(swarm, stuck, 1);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_FETCH, stuck)->piece, 1);
	mci_swarm_peer_has(swarm, other, 2);
	run(swarm, 6000 * MS); /* late now; the other one does not have it */
	mci_swarm_peer_granted(swarm, other, 1);
	run(swarm, 6000 * MS);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0);
	mci_swarm_peer_has(swarm, other, 1);
	run(swarm, 6000 * MS);
	assert_int_equal(only(MCI_SWARM_FETCH, other)->piece, 1);
	mci_swarm_free(swarm);
}

static void test_more_slots_than_a_fair_share_go_back(void **state)
{
	struct mci_swarm *swarm = swarm_new(100, false, 1);
	struct mci_swarm_peer *peers[7];

	(void)state;
	for (uint8_t i = 0; i < 7; i++) {
		peers[i] = peer_new(swarm, false, i);
		has(swarm, peers[i], 0, 50);
	}
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_INTEREST, NULL), 7);
	mci_swarm_peer_granted(swarm, peers[0], 3);
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, peers[0]), 3);
	assert_int_equal(times(MCI_SWARM_RETURN, NULL), 0);
	mci_swarm_peer_granted(swarm, peers[1], 4); /* 7 peers give 4 each, 8 members share that: 4 for us */
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, peers[1]), 1);
	assert_int_equal(only(MCI_SWARM_RETURN, peers[1])->slots, 3);
	assert_int_equal(times(MCI_SWARM_INTEREST, NULL), 7); /* enough: off everywhere */
	assert_int_equal(times(MCI_SWARM_RETURN, NULL), 1);
	mci_swarm_free(swarm);
}

static void test_a_piece_that_comes_twice_is_new_once(void **state)
{
	struct mci_swarm *swarm = swarm_new(2, false, 1);
	struct mci_swarm_peer *slow = peer_new(swarm, false, 1), *fast = peer_new(swarm, false, 2);

	(void)state;
	mci_swarm_peer_has(swarm, fast, 0);
	get(swarm, fast, 1, 1 + MS);
	run(swarm, 1 + MS);
	mci_swarm_peer_has(swarm, slow, 1);
	mci_swarm_peer_granted(swarm, slow, 1);
	run(swarm, 2 * MS);
	assert_int_equal(only(MCI_SWARM_FETCH, slow)->piece, 1);
	mci_swarm_peer_has(swarm, fast, 1);
	run(swarm, 2 * MS);
	assert_int_equal(times(MCI_SWARM_INTEREST, fast), 0);
	assert_in_range(mci_swarm_next_ns(swarm), 2 * MS, 60 * MS); /* the endgame: soon */
	run(swarm, 100 * MS);
	assert_true(only(MCI_SWARM_INTEREST, fast)->on);
	mci_swarm_peer_granted(swarm, fast, 2);
	run(swarm, 100 * MS);
	assert_int_equal(only(MCI_SWARM_FETCH, fast)->piece, 1); /* a second source, never a third read */
	assert_int_equal(times(MCI_SWARM_CANCEL, NULL), 0);
	assert_int_equal(mci_swarm_flights(swarm, 1), 2);
	assert_true(mci_swarm_done(swarm, fast, 1, 101 * MS));
	assert_int_equal(mci_swarm_flights(swarm, 1), 1);
	run(swarm, 101 * MS);
	assert_int_equal(only(MCI_SWARM_CANCEL, slow)->piece, 1);
	assert_false(mci_swarm_done(swarm, slow, 1, 102 * MS)); /* it was faster than its cancelling */
	assert_false(mci_swarm_done(swarm, slow, 1, 102 * MS)); /* and is not in flight any more */
	assert_int_equal(mci_swarm_flights(swarm, 1), 0);
	mci_swarm_have(swarm, 1);
	mci_swarm_have(swarm, 1);
	assert_int_equal(mci_swarm_held(swarm), 2);
	assert_true(mci_swarm_complete(swarm));
	mci_swarm_free(swarm);
}

static void test_a_stuck_source_is_replaced_in_the_midst(void **state)
{
	struct mci_swarm *swarm = swarm_new(9, false, 1);
	struct mci_swarm_peer *stuck = peer_new(swarm, false, 1), *other = peer_new(swarm, false, 2);

	(void)state;
	mci_swarm_peer_has(swarm, other, 0);
	get(swarm, other, 1, 1 + MS);
	run(swarm, 1 + MS);
	mci_swarm_peer_has(swarm, stuck, 1);
	mci_swarm_peer_granted(swarm, stuck, 1);
	run(swarm, 2 * MS);
	mci_swarm_peer_has(swarm, other, 1);
	run(swarm, 400 * MS);
	assert_int_equal(step_count, 0); /* others are wanted: not the endgame, so not before half a second */
	run(swarm, 503 * MS);
	assert_true(only(MCI_SWARM_INTEREST, other)->on);
	mci_swarm_peer_granted(swarm, other, 1);
	run(swarm, 503 * MS);
	assert_int_equal(only(MCI_SWARM_FETCH, other)->piece, 1);
	assert_int_equal(only(MCI_SWARM_CANCEL, stuck)->piece, 1);
	mci_swarm_failed(swarm, stuck, 1, 504 * MS, MCI_SWARM_CANCELLED);
	run(swarm, 504 * MS);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0); /* the second is still on its way */
	assert_true(mci_swarm_done(swarm, other, 1, 505 * MS));
	mci_swarm_free(swarm);
}

static void test_a_stuck_source_stays_where_there_is_no_other(void **state)
{
	struct mci_swarm *swarm = swarm_new(1, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, true, 1);

	(void)state;
	mci_swarm_peer_has(swarm, peer, 0);
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, 1);
	run(swarm, 3600000 * MS);
	assert_int_equal(step_count, 0);
	assert_true(mci_swarm_next_ns(swarm) == UINT64_MAX); /* and is not looked at again and again */
	mci_swarm_free(swarm);
}

static void test_after_an_error_a_source_rests(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);
	uint64_t rest;

	(void)state;
	has(swarm, peer, 0, 4);
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, MS);
	mci_swarm_failed(swarm, peer, only(MCI_SWARM_FETCH, peer)->piece, MS, MCI_SWARM_ERROR);
	run(swarm, MS);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0);
	assert_int_equal(only(MCI_SWARM_RETURN, peer)->slots, 1);
	rest = mci_swarm_next_ns(swarm);
	assert_true(rest == 101 * MS);
	run(swarm, rest - 1);
	assert_int_equal(step_count, 0);
	run(swarm, rest);
	assert_true(only(MCI_SWARM_INTEREST, peer)->on);
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, rest);
	mci_swarm_failed(swarm, peer, only(MCI_SWARM_FETCH, peer)->piece, rest, MCI_SWARM_ERROR);
	run(swarm, rest);
	assert_true(mci_swarm_next_ns(swarm) == rest + 200 * MS); /* twice as long */
	mci_swarm_free(swarm);
}

static void test_two_mismatches_and_a_source_is_avoided(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, false, 1);
	struct mci_swarm_peer *liar = peer_new(swarm, false, 1);
	uint32_t piece;

	(void)state;
	has(swarm, liar, 0, 4);
	mci_swarm_peer_granted(swarm, liar, 1);
	run(swarm, 1);
	piece = only(MCI_SWARM_FETCH, liar)->piece;
	assert_true(mci_swarm_done(swarm, liar, piece, 2));
	assert_false(mci_swarm_bad(swarm, liar, piece));
	assert_false(mci_swarm_peer_avoided(liar));
	run(swarm, 2);
	piece = only(MCI_SWARM_FETCH, liar)->piece;
	assert_true(mci_swarm_done(swarm, liar, piece, 3));
	assert_int_equal(mci_swarm_missing(swarm), 0);
	assert_true(mci_swarm_bad(swarm, liar, piece));
	assert_true(mci_swarm_peer_avoided(liar));
	assert_int_equal(mci_swarm_missing(swarm), 4);
	run(swarm, 3);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0);
	assert_int_equal(only(MCI_SWARM_RETURN, liar)->slots, 1);
	assert_false(mci_swarm_bad(swarm, NULL, piece)); /* the culprit is gone: nobody is blamed */
	mci_swarm_free(swarm);
}

static void test_who_leaves_is_not_asked_any_more(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);

	(void)state;
	has(swarm, peer, 0, 4);
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, 1);
	mci_swarm_peer_leaving(swarm, peer);
	assert_int_equal(mci_swarm_missing(swarm), 4);
	assert_true(
		mci_swarm_done(swarm, peer, only(MCI_SWARM_FETCH, peer)->piece, 2)); /* what runs may end */
	run(swarm, 2);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0);
	assert_int_equal(only(MCI_SWARM_RETURN, peer)->slots, 1);
	mci_swarm_free(swarm);
}

static void test_missing_counts_what_nobody_there_holds(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, false, 1);
	struct mci_swarm_peer *one, *two;

	(void)state;
	assert_int_equal(mci_swarm_missing(swarm), 4);
	mci_swarm_have(swarm, 0); /* found in the place */
	assert_int_equal(mci_swarm_missing(swarm), 3);
	one = peer_new(swarm, false, 1);
	two = peer_new(swarm, true, 2);
	has(swarm, one, 0, 2);
	has(swarm, two, 1, 3);
	has(swarm, two, 1, 3); /* said twice */
	assert_int_equal(mci_swarm_missing(swarm), 1);
	mci_swarm_peer_remove(swarm, two);
	assert_int_equal(mci_swarm_missing(swarm), 2);
	mci_swarm_peer_remove(swarm, one);
	assert_int_equal(mci_swarm_missing(swarm), 3);
	mci_swarm_free(swarm);
}

static void test_a_receiver_gives_back_what_is_asked_for_when_its_read_ends(void **state)
{
	struct mci_swarm *swarm = swarm_new(8, false, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);

	(void)state;
	has(swarm, peer, 0, 8);
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, 1);
	mci_swarm_peer_granted(swarm, peer, 0);
	mci_swarm_peer_granted(swarm, peer, 0); /* more than it has: once */
	run(swarm, 1);
	assert_int_equal(times(MCI_SWARM_RETURN, NULL), 0);
	assert_true(mci_swarm_done(swarm, peer, steps[0].piece, 2) || step_count == 0);
	for (uint32_t i = 0; i < 8; i++)
		mci_swarm_failed(swarm, peer, i, 2, MCI_SWARM_CANCELLED);
	run(swarm, 2);
	assert_int_equal(only(MCI_SWARM_RETURN, peer)->slots, 1);
	assert_int_equal(times(MCI_SWARM_FETCH, NULL), 0);
	assert_int_equal(times(MCI_SWARM_INTEREST, NULL), 0); /* it waits for its next turn */
	mci_swarm_peer_granted(swarm, peer, 1);
	run(swarm, 3);
	assert_int_equal(times(MCI_SWARM_FETCH, peer), 1);
	mci_swarm_free(swarm);
}

static void test_alone_or_among_seeds_there_is_nothing_to_do(void **state)
{
	struct mci_swarm *alone = swarm_new(4, false, 1), *seed = swarm_new(4, true, 1),
			 *empty = swarm_new(0, false, 1);
	struct mci_swarm_peer *other = peer_new(seed, true, 1);

	(void)state;
	run(alone, 1);
	assert_int_equal(step_count, 0);
	assert_true(mci_swarm_next_ns(alone) == UINT64_MAX);
	assert_true(mci_swarm_complete(seed));
	has(seed, other, 0, 4);
	run(seed, 1);
	assert_int_equal(step_count, 0);
	assert_int_equal(mci_swarm_missing(seed), 0);
	assert_true(mci_swarm_complete(empty));
	run(empty, 1);
	assert_int_equal(step_count, 0);
	mci_swarm_free(alone);
	mci_swarm_free(seed);
	mci_swarm_free(empty);
}

static void test_a_peer_removed_in_flight_frees_its_pieces(void **state)
{
	struct mci_swarm *swarm = swarm_new(1, false, 1);
	struct mci_swarm_peer *gone = peer_new(swarm, false, 1), *other = peer_new(swarm, false, 2);

	(void)state;
	mci_swarm_peer_has(swarm, gone, 0);
	mci_swarm_peer_granted(swarm, gone, 1);
	run(swarm, 1);
	mci_swarm_peer_has(swarm, other, 0);
	mci_swarm_failed(swarm, gone, 0, 2, MCI_SWARM_ERROR);
	mci_swarm_peer_remove(swarm, gone);
	run(swarm, 2);
	assert_true(only(MCI_SWARM_INTEREST, other)->on);
	mci_swarm_peer_granted(swarm, other, 1);
	run(swarm, 2);
	assert_int_equal(only(MCI_SWARM_FETCH, other)->piece, 0);
	mci_swarm_free(swarm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_rarest_piece_is_fetched_first),
		cmocka_unit_test(test_equally_rare_pieces_are_chosen_at_random_and_alike_for_one_start),
		cmocka_unit_test(test_a_peer_is_never_asked_for_what_it_did_not_announce),
		cmocka_unit_test(test_a_slot_without_use_goes_back_at_once_and_interest_ends_first),
		cmocka_unit_test(test_a_slot_stays_while_there_is_something_to_fetch),
		cmocka_unit_test(test_a_seed_is_asked_only_for_what_seeds_alone_hold_and_nobody_fetches),
		cmocka_unit_test(test_an_idle_member_asks_a_seed_for_anything),
		cmocka_unit_test(test_receivers_share_out_what_they_ask_of_the_seed),
		cmocka_unit_test(test_what_is_fetched_from_a_seed_is_announced_to_receivers_that_lack_it),
		cmocka_unit_test(test_a_piece_that_came_is_not_announced_as_ceased_unless_it_is_bad),
		cmocka_unit_test(test_what_a_lost_member_was_fetching_is_asked_of_the_seed_again),
		cmocka_unit_test(test_no_more_pieces_are_in_flight_than_the_window),
		cmocka_unit_test(test_a_late_read_does_not_widen_the_window),
		cmocka_unit_test(test_more_slots_than_a_fair_share_go_back),
		cmocka_unit_test(test_a_piece_that_comes_twice_is_new_once),
		cmocka_unit_test(test_a_stuck_source_is_replaced_in_the_midst),
		cmocka_unit_test(test_a_stuck_source_stays_where_there_is_no_other),
		cmocka_unit_test(test_after_an_error_a_source_rests),
		cmocka_unit_test(test_two_mismatches_and_a_source_is_avoided),
		cmocka_unit_test(test_who_leaves_is_not_asked_any_more),
		cmocka_unit_test(test_missing_counts_what_nobody_there_holds),
		cmocka_unit_test(test_a_receiver_gives_back_what_is_asked_for_when_its_read_ends),
		cmocka_unit_test(test_alone_or_among_seeds_there_is_nothing_to_do),
		cmocka_unit_test(test_a_peer_removed_in_flight_frees_its_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
