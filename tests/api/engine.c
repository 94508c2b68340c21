// SPDX-License-Identifier: MIT
/* The engine as such: notifies, open objects, figures, many regions, itself as a peer, idleness. */
#include "api/engine_env.h"

#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/resource.h>

/* Notifies */

#define SENDERS 4
#define EACH 250

struct sender {
	mc_segment *segment;
	unsigned int id;
	int ret;
};

static void *send_all(void *arg)
{
	struct sender *sender = arg;
	unsigned int i;
	char text[32];

	for (i = 0; i < EACH && !sender->ret; i++) {
		snprintf(text, sizeof(text), "%u %u", sender->id, i);
		sender->ret = mc_notify_send(sender->segment, "count", text, (uint32_t)strlen(text), 20000);
	}
	return NULL;
}

static void test_notifies_come_once_and_in_order(void **state)
{
	mc_engine *target = open_named("notified"), *initiator = open_named("notifier");
	unsigned int next[SENDERS] = {0}, id, n, i, got = 0;
	static bool seen[4 * SENDERS * EACH];
	struct sender sender[SENDERS];
	pthread_t thread[SENDERS];
	mc_segment *segment;
	struct mc_notify notify;
	struct mc_uuid uuid;

	(void)state;
	memset(seen, 0, sizeof(seen));
	must(mc_engine_uuid(initiator, &uuid));
	must(mc_segment_open(initiator, "notified", NULL, &segment));
	for (i = 0; i < SENDERS; i++) {
		sender[i] = (struct sender){.segment = segment, .id = i};
		assert_int_equal(pthread_create(&thread[i], NULL, send_all, &sender[i]), 0);
	}
	while (got < SENDERS * EACH) {
		memset(&notify, 0, sizeof(notify));
		notify.size = sizeof(notify);
		must(mc_notify_recv(target, &notify, 20000));
		assert_string_equal(notify.name, "count");
		assert_memory_equal(&notify.sender, &uuid, sizeof(uuid));
		assert_int_equal(sscanf(notify.message, "%u %u", &id, &n), 2);
		assert_true(id < SENDERS);
		if (n != next[id])
			fail_msg("of sender %u came %u in place of %u", id, n, next[id]);
		next[id]++;
		if (notify.sequence < sizeof(seen)) {
			assert_false(seen[notify.sequence]);
			seen[notify.sequence] = true;
		}
		free(notify.message);
		got++;
	}
	for (i = 0; i < SENDERS; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(sender[i].ret, 0);
	}
	assert_int_equal(mc_notify_recv(target, &notify, 100), -EAGAIN);
	must(mc_segment_close(segment));
	must(mc_engine_close(initiator));
	must(mc_engine_close(target));
}

static void test_a_sender_hears_of_a_full_backlog(void **state)
{
	mc_engine *target = open_named("backlog"), *initiator = open_named("backlog-sender");
	struct mc_notify notify = {.size = sizeof(notify)};
	struct mc_engine_stats stats = {.size = sizeof(stats)};
	mc_segment *segment;
	unsigned int i;
	uint64_t start;
	int ret = 0;

	(void)state;
	must(mc_segment_open(initiator, "backlog", NULL, &segment));
	for (i = 0; i < 4096 && !ret; i++)
		ret = mc_notify_send(segment, "n", &i, sizeof(i), 20000);
	must(ret);
	start = now_ms();
	assert_int_equal(mc_notify_send(segment, "n", &i, sizeof(i), 20000), -ENOBUFS);
	assert_true(now_ms() - start < 5000);
	assert_sentence("'backlog'");
	must(mc_engine_stats(target, &stats));
	assert_int_equal(stats.notifies_received, 4096);
	must(mc_notify_recv(target, &notify, 0));
	assert_memory_equal(notify.message, &(unsigned int){0}, sizeof(i));
	free(notify.message);
	must(mc_notify_send(segment, "last", &i, sizeof(i), 20000)); /* room again */
	for (i = 1; !mc_notify_recv(target, &notify, 0); i++) {
		if (i < 4096)
			assert_memory_equal(notify.message, &i, sizeof(i));
		free(notify.message);
	}
	assert_int_equal(i, 4097);
	assert_string_equal(notify.name, "last");
	must(mc_segment_close(segment));
	must(mc_engine_close(initiator));
	must(mc_engine_close(target));
}

