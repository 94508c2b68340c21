// SPDX-License-Identifier: MIT
/* The event loop: tasks, timers, watches, and what happens when they are taken away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "net/loop.h"

static void ring(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static bool wait_until(atomic_int *value, int at_least)
{
	uint64_t deadline = mci_now_ns() + 10 * MCI_NS_PER_S;
	struct timespec pause = {.tv_nsec = 1000000};

	while (atomic_load(value) < at_least) {
		if (mci_now_ns() > deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

struct counter {
	struct mci_task task;
	struct mci_loop *loop;
	atomic_int *ran;
	int order, *next_order;
	int again;
	bool wrong;
};

static void count(struct mci_task *task)
{
	struct counter *counter = (struct counter *)task;

	counter->wrong |= !mci_loop_inside(counter->loop);
	if (counter->next_order)
		counter->wrong |= (*counter->next_order)++ != counter->order;
	atomic_fetch_add(counter->ran, 1);
	if (counter->again-- > 0)
		mci_loop_post(counter->loop, &counter->task);
}

static void test_tasks_run_in_order_inside_the_loop(void **state)
{
	struct counter counters[100] = {0};
	struct mci_loop *loop;
	atomic_int ran = 0;
	int i, next = 0;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	assert_false(mci_loop_inside(loop));
	for (i = 0; i < 100; i++) {
		counters[i] = (struct counter){
			.task.fn = count, .loop = loop, .ran = &ran, .order = i, .next_order = &next};
		mci_loop_post(loop, &counters[i].task);
	}
	assert_true(wait_until(&ran, 100));
	mci_loop_stop(loop);
	for (i = 0; i < 100; i++)
		assert_false(counters[i].wrong);
	assert_int_equal(next, 100);
}

struct poster {
	pthread_t thread;
	struct mci_loop *loop;
	atomic_int *ran;
	struct counter counters[500];
};

static void *post_all(void *arg)
{
	struct poster *poster = arg;
	int i;

	for (i = 0; i < 500; i++) {
		poster->counters[i].task.fn = count;
		poster->counters[i].loop = poster->loop;
		poster->counters[i].ran = poster->ran;
		mci_loop_post(poster->loop, &poster->counters[i].task);
	}
	return NULL;
}

static void test_no_task_of_many_threads_is_lost(void **state)
{
	struct poster *posters = calloc(4, sizeof(*posters));
	struct mci_loop *loop;
	atomic_int ran = 0;
	int i;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	for (i = 0; i < 4; i++) {
		posters[i].loop = loop;
		posters[i].ran = &ran;
		pthread_create(&posters[i].thread, NULL, post_all, &posters[i]);
	}
	for (i = 0; i < 4; i++)
		pthread_join(posters[i].thread, NULL);
	assert_true(wait_until(&ran, 2000));
	mci_loop_stop(loop);
	assert_int_equal(atomic_load(&ran), 2000);
	free(posters);
}

static void test_a_task_may_post_itself_again(void **state)
{
	struct counter counter = {.again = 9};
	struct mci_loop *loop;
	atomic_int ran = 0;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	counter.task.fn = count;
	counter.loop = loop;
	counter.ran = &ran;
	mci_loop_post(loop, &counter.task);
	assert_true(wait_until(&ran, 10));
	mci_loop_stop(loop);
	assert_int_equal(atomic_load(&ran), 10);
}

static void test_stop_runs_what_was_posted(void **state)
{
	struct counter counters[200] = {0};
	struct mci_loop *loop;
	atomic_int ran = 0;
	int i;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	for (i = 0; i < 200; i++) {
		counters[i] = (struct counter){.task.fn = count, .loop = loop, .ran = &ran, .again = 1};
		mci_loop_post(loop, &counters[i].task);
	}
	mci_loop_stop(loop);
	assert_int_equal(atomic_load(&ran), 400);
}

struct nested {
	struct mci_loop *loop;
	int depth;
	bool inside;
};

static void go_deeper(void *arg)
{
	struct nested *nested = arg;

	nested->inside = mci_loop_inside(nested->loop);
	if (++nested->depth < 3)
		mci_loop_call(nested->loop, go_deeper, nested);
}

static void test_call_waits_and_nests(void **state)
{
	struct nested nested = {0};

	(void)state;
	assert_int_equal(mci_loop_start("test", &nested.loop), 0);
	mci_loop_call(nested.loop, go_deeper, &nested);
	assert_int_equal(nested.depth, 3);
	assert_true(nested.inside);
	mci_loop_stop(nested.loop);
}

/* Two descriptors that are ready at once: whichever comes first deletes the other. */
struct pair {
	struct mci_watch watch;
	struct pair *other;
	struct mci_loop *loop;
	atomic_int *calls;
};

