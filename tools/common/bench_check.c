// SPDX-License-Identifier: MIT
/*
 * --check: what was written must be what is read back. The pattern depends on the absolute offset, the
 * seed and the round, so that bytes that went elsewhere, or are of an earlier round, are seen as wrong.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "output.h"

#define POISON 0x5a

/* splitmix64 of the word's place. */
static uint64_t pattern_word(uint64_t seed, uint64_t word)
{
	uint64_t x = seed + (word + 1) * 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint8_t pattern_byte(uint64_t seed, uint64_t offset)
{
	return (uint8_t)(pattern_word(seed, offset / 8) >> (offset % 8 * 8));
}

static void pattern_fill(uint8_t *at, uint64_t offset, uint64_t length, uint64_t seed)
{
	uint64_t word;

	for (; length && offset % 8; length--)
		*at++ = pattern_byte(seed, offset++);
	for (; length >= 8; length -= 8, offset += 8, at += 8) {
		word = pattern_word(seed, offset / 8);
		memcpy(at, &word, 8);
	}
	while (length--)
		*at++ = pattern_byte(seed, offset++);
}

/* Number of wrong bytes; *first is the offset of the first of them. */
static uint64_t pattern_compare(const uint8_t *at, uint64_t offset, uint64_t length, uint64_t seed,
				uint64_t *first)
{
	uint64_t wrong = 0, i, word, got;

	for (i = 0; i < length; i++) {
		if (!((offset + i) % 8) && length - i >= 8) {
			word = pattern_word(seed, (offset + i) / 8);
			memcpy(&got, at + i, 8);
			if (got == word) {
				i += 7;
				continue;
			}
		}
		if (at[i] != pattern_byte(seed, offset + i)) {
			if (!wrong)
				*first = offset + i;
			wrong++;
		}
	}
	return wrong;
}

/* One batch in one direction; 0, or the error of a request. */
static int move(struct bench_worker *w, enum mc_op op)
{
	int rc = bench_worker_submit(w, &w->slots[0], op);

	return rc ? rc : bench_worker_finish(w, &w->slots[0]);
}

static void compare(struct bench_worker *w, uint64_t seed, uint64_t position)
{
	uint64_t i, offset, wrong, first = 0, now = w->position;
	const uint8_t *local = bench_worker_local(w);

	w->position = position;
	for (i = 0; i < w->run->shape.batch; i++) {
		offset = bench_worker_offset(w, i);
		wrong = pattern_compare(local + offset, offset, w->run->shape.block, seed, &first);
		if (wrong && !atomic_load(&w->counts.wrong_bytes))
			out_error("thread %u, round %llu: %llu of %llu bytes from offset %llu on are wrong, "
				  "the first at %llu",
				  w->tid, (unsigned long long)atomic_load(&w->counts.rounds),
				  (unsigned long long)wrong, (unsigned long long)w->run->shape.block,
				  (unsigned long long)offset, (unsigned long long)first);
		atomic_fetch_add(&w->counts.wrong_bytes, wrong);
		atomic_fetch_add(&w->counts.checked_bytes, w->run->shape.block);
	}
	w->position = now;
}

void bench_check_round(struct bench_worker *w)
{
	const struct bench_shape *shape = &w->run->shape;
	uint64_t seed = w->run->b->o->seed, round = atomic_load(&w->counts.rounds), position = w->position, i,
		 offset;
	struct bench_peer *peer = w->peer;
	uint8_t *local = bench_worker_local(w);
	int rc;

	seed = pattern_word(seed, round * shape->threads + w->tid);
	for (i = 0; i < shape->batch; i++) {
		offset = bench_worker_offset(w, i);
		pattern_fill(local + offset, offset, shape->block, seed);
	}
	rc = move(w, MC_WRITE);
	if (!rc) {
		w->position = position;
		for (i = 0; i < shape->batch; i++)
			memset(local + bench_worker_offset(w, i), POISON, shape->block);
		rc = move(w, MC_READ);
	}
	/* A write that failed leaves its range undefined, and a re-opened segment is other memory. */
	if (!rc && w->peer == peer)
		compare(w, seed, position);
	atomic_fetch_add(&w->counts.rounds, 1);
	bench_worker_recover(w, rc);
}
