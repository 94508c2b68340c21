// SPDX-License-Identifier: MIT
/* vm: short */
/* REGION_PIN: what it takes, what it charges and to whom, and what the life of the mapping does to it. */
#include "region.h"

#include <sys/mount.h>
#include <sys/resource.h>

#define LENGTH (64 * PAGE)
#define NOBODY 65534

static void limit_locked(rlim_t bytes)
{
	struct rlimit limit = {bytes, bytes};

	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
}

static void *map_memfd(uint64_t length, unsigned int flags, int *file)
{
	int fd = memfd_create("region", MFD_CLOEXEC | flags);
	void *p;

	if (fd < 0)
		return NULL;
	CHECK(ftruncate(fd, (off_t)length) == 0);
	p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (file)
		*file = fd;
	else
		close(fd);
	return p == MAP_FAILED ? NULL : p;
}

/* Bytes of the pin as COPY sees them, against what the process sees. */
static void shows(int fd, uint32_t id, void *p, uint64_t length, uint64_t seed)
{
	struct mooncake_buffer_alloc b = alloc_buffer(fd, length);
	void *seen = map(fd, b.mmap_offset, length, PROT_READ | PROT_WRITE);

	fill(p, length, seed);
	copy(fd, b.id, 0, id, 0, length);
	CHECK_FILLED(seen, length, seed);
	fill(seen, length, seed + 1);
	copy(fd, id, 0, b.id, 0, length);
	CHECK_FILLED(p, length, seed + 1);
	CHECK(munmap(seen, length) == 0);
	destroy(fd, b.id);
}

static void test_anonymous_memory_is_pinned(void)
{
	int fd = device();
	void *p = map_anon(LENGTH);
	uint32_t id = pin(fd, p, LENGTH);
	struct mooncake_stat s = stat_object(fd, id);

	CHECK_EQ(s.kind, MOONCAKE_KIND_PIN);
	CHECK_EQ(s.length, LENGTH);
	CHECK_EQ(s.pages, LENGTH / PAGE);
	CHECK_EQ(s.mmap_offset, 0);
	CHECK_EQ(s.state, 0);
	shows(fd, id, p, LENGTH, 1);
}

static void test_shared_anonymous_memory_is_pinned(void)
{
	int fd = device();
	void *p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	shows(fd, pin(fd, p, LENGTH), p, LENGTH, 2);
}

static void test_memfd_is_pinned(void)
{
	int fd = device();
	void *p = map_memfd(LENGTH, 0, NULL);

	CHECK(p);
	shows(fd, pin(fd, p, LENGTH), p, LENGTH, 3);
}

static void test_hugetlb_is_pinned(void)
{
	int fd = device();
	long long before = 0;
	void *p;

	file_int("/proc/sys/vm/nr_hugepages", &before);
	CHECK(file_write("/proc/sys/vm/nr_hugepages", "4") == 0);
	p = map_memfd(2 * HUGE_2M, MFD_HUGETLB, NULL);
	if (!p)
		SKIP("no huge pages to be had");
	shows(fd, pin(fd, p, 2 * HUGE_2M), p, 2 * HUGE_2M, 4);
	/* A part of a huge page, from its middle. */
	shows(fd, pin(fd, (char *)p + 3 * PAGE, 5 * PAGE), (char *)p + 3 * PAGE, 5 * PAGE, 5);
}

static void test_one_pin_spans_mappings_of_several_kinds(void)
{
	int fd = device(), file;
	char *p = map_anon(3 * PAGE);

	CHECK(map_memfd(PAGE, 0, &file));
	CHECK(mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == p + PAGE);
	shows(fd, pin(fd, p, 3 * PAGE), p, 3 * PAGE, 6);
}

