// SPDX-License-Identifier: MIT
/*
 * Event loop: an epoll thread with tasks from other threads, timers and watches.
 * Lock order: loop->lock is a leaf, taken for the task list and the wake-up only; nothing of the
 * callers runs under it. Everything else belongs to the loop thread.
 */
#include "net/loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"

#define EVENTS_PER_WAIT 128

struct mci_loop {
	int epoll_fd, wake_fd;
	pthread_t thread;

	pthread_mutex_t lock;
	struct mci_task *first, **last; /* posted, in order */
	bool sleeping;			/* in epoll_wait(), or about to be: a post must wake it */
	bool stopping;
	bool has_core;	 /* its thread stays on one core; set before the loop is used */
	cpu_set_t cores; /* that it could run on before */

	/* loop thread only */
	uint64_t linger_until; /* do not sleep before this; 0 = nothing is expected */
	struct mci_timer *timers; /* sorted by time, first is next */
	struct mci_timer *timers_last;
	uint64_t timers_now; /* while timers run: their "now"; else 0 */
	struct epoll_event events[EVENTS_PER_WAIT];
	int event_next, event_count; /* fetched, not yet handed out */
};

static _Thread_local struct mci_loop *current_loop;

bool mci_loop_inside(const struct mci_loop *loop) { return current_loop == loop; }

/* Tasks posted before this call, in order; what they post comes in the next round, after I/O. */
static void run_tasks(struct mci_loop *loop)
{
	struct mci_task *task, *next;

	pthread_mutex_lock(&loop->lock);
	loop->sleeping = false;
	task = loop->first;
	loop->first = NULL;
	loop->last = &loop->first;
	pthread_mutex_unlock(&loop->lock);

	for (; task; task = next) {
		next = task->next; /* once fn has begun the task may be posted anew, or be gone */
		task->next = NULL;
		task->fn(task);
	}
}

static void run_timers(struct mci_loop *loop)
{
	struct mci_timer *timer;

	if (!loop->timers)
		return;
	loop->timers_now = mci_now_ns();
	while ((timer = loop->timers) && timer->at_ns <= loop->timers_now) {
		mci_loop_timer_clear(loop, timer);
		timer->fn(timer);
	}
	loop->timers_now = 0;
}

static void run_events(struct mci_loop *loop)
{
	while (loop->event_next < loop->event_count) {
		struct epoll_event *event = &loop->events[loop->event_next++];
		struct mci_watch *watch = event->data.ptr;
		uint64_t count;

		if (watch)
			watch->fn(watch, event->events);
		else if (event->events && read(loop->wake_fd, &count, sizeof(count)) < 0)
			continue; /* EAGAIN: somebody's wake-up was counted before */
	}
	loop->event_next = 0;
	loop->event_count = 0;
}

static bool lingers(struct mci_loop *loop)
{
	if (loop->linger_until && mci_now_ns() >= loop->linger_until)
		loop->linger_until = 0;
	return loop->linger_until;
}

static void *loop_main(void *arg)
{
	struct mci_loop *loop = arg;

	current_loop = loop;
	for (;;) {
		int timeout = loop->timers ? mci_ms_left(loop->timers->at_ns) : -1;
		bool linger = lingers(loop), stop, idle;
		int n;

		pthread_mutex_lock(&loop->lock);
		idle = !loop->first;
		stop = loop->stopping && idle;
		loop->sleeping = idle && !stop && !linger;
		pthread_mutex_unlock(&loop->lock);
		if (stop)
			return NULL;

		n = epoll_wait(loop->epoll_fd, loop->events, EVENTS_PER_WAIT, idle && !linger ? timeout : 0);
		if (linger && idle && n <= 0)
			sched_yield();
		loop->event_next = 0;
		loop->event_count = n > 0 ? n : 0; /* n < 0 is EINTR only */
		run_tasks(loop);
		run_events(loop);
		run_timers(loop);
	}
}

