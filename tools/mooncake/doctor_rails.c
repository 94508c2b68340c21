// SPDX-License-Identifier: MIT
/* Every pair of RDMA devices to a peer: does something come through, at what MTU and speed, and if not, the fix. */
#include "doctor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "commands.h"

#define OPEN_MS 10000
#define SAMPLE_MS 5000	  /* at most, for one batch */
#define SAMPLE_SECONDS 0.3 /* of batches, then no more is begun */
#define SAMPLE_BYTES (4u << 20)
#define SAMPLE_REQUESTS 4

struct sample {
	mc_engine *engine;
	const char *peer;
	mc_memory *memory;
	mc_region *region;
};

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static bool is(json_t *rail, const char *key) { return json_is_true(json_object_get(rail, key)); }
static int number_of(json_t *rail, const char *key)
{
	return (int)json_integer_value(json_object_get(rail, key));
}
static bool is_up(json_t *rail) { return !strcmp(text_of(rail, "state"), "up"); }

static double now_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- speed ---- */

/* A region that may be read, and is reached by RDMA. */
static bool readable(mc_segment *segment, struct mc_segment_region *region)
{
	for (unsigned int i = 0; i < mc_segment_region_count(segment); i++) {
		*region = (struct mc_segment_region){ .size = sizeof(*region) };
		if (!mc_segment_region(segment, i, region) && region->rights & MC_REMOTE_READ &&
		    !strcmp(region->path, "rdma"))
			return true;
	}
	return false;
}

static int read_once(struct sample *s, mc_batch *batch, mc_segment *segment, const struct mc_segment_region *from,
		     uint64_t length)
{
	struct mc_submit_attr submit = MC_SUBMIT_ATTR_INIT;
	struct mc_remote remote = { .region = from->id };
	char *to = mc_memory_addr(s->memory);
	struct mc_status status;
	int ret = 0;

	submit.timeout_ms = SAMPLE_MS;
	for (unsigned int i = 0; i < SAMPLE_REQUESTS && !ret; i++)
		ret = mc_batch_add(batch, MC_READ, to + i * length, segment, remote, length);
	if (!ret)
		ret = mc_batch_submit(batch, &submit);
	if (!ret)
		ret = mc_batch_wait(batch, -1);
	for (unsigned int i = 0; i < SAMPLE_REQUESTS && !ret; i++)
		if (!mc_batch_status(batch, i, &status) && status.state != MC_DONE)
			ret = status.error ? status.error : -EIO;
	mc_batch_reset(batch);
	return ret;
}

/* Bytes per second through that pair alone; 0: nothing there may be read; negative errno: it does not work. */
static double measure(struct sample *s, json_t *rail)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	struct mc_segment_region from;
	mc_batch *batch = NULL;
	mc_segment *segment;
	double rate = 0, begin, bytes = 0;
	uint64_t length;
	char pair[160];
	int ret;

	snprintf(pair, sizeof(pair), "%s:%s", text_of(rail, "own"), text_of(rail, "peer"));
	attr.rails = pair;
	attr.transports = "rdma";
	attr.timeout_ms = OPEN_MS;
	ret = mc_segment_open(s->engine, s->peer, &attr, &segment);
	if (ret)
		return ret;
	if (readable(segment, &from)) {
		length = from.length < SAMPLE_BYTES / SAMPLE_REQUESTS ? from.length : SAMPLE_BYTES / SAMPLE_REQUESTS;
		ret = mc_batch_alloc(s->engine, SAMPLE_REQUESTS, &batch);
		begin = now_seconds();
		do {
			if (!ret)
				ret = read_once(s, batch, segment, &from, length);
			bytes += (double)length * SAMPLE_REQUESTS;
		} while (!ret && now_seconds() - begin < SAMPLE_SECONDS);
		rate = ret ? ret : bytes / (now_seconds() - begin);
		if (batch)
			mc_batch_free(batch);
	}
	mc_segment_close(segment);
	return rate;
}

static int prepare(struct sample *s)
{
	struct mc_memory_attr memory = MC_MEMORY_ATTR_INIT;
	struct mc_region_attr region = MC_REGION_ATTR_INIT;

	memory.length = SAMPLE_BYTES;
	region.rights = 0;
	if (mc_memory_alloc(&memory, &s->memory))
		return -1;
	region.memory = s->memory;
	return mc_engine_register(s->engine, mc_memory_addr(s->memory), SAMPLE_BYTES, &region, &s->region);
}

static void measure_all(struct sample *s, json_t *rails)
{
	json_t *rail;
	size_t i;

	if (prepare(s)) {
		finding(FINDING_WARN, "speed", "raise the limit on locked memory (ulimit -l)", "not measured: %s",
			mc_errmsg());
	} else {
		json_array_foreach(rails, i, rail)
		{
			double rate = is_up(rail) ? measure(s, rail) : 0;

			progress_line("%s:%s", text_of(rail, "own"), text_of(rail, "peer"));
			if (rate > 0)
				json_object_set_new(rail, "bytes_per_second", json_integer((json_int_t)rate));
			if (rate >= 0)
				continue;
			json_object_set_new(rail, "state", json_string("failed"));
			json_object_set_new(rail, "large_error", json_string(strerror((int)-rate)));
		}
		progress_clear();
	}
	if (s->region)
		mc_engine_unregister(s->region, MC_UNREGISTER_WAIT);
	if (s->memory)
		mc_memory_free(s->memory);
}

