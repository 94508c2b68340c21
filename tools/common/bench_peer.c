// SPDX-License-Identifier: MIT
/*
 * The target's segment as the workers share it. A stale one is replaced once, by the first worker that
 * notices; the others take the replacement. Lock: run->lock, held while re-opening, so that others wait.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench.h"
#include "output.h"

#define REOPEN_PAUSE_NS 200000000ull
#define AWAIT_NS 4000000000ull /* how long a target may take to register its memory */
/* All errors are to be there 5 s after the start, also on a busy machine. */
#define OPEN_NS 3900000000ull
#define OPEN_LEAST_MS 1000
#define OPEN_LATER_MS 3000

void bench_peer_close(struct bench_peer *peer)
{
	if (mc_segment_close(peer->segment))
		out_warn("%s", mc_errmsg());
	free(peer->regions);
	free(peer);
}

static uint32_t open_timeout_ms(const struct bench *b)
{
	uint64_t spent = bench_now_ns() - b->started_ns;

	if (b->o->open_timeout_ms)
		return (uint32_t)b->o->open_timeout_ms;
	if (!b->started_ns)
		return OPEN_LATER_MS;
	return spent + OPEN_LEAST_MS * 1000000ull < OPEN_NS ? (uint32_t)((OPEN_NS - spent) / 1000000)
							    : OPEN_LEAST_MS;
}

struct bench_peer *bench_peer_open(struct bench *b, enum mc_op op)
{
	uint32_t need = b->o->check	? MC_REMOTE_READ | MC_REMOTE_WRITE
			: op == MC_READ ? MC_REMOTE_READ
					: MC_REMOTE_WRITE;
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	struct mc_segment_region region;
	struct bench_peer *peer;
	unsigned int i, count;

	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return NULL;
	attr.timeout_ms = open_timeout_ms(b);
	if (mc_segment_open(b->engine, b->o->segment_id, &attr, &peer->segment))
		goto err_free;
	count = mc_segment_region_count(peer->segment);
	peer->regions = calloc(count ? count : 1, sizeof(*peer->regions));
	if (!peer->regions)
		goto err_close;
	for (i = 0; i < count; i++) {
		region = (struct mc_segment_region){.size = sizeof(region)};
		if (!mc_segment_region(peer->segment, i, &region) && (region.rights & need) == need)
			peer->regions[peer->count++] = region;
	}
	peer->refs = 1;
	return peer;
err_close:
	mc_segment_close(peer->segment);
err_free:
	free(peer);
	return NULL;
}

struct bench_peer *bench_peer_await(struct bench *b, enum mc_op op, bool say)
{
	struct timespec pause = {.tv_nsec = REOPEN_PAUSE_NS};
	uint64_t end = bench_now_ns() + AWAIT_NS;
	struct bench_peer *peer;

	for (;;) {
		peer = bench_peer_open(b, op);
		if (!peer || mc_segment_region_count(peer->segment) || bench_now_ns() >= end)
			return peer;
		if (say)
			progress_line("segment %s is there, its memory is not yet: waiting", b->o->segment_id);
		bench_peer_close(peer);
		nanosleep(&pause, NULL);
	}
}

struct bench_peer *bench_peer_get(struct bench_run *run)
{
	struct bench_peer *peer;

	pthread_mutex_lock(&run->lock);
	peer = run->peer;
	peer->refs++;
	pthread_mutex_unlock(&run->lock);
	return peer;
}

static bool put_locked(struct bench_peer *peer) { return !--peer->refs; }

void bench_peer_put(struct bench_run *run, struct bench_peer *peer)
{
	bool last;

	pthread_mutex_lock(&run->lock);
	last = put_locked(peer);
	pthread_mutex_unlock(&run->lock);
	if (last)
		bench_peer_close(peer);
}

struct bench_peer *bench_peer_renew(struct bench_run *run, struct bench_peer *old, char *text, size_t size)
{
	struct bench_peer *peer, *dead = NULL;

	pthread_mutex_lock(&run->lock);
	if (run->peer == old) {
		peer = NULL;
		if (bench_now_ns() >= run->retry_ns && !atomic_load(&run->stop)) {
			peer = bench_peer_open(run->b, run->shape.op);
			if (!peer) {
				snprintf(run->reopen_error, sizeof(run->reopen_error), "%s", mc_errmsg());
			} else if (!mc_segment_region_count(peer->segment)) {
				/* It was restarted and has not registered its memory yet. */
				snprintf(run->reopen_error, sizeof(run->reopen_error),
					 "segment %s was restarted and offers no memory so far",
					 run->b->o->segment_id);
				bench_peer_close(peer);
				peer = NULL;
			}
			run->retry_ns = bench_now_ns() + REOPEN_PAUSE_NS;
		}
		if (!peer) {
			snprintf(text, size, "%s", run->reopen_error);
			pthread_mutex_unlock(&run->lock);
			return NULL;
		}
		/* The reference of the run moves over; the caller still has one on @old. */
		put_locked(old);
		run->peer = peer;
		atomic_fetch_add(&run->reopened, 1);
	}
	peer = run->peer;
	peer->refs++;
	if (put_locked(old))
		dead = old;
	pthread_mutex_unlock(&run->lock);
	if (dead)
		bench_peer_close(dead);
	return peer;
}

int bench_peer_fits(const struct bench_run *run, const struct bench_peer *peer, char *text, size_t size)
{
	const char *what = run->shape.op == MC_READ ? "read" : "written";
	char has[OUT_SIZE_TEXT], needs[OUT_SIZE_TEXT];
	const struct bench_options *o = run->b->o;
	unsigned int i;

	if (!peer->count) {
		snprintf(text, size, "segment %s offers no memory that may be %s; is it a target of this bench?",
			 o->segment_id, o->check ? "read and written" : what);
		return -1;
	}
	for (i = 0; i < peer->count && i < run->shape.threads; i++) {
		if (peer->regions[i].length >= run->span)
			continue;
		snprintf(text, size,
			 "region %u of segment %s has %s, but block x batch x threads reach over %s: start "
			 "the target with --buffer_size=%llu, or lower --block_size, --batch_size or --threads "
			 "here",
			 peer->regions[i].id, o->segment_id, out_size(peer->regions[i].length, has),
			 out_size(run->span, needs), (unsigned long long)run->span);
		return -1;
	}
	return 0;
}
