// SPDX-License-Identifier: MIT
/* The opening of a connection: who gets in, who is refused, with which errno and which sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "net/hello.h"
#include "unit/net_peer.h"

static void assert_says(const char *words)
{
	if (!strstr(mc_errmsg(), words))
		fail_msg("the sentence \"%s\" does not say \"%s\"", mc_errmsg(), words);
}

static void check_open(struct mci_secret own, struct mci_secret theirs)
{
	struct peer peer = {0};
	struct mci_connect_attr attr;
	struct mci_hello hello;

	peer.attr.features = MCI_FEATURE_CHECKSUM | MCI_FEATURE_SHM;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &theirs);
	attr.wanted = &peer.self.uuid;
	attr.features = MCI_FEATURE_CHECKSUM | MCI_FEATURE_NOTIFY;
	attr.role = MCI_ROLE_DATA;
	assert_int_equal(try_hello(&attr, &hello), 0);
	assert_true(wait_for_value(&peer.ready, 1));

	assert_string_equal(hello.peer.name, "server");
	assert_true(mci_uuid_equal(&hello.peer.uuid, &peer.self.uuid));
	assert_int_equal(hello.peer.generation, 7);
	assert_int_equal(hello.features, MCI_FEATURE_CHECKSUM);
	assert_int_equal(hello.params_length, 4);
	assert_memory_equal(hello.params, "pong", 4);

	assert_true(peer.was_inside);
	assert_string_equal(peer.hello.peer.name, "client");
	assert_true(mci_uuid_equal(&peer.hello.peer.uuid, &client_self.uuid));
	assert_int_equal(peer.hello.features, MCI_FEATURE_CHECKSUM);
	assert_int_equal(peer.hello.role, MCI_ROLE_DATA);
	assert_int_equal(peer.hello.service, MCI_SERVICE_ENGINE);
	assert_true(mci_uuid_equal(&peer.hello.wanted, &peer.self.uuid));
	assert_int_equal(peer.hello.params_length, 4);
	assert_memory_equal(peer.hello.params, "ping", 4);

	assert_memory_equal(hello.key_to_server, peer.hello.key_to_server, MCI_SESSION_KEY);
	assert_memory_equal(hello.key_to_client, peer.hello.key_to_client, MCI_SESSION_KEY);
	assert_memory_not_equal(hello.key_to_server, hello.key_to_client, MCI_SESSION_KEY);
	assert_int_equal(mci_service_refused(peer.service), 0);
	peer_stop(&peer);
}

static void test_same_cluster_key_opens(void **state)
{
	(void)state;
	check_open(secret(MCI_AUTH_CLUSTER, 1), secret(MCI_AUTH_CLUSTER, 1));
}

static void test_same_token_opens(void **state)
{
	(void)state;
	check_open(secret(MCI_AUTH_TOKEN, 1), secret(MCI_AUTH_TOKEN, 1));
}

static void test_none_opens_where_both_allow_it(void **state)
{
	(void)state;
	check_open(secret(MCI_AUTH_NONE, 0), secret(MCI_AUTH_NONE, 0));
}

static void test_session_keys_are_new_each_time(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {0};
	struct mci_connect_attr attr;
	struct mci_hello first, second;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	assert_int_equal(try_hello(&attr, &first), 0);
	assert_int_equal(try_hello(&attr, &second), 0);
	assert_memory_not_equal(first.key_to_server, second.key_to_server, MCI_SESSION_KEY);
	peer_stop(&peer);
}

static void check_refused(struct mci_secret own, struct mci_secret theirs, int err, const char *words)
{
	struct peer peer = {0};
	struct mci_connect_attr attr;

	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &theirs);
	assert_int_equal(try_hello(&attr, NULL), err);
	assert_says(words);
	assert_int_equal(atomic_load(&peer.connections), 0);
	assert_true(wait_for_refused(peer.service, 1));
	peer_stop(&peer);
}

static void test_another_cluster_key_is_refused(void **state)
{
	(void)state;
	check_refused(secret(MCI_AUTH_CLUSTER, 1), secret(MCI_AUTH_CLUSTER, 2), -EKEYREJECTED, "wrong key");
}

static void test_another_token_is_refused(void **state)
{
	(void)state;
	check_refused(secret(MCI_AUTH_TOKEN, 1), secret(MCI_AUTH_TOKEN, 2), -EKEYREJECTED, "wrong token");
}

static void test_a_client_without_the_cluster_key_is_told_how_to_get_in(void **state)
{
	(void)state;
	check_refused(secret(MCI_AUTH_CLUSTER, 1), secret(MCI_AUTH_NONE, 0), -EKEYREJECTED, "--key_file=");
	check_refused(secret(MCI_AUTH_CLUSTER, 1), secret(MCI_AUTH_TOKEN, 1), -EKEYREJECTED,
		      "MOONCAKE_KEY_FILE");
}

static void test_a_client_with_a_cluster_key_never_goes_without(void **state)
{
	(void)state;
	check_refused(secret(MCI_AUTH_NONE, 0), secret(MCI_AUTH_CLUSTER, 1), -EKEYREJECTED, "--key_file=");
	check_refused(secret(MCI_AUTH_TOKEN, 1), secret(MCI_AUTH_CLUSTER, 1), -EKEYREJECTED, "--key_file=");
}

static void test_a_token_that_one_side_lacks_is_refused(void **state)
{
	(void)state;
	check_refused(secret(MCI_AUTH_TOKEN, 1), secret(MCI_AUTH_NONE, 0), -EKEYREJECTED, "token");
	check_refused(secret(MCI_AUTH_NONE, 0), secret(MCI_AUTH_TOKEN, 1), -EKEYREJECTED, "token");
}

static void test_another_uuid_is_stale(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1), old = secret(MCI_AUTH_TOKEN, 9);
	struct mci_identity gone = identity("gone");
	struct peer peer = {0};
	struct mci_connect_attr attr;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &old); /* the old token too: a restarted peer has another */
	attr.wanted = &gone.uuid;
	assert_int_equal(try_hello(&attr, NULL), -ESTALE);
	assert_says("restarted");
	peer_stop(&peer);
}

