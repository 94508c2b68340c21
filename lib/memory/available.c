// SPDX-License-Identifier: MIT
/*
 * How much memory this process can still get, so that too large a wish is an error and not the out-of-memory
 * killer: what the machine has available, and what each memory cgroup above us leaves. Nothing is kept.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/memory.h"

static bool read_value(const char *dir, const char *file, uint64_t *value)
{
	unsigned long long v;
	char path[PATH_MAX];
	bool found;
	FILE *f;

	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return false;
	f = fopen(path, "re");
	if (!f)
		return false;
	found = fscanf(f, "%llu", &v) == 1; /* "max" is no number: no limit */
	fclose(f);
	if (found)
		*value = v;
	return found;
}

/* Value behind @name in a file of lines "name value" or "name: value kB". */
static bool read_named(const char *path, const char *name, uint64_t *value)
{
	unsigned long long v;
	bool found = false;
	char line[256], key[128];
	FILE *f = fopen(path, "re");

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%127s %llu", key, &v) == 2 && !strcmp(key, name);
	if (f)
		fclose(f);
	if (found)
		*value = v;
	return found;
}

struct flavour {
	const char *limit, *usage, *cache;
};

static const struct flavour v2 = { "memory.max", "memory.current", "inactive_file" };
static const struct flavour v1 = { "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file" };

static uint64_t left_in(const char *dir, const struct flavour *flavour)
{
	uint64_t limit, usage, cache = 0;
	char stat[PATH_MAX];

	if (!read_value(dir, flavour->limit, &limit) || !read_value(dir, flavour->usage, &usage))
		return UINT64_MAX;
	/* Cached files are given up under pressure. */
	if (snprintf(stat, sizeof(stat), "%s/memory.stat", dir) < (int)sizeof(stat))
		read_named(stat, flavour->cache, &cache);
	usage -= cache < usage ? cache : usage;
	return limit > usage ? limit - usage : 0;
}

/* The narrowest of a group and all above it. In a container the path may not exist below the mount: then its
 * root. */
static uint64_t left_along(const char *mount, const char *path, const struct flavour *flavour)
{
	uint64_t least = UINT64_MAX;
	char dir[PATH_MAX];
	size_t root = strlen(mount);

	if (snprintf(dir, sizeof(dir), "%s%s", mount, path) >= (int)sizeof(dir))
		return UINT64_MAX;
	for (;;) {
		uint64_t left = left_in(dir, flavour);
		char *slash = strrchr(dir, '/');

		if (left < least)
			least = left;
		if (!slash || (size_t)(slash - dir) < root)
			return least;
		*slash = '\0';
	}
}

/* Lines "0::/path" (v2) and "9:memory:/path", "4:cpu,memory:/path" (v1). */
uint64_t mci_cgroup_available(const char *mount, const char *membership)
{
	char controllers[256], path[2048], v1_mount[PATH_MAX];
	uint64_t least = UINT64_MAX, left;

	snprintf(v1_mount, sizeof(v1_mount), "%s/memory", mount);
	for (const char *line = membership; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		if (sscanf(line, "0::%2047[^\n]", path) == 1)
			left = left_along(mount, path, &v2);
		else if (sscanf(line, "%*u:%255[^:\n]:%2047[^\n]", controllers, path) == 2 &&
			 strstr(controllers, "memory"))
			left = left_along(v1_mount, path, &v1);
		else
			continue;
		if (left < least)
			least = left;
	}
	return least;
}

uint64_t mci_memory_available(void)
{
	uint64_t kb, least = UINT64_MAX, left;
	char membership[8192];
	size_t n;
	FILE *f;

	if (read_named("/proc/meminfo", "MemAvailable:", &kb))
		least = kb << 10;
	f = fopen("/proc/self/cgroup", "re");
	if (!f)
		return least;
	n = fread(membership, 1, sizeof(membership) - 1, f);
	fclose(f);
	membership[n] = '\0';
	left = mci_cgroup_available("/sys/fs/cgroup", membership);
	return left < least ? left : least;
}
