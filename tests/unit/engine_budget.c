// SPDX-License-Identifier: MIT
/*
 * What peers that have the key can make a target hold (contracts B6): a bounded number of bytes each, and all
 * together; they are told so, others are served, and what they held comes back.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include <mooncake/mooncake.h>

#include "engine/engine.h"
#include "net/frame.h"
#include "only.h"
#include "transport/tcp/serve.h"

#define TOTAL (32ull << 20)
#define PER_PEER (4ull << 20)
#define MANY 512
#define CONTROL_MANY 64

static mc_metadata_server *server;
static char uri[64];
static mc_engine *target, *initiator;
static mc_region *remote, *local;
static uint8_t memory[8192], source[8192];
static struct mci_sock sock[MANY];

#define must(expression)                                                              \
	do {                                                                          \
		int must_ret_ = (expression);                                         \
		if (must_ret_)                                                        \
			fail_msg("%s: %d (%s)", #expression, must_ret_, mc_errmsg()); \
	} while (0)

static uint64_t used(void) { return mci_ledger_used(target->host.ledger); }

/* A connection by hand, of whoever @self says; with a token that is true. */
static int connect_as(const struct mci_identity *self, enum mci_role role, const char *from, struct mci_sock *out)
{
	static const char *const hosts[] = { "127.0.0.1" };
	struct mci_tcp_params params = { .incarnation = 1, .count = 1, .slots = 512, .slice_max = 1 << 20 };
	uint8_t encoded[MCI_TCP_PARAMS];
	struct mci_connect_attr attr = {
		.hosts = hosts,
		.host_count = 1,
		.port = target->port,
		.source = from,
		.self = self,
		.secret = &target->host.secret,
		.wanted = &target->self.uuid,
		.service = MCI_SERVICE_ENGINE,
		.role = role,
		.params = encoded,
		.params_length = role == MCI_ROLE_DATA ? sizeof(encoded) : 0,
		.deadline_ns = mci_now_ns() + 5 * MCI_NS_PER_S,
	};
	struct mci_hello hello;

	mci_uuid_new(&params.session);
	mci_tcp_params_encode(&params, encoded);
	return mci_connect(&attr, out, &hello);
}

/* The beginning of a write that never ends, so that there is something in the connection's buffer. */
static void send_half_a_write(struct mci_sock *s)
{
	struct mci_tcp_header h = { .type = MCI_TCP_WRITE, .id = 1, .target = target->self.uuid, .length = 16000 };
	uint8_t bytes[MCI_TCP_HEADER + 8000] = { 0 };

	mci_tcp_header_encode(&h, bytes);
	must(mci_sock_send_all(s, bytes, sizeof(bytes), mci_now_ns() + 5 * MCI_NS_PER_S));
}

static void comes_back_to(uint64_t bytes)
{
	uint64_t end = mci_now_ns() + 10 * MCI_NS_PER_S;

	while (used() != bytes && mci_now_ns() < end)
		usleep(1000);
	assert_int_equal(used(), bytes);
}

static void close_all(unsigned int n)
{
	while (n)
		mci_sock_close(&sock[--n]);
	comes_back_to(0);
}

static uint64_t resident(void)
{
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%*u %lu", &pages), 1);
	fclose(file);
	return pages * 4096;
}

/* An ordinary engine reads and writes. */
static void assert_served(void)
{
	struct mc_status status;
	mc_segment *segment;
	mc_batch *batch;

	must(mc_segment_open(initiator, "target", NULL, &segment));
	must(mc_batch_alloc(initiator, 1, &batch));
	must(mc_batch_add(batch, MC_WRITE, source, segment, (struct mc_remote){ .region = mc_region_id(remote) },
			  4096));
	must(mc_batch_submit(batch, NULL));
	must(mc_batch_wait(batch, -1));
	must(mc_batch_status(batch, 0, &status));
	assert_int_equal(status.state, MC_DONE);
	must(mc_batch_free(batch));
	must(mc_segment_close(segment));
}

static void test_one_peer_gets_its_share_and_is_told_so(void **state)
{
	struct mci_identity self = { .name = "greedy", .generation = 1 };
	uint64_t rss = resident();
	unsigned int n;
	int ret = 0;

	(void)state;
	mci_uuid_new(&self.uuid);
	for (n = 0; n < MANY && !ret; n += !ret) {
		ret = connect_as(&self, MCI_ROLE_DATA, NULL, &sock[n]);
		if (!ret)
			send_half_a_write(&sock[n]);
	}
	assert_int_equal(ret, -EBUSY);
	assert_non_null(strstr(mc_errmsg(), "engine.serve_bytes_per_peer"));
	assert_true(n >= 8 && n < PER_PEER / MCI_TCP_STAGING);
	assert_true(used() <= PER_PEER);
	assert_true(used() > PER_PEER / 2);
	assert_served();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(resident() - rss < 2 * PER_PEER);
#endif
	(void)rss;
	/* What it lets go it may have again. */
	mci_sock_close(&sock[--n]);
	for (ret = -1; ret; usleep(1000))
		ret = connect_as(&self, MCI_ROLE_DATA, NULL, &sock[n]);
	close_all(n + 1);
}

