// SPDX-License-Identifier: MIT
/* mooncake key: make cluster keys, compare them, derive tokens for HTTP ports. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"

static struct {
	const char *role;
	bool json;
} flags;

static const struct opt new_table[] = { { .name = NULL } };

static const struct opt_set new_set = {
	.tool = "mooncake key new",
	.usage = "FILE",
	.summary = "Writes a new cluster key: 32 random bytes as hex, readable by its owner only. FILE must "
		   "not exist. "
		   "Copy it to every host of the cluster.",
	.table = new_table,
	.more = "Example:\n  mooncake key new /etc/mooncake/cluster.key\n",
	.positional_min = 1,
	.positional_max = 1,
};

static const struct opt show_table[] = {
	{ .name = "role",
	  .type = OPT_CHOICE,
	  .value = &flags.role,
	  .choices = "metrics|metadata|admin",
	  .help = "print the bearer token of this role instead: a secret, for \"Authorization: Bearer\"" },
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "as JSON" },
	{ .name = NULL },
};

static const struct opt_set show_set = {
	.tool = "mooncake key show",
	.usage = "[flags] [FILE]",
	.summary = "Prints the id of a cluster key: equal keys have equal ids, and the id does not give the "
		   "key away. "
		   "Without FILE it is $MOONCAKE_KEY_FILE.",
	.table = show_table,
	.positional_max = 1,
};

static int key_new(int argc, char **argv)
{
	char id[17];

	opt_parse(&new_set, argc, argv);
	if (mc_key_create(argv[1]) || mc_key_id(argv[1], id))
		return out_error("%s", mc_errmsg());
	printf("%s (id %s)\n", argv[1], id);
	return 0;
}

static int key_show(int argc, char **argv)
{
	int count = opt_parse(&show_set, argc, argv);
	const char *path = count ? argv[1] : getenv("MOONCAKE_KEY_FILE");
	char id[17], bearer[65];

	if (!path || !*path) {
		out_error("no key file given, and $MOONCAKE_KEY_FILE is not set");
		return OPT_EXIT_USAGE;
	}
	if (mc_key_id(path, id) || (flags.role && mc_key_bearer(path, flags.role, bearer)))
		return out_error("%s", mc_errmsg());
	if (flags.json)
		return print_json(flags.role ? json_pack("{ss ss ss ss}", "file", path, "id", id, "role",
							 flags.role, "bearer", bearer)
					     : json_pack("{ss ss}", "file", path, "id", id));
	printf("%s\n", flags.role ? bearer : id);
	return 0;
}

static const struct command commands[] = {
	{ "new", key_new, "write a new cluster key" },
	{ "show", key_show, "print a key's id, or the token of a role" },
	{ "id", key_show, "the same as show" },
	{ NULL, NULL, NULL },
};

int cmd_key(int argc, char **argv)
{
	return command_dispatch("mooncake key", "Makes and compares cluster keys.", commands, argc, argv);
}
