// SPDX-License-Identifier: MIT
/*
 * Records, manifests and members in the metadata service (docs/p2p.md). Everything blocks; threads of
 * callers, of fetches, of the pools. Nobody removes an entry of another.
 */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"
#include "p2p/record.h"

#define ATTEMPTS 8

static int object_key(struct mc_p2p *store, const char *name, char key[MCI_ENGINE_KEY_MAX])
{
	return mci_engine_key(store->engine, "p2p/object/", name, key);
}

static int chunk_key(struct mc_p2p *store, const char *root, uint32_t index, char key[MCI_ENGINE_KEY_MAX])
{
	char name[2 * MCI_P2P_HASH + 16];

	snprintf(name, sizeof(name), "%s/%u", root, index);
	return mci_engine_key(store->engine, "p2p/manifest/", name, key);
}

int mci_directory_open(struct mc_p2p *store)
{
	char prefix[MCI_ENGINE_KEY_MAX];
	int ret;

	ret = mci_engine_metadata(store->engine, &store->metadata);
	if (ret || !store->metadata)
		return ret;
	ret = mci_engine_key(store->engine, "p2p/member/", "", prefix);
	if (ret)
		return ret;
	store->member_prefix = strdup(prefix);
	if (!store->member_prefix)
		return mci_fail(-ENOMEM, "no memory for the name of a key");
	return mci_metadata_watch(store->metadata, prefix, mci_member_changed, store);
}

void mci_directory_close(struct mc_p2p *store)
{
	if (store->metadata)
		mci_metadata_close(store->metadata);
	store->metadata = NULL;
	free(store->member_prefix);
	store->member_prefix = NULL;
}

/* ---- reading ---- */

int mci_directory_read_layout(struct mc_p2p *store, const char *name, struct mci_found *found,
			      uint64_t *version)
{
	struct mci_metadata_value value;
	char key[MCI_ENGINE_KEY_MAX];
	int ret;

	ret = object_key(store, name, key);
	if (ret)
		return ret;
	ret = mci_metadata_fetch(store->metadata, key, &value);
	if (ret == -ENOENT)
		return mci_fail(ret,
				"no object '%s' is registered in the metadata service %s; is the name right, "
				"and was it "
				"registered there? (list shows what there is)",
				name, mci_engine_service(store->engine));
	if (ret)
		return ret;
	*version = value.version;
	ret = mci_record_decode(store->engine, name, value.text, value.length, found);
	free(value.text);
	return ret;
}

static int read_chunks(const struct mc_p2p_task *task, struct mci_manifest *manifest)
{
	struct mc_p2p *store = task->store;
	char root[2 * MCI_P2P_HASH + 1], key[MCI_ENGINE_KEY_MAX];
	uint32_t i, count = mci_manifest_chunks(manifest);
	struct mci_metadata_value value;
	uint8_t wanted[MCI_P2P_HASH];
	int ret = 0;

	memcpy(wanted, manifest->root, sizeof(wanted));
	mci_root_text(wanted, root);
	for (i = 0; i < count && !ret; i++) {
		ret = mci_task_over(task);
		if (!ret)
			ret = chunk_key(store, root, i, key);
		if (!ret)
			ret = mci_metadata_fetch(store->metadata, key, &value);
		if (ret == -ENOENT)
			return mci_fail(
				ret,
				"part %u of %u of the hashes of object '%s' is not in the metadata service; "
				"it was removed, or is being registered: try again",
				i + 1, count, task->name);
		if (ret)
			break;
		ret = mci_manifest_take_chunk(manifest, i, value.text, value.length);
		free(value.text);
	}
	return ret ? ret : mci_manifest_check(manifest, wanted);
}