/* ---- what to do ---- */

static bool is_link_local(const char *gid)
{
	return !strncmp(gid, "fe80:", 5) || !strncmp(gid, "169.254.", 8) || !strncmp(gid, "127.", 4);
}

static void describe_fix(json_t *rail, char *out, size_t size)
{
	const char *own = text_of(rail, "own"), *peer = text_of(rail, "peer"), *own_gid = text_of(rail, "own_gid"),
		   *peer_gid = text_of(rail, "peer_gid");

	if (!is(rail, "own_up"))
		snprintf(out, size, "bring the network interface of %s up (ip link set ... up); check its cable", own);
	else if (!is(rail, "peer_up"))
		snprintf(out, size,
			 "on the peer: bring the network interface of %s up (ip link set ... up); check its cable",
			 peer);
	else if (!is(rail, "same_link_layer"))
		snprintf(out, size, "leave one of the two out with --device_name: InfiniBand does not reach Ethernet");
	else if (json_object_get(rail, "large_error"))
		snprintf(out, size,
			 "a few bytes come through and %u KiB do not: raise the MTU of every switch on the way, or set "
			 "MC_MTU=1024 on both sides",
			 SAMPLE_BYTES / SAMPLE_REQUESTS >> 10);
	else if (is_link_local(own_gid) && !is_link_local(peer_gid))
		snprintf(out, size,
			 "give the network interface of %s an address that reaches %s (ip addr add ... dev ...): "
			 "without one its GID is link-local, %s",
			 own, peer_gid, own_gid);
	else if (is_link_local(peer_gid) && !is_link_local(own_gid))
		snprintf(out, size,
			 "on the peer: give the network interface of %s an address that reaches %s (ip addr add "
			 "... dev ...); without one its GID is link-local, %s",
			 peer, own_gid, peer_gid);
	else if (!strchr(own_gid, '.') != !strchr(peer_gid, '.'))
		snprintf(out, size,
			 "choose GIDs of one kind on both sides: %s and %s are not (MC_GID_INDEX; \"mooncake "
			 "topology --json\" lists them)",
			 own_gid, peer_gid);
	else
		snprintf(out, size,
			 "make \"ping -I %s %s\" work (addresses, routes, VLAN), and let UDP port 4791 through "
			 "firewalls",
			 own_gid, peer_gid);
}

/* Does another pair with the same device on that side work? */
static bool has_other(json_t *rails, json_t *rail, const char *side)
{
	json_t *other;
	size_t i;

	json_array_foreach(rails, i, other)
		if (is_up(other) && !strcmp(text_of(other, side), text_of(rail, side)))
			return true;
	return false;
}

static void judge(json_t *rails)
{
	char fix[512], name[160];
	const char *error;
	json_t *rail;
	bool spare;
	size_t i;

	json_array_foreach(rails, i, rail)
	{
		snprintf(name, sizeof(name), "%s:%s", text_of(rail, "own"), text_of(rail, "peer"));
		if (is_up(rail)) {
			if (number_of(rail, "own_mtu") == number_of(rail, "peer_mtu"))
				continue;
			snprintf(fix, sizeof(fix), "ip link set dev INTERFACE mtu 4200 (or 9000) on both, for %d bytes",
				 number_of(rail, "own_mtu") > number_of(rail, "peer_mtu") ? number_of(rail, "own_mtu")
										      : number_of(rail, "peer_mtu"));
			finding(FINDING_WARN, name, fix, "the ports differ in MTU, %d here and %d there; %d is used",
				number_of(rail, "own_mtu"), number_of(rail, "peer_mtu"), number_of(rail, "mtu"));
			continue;
		}
		describe_fix(rail, fix, sizeof(fix));
		json_object_set_new(rail, "fix", json_string(fix));
		/* Networks of many rails are often kept apart on purpose: then each device has a partner. */
		spare = has_other(rails, rail, "own") && has_other(rails, rail, "peer");
		error = json_object_get(rail, "large_error") ? text_of(rail, "large_error") : text_of(rail, "error");
		finding(spare ? FINDING_WARN : FINDING_FAIL, name, fix, "%s%s%s%s",
			strcmp(text_of(rail, "state"), "down") ? "does not work" : "a port is down", *error ? ": " : "",
			error, spare ? "; both devices have another way, which transfers take" : "");
	}
}