static void test_a_changed_identity_counts_from_then_on(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct mci_identity next = identity("next");
	struct peer peer = {0};
	struct mci_connect_attr attr;
	struct mci_hello hello;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	mci_service_identity(peer.service, &next);
	attr = client_attr(&peer, &own);
	attr.wanted = &peer.self.uuid;
	assert_int_equal(try_hello(&attr, NULL), -ESTALE);
	attr.wanted = &next.uuid;
	assert_int_equal(try_hello(&attr, &hello), 0);
	assert_string_equal(hello.peer.name, "next");
	peer_stop(&peer);
}

static void test_a_feature_that_is_required_and_not_offered_is_named(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {0};
	struct mci_connect_attr attr;

	(void)state;
	peer.attr.features = MCI_FEATURE_NOTIFY;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	attr.features_required = MCI_FEATURE_CHECKSUM | MCI_FEATURE_NOTIFY;
	assert_int_equal(try_hello(&attr, NULL), -EPROTO);
	assert_says("checksum");
	assert_null(strstr(mc_errmsg(), "notify"));
	peer_stop(&peer);
}

static void test_another_service_is_refused(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {0};
	struct mci_connect_attr attr;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	attr.service = MCI_SERVICE_MASTER;
	assert_int_equal(try_hello(&attr, NULL), -EPROTO);
	assert_says("check the address");
	peer_stop(&peer);
}

static void test_the_handler_may_refuse_with_its_own_words(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {.refuse = "no \x1b[31mroom\n for you", .refuse_errno = -EUSERS};
	struct mci_connect_attr attr;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &own);
	assert_int_equal(try_hello(&attr, NULL), -EUSERS);
	assert_says("no ?[31mroom? for you"); /* nothing that a terminal would obey */
	peer_stop(&peer);
}

