// SPDX-License-Identifier: MIT
/*
 * The kernel's netlink sockets. RDMA netlink names the network interface behind each port and its state, also where
 * /sys is another name space's; route netlink does so for interfaces, and tells when one changes. State: one socket
 * per struct mci_link_watch.
 */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <rdma/rdma_netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/errors.h"
#include "topology/netlink.h"
#include "topology/sysfs.h"

#define DEVICES_MAX 256

/* ---- messages ---- */

static const char *const operstates[] = {
	[0] = "unknown", [1] = "notpresent", [2] = "down", [3] = "lowerlayerdown",
	[4] = "testing", [5] = "dormant",    [6] = "up",
};

static struct mci_netdev *netdev_of(struct mci_topology *t, unsigned int ifindex)
{
	for (unsigned int i = 0; i < t->netdev_count; i++)
		if (t->netdevs[i].ifindex == ifindex)
			return &t->netdevs[i];
	return NULL;
}

int mci_netlink_link(struct mci_topology *t, const struct nlmsghdr *message)
{
	struct nla_policy policy[IFLA_MAX + 1] = {
		[IFLA_IFNAME] = {.type = NLA_STRING, .maxlen = IFNAMSIZ},
		[IFLA_MTU] = {.type = NLA_U32},
		[IFLA_OPERSTATE] = {.type = NLA_U8},
	};
	struct nlattr *a[IFLA_MAX + 1];
	const struct ifinfomsg *info;
	struct mci_netdev *netdev;

	if (message->nlmsg_type != RTM_NEWLINK ||
	    nlmsg_parse((struct nlmsghdr *)(uintptr_t)message, sizeof(*info), a, IFLA_MAX, policy) < 0 ||
	    !a[IFLA_IFNAME])
		return -EBADMSG;
	info = nlmsg_data(message);
	netdev = info->ifi_index > 0 ? netdev_of(t, (unsigned int)info->ifi_index) : NULL;
	if (!netdev) {
		netdev = mci_sysfs_append(&t->netdevs, &t->netdev_count, sizeof(*netdev));
		if (!netdev)
			return -ENOMEM;
		netdev->ifindex = (unsigned int)info->ifi_index;
		netdev->mbps = netdev->mtu = netdev->dev.numa_node = -1;
	}
	mci_plain_text(nla_get_string(a[IFLA_IFNAME]), netdev->dev.name, sizeof(netdev->dev.name));
	if (a[IFLA_MTU])
		netdev->mtu = nla_get_u32(a[IFLA_MTU]);
	if (a[IFLA_OPERSTATE] && nla_get_u8(a[IFLA_OPERSTATE]) < sizeof(operstates) / sizeof(operstates[0]))
		mci_sysfs_copy(netdev->state, sizeof(netdev->state), operstates[nla_get_u8(a[IFLA_OPERSTATE])]);
	return 0;
}

static int parse_nldev(const struct nlmsghdr *message, struct nlattr *a[RDMA_NLDEV_ATTR_MAX])
{
	static struct nla_policy policy[RDMA_NLDEV_ATTR_MAX] = {
		[RDMA_NLDEV_ATTR_DEV_INDEX] = {.type = NLA_U32},
		[RDMA_NLDEV_ATTR_DEV_NAME] = {.type = NLA_STRING},
		[RDMA_NLDEV_ATTR_PORT_INDEX] = {.type = NLA_U32},
		[RDMA_NLDEV_ATTR_PORT_STATE] = {.type = NLA_U8},
		[RDMA_NLDEV_ATTR_LID] = {.type = NLA_U32},
		[RDMA_NLDEV_ATTR_NDEV_NAME] = {.type = NLA_STRING},
	};

	if (RDMA_NL_GET_CLIENT(message->nlmsg_type) != RDMA_NL_NLDEV ||
	    nlmsg_parse((struct nlmsghdr *)(uintptr_t)message, 0, a, RDMA_NLDEV_ATTR_MAX - 1, policy) < 0 ||
	    !a[RDMA_NLDEV_ATTR_DEV_INDEX] || !a[RDMA_NLDEV_ATTR_DEV_NAME])
		return -EBADMSG;
	return 0;
}

