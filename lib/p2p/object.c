// SPDX-License-Identifier: MIT
/* The life of an object in a store: its name is taken, its bytes are hashed, it lives, it leaves. */
#include "p2p/p2p.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"

#define PIECES_PER_TURN 16u

int mci_object_name(const char *text, char name[MCI_P2P_NAME_MAX + 1], uint8_t root[MCI_P2P_HASH],
		    bool *by_root)
{
	const char *at = text ? strrchr(text, '@') : NULL, *p;
	char plain[MCI_P2P_NAME_MAX + 1];
	size_t n = text ? (at ? (size_t)(at - text) : strlen(text)) : 0;

	if (!n || n > MCI_P2P_NAME_MAX)
		return mci_fail(-EINVAL, "the name of an object has 1 to %u bytes, not %zu as '%.80s'",
				MCI_P2P_NAME_MAX, n, mci_plain_text(text ? text : "", plain, sizeof(plain)));
	memcpy(name, text, n);
	name[n] = '\0';
	for (p = name; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '@')
			return mci_fail(-EINVAL,
					"the name of an object has no '@' and no control characters, but '%s' does",
					mci_plain_text(name, plain, sizeof(plain)));
	*by_root = at;
	if (at && mci_root_parse(at + 1, root))
		return mci_fail(-EINVAL,
				"'%s' does not end with a root: 64 hexadecimal digits behind the '@'", text);
	return 0;
}

struct mci_object *mci_object_by_root(struct mc_p2p *store, const uint8_t root[MCI_P2P_HASH])
{
	struct mci_object *object;

	TAILQ_FOREACH(object, &store->objects, next)
		if (object->state == MCI_OBJECT_LIVE && !memcmp(object->manifest->root, root, MCI_P2P_HASH))
			return object;
	return NULL;
}

struct mci_object *mci_object_by_name(struct mc_p2p *store, const char *name)
{
	struct mci_object *object;

	TAILQ_FOREACH(object, &store->objects, next)
		if (!strcmp(object->name, name))
			return object;
	return NULL;
}

void mci_object_note(struct mci_object *object, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(object->note, sizeof(object->note), fmt, args);
	va_end(args);
	if (object->task)
		mci_task_poke(object->task);
}

struct reserving {
	struct mc_p2p *store;
	const char *name;
	bool seed;
	struct mci_object *object;
};

static int reserve(void *arg)
{
	struct reserving *reserving = arg;
	struct mc_p2p *store = reserving->store;
	struct mci_object *object = mci_object_by_name(store, reserving->name);

	if (object)
		return mci_fail(
			reserving->seed ? -EEXIST : -EALREADY,
			"this store has the object '%s' already (%s); %s it first, or use another name",
			object->name,
			object->seed	? "registered"
			: object->whole ? "fetched"
					: "being fetched",
			object->seed ? "unregister" : "delete the replica of");
	object = calloc(1, sizeof(*object));
	if (!object)
		return mci_fail(-ENOMEM, "no memory for one more object");
	object->store = store;
	object->seed = reserving->seed;
	object->place.fd = -1;
	object->place.store = store;
	snprintf(object->name, sizeof(object->name), "%s", reserving->name);
	object->number = ++store->numbers;
	TAILQ_INIT(&object->links);
	TAILQ_INIT(&object->members);
	TAILQ_INSERT_TAIL(&store->objects, object, next);
	reserving->object = object;
	return 0;
}

int mci_object_reserve(struct mc_p2p *store, const char *name, bool seed, struct mci_object **object)
{
	struct reserving reserving = {.store = store, .name = name, .seed = seed};
	int ret = mci_store_call(store, reserve, &reserving);

	*object = reserving.object;
	return ret;
}

static int look_for_twin(void *arg)
{
	struct mci_object *object = arg, *other;

	TAILQ_FOREACH(other, &object->store->objects, next)
		if (other != object && other->known &&
		    !memcmp(other->manifest->root, object->manifest->root, MCI_P2P_HASH))
			return mci_fail(-EEXIST,
					"this store has the content of '%s' already, under the name '%s'",
					object->name, other->name);
	object->known = true;
	return 0;
}

int mci_object_no_twin(struct mci_object *object)
{
	return mci_store_call(object->store, look_for_twin, object);
}

