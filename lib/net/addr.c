// SPDX-License-Identifier: MIT
/* Addresses as text: parsing what users write, and naming peers in sentences. */
#include "net/addr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "net/sock.h"

static int parse_port(const char *text, const char *whole, uint16_t *port)
{
	unsigned int value = 0;
	const char *c;

	for (c = text; isdigit((unsigned char)*c) && value <= 65535; c++)
		value = value * 10 + (unsigned int)(*c - '0');
	if (c == text || *c || value > 65535)
		return mci_fail(-EINVAL,
				"'%.300s' has no valid port behind the colon; a port is a number up to 65535",
				whole);
	*port = (uint16_t)value;
	return 0;
}

static bool name_ok(const char *host)
{
	if (!*host)
		return false;
	for (; *host; host++)
		if (!isalnum((unsigned char)*host) && !strchr(".-_", *host))
			return false;
	return true;
}

int mci_hostport_parse(const char *text, struct mci_hostport *out)
{
	const char *colon = strchr(text, ':');
	struct mci_hostport parsed = {.port = 0};
	struct mci_addr literal;
	size_t length;
	int ret;

	if (text[0] == '[') {
		const char *close_bracket = strchr(text, ']');

		length = close_bracket ? (size_t)(close_bracket - text) - 1 : 0;
		if (!length || length >= sizeof(parsed.host))
			return mci_fail(-EINVAL, "'%.300s' is no address: write IPv6 as [::1] or [::1]:12345",
					text);
		memcpy(parsed.host, text + 1, length);
		if (!mci_addr_literal(parsed.host, 0, &literal) || literal.sa.ss_family != AF_INET6)
			return mci_fail(-EINVAL, "'%.300s' has no IPv6 address between its brackets", text);
		if (close_bracket[1] == ':') {
			ret = parse_port(close_bracket + 2, text, &parsed.port);
			if (ret)
				return ret;
		} else if (close_bracket[1]) {
			return mci_fail(-EINVAL,
					"'%.300s' has something other than a colon and a port behind ']'",
					text);
		}
		*out = parsed;
		return 0;
	}

	if (colon && strchr(colon + 1, ':')) {
		if (strlen(text) >= sizeof(parsed.host) || !mci_addr_literal(text, 0, &literal))
			return mci_fail(-EINVAL, "'%.300s' is no address: write IPv6 as [::1] or [::1]:12345",
					text);
		strcpy(parsed.host, text);
		*out = parsed;
		return 0;
	}

	length = colon ? (size_t)(colon - text) : strlen(text);
	if (length >= sizeof(parsed.host))
		return mci_fail(-EINVAL, "host name '%.64s...' is too long", text);
	memcpy(parsed.host, text, length);
	if (!name_ok(parsed.host))
		return mci_fail(-EINVAL, "'%.300s' is no host or host:port", text);
	if (colon) {
		ret = parse_port(colon + 1, text, &parsed.port);
		if (ret)
			return ret;
	}
	*out = parsed;
	return 0;
}

void mci_hostport_text(const struct mci_hostport *in, char *text, size_t size)
{
	bool v6 = strchr(in->host, ':');

	if (in->port)
		snprintf(text, size, v6 ? "[%s]:%u" : "%s:%u", in->host, in->port);
	else
		snprintf(text, size, v6 ? "[%s]" : "%s", in->host);
}

bool mci_addr_is_loopback(const struct mci_addr *addr)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&addr->sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&addr->sa;

	if (addr->sa.ss_family == AF_INET)
		return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
	if (addr->sa.ss_family != AF_INET6)
		return addr->sa.ss_family == AF_UNIX;
	if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		return v6->sin6_addr.s6_addr[12] == 127;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

