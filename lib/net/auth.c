// SPDX-License-Identifier: MIT
/*
 * Keys and proofs: all cryptography outside TLS is here, by OpenSSL (HMAC-SHA256, HKDF-SHA256).
 * A failure inside OpenSSL (no memory, no provider) ends the process: going on without would be open doors.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "net/hello.h"

/* Labels keep the proofs of one purpose from being used for another. */
#define LABEL_SEGMENT "mooncake segment"
#define LABEL_CLIENT "mooncake client proof 1"
#define LABEL_SERVER "mooncake server proof 1"
#define LABEL_TO_SERVER "mooncake session to server 1"
#define LABEL_TO_CLIENT "mooncake session to client 1"
#define LABEL_TLS "mooncake tls 1"
#define LABEL_HTTP "mooncake http"
#define LABEL_KEY_ID "mooncake key id"

struct piece {
	const void *p;
	size_t n;
};

/* Mode none has no key bytes; OpenSSL does not take an empty key. */
static const uint8_t no_key[32];

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	mci_error("OpenSSL cannot do %s; is its default provider installed?", what);
	abort();
}

/* HMAC over the pieces one behind the other. */
static void hmac(const void *key, size_t key_length, const struct piece *pieces, size_t count,
		 uint8_t mac[32])
{
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
			       OSSL_PARAM_construct_end()};
	EVP_MAC *alg = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *ctx = alg ? EVP_MAC_CTX_new(alg) : NULL;
	size_t i, length = 0;

	if (!key_length) {
		key = no_key;
		key_length = sizeof(no_key);
	}
	must(ctx && EVP_MAC_init(ctx, key, key_length, params), "HMAC-SHA256");
	for (i = 0; i < count; i++)
		must(EVP_MAC_update(ctx, pieces[i].p, pieces[i].n), "HMAC-SHA256");
	must(EVP_MAC_final(ctx, mac, &length, 32) && length == 32, "HMAC-SHA256");
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(alg);
}

static void hkdf(const void *key, size_t key_length, const void *salt, size_t salt_length, const void *info,
		 size_t info_length, uint8_t out[32])
{
	OSSL_PARAM params[5], *param = params;
	EVP_KDF *alg = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = alg ? EVP_KDF_CTX_new(alg) : NULL;

	if (!key_length) {
		key = no_key;
		key_length = sizeof(no_key);
	}
	*param++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0);
	*param++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key, key_length);
	if (salt_length)
		*param++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, salt_length);
	*param++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, info_length);
	*param = OSSL_PARAM_construct_end();
	must(ctx && EVP_KDF_derive(ctx, out, 32, params) == 1, "HKDF-SHA256");
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(alg);
}

void mci_handshake_key(const struct mci_secret *secret, enum mci_auth_mode mode,
		       const struct mci_identity *server, uint8_t key[32])
{
	uint8_t info[sizeof(LABEL_SEGMENT) - 1 + 16 + 8];
	struct mci_writer w;

	mci_writer_init(&w, info, sizeof(info));
	mci_write_bytes(&w, LABEL_SEGMENT, sizeof(LABEL_SEGMENT) - 1);
	mci_write_bytes(&w, server->uuid.b, sizeof(server->uuid.b));
	mci_write64(&w, server->generation);
	if (mode == MCI_AUTH_NONE)
		hkdf(no_key, sizeof(no_key), NULL, 0, info, w.used, key);
	else
		hkdf(secret->key, secret->key_length, NULL, 0, info, w.used, key);
}

/* Every piece goes in with its length before it, so that no two transcripts read the same. */
static void prove(const uint8_t key[32], const char *label, const struct mci_transcript *t,
		  const uint8_t *more, size_t more_length, const uint8_t *accept, size_t accept_length,
		  uint8_t mac[MCI_MAC])
{
	uint8_t lengths[6][4];
	struct piece pieces[12] = {
		{lengths[0], 4}, {label, strlen(label)},
		{lengths[1], 4}, {t->hello, t->hello_length},
		{lengths[2], 4}, {t->challenge, t->challenge_length},
		{lengths[3], 4}, {t->exporter, t->exporter_length},
		{lengths[4], 4}, {more, more_length},
		{lengths[5], 4}, {accept, accept_length},
	};
	size_t i;

	for (i = 0; i < 6; i++)
		mci_put32(lengths[i], (uint32_t)pieces[2 * i + 1].n);
	hmac(key, 32, pieces, 12, mac);
}

void mci_client_proof(const uint8_t key[32], const struct mci_transcript *t, uint8_t mac[MCI_MAC])
{
	prove(key, LABEL_CLIENT, t, NULL, 0, NULL, 0, mac);
}

void mci_server_proof(const uint8_t key[32], const struct mci_transcript *t,
		      const uint8_t client_mac[MCI_MAC], const uint8_t *accept, size_t accept_length,
		      uint8_t mac[MCI_MAC])
{
	prove(key, LABEL_SERVER, t, client_mac, MCI_MAC, accept, accept_length, mac);
}

