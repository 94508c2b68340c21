// SPDX-License-Identifier: MIT
/*
 * The classic data port, with real sockets. First byte even: bytes to our server, of which no one may
 * store outside its region; addresses in headers are taken relative to the region, so that they can hit
 * it. Odd: bytes that a server sends to our client, whose request must end and end once.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "transport/classic/classic.h"

#define REGION 4096
#define GUARD 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mci_loops loops;
static struct mci_transport_host host;
static struct mci_transport *transport;
static struct mci_region region;
static struct mci_remote_region remote = {.base = 0x10000, .length = REGION};
static uint8_t memory[GUARD + REGION + GUARD];
static uint16_t port;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int finished;

static void complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
		     uint32_t flags)
{
	(void)flags;
	if ((state == MC_DONE) != !error || (state == MC_DONE && bytes != request->length))
		abort();
	pthread_mutex_lock(&lock);
	finished++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static int refresh(void *engine, void *cookie, uint64_t deadline_ns,
		   int (*use)(void *arg, const struct mci_peer_info *info), void *arg)
{
	(void)engine;
	(void)cookie;
	(void)deadline_ns;
	(void)use;
	(void)arg;
	return -ESTALE;
}

static void start(void)
{
	json_t *mine = json_object();

	host.options.classic = true;
	host.options.bind = "127.0.0.1";
	host.options.connect_timeout_ms = 3000;
	host.complete = complete;
	host.refresh = refresh;
	host.loops = &loops;
	region.addr = memory + GUARD;
	region.length = REGION;
	region.rights = MC_REMOTE_READ | MC_REMOTE_WRITE;
	region.classic = true;
	if (mci_loops_start("fuzz", 1, &loops) || mci_regions_create(&host.regions) ||
	    mci_regions_add(host.regions, &region) || mci_transport_classic.open(&host, &transport) ||
	    mci_transport_classic.describe(transport, mine))
		abort();
	port = (uint16_t)json_integer_value(json_object_get(mine, "port"));
	json_decref(mine);
}

/* Header bytes 8..15 hold an offset; all else is the input's. */
static void to_server(const uint8_t *data, size_t size)
{
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
	static const struct linger now = {.l_onoff = 1};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint8_t header[MCI_CLASSIC_HEADER], waste[4096];
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	size_t i;

	if (connect(fd, (struct sockaddr *)&in, sizeof(in))) {
		if (errno != EADDRNOTAVAIL && errno != ETIMEDOUT && errno != EINTR) /* no ports left; an alarm */
			abort();
		close(fd);
		return;
	}
	while (size >= sizeof(header)) {
		struct mci_classic_request request;
		size_t payload;

		memcpy(header, data, sizeof(header));
		mci_put64(header + 8, (uintptr_t)region.addr + mci_get64(header + 8));
		data += sizeof(header);
		size -= sizeof(header);
		mci_classic_request_decode(header, &request);
		payload = request.write ? (request.size < size ? (size_t)request.size : size) : 0;
		if (send(fd, header, sizeof(header), MSG_NOSIGNAL) < 0 ||
		    (payload && send(fd, data, payload, MSG_NOSIGNAL) < 0))
			break;
		data += payload;
		size -= payload;
	}
	send(fd, data, size, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	while (poll(&wait, 1, 5000) == 1 && recv(fd, waste, sizeof(waste), 0) > 0)
		;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)); /* thousands of runs: leave no TIME_WAIT */
	close(fd);
	for (i = 0; i < GUARD; i++)
		if (memory[i] || memory[GUARD + REGION + i])
			abort();
}

static void to_client(uint8_t flavour, const uint8_t *data, size_t size)
{
	static const char *const loopback[] = {"127.0.0.1"};
	static const struct linger now = {.l_onoff = 1};
	static uint16_t listening;
	static int listener = -1;
	uint8_t local[64] = {0};
	struct mci_request request = {
		.op = flavour & 2 ? MCI_OP_WRITE : MCI_OP_READ,
		.remote = &remote,
		.local = local,
		.length = sizeof(local),
		.deadline_ns = mci_now_ns() + 5 * MCI_NS_PER_S,
	};
	struct mci_peer_info info = {.name = "fuzz", .addresses = loopback, .address_count = 1, .port = 1};
	struct timespec until;
	struct mci_peer *peer;
	json_t *descriptor;
	int fd, first;

	if (listener < 0 && mci_listen("127.0.0.1", &listening, 0, 0, &listener))
		abort();
	descriptor = json_pack("{s:s, s:i, s:i}", "protocol", "tcp", "tcp_data_port", (int)listening,
			       "tcp_proto_version", flavour & 4 ? 1 : 2);
	info.descriptor = descriptor;
	remote.stale = false;
	if (mci_transport_classic.peer_open(transport, &info, NULL, &remote, 1,
					    mci_now_ns() + 5 * MCI_NS_PER_S, &peer))
		abort();
	while ((first = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
		;
	finished = 0;
	mci_transport_classic.submit(peer, &request);
	fd = first;
	if (flavour & 4) {
		while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
			;
		close(first);
	}
	if (recv(fd, local, 1, MSG_PEEK) == 1 && size)
		send(fd, data, size, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 6;
	if (!(flavour & 4)) {
		/* A second connection may come, once; it gets no answer at all. */
		struct pollfd wait[2] = {{.fd = listener, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
		bool over = false;

		while (!over) {
			int second;

			pthread_mutex_lock(&lock);
			over = finished;
			pthread_mutex_unlock(&lock);
			if (poll(wait, 1, 0) == 1 &&
			    (second = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
				close(second);
		}
	}
	pthread_mutex_lock(&lock);
	while (!finished)
		if (pthread_cond_timedwait(&changed, &lock, &until))
			abort();
	pthread_mutex_unlock(&lock);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
	mci_transport_classic.peer_close(peer);
	if (finished != 1)
		abort();
	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
	json_decref(descriptor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_region *found;

	if (!transport)
		start();
	if (size >= MCI_CLASSIC_HEADER) {
		struct mci_classic_request request;

		mci_classic_request_decode(data, &request);
		if (!mci_classic_server_check(host.regions, &request, &found)) {
			if (found != &region || request.addr < (uintptr_t)region.addr ||
			    request.addr + request.size > (uintptr_t)region.addr + REGION)
				abort();
			mci_region_put(found);
		}
	}
	if (size < 2 || size > 16384)
		return 0;
	if (data[0] & 1)
		to_client(data[0], data + 1, size - 1);
	else
		to_server(data + 1, size - 1);
	return 0;
}
