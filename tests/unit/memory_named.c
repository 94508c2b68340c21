// SPDX-License-Identifier: MIT
/* mc_memory with a name: it survives a killed process, is held by one at a time, and never passes as what it
 * is not. */
#include "unit/memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <mooncake/admin.h>

#include "memory/named.h"

static void test_names_are_checked(void **state)
{
	static const char *const wrong[] = { "", ".hidden", "..", "a/b", "a b", "a\nb", "\xc3\xa4", "x\x7f" };
	char longest[202];
	struct mc_memory_attr attr = named(4096);
	mc_memory *memory;

	(void)state;
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		attr.name = wrong[i];
		assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
		assert_int_equal(mc_memory_unlink(wrong[i]), -EINVAL);
	}
	assert_int_equal(mc_memory_unlink(NULL), -EINVAL);
	memset(longest, 'n', sizeof(longest));
	longest[201] = '\0';
	attr.name = longest;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	longest[200] = '\0';
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_unlink(longest), 0);
	assert_int_equal(mc_memory_unlink(longest), -ENOENT);
}

static unsigned int open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void test_a_sidecar_that_does_not_fit_leaves_nothing_behind(void **state)
{
	char folder[] = "/tmp/mooncake-sidecar-XXXXXX";
	struct mci_sidecar sidecar = { .length = 4096, .page_size = 4096 };
	struct rlimit whole, tiny;
	unsigned int before;
	int dir, ret;

	(void)state;
	assert_non_null(mkdtemp(folder));
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(dir >= 0);
	before = open_files();
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &whole), 0);
	tiny = whole;
	tiny.rlim_cur = 4;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tiny), 0);
	ret = mci_sidecar_write(dir, "full", &sidecar);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &whole), 0);
	assert_int_equal(ret, -ENOSPC);
	assert_int_equal(open_files(), before);
	close(dir);
	assert_int_equal(rmdir(folder), 0); /* empty */
}

static int write_and_stay(void)
{
	struct mc_memory_attr attr = named(4 * MIB);
	mc_memory *memory;

	if (mc_memory_alloc(&attr, &memory) || info_of(memory).reattached)
		return 1;
	memset(mc_memory_addr(memory), 0xc5, 4 * MIB);
	return 0;
}

static void test_named_memory_survives_kill_9_and_is_reattached(void **state)
{
	struct mc_memory_attr attr = named(4 * MIB);
	struct mc_uuid first;
	mc_memory *memory;
	uint8_t *p;
	int result;

	(void)state;
	kill_child(child_that(write_and_stay, &result));
	assert_int_equal(result, 0);
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(info_of(memory).reattached, 1);
	assert_string_equal(info_of(memory).kind, by_module() ? "module-kept" : "tmpfs");
	first = info_of(memory).content_id;
	p = mc_memory_addr(memory);
	assert_int_equal(p[0], 0xc5);
	assert_memory_equal(p, p + 1, 4 * MIB - 1);
	p[17] = 1;
	assert_int_equal(mc_memory_free(memory), 0);

	/* page size 0 takes what is there; prefault must not change a byte */
	attr.page_size = 0;
	attr.flags = MC_MEMORY_EXISTING | MC_MEMORY_PREFAULT;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_true(same_id(memory, &first));
	p = mc_memory_addr(memory);
	assert_int_equal(p[17], 1);
	assert_int_equal(p[18], 0xc5);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_held_memory_is_refused_naming_the_pid(void **state)
{
	struct mc_memory_attr attr = named(4 * MIB);
	mc_memory *memory;
	char text[32];
	int result;
	pid_t pid;

	(void)state;
	pid = child_that(write_and_stay, &result);
	assert_int_equal(result, 0);
	snprintf(text, sizeof(text), "process %d;", (int)pid);
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EBUSY);
	assert_non_null(strstr(mc_errmsg(), text));
	assert_int_equal(mc_memory_unlink(name), -EBUSY);
	assert_non_null(strstr(mc_errmsg(), text));
	kill_child(pid);
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(info_of(memory).reattached, 1);
	/* this process itself is no exception */
	{
		mc_memory *second;

		assert_int_equal(mc_memory_alloc(&attr, &second), -EBUSY);
		assert_non_null(strstr(mc_errmsg(), "this process"));
	}
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_lock_ends_with_free_even_if_a_forked_child_lives(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;
	pid_t pid;

	(void)state;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	pid = fork();
	if (!pid) {
		alarm(30);
		for (;;)
			pause();
	}
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_free(memory), 0);
	kill_child(pid);
}

