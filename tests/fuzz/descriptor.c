// SPDX-License-Identifier: MIT
/* Segment descriptors and rpc meta records from a metadata service or a peer. What decodes must encode again.
 */
#include "engine/descriptor.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_descriptor *d, *again;
	char host[MCI_HOST_MAX];
	uint16_t port;
	char *text;

	mci_rpc_meta_decode((const char *)data, size, host, &port);
	if (mci_descriptor_decode((const char *)data, size, NULL, &d))
		return 0;
	if (d->has_ours && !mci_descriptor_encode(d, NULL, &text)) {
		if (mci_descriptor_decode(text, strlen(text), NULL, &again))
			abort();
		mci_descriptor_free(again);
		free(text);
	}
	mci_descriptor_free(d);
	return 0;
}
