// SPDX-License-Identifier: MIT
/* The one table of transports that this build has. */
#include "config.h"
#include "engine/engine.h"

const struct mci_transport_ops *const mci_transports[MCI_TRANSPORT_COUNT] = {
	[MCI_TRANSPORT_TCP] = &mci_transport_tcp,
	[MCI_TRANSPORT_SHM] = &mci_transport_shm,
	[MCI_TRANSPORT_CLASSIC] = &mci_transport_classic,
#if USE_RDMA
	[MCI_TRANSPORT_RDMA] = &mci_transport_rdma,
	[MCI_TRANSPORT_RDMA_CLASSIC] = &mci_transport_rdma_classic,
#endif
};
