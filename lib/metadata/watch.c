// SPDX-License-Identifier: MIT
/*
 * One watch per metadata object: a thread that waits in the backend, or compares listings each second.
 * Lock: mci_metadata.watch_lock, held over start and end, never by the thread.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <mooncake/types.h>
#include <xxhash.h>

#include "core/errors.h"
#include "core/log.h"
#include "metadata/lease.h"

#define PAUSE_MS 1000

struct mci_watch {
	struct mci_metadata *metadata;
	char *prefix;
	void (*fn)(void *arg);
	void *arg;
	uint64_t digest;
	int cancel_fd;
	pthread_t thread;
};

/* The order of a listing is the server's affair, so the hashes are summed. */
static int add_to_digest(const char *key, const struct mci_metadata_value *value, void *arg)
{
	uint64_t *sum = arg;

	*sum += XXH3_64bits_withSeed(value->text, value->length, XXH3_64bits(key, strlen(key))) | 1;
	return 0;
}

static int digest(struct mci_watch *watch, uint64_t *out)
{
	uint64_t sum = 0;
	int ret;

	ret = mci_metadata_list(watch->metadata, watch->prefix, add_to_digest, &sum);
	if (!ret)
		*out = sum;
	return ret;
}

static bool is_cancelled(const struct mci_watch *watch, int wait_ms)
{
	struct pollfd pfd = { .fd = watch->cancel_fd, .events = POLLIN };

	return poll(&pfd, 1, wait_ms) > 0;
}

static void poll_listing(struct mci_watch *watch)
{
	uint64_t now;

	while (!is_cancelled(watch, PAUSE_MS)) {
		if (digest(watch, &now) || now == watch->digest)
			continue;
		watch->digest = now;
		watch->fn(watch->arg);
	}
}

static void *run(void *arg)
{
	struct mci_watch *watch = arg;
	struct mci_metadata *metadata = watch->metadata;
	int ret;

	while (metadata->ops->watch && !is_cancelled(watch, 0)) {
		ret = metadata->ops->watch(metadata->backend, watch->prefix, watch->cancel_fd, watch->fn,
					   watch->arg);
		if (ret == -EOPNOTSUPP)
			break;
		if (ret && ret != -ECANCELED)
			mci_debug("the watch on '%s' ended (%s); it begins anew", watch->prefix, mc_errmsg());
		is_cancelled(watch, PAUSE_MS);
	}
	poll_listing(watch);
	return NULL;
}

static void free_watch(struct mci_watch *watch)
{
	if (watch->cancel_fd >= 0)
		close(watch->cancel_fd);
	free(watch->prefix);
	free(watch);
}

/* Watch lock held. */
static void end(struct mci_metadata *metadata)
{
	struct mci_watch *watch = metadata->watch;
	uint64_t one = 1;

	if (!watch)
		return;
	metadata->watch = NULL;
	if (write(watch->cancel_fd, &one, sizeof(one)) < 0)
		mci_error("an eventfd refused a byte: %s", strerror(errno));
	pthread_join(watch->thread, NULL);
	free_watch(watch);
}

static int start(struct mci_metadata *metadata, const char *prefix, void (*fn)(void *arg), void *arg)
{
	struct mci_watch *watch = calloc(1, sizeof(*watch));
	int ret;

	if (!watch)
		return mci_fail(-ENOMEM, "no memory to watch '%s'", prefix);
	watch->metadata = metadata;
	watch->fn = fn;
	watch->arg = arg;
	watch->prefix = strdup(prefix);
	watch->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!watch->prefix || watch->cancel_fd < 0) {
		ret = mci_fail(-ENOMEM, "no memory or no descriptor left to watch '%s'", prefix);
		goto err_free;
	}
	if (!metadata->ops->watch) {
		ret = digest(watch, &watch->digest);
		if (ret)
			goto err_free;
	}
	if (mci_thread_start(&watch->thread, run, watch)) {
		ret = mci_fail(-EAGAIN, "no thread to watch '%s'; is a limit on threads reached?", prefix);
		goto err_free;
	}
	metadata->watch = watch;
	return 0;

err_free:
	free_watch(watch);
	return ret;
}

int mci_metadata_watch(struct mci_metadata *metadata, const char *prefix, void (*fn)(void *arg), void *arg)
{
	int ret = 0;

	pthread_mutex_lock(&metadata->watch_lock);
	end(metadata);
	if (fn)
		ret = start(metadata, prefix, fn, arg);
	pthread_mutex_unlock(&metadata->watch_lock);
	return ret;
}

void mci_watch_end(struct mci_metadata *metadata)
{
	mci_metadata_watch(metadata, "", NULL, NULL);
}
