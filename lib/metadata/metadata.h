/* SPDX-License-Identifier: MIT */
/*
 * The metadata service as the engine sees it: keys and JSON texts, compare-and-swap, leases.
 * Backends (etcd.c, redis.c, http.c) fill struct mci_metadata_ops; metadata.c picks one by URI, keeps
 * what this process published alive, and tells the owner when a key was taken over.
 * Thread-safe. Calls block, at most @timeout_ms (default 3000), over all endpoints together.
 */
#ifndef MCI_METADATA_H
#define MCI_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mci_metadata;

struct mci_metadata_options {
	uint32_t timeout_ms;			    /* 0 = 3000 */
	uint32_t lease_ms;			    /* 0 = 10000 */
	const char *user, *password;		    /* etcd, redis */
	const char *ca_file, *cert_file, *key_file; /* TLS: etcd, https */
	const char *bearer;			    /* our HTTP server under a cluster key */
	unsigned int redis_db;
	bool use_proxy; /* obey http_proxy & co.; default is to bypass */
};

struct mci_metadata_value {
	char *text; /* malloc'd, NUL behind it */
	size_t length;
	uint64_t version; /* for compare-and-swap; backend's own, 0 = backend has none */
};

enum mci_metadata_kind { MCI_METADATA_ETCD, MCI_METADATA_REDIS, MCI_METADATA_HTTP, MCI_METADATA_P2P };

/* What a URI means, without connecting. -EINVAL with a sentence. P2P has no backend: open refuses it. */
int mci_metadata_kind(const char *uri, enum mci_metadata_kind *kind);
/* First host of the URI, for choosing the address to advertise and for "is it loopback". */
int mci_metadata_host(const char *uri, char *host, size_t size);

/* Connects and probes: an unreachable server fails here, within the timeout, with a sentence. */
int mci_metadata_open(const char *uri, const struct mci_metadata_options *options,
		      struct mci_metadata **metadata);
void mci_metadata_close(struct mci_metadata *metadata); /* withdraws what is still published */

/* -ENOENT: no such key (no sentence needed); -EIO, -ETIMEDOUT, -ECONNREFUSED, -EACCES with a sentence. */
int mci_metadata_fetch(struct mci_metadata *metadata, const char *key, struct mci_metadata_value *value);
int mci_metadata_store(struct mci_metadata *metadata, const char *key, const char *text); /* no lease */
/* The same if the key still has @version (0 = does not exist): -ESTALE = not any more. No lease. */
int mci_metadata_swap(struct mci_metadata *metadata, const char *key, const char *text, uint64_t version);
int mci_metadata_drop(struct mci_metadata *metadata, const char *key, uint64_t version);
int mci_metadata_remove(struct mci_metadata *metadata, const char *key);		  /* -ENOENT */
/* Keys beginning with @prefix. -EOPNOTSUPP if the server cannot list (classic HTTP servers). */
int mci_metadata_list(struct mci_metadata *metadata, const char *prefix,
		      int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg),
		      void *arg);

/*
 * Publish @key = @text under our lease, and renew it until withdrawn. @expect: version that was seen
 * there (0 = must not exist); @replace: overwrite whatever is there (backends without CAS: put, read back).
 * -EEXIST: somebody else put something else there first.
 * A key that vanished (server restarted, we were stalled) is published again at the next heartbeat,
 * lease/3 apart. A key that holds another's value: @lost runs once (heartbeat thread, no lock held),
 * and renewal of that key ends.
 */
int mci_metadata_publish(struct mci_metadata *metadata, const char *key, const char *text, uint64_t expect,
			 bool replace);
int mci_metadata_withdraw(struct mci_metadata *metadata,
			  const char *key); /* removes it only if it still is ours */
void mci_metadata_on_lost(struct mci_metadata *metadata, void (*lost)(void *arg, const char *key), void *arg);

/* Call @fn(arg) soon after anything under @prefix changed (etcd: watch; else polled each second).
 * @fn may also run without a change: when a watch begins, or begins anew (etcd: each minute at least).
 * One watch per metadata object; watch thread. NULL fn ends it and waits for a running @fn. */
int mci_metadata_watch(struct mci_metadata *metadata, const char *prefix, void (*fn)(void *arg), void *arg);

/* ---- for backends ---- */

struct mci_metadata_ops {
	const char *name;
	int (*open)(const char *uri, const struct mci_metadata_options *options, void **backend);
	void (*close)(void *backend);
	int (*get)(void *backend, const char *key, struct mci_metadata_value *value);
	/*
	 * @expect: NULL = unconditional; *expect == 0 = must not exist; else must be that version (-ESTALE if
	 * not).
	 * @lease: bind to our lease / TTL. On success *version is the new version.
	 */
	int (*put)(void *backend, const char *key, const char *text, size_t length, const uint64_t *expect,
		   bool lease, uint64_t *version);
	int (*del)(void *backend, const char *key, const uint64_t *expect);
	int (*list)(void *backend, const char *prefix,
		    int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg), void *arg);
	/*
	 * Renew one published key. 0; -ENOENT: it is gone; -ESTALE: another value is there; else unreachable.
	 * Backends with one lease for all keys renew it in begin_renewal().
	 */
	int (*renew)(void *backend, const char *key, const char *text, size_t length, uint64_t *version);
	int (*begin_renewal)(void *backend); /* may be NULL */
	int (*watch)(void *backend, const char *prefix, int cancel_fd, void (*fn)(void *arg),
		     void *arg); /* NULL = poll; blocks till cancel_fd is readable */
};

extern const struct mci_metadata_ops mci_metadata_etcd, mci_metadata_redis, mci_metadata_http;

#endif