static void test_a_weak_secret_is_refused_on_either_side(void **state)
{
	struct mci_secret own = secret(MCI_AUTH_CLUSTER, 1), weak = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {0}, weak_peer = {0};
	struct mci_connect_attr attr;

	(void)state;
	weak.key_length = 31;
	assert_int_equal(peer_start(&weak_peer, weak), -EINVAL);
	assert_int_equal(peer_start(&peer, own), 0);
	attr = client_attr(&peer, &weak);
	assert_int_equal(try_hello(&attr, NULL), -EINVAL);
	assert_says("too short");
	peer_stop(&peer);
}

/* A server under our control, for one connection: answers each message by what the test says. */
struct liar {
	pthread_t thread;
	int listener;
	uint16_t port;
	struct mci_secret secret;
	struct mci_identity self;
	uint8_t mode;
	uint16_t version; /* 0 = ours */
	bool wrong_mac, other_features, close_early, garbage, silent;
	uint64_t demand;    /* features that the client requires of it */
	const char *tamper; /* "hello": proves over a hello that was changed on the way */
};

static void lie(struct liar *liar, struct mci_sock *sock)
{
	uint8_t buffer[MCI_HELLO_MAX], key[32], mac[MCI_MAC], client_mac[MCI_MAC];
	struct mci_msg_challenge challenge = {.version = liar->version ? liar->version : 1,
					      .mode = liar->mode,
					      .features = MCI_FEATURE_NOTIFY,
					      .self = liar->self};
	struct mci_msg_accept accept = {.features = liar->other_features ? MCI_FEATURE_SHM : 0};
	struct mci_transcript t = {0};
	ssize_t n;

	if (mci_sock_recv_all(sock, t.hello, MCI_HELLO_HEAD, soon(5000)))
		return;
	t.hello_length = (size_t)mci_opening_need(t.hello, MCI_HELLO_HEAD, false);
	if (mci_sock_recv_all(sock, t.hello + MCI_HELLO_HEAD, t.hello_length - MCI_HELLO_HEAD, soon(5000)))
		return;
	if (liar->close_early)
		return;
	if (liar->silent) {
		mci_sock_recv_all(sock, buffer, 1, soon(20000));
		return;
	}
	if (liar->garbage) {
		mci_sock_send_all(sock, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, soon(5000));
		mci_sock_recv_all(sock, buffer, 1, soon(5000));
		return;
	}
	n = mci_challenge_write(&challenge, t.challenge, sizeof(t.challenge));
	t.challenge_length = (size_t)n;
	if (liar->version)
		mci_put16(t.challenge + MCI_HEAD, liar->version);
	mci_sock_send_all(sock, t.challenge, (size_t)n, soon(5000));
	if (mci_sock_recv_all(sock, buffer, MCI_HEAD + MCI_MAC, soon(5000)))
		return;
	mci_proof_read(buffer, MCI_HEAD + MCI_MAC, client_mac);
	if (liar->tamper)
		t.hello[t.hello_length - 1] ^= 1;
	mci_handshake_key(&liar->secret, (enum mci_auth_mode)liar->mode, &liar->self, key);
	n = mci_accept_write(&accept, buffer, sizeof(buffer));
	mci_server_proof(key, &t, client_mac, buffer, (size_t)n - MCI_MAC, mac);
	if (liar->wrong_mac)
		mac[0] ^= 1;
	memcpy(buffer + n - MCI_MAC, mac, MCI_MAC);
	mci_sock_send_all(sock, buffer, (size_t)n, soon(5000));
	mci_sock_send_all(sock, "hi", 2, soon(5000));
	mci_sock_recv_all(sock, buffer, 1, soon(5000));
}

static void *liar_main(void *arg)
{
	struct liar *liar = arg;
	struct mci_sock sock = {.fd = -1};

	fcntl(liar->listener, F_SETFL, 0);
	sock.fd = accept4(liar->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	lie(liar, &sock);
	mci_sock_close(&sock);
	return NULL;
}

static int meet(struct liar *liar, struct mci_secret own, const struct mc_uuid *wanted)
{
	struct peer peer = {0};
	struct mci_connect_attr attr;
	int ret;

	liar->self = liar->self.name[0] ? liar->self : identity("liar");
	assert_int_equal(mci_listen("127.0.0.1", &liar->port, 0, 0, &liar->listener), 0);
	pthread_create(&liar->thread, NULL, liar_main, liar);
	peer.port = liar->port;
	attr = client_attr(&peer, &own);
	attr.wanted = wanted;
	attr.features_required = liar->demand;
	attr.deadline_ns = soon(liar->silent ? 300 : 5000);
	ret = try_hello(&attr, NULL);
	pthread_join(liar->thread, NULL);
	close(liar->listener);
	return ret;
}

static void test_the_test_server_is_accepted_when_it_does_not_lie(void **state)
{
	struct liar liar = {.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), 0);
}

