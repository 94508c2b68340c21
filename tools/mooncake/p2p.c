// SPDX-License-Identifier: MIT
/* mooncake p2p: files and directories spread by the P2P store. Directories: p2p_tree.c. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "p2p.h"

struct p2p_flags p2p = {.o = {.protocol = "auto"}};

#define METADATA_FLAG                                                                                    \
	{                                                                                                \
		.name = "metadata_server", .type = OPT_TEXT, .value = &p2p.o.metadata_server,            \
		.help = "etcd://host:port[,host:port], redis://host:port, http://host:port/metadata or " \
			"P2PHANDSHAKE; from "                                                            \
			"the configuration if not given",                                                \
		.group = "Which cluster"                                                                 \
	}

static const struct opt register_table[] = {
	{"max_shard_size", OPT_SIZE, &p2p.max_shard_size, "64M", 4096, 1ll << 40,
	 .help = "unit of the classic record", .group = "What to do"},
	{"piece_size", OPT_SIZE, &p2p.piece_size, "0", 0, 4 << 20, .help = "unit of the swarm; 0 = by size"},
	{"force", OPT_BOOL, &p2p.force, "false",
	 .help = "take the name even if living members hold other content under it"},
	METADATA_FLAG,
	P2P_FLAGS(p2p.o),
	{"json", OPT_BOOL, &p2p.json, "false", .help = "tell names and roots as JSON", .group = "Output"},
	{0},
};

static const struct opt_set register_set = {
	.tool = "mooncake p2p register",
	.usage = "[flags] NAME PATH",
	.summary = "Registers a file, or every file below a directory, and serves it until SIGINT or "
		   "SIGTERM. The bytes "
		   "are mapped, not copied: leave the files as they are meanwhile.",
	.table = register_table,
	.more = "Example:\n  mooncake p2p register --metadata_server=etcd://10.0.0.1:2379 llama/step-100 "
		"ckpt/step-100\n",
	.positional_min = 2,
	.positional_max = 2,
};

static const struct opt get_table[] = {
	{"serve", OPT_BOOL, &p2p.serve, "false",
	 .help = "go on serving others until SIGINT or SIGTERM, instead of leaving once all is here",
	 .group = "What to do"},
	{"timeout_ms", OPT_UINT, &p2p.timeout_ms, "0", 0, 1ll << 31,
	 .help = "for each object; 0 = as long as it takes"},
	{"stall_ms", OPT_UINT, &p2p.stall_ms, "0", 0, 1ll << 31,
	 .help = "give up when nothing came for so long; 0 = never: wait for a seed"},
	{"parallel", OPT_UINT, &p2p.parallel, "4", 1, 64,
	 .help = "files of a directory that are fetched at one time"},
	METADATA_FLAG,
	P2P_FLAGS(p2p.o),
	{"json", OPT_BOOL, &p2p.json, "false", .help = "tell the result as JSON", .group = "Output"},
	{0},
};

static const struct opt_set get_set = {
	.tool = "mooncake p2p get",
	.usage = "[flags] NAME[@ROOT] PATH",
	.summary = "Fetches a file, or a directory, from all who have it, and serves what it has while it "
		   "does. It is "
		   "written to PATH.part and gets its name when every piece is verified; started again, it "
		   "goes on with "
		   "what is there.",
	.table = get_table,
	.more = "Exit status: 0 all is here; 1 it failed or was interrupted (what came is kept); 2 wrong "
		"usage.\n",
	.positional_min = 2,
	.positional_max = 2,
};

static const struct opt ls_table[] = {
	METADATA_FLAG,
	P2P_FLAGS(p2p.o),
	{"json", OPT_BOOL, &p2p.json, "false", .help = "as JSON", .group = "Output"},
	{0},
};

static const struct opt_set ls_set = {
	.tool = "mooncake p2p ls",
	.usage = "[flags] [PREFIX]",
	.summary = "Lists objects: size, who registered them, who holds all of them, who is a member.",
	.table = ls_table,
	.positional_max = 1,
};

static const struct opt_set watch_set = {
	.tool = "mooncake p2p watch",
	.usage = "[flags] [PREFIX]",
	.summary = "Prints the list of objects each time that it changes, until SIGINT or SIGTERM.",
	.table = ls_table,
	.positional_max = 1,
};

static const struct opt rm_table[] = {
	{"force", OPT_BOOL, &p2p.force, "false",
	 .help = "even if living members hold it; they keep what they have, and seeds write it again later",
	 .group = "What to do"},
	METADATA_FLAG,
	P2P_FLAGS(p2p.o),
	{0},
};

static const struct opt_set rm_set = {
	.tool = "mooncake p2p rm",
	.usage = "[flags] NAME",
	.summary = "Removes the record of an object whose members are all gone.",
	.table = rm_table,
	.positional_min = 1,
	.positional_max = 1,
};

static int wait_for_signal(const char *what)
{
	if (!p2p.json)
		printf("Serving %s until Ctrl-C\n", what);
	fflush(stdout);
	while (!p2p_signalled(3600))
		;
	return 0;
}

static int p2p_register(int argc, char **argv)
{
	struct stat st;
	mc_p2p *store;
	int status;

	opt_parse(&register_set, argc, argv);
	if (stat(argv[2], &st))
		return out_error("cannot register '%s': %s", argv[2], strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return out_error("cannot register '%s': it is neither a file nor a directory", argv[2]);
	p2p_block_signals();
	status = p2p_open(&p2p.o, &store);
	if (status)
		return status;
	if (S_ISDIR(st.st_mode))
		status = p2p_tree_register(store, argv[1], argv[2]);
	else
		status = p2p_register_file(store, argv[1], argv[2], false);
	if (!status)
		status = wait_for_signal(argv[1]);
	return p2p_close(store) | status; /* closing unregisters */
}

