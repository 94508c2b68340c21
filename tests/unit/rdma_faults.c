// SPDX-License-Identifier: MIT
/*
 * The rdma transport against faults of queue pairs, keys, limits and processes, on a real device: soft-RoCE
 * in a guest (tests/vm/rdma_faults.sh). With an argument: that test alone.
 */
#include "unit/rdma_env.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* ---- queue pairs that fail under load ---- */

struct writer {
	struct pair *pair;
	unsigned int index, rounds;
	_Atomic bool *stop;
	unsigned int failed, wrong, late;
	struct mc_status first; /* of those that failed */
};
#define WRITERS 2u
#define SPAN (PAIR_BYTES / WRITERS)
#define PIECES 16u

static void *keep_writing(void *arg)
{
	struct writer *w = arg;
	uint8_t *mine = w->pair->local + w->index * SPAN, *theirs = w->pair->remote + w->index * SPAN;
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	size_t n = SPAN / PIECES;
	struct mc_status status;
	mc_batch *batch;
	unsigned int i;

	attr.timeout_ms = 60000;
	if (mc_batch_alloc(w->pair->initiator, PIECES, &batch))
		return NULL;
	for (; !atomic_load(w->stop); w->rounds++) {
		/* What was written by the round before, nothing older came over it meanwhile. */
		w->late += w->rounds && memcmp(mine, theirs, SPAN);
		fill(mine, SPAN, w->index * 1000000 + w->rounds);
		for (i = 0; i < PIECES; i++)
			mc_batch_add(batch, MC_WRITE, mine + i * n, w->pair->segment,
				     (struct mc_remote){.offset = w->index * SPAN + i * n}, n);
		w->failed += mc_batch_submit(batch, &attr) || mc_batch_wait(batch, -1);
		for (i = 0; i < PIECES; i++) {
			if (!mc_batch_status(batch, i, &status) && status.state == MC_DONE)
				continue;
			if (!w->failed++)
				w->first = status;
		}
		w->wrong += !!memcmp(mine, theirs, SPAN);
		mc_batch_reset(batch);
	}
	mc_batch_free(batch);
	return NULL;
}

static void test_requests_survive_queue_pairs_that_fail(void **state)
{
	unsigned int wanted = effort("SPOILS", 10), i;
	struct mc_engine_stats stats = {.size = sizeof(stats)};
	struct pair *p = *state;
	struct writer writer[WRITERS];
	pthread_t thread[WRITERS];
	_Atomic bool stop = false;

	tap.spoiled = 0;
	for (i = 0; i < WRITERS; i++) {
		writer[i] = (struct writer){.pair = p, .index = i, .stop = &stop};
		assert_int_equal(pthread_create(&thread[i], NULL, keep_writing, &writer[i]), 0);
	}
	for (i = 0; tap.spoiled < wanted && i < 10 * wanted; i++) {
		pause_ms(120);
		tap_spoil(tap.spoiled & 1, tap.spoiled);
	}
	atomic_store(&stop, true);
	for (i = 0; i < WRITERS; i++)
		pthread_join(thread[i], NULL);
	for (i = 0; i < WRITERS; i++) {
		if (writer[i].failed)
			fail_msg("%u failed, the first with state %d error %d", writer[i].failed,
				 writer[i].first.state, writer[i].first.error);
		assert_int_equal(writer[i].wrong, 0);
		assert_int_equal(writer[i].late, 0);
		assert_true(writer[i].rounds > 0);
	}
	assert_int_equal(tap.spoiled, wanted);
	must(mc_engine_stats(p->initiator, &stats));
	assert_true(stats.resent_requests > 0);
	print_message("%u queue pairs failed, %llu slices went anew\n", tap.spoiled,
		      (unsigned long long)stats.resent_requests);
}

/* A queue pair that failed while nothing was under way is noticed by what comes next. */
static void test_a_queue_pair_that_fails_idle_costs_nothing(void **state)
{
	struct pair *p = *state;
	unsigned int side;

	for (side = 0; side < 2; side++) {
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
		assert_true(tap_spoil(side, 0));
		fill(p->local, 4096, side + 7);
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
		assert_memory_equal(p->local, p->remote, 4096);
		assert_done(move(p, MC_READ, p->local + 4096, at(p, 0), 4096));
		assert_memory_equal(p->local, p->local + 4096, 4096);
	}
}