static void delete_other(struct mci_watch *watch, uint32_t events)
{
	struct pair *pair = (struct pair *)watch;

	(void)events;
	atomic_fetch_add(pair->calls, 1);
	mci_loop_del(pair->loop, &pair->other->watch);
	mci_loop_del(pair->loop, &pair->watch);
}

static void add_both(void *arg)
{
	struct pair *pairs = arg;
	int i;

	for (i = 0; i < 2; i++)
		ring(pairs[i].watch.fd);
	for (i = 0; i < 2; i++)
		assert_int_equal(mci_loop_add(pairs[i].loop, &pairs[i].watch, EPOLLIN), 0);
}

static void nothing(void *arg) { (void)arg; }

static void test_a_deleted_watch_is_not_called_for_events_already_fetched(void **state)
{
	struct pair pairs[2];
	struct mci_loop *loop;
	atomic_int calls = 0;
	int i, round;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	for (round = 1; round <= 20; round++) {
		for (i = 0; i < 2; i++) {
			pairs[i] = (struct pair){.other = &pairs[1 - i], .loop = loop, .calls = &calls};
			pairs[i].watch.fd = eventfd(0, EFD_CLOEXEC);
			pairs[i].watch.fn = delete_other;
		}
		mci_loop_call(loop, add_both, pairs);
		assert_true(wait_until(&calls, round));
		mci_loop_call(loop, nothing, NULL);
		mci_loop_call(loop, nothing, NULL);
		assert_int_equal(atomic_load(&calls), round);
		for (i = 0; i < 2; i++)
			close(pairs[i].watch.fd);
	}
	mci_loop_stop(loop);
}

struct bell {
	struct mci_watch watch;
	atomic_int calls;
};

static void on_bell(struct mci_watch *watch, uint32_t events)
{
	struct bell *bell = (struct bell *)watch;
	uint64_t value;

	if (events & EPOLLIN && read(watch->fd, &value, sizeof(value)) == sizeof(value))
		atomic_fetch_add(&bell->calls, 1);
}

static void test_events_can_be_switched_off_and_on(void **state)
{
	struct bell bell = {.watch.fn = on_bell};
	struct mci_loop *loop;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	bell.watch.fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(mci_loop_add(loop, &bell.watch, EPOLLIN), 0);
	ring(bell.watch.fd);
	assert_true(wait_until(&bell.calls, 1));
	assert_int_equal(mci_loop_modify(loop, &bell.watch, 0), 0);
	ring(bell.watch.fd);
	mci_loop_call(loop, nothing, NULL);
	mci_loop_call(loop, nothing, NULL);
	assert_int_equal(atomic_load(&bell.calls), 1);
	assert_int_equal(mci_loop_modify(loop, &bell.watch, EPOLLIN), 0);
	assert_true(wait_until(&bell.calls, 2));
	mci_loop_stop(loop);
	close(bell.watch.fd);
}

static void test_a_bad_descriptor_is_refused_with_a_sentence(void **state)
{
	struct mci_watch watch = {.fd = 1 << 20};
	struct mci_loop *loop;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	assert_int_equal(mci_loop_add(loop, &watch, EPOLLIN), -EBADF);
	assert_non_null(strstr(mc_errmsg(), "cannot watch"));
	mci_loop_stop(loop);
}

struct alarm {
	struct mci_timer timer;
	struct mci_loop *loop;
	struct alarm *victim;
	uint64_t rang_ns, again_ns;
	int *next_order, order, rounds;
	atomic_int *rang;
};

static void on_alarm(struct mci_timer *timer)
{
	struct alarm *alarm = (struct alarm *)timer;

	alarm->rang_ns = mci_now_ns();
	alarm->order = (*alarm->next_order)++;
	atomic_fetch_add(alarm->rang, 1);
	if (alarm->victim)
		mci_loop_timer_clear(alarm->loop, &alarm->victim->timer);
	if (alarm->rounds-- > 0)
		mci_loop_timer_set(alarm->loop, &alarm->timer, alarm->again_ns);
}

struct setting {
	struct mci_loop *loop;
	struct alarm *alarms;
	const uint64_t *at;
	int count;
};