/* Objects, figures */

static void test_an_engine_with_open_objects_does_not_close(void **state)
{
	mc_engine *engine = open_named("busy");
	static uint8_t memory[4096] __attribute__((aligned(4096)));
	mc_segment *segment;
	mc_region *region;
	mc_batch *batch;

	(void)state;
	must(mc_engine_register(engine, memory, sizeof(memory), NULL, &region));
	assert_int_equal(mc_engine_close(engine), -EBUSY);
	assert_sentence("1 regions");
	must(mc_engine_unregister(region, 0));
	must(mc_segment_open(engine, "busy", NULL, &segment));
	assert_int_equal(mc_engine_close(engine), -EBUSY);
	assert_sentence("segments open");
	must(mc_segment_close(segment));
	must(mc_batch_alloc(engine, 1, &batch));
	assert_int_equal(mc_engine_close(engine), -EBUSY);
	assert_sentence("1 batches");
	must(mc_batch_free(batch));
	must(mc_engine_close(engine));
}

static void test_the_segment_of_oneself_can_be_opened(void **state)
{
	static const char *const transports[] = {"tcp", "shm", "auto"};
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		struct pair p = {.transport = transports[i], .memory = "memfd"};

		snprintf(p.uri, sizeof(p.uri), "%s", uri);
		p.remote = pair_alloc(&p, &p.target_memory);
		pair_open_engine(&p, "oneself", 0, &p.initiator);
		must(mc_engine_register(p.initiator, p.remote, PAIR_BYTES, NULL, &p.remote_region));
		must(mc_segment_open(p.initiator, "oneself", NULL, &p.segment));
		memset(p.remote, 0x11, 65536);
		memset(p.remote + 65536, 0x22, 65536);
		assert_done(move(&p, MC_WRITE, p.remote, at(&p, 65536), 65536));
		assert_memory_equal(p.remote, p.remote + 65536, 65536);
		memset(p.remote, 0x33, 65536);
		assert_done(move(&p, MC_READ, p.remote + 65536, at(&p, 0), 65536));
		assert_memory_equal(p.remote, p.remote + 65536, 65536);
		must(mc_segment_close(p.segment));
		must(mc_engine_unregister(p.remote_region, MC_UNREGISTER_WAIT));
		must(mc_engine_close(p.initiator));
		must(mc_memory_free(p.target_memory));
	}
}

