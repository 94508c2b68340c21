// SPDX-License-Identifier: MIT
/* Ports and GIDs of a made-up sysfs tree, which GID is taken, and messages of netlink; links of this machine. */
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "config.h"
#include "topology/topology.h"
#include "unit/sysfs.h"

#if USE_NETLINK
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <rdma/rdma_netlink.h>

#include "topology/netlink.h"
#endif

#define PORT "class/infiniband/mlx5_0/ports/1/"

static void put_gid(unsigned int index, const char *gid, const char *type, const char *netdev)
{
	char file[128];

	snprintf(file, sizeof(file), PORT "gids/%u", index);
	put(file, gid);
	if (!type)
		return;
	snprintf(file, sizeof(file), PORT "gid_attrs/types/%u", index);
	put(file, type);
	snprintf(file, sizeof(file), PORT "gid_attrs/ndevs/%u", index);
	put(file, netdev);
}

/* As a card has it: link-local, then an IPv4 and an IPv6 address, each as RoCE v1 and v2; and a VLAN. */
static void put_port(void)
{
	put(PORT "state", "4: ACTIVE\n");
	put(PORT "phys_state", "5: LinkUp\n");
	put(PORT "link_layer", "Ethernet\n");
	put(PORT "lid", "0x1f\n");
	put_gid(0, "fe80:0000:0000:0000:5054:00ff:fe12:3456\n", "IB/RoCE v1\n", "eth0\n");
	put_gid(1, "fe80:0000:0000:0000:5054:00ff:fe12:3456\n", "RoCE v2\n", "eth0\n");
	put_gid(2, "0000:0000:0000:0000:0000:ffff:0a00:0001\n", "IB/RoCE v1\n", "eth0\n");
	put_gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0001\n", "RoCE v2\n", "eth0\n");
	put_gid(4, "2001:0db8:0000:0000:0000:0000:0000:0001\n", "RoCE v2\n", "eth0\n");
	put_gid(5, "0000:0000:0000:0000:0000:0000:0000:0000\n", NULL, NULL);
	put_gid(6, "0000:0000:0000:0000:0000:ffff:0a00:0101\n", "RoCE v2\n", "eth0.7\n");
}

static void test_ports_and_gids_are_read(void **state)
{
	const struct mci_port *port;
	char text[MCI_GID_TEXT];
	struct mci_topology *t;

	(void)state;
	put_port();
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(t->rdma_count, 1);
	assert_int_equal(t->rdma[0].ports, 1);
	port = &t->rdma[0].port[0];
	assert_int_equal(port->number, 1);
	assert_true(port->active);
	assert_string_equal(port->state, "ACTIVE");
	assert_string_equal(port->physical, "LinkUp");
	assert_string_equal(port->netdev, "eth0");
	assert_int_equal(port->lid, 0x1f);
	assert_int_equal(port->gid_count, 6); /* not the empty one */
	assert_int_equal(port->gids[5].index, 6);
	assert_string_equal(port->gids[5].netdev, "eth0.7");
	assert_int_equal(port->gids[2].type, MCI_GID_ROCE_V1);
	assert_int_equal(port->gids[3].type, MCI_GID_ROCE_V2);
	assert_string_equal(mci_gid_address(port->gids[3].raw, text), "10.0.0.1");
	assert_string_equal(mci_gid_address(port->gids[4].raw, text), "2001:db8::1");
	mci_topology_free(t);
}

static json_t *first_port(json_t *json)
{
	json_t *device = json_array_get(json_object_get(json, "rdma_devices"), 0);

	return json_array_get(json_object_get(device, "port_list"), 0);
}

