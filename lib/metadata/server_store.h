/* SPDX-License-Identifier: MIT */
/*
 * What the metadata server keeps: keys with versions and times to live, their log file, and who waits
 * for a change. Thread-safe. Versions count the changes of the whole store; they start at the wall
 * clock in microseconds, so that a restart without a log never hands one out again.
 */
#ifndef MCI_SERVER_STORE_H
#define MCI_SERVER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "metadata/server_keys.h"
#include "metadata/server_log.h"

#define MCI_WATCHERS_MAX 4096

struct mci_keystore;

/* Condition of a change. */
enum mci_keystore_when { MCI_WHEN_ANY, MCI_WHEN_ABSENT, MCI_WHEN_PRESENT, MCI_WHEN_VERSION };

struct mci_keystore_if {
	enum mci_keystore_when when;
	uint64_t version;
};

struct mci_keystore_item {
	char *key;		/* malloc'd; not set by get */
	struct mci_blob *value; /* a reference */
	uint64_t version;
};

/* Embed it; yours until fn() was called or mci_keystore_watch() did not return 0. */
struct mci_watcher {
	const char *prefix;
	uint64_t deadline_ns;
	void (*fn)(struct mci_watcher *watcher); /* once, any thread, no lock held */
	uint64_t version;			 /* of the store, set before fn() */
	bool changed;				 /* false: deadline, or the server ends */
	struct mci_watcher *next, **link;
};

/* @log_file may be NULL. @max_bytes: of keys and values, each key counting MCI_KEY_OVERHEAD more. */
int mci_keystore_open(const char *log_file, uint64_t max_bytes, uint64_t max_in_flight,
		      struct mci_keystore **store);
void mci_keystore_end_watches(
	struct mci_keystore *store);		     /* fires all, waits for their fn(), refuses new ones */
void mci_keystore_close(struct mci_keystore *store); /* everything is on the disk after it */
struct mci_budget *mci_keystore_budget(struct mci_keystore *store);

int mci_keystore_get(struct mci_keystore *store, const char *key,
		     struct mci_keystore_item *item); /* -ENOENT */
/*
 * Takes a reference of its own to @value. @ttl_ms 0 = for ever. *version: the new one; on -EEXIST and
 * -ESTALE the one that is there (0 = none).
 * -EEXIST, -ESTALE: the condition does not hold; -ENOSPC, -EIO, -ENOMEM: with a sentence, nothing changed.
 */
int mci_keystore_put(struct mci_keystore *store, const char *key, struct mci_blob *value, uint32_t ttl_ms,
		     const struct mci_keystore_if *condition, uint64_t *version);
/* -ENOENT; else as put. */
int mci_keystore_delete(struct mci_keystore *store, const char *key, const struct mci_keystore_if *condition,
			uint64_t *version);
/* The time to live begins anew; @ttl_ms 0 = keep its length. The version stays. -ENOENT; else as put. */
int mci_keystore_renew(struct mci_keystore *store, const char *key, uint32_t ttl_ms,
		       const struct mci_keystore_if *condition, uint64_t *version);
/*
 * Keys that begin with @prefix, in order, beyond @after (NULL = from the first): at most @max of them, and
 * at most @max_bytes of keys and values. *more: there are further ones. Items are the caller's.
 */
int mci_keystore_page(struct mci_keystore *store, const char *prefix, const char *after, size_t max,
		      size_t max_bytes, struct mci_keystore_item *items, size_t *count, bool *more);
void mci_keystore_item_free(struct mci_keystore_item *item);

/*
 * 1: something under the prefix changed after version @since, or may have (watcher->version is set);
 * 0: it waits, fn() will be called; -EAGAIN: too many wait, or the server ends.
 */
int mci_keystore_watch(struct mci_keystore *store, struct mci_watcher *watcher, uint64_t since);

#endif