static void test_statistics_and_paths_say_what_happened(void **state)
{
	struct mc_engine_stats mine = {.size = sizeof(mine)}, theirs = {.size = sizeof(theirs)};
	struct pair p = {.transport = "tcp", .memory = "malloc"};
	json_t *root, *segment, *path;
	unsigned int i;
	char *text;

	(void)state;
	pair_setup(&p);
	for (i = 0; i < 10; i++)
		assert_done(move(&p, MC_WRITE, p.local, at(&p, i * 5000), 5000));
	assert_done(move(&p, MC_READ, p.local, at(&p, 0), 300));
	assert_failed(move(&p, MC_READ, p.local, at(&p, PAIR_BYTES), 1), -EFAULT);
	must(mc_engine_stats(p.initiator, &mine));
	must(mc_engine_stats(p.target, &theirs));
	assert_int_equal(mine.requests, 12);
	assert_int_equal(mine.requests_done, 11);
	assert_int_equal(mine.requests_failed, 1);
	assert_int_equal(mine.requests_timed_out + mine.requests_cancelled + mine.requests_stale, 0);
	assert_int_equal(mine.bytes_written, 50000);
	assert_int_equal(mine.bytes_read, 300);
	assert_int_equal(theirs.served_bytes_written, 50000);
	assert_int_equal(theirs.served_bytes_read, 300);
	assert_int_equal(theirs.requests, 0);
	assert_int_equal(theirs.refused_connections, 0);
	mine.size = 8;
	assert_int_equal(mc_engine_stats(p.initiator, &mine), -EINVAL);

	must(mc_engine_paths(p.initiator, &text));
	root = json_loads(text, 0, NULL);
	assert_non_null(root);
	free(text);
	assert_int_equal(json_array_size(root), 1);
	segment = json_array_get(root, 0);
	assert_string_equal(json_string_value(json_object_get(segment, "segment")), p.target_name);
	assert_int_equal(json_array_size(json_object_get(segment, "paths")), 1);
	path = json_array_get(json_object_get(segment, "paths"), 0);
	assert_string_equal(json_string_value(json_object_get(path, "transport")), "tcp");
	assert_non_null(strstr(json_string_value(json_object_get(path, "detail")), "stream"));
	assert_true(json_is_false(json_object_get(path, "stale")));
	assert_int_equal(json_integer_value(json_object_get(path, "in_flight")), 0);
	json_decref(root);
	must(mc_engine_paths(p.target, &text));
	assert_string_equal(text, "[]");
	free(text);
	must(mc_engine_nics(p.target, &text)); /* asked for TCP alone, or with NICs that this machine has */
	root = json_loads(text, 0, NULL);
	assert_true(json_is_array(root));
	json_decref(root);
	free(text);
	pair_teardown(&p);
}

#define MANY 300

