// SPDX-License-Identifier: MIT
/* Our own TCP dialect as the engine sees it: docs/protocol.md says what is on the wire. */
#include <errno.h>
#include <stdlib.h>

#include "core/errors.h"
#include "transport/tcp/tcp.h"

static int tcp_open(struct mci_transport_host *host, struct mci_transport **transport)
{
	struct mci_tcp *tcp = calloc(1, sizeof(*tcp));
	int ret;

	if (!tcp)
		return mci_fail(-ENOMEM, "no memory for the TCP transport");
	tcp->host = host;
	mci_tcp_peers_open(tcp);
	ret = mci_tcp_sessions_open(tcp);
	if (ret) {
		mci_tcp_peers_close(tcp);
		free(tcp);
		return ret;
	}
	*transport = (struct mci_transport *)tcp;
	return 0;
}

static void tcp_close(struct mci_transport *transport)
{
	struct mci_tcp *tcp = (struct mci_tcp *)transport;

	if (!mci_tcp_sessions_close(tcp))
		return;
	mci_tcp_peers_close(tcp);
	free(tcp);
}

static int tcp_describe(struct mci_transport *transport, json_t *mine)
{
	(void)transport;
	if (json_object_set_new(mine, "version", json_integer(MCI_TCP_VERSION)))
		return mci_fail(-ENOMEM, "no memory for the TCP transport's description");
	return 0;
}

const struct mci_transport_ops mci_transport_tcp = {
	.id = MCI_TRANSPORT_TCP,
	.name = "tcp",
	.open = tcp_open,
	.close = tcp_close,
	.describe = tcp_describe,
	.region_remove = mci_tcp_region_remove,
	.incoming = mci_tcp_incoming,
	.peer_open = mci_tcp_peer_open,
	.peer_close = mci_tcp_peer_close,
	.submit = mci_tcp_submit,
	.cancel = mci_tcp_cancel,
	.fence = mci_tcp_fence,
	.detail = mci_tcp_detail,
};
