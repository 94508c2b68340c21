// SPDX-License-Identifier: MIT
/*
 * The etcd backend: keys, compare-and-swap by revision, and one lease that all our published keys hang on.
 * Lock: etcd.lock guards the lease's id, and is held while a lease is granted, so that there is only one.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/log.h"
#include "metadata/etcd.h"

#define PAGE 64 /* keys per request of a listing; fewer if they are very long */

struct etcd {
	struct mci_etcd_gateway *gateway;
	unsigned int ttl_s;
	pthread_mutex_t lock;
	uint64_t lease; /* 0 = none */
};

static int etcd_open(const char *uri, const struct mci_metadata_options *options, void **backend)
{
	struct etcd *etcd = calloc(1, sizeof(*etcd));
	int ret;

	if (!etcd)
		return mci_fail(-ENOMEM, "no memory for the connection to etcd");
	etcd->ttl_s = (options->lease_ms + 999) / 1000;
	pthread_mutex_init(&etcd->lock, NULL);
	ret = mci_etcd_gateway_open(uri, options, &etcd->gateway);
	if (ret)
		goto err_free;
	ret = mci_etcd_probe(etcd->gateway);
	if (ret)
		goto err_gateway;
	*backend = etcd;
	return 0;

err_gateway:
	mci_etcd_gateway_close(etcd->gateway);
err_free:
	pthread_mutex_destroy(&etcd->lock);
	free(etcd);
	return ret;
}

static void etcd_close(void *backend)
{
	struct etcd *etcd = backend;
	size_t length;
	char *reply;

	/* Only keys that still hang on our lease go with it. */
	if (etcd->lease && !mci_etcd_call(etcd->gateway, "kv/lease/revoke",
					  mci_etcd_encode_lease(etcd->lease, 0), &reply, &length))
		free(reply);
	mci_etcd_gateway_close(etcd->gateway);
	pthread_mutex_destroy(&etcd->lock);
	free(etcd);
}

/* The lease to bind to; granted now if there is none. */
static int get_lease(struct etcd *etcd, uint64_t *lease)
{
	uint64_t id, ttl_s;
	size_t length;
	char *reply;
	int ret = 0;

	pthread_mutex_lock(&etcd->lock);
	if (etcd->lease) {
		*lease = etcd->lease;
		goto out_unlock;
	}
	ret = mci_etcd_call(etcd->gateway, "lease/grant", mci_etcd_encode_lease(0, etcd->ttl_s), &reply,
			    &length);
	if (ret)
		goto out_unlock;
	ret = mci_etcd_decode_lease(reply, length, &id, &ttl_s);
	free(reply);
	if (ret)
		ret = mci_etcd_bad_reply(etcd->gateway, "lease/grant");
	else
		*lease = etcd->lease = id;
out_unlock:
	pthread_mutex_unlock(&etcd->lock);
	return ret;
}

static void forget_lease(struct etcd *etcd, uint64_t lease)
{
	pthread_mutex_lock(&etcd->lock);
	if (etcd->lease == lease)
		etcd->lease = 0;
	pthread_mutex_unlock(&etcd->lock);
	mci_info("etcd let our lease expire; another is taken");
}

static int etcd_begin_renewal(void *backend)
{
	uint64_t id, ttl_s, lease;
	struct etcd *etcd = backend;
	size_t length;
	char *reply;
	int ret;

	ret = get_lease(etcd, &lease);
	if (ret)
		return ret;
	ret = mci_etcd_call(etcd->gateway, "lease/keepalive", mci_etcd_encode_lease(lease, 0), &reply,
			    &length);
	if (!ret) {
		ret = mci_etcd_decode_lease(reply, length, &id, &ttl_s);
		free(reply);
		if (ret)
			return mci_etcd_bad_reply(etcd->gateway, "lease/keepalive");
		if (ttl_s)
			return 0;
		ret = MCI_ETCD_NO_LEASE;
	}
	if (ret != MCI_ETCD_NO_LEASE)
		return ret;
	forget_lease(etcd, lease);
	return get_lease(etcd, &lease);
}

struct found {
	struct mci_metadata_value *value;
	uint64_t lease;
	bool found;
};

static int keep_value(const struct mci_etcd_kv *kv, void *arg)
{
	struct found *found = arg;

	if (found->found)
		return 0;
	found->value->text = malloc(kv->length + 1);
	if (!found->value->text)
		return -ENOMEM;
	memcpy(found->value->text, kv->text, kv->length + 1);
	found->value->length = kv->length;
	found->value->version = kv->revision;
	found->lease = kv->lease;
	found->found = true;
	return 0;
}

static int get_with_lease(struct etcd *etcd, const char *key, struct mci_metadata_value *value,
			  uint64_t *lease)
{
	struct mci_metadata_value got = { 0 };
	struct found found = { .value = &got };
	size_t length;
	char *reply;
	bool more;
	int ret;

	ret = mci_etcd_call(etcd->gateway, "kv/range", mci_etcd_encode_get(key), &reply, &length);
	if (ret)
		return ret;
	ret = mci_etcd_decode_range(reply, length, keep_value, &found, &more);
	free(reply);
	if (ret) {
		free(got.text);
		return ret == -ENOMEM ? mci_fail(ret, "no memory for the metadata key '%s'", key)
				      : mci_etcd_bad_reply(etcd->gateway, "kv/range");
	}
	if (!found.found)
		return -ENOENT;
	*value = got;
	*lease = found.lease;
	return 0;
}

static int etcd_get(void *backend, const char *key, struct mci_metadata_value *value)
{
	uint64_t lease;

	return get_with_lease(backend, key, value, &lease);
}

