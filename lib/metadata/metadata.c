// SPDX-License-Identifier: MIT
/* The metadata service: choose the backend by URI, pass calls on to it. Leases are in lease.c, watches in
 * watch.c. */
#include "metadata/metadata.h"

#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "core/errors.h"
#include "core/log.h"
#include "metadata/lease.h"
#include "metadata/uri.h"

#define LEASE_MS 10000
#define LEASE_MIN_MS 300
#define KEY_MAX 1024

static int choose(enum mci_metadata_kind kind, const struct mci_metadata_ops **ops)
{
	(void)ops; /* a build without any backend */
	switch (kind) {
	case MCI_METADATA_ETCD:
#if USE_ETCD
		*ops = &mci_metadata_etcd;
		return 0;
#else
		return mci_fail(-EOPNOTSUPP,
				"this build has no etcd client; build it with 'make USE_ETCD=1'");
#endif
	case MCI_METADATA_REDIS:
#if USE_REDIS
		*ops = &mci_metadata_redis;
		return 0;
#else
		return mci_fail(-EOPNOTSUPP,
				"this build has no redis client; build it with 'make USE_REDIS=1'");
#endif
	case MCI_METADATA_HTTP:
#if USE_HTTP
		*ops = &mci_metadata_http;
		return 0;
#else
		return mci_fail(-EOPNOTSUPP,
				"this build has no HTTP metadata client; build it with 'make USE_HTTP=1'");
#endif
	case MCI_METADATA_P2P:
		break;
	}
	return mci_fail(-EINVAL,
			"P2PHANDSHAKE means that there is no metadata server, so none can be opened");
}

int mci_metadata_open(const char *uri, const struct mci_metadata_options *options, struct mci_metadata **out)
{
	struct mci_metadata_options filled = { 0 };
	struct mci_metadata *metadata;
	enum mci_metadata_kind kind;
	int ret;

	mci_log_init();
	if (options)
		filled = *options;
	ret = mci_metadata_kind(uri, &kind);
	if (ret)
		return ret;
	metadata = calloc(1, sizeof(*metadata));
	if (!metadata)
		return mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
	ret = choose(kind, &metadata->ops);
	if (ret)
		goto err_free;
	if (!filled.timeout_ms)
		filled.timeout_ms = 3000;
	if (!filled.lease_ms)
		filled.lease_ms = LEASE_MS;
	if (filled.lease_ms < LEASE_MIN_MS)
		filled.lease_ms = LEASE_MIN_MS;
	metadata->lease_ms = filled.lease_ms;
	metadata->timeout_ms = filled.timeout_ms;
	ret = mci_lease_init(metadata);
	if (ret)
		goto err_free;
	ret = metadata->ops->open(uri, &filled, &metadata->backend);
	if (ret)
		goto err_finish;
	pthread_mutex_init(&metadata->watch_lock, NULL);
	*out = metadata;
	return 0;

err_finish:
	mci_lease_finish(metadata);
err_free:
	free(metadata);
	return ret;
}

void mci_metadata_close(struct mci_metadata *metadata)
{
	if (!metadata)
		return;
	mci_watch_end(metadata);
	mci_lease_finish(metadata);
	metadata->ops->close(metadata->backend);
	pthread_mutex_destroy(&metadata->watch_lock);
	free(metadata);
}

static int check_key(const char *key)
{
	if (!key || !*key || strlen(key) > KEY_MAX)
		return mci_fail(-EINVAL, "a metadata key has 1 to %d characters", KEY_MAX);
	return 0;
}

int mci_metadata_fetch(struct mci_metadata *metadata, const char *key, struct mci_metadata_value *value)
{
	int ret = check_key(key);

	return ret ? ret : metadata->ops->get(metadata->backend, key, value);
}

int mci_metadata_store(struct mci_metadata *metadata, const char *key, const char *text)
{
	uint64_t version;
	int ret = check_key(key);

	return ret ? ret
		   : metadata->ops->put(metadata->backend, key, text, strlen(text), NULL, false, &version);
}

int mci_metadata_remove(struct mci_metadata *metadata, const char *key)
{
	int ret = check_key(key);

	return ret ? ret : metadata->ops->del(metadata->backend, key, NULL);
}

int mci_metadata_swap(struct mci_metadata *metadata, const char *key, const char *text, uint64_t expect)
{
	uint64_t version;
	int ret = check_key(key);

	if (!ret)
		ret = metadata->ops->put(metadata->backend, key, text, strlen(text), &expect, false, &version);
	return ret == -EEXIST ? -ESTALE : ret;
}

int mci_metadata_drop(struct mci_metadata *metadata, const char *key, uint64_t version)
{
	int ret = check_key(key);

	return ret ? ret : metadata->ops->del(metadata->backend, key, &version);
}

int mci_metadata_list(struct mci_metadata *metadata, const char *prefix,
		      int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg),
		      void *arg)
{
	if (!metadata->ops->list)
		return mci_fail(-EOPNOTSUPP, "this metadata server cannot list its keys");
	return metadata->ops->list(metadata->backend, prefix, fn, arg);
}
