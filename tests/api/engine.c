// SPDX-License-Identifier: MIT
/*
 * The engine as such, through the public API: what it refuses and how it says so, names and who owns them,
 * notifies, figures, closing. One metadata server for all tests; each test takes names of its own.
 */
#include "api/pair.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEASE_MS 1500u
#define HEARTBEAT_MS (LEASE_MS / 3)
#define SLACK_MS 1500u		/* for a machine with other things to do */

static mc_metadata_server *server;
static char uri[64], folder[] = "/tmp/mooncake-engine-XXXXXX", key_file[64], other_key_file[64];
static const char *self;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static struct mc_engine_attr named(const char *name)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;

	attr.metadata = uri;
	attr.name = name;
	attr.transports = "tcp";
	attr.lease_ms = LEASE_MS;
	return attr;
}

static mc_engine *open_named(const char *name)
{
	struct mc_engine_attr attr = named(name);
	mc_engine *engine;

	must(mc_engine_open(&attr, &engine));
	return engine;
}

/* The sentence must name what was wrong; on failure nothing is handed out. */
static void assert_refused(const struct mc_engine_attr *attr, int err, const char *word)
{
	mc_engine *engine = NULL;
	int ret = mc_engine_open(attr, &engine);

	if (ret != err || !strstr(mc_errmsg(), word))
		fail_msg("%d instead of %d, \"%s\" should name '%s'", ret, err, mc_errmsg(), word);
	assert_null(engine);
}

static void assert_sentence(const char *word)
{
	if (!strstr(mc_errmsg(), word))
		fail_msg("\"%s\" should name '%s'", mc_errmsg(), word);
}

/* A listening socket on a port of the system's choice. */
static int occupy(uint16_t *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

/* One HTTP request to the metadata server, as any client of it could send it; the status. */
static int http(const char *method, const char *key, const char *body)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				  .sin_port = htons(mc_metadata_server_port(server)) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status = 0;
	struct timeval limit = { .tv_sec = 10 };
	char *text, reply[256] = "";
	ssize_t n;

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	n = asprintf(&text, "%s /metadata?key=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
		     method, key, strlen(body), body);
	assert_true(n > 0);
	assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
	free(text);
	n = recv(fd, reply, sizeof(reply) - 1, MSG_WAITALL);
	assert_true(n > 0);
	sscanf(reply, "HTTP/1.%*d %d", &status);
	close(fd);
	return status;
}

static char *record_of(const char *key)
{
	struct mc_engine_attr attr = named(NULL);
	char *value = NULL;

	return mc_metadata_get(&attr, key, &value) ? NULL : value;
}

static void make_key(char *path, size_t size, const char *name)
{
	snprintf(path, size, "%s/%s", folder, name);
	must(mc_key_create(path));
}

static int group_setup(void **state)
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

static int group_teardown(void **state)
{
	(void)state;
	must(mc_metadata_server_close(server));
	unlink(key_file);
	unlink(other_key_file);
	rmdir(folder);
	return 0;
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
	static const char *const any[] = { "0.0.0.0", "::" };
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
		if (strstr(record, "\"0.0.0.0\"") || strstr(record, "\"::\"") || !strstr(record, "\"127.0.0.1\""))
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
	struct pair p = { .transport = "tcp", .memory = "malloc" };
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

/* Names */

static void test_a_name_in_use_is_refused_and_left_alone(void **state)
{
	struct mc_engine_attr attr = named("in-use");
	mc_engine *first = open_named("in-use"), *second;
	char *before = record_of("mooncake/ram/in-use"), *after;

	(void)state;
	assert_non_null(before);
	assert_refused(&attr, -EADDRINUSE, "'in-use'");
	after = record_of("mooncake/ram/in-use");
	assert_string_equal(before, after);
	free(before);
	free(after);
	must(mc_engine_close(first));
	assert_null(record_of("mooncake/ram/in-use"));
	must(mc_engine_open(&attr, &second));
	must(mc_engine_close(second));
}

static void taken_over(const char *living, const char *second)
{
	struct mc_engine_attr attr = named("other-key");
	mc_engine *engine;

	attr.key_file = living;
	must(mc_engine_open(&attr, &engine));
	attr.key_file = second;
	assert_refused(&attr, -EADDRINUSE, "'other-key'");
	must(mc_engine_close(engine));
}

static void test_a_living_process_keeps_its_name_against_another_key(void **state)
{
	(void)state;
	taken_over(key_file, NULL);
	taken_over(NULL, key_file);
	taken_over(key_file, other_key_file);
}

static int hold(const char *where, const char *name)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;
	int ret;

	attr.metadata = where;
	attr.name = name;
	attr.transports = "tcp";
	ret = mc_engine_open(&attr, &engine);
	if (ret) {
		fprintf(stderr, "%s\n", mc_errmsg());
		return 1;
	}
	if (write(STDOUT_FILENO, "+", 1) != 1)
		return 1;
	/* Until it is killed, or the test that waits for it is gone. */
	while (getppid() != 1 && poll(NULL, 0, 100) >= 0)
		;
	return 0;
}

