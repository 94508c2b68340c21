// SPDX-License-Identifier: MIT
/*
 * Contracts B1, B2 over RDMA: a write that the network holds back finds no queue pair once its request was
 * sent anew or has ended. Two rails, one of them with much delay (tests/vm/rdma_late.sh makes
 * them and sets SLOW_WIRE).
 */
#include "unit/rdma_env.h"

#define BYTES (1u << 20)
#define PIECES 16u
#define HELD_MS 1500 /* by the slow wire */

static int set_up(void **state)
{
	static struct pair fresh = {.transport = "rdma",
				    .memory = "malloc",
				    .initiator_nics = "rxe0,rxe2",
				    .target_nics = "rxe1,rxe3"},
			   pair;

	pair = fresh;
	*state = &pair;
	tap_install();
	pair_setup(&pair);
	return 0;
}

static unsigned int rails_up(struct pair *p)
{
	struct mci_rdma_peer *peer = rdma_of(p->initiator)->peers;
	struct mci_rdma_endpoint *e;
	unsigned int n = 0;

	pthread_mutex_lock(&peer->lock);
	for (e = peer->endpoints; e; e = e->next)
		n += e->state == MCI_RDMA_UP;
	pthread_mutex_unlock(&peer->lock);
	return n;
}

static mc_batch *write_all(struct pair *p, uint64_t seed, uint32_t timeout_ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	uint32_t n = BYTES / PIECES, i;
	mc_batch *batch;

	attr.timeout_ms = timeout_ms;
	fill(p->local, BYTES, seed);
	must(mc_batch_alloc(p->initiator, PIECES, &batch));
	for (i = 0; i < PIECES; i++)
		must(mc_batch_add(batch, MC_WRITE, p->local + i * n, p->segment, at(p, i * n), n));
	must(mc_batch_submit(batch, &attr));
	return batch;
}

/* Waits for the end of all; how many were done. */
static unsigned int ended(mc_batch *batch)
{
	struct mc_status status;
	unsigned int i, done = 0;

	must(mc_batch_wait(batch, 20000));
	for (i = 0; i < PIECES; i++) {
		must(mc_batch_status(batch, i, &status));
		done += status.state == MC_DONE;
	}
	must(mc_batch_free(batch));
	return done;
}

/* What has come over the slow wire so far, and is held back. */
static unsigned long arrived(void)
{
	FILE *file = fopen("/sys/class/net/v1/statistics/rx_packets", "re");
	unsigned long n = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu", &n), 1);
	fclose(file);
	return n;
}

/* Old data is held back on the slow rail; new data goes over the other. Is it still there a second later? */
static bool new_data_stays(struct pair *p, bool fence, bool by_deadline)
{
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	unsigned long before;
	mc_batch *old;

	while (rails_up(p) < 2) {
		assert_true(mci_now_ns() < end);
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
		pause_ms(20);
	}
	rdma_of(p->initiator)->hooks.no_fence = !fence;
	before = arrived();
	old = write_all(p, 1, by_deadline ? HELD_MS / 2 : 20000);
	while (arrived() < before + 32) {
		assert_true(mci_now_ns() < end);
		pause_ms(5);
	}
	if (by_deadline) {
		assert_true(ended(old) < PIECES);
	} else {
		tap_spoil_all(false, "rxe0"); /* the slow one */
		assert_int_equal(ended(old), PIECES);
	}
	assert_int_equal(ended(write_all(p, 2, 20000)), PIECES);
	assert_memory_equal(p->local, p->remote, BYTES);
	pause_ms(HELD_MS);
	rdma_of(p->initiator)->hooks.no_fence = false;
	return !memcmp(p->local, p->remote, BYTES);
}

static void test_what_is_sent_anew_is_not_overtaken_by_its_first_try(void **state)
{
	assert_true(new_data_stays(*state, true, false));
}

static void test_a_timed_out_write_does_not_land_after_the_next(void **state)
{
	assert_true(new_data_stays(*state, true, true));
}

/* The proof that the two above can fail: nobody asks the peer to let go of his queue pairs. */
static void test_without_the_fence_old_data_lands_late(void **state)
{
	if (!getenv("PROOF")) {
		print_message("skipped: new data has to be written while old data is held; runs with PROOF=yes\n");
		skip();
	}
	assert_false(new_data_stays(*state, false, false));
}

#define late_test(f)                           \
	{                                      \
#f, f, set_up, pair_down, NULL \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		late_test(test_what_is_sent_anew_is_not_overtaken_by_its_first_try),
		late_test(test_a_timed_out_write_does_not_land_after_the_next),
		late_test(test_without_the_fence_old_data_lands_late),
	};

	if (!getenv("SLOW_WIRE")) {
		printf("wants two wires, one of them slow; runs in a guest (tests/vm/rdma_late.sh)\n");
		return 77;
	}
	return run_on_a_device(tests, argc, argv);
}
