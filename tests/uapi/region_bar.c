// SPDX-License-Identifier: MIT
/* REGION_BAR on the devices of QEMU: ivshmem-plain (memory behind a prefetchable BAR), edu (registers). */
#include "region.h"

#include <sched.h>

#define IVSHMEM	     0x1af4, 0x1110
#define EDU	     0x1234, 0x11e8
#define MEMORY	     2 /* ivshmem's BAR */
#define MEMORY_SIZE  (4ul << 20)
#define EDU_LIVENESS 4 /* register: reads back the complement of what was written */

static struct mooncake_region_bar bar(int fd, struct mooncake_region_bar b)
{
	if (ioctl(fd, MOONCAKE_REGION_BAR, &b))
		FAIL("REGION_BAR: %s", strerror(errno));
	return b;
}

static int try_bar(int fd, struct mooncake_region_bar b) { return ioctl(fd, MOONCAKE_REGION_BAR, &b); }

#define PARAMETER "/sys/module/mooncake/parameters/bar_pages"

static void needs_pages(int fd)
{
	if (!has_feature(fd, MOONCAKE_FEATURE_BAR_PAGES))
		SKIP("bar_pages is off, or this is no machine for it");
}

static void sysfs_write(const char *dir, const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (file_write(path, text))
		FAIL("%s: %s", path, strerror(errno));
}

/* A device that a test took away comes back by a rescan. */
static void rescan(void)
{
	sysfs_write("/sys/bus/pci", "rescan", "1");
}

static void test_memory_is_mapped_read_and_written(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	int fd = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, MEMORY));
	struct mooncake_stat s = stat_object(fd, b.id);
	char *p;

	CHECK_EQ(b.length, MEMORY_SIZE);
	CHECK_EQ(s.kind, MOONCAKE_KIND_BAR);
	CHECK_EQ(s.length, MEMORY_SIZE);
	CHECK_EQ(s.mmap_offset, b.mmap_offset);
	p = map(fd, b.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	fill(p, MEMORY_SIZE, 1);
	CHECK_FILLED(p, MEMORY_SIZE, 1);
	/* It is the device's: a second look at it, with another mapping, sees the same. */
	munmap(p, MEMORY_SIZE);
	destroy(fd, b.id);
	close(fd);
	fd = device();
	b = bar(fd, bar_request(&pci, MEMORY));
	p = map(fd, b.mmap_offset, MEMORY_SIZE, PROT_READ);
	CHECK_FILLED(p, MEMORY_SIZE, 1);
}

static void test_registers_are_mapped(void)
{
	struct pci pci = pci_find(EDU, 0);
	int fd = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, 0));
	volatile uint32_t *p = map(fd, b.mmap_offset, b.length, PROT_READ | PROT_WRITE);

	CHECK_EQ(p[0] & 0xff, 0xed);
	p[EDU_LIVENESS / 4] = 0x12345678;
	CHECK_EQ(p[EDU_LIVENESS / 4], ~0x12345678u);
}

static void test_a_range_of_a_bar_is_mapped(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY), b;
	int fd = device();
	char *all, *part;

	b = bar(fd, r);
	all = map(fd, b.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	fill(all + 5 * PAGE, 3 * PAGE, 2);
	munmap(all, MEMORY_SIZE);
	destroy(fd, b.id);
	r.offset = 5 * PAGE;
	r.length = 3 * PAGE;
	b = bar(fd, r);
	part = map(fd, b.mmap_offset, 3 * PAGE, PROT_READ);
	CHECK_FILLED(part, 3 * PAGE, 2);
	CHECK_ERR((long)try_map(fd, b.mmap_offset, 4 * PAGE, PROT_READ), EINVAL);
	CHECK_ERR((long)try_map(fd, b.mmap_offset + 3 * PAGE, PAGE, PROT_READ), EINVAL);
}

static void test_outside_the_bar_is_refused(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY);
	int fd = device();

	r.offset = MEMORY_SIZE;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r.offset = 0;
	r.length = MEMORY_SIZE + PAGE;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r.offset = MEMORY_SIZE - PAGE;
	r.length = 2 * PAGE;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r.length = 100;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r.offset = 100;
	r.length = PAGE;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r.offset = ~0ul << 12;
	CHECK_ERR(try_bar(fd, r), EOVERFLOW);
}

