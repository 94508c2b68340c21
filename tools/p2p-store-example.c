// SPDX-License-Identifier: MIT
/*
 * p2p-store-example: a trainer registers a checkpoint in memory, inferencers fetch it, each serving the
 * others what it has. Flags and lines of the classic example; docs/man/p2p-store-example.1.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "common/options.h"
#include "common/output.h"
#include "common/p2p.h"

static struct p2p_options o;
static const char *cmd, *object;
static uint64_t file_size_mb, shard_bytes, idle, timeout_ms, stall_ms, seed, wait_s;
static bool force, keep;

static const struct opt table[] = {
	{"cmd", OPT_CHOICE, &cmd, "trainer", .choices = "trainer|inferencer",
	 .help = "trainer: register an object and serve it; inferencer: fetch it", .group = "What to do"},
	{"object", OPT_TEXT, &object, "foo/bar",
	 .help = "name of the object; an inferencer may say NAME@ROOT"},
	{"file_size_mb", OPT_UINT, &file_size_mb, "2048", 1, 1ll << 24,
	 .help = "MiB of the object, the same on both sides"},
	{"max_shard_size", OPT_SIZE, &shard_bytes, "64M", 4096, 1ll << 40,
	 .help = "unit of the classic record"},
	{"seed", OPT_UINT, &seed, "0", .help = "of the trainer's bytes; 0 = new ones in each run"},
	{"idle", OPT_UINT, &idle, "100", 0, 31536000,
	 .help = "seconds that a trainer serves; a signal ends it early"},
	{"keep", OPT_BOOL, &keep, "false", .help = "an inferencer stays, too, and serves for --idle seconds"},
	{"force", OPT_BOOL, &force, "false",
	 .help = "take the name even if living members hold other content under it"},
	{"wait", OPT_UINT, &wait_s, "10", 0, 86400,
	 .help = "seconds that an inferencer waits for an object that is not registered yet"},
	{"timeout_ms", OPT_UINT, &timeout_ms, "0", 0, 1ll << 31,
	 .help = "for the whole fetch; 0 = as long as it takes"},
	{"stall_ms", OPT_UINT, &stall_ms, "0", 0, 1ll << 31,
	 .help = "give up a fetch when nothing came for so long; 0 = never"},
	{"metadata_server", OPT_TEXT, &o.metadata_server, "localhost:2379",
	 .help = "etcd://host:port[,host:port] (also bare host:port), redis://host:port, "
		 "http://host:port/metadata, or "
		 "P2PHANDSHAKE for none (then --peers)",
	 .group = "Who and where"},
	P2P_FLAGS(o),
	{0},
};

static const struct opt_set set = {
	.tool = "p2p-store-example",
	.usage = "[flags]",
	.summary = "Spreads a checkpoint from one trainer to many inferencers, in about the time of one "
		   "transfer.",
	.table = table,
	.more = "Exit status: 0 all went well; 1 it failed, or a signal ended a fetch; 2 wrong usage.\n",
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static double gb_per_second(uint64_t ms)
{
	return (double)(file_size_mb << 20) / (double)(ms ? ms : 1) / 1e6;
}

/* Bytes that differ from piece to piece and from run to run: xorshift64 (Marsaglia 2003). */
static void fill(uint64_t *p, uint64_t bytes)
{
	uint64_t x = seed, i;

	if (!x && getrandom(&x, sizeof(x), 0) != sizeof(x))
		x = (uint64_t)getpid() + now_ms();
	x |= 1;
	for (i = 0; i < bytes / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = x;
	}
}

static int memory_alloc(mc_memory **memory, struct mc_p2p_range *range, bool prefault)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;

	attr.length = file_size_mb << 20;
	attr.flags = prefault ? MC_MEMORY_PREFAULT : 0;
	if (mc_memory_alloc(&attr, memory))
		return out_error("%s", mc_errmsg());
	range->addr = mc_memory_addr(*memory);
	range->length = attr.length;
	return 0;
}

/* As the classic example prints a list: [{name shard total [sizes]}]. */
static int print_object(const struct mc_p2p_object *found, void *arg)
{
	uint32_t i;

	printf("%s{", *(bool *)arg ? " " : "[");
	*(bool *)arg = true;
	out_text(stdout, found->name, false);
	printf(" %" PRIu64 " %" PRIu64 " [", found->max_shard_size, found->bytes);
	for (i = 0; i < found->size_count; i++)
		printf("%s%" PRIu64, i ? " " : "", found->size_list[i]);
	printf("]}");
	return 0;
}

static void print_list(mc_p2p *store)
{
	char prefix[256];
	bool any = false;

	snprintf(prefix, sizeof(prefix), "%.*s", (int)strcspn(object, "/"), object);
	if (mc_p2p_list(store, prefix, print_object, &any)) {
		out_warn("%s", mc_errmsg());
		return;
	}
	puts(any ? "]" : "[]");
}

