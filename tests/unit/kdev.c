// SPDX-License-Identifier: MIT
/* The kernel module from the library's side: without it every function says so; with it, that the types hold.
 */
#include "unit/memory.h"

#include <poll.h>

static bool there(void)
{
	struct mci_kdev *kdev;

	if (mci_kdev_open(&kdev))
		return false;
	mci_kdev_close(kdev);
	return true;
}

static int no_entry(const struct mci_kdev_entry *entry, void *arg)
{
	(void)entry;
	(void)arg;
	return 1;
}

#define assert_absent(call)                                             \
	do {                                                            \
		assert_int_equal(call, -ENODEV);                        \
		assert_true(strstr(mc_errmsg(), "modprobe mooncake") || \
			    strstr(mc_errmsg(), "make USE_KMOD=1"));    \
	} while (0)

static void test_without_the_module_every_function_says_so(void **state)
{
	uint8_t key[MCI_KDEV_KEY] = {0};
	struct mci_kdev_attachment attachment;
	struct mci_kdev_revoked revoked;
	struct mci_kdev_buffer buffer;
	struct mci_kdev *kdev = NULL;
	struct mci_kdev_info info;
	struct mci_kdev_stat stat;
	struct mc_uuid id = {{1}};
	uint64_t grant;
	uint32_t holder;
	void *addr;
	int fd;

	(void)state;
	if (!there()) {
		assert_absent(mci_kdev_open(&kdev));
		assert_absent(mci_kdev_list(true, no_entry, NULL));
		assert_absent(mci_kdev_list(false, no_entry, NULL));
	}
	assert_null(kdev);
	assert_absent(mci_kdev_query(kdev, &info));
	assert_absent(mci_kdev_destroy(kdev, 1));
	assert_absent(mci_kdev_stat(kdev, 1, &stat));
	assert_absent(mci_kdev_export(kdev, 1, false, &fd));
	assert_absent(mci_kdev_map(kdev, 0, 4096, true, &addr));
	assert_absent(mci_kdev_alloc(kdev, 4096, -1, &buffer));
	assert_absent(mci_kdev_alloc_kept(kdev, "x", 4096, -1, &buffer));
	assert_absent(mci_kdev_open_kept(kdev, "x", true, &buffer, &holder));
	assert_absent(mci_kdev_unlink(kdev, "x"));
	assert_absent(mci_kdev_grant(kdev, 1, 0, 4096, true, &id, &grant, key));
	assert_absent(mci_kdev_attach(kdev, key, &attachment));
	assert_absent(mci_kdev_revoke_grant(kdev, 1));
	assert_absent(mci_kdev_revoke(kdev, 1, false, &revoked));
	assert_absent(mci_kdev_revoke_kept(kdev, "x", false, &revoked));
	mci_kdev_close(NULL);
}

static struct mci_kdev *context(void)
{
	struct mci_kdev *kdev = NULL;

	if (mci_kdev_open(&kdev))
		fail_msg("%s", mc_errmsg());
	return kdev;
}

