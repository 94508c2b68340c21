// SPDX-License-Identifier: MIT
/* Integrity on the path: TLS under the session key, end to end, and everything that must break it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>

#include "net/tls.h"
#include "unit/net_peer.h"

struct side {
	pthread_t thread;
	struct mci_sock sock;
	bool server;
	uint8_t key[MCI_TLS_KEY];
	int ret;
	char said[200];
};

static void *shake(void *arg)
{
	struct side *side = arg;

	side->ret = mci_tls_start(&side->sock, side->server, side->key);
	if (!side->ret)
		side->ret = mci_tls_handshake_wait(&side->sock, soon(3000));
	if (side->ret)
		snprintf(side->said, sizeof(side->said), "%s", mc_errmsg());
	return NULL;
}

static void join_sides(struct side sides[2])
{
	int i;

	for (i = 0; i < 2; i++)
		pthread_create(&sides[i].thread, NULL, shake, &sides[i]);
	for (i = 0; i < 2; i++)
		pthread_join(sides[i].thread, NULL);
}

static void make_pair(struct side sides[2])
{
	int fds[2], i;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	for (i = 0; i < 2; i++) {
		sides[i] = (struct side){.sock.fd = fds[i], .server = i};
		memset(sides[i].key, 0x5a, sizeof(sides[i].key));
	}
}

static void close_pair(struct side sides[2])
{
	mci_sock_close(&sides[0].sock);
	mci_sock_close(&sides[1].sock);
}

static void test_both_sides_with_the_key_come_up(void **state)
{
	struct side sides[2];
	char text[5];

	(void)state;
	make_pair(sides);
	join_sides(sides);
	assert_int_equal(sides[0].ret, 0);
	assert_int_equal(sides[1].ret, 0);
	assert_int_equal(mci_sock_send_all(&sides[0].sock, "hello", 5, soon(1000)), 0);
	assert_int_equal(mci_sock_recv_all(&sides[1].sock, text, 5, soon(1000)), 0);
	assert_memory_equal(text, "hello", 5);
	close_pair(sides);
}

static void test_another_key_does_not_come_up(void **state)
{
	struct side sides[2];

	(void)state;
	make_pair(sides);
	sides[1].key[31] ^= 1;
	join_sides(sides);
	assert_int_not_equal(sides[0].ret, 0);
	assert_int_not_equal(sides[1].ret, 0);
	assert_non_null(strstr(sides[1].said, "failed"));
	close_pair(sides);
}

static void test_a_silent_peer_ends_at_the_deadline(void **state)
{
	struct side sides[2];
	uint64_t begin = mci_now_ns();

	(void)state;
	make_pair(sides);
	assert_int_equal(mci_tls_start(&sides[0].sock, false, sides[0].key), 0);
	assert_int_equal(mci_tls_handshake_wait(&sides[0].sock, soon(200)), -ETIMEDOUT);
	assert_true(mci_now_ns() - begin < 20 * MCI_NS_PER_S);
	close_pair(sides);
}

static void test_nothing_readable_travels(void **state)
{
	static const char secret_text[] = "this must not be seen on the path";
	struct side sides[2];
	uint8_t wire[4096];
	ssize_t n, i;

	(void)state;
	make_pair(sides);
	join_sides(sides);
	assert_int_equal(mci_sock_send_all(&sides[0].sock, secret_text, sizeof(secret_text), soon(1000)), 0);
	n = recv(sides[1].sock.fd, wire, sizeof(wire), MSG_PEEK);
	assert_true(n > (ssize_t)sizeof(secret_text));
	for (i = 0; i + (ssize_t)sizeof(secret_text) <= n; i++)
		assert_memory_not_equal(wire + i, secret_text, sizeof(secret_text));
	close_pair(sides);
}

static void test_a_flipped_bit_is_noticed(void **state)
{
	struct side sides[2];
	uint8_t wire[4096];
	char text[6];
	ssize_t n;

	(void)state;
	make_pair(sides);
	join_sides(sides);
	assert_int_equal(mci_sock_send_all(&sides[0].sock, "hello", 5, soon(1000)), 0);
	n = recv(sides[1].sock.fd, wire, sizeof(wire), 0);
	assert_true(n > 5);
	wire[n - 1] ^= 1;
	assert_int_equal(send(sides[0].sock.fd, wire, (size_t)n, 0), n);
	assert_int_equal(mci_sock_recv_all(&sides[1].sock, text, 5, soon(1000)), -EBADMSG);
	close_pair(sides);
}

static void test_a_replayed_record_is_noticed(void **state)
{
	struct side sides[2];
	uint8_t wire[4096];
	char text[10];
	ssize_t n;

	(void)state;
	make_pair(sides);
	join_sides(sides);
	assert_int_equal(mci_sock_send_all(&sides[0].sock, "hello", 5, soon(1000)), 0);
	n = recv(sides[1].sock.fd, wire, sizeof(wire), 0);
	assert_int_equal(send(sides[0].sock.fd, wire, (size_t)n, 0), n);
	assert_int_equal(send(sides[0].sock.fd, wire, (size_t)n, 0), n);
	assert_int_equal(mci_sock_recv_all(&sides[1].sock, text, 10, soon(1000)), -EBADMSG);
	close_pair(sides);
}

static void test_an_announced_end_is_told_from_a_cut(void **state)
{
	struct side sides[2];
	struct iovec iov;
	char byte;

	(void)state;
	iov = (struct iovec){&byte, 1};
	make_pair(sides);
	join_sides(sides);
	mci_sock_close(&sides[0].sock);
	assert_int_equal(mci_sock_recvv(&sides[1].sock, &iov, 1), 0);
	close_pair(sides);

	make_pair(sides);
	join_sides(sides);
	shutdown(sides[0].sock.fd, SHUT_WR);
	assert_int_equal(mci_sock_recvv(&sides[1].sock, &iov, 1), -ECONNRESET);
	close_pair(sides);
}

static void test_a_closed_peer_is_an_errno_and_no_signal(void **state)
{
	static uint8_t lots[1 << 20];
	struct side sides[2];
	int ret;

	(void)state;
	signal(SIGPIPE, SIG_DFL); /* a SIGPIPE would end this test */
	make_pair(sides);
	join_sides(sides);
	mci_sock_close(&sides[1].sock);
	ret = mci_sock_send_all(&sides[0].sock, lots, sizeof(lots), soon(1000));
	assert_true(ret == -EPIPE || ret == -ECONNRESET);
	close_pair(sides);
}

