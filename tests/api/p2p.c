// SPDX-License-Identifier: MIT
/*
 * The P2P store through its public interface, over TCP and over shared memory, with a metadata service and without one:
 * what is registered arrives, bit for bit; what is wrong is said; who leaves takes away only what is his.
 * P2P_ROUNDS=1000 makes the test of many members at once as long as that.
 */
#include "api/p2p_env.h"

#include <spawn.h>
#include <signal.h>
#include <sys/wait.h>

static const uint64_t odd_sizes[] = {1, 4095, 4096, 4097, 1000003, 8192, 77};
#define ODD (sizeof(odd_sizes) / sizeof(odd_sizes[0]))
static const uint64_t one_size[] = {1 << 20}; /* 256 pieces of 4 KiB */

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

struct told {
	mc_p2p_task *task;
	unsigned int calls;
	bool cancel;
	struct mc_p2p_progress last;
};

static void tell(const struct mc_p2p_progress *progress, void *arg)
{
	struct told *told = arg;

	told->calls++;
	told->last = *progress;
	if (told->cancel && progress->bad_pieces >= 2)
		mc_p2p_task_cancel(__atomic_load_n(&told->task, __ATOMIC_ACQUIRE));
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
	assert_error(mc_p2p_get(env->store[1], "endless", &to.place, &attr), -ETIMEDOUT, "nothing came for 700 ms");

	/* Closing the store ends what runs; the handle stays to be freed. */
	must(mc_p2p_get_start(env->store[1], "endless", &to.place, NULL, &task));
	close_store(env, 1);
	assert_int_equal(mc_p2p_task_wait(task, 0), -ECANCELED);
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

/* ---- list and watch ---- */

struct seen {
	unsigned int count, seeds, holders, members;
	char names[256];
	struct mc_p2p_object last;
	uint64_t sizes[8];
};

static int see(const struct mc_p2p_object *object, void *arg)
{
	struct seen *seen = arg;
	size_t n = strlen(seen->names);
	unsigned int i;

	seen->count++;
	seen->seeds += object->seeds;
	seen->holders += object->holders;
	seen->members += object->members;
	snprintf(seen->names + n, sizeof(seen->names) - n, "%s ", object->name);
	seen->last = *object;
	for (i = 0; i < object->size_count && i < 8; i++)
		seen->sizes[i] = object->size_list[i];
	return 0;
}

static struct seen list(mc_p2p *store, const char *prefix)
{
	struct seen seen = {0};

	must(mc_p2p_list(store, prefix, see, &seen));
	return seen;
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
	before = changes;
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

/*
 * A member in a process of its own, to be stopped or killed: "seed URI PIECES_TO_SPOIL BYTES" registers, "holder" fetches
 * first. It says when it serves.
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

/* A source that stands still holds up nothing: its pieces are asked of another, beside the place that it may still write. */
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
			snprintf(one->failure, sizeof(one->failure), "%s: %d %.200s", seed ? "register" : "get", ret,
				 mc_errmsg());
		else if (memcmp(mine.range[0].addr, one->good->range[0].addr, one_size[0]))
			snprintf(one->failure, sizeof(one->failure), "other bytes came");
		else if ((ret = seed ? mc_p2p_unregister(store, "crowd") : mc_p2p_delete_replica(store, "crowd")))
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
		one[i] = (struct one){.env = env, .number = i, .rounds = rounds ? (unsigned int)atoi(rounds) : 3,
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

/* ---- frame ---- */

static int setup(void **state)
{
	env_open(*state);
	return 0;
}

static int teardown(void **state)
{
	struct env *env = *state, clean = {.transports = env->transports, .handshake = env->handshake};

	env_close(env);
	*env = clean;
	return 0;
}

#define WITH(name) {#name, name, setup, teardown, &env}

static int run_all(const char *transports, bool handshake, const char *only)
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
		WITH(test_a_store_has_a_name_and_a_content_once),
		WITH(test_a_name_of_a_living_member_is_taken_by_force_only),
		WITH(test_a_wrong_key_is_refused),
		WITH(test_what_is_in_the_place_is_not_fetched_again),
		WITH(test_files_are_sources_and_sinks_and_are_completed),
		WITH(test_a_liar_is_avoided_and_a_new_seed_ends_the_wait),
		WITH(test_a_fetch_can_be_cancelled_and_has_its_time),
		WITH(test_progress_is_told_to_the_end),
		WITH(test_list_and_watch_tell_what_there_is),
		WITH(test_without_the_metadata_service_a_fetch_goes_on),
		WITH(test_a_killed_seed_is_survived),
		WITH(test_a_stopped_source_is_replaced),
		WITH(test_many_come_and_go_and_nothing_is_lost),
	};

	env = (struct env){.transports = transports, .handshake = handshake};
	printf("--- %s, %s\n", transports, handshake ? "P2PHANDSHAKE" : "metadata server");
	cmocka_set_test_filter(only);
	return cmocka_run_group_tests_name(transports, tests, NULL, NULL);
}

int main(int argc, char **argv)
{
	const char *only = argc > 1 ? argv[1] : NULL;
	int failed = 0;

	if (argc == 5)
		return member_main(argv);
	failed += run_all("tcp", false, only);
	failed += run_all("shm", false, only);
	failed += run_all("tcp", true, only);
	return failed;
}
