// SPDX-License-Identifier: MIT
/* mooncake segment: who publishes what, and by which path it is reached from here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"

static struct {
	bool json;
	const char *transports;
	uint64_t timeout_ms;
	bool insecure;
} flags;

static const struct opt ls_table[] = {
	SERVICE_FLAGS,
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .group = "Output", .help = "as JSON" },
	{ .name = NULL },
};

static const struct opt_set ls_set = {
	.tool = "mooncake segment ls",
	.usage = "[flags]",
	.summary = "Lists the segments that are published in the metadata service.",
	.table = ls_table,
};

static const struct opt show_table[] = {
	SERVICE_FLAGS,
	{ .name = "transports",
	  .type = OPT_TEXT,
	  .value = &flags.transports,
	  .group = "How",
	  .help = "comma list of tcp, shm, rdma: only these; all if not given" },
	{ .name = "timeout_ms",
	  .type = OPT_UINT,
	  .value = &flags.timeout_ms,
	  .def = "4000",
	  .min = 1,
	  .max = 600000,
	  .help = "for reaching it" },
	{ .name = "insecure",
	  .type = OPT_BOOL,
	  .value = &flags.insecure,
	  .help = "reach a segment of P2PHANDSHAKE beyond this host without a cluster key" },
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .group = "Output", .help = "as JSON" },
	{ .name = NULL },
};

static const struct opt_set show_set = {
	.tool = "mooncake segment show",
	.usage = "[flags] NAME",
	.summary = "Opens a segment as an application would, and shows its regions and the path that "
		   "requests from this "
		   "host take to each.",
	.table = show_table,
	.more = "Example:\n  mooncake segment show --metadata_server=P2PHANDSHAKE 127.0.0.1:15432\n",
	.positional_min = 1,
	.positional_max = 1,
};

struct listing {
	size_t prefix_length;
	json_t *list;
};

static json_int_t sum_of_lengths(json_t *regions)
{
	json_int_t sum = 0;
	json_t *region;
	size_t i;

	json_array_foreach(regions, i, region) sum += json_integer_value(json_object_get(region, "length"));
	return sum;
}

static json_t *names_of(json_t *object)
{
	json_t *list = json_array(), *value;
	const char *key;

	json_object_foreach(object, key, value) json_array_append_new(list, json_string(key));
	return list;
}

/* A descriptor of ours has its members under "mooncake_c"; else it is a classic one. */
static int add_segment(const char *key, const char *value, void *arg)
{
	struct listing *listing = arg;
	json_t *root = json_loads(value, 0, NULL), *ours = json_object_get(root, "mooncake_c");
	json_t *regions = ours ? json_object_get(ours, "regions") : json_object_get(root, "buffers");
	json_t *item = json_object(), *member;

	json_object_set_new(item, "name", json_string(key + listing->prefix_length));
	json_object_set_new(item, "kind", json_string(ours ? "mooncake_c" : root ? "classic" : "unreadable"));
	json_object_set_new(item, "regions", json_integer((json_int_t)json_array_size(regions)));
	json_object_set_new(item, "bytes", json_integer(sum_of_lengths(regions)));
	if (ours) {
		json_object_set_new(item, "transports", names_of(json_object_get(ours, "transports")));
		json_object_set(item, "addresses", json_object_get(ours, "addresses"));
		json_object_set(item, "port", json_object_get(ours, "port"));
		json_object_set(item, "uuid", json_object_get(ours, "uuid"));
	} else {
		member = json_object_get(root, "protocol");
		json_object_set_new(item, "transports",
				    json_is_string(member) ? json_pack("[O]", member) : json_array());
	}
	json_array_append_new(listing->list, item);
	json_decref(root);
	return 0;
}

static void join(json_t *list, char *out, size_t size)
{
	size_t i, used = 0;
	json_t *item;

	snprintf(out, size, "-");
	json_array_foreach(list, i, item)
	{
		if (used < size && json_is_string(item))
			used += (size_t)snprintf(out + used, size - used, "%s%s", used ? "," : "",
						 json_string_value(item));
	}
}

static void print_segments(json_t *list)
{
	struct out_table *t = out_table_new(false);
	char bytes[OUT_SIZE_TEXT], transports[128], addresses[256];
	json_t *item;
	size_t i;

	out_table_row(t, "segment|kind|regions|bytes|transports|addresses|port");
	json_array_foreach(list, i, item)
	{
		join(json_object_get(item, "transports"), transports, sizeof(transports));
		join(json_object_get(item, "addresses"), addresses, sizeof(addresses));
		out_table_row(t, "%s|%s|%d|%s|%s|%s|%d", json_string_value(json_object_get(item, "name")),
			      json_string_value(json_object_get(item, "kind")),
			      (int)json_integer_value(json_object_get(item, "regions")),
			      out_size((uint64_t)json_integer_value(json_object_get(item, "bytes")), bytes),
			      transports, addresses, (int)json_integer_value(json_object_get(item, "port")));
	}
	out_table_print(t, stdout);
}

