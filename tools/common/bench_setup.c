// SPDX-License-Identifier: MIT
/* Both sides of the bench: engine, one buffer per NUMA node, registration, signals, clocks. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "free_name.h"
#include "output.h"

uint64_t bench_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double bench_cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void bench_block_signals(struct bench *b)
{
	sigemptyset(&b->signals);
	sigaddset(&b->signals, SIGINT);
	sigaddset(&b->signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &b->signals, NULL);
}

bool bench_signalled(const struct bench *b, double seconds)
{
	uint64_t end = bench_now_ns() + (uint64_t)(seconds * 1e9), now;
	struct timespec wait;

	for (;;) {
		now = bench_now_ns();
		wait.tv_sec = now < end ? (time_t)((end - now) / 1000000000u) : 0;
		wait.tv_nsec = now < end ? (long)((end - now) % 1000000000u) : 0;
		if (sigtimedwait(&b->signals, NULL, &wait) > 0)
			return true;
		if (errno != EINTR || bench_now_ns() >= end)
			return false;
	}
}

/* NUMA nodes that have memory, from a list such as "0-1,3"; one node if the system does not say. */
static unsigned int numa_nodes(int nodes[BENCH_NODES])
{
	FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
	unsigned int count = 0;
	int first, last;
	char next;

	while (file && fscanf(file, "%d", &first) == 1) {
		last = first;
		next = (char)fgetc(file);
		if (next == '-' && fscanf(file, "%d", &last) == 1)
			next = (char)fgetc(file);
		for (; first <= last && count < BENCH_NODES; first++)
			nodes[count++] = first;
		if (next != ',')
			break;
	}
	if (file)
		fclose(file);
	if (!count)
		nodes[count++] = MC_NUMA_ANY;
	return count;
}

struct fill {
	pthread_t thread;
	uint8_t *addr;
	uint64_t length;
};

static void *fill_part(void *arg)
{
	struct fill *part = arg;

	memset(part->addr, 0xcc, part->length);
	return NULL;
}

/* As the classic bench fills its buffers; with every core, since a fresh GiB takes long on one. */
static void fill_memory(uint8_t *addr, uint64_t length)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	struct fill parts[16];
	uint64_t piece;
	int n, i;

	n = cores < 1 ? 1 : cores > 16 ? 16 : (int)cores;
	piece = length / (unsigned int)n;
	for (i = 0; i < n; i++) {
		parts[i].addr = addr + piece * (unsigned int)i;
		parts[i].length = i == n - 1 ? length - piece * (unsigned int)i : piece;
		if (pthread_create(&parts[i].thread, NULL, fill_part, &parts[i])) {
			fill_part(&parts[i]);
			parts[i].length = 0;
		}
	}
	for (i = 0; i < n; i++)
		if (parts[i].length)
			pthread_join(parts[i].thread, NULL);
}

/* Allocate and fill the buffer of one node; memory of a name that is still intact keeps its content. */
static int buffer_alloc(struct bench *b, struct bench_buffer *buffer, unsigned int count)
{
	struct mc_memory_attr memory = MC_MEMORY_ATTR_INIT;
	struct mc_memory_info info = {.size = sizeof(info)};
	const struct bench_options *o = b->o;
	char name[256];

	memory.length = buffer->length;
	memory.numa_node = buffer->node;
	memory.page_size = o->page_size;
	memory.flags = MC_MEMORY_PREFAULT;
	if (!strcmp(o->memory, "anonymous")) {
		memory.flags |= MC_MEMORY_PRIVATE;
	} else if (!strcmp(o->memory, "memfd")) {
		memory.flags |= MC_MEMORY_NO_MODULE;
	} else if (!strncmp(o->memory, "named:", 6)) {
		if (count > 1)
			snprintf(name, sizeof(name), "%s.%d", o->memory + 6, buffer->node);
		else
			snprintf(name, sizeof(name), "%s", o->memory + 6);
		memory.name = name;
	}
	if (mc_memory_alloc(&memory, &buffer->memory)) {
		out_error("%s", mc_errmsg());
		return -1;
	}
	buffer->addr = mc_memory_addr(buffer->memory);
	if (o->init_mem && !mc_memory_info(buffer->memory, &info) && !info.reattached)
		fill_memory(buffer->addr, buffer->length);
	return 0;
}

static int buffers_alloc(void *arg)
{
	struct bench *b = arg;
	unsigned int i;

	for (i = 0; i < b->buffer_count; i++)
		if (buffer_alloc(b, &b->buffers[i], b->buffer_count))
			return -1;
	return 0;
}

static int buffer_register(struct bench *b, struct bench_buffer *buffer, uint32_t rights)
{
	struct mc_region_attr region = MC_REGION_ATTR_INIT;
	char location[32];

	region.rights = rights;
	region.memory = buffer->memory;
	snprintf(location, sizeof(location), "cpu:%d", buffer->node);
	region.location = buffer->node >= 0 ? location : NULL;
	if (!mc_engine_register(b->engine, buffer->addr, buffer->length, &region, &buffer->region))
		return 0;
	out_error("%s", mc_errmsg());
	return -1;
}

