// SPDX-License-Identifier: MIT
/* Shared memory transport: what requests, rights, deadlines, cancel and views promise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net/connect.h"
#include "shm_host.h"

#define MIB (1ull << 20)
#define NO_WAIT 0

static struct fake *me;
static uint8_t *mine; /* local memory */
#define MINE (64 * MIB)

static struct mci_peer *open_peer(struct remote *remote)
{
	struct mci_peer *peer = NULL;
	int ret = mci_transport_shm.peer_open(me->transport, &remote->info, NULL, remote->regions,
					      remote->count, mci_now_ns() + 3 * MCI_NS_PER_S, &peer);

	if (ret)
		fail_msg("peer_open: %d %s", ret, mc_errmsg());
	me->remote = remote->regions;
	me->remote_count = remote->count;
	return peer;
}

static void must(struct job job, enum mc_state state, int error)
{
	if (job.state != state || job.error != error)
		fail_msg("state %d error %d, wanted %d %d", job.state, job.error, state, error);
	assert_int_equal(job.bytes, state == MC_DONE ? job.r.length : 0);
}

static const struct timespec moment = {.tv_nsec = 1000000};

/* ---- transfers ---- */

static void there_and_back(const char *kind)
{
	static const uint64_t sizes[] = {1,	63,	4096,	4097,	      65536,
					 65537, 524288, 524289, 3 * MIB + 17, 40 * MIB};
	char spec[64];
	const char *specs[1] = {spec};
	struct target *target;
	struct mci_peer *peer;

	snprintf(spec, sizeof(spec), "%s:%llu:3", kind, 41 * MIB);
	target = target_start(1, specs);
	peer = open_peer(&target->remote);
	assert_int_equal(mci_transport_shm.region_usable(peer, target->remote.regions), 0);
	for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t n = sizes[i], at = 1000 + i;

		fill(mine, at, n, i);
		must(transfer(peer, MCI_OP_WRITE, target->remote.regions, at, mine, n), MC_DONE, 0);
		assert_int_equal(target_say(target, "filled 0 %u %llu %llu", i, (unsigned long long)at,
					    (unsigned long long)n),
				 1);
		memset(mine, 0, n);
		must(transfer(peer, MCI_OP_READ, target->remote.regions, at, mine, n), MC_DONE, 0);
		assert_true(filled(mine, at, n, i));
	}
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_shared_memory_is_written_and_read(void **state)
{
	(void)state;
	there_and_back("shared");
}

static void test_a_part_of_shared_memory_is_written_and_read(void **state)
{
	(void)state;
	there_and_back("part");
}

static void test_other_memory_is_reached_through_the_kernel(void **state)
{
	(void)state;
	there_and_back("heap");
}

