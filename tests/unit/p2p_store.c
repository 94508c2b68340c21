// SPDX-License-Identifier: MIT
/*
 * Members that break the rules, by hooks inside of the store: one that forges its map, one that serves other
 * bytes than it verified; and the check that this is held off by, switched off. And the engine's seam that
 * the store stands on.
 */
#include "api/p2p_env.h"

#include "p2p/p2p.h"
#include "p2p/record.h"

static struct liar {
	struct bytes good, first, second;
	struct mc_p2p_register_attr small;
} liar;

/* Store 0 registers; store 1, with its hooks set by the caller, shall lie to store 2. */
static void open_liar(struct env *env)
{
	liar = (struct liar){.small = small_pieces()};
	bytes_alloc(&liar.good, one_size, 1);
	bytes_alloc(&liar.first, one_size, 1);
	bytes_alloc(&liar.second, one_size, 1);
	bytes_fill(&liar.good, 1);
	open_store(env, 0);
	open_store(env, 1);
	open_store(env, 2);
	must(mc_p2p_register(env->store[0], "object", &liar.good.place, &liar.small, NULL));
}

static void assert_is_named(mc_p2p_task *task, const char *member)
{
	until(progress_of(task).bad_pieces >= 2);
	until(strstr(progress_of(task).note, "waiting for a new seed") ||
	      strstr(progress_of(task).note, member));
}

/* It claims to hold every piece, and holds none: what it would give is not taken. */
static void test_a_forged_map_deceives_nobody_for_long(void **state)
{
	struct env *env = *state;
	mc_p2p_task *lying, *task;
	unsigned int i;

	open_liar(env);
	/* The liar gets nothing itself: what the seed serves is spoilt. */
	for (i = 0; i < 256; i++)
		((uint8_t *)liar.good.range[0].addr)[i * 4096] ^= 0xff;
	env->store[1]->hooks.forge_map = true;
	must(mc_p2p_get_start(env->store[1], "object", &liar.first.place, NULL, &lying));
	until(progress_of(lying).bad_pieces >= 2);
	close_store(env, 0);
	must(mc_p2p_get_start(env->store[2], "object", &liar.second.place, NULL, &task));
	assert_is_named(task, "member-1");
	assert_int_equal(progress_of(task).held, 0);
	/* A good seed comes: the fetch ends well, though the liar still claims everything. */
	bytes_fill(&liar.good, 1);
	open_store(env, 3);
	must(mc_p2p_register(env->store[3], "object", &liar.good.place, &liar.small, NULL));
	must(mc_p2p_task_wait(task, -1));
	bytes_alike(&liar.good, &liar.second);
	must(mc_p2p_task_free(task));
	must(mc_p2p_task_wait(lying, -1));
	must(mc_p2p_task_free(lying));
}

static void test_a_member_that_serves_other_bytes_is_avoided(void **state)
{
	struct env *env = *state;
	mc_p2p_task *task;

	open_liar(env);
	env->store[1]->hooks.corrupt = true;
	must(mc_p2p_get(env->store[1], "object", &liar.first.place, NULL));
	assert_memory_not_equal(liar.first.range[0].addr, liar.good.range[0].addr, one_size[0]);
	/* Beside a good source it costs a piece or two. */
	must(mc_p2p_get(env->store[2], "object", &liar.second.place, NULL));
	bytes_alike(&liar.good, &liar.second);
	must(mc_p2p_delete_replica(env->store[2], "object"));
	/* Alone it gets nobody anywhere, and is named. */
	must(mc_p2p_unregister(env->store[0], "object"));
	must(mc_p2p_get_start(env->store[2], "object", &liar.second.place, NULL, &task));
	assert_is_named(task, "member-1");
	assert_int_equal(progress_of(task).held, 0);
	must(mc_p2p_register(env->store[0], "object", &liar.good.place, &liar.small, NULL));
	must(mc_p2p_task_wait(task, -1));
	bytes_alike(&liar.good, &liar.second);
	must(mc_p2p_task_free(task));
}

