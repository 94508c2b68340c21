// SPDX-License-Identifier: MIT
/* Settings for tools. Used by the main thread. */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include <mooncake/admin.h>

#include "settings.h"

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
