// SPDX-License-Identifier: MIT
/* The store: opening and closing it, registering and giving back objects. What an object does is in object.c.
 */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SLOTS 16u
#define WINDOW 16u
#define CALLERS 4u
#define MAX_SHARD_SIZE (64ull << 20)

struct call {
	int (*fn)(void *arg);
	void *arg;
	int ret;
	char why[MCI_P2P_SENTENCE];
};

static void run_call(void *arg)
{
	struct call *call = arg;

	call->ret = call->fn(call->arg);
	if (call->ret)
		snprintf(call->why, sizeof(call->why), "%s", mc_errmsg());
}

int mci_store_call(struct mc_p2p *store, int (*fn)(void *arg), void *arg)
{
	struct call call = {.fn = fn, .arg = arg};

	mci_loop_call(store->loop, run_call, &call);
	if (call.ret)
		mci_errmsg_set(call.why);
	return call.ret;
}

static int check_attr(const struct mc_p2p_attr *attr)
{
	if (attr->size != sizeof(*attr) || attr->flags)
		return mci_fail(
			-EINVAL,
			"struct mc_p2p_attr has a size or a flag that this library does not know; use "
			"MC_P2P_ATTR_INIT, and build against the headers of this library");
	if (attr->slots > MCI_P2P_SLOTS_MAX || attr->window > 4096 || attr->hash_threads > 256)
		return mci_fail(-EINVAL,
				"slots (%u) and window (%u) are at most 4096, hash_threads (%u) at most 256",
				attr->slots, attr->window, attr->hash_threads);
	return 0;
}

static int keep_peers(struct mc_p2p *store, const char *list)
{
	char *copy, *word, *save = NULL;

	if (!list || !*list)
		return 0;
	copy = strdup(list);
	store->peers = calloc(strlen(list) + 1, sizeof(*store->peers));
	if (!copy || !store->peers)
		goto err_free;
	for (word = strtok_r(copy, ", ", &save); word; word = strtok_r(NULL, ", ", &save)) {
		store->peers[store->peer_count] = strdup(word);
		if (!store->peers[store->peer_count])
			goto err_free;
		store->peer_count++;
	}
	free(copy);
	return 0;

err_free:
	free(copy);
	return mci_fail(-ENOMEM, "no memory for the list of peers");
}

static uint32_t hash_threads(uint32_t given)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return given ? given : cores < 1 ? 1 : cores > 4 ? 4 : (uint32_t)cores;
}

static struct mc_p2p *create(const struct mc_p2p_attr *attr)
{
	struct mc_p2p *store = calloc(1, sizeof(*store));
	pthread_condattr_t monotonic;

