// SPDX-License-Identifier: MIT
/*
 * The metadata server's append-only file: replay, append, sync, compaction (format in server_log.h).
 * No lock of its own; server_log.h says which calls the owner serialises.
 */
#include "metadata/server_log.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "metadata/server_keys.h"

#define MAGIC "MCMETA1\n"
#define PID_AT 24
#define WINDOW (4u << 20)
#define ALIGN(n) (((n) + 7) & ~(uint64_t)7)
#define RECORD_MAX ALIGN(MCI_KEYLOG_RECORD_HEADER + MCI_KEY_MAX + MCI_VALUE_MAX)

struct file {
	int fd;
	uint64_t salt, end;
};

struct mci_keylog {
	char *path;		     /* resolved: no symbolic link at its end */
	struct file file, shadow;    /* shadow: the new file of a compaction, fd -1 = none */
	bool shadow_failed, renamed; /* renamed: the directory is not on the disk yet */
	XXH3_state_t *state;
	_Atomic bool broken; /* a sync failed: only a compaction makes the file good again */
};

/* Reads the file through a window, so that its size does not matter. */
struct reader {
	int fd;
	uint64_t size, start;
	size_t length, room;
	int error;
	uint8_t *window;
};

uint64_t mci_keylog_record_size(size_t key_length, size_t value_length)
{
	return ALIGN(MCI_KEYLOG_RECORD_HEADER + key_length + value_length);
}

static uint32_t mark_of(uint64_t salt)
{
	uint8_t bytes[8];

	mci_put64(bytes, salt);
	return (uint32_t)XXH3_64bits(bytes, sizeof(bytes)) | 1;
}

void mci_keylog_seal_header(uint8_t header[MCI_KEYLOG_HEADER], uint64_t salt)
{
	memset(header, 0, MCI_KEYLOG_HEADER);
	memcpy(header, MAGIC, 8);
	mci_put64(header + 8, salt);
	mci_put64(header + 16, XXH3_64bits(header, 16));
	mci_put32(header + PID_AT, (uint32_t)getpid());
}

static void encode_header(uint8_t *out, const struct mci_keylog_record *record, uint64_t salt)
{
	mci_put32(out, mark_of(salt));
	mci_put32(out + 4, (uint32_t)mci_keylog_record_size(record->key_length, record->value_length));
	mci_put64(out + 16, record->version);
	mci_put32(out + 24, record->ttl_ms);
	mci_put16(out + 28, record->key_length);
	out[30] = (uint8_t)record->type;
	out[31] = 0;
	mci_put32(out + 32, record->value_length);
}

size_t mci_keylog_seal_record(uint8_t *out, const struct mci_keylog_record *record, uint64_t salt,
			      uint64_t offset)
{
	uint64_t size = mci_keylog_record_size(record->key_length, record->value_length);

	memset(out, 0, size);
	encode_header(out, record, salt);
	memcpy(out + MCI_KEYLOG_RECORD_HEADER, record->key, record->key_length);
	if (record->value_length)
		memcpy(out + MCI_KEYLOG_RECORD_HEADER + record->key_length, record->value,
		       record->value_length);
	mci_put64(out + 8, XXH3_64bits_withSeed(out + 16, size - 16, salt ^ offset));
	return size;
}

static const uint8_t *view(struct reader *reader, uint64_t offset, size_t n)
{
	if (offset >= reader->start && offset + n <= reader->start + reader->length)
		return reader->window + (offset - reader->start);
	if (n > reader->room || offset > reader->size || n > reader->size - offset)
		return NULL;
	reader->start = offset;
	reader->length = 0;
	while (reader->length < reader->room) {
		ssize_t got = pread(reader->fd, reader->window + reader->length,
				    reader->room - reader->length, (off_t)(offset + reader->length));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			reader->error = -errno;
		if (got <= 0)
			break;
		reader->length += (size_t)got;
	}
	return reader->length < n ? NULL : reader->window;
}

/* Length of the intact record at @offset, 0 if there is none. */
static size_t decode(struct reader *reader, uint64_t salt, uint64_t offset, struct mci_keylog_record *record)
{
	const uint8_t *p = view(reader, offset, MCI_KEYLOG_RECORD_HEADER);
	size_t length;

	if (!p || mci_get32(p) != mark_of(salt))
		return 0;
	length = mci_get32(p + 4);
	if (length < MCI_KEYLOG_RECORD_HEADER || length > RECORD_MAX)
		return 0;
	p = view(reader, offset, length);
	if (!p || mci_get64(p + 8) != XXH3_64bits_withSeed(p + 16, length - 16, salt ^ offset))
		return 0;
	record->version = mci_get64(p + 16);
	record->ttl_ms = mci_get32(p + 24);
	record->key_length = mci_get16(p + 28);
	record->type = p[30];
	record->value_length = mci_get32(p + 32);
	record->key = (const char *)p + MCI_KEYLOG_RECORD_HEADER;
	record->value = record->key + record->key_length;
	if (p[31] || (record->type != MCI_KEYLOG_PUT && record->type != MCI_KEYLOG_DELETE))
		return 0;
	if (!record->key_length || record->key_length > MCI_KEY_MAX || record->value_length > MCI_VALUE_MAX)
		return 0;
	if (length != mci_keylog_record_size(record->key_length, record->value_length))
		return 0;
	return memchr(record->key, 0, record->key_length) ? 0 : length;
}

