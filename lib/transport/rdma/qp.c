// SPDX-License-Identifier: MIT
/* Queue pairs: reliable connections, one-sided reads and writes; both sides use the same attributes. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "core/errors.h"
#include "core/uuid.h"
#include "transport/rdma/rdma.h"

#define HOP_LIMIT 64
#define CLASSIC_HOP_LIMIT 16
#define CLASSIC_RECEIVES 256
#define CLASSIC_SGE 4
#define CLASSIC_INLINE 64
#define MIN_RNR_TIMER 12
#define RETRIES 6 /* soft-RoCE takes 7 for "for ever", and a dead path would never show */
#define RNR_RETRIES 7 /* for ever: nobody waits for a receive here */

uint32_t mci_rdma_psn(void)
{
	uint32_t psn;

	mci_random(&psn, sizeof(psn));
	return psn & 0xffffff;
}

int mci_rdma_qp_create(struct mci_nic *device, uint32_t depth, struct ibv_qp **out)
{
	struct ibv_qp_init_attr init = {
		.send_cq = device->cq,
		.recv_cq = device->cq,
		.cap = {.max_send_wr = depth, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = device->port,
		.pkey_index = (uint16_t)device->rdma->host->options.rdma.pkey_index,
		.qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
	};
	bool classic = mci_rdma_is_classic(device->rdma);
	struct ibv_qp *qp;
	int ret;

	if (classic) {
		init.cap.max_recv_wr = CLASSIC_RECEIVES;
		init.cap.max_send_sge = init.cap.max_recv_sge = CLASSIC_SGE;
		init.cap.max_inline_data = CLASSIC_INLINE;
		attr.qp_access_flags |= IBV_ACCESS_REMOTE_ATOMIC;
	}
	/* Who does not serve classic peers lets none of them in. */
	if (classic && !device->rdma->host->options.classic)
		attr.qp_access_flags = IBV_ACCESS_LOCAL_WRITE;
	qp = device->rdma->verbs->ibv_create_qp(device->pd, &init);
	if (!qp) {
		ret = errno ? -errno : -ENOMEM;
		return mci_fail(ret, "%s gives no queue pair: %s%s", device->name, strerror(-ret),
				ret == -ENOMEM ? "; raise the limit on locked memory (ulimit -l), or lower "
						 "MC_MAX_EP_PER_CTX"
					       : "");
	}
	ret = device->rdma->verbs->ibv_modify_qp(
		qp, &attr, IBV_QP_STATE | IBV_QP_PORT | IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS);
	if (ret) {
		device->rdma->verbs->ibv_destroy_qp(qp);
		return mci_fail(-ret, "%s does not initialise a queue pair: %s", device->name, strerror(ret));
	}
	*out = qp;
	return 0;
}

static int to_receive(struct mci_nic *device, struct ibv_qp *qp, const struct mci_rdma_end *peer,
		      unsigned int i)
{
	const struct mci_rdma_options *options = &device->rdma->host->options.rdma;
	enum ibv_mtu mtu;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.dest_qp_num = peer->qpn[i],
		.rq_psn = peer->psn[i],
		.max_dest_rd_atomic = (uint8_t)device->max_rd,
		.min_rnr_timer = MIN_RNR_TIMER,
		.ah_attr = {.dlid = peer->lid,
			    .sl = (uint8_t)options->service_level,
			    .port_num = device->port,
			    .is_global = 1,
			    .grh = {.hop_limit = mci_rdma_is_classic(device->rdma) ? CLASSIC_HOP_LIMIT : HOP_LIMIT,
				    .traffic_class =
					    (uint8_t)(options->traffic_class < 0 ? 0
										 : options->traffic_class)}},
	};

	pthread_mutex_lock(&device->state_lock);
	mtu = device->attr.active_mtu;
	attr.ah_attr.grh.sgid_index = (uint8_t)device->gid_index;
	pthread_mutex_unlock(&device->state_lock);
	if (options->mtu && options->mtu < (128u << mtu))
		for (mtu = IBV_MTU_256; (128u << (mtu + 1)) <= options->mtu;)
			mtu++;
	/* Both sides know both ports: the smaller one it is. */
	attr.path_mtu = (enum ibv_mtu)peer->mtu < mtu ? (enum ibv_mtu)peer->mtu : mtu;
	memcpy(attr.ah_attr.grh.dgid.raw, peer->gid, 16);
	return device->rdma->verbs->ibv_modify_qp(qp, &attr,
						  IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
							  IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
							  IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct mci_nic *device, struct ibv_qp *qp, uint32_t psn)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		.sq_psn = psn,
		.timeout = (uint8_t)device->rdma->host->options.rdma.timeout,
		.retry_cnt = RETRIES,
		.rnr_retry = RNR_RETRIES,
		.max_rd_atomic = (uint8_t)device->max_rd,
	};

	/* Soft-RoCE takes the greatest number for "for ever", and only errors tell that a classic peer is gone. */
	if (device->soft && mci_rdma_is_classic(device->rdma))
		attr.retry_cnt = RETRIES - 1;
	return device->rdma->verbs->ibv_modify_qp(qp, &attr,
						  IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
							  IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
							  IBV_QP_MAX_QP_RD_ATOMIC);
}

int mci_rdma_qp_ready(struct mci_nic *device, struct ibv_qp *qp, const struct mci_rdma_end *peer,
		      unsigned int i, uint32_t psn, bool send)
{
	int ret = to_receive(device, qp, peer, i);

	if (!ret && send)
		ret = to_send(device, qp, psn);
	if (ret)
		return mci_fail(
			-ret,
			"%s does not connect a queue pair to the peer: %s; `mooncake doctor` compares GIDs "
			"and MTUs (own GID index %d)",
			device->name, strerror(ret), device->gid_index);
	return 0;
}

int mci_rdma_qp_error(struct mci_nic *device, struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	return -device->rdma->verbs->ibv_modify_qp(qp, &attr, IBV_QP_STATE);
}
