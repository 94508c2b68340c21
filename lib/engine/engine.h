/* SPDX-License-Identifier: MIT */
/*
 * Inside of the engine: the structures its files share.
 *
 * Lock order: engine->roles_lock, then what the handler of a role takes; segment->notify_lock >
 * segment->refresh_lock > engine->publish_lock > engine->lock > (leaf)
 * engine->done_lock. Transports are called with none of them held, except region_add() and describe()
 * (publish_lock).
 */
#ifndef MCI_ENGINE_H
#define MCI_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include <mooncake/engine.h>
#include <mooncake/memory.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/settings.h"
#include "engine/descriptor.h"
#include "metadata/metadata.h"
#include "net/connect.h"
#include "net/service.h"
#include "transport/transport.h"

#define MCI_MAX_ADDRESSES 8
#define MCI_CONNECT_TIMEOUT_MS 3000
#define MCI_PROBE_TIMEOUT_MS 1000

/* One registered range. */
struct mc_region {
	struct mci_region base; /* first: transports see only this */
	struct mc_engine *engine;
	struct mc_memory *memory; /* held, or NULL */
	json_t *json;		  /* its object in the descriptor, with the transports' members */
	struct mc_region *next;
	bool retired; /* a waiting unregister failed once: repeat it */
};

struct mci_batch_list {
	struct mc_batch *first, *last;
};

struct mci_notify_item {
	struct mc_notify notify;
	struct mci_notify_item *next;
};

struct mci_counters {
	_Atomic uint64_t requests, done, failed, timed_out, cancelled, unconfirmed, stale;
	_Atomic uint64_t bytes_read, bytes_written, notifies_sent, notifies_received, allocs;
};

struct mci_role_handler { /* of connections for what is built on the engine */
	void (*incoming)(void *arg, struct mci_incoming *in);
	void *arg;
};

struct mc_engine {
	unsigned int fork_epoch;
	uint32_t flags;
	uint32_t queue_depth;
	uint32_t timeout_ms;
	uint32_t lease_ms;
	struct mci_settings *settings;
	char metadata_shown[512]; /* the URI, without a password */
	char *metadata_uri, *cluster_id, *bind, *transports_wanted;
	char *rdma_devices, *rdma_matrix;
	bool bind_chosen; /* @bind is our choice, nobody asked for it */
	enum mci_metadata_kind kind;
	struct mci_metadata *metadata; /* NULL with P2PHANDSHAKE */
	struct mci_secret cluster;     /* mode CLUSTER, or NONE = no key */
	struct mci_identity self;
	struct mci_identity first_self; /* what the services show until the name is finished */
	struct mc_uuid boot_id;
	char *addresses[MCI_MAX_ADDRESSES];
	unsigned int address_count;
	uint16_t port;
	struct mci_loops loops;
	struct mci_service *service, *local_service; /* local: unix socket of P2PHANDSHAKE without a key */
	struct mci_transport_host host;
	struct mci_transport *transport[MCI_TRANSPORT_COUNT];

	pthread_rwlock_t roles_lock; /* read: a handler runs */
	struct mci_role_handler roles[MCI_ROLES];

	pthread_mutex_t publish_lock; /* descriptor text, region list, publication */
	struct mc_region *regions;
	char *descriptor; /* as published, also served to P2P peers; changed under both locks */
	bool published, publish_later;
	unsigned int publish_held; /* many regions come and go: one publication at the end */
	bool publish_due;
	_Atomic bool lost; /* another process took our name */

	pthread_mutex_t lock; /* segments, control connections; held briefly */
	struct mci_control_conn *controls;
	struct mc_segment *segments;
	unsigned int batches; /* allocated ones; close refuses while there are any */
	unsigned int open_regions;

	pthread_mutex_t done_lock; /* completion fd, finished batches, notifies */
	pthread_cond_t notify_arrived;
	int done_fd; /* -1 until asked for */
	bool done_signalled, room_wanted, room_came;
	struct mci_batch_list done;
	struct mci_notify_item *notify_first, *notify_last;
	unsigned int notify_count;
	uint64_t notify_bytes;	     /* of their messages */
	_Atomic uint32_t room_epoch; /* futex: bumped when a request ended while somebody waits for room */
	_Atomic uint32_t room_waiters;

	struct mci_counters counters;
};

struct mci_way { /* a transport's peer for this segment; its address is the cookie */
	struct mc_segment *segment;
	const struct mci_transport_ops *ops; /* NULL = not open */
	struct mci_peer *peer;
	struct mc_uuid uuid; /* of the process that its regions' ids belong to; refresh_lock */
};

