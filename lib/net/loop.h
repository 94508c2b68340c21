/* SPDX-License-Identifier: MIT */
/* Event loop: one epoll thread each; watches, tasks from other threads, timers. Idle = asleep. */
#ifndef MCI_LOOP_H
#define MCI_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mci_loop;

/* A watched descriptor; embed it. @fn runs in the loop thread. */
struct mci_watch {
	int fd;
	void (*fn)(struct mci_watch *watch, uint32_t events);
};

/* Work handed to the loop thread; embed it. It may be posted anew once @fn has begun. */
struct mci_task {
	void (*fn)(struct mci_task *task);
	struct mci_task *next;
};

/* One-shot timer; embed it, zeroed. Loop thread only. */
struct mci_timer {
	void (*fn)(struct mci_timer *timer);
	uint64_t at_ns;		       /* CLOCK_MONOTONIC */
	struct mci_timer *prev, *next; /* loop's sorted list */
	bool armed;
};

int mci_loop_start(const char *name, struct mci_loop **loop);
void mci_loop_stop(struct mci_loop *loop); /* runs what is posted, joins, frees; not from inside */
bool mci_loop_inside(const struct mci_loop *loop);

/* Its thread stays on one core of its own (mci_loops_start()). */
bool mci_loop_has_core(const struct mci_loop *loop);
/* A thread of ours: it gets no signals, which are the application's, and runs on any core, also when a loop thread that
 * has its own starts it. @thread: NULL to detach it. 0 or -errno. */
int mci_thread_start(pthread_t *thread, void *(*fn)(void *arg), void *arg);
/* Loop thread: work is expected within @ns, so look for it that long before sleeping, behind other threads. */
void mci_loop_linger(struct mci_loop *loop, uint64_t ns);

/* Any thread. @events as for epoll, EPOLLET included if wanted. 0 or -errno. */
int mci_loop_add(struct mci_loop *loop, struct mci_watch *watch, uint32_t events);
int mci_loop_modify(struct mci_loop *loop, struct mci_watch *watch, uint32_t events);
/* Loop thread only: after it returns @fn is not called again, not even for events already fetched. */
void mci_loop_del(struct mci_loop *loop, struct mci_watch *watch);

/* Any thread, never fails, no allocation. */
void mci_loop_post(struct mci_loop *loop, struct mci_task *task);
/* Post @fn(arg) and wait until it ran; called inside the loop it runs at once. */
void mci_loop_call(struct mci_loop *loop, void (*fn)(void *arg), void *arg);

void mci_loop_timer_set(struct mci_loop *loop, struct mci_timer *timer, uint64_t at_ns);
void mci_loop_timer_clear(struct mci_loop *loop, struct mci_timer *timer);

/* A fixed group of loops, shared out in turn. */
struct mci_loops {
	unsigned int count;
	_Atomic unsigned int turn;
	struct mci_loop **loop;
};
int mci_loops_start(const char *name, unsigned int count, struct mci_loops *loops);
void mci_loops_stop(struct mci_loops *loops);
struct mci_loop *mci_loops_at(struct mci_loops *loops, unsigned int i); /* modulo their count */
struct mci_loop *mci_loops_next(struct mci_loops *loops);

#endif
