// SPDX-License-Identifier: MIT
/* Records and members of the P2P store as anybody may have left them in the metadata service. First byte:
 * which. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "p2p/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A name as a caller has checked it; a member's key below its prefix. */
static struct mc_engine engine; /* without a key */
static const char name[] = "foo/bar";
static const char key[] =
	"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff/0123456789abcdef0123456789abcdef.1";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char found_name[MCI_P2P_NAME_MAX + 1], *text = NULL;
	struct mci_found found;
	struct mci_seen seen, again;

	if (!size)
		return 0;
	text = malloc(size); /* exactly as long, so that a read beyond it is seen */
	memcpy(text, data + 1, size - 1);
	if (data[0] & 1) {
		if (!mci_seen_decode(key, text, size - 1, &seen)) {
			char *back = NULL;

			if (mci_seen_encode(&seen, &back) ||
			    mci_seen_decode(key, back, strlen(back), &again) ||
			    strcmp(seen.segment, again.segment) || strcmp(seen.object, again.object) ||
			    seen.seed != again.seed || seen.whole != again.whole)
				abort();
			free(back);
		}
	} else {
		mci_record_name(text, size - 1, found_name);
		if (!mci_record_decode(&engine, name, text, size - 1, &found)) {
			if (!found.manifest->piece_count)
				abort();
			mci_manifest_free(found.manifest);
		}
	}
	free(text);
	return 0;
}
