/* SPDX-License-Identifier: MIT */
/* The subcommands of `mooncake`, and what they share. */
#ifndef TOOLS_MOONCAKE_COMMANDS_H
#define TOOLS_MOONCAKE_COMMANDS_H

#include <jansson.h>

#include <mooncake/mooncake.h>

#include "common/options.h"
#include "common/output.h"
#include "common/settings.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit status */
	const char *help;
};

/*
 * Run the command that argv[1] names. @tool: what was typed up to here ("mooncake segment"); @table ends with
 * an entry without a name. --help and help list the table; an unknown name is answered with the nearest.
 */
int command_dispatch(const char *tool, const char *summary, const struct command *table, int argc,
		     char **argv);

int cmd_bench(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_key(int argc, char **argv);
int cmd_memory(int argc, char **argv);
int cmd_metadata(int argc, char **argv);
int cmd_p2p(int argc, char **argv);
int cmd_segment(int argc, char **argv);
int cmd_topology(int argc, char **argv);

/* Flags of those that look into the metadata service; put SERVICE_FLAGS into a table. */
struct service_flags {
	const char *metadata_server, *config, *key_file, *cluster_id;
};
extern struct service_flags service;

#define SERVICE_FLAGS                                                                              \
	{ .name = "metadata_server",                                                               \
	  .type = OPT_TEXT,                                                                        \
	  .value = &service.metadata_server,                                                       \
	  .group = "Which cluster",                                                                \
	  .help = "etcd://host:port[,host:port], redis://host:port, http://host:port/metadata or " \
		  "P2PHANDSHAKE; "                                                                 \
		  "from the configuration if not given" },                                         \
		{ .name = "key_file",                                                              \
		  .type = OPT_TEXT,                                                                \
		  .value = &service.key_file,                                                      \
		  .help = "cluster key; $MOONCAKE_KEY_FILE if not given" },                        \
		{ .name = "cluster_id",                                                            \
		  .type = OPT_TEXT,                                                                \
		  .value = &service.cluster_id,                                                    \
		  .help = "prefix of the metadata keys; $MC_METADATA_CLUSTER_ID if not given" },   \
	{                                                                                          \
		.name = "config", .type = OPT_TEXT, .value = &service.config,                      \
		.help = "YAML file with settings; $MOONCAKE_CONFIG if not given"                   \
	}

void service_attr(struct mc_engine_attr *attr);
/* An engine to look at others with, under a name of its own: nobody is to be disturbed by a look. */
int service_engine(bool insecure, const char *transports, const char *devices, mc_engine **engine);
/* The library's sentence; exit status 2 if what was given is wrong or missing, else 1. */
int service_error(int ret);

/* Print @value as JSON on stdout and free it; 0 or 1. */
int print_json(json_t *value);
/* Text of the library, made ours: NULL (with an error printed) if it is no JSON. */
json_t *take_json(char *text);

#endif