static void test_who_calls_himself_by_many_names_leaves_half_to_other_hosts(void **state)
{
	struct mci_identity self = { .name = "many", .generation = 1 };
	unsigned int n;
	int ret = 0;

	(void)state;
	for (n = 0; n < MANY && !ret; n += !ret) {
		mci_uuid_new(&self.uuid);
		ret = connect_as(&self, MCI_ROLE_DATA, "127.0.0.2", &sock[n]);
	}
	assert_int_equal(ret, -EBUSY);
	assert_non_null(strstr(mc_errmsg(), "half of engine.serve_bytes"));
	assert_true(used() <= TOTAL / 2);
	assert_true(used() > TOTAL / 4);
	assert_served(); /* from 127.0.0.1 */
	for (ret = 0; n < MANY && !ret; n += !ret) {
		mci_uuid_new(&self.uuid);
		ret = connect_as(&self, MCI_ROLE_DATA, n & 1 ? "127.0.0.3" : "127.0.0.4", &sock[n]);
	}
	assert_int_equal(ret, -EBUSY);
	assert_non_null(strstr(mc_errmsg(), "all connections together"));
	assert_true(used() <= TOTAL);
	close_all(n);
	assert_served();
}

/* Questions whose answers nobody takes: each connection alone may have a MiB of them waiting. */
static void test_answers_that_are_not_taken_count(void **state)
{
	struct mci_identity self = { .name = "deaf", .generation = 1 };
	uint8_t ask[MCI_FRAME_HEAD * 64], byte[4096];
	uint64_t most = 0, end;
	unsigned int i, k, n, left;

	(void)state;
	mci_uuid_new(&self.uuid);
	for (i = 0; i < 64; i++)
		mci_frame_head(ask + i * MCI_FRAME_HEAD, MCI_CONTROL_DESCRIBE, 0, i, 0);
	for (n = 0; n < CONTROL_MANY; n++)
		must(connect_as(&self, MCI_ROLE_CONTROL, NULL, &sock[n]));
	end = mci_now_ns() + 4 * MCI_NS_PER_S;
	for (i = 0; mci_now_ns() < end; i++) {
		for (k = 0; k < n; k++) {
			struct iovec iov = { ask, sizeof(ask) };

			mci_sock_sendv(&sock[k], &iov, 1);
			if (used() > most)
				most = used();
		}
	}
	assert_true(most <= PER_PEER);
	assert_true(most > PER_PEER / 2);
	assert_served();
	/* Who has taken too much room was sent away: behind what was on its way comes the end. */
	for (k = left = 0; k < n; k++) {
		struct iovec iov = { byte, sizeof(byte) };
		ssize_t got;

		end = mci_now_ns() + 500 * MCI_NS_PER_MS;
		while ((got = mci_sock_recvv(&sock[k], &iov, 1)) > 0 || (got == -EAGAIN && mci_now_ns() < end))
			;
		left += got == -EAGAIN;
	}
	assert_true(left < n);
	close_all(n);
}

static void test_notifies_count_and_give_back(void **state)
{
	mc_segment *segment;
	uint64_t with;

	(void)state;
	must(mc_segment_open(initiator, "target", NULL, &segment));
	with = initiator->loops.count * mci_tcp_conn_bytes(MCI_TCP_SLOTS, false);
	comes_back_to(with); /* what the openings held is gone */
	must(mc_notify_send(segment, "a", "b", 1, 5000));
	assert_true(used() >= with + MCI_TCP_NOTIFY_MAX);
	must(mc_segment_close(segment));
	/* The session, which may come back, is remembered with what was delivered. */
	comes_back_to(MCI_TCP_SLOTS * 16);
}

static void test_shared_memory_counts(void **state)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_segment *segment;
	mc_engine *engine;

	(void)state;
	attr.metadata = uri;
	attr.name = "same-host";
	attr.bind = "127.0.0.1";
	attr.transports = "shm";
	must(mc_engine_open(&attr, &engine));
	must(mc_segment_open(engine, "target", NULL, &segment));
	assert_true(used() > 65536);
	must(mc_segment_close(segment));
	comes_back_to(0);
	must(mc_engine_close(engine));
}

static mc_engine *engine_open(const char *name)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = uri;
	attr.name = name;
	attr.bind = "127.0.0.1";
	attr.transports = "tcp";
	must(mc_engine_open(&attr, &engine));
	return engine;
}

static int setup(void **state)
{
	struct mc_metadata_server_attr server_attr = MC_METADATA_SERVER_ATTR_INIT;
	char text[32];

	(void)state;
	must(mc_metadata_server_open(&server_attr, &server));
	snprintf(uri, sizeof(uri), "http://127.0.0.1:%u/metadata", mc_metadata_server_port(server));
	snprintf(text, sizeof(text), "%llu", TOTAL);
	setenv("MOONCAKE_SERVE_BYTES", text, 1);
	snprintf(text, sizeof(text), "%llu", PER_PEER);
	setenv("MOONCAKE_SERVE_BYTES_PER_PEER", text, 1);
	target = engine_open("target");
	unsetenv("MOONCAKE_SERVE_BYTES");
	unsetenv("MOONCAKE_SERVE_BYTES_PER_PEER");
	initiator = engine_open("initiator");
	must(mc_engine_register(target, memory, sizeof(memory), NULL, &remote));
	must(mc_engine_register(initiator, source, sizeof(source), NULL, &local));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	must(mc_engine_unregister(local, MC_UNREGISTER_WAIT));
	must(mc_engine_close(initiator));
	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_close(target));
	must(mc_metadata_server_close(server));
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_peer_gets_its_share_and_is_told_so),
		cmocka_unit_test(test_who_calls_himself_by_many_names_leaves_half_to_other_hosts),
		cmocka_unit_test(test_answers_that_are_not_taken_count),
		cmocka_unit_test(test_shared_memory_counts),
		cmocka_unit_test(test_notifies_count_and_give_back),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, setup, teardown);
}