static void test_memory_of_a_file_is_refused(void)
{
	char path[] = "/tmp/mooncake-pin.XXXXXX";
	int fd = device(), file;
	uint32_t id;
	void *p;

	/* Page cache in memory, and yet that of a file. */
	CHECK(mkdtemp(path));
	CHECK(mount("none", path, "ramfs", 0, NULL) == 0);
	file = openat(open(path, O_PATH | O_CLOEXEC), "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(umount2(path, MNT_DETACH) == 0);
	CHECK(file >= 0);
	CHECK(ftruncate(file, LENGTH) == 0);
	p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(p != MAP_FAILED);
	CHECK_ERR(try_pin(fd, p, LENGTH, &id), EOPNOTSUPP);
	CHECK(munmap(p, LENGTH) == 0);
	p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	CHECK(p != MAP_FAILED);
	CHECK_ERR(try_pin(fd, p, LENGTH, &id), EOPNOTSUPP);
}

static void test_memory_of_a_file_behind_anonymous_memory_is_refused(void)
{
	int fd = device(), file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	char *p = map_anon(2 * PAGE);
	uint32_t id;

	CHECK(mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == p + PAGE);
	CHECK_ERR(try_pin(fd, p, 2 * PAGE, &id), EOPNOTSUPP);
	id = pin(fd, p, PAGE);
}

/* The node of a device lies in a tmpfs; what the device maps does not. */
static void test_a_mapping_of_a_buffer_is_refused(void)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);
	uint32_t id;

	CHECK_ERR(try_pin(fd, map(fd, b.mmap_offset, PAGE, PROT_READ | PROT_WRITE), PAGE, &id), EOPNOTSUPP);
}

static void test_a_hole_is_refused(void)
{
	int fd = device();
	char *p = map_anon(3 * PAGE);
	uint32_t id;

	CHECK(munmap(p + PAGE, PAGE) == 0);
	CHECK_ERR(try_pin(fd, p, 3 * PAGE, &id), EFAULT);
	CHECK_ERR(try_pin(fd, p + PAGE, PAGE, &id), EFAULT);
	/* Nothing of a process is mapped there. */
	CHECK_ERR(try_pin(fd, (void *)(1ul << 62), PAGE, &id), EFAULT);
}

static void test_memory_that_may_not_be_read_is_refused(void)
{
	int fd = device();
	char *p = map_anon(PAGE);
	uint32_t id;

	CHECK(mprotect(p, PAGE, PROT_NONE) == 0);
	CHECK_ERR(try_pin(fd, p, PAGE, &id), EFAULT);
}

/* Kernels that unshare pin it, without the right to write; others refuse it. */
static void test_read_only_memory_is_never_written(void)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);
	char *p = map_anon(PAGE);
	uint32_t id;

	fill(p, PAGE, 7);
	CHECK(mprotect(p, PAGE, PROT_READ) == 0);
	if (try_pin(fd, p, PAGE, &id)) {
		CHECK_EQ(errno, EFAULT);
		return;
	}
	CHECK_EQ(stat_object(fd, id).rights, MOONCAKE_RIGHT_READ);
	CHECK_ERR(try_copy(fd, id, 0, b.id, 0, PAGE), EACCES);
	CHECK_ERR(try_export(fd, id, MOONCAKE_EXPORT_WRITE), EACCES);
	CHECK_FILLED(p, PAGE, 7);
}

static void test_unaligned_and_overflowing_ranges_are_refused(void)
{
	int fd = device();
	char *p = map_anon(2 * PAGE);
	uint32_t id;

	CHECK_ERR(try_pin(fd, p + 1, PAGE, &id), EINVAL);
	CHECK_ERR(try_pin(fd, p, PAGE + 1, &id), EINVAL);
	CHECK_ERR(try_pin(fd, p, 0, &id), EINVAL);
	CHECK_ERR(try_pin(fd, (void *)(~0ul << 12), 2 * PAGE, &id), EOVERFLOW);
	CHECK_ERR(try_pin(fd, p, query(fd).length_max + PAGE, &id), EINVAL);
}

static void test_a_pin_cannot_be_granted(void)
{
	int fd = device(), other = device();
	uint32_t id = pin(fd, map_anon(PAGE), PAGE);
	struct mooncake_grant g = grant_for(other, id, MOONCAKE_RIGHT_READ);

	CHECK_ERR(ioctl(fd, MOONCAKE_GRANT, &g), EOPNOTSUPP);
}

/* ---- charge ---- */

