/* SPDX-License-Identifier: MIT */
/* Log-linear histogram in the manner of HdrHistogram: any uint64_t, 1.6 % precision, no allocation to add. */
#ifndef TOOLS_COMMON_HISTOGRAM_H
#define TOOLS_COMMON_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 6
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

struct histogram {
	uint64_t count, min, max;
	double sum;
	uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_reset(struct histogram *h);
void histogram_add(struct histogram *h, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The value that the share @q (0 to 1) of all values does not exceed; 0 if there are none. */
uint64_t histogram_quantile(const struct histogram *h, double q);

#endif
