// SPDX-License-Identifier: MIT
/* Reading sysfs. Every file is small, may be missing, and is not believed to be text until checked. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "topology/topology.h"

static void copy_text(char *out, size_t size, const char *text)
{
	size_t n = strnlen(text, size - 1);

	memcpy(out, text, n);
	out[n] = '\0';
}

/* First line of a file, printable ASCII only; "" if there is none. */
static bool read_line(const char *dir, const char *file, char *out, size_t size)
{
	char path[PATH_MAX];
	ssize_t n = -1;
	int fd;

	out[0] = '\0';
	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return false;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, out, size - 1);
		close(fd);
	}
	if (n < 0)
		n = 0;
	out[n] = '\0';
	out[strcspn(out, "\n")] = '\0';
	for (char *p = out; *p; p++) {
		if (!isascii(*p) || !isprint((unsigned char)*p))
			*p = '?';
	}
	return out[0];
}

static int64_t read_number(const char *dir, const char *file, int64_t missing)
{
	char text[32], *end;
	long long v;

	if (!read_line(dir, file, text, sizeof(text)))
		return missing;
	errno = 0;
	v = strtoll(text, &end, 0);
	return end == text || errno ? missing : v;
}

static bool base_of_link(const char *dir, const char *file, char *out, size_t size)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *base;
	ssize_t n;

	out[0] = '\0';
	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return false;
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return false;
	target[n] = '\0';
	base = strrchr(target, '/');
	copy_text(out, size, base ? base + 1 : target);
	return out[0];
}

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

/* Room for one more at the end of an array, zeroed; NULL also beyond what is believed. */
static void *append(void *array, unsigned int *count, size_t size)
{
	void **base = array;
	void *grown;

	if (*count >= MCI_TOPOLOGY_MAX)
		return NULL;
	grown = realloc(*base, (*count + 1) * size);
	if (!grown)
		return NULL;
	*base = grown;
	return memset((char *)grown + (*count)++ * size, 0, size);
}

static void read_device(const char *path, const char *name, struct mci_device *dev)
{
	char resolved[PATH_MAX];

	copy_text(dev->name, sizeof(dev->name), name);
	dev->numa_node = (int)read_number(path, "numa_node", -1);
	base_of_link(path, "driver", dev->driver, sizeof(dev->driver));
	if (!realpath(path, resolved) || strlen(resolved) >= sizeof(dev->path))
		return;
	memcpy(dev->path, resolved, strlen(resolved) + 1);
	copy_text(dev->bus, sizeof(dev->bus), strrchr(dev->path, '/') + 1);
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
	node = append(&t->nodes, &t->node_count, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->id = id;
	read_line(path, "cpulist", node->cpus, sizeof(node->cpus));
	read_line(path, "distance", node->distances, sizeof(node->distances));
	node->bytes_total = meminfo(path, "MemTotal");
	node->bytes_free = meminfo(path, "MemFree");
	node->huge_2m_total = (uint64_t)read_number(path, "hugepages/hugepages-2048kB/nr_hugepages", 0);
	node->huge_2m_free = (uint64_t)read_number(path, "hugepages/hugepages-2048kB/free_hugepages", 0);
	node->huge_1g_total = (uint64_t)read_number(path, "hugepages/hugepages-1048576kB/nr_hugepages", 0);
	node->huge_1g_free = (uint64_t)read_number(path, "hugepages/hugepages-1048576kB/free_hugepages", 0);
	return 0;
}

static int add_netdev(struct mci_topology *t, const char *path, const char *name)
{
	struct mci_netdev *netdev;
	char device[PATH_MAX + 8];

	if (access(path, X_OK) || read_number(path, "ifindex", -1) < 0)
		return 0; /* bonding_masters and the like */
	netdev = append(&t->netdevs, &t->netdev_count, sizeof(*netdev));
	if (!netdev)
		return -ENOMEM;
	snprintf(device, sizeof(device), "%s/device", path);
	read_device(device, name, &netdev->dev);
	if (!read_line(path, "operstate", netdev->state, sizeof(netdev->state)))
		strcpy(netdev->state, "unknown");
	netdev->mbps = read_number(path, "speed", -1);
	if (netdev->mbps <= 0 || netdev->mbps >= UINT32_MAX)
		netdev->mbps = -1;
	netdev->mtu = read_number(path, "mtu", -1);
	return 0;
}

static void read_ports(const char *path, struct mci_rdma_device *rdma)
{
	char ports[PATH_MAX], port[PATH_MAX + 16], state[MCI_TOPOLOGY_NAME];

	snprintf(ports, sizeof(ports), "%s/ports", path);
	for (unsigned int i = 1; i <= 255; i++) {
		snprintf(port, sizeof(port), "%s/%u", ports, i);
		if (access(port, F_OK))
			break;
		rdma->ports++;
		if (i == 1)
			read_line(port, "link_layer", rdma->link_layer, sizeof(rdma->link_layer));
		/* "4: ACTIVE" */
		if (!read_line(port, "state", state, sizeof(state)) || state[0] != '4')
			continue;
		if (!rdma->active_ports++)
			read_line(port, "rate", rdma->rate, sizeof(rdma->rate));
	}
}

static int add_rdma(struct mci_topology *t, const char *path, const char *name)
{
	struct mci_rdma_device *rdma = append(&t->rdma, &t->rdma_count, sizeof(*rdma));
	char device[PATH_MAX + 8];

	if (!rdma)
		return -ENOMEM;
	snprintf(device, sizeof(device), "%s/device", path);
	read_device(device, name, &rdma->dev);
	read_ports(path, rdma);
	return 0;
}

static int add_gpu(struct mci_topology *t, const char *path, const char *name)
{
	int64_t class = read_number(path, "class", 0) >> 8, vendor = read_number(path, "vendor", 0);
	struct mci_gpu *gpu;

	(void)name;
	if (vendor != 0x10de || (class != 0x0300 && class != 0x0302))
		return 0;
	gpu = append(&t->gpus, &t->gpu_count, sizeof(*gpu));
	if (!gpu)
		return -ENOMEM;
	read_device(path, "", &gpu->dev);
	snprintf(gpu->dev.name, sizeof(gpu->dev.name), "cuda:%u", t->gpu_count - 1);
	snprintf(gpu->id, sizeof(gpu->id), "%04x:%04x", (unsigned int)vendor,
		 (unsigned int)read_number(path, "device", 0) & 0xffff);
	return 0;
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
	read_line(sysfs, "devices/system/cpu/online", online, sizeof(online));
	t->cpus_online = count_list(online);

	ret = each_entry(sysfs, "devices/system/node", add_node, t);
	if (!ret && !t->node_count) { /* a kernel without NUMA: all is node 0 */
		struct mci_numa_node *node = append(&t->nodes, &t->node_count, sizeof(*node));

		if (!node)
			ret = -ENOMEM;
		else
			memcpy(node->cpus, online, sizeof(node->cpus));
	}
	if (!ret)
		ret = each_entry(sysfs, "class/net", add_netdev, t);
	if (!ret)
		ret = each_entry(sysfs, "class/infiniband", add_rdma, t);
	if (!ret)
		ret = each_entry(sysfs, "bus/pci/devices", add_gpu, t);
	if (ret) {
		mci_topology_free(t);
		return ret;
	}
	*topology = t;
	return 0;
}

void mci_topology_free(struct mci_topology *topology)
{
	if (!topology)
		return;
	free(topology->nodes);
	free(topology->netdevs);
	free(topology->rdma);
	free(topology->gpus);
	free(topology);
}
