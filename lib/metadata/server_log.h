/* SPDX-License-Identifier: MIT */
/*
 * Append-only file of the metadata server: every change is one record with a checksum.
 *
 *   header, 32 bytes: "MCMETA1\n", u64 salt, u64 xxh3(magic, salt), u32 pid of the holder, u32 zero
 *   record, at a multiple of 8 bytes:
 *     u32 mark (from the salt), u32 length of the whole record (a multiple of 8),
 *     u64 xxh3 (seed: salt xor offset in the file) over all that follows,
 *     u64 version, u32 ttl_ms, u16 key length, u8 type, u8 zero, u32 value length, key, value, zeros
 *
 * The salt keeps a client from smuggling in records inside a value; the offset in the seed keeps a
 * record from being valid anywhere else. All little-endian.
 *
 * A change is in the page cache (write()) before it is answered: the death of the server loses nothing.
 * mci_keylog_sync() brings it to the disk; the owner calls it at most 100 ms after a change, so the
 * death of the host loses at most the changes since then.
 *
 * Appending and sync-ing exclude each other by the owner's locks as said per function.
 */
#ifndef MCI_SERVER_LOG_H
#define MCI_SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCI_KEYLOG_HEADER 32
#define MCI_KEYLOG_RECORD_HEADER 36

enum mci_keylog_type { MCI_KEYLOG_PUT = 1, MCI_KEYLOG_DELETE = 2 };

struct mci_keylog_record {
	enum mci_keylog_type type;
	uint64_t version;
	uint32_t ttl_ms;
	const char *key; /* not terminated */
	uint16_t key_length;
	const char *value;
	uint32_t value_length;
};

struct mci_keylog_report {
	uint64_t records;
	uint64_t torn_bytes;	/* cut off at the end */
	uint64_t damaged_bytes; /* skipped, intact records follow */
};

struct mci_keylog;

/*
 * Opens or creates @path, takes its lock, hands every intact record to @fn (non-zero ends it with that).
 * -EBUSY: held, naming the pid; -EBADMSG: not such a file; -EIO, -EACCES, ... Sentences all.
 */
int mci_keylog_open(const char *path, int (*fn)(void *arg, const struct mci_keylog_record *record), void *arg,
		    struct mci_keylog **log, struct mci_keylog_report *report);
void mci_keylog_close(struct mci_keylog *log);

/* Owner's lock held. -ENOSPC, -EIO with a sentence: nothing was appended. */
int mci_keylog_append(struct mci_keylog *log, const struct mci_keylog_record *record);
uint64_t mci_keylog_size(const struct mci_keylog *log); /* owner's lock held */
uint64_t mci_keylog_record_size(size_t key_length, size_t value_length);

/* Without the owner's lock, one thread at a time (the same one for all that follow). */
int mci_keylog_sync(struct mci_keylog *log);

/*
 * Compaction: begin (lock held), then mci_keylog_rewrite() of every living key (lock held, in as many
 * stretches as wanted; appends between go to both files), then presync (no lock), then finish (lock
 * held), or abandon (lock held). finish puts the new file in the place of the old; mci_keylog_sync()
 * makes that last.
 */
int mci_keylog_compact_begin(struct mci_keylog *log);
int mci_keylog_rewrite(struct mci_keylog *log, const struct mci_keylog_record *record);
int mci_keylog_compact_presync(struct mci_keylog *log);
int mci_keylog_compact_finish(struct mci_keylog *log);
void mci_keylog_compact_abandon(struct mci_keylog *log);

/* Sets the checksum of a header or record in memory, as the file would have it (for tests). */
void mci_keylog_seal_header(uint8_t header[MCI_KEYLOG_HEADER], uint64_t salt);
size_t mci_keylog_seal_record(uint8_t *out, const struct mci_keylog_record *record, uint64_t salt,
			      uint64_t offset);

#endif
