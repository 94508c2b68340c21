// SPDX-License-Identifier: MIT
/*
 * What the kernel module costs and gains, as tables in markdown: copies between two processes by kind of
 * memory, beside memcpy(); from kill -9 to memory that is attached again; the first touch of a page, and
 * taking it back; the module's own memory. Repeats are interleaved, figures are medians.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/mooncake.h>

#include "../../tools/common/options.c"

#define REPEATS_MAX 101
#define COUNTERS "/sys/kernel/debug/mooncake/counters"

static struct {
	uint64_t bytes, kept, repeats, touched;
} flags;

static const struct opt table[] = {
	{"bytes", OPT_SIZE, &flags.bytes, "64M", 1 << 20, 1ll << 40, .help = "copied at a time"},
	{"kept", OPT_SIZE, &flags.kept, "1G", 4096, 1ll << 40, .help = "memory that outlives its process"},
	{"touched", OPT_SIZE, &flags.touched, "256M", 4096, 1ll << 40,
	 .help = "memory that is touched page by page"},
	{"repeats", OPT_UINT, &flags.repeats, "7", 1, REPEATS_MAX, .help = "of everything"},
	{0},
};
static const struct opt_set set = {
	"module_costs",
	"[flags]",
	"Measures the kernel module against memfds, process_vm_readv() and memcpy().",
	table,
	"Exit status: 0; 1; 77 if the module cannot be used.\n",
	0,
	0};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void must(int ret, const char *what)
{
	if (!ret)
		return;
	fprintf(stderr, "module_costs: %s: %s\n", what, mc_errmsg());
	exit(1);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, flags.repeats, sizeof(*values), by_value);
	return values[flags.repeats / 2];
}

/* Memory of base pages; @name may be NULL. */
static uint8_t *memory_of(uint32_t with, uint64_t length, const char *name, mc_memory **memory)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;

	attr.flags = with;
	attr.length = length;
	attr.page_size = 4096;
	attr.name = name;
	must(mc_memory_alloc(&attr, memory), "memory");
	return mc_memory_addr(*memory);
}

static const char *kind_of(mc_memory *memory)
{
	struct mc_memory_info info = {.size = sizeof(info)};

	must(mc_memory_info(memory, &info), "memory");
	return info.kind;
}

/* ---- copies ---- */

static const struct kind {
	const char *label, *path;
	uint32_t flags;
} kinds[] = {
	{"module, attached by key", "module", MC_MEMORY_PREFAULT},
	{"memfd, passed", "memfd", MC_MEMORY_PREFAULT | MC_MEMORY_NO_MODULE},
	{"process_vm_readv, _writev", "process_vm", MC_MEMORY_PREFAULT | MC_MEMORY_PRIVATE},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
static const uint64_t blocks[] = {65536, 1 << 20};
#define BLOCKS (sizeof(blocks) / sizeof(blocks[0]))

static mc_engine *engine_open(void)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = "P2PHANDSHAKE";
	attr.name = "127.0.0.1";
	attr.transports = "shm,tcp";
	must(mc_engine_open(&attr, &engine), "engine");
	return engine;
}

/* The other process: one segment with one region; its name comes through the pipe. */
static pid_t target(const struct kind *kind, char name[256])
{
	mc_memory *memory;
	mc_region *region;
	mc_engine *engine;
	uint8_t *addr;
	int fds[2];
	ssize_t n;
	pid_t pid;

	if (pipe(fds) || (pid = fork()) < 0)
		exit(1);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
		addr = memory_of(kind->flags, flags.bytes, NULL, &memory);
		memset(addr, 0x5a, flags.bytes);
		engine = engine_open();
		must(mc_engine_register(engine, addr, flags.bytes, NULL, &region), "register");
		snprintf(name, 256, "%s", mc_engine_name(engine));
		if (write(fds[1], name, strlen(name)) < 0)
			exit(1);
		close(fds[1]);
		for (;;)
			pause();
	}
	close(fds[1]);
	n = read(fds[0], name, 255);
	close(fds[0]);
	if (n <= 0)
		exit(1);
	name[n] = '\0';
	return pid;
}