/* In a child: as somebody else, with a limit; the limit is what the charge is measured with. */
static void as_nobody(uint64_t limit)
{
	limit_locked(limit);
	become(NOBODY);
}

static void test_pins_stay_below_the_limit_of_locked_memory(void)
{
	int fd = device();
	char *p = map_anon(4 * PAGE);
	uint32_t id, second;

	as_nobody(3 * PAGE);
	CHECK_ERR(try_pin(fd, p, 4 * PAGE, &id), ENOMEM);
	id = pin(fd, p, 2 * PAGE);
	CHECK_ERR(try_pin(fd, p + 2 * PAGE, 2 * PAGE, &second), ENOMEM);
	second = pin(fd, p + 2 * PAGE, PAGE);
	CHECK_ERR(try_pin(fd, p + 3 * PAGE, PAGE, &id), ENOMEM);
	destroy(fd, second);
	second = pin(fd, p + 3 * PAGE, PAGE);
}

static void test_who_may_lock_memory_is_not_limited(void)
{
	int fd = device();

	limit_locked(PAGE);
	pin(fd, map_anon(8 * PAGE), 8 * PAGE);
}

/* The pages of a large pin go back off the caller's path, and with them what they were charged with. */
static void test_a_large_pin_can_be_made_again_at_once(void)
{
	uint64_t length = 80ull << 20;
	int fd = device();
	void *p = map_anon(length);

	as_nobody(length);
	for (int i = 0; i < 5; i++)
		destroy(fd, pin(fd, p, length));
}

static void test_a_failed_pin_charges_nothing(void)
{
	int fd = device();
	char *p = map_anon(4 * PAGE);
	uint32_t id;

	CHECK(munmap(p + 3 * PAGE, PAGE) == 0);
	as_nobody(4 * PAGE);
	for (int i = 0; i < 20; i++)
		CHECK_ERR(try_pin(fd, p, 4 * PAGE, &id), EFAULT);
	pin(fd, p, 3 * PAGE);
}

static void test_destroyed_exported_pins_stay_charged_until_the_dma_buf_goes(void)
{
	int fd = device(), dmabuf;
	char *p = map_anon(4 * PAGE);
	uint32_t id;

	as_nobody(4 * PAGE);
	id = pin(fd, p, 4 * PAGE);
	dmabuf = export_object(fd, id, 0);
	destroy(fd, id);
	CHECK_ERR(try_pin(fd, p, PAGE, &id), ENOMEM);
	close(dmabuf);
	CHECK(WAIT_FOR(!try_pin(fd, p, 4 * PAGE, &id), 5));
}

static void test_a_pin_is_released_to_its_owner_after_setuid(void)
{
	int fd = device();
	char *p = map_anon(4 * PAGE);
	uint32_t id;
	pid_t pid;

	limit_locked(4 * PAGE);
	/* Root without the capability of root: charged, and limited. */
	CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
	CHECK(setresuid(NOBODY, NOBODY, 0) == 0);
	id = pin(fd, p, 4 * PAGE);
	/* From here the process is another user; the charge stays the first one's. */
	CHECK(setresuid(0, 0, 0) == 0);
	pid = spawn();
	if (!pid) {
		int own = device();

		become(NOBODY);
		CHECK_ERR(try_pin(own, map_anon(PAGE), PAGE, &id), ENOMEM);
		_exit(0);
	}
	REAP(pid);
	CHECK(setresuid(NOBODY - 1, NOBODY - 1, 0) == 0);
	pin(fd, map_anon(4 * PAGE), 4 * PAGE);
	destroy(fd, id);
	CHECK(setresuid(0, 0, 0) == 0);
	pid = spawn();
	if (!pid) {
		int own = device();

		become(NOBODY);
		pin(own, map_anon(4 * PAGE), 4 * PAGE);
		_exit(0);
	}
	REAP(pid);
}

