// SPDX-License-Identifier: MIT
/* mooncake memory: named memory of this user, which outlives the processes that made it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"

static struct {
	bool json, replace, yes;
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

static const struct opt show_table[] = {
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "as JSON" },
	{ .name = NULL },
};

static const struct opt_set show_set = {
	.tool = "mooncake memory show",
	.usage = "[flags] NAME",
	.summary = "Shows all that is known of a named memory: where it lies, who holds it, who else has it attached.",
	.table = show_table,
	.positional_min = 1,
	.positional_max = 1,
};

static const struct opt revoke_table[] = {
	{ .name = "replace",
	  .type = OPT_BOOL,
	  .value = &flags.replace,
	  .help = "and give it fresh, zeroed pages: DMA that goes on hits orphans" },
	{ .name = "yes", .type = OPT_BOOL, .value = &flags.yes, .help = "its holder may die of it" },
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "as JSON" },
	{ .name = NULL },
};

static const struct opt_set revoke_set = {
	.tool = "mooncake memory revoke",
	.usage = "[flags] NAME",
	.summary = "Takes memory that the kernel module keeps away from every process, its holder included: who "
		   "touches a mapping of it gets SIGBUS. Name and content stay; who allocates it anew has it.",
	.table = revoke_table,
	.positional_min = 1,
	.positional_max = 1,
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
	item = json_pack("{ss ss sI sI so si}", "name", entry->name, "kind", entry->kind, "length",
			 (json_int_t)entry->length, "page_size", (json_int_t)entry->page_size, "holder_pid",
			 entry->holder_pid ? json_integer(entry->holder_pid) : json_null(), "contexts",
			 (int)entry->contexts);
	if (item && *command)
		json_object_set_new(item, "holder_command", json_string(command));
	return item && !json_array_append_new(arg, item) ? 0 : -ENOMEM;
}

static void holder_text(const json_t *item, char *text, size_t size)
{
	json_int_t pid = json_integer_value(json_object_get(item, "holder_pid"));
	const char *command = json_string_value(json_object_get(item, "holder_command"));

	if (!pid)
		snprintf(text, size, "nobody");
	else if (pid < 0)
		snprintf(text, size, "a process not seen from here");
	else
		snprintf(text, size, "%d%s%s", (int)pid, command ? " " : "", command ? command : "");
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
	out_table_row(t, "name|kind|size|page|held by");
	json_array_foreach(list, i, item)
	{
		holder_text(item, holder, sizeof(holder));
		out_table_row(t, "%s|%s|%s|%s|%s", json_string_value(json_object_get(item, "name")),
			      json_string_value(json_object_get(item, "kind")),
			      out_size((uint64_t)json_integer_value(json_object_get(item, "length")), length),
			      out_size((uint64_t)json_integer_value(json_object_get(item, "page_size")),
				       page),
			      holder);
	}
	out_table_print(t, stdout);
	json_decref(list);
	return 0;
}

static void add_row(struct out_table *t, const json_t *item, const char *key, const char *label)
{
	const json_t *value = json_object_get(item, key);
	char text[OUT_SIZE_TEXT];

	if (json_is_string(value))
		out_table_row(t, "%s|%s", label, json_string_value(value));
	else if (json_is_integer(value) && (!strcmp(key, "length") || !strcmp(key, "page_size")))
		out_table_row(t, "%s|%s", label, out_size((uint64_t)json_integer_value(value), text));
	else if (json_is_integer(value))
		out_table_row(t, "%s|%lld", label, (long long)json_integer_value(value));
}

static void print_one(json_t *item)
{
	static const char *const rows[][2] = {
		{ "name", "name" },
		{ "kind", "kind" },
		{ "length", "size" },
		{ "page_size", "page" },
		{ "content_id", "content id" },
		{ "generation", "generation" },
		{ "contexts", "open or attached in" },
		{ "mappings", "mappings" },
		{ "grants", "live grants" },
		{ "dmabufs", "dma-bufs" },
		{ "dmabuf_attached", "devices attached" },
		{ "pages", "pages" },
		{ "extents", "runs of adjacent pages" },
		{ "pinned_pages", "pages pinned by others" },
	};
	struct out_table *t = out_table_new(false);
	json_t *nodes = json_object_get(item, "node_pages"), *pages;
	char holder[80];
	size_t i;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		add_row(t, item, rows[i][0], rows[i][1]);
	json_array_foreach(nodes, i, pages)
		out_table_row(t, "pages on NUMA node %zu|%lld", i, (long long)json_integer_value(pages));
	holder_text(item, holder, sizeof(holder));
	out_table_row(t, "held by|%s", holder);
	out_table_print(t, stdout);
}

static int memory_show(int argc, char **argv)
{
	json_t *list, *item;
	char command[32], *text;
	size_t i;

	opt_parse(&show_set, argc, argv);
	if (mc_memory_show(argv[1], &text))
		return out_error("%s", mc_errmsg());
	list = take_json(text);
	if (!list)
		return 1;
	json_array_foreach(list, i, item)
	{
		command_of((int)json_integer_value(json_object_get(item, "holder_pid")), command, sizeof(command));
		if (*command)
			json_object_set_new(item, "holder_command", json_string(command));
		if (flags.json)
			continue;
		if (i)
			putchar('\n');
		print_one(item);
	}
	if (flags.json)
		return print_json(list);
	json_decref(list);
	return 0;
}

static int memory_revoke(int argc, char **argv)
{
	struct mc_memory_revoked revoked = { .size = sizeof(revoked) };

	opt_parse(&revoke_set, argc, argv);
	if (!flags.yes)
		return out_error("processes that touch \"%s\" from now on, its holder included, would get SIGBUS; say "
				 "--yes if that is meant",
				 argv[1]);
	if (mc_memory_revoke(argv[1], flags.replace ? MC_MEMORY_REPLACE : 0, &revoked))
		return out_error("%s", mc_errmsg());
	if (flags.json)
		return print_json(json_pack("{ss sI sI sI}", "name", argv[1], "generation",
					    (json_int_t)revoked.generation, "pinned_pages",
					    (json_int_t)revoked.pinned_pages, "dmabuf_attached",
					    (json_int_t)revoked.dmabuf_attached));
	printf("\"%s\" is out of every processor's reach; generation %llu\n", argv[1],
	       (unsigned long long)revoked.generation);
	if (revoked.pinned_pages || revoked.dmabuf_attached)
		printf("devices may still reach it: %llu pages are pinned, %u devices are attached to dma-bufs of it\n",
		       (unsigned long long)revoked.pinned_pages, revoked.dmabuf_attached);
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
	{ "show", memory_show, "all that is known of one" },
	{ "revoke", memory_revoke, "take one away from every process (kernel module)" },
	{ "unlink", memory_unlink, "remove named memories" },
	{ NULL, NULL, NULL },
};

int cmd_memory(int argc, char **argv)
{
	return command_dispatch("mooncake memory",
				"Looks after memory that outlives processes (hot restart).", commands, argc,
				argv);
}