static void test_a_server_that_cannot_prove_itself_is_refused(void **state)
{
	struct liar liar = {
		.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER, .wrong_mac = true};
	struct liar other = {.secret = secret(MCI_AUTH_CLUSTER, 2), .mode = MCI_AUTH_CLUSTER};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), -EKEYREJECTED);
	assert_says("could not prove");
	assert_int_equal(meet(&other, secret(MCI_AUTH_CLUSTER, 1), NULL), -EKEYREJECTED);
}

static void test_a_hello_changed_on_the_way_is_noticed(void **state)
{
	struct liar liar = {
		.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER, .tamper = "hello"};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), -EKEYREJECTED);
}

static void test_a_server_that_offers_to_go_without_a_key_is_refused(void **state)
{
	struct liar liar = {.mode = MCI_AUTH_NONE};
	struct liar again = {.mode = MCI_AUTH_NONE};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), -EKEYREJECTED);
	assert_says("cluster key");
	assert_int_equal(meet(&again, secret(MCI_AUTH_TOKEN, 1), NULL), -EKEYREJECTED);
}

static void test_the_client_itself_checks_the_uuid(void **state)
{
	struct liar liar = {.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER};
	struct mci_identity wanted = identity("wanted");

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), &wanted.uuid), -ESTALE);
}

static void test_a_server_of_another_version_is_refused_with_both_numbers(void **state)
{
	struct liar liar = {.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER, .version = 77};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), -EPROTO);
	assert_says("version 77");
	assert_says("version 1");
}

static void test_features_that_were_not_offered_are_refused(void **state)
{
	struct liar liar = {
		.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER, .other_features = true};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), -EPROTO);
}

static void test_the_client_itself_checks_for_what_it_requires(void **state)
{
	struct liar liar = {
		.secret = secret(MCI_AUTH_CLUSTER, 1), .mode = MCI_AUTH_CLUSTER, .demand = MCI_FEATURE_SHM};

	(void)state;
	assert_int_equal(meet(&liar, secret(MCI_AUTH_CLUSTER, 1), NULL), -EPROTO);
	assert_says("does not offer what is asked for: shm");
}

static void test_servers_of_other_programs_are_refused(void **state)
{
	struct liar garbage = {.garbage = true}, closes = {.close_early = true}, silent = {.silent = true};
	uint64_t before;

	(void)state;
	assert_int_equal(meet(&garbage, secret(MCI_AUTH_CLUSTER, 1), NULL), -EPROTO);
	assert_says("no port of ours");
	assert_int_equal(meet(&closes, secret(MCI_AUTH_CLUSTER, 1), NULL), -ECONNRESET);
	before = mci_now_ns();
	assert_int_equal(meet(&silent, secret(MCI_AUTH_CLUSTER, 1), NULL), -ETIMEDOUT);
	assert_true(mci_now_ns() - before < 3 * MCI_NS_PER_S);
}

/* The same from the other side: a client under our control. */
static ssize_t send_hello_and_read(struct peer *peer, struct mci_msg_hello *m, uint8_t *p, size_t size,
				   void (*change)(uint8_t *hello, size_t *n))
{
	uint8_t hello[MCI_HELLO_MAX + 64];
	struct mci_sock sock = {.fd = bare(peer)};
	size_t n = (size_t)mci_hello_write(m, hello, sizeof(hello));
	ssize_t got;

	if (change)
		change(hello, &n);
	assert_int_equal(mci_sock_send_all(&sock, hello, n, soon(1000)), 0);
	got = read_to_end(sock.fd, p, size);
	mci_sock_close(&sock);
	return got;
}

