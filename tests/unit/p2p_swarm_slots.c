// SPDX-License-Identifier: MIT
/* The swarm as a source: who gets slots, how many, how long. */
#include "unit/p2p_swarm.h"

static void test_slots_are_bounded_and_fairly_given(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, true, 1);
	struct mci_swarm_peer *peers[20];

	(void)state;
	for (uint8_t i = 0; i < 20; i++) {
		peers[i] = peer_new(swarm, false, i);
		mci_swarm_peer_interested(swarm, peers[i], true);
	}
	run(swarm, 1);
	assert_int_equal(mci_swarm_given(swarm), 8);
	assert_int_equal(times(MCI_SWARM_GRANT, NULL), 8);
	for (int i = 0; i < 20; i++)
		assert_in_range(times(MCI_SWARM_GRANT, peers[i]), 0, 1);
	for (int i = 0; i < 20; i++)
		mci_swarm_peer_remove(swarm, peers[i]);
	assert_int_equal(mci_swarm_given(swarm), 0);
	mci_swarm_free(swarm);
}

static void test_few_receivers_get_several_slots_but_one_alone_not_all(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, true, 1);
	struct mci_swarm_peer *one = peer_new(swarm, false, 1), *two = peer_new(swarm, false, 2);

	(void)state;
	mci_swarm_peer_interested(swarm, one, true);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_GRANT, one)->slots, 4);
	mci_swarm_peer_interested(swarm, two, true);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_GRANT, two)->slots, 4); /* without waiting for the first */
	mci_swarm_free(swarm);
}

static void test_half_the_slots_until_everything_is_held(void **state)
{
	struct mci_swarm *swarm = swarm_new(1, false, 1);
	struct mci_swarm_peer *peers[8];

	(void)state;
	for (uint8_t i = 0; i < 8; i++) {
		peers[i] = peer_new(swarm, false, i);
		mci_swarm_peer_interested(swarm, peers[i], true);
	}
	run(swarm, 1);
	assert_int_equal(mci_swarm_given(swarm), 4);
	mci_swarm_have(swarm, 0);
	run(swarm, 1);
	assert_int_equal(mci_swarm_given(swarm), 8);
	mci_swarm_free(swarm);
}

static void test_a_slot_is_asked_back_for_one_who_waits(void **state)
{
	struct mci_swarm_attr attr = {.pieces = 1, .slots = 1, .window = 1, .seed = true};
	struct mci_swarm *swarm;
	struct mci_swarm_peer *first, *second;

	(void)state;
	assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
	first = peer_new(swarm, false, 1);
	second = peer_new(swarm, false, 2);
	mci_swarm_peer_interested(swarm, first, true);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_GRANT, first)->slots, 1);
	run(swarm, 3600000 * MS); /* nobody waits: it stays */
	assert_int_equal(step_count, 0);
	mci_swarm_peer_interested(swarm, second, true);
	run(swarm, 3600000 * MS);
	assert_int_equal(only(MCI_SWARM_GRANT, first)->slots, 0);
	run(swarm, 3700000 * MS);
	assert_int_equal(step_count, 0); /* asked once */
	assert_int_equal(mci_swarm_peer_returned(swarm, first, 1), 0);
	run(swarm, 3700000 * MS);
	assert_int_equal(only(MCI_SWARM_GRANT, second)->slots, 1);
	assert_int_equal(times(MCI_SWARM_GRANT, first), 0);
	assert_true(mci_swarm_next_ns(swarm) == 3700500 * MS); /* its turn is half a second */
	run(swarm, 3700499 * MS);
	assert_int_equal(step_count, 0);
	run(swarm, 3700500 * MS);
	assert_int_equal(only(MCI_SWARM_GRANT, second)->slots, 0);
	mci_swarm_free(swarm);
}

static void test_no_more_slots_are_asked_back_than_are_waited_for(void **state)
{
	struct mci_swarm_attr attr = {.pieces = 1, .slots = 4, .window = 1, .seed = true};
	struct mci_swarm *swarm;
	struct mci_swarm_peer *rich[2], *poor;

	(void)state;
	assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
	for (uint8_t i = 0; i < 2; i++) {
		rich[i] = peer_new(swarm, false, i);
		mci_swarm_peer_interested(swarm, rich[i], true);
	}
	run(swarm, 1);
	assert_int_equal(mci_swarm_given(swarm), 4);
	poor = peer_new(swarm, false, 2);
	mci_swarm_peer_interested(swarm, poor, true);
	run(swarm, 2); /* at once, as both have two more than it has; but from one */
	assert_int_equal(only(MCI_SWARM_GRANT, NULL)->slots, 0);
	assert_ptr_not_equal(only(MCI_SWARM_GRANT, NULL)->peer, poor);
	mci_swarm_free(swarm);
}

