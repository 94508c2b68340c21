/* SPDX-License-Identifier: MIT */
/* For the tests of the P2P store: a metadata service, or none; stores by number; memory with a pattern. */
#ifndef P2P_ENV_H
#define P2P_ENV_H

#include "api/pair.h"
#include "metadata_etcd.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MEMBERS_MAX 16

enum service { SERVICE_OURS, SERVICE_ETCD, SERVICE_NONE };
static const char *const service_name[] = {"our metadata server", "etcd", "no metadata service"};

struct env {
	const char *transports;
	enum service service;
	bool handshake; /* P2PHANDSHAKE: no metadata service */
	uint32_t lease_ms;
	mc_metadata_server *server;
	uint16_t port;
	char uri[64], folder[64];
	mc_p2p *store[MEMBERS_MAX];
	char peers[MEMBERS_MAX * 32];
	uint32_t slots, flags; /* of engines */
	struct test_etcd etcd;
};

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void nap(void)
{
	struct timespec t = {.tv_nsec = 5000000};

	nanosleep(&t, NULL);
}

/* Wait for a state; what never comes fails the test. */
#define until(condition)                                                          \
	do {                                                                      \
		uint64_t until_end_ = now_ms() + 60000;                           \
		while (!(condition)) {                                            \
			if (now_ms() > until_end_)                                \
				fail_msg("this never came true: %s", #condition); \
			nap();                                                    \
		}                                                                 \
	} while (0)

static inline void assert_sentence(const char *word)
{
	if (!strstr(mc_errmsg(), word))
		fail_msg("\"%s\" should name '%s'", mc_errmsg(), word);
}

#define assert_error(expression, error, word)                                                        \
	do {                                                                                         \
		int error_ret_ = (expression);                                                       \
		if (error_ret_ != (error))                                                           \
			fail_msg("%s: %d instead of %d (%s)", #expression, error_ret_, (int)(error), \
				 mc_errmsg());                                                       \
		assert_sentence(word);                                                               \
	} while (0)

static inline int open_as(struct env *env, const char *name, const char *key_file, mc_p2p **store)
{
	struct mc_engine_attr engine = MC_ENGINE_ATTR_INIT;
	struct mc_p2p_attr attr = MC_P2P_ATTR_INIT;

	engine.metadata = env->handshake ? "P2PHANDSHAKE" : env->uri;
	engine.name = name;
	engine.transports = env->transports;
	engine.lease_ms = env->lease_ms;
	engine.key_file = key_file;
	engine.io_threads = 1;
	engine.flags = env->flags;
	attr.engine = &engine;
	attr.hash_threads = 2;
	attr.slots = env->slots;
	attr.peers = env->handshake ? env->peers : NULL;
	return mc_p2p_open(&attr, store);
}

/* Store number @i. Without a metadata service it knows those that were opened before. */
static inline mc_p2p *open_store(struct env *env, unsigned int i)
{
	char name[32];

	snprintf(name, sizeof(name), "member-%u", i);
	must(open_as(env, env->handshake ? NULL : name, NULL, &env->store[i]));
	if (env->handshake) {
		size_t n = strlen(env->peers);

		snprintf(env->peers + n, sizeof(env->peers) - n, "%s%s", n ? "," : "",
			 mc_p2p_name(env->store[i]));
	}
	return env->store[i];
}

static inline void close_store(struct env *env, unsigned int i)
{
	must(mc_p2p_close(env->store[i]));
	env->store[i] = NULL;
}

static inline void serve_metadata(struct env *env)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;

	attr.port = env->port;
	must(mc_metadata_server_open(&attr, &env->server));
	env->port = mc_metadata_server_port(env->server);
	snprintf(env->uri, sizeof(env->uri), "http://127.0.0.1:%u/metadata", env->port);
}

#define KEPT_MAX 1024
static void *kept[KEPT_MAX];
static unsigned int kept_count;

static inline void env_open(struct env *env)
{
	snprintf(env->folder, sizeof(env->folder), "/tmp/mooncake-p2p-XXXXXX");
	assert_non_null(mkdtemp(env->folder));
	if (!env->lease_ms)
		env->lease_ms = 2000;
	env->handshake = env->service == SERVICE_NONE;
	if (env->service == SERVICE_OURS)
		serve_metadata(env);
	if (env->service != SERVICE_ETCD)
		return;
	test_etcd_init(&env->etcd, env->folder, "etcd");
	assert_true(test_etcd_start(&env->etcd));
	assert_true(test_etcd_ready(&env->etcd));
	snprintf(env->uri, sizeof(env->uri), "etcd://127.0.0.1:%u", env->etcd.port);
}

