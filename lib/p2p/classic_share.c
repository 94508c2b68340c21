// SPDX-License-Identifier: MIT
/*
 * Objects in the eyes of classic clients, under classic only: the derived record under
 * mooncake/checkpoint/NAME, our locations in it and out of it by compare-and-swap, and what such records tell
 * us. Everything blocks.
 */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "p2p/classic.h"

#define ATTEMPTS 16

static void record_key(const char *name, char key[MCI_ENGINE_KEY_MAX])
{
	snprintf(key, MCI_ENGINE_KEY_MAX, MCI_P2P_CLASSIC_PREFIX "%s", name);
}

int mci_p2p_classic_read(struct mc_p2p *store, const char *name, struct mci_classic_record **record,
			 uint64_t *version)
{
	struct mci_metadata_value value;
	char key[MCI_ENGINE_KEY_MAX];
	int ret;

	*record = NULL;
	record_key(name, key);
	ret = mci_metadata_fetch(store->metadata, key, &value);
	if (ret)
		return ret;
	*version = value.version;
	ret = mci_classic_parse(value.text, value.length, record);
	free(value.text);
	return ret;
}

static int fresh_record(const struct mci_object *object, struct mci_classic_record **record)
{
	const struct mci_manifest *manifest = object->manifest;

	return mci_classic_new(object->name, manifest->ranges, manifest->range_count, object->max_shard_size,
			       record);
}

/* A record of other content than ours is not touched. */
static bool same_layout(const struct mci_object *object, const struct mci_classic_record *record)
{
	const struct mci_manifest *manifest = object->manifest;

	return record->size_count == manifest->range_count && record->bytes == manifest->bytes &&
	       !memcmp(record->size_list, manifest->ranges,
		       manifest->range_count * sizeof(*record->size_list));
}

/* Our locations go in, or out; @record becomes what is to be stored. */
static int change(struct mci_object *object, struct mci_classic_record *record, bool in)
{
	const char *segment = mc_engine_name(object->store->engine);
	uint64_t *addresses;
	uint32_t i;
	int ret;

	if (!in)
		return mci_classic_remove(record, segment) ? 0 : -ENOENT;
	addresses = calloc(object->place.count, sizeof(*addresses));
	if (!addresses)
		return mci_fail(-ENOMEM, "no memory for the classic record of '%s'", object->name);
	for (i = 0; i < object->place.count; i++)
		addresses[i] = (uint64_t)(uintptr_t)object->place.range[i].addr;
	ret = mci_classic_add(record, segment, addresses, object->seed);
	free(addresses);
	return ret;
}

static int store_record(struct mci_object *object, const struct mci_classic_record *record, const char *key,
			uint64_t version)
{
	char *text;
	int ret;

	if (mci_classic_nobody(record))
		return version ? mci_metadata_drop(object->store->metadata, key, version) : 0;
	text = mci_classic_text(record);
	if (!text)
		return mci_fail(-ENOMEM, "no memory for the classic record of '%s'", object->name);
	if (strlen(text) > MCI_P2P_CLASSIC_MAX)
		ret = mci_fail(-E2BIG,
			       "it would have %zu bytes, more than %u; take larger shards (max_shard_size)",
			       strlen(text), MCI_P2P_CLASSIC_MAX);
	else
		ret = mci_metadata_swap(object->store->metadata, key, text, version);
	free(text);
	return ret;
}

static int update(struct mci_object *object, bool in)
{
	struct mci_classic_record *record;
	char key[MCI_ENGINE_KEY_MAX];
	uint64_t version = 0;
	int ret, i;

	record_key(object->name, key);
	for (i = 0; i < ATTEMPTS; i++) {
		ret = mci_p2p_classic_read(object->store, object->name, &record, &version);
		if (ret == -ENOENT) {
			version = 0;
			ret = in ? fresh_record(object, &record) : -ENOENT;
		} else if (!ret && !same_layout(object, record)) {
			ret = in ? mci_fail(-EEXIST, "a classic record of other content has that name")
				 : -ENOENT;
		}
		if (!ret)
			ret = change(object, record, in);
		if (!ret)
			ret = store_record(object, record, key, version);
		mci_classic_free(record);
		if (ret != -ESTALE)
			return ret == -ENOENT ? 0 : ret;
	}
	return mci_fail(-EAGAIN, "others change it all the time");
}

void mci_p2p_classic_share(struct mci_object *object)
{
	if (object->store->classic && object->store->metadata && update(object, true))
		mci_warn("classic clients do not find object '%s' here: %s", object->name, mc_errmsg());
}

void mci_p2p_classic_unshare(struct mci_object *object)
{
	if (object->store->classic && object->store->metadata && update(object, false))
		mci_warn("the classic record of object '%s' may still name this process: %s", object->name,
			 mc_errmsg());
}

struct each {
	int (*fn)(const struct mci_classic_record *record, void *arg);
	void *arg;
	int ret;
};

static int on_record(const char *key, const struct mci_metadata_value *value, void *arg)
{
	struct mci_classic_record *record;
	struct each *each = arg;

	if (mci_classic_parse(value->text, value->length, &record)) {
		mci_warn("the classic record '%s' is left out: %s", key, mc_errmsg());
		return 0;
	}
	each->ret = each->fn(record, each->arg);
	mci_classic_free(record);
	return each->ret;
}

int mci_p2p_classic_each(struct mc_p2p *store, const char *prefix,
			 int (*fn)(const struct mci_classic_record *record, void *arg), void *arg)
{
	struct each each = {.fn = fn, .arg = arg};
	char key[MCI_ENGINE_KEY_MAX];
	int ret;

	record_key(prefix, key);
	ret = mci_metadata_list(store->metadata, key, on_record, &each);
	return each.ret < 0 ? each.ret : ret < 0 ? ret : 0;
}
