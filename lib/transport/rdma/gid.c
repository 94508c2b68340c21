// SPDX-License-Identifier: MIT
/* Which GID a port speaks with: the table as verbs give it; the rule is lib/topology's, so that tools show the same. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"
#include "topology/topology.h"
#include "transport/rdma/rdma.h"

#define GIDS_MAX 1024

int mci_rdma_gid_choose(struct mci_nic *device, int wanted, struct ibv_gid_entry *out, char *why, size_t size)
{
	struct ibv_gid_entry *table = calloc(GIDS_MAX, sizeof(*table));
	struct mci_gid *list = calloc(GIDS_MAX, sizeof(*list));
	unsigned int count = 0;
	int chosen, ret = 0;
	ssize_t i, n;

	n = table && list ? device->rdma->verbs->_ibv_query_gid_table(device->context, table, GIDS_MAX, 0,
								      sizeof(*table))
			  : -ENOMEM;
	if (n < 0) {
		ret = mci_fail((int)n, "cannot read the GID table of %s: %s", device->name, strerror((int)-n));
		goto out_free;
	}
	for (i = 0; i < n; i++) {
		if (table[i].port_num != device->port)
			continue;
		memcpy(list[count].raw, table[i].gid.raw, sizeof(list[count].raw));
		list[count].index = table[i].gid_index;
		list[count].type = (uint8_t)table[i].gid_type;
		table[count++] = table[i];
	}
	chosen = mci_gid_choose(list, count, wanted, why, size);
	if (chosen < 0)
		ret = mci_fail(-ENOENT, "port %u of %s has %s; `mooncake topology` lists those it has", device->port,
			       device->name, why);
	else
		*out = table[chosen];
out_free:
	free(table);
	free(list);
	return ret;
}
