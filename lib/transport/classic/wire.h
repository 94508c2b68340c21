/* SPDX-License-Identifier: MIT */
/* The classic TCP data protocol, byte by byte: a header of 24 bytes, and in v2 a status of 8. */
#ifndef MCI_CLASSIC_WIRE_H
#define MCI_CLASSIC_WIRE_H

#include <errno.h>
#include <stddef.h>

#include "core/bytes.h"

/* The struct around an embedded watch, task or timer. */
#define container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define MCI_CLASSIC_HEADER 24
#define MCI_CLASSIC_STATUS 8
#define MCI_CLASSIC_MAGIC 0x4d435456u /* high half of a status */

enum mci_classic_code { MCI_CLASSIC_OK = 0, MCI_CLASSIC_REJECTED = 1 };

struct mci_classic_request {
	uint64_t size, addr;
	bool write, v2;
};

static inline void mci_classic_request_encode(uint8_t p[MCI_CLASSIC_HEADER],
					      const struct mci_classic_request *r)
{
	mci_put64(p, r->size);
	mci_put64(p + 8, r->addr);
	mci_put64(p + 16, (r->v2 ? 0x80 : 0) | (r->write ? 1 : 0));
}

/* The 7 bytes of padding are undefined: ignored. Every operation but 1 is a read, as classic servers have it.
 */
static inline void mci_classic_request_decode(const uint8_t p[MCI_CLASSIC_HEADER],
					      struct mci_classic_request *r)
{
	r->size = mci_get64(p);
	r->addr = mci_get64(p + 8);
	r->write = (p[16] & 0x7f) == 1;
	r->v2 = p[16] & 0x80;
}

static inline void mci_classic_status_encode(uint8_t p[MCI_CLASSIC_STATUS], enum mci_classic_code code)
{
	mci_put64(p, (uint64_t)MCI_CLASSIC_MAGIC << 32 | (uint32_t)code);
}

/* 0, -EFAULT: the address was rejected, -EREMOTEIO: another code, -EPROTO: not a v2 server. */
static inline int mci_classic_status_decode(const uint8_t p[MCI_CLASSIC_STATUS])
{
	uint64_t v = mci_get64(p);

	if (v >> 32 != MCI_CLASSIC_MAGIC)
		return -EPROTO;
	if ((uint32_t)v == MCI_CLASSIC_OK)
		return 0;
	return (uint32_t)v == MCI_CLASSIC_REJECTED ? -EFAULT : -EREMOTEIO;
}

#endif
