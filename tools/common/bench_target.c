// SPDX-License-Identifier: MIT
/* The target: offers memory until a signal ends it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "bench.h"
#include "options.h"
#include "output.h"

/* Text quoted for a shell, if it needs that. */
static void append(char *line, size_t size, const char *flag, const char *value)
{
	size_t n = strlen(line);
	const char *at;

	n += (size_t)snprintf(line + n, size - n, " --%s=", flag);
	if (n >= size)
		return;
	if (!value[strcspn(value, " \t\n\"'\\$&;|<>()*?[]#~`!{}")]) {
		snprintf(line + n, size - n, "%s", value);
		return;
	}
	if (n + 1 < size)
		line[n++] = '\'';
	for (at = value; *at && n + 5 < size; at++) {
		if (*at == '\'') {
			memcpy(line + n, "'\\''", 4);
			n += 4;
		} else {
			line[n++] = *at;
		}
	}
	snprintf(line + n, size - n, "'");
}

/* The command that reaches this target, ready to be copied. */
static void initiator_command(const struct bench *b, char *line, size_t size)
{
	const struct bench_options *o = b->o;

	snprintf(line, size, "%s --mode=initiator", o->program);
	append(line, size, "metadata_server", o->metadata_server);
	append(line, size, "segment_id", mc_engine_name(b->engine));
	if (o->key_file)
		append(line, size, "key_file", o->key_file);
	if (o->config)
		append(line, size, "config", o->config);
	if (strcmp(o->protocol, "auto"))
		append(line, size, "protocol", o->protocol);
	if (o->insecure)
		append(line, size, "insecure", "true");
	if (o->integrity)
		append(line, size, "integrity", "true");
}

static int print_json(const struct bench *b, const char *command)
{
	const struct bench_options *o = b->o;
	json_t *root, *regions = json_array();
	unsigned int i;
	int rc;

	for (i = 0; i < b->buffer_count; i++)
		json_array_append_new(regions, json_pack("{s:i, s:I, s:i}", "id",
							 (int)mc_region_id(b->buffers[i].region), "length",
							 (json_int_t)b->buffers[i].length, "numa_node",
							 b->buffers[i].node));
	root = json_pack("{s:s, s:s, s:i, s:i, s:s, s:s, s:o, s:s}", "mode", "target", "segment",
			 mc_engine_name(b->engine), "port", (int)mc_engine_port(b->engine), "pid",
			 (int)getpid(), "metadata_server", o->metadata_server, "memory", o->memory, "regions",
			 regions, "initiator", command);
	if (!root)
		return out_error("cannot print the segment name as JSON: it is not valid UTF-8");
	rc = json_dumpf(root, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(root);
	return rc || fflush(stdout) ? out_error("cannot write the output: %s", strerror(errno)) : 0;
}

static int print_text(const struct bench *b, const char *command)
{
	struct mc_memory_info info = {.size = sizeof(info)};
	char size[OUT_SIZE_TEXT], page[OUT_SIZE_TEXT];
	unsigned int i;

	printf("Segment %s, port %u, process %d\n", mc_engine_name(b->engine), mc_engine_port(b->engine),
	       (int)getpid());
	for (i = 0; i < b->buffer_count; i++) {
		mc_memory_info(b->buffers[i].memory, &info);
		printf("Region %u: %s of %s memory in pages of %s on NUMA node %d%s\n",
		       mc_region_id(b->buffers[i].region), out_size(b->buffers[i].length, size), info.kind,
		       out_size(info.page_size, page), b->buffers[i].node,
		       info.reattached ? ", re-attached with its content" : "");
	}
	bench_print_nics(b, "NIC ");
	printf("Ready. To run against it:\n  %s\nCtrl-C ends it.\n", command);
	return fflush(stdout) ? out_error("cannot write the output: %s", strerror(errno)) : 0;
}

/* Until a signal comes; on a terminal with what is being served. */
static void serve(const struct bench *b)
{
	struct mc_engine_stats now = {.size = sizeof(now)}, last = {.size = sizeof(last)};
	const struct bench_options *o = b->o;
	uint64_t then = bench_now_ns(), t;
	double s;

	mc_engine_stats(b->engine, &last);
	while (!bench_signalled(b, progress_on() ? 1 : 3600)) {
		if (!progress_on() || mc_engine_stats(b->engine, &now))
			continue;
		t = bench_now_ns();
		s = (double)(t - then) / 1e9;
		progress_line("served over the network: reads %.*f %s/s, writes %.*f %s/s, refused %llu",
			      (int)o->report_precision,
			      (double)(now.served_bytes_read - last.served_bytes_read) / s / o->unit_bytes,
			      o->report_unit, (int)o->report_precision,
			      (double)(now.served_bytes_written - last.served_bytes_written) / s /
				      o->unit_bytes,
			      o->report_unit, (unsigned long long)now.refused);
		last = now;
		then = t;
	}
	progress_clear();
}

int bench_target(const struct bench_options *o)
{
	struct mc_engine_stats stats = {.size = sizeof(stats)};
	char command[2048], read[OUT_SIZE_TEXT], written[OUT_SIZE_TEXT];
	struct bench b = {.o = o, .started_ns = bench_now_ns()};
	int status;

	bench_block_signals(&b);
	if (bench_open(&b) || bench_add_buffers(&b, o->buffer_size, MC_REMOTE_READ | MC_REMOTE_WRITE)) {
		bench_close(&b);
		return b.usage ? OPT_EXIT_USAGE : 1;
	}
	initiator_command(&b, command, sizeof(command));
	status = o->json ? print_json(&b, command) : print_text(&b, command);
	if (!status)
		serve(&b);
	if (!status && !o->json && !mc_engine_stats(b.engine, &stats))
		printf("Served over the network: %llu reads (%s), %llu writes (%s); refused %llu requests, "
		       "%llu connections\n",
		       (unsigned long long)stats.served_reads, out_size(stats.served_bytes_read, read),
		       (unsigned long long)stats.served_writes, out_size(stats.served_bytes_written, written),
		       (unsigned long long)stats.refused, (unsigned long long)stats.refused_connections);
	bench_close(&b);
	return status;
}
