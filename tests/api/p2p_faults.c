// SPDX-License-Identifier: MIT
/*
 * The P2P store in misfortune: liars, sources that stand still or are killed, a metadata service that goes
 * away, fetches that wait and are cancelled, and many members that come and go at once. P2P_ROUNDS=1000 makes
 * that last test as long as that.
 */
#include "api/p2p_env.h"

#include <pthread.h>
#include <spawn.h>

/* ---- fetches that wait, and end ---- */

/* Pieces from..to of what was registered are spoilt: their source serves what does not match. */
static void spoil(struct bytes *bytes, unsigned int from, unsigned int to)
{
	unsigned int i;

	for (i = from; i < to; i++)
		((uint8_t *)bytes->range[0].addr)[i * 4096 + 17] ^= 0xff;
}

static void test_a_liar_is_avoided_and_a_new_seed_ends_the_wait(void **state)
{
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct bytes from, good, to[2];
	mc_p2p_task *task[2];
	unsigned int i;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&good, one_size, 1);
	bytes_fill(&from, 1);
	bytes_fill(&good, 1);
	open_store(env, 0);
	open_store(env, 1);
	open_store(env, 2);
	must(mc_p2p_register(env->store[0], "spoilt", &from.place, &small, NULL));
	spoil(&from, 100, 140);
	for (i = 0; i < 2; i++) {
		bytes_alloc(&to[i], one_size, 1);
		must(mc_p2p_get_start(env->store[i + 1], "spoilt", &to[i].place, NULL, &task[i]));
	}
	for (i = 0; i < 2; i++) {
		until(progress_of(task[i]).missing && progress_of(task[i]).bad_pieces >= 2);
		until(strstr(progress_of(task[i]).note, "waiting for a new seed"));
		assert_true(progress_of(task[i]).missing >= 40);
		assert_int_equal(mc_p2p_task_wait(task[i], 0), -ETIME);
		assert_error(mc_p2p_task_free(task[i]), -EBUSY, "spoilt");
	}
	/* The liar leaves; the two keep what they have. */
	close_store(env, 0);
	open_store(env, 3);
	must(mc_p2p_register(env->store[3], "spoilt", &good.place, &small, NULL));
	for (i = 0; i < 2; i++) {
		must(mc_p2p_task_wait(task[i], -1));
		bytes_alike(&good, &to[i]);
		must(mc_p2p_task_free(task[i]));
	}
	close_store(env, 3);
	close_store(env, 2);
	close_store(env, 1);
}

static void test_a_fetch_can_be_cancelled_and_has_its_time(void **state)
{
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct told told = {.cancel = true};
	struct bytes from, to;
	mc_p2p_task *task;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "endless", &from.place, &small, NULL));
	spoil(&from, 0, 200);
	attr.progress = tell;
	attr.progress_arg = &told;
	must(mc_p2p_get_start(env->store[1], "endless", &to.place, &attr, &task));
	__atomic_store_n(&told.task, task, __ATOMIC_RELEASE);
	assert_error(mc_p2p_delete_replica(env->store[1], "endless"), -EBUSY, "endless");
	assert_error(mc_p2p_task_wait(task, -1), -ECANCELED, "cancelled");
	assert_non_null(strstr(mc_p2p_task_error(task), "endless"));
	assert_true(told.calls > 0);
	must(mc_p2p_task_free(task));

	attr = (struct mc_p2p_get_attr)MC_P2P_GET_ATTR_INIT;
	attr.timeout_ms = 1500;
	assert_error(mc_p2p_get(env->store[1], "endless", &to.place, &attr), -ETIMEDOUT, "of 256 pieces");
	assert_sentence("waiting for a new seed");
	attr.timeout_ms = 0;
	attr.stall_ms = 700;
	assert_error(mc_p2p_get(env->store[1], "endless", &to.place, &attr), -ETIMEDOUT,
		     "nothing came for 700 ms");

	/* Closing the store ends what runs; the handle stays to be freed. */
	must(mc_p2p_get_start(env->store[1], "endless", &to.place, NULL, &task));
	close_store(env, 1);
	assert_int_equal(mc_p2p_task_wait(task, 0), -ECANCELED);
	must(mc_p2p_task_free(task));
}

static void write_zeros(const char *path, uint64_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

/* What is there is looked through first: that is in the time, too. */
static void test_the_time_is_over_while_a_file_is_looked_through(void **state)
{
	const uint64_t size[] = {64 << 20};
	struct env *env = *state;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct bytes from;
	char path[96];

	snprintf(path, sizeof(path), "%s/there", env->folder);
	bytes_alloc(&from, size, 1);
	bytes_fill(&from, 1);
	write_zeros(path, size[0]);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "late", &from.place, NULL, NULL));
	place.path = path;
	attr.timeout_ms = 1;
	assert_error(mc_p2p_get(env->store[1], "late", &place, &attr), -ETIMEDOUT, "before the swarm was joined");
	attr.timeout_ms = 0;
	must(mc_p2p_get(env->store[1], "late", &place, &attr));
	close_store(env, 1);
	close_store(env, 0);
}

