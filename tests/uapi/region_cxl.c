// SPDX-License-Identifier: MIT
/*
 * REGION_CXL: the window that the guest's memmap= keeps apart, with and without a driver that claims it; dax devices,
 * mapped. MOONCAKE_WINDOW (start, length) and MOONCAKE_DAX (path) name others, as of CXL memory.
 */
#include "region.h"

#include <inttypes.h>

#define SOME (8 * HUGE_2M)

static uint64_t window_start, window_length;
static char dax[64];

static int try_window(int fd, uint64_t start, uint64_t length, struct mooncake_region_cxl *c)
{
	*c = (struct mooncake_region_cxl)STRUCT(region_cxl);
	c->start = start;
	c->length = length;
	return ioctl(fd, MOONCAKE_REGION_CXL, c);
}

static struct mooncake_region_cxl window(int fd, uint64_t start, uint64_t length)
{
	struct mooncake_region_cxl c;

	if (try_window(fd, start, length, &c))
		FAIL("REGION_CXL of %#" PRIx64 ": %s", start, strerror(errno));
	return c;
}

static int try_mapped(int fd, void *at, uint64_t length, uint32_t *id)
{
	struct mooncake_region_cxl c = STRUCT(region_cxl);

	c.flags = MOONCAKE_CXL_MAPPED;
	c.start = PTR(at);
	c.length = length;
	if (ioctl(fd, MOONCAKE_REGION_CXL, &c))
		return -1;
	CHECK_EQ(c.mmap_offset, 0);
	*id = c.id;
	return 0;
}

/* The driver of the window, a module or built in, comes and goes. */
#define DRIVER	   "/sys/bus/platform/drivers/dax_hmem/"
#define LET_GO	   "modprobe -r dax_hmem 2>/dev/null || " \
		   "for d in " DRIVER "hmem.*; do echo ${d##*/} >" DRIVER "unbind; done"
#define TAKE	   "modprobe -a device_dax dax_hmem && cd /sys/bus/platform/devices && " \
		   "for d in hmem.*; do [ -e $d/driver ] || echo $d >" DRIVER "bind; done"
/* Newer kernels keep such memory for the system: it cannot be opened until it is given to device_dax by name. */
#define GIVE	   "for d in /sys/bus/dax/devices/dax*; do [ ! -e $d ] || [ -e $d/driver ] || " \
		   "echo ${d##*/} >/sys/bus/dax/drivers/device_dax/new_id; done"

static void needs_window(void)
{
	if (!window_length)
		SKIP("no window of memory is kept apart in this guest");
	if (!getenv("MOONCAKE_WINDOW") && system(LET_GO))
		SKIP("the driver of the window does not let go");
}

/* The first dax device that can be opened, into dax. */
static int find_dax(void)
{
	DIR *dir = opendir("/dev");
	struct dirent *e;
	int file;

	while (dir && !dax[0] && (e = readdir(dir))) {
		char path[sizeof(dax)];

		if (strncmp(e->d_name, "dax", 3))
			continue;
		snprintf(path, sizeof(path), "/dev/%.32s", e->d_name);
		file = open(path, O_RDWR | O_CLOEXEC);
		if (file < 0)
			continue;
		close(file);
		strcpy(dax, path);
	}
	closedir(dir);
	return dax[0] != 0;
}

static void needs_dax(void)
{
	if (getenv("MOONCAKE_DAX")) {
		snprintf(dax, sizeof(dax), "%s", getenv("MOONCAKE_DAX"));
		return;
	}
	if (system(TAKE))
		SKIP("no driver of dax devices here");
	if (!WAIT_FOR(system(GIVE) == 0 && find_dax(), 10))
		SKIP("no dax device here");
}

static void *map_dax(uint64_t length)
{
	int file = open(dax, O_RDWR | O_CLOEXEC);
	void *p;

	CHECK(file >= 0);
	p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(p != MAP_FAILED);
	close(file);
	return p;
}

