// SPDX-License-Identifier: MIT
/* Addresses and sockets: parsing, listening, connecting to the first of many, deadlines, no SIGPIPE. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>

#include "net/addr.h"
#include "net/dial.h"
#include "unit/net_peer.h"

static void check_parse(const char *text, const char *host, int port, const char *again)
{
	struct mci_hostport hp;
	char round[MCI_HOST_MAX + 16];

	if (mci_hostport_parse(text, &hp))
		fail_msg("'%s' was refused: %s", text, mc_errmsg());
	assert_string_equal(hp.host, host);
	assert_int_equal(hp.port, port);
	mci_hostport_text(&hp, round, sizeof(round));
	assert_string_equal(round, again);
}

static void test_addresses_are_parsed_in_every_form(void **state)
{
	(void)state;
	check_parse("node1", "node1", 0, "node1");
	check_parse("node1:0", "node1", 0, "node1");
	check_parse("[::1]:0", "::1", 0, "[::1]");
	check_parse("node-1.example_x.org:12345", "node-1.example_x.org", 12345,
		    "node-1.example_x.org:12345");
	check_parse("10.0.0.1", "10.0.0.1", 0, "10.0.0.1");
	check_parse("10.0.0.1:1", "10.0.0.1", 1, "10.0.0.1:1");
	check_parse("[::1]", "::1", 0, "[::1]");
	check_parse("[fe80::1%1]:65535", "fe80::1%1", 65535, "[fe80::1%1]:65535");
	check_parse("[2001:db8::2]:15000", "2001:db8::2", 15000, "[2001:db8::2]:15000");
	check_parse("2001:db8::2", "2001:db8::2", 0, "[2001:db8::2]");
	check_parse("::1", "::1", 0, "[::1]");
}

static void test_bad_addresses_are_refused_with_a_sentence(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		":1",
		"a:",
		"a:65536",
		"a:99999999999999999999",
		"a:1x",
		"a:-1",
		"a b",
		"a/b",
		"a\n",
		"[",
		"[]",
		"[::1",
		"[::1]x",
		"[::1]:",
		"[a]",
		"[10.0.0.1]:1",
		"1:2:3",
		"::1:x",
		"caf\xc3\xa9",
		"$(x)",
	};
	struct mci_hostport hp = {.host = "untouched", .port = 9};
	char longer[600];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (mci_hostport_parse(bad[i], &hp) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_true(strlen(mc_errmsg()) > 20);
	}
	memset(longer, 'a', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(mci_hostport_parse(longer, &hp), -EINVAL);
	longer[0] = '[';
	longer[500] = ']';
	assert_int_equal(mci_hostport_parse(longer, &hp), -EINVAL);
	assert_string_equal(hp.host, "untouched");
	assert_int_equal(hp.port, 9);
}

static void test_loopback_is_told_from_the_rest(void **state)
{
	(void)state;
	assert_true(mci_host_is_loopback("localhost"));
	assert_true(mci_host_is_loopback("127.0.0.1"));
	assert_true(mci_host_is_loopback("127.9.9.9"));
	assert_true(mci_host_is_loopback("::1"));
	assert_true(mci_host_is_loopback("[::1]"));
	assert_true(mci_host_is_loopback("::ffff:127.0.0.1"));
	assert_false(mci_host_is_loopback("128.0.0.1"));
	assert_false(mci_host_is_loopback("192.0.2.1"));
	assert_false(mci_host_is_loopback("::2"));
	assert_false(mci_host_is_loopback("0.0.0.0"));
	assert_false(mci_host_is_loopback(""));
}

static void test_the_local_address_follows_the_route(void **state)
{
	char text[64];

	(void)state;
	assert_int_equal(mci_local_address_to("127.0.0.1", text, sizeof(text)), 0);
	assert_string_equal(text, "127.0.0.1");
	assert_true(mci_local_address_to("no-such-host.invalid", text, sizeof(text)) < 0);
	assert_non_null(strstr(mc_errmsg(), "no-such-host.invalid"));
}

static bool have_ipv6(void)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool have = fd >= 0 && !bind(fd, (struct sockaddr *)&to, sizeof(to));

	if (fd >= 0)
		close(fd);
	return have;
}

static void test_a_listener_on_all_addresses_serves_both_families(void **state)
{
	static const char *const hosts[2] = {"127.0.0.1", "::1"};
	uint16_t port = 0;
	int listener, fd, i;

	(void)state;
	assert_int_equal(mci_listen(NULL, &port, 0, 0, &listener), 0);
	assert_int_not_equal(port, 0);
	assert_true(fcntl(listener, F_GETFD) & FD_CLOEXEC);
	for (i = 0; i < (have_ipv6() ? 2 : 1); i++) {
		assert_int_equal(mci_connect_any(&hosts[i], 1, port, NULL, soon(3000), &fd), 0);
		close(fd);
	}
	close(listener);
}

static void test_a_connected_socket_is_non_blocking_closed_on_exec_and_without_nagle(void **state)
{
	uint16_t port = 0;
	int listener, fd, value = 0;
	socklen_t length = sizeof(value);
	char name[16] = "";

	(void)state;
	assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &listener), 0);
	assert_int_equal(mci_connect_any(loopback_hosts, 1, port, "127.0.0.1", soon(3000), &fd), 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length), 0);
	assert_int_equal(value, 1);
	length = sizeof(name) - 1;
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length), 0);
	assert_string_not_equal(name, "bbr");
	close(fd);
	close(listener);
}

static void test_bad_listeners_are_explained(void **state)
{
	uint16_t port = 0, taken;
	int listener, other;

	(void)state;
	assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &listener), 0);
	taken = port;
	assert_int_equal(mci_listen("127.0.0.1", &taken, 0, 0, &other), -EADDRINUSE);
	assert_non_null(strstr(mc_errmsg(), "in use"));
	taken = 0;
	assert_int_equal(mci_listen("127.0.0.1", &taken, port, port, &other), -EADDRINUSE);
	assert_int_equal(taken, 0);
	assert_int_equal(mci_listen("127.0.0.1", &taken, 2000, 1000, &other), -EINVAL);
	assert_int_equal(mci_listen("192.0.2.77", &taken, 0, 0, &other), -EADDRNOTAVAIL);
	assert_non_null(strstr(mc_errmsg(), "no interface"));
	close(listener);
}

/* A port on loopback that nobody listens on. */
static uint16_t closed_port(void)
{
	uint16_t port = 0;
	int fd;

	assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &fd), 0);
	close(fd);
	return port;
}