int mci_directory_read(const struct mc_p2p_task *task, struct mci_found *found)
{
	char theirs[2 * MCI_P2P_HASH + 1];
	uint64_t version;
	int ret;

	if (!task->store->metadata)
		return mci_ask_read(task, found);
	ret = mci_directory_read_layout(task->store, task->name, found, &version);
	if (ret)
		return ret;
	if (task->by_root && memcmp(task->root, found->manifest->root, MCI_P2P_HASH)) {
		mci_root_text(found->manifest->root, theirs);
		ret = mci_fail(
			-ENOENT,
			"object '%s' is registered with other content than the one asked for: its root is %s",
			task->name, theirs);
	} else {
		ret = read_chunks(task, found->manifest);
	}
	if (ret) {
		mci_manifest_free(found->manifest);
		found->manifest = NULL;
	}
	return ret;
}

struct listing {
	struct mc_p2p *store;
	int (*fn)(const struct mci_seen *seen, void *arg);
	void *arg;
	int ret;
};

static int on_member(const char *key, const struct mci_metadata_value *value, void *arg)
{
	struct listing *listing = arg;
	struct mci_seen seen;

	if (mci_seen_decode(key + strlen(listing->store->member_prefix), value->text, value->length, &seen)) {
		mci_info("the metadata key '%s' describes no member, and is ignored", key);
		return 0;
	}
	listing->ret = listing->fn(&seen, listing->arg);
	return listing->ret;
}

int mci_directory_members(struct mc_p2p *store, const char *root,
			  int (*fn)(const struct mci_seen *seen, void *arg), void *arg)
{
	struct listing listing = {.store = store, .fn = fn, .arg = arg};
	char prefix[MCI_ENGINE_KEY_MAX];
	int ret;

	if (snprintf(prefix, sizeof(prefix), "%s%s%s", store->member_prefix, root, *root ? "/" : "") >=
	    (int)sizeof(prefix))
		return mci_fail(-EINVAL, "the name of a metadata key would be too long");
	ret = mci_metadata_list(store->metadata, prefix, on_member, &listing);
	return listing.ret < 0 ? listing.ret : ret < 0 ? ret : 0;
}

/* ---- who else is there ---- */

struct count {
	const struct mci_object *self;
	const char *name;
	struct mci_seen one; /* of those who have it under @name */
	unsigned int named, named_seeds, all, seeds;
};

static int count_member(const struct mci_seen *seen, void *arg)
{
	struct count *count = arg;

	if (count->self && mci_uuid_equal(&seen->uuid, &count->self->store->uuid) &&
	    !strcmp(seen->object, count->self->name))
		return 0;
	count->all++;
	count->seeds += seen->seed;
	if (strcmp(seen->object, count->name))
		return 0;
	count->named++;
	count->named_seeds += seen->seed;
	count->one = *seen;
	return 0;
}

static int count_others(struct mci_object *object, const char *root, struct count *count)
{
	*count = (struct count){.self = object, .name = object->name};
	return mci_directory_members(object->store, root, count_member, count);
}

static void remove_chunks(struct mc_p2p *store, const char *root, uint32_t chunks)
{
	char key[MCI_ENGINE_KEY_MAX];
	uint32_t i;

	for (i = 0; i < chunks; i++)
		if (!chunk_key(store, root, i, key))
			mci_metadata_remove(store->metadata, key);
}

/* ---- writing ---- */

static int write_chunks(struct mci_object *object, const char *root)
{
	uint32_t i, count = mci_manifest_chunks(object->manifest);
	char key[MCI_ENGINE_KEY_MAX], *text;
	int ret = 0;

	for (i = 0; i < count && !ret; i++) {
		ret = chunk_key(object->store, root, i, key);
		if (ret)
			break;
		text = mci_manifest_chunk(object->manifest, i);
		ret = text ? mci_metadata_store(object->store->metadata, key, text)
			   : mci_fail(-ENOMEM, "no memory for the hashes of '%s'", object->name);
		free(text);
	}
	return ret;
}

