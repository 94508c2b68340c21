// SPDX-License-Identifier: MIT
/*
 * The P2P store through its public interface, over TCP and over shared memory, with our metadata server, with
 * etcd and without any: what is registered arrives, bit for bit; what does not fit is said; what there is is
 * told.
 */
#include "api/p2p_env.h"

static const uint64_t odd_sizes[] = {1, 4095, 4096, 4097, 1000003, 8192, 77};
#define ODD (sizeof(odd_sizes) / sizeof(odd_sizes[0]))

/* ---- register and get ---- */

static void test_what_is_registered_arrives_bit_for_bit(void **state)
{
	struct env *env = *state;
	struct bytes from, to;
	char root[MC_P2P_ROOT_TEXT];

	bytes_alloc(&from, odd_sizes, ODD);
	bytes_alloc(&to, odd_sizes, ODD);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "models/odd", &from.place, NULL, root));
	assert_int_equal(strlen(root), 64);
	must(mc_p2p_get(env->store[1], "models/odd", &to.place, NULL));
	bytes_alike(&from, &to);
	must(mc_p2p_delete_replica(env->store[1], "models/odd"));
	must(mc_p2p_unregister(env->store[0], "models/odd"));
}

static void test_an_object_may_have_many_ranges(void **state)
{
	struct env *env = *state;
	struct bytes from, to;
	uint64_t sizes[64];
	unsigned int i;

	for (i = 0; i < 64; i++)
		sizes[i] = 1 + i * i * 37;
	bytes_alloc(&from, sizes, 64);
	bytes_alloc(&to, sizes, 64);
	bytes_fill(&from, 2);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "many", &from.place, NULL, NULL));
	must(mc_p2p_get(env->store[1], "many", &to.place, NULL));
	bytes_alike(&from, &to);
	close_store(env, 1);
	close_store(env, 0);
}

static void test_receivers_at_once_serve_each_other(void **state)
{
	const uint64_t size[] = {8 << 20};
	struct env *env = *state;
	struct bytes from, to[3];
	mc_p2p_task *task[3];
	uint64_t fetched = 0, from_seeds = 0;
	unsigned int i;

	bytes_alloc(&from, size, 1);
	bytes_fill(&from, 3);
	for (i = 0; i < 4; i++)
		open_store(env, i);
	must(mc_p2p_register(env->store[0], "shared", &from.place, NULL, NULL));
	for (i = 0; i < 3; i++) {
		bytes_alloc(&to[i], size, 1);
		must(mc_p2p_get_start(env->store[i + 1], "shared", &to[i].place, NULL, &task[i]));
	}
	for (i = 0; i < 3; i++) {
		struct mc_p2p_progress progress;

		must(mc_p2p_task_wait(task[i], -1));
		progress = progress_of(task[i]);
		assert_int_equal(progress.held, size[0]);
		assert_int_equal(progress.pieces_held, progress.pieces);
		assert_int_equal(progress.bad_pieces, 0);
		fetched += progress.fetched;
		from_seeds += progress.from_seeds;
		bytes_alike(&from, &to[i]);
		must(mc_p2p_task_free(task[i]));
	}
	assert_true(fetched >= 3 * size[0]);
	/* All three from the seed alone would be no swarm. */
	assert_true(from_seeds < fetched);
	for (i = 4; i--;)
		close_store(env, i);
}

static void test_who_fetched_serves_when_the_seed_is_gone(void **state)
{
	struct env *env = *state;
	struct bytes from, to, to2;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_alloc(&to2, one_size, 1);
	bytes_fill(&from, 4);
	open_store(env, 0);
	open_store(env, 1);
	open_store(env, 2);
	must(mc_p2p_register(env->store[0], "handed-on", &from.place, NULL, NULL));
	must(mc_p2p_get(env->store[1], "handed-on", &to.place, NULL));
	must(mc_p2p_unregister(env->store[0], "handed-on"));
	memset(from.range[0].addr, 0xee, one_size[0]); /* it is the caller's again */
	must(mc_p2p_get(env->store[2], "handed-on", &to2.place, NULL));
	bytes_alike(&to, &to2);
	bytes_fill(&from, 4);
	bytes_alike(&from, &to2);
	/* The last one takes the name along. */
	must(mc_p2p_delete_replica(env->store[1], "handed-on"));
	must(mc_p2p_delete_replica(env->store[2], "handed-on"));
	assert_error(mc_p2p_get(env->store[1], "handed-on", &to.place, NULL), -ENOENT, "handed-on");
}

