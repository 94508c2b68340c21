// SPDX-License-Identifier: MIT
/* What subcommands share: the flags that say which cluster, and JSON on its way to stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Read once: all that ask in one run ask about the same file. */
static json_t *all_settings(const char *path)
{
	static json_t *list;
	char *text;

	if (!list && !mc_config_show(path, &text)) {
		list = json_loads(text, 0, NULL);
		free(text);
	}
	return list;
}

char *setting_text(const char *path, const char *key)
{
	json_t *item;
	size_t i;

	json_array_foreach(all_settings(path), i, item)
	{
		const char *name = json_string_value(json_object_get(item, "key"));
		json_t *value = json_object_get(item, "value");

		if (!name || strcmp(name, key) || json_is_null(value))
			continue;
		return json_is_string(value) ? strdup(json_string_value(value))
					     : json_dumps(value, JSON_ENCODE_ANY);
	}
	return NULL;
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