static void test_without_the_check_wrong_bytes_would_come(void **state)
{
	struct env *env = *state;

	open_liar(env);
	env->store[1]->hooks.corrupt = true;
	env->store[2]->hooks.no_check = true;
	must(mc_p2p_get(env->store[1], "object", &liar.first.place, NULL));
	must(mc_p2p_unregister(env->store[0], "object"));
	must(mc_p2p_get(env->store[2], "object", &liar.second.place, NULL));
	assert_memory_not_equal(liar.good.range[0].addr, liar.second.range[0].addr, one_size[0]);
}

/* ---- members that say nothing ---- */

static void say(struct mci_sock *sock, enum mci_p2p_type type, uint8_t *body, uint32_t length)
{
	must(mci_frame_send(sock, (uint16_t)type, 0, body, length, mci_now_ns() + MCI_NS_PER_S));
	free(body);
}

/* A member of the swarm of @object, as @store, that takes a slot and says no more. */
static void take_a_slot(mc_p2p *store, const uint8_t root[MCI_P2P_HASH], struct mci_sock *sock)
{
	uint64_t deadline = mci_now_ns() + 10 * MCI_NS_PER_S;
	const uint64_t offset = 0;
	const uint32_t region = 0;
	struct mci_hello hello;
	uint32_t length, id;
	uint16_t type;
	uint8_t *body;
	void *answer;

	must(mci_engine_dial(store->engine, "member-0", MCI_ROLE_P2P, deadline, sock, &hello));
	body = mci_p2p_put_join(root, 0, mc_p2p_name(store), &region, &offset, 1, &length);
	say(sock, MCI_P2P_JOIN, body, length);
	body = mci_p2p_put_number(root, 1, &length);
	say(sock, MCI_P2P_INTEREST, body, length);
	do {
		must(mci_frame_recv(sock, MCI_P2P_FRAME_MAX, &type, &id, &answer, &length, NULL, deadline));
		free(answer);
	} while (type != MCI_P2P_GRANT);
}

static void test_who_keeps_slots_that_others_wait_for_is_left(void **state)
{
	struct mc_p2p_register_attr small = small_pieces();
	char text[MC_P2P_ROOT_TEXT];
	uint8_t root[MCI_P2P_HASH];
	struct env *env = *state;
	struct mci_sock sock[2];
	struct bytes from, to;
	mc_p2p_task *task;

	env->slots = 2;
	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	open_store(env, 0)->hooks.patience_ms = 500;
	must(mc_p2p_register(env->store[0], "object", &from.place, &small, text));
	must(mci_root_parse(text, root));
	take_a_slot(open_store(env, 1), root, &sock[0]);
	take_a_slot(open_store(env, 2), root, &sock[1]);
	must(mc_p2p_get_start(open_store(env, 3), "object", &to.place, NULL, &task));
	until(done(task));
	must(mc_p2p_task_wait(task, 0));
	bytes_alike(&from, &to);
	must(mc_p2p_task_free(task));
	mci_sock_close(&sock[0]);
	mci_sock_close(&sock[1]);
}

struct mute {
	struct mci_sock sock;
	bool taken;
};

static void wait_mute(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	struct mute *mute = arg;

	(void)hello;
	if (error)
		return;
	mute->sock = sock;
	__atomic_store_n(&mute->taken, true, __ATOMIC_RELEASE);
}

static void be_mute(void *arg, struct mci_incoming *in) { mci_incoming_accept(in, NULL, 0, wait_mute, arg); }

