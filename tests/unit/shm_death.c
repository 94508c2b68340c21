// SPDX-License-Identifier: MIT
/* Shared memory transport: unregister, stopped and killed processes, restarts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shm_initiator.h"

#define MINE (64 * MIB)

static struct fake *me;
static uint8_t *mine;
static const struct timespec moment = {.tv_nsec = 1000000};

static struct mci_peer *open_peer(struct remote *remote)
{
	struct mci_peer *peer = NULL;
	int ret = try_peer(me, remote, &peer);

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
}

/* A thread that does one request and stops inside of the region until it is let go. */
static struct inside {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool there, go;
	pthread_t thread;
	struct mci_peer *peer;
	struct mci_remote_region *remote;
	uint64_t length;
	struct job job;
} in = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void stop_inside(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&in.lock);
	in.there = true;
	pthread_cond_broadcast(&in.changed);
	while (!in.go)
		pthread_cond_wait(&in.changed, &in.lock);
	pthread_mutex_unlock(&in.lock);
}

static void *inside_main(void *arg)
{
	(void)arg;
	in.job = transfer(in.peer, MCI_OP_WRITE, in.remote, 0, mine, in.length);
	return NULL;
}

static void go_inside(struct mci_peer *peer, struct mci_remote_region *remote, uint64_t length)
{
	must(transfer(peer, MCI_OP_READ, remote, 0, mine, 8), MC_DONE, 0); /* known from here on */
	me->transport->hooks.inside = stop_inside;
	in.there = in.go = false;
	in.peer = peer;
	in.remote = remote;
	in.length = length;
	fill(mine, 0, length, 42);
	assert_int_equal(pthread_create(&in.thread, NULL, inside_main, NULL), 0);
	pthread_mutex_lock(&in.lock);
	while (!in.there)
		pthread_cond_wait(&in.changed, &in.lock);
	pthread_mutex_unlock(&in.lock);
}

static void come_out(void)
{
	pthread_mutex_lock(&in.lock);
	in.go = true;
	pthread_cond_broadcast(&in.changed);
	pthread_mutex_unlock(&in.lock);
	pthread_join(in.thread, NULL);
	me->transport->hooks.inside = NULL;
}

/* ---- the fence of unregister ---- */

static void test_unregister_waits_for_those_inside_and_what_it_waited_for_is_done(void **state)
{
	static const char *const specs[] = {"shared:16777216:3", "heap:16777216:3"};
	static const uint64_t lengths[] = {4096, 16 * MIB};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		for (unsigned int k = 0; k < 2; k++) {
			struct target *target = target_start(2, specs);
			struct mci_peer *peer = open_peer(&target->remote);
			struct pollfd answer = {.fd = fileno(target->from), .events = POLLIN};

			go_inside(peer, &target->remote.regions[i], lengths[k]);
			assert_int_equal(target_say(target, "remove %u 0", i), -EBUSY);
			target_tell(target, "remove %u 10000", i);
			assert_int_equal(poll(&answer, 1, 100), 0);
			come_out();
			must(in.job, MC_DONE, 0);
			assert_int_equal(target_answer(target), 0);
			assert_int_equal(target_say(target, "filled %u 42 0 %llu", i,
						    (unsigned long long)lengths[k]),
					 1);
			mci_transport_shm.peer_close(peer);
			target_end(target);
		}
	}
}

static void test_a_write_that_unregister_gave_up_on_is_not_done(void **state)
{
	static const char *const specs[] = {"shared:16777216:3", "heap:16777216:3"};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		struct target *target = target_start(2, specs);
		struct mci_peer *peer = open_peer(&target->remote);

		go_inside(peer, &target->remote.regions[i], 4096);
		if (!i && by_module()) { /* who holds a key can be shut out */
			assert_int_equal(target_say(target, "remove 0 100"), 0);
			come_out();
			must(in.job, MC_FAILED, -ESTALE);
			assert_int_equal(target_say(target, "changed 0"), 0);
			mci_transport_shm.peer_close(peer);
			target_end(target);
			continue;
		}
		assert_int_equal(target_say(target, "remove %u 100", i), -EBUSY);
		assert_int_equal(target_say(target, "remove %u 0", i), -EBUSY);
		come_out();
		must(in.job, MC_FAILED, -ESTALE);
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 4096), MC_FAILED,
		     -ESTALE);
		assert_int_equal(target_say(target, "remove %u 1000", i), 0);
		mci_transport_shm.peer_close(peer);
		target_end(target);
	}
}

