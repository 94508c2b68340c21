// SPDX-License-Identifier: MIT
/* The topology of a made-up sysfs tree: two nodes, three RDMA devices, two GPUs; and of this machine. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <mooncake/admin.h>

#include "topology/topology.h"
#include "unit/sysfs.h"

static void put_pci(const char *place, const char *node, const char *driver)
{
	char file[512], target[512];

	snprintf(file, sizeof(file), "%s/numa_node", place);
	put(file, node);
	snprintf(file, sizeof(file), "%s/driver", place);
	snprintf(target, sizeof(target), "bus/pci/drivers/%s", driver);
	put_link(file, target);
}

static void put_rdma(const char *name, const char *place, const char *node, const char *state)
{
	char file[512];

	put_pci(place, node, "mlx5_core");
	snprintf(file, sizeof(file), "class/infiniband/%s/device", name);
	put_link(file, place);
	snprintf(file, sizeof(file), "class/infiniband/%s/ports/1/state", name);
	put(file, state);
	snprintf(file, sizeof(file), "class/infiniband/%s/ports/1/rate", name);
	put(file, "100 Gb/sec (4X EDR)\n");
	snprintf(file, sizeof(file), "class/infiniband/%s/ports/1/link_layer", name);
	put(file, "Ethernet\n");
}

static void put_gpu(const char *bus, const char *place, const char *node, const char *class)
{
	char file[512];

	put_pci(place, node, "nvidia");
	snprintf(file, sizeof(file), "%s/class", place);
	put(file, class);
	snprintf(file, sizeof(file), "%s/vendor", place);
	put(file, "0x10de\n");
	snprintf(file, sizeof(file), "%s/device", place);
	put(file, "0x2330\n");
	snprintf(file, sizeof(file), "bus/pci/devices/%s", bus);
	put_link(file, place);
}

static void put_two_nodes(void)
{
	put("devices/system/cpu/online", "0-5,8\n");
	put("devices/system/node/node0/cpulist", "0-3\n");
	put("devices/system/node/node0/distance", "10 21\n");
	put("devices/system/node/node0/meminfo",
	    "Node 0 MemTotal:       1024 kB\nNode 0 MemFree:         512 kB\n");
	put("devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "7\n");
	put("devices/system/node/node10/cpulist", "4-5,8\n");
	put("devices/system/node/node10/distance", "21 10\n");
	put("devices/system/node/has_cpu", "0,10\n");
	put("devices/system/node/nodes", "no number\n");
}

static void put_gpu_of(const char *vendor, const char *bus, const char *place, const char *class)
{
	char file[512];

	put_gpu(bus, place, "0\n", class);
	snprintf(file, sizeof(file), "%s/vendor", place);
	put(file, vendor);
}

static void put_machine(void)
{
	put_two_nodes();
	/* node 0: a switch with GPU 0 and mlx5_0 below; mlx5_1 beside the switch. node 10: GPU 1, mlx5_2;
	 * mlx5_3 is down. */
	put_rdma("mlx5_0", "devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0", "0\n", "4: ACTIVE\n");
	put_rdma("mlx5_1", "devices/pci0000:00/0000:00:02.0/0000:09:00.0", "0\n", "4: ACTIVE\n");
	put_rdma("mlx5_2", "devices/pci0000:80/0000:80:01.0/0000:81:00.0", "10\n", "4: ACTIVE\n");
	put_rdma("mlx5_3", "devices/pci0000:80/0000:80:02.0/0000:82:00.0", "10\n", "1: DOWN\n");
	put_gpu("0000:03:00.0", "devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:03:00.0", "0\n",
		"0x030200\n");
	put_gpu("0000:83:00.0", "devices/pci0000:80/0000:80:03.0/0000:83:00.0", "10\n", "0x030000\n");
	put_gpu("0000:84:00.0", "devices/pci0000:80/0000:80:03.0/0000:84:00.0", "10\n",
		"0x040300\n"); /* its sound */
	put("class/net/eth0/ifindex", "2\n");
	put("class/net/eth0/speed", "100000\n");
	put("class/net/eth0/operstate", "up\n");
	put("class/net/eth0/mtu", "9000\n");
	put_link("class/net/eth0/device", "devices/pci0000:00/0000:00:02.0/0000:09:00.0");
	put("class/net/lo/ifindex", "1\n");
	put("class/net/lo/operstate", "unknown\n");
	put("class/net/down0/ifindex", "3\n");
	put("class/net/down0/speed", "-1\n");
	put("class/net/bonding_masters", "\n");
}