static void set_alarms(void *arg)
{
	struct setting *s = arg;
	int i;

	for (i = 0; i < s->count; i++)
		mci_loop_timer_set(s->loop, &s->alarms[i].timer, s->at[i]);
}

static void test_timers_ring_in_time_order_and_not_early(void **state)
{
	static const int delays_ms[5] = {40, 10, 30, 20, 10};
	struct alarm alarms[5] = {0};
	uint64_t at[5], now = mci_now_ns();
	struct mci_loop *loop;
	atomic_int rang = 0;
	int i, next = 0;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	for (i = 0; i < 5; i++) {
		alarms[i] = (struct alarm){
			.timer.fn = on_alarm, .loop = loop, .next_order = &next, .rang = &rang};
		at[i] = now + (uint64_t)delays_ms[i] * MCI_NS_PER_MS;
	}
	mci_loop_call(loop, set_alarms, &(struct setting){loop, alarms, at, 5});
	assert_true(wait_until(&rang, 5));
	mci_loop_stop(loop);
	for (i = 0; i < 5; i++)
		assert_true(alarms[i].rang_ns >= at[i]);
	assert_int_equal(alarms[1].order, 0);
	assert_int_equal(alarms[4].order, 1);
	assert_int_equal(alarms[3].order, 2);
	assert_int_equal(alarms[2].order, 3);
	assert_int_equal(alarms[0].order, 4);
}

static void test_a_timer_can_clear_another_that_is_due(void **state)
{
	struct alarm alarms[3] = {0};
	uint64_t at[3] = {1, 2, 3};
	struct mci_loop *loop;
	atomic_int rang = 0;
	int i, next = 0;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	for (i = 0; i < 3; i++)
		alarms[i] = (struct alarm){
			.timer.fn = on_alarm, .loop = loop, .next_order = &next, .rang = &rang};
	alarms[0].victim = &alarms[1];
	mci_loop_call(loop, set_alarms, &(struct setting){loop, alarms, at, 3});
	assert_true(wait_until(&rang, 2));
	mci_loop_call(loop, nothing, NULL);
	mci_loop_stop(loop);
	assert_int_equal(alarms[1].rang_ns, 0);
	assert_int_equal(atomic_load(&rang), 2);
}

static void test_a_timer_set_to_the_past_again_and_again_starves_nobody(void **state)
{
	struct alarm alarm = {.timer.fn = on_alarm, .rounds = 1 << 30, .again_ns = 1};
	uint64_t at = 1;
	struct mci_loop *loop;
	atomic_int rang = 0;
	int next = 0;

	(void)state;
	assert_int_equal(mci_loop_start("test", &loop), 0);
	alarm.loop = loop;
	alarm.next_order = &next;
	alarm.rang = &rang;
	mci_loop_call(loop, set_alarms, &(struct setting){loop, &alarm, &at, 1});
	assert_true(wait_until(&rang, 10));
	mci_loop_call(loop, nothing, NULL); /* comes through */
	mci_loop_stop(loop);
}

static void test_loops_are_shared_out_in_turn(void **state)
{
	struct mci_loops loops;
	int i;

	(void)state;
	assert_int_equal(mci_loops_start("test", 3, &loops), 0);
	assert_int_equal(loops.count, 3);
	for (i = 0; i < 6; i++)
		assert_ptr_equal(mci_loops_next(&loops), loops.loop[i % 3]);
	mci_loops_stop(&loops);
	assert_int_equal(loops.count, 0);
	mci_loops_stop(&loops);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tasks_run_in_order_inside_the_loop),
		cmocka_unit_test(test_no_task_of_many_threads_is_lost),
		cmocka_unit_test(test_a_task_may_post_itself_again),
		cmocka_unit_test(test_stop_runs_what_was_posted),
		cmocka_unit_test(test_call_waits_and_nests),
		cmocka_unit_test(test_a_deleted_watch_is_not_called_for_events_already_fetched),
		cmocka_unit_test(test_events_can_be_switched_off_and_on),
		cmocka_unit_test(test_a_bad_descriptor_is_refused_with_a_sentence),
		cmocka_unit_test(test_timers_ring_in_time_order_and_not_early),
		cmocka_unit_test(test_a_timer_can_clear_another_that_is_due),
		cmocka_unit_test(test_a_timer_set_to_the_past_again_and_again_starves_nobody),
		cmocka_unit_test(test_loops_are_shared_out_in_turn),
	};

	return cmocka_run_group_tests_name("net_loop", tests, NULL, NULL);
}
