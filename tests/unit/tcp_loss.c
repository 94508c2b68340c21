// SPDX-License-Identifier: MIT
/* The TCP transport when connections and peers stand still, break or are gone; old writes; fences. */
#include "unit/tcp_pair.h"

static void test_a_silent_peer_makes_requests_time_out_and_hangs_nothing(void **state)
{
	struct job jobs[3];
	struct pair p;

	(void)state;
	pair_open(&p, 64 * MIB, true, NULL);
	proxy_deaf(p.proxy, true);
	proxy_hold(p.proxy, true, true);
	job_set(&jobs[0], p.from, MCI_OP_WRITE, &p.remote, 0, p.local, 40 * MIB, 300 * MS);
	job_set(&jobs[1], p.from, MCI_OP_READ, &p.remote, 0, p.local + 40 * MIB, 4096, 500 * MS);
	job_set(&jobs[2], p.from, MCI_OP_WRITE, &p.remote, 50 * MIB, p.local + 50 * MIB, MIB, 20 * S);
	jobs[2].r.priority = 1; /* goes out first, so that it is in flight */
	fill(p.local + 50 * MIB, MIB, 7);
	jobs_submit(p.peer, jobs, 3);
	assert_true(jobs_wait(jobs, 1, 2 * S));
	assert_int_equal(jobs[0].state, MC_TIMED_OUT);
	assert_int_equal(jobs[0].error, -ETIMEDOUT);
	assert_true(jobs[0].ended_ns >= jobs[0].r.deadline_ns);
	assert_true(jobs[0].ended_ns < jobs[0].r.deadline_ns + S);
	/* The bystanders go on over the new incarnation, which the proxy lets pass. */
	assert_true(jobs_wait(jobs, 3, 10 * S));
	assert_done(&jobs[2]);
	assert_memory_equal(p.memory + 50 * MIB, p.local + 50 * MIB, MIB);
	assert_true(jobs[1].state == MC_DONE || jobs[1].state == MC_TIMED_OUT);
	assert_true(p.from->host.stats.reconnects >= 1);
	assert_true(p.from->host.stats.resent >= 1);
	pair_close(&p);
}

static void test_cancel_ends_what_waits_and_what_is_in_flight(void **state)
{
	struct job jobs[2];
	struct pair p;
	uint64_t start;
	int i;

	(void)state;
	pair_open(&p, 64 * MIB, true, NULL);
	proxy_deaf(p.proxy, true);
	proxy_hold(p.proxy, true, true);
	job_set(&jobs[0], p.from, MCI_OP_READ, &p.remote, 0, p.local, 60 * MIB, 20 * S);
	job_set(&jobs[1], p.from, MCI_OP_READ, &p.remote, 0, p.local, 4096, 20 * S);
	/* The small one is sent by submit() itself; the large one may still wait for its loop. */
	start = mci_now_ns();
	jobs_submit(p.peer, &jobs[1], 1);
	jobs_submit(p.peer, &jobs[0], 1);
	assert_true(mci_now_ns() - start < 10 * S); /* neither waits for room */
	for (i = 0; i < 2; i++) {
		start = mci_now_ns();
		atomic_store(&jobs[i].r.cancelled, true);
		mci_transport_tcp.cancel(p.peer, &jobs[i].r);
		assert_true(mci_now_ns() - start < 10 * S);
	}
	assert_true(jobs_wait(jobs, 2, 2 * S));
	for (i = 0; i < 2; i++) {
		assert_int_equal(jobs[i].state, MC_CANCELLED);
		assert_int_equal(jobs[i].error, -ECANCELED);
		mci_transport_tcp.cancel(p.peer, &jobs[i].r); /* too late: harmless */
	}
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, MIB, 5 * S), 0);
	pair_close(&p);
}

