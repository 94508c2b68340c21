// SPDX-License-Identifier: MIT
/*
 * The completion fd: an eventfd that is readable while there is a finished batch, a notify, or news of
 * room to be fetched. Everything here is under engine->done_lock, a leaf.
 */
#include "engine/batch.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Notifies that may wait for mc_notify_recv(); beyond this senders are told -ENOBUFS. */
#define MAX_NOTIFIES 4096u
#define MAX_NOTIFY_BYTES (64u << 20)

static void update_fd(struct mc_engine *engine)
{
	bool ready = engine->done.first || engine->notify_first || engine->room_came;
	uint64_t n = 1;

	if (engine->done_fd < 0 || ready == engine->done_signalled)
		return;
	engine->done_signalled = ready;
	if (ready ? write(engine->done_fd, &n, sizeof(n)) < 0 : read(engine->done_fd, &n, sizeof(n)) < 0)
		mci_error("completion fd: %m");
}

/**
 * mc_engine_fd() - a descriptor to poll for completions
 * @engine: engine
 *
 * Level-triggered: readable while mc_engine_completed() has a batch or mc_notify_recv() a notify to
 * give, or after room came that a submit had missed (-EAGAIN). Batches that became final before the
 * first call are not listed. Owned by the engine; poll it, do not read it. Thread-safe.
 *
 * Return: the descriptor; -EMFILE or -ENFILE; -ECHILD after fork().
 */
int mc_engine_fd(mc_engine *engine)
{
	int fd;

	if (mci_forked(engine))
		return mci_fork_fail();
	pthread_mutex_lock(&engine->done_lock);
	if (engine->done_fd < 0) {
		engine->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (engine->done_fd < 0) {
			fd = mci_fail(-errno,
				      "no descriptor for completions: %m; raise the limit on open files");
			pthread_mutex_unlock(&engine->done_lock);
			return fd;
		}
		update_fd(engine);
	}
	fd = engine->done_fd;
	pthread_mutex_unlock(&engine->done_lock);
	return fd;
}

/**
 * mc_engine_completed() - next batch that became final
 * @engine: engine
 * @batch: out
 *
 * Thread-safe. Return: 0; -EAGAIN: none; -ECHILD after fork().
 */
int mc_engine_completed(mc_engine *engine, mc_batch **out)
{
	struct mc_batch *batch;

	if (mci_forked(engine))
		return mci_fork_fail();
	pthread_mutex_lock(&engine->done_lock);
	batch = engine->done.first;
	engine->room_came = false;
	if (batch) {
		engine->done.first = batch->done_next;
		if (batch->done_next)
			batch->done_next->done_prev = NULL;
		else
			engine->done.last = NULL;
		batch->in_done_list = false;
	}
	update_fd(engine);
	pthread_mutex_unlock(&engine->done_lock);
	if (!batch)
		return -EAGAIN;
	*out = batch;
	return 0;
}

void mci_completion_push(struct mc_batch *batch)
{
	struct mc_engine *engine = batch->engine;

	pthread_mutex_lock(&engine->done_lock);
	if (engine->done_fd >= 0) {
		batch->in_done_list = true;
		batch->done_next = NULL;
		batch->done_prev = engine->done.last;
		if (engine->done.last)
			engine->done.last->done_next = batch;
		else
			engine->done.first = batch;
		engine->done.last = batch;
		update_fd(engine);
	}
	/* Under the lock: whoever is handed the batch by mc_engine_completed() finds it final, and may free
	 * it. */
	atomic_store_explicit(&batch->phase, MCI_BATCH_FINAL, memory_order_release);
	pthread_mutex_unlock(&engine->done_lock);
}

void mci_completion_unlink(struct mc_batch *batch)
{
	struct mc_engine *engine = batch->engine;

	pthread_mutex_lock(&engine->done_lock);
	if (batch->in_done_list) {
		if (batch->done_prev)
			batch->done_prev->done_next = batch->done_next;
		else
			engine->done.first = batch->done_next;
		if (batch->done_next)
			batch->done_next->done_prev = batch->done_prev;
		else
			engine->done.last = batch->done_prev;
		batch->in_done_list = false;
		update_fd(engine);
	}
	pthread_mutex_unlock(&engine->done_lock);
}

