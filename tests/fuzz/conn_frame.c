// SPDX-License-Identifier: MIT
/* Frames of control connections: any bytes, in any portions, give the same frames, none beyond its limit. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/frame.h"

#define LIMIT 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size ? size : 1), head[MCI_FRAME_HEAD];
	size_t at = 0, used, again;
	struct mci_frame frame;
	int ret;

	memcpy(p, data, size);
	while (!(ret = mci_frame_parse(p + at, size - at, LIMIT, &frame, &used))) {
		must(used >= MCI_FRAME_HEAD && used <= 4 + LIMIT && used <= size - at);
		must(frame.body == p + at + MCI_FRAME_HEAD && frame.length == used - MCI_FRAME_HEAD &&
		     frame.fd == -1);
		mci_frame_head(head, frame.type, frame.flags, frame.id, frame.length);
		must(!memcmp(head, p + at, sizeof(head)));
		/* Told from its head alone, and from one byte less: what is still to come. */
		must(mci_frame_parse(p + at, used - 1, LIMIT, &frame, &again) == -EAGAIN);
		must(again == (used - 1 < MCI_FRAME_HEAD ? MCI_FRAME_HEAD : used));
		at += used;
	}
	must(ret == -EPROTO || (ret == -EAGAIN && used > size - at && used <= 4 + LIMIT));
	free(p);
	return 0;
}
