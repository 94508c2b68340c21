// SPDX-License-Identifier: MIT
/* mooncake topology: what this machine is made of. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"

static struct {
	bool json, matrix;
} flags;

static const struct opt table[] = {
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "everything as JSON" },
	{ .name = "matrix",
	  .type = OPT_BOOL,
	  .value = &flags.matrix,
	  .help = "only the priority matrix, in the format that --nic_priority_matrix reads, here and "
		  "in classic tools" },
	{ .name = NULL },
};

static const struct opt_set set = {
	.tool = "mooncake topology",
	.usage = "[flags]",
	.summary =
		"Shows NUMA nodes, network devices, RDMA devices with the GID each port speaks with, and GPUs, as the "
		"kernel lists them in /sys and over netlink.",
	.table = table,
};

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

/* A number, or "-" where it is null. Four may be in use at a time. */
static const char *number_of(json_t *object, const char *key)
{
	static char texts[4][24];
	static unsigned int next;
	json_t *value = json_object_get(object, key);
	char *text = texts[next++ % 4];

	if (!json_is_integer(value))
		return "-";
	snprintf(text, sizeof(texts[0]), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return text;
}

static void print_nodes(json_t *list)
{
	struct out_table *t = out_table_new(false);
	char total[OUT_SIZE_TEXT], available[OUT_SIZE_TEXT];
	json_t *item;
	size_t i;

	out_table_row(t, "NUMA node|CPUs|memory|free|2 MiB pages free");
	json_array_foreach(list, i, item)
	{
		out_size((uint64_t)json_integer_value(json_object_get(item, "bytes_total")), total);
		out_size((uint64_t)json_integer_value(json_object_get(item, "bytes_free")), available);
		out_table_row(t, "%s|%s|%s|%s|%s", number_of(item, "node"), text_of(item, "cpus"), total,
			      available, number_of(json_object_get(item, "huge_2m"), "free"));
	}
	out_table_print(t, stdout);
}

static void print_netdevs(json_t *list)
{
	struct out_table *t = out_table_new(false);
	json_t *item;
	size_t i;

	out_table_row(t, "network device|state|Mbit/s|MTU|NUMA node|driver|bus");
	json_array_foreach(list, i, item)
		out_table_row(t, "%s|%s|%s|%s|%s|%s|%s", text_of(item, "name"), text_of(item, "state"),
			      number_of(item, "mbps"), number_of(item, "mtu"), number_of(item, "numa_node"),
			      text_of(item, "driver"), text_of(item, "bus"));
	out_table_print(t, stdout);
}

/* MTU of a network interface, "-" if it is not known here. */
static const char *mtu_of(json_t *netdevs, const char *name)
{
	json_t *item;
	size_t i;

	json_array_foreach(netdevs, i, item)
		if (!strcmp(text_of(item, "name"), name))
			return number_of(item, "mtu");
	return "-";
}

/* A line per port; below, which GID it speaks with and why. */
static void print_rdma(json_t *list, json_t *netdevs)
{
	struct out_table *t;
	json_t *item, *port;
	size_t i, p;

	if (!json_array_size(list))
		return;
	t = out_table_new(false);
	out_table_row(t, "RDMA device|port|state|rate|link|interface|MTU|NUMA node|bus");
	json_array_foreach(list, i, item)
	{
		json_array_foreach(json_object_get(item, "port_list"), p, port)
			out_table_row(t, "%s|%s|%s|%s|%s|%s|%s|%s|%s", text_of(item, "name"),
				      number_of(port, "port"), text_of(port, "state"), text_of(port, "rate"),
				      text_of(port, "link_layer"), text_of(port, "netdev"),
				      mtu_of(netdevs, text_of(port, "netdev")), number_of(item, "numa_node"),
				      text_of(item, "bus"));
	}
	putchar('\n');
	out_table_print(t, stdout);
	putchar('\n');
	json_array_foreach(list, i, item)
	{
		json_array_foreach(json_object_get(item, "port_list"), p, port)
			printf("%s port %s: %s\n", text_of(item, "name"), number_of(port, "port"),
			       text_of(port, "gid_why"));
	}
}

static void print_gpus(json_t *list)
{
	struct out_table *t;
	json_t *item;
	size_t i;

	if (!json_array_size(list))
		return;
	t = out_table_new(false);
	out_table_row(t, "GPU|id|NUMA node|bus|driver");
	json_array_foreach(list, i, item)
		out_table_row(t, "%s|%s|%s|%s|%s", text_of(item, "name"), text_of(item, "id"),
			      number_of(item, "numa_node"), text_of(item, "bus"), text_of(item, "driver"));
	putchar('\n');
	out_table_print(t, stdout);
}

int cmd_topology(int argc, char **argv)
{
	json_t *topology, *item;
	char *text;
	size_t i;

	opt_parse(&set, argc, argv);
	if (mc_topology_show(&text))
		return out_error("%s", mc_errmsg());
	topology = take_json(text);
	if (!topology)
		return 1;
	if (flags.matrix) {
		item = json_incref(json_object_get(topology, "priority_matrix"));
		json_decref(topology);
		return print_json(item);
	}
	if (flags.json)
		return print_json(topology);
	print_nodes(json_object_get(topology, "numa_nodes"));
	putchar('\n');
	print_netdevs(json_object_get(topology, "netdevs"));
	print_rdma(json_object_get(topology, "rdma_devices"), json_object_get(topology, "netdevs"));
	print_gpus(json_object_get(topology, "gpus"));
	putchar('\n');
	json_array_foreach(json_object_get(topology, "notes"), i, item)
		printf("%s\n", json_string_value(item));
	json_decref(topology);
	return 0;
}