int mci_loop_start(const char *name, struct mci_loop **out)
{
	struct epoll_event wake = {.events = EPOLLIN, .data.ptr = NULL};
	struct mci_loop *loop;
	char short_name[16];
	int ret;

	loop = calloc(1, sizeof(*loop));
	if (!loop)
		return mci_fail(-ENOMEM, "no memory for event loop '%s'", name);
	loop->last = &loop->first;
	pthread_mutex_init(&loop->lock, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0) {
		ret = mci_fail(-errno, "cannot create an epoll descriptor for event loop '%s': %s%s", name,
			       strerror(errno), errno == EMFILE ? "; raise the limit (ulimit -n)" : "");
		goto err_free;
	}
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0) {
		ret = mci_fail(-errno, "cannot create an eventfd for event loop '%s': %s%s", name,
			       strerror(errno), errno == EMFILE ? "; raise the limit (ulimit -n)" : "");
		goto err_close_epoll;
	}
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &wake) < 0) {
		ret = mci_fail(-errno, "cannot watch the eventfd of event loop '%s': %s", name,
			       strerror(errno));
		goto err_close_wake;
	}

	ret = mci_thread_start(&loop->thread, loop_main, loop);
	if (ret) {
		ret = mci_fail(ret, "cannot start the thread of event loop '%s': %s", name, strerror(-ret));
		goto err_close_wake;
	}
	snprintf(short_name, sizeof(short_name), "%s", name);
	pthread_setname_np(loop->thread, short_name);
	*out = loop;
	return 0;

err_close_wake:
	close(loop->wake_fd);
err_close_epoll:
	close(loop->epoll_fd);
err_free:
	pthread_mutex_destroy(&loop->lock);
	free(loop);
	return ret;
}

/* The write is done under the lock: whoever saw the task run may free the loop, and we are out of it then. */
static void wake(struct mci_loop *loop)
{
	static const uint64_t one = 1;

	if (!loop->sleeping)
		return;
	loop->sleeping = false;
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: 2^64-1 wake-ups are pending, that is enough */
}

static void finish(struct mci_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->stopping = true;
	wake(loop);
	pthread_mutex_unlock(&loop->lock);
	pthread_join(loop->thread, NULL);
}

static void destroy(struct mci_loop *loop)
{
	close(loop->wake_fd);
	close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

void mci_loop_stop(struct mci_loop *loop)
{
	if (!loop)
		return;
	finish(loop);
	destroy(loop);
}

static int control(struct mci_loop *loop, int op, struct mci_watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	if (epoll_ctl(loop->epoll_fd, op, watch->fd, &event) < 0)
		return mci_fail(-errno, "cannot watch descriptor %d: %s", watch->fd, strerror(errno));
	return 0;
}

int mci_loop_add(struct mci_loop *loop, struct mci_watch *watch, uint32_t events)
{
	return control(loop, EPOLL_CTL_ADD, watch, events);
}

int mci_loop_modify(struct mci_loop *loop, struct mci_watch *watch, uint32_t events)
{
	return control(loop, EPOLL_CTL_MOD, watch, events);
}

void mci_loop_del(struct mci_loop *loop, struct mci_watch *watch)
{
	struct epoll_event unused = {0};
	int i;

	if (watch->fd >= 0)
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, &unused);
	for (i = loop->event_next; i < loop->event_count; i++) {
		if (loop->events[i].data.ptr != watch)
			continue;
		loop->events[i].data.ptr = NULL;
		loop->events[i].events = 0;
	}
}

void mci_loop_post(struct mci_loop *loop, struct mci_task *task)
{
	pthread_mutex_lock(&loop->lock);
	task->next = NULL;
	*loop->last = task;
	loop->last = &task->next;
	wake(loop);
	pthread_mutex_unlock(&loop->lock);
}

void mci_loop_linger(struct mci_loop *loop, uint64_t ns) { loop->linger_until = mci_now_ns() + ns; }

bool mci_loop_has_core(const struct mci_loop *loop) { return loop->has_core; }

int mci_thread_start(pthread_t *thread, void *(*fn)(void *arg), void *arg)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t detached;
	int ret;

	pthread_attr_init(&attr);
	if (!thread)
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (current_loop && current_loop->has_core)
		pthread_attr_setaffinity_np(&attr, sizeof(current_loop->cores), &current_loop->cores);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = -pthread_create(thread ? thread : &detached, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return ret;
}

struct call {
	struct mci_task task;
	void (*fn)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool done;
};

static void run_call(struct mci_task *task)
{
	struct call *call = (struct call *)task;

	call->fn(call->arg);
	pthread_mutex_lock(&call->lock);
	call->done = true;
	pthread_cond_signal(&call->changed);
	pthread_mutex_unlock(&call->lock);
}