static void test_a_window_is_mapped_and_holds_its_data(void)
{
	struct mooncake_region_cxl c;
	struct mooncake_stat s;
	int fd = device();
	char *p;

	needs_window();
	c = window(fd, window_start, SOME);
	s = stat_object(fd, c.id);
	CHECK_EQ(s.kind, MOONCAKE_KIND_CXL);
	CHECK_EQ(s.length, SOME);
	CHECK_EQ(s.pages, SOME / PAGE);
	CHECK_EQ(s.extents, 1);
	CHECK_EQ(s.mmap_offset, c.mmap_offset);
	p = map(fd, c.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	fill(p, SOME, 1);
	CHECK_FILLED(p, SOME, 1);
	munmap(p, SOME);
	destroy(fd, c.id);
	/* The memory is that of the machine: another look at the same place, a page table further on, finds it. */
	c = window(fd, window_start + HUGE_2M, SOME);
	p = map(fd, c.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	for (uint64_t i = 0; i < (SOME - HUGE_2M) / 8; i += 512)
		CHECK_EQ(((uint64_t *)p)[i], pattern(1, i + HUGE_2M / 8));
}

static void test_a_window_is_granted_and_revoked(void)
{
	int fd = device(), other = device();
	struct mooncake_region_cxl c;
	struct mooncake_attach a;
	struct mooncake_revoke r;
	char *p, *q;

	needs_window();
	catch_bus();
	c = window(fd, window_start, SOME);
	a = share(fd, c.id, other, RW);
	p = map(fd, c.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	q = map(other, a.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	fill(p, SOME, 2);
	CHECK_FILLED(q, SOME, 2);
	CHECK(try_revoke(fd, c.id, 0, &r) == 0);
	CHECK_EQ(peek(q, NULL), SIGBUS);
	CHECK_EQ(r.pinned, 0);
	CHECK_FILLED(p, SOME, 2);
	CHECK_ERR(try_revoke(fd, c.id, MOONCAKE_REVOKE_REPLACE, &r), EOPNOTSUPP);
}

static void test_a_window_is_exported_and_copied(void)
{
	struct mooncake_buffer_alloc b;
	struct mooncake_region_cxl c;
	char *p, *q, *moved = map_anon(SOME);
	int fd = device(), peer;

	needs_window();
	peer = peer_open();
	c = window(fd, window_start, SOME);
	b = alloc_buffer(fd, SOME);
	p = map(fd, c.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	q = map(fd, b.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	CHECK_EQ(peer_attach(peer, export_object(fd, c.id, MOONCAKE_EXPORT_WRITE), 0).length, SOME);
	fill(moved, SOME, 3);
	peer_write(peer, 0, moved, SOME);
	CHECK_FILLED(p, SOME, 3);
	copy(fd, b.id, 0, c.id, 0, SOME);
	CHECK_FILLED(q, SOME, 3);
	fill(q, SOME, 4);
	copy(fd, c.id, 0, b.id, 0, SOME);
	CHECK_FILLED(p, SOME, 4);
}

static void test_a_window_has_one_holder(void)
{
	struct mooncake_region_cxl c;
	int fd = device();
	uint32_t id;

	needs_window();
	id = window(fd, window_start, SOME).id;
	CHECK_ERR(try_window(fd, window_start, SOME, &c), EBUSY);
	CHECK_ERR(try_window(fd, window_start + SOME - HUGE_2M, HUGE_2M, &c), EBUSY);
	window(fd, window_start + SOME, HUGE_2M);
	destroy(fd, id);
	window(fd, window_start, SOME);
}

/* One of more than 64 MiB ends off the caller's path. */
static void test_a_large_window_is_free_at_once(void)
{
	uint64_t length = 96ull << 20;
	int fd = device();

	needs_window();
	if (window_length < length)
		SKIP("the window is smaller than %" PRIu64 " bytes", length);
	for (int i = 0; i < 10; i++)
		destroy(fd, window(fd, window_start, length).id);
}

static void test_all_of_the_range_must_be_window(void)
{
	struct mooncake_region_cxl c;
	int fd = device();

	needs_window();
	/* System RAM on both sides, nothing at all far out, a hole with devices below 4 GiB. */
	CHECK_ERR(try_window(fd, window_start - HUGE_2M, 2 * HUGE_2M, &c), EACCES);
	CHECK_ERR(try_window(fd, window_start + window_length - HUGE_2M, 2 * HUGE_2M, &c), EACCES);
	CHECK_ERR(try_window(fd, 16 * HUGE_2M, HUGE_2M, &c), EACCES);
	CHECK_ERR(try_window(fd, 1ull << 44, HUGE_2M, &c), EACCES);
	CHECK_ERR(try_window(fd, 0xfec00000, HUGE_2M, &c), EACCES);
}

static void test_odd_ranges_are_refused(void)
{
	struct mooncake_region_cxl c;
	int fd = device();

	needs_window();
	CHECK_ERR(try_window(fd, window_start + PAGE, HUGE_2M, &c), EINVAL);
	CHECK_ERR(try_window(fd, window_start, PAGE, &c), EINVAL);
	CHECK_ERR(try_window(fd, window_start, 0, &c), EINVAL);
	CHECK_ERR(try_window(fd, -HUGE_2M, 2 * HUGE_2M, &c), EOVERFLOW);
	CHECK_ERR(try_window(fd, window_start, MOONCAKE_LENGTH_MAX + HUGE_2M, &c), EINVAL);
}

static void test_a_window_needs_the_capability(void)
{
	struct mooncake_region_cxl c;
	int fd = device();

	needs_window();
	become(65534);
	CHECK_ERR(try_window(fd, window_start, HUGE_2M, &c), EPERM);
}

static void test_a_window_that_a_driver_claimed_is_refused(void)
{
	struct mooncake_region_cxl c;
	int fd = device();

	if (!window_length)
		SKIP("no window of memory is kept apart in this guest");
	needs_dax();
	/* The driver claims it a moment after its device is there: until then it may be ours. */
	CHECK(WAIT_FOR(try_window(fd, window_start, HUGE_2M, &c) && errno == EBUSY, 5));
}

static void test_a_mapped_dax_device_is_pinned(void)
{
	int fd = device(), peer;
	char *p, *q, *moved = map_anon(SOME);
	struct mooncake_buffer_alloc b;
	struct mooncake_stat s;
	uint32_t id;

	needs_dax();
	peer = peer_open();
	p = map_dax(SOME);
	CHECK(try_mapped(fd, p, SOME, &id) == 0);
	s = stat_object(fd, id);
	CHECK_EQ(s.kind, MOONCAKE_KIND_CXL);
	CHECK_EQ(s.length, SOME);
	b = alloc_buffer(fd, SOME);
	q = map(fd, b.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	fill(p, SOME, 5);
	copy(fd, b.id, 0, id, 0, SOME);
	CHECK_FILLED(q, SOME, 5);
	fill(q, SOME, 6);
	copy(fd, id, 0, b.id, 0, SOME);
	CHECK_FILLED(p, SOME, 6);
	peer_attach(peer, export_object(fd, id, MOONCAKE_EXPORT_WRITE), 0);
	peer_read(peer, 0, moved, SOME);
	CHECK_FILLED(moved, SOME, 6);
}

/* What is written through one mapping is there for the next. */
static void test_a_dax_device_holds_what_copy_wrote(void)
{
	struct mooncake_buffer_alloc b;
	int fd = device();
	char *p, *q;
	uint32_t id;

	needs_dax();
	b = alloc_buffer(fd, SOME);
	q = map(fd, b.mmap_offset, SOME, PROT_READ | PROT_WRITE);
	fill(q, SOME, 7);
	p = map_dax(SOME);
	CHECK(try_mapped(fd, p, SOME, &id) == 0);
	copy(fd, id, 0, b.id, 0, SOME);
	munmap(p, SOME);
	CHECK(event_arrives(fd, id, MOONCAKE_EVENT_REVOKED));
	destroy(fd, id);
	p = map_dax(SOME);
	CHECK_FILLED(p, SOME, 7);
}

static void test_a_mapping_of_something_else_is_refused(void)
{
	int fd = device();
	uint32_t id;

	CHECK_ERR(try_mapped(fd, map_anon(HUGE_2M), PAGE, &id), EOPNOTSUPP);
}

static void test_a_dax_device_needs_no_capability(void)
{
	int fd = device();
	uint32_t id;
	char *p;

	needs_dax();
	p = map_dax(HUGE_2M);
	become(65534);
	CHECK(try_mapped(fd, p, 4 * PAGE, &id) == 0);
	CHECK_ERR(try_mapped(fd, p, HUGE_2M * 64, &id), EFAULT);
}

static const struct test tests[] = {
	TEST(test_a_window_is_mapped_and_holds_its_data),
	TEST(test_a_window_is_granted_and_revoked),
	TEST(test_a_window_is_exported_and_copied),
	TEST(test_a_window_has_one_holder),
	TEST(test_a_large_window_is_free_at_once),
	TEST(test_all_of_the_range_must_be_window),
	TEST(test_odd_ranges_are_refused),
	TEST(test_a_window_needs_the_capability),
	TEST(test_a_mapped_dax_device_is_pinned),
	TEST(test_a_dax_device_holds_what_copy_wrote),
	TEST(test_a_mapping_of_something_else_is_refused),
	TEST(test_a_dax_device_needs_no_capability),
	TEST(test_a_window_that_a_driver_claimed_is_refused),
};

int main(int argc, char **argv)
{
	const char *given = getenv("MOONCAKE_WINDOW");

	if (given && sscanf(given, "%" SCNi64 " %" SCNi64, &window_start, &window_length) != 2)
		return 2;
	if (!given)
		region_window(&window_start, &window_length);
	return run_tests(tests, ARRAY_SIZE(tests), argc, argv);
}
