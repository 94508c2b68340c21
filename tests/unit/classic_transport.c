// SPDX-License-Identifier: MIT
/*
 * The classic data protocol, client and server, against the bytes that classic programs put on the wire.
 * The test itself plays the other side: it listens, or connects, and reads and writes raw bytes.
 */
#include "transport/classic/classic.h"

#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/errors.h"

#define SOON_MS 10000 /* far beyond what anything here takes */
#define BASE 0x7f1234560000ull
#define LENGTH (256ull << 20)

static const uint8_t write_v2_64k[24] = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x56, 0x34, 0x12, 0x7f, 0, 0, 0x81};
static const uint8_t read_v1_64k[24] = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x56, 0x34, 0x12, 0x7f, 0, 0, 0x00};
static const uint8_t status_ok[8] = {0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};
static const uint8_t status_rejected[8] = {1, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};
static const uint8_t notify_a_b[] = {0x1f, 0,	 0,    0,    0,	   0,	 0,    0,    2,	   0x7b,
				     0x22, 0x6e, 0x61, 0x6d, 0x65, 0x22, 0x3a, 0x22, 0x61, 0x22,
				     0x2c, 0x22, 0x6e, 0x6f, 0x74, 0x69, 0x66, 0x79, 0x5f, 0x6d,
				     0x73, 0x67, 0x22, 0x3a, 0x22, 0x62, 0x22, 0x7d, 0x0a};

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

static void complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
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

static int refresh(void *engine, void *cookie, uint64_t deadline_ns,
		   int (*use)(void *arg, const struct mci_peer_info *info), void *arg)
{
	(void)engine;
	(void)deadline_ns;
	assert_ptr_equal(cookie, &f);
	f.refreshes++;
	return f.refresh_result ? f.refresh_result : use(arg, &f.info);
}

static void wait_final(struct result *result)
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

static void expect_final(struct result *result, enum mc_state state, int error)
{
	wait_final(result);
	assert_int_equal(result->state, state);
	assert_int_equal(result->error, error);
}

static void submit(struct result *result, enum mci_op op, uint64_t offset, void *local, uint64_t length,
		   unsigned int timeout_ms)
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

static int listen_local(uint16_t *port)
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

static bool readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

static int accept_soon(int listener)
{
	assert_true(readable(listener, SOON_MS));
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static void get(int fd, void *p, size_t n)
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

static void put(int fd, const void *p, size_t n) { assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), n); }

static void expect_bytes(int fd, const void *p, size_t n)
{
	uint8_t got[256];

	get(fd, got, n);
	assert_memory_equal(got, p, n);
}

static void expect_closed(int fd)
{
	char byte;

	assert_true(readable(fd, SOON_MS));
	assert_true(recv(fd, &byte, 1, 0) <= 0);
}

static void reset_close(int fd)
{
	struct linger now = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* ---- fixture ---- */

static int setup_with(bool classic)
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

static int setup(void **state)
{
	(void)state;
	return setup_with(false);
}

static int setup_server(void **state)
{
	(void)state;
	return setup_with(true);
}

static int teardown(void **state)
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

static void describe(uint16_t data_port, int version)
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

static int open_peer(void)
{
	return mci_transport_classic.peer_open(f.transport, &f.info, &f, &f.remote, 1,
					       mci_now_ns() + 3 * MCI_NS_PER_S, &f.peer);
}

/* Listen, open; returns the first connection (v1: it is closed again by the client). */
static int open_listening(int version)
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

static uint8_t *pattern(size_t n, unsigned int seed)
{
	uint8_t *p = malloc(n);
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (uint8_t)(i * 31 + i / 251 + seed);
	return p;
}

/* ---- client ---- */

static void test_v2_write_has_the_classic_bytes(void **state)
{
	uint8_t *data = pattern(65536, 1), *got = malloc(65536);
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_WRITE, 0, data, 65536, SOON_MS);
	expect_bytes(fd, write_v2_64k, 24);
	get(fd, got, 65536);
	assert_memory_equal(got, data, 65536);
	assert_int_equal(r.times, 0); /* done means stored: not before the status */
	put(fd, status_ok, 8);
	expect_final(&r, MC_DONE, 0);
	assert_int_equal(r.bytes, 65536);
	assert_int_equal(r.flags, 0);
	assert_int_equal(mci_transport_classic.fence(f.peer, 0), 0);
	close(fd);
	free(data);
	free(got);
}

