// SPDX-License-Identifier: MIT
/* Settings: what a file may say, what a mistake in it is answered with, and that the environment overrides
 * it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include <mooncake/admin.h>

#include "core/errors.h"
#include "core/settings.h"
#include "core/words.h"

static struct mci_settings *good(const char *text)
{
	struct mci_settings *settings = NULL;
	int ret = mci_settings_parse(text, strlen(text), "c.yaml", &settings);

	if (ret)
		print_message("%s\n", mc_errmsg());
	assert_int_equal(ret, 0);
	return settings;
}

/* Refused with -EINVAL, and every one of @words is in the sentence. */
static void bad(const char *text, const char *word1, const char *word2)
{
	struct mci_settings *settings = NULL;
	int ret = mci_settings_parse(text, strlen(text), "c.yaml", &settings);

	assert_int_equal(ret, -EINVAL);
	assert_null(settings);
	if (!strstr(mc_errmsg(), word1) || (word2 && !strstr(mc_errmsg(), word2)))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", mc_errmsg(), word1, word2 ? word2 : "");
}

static void write_file(char path[64], const char *text)
{
	int fd;

	strcpy(path, "/tmp/mooncake-settings-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static int clear_environment(void **state)
{
	(void)state;
	unsetenv("MOONCAKE_CONFIG");
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		const char *names[] = { s->env, s->classic_env, s->classic_env_old };

		for (unsigned int i = 0; i < 3; i++) {
			if (names[i])
				unsetenv(names[i]);
		}
	}
	return 0;
}

static void test_defaults_hold_where_nothing_is_said(void **state)
{
	static const char *const nothing[] = { "",
					       "# only a comment\n",
					       "---\n",
					       "engine:\n",
					       "{}",
					       "engine: {}\nlog:\n",
					       "engine:\n  port: ~\n  lease_ms:\n  name: null\n" };

	(void)state;
	for (unsigned int i = 0; i < sizeof(nothing) / sizeof(nothing[0]); i++) {
		struct mci_settings *s = good(nothing[i]);

		assert_int_equal(mci_settings_number(s, "engine.port"), 0);
		assert_int_equal(mci_settings_number(s, "engine.port_low"), 15000);
		assert_int_equal(mci_settings_number(s, "engine.port_high"), 17000);
		assert_int_equal(mci_settings_number(s, "engine.lease_ms"), 10000);
		assert_string_equal(mci_settings_text(s, "engine.transports"), "auto");
		assert_null(mci_settings_text(s, "engine.name"));
		assert_false(mci_settings_bool(s, "engine.classic"));
		assert_string_equal(mci_settings_origin(s, "engine.lease_ms"), "default");
		mci_settings_free(s);
	}
	mci_settings_free(NULL);
}

static void test_table_is_sound(void **state)
{
	unsigned int count = 0;

	(void)state;
	for (const struct mci_setting *s = mci_setting_table; s->key; s++, count++) {
		assert_non_null(s->help);
		assert_non_null(strchr(s->key, '.'));
		if (s->type != MCI_SETTING_TEXT)
			assert_non_null(s->fallback);
		if (s->type == MCI_SETTING_NUMBER)
			assert_true(s->min < s->max);
		for (const struct mci_setting *t = mci_setting_table; t < s; t++) {
			assert_string_not_equal(s->key, t->key);
			if (s->env && t->env)
				assert_string_not_equal(s->env, t->env);
		}
	}
	assert_true(count <= 64);
}

static void test_a_file_sets_values(void **state)
{
	struct mci_settings *s = good("engine:\n"
				      "  metadata: etcd://10.0.0.1:2379,10.0.0.2:2379   # two\n"
				      "  port: 15001\n"
				      "  classic: yes\n"
				      "  name: \"123\"\n"
				      "metadata: {redis_db: 255, use_proxy: Off}\n"
				      "log:\n  level: debug\n");

	(void)state;
	assert_string_equal(mci_settings_text(s, "engine.metadata"), "etcd://10.0.0.1:2379,10.0.0.2:2379");
	assert_int_equal(mci_settings_number(s, "engine.port"), 15001);
	assert_true(mci_settings_bool(s, "engine.classic"));
	assert_false(mci_settings_bool(s, "metadata.use_proxy"));
	assert_string_equal(mci_settings_text(s, "engine.name"), "123");
	assert_int_equal(mci_settings_number(s, "metadata.redis_db"), 255);
	assert_string_equal(mci_settings_origin(s, "engine.port"), "file");
	assert_string_equal(mci_settings_origin(s, "engine.port_low"), "default");
	mci_settings_free(s);
}

static void test_mistakes_are_answered_with_line_key_and_remedy(void **state)
{
	(void)state;
	bad("engine:\n  io_thread: 3\n", "c.yaml:2: engine.io_thread is not a setting",
	    "did you mean engine.io_threads?");
	bad("engine:\n  prot: 3\n", "c.yaml:2", "did you mean engine.port?");
	bad("engine:\n  key_file: /k\n", "c.yaml:2", "did you mean security.key_file?");
	bad("engine:\n  quux_frobnicate: 3\n", "c.yaml:2", "mooncake config show");
	bad("\nengin:\n  port: 3\n", "c.yaml:2: \"engin\" is not a section", "did you mean engine?");
	bad("zzzzzzzzz:\n  port: 3\n", "c.yaml:1", "sections are engine");
	bad("engine:\n  port: 1\n  classic: no\n  port: 1\n", "c.yaml:4: engine.port", "twice, in line 2");
	bad("engine:\n  port: 1\nlog:\n  level: info\nengine:\n  port: 2\n", "c.yaml:6", "line 2");
	bad("engine:\n  port: many\n", "c.yaml:2: engine.port", "0 to 65535");
	bad("engine:\n  port: 65536\n", "c.yaml:2", "\"65536\"");
	bad("engine:\n  port: -1\n", "c.yaml:2", "\"-1\"");
	bad("engine:\n  port: 1.5\n", "c.yaml:2", "\"1.5\"");
	bad("engine:\n  lease_ms: 99999999999999999999999\n", "c.yaml:2", "whole number");
	bad("engine:\n  port: \"15000\"\n", "c.yaml:2", "not a text in quotes");
	bad("engine:\n  classic: maybe\n", "c.yaml:2", "true or false");
	bad("engine:\n  classic: \"true\"\n", "c.yaml:2", "not a text in quotes");
	bad("engine:\n  transports: [tcp, shm]\n", "c.yaml:2", "commas");
	bad("engine:\n  transports:\n    tcp: 1\n", "c.yaml:2", "not a section");
	bad("log:\n  level: loud\n", "c.yaml:2", "error|warning|info|debug");
	bad("log:\n  level: \"\"\n", "c.yaml:2", "none of");
	bad("engine:\n  name: \"a\\x01b\"\n", "c.yaml:2", "0x01");
	bad("engine:\n  name: \"a\\0b\"\n", "c.yaml:2", "0x00");
	bad("engine: 5\n", "c.yaml:1", "key: value");
	bad("- engine\n", "c.yaml:1", "sections");
	bad("just text\n", "c.yaml:1", "sections");
	bad("[engine]: {port: 1}\n", "c.yaml:1", "name of a section");
	bad("engine:\n\tport: 1\n", "c.yaml:2", "not valid YAML");
	bad("engine: {port: 1\n", "not valid YAML", NULL);
	bad("engine: {port: 1}\n---\nlog: {level: info}\n", "c.yaml:2", "second document");
	bad("engine:\n  port_low: 16000\n  port_high: 15999\n", "port_low (16000)", "port_high (15999)");
	bad("security:\n  cert_file: /c\n", "cert_key_file", "need each other");
}

static void test_anchors_aliases_and_tags_are_refused(void **state)
{
	(void)state;
	bad("engine:\n  port: &a 1\n", "c.yaml:2", "not supported");
	bad("engine: &e\n  port: 1\n", "c.yaml:1", "key: value");
	bad("engine:\n  port: !!int 1\n", "c.yaml:2", "not supported");
	bad("a: &a [x,x]\n", "c.yaml:1", "not a section");
	bad("engine:\n  name: *a\n", "c.yaml:2", NULL);
}

static void test_deep_and_large_files_are_refused_quickly(void **state)
{
	struct mci_settings *settings;
	char *text = malloc((1 << 20) + 2);

	(void)state;
	memset(text, '[', 1 << 20);
	assert_int_equal(mci_settings_parse(text, 1 << 20, "c.yaml", &settings), -EINVAL);
	memset(text, '#', (1 << 20) + 1);
	assert_int_equal(mci_settings_parse(text, (1 << 20) + 1, "c.yaml", &settings), -EFBIG);
	assert_int_equal(mci_settings_parse(text, 1 << 20, "c.yaml", &settings), 0);
	mci_settings_free(settings);
	free(text);
}

static void test_classic_variables_of_rdma_are_read(void **state)
{
	struct mci_settings *s;
	int index;

	(void)state;
	setenv("MC_TE_FILTERS", "mlx5_0,mlx5_1", 1);
	setenv("MC_MAX_EP_PER_CTX", "65536", 1); /* a default of classic */
	setenv("NCCL_IB_GID_INDEX", "-1", 1);
	assert_int_equal(mci_settings_load(NULL, &s), 0);
	assert_string_equal(mci_settings_text(s, "rdma.devices"), "mlx5_0,mlx5_1");
	assert_int_equal(mci_settings_number(s, "rdma.endpoints_max"), 65536);
	assert_int_equal(mci_settings_auto(s, "rdma.gid_index", 255, &index), 0);
	assert_int_equal(index, -1);
	mci_settings_free(s);
	setenv("NCCL_IB_GID_INDEX", "5", 1);
	assert_int_equal(mci_settings_load(NULL, &s), 0);
	assert_int_equal(mci_settings_auto(s, "rdma.gid_index", 255, &index), 0);
	assert_int_equal(index, 5);
	mci_settings_free(s);
	setenv("MC_GID_INDEX", "3", 1);
	assert_int_equal(mci_settings_load(NULL, &s), 0);
	assert_int_equal(mci_settings_auto(s, "rdma.gid_index", 255, &index), 0);
	assert_int_equal(index, 3);
	mci_settings_free(s);
}

static void test_environment_overrides_the_file_and_ours_the_classic(void **state)
{
	struct mci_settings *s;
	char path[64];

	(void)state;
	write_file(path,
		   "engine:\n  port_low: 20000\n  port_high: 21000\n  streams: 2\nlog:\n  level: info\n");
	setenv("MC_MIN_PRC_PORT", "15500", 1);
	setenv("MC_TCP_LANES_PER_PEER", "4", 1);
	setenv("MC_LOG_LEVEL", "TRACE", 1);
	setenv("MC_REDIS_DB_INDEX", "", 1);
	assert_int_equal(mci_settings_load(path, &s), 0);
	assert_int_equal(mci_settings_number(s, "engine.port_low"), 15500);
	assert_string_equal(mci_settings_origin(s, "engine.port_low"), "MC_MIN_PRC_PORT");
	assert_string_equal(mci_settings_origin(s, "engine.port_high"), "file");
	assert_int_equal(mci_settings_number(s, "engine.streams"), 4);
	assert_string_equal(mci_settings_text(s, "log.level"),
			    "info"); /* a level we do not have is no error */
	assert_string_equal(mci_settings_origin(s, "metadata.redis_db"), "default");
	mci_settings_free(s);

	setenv("MC_MIN_RPC_PORT", "15600", 1);
	setenv("MOONCAKE_STREAMS", "8", 1);
	setenv("MOONCAKE_CONFIG", path, 1);
	assert_int_equal(mci_settings_load(NULL, &s), 0);
	assert_string_equal(mci_settings_origin(s, "engine.port_low"), "MC_MIN_RPC_PORT");
	assert_int_equal(mci_settings_number(s, "engine.streams"), 8);
	assert_string_equal(mci_settings_origin(s, "engine.streams"), "MOONCAKE_STREAMS");
	mci_settings_free(s);

	setenv("MOONCAKE_STREAMS", "lots", 1);
	assert_int_equal(mci_settings_load(path, &s), -EINVAL);
	assert_non_null(strstr(mc_errmsg(), "$MOONCAKE_STREAMS"));
	unlink(path);
}

static void test_files_that_cannot_be_read_are_named(void **state)
{
	struct mci_settings *s;
	char path[64];

	(void)state;
	assert_int_equal(mci_settings_load("/nonexistent/c.yaml", &s), -ENOENT);
	assert_non_null(strstr(mc_errmsg(), "/nonexistent/c.yaml"));
	assert_int_equal(mci_settings_load("/tmp", &s), -EINVAL);
	write_file(path, "");
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(mci_settings_load(path, &s), -EINVAL); /* and does not wait for a writer */
	unlink(path);
	setenv("MOONCAKE_CONFIG", "/nonexistent/d.yaml", 1);
	assert_int_equal(mci_settings_load(NULL, &s), -ENOENT);
	setenv("MOONCAKE_CONFIG", "", 1);
	assert_int_equal(mci_settings_load(NULL, &s), 0);
	mci_settings_free(s);
}

static void test_config_show_has_every_setting_but_no_password(void **state)
{
	char path[64], *text;
	json_t *list, *item;
	size_t i, count = 0;
	bool seen = false;

	(void)state;
	write_file(path, "metadata:\n  password: hunter2\nengine:\n  port: 15001\n");
	assert_int_equal(mc_config_check(path), 0);
	assert_int_equal(mc_config_show(path, &text), 0);
	assert_null(strstr(text, "hunter2"));
	list = json_loads(text, 0, NULL);
	assert_true(json_is_array(list));
	while (mci_setting_table[count].key)
		count++;
	assert_int_equal(json_array_size(list), count);
	json_array_foreach(list, i, item)
	{
		if (strcmp(json_string_value(json_object_get(item, "key")), "engine.port"))
			continue;
		seen = true;
		assert_int_equal(json_integer_value(json_object_get(item, "value")), 15001);
		assert_string_equal(json_string_value(json_object_get(item, "origin")), "file");
	}
	assert_true(seen);
	json_decref(list);
	free(text);
	unlink(path);
	text = NULL;
	assert_int_equal(mc_config_show(path, &text), -ENOENT);
	assert_int_equal(mc_config_check(path), -ENOENT);
	assert_null(text);
}

static void test_word_distance_counts_edits(void **state)
{
	(void)state;
	assert_int_equal(mci_word_distance("port", "port"), 0);
	assert_int_equal(mci_word_distance("prot", "port"), 1);
	assert_int_equal(mci_word_distance("", "port"), 4);
	assert_int_equal(mci_word_distance("kitten", "sitting"), 3);
}

#define TEST(test) cmocka_unit_test_setup(test, clear_environment)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_defaults_hold_where_nothing_is_said),
		TEST(test_table_is_sound),
		TEST(test_a_file_sets_values),
		TEST(test_mistakes_are_answered_with_line_key_and_remedy),
		TEST(test_anchors_aliases_and_tags_are_refused),
		TEST(test_deep_and_large_files_are_refused_quickly),
		TEST(test_classic_variables_of_rdma_are_read),
		TEST(test_environment_overrides_the_file_and_ours_the_classic),
		TEST(test_files_that_cannot_be_read_are_named),
		TEST(test_config_show_has_every_setting_but_no_password),
		TEST(test_word_distance_counts_edits),
	};

	return cmocka_run_group_tests(tests, NULL, clear_environment);
}
