// SPDX-License-Identifier: MIT
/* What opening an engine refuses and how it says so; keys on one side, on both, and other ones. */
#include "api/engine_env.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* A listening socket on a port of the system's choice. */
static int occupy(uint16_t *port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

/* What open refuses */

static void test_an_unknown_metadata_scheme_is_refused(void **state)
{
	struct mc_engine_attr attr = named("scheme");

	(void)state;
	attr.metadata = "gopher://127.0.0.1:70";
	assert_refused(&attr, -EINVAL, "gopher://127.0.0.1:70");
	attr.metadata = NULL;
	assert_refused(&attr, -EINVAL, "--metadata_server");
}

static void test_an_unreachable_metadata_server_is_named(void **state)
{
	struct mc_engine_attr attr = named("unreachable");
	char gone[64], where[32];
	uint16_t port;
	uint64_t start = now_ms();

	(void)state;
	close(occupy(&port));
	snprintf(gone, sizeof(gone), "http://127.0.0.1:%u/metadata", port);
	snprintf(where, sizeof(where), "127.0.0.1:%u", port);
	attr.metadata = gone;
	assert_refused(&attr, -ECONNREFUSED, where);
	snprintf(gone, sizeof(gone), "redis://127.0.0.1:%u", port);
	assert_refused(&attr, -ECONNREFUSED, where);
	snprintf(gone, sizeof(gone), "etcd://127.0.0.1:%u", port);
	assert_refused(&attr, -ECONNREFUSED, where);
	assert_true(now_ms() - start < 10000);
}

static void test_a_metadata_server_that_does_not_answer_is_given_up(void **state)
{
	struct mc_engine_attr attr = named("silent");
	char silent[64], where[32];
	uint64_t start = now_ms();
	uint16_t port;
	int fd;

	(void)state;
	fd = occupy(&port);
	snprintf(silent, sizeof(silent), "http://127.0.0.1:%u/metadata", port);
	snprintf(where, sizeof(where), "127.0.0.1:%u", port);
	attr.metadata = silent;
	assert_refused(&attr, -ETIMEDOUT, where);
	assert_true(now_ms() - start < 5000 + SLACK_MS);
	close(fd);
}

static void test_a_port_that_is_taken_is_named(void **state)
{
	struct mc_engine_attr attr = named("port-taken");
	char text[8];
	uint16_t port;
	int fd = occupy(&port);

	(void)state;
	attr.port = port;
	snprintf(text, sizeof(text), "%u", port);
	assert_refused(&attr, -EADDRINUSE, text);
	close(fd);
	assert_null(record_of("mooncake/ram/port-taken"));
}

static void test_a_key_file_that_others_may_read_is_refused(void **state)
{
	struct mc_engine_attr attr = named("open-key");
	char path[64];

	(void)state;
	make_key(path, sizeof(path), "open");
	attr.key_file = path;
	assert_int_equal(chmod(path, 0644), 0);
	assert_refused(&attr, -EPERM, path);
	assert_sentence("0644");
	assert_int_equal(truncate(path, 20), 0);
	assert_int_equal(chmod(path, 0600), 0);
	assert_refused(&attr, -EINVAL, path);
	unlink(path);
	assert_refused(&attr, -ENOENT, path);
}

static void test_an_unknown_transport_is_named(void **state)
{
	struct mc_engine_attr attr = named("transport");

	(void)state;
	attr.transports = "tcp,pigeon";
	assert_refused(&attr, -EOPNOTSUPP, "'pigeon'");
}

/* One matrix often serves many hosts; --device_name means what it says. */
static void test_nics_of_a_matrix_may_be_missing_and_named_ones_may_not(void **state)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;
	char *text;

	(void)state;
	attr.metadata = "P2PHANDSHAKE";
	attr.name = "127.0.0.1:0";
	attr.bind = "127.0.0.1";
	attr.nic_matrix = "{\"cpu:0\": [[\"no-such-nic\"], []]}";
	must(mc_engine_open(&attr, &engine));
	must(mc_engine_nics(engine, &text));
	assert_string_equal(text, "[]");
	free(text);
	must(mc_engine_close(engine));
	attr.devices = "no-such-nic";
	assert_true(mc_engine_open(&attr, &engine) < 0);
	attr.devices = NULL;
	attr.nic_matrix = "{\"cpu:0\": \"no-such-nic\"}";
	assert_refused(&attr, -EINVAL, "not of the form");
}

