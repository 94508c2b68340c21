// SPDX-License-Identifier: MIT
/* What classic peers say of RDMA. First byte: 0 a record of a handshake, else a descriptor. */
#include <stdlib.h>
#include <string.h>

#include "transport/rdma/classic_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* What was understood is said again, and means the same. */
static void record(const char *json, size_t length)
{
	char server[MCI_NAME_MAX + 1], nic[MCI_RDMA_NIC_MAX];
	struct mci_rdma_record one, two;
	char *text;

	if (mci_rdma_record_decode(json, length, &one))
		return;
	if (mci_rdma_path_split(one.local, server, nic))
		must(*server && *nic && !strchr(server, '@'));
	if (one.count > MCI_RDMA_QPS_MAX)
		one.count = MCI_RDMA_QPS_MAX;
	text = mci_rdma_record_encode(&one);
	must(text && text[strlen(text) - 1] == '\n');
	must(!mci_rdma_record_decode(text, strlen(text), &two));
	must(!strcmp(one.local, two.local) && !strcmp(one.peer, two.peer) && !strcmp(one.reply, two.reply));
	must(one.count == two.count && !memcmp(one.qpn, two.qpn, one.count * sizeof(one.qpn[0])));
	must(one.has_gid == two.has_gid && one.lid == two.lid && !memcmp(one.gid, two.gid, sizeof(one.gid)));
	must(one.has_ack == two.has_ack && one.ack == two.ack);
	free(text);
}

static void descriptor(const char *json, size_t length)
{
	struct mci_rdma_classic_device device[MCI_RDMA_DEVICES_MAX];
	json_t *root = json_loadb(json, length, 0, NULL);
	struct mci_rdma_buffers buffers;
	const char *server;
	unsigned int i, first;
	uint8_t count;
	int n;

	if (!root)
		return;
	server = mci_rdma_classic_server(root);
	must(!server || (*server && strlen(server) <= MCI_NAME_MAX));
	if (!mci_rdma_classic_devices(root, device, &count)) {
		must(count && count <= MCI_RDMA_DEVICES_MAX);
		for (i = 0; i < count; i++)
			must(device[i].name[0] && strlen(device[i].name) < MCI_RDMA_NIC_MAX);
	}
	must(!mci_rdma_buffers_load(root, &buffers));
	for (i = 0; i < buffers.count; i++) {
		const struct mci_rdma_buffer *b = &buffers.list[i];

		must(b->length && b->addr + b->length > b->addr);
		must(!i || b[-1].addr <= b->addr);
		n = mci_rdma_buffers_find(&buffers, b->addr, b->length, &first);
		must(n < 0 || (n == 1 && buffers.list[first].addr == b->addr) || n > 1);
		n = mci_rdma_buffers_find(&buffers, b->addr, b->length * 2, &first);
		must(n < 0 || first + (unsigned int)n <= buffers.count);
	}
	mci_rdma_buffers_free(&buffers);
	json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] == 0)
		record((const char *)data + 1, size - 1);
	else
		descriptor((const char *)data + 1, size - 1);
	return 0;
}
