// SPDX-License-Identifier: MIT
/*
 * Client side of the opening: reach the peer, prove ourselves, see the peer's proof, go to TLS where
 * agreed. Blocking, one thread.
 */
#include "net/connect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/uuid.h"
#include "net/addr.h"
#include "net/dial.h"
#include "net/hello.h"
#include "net/tls.h"

/* Where the peer has more addresses, a silent one gets this share of the time, at least. */
#define PATIENCE_NS (1 * MCI_NS_PER_S)

struct opening {
	const struct mci_connect_attr *attr;
	struct mci_sock *sock;
	uint64_t deadline_ns, features, required;
	char peer[MCI_ADDR_TEXT + 64];
	struct mci_transcript t;
	uint8_t buffer[MCI_MESSAGE_MAX];
	size_t length;
};

/* One whole message into o->buffer. A REJECT ends here. */
static int receive(struct opening *o, const char *what)
{
	struct mci_msg_reject reject;
	ssize_t need = MCI_HEAD;
	int ret;

	o->length = 0;
	while (need > (ssize_t)o->length) {
		ret = mci_sock_recv_all(o->sock, o->buffer + o->length, (size_t)need - o->length,
					o->deadline_ns);
		if (ret == -ECONNRESET && !o->length)
			return mci_fail(
				ret,
				"%s closed the connection instead of sending its %s; it is shutting down, "
				"overloaded, or a classic Mooncake that does not speak this protocol",
				o->peer, what);
		if (ret)
			return ret;
		o->length = (size_t)need;
		need = mci_message_need(o->buffer, o->length);
	}
	if (need < 0)
		return mci_fail(-EPROTO,
				"%s is no port of ours: its answer to the hello is none of our messages",
				o->peer);
	if (o->buffer[0] != MCI_MSG_REJECT)
		return 0;
	if (mci_reject_read(o->buffer, o->length, &reject))
		return mci_fail(-EPROTO, "%s refused the connection, with a malformed message", o->peer);
	return mci_fail(reject.err, "%s refused the connection: %s", o->peer, reject.sentence);
}

static int send_hello(struct opening *o)
{
	const struct mci_connect_attr *attr = o->attr;
	struct mci_msg_hello m = {
		.version = MCI_PROTOCOL_VERSION,
		.mode = (uint8_t)attr->secret->mode,
		.service = (uint8_t)attr->service,
		.role = (uint8_t)attr->role,
		.features = o->features,
		.required = o->required,
		.self = *attr->self,
		.params_length = attr->params_length,
	};
	ssize_t n;

	if (attr->params_length > MCI_PARAMS_MAX)
		return mci_fail(-EMSGSIZE, "%u bytes of parameters do not fit into a hello (%u at most)",
				attr->params_length, MCI_PARAMS_MAX);
	mci_random(m.nonce, sizeof(m.nonce));
	if (attr->wanted)
		m.wanted = *attr->wanted;
	if (attr->params_length)
		memcpy(m.params, attr->params, attr->params_length);
	n = mci_hello_write(&m, o->t.hello, sizeof(o->t.hello));
	if (n < 0)
		return mci_fail((int)n, "the own name is too long for a hello (%d bytes at most)",
				MCI_NAME_MAX);
	o->t.hello_length = (size_t)n;
	return mci_sock_send_all(o->sock, o->t.hello, o->t.hello_length, o->deadline_ns);
}

static int read_challenge(struct opening *o, struct mci_msg_challenge *m)
{
	char sentence[MCI_SENTENCE_MAX + 1], missing[96];
	uint64_t lacking;
	int ret;

	ret = receive(o, "challenge");
	if (ret)
		return ret;
	ret = mci_challenge_read(o->buffer, o->length, m);
	if (ret == -EPROTONOSUPPORT)
		return mci_fail(-EPROTO,
				"%s speaks version %u of the protocol and this program version %u: install "
				"the same release on both sides",
				o->peer, m->version, MCI_PROTOCOL_VERSION);
	if (ret)
		return mci_fail(-EPROTO, "%s sent a malformed challenge", o->peer);
	memcpy(o->t.challenge, o->buffer, o->length);
	o->t.challenge_length = o->length;

	if (o->attr->wanted && !mci_uuid_is_zero(o->attr->wanted) &&
	    !mci_uuid_equal(o->attr->wanted, &m->self.uuid))
		return mci_fail(-ESTALE,
				"%s is another segment ('%s') than the one that was meant: it restarted, or "
				"the address went to somebody else",
				o->peer, m->self.name);
	/* Whatever the peer says: who has a key never goes on without. */
	if (mci_mode_mismatch(sentence, o->attr->secret->mode, m->mode))
		return mci_fail(-EKEYREJECTED, "%s: %s", o->peer, sentence);
	lacking = o->required & ~m->features;
	if (lacking) {
		mci_feature_names(lacking, missing, sizeof(missing));
		return mci_fail(
			-EPROTO,
			"%s does not offer what is asked for: %s; switch it on there, or do without it here",
			o->peer, missing);
	}
	return 0;
}

