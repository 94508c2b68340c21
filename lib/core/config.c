// SPDX-License-Identifier: MIT
/* mc_config_*: settings as tools show them. No state. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include <mooncake/admin.h>

#include "core/errors.h"
#include "core/settings.h"

/**
 * mc_config_check() - load a configuration as the engine would, the environment included
 * @path: NULL = $MOONCAKE_CONFIG, else defaults
 *
 * Return: 0; -ENOENT, -EACCES, -EFBIG: the file; -EINVAL: its content or a variable; the sentence names file,
 * line, key, what is wrong and what is right. Any thread.
 */
int mc_config_check(const char *path)
{
	struct mci_settings *settings;
	int ret = mci_settings_load(path, &settings);

	if (!ret)
		mci_settings_free(settings);
	return ret;
}

static json_t *value_json(const struct mci_settings *settings, const struct mci_setting *s)
{
	const char *text = mci_settings_text(settings, s->key);

	if (!text)
		return json_null();
	if (s->secret)
		return json_string("(set, not shown)");
	switch (s->type) {
	case MCI_SETTING_NUMBER:
		return json_integer((json_int_t)mci_settings_number(settings, s->key));
	case MCI_SETTING_BOOL:
		return json_boolean(mci_settings_bool(settings, s->key));
	case MCI_SETTING_TEXT:
		break;
	}
	return json_stringn_nocheck(text, strlen(text));
}

static json_t *setting_json(const struct mci_settings *settings, const struct mci_setting *s)
{
	static const char *const type_names[] = {"text", "number", "bool"};
	const char *names[] = {s->env, s->classic_env, s->classic_env_old};
	json_t *variables = json_array();
	json_t *item;

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i])
			json_array_append_new(variables, json_string(names[i]));
	}
	item = json_pack("{ss so ss ss so ss? ss?}", "key", s->key, "value", value_json(settings, s),
			 "origin", mci_settings_origin(settings, s->key), "type", type_names[s->type],
			 "variables", variables, "default", s->fallback, "help", s->help);
	if (item && s->choices)
		json_object_set_new(item, "choices", json_string(s->choices));
	if (item && s->type == MCI_SETTING_NUMBER) {
		json_object_set_new(item, "min", json_integer((json_int_t)s->min));
		json_object_set_new(item, "max", json_integer((json_int_t)s->max));
	}
	return item;
}

/**
 * mc_config_show() - every setting with its value and where that came from
 * @path: as for mc_config_check()
 * @json: array of {key, value, origin, type, variables, default, help}; passwords are not in it; free() it
 *
 * Return: as mc_config_check(), and -ENOMEM. Any thread.
 */
int mc_config_show(const char *path, char **json)
{
	struct mci_settings *settings;
	json_t *list;
	char *text;
	int ret;

	if (!json)
		return mci_fail(-EINVAL, "mc_config_show(): nowhere to put the text");
	ret = mci_settings_load(path, &settings);
	if (ret)
		return ret;
	list = json_array();
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		if (json_array_append_new(list, setting_json(settings, s)))
			ret = -ENOMEM;
	}
	mci_settings_free(settings);
	text = ret ? NULL : json_dumps(list, JSON_INDENT(2));
	json_decref(list);
	if (!text)
		return mci_fail(-ENOMEM, "mc_config_show(): no memory");
	*json = text;
	return 0;
}
