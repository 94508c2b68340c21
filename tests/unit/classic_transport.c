// SPDX-License-Identifier: MIT
/*
 * The client of the classic data protocol, against the bytes that classic programs put on the wire. The
 * test itself plays the server: it listens, and reads and writes raw bytes.
 */
#include "unit/classic_fixture.h"

static const uint8_t write_v2_64k[24] = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x56, 0x34, 0x12, 0x7f, 0, 0, 0x81};
static const uint8_t read_v1_64k[24] = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x56, 0x34, 0x12, 0x7f, 0, 0, 0x00};
static const uint8_t notify_a_b[] = {0x1f, 0,	 0,    0,    0,	   0,	 0,    0,    2,	   0x7b,
				     0x22, 0x6e, 0x61, 0x6d, 0x65, 0x22, 0x3a, 0x22, 0x61, 0x22,
				     0x2c, 0x22, 0x6e, 0x6f, 0x74, 0x69, 0x66, 0x79, 0x5f, 0x6d,
				     0x73, 0x67, 0x22, 0x3a, 0x22, 0x62, 0x22, 0x7d, 0x0a};

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
	assert_true(pending(&r)); /* done means stored: not before the status */
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
	assert_true(pending(&r));
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
	assert_true(mci_now_ns() - begin < 9 * MCI_NS_PER_S);
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
	assert_true(mci_now_ns() - begin < 9 * MCI_NS_PER_S);
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

static void test_success_before_the_payload_was_sent_is_no_success(void **state)
{
	uint8_t *data = calloc(1, 128 << 20), header[24];
	struct result r;
	int fd;

	(void)state;
	fd = open_listening(2);
	submit(&r, MCI_OP_WRITE, 0, data, 128 << 20, SOON_MS);
	get(fd, header, 24);
	put(fd, status_ok, 8);
	expect_final(&r, MC_FAILED, -EPROTO);
	close(fd);
	free(data);
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
		assert_true(pending(&r[i]));
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
	assert_true(pending(&r));
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

int main(void)
{
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
		CLIENT(test_success_before_the_payload_was_sent_is_no_success),
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
