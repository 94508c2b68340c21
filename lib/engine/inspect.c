// SPDX-License-Identifier: MIT
/* The metadata service for tools: read keys and list them, without an engine, tokens redacted. */
#include "engine/engine.h"

#include <stdlib.h>

#include <mooncake/admin.h>

struct listing {
	int (*fn)(const char *key, const char *value, void *arg);
	void *arg;
};

static const char redacted[] = "\"(redacted)\"";

/* Access tokens lie under "<prefix>token/<name>", whatever the cluster id. */
static bool is_secret(const char *key) { return strstr(key, "/token/"); }

static int open_service(const struct mc_engine_attr *attr, struct mci_metadata **metadata)
{
	struct mci_metadata_options options = {0};
	struct mci_secret cluster = {.mode = MCI_AUTH_NONE};
	struct mci_settings *s;
	enum mci_metadata_kind kind;
	const char *uri, *key_file;
	char bearer[65];
	int ret;

	if (!attr || attr->size != sizeof(*attr))
		return mci_fail(-EINVAL, "struct mc_engine_attr has a size that this library does not know");
	mci_log_init();
	ret = mci_settings_load(attr->config_file, &s);
	if (ret)
		return ret;
	uri = attr->metadata ? attr->metadata : mci_settings_text(s, "engine.metadata");
	key_file = attr->key_file ? attr->key_file : mci_settings_text(s, "security.key_file");
	ret = uri ? mci_metadata_kind(uri, &kind)
		  : mci_fail(-EINVAL, "no metadata service given: use --metadata_server=URI");
	if (!ret && kind == MCI_METADATA_P2P)
		ret = mci_fail(
			-EINVAL,
			"with P2PHANDSHAKE there is no metadata service to look into; ask the process itself "
			"(mooncake segment show HOST:PORT)");
	if (!ret && key_file && *key_file)
		ret = mci_key_load(key_file, &cluster);
	if (ret)
		goto out_free;
	options.timeout_ms = (uint32_t)mci_settings_number(s, "metadata.timeout_ms");
	options.user =
		mci_settings_text(s, kind == MCI_METADATA_REDIS ? "metadata.redis_user" : "metadata.user");
	options.password = mci_settings_text(s, kind == MCI_METADATA_REDIS ? "metadata.redis_password"
									   : "metadata.password");
	options.redis_db = (unsigned int)mci_settings_number(s, "metadata.redis_db");
	options.use_proxy = mci_settings_bool(s, "metadata.use_proxy");
	options.ca_file = mci_settings_text(s, "security.ca_file");
	options.cert_file = mci_settings_text(s, "security.cert_file");
	options.key_file = mci_settings_text(s, "security.cert_key_file");
	if (cluster.mode == MCI_AUTH_CLUSTER) {
		mci_key_bearer(&cluster, "metadata", bearer);
		options.bearer = bearer;
	}
	ret = mci_metadata_open(uri, &options, metadata);
out_free:
	mci_settings_free(s);
	return ret;
}

/**
 * mc_metadata_get() - value of one key of the metadata service
 * @attr: its metadata and security members are used
 * @key: key, e.g. "mooncake/ram/host:port"
 * @value: out: text, free() it; access tokens come as "(redacted)"
 *
 * Return: 0; -ENOENT: no such key; -EINVAL; errors of the service.
 */
int mc_metadata_get(const struct mc_engine_attr *attr, const char *key, char **value)
{
	struct mci_metadata_value found;
	struct mci_metadata *metadata;
	int ret;

	ret = open_service(attr, &metadata);
	if (ret)
		return ret;
	ret = mci_metadata_fetch(metadata, key, &found);
	mci_metadata_close(metadata);
	if (ret == -ENOENT)
		return mci_fail(
			ret, "the metadata service has no key '%s'; mooncake metadata ls lists those it has",
			key);
	if (ret)
		return ret;
	if (is_secret(key)) {
		free(found.text);
		found.text = strdup(redacted);
		if (!found.text)
			return mci_fail(-ENOMEM, "no memory for a value");
	}
	*value = found.text;
	return 0;
}

static int each(const char *key, const struct mci_metadata_value *value, void *arg)
{
	struct listing *listing = arg;

	return listing->fn(key, is_secret(key) ? redacted : value->text, listing->arg);
}

/**
 * mc_metadata_list() - keys of the metadata service that begin with @prefix
 * @attr: its metadata and security members are used
 * @prefix: "" = all
 * @fn: called for each with key and value; a non-zero result ends the listing and is returned
 * @arg: for @fn
 *
 * Return: 0; -EOPNOTSUPP: the service cannot list; -EINVAL; errors of the service.
 */
int mc_metadata_list(const struct mc_engine_attr *attr, const char *prefix,
		     int (*fn)(const char *key, const char *value, void *arg), void *arg)
{
	struct listing listing = {.fn = fn, .arg = arg};
	struct mci_metadata *metadata;
	int ret;

	ret = open_service(attr, &metadata);
	if (ret)
		return ret;
	ret = mci_metadata_list(metadata, prefix, each, &listing);
	mci_metadata_close(metadata);
	return ret;
}

/**
 * mc_metadata_segment_prefix() - prefix under which segments are published
 * @attr: its cluster_id counts
 * @prefix: out: e.g. "mooncake/ram/"; free() it
 *
 * Return: 0; -EINVAL; -ENOMEM.
 */
int mc_metadata_segment_prefix(const struct mc_engine_attr *attr, char **prefix)
{
	struct mci_settings *s;
	char key[MCI_KEY_MAX];
	int ret;

	ret = mci_settings_load(attr->config_file, &s);
	if (ret)
		return ret;
	ret = mci_key_ram_prefix(
		attr->cluster_id ? attr->cluster_id : mci_settings_text(s, "metadata.cluster_id"), key);
	mci_settings_free(s);
	if (ret)
		return ret;
	*prefix = strdup(key);
	return *prefix ? 0 : mci_fail(-ENOMEM, "no memory for a prefix");
}