static void test_a_pin_is_released_when_a_child_closes_last(void)
{
	int fd = device(), other = device();
	char *p = map_anon(4 * PAGE);
	struct meet m = meet_new();
	uint32_t id;
	char c;
	pid_t pid;

	as_nobody(4 * PAGE);
	pin(fd, p, 4 * PAGE);
	pid = spawn();
	if (!pid) {
		say(m.up, "x", 1);
		hear(m.down, &c, 1);
		_exit(0);
	}
	hear(m.up, &c, 1);
	close(fd);
	CHECK_ERR(try_pin(other, p, PAGE, &id), ENOMEM);
	say(m.down, "x", 1);
	REAP(pid);
	CHECK(WAIT_FOR(!try_pin(other, p, 4 * PAGE, &id), 5));
}

static void test_a_pin_is_released_after_exec(void)
{
	int fd = device(), other = device();
	char *p = map_anon(4 * PAGE);
	struct meet m = meet_new();
	uint32_t id;
	char c;
	pid_t pid;

	as_nobody(4 * PAGE);
	pid = spawn();
	if (!pid) {
		char *q = map_anon(4 * PAGE);

		CHECK(fcntl(fd, F_SETFD, 0) == 0);
		pin(fd, q, 4 * PAGE);
		CHECK(dup2(m.up[1], 1) == 1 && dup2(m.down[0], 0) == 0);
		execl("/bin/sh", "sh", "-c", "echo x; read line", (char *)NULL);
		_exit(1);
	}
	close(fd);
	hear(m.up, &c, 1);
	/* The pages went with the address space that the exec ended, and the file still holds them. */
	CHECK_ERR(try_pin(other, p, PAGE, &id), ENOMEM);
	say(m.down, "x\n", 2);
	REAP(pid);
	CHECK(WAIT_FOR(!try_pin(other, p, 4 * PAGE, &id), 5));
}

static void test_a_pin_is_released_after_kill(void)
{
	int other = device();
	struct meet m = meet_new();
	uint32_t id;
	char c;
	pid_t pid;

	limit_locked(4 * PAGE);
	pid = spawn();
	if (!pid) {
		int fd = device();

		become(NOBODY);
		pin(fd, map_anon(4 * PAGE), 4 * PAGE);
		say(m.up, "x", 1);
		pause();
	}
	hear(m.up, &c, 1);
	become(NOBODY);
	CHECK_ERR(try_pin(other, map_anon(PAGE), PAGE, &id), ENOMEM);
	kill(pid, SIGKILL);
	reap_status(pid);
	CHECK(WAIT_FOR(!try_pin(other, map_anon(4 * PAGE), 4 * PAGE, &id), 5));
}

/* ---- the mapping changes ---- */

static void dead(int fd, uint32_t id)
{
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);

	CHECK_ERR(try_copy(fd, b.id, 0, id, 0, PAGE), ESTALE);
	CHECK_ERR(try_export(fd, id, 0), ESTALE);
	CHECK(stat_object(fd, id).state & MOONCAKE_STATE_REVOKED);
}

static void test_unmapping_revokes(void)
{
	int fd = device();
	char *p = map_anon(LENGTH);
	uint32_t id = pin(fd, p, LENGTH);

	CHECK(munmap(p, LENGTH) == 0);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_REVOKED));
	dead(fd, id);
}

static void test_unmapping_one_page_revokes(void)
{
	int fd = device();
	char *p = map_anon(LENGTH);
	uint32_t id = pin(fd, p, LENGTH);

	CHECK(munmap(p + LENGTH - PAGE, PAGE) == 0);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_REVOKED));
	dead(fd, id);
}

static void test_unmapping_the_neighbour_does_not_revoke(void)
{
	int fd = device();
	char *p = map_anon(LENGTH + 2 * PAGE);
	uint32_t id = pin(fd, p + PAGE, LENGTH);

	CHECK(munmap(p, PAGE) == 0);
	CHECK(munmap(p + PAGE + LENGTH, PAGE) == 0);
	CHECK_EQ(stat_object(fd, id).state, 0);
	shows(fd, id, p + PAGE, LENGTH, 8);
}

static void test_moving_the_mapping_revokes(void)
{
	int fd = device();
	char *p = map_anon(LENGTH), *to = map_anon(LENGTH);
	uint32_t id = pin(fd, p, LENGTH);

	CHECK(mremap(p, LENGTH, LENGTH, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_REVOKED));
	dead(fd, id);
}