static void test_nobody_listening_is_refused_with_all_that_was_tried(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "127.0.0.2"};
	int fd = -7;

	(void)state;
	assert_int_equal(mci_connect_any(hosts, 2, closed_port(), NULL, soon(10000), &fd), -ECONNREFUSED);
	assert_non_null(strstr(mc_errmsg(), "127.0.0.1: Connection refused"));
	assert_non_null(strstr(mc_errmsg(), "127.0.0.2: Connection refused"));
	assert_int_equal(fd, -7);
}

/*
 * A listener whose queue is full answers no SYN any more: a black hole on loopback.
 * Closes nothing until the test ends.
 */
struct hole {
	int listener, fillers[4];
	uint16_t port;
};

static void dig(struct hole *hole, const char *host)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t length = sizeof(at);
	int i;

	inet_pton(AF_INET, host, &at.sin_addr);
	at.sin_port = htons(hole->port);
	hole->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(hole->listener, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(hole->listener, 0), 0);
	assert_int_equal(getsockname(hole->listener, (struct sockaddr *)&at, &length), 0);
	hole->port = ntohs(at.sin_port);
	for (i = 0; i < 4; i++) {
		hole->fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(hole->fillers[i], (struct sockaddr *)&at, sizeof(at));
	}
}

static void fill_in(struct hole *hole)
{
	int i;

	for (i = 0; i < 4; i++)
		close(hole->fillers[i]);
	close(hole->listener);
}

static void test_a_silent_address_does_not_hold_up_the_next(void **state)
{
	static const char *const hosts[] = {"127.0.0.3", "127.0.0.4", "127.0.0.1"};
	struct hole first = {.port = 0}, second;
	uint64_t begin, took;
	int listener, fd;

	(void)state;
	dig(&first, "127.0.0.3");
	second.port = first.port;
	dig(&second, "127.0.0.4");
	assert_int_equal(mci_listen("127.0.0.1", &first.port, 0, 0, &listener), 0);
	begin = mci_now_ns();
	assert_int_equal(mci_connect_any(hosts, 3, first.port, NULL, soon(10000), &fd), 0);
	took = mci_now_ns() - begin;
	assert_true(took >= 400 * MCI_NS_PER_MS); /* each had its 250 ms */
	assert_true(took < 9 * MCI_NS_PER_S);
	close(fd);
	close(listener);
	fill_in(&first);
	fill_in(&second);
}

