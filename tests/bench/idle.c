// SPDX-License-Identifier: MIT
/* What an open engine costs when nothing is asked of it: percent of a core, with a segment open and used
 * once. */
#include "baseline.h"

static const char *metadata, *segment_name, *transports;
static double seconds;

static const struct opt table[] = {
	{"metadata_server", OPT_TEXT, &metadata, "", .help = "as transfer_engine_bench"},
	{"segment_id", OPT_TEXT, &segment_name, "", .help = "of a target"},
	{"transports", OPT_TEXT, &transports, "auto", .help = "tcp, shm, auto"},
	{"seconds", OPT_DOUBLE, &seconds, "5", 0, 3600, .help = "to be idle"},
	{0},
};
static const struct opt_set set = {"idle", "[flags]", "Measures an idle engine.", table, NULL, 0, 0};

static int fail(const char *what)
{
	fprintf(stderr, "idle: %s: %s\n", what, mc_errmsg());
	return 1;
}

/* One request, so that connections and threads are there. */
static int use_once(mc_engine *engine, mc_segment *segment, void *memory)
{
	struct mc_segment_region region = {.size = sizeof(region)};
	struct mc_submit_attr submit = MC_SUBMIT_ATTR_INIT;
	struct mc_remote remote = {0};
	struct mc_status status;
	mc_batch *batch;

	if (mc_segment_region(segment, 0, &region) || mc_batch_alloc(engine, 1, &batch))
		return fail("segment");
	remote.region = region.id;
	if (mc_batch_add(batch, MC_READ, memory, segment, remote, 4096) || mc_batch_submit(batch, &submit) ||
	    mc_batch_wait(batch, -1) || mc_batch_status(batch, 0, &status))
		return fail("batch");
	mc_batch_free(batch);
	return status.state == MC_DONE ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	struct mc_region_attr local = MC_REGION_ATTR_INIT;
	struct mc_segment_attr open = MC_SEGMENT_ATTR_INIT;
	mc_engine *engine;
	mc_segment *segment;
	mc_region *region;
	char name[64];
	double cpu, t;
	void *memory;

	opt_parse(&set, argc, argv);
	snprintf(name, sizeof(name), "idle-%d", (int)getpid());
	attr.metadata = metadata;
	attr.name = name;
	attr.transports = transports;
	attr.advertise = "127.0.0.1";
	if (mc_engine_open(&attr, &engine))
		return fail("engine");
	memory = memory_new(1 << 20, 0);
	local.rights = 0;
	if (mc_engine_register(engine, memory, 1 << 20, &local, &region) ||
	    mc_segment_open(engine, segment_name, &open, &segment))
		return fail("segment");
	if (use_once(engine, segment, memory))
		return 1;
	nap(0.5);
	cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
	t = clock_seconds(CLOCK_MONOTONIC);
	nap(seconds);
	cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	t = clock_seconds(CLOCK_MONOTONIC) - t;
	printf("{\"idle_percent_of_a_core\": %.4f}\n", cpu / t * 100);
	mc_segment_close(segment);
	mc_engine_unregister(region, 0);
	mc_engine_close(engine);
	return 0;
}
