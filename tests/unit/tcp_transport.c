// SPDX-License-Identifier: MIT
/* The TCP transport between two engines of one process, on loopback: bytes, refusals, time, losses. */
#include "unit/tcp_host.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "unit/tcp_proxy.h"

#define MIB (1ull << 20)
#define S MCI_NS_PER_S
#define MS MCI_NS_PER_MS

struct pair {			/* an initiator, a target, a region there */
	struct fake *from, *to;
	struct proxy *proxy;
	uint8_t *local, *memory;
	uint64_t length;
	struct mci_region *region;
	struct mci_remote_region remote;
	struct mci_peer *peer;
};

static void pair_open(struct pair *p, uint64_t length, bool proxy, const struct mci_transport_options *options)
{
	memset(p, 0, sizeof(*p));
	p->length = length;
	p->from = fake_open(0, options);
	p->to = fake_open(0, NULL);
	p->local = fake_memory(length);
	p->memory = fake_memory(length);
	p->region = fake_region(p->to, p->memory, length, MC_REMOTE_READ | MC_REMOTE_WRITE);
	p->remote = fake_remote(p->region);
	if (proxy)
		p->proxy = proxy_open(mci_service_port(p->to->service));
	p->peer = fake_connect(p->from, p->to, proxy ? p->proxy->port : 0, &p->remote);
}

static void pair_close(struct pair *p)
{
	mci_transport_tcp.peer_close(p->peer);
	if (p->proxy)
		proxy_close(p->proxy);
	if (p->region)
		assert_int_equal(fake_unregister(p->to, p->region, S), 0);
	fake_close(p->from);
	fake_close(p->to);
	munmap(p->local, p->length);
	munmap(p->memory, p->length);
}

/* Under TSAN, checking each of these bytes would take most of the time. */
__attribute__((no_sanitize("thread"))) static void fill(uint8_t *p, uint64_t n, uint64_t seed)
{
	uint64_t i;

	for (i = 0; i + 8 <= n; i += 8) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(p + i, &seed, 8);
	}
	for (; i < n; i++)
		p[i] = (uint8_t)(seed >> (8 * (i & 7)));
}

static void nothing(struct mci_region *region, void *arg)
{
	(void)region;
	(void)arg;
}

/*
 * Both engines live in one process, and a socket between two threads orders nothing that TSAN sees. So
 * before requests are sent the target's table of regions is locked once, and behind them its uses of
 * the region are seen to have ended: that orders our accesses to the target's memory and its own.
 */
static void run(struct pair *p, struct job *jobs, unsigned int count, uint64_t timeout_ns)
{
	if (p->to)
		mci_regions_each(p->to->host.regions, nothing, NULL);
	jobs_submit(p->peer, jobs, count);
	assert_true(jobs_wait(jobs, count, timeout_ns));
	while (p->region && atomic_load(&p->region->users))
		sched_yield();
}

static void assert_done(const struct job *job)
{
	assert_int_equal(job->error, 0);
	assert_int_equal(job->state, MC_DONE);
	assert_int_equal(job->bytes, job->r.length);
}

/* One request; its errno. */
static int one(struct pair *p, enum mci_op op, uint64_t offset, uint64_t length, uint64_t timeout_ns)
{
	struct job job;

	job_set(&job, p->from, op, &p->remote, offset, p->local, length, timeout_ns);
	run(p, &job, 1, timeout_ns + 2 * S);
	return job.error;
}

static void wait_until(bool (*fn)(void *arg), void *arg)
{
	static const struct timespec step = { .tv_nsec = 1000000 };
	uint64_t end = mci_now_ns() + 10 * S;

	while (!fn(arg)) {
		assert_true(mci_now_ns() < end);
		nanosleep(&step, NULL);
	}
}

static void sizes_with(const struct mci_transport_options *options, uint64_t most)
{
	static const uint64_t sizes[] = { 1, 2, 79, 80, 81, 4095, 4096, 4097, 16383, 16384, 16385, 65536, 262143,
					  262144 + 1, 524288, 786431, 786432, MIB, 3 * MIB + 7, 16 * MIB, 64 * MIB };
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
	struct mci_transport_options options = { .streams = 1, .slice_size = 10007 };

	(void)state;
	sizes_with(&options, 16 * MIB);
}

static void test_checksums_do_the_same(void **state)
{
	struct mci_transport_options options = { .checksum = true };

	(void)state;
	sizes_with(&options, 16 * MIB);
}

