/* SPDX-License-Identifier: MIT */
/* Messages of the kernel that netlink.c takes apart, for it and its test. */
#ifndef MCI_NETLINK_H
#define MCI_NETLINK_H

#include <linux/netlink.h>

#include "topology/topology.h"

/* RTM_NEWLINK: -EBADMSG if it is none, or malformed. */
int mci_netlink_link(struct mci_topology *topology, const struct nlmsghdr *message);
/* RDMA_NLDEV_CMD_PORT_GET: -EBADMSG, -ENOENT (no such port known). */
int mci_netlink_port(struct mci_topology *topology, const struct nlmsghdr *message);

#endif
