// SPDX-License-Identifier: MIT
/* Segment descriptor: struct to JSON text and back. Whatever is read is bounded and type-checked. */
#include "engine/descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#include <openssl/crypto.h>

#include "core/errors.h"
#include "core/uuid.h"

#define OURS "mooncake_c"
#define MAC_LABEL "mooncake descriptor"
#define MAC_SIZE 32
#define DUMP_FLAGS (JSON_COMPACT | JSON_SORT_KEYS)
/* Values in one text: 65,536 regions and buffers with room to spare, yet no more than some 200 MB once
 * parsed. */
#define VALUES_MAX 2000000
#define FEATURES_LISTED 64

static const struct {
	uint64_t bit;
	const char *name;
} feature_names[] = {
	{MCI_FEATURE_CHECKSUM, "checksum"},
	{MCI_FEATURE_INTEGRITY, "integrity"},
	{MCI_FEATURE_SHM, "shm"},
	{MCI_FEATURE_NOTIFY, "notify"},
};

#define FEATURE_COUNT (sizeof(feature_names) / sizeof(feature_names[0]))

/* ---- encode ---- */

/* Takes over @value; a failure (no memory, or a text that is not UTF-8) sticks in @err. */
static void put(json_t *object, const char *key, json_t *value, int *err)
{
	if (json_object_set_new(object, key, value) && !*err)
		*err = mci_fail(-EINVAL,
				"member \"%s\" of the descriptor cannot be written: not UTF-8, or no memory",
				key);
}

static void append(json_t *array, json_t *value, int *err)
{
	if (json_array_append_new(array, value) && !*err)
		*err = mci_fail(-EINVAL,
				"a list of the descriptor cannot be written: not UTF-8, or no memory");
}

static json_t *u64_json(uint64_t value, const char *what, int *err)
{
	if (value > INT64_MAX && !*err)
		*err = mci_fail(-EINVAL, "%s %llu of the descriptor is above 2^63, which readers refuse",
				what, (unsigned long long)value);
	return json_integer((json_int_t)value);
}

static json_t *uuid_json(const struct mc_uuid *uuid)
{
	char text[MCI_UUID_TEXT];

	mci_uuid_text(uuid, text);
	return json_string(text);
}

static json_t *region_json(const struct mci_descriptor_region *region, bool classic, int *err)
{
	json_t *object = json_object();

	put(object, "id", json_integer(region->id), err);
	put(object, "generation", json_integer(region->generation), err);
	put(object, "rights", json_integer(region->rights), err);
	put(object, "length", u64_json(region->length, "region length", err), err);
	put(object, "base", u64_json(classic ? region->base : 0, "region base", err), err);
	put(object, "content_id", uuid_json(&region->content_id), err);
	put(object, "location", json_string(region->location), err);
	if (region->json && json_object_update_missing(object, region->json) && !*err)
		*err = mci_fail(-EINVAL, "members of region %u in the descriptor cannot be written",
				region->id);
	return object;
}

static json_t *ours_json(const struct mci_descriptor *d, int *err)
{
	json_t *object = json_object(), *list;
	unsigned int i;

	put(object, "version", json_integer(MCI_DESCRIPTOR_VERSION), err);
	put(object, "name", json_string(d->name), err);
	list = json_array();
	for (i = 0; i < FEATURE_COUNT; i++)
		if (d->features & feature_names[i].bit)
			append(list, json_string(feature_names[i].name), err);
	put(object, "features", list, err);
	put(object, "uuid", uuid_json(&d->uuid), err);
	put(object, "generation", u64_json(d->generation, "generation", err), err);
	put(object, "boot_id", uuid_json(&d->boot_id), err);
	list = json_array();
	for (i = 0; i < d->address_count; i++)
		append(list, json_string(d->addresses[i]), err);
	put(object, "addresses", list, err);
	put(object, "port", json_integer(d->port), err);
	list = json_array();
	for (i = 0; i < d->region_count; i++)
		append(list, region_json(&d->regions[i], d->classic, err), err);
	put(object, "regions", list, err);
	put(object, "transports", d->transports ? json_incref(d->transports) : json_object(), err);
	return object;
}

/* MAC over the canonical dump of @ours without its "mac". */
static int ours_mac(json_t *ours, const struct mci_secret *secret, uint8_t mac[MAC_SIZE])
{
	char *text = json_dumps(ours, DUMP_FLAGS);

	if (!text)
		return mci_fail(-ENOMEM, "no memory to sign or check a descriptor");
	mci_key_mac(secret, MAC_LABEL, text, strlen(text), mac);
	free(text);
	return 0;
}