/* This program again, holding @name. */
static pid_t start_holder(const char *name)
{
	char *argv[] = { (char *)self, "--hold", uri, (char *)name, NULL };
	posix_spawn_file_actions_t actions;
	struct pollfd wait = { .events = POLLIN };
	int fds[2];
	char c = 0;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	wait.fd = fds[0];
	assert_int_equal(poll(&wait, 1, 20000), 1);
	assert_int_equal(read(fds[0], &c, 1), 1);
	close(fds[0]);
	return pid;
}

static void test_the_name_of_a_killed_process_can_be_taken_at_once(void **state)
{
	struct mc_engine_attr attr = named("killed");
	pid_t pid = start_holder("killed");
	mc_segment *segment;
	mc_engine *engine;
	uint64_t start;
	char *record;
	int status;

	(void)state;
	assert_refused(&attr, -EADDRINUSE, "'killed'");
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	record = record_of("mooncake/ram/killed");
	assert_non_null(record);	/* its lease lives still */
	free(record);
	start = now_ms();
	must(mc_engine_open(&attr, &engine));
	assert_true(now_ms() - start < 1000 + SLACK_MS);
	must(mc_segment_open(engine, "killed", NULL, &segment));	/* and it is ours, token and all */
	must(mc_segment_close(segment));
	must(mc_engine_close(engine));
}

struct racer {
	pthread_barrier_t *barrier;
	mc_engine *engine;
	int ret;
	char said[512];
};

static void *race(void *arg)
{
	struct racer *racer = arg;
	struct mc_engine_attr attr = named("raced");

	attr.io_threads = 1;
	pthread_barrier_wait(racer->barrier);
	racer->ret = mc_engine_open(&attr, &racer->engine);
	if (racer->ret)
		snprintf(racer->said, sizeof(racer->said), "%s", mc_errmsg());
	return NULL;
}

static void test_of_two_that_race_for_a_name_one_wins(void **state)
{
	pthread_barrier_t barrier;
	unsigned int round, i;

	(void)state;
	pthread_barrier_init(&barrier, NULL, 2);
	for (round = 0; round < 20; round++) {
		struct racer racer[2] = { { .barrier = &barrier }, { .barrier = &barrier } };
		pthread_t thread[2];
		unsigned int won = 0;

		for (i = 0; i < 2; i++)
			assert_int_equal(pthread_create(&thread[i], NULL, race, &racer[i]), 0);
		for (i = 0; i < 2; i++)
			pthread_join(thread[i], NULL);
		for (i = 0; i < 2; i++) {
			if (!racer[i].ret) {
				mc_segment *segment;

				won++;
				must(mc_segment_open(racer[i].engine, "raced", NULL, &segment));
				must(mc_segment_close(segment));
				must(mc_engine_close(racer[i].engine));
			} else if (racer[i].ret != -EADDRINUSE || !strstr(racer[i].said, "'raced'")) {
				fail_msg("round %u: %d: %s", round, racer[i].ret, racer[i].said);
			}
		}
		if (won != 1)
			fail_msg("round %u: %u of 2 won: %s / %s", round, won, racer[0].said, racer[1].said);
		assert_null(record_of("mooncake/ram/raced"));
	}
	pthread_barrier_destroy(&barrier);
}

