// SPDX-License-Identifier: MIT
/* Names: who owns one, who may take it from whom, what its owner does when it is gone or another has it. */
#include "api/engine_env.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const char *self;

/* One HTTP request to the metadata server, as any client of it could send it; the status. */
static int http(const char *method, const char *key, const char *body)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(mc_metadata_server_port(server))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status = 0;
	struct timeval limit = {.tv_sec = 10};
	char *text, reply[256] = "";
	ssize_t n;

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	n = asprintf(&text,
		     "%s /metadata?key=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n"
		     "\r\n%s",
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

/* The segment shows itself with its first region; a name that is taken is said at once all the same. */
static void test_an_engine_may_publish_with_its_memory(void **state)
{
	static uint8_t memory[2][4096];
	struct mc_engine_attr attr = named("later");
	struct mc_region_attr local = MC_REGION_ATTR_INIT;
	mc_engine *engine, *other;
	mc_region *own, *shared;
	char *text;

	(void)state;
	attr.flags = MC_ENGINE_PUBLISH_LATER;
	local.rights = 0;
	must(mc_engine_open(&attr, &engine));
	must(mc_engine_register(engine, memory[0], sizeof(memory[0]), &local, &own));
	assert_null(record_of("mooncake/ram/later"));
	must(mc_engine_register(engine, memory[1], sizeof(memory[1]), NULL, &shared));
	text = record_of("mooncake/ram/later");
	assert_non_null(text);
	assert_non_null(strstr(text, "content_id"));
	free(text);
	assert_refused(&attr, -EADDRINUSE, "'later'");
	must(mc_engine_unregister(shared, 0));
	must(mc_engine_unregister(own, 0));
	must(mc_engine_close(engine));

	/* Two that wait: who registers first has the name. */
	must(mc_engine_open(&attr, &engine));
	must(mc_engine_open(&attr, &other));
	must(mc_engine_register(engine, memory[0], sizeof(memory[0]), NULL, &own));
	assert_int_equal(mc_engine_register(other, memory[1], sizeof(memory[1]), NULL, &shared), -EADDRINUSE);
	assert_sentence("'later'");
	must(mc_engine_unregister(own, 0));
	must(mc_engine_close(engine));
	must(mc_engine_register(other, memory[1], sizeof(memory[1]), NULL, &shared));
	must(mc_engine_unregister(shared, 0));
	must(mc_engine_close(other));
}

#define RELAYED 8

struct relay {
	int listener, stop[2];
	uint16_t port;
	pthread_t thread;
};

static int dial_server(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(mc_metadata_server_port(server))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)) ? -1 : fd;
}

