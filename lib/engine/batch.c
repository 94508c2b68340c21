// SPDX-License-Identifier: MIT
/*
 * Batches: fill, submit, complete, wait. A batch has one owner at a time; completions come from any
 * thread. Whoever takes `pending` to zero finishes the batch: notifies, then the completion list, then
 * the futex; after that the owner may free it.
 */
#include "engine/batch.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>


#define DEFAULT_TIMEOUT_MS 30000
#define MAX_CAPACITY (1u << 20)

static void futex_wake(_Atomic uint32_t *word)
{
	/* The owner may have freed the word by now; waking a stale address is harmless. */
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
	struct timespec t = {.tv_sec = (time_t)(timeout_ns / MCI_NS_PER_S),
			     .tv_nsec = (long)(timeout_ns % MCI_NS_PER_S)};

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, timeout_ns == UINT64_MAX ? NULL : &t, NULL, 0);
}

/**
 * mc_batch_alloc() - a batch of up to @capacity requests
 * @engine: engine
 * @capacity: 1 to 1,048,576
 * @out: the batch; mc_batch_free() it
 *
 * Thread-safe. Return: 0; -EINVAL; -ENOMEM; -ECHILD.
 */
int mc_batch_alloc(mc_engine *engine, unsigned int capacity, mc_batch **out)
{
	struct mc_batch *batch;

	if (mci_forked(engine))
		return mci_fork_fail();
	if (!capacity || capacity > MAX_CAPACITY)
		return mci_fail(-EINVAL, "a batch of %u requests is not possible; 1 to %u are", capacity,
				MAX_CAPACITY);
	batch = calloc(1, sizeof(*batch) + capacity * sizeof(batch->entry[0]));
	if (!batch)
		return mci_fail(-ENOMEM, "no memory for a batch of %u requests", capacity);
	batch->engine = engine;
	batch->capacity = capacity;
	pthread_mutex_lock(&engine->lock);
	engine->batches++;
	pthread_mutex_unlock(&engine->lock);
	*out = batch;
	return 0;
}

static int in_flight(const struct mc_batch *batch, const char *verb)
{
	return mci_fail(-EBUSY,
			"cannot %s a batch with %u requests in flight; wait for it, or cancel it and wait",
			verb, atomic_load(&batch->pending));
}

/**
 * mc_batch_add() - add one request
 * @batch: not submitted yet
 * @op: MC_READ or MC_WRITE
 * @local: local memory; must lie in a registered region at submit
 * @segment: open segment; must outlive the request
 * @remote: place in it
 * @length: bytes; 0 is done at once
 *
 * Bounds and rights are judged at submit, into the request's own status.
 * Return: 0; -EINVAL: unknown op, another engine's segment; -ENOSPC: full; -EBUSY: submitted already;
 * -ECHILD.
 */
int mc_batch_add(mc_batch *batch, enum mc_op op, void *local, mc_segment *segment, struct mc_remote remote,
		 uint64_t length)
{
	struct mci_entry *entry;

	if (mci_forked(batch->engine))
		return mci_fork_fail();
	if (atomic_load_explicit(&batch->phase, memory_order_relaxed) != MCI_BATCH_FILLING)
		return mci_fail(-EBUSY, "cannot add to a batch that was submitted; reset it first");
	if (batch->count == batch->capacity)
		return mci_fail(-ENOSPC, "the batch holds %u requests and is full", batch->capacity);
	if ((op != MC_READ && op != MC_WRITE) || !segment || segment->engine != batch->engine ||
	    remote.reserved)
		return mci_fail(
			-EINVAL,
			"a request needs MC_READ or MC_WRITE, a segment opened by the batch's engine, "
			"and reserved members that are zero");
	entry = &batch->entry[batch->count++];
	entry->batch = batch;
	entry->segment = segment;
	entry->local_region = NULL;
	atomic_store_explicit(&entry->final, 0, memory_order_relaxed);
	entry->status = (struct mc_status){.state = MC_PENDING};
	entry->request.op = (uint8_t)op;
	entry->request.local = local;
	entry->request.length = length;
	entry->request.offset = remote.offset;
	entry->request.tag = remote.region; /* resolved at submit */
	return 0;
}

static void batch_final(struct mc_batch *batch)
{
	_Atomic uint32_t *phase = &batch->phase;

	mci_completion_push(batch);
	/* The owner may have freed the batch by now. */
	futex_wake(phase);
}

