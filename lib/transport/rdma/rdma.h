/* SPDX-License-Identifier: MIT */
/*
 * Inside of the rdma transport.
 *
 *   device.c    NICs: open, port state, events of the NIC and of its interface; gid.c: which GID a port uses
 *   memory.c    registration of regions on all NICs
 *   wire.c      control frames; qp.c: queue pairs, both sides; join.c: theirs and ours are connected
 *   serve.c     target: control connections, keys, responder queue pairs
 *   peer.c      initiator: ops on a peer, its queue and its deadlines; connect.c: its control connection
 *   endpoint.c  initiator: queue pairs to one NIC of a peer: opening, breaking, fencing
 *   pool.c      how many endpoints there may be; who must give one back (SIEVE)
 *   rail.c      which endpoint a slice takes; rails.c: all pairs of NICs, to be tried, restricted and shown
 *   work.c      slices to work requests; poll.c: completions
 *   classic*.c  the classic dialect: see classic.h
 *
 * Lock order: device->cq_lock, then peer->lock, then rdma->pool_lock. serve->lock is apart from them.
 * host->complete() and host->refresh() are called under none of them.
 */
#ifndef MCI_RDMA_H
#define MCI_RDMA_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/conn.h"
#include "net/work.h"
#include "transport/rdma/verbs.h"
#include "transport/rdma/wire.h"
#include "transport/reconnect.h"
#include "transport/transport.h"

#define MCI_RDMA_DEPTH 256u /* work requests of one queue pair; a power of two */
#define MCI_RDMA_SIGNAL 32u /* every so many ask for a completion */
#define MCI_RDMA_CHAIN 16u  /* work requests of one doorbell */
#define MCI_RDMA_SLICE (64u << 10)
#define MCI_RDMA_SLICE_MAX (4u << 20)
#define MCI_RDMA_POLL 32
#define MCI_RDMA_ENDPOINTS_MAX 4096u
#define MCI_RDMA_GRACE_NS (100 * 1000000ull) /* for what is in flight past its deadline */
#define MCI_RDMA_STEP_NS (400 * 1000000ull)  /* for a step of breaking an endpoint */

/* Ways to break a rule on purpose, for the tests that prove that it is needed. */
struct mci_rdma_hooks {
	bool no_fence;	 /* what broke is not confirmed by the peer before it is sent anew */
	uint64_t max_mr; /* as if the NICs registered no more in one piece; 0 = theirs */
	uint32_t max_mrs; /* as if they registered no more pieces; 0 = theirs */
};

struct mci_rdma;
struct mci_rdma_peer;
struct mci_rdma_endpoint;
struct mci_rdma_serve;
struct mci_rdma_classic_serve;
struct mci_rdma_classic_peer;
struct mci_rdma_link;
struct mci_rdma_links;

struct mci_nic {
	struct mci_watch events, completions; /* async_fd, channel */
	struct mci_watch link;		      /* netlink: fd < 0 where there is none */
	struct mci_link_watch *link_watch;
	struct mci_rdma *rdma;
	uint8_t index, port;
	char name[64], gid_why[256];
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct mci_loop *loop;
	struct mci_pool *joiners; /* join.c; NULL: nothing was to be joined yet */
	int numa_node;
	uint32_t max_qp_wr, max_rd;
	uint64_t max_mr; /* bytes of a registration */
	uint32_t max_mrs;
	_Atomic uint32_t mrs;	/* ours */
	_Atomic bool no_dmabuf; /* it was tried: memory of the kernel module is registered by its mapping */
	bool soft;		/* soft-RoCE */
	pthread_mutex_t state_lock; /* joiners, and the next eight; who picks a rail reads the first two without it */
	_Atomic bool up;
	_Atomic uint8_t link_layer;
	bool link_down;	      /* its network interface carries nothing */
	unsigned int ifindex; /* that interface, 0 = none */
	int gid_index;
	union ibv_gid gid;
	struct ibv_port_attr attr;
	_Atomic bool fatal;
	pthread_mutex_t cq_lock;
	_Atomic bool armed;
	_Atomic int pollers;
	struct mci_task rest; /* completions that one look did not take */
	_Atomic bool rest_posted, ignored;
	uint64_t flush_word[8]; /* peers read it to flush what they wrote; our own flushes land in its second
				   half */
	struct ibv_mr *flush_mr;
};

