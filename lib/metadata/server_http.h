/* SPDX-License-Identifier: MIT */
/* The HTTP face of the metadata server: libmicrohttpd around a struct mci_keystore. */
#ifndef MCI_SERVER_HTTP_H
#define MCI_SERVER_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "metadata/server_rest.h"
#include "metadata/server_store.h"

/* At once; fewer if RLIMIT_NOFILE is smaller. One host has at most half: who sends a byte now and then keeps his. */
#define MCI_HTTP_CONNECTIONS 10000
#define MCI_HTTP_IDLE_S 30	   /* a connection on which nothing moves is closed */
#define MCI_HTTP_WATCH_MS 30000	   /* longest wait of a watch */
#define MCI_HTTP_TTL_MAX_MS 2147483647u
#define MCI_HTTP_PAGE_KEYS 16384
#define MCI_HTTP_PAGE_BYTES (4u << 20)

struct mci_http;

struct mci_http_attr {
	int listen_fd; /* taken over, whatever comes of it */
	struct mci_keystore *store;
	const char *bearer;	     /* NULL = open to all; copied */
	const char *cert, *cert_key; /* PEM texts; NULL = plain */
};

int mci_http_start(const struct mci_http_attr *attr, struct mci_http **http);
void mci_http_stop(struct mci_http *http);

#endif