/* It takes the connection, and never says a word: it is left, and dialled again later. */
static void test_who_does_not_answer_is_left(void **state)
{
	static struct mute mute;
	struct mc_p2p_register_attr small = small_pieces();
	struct env *env = *state;
	struct bytes from, to;
	mc_p2p_task *task;
	mc_p2p *seed;

	bytes_alloc(&from, one_size, 1);
	bytes_alloc(&to, one_size, 1);
	bytes_fill(&from, 1);
	seed = open_store(env, 0);
	open_store(env, 1)->hooks.patience_ms = 500;
	must(mc_p2p_register(seed, "object", &from.place, &small, NULL));
	must(mci_engine_role(seed->engine, MCI_ROLE_P2P, NULL, NULL));
	must(mci_engine_role(seed->engine, MCI_ROLE_P2P, be_mute, &mute));
	must(mc_p2p_get_start(env->store[1], "object", &to.place, NULL, &task));
	until(__atomic_load_n(&mute.taken, __ATOMIC_ACQUIRE));
	must(mci_engine_role(seed->engine, MCI_ROLE_P2P, NULL, NULL));
	must(mci_engine_role(seed->engine, MCI_ROLE_P2P, mci_link_incoming, seed));
	until(done(task));
	must(mc_p2p_task_wait(task, 0));
	bytes_alike(&from, &to);
	must(mc_p2p_task_free(task));
	mci_sock_close(&mute.sock);
}

/* ---- records ---- */

static int decode(mc_engine *engine, const char *name, const char *text)
{
	struct mci_found found;
	int ret = mci_record_decode(engine, name, text, strlen(text), &found);

	if (!ret)
		mci_manifest_free(found.manifest);
	return ret;
}

static void test_a_record_is_read_as_it_was_written_and_nothing_else_is(void **state)
{
	const uint64_t sizes[] = {5000, 1};
	struct env *env = *state;
	mc_engine *engine = open_store(env, 0)->engine;
	struct mci_manifest *manifest;
	struct mci_found found;
	char *text, *copy;
	size_t i;

	must(mci_manifest_new(sizes, 2, 4096, &manifest));
	mci_manifest_seal(manifest);
	must(mci_record_encode(engine, "foo/bar", manifest, 1 << 20, &text));
	must(mci_record_decode(engine, "foo/bar", text, strlen(text), &found));
	assert_memory_equal(found.manifest->root, manifest->root, MCI_P2P_HASH);
	assert_int_equal(found.manifest->range_count, 2);
	assert_int_equal(found.max_shard_size, 1 << 20);
	mci_manifest_free(found.manifest);
	assert_int_equal(decode(engine, "foo/other", text), -EBADMSG);
	assert_int_equal(decode(engine, "foo/bar", "{}"), -EBADMSG);
	assert_int_equal(decode(engine, "foo/bar", "no json"), -EBADMSG);
	/* Cut anywhere it is no record. */
	for (i = 0; i < strlen(text); i++) {
		copy = strndup(text, i);
		assert_int_equal(decode(engine, "foo/bar", copy), -EBADMSG);
		free(copy);
	}
	free(text);
	mci_manifest_free(manifest);
}

static void test_with_a_key_a_record_is_signed(void **state)
{
	const uint64_t sizes[] = {5000};
	struct env *env = *state;
	struct mci_manifest *manifest;
	char key[96], other[96], *text, *plain, *digit;

	snprintf(key, sizeof(key), "%s/key", env->folder);
	snprintf(other, sizeof(other), "%s/other", env->folder);
	must(mc_key_create(key));
	must(mc_key_create(other));
	must(open_as(env, "keyed", key, &env->store[0]));
	must(open_as(env, "other", other, &env->store[1]));
	must(open_as(env, "plain", NULL, &env->store[2]));
	must(mci_manifest_new(sizes, 1, 4096, &manifest));
	mci_manifest_seal(manifest);
	must(mci_record_encode(env->store[0]->engine, "signed", manifest, 0, &text));
	must(mci_record_encode(env->store[2]->engine, "signed", manifest, 0, &plain));
	assert_int_equal(decode(env->store[0]->engine, "signed", text), 0);
	assert_error(decode(env->store[1]->engine, "signed", text), -EKEYREJECTED, "another key");
	assert_error(decode(env->store[0]->engine, "signed", plain), -EKEYREJECTED, "without one");
	/* One digit of the root changed by hand. */
	digit = strstr(text, "\"root\":\"") + 8;
	*digit = *digit == 'a' ? 'b' : 'a';
	assert_error(decode(env->store[0]->engine, "signed", text), -EKEYREJECTED, "signed");
	free(text);
	free(plain);
	mci_manifest_free(manifest);
}