static void test_json_says_which_gid_and_why(void **state)
{
	json_t *json, *port;
	struct mci_topology *t;

	(void)state;
	put_port();
	assert_int_equal(mci_topology_scan(root, &t), 0);
	json = mci_topology_json(t, -1, 1);
	port = first_port(json);
	assert_int_equal(json_integer_value(json_object_get(port, "gid_index")), 3);
	assert_non_null(strstr(json_string_value(json_object_get(port, "gid_why")), "GID 3, RoCE v2 10.0.0.1"));
	assert_int_equal(json_array_size(json_object_get(port, "gids")), 6);
	json_decref(json);
	json = mci_topology_json(t, 5, 1); /* empty, so it is not there */
	port = first_port(json);
	assert_true(json_is_null(json_object_get(port, "gid_index")));
	assert_non_null(strstr(json_string_value(json_object_get(port, "gid_why")), "MC_GID_INDEX"));
	json_decref(json);
	json = mci_topology_json(t, 5, 2); /* asked of another port */
	port = first_port(json);
	assert_int_equal(json_integer_value(json_object_get(port, "gid_index")), 3);
	json_decref(json);
	mci_topology_free(t);
}

static struct mci_gid gid(uint32_t index, uint8_t type, const char *bytes)
{
	struct mci_gid g = {.index = index, .type = type};
	unsigned int i, byte;

	for (i = 0; i < 16; i++) {
		assert_int_equal(sscanf(bytes + 2 * i, "%2x", &byte), 1);
		g.raw[i] = (uint8_t)byte;
	}
	return g;
}

/* Each is better than the one before. */
static void test_the_gid_that_reaches_farthest_is_taken(void **state)
{
	const struct mci_gid list[] = {
		gid(0, MCI_GID_ROCE_V2, "00000000000000000000000000000000"),
		gid(1, MCI_GID_ROCE_V1, "00000000000000000000ffff0a000001"),
		gid(2, MCI_GID_ROCE_V2, "00000000000000000000ffff7f000001"),
		gid(3, MCI_GID_ROCE_V2, "00000000000000000000ffffa9fe0001"),
		gid(4, MCI_GID_ROCE_V2, "fe800000000000000000000000000001"),
		gid(5, MCI_GID_ROCE_V2, "fd000000000000000000000000000001"),
		gid(6, MCI_GID_ROCE_V2, "20010db8000000000000000000000001"),
		gid(7, MCI_GID_ROCE_V2, "00000000000000000000ffff0a000001"),
		gid(8, MCI_GID_ROCE_V2, "00000000000000000000ffff0a000002"),
	};
	char why[256];

	(void)state;
	assert_int_equal(mci_gid_choose(list, 0, -1, why, sizeof(why)), -ENOENT);
	assert_int_equal(mci_gid_choose(list, 1, -1, why, sizeof(why)), -ENOENT);
	assert_non_null(strstr(why, "address"));
	for (unsigned int n = 2; n <= 8; n++)
		assert_int_equal(mci_gid_choose(list, n, -1, why, sizeof(why)), n - 1);
	assert_int_equal(mci_gid_choose(list, 9, -1, why, sizeof(why)), 7); /* the lower of two equals */
	assert_int_equal(mci_gid_choose(list, 9, 4, why, sizeof(why)), 4);
	assert_string_equal(why, "GID 4, RoCE v2 fe80::1, as MC_GID_INDEX says");
	assert_int_equal(mci_gid_choose(list, 9, 0, why, sizeof(why)), -ENOENT); /* empty */
	assert_int_equal(mci_gid_choose(list, 9, 9, why, sizeof(why)), -ENOENT);
}

static void test_infiniband_has_one_kind(void **state)
{
	const struct mci_gid list[] = { gid(0, MCI_GID_IB, "fe800000000000000002c90300000001") };
	char why[256];

	(void)state;
	assert_int_equal(mci_gid_choose(list, 1, -1, why, sizeof(why)), 0);
	assert_non_null(strstr(why, "InfiniBand"));
}

static void test_the_link_layer_tells_infiniband_from_roce_v1(void **state)
{
	struct mci_topology *t;

	(void)state;
	put_port();
	put(PORT "link_layer", "InfiniBand\n");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(t->rdma[0].port[0].gids[0].type, MCI_GID_IB);
	mci_topology_free(t);
}

