// SPDX-License-Identifier: MIT
/* Frames of the rdma control connection. First byte: which. What decodes must encode to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "transport/rdma/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(const uint8_t *out, uint32_t length, const uint8_t *p, size_t n)
{
	if (length != n || memcmp(out, p, n))
		abort();
}

static void keys(const uint8_t *p, size_t n)
{
	struct mci_rdma_keys k;
	uint8_t out[MCI_RDMA_KEYS_HEAD];
	const uint8_t *key;

	if (mci_rdma_keys_decode(p, n, &k, &key))
		return;
	mci_rdma_keys_encode(&k, out);
	if (memcmp(out, p, sizeof(out)) || key != p + sizeof(out) ||
	    n - sizeof(out) != 4u * k.chunks * k.devices)
		abort();
}

static void end(const uint8_t *p, size_t n)
{
	uint8_t out[MCI_RDMA_END_MAX];
	struct mci_rdma_end e, again;

	if (mci_rdma_end_decode(p, n, &e))
		return;
	/* Numbers are cut to 24 bits and sentences to ASCII: a second round changes nothing. */
	if (mci_rdma_end_decode(out, mci_rdma_end_encode(&e, out), &again) || e.count != again.count ||
	    strcmp(e.sentence, again.sentence) || memcmp(e.qpn, again.qpn, 4u * e.count))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_rdma_port port[MCI_RDMA_DEVICES_MAX];
	struct mci_rdma_ask ask[MCI_RDMA_ASK_MAX];
	struct mci_rdma_params params;
	uint8_t out[4 + 8 * MCI_RDMA_ASK_MAX], devices;
	uint16_t count;

	if (!size--)
		return 0;
	switch (*data++ % 5) {
	case 0:
		if (!mci_rdma_params_decode(data, size, &params)) {
			mci_rdma_params_encode(&params, out);
			same(out, MCI_RDMA_PARAMS, data, size);
		}
		break;
	case 1:
		if (!mci_rdma_asks_decode(data, size, ask, &count))
			same(out, mci_rdma_asks_encode(ask, count, out), data, size);
		break;
	case 2:
		keys(data, size);
		break;
	case 3:
		end(data, size);
		break;
	default:
		if (!mci_rdma_ports_decode(data, size, port, &devices))
			same(out, mci_rdma_ports_encode(port, devices, out), data, size);
	}
	return 0;
}
