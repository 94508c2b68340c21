/* SPDX-License-Identifier: MIT */
/* Addresses and sockets: parse, resolve, listen, connect within a deadline, plain or TLS. */
#ifndef MCI_SOCK_H
#define MCI_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MCI_HOST_MAX 256

/* "host", "host:port", "[v6]", "[v6]:port", bare v6. Port 0 = none given (":0" too). -EINVAL with a sentence.
 */
struct mci_hostport {
	char host[MCI_HOST_MAX];
	uint16_t port;
};
int mci_hostport_parse(const char *text, struct mci_hostport *out);
/* "h:p", IPv6 in brackets. */
void mci_hostport_text(const struct mci_hostport *in, char *text, size_t size);
bool mci_host_is_loopback(const char *host); /* by literal or resolution */
bool mci_host_is_literal(const char *host);
int mci_host_check(const char *host); /* 0, or -errno with a sentence if it is no address and resolves to none */
const char *mci_loopback(void);	      /* "127.0.0.1", or "::1" on a host that lacks it */
/* Source address of the route to @host (no packet is sent); -errno if there is none. */
int mci_local_address_to(const char *host, char *out, size_t size);

/*
 * A connected stream. @tls is NULL on a plain socket. Non-blocking calls return bytes (> 0), 0 at
 * end of stream (receive only), -EAGAIN, or -errno; they never raise SIGPIPE. With TLS, EAGAIN of a
 * send may mean "wait for readable" and the reverse; edge-triggered IN|OUT watchers need not care.
 * Also with TLS: after EAGAIN a send must be repeated with the same bytes in front (more may follow);
 * bytes may wait inside the session where epoll does not see them, so receive until -EAGAIN, and
 * once before the first event; an end of stream that the peer did not announce is -ECONNRESET.
 */
struct mci_sock {
	int fd;
	void *tls;
};
ssize_t mci_sock_sendv(struct mci_sock *sock, const struct iovec *iov, int count);
ssize_t mci_sock_recvv(struct mci_sock *sock, const struct iovec *iov, int count);
/* Blocking forms on the (non-blocking) socket: whole buffer or -errno; -ETIMEDOUT at the deadline. */
int mci_sock_send_all(struct mci_sock *sock, const void *p, size_t n, uint64_t deadline_ns);
int mci_sock_recv_all(struct mci_sock *sock, void *p, size_t n, uint64_t deadline_ns);
void mci_sock_close(struct mci_sock *sock); /* safe on fd -1; sets it to -1 */

/*
 * Dual-stack listener on @bind (NULL = all addresses). @port 0 = a free one in [@low, @high].
 * -EADDRINUSE names the port and what to do. The port that was taken is stored in @port.
 */
int mci_listen(const char *bind, uint16_t *port, uint16_t low, uint16_t high, int *fd);

/*
 * Connect to the first of @hosts that answers, each tried 250 ms after the one before (all their
 * resolved addresses too). @source NULL or an address to bind. Socket comes back non-blocking,
 * CLOEXEC, TCP_NODELAY. -ETIMEDOUT, -ECONNREFUSED, ... with a sentence naming all that was tried.
 */
int mci_connect_any(const char *const *hosts, unsigned int count, uint16_t port, const char *source,
		    uint64_t deadline_ns, int *fd);
/* Abstract unix socket "@name". */
int mci_unix_listen(const char *name, int *fd);
int mci_unix_connect(const char *name, uint64_t deadline_ns, int *fd);

/* TCP_NODELAY, keep-alive; cubic where the default is bbr and the peer is this host (see sock.c). */
void mci_sock_tune(int fd);
bool mci_sock_is_local(int fd); /* TCP, and the peer is this host */

#endif
