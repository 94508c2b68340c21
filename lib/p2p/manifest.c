// SPDX-License-Identifier: MIT
/* Pieces, hashes, root of an object, and their text in chunks. Pure. */
#include "p2p/manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/uuid.h"

#define LABEL "mooncake p2p 1\n"
#define HASHES_PER_CHUNK (MCI_P2P_CHUNK_MAX / (2 * MCI_P2P_HASH))

uint64_t mci_manifest_piece_size(uint64_t bytes)
{
	uint64_t size = MCI_P2P_PIECE_MIN;

	while (size < MCI_P2P_PIECE_MAX && size * 2 <= bytes / 256)
		size *= 2;
	return size;
}

static int check_sizes(const uint64_t *ranges, uint32_t count, uint64_t piece_size)
{
	uint64_t bytes = 0, pieces = 0;
	uint32_t i;

	if (!count || count > MCI_P2P_RANGES_MAX)
		return mci_fail(-EINVAL, "an object has 1 to %u ranges, not %u; join neighbours into one",
				MCI_P2P_RANGES_MAX, count);
	if (piece_size < MCI_P2P_PIECE_MIN || piece_size > MCI_P2P_PIECE_MAX ||
	    (piece_size & (piece_size - 1)))
		return mci_fail(-EINVAL, "a piece is a power of two from %u to %u bytes, not %llu",
				MCI_P2P_PIECE_MIN, MCI_P2P_PIECE_MAX, (unsigned long long)piece_size);
	for (i = 0; i < count; i++) {
		if (!ranges[i])
			return mci_fail(-EINVAL, "range %u of the object is empty; leave it out", i);
		if (bytes + ranges[i] < bytes || bytes + ranges[i] > INT64_MAX)
			return mci_fail(-EINVAL, "the ranges of the object come to more than 2^63 bytes");
		bytes += ranges[i];
		pieces += (ranges[i] - 1) / piece_size + 1;
	}
	if (pieces > MCI_P2P_PIECES_MAX)
		return mci_fail(-EINVAL, "%llu pieces of %llu bytes are more than %u; take larger pieces",
				(unsigned long long)pieces, (unsigned long long)piece_size,
				MCI_P2P_PIECES_MAX);
	return 0;
}

int mci_manifest_new(const uint64_t *ranges, uint32_t count, uint64_t piece_size,
		     struct mci_manifest **manifest)
{
	struct mci_manifest *m;
	uint32_t i;
	int ret;

	ret = check_sizes(ranges, count, piece_size);
	if (ret)
		return ret;
	m = calloc(1, sizeof(*m));
	if (!m)
		goto no_memory;
	m->piece_size = piece_size;
	m->range_count = count;
	m->ranges = malloc(count * sizeof(*m->ranges));
	m->first = malloc((count + 1) * sizeof(*m->first));
	if (!m->ranges || !m->first)
		goto no_memory;
	for (i = 0; i < count; i++) {
		m->ranges[i] = ranges[i];
		m->bytes += ranges[i];
		m->first[i] = m->piece_count;
		m->piece_count += (uint32_t)((ranges[i] - 1) / piece_size + 1);
	}
	m->first[count] = m->piece_count;
	m->hash = calloc(m->piece_count, sizeof(*m->hash));
	if (!m->hash)
		goto no_memory;
	*manifest = m;
	return 0;
no_memory:
	mci_manifest_free(m);
	return mci_fail(-ENOMEM, "no memory for the list of an object's pieces");
}

void mci_manifest_free(struct mci_manifest *manifest)
{
	if (!manifest)
		return;
	free(manifest->ranges);
	free(manifest->first);
	free(manifest->hash);
	free(manifest);
}

struct mci_piece mci_manifest_piece(const struct mci_manifest *manifest, uint32_t index)
{
	uint32_t low = 0, high = manifest->range_count;
	struct mci_piece piece;
	uint64_t left;

	while (high - low > 1) { /* first[low] <= index < first[high] */
		uint32_t middle = low + (high - low) / 2;

		if (manifest->first[middle] <= index)
			low = middle;
		else
			high = middle;
	}
	piece.range = low;
	piece.offset = (uint64_t)(index - manifest->first[low]) * manifest->piece_size;
	left = manifest->ranges[low] - piece.offset;
	piece.length = (uint32_t)(left < manifest->piece_size ? left : manifest->piece_size);
	return piece;
}

static void update64(EVP_MD_CTX *ctx, uint64_t value)
{
	uint8_t b[8];

	mci_put64(b, value);
	EVP_DigestUpdate(ctx, b, sizeof(b));
}