static void flag_the_last(const struct mc_p2p_progress *progress, void *arg)
{
	if (progress->pieces && progress->pieces_held == progress->pieces)
		__atomic_store_n((bool *)arg, true, __ATOMIC_RELEASE);
}

/* Hashes of half the bytes are no object: nothing is registered. */
static void test_a_classic_fetch_cancelled_while_it_hashes_registers_nothing(void **state)
{
	const uint64_t size[] = {256 << 20};
	struct env *env = *state;
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct bytes from, to;
	bool here = false;
	mc_p2p_task *task;
	char root[MC_P2P_ROOT_TEXT];
	struct seen seen;
	int ret;

	if (env->handshake)
		return;
	env->flags = MC_ENGINE_CLASSIC;
	bytes_alloc(&from, size, 1);
	bytes_alloc(&to, size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "old", &from.place, NULL, root));
	must(mc_p2p_remove(env->store[0], "old", MC_P2P_FORCE)); /* the classic record stays */
	attr.progress = flag_the_last;
	attr.progress_arg = &here;
	must(mc_p2p_get_start(env->store[1], "old", &to.place, &attr, &task));
	until(__atomic_load_n(&here, __ATOMIC_ACQUIRE) || done(task));
	mc_p2p_task_cancel(task);
	ret = mc_p2p_task_wait(task, -1);
	if (ret && ret != -ECANCELED)
		fail_msg("%d: %s", ret, mc_errmsg());
	/* Be it cancelled in time or not: what is registered is what it is called. */
	seen = list(env->store[0], "old");
	if (seen.last.root[0] && strcmp(seen.last.root, root))
		fail_msg("registered as %s, and is %s", seen.last.root, root);
	must(mc_p2p_task_free(task));
	close_store(env, 1);
	close_store(env, 0);
}

/* ---- misfortune ---- */

static void test_without_the_metadata_service_a_fetch_goes_on(void **state)
{
	const uint64_t size[] = {64 << 20};
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct bytes from, to, other;
	mc_p2p_task *task;

	if (env->handshake)
		return;
	env->slots = 1;
	bytes_alloc(&from, size, 1);
	bytes_alloc(&to, size, 1);
	bytes_alloc(&other, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "orphan", &from.place, &small, NULL));
	must(mc_p2p_get_start(env->store[1], "orphan", &to.place, NULL, &task));
	until(progress_of(task).pieces_held);
	must(mc_metadata_server_close(env->server));
	env->server = NULL;
	must(mc_p2p_task_wait(task, -1));
	bytes_alike(&from, &to);
	must(mc_p2p_task_free(task));
	/* What needs it says so, and does not hang. */
	assert_error(mc_p2p_get(env->store[1], "another", &other.place, NULL), -ECONNREFUSED, "127.0.0.1");
	must(mc_p2p_delete_replica(env->store[1], "orphan"));
	serve_metadata(env);
	close_store(env, 1);
	close_store(env, 0);
}

/* A server that keeps nothing over its restart: who lives publishes again, the objects too. */
static void test_a_restarted_metadata_service_knows_the_objects_again(void **state)
{
	struct env *env = *state;
	struct bytes from, to;

	if (env->handshake)
		return;
	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	must(mc_p2p_register(env->store[0], "kept", &from.place, NULL, NULL));
	must(mc_metadata_server_close(env->server));
	serve_metadata(env);
	open_store(env, 1);
	until(list(env->store[1], "kept").seeds == 1);
	until(!mc_p2p_get(env->store[1], "kept", &to.place, NULL));
	bytes_alike(&from, &to);
}

/*
 * A member in a process of its own, to be stopped or killed: "seed URI PIECES_TO_SPOIL BYTES" registers,
 * "holder" fetches first. It says when it serves.
 */
static int member_main(char **argv)
{
	struct env env = {.transports = "tcp", .lease_ms = 1000};
	struct mc_p2p_register_attr small = small_pieces();
	const uint64_t size[] = {strtoull(argv[4], NULL, 10)};
	struct bytes from;

	snprintf(env.uri, sizeof(env.uri), "%s", argv[2]);
	bytes_alloc(&from, size, 1);
	must(open_as(&env, "other-process", NULL, &env.store[0]));
	if (!strcmp(argv[1], "seed")) {
		bytes_fill(&from, 1);
		must(mc_p2p_register(env.store[0], "killed", &from.place, &small, NULL));
	} else {
		must(mc_p2p_get(env.store[0], "killed", &from.place, NULL));
	}
	spoil(&from, 0, (unsigned int)atoi(argv[3]));
	printf("ready\n");
	fflush(stdout);
	pause();
	return 0;
}

