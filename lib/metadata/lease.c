// SPDX-License-Identifier: MIT
/*
 * Keys that this process keeps alive: publish, withdraw, and the heartbeat that renews them.
 * Lock: mci_metadata.lock guards the list. Who talks to the server about an entry sets its busy flag
 * first, drops the lock, and owns the entry until the flag is cleared.
 */
#include "metadata/lease.h"

#include <stdlib.h>
#include <string.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"

#define RETRY_MS 1000 /* pause after an unreachable server, if a third of the lease is longer */
#define ATTEMPTS 4    /* compare-and-swap rounds before somebody else is taken to be faster */

static bool same(const struct mci_metadata_value *value, const char *text)
{
	return text && value->length == strlen(text) && !memcmp(value->text, text, value->length);
}

static int put(struct mci_metadata *metadata, const char *key, const char *text, const uint64_t *expect,
	       uint64_t *version)
{
	return metadata->ops->put(metadata->backend, key, text, strlen(text), expect, true, version);
}

static int taken(const char *key)
{
	return mci_fail(-EEXIST,
			"the metadata key '%s' holds what another process put there; use another name, or "
			"end that process",
			key);
}

/* Overwrite; where the server cannot compare, look whether it stayed. */
static int put_over(struct mci_metadata *metadata, const char *key, const char *text, uint64_t *version)
{
	struct mci_metadata_value value;
	uint64_t got = 0;
	bool mine;
	int ret;

	ret = put(metadata, key, text, NULL, &got);
	if (ret)
		return ret;
	if (!got) {
		ret = metadata->ops->get(metadata->backend, key, &value);
		if (ret == -ENOENT)
			return taken(key);
		if (ret)
			return ret;
		mine = same(&value, text);
		free(value.text);
		if (!mine)
			return taken(key);
	}
	*version = got;
	return 0;
}

/*
 * Put @text if the key still has version @expect. A refusal is not the last word: the key may be gone
 * (expired, server restarted), or hold @text (an answer got lost) or what we had there (@old, @other).
 */
static int put_ours(struct mci_metadata *metadata, const char *key, const char *text, const char *old,
		    const char *other, uint64_t expect, uint64_t *version)
{
	struct mci_metadata_value value;
	unsigned int i;
	bool mine;
	int ret;

	for (i = 0; i < ATTEMPTS; i++) {
		ret = put(metadata, key, text, &expect, version);
		if (ret != -ESTALE)
			return ret;
		ret = metadata->ops->get(metadata->backend, key, &value);
		if (ret == -ENOENT) {
			expect = 0;
			continue;
		}
		if (ret)
			return ret;
		mine = same(&value, text) || same(&value, old) || same(&value, other);
		expect = value.version;
		free(value.text);
		if (!mine)
			break;
		if (!expect)
			return put_over(metadata, key, text, version);
	}
	return taken(key);
}

/* Remove the key if it holds what we put there. 0: it holds nothing of ours now. */
static int del_ours(struct mci_metadata *metadata, const struct mci_published *entry)
{
	struct mci_metadata_value value;
	uint64_t version = entry->version;
	unsigned int i;
	bool mine;
	int ret;

	for (i = 0; i < ATTEMPTS; i++) {
		if (version) {
			ret = metadata->ops->del(metadata->backend, entry->key, &version);
			if (ret != -ESTALE)
				return ret == -ENOENT ? 0 : ret;
		}
		ret = metadata->ops->get(metadata->backend, entry->key, &value);
		if (ret)
			return ret == -ENOENT ? 0 : ret;
		mine = same(&value, entry->text) || same(&value, entry->other);
		version = value.version;
		free(value.text);
		if (!mine)
			return 0;
		if (!version) {
			ret = metadata->ops->del(metadata->backend, entry->key, NULL);
			return ret == -ENOENT ? 0 : ret;
		}
	}
	return 0; /* it changes faster than we can look: others write it */
}

static void free_entry(struct mci_published *entry)
{
	if (!entry)
		return;
	free(entry->key);
	free(entry->text);
	free(entry->other);
	free(entry);
}

static struct mci_published *find(struct mci_metadata *metadata, const char *key)
{
	struct mci_published *entry;

	for (entry = metadata->published; entry; entry = entry->next)
		if (!strcmp(entry->key, key))
			return entry;
	return NULL;
}

/* Lock held. The entry of @key, once nobody is busy with it, marked busy; NULL if there is none. */
static struct mci_published *take(struct mci_metadata *metadata, const char *key)
{
	struct mci_published *entry;

	while ((entry = find(metadata, key)) && entry->busy)
		pthread_cond_wait(&metadata->changed, &metadata->lock);
	if (entry)
		entry->busy = true;
	return entry;
}

static void release(struct mci_metadata *metadata, struct mci_published *entry)
{
	entry->busy = false;
	pthread_cond_broadcast(&metadata->changed);
}

