// SPDX-License-Identifier: MIT
/*
 * An object that only a classic record tells of: whole shards, read by address from who the record names,
 * replicas before gold, as classic clients do. Nothing vouches for these bytes; hashed once they are here,
 * they become an object of ours like any other. Runs in the thread of the fetch.
 */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"
#include "p2p/classic.h"

#define FLYING 4u
#define TRIES_MIN 3u
#define READ_MS 30000
#define OPEN_MS 5000

struct source {
	char *name;
	mc_segment *segment;
};

struct flight {
	struct mci_arrival arrival; /* first */
	struct run *run;
	mc_batch *batch;
	uint32_t shard, tries, range;
	uint64_t offset; /* in the range */
	bool over;	 /* run->lock */
};

struct run {
	struct mc_p2p_task *task;
	struct mc_p2p *store;
	struct mci_object *object;
	struct mci_classic_record *record;
	struct source *source;
	unsigned int source_count;
	struct flight flight[FLYING];
	pthread_mutex_t lock;
	pthread_cond_t landed;
	uint32_t random;
};

/* Loop thread: the batch is final; it is the fetch's again once this returned. */
static void landed(struct mci_arrival *arrival)
{
	struct flight *flight = (struct flight *)arrival;
	struct run *run = flight->run;

	pthread_mutex_lock(&run->lock);
	flight->over = true;
	pthread_cond_signal(&run->landed);
	pthread_mutex_unlock(&run->lock);
}

static struct source *source_of(struct run *run, const char *name)
{
	struct source *bigger;
	unsigned int i;

	for (i = 0; i < run->source_count; i++)
		if (!strcmp(run->source[i].name, name))
			return &run->source[i];
	bigger = realloc(run->source, (run->source_count + 1) * sizeof(*bigger));
	if (!bigger)
		return NULL;
	run->source = bigger;
	bigger[i] = (struct source){.name = strdup(name)};
	if (!bigger[i].name)
		return NULL;
	run->source_count++;
	return &bigger[i];
}

/* Try 0 is any replica, or any gold; then all of them in turn. */
static const struct mci_classic_location *choose(struct run *run, const struct mci_classic_shard *shard,
						 uint32_t tries)
{
	const struct mci_classic_locations *first = shard->replicas.count ? &shard->replicas : &shard->gold;

	if (!first->count)
		return NULL; /* gold, if there are no replicas: nobody at all */
	if (!tries)
		return &first->at[run->random++ % first->count];
	tries = (tries - 1) % (shard->replicas.count + shard->gold.count);
	return tries < shard->replicas.count ? &shard->replicas.at[tries]
					     : &shard->gold.at[tries - shard->replicas.count];
}

static uint32_t tries_of(const struct mci_classic_shard *shard)
{
	uint32_t count = shard->replicas.count + shard->gold.count;

	return count > TRIES_MIN ? count : TRIES_MIN;
}

/* 0 = it flies; else this source is no good. */
static int take_off(struct run *run, struct flight *flight)
{
	const struct mci_classic_shard *shard = &run->record->shard[flight->shard];
	const struct mci_classic_location *location = choose(run, shard, flight->tries++);
	struct mc_segment_attr open = MC_SEGMENT_ATTR_INIT;
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_remote remote = {.region = MC_REGION_BY_ADDRESS};
	struct source *source;
	uint8_t *to;
	int ret;

	if (!location)
		return mci_fail(-ENODATA, "shard %u of classic object '%s' is held by nobody", flight->shard,
				run->object->name);
	source = source_of(run, location->segment);
	if (!source)
		return mci_fail(-ENOMEM, "no memory for one more source of '%s'", run->object->name);
	ret = mc_batch_reset(flight->batch);
	if (ret)
		return ret;
	/* It may have been restarted: look anew, unless others still read from it. */
	if (flight->tries > 1 && source->segment && !mc_segment_close(source->segment))
		source->segment = NULL;
	open.timeout_ms = OPEN_MS;
	ret = source->segment ? 0
			      : mc_segment_open(run->store->engine, source->name, &open, &source->segment);
	if (ret)
		return ret;
	remote.offset = location->address;
	to = (uint8_t *)run->object->place.range[flight->range].addr + flight->offset;
	attr.timeout_ms = READ_MS;
	ret = mc_batch_add(flight->batch, MC_READ, to, source->segment, remote, shard->size);
	flight->over = false; /* nobody else looks before the submit */
	return ret ?: mc_batch_submit(flight->batch, &attr);
}

static int await(struct run *run, struct flight *flight)
{
	struct mc_status status;
	struct timespec until;
	uint64_t next;

	pthread_mutex_lock(&run->lock);
	while (!flight->over) {
		next = mci_now_ns() + 100 * MCI_NS_PER_MS;
		until.tv_sec = (time_t)(next / MCI_NS_PER_S);
		until.tv_nsec = (long)(next % MCI_NS_PER_S);
		pthread_cond_timedwait(&run->landed, &run->lock, &until);
		if (mci_task_over(run->task))
			mc_batch_cancel(flight->batch);
	}
	pthread_mutex_unlock(&run->lock);
	mc_batch_status(flight->batch, 0, &status);
	if (status.state == MC_DONE)
		return 0;
	return mci_fail(status.error ? status.error : -EIO,
			"shard %u of classic object '%s' could not be read: %s", flight->shard,
			run->object->name, strerror(-status.error));
}