static void test_integrity_does_the_same(void **state)
{
	struct mci_transport_options options = { .integrity = true };

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
	unsigned int done, stale, other;
};

static void *load_main(void *arg)
{
	struct load *load = arg;
	struct job jobs[8];
	unsigned int i;

	while (!load->stop) {
		for (i = 0; i < 8; i++)
			job_set(&jobs[i], load->p->from, MCI_OP_WRITE, &load->p->remote, i * MIB, load->p->local + i * MIB,
				MIB, 10 * S);
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

static void test_unregister_under_load_ends_and_nothing_is_written_behind_it(void **state)
{
	struct load load = { 0 };
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
	load.stop = true;
	pthread_join(thread, NULL);
	for (i = 0; i < p.length; i++)
		assert_int_equal(p.memory[i], 0);
	assert_true(load.done && load.stale);
	assert_int_equal(load.other, 0);
	pair_close(&p);
}

static bool region_is_used(void *arg)
{
	return atomic_load(&((struct mci_region *)arg)->users) > 0;
}

static void test_unregister_cuts_off_a_peer_that_stands_still(void **state)
{
	struct pair p;
	struct job job;
	uint64_t start;

	(void)state;
	pair_open(&p, 32 * MIB, true, NULL);
	job_set(&job, p.from, MCI_OP_WRITE, &p.remote, 0, p.local, p.length, 5 * S);
	pthread_mutex_lock(&p.proxy->lock);	/* the proxy passes something on, then stops in the middle */
	jobs_submit(p.peer, &job, 1);
	pthread_mutex_unlock(&p.proxy->lock);
	wait_until(region_is_used, p.region);
	proxy_deaf(p.proxy, true);
	proxy_hold(p.proxy, true, true);
	start = mci_now_ns();
	assert_int_equal(fake_unregister(p.to, p.region, S), 0);
	assert_true(mci_now_ns() - start < S + 500 * MS);
	p.region = NULL;
	assert_true(jobs_wait(&job, 1, 10 * S));
	assert_int_not_equal(job.state, MC_DONE);
	pair_close(&p);
}

static void test_a_silent_peer_makes_requests_time_out_and_hangs_nothing(void **state)
{
	struct job jobs[3];
	struct pair p;
	uint64_t start;

	(void)state;
	pair_open(&p, 64 * MIB, true, NULL);
	proxy_deaf(p.proxy, true);
	proxy_hold(p.proxy, true, true);
	start = mci_now_ns();
	job_set(&jobs[0], p.from, MCI_OP_WRITE, &p.remote, 0, p.local, 40 * MIB, 300 * MS);
	job_set(&jobs[1], p.from, MCI_OP_READ, &p.remote, 0, p.local + 40 * MIB, 4096, 500 * MS);
	job_set(&jobs[2], p.from, MCI_OP_WRITE, &p.remote, 50 * MIB, p.local + 50 * MIB, MIB, 20 * S);
	jobs[2].r.priority = 1;		/* goes out first, so that it is in flight */
	fill(p.local + 50 * MIB, MIB, 7);
	jobs_submit(p.peer, jobs, 3);
	assert_true(mci_now_ns() - start < 250 * MS);
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
	jobs_submit(p.peer, jobs, 2);
	for (i = 0; i < 2; i++) {
		start = mci_now_ns();
		atomic_store(&jobs[i].r.cancelled, true);
		mci_transport_tcp.cancel(p.peer, &jobs[i].r);
		assert_true(mci_now_ns() - start < 100 * MS);
	}
	assert_true(jobs_wait(jobs, 2, 2 * S));
	for (i = 0; i < 2; i++) {
		assert_int_equal(jobs[i].state, MC_CANCELLED);
		assert_int_equal(jobs[i].error, -ECANCELED);
		mci_transport_tcp.cancel(p.peer, &jobs[i].r);	/* too late: harmless */
	}
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, MIB, 5 * S), 0);
	pair_close(&p);
}