/* Both directions at once, in pieces of every size, over a socket that is full most of the time. */
struct flow {
	pthread_t thread;
	struct mci_sock *sock;
	uint8_t *data, *got;
	size_t size, sent, received;
	unsigned int seed;
	bool wide;
	int ret;
};

static unsigned int next_random(unsigned int *seed)
{
	*seed = *seed * 1103515245u + 12345u;
	return *seed >> 8;
}

/* After EAGAIN the same bytes come first again, cut into other pieces and with more behind them. */
static ssize_t send_some(struct flow *flow)
{
	struct iovec iov[40];
	size_t at = flow->sent, piece;
	int count = 0;

	while (count < 40 && at < flow->size) {
		piece = flow->wide && count == 5 ? 100000 : next_random(&flow->seed) % 3000;
		if (piece > flow->size - at)
			piece = flow->size - at;
		iov[count].iov_base = flow->data + at;
		iov[count++].iov_len = piece;
		at += piece;
	}
	/* Never less than what was offered before: the rest as one piece. */
	if (count == 40) {
		iov[39].iov_base = (uint8_t *)iov[38].iov_base + iov[38].iov_len;
		iov[39].iov_len = flow->size - (size_t)((uint8_t *)iov[39].iov_base - flow->data);
	}
	return mci_sock_sendv(flow->sock, iov, count);
}

static ssize_t receive_some(struct flow *flow)
{
	size_t left = flow->size - flow->received, first = next_random(&flow->seed) % 5000;
	struct iovec iov[2] = {{flow->got + flow->received, first < left ? first : left}, {NULL, 0}};

	iov[1].iov_base = (uint8_t *)iov[0].iov_base + iov[0].iov_len;
	iov[1].iov_len = left - iov[0].iov_len;
	return mci_sock_recvv(flow->sock, iov, 2);
}