static void test_v1_read_has_the_classic_bytes(void **state)
{
	uint8_t *data = pattern(65536, 2), *got = calloc(1, 65536);
	struct result r;
	int fd;

	(void)state;
	open_listening(1);
	submit(&r, MCI_OP_READ, 0, got, 65536, SOON_MS);
	fd = accept_soon(f.listener);
	expect_bytes(fd, read_v1_64k, 24);
	put(fd, data, 65536);
	expect_final(&r, MC_DONE, 0);
	assert_memory_equal(got, data, 65536);
	expect_closed(fd); /* one request per connection */
	close(fd);
	free(data);
	free(got);
}

static void test_v2_read_reuses_its_connection(void **state)
{
	uint8_t *data = pattern(100000, 3), *got = calloc(1, 100000), header[24] = {0};
	struct result r;
	int fd, i;

	(void)state;
	fd = open_listening(2);
	for (i = 0; i < 3; i++) {
		memset(got, 0, 100000);
		submit(&r, MCI_OP_READ, 4096, got, 100000, SOON_MS);
		mci_put64(header, 100000);
		mci_put64(header + 8, BASE + 4096);
		header[16] = 0x80;
		expect_bytes(fd, header, 24);
		put(fd, status_ok, 3); /* a status in two pieces */
		put(fd, status_ok + 3, 5);
		put(fd, data, 100000);
		expect_final(&r, MC_DONE, 0);
		assert_memory_equal(got, data, 100000);
	}
	assert_false(readable(f.listener, 0));
	close(fd);
	free(data);
	free(got);
}

static void test_v1_write_ends_unconfirmed_when_the_server_closes(void **state)
{
	uint8_t *data = pattern(65536, 4), header[24];
	struct result r;
	int fd;

	(void)state;
	open_listening(1);
	submit(&r, MCI_OP_WRITE, 0, data, 65536, SOON_MS);
	fd = accept_soon(f.listener);
	memcpy(header, write_v2_64k, 24);
	header[16] = 0x01;
	expect_bytes(fd, header, 24);
	get(fd, header, 24);
	assert_memory_equal(header, data, 24);
	assert_int_equal(r.times, 0);
	do {
		assert_true(readable(fd, SOON_MS));
	} while (recv(fd, header, sizeof(header), 0) > 0);
	close(fd);
	expect_final(&r, MC_DONE, 0);
	assert_int_equal(r.flags, MC_STATUS_UNCONFIRMED);
	assert_int_equal(f.host.stats.unconfirmed, 1);
	assert_int_equal(mci_transport_classic.fence(f.peer, 0), 0);
	free(data);
}

static void test_v1_write_to_a_server_that_stays_open_is_not_held_up_for_long(void **state)
{
	uint8_t data[64] = {0};
	struct result r;
	uint64_t begin;
	int fd;

	(void)state;
	open_listening(1);
	begin = mci_now_ns();
	submit(&r, MCI_OP_WRITE, 0, data, sizeof(data), SOON_MS);
	fd = accept_soon(f.listener);
	expect_final(&r, MC_DONE, 0);
	assert_int_equal(r.flags, MC_STATUS_UNCONFIRMED);
	assert_true(mci_now_ns() - begin < 3 * MCI_NS_PER_S);
	assert_int_equal(mci_transport_classic.fence(f.peer, 0), -EOPNOTSUPP);
	close(fd);
}

static void test_v1_write_that_is_reset_fails_and_is_never_repeated(void **state)
{
	uint8_t *data = calloc(1, 32 << 20), header[24];
	struct result r;
	int fd;

	(void)state;
	open_listening(1);
	submit(&r, MCI_OP_WRITE, 0, data, 32 << 20, SOON_MS);
	fd = accept_soon(f.listener);
	get(fd, header, 24);
	reset_close(fd);
	wait_final(&r);
	assert_int_equal(r.state, MC_FAILED);
	assert_true(r.error == -ECONNRESET || r.error == -EPIPE);
	assert_false(readable(f.listener, 100));
	assert_int_equal(f.host.stats.resent, 0);
	assert_int_equal(mci_transport_classic.fence(f.peer, 0), -EOPNOTSUPP);
	free(data);
}