static void test_what_is_not_there_is_refused(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY);
	int fd = device();

	r.bar = 5;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r.bar = 6;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r = bar_request(&pci, MEMORY);
	r.device = 32;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r = bar_request(&pci, MEMORY);
	r.function = 8;
	CHECK_ERR(try_bar(fd, r), EINVAL);
	r = bar_request(&pci, MEMORY);
	r.domain = 0x7777;
	CHECK_ERR(try_bar(fd, r), ENODEV);
	r = bar_request(&pci, MEMORY);
	r.bus = 0xee;
	CHECK_ERR(try_bar(fd, r), ENODEV);
	r = bar_request(&pci, MEMORY);
	r.reserved = 1;
	CHECK_ERR(try_bar(fd, r), EINVAL);
}

static void test_who_lacks_the_capability_is_refused(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY);
	int fd = device();
	pid_t pid = spawn();

	if (!pid) {
		become(65534);
		CHECK_ERR(try_bar(fd, r), EPERM);
		_exit(0);
	}
	REAP(pid);
	/* Root of a user namespace is not root of the machine. */
	pid = spawn();
	if (!pid) {
		if (unshare(CLONE_NEWUSER))
			_exit(0);
		CHECK_ERR(try_bar(fd, r), EPERM);
		_exit(0);
	}
	REAP(pid);
}

/* The disk, network or file system device of the guest has a driver, which has claimed its BARs. */
static void test_a_bar_of_a_driver_is_refused(void)
{
	DIR *dir = opendir("/sys/bus/pci/drivers/virtio-pci");
	struct dirent *e;
	int fd = device(), tried = 0;

	while (dir && (e = readdir(dir))) {
		struct pci pci;

		if (sscanf(e->d_name, "%x:%x:%x.%x", &pci.domain, &pci.bus, &pci.device, &pci.function) != 4)
			continue;
		for (unsigned int i = 0; i < 6; i++) {
			struct mooncake_region_bar r = bar_request(&pci, i);
			int ret;

			r.length = PAGE;
			ret = try_bar(fd, r);
			CHECK(ret == -1);
			CHECK(errno == EBUSY || errno == EINVAL || errno == EACCES);
			tried += errno == EBUSY;
		}
	}
	if (!tried)
		SKIP("no device here has a driver that claims its BARs");
}

static void test_the_interrupt_table_is_left_out(void)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct dirent *e;
	int fd = device(), tried = 0;

	CHECK(dir);
	while ((e = readdir(dir))) {
		char path[PATH_MAX];
		struct mooncake_region_bar r;
		uint8_t config[256];
		struct pci pci;
		int file, at, n;

		if (sscanf(e->d_name, "%x:%x:%x.%x", &pci.domain, &pci.bus, &pci.device, &pci.function) != 4)
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", e->d_name);
		file = open(path, O_RDONLY | O_CLOEXEC);
		n = file < 0 ? 0 : read(file, config, sizeof(config));
		close(file);
		if (n < 256 || !(config[6] & 0x10))
			continue;
		for (at = config[0x34]; at && config[at] != 0x11; at = config[at + 1])
			;
		if (!at)
			continue;
		r = bar_request(&pci, config[at + 4] & 7);
		r.offset = (*(uint32_t *)(config + at + 4) & ~7u) & ~(PAGE - 1);
		r.length = PAGE;
		CHECK_ERR(try_bar(fd, r), EACCES);
		r.offset = 0;
		r.length = 0;
		CHECK_ERR(try_bar(fd, r), EACCES);
		tried++;
	}
	if (!tried)
		SKIP("no device here has a table of interrupts");
}

static void test_one_holder_at_a_time(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	int fd = device(), other = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, MEMORY)), r = bar_request(&pci, MEMORY);

	r.offset = PAGE;
	r.length = PAGE;
	CHECK_ERR(try_bar(other, r), EBUSY);
	destroy(fd, b.id);
	bar(other, r);
}

