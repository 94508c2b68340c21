/* SPDX-License-Identifier: MIT */
/* Little-endian codec for everything on a wire or in a file, and a bounded reader and writer. */
#ifndef MCI_BYTES_H
#define MCI_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void mci_put16(void *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof(v));
}
static inline void mci_put32(void *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}
static inline void mci_put64(void *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}
static inline uint16_t mci_get16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}
static inline uint32_t mci_get32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}
static inline uint64_t mci_get64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* Reader: after the first read past the end every read yields zeros and @bad stays set. */
struct mci_reader {
	const uint8_t *p;
	size_t left;
	bool bad;
};

static inline void mci_reader_init(struct mci_reader *r, const void *p, size_t n)
{
	r->p = p;
	r->left = n;
	r->bad = false;
}

static inline void mci_read_bytes(struct mci_reader *r, void *out, size_t n)
{
	if (r->bad || n > r->left) {
		r->bad = true;
		memset(out, 0, n);
		return;
	}
	memcpy(out, r->p, n);
	r->p += n;
	r->left -= n;
}

static inline uint8_t mci_read8(struct mci_reader *r)
{
	uint8_t v;
	mci_read_bytes(r, &v, 1);
	return v;
}
static inline uint16_t mci_read16(struct mci_reader *r)
{
	uint8_t b[2];
	mci_read_bytes(r, b, 2);
	return mci_get16(b);
}
static inline uint32_t mci_read32(struct mci_reader *r)
{
	uint8_t b[4];
	mci_read_bytes(r, b, 4);
	return mci_get32(b);
}
static inline uint64_t mci_read64(struct mci_reader *r)
{
	uint8_t b[8];
	mci_read_bytes(r, b, 8);
	return mci_get64(b);
}

/* Writer into a fixed buffer: @bad is set, and nothing written, once it would overflow. */
struct mci_writer {
	uint8_t *p;
	size_t used, size;
	bool bad;
};

static inline void mci_writer_init(struct mci_writer *w, void *p, size_t size)
{
	w->p = p;
	w->used = 0;
	w->size = size;
	w->bad = false;
}

static inline void mci_write_bytes(struct mci_writer *w, const void *in, size_t n)
{
	if (w->bad || n > w->size - w->used) {
		w->bad = true;
		return;
	}
	if (n)
		memcpy(w->p + w->used, in, n);
	w->used += n;
}

static inline void mci_write8(struct mci_writer *w, uint8_t v) { mci_write_bytes(w, &v, 1); }
static inline void mci_write16(struct mci_writer *w, uint16_t v)
{
	uint8_t b[2];

	mci_put16(b, v);
	mci_write_bytes(w, b, sizeof(b));
}

static inline void mci_write32(struct mci_writer *w, uint32_t v)
{
	uint8_t b[4];

	mci_put32(b, v);
	mci_write_bytes(w, b, sizeof(b));
}

static inline void mci_write64(struct mci_writer *w, uint64_t v)
{
	uint8_t b[8];

	mci_put64(b, v);
	mci_write_bytes(w, b, sizeof(b));
}

#endif