static void *run_flow(void *arg)
{
	struct flow *flow = arg;
	uint64_t deadline = soon(20000);

	while (flow->sent < flow->size || flow->received < flow->size) {
		struct pollfd wait = {.fd = flow->sock->fd, .events = POLLIN};
		ssize_t out = flow->sent < flow->size ? send_some(flow) : -EAGAIN;
		ssize_t in = flow->received < flow->size ? receive_some(flow) : -EAGAIN;

		flow->sent += out > 0 ? (size_t)out : 0;
		flow->received += in > 0 ? (size_t)in : 0;
		if ((out < 0 && out != -EAGAIN) || in == 0 || (in < 0 && in != -EAGAIN) ||
		    mci_now_ns() > deadline) {
			flow->ret = out < 0 && out != -EAGAIN ? (int)out
				    : in < 0 && in != -EAGAIN ? (int)in
							      : -ETIMEDOUT;
			return NULL;
		}
		if (out < 0 && in < 0) {
			if (flow->sent < flow->size)
				wait.events |= POLLOUT;
			poll(&wait, 1, 100);
		}
	}
	return NULL;
}

static void test_much_data_in_both_directions_arrives_whole(void **state)
{
	size_t size = 24u << 20, i;
	struct flow flows[2];
	struct side sides[2];
	int k;

	(void)state;
	make_pair(sides);
	join_sides(sides);
	for (k = 0; k < 2; k++) {
		flows[k] = (struct flow){.sock = &sides[k].sock,
					 .data = malloc(size),
					 .got = calloc(1, size),
					 .size = size,
					 .seed = (unsigned int)k + 1,
					 .wide = k};
		for (i = 0; i < size; i++)
			flows[k].data[i] = (uint8_t)(i * 31 + (i >> 13) + (size_t)k);
	}
	for (k = 0; k < 2; k++)
		pthread_create(&flows[k].thread, NULL, run_flow, &flows[k]);
	for (k = 0; k < 2; k++)
		pthread_join(flows[k].thread, NULL);
	for (k = 0; k < 2; k++) {
		assert_int_equal(flows[k].ret, 0);
		assert_memory_equal(flows[k].got, flows[1 - k].data, size);
	}
	for (k = 0; k < 2; k++) {
		free(flows[k].data);
		free(flows[k].got);
	}
	close_pair(sides);
}

static void test_offering_less_after_eagain_is_refused_not_mixed_up(void **state)
{
	static uint8_t lots[4 << 20];
	struct side sides[2];
	struct iovec iov = {lots, sizeof(lots)};
	ssize_t n;

	(void)state;
	make_pair(sides);
	join_sides(sides);
	while ((n = mci_sock_sendv(&sides[0].sock, &iov, 1)) > 0)
		;
	assert_int_equal(n, -EAGAIN);
	iov.iov_len = 10;
	assert_int_equal(mci_sock_sendv(&sides[0].sock, &iov, 1), -EINVAL);
	close_pair(sides);
}

/* A sender and a receiver thread on one session, as a transport may have them. */
struct worker {
	pthread_t thread;
	struct mci_sock *sock;
	uint8_t *p;
	size_t n;
	int ret;
};

static void *send_worker(void *arg)
{
	struct worker *w = arg;

	w->ret = mci_sock_send_all(w->sock, w->p, w->n, soon(20000));
	return NULL;
}

static void *receive_worker(void *arg)
{
	struct worker *w = arg;

	w->ret = mci_sock_recv_all(w->sock, w->p, w->n, soon(20000));
	return NULL;
}

static void test_sending_and_receiving_threads_may_share_a_session(void **state)
{
	size_t size = 4u << 20;
	uint8_t *data = malloc(size), *got[2];
	struct worker workers[4];
	struct side sides[2];
	int i;

	(void)state;
	memset(data, 0xa7, size);
	make_pair(sides);
	join_sides(sides);
	for (i = 0; i < 2; i++) {
		got[i] = calloc(1, size);
		workers[i] = (struct worker){.sock = &sides[i].sock, .p = data, .n = size};
		workers[2 + i] = (struct worker){.sock = &sides[i].sock, .p = got[i], .n = size};
	}
	for (i = 0; i < 4; i++)
		pthread_create(&workers[i].thread, NULL, i < 2 ? send_worker : receive_worker, &workers[i]);
	for (i = 0; i < 4; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].ret, 0);
	}
	for (i = 0; i < 2; i++) {
		assert_memory_equal(got[i], data, size);
		free(got[i]);
	}
	free(data);
	close_pair(sides);
}

