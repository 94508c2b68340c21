// SPDX-License-Identifier: MIT
/*
 * What a server says to the messages of a client: the checks, in the order in which they tell most to an
 * honest client that went wrong. No I/O; loop thread of the connection.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/uuid.h"
#include "net/incoming.h"

#define OVERFLOW_UID 65534 /* stands for every user that our user namespace does not know: no identity */

static bool same_user(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length))
		return false;
	return !peer.uid || (peer.uid == geteuid() && peer.uid != OVERFLOW_UID);
}

/*
 * How the client must prove itself. On the unix socket the kernel's word on its user stands in for a
 * token, if that is switched on; never for a cluster key (no downgrade).
 */
static int choose_mode(struct mci_incoming *in, unsigned int offered, char sentence[MCI_SENTENCE_MAX + 1])
{
	const struct mci_service_attr *attr = &in->service->attr;
	unsigned int own = attr->secret.mode;

	if (in->is_unix && attr->unix_same_user && offered == MCI_AUTH_NONE && own != MCI_AUTH_CLUSTER) {
		if (same_user(in->sock.fd))
			return MCI_AUTH_NONE;
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "this unix socket serves processes of the same user only; give both sides "
			 "--key_file=... (or MOONCAKE_KEY_FILE), or run them as one user");
		return -EACCES;
	}
	return mci_mode_mismatch(sentence, offered, own) ? -EKEYREJECTED : (int)own;
}

static uint64_t offered_features(const struct mci_incoming *in)
{
	/* On a unix socket nobody is on the path, and descriptors ride along: no TLS there. */
	return in->service->attr.features & ~(in->is_unix ? MCI_FEATURE_INTEGRITY : 0);
}

int mci_greet_hello(struct mci_incoming *in, char sentence[MCI_SENTENCE_MAX + 1])
{
	const struct mci_service_attr *attr = &in->service->attr;
	struct mci_msg_challenge challenge;
	struct mci_msg_hello m;
	uint64_t lacking;
	char names[96];
	int ret, mode;
	ssize_t n;

	ret = mci_hello_read(in->in, in->in_length, &m);
	if (ret == -EPROTONOSUPPORT) {
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the client speaks version %u of the protocol and the server version %u: install "
			 "the same release on both sides",
			 m.version, MCI_PROTOCOL_VERSION);
		return -EPROTO;
	}
	if (ret) {
		snprintf(sentence, MCI_SENTENCE_MAX + 1, "the hello is malformed");
		return -EPROTO;
	}
	if (m.service != attr->service) {
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "this port serves something else (service %u) than the client asks for (%u): check "
			 "the address",
			 attr->service, m.service);
		return -EPROTO;
	}

	memset(&challenge, 0, sizeof(challenge));
	pthread_mutex_lock(&in->service->lock);
	challenge.self = *in->service->self;
	pthread_mutex_unlock(&in->service->lock);
	if (!mci_uuid_is_zero(&m.wanted) && !mci_uuid_equal(&m.wanted, &challenge.self.uuid)) {
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the segment that was meant is not here any more; '%.100s' is: it restarted, or "
			 "took over the address",
			 challenge.self.name);
		return -ESTALE;
	}
	mode = choose_mode(in, m.mode, sentence);
	if (mode < 0)
		return mode;
	challenge.version = MCI_PROTOCOL_VERSION;
	challenge.mode = (uint8_t)mode;
	challenge.features = offered_features(in);
	lacking = m.required & ~challenge.features;
	if (lacking) {
		mci_feature_names(lacking, names, sizeof(names));
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the client insists on what this server does not offer: %s; switch it on here, or "
			 "do without it there",
			 names);
		return -EPROTO;
	}
	mci_random(challenge.nonce, sizeof(challenge.nonce));
	n = mci_challenge_write(&challenge, in->transcript.challenge, sizeof(in->transcript.challenge));
	if (n < 0) {
		snprintf(sentence, MCI_SENTENCE_MAX + 1, "the server cannot say its name");
		return -EPROTO;
	}
	in->transcript.challenge_length = (size_t)n;
	memcpy(in->transcript.hello, in->in, in->in_length);
	in->transcript.hello_length = in->in_length;
	mci_handshake_key(&attr->secret, (enum mci_auth_mode)mode, &challenge.self, in->key);

	in->hello.peer = m.self;
	in->hello.features = m.features & challenge.features;
	in->hello.service = attr->service;
	in->hello.role = m.role;
	in->hello.wanted = m.wanted;
	in->hello.params_length = m.params_length;
	memcpy(in->hello.params, m.params, m.params_length);

	memcpy(in->out, in->transcript.challenge, (size_t)n);
	in->out_length = (size_t)n;
	return 0;
}

int mci_greet_proof(struct mci_incoming *in, char sentence[MCI_SENTENCE_MAX + 1])
{
	bool cluster = in->service->attr.secret.mode == MCI_AUTH_CLUSTER;
	uint8_t expected[MCI_MAC];

	if (mci_proof_read(in->in, in->in_length, in->client_mac)) {
		snprintf(sentence, MCI_SENTENCE_MAX + 1, "the proof is malformed");
		return -EPROTO;
	}
	mci_client_proof(in->key, &in->transcript, expected);
	if (mci_mac_equal(expected, in->client_mac))
		return 0;
	snprintf(sentence, MCI_SENTENCE_MAX + 1, "%s",
		 cluster ? "wrong key: the client's cluster key is not the one of this cluster ('mooncake "
			   "key id' on both sides tells them apart)"
			 : "wrong token: what the client read in the metadata service is not, or no longer, "
			   "the token of this segment");
	return -EKEYREJECTED;
}

void mci_greet_accept(struct mci_incoming *in)
{
	size_t n;

	in->accept.features = in->hello.features;
	in->out = in->out_small;
	n = (size_t)mci_accept_write(&in->accept, in->out,
				     sizeof(in->out_small)); /* its length was checked */
	mci_server_proof(in->key, &in->transcript, in->client_mac, in->out, n - MCI_MAC, in->accept.mac);
	memcpy(in->out + n - MCI_MAC, in->accept.mac, MCI_MAC);
	mci_session_keys(in->key, &in->transcript, in->accept.mac, &in->hello);
	in->out_length = n;
}
