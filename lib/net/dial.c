// SPDX-License-Identifier: MIT
/*
 * Connecting to a peer with several addresses ("happy eyeballs"): one attempt after the other, 250 ms
 * apart or as soon as one fails, all in flight until the first is up. Names are looked up meanwhile.
 * One thread.
 */
#include "net/dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/errors.h"
#include "net/addr.h"
#include "net/sock.h"

#define HOSTS_MAX 16
#define ATTEMPTS_MAX 32
#define STAGGER_NS (250 * MCI_NS_PER_MS)

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

struct attempt {
	struct mci_addr addr;
	int fd;	 /* -1: not begun, or over */
	int err; /* positive errno once it failed; 0: not begun, in flight, or was handed out */
};

struct mci_dial {
	uint16_t port;
	bool has_source;
	struct mci_addr source;
	struct mci_resolve *resolves[HOSTS_MAX]; /* NULL: finished */
	unsigned int resolve_count;
	struct attempt attempts[ATTEMPTS_MAX];
	unsigned int count, begun;
	uint64_t next_ns;
	int name_err; /* of a name that could not be looked up */
	char name_text[300];
};

static void keep_name_error(struct mci_dial *dial, int err)
{
	dial->name_err = err;
	snprintf(dial->name_text, sizeof(dial->name_text), "%s", mc_errmsg());
}

int mci_dial_open(const char *const *hosts, unsigned int count, uint16_t port, const char *source,
		  struct mci_dial **out)
{
	struct mci_dial *dial;
	unsigned int i;
	int ret;

	if (!count || !port)
		return mci_fail(-EINVAL, "no %s to connect to", count ? "port" : "address");
	dial = calloc(1, sizeof(*dial));
	if (!dial)
		return mci_fail(-ENOMEM, "no memory to connect to '%s'", hosts[0]);
	dial->port = port;
	if (source && source[0]) {
		dial->has_source = mci_addr_literal(source, 0, &dial->source);
		if (!dial->has_source) {
			ret = mci_fail(-EINVAL, "source address '%s' is no IP address", source);
			goto err_free;
		}
	}
	for (i = 0; i < count && dial->resolve_count < HOSTS_MAX; i++) {
		ret = mci_resolve_start(hosts[i], port, &dial->resolves[dial->resolve_count]);
		if (ret)
			keep_name_error(dial, ret);
		else
			dial->resolve_count++;
	}
	*out = dial;
	return 0;

err_free:
	free(dial);
	return ret;
}

void mci_dial_close(struct mci_dial *dial)
{
	unsigned int i;

	if (!dial)
		return;
	for (i = 0; i < dial->begun; i++)
		if (dial->attempts[i].fd >= 0)
			close(dial->attempts[i].fd);
	for (i = 0; i < dial->resolve_count; i++)
		mci_resolve_end(dial->resolves[i]);
	free(dial);
}

/* Addresses of names that are known by now, in the order of the hosts as far as they are. */
static bool collect(struct mci_dial *dial)
{
	struct mci_addr addrs[MCI_RESOLVE_MAX];
	bool waiting = false;
	unsigned int i;

	for (i = 0; i < dial->resolve_count; i++) {
		int n, k;

		if (!dial->resolves[i])
			continue;
		n = mci_resolve_result(dial->resolves[i], addrs);
		if (n == -EAGAIN) {
			waiting = true;
			continue;
		}
		if (n < 0)
			keep_name_error(dial, n);
		for (k = 0; k < n && dial->count < ATTEMPTS_MAX; k++) {
			struct attempt *attempt = &dial->attempts[dial->count++];

			attempt->addr = addrs[k];
			attempt->fd = -1;
		}
		mci_resolve_end(dial->resolves[i]);
		dial->resolves[i] = NULL;
	}
	return waiting;
}

static void begin(struct mci_dial *dial, struct attempt *attempt)
{
	static const int on = 1;
	int fd;

	fd = socket(attempt->addr.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		attempt->err = errno;
		return;
	}
	if (dial->has_source) {
		if (dial->source.sa.ss_family != attempt->addr.sa.ss_family) {
			attempt->err = EADDRNOTAVAIL;
			goto err_close;
		}
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
		if (bind(fd, (const struct sockaddr *)&dial->source.sa, dial->source.length)) {
			attempt->err = errno;
			goto err_close;
		}
	}
	if (connect(fd, (const struct sockaddr *)&attempt->addr.sa, attempt->addr.length) &&
	    errno != EINPROGRESS) {
		attempt->err = errno;
		goto err_close;
	}
	attempt->fd = fd;
	return;

err_close:
	close(fd);
}

/*
 * A connect to a free local port in the ephemeral range may draw just that port as its own and meet
 * itself. That is nobody listening.
 */