static void test_handles_are_dead_in_a_forked_child(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	pid = fork();
	if (!pid) {
		unsigned char seen[256];
		bool unmapped = mincore(mc_memory_addr(memory), MIB, seen) && errno == ENOMEM;
		bool unknown = mci_memory_find(mc_memory_addr(memory), 1, NULL, NULL, NULL) == -ENOENT;

		_exit(mc_memory_free(memory) == -ECHILD && unmapped && unknown ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_another_length_or_page_size_is_refused_and_content_kept(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;

	(void)state;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	memset(mc_memory_addr(memory), 7, MIB);
	assert_int_equal(mc_memory_free(memory), 0);
	attr.length = 2 * MIB;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	assert_non_null(strstr(mc_errmsg(), "1048576"));
	assert_non_null(strstr(mc_errmsg(), "2097152"));
	attr.length = MIB;
	attr.page_size = MCI_PAGE_2M;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.page_size = 4096;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(info_of(memory).reattached, 1);
	assert_int_equal(((uint8_t *)mc_memory_addr(memory))[MIB - 1], 7);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_create_and_existing_flags(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;

	(void)state;
	attr.flags = MC_MEMORY_EXISTING;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -ENOENT);
	attr.flags = MC_MEMORY_CREATE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EEXIST);
	attr.flags = MC_MEMORY_EXISTING;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void file_of(const char *prefix, const char *suffix, char path[512])
{
	snprintf(path, 512, MCI_NAMED_ROOT "/%u/%s%s%s", geteuid(), prefix, name, suffix);
}

/* Allocate, fill, free, let @harm change the files; then it must count as new: other id, zeros. */
static void expect_new_after(void (*harm)(const char *data, const char *sidecar))
{
	struct mc_memory_attr attr = named(MIB);
	char data[512], sidecar[512];
	struct mc_uuid first;
	mc_memory *memory;

	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	memset(mc_memory_addr(memory), 7, MIB);
	first = info_of(memory).content_id;
	assert_int_equal(mc_memory_free(memory), 0);
	file_of("", "", data);
	file_of(".", ".id", sidecar);
	assert_int_equal(access(data, F_OK), 0);
	assert_int_equal(access(sidecar, F_OK), 0);
	harm(data, sidecar);
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(info_of(memory).reattached, 0);
	assert_false(same_id(memory, &first));
	assert_true(all_zero(mc_memory_addr(memory), MIB));
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_unlink(name), 0);
}

static void flip_a_byte(const char *data, const char *sidecar)
{
	uint8_t bytes[MCI_SIDECAR_SIZE];
	FILE *f = fopen(sidecar, "r+");

	(void)data;
	assert_int_equal(fread(bytes, 1, sizeof(bytes), f), sizeof(bytes));
	bytes[40] ^= 1;
	rewind(f);
	assert_int_equal(fwrite(bytes, 1, sizeof(bytes), f), sizeof(bytes));
	fclose(f);
}

static void cut_sidecar(const char *data, const char *sidecar)
{
	(void)data;
	assert_int_equal(truncate(sidecar, MCI_SIDECAR_SIZE - 1), 0);
}

static void remove_sidecar(const char *data, const char *sidecar)
{
	(void)data;
	assert_int_equal(unlink(sidecar), 0);
}

static void cut_data(const char *data, const char *sidecar)
{
	(void)sidecar;
	assert_int_equal(truncate(data, MIB / 2), 0);
}

static void replace_data(const char *data, const char *sidecar)
{
	char other[600];
	int fd;

	(void)sidecar;
	snprintf(other, sizeof(other), "%s.copy", data);
	fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MIB), 0);
	close(fd);
	assert_int_equal(rename(other, data), 0);
}

static void test_memory_with_a_doubtful_sidecar_counts_as_new(void **state)
{
	(void)state;
	expect_new_after(flip_a_byte);
	expect_new_after(cut_sidecar);
	expect_new_after(remove_sidecar);
	expect_new_after(cut_data);
	expect_new_after(replace_data);
}

