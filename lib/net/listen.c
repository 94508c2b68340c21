// SPDX-License-Identifier: MIT
/* Listening sockets: TCP on both address families, and abstract unix sockets. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/uuid.h"
#include "net/addr.h"
#include "net/sock.h"

#define BACKLOG 1024

static void set_port(struct mci_addr *addr, uint16_t port)
{
	if (addr->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&addr->sa)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)&addr->sa)->sin_port = htons(port);
}

/* A socket bound and listening, or -errno without a sentence. */
static int listen_on(struct mci_addr *addr, uint16_t port)
{
	static const int on = 1, off = 0;
	int fd, ret;

	fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (addr->sa.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	set_port(addr, port);
	/* With SO_REUSEADDR two sockets may bind the same port; only one of them may listen. */
	if (bind(fd, (struct sockaddr *)&addr->sa, addr->length) || listen(fd, BACKLOG)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	return fd;
}

static int explain(int ret, const char *bind_text, uint16_t port)
{
	switch (ret) {
	case -EADDRINUSE:
		return mci_fail(ret,
				"port %u is in use by another program (ss -ltnp 'sport = :%u' shows which); "
				"choose another port, or none for a free one",
				port, port);
	case -EADDRNOTAVAIL:
		return mci_fail(ret,
				"cannot listen on '%s': no interface of this host has that address (ip "
				"address shows them)",
				bind_text);
	case -EACCES:
		return mci_fail(ret,
				"cannot listen on port %u: ports below 1024 need CAP_NET_BIND_SERVICE; "
				"choose a higher one",
				port);
	default:
		return mci_fail(ret, "cannot listen on '%s' port %u: %s", bind_text, port, strerror(-ret));
	}
}

static int listen_in_range(struct mci_addr *addr, uint16_t low, uint16_t high, uint16_t *port)
{
	uint32_t span = (uint32_t)high - low + 1, start, i;
	int fd = -EADDRINUSE;

	/* A random start: processes that come up together do not all walk the same ports. */
	mci_random(&start, sizeof(start));
	for (i = 0; i < span; i++) {
		*port = (uint16_t)(low + (start % span + i) % span);
		fd = listen_on(addr, *port);
		if (fd != -EADDRINUSE && fd != -EACCES)
			break;
	}
	return fd;
}

static int listen_addr(struct mci_addr *addr, uint16_t want, uint16_t low, uint16_t high, uint16_t *port)
{
	struct mci_addr bound = {.length = sizeof(bound.sa)};
	int fd;

	*port = want;
	if (!want && low)
		return listen_in_range(addr, low, high, port);
	fd = listen_on(addr, want);
	if (fd >= 0 && !want) {
		getsockname(fd, (struct sockaddr *)&bound.sa, &bound.length);
		*port = ntohs(bound.sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound.sa)->sin6_port
							     : ((struct sockaddr_in *)&bound.sa)->sin_port);
	}
	return fd;
}

int mci_listen(const char *bind_text, uint16_t *port, uint16_t low, uint16_t high, int *out)
{
	struct mci_addr addrs[MCI_RESOLVE_MAX];
	uint16_t taken = 0;
	int count, i, fd = -EADDRNOTAVAIL;

	if (!*port && low > high)
		return mci_fail(-EINVAL,
				"port range %u-%u is empty: the first number must not be above the second",
				low, high);
	if (bind_text && bind_text[0]) {
		count = mci_resolve_host(bind_text, 0, mci_now_ns() + 3 * MCI_NS_PER_S, addrs);
		if (count < 0)
			return count;
	} else {
		/* "::" serves IPv4 too; on a host without IPv6 the second takes its place. */
		bind_text = "all addresses";
		mci_addr_literal("::", 0, &addrs[0]);
		mci_addr_literal("0.0.0.0", 0, &addrs[1]);
		count = 2;
	}
	for (i = 0; i < count && fd < 0; i++) {
		fd = listen_addr(&addrs[i], *port, low, high, &taken);
		if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL)
			break;
	}
	if (fd == -EADDRINUSE && !*port && low)
		return mci_fail(fd, "all ports from %u to %u are in use; widen the port range or give a port",
				low, high);
	if (fd < 0)
		return explain(fd, bind_text, *port ? *port : taken);
	*port = taken;
	*out = fd;
	return 0;
}

static int unix_address(const char *name, struct mci_addr *addr)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&addr->sa;
	size_t length;

	if (name[0] == '@')
		name++;
	length = strlen(name);
	if (!length || length > sizeof(un->sun_path) - 1)
		return mci_fail(-EINVAL, "'%.200s' is no name for a unix socket: it takes 1 to %zu bytes",
				name, sizeof(un->sun_path) - 1);
	memset(addr, 0, sizeof(*addr));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path + 1, name, length);
	addr->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
	return 0;
}

int mci_unix_listen(const char *name, int *out)
{
	struct mci_addr addr;
	int fd, ret;

	ret = unix_address(name, &addr);
	if (ret)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return mci_fail(-errno, "cannot create a unix socket: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&addr.sa, addr.length) || listen(fd, BACKLOG)) {
		ret = -errno;
		close(fd);
		return mci_fail(ret, "cannot listen on unix socket '%s': %s", name, strerror(-ret));
	}
	*out = fd;
	return 0;
}

int mci_unix_connect(const char *name, uint64_t deadline_ns, int *out)
{
	struct mci_addr addr;
	int fd, ret;

	ret = unix_address(name, &addr);
	if (ret)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return mci_fail(-errno, "cannot create a unix socket: %s", strerror(errno));
	/* A unix connect is done at once, or its backlog is full (EAGAIN), which no poll() tells the end of.
	 */
	while (connect(fd, (struct sockaddr *)&addr.sa, addr.length)) {
		static const struct timespec pause = {.tv_nsec = 2 * MCI_NS_PER_MS};

		ret = -errno;
		if (ret == -EINTR)
			continue;
		if (ret == -EAGAIN && mci_ms_left(deadline_ns)) {
			nanosleep(&pause, NULL);
			continue;
		}
		close(fd);
		if (ret == -EAGAIN)
			ret = -ETIMEDOUT;
		return mci_fail(ret,
				"cannot connect to unix socket '%s': %s; is the peer running on this host, "
				"in this network namespace?",
				name, strerror(-ret));
	}
	*out = fd;
	return 0;
}
