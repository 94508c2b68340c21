// SPDX-License-Identifier: MIT
/* A classic peer: opening, the queue in front of its lanes, and what happens when it cannot be reached. */
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "transport/classic/classic.h"

#define SWEEP_NS (20 * MCI_NS_PER_MS) /* no closer together: each looks at the whole queue */
#define REST_NS MCI_NS_PER_S	      /* between refreshes that fail */

void mci_classic_finish(struct classic_peer *peer, struct mci_request *request, enum mc_state state,
			int error, uint32_t flags)
{
	struct mci_transport_host *host = peer->classic->host;

	if (flags & MC_STATUS_UNCONFIRMED)
		mci_classic_count(&host->stats.unconfirmed);
	host->complete(request, state, error, state == MC_DONE ? request->length : 0, flags);
}

enum mc_state mci_classic_verdict(const struct classic_peer *peer, const struct mci_request *request,
				  int *error)
{
	if (atomic_load_explicit(&request->cancelled, memory_order_relaxed)) {
		*error = -ECANCELED;
		return MC_CANCELLED;
	}
	if (peer->stale ||
	    (request->remote && atomic_load_explicit(&request->remote->stale, memory_order_relaxed))) {
		*error = -ESTALE;
		return MC_FAILED;
	}
	if (mci_now_ns() >= request->deadline_ns) {
		*error = -ETIMEDOUT;
		return MC_TIMED_OUT;
	}
	return MC_PENDING;
}

/* ---- queue ---- */

static void enqueue(struct classic_peer *peer, struct mci_request *request, bool front)
{
	struct classic_queue *queue = request->priority > 0 ? &peer->urgent : &peer->pending;

	if (request->op == MCI_OP_NOTIFY)
		queue = &peer->notifies;
	if (front)
		mci_classic_push_front(queue, request);
	else
		mci_classic_push(queue, request);
	/* Requests that wait have no timer of their own: one sweep serves them all. */
	if (!peer->sweep.armed || request->deadline_ns < peer->sweep.at_ns) {
		uint64_t earliest = peer->swept_ns + SWEEP_NS;

		mci_loop_timer_set(peer->loop, &peer->sweep,
				   request->deadline_ns > earliest ? request->deadline_ns : earliest);
	}
}

/* Takes out what became final; returns the earliest deadline of what stays, or UINT64_MAX. */
static uint64_t sweep_queue(struct classic_peer *peer, struct classic_queue *queue)
{
	struct classic_queue all = *queue;
	struct mci_request *request;
	uint64_t earliest = UINT64_MAX;
	enum mc_state state;
	int error;

	*queue = (struct classic_queue){NULL, NULL};
	while ((request = mci_classic_pop(&all))) {
		state = mci_classic_verdict(peer, request, &error);
		if (state != MC_PENDING) {
			mci_classic_finish(peer, request, state, error, 0);
			continue;
		}
		if (request->deadline_ns < earliest)
			earliest = request->deadline_ns;
		mci_classic_push(queue, request);
	}
	return earliest;
}

static void sweep(struct classic_peer *peer)
{
	struct classic_queue *queues[] = {&peer->urgent, &peer->pending, &peer->notifies};
	uint64_t earliest = UINT64_MAX;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		uint64_t at = sweep_queue(peer, queues[i]);

		if (at < earliest)
			earliest = at;
	}
	peer->swept_ns = mci_now_ns();
	if (earliest == UINT64_MAX)
		mci_loop_timer_clear(peer->loop, &peer->sweep);
	else
		mci_loop_timer_set(peer->loop, &peer->sweep,
				   earliest > peer->swept_ns + SWEEP_NS ? earliest
									: peer->swept_ns + SWEEP_NS);
}

static void on_sweep(struct mci_timer *timer) { sweep(container(timer, struct classic_peer, sweep)); }

static struct mci_request *next_request(struct classic_peer *peer)
{
	struct mci_request *request;
	enum mc_state state;
	int error;

	for (;;) {
		request = mci_classic_pop(&peer->urgent);
		if (!request)
			request = mci_classic_pop(&peer->pending);
		if (!request)
			return NULL;
		state = mci_classic_verdict(peer, request, &error);
		if (state == MC_PENDING)
			return request;
		mci_classic_finish(peer, request, state, error, 0);
	}
}

static bool any_open(const struct classic_peer *peer)
{
	unsigned int i;

	for (i = 0; i < peer->lane_count; i++)
		if (peer->lanes[i].state == LANE_OPEN)
			return true;
	return false;
}

static bool resting(const struct classic_peer *peer)
{
	return peer->refreshed_ns && mci_now_ns() - peer->refreshed_ns < REST_NS;
}

/* An idle lane; a connected one first. No further ones while they cannot be connected. */
static struct classic_lane *idle_lane(struct classic_peer *peer)
{
	bool grow = !peer->refreshing && !(resting(peer) && any_open(peer));
	int connected;
	unsigned int i;

