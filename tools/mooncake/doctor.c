// SPDX-License-Identifier: MIT
/* mooncake doctor: runs the checks, prints one line each with the fix below, exits 1 if one failed. */
#include "doctor.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "commands.h"

static struct {
	bool json, insecure;
	const char *devices;
} flags;

static json_t *findings;
static unsigned int counts[3];

static const struct opt table[] = {
	SERVICE_FLAGS,
	{ .name = "device_name",
	  .type = OPT_TEXT,
	  .value = &flags.devices,
	  .group = "RDMA",
	  .help = "RDMA devices to test, comma-separated; all with an active port if not given" },
	{ .name = "insecure",
	  .type = OPT_BOOL,
	  .value = &flags.insecure,
	  .help = "reach a PEER of P2PHANDSHAKE beyond this host without a cluster key" },
	{ .name = "json",
	  .type = OPT_BOOL,
	  .value = &flags.json,
	  .group = "Output",
	  .help = "findings as JSON" },
	{ .name = NULL },
};

static const struct opt_set set = {
	.tool = "mooncake doctor",
	.usage = "[flags] [PEER]",
	.summary = "Tests what usually goes wrong on a host: limits, kernel settings, shared memory, RDMA devices, "
		   "configuration, cluster key, metadata service. With PEER, the name of a segment: whether it is "
		   "reached, and every pair of RDMA devices from here to there. It changes nothing.",
	.table = table,
	.positional_max = 1,
	.more = "Exit status: 0 if nothing failed (warnings are allowed), 1 if something did, 2 for a wrong "
		"flag.\n",
};

void finding(enum finding_status status, const char *check, const char *fix, const char *fmt, ...)
{
	static const char *const names[] = { "ok", "warn", "fail" };
	char detail[1200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(detail, sizeof(detail), fmt, args);
	va_end(args);
	counts[status]++;
	json_array_append_new(findings, json_pack("{ss ss ss ss?}", "status", names[status], "check", check,
						  "detail", detail, "fix", fix));
	if (flags.json)
		return;
	printf("%-5s %-16s %s\n", names[status], check, detail);
	if (fix)
		printf("%-5s %-16s fix: %s\n", "", "", fix);
	fflush(stdout);
}

const char *small_file(const char *path, char *out, int size)
{
	FILE *f = fopen(path, "re");

	out[0] = '\0';
	if (!f)
		return out;
	if (!fgets(out, size, f))
		out[0] = '\0';
	fclose(f);
	out[strcspn(out, "\n")] = '\0';
	return out;
}

int64_t small_number(const char *path, int64_t missing)
{
	char text[64], *end;
	long long value;

	small_file(path, text, sizeof(text));
	errno = 0;
	value = strtoll(text, &end, 10);
	return end == text || errno ? missing : value;
}

static bool check_config(void)
{
	const char *path = service.config ? service.config : getenv("MOONCAKE_CONFIG");

	if (mc_config_check(service.config)) {
		finding(FINDING_FAIL, "configuration", "correct it, then \"mooncake config check\"", "%s",
			mc_errmsg());
		return false;
	}
	if (path && *path)
		finding(FINDING_OK, "configuration", NULL, "%s is good", path);
	else
		finding(FINDING_OK, "configuration", NULL, "no file; defaults and the environment");
	return true;
}

static void check_key(void)
{
	char *setting = setting_text(service.config, "security.key_file"), id[17];
	const char *path = service.key_file ? service.key_file : setting;

	if (!path)
		finding(FINDING_OK, "cluster key", NULL,
			"none: whoever may read the metadata service may reach the segments (\"mooncake key "
			"new\" makes one)");
	else if (mc_key_id(path, id))
		finding(FINDING_FAIL, "cluster key",
			"chmod 600 the file, or make a key with \"mooncake key new\"", "%s", mc_errmsg());
	else
		finding(FINDING_OK, "cluster key", NULL, "%s, id %s (must be the same on every host)", path,
			id);
	free(setting);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void check_metadata(void)
{
	char *setting = setting_text(service.config, "engine.metadata"), *value = NULL;
	const char *uri = service.metadata_server ? service.metadata_server : setting;
	struct mc_engine_attr attr;
	double start = seconds();
	int ret;

	if (!uri) {
		finding(FINDING_OK, "metadata", NULL, "not tested: give --metadata_server to have it tested");
	} else if (!strcmp(uri, "P2PHANDSHAKE")) {
		finding(FINDING_OK, "metadata", NULL, "P2PHANDSHAKE: no server is needed");
	} else {
		service_attr(&attr);
		ret = mc_metadata_get(&attr, "mooncake/doctor/probe", &value);
		if (!ret || ret == -ENOENT)
			finding(FINDING_OK, "metadata", NULL, "%s answers in %.1f ms", uri,
				(seconds() - start) * 1e3);
		else
			finding(FINDING_FAIL, "metadata",
				"start it (\"mooncake-metadata-server\", etcd, redis), or correct address, "
				"user and key",
				"%s", mc_errmsg());
		free(value);
	}
	free(setting);
}

int cmd_doctor(int argc, char **argv)
{
	const char *peer = opt_parse(&set, argc, argv) ? argv[1] : NULL;
	json_t *rails = NULL;
	bool configured;

	findings = json_array();
	check_kernel();
	check_memlock();
	check_open_files();
	check_huge_pages();
	check_shm_space();
	check_process_copy();
	check_module();
	check_congestion();
	check_socket_buffers();
	check_port_range();
	check_proxy();
	configured = check_config();
	if (configured) {
		check_key();
		check_metadata();
		check_rdma(flags.devices);
		rails = peer ? check_peer(peer, flags.devices, flags.insecure, !flags.json) : NULL;
	}
	if (flags.json)
		return print_json(json_pack("{so si si si so*}", "findings", findings, "ok",
					    (int)counts[FINDING_OK], "warnings", (int)counts[FINDING_WARN],
					    "failures", (int)counts[FINDING_FAIL], "rails", rails)) ||
		       counts[FINDING_FAIL];
	json_decref(findings);
	json_decref(rails);
	printf("%u ok, %u warning%s, %u failure%s\n", counts[FINDING_OK], counts[FINDING_WARN],
	       counts[FINDING_WARN] == 1 ? "" : "s", counts[FINDING_FAIL],
	       counts[FINDING_FAIL] == 1 ? "" : "s");
	return counts[FINDING_FAIL] ? 1 : 0;
}