void mci_completion_want_room(struct mc_engine *engine)
{
	pthread_mutex_lock(&engine->done_lock);
	engine->room_wanted = true;
	pthread_mutex_unlock(&engine->done_lock);
	atomic_fetch_or(&engine->room_waiters, 1u << 31);
}

void mci_completion_room(struct mc_engine *engine)
{
	atomic_fetch_and(&engine->room_waiters, ~(1u << 31));
	pthread_mutex_lock(&engine->done_lock);
	if (engine->room_wanted) {
		engine->room_wanted = false;
		engine->room_came = true;
		update_fd(engine);
	}
	pthread_mutex_unlock(&engine->done_lock);
}

int mci_notify_arrived(void *arg, const struct mc_uuid *sender, uint64_t sequence, const void *p,
		       uint32_t length)
{
	struct mc_engine *engine = arg;
	struct mci_notify_body body;
	struct mci_notify_item *item;
	bool full;

	if (mci_notify_decode(p, length, &body))
		return -EBADMSG;
	item = calloc(1, sizeof(*item));
	if (!item)
		return -ENOBUFS;
	item->notify.message = malloc(body.message_length + 1);
	if (!item->notify.message) {
		free(item);
		return -ENOBUFS;
	}
	memcpy(item->notify.name, body.name, body.name_length);
	memcpy(item->notify.message, body.message, body.message_length);
	item->notify.message[body.message_length] = '\0';
	item->notify.length = body.message_length;
	item->notify.sender = *sender;
	item->notify.sequence = sequence;
	pthread_mutex_lock(&engine->done_lock);
	full = engine->notify_count == MAX_NOTIFIES ||
	       engine->notify_bytes + body.message_length > MAX_NOTIFY_BYTES;
	if (!full) {
		if (engine->notify_last)
			engine->notify_last->next = item;
		else
			engine->notify_first = item;
		engine->notify_last = item;
		engine->notify_count++;
		engine->notify_bytes += body.message_length;
		update_fd(engine);
		pthread_cond_signal(&engine->notify_arrived);
	}
	pthread_mutex_unlock(&engine->done_lock);
	if (full) {
		free(item->notify.message);
		free(item);
		return -ENOBUFS;
	}
	atomic_fetch_add(&engine->counters.notifies_received, 1);
	return 0;
}

/**
 * mc_notify_recv() - fetch the next notify that peers sent to this engine
 * @engine: engine
 * @notify: out; its message is the caller's to free()
 * @timeout_ms: how long to wait for one; 0 = not at all
 *
 * Notifies of one sender come in the order they were sent, each once. Thread-safe.
 * Return: 0; -EAGAIN: none; -ECHILD after fork().
 */
int mc_notify_recv(mc_engine *engine, struct mc_notify *notify, uint32_t timeout_ms)
{
	uint64_t deadline = mci_now_ns() + timeout_ms * MCI_NS_PER_MS;
	struct timespec until = {.tv_sec = (time_t)(deadline / MCI_NS_PER_S),
				 .tv_nsec = (long)(deadline % MCI_NS_PER_S)};
	struct mci_notify_item *item;
	int ret = 0;

	if (mci_forked(engine))
		return mci_fork_fail();
	pthread_mutex_lock(&engine->done_lock);
	while (!engine->notify_first && timeout_ms && !ret)
		ret = pthread_cond_timedwait(&engine->notify_arrived, &engine->done_lock, &until);
	item = engine->notify_first;
	if (item) {
		engine->notify_first = item->next;
		if (!item->next)
			engine->notify_last = NULL;
		engine->notify_count--;
		engine->notify_bytes -= item->notify.length;
		update_fd(engine);
	}
	pthread_mutex_unlock(&engine->done_lock);
	if (!item)
		return -EAGAIN;
	item->notify.size = sizeof(*notify);
	*notify = item->notify;
	free(item);
	return 0;
}

void mci_notify_drop_all(struct mc_engine *engine)
{
	while (engine->notify_first) {
		struct mci_notify_item *item = engine->notify_first;

		engine->notify_first = item->next;
		free(item->notify.message);
		free(item);
	}
}
