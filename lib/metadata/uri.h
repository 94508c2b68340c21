/* SPDX-License-Identifier: MIT */
/* A metadata URI taken apart. Pure: nothing is connected or resolved. */
#ifndef MCI_URI_H
#define MCI_URI_H

#include <stdbool.h>
#include <stdint.h>

#include "metadata/metadata.h"
#include "net/sock.h"

#define MCI_URI_ENDPOINTS 16
#define MCI_ETCD_PORT 2379
#define MCI_REDIS_PORT 6379

struct mci_endpoint {
	char host[MCI_HOST_MAX]; /* without the brackets of an IPv6 address */
	uint16_t port;
	bool tls;
	bool default_port; /* none was written */
};

struct mci_uri {
	enum mci_metadata_kind kind;
	unsigned int count;
	struct mci_endpoint endpoints[MCI_URI_ENDPOINTS]; /* http and redis: one */
	char user[128], password[256];			  /* redis; empty = none */
	int db;						  /* redis; -1 = none */
};

/* -EINVAL with a sentence that lists the valid forms; a password in @text is never repeated. */
int mci_uri_parse(const char *text, struct mci_uri *uri);

#endif