static void test_attributes_of_other_headers_are_refused(void **state)
{
	struct mc_engine_attr attr = named("attributes");

	(void)state;
	attr.size = 24;
	assert_refused(&attr, -EINVAL, "24 bytes");
	attr = named("attributes");
	attr.flags = 1u << 30;
	assert_refused(&attr, -EINVAL, "0x40000000");
	attr = named("attributes");
	attr.reserved0 = 7;
	assert_refused(&attr, -EINVAL, "reserved0");
}

static void test_loopback_is_not_published_in_a_remote_metadata_service(void **state)
{
	struct mc_engine_attr attr = named("loopback");
	uint64_t start = now_ms();

	(void)state;
	attr.metadata = "http://192.0.2.1/metadata";
	attr.advertise = "127.0.0.1";
	assert_refused(&attr, -EINVAL, "127.0.0.1");
	assert_sentence("http://192.0.2.1/metadata");
	assert_true(now_ms() - start < 5000);
	attr.advertise = NULL;
	attr.bind = "127.0.0.1";
	start = now_ms();
	assert_refused(&attr, -EINVAL, "127.0.0.1");
	assert_true(now_ms() - start < 5000);
}

static void test_the_any_address_is_listened_on_and_not_published(void **state)
{
	static const char *const any[] = {"0.0.0.0", "::"};
	struct mc_engine_attr attr = named("any");
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		mc_engine *engine;
		char *record;

		attr.bind = any[i];
		must(mc_engine_open(&attr, &engine));
		record = record_of("mooncake/ram/any");
		assert_non_null(record);
		if (strstr(record, "\"0.0.0.0\"") || strstr(record, "\"::\"") ||
		    !strstr(record, "\"127.0.0.1\""))
			fail_msg("bound to %s, published %s", any[i], record);
		free(record);
		must(mc_engine_close(engine));
	}
}

static void test_p2p_beyond_this_host_needs_a_key(void **state)
{
	struct mc_engine_attr attr = named("192.0.2.7");
	mc_engine *engine;
	mc_segment *segment;

	(void)state;
	attr.metadata = "P2PHANDSHAKE";
	assert_refused(&attr, -EPERM, "'192.0.2.7'");
	attr.name = "127.0.0.1";
	attr.bind = "0.0.0.0";
	assert_refused(&attr, -EPERM, "'0.0.0.0'");
	attr.bind = NULL;
	must(mc_engine_open(&attr, &engine));
	assert_int_equal(mc_segment_open(engine, "192.0.2.7:15000", NULL, &segment), -EKEYREJECTED);
	assert_sentence("192.0.2.7:15000");
	assert_int_equal(mc_segment_open(engine, "127.0.0.1", NULL, &segment), -EINVAL);
	assert_sentence("'127.0.0.1'");
	must(mc_engine_close(engine));
}

/* Keys */

static void both(const char *mine, const char *theirs, int err)
{
	struct mc_engine_attr attr = named("keyed-target");
	struct mc_segment_attr segment_attr = MC_SEGMENT_ATTR_INIT;
	mc_engine *target, *initiator;
	mc_segment *segment = NULL;
	int ret;

	attr.key_file = theirs;
	must(mc_engine_open(&attr, &target));
	attr.name = "keyed-initiator";
	attr.key_file = mine;
	must(mc_engine_open(&attr, &initiator));
	segment_attr.timeout_ms = 1000;
	ret = mc_segment_open(initiator, "keyed-target", &segment_attr, &segment);
	if (ret != err || (ret && !strstr(mc_errmsg(), "keyed-target")))
		fail_msg("%d instead of %d: \"%s\"", ret, err, mc_errmsg());
	if (ret)
		assert_null(segment);
	else
		must(mc_segment_close(segment));
	must(mc_engine_close(initiator));
	must(mc_engine_close(target));
}

static void test_a_key_must_be_the_same_on_both_sides(void **state)
{
	(void)state;
	both(key_file, key_file, 0);
	both(key_file, NULL, -EKEYREJECTED);
	both(NULL, key_file, -EKEYREJECTED);
	both(other_key_file, key_file, -EKEYREJECTED);
}

