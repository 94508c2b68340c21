// SPDX-License-Identifier: MIT
/* A connected stream, plain or TLS: never SIGPIPE, never an endless wait. */
#include "net/sock.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "net/addr.h"
#include "net/tls.h"

ssize_t mci_sock_sendv(struct mci_sock *sock, const struct iovec *iov, int count)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov,
			     .msg_iovlen = (size_t)(count > IOV_MAX ? IOV_MAX : count)};
	ssize_t n;

	if (sock->tls)
		return mci_tls_sendv(sock, iov, count);
	do {
		n = sendmsg(sock->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t mci_sock_recvv(struct mci_sock *sock, const struct iovec *iov, int count)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov,
			     .msg_iovlen = (size_t)(count > IOV_MAX ? IOV_MAX : count)};
	ssize_t n;

	if (sock->tls)
		return mci_tls_recvv(sock, iov, count);
	do {
		n = recvmsg(sock->fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* 0, or -ETIMEDOUT with a sentence. */
static int wait_for(struct mci_sock *sock, short events, uint64_t deadline_ns)
{
	struct pollfd wait = {.fd = sock->fd, .events = sock->tls ? mci_tls_wants(sock) : events};
	char peer[MCI_ADDR_TEXT + 64];
	int left = mci_ms_left(deadline_ns);

	if (left && poll(&wait, 1, left) != 0)
		return 0;
	if (mci_ms_left(deadline_ns))
		return 0;
	mci_peer_text(sock->fd, peer, sizeof(peer));
	return mci_fail(-ETIMEDOUT, "%s did not %s in time", peer,
			events == POLLIN ? "answer" : "take what was sent");
}

static int explain(struct mci_sock *sock, int err)
{
	char peer[MCI_ADDR_TEXT + 64];

	mci_peer_text(sock->fd, peer, sizeof(peer));
	return mci_fail(err, "the connection to %s broke: %s", peer, strerror(-err));
}

int mci_sock_send_all(struct mci_sock *sock, const void *p, size_t n, uint64_t deadline_ns)
{
	struct iovec iov = {.iov_base = (void *)p, .iov_len = n};

	while (iov.iov_len) {
		ssize_t done = mci_sock_sendv(sock, &iov, 1);
		int ret;

		if (done == -EAGAIN) {
			ret = wait_for(sock, POLLOUT, deadline_ns);
			if (ret)
				return ret;
			continue;
		}
		if (done < 0)
			return explain(sock, (int)done);
		iov.iov_base = (char *)iov.iov_base + done;
		iov.iov_len -= (size_t)done;
	}
	return 0;
}

int mci_sock_recv_all(struct mci_sock *sock, void *p, size_t n, uint64_t deadline_ns)
{
	struct iovec iov = {.iov_base = p, .iov_len = n};

	while (iov.iov_len) {
		ssize_t done = mci_sock_recvv(sock, &iov, 1);
		int ret;

		if (done == -EAGAIN) {
			ret = wait_for(sock, POLLIN, deadline_ns);
			if (ret)
				return ret;
			continue;
		}
		if (done == 0)
			done = -ECONNRESET;
		if (done < 0)
			return explain(sock, (int)done);
		iov.iov_base = (char *)iov.iov_base + done;
		iov.iov_len -= (size_t)done;
	}
	return 0;
}

void mci_sock_close(struct mci_sock *sock)
{
	if (sock->tls)
		mci_tls_end(sock);
	if (sock->fd >= 0)
		close(sock->fd);
	sock->fd = -1;
}

/* Ours if a socket can be bound to it. */
static bool is_own_address(const struct mci_addr *addr)
{
	struct mci_addr any_port = *addr;
	bool own;
	int fd;

	if (mci_addr_is_loopback(addr))
		return true;
	if (addr->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&any_port.sa)->sin6_port = 0;
	else
		((struct sockaddr_in *)&any_port.sa)->sin_port = 0;
	fd = socket(addr->sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	own = !bind(fd, (struct sockaddr *)&any_port.sa, any_port.length);
	close(fd);
	return own;
}

bool mci_sock_is_local(int fd)
{
	struct mci_addr peer = {.length = sizeof(peer.sa)};

	return !getpeername(fd, (struct sockaddr *)&peer.sa, &peer.length) &&
	       (peer.sa.ss_family == AF_INET || peer.sa.ss_family == AF_INET6) && is_own_address(&peer);
}

/*
 * TCP_NODELAY: requests and replies are small and awaited. Keep-alive: a peer whose host vanished
 * is noticed within 3 + 3 * 1 s also on an idle connection, or 5 s after data was not acknowledged.
 * Congestion control: bbr paces by the bandwidth and round-trip time it has measured, and on a path inside
 * one host, where the round trip is a few microseconds and varies with scheduling, that holds the rate below
 * what cubic reaches there; so where bbr is the default and the peer is this host (loopback or one of our own
 * addresses), cubic is chosen. Peers on a network keep what the administrator chose. All of it is best
 * effort.
 */
void mci_sock_tune(int fd)
{
	static const int on = 1, idle_s = 3, interval_s = 1, probes = 3;
	static const unsigned int unacked_ms = 5000;
	struct mci_addr peer = {.length = sizeof(peer.sa)};
	char name[16] = "";
	socklen_t length = sizeof(name) - 1;

	if (getpeername(fd, (struct sockaddr *)&peer.sa, &peer.length) ||
	    (peer.sa.ss_family != AF_INET && peer.sa.ss_family != AF_INET6))
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	/* A path that was cut says nothing: give it up long before a request's deadline, to try another. */
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked_ms, sizeof(unacked_ms));
	if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) && !strcmp(name, "bbr") &&
	    is_own_address(&peer))
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", strlen("cubic"));
}