/* A record of a classic store may have lost all who held a shard. */
static void test_a_classic_shard_that_nobody_holds_is_told(void **state)
{
	struct env *env = *state;
	struct bytes to;

	env->flags = MC_ENGINE_CLASSIC;
	bytes_alloc(&to, one_size, 1);
	open_store(env, 0);
	must(mci_metadata_store(env->store[0]->metadata, "mooncake/checkpoint/empty",
				"{\"name\":\"empty\",\"size\":1048576,\"size_list\":[1048576],"
				"\"max_shard_size\":1048576,"
				"\"shards\":[{\"size\":1048576,\"gold\":null,\"replica_list\":[]}]}"));
	assert_error(mc_p2p_get(env->store[0], "empty", &to.place, NULL), -ENODATA, "held by nobody");
}

/* ---- the engine's seam ---- */

static void ignore(void *arg, struct mci_incoming *in)
{
	(void)arg;
	mci_incoming_reject(in, -EBUSY, "not now");
}

static void test_a_role_has_one_handler_and_none_answers_with_a_sentence(void **state)
{
	struct env *env = *state;
	mc_p2p *store = open_store(env, 0), *other = open_store(env, 1);
	uint64_t deadline = mci_now_ns() + 5000 * MCI_NS_PER_MS;
	struct mci_hello hello;
	struct mci_sock sock;

	assert_error(mci_engine_role(store->engine, MCI_ROLE_P2P, ignore, NULL), -EEXIST, "somebody else");
	must(mci_engine_dial(other->engine, "member-0", MCI_ROLE_P2P, deadline, &sock, &hello));
	assert_string_equal(hello.peer.name, "member-0");
	assert_memory_equal(&hello.peer.uuid, &store->uuid, sizeof(store->uuid));
	mci_sock_close(&sock);
	must(mci_engine_role(store->engine, MCI_ROLE_P2P, NULL, NULL));
	assert_error(mci_engine_dial(other->engine, "member-0", MCI_ROLE_P2P, deadline, &sock, &hello),
		     -EPROTO, "nobody here serves");
	must(mci_engine_role(store->engine, MCI_ROLE_P2P, ignore, NULL));
	assert_error(mci_engine_dial(other->engine, "member-0", MCI_ROLE_P2P, deadline, &sock, &hello),
		     -EBUSY, "not now");
	assert_error(mci_engine_dial(other->engine, "nobody", MCI_ROLE_P2P, deadline, &sock, &hello), -ENOENT,
		     "nobody");
}

#define WITH(name)                                         \
	{                                                  \
#name, name, env_setup, env_teardown, &env \
	}

int main(int argc, char **argv)
{
	static struct env env = {.transports = "tcp"};
	const struct CMUnitTest tests[] = {
		WITH(test_a_forged_map_deceives_nobody_for_long),
		WITH(test_a_member_that_serves_other_bytes_is_avoided),
		WITH(test_without_the_check_wrong_bytes_would_come),
		WITH(test_who_keeps_slots_that_others_wait_for_is_left),
		WITH(test_who_does_not_answer_is_left),
		WITH(test_a_record_is_read_as_it_was_written_and_nothing_else_is),
		WITH(test_with_a_key_a_record_is_signed),
		WITH(test_a_classic_shard_that_nobody_holds_is_told),
		WITH(test_a_role_has_one_handler_and_none_answers_with_a_sentence),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
