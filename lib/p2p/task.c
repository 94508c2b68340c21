// SPDX-License-Identifier: MIT
/*
 * A fetch's own thread, for what blocks: record, place, hashing what is there, member key; then it waits for
 * the loop, tells of the progress, and ends it. Lock: task->lock, a leaf.
 */
#include "p2p/p2p.h"

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

void mci_task_look(struct mc_p2p_task *task) { mci_store_call(task->store, fill, task); }

static struct mc_p2p_progress tell(struct mc_p2p_task *task)
{
	struct mc_p2p_progress progress;

	mci_task_look(task);
	pthread_mutex_lock(&task->lock);
	progress = task->progress;
	pthread_mutex_unlock(&task->lock);
	if (progress.missing && progress.elapsed_ns > MISSING_NS && !task->missing_told)
		mci_warn("object '%s': %s", task->name, progress.note);
	task->missing_told = progress.missing && progress.elapsed_ns > MISSING_NS;
	if (task->attr.progress)
		task->attr.progress(&progress, task->attr.progress_arg);
	return progress;
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

/* A fetch that runs tells more of what is missing when its time is over: follow(). */
int mci_task_over(const struct mc_p2p_task *task)
{
	int ret = cancelled(task);

	if (!ret && mci_now_ns() >= task->deadline_ns)
		ret = mci_fail(-ETIMEDOUT,
			       "object '%s' is not whole after %u ms: they went by before the swarm was joined; "
			       "give it more time",
			       task->name, task->attr.timeout_ms);
	return ret;
}

static int late(const struct mc_p2p_task *task, const struct mc_p2p_progress *now, const char *limit,
		uint32_t ms)
{
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
	return mci_object_hash(object, held, task);
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

/* All of it came over the wire. */
static int count_fetched(void *arg)
{
	struct mc_p2p_task *task = arg;
	struct mci_object *object = task->object;

	object->fetched = object->from_seeds = object->reused;
	object->reused = 0;
	object->start_ns = task->start_ns;
	object->end_ns = mci_now_ns();
	return 0;
}

/* What a classic store registered becomes an object of ours: whole from the start. */
static int begin_classic(struct mc_p2p_task *task)
{
	struct mci_object *object = task->object;
	uint8_t *held;
	int ret;

	ret = mci_p2p_classic_fetch(task);
	if (!ret)
		ret = mci_object_no_twin(object);
	if (!ret)
		ret = mci_parts_open(task->store, object->manifest->piece_size, &object->parts);
	if (!ret)
		ret = mci_directory_publish(object);
	if (!ret)
		ret = mci_directory_write(object, false);
	held = ret ? NULL : malloc(object->manifest->piece_count);
	if (!ret && !held)
		ret = mci_fail(-ENOMEM, "no memory for the %u pieces of '%s'", object->manifest->piece_count,
			       task->name);
	if (held)
		memset(held, 1, object->manifest->piece_count);
	if (!ret)
		ret = mci_object_live(object, held);
	free(held);
	if (ret)
		return ret;
	mci_store_call(task->store, count_fetched, task);
	mci_task_complete(task);
	return 0;
}

static int begin(struct mc_p2p_task *task)
{
	struct mci_object *object = task->object;
	struct mci_found found = {0};
	uint8_t *held;
	int ret;

	ret = mci_directory_read(task, &found);
	if (ret == -ENOENT && task->store->classic && task->store->metadata && !task->by_root) {
		char why[MCI_P2P_SENTENCE];

		snprintf(why, sizeof(why), "%s", mc_errmsg());
		ret = begin_classic(task);
		if (ret == -ENOENT)
			mci_errmsg_set(why);
		return ret;
	}
	if (ret)
		return ret;
	object->manifest = found.manifest;
	object->max_shard_size = found.max_shard_size;
	ret = mci_task_over(task);
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
		ret = mci_parts_open(task->store, object->manifest->piece_size, &object->parts);
	if (!ret)
		ret = mci_place_register(&object->place, task->location);
	if (!ret)
		ret = mci_directory_publish(object);
	if (!ret)
		ret = still_there(task);
	if (!ret)
		ret = mci_task_over(task);
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
	int ret;

	while (!complete(task)) {
		struct mc_p2p_progress progress;
		uint64_t now, came, until;

		ret = cancelled(task);
		if (ret)
			return ret;
		progress = tell(task);
		now = mci_now_ns();
		came = progress.held + progress.fetched;
		if (came != before)
			moved = now;
		before = came;
		if (now >= task->deadline_ns)
			return late(task, &progress, "it is not whole after", task->attr.timeout_ms);
		if (task->attr.stall_ms && now - moved >= task->attr.stall_ms * MCI_NS_PER_MS)
			return late(task, &progress, "nothing came for", task->attr.stall_ms);
		until = now + pause * MCI_NS_PER_MS;
		doze(task, until < task->deadline_ns ? until : task->deadline_ns);
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
		mci_p2p_classic_share(task->object);
	}
	finish(task, ret);
	return NULL;
}

static int hand_over(void *arg)
{
	struct mc_p2p_task *task = arg;

	task->object->task = task;
	task->shown = task->object;
	return 0;
}

/* The object is the task's from now on. */
int mci_task_start(struct mc_p2p_task *task)
{
	int ret;

	mci_store_call(task->store, hand_over, task);
	ret = mci_thread_start(&task->thread, run, task);
	if (ret)
		mci_store_call(task->store, let_go, task);
	return ret ? mci_fail(ret, "no thread to fetch '%s': %s; is a limit on threads reached?", task->name,
			      strerror(-ret))
		   : 0;
}