static void test_a_batch_of_small_requests_of_all_kinds(void **state)
{
	static const char *const specs[] = {"shared:8388608:3", "heap:8388608:3", "shared:8388608:3"};
	struct target *target = target_start(3, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	static struct job jobs[3000];
	const unsigned int n = sizeof(jobs) / sizeof(jobs[0]), size = 2000;

	(void)state;
	for (int help = 0; help < 2; help++) {
		for (unsigned int op = MCI_OP_WRITE; op <= MCI_OP_WRITE; op--) {
			if (op == MCI_OP_WRITE)
				fill(mine, 0, MINE, 5 + (uint32_t)help);
			else
				memset(mine, 0, MINE);
			for (unsigned int i = 0; i < n; i++)
				job_init(&jobs[i], (int)op, &target->remote.regions[i % 3], i / 3 * 2048ull,
					 mine + i / 3 * 2048ull + (i % 3) * 8 * MIB, size, 10000);
			jobs_submit(peer, jobs, n);
			jobs_wait(peer, jobs, n, help);
			for (unsigned int i = 0; i < n; i++)
				must(jobs[i], MC_DONE, 0);
			if (op == MCI_OP_READ)
				for (unsigned int i = 0; i < n; i++)
					assert_true(filled(jobs[i].r.local,
							   (uint64_t)(jobs[i].r.local - mine), size,
							   5 + (uint32_t)help));
		}
	}
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_requests_that_nobody_helps_are_done_by_workers(void **state)
{
	static const char *const specs[] = {"shared:67108864:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct job job;

		/* first with nobody known to help, then after a caller who did */
		if (i == 2)
			must(transfer(peer, MCI_OP_WRITE, target->remote.regions, 0, mine, MINE), MC_DONE, 0);
		fill(mine, 0, MINE, (uint32_t)i);
		job_init(&job, MCI_OP_WRITE, target->remote.regions, 0, mine, MINE, 10000);
		jobs_submit(peer, &job, 1);
		jobs_wait(peer, &job, 1, false);
		must(job, MC_DONE, 0);
		assert_int_equal(target_say(target, "filled 0 %d 0 %llu", i, MINE), 1);
	}
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

struct hand {
	struct mci_peer *peer;
	struct mci_remote_region *remote;
	unsigned int index, bad;
};

static void *hand(void *arg)
{
	struct hand *h = arg;
	uint8_t *from = mine + h->index * 8 * MIB, *to = from + 4 * MIB;

	for (unsigned int k = 0; k < 60; k++) {
		uint64_t n = k % 3 == 0 ? 4 * MIB : k % 3 == 1 ? 100000 : 512, at = h->index * 4 * MIB;

		fill(from, at, n, k);
		h->bad += transfer(h->peer, MCI_OP_WRITE, h->remote, at, from, n).state != MC_DONE;
		h->bad += transfer(h->peer, MCI_OP_READ, h->remote, at, to, n).state != MC_DONE;
		h->bad += !!memcmp(from, to, n);
	}
	return NULL;
}

static void test_four_threads_share_a_peer(void **state)
{
	static const char *const specs[] = {"shared:16777216:3", "heap:16777216:3"};
	struct target *target = target_start(2, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	struct hand h[4];
	pthread_t t[4];

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		h[i] = (struct hand){peer, &target->remote.regions[i & 1], i, 0};
		assert_int_equal(pthread_create(&t[i], NULL, hand, &h[i]), 0);
	}
	for (unsigned int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(h[i].bad, 0);
	}
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

/* ---- what is refused ---- */

static void test_a_right_that_is_not_granted_is_refused_before_a_byte_moves(void **state)
{
	static const char *const specs[] = {"shared:65536:1", "heap:65536:1", "shared:65536:2", "heap:65536:2"};
	struct target *target = target_start(4, specs);
	struct mci_peer *peer = open_peer(&target->remote);

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		bool write_only = i >= 2;

		target_say(target, "fill %u 3", i);
		memset(mine, 0x77, 65536);
		must(transfer(peer, write_only ? MCI_OP_READ : MCI_OP_WRITE, &target->remote.regions[i], 0,
			      mine, 65536),
		     MC_FAILED, -EACCES);
		assert_int_equal(mine[0], 0x77);
		assert_int_equal(target_say(target, "filled %u 3 0 65536", i), 1);
		must(transfer(peer, write_only ? MCI_OP_WRITE : MCI_OP_READ, &target->remote.regions[i], 0,
			      mine, 65536),
		     MC_DONE, 0);
	}
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_a_stale_generation_is_refused(void **state)
{
	static const char *const specs[] = {"shared:65536:3", "heap:65536:3"};
	struct target *target = target_start(2, specs);
	struct mci_peer *peer;

	(void)state;
	target->remote.regions[0].generation++;
	target->remote.regions[1].generation--;
	peer = open_peer(&target->remote);
	for (unsigned int i = 0; i < 2; i++)
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 100), MC_FAILED,
		     -ESTALE);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_an_unregistered_region_is_stale(void **state)
{
	static const char *const specs[] = {"shared:8388608:3", "heap:8388608:3"};
	struct target *target = target_start(2, specs);
	struct mci_peer *peer = open_peer(&target->remote);

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 8 * MIB), MC_DONE, 0);
		assert_int_equal(target_say(target, "remove %u 1000", i), 0);
		fill(mine, 0, 8 * MIB, 99);
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 100), MC_FAILED,
		     -ESTALE);
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 8 * MIB), MC_FAILED,
		     -ESTALE);
		must(transfer(peer, MCI_OP_READ, &target->remote.regions[i], 0, mine, 100), MC_FAILED,
		     -ESTALE);
		assert_int_equal(target_say(target, "changed %u", i), 0);
	}
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

