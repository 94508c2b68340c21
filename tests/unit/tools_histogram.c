// SPDX-License-Identifier: MIT
/* The histogram behind p50 to p99.9: bounded error over the whole range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "../../tools/common/histogram.c"

static struct histogram h, other;

static void test_small_values_are_exact(void **state)
{
	uint64_t i;

	(void)state;
	histogram_reset(&h);
	for (i = 1; i <= 50; i++)
		histogram_add(&h, i);
	assert_int_equal(histogram_quantile(&h, 0.5), 25);
	assert_int_equal(histogram_quantile(&h, 0), 1);
	assert_int_equal(histogram_quantile(&h, 1), 50);
	assert_int_equal(h.min, 1);
	assert_int_equal(h.max, 50);
}

static void test_every_value_falls_into_a_bucket_within_two_percent(void **state)
{
	uint64_t value, got, step;
	unsigned int shift;

	(void)state;
	for (shift = 0; shift < 64; shift++) {
		for (step = 0; step < 3; step++) {
			value = (1ull << shift) + step * ((1ull << shift) / 3);
			histogram_reset(&h);
			histogram_add(&h, value);
			histogram_add(&h, UINT64_MAX);
			got = histogram_quantile(&h, 0.5);
			assert_true(got >= value);
			assert_true((double)(got - value) <= 0.02 * (double)value);
		}
	}
}

static void test_quantiles_follow_a_sorted_sample(void **state)
{
	uint64_t i;

	(void)state;
	histogram_reset(&h);
	for (i = 1; i <= 100000; i++)
		histogram_add(&h, i * 1000);
	for (i = 1; i < 1000; i++) {
		double exact = (double)i / 1000 * 1e8, got = (double)histogram_quantile(&h, (double)i / 1000);

		assert_true(got >= exact * 0.999 && got <= exact * 1.02);
	}
}

static void test_merging_adds_up(void **state)
{
	(void)state;
	histogram_reset(&h);
	histogram_reset(&other);
	histogram_add(&h, 10);
	histogram_merge(&h, &other);
	assert_int_equal(h.min, 10);
	histogram_add(&other, 5);
	histogram_add(&other, 30);
	histogram_merge(&h, &other);
	assert_int_equal(h.count, 3);
	assert_int_equal(h.min, 5);
	assert_int_equal(h.max, 30);
	assert_int_equal(histogram_quantile(&h, 0.5), 10);
	histogram_reset(&h);
	assert_int_equal(histogram_quantile(&h, 0.5), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_values_are_exact),
		cmocka_unit_test(test_every_value_falls_into_a_bucket_within_two_percent),
		cmocka_unit_test(test_quantiles_follow_a_sorted_sample),
		cmocka_unit_test(test_merging_adds_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
