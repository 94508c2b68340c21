/* SPDX-License-Identifier: MIT */
/* Classic data port: whoever reaches it reads and writes the regions flagged classic, by address. */
#ifndef MCI_CLASSIC_SERVER_H
#define MCI_CLASSIC_SERVER_H

#include "transport/classic/wire.h"
#include "transport/transport.h"

struct classic_server;

/* A connection is closed that is in mid-frame, or before its first request, without a byte for this long.
 * Tests shorten it. */
extern _Atomic uint64_t mci_classic_stall_ns;

int mci_classic_server_start(struct mci_transport_host *host, struct classic_server **server);
void mci_classic_server_stop(struct classic_server *server); /* NULL is fine */
uint16_t mci_classic_server_port(const struct classic_server *server);
/* Transfers in @region get a second to end, at most until @deadline_ns; then their connections are closed. */
void mci_classic_server_hurry(struct classic_server *server, struct mci_region *region, uint64_t deadline_ns);
/* Find the region and take a use of it. -EFAULT, -EACCES. */
int mci_classic_server_check(struct mci_region_table *regions, const struct mci_classic_request *request,
			     struct mci_region **region);

#endif
