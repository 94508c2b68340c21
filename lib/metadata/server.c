// SPDX-License-Identifier: MIT
/* The metadata server as the public interface has it: who may reach it, its keys, its HTTP face. */
#include <mooncake/admin.h>

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/log.h"
#include "metadata/server_http.h"
#include "net/auth.h"
#include "net/sock.h"

#define MAX_BYTES (1ull << 30)
#define MAX_IN_FLIGHT (256ull << 20) /* uploads, lists, replaced values still being sent */
#define PEM_MAX (1u << 20)

struct mc_metadata_server {
	struct mci_keystore *store;
	struct mci_http *http;
	uint16_t port;
};

static int check_attr(const struct mc_metadata_server_attr *attr)
{
	unsigned int i;

	if (!attr || attr->size < sizeof(*attr))
		return mci_fail(-EINVAL, "struct mc_metadata_server_attr was not set up; begin with "
					 "MC_METADATA_SERVER_ATTR_INIT");
	if (attr->size > sizeof(*attr))
		return mci_fail(-E2BIG, "the caller was built for a newer libmooncake than %s", mc_version());
	if (attr->flags & ~MC_METADATA_SERVER_INSECURE)
		return mci_fail(-EINVAL, "flags 0x%x of the metadata server are not known to libmooncake %s",
				attr->flags, mc_version());
	for (i = 0; i < sizeof(attr->reserved) / sizeof(attr->reserved[0]); i++)
		if (attr->reserved[i] || attr->reserved0)
			return mci_fail(-EINVAL,
					"reserved members of struct mc_metadata_server_attr must be zero");
	if (!attr->cert_file != !attr->cert_key_file)
		return mci_fail(-EINVAL,
				"TLS needs both a certificate (--cert_file) and its key (--cert_key_file)");
	return 0;
}

/* Bearer tokens travel over TLS or loopback only; without a key only loopback is served. */
static int check_exposure(const struct mc_metadata_server_attr *attr, const char *bind, const char *key_file)
{
	if (mci_host_is_loopback(bind))
		return 0;
	if (attr->flags & MC_METADATA_SERVER_INSECURE) {
		mci_warn("the metadata server on %s is %s: whoever reaches it there can %s", bind,
			 key_file && attr->cert_file ? "insecure by flag"
			 : key_file		     ? "without TLS"
						     : "open to all",
			 key_file ? "listen for the cluster's metadata token"
				  : "read and change all metadata");
		return 0;
	}
	if (!key_file)
		return mci_fail(
			-EPERM,
			"the metadata server would be open to everyone who can reach %s; give a cluster key "
			"(--key_file, made by 'mooncake key new'), or allow it with --insecure",
			bind);
	if (!attr->cert_file)
		return mci_fail(-EPERM,
				"the metadata token would cross the network to %s in clear text; give a TLS "
				"certificate (--cert_file, --cert_key_file), or allow it with --insecure",
				bind);
	return 0;
}

static int read_file(const char *path, char **text)
{
	FILE *file = fopen(path, "re");
	size_t n;

	if (!file)
		return mci_fail(-errno, "'%s' cannot be read: %s", path, strerror(errno));
	*text = calloc(1, PEM_MAX + 1);
	n = *text ? fread(*text, 1, PEM_MAX + 1, file) : 0;
	fclose(file);
	if (*text && n && n <= PEM_MAX)
		return 0;
	free(*text);
	*text = NULL;
	return mci_fail(-EINVAL, "'%s' is empty or longer than 1 MiB: no PEM file", path);
}

static int tls_fail(const char *what, const char *path)
{
	char why[200];

	ERR_error_string_n(ERR_peek_last_error(), why, sizeof(why));
	ERR_clear_error();
	return mci_fail(-EINVAL, "%s '%s' cannot be used: %s", what, path, why);
}

/* libmicrohttpd only says "no"; OpenSSL says which file is wrong, and whether the two belong together. */
static int check_tls(const struct mc_metadata_server_attr *attr)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	int ret = 0;

	if (!ctx)
		return mci_fail(-ENOMEM, "no memory for TLS");
	if (SSL_CTX_use_certificate_chain_file(ctx, attr->cert_file) != 1)
		ret = tls_fail("certificate", attr->cert_file);
	else if (SSL_CTX_use_PrivateKey_file(ctx, attr->cert_key_file, SSL_FILETYPE_PEM) != 1)
		ret = tls_fail("certificate's key", attr->cert_key_file);
	SSL_CTX_free(ctx);
	return ret;
}

