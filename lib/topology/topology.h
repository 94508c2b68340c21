/* SPDX-License-Identifier: MIT */
/*
 * What this machine is made of, as sysfs and netlink tell it: NUMA nodes, network devices, RDMA devices with their
 * ports and GIDs, GPUs. A scan is a snapshot; mci_link_watch tells of links that come and go.
 */
#ifndef MCI_TOPOLOGY_H
#define MCI_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#define MCI_TOPOLOGY_NAME 64
#define MCI_TOPOLOGY_PATH 512
#define MCI_TOPOLOGY_MAX 4096 /* of each kind; more is not believed */

struct mci_numa_node {
	int id;
	char cpus[256];	     /* "0-15,32-47" */
	char distances[256]; /* "10 21", as the kernel says them */
	uint64_t bytes_total, bytes_free;
	uint64_t huge_2m_total, huge_2m_free, huge_1g_total, huge_1g_free;
};

struct mci_device { /* where a device sits */
	char name[MCI_TOPOLOGY_NAME];
	char bus[MCI_TOPOLOGY_NAME];  /* "0000:3b:00.0", "" = virtual */
	char path[MCI_TOPOLOGY_PATH]; /* resolved, for distances; "" = virtual */
	char driver[MCI_TOPOLOGY_NAME];
	int numa_node; /* -1 = unknown or none */
};

struct mci_netdev {
	struct mci_device dev;
	char state[MCI_TOPOLOGY_NAME]; /* "up", "down", "unknown" */
	int64_t mbps;		       /* -1 = not known */
	int64_t mtu;
	unsigned int ifindex;
};

enum mci_gid_type { MCI_GID_IB, MCI_GID_ROCE_V1, MCI_GID_ROCE_V2 }; /* as verbs number them */

struct mci_gid {
	uint8_t raw[16];
	uint32_t index;
	uint8_t type;
	char netdev[MCI_TOPOLOGY_NAME]; /* "" = not known */
};

struct mci_port {
	unsigned int number;
	bool active;
	char state[MCI_TOPOLOGY_NAME], physical[MCI_TOPOLOGY_NAME]; /* "ACTIVE", "LinkUp" */
	char link_layer[MCI_TOPOLOGY_NAME], rate[MCI_TOPOLOGY_NAME];
	char netdev[MCI_TOPOLOGY_NAME]; /* interface behind it, "" = none */
	uint32_t lid;
	struct mci_gid *gids; /* those that are in use */
	unsigned int gid_count;
};

struct mci_rdma_device {
	struct mci_device dev;
	struct mci_port *port;
	unsigned int ports, active_ports;
	char link_layer[MCI_TOPOLOGY_NAME]; /* of the first port: "InfiniBand", "Ethernet" */
	char rate[MCI_TOPOLOGY_NAME];	    /* of the first active port: "100 Gb/sec (4X EDR)" */
};

struct mci_gpu {
	struct mci_device dev;	    /* name: "cuda:0", in the order of bus addresses */
	char id[MCI_TOPOLOGY_NAME]; /* "10de:2330" */
};

struct mci_topology {
	struct mci_numa_node *nodes;
	struct mci_netdev *netdevs;
	struct mci_rdma_device *rdma;
	struct mci_gpu *gpus;
	unsigned int node_count, netdev_count, rdma_count, gpu_count;
	unsigned int cpus_online;
	bool netlink;	     /* the kernel's netlink sockets were asked, too */
	bool has_rdma_class; /* /sys/class/infiniband exists: the kernel part is loaded */
};

/* @sysfs: "/sys", or a made-up tree of a test. 0 or -ENOMEM: what is missing there is not there. */
int mci_topology_scan(const char *sysfs, struct mci_topology **topology);
/* This machine: sysfs, and netlink where this build and the kernel have it. */
int mci_topology_now(struct mci_topology **topology);
void mci_topology_free(struct mci_topology *topology);

/* Bridges between two devices: steps up to the common parent and down again. UINT32_MAX if either is virtual.
 */
unsigned int mci_device_distance(const struct mci_device *a, const struct mci_device *b);

/* {"cpu:0": [[preferred], [other]], "cuda:0": ...} over RDMA devices with an active port; NULL: no memory. */
json_t *mci_topology_matrix(const struct mci_topology *topology);
/* @gid_index: what the configuration asks for, -1 = automatic; @port: of each RDMA device. */
json_t *mci_topology_json(const struct mci_topology *topology, int gid_index, unsigned int port);

/* ---- gid.c ---- */

#define MCI_GID_TEXT 48
/*
 * Position in @list of the GID to use: the one of index @wanted, or (-1) the best. @why gets a text for people: which
 * and why, or (-ENOENT) what to do.
 */
int mci_gid_choose(const struct mci_gid *list, unsigned int count, int wanted, char *why, size_t size);
const char *mci_gid_type_name(uint32_t type);
/* "10.0.0.1" or "fe80::1". Returns @text. */
char *mci_gid_address(const uint8_t raw[16], char text[MCI_GID_TEXT]);

void mci_rdma_device_sum(struct mci_rdma_device *rdma); /* after its ports changed */

/* ---- netlink.c; nonetlink.c in a build without libnl ---- */

/* Puts into @topology what netlink knows better than sysfs. -errno: netlink is not to be had. */
int mci_netlink_update(struct mci_topology *topology);

/* Tells when a network interface changes. One thread at a time. */
struct mci_link_watch;
int mci_link_watch_open(struct mci_link_watch **watch); /* -errno with a sentence */
void mci_link_watch_close(struct mci_link_watch *watch);
int mci_link_watch_fd(const struct mci_link_watch *watch); /* readable when something came */
/* Takes what came; true if any of it was about @ifindex, or something was lost. */
bool mci_link_watch_read(struct mci_link_watch *watch, unsigned int ifindex);
/* Does that interface carry packets now? */
bool mci_link_is_up(unsigned int ifindex);

#endif
