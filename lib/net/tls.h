/* SPDX-License-Identifier: MIT */
/*
 * Within lib/net: TLS 1.3 on a connected stream, keyed by what both sides already share (external PSK
 * with ephemeral Diffie-Hellman); no certificates. Calls lock the session: a sending and a receiving
 * thread may use it at once.
 */
#ifndef MCI_TLS_H
#define MCI_TLS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "net/sock.h"

#define MCI_TLS_KEY 32

/* Put TLS on @sock (its fd stays its own). 0 or -errno with a sentence. */
int mci_tls_start(struct mci_sock *sock, bool server, const uint8_t key[MCI_TLS_KEY]);
/* One step of the handshake: 0 = up, -EAGAIN = wait for mci_tls_wants(), else -errno with a sentence. */
int mci_tls_handshake(struct mci_sock *sock);
int mci_tls_handshake_wait(struct mci_sock *sock, uint64_t deadline_ns);
/* POLLIN or POLLOUT: what the last -EAGAIN waits for (equal to EPOLLIN and EPOLLOUT). */
short mci_tls_wants(const struct mci_sock *sock);

/* As mci_sock_sendv() and mci_sock_recvv(). */
ssize_t mci_tls_sendv(struct mci_sock *sock, const struct iovec *iov, int count);
ssize_t mci_tls_recvv(struct mci_sock *sock, const struct iovec *iov, int count);
/* Says good-bye as far as that goes without waiting, and frees. */
void mci_tls_end(struct mci_sock *sock);

#endif