static void test_a_bar_is_granted_revoked_and_copied(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	int fd = device(), other = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, MEMORY));
	struct mooncake_attach a = share(fd, b.id, other, RW);
	struct mooncake_buffer_alloc m = alloc_buffer(fd, MEMORY_SIZE);
	char *theirs = map(other, a.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	char *seen = map(fd, m.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	struct mooncake_revoke r;

	catch_bus();
	fill(theirs, MEMORY_SIZE, 3);
	copy(fd, m.id, 0, b.id, 0, MEMORY_SIZE);
	CHECK_FILLED(seen, MEMORY_SIZE, 3);
	fill(seen, MEMORY_SIZE, 4);
	copy(fd, b.id, 0, m.id, 0, MEMORY_SIZE);
	CHECK_FILLED(theirs, MEMORY_SIZE, 4);
	/* Within the BAR itself, at odd places. */
	copy(fd, b.id, 2 * PAGE + 8, b.id, 3 * MEMORY_SIZE / 4, PAGE + 16);
	CHECK(!memcmp(theirs + 2 * PAGE + 8, theirs + 3 * MEMORY_SIZE / 4, PAGE + 16));
	CHECK(try_revoke(fd, b.id, 0, &r) == 0);
	for (uint64_t i = 0; i < MEMORY_SIZE; i += 64 * PAGE)
		CHECK_EQ(peek(theirs + i, NULL), SIGBUS);
	CHECK_ERR(try_revoke(fd, b.id, MOONCAKE_REVOKE_REPLACE, &r), EOPNOTSUPP);
}

static void test_without_struct_pages_there_is_no_dma_buf(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	int fd = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, MEMORY));

	CHECK_ERR(try_export(fd, b.id, 0), EOPNOTSUPP);
}

static void test_struct_pages_need_the_parameter(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY);
	int fd = device();

	r.flags = MOONCAKE_BAR_PAGES;
	CHECK(file_write(PARAMETER, "0") == 0);
	CHECK(!has_feature(fd, MOONCAKE_FEATURE_BAR_PAGES));
	CHECK_ERR(try_bar(fd, r), EOPNOTSUPP);
	CHECK(file_write(PARAMETER, "1") == 0);
	CHECK(has_feature(fd, MOONCAKE_FEATURE_BAR_PAGES));
	bar(fd, r);
}

static void test_with_struct_pages_it_is_mapped_exported_and_copied(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY), b;
	char *seen, *moved = map_anon(MEMORY_SIZE);
	struct mooncake_buffer_alloc m;
	int fd = device(), peer, dmabuf;

	needs_pages(fd);
	peer = peer_open();
	r.flags = MOONCAKE_BAR_PAGES;
	b = bar(fd, r);
	m = alloc_buffer(fd, MEMORY_SIZE);
	seen = map(fd, b.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	fill(seen, MEMORY_SIZE, 5);
	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	CHECK_EQ(peer_attach(peer, dmabuf, 0).length, MEMORY_SIZE);
	peer_read(peer, 0, moved, MEMORY_SIZE);
	CHECK_FILLED(moved, MEMORY_SIZE, 5);
	fill(moved, MEMORY_SIZE, 6);
	peer_write(peer, 0, moved, MEMORY_SIZE);
	CHECK_FILLED(seen, MEMORY_SIZE, 6);
	copy(fd, m.id, 0, b.id, 0, MEMORY_SIZE);
	munmap(seen, MEMORY_SIZE);
	seen = map(fd, m.mmap_offset, MEMORY_SIZE, PROT_READ);
	CHECK_FILLED(seen, MEMORY_SIZE, 6);
	/* Two faces of one BAR are not to be had at a time. */
	CHECK_ERR(try_bar(fd, bar_request(&pci, MEMORY)), EBUSY);
}

static void test_struct_pages_need_whole_sections(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY);
	int fd = device();

	needs_pages(fd);
	r.flags = MOONCAKE_BAR_PAGES;
	r.length = PAGE;
	CHECK_ERR(try_bar(fd, r), EOPNOTSUPP);
	r.length = HUGE_2M;
	bar(fd, r);
}