int mci_netlink_port(struct mci_topology *t, const struct nlmsghdr *message)
{
	static const char *const states[] = {
		[1] = "DOWN", [2] = "INIT", [3] = "ARMED", [4] = "ACTIVE", [5] = "ACTIVE_DEFER",
	};
	struct nlattr *a[RDMA_NLDEV_ATTR_MAX];
	struct mci_rdma_device *rdma = NULL;
	struct mci_port *port;
	unsigned int i, number, state;

	if (parse_nldev(message, a) || !a[RDMA_NLDEV_ATTR_PORT_INDEX])
		return -EBADMSG;
	for (i = 0; i < t->rdma_count && !rdma; i++)
		if (!strcmp(t->rdma[i].dev.name, nla_get_string(a[RDMA_NLDEV_ATTR_DEV_NAME])))
			rdma = &t->rdma[i];
	number = nla_get_u32(a[RDMA_NLDEV_ATTR_PORT_INDEX]);
	if (!rdma || !number || number > rdma->ports)
		return -ENOENT; /* it came or went between the two readings */
	port = &rdma->port[number - 1];
	state = a[RDMA_NLDEV_ATTR_PORT_STATE] ? nla_get_u8(a[RDMA_NLDEV_ATTR_PORT_STATE]) : 0;
	if (state && state < sizeof(states) / sizeof(states[0])) {
		mci_sysfs_copy(port->state, sizeof(port->state), states[state]);
		port->active = state == 4;
	}
	if (a[RDMA_NLDEV_ATTR_LID])
		port->lid = nla_get_u32(a[RDMA_NLDEV_ATTR_LID]);
	if (a[RDMA_NLDEV_ATTR_NDEV_NAME])
		mci_plain_text(nla_get_string(a[RDMA_NLDEV_ATTR_NDEV_NAME]), port->netdev, sizeof(port->netdev));
	mci_rdma_device_sum(rdma);
	return 0;
}

/* ---- dumps ---- */

struct dump {
	struct mci_topology *topology;
	int (*fn)(struct mci_topology *t, const struct nlmsghdr *message);
	uint32_t device[DEVICES_MAX];
	unsigned int devices;
};

static int on_message(struct nl_msg *message, void *arg)
{
	struct nlattr *a[RDMA_NLDEV_ATTR_MAX];
	struct dump *dump = arg;

	if (dump->fn)
		dump->fn(dump->topology, nlmsg_hdr(message)); /* what is odd is passed over */
	else if (!parse_nldev(nlmsg_hdr(message), a) && dump->devices < DEVICES_MAX)
		dump->device[dump->devices++] = nla_get_u32(a[RDMA_NLDEV_ATTR_DEV_INDEX]);
	return NL_OK;
}

static int ask(struct nl_sock *sock, struct nl_msg *message)
{
	int ret = message ? nl_send_auto(sock, message) : -NLE_NOMEM;

	nlmsg_free(message);
	return ret < 0 ? ret : nl_recvmsgs_default(sock);
}

static struct nl_sock *open_socket(int protocol, struct dump *dump)
{
	struct nl_sock *sock = nl_socket_alloc();
	struct timeval limit = {.tv_sec = 2};

	if (!sock)
		return NULL;
	if (nl_connect(sock, protocol) < 0 ||
	    setsockopt(nl_socket_get_fd(sock), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) ||
	    (dump && nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, on_message, dump) < 0)) {
		nl_socket_free(sock);
		return NULL;
	}
	return sock;
}

static int dump_links(struct mci_topology *t)
{
	struct dump dump = {.topology = t, .fn = mci_netlink_link};
	struct nl_sock *sock = open_socket(NETLINK_ROUTE, &dump);
	struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
	struct nl_msg *message;
	int ret;

	if (!sock)
		return -EOPNOTSUPP;
	message = nlmsg_alloc_simple(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP);
	if (message && nlmsg_append(message, &info, sizeof(info), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(message);
		message = NULL;
	}
	ret = ask(sock, message);
	nl_socket_free(sock);
	return ret < 0 ? -EOPNOTSUPP : 0;
}

static struct nl_msg *nldev_message(int command)
{
	return nlmsg_alloc_simple(RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, command), NLM_F_REQUEST | NLM_F_DUMP);
}

