// SPDX-License-Identifier: MIT
/* The classic P2P record: to and from JSON, our locations in and out. Pure. */
#include "p2p/classic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/errors.h"

#define SHARDS_MAX (1u << 20)

static void free_locations(struct mci_classic_locations *list)
{
	uint32_t i;

	for (i = 0; i < list->count; i++)
		free(list->at[i].segment);
	free(list->at);
}

void mci_classic_free(struct mci_classic_record *record)
{
	uint32_t i;

	if (!record)
		return;
	for (i = 0; record->shard && i < record->shard_count; i++) {
		free_locations(&record->shard[i].gold);
		free_locations(&record->shard[i].replicas);
	}
	free(record->shard);
	free(record->size_list);
	free(record->name);
	free(record);
}

/* Shards of all ranges; 0 = sizes that cannot be. */
static uint64_t count_shards(const uint64_t *sizes, uint32_t count, uint64_t max_shard_size, uint64_t *bytes)
{
	uint64_t shards = 0;
	uint32_t i;

	*bytes = 0;
	for (i = 0; i < count; i++) {
		if (!sizes[i] || !max_shard_size || sizes[i] > INT64_MAX || *bytes + sizes[i] > INT64_MAX)
			return 0;
		*bytes += sizes[i];
		shards += (sizes[i] - 1) / max_shard_size + 1;
		if (shards > SHARDS_MAX)
			return 0;
	}
	return shards;
}

int mci_classic_new(const char *name, const uint64_t *sizes, uint32_t count, uint64_t max_shard_size,
		    struct mci_classic_record **record)
{
	struct mci_classic_record *r;
	uint64_t bytes, shards = count_shards(sizes, count, max_shard_size, &bytes), left;
	uint32_t i, at = 0;

	if (!shards)
		return mci_fail(-EINVAL,
				"object '%s' of %u ranges in shards of %llu bytes has an empty range, or "
				"more than %u "
				"shards; take larger shards",
				name, count, (unsigned long long)max_shard_size, SHARDS_MAX);
	r = calloc(1, sizeof(*r));
	if (!r)
		goto no_memory;
	r->name = strdup(name);
	r->bytes = bytes;
	r->max_shard_size = max_shard_size;
	r->size_count = count;
	r->size_list = malloc(count * sizeof(*r->size_list));
	r->shard_count = (uint32_t)shards;
	r->shard = calloc(shards, sizeof(*r->shard));
	if (!r->name || !r->size_list || !r->shard)
		goto no_memory;
	for (i = 0; i < count; i++) {
		r->size_list[i] = sizes[i];
		for (left = sizes[i]; left; left -= r->shard[at++].size)
			r->shard[at].size = left < max_shard_size ? left : max_shard_size;
	}
	*record = r;
	return 0;
no_memory:
	mci_classic_free(r);
	return mci_fail(-ENOMEM, "no memory for the classic record of '%s'", name);
}