static void many(const char *transport, const char *memory)
{
	struct pair p = {.transport = transport, .memory = memory};
	const uint64_t step = PAIR_BYTES / MANY / 4096 * 4096;
	mc_region *region[MANY];
	unsigned int i;

	snprintf(p.uri, sizeof(p.uri), "%s", uri);
	p.remote = pair_alloc(&p, &p.target_memory);
	p.local = pair_alloc(&p, &p.initiator_memory);
	pair_open_engine(&p, "many", 0, &p.target);
	for (i = 0; i < MANY; i++) {
		memset(p.remote + i * step, (int)(i % 251), step);
		must(mc_engine_register(p.target, p.remote + i * step, step, NULL, &region[i]));
	}
	pair_open_engine(&p, "many-initiator", 0, &p.initiator);
	must(mc_engine_register(p.initiator, p.local, PAIR_BYTES, NULL, &p.local_region));
	must(mc_segment_open(p.initiator, "many", NULL, &p.segment));
	assert_int_equal(mc_segment_region_count(p.segment), MANY);
	for (i = 0; i < MANY; i++) {
		struct mc_segment_region info = {.size = sizeof(info)};
		struct mc_remote place = {0};

		must(mc_segment_region(p.segment, i, &info));
		assert_int_equal(info.length, step);
		assert_string_equal(info.path, transport);
		place.region = info.id;
		assert_done(move(&p, MC_READ, p.local, place, step));
		assert_memory_equal(p.local, p.remote + i * step, step);
		memset(p.local, (int)(i % 241) + 7, step);
		assert_done(move(&p, MC_WRITE, p.local, place, step));
		assert_memory_equal(p.local, p.remote + i * step, step);
	}
	must(mc_segment_close(p.segment));
	must(mc_engine_unregister(p.local_region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(p.initiator));
	for (i = 0; i < MANY; i++)
		must(mc_engine_unregister(region[i], MC_UNREGISTER_WAIT));
	must(mc_engine_close(p.target));
	pair_free_memory(p.target_memory, p.remote);
	pair_free_memory(p.initiator_memory, p.local);
}

static void test_each_of_many_regions_is_reachable(void **state)
{
	(void)state;
	many("tcp", "malloc");
	many("shm", "memfd");
}

static void by_address(uint32_t flags, const char *transport, int err)
{
	struct pair p = {.transport = transport, .memory = "malloc", .flags = flags};
	struct mc_remote place = {.region = MC_REGION_BY_ADDRESS};
	struct mc_status status;

	pair_setup(&p);
	place.offset = (uint64_t)(uintptr_t)p.remote + 4096;
	status = move(&p, MC_WRITE, p.local, place, 4096);
	if (err) {
		assert_failed(status, err);
		assert_int_equal(p.remote[4096], 0xa5);
	} else {
		assert_done(status);
		assert_int_equal(p.remote[4096], 0x5a);
	}
	assert_int_equal(p.remote[4095], 0xa5);
	assert_int_equal(p.remote[8192], 0xa5);
	place.offset = (uint64_t)(uintptr_t)p.remote - 8;
	assert_failed(move(&p, MC_WRITE, p.local, place, 16), -EFAULT);
	assert_int_equal(p.remote[0], 0xa5);
	pair_teardown(&p);
}

static void test_addresses_reach_classic_targets_only(void **state)
{
	(void)state;
	by_address(0, "tcp", -EFAULT);
	by_address(0, "shm", -EFAULT);
	by_address(MC_ENGINE_CLASSIC, "tcp", 0);
	by_address(MC_ENGINE_CLASSIC, "tcp-classic", 0);
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void test_an_idle_engine_uses_no_cpu(void **state)
{
	struct pair p = {.transport = "auto", .memory = "memfd"};
	double before, used;

	(void)state;
	pair_setup(&p);
	assert_done(move(&p, MC_WRITE, p.local, at(&p, 0), 65536));
	poll(NULL, 0, 200);
	before = cpu_seconds();
	poll(NULL, 0, 2000);
	used = cpu_seconds() - before;
	if (used > 0.02)
		fail_msg("%.0f ms of CPU time in 2 s without a request", used * 1000);
	pair_teardown(&p);
}

/* Sentences end in logs. */
static void test_a_password_in_the_uri_is_not_repeated(void **state)
{
	struct mc_engine_attr attr = named("shy");
	mc_segment *segment;
	mc_engine *engine;
	char text[96];

	(void)state;
	attr.metadata = text;
	snprintf(text, sizeof(text), "http://user:hunter2@127.0.0.1:%u/metadata", mc_metadata_server_port(server));
	must(mc_engine_open(&attr, &engine));
	assert_int_equal(mc_segment_open(engine, "nobody", NULL, &segment), -ENOENT);
	assert_sentence("@127.0.0.1");
	assert_null(strstr(mc_errmsg(), "hunter2"));
	must(mc_engine_close(engine));
	snprintf(text, sizeof(text), "http://user:hunter2@127.0.0.1:%u/nowhere", mc_metadata_server_port(server));
	assert_refused(&attr, -EINVAL, "@127.0.0.1");
	assert_null(strstr(mc_errmsg(), "hunter2"));
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_notifies_come_once_and_in_order),
		cmocka_unit_test(test_a_sender_hears_of_a_full_backlog),
		cmocka_unit_test(test_an_engine_with_open_objects_does_not_close),
		cmocka_unit_test(test_the_segment_of_oneself_can_be_opened),
		cmocka_unit_test(test_statistics_and_paths_say_what_happened),
		cmocka_unit_test(test_each_of_many_regions_is_reachable),
		cmocka_unit_test(test_addresses_reach_classic_targets_only),
		cmocka_unit_test(test_an_idle_engine_uses_no_cpu),
		cmocka_unit_test(test_a_password_in_the_uri_is_not_repeated),
	};

	unsetenv("MOONCAKE_KEY_FILE");
	unsetenv("MOONCAKE_CONFIG");
	return run_group(tests, argc > 1 ? argv[1] : NULL);
}
