// SPDX-License-Identifier: MIT
/* mc_topology_show(): the topology as JSON. No state. */
#include <stdlib.h>
#include <string.h>

#include <mooncake/admin.h>

#include "core/errors.h"
#include "topology/topology.h"

/* Text of sysfs is printable ASCII by now; "" becomes null. */
static json_t *text_or_null(const char *text) { return *text ? json_string(text) : json_null(); }

static json_t *number_or_null(int64_t value)
{
	return value >= 0 ? json_integer((json_int_t)value) : json_null();
}

static json_t *node_json(const struct mci_numa_node *node)
{
	char copy[sizeof(node->distances)], *save = NULL;
	json_t *distances = json_array();

	memcpy(copy, node->distances, sizeof(copy));
	for (char *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save))
		json_array_append_new(distances, json_integer(atoi(p)));
	return json_pack("{si so so sI sI s{sI sI} s{sI sI}}", "node", node->id, "cpus",
			 text_or_null(node->cpus), "distances", distances, "bytes_total",
			 (json_int_t)node->bytes_total, "bytes_free", (json_int_t)node->bytes_free, "huge_2m",
			 "total", (json_int_t)node->huge_2m_total, "free", (json_int_t)node->huge_2m_free,
			 "huge_1g", "total", (json_int_t)node->huge_1g_total, "free",
			 (json_int_t)node->huge_1g_free);
}

static json_t *device_json(const struct mci_device *dev)
{
	return json_pack("{ss so so so}", "name", dev->name, "bus", text_or_null(dev->bus), "driver",
			 text_or_null(dev->driver), "numa_node", number_or_null(dev->numa_node));
}

static json_t *netdev_json(const struct mci_netdev *netdev)
{
	json_t *item = device_json(&netdev->dev);

	json_object_set_new(item, "state", text_or_null(netdev->state));
	json_object_set_new(item, "mbps", number_or_null(netdev->mbps));
	json_object_set_new(item, "mtu", number_or_null(netdev->mtu));
	return item;
}

static json_t *rdma_json(const struct mci_rdma_device *rdma)
{
	json_t *item = device_json(&rdma->dev);

	json_object_set_new(item, "ports", json_integer(rdma->ports));
	json_object_set_new(item, "active_ports", json_integer(rdma->active_ports));
	json_object_set_new(item, "link_layer", text_or_null(rdma->link_layer));
	json_object_set_new(item, "rate", text_or_null(rdma->rate));
	return item;
}

static json_t *gpu_json(const struct mci_topology *t, const struct mci_gpu *gpu)
{
	json_t *item = device_json(&gpu->dev), *distances = json_object();

	json_object_set_new(item, "id", text_or_null(gpu->id));
	for (unsigned int i = 0; i < t->rdma_count; i++) {
		unsigned int distance = mci_device_distance(&gpu->dev, &t->rdma[i].dev);

		json_object_set_new(distances, t->rdma[i].dev.name,
				    number_or_null(distance == UINT32_MAX ? -1 : (int64_t)distance));
	}
	json_object_set_new(item, "rdma_distances", distances);
	return item;
}

static json_t *notes_json(const struct mci_topology *t)
{
	json_t *notes = json_array();
	unsigned int active = 0;

	for (unsigned int i = 0; i < t->rdma_count; i++)
		active += !!t->rdma[i].active_ports;
	if (!t->has_rdma_class)
		json_array_append_new(
			notes,
			json_string(
				"no RDMA: the kernel has no /sys/class/infiniband (ib_core is not loaded)"));
	else if (!t->rdma_count)
		json_array_append_new(notes,
				      json_string("no RDMA: ib_core is loaded, but there is no device"));
	else if (!active)
		json_array_append_new(notes, json_string("no RDMA: no device has an active port"));
	if (!t->gpu_count)
		json_array_append_new(notes, json_string("no NVIDIA GPU on the PCI bus"));
	return notes;
}

json_t *mci_topology_json(const struct mci_topology *t)
{
	json_t *nodes = json_array(), *netdevs = json_array(), *rdma = json_array(), *gpus = json_array();

	for (unsigned int i = 0; i < t->node_count; i++)
		json_array_append_new(nodes, node_json(&t->nodes[i]));
	for (unsigned int i = 0; i < t->netdev_count; i++)
		json_array_append_new(netdevs, netdev_json(&t->netdevs[i]));
	for (unsigned int i = 0; i < t->rdma_count; i++)
		json_array_append_new(rdma, rdma_json(&t->rdma[i]));
	for (unsigned int i = 0; i < t->gpu_count; i++)
		json_array_append_new(gpus, gpu_json(t, &t->gpus[i]));
	return json_pack("{si so so so so so so}", "cpus", (int)t->cpus_online, "numa_nodes", nodes,
			 "netdevs", netdevs, "rdma_devices", rdma, "gpus", gpus, "priority_matrix",
			 mci_topology_matrix(t), "notes", notes_json(t));
}

/**
 * mc_topology_show() - what this machine is made of
 * @json: object {cpus, numa_nodes, netdevs, rdma_devices, gpus, priority_matrix, notes}; free() it
 *
 * priority_matrix has the classic format, for --nic_priority_matrix. Return: 0 or -ENOMEM. Any thread.
 */
int mc_topology_show(char **json)
{
	struct mci_topology *topology;
	char *text = NULL;
	json_t *object;

	if (!json)
		return mci_fail(-EINVAL, "mc_topology_show(): nowhere to put the text");
	if (!mci_topology_scan("/sys", &topology)) {
		object = mci_topology_json(topology);
		mci_topology_free(topology);
		if (object)
			text = json_dumps(object, JSON_INDENT(2));
		json_decref(object);
	}
	if (!text)
		return mci_fail(-ENOMEM, "mc_topology_show(): no memory");
	*json = text;
	return 0;
}
