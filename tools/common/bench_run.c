// SPDX-License-Identifier: MIT
/*
 * One measured run: workers that submit batches, and the main thread that times them. Workers own their
 * slots, batches and histogram; the main thread reads those after joining, and the counters at any time.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "output.h"

#define PAUSE_NS 10000000 /* after a failed batch */
#define ROOM_PAUSE_NS 500000 /* while the queue is full */
#define WAIT_MS 200	  /* how soon a wait notices that the run was interrupted, or is over */
#define GRACE_NS 1000000000ull /* for what is in flight when the time is over; then it is cancelled */

/* Only the worker writes its counters: a plain add suffices, atomically stored for the reader. */
static void add(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static uint64_t get(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

uint64_t bench_worker_offset(const struct bench_worker *w, uint64_t i)
{
	const struct bench_shape *shape = &w->run->shape;
	uint64_t blocks = w->run->span / shape->block;

	return ((w->position + i) * shape->threads + w->tid) % blocks * shape->block;
}

uint8_t *bench_worker_local(const struct bench_worker *w)
{
	return w->run->b->buffers[w->tid % w->run->b->buffer_count].addr;
}

void bench_worker_failed(struct bench_worker *w, int error, const char *sentence)
{
	w->error = error;
	snprintf(w->sentence, sizeof(w->sentence), "%s", sentence);
}

static void count_failure(struct bench_worker *w, int error, uint64_t n)
{
	if (error == -ESTALE)
		add(&w->counts.stale, n);
	else if (error == -ETIMEDOUT)
		add(&w->counts.timed_out, n);
	else if (error == -ECANCELED)
		add(&w->counts.cancelled, n);
	else
		add(&w->counts.failed, n);
}

static void pause_for(long ns)
{
	struct timespec wait = {.tv_nsec = ns};

	nanosleep(&wait, NULL);
}

/* Not MC_SUBMIT_BLOCK, which would wait for room beyond the end of the run. -ECANCELED: it ended first. */
static int submit_when_room(struct bench_worker *w, struct bench_slot *slot, const struct mc_submit_attr *attr)
{
	uint64_t patience = bench_now_ns() + attr->timeout_ms * 1000000ull;
	int rc;

	while ((rc = mc_batch_submit(slot->batch, attr)) == -EAGAIN && bench_now_ns() < patience) {
		if (atomic_load_explicit(&w->run->stop, memory_order_relaxed))
			return -ECANCELED;
		pause_for(ROOM_PAUSE_NS);
	}
	return rc;
}

int bench_worker_submit(struct bench_worker *w, struct bench_slot *slot, enum mc_op op)
{
	const struct bench_shape *shape = &w->run->shape;
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_remote remote = {0};
	uint8_t *local = bench_worker_local(w);
	uint64_t i;
	int rc;

	attr.timeout_ms = (uint32_t)w->run->b->o->timeout_ms;
	remote.region = w->peer->regions[w->tid % w->peer->count].id;
	slot->epoch = atomic_load_explicit(&w->run->epoch, memory_order_acquire);
	slot->submitted_ns = bench_now_ns();
	for (i = 0; i < shape->batch; i++) {
		remote.offset = bench_worker_offset(w, i);
		rc = mc_batch_add(slot->batch, op, local + remote.offset, w->peer->segment, remote,
				  shape->block);
		if (rc)
			goto err_reset;
	}
	rc = submit_when_room(w, slot, &attr);
	if (rc == -ECANCELED) {
		mc_batch_reset(slot->batch);
		return rc;
	}
	if (rc)
		goto err_reset;
	slot->in_flight = true;
	return 0;
err_reset:
	bench_worker_failed(w, rc, mc_errmsg());
	count_failure(w, rc, shape->batch);
	mc_batch_reset(slot->batch);
	return rc;
}

/* The run was interrupted, or its time is over and was so for a while. */
static bool to_be_cancelled(struct bench_run *run)
{
	uint64_t over = atomic_load_explicit(&run->over_ns, memory_order_relaxed);

	return atomic_load_explicit(&run->cancel, memory_order_relaxed) ||
	       (over && bench_now_ns() > over + GRACE_NS);
}

static void cancel_all(struct bench_worker *w)
{
	uint64_t i;

	for (i = 0; i < w->run->b->o->depth; i++)
		if (w->slots[i].in_flight)
			mc_batch_cancel(w->slots[i].batch);
	w->cancelled = true;
}

/* Until the batch is final. Its requests have a deadline, so this ends; sooner if the run is interrupted. */
static int wait_final(struct bench_worker *w, struct bench_slot *slot)
{
	int rc;

	while ((rc = mc_batch_wait(slot->batch, WAIT_MS)) == -ETIME)
		if (!w->cancelled && to_be_cancelled(w->run))
			cancel_all(w);
	return rc;
}

/* An error of a request in words that say more than the errno's own, where there are any. */
static const char *reason(int error)
{
	switch (error) {
	case -ESTALE:
		return "the target was restarted, or registered its memory anew";
	case -EFAULT:
		return "outside the target's registered memory";
	case -EACCES:
		return "the target does not allow this direction";
	case -ETIMEDOUT:
		return "not done within --timeout_ms";
	}
	return strerror(-error);
}

int bench_worker_finish(struct bench_worker *w, struct bench_slot *slot)
{
	const struct bench_shape *shape = &w->run->shape;
	uint64_t done = 0, now, i;
	struct mc_status status;
	int rc, error = 0;
	char text[512];

	rc = wait_final(w, slot);
	now = bench_now_ns();
	slot->in_flight = false;
	if (rc) {
		bench_worker_failed(w, rc, mc_errmsg());
		count_failure(w, rc, shape->batch);
		return rc;
	}
	for (i = 0; i < shape->batch; i++) {
		if (mc_batch_status(slot->batch, (unsigned int)i, &status))
			status = (struct mc_status){.state = MC_FAILED, .error = -EIO};
		if (status.state == MC_DONE) {
			done++;
			if (status.flags & MC_STATUS_UNCONFIRMED)
				add(&w->counts.unconfirmed, 1);
			continue;
		}
		count_failure(w, status.error, 1);
		if (!error || status.error == -ESTALE)
			error = status.error;
	}
	if (error && error != -ECANCELED) {
		snprintf(text, sizeof(text), "%s segment %s: %s",
			 shape->op == MC_READ ? "reading from" : "writing to", w->run->b->o->segment_id,
			 reason(error));
		bench_worker_failed(w, error, text);
	}
	add(&w->counts.bytes, done * shape->block);
	if (!error && atomic_load_explicit(&w->run->epoch, memory_order_acquire) == 1)
		add(&w->counts.batches, 1);
	if (!error && slot->epoch)
		histogram_add(&w->latency, now - slot->submitted_ns);
	if (w->run->b->o->working_set)
		w->position += shape->batch;
	rc = mc_batch_reset(slot->batch);
	if (rc) {
		bench_worker_failed(w, rc, mc_errmsg());
		w->fatal = true;
	}
	return error ? error : rc;
}

static void drain(struct bench_worker *w)
{
	uint64_t i;

	for (i = 0; i < w->run->b->o->depth; i++)
		if (w->slots[i].in_flight)
			bench_worker_finish(w, &w->slots[i]);
}

static void renew(struct bench_worker *w)
{
	struct bench_peer *peer = NULL;
	char text[512];

	drain(w);
	while (!atomic_load(&w->run->stop)) {
		peer = bench_peer_renew(w->run, w->peer, text, sizeof(text));
		if (peer)
			break;
		bench_worker_failed(w, -ESTALE, text);
		pause_for(PAUSE_NS);
	}
	if (!peer)
		return;
	w->peer = peer;
	if (bench_peer_fits(w->run, peer, text, sizeof(text))) {
		bench_worker_failed(w, -EINVAL, text);
		w->fatal = true;
	}
}

void bench_worker_recover(struct bench_worker *w, int rc)
{
	if (!rc || atomic_load(&w->run->stop))
		return;
	if (rc == -ESTALE && w->run->b->o->follow_restart)
		renew(w);
	else
		pause_for(PAUSE_NS);
}

static void *worker_main(void *arg)
{
	struct bench_worker *w = arg;
	struct bench_run *run = w->run;
	struct bench_slot *slot;
	uint64_t n = 0;
	int rc;

	while (!atomic_load_explicit(&run->stop, memory_order_relaxed) && !w->fatal) {
		if (run->b->o->check) {
			bench_check_round(w);
			continue;
		}
		slot = &w->slots[n++ % run->b->o->depth];
		rc = slot->in_flight ? bench_worker_finish(w, slot) : 0;
		if (!rc)
			rc = bench_worker_submit(w, slot, run->shape.op);
		if (rc)
			bench_worker_recover(w, rc);
	}
	drain(w);
	atomic_fetch_sub(&run->alive, 1);
	return NULL;
}

static void worker_free(struct bench_worker *w)
{
	uint64_t i;

	for (i = 0; w->slots && i < w->run->b->o->depth; i++)
		if (w->slots[i].batch && mc_batch_free(w->slots[i].batch))
			out_warn("%s", mc_errmsg());
	free(w->slots);
	if (w->peer)
		bench_peer_put(w->run, w->peer);
}

static int worker_init(struct bench_worker *w, struct bench_run *run, unsigned int tid)
{
	uint64_t i;

	w->run = run;
	w->tid = tid;
	histogram_reset(&w->latency);
	w->slots = calloc(run->b->o->depth, sizeof(*w->slots));
	if (!w->slots)
		return out_error("not enough memory; lower --threads (%llu)",
				 (unsigned long long)run->shape.threads);
	for (i = 0; i < run->b->o->depth; i++)
		if (mc_batch_alloc(run->b->engine, (unsigned int)run->shape.batch, &w->slots[i].batch))
			return out_error("%s", mc_errmsg());
	w->peer = bench_peer_get(run);
	return 0;
}

/* Sum of what all workers moved so far. */
static uint64_t moved(struct bench_run *run)
{
	uint64_t bytes = 0, i;

	for (i = 0; i < run->shape.threads; i++)
		bytes += get(&run->workers[i].counts.bytes);
	return bytes;
}

static uint64_t failures(struct bench_run *run)
{
	struct bench_counts *c;
	uint64_t n = 0, i;

	for (i = 0; i < run->shape.threads; i++) {
		c = &run->workers[i].counts;
		n += get(&c->failed) + get(&c->timed_out) + get(&c->stale);
	}
	return n;
}

/* Let @seconds pass, telling about it on a terminal; true if a signal or the workers' end cut it short. */
static bool pass(struct bench_run *run, double seconds, const char *what)
{
	const struct bench_options *o = run->b->o;
	uint64_t start = bench_now_ns(), shown = start, end = start + (uint64_t)(seconds * 1e9), now, bytes,
		 last = 0;

	for (now = start; now < end; now = bench_now_ns()) {
		if (bench_signalled(run->b, end - now > 200000000 ? 0.2 : (double)(end - now) / 1e9)) {
			atomic_store(&run->cancel, true);
			return true;
		}
		if (!atomic_load(&run->alive))
			return true;
		now = bench_now_ns();
		if (!progress_on() || now - shown < 1000000000)
			continue;
		bytes = moved(run);
		progress_line("%s %.0f of %.0f s, %.*f %s/s, %llu failed", what, (double)(now - start) / 1e9,
			      seconds, (int)o->report_precision,
			      (double)(bytes - last) / ((double)(now - shown) / 1e9) / o->unit_bytes,
			      o->report_unit, (unsigned long long)failures(run));
		last = bytes;
		shown = now;
	}
	return false;
}

/* Where requests went, as the library says it after the fact: "tcp (4 streams); shm (memfd mapped)". */
static void describe_path(struct bench_run *run, char *text, size_t size)
{
	struct mc_segment_region region;
	char one[192];
	unsigned int i;
	size_t n = 0;

	text[0] = 0;
	for (i = 0; i < mc_segment_region_count(run->peer->segment); i++) {
		region = (struct mc_segment_region){.size = sizeof(region)};
		if (mc_segment_region(run->peer->segment, i, &region) || !region.path)
			continue;
		if (region.detail && *region.detail)
			snprintf(one, sizeof(one), "%s (%s)", region.path, region.detail);
		else
			snprintf(one, sizeof(one), "%s", region.path);
		if (strstr(text, one))
			continue;
		n += (size_t)snprintf(text + n, size - n, "%s%s", n ? "; " : "", one);
		if (n >= size)
			return;
	}
}

/* Figures at one moment; differences of two are what a run has moved, whatever was in flight at either. */
struct moment {
	struct mc_engine_stats stats;
	double cpu;
	uint64_t ns;
};

static void take(struct bench_run *run, struct moment *m)
{
	m->stats.size = sizeof(m->stats);
	if (mc_engine_stats(run->b->engine, &m->stats))
		m->stats = (struct mc_engine_stats){0};
	m->cpu = bench_cpu_seconds();
	m->ns = bench_now_ns();
}

static double peer_cpu(struct bench_peer *peer)
{
	double seconds;

	return mc_segment_cpu_seconds(peer->segment, &seconds) ? NAN : seconds;
}

static uint64_t stats_bytes(const struct moment *m)
{
	return m->stats.bytes_read + m->stats.bytes_written;
}

/* Per request and worker, over the whole run: what failed, and how long batches took. */
static void gather(struct bench_run *run, struct bench_result *result)
{
	struct bench_worker *w;
	uint64_t i;

	for (i = 0; i < run->shape.threads; i++) {
		w = &run->workers[i];
		result->batches += get(&w->counts.batches);
		result->failed += get(&w->counts.failed);
		result->timed_out += get(&w->counts.timed_out);
		result->stale += get(&w->counts.stale);
		result->cancelled += get(&w->counts.cancelled);
		result->unconfirmed += get(&w->counts.unconfirmed);
		result->checked_bytes += get(&w->counts.checked_bytes);
		result->wrong_bytes += get(&w->counts.wrong_bytes);
		result->rounds += get(&w->counts.rounds);
		histogram_merge(&result->latency, &w->latency);
		if (w->error && (!result->error[0] || w->fatal))
			snprintf(result->error, sizeof(result->error), "%s", w->sentence);
	}
	result->reopened = atomic_load(&run->reopened);
	result->interrupted = atomic_load(&run->cancel);
	describe_path(run, result->path, sizeof(result->path));
}

/* The measured time, which ends when it is over and a request, however slow, was done or failed. */
static void let_run(struct bench_run *run, const struct moment *before)
{
	struct moment now;
	bool cut = pass(run, run->shape.duration, "measuring");

	for (take(run, &now); !cut && stats_bytes(&now) == stats_bytes(before) && !failures(run); take(run, &now))
		cut = pass(run, 0.1, "waiting");
}

/* Workers run; this thread takes the figures when warming up ends and when the time is over. */
static void time_run(struct bench_run *run, unsigned int started, struct bench_result *result)
{
	struct moment before, after;
	struct bench_peer *peer;
	bool cut = false;
	double there, gib;
	unsigned int i;

	if (run->shape.warmup > 0)
		cut = pass(run, run->shape.warmup, "warming up");
	peer = bench_peer_get(run);
	there = peer_cpu(peer);
	take(run, &before);
	atomic_store_explicit(&run->epoch, 1, memory_order_release);
	if (!cut)
		let_run(run, &before);
	take(run, &after);
	atomic_store_explicit(&run->epoch, 2, memory_order_release);
	atomic_store(&run->over_ns, bench_now_ns());
	atomic_store(&run->stop, true);
	there = peer_cpu(peer) - there;
	for (i = 0; i < started; i++)
		pthread_join(run->workers[i].thread, NULL);
	progress_clear();
	gather(run, result);
	result->seconds = (double)(after.ns - before.ns) / 1e9;
	result->requests = after.stats.requests_done - before.stats.requests_done;
	result->bytes = stats_bytes(&after) - stats_bytes(&before);
	result->allocs = after.stats.data_path_allocs - before.stats.data_path_allocs;
	result->rate = result->seconds > 0 ? (double)result->bytes / result->seconds : 0;
	gib = (double)result->bytes / 1073741824.0;
	result->cpu_own = gib > 0 ? (after.cpu - before.cpu) / gib : NAN;
	/* A process that was restarted has a clock of its own. */
	result->cpu_target = gib > 0 && peer == run->peer ? there / gib : NAN;
	bench_peer_put(run, peer);
}

uint64_t bench_span(const struct bench_options *o, const struct bench_shape *shape)
{
	uint64_t span = o->working_set ? o->working_set : shape->block * shape->batch * shape->threads;

	return o->check ? span - span % (shape->block * shape->threads) : span;
}

int bench_measure(struct bench *b, struct bench_peer **peer, const struct bench_shape *shape,
		  struct bench_result *result)
{
	struct bench_run run = {.b = b, .shape = *shape, .peer = *peer, .lock = PTHREAD_MUTEX_INITIALIZER};
	unsigned int started = 0, made = 0;
	int rc = -1, err;

	memset(result, 0, sizeof(*result));
	histogram_reset(&result->latency);
	result->shape = *shape;
	run.span = bench_span(b->o, shape);
	if (bench_peer_fits(&run, run.peer, result->error, sizeof(result->error))) {
		out_error("%s", result->error);
		return -1;
	}
	run.workers = calloc(shape->threads, sizeof(*run.workers));
	if (!run.workers) {
		out_error("not enough memory; lower --threads (%llu)", (unsigned long long)shape->threads);
		return -1;
	}
	for (; made < shape->threads; made++)
		if (worker_init(&run.workers[made], &run, made))
			goto err_free;
	atomic_store(&run.alive, (unsigned int)shape->threads);
	for (; started < shape->threads; started++) {
		err = pthread_create(&run.workers[started].thread, NULL, worker_main, &run.workers[started]);
		if (!err)
			continue;
		out_error("cannot start thread %u of %llu: %s; lower --threads", started + 1,
			  (unsigned long long)shape->threads, strerror(err));
		atomic_store(&run.stop, true);
		while (started)
			pthread_join(run.workers[--started].thread, NULL);
		goto err_free;
	}
	time_run(&run, started, result);
	rc = 0;
err_free:
	/* The worker at [made] is half initialised, all others wholly or not at all. */
	for (started = 0; started <= made && started < shape->threads; started++)
		if (run.workers[started].run)
			worker_free(&run.workers[started]);
	free(run.workers);
	*peer = run.peer;
	return rc;
}
