// SPDX-License-Identifier: MIT
/* mooncake config: check a configuration file, show every setting and where its value comes from. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"

static struct {
	const char *config;
	bool json, help_texts;
} flags;

static const struct opt check_table[] = {
	{ .name = "config", .type = OPT_TEXT, .value = &flags.config, .help = "the file, instead of FILE" },
	{ .name = NULL },
};

static const struct opt_set check_set = {
	.tool = "mooncake config check",
	.usage = "[FILE]",
	.summary =
		"Loads a configuration as an engine would, with the environment over it. Without FILE it is "
		"$MOONCAKE_CONFIG. The first mistake is printed with file, line and remedy; the exit status "
		"is then 1.",
	.table = check_table,
	.positional_max = 1,
};

static const struct opt show_table[] = {
	{ .name = "config", .type = OPT_TEXT, .value = &flags.config, .help = "the file, instead of FILE" },
	{ .name = "json",
	  .type = OPT_BOOL,
	  .value = &flags.json,
	  .help = "with types, bounds and variables, as JSON" },
	{ .name = "explain",
	  .type = OPT_BOOL,
	  .value = &flags.help_texts,
	  .help = "also print what each setting means" },
	{ .name = NULL },
};

static const struct opt_set show_set = {
	.tool = "mooncake config show",
	.usage = "[flags] [FILE]",
	.summary = "Prints every setting, its value, and where that comes from: default, file, or the name "
		   "of a variable. "
		   "Without FILE it is $MOONCAKE_CONFIG. Passwords are not printed.",
	.table = show_table,
	.positional_max = 1,
};

static const char *path_of(int count, char **argv)
{
	return count ? argv[1] : flags.config ? flags.config : getenv("MOONCAKE_CONFIG");
}

static int config_check(int argc, char **argv)
{
	const char *path = path_of(opt_parse(&check_set, argc, argv), argv);

	if (mc_config_check(path))
		return out_error("%s", mc_errmsg());
	if (path && *path)
		printf("%s: good\n", path);
	else
		printf("no configuration file is given; the environment is good\n");
	return 0;
}

static int config_show(int argc, char **argv)
{
	const char *path = path_of(opt_parse(&show_set, argc, argv), argv);
	struct out_table *t;
	json_t *list, *item;
	char *text;
	size_t i;

	if (mc_config_show(path, &text))
		return out_error("%s", mc_errmsg());
	list = take_json(text);
	if (!list)
		return 1;
	if (flags.json)
		return print_json(list);
	t = out_table_new(false);
	out_table_row(t, flags.help_texts ? "setting|value|from|meaning" : "setting|value|from");
	json_array_foreach(list, i, item)
	{
		json_t *value = json_object_get(item, "value");
		char *shown = json_is_null(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY);
		const char *key = json_string_value(json_object_get(item, "key"));
		const char *origin = json_string_value(json_object_get(item, "origin"));
		const char *plain = json_is_string(value) ? json_string_value(value) : shown;

		if (flags.help_texts)
			out_table_row(t, "%s|%s|%s|%s", key, plain ? plain : "-", origin,
				      json_string_value(json_object_get(item, "help")));
		else
			out_table_row(t, "%s|%s|%s", key, plain ? plain : "-", origin);
		free(shown);
	}
	out_table_print(t, stdout);
	json_decref(list);
	return 0;
}

static const struct command commands[] = {
	{ "check", config_check, "say whether a configuration is good, and what is wrong with it" },
	{ "show", config_show, "print every setting and where its value comes from" },
	{ NULL, NULL, NULL },
};

int cmd_config(int argc, char **argv)
{
	return command_dispatch("mooncake config", "Checks and shows configuration.", commands, argc, argv);
}