/* Other content is under the name: may it be replaced? Tells its root and chunks. */
static int may_replace(struct mci_object *object, const struct mci_found *old, bool force)
{
	char root[2 * MCI_P2P_HASH + 1], holder[MCI_NAME_MAX + 1];
	struct count count;
	int ret;

	mci_root_text(old->manifest->root, root);
	if (force)
		return 0;
	ret = count_others(object, root, &count);
	if (ret)
		return ret;
	if (!count.named)
		return 0;
	return mci_fail(-EEXIST,
			"the name '%s' is taken: '%s' and %u others hold other content under it; use another "
			"name, end "
			"those members, or take it by force (MC_P2P_FORCE, --force)",
			object->name, mci_plain_text(count.one.segment, holder, sizeof(holder)),
			count.named - 1);
}

static void drop_old(struct mci_object *object, const struct mci_found *old)
{
	char root[2 * MCI_P2P_HASH + 1];
	struct count count;

	mci_root_text(old->manifest->root, root);
	if (!count_others(object, root, &count) && !count.all)
		remove_chunks(object->store, root, mci_manifest_chunks(old->manifest));
}

/* One round of compare-and-swap. -ESTALE: somebody was faster. */
static int write_record(struct mci_object *object, const char *key, const char *text, bool force)
{
	struct mci_found old = {0};
	uint64_t version = 0;
	bool same;
	int ret;

	ret = mci_directory_read_layout(object->store, object->name, &old, &version);
	if (ret == -ENOENT)
		return mci_metadata_swap(object->store->metadata, key, text, 0);
	/* What cannot be read is nobody's we know of. */
	if ((ret == -EBADMSG || ret == -EKEYREJECTED) && force)
		return mci_metadata_swap(object->store->metadata, key, text, version);
	if (ret)
		return ret;
	same = !memcmp(old.manifest->root, object->manifest->root, MCI_P2P_HASH);
	if (!same) {
		ret = may_replace(object, &old, force);
		if (!ret)
			ret = mci_metadata_swap(object->store->metadata, key, text, version);
		if (!ret)
			drop_old(object, &old);
	}
	mci_manifest_free(old.manifest);
	return ret;
}

int mci_directory_write(struct mci_object *object, bool force)
{
	char root[2 * MCI_P2P_HASH + 1], key[MCI_ENGINE_KEY_MAX], *text;
	int ret, i;

	if (!object->store->metadata)
		return 0;
	mci_root_text(object->manifest->root, root);
	ret = object_key(object->store, object->name, key);
	if (!ret)
		ret = write_chunks(object, root);
	if (!ret)
		ret = mci_record_encode(object->store->engine, object->name, object->manifest,
					object->max_shard_size, &text);
	if (ret)
		return ret;
	for (i = 0; i < ATTEMPTS; i++) {
		ret = write_record(object, key, text, force);
		if (ret != -ESTALE)
			break;
	}
	free(text);
	if (ret == -ESTALE)
		ret = mci_fail(-EEXIST, "the name '%s' is being taken by others at this moment; try again",
			       object->name);
	return ret;
}

void mci_directory_restore(struct mci_object *object)
{
	struct mci_found found = {0};
	uint64_t version;
	int ret = mci_directory_read_layout(object->store, object->name, &found, &version);

	mci_manifest_free(found.manifest);
	if (!ret && object->whole &&
	    !atomic_load(&object->told)) /* the service did not answer at the end of the fetch */
		mci_directory_publish(object);
	if (ret != -ENOENT)
		return;
	ret = mci_directory_write(object, false);
	if (ret)
		mci_warn("the record of object '%s' vanished, and cannot be written again: %s", object->name,
			 mc_errmsg());
	else
		mci_info("the record of object '%s' vanished, and was written again", object->name);
}

