/* SPDX-License-Identifier: MIT */
/* The transfer engine: segments, regions, batches, notifies. */
#ifndef MOONCAKE_ENGINE_H
#define MOONCAKE_ENGINE_H

#include <mooncake/types.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* struct mc_engine_attr.flags */
#define MC_ENGINE_CLASSIC	(1u << 0)	/* also serve classic peers: raw addresses, no authentication */
#define MC_ENGINE_INSECURE	(1u << 1)	/* P2PHANDSHAKE beyond loopback without a cluster key */
#define MC_ENGINE_REQUIRE_ACK	(1u << 2)	/* refuse classic v1 peers, whose writes cannot be confirmed */
#define MC_ENGINE_INTEGRITY	(1u << 3)	/* TCP data rides TLS 1.3 keyed by the handshake secret */
#define MC_ENGINE_CHECKSUM	(1u << 4)	/* xxh3 over every TCP payload */
#define MC_ENGINE_PUBLISH_LATER	(1u << 5)	/* publish with the first region that peers may use, not at open */

/**
 * struct mc_engine_attr - how to open an engine
 * @size: sizeof(struct mc_engine_attr)
 * @flags: MC_ENGINE_* bits
 * @metadata: "etcd://h1:2379,h2:2379" (or bare "host:port"), "redis://h:6379",
 *            "http://h:8080/metadata", or "P2PHANDSHAKE"
 * @name: segment name, unique in the cluster; "host:port" also fixes the port; NULL = host name
 * @transports: comma list of "tcp", "shm", "rdma"; NULL or "auto" = all that this machine has
 * @bind: address to listen on; NULL = all, both families
 * @advertise: comma list of addresses to publish; NULL = by route to the metadata service
 * @key_file: cluster key; NULL = $MOONCAKE_KEY_FILE, else none
 * @config_file: YAML; NULL = $MOONCAKE_CONFIG, else none
 * @cluster_id: prefix of the metadata keys; NULL = $MC_METADATA_CLUSTER_ID
 * @port: port to listen on; 0 = the port in @name, else a free one in 15000-17000
 * @io_threads: threads that serve sockets; 0 = min(4, cores)
 * @streams: TCP connections per peer; 0 = automatic
 * @lease_ms: life of our metadata keys without renewal; 0 = 10000
 * @queue_depth: requests that may wait or be in flight per segment; 0 = 65536
 * @devices: comma list of RDMA NICs to use; NULL = all with an active port
 * @nic_matrix: NIC priority matrix, as JSON text or the name of a file that holds it; NULL = by topology
 */
struct mc_engine_attr {
	size_t size;
	uint32_t flags;
	uint16_t port;
	uint16_t reserved0;
	const char *metadata;
	const char *name;
	const char *transports;
	const char *bind;
	const char *advertise;
	const char *key_file;
	const char *config_file;
	const char *cluster_id;
	uint32_t io_threads;
	uint32_t streams;
	uint32_t lease_ms;
	uint32_t queue_depth;
	const char *devices;
	const char *nic_matrix;
	uint64_t reserved[6];
};

#define MC_ENGINE_ATTR_INIT { .size = sizeof(struct mc_engine_attr) }

int mc_engine_open(const struct mc_engine_attr *attr, mc_engine **engine);
int mc_engine_close(mc_engine *engine);
const char *mc_engine_name(const mc_engine *engine);
uint16_t mc_engine_port(const mc_engine *engine);
int mc_engine_uuid(const mc_engine *engine, struct mc_uuid *uuid);

/* Registration */

#define MC_REMOTE_READ	(1u << 0)
#define MC_REMOTE_WRITE	(1u << 1)

/**
 * struct mc_region_attr - how to register memory
 * @size: sizeof(struct mc_region_attr)
 * @rights: MC_REMOTE_* that peers have; 0 = local use only
 * @location: "cpu:0", "cuda:3"; NULL = found out
 * @memory: NULL, or the mc_memory that the range lies in (also found by address)
 */