static int dump_ports(struct mci_topology *t)
{
	struct dump dump = {.topology = t};
	struct nl_sock *sock = open_socket(NETLINK_RDMA, &dump);
	struct nl_msg *message;
	int ret;

	if (!sock)
		return -EOPNOTSUPP;
	ret = ask(sock, nldev_message(RDMA_NLDEV_CMD_GET));
	dump.fn = mci_netlink_port;
	for (unsigned int i = 0; i < dump.devices && ret >= 0; i++) {
		message = nldev_message(RDMA_NLDEV_CMD_PORT_GET);
		if (message && nla_put_u32(message, RDMA_NLDEV_ATTR_DEV_INDEX, dump.device[i]) < 0) {
			nlmsg_free(message);
			message = NULL;
		}
		ret = ask(sock, message);
	}
	nl_socket_free(sock);
	return ret < 0 ? -EOPNOTSUPP : 0;
}

int mci_netlink_update(struct mci_topology *t)
{
	int ret = dump_links(t);

	if (!ret && t->rdma_count)
		ret = dump_ports(t);
	return ret;
}

/* ---- link events ---- */

struct mci_link_watch {
	struct nl_sock *sock;
	unsigned int ifindex;
	bool hit;
};

static int on_link(struct nl_msg *message, void *arg)
{
	const struct nlmsghdr *header = nlmsg_hdr(message);
	struct mci_link_watch *watch = arg;

	if ((header->nlmsg_type == RTM_NEWLINK || header->nlmsg_type == RTM_DELLINK) &&
	    nlmsg_valid_hdr(header, sizeof(struct ifinfomsg)) &&
	    ((const struct ifinfomsg *)nlmsg_data(header))->ifi_index == (int)watch->ifindex)
		watch->hit = true;
	return NL_OK;
}

int mci_link_watch_open(struct mci_link_watch **out)
{
	struct mci_link_watch *watch = calloc(1, sizeof(*watch));
	int err;

	if (!watch)
		return mci_fail(-ENOMEM, "no memory to watch network interfaces");
	watch->sock = nl_socket_alloc();
	err = watch->sock ? nl_connect(watch->sock, NETLINK_ROUTE) : -NLE_NOMEM;
	if (!err)
		err = nl_socket_add_memberships(watch->sock, RTNLGRP_LINK, NFNLGRP_NONE);
	if (!err)
		err = nl_socket_set_nonblocking(watch->sock);
	if (!err)
		err = nl_socket_modify_cb(watch->sock, NL_CB_VALID, NL_CB_CUSTOM, on_link, watch);
	if (err < 0) {
		mci_link_watch_close(watch);
		return mci_fail(-EOPNOTSUPP, "cannot watch network interfaces by netlink: %s", nl_geterror(err));
	}
	nl_socket_disable_seq_check(watch->sock);
	*out = watch;
	return 0;
}

void mci_link_watch_close(struct mci_link_watch *watch)
{
	if (watch->sock)
		nl_socket_free(watch->sock);
	free(watch);
}

int mci_link_watch_fd(const struct mci_link_watch *watch) { return nl_socket_get_fd(watch->sock); }

bool mci_link_watch_read(struct mci_link_watch *watch, unsigned int ifindex)
{
	int ret;

	watch->ifindex = ifindex;
	watch->hit = false;
	do
		ret = nl_recvmsgs_default(watch->sock);
	while (ret >= 0);
	return watch->hit || ret != -NLE_AGAIN;
}

bool mci_link_is_up(unsigned int ifindex)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {0};
	bool up = false;

	if (fd < 0)
		return true; /* unknown: the port's own state decides */
	if (if_indextoname(ifindex, request.ifr_name) && !ioctl(fd, SIOCGIFFLAGS, &request))
		up = (request.ifr_flags & (IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING);
	close(fd);
	return up;
}
