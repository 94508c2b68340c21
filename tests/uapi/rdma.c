// SPDX-License-Identifier: MIT
/*
 * Buffers and RDMA: ibv_reg_mr() takes a mapping of a buffer and of an attachment, data goes both ways, and a memory
 * region left open over REVOKE holds its pages. Needs an RDMA device; makes a soft-RoCE one on lo if there is none.
 */
#include "uapi.h"
#include <infiniband/verbs.h>

#define MIB (1ull << 20)

static struct {
	struct ibv_context *verbs;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp[2];
} r;

static void qp_up(struct ibv_qp *qp, uint32_t peer, union ibv_gid *gid, int index, enum ibv_mtu mtu)
{
	struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT, .port_num = 1,
				.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE};

	CHECK(!ibv_modify_qp(qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
	a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTR, .path_mtu = mtu, .dest_qp_num = peer,
				 .max_dest_rd_atomic = 1, .min_rnr_timer = 12};
	a.ah_attr.is_global = 1;
	a.ah_attr.grh.dgid = *gid;
	a.ah_attr.grh.sgid_index = index;
	a.ah_attr.grh.hop_limit = 1;
	a.ah_attr.port_num = 1;
	CHECK(!ibv_modify_qp(qp, &a, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
						 IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .timeout = 18, .retry_cnt = 7, .rnr_retry = 7,
				 .max_rd_atomic = 1};
	CHECK(!ibv_modify_qp(qp, &a, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
						 IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC));
}

static void rdma_up(void)
{
	struct ibv_qp_init_attr init = {.qp_type = IBV_QPT_RC, .cap = {8, 8, 1, 1, 0}};
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_port_attr port;
	union ibv_gid gid;
	int index = -1;

	if (!list || !list[0])
		SKIP("no RDMA device");
	r.verbs = ibv_open_device(list[0]);
	CHECK(r.verbs);
	CHECK(!ibv_query_port(r.verbs, 1, &port));
	for (int i = 0; i < port.gid_tbl_len && index < 0; i++) {
		static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

		if (!ibv_query_gid(r.verbs, 1, i, &gid) && !memcmp(gid.raw, mapped, 12))
			index = i;
	}
	if (index < 0)
		SKIP("the RDMA device has no IPv4 address");
	CHECK(r.pd = ibv_alloc_pd(r.verbs));
	CHECK(r.cq = ibv_create_cq(r.verbs, 16, NULL, NULL, 0));
	init.send_cq = init.recv_cq = r.cq;
	for (int i = 0; i < 2; i++)
		CHECK(r.qp[i] = ibv_create_qp(r.pd, &init));
	for (int i = 0; i < 2; i++)
		qp_up(r.qp[i], r.qp[!i]->qp_num, &gid, index, port.active_mtu);
}

static struct ibv_mr *reg(void *p, uint64_t length)
{
	struct ibv_mr *mr = ibv_reg_mr(r.pd, p, length, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);

	if (!mr)
		FAIL("ibv_reg_mr of %llu bytes: %s", (unsigned long long)length, strerror(errno));
	return mr;
}

/* Between two memory regions; returns the status of the completion. */
static int transfer(enum ibv_wr_opcode op, struct ibv_mr *local, struct ibv_mr *remote, uint64_t offset, uint64_t length)
{
	struct ibv_sge sge = {PTR(local->addr) + offset, (uint32_t)length, local->lkey};
	struct ibv_send_wr wr = {.sg_list = &sge, .num_sge = 1, .opcode = op, .send_flags = IBV_SEND_SIGNALED}, *bad;
	struct ibv_wc wc;
	int n = 0;

	wr.wr.rdma.remote_addr = PTR(remote->addr) + offset;
	wr.wr.rdma.rkey = remote->rkey;
	CHECK(!ibv_post_send(r.qp[0], &wr, &bad));
	CHECK(WAIT_FOR((n = ibv_poll_cq(r.cq, 1, &wc)) != 0, 60));
	CHECK_EQ(n, 1);
	return wc.status;
}

static void both_ways(void *p, void *q, uint64_t length)
{
	struct ibv_mr *a = reg(p, length), *b = reg(q, length);

	fill(p, length, 21);
	memset(q, 0, length);
	CHECK_EQ(transfer(IBV_WR_RDMA_WRITE, a, b, 0, length), IBV_WC_SUCCESS);
	CHECK_FILLED(q, length, 21);
	fill(q, length, 22);
	CHECK_EQ(transfer(IBV_WR_RDMA_READ, a, b, 0, length), IBV_WC_SUCCESS);
	CHECK_FILLED(p, length, 22);
	CHECK_EQ(transfer(IBV_WR_RDMA_READ, b, a, 0, length), IBV_WC_SUCCESS);
	CHECK(!ibv_dereg_mr(a) && !ibv_dereg_mr(b));
}

static void test_mapping_of_a_buffer_registers_and_moves_data_both_ways(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a, b;

	rdma_up();
	a = alloc_buffer(fd, 64 * PAGE);
	b = alloc_buffer(fd, 64 * PAGE);
	both_ways(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE),
		  map(fd, b.mmap_offset, b.length, PROT_READ | PROT_WRITE), a.length);
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
		struct mooncake_buffer_alloc a = alloc_buffer(fd, lengths[i]), b = alloc_buffer(fd, lengths[i]);

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
 * The receiver registered what it was granted, the owner revokes, replaces and frees: the memory that the registration
 * still reaches is nobody else's. Reads see the old bytes, writes hit orphans.
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
	int n = 0;

	ibv_free_device_list(ibv_get_device_list(&n));
	if (!n && system("modprobe -a ib_uverbs rdma_rxe 2>/dev/null && rdma link add rxe0 type rxe netdev lo")) {
		printf("no RDMA device, and no soft-RoCE to make one of\n");
		return 77;
	}
	return run_tests(tests, ARRAY_SIZE(tests), argc, argv);
}
