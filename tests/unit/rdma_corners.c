// SPDX-License-Identifier: MIT
/*
 * Corners of the rdma transport that load alone does not reach: what nobody polls for, what stands in others' way,
 * NICs that do not let go, and classic peers whose queue pairs fail.
 */
#include "unit/rdma_env.h"

static int two_nics(void **state)
{
	static struct pair fresh = {.transport = "rdma", .memory = "malloc"}, pair;

	pair = fresh;
	*state = &pair;
	tap_install();
	pair_setup(&pair);
	return 0;
}

/* ---- NICs that do not let go ---- */

/* One of two has let go already: the region is of no use any more, and its memory is not free either (contracts I1). */
static void test_a_region_that_a_nic_keeps_is_out_of_use_until_it_lets_go(void **state)
{
	struct pair *p = *state;

	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	tap.release_budget = 1;
	assert_int_equal(mc_engine_unregister(p->local_region, 0), -EIO);
	assert_non_null(strstr(mc_errmsg(), "does not let go"));
	assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 4096), -EFAULT);
	assert_int_equal(mc_engine_unregister(p->local_region, MC_UNREGISTER_WAIT), -EIO);
	tap.release_budget = -1;
	must(mc_engine_unregister(p->local_region, 0));
	must(mc_engine_register(p->initiator, p->local, PAIR_BYTES, NULL, &p->local_region));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
}

/* ---- classic ---- */

static int classic_up(void **state)
{
	static struct pair fresh = {.transport = "rdma-classic",
				    .memory = "malloc",
				    .flags = MC_ENGINE_CLASSIC,
				    .initiator_nics = "rxe0",
				    .target_nics = "rxe1"},
			   pair;

	pair = fresh;
	*state = &pair;
	tap_install();
	pair_setup(&pair);
	return 0;
}

/* A classic peer confirms by accepting other queue pairs; there is no connection whose end could be missed. */
static void test_a_classic_fence_ends_after_queue_pairs_failed(void **state)
{
	struct pair *p = *state;

	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	tap_spoil_all(false, "rxe0");
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	must(mc_segment_fence(p->segment, 10000));
}

#define nics_test(f)                             \
	{                                        \
#f, f, two_nics, pair_down, NULL \
	}
#define classic_test(f)                            \
	{                                          \
#f, f, classic_up, pair_down, NULL \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		nics_test(test_a_region_that_a_nic_keeps_is_out_of_use_until_it_lets_go),
		classic_test(test_a_classic_fence_ends_after_queue_pairs_failed),
	};

	return run_on_a_device(tests, argc, argv);
}
