// SPDX-License-Identifier: MIT
/*
 * The metadata server's store: one lock over keys, log and watchers; a thread for expiry and watch
 * deadlines; with a log file, a thread that syncs and compacts it (server_compact.c).
 * mci_keystore.lock is the only lock; fn() of watchers runs without it.
 */
#include "metadata/server_store.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "metadata/server_compact.h"

#define EXPIRE_BATCH 256

static bool begins_with(const char *text, const char *prefix)
{
	return !strncmp(text, prefix, strlen(prefix));
}

static void unlink_watcher(struct mci_watcher *watcher)
{
	*watcher->link = watcher->next;
	if (watcher->next)
		watcher->next->link = watcher->link;
}

/* Moves a watcher from the store to *fired. Lock held. */
static void fire(struct mci_keystore *store, struct mci_watcher *watcher, bool changed,
		 struct mci_watcher **fired)
{
	unlink_watcher(watcher);
	store->watcher_count--;
	store->firing++;
	watcher->version = store->version;
	watcher->changed = changed;
	watcher->next = *fired;
	*fired = watcher;
}

static void call_fired(struct mci_keystore *store, struct mci_watcher *fired)
{
	unsigned int n;

	if (!fired)
		return;
	for (n = 0; fired; n++) {
		struct mci_watcher *next = fired->next; /* fn() may free it */

		fired->fn(fired);
		fired = next;
	}
	pthread_mutex_lock(&store->lock);
	store->firing -= n;
	if (!store->firing)
		pthread_cond_broadcast(&store->fired);
	pthread_mutex_unlock(&store->lock);
}

/* Lock held. The key's change becomes known: to the ring, and to those who wait. */
static void note_change(struct mci_keystore *store, const char *key, uint64_t version,
			struct mci_watcher **fired)
{
	struct mci_change *change = &store->ring[store->ring_next++ % MCI_CHANGES];
	struct mci_watcher *watcher, *next;

	if (change->key)
		store->ring_floor = change->version;
	free(change->key);
	change->key = strdup(key);
	change->version = version;
	if (!change->key)
		store->ring_floor = version; /* what we cannot remember counts as "may have changed" */
	for (watcher = store->watchers; watcher; watcher = next) {
		next = watcher->next;
		if (begins_with(key, watcher->prefix))
			fire(store, watcher, true, fired);
	}
}

static void wake_timer(struct mci_keystore *store, uint64_t at_ns)
{
	if (at_ns && at_ns < store->timer_at)
		pthread_cond_signal(&store->timer_wake);
}

static int append(struct mci_keystore *store, enum mci_keylog_type type, const char *key, size_t key_length,
		  const struct mci_blob *value, uint32_t ttl_ms, uint64_t version)
{
	struct mci_keylog_record record = {
		.type = type,
		.version = version,
		.ttl_ms = ttl_ms,
		.key = key,
		.key_length = (uint16_t)key_length,
		.value = value ? value->bytes : NULL,
		.value_length = value ? value->length : 0,
	};
	int ret;

	if (!store->log)
		return 0;
	ret = mci_keylog_append(store->log, &record);
	mci_compact_note(store, ret);
	return ret;
}

/* Lock held. Takes the key out; its record must have been appended. */
static void take_out(struct mci_keystore *store, struct mci_key *key, struct mci_watcher **fired)
{
	note_change(store, key->text, ++store->version, fired);
	store->live_bytes -= mci_keylog_record_size(key->length, key->value->length);
	mci_keys_remove(&store->keys, key);
}

/*
 * Lock held. If the log cannot take the record the key goes nevertheless: after a restart it would live for
 * one time to live more, and then go again.
 */
static void expire(struct mci_keystore *store, struct mci_key *key, struct mci_watcher **fired)
{
	append(store, MCI_KEYLOG_DELETE, key->text, key->length, NULL, 0, store->version + 1);
	take_out(store, key, fired);
}

/* Lock held. The key, if it is there and alive. */
static struct mci_key *find_alive(struct mci_keystore *store, const char *text, struct mci_watcher **fired)
{
	struct mci_key *key = mci_keys_find(&store->keys, text);

	if (key && key->expires_ns && key->expires_ns <= mci_now_ns()) {
		expire(store, key, fired);
		key = NULL;
	}
	return key;
}

static int check(const struct mci_keystore_if *condition, const struct mci_key *key)
{
	switch (condition->when) {
	case MCI_WHEN_ABSENT:
		return key ? -EEXIST : 0;
	case MCI_WHEN_PRESENT:
		return key ? 0 : -ESTALE;
	case MCI_WHEN_VERSION:
		return key && key->version == condition->version ? 0 : -ESTALE;
	case MCI_WHEN_ANY:
		break;
	}
	return 0;
}