static inline void env_close(struct env *env)
{
	char command[96];
	unsigned int i;

	for (i = 0; i < MEMBERS_MAX; i++)
		if (env->store[i])
			must(mc_p2p_close(env->store[i]));
	while (kept_count)
		free(kept[--kept_count]);
	if (env->server)
		must(mc_metadata_server_close(env->server));
	if (env->etcd.pid)
		test_kill(&env->etcd.pid);
	snprintf(command, sizeof(command), "rm -r %s", env->folder);
	assert_int_equal(system(command), 0);
}

/* ---- objects ---- */

static const uint64_t one_size[] = {1 << 20}; /* 256 pieces of 4 KiB */

struct bytes {
	struct mc_p2p_range range[64];
	struct mc_p2p_place place;
	uint64_t total;
};

static inline void bytes_own(struct bytes *bytes, const uint64_t *sizes, unsigned int count)
{
	unsigned int i;

	*bytes = (struct bytes){.place = MC_P2P_PLACE_INIT};
	for (i = 0; i < count; i++) {
		bytes->range[i].length = sizes[i];
		bytes->range[i].addr = malloc(sizes[i]);
		assert_non_null(bytes->range[i].addr);
		memset(bytes->range[i].addr, 0, sizes[i]);
		bytes->total += sizes[i];
	}
	bytes->place.ranges = bytes->range;
	bytes->place.count = count;
}

/* Lives until the stores are closed. */
static inline void bytes_alloc(struct bytes *bytes, const uint64_t *sizes, unsigned int count)
{
	unsigned int i;

	bytes_own(bytes, sizes, count);
	for (i = 0; i < count; i++) {
		assert_true(kept_count < KEPT_MAX);
		kept[kept_count++] = bytes->range[i].addr;
	}
}

/* No two pieces are alike. */
static inline void bytes_fill(struct bytes *bytes, uint64_t seed)
{
	uint64_t x = seed * 2654435761u + 1;
	unsigned int i;
	uint64_t j;

	for (i = 0; i < bytes->place.count; i++) {
		uint8_t *p = bytes->range[i].addr;

		for (j = 0; j < bytes->range[i].length; j++) {
			if (!(j % 8))
				x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			p[j] = (uint8_t)(x >> (j % 8 * 8));
		}
	}
}

static inline void bytes_free(struct bytes *bytes)
{
	unsigned int i;

	for (i = 0; i < bytes->place.count; i++)
		free(bytes->range[i].addr);
}

static inline void bytes_alike(const struct bytes *a, const struct bytes *b)
{
	unsigned int i;

	for (i = 0; i < a->place.count; i++)
		if (memcmp(a->range[i].addr, b->range[i].addr, a->range[i].length))
			fail_msg("range %u differs", i);
}

static inline struct mc_p2p_register_attr small_pieces(void)
{
	struct mc_p2p_register_attr attr = MC_P2P_REGISTER_ATTR_INIT;

	attr.piece_size = 4096;
	return attr;
}

static inline struct mc_p2p_progress progress_of(mc_p2p_task *task)
{
	struct mc_p2p_progress progress = {.size = sizeof(progress)};

	must(mc_p2p_task_progress(task, &progress));
	return progress;
}

static inline bool done(mc_p2p_task *task) { return mc_p2p_task_wait(task, 0) != -ETIME; }

/* ---- lists ---- */

struct seen {
	unsigned int count, seeds, holders, members;
	char names[256];
	struct mc_p2p_object last;
	uint64_t sizes[8];
};

static inline int see(const struct mc_p2p_object *object, void *arg)
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

static inline struct seen list(mc_p2p *store, const char *prefix)
{
	struct seen seen = {0};

	must(mc_p2p_list(store, prefix, see, &seen));
	return seen;
}

/* ---- progress ---- */

struct told {
	mc_p2p_task *task;
	unsigned int calls;
	bool cancel;
	struct mc_p2p_progress last;
};

static inline void tell(const struct mc_p2p_progress *progress, void *arg)
{
	struct told *told = arg;

	told->calls++;
	told->last = *progress;
	if (told->cancel && progress->bad_pieces >= 2)
		mc_p2p_task_cancel(__atomic_load_n(&told->task, __ATOMIC_ACQUIRE));
}

/* ---- frame ---- */

static inline int env_setup(void **state)
{
	env_open(*state);
	return 0;
}

static inline int env_teardown(void **state)
{
	struct env *env = *state, clean = {.transports = env->transports, .service = env->service};

	env_close(env);
	*env = clean;
	return 0;
}

#endif
