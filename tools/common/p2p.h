/* SPDX-License-Identifier: MIT */
/* What p2p-store-example and "mooncake p2p" share: flags, the store, a fetch with its progress, signals. */
#ifndef TOOLS_COMMON_P2P_H
#define TOOLS_COMMON_P2P_H

#include <signal.h>
#include <stdbool.h>

#include <mooncake/mooncake.h>
#include <mooncake/p2p.h>

struct p2p_options {
	const char *metadata_server, *local_server_name, *protocol, *device_name, *nic_priority_matrix;
	const char *key_file, *cluster_id, *config, *bind, *advertise, *peers;
	bool classic, insecure, auto_discovery;
	bool metadata_given, device_given;
	uint64_t timeout_ms, stall_ms;
};

/* Flags of both; put into a table. @o is a struct p2p_options. */
#define P2P_FLAGS(o)                                                                                         \
	{.name = "local_server_name",                                                                        \
	 .type = OPT_TEXT,                                                                                   \
	 .value = &(o).local_server_name,                                                                    \
	 .help = "name of our own segment, unique in the cluster; host:port also fixes the port; the host "  \
		 "name, or "                                                                                 \
		 "one with a free port, if not given",                                                       \
	 .group = "Who and where"},                                                                          \
		{.name = "peers",                                                                            \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).peers,                                                                        \
		 .help = "without a metadata service: comma list of segments to ask, host:port each"},       \
		{.name = "key_file",                                                                         \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).key_file,                                                                     \
		 .help = "cluster key, as \"mooncake key new\" writes it; $MOONCAKE_KEY_FILE if not given"}, \
		{.name = "cluster_id",                                                                       \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).cluster_id,                                                                   \
		 .help = "prefix of the metadata keys; $MC_METADATA_CLUSTER_ID if not given"},               \
		{.name = "config",                                                                           \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).config,                                                                       \
		 .help = "YAML file with settings; $MOONCAKE_CONFIG if not given"},                          \
		{.name = "bind",                                                                             \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).bind,                                                                         \
		 .help = "address to listen on; all if not given"},                                          \
		{.name = "advertise",                                                                        \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).advertise,                                                                    \
		 .help = "addresses to publish, comma-separated; by the route to the metadata service if "   \
			 "not given"},                                                                       \
		{.name = "insecure",                                                                         \
		 .type = OPT_BOOL,                                                                           \
		 .value = &(o).insecure,                                                                     \
		 .help = "serve P2PHANDSHAKE beyond this host without a cluster key"},                       \
		{.name = "classic",                                                                          \
		 .type = OPT_BOOL,                                                                           \
		 .value = &(o).classic,                                                                      \
		 .help = "also write and read the records of the classic P2P store, and serve its clients, " \
			 "without "                                                                          \
			 "authentication"},                                                                  \
		{.name = "protocol",                                                                         \
		 .type = OPT_CHOICE,                                                                         \
		 .value = &(o).protocol,                                                                     \
		 .def = "auto",                                                                              \
		 .choices = "auto|tcp|rdma|shm",                                                             \
		 .help = "way of the bytes; auto: the best that both sides have",                            \
		 .group = "Path"},                                                                           \
		{.name = "device_name",                                                                      \
		 .type = OPT_TEXT,                                                                           \
		 .value = &(o).device_name,                                                                  \
		 .help = "RDMA devices, comma-separated; all with an active port if not given",              \
		 .given = &(o).device_given},                                                                \
	{                                                                                                    \
		.name = "nic_priority_matrix", .type = OPT_TEXT, .value = &(o).nic_priority_matrix,          \
		.help = "JSON file {\"cpu:0\": [[preferred], [others]]}: which NICs are near which memory"   \
	}

/* Blocks SIGINT and SIGTERM in this and all later threads; first call of main(). */
void p2p_block_signals(void);
/* Waits so long for one of them: true, it came. */
bool p2p_signalled(double seconds);

/* 0, or the exit status (1, 2) after a sentence. */
int p2p_open(const struct p2p_options *o, mc_p2p **store);
/* 0, or 1 after a warning. */
int p2p_close(mc_p2p *store);

/* "foo/bar [######    ] 61 % of 2 GiB, 1.20 GB/s, 5 sources", on a terminal. */
void p2p_show_progress(const char *name, const struct mc_p2p_progress *progress);

/*
 * Waits for @task, shows its progress, cancels it on a signal; what it has to tell meanwhile (who is avoided,
 * what is waited for) goes to stderr once. Frees the task. 0, or its negative errno after a sentence
 * (none for -ENOENT if @may_lack); -EINTR after a signal.
 */
int p2p_fetch(const char *name, mc_p2p_task *task, bool may_lack, struct mc_p2p_progress *last);

#endif