static void test_connecting_ends_at_the_deadline(void **state)
{
	static const char *const hosts[] = {"127.0.0.3"};
	struct hole hole = {.port = 0};
	uint64_t begin;
	int fd;

	(void)state;
	dig(&hole, "127.0.0.3");
	begin = mci_now_ns();
	assert_int_equal(mci_connect_any(hosts, 1, hole.port, NULL, soon(300), &fd), -ETIMEDOUT);
	assert_true(mci_now_ns() - begin >= 300 * MCI_NS_PER_MS);
	assert_true(mci_now_ns() - begin < 20 * MCI_NS_PER_S);
	assert_non_null(strstr(mc_errmsg(), "127.0.0.3: no answer in time"));
	fill_in(&hole);
}

static void test_a_dial_gives_one_connection_after_the_other(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "127.0.0.2"};
	struct mci_addr peer = {.length = sizeof(peer.sa)};
	struct mci_dial *dial;
	char text[64];
	uint16_t port = 0;
	int listener, fd[3];

	(void)state;
	assert_int_equal(mci_listen(NULL, &port, 0, 0, &listener), 0);
	assert_int_equal(mci_dial_open(hosts, 2, port, NULL, &dial), 0);
	assert_int_equal(mci_dial_next(dial, soon(3000), &fd[0]), 0);
	assert_true(mci_dial_more(dial));
	assert_int_equal(mci_dial_next(dial, soon(3000), &fd[1]), 0);
	getpeername(fd[1], (struct sockaddr *)&peer.sa, &peer.length);
	mci_addr_host(&peer, text, sizeof(text));
	assert_string_equal(text, "127.0.0.2");
	assert_false(mci_dial_more(dial));
	assert_int_equal(mci_dial_next(dial, soon(3000), &fd[2]), -EHOSTUNREACH);
	mci_dial_close(dial);
	close(fd[0]);
	close(fd[1]);
	close(listener);
}

/* An address that somebody else has by now: the hello fails there, the next one is the right one. */
static void test_a_wrong_host_at_the_first_address_is_passed_by(void **state)
{
	static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer right = {0}, wrong = {.attr.bind = "127.0.0.2"};
	struct mci_connect_attr attr;
	struct mci_hello hello;

	(void)state;
	assert_int_equal(peer_start(&right, own), 0);
	wrong.attr.port = right.port;
	assert_int_equal(peer_start(&wrong, secret(MCI_AUTH_CLUSTER, 2)), 0);
	attr = client_attr(&right, &own);
	attr.hosts = hosts;
	attr.host_count = 2;
	attr.wanted = &right.self.uuid;
	assert_int_equal(try_hello(&attr, &hello), 0);
	assert_true(mci_uuid_equal(&hello.peer.uuid, &right.self.uuid));
	peer_stop(&right);
	/* Without the right one, what the wrong one said is told. */
	attr.deadline_ns = soon(5000);
	assert_int_equal(try_hello(&attr, NULL), -ESTALE);
	peer_stop(&wrong);
}

static void test_bad_sources_are_refused(void **state)
{
	uint16_t port = 0;
	int listener, fd;

	(void)state;
	assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &listener), 0);
	assert_int_equal(mci_connect_any(loopback_hosts, 1, port, "eth0", soon(1000), &fd), -EINVAL);
	assert_int_equal(mci_connect_any(loopback_hosts, 1, port, "192.0.2.77", soon(1000), &fd),
			 -EADDRNOTAVAIL);
	assert_int_equal(mci_connect_any(loopback_hosts, 1, port, "::1", soon(1000), &fd), -EADDRNOTAVAIL);
	close(listener);
}

static void make_pair(struct mci_sock pair[2])
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	pair[0] = (struct mci_sock){.fd = fds[0]};
	pair[1] = (struct mci_sock){.fd = fds[1]};
}

static void test_a_closed_peer_is_an_errno_and_no_signal(void **state)
{
	struct mci_sock pair[2];
	struct iovec iov = {"x", 1};
	char byte;

	(void)state;
	signal(SIGPIPE, SIG_DFL); /* a SIGPIPE would end this test */
	make_pair(pair);
	mci_sock_close(&pair[1]);
	assert_int_equal(pair[1].fd, -1);
	mci_sock_close(&pair[1]);
	assert_int_equal(mci_sock_sendv(&pair[0], &iov, 1), -EPIPE);
	assert_int_equal(mci_sock_send_all(&pair[0], "x", 1, soon(1000)), -EPIPE);
	iov.iov_base = &byte;
	assert_int_equal(mci_sock_recvv(&pair[0], &iov, 1), 0);
	assert_int_equal(mci_sock_recv_all(&pair[0], &byte, 1, soon(1000)), -ECONNRESET);
	mci_sock_close(&pair[0]);
}

