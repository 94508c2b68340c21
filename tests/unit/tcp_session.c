// SPDX-License-Identifier: MIT
/* A TCP target and what no initiator of ours would send: sessions, frames, readers that do not read. */
#include "unit/tcp_pair.h"

static int raw_connect(struct pair *p, const struct mci_tcp_params *params, struct mci_sock *sock)
{
	static const char *const hosts[] = {"127.0.0.1"};
	uint8_t encoded[MCI_TCP_PARAMS];
	struct mci_connect_attr attr = {
		.hosts = hosts,
		.host_count = 1,
		.port = mci_service_port(p->to->service),
		.self = &p->from->self,
		.secret = &p->to->host.secret,
		.wanted = &p->to->self.uuid,
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_DATA,
		.params = encoded,
		.params_length = sizeof(encoded),
		.deadline_ns = mci_now_ns() + 5 * S,
	};
	struct mci_hello hello;

	mci_tcp_params_encode(params, encoded);
	return mci_connect(&attr, sock, &hello);
}

/* True if the target has closed this connection (or does within 5 s). */
static bool is_closed(struct mci_sock *sock)
{
	uint8_t byte;

	return mci_sock_recv_all(sock, &byte, 1, mci_now_ns() + 5 * S) == -ECONNRESET;
}

static void test_incarnations_only_ever_rise(void **state)
{
	struct mci_tcp_params params = {.incarnation = 5, .count = 2, .slots = 16, .slice_max = 65536};
	struct mci_sock first, second, newer, late;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	mci_uuid_new(&params.session);
	assert_int_equal(raw_connect(&p, &params, &first), 0); /* unknown there, and not its first */
	params.index = 1;
	assert_int_equal(raw_connect(&p, &params, &second), 0);
	params.incarnation = 7;
	assert_int_equal(raw_connect(&p, &params, &newer), 0);
	/* Both were closed before the new one was accepted. */
	assert_true(is_closed(&first));
	assert_true(is_closed(&second));
	params.incarnation = 6;
	assert_int_equal(raw_connect(&p, &params, &late), -ESTALE);
	mci_sock_close(&newer);
	/* And it is remembered when no connection is left. */
	params.incarnation = 5;
	assert_int_equal(raw_connect(&p, &params, &late), -ESTALE);
	mci_sock_close(&first);
	mci_sock_close(&second);
	pair_close(&p);
}

static void test_a_session_belongs_to_one_engine_and_has_a_bounded_number_of_streams(void **state)
{
	struct mci_tcp_params params = {.incarnation = 1, .count = 16, .slots = 16, .slice_max = 65536};
	struct mci_sock socks[MCI_TCP_STREAMS_MAX], more;
	struct mci_identity self;
	struct pair p;
	unsigned int i;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	mci_uuid_new(&params.session);
	for (i = 0; i < MCI_TCP_STREAMS_MAX; i++) {
		params.index = (uint16_t)i;
		assert_int_equal(raw_connect(&p, &params, &socks[i]), 0);
	}
	assert_int_equal(raw_connect(&p, &params, &more), -EBUSY);
	self = p.from->self;
	mci_uuid_new(&p.from->self.uuid);
	params.incarnation = 9;
	assert_int_equal(raw_connect(&p, &params, &more), -EACCES);
	p.from->self = self;
	for (i = 0; i < MCI_TCP_STREAMS_MAX; i++)
		mci_sock_close(&socks[i]);
	pair_close(&p);
}

/* A connection of ours by hand, to send what no initiator of ours would. */
static struct mci_sock raw_open(struct pair *p, uint32_t slots)
{
	struct mci_tcp_params params = {.incarnation = 1, .count = 1, .slots = slots, .slice_max = 1 << 20};
	struct mci_sock sock;

	mci_uuid_new(&params.session);
	assert_int_equal(raw_connect(p, &params, &sock), 0);
	return sock;
}

static struct mci_tcp_header raw_header(struct pair *p, enum mci_tcp_type type, uint64_t id, uint64_t length)
{
	return (struct mci_tcp_header){.type = (uint8_t)type,
				       .id = id,
				       .target = p->to->self.uuid,
				       .region = p->remote.id,
				       .generation = p->remote.generation,
				       .length = length};
}

static void raw_send(struct mci_sock *sock, const struct mci_tcp_header *h)
{
	uint8_t bytes[MCI_TCP_HEADER];

	mci_tcp_header_encode(h, bytes);
	assert_int_equal(mci_sock_send_all(sock, bytes, sizeof(bytes), mci_now_ns() + 5 * S), 0);
}

static struct mci_tcp_header raw_reply(struct mci_sock *sock)
{
	uint8_t bytes[MCI_TCP_HEADER];
	struct mci_tcp_header h;
	const char *why;

	assert_int_equal(mci_sock_recv_all(sock, bytes, sizeof(bytes), mci_now_ns() + 5 * S), 0);
	assert_int_equal(mci_tcp_header_decode(bytes, &h, &why), 0);
	return h;
}