/* Until a source works, or all were tried. @flying: the first try is in the air. */
static int land(struct run *run, struct flight *flight, bool flying)
{
	const struct mci_classic_shard *shard = &run->record->shard[flight->shard];
	int ret = flying ? await(run, flight) : -EAGAIN;
	char why[MCI_P2P_SENTENCE];

	while (ret && ret != -ENODATA && flight->tries <= tries_of(shard) && !mci_task_over(run->task)) {
		ret = take_off(run, flight);
		if (!ret)
			ret = await(run, flight);
	}
	if (!ret || ret == -ENODATA)
		return ret;
	snprintf(why, sizeof(why), "%s", mc_errmsg());
	return mci_fail(ret,
			"shard %u of classic object '%s' came from none of the %u that its record names; the "
			"last: %s",
			flight->shard, run->object->name, shard->replicas.count + shard->gold.count, why);
}

static void tell(struct run *run, uint64_t bytes, uint32_t shards)
{
	struct mc_p2p_progress progress = {
		.size = sizeof(progress),
		.bytes = run->record->bytes,
		.held = bytes,
		.fetched = bytes,
		.from_seeds = bytes,
		.pieces = run->record->shard_count,
		.pieces_held = shards,
		.sources = run->source_count,
		.members = run->source_count,
		.elapsed_ns = mci_now_ns() - run->task->start_ns,
		.note = "this object has a classic record only: nobody vouches for its bytes",
	};

	pthread_mutex_lock(&run->task->lock);
	run->task->progress = progress;
	pthread_mutex_unlock(&run->task->lock);
	if (run->task->attr.progress)
		run->task->attr.progress(&progress, run->task->attr.progress_arg);
}

/* In order, so many shards at one time; the first error ends it, once the others have landed. */
static int fly(struct run *run)
{
	uint32_t next = 0, oldest = 0, range = 0, count = run->record->shard_count;
	uint64_t offset = 0, bytes = 0;
	bool flying[FLYING];
	int ret = 0, landing;

	while (oldest < next || (!ret && next < count)) {
		struct flight *flight = &run->flight[next % FLYING];

		if (!ret && next < count && next - oldest < FLYING && !mci_task_over(run->task)) {
			flight->shard = next;
			flight->tries = 0;
			flight->range = range;
			flight->offset = offset;
			offset += run->record->shard[next].size;
			if (offset == run->record->size_list[range]) {
				range++;
				offset = 0;
			}
			flying[next++ % FLYING] = !take_off(run, flight);
			continue;
		}
		if (oldest == next)
			break; /* it is over */
		flight = &run->flight[oldest % FLYING];
		landing = land(run, flight, flying[oldest % FLYING]);
		if (landing && !ret)
			ret = landing;
		else if (!landing)
			bytes += run->record->shard[oldest].size;
		tell(run, bytes, ++oldest);
	}
	return mci_task_over(run->task) ?: ret;
}

static int open_flights(struct run *run)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < FLYING && !ret; i++) {
		run->flight[i].run = run;
		run->flight[i].arrival.fn = landed;
		ret = mc_batch_alloc(run->store->engine, 1, &run->flight[i].batch);
		if (!ret)
			mc_batch_set_user(run->flight[i].batch, &run->flight[i].arrival);
	}
	return ret;
}

static void close_run(struct run *run)
{
	unsigned int i;

	for (i = 0; i < FLYING; i++)
		if (run->flight[i].batch)
			mc_batch_free(run->flight[i].batch);
	for (i = 0; i < run->source_count; i++) {
		if (run->source[i].segment)
			mc_segment_close(run->source[i].segment);
		free(run->source[i].name);
	}
	free(run->source);
	pthread_cond_destroy(&run->landed);
	pthread_mutex_destroy(&run->lock);
}

static int read_shards(struct mc_p2p_task *task, struct mci_classic_record *record)
{
	struct run run = {.task = task, .store = task->store, .object = task->object, .record = record};
	pthread_condattr_t monotonic;
	int ret;

	pthread_mutex_init(&run.lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&run.landed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	mci_random(&run.random, sizeof(run.random));
	ret = open_flights(&run);
	if (!ret)
		ret = fly(&run);
	close_run(&run);
	return ret;
}

int mci_p2p_classic_fetch(struct mc_p2p_task *task)
{
	struct mci_object *object = task->object;
	struct mci_classic_record *record;
	uint64_t version;
	int ret;

	ret = mci_p2p_classic_read(task->store, task->name, &record, &version);
	if (ret)
		return ret;
	object->max_shard_size = record->max_shard_size;
	ret = mci_manifest_new(record->size_list, record->size_count, mci_manifest_piece_size(record->bytes),
			       &object->manifest);
	if (!ret)
		ret = mci_place_sink(task->store, &task->place, task->name, object->manifest, &object->place);
	if (!ret)
		ret = mci_place_register(&object->place, task->location);
	if (!ret)
		ret = read_shards(task, record);
	mci_classic_free(record);
	if (!ret)
		ret = mci_object_hash(object, NULL, task);
	if (!ret)
		mci_manifest_seal(object->manifest);
	return ret;
}
