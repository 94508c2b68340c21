// SPDX-License-Identifier: MIT
/* Listing and removing named memories. No state. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/errors.h"
#include "memory/named.h"

/* 0 = nobody, -1 = somebody whose pid is not known here */
static int holder_of(int fd, const struct mci_sidecar *sidecar)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_GETLK, &lock) || lock.l_type == F_UNLCK)
		return 0;
	return sidecar && sidecar->pid ? (int)sidecar->pid : -1;
}

static int list_dir(int dir_fd, int data_dir_fd, uint64_t page_size,
		    int (*fn)(const struct mc_memory_entry *entry, void *arg), void *arg)
{
	int copy = fcntl(data_dir_fd, F_DUPFD_CLOEXEC, 0), ret = 0;
	struct dirent *item;
	DIR *dir;

	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir) {
		ret = mci_fail(-errno, "cannot list named memory: %s", strerror(errno));
		if (copy >= 0)
			close(copy);
		return ret;
	}
	rewinddir(dir);
	while (!ret && (item = readdir(dir))) {
		struct mc_memory_entry entry = { .size = sizeof(entry),
						 .name = item->d_name,
						 .page_size = page_size,
						 .kind = page_size > mci_base_page() ? "hugetlbfs" : "tmpfs" };
		struct mci_sidecar sidecar;
		struct stat st;
		bool whole;
		int fd;

		if (item->d_name[0] == '.')
			continue;
		fd = openat(data_dir_fd, item->d_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue; /* gone, or not one of ours */
		if (!fstat(fd, &st) && S_ISREG(st.st_mode)) {
			whole = !mci_sidecar_read(dir_fd, item->d_name, &sidecar);
			entry.length = (uint64_t)st.st_size;
			entry.holder_pid = holder_of(fd, whole ? &sidecar : NULL);
			if (whole)
				entry.content_id = sidecar.content_id;
			ret = fn(&entry, arg);
		}
		close(fd);
	}
	closedir(dir);
	return ret;
}

static int list_files(int (*fn)(const struct mc_memory_entry *entry, void *arg), void *arg)
{
	const uint64_t sizes[] = { mci_base_page(), MCI_PAGE_2M, MCI_PAGE_1G };
	int dir_fd, ret;

	ret = mci_named_dir(0, false, &dir_fd);
	if (ret)
		return ret == -ENOENT ? 0 : ret;
	for (unsigned int i = 0; !ret && i < 3; i++) {
		int data_dir_fd;

		ret = mci_named_dir(sizes[i], false, &data_dir_fd);
		if (ret == -ENOENT) {
			ret = 0;
			continue;
		}
		if (ret)
			break;
		ret = list_dir(dir_fd, data_dir_fd, sizes[i], fn, arg);
		close(data_dir_fd);
	}
	close(dir_fd);
	return ret;
}

/**
 * mc_memory_list() - call @fn for every named memory of the calling user
 *
 * Those that the kernel module keeps come first, then files. @fn must not keep the entry. holder_pid is -1 if
 * somebody holds it whose pid is not known.
 * Return: 0, -EACCES, -EIO with a sentence, or the first non-zero value that @fn returned. Any thread.
 */
int mc_memory_list(int (*fn)(const struct mc_memory_entry *entry, void *arg), void *arg)
{
	int ret = mci_module_list(fn, arg);

	return ret ? ret : list_files(fn, arg);
}

bool mci_named_exists(const char *name)
{
	const uint64_t sizes[] = { mci_base_page(), MCI_PAGE_2M, MCI_PAGE_1G };
	bool found = false;

	for (unsigned int i = 0; !found && i < 3; i++) {
		struct stat st;
		int fd;

		if (mci_named_dir(sizes[i], false, &fd))
			continue;
		found = !fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW);
		close(fd);
	}
	return found;
}

/* 0 = removed, 1 = not here, -EAGAIN = replaced meanwhile */
static int unlink_locked(int dir_fd, int data_dir_fd, const char *name)
{
	int fd = openat(data_dir_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), ret;

	if (fd < 0)
		return errno == ENOENT
			       ? 1
			       : mci_fail(-errno, "cannot open memory \"%s\": %s", name, strerror(errno));
	ret = mci_named_lock(fd);
	if (ret == -EBUSY) {
		ret = mci_named_busy(dir_fd, name);
	} else if (!ret && !mci_named_is(data_dir_fd, name, fd)) {
		ret = -EAGAIN;
	} else {
		if (!ret)
			ret = mci_sidecar_remove(dir_fd, name);
		if (!ret && unlinkat(data_dir_fd, name, 0))
			ret = -errno;
		if (ret)
			mci_fail(ret, "cannot remove memory \"%s\": %s", name, strerror(-ret));
	}
	close(fd);
	return ret;
}

static int unlink_in(int dir_fd, uint64_t page_size, const char *name)
{
	int data_dir_fd, ret;

	ret = mci_named_dir(page_size, false, &data_dir_fd);
	if (ret)
		return ret == -ENOENT ? 1 : ret;
	ret = -EAGAIN;
	for (int try = 0; ret == -EAGAIN && try < 100; try++)
		ret = unlink_locked(dir_fd, data_dir_fd, name);
	close(data_dir_fd);
	return ret == -EAGAIN
		       ? mci_fail(ret, "memory \"%s\" is removed and created all the time by others", name)
		       : ret;
}

static int unlink_files(const char *name)
{
	const uint64_t sizes[] = { mci_base_page(), MCI_PAGE_2M, MCI_PAGE_1G };
	struct mci_sidecar sidecar;
	int dir_fd, ret;

	ret = mci_named_dir(0, false, &dir_fd);
	if (ret)
		return ret == -ENOENT ? 1 : ret;
	ret = 1;
	for (unsigned int i = 0; ret == 1 && i < 3; i++)
		ret = unlink_in(dir_fd, sizes[i], name);
	/* A sidecar alone: its file was removed by hand, or its hugetlbfs is not mounted. */
	if (ret == 1 && mci_sidecar_read(dir_fd, name, &sidecar) != -ENOENT)
		ret = mci_sidecar_remove(dir_fd, name);
	close(dir_fd);
	return ret;
}

/**
 * mc_memory_unlink() - remove a named memory of the calling user, content and all
 *
 * Where the name stands for two, kept memory of the kernel module and a file, both go.
 *
 * Return: 0; -ENOENT: there is none; -EBUSY: a process holds it (the sentence names the pid);
 * -EINVAL: not a name; -EACCES, -EIO. Any thread.
 */
int mc_memory_unlink(const char *name)
{
	int ret, kept;

	if (!name)
		return mci_fail(-EINVAL, "mc_memory_unlink(): no name given");
	ret = mci_named_check(name);
	if (ret)
		return ret;
	kept = mci_module_unlink(name);
	if (kept && kept != -ENOENT)
		return kept;
	ret = unlink_files(name);
	if (ret != 1)
		return ret;
	return kept ? mci_fail(-ENOENT, "there is no memory \"%s\" of user %u", name, geteuid()) : 0;
}
