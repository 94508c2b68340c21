// SPDX-License-Identifier: MIT
/* Threads for what blocks or computes. Jobs run in order of arrival; each then comes back to the store's
 * loop. */
#include "p2p/p2p.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mci_pool {
	struct mci_loop *loop;
	pthread_mutex_t lock; /* a leaf */
	pthread_cond_t more;
	STAILQ_HEAD(, mci_job) jobs;
	bool stopping;
	char name[16];
	unsigned int count;
	pthread_t thread[];
};

static void come_back(struct mci_task *task)
{
	struct mci_job *job = mci_of(task, struct mci_job, back);

	job->done(job);
}

static void *work(void *arg)
{
	struct mci_pool *pool = arg;
	struct mci_job *job;

	pthread_setname_np(pthread_self(), pool->name);
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!(job = STAILQ_FIRST(&pool->jobs)) && !pool->stopping)
			pthread_cond_wait(&pool->more, &pool->lock);
		if (!job)
			break;
		STAILQ_REMOVE_HEAD(&pool->jobs, next);
		pthread_mutex_unlock(&pool->lock);
		if (job->done) {
			job->run(job);
			job->back.fn = come_back;
			mci_loop_post(pool->loop, &job->back);
		} else {
			job->run(job);
		}
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

int mci_pool_start(const char *name, unsigned int threads, struct mci_loop *loop, struct mci_pool **out)
{
	struct mci_pool *pool = calloc(1, sizeof(*pool) + threads * sizeof(pool->thread[0]));
	sigset_t all, before;
	int ret = 0;

	if (!pool)
		return mci_fail(-ENOMEM, "no memory for the threads '%s'", name);
	pool->loop = loop;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	STAILQ_INIT(&pool->jobs);
	snprintf(pool->name, sizeof(pool->name), "%s", name);
	/* Signals are the application's: its own threads take them, never ours. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (!ret && pool->count < threads) {
		ret = -pthread_create(&pool->thread[pool->count], NULL, work, pool);
		pool->count += !ret;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret) {
		mci_pool_stop(pool);
		return mci_fail(ret, "cannot start %u threads '%s': %s; is a limit on threads reached?",
				threads, name, strerror(-ret));
	}
	*out = pool;
	return 0;
}

void mci_pool_add(struct mci_pool *pool, struct mci_job *job)
{
	job->pool = pool;
	pthread_mutex_lock(&pool->lock);
	STAILQ_INSERT_TAIL(&pool->jobs, job, next);
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
