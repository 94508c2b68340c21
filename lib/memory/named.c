// SPDX-License-Identifier: MIT
/*
 * Memory with a name: a file on tmpfs or hugetlbfs that outlives the process, locked by who has it open,
 * and a sidecar that says which content it is. The sidecar is written last and removed first: whatever
 * dies in between leaves memory that counts as new, never old content under a wrong id.
 * No state of its own; the kernel's lock on the file (OFD) excludes other processes and ourselves.
 */
#include "memory/named.h"

#include <ctype.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/uuid.h"

#define NAME_LIMIT 200

int mci_named_check(const char *name)
{
	size_t n = strnlen(name, NAME_LIMIT + 1);

	if (!n || n > NAME_LIMIT)
		return mci_fail(-EINVAL, "memory name: want 1 to %d bytes, got %s", NAME_LIMIT,
				n ? "more" : "none");
	if (name[0] == '.')
		return mci_fail(-EINVAL,
				"memory name \"%s\" begins with a dot; want [A-Za-z0-9._-], not a dot first",
				name);
	for (size_t i = 0; i < n; i++) {
		if (!isascii(name[i]) || (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i])))
			return mci_fail(-EINVAL,
					"memory name: byte %zu (0x%02x) is not one of [A-Za-z0-9._-]", i,
					(unsigned char)name[i]);
	}
	return 0;
}

/* Mount point of a hugetlbfs whose pages are @page_size: the statfs block size says so. */
static int hugetlbfs_mount(uint64_t page_size, char *path, size_t size)
{
	struct mntent entry, *m;
	struct statfs fs;
	char text[4096], need[MCI_SIZE_TEXT];
	bool found = false;
	FILE *f = setmntent("/proc/self/mounts", "re");

	while (f && !found && (m = getmntent_r(f, &entry, text, sizeof(text)))) {
		if (!strcmp(m->mnt_type, "hugetlbfs") && !statfs(m->mnt_dir, &fs) &&
		    (uint64_t)fs.f_bsize == page_size && !access(m->mnt_dir, W_OK | X_OK)) {
			snprintf(path, size, "%s", m->mnt_dir);
			found = true;
		}
	}
	if (f)
		endmntent(f);
	if (found)
		return 0;
	return mci_fail(-ENOENT,
			"named memory of %s pages needs a hugetlbfs mount of that page size that user %u can "
			"write to, "
			"and there is none; \"mount -t hugetlbfs -o pagesize=%lluM,mode=1777 none "
			"/mnt/huge\" makes one, "
			"page size 4096 needs none",
			mci_size_text(page_size, need), geteuid(), (unsigned long long)(page_size >> 20));
}

int mci_named_dir(uint64_t page_size, bool create, int *fd)
{
	char root[512] = MCI_NAMED_ROOT, path[560], mount[480];
	struct stat st;
	int dir, ret;

	if (page_size > mci_base_page()) {
		ret = hugetlbfs_mount(page_size, mount, sizeof(mount));
		if (ret)
			return ret;
		snprintf(root, sizeof(root), "%s/mooncake", mount);
	}
	/* Like /tmp: each user makes his own below it. Losing the race to make it is fine. */
	if (create && !mkdir(root, 0700) && chmod(root, 01777))
		return mci_fail(-errno, "cannot open %s to all users: %s", root, strerror(errno));
	snprintf(path, sizeof(path), "%s/%u", root, geteuid());
	if (create && mkdir(path, 0700) && errno != EEXIST)
		return mci_fail(-errno, "cannot make %s for named memory: %s", path, strerror(errno));
	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0) {
		if (errno == ENOENT)
			return -ENOENT;
		return mci_fail(-errno, "cannot open %s for named memory: %s", path, strerror(errno));
	}
	if (fstat(dir, &st)) {
		ret = mci_fail(-errno, "cannot look at %s: %s", path, strerror(errno));
		goto err_close;
	}
	if (st.st_uid != geteuid() || (st.st_mode & 07777) != 0700) {
		ret = mci_fail(-EACCES,
			       "%s has owner %u and mode %04o; it must belong to user %u with mode 0700, "
			       "else others "
			       "could change named memory; remove it, or repair it with chown and chmod",
			       path, st.st_uid, st.st_mode & 07777, geteuid());
		goto err_close;
	}
	*fd = dir;
	return 0;
err_close:
	close(dir);
	return ret;
}

/* Names do not begin with a dot, so that this one cannot meet another memory. */
static void sidecar_name(const char *name, const char *suffix, char out[256])
{
	snprintf(out, 256, ".%s.id%s", name, suffix);
}