	if (!store)
		return NULL;
	store->slots = attr->slots ? attr->slots : SLOTS;
	store->window = attr->window ? attr->window : WINDOW;
	store->hash_threads = hash_threads(attr->hash_threads);
	store->completions.fd = -1;
	store->changed.fn = mci_member_on_changed;
	TAILQ_INIT(&store->objects);
	pthread_mutex_init(&store->lock, NULL);
	pthread_mutex_init(&store->regions_lock, NULL);
	pthread_mutex_init(&store->watch_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&store->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return store;
}

static void destroy(struct mc_p2p *store)
{
	struct mci_read *read;

	if (store->engine)
		mci_engine_role(store->engine, MCI_ROLE_P2P, NULL, NULL);
	mci_directory_close(store);
	mci_pool_stop(store->clerk);
	mci_pool_stop(store->callers);
	mci_pool_stop(store->hashers);
	mci_loop_stop(store->loop);
	while ((read = LIST_FIRST(&store->spare))) {
		LIST_REMOVE(read, next);
		mc_batch_free(read->batch);
		free(read);
	}
	if (store->engine && mc_engine_close(store->engine))
		mci_error("the engine of a P2P store stays open: %s", mc_errmsg());
	while (store->peer_count)
		free(store->peers[--store->peer_count]);
	free(store->peers);
	pthread_cond_destroy(&store->wake);
	pthread_mutex_destroy(&store->watch_lock);
	pthread_mutex_destroy(&store->regions_lock);
	pthread_mutex_destroy(&store->lock);
	free(store);
}

static int start(struct mc_p2p *store, const struct mc_p2p_attr *attr)
{
	struct mc_engine_attr defaults = MC_ENGINE_ATTR_INIT;
	int ret;

	ret = keep_peers(store, attr->peers);
	store->classic = attr->engine && attr->engine->flags & MC_ENGINE_CLASSIC;
	if (!ret)
		ret = mc_engine_open(attr->engine ? attr->engine : &defaults, &store->engine);
	if (!ret)
		ret = mc_engine_uuid(store->engine, &store->uuid);
	if (!ret)
		ret = mci_loop_start("mooncake-p2p", &store->loop);
	if (!ret)
		ret = mci_pool_start("mooncake-hash", store->hash_threads, &store->hashers);
	if (!ret)
		ret = mci_pool_start("mooncake-call", CALLERS, &store->callers);
	if (!ret)
		ret = mci_pool_start("mooncake-clerk", 1, &store->clerk);
	if (ret)
		return ret;
	store->completions.fn = mci_fetch_completions;
	store->completions.fd = mc_engine_fd(store->engine);
	if (store->completions.fd < 0)
		return store->completions.fd;
	ret = mci_loop_add(store->loop, &store->completions, EPOLLIN);
	if (!ret)
		ret = mci_directory_open(store);
	if (!ret)
		ret = mci_engine_role(store->engine, MCI_ROLE_P2P, mci_link_incoming, store);
	return ret;
}

/**
 * mc_p2p_open() - take part in the exchange of objects
 * @attr: how; NULL = all defaults
 * @out: the store; mc_p2p_close() it
 *
 * Opens an engine of its own. The calls on a store are thread-safe, but for mc_p2p_close(). Blocks at most
 * about 5 s.
 *
 * Return: 0; -EINVAL: attributes; errors of mc_engine_open() and of the metadata service; -EMFILE; -ENOMEM.
 */
int mc_p2p_open(const struct mc_p2p_attr *attr, mc_p2p **out)
{
	struct mc_p2p_attr defaults = MC_P2P_ATTR_INIT;
	struct mc_p2p *store;
	int ret;

	mci_log_init();
	if (!attr)
		attr = &defaults;
	ret = check_attr(attr);
	if (ret)
		return ret;
	store = create(attr);
	if (!store)
		return mci_fail(-ENOMEM, "no memory for a P2P store");
	ret = start(store, attr);
	if (ret) {
		char why[MCI_P2P_SENTENCE];

		snprintf(why, sizeof(why), "%s", mc_errmsg());
		destroy(store);
		mci_errmsg_set(why);
		return ret;
	}
	*out = store;
	return 0;
}

static int begin_closing(void *arg)
{
	struct mc_p2p *store = arg;
	struct mci_object *object;
	struct mci_link *link;

	store->closing = true;
	TAILQ_FOREACH(object, &store->objects, next)
		mci_object_begin_leave(object);
	LIST_FOREACH(link, &store->strangers, next_stranger)
		mci_link_close(link, "the store closes");
	return 0;
}

/**
 * mc_p2p_close() - leave
 * @store: NULL is fine
 *
 * Fetches that run are cancelled; their tasks stay to be freed. Objects are given back as by
 * mc_p2p_unregister() and mc_p2p_delete_replica(): who is being served is served to the end, for at most 10
 * s. No other call may be running on the store. Blocks for that, and for calls to peers or to the metadata
 * service that are under way (some seconds).
 *
 * Return: 0; -ECHILD after fork().
 */
int mc_p2p_close(mc_p2p *store)
{
	struct mci_object *object;
	int ret;

	if (!store)
		return 0;
	ret = mci_engine_check(store->engine);
	if (ret)
		return ret;
	mci_watcher_stop(store);
	mci_task_end_all(store);
	mci_engine_role(store->engine, MCI_ROLE_P2P, NULL, NULL);
	pthread_mutex_lock(&store->lock);
	while (store->accepting)
		pthread_cond_wait(&store->wake, &store->lock);
	pthread_mutex_unlock(&store->lock);
	mci_store_call(store, begin_closing, store);
	while ((object = TAILQ_FIRST(&store->objects)))
		mci_object_leave(object);
	pthread_mutex_lock(&store->lock);
	while (store->stranger_count)
		pthread_cond_wait(&store->wake, &store->lock);
	pthread_mutex_unlock(&store->lock);
	destroy(store);
	return 0;
}

/** mc_p2p_name() - the name of its segment. */
const char *mc_p2p_name(const mc_p2p *store) { return mc_engine_name(store->engine); }

static int check_register(const struct mc_p2p_register_attr *attr)
{
	uint64_t piece = attr->piece_size;

	if (attr->size != sizeof(*attr) || (attr->flags & ~MC_P2P_FORCE) || attr->reserved0)
		return mci_fail(
			-EINVAL,
			"struct mc_p2p_register_attr has a size, a flag or a reserved member that this "
			"library does not know; use MC_P2P_REGISTER_ATTR_INIT");
	if (piece && (piece < MCI_P2P_PIECE_MIN || piece > MCI_P2P_PIECE_MAX || piece & (piece - 1)))
		return mci_fail(-EINVAL, "a piece size is a power of two from 4 KiB to 4 MiB, not %llu",
				(unsigned long long)piece);
	if (attr->max_shard_size > INT64_MAX) /* nobody could read the record */
		return mci_fail(-EINVAL, "max_shard_size is less than 2^63, not %llu",
				(unsigned long long)attr->max_shard_size);
	return 0;
}

/* From the place to an object that others can fetch. */
static int publish(struct mci_object *object, const struct mc_p2p_place *place,
		   const struct mc_p2p_register_attr *attr)
{
	uint64_t *sizes, bytes = 0;
	uint32_t i;
	int ret;

	ret = mci_place_source(object->store, place, &object->place);
	if (ret)
		return ret;
	sizes = calloc(object->place.count, sizeof(*sizes));
	if (!sizes)
		return mci_fail(-ENOMEM, "no memory for %u sizes", object->place.count);
	for (i = 0; i < object->place.count; i++) {
		sizes[i] = object->place.range[i].length;
		bytes += sizes[i];
	}
	ret = mci_manifest_new(sizes, object->place.count,
			       attr->piece_size ? attr->piece_size : mci_manifest_piece_size(bytes),
			       &object->manifest);
	free(sizes);
	if (!ret)
		ret = mci_object_hash(object, NULL, NULL);
	if (ret)
		return ret;
	mci_manifest_seal(object->manifest);
	ret = mci_object_no_twin(object);
	if (!ret)
		ret = mci_place_register(&object->place, place->location);
	/* The member key first: who finds the name taken looks whether a member of it lives. */
	if (!ret)
		ret = mci_directory_publish(object);
	if (!ret)
		ret = mci_directory_write(object, attr->flags & MC_P2P_FORCE);
	if (!ret)
		ret = mci_object_live(object, NULL);
	if (!ret)
		mci_p2p_classic_share(object);
	return ret;
}

/**
 * mc_p2p_register() - offer an object to others
 * @store: store
 * @name: 1 to 255 bytes, no control character, no '@'
 * @place: its bytes; they stay where and as they are until mc_p2p_unregister()
 * @attr: NULL for the defaults
 * @root: out: what names this content for sure; may be NULL
 *
 * Hashes all of it, which takes about a second per gigabyte and thread. Where the same content is registered
 * under that name already this process becomes one more seed of it.
 *
 * Return: 0; -EINVAL: name, place, attributes, overlapping ranges (-EEXIST); -EEXIST: this store has that
 * name, or that content under another name; or a living process registered other content under it (see
 * MC_P2P_FORCE); errors of the metadata service; -ENOENT, -EACCES: file; -ENOMEM; -ECHILD.
 */
int mc_p2p_register(mc_p2p *store, const char *name, const struct mc_p2p_place *place,
		    const struct mc_p2p_register_attr *attr, char root[MC_P2P_ROOT_TEXT])
{
	struct mc_p2p_register_attr defaults = MC_P2P_REGISTER_ATTR_INIT;
	struct mci_object *object;
	char plain[MCI_P2P_NAME_MAX + 1], why[MCI_P2P_SENTENCE];
	uint8_t unused[MCI_P2P_HASH];
	bool by_root;
	int ret;

	ret = mci_engine_check(store->engine);
	if (ret)
		return ret;
	if (!attr)
		attr = &defaults;
	ret = check_register(attr);
	if (!ret)
		ret = mci_object_name(name, plain, unused, &by_root);
	if (!ret && by_root)
		ret = mci_fail(
			-EINVAL,
			"'%s' cannot be registered: the root follows from the content; give the name alone",
			name);
	if (!ret)
		ret = mci_object_reserve(store, plain, true, &object);
	if (ret)
		return ret;
	object->max_shard_size = attr->max_shard_size ? attr->max_shard_size : MAX_SHARD_SIZE;
	ret = publish(object, place, attr);
	if (ret) {
		snprintf(why, sizeof(why), "%s", mc_errmsg());
		mci_object_leave(object);
		mci_errmsg_set(why);
		return ret;
	}
	if (root)
		mci_root_text(object->manifest->root, root);
	return 0;
}

struct taking {
	struct mc_p2p *store;
	const char *name;
	bool seed;
	struct mci_object *object;
};

static int take_away(void *arg)
{
	struct taking *taking = arg;
	struct mci_object *object = mci_object_by_name(taking->store, taking->name);

	if (!object || object->state == MCI_OBJECT_LEAVING)
		return mci_fail(-ENOENT, "this store has no object '%s'", taking->name);
	if (object->seed != taking->seed)
		return mci_fail(-EINVAL,
				taking->seed ? "'%s' was fetched here, not registered; use delete_replica"
					     : "'%s' was registered here, not fetched; use unregister",
				taking->name);
	if (object->task)
		return mci_fail(-EBUSY, "'%s' is still being fetched; cancel that, or wait for it",
				taking->name);
	if (object->state == MCI_OBJECT_STARTING)
		return mci_fail(-EBUSY, "'%s' is still being registered; wait for that", taking->name);
	mci_object_begin_leave(object);
	taking->object = object;
	return 0;
}

static int give_back(struct mc_p2p *store, const char *name, bool seed)
{
	struct taking taking = {.store = store, .name = name, .seed = seed};
	int ret;

	ret = mci_engine_check(store->engine);
	if (ret)
		return ret;
	if (!name)
		return mci_fail(-EINVAL, "an object has a name");
	ret = mci_store_call(store, take_away, &taking);
	if (ret)
		return ret;
	if (!mci_object_leave(taking.object))
		return 0;
	return mci_fail(-EIO,
			"'%s' is not offered any more, but somebody does not let go of its memory, which must "
			"stay mapped as long as this process lives; the log says who",
			name);
}

/**
 * mc_p2p_unregister() - take an object back that was registered here
 *
 * Stops serving it; waits, at most 10 s, for those who are reading. When it returned the memory is the
 * caller's alone. The name goes with its last member. An own entry in a metadata service that does not answer
 * ends with its lease.
 *
 * Return: 0; -ENOENT; -EINVAL: it was fetched; -EBUSY: still being registered; -EIO: taken back, but a NIC, or a
 * process of this host that stands still, does not let go of the memory, which must stay mapped; -ECHILD.
 */
int mc_p2p_unregister(mc_p2p *store, const char *name) { return give_back(store, name, true); }

/**
 * mc_p2p_delete_replica() - stop serving an object that was fetched
 *
 * As mc_p2p_unregister(). The bytes stay where they are.
 *
 * Return: 0; -ENOENT; -EINVAL: it was registered; -EBUSY: still being fetched; -EIO: as there; -ECHILD.
 */
int mc_p2p_delete_replica(mc_p2p *store, const char *name) { return give_back(store, name, false); }

/**
 * mc_p2p_remove() - remove the record of an object that nobody holds any more
 * @store: store
 * @name: object, whoever registered it
 * @flags: 0, or MC_P2P_FORCE: also if living members hold it; they keep what they have, and serve each other. Those
 * that registered it take it for lost, and write it again when a member comes or goes: end them first
 *
 * The last member that leaves takes the record along; this is for when all of them died.
 *
 * Return: 0; -ENOENT; -EBUSY: a living member holds it; -EOPNOTSUPP: there is no metadata service; its errors; -EINVAL;
 * -ECHILD. Any thread; blocks.
 */
int mc_p2p_remove(mc_p2p *store, const char *name, uint32_t flags)
{
	char plain[MCI_P2P_NAME_MAX + 1];
	uint8_t root[MCI_P2P_HASH];
	bool by_root;
	int ret;

	ret = mci_engine_check(store->engine);
	if (!ret)
		ret = mci_object_name(name, plain, root, &by_root);
	if (ret)
		return ret;
	if (flags & ~MC_P2P_FORCE)
		return mci_fail(-EINVAL, "unknown flags 0x%x for removing '%s'", flags & ~MC_P2P_FORCE, plain);
	if (!store->metadata)
		return mci_fail(-EOPNOTSUPP, "there is no metadata service, so there is no record of '%s'", plain);
	return mci_directory_remove(store, plain, flags & MC_P2P_FORCE);
}