struct mc_region_attr {
	size_t size;
	uint32_t rights;
	uint32_t reserved0;
	const char *location;
	mc_memory *memory;
	uint64_t reserved[4];
};

#define MC_REGION_ATTR_INIT \
	{ .size = sizeof(struct mc_region_attr), .rights = MC_REMOTE_READ | MC_REMOTE_WRITE }

#define MC_UNREGISTER_WAIT (1u << 0)	/* wait for transfers in flight instead of -EBUSY */

int mc_engine_register(mc_engine *engine, void *addr, uint64_t length,
		       const struct mc_region_attr *attr, mc_region **region);
int mc_engine_unregister(mc_region *region, uint32_t flags);
uint32_t mc_region_id(const mc_region *region);

/* Remote segments */

#define MC_SEGMENT_FOLLOW_RESTART (1u << 0)	/* a restarted peer's regions stand in for the old, by index */
#define MC_SEGMENT_TRY_RAILS	  (1u << 1)	/* try every pair of RDMA NICs, and open even if none gets through */

/**
 * struct mc_segment_attr - how to reach a segment
 * @size: sizeof(struct mc_segment_attr)
 * @flags: MC_SEGMENT_* bits; with MC_SEGMENT_TRY_RAILS mc_engine_paths() then says what came of each pair
 * @timeout_ms: 0 = 5000
 * @transports: narrower than the engine's, NULL = the engine's
 * @rails: pairs of RDMA NICs to use, "own:peer,own:peer"; NULL = all
 */
struct mc_segment_attr {
	size_t size;
	uint32_t flags;
	uint32_t timeout_ms;
	const char *transports;
	const char *rails;
	uint64_t reserved[3];
};

#define MC_SEGMENT_ATTR_INIT { .size = sizeof(struct mc_segment_attr) }

/**
 * struct mc_segment_region - a region that a remote segment offers
 * @id: region id, to be used in struct mc_remote
 * @rights: MC_REMOTE_* bits
 * @length: bytes
 * @base: address in the owner, for callers that speak in addresses; 0 if the owner hides it
 * @location: "cpu:0"; valid until mc_segment_close()
 * @path: transport that requests to it take: "tcp", "shm", "rdma", "tcp-classic", "rdma-classic"
 * @detail: how, e.g. "memfd mapped", "process_vm_readv", "4 streams"
 */
struct mc_segment_region {
	size_t size;
	uint32_t id;
	uint32_t rights;
	uint64_t length;
	uint64_t base;
	const char *location;
	const char *path;
	const char *detail;
	uint64_t reserved[4];
};

int mc_segment_open(mc_engine *engine, const char *name, const struct mc_segment_attr *attr,
		    mc_segment **segment);
int mc_segment_close(mc_segment *segment);
const char *mc_segment_name(const mc_segment *segment);
unsigned int mc_segment_region_count(const mc_segment *segment);
int mc_segment_region(const mc_segment *segment, unsigned int index, struct mc_segment_region *region);
int mc_segment_fence(mc_segment *segment, uint32_t timeout_ms);

/* Zero-copy read-only view of a region of a segment on this host. */
int mc_segment_map(mc_segment *segment, uint32_t region, uint64_t offset, uint64_t length,
		   const void **addr, mc_view **view);
int mc_view_close(mc_view *view);

/* Batches */

/** struct mc_remote - a place in a remote segment. */
struct mc_remote {
	uint32_t region;	/* region id, or MC_REGION_BY_ADDRESS */
	uint32_t reserved;
	uint64_t offset;	/* bytes from the region's start, or the owner's address */
};
#define MC_REGION_BY_ADDRESS UINT32_MAX

struct mc_submit_attr {
	size_t size;
	uint32_t timeout_ms;		/* from submit to deadline; 0 = 30000 */
	int32_t priority;		/* > 0: ahead of the others */
	uint32_t flags;			/* MC_SUBMIT_* */
	uint32_t notify_length;
	const char *notify_name;	/* NULL = none: sent to every segment of the batch once all is done */
	const void *notify_message;
	uint64_t reserved[4];
};

