// SPDX-License-Identifier: MIT
/*
 * Fetches as the caller sees them. Each has a thread of its own for what blocks: record, place, hashing what
 * is there, member key; then it waits for the loop, tells of the progress, and ends it. Lock: task->lock, a
 * leaf.
 */
#include "p2p/p2p.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_MS 100u
#define LOOK_MS 500u			  /* where nobody wants to be told */
#define MISSING_NS (1000 * MCI_NS_PER_MS) /* members need a moment to find each other */

/* ---- progress ---- */

static int fill(void *arg)
{
	struct mc_p2p_task *task = arg;
	struct mci_object *object = task->shown;
	struct mc_p2p_progress progress = {.size = sizeof(progress)};

	if (!object)
		return 0; /* it just ended */
	if (object->known)
		mci_fetch_progress(object, &progress);
	if (progress.missing && progress.pieces_held < progress.pieces && progress.elapsed_ns > MISSING_NS)
		snprintf(progress.note, sizeof(progress.note),
			 "waiting for a new seed: %u of %u pieces are held by nobody who is there%s",
			 progress.missing, progress.pieces,
			 object->lost ? ", and the metadata service does not answer" : "");
	else
		snprintf(progress.note, sizeof(progress.note), "%s", object->note);
	pthread_mutex_lock(&task->lock);
	task->progress = progress;
	pthread_mutex_unlock(&task->lock);
	return 0;
}

static void tell(struct mc_p2p_task *task)
{
	struct mc_p2p_progress progress;

	mci_store_call(task->store, fill, task);
	pthread_mutex_lock(&task->lock);
	progress = task->progress;
	pthread_mutex_unlock(&task->lock);
	if (progress.missing && progress.elapsed_ns > MISSING_NS && !task->missing_told)
		mci_warn("object '%s': %s", task->name, progress.note);
	task->missing_told = progress.missing && progress.elapsed_ns > MISSING_NS;
	if (task->attr.progress)
		task->attr.progress(&progress, task->attr.progress_arg);
}

void mci_task_poke(struct mc_p2p_task *task)
{
	pthread_mutex_lock(&task->lock);
	pthread_cond_broadcast(&task->changed);
	pthread_mutex_unlock(&task->lock);
}

void mci_task_complete(struct mc_p2p_task *task)
{
	pthread_mutex_lock(&task->lock);
	task->complete = true;
	pthread_cond_broadcast(&task->changed);
	pthread_mutex_unlock(&task->lock);
}

/* ---- the fetch ---- */

static int cancelled(const struct mc_p2p_task *task)
{
	return atomic_load(&task->cancelled)
		       ? mci_fail(-ECANCELED, "the fetch of '%s' was cancelled", task->name)
		       : 0;
}

static int late(struct mc_p2p_task *task, const char *limit, uint32_t ms)
{
	const struct mc_p2p_progress *now = &task->progress;
	bool missing = now->missing;

	return mci_fail(-ETIMEDOUT,
			"object '%s': %s %u ms; %u of %u pieces are here, with %u other members%s%.200s",
			task->name, limit, ms, now->pieces_held, now->pieces, now->members,
			now->note[0] ? missing ? "; " : "; last: " : "", now->note);
}

/* What is in the place already. */
static int look_through(struct mc_p2p_task *task, uint8_t *held)
{
	struct mci_object *object = task->object;

	if (object->place.path ? object->place.fresh : !(task->attr.flags & MC_P2P_RESUME))
		return 0;
	return mci_object_hash(object, held, &task->cancelled);
}

/* The record may have gone, or have become another's, while we got ready. */
static int still_there(struct mc_p2p_task *task)
{
	struct mci_found found = {0};
	uint64_t version;
	int ret;

	if (!task->store->metadata)
		return 0;
	ret = mci_directory_read_layout(task->store, task->name, &found, &version);
	if (!ret && memcmp(found.manifest->root, task->object->manifest->root, MCI_P2P_HASH))
		ret = mci_fail(-ENOENT,
			       "object '%s' was replaced by other content at this moment; fetch it again",
			       task->name);
	mci_manifest_free(found.manifest);
	return ret;
}

