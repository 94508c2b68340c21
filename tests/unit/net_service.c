// SPDX-License-Identifier: MIT
/* The rpc port: strangers within bounds, classic messages byte by byte, handing over, stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include "net/hello.h"
#include "net/incoming.h"
#include "unit/net_peer.h"

static const uint8_t probe_request[] = "\x04\0\0\0\0\0\0\0\x03{}\n";
static const uint8_t probe_reply[] = "\x16\0\0\0\0\0\0\0\x03{\"status\":\"success\"}\n";

static ssize_t ask(struct peer *peer, const void *p, size_t n, uint8_t *answer, size_t size)
{
	struct mci_sock sock = {.fd = bare(peer)};
	uint64_t begin = mci_now_ns();
	ssize_t got;

	assert_true(sock.fd >= 0);
	assert_int_equal(mci_sock_send_all(&sock, p, n, soon(2000)), 0);
	got = read_to_end(sock.fd, answer, size);
	assert_true(mci_now_ns() - begin < 2900 * MCI_NS_PER_MS); /* it ends with the answer, not with the 3 s */
	mci_sock_close(&sock);
	return got;
}

static size_t classic_message(uint8_t *p, int type, const char *json)
{
	size_t n = strlen(json), head = type < 0 ? 8 : 9;

	mci_put64(p, n + (type >= 0));
	p[8] = (uint8_t)type;
	memcpy(p + head, json, n);
	return head + n;
}

static void test_the_probe_is_answered_byte_by_byte(void **state)
{
	uint8_t answer[256];
	struct peer peer = {0};
	int i;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(ask(&peer, probe_request, 12, answer, sizeof(answer)), 30);
		assert_memory_equal(answer, probe_reply, 30);
	}
	assert_int_equal(mci_service_refused(peer.service), 0);
	peer_stop(&peer);
}

static void test_the_probe_may_come_byte_after_byte(void **state)
{
	struct timespec pause = {.tv_nsec = 2000000};
	uint8_t answer[256];
	struct peer peer = {0};
	struct mci_sock sock;
	size_t i;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	sock = (struct mci_sock){.fd = bare(&peer)};
	for (i = 0; i < 12; i++) {
		assert_int_equal(mci_sock_send_all(&sock, probe_request + i, 1, soon(1000)), 0);
		nanosleep(&pause, NULL);
	}
	assert_int_equal(read_to_end(sock.fd, answer, sizeof(answer)), 30);
	assert_memory_equal(answer, probe_reply, 30);
	mci_sock_close(&sock);
	peer_stop(&peer);
}