/* The last of their completions may end the batch: nothing of it is touched behind the last submit. */
static void launch_all(struct mci_entry *entry, unsigned int n)
{
	for (; n; n--, entry++)
		entry->way->ops->submit(entry->way->peer, &entry->request);
}

/* All requests are final: flush what they wrote, then send the notifies; or end the batch. */
static void requests_final(struct mc_batch *batch)
{
	unsigned int n = batch->notify_count;

	if (n && atomic_load(&batch->failures)) {
		atomic_store(&batch->notify_error, -ECANCELED);
		n = 0;
	}
	if (!n) {
		batch_final(batch);
		return;
	}
	if (batch->flush_count)
		launch_all(batch->flush, batch->flush_count);
	else
		launch_all(batch->notify, n);
}

static void unpend(struct mc_batch *batch, uint32_t n)
{
	if (n && atomic_fetch_sub_explicit(&batch->pending, n, memory_order_acq_rel) == n)
		requests_final(batch);
}

static void release_room(struct mc_engine *engine, struct mc_segment *segment, uint64_t n)
{
	atomic_fetch_sub(&segment->in_flight, n);
	/* Sequentially consistent, both: who waits says so before it looks for room. */
	if (atomic_load(&engine->room_waiters)) {
		atomic_fetch_add(&engine->room_epoch, 1);
		futex_wake(&engine->room_epoch);
		mci_completion_room(engine);
	}
}

static void count(struct mc_engine *engine, const struct mci_entry *entry)
{
	const struct mc_status *status = &entry->status;
	struct mci_counters *c = &engine->counters;

	switch (status->state) {
	case MC_DONE:
		atomic_fetch_add_explicit(&c->done, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(entry->request.op == MC_READ ? &c->bytes_read : &c->bytes_written,
					  status->bytes, memory_order_relaxed);
		if (status->flags & MC_STATUS_UNCONFIRMED)
			atomic_fetch_add(&c->unconfirmed, 1);
		break;
	case MC_TIMED_OUT:
		atomic_fetch_add(&c->timed_out, 1);
		break;
	case MC_CANCELLED:
		atomic_fetch_add(&c->cancelled, 1);
		break;
	default:
		atomic_fetch_add(&c->failed, 1);
		if (status->error == -ESTALE)
			atomic_fetch_add(&c->stale, 1);
	}
}

static void set_status(struct mci_entry *entry, enum mc_state state, int error, uint64_t bytes,
		       uint32_t flags)
{
	entry->status = (struct mc_status){.state = state, .error = error, .bytes = bytes, .flags = flags};
	if (state != MC_DONE)
		atomic_fetch_add(&entry->batch->failures, 1);
	count(entry->batch->engine, entry);
	atomic_store_explicit(&entry->final, 1, memory_order_release);
}

static void notify_complete(struct mci_entry *entry, enum mc_state state, int error)
{
	struct mc_batch *batch = entry->batch;

	if (state == MC_DONE)
		atomic_fetch_add(&batch->engine->counters.notifies_sent, 1);
	else
		atomic_store(&batch->notify_error, error ? error : -EIO);
	if (atomic_fetch_sub(&batch->notify_pending, 1) == 1)
		batch_final(batch);
}

static void flush_complete(struct mci_entry *entry, enum mc_state state, int error)
{
	struct mc_batch *batch = entry->batch;

	if (state != MC_DONE)
		atomic_store(&batch->notify_error, error ? error : -EIO);
	if (atomic_fetch_sub(&batch->flush_pending, 1) != 1)
		return;
	if (atomic_load(&batch->notify_error))
		batch_final(batch);
	else
		launch_all(batch->notify, batch->notify_count);
}

void mci_batch_complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
			uint32_t flags)
{
	struct mci_entry *entry = (struct mci_entry *)request;
	struct mc_batch *batch = entry->batch;
	struct mc_engine *engine = batch->engine;
	struct mc_segment *segment = entry->segment;

	if (request->op == MCI_OP_NOTIFY) {
		notify_complete(entry, state, error);
		return;
	}
	if (request->op == MCI_OP_FLUSH) {
		flush_complete(entry, state, error);
		return;
	}
	/* Whoever gave it up does not learn what became of its path or its time meanwhile. */
	if (state != MC_DONE && atomic_load_explicit(&request->cancelled, memory_order_relaxed)) {
		state = MC_CANCELLED;
		error = -ECANCELED;
	}
	mci_region_put(entry->local_region);
	set_status(entry, state, error, bytes, flags);
	/* Room first: once the batch is final its owner may close the segment. */
	release_room(engine, segment, 1);
	unpend(batch, 1);
}

