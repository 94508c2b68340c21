// SPDX-License-Identifier: MIT
/*
 * The P2P store through its public interface, over TCP and over shared memory, with a metadata service and without one:
 * what is registered arrives, bit for bit; what is wrong is said.
 */
#include "api/p2p_env.h"

static const uint64_t odd_sizes[] = {1, 4095, 4096, 4097, 1000003, 8192, 77};
#define ODD (sizeof(odd_sizes) / sizeof(odd_sizes[0]))

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
	bytes_free(&from);
	bytes_free(&to);
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

	failed += run_all("tcp", false, only);
	failed += run_all("shm", false, only);
	failed += run_all("tcp", true, only);
	return failed;
}