int p2p_register_file(mc_p2p *store, const char *name, const char *path, bool may_exist)
{
	struct mc_p2p_register_attr attr = MC_P2P_REGISTER_ATTR_INIT;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	char root[MC_P2P_ROOT_TEXT];
	int ret;

	place.path = path;
	attr.max_shard_size = p2p.max_shard_size;
	attr.piece_size = p2p.piece_size;
	attr.flags = p2p.force ? MC_P2P_FORCE : 0;
	ret = mc_p2p_register(store, name, &place, &attr, root);
	if (ret == -EEXIST && may_exist)
		return ret;
	if (ret)
		return out_error("%s", mc_errmsg());
	if (p2p.json)
		return print_json(
			json_pack("{ss ss ss}", "name", name, "root", root, "segment", mc_p2p_name(store)));
	out_text(stdout, name, false);
	printf(" root %s at %s\n", root, mc_p2p_name(store));
	return 0;
}

int p2p_get_file(mc_p2p *store, const char *name, const char *path, bool may_lack,
		 struct mc_p2p_progress *progress)
{
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	mc_p2p_task *task;
	int ret;

	place.path = path;
	attr.timeout_ms = (uint32_t)p2p.timeout_ms;
	attr.stall_ms = (uint32_t)p2p.stall_ms;
	ret = mc_p2p_get_start(store, name, &place, &attr, &task);
	if (!ret)
		return p2p_fetch(name, task, may_lack, progress);
	if (ret != -ENOENT || !may_lack)
		out_error("%s", mc_errmsg());
	return ret;
}

static int report(const char *name, const char *path, const struct mc_p2p_progress *p)
{
	double seconds = (double)p->elapsed_ns / 1e9;
	char size[OUT_SIZE_TEXT], reused[OUT_SIZE_TEXT];

	if (p2p.json)
		return print_json(json_pack("{ss ss sI sI sI sI si si sf}", "name", name, "path", path,
					    "bytes", (json_int_t)p->bytes, "reused", (json_int_t)p->reused,
					    "fetched", (json_int_t)p->fetched, "from_seeds",
					    (json_int_t)p->from_seeds, "pieces", (int)p->pieces, "bad_pieces",
					    (int)p->bad_pieces, "seconds", seconds));
	printf("%s: %s in %.2f s, %s of it was here already\n", path, out_size(p->bytes, size), seconds,
	       out_size(p->reused, reused));
	return 0;
}

static int p2p_get(int argc, char **argv)
{
	struct mc_p2p_progress progress = {.size = sizeof(progress)};
	mc_p2p *store;
	int ret, status;

	opt_parse(&get_set, argc, argv);
	p2p_block_signals();
	status = p2p_open(&p2p.o, &store);
	if (status)
		return status;
	ret = p2p_tree_try(store, argv[1], argv[2], &progress);
	if (ret == -ENOENT)
		ret = p2p_get_file(store, argv[1], argv[2], false, &progress);
	if (!ret)
		ret = report(argv[1], argv[2], &progress);
	if (!ret && p2p.serve)
		wait_for_signal(argv[1]);
	return p2p_close(store) | (ret ? 1 : 0);
}

