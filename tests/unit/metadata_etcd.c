// SPDX-License-Identifier: MIT
/* The etcd backend against a real etcd: what all backends do, and what happens on unreachable servers. */
#include "config.h"
#include "metadata_body.h"

#include "metadata_etcd.h"

#if USE_ETCD
static char dir[] = "/tmp/mooncake-etcd-XXXXXX";
static struct test_etcd etcd;
static char uri[64];

static int open_uri(const char *text, const struct mci_metadata_options *options)
{
	struct mci_metadata *metadata;
	int ret = mci_metadata_open(text, options, &metadata);

	if (!ret)
		mci_metadata_close(metadata);
	return ret;
}

static void start_server(void)
{
	assert_true(test_etcd_start(&etcd));
	assert_true(test_etcd_ready(&etcd));
	assert_true(test_until(20000, !open_uri(uri, NULL)));
}

static void stop_server(void)
{
	test_kill(&etcd.pid);
}

static int start(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	test_etcd_init(&etcd, dir, "one");
	snprintf(uri, sizeof(uri), "etcd://127.0.0.1:%u", etcd.port);
	start_server();
	metadata_body = (struct metadata_body){
		.uri = uri,
		.options = { .lease_ms = 2000, .timeout_ms = 2500 },
		.stop_server = stop_server,
		.start_server = start_server,
	};
	return 0;
}

static int end(void **state)
{
	(void)state;
	stop_server();
	test_remove_tree(dir);
	return 0;
}

static void test_bare_and_listed_addresses_are_etcd(void **state)
{
	char text[200];

	(void)state;
	snprintf(text, sizeof(text), "127.0.0.1:%u", etcd.port);
	body_ok(open_uri(text, NULL));
	snprintf(text, sizeof(text), "etcd://http://127.0.0.1:%u;localhost:%u", etcd.port, etcd.port);
	body_ok(open_uri(text, NULL));
}

static void test_a_dead_server_in_the_list_is_passed_over(void **state)
{
	struct mci_metadata *metadata;
	uint64_t begin = test_now_ms();
	char text[200];

	(void)state;
	snprintf(text, sizeof(text), "127.0.0.1:%u,127.0.0.1:%u", test_free_port(), etcd.port);
	body_ok(mci_metadata_open(text, NULL, &metadata));
	assert_true(test_now_ms() - begin < 1500);
	body_ok(mci_metadata_publish(metadata, BODY_KEY("dead"), "x", 0, false));
	assert_true(body_holds(metadata, BODY_KEY("dead"), "x"));
	mci_metadata_close(metadata);
}

static void test_a_silent_server_in_the_list_costs_its_share_once(void **state)
{
	struct mci_metadata_options options = { .timeout_ms = 2000 };
	struct mci_metadata *metadata;
	uint64_t begin = test_now_ms();
	char text[200];
	uint16_t silent;
	int fd, i;

	(void)state;
	fd = test_silent_listener(&silent);
	snprintf(text, sizeof(text), "127.0.0.1:%u,127.0.0.1:%u", silent, etcd.port);
	body_ok(mci_metadata_open(text, &options, &metadata));
	assert_in_range(test_now_ms() - begin, 800, 2000);
	begin = test_now_ms();
	for (i = 0; i < 10; i++)
		body_ok(mci_metadata_store(metadata, BODY_KEY("silent"), "x"));
	assert_true(test_now_ms() - begin < 1000); /* the good one is remembered */
	body_ok(mci_metadata_remove(metadata, BODY_KEY("silent")));
	mci_metadata_close(metadata);
	close(fd);
}

static void test_with_no_server_alive_opening_fails_in_time_with_the_address(void **state)
{
	struct mci_metadata_options options = { .timeout_ms = 1000 };
	uint64_t begin = test_now_ms();
	uint16_t closed = test_free_port();
	char text[200], address[32];
	uint16_t silent;
	int fd;

	(void)state;
	snprintf(address, sizeof(address), "127.0.0.1:%u", closed);
	assert_int_equal(open_uri(address, NULL), -ECONNREFUSED);
	assert_true(test_now_ms() - begin < 1500);
	assert_non_null(strstr(mc_errmsg(), address));

	fd = test_silent_listener(&silent);
	snprintf(text, sizeof(text), "127.0.0.1:%u,127.0.0.1:%u,127.0.0.1:%u", silent, closed, silent);
	begin = test_now_ms();
	assert_int_equal(open_uri(text, &options), -ETIMEDOUT);
	assert_in_range(test_now_ms() - begin, 600, 2500);
	assert_non_null(strstr(mc_errmsg(), "none of the 3"));
	close(fd);
}