/* The server's proof covers the whole exchange, fresh nonces of both sides included: it is the salt. */
void mci_session_keys(const uint8_t key[32], const struct mci_transcript *t,
		      const uint8_t server_mac[MCI_MAC], struct mci_hello *hello)
{
	uint8_t salt[32];

	prove(key, "mooncake session 1", t, server_mac, MCI_MAC, NULL, 0, salt);
	hkdf(key, 32, salt, sizeof(salt), LABEL_TO_SERVER, sizeof(LABEL_TO_SERVER) - 1, hello->key_to_server);
	hkdf(key, 32, salt, sizeof(salt), LABEL_TO_CLIENT, sizeof(LABEL_TO_CLIENT) - 1, hello->key_to_client);
	mci_wipe(salt, sizeof(salt));
}

void mci_tls_key(const struct mci_hello *hello, uint8_t key[32])
{
	uint8_t both[2 * MCI_SESSION_KEY];

	memcpy(both, hello->key_to_server, MCI_SESSION_KEY);
	memcpy(both + MCI_SESSION_KEY, hello->key_to_client, MCI_SESSION_KEY);
	hkdf(both, sizeof(both), NULL, 0, LABEL_TLS, sizeof(LABEL_TLS) - 1, key);
	mci_wipe(both, sizeof(both));
}

bool mci_mac_equal(const uint8_t a[MCI_MAC], const uint8_t b[MCI_MAC])
{
	return !CRYPTO_memcmp(a, b, MCI_MAC);
}

void mci_wipe(void *p, size_t n) { OPENSSL_cleanse(p, n); }

void mci_key_bearer(const struct mci_secret *secret, const char *role, char text[65])
{
	uint8_t info[sizeof(LABEL_HTTP) - 1 + 64], key[32];
	struct mci_writer w;

	mci_writer_init(&w, info, sizeof(info));
	mci_write_bytes(&w, LABEL_HTTP, sizeof(LABEL_HTTP) - 1);
	mci_write_bytes(&w, role, strnlen(role, 64));
	hkdf(secret->key, secret->key_length, NULL, 0, info, w.used, key);
	mci_hex(key, sizeof(key), text);
	mci_wipe(key, sizeof(key));
}

void mci_key_id(const struct mci_secret *secret, char text[17])
{
	struct piece piece = {LABEL_KEY_ID, sizeof(LABEL_KEY_ID) - 1};
	uint8_t mac[32];

	hmac(secret->key, secret->key_length, &piece, 1, mac);
	mci_hex(mac, 8, text);
}

void mci_key_mac(const struct mci_secret *secret, const char *label, const void *p, size_t n, uint8_t mac[32])
{
	uint8_t length[4];
	struct piece pieces[3] = {{length, sizeof(length)}, {label, strlen(label)}, {p, n}};

	mci_put32(length, (uint32_t)strlen(label));
	hmac(secret->key, secret->key_length, pieces, 3, mac);
}

/* A secret without enough key bytes would be no secret: refused where it is taken in. */
int mci_secret_check(const struct mci_secret *secret)
{
	if (secret->mode > MCI_AUTH_CLUSTER || secret->key_length > sizeof(secret->key) ||
	    (secret->mode == MCI_AUTH_TOKEN && secret->key_length < 16) ||
	    (secret->mode == MCI_AUTH_CLUSTER && secret->key_length < 32))
		return mci_fail(-EINVAL, "a %s of %u bytes is too short to prove anything",
				mci_mode_name(secret->mode), secret->key_length);
	return 0;
}

int mci_key_load(const char *path, struct mci_secret *secret)
{
	struct mci_secret loaded = {.mode = MCI_AUTH_CLUSTER};
	char text[256];
	struct stat st;
	ssize_t n;
	int fd, ret;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		ret = -errno;
		return mci_fail(ret, "cannot open key file '%s': %s%s", path, strerror(-ret),
				ret == -ENOENT ? "; 'mooncake key new' writes one" : "");
	}
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		ret = mci_fail(-EINVAL, "key file '%s' is no regular file", path);
		goto err_close;
	}
	if (st.st_mode & (S_IRWXG | S_IRWXO)) {
		ret = mci_fail(-EPERM,
			       "key file '%s' is open to others than its owner (mode %04o): chmod 600 '%s'",
			       path, st.st_mode & 07777, path);
		goto err_close;
	}
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0) {
		ret = -errno;
		mci_fail(ret, "cannot read key file '%s': %s", path, strerror(-ret));
		goto err_close;
	}
	close(fd);

	while (n && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' ' || text[n - 1] == '\t'))
		n--;
	text[n] = '\0';
	if (n < 64 || n > 128 || n % 2 || mci_unhex(text, loaded.key, (size_t)n / 2)) {
		mci_wipe(text, sizeof(text));
		return mci_fail(-EINVAL,
				"key file '%s' holds no cluster key: one line of 64 to 128 hex digits; "
				"'mooncake key new' writes one",
				path);
	}
	loaded.key_length = (uint8_t)(n / 2);
	mci_wipe(text, sizeof(text));
	*secret = loaded;
	mci_wipe(&loaded, sizeof(loaded));
	return 0;

err_close:
	close(fd);
	return ret;
}