static void test_one_store_has_several_objects_at_once(void **state)
{
	struct env *env = *state;
	struct bytes from[3], to[3];
	mc_p2p_task *task[3];
	char name[16];
	unsigned int i;

	open_store(env, 0);
	open_store(env, 1);
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "several/%u", i);
		bytes_alloc(&from[i], one_size, 1);
		bytes_alloc(&to[i], one_size, 1);
		bytes_fill(&from[i], 10 + i);
		must(mc_p2p_register(env->store[0], name, &from[i].place, NULL, NULL));
	}
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "several/%u", i);
		must(mc_p2p_get_start(env->store[1], name, &to[i].place, NULL, &task[i]));
	}
	for (i = 0; i < 3; i++) {
		must(mc_p2p_task_wait(task[i], -1));
		must(mc_p2p_task_free(task[i]));
		bytes_alike(&from[i], &to[i]);
	}
	close_store(env, 1);
	close_store(env, 0);
}

/* ---- what is wrong is said ---- */

static void test_what_does_not_fit_is_named(void **state)
{
	const uint64_t sizes[] = {5000, 6000}, others[] = {5000, 6001}, one[] = {5000};
	struct env *env = *state;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	struct bytes from, to;

	bytes_alloc(&from, sizes, 2);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "pair", &from.place, NULL, NULL));
	bytes_alloc(&to, others, 2);
	assert_error(mc_p2p_get(env->store[1], "pair", &to.place, NULL), -EINVAL, "[5000, 6000]");
	assert_sentence("[5000, 6001]");
	bytes_alloc(&to, one, 1);
	assert_error(mc_p2p_get(env->store[1], "pair", &to.place, NULL), -EINVAL, "[5000]");
	place.path = "/tmp/never-made";
	assert_error(mc_p2p_get(env->store[1], "pair", &place, NULL), -EINVAL, "2 ranges");
}

static void test_names_and_roots_are_checked(void **state)
{
	struct env *env = *state;
	struct bytes from, to;
	char root[MC_P2P_ROOT_TEXT], text[128], other[65];

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	assert_error(mc_p2p_get(env->store[1], "nobody", &to.place, NULL), -ENOENT, "nobody");
	assert_error(mc_p2p_get(env->store[1], "", &to.place, NULL), -EINVAL, "1 to 255");
	assert_error(mc_p2p_get(env->store[1], "a@b", &to.place, NULL), -EINVAL, "64 hexadecimal");
	assert_error(mc_p2p_register(env->store[0], "a\nb", &from.place, NULL, NULL), -EINVAL, "control");
	must(mc_p2p_register(env->store[0], "rooted", &from.place, NULL, root));
	memset(other, 'a', 64);
	other[64] = '\0';
	snprintf(text, sizeof(text), "rooted@%s", other);
	assert_error(mc_p2p_get(env->store[1], text, &to.place, NULL), -ENOENT, "rooted");
	snprintf(text, sizeof(text), "rooted@%s", root);
	must(mc_p2p_get(env->store[1], text, &to.place, NULL));
	bytes_alike(&from, &to);
	assert_error(mc_p2p_unregister(env->store[1], "rooted"), -EINVAL, "delete_replica");
	assert_error(mc_p2p_delete_replica(env->store[0], "rooted"), -EINVAL, "unregister");
	assert_error(mc_p2p_unregister(env->store[0], "nobody"), -ENOENT, "nobody");
}

static void test_a_shard_size_that_no_record_can_tell_is_refused(void **state)
{
	struct mc_p2p_register_attr attr = MC_P2P_REGISTER_ATTR_INIT;
	struct env *env = *state;
	struct bytes from;

	bytes_alloc(&from, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	attr.max_shard_size = 1ull << 63;
	assert_error(mc_p2p_register(env->store[0], "huge", &from.place, &attr, NULL), -EINVAL, "max_shard_size");
	attr.max_shard_size--;
	must(mc_p2p_register(env->store[0], "huge", &from.place, &attr, NULL));
	assert_string_equal(list(env->store[0], "").names, "huge ");
}

static void test_a_store_has_a_name_and_a_content_once(void **state)
{
	struct env *env = *state;
	struct bytes from, other;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&other, one_size, 1);
	bytes_fill(&from, 1);
	bytes_fill(&other, 2);
	open_store(env, 0);
	must(mc_p2p_register(env->store[0], "once", &from.place, NULL, NULL));
	assert_error(mc_p2p_register(env->store[0], "once", &other.place, NULL, NULL), -EEXIST, "once");
	assert_error(mc_p2p_get(env->store[0], "once", &other.place, NULL), -EALREADY, "once");
	assert_error(mc_p2p_register(env->store[0], "twice", &from.place, NULL, NULL), -EEXIST, "'once'");
	must(mc_p2p_unregister(env->store[0], "once"));
	must(mc_p2p_register(env->store[0], "twice", &from.place, NULL, NULL));
}

