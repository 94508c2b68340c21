// SPDX-License-Identifier: MIT
/* Every setting that exists. Order is that of `mooncake config show`. */
#include "core/settings.h"

/* clang-format off */
#define TEXT_OLD(key, fallback, env, classic, classic_old, help) \
	{ key, MCI_SETTING_TEXT, fallback, env, classic, 0, 0, help, NULL, false, classic_old }
#define TEXT(key, fallback, env, classic, help) TEXT_OLD(key, fallback, env, classic, NULL, help)
#define SECRET(key, env, classic, help) \
	{ key, MCI_SETTING_TEXT, NULL, env, classic, 0, 0, help, NULL, true, NULL }
#define CHOICE(key, fallback, env, classic, choices, help) \
	{ key, MCI_SETTING_TEXT, fallback, env, classic, 0, 0, help, choices, false, NULL }
#define NUMBER_OLD(key, fallback, env, classic, min, max, classic_old, help) \
	{ key, MCI_SETTING_NUMBER, fallback, env, classic, min, max, help, NULL, false, classic_old }
#define NUMBER(key, fallback, env, classic, min, max, help) \
	NUMBER_OLD(key, fallback, env, classic, min, max, NULL, help)
#define BOOL(key, fallback, env, classic, help) \
	{ key, MCI_SETTING_BOOL, fallback, env, classic, 0, 0, help, NULL, false, NULL }

