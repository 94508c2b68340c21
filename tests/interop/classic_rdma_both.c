// SPDX-License-Identifier: MIT
/*
 * An engine that serves classic peers and writes to one at the same time: classic_rdma_both SEGMENT NIC.
 * Prints "ready NAME", waits for a line on its standard input, then writes patterns to the segment and reads them back
 * until SIGTERM. Its own memory that peers may reach is another region, 16 MiB, which it leaves alone.
 * SEGMENT "self" is its own, reached as a classic peer would. Exit status: 0; 1, with a sentence.
 */
#include <mooncake/mooncake.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SIZE (512u << 10)
#define SERVED (16u << 20)

static volatile sig_atomic_t over;

static void on_term(int sig)
{
	(void)sig;
	over = 1;
}

static void must(int ret, const char *what)
{
	if (!ret)
		return;
	fprintf(stderr, "%s: %s\n", what, mc_errmsg());
	exit(1);
}

static void *memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(1);
	return p;
}

static void move(mc_batch *batch, enum mc_op op, uint8_t *local, mc_segment *segment, uint64_t base)
{
	struct mc_remote remote = {.region = MC_REGION_BY_ADDRESS, .offset = base};
	struct mc_status status = {0};

	must(mc_batch_reset(batch), "reset");
	must(mc_batch_add(batch, op, local, segment, remote, SIZE), "add");
	must(mc_batch_submit(batch, NULL), "submit");
	must(mc_batch_wait(batch, 60000), "wait");
	must(mc_batch_status(batch, 0, &status), "status");
	if (status.state == MC_DONE)
		return;
	fprintf(stderr, "a %s ended in state %d: %s\n", op == MC_READ ? "read" : "write", status.state,
		strerror(-status.error));
	exit(1);
}

int main(int argc, char **argv)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	struct mc_segment_region remote = {.size = sizeof(remote)};
	struct mc_region_attr local = MC_REGION_ATTR_INIT;
	struct mc_segment_attr how = MC_SEGMENT_ATTR_INIT;
	mc_region *served, *buffer;
	uint8_t *out, *in;
	mc_segment *segment;
	unsigned int rounds = 0, i;
	mc_engine *engine;
	mc_batch *batch;
	char line[16];

	if (argc != 3)
		return 2;
	signal(SIGTERM, on_term);
	attr.metadata = "P2PHANDSHAKE";
	attr.name = "127.0.0.1";
	attr.transports = "rdma,rdma-classic";
	attr.devices = argv[2];
	attr.flags = MC_ENGINE_CLASSIC;
	must(mc_engine_open(&attr, &engine), "open");
	must(mc_engine_register(engine, memory(SERVED), SERVED, NULL, &served), "register");
	out = memory(2 * SIZE);
	in = out + SIZE;
	local.rights = 0;
	must(mc_engine_register(engine, out, 2 * SIZE, &local, &buffer), "register");
	printf("ready %s\n", mc_engine_name(engine));
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	if (!strcmp(argv[1], "self"))
		how.transports = "rdma-classic";
	must(mc_segment_open(engine, how.transports ? mc_engine_name(engine) : argv[1], &how, &segment), "segment");
	must(mc_segment_region(segment, 0, &remote), "region");
	if (strcmp(remote.path, "rdma-classic")) {
		fprintf(stderr, "the path is %s\n", remote.path);
		return 1;
	}
	must(mc_batch_alloc(engine, 1, &batch), "batch");
	for (; !over; rounds++) {
		for (i = 0; i < SIZE; i++)
			out[i] = (uint8_t)(i * 7 + rounds);
		memset(in, 0, SIZE);
		move(batch, MC_WRITE, out, segment, remote.base);
		move(batch, MC_READ, in, segment, remote.base);
		if (memcmp(out, in, SIZE)) {
			fprintf(stderr, "round %u: other bytes were read than written\n", rounds);
			return 1;
		}
	}
	must(mc_batch_free(batch), "free");
	must(mc_segment_close(segment), "close");
	must(mc_engine_unregister(buffer, MC_UNREGISTER_WAIT), "unregister");
	must(mc_engine_unregister(served, MC_UNREGISTER_WAIT), "unregister");
	must(mc_engine_close(engine), "close");
	printf("%u rounds\n", rounds);
	return 0;
}