/* Index of the region that a request names by id or by the owner's address; region_count = none. */
static unsigned int find_region(const struct mc_segment *segment, const struct mci_request *request)
{
	unsigned int i, n = segment->region_count;

	if (request->tag != MC_REGION_BY_ADDRESS) {
		/* Owners hand out the lowest free id: mostly id and index agree. */
		if (request->tag < n && segment->region_id[request->tag] == request->tag)
			return (unsigned int)request->tag;
		for (i = 0; i < n && segment->region_id[i] != request->tag; i++)
			;
		return i;
	}
	for (i = 0; i < n; i++) {
		const struct mci_remote_region *region = &segment->regions[i];

		if (region->base && request->offset >= region->base &&
		    request->offset - region->base < region->length)
			break;
	}
	return i;
}

/* Where the request goes; 0 or the error that is its status. */
static int resolve_entry(struct mci_entry *entry)
{
	struct mci_request *request = &entry->request;
	struct mc_segment *segment = entry->segment;
	struct mci_remote_region *region;
	uint32_t right = request->op == MC_READ ? MC_REMOTE_READ : MC_REMOTE_WRITE;
	unsigned int i;

	if (atomic_load_explicit(&segment->stale, memory_order_relaxed))
		return -ESTALE;
	i = find_region(segment, request);
	if (i == segment->region_count)
		return -EFAULT;
	region = &segment->regions[i];
	if (request->tag == MC_REGION_BY_ADDRESS)
		request->offset -= region->base;
	if (request->offset > region->length || request->length > region->length - request->offset)
		return -EFAULT;
	if (atomic_load_explicit(&region->stale, memory_order_relaxed))
		return -ESTALE;
	if ((region->rights & right) != right)
		return -EACCES;
	entry->way = segment->region_way[i];
	if (!entry->way)
		return -ENETUNREACH;
	request->remote = region;
	return 0;
}

/* A use of the local region; consecutive requests mostly share one, which its first user keeps alive. */
static int take_local(struct mci_entry *entry, struct mci_region *last)
{
	struct mci_request *request = &entry->request;

	if (last && request->local >= last->addr && (uint64_t)(request->local - last->addr) <= last->length &&
	    request->length <= last->length - (uint64_t)(request->local - last->addr)) {
		atomic_fetch_add(&last->users, 1);
		entry->local_region = last;
		return 0;
	}
	return mci_region_get_address(entry->batch->engine->host.regions, request->local, request->length, 0,
				      false, &entry->local_region);
}

/* Requests to @segment among the first @end of a batch. */
static uint64_t count_to(const struct mc_batch *batch, const struct mc_segment *segment, unsigned int end)
{
	uint64_t n = 0;
	unsigned int i;

	for (i = 0; i < end; i++)
		n += batch->entry[i].segment == segment;
	return n;
}

/* All or nothing: room for every request that is to fly, or -EAGAIN. */
static int take_room(struct mc_batch *batch)
{
	struct mc_engine *engine = batch->engine;
	unsigned int i, undo;

	for (i = 0; i < batch->count; i++) {
		struct mc_segment *segment = batch->entry[i].segment;
		uint64_t n = 1, had = atomic_load(&segment->in_flight);
		unsigned int first = i;

		while (i + 1 < batch->count && batch->entry[i + 1].segment == segment) {
			i++;
			n++;
		}
		do {
			/* A batch larger than the depth may fly alone. */
			if (!had || had + n <= engine->queue_depth || had == count_to(batch, segment, first))
				continue;
			for (undo = 0; undo < first; undo++)
				atomic_fetch_sub(&batch->entry[undo].segment->in_flight, 1);
			return -EAGAIN;
		} while (!atomic_compare_exchange_weak(&segment->in_flight, &had, had + n));
	}
	return 0;
}

static int wait_for_room(struct mc_batch *batch, uint64_t deadline)
{
	struct mc_engine *engine = batch->engine;
	int ret = 0;

	atomic_fetch_add(&engine->room_waiters, 1);
	for (;;) {
		uint32_t seen = atomic_load(&engine->room_epoch);
		uint64_t now = mci_now_ns();

		ret = take_room(batch);
		if (!ret || now >= deadline)
			break;
		futex_wait(&engine->room_epoch, seen, deadline - now);
	}
	atomic_fetch_sub(&engine->room_waiters, 1);
	return ret;
}

