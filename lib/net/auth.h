/* SPDX-License-Identifier: MIT */
/*
 * Opening of every connection of ours (docs/protocol.md, "Hello"): challenge in both directions,
 * the client proves first, the secret itself is never sent. Pure codec and state, no I/O here.
 *
 *   client                                server
 *   HELLO {magic, version, features, service, role, nonce, identity, wanted uuid, params} ->
 *                              <- CHALLENGE {version, features, mode, nonce, identity}
 *   PROOF {mac} ->
 *                              <- ACCEPT {mac, params} or REJECT {errno, sentence} (at any time)
 *
 * Both MACs are HMAC-SHA256 over a label and everything that was said before (and the TLS exporter
 * where there is TLS), under the handshake key:
 *   cluster mode: HKDF-SHA256(cluster key, "mooncake segment" | server uuid | server generation)
 *   token mode:   HKDF-SHA256(server's 128-bit token, the same)
 *   none:         HKDF-SHA256(zeros, the same); both sides must have allowed it
 */
#ifndef MCI_AUTH_H
#define MCI_AUTH_H

#include <stdint.h>

#include <mooncake/types.h>

#include "core/bytes.h"

#define MCI_MAGIC "\xffMOONC1\n" /* 8 bytes; read as a classic length they are absurd: 2^59 and more */
#define MCI_PROTOCOL_VERSION 1
#define MCI_NAME_MAX 255
#define MCI_PARAMS_MAX 512
#define MCI_SESSION_KEY 32

enum mci_auth_mode { MCI_AUTH_NONE = 0, MCI_AUTH_TOKEN = 1, MCI_AUTH_CLUSTER = 2 };
enum mci_service_id { MCI_SERVICE_ENGINE = 1, MCI_SERVICE_MASTER = 2, MCI_SERVICE_METADATA = 3 };
enum mci_role {
	MCI_ROLE_CONTROL = 1,
	MCI_ROLE_DATA = 2,
	MCI_ROLE_SHM = 3,
	MCI_ROLE_RDMA = 4,
	MCI_ROLE_P2P = 5,
	MCI_ROLES /* one more than the last */
};

/* feature bits of the hello */
#define MCI_FEATURE_CHECKSUM (1ull << 0)  /* xxh3 per payload */
#define MCI_FEATURE_INTEGRITY (1ull << 1) /* TLS 1.3 under the session key follows ACCEPT */
#define MCI_FEATURE_SHM (1ull << 2)
#define MCI_FEATURE_NOTIFY (1ull << 3)
#define MCI_FEATURES_KNOWN 0xfull

struct mci_identity {
	char name[MCI_NAME_MAX + 1];
	struct mc_uuid uuid;
	uint64_t generation;
};

struct mci_secret {
	enum mci_auth_mode mode;
	uint8_t key[64]; /* cluster: 32..64 bytes; token: 16 */
	uint8_t key_length;
};

/* Read a cluster key file: 64 to 128 hex digits. Refuses files that others can read. */
int mci_key_load(const char *path, struct mci_secret *secret);
/*
 * Bearer token text for HTTP ports: hex(HKDF(cluster key, "mooncake http" | role)); role "metrics",
 * "metadata", "admin".
 */
void mci_key_bearer(const struct mci_secret *secret, const char *role, char text[65]);
/* First 16 hex digits of HMAC(key, "mooncake key id"): to compare keys without showing them. */
void mci_key_id(const struct mci_secret *secret, char text[17]);
/* MAC over published bytes (the descriptor member), 32 bytes. */
void mci_key_mac(const struct mci_secret *secret, const char *label, const void *p, size_t n,
		 uint8_t mac[32]);

struct mci_hello { /* what both sides know once a connection is open */
	struct mci_identity peer;
	uint64_t features; /* agreed */
	enum mci_service_id service;
	enum mci_role role;
	struct mc_uuid wanted; /* server: uuid that the client asked for; zero = any */
	uint16_t params_length;
	uint8_t params[MCI_PARAMS_MAX]; /* server: from the client's HELLO; client: from ACCEPT */
	uint8_t key_to_server[MCI_SESSION_KEY], key_to_client[MCI_SESSION_KEY];
};

#endif