static int read_accept(struct opening *o, const uint8_t key[32], const uint8_t client_mac[MCI_MAC],
		       uint64_t offered, struct mci_hello *hello)
{
	struct mci_msg_accept m;
	uint8_t mac[MCI_MAC];
	int ret;

	ret = receive(o, "accept");
	if (ret)
		return ret;
	if (mci_accept_read(o->buffer, o->length, &m))
		return mci_fail(-EPROTO, "%s sent a malformed accept", o->peer);
	mci_server_proof(key, &o->t, client_mac, o->buffer, o->length - MCI_MAC, mac);
	if (!mci_mac_equal(mac, m.mac))
		return mci_fail(-EKEYREJECTED,
				"%s could not prove that it has the key of this cluster; somebody else may "
				"answer at that address",
				o->peer);
	if (m.features != (o->features & offered))
		return mci_fail(-EPROTO, "%s agreed to other features than both sides offer", o->peer);
	hello->features = m.features;
	hello->params_length = m.params_length;
	memcpy(hello->params, m.params, m.params_length);
	mci_session_keys(key, &o->t, m.mac, hello);
	return 0;
}

/* The whole opening on a connected socket. */
static int open_stream(const struct mci_connect_attr *attr, struct mci_sock *sock, uint64_t deadline_ns,
		       struct mci_hello *hello)
{
	struct opening o = {.attr = attr, .sock = sock, .deadline_ns = deadline_ns};
	uint8_t key[32], mac[MCI_MAC], proof[MCI_HEAD + MCI_MAC];
	struct mci_msg_challenge challenge;
	int ret;

	mci_peer_text(sock->fd, o.peer, sizeof(o.peer));
	o.features = attr->features | attr->features_required;
	o.required = attr->features_required;
	if (attr->unix_name) {
		/* Nobody is on the path of a unix socket, and descriptors ride along on it: no TLS there. */
		o.features &= ~MCI_FEATURE_INTEGRITY;
		o.required &= ~MCI_FEATURE_INTEGRITY;
	}
	memset(hello, 0, sizeof(*hello));
	ret = send_hello(&o);
	if (ret)
		return ret;
	ret = read_challenge(&o, &challenge);
	if (ret)
		return ret;
	hello->peer = challenge.self;
	hello->service = attr->service;
	hello->role = attr->role;
	if (attr->wanted)
		hello->wanted = *attr->wanted;

	mci_handshake_key(attr->secret, challenge.mode, &challenge.self, key);
	mci_client_proof(key, &o.t, mac);
	mci_proof_write(mac, proof, sizeof(proof));
	/* A peer that refused meanwhile has closed: its REJECT, which says why, is still to be read. */
	ret = mci_sock_send_all(sock, proof, sizeof(proof), deadline_ns);
	if (ret != -ETIMEDOUT)
		ret = read_accept(&o, key, mac, challenge.features, hello);
	mci_wipe(key, sizeof(key));
	if (ret || !(hello->features & MCI_FEATURE_INTEGRITY))
		return ret;

	mci_tls_key(hello, key);
	ret = mci_tls_start(sock, false, key);
	mci_wipe(key, sizeof(key));
	return ret ? ret : mci_tls_handshake_wait(sock, deadline_ns);
}

static int connect_unix(const struct mci_connect_attr *attr, struct mci_sock *sock, struct mci_hello *hello)
{
	int ret;

	ret = mci_unix_connect(attr->unix_name, attr->deadline_ns, &sock->fd);
	if (ret)
		return ret;
	ret = open_stream(attr, sock, attr->deadline_ns, hello);
	if (ret)
		mci_sock_close(sock);
	return ret;
}

/*
 * An address may lead to somebody else (private networks look alike): the next one is tried when the
 * hello fails there, and the first hello's failure is what is told if none succeeds.
 */
static int connect_hosts(const struct mci_connect_attr *attr, struct mci_sock *sock, struct mci_hello *hello)
{
	char told[1024] = "";
	struct mci_dial *dial;
	int ret, first = 0;

	ret = mci_dial_open(attr->hosts, attr->host_count, attr->port, attr->source, &dial);
	if (ret)
		return ret;
	while (!(ret = mci_dial_next(dial, attr->deadline_ns, &sock->fd))) {
		uint64_t until = attr->deadline_ns, now = mci_now_ns();

		if (mci_dial_more(dial) && until > now + PATIENCE_NS) {
			until = now + (until - now) / 2;
			if (until < now + PATIENCE_NS)
				until = now + PATIENCE_NS;
		}
		ret = open_stream(attr, sock, until, hello);
		if (!ret)
			break;
		mci_sock_close(sock);
		if (!first) {
			first = ret;
			snprintf(told, sizeof(told), "%s", mc_errmsg());
		}
	}
	mci_dial_close(dial);
	if (ret && first) {
		mci_errmsg_set(told);
		ret = first;
	}
	return ret;
}

int mci_connect(const struct mci_connect_attr *attr, struct mci_sock *sock, struct mci_hello *hello)
{
	struct mci_sock made = {.fd = -1, .tls = NULL};
	struct mci_hello known;
	int ret;

	ret = mci_secret_check(attr->secret);
	if (ret)
		return ret;
	ret = attr->unix_name ? connect_unix(attr, &made, &known) : connect_hosts(attr, &made, &known);
	if (!ret) {
		*sock = made;
		*hello = known;
	}
	mci_wipe(&known, sizeof(known));
	return ret;
}