static void bump_version(uint8_t *hello, size_t *n)
{
	(void)n;
	mci_put16(hello + MCI_HELLO_HEAD, 99);
}

static void add_a_byte(uint8_t *hello, size_t *n)
{
	hello[(*n)++] = 0;
	mci_put32(hello + 8, (uint32_t)(*n - MCI_HELLO_HEAD));
}

static void test_a_client_of_another_version_gets_a_sentence(void **state)
{
	struct mci_msg_hello m = {.version = 1,
				  .mode = MCI_AUTH_CLUSTER,
				  .service = MCI_SERVICE_ENGINE,
				  .role = MCI_ROLE_DATA,
				  .self = identity("x")};
	struct peer peer = {0};
	struct mci_msg_reject reject;
	uint8_t answer[2048];
	ssize_t n;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	n = send_hello_and_read(&peer, &m, answer, sizeof(answer), bump_version);
	assert_true(n > 0);
	assert_int_equal(mci_reject_read(answer, (size_t)n, &reject), 0);
	assert_int_equal(reject.err, -EPROTO);
	assert_non_null(strstr(reject.sentence, "version 99"));

	n = send_hello_and_read(&peer, &m, answer, sizeof(answer), add_a_byte);
	assert_true(n > 0);
	assert_int_equal(mci_reject_read(answer, (size_t)n, &reject), 0);
	assert_int_equal(reject.err, -EPROTO);
	assert_int_equal(atomic_load(&peer.connections), 0);
	assert_int_equal(mci_service_refused(peer.service), 2);
	peer_stop(&peer);
}

/* The client checks most of this too; a client that does not must not get in. */
static void test_the_server_itself_refuses_what_is_wrong_in_a_hello(void **state)
{
	struct mci_msg_hello good = {.version = 1,
				     .mode = MCI_AUTH_CLUSTER,
				     .service = MCI_SERVICE_ENGINE,
				     .role = MCI_ROLE_DATA,
				     .self = identity("x")};
	struct mci_identity other = identity("other");
	struct mci_msg_reject reject;
	struct peer peer = {.attr.features = MCI_FEATURE_NOTIFY};
	uint8_t answer[2048];
	int i;

	(void)state;
	assert_int_equal(peer_start(&peer, secret(MCI_AUTH_CLUSTER, 1)), 0);
	for (i = 0; i < 6; i++) {
		static const int errors[6] = {-ESTALE, -EKEYREJECTED, -EKEYREJECTED,
					      -EPROTO, -EPROTO,	      -EPROTO};
		struct mci_msg_hello m = good;
		ssize_t n;

		if (i == 0)
			m.wanted = other.uuid;
		else if (i == 1)
			m.mode = MCI_AUTH_NONE;
		else if (i == 2)
			m.mode = MCI_AUTH_TOKEN;
		else if (i == 3)
			m.service = MCI_SERVICE_METADATA;
		else if (i == 4)
			m.required = MCI_FEATURE_SHM | MCI_FEATURE_NOTIFY;
		else
			m.mode = 3;
		n = send_hello_and_read(&peer, &m, answer, sizeof(answer), NULL);
		assert_true(n > 0);
		assert_int_equal(mci_reject_read(answer, (size_t)n, &reject), 0);
		assert_int_equal(reject.err, errors[i]);
		assert_true(strlen(reject.sentence) > 10);
	}
	assert_int_equal(mci_service_refused(peer.service), 6);
	assert_int_equal(atomic_load(&peer.connections), 0);
	peer_stop(&peer);
}