static void test_rejection_is_seen_before_the_payload_is_sent(void **state)
{
	uint8_t *data = calloc(1, 128 << 20), header[24];
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_WRITE, 0, data, 128 << 20, SOON_MS);
	get(fd, header, 24);
	put(fd, status_rejected, 8); /* and not a byte of the payload is read */
	expect_final(&r, MC_FAILED, -EFAULT);
	close(fd);
	free(data);
}

static void test_rejection_survives_the_reset_behind_it(void **state)
{
	uint8_t *data = calloc(1, 128 << 20), header[24];
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_WRITE, 0, data, 128 << 20, SOON_MS);
	get(fd, header, 24);
	put(fd, status_rejected, 8);
	close(fd);
	expect_final(&r, MC_FAILED, -EFAULT);
	assert_false(readable(f.listener, 100));
	free(data);
}

static void test_peer_death_in_mid_transfer_fails_the_request(void **state)
{
	uint8_t *got = malloc(65536), header[24], half[1000] = {0};
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_READ, 0, got, 65536, SOON_MS);
	get(fd, header, 24);
	put(fd, status_ok, 8);
	put(fd, half, sizeof(half));
	close(fd);
	expect_final(&r, MC_FAILED, -ECONNRESET);
	assert_false(readable(f.listener, 100));
	free(got);
}

static void test_no_status_within_the_deadline_is_timed_out(void **state)
{
	uint8_t data[4096] = {0}, got[24 + 4096];
	struct result r;
	uint64_t begin = mci_now_ns();
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_WRITE, 0, data, sizeof(data), 200);
	get(fd, got, sizeof(got));
	expect_final(&r, MC_TIMED_OUT, -ETIMEDOUT);
	assert_true(mci_now_ns() - begin < 1200 * MCI_NS_PER_MS);
	expect_closed(fd);
	assert_int_equal(mci_transport_classic.fence(f.peer, 0), -EOPNOTSUPP);
	assert_string_not_equal(mc_errmsg(), "");
	close(fd);
}

static void test_garbage_instead_of_a_status_fails_the_request(void **state)
{
	static const struct {
		uint8_t status[8];
		int error;
	} cases[] = {
		{{'H', 'T', 'T', 'P', '/', '1', '.', '1'}, -EPROTO},
		{{0}, -EPROTO},
		{{0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4c}, -EPROTO},
		{{2, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d}, -EREMOTEIO},
	};
	uint8_t got[64], header[24];
	struct result r;
	size_t i;
	int fd;

	(void)state;
	fd = open_listening(2);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
		if (i)
			fd = accept_soon(f.listener);
		get(fd, header, 24);
		put(fd, cases[i].status, 8);
		expect_final(&r, MC_FAILED, cases[i].error);
		expect_closed(fd);
		close(fd);
	}
}

static void test_stale_connection_is_replaced_once(void **state)
{
	uint8_t data[4096] = {7}, got[24 + 4096];
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_WRITE, 0, data, sizeof(data), SOON_MS);
	get(fd, got, sizeof(got));
	put(fd, status_ok, 8);
	expect_final(&r, MC_DONE, 0);
	submit(&r, MCI_OP_WRITE, 0, data, sizeof(data), SOON_MS);
	get(fd, got, sizeof(got));
	close(fd); /* no answer: it may never have been read */
	fd = accept_soon(f.listener);
	get(fd, got, sizeof(got));
	put(fd, status_ok, 8);
	expect_final(&r, MC_DONE, 0);
	assert_int_equal(f.host.stats.resent, 1);
	submit(&r, MCI_OP_WRITE, 0, data, sizeof(data), SOON_MS);
	get(fd, got, sizeof(got));
	close(fd);
	fd = accept_soon(f.listener);
	get(fd, got, sizeof(got));
	close(fd); /* a fresh one: that is an answer too */
	expect_final(&r, MC_FAILED, -ECONNRESET);
	assert_int_equal(f.host.stats.resent, 2);
}

static void test_idle_connection_that_closed_is_not_used(void **state)
{
	uint8_t got[8], header[24];
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	close(fd);
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	fd = accept_soon(f.listener);
	get(fd, header, 24);
	put(fd, status_ok, 8);
	put(fd, "12345678", 8);
	expect_final(&r, MC_DONE, 0);
	assert_memory_equal(got, "12345678", 8);
	close(fd);
}