static int segment_ls(int argc, char **argv)
{
	struct listing listing = { .list = json_array() };
	struct mc_engine_attr attr;
	char *prefix;
	int ret;

	opt_parse(&ls_set, argc, argv);
	service_attr(&attr);
	ret = mc_metadata_segment_prefix(&attr, &prefix);
	if (!ret) {
		listing.prefix_length = strlen(prefix);
		ret = mc_metadata_list(&attr, prefix, add_segment, &listing);
		free(prefix);
	}
	if (ret) {
		json_decref(listing.list);
		return service_error(ret);
	}
	if (flags.json)
		return print_json(listing.list);
	if (json_array_size(listing.list))
		print_segments(listing.list);
	else
		printf("no segment is published there\n");
	json_decref(listing.list);
	return 0;
}

static json_t *region_json(const struct mc_segment_region *region)
{
	return json_pack("{sI ss sI so ss* ss* ss*}", "id", (json_int_t)region->id, "rights",
			 region->rights == (MC_REMOTE_READ | MC_REMOTE_WRITE) ? "rw"
			 : region->rights == MC_REMOTE_READ		      ? "r"
			 : region->rights == MC_REMOTE_WRITE		      ? "w"
									      : "none",
			 "length", (json_int_t)region->length, "base",
			 region->base ? json_integer((json_int_t)region->base) : json_null(), "location",
			 region->location, "path", region->path, "detail", region->detail);
}

static json_t *segment_json(mc_segment *segment)
{
	json_t *regions = json_array();

	for (unsigned int i = 0; i < mc_segment_region_count(segment); i++) {
		struct mc_segment_region region = { .size = sizeof(region) };

		if (!mc_segment_region(segment, i, &region))
			json_array_append_new(regions, region_json(&region));
	}
	return json_pack("{ss so}", "name", mc_segment_name(segment), "regions", regions);
}

static void print_segment(json_t *segment)
{
	json_t *regions = json_object_get(segment, "regions"), *item;
	struct out_table *t = out_table_new(false);
	char length[OUT_SIZE_TEXT];
	size_t i;

	printf("segment ");
	out_text(stdout, json_string_value(json_object_get(segment, "name")), false);
	printf(", %zu region%s\n", json_array_size(regions), json_array_size(regions) == 1 ? "" : "s");
	out_table_row(t, "region|size|rights|location|path|detail");
	json_array_foreach(regions, i, item)
	{
		const char *location = json_string_value(json_object_get(item, "location"));
		const char *path = json_string_value(json_object_get(item, "path"));
		const char *detail = json_string_value(json_object_get(item, "detail"));

		out_table_row(t, "%d|%s|%s|%s|%s|%s", (int)json_integer_value(json_object_get(item, "id")),
			      out_size((uint64_t)json_integer_value(json_object_get(item, "length")), length),
			      json_string_value(json_object_get(item, "rights")), location ? location : "-",
			      path ? path : "-", detail ? detail : "-");
	}
	out_table_print(t, stdout);
}

static int segment_show(int argc, char **argv)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	mc_segment *segment;
	mc_engine *engine;
	json_t *shown;
	int ret;

	opt_parse(&show_set, argc, argv);
	attr.timeout_ms = (uint32_t)flags.timeout_ms;
	attr.transports = flags.transports;
	ret = service_engine(flags.insecure, NULL, NULL, &engine);
	if (ret)
		return service_error(ret);
	if (mc_segment_open(engine, argv[1], &attr, &segment)) {
		out_error("%s", mc_errmsg());
		mc_engine_close(engine);
		return 1;
	}
	shown = segment_json(segment);
	mc_segment_close(segment);
	mc_engine_close(engine);
	if (flags.json)
		return print_json(shown);
	if (!shown)
		return out_error("no memory to show the segment");
	print_segment(shown);
	json_decref(shown);
	return 0;
}

static const struct command commands[] = {
	{ "ls", segment_ls, "list the segments that are published" },
	{ "show", segment_show, "regions of a segment and the path to each" },
	{ NULL, NULL, NULL },
};

int cmd_segment(int argc, char **argv)
{
	return command_dispatch("mooncake segment", "Shows segments.", commands, argc, argv);
}
