// SPDX-License-Identifier: MIT
/*
 * The first bytes of a classic client, read as the rpc port reads them: by what each part says of the
 * next, within the bounds for strangers (probe only) and for classic peers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "net/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void serve(const uint8_t *p, size_t n, bool classic)
{
	struct mci_classic m;
	uint8_t head[9];
	size_t have = 0, head_length;
	ssize_t need;

	while ((need = mci_opening_need(p, have, classic)) > (ssize_t)have) {
		must((size_t)need <= (classic ? 8 + (size_t)MCI_CLASSIC_MAX : MCI_PROBE_MAX));
		if ((size_t)need > n)
			return;
		have = (size_t)need;
	}
	if (need < 0) {
		must(need == -EPROTO || (need == -EACCES && !classic));
		return;
	}
	if (mci_opening_is_hello(p, have)) {
		must(mci_classic_read(p, have, &m) == -EPROTO);
		return;
	}
	must(!mci_classic_read(p, have, &m));
	must(m.type <= 3 && m.json + m.length == (const char *)p + have);
	must(classic || (m.type == 3 && !m.old));
	/* The head of a reply in the same form, for a body of the same length, is the head that came. */
	head_length = mci_classic_head(head, m.type, m.old, m.length);
	must(head_length == have - m.length && !memcmp(head, p, head_length));
	if (have < n)
		must(mci_classic_read(p, n, &m) == -EPROTO); /* not one byte more */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size ? size : 1);

	memcpy(p, data, size);
	serve(p, size, false);
	serve(p, size, true);
	free(p);
	return 0;
}
