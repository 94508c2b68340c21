// SPDX-License-Identifier: MIT
/* The TCP transport between two engines of one process, on loopback: bytes, refusals, unregistering. */
#include "unit/tcp_pair.h"

static void sizes_with(const struct mci_transport_options *options, uint64_t most)
{
	static const uint64_t sizes[] = {1,	 2,	 79,	 80,	81,	     4095,     4096,
					 4097,	 16383,	 16384,	 16385, 65536,	     262143,   262144 + 1,
					 524288, 786431, 786432, MIB,	3 * MIB + 7, 16 * MIB, 64 * MIB};
	struct pair p;
	unsigned int i;

	pair_open(&p, most, false, options);
	fill(p.local, p.length, 1);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && sizes[i] <= most; i++) {
		uint64_t n = sizes[i], at = p.length - n < 5 ? 0 : 5;

		memset(p.memory, 0, p.length);
		assert_int_equal(one(&p, MCI_OP_WRITE, at, n, 20 * S), 0);
		assert_memory_equal(p.memory + at, p.local, n);
		if (at)
			assert_int_equal(p.memory[at - 1], 0);
		if (at + n < p.length)
			assert_int_equal(p.memory[at + n], 0);
		fill(p.memory + at, n, i + 2);
		assert_int_equal(one(&p, MCI_OP_READ, at, n, 20 * S), 0);
		assert_memory_equal(p.memory + at, p.local, n);
		fill(p.local, n, 1);
	}
	assert_int_equal(p.from->host.stats.reconnects, 0);
	assert_int_equal(p.to->host.stats.refused, 0);
	pair_close(&p);
}

static void test_writes_and_reads_of_all_sizes_move_exactly_their_bytes(void **state)
{
	(void)state;
	sizes_with(NULL, 64 * MIB);
}

static void test_one_stream_and_odd_slices_do_the_same(void **state)
{
	struct mci_transport_options options = {.streams = 1, .slice_size = 10007};

	(void)state;
	sizes_with(&options, 16 * MIB);
}

static void test_checksums_do_the_same(void **state)
{
	struct mci_transport_options options = {.checksum = true};

	(void)state;
	sizes_with(&options, 16 * MIB);
}

static void test_integrity_does_the_same(void **state)
{
	struct mci_transport_options options = {.integrity = true};

	(void)state;
	sizes_with(&options, 16 * MIB);
}

#define MANY 4000
static void test_many_requests_in_flight_each_land_in_their_place(void **state)
{
	struct job *jobs = calloc(MANY, sizeof(*jobs));
	struct pair p;
	unsigned int i, round;
	uint64_t at = 0;

	(void)state;
	pair_open(&p, 32 * MIB, false, NULL);
	fill(p.local, p.length, 3);
	for (i = 0; i < MANY; i++) {
		uint64_t n = 1 + (i * 7919u) % 8000;

		if (i % 100 == 0)
			n = 50000;
		job_set(&jobs[i], p.from, MCI_OP_WRITE, &p.remote, at, p.local + at, n, 20 * S);
		jobs[i].r.priority = (int8_t)(i % 3 == 0);
		at += n;
	}
	assert_true(at <= p.length);
	run(&p, jobs, MANY, 25 * S);
	for (i = 0; i < MANY; i++)
		assert_done(&jobs[i]);
	assert_memory_equal(p.memory, p.local, at);
	/* And back again, in several submits at once. */
	memset(p.local, 0, p.length);
	for (at = 0, i = 0; i < MANY; i++) {
		uint64_t n = jobs[i].r.length;

		job_set(&jobs[i], p.from, MCI_OP_READ, &p.remote, at, p.local + at, n, 20 * S);
		at += n;
	}
	for (round = 0; round < MANY; round += 100)
		jobs_submit(p.peer, jobs + round, 100);
	assert_true(jobs_wait(jobs, MANY, 25 * S));
	for (i = 0; i < MANY; i++)
		assert_done(&jobs[i]);
	assert_memory_equal(p.memory, p.local, at);
	assert_int_equal(p.to->host.stats.served_writes, MANY);
	assert_int_equal(p.to->host.stats.served_bytes_read, at);
	assert_int_equal(p.from->host.stats.allocs, 0);
	assert_int_equal(p.to->host.stats.allocs, 0);
	pair_close(&p);
	free(jobs);
}