static pid_t start_member(struct env *env, const char *role, const char *spoilt, const char *size)
{
	char *argv[] = {(char *)"p2p", (char *)role, env->uri, (char *)spoilt, (char *)size, NULL};
	extern char **environ;
	posix_spawn_file_actions_t actions;
	char line[16] = "";
	int out[2];
	pid_t pid;

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(out[1]);
	assert_true(read(out[0], line, sizeof(line) - 1) > 0);
	close(out[0]);
	assert_string_equal(line, "ready\n");
	return pid;
}

static void test_a_killed_seed_is_survived(void **state)
{
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct bytes good, to, to2;
	mc_p2p_task *task, *task2;
	uint32_t held;
	pid_t pid;

	if (env->handshake)
		return;
	bytes_alloc(&good, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_alloc(&to2, one_size, 1);
	bytes_fill(&good, 1);
	open_store(env, 0);
	open_store(env, 1);
	pid = start_member(env, "seed", "30", "1048576");
	must(mc_p2p_get_start(env->store[0], "killed", &to.place, NULL, &task));
	until(progress_of(task).bad_pieces >= 2);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* Killed before the swarm had everything: it is said what is missing, and what is here stays. */
	until(strstr(progress_of(task).note, "waiting for a new seed"));
	held = progress_of(task).pieces_held;
	/* The dead one's key went with its lease; the name stays, and others may still come. */
	until(list(env->store[1], "killed").seeds == 0);
	must(mc_p2p_get_start(env->store[1], "killed", &to2.place, NULL, &task2));
	until(progress_of(task2).pieces_held >= held);
	assert_int_equal(mc_p2p_task_wait(task2, 0), -ETIME);
	open_store(env, 2);
	must(mc_p2p_register(env->store[2], "killed", &good.place, &small, NULL));
	must(mc_p2p_task_wait(task, -1));
	must(mc_p2p_task_wait(task2, -1));
	bytes_alike(&good, &to);
	bytes_alike(&good, &to2);
	must(mc_p2p_task_free(task));
	must(mc_p2p_task_free(task2));
	close_store(env, 2);
	close_store(env, 1);
	close_store(env, 0);
}

/* A source that stands still holds up nothing: its pieces are asked of another, beside the place that it may
 * still write. */
static void test_a_stopped_source_is_replaced(void **state)
{
	const uint64_t size[] = {32 << 20};
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct bytes from, to;
	mc_p2p_task *task;
	pid_t pid;

	if (env->handshake)
		return;
	bytes_alloc(&from, size, 1);
	bytes_alloc(&to, size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "killed", &from.place, &small, NULL));
	pid = start_member(env, "holder", "0", "33554432");
	must(mc_p2p_get_start(env->store[1], "killed", &to.place, NULL, &task));
	until(progress_of(task).pieces_held);
	kill(pid, SIGSTOP);
	must(mc_p2p_task_wait(task, -1));
	bytes_alike(&from, &to);
	must(mc_p2p_task_free(task));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close_store(env, 1);
	close_store(env, 0);
}

/* ---- many at once ---- */

struct leaver {
	mc_p2p *store;
	pthread_barrier_t *together;
	int ret;
};

static void *leave(void *arg)
{
	struct leaver *leaver = arg;

	pthread_barrier_wait(leaver->together);
	leaver->ret = mc_p2p_unregister(leaver->store, "relay");
	return NULL;
}

/* One seed follows another: the last step of the one does not take away what the other counts on. */
static void test_a_seed_that_comes_while_the_last_one_leaves_is_found(void **state)
{
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct bytes from[2], to;
	pthread_barrier_t together;
	pthread_t thread;
	unsigned int i;

	if (env->handshake)
		return;
	bytes_alloc(&from[0], one_size, 1);
	bytes_alloc(&from[1], one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from[0], 1);
	bytes_fill(&from[1], 1);
	for (i = 0; i < 3; i++)
		open_store(env, i);
	must(pthread_barrier_init(&together, NULL, 2));
	must(mc_p2p_register(env->store[0], "relay", &from[0].place, &small, NULL));
	for (i = 0; i < 100; i++) {
		struct leaver leaver = {.store = env->store[i % 2], .together = &together};
		unsigned int next = (i + 1) % 2;

		must(pthread_create(&thread, NULL, leave, &leaver));
		pthread_barrier_wait(&together);
		usleep(i * 100); /* to meet each step of the other in some round */
		must(mc_p2p_register(env->store[next], "relay", &from[next].place, &small, NULL));
		must(pthread_join(thread, NULL));
		must(leaver.ret);
		if (mc_p2p_get(env->store[2], "relay", &to.place, NULL))
			fail_msg("round %u: %s", i, mc_errmsg());
		must(mc_p2p_delete_replica(env->store[2], "relay"));
	}
	pthread_barrier_destroy(&together);
}

