// SPDX-License-Identifier: MIT
/* Checks of RDMA on this host: library, devices, ports, GIDs, device nodes; last, whether an engine opens with them. */
#include "doctor.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static bool listed(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = list; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, name, n) && (p[n] == ',' || !p[n]))
			return true;
	return !list;
}

static void check_library(void)
{
	void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		finding(FINDING_FAIL, "RDMA library", "apt-get install libibverbs1 ibverbs-providers",
			"there is an RDMA device, and libibverbs.so.1 cannot be loaded: %s", dlerror());
	else
		dlclose(library);
}

/* The number of the uverbs device of @name, "" if the kernel has none. */
static void uverbs_of(const char *name, char out[64])
{
	DIR *dir = opendir("/sys/class/infiniband_verbs");
	char path[320], device[64];
	struct dirent *entry;

	out[0] = '\0';
	while (dir && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, "uverbs", 6))
			continue;
		snprintf(path, sizeof(path), "/sys/class/infiniband_verbs/%s/ibdev", entry->d_name);
		if (!strcmp(small_file(path, device, sizeof(device)), name))
			snprintf(out, 64, "%.63s", entry->d_name);
	}
	if (dir)
		closedir(dir);
}

static void check_node(const char *name)
{
	char uverbs[64], path[96];

	uverbs_of(name, uverbs);
	if (!*uverbs) {
		finding(FINDING_FAIL, "RDMA access", "modprobe ib_uverbs", "%s has no uverbs device", name);
		return;
	}
	snprintf(path, sizeof(path), "/dev/infiniband/%s", uverbs);
	if (!access(path, R_OK | W_OK))
		return;
	if (errno == EACCES || errno == EPERM)
		finding(FINDING_FAIL, "RDMA access",
			"chmod 666 the device, or put this user into its group (usually rdma)",
			"this user may not open %s of %s", path, name);
	else
		finding(FINDING_FAIL, "RDMA access",
			"start udev; in a container add --device=/dev/infiniband (and --ulimit memlock=-1)",
			"%s of %s cannot be opened: %s", path, name, strerror(errno));
}

/* The fix for a port that is not active. */
static void port_fix(json_t *port, char *out, size_t size)
{
	const char *netdev = text_of(port, "netdev");

	if (!strcmp(text_of(port, "link_layer"), "InfiniBand") && !strcmp(text_of(port, "state"), "INIT"))
		snprintf(out, size, "start a subnet manager in the fabric (opensm)");
	else if (*netdev)
		snprintf(out, size, "ip link set %s up; if it is, check cable, module and the switch's port", netdev);
	else
		snprintf(out, size, "bring its network interface up (ip link); check cable and the switch's port");
}

/* The port of a device that transfers use. */
static void check_port(const char *name, json_t *port, bool others)
{
	const char *why = text_of(port, "gid_why"), *netdev = text_of(port, "netdev");
	char fix[200];

	if (strcmp(text_of(port, "state"), "ACTIVE")) {
		port_fix(port, fix, sizeof(fix));
		finding(others ? FINDING_WARN : FINDING_FAIL, "RDMA port", fix, "port %d of %s is %s (%s)%s",
			(int)json_integer_value(json_object_get(port, "port")), name, text_of(port, "state"),
			text_of(port, "physical_state"), others ? "; it is not used" : "");
		return;
	}
	if (!json_is_integer(json_object_get(port, "gid_index"))) {
		snprintf(fix, sizeof(fix),
			 "\"mooncake topology --json\" lists the GIDs; ip addr add ADDRESS/LENGTH dev %s",
			 *netdev ? netdev : "INTERFACE");
		finding(FINDING_FAIL, "RDMA GID", fix, "%s: %s", name, why);
	} else if (strstr(why, "link-local") || strstr(why, "loopback") || strstr(why, "RoCE v1")) {
		snprintf(fix, sizeof(fix), "ip addr add ADDRESS/LENGTH dev %s (an address that the peers reach)",
			 *netdev ? netdev : "INTERFACE");
		finding(FINDING_WARN, "RDMA GID", fix, "%s: %s", name, why);
	} else {
		finding(FINDING_OK, "RDMA", NULL, "%s: %s, %s", name, text_of(port, "rate"), why);
	}
}

/* The proof: an engine on loopback, under no name, takes the devices. */
static void check_opens(const char *devices)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = "P2PHANDSHAKE";
	attr.bind = "127.0.0.1";
	attr.name = "127.0.0.1:0";
	attr.transports = "rdma";
	attr.devices = devices;
	attr.config_file = service.config;
	attr.key_file = service.key_file;
	if (mc_engine_open(&attr, &engine)) {
		finding(FINDING_FAIL, "RDMA engine", "correct what fails above; apt-get install ibverbs-providers",
			"%s", mc_errmsg());
		return;
	}
	finding(FINDING_OK, "RDMA engine", NULL, "opens with these devices");
	mc_engine_close(engine);
}

void check_rdma(const char *devices)
{
	json_t *topology, *device, *port;
	unsigned int count = 0, active = 0;
	char *text;
	size_t i, p;

	if (mc_topology_show(&text)) {
		finding(FINDING_WARN, "RDMA", NULL, "%s", mc_errmsg());
		return;
	}
	topology = json_loads(text, 0, NULL);
	free(text);
	json_array_foreach(json_object_get(topology, "rdma_devices"), i, device)
	{
		count += listed(devices, text_of(device, "name"));
		active += json_integer_value(json_object_get(device, "active_ports")) > 0;
	}
	if (!count && !devices)
		finding(FINDING_OK, "RDMA", NULL, "no device; data moves over TCP and shared memory");
	if (count)
		check_library();
	json_array_foreach(json_object_get(topology, "rdma_devices"), i, device)
	{
		const char *name = text_of(device, "name");

		if (!listed(devices, name))
			continue;
		check_node(name);
		json_array_foreach(json_object_get(device, "port_list"), p, port)
			check_port(name, port, !devices && active > 0);
	}
	json_decref(topology);
	if (count || devices)
		check_opens(devices);
}
