// SPDX-License-Identifier: MIT
/* Distances between devices, and the priority matrix in the format that classic tools read. No state. */
#include <stdio.h>
#include <string.h>

#include "topology/topology.h"

unsigned int mci_device_distance(const struct mci_device *a, const struct mci_device *b)
{
	const char *p = a->path, *q = b->path;
	size_t common = 0, i;
	unsigned int steps = 0;

	if (!*p || !*q)
		return UINT32_MAX;
	for (i = 0; p[i] && p[i] == q[i]; i++) {
		if (p[i] == '/')
			common = i;
	}
	/* One may be the parent of the other, or be the same. */
	if ((!p[i] || p[i] == '/') && (!q[i] || q[i] == '/'))
		common = i;
	for (i = common; p[i]; i++)
		steps += p[i] == '/';
	for (i = common; q[i]; i++)
		steps += q[i] == '/';
	return steps;
}

/* Add [[preferred], [other]] under @key; whoever has no active port is neither. */
static int add_entry(json_t *matrix, const char *key, const struct mci_topology *t,
		     bool (*preferred)(const struct mci_rdma_device *rdma, const void *arg), const void *arg)
{
	json_t *near = json_array(), *far = json_array(), *pair = json_array();
	int ret = 0;

	for (unsigned int i = 0; i < t->rdma_count; i++) {
		const struct mci_rdma_device *rdma = &t->rdma[i];

		if (rdma->active_ports)
			ret |= json_array_append_new(preferred(rdma, arg) ? near : far,
						     json_string(rdma->dev.name));
	}
	ret |= json_array_append_new(pair, near);
	ret |= json_array_append_new(pair, far);
	ret |= json_object_set_new(matrix, key, pair);
	return ret;
}

static bool on_node(const struct mci_rdma_device *rdma, const void *arg)
{
	return rdma->dev.numa_node == *(const int *)arg;
}

struct nearest {
	const struct mci_gpu *gpu;
	unsigned int distance;
	bool same_node; /* only devices of the GPU's node are candidates */
};

static bool is_nearest(const struct mci_rdma_device *rdma, const void *arg)
{
	const struct nearest *n = arg;

	return (!n->same_node || rdma->dev.numa_node == n->gpu->dev.numa_node) &&
	       mci_device_distance(&n->gpu->dev, &rdma->dev) == n->distance;
}

static int add_gpu_entry(json_t *matrix, const struct mci_topology *t, const struct mci_gpu *gpu)
{
	struct nearest n = { .gpu = gpu, .distance = UINT32_MAX };

	for (unsigned int i = 0; i < t->rdma_count; i++) {
		const struct mci_rdma_device *rdma = &t->rdma[i];

		if (rdma->active_ports && gpu->dev.numa_node >= 0 &&
		    rdma->dev.numa_node == gpu->dev.numa_node)
			n.same_node = true;
	}
	for (unsigned int i = 0; i < t->rdma_count; i++) {
		const struct mci_rdma_device *rdma = &t->rdma[i];
		unsigned int distance = mci_device_distance(&gpu->dev, &rdma->dev);

		if (rdma->active_ports && distance < n.distance &&
		    (!n.same_node || rdma->dev.numa_node == gpu->dev.numa_node))
			n.distance = distance;
	}
	return add_entry(matrix, gpu->dev.name, t, is_nearest, &n);
}

json_t *mci_topology_matrix(const struct mci_topology *topology)
{
	json_t *matrix = json_object();
	int ret = 0;

	for (unsigned int i = 0; i < topology->node_count; i++) {
		char key[32];

		snprintf(key, sizeof(key), "cpu:%d", topology->nodes[i].id);
		ret |= add_entry(matrix, key, topology, on_node, &topology->nodes[i].id);
	}
	for (unsigned int i = 0; i < topology->gpu_count; i++)
		ret |= add_gpu_entry(matrix, topology, &topology->gpus[i]);
	if (ret) {
		json_decref(matrix);
		return NULL;
	}
	return matrix;
}