/* A region on all NICs: transport_private of struct mci_region. */
struct mci_rdma_memory {
	uint64_t iova, chunk, length;
	uint8_t *addr;
	uint32_t prefer; /* NICs that are near it, a bit each */
	uint16_t chunks;
	struct ibv_mr *mr[]; /* [chunk * devices + device]; NULL: that NIC could not */
};

struct mci_rdma {
	json_t *matrix; /* which NICs are near which memory; NULL: not known */
	struct mci_transport_host *host;
	const struct mci_verbs *verbs;
	struct mci_rdma_hooks hooks;
	struct mci_nic *device[MCI_RDMA_DEVICES_MAX];
	uint8_t device_count;
	uint32_t qps, endpoints_max;
	struct mci_rdma_serve *serve;
	enum mci_transport_id id; /* RDMA, or RDMA_CLASSIC: the classic dialect */
	struct mci_rdma_links *links;		      /* classic */
	struct mci_rdma_classic_serve *classic_serve; /* NULL: not serving */
	pthread_mutex_t memory_lock;		      /* classic: registration at first use */
	struct mc_uuid secret; /* names of sessions */
	_Atomic uint64_t incarnations;
	_Atomic uint32_t in_flight; /* requests of all peers that are not final */

	pthread_mutex_t pool_lock;
	struct mci_rdma_endpoint **slot; /* by number: endpoints_max */
	uint32_t *slot_stamp;		 /* raised whenever a slot is given away */
	uint32_t slots_used, slot_turn;
	_Atomic uint32_t unsettled; /* endpoints that are being opened, or have carried nothing yet */
	struct mci_rdma_endpoint *sieve_head, *sieve_tail, *hand;
	struct mci_rdma_peer *starving_first, *starving_last;
	_Atomic uint32_t starving;
	struct mci_task pool_task;
	bool pool_posted;
	struct mci_loop *loop; /* of the pool's task */
	struct mci_rdma_peer *peers;
	_Atomic uint64_t posted, doorbells, polled, signalled, evictions; /* figures */
};

/* ---- both sides ---- */

int mci_rdma_devices_open(struct mci_rdma *rdma);
void mci_rdma_devices_ignore(struct mci_rdma *rdma); /* nothing that they say arrives any more */
void mci_rdma_devices_close(struct mci_rdma *rdma);
void mci_rdma_device_port(struct mci_nic *device, struct mci_rdma_port *port); /* as of now */
/* gid.c: -ENOENT with a sentence. */
int mci_rdma_gid_choose(struct mci_nic *device, int wanted, struct ibv_gid_entry *out, char *why, size_t size);

/* memory.c */
int mci_rdma_memory_add(struct mci_rdma *rdma, struct mci_region *region);
int mci_rdma_memory_remove(struct mci_rdma *rdma, struct mci_region *region);
struct mci_rdma_memory *mci_rdma_memory_of(const struct mci_rdma *rdma, const struct mci_region *region);

/* qp.c: our own side of an endpoint's queue pairs. -errno with a sentence. */
int mci_rdma_qp_create(struct mci_nic *device, uint32_t depth, struct ibv_qp **qp);
int mci_rdma_qp_ready(struct mci_nic *device, struct ibv_qp *qp, const struct mci_rdma_end *peer,
		      unsigned int i, uint32_t psn, bool send);
int mci_rdma_qp_error(struct mci_nic *device, struct ibv_qp *qp);
uint32_t mci_rdma_psn(void);

/* join.c. Queue pairs that are being connected to a peer's: nobody else touches them before job.done. */
struct mci_rdma_join {
	struct mci_job job; /* first; its owner sets done and loop */
	struct mci_rdma_join *next; /* in the lane */
	void *owner;
	struct mci_nic *device;
	bool send; /* to be ready to send too */
	uint8_t count;
	struct ibv_qp *qp[MCI_RDMA_QPS_MAX];
	uint32_t psn[MCI_RDMA_QPS_MAX];
	struct mci_rdma_end peer; /* its queue pairs */
	uint64_t until;		  /* not begun by then: refused */
	_Atomic bool given_up;
	int ret;
	char why[MCI_RDMA_SENTENCE + 1];
};