static void unlink_entry(struct mci_metadata *metadata, struct mci_published *entry)
{
	struct mci_published **at = &metadata->published;

	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
	pthread_cond_broadcast(&metadata->changed);
}

/* Lock dropped, entry busy: renew what is ours. -EEXIST: it is somebody else's now. */
static int renew(struct mci_metadata *metadata, struct mci_published *entry)
{
	uint64_t version = entry->version;
	int ret;

	if (entry->leaving)
		return del_ours(metadata, entry);
	ret = metadata->ops->renew(metadata->backend, entry->key, entry->text, strlen(entry->text), &version);
	if (ret == -ENOENT) {
		mci_info("the metadata key '%s' vanished; it is published again", entry->key);
		ret = put_ours(metadata, entry->key, entry->text, NULL, entry->other, 0, &version);
	} else if (ret == -ESTALE) {
		ret = put_ours(metadata, entry->key, entry->text, NULL, entry->other, entry->version,
			       &version);
	}
	if (!ret) {
		entry->version = version;
		free(entry->other);
		entry->other = NULL;
	}
	return ret;
}

/* Lock held; dropped for the callback. */
static void lose(struct mci_metadata *metadata, struct mci_published *entry)
{
	void (*lost)(void *arg, const char *key) = metadata->lost;
	void *arg = metadata->lost_arg;

	unlink_entry(metadata, entry);
	pthread_mutex_unlock(&metadata->lock);
	mci_warn("the metadata key '%s' was taken over by another process", entry->key);
	if (lost)
		lost(arg, entry->key);
	free_entry(entry);
	pthread_mutex_lock(&metadata->lock);
}

static void note_reachable(struct mci_metadata *metadata, int ret)
{
	if (!!ret == metadata->unreachable)
		return;
	metadata->unreachable = !!ret;
	if (ret)
		mci_warn("what this process published cannot be renewed now, and is tried again each second: "
			 "%s",
			 mc_errmsg());
	else
		mci_info("the metadata server answers again");
}

static struct mci_published *next_of_round(struct mci_metadata *metadata)
{
	struct mci_published *entry;

	for (entry = metadata->published; entry; entry = entry->next)
		if (!entry->busy && entry->round != metadata->round)
			return entry;
	return NULL;
}

/* Lock held, dropped while the server is asked. */
static int renew_all(struct mci_metadata *metadata)
{
	struct mci_published *entry;
	int ret = 0;

	metadata->round++;
	if (metadata->ops->begin_renewal) {
		pthread_mutex_unlock(&metadata->lock);
		ret = metadata->ops->begin_renewal(metadata->backend);
		pthread_mutex_lock(&metadata->lock);
	}
	while (!ret && !metadata->stopping && (entry = next_of_round(metadata))) {
		entry->busy = true;
		entry->round = metadata->round;
		pthread_mutex_unlock(&metadata->lock);
		ret = renew(metadata, entry);
		pthread_mutex_lock(&metadata->lock);
		release(metadata, entry);
		if (!ret && entry->leaving) {
			unlink_entry(metadata, entry);
			free_entry(entry);
		} else if (ret == -EEXIST) {
			lose(metadata, entry);
			ret = 0;
		}
	}
	return ret;
}

static void *heartbeat(void *arg)
{
	struct mci_metadata *metadata = arg;
	struct timespec until;
	uint64_t pause_ms = metadata->lease_ms / 3;
	uint64_t deadline;
	int ret;

	pthread_mutex_lock(&metadata->lock);
	for (;;) {
		deadline = mci_now_ns() + pause_ms * MCI_NS_PER_MS;
		until.tv_sec = (time_t)(deadline / MCI_NS_PER_S);
		until.tv_nsec = (long)(deadline % MCI_NS_PER_S);
		while (!metadata->stopping && mci_now_ns() < deadline)
			pthread_cond_timedwait(&metadata->changed, &metadata->lock, &until);
		if (metadata->stopping)
			break;
		if (!metadata->published)
			continue;
		ret = renew_all(metadata);
		note_reachable(metadata, ret);
		pause_ms = metadata->lease_ms / 3;
		if (ret && pause_ms > RETRY_MS)
			pause_ms = RETRY_MS;
	}
	pthread_mutex_unlock(&metadata->lock);
	return NULL;
}

/* Lock held. */
static int start_heartbeat(struct mci_metadata *metadata)
{
	if (metadata->heartbeat_runs)
		return 0;
	if (mci_thread_start(&metadata->heartbeat, heartbeat, metadata))
		return mci_fail(
			-EAGAIN,
			"no thread for the heartbeat to the metadata server; is a limit on threads reached?");
	metadata->heartbeat_runs = true;
	return 0;
}