static int engine_open(void *arg)
{
	struct bench *b = arg;
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	const struct bench_options *o = b->o;
	char name[512];
	int rc;

	attr.flags = (o->classic ? MC_ENGINE_CLASSIC : 0) | (o->insecure ? MC_ENGINE_INSECURE : 0) |
		     (o->require_ack ? MC_ENGINE_REQUIRE_ACK : 0) | (o->integrity ? MC_ENGINE_INTEGRITY : 0) |
		     (o->checksum ? MC_ENGINE_CHECKSUM : 0) |
		     (strcmp(o->mode, "target") ? 0 : MC_ENGINE_PUBLISH_LATER);
	attr.metadata = o->metadata_server;
	attr.name = o->local_server_name;
	attr.transports = o->protocol_given || strcmp(o->protocol, "auto") ? o->protocol : NULL;
	attr.bind = o->bind;
	attr.advertise = o->advertise;
	attr.key_file = o->key_file;
	attr.config_file = o->config;
	attr.io_threads = (uint32_t)o->io_threads;
	attr.streams = (uint32_t)o->streams;
	/* The classic default names a device that few machines have: it counts only when it was meant. */
	attr.devices = o->device_given ? o->device_name : NULL;
	attr.nic_matrix = *o->nic_priority_matrix ? o->nic_priority_matrix : NULL;
	if (o->auto_discovery)
		attr.devices = attr.nic_matrix = ""; /* all, and not what the configuration says, either */
	rc = mc_engine_open(&attr, &b->engine);
	if (rc == -EADDRINUSE && !o->name_given && !strcmp(o->mode, "initiator") &&
	    !free_name(o->local_server_name, name, sizeof(name))) {
		attr.name = name;
		rc = mc_engine_open(&attr, &b->engine);
	}
	if (rc)
		out_error("%s", mc_errmsg());
	b->usage = rc == -EINVAL;
	return rc ? -1 : 0;
}

struct step {
	int (*run)(void *arg);
	void *arg;
	int ret, done_fd;
};

static void *step_main(void *arg)
{
	struct step *step = arg;

	step->ret = step->run(step->arg);
	if (eventfd_write(step->done_fd, 1))
		abort(); /* a fresh eventfd takes a one */
	return NULL;
}

static void interrupted(struct bench *b, bool engine_idle)
{
	if (engine_idle && b->engine)
		mc_engine_close(b->engine);
	out_error("interrupted while setting up");
	_exit(1);
}

int bench_step(struct bench *b, bool engine_idle, int (*run)(void *arg), void *arg)
{
	struct step step = {.run = run, .arg = arg, .done_fd = eventfd(0, EFD_CLOEXEC)};
	struct pollfd wait[2] = {{.fd = step.done_fd, .events = POLLIN},
				 {.fd = signalfd(-1, &b->signals, SFD_CLOEXEC), .events = POLLIN}};
	pthread_t thread;
	int err = 0;

	if (wait[0].fd < 0 || wait[1].fd < 0)
		err = errno;
	if (!err)
		err = pthread_create(&thread, NULL, step_main, &step);
	if (err) {
		out_error("cannot start a thread: %s%s", strerror(err),
			  err == EMFILE ? "; raise the limit on open files (ulimit -n)" : "");
		step.ret = -1;
	} else {
		while (poll(wait, 2, -1) < 0 || !wait[0].revents)
			if (wait[1].revents & POLLIN)
				interrupted(b, engine_idle);
		pthread_join(thread, NULL);
	}
	for (err = 0; err < 2; err++)
		if (wait[err].fd >= 0)
			close(wait[err].fd);
	return step.ret;
}

int bench_open(struct bench *b) { return bench_step(b, false, engine_open, b); }

/* The engine is open before, so that mistakes show early; it shows itself to peers with the first region. */
int bench_add_buffers(struct bench *b, uint64_t length, uint32_t rights)
{
	int nodes[BENCH_NODES];
	unsigned int i;

	b->buffer_count = numa_nodes(nodes);
	for (i = 0; i < b->buffer_count; i++) {
		b->buffers[i].node = nodes[i];
		b->buffers[i].length = length;
	}
	if (bench_step(b, true, buffers_alloc, b))
		return -1;
	for (i = 0; i < b->buffer_count; i++)
		if (buffer_register(b, &b->buffers[i], rights))
			return -1;
	return 0;
}

void bench_close(struct bench *b)
{
	struct bench_buffer *buffer;

	while (b->buffer_count) {
		buffer = &b->buffers[--b->buffer_count];
		if (buffer->region && mc_engine_unregister(buffer->region, MC_UNREGISTER_WAIT))
			out_warn("%s", mc_errmsg());
		else if (buffer->memory && mc_memory_free(buffer->memory))
			out_warn("%s", mc_errmsg());
	}
	if (b->engine && mc_engine_close(b->engine))
		out_warn("%s", mc_errmsg());
	b->engine = NULL;
}