struct p2p_listing {
	json_t *list;
};

static int add_object(const struct mc_p2p_object *object, void *arg)
{
	struct p2p_listing *listing = arg;
	json_t *sizes = json_array();
	uint32_t i;

	for (i = 0; i < object->size_count; i++)
		json_array_append_new(sizes, json_integer((json_int_t)object->size_list[i]));
	json_array_append_new(
		listing->list,
		json_pack("{ss ss sb sI sI sI so si si si}", "name", object->name, "root", object->root,
			  "classic", (int)object->classic, "bytes", (json_int_t)object->bytes, "piece_size",
			  (json_int_t)object->piece_size, "max_shard_size",
			  (json_int_t)object->max_shard_size, "size_list", sizes, "seeds", (int)object->seeds,
			  "holders", (int)object->holders, "members", (int)object->members));
	return 0;
}

static int number(const json_t *item, const char *name)
{
	return (int)json_integer_value(json_object_get(item, name));
}

static int list_objects(mc_p2p *store, const char *prefix)
{
	struct p2p_listing listing = {.list = json_array()};
	struct out_table *t;
	char size[OUT_SIZE_TEXT];
	json_t *item;
	size_t i;

	if (mc_p2p_list(store, prefix, add_object, &listing)) {
		json_decref(listing.list);
		return out_error("%s", mc_errmsg());
	}
	if (p2p.json)
		return print_json(listing.list);
	if (!json_array_size(listing.list)) {
		printf("no object is registered under \"%s\"\n", prefix);
	} else {
		t = out_table_new(false);
		out_table_row(t, "object|size|seeds|holders|members|root");
		json_array_foreach(listing.list, i, item) out_table_row(
			t, "%s|%s|%d|%d|%d|%.16s", json_string_value(json_object_get(item, "name")),
			out_size((uint64_t)json_integer_value(json_object_get(item, "bytes")), size),
			number(item, "seeds"), number(item, "holders"), number(item, "members"),
			json_is_true(json_object_get(item, "classic"))
				? "classic"
				: json_string_value(json_object_get(item, "root")));
		out_table_print(t, stdout);
	}
	json_decref(listing.list);
	return 0;
}

static int p2p_ls(int argc, char **argv)
{
	mc_p2p *store;
	int status, given;

	given = opt_parse(&ls_set, argc, argv);
	status = p2p_open(&p2p.o, &store);
	if (status)
		return status;
	status = list_objects(store, given ? argv[1] : "");
	return p2p_close(store) | status;
}

static void changed(void *arg) { atomic_store((atomic_bool *)arg, true); }

static int p2p_watch(int argc, char **argv)
{
	atomic_bool again = false;
	const char *prefix;
	mc_p2p *store;
	int status;

	prefix = opt_parse(&watch_set, argc, argv) ? argv[1] : "";
	p2p_block_signals();
	status = p2p_open(&p2p.o, &store);
	if (status)
		return status;
	if (mc_p2p_watch(store, prefix, changed, &again))
		status = out_error("%s", mc_errmsg());
	while (!status && !p2p_signalled(0.2)) {
		if (!atomic_exchange(&again, false))
			continue;
		status = list_objects(store, prefix);
		if (!p2p.json)
			putchar('\n');
		fflush(stdout);
	}
	mc_p2p_watch(store, NULL, NULL, NULL);
	return p2p_close(store) | status;
}

static int p2p_rm(int argc, char **argv)
{
	mc_p2p *store;
	int status;

	opt_parse(&rm_set, argc, argv);
	status = p2p_open(&p2p.o, &store);
	if (status)
		return status;
	if (mc_p2p_remove(store, argv[1], p2p.force ? MC_P2P_FORCE : 0))
		status = out_error("%s", mc_errmsg());
	return p2p_close(store) | status;
}

static const struct command commands[] = {
	{"register", p2p_register, "register a file or a directory, and serve it"},
	{"get", p2p_get, "fetch a file or a directory from all who have it"},
	{"ls", p2p_ls, "list objects and how many hold them"},
	{"rm", p2p_rm, "remove the record of an object that nobody holds any more"},
	{"watch", p2p_watch, "print the list each time that it changes"},
	{NULL, NULL, NULL},
};

int cmd_p2p(int argc, char **argv)
{
	return command_dispatch("mooncake p2p", "Spreads files and directories from one to many.", commands,
				argc, argv);
}
