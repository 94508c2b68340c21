/* SPDX-License-Identifier: MIT */
/* Within lib/net: name resolution that cannot hang, and addresses as text. */
#ifndef MCI_ADDR_H
#define MCI_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define MCI_ADDR_TEXT 64
#define MCI_RESOLVE_MAX 16 /* addresses of one name */

struct mci_addr {
	struct sockaddr_storage sa;
	socklen_t length;
};

/*
 * getaddrinfo() has no time limit, so a name is looked up in a thread of its own, which is left
 * behind when nobody waits for it any more. Literal addresses are answered at once, without one.
 */
struct mci_resolve;

int mci_resolve_start(const char *host, uint16_t port, struct mci_resolve **resolve);
int mci_resolve_fd(const struct mci_resolve *resolve); /* readable once it is done; -1: done already */
/* -EAGAIN: not yet. Else the number of addresses, or -errno with a sentence. */
int mci_resolve_result(struct mci_resolve *resolve, struct mci_addr addrs[MCI_RESOLVE_MAX]);
void mci_resolve_end(struct mci_resolve *resolve);

/* Blocking: number of addresses (> 0) or -errno with a sentence. */
int mci_resolve_host(const char *host, uint16_t port, uint64_t deadline_ns,
		     struct mci_addr addrs[MCI_RESOLVE_MAX]);
bool mci_addr_literal(const char *host, uint16_t port, struct mci_addr *addr);
bool mci_addr_is_loopback(const struct mci_addr *addr);
/* Host alone, v4-mapped addresses as IPv4. */
void mci_addr_host(const struct mci_addr *addr, char *text, size_t size);
/* "h:p", "[v6]:p", "unix @name", for sentences. */
void mci_addr_text(const struct mci_addr *addr, char *text, size_t size);
void mci_peer_text(int fd, char *text, size_t size);

#endif