	for (connected = 1; connected >= (grow ? 0 : 1); connected--)
		for (i = 0; i < peer->lane_count; i++)
			if (mci_classic_lane_idle(&peer->lanes[i], connected))
				return &peer->lanes[i];
	return NULL;
}

void mci_classic_dispatch(struct classic_peer *peer)
{
	struct classic_lane *lane;
	struct mci_request *request;

	/* A lane that fails at once comes back here: the loop below goes on, instead of the stack. */
	if (peer->dispatching)
		return;
	peer->dispatching = true;
	while ((peer->urgent.first || peer->pending.first) && (lane = idle_lane(peer))) {
		request = next_request(peer);
		if (!request)
			break;
		mci_classic_lane_begin(lane, request);
	}
	peer->dispatching = false;
}

/* No connection is to be had: lanes that still have theirs carry on, else nobody is left to wait for. */
static void fail_waiting(struct classic_peer *peer, int error)
{
	struct mci_request *request;

	if (any_open(peer))
		return;
	while ((request = next_request(peer)))
		mci_classic_finish(peer, request, MC_FAILED, error, 0);
}

void mci_classic_lost(struct classic_peer *peer, struct mci_request *request, int error)
{
	peer->lost_error = error;
	enqueue(peer, request, true);
	if (peer->refreshing)
		return;
	if (resting(peer)) {
		fail_waiting(peer, error);
		return;
	}
	peer->refreshing = true;
	mci_classic_refresh(peer);
}

/* The helper is through. */
void mci_classic_refreshed(struct mci_task *task)
{
	struct classic_peer *peer = container(task, struct classic_peer, refreshed);
	struct classic_lane *lane = NULL;
	unsigned int i;

	peer->refreshing = false;
	if (peer->refresh_result == -ESTALE) {
		mci_info("classic peer '%s' was restarted: requests to it fail until it is opened anew",
			 peer->name);
		peer->stale = true;
		sweep(peer);
		return;
	}
	if (peer->refresh_result) {
		peer->refreshed_ns = mci_now_ns();
		fail_waiting(peer, peer->lost_error);
		mci_classic_dispatch(peer);
		return;
	}
	peer->refreshed_ns = 0;
	peer->target = peer->fresh_target;
	mci_classic_count(&peer->classic->host->stats.reconnects);
	for (i = 0; peer->v2 && i < peer->lane_count && !lane; i++)
		if (mci_classic_lane_idle(&peer->lanes[i], false))
			lane = &peer->lanes[i];
	if (lane)
		mci_classic_lane_adopt(lane, peer->fresh_fd);
	else
		close(peer->fresh_fd);
	mci_classic_dispatch(peer);
}

static void on_wake(struct mci_task *task)
{
	struct classic_peer *peer = container(task, struct classic_peer, wake);
	struct classic_queue incoming;
	struct mci_request *request;
	unsigned int i;
	bool check;

	pthread_mutex_lock(&peer->lock);
	incoming = peer->incoming;
	peer->incoming = (struct classic_queue){NULL, NULL};
	check = peer->sweep_asked;
	peer->sweep_asked = false;
	peer->wake_posted = false;
	pthread_mutex_unlock(&peer->lock);
	while ((request = mci_classic_pop(&incoming)))
		enqueue(peer, request, false);
	if (check) {
		sweep(peer);
		for (i = 0; i < peer->lane_count; i++)
			mci_classic_lane_check(&peer->lanes[i]);
		mci_classic_notify_check(peer);
	}
	mci_classic_dispatch(peer);
	mci_classic_notify_next(peer);
}

/* ---- connecting without blocking ---- */

static void set_port(struct classic_address *address, uint16_t port)
{
	if (address->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&address->sa)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)&address->sa)->sin_port = htons(port);
}

int mci_classic_dial(const struct classic_peer *peer, uint16_t port, int *out)
{
	struct classic_address target = peer->target;
	static const int on = 1;
	int fd, ret;

	set_port(&target, port);
	fd = socket(target.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (peer->source.length && peer->source.sa.ss_family == target.sa.ss_family) {
		/* The port is chosen by connect(): a bind() that has to find one takes milliseconds once many
		 * were used. */
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
		if (bind(fd, (const struct sockaddr *)&peer->source.sa, peer->source.length))
			goto err_close;
	}
	if (connect(fd, (const struct sockaddr *)&target.sa, target.length) && errno != EINPROGRESS)
		goto err_close;
	*out = fd;
	return 0;

err_close:
	ret = -errno;
	close(fd);
	return ret;
}

int mci_classic_dialled(int fd)
{
	struct classic_address own = {.length = sizeof(own.sa)}, peer = {.length = sizeof(peer.sa)};
	int error = 0;
	socklen_t length = sizeof(error);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length))
		return -errno;
	if (error)
		return -error;
	if (getpeername(fd, (struct sockaddr *)&peer.sa, &peer.length))
		return errno == ENOTCONN ? -EINPROGRESS : -errno;
	/* A connect to a free local port may draw that very port and meet itself: nobody listens there. */
	if (!getsockname(fd, (struct sockaddr *)&own.sa, &own.length) && own.length == peer.length &&
	    !memcmp(&own.sa, &peer.sa, own.length))
		return -ECONNREFUSED;
	mci_sock_tune(fd);
	return 0;
}

