/* SPDX-License-Identifier: MIT */
/*
 * What this machine is made of, as sysfs tells it: NUMA nodes, network devices, RDMA devices, GPUs.
 * A scan is a snapshot; nothing is kept and nothing is watched.
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
};

struct mci_rdma_device {
	struct mci_device dev;
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
	bool has_rdma_class; /* /sys/class/infiniband exists: the kernel part is loaded */
};

/* @sysfs: "/sys", or a made-up tree of a test. 0 or -ENOMEM: what is missing there is not there. */
int mci_topology_scan(const char *sysfs, struct mci_topology **topology);
void mci_topology_free(struct mci_topology *topology);

/* Bridges between two devices: steps up to the common parent and down again. UINT32_MAX if either is virtual.
 */
unsigned int mci_device_distance(const struct mci_device *a, const struct mci_device *b);

/* {"cpu:0": [[preferred], [other]], "cuda:0": ...} over RDMA devices with an active port; NULL: no memory. */
json_t *mci_topology_matrix(const struct mci_topology *topology);
json_t *mci_topology_json(const struct mci_topology *topology);

#endif
