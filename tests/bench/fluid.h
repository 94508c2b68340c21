/* SPDX-License-Identifier: MIT */
/*
 * Links as fluids: every node has one link up and one down; the reads on them share by max-min fairness (no
 * read can get more without one that has less or as much getting less), as long-lived flows of fair
 * transports come near to. Rates change at once. Header only; tests/bench/p2p_sim.c is its user.
 */
#ifndef BENCH_FLUID_H
#define BENCH_FLUID_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct fluid_read {
	uint32_t source, sink, piece;
	double left; /* bytes */
	bool dead;   /* its source is gone; it moves no more */
};

struct fluid {
	uint32_t nodes;
	double *up, *down;	  /* bytes per second */
	uint16_t *reads_of, *old; /* [source * nodes + sink]: reads now, and when rates were made */
	double *rate;		  /* of each read of that pair */
	uint32_t differ;	  /* pairs where these two differ */
	struct fluid_read *reads;
	uint32_t count, room;
	double now;  /* what reads[].left means */
	double next; /* when the first read ends */
	double *room_left;
	uint32_t *open; /* reads on each link without a rate yet: up, then down */
};

static inline void fluid_new(struct fluid *fluid, uint32_t nodes)
{
	size_t pairs = (size_t)nodes * nodes;

	*fluid = (struct fluid){.nodes = nodes, .next = INFINITY};
	fluid->up = calloc(nodes, sizeof(double));
	fluid->down = calloc(nodes, sizeof(double));
	fluid->reads_of = calloc(pairs, sizeof(uint16_t));
	fluid->old = calloc(pairs, sizeof(uint16_t));
	fluid->rate = calloc(pairs, sizeof(double));
	fluid->room_left = calloc(2ul * nodes, sizeof(double));
	fluid->open = calloc(2ul * nodes, sizeof(uint32_t));
	if (!fluid->up || !fluid->down || !fluid->reads_of || !fluid->old || !fluid->rate ||
	    !fluid->room_left || !fluid->open)
		abort();
}

static inline void fluid_free(struct fluid *fluid)
{
	free(fluid->up);
	free(fluid->down);
	free(fluid->reads_of);
	free(fluid->old);
	free(fluid->rate);
	free(fluid->room_left);
	free(fluid->open);
	free(fluid->reads);
}

static inline void fluid_touch(struct fluid *fluid, uint32_t source, uint32_t sink, int change)
{
	uint32_t pair = source * fluid->nodes + sink;

	fluid->differ -= fluid->reads_of[pair] != fluid->old[pair];
	fluid->reads_of[pair] = (uint16_t)(fluid->reads_of[pair] + change);
	fluid->differ += fluid->reads_of[pair] != fluid->old[pair];
}

/* Gives one pair the rate of the tightest link, and takes it from the other link that it uses. */
static inline void fluid_fix(struct fluid *fluid, uint32_t source, uint32_t sink, double share)
{
	uint32_t pair = source * fluid->nodes + sink, n = fluid->reads_of[pair];

	if (!n || fluid->rate[pair] >= 0)
		return;
	fluid->rate[pair] = share;
	fluid->room_left[source] -= share * n;
	fluid->room_left[fluid->nodes + sink] -= share * n;
	fluid->open[source] -= n;
	fluid->open[fluid->nodes + sink] -= n;
}

static inline void fluid_rates(struct fluid *fluid)
{
	uint32_t nodes = fluid->nodes;

	for (uint32_t i = 0; i < nodes; i++) {
		fluid->room_left[i] = fluid->up[i];
		fluid->room_left[nodes + i] = fluid->down[i];
		fluid->open[i] = fluid->open[nodes + i] = 0;
	}
	for (uint32_t i = 0; i < nodes; i++) {
		for (uint32_t j = 0; j < nodes; j++) {
			uint32_t n = fluid->reads_of[i * nodes + j];

			fluid->rate[i * nodes + j] = -1;
			fluid->open[i] += n;
			fluid->open[nodes + j] += n;
		}
	}
	for (;;) {
		uint32_t tight = UINT32_MAX;
		double share, least = INFINITY;

		for (uint32_t i = 0; i < 2 * nodes; i++) {
			if (!fluid->open[i])
				continue;
			share = fluid->room_left[i] / fluid->open[i];
			if (share < least) {
				least = share;
				tight = i;
			}
		}
		if (tight == UINT32_MAX)
			return;
		least = least > 0 ? least : 0;
		for (uint32_t i = 0; i < nodes; i++) {
			if (tight < nodes)
				fluid_fix(fluid, tight, i, least);
			else
				fluid_fix(fluid, i, tight - nodes, least);
		}
	}
}

static inline void fluid_move(struct fluid *fluid, double now)
{
	double passed = now - fluid->now;

	for (uint32_t i = 0; i < fluid->count; i++) {
		struct fluid_read *read = &fluid->reads[i];

		if (!read->dead)
			read->left -= passed * fluid->rate[read->source * fluid->nodes + read->sink];
	}
	fluid->now = now;
}

static inline void fluid_add(struct fluid *fluid, double now, uint32_t source, uint32_t sink, uint32_t piece,
			     double bytes)
{
	fluid_move(fluid, now);
	if (fluid->count == fluid->room) {
		fluid->room = fluid->room ? 2 * fluid->room : 1024;
		fluid->reads = realloc(fluid->reads, fluid->room * sizeof(*fluid->reads));
		if (!fluid->reads)
			abort();
	}
	fluid->reads[fluid->count++] =
		(struct fluid_read){.source = source, .sink = sink, .piece = piece, .left = bytes};
	fluid_touch(fluid, source, sink, 1);
}

/* Ends the read at @index; what was last takes its place. */
static inline void fluid_end(struct fluid *fluid, uint32_t index)
{
	struct fluid_read *read = &fluid->reads[index];

	if (!read->dead)
		fluid_touch(fluid, read->source, read->sink, -1);
	*read = fluid->reads[--fluid->count];
}

/* After adding and ending: rates, if any pair has more or fewer reads than before, and the time of the next
 * end. */
static inline void fluid_settle(struct fluid *fluid)
{
	if (fluid->differ) {
		memcpy(fluid->old, fluid->reads_of,
		       (size_t)fluid->nodes * fluid->nodes * sizeof(*fluid->old));
		fluid->differ = 0;
		fluid_rates(fluid);
	}
	fluid->next = INFINITY;
	for (uint32_t i = 0; i < fluid->count; i++) {
		const struct fluid_read *read = &fluid->reads[i];
		double rate = fluid->rate[read->source * fluid->nodes + read->sink];

		if (!read->dead && rate > 0 && fluid->now + read->left / rate < fluid->next)
			fluid->next = fluid->now + read->left / rate;
	}
}

#endif
