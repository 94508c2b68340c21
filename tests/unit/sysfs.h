/* SPDX-License-Identifier: MIT */
/* A made-up sysfs tree below root, made before each test and removed after it. */
#ifndef TESTS_UNIT_SYSFS_H
#define TESTS_UNIT_SYSFS_H

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static inline void make_parents(const char *path)
{
	char copy[640];

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *p = copy + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		assert_true(!mkdir(copy, 0755) || errno == EEXIST);
	}
}

static inline void put(const char *file, const char *text)
{
	char path[640];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", root, file);
	make_parents(path);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static inline void put_link(const char *file, const char *target)
{
	char path[640], full[640];

	snprintf(path, sizeof(path), "%s/%s", root, file);
	snprintf(full, sizeof(full), "%s/%s", root, target);
	make_parents(path);
	assert_int_equal(symlink(full, path), 0);
}

static inline int make_root(void **state)
{
	(void)state;
	strcpy(root, "/tmp/mooncake-sysfs-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline int drop_root(void **state)
{
	(void)state;
	return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, make_root, drop_root)

#endif
