// SPDX-License-Identifier: MIT
/* What registering memory takes: mc_engine_register() on several NICs beside ibv_reg_mr() on the first, in turn. */
#include "baseline.h"

#include <infiniband/verbs.h>

static const char *devices;
static uint64_t length, repeats;

static const struct opt table[] = {
	{"devices", OPT_TEXT, &devices, "", .help = "NICs, comma-separated"},
	{"length", OPT_SIZE, &length, "1G", 1, 1ll << 40, .help = "bytes"},
	{"repeats", OPT_UINT, &repeats, "15", 1, 1000, .help = "pairs"},
	{0},
};
static const struct opt_set set = {"registration", "[flags]", "Measures registration.", table, NULL, 0, 0};

static void die(const char *what)
{
	fprintf(stderr, "registration: %s: %s\n", what, mc_errmsg());
	exit(1);
}

static struct ibv_pd *open_first(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	size_t n = strcspn(devices, ",");
	struct ibv_context *context = NULL;
	struct ibv_pd *pd;

	for (; list && *list && !context; list++)
		if (strlen(ibv_get_device_name(*list)) == n && !strncmp(ibv_get_device_name(*list), devices, n))
			context = ibv_open_device(*list);
	pd = context ? ibv_alloc_pd(context) : NULL;
	if (!pd)
		die("the first device cannot be opened");
	return pd;
}

static double verbs(struct ibv_pd *pd, void *memory)
{
	double t = clock_seconds(CLOCK_MONOTONIC);
	struct ibv_mr *mr = ibv_reg_mr(pd, memory, length,
				       IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);

	t = clock_seconds(CLOCK_MONOTONIC) - t;
	if (!mr || ibv_dereg_mr(mr))
		die("ibv_reg_mr");
	return t;
}

static double ours(mc_engine *engine, void *memory)
{
	double t = clock_seconds(CLOCK_MONOTONIC);
	mc_region *region;

	if (mc_engine_register(engine, memory, length, NULL, &region))
		die("mc_engine_register");
	t = clock_seconds(CLOCK_MONOTONIC) - t;
	if (mc_engine_unregister(region, MC_UNREGISTER_WAIT))
		die("mc_engine_unregister");
	return t;
}

int main(int argc, char **argv)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	struct ibv_pd *pd;
	mc_engine *engine;
	void *memory;
	uint64_t i;

	opt_parse(&set, argc, argv);
	setenv("MOONCAKE_RDMA_DEVICES", devices, 1);
	attr.metadata = "P2PHANDSHAKE";
	attr.name = "127.0.0.1";
	attr.transports = "rdma";
	if (mc_engine_open(&attr, &engine))
		die("mc_engine_open");
	pd = open_first();
	memory = memory_new(length, 0);
	verbs(pd, memory); /* the first time warms both up */
	ours(engine, memory);
	for (i = 0; i < repeats; i++) {
		printf("{\"who\": \"registration\", \"rep\": %llu, \"rate\": %.0f}\n", (unsigned long long)i,
		       (double)length / ours(engine, memory));
		printf("{\"who\": \"ibv_reg_mr\", \"rep\": %llu, \"rate\": %.0f}\n", (unsigned long long)i,
		       (double)length / verbs(pd, memory));
	}
	return mc_engine_close(engine) ? 1 : 0;
}
