// SPDX-License-Identifier: MIT
/* mooncake: one program for administrators, a table of subcommands with a file each. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "config.h"

#define COMMANDS_MAX 32

static const struct command table[] = {
	{ "doctor", cmd_doctor, "test what usually goes wrong on a host, and print the fix" },
	{ "topology", cmd_topology, "NUMA nodes, network and RDMA devices, GPUs, and the priority matrix" },
	{ "segment", cmd_segment, "list segments, show one and the path to it" },
	{ "metadata", cmd_metadata, "look into the metadata service" },
	{ "key", cmd_key, "make and compare cluster keys" },
	{ "config", cmd_config, "check a configuration, show every setting" },
	{ "memory", cmd_memory, "list and remove memory that outlives processes" },
#if WITH_P2P_STORE
	{ "p2p", cmd_p2p, "spread files and directories from one to many" },
#endif
	{ "bench", cmd_bench, "measure transfers (transfer_engine_bench)" },
	{ NULL, NULL, NULL },
};

static void list_commands(const char *tool, const char *summary, const struct command *commands)
{
	printf("Usage: %s COMMAND [arguments]\n\n%s\n\nCommands:\n", tool, summary);
	for (; commands->name; commands++)
		printf("  %-10s %s\n", commands->name, commands->help);
	printf("\n\"%s COMMAND --help\" says more.\n", tool);
}

static int unknown(const char *tool, const struct command *commands, const char *word)
{
	const char *names[COMMANDS_MAX], *nearest;
	unsigned int count = 0;

	for (; commands[count].name && count < COMMANDS_MAX; count++)
		names[count] = commands[count].name;
	nearest = opt_nearest(word, names, count);
	fflush(stdout);
	fprintf(stderr, "%s: there is no command \"%s\"", tool, word);
	if (nearest)
		fprintf(stderr, "; did you mean \"%s %s\"?", tool, nearest);
	fprintf(stderr, " (%s --help lists them)\n", tool);
	return OPT_EXIT_USAGE;
}

int command_dispatch(const char *tool, const char *summary, const struct command *commands, int argc,
		     char **argv)
{
	if (argc < 2) {
		fflush(stdout);
		fprintf(stderr, "%s: a command is missing (%s --help lists them)\n", tool, tool);
		return OPT_EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help") ||
	    !strcmp(argv[1], "-help")) {
		list_commands(tool, summary, commands);
		return 0;
	}
	for (const struct command *c = commands; c->name; c++) {
		if (!strcmp(c->name, argv[1]))
			return c->run(argc - 1, argv + 1);
	}
	return unknown(tool, commands, argv[1]);
}

int main(int argc, char **argv)
{
	out_init("mooncake");
	if (argc > 1 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version"))) {
		printf("mooncake %s (library %s)\n", MC_VERSION_STRING, mc_version());
		return out_finish(0);
	}
	return out_finish(command_dispatch("mooncake", "Look after a Mooncake cluster and its hosts.", table,
					   argc, argv));
}