static void p2p(const char *mine, const char *theirs, int err)
{
	struct mc_engine_attr attr = named("127.0.0.1");
	struct mc_segment_attr segment_attr = MC_SEGMENT_ATTR_INIT;
	mc_engine *target, *initiator;
	mc_segment *segment = NULL;
	char name[64];
	int ret;

	attr.metadata = "P2PHANDSHAKE";
	attr.bind = "127.0.0.1";
	attr.key_file = theirs;
	must(mc_engine_open(&attr, &target));
	snprintf(name, sizeof(name), "%s", mc_engine_name(target));
	attr.key_file = mine;
	must(mc_engine_open(&attr, &initiator));
	segment_attr.timeout_ms = 2000;
	ret = mc_segment_open(initiator, name, &segment_attr, &segment);
	if (ret != err || (ret && !strstr(mc_errmsg(), name) && !strstr(mc_errmsg(), "key")))
		fail_msg("%d instead of %d: \"%s\"", ret, err, mc_errmsg());
	if (!ret)
		must(mc_segment_close(segment));
	must(mc_engine_close(initiator));
	must(mc_engine_close(target));
}

static void test_p2p_without_a_server_keeps_to_the_key(void **state)
{
	(void)state;
	p2p(NULL, NULL, 0);
	p2p(key_file, key_file, 0);
	p2p(key_file, NULL, -EKEYREJECTED);
	p2p(NULL, key_file, -EKEYREJECTED);
	p2p(other_key_file, key_file, -EKEYREJECTED);
}

static void test_p2p_of_one_user_moves_data_without_a_key(void **state)
{
	struct pair p = {.transport = "tcp", .memory = "malloc"};
	struct mc_engine_attr attr = named("127.0.0.1");
	unsigned int i;

	(void)state;
	attr.metadata = "P2PHANDSHAKE";
	p.remote = pair_alloc(&p, &p.target_memory);
	p.local = pair_alloc(&p, &p.initiator_memory);
	must(mc_engine_open(&attr, &p.target));
	must(mc_engine_register(p.target, p.remote, PAIR_BYTES, NULL, &p.remote_region));
	must(mc_engine_open(&attr, &p.initiator));
	must(mc_engine_register(p.initiator, p.local, PAIR_BYTES, NULL, &p.local_region));
	must(mc_segment_open(p.initiator, mc_engine_name(p.target), NULL, &p.segment));
	for (i = 0; i < PAIR_BYTES; i++)
		p.local[i] = (uint8_t)(i * 7 + i / 256);
	memset(p.remote, 0, PAIR_BYTES);
	assert_done(move(&p, MC_WRITE, p.local, at(&p, 0), PAIR_BYTES));
	assert_memory_equal(p.remote, p.local, PAIR_BYTES);
	must(mc_segment_close(p.segment));
	must(mc_engine_unregister(p.local_region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(p.initiator));
	must(mc_engine_unregister(p.remote_region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(p.target));
	free(p.remote);
	free(p.local);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_unknown_metadata_scheme_is_refused),
		cmocka_unit_test(test_an_unreachable_metadata_server_is_named),
		cmocka_unit_test(test_a_metadata_server_that_does_not_answer_is_given_up),
		cmocka_unit_test(test_a_port_that_is_taken_is_named),
		cmocka_unit_test(test_a_key_file_that_others_may_read_is_refused),
		cmocka_unit_test(test_an_unknown_transport_is_named),
		cmocka_unit_test(test_nics_of_a_matrix_may_be_missing_and_named_ones_may_not),
		cmocka_unit_test(test_attributes_of_other_headers_are_refused),
		cmocka_unit_test(test_loopback_is_not_published_in_a_remote_metadata_service),
		cmocka_unit_test(test_the_any_address_is_listened_on_and_not_published),
		cmocka_unit_test(test_p2p_beyond_this_host_needs_a_key),
		cmocka_unit_test(test_a_key_must_be_the_same_on_both_sides),
		cmocka_unit_test(test_p2p_without_a_server_keeps_to_the_key),
		cmocka_unit_test(test_p2p_of_one_user_moves_data_without_a_key),
	};

	unsetenv("MOONCAKE_KEY_FILE");
	unsetenv("MOONCAKE_CONFIG");
	return run_group(tests, argc > 1 ? argv[1] : NULL);
}