struct mci_rdma_lane { /* of one peer and one NIC of ours; zeroed; the peer's lock, or its loop */
	struct mci_rdma_join *first, *last; /* wait */
	unsigned int under_way;
};

int mci_rdma_join_add(struct mci_rdma_lane *lane, struct mci_rdma_join *join); /* -errno with a sentence */
/* True: it has not begun, and is the caller's again. False: its end will come, as for others. */
bool mci_rdma_join_give_up(struct mci_rdma_lane *lane, struct mci_rdma_join *join);
void mci_rdma_join_over(struct mci_rdma_lane *lane);	  /* by job.done: the next one begins */
void mci_rdma_join_destroy(struct mci_rdma_join *join);	  /* its queue pairs */
void mci_rdma_joins_end(struct mci_rdma *rdma);		  /* all were given up: waits for those in the driver */

/* transport.c: devices, pool and the like; the rest is the dialect's. -errno with a sentence. */
int mci_rdma_new(struct mci_transport_host *host, enum mci_transport_id id, struct mci_rdma **rdma);
void mci_rdma_free(struct mci_rdma *rdma);
static inline bool mci_rdma_is_classic(const struct mci_rdma *rdma) { return rdma->id == MCI_TRANSPORT_RDMA_CLASSIC; }

/* serve.c */
int mci_rdma_serve_open(struct mci_rdma *rdma);
void mci_rdma_serve_close(struct mci_rdma *rdma);
void mci_rdma_serve_incoming(struct mci_rdma *rdma, struct mci_incoming *in);
void mci_rdma_serve_gone(struct mci_rdma *rdma, const struct mci_region *region);
void mci_rdma_serve_ports(struct mci_rdma *rdma); /* a port changed: tell the initiators */

/* ---- initiator ---- */

struct mci_rdma_slot {		     /* a work request in flight */
	struct mci_request *request; /* NULL: a flush or a marker */
	uint64_t at;
	uint32_t length;
	uint8_t kind;
};
enum { MCI_RDMA_DATA, MCI_RDMA_FLUSH, MCI_RDMA_PROOF, MCI_RDMA_MARKER };

struct mci_rdma_queue {
	struct ibv_qp *qp;
	uint32_t psn;
	uint8_t index; /* in its endpoint */
	uint32_t head, tail; /* free running; head - tail are in flight */
	uint32_t unsignalled;
	bool drained;
	bool dirty; /* wrote since it was flushed */
	/* a chain that was built and not posted yet */
	unsigned int chained;
	struct ibv_send_wr wr[MCI_RDMA_CHAIN];
	struct ibv_sge sge[MCI_RDMA_CHAIN];
	struct mci_rdma_slot slot[MCI_RDMA_DEPTH];
};

enum mci_rdma_endpoint_state {
	MCI_RDMA_ASKED,	  /* CONNECT is on its way */
	MCI_RDMA_JOINING, /* it was answered: ours are being connected to the peer's, and are the join's meanwhile */
	MCI_RDMA_PROVING, /* a few bytes are being read through each queue pair */
	MCI_RDMA_UP,
	MCI_RDMA_BREAKING, /* queue pairs are in error, their work requests are being flushed */
	MCI_RDMA_FENCING,  /* ours are gone, the peer was asked to destroy his */
};

struct mci_rdma_endpoint {
	struct mci_rdma_peer *peer;
	struct mci_nic *device;
	uint8_t to; /* NIC of the peer */
	uint8_t state;
	uint8_t count;
	bool send_connect, send_drop; /* frames that the loop thread owes the peer */
	bool path_failed;	      /* leaves because the path does not work */
	bool confirmed, owes;	      /* classic: the peer has ended its side; writes of it have no answer */
	struct mci_rdma_join *join;   /* JOINING */
	struct mci_rdma_link *link;   /* classic: whose queue pairs these are */
	_Atomic bool evict;	      /* leave when idle */
	_Atomic bool settled;	      /* it has carried something, or nothing waits for it: it may be evicted */
	uint32_t number, stamp;	      /* its slot in the pool */
	uint32_t in_flight;	      /* work requests */
	uint64_t bytes;		      /* in flight */
	uint64_t step_at;	      /* when the present step takes too long */
	uint64_t flush_iova;	      /* what a flush reads in the peer */
	uint32_t flush_key;
	uint8_t own_gid[16], peer_gid[16]; /* what it was opened with */
	int error; /* why it breaks */
	_Atomic bool visited;
	struct mci_rdma_endpoint *next;		 /* of the peer */
	struct mci_rdma_endpoint *older, *newer; /* pool */
	struct mci_rdma_queue *queue[MCI_RDMA_QPS_MAX];
};

