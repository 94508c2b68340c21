/* SPDX-License-Identifier: MIT */
/* What the tests of the classic transport share: a host in place of the engine, and raw sockets for the other
 * side. */
#ifndef CLASSIC_FIXTURE_H
#define CLASSIC_FIXTURE_H

#include "transport/classic/classic.h"

#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/errors.h"

#define SOON_MS 10000 /* far beyond what anything here takes */
#define BASE 0x7f1234560000ull
#define LENGTH (256ull << 20)

static const uint8_t status_ok[8] = {0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};
static const uint8_t status_rejected[8] = {1, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};

/* ---- the engine's side ---- */

struct result {
	struct mci_request request;
	enum mc_state state;
	int error;
	uint64_t bytes;
	uint32_t flags;
	int times;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static struct fixture {
	struct mci_loops loops;
	struct mci_transport_host host;
	struct mci_identity self;
	struct mci_transport *transport;
	struct mci_remote_region remote;
	struct mci_peer *peer;
	json_t *descriptor;
	struct mci_peer_info info;
	int listener, rpc_listener;
	uint16_t port, rpc_port;
	int refresh_result; /* 0 = call use() */
	_Atomic int refreshes;
} f;

static const char *const loopback[] = {"127.0.0.1"};

static inline void complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
			    uint32_t flags)
{
	struct result *result = request->owner;

	pthread_mutex_lock(&lock);
	result->state = state;
	result->error = error;
	result->bytes = bytes;
	result->flags = flags;
	result->times++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline int refresh(void *engine, void *cookie, uint64_t deadline_ns,
			  int (*use)(void *arg, const struct mci_peer_info *info), void *arg)
{
	(void)engine;
	(void)deadline_ns;
	assert_ptr_equal(cookie, &f);
	f.refreshes++;
	return f.refresh_result ? f.refresh_result : use(arg, &f.info);
}

static inline void wait_final(struct result *result)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += SOON_MS / 1000;
	pthread_mutex_lock(&lock);
	while (!result->times)
		if (pthread_cond_timedwait(&changed, &lock, &until))
			break;
	pthread_mutex_unlock(&lock);
	assert_int_equal(result->times, 1);
}

static inline bool pending(struct result *result)
{
	bool yes;

	pthread_mutex_lock(&lock);
	yes = !result->times;
	pthread_mutex_unlock(&lock);
	return yes;
}

static inline void expect_final(struct result *result, enum mc_state state, int error)
{
	wait_final(result);
	assert_int_equal(result->state, state);
	assert_int_equal(result->error, error);
}

static inline void submit(struct result *result, enum mci_op op, uint64_t offset, void *local,
			  uint64_t length, unsigned int timeout_ms)
{
	memset(result, 0, sizeof(*result));
	result->request.op = (uint8_t)op;
	result->request.remote = op == MCI_OP_NOTIFY ? NULL : &f.remote;
	result->request.offset = offset;
	result->request.local = local;
	result->request.length = length;
	result->request.deadline_ns = mci_now_ns() + timeout_ms * MCI_NS_PER_MS;
	result->request.owner = result;
	mci_transport_classic.submit(f.peer, &result->request);
}

/* ---- raw sockets ---- */

static inline int listen_local(uint16_t *port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	in.sin_port = htons(*port);
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &length), 0);
	*port = ntohs(in.sin_port);
	return fd;
}

static inline bool readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

static inline int accept_soon(int listener)
{
	assert_true(readable(listener, SOON_MS));
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static inline void get(int fd, void *p, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got;

		assert_true(readable(fd, SOON_MS));
		got = recv(fd, (char *)p + done, n - done, 0);
		assert_true(got > 0);
		done += (size_t)got;
	}
}

static inline void put(int fd, const void *p, size_t n) { assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), n); }

static inline void expect_bytes(int fd, const void *p, size_t n)
{
	uint8_t got[256];

	get(fd, got, n);
	assert_memory_equal(got, p, n);
}

static inline void expect_closed(int fd)
{
	char byte;

	assert_true(readable(fd, SOON_MS));
	assert_true(recv(fd, &byte, 1, 0) <= 0);
}

static inline void reset_close(int fd)
{
	struct linger now = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* ---- fixture ---- */

static inline int setup_with(bool classic)
{
	memset(&f, 0, sizeof(f));
	f.listener = f.rpc_listener = -1;
	assert_int_equal(mci_loops_start("test", 2, &f.loops), 0);
	f.host.engine = &f;
	f.host.self = &f.self;
	f.host.loops = &f.loops;
	f.host.complete = complete;
	f.host.refresh = refresh;
	f.host.options.classic = classic;
	f.host.options.connect_timeout_ms = 3000;
	f.host.options.bind = "127.0.0.1";
	assert_int_equal(mci_regions_create(&f.host.regions), 0);
	assert_int_equal(mci_transport_classic.open(&f.host, &f.transport), 0);
	f.remote.length = LENGTH;
	f.remote.base = BASE;
	f.remote.rights = MC_REMOTE_READ | MC_REMOTE_WRITE;
	return 0;
}

static inline int setup(void **state)
{
	(void)state;
	return setup_with(false);
}

static inline int setup_server(void **state)
{
	(void)state;
	return setup_with(true);
}

static inline int teardown(void **state)
{
	(void)state;
	if (f.peer)
		mci_transport_classic.peer_close(f.peer);
	mci_transport_classic.close(f.transport);
	mci_regions_destroy(f.host.regions);
	mci_loops_stop(&f.loops);
	json_decref(f.descriptor);
	if (f.listener >= 0)
		close(f.listener);
	if (f.rpc_listener >= 0)
		close(f.rpc_listener);
	unsetenv("MC_TCP_PROTO");
	return 0;
}

static inline void describe(uint16_t data_port, int version)
{
	json_decref(f.descriptor);
	f.descriptor =
		json_pack("{s:s, s:s, s:i, s:i, s:[{s:I, s:I, s:s}]}", "name", "peer", "protocol", "tcp",
			  "tcp_data_port", (int)data_port, "tcp_proto_version", version, "buffers", "addr",
			  (json_int_t)f.remote.base, "length", (json_int_t)f.remote.length, "name", "peer");
	assert_non_null(f.descriptor);
	f.info = (struct mci_peer_info){.name = "peer",
					.addresses = loopback,
					.address_count = 1,
					.port = f.rpc_port,
					.descriptor = f.descriptor};
}

static inline int open_peer(void)
{
	return mci_transport_classic.peer_open(f.transport, &f.info, &f, &f.remote, 1,
					       mci_now_ns() + 3 * MCI_NS_PER_S, &f.peer);
}

/* Listen, open; returns the first connection (v1: it is closed again by the client). */
static inline int open_listening(int version)
{
	int fd;

	f.listener = listen_local(&f.port);
	f.rpc_listener = listen_local(&f.rpc_port);
	describe(f.port, version);
	assert_int_equal(open_peer(), 0);
	fd = accept_soon(f.listener);
	if (version >= 2)
		return fd;
	expect_closed(fd);
	close(fd);
	return -1;
}

static inline uint8_t *pattern(size_t n, unsigned int seed)
{
	uint8_t *p = malloc(n);
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (uint8_t)(i * 31 + i / 251 + seed);
	return p;
}

#define CLIENT(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define SERVER(name) cmocka_unit_test_setup_teardown(name, setup_server, teardown)

#endif