static void print_table(json_t *rails)
{
	struct out_table *t = out_table_new(false);
	char speed[OUT_SIZE_TEXT + 2];
	json_t *rail;
	size_t i;

	out_table_row(t, "device here|there|state|GID here|there|MTU|speed");
	json_array_foreach(rails, i, rail)
	{
		json_int_t rate = json_integer_value(json_object_get(rail, "bytes_per_second"));

		snprintf(speed, sizeof(speed), "-");
		if (rate > 0)
			snprintf(speed, sizeof(speed), "%.2f MB/s", (double)rate / 1e6);
		out_table_row(t, "%s|%s|%s|%s|%s|%d|%s", text_of(rail, "own"), text_of(rail, "peer"),
			      text_of(rail, "state"), text_of(rail, "own_gid"), text_of(rail, "peer_gid"),
			      number_of(rail, "mtu"), speed);
	}
	putchar('\n');
	out_table_print(t, stdout);
	putchar('\n');
}

/* ---- */

/* By TCP, which RDMA needs too: it is how both sides tell each other of their devices. */
static bool check_reached(mc_engine *engine, const char *peer)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	mc_segment *segment;

	attr.transports = "tcp";
	if (mc_segment_open(engine, peer, &attr, &segment)) {
		finding(FINDING_FAIL, "peer", "start it, or correct its name, the metadata service and the key", "%s",
			mc_errmsg());
		return false;
	}
	finding(FINDING_OK, "peer", NULL, "%s is reached over TCP, and has %u region%s", peer,
		mc_segment_region_count(segment), mc_segment_region_count(segment) == 1 ? "" : "s");
	mc_segment_close(segment);
	return true;
}

/* The pairs, each tried, or only @pair; NULL: the peer has none. */
static json_t *try_rails(mc_engine *engine, const char *peer, const char *pair)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	json_t *paths, *rails = NULL;
	mc_segment *segment;
	char *text = NULL;

	attr.transports = "rdma";
	attr.flags = MC_SEGMENT_TRY_RAILS;
	attr.timeout_ms = OPEN_MS;
	attr.rails = pair;
	if (mc_segment_open(engine, peer, &attr, &segment)) {
		finding(FINDING_FAIL, "rails", "run \"mooncake doctor\" there: the peer may have found no RDMA device",
			"%s", mc_errmsg());
		return NULL;
	}
	if (!mc_engine_paths(engine, &text)) {
		paths = json_loads(text, 0, NULL);
		rails = json_object_get(
			json_array_get(json_object_get(json_array_get(paths, 0), "paths"), 0), "rails");
		json_incref(rails);
		json_decref(paths);
	}
	free(text);
	mc_segment_close(segment);
	return rails;
}

/* Those that were not decided in time, as many dead ones delay each other, are tried alone. */
static void try_again(mc_engine *engine, const char *peer, json_t *rails)
{
	char pair[160];
	json_t *rail, *alone;
	size_t i;

	json_array_foreach(rails, i, rail)
	{
		if (strcmp(text_of(rail, "state"), "opening") && strcmp(text_of(rail, "state"), "idle"))
			continue;
		snprintf(pair, sizeof(pair), "%s:%s", text_of(rail, "own"), text_of(rail, "peer"));
		alone = try_rails(engine, peer, pair); /* all pairs again, in the same order */
		if (json_array_get(alone, i))
			json_object_update(rail, json_array_get(alone, i));
		json_decref(alone);
	}
}

/* Those of @devices that have an active port, so that one that is down does not hide the others; free() it. */
static char *active_of(const char *devices)
{
	char *text = NULL, *list = calloc(1, strlen(devices) + 1), *copy = strdup(devices), *save = NULL, *name;
	json_t *topology, *device;
	size_t i;

	topology = list && copy && !mc_topology_show(&text) ? json_loads(text, 0, NULL) : NULL;
	for (name = topology ? strtok_r(copy, ",", &save) : NULL; name; name = strtok_r(NULL, ",", &save)) {
		json_array_foreach(json_object_get(topology, "rdma_devices"), i, device)
			if (!strcmp(text_of(device, "name"), name) && number_of(device, "active_ports"))
				strcat(strcat(list, *list ? "," : ""), name);
	}
	json_decref(topology);
	free(text);
	free(copy);
	return list;
}

json_t *check_peer(const char *peer, const char *devices, bool insecure, bool print)
{
	struct sample sample = { .peer = peer };
	char *active = devices ? active_of(devices) : NULL;
	json_t *rails = NULL;
	int ret;

	ret = service_engine(insecure, "tcp,rdma", active && *active ? active : devices, &sample.engine);
	free(active);
	if (!ret) {
		if (check_reached(sample.engine, peer))
			rails = try_rails(sample.engine, peer, NULL);
	} else {
		finding(FINDING_FAIL, "rails", "correct what fails above", "none could be tried: %s", mc_errmsg());
		if (service_engine(insecure, "tcp", NULL, &sample.engine))
			return NULL;
		check_reached(sample.engine, peer);
	}
	if (rails) {
		try_again(sample.engine, peer, rails);
		measure_all(&sample, rails);
		if (print)
			print_table(rails);
		judge(rails);
	}
	mc_engine_close(sample.engine);
	return rails;
}