bool mci_host_is_loopback(const char *host)
{
	struct mci_addr addrs[MCI_RESOLVE_MAX];
	char bare[MCI_HOST_MAX];
	size_t length = strlen(host);
	int count, i;

	if (length > 2 && length < sizeof(bare) && host[0] == '[' && host[length - 1] == ']') {
		memcpy(bare, host + 1, length - 2);
		bare[length - 2] = '\0';
		host = bare;
	}
	if (!strcasecmp(host, "localhost"))
		return true;
	count = mci_resolve_host(host, 0, mci_now_ns() + 3 * MCI_NS_PER_S, addrs);
	for (i = 0; i < count; i++)
		if (!mci_addr_is_loopback(&addrs[i]))
			return false;
	return count > 0;
}

bool mci_host_is_literal(const char *host)
{
	struct mci_addr addr;

	return mci_addr_literal(host, 0, &addr);
}

int mci_host_check(const char *host)
{
	struct mci_addr addrs[MCI_RESOLVE_MAX];
	int count = mci_resolve_host(host, 0, mci_now_ns() + 3 * MCI_NS_PER_S, addrs);

	return count < 0 ? count : 0;
}

const char *mci_loopback(void)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), err;

	err = fd < 0 ? errno : bind(fd, (const struct sockaddr *)&v4, sizeof(v4)) ? errno : 0;
	if (fd >= 0)
		close(fd);
	return err == EADDRNOTAVAIL || err == EAFNOSUPPORT ? "::1" : "127.0.0.1";
}

void mci_addr_host(const struct mci_addr *addr, char *text, size_t size)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&addr->sa;

	if (addr->sa.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
		if (inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, (socklen_t)size))
			return;
	} else if (!getnameinfo((const struct sockaddr *)&addr->sa, addr->length, text, (socklen_t)size, NULL,
				0, NI_NUMERICHOST)) {
		return;
	}
	snprintf(text, size, "?");
}

void mci_addr_text(const struct mci_addr *addr, char *text, size_t size)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&addr->sa;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&addr->sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&addr->sa;
	struct mci_hostport hp;

	switch (addr->sa.ss_family) {
	case AF_INET:
		hp.port = ntohs(v4->sin_port);
		break;
	case AF_INET6:
		hp.port = ntohs(v6->sin6_port);
		break;
	case AF_UNIX:
		if (addr->length > offsetof(struct sockaddr_un, sun_path) + 1)
			snprintf(text, size, "unix @%.*s",
				 (int)(addr->length - offsetof(struct sockaddr_un, sun_path) - 1),
				 un->sun_path + 1);
		else
			snprintf(text, size, "a unix socket");
		return;
	default:
		snprintf(text, size, "?");
		return;
	}
	mci_addr_host(addr, hp.host, sizeof(hp.host));
	mci_hostport_text(&hp, text, size);
}

void mci_peer_text(int fd, char *text, size_t size)
{
	struct mci_addr addr = {.length = sizeof(addr.sa)};

	if (getpeername(fd, (struct sockaddr *)&addr.sa, &addr.length))
		snprintf(text, size, "a closed peer");
	else
		mci_addr_text(&addr, text, size);
}

/* connect() on a datagram socket only looks up the route. */
int mci_local_address_to(const char *host, char *out, size_t size)
{
	struct mci_addr addrs[MCI_RESOLVE_MAX];
	int count, i, err = EHOSTUNREACH;

	count = mci_resolve_host(host, 9, mci_now_ns() + 3 * MCI_NS_PER_S, addrs);
	if (count < 0)
		return count;
	for (i = 0; i < count; i++) {
		struct mci_addr local = {.length = sizeof(local.sa)};
		int fd = socket(addrs[i].sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		if (fd < 0) {
			err = errno;
			continue;
		}
		if (!connect(fd, (struct sockaddr *)&addrs[i].sa, addrs[i].length) &&
		    !getsockname(fd, (struct sockaddr *)&local.sa, &local.length)) {
			close(fd);
			mci_addr_host(&local, out, size);
			return 0;
		}
		err = errno;
		close(fd);
	}
	return mci_fail(-err, "there is no route to host '%s': %s", host, strerror(err));
}
