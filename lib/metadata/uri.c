// SPDX-License-Identifier: MIT
/* Metadata URIs: which backend, which hosts and ports, what they may look like. */
#include "metadata/uri.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "core/uuid.h"

#define P2P "P2PHANDSHAKE"
#define FORMS                                                                                             \
	"etcd://host:2379[,host:2379], host:2379[,host:2379], redis://[user:password@]host[:6379][/db], " \
	"http://host:8080/metadata or " P2P
#define TEXT_MAX 4096

static int refuse(const char *text, const char *why)
{
	char safe[512];

	return mci_fail(-EINVAL, "'%s' is not a metadata server: %s; valid are " FORMS,
			mci_shown_uri(text, safe, sizeof(safe)), why);
}

static bool begins(const char *text, const char *prefix, const char **rest)
{
	size_t n = strlen(prefix);

	if (strncmp(text, prefix, n))
		return false;
	*rest = text + n;
	return true;
}

static bool host_is_valid(const char *host)
{
	bool v6 = strchr(host, ':') != NULL;

	if (!*host)
		return false;
	for (; *host; host++)
		if (!isalnum((unsigned char)*host) && !strchr(v6 ? ":.%-_" : ".-_", *host))
			return false;
	return true;
}

/* @n bytes of @text are "host", "host:port" or "[v6]:port". 0 or -EINVAL, without a sentence. */
static int parse_endpoint(const char *text, size_t n, uint16_t fallback, struct mci_endpoint *endpoint)
{
	char copy[MCI_HOST_MAX + 16];
	struct mci_hostport parsed;

	if (!n || n >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, n);
	copy[n] = 0;
	/* A colon must be followed by a port; "::1" needs its brackets where a port can follow. */
	if (copy[n - 1] == ':' || (copy[0] != '[' && strchr(copy, ':') != strrchr(copy, ':')))
		return -EINVAL;
	if (mci_hostport_parse(copy, &parsed) || !host_is_valid(parsed.host))
		return -EINVAL;
	snprintf(endpoint->host, sizeof(endpoint->host), "%s", parsed.host);
	endpoint->default_port = !parsed.port;
	endpoint->port = parsed.port ? parsed.port : fallback;
	return 0;
}

static int parse_etcd(const char *text, const char *list, bool tls, bool bare, struct mci_uri *uri)
{
	const char *item = list;
	size_t n;

	uri->kind = MCI_METADATA_ETCD;
	for (;; item += n + 1) {
		struct mci_endpoint *endpoint = &uri->endpoints[uri->count];
		const char *end, *host;

		if (uri->count == MCI_URI_ENDPOINTS)
			return refuse(text, "it lists more than 16 servers");
		n = strcspn(item, ",;");
		end = item + n;
		host = item;
		endpoint->tls = tls;
		if (begins(item, "https://", &host))
			endpoint->tls = true;
		else if (begins(item, "http://", &host))
			endpoint->tls = false;
		if (end > host && end[-1] == '/')
			end--;
		if (end <= host)
			return refuse(text, "it has an empty place in its list of servers");
		if (memchr(host, '@', (size_t)(end - host)))
			return refuse(
				text,
				"user and password of etcd are settings of their own and not part of it");
		if (parse_endpoint(host, (size_t)(end - host), MCI_ETCD_PORT, endpoint))
			return refuse(
				text,
				"it needs host:port, with a port from 1 to 65535 (IPv6: [address]:port)");
		if (bare && endpoint->default_port)
			return refuse(text, "it has no port");
		uri->count++;
		if (!item[n])
			return 0;
	}
}

/* Percent-decoding, as a URI may carry any byte in a password. */
static int unescape(const char *text, size_t n, char *out, size_t size)
{
	unsigned char byte;
	size_t used = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		char hex[3] = { 0 };

		byte = (unsigned char)text[i];
		if (byte == '%') {
			if (n - i < 3)
				return -EINVAL;
			memcpy(hex, text + i + 1, 2);
			if (mci_unhex(hex, &byte, 1) || !byte)
				return -EINVAL;
			i += 2;
		}
		if (used + 1 >= size)
			return -EINVAL;
		out[used++] = (char)byte;
	}
	out[used] = 0;
	return 0;
}

