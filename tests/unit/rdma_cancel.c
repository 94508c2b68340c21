// SPDX-License-Identifier: MIT
/*
 * What becomes of cancelled requests while the lock of their peer is held by somebody who sends, or finds out that the
 * path is lost or the time is over: over soft-RoCE that takes seconds on a slow machine. The NIC in software, or any.
 */
#include "unit/rdma_env.h"

#include "engine/batch.h"

#define REQUESTS 64u
#define BYTES (64u << 10)

struct scene {
	struct pair *pair;
	struct mci_rdma_peer *peer;
	mc_batch *batch;
	pthread_t canceller;
	struct mci_request *finals;
};

static void *cancel(void *batch)
{
	return (void *)(intptr_t)mc_batch_cancel(batch);
}

/* With the lock held: no pair of NICs may be picked, or all. */
static void exclude(struct mci_rdma_peer *peer, bool excluded)
{
	unsigned int i;

	for (i = 0; i < peer->rail_count; i++)
		peer->rail[i].excluded = excluded;
}

/* All requests wait in the queue, their owner cancels them, and we hold the lock that this needs. */
static void begin(struct scene *s, struct pair *p, uint32_t timeout_ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	uint64_t end = mci_now_ns() + 10 * MCI_NS_PER_S;
	unsigned int i;

	*s = (struct scene){.pair = p, .peer = rdma_of(p->initiator)->peers};
	assert_non_null(s->peer);
	attr.timeout_ms = timeout_ms;
	fill(p->local, REQUESTS * BYTES, 1);
	must(mc_batch_alloc(p->initiator, REQUESTS, &s->batch));
	for (i = 0; i < REQUESTS; i++)
		must(mc_batch_add(s->batch, MC_WRITE, p->local + i * BYTES, p->segment, at(p, i * BYTES), BYTES));
	pthread_mutex_lock(&s->peer->lock);
	exclude(s->peer, true);
	pthread_mutex_unlock(&s->peer->lock);
	must(mc_batch_submit(s->batch, &attr));
	pthread_mutex_lock(&s->peer->lock);
	assert_int_equal(pthread_create(&s->canceller, NULL, cancel, s->batch), 0);
	while (!atomic_load(&s->batch->entry[REQUESTS - 1].request.cancelled) && mci_now_ns() < end)
		pause_ms(1);
	if (atomic_load(&s->batch->entry[REQUESTS - 1].request.cancelled))
		return;
	exclude(s->peer, false);
	pthread_mutex_unlock(&s->peer->lock);
	pthread_join(s->canceller, NULL);
	must(mc_batch_wait(s->batch, -1));
	must(mc_batch_free(s->batch));
	fail_msg("whoever cancels waited for the lock before the last request was marked");
}

/* The lock goes to others: every request ends as cancelled, and nothing was written. */
static void end_cancelled(struct scene *s)
{
	struct mc_engine_stats stats = {.size = sizeof(stats)};
	struct mc_status status;
	unsigned int i;
	void *ret;

	exclude(s->peer, false);
	pthread_mutex_unlock(&s->peer->lock);
	mci_rdma_finals_tell(s->peer, s->finals);
	assert_int_equal(pthread_join(s->canceller, &ret), 0);
	assert_null(ret);
	must(mc_batch_wait(s->batch, -1));
	for (i = 0; i < REQUESTS; i++) {
		must(mc_batch_status(s->batch, i, &status));
		if (status.state != MC_CANCELLED || status.error != -ECANCELED)
			fail_msg("request %u: state %d, error %d", i, status.state, status.error);
	}
	must(mc_batch_free(s->batch));
	must(mc_engine_stats(s->pair->initiator, &stats));
	assert_int_equal(stats.requests_cancelled, REQUESTS);
	assert_int_equal(stats.requests_failed + stats.requests_timed_out + stats.requests_stale, 0);
	for (i = 0; i < REQUESTS * BYTES; i++)
		assert_int_equal(s->pair->remote[i], 0xa5);
	must(mc_segment_fence(s->pair->segment, 5000));
	assert_done(move(s->pair, MC_WRITE, s->pair->local, at(s->pair, 0), BYTES));
	assert_memory_equal(s->pair->remote, s->pair->local, BYTES);
}

static void test_nothing_of_a_cancelled_request_is_sent_any_more(void **state)
{
	struct scene s;
	uint64_t posted;

	begin(&s, *state, 600000);
	exclude(s.peer, false);
	posted = atomic_load(&s.peer->rdma->posted);
	mci_rdma_pump(s.peer, &s.finals);
	assert_int_equal(atomic_load(&s.peer->rdma->posted), posted);
	end_cancelled(&s);
}

static void test_a_path_that_is_lost_meanwhile_makes_no_failure_of_it(void **state)
{
	struct scene s;

	begin(&s, *state, 600000);
	mci_rdma_fail_waiting(s.peer, -ECONNREFUSED, false, &s.finals);
	end_cancelled(&s);
}

static void test_memory_that_goes_stale_meanwhile_makes_no_failure_of_it(void **state)
{
	struct scene s;

	begin(&s, *state, 600000);
	atomic_store(&s.peer->regions[0].stale, true);
	exclude(s.peer, false);
	mci_rdma_pump(s.peer, &s.finals);
	mci_rdma_fail_waiting(s.peer, -ESTALE, true, &s.finals);
	atomic_store(&s.peer->regions[0].stale, false);
	end_cancelled(&s);
}

static void test_a_deadline_that_passes_meanwhile_makes_no_time_out_of_it(void **state)
{
	struct mci_request *r, *next;
	struct scene s;

	begin(&s, *state, 600000);
	for (r = s.peer->queue[1].first; r; r = next) {
		next = r->next;
		mci_rdma_request_end(s.peer, r, MC_TIMED_OUT, -ETIMEDOUT, &s.finals);
	}
	end_cancelled(&s);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		pair_test(test_nothing_of_a_cancelled_request_is_sent_any_more),
		pair_test(test_a_path_that_is_lost_meanwhile_makes_no_failure_of_it),
		pair_test(test_memory_that_goes_stale_meanwhile_makes_no_failure_of_it),
		pair_test(test_a_deadline_that_passes_meanwhile_makes_no_time_out_of_it),
	};

	return run_on_a_device(tests, argc, argv);
}
