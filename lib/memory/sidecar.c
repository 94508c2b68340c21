// SPDX-License-Identifier: MIT
/* Sidecar of a named memory: magic, version, length, page size, inode, content id, pid of the holder, xxh3.
 */
#include <xxhash.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "memory/memory.h"

#define MAGIC "MOONMEM1"
#define CHECKED (MCI_SIDECAR_SIZE - 8)

void mci_sidecar_encode(const struct mci_sidecar *sidecar, uint8_t out[MCI_SIDECAR_SIZE])
{
	struct mci_writer w;

	mci_writer_init(&w, out, MCI_SIDECAR_SIZE);
	mci_write_bytes(&w, MAGIC, 8);
	mci_write64(&w, sidecar->length);
	mci_write64(&w, sidecar->page_size);
	mci_write64(&w, sidecar->inode);
	mci_write_bytes(&w, sidecar->content_id.b, sizeof(sidecar->content_id.b));
	mci_write32(&w, sidecar->pid);
	mci_write32(&w, 0);
	mci_write64(&w, 0);
	mci_write64(&w, XXH3_64bits(out, CHECKED));
}

int mci_sidecar_decode(const void *in, size_t length, struct mci_sidecar *sidecar)
{
	struct mci_sidecar s;
	struct mci_reader r;
	uint8_t magic[8];

	if (length != MCI_SIDECAR_SIZE)
		return -EBADMSG;
	mci_reader_init(&r, in, length);
	mci_read_bytes(&r, magic, 8);
	s.length = mci_read64(&r);
	s.page_size = mci_read64(&r);
	s.inode = mci_read64(&r);
	mci_read_bytes(&r, s.content_id.b, sizeof(s.content_id.b));
	s.pid = mci_read32(&r);
	if (mci_read32(&r) || mci_read64(&r))
		return -EBADMSG;
	if (memcmp(magic, MAGIC, 8) || mci_read64(&r) != XXH3_64bits(in, CHECKED))
		return -EBADMSG;
	if (!s.length || !s.page_size || s.page_size & (s.page_size - 1) || s.length & (s.page_size - 1))
		return -EBADMSG;
	*sidecar = s;
	return 0;
}