static double copy_once(mc_engine *engine, mc_segment *segment, const struct mc_segment_region *region,
			enum mc_op op, uint8_t *local, uint64_t block)
{
	uint32_t count = (uint32_t)(flags.bytes / block);
	struct mc_status status;
	mc_batch *batch;
	double start;

	must(mc_batch_alloc(engine, count, &batch), "batch");
	for (uint32_t i = 0; i < count; i++)
		must(mc_batch_add(batch, op, local + i * block, segment,
				  (struct mc_remote){.region = region->id, .offset = i * block}, block),
		     "batch");
	start = now();
	must(mc_batch_submit(batch, NULL), "submit");
	must(mc_batch_wait(batch, -1), "wait");
	start = now() - start;
	for (uint32_t i = 0; i < count; i++)
		if (mc_batch_status(batch, i, &status) || status.state != MC_DONE) {
			fprintf(stderr, "module_costs: request %u: state %d, error %d\n", i, status.state,
				status.error);
			exit(1);
		}
	must(mc_batch_free(batch), "batch");
	return start;
}

static double memcpy_once(uint8_t *to, const uint8_t *from, uint64_t block)
{
	double start = now();

	for (uint64_t at = 0; at + block <= flags.bytes; at += block)
		memcpy(to + at, from + at, block);
	__asm__ volatile("" ::: "memory");
	return now() - start;
}

static void copies(void)
{
	static double seconds[BLOCKS][2][KINDS + 1][REPEATS_MAX];
	struct mc_segment_region region[KINDS];
	char name[KINDS][256];
	mc_segment *segment[KINDS];
	pid_t pid[KINDS];
	mc_memory *memory, *other;
	mc_region *mine;
	mc_engine *engine;
	uint8_t *local, *second;

	for (unsigned int k = 0; k < KINDS; k++)
		pid[k] = target(&kinds[k], name[k]);
	local = memory_of(MC_MEMORY_PREFAULT, flags.bytes, NULL, &memory);
	second = memory_of(MC_MEMORY_PREFAULT, flags.bytes, NULL, &other);
	memset(local, 1, flags.bytes);
	memset(second, 2, flags.bytes);
	engine = engine_open();
	must(mc_engine_register(engine, local, flags.bytes, NULL, &mine), "register");
	for (unsigned int k = 0; k < KINDS; k++) {
		region[k].size = sizeof(region[k]);
		must(mc_segment_open(engine, name[k], NULL, &segment[k]), "segment");
		must(mc_segment_region(segment[k], 0, &region[k]), "region");
		for (int op = 0; op < 2; op++) /* attached, and every page mapped */
			copy_once(engine, segment[k], &region[k], (enum mc_op)op, local, blocks[0]);
		must(mc_segment_region(segment[k], 0, &region[k]), "region");
		if (!region[k].detail || strncmp(region[k].detail, kinds[k].path, strlen(kinds[k].path))) {
			fprintf(stderr, "module_costs: %s goes by %s (%s)\n", kinds[k].label, region[k].path,
				region[k].detail ? region[k].detail : "");
			exit(1);
		}
	}
	for (uint64_t r = 0; r < flags.repeats; r++)
		for (unsigned int b = 0; b < BLOCKS; b++)
			for (int op = 0; op < 2; op++) {
				for (unsigned int k = 0; k < KINDS; k++)
					seconds[b][op][k][r] = copy_once(engine, segment[k], &region[k],
									 (enum mc_op)op, local, blocks[b]);
				seconds[b][op][KINDS][r] = op ? memcpy_once(second, local, blocks[b])
							      : memcpy_once(local, second, blocks[b]);
			}
	printf("Copies of %llu MiB between two processes, MiB/s, and as a multiple of memcpy() within "
	       "one:\n\n",
	       (unsigned long long)flags.bytes >> 20);
	printf("| | read 64 KiB | write 64 KiB | read 1 MiB | write 1 MiB |\n|---|---|---|---|---|\n");
	for (unsigned int k = 0; k <= KINDS; k++) {
		printf("| %s |", k < KINDS ? kinds[k].label : "memcpy(), one process");
		for (unsigned int b = 0; b < BLOCKS; b++)
			for (int op = 0; op < 2; op++) {
				static double base[REPEATS_MAX], own[REPEATS_MAX];

				memcpy(base, seconds[b][op][KINDS], sizeof(base));
				memcpy(own, seconds[b][op][k], sizeof(own));
				printf(" %.0f", (double)flags.bytes / median(own) / (1 << 20));
				for (uint64_t r = 0; r < flags.repeats; r++)
					own[r] = seconds[b][op][KINDS][r] / seconds[b][op][k][r];
				printf(k < KINDS ? " (%.2f) |" : " |", median(own));
			}
		printf("\n");
	}
	printf("\n");
	for (unsigned int k = 0; k < KINDS; k++) {
		must(mc_segment_close(segment[k]), "close");
		kill(pid[k], SIGKILL);
		waitpid(pid[k], NULL, 0);
	}
	must(mc_engine_unregister(mine, MC_UNREGISTER_WAIT), "unregister");
	must(mc_engine_close(engine), "close");
	must(mc_memory_free(memory), "free");
	must(mc_memory_free(other), "free");
}