static void test_blocking_calls_end_at_the_deadline(void **state)
{
	static uint8_t lots[8 << 20];
	struct mci_sock pair[2];
	struct iovec iov;
	uint64_t begin;
	char byte;

	(void)state;
	make_pair(pair);
	iov = (struct iovec){&byte, 1};
	assert_int_equal(mci_sock_recvv(&pair[0], &iov, 1), -EAGAIN);
	begin = mci_now_ns();
	assert_int_equal(mci_sock_recv_all(&pair[0], &byte, 1, soon(200)), -ETIMEDOUT);
	assert_int_equal(mci_sock_send_all(&pair[0], lots, sizeof(lots), soon(200)), -ETIMEDOUT);
	assert_true(mci_now_ns() - begin >= 350 * MCI_NS_PER_MS);
	assert_true(mci_now_ns() - begin < 20 * MCI_NS_PER_S);
	mci_sock_close(&pair[0]);
	mci_sock_close(&pair[1]);
}

static void test_unix_sockets_are_abstract_and_named(void **state)
{
	char name[64], longer[200], text[MCI_ADDR_TEXT + 64];
	int listener, other, fd;

	(void)state;
	snprintf(name, sizeof(name), "@mooncake-test-%d", getpid());
	assert_int_equal(mci_unix_listen(name, &listener), 0);
	assert_int_equal(mci_unix_listen(name + 1, &other), -EADDRINUSE);
	assert_int_equal(mci_unix_connect(name, soon(1000), &fd), 0);
	mci_peer_text(fd, text, sizeof(text));
	assert_non_null(strstr(text, name));
	close(fd);
	close(listener);
	assert_int_equal(mci_unix_connect(name, soon(1000), &fd), -ECONNREFUSED);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(mci_unix_connect(longer, soon(1000), &fd), -EINVAL);
	assert_int_equal(mci_unix_listen("", &fd), -EINVAL);
}

static void test_connecting_to_a_full_unix_listener_ends_at_the_deadline(void **state)
{
	char name[64];
	int listener, fds[64], count = 0, ret = 0;

	(void)state;
	snprintf(name, sizeof(name), "mooncake-test-full-%d", getpid());
	assert_int_equal(mci_unix_listen(name, &listener), 0);
	assert_int_equal(listen(listener, 0), 0); /* a shorter queue */
	while (count < 64 && !(ret = mci_unix_connect(name, soon(100), &fds[count])))
		count++;
	assert_int_equal(ret, -ETIMEDOUT);
	while (count)
		close(fds[--count]);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses_are_parsed_in_every_form),
		cmocka_unit_test(test_bad_addresses_are_refused_with_a_sentence),
		cmocka_unit_test(test_loopback_is_told_from_the_rest),
		cmocka_unit_test(test_the_local_address_follows_the_route),
		cmocka_unit_test(test_a_listener_on_all_addresses_serves_both_families),
		cmocka_unit_test(test_a_connected_socket_is_non_blocking_closed_on_exec_and_without_nagle),
		cmocka_unit_test(test_bad_listeners_are_explained),
		cmocka_unit_test(test_nobody_listening_is_refused_with_all_that_was_tried),
		cmocka_unit_test(test_a_silent_address_does_not_hold_up_the_next),
		cmocka_unit_test(test_connecting_ends_at_the_deadline),
		cmocka_unit_test(test_a_dial_gives_one_connection_after_the_other),
		cmocka_unit_test(test_a_wrong_host_at_the_first_address_is_passed_by),
		cmocka_unit_test(test_bad_sources_are_refused),
		cmocka_unit_test(test_a_closed_peer_is_an_errno_and_no_signal),
		cmocka_unit_test(test_blocking_calls_end_at_the_deadline),
		cmocka_unit_test(test_unix_sockets_are_abstract_and_named),
		cmocka_unit_test(test_connecting_to_a_full_unix_listener_ends_at_the_deadline),
	};

	return cmocka_run_group_tests_name("net_sock", tests, NULL, NULL);
}