static void update32(EVP_MD_CTX *ctx, uint32_t value)
{
	uint8_t b[4];

	mci_put32(b, value);
	EVP_DigestUpdate(ctx, b, sizeof(b));
}

static void compute_root(const struct mci_manifest *m, uint8_t root[MCI_P2P_HASH])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint32_t i;

	if (!ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		abort(); /* no memory for 200 bytes: nothing that comes after could be trusted */
	EVP_DigestUpdate(ctx, LABEL, sizeof(LABEL) - 1);
	update64(ctx, m->piece_size);
	update32(ctx, m->range_count);
	for (i = 0; i < m->range_count; i++)
		update64(ctx, m->ranges[i]);
	update32(ctx, m->piece_count);
	EVP_DigestUpdate(ctx, m->hash, (size_t)m->piece_count * MCI_P2P_HASH);
	if (EVP_DigestFinal_ex(ctx, root, NULL) != 1)
		abort();
	EVP_MD_CTX_free(ctx);
}

void mci_manifest_seal(struct mci_manifest *manifest) { compute_root(manifest, manifest->root); }

void mci_piece_hash(const void *p, size_t n, uint8_t hash[MCI_P2P_HASH])
{
	if (EVP_Digest(p, n, hash, NULL, EVP_sha256(), NULL) != 1)
		abort();
}

void mci_root_text(const uint8_t root[MCI_P2P_HASH], char text[2 * MCI_P2P_HASH + 1])
{
	mci_hex(root, MCI_P2P_HASH, text);
}

int mci_root_parse(const char *text, uint8_t root[MCI_P2P_HASH])
{
	if (strlen(text) != 2 * MCI_P2P_HASH || mci_unhex(text, root, MCI_P2P_HASH))
		return -EINVAL;
	return 0;
}

uint32_t mci_manifest_chunks(const struct mci_manifest *manifest)
{
	return (manifest->piece_count - 1) / HASHES_PER_CHUNK + 1;
}

/* Hashes in chunk @index; 0 = there is no such chunk. */
static uint32_t chunk_hashes(const struct mci_manifest *m, uint32_t index)
{
	uint32_t left;

	if (index >= mci_manifest_chunks(m))
		return 0;
	left = m->piece_count - index * HASHES_PER_CHUNK;
	return left < HASHES_PER_CHUNK ? left : HASHES_PER_CHUNK;
}

char *mci_manifest_chunk(const struct mci_manifest *manifest, uint32_t index)
{
	uint32_t count = chunk_hashes(manifest, index);
	char *text = malloc((size_t)count * 2 * MCI_P2P_HASH + 1);

	if (!text)
		return NULL;
	*text = '\0';
	if (count)
		mci_hex(manifest->hash[index * HASHES_PER_CHUNK], (size_t)count * MCI_P2P_HASH, text);
	return text;
}

int mci_manifest_take_chunk(struct mci_manifest *manifest, uint32_t index, const char *text, size_t length)
{
	uint32_t count = chunk_hashes(manifest, index), i;

	if (!count)
		return mci_fail(-EBADMSG, "the list of hashes has no chunk %u; it has %u", index,
				mci_manifest_chunks(manifest));
	if (length != (size_t)count * 2 * MCI_P2P_HASH)
		return mci_fail(-EBADMSG, "chunk %u of the list of hashes has %zu bytes, not %zu", index,
				length, (size_t)count * 2 * MCI_P2P_HASH);
	for (i = 0; i < count; i++) {
		char one[2 * MCI_P2P_HASH + 1];

		memcpy(one, text + (size_t)i * 2 * MCI_P2P_HASH, 2 * MCI_P2P_HASH);
		one[2 * MCI_P2P_HASH] = '\0';
		if (mci_root_parse(one, manifest->hash[index * HASHES_PER_CHUNK + i]))
			return mci_fail(-EBADMSG,
					"hash %u in chunk %u of the list of hashes is not hexadecimal", i,
					index);
	}
	return 0;
}

int mci_manifest_check(struct mci_manifest *manifest, const uint8_t root[MCI_P2P_HASH])
{
	char is[2 * MCI_P2P_HASH + 1], wanted[2 * MCI_P2P_HASH + 1];

	compute_root(manifest, manifest->root);
	if (!memcmp(manifest->root, root, MCI_P2P_HASH))
		return 0;
	mci_root_text(manifest->root, is);
	mci_root_text(root, wanted);
	return mci_fail(-EBADMSG,
			"sizes and hashes come to root %.16s..., not %.16s...: they are not this object's",
			is, wanted);
}
