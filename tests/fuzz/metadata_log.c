// SPDX-License-Identifier: MIT
/*
 * Replay of the metadata server's log file. An input that begins with an odd byte is a file's content
 * behind a good header; with an even byte it is a row of record bodies (u16 length, bytes), which get a
 * right mark, length and checksum, so that what is behind the checksum is reached too.
 * Whatever the file says: records are well-formed, opening repairs it, and what is appended then stays.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/bytes.h"
#include "core/log.h"
#include "metadata/server_keys.h"
#include "metadata/server_log.h"

#define SALT 0x1122334455667788ull

static char path[64], aside[80];
static volatile uint8_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static int look(void *arg, const struct mci_keylog_record *record)
{
	uint32_t i;

	check(record->key_length && record->key_length <= MCI_KEY_MAX, "key length");
	check(!memchr(record->key, 0, record->key_length), "zero byte in a key");
	check(record->value_length <= MCI_VALUE_MAX, "value length");
	for (i = 0; i < record->value_length; i++)
		sink ^= (uint8_t)record->value[i];
	*(uint64_t *)arg += 1;
	return 0;
}

static void write_bodies(FILE *file, const uint8_t *data, size_t size)
{
	struct mci_keylog_record sample = {.type = MCI_KEYLOG_DELETE, .key = "k", .key_length = 1};
	uint8_t mark[64], head[16];
	uint64_t offset = MCI_KEYLOG_HEADER;

	mci_keylog_seal_record(mark, &sample, SALT, 0);
	while (size >= 2) {
		size_t n = mci_get16(data);
		uint8_t *body;
		size_t padded;

		data += 2;
		size -= 2;
		if (n > size)
			n = size;
		padded = (n + 7) & ~(size_t)7;
		body = calloc(1, padded + 1);
		memcpy(body, data, n);
		memcpy(head, mark, 4);
		mci_put32(head + 4, (uint32_t)(padded + 16));
		mci_put64(head + 8, XXH3_64bits_withSeed(body, padded, SALT ^ offset));
		fwrite(head, 1, sizeof(head), file);
		fwrite(body, 1, padded, file);
		offset += padded + 16;
		data += n;
		size -= n;
		free(body);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_keylog_record more = {.type = MCI_KEYLOG_PUT,
					 .version = 9,
					 .key = "after",
					 .key_length = 5,
					 .value = "value",
					 .value_length = 5};
	struct mci_keylog_report first, second;
	uint8_t header[MCI_KEYLOG_HEADER];
	uint64_t before = 0, after = 0;
	struct mci_keylog *log;
	FILE *file;

	if (!size)
		return 0;
	if (!path[0]) {
		snprintf(path, sizeof(path), "%s/mooncake-fuzz-log-%d",
			 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", getpid());
		snprintf(aside, sizeof(aside), "%s.damaged", path);
		mci_log_threshold = -1;
	}
	file = fopen(path, "we");
	check(file != NULL, "no scratch file");
	mci_keylog_seal_header(header, SALT);
	fwrite(header, 1, sizeof(header), file);
	if (*data & 1)
		fwrite(data + 1, 1, size - 1, file);
	else
		write_bodies(file, data + 1, size - 1);
	fclose(file);

	check(!mci_keylog_open(path, look, &before, &log, &first), "a file with a good header was refused");
	check(before == first.records, "count of records");
	check(!mci_keylog_append(log, &more), "append");
	mci_keylog_close(log);
	check(!mci_keylog_open(path, look, &after, &log, &second), "the repaired file was refused");
	check(!second.torn_bytes, "the torn end came back");
	check(after == before + 1, "what was appended is not there");
	mci_keylog_close(log);
	unlink(path);
	unlink(aside);
	return 0;
}