static bool met_itself(int fd)
{
	struct mci_addr own = {.length = sizeof(own.sa)}, peer = {.length = sizeof(peer.sa)};

	return !getsockname(fd, (struct sockaddr *)&own.sa, &own.length) &&
	       !getpeername(fd, (struct sockaddr *)&peer.sa, &peer.length) && own.length == peer.length &&
	       !memcmp(&own.sa, &peer.sa, own.length);
}

/* What became of an attempt that poll() reported: true if it is up. */
static bool settle(struct attempt *attempt)
{
	int err = 0;
	socklen_t length = sizeof(err);

	if (getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &err, &length))
		err = errno;
	if (!err && met_itself(attempt->fd))
		err = ECONNREFUSED;
	if (!err)
		return true;
	attempt->err = err;
	close(attempt->fd);
	attempt->fd = -1;
	return false;
}

/* None is left or time is up: one sentence with all that was tried; the most telling errno. */
static int give_up(struct mci_dial *dial, bool timed_out)
{
	char text[600], host[MCI_ADDR_TEXT];
	size_t used = 0;
	int ret = timed_out ? -ETIMEDOUT : 0;
	unsigned int i;

	text[0] = '\0';
	for (i = 0; i < dial->begun; i++) {
		struct attempt *attempt = &dial->attempts[i];

		if (attempt->fd < 0 && !attempt->err)
			continue; /* was up, and handed out before */
		if (!timed_out && (!ret || attempt->err == ECONNREFUSED))
			ret = -attempt->err;
		mci_addr_host(&attempt->addr, host, sizeof(host));
		if (used < sizeof(text))
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s: %s",
						 used ? "; " : "", host,
						 attempt->err ? strerror(attempt->err) : "no answer in time");
	}
	if (dial->name_err) {
		if (!ret)
			ret = dial->name_err;
		if (used < sizeof(text))
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", used ? "; " : "",
						 dial->name_text);
	}
	if (!used)
		snprintf(text, sizeof(text),
			 timed_out ? "the deadline passed first" : "no address is left to be tried");
	return mci_fail(
		ret ? ret : -EHOSTUNREACH,
		"cannot connect to port %u (%s); is the peer running, and is the port open in firewalls?",
		dial->port, text);
}

bool mci_dial_more(const struct mci_dial *dial)
{
	unsigned int i;

	for (i = 0; i < dial->resolve_count; i++)
		if (dial->resolves[i])
			return true;
	for (i = 0; i < dial->begun; i++)
		if (dial->attempts[i].fd >= 0)
			return true;
	return dial->begun < dial->count;
}

int mci_dial_next(struct mci_dial *dial, uint64_t deadline_ns, int *fd)
{
	struct pollfd waits[ATTEMPTS_MAX + HOSTS_MAX];
	unsigned int owner[ATTEMPTS_MAX];

	for (;;) {
		bool waiting = collect(dial);
		uint64_t until = deadline_ns;
		unsigned int n = 0, flying, i;

		for (i = 0; i < dial->begun; i++) {
			if (dial->attempts[i].fd < 0)
				continue;
			waits[n].fd = dial->attempts[i].fd;
			waits[n].events = POLLOUT;
			owner[n++] = i;
		}
		if (dial->begun < dial->count && (!n || mci_now_ns() >= dial->next_ns)) {
			begin(dial, &dial->attempts[dial->begun++]);
			dial->next_ns = mci_now_ns() + STAGGER_NS;
			continue;
		}
		flying = n;
		if (!flying && !waiting)
			return give_up(dial, false);
		for (i = 0; i < dial->resolve_count; i++) {
			if (!dial->resolves[i])
				continue;
			waits[n].fd = mci_resolve_fd(dial->resolves[i]);
			waits[n++].events = POLLIN;
		}
		if (dial->begun < dial->count && dial->next_ns < until)
			until = dial->next_ns;
		if (poll(waits, n, mci_ms_left(until)) <= 0) {
			if (mci_now_ns() >= deadline_ns)
				return give_up(dial, true);
			continue;
		}
		for (i = 0; i < flying; i++) {
			struct attempt *attempt = &dial->attempts[owner[i]];

			if (!waits[i].revents || !settle(attempt))
				continue;
			mci_sock_tune(attempt->fd);
			*fd = attempt->fd;
			attempt->fd = -1;
			return 0;
		}
	}
}

int mci_connect_any(const char *const *hosts, unsigned int count, uint16_t port, const char *source,
		    uint64_t deadline_ns, int *fd)
{
	struct mci_dial *dial;
	int ret;

	ret = mci_dial_open(hosts, count, port, source, &dial);
	if (ret)
		return ret;
	ret = mci_dial_next(dial, deadline_ns, fd);
	mci_dial_close(dial);
	return ret;
}