/* Lock held. A busy entry for a key that is not published yet. */
static struct mci_published *add(struct mci_metadata *metadata, const char *key)
{
	struct mci_published *entry = calloc(1, sizeof(*entry));

	if (!entry)
		return NULL;
	entry->key = strdup(key);
	if (!entry->key) {
		free(entry);
		return NULL;
	}
	entry->busy = true;
	entry->leaving = true; /* until it is there */
	entry->next = metadata->published;
	metadata->published = entry;
	return entry;
}

/* After these the server holds what it held before; after others nobody knows. */
static bool is_certain(int err)
{
	return err == -EEXIST || err == -EINVAL || err == -EACCES || err == -EOPNOTSUPP || err == -ENOSPC ||
	       err == -EROFS;
}

/* Lock held. The publication of @text failed with @err. Takes @text. */
static void settle_failure(struct mci_metadata *metadata, struct mci_published *entry, char *text, int err)
{
	if (is_certain(err) && !entry->text) {
		unlink_entry(metadata, entry);
		free_entry(entry);
		free(text);
		return;
	}
	if (is_certain(err)) {
		free(text);
	} else if (!entry->text) {
		entry->text = text; /* the heartbeat sees to its removal */
	} else {
		free(entry->other);
		entry->other = text;
	}
	release(metadata, entry);
}

int mci_metadata_publish(struct mci_metadata *metadata, const char *key, const char *text, uint64_t expect,
			 bool replace)
{
	char *copy = strdup(text);
	struct mci_published *entry;
	uint64_t version = 0;
	bool live;
	int ret;

	pthread_mutex_lock(&metadata->lock);
	ret = start_heartbeat(metadata);
	entry = ret || !copy ? NULL : take(metadata, key);
	if (!entry && !ret && copy)
		entry = add(metadata, key);
	pthread_mutex_unlock(&metadata->lock);
	if (!entry) {
		free(copy);
		return ret ? ret : mci_fail(-ENOMEM, "no memory to publish the metadata key '%s'", key);
	}
	live = entry->text && !entry->leaving;
	if (replace)
		ret = put_over(metadata, key, text, &version);
	else
		ret = put_ours(metadata, key, text, entry->text, entry->other,
			       live && !expect ? entry->version : expect, &version);

	pthread_mutex_lock(&metadata->lock);
	if (ret) {
		settle_failure(metadata, entry, copy, ret);
	} else {
		free(entry->text);
		free(entry->other);
		entry->text = copy;
		entry->other = NULL;
		entry->version = version;
		entry->leaving = false;
		release(metadata, entry);
	}
	pthread_mutex_unlock(&metadata->lock);
	return ret;
}

int mci_metadata_withdraw(struct mci_metadata *metadata, const char *key)
{
	struct mci_published *entry;
	int ret;

	pthread_mutex_lock(&metadata->lock);
	entry = take(metadata, key);
	pthread_mutex_unlock(&metadata->lock);
	if (!entry)
		return mci_fail(-ENOENT, "the metadata key '%s' is not published by this process", key);
	ret = del_ours(metadata, entry);
	pthread_mutex_lock(&metadata->lock);
	release(metadata, entry);
	if (ret) {
		entry->leaving = true;
	} else {
		unlink_entry(metadata, entry);
		free_entry(entry);
	}
	pthread_mutex_unlock(&metadata->lock);
	return ret;
}

void mci_metadata_on_lost(struct mci_metadata *metadata, void (*lost)(void *arg, const char *key), void *arg)
{
	pthread_mutex_lock(&metadata->lock);
	metadata->lost = lost;
	metadata->lost_arg = arg;
	pthread_mutex_unlock(&metadata->lock);
}

int mci_lease_init(struct mci_metadata *metadata)
{
	pthread_condattr_t attr;

	if (pthread_condattr_init(&attr))
		return mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&metadata->lock, NULL);
	pthread_cond_init(&metadata->changed, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

void mci_lease_finish(struct mci_metadata *metadata)
{
	uint64_t deadline;
	struct mci_published *entry;
	bool gave_up = false;

	pthread_mutex_lock(&metadata->lock);
	metadata->stopping = true;
	pthread_cond_broadcast(&metadata->changed);
	pthread_mutex_unlock(&metadata->lock);
	if (metadata->heartbeat_runs)
		pthread_join(metadata->heartbeat, NULL);
	deadline = mci_now_ns() + metadata->timeout_ms * MCI_NS_PER_MS;
	while ((entry = metadata->published)) {
		gave_up = gave_up || mci_now_ns() > deadline || del_ours(metadata, entry);
		if (gave_up)
			mci_warn("the metadata key '%s' could not be withdrawn; it ends with its lease of %u "
				 "ms",
				 entry->key, metadata->lease_ms);
		metadata->published = entry->next;
		free_entry(entry);
	}
	pthread_cond_destroy(&metadata->changed);
	pthread_mutex_destroy(&metadata->lock);
}
