// SPDX-License-Identifier: MIT
/* Texts of records and members: JSON, keys sorted; with a cluster key a record carries a MAC over its other
 * members. */
#include "p2p/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"

#define LABEL "mooncake p2p record"
#define RECORD_MAX (1u << 20)
#define MEMBER_MAX 4096u

static char *dump(const json_t *root) { return json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS); }

/* Over the text without the MAC. False: no key. */
static bool mac_of(mc_engine *engine, const json_t *root, char text[65])
{
	uint8_t mac[32] = {0};
	char *plain = dump(root);
	bool keyed = plain && mci_engine_mac(engine, LABEL, plain, strlen(plain), mac);

	free(plain);
	mci_hex(mac, sizeof(mac), text);
	return keyed;
}

int mci_record_encode(mc_engine *engine, const char *name, const struct mci_manifest *manifest,
		      uint64_t max_shard_size, char **text)
{
	char root_text[2 * MCI_P2P_HASH + 1], mac[65];
	json_t *sizes = json_array(), *root;
	uint32_t i;

	mci_root_text(manifest->root, root_text);
	for (i = 0; i < manifest->range_count; i++)
		json_array_append_new(sizes, json_integer((json_int_t)manifest->ranges[i]));
	root = json_pack("{s:s, s:s, s:I, s:o, s:I, s:I, s:i}", "name", name, "root", root_text, "bytes",
			 (json_int_t)manifest->bytes, "size_list", sizes, "piece_size",
			 (json_int_t)manifest->piece_size, "max_shard_size", (json_int_t)max_shard_size,
			 "chunks", (int)mci_manifest_chunks(manifest));
	if (root && mac_of(engine, root, mac))
		json_object_set_new(root, "mac", json_string(mac));
	*text = root ? dump(root) : NULL;
	json_decref(root);
	return *text ? 0
		     : mci_fail(-EINVAL,
				"the record of '%s' cannot be written: the name is not UTF-8, or no memory",
				name);
}

static int malformed(const char *name)
{
	return mci_fail(-EBADMSG,
			"the record of object '%s' in the metadata service is malformed; it was put there by "
			"another program, or tampered with",
			name);
}

static int layout(const json_t *root, const char *name, struct mci_found *found)
{
	const json_t *sizes = json_object_get(root, "size_list");
	json_int_t piece = json_integer_value(json_object_get(root, "piece_size"));
	size_t i, count = json_array_size(sizes);
	uint64_t *ranges;
	int ret;

	if (!count || count > MCI_P2P_RANGES_MAX || piece <= 0)
		return malformed(name);
	ranges = calloc(count, sizeof(*ranges));
	if (!ranges)
		return mci_fail(-ENOMEM, "no memory for the %zu sizes of object '%s'", count, name);
	for (i = 0; i < count; i++) {
		json_int_t n = json_integer_value(json_array_get(sizes, i));

		ranges[i] = n > 0 ? (uint64_t)n : 0;
	}
	ret = mci_manifest_new(ranges, (uint32_t)count, (uint64_t)piece, &found->manifest);
	free(ranges);
	return ret == -EINVAL ? malformed(name) : ret;
}

static int check_mac(mc_engine *engine, json_t *root, const char *name)
{
	char wanted[65], mac[65];
	const char *given = json_string_value(json_object_get(root, "mac"));
	unsigned int i, differs = 0;

	snprintf(mac, sizeof(mac), "%s", given ? given : "");
	json_object_del(root, "mac");
	if (!mac_of(engine, root, wanted))
		return 0;
	for (i = 0; i < 64; i++)
		differs |= (unsigned int)(mac[i] ^ wanted[i]);
	if (!given || strlen(mac) != 64 || differs)
		return mci_fail(-EKEYREJECTED,
				"the record of object '%s' is not signed with this cluster's key: it was "
				"registered with another key, or without one",
				name);
	return 0;
}

int mci_record_decode(mc_engine *engine, const char *name, const char *text, size_t length,
		      struct mci_found *found)
{
	json_t *root = length <= RECORD_MAX ? json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const char *inside = json_string_value(json_object_get(root, "name"));
	const char *hash = json_string_value(json_object_get(root, "root"));
	json_int_t shard = json_integer_value(json_object_get(root, "max_shard_size"));
	char own[MCI_P2P_NAME_MAX + 1];
	int ret;

	memset(found, 0, sizeof(*found));
	snprintf(own, sizeof(own), "%s", name);
	ret = !inside || !hash || strcmp(inside, own) || shard < 0 ? malformed(own)
								   : check_mac(engine, root, own);
	if (!ret)
		ret = layout(root, own, found);
	if (!ret &&
	    (mci_root_parse(hash, found->manifest->root) ||
	     json_integer_value(json_object_get(root, "bytes")) != (json_int_t)found->manifest->bytes ||
	     json_integer_value(json_object_get(root, "chunks")) != mci_manifest_chunks(found->manifest))) {
		mci_manifest_free(found->manifest);
		found->manifest = NULL;
		ret = malformed(own);
	}
	found->max_shard_size = (uint64_t)shard;
	json_decref(root);
	return ret;
}

int mci_record_name(const char *text, size_t length, char name[MCI_P2P_NAME_MAX + 1])
{
	json_t *root = length <= RECORD_MAX ? json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const char *inside = json_string_value(json_object_get(root, "name"));
	int ret = inside && *inside && strlen(inside) <= MCI_P2P_NAME_MAX ? 0 : -EBADMSG;

	if (!ret)
		snprintf(name, MCI_P2P_NAME_MAX + 1, "%s", inside);
	json_decref(root);
	return ret;
}

int mci_seen_encode(const struct mci_seen *seen, char **text)
{
	char uuid[MCI_UUID_TEXT];
	json_t *root;

	mci_uuid_text(&seen->uuid, uuid);
	root = json_pack("{s:s, s:s, s:s, s:b, s:b}", "segment", seen->segment, "uuid", uuid, "object",
			 seen->object, "seed", seen->seed, "whole", seen->whole);
	*text = root ? dump(root) : NULL;
	json_decref(root);
	return *text ? 0
		     : mci_fail(-EINVAL,
				"the member key of '%s' cannot be written: a name is not UTF-8, or no memory",
				seen->object);
}

static bool copy(char *to, size_t size, const char *from)
{
	if (!from || !*from || strlen(from) >= size)
		return false;
	memcpy(to, from, strlen(from) + 1);
	return true;
}

int mci_seen_decode(const char *key, const char *text, size_t length, struct mci_seen *seen)
{
	json_t *root = length <= MEMBER_MAX ? json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const char *uuid = json_string_value(json_object_get(root, "uuid"));
	int ret = 0;

	memset(seen, 0, sizeof(*seen));
	if (!copy(seen->segment, sizeof(seen->segment),
		  json_string_value(json_object_get(root, "segment"))) ||
	    !copy(seen->object, sizeof(seen->object), json_string_value(json_object_get(root, "object"))) ||
	    !uuid || mci_uuid_parse(uuid, &seen->uuid) || strlen(key) < sizeof(seen->root) ||
	    key[sizeof(seen->root) - 1] != '/')
		ret = -EBADMSG;
	else
		memcpy(seen->root, key, sizeof(seen->root) - 1);
	seen->seed = json_is_true(json_object_get(root, "seed"));
	seen->whole = json_is_true(json_object_get(root, "whole"));
	json_decref(root);
	return ret;
}