static void test_cancel_ends_what_runs_and_what_waits(void **state)
{
	uint8_t got[64], header[24];
	struct result r[6];
	int fd, i, other[3];

	(void)state;
	fd = open_listening(2);
	for (i = 0; i < 6; i++)
		submit(&r[i], MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	get(fd, header, 24);
	for (i = 0; i < 3; i++) { /* four lanes */
		other[i] = accept_soon(f.listener);
		get(other[i], header, 24);
	}
	assert_false(readable(f.listener, 50));
	for (i = 5; i >= 0; i--) {
		atomic_store(&r[i].request.cancelled, true);
		mci_transport_classic.cancel(f.peer, &r[i].request);
	}
	for (i = 0; i < 6; i++)
		expect_final(&r[i], MC_CANCELLED, -ECANCELED);
	expect_closed(fd);
	close(fd);
	for (i = 0; i < 3; i++)
		close(other[i]);
}

static void test_deadline_holds_for_requests_that_wait(void **state)
{
	struct result r[8];
	uint8_t got[64];
	int fd, i;

	(void)state;
	fd = open_listening(2);
	for (i = 0; i < 4; i++)
		submit(&r[i], MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	for (; i < 8; i++)
		submit(&r[i], MCI_OP_READ, 0, got, sizeof(got), 100);
	for (i = 4; i < 8; i++)
		expect_final(&r[i], MC_TIMED_OUT, -ETIMEDOUT);
	for (i = 0; i < 4; i++) {
		assert_int_equal(r[i].times, 0);
		atomic_store(&r[i].request.cancelled, true);
		mci_transport_classic.cancel(f.peer, &r[i].request);
	}
	for (i = 0; i < 4; i++)
		expect_final(&r[i], MC_CANCELLED, -ECANCELED);
	close(fd);
}

static void test_peer_that_is_gone_is_reported_at_once(void **state)
{
	struct result r[5];
	uint8_t got[64];
	int fd, i;

	(void)state;
	fd = open_listening(2);
	close(f.listener);
	f.listener = -1;
	close(fd);
	f.refresh_result = -ENOENT;
	for (i = 0; i < 5; i++)
		submit(&r[i], MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	for (i = 0; i < 5; i++)
		expect_final(&r[i], MC_FAILED, -ECONNREFUSED);
	assert_true(f.refreshes >= 1);
}

static void test_restarted_peer_is_stale(void **state)
{
	struct result r;
	uint8_t got[64];
	int fd;

	(void)state;
	fd = open_listening(2);
	close(f.listener);
	f.listener = -1;
	close(fd);
	describe((uint16_t)(f.port + 1), 2); /* the same name, another data port */
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	expect_final(&r, MC_FAILED, -ESTALE);
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	expect_final(&r, MC_FAILED, -ESTALE);
	assert_int_equal(f.refreshes, 1);
}

static void test_peer_with_other_buffers_is_stale(void **state)
{
	struct result r;
	uint8_t got[64];
	int fd;

	(void)state;
	fd = open_listening(2);
	close(f.listener);
	f.listener = -1;
	close(fd);
	f.remote.base += 4096;
	describe(f.port, 2);
	f.remote.base -= 4096;
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	expect_final(&r, MC_FAILED, -ESTALE);
}

static void test_peer_that_was_unreachable_is_connected_again(void **state)
{
	uint8_t got[8], header[24];
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	close(f.listener);
	close(fd);
	f.listener = -1;
	f.refresh_result = -EIO;
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	expect_final(&r, MC_FAILED, -ECONNREFUSED);
	f.refresh_result = 0;
	f.listener = listen_local(&f.port);
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	fd = accept_soon(f.listener);
	get(fd, header, 24);
	put(fd, status_ok, 8);
	put(fd, "12345678", 8);
	expect_final(&r, MC_DONE, 0);
	close(fd);
}

static void test_stale_region_is_refused_unsent(void **state)
{
	struct result r;
	uint8_t got[8];
	int fd;

	(void)state;
	fd = open_listening(2);
	atomic_store(&f.remote.stale, true);
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	expect_final(&r, MC_FAILED, -ESTALE);
	assert_false(readable(fd, 50));
	close(fd);
}

static void test_v1_peers_are_refused_when_acknowledgements_are_required(void **state)
{
	(void)state;
	f.host.options.require_ack = true;
	f.listener = listen_local(&f.port);
	describe(f.port, 1);
	assert_int_equal(open_peer(), -EPROTO);
	assert_non_null(strstr(mc_errmsg(), "v1"));
	assert_null(f.peer);
	describe(f.port, 2);
	assert_int_equal(open_peer(), 0);
}

static void test_old_peer_without_data_port_is_served_on_its_rpc_port(void **state)
{
	uint8_t got[8], header[24];
	struct result r;
	int fd;

	(void)state;
	f.rpc_listener = listen_local(&f.rpc_port);
	describe(0, 2);
	assert_int_equal(open_peer(), 0);
	close(accept_soon(f.rpc_listener));
	submit(&r, MCI_OP_READ, 0, got, sizeof(got), SOON_MS);
	fd = accept_soon(f.rpc_listener);
	get(fd, header, 24);
	assert_int_equal(header[16], 0x00);
	put(fd, "12345678", 8);
	expect_final(&r, MC_DONE, 0);
	close(fd);
	submit(&r, MCI_OP_NOTIFY, 0, got, sizeof(got), SOON_MS);
	expect_final(&r, MC_FAILED, -EOPNOTSUPP);
}

static void test_mc_tcp_proto_1_forces_v1(void **state)
{
	char text[64];

	(void)state;
	setenv("MC_TCP_PROTO", "1", 1);
	f.listener = listen_local(&f.port);
	describe(f.port, 2);
	assert_int_equal(open_peer(), 0);
	mci_transport_classic.detail(f.peer, &f.remote, text, sizeof(text));
	assert_non_null(strstr(text, "v1"));
}

static void test_what_is_not_for_us_is_left_to_others(void **state)
{
	(void)state;
	f.listener = listen_local(&f.port);
	describe(f.port, 2);
	json_object_set_new(f.descriptor, "mooncake_c", json_object());
	assert_int_equal(open_peer(), -EOPNOTSUPP);
	describe(f.port, 2);
	json_object_set_new(f.descriptor, "protocol", json_string("rdma"));
	assert_int_equal(open_peer(), -EOPNOTSUPP);
	describe(f.port, 2);
	f.host.secret.mode = MCI_AUTH_CLUSTER;
	assert_int_equal(open_peer(), -EKEYREJECTED);
	assert_false(readable(f.listener, 50)); /* nobody was called */
	assert_int_equal(mci_transport_classic.peer_open(f.transport, &(struct mci_peer_info){.name = "x"},
							 &f, &f.remote, 1, 0, &f.peer),
			 -EOPNOTSUPP);
}

static size_t notify_body(uint8_t *p, size_t size, const char *name, const char *message)
{
	struct mci_writer w;

	mci_writer_init(&w, p, size);
	mci_write16(&w, (uint16_t)strlen(name));
	mci_write_bytes(&w, name, strlen(name));
	mci_write32(&w, (uint32_t)strlen(message));
	mci_write_bytes(&w, message, strlen(message));
	return w.used;
}

static void answer_notify(int fd, const char *json)
{
	uint8_t *frame;
	size_t n;

	assert_int_equal(mci_classic_frame(MCI_CLASSIC_NOTIFY, json, &frame, &n), 0);
	put(fd, frame, n);
	free(frame);
}

static void test_notify_has_the_classic_bytes(void **state)
{
	struct result r, second;
	uint8_t body[64];
	size_t n;
	int fd, lane;

	(void)state;
	lane = open_listening(2);
	n = notify_body(body, sizeof(body), "a", "b");
	submit(&r, MCI_OP_NOTIFY, 0, body, n, SOON_MS);
	submit(&second, MCI_OP_NOTIFY, 0, body, n, SOON_MS);
	fd = accept_soon(f.rpc_listener);
	expect_bytes(fd, notify_a_b, sizeof(notify_a_b));
	assert_int_equal(r.times, 0);
	answer_notify(fd, "{\"name\":\"\",\"notify_msg\":\"success\"}");
	expect_final(&r, MC_DONE, 0);
	expect_closed(fd);
	close(fd);
	fd = accept_soon(f.rpc_listener);
	expect_bytes(fd, notify_a_b, sizeof(notify_a_b));
	answer_notify(fd, "{\"name\":\"\",\"notify_msg\":\"\"}");
	expect_final(&second, MC_FAILED, -EREMOTEIO);
	close(fd);
	submit(&r, MCI_OP_NOTIFY, 0, body, notify_body(body, sizeof(body), "a", "\xff"), SOON_MS);
	expect_final(&r, MC_FAILED, -EILSEQ);
	submit(&r, MCI_OP_NOTIFY, 0, body, notify_body(body, sizeof(body), "a", "b"), 100);
	expect_final(&r, MC_TIMED_OUT, -ETIMEDOUT);
	close(lane);
}

/* ---- server ---- */

static struct mci_region *add_region(uint8_t *memory, size_t length, uint32_t rights, bool classic)
{
	struct mci_region *region = calloc(1, sizeof(*region));

	region->addr = memory;
	region->length = length;
	region->rights = rights;
	region->classic = classic;
	region->memfd = -1;
	assert_int_equal(mci_regions_add(f.host.regions, region), 0);
	return region;
}

static void remove_region(struct mci_region *region)
{
	assert_int_equal(mci_regions_retire(f.host.regions, region, true), 0);
	assert_int_equal(mci_regions_remove(f.host.regions, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	free(region);
}

static uint16_t server_port(void)
{
	json_t *mine = json_object();
	uint16_t port;

	assert_int_equal(mci_transport_classic.describe(f.transport, mine), 0);
	port = (uint16_t)json_integer_value(json_object_get(mine, "port"));
	json_decref(mine);
	return port;
}

static int call_server(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(server_port())};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

static void ask(int fd, uint8_t opcode, const void *addr, uint64_t size)
{
	uint8_t header[24];

	memset(header, 0xee, sizeof(header)); /* padding is undefined: it must be ignored */
	mci_put64(header, size);
	mci_put64(header + 8, (uintptr_t)addr);
	header[16] = opcode;
	put(fd, header, 24);
}

static void test_server_is_off_unless_asked_for(void **state)
{
	(void)state;
	assert_int_equal(server_port(), 0);
}

static void test_server_takes_many_requests_of_both_versions_on_one_connection(void **state)
{
	uint8_t *memory = pattern(65536, 9), *data = pattern(65536, 10), got[4096];
	struct mci_region *region;
	int fd, i;

	(void)state;
	region = add_region(memory, 65536, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	fd = call_server();
	for (i = 0; i < 8; i++) {
		ask(fd, 0x81, memory + 4096 * i, 4096);
		put(fd, data + 4096 * i, 4096);
		expect_bytes(fd, status_ok, 8);
		assert_memory_equal(memory + 4096 * i, data + 4096 * i, 4096);
		ask(fd, 0x80, memory + 4096 * i, 4096);
		expect_bytes(fd, status_ok, 8);
		get(fd, got, 4096);
		assert_memory_equal(got, data + 4096 * i, 4096);
		ask(fd, 0x01, memory + 4096 * i, 100);
		put(fd, memory, 100);
		ask(fd, 0x00, memory + 4096 * i, 100);
		get(fd, got, 100);
		assert_memory_equal(got, memory, 100);
		ask(fd, 0x85, memory, 16); /* every operation but 1 is a read */
		expect_bytes(fd, status_ok, 8);
		expect_bytes(fd, memory, 16);
	}
	assert_int_equal(f.host.stats.served_writes, 16);
	assert_int_equal(f.host.stats.served_reads, 24);
	assert_int_equal(f.host.stats.served_bytes_written, 8 * (4096 + 100));
	close(fd);
	remove_region(region);
	free(memory);
	free(data);
}

static void test_server_rejects_whatever_is_not_inside_one_classic_region(void **state)
{
	uint8_t *memory = pattern(16384, 9), before[16384];
	struct mci_region *one, *two, *hidden, *read_only;
	struct {
		uint8_t opcode;
		void *addr;
		uint64_t size;
	} cases[] = {
		{0x80, memory, 0},	     {0x81, memory, 0},		 {0x80, memory - 1, 2},
		{0x81, memory, 4097},					/* into the neighbour */
		{0x81, memory + 4096, 4097}, {0x80, memory + 8192, 16}, /* not flagged classic */
		{0x81, memory + 12288, 16},				/* read only */
		{0x80, (void *)8, 16},	     {0x80, memory, UINT64_MAX}, {0x81, (void *)UINTPTR_MAX, 2},
	};
	size_t i;
	int fd;

	(void)state;
	memcpy(before, memory, sizeof(before));
	one = add_region(memory, 4096, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	two = add_region(memory + 4096, 4096, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	hidden = add_region(memory + 8192, 4096, MC_REMOTE_READ | MC_REMOTE_WRITE, false);
	read_only = add_region(memory + 12288, 4096, MC_REMOTE_READ, true);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fd = call_server();
		ask(fd, cases[i].opcode, cases[i].addr, cases[i].size);
		expect_bytes(fd, status_rejected, 8);
		expect_closed(fd);
		close(fd);
		fd = call_server();
		ask(fd, cases[i].opcode & 0x7f, cases[i].addr, cases[i].size);
		expect_closed(fd); /* v1: closing says it all */
		close(fd);
	}
	assert_int_equal(f.host.stats.refused, 2 * sizeof(cases) / sizeof(cases[0]));
	assert_memory_equal(memory, before, sizeof(before));
	remove_region(one);
	remove_region(two);
	remove_region(hidden);
	remove_region(read_only);
	free(memory);
}

static void test_rejection_reaches_a_client_that_is_still_sending(void **state)
{
	uint8_t *data = calloc(1, 1 << 20);
	int fd, i;

	(void)state;
	fd = call_server();
	ask(fd, 0x81, data, 16 << 20);
	for (i = 0; i < 16; i++)
		put(fd, data, 1 << 20);
	expect_bytes(fd, status_rejected, 8);
	expect_closed(fd);
	close(fd);
	free(data);
}

static void test_half_a_frame_holds_nothing_once_the_client_is_gone(void **state)
{
	uint8_t *memory = calloc(1, 4096);
	struct mci_region *region;
	int fd;

	(void)state;
	region = add_region(memory, 4096, MC_REMOTE_WRITE, true);
	fd = call_server();
	ask(fd, 0x81, memory, 4096);
	put(fd, "abc", 3);
	close(fd);
	remove_region(region);
	free(memory);
}

static void test_stuck_transfer_does_not_hold_up_unregistering(void **state)
{
	uint8_t *memory = calloc(1, 4096);
	struct mci_region *region;
	uint64_t begin = mci_now_ns();
	int fd;

	(void)state;
	region = add_region(memory, 4096, MC_REMOTE_WRITE, true);
	fd = call_server();
	ask(fd, 0x81, memory, 4096);
	put(fd, "abc", 3);
	while (!atomic_load(&region->users))
		assert_true(mci_now_ns() - begin < 5 * MCI_NS_PER_S);
	assert_int_equal(mci_regions_retire(f.host.regions, region, true), 0);
	assert_int_equal(
		mci_transport_classic.region_remove(f.transport, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	assert_int_equal(mci_regions_remove(f.host.regions, region, mci_now_ns() + 3 * MCI_NS_PER_S), 0);
	expect_closed(fd);
	close(fd);
	free(region);
	free(memory);
}

static void test_server_bounds_its_connections(void **state)
{
	struct rlimit limit;
	int *fds = calloc(1025, sizeof(int)), i, open = 0;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 2200)
		skip();
	for (i = 0; i < 1025; i++)
		fds[i] = call_server();
	/* Which one is refused is the kernel's choice of order: exactly one is. */
	for (i = 0; i < 1025; i++) {
		if (i == 1024)
			expect_closed(fds[i]);
		else if (!readable(fds[i], 0))
			open++;
	}
	assert_int_equal(open, 1024);
	assert_int_equal(f.host.stats.refused, 1);
	for (i = 0; i < 1025; i++)
		close(fds[i]);
	free(fds);
}

/* ---- both ---- */

static void test_client_and_server_agree_and_stop_allocating(void **state)
{
	enum { COUNT = 200, SIZE = 70000 };
	uint8_t *memory = calloc(COUNT, SIZE), *data = pattern((size_t)COUNT * SIZE, 5),
		*back = calloc(COUNT, SIZE);
	struct result *r = calloc(COUNT, sizeof(*r));
	struct mci_region *region;
	uint64_t allocs;
	int i, version;

	(void)state;
	region = add_region(memory, (size_t)COUNT * SIZE, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	f.remote.base = (uintptr_t)memory;
	f.remote.length = (size_t)COUNT * SIZE;
	for (version = 2; version >= 1; version--) {
		memset(memory, 0, (size_t)COUNT * SIZE);
		memset(back, 0, (size_t)COUNT * SIZE);
		describe(server_port(), version);
		assert_int_equal(open_peer(), 0);
		for (i = 0; i < COUNT; i++)
			submit(&r[i], MCI_OP_WRITE, (uint64_t)i * SIZE, data + (size_t)i * SIZE, SIZE,
			       2 * SOON_MS);
		for (i = 0; i < COUNT; i++) {
			expect_final(&r[i], MC_DONE, 0);
			assert_int_equal(r[i].flags, version == 1 ? MC_STATUS_UNCONFIRMED : 0);
		}
		assert_memory_equal(memory, data, (size_t)COUNT * SIZE);
		allocs = f.host.stats.allocs;
		for (i = 0; i < COUNT; i++)
			submit(&r[i], MCI_OP_READ, (uint64_t)i * SIZE, back + (size_t)i * SIZE, SIZE,
			       2 * SOON_MS);
		for (i = 0; i < COUNT; i++)
			expect_final(&r[i], MC_DONE, 0);
		assert_memory_equal(back, data, (size_t)COUNT * SIZE);
		assert_true(f.host.stats.allocs <= allocs + (version == 1 ? 8 : 0));
		mci_transport_classic.peer_close(f.peer);
		f.peer = NULL;
	}
	remove_region(region);
	free(r);
	free(memory);
	free(data);
	free(back);
}

static void test_engine_closes_with_connections_open_and_requests_stuck_on_the_far_side(void **state)
{
	uint8_t *memory = calloc(1, 4096);
	struct mci_region *region;
	int fd, idle;

	(void)state;
	region = add_region(memory, 4096, MC_REMOTE_WRITE, true);
	idle = call_server();
	fd = call_server();
	ask(fd, 0x81, memory, 4096);
	put(fd, "abc", 3);
	mci_transport_classic.close(f.transport);
	expect_closed(fd);
	expect_closed(idle);
	close(fd);
	close(idle);
	remove_region(region);
	f.host.options.classic = false;
	assert_int_equal(mci_transport_classic.open(&f.host, &f.transport), 0);
	free(memory);
}

int main(void)
{
#define CLIENT(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define SERVER(name) cmocka_unit_test_setup_teardown(name, setup_server, teardown)
	const struct CMUnitTest tests[] = {
		CLIENT(test_v2_write_has_the_classic_bytes),
		CLIENT(test_v1_read_has_the_classic_bytes),
		CLIENT(test_v2_read_reuses_its_connection),
		CLIENT(test_v1_write_ends_unconfirmed_when_the_server_closes),
		CLIENT(test_v1_write_to_a_server_that_stays_open_is_not_held_up_for_long),
		CLIENT(test_v1_write_that_is_reset_fails_and_is_never_repeated),
		CLIENT(test_rejection_is_seen_before_the_payload_is_sent),
		CLIENT(test_rejection_survives_the_reset_behind_it),
		CLIENT(test_peer_death_in_mid_transfer_fails_the_request),
		CLIENT(test_no_status_within_the_deadline_is_timed_out),
		CLIENT(test_garbage_instead_of_a_status_fails_the_request),
		CLIENT(test_stale_connection_is_replaced_once),
		CLIENT(test_idle_connection_that_closed_is_not_used),
		CLIENT(test_cancel_ends_what_runs_and_what_waits),
		CLIENT(test_deadline_holds_for_requests_that_wait),
		CLIENT(test_peer_that_is_gone_is_reported_at_once),
		CLIENT(test_restarted_peer_is_stale),
		CLIENT(test_peer_with_other_buffers_is_stale),
		CLIENT(test_peer_that_was_unreachable_is_connected_again),
		CLIENT(test_stale_region_is_refused_unsent),
		CLIENT(test_v1_peers_are_refused_when_acknowledgements_are_required),
		CLIENT(test_old_peer_without_data_port_is_served_on_its_rpc_port),
		CLIENT(test_mc_tcp_proto_1_forces_v1),
		CLIENT(test_what_is_not_for_us_is_left_to_others),
		CLIENT(test_notify_has_the_classic_bytes),
		CLIENT(test_server_is_off_unless_asked_for),
		SERVER(test_server_takes_many_requests_of_both_versions_on_one_connection),
		SERVER(test_server_rejects_whatever_is_not_inside_one_classic_region),
		SERVER(test_rejection_reaches_a_client_that_is_still_sending),
		SERVER(test_half_a_frame_holds_nothing_once_the_client_is_gone),
		SERVER(test_stuck_transfer_does_not_hold_up_unregistering),
		SERVER(test_server_bounds_its_connections),
		SERVER(test_client_and_server_agree_and_stop_allocating),
		SERVER(test_engine_closes_with_connections_open_and_requests_stuck_on_the_far_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
