/* SPDX-License-Identifier: MIT */
/*
 * libibverbs, opened at run time: one build serves machines with and without it. What verbs.h defines
 * inline (polling, posting) goes through the device's own table and is used as it is.
 */
#ifndef MCI_RDMA_VERBS_H
#define MCI_RDMA_VERBS_H

#include <infiniband/verbs.h>

#define MCI_VERBS(X)                \
	X(ibv_get_device_list)      \
	X(ibv_free_device_list)     \
	X(ibv_get_device_name)      \
	X(ibv_open_device)          \
	X(ibv_close_device)         \
	X(ibv_query_device)         \
	X(ibv_alloc_pd)             \
	X(ibv_dealloc_pd)           \
	X(ibv_reg_mr_iova)          \
	X(ibv_reg_dmabuf_mr)        \
	X(ibv_dereg_mr)             \
	X(ibv_create_comp_channel)  \
	X(ibv_destroy_comp_channel) \
	X(ibv_create_cq)            \
	X(ibv_destroy_cq)           \
	X(ibv_get_cq_event)         \
	X(ibv_ack_cq_events)        \
	X(ibv_create_qp)            \
	X(ibv_modify_qp)            \
	X(ibv_destroy_qp)           \
	X(ibv_get_async_event)      \
	X(ibv_ack_async_event)      \
	X(ibv_wc_status_str)        \
	X(ibv_event_type_str)       \
	X(_ibv_query_gid_table)

struct mci_verbs {
#define MCI_VERB(name) __typeof__(&name) name;
	MCI_VERBS(MCI_VERB)
#undef MCI_VERB
};

/* The one table, or NULL with a sentence: libibverbs is not there. */
const struct mci_verbs *mci_verbs(void);

/* ibv_query_port() of the headers is an inline function around a symbol of the library. -errno. */
int mci_verbs_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr);

#endif
