// SPDX-License-Identifier: MIT
/* Classic messages on the rpc port: what we answer, byte for byte, and how we ask. */
#include "engine/classic.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <mooncake/engine.h>

#include "core/clock.h"
#include "core/errors.h"

static const char *const loopback[] = {"127.0.0.1"};
static const char descriptor_text[] = "{\"buffers\":[],\"name\":\"h:1\",\"protocol\":\"tcp\"}";

static char *give_descriptor(void *arg) { return arg ? strdup(descriptor_text) : NULL; }

static char last_name[300], last_message[70000];

static int take_notify(void *arg, const char *name, const char *message, size_t length)
{
	(void)arg;
	assert_int_equal(strlen(message), length);
	snprintf(last_name, sizeof(last_name), "%s", name);
	snprintf(last_message, sizeof(last_message), "%s", message);
	return strcmp(name, "unwanted") ? 0 : -EBUSY;
}

static const struct mci_classic_handler with_descriptor = {give_descriptor, take_notify, (void *)1};
static const struct mci_classic_handler without_descriptor = {give_descriptor, take_notify, NULL};

static void expect_answer(const struct mci_classic_handler *handler, int type, const char *question,
			  const char *want)
{
	char *reply = NULL;

	assert_int_equal(mci_classic_answer(handler, (enum mci_classic_type)type, question, strlen(question),
					    &reply),
			 0);
	assert_string_equal(reply, want);
	free(reply);
}

static void test_connection_gets_a_default_record(void **state)
{
	(void)state;
	expect_answer(
		&without_descriptor, MCI_CLASSIC_CONNECTION,
		"{\"local_nic_path\":\"10.0.0.2:12345@mlx5_0\",\"peer_nic_path\":\"10.0.0.1:12345@mlx5_0\","
		"\"qp_num\":[4660,4661],\"reply_msg\":\"\"}\n",
		"{\"local_gid\":\"\",\"local_lid\":0,\"local_nic_path\":\"\",\"payload\":\"\","
		"\"peer_nic_path\":\"\",\"qp_num\":[],\"reply_msg\":\"\"}\n");
}

static void test_metadata_gets_our_descriptor_or_null(void **state)
{
	char want[sizeof(descriptor_text) + 1];

	(void)state;
	snprintf(want, sizeof(want), "%s\n", descriptor_text);
	expect_answer(&with_descriptor, MCI_CLASSIC_METADATA, "{\"name\":\"x\"}\n", want);
	expect_answer(&with_descriptor, MCI_CLASSIC_METADATA, "null\n", want);
	expect_answer(&without_descriptor, MCI_CLASSIC_METADATA, "{}\n", "null\n");
}

static void test_notify_is_handed_over_and_acknowledged(void **state)
{
	(void)state;
	expect_answer(&with_descriptor, MCI_CLASSIC_NOTIFY, "{\"name\":\"a\",\"notify_msg\":\"b\"}\n",
		      "{\"name\":\"\",\"notify_msg\":\"success\"}\n");
	assert_string_equal(last_name, "a");
	assert_string_equal(last_message, "b");
	expect_answer(&with_descriptor, MCI_CLASSIC_NOTIFY, "{\"name\":\"unwanted\",\"notify_msg\":\"b\"}",
		      "{\"name\":\"\",\"notify_msg\":\"\"}\n");
}

static void test_notify_that_is_too_long_is_refused(void **state)
{
	char *question = malloc(MC_NOTIFY_MESSAGE_MAX + 100);
	size_t n;

	(void)state;
	n = (size_t)sprintf(question, "{\"name\":\"a\",\"notify_msg\":\"");
	memset(question + n, 'x', MC_NOTIFY_MESSAGE_MAX + 1);
	strcpy(question + n + MC_NOTIFY_MESSAGE_MAX + 1, "\"}");
	last_name[0] = '\0';
	expect_answer(&with_descriptor, MCI_CLASSIC_NOTIFY, question,
		      "{\"name\":\"\",\"notify_msg\":\"\"}\n");
	assert_string_equal(last_name, "");
	free(question);
}

static void test_probe_is_answered(void **state)
{
	(void)state;
	expect_answer(&with_descriptor, MCI_CLASSIC_PROBE, "{}\n", "{\"status\":\"success\"}\n");
}

