// SPDX-License-Identifier: MIT
/* Log-linear histogram: below 64 exact, above 64 buckets per power of two. One thread at a time. */
#include <string.h>

#include "histogram.h"

void histogram_reset(struct histogram *h)
{
	memset(h, 0, sizeof(*h));
	h->min = UINT64_MAX;
}

static unsigned int bucket_of(uint64_t value)
{
	unsigned int exponent;

	if (value < (1u << HISTOGRAM_BITS))
		return (unsigned int)value;
	exponent = 63 - (unsigned int)__builtin_clzll(value) - HISTOGRAM_BITS;
	return ((exponent + 1) << HISTOGRAM_BITS) +
	       (unsigned int)((value >> exponent) - (1u << HISTOGRAM_BITS));
}

/* Highest value of a bucket. */
static uint64_t bucket_top(unsigned int bucket)
{
	unsigned int exponent;
	uint64_t base;

	if (bucket < (1u << HISTOGRAM_BITS))
		return bucket;
	exponent = (bucket >> HISTOGRAM_BITS) - 1;
	base = (bucket & ((1u << HISTOGRAM_BITS) - 1)) + (1u << HISTOGRAM_BITS);
	return (base << exponent) + ((1ull << exponent) - 1);
}

void histogram_add(struct histogram *h, uint64_t value)
{
	h->bucket[bucket_of(value)]++;
	h->count++;
	h->sum += (double)value;
	if (value < h->min)
		h->min = value;
	if (value > h->max)
		h->max = value;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	unsigned int i;

	if (!from->count)
		return;
	for (i = 0; i < HISTOGRAM_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
	into->count += from->count;
	into->sum += from->sum;
	if (from->min < into->min)
		into->min = from->min;
	if (from->max > into->max)
		into->max = from->max;
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
	uint64_t rank, seen = 0, top;
	unsigned int i;

	if (!h->count)
		return 0;
	rank = (uint64_t)(q * (double)h->count);
	if ((double)rank < q * (double)h->count)
		rank++;
	if (!rank)
		rank = 1;
	for (i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= rank) {
			top = bucket_top(i);
			return top < h->max ? top : h->max;
		}
	}
	return h->max;
}