static void test_a_name_of_a_living_member_is_taken_by_force_only(void **state)
{
	struct env *env = *state;
	struct mc_p2p_register_attr force = MC_P2P_REGISTER_ATTR_INIT;
	struct bytes from, other, to;

	if (env->handshake)
		return; /* without a metadata service each member has names of its own */
	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&other, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	bytes_fill(&other, 2);
	open_store(env, 0);
	open_store(env, 1);
	open_store(env, 2);
	must(mc_p2p_register(env->store[0], "taken", &from.place, NULL, NULL));
	assert_error(mc_p2p_register(env->store[1], "taken", &other.place, NULL, NULL), -EEXIST, "member-0");
	force.flags = MC_P2P_FORCE;
	must(mc_p2p_register(env->store[1], "taken", &other.place, &force, NULL));
	must(mc_p2p_get(env->store[2], "taken", &to.place, NULL));
	bytes_alike(&other, &to);
	/* Who lost the name leaves the new record alone. */
	must(mc_p2p_unregister(env->store[0], "taken"));
	must(mc_p2p_delete_replica(env->store[2], "taken"));
	memset(to.range[0].addr, 0, one_size[0]);
	must(mc_p2p_get(env->store[2], "taken", &to.place, NULL));
	bytes_alike(&other, &to);
}

static void test_a_wrong_key_is_refused(void **state)
{
	struct env *env = *state;
	char key[96], other[96];
	struct bytes from, to;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	snprintf(key, sizeof(key), "%s/key", env->folder);
	snprintf(other, sizeof(other), "%s/other", env->folder);
	must(mc_key_create(key));
	must(mc_key_create(other));
	must(open_as(env, env->handshake ? "127.0.0.1" : "keyed", key, &env->store[0]));
	snprintf(env->peers, sizeof(env->peers), "%s", mc_p2p_name(env->store[0]));
	must(open_as(env, env->handshake ? "127.0.0.1" : "stranger", other, &env->store[1]));
	must(open_as(env, env->handshake ? "127.0.0.1" : "friend", key, &env->store[2]));
	must(mc_p2p_register(env->store[0], "secret", &from.place, NULL, NULL));
	assert_error(mc_p2p_get(env->store[1], "secret", &to.place, NULL), -EKEYREJECTED, "key");
	must(mc_p2p_get(env->store[2], "secret", &to.place, NULL));
	bytes_alike(&from, &to);
}

/* Without anybody who vouches for a peer, the root does. */
static void test_who_trusts_nobody_needs_the_root(void **state)
{
	struct env *env = *state;
	char root[MC_P2P_ROOT_TEXT], name[128];
	struct bytes from, to;

	if (!env->handshake)
		return;
	env->flags = MC_ENGINE_INSECURE;
	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	must(open_as(env, "127.0.0.1", NULL, &env->store[0]));
	snprintf(env->peers, sizeof(env->peers), "%s", mc_p2p_name(env->store[0]));
	must(open_as(env, "127.0.0.1", NULL, &env->store[1]));
	must(mc_p2p_register(env->store[0], "open", &from.place, NULL, root));
	assert_error(mc_p2p_get(env->store[1], "open", &to.place, NULL), -EPERM, "name@root");
	snprintf(name, sizeof(name), "open@%s", root);
	must(mc_p2p_get(env->store[1], name, &to.place, NULL));
	bytes_alike(&from, &to);
}

/* ---- what is there already ---- */