/* The address space of the process that maps it must not keep memory that its owner gave up. */
static void test_a_region_that_went_is_unmapped(void **state)
{
	struct fake *owner = fake_open("owner");
	struct mci_region *region = fake_region(owner, "shared", 4 * MIB, RW);
	struct remote remote;
	struct mci_peer *peer;
	struct mci_shm_map *map;
	bool mapped = true;

	(void)state;
	remote_of(owner, &region, 1, &remote);
	peer = open_peer(&remote);
	must(transfer(peer, MCI_OP_WRITE, remote.regions, 0, mine, 4 * MIB), MC_DONE, 0);
	assert_int_equal(fake_unregister(owner, region, NO_WAIT), 0);
	for (int i = 0; i < 5000 && mapped; i++) {
		pthread_mutex_lock(&peer->lock);
		map = &peer->link->maps[0];
		mapped = map->mapped[0] || map->mapped[1];
		pthread_mutex_unlock(&peer->lock);
		nanosleep(&moment, NULL);
	}
	assert_false(mapped);
	mci_transport_shm.peer_close(peer);
	remote_free(&remote);
	fake_region_free(region);
	fake_close(owner);
}

static void test_memory_that_the_owner_lost_fails_alone(void **state)
{
	static const char *const specs[] = {"heap:65536:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	struct job jobs[16];

	(void)state;
	assert_int_equal(target_say(target, "unmap 0 16384 4096"), 0);
	for (unsigned int i = 0; i < 16; i++)
		job_init(&jobs[i], MCI_OP_WRITE, target->remote.regions, i * 4096, mine + i * 4096, 4096,
			 5000);
	jobs_submit(peer, jobs, 16);
	jobs_wait(peer, jobs, 16, true);
	for (unsigned int i = 0; i < 16; i++)
		must(jobs[i], i == 4 ? MC_FAILED : MC_DONE, i == 4 ? -EFAULT : 0);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_notifies_take_another_way(void **state)
{
	static const char *const specs[] = {"shared:65536:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);

	(void)state;
	must(transfer(peer, MCI_OP_NOTIFY, NULL, 0, mine, 100), MC_FAILED, -EOPNOTSUPP);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_another_host_is_not_for_us(void **state)
{
	static const char *const specs[] = {"shared:65536:3"};
	struct target *target = target_start(1, specs);
	json_t *transport = (json_t *)(uintptr_t)target->remote.info.transport;
	struct mci_peer *peer;

	(void)state;
	json_object_set_new(transport, "boot_id", json_string("00000000-0000-0000-0000-000000000000"));
	assert_int_equal(mci_transport_shm.peer_open(me->transport, &target->remote.info, NULL,
						     target->remote.regions, 1, mci_now_ns() + MCI_NS_PER_S,
						     &peer),
			 -EOPNOTSUPP);
	assert_non_null(strstr(mc_errmsg(), "another host"));
	target_end(target);
}

/* ---- deadlines and cancel ---- */

static void test_a_deadline_passes_while_the_target_does_not_answer(void **state)
{
	static const char *const specs[] = {"shared:1048576:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	struct job job;

	(void)state;
	target_stop(target); /* the descriptor has not been asked for yet */
	job_init(&job, MCI_OP_WRITE, target->remote.regions, 0, mine, 100, 200);
	jobs_submit(peer, &job, 1);
	jobs_wait(peer, &job, 1, true);
	must(job, MC_TIMED_OUT, -ETIMEDOUT);
	kill(target->pid, SIGCONT);
	must(transfer(peer, MCI_OP_WRITE, target->remote.regions, 0, mine, 100), MC_DONE, 0);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_a_stopped_target_is_served_memory_still(void **state)
{
	static const char *const specs[] = {"shared:8388608:3", "heap:8388608:3"};
	struct target *target = target_start(2, specs);
	struct mci_peer *peer = open_peer(&target->remote);

	(void)state;
	must(transfer(peer, MCI_OP_READ, &target->remote.regions[0], 0, mine, 100), MC_DONE, 0);
	target_stop(target);
	for (int i = 0; i < 2; i++)
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 8 * MIB), MC_DONE, 0);
	kill(target->pid, SIGCONT);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

/* A place to stop at inside of a copy. */
static struct gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int inside, open;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static void gate_inside(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&gate.lock);
	gate.inside++;
	pthread_cond_broadcast(&gate.changed);
	while (!gate.open)
		pthread_cond_wait(&gate.changed, &gate.lock);
	if (gate.open != UINT32_MAX)
		gate.open--;
	pthread_mutex_unlock(&gate.lock);
}

static void gate_shut(void)
{
	gate.inside = gate.open = 0;
	me->transport->hooks.inside = gate_inside;
}

static void gate_wait(void)
{
	pthread_mutex_lock(&gate.lock);
	while (!gate.inside)
		pthread_cond_wait(&gate.changed, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
}

static bool gate_both_inside(void)
{
	bool both;

	pthread_mutex_lock(&gate.lock);
	both = gate.inside == 2;
	pthread_mutex_unlock(&gate.lock);
	return both;
}

static void gate_open(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.open = UINT32_MAX;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

static void test_cancel_ends_what_waits_at_once_and_what_is_copied_between_chunks(void **state)
{
	static const char *const specs[] = {"shared:67108864:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	struct job jobs[2];
	uint64_t end;
	bool ended;

	(void)state;
	must(transfer(peer, MCI_OP_READ, target->remote.regions, 0, mine, 100), MC_DONE, 0);
	gate_shut();
	target_say(target, "fill 0 1");
	fill(mine, 0, MINE, 2);
	for (int i = 0; i < 2; i++)
		job_init(&jobs[i], MCI_OP_WRITE, target->remote.regions, i * 32 * MIB, mine + i * 32 * MIB,
			 32 * MIB, 20000);
	jobs_submit(peer, jobs, 2);
	gate_wait();
	end = mci_now_ns() + 10 * MCI_NS_PER_S;
	for (int i = 1; i >= 0; i--) {
		atomic_store(&jobs[i].r.cancelled, true);
		mci_transport_shm.cancel(peer, &jobs[i].r);
	}
	/* The second has ended at once, unless another thread has taken it, which then comes to the gate, too. */
	while (!gate_both_inside() && !atomic_load(&jobs[1].done) && mci_now_ns() < end)
		nanosleep(&moment, NULL);
	ended = gate_both_inside() || (atomic_load(&jobs[1].done) && !atomic_load(&jobs[0].done));
	gate_open();
	assert_true(ended);
	jobs_wait(peer, jobs, 2, true);
	for (int i = 0; i < 2; i++)
		must(jobs[i], MC_CANCELLED, -ECANCELED);
	assert_int_equal(target_say(target, "filled 0 1 %llu %llu", 8 * MIB, 24 * MIB), 1);
	me->transport->hooks.inside = NULL;
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_a_deadline_is_seen_between_chunks(void **state)
{
	static const char *const specs[] = {"heap:67108864:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	struct job job;

	(void)state;
	gate_shut();
	job_init(&job, MCI_OP_WRITE, target->remote.regions, 0, mine, MINE, 1000);
	jobs_submit(peer, &job, 1);
	gate_wait();
	while (mci_now_ns() < job.r.deadline_ns)
		nanosleep(&moment, NULL);
	gate_open();
	jobs_wait(peer, &job, 1, true);
	must(job, MC_TIMED_OUT, -ETIMEDOUT);
	me->transport->hooks.inside = NULL;
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

/* ---- views ---- */

static void test_a_view_shows_the_memory_and_cannot_be_written(void **state)
{
	static const char *const specs[] = {"shared:1048576:3", "shared:1048576:1", "part:1048576:3"};
	struct target *target = target_start(3, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	int pipes[2];

	(void)state;
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	for (unsigned int i = 0; i < 3; i++) {
		const void *addr;
		void *view;

		target_say(target, "fill %u %u", i, i);
		assert_int_equal(
			mci_transport_shm.map(peer, &target->remote.regions[i], 777, 5000, &addr, &view), 0);
		assert_true(filled(addr, 777, 5000, i));
		target_say(target, "fill %u %u", i, i + 50);
		assert_true(filled(addr, 777, 5000, i + 50));
		assert_int_equal(write(pipes[1], "x", 1), 1);
		assert_int_equal(read(pipes[0], (void *)(uintptr_t)addr, 1), -1);
		assert_int_equal(errno, EFAULT);
		assert_int_equal(read(pipes[0], mine, 1), 1);
		mci_transport_shm.unmap(view);
	}
	close(pipes[0]);
	close(pipes[1]);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_a_view_holds_its_region(void **state)
{
	static const char *const specs[] = {"shared:1048576:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	const void *addr;
	void *view;

	(void)state;
	assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, 0, 4096, &addr, &view), 0);
	assert_int_equal(target_say(target, "remove 0 %d", NO_WAIT), -EBUSY);
	/* nothing changed: it can be used, and mapped again */
	must(transfer(peer, MCI_OP_WRITE, target->remote.regions, 0, mine, 4096), MC_DONE, 0);
	mci_transport_shm.unmap(view);
	assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, 0, 4096, &addr, &view), 0);
	mci_transport_shm.unmap(view);
	assert_int_equal(target_say(target, "remove 0 %d", NO_WAIT), 0);
	assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, 0, 4096, &addr, &view), -ESTALE);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_views_are_counted_and_other_memory_has_none(void **state)
{
	static const char *const specs[] = {"shared:1048576:3", "heap:1048576:3", "shared:65536:2"};
	struct target *target = target_start(3, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	static void *views[MCI_SHM_VIEWS];
	const void *addr;
	void *view;

	(void)state;
	for (unsigned int i = 0; i < MCI_SHM_VIEWS; i++)
		assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, i, 10, &addr, &views[i]),
				 0);
	assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, 0, 10, &addr, &view), -ENOSPC);
	for (unsigned int i = 0; i < MCI_SHM_VIEWS; i++)
		mci_transport_shm.unmap(views[i]);
	assert_int_equal(mci_transport_shm.map(peer, &target->remote.regions[1], 0, 10, &addr, &view),
			 -EOPNOTSUPP);
	assert_int_equal(mci_transport_shm.map(peer, &target->remote.regions[2], 0, 10, &addr, &view),
			 -EACCES);
	assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, MIB, 1, &addr, &view), -EFAULT);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static int setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_DFL);
	me = fake_open("initiator");
	mine = mmap(NULL, MINE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return mine == MAP_FAILED;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mine, MINE);
	fake_close(me);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_memory_is_written_and_read),
		cmocka_unit_test(test_a_part_of_shared_memory_is_written_and_read),
		cmocka_unit_test(test_other_memory_is_reached_through_the_kernel),
		cmocka_unit_test(test_a_batch_of_small_requests_of_all_kinds),
		cmocka_unit_test(test_requests_that_nobody_helps_are_done_by_workers),
		cmocka_unit_test(test_four_threads_share_a_peer),
		cmocka_unit_test(test_a_right_that_is_not_granted_is_refused_before_a_byte_moves),
		cmocka_unit_test(test_a_stale_generation_is_refused),
		cmocka_unit_test(test_an_unregistered_region_is_stale),
		cmocka_unit_test(test_a_region_that_went_is_unmapped),
		cmocka_unit_test(test_memory_that_the_owner_lost_fails_alone),
		cmocka_unit_test(test_notifies_take_another_way),
		cmocka_unit_test(test_another_host_is_not_for_us),
		cmocka_unit_test(test_a_deadline_passes_while_the_target_does_not_answer),
		cmocka_unit_test(test_a_stopped_target_is_served_memory_still),
		cmocka_unit_test(test_cancel_ends_what_waits_at_once_and_what_is_copied_between_chunks),
		cmocka_unit_test(test_a_deadline_is_seen_between_chunks),
		cmocka_unit_test(test_a_view_shows_the_memory_and_cannot_be_written),
		cmocka_unit_test(test_a_view_holds_its_region),
		cmocka_unit_test(test_views_are_counted_and_other_memory_has_none),
	};

	if (argc > 1 && !strcmp(argv[1], "target"))
		return target_main(argc - 2, argv + 2);
	return run_over_both(tests, setup, teardown);
}