static int replay(struct mci_keylog *log, int (*fn)(void *arg, const struct mci_keylog_record *record),
		  void *arg, struct mci_keylog_report *report)
{
	struct reader reader = {.fd = log->file.fd};
	struct mci_keylog_record record;
	uint64_t offset = MCI_KEYLOG_HEADER, good = offset;
	struct stat st;
	size_t length;
	int ret = 0;

	if (fstat(log->file.fd, &st))
		return mci_fail(-errno, "log file '%s' cannot be examined: %s", log->path, strerror(errno));
	reader.size = (uint64_t)st.st_size;
	reader.room = reader.size < WINDOW ? reader.size : WINDOW;
	reader.window = malloc(reader.room);
	if (!reader.window)
		return mci_fail(-ENOMEM, "no memory to read log file '%s'", log->path);
	while (offset < reader.size && !reader.error) {
		length = decode(&reader, log->file.salt, offset, &record);
		if (!length) {
			offset += 8; /* look for the next intact one */
			continue;
		}
		report->damaged_bytes += offset - good;
		report->records++;
		ret = fn(arg, &record);
		if (ret)
			break;
		offset += length;
		good = offset;
	}
	free(reader.window);
	if (reader.error)
		return mci_fail(reader.error, "reading log file '%s' failed at byte %llu: %s", log->path,
				(unsigned long long)offset, strerror(-reader.error));
	log->file.end = good;
	report->torn_bytes = reader.size > good ? reader.size - good : 0;
	return ret;
}

/* After the replay: cut the torn end off, keep a damaged file for whoever wants to look into it. */
static int repair(struct mci_keylog *log, const struct mci_keylog_report *report)
{
	char *aside;

	if (report->damaged_bytes && asprintf(&aside, "%s.damaged", log->path) >= 0) {
		unlink(aside);
		if (link(log->path, aside))
			mci_warn("log file '%s' could not be kept as '%s': %s", log->path, aside,
				 strerror(errno));
		mci_warn("log file '%s' is damaged: %llu bytes between intact records were skipped (kept as "
			 "'%s'); changes in them are lost",
			 log->path, (unsigned long long)report->damaged_bytes, aside);
		free(aside);
	}
	if (!report->torn_bytes)
		return 0;
	mci_warn("log file '%s': a torn end of %llu bytes was cut off", log->path,
		 (unsigned long long)report->torn_bytes);
	if (ftruncate(log->file.fd, (off_t)log->file.end))
		return mci_fail(-errno, "the torn end of log file '%s' cannot be cut off: %s", log->path,
				strerror(errno));
	return 0;
}