static void test_without_classic_nothing_but_the_probe_is_answered(void **state)
{
	uint8_t message[256], answer[256];
	struct peer peer = {0};
	size_t n;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	n = classic_message(message, MCI_CLASSIC_METADATA, "{}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 0);
	n = classic_message(message, MCI_CLASSIC_NOTIFY, "{\"name\":\"a\",\"notify_msg\":\"b\"}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 0);
	n = classic_message(message, -1, "{\"local_nic_path\":\"\"}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 0);
	mci_put64(message, MCI_PROBE_MAX); /* a probe, but a long one: closed at its ninth byte */
	message[8] = 3;
	assert_int_equal(ask(&peer, message, 9, answer, sizeof(answer)), 0);
	assert_int_equal(atomic_load(&peer.classic), 0);
	assert_int_equal(mci_service_refused(peer.service), 4);
	peer_stop(&peer);
}

static void test_under_classic_each_type_is_answered_in_its_own_form(void **state)
{
	static const char notified[] = "{\"name\":\"\",\"notify_msg\":\"success\"}\n";
	uint8_t message[256], answer[256];
	struct peer peer = {.attr.classic = true};
	size_t n;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	n = classic_message(message, MCI_CLASSIC_METADATA, "{}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 14);
	assert_memory_equal(answer, "\x06\0\0\0\0\0\0\0\x01null\n", 14);

	n = classic_message(message, MCI_CLASSIC_NOTIFY, "{\"name\":\"a\",\"notify_msg\":\"b\"}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 9 + strlen(notified));
	assert_int_equal(mci_get64(answer), 1 + strlen(notified));
	assert_int_equal(answer[8], MCI_CLASSIC_NOTIFY);
	assert_memory_equal(answer + 9, notified, strlen(notified));

	/* before v0.3: no type byte, and none in the reply */
	n = classic_message(message, -1, "{\"local_nic_path\":\"\"}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 13);
	assert_memory_equal(answer, "\x05\0\0\0\0\0\0\0null\n", 13);
	assert_int_equal(ask(&peer, probe_request, 12, answer, sizeof(answer)), 30);
	assert_memory_equal(answer, probe_reply, 30);
	assert_int_equal(atomic_load(&peer.classic), 3);

	/* bytes above 0x7f are no type either: taken as JSON, which the handler refuses */
	n = classic_message(message, -1, "\xff{}\n");
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 0);
	assert_int_equal(mci_service_refused(peer.service), 1);
	peer_stop(&peer);
}

static void test_a_long_classic_message_is_read_whole(void **state)
{
	size_t length = MCI_CLASSIC_MAX - 1, n;
	uint8_t *message = malloc(MCI_CLASSIC_MAX + 16), answer[64];
	char *json = malloc(length + 1);
	struct peer peer = {.attr.classic = true};

	(void)state;
	memset(json, ' ', length);
	json[0] = '{';
	json[length - 1] = '}';
	json[length] = '\0';
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	n = classic_message(message, MCI_CLASSIC_METADATA, json);
	assert_int_equal(ask(&peer, message, n, answer, sizeof(answer)), 14);
	assert_int_equal(atomic_load(&peer.classic), 1);
	mci_put64(message, MCI_CLASSIC_MAX + 1);
	assert_int_equal(ask(&peer, message, 9, answer, sizeof(answer)), 0);
	assert_int_equal(mci_service_refused(peer.service), 1);
	free(json);
	free(message);
	peer_stop(&peer);
}

static void test_a_client_that_does_not_close_after_the_reply_is_closed(void **state)
{
	struct peer peer = {0};
	struct mci_sock sock;
	uint8_t answer[64];
	int before;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	before = open_descriptors();
	sock = (struct mci_sock){.fd = bare(&peer)};
	assert_int_equal(mci_sock_send_all(&sock, probe_request, 12, soon(1000)), 0);
	assert_int_equal(read_to_end(sock.fd, answer, sizeof(answer)), 30);
	assert_true(wait_for_descriptors(before + 1)); /* ours alone is left */
	assert_int_equal(mci_service_refused(peer.service), 0);
	mci_sock_close(&sock);
	peer_stop(&peer);
}

static void test_garbage_is_closed_and_counted(void **state)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	static const uint8_t tls[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
	uint8_t answer[64], zeros[64] = {0}, hello[16] = MCI_MAGIC;
	struct peer peer = {.attr.classic = true};

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	assert_int_equal(ask(&peer, http, sizeof(http) - 1, answer, sizeof(answer)), 0);
	assert_int_equal(ask(&peer, tls, sizeof(tls) - 1, answer, sizeof(answer)), 0);
	assert_int_equal(ask(&peer, zeros, sizeof(zeros), answer, sizeof(answer)), 0);
	mci_put32(hello + 8, MCI_HELLO_MAX); /* with its head it would be longer than a hello may be */
	assert_int_equal(ask(&peer, hello, 12, answer, sizeof(answer)), 0);
	assert_int_equal(mci_service_refused(peer.service), 4);
	peer_stop(&peer);
}

static void test_a_silent_client_is_closed_after_three_seconds(void **state)
{
	struct peer peer = {0};
	struct mci_sock silent, half, slow;
	uint8_t answer[64], byte = 0;
	uint64_t begin;
	int i;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	begin = mci_now_ns();
	silent = (struct mci_sock){.fd = bare(&peer)};
	half = (struct mci_sock){.fd = bare(&peer)};
	slow = (struct mci_sock){.fd = bare(&peer)};
	assert_int_equal(mci_sock_send_all(&half, MCI_MAGIC, 8, soon(1000)), 0);
	/* A byte now and then does not buy more time. */
	for (i = 0; i < 7; i++) {
		struct timespec pause = {.tv_nsec = 400000000};

		mci_sock_send_all(&slow, &byte, 1, soon(1000));
		nanosleep(&pause, NULL);
	}
	assert_int_equal(read_to_end(silent.fd, answer, sizeof(answer)), 0);
	assert_int_equal(read_to_end(half.fd, answer, sizeof(answer)), 0);
	assert_int_equal(read_to_end(slow.fd, answer, sizeof(answer)), 0);
	assert_true(mci_now_ns() - begin > 2900 * MCI_NS_PER_MS);
	assert_true(mci_now_ns() - begin < 30 * MCI_NS_PER_S);
	assert_int_equal(mci_service_refused(peer.service), 3);
	mci_sock_close(&silent);
	mci_sock_close(&half);
	mci_sock_close(&slow);
	peer_stop(&peer);
}

static void test_who_connects_and_leaves_is_not_counted(void **state)
{
	struct peer peer = {0};
	struct mci_sock sock;
	int before;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	before = open_descriptors();
	sock = (struct mci_sock){.fd = bare(&peer)};
	mci_sock_close(&sock);
	assert_true(wait_for_descriptors(before));
	assert_int_equal(mci_service_refused(peer.service), 0);
	peer_stop(&peer);
}

/* One of each kind in turn; some are kept open. */
static int bother(struct peer *peer, int i)
{
	static const uint8_t half_classic[] = "\xff\xff\0\0\0\0\0\0\x01{";
	struct mci_sock sock = {.fd = bare(peer)};
	uint8_t noise[64];

	if (sock.fd < 0)
		return -1;
	switch (i % 5) {
	case 0: /* silent */
		break;
	case 1:
		mci_random(noise, sizeof(noise));
		noise[7] = 0xee;
		mci_sock_send_all(&sock, noise, sizeof(noise), soon(1000));
		break;
	case 2:
		mci_sock_send_all(&sock, MCI_MAGIC "\x80\0\0\0", 12, soon(1000));
		break;
	case 3:
		mci_sock_send_all(&sock, half_classic, 10, soon(1000));
		break;
	default:
		mci_sock_send_all(&sock, probe_request, 5, soon(1000));
		break;
	}
	return sock.fd;
}

static void test_a_thousand_strangers_do_not_keep_a_friend_out(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {.attr.classic = true};
	struct mci_connect_attr attr;
	struct rlimit limit;
	int fds[1000], i, most = 0, before;
	size_t heap_before, heap_most = 0;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 4096 && limit.rlim_max >= 4096) {
		limit.rlim_cur = 4096;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	assert_int_equal(try_hello(&attr, NULL), 0);
	before = open_descriptors();
	heap_before = mallinfo2().uordblks;
	for (i = 0; i < 1000; i++) {
		int ours, served;

		fds[i] = bother(&peer, i);
		assert_true(fds[i] >= 0);
		if (i % 20)
			continue;
		attr.deadline_ns = soon(5000);
		assert_int_equal(try_hello(&attr, NULL), 0);
		ours = i + 1;
		served = open_descriptors() - before - ours;
		most = served > most ? served : most;
		if (mallinfo2().uordblks - heap_before > heap_most)
			heap_most = mallinfo2().uordblks - heap_before;
	}
	/* 256, and those of the moment: accepted or being closed. */
	assert_true(most <= MCI_UNPROVED_MAX + 32);
	assert_true(heap_most <= (MCI_UNPROVED_MAX + 32) * 16 * 1024);
	assert_true(wait_for_refused(peer.service, 1000 - MCI_UNPROVED_MAX));
	for (i = 0; i < 1000; i++)
		close(fds[i]);
	assert_true(wait_for_descriptors(before));
	attr.deadline_ns = soon(5000);
	assert_int_equal(try_hello(&attr, NULL), 0);
	peer_stop(&peer);
}

static void test_running_out_of_descriptors_does_not_end_the_service(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {0};
	struct mci_connect_attr attr;
	struct rlimit limit, tight;
	struct timespec used[2], pause = {.tv_nsec = 500000000};
	int waiting[8], fillers[64], i, count = 0;
	double cpu;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	/* Sockets first, then the limit: their accept() finds no descriptor. */
	tight = limit;
	for (i = 0; i < 8; i++) {
		waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		assert_true(waiting[i] >= 0);
	}
	tight.rlim_cur = (rlim_t)waiting[7] + 1;
	setrlimit(RLIMIT_NOFILE, &tight);
	while (count < 64 && (fillers[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		count++;
	for (i = 0; i < 8; i++) {
		struct sockaddr_in to = {.sin_family = AF_INET,
					 .sin_port = htobe16(peer.port),
					 .sin_addr.s_addr = htobe32(0x7f000001)};

		connect(waiting[i], (struct sockaddr *)&to, sizeof(to));
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used[0]);
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used[1]);
	setrlimit(RLIMIT_NOFILE, &limit);
	while (count)
		close(fillers[--count]);
	cpu = (double)(used[1].tv_sec - used[0].tv_sec) + (double)(used[1].tv_nsec - used[0].tv_nsec) / 1e9;
	assert_true(cpu < 0.04); /* of 0.5 s: it rests, it does not spin, even on a busy machine */
	attr = client_attr(&peer, &own);
	assert_int_equal(try_hello(&attr, NULL), 0);
	for (i = 0; i < 8; i++)
		close(waiting[i]);
	peer_stop(&peer);
}

static void test_bytes_behind_the_proof_stay_in_the_socket(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {.read_behind = true};
	struct mci_sock sock;
	char in[4];

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	assert_int_equal(open_by_hand(&peer, &own, 0, "more", &sock), 0);
	assert_int_equal(mci_sock_recv_all(&sock, in, 4, soon(3000)), 0);
	assert_memory_equal(in, "more", 4);
	mci_sock_close(&sock);
	peer_stop(&peer);
}

struct late {
	pthread_t thread;
	struct mci_connect_attr attr;
	struct mci_hello hello;
	int ret;
};

static void *connect_late(void *arg)
{
	struct late *late = arg;

	late->ret = try_hello(&late->attr, &late->hello);
	return NULL;
}

static struct mci_incoming *wait_for_kept(struct peer *peer)
{
	assert_true(wait_for_value(&peer->connections, 1));
	while (!atomic_load(&peer->kept))
		;
	return atomic_load(&peer->kept);
}

static void test_a_decision_may_come_later_and_from_another_thread(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {.keep = true};
	struct mci_incoming *in;
	struct late late;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	late.attr = client_attr(&peer, &own);
	pthread_create(&late.thread, NULL, connect_late, &late);
	in = wait_for_kept(&peer);
	assert_string_equal(mci_incoming_hello(in)->peer.name, "client");
	assert_false(mci_incoming_is_unix(in));
	mci_incoming_accept(in, "late", 4, peer_ready, &peer);
	pthread_join(late.thread, NULL);
	assert_int_equal(late.ret, 0);
	assert_memory_equal(late.hello.params, "late", 4);
	peer_stop(&peer);
}

static void test_parameters_that_are_too_long_fail_the_accept(void **state)
{
	static const uint8_t params[MCI_PARAMS_MAX + 1];
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {.keep = true};
	struct late late;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	late.attr = client_attr(&peer, &own);
	pthread_create(&late.thread, NULL, connect_late, &late);
	mci_incoming_accept(wait_for_kept(&peer), params, sizeof(params), peer_ready, &peer);
	pthread_join(late.thread, NULL);
	assert_int_equal(late.ret, -ECONNRESET);
	assert_true(wait_for_value(&peer.failed, 1));
	assert_int_equal(atomic_load(&peer.last_error), -EMSGSIZE);
	peer_stop(&peer);
}

static void test_stop_ends_what_waits_for_a_decision(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {.keep = true};
	struct mci_incoming *in;
	struct late late;
	int before;

	(void)state;
	before = open_descriptors();
	assert_int_equal(peer_start(&peer, own), 0);
	late.attr = client_attr(&peer, &own);
	pthread_create(&late.thread, NULL, connect_late, &late);
	in = wait_for_kept(&peer);
	mci_service_stop(peer.service);
	pthread_join(late.thread, NULL);
	assert_int_equal(late.ret, -ECONNRESET);
	mci_incoming_accept(in, NULL, 0, peer_ready, &peer); /* too late: it hears so */
	assert_true(wait_for_value(&peer.failed, 1));
	assert_int_equal(atomic_load(&peer.last_error), -ECANCELED);
	mci_loops_stop(&peer.loops);
	assert_int_equal(open_descriptors(), before);
}

static void keep_question(void *arg, struct mci_incoming *in, const char *json, size_t length)
{
	struct peer *peer = arg;

	peer->was_inside = length == strlen(json) && !strcmp(json, "{\"qp_num\":[]}\n");
	atomic_store(&peer->kept, in);
	atomic_fetch_add(&peer->classic, 1);
}

/* A socket that has asked for queue pairs; the question waits in peer->kept. */
static struct mci_sock ask_for_queue_pairs(struct peer *peer, int type)
{
	int asked = atomic_load(&peer->classic);
	struct mci_sock sock = {.fd = bare(peer)};
	uint8_t message[64];
	size_t n = classic_message(message, type, "{\"qp_num\":[]}\n");

	assert_int_equal(mci_sock_send_all(&sock, message, n, soon(1000)), 0);
	assert_true(wait_for_value(&peer->classic, asked + 1));
	assert_true(peer->was_inside);
	return sock;
}

static void test_a_classic_connection_may_be_answered_later(void **state)
{
	struct peer peer = {.attr.classic = true, .attr.classic_connection = keep_question};
	uint8_t answer[64];
	struct mci_sock sock;
	size_t n;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_TOKEN, 1)), 0);
	sock = ask_for_queue_pairs(&peer, MCI_CLASSIC_CONNECTION);
	mci_incoming_answer(atomic_load(&peer.kept), strdup("{\"a\":1}\n"));
	assert_int_equal(read_to_end(sock.fd, answer, sizeof(answer)), 17);
	assert_memory_equal(answer, "\x09\0\0\0\0\0\0\0\0{\"a\":1}\n", 17);
	mci_sock_close(&sock);
	sock = ask_for_queue_pairs(&peer, -1); /* the oldest form has no type */
	mci_incoming_answer(atomic_load(&peer.kept), strdup("{\"a\":1}\n"));
	assert_int_equal(read_to_end(sock.fd, answer, sizeof(answer)), 16);
	assert_memory_equal(answer, "\x08\0\0\0\0\0\0\0{\"a\":1}\n", 16);
	mci_sock_close(&sock);
	sock = ask_for_queue_pairs(&peer, MCI_CLASSIC_CONNECTION);
	mci_incoming_answer(atomic_load(&peer.kept), NULL); /* no answer: closed */
	assert_int_equal(read_to_end(sock.fd, answer, sizeof(answer)), 0);
	mci_sock_close(&sock);
	/* Other types are answered at once, as ever. */
	n = classic_message(answer, MCI_CLASSIC_METADATA, "{}\n");
	assert_int_equal(ask(&peer, answer, n, answer, sizeof(answer)), 14);
	peer_stop(&peer);
}

static void test_who_asked_may_leave_and_the_service_may_stop_before_the_answer(void **state)
{
	struct peer peer = {.attr.classic = true, .attr.classic_connection = keep_question};
	int before = open_descriptors();
	struct mci_sock sock;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_TOKEN, 1)), 0);
	sock = ask_for_queue_pairs(&peer, MCI_CLASSIC_CONNECTION);
	mci_sock_close(&sock);
	mci_incoming_answer(atomic_load(&peer.kept), strdup("{}\n"));
	sock = ask_for_queue_pairs(&peer, MCI_CLASSIC_CONNECTION);
	mci_service_stop(peer.service);
	mci_incoming_answer(atomic_load(&peer.kept), strdup("{}\n"));
	mci_loops_stop(&peer.loops);
	mci_sock_close(&sock);
	assert_int_equal(open_descriptors(), before);
}

static void test_stop_under_fire_leaves_nothing_behind(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	int before = open_descriptors(), round, i, fds[300];

	(void)state;
	for (round = 0; round < 5; round++) {
		struct peer peer = {.attr.classic = true};

		assert_int_equal(peer_start(&peer, own), 0);
		for (i = 0; i < 300; i++)
			fds[i] = bother(&peer, i);
		peer_stop(&peer);
		for (i = 0; i < 300; i++)
			close(fds[i]);
	}
	assert_int_equal(open_descriptors(), before);
}

static void test_a_free_port_is_found_in_the_range(void **state)
{
	struct peer first = {0}, second = {0};
	uint16_t low = 0;
	int fd, fd_next, tries;

	(void)state;
	/* A pair of neighbouring ports that are free now. */
	for (tries = 0;; tries++) {
		uint16_t port = 0, next;

		assert_true(tries < 100);
		assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &fd), 0);
		next = (uint16_t)(port + 1);
		close(fd);
		if (!next || mci_listen("127.0.0.1", &next, 0, 0, &fd_next))
			continue;
		close(fd_next);
		low = port;
		break;
	}
	first.attr.port_low = second.attr.port_low = low;
	first.attr.port_high = second.attr.port_high = (uint16_t)(low + 1);
	assert_int_equal(peer_start(&first, secret(MCI_AUTH_TOKEN, 1)), 0);
	assert_int_equal(peer_start(&second, secret(MCI_AUTH_TOKEN, 1)), 0);
	assert_int_not_equal(first.port, second.port);
	assert_int_equal(first.port + second.port, 2 * low + 1);
	{
		struct peer third = {.attr.port_low = low, .attr.port_high = (uint16_t)(low + 1)};
		struct peer taken = {.attr.port = low};

		assert_int_equal(peer_start(&third, secret(MCI_AUTH_TOKEN, 1)), -EADDRINUSE);
		assert_non_null(strstr(mc_errmsg(), "widen the port range"));
		assert_int_equal(peer_start(&taken, secret(MCI_AUTH_TOKEN, 1)), -EADDRINUSE);
		assert_non_null(strstr(mc_errmsg(), "choose another port"));
	}
	peer_stop(&first);
	peer_stop(&second);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_probe_is_answered_byte_by_byte),
		cmocka_unit_test(test_the_probe_may_come_byte_after_byte),
		cmocka_unit_test(test_without_classic_nothing_but_the_probe_is_answered),
		cmocka_unit_test(test_under_classic_each_type_is_answered_in_its_own_form),
		cmocka_unit_test(test_a_long_classic_message_is_read_whole),
		cmocka_unit_test(test_a_client_that_does_not_close_after_the_reply_is_closed),
		cmocka_unit_test(test_garbage_is_closed_and_counted),
		cmocka_unit_test(test_a_silent_client_is_closed_after_three_seconds),
		cmocka_unit_test(test_who_connects_and_leaves_is_not_counted),
		cmocka_unit_test(test_a_thousand_strangers_do_not_keep_a_friend_out),
		cmocka_unit_test(test_running_out_of_descriptors_does_not_end_the_service),
		cmocka_unit_test(test_bytes_behind_the_proof_stay_in_the_socket),
		cmocka_unit_test(test_a_decision_may_come_later_and_from_another_thread),
		cmocka_unit_test(test_parameters_that_are_too_long_fail_the_accept),
		cmocka_unit_test(test_stop_ends_what_waits_for_a_decision),
		cmocka_unit_test(test_a_classic_connection_may_be_answered_later),
		cmocka_unit_test(test_who_asked_may_leave_and_the_service_may_stop_before_the_answer),
		cmocka_unit_test(test_stop_under_fire_leaves_nothing_behind),
		cmocka_unit_test(test_a_free_port_is_found_in_the_range),
	};

	return cmocka_run_group_tests_name("net_service", tests, NULL, NULL);
}