/* ---- hashing ---- */

struct hashing {
	struct mci_object *object;
	uint8_t *found;
	const struct mc_p2p_task *task;
	_Atomic uint32_t next;
	pthread_mutex_t lock;
	pthread_cond_t done;
	unsigned int running;
};

struct hasher {
	struct mci_job job;
	struct hashing *all;
};

static bool matches(const struct mci_manifest *manifest, uint32_t i, const void *p, uint32_t length)
{
	uint8_t hash[MCI_P2P_HASH];

	mci_piece_hash(p, length, hash);
	return !memcmp(hash, manifest->hash[i], MCI_P2P_HASH);
}

static void hash_one(struct hashing *all, uint32_t i)
{
	struct mci_object *object = all->object;
	struct mci_manifest *manifest = object->manifest;
	const struct mci_place *place = &object->place;
	struct mci_piece piece = mci_manifest_piece(manifest, i);
	uint8_t *at = mci_place_at(place, piece);

	if (!all->found) {
		mci_piece_hash(at, piece.length, manifest->hash[i]);
		return;
	}
	all->found[i] = matches(manifest, i, at, piece.length);
	if (all->found[i] || !place->old || piece.offset + piece.length > place->old_length)
		return;
	if (matches(manifest, i, (uint8_t *)place->old + piece.offset, piece.length)) {
		memcpy(at, (uint8_t *)place->old + piece.offset, piece.length);
		/* The old file may change under us. */
		all->found[i] = matches(manifest, i, at, piece.length);
	}
}

/* Some pieces, then others have their turn. */
static void hash_some(struct mci_job *job)
{
	struct hasher *hasher = (struct hasher *)job;
	struct hashing *all = hasher->all;
	uint32_t pieces = all->object->manifest->piece_count, i = 0, n;

	for (n = 0; n < PIECES_PER_TURN && i < pieces; n++) {
		i = all->task && mci_task_over(all->task) ? pieces : atomic_fetch_add(&all->next, 1);
		if (i < pieces)
			hash_one(all, i);
	}
	if (i < pieces) {
		mci_pool_add(job->pool, job);
		return;
	}
	pthread_mutex_lock(&all->lock);
	if (!--all->running)
		pthread_cond_signal(&all->done);
	pthread_mutex_unlock(&all->lock);
}

int mci_object_hash(struct mci_object *object, uint8_t *found, const struct mc_p2p_task *task)
{
	struct mc_p2p *store = object->store;
	struct hashing all = {.object = object, .found = found, .task = task, .running = store->hash_threads};
	struct hasher *hashers = calloc(store->hash_threads, sizeof(*hashers));
	unsigned int i;

	if (!hashers)
		return mci_fail(-ENOMEM, "no memory to hash '%s'", object->name);
	pthread_mutex_init(&all.lock, NULL);
	pthread_cond_init(&all.done, NULL);
	for (i = 0; i < store->hash_threads; i++) {
		hashers[i] = (struct hasher){.job.run = hash_some, .all = &all};
		mci_pool_add(store->hashers, &hashers[i].job);
	}
	pthread_mutex_lock(&all.lock);
	while (all.running)
		pthread_cond_wait(&all.done, &all.lock);
	pthread_mutex_unlock(&all.lock);
	pthread_cond_destroy(&all.done);
	pthread_mutex_destroy(&all.lock);
	free(hashers);
	return task ? mci_task_over(task) : 0;
}

/* ---- living ---- */

struct living {
	struct mci_object *object;
	const uint8_t *held;
};

static int live(void *arg)
{
	struct living *living = arg;
	struct mci_object *object = living->object;
	struct mci_swarm_attr attr = {
		.pieces = object->manifest->piece_count,
		.self = object->store->uuid,
		.slots = object->store->slots,
		.window = object->store->window,
		.seed = object->seed,
	};
	unsigned int i;
	int ret;

	mci_random(&attr.random, sizeof(attr.random));
	ret = mci_swarm_new(&attr, &object->swarm);
	if (ret)
		return mci_fail(ret, "no memory for the %u pieces of '%s'", attr.pieces, object->name);
	ret = mci_fetch_open(object);
	if (ret)
		return ret;
	for (i = 0; !object->seed && i < attr.pieces; i++) {
		if (!living->held[i])
			continue;
		mci_swarm_have(object->swarm, i);
		object->reused += mci_manifest_piece(object->manifest, i).length;
	}
	object->held = object->seed ? object->manifest->bytes : object->reused;
	object->start_ns = mci_now_ns();
	object->state = MCI_OBJECT_LIVE;
	if (object->task && mci_swarm_complete(object->swarm)) {
		object->end_ns = object->start_ns;
		mci_task_complete(object->task);
	}
	if (!object->store->metadata)
		for (i = 0; i < object->store->peer_count; i++) {
			struct mci_member *member = mci_member_add(object, object->store->peers[i]);

			if (member)
				member->fixed = true;
		}
	mci_member_refresh(object);
	mci_member_dial(object);
	mci_fetch_kick(object);
	return 0;
}