struct mci_rdma_rail {	     /* a pair of NICs */
	uint64_t rest_until; /* it failed: not before */
	uint64_t rest_ns;
	struct mci_rdma_endpoint *endpoint;
	bool excluded; /* not among those that were asked for */
	char *why;     /* how it failed the last time, or NULL */
};

enum { MCI_RDMA_DOWN, MCI_RDMA_CONNECTING, MCI_RDMA_LIVE };

/* Keys of a remote region; peer->lock. */
struct mci_rdma_remote {
	uint64_t iova, chunk;
	uint16_t chunks, devices;
	uint8_t state;	 /* below */
	uint8_t faults;	 /* accesses in a row that the peer's NIC refused */
	int error;	 /* REFUSED: why */
	uint32_t prefer; /* NICs of the peer that are near it, a bit each */
	uint32_t *key;
};
enum { MCI_RDMA_KEYS_NONE, MCI_RDMA_KEYS_ASKED, MCI_RDMA_KEYS_THERE, MCI_RDMA_KEYS_REFUSED };

struct mci_rdma_again { /* a slice to be sent anew */
	struct mci_request *request;
	uint64_t at;
	uint32_t length;
};

struct mci_rdma_peer {
	struct mci_rdma *rdma;
	void *cookie;
	_Atomic int refs;
	struct mci_remote_region *regions;
	unsigned int count;
	struct mci_loop *loop;
	struct mc_uuid session, target;
	uint32_t place; /* among those open to the same target; pool_lock */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint8_t state;
	bool closing;
	int error;	       /* of the last attempt to connect */
	char why[MCI_RDMA_SENTENCE + 1]; /* the last endpoint could not be opened */
	struct mci_rdma_classic_peer *classic; /* NULL: our dialect */
	struct mci_conn *conn; /* loop thread */
	bool conn_there;       /* under the lock: conn is live, or will be */
	bool dropping;
	bool unconfirmed;     /* something ended without the peer's word, since the last incarnation began */
	unsigned int fencing; /* threads that wait for that word */
	struct mci_rdma_remote *remote; /* by index in regions */
	struct mci_rdma_port port[MCI_RDMA_DEVICES_MAX];
	char port_name[MCI_RDMA_DEVICES_MAX][64];
	uint8_t ports;		    /* NICs of the peer */
	struct mci_rdma_rail *rail; /* [own device * MCI_RDMA_DEVICES_MAX + peer's] */
	unsigned int rail_count;
	struct mci_rdma_endpoint *endpoints;
	unsigned int breaking; /* endpoints that leave */
	struct mci_rdma_lane lane[MCI_RDMA_DEVICES_MAX]; /* by NIC of ours */
	bool probing, proven;  /* peer_open() waits for an endpoint; something came through one */
	bool asked_pool;       /* it could have used an endpoint, since this was last looked at */
	struct {
		struct mci_request *first, *last;
	} queue[2], flight;	      /* queue[0]: priority > 0 */
	struct mci_rdma_again *again; /* ring of slices to be sent anew */
	uint32_t again_first, again_count, again_size;
	_Atomic uint32_t pending; /* requests */
	uint64_t grace_at;	  /* 0, or when what ended in flight is cut off */

	/* loop thread: frames to be sent are found by flags */
	struct mci_task task;
	_Atomic bool posted;
	_Atomic bool ports_changed; /* of ours */
	bool ask_keys;		/* some region's keys are wanted anew */
	struct mci_timer timer;
	uint64_t timer_at;	 /* 0 = not armed */
	unsigned int connectors; /* threads that are not done yet */
	struct mci_reconnect reconnect;

	bool starving; /* pool_lock */
	struct mci_rdma_peer *starving_next, *peers_next;

	struct mc_uuid uuid;
	struct mci_secret secret;
	char name[MCI_NAME_MAX + 1];
	char **hosts;
	unsigned int host_count;
	uint16_t service_port;
};

#endif