static void test_sidecar_codec_refuses_any_changed_byte(void **state)
{
	struct mci_sidecar in = { .length = MIB, .page_size = 4096, .inode = 12, .pid = 7 }, out;
	uint8_t bytes[MCI_SIDECAR_SIZE + 1] = { 0 };

	(void)state;
	mci_uuid_new(&in.content_id);
	mci_sidecar_encode(&in, bytes);
	assert_int_equal(mci_sidecar_decode(bytes, MCI_SIDECAR_SIZE, &out), 0);
	assert_int_equal(out.length, MIB);
	assert_int_equal(out.pid, 7);
	assert_true(mci_uuid_equal(&in.content_id, &out.content_id));
	assert_int_equal(mci_sidecar_decode(bytes, MCI_SIDECAR_SIZE - 1, &out), -EBADMSG);
	assert_int_equal(mci_sidecar_decode(bytes, MCI_SIDECAR_SIZE + 1, &out), -EBADMSG);
	for (unsigned int i = 0; i < 8 * MCI_SIDECAR_SIZE; i++) {
		bytes[i / 8] ^= (uint8_t)(1u << i % 8);
		assert_int_equal(mci_sidecar_decode(bytes, MCI_SIDECAR_SIZE, &out), -EBADMSG);
		bytes[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	in.length = MIB + 1; /* whole, but impossible */
	mci_sidecar_encode(&in, bytes);
	assert_int_equal(mci_sidecar_decode(bytes, MCI_SIDECAR_SIZE, &out), -EBADMSG);
}

static void test_a_link_in_place_of_the_file_is_not_followed(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	char data[512], target[] = "/tmp/mooncake-memory-XXXXXX";
	mc_memory *memory;
	struct stat st;
	int fd = mkstemp(target);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0); /* makes the directory */
	assert_int_equal(mc_memory_free(memory), 0);
	file_of("", "", data);
	assert_int_equal(unlink(data), 0);
	assert_int_equal(symlink(target, data), 0);
	assert_true(mc_memory_alloc(&attr, &memory) < 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 0);
	close(fd);
	unlink(target);
	assert_int_equal(unlink(data), 0);
	assert_int_equal(mc_memory_unlink(name), 0); /* the sidecar that is left */
	assert_int_equal(mc_memory_unlink(name), -ENOENT);
}

/* A user whom no other test run has. */
static uid_t lonely_user(void)
{
	static uid_t user;

	if (!user)
		user = 1000000 + (uid_t)getpid();
	return user;
}

static int in_an_open_directory(void)
{
	struct mc_memory_attr attr = named(MIB);
	char path[64];
	mc_memory *memory;

	if (!geteuid() && setresuid(lonely_user(), lonely_user(), lonely_user()))
		return 1;
	if (mc_memory_alloc(&attr, &memory))
		return 2;
	if (mc_memory_free(memory) || mc_memory_unlink(name))
		return 3;
	snprintf(path, sizeof(path), MCI_NAMED_ROOT "/%u", geteuid());
	if (chmod(path, 0755))
		return 4;
	if (mc_memory_alloc(&attr, &memory) != -EACCES || !strstr(mc_errmsg(), "0755"))
		return 5;
	if (chmod(path, 0700) || mc_memory_alloc(&attr, &memory) || mc_memory_free(memory) ||
	    mc_memory_unlink(name))
		return 6;
	return 0;
}

static void test_a_directory_that_others_can_enter_is_refused(void **state)
{
	char path[64];
	int result;

	(void)state;
	if (geteuid()) {
		print_message("skipped: needs root, to have a user with no other memory\n");
		skip();
	}
	snprintf(path, sizeof(path), MCI_NAMED_ROOT "/%u", lonely_user());
	kill_child(child_that(in_an_open_directory, &result));
	rmdir(path);
	assert_int_equal(result, 0);
}

static void test_more_than_the_tmpfs_has_is_refused_at_once(void **state)
{
	struct mc_memory_attr attr = named(0);
	struct statvfs fs;
	mc_memory *memory;
	char data[512];

	(void)state;
	assert_int_equal(statvfs("/dev/shm", &fs), 0);
	if (!fs.f_blocks) {
		print_message("skipped: /dev/shm has no limit\n");
		skip();
	}
	attr.length = (uint64_t)fs.f_blocks * fs.f_frsize + 64 * MIB;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -ENOSPC);
	assert_non_null(strstr(mc_errmsg(), "/dev/shm"));
	file_of("", "", data);
	assert_int_equal(access(data, F_OK), -1); /* nothing is left behind */
}