/* What came on @from goes to @to; a question for a token is answered here. False: the connection is over. */
static bool relay_some(int from, int to)
{
	static const char busy[] = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
	char bytes[16384];
	ssize_t n = recv(from, bytes, sizeof(bytes), 0);

	if (n > 0 && memmem(bytes, (size_t)n, "token%2F", 8)) {
		send(from, busy, sizeof(busy) - 1, MSG_NOSIGNAL);
		return false;
	}
	return n > 0 && send(to, bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static void *relay_main(void *arg)
{
	struct relay *relay = arg;
	struct pollfd fds[2 + 2 * RELAYED] = {{.fd = relay->stop[0], .events = POLLIN},
					      {.fd = relay->listener, .events = POLLIN}};
	int i;

	for (i = 2; i < 2 + 2 * RELAYED; i++)
		fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	while (poll(fds, 2 + 2 * RELAYED, -1) >= 0 && !fds[0].revents) {
		for (i = 2; i < 2 + 2 * RELAYED; i++) {
			int other = i ^ 1;

			if (fds[i].fd < 0 || !fds[i].revents || relay_some(fds[i].fd, fds[other].fd))
				continue;
			close(fds[i].fd);
			close(fds[other].fd);
			fds[i].fd = fds[other].fd = -1;
		}
		for (i = 2; fds[1].revents && i < 2 + 2 * RELAYED; i += 2) {
			if (fds[i].fd >= 0)
				continue;
			fds[i].fd = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC);
			fds[i + 1].fd = dial_server();
			break;
		}
	}
	for (i = 2; i < 2 + 2 * RELAYED; i++)
		if (fds[i].fd >= 0)
			close(fds[i].fd);
	return NULL;
}

/* A metadata service that tells no tokens just now. */
static void relay_open(struct relay *relay)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(at);

	relay->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(relay->listener >= 0);
	assert_int_equal(bind(relay->listener, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(relay->listener, RELAYED), 0);
	assert_int_equal(getsockname(relay->listener, (struct sockaddr *)&at, &length), 0);
	relay->port = ntohs(at.sin_port);
	assert_int_equal(pipe2(relay->stop, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&relay->thread, NULL, relay_main, relay), 0);
}

static void relay_close(struct relay *relay)
{
	close(relay->stop[1]);
	pthread_join(relay->thread, NULL);
	close(relay->stop[0]);
	close(relay->listener);
}

static void test_a_service_that_falters_gives_no_name_away(void **state)
{
	static uint8_t memory[4096];
	struct mc_engine_attr attr = named("faltering");
	mc_engine *living = open_named("faltering");
	char *before = record_of("mooncake/ram/faltering"), *after, through[64];
	struct relay relay;
	mc_region *region;

	(void)state;
	assert_non_null(before);
	relay_open(&relay);
	snprintf(through, sizeof(through), "http://127.0.0.1:%u/metadata", relay.port);
	attr.metadata = through;
	assert_refused(&attr, -EAGAIN, "overloaded");
	relay_close(&relay);
	after = record_of("mooncake/ram/faltering");
	assert_string_equal(before, after);
	free(before);
	free(after);
	must(mc_engine_register(living, memory, sizeof(memory), NULL, &region));
	must(mc_engine_unregister(region, 0));
	must(mc_engine_close(living));
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
	char *argv[] = {(char *)self, "--hold", uri, (char *)name, NULL};
	posix_spawn_file_actions_t actions;
	struct pollfd wait = {.events = POLLIN};
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
	assert_non_null(record); /* its lease lives still */
	free(record);
	start = now_ms();
	must(mc_engine_open(&attr, &engine));
	assert_true(now_ms() - start < 1000 + SLACK_MS);
	must(mc_segment_open(engine, "killed", NULL, &segment)); /* and it is ours, token and all */
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
		struct racer racer[2] = {{.barrier = &barrier}, {.barrier = &barrier}};
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
	private.rights = 0; /* publishes nothing: only the heartbeat can find out */
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
	after = record_of("mooncake/ram/stolen"); /* the thief's, untouched by our leaving */
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
	attr.lease_ms = 600000; /* the heartbeat does not come first */
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

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_name_in_use_is_refused_and_left_alone),
		cmocka_unit_test(test_an_engine_may_publish_with_its_memory),
		cmocka_unit_test(test_a_living_process_keeps_its_name_against_another_key),
		cmocka_unit_test(test_a_service_that_falters_gives_no_name_away),
		cmocka_unit_test(test_the_name_of_a_killed_process_can_be_taken_at_once),
		cmocka_unit_test(test_of_two_that_race_for_a_name_one_wins),
		cmocka_unit_test(test_a_process_whose_name_was_taken_says_owner_dead),
		cmocka_unit_test(test_a_register_that_finds_the_name_taken_says_owner_dead),
		cmocka_unit_test(test_a_record_that_vanished_is_published_again),
	};

	unsetenv("MOONCAKE_KEY_FILE");
	unsetenv("MOONCAKE_CONFIG");
	self = argv[0];
	if (argc == 4 && !strcmp(argv[1], "--hold"))
		return hold(argv[2], argv[3]);
	return run_group(tests, argc > 1 ? argv[1] : NULL);
}
