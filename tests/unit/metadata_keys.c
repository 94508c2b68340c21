// SPDX-License-Identifier: MIT
/* The metadata server's ordered keys against a plain array that is searched from end to end. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if USE_HTTP
#include "metadata/server_keys.h"

#define NAMES 400

struct model {
	char name[24];
	char value[24];
	uint64_t expires_ns;
	int there;
};

static uint32_t seed = 12345;

static uint32_t dice(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

static void set(struct mci_keys *keys, struct mci_budget *budget, struct model *m)
{
	struct mci_key *key = mci_keys_prepare(keys, m->name);
	struct mci_blob *blob = mci_blob_new(budget, sizeof(m->value));

	assert_non_null(key);
	assert_non_null(blob);
	blob->length = (uint32_t)snprintf(m->value, sizeof(m->value), "%u", dice(1000000));
	memcpy(blob->bytes, m->value, blob->length);
	m->expires_ns = dice(3) ? dice(1000) + 1 : 0;
	m->there = 1;
	mci_keys_commit(keys, key, blob, 7, 0, m->expires_ns);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct model *)a)->name, ((const struct model *)b)->name);
}

static void compare(const struct mci_keys *keys, const struct model *model)
{
	struct mci_key *key = mci_keys_seek(keys, "", false);
	uint64_t count = 0, bytes = 0, soonest = 0;
	int i;

	for (i = 0; i < NAMES; i++) {
		struct mci_key *found = mci_keys_find(keys, model[i].name);

		if (!model[i].there) {
			assert_null(found);
			continue;
		}
		assert_ptr_equal(found, key);
		assert_string_equal(key->text, model[i].name);
		assert_int_equal(key->value->length, strlen(model[i].value));
		assert_memory_equal(key->value->bytes, model[i].value, key->value->length);
		count++;
		bytes += mci_keys_cost(strlen(model[i].name), strlen(model[i].value));
		if (model[i].expires_ns && (!soonest || model[i].expires_ns < soonest))
			soonest = model[i].expires_ns;
		key = key->next[0];
	}
	assert_null(key);
	assert_int_equal(keys->count, count);
	assert_int_equal(keys->bytes, bytes);
	key = mci_keys_next_expiry(keys);
	assert_int_equal(key ? key->expires_ns : 0, soonest);
}

static void test_random_changes_agree_with_a_plain_array(void **state)
{
	static struct model model[NAMES];
	struct mci_budget budget = {.max = UINT64_MAX};
	struct mci_keys keys;
	int i, round;

	(void)state;
	for (i = 0; i < NAMES; i++)
		snprintf(model[i].name, sizeof(model[i].name), "%x", (unsigned int)i * 2654435761u);
	qsort(model, NAMES, sizeof(model[0]), by_name);
	mci_keys_init(&keys);
	for (round = 0; round < 20000; round++) {
		struct model *m = &model[dice(NAMES)];
		struct mci_key *key;

		switch (dice(4)) {
		case 0:
		case 1:
			set(&keys, &budget, m);
			break;
		case 2:
			key = mci_keys_find(&keys, m->name);
			if (key)
				mci_keys_remove(&keys, key);
			m->there = 0;
			break;
		case 3:
			key = mci_keys_prepare(&keys, m->name);
			assert_non_null(key);
			if (m->there) {
				m->expires_ns = dice(1000) + 1;
				mci_keys_touch(&keys, key, 5, m->expires_ns);
			} else {
				mci_keys_cancel(key); /* as when the log refuses: nothing stays behind */
			}
		}
		if (!(round % 100))
			compare(&keys, model);
	}
	compare(&keys, model);
	mci_keys_free(&keys);
	assert_int_equal(atomic_load(&budget.used), 0);
}

static void test_seek_finds_the_first_key_not_before_or_behind(void **state)
{
	struct mci_budget budget = {.max = 100};
	struct model m[] = {{.name = "b"}, {.name = "d"}};
	struct mci_keys keys;

	(void)state;
	mci_keys_init(&keys);
	set(&keys, &budget, &m[0]);
	set(&keys, &budget, &m[1]);
	assert_string_equal(mci_keys_seek(&keys, "a", false)->text, "b");
	assert_string_equal(mci_keys_seek(&keys, "b", false)->text, "b");
	assert_string_equal(mci_keys_seek(&keys, "b", true)->text, "d");
	assert_string_equal(mci_keys_seek(&keys, "c", true)->text, "d");
	assert_null(mci_keys_seek(&keys, "d", true));
	assert_null(mci_keys_seek(&keys, "\xff", false));
	mci_keys_free(&keys);
}

static void test_a_replaced_value_counts_as_in_flight_while_it_is_read(void **state)
{
	struct mci_budget budget = {.max = UINT64_MAX};
	struct model m = {.name = "k"};
	struct mci_keys keys;
	struct mci_blob *reader;

	(void)state;
	mci_keys_init(&keys);
	set(&keys, &budget, &m);
	reader = mci_blob_get(mci_keys_find(&keys, "k")->value);
	assert_int_equal(atomic_load(&budget.used), 0);
	set(&keys, &budget, &m);
	assert_int_equal(atomic_load(&budget.used), reader->length);
	mci_blob_put(reader);
	assert_int_equal(atomic_load(&budget.used), 0);
	mci_keys_free(&keys);
}

static void test_a_budget_is_never_exceeded(void **state)
{
	struct mci_budget budget = {.max = 10};

	(void)state;
	assert_true(mci_budget_take(&budget, 10));
	assert_false(mci_budget_take(&budget, 1));
	mci_budget_give(&budget, 4);
	assert_true(mci_budget_take(&budget, 4));
	assert_false(mci_budget_take(&budget, UINT64_MAX - 5));
	assert_int_equal(atomic_load(&budget.used), 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_changes_agree_with_a_plain_array),
		cmocka_unit_test(test_seek_finds_the_first_key_not_before_or_behind),
		cmocka_unit_test(test_a_replaced_value_counts_as_in_flight_while_it_is_read),
		cmocka_unit_test(test_a_budget_is_never_exceeded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
	puts("this build has no metadata server (USE_HTTP=0)");
	return 77;
}
#endif
