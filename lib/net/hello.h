/* SPDX-License-Identifier: MIT */
/*
 * Within lib/net: the opening of a connection, as pure functions from bytes to structs and back, and
 * the proofs over them. Layouts (little-endian; str8 = u8 length and bytes):
 *
 *   HELLO      magic[8] u32 length | u16 version, u8 mode, u8 service, u8 role, u8 0, u64 features,
 *              u64 required, u8 nonce[32], str8 name, u8 uuid[16], u64 generation, u8 wanted[16],
 *              u16 n, u8 params[n]
 *   CHALLENGE  u8 2, u32 length | u16 version, u8 mode, u8 0, u64 features, u8 nonce[32], str8 name,
 *              u8 uuid[16], u64 generation
 *   PROOF      u8 3, u32 32 | u8 mac[32]
 *   ACCEPT     u8 4, u32 length | u64 features, u16 n, u8 params[n], u8 mac[32]
 *   REJECT     u8 5, u32 length | u32 errno (as Linux numbers it, positive), u16 n, u8 sentence[n]
 *
 * Classic messages: u64 length, then u8 type and JSON; before v0.3 JSON alone (first byte > 3).
 */
#ifndef MCI_HELLO_H
#define MCI_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/auth.h"

#define MCI_NONCE 32
#define MCI_MAC 32
#define MCI_HELLO_HEAD 12    /* magic and length */
#define MCI_HEAD 5	     /* type and length of every later message */
#define MCI_HELLO_MAX 2048   /* a HELLO, head included */
#define MCI_MESSAGE_MAX 1024 /* any later message, head included */
#define MCI_SENTENCE_MAX 300
#define MCI_CLASSIC_MAX (1u << 20)
#define MCI_PROBE_MAX 4096 /* all that a stranger may send where classic is off */

enum mci_message { MCI_MSG_CHALLENGE = 2, MCI_MSG_PROOF = 3, MCI_MSG_ACCEPT = 4, MCI_MSG_REJECT = 5 };

struct mci_msg_hello {
	uint16_t version;
	uint8_t mode, service, role;
	uint64_t features, required;
	uint8_t nonce[MCI_NONCE];
	struct mci_identity self;
	struct mc_uuid wanted;
	uint16_t params_length;
	uint8_t params[MCI_PARAMS_MAX];
};

struct mci_msg_challenge {
	uint16_t version;
	uint8_t mode;
	uint64_t features;
	uint8_t nonce[MCI_NONCE];
	struct mci_identity self;
};

struct mci_msg_accept {
	uint64_t features;
	uint16_t params_length;
	uint8_t params[MCI_PARAMS_MAX];
	uint8_t mac[MCI_MAC];
};

struct mci_msg_reject {
	int err;			     /* negative */
	char sentence[MCI_SENTENCE_MAX + 1]; /* printable ASCII only */
};

/* Writers give the bytes used, or -EMSGSIZE (a name or parameters too long). @size is the room at @p. */
ssize_t mci_hello_write(const struct mci_msg_hello *m, uint8_t *p, size_t size);
ssize_t mci_challenge_write(const struct mci_msg_challenge *m, uint8_t *p, size_t size);
ssize_t mci_proof_write(const uint8_t mac[MCI_MAC], uint8_t *p, size_t size);
ssize_t mci_accept_write(const struct mci_msg_accept *m, uint8_t *p, size_t size); /* m->mac included */
ssize_t mci_reject_write(int err, const char *sentence, uint8_t *p, size_t size);

/*
 * Readers take one whole message. 0; -EPROTO: malformed; -EPROTONOSUPPORT: another version (m->version
 * is set, nothing else is).
 */
int mci_hello_read(const uint8_t *p, size_t n, struct mci_msg_hello *m);
int mci_challenge_read(const uint8_t *p, size_t n, struct mci_msg_challenge *m);
int mci_proof_read(const uint8_t *p, size_t n, uint8_t mac[MCI_MAC]);
int mci_accept_read(const uint8_t *p, size_t n, struct mci_msg_accept *m);
int mci_reject_read(const uint8_t *p, size_t n, struct mci_msg_reject *m);

/*
 * How long a message is, as far as @n bytes of it tell: more bytes than @n = read up to there and ask
 * again; equal to @n = complete. -EPROTO: nothing that may come here. Never asks for a byte too many.
 */
ssize_t mci_message_need(const uint8_t *p, size_t n); /* CHALLENGE to REJECT */
/* The first message at a server. -EACCES: a classic message other than the probe, and !@classic. */
ssize_t mci_opening_need(const uint8_t *p, size_t n, bool classic);
bool mci_opening_is_hello(const uint8_t *p, size_t n);

struct mci_classic {
	uint8_t type; /* enum mci_classic_type */
	bool old;     /* no type byte: the reply has none either */
	const char *json;
	size_t length;
};
/* A complete classic message. -EPROTO. */
int mci_classic_read(const uint8_t *p, size_t n, struct mci_classic *m);
/* Head of the reply: 8 or 9 bytes. */
size_t mci_classic_head(uint8_t p[9], uint8_t type, bool old, size_t json_length);

/* What both sides saw; the proofs cover it byte by byte. */
struct mci_transcript {
	uint8_t hello[MCI_HELLO_MAX];
	size_t hello_length;
	uint8_t challenge[MCI_MESSAGE_MAX];
	size_t challenge_length;
	uint8_t exporter[32]; /* of TLS below the hello, where there is */
	size_t exporter_length;
};

/* Key of the handshake with the server that called itself @server. */
void mci_handshake_key(const struct mci_secret *secret, enum mci_auth_mode mode,
		       const struct mci_identity *server, uint8_t key[32]);
void mci_client_proof(const uint8_t key[32], const struct mci_transcript *t, uint8_t mac[MCI_MAC]);
/* Over @accept, the ACCEPT message without its MAC, too. */
void mci_server_proof(const uint8_t key[32], const struct mci_transcript *t,
		      const uint8_t client_mac[MCI_MAC], const uint8_t *accept, size_t accept_length,
		      uint8_t mac[MCI_MAC]);
void mci_session_keys(const uint8_t key[32], const struct mci_transcript *t,
		      const uint8_t server_mac[MCI_MAC], struct mci_hello *hello);
/* Key of the TLS that follows where integrity was agreed. */
void mci_tls_key(const struct mci_hello *hello, uint8_t key[32]);
bool mci_mac_equal(const uint8_t a[MCI_MAC], const uint8_t b[MCI_MAC]); /* in constant time */
void mci_wipe(void *p, size_t n);

int mci_secret_check(const struct mci_secret *secret); /* 0 or -EINVAL with a sentence */

/* "none", "token", "cluster key". */
const char *mci_mode_name(unsigned int mode);
/* Refuse two sides with different means: the sentence names the way out. */
int mci_mode_mismatch(char sentence[MCI_SENTENCE_MAX + 1], unsigned int client, unsigned int server);
/* Names of feature bits, for sentences. */
void mci_feature_names(uint64_t features, char *text, size_t size);

#endif
