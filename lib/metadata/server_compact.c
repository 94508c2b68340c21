// SPDX-License-Identifier: MIT
/*
 * The thread behind the metadata server's log file: brings changes to the disk within 100 ms, and writes
 * the file anew when most of it is garbage, when it was damaged, or when it could not be synced.
 * Lock: mci_keystore.lock, never held across a sync; the rewriting takes it for 1 MiB at a time.
 */
#include "metadata/server_compact.h"

#include <errno.h>
#include <string.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"

#include <mooncake/types.h>

#define SYNC_NS (100 * MCI_NS_PER_MS)
#define RETRY_NS (2 * MCI_NS_PER_S)
#define SMALL (1u << 20)   /* a file below this is not worth it */
#define STRETCH (1u << 20) /* bytes written per holding of the lock */

void mci_compact_note(struct mci_keystore *store, int append_result)
{
	if (append_result) {
		/* a full disk: a smaller file may help; a file that cannot be synced: a new one may */
		store->want_compact = true;
		pthread_cond_signal(&store->log_wake);
	} else if (!store->dirty) {
		store->dirty = true;
		store->dirty_since = mci_now_ns();
		pthread_cond_signal(&store->log_wake);
	}
}

static bool mostly_garbage(const struct mci_keystore *store)
{
	uint64_t size = mci_keylog_size(store->log);

	return size > SMALL && size / 2 > store->live_bytes;
}

/* Lock held. Writes living keys beyond @cursor; true: that was all. */
static int rewrite_stretch(struct mci_keystore *store, char *cursor, bool *done)
{
	struct mci_key *key = mci_keys_seek(&store->keys, cursor, *cursor != 0);
	size_t written = 0;

	for (; key && written < STRETCH; key = key->next[0]) {
		struct mci_keylog_record record = {
			.type = MCI_KEYLOG_PUT,
			.version = key->version,
			.ttl_ms = key->ttl_ms,
			.key = key->text,
			.key_length = key->length,
			.value = key->value->bytes,
			.value_length = key->value->length,
		};
		int ret = mci_keylog_rewrite(store->log, &record);

		if (ret)
			return ret;
		written += mci_keylog_record_size(key->length, key->value->length);
		memcpy(cursor, key->text, key->length + 1u);
	}
	*done = !key;
	return 0;
}

/* Lock held on entry and return, released in between. */
static int compact(struct mci_keystore *store)
{
	uint64_t before = mci_keylog_size(store->log);
	char cursor[MCI_KEY_MAX + 1] = "";
	bool done = false;
	int ret;

	ret = mci_keylog_compact_begin(store->log);
	if (ret)
		return ret;
	while (!done && !ret) {
		ret = store->closing ? -ECANCELED : rewrite_stretch(store, cursor, &done);
		pthread_mutex_unlock(&store->lock);
		if (!ret && done)
			ret = mci_keylog_compact_presync(store->log);
		pthread_mutex_lock(&store->lock);
	}
	if (ret) {
		mci_keylog_compact_abandon(store->log);
		return ret;
	}
	ret = mci_keylog_compact_finish(store->log);
	if (!ret)
		mci_info("the log file was written anew: %llu bytes, before %llu",
			 (unsigned long long)mci_keylog_size(store->log), (unsigned long long)before);
	return ret;
}

/* Lock held on entry and return. */
static int sync_log(struct mci_keystore *store)
{
	int ret;

	store->dirty = false;
	pthread_mutex_unlock(&store->lock);
	ret = mci_keylog_sync(store->log);
	if (ret)
		mci_error("%s", mc_errmsg());
	pthread_mutex_lock(&store->lock);
	if (ret)
		store->want_compact = true;
	return ret;
}

static void *log_main(void *arg)
{
	struct mci_keystore *store = arg;
	uint64_t not_before = 0;

	pthread_mutex_lock(&store->lock);
	while (!store->closing) {
		uint64_t now = mci_now_ns();
		bool wanted = store->want_compact || mostly_garbage(store);

		if (store->dirty && store->dirty_since + SYNC_NS <= now) {
			sync_log(store);
		} else if (wanted && not_before <= now) {
			store->want_compact = false;
			if (!compact(store)) {
				sync_log(store); /* the rename too */
			} else if (!store->closing) {
				mci_warn("%s", mc_errmsg());
				store->want_compact = true;
			}
			not_before = mci_now_ns() + RETRY_NS;
		} else if (store->dirty || wanted) {
			uint64_t at = store->dirty ? store->dirty_since + SYNC_NS : not_before;

			mci_keystore_wait(store, &store->log_wake,
					  wanted && not_before < at ? not_before : at);
		} else {
			pthread_cond_wait(&store->log_wake, &store->lock);
		}
	}
	sync_log(store);
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

int mci_compact_start(struct mci_keystore *store, bool now)
{
	int ret;

	store->want_compact = now;
	ret = -pthread_create(&store->log_thread, NULL, log_main, store);
	return ret ? mci_fail(ret, "no thread for the log file of the metadata server: %s", strerror(-ret))
		   : 0;
}

void mci_compact_join(struct mci_keystore *store) { pthread_join(store->log_thread, NULL); }
