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

/* ---- completions that nobody polls for ---- */

#define READS 1500u
#define READ_BYTES 64u

static int many_queue_pairs(void **state)
{
	int ret;

	setenv("MOONCAKE_RDMA_QPS", "8", 1);
	ret = pair_up(state);
	unsetenv("MOONCAKE_RDMA_QPS");
	return ret;
}

struct pause {
	struct mci_task task;
	pthread_mutex_t lock;
};

static void until_unlocked(struct mci_task *task)
{
	struct pause *pause = (struct pause *)task;

	pthread_mutex_lock(&pause->lock);
	pthread_mutex_unlock(&pause->lock);
}

/* One wake-up for more than one look takes: what is left then raises no other. */
static void test_all_completions_are_taken_though_one_event_tells_of_them(void **state)
{
	struct pair *p = *state;
	struct mci_nic *nic = rdma_of(p->initiator)->device[0];
	struct pause pause = {.task.fn = until_unlocked, .lock = PTHREAD_MUTEX_INITIALIZER};
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	struct mc_status status;
	mc_batch *batch[READS];
	unsigned int i;

	fill(p->remote, READS * READ_BYTES, 1);
	pthread_mutex_lock(&pause.lock);
	mci_loop_post(nic->loop, &pause.task);
	for (i = 0; i < READS; i++) {
		must(mc_batch_alloc(p->initiator, 1, &batch[i]));
		must(mc_batch_add(batch[i], MC_READ, p->local + i * READ_BYTES, p->segment, at(p, i * READ_BYTES),
				  READ_BYTES));
		must(mc_batch_submit(batch[i], NULL));
	}
	while (memcmp(p->local, p->remote, READS * READ_BYTES)) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
	pthread_mutex_unlock(&pause.lock);
	for (i = 0; i < READS; i++) {
		for (;;) { /* a look, without help */
			must(mc_batch_status(batch[i], 0, &status));
			if (status.state != MC_PENDING)
				break;
			assert_true(mci_now_ns() < end);
			pause_ms(1);
		}
		assert_done(status);
		must(mc_batch_wait(batch[i], -1));
		must(mc_batch_free(batch[i]));
	}
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
		cmocka_unit_test_setup_teardown(test_all_completions_are_taken_though_one_event_tells_of_them,
						many_queue_pairs, pair_down),
		nics_test(test_a_region_that_a_nic_keeps_is_out_of_use_until_it_lets_go),
		classic_test(test_a_classic_fence_ends_after_queue_pairs_failed),
	};

	return run_on_a_device(tests, argc, argv);
}