static void test_a_cut_connection_is_replaced_and_all_requests_are_done(void **state)
{
	struct job *jobs = calloc(64, sizeof(*jobs));
	static const struct timespec step = {.tv_nsec = 15000000};
	struct pair p;
	unsigned int i;

	(void)state;
	pair_open(&p, 64 * MIB, true, NULL);
	fill(p.local, p.length, 8);
	for (i = 0; i < 64; i++)
		job_set(&jobs[i], p.from, MCI_OP_WRITE, &p.remote, i * MIB, p.local + i * MIB, MIB, 30 * S);
	jobs_submit(p.peer, jobs, 64);
	for (i = 0; i < 5; i++) {
		nanosleep(&step, NULL);
		proxy_cut(p.proxy);
	}
	assert_true(jobs_wait(jobs, 64, 35 * S));
	for (i = 0; i < 64; i++)
		assert_done(&jobs[i]);
	assert_memory_equal(p.memory, p.local, p.length);
	free(jobs);
	pair_close(&p);
}

static void test_a_target_that_is_gone_fails_requests_fast(void **state)
{
	struct pair p;
	struct job jobs[2];
	uint16_t port;
	uint64_t start = mci_now_ns();

	(void)state;
	pair_open(&p, 16 * MIB, false, NULL);
	port = mci_service_port(p.to->service);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, MIB, 5 * S), 0);
	assert_int_equal(fake_unregister(p.to, p.region, S), 0);
	p.region = NULL;
	fake_close(p.to);
	p.to = NULL;
	job_set(&jobs[0], p.from, MCI_OP_WRITE, &p.remote, 0, p.local, MIB, 30 * S);
	run(&p, jobs, 1, 10 * S);
	assert_int_equal(jobs[0].state, MC_FAILED);
	assert_int_equal(jobs[0].error, -ECONNREFUSED);
	assert_true(mci_now_ns() - start < 5 * S);
	assert_true(p.from->refreshes > 0);

	/* Somebody else has the address now, and the metadata says that the memory is gone. */
	p.to = fake_open(port, NULL);
	p.from->refresh_error = -ESTALE;
	job_set(&jobs[1], p.from, MCI_OP_WRITE, &p.remote, 0, p.local, MIB, 30 * S);
	run(&p, jobs + 1, 1, 10 * S);
	assert_int_equal(jobs[1].error, -ESTALE);
	pair_close(&p);
}

static void test_a_target_that_comes_back_with_its_memory_is_followed(void **state)
{
	struct mci_transport_options none = {0};
	struct mc_uuid uuid;
	struct pair p;
	struct job job;
	uint16_t port;

	(void)state;
	pair_open(&p, 16 * MIB, false, NULL);
	port = mci_service_port(p.to->service);
	uuid = p.to->self.uuid;
	assert_int_equal(fake_unregister(p.to, p.region, S), 0);
	fake_close(p.to);
	fill(p.local, p.length, 9);
	job_set(&job, p.from, MCI_OP_WRITE, &p.remote, 0, p.local, p.length, 30 * S);
	jobs_submit(p.peer, &job, 1);
	p.to = fake_open(port, &none);
	p.to->self.uuid = uuid;
	p.region = fake_region(p.to, p.memory, p.length, 3);
	mci_service_identity(p.to->service, &p.to->self);
	assert_true(jobs_wait(&job, 1, 20 * S));
	assert_done(&job);
	assert_memory_equal(p.memory, p.local, p.length);
	pair_close(&p);
}

static bool holds_something(void *arg) { return proxy_held(arg, true) >= MIB; }

static bool holds_nothing(void *arg) { return proxy_held(arg, true) == 0; }

/*
 * The heart of contracts B1: an old write is on its way (the proxy has it), the initiator gives up, goes
 * on over a new incarnation (@reopen: of a new handle) and writes the same place; then the old bytes are
 * released. True: they landed.
 */
static bool old_write_lands(bool reopen)
{
	struct job old, new;
	bool landed;
	struct pair p;
	int i;

	pair_open(&p, 2 * MIB, true, NULL);
	proxy_hold(p.proxy, true, false);
	memset(p.local, 0x01, MIB);
	memset(p.local + MIB, 0x02, MIB);
	job_set(&old, p.from, MCI_OP_WRITE, &p.remote, 0, p.local, MIB, 300 * MS);
	jobs_submit(p.peer, &old, 1);
	wait_until(holds_something, p.proxy);
	assert_true(jobs_wait(&old, 1, 3 * S));
	assert_int_equal(old.state, MC_TIMED_OUT);
	if (reopen) {
		mci_transport_tcp.peer_close(p.peer);
		p.peer = fake_connect(p.from, p.to, p.proxy->port, &p.remote);
	}
	job_set(&new, p.from, MCI_OP_WRITE, &p.remote, 0, p.local + MIB, MIB, 10 * S);
	run(&p, &new, 1, 12 * S);
	assert_done(&new);
	assert_int_equal(p.memory[0], 0x02);
	proxy_hold(p.proxy, false, false);
	wait_until(holds_nothing, p.proxy);
	/* What was released is stored, if it is, before later requests on whatever connection are. */
	for (i = 0; i < 50 && p.memory[0] == 0x02; i++)
		assert_int_equal(one(&p, MCI_OP_WRITE, MIB, MIB, 5 * S), 0);
	landed = memchr(p.memory, 0x01, MIB);
	pair_close(&p);
	return landed;
}