static void test_a_recorded_opening_cannot_be_played_again(void **state)
{
	struct mci_msg_hello m = {.version = 1,
				  .mode = MCI_AUTH_TOKEN,
				  .service = MCI_SERVICE_ENGINE,
				  .role = MCI_ROLE_DATA,
				  .self = identity("x")};
	struct mci_secret own = secret(MCI_AUTH_TOKEN, 1);
	struct peer peer = {0};
	struct mci_transcript t = {0};
	uint8_t key[32], mac[MCI_MAC], proof[MCI_HEAD + MCI_MAC], answer[MCI_MESSAGE_MAX];
	int round;

	(void)state;
	assert_int_equal(peer_start(&peer, own), 0);
	t.hello_length = (size_t)mci_hello_write(&m, t.hello, sizeof(t.hello));
	for (round = 0; round < 2; round++) {
		struct mci_sock sock = {.fd = bare(&peer)};
		struct mci_msg_challenge challenge;
		ssize_t n = MCI_HEAD;

		assert_int_equal(mci_sock_send_all(&sock, t.hello, t.hello_length, soon(1000)), 0);
		assert_int_equal(mci_sock_recv_all(&sock, answer, MCI_HEAD, soon(1000)), 0);
		n = mci_message_need(answer, MCI_HEAD);
		assert_int_equal(
			mci_sock_recv_all(&sock, answer + MCI_HEAD, (size_t)n - MCI_HEAD, soon(1000)), 0);
		if (!round) {
			memcpy(t.challenge, answer, (size_t)n);
			t.challenge_length = (size_t)n;
			assert_int_equal(mci_challenge_read(answer, (size_t)n, &challenge), 0);
			mci_handshake_key(&own, MCI_AUTH_TOKEN, &challenge.self, key);
			mci_client_proof(key, &t, mac);
			mci_proof_write(mac, proof, sizeof(proof));
		}
		assert_int_equal(mci_sock_send_all(&sock, proof, sizeof(proof), soon(1000)), 0);
		assert_int_equal(mci_sock_recv_all(&sock, answer, MCI_HEAD, soon(1000)), 0);
		assert_int_equal(answer[0], round ? MCI_MSG_REJECT : MCI_MSG_ACCEPT);
		mci_sock_close(&sock);
	}
	peer_stop(&peer);
}

static void test_on_a_unix_socket_the_same_user_needs_no_token(void **state)
{
	struct mci_secret none = secret(MCI_AUTH_NONE, 0), token = secret(MCI_AUTH_TOKEN, 1),
			  wrong = secret(MCI_AUTH_TOKEN, 2);
	struct peer peer = {0};
	struct mci_connect_attr attr;
	char name[64];

	(void)state;
	snprintf(name, sizeof(name), "mooncake-test-auth-%d", getpid());
	peer.attr.unix_name = name;
	peer.attr.unix_same_user = true;
	assert_int_equal(peer_start(&peer, token), 0);
	attr = client_attr(&peer, &none);
	assert_int_equal(try_hello(&attr, NULL), -EKEYREJECTED); /* over TCP it does */
	attr.unix_name = name;
	assert_int_equal(try_hello(&attr, NULL), 0);
	attr.secret = &token; /* who has the token proves it */
	assert_int_equal(try_hello(&attr, NULL), 0);
	attr.secret = &wrong;
	assert_int_equal(try_hello(&attr, NULL), -EKEYREJECTED);
	peer_stop(&peer);
}

static void test_a_service_may_listen_on_a_unix_socket_only(void **state)
{
	struct mci_secret none = secret(MCI_AUTH_NONE, 0);
	struct peer peer = {0}, nameless = {0};
	struct mci_connect_attr attr;
	char name[64];

	(void)state;
	snprintf(name, sizeof(name), "mooncake-test-auth-%d", getpid());
	nameless.attr.unix_only = true;
	assert_int_equal(peer_start(&nameless, none), -EINVAL);
	peer.attr.unix_name = name;
	peer.attr.unix_only = true;
	peer.attr.unix_same_user = true;
	assert_int_equal(peer_start(&peer, none), 0);
	assert_int_equal(peer.port, 0);
	attr = client_attr(&peer, &none);
	attr.unix_name = name;
	assert_int_equal(try_hello(&attr, NULL), 0);
	peer_stop(&peer);
}