static void test_what_is_in_the_place_is_not_fetched_again(void **state)
{
	struct env *env = *state;
	struct mc_p2p_get_attr resume = MC_P2P_GET_ATTR_INIT;
	struct mc_p2p_register_attr small = small_pieces();
	struct mc_p2p_progress progress;
	struct bytes from, to;
	mc_p2p_task *task;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	memcpy(to.range[0].addr, from.range[0].addr, one_size[0] / 2);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "half", &from.place, &small, NULL));
	resume.flags = MC_P2P_RESUME;
	must(mc_p2p_get_start(env->store[1], "half", &to.place, &resume, &task));
	must(mc_p2p_task_wait(task, -1));
	progress = progress_of(task);
	assert_int_equal(progress.reused, one_size[0] / 2);
	assert_int_equal(progress.fetched, one_size[0] / 2);
	must(mc_p2p_task_free(task));
	bytes_alike(&from, &to);
	/* All of it: nobody is asked for anything. */
	must(mc_p2p_delete_replica(env->store[1], "half"));
	must(mc_p2p_get_start(env->store[1], "half", &to.place, &resume, &task));
	must(mc_p2p_task_wait(task, -1));
	assert_int_equal(progress_of(task).reused, one_size[0]);
	assert_int_equal(progress_of(task).fetched, 0);
	must(mc_p2p_task_free(task));
}

static void write_file(const char *path, const void *p, size_t n)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	assert_int_equal(fwrite(p, 1, n, file), n);
	fclose(file);
}

static void assert_file_is(const char *path, const void *p, size_t n)
{
	uint8_t *got = malloc(n + 1);
	FILE *file = fopen(path, "re");

	assert_non_null(got);
	assert_non_null(file);
	assert_int_equal(fread(got, 1, n + 1, file), n);
	assert_memory_equal(got, p, n);
	fclose(file);
	free(got);
}

static void test_files_are_sources_and_sinks_and_are_completed(void **state)
{
	struct env *env = *state;
	struct mc_p2p_place source = MC_P2P_PLACE_INIT, sink = MC_P2P_PLACE_INIT;
	struct mc_p2p_register_attr small = small_pieces();
	char from_path[96], to_path[96], part_path[104];
	const size_t n = 300001;
	struct bytes from;
	mc_p2p_task *task;

	bytes_alloc(&from, (const uint64_t[]){n}, 1);
	bytes_fill(&from, 1);
	snprintf(from_path, sizeof(from_path), "%s/from", env->folder);
	snprintf(to_path, sizeof(to_path), "%s/to", env->folder);
	snprintf(part_path, sizeof(part_path), "%s.part", to_path);
	write_file(from_path, from.range[0].addr, n);
	source.path = from_path;
	sink.path = to_path;
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "file", &source, &small, NULL));
	must(mc_p2p_get(env->store[1], "file", &sink, NULL));
	assert_file_is(to_path, from.range[0].addr, n);
	assert_int_not_equal(access(part_path, F_OK), 0);
	must(mc_p2p_delete_replica(env->store[1], "file"));

	/* A fetch that was ended half way. */
	assert_int_equal(unlink(to_path), 0);
	write_file(part_path, from.range[0].addr, 40960);
	must(mc_p2p_get_start(env->store[1], "file", &sink, NULL, &task));
	must(mc_p2p_task_wait(task, -1));
	assert_int_equal(progress_of(task).reused, 40960);
	must(mc_p2p_task_free(task));
	assert_file_is(to_path, from.range[0].addr, n);
	must(mc_p2p_delete_replica(env->store[1], "file"));

	/* An old version under the name: what is the same in it is taken. */
	memset((uint8_t *)from.range[0].addr + 4096, 1, 8192);
	write_file(to_path, from.range[0].addr, n - 5000);
	must(mc_p2p_get_start(env->store[1], "file", &sink, NULL, &task));
	must(mc_p2p_task_wait(task, -1));
	assert_int_equal(progress_of(task).reused, (n - 5000) / 4096 * 4096 - 8192);
	must(mc_p2p_task_free(task));
	bytes_fill(&from, 1);
	assert_file_is(to_path, from.range[0].addr, n);
}