static uint64_t expiry(uint32_t ttl_ms) { return ttl_ms ? mci_now_ns() + ttl_ms * MCI_NS_PER_MS : 0; }

/* Lock held. */
static int put_locked(struct mci_keystore *store, const char *text, struct mci_blob *value, uint32_t ttl_ms,
		      struct mci_key *key, struct mci_watcher **fired)
{
	uint64_t old = key ? mci_keys_cost(key->length, key->value->length) : 0;
	uint64_t cost = mci_keys_cost(strlen(text), value->length);
	uint64_t expires_ns;
	int ret;

	if (cost > old && store->keys.bytes - old + cost > store->max_bytes)
		return mci_fail(-ENOSPC,
				"the metadata server holds %llu bytes in %llu keys, of at most %llu; nothing "
				"was changed; delete keys, or start it with a larger --max_bytes",
				(unsigned long long)store->keys.bytes, (unsigned long long)store->keys.count,
				(unsigned long long)store->max_bytes);
	key = mci_keys_prepare(&store->keys, text);
	if (!key)
		return mci_fail(-ENOMEM,
				"the metadata server has no memory for another key; nothing was changed");
	ret = append(store, MCI_KEYLOG_PUT, text, key->length, value, ttl_ms, store->version + 1);
	if (ret) {
		mci_keys_cancel(key);
		return ret;
	}
	expires_ns = expiry(ttl_ms);
	store->live_bytes += mci_keylog_record_size(key->length, value->length);
	if (key->value)
		store->live_bytes -= mci_keylog_record_size(key->length, key->value->length);
	mci_keys_commit(&store->keys, key, mci_blob_get(value), ++store->version, ttl_ms, expires_ns);
	note_change(store, text, store->version, fired);
	wake_timer(store, expires_ns);
	return 0;
}

int mci_keystore_put(struct mci_keystore *store, const char *text, struct mci_blob *value, uint32_t ttl_ms,
		     const struct mci_keystore_if *condition, uint64_t *version)
{
	struct mci_watcher *fired = NULL;
	struct mci_key *key;
	int ret;

	pthread_mutex_lock(&store->lock);
	key = find_alive(store, text, &fired);
	ret = check(condition, key);
	*version = key ? key->version : 0;
	if (!ret)
		ret = put_locked(store, text, value, ttl_ms, key, &fired);
	if (!ret)
		*version = store->version;
	pthread_mutex_unlock(&store->lock);
	call_fired(store, fired);
	return ret;
}

int mci_keystore_delete(struct mci_keystore *store, const char *text, const struct mci_keystore_if *condition,
			uint64_t *version)
{
	struct mci_watcher *fired = NULL;
	struct mci_key *key;
	int ret;

	pthread_mutex_lock(&store->lock);
	key = find_alive(store, text, &fired);
	*version = key ? key->version : 0;
	ret = key ? check(condition, key) : -ENOENT;
	if (!ret)
		ret = append(store, MCI_KEYLOG_DELETE, text, key->length, NULL, 0, store->version + 1);
	if (!ret) {
		take_out(store, key, &fired);
		*version = store->version;
	}
	pthread_mutex_unlock(&store->lock);
	call_fired(store, fired);
	return ret;
}

int mci_keystore_renew(struct mci_keystore *store, const char *text, uint32_t ttl_ms,
		       const struct mci_keystore_if *condition, uint64_t *version)
{
	struct mci_watcher *fired = NULL;
	struct mci_key *key;
	uint32_t ttl;
	int ret;

	pthread_mutex_lock(&store->lock);
	key = find_alive(store, text, &fired);
	*version = key ? key->version : 0;
	ret = key ? check(condition, key) : -ENOENT;
	if (ret)
		goto out;
	ttl = ttl_ms ? ttl_ms : key->ttl_ms;
	if (!mci_keys_prepare(&store->keys, text))
		ret = mci_fail(-ENOMEM, "the metadata server has no memory to renew a key");
	else if (ttl != key->ttl_ms)
		ret = append(store, MCI_KEYLOG_PUT, text, key->length, key->value, ttl, key->version);
	if (!ret) {
		mci_keys_touch(&store->keys, key, ttl, expiry(ttl));
		wake_timer(store, key->expires_ns);
	}
out:
	pthread_mutex_unlock(&store->lock);
	call_fired(store, fired);
	return ret;
}

int mci_keystore_get(struct mci_keystore *store, const char *text, struct mci_keystore_item *item)
{
	struct mci_watcher *fired = NULL;
	struct mci_key *key;

	pthread_mutex_lock(&store->lock);
	key = find_alive(store, text, &fired);
	if (key) {
		item->key = NULL;
		item->value = mci_blob_get(key->value);
		item->version = key->version;
	}
	pthread_mutex_unlock(&store->lock);
	call_fired(store, fired);
	return key ? 0 : -ENOENT;
}

