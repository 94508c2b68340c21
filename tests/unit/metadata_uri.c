// SPDX-License-Identifier: MIT
/* Metadata URIs: what is valid, what it means, and how the rest is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <mooncake/types.h>

#include "config.h"
#include "core/errors.h"
#include "metadata/uri.h"

static void parse(const char *text, enum mci_metadata_kind kind, struct mci_uri *uri)
{
	int ret = mci_uri_parse(text, uri);

	if (ret)
		print_error("%s: %s\n", text, mc_errmsg());
	assert_int_equal(ret, 0);
	assert_int_equal(uri->kind, kind);
}

static void is_endpoint(const struct mci_uri *uri, unsigned int i, const char *host, uint16_t port, bool tls)
{
	assert_true(i < uri->count);
	assert_string_equal(uri->endpoints[i].host, host);
	assert_int_equal(uri->endpoints[i].port, port);
	assert_int_equal(uri->endpoints[i].tls, tls);
}

static void test_etcd_takes_lists_with_and_without_scheme(void **state)
{
	struct mci_uri uri;

	(void)state;
	parse("192.168.3.77:2379", MCI_METADATA_ETCD, &uri);
	assert_int_equal(uri.count, 1);
	is_endpoint(&uri, 0, "192.168.3.77", 2379, false);
	parse("etcd://h1:2379,h2:2380;[fe80::1]:2381", MCI_METADATA_ETCD, &uri);
	assert_int_equal(uri.count, 3);
	is_endpoint(&uri, 0, "h1", 2379, false);
	is_endpoint(&uri, 1, "h2", 2380, false);
	is_endpoint(&uri, 2, "fe80::1", 2381, false);
	parse("a:1,b:2", MCI_METADATA_ETCD, &uri);
	assert_int_equal(uri.count, 2);
	parse("etcd://localhost", MCI_METADATA_ETCD, &uri);
	is_endpoint(&uri, 0, "localhost", 2379, false);
	assert_true(uri.endpoints[0].default_port);
}

static void test_etcd_endpoints_may_ask_for_tls(void **state)
{
	struct mci_uri uri;

	(void)state;
	parse("etcds://h1:1,http://h2:2/", MCI_METADATA_ETCD, &uri);
	is_endpoint(&uri, 0, "h1", 1, true);
	is_endpoint(&uri, 1, "h2", 2, false);
	parse("etcd://https://h1:1/,h2:2", MCI_METADATA_ETCD, &uri);
	is_endpoint(&uri, 0, "h1", 1, true);
	is_endpoint(&uri, 1, "h2", 2, false);
}

static void test_redis_takes_user_password_port_and_database(void **state)
{
	struct mci_uri uri;

	(void)state;
	parse("redis://h:7000", MCI_METADATA_REDIS, &uri);
	is_endpoint(&uri, 0, "h", 7000, false);
	assert_int_equal(uri.db, -1);
	assert_string_equal(uri.password, "");
	parse("redis://h", MCI_METADATA_REDIS, &uri);
	is_endpoint(&uri, 0, "h", 6379, false);
	assert_true(uri.endpoints[0].default_port);
	parse("redis://me:p%40s%3As/@[::1]:7000/12", MCI_METADATA_REDIS, &uri);
	is_endpoint(&uri, 0, "::1", 7000, false);
	assert_string_equal(uri.user, "me");
	assert_string_equal(uri.password, "p@s:s/");
	assert_int_equal(uri.db, 12);
	parse("redis://:pw@h/", MCI_METADATA_REDIS, &uri);
	assert_string_equal(uri.user, "");
	assert_string_equal(uri.password, "pw");
	parse("redis://pw@h/0", MCI_METADATA_REDIS, &uri);
	assert_string_equal(uri.user, "");
	assert_string_equal(uri.password, "pw");
	assert_int_equal(uri.db, 0);
}

static void test_http_and_p2p_are_known(void **state)
{
	enum mci_metadata_kind kind;
	struct mci_uri uri;

	(void)state;
	parse("http://10.0.0.9:8080/metadata", MCI_METADATA_HTTP, &uri);
	is_endpoint(&uri, 0, "10.0.0.9", 8080, false);
	parse("https://[::1]/metadata?x=1", MCI_METADATA_HTTP, &uri);
	is_endpoint(&uri, 0, "::1", 443, true);
	parse("http://user:pw@h/metadata", MCI_METADATA_HTTP, &uri);
	is_endpoint(&uri, 0, "h", 80, false);
	parse("P2PHANDSHAKE", MCI_METADATA_P2P, &uri);
	assert_int_equal(uri.count, 0);
	assert_int_equal(mci_metadata_kind("P2PHANDSHAKE", &kind), 0);
	assert_int_equal(kind, MCI_METADATA_P2P);
}

static void test_what_is_wrong_is_refused_with_the_valid_forms(void **state)
{
	static const char *const wrong[] = {
		"",
		"P2PHANDSHAKEX",
		"p2phandshake",
		"host",
		"host:",
		":2379",
		"host:0",
		"host:65536",
		"host:-1",
		"host:x",
		"host:2379,",
		",host:2379",
		"a:1,,b:2",
		"etcd://",
		"etcds://",
		"etcd://a b:1",
		"etcd://u:p@h:1",
		"etcd://::1:2379",
		"etcd://[::1",
		"etcd://h:1/path",
		"ftp://h:1",
		"rediss://h:1",
		"redis://",
		"redis://h:1/x",
		"redis://h:1/-1",
		"redis://h:1/70000",
		"redis://@h:1",
		"redis://a:%zz@h:1",
		"redis://a:%0@h",
		"redis://a:%00@h",
		"redis://h:1,g:1",
		"http://",
		"http:///metadata",
		"http://:80/x",
		"http://h:70000/x",
		"http://h\n:1",
		"http://h<>:1",
		"a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1,j:1,k:1,l:1,m:1,n:1,o:1,p:1,q:1",
	};
	struct mci_uri uri;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memset(&uri, 0x5a, sizeof(uri));
		mci_errmsg_set("");
		if (mci_uri_parse(wrong[i], &uri) != -EINVAL)
			fail_msg("'%s' was not refused", wrong[i]);
		if (!strstr(mc_errmsg(), "etcd://host:2379"))
			fail_msg("'%s' was refused with '%s'", wrong[i], mc_errmsg());
		assert_int_equal(((unsigned char *)&uri)[0], 0x5a); /* outputs only on success */
	}
	assert_int_equal(mci_uri_parse(NULL, &uri), -EINVAL);
}