/* ---- limits ---- */

static void test_a_registration_that_fails_says_why_and_leaves_nothing(void **state)
{
	struct pair *p = *state;
	unsigned int before = tap.regions;
	mc_region *region = NULL;
	uint8_t *memory;

	memory = mmap(NULL, PAIR_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	rdma_of(p->initiator)->hooks.max_mr = 1 << 20;
	tap.region_budget = 3; /* of eight pieces */
	assert_int_equal(mc_engine_register(p->initiator, memory, PAIR_BYTES, NULL, &region), -ENOMEM);
	tap.region_budget = -1;
	assert_null(region);
	assert_non_null(strstr(mc_errmsg(), "rxe0"));
	assert_non_null(strstr(mc_errmsg(), "ulimit -l"));
	assert_int_equal(tap.regions, before);
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 1 << 20));
	/* In pieces, it is one region all the same. */
	must(mc_engine_register(p->initiator, memory, PAIR_BYTES, NULL, &region));
	assert_int_equal(tap.regions, before + 8);
	fill(memory, PAIR_BYTES, 5);
	assert_done(move(p, MC_WRITE, memory + 1000, at(p, 2000), PAIR_BYTES - 5000));
	assert_memory_equal(memory + 1000, p->remote + 2000, PAIR_BYTES - 5000);
	must(mc_engine_unregister(region, MC_UNREGISTER_WAIT));
	assert_int_equal(tap.regions, before);
	rdma_of(p->initiator)->hooks.max_mr = 1024;
	assert_int_equal(mc_engine_register(p->initiator, memory, PAIR_BYTES, NULL, &region), -EFBIG);
	rdma_of(p->initiator)->hooks.max_mr = 0;
	munmap(memory, PAIR_BYTES);
}

static void test_a_device_without_queue_pairs_says_so(void **state)
{
	struct pair *p = *state;
	mc_segment *segment = NULL;

	must(mc_segment_close(p->segment));
	p->segment = NULL;
	tap.no_qp = true;
	assert_int_not_equal(mc_segment_open(p->initiator, p->target_name, NULL, &segment), 0);
	tap.no_qp = false;
	assert_null(segment);
	assert_non_null(strstr(mc_errmsg(), "no queue pair"));
	assert_int_equal(tap_living(), 0);
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
}

/* Contracts B6: what peers have us hold is theirs to pay, and bounded. */
static void test_queue_pairs_are_paid_by_the_peer_that_wants_them(void **state)
{
	struct pair *p = *state;
	struct mci_ledger *ledger = p->target->host.ledger;
	uint64_t open = mci_ledger_used(ledger), end = mci_now_ns() + 10 * MCI_NS_PER_S;

	assert_true(open >= 8192);
	must(mc_segment_close(p->segment));
	p->segment = NULL;
	while (mci_ledger_used(ledger) > open - 8192) {
		assert_true(mci_now_ns() < end);
		pause_ms(10);
	}
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
	assert_true(mci_ledger_used(ledger) >= 8192);
}

/* ---- keys ---- */

static struct mci_rdma_peer *only_peer(struct pair *p)
{
	struct mci_rdma_peer *peer = rdma_of(p->initiator)->peers;

	assert_non_null(peer);
	assert_null(peer->peers_next);
	return peer;
}