static void test_of_equals_the_one_that_fell_behind_is_served(void **state)
{
	(void)state;
	for (uint64_t random = 0; random < 16; random++) {
		struct mci_swarm_attr attr = {
			.pieces = 4, .slots = 1, .window = 1, .seed = true, .random = random};
		struct mci_swarm *swarm;
		struct mci_swarm_peer *peers[2];

		assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
		for (uint8_t i = 0; i < 2; i++) {
			peers[i] = peer_new(swarm, false, i);
			mci_swarm_peer_interested(swarm, peers[i], true);
		}
		has(swarm, peers[random % 2], 0, 3);
		has(swarm, peers[!(random % 2)], 0, 2);
		run(swarm, 1);
		assert_ptr_equal(only(MCI_SWARM_GRANT, NULL)->peer, peers[!(random % 2)]);
		mci_swarm_free(swarm);
	}
}

static void test_who_gives_back_more_than_it_has_breaks_the_protocol(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, true, 1);
	struct mci_swarm_peer *peer = peer_new(swarm, false, 1);

	(void)state;
	mci_swarm_peer_interested(swarm, peer, true);
	run(swarm, 1);
	assert_int_equal(mci_swarm_peer_returned(swarm, peer, 5), -EPROTO);
	assert_int_equal(mci_swarm_given(swarm), 4);
	assert_int_equal(mci_swarm_peer_returned(swarm, peer, 4), 0);
	assert_int_equal(mci_swarm_given(swarm), 0);
	mci_swarm_free(swarm);
}

static void test_the_slots_of_a_lost_member_go_to_the_next(void **state)
{
	struct mci_swarm_attr attr = {.pieces = 1, .slots = 1, .window = 1, .seed = true};
	struct mci_swarm *swarm;
	struct mci_swarm_peer *first, *second;

	(void)state;
	assert_int_equal(mci_swarm_new(&attr, &swarm), 0);
	first = peer_new(swarm, false, 1);
	second = peer_new(swarm, false, 2);
	mci_swarm_peer_interested(swarm, first, true);
	run(swarm, 1);
	mci_swarm_peer_interested(swarm, second, true);
	mci_swarm_peer_remove(swarm, first);
	run(swarm, 1);
	assert_int_equal(only(MCI_SWARM_GRANT, second)->slots, 1);
	mci_swarm_free(swarm);
}

static void test_who_drains_gives_no_slot(void **state)
{
	struct mci_swarm *swarm = swarm_new(4, true, 1);
	struct mci_swarm_peer *one = peer_new(swarm, false, 1), *two = peer_new(swarm, false, 2);

	(void)state;
	mci_swarm_peer_interested(swarm, one, true);
	run(swarm, 1);
	mci_swarm_drain(swarm);
	mci_swarm_peer_interested(swarm, two, true);
	assert_int_equal(mci_swarm_peer_returned(swarm, one, 3), 0);
	run(swarm, 1);
	assert_int_equal(step_count, 0);
	assert_int_equal(mci_swarm_given(swarm), 1);
	mci_swarm_free(swarm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slots_are_bounded_and_fairly_given),
		cmocka_unit_test(test_few_receivers_get_several_slots_but_one_alone_not_all),
		cmocka_unit_test(test_half_the_slots_until_everything_is_held),
		cmocka_unit_test(test_a_slot_is_asked_back_for_one_who_waits),
		cmocka_unit_test(test_no_more_slots_are_asked_back_than_are_waited_for),
		cmocka_unit_test(test_of_equals_the_one_that_fell_behind_is_served),
		cmocka_unit_test(test_who_gives_back_more_than_it_has_breaks_the_protocol),
		cmocka_unit_test(test_the_slots_of_a_lost_member_go_to_the_next),
		cmocka_unit_test(test_who_drains_gives_no_slot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