/* The record of @name, but under a uuid of nobody. */
static char *forged(const char *name)
{
	static const char member[] = "\"uuid\":";
	char key[64], *record, *at;

	snprintf(key, sizeof(key), "mooncake/ram/%s", name);
	record = record_of(key);
	assert_non_null(record);
	at = strstr(record, member);
	assert_non_null(at);
	at = strchr(at + sizeof(member) - 1, '"');
	assert_non_null(at);
	memset(at + 1, 'e', 32);
	assert_int_equal(at[33], '"');
	return record;
}

static void test_a_process_whose_name_was_taken_says_owner_dead(void **state)
{
	mc_engine *engine = open_named("stolen");
	static uint8_t memory[4096] __attribute__((aligned(4096)));
	char *record = forged("stolen"), *after;
	struct mc_region_attr private = MC_REGION_ATTR_INIT;
	mc_region *region = NULL;
	uint64_t start;
	int ret;

	(void)state;
	private.rights = 0;	/* publishes nothing: only the heartbeat can find out */
	assert_int_equal(http("PUT", "mooncake%2Fram%2Fstolen", record), 200);
	start = now_ms();
	for (;;) {
		ret = mc_engine_register(engine, memory, sizeof(memory), &private, &region);
		if (ret)
			break;
		must(mc_engine_unregister(region, 0));
		if (now_ms() - start > 2 * HEARTBEAT_MS + SLACK_MS)
			fail_msg("did not notice within %u ms", 2 * HEARTBEAT_MS);
		poll(NULL, 0, 20);
	}
	assert_int_equal(ret, -EOWNERDEAD);
	assert_sentence("'stolen'");
	must(mc_engine_close(engine));
	after = record_of("mooncake/ram/stolen");	/* the thief's, untouched by our leaving */
	assert_non_null(after);
	assert_string_equal(after, record);
	free(after);
	free(record);
	assert_int_equal(http("DELETE", "mooncake%2Fram%2Fstolen", ""), 200);
}

static void test_a_register_that_finds_the_name_taken_says_owner_dead(void **state)
{
	struct mc_engine_attr attr = named("stolen-now");
	static uint8_t memory[4096] __attribute__((aligned(4096)));
	mc_region *region = NULL;
	mc_engine *engine;
	char *record;

	(void)state;
	attr.lease_ms = 600000;		/* the heartbeat does not come first */
	must(mc_engine_open(&attr, &engine));
	record = forged("stolen-now");
	assert_int_equal(http("PUT", "mooncake%2Fram%2Fstolen-now", record), 200);
	assert_int_equal(mc_engine_register(engine, memory, sizeof(memory), NULL, &region), -EOWNERDEAD);
	assert_sentence("'stolen-now'");
	assert_null(region);
	must(mc_engine_close(engine));
	free(record);
	assert_int_equal(http("DELETE", "mooncake%2Fram%2Fstolen-now", ""), 200);
}

