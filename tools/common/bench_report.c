// SPDX-License-Identifier: MIT
/* What a run has shown: the classic line and more below it, a table for a sweep, or one JSON object. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "bench.h"
#include "output.h"

static const char *op_name(enum mc_op op) { return op == MC_READ ? "read" : "write"; }

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static void set_int(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static double quantile_us(const struct bench_result *r, double q)
{
	return (double)histogram_quantile(&r->latency, q) / 1e3;
}

static json_t *latency_json(const struct bench_result *r)
{
	json_t *o = json_object();

	json_object_set_new(o, "p50", number(quantile_us(r, 0.5)));
	json_object_set_new(o, "p90", number(quantile_us(r, 0.9)));
	json_object_set_new(o, "p99", number(quantile_us(r, 0.99)));
	json_object_set_new(o, "p999", number(quantile_us(r, 0.999)));
	json_object_set_new(o, "max", number(r->latency.count ? (double)r->latency.max / 1e3 : 0));
	json_object_set_new(o, "mean",
			    number(r->latency.count ? r->latency.sum / (double)r->latency.count / 1e3 : 0));
	return o;
}

static json_t *result_json(const struct bench *b, const struct bench_result *r)
{
	json_t *o = json_object();

	json_object_set_new(o, "operation", json_string(b->o->check ? "check" : op_name(r->shape.op)));
	set_int(o, "block_size", r->shape.block);
	set_int(o, "batch_size", r->shape.batch);
	set_int(o, "threads", r->shape.threads);
	set_int(o, "depth", b->o->depth);
	json_object_set_new(o, "duration", number(r->seconds));
	set_int(o, "batches", r->batches);
	set_int(o, "requests", r->requests);
	set_int(o, "bytes", r->bytes);
	json_object_set_new(o, "bytes_per_second", number(r->rate));
	json_object_set_new(o, "throughput", number(r->rate / b->o->unit_bytes));
	json_object_set_new(o, "throughput_unit", json_sprintf("%s/s", b->o->report_unit));
	json_object_set_new(o, "requests_per_second",
			    number(r->seconds > 0 ? (double)r->requests / r->seconds : 0));
	json_object_set_new(o, "batch_latency_us", latency_json(r));
	json_object_set_new(o, "cpu_seconds_per_gib_initiator", number(r->cpu_own));
	json_object_set_new(o, "cpu_seconds_per_gib_target", number(r->cpu_target));
	json_object_set_new(o, "path", json_string(r->path));
	set_int(o, "failed", r->failed);
	set_int(o, "timed_out", r->timed_out);
	set_int(o, "stale", r->stale);
	set_int(o, "cancelled", r->cancelled);
	set_int(o, "unconfirmed", r->unconfirmed);
	set_int(o, "reopened", r->reopened);
	if (b->o->check) {
		set_int(o, "checked_bytes", r->checked_bytes);
		set_int(o, "wrong_bytes", r->wrong_bytes);
		set_int(o, "rounds", r->rounds);
	}
	set_int(o, "data_path_allocs", r->allocs);
	json_object_set_new(o, "interrupted", json_boolean(r->interrupted));
	json_object_set_new(o, "last_error", r->error[0] ? json_string(r->error) : json_null());
	return o;
}

static json_t *paths_json(const struct bench *b)
{
	json_t *paths = NULL;
	char *text = NULL;

	if (!mc_engine_paths(b->engine, &text))
		paths = json_loads(text, 0, NULL);
	free(text);
	return paths ? paths : json_null();
}

static void stats_json(const struct bench *b, json_t *root)
{
	struct mc_engine_stats s = {.size = sizeof(s)};
	json_t *o;

	if (mc_engine_stats(b->engine, &s))
		return;
	o = json_object();
	set_int(o, "requests", s.requests);
	set_int(o, "requests_done", s.requests_done);
	set_int(o, "requests_failed", s.requests_failed);
	set_int(o, "requests_timed_out", s.requests_timed_out);
	set_int(o, "requests_cancelled", s.requests_cancelled);
	set_int(o, "requests_unconfirmed", s.requests_unconfirmed);
	set_int(o, "requests_stale", s.requests_stale);
	set_int(o, "bytes_read", s.bytes_read);
	set_int(o, "bytes_written", s.bytes_written);
	set_int(o, "reconnects", s.reconnects);
	set_int(o, "resent_requests", s.resent_requests);
	set_int(o, "data_path_allocs", s.data_path_allocs);
	json_object_set_new(root, "engine", o);
}

static void print_json(const struct bench *b, json_t *root)
{
	json_object_set_new(root, "version", json_string(mc_version()));
	json_object_set_new(root, "segment", json_string(b->o->segment_id));
	json_object_set_new(root, "local", json_string(mc_engine_name(b->engine)));
	json_object_set_new(root, "protocol", json_string(b->o->protocol));
	json_object_set_new(root, "paths", paths_json(b));
	stats_json(b, root);
	json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(root);
}

static const char *seconds_text(double seconds, char text[OUT_SIZE_TEXT])
{
	if (isfinite(seconds))
		snprintf(text, OUT_SIZE_TEXT, "%.3f", seconds);
	else
		snprintf(text, OUT_SIZE_TEXT, "unknown");
	return text;
}

void bench_print_nics(const struct bench *b, const char *before)
{
	json_t *list, *nic;
	char *text;
	size_t i;

	if (mc_engine_nics(b->engine, &text))
		return;
	list = json_loads(text, 0, NULL);
	free(text);
	json_array_foreach(list, i, nic) printf("%s%s: %s\n", before, json_string_value(json_object_get(nic, "name")),
						json_string_value(json_object_get(nic, "gid_why")));
	json_decref(list);
}

static void print_text(const struct bench *b, const struct bench_result *r)
{
	char a[OUT_SIZE_TEXT], c[OUT_SIZE_TEXT], d[OUT_SIZE_TEXT], e[OUT_SIZE_TEXT];
	const struct bench_options *o = b->o;
	uint64_t i;

	for (i = 0; i < r->shape.threads; i++)
		printf("Worker %llu stopped!\n", (unsigned long long)i);
	printf("Test completed: duration %.2f, batch count %llu, throughput %.*f %s/s\n", r->seconds,
	       (unsigned long long)r->batches, (int)o->report_precision, r->rate / o->unit_bytes,
	       o->report_unit);
	printf("  requests:  %.0f/s, each a %s of %s; %llu a batch, %llu thread%s\n",
	       r->seconds > 0 ? (double)r->requests / r->seconds : 0.0,
	       o->check ? "write and read back" : op_name(r->shape.op), out_size(r->shape.block, a),
	       (unsigned long long)r->shape.batch, (unsigned long long)r->shape.threads,
	       r->shape.threads == 1 ? "" : "s");
	if (r->latency.count)
		printf("  latency:   of a batch p50 %s, p99 %s, p99.9 %s, longest %s\n",
		       out_time(quantile_us(r, 0.5), a), out_time(quantile_us(r, 0.99), c),
		       out_time(quantile_us(r, 0.999), d), out_time((double)r->latency.max / 1e3, e));
	printf("  CPU:       seconds per GiB: initiator %s, target %s\n", seconds_text(r->cpu_own, a),
	       seconds_text(r->cpu_target, c));
	printf("  path:      %s, %s%s\n", r->path[0] ? r->path : "none",
	       strcmp(o->protocol, "auto") ? "as asked by --protocol=" : "the best that both sides have",
	       strcmp(o->protocol, "auto") ? o->protocol : "");
	if (!strncmp(r->path, "rdma", 4))
		bench_print_nics(b, "  NIC:       ");
	printf("  failures:  %llu failed, %llu timed out, %llu stale, segment re-opened %llu times\n",
	       (unsigned long long)r->failed, (unsigned long long)r->timed_out, (unsigned long long)r->stale,
	       (unsigned long long)r->reopened);
	if (r->unconfirmed)
		printf("  unconfirmed: %llu writes to a classic v1 peer were sent, no more is known of "
		       "them\n",
		       (unsigned long long)r->unconfirmed);
	if (o->check)
		printf("  check:     %llu rounds, %s written and read back, %llu wrong bytes\n",
		       (unsigned long long)r->rounds, out_size(r->checked_bytes, a),
		       (unsigned long long)r->wrong_bytes);
	if (r->error[0])
		printf("  last error: %s\n", r->error);
}

void bench_report(const struct bench *b, const struct bench_result *result)
{
	if (b->o->json)
		print_json(b, result_json(b, result));
	else
		print_text(b, result);
}

void bench_report_sweep(const struct bench *b, const struct bench_result *results, unsigned int count)
{
	const struct bench_options *o = b->o;
	json_t *root, *runs;
	struct out_table *table;
	char a[OUT_SIZE_TEXT], c[OUT_SIZE_TEXT], d[OUT_SIZE_TEXT], e[OUT_SIZE_TEXT], f[OUT_SIZE_TEXT];
	const struct bench_result *r;
	unsigned int i;

	if (o->json) {
		runs = json_array();
		for (i = 0; i < count; i++)
			json_array_append_new(runs, result_json(b, &results[i]));
		root = json_object();
		json_object_set_new(root, "sweep", runs);
		print_json(b, root);
		return;
	}
	table = out_table_new(false);
	out_table_row(table,
		      "operation|block|batch|threads|%s/s|requests/s|p50|p99|p99.9|CPU-s/GiB "
		      "here|there|failed|path",
		      o->report_unit);
	for (i = 0; i < count; i++) {
		r = &results[i];
		out_table_row(table, "%s|%s|%llu|%llu|%.*f|%.0f|%s|%s|%s|%s|%s|%llu|%s",
			      o->check ? "check" : op_name(r->shape.op), out_size(r->shape.block, a),
			      (unsigned long long)r->shape.batch, (unsigned long long)r->shape.threads,
			      (int)o->report_precision, r->rate / o->unit_bytes,
			      r->seconds > 0 ? (double)r->requests / r->seconds : 0.0,
			      out_time(quantile_us(r, 0.5), c), out_time(quantile_us(r, 0.99), d),
			      out_time(quantile_us(r, 0.999), e), seconds_text(r->cpu_own, f),
			      isfinite(r->cpu_target) ? seconds_text(r->cpu_target, (char[OUT_SIZE_TEXT]){0})
						      : "unknown",
			      (unsigned long long)(r->failed + r->timed_out + r->stale), r->path);
	}
	out_table_print(table, stdout);
}
