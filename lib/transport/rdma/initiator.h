/* SPDX-License-Identifier: MIT */
/* Initiator half: what its files ask of each other. peer->lock is held unless said otherwise. */
#ifndef MCI_RDMA_INITIATOR_H
#define MCI_RDMA_INITIATOR_H

#include "core/clock.h"
#include "transport/rdma/rdma.h"

/* peer.c: requests */
enum { MCI_RDMA_QUEUED = 1, MCI_RDMA_FLIGHT = 2 }; /* low bits of request->state; the end stands above */
void mci_rdma_request_end(struct mci_rdma_peer *peer, struct mci_request *r, enum mc_state end, int err,
			  struct mci_request **finals);
/* A slice is not in flight any more; @bytes of it are done. */
void mci_rdma_request_slice(struct mci_rdma_peer *peer, struct mci_request *r, uint64_t bytes,
			    struct mci_request **finals);
void mci_rdma_request_handed(struct mci_rdma_peer *peer,
			     struct mci_request *r); /* all of it: off the queue */
bool mci_rdma_request_ended(const struct mci_request *r);
int mci_rdma_again_push(struct mci_rdma_peer *peer, const struct mci_rdma_slot *slot);
void mci_rdma_finals_tell(struct mci_rdma_peer *peer, struct mci_request *finals); /* without locks */
void mci_rdma_peer_put(struct mci_rdma_peer *peer);
void mci_rdma_peer_post(struct mci_rdma_peer *peer); /* any thread, lock or not: run the task in the loop */
static inline bool mci_rdma_peer_wanted(const struct mci_rdma_peer *peer)
{
	return atomic_load(&peer->pending) || peer->fencing;
}
struct mci_rdma_remote *mci_rdma_remote_of(const struct mci_rdma_peer *peer, const struct mci_request *r);
struct mci_rdma_peer *mci_rdma_peer_new(struct mci_rdma *rdma, unsigned int count); /* NULL: no memory */
void mci_rdma_wait_changed(struct mci_rdma_peer *peer, uint64_t deadline_ns);
/* How long peer_open() waits for the first endpoint: three seconds, and half of the caller's time if that is more. The
 * rest is for other transports. */
static inline uint64_t mci_rdma_probe_until(uint64_t now, uint64_t deadline_ns)
{
	uint64_t left = deadline_ns > now ? deadline_ns - now : 0, share = 3 * MCI_NS_PER_S;

	if (share < left / 2)
		share = left / 2;
	return now + (share < left ? share : left);
}
/* The control connection is no more: nothing is sent before the next incarnation. */
void mci_rdma_peer_lost(struct mci_rdma_peer *peer, struct mci_request **finals);

int mci_rdma_peer_open(struct mci_transport *transport, const struct mci_peer_info *info, void *cookie,
		       struct mci_remote_region *regions, unsigned int count, uint64_t deadline_ns,
		       struct mci_peer **out);
void mci_rdma_peer_close(struct mci_peer *peer);
void mci_rdma_peer_submit(struct mci_peer *peer, struct mci_request *first);
void mci_rdma_peer_cancel(struct mci_peer *peer, struct mci_request *r);
bool mci_rdma_peer_help(struct mci_peer *peer);
int mci_rdma_peer_usable(struct mci_peer *peer, struct mci_remote_region *region);
void mci_rdma_peer_detail(struct mci_peer *peer, const struct mci_remote_region *region, char *text,
			  size_t size);
int mci_rdma_peer_fence(struct mci_peer *peer, uint64_t deadline_ns);

/* connect.c */
int mci_rdma_peer_set_info(struct mci_rdma_peer *peer, const struct mci_peer_info *info); /* takes the lock */
int mci_rdma_peer_connect(struct mci_rdma_peer *peer,
			  uint64_t deadline_ns); /* no lock; state is CONNECTING */
void mci_rdma_connector_start(struct mci_rdma_peer *peer, struct mci_request **finals);
void mci_rdma_control_frames(struct mci_rdma_peer *peer); /* loop thread, no lock: send what is owed */
void mci_rdma_fail_waiting(struct mci_rdma_peer *peer, int err, bool stale_only, struct mci_request **finals);

/* classic_*.c: what takes the place of a control connection */
int mci_rdma_classic_connect(struct mci_rdma_peer *peer, uint64_t deadline_ns); /* no lock; connect.c */
void mci_rdma_classic_control(struct mci_rdma_peer *peer);			/* loop thread, no lock */
int mci_rdma_classic_refresh(struct mci_rdma_peer *peer, uint64_t deadline_ns);	/* no lock */
void mci_rdma_classic_suspect(struct mci_rdma_peer *peer);  /* it may have been restarted */
void mci_rdma_classic_detach(struct mci_rdma_endpoint *e); /* its queue pairs end */
struct mci_rdma_remote *mci_rdma_classic_remote(const struct mci_request *r);

/* endpoint.c */
static inline bool mci_rdma_endpoint_opens(const struct mci_rdma_endpoint *e)
{
	return e->state == MCI_RDMA_ASKED || e->state == MCI_RDMA_JOINING || e->state == MCI_RDMA_PROVING;
}
int mci_rdma_endpoint_open(struct mci_rdma_peer *peer, struct mci_nic *device, uint8_t to);
void mci_rdma_endpoint_connected(struct mci_rdma_peer *peer, const struct mci_rdma_end *end,
				 struct mci_request **finals);