static int sign(json_t *ours, const struct mci_secret *secret)
{
	uint8_t mac[MAC_SIZE];
	char text[2 * MAC_SIZE + 1];
	int ret;

	ret = ours_mac(ours, secret, mac);
	if (ret)
		return ret;
	mci_hex(mac, sizeof(mac), text);
	put(ours, "mac", json_string(text), &ret);
	return ret;
}

static json_t *buffers_json(const struct mci_descriptor *d, int *err)
{
	json_t *list = json_array(), *object;
	unsigned int i;

	for (i = 0; d->classic && i < d->buffer_count; i++) {
		const struct mci_descriptor_buffer *b = &d->buffers[i];

		/* Classic readers throw the whole descriptor away for one of these. */
		if ((!b->addr || !b->length || !b->name || !*b->name) && !*err)
			*err = mci_fail(-EINVAL, "classic buffer %u has no address, length or name", i);
		object = json_object();
		put(object, "addr", u64_json(b->addr, "buffer address", err), err);
		put(object, "length", u64_json(b->length, "buffer length", err), err);
		put(object, "name", json_string(b->name), err);
		append(list, object, err);
	}
	return list;
}

static void timestamp(char *text, size_t size)
{
	struct timeval now;
	struct tm tm;
	size_t n;

	gettimeofday(&now, NULL);
	localtime_r(&now.tv_sec, &tm);
	n = strftime(text, size, "%F %T", &tm);
	snprintf(text + n, size - n, ".%06ld", (long)now.tv_usec);
}

int mci_descriptor_encode(const struct mci_descriptor *d, const struct mci_secret *secret, char **text)
{
	json_t *root, *ours;
	char now[32];
	char *out;
	int err = 0;

	if (!d->name[0])
		return mci_fail(-EINVAL, "a descriptor needs a segment name");
	if (d->region_count > MCI_DESCRIPTOR_REGIONS || d->address_count > MCI_DESCRIPTOR_ADDRESSES)
		return mci_fail(-EINVAL,
				"a descriptor holds at most %d regions and %d addresses, not %u and %u",
				MCI_DESCRIPTOR_REGIONS, MCI_DESCRIPTOR_ADDRESSES, d->region_count,
				d->address_count);
	timestamp(now, sizeof(now));
	root = json_object();
	put(root, "name", json_string(d->name), &err);
	put(root, "protocol", json_string(d->protocol[0] ? d->protocol : "tcp"), &err);
	put(root, "timestamp", json_string(d->timestamp[0] ? d->timestamp : now), &err);
	put(root, "tcp_data_port", json_integer(d->classic ? d->tcp_data_port : 0), &err);
	put(root, "tcp_proto_version", json_integer(d->classic ? d->tcp_proto_version : 1), &err);
	put(root, "buffers",
	    d->classic && d->classic_buffers ? json_incref(d->classic_buffers) : buffers_json(d, &err), &err);
	if (d->classic_root && json_object_update_missing(root, d->classic_root) && !err)
		err = mci_fail(-EINVAL, "the classic members of the descriptor cannot be written");
	ours = ours_json(d, &err);
	if (!err && secret && secret->mode == MCI_AUTH_CLUSTER)
		err = sign(ours, secret);
	put(root, OURS, ours, &err);
	out = err ? NULL : json_dumps(root, DUMP_FLAGS);
	json_decref(root);
	if (err)
		return err;
	if (!out)
		return mci_fail(-ENOMEM, "no memory for the text of the descriptor");
	if (strlen(out) > MCI_DESCRIPTOR_MAX) {
		free(out);
		return mci_fail(-EINVAL,
				"the descriptor would be larger than %u bytes, which readers refuse; "
				"register fewer regions",
				MCI_DESCRIPTOR_MAX);
	}
	*text = out;
	return 0;
}

/* ---- decode ---- */

static int bad(const char *what)
{
	return mci_fail(-EBADMSG, "the segment descriptor is malformed: %s", what);
}

/* An integer in [0, max]. Missing: *out keeps its value if @optional, else it is an error. */
static int get_u64(const json_t *object, const char *key, uint64_t max, bool optional, uint64_t *out)
{
	const json_t *value = json_object_get(object, key);

	if (!value && optional)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	    (uint64_t)json_integer_value(value) > max)
		return mci_fail(
			-EBADMSG,
			"the segment descriptor is malformed: \"%s\" must be an integer from 0 to %llu", key,
			(unsigned long long)max);
	*out = (uint64_t)json_integer_value(value);
	return 0;
}