int mci_keystore_page(struct mci_keystore *store, const char *prefix, const char *after, size_t max,
		      size_t max_bytes, struct mci_keystore_item *items, size_t *count, bool *more)
{
	uint64_t now = mci_now_ns();
	struct mci_key *key;
	size_t n = 0, bytes = 0;

	*more = false;
	pthread_mutex_lock(&store->lock);
	if (after && strcmp(after, prefix) > 0)
		key = mci_keys_seek(&store->keys, after, true);
	else
		key = mci_keys_seek(&store->keys, prefix, after && !strcmp(after, prefix));
	for (; key && begins_with(key->text, prefix); key = key->next[0]) {
		if (key->expires_ns && key->expires_ns <= now)
			continue;
		bytes += key->length + key->value->length;
		*more = n == max || (n && bytes > max_bytes);
		if (*more)
			break;
		items[n].key = strdup(key->text);
		if (!items[n].key)
			break;
		items[n].value = mci_blob_get(key->value);
		items[n++].version = key->version;
	}
	pthread_mutex_unlock(&store->lock);
	if (key && !*more && begins_with(key->text, prefix)) {
		while (n)
			mci_keystore_item_free(&items[--n]);
		return mci_fail(-ENOMEM, "the metadata server has no memory to list keys");
	}
	*count = n;
	return 0;
}

void mci_keystore_item_free(struct mci_keystore_item *item)
{
	free(item->key);
	mci_blob_put(item->value);
	memset(item, 0, sizeof(*item));
}

/* Lock held. */
static bool changed_since(const struct mci_keystore *store, const char *prefix, uint64_t since)
{
	unsigned int i;

	if (since > store->version || since < store->ring_floor)
		return true;
	for (i = 0; i < MCI_CHANGES; i++) {
		const struct mci_change *change = &store->ring[i];

		if (change->key && change->version > since && begins_with(change->key, prefix))
			return true;
	}
	return false;
}

int mci_keystore_watch(struct mci_keystore *store, struct mci_watcher *watcher, uint64_t since)
{
	int ret = 0;

	pthread_mutex_lock(&store->lock);
	if (changed_since(store, watcher->prefix, since)) {
		watcher->version = store->version;
		watcher->changed = true;
		ret = 1;
	} else if (store->ending || store->watcher_count == MCI_WATCHERS_MAX) {
		ret = -EAGAIN;
	} else {
		watcher->next = store->watchers;
		watcher->link = &store->watchers;
		if (watcher->next)
			watcher->next->link = &watcher->next;
		store->watchers = watcher;
		store->watcher_count++;
		wake_timer(store, watcher->deadline_ns);
	}
	pthread_mutex_unlock(&store->lock);
	return ret;
}

void mci_keystore_end_watches(struct mci_keystore *store)
{
	struct mci_watcher *fired = NULL;

	pthread_mutex_lock(&store->lock);
	store->ending = true;
	while (store->watchers)
		fire(store, store->watchers, false, &fired);
	pthread_mutex_unlock(&store->lock);
	call_fired(store, fired);
	pthread_mutex_lock(&store->lock);
	while (store->firing)
		pthread_cond_wait(&store->fired, &store->lock);
	pthread_mutex_unlock(&store->lock);
}

/* Lock held. One batch of what is due; when the next is. */
static uint64_t run_due(struct mci_keystore *store, struct mci_watcher **fired)
{
	uint64_t now = mci_now_ns(), next = UINT64_MAX;
	struct mci_watcher *watcher, *behind;
	struct mci_key *key;
	unsigned int n;

	for (n = 0; (key = mci_keys_next_expiry(&store->keys)) && key->expires_ns <= now && n < EXPIRE_BATCH;
	     n++)
		expire(store, key, fired);
	if (key)
		next = key->expires_ns;
	for (watcher = store->watchers; watcher; watcher = behind) {
		behind = watcher->next;
		if (watcher->deadline_ns <= now)
			fire(store, watcher, false, fired);
		else if (watcher->deadline_ns < next)
			next = watcher->deadline_ns;
	}
	return next;
}

