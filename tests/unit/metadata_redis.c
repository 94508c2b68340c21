// SPDX-License-Identifier: MIT
/* The redis backend against a real redis-server. */
#include "config.h"
#include "metadata_body.h"

#include "metadata/redis.h"

#if USE_REDIS
static char dir[] = "/tmp/mooncake-redis-XXXXXX";
static char log_file[64];
static uint16_t port;
static pid_t server;
static const char *password;
static char uri[128];

static void start_server(void)
{
	char port_text[8];
	char *argv[] = { "redis-server",
			 "--port",
			 port_text,
			 "--bind",
			 "127.0.0.1",
			 "--save",
			 "",
			 "--appendonly",
			 "no",
			 "--dir",
			 dir,
			 password ? "--requirepass" : NULL,
			 (char *)password,
			 NULL };

	snprintf(port_text, sizeof(port_text), "%u", port);
	server = test_spawn(argv, log_file);
	assert_true(server > 0);
	assert_true(test_until(10000, test_can_connect(port)));
}

static void stop_server(void)
{
	test_kill(&server);
}

static int start(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(log_file, sizeof(log_file), "%s/log", dir);
	port = test_free_port();
	start_server();
	snprintf(uri, sizeof(uri), "redis://127.0.0.1:%u", port);
	metadata_body = (struct metadata_body){
		.uri = uri,
		.options = { .lease_ms = 2000, .timeout_ms = 2000 },
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

static int open_uri(const char *text, const struct mci_metadata_options *options)
{
	struct mci_metadata *metadata;
	int ret = mci_metadata_open(text, options, &metadata);

	if (!ret)
		mci_metadata_close(metadata);
	return ret;
}

static void test_versions_are_what_redis_computes(void **state)
{
	(void)state;
	/* printf '{}' | sha1sum */
	assert_true(mci_redis_version("{}", 2) == 0xbf21a9e8fbc5a384ull);
}

static void test_a_prefix_with_glob_characters_is_escaped(void **state)
{
	char *pattern = mci_redis_pattern("a*[b]?\\");

	(void)state;
	assert_string_equal(pattern, "a\\*\\[b\\]\\?\\\\*");
	free(pattern);
}

static void test_a_database_number_separates_keys(void **state)
{
	struct mci_metadata_options options = { .redis_db = 4 };
	struct mci_metadata *three, *four, *five;
	char text[160];

	(void)state;
	snprintf(text, sizeof(text), "%s/3", uri);
	body_ok(mci_metadata_open(text, &options, &three)); /* the URI's number goes first */
	body_ok(mci_metadata_open(uri, &options, &four));
	setenv("MC_REDIS_DB_INDEX", "5", 1);
	body_ok(mci_metadata_open(uri, NULL, &five));
	unsetenv("MC_REDIS_DB_INDEX");
	body_ok(mci_metadata_store(three, "k", "3"));
	body_ok(mci_metadata_store(four, "k", "4"));
	body_ok(mci_metadata_store(five, "k", "5"));
	assert_true(body_holds(three, "k", "3"));
	assert_true(body_holds(four, "k", "4"));
	assert_true(body_holds(five, "k", "5"));
	mci_metadata_close(three);
	mci_metadata_close(four);
	mci_metadata_close(five);
	snprintf(text, sizeof(text), "%s/9999", uri);
	assert_int_equal(open_uri(text, NULL), -EIO);
	assert_non_null(strstr(mc_errmsg(), "DB index"));
	setenv("MC_REDIS_DB_INDEX", "five", 1);
	assert_int_equal(open_uri(uri, NULL), -EINVAL);
	unsetenv("MC_REDIS_DB_INDEX");
}

static void test_keys_that_are_no_texts_do_not_disturb(void **state)
{
	struct mci_metadata *metadata = body_open();
	struct mci_metadata_value value;
	struct body_list list = { 0 };
	char port_text[8];
	char *argv[] = { "redis-cli", "-p", port_text, "RPUSH", BODY_KEY("odd/list"), "x", NULL };

	(void)state;
	snprintf(port_text, sizeof(port_text), "%u", port);
	if (!test_has_program("redis-cli"))
		skip();
	assert_int_equal(test_command(log_file, argv), 0);
	body_ok(mci_metadata_store(metadata, BODY_KEY("odd/text"), "x"));
	body_ok(mci_metadata_list(metadata, BODY_KEY("odd/"), body_note_key, &list));
	assert_int_equal(list.count, 1);
	assert_int_equal(mci_metadata_fetch(metadata, BODY_KEY("odd/list"), &value), -EIO);
	assert_non_null(strstr(mc_errmsg(), "WRONGTYPE"));
	assert_int_equal(mci_metadata_publish(metadata, BODY_KEY("odd/list"), "x", 0, false), -EIO);
	body_ok(mci_metadata_remove(metadata, BODY_KEY("odd/list")));
	body_ok(mci_metadata_remove(metadata, BODY_KEY("odd/text")));
	mci_metadata_close(metadata);
}

static void test_a_lease_is_a_time_to_live_of_the_key(void **state)
{
	struct mci_metadata *metadata = body_open();
	char port_text[8];
	char out[64];
	char command[256];
	FILE *pipe_file;

	(void)state;
	if (!test_has_program("redis-cli"))
		skip();
	body_ok(mci_metadata_publish(metadata, BODY_KEY("ttl"), "x", 0, false));
	snprintf(port_text, sizeof(port_text), "%u", port);
	snprintf(command, sizeof(command), "redis-cli -p %s PTTL " BODY_KEY("ttl"), port_text);
	pipe_file = popen(command, "r");
	assert_non_null(pipe_file);
	assert_non_null(fgets(out, sizeof(out), pipe_file));
	pclose(pipe_file);
	assert_in_range(strtol(out, NULL, 10), 1, 2000);
	mci_metadata_close(metadata);
}

static void test_a_closed_port_is_told_at_once(void **state)
{
	uint64_t begin = test_now_ms();
	char text[64];

	(void)state;
	snprintf(text, sizeof(text), "redis://127.0.0.1:%u", test_free_port());
	assert_int_equal(open_uri(text, NULL), -ECONNREFUSED);
	assert_true(test_now_ms() - begin < 1500);
	assert_non_null(strstr(mc_errmsg(), text + 8));
}

static void test_a_silent_server_ends_at_the_timeout(void **state)
{
	struct mci_metadata_options options = { .timeout_ms = 500 };
	uint64_t begin = test_now_ms();
	char text[64];
	uint16_t silent;
	int fd;

	(void)state;
	fd = test_silent_listener(&silent);
	snprintf(text, sizeof(text), "redis://127.0.0.1:%u", silent);
	assert_int_equal(open_uri(text, &options), -ETIMEDOUT);
	assert_in_range(test_now_ms() - begin, 400, 2000);
	assert_non_null(strstr(mc_errmsg(), text + 8));
	close(fd);
}

static void test_a_password_is_needed_where_one_is_set(void **state)
{
	struct mci_metadata_options options = { .password = "s3cret p%ss" };
	struct mci_metadata_options wrong = { .password = "wrong-s3cret" };
	char text[160];

	(void)state;
	stop_server();
	password = "s3cret p%ss";
	start_server();
	assert_int_equal(open_uri(uri, NULL), -EACCES);
	assert_non_null(strstr(mc_errmsg(), "password"));
	assert_int_equal(open_uri(uri, &wrong), -EACCES);
	assert_null(strstr(mc_errmsg(), "wrong-s3cret"));
	body_ok(open_uri(uri, &options));
	snprintf(text, sizeof(text), "redis://:s3cret%%20p%%25ss@127.0.0.1:%u", port);
	body_ok(open_uri(text, NULL));
	snprintf(text, sizeof(text), "redis://default:s3cret%%20p%%25ss@127.0.0.1:%u/1", port);
	body_ok(open_uri(text, &wrong)); /* the URI's goes first */
	snprintf(text, sizeof(text), "redis://nobody:s3cret%%20p%%25ss@127.0.0.1:%u", port);
	assert_int_equal(open_uri(text, NULL), -EACCES);
	assert_null(strstr(mc_errmsg(), "s3cret"));
	setenv("MC_REDIS_PASSWORD", "s3cret p%ss", 1);
	body_ok(open_uri(uri, NULL));
	setenv("MC_REDIS_USERNAME", "default", 1);
	body_ok(open_uri(uri, NULL));
	unsetenv("MC_REDIS_USERNAME");
	unsetenv("MC_REDIS_PASSWORD");
	stop_server();
	password = NULL;
	start_server();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		METADATA_BODY_TESTS,
		cmocka_unit_test(test_a_listing_of_many_long_texts_comes_in_parts),
		cmocka_unit_test(test_versions_are_what_redis_computes),
		cmocka_unit_test(test_a_prefix_with_glob_characters_is_escaped),
		cmocka_unit_test(test_a_database_number_separates_keys),
		cmocka_unit_test(test_keys_that_are_no_texts_do_not_disturb),
		cmocka_unit_test(test_a_lease_is_a_time_to_live_of_the_key),
		cmocka_unit_test(test_a_closed_port_is_told_at_once),
		cmocka_unit_test(test_a_silent_server_ends_at_the_timeout),
		cmocka_unit_test(test_a_password_is_needed_where_one_is_set),
	};

	if (!test_has_program("redis-server")) {
		puts("skipped: redis-server is not installed");
		return 77;
	}
	return cmocka_run_group_tests(tests, start, end);
}
#else
int main(void)
{
	puts("skipped: built with USE_REDIS=0");
	return 77;
}
#endif