static void test_named_memory_has_all_its_blocks_from_the_start(void **state)
{
	struct mc_memory_attr attr = named(8 * MIB);
	mc_memory *memory;
	struct stat st;

	(void)state;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(fstat(info_of(memory).fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= 8 * MIB);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_huge_named_memory_without_a_mount_is_explained(void **state)
{
	struct mc_memory_attr attr = named(MCI_PAGE_1G);
	mc_memory *memory;
	int ret;

	(void)state;
	attr.page_size = MCI_PAGE_1G;
	ret = mc_memory_alloc(&attr, &memory);
	if (!ret) {
		mc_memory_free(memory);
		print_message("skipped: this machine has 1 GiB pages and a mount for them\n");
		skip();
	}
	assert_true(ret == -ENOENT || ret == -ENOMEM);
	if (ret == -ENOENT)
		assert_non_null(strstr(mc_errmsg(), "mount -t hugetlbfs -o pagesize=1024M"));
}

struct wanted {
	const char *name;
	int pid, seen;
	uint64_t length;
};

static int note_entry(const struct mc_memory_entry *entry, void *arg)
{
	struct wanted *w = arg;

	if (!strcmp(entry->name, w->name)) {
		w->seen++;
		w->pid = entry->holder_pid;
		w->length = entry->length;
	}
	return 0;
}

static int stop_at_first(const struct mc_memory_entry *entry, void *arg)
{
	(void)entry;
	(void)arg;
	return 42;
}

static void test_list_shows_names_lengths_and_holders(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	struct wanted w = { .name = name };
	mc_memory *memory;

	(void)state;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_list(note_entry, &w), 0);
	assert_int_equal(w.seen, 1);
	assert_int_equal(w.pid, getpid());
	assert_int_equal(w.length, MIB);
	assert_int_equal(mc_memory_list(stop_at_first, NULL), 42);
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_list(note_entry, &w), 0);
	assert_int_equal(w.pid, 0);
	assert_int_equal(mc_memory_unlink(name), 0);
	w.seen = 0;
	assert_int_equal(mc_memory_list(note_entry, &w), 0);
	assert_int_equal(w.seen, 0);
}

/* ---- the module and files side by side ---- */

static void test_a_file_of_that_name_is_found_with_the_module_too(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;

	(void)state;
	attr.flags = MC_MEMORY_NO_MODULE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_string_equal(info_of(memory).kind, "tmpfs");
	memset(mc_memory_addr(memory), 9, MIB);
	attr.flags = 0;
	{
		mc_memory *second;

		assert_int_equal(mc_memory_alloc(&attr, &second), -EBUSY);
	}
	assert_int_equal(mc_memory_free(memory), 0);
	attr.flags = MC_MEMORY_CREATE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EEXIST);
	attr.flags = 0;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_string_equal(info_of(memory).kind, "tmpfs");
	assert_int_equal(info_of(memory).reattached, 1);
	assert_int_equal(((uint8_t *)mc_memory_addr(memory))[MIB - 1], 9);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_a_name_in_both_places_is_refused_and_both_are_kept(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	struct wanted w = { .name = name };
	mc_memory *memory;
	char *json;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		attr.flags = i ? MC_MEMORY_NO_MODULE : 0;
		assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
		memset(mc_memory_addr(memory), (int)i + 1, MIB);
		assert_int_equal(mc_memory_free(memory), 0);
	}
	attr.flags = 0;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -ENOTUNIQ);
	assert_non_null(strstr(mc_errmsg(), "MOONCAKE_MODULE=off"));
	attr.flags = MC_MEMORY_CREATE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -ENOTUNIQ);
	assert_int_equal(mc_memory_list(note_entry, &w), 0);
	assert_int_equal(w.seen, 2);
	assert_int_equal(mc_memory_show(name, &json), 0);
	assert_non_null(strstr(json, "module-kept"));
	assert_non_null(strstr(json, "tmpfs"));
	free(json);
	attr.flags = MC_MEMORY_NO_MODULE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(((uint8_t *)mc_memory_addr(memory))[0], 2);
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_unlink(name), 0);
	assert_int_equal(mc_memory_unlink(name), -ENOENT);
}

/* What is held by this process is refused to it as to others: the module itself would let it in. */
static void test_memory_that_this_process_holds_cannot_be_unlinked_by_it(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;

	(void)state;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_unlink(name), -EBUSY);
	assert_non_null(strstr(mc_errmsg(), "this process"));
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_unlink(name), 0);
}

