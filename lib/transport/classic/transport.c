// SPDX-License-Identifier: MIT
/* The transport "tcp-classic" as the engine sees it: client always, server under --classic. */
#include <stdio.h>
#include <stdlib.h>

#include "core/errors.h"
#include "transport/classic/classic.h"

static int classic_open(struct mci_transport_host *host, struct mci_transport **transport)
{
	struct classic *classic = calloc(1, sizeof(*classic));
	int ret;

	if (!classic)
		return mci_fail(-ENOMEM, "no memory for the classic transport");
	classic->host = host;
	pthread_mutex_init(&classic->lock, NULL);
	pthread_cond_init(&classic->changed, NULL);
	if (host->options.classic) {
		ret = mci_classic_server_start(host, &classic->server);
		if (ret)
			goto err_free;
	}
	*transport = (struct mci_transport *)classic;
	return 0;

err_free:
	pthread_cond_destroy(&classic->changed);
	pthread_mutex_destroy(&classic->lock);
	free(classic);
	return ret;
}

static void classic_close(struct mci_transport *transport)
{
	struct classic *classic = (struct classic *)transport;

	mci_classic_helper_stop(classic);
	mci_classic_server_stop(classic->server);
	pthread_cond_destroy(&classic->changed);
	pthread_mutex_destroy(&classic->lock);
	free(classic);
}

static int classic_describe(struct mci_transport *transport, json_t *mine)
{
	struct classic *classic = (struct classic *)transport;

	/* Client only: nothing is served that could be published. */
	if (!classic->server)
		return -EOPNOTSUPP;
	if (json_object_set_new(mine, "port", json_integer(mci_classic_server_port(classic->server))))
		return mci_fail(-ENOMEM, "no memory for the descriptor");
	return 0;
}

static int classic_region_remove(struct mci_transport *transport, struct mci_region *region,
				 uint64_t deadline_ns)
{
	struct classic *classic = (struct classic *)transport;

	if (classic->server && region->classic)
		mci_classic_server_hurry(classic->server, region, deadline_ns);
	return 0;
}

/* Posted under the lock: once it is released the peer may be closed by whoever waited for these requests. */
static void wake_locked(struct classic_peer *peer)
{
	if (!peer->wake_posted)
		mci_loop_post(peer->loop, &peer->wake);
	peer->wake_posted = true;
}

static void classic_submit(struct mci_peer *handle, struct mci_request *first)
{
	struct classic_peer *peer = (struct classic_peer *)handle;
	struct mci_request *last = first;

	while (last->next)
		last = last->next;
	pthread_mutex_lock(&peer->lock);
	if (peer->incoming.last)
		peer->incoming.last->next = first;
	else
		peer->incoming.first = first;
	peer->incoming.last = last;
	wake_locked(peer);
	pthread_mutex_unlock(&peer->lock);
}

/* The loop looks at all requests: those meant carry a flag. */
static void classic_cancel(struct mci_peer *handle, struct mci_request *request)
{
	struct classic_peer *peer = (struct classic_peer *)handle;

	(void)request;
	pthread_mutex_lock(&peer->lock);
	peer->sweep_asked = true;
	wake_locked(peer);
	pthread_mutex_unlock(&peer->lock);
}

static int classic_fence(struct mci_peer *handle, uint64_t deadline_ns)
{
	struct classic_peer *peer = (struct classic_peer *)handle;

	(void)deadline_ns;
	if (!atomic_load(&peer->unsettled))
		return 0;
	return mci_fail(-EOPNOTSUPP,
			"a write to classic segment '%s' ended without an answer, and the classic protocol "
			"has no way to say what became of it",
			peer->name);
}

static int classic_region_usable(struct mci_peer *handle, struct mci_remote_region *region)
{
	struct classic_peer *peer = (struct classic_peer *)handle;

	if (!region->base)
		return mci_fail(-EOPNOTSUPP,
				"segment '%s' hides the address of region %u, which the classic protocol "
				"needs",
				peer->name, region->id);
	return 0;
}

static void classic_detail(struct mci_peer *handle, const struct mci_remote_region *region, char *text,
			   size_t size)
{
	struct classic_peer *peer = (struct classic_peer *)handle;

	(void)region;
	snprintf(text, size, "classic v%d, %u lanes%s", peer->v2 ? 2 : 1, peer->lane_count,
		 peer->v2 ? "" : ", writes unconfirmed");
}

const struct mci_transport_ops mci_transport_classic = {
	.id = MCI_TRANSPORT_CLASSIC,
	.name = "tcp-classic",
	.classic = true,
	.open = classic_open,
	.close = classic_close,
	.describe = classic_describe,
	.region_remove = classic_region_remove,
	.peer_open = mci_classic_peer_open,
	.peer_close = mci_classic_peer_close,
	.submit = classic_submit,
	.cancel = classic_cancel,
	.fence = classic_fence,
	.region_usable = classic_region_usable,
	.detail = classic_detail,
};