static void *timer_main(void *arg)
{
	struct mci_keystore *store = arg;

	pthread_mutex_lock(&store->lock);
	while (!store->closing) {
		struct mci_watcher *fired = NULL;

		store->timer_at = run_due(store, &fired);
		if (fired) {
			pthread_mutex_unlock(&store->lock);
			call_fired(store, fired);
			pthread_mutex_lock(&store->lock);
			continue;
		}
		if (store->timer_at == UINT64_MAX) {
			pthread_cond_wait(&store->timer_wake, &store->lock);
		} else if (store->timer_at > mci_now_ns()) {
			mci_keystore_wait(store, &store->timer_wake, store->timer_at);
		} else {
			/* a long queue of expired keys: let the others in between */
			pthread_mutex_unlock(&store->lock);
			pthread_mutex_lock(&store->lock);
		}
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

/* Replay of one record; nobody else knows the store yet. */
static int apply(void *arg, const struct mci_keylog_record *record)
{
	struct mci_keystore *store = arg;
	struct mci_blob *value;
	struct mci_key *key;
	char text[MCI_KEY_MAX + 1];

	memcpy(text, record->key, record->key_length);
	text[record->key_length] = 0;
	if (record->version > store->version)
		store->version = record->version;
	if (record->type == MCI_KEYLOG_DELETE) {
		key = mci_keys_find(&store->keys, text);
		if (key) {
			store->live_bytes -= mci_keylog_record_size(key->length, key->value->length);
			mci_keys_remove(&store->keys, key);
		}
		return 0;
	}
	value = mci_blob_new(&store->budget, record->value_length);
	key = value ? mci_keys_prepare(&store->keys, text) : NULL;
	if (!key) {
		mci_blob_put(value);
		return mci_fail(-ENOMEM, "no memory for the keys of the log file");
	}
	value->length = record->value_length;
	memcpy(value->bytes, record->value, record->value_length);
	if (key->value)
		store->live_bytes -= mci_keylog_record_size(key->length, key->value->length);
	store->live_bytes += mci_keylog_record_size(record->key_length, record->value_length);
	mci_keys_commit(&store->keys, key, value, record->version, record->ttl_ms, expiry(record->ttl_ms));
	return 0;
}

static void init_locks(struct mci_keystore *store)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&store->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&store->timer_wake, &monotonic);
	pthread_cond_init(&store->log_wake, &monotonic);
	pthread_cond_init(&store->fired, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static void free_store(struct mci_keystore *store)
{
	unsigned int i;

	mci_keylog_close(store->log);
	mci_keys_free(&store->keys);
	for (i = 0; i < MCI_CHANGES; i++)
		free(store->ring[i].key);
	pthread_cond_destroy(&store->fired);
	pthread_cond_destroy(&store->log_wake);
	pthread_cond_destroy(&store->timer_wake);
	pthread_mutex_destroy(&store->lock);
	free(store);
}

int mci_keystore_open(const char *log_file, uint64_t max_bytes, uint64_t max_in_flight,
		      struct mci_keystore **out)
{
	struct mci_keystore *store = calloc(1, sizeof(*store));
	struct mci_keylog_report report = {0};
	struct timespec now;
	uint64_t wall_us;
	int ret;

	if (!store)
		return mci_fail(-ENOMEM, "no memory for a metadata server");
	store->max_bytes = max_bytes;
	store->budget.max = max_in_flight;
	store->timer_at = UINT64_MAX;
	init_locks(store);
	mci_keys_init(&store->keys);
	if (log_file) {
		ret = mci_keylog_open(log_file, apply, store, &store->log, &report);
		if (ret)
			goto err_free;
		mci_info("log file '%s': %llu records, %llu keys", log_file,
			 (unsigned long long)report.records, (unsigned long long)store->keys.count);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	wall_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
	if (wall_us > store->version)
		store->version = wall_us;
	store->ring_floor = store->version;
	ret = -pthread_create(&store->timer_thread, NULL, timer_main, store);
	if (ret) {
		ret = mci_fail(ret, "no thread for the metadata server: %s", strerror(-ret));
		goto err_free;
	}
	if (store->log) {
		ret = mci_compact_start(store, report.damaged_bytes > 0);
		if (ret)
			goto err_timer;
	}
	*out = store;
	return 0;

err_timer:
	pthread_mutex_lock(&store->lock);
	store->closing = true;
	pthread_cond_signal(&store->timer_wake);
	pthread_mutex_unlock(&store->lock);
	pthread_join(store->timer_thread, NULL);
err_free:
	free_store(store);
	return ret;
}

void mci_keystore_close(struct mci_keystore *store)
{
	if (!store)
		return;
	mci_keystore_end_watches(store);
	pthread_mutex_lock(&store->lock);
	store->closing = true;
	pthread_cond_signal(&store->timer_wake);
	pthread_cond_signal(&store->log_wake);
	pthread_mutex_unlock(&store->lock);
	pthread_join(store->timer_thread, NULL);
	if (store->log)
		mci_compact_join(store);
	free_store(store);
}

struct mci_budget *mci_keystore_budget(struct mci_keystore *store) { return &store->budget; }

void mci_keystore_wait(struct mci_keystore *store, pthread_cond_t *cond, uint64_t at_ns)
{
	struct timespec at = {.tv_sec = (time_t)(at_ns / MCI_NS_PER_S),
			      .tv_nsec = (long)(at_ns % MCI_NS_PER_S)};

	pthread_cond_timedwait(cond, &store->lock, &at);
}
