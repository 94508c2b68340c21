// SPDX-License-Identifier: MIT
/* Reading sysfs. Every file is small, may be missing, and is not believed to be text until checked. */
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "topology/sysfs.h"

void mci_sysfs_copy(char *out, size_t size, const char *text)
{
	size_t n = strnlen(text, size - 1);

	memcpy(out, text, n);
	out[n] = '\0';
}

/* First line of a file, printable ASCII only; "" if there is none. */
bool mci_sysfs_line(const char *dir, const char *file, char *out, size_t size)
{
	char path[PATH_MAX];
	ssize_t n = -1;
	int fd;

	out[0] = '\0';
	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return false;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, out, size - 1);
		close(fd);
	}
	if (n < 0)
		n = 0;
	out[n] = '\0';
	out[strcspn(out, "\n")] = '\0';
	for (char *p = out; *p; p++) {
		if (!isascii(*p) || !isprint((unsigned char)*p))
			*p = '?';
	}
	return out[0];
}

int64_t mci_sysfs_number(const char *dir, const char *file, int64_t missing)
{
	char text[32], *end;
	long long v;

	if (!mci_sysfs_line(dir, file, text, sizeof(text)))
		return missing;
	errno = 0;
	v = strtoll(text, &end, 0);
	return end == text || errno ? missing : v;
}

bool mci_sysfs_link(const char *dir, const char *file, char *out, size_t size)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *base;
	ssize_t n;

	out[0] = '\0';
	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return false;
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return false;
	target[n] = '\0';
	base = strrchr(target, '/');
	mci_sysfs_copy(out, size, base ? base + 1 : target);
	return out[0];
}

/* Room for one more at the end of an array, zeroed; NULL also beyond what is believed. */
void *mci_sysfs_append(void *array, unsigned int *count, size_t size)
{
	void **base = array;
	void *grown;

	if (*count >= MCI_TOPOLOGY_MAX)
		return NULL;
	grown = realloc(*base, (*count + 1) * size);
	if (!grown)
		return NULL;
	*base = grown;
	return memset((char *)grown + (*count)++ * size, 0, size);
}

void mci_sysfs_device(const char *path, const char *name, struct mci_device *dev)
{
	char resolved[PATH_MAX];

	mci_sysfs_copy(dev->name, sizeof(dev->name), name);
	dev->numa_node = (int)mci_sysfs_number(path, "numa_node", -1);
	mci_sysfs_link(path, "driver", dev->driver, sizeof(dev->driver));
	if (!realpath(path, resolved) || strlen(resolved) >= sizeof(dev->path))
		return;
	memcpy(dev->path, resolved, strlen(resolved) + 1);
	mci_sysfs_copy(dev->bus, sizeof(dev->bus), strrchr(dev->path, '/') + 1);
}