/* Hand the requests to their transports, consecutive ones of one way as one chain. */
static void launch(struct mc_batch *batch, int8_t priority)
{
	struct mci_request *first = NULL, *last = NULL;
	struct mci_way *way = NULL;
	struct mci_region *region = NULL;
	uint32_t ended = 0;
	unsigned int i;

	for (i = 0; i < batch->count; i++) {
		struct mci_entry *entry = &batch->entry[i];
		struct mci_request *request = &entry->request;
		int ret = 0;

		if (request->length) {
			ret = resolve_entry(entry);
			if (!ret)
				ret = take_local(entry, region);
		}
		if (ret || !request->length) {
			set_status(entry, ret ? MC_FAILED : MC_DONE, ret, 0, 0);
			release_room(batch->engine, entry->segment, 1);
			ended++;
			continue;
		}
		region = request->region = entry->local_region;
		request->deadline_ns = batch->deadline_ns;
		request->priority = priority;
		atomic_store_explicit(&request->cancelled, false, memory_order_relaxed);
		request->next = request->prev = NULL;
		request->cursor = request->done_bytes = request->tag = 0;
		request->outstanding = request->state = 0;
		if (first && entry->way == way) {
			last->next = request;
		} else {
			/*
			 * The region of the last request stays usable as a hint: this entry holds a use of
			 * its own, taken before the earlier chain can complete.
			 */
			if (first)
				way->ops->submit(way->peer, first);
			first = request;
			way = entry->way;
		}
		last = request;
	}
	if (first)
		way->ops->submit(way->peer, first);
	unpend(batch, ended + 1);
}

static int submit(struct mc_batch *batch, const struct mc_submit_attr *attr, struct mc_segment *notify_only)
{
	struct mc_engine *engine = batch->engine;
	uint32_t timeout = attr->timeout_ms ? attr->timeout_ms : engine->timeout_ms;
	unsigned int i;
	int ret;

	batch->deadline_ns = mci_now_ns() + timeout * MCI_NS_PER_MS;
	if (attr->notify_name) {
		ret = mci_batch_notify_prepare(batch, attr, notify_only);
		if (ret)
			return ret;
	}
	ret = attr->flags & MC_SUBMIT_BLOCK ? wait_for_room(batch, batch->deadline_ns) : take_room(batch);
	if (ret) {
		/* What ended before it was known that we want room told nobody: look once more. */
		mci_completion_want_room(engine);
		ret = take_room(batch);
	}
	if (ret) {
		mci_batch_notify_free(batch);
		return mci_fail(
			ret,
			"%u requests more do not fit: %u per segment may wait or be in flight; wait for "
			"completions, or submit with MC_SUBMIT_BLOCK",
			batch->count, engine->queue_depth);
	}
	for (i = 0; i < batch->notify_count; i++)
		batch->notify[i].request.deadline_ns = batch->deadline_ns;
	for (i = 0; i < batch->flush_count; i++)
		batch->flush[i].request.deadline_ns = batch->deadline_ns;
	atomic_store(&batch->flush_pending, batch->flush_count);
	atomic_store(&batch->notify_pending, batch->notify_count);
	atomic_store(&batch->notify_error, 0);
	atomic_store(&batch->failures, 0);
	atomic_store(&batch->pending, batch->count + 1);
	atomic_store(&batch->phase, MCI_BATCH_FLYING);
	atomic_fetch_add_explicit(&engine->counters.requests, batch->count, memory_order_relaxed);
	launch(batch, (int8_t)(attr->priority > 0 ? 1 : 0));
	return 0;
}

/**
 * mc_batch_submit() - let the requests of a batch go
 * @batch: filled batch
 * @attr: NULL for the defaults; timeout_ms is the deadline of every request from now on
 *
 * All or nothing: on an error nothing was started and the batch may be submitted again. Whatever is
 * wrong with a single request is in that request's status. With notify_name, each segment of the
 * batch gets that notify after every request was done; none does if one was not (see
 * mc_batch_notify_status()). The batch becomes final at the latest 1 s past the deadline (2 s with a notify).
 *
 * Return: 0; -EAGAIN: no room, the completion fd signals when there is; -EINVAL: empty or malformed;
 * -EBUSY: submitted already; -EMSGSIZE: notify too large; -EOPNOTSUPP: the peer takes no notifies; -ENOMEM;
 * -ECHILD.
 */
