/* SPDX-License-Identifier: MIT */
/* For tools and administrators: keys, configuration, topology, metadata service. */
#ifndef MOONCAKE_ADMIN_H
#define MOONCAKE_ADMIN_H

#include <mooncake/engine.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Cluster key: 32 random bytes as hex in a file of mode 0600; -EEXIST if @path exists. */
int mc_key_create(const char *path);
/* Id to compare keys by, without showing them: 16 hex digits and a NUL. */
int mc_key_id(const char *path, char id[17]);
/* Bearer token of a role ("metrics", "metadata", "admin") derived from the key: 64 hex digits and a NUL. */
int mc_key_bearer(const char *path, const char *role, char bearer[65]);

/* Load @path as the engine would; 0 or a negative errno with a sentence that names file, line and key. */
int mc_config_check(const char *path);
/* Every setting with value, origin and help, as a JSON array; free() it. @path may be NULL. */
int mc_config_show(const char *path, char **json);

/* Everything known of the memories of one name, as a JSON array (usually of one); free() it. */
int mc_memory_show(const char *name, char **json);
/* The kernel module as this process sees it: loaded?, usable?, version, features, limits; free() the JSON. */
int mc_module_show(char **json);

/* NUMA nodes, NICs (netdevs, RDMA devices), GPUs, distances, as JSON; free() it. */
int mc_topology_show(char **json);

/* Keys of the metadata service. Tokens come redacted. Needs only @attr's metadata and security members. */
int mc_metadata_get(const struct mc_engine_attr *attr, const char *key, char **value);
int mc_metadata_list(const struct mc_engine_attr *attr, const char *prefix,
		     int (*fn)(const char *key, const char *value, void *arg), void *arg);
/* Prefix of segment records under @attr's cluster id, e.g. "mooncake/ram/"; free() it. */
int mc_metadata_segment_prefix(const struct mc_engine_attr *attr, char **prefix);

/* The metadata server of mooncake-metadata-server, embeddable. */
typedef struct mc_metadata_server mc_metadata_server;

/**
 * struct mc_metadata_server_attr - how to serve
 * @bind: address; NULL = 127.0.0.1
 * @port: 0 = a free one (see mc_metadata_server_port())
 * @log_file: NULL, or an append-only file that keeps the keys over a restart
 * @key_file: cluster key: requests must carry the bearer token of role "metadata"
 * @cert_file, @cert_key_file: TLS
 * @max_bytes: of all keys and values together; 0 = 1 GiB
 */
struct mc_metadata_server_attr {
	size_t size;
	uint32_t flags;
	uint16_t port;
	uint16_t reserved0;
	const char *bind;
	const char *log_file;
	const char *key_file;
	const char *cert_file;
	const char *cert_key_file;
	uint64_t max_bytes;
	uint64_t reserved[8];
};
#define MC_METADATA_SERVER_INSECURE (1u << 0)	/* beyond loopback without a cluster key */
#define MC_METADATA_SERVER_ATTR_INIT { .size = sizeof(struct mc_metadata_server_attr) }
int mc_metadata_server_open(const struct mc_metadata_server_attr *attr, mc_metadata_server **server);
uint16_t mc_metadata_server_port(const mc_metadata_server *server);
int mc_metadata_server_close(mc_metadata_server *server);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