/* ---- hot restart ---- */

/* From kill() to memory that is there again with its content, in seconds. */
static double restart_once(uint32_t with, const char *name, double *with_first_read)
{
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;
	struct mc_memory_info info = {.size = sizeof(info)};
	mc_memory *memory;
	uint8_t *addr;
	double start, attached;
	int fds[2], ret;
	char byte;
	pid_t pid;

	if (pipe(fds) || (pid = fork()) < 0)
		exit(1);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		addr = memory_of(with, flags.kept, name, &memory);
		for (uint64_t at = 0; at < flags.kept; at += 4096)
			memset(addr + at, (int)(at >> 12), 64);
		if (write(fds[1], "", 1) != 1)
			exit(1);
		for (;;)
			pause();
	}
	if (read(fds[0], &byte, 1) != 1)
		exit(1);
	close(fds[0]);
	close(fds[1]);
	attr.flags = with | MC_MEMORY_EXISTING;
	attr.length = flags.kept;
	attr.page_size = 4096;
	attr.name = name;
	start = now();
	kill(pid, SIGKILL);
	while ((ret = mc_memory_alloc(&attr, &memory)) == -EBUSY)
		; /* it is dying still */
	attached = now() - start;
	must(ret, "re-attaching");
	must(mc_memory_info(memory, &info), "memory");
	addr = mc_memory_addr(memory);
	for (uint64_t at = 0; at < flags.kept; at += 4096)
		if (!info.reattached || addr[at + 63] != (uint8_t)(at >> 12)) {
			fprintf(stderr, "module_costs: the content is not what was written\n");
			exit(1);
		}
	*with_first_read = now() - start;
	waitpid(pid, NULL, 0);
	must(mc_memory_free(memory), "free");
	must(mc_memory_unlink(name), "unlink");
	return attached;
}

static void restarts(void)
{
	static double seconds[2][2][REPEATS_MAX];
	char name[64];

	snprintf(name, sizeof(name), "module-costs-%d", (int)getpid());
	for (uint64_t r = 0; r < flags.repeats; r++)
		for (unsigned int k = 0; k < 2; k++)
			seconds[k][0][r] = restart_once(k ? MC_MEMORY_NO_MODULE : 0, name, &seconds[k][1][r]);
	printf("From kill -9 of the holder of %llu MiB to another process that has them again:\n\n",
	       (unsigned long long)flags.kept >> 20);
	printf("| | attached | every page read |\n|---|---|---|\n");
	for (unsigned int k = 0; k < 2; k++)
		printf("| %s | %.1f ms | %.0f ms |\n", k ? "file on tmpfs" : "module, kept",
		       median(seconds[k][0]) * 1e3, median(seconds[k][1]) * 1e3);
	printf("\n");
}