static void test_a_name_that_does_not_exist_is_told(void **state)
{
	(void)state;
	assert_int_equal(open_uri("no-such-host.invalid:2379", NULL), -EHOSTUNREACH);
	assert_non_null(strstr(mc_errmsg(), "no-such-host.invalid"));
}

static void test_proxy_variables_are_bypassed_unless_wanted(void **state)
{
	struct mci_metadata_options options = { .use_proxy = true };
	char proxy[64];

	(void)state;
	snprintf(proxy, sizeof(proxy), "http://127.0.0.1:%u", test_free_port());
	setenv("http_proxy", proxy, 1);
	setenv("all_proxy", proxy, 1);
	body_ok(open_uri(uri, NULL));
	assert_int_equal(open_uri(uri, &options), -ECONNREFUSED);
	unsetenv("http_proxy");
	unsetenv("all_proxy");
}

static void test_a_password_is_no_harm_where_none_is_asked(void **state)
{
	struct mci_metadata_options options = { .user = "someone", .password = "s3cret" };

	(void)state;
	body_ok(open_uri(uri, &options));
}

static void test_a_text_too_long_for_etcd_is_refused_with_a_sentence(void **state)
{
	struct mci_metadata *metadata = body_open();
	size_t n = 3u << 20;
	char *text = malloc(n + 1);

	(void)state;
	memset(text, 'x', n);
	text[n] = 0;
	assert_int_equal(mci_metadata_store(metadata, BODY_KEY("long"), text), -EMSGSIZE);
	assert_non_null(strstr(mc_errmsg(), "--max-request-bytes"));
	free(text);
	mci_metadata_close(metadata);
}

static void test_a_watch_goes_on_after_the_server_was_away(void **state)
{
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();
	unsigned int changes = 0;
	unsigned int before;

	(void)state;
	body_ok(mci_metadata_watch(one, BODY_KEY("again/"), body_count_change, &changes));
	before = body_settled(&changes);
	stop_server();
	start_server();
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before)); /* its new beginning */
	before = body_settled(&changes);
	body_ok(mci_metadata_store(two, BODY_KEY("again/a"), "1"));
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));
	body_ok(mci_metadata_remove(two, BODY_KEY("again/a")));
	mci_metadata_close(one);
	mci_metadata_close(two);
}

static void test_an_etcd_that_lost_its_data_gets_ours_again(void **state)
{
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();

	(void)state;
	body_ok(mci_metadata_publish(one, BODY_KEY("wiped/1"), "1", 0, false));
	body_ok(mci_metadata_publish(one, BODY_KEY("wiped/2"), "2", 0, false));
	stop_server();
	test_remove_tree(etcd.dir);
	start_server();
	assert_true(test_until(BODY_WAIT_MS, body_holds(two, BODY_KEY("wiped/1"), "1")));
	assert_true(test_until(BODY_WAIT_MS, body_holds(two, BODY_KEY("wiped/2"), "2")));
	mci_metadata_close(one);
	assert_true(body_holds(two, BODY_KEY("wiped/1"), NULL));
	mci_metadata_close(two);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		METADATA_BODY_TESTS,
		cmocka_unit_test(test_a_listing_of_many_long_texts_comes_in_parts),
		cmocka_unit_test(test_bare_and_listed_addresses_are_etcd),
		cmocka_unit_test(test_a_dead_server_in_the_list_is_passed_over),
		cmocka_unit_test(test_a_silent_server_in_the_list_costs_its_share_once),
		cmocka_unit_test(test_with_no_server_alive_opening_fails_in_time_with_the_address),
		cmocka_unit_test(test_a_name_that_does_not_exist_is_told),
		cmocka_unit_test(test_proxy_variables_are_bypassed_unless_wanted),
		cmocka_unit_test(test_a_password_is_no_harm_where_none_is_asked),
		cmocka_unit_test(test_a_text_too_long_for_etcd_is_refused_with_a_sentence),
		cmocka_unit_test(test_a_watch_goes_on_after_the_server_was_away),
		cmocka_unit_test(test_an_etcd_that_lost_its_data_gets_ours_again),
	};

	if (!test_has_program("etcd")) {
		puts("skipped: etcd is not installed");
		return 77;
	}
	return cmocka_run_group_tests(tests, start, end);
}
#else
int main(void)
{
	puts("skipped: built with USE_ETCD=0");
	return 77;
}
#endif
