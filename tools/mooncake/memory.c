// SPDX-License-Identifier: MIT
/* mooncake memory: named memory of this user, which outlives the processes that made it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"

static struct {
	bool json;
} flags;

static const struct opt ls_table[] = {
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "as JSON" },
	{ .name = NULL },
};

static const struct opt_set ls_set = {
	.tool = "mooncake memory ls",
	.usage = "[flags]",
	.summary = "Lists the named memories of the calling user, and who holds them.",
	.table = ls_table,
};

static const struct opt unlink_table[] = { { .name = NULL } };

static const struct opt_set unlink_set = {
	.tool = "mooncake memory unlink",
	.usage = "NAME...",
	.summary = "Removes named memories, content and all. One that a process holds is refused.",
	.table = unlink_table,
	.positional_min = 1,
	.positional_max = -1,
};

/* "bench" for 123: what runs under that pid now. */
static void command_of(int pid, char *text, size_t size)
{
	char path[48];
	FILE *f;

	text[0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (!f)
		return;
	if (!fgets(text, (int)size, f))
		text[0] = '\0';
	fclose(f);
	text[strcspn(text, "\n|")] = '\0';
}

static int collect(const struct mc_memory_entry *entry, void *arg)
{
	char command[32];
	json_t *item;

	command_of(entry->holder_pid, command, sizeof(command));
	item = json_pack("{ss sI sI so}", "name", entry->name, "length", (json_int_t)entry->length,
			 "page_size", (json_int_t)entry->page_size, "holder_pid",
			 entry->holder_pid ? json_integer(entry->holder_pid) : json_null());
	if (item && *command)
		json_object_set_new(item, "holder_command", json_string(command));
	return item && !json_array_append_new(arg, item) ? 0 : -ENOMEM;
}

static int memory_ls(int argc, char **argv)
{
	json_t *list = json_array(), *item;
	char length[OUT_SIZE_TEXT], page[OUT_SIZE_TEXT], holder[80];
	struct out_table *t;
	size_t i;
	int ret;

	opt_parse(&ls_set, argc, argv);
	ret = mc_memory_list(collect, list);
	if (ret) {
		json_decref(list);
		return out_error("%s", ret == -ENOMEM ? "no memory for the list" : mc_errmsg());
	}
	if (flags.json)
		return print_json(list);
	if (!json_array_size(list)) {
		json_decref(list);
		printf("this user has no named memory\n");
		return 0;
	}
	t = out_table_new(false);
	out_table_row(t, "name|size|page|held by");
	json_array_foreach(list, i, item)
	{
		json_int_t pid = json_integer_value(json_object_get(item, "holder_pid"));
		const char *command = json_string_value(json_object_get(item, "holder_command"));

		if (!pid)
			snprintf(holder, sizeof(holder), "nobody");
		else if (pid < 0)
			snprintf(holder, sizeof(holder), "a process not seen from here");
		else
			snprintf(holder, sizeof(holder), "%d%s%s", (int)pid, command ? " " : "",
				 command ? command : "");
		out_table_row(t, "%s|%s|%s|%s", json_string_value(json_object_get(item, "name")),
			      out_size((uint64_t)json_integer_value(json_object_get(item, "length")), length),
			      out_size((uint64_t)json_integer_value(json_object_get(item, "page_size")),
				       page),
			      holder);
	}
	out_table_print(t, stdout);
	json_decref(list);
	return 0;
}

static int memory_unlink(int argc, char **argv)
{
	int count = opt_parse(&unlink_set, argc, argv), status = 0;

	for (int i = 1; i <= count; i++) {
		if (mc_memory_unlink(argv[i]))
			status = out_error("%s", mc_errmsg());
	}
	return status;
}

static const struct command commands[] = {
	{ "ls", memory_ls, "list named memories and who holds them" },
	{ "unlink", memory_unlink, "remove named memories" },
	{ NULL, NULL, NULL },
};

int cmd_memory(int argc, char **argv)
{
	return command_dispatch("mooncake memory",
				"Looks after memory that outlives processes (hot restart).", commands, argc,
				argv);
}