static void test_malformed_messages_get_no_answer(void **state)
{
	static const struct {
		int type;
		const char *json;
	} cases[] = {
		{MCI_CLASSIC_PROBE, ""},
		{MCI_CLASSIC_METADATA, "{"},
		{MCI_CLASSIC_CONNECTION, "\xff"},
		{MCI_CLASSIC_NOTIFY, "{}"},
		{MCI_CLASSIC_NOTIFY, "{\"name\":\"a\"}"},
		{MCI_CLASSIC_NOTIFY, "{\"name\":\"a\",\"notify_msg\":1}"},
		{MCI_CLASSIC_NOTIFY, "{\"name\":\"a\",\"notify_msg\":\"\\u0000\"}"},
		{MCI_CLASSIC_NOTIFY, "[]"},
		{4, "{}"},
	};
	char *reply = NULL;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(mci_classic_answer(&with_descriptor, (enum mci_classic_type)cases[i].type,
						    cases[i].json, strlen(cases[i].json), &reply),
				 -EBADMSG);
	assert_null(reply);
}

/* ---- asking: a peer that takes one connection, notes what came and answers with given bytes ---- */

struct peer {
	int listener;
	uint16_t port;
	pthread_t thread;
	const void *answer;
	size_t answer_length, expected, got_length;
	uint8_t got[256];
	bool closed; /* the asker closed at once after the answer */
};

static ssize_t receive(int fd, void *p, size_t n)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	return poll(&wait, 1, 5000) == 1 ? recv(fd, p, n, 0) : -1;
}

static void *peer_main(void *arg)
{
	struct peer *peer = arg;
	struct pollfd wait = {.fd = peer->listener, .events = POLLIN};
	int fd = poll(&wait, 1, 5000) == 1 ? accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC) : -1;
	char byte;

	while (peer->got_length < peer->expected) {
		ssize_t n = receive(fd, peer->got + peer->got_length, peer->expected - peer->got_length);

		if (n <= 0)
			break;
		peer->got_length += (size_t)n;
	}
	send(fd, peer->answer, peer->answer_length, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	peer->closed = receive(fd, &byte, 1) <= 0;
	close(fd);
	return NULL;
}

static void peer_start(struct peer *peer, size_t expected, const void *answer, size_t length)
{
	memset(peer, 0, sizeof(*peer));
	assert_int_equal(mci_listen("127.0.0.1", &peer->port, 0, 0, &peer->listener), 0);
	peer->expected = expected;
	peer->answer = answer;
	peer->answer_length = length;
	assert_int_equal(pthread_create(&peer->thread, NULL, peer_main, peer), 0);
}

static void peer_end(struct peer *peer)
{
	pthread_join(peer->thread, NULL);
	close(peer->listener);
}

static int ask(struct peer *peer, int type, const char *json, char **reply)
{
	return mci_classic_exchange(loopback, 1, peer->port, (enum mci_classic_type)type, json,
				    mci_now_ns() + 5 * MCI_NS_PER_S, reply);
}

static void test_probe_has_the_classic_bytes(void **state)
{
	static const uint8_t question[] = {4, 0, 0, 0, 0, 0, 0, 0, 3, 0x7b, 0x7d, 0x0a};
	static const uint8_t answer[] = {0x16, 0,    0,	   0,	 0,    0,    0,	   0,	 3,    0x7b,
					 0x22, 0x73, 0x74, 0x61, 0x74, 0x75, 0x73, 0x22, 0x3a, 0x22,
					 0x73, 0x75, 0x63, 0x63, 0x65, 0x73, 0x73, 0x22, 0x7d, 0x0a};
	struct peer peer;
	char *reply;

	(void)state;
	peer_start(&peer, sizeof(question), answer, sizeof(answer));
	assert_int_equal(ask(&peer, MCI_CLASSIC_PROBE, "{}", &reply), 0);
	assert_string_equal(reply, "{\"status\":\"success\"}\n");
	free(reply);
	peer_end(&peer);
	assert_memory_equal(peer.got, question, sizeof(question));
	assert_true(peer.closed);
}

static void test_metadata_null_has_the_classic_bytes(void **state)
{
	static const uint8_t answer[] = {6, 0, 0, 0, 0, 0, 0, 0, 1, 0x6e, 0x75, 0x6c, 0x6c, 0x0a};
	struct peer peer;
	char *reply;

	(void)state;
	peer_start(&peer, 12, answer, sizeof(answer));
	assert_int_equal(ask(&peer, MCI_CLASSIC_METADATA, "{}\n", &reply), 0);
	assert_string_equal(reply, "null\n");
	free(reply);
	peer_end(&peer);
	assert_int_equal(peer.got[0], 4); /* no second newline */
}

static void expect_refused(const void *answer, size_t length, int error)
{
	struct peer peer;
	char *reply = NULL;

	peer_start(&peer, 12, answer, length);
	assert_int_equal(ask(&peer, MCI_CLASSIC_PROBE, "{}", &reply), error);
	assert_null(reply);
	assert_string_not_equal(mc_errmsg(), "");
	peer_end(&peer);
}