static void test_discarded_pages_revoke_at_the_next_use(void)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);
	char *p = map_anon(LENGTH);
	uint32_t id = pin(fd, p, LENGTH);

	CHECK(madvise(p + PAGE, PAGE, MADV_DONTNEED) == 0);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_SUSPECT));
	CHECK_EQ(stat_object(fd, id).state, MOONCAKE_STATE_SUSPECT);
	CHECK_ERR(try_copy(fd, b.id, 0, id, 0, PAGE), ESTALE);
	dead(fd, id);
}

static void test_a_hole_punched_into_the_file_revokes_at_the_next_use(void)
{
	int fd = device(), file;
	char *p = map_memfd(LENGTH, 0, &file);
	uint32_t id = pin(fd, p, LENGTH);

	CHECK(fallocate(file, 3 /* keep size, punch hole */, PAGE, PAGE) == 0);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_SUSPECT));
	CHECK_ERR(try_export(fd, id, 0), ESTALE);
	dead(fd, id);
}

/* Protection changes say nothing of the pages; what is only suspect and holds is good again. */
static void test_a_suspicion_that_does_not_hold_is_dropped(void)
{
	int fd = device(), file;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);
	char *p = map_memfd(LENGTH, 0, &file);
	uint32_t id = pin(fd, p, LENGTH);

	/* Takes the page out of this mapping, not out of the file. */
	CHECK(madvise(p, LENGTH, MADV_DONTNEED) == 0);
	CHECK_EQ(stat_object(fd, id).state, MOONCAKE_STATE_SUSPECT);
	copy(fd, b.id, 0, id, 0, PAGE);
	CHECK_EQ(stat_object(fd, id).state, 0);
	shows(fd, id, p, LENGTH, 9);
}

/* A look at the pages that ends half way because its maker dies says nothing of them. */
static void test_who_dies_looking_at_a_pin_does_not_end_it(void)
{
	uint64_t length = slow() ? 16ull << 20 : 64ull << 20;
	int fd = device(), killed = 0;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);
	void *p = map_memfd(length, 0, NULL);
	uint32_t id = pin(fd, p, length);
	struct meet m = meet_new();

	for (int i = 0; i < 20; i++) {
		pid_t pid;
		char c;

		CHECK(madvise(p, length, MADV_DONTNEED) == 0);
		pid = spawn();
		if (!pid) {
			say(m.up, "c", 1);
			try_copy(fd, b.id, 0, id, 0, PAGE);
			_exit(0);
		}
		hear(m.up, &c, 1);
		poll(NULL, 0, i % 5); /* the place is what varies */
		CHECK(kill(pid, SIGKILL) == 0);
		killed += reap_status(pid) == SIGKILL;
		CHECK_EQ(stat_object(fd, id).state & MOONCAKE_STATE_REVOKED, 0);
	}
	copy(fd, b.id, 0, id, 0, PAGE);
	printf("killed at work in %d of 20 rounds\n", killed);
}

#define TRACING "/sys/kernel/tracing/"
#define TRACED	TRACING "instances/mooncake-pin/"

static void test_a_pin_is_traced(void)
{
	int fd = device(), found = 0;
	char line[512];
	FILE *f;

	if (access(TRACING "events/mooncake/mooncake_pin", F_OK))
		SKIP("no tracepoints here");
	CHECK(mkdir(TRACED, 0700) == 0);
	CHECK(file_write(TRACED "events/mooncake/mooncake_pin/enable", "1") == 0);
	pin(fd, map_anon(PAGE), PAGE);
	f = fopen(TRACED "trace", "re");
	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, "mooncake_pin: ") && strstr(line, "kind=2 length=4096");
	if (f)
		fclose(f);
	file_write(TRACED "events/mooncake/mooncake_pin/enable", "0");
	rmdir(TRACED);
	CHECK(found);
}

