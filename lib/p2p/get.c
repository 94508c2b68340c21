// SPDX-License-Identifier: MIT
/* Fetches as the caller sees them: to begin one, to wait for it, to look at it, to end it. */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_fork(const struct mc_p2p_task *task)
{
	return getpid() == task->pid ? 0
				     : mci_fail(-ECHILD,
						"the fetch of '%s' belongs to the parent process; after fork() the "
						"child may only exec or exit, or open a store of its own",
						task->name);
}

static void free_task(struct mc_p2p_task *task)
{
	pthread_cond_destroy(&task->changed);
	pthread_mutex_destroy(&task->lock);
	free(task->ranges);
	free(task->path);
	free(task->location);
	free(task);
}

static int copy_place(struct mc_p2p_task *task, const struct mc_p2p_place *place)
{
	task->place = *place;
	if (place->count && place->ranges) {
		task->ranges = calloc(place->count, sizeof(*task->ranges));
		if (!task->ranges)
			return -ENOMEM;
		memcpy(task->ranges, place->ranges, place->count * sizeof(*task->ranges));
		task->place.ranges = task->ranges;
	}
	if (place->path) {
		task->path = strdup(place->path);
		if (!task->path)
			return -ENOMEM;
		task->place.path = task->path;
	}
	if (place->location) {
		task->location = strdup(place->location);
		if (!task->location)
			return -ENOMEM;
	}
	return 0;
}