int mc_batch_submit(mc_batch *batch, const struct mc_submit_attr *given)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;

	if (mci_forked(batch->engine))
		return mci_fork_fail();
	if (given) {
		if (given->size != sizeof(attr) || (given->flags & ~MC_SUBMIT_BLOCK))
			return mci_fail(-EINVAL,
					"struct mc_submit_attr has a size or a flag that this library "
					"does not know");
		attr = *given;
	}
	if (atomic_load_explicit(&batch->phase, memory_order_relaxed) != MCI_BATCH_FILLING)
		return mci_fail(-EBUSY, "the batch was submitted already; reset it first");
	if (!batch->count)
		return mci_fail(-EINVAL, "the batch is empty; add requests first");
	return submit(batch, &attr, NULL);
}

static bool is_under_way(const struct mci_entry *entry)
{
	return entry->way && entry->local_region && !atomic_load_explicit(&entry->final, memory_order_acquire);
}

/**
 * mc_batch_cancel() - ask for an early end
 * @batch: submitted batch
 *
 * Returns at once; each request that is not final yet becomes so soon, by the rule that after that nothing touches
 * its memory: MC_CANCELLED, also if it fails or its deadline passes meanwhile, or MC_DONE if it was that fast.
 * Return: 0; -ECHILD.
 */
int mc_batch_cancel(mc_batch *batch)
{
	unsigned int i;

	if (mci_forked(batch->engine))
		return mci_fork_fail();
	if (atomic_load(&batch->phase) != MCI_BATCH_FLYING)
		return 0;
	/* All are marked before a lock is waited for: whoever holds it may be sending just these. */
	for (i = 0; i < batch->count; i++)
		if (is_under_way(&batch->entry[i]))
			atomic_store(&batch->entry[i].request.cancelled, true);
	for (i = 0; i < batch->count; i++) {
		struct mci_entry *entry = &batch->entry[i];

		if (is_under_way(entry))
			entry->way->ops->cancel(entry->way->peer, &entry->request);
	}
	return 0;
}

/* Work for transports that copy in the caller's thread. */
static bool help(struct mc_batch *batch)
{
	struct mci_way *last = NULL;
	bool did = false;
	unsigned int i;

	for (i = 0; i < batch->count; i++) {
		struct mci_way *way = batch->entry[i].way;

		if (way && way != last && way->ops->help && batch->entry[i].local_region)
			did |= way->ops->help(way->peer);
		last = way;
	}
	return did;
}

/**
 * mc_batch_wait() - sleep until every request of a batch is final
 * @batch: submitted batch
 * @timeout_ms: -1 = as long as it takes, which the deadline bounds; 0 = look only
 *
 * Return: 0: look at each status; -ETIME: not yet; -EINVAL: not submitted; -ECHILD.
 */
int mc_batch_wait(mc_batch *batch, int timeout_ms)
{
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : mci_now_ns() + (uint64_t)timeout_ms * MCI_NS_PER_MS;

	if (mci_forked(batch->engine))
		return mci_fork_fail();
	for (;;) {
		uint32_t phase = atomic_load_explicit(&batch->phase, memory_order_acquire);
		uint64_t now = 0;

		if (phase == MCI_BATCH_FINAL)
			break;
		if (phase == MCI_BATCH_FILLING)
			return mci_fail(-EINVAL, "cannot wait for a batch that was not submitted");
		if (deadline != UINT64_MAX) {
			now = mci_now_ns();
			if (now >= deadline)
				return -ETIME;
		}
		if (help(batch))
			continue;
		futex_wait(&batch->phase, MCI_BATCH_FLYING,
			   deadline == UINT64_MAX ? UINT64_MAX : deadline - now);
	}
	mci_completion_unlink(batch);
	return 0;
}

/**
 * mc_batch_poll() - number of requests still pending
 * @batch: submitted batch
 *
 * Return: that number, 0 = the batch is final; -EINVAL: not submitted; -ECHILD.
 */
int mc_batch_poll(mc_batch *batch)
{
	uint32_t phase, pending;

	if (mci_forked(batch->engine))
		return mci_fork_fail();
	phase = atomic_load_explicit(&batch->phase, memory_order_acquire);
	if (phase == MCI_BATCH_FILLING)
		return mci_fail(-EINVAL, "cannot poll a batch that was not submitted");
	if (phase == MCI_BATCH_FINAL)
		return 0;
	help(batch);
	if (atomic_load_explicit(&batch->phase, memory_order_acquire) == MCI_BATCH_FINAL)
		return 0;
	pending = atomic_load(&batch->pending);
	return pending ? (int)pending : 1;
}