static int load_tls(const struct mc_metadata_server_attr *attr, char **cert, char **cert_key)
{
	int ret = 0;

	if (!attr->cert_file)
		return 0;
	ret = read_file(attr->cert_file, cert);
	if (!ret)
		ret = read_file(attr->cert_key_file, cert_key);
	return ret ? ret : check_tls(attr);
}

static void free_secret(char *text)
{
	if (text)
		OPENSSL_cleanse(text, strlen(text));
	free(text);
}

static int load_bearer(const char *key_file, char bearer[65])
{
	struct mci_secret secret;
	int ret;

	if (!key_file)
		return 0;
	ret = mci_key_load(key_file, &secret);
	if (ret)
		return ret;
	mci_key_bearer(&secret, "metadata", bearer);
	OPENSSL_cleanse(&secret, sizeof(secret));
	return 0;
}

static int open_store(const struct mc_metadata_server_attr *attr, struct mci_keystore **store)
{
	sigset_t all, before;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* threads of the store take no signals */
	ret = mci_keystore_open(attr->log_file, attr->max_bytes ? attr->max_bytes : MAX_BYTES, MAX_IN_FLIGHT,
				store);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

/**
 * mc_metadata_server_open() - serve metadata over HTTP until mc_metadata_server_close()
 * @attr: how; key_file NULL = $MOONCAKE_KEY_FILE, else none
 * @server: the server, on success
 *
 * Threads of its own answer; the caller's threads are free. Beyond loopback it needs a cluster key and
 * TLS, or MC_METADATA_SERVER_INSECURE.
 *
 * Return: 0; -EINVAL: attributes, certificate or key file; -EPERM: the address is not loopback and it is
 * not secured; -EADDRINUSE; -EBUSY: the log file is held by another server; -EBADMSG: it is no log file,
 * or its header is damaged; -EACCES, -ENOENT, -EIO, -ENOMEM: as the system says. mc_errmsg() has the
 * sentence.
 */
int mc_metadata_server_open(const struct mc_metadata_server_attr *attr, mc_metadata_server **out)
{
	struct mci_http_attr http = {.listen_fd = -1};
	mc_metadata_server *server;
	char *cert = NULL, *cert_key = NULL;
	char bearer[65] = "";
	const char *bind, *key_file;
	int ret;

	mci_log_init();
	ret = check_attr(attr);
	if (ret)
		return ret;
	bind = attr->bind && *attr->bind ? attr->bind : "127.0.0.1";
	key_file = attr->key_file ? attr->key_file : getenv("MOONCAKE_KEY_FILE");
	if (key_file && !*key_file)
		key_file = NULL;
	server = calloc(1, sizeof(*server));
	if (!server)
		return mci_fail(-ENOMEM, "no memory for a metadata server");
	ret = check_exposure(attr, bind, key_file);
	if (!ret)
		ret = load_bearer(key_file, bearer);
	if (!ret)
		ret = load_tls(attr, &cert, &cert_key);
	if (ret)
		goto err_free;
	server->port = attr->port;
	ret = mci_listen(bind, &server->port, 0, 0, &http.listen_fd);
	if (ret)
		goto err_free;
	ret = open_store(attr, &server->store);
	if (ret) {
		close(http.listen_fd);
		goto err_free;
	}
	http.store = server->store;
	http.bearer = key_file ? bearer : NULL;
	http.cert = cert;
	http.cert_key = cert_key;
	ret = mci_http_start(&http, &server->http);
	if (ret) {
		mci_keystore_close(server->store);
		goto err_free;
	}
	free_secret(cert_key);
	free(cert);
	OPENSSL_cleanse(bearer, sizeof(bearer));
	*out = server;
	return 0;

err_free:
	free_secret(cert_key);
	free(cert);
	OPENSSL_cleanse(bearer, sizeof(bearer));
	free(server);
	return ret;
}

/** mc_metadata_server_port() - the port it listens on; useful when 0 was asked for */
uint16_t mc_metadata_server_port(const mc_metadata_server *server) { return server->port; }

/**
 * mc_metadata_server_close() - stop serving, bring the log file to the disk, free
 *
 * Requests under way are cut off; those that wait for a change are answered first. NULL is fine.
 * Return: 0.
 */
int mc_metadata_server_close(mc_metadata_server *server)
{
	if (!server)
		return 0;
	mci_http_stop(server->http);
	mci_keystore_close(server->store);
	free(server);
	return 0;
}