static int begin(struct mc_p2p_task *task)
{
	struct mci_object *object = task->object;
	struct mci_found found = {0};
	uint8_t *held;
	int ret;

	ret = mci_directory_read(task->store, task->name, task->by_root ? task->root : NULL, &found);
	if (ret)
		return ret;
	object->manifest = found.manifest;
	object->max_shard_size = found.max_shard_size;
	ret = cancelled(task);
	if (!ret)
		ret = mci_object_no_twin(object);
	if (!ret)
		ret = mci_place_sink(task->store, &task->place, task->name, object->manifest, &object->place);
	if (ret)
		return ret;
	held = calloc(object->manifest->piece_count, 1);
	if (!held)
		return mci_fail(-ENOMEM, "no memory for the %u pieces of '%s'", object->manifest->piece_count,
				task->name);
	ret = look_through(task, held);
	if (!ret)
		ret = cancelled(task);
	if (!ret)
		ret = mci_parts_open(task->store, object->manifest->piece_size, &object->parts);
	if (!ret)
		ret = mci_place_register(&object->place, task->location);
	if (!ret)
		ret = mci_directory_publish(object);
	if (!ret)
		ret = still_there(task);
	if (!ret)
		ret = cancelled(task);
	if (!ret)
		ret = mci_object_live(object, held);
	free(held);
	return ret;
}

static bool complete(struct mc_p2p_task *task)
{
	bool is;

	pthread_mutex_lock(&task->lock);
	is = task->complete;
	pthread_mutex_unlock(&task->lock);
	return is;
}

static void doze(struct mc_p2p_task *task, uint64_t until_ns)
{
	struct timespec until = {.tv_sec = (time_t)(until_ns / MCI_NS_PER_S),
				 .tv_nsec = (long)(until_ns % MCI_NS_PER_S)};
	int ret = 0;

	pthread_mutex_lock(&task->lock);
	while (!task->complete && !atomic_load(&task->cancelled) && !ret)
		ret = pthread_cond_timedwait(&task->changed, &task->lock, &until);
	pthread_mutex_unlock(&task->lock);
}

static int follow(struct mc_p2p_task *task)
{
	uint64_t start = mci_now_ns(), moved = start, before = 0;
	uint32_t pause = task->attr.progress ? TELL_MS : LOOK_MS;
	uint64_t deadline =
		task->attr.timeout_ms ? task->start_ns + task->attr.timeout_ms * MCI_NS_PER_MS : UINT64_MAX;
	int ret;

	while (!complete(task)) {
		uint64_t now, came, until;

		ret = cancelled(task);
		if (ret)
			return ret;
		tell(task);
		now = mci_now_ns();
		came = task->progress.held + task->progress.fetched;
		if (came != before)
			moved = now;
		before = came;
		if (now >= deadline)
			return late(task, "it is not whole after", task->attr.timeout_ms);
		if (task->attr.stall_ms && now - moved >= task->attr.stall_ms * MCI_NS_PER_MS)
			return late(task, "nothing came for", task->attr.stall_ms);
		until = now + pause * MCI_NS_PER_MS;
		doze(task, until < deadline ? until : deadline);
	}
	return 0;
}

static int declare_whole(void *arg)
{
	struct mci_object *object = arg;

	object->whole = true;
	return 0;
}

static int let_go(void *arg)
{
	struct mc_p2p_task *task = arg;

	task->object->task = NULL;
	task->shown = NULL;
	return 0;
}

static void finish(struct mc_p2p_task *task, int ret)
{
	struct mci_object *object = task->object;

	if (ret)
		snprintf(task->error, sizeof(task->error), "%s", mc_errmsg());
	tell(task);
	mci_store_call(task->store, let_go, task);
	if (ret)
		mci_object_leave(object);
	pthread_mutex_lock(&task->lock);
	task->object = NULL;
	task->result = ret;
	task->finished = true;
	pthread_cond_broadcast(&task->changed);
	pthread_mutex_unlock(&task->lock);
}