static void test_a_record_that_vanished_is_published_again(void **state)
{
	mc_engine *engine = open_named("vanished");
	char *before = record_of("mooncake/ram/vanished"), *after;
	mc_segment *segment;
	uint64_t start;

	(void)state;
	assert_int_equal(http("DELETE", "mooncake%2Fram%2Fvanished", ""), 200);
	assert_int_equal(http("DELETE", "mooncake%2Ftoken%2Fvanished", ""), 200);
	start = now_ms();
	while (!(after = record_of("mooncake/ram/vanished"))) {
		if (now_ms() - start > HEARTBEAT_MS + SLACK_MS)
			fail_msg("not there again within %u ms", HEARTBEAT_MS);
		poll(NULL, 0, 20);
	}
	assert_string_equal(after, before);
	free(before);
	free(after);
	must(mc_segment_open(engine, "vanished", NULL, &segment));
	must(mc_segment_close(segment));
	must(mc_engine_close(engine));
}

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
	unsigned int next[SENDERS] = { 0 }, id, n, i, got = 0;
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
		sender[i] = (struct sender){ .segment = segment, .id = i };
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
	struct mc_notify notify = { .size = sizeof(notify) };
	struct mc_engine_stats stats = { .size = sizeof(stats) };
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
	assert_memory_equal(notify.message, &(unsigned int){ 0 }, sizeof(i));
	free(notify.message);
	must(mc_notify_send(segment, "last", &i, sizeof(i), 20000));	/* room again */
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
	static const char *const transports[] = { "tcp", "shm", "auto" };
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		struct pair p = { .transport = transports[i], .memory = "memfd" };

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
	struct mc_engine_stats mine = { .size = sizeof(mine) }, theirs = { .size = sizeof(theirs) };
	struct pair p = { .transport = "tcp", .memory = "malloc" };
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
	pair_teardown(&p);
}

#define MANY 300

static void many(const char *transport, const char *memory)
{
	struct pair p = { .transport = transport, .memory = memory };
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
		struct mc_segment_region info = { .size = sizeof(info) };
		struct mc_remote place = { 0 };

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
	struct pair p = { .transport = transport, .memory = "malloc", .flags = flags };
	struct mc_remote place = { .region = MC_REGION_BY_ADDRESS };
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
	struct pair p = { .transport = "auto", .memory = "memfd" };
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

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_unknown_metadata_scheme_is_refused),
		cmocka_unit_test(test_an_unreachable_metadata_server_is_named),
		cmocka_unit_test(test_a_metadata_server_that_does_not_answer_is_given_up),
		cmocka_unit_test(test_a_port_that_is_taken_is_named),
		cmocka_unit_test(test_a_key_file_that_others_may_read_is_refused),
		cmocka_unit_test(test_an_unknown_transport_is_named),
		cmocka_unit_test(test_attributes_of_other_headers_are_refused),
		cmocka_unit_test(test_loopback_is_not_published_in_a_remote_metadata_service),
		cmocka_unit_test(test_the_any_address_is_listened_on_and_not_published),
		cmocka_unit_test(test_p2p_beyond_this_host_needs_a_key),
		cmocka_unit_test(test_a_key_must_be_the_same_on_both_sides),
		cmocka_unit_test(test_p2p_without_a_server_keeps_to_the_key),
		cmocka_unit_test(test_p2p_of_one_user_moves_data_without_a_key),
		cmocka_unit_test(test_a_name_in_use_is_refused_and_left_alone),
		cmocka_unit_test(test_a_living_process_keeps_its_name_against_another_key),
		cmocka_unit_test(test_the_name_of_a_killed_process_can_be_taken_at_once),
		cmocka_unit_test(test_of_two_that_race_for_a_name_one_wins),
		cmocka_unit_test(test_a_process_whose_name_was_taken_says_owner_dead),
		cmocka_unit_test(test_a_register_that_finds_the_name_taken_says_owner_dead),
		cmocka_unit_test(test_a_record_that_vanished_is_published_again),
		cmocka_unit_test(test_notifies_come_once_and_in_order),
		cmocka_unit_test(test_a_sender_hears_of_a_full_backlog),
		cmocka_unit_test(test_an_engine_with_open_objects_does_not_close),
		cmocka_unit_test(test_the_segment_of_oneself_can_be_opened),
		cmocka_unit_test(test_statistics_and_paths_say_what_happened),
		cmocka_unit_test(test_each_of_many_regions_is_reachable),
		cmocka_unit_test(test_addresses_reach_classic_targets_only),
		cmocka_unit_test(test_an_idle_engine_uses_no_cpu),
	};

	self = argv[0];
	unsetenv("MOONCAKE_KEY_FILE");
	unsetenv("MOONCAKE_CONFIG");
	if (argc == 4 && !strcmp(argv[1], "--hold"))
		return hold(argv[2], argv[3]);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