static void test_a_cut_connection_is_replaced_and_all_requests_are_done(void **state)
{
	struct job *jobs = calloc(64, sizeof(*jobs));
	static const struct timespec step = { .tv_nsec = 15000000 };
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
	struct mci_transport_options none = { 0 };
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

static bool holds_something(void *arg)
{
	return proxy_held(arg, true) >= MIB;
}

static bool holds_nothing(void *arg)
{
	return proxy_held(arg, true) == 0;
}

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

static int raw_connect(struct pair *p, const struct mci_tcp_params *params, struct mci_sock *sock)
{
	static const char *const hosts[] = { "127.0.0.1" };
	uint8_t encoded[MCI_TCP_PARAMS];
	struct mci_connect_attr attr = {
		.hosts = hosts, .host_count = 1, .port = mci_service_port(p->to->service), .self = &p->from->self,
		.secret = &p->to->host.secret, .wanted = &p->to->self.uuid, .service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_DATA, .params = encoded, .params_length = sizeof(encoded),
		.deadline_ns = mci_now_ns() + 5 * S,
	};
	struct mci_hello hello;

	mci_tcp_params_encode(params, encoded);
	return mci_connect(&attr, sock, &hello);
}

/* True if the target has closed this connection (or does within 5 s). */
static bool is_closed(struct mci_sock *sock)
{
	uint8_t byte;

	return mci_sock_recv_all(sock, &byte, 1, mci_now_ns() + 5 * S) == -ECONNRESET;
}

static void test_incarnations_only_ever_rise(void **state)
{
	struct mci_tcp_params params = { .incarnation = 5, .count = 2, .slots = 16, .slice_max = 65536 };
	struct mci_sock first, second, newer, late;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	mci_uuid_new(&params.session);
	assert_int_equal(raw_connect(&p, &params, &first), 0);	/* unknown there, and not its first */
	params.index = 1;
	assert_int_equal(raw_connect(&p, &params, &second), 0);
	params.incarnation = 7;
	assert_int_equal(raw_connect(&p, &params, &newer), 0);
	/* Both were closed before the new one was accepted. */
	assert_true(is_closed(&first));
	assert_true(is_closed(&second));
	params.incarnation = 6;
	assert_int_equal(raw_connect(&p, &params, &late), -ESTALE);
	mci_sock_close(&newer);
	/* And it is remembered when no connection is left. */
	params.incarnation = 5;
	assert_int_equal(raw_connect(&p, &params, &late), -ESTALE);
	mci_sock_close(&first);
	mci_sock_close(&second);
	pair_close(&p);
}

static void test_a_session_belongs_to_one_engine_and_has_a_bounded_number_of_streams(void **state)
{
	struct mci_tcp_params params = { .incarnation = 1, .count = 16, .slots = 16, .slice_max = 65536 };
	struct mci_sock socks[MCI_TCP_STREAMS_MAX], more;
	struct mci_identity self;
	struct pair p;
	unsigned int i;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	mci_uuid_new(&params.session);
	for (i = 0; i < MCI_TCP_STREAMS_MAX; i++) {
		params.index = (uint16_t)i;
		assert_int_equal(raw_connect(&p, &params, &socks[i]), 0);
	}
	assert_int_equal(raw_connect(&p, &params, &more), -EBUSY);
	self = p.from->self;
	mci_uuid_new(&p.from->self.uuid);
	params.incarnation = 9;
	assert_int_equal(raw_connect(&p, &params, &more), -EACCES);
	p.from->self = self;
	for (i = 0; i < MCI_TCP_STREAMS_MAX; i++)
		mci_sock_close(&socks[i]);
	pair_close(&p);
}

/* A connection of ours by hand, to send what no initiator of ours would. */
static struct mci_sock raw_open(struct pair *p, uint32_t slots)
{
	struct mci_tcp_params params = { .incarnation = 1, .count = 1, .slots = slots, .slice_max = 1 << 20 };
	struct mci_sock sock;

	mci_uuid_new(&params.session);
	assert_int_equal(raw_connect(p, &params, &sock), 0);
	return sock;
}

static struct mci_tcp_header raw_header(struct pair *p, enum mci_tcp_type type, uint64_t id, uint64_t length)
{
	return (struct mci_tcp_header){ .type = (uint8_t)type, .id = id, .target = p->to->self.uuid,
					.region = p->remote.id, .generation = p->remote.generation, .length = length };
}

static void raw_send(struct mci_sock *sock, const struct mci_tcp_header *h)
{
	uint8_t bytes[MCI_TCP_HEADER];

	mci_tcp_header_encode(h, bytes);
	assert_int_equal(mci_sock_send_all(sock, bytes, sizeof(bytes), mci_now_ns() + 5 * S), 0);
}

static struct mci_tcp_header raw_reply(struct mci_sock *sock)
{
	uint8_t bytes[MCI_TCP_HEADER];
	struct mci_tcp_header h;
	const char *why;

	assert_int_equal(mci_sock_recv_all(sock, bytes, sizeof(bytes), mci_now_ns() + 5 * S), 0);
	assert_int_equal(mci_tcp_header_decode(bytes, &h, &why), 0);
	return h;
}

static void test_frames_that_make_no_sense_end_their_connection_only(void **state)
{
	struct mci_tcp_header h;
	struct mci_sock sock;
	struct pair p;
	int i;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	for (i = 0; i < 5; i++) {
		sock = raw_open(&p, 16);
		h = raw_header(&p, MCI_TCP_READ, 1, 16);
		switch (i) {
		case 0:
			h.type = MCI_TCP_READ | MCI_TCP_REPLY;
			break;
		case 1:
			h.type = 77;
			break;
		case 2:
			h.extension = MCI_TCP_EXTENSION_MAX + 1;
			h.flags = MCI_TCP_EXTENSION_OPTIONAL;
			break;
		case 3:
			h.extension = 8;	/* not optional */
			break;
		case 4:
			h.length = MCI_TCP_SLICE_MAX + 1ull;
			break;
		}
		raw_send(&sock, &h);
		assert_true(is_closed(&sock));
		mci_sock_close(&sock);
	}
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, MIB, 5 * S), 0);
	assert_int_equal(p.from->host.stats.reconnects, 0);
	pair_close(&p);
}

