// SPDX-License-Identifier: MIT
/* The machine as sysfs shows it: NUMA nodes, network devices, GPUs; RDMA devices are read by rdma.c. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "topology/sysfs.h"

#define NVIDIA 0x10de
#define AMD 0x1002

static int skip_dots(const struct dirent *entry) { return entry->d_name[0] != '.'; }

/* Call @fn for each entry of a folder, in the order of its numbers (node2 before node10). */
static int each_entry(const char *sysfs, const char *folder,
		      int (*fn)(struct mci_topology *t, const char *path, const char *name),
		      struct mci_topology *t)
{
	char path[PATH_MAX], item[PATH_MAX];
	struct dirent **names;
	int count, ret = 0;

	if (snprintf(path, sizeof(path), "%s/%s", sysfs, folder) >= (int)sizeof(path))
		return 0;
	count = scandir(path, &names, skip_dots, versionsort);
	for (int i = 0; i < count; i++) {
		if (!ret && snprintf(item, sizeof(item), "%s/%s", path, names[i]->d_name) < (int)sizeof(item))
			ret = fn(t, item, names[i]->d_name);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	return ret;
}

static uint64_t meminfo(const char *path, const char *what)
{
	char file[PATH_MAX], line[256], name[64];
	unsigned long long kb, found = 0;
	FILE *f;

	snprintf(file, sizeof(file), "%s/meminfo", path);
	f = fopen(file, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %*d %63[^:]: %llu kB", name, &kb) == 2 && !strcmp(name, what))
			found = kb;
	}
	if (f)
		fclose(f);
	return (uint64_t)found << 10;
}

static int add_node(struct mci_topology *t, const char *path, const char *name)
{
	struct mci_numa_node *node;
	int id, used;

	if (sscanf(name, "node%d%n", &id, &used) != 1 || name[used] || id < 0)
		return 0;
	node = mci_sysfs_append(&t->nodes, &t->node_count, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->id = id;
	mci_sysfs_line(path, "cpulist", node->cpus, sizeof(node->cpus));
	mci_sysfs_line(path, "distance", node->distances, sizeof(node->distances));
	node->bytes_total = meminfo(path, "MemTotal");
	node->bytes_free = meminfo(path, "MemFree");
	node->huge_2m_total = (uint64_t)mci_sysfs_number(path, "hugepages/hugepages-2048kB/nr_hugepages", 0);
	node->huge_2m_free = (uint64_t)mci_sysfs_number(path, "hugepages/hugepages-2048kB/free_hugepages", 0);
	node->huge_1g_total = (uint64_t)mci_sysfs_number(path, "hugepages/hugepages-1048576kB/nr_hugepages", 0);
	node->huge_1g_free = (uint64_t)mci_sysfs_number(path, "hugepages/hugepages-1048576kB/free_hugepages", 0);
	return 0;
}

static int add_netdev(struct mci_topology *t, const char *path, const char *name)
{
	struct mci_netdev *netdev;
	char device[PATH_MAX + 8];

	int64_t ifindex = mci_sysfs_number(path, "ifindex", -1);

	if (access(path, X_OK) || ifindex < 0 || ifindex > INT32_MAX)
		return 0; /* bonding_masters and the like */
	netdev = mci_sysfs_append(&t->netdevs, &t->netdev_count, sizeof(*netdev));
	if (!netdev)
		return -ENOMEM;
	snprintf(device, sizeof(device), "%s/device", path);
	mci_sysfs_device(device, name, &netdev->dev);
	if (!mci_sysfs_line(path, "operstate", netdev->state, sizeof(netdev->state)))
		strcpy(netdev->state, "unknown");
	netdev->mbps = mci_sysfs_number(path, "speed", -1);
	if (netdev->mbps <= 0 || netdev->mbps >= UINT32_MAX)
		netdev->mbps = -1;
	netdev->ifindex = (unsigned int)ifindex;
	netdev->mtu = mci_sysfs_number(path, "mtu", -1);
	return 0;
}

static int add_gpu_of(struct mci_topology *t, const char *path, int64_t wanted)
{
	int64_t class = mci_sysfs_number(path, "class", 0) >> 8, vendor = mci_sysfs_number(path, "vendor", 0);
	struct mci_gpu *gpu;

	/* VGA controllers and 3D controllers; accelerators of AMD also say "other display", "processing". */
	if (vendor != wanted || (class != 0x0300 && class != 0x0302 &&
				 (vendor != AMD || (class != 0x0380 && class != 0x1200))))
		return 0;
	gpu = mci_sysfs_append(&t->gpus, &t->gpu_count, sizeof(*gpu));
	if (!gpu)
		return -ENOMEM;
	mci_sysfs_device(path, "", &gpu->dev);
	snprintf(gpu->dev.name, sizeof(gpu->dev.name), "cuda:%u", t->gpu_count - 1);
	snprintf(gpu->id, sizeof(gpu->id), "%04x:%04x", (unsigned int)vendor,
		 (unsigned int)mci_sysfs_number(path, "device", 0) & 0xffff);
	return 0;
}

static int add_nvidia(struct mci_topology *t, const char *path, const char *name)
{
	(void)name;
	return add_gpu_of(t, path, NVIDIA);
}

static int add_amd(struct mci_topology *t, const char *path, const char *name)
{
	(void)name;
	return add_gpu_of(t, path, AMD);
}

/* "0-3,8" = 5 */
static unsigned int count_list(const char *list)
{
	unsigned int total = 0, low, high;
	int used;

	while (sscanf(list, "%u%n", &low, &used) == 1) {
		list += used;
		high = low;
		if (sscanf(list, "-%u%n", &high, &used) == 1)
			list += used;
		if (high < low || high - low > 1u << 20)
			break;
		total += high - low + 1;
		if (*list++ != ',')
			break;
	}
	return total;
}

int mci_topology_scan(const char *sysfs, struct mci_topology **topology)
{
	struct mci_topology *t = calloc(1, sizeof(*t));
	char path[PATH_MAX], online[256];
	int ret;

	if (!t)
		return -ENOMEM;
	snprintf(path, sizeof(path), "%s/class/infiniband", sysfs);
	t->has_rdma_class = !access(path, F_OK);
	mci_sysfs_line(sysfs, "devices/system/cpu/online", online, sizeof(online));
	t->cpus_online = count_list(online);

	ret = each_entry(sysfs, "devices/system/node", add_node, t);
	if (!ret && !t->node_count) { /* a kernel without NUMA: all is node 0 */
		struct mci_numa_node *node = mci_sysfs_append(&t->nodes, &t->node_count, sizeof(*node));

		if (!node)
			ret = -ENOMEM;
		else
			memcpy(node->cpus, online, sizeof(node->cpus));
	}
	if (!ret)
		ret = each_entry(sysfs, "class/net", add_netdev, t);
	if (!ret)
		ret = each_entry(sysfs, "class/infiniband", mci_sysfs_rdma, t);
	if (!ret)
		ret = each_entry(sysfs, "bus/pci/devices", add_nvidia, t);
	/* After those of NVIDIA, so that graphics on the board of a server does not shift their numbers. */
	if (!ret)
		ret = each_entry(sysfs, "bus/pci/devices", add_amd, t);
	if (ret) {
		mci_topology_free(t);
		return ret;
	}
	*topology = t;
	return 0;
}

int mci_topology_now(struct mci_topology **topology)
{
	int ret = mci_topology_scan("/sys", topology);

	if (!ret)
		(*topology)->netlink = !mci_netlink_update(*topology);
	return ret;
}

void mci_topology_free(struct mci_topology *topology)
{
	if (!topology)
		return;
	for (unsigned int i = 0; i < topology->rdma_count; i++) {
		for (unsigned int p = 0; p < topology->rdma[i].ports; p++)
			free(topology->rdma[i].port[p].gids);
		free(topology->rdma[i].port);
	}
	free(topology->nodes);
	free(topology->netdevs);
	free(topology->rdma);
	free(topology->gpus);
	free(topology);
}
