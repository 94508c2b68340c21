/* SPDX-License-Identifier: MIT */
/*
 * The classic dialect of the rdma transport: a struct mci_rdma of its own, with protection domains, queue pairs
 * and endpoints of its own, over the same devices, work requests and completions as ours. What differs is how
 * queue pairs come about: there is no session and no connection that stays, but one link per pair of NIC paths,
 * made by a question on the rpc port, from whichever side asks first, and used by both.
 *
 *   classic_wire.c       records and descriptors
 *   classic_link.c       links: their queue pairs, and which of them are owed a confirmation
 *   classic_serve.c      answers to peers that ask
 *   classic_peer.c       initiator: a peer, its handles, what its thread does
 *   classic_remote.c     initiator: keys of remote regions, read and read again
 *   classic_transport.c  the transport "rdma-classic" as the engine sees it
 *
 * Lock order: peer->lock, then links->lock. serve->lock is apart.
 */
#ifndef MCI_RDMA_CLASSIC_H
#define MCI_RDMA_CLASSIC_H

#include "transport/rdma/classic_wire.h"
#include "transport/rdma/initiator.h"

/* ---- classic_link.c: links->lock is held unless said otherwise ---- */

enum mci_rdma_link_state {
	MCI_RDMA_LINK_BARE,	 /* no queue pairs: only remembered because it is owed */
	MCI_RDMA_LINK_ASKED,	 /* queue pairs that know none of the peer yet */
	MCI_RDMA_LINK_JOINING,	 /* a thread is in the driver with them, without the lock: they are its own */
	MCI_RDMA_LINK_CONNECTED, /* ready to receive and to send */
};

struct mci_rdma_link {
	struct mci_rdma_link *next;
	struct mci_nic *device;
	char path[MCI_RDMA_PATH_MAX]; /* of the peer's NIC */
	uint8_t state;
	bool retired; /* not found any more: its user is breaking, the peer has made another */
	uint64_t fresh_until; /* connected by our asking, and not taken yet: no need to ask again before then */
	/* A write went out over earlier queue pairs of this link that the peer may not have ended: nothing may be
	 * sent to this peer before it has accepted other ones. */
	bool owed;
	struct mci_rdma_endpoint *user; /* sends over it; NULL: it only answers */
	unsigned int count;
	struct ibv_qp *qp[MCI_RDMA_QPS_MAX];
	uint32_t peer_qpn[MCI_RDMA_QPS_MAX];
};

struct mci_rdma_links {
	pthread_mutex_t lock;
	pthread_cond_t joined;	     /* one is not JOINING any more */
	struct mci_rdma_link *first; /* newest first */
	unsigned int count;	     /* those with queue pairs */
};

struct mci_rdma_link *mci_rdma_link_find(struct mci_rdma *rdma, const struct mci_nic *device, const char *path);
/* The same, but one that is JOINING is waited for; the lock is let go meanwhile. */
struct mci_rdma_link *mci_rdma_link_await(struct mci_rdma *rdma, const struct mci_nic *device, const char *path);
/* Find it, or make it; it has queue pairs then. -errno with a sentence. */
int mci_rdma_link_get(struct mci_rdma *rdma, struct mci_nic *device, const char *path, struct mci_rdma_link **link);
/* Connect an ASKED one to the queue pairs of @peer. The lock is let go while the driver looks for the peer. */
int mci_rdma_link_connect(struct mci_rdma_link *link, const struct mci_rdma_record *peer);
bool mci_rdma_link_same(const struct mci_rdma_link *link, const struct mci_rdma_record *peer); /* connected to these */
/* Its queue pairs end; it is forgotten unless @owed. It must have no user. */
void mci_rdma_link_end(struct mci_rdma *rdma, struct mci_rdma_link *link, bool owed);
/* What we say of our side. */
void mci_rdma_link_record(const struct mci_rdma_link *link, struct mci_rdma_record *own);
void mci_rdma_own_path(const struct mci_nic *device, char path[MCI_RDMA_PATH_MAX]); /* no lock */
int mci_rdma_links_open(struct mci_rdma *rdma);
void mci_rdma_links_close(struct mci_rdma *rdma);

/* ---- classic_serve.c ---- */

int mci_rdma_classic_serve_open(struct mci_rdma *rdma);
void mci_rdma_classic_serve_close(struct mci_rdma *rdma);
void mci_rdma_classic_serve(struct mci_rdma *rdma, struct mci_incoming *in, const char *json, size_t length);

/* ---- initiator ---- */

struct mci_rdma_handle { /* what the engine holds: a segment that was opened; all to one process share a peer */
	struct mci_rdma_handle *next; /* of the peer */
	struct mci_rdma_peer *peer;
	void *cookie;
	struct mci_remote_region *regions;
	unsigned int count;
	struct mci_rdma_remote *remote; /* by index in regions; peer->lock */
	struct mc_uuid uuid;		/* of a process of ours that is asked in the classic way; else zero */
	unsigned int reading;		/* threads that read its descriptor: it must not go */
};

struct mci_rdma_classic_peer { /* the part of a peer that is ours; peer->lock */
	char server[MCI_NAME_MAX + 1]; /* its NIC paths begin with it */
	struct mci_rdma_handle *handles;
	unsigned int open_handles; /* pool_lock */
	bool asking;		   /* its thread runs */
	uint64_t probe_until;	   /* while peer->probing: no question waits longer */
	bool suspect;		   /* something broke: read its descriptor before it is asked for queue pairs */
	char why[256];		   /* it was last not reached */
	int error;		   /* of that; 0 = it was reached since */
	struct mci_request *notify_first, *notify_last;
};

int mci_rdma_classic_open(struct mci_rdma *rdma, const struct mci_peer_info *info, void *cookie,
			  struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
			  struct mci_rdma_handle **handle);
void mci_rdma_classic_close(struct mci_rdma_handle *handle);
void mci_rdma_classic_submit(struct mci_rdma_handle *handle, struct mci_request *first);
int mci_rdma_classic_fence(struct mci_rdma_handle *handle, uint64_t deadline_ns);
int mci_rdma_classic_usable(struct mci_rdma_handle *handle, const struct mci_remote_region *region);

/* classic_remote.c; peer->lock is held unless said otherwise */
int mci_rdma_classic_take_devices(struct mci_rdma_peer *peer, const struct mci_peer_info *info);
int mci_rdma_classic_take_keys(struct mci_rdma_handle *handle, const struct mci_peer_info *info);
bool mci_rdma_classic_speaks(const struct mci_peer_info *info); /* pure */

#endif
