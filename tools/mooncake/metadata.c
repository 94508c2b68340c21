// SPDX-License-Identifier: MIT
/* mooncake metadata: keys of the metadata service. Access tokens come redacted from the library. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"

static struct {
	bool json, values;
} flags;

static const struct opt get_table[] = {
	SERVICE_FLAGS,
	{ .name = NULL },
};

static const struct opt_set get_set = {
	.tool = "mooncake metadata get",
	.usage = "[flags] KEY",
	.summary = "Prints the value of a key of the metadata service. Access tokens are not shown.",
	.table = get_table,
	.more = "Example:\n  mooncake metadata get --metadata_server=etcd://10.0.0.1:2379 "
		"mooncake/ram/node-1\n",
	.positional_min = 1,
	.positional_max = 1,
};

static const struct opt ls_table[] = {
	SERVICE_FLAGS,
	{ .name = "values",
	  .type = OPT_BOOL,
	  .value = &flags.values,
	  .group = "Output",
	  .help = "print the values too" },
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "keys and values as JSON" },
	{ .name = NULL },
};

static const struct opt_set ls_set = {
	.tool = "mooncake metadata ls",
	.usage = "[flags] [PREFIX]",
	.summary = "Lists keys of the metadata service that begin with PREFIX (\"mooncake/\" if not given; "
		   "\"\" is all).",
	.table = ls_table,
	.positional_max = 1,
};

static int metadata_get(int argc, char **argv)
{
	struct mc_engine_attr attr;
	char *value;
	int ret;

	opt_parse(&get_set, argc, argv);
	service_attr(&attr);
	ret = mc_metadata_get(&attr, argv[1], &value);
	if (ret)
		return service_error(ret);
	out_text(stdout, value, true);
	putchar('\n');
	free(value);
	return 0;
}

static int print_key(const char *key, const char *value, void *arg)
{
	json_t *object = arg;

	if (flags.json) {
		json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);

		json_object_set_new(object, key, parsed ? parsed : json_string(value));
		return 0;
	}
	out_text(stdout, key, false);
	putchar('\n');
	if (flags.values) {
		out_text(stdout, value, true);
		putchar('\n');
	}
	return 0;
}

static int metadata_ls(int argc, char **argv)
{
	int count = opt_parse(&ls_set, argc, argv);
	json_t *object = json_object();
	struct mc_engine_attr attr;
	int ret;

	service_attr(&attr);
	ret = mc_metadata_list(&attr, count ? argv[1] : "mooncake/", print_key, object);
	if (ret) {
		json_decref(object);
		return service_error(ret);
	}
	if (flags.json)
		return print_json(object);
	json_decref(object);
	return 0;
}

static const struct command commands[] = {
	{ "ls", metadata_ls, "list keys" },
	{ "get", metadata_get, "print the value of a key" },
	{ NULL, NULL, NULL },
};

int cmd_metadata(int argc, char **argv)
{
	return command_dispatch("mooncake metadata", "Looks into the metadata service.", commands, argc,
				argv);
}