static void test_on_a_unix_socket_a_cluster_key_is_still_asked_for(void **state)
{
	struct mci_secret none = secret(MCI_AUTH_NONE, 0), cluster = secret(MCI_AUTH_CLUSTER, 1);
	struct peer peer = {0};
	struct mci_connect_attr attr;
	char name[64];

	(void)state;
	snprintf(name, sizeof(name), "mooncake-test-auth-%d", getpid());
	peer.attr.unix_name = name;
	peer.attr.unix_same_user = true;
	assert_int_equal(peer_start(&peer, cluster), 0);
	attr = client_attr(&peer, &none);
	attr.unix_name = name;
	assert_int_equal(try_hello(&attr, NULL), -EKEYREJECTED);
	attr.secret = &cluster;
	assert_int_equal(try_hello(&attr, NULL), 0);
	peer_stop(&peer);
}

static void test_on_a_unix_socket_another_user_is_refused(void **state)
{
	struct mci_secret none = secret(MCI_AUTH_NONE, 0);
	struct peer peer = {0};
	struct mci_connect_attr attr;
	int status = -1;
	char name[64];
	pid_t child;

	(void)state;
	if (geteuid()) {
		print_message("skipped: only root can try this as another user\n");
		skip();
	}
	snprintf(name, sizeof(name), "mooncake-test-auth-%d", getpid());
	peer.attr.unix_name = name;
	peer.attr.unix_same_user = true;
	assert_int_equal(peer_start(&peer, none), 0);
	attr = client_attr(&peer, &none);
	attr.unix_name = name;
	child = fork();
	if (!child) {
		if (setresuid(12345, 12345, 12345))
			_exit(9);
		_exit(try_hello(&attr, NULL) == -EACCES && strstr(mc_errmsg(), "same user") ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(try_hello(&attr, NULL), 0);
	peer_stop(&peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_cluster_key_opens),
		cmocka_unit_test(test_same_token_opens),
		cmocka_unit_test(test_none_opens_where_both_allow_it),
		cmocka_unit_test(test_session_keys_are_new_each_time),
		cmocka_unit_test(test_another_cluster_key_is_refused),
		cmocka_unit_test(test_another_token_is_refused),
		cmocka_unit_test(test_a_client_without_the_cluster_key_is_told_how_to_get_in),
		cmocka_unit_test(test_a_client_with_a_cluster_key_never_goes_without),
		cmocka_unit_test(test_a_token_that_one_side_lacks_is_refused),
		cmocka_unit_test(test_another_uuid_is_stale),
		cmocka_unit_test(test_a_changed_identity_counts_from_then_on),
		cmocka_unit_test(test_a_feature_that_is_required_and_not_offered_is_named),
		cmocka_unit_test(test_another_service_is_refused),
		cmocka_unit_test(test_the_handler_may_refuse_with_its_own_words),
		cmocka_unit_test(test_a_weak_secret_is_refused_on_either_side),
		cmocka_unit_test(test_the_test_server_is_accepted_when_it_does_not_lie),
		cmocka_unit_test(test_a_server_that_cannot_prove_itself_is_refused),
		cmocka_unit_test(test_a_hello_changed_on_the_way_is_noticed),
		cmocka_unit_test(test_a_server_that_offers_to_go_without_a_key_is_refused),
		cmocka_unit_test(test_the_client_itself_checks_the_uuid),
		cmocka_unit_test(test_a_server_of_another_version_is_refused_with_both_numbers),
		cmocka_unit_test(test_features_that_were_not_offered_are_refused),
		cmocka_unit_test(test_the_client_itself_checks_for_what_it_requires),
		cmocka_unit_test(test_servers_of_other_programs_are_refused),
		cmocka_unit_test(test_a_client_of_another_version_gets_a_sentence),
		cmocka_unit_test(test_the_server_itself_refuses_what_is_wrong_in_a_hello),
		cmocka_unit_test(test_a_recorded_opening_cannot_be_played_again),
		cmocka_unit_test(test_on_a_unix_socket_the_same_user_needs_no_token),
		cmocka_unit_test(test_a_service_may_listen_on_a_unix_socket_only),
		cmocka_unit_test(test_on_a_unix_socket_a_cluster_key_is_still_asked_for),
		cmocka_unit_test(test_on_a_unix_socket_another_user_is_refused),
	};

	return cmocka_run_group_tests_name("net_auth", tests, NULL, NULL);
}