/* What the fence is for: without it a write lands in memory that its owner believes to be its own. */
static void test_without_the_fence_a_write_lands_after_unregister(void **state)
{
	static const char *const specs[] = {"shared:1048576:3", "heap:1048576:3"};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		struct target *target = target_start(2, specs);
		struct mci_peer *peer = open_peer(&target->remote);

		target_say(target, "nofence");
		target_say(target, "norevoke");
		go_inside(peer, &target->remote.regions[i], 4096);
		me->transport->hooks.no_liveness = true;
		assert_int_equal(target_say(target, "remove %u 100", i), 0);
		come_out();
		me->transport->hooks.no_liveness = false;
		assert_int_equal(target_say(target, "changed %u", i), 1);
		must(in.job, MC_FAILED, -ESTALE);
		mci_transport_shm.peer_close(peer);
		target_end(target);
	}
}

struct writer {
	struct mci_peer *peer;
	struct mci_remote_region *regions;
	unsigned int index, done, stale, other;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	uint32_t seed = w->index + 1;

	while (!w->stale && !w->other) {
		uint64_t n = (seed >> 8) % 3 ? 64 + (seed >> 10) % 9000 : 700000,
			 at = w->index * 2 * MIB + (seed >> 4) % (2 * MIB - n);
		struct job job;

		memset(mine + w->index * 8 * MIB, (int)seed, n);
		job = transfer(w->peer, MCI_OP_WRITE, &w->regions[w->index & 1], at,
			       mine + w->index * 8 * MIB, n);
		seed = seed * 1664525u + 1013904223u;
		w->done += job.state == MC_DONE;
		w->stale += job.state == MC_FAILED && job.error == -ESTALE;
		w->other += job.state != MC_DONE && job.error != -ESTALE;
	}
	return NULL;
}

static void test_under_load_no_write_lands_after_unregister(void **state)
{
	static const char *const specs[] = {"shared:8388608:3", "heap:8388608:3"};

	(void)state;
	for (unsigned int round = 0; round < 8; round++) {
		struct target *target = target_start(2, specs);
		struct mci_peer *peer = open_peer(&target->remote);
		struct writer w[4];
		pthread_t t[4];

		for (unsigned int i = 0; i < 4; i++) {
			w[i] = (struct writer){peer, target->remote.regions, i, 0, 0, 0};
			assert_int_equal(pthread_create(&t[i], NULL, writer_main, &w[i]), 0);
		}
		for (unsigned int i = 0; i < 10 + round; i++)
			nanosleep(&moment, NULL);
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(target_say(target, "remove %u 10000", i), 0);
		for (unsigned int i = 0; i < 4; i++) {
			pthread_join(t[i], NULL);
			assert_int_equal(w[i].other, 0);
			assert_int_equal(w[i].stale, 1);
		}
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(target_say(target, "changed %u", i), 0);
		mci_transport_shm.peer_close(peer);
		target_end(target);
	}
}

/* An initiator that has written its first 16 MiB and stopped in the middle of the next. */
static struct child stopped_inside(struct fake *owner, struct mci_region *region)
{
	struct child child;
	char line[200];
	int status;

