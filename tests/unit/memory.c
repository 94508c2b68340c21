// SPDX-License-Identifier: MIT
/* mc_memory without a name: kinds, limits, pre-faulting, what the engine may ask. */
#include "unit/memory.h"

#include <ftw.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void test_memory_is_a_sealed_memfd_of_its_own(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *a, *b;
	struct mc_memory_info ia, ib;
	struct stat st;

	(void)state;
	attr.length = 3 * MIB + 1;
	attr.page_size = 4096;
	assert_int_equal(mc_memory_alloc(&attr, &a), 0);
	assert_int_equal(mc_memory_alloc(&attr, &b), 0);
	ia = info_of(a);
	ib = info_of(b);
	assert_string_equal(ia.kind, "memfd");
	assert_int_equal(ia.length, 3 * MIB + 4096);
	assert_int_equal(ia.page_size, 4096);
	assert_int_equal(ia.reattached, 0);
	assert_int_not_equal(ia.fd, ib.fd);
	assert_false(mci_uuid_equal(&ia.content_id, &ib.content_id));
	assert_true(fcntl(ia.fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fcntl(ia.fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(ftruncate(ia.fd, 4096), -1);
	assert_int_equal(ftruncate(ia.fd, 64 * MIB), -1);
	assert_int_equal(fstat(ia.fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(all_zero(mc_memory_addr(a), ia.length));
	memset(mc_memory_addr(a), 0x5a, ia.length);
	assert_int_equal(mc_memory_free(a), 0);
	assert_int_equal(mc_memory_free(b), 0);
	assert_int_equal(mc_memory_free(NULL), 0);
}

static void test_memory_of_the_module_is_a_buffer_of_its_own(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	struct mc_memory_info ia, ib;
	mc_memory *a, *b, *plain;

	(void)state;
	attr.length = 3 * MIB + 1;
	assert_int_equal(mc_memory_alloc(&attr, &a), 0);
	attr.page_size = 4096;
	assert_int_equal(mc_memory_alloc(&attr, &b), 0);
	ia = info_of(a);
	ib = info_of(b);
	assert_string_equal(ia.kind, "module");
	assert_string_equal(ib.kind, "module");
	assert_int_equal(ia.length, 3 * MIB + 4096);
	assert_int_equal(ia.page_size, 4096);
	assert_int_equal(ia.fd, -1);
	assert_int_equal(ia.reattached, 0);
	assert_false(mci_uuid_equal(&ia.content_id, &ib.content_id));
	assert_false(mci_uuid_is_zero(&ia.content_id));
	assert_true(all_zero(mc_memory_addr(a), ia.length));
	memset(mc_memory_addr(a), 0x5a, ia.length);
	assert_true(all_zero(mc_memory_addr(b), ib.length));
	attr.flags = MC_MEMORY_NO_MODULE;
	assert_int_equal(mc_memory_alloc(&attr, &plain), 0);
	assert_string_equal(info_of(plain).kind, "memfd");
	assert_int_equal(mc_memory_free(plain), 0);
	assert_int_equal(mc_memory_free(a), 0);
	assert_int_equal(mc_memory_free(b), 0);
}

/* More than there is, or than the module gives, is a memfd: not a failure, and not all that the machine has. */
static void test_what_the_module_does_not_give_is_a_memfd(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;

	(void)state;
	attr.length = mci_memory_available() + 64 * MIB;
	attr.page_size = 4096;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_string_equal(info_of(memory).kind, "memfd");
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_private_memory_has_no_descriptor(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;
	int fd = 77;

	(void)state;
	attr.length = MIB;
	attr.flags = MC_MEMORY_PRIVATE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_string_equal(info_of(memory).kind, "anonymous");
	assert_int_equal(info_of(memory).fd, -1);
	assert_int_equal(mci_memory_find(mc_memory_addr(memory), MIB, &fd, NULL, NULL), 0);
	assert_int_equal(fd, -1);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_prefault_makes_all_pages_present(void **state)
{
	const unsigned int kinds[] = { 0, MC_MEMORY_PRIVATE };
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;

	(void)state;
	attr.length = 100 * MIB + 4096;
	attr.page_size = 4096;
	for (int i = 0; i < 2; i++) {
		attr.flags = kinds[i];
		assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
		assert_false(in_core(mc_memory_addr(memory), attr.length));
		assert_int_equal(info_of(memory).prefault_ns, 0);
		assert_int_equal(mc_memory_free(memory), 0);

		attr.flags |= MC_MEMORY_PREFAULT;
		assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
		assert_true(in_core(mc_memory_addr(memory), attr.length));
		assert_true(info_of(memory).prefault_ns > 0);
		assert_int_equal(mc_memory_free(memory), 0);
	}
}

/* As on a kernel before 5.14: madvise(MADV_POPULATE_WRITE) is EINVAL. */
static int prefault_on_an_old_kernel(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 23, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };
	struct mc_memory_attr attr = named(70 * MIB);
	mc_memory *memory;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return 1;
	attr.flags = MC_MEMORY_PREFAULT;
	if (mc_memory_alloc(&attr, &memory))
		return 2;
	if (!in_core(mc_memory_addr(memory), attr.length) || !all_zero(mc_memory_addr(memory), attr.length))
		return 3;
	memset(mc_memory_addr(memory), 0xc5, attr.length);
	if (mc_memory_free(memory) || mc_memory_alloc(&attr, &memory) || !info_of(memory).reattached)
		return 4;
	return memcmp(mc_memory_addr(memory), (uint8_t *)mc_memory_addr(memory) + 1, attr.length - 1) ? 5 : 0;
}

static void test_prefault_works_on_old_kernels_and_changes_nothing(void **state)
{
	int result;

	(void)state;
	kill_child(child_that(prefault_on_an_old_kernel, &result));
	assert_int_equal(result, 0);
}

static void test_numa_node_must_exist(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory = NULL;

	(void)state;
	attr.length = MIB;
	attr.numa_node = 0;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	memset(mc_memory_addr(memory), 1, MIB);
	assert_int_equal(mc_memory_free(memory), 0);
	memory = NULL;
	attr.numa_node = 999;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	assert_non_null(strstr(mc_errmsg(), "no NUMA node 999"));
	attr.numa_node = -2;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	assert_null(memory);
}

static void test_missing_huge_pages_are_named_with_the_remedy(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;
	char need[32];
	int ret;

	(void)state;
	attr.page_size = MCI_PAGE_2M;
	attr.length = (mci_huge_pages_free(MCI_PAGE_2M, -1) + 3) * MCI_PAGE_2M;
	ret = mc_memory_alloc(&attr, &memory);
	assert_int_equal(ret, -ENOMEM);
	snprintf(need, sizeof(need), "%llu huge pages", (unsigned long long)(attr.length / MCI_PAGE_2M));
	assert_true(strstr(mc_errmsg(), need) || strstr(mc_errmsg(), "no huge pages"));
	/* not asked for by size: the base page does */
	attr.page_size = 0;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(info_of(memory).page_size, 4096);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_huge_pages_are_used_where_they_lie_ready(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;

	(void)state;
	if (mci_huge_pages_free(MCI_PAGE_2M, -1) < 4) {
		print_message("skipped: fewer than 4 free huge pages of 2 MiB (sysctl vm.nr_hugepages=8)\n");
		skip();
	}
	attr.length = 3 * MIB;
	attr.flags = MC_MEMORY_PREFAULT;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_string_equal(info_of(memory).kind, "hugetlb-memfd");
	assert_int_equal(info_of(memory).length, 4 * MIB);
	assert_int_equal(fcntl(info_of(memory).fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(mc_memory_free(memory), 0);
	attr.flags = MC_MEMORY_PRIVATE | MC_MEMORY_LOCK;
	attr.page_size = MCI_PAGE_2M;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_string_equal(info_of(memory).kind, "anonymous");
	assert_int_equal(info_of(memory).page_size, MCI_PAGE_2M);
	assert_int_equal(mc_memory_free(memory), 0);
}

/* Runs in a child: other user, small limit. */
static int lock_beyond_limit(void)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	struct rlimit limit = { 65536, 65536 };
	mc_memory *memory;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) || (!geteuid() && setresuid(65534, 65534, 65534)))
		return 1;
	attr.length = MIB;
	attr.flags = MC_MEMORY_LOCK;
	attr.page_size = 4096;
	if (mc_memory_alloc(&attr, &memory) != -ENOMEM)
		return 2;
	if (!strstr(mc_errmsg(), "1 MiB") || !strstr(mc_errmsg(), "is 64 KiB") ||
	    !strstr(mc_errmsg(), "ulimit -l") || !strstr(mc_errmsg(), "LimitMEMLOCK"))
		return 3;
	attr.length = 32768;
	if (mc_memory_alloc(&attr, &memory))
		return 4;
	return in_core(mc_memory_addr(memory), 32768) ? 0 : 5;
}

static void test_locking_beyond_the_limit_says_limit_and_remedy(void **state)
{
	int result;

	(void)state;
	kill_child(child_that(lock_beyond_limit, &result));
	assert_int_equal(result, 0);
}

static void test_more_than_the_machine_has_is_refused_not_killed(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory;

	(void)state;
	attr.length = 1ull << 45;
	attr.flags = MC_MEMORY_PREFAULT;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -ENOMEM);
	assert_true(strlen(mc_errmsg()) > 20);
}

static void put(const char *dir, const char *file, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	for (char *p = path + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		assert_true(!mkdir(path, 0700) || errno == EEXIST);
	}
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void test_the_narrowest_cgroup_counts(void **state)
{
	char root[] = "/tmp/mooncake-cgroup-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(root));
	/* v2: the pod leaves 1000 - (900 - 300) = 400, the container 700 */
	put(root, "pod/memory.max", "1000\n");
	put(root, "pod/memory.current", "900\n");
	put(root, "pod/memory.stat", "anon 600\ninactive_file 300\n");
	put(root, "pod/box/memory.max", "800\n");
	put(root, "pod/box/memory.current", "100\n");
	put(root, "pod/free/memory.max", "max\n");
	put(root, "pod/free/memory.current", "1\n");
	put(root, "full/memory.max", "100\n");
	put(root, "full/memory.current", "200\n");
	put(root, "memory/old/memory.limit_in_bytes", "5000\n");
	put(root, "memory/old/memory.usage_in_bytes", "2000\n");
	put(root, "memory/old/memory.stat", "total_inactive_file 500\n");
	assert_int_equal(mci_cgroup_available(root, "0::/pod/box\n"), 400);
	assert_int_equal(mci_cgroup_available(root, "0::/pod/free\n"), 400);
	assert_int_equal(mci_cgroup_available(root, "0::/full\n"), 0);
	assert_int_equal(mci_cgroup_available(root, "3:cpu:/x\n9:pids,memory:/old\n0::/\n"), 3500);
	assert_true(mci_cgroup_available(root, "0::/nowhere\n") == UINT64_MAX);
	assert_true(mci_cgroup_available(root, "") == UINT64_MAX);
	assert_true(mci_cgroup_available(root, "rubbish\n\n::::\n9:memory\n") == UINT64_MAX);
	assert_int_equal(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void test_attributes_are_checked(void **state)
{
	struct {
		struct mc_memory_attr attr;
		uint64_t newer;
	} big = { .attr = MC_MEMORY_ATTR_INIT };
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory = NULL;

	(void)state;
	assert_int_equal(mc_memory_alloc(NULL, &memory), -EINVAL);
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL); /* no length */
	attr.length = 4096;
	assert_int_equal(mc_memory_alloc(&attr, NULL), -EINVAL);
	attr.length = UINT64_MAX;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.length = 4096;
	attr.size = 4;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.size = sizeof(attr);
	attr.page_size = 8192;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.page_size = 0;
	attr.flags = 1u << 30;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.flags = MC_MEMORY_EXISTING;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL); /* without a name */
	attr.name = name;
	attr.flags = MC_MEMORY_PRIVATE;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.flags = MC_MEMORY_CREATE | MC_MEMORY_EXISTING;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	attr.flags = 0;
	attr.reserved[3] = 1;
	assert_int_equal(mc_memory_alloc(&attr, &memory), -EINVAL);
	big.attr.length = 4096;
	big.attr.size = sizeof(big);
	big.newer = 1;
	assert_int_equal(mc_memory_alloc(&big.attr, &memory), -E2BIG);
	assert_null(memory);
	big.newer = 0;
	assert_int_equal(mc_memory_alloc(&big.attr, &memory), 0);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void test_find_gives_descriptor_and_offset_of_whole_ranges_only(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	struct mc_uuid id;
	mc_memory *memory;
	uint64_t offset;
	uint8_t *p;
	int fd;

	(void)state;
	attr.length = MIB;
	attr.page_size = 4096;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	p = mc_memory_addr(memory);
	assert_int_equal(mci_memory_find(p + 4096, MIB - 4096, &fd, &offset, &id), 0);
	assert_int_equal(fd, info_of(memory).fd);
	assert_int_equal(offset, 4096);
	assert_true(same_id(memory, &id));
	assert_int_equal(mci_memory_find(p + 1, MIB, &fd, &offset, &id), -ENOENT);
	assert_int_equal(mci_memory_find(p + 1, UINT64_MAX, &fd, &offset, &id), -ENOENT);
	assert_int_equal(mci_memory_find(p - 1, 2, &fd, &offset, &id), -ENOENT);
	assert_int_equal(mci_memory_find(&offset, 8, &fd, &offset, &id), -ENOENT);
	assert_int_equal(mc_memory_free(memory), 0);
	assert_int_equal(mci_memory_find(p, 1, &fd, &offset, &id), -ENOENT);
}

static void test_memory_with_regions_cannot_be_freed(void **state)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	mc_memory *memory, *a = NULL, *b = NULL;

	(void)state;
	attr.length = MIB;
	assert_int_equal(mc_memory_alloc(&attr, &memory), 0);
	assert_int_equal(mci_memory_hold(mc_memory_addr(memory), 10, &a), 0);
	assert_int_equal(mci_memory_hold(mc_memory_addr(memory), MIB, &b), 0);
	assert_ptr_equal(a, memory);
	assert_int_equal(mc_memory_free(memory), -EBUSY);
	assert_non_null(strstr(mc_errmsg(), "2 region"));
	mci_memory_put(a);
	assert_int_equal(mc_memory_free(memory), -EBUSY);
	mci_memory_put(b);
	assert_int_equal(mc_memory_free(memory), 0);
}

static void *churn(void *arg)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	long errors = 0;

	(void)arg;
	attr.length = 64 * 1024;
	attr.page_size = 4096;
	for (int i = 0; i < 200; i++) {
		mc_memory *memory, *held;
		uint64_t offset;

		if (mc_memory_alloc(&attr, &memory)) {
			errors++;
			continue;
		}
		errors += mci_memory_find((uint8_t *)mc_memory_addr(memory) + 5, 5, NULL, &offset, NULL) ||
			  offset != 5;
		errors += mci_memory_hold(mc_memory_addr(memory), 1, &held) || held != memory;
		mci_memory_put(held);
		errors += !!mc_memory_free(memory);
	}
	return (void *)errors;
}

static void test_the_table_stands_many_threads(void **state)
{
	pthread_t threads[4];
	void *errors;

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &errors), 0);
		assert_null(errors);
	}
}

int main(void)
{
	const struct CMUnitTest without[] = {
		cmocka_unit_test(test_memory_is_a_sealed_memfd_of_its_own),
	};
	const struct CMUnitTest with[] = {
		cmocka_unit_test(test_memory_of_the_module_is_a_buffer_of_its_own),
		cmocka_unit_test(test_what_the_module_does_not_give_is_a_memfd),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_private_memory_has_no_descriptor),
		cmocka_unit_test(test_prefault_makes_all_pages_present),
		WITH_NAME(test_prefault_works_on_old_kernels_and_changes_nothing),
		cmocka_unit_test(test_numa_node_must_exist),
		cmocka_unit_test(test_missing_huge_pages_are_named_with_the_remedy),
		cmocka_unit_test(test_huge_pages_are_used_where_they_lie_ready),
		cmocka_unit_test(test_locking_beyond_the_limit_says_limit_and_remedy),
		cmocka_unit_test(test_more_than_the_machine_has_is_refused_not_killed),
		cmocka_unit_test(test_the_narrowest_cgroup_counts),
		WITH_NAME(test_attributes_are_checked),
		cmocka_unit_test(test_find_gives_descriptor_and_offset_of_whole_ranges_only),
		cmocka_unit_test(test_memory_with_regions_cannot_be_freed),
		cmocka_unit_test(test_the_table_stands_many_threads),
	};

	int failed = 0;

	setenv("MOONCAKE_MODULE", "off", 1);
	if (!getenv("MODULE_ONLY")) {
		failed += cmocka_run_group_tests(without, NULL, NULL);
		failed += cmocka_run_group_tests_name("without the module", tests, NULL, NULL);
	}
	if (module_pass()) {
		failed += cmocka_run_group_tests(with, NULL, NULL);
		failed += cmocka_run_group_tests_name("with the module", tests, NULL, NULL);
	}
	return failed;
}