static struct mc_p2p_task *new_task(struct mc_p2p *store, const struct mc_p2p_place *place,
				    const struct mc_p2p_get_attr *attr)
{
	struct mc_p2p_task *task = calloc(1, sizeof(*task));
	pthread_condattr_t monotonic;

	if (!task)
		return NULL;
	task->store = store;
	task->attr = *attr;
	task->pid = getpid();
	task->start_ns = mci_now_ns();
	task->deadline_ns = attr->timeout_ms ? task->start_ns + attr->timeout_ms * MCI_NS_PER_MS : UINT64_MAX;
	pthread_mutex_init(&task->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&task->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (copy_place(task, place)) {
		free_task(task);
		return NULL;
	}
	return task;
}

static int check_get(const struct mc_p2p_place *place, const struct mc_p2p_get_attr *attr)
{
	if (!place || place->size != sizeof(*place) || place->count > MCI_P2P_RANGES_MAX)
		return mci_fail(
			-EINVAL,
			"struct mc_p2p_place is missing, not as this library knows it, or has more than %u "
			"ranges; use MC_P2P_PLACE_INIT",
			MCI_P2P_RANGES_MAX);
	if (attr->size != sizeof(*attr) || (attr->flags & ~MC_P2P_RESUME) || attr->reserved0)
		return mci_fail(
			-EINVAL,
			"struct mc_p2p_get_attr has a size, a flag or a reserved member that this library "
			"does not know; use MC_P2P_GET_ATTR_INIT");
	return 0;
}

/**
 * mc_p2p_get_start() - begin to fetch an object
 * @store: store
 * @name: "name", or "name@root"
 * @place: where it shall go; its description is copied
 * @given: NULL for the defaults
 * @out: the fetch; mc_p2p_task_free() it
 *
 * Returns at once; that the object is unknown, or that the place does not fit, is the fetch's result. Every
 * piece that is verified is served to others from then on, also after the fetch, until
 * mc_p2p_delete_replica(). A fetch that fails or is cancelled serves no more; what it has stays in the place
 * (see MC_P2P_RESUME). While pieces are missing because nobody who is there holds them the fetch waits for a
 * new seed, and says so in its progress.
 *
 * Return: 0; -EINVAL; -EALREADY: this store has that object, or is fetching it; -EAGAIN: no thread; -ENOMEM;
 * -ECHILD.
 */
int mc_p2p_get_start(mc_p2p *store, const char *name, const struct mc_p2p_place *place,
		     const struct mc_p2p_get_attr *given, mc_p2p_task **out)
{
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct mc_p2p_task *task;
	char why[MCI_P2P_SENTENCE];
	int ret;

	ret = mci_engine_check(store->engine);
	if (ret)
		return ret;
	if (given)
		attr = *given;
	ret = check_get(place, &attr);
	if (ret)
		return ret;
	task = new_task(store, place, &attr);
	if (!task)
		return mci_fail(-ENOMEM, "no memory for a fetch");
	ret = mci_object_name(name, task->name, task->root, &task->by_root);
	if (!ret)
		ret = mci_object_reserve(store, task->name, false, &task->object);
	if (ret)
		goto err_free;
	ret = mci_task_start(task);
	if (ret)
		goto err_leave;
	pthread_mutex_lock(&store->lock);
	LIST_INSERT_HEAD(&store->tasks, task, next);
	pthread_mutex_unlock(&store->lock);
	*out = task;
	return 0;

err_leave:
	snprintf(why, sizeof(why), "%s", mc_errmsg());
	mci_object_leave(task->object);
	mci_errmsg_set(why);
err_free:
	free_task(task);
	return ret;
}

/**
 * mc_p2p_get() - fetch an object, and serve it from then on
 *
 * mc_p2p_get_start(), and the wait for its end.
 *
 * Return: 0: all of it is in the place, every piece verified; -ENOENT: no such object, or not with that root;
 * -EINVAL: the place does not fit (the sentence names both size lists); -ENOSPC: no space for the file; -ENOTDIR: its
 * directory is not there; -EBUSY, -ESTALE: somebody else writes or wrote the same file;
 * -ETIMEDOUT: see timeout_ms and stall_ms; -ECANCELED; -EKEYREJECTED: wrong key; -EPERM: nobody to trust
 * (P2PHANDSHAKE, --insecure); errors of mc_p2p_get_start() and of the metadata service.
 */
int mc_p2p_get(mc_p2p *store, const char *name, const struct mc_p2p_place *place,
	       const struct mc_p2p_get_attr *attr)
{
	char why[MCI_P2P_SENTENCE];
	mc_p2p_task *task;
	int ret;

	ret = mc_p2p_get_start(store, name, place, attr, &task);
	if (ret)
		return ret;
	ret = mc_p2p_task_wait(task, -1);
	snprintf(why, sizeof(why), "%s", mc_p2p_task_error(task));
	mc_p2p_task_free(task);
	if (ret)
		mci_errmsg_set(why);
	return ret;
}

/**
 * mc_p2p_task_wait() - wait for the end of a fetch
 * @task: fetch
 * @timeout_ms: -1 = as long as it takes; 0 = look only
 *
 * Return: 0: it is done; -ETIME: it still runs; -ECHILD after fork(); else why it failed (see mc_p2p_get()).
 */
int mc_p2p_task_wait(mc_p2p_task *task, int timeout_ms)
{
	uint64_t at = mci_now_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * MCI_NS_PER_MS;
	struct timespec until = {.tv_sec = (time_t)(at / MCI_NS_PER_S), .tv_nsec = (long)(at % MCI_NS_PER_S)};
	int ret = check_fork(task);

	if (ret)
		return ret;
	pthread_mutex_lock(&task->lock);
	while (!task->finished && !ret)
		ret = timeout_ms < 0 ? pthread_cond_wait(&task->changed, &task->lock)
				     : pthread_cond_timedwait(&task->changed, &task->lock, &until);
	ret = task->finished ? task->result : -ETIME;
	pthread_mutex_unlock(&task->lock);
	if (ret && ret != -ETIME)
		mci_errmsg_set(task->error);
	return ret;
}

/**
 * mc_p2p_task_cancel() - ask for an early end
 *
 * Returns at once; the fetch ends soon with -ECANCELED, or as it would have. Also from a progress callback.
 * Return: 0; -ECHILD after fork().
 */
int mc_p2p_task_cancel(mc_p2p_task *task)
{
	if (check_fork(task))
		return -ECHILD;
	atomic_store(&task->cancelled, true);
	mci_task_poke(task);
	return 0;
}

/**
 * mc_p2p_task_progress() - how far a fetch is, or was at its end
 * @progress: its size must be set
 *
 * Return: 0; -EINVAL: size; -ECHILD after fork().
 */
int mc_p2p_task_progress(mc_p2p_task *task, struct mc_p2p_progress *progress)
{
	bool finished;

	if (check_fork(task))
		return -ECHILD;
	if (!progress || progress->size != sizeof(*progress))
		return mci_fail(-EINVAL,
				"struct mc_p2p_progress of %zu bytes is not known, this library has %zu; set "
				"its size",
				progress ? progress->size : 0, sizeof(*progress));
	pthread_mutex_lock(&task->lock);
	finished = task->finished;
	pthread_mutex_unlock(&task->lock);
	if (!finished)
		mci_task_look(task);
	pthread_mutex_lock(&task->lock);
	*progress = task->progress;
	pthread_mutex_unlock(&task->lock);
	progress->size = sizeof(*progress);
	return 0;
}

/** mc_p2p_task_error() - why a fetch that ended failed, as a sentence; "" before that, and after fork(). Valid
 * until it is freed. */
const char *mc_p2p_task_error(mc_p2p_task *task)
{
	const char *text;

	if (check_fork(task))
		return "";
	pthread_mutex_lock(&task->lock);
	text = task->finished ? task->error : "";
	pthread_mutex_unlock(&task->lock);
	return text;
}

/**
 * mc_p2p_task_free() - end the handle of a fetch; what it fetched stays and is served
 *
 * Return: 0; -EBUSY: it still runs: wait for it, or cancel it and wait; -ECHILD after fork().
 */
int mc_p2p_task_free(mc_p2p_task *task)
{
	bool finished;

	if (!task)
		return 0;
	if (check_fork(task))
		return -ECHILD;
	pthread_mutex_lock(&task->lock);
	finished = task->finished;
	pthread_mutex_unlock(&task->lock);
	if (!finished)
		return mci_fail(-EBUSY, "the fetch of '%s' still runs; wait for it, or cancel it and wait",
				task->name);
	if (task->store) {
		pthread_mutex_lock(&task->store->lock);
		LIST_REMOVE(task, next);
		pthread_mutex_unlock(&task->store->lock);
		pthread_join(task->thread, NULL);
	}
	free_task(task);
	return 0;
}

void mci_task_end_all(struct mc_p2p *store)
{
	struct mc_p2p_task *task;

	pthread_mutex_lock(&store->lock);
	LIST_FOREACH(task, &store->tasks, next)
		atomic_store(&task->cancelled, true);
	while ((task = LIST_FIRST(&store->tasks))) {
		LIST_REMOVE(task, next);
		pthread_mutex_unlock(&store->lock);
		mci_task_poke(task);
		pthread_join(task->thread, NULL);
		task->store = NULL;
		pthread_mutex_lock(&store->lock);
	}
	pthread_mutex_unlock(&store->lock);
}