/* ---- opening and closing ---- */

static int choose_protocol(struct classic_peer *peer, const struct mci_peer_info *info)
{
	const struct mci_transport_host *host = peer->classic->host;
	const char *forced = getenv("MC_TCP_PROTO");
	uint32_t version;
	bool rpc;
	int ret;

	ret = mci_classic_endpoint(info, &peer->data_port, &version, &rpc);
	if (ret)
		return ret;
	if (host->secret.mode == MCI_AUTH_CLUSTER && !host->options.classic)
		return mci_fail(-EKEYREJECTED,
				"segment '%s' is served by a classic peer, which knows no cluster key; "
				"give --classic to talk to it all the same",
				info->name);
	peer->rpc_port = info->port;
	peer->no_notify = rpc; /* such an old peer has no handshake port */
	peer->v2 = version >= 2 && !(forced && !strcmp(forced, "1"));
	if (!peer->v2 && host->options.require_ack)
		return mci_fail(
			-EPROTO,
			"segment '%s' speaks the classic data protocol v1, which cannot confirm writes, "
			"and acknowledgements are required; update the peer to 0.3.12 or later%s",
			info->name, forced ? ", or unset MC_TCP_PROTO" : "");
	return 0;
}

struct first {
	struct classic_peer *peer;
	int fd;
};

static void adopt_first(void *arg)
{
	struct first *first = arg;

	mci_classic_lane_adopt(&first->peer->lanes[0], first->fd);
}

static void free_peer(struct classic_peer *peer)
{
	unsigned int i;

	for (i = 0; i < peer->host_count; i++)
		free(peer->hosts[i]);
	free(peer->hosts);
	free(peer->name);
	pthread_mutex_destroy(&peer->lock);
	free(peer);
}

int mci_classic_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
			  struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
			  struct mci_peer **out)
{
	struct classic *classic = (struct classic *)transport;
	uint32_t streams = classic->host->options.streams;
	struct classic_peer *peer;
	struct first first;
	unsigned int i;
	int ret;

	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return mci_fail(-ENOMEM, "no memory for a peer");
	pthread_mutex_init(&peer->lock, NULL);
	peer->classic = classic;
	peer->loop = mci_loops_next(classic->host->loops);
	peer->cookie = cookie;
	peer->regions = regions;
	peer->region_count = count;
	peer->wake.fn = on_wake;
	peer->sweep.fn = on_sweep;
	peer->refreshed.fn = mci_classic_refreshed;
	peer->lane_count = streams > CLASSIC_LANES_MAX ? CLASSIC_LANES_MAX
			   : streams		       ? streams
						       : CLASSIC_LANES;
	for (i = 0; i < peer->lane_count; i++)
		mci_classic_lane_init(&peer->lanes[i], peer);
	mci_classic_notify_init(peer);
	peer->name = strdup(info->name);
	ret = peer->name ? choose_protocol(peer, info) : mci_fail(-ENOMEM, "no memory for a peer");
	ret = ret ?: mci_classic_helper_start(classic);
	ret = ret ?: mci_classic_connect(peer, info, deadline_ns, &first.fd, &peer->target);
	if (ret) {
		free_peer(peer);
		return ret;
	}
	if (classic->host->options.source) {
		peer->source.length = sizeof(peer->source.sa);
		if (getsockname(first.fd, (struct sockaddr *)&peer->source.sa, &peer->source.length))
			peer->source.length = 0;
		set_port(&peer->source, 0);
	}
	first.peer = peer;
	/* v1 servers serve one request per connection, old ones one connection at a time: do not keep it. */
	if (peer->v2)
		mci_loop_call(peer->loop, adopt_first, &first);
	else
		close(first.fd);
	*out = (struct mci_peer *)peer;
	return 0;
}

static void close_lanes(void *arg)
{
	struct classic_peer *peer = arg;
	unsigned int i;

	for (i = 0; i < peer->lane_count; i++)
		mci_classic_lane_close(&peer->lanes[i], false);
	mci_classic_notify_close(peer);
	mci_loop_timer_clear(peer->loop, &peer->sweep);
}

static void nothing(void *arg) { (void)arg; }

void mci_classic_peer_close(struct mci_peer *handle)
{
	struct classic_peer *peer = (struct classic_peer *)handle;

	mci_classic_refresh_forget(peer);
	/* The helper's last word is in the loop by now, in front of the first call; what lanes posted, of the
	 * second. */
	mci_loop_call(peer->loop, close_lanes, peer);
	mci_loop_call(peer->loop, nothing, NULL);
	free_peer(peer);
}