static void test_a_key_opens_a_part_for_one_context_once_with_its_rights(void **state)
{
	struct mci_kdev *owner = context(), *peer = context(), *other = context();
	struct mci_kdev_attachment a;
	struct mci_kdev_buffer buffer;
	struct mci_kdev_info info;
	uint8_t key[MCI_KDEV_KEY];
	uint64_t grant;
	uint8_t *mine;
	void *addr;
	int pipes[2];

	(void)state;
	assert_int_equal(mci_kdev_query(peer, &info), 0);
	assert_int_equal(mci_kdev_alloc(owner, 3 * MIB, -1, &buffer), 0);
	assert_int_equal(buffer.length, 3 * MIB);
	assert_int_equal(mci_kdev_map(owner, buffer.mmap_offset, buffer.length, true, &addr), 0);
	assert_int_equal((uintptr_t)addr % (2 * MIB), 0);
	mine = addr;
	memset(mine, 7, 3 * MIB);
	assert_int_equal(mci_kdev_grant(owner, buffer.id, MIB, MIB, false, &info.context_id, &grant, key), 0);
	assert_int_equal(mci_kdev_attach(other, key, &a), -ENOENT);
	assert_int_equal(mci_kdev_attach(peer, key, &a), 0);
	assert_int_equal(mci_kdev_attach(peer, key, &a), -ENOENT);
	assert_int_equal(a.length, MIB);
	assert_false(a.writable);
	assert_true(mci_uuid_equal(&a.content_id, &buffer.content_id));
	assert_true(mci_kdev_map(peer, a.mmap_offset, a.length, true, &addr) < 0);
	assert_int_equal(mci_kdev_map(peer, a.mmap_offset, a.length, false, &addr), 0);
	mine[MIB + 5] = 9;
	assert_int_equal(((uint8_t *)addr)[5], 9);
	assert_int_equal(mci_kdev_destroy(peer, a.id), 0); /* the mapping goes on */
	assert_int_equal(((volatile uint8_t *)addr)[5], 9);
	assert_int_equal(mci_kdev_revoke_grant(owner, grant), 0);
	/* seen without dying of it: the kernel reads for us */
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(write(pipes[1], addr, 1), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(write(pipes[1], mine + MIB + 5, 1), 1);
	close(pipes[0]);
	close(pipes[1]);
	munmap(addr, MIB);
	munmap(mine, 3 * MIB);
	assert_int_equal(mci_kdev_destroy(owner, buffer.id), 0);
	mci_kdev_close(owner);
	mci_kdev_close(peer);
	mci_kdev_close(other);
}

struct seen {
	unsigned int count;
	struct mci_kdev_entry entry;
	char name[64];
};

static int note(const struct mci_kdev_entry *entry, void *arg)
{
	struct seen *seen = arg;

	if (!entry->name || strcmp(entry->name, name))
		return 0;
	seen->count++;
	seen->entry = *entry;
	return 0;
}

static void test_kept_memory_is_listed_with_what_the_calls_said(void **state)
{
	struct mci_kdev *kdev = context();
	struct mci_kdev_buffer buffer, again;
	struct mci_kdev_stat stat;
	struct seen seen = {0};

	(void)state;
	assert_int_equal(mci_kdev_alloc_kept(kdev, name, MIB, -1, &buffer), 0);
	assert_int_equal(mci_kdev_alloc_kept(kdev, name, MIB, -1, &again), -EEXIST);
	assert_non_null(strstr(mc_errmsg(), name));
	assert_int_equal(mci_kdev_list(true, note, &seen), 0);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.entry.length, MIB);
	assert_int_equal(seen.entry.uid, geteuid());
	assert_int_equal(seen.entry.pid, getpid());
	assert_true(mci_uuid_equal(&seen.entry.content_id, &buffer.content_id));
	assert_int_equal(mci_kdev_stat(kdev, buffer.id, &stat), 0);
	assert_string_equal(stat.kind, "buffer");
	assert_true(stat.kept && stat.exclusive && stat.writable && !stat.revoked && !stat.attachment);
	assert_int_equal(stat.pages, MIB / 4096);
	assert_true(stat.node_count >= 1);
	assert_int_equal(mci_kdev_unlink(kdev, name), 0);
	assert_int_equal(mci_kdev_unlink(kdev, name), -ENOENT);
	assert_int_equal(mci_kdev_destroy(kdev, buffer.id), 0);
	assert_int_equal(mci_kdev_destroy(kdev, buffer.id), -ENOENT);
	mci_kdev_close(kdev);
}

/* What the parent held exclusively must not live on in a child that never execs. */
static void test_a_forked_child_has_no_part_in_the_context(void **state)
{
	struct mci_kdev *kdev = context(), *second;
	struct mci_kdev_buffer buffer;
	struct mci_kdev_info info;
	uint32_t holder = 0;
	int fds[2], status;
	char byte;
	pid_t pid;

	(void)state;
	assert_int_equal(mci_kdev_alloc_kept(kdev, name, MIB, -1, &buffer), 0);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		alarm(30);
		byte = mci_kdev_query(kdev, &info) == -ECHILD ? 'y' : 'n';
		mci_kdev_close(kdev);
		if (write(fds[1], &byte, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fds[0], &byte, 1), 1);
	assert_int_equal(byte, 'y');
	second = context();
	assert_int_equal(mci_kdev_open_kept(second, name, true, &buffer, &holder), -EBUSY);
	assert_int_equal(holder, getpid());
	mci_kdev_close(kdev);
	assert_int_equal(mci_kdev_open_kept(second, name, true, &buffer, &holder), 0);
	assert_int_equal(mci_kdev_unlink(second, name), 0);
	mci_kdev_close(second);
	close(fds[0]);
	close(fds[1]);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

int main(void)
{
	const struct CMUnitTest without[] = {
		cmocka_unit_test(test_without_the_module_every_function_says_so),
	};
	const struct CMUnitTest with[] = {
		cmocka_unit_test(test_a_key_opens_a_part_for_one_context_once_with_its_rights),
		WITH_NAME(test_kept_memory_is_listed_with_what_the_calls_said),
		WITH_NAME(test_a_forked_child_has_no_part_in_the_context),
	};
	int failed = cmocka_run_group_tests(without, NULL, NULL);

	if (module_pass())
		failed += cmocka_run_group_tests_name("with the module", with, NULL, NULL);
	return failed;
}
