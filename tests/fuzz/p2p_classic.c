// SPDX-License-Identifier: MIT
/* The classic P2P record as anybody may have left it in the metadata service. What is taken survives a round.
 */
#include <stdlib.h>
#include <string.h>

#include "p2p/classic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_classic_record *r, *again;
	char *text, *second;

	if (mci_classic_parse((const char *)data, size, &r))
		return 0;
	text = mci_classic_text(r);
	if (!text || mci_classic_parse(text, strlen(text), &again))
		abort();
	second = mci_classic_text(again);
	if (!second || strcmp(text, second))
		abort();
	free(text);
	free(second);
	mci_classic_free(r);
	mci_classic_free(again);
	return 0;
}