const struct mci_setting mci_setting_table[] = {
	TEXT("engine.metadata", NULL, "MOONCAKE_METADATA", NULL,
	     "metadata service: etcd://h1:2379,h2:2379, redis://h:6379, http://h:8080/metadata or P2PHANDSHAKE"),
	TEXT("engine.name", NULL, "MOONCAKE_NAME", NULL,
	     "segment name, unique in the cluster; unset = host name"),
	TEXT("engine.transports", "auto", "MOONCAKE_TRANSPORTS", NULL,
	     "comma list of tcp, shm, rdma; auto = all that are there"),
	TEXT("engine.bind", NULL, "MOONCAKE_BIND", NULL, "address to listen on; unset = all"),
	TEXT("engine.advertise", NULL, "MOONCAKE_ADVERTISE", NULL,
	     "comma list of addresses to publish; unset = by route to the metadata service"),
	NUMBER("engine.port", "0", "MOONCAKE_PORT", NULL, 0, 65535,
	       "port to listen on; 0 = a free one of the range"),
	NUMBER_OLD("engine.port_low", "15000", "MOONCAKE_PORT_LOW", "MC_MIN_RPC_PORT", 1024, 65535,
	       "MC_MIN_PRC_PORT", "first port of the range"),
	NUMBER_OLD("engine.port_high", "17000", "MOONCAKE_PORT_HIGH", "MC_MAX_RPC_PORT", 1024, 65535,
	       "MC_MAX_PRC_PORT", "last port of the range"),
	NUMBER("engine.io_threads", "0", "MOONCAKE_IO_THREADS", NULL, 0, 256,
	       "threads that serve sockets; 0 = min(4, cores)"),
	NUMBER("engine.streams", "0", "MOONCAKE_STREAMS", "MC_TCP_LANES_PER_PEER", 0, 64,
	       "TCP connections per peer; 0 = automatic"),
	NUMBER("engine.slice_size", "0", "MOONCAKE_SLICE_SIZE", NULL, 0, 64 << 20,
	       "bytes of a slice of a large request; 0 = automatic"),
	NUMBER("engine.lease_ms", "10000", "MOONCAKE_LEASE_MS", NULL, 1000, 3600000,
	       "life of our metadata keys without renewal"),
	NUMBER("engine.queue_depth", "65536", "MOONCAKE_QUEUE_DEPTH", NULL, 1, 16 << 20,
	       "requests that may wait or be in flight per segment"),
	NUMBER("engine.serve_bytes", "1073741824", "MOONCAKE_SERVE_BYTES", NULL, 1 << 20, 1ull << 40,
	       "bytes of memory that connections of peers may hold here, all together; one host gets half of it"),
	NUMBER("engine.serve_bytes_per_peer", "67108864", "MOONCAKE_SERVE_BYTES_PER_PEER", NULL, 1 << 20, 1ull << 40,
	       "bytes of memory that the connections of one peer may hold here"),
	NUMBER("engine.timeout_ms", "30000", "MOONCAKE_TIMEOUT_MS", NULL, 1, 86400000,
	       "deadline of a batch that names none"),
	BOOL("engine.classic", "false", "MOONCAKE_CLASSIC", NULL,
	     "also serve classic peers: raw addresses, no authentication"),
	BOOL("engine.insecure", "false", "MOONCAKE_INSECURE", NULL,
	     "P2PHANDSHAKE beyond loopback without a cluster key"),
	BOOL("engine.require_ack", "false", "MOONCAKE_REQUIRE_ACK", NULL,
	     "refuse classic v1 peers, whose writes cannot be confirmed"),
	BOOL("engine.integrity", "false", "MOONCAKE_INTEGRITY", NULL, "TCP data rides TLS 1.3"),
	BOOL("engine.checksum", "false", "MOONCAKE_CHECKSUM", NULL, "xxh3 over every TCP payload"),

	TEXT("security.key_file", NULL, "MOONCAKE_KEY_FILE", NULL,
	     "cluster key; `mooncake key new` writes one"),
	TEXT("security.cert_file", NULL, "MOONCAKE_CERT_FILE", NULL, "certificate, PEM"),
	TEXT("security.cert_key_file", NULL, "MOONCAKE_CERT_KEY_FILE", NULL,
	     "private key of the certificate, PEM"),
	TEXT("security.ca_file", NULL, "MOONCAKE_CA_FILE", NULL,
	     "certificates to trust, PEM; unset = the system's"),

	TEXT("metadata.user", NULL, "MOONCAKE_METADATA_USER", NULL, "etcd user"),
	SECRET("metadata.password", "MOONCAKE_METADATA_PASSWORD", NULL, "etcd password"),
	TEXT("metadata.redis_user", NULL, "MOONCAKE_REDIS_USER", "MC_REDIS_USERNAME", "redis user"),
	SECRET("metadata.redis_password", "MOONCAKE_REDIS_PASSWORD", "MC_REDIS_PASSWORD", "redis password"),
	NUMBER("metadata.redis_db", "0", "MOONCAKE_REDIS_DB", "MC_REDIS_DB_INDEX", 0, 255,
	       "redis database"),
	TEXT("metadata.cluster_id", NULL, "MOONCAKE_CLUSTER_ID", "MC_METADATA_CLUSTER_ID",
	     "prefix of the metadata keys, for several clusters on one service"),
	BOOL("metadata.use_proxy", "false", "MOONCAKE_USE_PROXY", NULL,
	     "reach the metadata service through http_proxy and friends"),
	NUMBER("metadata.timeout_ms", "3000", "MOONCAKE_METADATA_TIMEOUT_MS", NULL, 100, 600000,
	       "for one request to the metadata service, over all endpoints"),

	CHOICE("memory.module", "auto", "MOONCAKE_MODULE", NULL, "auto|off",
	       "kernel module: auto = use it for memory and on one host where it is there"),

	TEXT("tcp.bind_address", NULL, "MOONCAKE_TCP_BIND_ADDRESS", "MC_TCP_BIND_ADDRESS",
	     "address that TCP connections use at this end; unset = by route"),

	TEXT("rdma.devices", NULL, "MOONCAKE_RDMA_DEVICES", "MC_TE_FILTERS",
	     "comma list of NICs to use; unset = all with an active port"),
	TEXT("rdma.matrix", NULL, "MOONCAKE_RDMA_MATRIX", NULL,
	     "file with the NIC priority matrix (`mooncake topology --matrix`); unset = by topology"),
	TEXT_OLD("rdma.gid_index", "auto", "MOONCAKE_RDMA_GID_INDEX", "MC_GID_INDEX", "NCCL_IB_GID_INDEX",
	     "GID of each port; auto = RoCE v2 over IPv4 if there is one"),
	NUMBER("rdma.port", "1", "MOONCAKE_RDMA_PORT", "MC_IB_PORT", 1, 255, "port of each NIC"),
	NUMBER("rdma.pkey_index", "0", "MOONCAKE_RDMA_PKEY_INDEX", "MC_PKEY_INDEX", 0, 65535,
	       "partition key of each port"),
	NUMBER("rdma.mtu", "0", "MOONCAKE_RDMA_MTU", "MC_MTU", 0, 4096,
	       "path MTU in bytes: 256 to 4096; 0 = the smaller of both ports"),
	TEXT("rdma.traffic_class", "auto", "MOONCAKE_RDMA_TRAFFIC_CLASS", "MC_IB_TC",
	     "traffic class of packets, 0 to 255; auto = the NIC's"),
	NUMBER("rdma.service_level", "0", "MOONCAKE_RDMA_SERVICE_LEVEL", "MC_IB_SL", 0, 15,
	       "InfiniBand service level"),
	NUMBER("rdma.timeout", "14", "MOONCAKE_RDMA_TIMEOUT", NULL, 1, 31,
	       "4.096 us * 2^N until the NIC sends a packet again; 6 times, then the path counts as dead"),
	NUMBER("rdma.endpoints_max", "256", "MOONCAKE_RDMA_ENDPOINTS_MAX", "MC_MAX_EP_PER_CTX", 1, 65536,
	       "connections to NICs of peers that are held at a time; more than 4096 counts as 4096"),
	NUMBER("rdma.qps", "0", "MOONCAKE_RDMA_QPS", "MC_NUM_QP_PER_EP", 0, 8,
	       "queue pairs of each such connection; 0 = automatic: 1, and 2 with classic peers"),

	CHOICE("log.level", "warning", "MOONCAKE_LOG", "MC_LOG_LEVEL", "error|warning|info|debug",
	       "what is logged"),
	{ NULL, MCI_SETTING_TEXT, NULL, NULL, NULL, 0, 0, NULL, NULL, false, NULL },
};
/* clang-format on */
