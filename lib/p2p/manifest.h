/* SPDX-License-Identifier: MIT */
/*
 * What an object is: lengths, pieces, their hashes, and the root that vouches for all of them. Pure: no
 * socket, no thread, no clock. A manifest never changes once made; its root names it.
 *
 * A piece never spans two ranges. Piece i of a range of length L begins at i * piece_size; the last one is
 * short.
 *
 * root = SHA-256("mooncake p2p 1\n" | u64 piece_size | u32 ranges | u64 length of each | u32 pieces |
 *                SHA-256 of each piece), integers little-endian.
 */
#ifndef MCI_P2P_MANIFEST_H
#define MCI_P2P_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCI_P2P_HASH 32
#define MCI_P2P_PIECE_MIN 4096u
#define MCI_P2P_PIECE_MAX (4u << 20)
#define MCI_P2P_RANGES_MAX 16384u     /* their lengths fit a record of 512 KiB */
#define MCI_P2P_PIECES_MAX (1u << 24) /* 64 TiB */
#define MCI_P2P_CHUNK_MAX \
	(512u << 10) /* a chunk of the manifest as stored, in bytes of text (contracts F1) */

struct mci_manifest {
	uint64_t bytes;	     /* of the object */
	uint64_t piece_size; /* power of two */
	uint32_t range_count, piece_count;
	uint64_t *ranges;	       /* lengths, each > 0 */
	uint32_t *first;	       /* first piece of each range; [range_count] = piece_count */
	uint8_t (*hash)[MCI_P2P_HASH]; /* of each piece */
	uint8_t root[MCI_P2P_HASH];
};

struct mci_piece {
	uint32_t range;
	uint32_t length;
	uint64_t offset; /* in the range */
};

/* Power of two, at most 4 MiB and at most bytes / 256 (the contract allows up to bytes / 64), at least 4 KiB.
 */
uint64_t mci_manifest_piece_size(uint64_t bytes);
/* Layout without hashes (zeros) and root. -EINVAL with a sentence: sizes, counts, overflow; -ENOMEM. */
int mci_manifest_new(const uint64_t *ranges, uint32_t count, uint64_t piece_size,
		     struct mci_manifest **manifest);
void mci_manifest_free(struct mci_manifest *manifest); /* NULL is fine */
struct mci_piece mci_manifest_piece(const struct mci_manifest *manifest, uint32_t index);
void mci_manifest_seal(struct mci_manifest *manifest); /* root from the hashes */
void mci_piece_hash(const void *p, size_t n, uint8_t hash[MCI_P2P_HASH]);
void mci_root_text(const uint8_t root[MCI_P2P_HASH], char text[2 * MCI_P2P_HASH + 1]);
int mci_root_parse(const char *text, uint8_t root[MCI_P2P_HASH]); /* -EINVAL: not 64 hexadecimal digits */

/* The stored form: hashes as hexadecimal text in chunks, each at most MCI_P2P_CHUNK_MAX bytes; chunk i holds
 * the same number of hashes but for the last. */
uint32_t mci_manifest_chunks(const struct mci_manifest *manifest);
char *mci_manifest_chunk(const struct mci_manifest *manifest,
			 uint32_t index); /* malloc'd; NULL = no memory */
/* -EBADMSG with a sentence: wrong length, not hexadecimal, an index beyond the end. */
int mci_manifest_take_chunk(struct mci_manifest *manifest, uint32_t index, const char *text, size_t length);
/* All chunks taken: does it come to this root? Sets manifest->root. -EBADMSG with a sentence. */
int mci_manifest_check(struct mci_manifest *manifest, const uint8_t root[MCI_P2P_HASH]);

#endif
