// SPDX-License-Identifier: MIT
/* The sidecar of a named memory: bytes are refused, or mean something possible and encode to the same. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t again[MCI_SIDECAR_SIZE];
	struct mci_sidecar sidecar;
	int ret = mci_sidecar_decode(data, size, &sidecar);

	if (ret && ret != -EBADMSG)
		abort();
	if (ret)
		return 0;
	if (!sidecar.length || !sidecar.page_size || sidecar.length % sidecar.page_size)
		abort();
	mci_sidecar_encode(&sidecar, again);
	if (memcmp(again, data, size))
		abort();
	return 0;
}
