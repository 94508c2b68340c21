// SPDX-License-Identifier: MIT
/*
 * Corners of the rdma transport that load alone does not reach: what nobody polls for, what stands in others' way,
 * NICs that do not let go, and classic peers whose queue pairs fail.
 */
#include "unit/rdma_env.h"

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

#define classic_test(f)                            \
	{                                          \
#f, f, classic_up, pair_down, NULL \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		classic_test(test_a_classic_fence_ends_after_queue_pairs_failed),
	};

	return run_on_a_device(tests, argc, argv);
}
