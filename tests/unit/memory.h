/* SPDX-License-Identifier: MIT */
/*
 * What the tests of mc_memory share: fresh names, children that are killed, looking at pages; and running over the
 * kernel module as well as without it.
 */
#ifndef TESTS_UNIT_MEMORY_H
#define TESTS_UNIT_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/errors.h"
#include "core/uuid.h"
#include "memory/memory.h"

#define MIB (1ull << 20)

static char name[64];

static inline int fresh_name(void **state)
{
	static unsigned int counter;

	(void)state;
	snprintf(name, sizeof(name), "test-%d-%u", (int)getpid(), counter++);
	return 0;
}

static inline int drop_name(void **state)
{
	(void)state;
	mc_memory_unlink(name);
	return 0;
}

static inline struct mc_memory_attr named(uint64_t length)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;

	attr.length = length;
	attr.name = name;
	attr.page_size = 4096;
	return attr;
}

static inline struct mc_memory_info info_of(mc_memory *memory)
{
	struct mc_memory_info info = { .size = sizeof(info) };

	assert_int_equal(mc_memory_info(memory, &info), 0);
	return info;
}

static inline bool same_id(mc_memory *memory, const struct mc_uuid *id)
{
	struct mc_memory_info info = info_of(memory);

	return mci_uuid_equal(&info.content_id, id);
}

static inline bool in_core(const uint8_t *p, uint64_t length)
{
	uint64_t pages = length / 4096;
	unsigned char *seen = malloc(pages);
	bool all = true;

	assert_int_equal(mincore((void *)(uintptr_t)p, length, seen), 0);
	for (uint64_t i = 0; i < pages; i++)
		all = all && seen[i] & 1;
	free(seen);
	return all;
}

static inline bool all_zero(const uint8_t *p, uint64_t length)
{
	return !p[0] && !memcmp(p, p + 1, length - 1);
}

/* A child that runs @fn and then waits to be killed; it writes one byte of progress first. */
static inline pid_t child_that(int (*fn)(void), int *result)
{
	int fds[2], value;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		alarm(30);
		value = fn();
		if (write(fds[1], &value, sizeof(value)) != sizeof(value))
			_exit(3);
		for (;;)
			pause();
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], result, sizeof(*result)), sizeof(*result));
	close(fds[0]);
	return pid;
}

static inline void kill_child(pid_t pid)
{
	int status;

	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/* Is this the pass with the module? */
static inline bool by_module(void)
{
	const char *text = getenv("MOONCAKE_MODULE");

	return !text || strcmp(text, "off");
}

static void test_memory_of_the_module(void **state)
{
	struct mci_kdev *kdev;

	(void)state;
	if (mci_kdev_open(&kdev)) {
		print_message("skipped: memory of the kernel module: %s\n", mc_errmsg());
		skip();
	}
	mci_kdev_close(kdev);
}

/* Is it there? Says so, visibly, if not. ($MODULE_ONLY: this pass alone.) */
static inline bool module_pass(void)
{
	const struct CMUnitTest probe[] = {cmocka_unit_test(test_memory_of_the_module)};
	struct mci_kdev *kdev;

	cmocka_run_group_tests_name("module?", probe, NULL, NULL);
	if (mci_kdev_open(&kdev))
		return false;
	mci_kdev_close(kdev);
	setenv("MOONCAKE_MODULE", "auto", 1);
	return true;
}

#define WITH_NAME(test) cmocka_unit_test_setup_teardown(test, fresh_name, drop_name)

#endif