static void test_optional_extensions_are_skipped(void **state)
{
	struct mci_tcp_header h, reply;
	uint8_t waste[3000] = { 0 };
	struct mci_sock sock;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	sock = raw_open(&p, 16);
	h = raw_header(&p, MCI_TCP_WRITE, 42, 5);
	h.extension = sizeof(waste);
	h.flags = MCI_TCP_EXTENSION_OPTIONAL;
	raw_send(&sock, &h);
	assert_int_equal(mci_sock_send_all(&sock, waste, sizeof(waste), mci_now_ns() + S), 0);
	assert_int_equal(mci_sock_send_all(&sock, "hello", 5, mci_now_ns() + S), 0);
	reply = raw_reply(&sock);
	assert_int_equal(reply.id, 42);
	assert_int_equal(reply.status, 0);
	assert_memory_equal(p.memory, "hello", 5);
	mci_sock_close(&sock);
	pair_close(&p);
}

static void test_a_reader_that_takes_no_answers_blocks_nobody_else(void **state)
{
	struct mci_tcp_header h;
	uint8_t bytes[MCI_TCP_HEADER];
	struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };
	struct mci_sock slow;
	uint64_t sent = 0, stop;
	struct pair p;

	(void)state;
	pair_open(&p, 16 * MIB, false, NULL);
	slow = raw_open(&p, 8);
	h = raw_header(&p, MCI_TCP_READ, 1, MIB);
	mci_tcp_header_encode(&h, bytes);
	/* Far more than its credits, until the target does not take them any more. */
	stop = mci_now_ns() + 500 * MS;
	while (mci_now_ns() < stop)
		if (mci_sock_sendv(&slow, &iov, 1) == sizeof(bytes))
			sent++;
	assert_true(sent > 1000);
	assert_true(p.to->host.stats.served_reads < 200);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, p.length, 10 * S), 0);
	assert_int_equal(one(&p, MCI_OP_READ, 0, p.length, 10 * S), 0);
	/* What it holds is taken from it in the end. */
	assert_int_equal(fake_unregister(p.to, p.region, 500 * MS), 0);
	p.region = NULL;
	mci_sock_close(&slow);
	pair_close(&p);
}

