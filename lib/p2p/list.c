// SPDX-License-Identifier: MIT
/* What objects there are, and the news that this changed. Threads of callers, and one of the watch. */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"
#include "p2p/classic.h"
#include "p2p/record.h"

struct entry {
	struct mc_p2p_object object;
	uint64_t *sizes;
};

struct list {
	struct mc_p2p *store;
	const char *prefix;
	struct entry *entry;
	unsigned int count, room;
	int ret;
};

static struct entry *add(struct list *list)
{
	unsigned int room = list->room ? list->room * 2 : 16;
	struct entry *bigger;

	if (list->count == list->room) {
		bigger = realloc(list->entry, room * sizeof(*bigger));
		if (!bigger)
			return NULL;
		list->entry = bigger;
		list->room = room;
	}
	memset(&list->entry[list->count], 0, sizeof(list->entry[0]));
	return &list->entry[list->count++];
}

static int no_memory(void) { return mci_fail(-ENOMEM, "no memory to list objects"); }

static int describe(struct list *list, const char *name, const struct mci_manifest *manifest,
		    uint64_t max_shard_size)
{
	struct entry *entry = add(list);
	struct mc_p2p_object *object = entry ? &entry->object : NULL;

	if (!object)
		return no_memory();
	entry->sizes = calloc(manifest->range_count, sizeof(*entry->sizes));
	if (!entry->sizes)
		return no_memory();
	memcpy(entry->sizes, manifest->ranges, manifest->range_count * sizeof(*entry->sizes));
	object->size = sizeof(*object);
	snprintf(object->name, sizeof(object->name), "%s", name);
	mci_root_text(manifest->root, object->root);
	object->bytes = manifest->bytes;
	object->piece_size = manifest->piece_size;
	object->max_shard_size = max_shard_size;
	object->size_list = entry->sizes;
	object->size_count = manifest->range_count;
	return 0;
}

static int on_record(const char *key, const struct mci_metadata_value *value, void *arg)
{
	struct list *list = arg;
	char name[MCI_P2P_NAME_MAX + 1];
	struct mci_found found = {0};

	if (mci_record_name(value->text, value->length, name) ||
	    mci_record_decode(list->store->engine, name, value->text, value->length, &found)) {
		mci_warn("the record '%s' is left out: %s", key, mc_errmsg());
		return 0;
	}
	list->ret = describe(list, name, found.manifest, found.max_shard_size);
	mci_manifest_free(found.manifest);
	return list->ret;
}

static int on_member(const struct mci_seen *seen, void *arg)
{
	struct list *list = arg;
	unsigned int i;

	for (i = 0; i < list->count; i++) {
		struct mc_p2p_object *object = &list->entry[i].object;

		if (strcmp(seen->root, object->root) || strcmp(seen->object, object->name))
			continue;
		object->members++;
		object->seeds += seen->seed;
		object->holders += seen->whole;
	}
	return 0;
}

/* Beside ours, or the only record there is. */
static int on_classic(const struct mci_classic_record *record, void *arg)
{
	struct list *list = arg;
	struct mc_p2p_object *object;
	struct entry *entry;
	unsigned int i;

	for (i = 0; i < list->count; i++)
		if (!strcmp(list->entry[i].object.name, record->name)) {
			list->entry[i].object.classic = 1;
			return 0;
		}
	entry = add(list);
	if (!entry)
		return no_memory();
	entry->sizes = calloc(record->size_count, sizeof(*entry->sizes));
	if (!entry->sizes)
		return no_memory();
	memcpy(entry->sizes, record->size_list, record->size_count * sizeof(*entry->sizes));
	object = &entry->object;
	object->size = sizeof(*object);
	snprintf(object->name, sizeof(object->name), "%s", record->name);
	object->bytes = record->bytes;
	object->max_shard_size = record->max_shard_size;
	object->size_list = entry->sizes;
	object->size_count = record->size_count;
	object->classic = 1;
	return 0;
}

static int read_all(struct list *list)
{
	char prefix[MCI_ENGINE_KEY_MAX];
	int ret;

	ret = mci_engine_key(list->store->engine, "p2p/object/", list->prefix, prefix);
	if (!ret)
		ret = mci_metadata_list(list->store->metadata, prefix, on_record, list);
	if (list->ret < 0)
		return list->ret;
	if (ret >= 0)
		ret = mci_directory_members(list->store, "", on_member, list);
	if (ret >= 0 && list->store->classic)
		ret = mci_p2p_classic_each(list->store, list->prefix, on_classic, list);
	return ret;
}

/* Without a metadata service: what this store has. */
static int own(void *arg)
{
	struct list *list = arg;
	const struct mci_object *object;
	int ret = 0;

	TAILQ_FOREACH(object, &list->store->objects, next)
		if (object->known && !ret && !strncmp(object->name, list->prefix, strlen(list->prefix)))
			ret = describe(list, object->name, object->manifest, object->max_shard_size);
	return ret;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->object.name, ((const struct entry *)b)->object.name);
}