static int write_at(int fd, struct iovec *iov, int count, uint64_t offset)
{
	while (count) {
		ssize_t put = pwritev(fd, iov, count, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		if (!put)
			return -ENOSPC;
		offset += (uint64_t)put;
		while (count && (size_t)put >= iov->iov_len) {
			put -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count) {
			iov->iov_base = (char *)iov->iov_base + put;
			iov->iov_len -= (size_t)put;
		}
	}
	return 0;
}

static int write_header(struct file *file)
{
	uint8_t header[MCI_KEYLOG_HEADER];
	struct iovec iov = {header, sizeof(header)};

	mci_random(&file->salt, sizeof(file->salt));
	mci_keylog_seal_header(header, file->salt);
	file->end = MCI_KEYLOG_HEADER;
	return write_at(file->fd, &iov, 1, 0);
}

static void sync_directory(const char *path)
{
	char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd < 0 || fsync(fd))
		mci_warn("the directory of '%s' cannot be brought to the disk: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(copy);
}

static bool all_zero(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

/* New (empty) or known header; else the file is not ours and stays as it is. */
static int read_header(struct mci_keylog *log)
{
	uint8_t header[MCI_KEYLOG_HEADER], pid[4];
	struct iovec iov = {pid, sizeof(pid)};
	ssize_t got = pread(log->file.fd, header, sizeof(header), 0);
	struct stat st;
	int ret;

	if (got < 0 || fstat(log->file.fd, &st))
		return mci_fail(-errno, "log file '%s' cannot be read: %s", log->path, strerror(errno));
	if (st.st_size <= MCI_KEYLOG_HEADER && all_zero(header, (size_t)got)) {
		ret = write_header(&log->file);
		if (!ret && fsync(log->file.fd))
			ret = -errno;
		if (ret)
			return mci_fail(ret, "log file '%s' cannot be written: %s", log->path,
					strerror(-ret));
		sync_directory(log->path);
		return 0;
	}
	if (got < MCI_KEYLOG_HEADER || memcmp(header, MAGIC, 8))
		return mci_fail(-EBADMSG,
				"'%s' is not a log file of the metadata server; give another --log_file, or "
				"move this one away",
				log->path);
	if (mci_get64(header + 16) != XXH3_64bits(header, 16))
		return mci_fail(-EBADMSG,
				"the header of log file '%s' is damaged; move the file away to start without "
				"its keys (segments publish themselves again)",
				log->path);
	log->file.salt = mci_get64(header + 8);
	mci_put32(pid, (uint32_t)getpid());
	ret = write_at(log->file.fd, &iov, 1, PID_AT);
	if (ret)
		return mci_fail(ret, "log file '%s' cannot be written: %s", log->path, strerror(-ret));
	return 0;
}

static int refuse_held(int fd, const char *path)
{
	uint8_t pid[4];

	if (pread(fd, pid, sizeof(pid), PID_AT) == sizeof(pid) && mci_get32(pid))
		return mci_fail(-EBUSY,
				"log file '%s' is held by the metadata server with pid %u; stop that one, or "
				"give another --log_file",
				path, mci_get32(pid));
	return mci_fail(
		-EBUSY,
		"log file '%s' is held by another metadata server; stop that one, or give another --log_file",
		path);
}

/* A compaction elsewhere may replace the file between open and flock: then begin again. */
static int open_locked(const char *path, int *out)
{
	struct stat opened, named;
	int fd, tries;

	for (tries = 0; tries < 16; tries++) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
		if (fd < 0)
			return mci_fail(-errno, "log file '%s' cannot be opened: %s%s", path, strerror(errno),
					errno == ENOENT || errno == ENOTDIR
						? "; its directory must exist: create that first (mkdir -p)"
						: "; give another --log_file");
		if (fstat(fd, &opened) || !S_ISREG(opened.st_mode)) {
			close(fd);
			return mci_fail(-EINVAL, "log file '%s' is not a regular file", path);
		}
		if (flock(fd, LOCK_EX | LOCK_NB)) {
			int ret = errno == EWOULDBLOCK
					  ? refuse_held(fd, path)
					  : mci_fail(-errno, "log file '%s' cannot be locked: %s", path,
						     strerror(errno));

			close(fd);
			return ret;
		}
		if (!stat(path, &named) && named.st_dev == opened.st_dev && named.st_ino == opened.st_ino) {
			*out = fd;
			return 0;
		}
		close(fd);
	}
	return mci_fail(-EBUSY, "log file '%s' is replaced again and again by another process", path);
}

int mci_keylog_open(const char *path, int (*fn)(void *arg, const struct mci_keylog_record *record), void *arg,
		    struct mci_keylog **out, struct mci_keylog_report *report)
{
	struct mci_keylog *log = calloc(1, sizeof(*log));
	int ret;

	memset(report, 0, sizeof(*report));
	if (!log)
		return mci_fail(-ENOMEM, "no memory to open log file '%s'", path);
	log->shadow.fd = -1;
	log->state = XXH3_createState();
	if (!log->state) {
		ret = mci_fail(-ENOMEM, "no memory to open log file '%s'", path);
		goto err_free;
	}
	ret = open_locked(path, &log->file.fd);
	if (ret)
		goto err_free;
	log->path = realpath(path, NULL);
	if (!log->path) {
		ret = mci_fail(-errno, "log file '%s' cannot be found again: %s", path, strerror(errno));
		goto err_close;
	}
	ret = read_header(log);
	if (!ret)
		ret = replay(log, fn, arg, report);
	if (!ret)
		ret = repair(log, report);
	if (ret)
		goto err_close;
	*out = log;
	return 0;

err_close:
	close(log->file.fd);
	free(log->path);
err_free:
	XXH3_freeState(log->state);
	free(log);
	return ret;
}

void mci_keylog_close(struct mci_keylog *log)
{
	if (!log)
		return;
	mci_keylog_compact_abandon(log);
	close(log->file.fd);
	free(log->path);
	XXH3_freeState(log->state);
	free(log);
}

uint64_t mci_keylog_size(const struct mci_keylog *log) { return log->file.end; }

/* All of the record, or nothing of it and -errno. */
static int append_to(const struct mci_keylog *log, struct file *file, const struct mci_keylog_record *record)
{
	static const uint8_t zeros[8];
	uint8_t head[MCI_KEYLOG_RECORD_HEADER];
	uint64_t size = mci_keylog_record_size(record->key_length, record->value_length);
	struct iovec iov[4] = {
		{head, sizeof(head)},
		{(void *)record->key, record->key_length},
		{(void *)(record->value_length ? record->value : record->key), record->value_length},
		{(void *)zeros, size - sizeof(head) - record->key_length - record->value_length},
	};
	int i, ret;

	encode_header(head, record, file->salt);
	XXH3_64bits_reset_withSeed(log->state, file->salt ^ file->end);
	XXH3_64bits_update(log->state, head + 16, sizeof(head) - 16);
	for (i = 1; i < 4; i++)
		XXH3_64bits_update(log->state, iov[i].iov_base, iov[i].iov_len);
	mci_put64(head + 8, XXH3_64bits_digest(log->state));
	ret = write_at(file->fd, iov, 4, file->end);
	if (!ret) {
		file->end += size;
		return 0;
	}
	if (ftruncate(file->fd, (off_t)file->end))
		mci_warn("a half-written record stays in the log file until the next one covers it: %s",
			 strerror(errno));
	return ret;
}

int mci_keylog_append(struct mci_keylog *log, const struct mci_keylog_record *record)
{
	int ret;

	if (atomic_load(&log->broken))
		return mci_fail(-EIO,
				"log file '%s' could not be brought to the disk; changes are refused until "
				"it can be written anew",
				log->path);
	ret = append_to(log, &log->file, record);
	if (ret)
		return mci_fail(ret == -EDQUOT || ret == -EFBIG ? -ENOSPC : ret,
				"log file '%s' cannot be written: %s; nothing was changed", log->path,
				strerror(-ret));
	if (log->shadow.fd >= 0 && append_to(log, &log->shadow, record))
		log->shadow_failed = true;
	return 0;
}

int mci_keylog_sync(struct mci_keylog *log)
{
	if (log->renamed)
		sync_directory(log->path);
	log->renamed = false;
	if (!fdatasync(log->file.fd))
		return 0;
	atomic_store(&log->broken, true);
	return mci_fail(-EIO, "log file '%s' cannot be brought to the disk: %s", log->path, strerror(errno));
}

static char *shadow_path(const struct mci_keylog *log)
{
	char *path;

	return asprintf(&path, "%s.new", log->path) < 0 ? NULL : path;
}

int mci_keylog_compact_begin(struct mci_keylog *log)
{
	char *path = shadow_path(log);
	struct stat st;
	int ret;

	if (!path)
		return -ENOMEM;
	log->shadow_failed = false;
	log->shadow.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (log->shadow.fd < 0) {
		ret = mci_fail(-errno, "'%s' cannot be created: %s", path, strerror(errno));
		free(path);
		return ret;
	}
	free(path);
	ret = flock(log->shadow.fd, LOCK_EX | LOCK_NB) ? -errno : write_header(&log->shadow);
	if (!ret && !fstat(log->file.fd, &st) && fchmod(log->shadow.fd, st.st_mode & 07777))
		ret = -errno;
	if (ret) {
		mci_keylog_compact_abandon(log);
		return mci_fail(ret, "a new file for log file '%s' cannot be written: %s", log->path,
				strerror(-ret));
	}
	return 0;
}

int mci_keylog_rewrite(struct mci_keylog *log, const struct mci_keylog_record *record)
{
	int ret = log->shadow_failed ? -EIO : append_to(log, &log->shadow, record);

	if (ret)
		return mci_fail(ret, "a new file for log file '%s' cannot be written: %s", log->path,
				strerror(-ret));
	return 0;
}

int mci_keylog_compact_presync(struct mci_keylog *log)
{
	if (fsync(log->shadow.fd))
		return mci_fail(-EIO, "a new file for log file '%s' cannot be brought to the disk: %s",
				log->path, strerror(errno));
	return 0;
}

int mci_keylog_compact_finish(struct mci_keylog *log)
{
	char *path = shadow_path(log);
	int ret = 0;

	if (!path || log->shadow_failed)
		ret = path ? -EIO : -ENOMEM;
	else if (rename(path, log->path))
		ret = -errno;
	free(path);
	if (ret) {
		mci_keylog_compact_abandon(log);
		return mci_fail(ret, "a new file cannot take the place of log file '%s': %s", log->path,
				strerror(-ret));
	}
	close(log->file.fd);
	log->file = log->shadow;
	log->shadow.fd = -1;
	log->renamed = true;
	atomic_store(&log->broken, false);
	return 0;
}

void mci_keylog_compact_abandon(struct mci_keylog *log)
{
	char *path;

	if (log->shadow.fd < 0)
		return;
	path = shadow_path(log);
	if (path)
		unlink(path);
	free(path);
	close(log->shadow.fd);
	log->shadow.fd = -1;
}