int mci_object_live(struct mci_object *object, const uint8_t *held)
{
	struct living living = {.object = object, .held = held};

	return mci_store_call(object->store, live, &living);
}

/* ---- leaving ---- */

void mci_object_begin_leave(struct mci_object *object)
{
	struct mci_link *link;

	if (object->state == MCI_OBJECT_LEAVING)
		return;
	object->leave_ns = mci_now_ns() + MCI_P2P_DRAIN_MS * MCI_NS_PER_MS;
	object->state = MCI_OBJECT_LEAVING;
	mci_loop_timer_clear(object->store->loop, &object->dial);
	if (object->swarm) {
		mci_swarm_drain(object->swarm);
		TAILQ_FOREACH(link, &object->links, next) {
			mci_link_number(link, MCI_P2P_LEAVE, 0);
			if (link->swarm)
				mci_swarm_peer_leaving(object->swarm, link->swarm); /* nothing more from it */
			mci_fetch_cancel(link);
		}
		mci_fetch_kick(object);
	}
	mci_object_check(object);
}

static int begin_leave(void *arg)
{
	mci_object_begin_leave(arg);
	return 0;
}

static bool in_flight(const struct mci_object *object)
{
	const struct mci_link *link;

	TAILQ_FOREACH(link, &object->links, next)
		if (link->read_count)
			return true;
	return false;
}

void mci_object_check(struct mci_object *object)
{
	struct mc_p2p *store = object->store;

	if (object->state != MCI_OBJECT_LEAVING)
		return;
	pthread_mutex_lock(&store->lock);
	object->settled = !object->swarm || (!mci_swarm_given(object->swarm) && !in_flight(object));
	object->gone = TAILQ_EMPTY(&object->links) && !object->jobs;
	pthread_cond_broadcast(&store->wake);
	pthread_mutex_unlock(&store->lock);
}

static int close_links(void *arg)
{
	struct mci_object *object = arg;
	struct mci_link *link, *next;

	for (link = TAILQ_FIRST(&object->links); link; link = next) {
		next = TAILQ_NEXT(link, next);
		mci_link_close(link, NULL);
	}
	mci_object_check(object);
	return 0;
}

static int forget(void *arg)
{
	struct mci_object *object = arg;

	mci_fetch_close(object);
	mci_member_free_all(object);
	TAILQ_REMOVE(&object->store->objects, object, next);
	return 0;
}

int mci_object_leave(struct mci_object *object)
{
	struct mc_p2p *store = object->store;
	struct timespec until;
	int ret;

	if (object->member_key)
		mci_p2p_classic_unshare(object);
	mci_store_call(store, begin_leave, object);
	until.tv_sec = (time_t)(object->leave_ns / MCI_NS_PER_S);
	until.tv_nsec = (long)(object->leave_ns % MCI_NS_PER_S);
	pthread_mutex_lock(&store->lock);
	while (!object->settled && !pthread_cond_timedwait(&store->wake, &store->lock, &until))
		;
	pthread_mutex_unlock(&store->lock);
	mci_store_call(store, close_links, object);
	pthread_mutex_lock(&store->lock);
	while (!object->gone)
		pthread_cond_wait(&store->wake, &store->lock);
	pthread_mutex_unlock(&store->lock);
	ret = mci_place_close(&object->place);
	mci_directory_leave(object);
	mci_store_call(store, forget, object);
	mci_parts_close(&object->parts);
	mci_manifest_free(object->manifest);
	free(object->member_key);
	free(object);
	return ret;
}