static void test_only_a_file_is_replaced_by_a_file(void **state)
{
	struct env *env = *state;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	char pipe_path[96], part_path[104];
	struct bytes from;
	struct stat st;

	bytes_alloc(&from, one_size, 1);
	bytes_fill(&from, 1);
	snprintf(pipe_path, sizeof(pipe_path), "%s/pipe", env->folder);
	snprintf(part_path, sizeof(part_path), "%s.part", pipe_path);
	assert_int_equal(mkfifo(pipe_path, 0600), 0);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "file", &from.place, NULL, NULL));
	place.path = pipe_path;
	assert_error(mc_p2p_get(env->store[1], "file", &place, NULL), -EINVAL, "no regular file");
	assert_int_equal(stat(pipe_path, &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	assert_int_not_equal(access(part_path, F_OK), 0);
	assert_error(mc_p2p_register(env->store[1], "other", &place, NULL, NULL), -EINVAL, "regular file");
	place.path = env->folder;
	assert_error(mc_p2p_get(env->store[1], "file", &place, NULL), -EINVAL, "no regular file");
}

/* ---- progress, list, watch ---- */

/* What gets the name is what was verified, whoever meddles with PATH.part meanwhile. */
static void test_a_part_that_was_replaced_is_not_taken_for_the_file(void **state)
{
	struct env *env = *state;
	struct mc_p2p_register_attr small = small_pieces();
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	struct bytes from, good;
	char path[96], part[112];
	mc_p2p_task *task;
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/file", env->folder);
	snprintf(part, sizeof(part), "%s.part", path);
	place.path = path;
	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&good, one_size, 1);
	bytes_fill(&from, 1);
	bytes_fill(&good, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "holes", &from.place, &small, NULL));
	memset(from.range[0].addr, 0, from.total);
	must(mc_p2p_get_start(env->store[1], "holes", &place, NULL, &task));
	until(progress_of(task).bad_pieces >= 2);
	close_store(env, 0);
	assert_int_equal(unlink(part), 0);
	fd = open(part, O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "no", 2), 2);
	close(fd);
	open_store(env, 2);
	must(mc_p2p_register(env->store[2], "holes", &good.place, &small, NULL));
	assert_error(mc_p2p_task_wait(task, -1), -ESTALE, "replaced");
	assert_int_equal(stat(path, &st), -1);
	must(mc_p2p_task_free(task));
	/* Nor is another's file written through a link, and a directory that is not there is named. */
	assert_int_equal(unlink(part), 0);
	assert_int_equal(symlink("elsewhere", part), 0);
	must(mc_p2p_unregister(env->store[2], "holes"));
	must(mc_p2p_register(env->store[1], "holes", &good.place, &small, NULL));
	assert_error(mc_p2p_get(env->store[2], "holes", &place, NULL), -ELOOP, "file.part");
	snprintf(path, sizeof(path), "%s/no/such", env->folder);
	assert_error(mc_p2p_get(env->store[2], "holes", &place, NULL), -ENOTDIR, "directory");
	close_store(env, 2);
	close_store(env, 1);
}

/* A child has none of the threads that a fetch waits for: no call hangs in it. */
static int in_child(struct env *env, mc_p2p_task *task)
{
	struct mc_p2p_progress progress = {.size = sizeof(progress)};

	alarm(20);
	return mc_p2p_task_wait(task, -1) == -ECHILD && mc_p2p_task_progress(task, &progress) == -ECHILD &&
			       mc_p2p_task_cancel(task) == -ECHILD && !*mc_p2p_task_error(task) &&
			       mc_p2p_task_free(task) == -ECHILD && mc_p2p_unregister(env->store[0], "x") == -ECHILD &&
			       mc_p2p_close(env->store[0]) == -ECHILD
		       ? 0
		       : 1;
}

static void test_child_of_a_fork_gets_echild(void **state)
{
	struct env *env = *state;
	struct bytes from, to;
	mc_p2p_task *task;
	int status;
	pid_t pid;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "object", &from.place, NULL, NULL));
	memset(from.range[0].addr, 0, from.total); /* it never ends */
	must(mc_p2p_get_start(env->store[1], "object", &to.place, NULL, &task));
	pid = fork();
	if (!pid)
		_exit(in_child(env, task));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	must(mc_p2p_task_cancel(task));
	assert_int_equal(mc_p2p_task_wait(task, -1), -ECANCELED);
	must(mc_p2p_task_free(task));
}

static void test_progress_is_told_to_the_end(void **state)
{
	struct env *env = *state;
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct told told = {0};
	struct bytes from, to;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0);
	open_store(env, 1);
	must(mc_p2p_register(env->store[0], "told", &from.place, NULL, NULL));
	attr.progress = tell;
	attr.progress_arg = &told;
	must(mc_p2p_get(env->store[1], "told", &to.place, &attr));
	assert_int_equal(told.last.held, one_size[0]);
	assert_int_equal(told.last.bytes, one_size[0]);
	assert_int_equal(told.last.fetched, one_size[0]);
	assert_int_equal(told.last.from_seeds, one_size[0]);
	assert_int_equal(told.last.missing, 0);
	assert_int_equal(told.last.members, 1);
	assert_true(told.last.elapsed_ns > 0);
}

