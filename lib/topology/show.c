// SPDX-License-Identifier: MIT
/* mc_topology_show(): the topology as JSON. No state. */
#include <stdlib.h>
#include <string.h>

#include <mooncake/admin.h>

#include "core/errors.h"
#include "core/settings.h"
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
	json_object_set_new(item, "ifindex", json_integer(netdev->ifindex));
	return item;
}

static json_t *gid_json(const struct mci_gid *gid)
{
	char address[MCI_GID_TEXT];

	return json_pack("{sI ss ss so}", "index", (json_int_t)gid->index, "type", mci_gid_type_name(gid->type),
			 "address", mci_gid_address(gid->raw, address), "netdev", text_or_null(gid->netdev));
}

/* @wanted: index of the GID that was asked for, -1 = automatic. */
static json_t *port_json(const struct mci_port *port, int wanted)
{
	json_t *gids = json_array();
	char why[256];
	int chosen = mci_gid_choose(port->gids, port->gid_count, wanted, why, sizeof(why));

	for (unsigned int i = 0; i < port->gid_count; i++)
		json_array_append_new(gids, gid_json(&port->gids[i]));
	return json_pack("{si so so so so so si so ss so}", "port", (int)port->number, "state",
			 text_or_null(port->state), "physical_state", text_or_null(port->physical), "link_layer",
			 text_or_null(port->link_layer), "rate", text_or_null(port->rate), "netdev",
			 text_or_null(port->netdev), "lid", (int)port->lid, "gid_index",
			 number_or_null(chosen < 0 ? -1 : (int64_t)port->gids[chosen].index), "gid_why", why, "gids",
			 gids);
}

/* Another port than @used keeps its own counsel: the index that was asked for is one of the port in use. */
static json_t *rdma_json(const struct mci_rdma_device *rdma, int gid_index, unsigned int used)
{
	json_t *item = device_json(&rdma->dev), *ports = json_array();

	for (unsigned int i = 0; i < rdma->ports; i++)
		json_array_append_new(
			ports, port_json(&rdma->port[i], rdma->port[i].number == used ? gid_index : -1));
	json_object_set_new(item, "port_list", ports);

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
		json_array_append_new(notes, json_string("no GPU of NVIDIA or AMD on the PCI bus"));
	return notes;
}

json_t *mci_topology_json(const struct mci_topology *t, int gid_index, unsigned int port)
{
	json_t *nodes = json_array(), *netdevs = json_array(), *rdma = json_array(), *gpus = json_array();

	for (unsigned int i = 0; i < t->node_count; i++)
		json_array_append_new(nodes, node_json(&t->nodes[i]));
	for (unsigned int i = 0; i < t->netdev_count; i++)
		json_array_append_new(netdevs, netdev_json(&t->netdevs[i]));
	for (unsigned int i = 0; i < t->rdma_count; i++)
		json_array_append_new(rdma, rdma_json(&t->rdma[i], gid_index, port));
	for (unsigned int i = 0; i < t->gpu_count; i++)
		json_array_append_new(gpus, gpu_json(t, &t->gpus[i]));
	return json_pack("{si sb so so so so so so}", "cpus", (int)t->cpus_online, "netlink", (int)t->netlink,
			 "numa_nodes", nodes, "netdevs", netdevs, "rdma_devices", rdma, "gpus", gpus, "priority_matrix",
			 mci_topology_matrix(t), "notes", notes_json(t));
}

/**
 * mc_topology_show() - what this machine is made of
 * @json: object {cpus, netlink, numa_nodes, netdevs, rdma_devices, gpus, priority_matrix, notes}; free() it
 *
 * Each of rdma_devices has a port_list; each port says in gid_index and gid_why which GID the rdma transport takes, by
 * the configuration of this process (MOONCAKE_CONFIG, MC_GID_INDEX, MC_IB_PORT). priority_matrix has the classic
 * format, for --nic_priority_matrix. Return: 0 or -ENOMEM. Any thread.
 */
int mc_topology_show(char **json)
{
	struct mci_topology *topology;
	struct mci_settings *settings;
	char *text = NULL, *problem = NULL;
	int gid_index = -1;
	unsigned int port = 1;
	json_t *object;

	if (!json)
		return mci_fail(-EINVAL, "mc_topology_show(): nowhere to put the text");
	if (!mci_settings_load(NULL, &settings)) {
		port = (unsigned int)mci_settings_number(settings, "rdma.port");
		if (mci_settings_auto(settings, "rdma.gid_index", 255, &gid_index))
			problem = strdup(mc_errmsg());
		mci_settings_free(settings);
	} else {
		problem = strdup(mc_errmsg());
	}
	if (!mci_topology_now(&topology)) {
		object = mci_topology_json(topology, gid_index, port);
		mci_topology_free(topology);
		if (problem)
			json_array_append_new(json_object_get(object, "notes"), json_string(problem));
		if (object)
			text = json_dumps(object, JSON_INDENT(2));
		json_decref(object);
	}
	free(problem);
	if (!text)
		return mci_fail(-ENOMEM, "mc_topology_show(): no memory");
	*json = text;
	return 0;
}
