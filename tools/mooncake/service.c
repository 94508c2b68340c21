// SPDX-License-Identifier: MIT
/* What subcommands share: the flags that say which cluster, and JSON on its way to stdout. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"

struct service_flags service;

void service_attr(struct mc_engine_attr *attr)
{
	*attr = (struct mc_engine_attr)MC_ENGINE_ATTR_INIT;
	attr->metadata = service.metadata_server;
	attr->config_file = service.config;
	attr->key_file = service.key_file;
	attr->cluster_id = service.cluster_id;
}

int service_engine(bool insecure, const char *transports, const char *devices, mc_engine **engine)
{
	struct mc_engine_attr attr;
	char host[200] = "localhost", name[256], *uri;
	int ret;

	service_attr(&attr);
	attr.flags = insecure ? MC_ENGINE_INSECURE : 0;
	attr.transports = transports;
	attr.devices = devices;
	uri = service.metadata_server ? strdup(service.metadata_server)
				      : setting_text(service.config, "engine.metadata");
	gethostname(host, sizeof(host) - 1);
	snprintf(name, sizeof(name), "%s-look-%d", host, (int)getpid());
	if (uri && strcmp(uri, "P2PHANDSHAKE"))
		attr.name = name;
	ret = mc_engine_open(&attr, engine);
	free(uri);
	return ret;
}

int service_error(int ret)
{
	out_error("%s", mc_errmsg());
	return ret == -EINVAL ? OPT_EXIT_USAGE : 1;
}

int print_json(json_t *value)
{
	int bad = !value || json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);

	json_decref(value);
	if (bad)
		return out_error("no memory for the JSON text, or standard output cannot be written");
	putchar('\n');
	return 0;
}

json_t *take_json(char *text)
{
	json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

	free(text);
	if (!value)
		out_error("the library's answer is no JSON");
	return value;
}