void mci_rdma_endpoint_proven(struct mci_rdma_endpoint *e); /* a queue pair of it works */
void mci_rdma_endpoint_break(struct mci_rdma_endpoint *e, int err, bool path_failed,
			     struct mci_request **finals);
void mci_rdma_endpoint_drained(struct mci_rdma_endpoint *e, struct mci_request **finals); /* a marker came */
/* The peer confirmed, or the session ended: what was in flight ends, or waits to be sent anew. @e is freed.
 */
void mci_rdma_endpoint_end(struct mci_rdma_endpoint *e, struct mci_request **finals);
void mci_rdma_endpoint_steps(struct mci_rdma_peer *peer, uint64_t now, struct mci_request **finals);
struct mci_rdma_rail *mci_rdma_rail_of(struct mci_rdma_peer *peer, const struct mci_nic *device, uint8_t to);
void mci_rdma_endpoint_ports(struct mci_rdma_peer *peer, struct mci_request **finals);
void mci_rdma_endpoint_idle(struct mci_rdma_endpoint *e,
			    struct mci_request **finals); /* nothing is in flight */

/* pool.c: no lock needed; takes pool_lock */
int mci_rdma_pool_open(struct mci_rdma *rdma);
void mci_rdma_pool_close(struct mci_rdma *rdma);
bool mci_rdma_pool_take(struct mci_rdma_peer *peer,
			struct mci_rdma_endpoint *e); /* false: @peer will be woken */
void mci_rdma_pool_give(struct mci_rdma *rdma, struct mci_rdma_endpoint *e);
/* Whose endpoint that is, with a reference, or NULL. The endpoint itself may be gone when this returns. */
struct mci_rdma_peer *mci_rdma_pool_find(struct mci_rdma *rdma, uint32_t number, uint32_t stamp);
void mci_rdma_pool_leave(struct mci_rdma_peer *peer); /* wants none any more */
bool mci_rdma_pool_waits(struct mci_rdma_peer *peer); /* it stands in the line */
void mci_rdma_pool_settle(struct mci_rdma_endpoint *e); /* from here on it may be evicted */

/* rail.c */
/*
 * Where the next slice goes: an endpoint with room; NULL: none now. Opens endpoints on its way. Bits of NICs: @near is
 * preferred of ours, @far of the peer's; none of his is taken that is not in @reach.
 */
struct mci_rdma_endpoint *mci_rdma_rail_pick(struct mci_rdma_peer *peer, uint32_t near, uint32_t far, uint32_t reach,
					     struct mci_rdma_queue **queue);
unsigned int mci_rdma_rails(const struct mci_rdma_peer *peer); /* in use together */
json_t *mci_rdma_matrix(const struct mci_rdma *rdma); /* as configured, or of this machine; NULL: not known */
uint32_t mci_rdma_prefer(const struct mci_rdma *rdma, const char *location);
int mci_rdma_rails_learn(struct mci_rdma_peer *peer, const struct mci_peer_info *info);
uint64_t mci_rdma_rail_wake(const struct mci_rdma_peer *peer, uint64_t now); /* 0, or when a rest ends */

/* rails.c */
int mci_rdma_rails_restrict(struct mci_rdma_peer *peer, const char *list); /* -EINVAL with a sentence */
/* Opens every pair, and waits until each is up or failed. */
void mci_rdma_rails_try(struct mci_rdma_peer *peer, uint64_t deadline_ns);
json_t *mci_rdma_nics_json(struct mci_transport *transport);
json_t *mci_rdma_rails_json(struct mci_peer *peer);
void mci_rdma_rail_why(struct mci_rdma_rail *rail, const char *before, const char *why); /* NULL: it works */

/* work.c */
void mci_rdma_queue_init(struct mci_rdma_queue *q, uint8_t index);
void mci_rdma_pump(struct mci_rdma_peer *peer, struct mci_request **finals);
bool mci_rdma_post_proof(struct mci_rdma_endpoint *e, unsigned int queue, struct mci_request **finals);
int mci_rdma_post_marker(struct mci_rdma_endpoint *e, unsigned int queue);
static inline uint32_t mci_rdma_room(const struct mci_rdma_queue *q)
{
	return MCI_RDMA_DEPTH - 1 - (q->head - q->tail); /* one is left for the marker */
}

/* poll.c; no lock held */
bool mci_rdma_poll(struct mci_nic *device, bool wait); /* true: something came */
void mci_rdma_poll_event(struct mci_watch *watch, uint32_t events);
void mci_rdma_poll_rest(struct mci_task *task);
void mci_rdma_poll_arm(struct mci_nic *device);

/* A port of ours went up or down, or has another GID (loop thread, no lock). */
void mci_rdma_initiator_port(struct mci_nic *device);

static inline uint64_t mci_rdma_wr_id(const struct mci_rdma_endpoint *e, unsigned int queue,
				      uint32_t position)
{
	return (uint64_t)e->stamp << 32 | (uint64_t)e->number << 20 | queue << 16 | (position & 0xffff);
}

#endif
