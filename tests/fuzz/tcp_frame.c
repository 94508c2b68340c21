// SPDX-License-Identifier: MIT
/*
 * Whatever comes over a data connection: the codec alone, a target fed with requests, an initiator fed
 * with replies. The first byte says which.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/tcp/peer.h"
#include "transport/tcp/serve.h"

#define REGION 4096
#define REQUESTS 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mci_identity self;
static unsigned int completed;

static int on_notify(void *engine, const struct mc_uuid *sender, uint64_t sequence, const void *p,
		     uint32_t length)
{
	struct mci_notify_body body;

	(void)engine;
	(void)sender;
	(void)sequence;
	if (mci_notify_decode(p, length, &body))
		abort();
	return length % 2 ? -ENOBUFS : 0;
}

static void on_complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
			uint32_t flags)
{
	(void)flags;
	if (state == MC_DONE && (error || bytes != request->length))
		abort();
	completed++;
}

static void codec(const uint8_t *data, size_t size)
{
	uint8_t again[MCI_TCP_HEADER];
	struct mci_tcp_granted granted;
	struct mci_tcp_params params;
	struct mci_tcp_header h;
	const char *why;

	if (size >= MCI_TCP_HEADER && !mci_tcp_header_decode(data, &h, &why)) {
		mci_tcp_header_encode(&h, again);
		if (memcmp(data, again, sizeof(again)) || mci_tcp_payload_length(&h) > MCI_TCP_SLICE_MAX)
			abort();
	}
	mci_tcp_params_decode(data, size, &params);
	mci_tcp_granted_decode(data, size, &granted);
}

static void drain(struct mci_tcp_conn *conn)
{
	for (; mci_tcp_tx_count(&conn->tx); conn->tx.head++) {
		struct mci_region *region = conn->tx.ring[conn->tx.head & conn->tx.mask].cookie;

		if (region)
			mci_region_put(region);
	}
}

static void target(const uint8_t *data, size_t size)
{
	struct mci_transport_host host = {.self = &self, .notify = on_notify};
	struct mci_region region = {
		.length = REGION, .rights = MC_REMOTE_READ | MC_REMOTE_WRITE, .memfd = -1};
	struct mci_tcp tcp = {.host = &host};
	struct mci_tcp_conn *conn = calloc(1, sizeof(*conn));
	struct mci_tcp_session session = {0};
	size_t n;
	int ret = 0;

	region.addr = malloc(REGION); /* exactly, so that ASAN sees a byte too many */
	if (!conn || mci_tcp_conn_init(conn, MCI_TCP_SLOTS) || mci_regions_create(&host.regions) ||
	    mci_regions_add(host.regions, &region))
		abort();
	pthread_mutex_init(&tcp.lock, NULL);
	conn->tcp = &tcp;
	conn->session = &session;
	conn->checksum = size && data[0] & 1;
	while (size && !ret) {
		/* So few that the ring of answers has room for them. */
		n = size < 200 * MCI_TCP_HEADER ? size : 200 * MCI_TCP_HEADER;
		ret = mci_tcp_rx_feed(&conn->rx, data, n);
		drain(conn);
		data += n;
		size -= n;
	}
	if (conn->region)
		mci_region_put(conn->region);
	if (conn->source)
		mci_region_put(conn->source);
	if (atomic_load(&region.users))
		abort();
	mci_tcp_conn_put(conn);
	free(session.outcomes);
	mci_regions_retire(host.regions, &region, true);
	mci_regions_remove(host.regions, &region, 0);
	mci_regions_destroy(host.regions);
	pthread_mutex_destroy(&tcp.lock);
	free(region.addr);
}

static void initiator(const uint8_t *data, size_t size)
{
	static const struct mci_tcp_granted granted = {.slots = 16, .slice_max = 1 << 20};
	static struct mci_loops loops; /* has nothing to do: the frames are fed by hand */
	struct mci_transport_host host = {.self = &self, .loops = &loops, .complete = on_complete};
	struct mci_tcp tcp = {.host = &host};
	struct mci_tcp_peer *peer = calloc(1, sizeof(*peer));
	struct mci_tcp_link *link = calloc(1, sizeof(*link));
	struct mci_tcp_handle handle = {.peer = peer};
	struct mci_hello hello = {.params_length = MCI_TCP_GRANTED};
	struct mci_request requests[REQUESTS];
	struct mci_remote_region remote = {.id = 1, .length = REGION};
	struct mci_sock sock = {.fd = -1};
	uint8_t *local[REQUESTS];
	int pair[2], i;

	if (!loops.count && mci_loops_start("fuzz", 1, &loops))
		abort();
	if (!peer || !link || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
		abort();
	peer->tcp = &tcp;
	peer->refs = 2;
	peer->slice_size = 1000;
	peer->state = MCI_TCP_UP;
	peer->link = link;
	peer->timer_at = 1; /* armed, so to speak */
	pthread_mutex_init(&peer->lock, NULL);
	pthread_cond_init(&peer->changed, NULL);
	link->refs = 2;
	sock.fd = pair[0];
	mci_tcp_granted_encode(&granted, hello.params);
	if (mci_tcp_stream_new(peer, link, sock, &hello))
		abort();
	memset(requests, 0, sizeof(requests));
	for (i = 0; i < REQUESTS; i++) {
		uint64_t length = i % 4 == 3 ? 2500 : 16u << i;

		local[i] = calloc(1, length);
		requests[i] = (struct mci_request){.op = i % 2 ? MCI_OP_READ : MCI_OP_WRITE,
						   .remote = &remote,
						   .local = local[i],
						   .length = length,
						   .deadline_ns = UINT64_MAX};
		requests[i].next = i + 1 < REQUESTS ? &requests[i + 1] : NULL;
	}
	mci_tcp_submit((struct mci_peer *)&handle, requests);
	mci_tcp_rx_feed(&link->streams[0]->rx, data, size);
	close(pair[0]);
	close(pair[1]);
	mci_tcp_link_put(link);
	mci_tcp_link_put(link);
	mci_tcp_peer_put(peer);
	mci_tcp_peer_put(peer);
	for (i = 0; i < REQUESTS; i++)
		free(local[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	switch (data[0] % 3) {
	case 0:
		codec(data + 1, size - 1);
		break;
	case 1:
		target(data + 1, size - 1);
		break;
	case 2:
		initiator(data + 1, size - 1);
		break;
	}
	return 0;
}