static void test_odd_gids_do_no_harm(void **state)
{
	struct mci_topology *t;
	char text[300];

	(void)state;
	memset(text, 'f', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	put(PORT "state", "4\n");
	put(PORT "lid", text);
	put_gid(0, text, text, text);
	put_gid(1, "1:2:3\n", "RoCE v2\n", "\n");
	put_gid(2, "0000:0000:0000:0000:0000:ffff:0a00:0001 \n", "\xff\n", "\x1b[2J\n");
	put_gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0001\n", "\xff\n", "\x1b[2J\n");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(t->rdma[0].port[0].gid_count, 1);
	assert_string_equal(t->rdma[0].port[0].gids[0].netdev, "?[2J");
	assert_string_equal(t->rdma[0].port[0].state, "4");
	json_decref(mci_topology_json(t, -1, 1));
	mci_topology_free(t);
}

#if USE_NETLINK
static struct nl_msg *port_message(const char *device, uint32_t port, uint8_t port_state, const char *netdev)
{
	struct nl_msg *message =
		nlmsg_alloc_simple(RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_PORT_GET), 0);

	assert_non_null(message);
	assert_int_equal(nla_put_u32(message, RDMA_NLDEV_ATTR_DEV_INDEX, 0), 0);
	assert_int_equal(nla_put_string(message, RDMA_NLDEV_ATTR_DEV_NAME, device), 0);
	assert_int_equal(nla_put_u32(message, RDMA_NLDEV_ATTR_PORT_INDEX, port), 0);
	assert_int_equal(nla_put_u8(message, RDMA_NLDEV_ATTR_PORT_STATE, port_state), 0);
	assert_int_equal(nla_put_string(message, RDMA_NLDEV_ATTR_NDEV_NAME, netdev), 0);
	return message;
}

static int take_port(struct mci_topology *t, struct nl_msg *message)
{
	int ret = mci_netlink_port(t, nlmsg_hdr(message));

	nlmsg_free(message);
	return ret;
}

static void test_netlink_knows_ports_better(void **state)
{
	struct mci_topology *t;
	struct nl_msg *message;

	(void)state;
	put_port();
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(t->rdma[0].active_ports, 1);
	assert_int_equal(take_port(t, port_message("mlx5_0", 1, 1, "bond0")), 0);
	assert_string_equal(t->rdma[0].port[0].state, "DOWN");
	assert_string_equal(t->rdma[0].port[0].netdev, "bond0");
	assert_int_equal(t->rdma[0].active_ports, 0);
	assert_int_equal(take_port(t, port_message("mlx5_0", 1, 4, "bond0")), 0);
	assert_int_equal(t->rdma[0].active_ports, 1);
	assert_int_equal(take_port(t, port_message("mlx5_0", 1, 200, "bond0")), 0); /* a state of the future */
	assert_string_equal(t->rdma[0].port[0].state, "ACTIVE");
	assert_int_equal(take_port(t, port_message("mlx5_0", 2, 4, "eth1")), -ENOENT);
	assert_int_equal(take_port(t, port_message("mlx5_0", 0, 4, "eth1")), -ENOENT);
	assert_int_equal(take_port(t, port_message("mlx5_9", 1, 4, "eth1")), -ENOENT);
	message = nlmsg_alloc_simple(RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_PORT_GET), 0);
	assert_int_equal(nla_put(message, RDMA_NLDEV_ATTR_DEV_INDEX, 1, "x"), 0); /* one byte of four */
	assert_int_equal(take_port(t, message), -EBADMSG);
	mci_topology_free(t);
}

static struct nl_msg *link_message(int ifindex, const char *name, uint32_t mtu, uint8_t operstate)
{
	struct nl_msg *message = nlmsg_alloc_simple(RTM_NEWLINK, 0);
	struct ifinfomsg info = {.ifi_index = ifindex};