static int add_location(struct mci_classic_locations *list, const char *segment, uint64_t address)
{
	struct mci_classic_location *grown = realloc(list->at, (list->count + 1) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	list->at = grown;
	grown[list->count].segment = strdup(segment);
	grown[list->count].address = address;
	if (!grown[list->count].segment)
		return -ENOMEM;
	list->count++;
	return 0;
}

static int parse_locations(const json_t *array, struct mci_classic_locations *list)
{
	const json_t *one, *segment, *offset;
	size_t i;

	if (json_is_null(array))
		return 0;
	if (!json_is_array(array))
		return -EBADMSG;
	json_array_foreach(array, i, one)
	{
		segment = json_object_get(one, "segment_name");
		offset = json_object_get(one, "offset");
		if (!json_is_string(segment) || !json_string_length(segment) ||
		    strlen(json_string_value(segment)) != json_string_length(segment) ||
		    !json_is_integer(offset))
			return -EBADMSG;
		if (add_location(list, json_string_value(segment), (uint64_t)json_integer_value(offset)))
			return -ENOMEM;
	}
	return 0;
}

static int parse_record(const json_t *root, struct mci_classic_record **record)
{
	const json_t *name = json_object_get(root, "name"), *size = json_object_get(root, "size"),
		     *list = json_object_get(root, "size_list"),
		     *max = json_object_get(root, "max_shard_size"),
		     *shards = json_object_get(root, "shards"), *one;
	uint64_t *sizes;
	size_t i;
	int ret;

	if (!json_is_string(name) || !json_is_integer(size) || !json_is_array(list) ||
	    !json_array_size(list) || json_array_size(list) > SHARDS_MAX || !json_is_integer(max) ||
	    json_integer_value(max) <= 0 || !json_is_array(shards))
		return -EBADMSG;
	sizes = malloc(json_array_size(list) * sizeof(*sizes));
	if (!sizes)
		return -ENOMEM;
	json_array_foreach(list, i, one) sizes[i] =
		json_is_integer(one) && json_integer_value(one) > 0 ? (uint64_t)json_integer_value(one) : 0;
	ret = mci_classic_new(json_string_value(name), sizes, (uint32_t)json_array_size(list),
			      (uint64_t)json_integer_value(max), record);
	free(sizes);
	if (ret)
		return ret == -ENOMEM ? ret : -EBADMSG;
	if ((*record)->bytes != (uint64_t)json_integer_value(size) ||
	    (*record)->shard_count != json_array_size(shards))
		return -EBADMSG;
	json_array_foreach(shards, i, one)
	{
		const json_t *length = json_object_get(one, "size");

		if (!json_is_integer(length) ||
		    (uint64_t)json_integer_value(length) != (*record)->shard[i].size)
			return -EBADMSG;
		ret = parse_locations(json_object_get(one, "gold"), &(*record)->shard[i].gold);
		if (!ret)
			ret = parse_locations(json_object_get(one, "replica_list"),
					      &(*record)->shard[i].replicas);
		if (ret)
			return ret;
	}
	return 0;
}

int mci_classic_parse(const char *text, size_t length, struct mci_classic_record **record)
{
	json_error_t error;
	json_t *root = json_loadb(text, length, 0, &error);
	int ret;

	*record = NULL;
	ret = root ? parse_record(root, record) : -EBADMSG;
	json_decref(root);
	if (!ret)
		return 0;
	mci_classic_free(*record);
	*record = NULL;
	if (ret == -ENOMEM)
		return mci_fail(ret, "no memory for a classic record of %zu bytes", length);
	return mci_fail(
		ret,
		"a record under " MCI_P2P_CLASSIC_PREFIX
		" is not one of the classic P2P store: sizes and shards that fit each other are missing");
}

static json_t *location_json(const struct mci_classic_locations *list)
{
	json_t *array;
	uint32_t i;

	if (!list->count)
		return json_null();
	array = json_array();
	for (i = 0; i < list->count; i++)
		json_array_append_new(array, json_pack("{s:s, s:I}", "segment_name", list->at[i].segment,
						       "offset", (json_int_t)list->at[i].address));
	return array;
}

char *mci_classic_text(const struct mci_classic_record *record)
{
	json_t *sizes = json_array(), *shards = json_array(), *root;
	char *text = NULL;
	uint32_t i;

	for (i = 0; i < record->size_count; i++)
		json_array_append_new(sizes, json_integer((json_int_t)record->size_list[i]));
	for (i = 0; i < record->shard_count; i++)
		json_array_append_new(shards,
				      json_pack("{s:I, s:o, s:o}", "size", (json_int_t)record->shard[i].size,
						"gold", location_json(&record->shard[i].gold), "replica_list",
						location_json(&record->shard[i].replicas)));
	root = json_pack("{s:s, s:I, s:o, s:I, s:o}", "name", record->name, "size", (json_int_t)record->bytes,
			 "size_list", sizes, "max_shard_size", (json_int_t)record->max_shard_size, "shards",
			 shards);
	if (root)
		text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	return text;
}

static bool remove_from(struct mci_classic_locations *list, const char *segment)
{
	uint32_t i, kept = 0;
	bool found;

	for (i = 0; i < list->count; i++) {
		if (strcmp(list->at[i].segment, segment))
			list->at[kept++] = list->at[i];
		else
			free(list->at[i].segment);
	}
	found = kept < list->count;
	list->count = kept;
	return found;
}

bool mci_classic_remove(struct mci_classic_record *record, const char *segment)
{
	bool found = false;
	uint32_t i;

	for (i = 0; i < record->shard_count; i++) {
		found |= remove_from(&record->shard[i].gold, segment);
		found |= remove_from(&record->shard[i].replicas, segment);
	}
	return found;
}

int mci_classic_add(struct mci_classic_record *record, const char *segment, const uint64_t *addresses,
		    bool gold)
{
	uint32_t range = 0, i;
	uint64_t offset = 0;
	int ret;

	mci_classic_remove(record, segment);
	for (i = 0; i < record->shard_count; i++) {
		struct mci_classic_shard *shard = &record->shard[i];

		if (gold || shard->replicas.count < MCI_P2P_CLASSIC_REPLICAS) {
			ret = add_location(gold ? &shard->gold : &shard->replicas, segment,
					   addresses[range] + offset);
			if (ret) {
				mci_classic_remove(record, segment);
				return mci_fail(ret, "no memory for the classic record of '%s'",
						record->name);
			}
		}
		offset += shard->size;
		if (offset == record->size_list[range]) {
			range++;
			offset = 0;
		}
	}
	return 0;
}

bool mci_classic_nobody(const struct mci_classic_record *record)
{
	uint32_t i;

	for (i = 0; i < record->shard_count; i++)
		if (record->shard[i].gold.count || record->shard[i].replicas.count)
			return false;
	return true;
}