static void test_frames_that_make_no_sense_end_their_connection_only(void **state)
{
	struct mci_tcp_header h;
	struct mci_sock sock;
	struct pair p;
	int i;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	for (i = 0; i < 5; i++) {
		sock = raw_open(&p, 16);
		h = raw_header(&p, MCI_TCP_READ, 1, 16);
		switch (i) {
		case 0:
			h.type = MCI_TCP_READ | MCI_TCP_REPLY;
			break;
		case 1:
			h.type = 77;
			break;
		case 2:
			h.extension = MCI_TCP_EXTENSION_MAX + 1;
			h.flags = MCI_TCP_EXTENSION_OPTIONAL;
			break;
		case 3:
			h.extension = 8; /* not optional */
			break;
		case 4:
			h.length = MCI_TCP_SLICE_MAX + 1ull;
			break;
		}
		raw_send(&sock, &h);
		assert_true(is_closed(&sock));
		mci_sock_close(&sock);
	}
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, MIB, 5 * S), 0);
	assert_int_equal(p.from->host.stats.reconnects, 0);
	pair_close(&p);
}

static void test_optional_extensions_are_skipped(void **state)
{
	struct mci_tcp_header h, reply;
	uint8_t waste[3000] = {0};
	struct mci_sock sock;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	sock = raw_open(&p, 16);
	h = raw_header(&p, MCI_TCP_WRITE, 42, 5);
	h.extension = sizeof(waste);
	h.flags = MCI_TCP_EXTENSION_OPTIONAL;
	raw_send(&sock, &h);
	assert_int_equal(mci_sock_send_all(&sock, waste, sizeof(waste), mci_now_ns() + S), 0);
	assert_int_equal(mci_sock_send_all(&sock, "hello", 5, mci_now_ns() + S), 0);
	reply = raw_reply(&sock);
	assert_int_equal(reply.id, 42);
	assert_int_equal(reply.status, 0);
	assert_memory_equal(p.memory, "hello", 5);
	mci_sock_close(&sock);
	pair_close(&p);
}

static bool in_use(void *arg) { return atomic_load(&((struct mci_region *)arg)->users); }

/* Also where its last write and the next come in one piece: a peer that never stops would hold it for good. */
static void test_a_region_that_goes_takes_no_further_writes(void **state)
{
	static uint8_t bytes[32768 - 1 + MCI_TCP_HEADER + 5];
	const uint64_t second = 131072;
	struct mci_tcp_header h, reply;
	struct mci_sock sock;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	sock = raw_open(&p, 16);
	h = raw_header(&p, MCI_TCP_WRITE, 1, 32768);
	raw_send(&sock, &h);
	assert_int_equal(mci_sock_send_all(&sock, "x", 1, mci_now_ns() + S), 0);
	wait_until(in_use, p.region);
	assert_int_equal(mci_regions_retire(p.to->host.regions, p.region, true), 0);
	h = raw_header(&p, MCI_TCP_WRITE, 2, 5);
	h.offset = second;
	mci_tcp_header_encode(&h, bytes + 32767);
	memcpy(bytes + 32767 + MCI_TCP_HEADER, "hello", 5);
	assert_int_equal(mci_sock_send_all(&sock, bytes, sizeof(bytes), mci_now_ns() + 5 * S), 0);
	reply = raw_reply(&sock);
	assert_int_equal(reply.id, 1);
	assert_int_equal(reply.status, 0);
	reply = raw_reply(&sock);
	assert_int_equal(reply.id, 2);
	assert_int_equal(reply.status, -ESTALE);
	assert_int_equal(p.memory[0], 'x');
	assert_int_equal(p.memory[second], 0);
	mci_sock_close(&sock);
	pair_close(&p);
}

static void test_a_reader_that_takes_no_answers_blocks_nobody_else(void **state)
{
	struct mci_tcp_header h;
	uint8_t bytes[MCI_TCP_HEADER];
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	struct mci_sock slow;
	uint64_t sent = 0, stop;
	struct pair p;

	(void)state;
	pair_open(&p, 16 * MIB, false, NULL);
	slow = raw_open(&p, 8);
	h = raw_header(&p, MCI_TCP_READ, 1, MIB);
	mci_tcp_header_encode(&h, bytes);
	/* Far more than its credits, until the target does not take them any more. */
	stop = mci_now_ns() + 500 * MS;
	while (mci_now_ns() < stop)
		if (mci_sock_sendv(&slow, &iov, 1) == sizeof(bytes))
			sent++;
	assert_true(sent > 1000);
	assert_true(p.to->host.stats.served_reads < 200);
	assert_int_equal(one(&p, MCI_OP_WRITE, 0, p.length, 10 * S), 0);
	assert_int_equal(one(&p, MCI_OP_READ, 0, p.length, 10 * S), 0);
	/* What it holds is taken from it in the end. */
	assert_int_equal(fake_unregister(p.to, p.region, 500 * MS), 0);
	p.region = NULL;
	mci_sock_close(&slow);
	pair_close(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_incarnations_only_ever_rise),
		cmocka_unit_test(test_a_session_belongs_to_one_engine_and_has_a_bounded_number_of_streams),
		cmocka_unit_test(test_frames_that_make_no_sense_end_their_connection_only),
		cmocka_unit_test(test_optional_extensions_are_skipped),
		cmocka_unit_test(test_a_region_that_goes_takes_no_further_writes),
		cmocka_unit_test(test_a_reader_that_takes_no_answers_blocks_nobody_else),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
