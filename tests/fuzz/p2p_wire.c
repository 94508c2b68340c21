// SPDX-License-Identifier: MIT
/* Messages of the P2P store, as a peer may send them. First byte: which. What decodes must encode to the same
 * bytes. */
#include <stdlib.h>
#include <string.h>

#include "p2p/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(uint8_t *out, uint32_t length, const uint8_t *p, size_t n)
{
	if (!out || length != n || memcmp(out, p, n))
		abort();
	free(out);
}

static int print(const char *name, void *arg)
{
	*(size_t *)arg += strlen(name) + 1;
	return 0;
}

static void join(const uint8_t *p, uint32_t n)
{
	static uint32_t ids[MCI_P2P_RANGES_MAX];
	static uint64_t offsets[MCI_P2P_RANGES_MAX];
	struct mci_p2p_join j;
	uint32_t i, length;
	uint8_t *out;

	if (mci_p2p_get_join(p, n, &j))
		return;
	for (i = 0; i < j.region_count; i++)
		mci_p2p_join_region(&j, i, &ids[i], &offsets[i]);
	out = mci_p2p_put_join(j.root, j.flags, j.segment, ids, offsets, j.region_count, &length);
	same(out, length, p, n);
}

static void record(const uint8_t *p, uint32_t n)
{
	struct mci_p2p_record r;
	uint32_t i, length;
	uint64_t bytes = 0;
	uint8_t *out;

	if (mci_p2p_get_record(p, n, &r))
		return;
	for (i = 0; i < r.manifest->piece_count && i < 100; i++)
		bytes += mci_manifest_piece(r.manifest, r.manifest->piece_count - 1 - i).length;
	if (bytes > r.manifest->bytes)
		abort();
	out = mci_p2p_put_record(&r, &length);
	mci_manifest_free(r.manifest);
	same(out, length, p, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t root[MCI_P2P_HASH], *out;
	struct mci_p2p_list list;
	struct mci_p2p_error error;
	struct mci_p2p_ask ask;
	uint32_t n, length, number, text_length;
	const char *text;
	size_t total = 0;

	if (!size || size > MCI_P2P_FRAME_MAX)
		return 0;
	n = (uint32_t)size - 1;
	switch (*data++ % 9) {
	case 0:
		if (!mci_p2p_get_ask(data, n, &ask)) {
			out = mci_p2p_put_ask(&ask, &length);
			same(out, length, data, n);
		}
		break;
	case 1:
		record(data, n);
		break;
	case 2:
		if (!mci_p2p_get_chunk(data, n, root, &number, &text, &text_length) &&
		    text + text_length != (const char *)data + n)
			abort();
		break;
	case 3:
		join(data, n);
		break;
	case 4:
		if (!mci_p2p_get_map(data, n, &list)) {
			out = mci_p2p_put_map(list.root, list.first, list.p, list.count, &length);
			same(out, length, data, n);
		}
		break;
	case 5:
		if (!mci_p2p_get_list(data, n, &list)) {
			uint32_t pieces[MCI_P2P_LIST_MAX], i;

			for (i = 0; i < list.count; i++)
				pieces[i] = mci_p2p_list_at(&list, i);
			out = mci_p2p_put_list(list.root, pieces, list.count, &length);
			same(out, length, data, n);
		}
		break;
	case 6:
		if (!mci_p2p_get_number(data, n, root, &number)) {
			out = mci_p2p_put_number(root, number, &length);
			same(out, length, data, n);
		}
		break;
	case 7:
		if (!mci_p2p_get_members(data, n, root, print, &total) && total + MCI_P2P_HASH != n)
			abort();
		break;
	case 8:
		if (!mci_p2p_get_error(data, n, &error)) {
			out = mci_p2p_put_error(error.error, error.sentence, &length);
			same(out, length, data, n);
		}
		break;
	}
	return 0;
}
