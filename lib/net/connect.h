/* SPDX-License-Identifier: MIT */
/* Client side of a connection: reach the peer, do the hello, get a stream. Blocking, with a deadline. */
#ifndef MCI_CONNECT_H
#define MCI_CONNECT_H

#include "net/auth.h"
#include "net/sock.h"

struct mci_connect_attr {
	const char *const *hosts; /* addresses of the peer, tried as in mci_connect_any() */
	unsigned int host_count;
	uint16_t port;
	const char *unix_name; /* instead of hosts: abstract unix socket */
	const char *source;    /* NULL or local address to bind */
	const struct mci_identity *self;
	const struct mci_secret *secret;
	const struct mc_uuid *wanted; /* NULL = any */
	uint64_t features;	      /* offered */
	uint64_t features_required;   /* refuse a peer without them */
	enum mci_service_id service;
	enum mci_role role;
	const void *params;
	uint16_t params_length;
	uint64_t deadline_ns;
};

/*
 * 0; or -errno with a sentence: -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH, -EKEYREJECTED (wrong key, or
 * one side has a key and the other has none), -ESTALE (the uuid wanted is not there any more),
 * -EPROTO (not ours, or version), or what the peer's REJECT said.
 */
int mci_connect(const struct mci_connect_attr *attr, struct mci_sock *sock, struct mci_hello *hello);

#endif