/**
 * mc_p2p_list() - registered objects
 * @store: store
 * @prefix: of their names; NULL or "" = all
 * @fn: called for each, in order of names; nonzero ends the list
 * @arg: for @fn
 *
 * Of the whole cluster; without a metadata service, of this store alone. Blocks for the metadata service.
 *
 * Return: 0, or what @fn returned; -EOPNOTSUPP: the metadata server cannot list; its other errors; -ENOMEM;
 * -ECHILD.
 */
int mc_p2p_list(mc_p2p *store, const char *prefix, int (*fn)(const struct mc_p2p_object *object, void *arg),
		void *arg)
{
	struct list list = {.store = store, .prefix = prefix ? prefix : ""};
	unsigned int i;
	int ret;

	ret = mci_engine_check(store->engine);
	if (!ret)
		ret = store->metadata ? read_all(&list) : mci_store_call(store, own, &list);
	if (list.count)
		qsort(list.entry, list.count, sizeof(list.entry[0]), by_name);
	for (i = 0; i < list.count && !ret; i++)
		ret = fn(&list.entry[i].object, arg);
	for (i = 0; i < list.count; i++)
		free(list.entry[i].sizes);
	free(list.entry);
	return ret;
}

/* ---- watch ---- */

struct mci_p2p_watcher {
	struct mci_metadata *metadata; /* a watch of its own, on records; members have the store's */
	struct mci_pool *thread;
	struct mci_job job;
	_Atomic bool posted;
	void (*fn)(void *arg);
	void *arg;
};

static void notice(struct mci_job *job)
{
	struct mci_p2p_watcher *watcher = mci_of(job, struct mci_p2p_watcher, job);

	atomic_store(&watcher->posted, false);
	watcher->fn(watcher->arg);
}

static void poke(void *arg)
{
	struct mci_p2p_watcher *watcher = arg;

	if (!atomic_exchange(&watcher->posted, true))
		mci_pool_add(watcher->thread, &watcher->job);
}

/* From the watch of members, which ends before the store does. */
void mci_watcher_poke(struct mc_p2p *store)
{
	pthread_mutex_lock(&store->watch_lock);
	if (store->watcher)
		poke(store->watcher);
	pthread_mutex_unlock(&store->watch_lock);
}

static void end_watcher(struct mci_p2p_watcher *watcher)
{
	if (!watcher)
		return;
	mci_metadata_close(watcher->metadata);
	mci_pool_stop(watcher->thread);
	free(watcher);
}

void mci_watcher_stop(struct mc_p2p *store)
{
	struct mci_p2p_watcher *watcher;

	pthread_mutex_lock(&store->watch_lock);
	watcher = store->watcher;
	store->watcher = NULL;
	pthread_mutex_unlock(&store->watch_lock);
	end_watcher(watcher);
}

static int start_watcher(struct mc_p2p *store, const char *prefix, void (*fn)(void *arg), void *arg,
			 struct mci_p2p_watcher **out)
{
	struct mci_p2p_watcher *watcher = calloc(1, sizeof(*watcher));
	char key[MCI_ENGINE_KEY_MAX], why[MCI_P2P_SENTENCE];
	int ret;

	if (!watcher)
		return mci_fail(-ENOMEM, "no memory for a watch");
	watcher->fn = fn;
	watcher->arg = arg;
	watcher->job.run = notice;
	ret = mci_pool_start("mooncake-watch", 1, &watcher->thread);
	if (!ret)
		ret = mci_engine_key(store->engine, "p2p/object/", prefix, key);
	if (!ret)
		ret = mci_engine_metadata(store->engine, &watcher->metadata);
	if (!ret)
		ret = mci_metadata_watch(watcher->metadata, key, poke, watcher);
	if (ret) {
		snprintf(why, sizeof(why), "%s", mc_errmsg());
		end_watcher(watcher);
		mci_errmsg_set(why);
		return ret;
	}
	poke(watcher);
	*out = watcher;
	return 0;
}

/**
 * mc_p2p_watch() - be told that objects or members changed
 * @store: store
 * @prefix: of the names of objects; NULL or "" = all
 * @fn: called soon after a change, and once at the start; several changes may be one call, and it may come
 * without a change. In a thread of its own, without a lock: it may call mc_p2p_list(). NULL ends the watch
 * and waits for a running @fn; not from @fn
 * @arg: for @fn
 *
 * One watch per store: a new one takes the place of the old.
 *
 * Return: 0; -EOPNOTSUPP: there is no metadata service that could tell; its errors; -ENOMEM; -ECHILD.
 */
int mc_p2p_watch(mc_p2p *store, const char *prefix, void (*fn)(void *arg), void *arg)
{
	struct mci_p2p_watcher *watcher = NULL, *other;
	int ret;

	ret = mci_engine_check(store->engine);
	if (ret)
		return ret;
	if (fn && !store->metadata)
		return mci_fail(-EOPNOTSUPP,
				"without a metadata service nobody tells which objects there are");
	mci_watcher_stop(store);
	if (!fn)
		return 0;
	ret = start_watcher(store, prefix ? prefix : "", fn, arg, &watcher);
	if (ret)
		return ret;
	pthread_mutex_lock(&store->watch_lock);
	other = store->watcher; /* of a call at the same time */
	store->watcher = watcher;
	pthread_mutex_unlock(&store->watch_lock);
	end_watcher(other);
	return 0;
}