struct mc_segment {
	struct mc_engine *engine;
	struct mc_segment *next;
	char name[MCI_NAME_MAX + 1];
	uint32_t flags;
	char *rails;   /* pairs of NICs to use, NULL = all */
	uint32_t refs; /* batches that name it; engine->lock */
	_Atomic bool stale;
	_Atomic uint64_t in_flight;
	bool has_ours, classic; /* what the descriptor holds; what we speak */
	struct mci_remote_region *regions;
	uint32_t *region_id;	     /* per region: the id that callers know, stable over a refresh */
	struct mci_way **region_way; /* per region; NULL = not reachable; set under refresh_lock */
	unsigned int region_count;
	struct mci_way way[MCI_TRANSPORT_COUNT]; /* ways in order of preference */
	unsigned int way_count;
	struct mci_way notify_way;    /* opened on demand if no way carries notifies; notify_lock */
	pthread_mutex_t notify_lock;  /* before refresh_lock */
	pthread_mutex_t refresh_lock; /* info below */
	struct mci_descriptor *descriptor;
	struct mci_secret secret;
	char *hosts[MCI_MAX_ADDRESSES];
	unsigned int host_count;
	uint16_t port;
	struct mc_uuid uuid;
	uint64_t generation;
	uint64_t restarts;
	struct mc_uuid reborn; /* the restarted peer that has not registered all its memory yet */
	uint64_t reborn_ns;    /* when it was first seen */
	char region_text[128]; /* detail of the last mc_segment_region() */
};

/* What a name leads to. */
struct mci_resolved {
	struct mci_descriptor *descriptor;
	struct mci_secret secret;
	char *hosts[MCI_MAX_ADDRESSES];
	unsigned int host_count;
	uint16_t port;
};

/* open.c: one more connection to the metadata service, or NULL with P2PHANDSHAKE */
int mci_metadata_connect(struct mc_engine *engine, struct mci_metadata **metadata);

/* role.c */
void mci_role_incoming(struct mc_engine *engine, struct mci_incoming *in);

/* fork.c */
unsigned int mci_fork_epoch(void);
#define mci_forked(engine) ((engine)->fork_epoch != mci_fork_epoch())
int mci_fork_fail(void);

/* address.c */
bool mci_bind_is_any(const struct mc_engine *engine); /* asked to listen on all addresses, by naming "any" */
int mci_addresses_choose(struct mc_engine *engine, const char *advertise, const char *name_host);

/* transports.c: by id; NULL = not in this build */
extern const struct mci_transport_ops *const mci_transports[MCI_TRANSPORT_COUNT];

/* rdma_options.c: -EINVAL with a sentence. What it points to is the engine's. */
int mci_rdma_options(struct mc_engine *engine, const struct mc_engine_attr *attr, struct mci_rdma_options *options);

/* resolve.c */
int mci_segment_resolve(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
			struct mci_resolved *out);
/* Where a record says that its process is, whatever key it was written under; @out->secret is ours. */
int mci_segment_locate(struct mc_engine *engine, const char *text, size_t length, struct mci_resolved *out);
/* Host and port of the classic rpc record of @name, added to @out. */
int mci_segment_rpc_meta(struct mc_engine *engine, const char *name, struct mci_resolved *out);
void mci_resolved_release(struct mci_resolved *resolved);
int mci_segment_lookup(void *engine, const char *name, uint64_t deadline_ns, json_t **descriptor); /* host->lookup */

/* publish.c */
int mci_publish_start(struct mc_engine *engine);
int mci_publish_update(struct mc_engine *engine); /* publish_lock held */
void mci_publish_stop(struct mc_engine *engine);
int mci_publish_again(void *engine); /* host->publish */
char *
mci_publish_text(struct mc_engine *engine); /* copy of the descriptor, or NULL; never waits for the service */
bool mci_metadata_is_remote(const struct mc_engine *engine);

/* control.c: role CONTROL */
enum mci_control { MCI_CONTROL_DESCRIBE = 1, MCI_CONTROL_STATS = 2, MCI_CONTROL_ERROR = 0xffff };
#define MCI_CONTROL_REPLY 0x8000
void mci_control_incoming(struct mc_engine *engine, struct mci_incoming *in);
void mci_control_stop(struct mc_engine *engine); /* the services are stopped */
/* One question over a fresh connection; *body is malloc'd. */
int mci_control_ask(struct mc_engine *engine, const struct mci_connect_attr *attr, enum mci_control what,
		    void **body, uint32_t *length, struct mci_identity *peer);
void mci_p2p_socket_name(uint16_t port, char *name, size_t size);

/* segment.c */
bool mci_transport_listed(const char *list, const char *word); /* a comma list; NULL or "auto": all */
int mci_segment_refresh(void *engine, void *cookie, uint64_t deadline_ns,
			int (*use)(void *arg, const struct mci_peer_info *info), void *arg);
int mci_segment_notify_way(struct mc_segment *segment, struct mci_way **way);
void mci_segment_ref(struct mc_segment *segment);
void mci_segment_unref(struct mc_segment *segment);

/* batch.c */
void mci_batch_complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
			uint32_t flags);

/* completion.c */
void mci_completion_push(struct mc_batch *batch); /* a batch became final */
void mci_completion_unlink(struct mc_batch *batch);
void mci_completion_room(struct mc_engine *engine);
void mci_completion_want_room(struct mc_engine *engine);
int mci_notify_arrived(void *engine, const struct mc_uuid *sender, uint64_t sequence, const void *p,
		       uint32_t length);
void mci_notify_drop_all(struct mc_engine *engine);

#endif
