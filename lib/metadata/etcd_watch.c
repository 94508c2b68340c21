// SPDX-License-Identifier: MIT
/*
 * Wait for changes under a prefix in etcd. A watch always begins at the present, and its beginning
 * counts as a change: so a lost connection or a compaction in between can hide nothing.
 */
#include "core/errors.h"
#include "metadata/etcd.h"

struct watch {
	struct mci_etcd_gateway *gateway;
	void (*fn)(void *arg);
	void *arg;
};

static int on_line(void *arg, const char *line, size_t length)
{
	struct mci_etcd_event event = { .changed = true };
	struct watch *watch = arg;

	if (line && mci_etcd_decode_watch(line, length, &event))
		return mci_etcd_bad_reply(watch->gateway, "watch");
	if (event.error.code || event.cancelled) {
		mci_etcd_forget_token(watch->gateway);
		return mci_fail(-EIO, "etcd ended a watch: %s", event.error.message);
	}
	if (event.created || event.changed)
		watch->fn(watch->arg);
	return 0;
}

int mci_etcd_watch(struct mci_etcd_gateway *gateway, const char *prefix, int cancel_fd, void (*fn)(void *arg),
		   void *arg)
{
	struct watch watch = { gateway, fn, arg };
	int ret;

	ret = mci_etcd_probe(gateway);
	if (ret)
		return ret;
	return mci_etcd_stream(gateway, "watch", mci_etcd_encode_watch(prefix), cancel_fd, on_line, &watch);
}