void mci_loop_call(struct mci_loop *loop, void (*fn)(void *arg), void *arg)
{
	struct call call = {.task.fn = run_call, .fn = fn, .arg = arg};

	if (mci_loop_inside(loop)) {
		fn(arg);
		return;
	}
	pthread_mutex_init(&call.lock, NULL);
	pthread_cond_init(&call.changed, NULL);
	mci_loop_post(loop, &call.task);
	pthread_mutex_lock(&call.lock);
	while (!call.done)
		pthread_cond_wait(&call.changed, &call.lock);
	pthread_mutex_unlock(&call.lock);
	pthread_cond_destroy(&call.changed);
	pthread_mutex_destroy(&call.lock);
}

/* Most timers are "now + the same time-out": the place is found from the far end. */
void mci_loop_timer_set(struct mci_loop *loop, struct mci_timer *timer, uint64_t at_ns)
{
	struct mci_timer *after;

	mci_loop_timer_clear(loop, timer);
	/* A timer that sets itself to the past must not keep the others and the I/O waiting. */
	if (at_ns <= loop->timers_now)
		at_ns = loop->timers_now + 1;
	timer->at_ns = at_ns;
	for (after = loop->timers_last; after && after->at_ns > at_ns; after = after->prev)
		;
	timer->prev = after;
	timer->next = after ? after->next : loop->timers;
	if (timer->next)
		timer->next->prev = timer;
	else
		loop->timers_last = timer;
	if (after)
		after->next = timer;
	else
		loop->timers = timer;
	timer->armed = true;
}

void mci_loop_timer_clear(struct mci_loop *loop, struct mci_timer *timer)
{
	if (!timer->armed)
		return;
	if (timer->prev)
		timer->prev->next = timer->next;
	else
		loop->timers = timer->next;
	if (timer->next)
		timer->next->prev = timer->prev;
	else
		loop->timers_last = timer->prev;
	timer->prev = NULL;
	timer->next = NULL;
	timer->armed = false;
}

/*
 * Loops that are as many as the cores get one each: two processes of one host that both do so, and use
 * loops of one number for a connection, keep its two ends on one core (mci_loops_at()). With more cores
 * than loops the scheduler knows better.
 */
static void take_cores(struct mci_loops *loops)
{
	cpu_set_t all, one;
	unsigned int i = 0;
	int cpu;

	if (sched_getaffinity(0, sizeof(all), &all) || loops->count != (unsigned int)CPU_COUNT(&all))
		return;
	for (cpu = 0; cpu < CPU_SETSIZE && i < loops->count; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		loops->loop[i]->cores = all;
		loops->loop[i]->has_core =
			!pthread_setaffinity_np(loops->loop[i]->thread, sizeof(one), &one);
		i++;
	}
}

int mci_loops_start(const char *name, unsigned int count, struct mci_loops *loops)
{
	struct mci_loops made = {.count = 0};
	char full[64];
	int ret;

	if (!count)
		count = 1;
	made.loop = calloc(count, sizeof(struct mci_loop *));
	if (!made.loop)
		return mci_fail(-ENOMEM, "no memory for %u event loops", count);
	for (; made.count < count; made.count++) {
		snprintf(full, sizeof(full), "%s-%u", name, made.count);
		ret = mci_loop_start(full, &made.loop[made.count]);
		if (ret)
			goto err_stop;
	}
	take_cores(&made);
	loops->loop = made.loop;
	loops->count = made.count;
	loops->turn = 0;
	return 0;

err_stop:
	mci_loops_stop(&made);
	return ret;
}

void mci_loops_stop(struct mci_loops *loops)
{
	unsigned int i;

	/* All threads end before any loop is freed: their last tasks may still post to one another. */
	for (i = 0; i < loops->count; i++)
		finish(loops->loop[i]);
	while (loops->count)
		destroy(loops->loop[--loops->count]);
	free(loops->loop);
	loops->loop = NULL;
}

struct mci_loop *mci_loops_at(struct mci_loops *loops, unsigned int i) { return loops->loop[i % loops->count]; }

struct mci_loop *mci_loops_next(struct mci_loops *loops) { return loops->loop[loops->turn++ % loops->count]; }
