// SPDX-License-Identifier: MIT
/* Metadata URIs from configuration files and the command line. */
#include <stdlib.h>
#include <string.h>

#include "metadata/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct mci_uri uri;
	char host[64];

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (!mci_uri_parse(text, &uri)) {
		unsigned int i;

		if (uri.count > MCI_URI_ENDPOINTS || (!uri.count && uri.kind != MCI_METADATA_P2P))
			abort();
		for (i = 0; i < uri.count; i++)
			if (!uri.endpoints[i].port || !uri.endpoints[i].host[0])
				abort();
		mci_metadata_host(text, host, sizeof(host));
	}
	free(text);
	return 0;
}