static void serve(mc_p2p *store, const char *root)
{
	printf("Root %s\n", root);
	printf("Receivers: p2p-store-example --cmd=inferencer --metadata_server=%s%s%s --object=%s%s%s "
	       "--file_size_mb=%" PRIu64 "\n",
	       o.metadata_server, !strcmp(o.metadata_server, "P2PHANDSHAKE") ? " --peers=" : "",
	       !strcmp(o.metadata_server, "P2PHANDSHAKE") ? mc_p2p_name(store) : "", object,
	       !strcmp(o.metadata_server, "P2PHANDSHAKE") ? "@" : "",
	       !strcmp(o.metadata_server, "P2PHANDSHAKE") ? root : "", file_size_mb);
	printf("Idle for %" PRIu64 " seconds, now you can start another terminal to simulate inference\n",
	       idle);
	fflush(stdout);
	p2p_signalled((double)idle);
}

static int trainer(mc_p2p *store, const struct mc_p2p_place *place)
{
	struct mc_p2p_register_attr attr = MC_P2P_REGISTER_ATTR_INIT;
	char root[MC_P2P_ROOT_TEXT];
	uint64_t start, ms;

	fill(place->ranges->addr, place->ranges->length);
	attr.max_shard_size = shard_bytes;
	attr.flags = force ? MC_P2P_FORCE : 0;
	printf("Object registration: name %s base address %" PRIxPTR " file size %" PRIu64 " MB\n", object,
	       (uintptr_t)place->ranges->addr, file_size_mb);
	fflush(stdout);
	start = now_ms();
	if (mc_p2p_register(store, object, place, &attr, root))
		return out_error("%s", mc_errmsg());
	ms = now_ms() - start;
	printf("Object registration done: duration (ms) %" PRIu64 " throughput (GB/s) %.2f\n", ms,
	       gb_per_second(ms));
	print_list(store);
	serve(store, root);
	if (mc_p2p_unregister(store, object))
		return out_error("%s", mc_errmsg());
	return 0;
}

static int inferencer(mc_p2p *store, const struct mc_p2p_place *place)
{
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct mc_p2p_progress progress;
	char name[256], size[OUT_SIZE_TEXT];
	uint64_t start, ms, until = now_ms() + wait_s * 1000;
	bool told = false, may_lack;
	mc_p2p_task *task;
	int ret;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(object, "@"), object);
	attr.timeout_ms = (uint32_t)timeout_ms;
	attr.stall_ms = (uint32_t)stall_ms;
	printf("Object retrieval started: name %s\n", name);
	fflush(stdout);
	do {
		start = now_ms();
		if (mc_p2p_get_start(store, object, place, &attr, &task))
			return out_error("%s", mc_errmsg());
		may_lack = start < until;
		ret = p2p_fetch(name, task, may_lack, &progress);
		if (ret == -ENOENT && may_lack && !told) {
			out_warn("object %s is not registered yet: waiting %" PRIu64 " s for it", name,
				 wait_s);
			told = true;
		}
	} while (ret == -ENOENT && may_lack && !p2p_signalled(0.2));
	if (ret == -ENOENT && may_lack)
		return out_error("interrupted while waiting for object %s", name);
	if (ret)
		return 1;
	ms = now_ms() - start;
	printf("Object retrieval done: duration (ms) %" PRIu64 " throughput (GB/s) %.2f\n", ms,
	       gb_per_second(ms));
	printf("Verified %u pieces, %s of it from the trainer\n", progress.pieces,
	       out_size(progress.from_seeds, size));
	if (keep) {
		printf("Serving for %" PRIu64 " seconds\n", idle);
		fflush(stdout);
		p2p_signalled((double)idle);
	}
	if (mc_p2p_delete_replica(store, name))
		return out_error("%s", mc_errmsg());
	return 0;
}

int main(int argc, char **argv)
{
	bool train;
	struct mc_p2p_range range;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	mc_memory *memory;
	mc_p2p *store;
	int status;

	out_init("p2p-store-example");
	opt_parse(&set, argc, argv);
	p2p_block_signals();
	train = !strcmp(cmd, "trainer");
	puts(train ? "Simulated training process started" : "Simulated inference process started");
	fflush(stdout);
	status = p2p_open(&o, &store);
	if (status)
		return out_finish(status);
	place.ranges = &range;
	place.count = 1;
	place.location = "cpu:0";
	status = memory_alloc(&memory, &range, train);
	if (!status) {
		status = train ? trainer(store, &place) : inferencer(store, &place);
		status |= p2p_close(store);
		mc_memory_free(memory);
	} else {
		p2p_close(store);
	}
	if (!status) {
		puts(train ? "Simulated training process stopped gracefully"
			   : "Simulated inference process stopped gracefully");
		if (!train)
			puts("ALL DONE");
	}
	return out_finish(status);
}