static void test_an_old_write_never_lands_after_a_newer_one(void **state)
{
	(void)state;
	assert_false(old_write_lands(false));
}

static void test_nor_after_one_of_the_next_handle(void **state)
{
	(void)state;
	assert_false(old_write_lands(true));
}

static void test_without_the_fence_the_old_write_does_land(void **state)
{
	bool landed;

	(void)state;
	atomic_store(&mci_tcp_fence_off, true);
	landed = old_write_lands(false) && old_write_lands(true);
	atomic_store(&mci_tcp_fence_off, false);
	assert_true(landed);
}

static void refuse(struct proxy *proxy, bool on)
{
	pthread_mutex_lock(&proxy->lock);
	proxy->refuse = on;
	pthread_mutex_unlock(&proxy->lock);
}

static void test_short_requests_now_and_then_reach_a_peer_that_comes_back_after_long(void **state)
{
	static const struct timespec gap = {.tv_sec = 1, .tv_nsec = 300000000};
	unsigned int i;
	struct pair p;
	int ret = -1;

	(void)state;
	pair_open(&p, MIB, true, NULL);
	refuse(p.proxy, true);
	proxy_cut(p.proxy);
	for (i = 0; i < 10; i++) /* the pauses between attempts grow to a second */
		assert_int_equal(one(&p, MCI_OP_WRITE, 0, 4096, 300 * MS), -ETIMEDOUT);
	refuse(p.proxy, false);
	for (i = 0; i < 4 && ret; i++) {
		nanosleep(&gap, NULL);
		ret = one(&p, MCI_OP_WRITE, 0, 4096, 300 * MS);
	}
	assert_int_equal(ret, 0);
	pair_close(&p);
}

static void test_a_fence_comes_back_and_has_a_deadline(void **state)
{
	struct pair p;
	uint64_t start;

	(void)state;
	pair_open(&p, MIB, true, NULL);
	assert_int_equal(mci_transport_tcp.fence(p.peer, mci_now_ns() + 5 * S), 0);
	proxy_cut(p.proxy);
	assert_int_equal(mci_transport_tcp.fence(p.peer, mci_now_ns() + 5 * S), 0);
	proxy_hold(p.proxy, true, true);
	start = mci_now_ns();
	assert_int_equal(mci_transport_tcp.fence(p.peer, start + 300 * MS), -ETIMEDOUT);
	assert_true(mci_now_ns() - start < 10 * S);
	assert_int_equal(mci_transport_tcp.fence(p.peer, mci_now_ns() + 5 * S), 0);
	pair_close(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_silent_peer_makes_requests_time_out_and_hangs_nothing),
		cmocka_unit_test(test_cancel_ends_what_waits_and_what_is_in_flight),
		cmocka_unit_test(test_a_cut_connection_is_replaced_and_all_requests_are_done),
		cmocka_unit_test(test_a_target_that_is_gone_fails_requests_fast),
		cmocka_unit_test(test_a_target_that_comes_back_with_its_memory_is_followed),
		cmocka_unit_test(test_an_old_write_never_lands_after_a_newer_one),
		cmocka_unit_test(test_nor_after_one_of_the_next_handle),
		cmocka_unit_test(test_without_the_fence_the_old_write_does_land),
		cmocka_unit_test(test_short_requests_now_and_then_reach_a_peer_that_comes_back_after_long),
		cmocka_unit_test(test_a_fence_comes_back_and_has_a_deadline),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
