// SPDX-License-Identifier: MIT
/* A build without libnl: sysfs alone says what there is, and the NIC's own events say when it changes. */
#include "core/errors.h"
#include "topology/topology.h"

int mci_netlink_update(struct mci_topology *topology)
{
	(void)topology;
	return -EOPNOTSUPP;
}

int mci_link_watch_open(struct mci_link_watch **watch)
{
	(void)watch;
	return mci_fail(-EOPNOTSUPP,
			"this build does not watch network interfaces; build it with 'make USE_NETLINK=1'");
}

void mci_link_watch_close(struct mci_link_watch *watch) { (void)watch; }

int mci_link_watch_fd(const struct mci_link_watch *watch)
{
	(void)watch;
	return -1;
}

bool mci_link_watch_read(struct mci_link_watch *watch, unsigned int ifindex)
{
	(void)watch;
	(void)ifindex;
	return false;
}

bool mci_link_is_up(unsigned int ifindex)
{
	(void)ifindex;
	return true;
}
