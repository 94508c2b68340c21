// SPDX-License-Identifier: MIT
/* How long memory takes until every page is there: by kind, and by the number of cores that touch it. */
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <mooncake/memory.h>

#include "../../tools/common/options.c"

static struct {
	uint64_t bytes, repeats;
	bool json;
} flags;

static const struct opt table[] = {
	{ .name = "bytes",
	  .type = OPT_SIZE,
	  .value = &flags.bytes,
	  .def = "8GiB",
	  .min = 4096,
	  .help = "of each memory" },
	{ .name = "repeats",
	  .type = OPT_UINT,
	  .value = &flags.repeats,
	  .def = "3",
	  .min = 1,
	  .max = 100,
	  .help = "of each; the fastest is printed" },
	{ .name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "one JSON object per line" },
	{ .name = NULL },
};

static const struct opt_set set = {
	.tool = "prefault",
	.usage = "[flags]",
	.summary = "Allocates memory with MC_MEMORY_PREFAULT on 1, 2, 4, ... cores and prints seconds and "
		   "GiB/s.",
	.table = table,
	.more = "Exit status: 0, 1 if an allocation failed, 77 if the machine has not enough memory.\n",
};

static const struct kind {
	const char *label;
	uint32_t flags;
	uint64_t page_size;
} kinds[] = {
	{ "shared", 0, 0 },
	{ "shared, base pages", 0, 4096 },
	{ "private", MC_MEMORY_PRIVATE, 0 },
	{ "private, base pages", MC_MEMORY_PRIVATE, 4096 },
};

/* The first @count of the cores in @all. */
static int use_cores(const cpu_set_t *all, int count)
{
	cpu_set_t some;

	CPU_ZERO(&some);
	for (int i = 0; i < CPU_SETSIZE && count; i++) {
		if (CPU_ISSET(i, all)) {
			CPU_SET(i, &some);
			count--;
		}
	}
	return sched_setaffinity(0, sizeof(some), &some);
}

static int measure(const struct kind *kind, int cores)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	struct mc_memory_info info = { .size = sizeof(info) };
	uint64_t best = UINT64_MAX;
	mc_memory *memory;
	double seconds, rate;

	attr.length = flags.bytes;
	attr.flags = kind->flags | MC_MEMORY_PREFAULT;
	attr.page_size = kind->page_size;
	for (uint64_t i = 0; i < flags.repeats; i++) {
		if (mc_memory_alloc(&attr, &memory)) {
			fprintf(stderr, "prefault: %s\n", mc_errmsg());
			return 1;
		}
		info.size = sizeof(info);
		mc_memory_info(memory, &info);
		if (info.prefault_ns < best)
			best = info.prefault_ns;
		mc_memory_free(memory);
	}
	seconds = (double)best / 1e9;
	rate = (double)info.length / seconds / (1 << 30);
	if (flags.json)
		printf("{\"memory\": \"%s\", \"kind\": \"%s\", \"page_size\": %llu, \"cores\": %d, "
		       "\"bytes\": %llu, "
		       "\"seconds\": %.4f, \"gib_per_s\": %.3f}\n",
		       kind->label, info.kind, (unsigned long long)info.page_size, cores,
		       (unsigned long long)info.length, seconds, rate);
	else
		printf("%-20s  %-13s  %5llu KiB  %5d  %8.3f  %6.2f\n", kind->label, info.kind,
		       (unsigned long long)info.page_size >> 10, cores, seconds, rate);
	fflush(stdout);
	return 0;
}

static bool enough_memory(void)
{
	unsigned long long kb = 0;
	char line[160];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "MemAvailable: %llu kB", &kb) != 1)
		;
	if (f)
		fclose(f);
	return kb >> 10 > (flags.bytes >> 20) + 256;
}

int main(int argc, char **argv)
{
	cpu_set_t all;
	int total;

	opt_parse(&set, argc, argv);
	if (!enough_memory()) {
		printf("skipped: less than --bytes=%llu and 256 MiB are available\n",
		       (unsigned long long)flags.bytes);
		return 77;
	}
	if (sched_getaffinity(0, sizeof(all), &all))
		return 1;
	total = CPU_COUNT(&all);
	if (!flags.json)
		printf("%-20s  %-13s  %9s  %5s  %8s  %6s\n", "memory", "kind", "page", "cores", "seconds",
		       "GiB/s");
	for (unsigned int k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		for (int cores = 1; cores <= total;
		     cores = cores < total && 2 * cores > total ? total : 2 * cores) {
			if (use_cores(&all, cores) || measure(&kinds[k], cores))
				return 1;
		}
	}
	return 0;
}
