// SPDX-License-Identifier: MIT
/* Threads for what blocks or computes. pool->lock is a leaf. */
#include "net/work.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"

struct mci_pool {
	pthread_mutex_t lock;
	pthread_cond_t more;
	STAILQ_HEAD(, mci_job) jobs;
	unsigned int waiting, idle; /* jobs that no thread has taken; threads without one */
	bool stopping;
	char name[16];
	unsigned int count, max;
	pthread_t thread[];
};

static void come_back(struct mci_task *task)
{
	struct mci_job *job = (struct mci_job *)((char *)task - offsetof(struct mci_job, back));

	job->done(job);
}

static void *work(void *arg)
{
	struct mci_pool *pool = arg;
	struct mci_job *job;

	pthread_setname_np(pthread_self(), pool->name);
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!(job = STAILQ_FIRST(&pool->jobs)) && !pool->stopping) {
			pool->idle++;
			pthread_cond_wait(&pool->more, &pool->lock);
			pool->idle--;
		}
		if (!job)
			break;
		STAILQ_REMOVE_HEAD(&pool->jobs, next);
		pool->waiting--;
		pthread_mutex_unlock(&pool->lock);
		if (job->done) {
			job->run(job);
			job->back.fn = come_back;
			mci_loop_post(job->loop, &job->back);
		} else {
			job->run(job);
		}
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Before others see the pool, or pool->lock is held. */
static int start_thread(struct mci_pool *pool)
{
	int ret = mci_thread_start(&pool->thread[pool->count], work, pool);

	pool->count += !ret;
	return ret;
}

int mci_pool_start(const char *name, unsigned int threads, struct mci_pool **out)
{
	struct mci_pool *pool = calloc(1, sizeof(*pool) + threads * sizeof(pool->thread[0]));
	int ret;

	if (!pool)
		return mci_fail(-ENOMEM, "no memory for the threads '%s'", name);
	pool->max = threads;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	STAILQ_INIT(&pool->jobs);
	snprintf(pool->name, sizeof(pool->name), "%s", name);
	ret = start_thread(pool);
	if (ret) {
		mci_pool_stop(pool);
		return mci_fail(ret, "cannot start a thread '%s': %s; is a limit on threads reached?", name,
				strerror(-ret));
	}
	*out = pool;
	return 0;
}

void mci_pool_add(struct mci_pool *pool, struct mci_job *job)
{
	int ret = 0;

	job->pool = pool;
	pthread_mutex_lock(&pool->lock);
	STAILQ_INSERT_TAIL(&pool->jobs, job, next);
	pool->waiting++;
	if (pool->idle < pool->waiting && pool->count < pool->max && !pool->stopping)
		ret = start_thread(pool);
	if (ret)
		mci_debug("no more than %u threads '%s': %s", pool->count, pool->name, strerror(-ret));
	pthread_cond_signal(&pool->more);
	pthread_mutex_unlock(&pool->lock);
}

void mci_pool_stop(struct mci_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	while (pool->count)
		pthread_join(pool->thread[--pool->count], NULL);
	pthread_cond_destroy(&pool->more);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