	setenv("STOP_INSIDE", "12", 1); /* 16 MiB are eight pieces */
	child = initiator_start(owner, &region, 1);
	unsetenv("STOP_INSIDE");
	child_line(&child, line, sizeof(line));
	assert_int_equal(atoi(line), 0);
	child_line(&child, line, sizeof(line));
	assert_string_equal(line, "1 0");
	assert_int_equal(waitpid(child.pid, &status, WUNTRACED), child.pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(mci_transport_shm.region_remove(owner->transport, region, 0), -EBUSY);
	return child;
}

static void stopped_child_changes_nothing(struct child *child, struct mci_region *region)
{
	uint8_t *before = malloc(region->length);
	char line[200];
	int status;

	memset(region->addr, 0x11, region->length);
	memcpy(before, region->addr, region->length);
	kill(child->pid, SIGCONT);
	do
		child_line(child, line, sizeof(line));
	while (!strcmp(line, "1 0"));
	if (!line[0]) {
		assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
		close(child->out);
	} else {
		assert_true(!strcmp(line, "2 -116") || !strcmp(line, "2 -104"));
		child_end(child);
	}
	assert_memory_equal(before, region->addr, region->length);
	free(before);
}

static void test_a_stopped_initiator_makes_unregister_busy_at_its_deadline(void **state)
{
	struct mci_region *region = fake_region(me, "shared", 16 * MIB, RW);
	struct child child = stopped_inside(me, region);
	uint64_t start;
	char line[200];

	(void)state;
	start = mci_now_ns();
	assert_int_equal(fake_unregister(me, region, start + 300 * MCI_NS_PER_MS), by_module() ? 0 : -EBUSY);
	assert_true(mci_now_ns() - start >= 300 * MCI_NS_PER_MS);
	if (by_module()) { /* shut out: it finds the region gone, or dies where it stood in the middle of a copy */
		stopped_child_changes_nothing(&child, region);
		fake_region_free(region);
		return;
	}
	assert_non_null(strstr(mc_errmsg(), "child"));
	/* It goes on, finds out, and leaves. */
	kill(child.pid, SIGCONT);
	assert_int_equal(fake_unregister(me, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	do
		child_line(&child, line, sizeof(line));
	while (!strcmp(line, "1 0"));
	assert_string_equal(line, "2 -116");
	child_end(&child);
	fake_region_free(region);
}

static void test_a_killed_initiator_is_not_waited_for(void **state)
{
	struct mci_region *region = fake_region(me, "shared", 16 * MIB, RW);
	struct child child = stopped_inside(me, region);
	uint64_t start;

	(void)state;
	child_end(&child);
	start = mci_now_ns();
	assert_int_equal(fake_unregister(me, region, start + 60 * MCI_NS_PER_S), 0);
	assert_true(mci_now_ns() - start < 30 * MCI_NS_PER_S);
	fake_region_free(region);
}

static void test_a_view_ends_with_its_holder_even_if_a_child_of_it_lives(void **state)
{
	struct mci_region *region = fake_region(me, "shared", MIB, RW);
	int ret = 1, grandchild = 0;
	struct child child;
	char line[200];

	(void)state;
	setenv("MAP_ONLY", "1", 1);
	child = initiator_start(me, &region, 1);
	unsetenv("MAP_ONLY");
	child_line(&child, line, sizeof(line));
	child_line(&child, line, sizeof(line));
	assert_int_equal(sscanf(line, "%d %d", &ret, &grandchild), 2);
	assert_int_equal(ret, 0);
	assert_true(grandchild > 0);
	assert_int_equal(fake_unregister(me, region, mci_now_ns() + 50 * MCI_NS_PER_MS), -EBUSY);
	child_end(&child);
	assert_int_equal(fake_unregister(me, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	kill(grandchild, SIGKILL);
	fake_region_free(region);
}

/* ---- death of the target ---- */

static void test_a_target_killed_during_a_copy_means_failed(void **state)
{
	static const char *const specs[] = {"shared:16777216:3", "heap:16777216:3"};
	static const uint64_t lengths[] = {4096, 16 * MIB};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		for (unsigned int k = 0; k < 2; k++) {
			struct target *target = target_start(2, specs);
			struct mci_peer *peer = open_peer(&target->remote);

			go_inside(peer, &target->remote.regions[i], lengths[k]);
			target_kill(target);
			come_out();
			must(in.job, MC_FAILED, -ECONNRESET);
			must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 100),
			     MC_FAILED, -ECONNRESET);
			mci_transport_shm.peer_close(peer);
			target_end(target);
		}
	}
}

static void test_a_target_is_dead_even_if_a_child_of_it_holds_the_connection(void **state)
{
	static const char *const specs[] = {"shared:1048576:3", "heap:1048576:3"};
	struct target *target = target_start(2, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	int child;

	(void)state;
	for (unsigned int i = 0; i < 2; i++)
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 100), MC_DONE, 0);
	child = (int)target_say(target, "child");
	assert_true(child > 0);
	target_kill(target);
	for (unsigned int i = 0; i < 2; i++)
		must(transfer(peer, MCI_OP_WRITE, &target->remote.regions[i], 0, mine, 100), MC_FAILED,
		     -ECONNRESET);
	kill(child, SIGKILL);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

/* Mapped memory outlives its owner: a copy into it works, and means nothing. */
static void test_without_the_look_at_the_end_a_dead_target_would_be_done(void **state)
{
	static const char *const specs[] = {"shared:16777216:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);

	(void)state;
	me->transport->hooks.no_liveness = true;
	go_inside(peer, target->remote.regions, 4096);
	target_kill(target);
	come_out();
	must(in.job, MC_DONE, 0);
	me->transport->hooks.no_liveness = false;
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_what_is_queued_fails_at_once_when_the_target_dies(void **state)
{
	static const char *const specs[] = {"shared:67108864:3"};
	static struct job jobs[64];
	uint64_t start;

	(void)state;
	for (int round = 0; round < 6; round++) {
		struct target *target = target_start(1, specs);
		struct mci_peer *peer = open_peer(&target->remote);

		for (unsigned int i = 0; i < 64; i++)
			job_init(&jobs[i], MCI_OP_WRITE, target->remote.regions, 0, mine, MINE, 20000);
		jobs_submit(peer, jobs, 64);
		for (int i = 0; i < round * 3; i++)
			mci_transport_shm.help(peer);
		target_kill(target);
		start = mci_now_ns();
		jobs_wait(peer, jobs, 64, true);
		assert_true(mci_now_ns() - start < 10 * MCI_NS_PER_S);
		assert_int_equal(jobs[63].state, MC_FAILED);
		for (unsigned int i = 0; i < 64; i++)
			if (jobs[i].state != MC_DONE)
				must(jobs[i], MC_FAILED, -ECONNRESET);
		mci_transport_shm.peer_close(peer);
		target_end(target);
	}
}

static void test_after_a_restart_requests_are_stale(void **state)
{
	static const char *const specs[] = {"shared:65536:3"};
	struct target *target = target_start(1, specs);
	struct mci_peer *peer = open_peer(&target->remote);
	unsigned int before = atomic_load(&me->refreshes);

	(void)state;
	atomic_store(&me->refresh_error, -ESTALE);
	target_kill(target);
	for (int i = 0; i < 5000 && atomic_load(&me->refreshes) == before; i++)
		nanosleep(&moment, NULL);
	for (int i = 0; i < 3; i++)
		must(transfer(peer, MCI_OP_WRITE, target->remote.regions, 0, mine, 100), MC_FAILED, -ESTALE);
	atomic_store(&me->refresh_error, -EAGAIN);
	mci_transport_shm.peer_close(peer);
	target_end(target);
}

static void test_a_peer_that_came_back_with_its_content_is_used_again(void **state)
{
	static const char *const specs[] = {"shared:1048576:3"};
	struct target *target = target_start(1, specs), *second;
	struct mci_peer *peer = open_peer(&target->remote);
	unsigned int before = atomic_load(&me->refreshes);
	struct job jobs[3];
	const void *addr;
	void *view;

	(void)state;
	target_say(target, "fill 0 8");
	assert_int_equal(mci_transport_shm.map(peer, target->remote.regions, 0, 4096, &addr, &view), 0);
	second = target_start(1, specs);
	me->info = second->remote.info;
	target_kill(target);
	for (int i = 0; i < 5000 && atomic_load(&me->refreshes) == before; i++)
		nanosleep(&moment, NULL);
	/* What came since then waits for the verdict, or for its own end. */
	fill(mine, 0, MIB, 5);
	for (int i = 0; i < 3; i++)
		job_init(&jobs[i], MCI_OP_WRITE, target->remote.regions, 0, mine, MIB, 10000);
	atomic_store(&me->refresh_error, 0);
	jobs_submit(peer, jobs, 3);
	jobs_wait(peer, jobs, 3, true);
	for (int i = 0; i < 3; i++)
		must(jobs[i], MC_DONE, 0);
	assert_int_equal(target_say(second, "filled 0 5 0 %llu", MIB), 1);
	assert_true(filled(addr, 0, 4096, 8)); /* a view is a reference: it outlives the owner */
	mci_transport_shm.unmap(view);
	atomic_store(&me->refresh_error, -EAGAIN);
	mci_transport_shm.peer_close(peer);
	target_end(target);
	target_end(second);
}

static void test_what_was_in_flight_begins_anew_on_a_peer_that_came_back(void **state)
{
	static const char *const specs[] = {"shared:16777216:3", "heap:16777216:3"};
	static const uint64_t lengths[] = {4096, 16 * MIB};

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		for (unsigned int k = 0; k < 2; k++) {
			struct target *target = target_start(2, specs), *second = target_start(2, specs);
			struct mci_peer *peer = open_peer(&target->remote);

			me->info = second->remote.info;
			atomic_store(&me->refresh_error, 0);
			go_inside(peer, &target->remote.regions[i], lengths[k]);
			target_kill(target);
			come_out();
			must(in.job, MC_DONE, 0);
			assert_int_equal(target_say(second, "filled %u 42 0 %llu", i,
						    (unsigned long long)lengths[k]),
					 1);
			atomic_store(&me->refresh_error, -EAGAIN);
			mci_transport_shm.peer_close(peer);
			target_end(target);
			target_end(second);
		}
	}
}

static int setup(void **state)
{
	(void)state;
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
		cmocka_unit_test(test_unregister_waits_for_those_inside_and_what_it_waited_for_is_done),
		cmocka_unit_test(test_a_write_that_unregister_gave_up_on_is_not_done),
		cmocka_unit_test(test_without_the_fence_a_write_lands_after_unregister),
		cmocka_unit_test(test_under_load_no_write_lands_after_unregister),
		cmocka_unit_test(test_a_stopped_initiator_makes_unregister_busy_at_its_deadline),
		cmocka_unit_test(test_a_killed_initiator_is_not_waited_for),
		cmocka_unit_test(test_a_view_ends_with_its_holder_even_if_a_child_of_it_lives),
		cmocka_unit_test(test_a_target_killed_during_a_copy_means_failed),
		cmocka_unit_test(test_a_target_is_dead_even_if_a_child_of_it_holds_the_connection),
		cmocka_unit_test(test_without_the_look_at_the_end_a_dead_target_would_be_done),
		cmocka_unit_test(test_what_is_queued_fails_at_once_when_the_target_dies),
		cmocka_unit_test(test_after_a_restart_requests_are_stale),
		cmocka_unit_test(test_a_peer_that_came_back_with_its_content_is_used_again),
		cmocka_unit_test(test_what_was_in_flight_begins_anew_on_a_peer_that_came_back),
	};

	if (argc > 1 && !strcmp(argv[1], "target"))
		return target_main(argc - 2, argv + 2);
	if (argc > 1 && !strcmp(argv[1], "initiator"))
		return initiator_main(argc - 2, argv + 2);
	return run_over_both(tests, setup, teardown);
}