static void test_integrity_that_both_offer_rides_tls_end_to_end(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {.attr.features = MCI_FEATURE_INTEGRITY};
	struct mci_connect_attr attr;
	struct mci_hello hello;
	struct mci_sock sock;
	char hi[2];

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	attr.features_required = MCI_FEATURE_INTEGRITY;
	assert_int_equal(mci_connect(&attr, &sock, &hello), 0);
	assert_true(hello.features & MCI_FEATURE_INTEGRITY);
	assert_non_null(sock.tls);
	assert_int_equal(mci_sock_recv_all(&sock, hi, 2, soon(3000)), 0);
	assert_memory_equal(hi, "hi", 2);
	mci_sock_close(&sock);
	assert_true(wait_for_value(&peer.ready, 1));
	attr.features_required = 0; /* not asked for: plain */
	attr.deadline_ns = soon(3000);
	assert_int_equal(mci_connect(&attr, &sock, &hello), 0);
	assert_null(sock.tls);
	mci_sock_close(&sock);
	peer_stop(&peer);
}

static void test_a_client_that_insists_refuses_a_server_without(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {0};
	struct mci_connect_attr attr;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	attr.features_required = MCI_FEATURE_INTEGRITY;
	assert_int_equal(try_hello(&attr, NULL), -EPROTO);
	assert_non_null(strstr(mc_errmsg(), "integrity"));
	peer_stop(&peer);
}

static void test_on_a_unix_socket_there_is_no_tls(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {.attr.features = MCI_FEATURE_INTEGRITY};
	struct mci_connect_attr attr;
	struct mci_hello hello;
	struct mci_sock sock;
	char name[64];

	(void)state;
	snprintf(name, sizeof(name), "mooncake-test-tls-%d", getpid());
	peer.attr.unix_name = name;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	attr.unix_name = name;
	attr.features_required = MCI_FEATURE_INTEGRITY;
	assert_int_equal(mci_connect(&attr, &sock, &hello), 0);
	assert_null(sock.tls);
	mci_sock_close(&sock);
	peer_stop(&peer);
}

/* Proved, but no TLS where it was agreed: nothing is handed over. */
static void test_a_client_that_goes_on_without_tls_is_not_handed_over(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {.attr.features = MCI_FEATURE_INTEGRITY};
	struct mci_sock plain, silent;
	int before;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	before = open_descriptors();
	assert_int_equal(open_by_hand(&peer, &own, MCI_FEATURE_INTEGRITY, "in the clear, all of it", &plain),
			 0);
	assert_true(wait_for_value(&peer.failed, 1));
	assert_int_equal(atomic_load(&peer.last_error), -EBADMSG);
	assert_int_equal(open_by_hand(&peer, &own, MCI_FEATURE_INTEGRITY, NULL, &silent), 0);
	assert_true(wait_for_value(&peer.failed, 2)); /* after the 3 s */
	assert_int_equal(atomic_load(&peer.last_error), -ETIMEDOUT);
	assert_int_equal(atomic_load(&peer.ready), 0);
	assert_int_equal(mci_service_refused(peer.service), 2);
	mci_sock_close(&plain);
	mci_sock_close(&silent);
	assert_true(wait_for_descriptors(before));
	peer_stop(&peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_sides_with_the_key_come_up),
		cmocka_unit_test(test_another_key_does_not_come_up),
		cmocka_unit_test(test_a_silent_peer_ends_at_the_deadline),
		cmocka_unit_test(test_nothing_readable_travels),
		cmocka_unit_test(test_a_flipped_bit_is_noticed),
		cmocka_unit_test(test_a_replayed_record_is_noticed),
		cmocka_unit_test(test_an_announced_end_is_told_from_a_cut),
		cmocka_unit_test(test_a_closed_peer_is_an_errno_and_no_signal),
		cmocka_unit_test(test_much_data_in_both_directions_arrives_whole),
		cmocka_unit_test(test_offering_less_after_eagain_is_refused_not_mixed_up),
		cmocka_unit_test(test_sending_and_receiving_threads_may_share_a_session),
		cmocka_unit_test(test_integrity_that_both_offer_rides_tls_end_to_end),
		cmocka_unit_test(test_a_client_that_insists_refuses_a_server_without),
		cmocka_unit_test(test_on_a_unix_socket_there_is_no_tls),
		cmocka_unit_test(test_a_client_that_goes_on_without_tls_is_not_handed_over),
	};

	return cmocka_run_group_tests_name("net_tls", tests, NULL, NULL);
}