static int get_u32(const json_t *object, const char *key, bool optional, uint32_t *out)
{
	uint64_t value = *out;
	int ret = get_u64(object, key, UINT32_MAX, optional, &value);

	if (!ret)
		*out = (uint32_t)value;
	return ret;
}

static int get_port(const json_t *object, const char *key, bool optional, uint16_t *out)
{
	uint64_t value = *out;
	int ret = get_u64(object, key, UINT16_MAX, optional, &value);

	if (!ret)
		*out = (uint16_t)value;
	return ret;
}

/* A text fit to be shown: not empty, no control characters, shorter than @size. */
static const char *shown_text(const json_t *value, size_t size)
{
	const char *text = json_string_value(value), *p;

	if (!text || !*text || json_string_length(value) >= size)
		return NULL;
	for (p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return NULL;
	return text;
}

static int get_text(const json_t *object, const char *key, char *out, size_t size)
{
	const char *text = shown_text(json_object_get(object, key), size);

	if (!text)
		return mci_fail(
			-EBADMSG,
			"the segment descriptor is malformed: \"%s\" must be a text of 1 to %zu bytes "
			"without control characters",
			key, size - 1);
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

static int get_uuid(const json_t *object, const char *key, struct mc_uuid *uuid)
{
	const char *text = json_string_value(json_object_get(object, key));

	if (!text || mci_uuid_parse(text, uuid))
		return mci_fail(-EBADMSG, "the segment descriptor is malformed: \"%s\" must be 32 hex digits",
				key);
	return 0;
}

static int get_list(const json_t *object, const char *key, size_t max, bool optional, json_t **list)
{
	*list = json_object_get(object, key);
	if (!*list && optional)
		return 0;
	if (!json_is_array(*list) || json_array_size(*list) > max)
		return mci_fail(-EBADMSG,
				"the segment descriptor is malformed: \"%s\" must be a list of at most %zu",
				key, max);
	return 0;
}

static int check_mac(json_t *ours, const struct mci_secret *secret)
{
	uint8_t want[MAC_SIZE], got[MAC_SIZE];
	const char *text = json_string_value(json_object_get(ours, "mac"));
	json_t *bare;
	int ret;

	if (!text || mci_unhex(text, got, sizeof(got)))
		return mci_fail(-EKEYREJECTED,
				"the segment descriptor is not signed with the cluster key: its owner "
				"has none; give both sides the same key file");
	bare = json_copy(ours);
	if (!bare)
		return mci_fail(-ENOMEM, "no memory to check a descriptor");
	json_object_del(bare, "mac");
	ret = ours_mac(bare, secret, want);
	json_decref(bare);
	if (ret)
		return ret;
	if (CRYPTO_memcmp(want, got, sizeof(want)))
		return mci_fail(
			-EKEYREJECTED,
			"the signature of the segment descriptor is wrong: its owner has another "
			"cluster key, or it was tampered with; compare the keys with 'mooncake key id'");
	return 0;
}

static int decode_region(json_t *object, struct mci_descriptor_region *region)
{
	int ret;

	if (!json_is_object(object))
		return bad("a region must be an object");
	region->json = object;
	ret = get_u32(object, "id", false, &region->id);
	ret = ret ?: get_u32(object, "generation", false, &region->generation);
	ret = ret ?: get_u32(object, "rights", false, &region->rights);
	ret = ret ?: get_u64(object, "length", INT64_MAX, false, &region->length);
	ret = ret ?: get_u64(object, "base", INT64_MAX, true, &region->base);
	ret = ret ?: get_uuid(object, "content_id", &region->content_id);
	ret = ret ?: get_text(object, "location", region->location, sizeof(region->location));
	if (ret)
		return ret;
	if (!region->length || region->id == MC_REGION_BY_ADDRESS)
		return bad("a region has no length, or a reserved id");
	if (region->rights & ~(MC_REMOTE_READ | MC_REMOTE_WRITE))
		return bad("a region has rights that are not known");
	return 0;
}

static int decode_addresses(json_t *list, struct mci_descriptor *d)
{
	const char **addresses;
	size_t i, n = json_array_size(list);

	addresses = calloc(n + 1, sizeof(*addresses));
	if (!addresses)
		return mci_fail(-ENOMEM, "no memory for a descriptor");
	d->addresses = addresses;
	for (i = 0; i < n; i++) {
		addresses[i] = shown_text(json_array_get(list, i), MCI_HOST_MAX);
		if (!addresses[i])
			return bad("an address must be a text of 1 to 255 bytes");
	}
	d->address_count = (unsigned int)n;
	return 0;
}

static int decode_features(json_t *list, struct mci_descriptor *d)
{
	size_t i, f;

	for (i = 0; i < json_array_size(list); i++) {
		const char *name = json_string_value(json_array_get(list, i));

		if (!name)
			return bad("a feature must be a text");
		for (f = 0; f < FEATURE_COUNT; f++)
			if (!strcmp(name, feature_names[f].name))
				d->features |= feature_names[f].bit;
	}
	return 0;
}

static int alloc_regions(struct mci_descriptor *d, size_t n)
{
	d->regions = calloc(n + 1, sizeof(*d->regions));
	return d->regions ? 0 : mci_fail(-ENOMEM, "no memory for a descriptor of %zu regions", n);
}

static int decode_ours(json_t *ours, const struct mci_secret *cluster, struct mci_descriptor *d)
{
	char name[sizeof(d->name)];
	json_t *list;
	size_t i;
	int ret;

	if (!json_is_object(ours))
		return bad("\"" OURS "\" must be an object");
	if (cluster && cluster->mode == MCI_AUTH_CLUSTER) {
		ret = check_mac(ours, cluster);
		if (ret)
			return ret;
	}
	ret = get_u32(ours, "version", false, &d->version);
	if (ret)
		return ret;
	if (d->version != MCI_DESCRIPTOR_VERSION)
		return mci_fail(-EPROTO,
				"segment '%s' is described in version %u, this program reads version %d; "
				"run the same release on both sides",
				d->name, d->version, MCI_DESCRIPTOR_VERSION);
	ret = get_text(ours, "name", name, sizeof(name));
	if (ret)
		return ret;
	/* The outer name is not signed: a record moved to another name must not pass. */
	if (strcmp(name, d->name))
		return bad("the name inside \"" OURS "\" is another one");
	ret = get_uuid(ours, "uuid", &d->uuid);
	ret = ret ?: get_u64(ours, "generation", INT64_MAX, false, &d->generation);
	ret = ret ?: get_uuid(ours, "boot_id", &d->boot_id);
	ret = ret ?: get_port(ours, "port", false, &d->port);
	ret = ret ?: get_list(ours, "features", FEATURES_LISTED, false, &list);
	ret = ret ?: decode_features(list, d);
	ret = ret ?: get_list(ours, "addresses", MCI_DESCRIPTOR_ADDRESSES, false, &list);
	ret = ret ?: decode_addresses(list, d);
	if (ret)
		return ret;
	d->transports = json_object_get(ours, "transports");
	if (!json_is_object(d->transports))
		return bad("\"transports\" must be an object");
	ret = get_list(ours, "regions", MCI_DESCRIPTOR_REGIONS, false, &list);
	ret = ret ?: alloc_regions(d, json_array_size(list));
	for (i = 0; !ret && i < json_array_size(list); i++)
		ret = decode_region(json_array_get(list, i), &d->regions[i]);
	if (ret)
		return ret;
	d->region_count = (unsigned int)json_array_size(list);
	d->has_ours = true;
	return 0;
}

/* "tcp", or a list of protocols, from builds that serve several. */
static int decode_protocol(struct mci_descriptor *d)
{
	json_t *value = json_object_get(d->root, "protocol"), *one;
	size_t i;

	if (!json_is_array(value))
		return get_text(d->root, "protocol", d->protocol, sizeof(d->protocol));
	json_array_foreach(value, i, one)
	{
		const char *text = shown_text(one, sizeof(d->protocol));

		if (!text)
			return bad("a protocol must be a short text");
		if (!i || !strcmp(text, "tcp"))
			memcpy(d->protocol, text, strlen(text) + 1);
	}
	return d->protocol[0] ? 0 : bad("\"protocol\" is an empty list");
}

/* Only buffers that have an address; those of files and CXL windows say nothing to a socket. */
static int decode_buffers(json_t *list, struct mci_descriptor *d)
{
	bool many = json_is_array(json_object_get(d->root, "protocol"));
	json_t *object;
	size_t i;

	d->buffers = calloc(json_array_size(list) + 1, sizeof(*d->buffers));
	if (!d->buffers)
		return mci_fail(-ENOMEM, "no memory for a descriptor");
	json_array_foreach(list, i, object)
	{
		struct mci_descriptor_buffer *b = &d->buffers[d->buffer_count];
		const char *protocol = json_string_value(json_object_get(object, "protocol"));
		int ret;

		if (!json_is_object(object))
			return bad("a buffer must be an object");
		if (!json_object_get(object, "addr") || (many && protocol && strcmp(protocol, d->protocol)))
			continue;
		ret = get_u64(object, "addr", INT64_MAX, false, &b->addr);
		ret = ret ?: get_u64(object, "length", INT64_MAX, false, &b->length);
		if (ret)
			return ret;
		b->name = shown_text(json_object_get(object, "name"), MCI_NAME_MAX + 1);
		if (!b->name || !b->addr || !b->length || b->length > (uint64_t)INT64_MAX - b->addr)
			return bad("a buffer has no name, address or length, or ends beyond 2^63");
		d->buffer_count++;
	}
	return 0;
}

static int regions_from_buffers(struct mci_descriptor *d)
{
	bool location = strcmp(d->protocol, "tcp"); /* elsewhere it is the segment's name once more */
	unsigned int i;
	int ret = alloc_regions(d, d->buffer_count);

	for (i = 0; !ret && i < d->buffer_count; i++) {
		struct mci_descriptor_region *region = &d->regions[i];
		const char *name = d->buffers[i].name;

		region->id = i;
		region->rights = MC_REMOTE_READ | MC_REMOTE_WRITE;
		region->length = d->buffers[i].length;
		region->base = d->buffers[i].addr;
		strcpy(region->location, "*");
		if (location && strlen(name) < sizeof(region->location))
			strcpy(region->location, name);
	}
	if (!ret)
		d->region_count = d->buffer_count;
	return ret;
}

static int decode_root(const struct mci_secret *cluster, struct mci_descriptor *d)
{
	const json_t *stamp = json_object_get(d->root, "timestamp");
	json_t *ours = json_object_get(d->root, OURS), *list;
	int ret;

	/* Records of files have a "server_name" instead. */
	ret = get_text(d->root, json_object_get(d->root, "name") ? "name" : "server_name", d->name,
		       sizeof(d->name));
	ret = ret ?: decode_protocol(d);
	ret = ret ?: get_port(d->root, "tcp_data_port", true, &d->tcp_data_port);
	d->tcp_proto_version = 1;
	ret = ret ?: get_u32(d->root, "tcp_proto_version", true, &d->tcp_proto_version);
	if (ret)
		return ret;
	if (shown_text(stamp, sizeof(d->timestamp)))
		strcpy(d->timestamp, json_string_value(stamp));
	ret = get_list(d->root, "buffers", MCI_DESCRIPTOR_REGIONS, true, &list);
	if (!ret && list)
		ret = decode_buffers(list, d);
	if (ret)
		return ret;
	return ours ? decode_ours(ours, cluster, d) : regions_from_buffers(d);
}

/* Count values before parsing: "[[],[],...]" would take forty times its length in memory. */
static bool too_many_values(const char *text, size_t length)
{
	size_t i, values = 0;
	bool quoted = false;

	for (i = 0; i < length; i++) {
		char c = text[i];

		if (c == '"')
			quoted = !quoted;
		else if (quoted && c == '\\')
			i++;
		else if (!quoted && (c == ',' || c == '[' || c == '{'))
			values++;
	}
	return values > VALUES_MAX;
}

int mci_descriptor_decode(const char *text, size_t length, const struct mci_secret *cluster,
			  struct mci_descriptor **descriptor)
{
	struct mci_descriptor *d;
	json_error_t error;
	int ret;

	if (length > MCI_DESCRIPTOR_MAX || too_many_values(text, length))
		return mci_fail(-EBADMSG, "a segment descriptor of %zu bytes is too large to be one", length);
	d = calloc(1, sizeof(*d));
	if (!d)
		return mci_fail(-ENOMEM, "no memory for a descriptor");
	d->root = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (!d->root) {
		ret = mci_fail(-EBADMSG,
			       "the segment descriptor is not JSON, or holds a number above 2^63 (line %d, "
			       "column %d)",
			       error.line, error.column);
		goto err_free;
	}
	ret = json_is_object(d->root) ? decode_root(cluster, d)
				      : bad("it must be an object (the peer may have none)");
	if (ret)
		goto err_free;
	*descriptor = d;
	return 0;
err_free:
	mci_descriptor_free(d);
	return ret;
}

void mci_descriptor_free(struct mci_descriptor *d)
{
	if (!d)
		return;
	free((void *)d->addresses);
	free(d->regions);
	free(d->buffers);
	json_decref(d->root);
	free(d);
}