static int touch_after_revocation(void)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;

	if (mc_memory_alloc(&attr, &memory))
		return 1;
	memset(mc_memory_addr(memory), 0xc5, MIB);
	return mc_memory_revoke(name, 0, NULL) ? 2 : 0;
}

static void test_revoked_memory_is_out_of_reach_and_its_content_stays(void **state)
{
	struct mc_memory_revoked revoked = { .size = sizeof(revoked) };
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;
	int result, status;
	pid_t pid;

	(void)state;
	assert_int_equal(mc_memory_revoke(name, 0, &revoked), -ENOENT);
	kill_child(child_that(touch_after_revocation, &result));
	assert_int_equal(result, 0);
	pid = fork();
	if (!pid) {
		alarm(30);
		signal(SIGBUS, SIG_DFL); /* cmocka would take it for the test's */
		if (mc_memory_alloc(&attr, &memory) || !info_of(memory).reattached ||
		    ((uint8_t *)mc_memory_addr(memory))[MIB - 1] != 0xc5)
			_exit(1);
		if (mc_memory_revoke(name, 0, &revoked) || !revoked.generation || revoked.pinned_pages)
			_exit(2);
		((volatile uint8_t *)mc_memory_addr(memory))[0] = 1;
		_exit(3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(((uint8_t *)mc_memory_addr(memory))[0], 0xc5);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_a_file_cannot_be_revoked_and_the_sentence_says_so(void **state)
{
	struct mc_memory_attr attr = named(MIB);
	mc_memory *memory;

	(void)state;
	attr.flags = MC_MEMORY_NO_MODULE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mc_memory_revoke(name, 0, NULL), -EOPNOTSUPP);
	assert_non_null(strstr(mc_errmsg(), "is a file"));
	assert_int_equal(mc_memory_revoke(name, 2, NULL), -EINVAL);
	assert_int_equal(mc_memory_revoke(".x", 0, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest files[] = {
		WITH_NAME(test_memory_with_a_doubtful_sidecar_counts_as_new),
		cmocka_unit_test(test_sidecar_codec_refuses_any_changed_byte),
		WITH_NAME(test_a_link_in_place_of_the_file_is_not_followed),
		WITH_NAME(test_a_directory_that_others_can_enter_is_refused),
		WITH_NAME(test_more_than_the_tmpfs_has_is_refused_at_once),
		WITH_NAME(test_named_memory_has_all_its_blocks_from_the_start),
	};
	const struct CMUnitTest with[] = {
		WITH_NAME(test_a_file_of_that_name_is_found_with_the_module_too),
		WITH_NAME(test_a_name_in_both_places_is_refused_and_both_are_kept),
		WITH_NAME(test_revoked_memory_is_out_of_reach_and_its_content_stays),
		WITH_NAME(test_a_file_cannot_be_revoked_and_the_sentence_says_so),
	};
	const struct CMUnitTest tests[] = {
		WITH_NAME(test_names_are_checked),
		WITH_NAME(test_a_sidecar_that_does_not_fit_leaves_nothing_behind),
		WITH_NAME(test_named_memory_survives_kill_9_and_is_reattached),
		WITH_NAME(test_held_memory_is_refused_naming_the_pid),
		WITH_NAME(test_lock_ends_with_free_even_if_a_forked_child_lives),
		WITH_NAME(test_handles_are_dead_in_a_forked_child),
		WITH_NAME(test_another_length_or_page_size_is_refused_and_content_kept),
		WITH_NAME(test_create_and_existing_flags),
		WITH_NAME(test_memory_that_this_process_holds_cannot_be_unlinked_by_it),
		WITH_NAME(test_huge_named_memory_without_a_mount_is_explained),
		WITH_NAME(test_list_shows_names_lengths_and_holders),
	};

	int failed = 0;

	setenv("MOONCAKE_MODULE", "off", 1);
	if (!getenv("MODULE_ONLY")) {
		failed += cmocka_run_group_tests(files, NULL, NULL);
		failed += cmocka_run_group_tests_name("without the module", tests, NULL, NULL);
	}
	if (module_pass()) {
		failed += cmocka_run_group_tests(with, NULL, NULL);
		failed += cmocka_run_group_tests_name("with the module", tests, NULL, NULL);
	}
	return failed;
}