/* Contracts I5. @gone: the odd region is not there any more, else only our key of it is wrong. */
static void neighbours(struct pair *p, bool gone)
{
	enum { N = 64, BYTES = 32 << 10 };
	struct mci_rdma_peer *peer;
	struct mc_status status;
	uint8_t *other, *mine;
	unsigned int i, round;
	mc_region *region;
	mc_batch *batch;

	other = mmap(NULL, N * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(other, MAP_FAILED);
	must(mc_engine_register(p->target, other, N * BYTES, NULL, &region));
	must(mc_segment_close(p->segment));
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
	peer = only_peer(p);
	must(mc_batch_alloc(p->initiator, 2 * N, &batch));
	for (round = 0; round < 3; round++) {
		mine = p->local + round * 1000;
		fill(mine, 2 * N * BYTES, round + 50);
		for (i = 0; i < N; i++) {
			struct mc_segment_region info = {.size = sizeof(info)};

			must(mc_segment_region(p->segment, 1, &info));
			must(mc_batch_add(batch, MC_WRITE, mine + i * BYTES, p->segment, at(p, i * BYTES),
					  BYTES));
			must(mc_batch_add(batch, MC_WRITE, mine + (N + i) * BYTES, p->segment,
					  (struct mc_remote){.region = info.id, .offset = i * BYTES}, BYTES));
		}
		pthread_mutex_lock(&peer->lock);
		peer->remote[1].key[0] ^= 0x00ffff00;
		pthread_mutex_unlock(&peer->lock);
		if (gone && round == 2) {
			must(mc_engine_unregister(region, MC_UNREGISTER_WAIT));
			memset(other, 0x77, N * BYTES);
		}
		must(mc_batch_submit(batch, NULL));
		must(mc_batch_wait(batch, -1));
		for (i = 0; i < 2 * N; i++) {
			must(mc_batch_status(batch, i, &status));
			if (gone && round == 2 && i & 1)
				assert_failed(status, -ESTALE);
			else
				assert_done(status);
		}
		assert_memory_equal(p->remote, mine, N * BYTES);
		for (i = 0; i < N * BYTES && gone && round == 2; i++)
			assert_int_equal(other[i], 0x77);
		if (!gone || round < 2)
			assert_memory_equal(other, mine + N * BYTES, N * BYTES);
		must(mc_batch_reset(batch));
	}
	must(mc_batch_free(batch));
	if (!gone)
		must(mc_engine_unregister(region, MC_UNREGISTER_WAIT));
	munmap(other, N * BYTES);
}

static void test_a_wrong_key_is_asked_for_anew_and_no_neighbour_fails(void **state)
{
	neighbours(*state, false);
}
static void test_a_region_that_is_gone_fails_alone(void **state) { neighbours(*state, true); }

/* ---- a lost control connection ---- */

static void hang_up(void *arg) /* loop thread */
{
	struct mci_rdma_peer *peer = arg;

	if (peer->conn)
		mci_conn_close(peer->conn);
}

static bool unconfirmed(struct mci_rdma_peer *peer)
{
	bool is;

	pthread_mutex_lock(&peer->lock);
	is = peer->unconfirmed;
	pthread_mutex_unlock(&peer->lock);
	return is;
}

/* Queue pairs ended without the peer's word: until it has accepted the next incarnation nothing is settled.
 */
static void test_a_fence_after_a_lost_connection_waits_for_the_next(void **state)
{
	uint64_t end = mci_now_ns() + 10 * MCI_NS_PER_S;
	struct pair *p = *state;
	struct mci_rdma_peer *peer = only_peer(p);

	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	must(mc_segment_fence(p->segment, 5000));
	mci_loop_call(peer->loop, hang_up, peer);
	while (!unconfirmed(peer)) {
		assert_true(mci_now_ns() < end);
		pause_ms(5);
	}
	must(mc_segment_fence(p->segment, 10000));
	assert_false(unconfirmed(peer));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	pair_stop_target(p);
	while (!unconfirmed(peer)) {
		assert_true(mci_now_ns() < end);
		pause_ms(5);
	}
	assert_int_not_equal(mc_segment_fence(p->segment, 5000), 0);
	assert_non_null(strstr(mc_errmsg(), "did not confirm"));
}

/* ---- memory that comes and goes under access ---- */

struct reader {
	struct pair *pair;
	_Atomic bool *stop;
	unsigned int done, refused, poisoned, torn, reopened;
	int odd; /* an error that was not expected */
};
#define POISON 0xdb
#define SHEET (256u << 10)

static void *keep_reading(void *arg)
{
	struct reader *r = arg;
	struct pair *p = r->pair;
	struct mc_segment_region info = {.size = sizeof(info)};
	struct mc_status status;
	mc_segment *segment = NULL;
	unsigned int i;
	mc_batch *batch;

	if (mc_batch_alloc(p->initiator, 1, &batch))
		return NULL;
	while (!atomic_load(r->stop)) {
		if (!segment) {
			if (mc_segment_open(p->initiator, p->target_name, NULL, &segment))
				continue;
			r->reopened++;
			if (mc_segment_region_count(segment) < 2 || mc_segment_region(segment, 1, &info)) {
				mc_segment_close(segment);
				segment = NULL;
				continue;
			}
		}
		memset(p->local, 0, SHEET);
		if (mc_batch_add(batch, MC_READ, p->local, segment, (struct mc_remote){.region = info.id},
				 SHEET) ||
		    mc_batch_submit(batch, NULL) || mc_batch_wait(batch, -1) ||
		    mc_batch_status(batch, 0, &status)) {
			r->odd = -EINVAL;
			break;
		}
		mc_batch_reset(batch);
		if (status.state == MC_DONE) {
			r->done++;
			/* Each sheet holds one byte all over. */
			for (i = 0; i < SHEET; i++) {
				r->poisoned += p->local[i] == POISON;
				r->torn += p->local[i] != p->local[0];
			}
			continue;
		}
		r->refused++;
		if (status.error != -ESTALE)
			r->odd = status.error;
		mc_segment_close(segment);
		segment = NULL;
	}
	if (segment)
		mc_segment_close(segment);
	mc_batch_free(batch);
	return NULL;
}

/* Unregistered memory is out of reach when unregister() returns, whatever is on its way. */
static void test_memory_that_is_registered_anew_is_never_taken_for_the_old(void **state)
{
	unsigned int rounds = effort("SHEETS", 12), i;
	struct pair *p = *state;
	_Atomic bool stop = false;
	struct reader reader = {.pair = p, .stop = &stop};
	mc_region *region;
	uint8_t *sheet;
	pthread_t thread;

	sheet = mmap(NULL, SHEET, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(sheet, MAP_FAILED);
	memset(sheet, POISON, SHEET);
	assert_int_equal(pthread_create(&thread, NULL, keep_reading, &reader), 0);
	for (i = 0; i < rounds; i++) {
		memset(sheet, (int)(i % 64 + 1), SHEET);
		must(mc_engine_register(p->target, sheet, SHEET, NULL, &region));
		pause_ms(150);
		must(mc_engine_unregister(region, MC_UNREGISTER_WAIT));
		memset(sheet, POISON, SHEET);
		pause_ms(10);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	munmap(sheet, SHEET);
	print_message("%u reads done, %u refused, opened %u times\n", reader.done, reader.refused,
		      reader.reopened);
	assert_int_equal(reader.poisoned, 0);
	assert_int_equal(reader.torn, 0);
	assert_int_equal(reader.odd, 0);
	assert_true(reader.done > 0);
	assert_true(reader.refused > 0);
}

/* ---- processes that die or stand still ---- */

#define NAME "child"

/* A target in a process of its own: this program run again. */
static _Noreturn void be_a_target(const char *uri)
{
	struct pair p = {.transport = "rdma", .memory = "malloc", .target_nics = "rxe1"};
	mc_region *region;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(p.uri, sizeof(p.uri), "%s", uri);
	pair_open_engine(&p, NAME, 0, &p.target);
	p.remote = pair_alloc(&p, &p.target_memory);
	must(mc_engine_register(p.target, p.remote, PAIR_BYTES, NULL, &region));
	dprintf(STDOUT_FILENO, "+");
	for (;;)
		pause();
}

static pid_t start_target(const struct pair *p)
{
	int pipes[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	if (!pid) {
		dup2(pipes[1], STDOUT_FILENO);
		close(pipes[0]);
		execl("/proc/self/exe", "rdma_faults", "--target", p->uri, NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	close(pipes[1]);
	assert_int_equal(read(pipes[0], &c, 1), 1);
	close(pipes[0]);
	return pid;
}

static void needs_a_device(void)
{
	if (pair_has_device())
		return;
	print_message("skipped: a NIC in software is not seen by other processes; runs in a guest\n");
	skip();
}

#define DEADLINE_MS 3000u

/* 64 writes under way while @signal hits the target; ends when all are final, with how many were done. */
static unsigned int hit(struct pair *p, mc_segment *segment, pid_t pid, int signal, uint64_t *ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_status status;
	unsigned int i, done = 0;
	uint64_t begin = mci_now_ns();
	mc_batch *batch;

	attr.timeout_ms = DEADLINE_MS;
	must(mc_batch_alloc(p->initiator, 256, &batch));
	for (i = 0; i < 256; i++)
		must(mc_batch_add(batch, MC_WRITE, p->local, segment, (struct mc_remote){0}, 1 << 20));
	must(mc_batch_submit(batch, &attr));
	assert_int_equal(kill(pid, signal), 0);
	if (signal == SIGSTOP)
		tap_spoil_all(false, NULL); /* else the NIC goes on by itself, and rightly so */
	must(mc_batch_wait(batch, 20000));
	*ms = (mci_now_ns() - begin) / MCI_NS_PER_MS;
	for (i = 0; i < 256; i++) {
		must(mc_batch_status(batch, i, &status));
		assert_int_not_equal(status.state, MC_PENDING);
		done += status.state == MC_DONE;
	}
	must(mc_batch_free(batch));
	return done;
}

/* One second past the deadline is what breaking may take; a second more is for a machine with other things to
 * do. */
#define ENDED_BY (DEADLINE_MS + 2000)

static void test_requests_to_a_killed_target_end_in_time(void **state)
{
	struct mc_batch *batch;
	struct pair *p = *state;
	struct mc_status status;
	mc_segment *segment;
	unsigned int done;
	uint64_t ms;
	pid_t pid;

	needs_a_device();
	must(mc_segment_close(p->segment));
	p->segment = NULL;
	pid = start_target(p);
	must(mc_segment_open(p->initiator, NAME, NULL, &segment));
	done = hit(p, segment, pid, SIGKILL, &ms);
	print_message("killed: %u of 256 were done, all ended after %llu ms\n", done, (unsigned long long)ms);
	assert_true(done < 256);
	assert_true(ms <= ENDED_BY);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* Back under its name: it is other memory. */
	pid = start_target(p);
	must(mc_batch_alloc(p->initiator, 1, &batch));
	must(mc_batch_add(batch, MC_WRITE, p->local, segment, (struct mc_remote){0}, 4096));
	must(mc_batch_submit(batch, NULL));
	must(mc_batch_wait(batch, -1));
	must(mc_batch_status(batch, 0, &status));
	assert_failed(status, -ESTALE);
	must(mc_batch_free(batch));
	must(mc_segment_close(segment));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_a_target_that_stands_still_costs_its_own_requests(void **state)
{
	struct pair *p = *state;
	mc_segment *segment;
	unsigned int done;
	uint64_t ms;
	pid_t pid;

	needs_a_device();
	pid = start_target(p);
	must(mc_segment_open(p->initiator, NAME, NULL, &segment));
	done = hit(p, segment, pid, SIGSTOP, &ms);
	print_message("stopped: %u of 256 were done, all ended after %llu ms\n", done,
		      (unsigned long long)ms);
	assert_true(ms <= ENDED_BY);
	/* The other segment does not care. */
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 1 << 20));
	kill(pid, SIGCONT);
	must(mc_segment_fence(segment, 10000));
	must(mc_segment_close(segment));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		pair_test(test_requests_survive_queue_pairs_that_fail),
		pair_test(test_a_queue_pair_that_fails_idle_costs_nothing),
		pair_test(test_a_registration_that_fails_says_why_and_leaves_nothing),
		pair_test(test_a_device_without_queue_pairs_says_so),
		pair_test(test_queue_pairs_are_paid_by_the_peer_that_wants_them),
		pair_test(test_a_wrong_key_is_asked_for_anew_and_no_neighbour_fails),
		pair_test(test_a_region_that_is_gone_fails_alone),
		pair_test(test_a_fence_after_a_lost_connection_waits_for_the_next),
		pair_test(test_memory_that_is_registered_anew_is_never_taken_for_the_old),
		pair_test(test_requests_to_a_killed_target_end_in_time),
		pair_test(test_a_target_that_stands_still_costs_its_own_requests),
	};

	if (argc == 3 && !strcmp(argv[1], "--target"))
		be_a_target(argv[2]);
	return run_on_a_device(tests, argc, argv);
}
