// SPDX-License-Identifier: MIT
/*
 * TLS 1.3 with an external pre-shared key over a BIO of our own (the stock socket BIO would raise
 * SIGPIPE). The two SSL_CTX are made once per process and hold nothing of any engine.
 * Lock order: tls->lock is a leaf.
 */
#include "net/tls.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/errors.h"
#include "net/addr.h"

#define IDENTITY "mooncake"
#define RECORD_MAX 16384
#define READ_BUFFER (64 * 1024)

struct tls {
	pthread_mutex_t lock;
	SSL *ssl;
	int fd;
	short wants;  /* of the last EAGAIN */
	bool eof;     /* the socket ended, whatever TLS said */
	int err;      /* positive errno of the socket, once it broke */
	size_t retry; /* bytes of a record that is half out: must be given again */
	uint8_t key[MCI_TLS_KEY];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static BIO_METHOD *method;
static SSL_CTX *client_ctx, *server_ctx;

static int bio_write(BIO *bio, const char *p, int n)
{
	struct tls *tls = BIO_get_data(bio);
	ssize_t done;

	BIO_clear_retry_flags(bio);
	do {
		done = send(tls->fd, p, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (done < 0 && errno == EINTR);
	if (done < 0 && errno == EAGAIN)
		BIO_set_retry_write(bio);
	else if (done < 0)
		tls->err = errno;
	return (int)done;
}

static int bio_read(BIO *bio, char *p, int n)
{
	struct tls *tls = BIO_get_data(bio);
	ssize_t done;

	BIO_clear_retry_flags(bio);
	do {
		done = recv(tls->fd, p, (size_t)n, MSG_DONTWAIT);
	} while (done < 0 && errno == EINTR);
	if (done < 0 && errno == EAGAIN)
		BIO_set_retry_read(bio);
	else if (done < 0)
		tls->err = errno;
	else if (!done)
		tls->eof = true;
	return (int)done;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	struct tls *tls = BIO_get_data(bio);

	(void)number;
	(void)pointer;
	switch (command) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		return tls->eof;
	default:
		return 0;
	}
}

/* The session both sides pretend to resume: cipher and key are fixed by what they share. */
static SSL_SESSION *make_session(SSL *ssl)
{
	static const unsigned char aes_128_gcm_sha256[2] = {0x13, 0x01};
	const struct tls *tls = SSL_get_app_data(ssl);
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, aes_128_gcm_sha256);
	SSL_SESSION *session = SSL_SESSION_new();

	if (session && cipher && SSL_SESSION_set1_master_key(session, tls->key, sizeof(tls->key)) &&
	    SSL_SESSION_set_cipher(session, cipher) &&
	    SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
		return session;
	SSL_SESSION_free(session);
	return NULL;
}

static int use_session(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_length,
		       SSL_SESSION **session)
{
	*session = NULL;
	if (md && EVP_MD_get_type(md) != NID_sha256)
		return 1; /* a retry with another hash: we have no session for it */
	*session = make_session(ssl);
	*id = (const unsigned char *)IDENTITY;
	*id_length = strlen(IDENTITY);
	return *session != NULL;
}

static int find_session(SSL *ssl, const unsigned char *id, size_t id_length, SSL_SESSION **session)
{
	*session = NULL;
	if (id_length == strlen(IDENTITY) && !memcmp(id, IDENTITY, id_length))
		*session = make_session(ssl);
	return 1;
}

/* A certificate proves nothing here. */
static int refuse_certificate(int ok, X509_STORE_CTX *store)
{
	(void)ok;
	(void)store;
	return 0;
}

static SSL_CTX *make_ctx(const SSL_METHOD *kind)
{
	SSL_CTX *ctx = SSL_CTX_new(kind);

	if (!ctx)
		return NULL;
	if (!SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") || !SSL_CTX_set_num_tickets(ctx, 0)) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_psk_use_session_callback(ctx, use_session);
	SSL_CTX_set_psk_find_session_callback(ctx, find_session);
	return ctx;
}

static void set_up(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mooncake socket");
	if (!method)
		return;
	BIO_meth_set_write(method, bio_write);
	BIO_meth_set_read(method, bio_read);
	BIO_meth_set_ctrl(method, bio_ctrl);
	client_ctx = make_ctx(TLS_client_method());
	if (client_ctx)
		SSL_CTX_set_verify(client_ctx, SSL_VERIFY_PEER, refuse_certificate);
	server_ctx = make_ctx(TLS_server_method());
}

int mci_tls_start(struct mci_sock *sock, bool server, const uint8_t key[MCI_TLS_KEY])
{
	struct tls *tls;
	BIO *bio;

	pthread_once(&once, set_up);
	if (!client_ctx || !server_ctx)
		return mci_fail(-EOPNOTSUPP, "OpenSSL on this machine cannot do TLS 1.3 with AES-128-GCM, "
					     "which integrity on the path needs");
	tls = calloc(1, sizeof(*tls));
	if (!tls)
		return mci_fail(-ENOMEM, "no memory for a TLS session");
	tls->fd = sock->fd;
	tls->wants = server ? POLLIN : POLLOUT;
	memcpy(tls->key, key, sizeof(tls->key));
	tls->ssl = SSL_new(server ? server_ctx : client_ctx);
	if (!tls->ssl)
		goto err_free;
	bio = BIO_new(method);
	if (!bio)
		goto err_free_ssl;
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	SSL_set_app_data(tls->ssl, tls);
	if (server)
		SSL_set_accept_state(tls->ssl);
	else
		SSL_set_connect_state(tls->ssl);
	pthread_mutex_init(&tls->lock, NULL);
	sock->tls = tls;
	return 0;

err_free_ssl:
	SSL_free(tls->ssl);
err_free:
	OPENSSL_cleanse(tls->key, sizeof(tls->key));
	free(tls);
	return mci_fail(-ENOMEM, "no memory for a TLS session");
}

/* After an SSL call that failed: 0 = orderly end, -EAGAIN, or why the stream is over. Lock held. */
static int classify(struct tls *tls, int code)
{
	switch (SSL_get_error(tls->ssl, code)) {
	case SSL_ERROR_WANT_READ:
		tls->wants = POLLIN;
		return -EAGAIN;
	case SSL_ERROR_WANT_WRITE:
		tls->wants = POLLOUT;
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		if (tls->err)
			return -tls->err;
		/* An end without good-bye may have been cut by somebody on the path. */
		return tls->eof ? -ECONNRESET : -EBADMSG;
	}
}

int mci_tls_handshake(struct mci_sock *sock)
{
	char peer[MCI_ADDR_TEXT + 64], why[160] = "";
	struct tls *tls = sock->tls;
	unsigned long error;
	bool by_key;
	int code, ret;

	pthread_mutex_lock(&tls->lock);
	ERR_clear_error();
	code = SSL_do_handshake(tls->ssl);
	ret = code == 1 ? 0 : classify(tls, code);
	if (code != 1 && !ret)
		ret = -ECONNRESET;
	/* Both sides insist that it was the key that let the other in. */
	by_key = SSL_session_reused(tls->ssl);
	error = ERR_peek_error();
	pthread_mutex_unlock(&tls->lock);
	if (ret == -EAGAIN)
		return ret;
	mci_peer_text(sock->fd, peer, sizeof(peer));
	if (!ret && !by_key)
		return mci_fail(
			-EKEYREJECTED,
			"TLS with %s came up without the shared key; somebody on the path answers for it",
			peer);
	if (!ret)
		return 0;
	if (error)
		ERR_error_string_n(error, why, sizeof(why));
	return mci_fail(ret, "TLS with %s failed: %s", peer, why[0] ? why : strerror(-ret));
}

int mci_tls_handshake_wait(struct mci_sock *sock, uint64_t deadline_ns)
{
	char peer[MCI_ADDR_TEXT + 64];
	struct pollfd wait = {.fd = sock->fd};
	int ret;

	while ((ret = mci_tls_handshake(sock)) == -EAGAIN) {
		int left = mci_ms_left(deadline_ns);

		if (!left) {
			mci_peer_text(sock->fd, peer, sizeof(peer));
			return mci_fail(-ETIMEDOUT, "TLS with %s was not up in time", peer);
		}
		wait.events = mci_tls_wants(sock);
		poll(&wait, 1, left);
	}
	return ret;
}

short mci_tls_wants(const struct mci_sock *sock)
{
	struct tls *tls = sock->tls;
	short wants;

	pthread_mutex_lock(&tls->lock);
	wants = tls->wants;
	pthread_mutex_unlock(&tls->lock);
	return wants;
}

/* What the next record is made of: bytes [skip, ...) of @iov; gathered into @buffer where pieces are small.
 */
static size_t next_record(const struct iovec *iov, int count, size_t skip, size_t want, uint8_t *buffer,
			  const uint8_t **record)
{
	size_t used = 0;

	for (; count; iov++, count--) {
		size_t n = iov->iov_len;
		const uint8_t *p = iov->iov_base;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		p += skip;
		n -= skip;
		skip = 0;
		if (!used && n >= want) {
			*record = p;
			return want;
		}
		if (n > want - used)
			n = want - used;
		memcpy(buffer + used, p, n);
		used += n;
		if (used == want)
			break;
	}
	*record = buffer;
	return used;
}

ssize_t mci_tls_sendv(struct mci_sock *sock, const struct iovec *iov, int count)
{
	struct tls *tls = sock->tls;
	uint8_t buffer[RECORD_MAX];
	const uint8_t *record;
	size_t sent = 0;
	ssize_t ret = 0;

	pthread_mutex_lock(&tls->lock);
	for (;;) {
		size_t n =
			next_record(iov, count, sent, tls->retry ? tls->retry : RECORD_MAX, buffer, &record);
		int code;

		if (!n)
			break;
		if (n < tls->retry) {
			ret = -EINVAL; /* less than what was begun: the caller changed its mind */
			break;
		}
		ERR_clear_error();
		code = SSL_write(tls->ssl, record, (int)n);
		if (code > 0) {
			tls->retry = 0;
			sent += (size_t)code;
			continue;
		}
		ret = classify(tls, code);
		if (!ret)
			ret = -EPIPE;
		if (ret == -EAGAIN)
			tls->retry = n;
		break;
	}
	pthread_mutex_unlock(&tls->lock);
	return sent ? (ssize_t)sent : ret;
}

ssize_t mci_tls_recvv(struct mci_sock *sock, const struct iovec *iov, int count)
{
	struct tls *tls = sock->tls;
	size_t got = 0, at = 0;
	ssize_t ret = 0;

	pthread_mutex_lock(&tls->lock);
	while (count) {
		size_t room = iov->iov_len - at;
		int code;

		if (!room) {
			iov++;
			count--;
			at = 0;
			continue;
		}
		ERR_clear_error();
		code = SSL_read(tls->ssl, (char *)iov->iov_base + at,
				room > INT32_MAX ? INT32_MAX : (int)room);
		if (code <= 0) {
			ret = classify(tls, code);
			break;
		}
		at += (size_t)code;
		got += (size_t)code;
	}
	pthread_mutex_unlock(&tls->lock);
	return got ? (ssize_t)got : ret;
}

void mci_tls_end(struct mci_sock *sock)
{
	struct tls *tls = sock->tls;

	ERR_clear_error();
	/* Not after an error, nor behind half a record: OpenSSL refuses both. */
	if (SSL_is_init_finished(tls->ssl) && !tls->err && !tls->eof && !tls->retry)
		SSL_shutdown(tls->ssl);
	SSL_free(tls->ssl);
	ERR_clear_error();
	pthread_mutex_destroy(&tls->lock);
	OPENSSL_cleanse(tls->key, sizeof(tls->key));
	free(tls);
	sock->tls = NULL;
}