static void test_the_end_of_the_address_space_revokes(void)
{
	int fd = device();
	struct meet m = meet_new();
	uint32_t id;
	pid_t pid = spawn();

	if (!pid) {
		id = pin(fd, map_anon(PAGE), PAGE);
		say(m.up, &id, sizeof(id));
		_exit(0);
	}
	hear(m.up, &id, sizeof(id));
	REAP(pid);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_REVOKED));
	dead(fd, id);
}

static void test_fork_and_writes_after_it_leave_the_pin_as_it_was(void)
{
	int fd = device();
	char *p = map_anon(LENGTH);
	uint32_t id;
	pid_t pid;

	fill(p, LENGTH, 10);
	id = pin(fd, p, LENGTH);
	pid = spawn();
	if (!pid) {
		fill(p, LENGTH, 11);
		_exit(0);
	}
	REAP(pid);
	CHECK_FILLED(p, LENGTH, 10);
	shows(fd, id, p, LENGTH, 12);
}

/* Each thread pins and lets go while the other takes its memory away: only the right errors, and nothing is left. */
static void *unmapper(void *arg)
{
	char *p = arg;

	for (int i = 0; i < 300; i++) {
		mmap(p, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		madvise(p + 4 * PAGE, 4 * PAGE, MADV_DONTNEED);
	}
	return NULL;
}

static void test_pin_races_with_munmap(void)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, PAGE);
	char *p = map_anon(16 * PAGE);
	pthread_t thread;
	uint32_t id;

	CHECK(!pthread_create(&thread, NULL, unmapper, p));
	for (int i = 0; i < 300; i++) {
		if (try_pin(fd, p, 16 * PAGE, &id)) {
			CHECK(errno == EFAULT || errno == EAGAIN);
			continue;
		}
		if (try_copy(fd, b.id, 0, id, 0, PAGE))
			CHECK_EQ(errno, ESTALE);
		destroy(fd, id);
	}
	pthread_join(thread, NULL);
}

static const struct test tests[] = {
	TEST(test_anonymous_memory_is_pinned),
	TEST(test_shared_anonymous_memory_is_pinned),
	TEST(test_memfd_is_pinned),
	TEST(test_hugetlb_is_pinned),
	TEST(test_one_pin_spans_mappings_of_several_kinds),
	TEST(test_memory_of_a_file_is_refused),
	TEST(test_memory_of_a_file_behind_anonymous_memory_is_refused),
	TEST(test_a_mapping_of_a_buffer_is_refused),
	TEST(test_a_hole_is_refused),
	TEST(test_memory_that_may_not_be_read_is_refused),
	TEST(test_read_only_memory_is_never_written),
	TEST(test_unaligned_and_overflowing_ranges_are_refused),
	TEST(test_a_pin_cannot_be_granted),
	TEST(test_pins_stay_below_the_limit_of_locked_memory),
	TEST(test_who_may_lock_memory_is_not_limited),
	TEST(test_a_large_pin_can_be_made_again_at_once),
	TEST(test_a_failed_pin_charges_nothing),
	TEST(test_destroyed_exported_pins_stay_charged_until_the_dma_buf_goes),
	TEST(test_a_pin_is_released_to_its_owner_after_setuid),
	TEST(test_a_pin_is_released_when_a_child_closes_last),
	TEST(test_a_pin_is_released_after_exec),
	TEST(test_a_pin_is_released_after_kill),
	TEST(test_unmapping_revokes),
	TEST(test_unmapping_one_page_revokes),
	TEST(test_unmapping_the_neighbour_does_not_revoke),
	TEST(test_moving_the_mapping_revokes),
	TEST(test_discarded_pages_revoke_at_the_next_use),
	TEST(test_a_hole_punched_into_the_file_revokes_at_the_next_use),
	TEST(test_a_suspicion_that_does_not_hold_is_dropped),
	TEST(test_who_dies_looking_at_a_pin_does_not_end_it),
	TEST(test_a_pin_is_traced),
	TEST(test_the_end_of_the_address_space_revokes),
	TEST(test_fork_and_writes_after_it_leave_the_pin_as_it_was),
	TEST(test_pin_races_with_munmap),
};
RUN_TESTS(tests)
