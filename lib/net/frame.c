// SPDX-License-Identifier: MIT
/* Frames of control connections: layout, descriptors by SCM_RIGHTS, and the blocking client side. */
#include "net/frame.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/clock.h"
#include "core/errors.h"
#include "net/addr.h"
#include "net/tls.h"

#define FDS_ROOM 16 /* received at once; the kernel closes what does not fit */

int mci_frame_parse(const uint8_t *p, size_t n, uint32_t limit, struct mci_frame *frame, size_t *used)
{
	uint32_t length;

	*used = MCI_FRAME_HEAD;
	if (n < 4)
		return -EAGAIN;
	length = mci_get32(p);
	if (length < MCI_FRAME_REST || length > limit)
		return -EPROTO;
	if (n < MCI_FRAME_HEAD)
		return -EAGAIN;
	if (mci_get16(p + 6) & ~MCI_FRAME_FD)
		return -EPROTO;
	*used = 4 + (size_t)length;
	if (n < *used)
		return -EAGAIN;
	frame->type = mci_get16(p + 4);
	frame->flags = mci_get16(p + 6);
	frame->id = mci_get32(p + 8);
	frame->body = p + MCI_FRAME_HEAD;
	frame->length = length - MCI_FRAME_REST;
	frame->fd = -1;
	return 0;
}

void mci_frame_head(uint8_t p[MCI_FRAME_HEAD], uint16_t type, uint16_t flags, uint32_t id, uint32_t length)
{
	mci_put32(p, length + MCI_FRAME_REST);
	mci_put16(p + 4, type);
	mci_put16(p + 6, flags);
	mci_put32(p + 8, id);
}

ssize_t mci_frame_sendv(struct mci_sock *sock, const struct iovec *iov, int count, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct msghdr msg = {.msg_iov = (struct iovec *)iov,
			     .msg_iovlen = (size_t)count,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int domain = 0;
	socklen_t length = sizeof(domain);
	ssize_t n;

	if (fd < 0)
		return mci_sock_sendv(sock, iov, count);
	if (sock->tls || getsockopt(sock->fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) || domain != AF_UNIX)
		return -EOPNOTSUPP;
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	do {
		n = sendmsg(sock->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void take_fds(struct msghdr *msg, int *fd)
{
	struct cmsghdr *cmsg;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t count, i;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++) {
			int got;

			memcpy(&got, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(got));
			if (*fd < 0)
				*fd = got;
			else
				close(got);
		}
	}
}

ssize_t mci_frame_recvv(struct mci_sock *sock, const struct iovec *iov, int count, int *fd)
{
	union {
		char bytes[CMSG_SPACE(FDS_ROOM * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = {.msg_iov = (struct iovec *)iov,
			     .msg_iovlen = (size_t)count,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	ssize_t n;

	if (sock->tls)
		return mci_sock_recvv(sock, iov, count);
	do {
		n = recvmsg(sock->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_fds(&msg, fd);
	return n;
}

static int explain(struct mci_sock *sock, int err)
{
	char peer[MCI_ADDR_TEXT + 64];

	mci_peer_text(sock->fd, peer, sizeof(peer));
	switch (err) {
	case -ETIMEDOUT:
		return mci_fail(err, "%s did not answer in time", peer);
	case -EPROTO:
		return mci_fail(err, "%s sent a malformed frame, or one that is too long", peer);
	case -EOPNOTSUPP:
		return mci_fail(err, "descriptors can be sent over a plain unix socket only, not to %s",
				peer);
	case -ENOMEM:
		return mci_fail(err, "no memory for a frame from %s", peer);
	default:
		return mci_fail(err, "the connection to %s broke: %s", peer, strerror(-err));
	}
}

static int wait_for(struct mci_sock *sock, short events, uint64_t deadline_ns)
{
	struct pollfd wait = {.fd = sock->fd, .events = sock->tls ? mci_tls_wants(sock) : events};
	int left = mci_ms_left(deadline_ns);

	if (!left)
		return -ETIMEDOUT;
	poll(&wait, 1, left);
	return 0;
}

int mci_frame_send(struct mci_sock *sock, uint16_t type, uint32_t id, const void *body, uint32_t length,
		   uint64_t deadline_ns)
{
	uint8_t head[MCI_FRAME_HEAD];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)body, length}};
	struct iovec *at = iov;
	int count = length ? 2 : 1, ret;

	if (length > UINT32_MAX - MCI_FRAME_REST)
		return explain(sock, -EPROTO);
	mci_frame_head(head, type, 0, id, length);
	while (count) {
		ssize_t n = mci_sock_sendv(sock, at, count);

		if (n == -EAGAIN) {
			ret = wait_for(sock, POLLOUT, deadline_ns);
			if (ret)
				return explain(sock, ret);
			continue;
		}
		if (n < 0)
			return explain(sock, (int)n);
		while (count && (size_t)n >= at->iov_len) {
			n -= (ssize_t)at->iov_len;
			at++;
			count--;
		}
		if (count) {
			at->iov_base = (char *)at->iov_base + n;
			at->iov_len -= (size_t)n;
		}
	}
	return 0;
}

/* Exactly @n bytes. */
static int receive(struct mci_sock *sock, void *p, size_t n, int *fd, uint64_t deadline_ns)
{
	struct iovec iov = {p, n};
	int ret;

	while (iov.iov_len) {
		ssize_t got = mci_frame_recvv(sock, &iov, 1, fd);

		if (got == -EAGAIN) {
			ret = wait_for(sock, POLLIN, deadline_ns);
			if (ret)
				return ret;
			continue;
		}
		if (got <= 0)
			return got ? (int)got : -ECONNRESET;
		iov.iov_base = (char *)iov.iov_base + got;
		iov.iov_len -= (size_t)got;
	}
	return 0;
}

int mci_frame_recv(struct mci_sock *sock, uint32_t limit, uint16_t *type, uint32_t *id, void **body,
		   uint32_t *length, int *fd, uint64_t deadline_ns)
{
	uint8_t head[MCI_FRAME_HEAD], *p;
	struct mci_frame frame;
	size_t used, n;
	int got = -1, ret;

	ret = receive(sock, head, sizeof(head), &got, deadline_ns);
	if (ret)
		goto err_close;
	ret = mci_frame_parse(head, sizeof(head), limit, &frame, &used);
	if (ret && ret != -EAGAIN)
		goto err_close;
	n = used - MCI_FRAME_HEAD;
	p = malloc(n + 1);
	if (!p) {
		ret = -ENOMEM;
		goto err_close;
	}
	ret = receive(sock, p, n, &got, deadline_ns);
	if (ret)
		goto err_free;
	if (mci_get16(head + 6) & MCI_FRAME_FD && got < 0) {
		ret = -EPROTO; /* it was promised, and lost: our descriptors may be used up */
		goto err_free;
	}
	p[n] = '\0';
	*type = mci_get16(head + 4);
	*id = mci_get32(head + 8);
	*body = p;
	*length = (uint32_t)n;
	if (fd)
		*fd = got;
	else if (got >= 0)
		close(got);
	return 0;

err_free:
	free(p);
err_close:
	if (got >= 0)
		close(got);
	return explain(sock, ret);
}