/* ---- pages ---- */

static double touch(uint8_t *addr, uint64_t length)
{
	double start = now();

	for (uint64_t at = 0; at < length; at += 4096)
		((volatile uint8_t *)addr)[at] = 1;
	return now() - start;
}

static void pages(void)
{
	static const char *const labels[] = {"module", "memfd", "anonymous"};
	static const uint32_t with[] = {0, MC_MEMORY_NO_MODULE, MC_MEMORY_PRIVATE};
	static double alloc[3][REPEATS_MAX], first[3][REPEATS_MAX], gone[3][REPEATS_MAX];
	double count = (double)flags.touched / 4096, start;
	char name[64];

	snprintf(name, sizeof(name), "module-costs-%d", (int)getpid());
	for (uint64_t r = 0; r < flags.repeats; r++)
		for (unsigned int k = 0; k < 3; k++) {
			mc_memory *memory;
			uint8_t *addr;

			start = now();
			addr = memory_of(with[k], flags.touched, k ? NULL : name, &memory);
			alloc[k][r] = now() - start;
			first[k][r] = touch(addr, flags.touched);
			start = now();
			if (!k)
				must(mc_memory_revoke(name, 0, NULL), "revoke");
			else
				must(mc_memory_free(memory), "free");
			gone[k][r] = now() - start;
			if (!k) {
				must(mc_memory_free(memory), "free");
				must(mc_memory_unlink(name), "unlink");
			}
		}
	printf("Per page of 4 KiB, over %llu MiB, ns (the module's are zeroed when allocated, the others "
	       "when touched):\n\n",
	       (unsigned long long)flags.touched >> 20);
	printf("| | allocate | first touch | both | take back |\n|---|---|---|---|---|\n");
	for (unsigned int k = 0; k < 3; k++) {
		double a = median(alloc[k]) / count * 1e9, f = median(first[k]) / count * 1e9;

		printf("| %s | %.0f | %.0f | %.0f | %.0f (%s) |\n", labels[k], a, f, a + f,
		       median(gone[k]) / count * 1e9, k ? "freed" : "revoked: zapped for all");
	}
	printf("\n");
}

static long long metadata_bytes(void)
{
	FILE *f = fopen(COUNTERS, "re");
	long long value = -1;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "metadata_bytes %lld", &value) == 1)
			break;
	if (f)
		fclose(f);
	return value;
}

static void metadata(void)
{
	long long before, after;
	mc_memory *memory, *small;

	memory_of(0, 4096, NULL, &small); /* the context itself is no part of it */
	before = metadata_bytes();
	memory_of(0, 1 << 30, NULL, &memory);
	after = metadata_bytes();
	if (before < 0 || strcmp(kind_of(memory), "module"))
		printf("The module's own memory is not measured: " COUNTERS
		       " cannot be read, or there is no 1 GiB.\n");
	else
		printf("The module's own memory for a buffer of 1 GiB: %lld bytes, %.4f %% of it.\n",
		       after - before, (double)(after - before) / (1 << 30) * 100);
	must(mc_memory_free(memory), "free");
	must(mc_memory_free(small), "free");
}

int main(int argc, char **argv)
{
	mc_memory *memory;

	opt_parse(&set, argc, argv);
	memory_of(0, 4096, NULL, &memory);
	if (strcmp(kind_of(memory), "module")) {
		printf("skipped: there is no memory of the kernel module here (\"mooncake doctor\" says "
		       "why)\n");
		return 77;
	}
	must(mc_memory_free(memory), "free");
	setvbuf(stdout, NULL, _IOLBF, 0);
	copies();
	restarts();
	pages();
	metadata();
	return 0;
}