int mci_sidecar_read(int dir_fd, const char *name, struct mci_sidecar *sidecar)
{
	uint8_t bytes[MCI_SIDECAR_SIZE + 1];
	char file[256];
	ssize_t n;
	int fd;

	sidecar_name(name, "", file);
	fd = openat(dir_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENOENT : -EBADMSG;
	n = read(fd, bytes, sizeof(bytes));
	close(fd);
	return n < 0 ? -EBADMSG : mci_sidecar_decode(bytes, (size_t)n, sidecar);
}

int mci_sidecar_write(int dir_fd, const char *name, const struct mci_sidecar *sidecar)
{
	char file[256], temporary[256];
	uint8_t bytes[MCI_SIDECAR_SIZE];
	ssize_t n;
	int fd, err;

	sidecar_name(name, "", file);
	sidecar_name(name, ".new", temporary);
	mci_sidecar_encode(sidecar, bytes);
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return mci_fail(-errno, "cannot write the sidecar of memory \"%s\": %s", name,
				strerror(errno));
	n = write(fd, bytes, sizeof(bytes));
	err = n < 0 ? errno : n != (ssize_t)sizeof(bytes) ? ENOSPC : 0;
	if (close(fd) && !err)
		err = errno;
	if (!err && !renameat(dir_fd, temporary, dir_fd, file))
		return 0;
	n = -(err ? err : errno);
	unlinkat(dir_fd, temporary, 0);
	return mci_fail((int)n, "cannot write the sidecar of memory \"%s\": %s", name, strerror((int)-n));
}

int mci_sidecar_remove(int dir_fd, const char *name)
{
	char file[256];

	sidecar_name(name, "", file);
	return unlinkat(dir_fd, file, 0) && errno != ENOENT ? -errno : 0;
}

int mci_named_lock(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (!fcntl(fd, F_OFD_SETLK, &lock))
		return 0;
	return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
}

bool mci_named_is(int data_dir_fd, const char *name, int fd)
{
	struct stat opened, named;

	return !fstat(fd, &opened) && !fstatat(data_dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) &&
	       opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

int mci_named_busy(int dir_fd, const char *name)
{
	struct mci_sidecar sidecar;

	/* The kernel does not tell who holds such a lock, so the holder says it in the sidecar. */
	if (mci_sidecar_read(dir_fd, name, &sidecar))
		return mci_fail(-EBUSY,
				"memory \"%s\" is being set up or held by another process; try again, or "
				"stop that process",
				name);
	if (sidecar.pid == (uint32_t)getpid())
		return mci_fail(-EBUSY, "memory \"%s\" is held by this process (%u) already; free it first",
				name, sidecar.pid);
	if (sidecar.pid && sidecar.pid <= INT32_MAX && (!kill((pid_t)sidecar.pid, 0) || errno == EPERM))
		return mci_fail(-EBUSY, "memory \"%s\" is held by process %u; stop that process first", name,
				sidecar.pid);
	return mci_fail(-EBUSY,
			"memory \"%s\" is held: not by process %u, which opened it and is gone, but by a "
			"child it forked, "
			"or by a process of another container; stop that first",
			name, sidecar.pid);
}

/* Open or create, lock, and make sure that the name still means the file that was locked. */
static int open_locked(const struct mc_memory_attr *attr, struct mci_backing *b, struct stat *st)
{
	int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, ret;

	if (attr->flags & MC_MEMORY_CREATE)
		flags |= O_CREAT | O_EXCL;
	else if (!(attr->flags & MC_MEMORY_EXISTING))
		flags |= O_CREAT;
	for (int try = 0; try < 100; try++) {
		b->fd = openat(b->data_dir_fd, b->name, flags, 0600);
		if (b->fd < 0 && errno == EEXIST)
			return mci_fail(-EEXIST,
					"memory \"%s\" exists already and MC_MEMORY_CREATE was asked for; "
					"mc_memory_unlink() or \"mooncake memory unlink %s\" removes it",
					b->name, b->name);
		if (b->fd < 0 && errno == ENOENT)
			return mci_fail(-ENOENT, "there is no memory \"%s\" of user %u", b->name, geteuid());
		if (b->fd < 0)
			return mci_fail(-errno, "cannot open memory \"%s\": %s", b->name, strerror(errno));
		ret = mci_named_lock(b->fd);
		if (ret) {
			close(b->fd);
			return ret == -EBUSY ? mci_named_busy(b->dir_fd, b->name)
					     : mci_fail(ret, "cannot lock memory \"%s\": %s", b->name,
							strerror(-ret));
		}
		if (fstat(b->fd, st) || !S_ISREG(st->st_mode) || st->st_uid != geteuid()) {
			close(b->fd);
			return mci_fail(-EACCES, "memory \"%s\" is not a plain file of user %u", b->name,
					geteuid());
		}
		if (mci_named_is(b->data_dir_fd, b->name, b->fd))
			return 0;
		close(b->fd); /* unlinked between open and lock */
	}
	return mci_fail(-EAGAIN, "memory \"%s\" is removed and created all the time by another process",
			b->name);
}

/* Sparse files on a full tmpfs kill by SIGBUS, much later: refuse here. */
static int check_space(const struct mci_backing *b, const struct stat *st)
{
	uint64_t have, held = (uint64_t)st->st_blocks * 512;
	char need_text[MCI_SIZE_TEXT], have_text[MCI_SIZE_TEXT];
	struct statvfs fs;

	if (b->page_size > mci_base_page() || fstatvfs(b->fd, &fs) || !fs.f_blocks)
		return 0;
	have = (uint64_t)fs.f_bavail * fs.f_frsize + held;
	if (have >= b->length)
		return 0;
	return mci_fail(
		-ENOSPC,
		"memory \"%s\" needs %s on /dev/shm, which has %s free; enlarge it (\"mount -o "
		"remount,size=... "
		"/dev/shm\", for containers --shm-size), or remove what \"mooncake memory ls\" shows unused",
		b->name, mci_size_text(b->length, need_text), mci_size_text(have, have_text));
}

static uint64_t round_up(uint64_t length, uint64_t page_size)
{
	return (length + page_size - 1) & ~(page_size - 1);
}

static int start_afresh(struct mci_backing *b, struct stat *st)
{
	int ret = mci_sidecar_remove(b->dir_fd, b->name);

	if (ret)
		return mci_fail(ret, "cannot remove the old sidecar of memory \"%s\": %s", b->name,
				strerror(-ret));
	if (ftruncate(b->fd, 0) || fstat(b->fd, st))
		return mci_fail(-errno, "cannot empty memory \"%s\": %s", b->name, strerror(errno));
	ret = check_space(b, st);
	if (ret)
		return ret;
	if (ftruncate(b->fd, (off_t)b->length))
		return mci_fail(-errno, "cannot size memory \"%s\" to %llu bytes: %s", b->name,
				(unsigned long long)b->length, strerror(errno));
	mci_uuid_new(&b->content_id);
	b->reattached = false;
	return 0;
}

int mci_named_open(const struct mc_memory_attr *attr, struct mci_backing *backing)
{
	struct mci_backing b = { .fd = -1, .dir_fd = -1, .data_dir_fd = -1 };
	struct mci_sidecar sidecar;
	struct stat st;
	bool whole;
	int ret;

	ret = mci_named_check(attr->name);
	if (ret)
		return ret;
	memcpy(b.name, attr->name, strlen(attr->name));
	ret = mci_named_dir(0, true, &b.dir_fd);
	if (ret)
		return ret;
	whole = !mci_sidecar_read(b.dir_fd, b.name, &sidecar);
	b.page_size = attr->page_size ? attr->page_size : whole ? sidecar.page_size : mci_base_page();
	if (whole && b.page_size != sidecar.page_size) {
		ret = mci_fail(-EINVAL,
			       "memory \"%s\" exists with pages of %llu bytes, not %llu; ask for page size 0 "
			       "or unlink it first",
			       b.name, (unsigned long long)sidecar.page_size,
			       (unsigned long long)b.page_size);
		goto err_close_dir;
	}
	ret = mci_named_dir(b.page_size, true, &b.data_dir_fd);
	if (ret)
		goto err_close_dir;
	ret = open_locked(attr, &b, &st);
	if (ret)
		goto err_close_data_dir;
	b.inode = st.st_ino;
	b.length = round_up(attr->length, b.page_size);
	b.kind = b.page_size > mci_base_page() ? "hugetlbfs" : "tmpfs";

	/* Read again under the lock. It must speak of this very file, at this very size. */
	whole = !mci_sidecar_read(b.dir_fd, b.name, &sidecar) && sidecar.inode == st.st_ino &&
		sidecar.length == (uint64_t)st.st_size && sidecar.page_size == b.page_size;
	if (whole && sidecar.length != b.length) {
		ret = mci_fail(-EINVAL,
			       "memory \"%s\" exists with %llu bytes, not %llu; ask for its length, or "
			       "remove it with "
			       "mc_memory_unlink() or \"mooncake memory unlink %s\"",
			       b.name, (unsigned long long)sidecar.length, (unsigned long long)b.length,
			       b.name);
		goto err_close_file;
	}
	if (whole) {
		b.content_id = sidecar.content_id;
		b.reattached = true;
	} else {
		ret = start_afresh(&b, &st);
		if (ret)
			goto err_unlink;
	}
	*backing = b;
	return 0;
err_unlink:
	unlinkat(b.data_dir_fd, b.name, 0);
err_close_file:
	close(b.fd);
err_close_data_dir:
	close(b.data_dir_fd);
err_close_dir:
	close(b.dir_fd);
	return ret;
}

int mci_named_commit(struct mci_backing *b)
{
	struct mci_sidecar sidecar = { .length = b->length,
				       .page_size = b->page_size,
				       .inode = b->inode,
				       .content_id = b->content_id,
				       .pid = (uint32_t)getpid() };

	return mci_sidecar_write(b->dir_fd, b->name, &sidecar);
}

void mci_named_close(struct mci_backing *b, bool undo)
{
	struct flock unlock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	if (undo && !b->reattached) {
		mci_sidecar_remove(b->dir_fd, b->name);
		unlinkat(b->data_dir_fd, b->name, 0);
	}
	/* A forked child may share the open file: closing alone would leave the lock with it. */
	fcntl(b->fd, F_OFD_SETLK, &unlock);
	close(b->fd);
	close(b->data_dir_fd);
	close(b->dir_fd);
}