static void removal(uint32_t flags)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	struct mooncake_region_bar r = bar_request(&pci, MEMORY), b;
	int fd = device(), other = device();
	struct mooncake_attach a;
	struct mooncake_buffer_alloc m;
	char *p, *theirs;

	if (flags)
		needs_pages(fd);
	catch_bus();
	r.flags = flags;
	b = bar(fd, r);
	m = alloc_buffer(fd, PAGE);
	a = share(fd, b.id, other, RW);
	p = map(fd, b.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	theirs = map(other, a.mmap_offset, MEMORY_SIZE, PROT_READ | PROT_WRITE);
	memset(p, 7, MEMORY_SIZE);
	CHECK_EQ(peek(theirs, NULL), 0);
	sysfs_write(pci.path, "remove", "1");
	CHECK_EQ(peek(p, NULL), SIGBUS);
	CHECK_EQ(peek(p + MEMORY_SIZE - 1, NULL), SIGBUS);
	CHECK_EQ(peek(theirs, NULL), SIGBUS);
	CHECK(event_arrives(fd, b.id, MOONCAKE_EVENT_REVOKED));
	CHECK(event_arrives(other, a.id, MOONCAKE_EVENT_REVOKED));
	CHECK(stat_object(fd, b.id).state & MOONCAKE_STATE_REVOKED);
	CHECK_ERR(try_copy(fd, m.id, 0, b.id, 0, PAGE), ESTALE);
	CHECK_ERR(try_bar(fd, r), ENODEV);
	rescan();
	/* It is another device now: the old object stays dead. */
	CHECK_EQ(peek(p, NULL), SIGBUS);
	pci = pci_find(IVSHMEM, 0);
	r = bar_request(&pci, MEMORY);
	r.flags = flags;
	b = bar(fd, r);
	p = map(fd, b.mmap_offset, MEMORY_SIZE, PROT_READ);
	CHECK_EQ(p[MEMORY_SIZE - 1], 7);
}

static void test_a_device_is_removed_under_a_mapping(void) { removal(0); }

static void test_a_device_is_removed_under_struct_pages(void) { removal(MOONCAKE_BAR_PAGES); }

static void *copier(void *arg)
{
	uint32_t *id = arg;

	while (!try_copy(id[0], id[1], 0, id[2], 0, MEMORY_SIZE))
		;
	CHECK_EQ(errno, ESTALE);
	return NULL;
}

static void test_a_device_is_removed_under_copy(void)
{
	struct pci pci = pci_find(IVSHMEM, 0);
	int fd = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, MEMORY));
	uint32_t id[3] = {fd, alloc_buffer(fd, MEMORY_SIZE).id, b.id};
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, copier, id));
	poll(NULL, 0, 20);
	sysfs_write(pci.path, "remove", "1");
	pthread_join(thread, NULL);
	rescan();
}

/* A driver that does without the BAR may come; when it goes, so does the object. */
static void test_unbinding_a_driver_revokes(void)
{
	struct pci pci = pci_find(EDU, 0);
	int fd = device();
	struct mooncake_region_bar b = bar(fd, bar_request(&pci, 0));
	volatile uint32_t *p = map(fd, b.mmap_offset, b.length, PROT_READ);
	char driver[PATH_MAX];

	if (system("modprobe pci-stub 2>/dev/null") || file_write("/sys/bus/pci/drivers/pci-stub/new_id", "1234 11e8"))
		SKIP("no pci-stub driver here");
	catch_bus();
	CHECK_EQ(p[0] & 0xff, 0xed);
	snprintf(driver, sizeof(driver), "%s/driver", pci.path);
	CHECK(access(driver, F_OK) == 0);
	sysfs_write(pci.path, "driver/unbind", strrchr(pci.path, '/') + 1);
	file_write("/sys/bus/pci/drivers/pci-stub/remove_id", "1234 11e8");
	CHECK(event_arrives(fd, b.id, MOONCAKE_EVENT_REVOKED));
	CHECK_EQ(peek(p, NULL), SIGBUS);
	bar(fd, bar_request(&pci, 0));
}

static const struct test tests[] = {
	TEST(test_memory_is_mapped_read_and_written),
	TEST(test_registers_are_mapped),
	TEST(test_a_range_of_a_bar_is_mapped),
	TEST(test_outside_the_bar_is_refused),
	TEST(test_what_is_not_there_is_refused),
	TEST(test_who_lacks_the_capability_is_refused),
	TEST(test_a_bar_of_a_driver_is_refused),
	TEST(test_the_interrupt_table_is_left_out),
	TEST(test_one_holder_at_a_time),
	TEST(test_a_bar_is_granted_revoked_and_copied),
	TEST(test_without_struct_pages_there_is_no_dma_buf),
	TEST(test_struct_pages_need_the_parameter),
	TEST(test_with_struct_pages_it_is_mapped_exported_and_copied),
	TEST(test_struct_pages_need_whole_sections),
	TEST(test_a_device_is_removed_under_a_mapping),
	TEST(test_a_device_is_removed_under_struct_pages),
	TEST(test_a_device_is_removed_under_copy),
	TEST(test_unbinding_a_driver_revokes),
};

int main(int argc, char **argv)
{
	int ret;

	file_write(PARAMETER, "1");
	ret = run_tests(tests, ARRAY_SIZE(tests), argc, argv);
	file_write(PARAMETER, "0");
	return ret;
}