static int put_once(struct etcd *etcd, const char *key, const char *text, size_t length,
		    const uint64_t *expect, uint64_t lease, uint64_t *version)
{
	const char *path = expect ? "kv/txn" : "kv/put";
	bool succeeded = true;
	uint64_t revision;
	size_t reply_length;
	char *reply;
	bool exists;
	int ret;

	ret = mci_etcd_call(etcd->gateway, path,
			    expect ? mci_etcd_encode_txn(key, text, length, lease, *expect)
				   : mci_etcd_encode_put(key, text, length, lease),
			    &reply, &reply_length);
	if (ret)
		return ret;
	if (expect)
		ret = mci_etcd_decode_txn(reply, reply_length, &succeeded, &exists, &revision);
	else
		ret = mci_etcd_decode_revision(reply, reply_length, &revision);
	free(reply);
	if (ret)
		return mci_etcd_bad_reply(etcd->gateway, path);
	if (!succeeded)
		return -ESTALE;
	*version = revision;
	return 0;
}

static int etcd_put(void *backend, const char *key, const char *text, size_t length, const uint64_t *expect,
		    bool lease, uint64_t *version)
{
	struct etcd *etcd = backend;
	uint64_t id = 0;
	int tries;
	int ret;

	for (tries = 0;; tries++) {
		ret = lease ? get_lease(etcd, &id) : 0;
		if (ret)
			return ret;
		ret = put_once(etcd, key, text, length, expect, id, version);
		if (ret != MCI_ETCD_NO_LEASE || !lease || tries == 2)
			return ret;
		forget_lease(etcd, id);
	}
}

static int etcd_del(void *backend, const char *key, const uint64_t *expect)
{
	const char *path = expect ? "kv/txn" : "kv/deleterange";
	struct etcd *etcd = backend;
	bool succeeded, exists;
	uint64_t deleted, revision;
	size_t length;
	char *reply;
	int ret;

	ret = mci_etcd_call(etcd->gateway, path,
			    expect ? mci_etcd_encode_txn(key, NULL, 0, 0, *expect)
				   : mci_etcd_encode_delete(key),
			    &reply, &length);
	if (ret)
		return ret;
	if (expect)
		ret = mci_etcd_decode_txn(reply, length, &succeeded, &exists, &revision);
	else
		ret = mci_etcd_decode_deleted(reply, length, &deleted);
	free(reply);
	if (ret)
		return mci_etcd_bad_reply(etcd->gateway, path);
	if (!expect)
		return deleted ? 0 : -ENOENT;
	return succeeded ? 0 : exists ? -ESTALE : -ENOENT;
}

struct listing {
	int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg);
	void *arg;
	char *last;
	int stopped;
};

static int list_one(const struct mci_etcd_kv *kv, void *arg)
{
	struct mci_metadata_value value = { (char *)kv->text, kv->length, kv->revision };
	struct listing *listing = arg;

	free(listing->last);
	listing->last = strdup(kv->key);
	if (!listing->last)
		return -ENOMEM;
	listing->stopped = listing->fn(kv->key, &value, listing->arg);
	return listing->stopped;
}

static int etcd_list(void *backend, const char *prefix,
		     int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg), void *arg)
{
	struct listing listing = { .fn = fn, .arg = arg };
	struct etcd *etcd = backend;
	unsigned int page = PAGE;
	char *before = NULL;
	bool more = true;
	size_t length;
	char *reply;
	int ret = 0;

	while (more && !ret) {
		ret = mci_etcd_call(etcd->gateway, "kv/range",
				    mci_etcd_encode_range(prefix, before ? before : prefix, before, page),
				    &reply, &length);
		if (ret == -EMSGSIZE && page > 1) {
			page /= 4;
			ret = 0;
			continue;
		}
		if (ret)
			break;
		ret = mci_etcd_decode_range(reply, length, list_one, &listing, &more);
		free(reply);
		if (listing.stopped)
			break;
		if (ret)
			ret = mci_etcd_bad_reply(etcd->gateway, "kv/range");
		else if (more && (!listing.last || (before && strcmp(listing.last, before) <= 0)))
			ret = mci_etcd_bad_reply(etcd->gateway, "kv/range"); /* it would go round for ever */
		free(before);
		before = listing.last;
		listing.last = NULL;
	}
	free(before);
	free(listing.last);
	return ret;
}

/* The lease was renewed before; what is left is to see that the key hangs on it and holds our text. */
static int etcd_renew(void *backend, const char *key, const char *text, size_t length, uint64_t *version)
{
	struct mci_metadata_value value;
	struct etcd *etcd = backend;
	uint64_t lease, ours;
	bool same;
	int ret;

	ret = get_with_lease(etcd, key, &value, &lease);
	if (ret)
		return ret;
	same = value.length == length && !memcmp(value.text, text, length);
	free(value.text);
	if (!same)
		return -ESTALE;
	ret = get_lease(etcd, &ours);
	if (ret)
		return ret;
	if (lease == ours) {
		*version = value.version;
		return 0;
	}
	return etcd_put(etcd, key, text, length, &value.version, true, version);
}

static int etcd_watch(void *backend, const char *prefix, int cancel_fd, void (*fn)(void *arg), void *arg)
{
	struct etcd *etcd = backend;

	return mci_etcd_watch(etcd->gateway, prefix, cancel_fd, fn, arg);
}

const struct mci_metadata_ops mci_metadata_etcd = {
	.name = "etcd",
	.open = etcd_open,
	.close = etcd_close,
	.get = etcd_get,
	.put = etcd_put,
	.del = etcd_del,
	.list = etcd_list,
	.renew = etcd_renew,
	.begin_renewal = etcd_begin_renewal,
	.watch = etcd_watch,
};