static void *run(void *arg)
{
	struct mc_p2p_task *task = arg;
	int ret;

	pthread_setname_np(pthread_self(), "mooncake-fetch");
	ret = begin(task);
	if (!ret)
		ret = follow(task);
	if (!ret)
		ret = mci_place_finish(&task->object->place);
	if (!ret) {
		mci_store_call(task->store, declare_whole, task->object);
		if (mci_directory_publish(task->object))
			mci_warn("object '%s' is whole, but the metadata service could not be told: %s",
				 task->name, mc_errmsg());
	}
	finish(task, ret);
	return NULL;
}

/* ---- the interface ---- */

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
	task->start_ns = mci_now_ns();
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

static int hand_over(void *arg)
{
	struct mc_p2p_task *task = arg;

	task->object->task = task;
	task->shown = task->object;
	return 0;
}

static int start_thread(struct mc_p2p_task *task)
{
	sigset_t all, before;
	int ret;

	/* Signals are the application's: its own threads take them, never ours. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = -pthread_create(&task->thread, NULL, run, task);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret ? mci_fail(ret, "no thread to fetch '%s': %s; is a limit on threads reached?", task->name,
			      strerror(-ret))
		   : 0;
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
	mci_store_call(store, hand_over, task);
	ret = start_thread(task);
	if (ret)
		goto err_leave;
	pthread_mutex_lock(&store->lock);
	LIST_INSERT_HEAD(&store->tasks, task, next);
	pthread_mutex_unlock(&store->lock);
	*out = task;
	return 0;

err_leave:
	snprintf(why, sizeof(why), "%s", mc_errmsg());
	mci_store_call(store, let_go, task);
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
 * -EINVAL: the place does not fit (the sentence names both size lists); -ENOSPC: no space for the file;
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
 * Return: 0: it is done; -ETIME: it still runs; else why it failed (see mc_p2p_get()).
 */
int mc_p2p_task_wait(mc_p2p_task *task, int timeout_ms)
{
	uint64_t at = mci_now_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * MCI_NS_PER_MS;
	struct timespec until = {.tv_sec = (time_t)(at / MCI_NS_PER_S), .tv_nsec = (long)(at % MCI_NS_PER_S)};
	int ret = 0;

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
 * Return: 0.
 */
int mc_p2p_task_cancel(mc_p2p_task *task)
{
	atomic_store(&task->cancelled, true);
	mci_task_poke(task);
	return 0;
}

/**
 * mc_p2p_task_progress() - how far a fetch is, or was at its end
 * @progress: its size must be set
 *
 * Return: 0; -EINVAL: size.
 */
int mc_p2p_task_progress(mc_p2p_task *task, struct mc_p2p_progress *progress)
{
	bool finished;

	if (!progress || progress->size != sizeof(*progress))
		return mci_fail(-EINVAL,
				"struct mc_p2p_progress of %zu bytes is not known, this library has %zu; set "
				"its size",
				progress ? progress->size : 0, sizeof(*progress));
	pthread_mutex_lock(&task->lock);
	finished = task->finished;
	pthread_mutex_unlock(&task->lock);
	if (!finished)
		mci_store_call(task->store, fill, task);
	pthread_mutex_lock(&task->lock);
	*progress = task->progress;
	pthread_mutex_unlock(&task->lock);
	progress->size = sizeof(*progress);
	return 0;
}

/** mc_p2p_task_error() - why a fetch that ended failed, as a sentence; "" before that. Valid until it is
 * freed. */
const char *mc_p2p_task_error(mc_p2p_task *task)
{
	const char *text;

	pthread_mutex_lock(&task->lock);
	text = task->finished ? task->error : "";
	pthread_mutex_unlock(&task->lock);
	return text;
}

/**
 * mc_p2p_task_free() - end the handle of a fetch; what it fetched stays and is served
 *
 * Return: 0; -EBUSY: it still runs: wait for it, or cancel it and wait.
 */
int mc_p2p_task_free(mc_p2p_task *task)
{
	bool finished;

	if (!task)
		return 0;
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