static void test_overlong_addresses_are_refused(void **state)
{
	struct mci_uri uri;
	char *text = malloc(70000);

	(void)state;
	memset(text, 'a', 69999);
	text[69999] = 0;
	assert_int_equal(mci_uri_parse(text, &uri), -EINVAL);
	text[3000] = 0;
	assert_int_equal(mci_uri_parse(text, &uri), -EINVAL);
	memcpy(text, "redis://u:", 10);
	memcpy(text + 600, "@h:1", 5);
	assert_int_equal(mci_uri_parse(text, &uri), -EINVAL);
	free(text);
}

static void test_no_sentence_repeats_a_password(void **state)
{
	static const char *const texts[] = {
		"redis://u:s3cret@h:x", "redis://u:s3cret@h:1/x", "redis://u:s3%zcret@h",
		"etcd://u:s3cret@h:1",	"ftp://u:s3cret@h",	  "http://u:s3cret@h:x/",
		"u:s3cret@h:1",		"http://u:s3cret@",
	};
	struct mci_uri uri;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(mci_uri_parse(texts[i], &uri), -EINVAL);
		assert_null(strstr(mc_errmsg(), "s3"));
	}
}

static void test_the_host_is_the_first_of_the_list(void **state)
{
	char host[64];

	(void)state;
	assert_int_equal(mci_metadata_host("etcd://[::1]:1,b:2", host, sizeof(host)), 0);
	assert_string_equal(host, "::1");
	assert_int_equal(mci_metadata_host("redis://:pw@cache", host, sizeof(host)), 0);
	assert_string_equal(host, "cache");
	assert_int_equal(mci_metadata_host("http://meta:8080/metadata", host, sizeof(host)), 0);
	assert_string_equal(host, "meta");
	assert_int_equal(mci_metadata_host("http://meta:8080/metadata", host, 4), -EINVAL);
	assert_int_equal(mci_metadata_host("P2PHANDSHAKE", host, sizeof(host)), -EINVAL);
	assert_int_equal(mci_metadata_host("nonsense", host, sizeof(host)), -EINVAL);
}

static void test_p2phandshake_cannot_be_opened(void **state)
{
	struct mci_metadata *metadata;

	(void)state;
	assert_int_equal(mci_metadata_open("P2PHANDSHAKE", NULL, &metadata), -EINVAL);
	assert_non_null(strstr(mc_errmsg(), "no metadata server"));
}

#if !USE_ETCD || !USE_REDIS || !USE_HTTP
static void test_a_part_that_is_left_out_names_its_make_flag(void **state)
{
	struct mci_metadata *metadata;

	(void)state;
	if (!USE_ETCD) {
		assert_int_equal(mci_metadata_open("h:1", NULL, &metadata), -EOPNOTSUPP);
		assert_non_null(strstr(mc_errmsg(), "USE_ETCD=1"));
	}
	if (!USE_REDIS) {
		assert_int_equal(mci_metadata_open("redis://h:1", NULL, &metadata), -EOPNOTSUPP);
		assert_non_null(strstr(mc_errmsg(), "USE_REDIS=1"));
	}
	if (!USE_HTTP) {
		assert_int_equal(mci_metadata_open("http://h:1/metadata", NULL, &metadata), -EOPNOTSUPP);
		assert_non_null(strstr(mc_errmsg(), "USE_HTTP=1"));
	}
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_etcd_takes_lists_with_and_without_scheme),
		cmocka_unit_test(test_etcd_endpoints_may_ask_for_tls),
		cmocka_unit_test(test_redis_takes_user_password_port_and_database),
		cmocka_unit_test(test_http_and_p2p_are_known),
		cmocka_unit_test(test_what_is_wrong_is_refused_with_the_valid_forms),
		cmocka_unit_test(test_overlong_addresses_are_refused),
		cmocka_unit_test(test_no_sentence_repeats_a_password),
		cmocka_unit_test(test_the_host_is_the_first_of_the_list),
		cmocka_unit_test(test_p2phandshake_cannot_be_opened),
#if !USE_ETCD || !USE_REDIS || !USE_HTTP
		cmocka_unit_test(test_a_part_that_is_left_out_names_its_make_flag),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