int mci_directory_publish(struct mci_object *object)
{
	struct mc_p2p *store = object->store;
	struct mci_seen self = {
		.uuid = store->uuid, .seed = object->seed, .whole = object->seed || object->whole};
	char name[2 * MCI_P2P_HASH + MCI_UUID_TEXT + 32], key[MCI_ENGINE_KEY_MAX], uuid[MCI_UUID_TEXT], *text;
	int ret;

	if (!store->metadata)
		return 0;
	mci_root_text(object->manifest->root, self.root);
	mci_uuid_text(&store->uuid, uuid);
	snprintf(self.segment, sizeof(self.segment), "%s", mc_engine_name(store->engine));
	snprintf(self.object, sizeof(self.object), "%s", object->name);
	snprintf(name, sizeof(name), "%s/%s.%llu", self.root, uuid, (unsigned long long)object->number);
	ret = mci_engine_key(store->engine, "p2p/member/", name, key);
	if (ret)
		return ret;
	if (!object->member_key)
		object->member_key = strdup(key);
	ret = object->member_key ? mci_seen_encode(&self, &text) : mci_fail(-ENOMEM, "no memory for a key");
	if (ret)
		return ret;
	ret = mci_metadata_publish(store->metadata, key, text, 0, true);
	free(text);
	if (!ret && self.whole)
		atomic_store(&object->told, true);
	return ret;
}

/*
 * A seed that registered while we removed what nobody needed found it there, and counts on it. Its member key came
 * before it looked: either we see that key now, or it writes after us. A fetch looks for itself (still_there()).
 */
static void put_back(struct mci_object *object, const char *root)
{
	struct count count;

	if (count_others(object, root, &count) || !count.seeds)
		return;
	if (count.named_seeds ? mci_directory_write(object, false) : write_chunks(object, root))
		mci_warn("object '%s' was registered anew while it was being removed, and its record may be gone: %s",
			 object->name, mc_errmsg());
}

void mci_directory_leave(struct mci_object *object)
{
	struct mc_p2p *store = object->store;
	char root[2 * MCI_P2P_HASH + 1], key[MCI_ENGINE_KEY_MAX];
	struct mci_found found = {0};
	struct count count;
	uint64_t version;

	if (!store->metadata || !object->member_key)
		return;
	mci_root_text(object->manifest->root, root);
	if (mci_metadata_withdraw(store->metadata, object->member_key) ||
	    count_others(object, root, &count)) {
		mci_warn("object '%s': the metadata service does not answer; what this process published "
			 "there ends with "
			 "its lease: %s",
			 object->name, mc_errmsg());
		return;
	}
	/* The last one under that name takes the record along, and the last one of that content the hashes.
	 */
	if (!count.named && !mci_directory_read_layout(store, object->name, &found, &version)) {
		if (!memcmp(found.manifest->root, object->manifest->root, MCI_P2P_HASH) &&
		    !object_key(store, object->name, key))
			mci_metadata_drop(store->metadata, key, version);
		mci_manifest_free(found.manifest);
	}
	if (!count.all)
		remove_chunks(store, root, mci_manifest_chunks(object->manifest));
	if (!count.named)
		put_back(object, root);
}

int mci_directory_remove(struct mc_p2p *store, const char *name, bool force)
{
	char root[2 * MCI_P2P_HASH + 1], key[MCI_ENGINE_KEY_MAX], holder[MCI_NAME_MAX + 1];
	struct count count = {.name = name};
	struct mci_found found = {0};
	uint64_t version;
	int ret;

	ret = mci_directory_read_layout(store, name, &found, &version);
	if ((ret == -EBADMSG || ret == -EKEYREJECTED) && force)
		return object_key(store, name, key) ? -EINVAL
						    : mci_metadata_drop(store->metadata, key, version);
	if (ret)
		return ret;
	mci_root_text(found.manifest->root, root);
	ret = mci_directory_members(store, root, count_member, &count);
	if (!ret && count.named && !force)
		ret = mci_fail(-EBUSY,
			       "'%s' and %u others hold object '%s'; end them, or remove its record by force "
			       "(MC_P2P_FORCE, --force): they keep what they have",
			       mci_plain_text(count.one.segment, holder, sizeof(holder)), count.named - 1,
			       name);
	if (!ret)
		ret = object_key(store, name, key);
	if (!ret)
		ret = mci_metadata_drop(store->metadata, key, version);
	if (!ret && !count.all)
		remove_chunks(store, root, mci_manifest_chunks(found.manifest));
	mci_manifest_free(found.manifest);
	return ret == -ESTALE ? mci_fail(-EBUSY, "object '%s' was registered anew at this moment", name)
			      : ret;
}
