/* SPDX-License-Identifier: MIT */
/* For the tests of the engine as such: one metadata server for all tests of a program, keys, engines by name.
 */
#ifndef ENGINE_ENV_H
#define ENGINE_ENV_H

#include "api/pair.h"

#include <time.h>
#include <unistd.h>

#define LEASE_MS 1500u
#define HEARTBEAT_MS (LEASE_MS / 3)
#define SLACK_MS 1500u /* for a machine with other things to do */

static mc_metadata_server *server;
static char uri[64], folder[] = "/tmp/mooncake-engine-XXXXXX", key_file[64], other_key_file[64];

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline struct mc_engine_attr named(const char *name)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;

	attr.metadata = uri;
	attr.name = name;
	attr.transports = "tcp";
	attr.lease_ms = LEASE_MS;
	return attr;
}

static inline mc_engine *open_named(const char *name)
{
	struct mc_engine_attr attr = named(name);
	mc_engine *engine;

	must(mc_engine_open(&attr, &engine));
	return engine;
}

/* The sentence must name what was wrong; on failure nothing is handed out. */
static inline void assert_refused(const struct mc_engine_attr *attr, int err, const char *word)
{
	mc_engine *engine = NULL;
	int ret = mc_engine_open(attr, &engine);

	if (ret != err || !strstr(mc_errmsg(), word))
		fail_msg("%d instead of %d, \"%s\" should name '%s'", ret, err, mc_errmsg(), word);
	assert_null(engine);
}

static inline void assert_sentence(const char *word)
{
	if (!strstr(mc_errmsg(), word))
		fail_msg("\"%s\" should name '%s'", mc_errmsg(), word);
}

static inline char *record_of(const char *key)
{
	struct mc_engine_attr attr = named(NULL);
	char *value = NULL;

	return mc_metadata_get(&attr, key, &value) ? NULL : value;
}

static inline void make_key(char *path, size_t size, const char *name)
{
	snprintf(path, size, "%s/%s", folder, name);
	must(mc_key_create(path));
}

static inline int group_setup(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;

	(void)state;
	assert_non_null(mkdtemp(folder));
	make_key(key_file, sizeof(key_file), "key");
	make_key(other_key_file, sizeof(other_key_file), "other");
	must(mc_metadata_server_open(&attr, &server));
	snprintf(uri, sizeof(uri), "http://127.0.0.1:%u/metadata", mc_metadata_server_port(server));
	return 0;
}

static inline int group_teardown(void **state)
{
	(void)state;
	must(mc_metadata_server_close(server));
	unlink(key_file);
	unlink(other_key_file);
	rmdir(folder);
	return 0;
}

/* @only: NULL, or a pattern: the tests to run. */
#define run_group(tests, only) \
	(only_tests(only, tests), cmocka_run_group_tests(tests, group_setup, group_teardown))

#endif