static int parse_redis(const char *text, const char *rest, struct mci_uri *uri)
{
	const char *at = strrchr(rest, '@');
	const char *host = at ? at + 1 : rest;
	const char *colon, *slash;
	char *end;
	long db;
	int ret;

	uri->kind = MCI_METADATA_REDIS;
	if (at) {
		colon = memchr(rest, ':', (size_t)(at - rest));
		ret = colon ? unescape(rest, (size_t)(colon - rest), uri->user, sizeof(uri->user)) : 0;
		if (!ret && colon)
			rest = colon + 1;
		if (!ret)
			ret = unescape(rest, (size_t)(at - rest), uri->password, sizeof(uri->password));
		if (ret)
			return refuse(text,
				      "its user or password is too long, or has a % without two hex digits");
		if (!uri->password[0])
			return refuse(text, "it has an '@' but no password before it");
	}
	slash = strchr(host, '/');
	if (slash && slash[1]) {
		db = strtol(slash + 1, &end, 10);
		if (!isdigit((unsigned char)slash[1]) || *end || db > 65535)
			return refuse(text, "what follows the '/' must be the number of a redis database");
		uri->db = (int)db;
	}
	if (parse_endpoint(host, slash ? (size_t)(slash - host) : strlen(host), MCI_REDIS_PORT,
			   &uri->endpoints[0]))
		return refuse(text,
			      "it needs one host:port, with a port from 1 to 65535 (IPv6: [address]:port)");
	uri->count = 1;
	return 0;
}

static int parse_http(const char *text, const char *rest, bool tls, struct mci_uri *uri)
{
	size_t n = strcspn(rest, "/?#");
	const char *at = memrchr(rest, '@', n);
	const char *host = at ? at + 1 : rest;

	uri->kind = MCI_METADATA_HTTP;
	uri->endpoints[0].tls = tls;
	if (parse_endpoint(host, n - (size_t)(host - rest), tls ? 443 : 80, &uri->endpoints[0]))
		return refuse(text,
			      "it needs a host, and a port from 1 to 65535 if any (IPv6: [address]:port)");
	uri->count = 1;
	return 0;
}

static int parse(const char *text, struct mci_uri *uri)
{
	const char *rest;
	const char *c;

	if (!text || !*text)
		return mci_fail(-EINVAL, "no metadata server is given; valid are " FORMS);
	if (strlen(text) > TEXT_MAX)
		return mci_fail(
			-EINVAL,
			"the metadata server's address is longer than %d characters; valid are " FORMS,
			TEXT_MAX);
	for (c = text; *c; c++)
		if ((unsigned char)*c <= ' ' || (unsigned char)*c == 0x7f)
			return refuse(text, "it contains a blank or a control character");
	if (!strcmp(text, P2P)) {
		uri->kind = MCI_METADATA_P2P;
		return 0;
	}
	if (begins(text, "etcd://", &rest))
		return parse_etcd(text, rest, false, false, uri);
	if (begins(text, "etcds://", &rest))
		return parse_etcd(text, rest, true, false, uri);
	if (begins(text, "redis://", &rest))
		return parse_redis(text, rest, uri);
	if (begins(text, "rediss://", &rest))
		return refuse(text, "redis over TLS is not supported (a TLS proxy on this host is)");
	if (begins(text, "http://", &rest))
		return parse_http(text, rest, false, uri);
	if (begins(text, "https://", &rest))
		return parse_http(text, rest, true, uri);
	if (strstr(text, "://"))
		return refuse(text, "it begins with an unknown scheme");
	return parse_etcd(text, text, false, true, uri);
}

int mci_uri_parse(const char *text, struct mci_uri *out)
{
	struct mci_uri uri = { .db = -1 };
	int ret;

	ret = parse(text, &uri);
	if (!ret)
		*out = uri;
	explicit_bzero(uri.password, sizeof(uri.password));
	return ret;
}

int mci_metadata_kind(const char *text, enum mci_metadata_kind *kind)
{
	struct mci_uri uri;
	int ret;

	ret = mci_uri_parse(text, &uri);
	if (!ret)
		*kind = uri.kind;
	return ret;
}

int mci_metadata_host(const char *text, char *host, size_t size)
{
	struct mci_uri uri;
	int ret;

	ret = mci_uri_parse(text, &uri);
	if (ret)
		return ret;
	if (!uri.count)
		return mci_fail(-EINVAL, P2P " names no metadata server, so it has no host");
	if (strlen(uri.endpoints[0].host) >= size)
		return mci_fail(-EINVAL, "the host name of the metadata server is longer than %zu characters",
				size - 1);
	snprintf(host, size, "%s", uri.endpoints[0].host);
	return 0;
}
