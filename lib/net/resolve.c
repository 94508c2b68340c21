// SPDX-License-Identifier: MIT
/*
 * Name resolution within a deadline.
 * Lock order: resolve->lock is a leaf. Waiter and thread hold one reference each; the last frees.
 */
#include "net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "net/loop.h"
#include "net/sock.h"

#define LOOKUPS_MAX 64 /* threads waiting for name servers, in the whole process */

struct mci_resolve {
	char host[MCI_HOST_MAX];
	uint16_t port;
	int fd; /* -1: was a literal */
	pthread_mutex_t lock;
	unsigned int users;
	bool done;
	int code; /* of getaddrinfo() */
	int count;
	struct mci_addr addrs[MCI_RESOLVE_MAX];
};

static atomic_int lookups;

static void put(struct mci_resolve *resolve)
{
	bool last;

	pthread_mutex_lock(&resolve->lock);
	last = !--resolve->users;
	pthread_mutex_unlock(&resolve->lock);
	if (!last)
		return;
	if (resolve->fd >= 0)
		close(resolve->fd);
	pthread_mutex_destroy(&resolve->lock);
	free(resolve);
}

bool mci_addr_literal(const char *host, uint16_t port, struct mci_addr *addr)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&addr->sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&addr->sa;
	const char *zone = strchr(host, '%');
	char bare[INET6_ADDRSTRLEN];

	memset(addr, 0, sizeof(*addr));
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		addr->length = sizeof(*v4);
		return true;
	}
	if (zone) {
		if ((size_t)(zone - host) >= sizeof(bare))
			return false;
		memcpy(bare, host, (size_t)(zone - host));
		bare[zone - host] = '\0';
		v6->sin6_scope_id = if_nametoindex(zone + 1);
		if (!v6->sin6_scope_id)
			v6->sin6_scope_id = (uint32_t)strtoul(zone + 1, NULL, 10);
		host = bare;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
		return false;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	addr->length = sizeof(*v6);
	return true;
}

static void *look_up(void *arg)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct mci_resolve *resolve = arg;
	struct addrinfo *list = NULL, *item;
	static const uint64_t one = 1;
	char service[8];
	int code;

	snprintf(service, sizeof(service), "%u", resolve->port);
	code = getaddrinfo(resolve->host, service, &hints, &list);

	pthread_mutex_lock(&resolve->lock);
	resolve->code = code;
	for (item = code ? NULL : list; item && resolve->count < MCI_RESOLVE_MAX; item = item->ai_next) {
		struct mci_addr *addr = &resolve->addrs[resolve->count];

		if (item->ai_family != AF_INET && item->ai_family != AF_INET6)
			continue;
		memcpy(&addr->sa, item->ai_addr, item->ai_addrlen);
		addr->length = item->ai_addrlen;
		resolve->count++;
	}
	resolve->done = true;
	pthread_mutex_unlock(&resolve->lock);
	if (!code)
		freeaddrinfo(list);
	if (write(resolve->fd, &one, sizeof(one)) < 0)
		code = 0; /* cannot happen on a fresh eventfd; the waiter has its deadline */
	put(resolve);
	atomic_fetch_sub(&lookups, 1);
	return NULL;
}

int mci_resolve_start(const char *host, uint16_t port, struct mci_resolve **out)
{
	struct mci_resolve *resolve;
	int ret;

	if (!host[0] || strlen(host) >= MCI_HOST_MAX)
		return mci_fail(-EINVAL, "'%.64s' is no host name or address", host);
	resolve = calloc(1, sizeof(*resolve));
	if (!resolve)
		return mci_fail(-ENOMEM, "no memory to look up host '%s'", host);
	resolve->fd = -1;
	resolve->users = 1;
	resolve->port = port;
	snprintf(resolve->host, sizeof(resolve->host), "%s", host);
	pthread_mutex_init(&resolve->lock, NULL);
	if (mci_addr_literal(host, port, &resolve->addrs[0])) {
		resolve->count = 1;
		resolve->done = true;
		*out = resolve;
		return 0;
	}

	if (atomic_fetch_add(&lookups, 1) >= LOOKUPS_MAX) {
		ret = mci_fail(-EAGAIN,
			       "cannot look up host '%s': %d look-ups wait for the name server already", host,
			       LOOKUPS_MAX);
		goto err_uncount;
	}
	resolve->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (resolve->fd < 0) {
		ret = mci_fail(-errno, "cannot look up host '%s': %s", host, strerror(errno));
		goto err_uncount;
	}
	resolve->users = 2;
	ret = mci_thread_start(NULL, look_up, resolve);
	if (ret) {
		resolve->users = 1;
		ret = mci_fail(ret, "cannot look up host '%s': no thread: %s", host, strerror(-ret));
		goto err_uncount;
	}
	*out = resolve;
	return 0;

err_uncount:
	atomic_fetch_sub(&lookups, 1);
	put(resolve);
	return ret;
}

int mci_resolve_fd(const struct mci_resolve *resolve) { return resolve->fd; }

static int explain(const char *host, int code)
{
	switch (code) {
	case EAI_NONAME:
#if EAI_NODATA != EAI_NONAME
	case EAI_NODATA:
#endif
		return mci_fail(-EHOSTUNREACH,
				"host '%s' is not known: check the spelling, /etc/hosts and DNS", host);
	case EAI_AGAIN:
		return mci_fail(-EHOSTUNREACH, "cannot look up host '%s': the name server does not answer",
				host);
	case EAI_MEMORY:
		return mci_fail(-ENOMEM, "no memory to look up host '%s'", host);
	default:
		return mci_fail(-EHOSTUNREACH, "cannot look up host '%s': %s", host, gai_strerror(code));
	}
}

int mci_resolve_result(struct mci_resolve *resolve, struct mci_addr addrs[MCI_RESOLVE_MAX])
{
	int count, code;
	bool done;

	pthread_mutex_lock(&resolve->lock);
	done = resolve->done;
	count = resolve->count;
	code = resolve->code;
	pthread_mutex_unlock(&resolve->lock);
	if (!done)
		return -EAGAIN;
	if (code)
		return explain(resolve->host, code);
	if (!count)
		return mci_fail(-EHOSTUNREACH, "host '%s' has no address", resolve->host);
	memcpy(addrs, resolve->addrs, (size_t)count * sizeof(addrs[0]));
	return count;
}

void mci_resolve_end(struct mci_resolve *resolve)
{
	if (resolve)
		put(resolve);
}

int mci_resolve_host(const char *host, uint16_t port, uint64_t deadline_ns,
		     struct mci_addr addrs[MCI_RESOLVE_MAX])
{
	struct mci_resolve *resolve;
	struct pollfd wait;
	int ret;

	ret = mci_resolve_start(host, port, &resolve);
	if (ret)
		return ret;
	wait.fd = mci_resolve_fd(resolve);
	wait.events = POLLIN;
	while ((ret = mci_resolve_result(resolve, addrs)) == -EAGAIN) {
		int left = mci_ms_left(deadline_ns);

		if (!left) {
			ret = mci_fail(-ETIMEDOUT,
				       "cannot look up host '%s': the name server did not answer in time",
				       host);
			break;
		}
		poll(&wait, 1, left);
	}
	mci_resolve_end(resolve);
	return ret;
}