/**
 * mc_batch_status() - status of one request
 * @batch: batch
 * @index: in the order of mc_batch_add()
 * @status: out
 *
 * Return: 0; -EINVAL: no such request; -ECHILD.
 */
int mc_batch_status(mc_batch *batch, unsigned int index, struct mc_status *status)
{
	if (mci_forked(batch->engine))
		return mci_fork_fail();
	if (index >= batch->count)
		return mci_fail(-EINVAL, "the batch holds %u requests; there is no request %u", batch->count,
				index);
	if (atomic_load_explicit(&batch->entry[index].final, memory_order_acquire))
		*status = batch->entry[index].status;
	else
		*status = (struct mc_status){.state = MC_PENDING};
	return 0;
}

/**
 * mc_batch_notify_status() - what became of the notify of a final batch
 *
 * Return: 0: delivered (or none was asked for); -EAGAIN: not final yet; -ECANCELED: a request failed, so it
 * was not sent; else why it could not be delivered.
 */
int mc_batch_notify_status(mc_batch *batch)
{
	if (atomic_load_explicit(&batch->phase, memory_order_acquire) != MCI_BATCH_FINAL)
		return -EAGAIN;
	return atomic_load(&batch->notify_error);
}

/** mc_batch_count() - requests added so far. */
unsigned int mc_batch_count(const mc_batch *batch) { return batch->count; }

/** mc_batch_set_user() - keep a pointer of the caller's with the batch; reset keeps it. */
void mc_batch_set_user(mc_batch *batch, void *user) { batch->user = user; }

/** mc_batch_user() - the pointer that mc_batch_set_user() kept. */
void *mc_batch_user(const mc_batch *batch) { return batch->user; }

/**
 * mc_batch_reset() - empty a batch for re-use, without any allocation
 *
 * Return: 0; -EBUSY: in flight; -ECHILD.
 */
int mc_batch_reset(mc_batch *batch)
{
	if (mci_forked(batch->engine))
		return mci_fork_fail();
	if (atomic_load_explicit(&batch->phase, memory_order_acquire) == MCI_BATCH_FLYING)
		return in_flight(batch, "reset");
	mci_completion_unlink(batch);
	if (batch->notify)
		mci_batch_notify_free(batch);
	batch->count = 0;
	atomic_store(&batch->phase, MCI_BATCH_FILLING);
	return 0;
}

/**
 * mc_batch_free() - end a batch
 *
 * Return: 0; -EBUSY: in flight, nothing freed; -ECHILD.
 */
int mc_batch_free(mc_batch *batch)
{
	struct mc_engine *engine;

	if (!batch)
		return 0;
	engine = batch->engine;
	if (mci_forked(engine))
		return mci_fork_fail();
	if (atomic_load_explicit(&batch->phase, memory_order_acquire) == MCI_BATCH_FLYING)
		return in_flight(batch, "free");
	mci_completion_unlink(batch);
	mci_batch_notify_free(batch);
	pthread_mutex_lock(&engine->lock);
	engine->batches--;
	pthread_mutex_unlock(&engine->lock);
	free(batch);
	return 0;
}

/**
 * mc_notify_send() - send one notify and wait until it was delivered
 * @segment: to whom
 * @name: at most 255 bytes
 * @message: at most 64 KiB
 * @length: bytes of @message
 * @timeout_ms: 0 = the engine's default
 *
 * Thread-safe. Return: 0: delivered, once; -ETIMEDOUT; -EMSGSIZE; -EOPNOTSUPP; -ECONNREFUSED and other
 * reasons why the peer could not be reached; -ENOMEM; -ECHILD.
 */
int mc_notify_send(mc_segment *segment, const char *name, const void *message, uint32_t length,
		   uint32_t timeout_ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_batch *batch;
	int ret;

	attr.notify_name = name;
	attr.notify_message = message;
	attr.notify_length = length;
	attr.timeout_ms = timeout_ms;
	ret = mc_batch_alloc(segment->engine, 1, &batch);
	if (ret)
		return ret;
	ret = submit(batch, &attr, segment);
	if (!ret) {
		mc_batch_wait(batch, -1);
		ret = mc_batch_notify_status(batch);
		if (ret)
			mci_fail(ret, "a notify to '%s' could not be delivered: %s", segment->name,
				 strerror(-ret));
	}
	mc_batch_free(batch);
	return ret;
}
