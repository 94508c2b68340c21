// SPDX-License-Identifier: MIT
/* Checks of network settings and devices. They only look. */
#include "doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"

void check_congestion(void)
{
	char name[64];

	small_file("/proc/sys/net/ipv4/tcp_congestion_control", name, sizeof(name));
	if (!*name)
		finding(FINDING_WARN, "congestion", NULL, "net.ipv4.tcp_congestion_control cannot be read");
	else if (!strncmp(name, "bbr", 3))
		finding(FINDING_WARN, "congestion",
			"sysctl net.ipv4.tcp_congestion_control=cubic, and compare with \"mooncake bench\"",
			"%s paces its packets: on loopback and in one rack that can cost throughput", name);
	else
		finding(FINDING_OK, "congestion", NULL, "%s", name);
}

/* Third number of tcp_rmem, tcp_wmem: how far the kernel tunes a connection's buffer by itself. */
static int64_t tuned_max(const char *path)
{
	char text[128];
	long long low, middle, high;

	small_file(path, text, sizeof(text));
	return sscanf(text, "%lld %lld %lld", &low, &middle, &high) == 3 ? high : -1;
}

void check_socket_buffers(void)
{
	int64_t rmem = tuned_max("/proc/sys/net/ipv4/tcp_rmem"),
		wmem = tuned_max("/proc/sys/net/ipv4/tcp_wmem");
	int64_t rmem_max = small_number("/proc/sys/net/core/rmem_max", -1);
	int64_t wmem_max = small_number("/proc/sys/net/core/wmem_max", -1);
	char r[OUT_SIZE_TEXT], w[OUT_SIZE_TEXT], rm[OUT_SIZE_TEXT], wm[OUT_SIZE_TEXT];

	if (rmem < 0 || wmem < 0) {
		finding(FINDING_WARN, "socket buffers", NULL,
			"net.ipv4.tcp_rmem and tcp_wmem cannot be read");
		return;
	}
	out_size((uint64_t)rmem, r);
	out_size((uint64_t)wmem, w);
	out_size(rmem_max < 0 ? 0 : (uint64_t)rmem_max, rm);
	out_size(wmem_max < 0 ? 0 : (uint64_t)wmem_max, wm);
	if (rmem < 4 << 20 || wmem < 4 << 20)
		finding(FINDING_WARN, "socket buffers",
			"sysctl net.ipv4.tcp_rmem=\"4096 131072 67108864\" net.ipv4.tcp_wmem=\"4096 65536 "
			"67108864\"",
			"TCP buffers grow to %s (receive) and %s (send) only: too little for fast links with "
			"some distance",
			r, w);
	else
		finding(FINDING_OK, "socket buffers", NULL,
			"grow to %s (receive) and %s (send); rmem_max %s, wmem_max %s", r, w, rm, wm);
}

static int64_t setting_number(const char *key, int64_t missing)
{
	char *text = setting_text(service.config, key);
	int64_t value = text ? strtoll(text, NULL, 10) : missing;

	free(text);
	return value;
}

/* Ports that the kernel hands to outgoing connections may be taken just when we want to listen. */
void check_port_range(void)
{
	int64_t low = setting_number("engine.port_low", 15000),
		high = setting_number("engine.port_high", 17000);
	long long first, last;
	char text[64];

	small_file("/proc/sys/net/ipv4/ip_local_port_range", text, sizeof(text));
	if (sscanf(text, "%lld %lld", &first, &last) != 2)
		return;
	if (high >= first && low <= last)
		finding(FINDING_WARN, "port range",
			"other engine.port_low and engine.port_high, or sysctl net.ipv4.ip_local_port_range",
			"%lld-%lld overlaps the ports of outgoing connections (%lld-%lld)", (long long)low,
			(long long)high, first, last);
	else
		finding(FINDING_OK, "port range", NULL,
			"%lld-%lld, clear of outgoing connections (%lld-%lld)", (long long)low,
			(long long)high, first, last);
}

void check_proxy(void)
{
	static const char *const names[] = { "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
					     "ALL_PROXY" };
	char *use = setting_text(service.config, "metadata.use_proxy");
	const char *found = NULL;

	for (unsigned int i = 0; !found && i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			found = names[i];
	}
	if (!found)
		finding(FINDING_OK, "http proxy", NULL, "none in the environment");
	else if (use && !strcmp(use, "true"))
		finding(FINDING_WARN, "http proxy", "metadata.use_proxy: false, unless it is meant so",
			"$%s is set, and metadata requests go through it (metadata.use_proxy)", found);
	else
		finding(FINDING_WARN, "http proxy",
			"put the metadata server into no_proxy for the sake of other programs",
			"$%s is set: ours bypass it for metadata, classic tools and curl do not", found);
	free(use);
}