static void test_what_is_not_allowed_is_refused_with_its_errno_and_touches_nothing(void **state)
{
	struct mc_uuid uuid;
	uint8_t *before;
	struct pair p;

	(void)state;
	pair_open(&p, 4 * MIB, false, NULL);
	before = malloc(p.length);
	fill(p.memory, p.length, 4);
	memcpy(before, p.memory, p.length);
	fill(p.local, p.length, 5);

	p.remote.generation++;
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100, 5 * S), -ESTALE);
	assert_int_equal(one(&p, MCI_OP_READ, 0, MIB, 5 * S), -ESTALE);
	p.remote.generation--;
	p.remote.id += 1;
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 3 * MIB, 5 * S), -ESTALE);
	p.remote.id -= 1;
	assert_int_equal(one(&p, MCI_OP_WRITE, p.length - 99, 100, 5 * S), -EFAULT);
	assert_int_equal(one(&p, MCI_OP_WRITE, UINT64_MAX - 50, 100, 5 * S), -EFAULT);
	assert_int_equal(one(&p, MCI_OP_READ, p.length, 1, 5 * S), -EFAULT);
	p.region->rights = MC_REMOTE_READ;
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100, 5 * S), -EACCES);
	p.region->rights = MC_REMOTE_WRITE;
	assert_int_equal(one(&p, MCI_OP_READ, 0, 100, 5 * S), -EACCES);
	p.region->rights = MC_REMOTE_READ | MC_REMOTE_WRITE;
	uuid = p.to->self.uuid;
	mci_uuid_new(&p.to->self.uuid);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100, 5 * S), -ESTALE);
	p.to->self.uuid = uuid;
	assert_memory_equal(p.memory, before, p.length);
	/* 3 MiB are more than one slice: each is refused. */
	assert_true(p.to->host.stats.refused >= 9);
	assert_int_equal(p.from->host.stats.reconnects, 0);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, p.length, 5 * S), 0);
	assert_memory_equal(p.memory, p.local, p.length);
	free(before);
	pair_close(&p);
}

static void test_requests_to_a_stale_region_are_not_sent(void **state)
{
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	atomic_store(&p.remote.stale, true);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100, 5 * S), -ESTALE);
	assert_int_equal(p.to->host.stats.refused, 0);
	atomic_store(&p.remote.stale, false);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100, 5 * S), 0);
	pair_close(&p);
}

struct load {
	struct pair *p;
	_Atomic bool stop;
	unsigned int done, other;
	_Atomic unsigned int stale;
};

static void *load_main(void *arg)
{
	struct load *load = arg;
	struct job jobs[8];
	unsigned int i;

	while (!load->stop) {
		for (i = 0; i < 8; i++)
			job_set(&jobs[i], load->p->from, MCI_OP_WRITE, &load->p->remote, i * MIB,
				load->p->local + i * MIB, MIB, 10 * S);
		jobs_submit(load->p->peer, jobs, 8);
		if (!jobs_wait(jobs, 8, 15 * S))
			abort();
		for (i = 0; i < 8; i++) {
			load->done += jobs[i].state == MC_DONE;
			load->stale += jobs[i].error == -ESTALE;
			load->other += jobs[i].state != MC_DONE && jobs[i].error != -ESTALE;
		}
	}
	return NULL;
}

static bool has_served(void *arg)
{
	struct pair *p = arg;

	return atomic_load(&p->to->host.stats.served_writes) > 50;
}

static bool has_met_stale(void *arg) { return atomic_load(&((struct load *)arg)->stale) > 0; }