static void test_a_spoilt_payload_is_noticed_where_checksums_are_on(void **state)
{
	struct mci_transport_options options = { .checksum = true, .streams = 1 };
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

static uint32_t notify_encode(uint8_t *p, const char *name, const char *message)
{
	struct mci_writer w;

	mci_writer_init(&w, p, 256);
	mci_write16(&w, (uint16_t)strlen(name));
	mci_write_bytes(&w, name, strlen(name));
	mci_write32(&w, (uint32_t)strlen(message));
	mci_write_bytes(&w, message, strlen(message));
	return (uint32_t)w.used;
}

static bool holds_answer(void *arg)
{
	return proxy_held(arg, false) > 0;
}

static void repeat_notify(int result, int expected)
{
	uint8_t body[256], other[256];
	struct job job, next;
	struct pair p;

	pair_open(&p, MIB, true, NULL);
	p.to->notify_result = result;
	job_set(&job, p.from, MCI_OP_NOTIFY, NULL, 0, body, notify_encode(body, "name", "once"), 10 * S);
	proxy_hold(p.proxy, false, true);
	jobs_submit(p.peer, &job, 1);
	/* It was delivered, and the answer is on its way: now the connection breaks. */
	wait_until(holds_answer, p.proxy);
	assert_int_equal(p.to->notifies, 1);
	assert_int_equal(job.state, MC_PENDING);
	p.to->notify_result = 0;
	proxy_cut(p.proxy);
	assert_true(jobs_wait(&job, 1, 12 * S));
	assert_int_equal(job.error, expected);
	assert_true(p.from->host.stats.resent >= 1);
	assert_int_equal(p.to->notifies, 1);
	job_set(&next, p.from, MCI_OP_NOTIFY, NULL, 0, other, notify_encode(other, "name", "twice"), 10 * S);
	run(&p, &next, 1, 12 * S);
	assert_done(&next);
	assert_int_equal(p.to->notifies, 2);
	assert_string_equal(p.to->last_notify, "twice");
	pair_close(&p);
}

static void test_a_notify_that_is_sent_again_is_delivered_once(void **state)
{
	(void)state;
	repeat_notify(0, 0);
}

static void test_a_refused_notify_stays_refused_when_it_is_sent_again(void **state)
{
	(void)state;
	repeat_notify(-ENOBUFS, -ENOBUFS);
}

static void test_malformed_notifies_are_refused(void **state)
{
	uint8_t body[16] = { 200, 0, 'x' };
	struct job job;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	job_set(&job, p.from, MCI_OP_NOTIFY, NULL, 0, body, 3, 5 * S);
	run(&p, &job, 1, 6 * S);
	assert_int_equal(job.error, -EINVAL);
	assert_int_equal(p.to->notifies, 0);
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
	assert_true(mci_now_ns() - start < 1300 * MS);
	assert_int_equal(mci_transport_tcp.fence(p.peer, mci_now_ns() + 5 * S), 0);
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
	assert_int_equal(mci_transport_tcp.peer_open(p.from->transport, &info, p.from, NULL, 0, mci_now_ns() + S, &peer),
			 -EOPNOTSUPP);
	info = fake_info(p.to, 0);
	mci_uuid_new(&info.uuid);
	assert_int_equal(mci_transport_tcp.peer_open(p.from->transport, &info, p.from, NULL, 0, mci_now_ns() + S, &peer),
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
		cmocka_unit_test(test_a_silent_peer_makes_requests_time_out_and_hangs_nothing),
		cmocka_unit_test(test_cancel_ends_what_waits_and_what_is_in_flight),
		cmocka_unit_test(test_a_cut_connection_is_replaced_and_all_requests_are_done),
		cmocka_unit_test(test_a_target_that_is_gone_fails_requests_fast),
		cmocka_unit_test(test_a_target_that_comes_back_with_its_memory_is_followed),
		cmocka_unit_test(test_an_old_write_never_lands_after_a_newer_one),
		cmocka_unit_test(test_nor_after_one_of_the_next_handle),
		cmocka_unit_test(test_without_the_fence_the_old_write_does_land),
		cmocka_unit_test(test_incarnations_only_ever_rise),
		cmocka_unit_test(test_a_session_belongs_to_one_engine_and_has_a_bounded_number_of_streams),
		cmocka_unit_test(test_frames_that_make_no_sense_end_their_connection_only),
		cmocka_unit_test(test_optional_extensions_are_skipped),
		cmocka_unit_test(test_a_reader_that_takes_no_answers_blocks_nobody_else),
		cmocka_unit_test(test_a_spoilt_payload_is_noticed_where_checksums_are_on),
		cmocka_unit_test(test_a_notify_that_is_sent_again_is_delivered_once),
		cmocka_unit_test(test_a_refused_notify_stays_refused_when_it_is_sent_again),
		cmocka_unit_test(test_malformed_notifies_are_refused),
		cmocka_unit_test(test_a_fence_comes_back_and_has_a_deadline),
		cmocka_unit_test(test_a_peer_without_our_tcp_is_left_to_other_transports),
	};

	if (argc > 1)		/* a pattern, to run some of them */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