	assert_int_equal(nlmsg_append(message, &info, sizeof(info), NLMSG_ALIGNTO), 0);
	assert_int_equal(nla_put_string(message, IFLA_IFNAME, name), 0);
	assert_int_equal(nla_put_u32(message, IFLA_MTU, mtu), 0);
	assert_int_equal(nla_put_u8(message, IFLA_OPERSTATE, operstate), 0);
	return message;
}

static int take_link(struct mci_topology *t, struct nl_msg *message)
{
	int ret = mci_netlink_link(t, nlmsg_hdr(message));

	nlmsg_free(message);
	return ret;
}

static void test_netlink_knows_interfaces_better(void **state)
{
	struct mci_topology *t;

	(void)state;
	put("class/net/eth0/ifindex", "2\n");
	put("class/net/eth0/operstate", "up\n");
	put("class/net/eth0/mtu", "1500\n");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(take_link(t, link_message(2, "eth0", 9000, 2)), 0);
	assert_int_equal(t->netdev_count, 1);
	assert_int_equal(t->netdevs[0].mtu, 9000);
	assert_string_equal(t->netdevs[0].state, "down");
	assert_int_equal(take_link(t, link_message(7, "veth7", 1500, 99)), 0); /* not in this /sys */
	assert_int_equal(t->netdev_count, 2);
	assert_string_equal(t->netdevs[1].dev.name, "veth7");
	assert_int_equal(t->netdevs[1].dev.numa_node, -1);
	assert_int_equal(take_link(t, link_message(3, "a-name-of-more-than-sixteen-bytes", 1500, 6)), -EBADMSG);
	assert_int_equal(take_link(t, nlmsg_alloc_simple(RTM_NEWLINK, 0)), -EBADMSG);
	assert_int_equal(take_link(t, nlmsg_alloc_simple(RTM_DELLINK, 0)), -EBADMSG);
	mci_topology_free(t);
}

static void set_flags(const char *name, short set, short clear)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {0};

	strcpy(request.ifr_name, name);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &request), 0);
	request.ifr_flags = (short)((request.ifr_flags | set) & ~clear);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
}

/* In a network name space of our own: its lo is down at first. */
static void test_an_interface_that_changes_is_told(void **state)
{
	struct mci_link_watch *watch;
	unsigned int lo;
	struct pollfd poll_fd = {.events = POLLIN};

	(void)state;
	if (unshare(CLONE_NEWNET)) {
		print_message("skipped: no network name space may be made here (%s)\n", strerror(errno));
		skip();
	}
	lo = if_nametoindex("lo");
	assert_int_equal(mci_link_watch_open(&watch), 0);
	poll_fd.fd = mci_link_watch_fd(watch);
	assert_false(mci_link_watch_read(watch, lo));
	assert_false(mci_link_is_up(lo));
	set_flags("lo", IFF_UP, 0);
	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
	assert_true(mci_link_watch_read(watch, lo));
	assert_true(mci_link_is_up(lo));
	assert_false(mci_link_watch_read(watch, lo)); /* told once */
	set_flags("lo", 0, IFF_UP);
	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
	assert_false(mci_link_watch_read(watch, lo + 1)); /* of another */
	assert_false(mci_link_is_up(lo));
	assert_false(mci_link_is_up(lo + 1000)); /* what is gone is down */
	mci_link_watch_close(watch);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ports_and_gids_are_read),
		TEST(test_json_says_which_gid_and_why),
		TEST(test_the_gid_that_reaches_farthest_is_taken),
		TEST(test_infiniband_has_one_kind),
		TEST(test_the_link_layer_tells_infiniband_from_roce_v1),
		TEST(test_odd_gids_do_no_harm),
#if USE_NETLINK
		TEST(test_netlink_knows_ports_better),
		TEST(test_netlink_knows_interfaces_better),
		TEST(test_an_interface_that_changes_is_told),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