static void test_bad_answers_are_refused(void **state)
{
	(void)state;
	expect_refused("HTTP/1.1 400 Bad Request\r\n\r\n", 28, -EPROTO);
	expect_refused("\0\0\0\0\0\0\0\0\3", 9, -EPROTO);	   /* no room for the type */
	expect_refused("\4\0\0\0\0\0\0\0\1{}\n", 12, -EPROTO);	   /* another type */
	expect_refused("\4\0\0\0\1\0\0\0\3{}\n", 12, -EPROTO);	   /* 4 GiB */
	expect_refused("\5\0\0\0\0\0\0\0\3{}\n", 12, -ECONNRESET); /* cut short */
	expect_refused("", 0, -ECONNRESET);
}

static void test_silent_peer_times_out(void **state)
{
	char *reply = NULL;
	uint16_t port = 0;
	int listener;

	(void)state;
	assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &listener), 0);
	assert_int_equal(mci_classic_exchange(loopback, 1, port, MCI_CLASSIC_PROBE, "{}",
					      mci_now_ns() + 100 * MCI_NS_PER_MS, &reply),
			 -ETIMEDOUT);
	assert_null(reply);
	close(listener);
}

static void test_question_that_no_peer_would_take_is_not_asked(void **state)
{
	char *big = malloc((1 << 20) + 1), *reply = NULL;

	(void)state;
	memset(big, 'x', 1 << 20);
	big[1 << 20] = '\0';
	assert_int_equal(mci_classic_exchange(loopback, 1, 1, MCI_CLASSIC_METADATA, big, 0, &reply),
			 -EMSGSIZE);
	free(big);
}

/* ---- our asking against our answering, over the real rpc port ---- */

static int answer_message(void *arg, enum mci_classic_type type, const char *json, size_t length,
			  char **reply)
{
	return mci_classic_answer(arg, type, json, length, reply);
}

static void refuse_connection(void *arg, struct mci_incoming *in)
{
	(void)arg;
	mci_incoming_reject(in, -EOPNOTSUPP, "not in this test");
}

static void test_rpc_port_answers_what_we_ask(void **state)
{
	struct mci_identity self = {.name = "self"};
	struct mci_service *service;
	struct mci_loops loops;
	struct mci_service_attr attr = {
		.bind = "127.0.0.1",
		.port_low = 20000,
		.port_high = 29999,
		.classic = true,
		.self = &self,
		.loops = &loops,
		.service = MCI_SERVICE_ENGINE,
		.connection = refuse_connection,
		.classic_message = answer_message,
		.arg = (void *)&with_descriptor,
	};
	uint64_t deadline = mci_now_ns() + 10 * MCI_NS_PER_S;
	uint16_t port;
	char *reply;

	(void)state;
	assert_int_equal(mci_loops_start("test", 1, &loops), 0);
	assert_int_equal(mci_service_start(&attr, &service), 0);
	port = mci_service_port(service);
	assert_int_equal(
		mci_classic_exchange(loopback, 1, port, MCI_CLASSIC_METADATA, "{}", deadline, &reply), 0);
	assert_memory_equal(reply, descriptor_text, strlen(descriptor_text));
	free(reply);
	assert_int_equal(mci_classic_exchange(loopback, 1, port, MCI_CLASSIC_NOTIFY,
					      "{\"name\":\"n\",\"notify_msg\":\"m\"}", deadline, &reply),
			 0);
	assert_string_equal(reply, "{\"name\":\"\",\"notify_msg\":\"success\"}\n");
	assert_string_equal(last_message, "m");
	free(reply);
	reply = NULL;
	assert_int_equal(mci_classic_exchange(loopback, 1, port, MCI_CLASSIC_NOTIFY, "{", deadline, &reply),
			 -ECONNRESET);
	assert_null(reply);
	mci_service_stop(service);
	mci_loops_stop(&loops);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connection_gets_a_default_record),
		cmocka_unit_test(test_metadata_gets_our_descriptor_or_null),
		cmocka_unit_test(test_notify_is_handed_over_and_acknowledged),
		cmocka_unit_test(test_notify_that_is_too_long_is_refused),
		cmocka_unit_test(test_probe_is_answered),
		cmocka_unit_test(test_malformed_messages_get_no_answer),
		cmocka_unit_test(test_probe_has_the_classic_bytes),
		cmocka_unit_test(test_metadata_null_has_the_classic_bytes),
		cmocka_unit_test(test_bad_answers_are_refused),
		cmocka_unit_test(test_silent_peer_times_out),
		cmocka_unit_test(test_question_that_no_peer_would_take_is_not_asked),
		cmocka_unit_test(test_rpc_port_answers_what_we_ask),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
