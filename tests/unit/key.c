// SPDX-License-Identifier: MIT
/* Cluster key files: made once, read by their owner only, told apart without being shown. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <mooncake/admin.h>

#include "core/errors.h"

static char dir[64], path[128];

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/mooncake-key-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/cluster.key", dir);
	return 0;
}

static int drop_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static void put(const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, 0600), 0);
}

static void test_a_new_key_is_private_and_of_32_random_bytes(void **state)
{
	char first[128] = "", second[128] = "";
	mode_t old = umask(0777);
	struct stat st;
	FILE *f;

	(void)state;
	assert_int_equal(mc_key_create(path), 0);
	umask(old);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, 65);
	f = fopen(path, "r");
	assert_non_null(fgets(first, sizeof(first), f));
	fclose(f);
	assert_int_equal(strspn(first, "0123456789abcdef"), 64);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mc_key_create(path), 0);
	f = fopen(path, "r");
	assert_non_null(fgets(second, sizeof(second), f));
	fclose(f);
	assert_string_not_equal(first, second);
}

static void test_an_existing_file_is_left_alone(void **state)
{
	struct stat st;

	(void)state;
	put("precious\n");
	assert_int_equal(mc_key_create(path), -EEXIST);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 9);
	assert_int_equal(mc_key_create("/nonexistent/dir/key"), -ENOENT);
	assert_int_equal(mc_key_create(""), -EINVAL);
	assert_int_equal(mc_key_create(NULL), -EINVAL);
}

static void test_ids_and_tokens_depend_on_key_and_role_and_do_not_show_the_key(void **state)
{
	char id[17], other_id[17], again[17], metrics[65], admin[65];
	char key[66] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

	(void)state;
	put(key);
	assert_int_equal(mc_key_id(path, id), 0);
	assert_int_equal(mc_key_id(path, again), 0);
	assert_int_equal(strlen(id), 16);
	assert_string_equal(id, again);
	assert_null(strstr(key, id));
	assert_int_equal(mc_key_bearer(path, "metrics", metrics), 0);
	assert_int_equal(mc_key_bearer(path, "admin", admin), 0);
	assert_int_equal(strlen(admin), 64);
	assert_string_not_equal(metrics, admin);
	assert_string_not_equal(metrics, key);
	key[0] = '1';
	put(key);
	assert_int_equal(mc_key_id(path, other_id), 0);
	assert_string_not_equal(id, other_id);
}

static void test_files_that_are_no_private_key_are_refused(void **state)
{
	char id[17] = "unchanged", bearer[65];

	(void)state;
	assert_int_equal(mc_key_id(path, id), -ENOENT);
	put("abc\n");
	assert_int_equal(mc_key_id(path, id), -EINVAL);
	put("zz112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
	assert_int_equal(mc_key_id(path, id), -EINVAL);
	put("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
	assert_int_equal(mc_key_bearer(path, "root", bearer), -EINVAL);
	assert_non_null(strstr(mc_errmsg(), "metrics, metadata and admin"));
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(mc_key_id(path, id), -EPERM);
	assert_non_null(strstr(mc_errmsg(), "chmod 600"));
	assert_string_equal(id, "unchanged");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, make_dir, drop_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_new_key_is_private_and_of_32_random_bytes),
		TEST(test_an_existing_file_is_left_alone),
		TEST(test_ids_and_tokens_depend_on_key_and_role_and_do_not_show_the_key),
		TEST(test_files_that_are_no_private_key_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