static void on_change(void *arg) { __atomic_fetch_add((unsigned int *)arg, 1, __ATOMIC_SEQ_CST); }

static void test_list_and_watch_tell_what_there_is(void **state)
{
	const uint64_t sizes[] = {10000, 20000};
	struct env *env = *state;
	unsigned int changes = 0, before;
	struct bytes from, same, to, second;
	struct seen seen;

	bytes_alloc(&from, sizes, 2);
	bytes_alloc(&same, sizes, 2);
	bytes_alloc(&to, sizes, 2);
	bytes_alloc(&second, one_size, 1);
	bytes_fill(&from, 1);
	bytes_fill(&same, 1);
	open_store(env, 0);
	open_store(env, 1);
	open_store(env, 2);
	must(mc_p2p_register(env->store[0], "list/b", &from.place, NULL, NULL));
	must(mc_p2p_register(env->store[0], "list/a", &second.place, NULL, NULL));
	seen = list(env->store[0], "list/");
	assert_string_equal(seen.names, "list/a list/b ");
	assert_int_equal(seen.last.bytes, 30000);
	assert_int_equal(seen.last.size_count, 2);
	assert_int_equal(seen.sizes[0], 10000);
	assert_int_equal(seen.sizes[1], 20000);
	assert_int_equal(seen.last.max_shard_size, 64 << 20);
	assert_int_equal(list(env->store[0], "list/c").count, 0);
	if (env->handshake) {
		assert_error(mc_p2p_watch(env->store[1], "", on_change, &changes), -EOPNOTSUPP, "metadata");
		return;
	}
	must(mc_p2p_watch(env->store[2], "list/", on_change, &changes));
	until(__atomic_load_n(&changes, __ATOMIC_SEQ_CST));
	before = __atomic_load_n(&changes, __ATOMIC_SEQ_CST);
	must(mc_p2p_register(env->store[1], "list/b", &same.place, NULL, NULL));
	until(__atomic_load_n(&changes, __ATOMIC_SEQ_CST) > before);
	must(mc_p2p_get(env->store[2], "list/b", &to.place, NULL));
	seen = list(env->store[2], "list/b");
	assert_int_equal(seen.seeds, 2);
	assert_int_equal(seen.holders, 3);
	assert_int_equal(seen.members, 3);
	/* One of two seeds leaves: the other one's entries stay. */
	must(mc_p2p_unregister(env->store[0], "list/b"));
	seen = list(env->store[2], "list/b");
	assert_int_equal(seen.seeds, 1);
	assert_int_equal(seen.members, 2);
	must(mc_p2p_watch(env->store[2], NULL, NULL, NULL));
}

#define WITH(name)                                         \
	{                                                  \
#name, name, env_setup, env_teardown, &env \
	}

static int run_all(const char *transports, enum service service, const char *only)
{
	static struct env env;
	const struct CMUnitTest tests[] = {
		WITH(test_what_is_registered_arrives_bit_for_bit),
		WITH(test_an_object_may_have_many_ranges),
		WITH(test_receivers_at_once_serve_each_other),
		WITH(test_who_fetched_serves_when_the_seed_is_gone),
		WITH(test_one_store_has_several_objects_at_once),
		WITH(test_what_does_not_fit_is_named),
		WITH(test_names_and_roots_are_checked),
		WITH(test_a_shard_size_that_no_record_can_tell_is_refused),
		WITH(test_a_store_has_a_name_and_a_content_once),
		WITH(test_a_name_of_a_living_member_is_taken_by_force_only),
		WITH(test_a_wrong_key_is_refused),
		WITH(test_who_trusts_nobody_needs_the_root),
		WITH(test_what_is_in_the_place_is_not_fetched_again),
		WITH(test_files_are_sources_and_sinks_and_are_completed),
		WITH(test_only_a_file_is_replaced_by_a_file),
		WITH(test_a_part_that_was_replaced_is_not_taken_for_the_file),
		WITH(test_child_of_a_fork_gets_echild),
		WITH(test_progress_is_told_to_the_end),
		WITH(test_list_and_watch_tell_what_there_is),
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

	failed += run_all("tcp", SERVICE_OURS, only);
	failed += run_all("shm", SERVICE_OURS, only);
	failed += run_all("tcp", SERVICE_NONE, only);
	if (test_has_program("etcd"))
		failed += run_all("tcp", SERVICE_ETCD, only);
	else
		puts("skipped with etcd: it is not installed");
	return failed;
}