#define CROWD 10

struct one {
	struct env *env;
	unsigned int number, rounds;
	const struct bytes *good;
	pthread_t thread;
	char failure[256];
};

/* Fetch and let go, or register and unregister the same content, over and over. */
static void *come_and_go(void *arg)
{
	struct one *one = arg;
	mc_p2p *store = one->env->store[one->number];
	struct mc_p2p_register_attr small = small_pieces();
	unsigned int i;

	for (i = 0; i < one->rounds && !one->failure[0]; i++) {
		bool seed = (i + one->number) % 3 == 0;
		struct bytes mine;
		int ret;

		bytes_own(&mine, one_size, 1);
		if (seed)
			memcpy(mine.range[0].addr, one->good->range[0].addr, one_size[0]);
		ret = seed ? mc_p2p_register(store, "crowd", &mine.place, &small, NULL)
			   : mc_p2p_get(store, "crowd", &mine.place, NULL);
		if (ret)
			snprintf(one->failure, sizeof(one->failure), "%s: %d %.200s",
				 seed ? "register" : "get", ret, mc_errmsg());
		else if (memcmp(mine.range[0].addr, one->good->range[0].addr, one_size[0]))
			snprintf(one->failure, sizeof(one->failure), "other bytes came");
		else if ((ret = seed ? mc_p2p_unregister(store, "crowd")
				     : mc_p2p_delete_replica(store, "crowd")))
			snprintf(one->failure, sizeof(one->failure), "end: %d %.200s", ret, mc_errmsg());
		bytes_free(&mine);
	}
	return NULL;
}

static void test_many_come_and_go_and_nothing_is_lost(void **state)
{
	const char *rounds = getenv("P2P_ROUNDS");
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct one one[CROWD];
	struct bytes good;
	struct seen seen;
	unsigned int i;

	if (env->handshake)
		return;
	bytes_alloc(&good, one_size, 1);
	bytes_fill(&good, 1);
	for (i = 0; i < CROWD; i++)
		open_store(env, i);
	must(mc_p2p_register(env->store[0], "crowd", &good.place, &small, NULL));
	for (i = 1; i < CROWD; i++) {
		one[i] = (struct one){.env = env,
				      .number = i,
				      .rounds = rounds ? (unsigned int)atoi(rounds) : 3,
				      .good = &good};
		assert_int_equal(pthread_create(&one[i].thread, NULL, come_and_go, &one[i]), 0);
	}
	for (i = 1; i < CROWD; i++) {
		pthread_join(one[i].thread, NULL);
		if (one[i].failure[0])
			fail_msg("member %u: %s", i, one[i].failure);
	}
	/* Nobody removed what was another's, nobody left anything behind. */
	seen = list(env->store[5], "");
	assert_string_equal(seen.names, "crowd ");
	assert_int_equal(seen.members, 1);
	assert_int_equal(seen.seeds, 1);
	must(mc_p2p_unregister(env->store[0], "crowd"));
	assert_int_equal(list(env->store[5], "").count, 0);
	for (i = CROWD; i--;)
		close_store(env, i);
}

#define WITH(name)                                         \
	{                                                  \
#name, name, env_setup, env_teardown, &env \
	}

static int run_all(const char *transports, enum service service, const char *only)
{
	static struct env env;
	const struct CMUnitTest tests[] = {
		WITH(test_a_liar_is_avoided_and_a_new_seed_ends_the_wait),
		WITH(test_a_fetch_can_be_cancelled_and_has_its_time),
		WITH(test_the_time_is_over_while_a_file_is_looked_through),
		WITH(test_a_classic_fetch_cancelled_while_it_hashes_registers_nothing),
		WITH(test_without_the_metadata_service_a_fetch_goes_on),
		WITH(test_a_restarted_metadata_service_knows_the_objects_again),
		WITH(test_a_killed_seed_is_survived),
		WITH(test_a_stopped_source_is_replaced),
		WITH(test_a_seed_that_comes_while_the_last_one_leaves_is_found),
		WITH(test_many_come_and_go_and_nothing_is_lost),
	};

	env = (struct env){.transports = transports, .service = service};
	printf("--- %s, %s\n", transports, service_name[service]);
	only_tests(only, tests);
	return cmocka_run_group_tests_name(transports, tests, NULL, NULL);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : NULL;
	int failed = 0;

	if (argc == 5)
		return member_main(argv);
	failed += run_all("tcp", SERVICE_OURS, only);
	failed += run_all("shm", SERVICE_OURS, only);
	failed += run_all("tcp", SERVICE_NONE, only);
	return failed;
}