#define MC_SUBMIT_BLOCK (1u << 0)	/* wait for room instead of -EAGAIN */
#define MC_SUBMIT_ATTR_INIT { .size = sizeof(struct mc_submit_attr) }

int mc_batch_alloc(mc_engine *engine, unsigned int capacity, mc_batch **batch);
int mc_batch_add(mc_batch *batch, enum mc_op op, void *local, mc_segment *segment,
		 struct mc_remote remote, uint64_t length);
int mc_batch_submit(mc_batch *batch, const struct mc_submit_attr *attr);
int mc_batch_cancel(mc_batch *batch);
/* 0 = all final (look at each status), -ETIME = not yet (timeout_ms: -1 = for ever, bounded by the deadline) */
int mc_batch_wait(mc_batch *batch, int timeout_ms);
/* Number of requests still pending, or negative errno. */
int mc_batch_poll(mc_batch *batch);
int mc_batch_status(mc_batch *batch, unsigned int index, struct mc_status *status);
unsigned int mc_batch_count(const mc_batch *batch);
/* Of a final batch: 0 = its notify was delivered, or none was asked for. */
int mc_batch_notify_status(mc_batch *batch);
int mc_batch_reset(mc_batch *batch);
int mc_batch_free(mc_batch *batch);
void mc_batch_set_user(mc_batch *batch, void *user);
void *mc_batch_user(const mc_batch *batch);

/* Completion fd: readable (level-triggered) while mc_engine_completed() has a batch or notify to give,
 * or room came after -EAGAIN. */
int mc_engine_fd(mc_engine *engine);
/* Next batch that became final since mc_engine_fd() was first called; -EAGAIN = none. */
int mc_engine_completed(mc_engine *engine, mc_batch **batch);

/* Notifies: at most 64 KiB each. */
#define MC_NOTIFY_NAME_MAX	255
#define MC_NOTIFY_MESSAGE_MAX	65536

struct mc_notify {
	size_t size;
	char name[MC_NOTIFY_NAME_MAX + 1];
	char *message;		/* owned by the caller after mc_notify_recv(): free() */
	uint32_t length;
	uint32_t reserved0;
	struct mc_uuid sender;
	uint64_t sequence;
};

int mc_notify_send(mc_segment *segment, const char *name, const void *message, uint32_t length,
		   uint32_t timeout_ms);
/* timeout_ms 0 = do not wait. -EAGAIN = none. */
int mc_notify_recv(mc_engine *engine, struct mc_notify *notify, uint32_t timeout_ms);

/* Figures */

struct mc_engine_stats {
	size_t size;
	uint64_t requests, requests_done, requests_failed, requests_timed_out, requests_cancelled;
	uint64_t requests_unconfirmed, requests_stale;
	uint64_t bytes_read, bytes_written;		/* as initiator */
	uint64_t served_reads, served_writes, served_bytes_read, served_bytes_written;	/* as target */
	uint64_t refused;		/* as target: out of bounds, stale, wrong uuid, without rights */
	uint64_t refused_connections;	/* garbage, wrong key, too many, too slow */
	uint64_t reconnects, resent_requests;
	uint64_t notifies_sent, notifies_received;
	uint64_t data_path_allocs;	/* heap allocations on the data path; stands still once warm */
	uint64_t reserved[8];
};
int mc_engine_stats(mc_engine *engine, struct mc_engine_stats *stats);

/* The ways to each open segment as a JSON array; free() it. */
int mc_engine_paths(mc_engine *engine, char **json);

/* The RDMA NICs in use, and which GID each speaks with and why, as a JSON array; free() it. */
int mc_engine_nics(mc_engine *engine, char **json);

/* CPU seconds a peer's process has used so far, as it says itself; for benches. */
int mc_segment_cpu_seconds(mc_segment *segment, double *seconds);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
