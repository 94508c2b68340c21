// SPDX-License-Identifier: MIT
/* RDMA devices as sysfs shows them: ports, their GIDs, and the network interface behind each. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "topology/sysfs.h"

#define PORTS_MAX 255
#define GIDS_MAX 1024 /* of a port; real tables have up to 256 */

/* "fe80:0000:0000:0000:5054:00ff:fe12:3456" */
static bool parse_gid(const char *text, uint8_t raw[16])
{
	unsigned int word[8];
	int used = 0, i;

	if (sscanf(text, "%4x:%4x:%4x:%4x:%4x:%4x:%4x:%4x%n", &word[0], &word[1], &word[2], &word[3], &word[4],
		   &word[5], &word[6], &word[7], &used) != 8 ||
	    text[used])
		return false;
	for (i = 0; i < 8; i++) {
		raw[2 * i] = (uint8_t)(word[i] >> 8);
		raw[2 * i + 1] = (uint8_t)word[i];
	}
	return true;
}

/* The kernel says "RoCE v2" or "IB/RoCE v1"; which of the latter two, the link layer tells. */
static uint8_t parse_type(const char *text, const char *link_layer)
{
	if (!strcmp(text, "RoCE v2"))
		return MCI_GID_ROCE_V2;
	return strcmp(link_layer, "InfiniBand") ? MCI_GID_ROCE_V1 : MCI_GID_IB;
}

static int read_gids(const char *path, struct mci_port *port)
{
	static const uint8_t zero[16];
	char text[MCI_TOPOLOGY_NAME], file[48];
	uint8_t raw[16];

	for (unsigned int i = 0; i < GIDS_MAX; i++) {
		struct mci_gid *gid;

		snprintf(file, sizeof(file), "gids/%u", i);
		if (!mci_sysfs_line(path, file, text, sizeof(text)))
			break;
		if (!parse_gid(text, raw) || !memcmp(raw, zero, sizeof(zero)))
			continue;
		gid = mci_sysfs_append(&port->gids, &port->gid_count, sizeof(*gid));
		if (!gid)
			return -ENOMEM;
		memcpy(gid->raw, raw, sizeof(raw));
		gid->index = i;
		snprintf(file, sizeof(file), "gid_attrs/types/%u", i);
		mci_sysfs_line(path, file, text, sizeof(text));
		gid->type = parse_type(text, port->link_layer);
		snprintf(file, sizeof(file), "gid_attrs/ndevs/%u", i);
		mci_sysfs_line(path, file, gid->netdev, sizeof(gid->netdev));
	}
	return 0;
}

/* "4: ACTIVE" = "ACTIVE", "5: LinkUp" = "LinkUp" */
static void read_state(const char *path, const char *file, char *out, size_t size)
{
	char text[MCI_TOPOLOGY_NAME], *word;

	mci_sysfs_line(path, file, text, sizeof(text));
	word = strchr(text, ' ');
	mci_sysfs_copy(out, size, word ? word + 1 : text);
}

static int add_port(struct mci_rdma_device *rdma, const char *path, unsigned int number)
{
	struct mci_port *port = mci_sysfs_append(&rdma->port, &rdma->ports, sizeof(*port));
	char state[MCI_TOPOLOGY_NAME];
	int ret;

	if (!port)
		return -ENOMEM;
	port->number = number;
	port->active = mci_sysfs_line(path, "state", state, sizeof(state)) && state[0] == '4';
	read_state(path, "state", port->state, sizeof(port->state));
	read_state(path, "phys_state", port->physical, sizeof(port->physical));
	mci_sysfs_line(path, "link_layer", port->link_layer, sizeof(port->link_layer));
	mci_sysfs_line(path, "rate", port->rate, sizeof(port->rate));
	port->lid = (uint32_t)mci_sysfs_number(path, "lid", 0);
	ret = read_gids(path, port);
	for (unsigned int i = 0; i < port->gid_count && !*port->netdev; i++)
		mci_sysfs_copy(port->netdev, sizeof(port->netdev), port->gids[i].netdev);
	return ret;
}

int mci_sysfs_rdma(struct mci_topology *t, const char *path, const char *name)
{
	struct mci_rdma_device *rdma = mci_sysfs_append(&t->rdma, &t->rdma_count, sizeof(*rdma));
	char device[PATH_MAX + 8], port[PATH_MAX + 16];
	int ret = 0;

	if (!rdma)
		return -ENOMEM;
	snprintf(device, sizeof(device), "%s/device", path);
	mci_sysfs_device(device, name, &rdma->dev);
	for (unsigned int i = 1; i <= PORTS_MAX && !ret; i++) {
		snprintf(port, sizeof(port), "%s/ports/%u", path, i);
		if (access(port, F_OK))
			break;
		ret = add_port(rdma, port, i);
	}
	mci_rdma_device_sum(rdma);
	return ret;
}

/* What is said of the device as a whole. */
void mci_rdma_device_sum(struct mci_rdma_device *rdma)
{
	rdma->active_ports = 0;
	for (unsigned int i = 0; i < rdma->ports; i++) {
		if (rdma->port[i].active && !rdma->active_ports++)
			mci_sysfs_copy(rdma->rate, sizeof(rdma->rate), rdma->port[i].rate);
	}
	if (rdma->ports)
		mci_sysfs_copy(rdma->link_layer, sizeof(rdma->link_layer), rdma->port[0].link_layer);
}