static void test_unregister_under_load_ends_and_nothing_is_written_behind_it(void **state)
{
	struct load load = {0};
	pthread_t thread;
	struct pair p;
	uint64_t i;

	(void)state;
	pair_open(&p, 8 * MIB, false, NULL);
	fill(p.local, p.length, 6);
	load.p = &p;
	pthread_create(&thread, NULL, load_main, &load);
	wait_until(has_served, &p);
	assert_int_equal(fake_unregister(p.to, p.region, 5 * S), 0);
	p.region = NULL;
	memset(p.memory, 0, p.length);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, MIB, 5 * S), -ESTALE);
	wait_until(has_met_stale, &load);
	load.stop = true;
	pthread_join(thread, NULL);
	for (i = 0; i < p.length; i++)
		assert_int_equal(p.memory[i], 0);
	assert_true(load.done && load.stale);
	assert_int_equal(load.other, 0);
	pair_close(&p);
}

static bool region_is_used(void *arg) { return atomic_load(&((struct mci_region *)arg)->users) > 0; }

static void test_unregister_cuts_off_a_peer_that_stands_still(void **state)
{
	struct pair p;
	struct job job;
	uint64_t start;

	(void)state;
	pair_open(&p, 32 * MIB, true, NULL);
	job_set(&job, p.from, MCI_OP_WRITE, &p.remote, 0, p.local, p.length, 60 * S);
	pthread_mutex_lock(&p.proxy->lock); /* the proxy passes something on, then stops in the middle */
	jobs_submit(p.peer, &job, 1);
	pthread_mutex_unlock(&p.proxy->lock);
	wait_until(region_is_used, p.region);
	proxy_deaf(p.proxy, true);
	proxy_hold(p.proxy, true, true);
	start = mci_now_ns();
	assert_int_equal(fake_unregister(p.to, p.region, S), 0);
	assert_true(mci_now_ns() - start < 20 * S);
	p.region = NULL;
	assert_true(jobs_wait(&job, 1, 10 * S));
	assert_int_not_equal(job.state, MC_DONE);
	pair_close(&p);
}

static void test_a_spoilt_payload_is_noticed_where_checksums_are_on(void **state)
{
	struct mci_transport_options options = {.checksum = true, .streams = 1};
	struct pair p;

	(void)state;
	pair_open(&p, MIB, true, &options);
	fill(p.local, p.length, 10);
	pthread_mutex_lock(&p.proxy->lock);
	p.proxy->spoil_at = MCI_TCP_HEADER + 1000;
	pthread_mutex_unlock(&p.proxy->lock);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100000, 5 * S), -EBADMSG);
	assert_int_equal(p.to->host.stats.refused, 1);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, 100000, 5 * S), 0);
	assert_memory_equal(p.memory, p.local, 100000);
	pair_close(&p);
}

static void test_a_peer_without_our_tcp_is_left_to_other_transports(void **state)
{
	struct mci_peer *peer;
	struct mci_peer_info info;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	info = fake_info(p.to, 0);
	json_decref((json_t *)info.transport);
	info.transport = NULL;
	assert_int_equal(mci_transport_tcp.peer_open(p.from->transport, &info, p.from, NULL, 0,
						     mci_now_ns() + S, &peer),
			 -EOPNOTSUPP);
	info = fake_info(p.to, 0);
	mci_uuid_new(&info.uuid);
	assert_int_equal(mci_transport_tcp.peer_open(p.from->transport, &info, p.from, NULL, 0,
						     mci_now_ns() + S, &peer),
			 -ESTALE);
	json_decref((json_t *)info.transport);
	pair_close(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_writes_and_reads_of_all_sizes_move_exactly_their_bytes),
		cmocka_unit_test(test_one_stream_and_odd_slices_do_the_same),
		cmocka_unit_test(test_checksums_do_the_same),
		cmocka_unit_test(test_integrity_does_the_same),
		cmocka_unit_test(test_many_requests_in_flight_each_land_in_their_place),
		cmocka_unit_test(test_what_is_not_allowed_is_refused_with_its_errno_and_touches_nothing),
		cmocka_unit_test(test_requests_to_a_stale_region_are_not_sent),
		cmocka_unit_test(test_unregister_under_load_ends_and_nothing_is_written_behind_it),
		cmocka_unit_test(test_unregister_cuts_off_a_peer_that_stands_still),
		cmocka_unit_test(test_a_spoilt_payload_is_noticed_where_checksums_are_on),
		cmocka_unit_test(test_a_peer_without_our_tcp_is_left_to_other_transports),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