static void test_matrix_prefers_the_own_node_and_the_nearest_bridge(void **state)
{
	struct mci_topology *t;
	json_t *matrix;
	char *text;

	(void)state;
	put_machine();
	assert_int_equal(mci_topology_scan(root, &t), 0);
	matrix = mci_topology_matrix(t);
	text = json_dumps(matrix, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, "{\"cpu:0\":[[\"mlx5_0\",\"mlx5_1\"],[\"mlx5_2\"]],"
				  "\"cpu:10\":[[\"mlx5_2\"],[\"mlx5_0\",\"mlx5_1\"]],"
				  "\"cuda:0\":[[\"mlx5_0\"],[\"mlx5_1\",\"mlx5_2\"]],"
				  "\"cuda:1\":[[\"mlx5_2\"],[\"mlx5_0\",\"mlx5_1\"]]}");
	free(text);
	json_decref(matrix);
	mci_topology_free(t);
}

static void test_devices_are_described(void **state)
{
	struct mci_topology *t;

	(void)state;
	put_machine();
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(t->cpus_online, 7);
	assert_int_equal(t->node_count, 2);
	assert_int_equal(t->nodes[1].id, 10);
	assert_string_equal(t->nodes[1].cpus, "4-5,8");
	assert_int_equal(t->nodes[0].bytes_total, 1024 * 1024);
	assert_int_equal(t->nodes[0].bytes_free, 512 * 1024);
	assert_int_equal(t->nodes[0].huge_2m_total, 7);
	assert_int_equal(t->netdev_count, 3); /* not bonding_masters */
	assert_string_equal(t->netdevs[1].dev.name, "eth0");
	assert_int_equal(t->netdevs[1].mbps, 100000);
	assert_int_equal(t->netdevs[1].mtu, 9000);
	assert_int_equal(t->netdevs[1].dev.numa_node, 0);
	assert_string_equal(t->netdevs[1].dev.bus, "0000:09:00.0");
	assert_string_equal(t->netdevs[1].dev.driver, "mlx5_core");
	assert_string_equal(t->netdevs[0].dev.name, "down0");
	assert_int_equal(t->netdevs[0].mbps, -1);
	assert_string_equal(t->netdevs[0].state, "unknown");
	assert_string_equal(t->netdevs[2].dev.bus, "");
	assert_int_equal(t->netdevs[2].dev.numa_node, -1);
	assert_int_equal(t->rdma_count, 4);
	assert_int_equal(t->rdma[3].active_ports, 0);
	assert_string_equal(t->rdma[0].rate, "100 Gb/sec (4X EDR)");
	assert_int_equal(t->gpu_count, 2);
	assert_string_equal(t->gpus[1].dev.name, "cuda:1");
	assert_string_equal(t->gpus[1].id, "10de:2330");
	mci_topology_free(t);
}

static void test_gpus_of_amd_come_after_those_of_nvidia(void **state)
{
	struct mci_topology *t;

	(void)state;
	put_gpu_of("0x1002\n", "0000:01:00.0", "devices/pci0000:00/0000:01:00.0", "0x030000\n");
	put_gpu_of("0x10de\n", "0000:02:00.0", "devices/pci0000:00/0000:02:00.0", "0x030200\n");
	put_gpu_of("0x1002\n", "0000:03:00.0", "devices/pci0000:00/0000:03:00.0", "0x120000\n");
	put_gpu_of("0x8086\n", "0000:04:00.0", "devices/pci0000:00/0000:04:00.0", "0x030000\n");
	put_gpu_of("0x10de\n", "0000:05:00.0", "devices/pci0000:00/0000:05:00.0", "0x038000\n");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_int_equal(t->gpu_count, 3);
	assert_string_equal(t->gpus[0].dev.name, "cuda:0");
	assert_string_equal(t->gpus[0].dev.bus, "0000:02:00.0");
	assert_string_equal(t->gpus[1].dev.bus, "0000:01:00.0");
	assert_string_equal(t->gpus[2].dev.bus, "0000:03:00.0");
	assert_string_equal(t->gpus[2].dev.name, "cuda:2");
	mci_topology_free(t);
}

static void test_distance_counts_bridges(void **state)
{
	struct mci_device a = { .path = "/sys/devices/pci0/b1/x" }, b = { .path = "/sys/devices/pci0/b1/xy" };
	struct mci_device c = { .path = "/sys/devices/pci0/b2/y" }, none = { .path = "" },
			  parent = { .path = "/sys/devices/pci0/b1" };

	(void)state;
	assert_int_equal(mci_device_distance(&a, &a), 0);
	assert_int_equal(mci_device_distance(&a, &b), 2);
	assert_int_equal(mci_device_distance(&b, &a), 2);
	assert_int_equal(mci_device_distance(&a, &c), 4);
	assert_int_equal(mci_device_distance(&a, &parent), 1);
	assert_true(mci_device_distance(&a, &none) == UINT32_MAX);
}

