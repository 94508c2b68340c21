// SPDX-License-Identifier: MIT
/*
 * Which GID a port speaks with. RoCE v2 over IPv4 crosses most networks, so it comes first; addresses that
 * are not routed come last. InfiniBand has one kind. The lowest index wins among equals.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/errors.h"
#include "transport/rdma/rdma.h"

#define GIDS_MAX 256

static bool is_ipv4(const union ibv_gid *gid)
{
	static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

	return !memcmp(gid->raw, prefix, sizeof(prefix));
}

static bool is_zero(const union ibv_gid *gid)
{
	static const uint8_t zero[16];

	return !memcmp(gid->raw, zero, sizeof(zero));
}

static const char *type_name(uint32_t type)
{
	switch (type) {
	case IBV_GID_TYPE_ROCE_V2:
		return "RoCE v2";
	case IBV_GID_TYPE_ROCE_V1:
		return "RoCE v1";
	default:
		return "InfiniBand";
	}
}

/* Lower is better; -1: not to be used. */
static int rank(const struct ibv_gid_entry *entry)
{
	const uint8_t *raw = entry->gid.raw;

	if (is_zero(&entry->gid))
		return -1;
	switch (entry->gid_type) {
	case IBV_GID_TYPE_IB:
		return 0;
	case IBV_GID_TYPE_ROCE_V2:
		if (is_ipv4(&entry->gid))
			return raw[12] == 127 ? 5 : raw[12] == 169 && raw[13] == 254 ? 4 : 0;
		return raw[0] == 0xfe && (raw[1] & 0xc0) == 0x80 ? 3 : raw[0] == 0xfd ? 2 : 1;
	default:
		return 6;
	}
}

static void describe(const struct ibv_gid_entry *entry, const char *how, char *why, size_t size)
{
	char text[INET6_ADDRSTRLEN] = "?";

	if (is_ipv4(&entry->gid))
		inet_ntop(AF_INET, entry->gid.raw + 12, text, sizeof(text));
	else
		inet_ntop(AF_INET6, entry->gid.raw, text, sizeof(text));
	snprintf(why, size, "GID %u, %s %s, %s", entry->gid_index, type_name(entry->gid_type), text, how);
}

int mci_rdma_gid_choose(struct mci_nic *device, int wanted, int *index, union ibv_gid *gid, char *why,
			size_t size)
{
	struct ibv_gid_entry table[GIDS_MAX], *best = NULL;
	int best_rank = 0;
	ssize_t i, n;

	n = device->rdma->verbs->_ibv_query_gid_table(device->context, table, GIDS_MAX, 0, sizeof(table[0]));
	if (n < 0)
		return mci_fail((int)n, "cannot read the GID table of %s: %s", device->name,
				strerror((int)-n));
	for (i = 0; i < n; i++) {
		int r = rank(&table[i]);

		if (table[i].port_num != device->port)
			continue;
		if (wanted >= 0 && table[i].gid_index == (uint32_t)wanted && r >= 0)
			break;
		if (wanted < 0 && r >= 0 && (!best || r < best_rank)) {
			best = &table[i];
			best_rank = r;
		}
	}
	if (wanted >= 0) {
		if (i == n)
			return mci_fail(
				-ENOENT,
				"%s has no GID at index %d of port %u; `mooncake topology` lists those it "
				"has; unset MC_GID_INDEX to choose by itself",
				device->name, wanted, device->port);
		best = &table[i];
	}
	if (!best)
		return mci_fail(-ENOENT, "port %u of %s has no GID; give its network interface an address",
				device->port, device->name);
	*index = (int)best->gid_index;
	*gid = best->gid;
	describe(best, wanted >= 0 ? "as configured" : "chosen: lowest index of the best kind", why, size);
	return 0;
}
