// SPDX-License-Identifier: MIT
/* vm: rxe */
/*
 * Buffers and RDMA: ibv_reg_mr() takes a mapping of a buffer and of an attachment, data goes both ways, and a
 * memory region left open over REVOKE holds its pages. Needs an RDMA device; makes a soft-RoCE one on lo if
 * there is none.
 */
#include "verbs.h"

#define MIB (1ull << 20)

static void test_mapping_of_a_buffer_registers_and_moves_data_both_ways(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a, b;

	rdma_up();
	a = alloc_buffer(fd, 64 * PAGE);
	b = alloc_buffer(fd, 64 * PAGE);
	both_ways(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE),
		  map(fd, b.mmap_offset, b.length, PROT_READ | PROT_WRITE), a.length);
	qp_down();
	CHECK(WAIT_FOR(stat_object(fd, a.id).pinned == 0, 5));
}

static void test_mapping_of_an_attachment_registers_and_moves_data_both_ways(void)
{
	int fd = device(), guest = device();
	struct mooncake_buffer_alloc a, b;
	struct mooncake_attach at, bt;

	rdma_up();
	a = alloc_buffer(fd, 64 * PAGE);
	b = alloc_buffer(fd, 64 * PAGE);
	at = share(fd, a.id, guest, RW);
	bt = share(fd, b.id, guest, RW);
	both_ways(map(guest, at.mmap_offset, a.length, PROT_READ | PROT_WRITE),
		  map(guest, bt.mmap_offset, b.length, PROT_READ | PROT_WRITE), a.length);
}

static void test_large_and_odd_buffers_register(void)
{
	static const uint64_t lengths[] = {PAGE, 3 * PAGE, 2 * MIB, 4 * MIB + 7 * PAGE};
	int fd = device();

	rdma_up();
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct mooncake_buffer_alloc a = alloc_buffer(fd, lengths[i]),
					     b = alloc_buffer(fd, lengths[i]);

		both_ways(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE),
			  map(fd, b.mmap_offset, b.length, PROT_READ | PROT_WRITE), a.length);
		destroy(fd, a.id);
		destroy(fd, b.id);
	}
}

/* A read-only attachment cannot be the target of remote writes. */
static void test_read_attachment_does_not_register_for_writing(void)
{
	int fd = device(), guest = device();
	struct mooncake_attach a;
	struct ibv_mr *mr;

	rdma_up();
	a = share(fd, alloc_buffer(fd, 4 * PAGE).id, guest, RO);
	mr = ibv_reg_mr(r.pd, map(guest, a.mmap_offset, a.length, PROT_READ), a.length,
			IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	CHECK(!mr);
}

static void test_registration_counts_as_pinned_until_it_ends(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a;
	struct ibv_mr *mr;

	rdma_up();
	a = alloc_buffer(fd, 32 * PAGE);
	mr = reg(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE), a.length);
	CHECK_EQ(stat_object(fd, a.id).pinned, 32);
	CHECK_EQ(revoke_object(fd, a.id, 0).pinned, 32);
	CHECK(!ibv_dereg_mr(mr));
	CHECK(WAIT_FOR(stat_object(fd, a.id).pinned == 0, 5));
	CHECK_EQ(revoke_object(fd, a.id, 0).pinned, 0);
}

/*
 * The receiver registered what it was granted, the owner revokes, replaces and frees: the memory that the
 * registration still reaches is nobody else's. Reads see the old bytes, writes hit orphans.
 */
static void test_memory_region_left_open_over_revoke_reaches_orphans_only(void)
{
	enum { N = 64 };
	int owner = device(), guest = device();
	struct mooncake_buffer_alloc b, others[N];
	struct mooncake_attach a;
	struct mooncake_revoke v;
	struct ibv_mr *stale, *mr;
	char *mine, *p, *local, *mapped[N];

	rdma_up();
	catch_bus();
	b = alloc_buffer(owner, MIB);
	mine = map(owner, b.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	a = share(owner, b.id, guest, RW);
	p = map(guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	fill(p, MIB, 31);
	stale = reg(p, MIB);
	v = revoke_object(owner, b.id, MOONCAKE_REVOKE_REPLACE);
	CHECK_EQ(v.pinned, MIB / PAGE);
	CHECK_EQ(peek(p, NULL), SIGBUS);
	CHECK_ZERO(mine, MIB);
	munmap(mine, MIB);
	destroy(owner, b.id);
	destroy(guest, a.id);
	/* Others take whatever memory is free. */
	for (int i = 0; i < N; i++) {
		others[i] = alloc_buffer(owner, MIB);
		mapped[i] = map(owner, others[i].mmap_offset, MIB, PROT_READ | PROT_WRITE);
		fill(mapped[i], MIB, 100 + i);
	}
	local = map_anon(MIB);
	memset(local, 0x77, MIB);
	mr = reg(local, MIB);
	CHECK_EQ(transfer(IBV_WR_RDMA_READ, mr, stale, 0, MIB), IBV_WC_SUCCESS);
	CHECK_FILLED(local, MIB, 31);
	memset(local, 0x77, MIB);
	CHECK_EQ(transfer(IBV_WR_RDMA_WRITE, mr, stale, 0, MIB), IBV_WC_SUCCESS);
	for (int i = 0; i < N; i++)
		CHECK_FILLED(mapped[i], MIB, 100 + i);
	CHECK(!ibv_dereg_mr(stale));
}

/* Killed with registrations open: the buffer's pages go back when verbs let go of them. */
static void test_killed_with_registrations_open_leaves_nothing(void)
{
	struct meet m = meet_new();
	char c;
	pid_t pid = spawn();

	if (!pid) {
		int fd = device();
		struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * MIB);

		rdma_up();
		reg(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE), a.length);
		reg(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE), a.length);
		say(m.up, "r", 1);
		pause();
	}
	hear(m.up, &c, 1);
	kill9(pid); /* the gauges are compared after the test */
}

static const struct test tests[] = {
	TEST(test_mapping_of_a_buffer_registers_and_moves_data_both_ways),
	TEST(test_mapping_of_an_attachment_registers_and_moves_data_both_ways),
	TEST(test_large_and_odd_buffers_register),
	TEST(test_read_attachment_does_not_register_for_writing),
	TEST(test_registration_counts_as_pinned_until_it_ends),
	TEST(test_memory_region_left_open_over_revoke_reaches_orphans_only),
	TEST(test_killed_with_registrations_open_leaves_nothing),
};

int main(int argc, char **argv)
{
	if (!rdma_there()) {
		printf("no RDMA device, and no soft-RoCE to make one of\n");
		return 77;
	}
	return run_tests(tests, ARRAY_SIZE(tests), argc, argv);
}
