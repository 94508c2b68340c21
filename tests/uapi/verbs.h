/* SPDX-License-Identifier: MIT */
/* What tests with RDMA share: two connected queue pairs of one device, registration, transfers. */
#ifndef VERBS_H
#define VERBS_H

#include "uapi.h"
#include <infiniband/verbs.h>

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

/* Soft-RoCE of 5.10 keeps the memory region of the last READ with the queue pair that answered it. */
static inline void qp_down(void)
{
	for (int i = 0; i < 2; i++)
		CHECK(!ibv_destroy_qp(r.qp[i]));
}

static inline struct ibv_mr *reg(void *p, uint64_t length)
{
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	struct ibv_mr *mr = ibv_reg_mr(r.pd, p, length, access);

	if (!mr)
		FAIL("ibv_reg_mr of %llu bytes: %s", (unsigned long long)length, strerror(errno));
	return mr;
}

/* Between two memory regions; returns the status of the completion. */
static inline int transfer(enum ibv_wr_opcode op, struct ibv_mr *local, struct ibv_mr *remote, uint64_t offset,
			   uint64_t length)
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

static inline void both_ways(void *p, void *q, uint64_t length)
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

/* False where there is no RDMA device and soft-RoCE cannot make one. */
static inline int rdma_there(void)
{
	int n = 0;

	ibv_free_device_list(ibv_get_device_list(&n));
	return n || !system("modprobe -a ib_uverbs rdma_rxe 2>/dev/null && rdma link add rxe0 type rxe netdev lo");
}

#endif
