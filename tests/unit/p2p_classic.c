// SPDX-License-Identifier: MIT
/* The classic P2P record: a real one read and written again, our locations in and out, broken ones refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "p2p/classic.h"

/* As a classic trainer and one classic inferencer leave it. */
static const char real[] =
	"{\"name\":\"foo/bar\",\"size\":160,\"size_list\":[100,60],\"max_shard_size\":64,\"shards\":["
	"{\"size\":64,\"gold\":[{\"segment_name\":\"10.0.0.1:12345\",\"offset\":140035520823296}],\"replica_"
	"list\":null},"
	"{\"size\":36,\"gold\":[{\"segment_name\":\"10.0.0.1:12345\",\"offset\":140035520823360}],\"replica_"
	"list\":["
	"{\"segment_name\":\"10.0.0.2:12345\",\"offset\":139035520823360}]},"
	"{\"size\":60,\"gold\":null,\"replica_list\":null}]}";

static void test_a_real_record_is_the_same_after_a_round(void **state)
{
	struct mci_classic_record *r;
	char *text;

	(void)state;
	assert_int_equal(mci_classic_parse(real, strlen(real), &r), 0);
	assert_string_equal(r->name, "foo/bar");
	assert_int_equal(r->bytes, 160);
	assert_int_equal(r->shard_count, 3);
	assert_int_equal(r->shard[1].gold.at[0].address, 140035520823360);
	assert_string_equal(r->shard[1].replicas.at[0].segment, "10.0.0.2:12345");
	text = mci_classic_text(r);
	assert_string_equal(text, real);
	free(text);
	mci_classic_free(r);
}

static void test_our_locations_come_and_go_alone(void **state)
{
	const uint64_t at[] = {0x1000, 0x900000}, sizes[] = {100, 60};
	struct mci_classic_record *r;
	char *text;

	(void)state;
	assert_int_equal(mci_classic_parse(real, strlen(real), &r), 0);
	assert_int_equal(mci_classic_add(r, "us:1", at, true), 0);
	assert_int_equal(mci_classic_add(r, "us:1", at, true), 0); /* not twice */
	assert_int_equal(r->shard[0].gold.count, 2);
	assert_int_equal(r->shard[1].gold.at[1].address, 0x1000 + 64);
	assert_int_equal(r->shard[2].gold.at[0].address, 0x900000);
	assert_int_equal(mci_classic_add(r, "a:1", at, false), 0);
	assert_int_equal(mci_classic_add(r, "b:1", at, false), 0);
	assert_int_equal(mci_classic_add(r, "c:1", at, false), 0); /* two replicas are enough */
	assert_int_equal(r->shard[0].replicas.count, 2);
	assert_int_equal(r->shard[1].replicas.count, 2);
	assert_false(mci_classic_remove(r, "c:1"));
	assert_true(mci_classic_remove(r, "us:1") && mci_classic_remove(r, "a:1") &&
		    mci_classic_remove(r, "b:1"));
	text = mci_classic_text(r);
	assert_string_equal(text, real);
	free(text);
	assert_false(mci_classic_nobody(r));
	mci_classic_free(r);

	assert_int_equal(mci_classic_new("x", sizes, 2, 64, &r), 0);
	assert_true(mci_classic_nobody(r));
	assert_int_equal(r->shard_count, 3);
	mci_classic_free(r);
}

static void refuse(const char *from, const char *to)
{
	char text[sizeof(real) + 64], *at;
	struct mci_classic_record *r = (void *)1;

	strcpy(text, real);
	at = strstr(text, from);
	assert_non_null(at);
	memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
	memcpy(at, to, strlen(to));
	if (mci_classic_parse(text, strlen(text), &r) != -EBADMSG)
		fail_msg("taken: %s", text);
	assert_null(r);
}

static void test_broken_records_are_refused(void **state)
{
	struct mci_classic_record *r;
	size_t n;

	(void)state;
	for (n = 0; n < strlen(real); n++)
		assert_int_equal(mci_classic_parse(real, n, &r), -EBADMSG);
	refuse("\"size\":160", "\"size\":161");
	refuse("[100,60]", "[60,100]");
	refuse("[100,60]", "[]");
	refuse("[100,60]", "[160,0]");
	refuse("[100,60]", "[-100,260]");
	refuse("\"max_shard_size\":64", "\"max_shard_size\":0");
	refuse("\"max_shard_size\":64", "\"max_shard_size\":-64");
	refuse("\"size\":36", "\"size\":35");
	refuse("\"gold\":null", "\"gold\":7");
	refuse("\"gold\":null", "\"gold\":[7]");
	refuse("\"gold\":null", "\"gold\":[{\"segment_name\":\"\",\"offset\":1}]");
	refuse("\"offset\":139035520823360", "\"offset\":\"1\"");
	refuse("\"name\":\"foo/bar\"", "\"name\":null");
	refuse("\"shards\":[", "\"shards\":[null,");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_real_record_is_the_same_after_a_round),
		cmocka_unit_test(test_our_locations_come_and_go_alone),
		cmocka_unit_test(test_broken_records_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
