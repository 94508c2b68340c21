// SPDX-License-Identifier: MIT
/*
 * RDMA with regions: ibv_reg_mr() takes a mapping of our dma-buf, of a BAR with struct pages, of a window, and what it
 * holds is held until it lets go, whatever becomes of the id, the mapping and the device.
 * vm: rxe
 */
#include "region.h"
#include "verbs.h"

#include <inttypes.h>

#define LENGTH	  (600 * PAGE)
#define PARAMETER "/sys/module/mooncake/parameters/bar_pages"

static struct mooncake_region_bar bar_with_pages(int fd, const struct pci *pci)
{
	struct mooncake_region_bar b = bar_request(pci, 2);

	CHECK(file_write(PARAMETER, "1") == 0);
	if (!has_feature(fd, MOONCAKE_FEATURE_BAR_PAGES))
		SKIP("no BAR with struct pages on this machine");
	b.flags = MOONCAKE_BAR_PAGES;
	if (ioctl(fd, MOONCAKE_REGION_BAR, &b))
		FAIL("REGION_BAR: %s", strerror(errno));
	return b;
}

static struct mooncake_region_cxl window(int fd, uint64_t length)
{
	struct mooncake_region_cxl c = STRUCT(region_cxl);
	char line[256];
	FILE *f = fopen("/proc/iomem", "re");

	CHECK(f);
	while (!c.start && fgets(line, sizeof(line), f))
		if (strstr(line, "Soft Reserved"))
			sscanf(line, "%" SCNx64, (uint64_t *)&c.start);
	fclose(f);
	if (!c.start)
		SKIP("no window of memory is kept apart in this guest");
	if (system("modprobe -r dax_hmem 2>/dev/null"))
		SKIP("the driver of the window does not let go");
	c.length = length;
	if (ioctl(fd, MOONCAKE_REGION_CXL, &c))
		FAIL("REGION_CXL: %s", strerror(errno));
	return c;
}

static void test_a_mapping_of_the_dma_buf_registers_and_moves_data_both_ways(void)
{
	int fd = device(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *p;

	rdma_up();
	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	CHECK(p != MAP_FAILED);
	both_ways(p, map_anon(LENGTH), LENGTH);
}

static void test_a_bar_with_struct_pages_registers_and_moves_data_both_ways(void)
{
	struct pci pci = pci_find(0x1af4, 0x1110, 0);
	int fd = device();
	struct mooncake_region_bar b = bar_with_pages(fd, &pci);

	rdma_up();
	both_ways(map(fd, b.mmap_offset, HUGE_2M, PROT_READ | PROT_WRITE), map_anon(HUGE_2M), HUGE_2M);
}

static void test_a_bar_without_struct_pages_does_not_register(void)
{
	struct pci pci = pci_find(0x1af4, 0x1110, 0);
	int fd = device();
	struct mooncake_region_bar b = bar_request(&pci, 2);

	rdma_up();
	CHECK(ioctl(fd, MOONCAKE_REGION_BAR, &b) == 0);
	CHECK(!ibv_reg_mr(r.pd, map(fd, b.mmap_offset, PAGE, PROT_READ | PROT_WRITE), PAGE, IBV_ACCESS_LOCAL_WRITE));
}

static void test_a_window_registers_and_moves_data_both_ways(void)
{
	int fd = device();
	struct mooncake_region_cxl c = window(fd, HUGE_2M);

	rdma_up();
	both_ways(map(fd, c.mmap_offset, HUGE_2M, PROT_READ | PROT_WRITE), map_anon(HUGE_2M), HUGE_2M);
}

/* The registration outlives id and mapping; until it ends nobody else gets the window, then anybody does. */
static void test_a_window_stays_ours_while_it_is_registered(void)
{
	int fd = device();
	struct mooncake_region_cxl c = window(fd, HUGE_2M), again;
	struct ibv_mr *mr, *local;
	char *p, *q = map_anon(HUGE_2M);

	rdma_up();
	p = map(fd, c.mmap_offset, HUGE_2M, PROT_READ | PROT_WRITE);
	fill(p, HUGE_2M, 41);
	mr = reg(p, HUGE_2M);
	CHECK_EQ(stat_object(fd, c.id).pinned, HUGE_2M / PAGE);
	munmap(p, HUGE_2M);
	destroy(fd, c.id);
	again = c;
	CHECK_ERR(ioctl(fd, MOONCAKE_REGION_CXL, &again), EBUSY);
	local = reg(q, HUGE_2M);
	CHECK_EQ(transfer(IBV_WR_RDMA_READ, local, mr, 0, HUGE_2M), IBV_WC_SUCCESS);
	CHECK_FILLED(q, HUGE_2M, 41);
	CHECK(!ibv_dereg_mr(mr));
	qp_down();
	again = c;
	CHECK(WAIT_FOR(!ioctl(fd, MOONCAKE_REGION_CXL, &again), 5));
}

/* Nothing can take a device away from under a registration: the removal waits, and ends with it. */
static void test_removal_of_a_device_waits_for_registrations(void)
{
	struct pci pci = pci_find(0x1af4, 0x1110, 0);
	int fd = device();
	struct mooncake_region_bar b = bar_with_pages(fd, &pci);
	char *p, path[128];
	struct ibv_mr *mr;
	pid_t pid;

	catch_bus();
	rdma_up();
	p = map(fd, b.mmap_offset, HUGE_2M, PROT_READ | PROT_WRITE);
	mr = reg(p, HUGE_2M);
	pid = spawn();
	if (!pid) {
		snprintf(path, sizeof(path), "%s/remove", pci.path);
		_exit(file_write(path, "1") ? 1 : 0);
	}
	/* CPUs are cut off at once, */
	CHECK(event_arrives(fd, b.id, MOONCAKE_EVENT_REVOKED));
	CHECK(WAIT_FOR(peek(p, NULL) == SIGBUS, 5));
	/* and the device is there for as long as it is registered. */
	CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
	CHECK(access(pci.path, F_OK) == 0);
	CHECK(!ibv_dereg_mr(mr));
	REAP(pid);
	CHECK(file_write("/sys/bus/pci/rescan", "1") == 0);
}

static const struct test tests[] = {
	TEST(test_a_mapping_of_the_dma_buf_registers_and_moves_data_both_ways),
	TEST(test_a_bar_with_struct_pages_registers_and_moves_data_both_ways),
	TEST(test_a_bar_without_struct_pages_does_not_register),
	TEST(test_a_window_registers_and_moves_data_both_ways),
	TEST(test_a_window_stays_ours_while_it_is_registered),
	TEST(test_removal_of_a_device_waits_for_registrations),
};

int main(int argc, char **argv)
{
	int ret;

	if (!rdma_there()) {
		printf("no RDMA device, and no soft-RoCE to make one of\n");
		return 77;
	}
	ret = run_tests(tests, ARRAY_SIZE(tests), argc, argv);
	file_write(PARAMETER, "0");
	return ret;
}