static void test_a_gpu_without_an_rdma_device_on_its_node_takes_the_nearest(void **state)
{
	struct mci_topology *t;
	json_t *matrix;
	char *text;

	(void)state;
	put_two_nodes();
	put_rdma("mlx5_0", "devices/pci0000:00/0000:00:01.0/0000:01:00.0", "0\n", "4: ACTIVE\n");
	put_gpu("0000:83:00.0", "devices/pci0000:80/0000:80:03.0/0000:83:00.0", "10\n", "0x030200\n");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	matrix = mci_topology_matrix(t);
	text = json_dumps(json_object_get(matrix, "cuda:0"), JSON_COMPACT);
	assert_string_equal(text, "[[\"mlx5_0\"],[]]");
	free(text);
	json_decref(matrix);
	mci_topology_free(t);
}

static void test_a_gpu_prefers_its_own_node_at_equal_distance(void **state)
{
	struct mci_topology *t;
	json_t *matrix;
	char *text;

	(void)state;
	put_two_nodes();
	put_rdma("mlx5_0", "devices/pci0000:00/0000:00:01.0/0000:01:00.0", "0\n", "4: ACTIVE\n");
	put_rdma("mlx5_1", "devices/pci0000:c0/0000:c0:01.0/0000:c1:00.0", "10\n", "4: ACTIVE\n");
	put_gpu("0000:83:00.0", "devices/pci0000:80/0000:80:03.0/0000:83:00.0", "10\n", "0x030200\n");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	matrix = mci_topology_matrix(t);
	text = json_dumps(json_object_get(matrix, "cuda:0"), JSON_COMPACT);
	assert_string_equal(text, "[[\"mlx5_1\"],[\"mlx5_0\"]]");
	free(text);
	json_decref(matrix);
	mci_topology_free(t);
}

static void test_an_empty_tree_is_one_node_and_says_what_is_missing(void **state)
{
	struct mci_topology *t;
	json_t *json;
	char *text;

	(void)state;
	assert_int_equal(mci_topology_scan(root, &t), 0);
	json = mci_topology_json(t, -1, 1);
	assert_non_null(json);
	text = json_dumps(json, JSON_COMPACT);
	assert_non_null(strstr(text, "\"priority_matrix\":{\"cpu:0\":[[],[]]}"));
	assert_non_null(strstr(text, "no RDMA: the kernel has no /sys/class/infiniband"));
	assert_non_null(strstr(text, "no GPU of NVIDIA"));
	free(text);
	json_decref(json);
	mci_topology_free(t);
}

static void test_odd_bytes_in_sysfs_do_no_harm(void **state)
{
	char long_text[5000];
	struct mci_topology *t;
	json_t *json;

	(void)state;
	memset(long_text, '7', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = '\0';
	put("class/net/eth0/ifindex", "2\n");
	put("class/net/eth0/operstate", "\xff\xfe\x01\n");
	put("class/net/eth0/speed", long_text);
	put("class/net/eth0/mtu", "\n");
	put("devices/system/cpu/online", "5-1,\n");
	put("devices/system/node/node0/cpulist", long_text);
	put("devices/system/node/node0/meminfo", long_text);
	put("devices/system/node/node99999999999999999999/cpulist", "0\n");
	put("class/infiniband/mlx5_0/ports/1/state", "");
	assert_int_equal(mci_topology_scan(root, &t), 0);
	assert_string_equal(t->netdevs[0].state, "???");
	assert_int_equal(t->netdevs[0].mbps, -1);
	json = mci_topology_json(t, -1, 1);
	assert_non_null(json);
	json_decref(json);
	mci_topology_free(t);
}

static void test_this_machine_can_be_shown(void **state)
{
	json_t *json;
	char *text;

	(void)state;
	assert_int_equal(mc_topology_show(&text), 0);
	json = json_loads(text, 0, NULL);
	assert_non_null(json);
	assert_true(json_integer_value(json_object_get(json, "cpus")) >= 1);
	assert_true(json_array_size(json_object_get(json, "numa_nodes")) >= 1);
	assert_true(json_is_object(json_object_get(json, "priority_matrix")));
	json_decref(json);
	free(text);
	assert_int_equal(mc_topology_show(NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_matrix_prefers_the_own_node_and_the_nearest_bridge),
		TEST(test_devices_are_described),
		TEST(test_gpus_of_amd_come_after_those_of_nvidia),
		TEST(test_distance_counts_bridges),
		TEST(test_a_gpu_without_an_rdma_device_on_its_node_takes_the_nearest),
		TEST(test_a_gpu_prefers_its_own_node_at_equal_distance),
		TEST(test_an_empty_tree_is_one_node_and_says_what_is_missing),
		TEST(test_odd_bytes_in_sysfs_do_no_harm),
		TEST(test_this_machine_can_be_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
