// SPDX-License-Identifier: MIT
/* mooncake-metadata-server: flags around mc_metadata_server_open(), one line about where, until a signal. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <jansson.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <mooncake/admin.h>

#include "common/options.h"
#include "common/output.h"

#define TOOL "mooncake-metadata-server"

static struct {
	uint64_t port, max_bytes;
	bool port_given, bind_given;
	const char *bind, *addr, *log_file, *key_file, *cert_file, *cert_key_file;
	bool insecure, json;
} flags;

static const struct opt table[] = {
	{.name = "port",
	 .type = OPT_UINT,
	 .value = &flags.port,
	 .def = "8080",
	 .min = 0,
	 .max = 65535,
	 .given = &flags.port_given,
	 .group = "Where",
	 .help = "port to listen on; 0 = a free one"},
	{.name = "bind",
	 .type = OPT_TEXT,
	 .value = &flags.bind,
	 .def = "127.0.0.1",
	 .given = &flags.bind_given,
	 .help = "address to listen on; 0.0.0.0 or :: for all"},
	{.name = "addr",
	 .type = OPT_TEXT,
	 .value = &flags.addr,
	 .help = "both at once, as classic servers take them: \":8080\", \"10.0.0.9:8080\", "
		 "\"[::1]:8080\";\nwithout an address it is 127.0.0.1"},
	{.name = "log_file",
	 .type = OPT_TEXT,
	 .value = &flags.log_file,
	 .group = "Keys",
	 .help = "append-only file that keeps the keys over a restart; without it they are in memory only"},
	{.name = "max_bytes",
	 .type = OPT_SIZE,
	 .value = &flags.max_bytes,
	 .def = "1GiB",
	 .min = 4096,
	 .help = "of all keys and values together; beyond it PUT is answered with 507"},
	{.name = "key_file",
	 .type = OPT_TEXT,
	 .value = &flags.key_file,
	 .group = "Who may",
	 .help = "cluster key: requests must carry its token of role \"metadata\" (default: "
		 "$MOONCAKE_KEY_FILE)"},
	{.name = "cert_file",
	 .type = OPT_TEXT,
	 .value = &flags.cert_file,
	 .help = "TLS: certificate chain (PEM)"},
	{.name = "cert_key_file",
	 .type = OPT_TEXT,
	 .value = &flags.cert_key_file,
	 .help = "TLS: its private key (PEM)"},
	{.name = "insecure",
	 .type = OPT_BOOL,
	 .value = &flags.insecure,
	 .help = "allow an address beyond loopback without a cluster key, or without TLS"},
	{.name = "json",
	 .type = OPT_BOOL,
	 .value = &flags.json,
	 .group = "Output",
	 .help = "the start line as a JSON object"},
	{.name = NULL},
};

static const struct opt_set set = {
	.tool = TOOL,
	.usage = "[flags]",
	.summary = "Keeps the metadata of a Mooncake cluster and serves it over HTTP, to classic peers too.",
	.table = table,
	.more = "Exit status: 0 after SIGINT or SIGTERM, 1 if it cannot serve, 2 for a wrong flag.\n"
		"MOONCAKE_KEY_FILE names a cluster key, MOONCAKE_LOG (error, warning, info, debug) how much "
		"is said.\n",
};

static int usage(const char *fmt, const char *text)
{
	out_error(fmt, text);
	return OPT_EXIT_USAGE;
}

/* "host:port", ":port", "[v6]:port" into flags.bind and flags.port. */
static int split_addr(void)
{
	static const char wrong[] = "--addr is \":8080\", \"10.0.0.9:8080\" or \"[::1]:8080\", not \"%s\"";
	static char host[256];
	const char *colon = strrchr(flags.addr, ':');
	unsigned long port;
	size_t n;
	char *end;

	if (flags.port_given || flags.bind_given)
		return usage("--addr says what --%s says; give one of them",
			     flags.port_given ? "port" : "bind");
	if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
	    strlen(colon + 1) > 5)
		return usage(wrong, flags.addr);
	port = strtoul(colon + 1, &end, 10);
	n = (size_t)(colon - flags.addr);
	if (port > 65535 || n >= sizeof(host))
		return usage(wrong, flags.addr);
	if (n > 2 && flags.addr[0] == '[' && flags.addr[n - 1] == ']')
		snprintf(host, sizeof(host), "%.*s", (int)n - 2, flags.addr + 1);
	else if (memchr(flags.addr, ':', n) || memchr(flags.addr, '[', n))
		return usage(wrong, flags.addr);
	else
		snprintf(host, sizeof(host), "%.*s", (int)n, flags.addr);
	if (n)
		flags.bind = host;
	flags.port = port;
	return 0;
}

/* An address by which others reach a server that listens on all. */
static void own_address(char *text, size_t size, bool v4_only)
{
	struct ifaddrs *list, *at;
	int want;

	snprintf(text, size, "127.0.0.1");
	if (getifaddrs(&list))
		return;
	for (want = AF_INET; want; want = want == AF_INET && !v4_only ? AF_INET6 : 0)
		for (at = list; at; at = at->ifa_next) {
			struct sockaddr_in6 *six = (struct sockaddr_in6 *)at->ifa_addr;

			if (!at->ifa_addr || at->ifa_addr->sa_family != want || !(at->ifa_flags & IFF_UP) ||
			    at->ifa_flags & IFF_LOOPBACK)
				continue;
			if (want == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr))
				continue;
			if (want == AF_INET)
				inet_ntop(want, &((struct sockaddr_in *)at->ifa_addr)->sin_addr, text,
					  (socklen_t)size);
			else
				inet_ntop(want, &six->sin6_addr, text, (socklen_t)size);
			freeifaddrs(list);
			return;
		}
	freeifaddrs(list);
}

static int announce(const mc_metadata_server *server)
{
	const char *scheme = flags.cert_file ? "https" : "http";
	char host[256], url[320];
	json_t *line;

	if (!strcmp(flags.bind, "0.0.0.0") || !strcmp(flags.bind, "::"))
		own_address(host, sizeof(host), flags.bind[0] == '0');
	else
		snprintf(host, sizeof(host), "%s", flags.bind);
	snprintf(url, sizeof(url), strchr(host, ':') ? "%s://[%s]:%u/metadata" : "%s://%s:%u/metadata",
		 scheme, host, mc_metadata_server_port(server));
	if (flags.json) {
		line = json_pack("{s:s, s:s, s:i, s:s?, s:i, s:s}", "url", url, "bind", flags.bind, "port",
				 (int)mc_metadata_server_port(server), "log_file", flags.log_file, "pid",
				 (int)getpid(), "version", mc_version());
		if (!line || json_dumpf(line, stdout, JSON_COMPACT)) {
			json_decref(line);
			return out_error("no memory for the start line");
		}
		json_decref(line);
		putchar('\n');
	} else {
		printf(TOOL " listening on %s\n", url);
	}
	return fflush(stdout) ? out_error("standard output cannot be written: %s", strerror(errno)) : 0;
}

/* As many connections as the administrator allows at most. */
static void raise_file_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur == files.rlim_max)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *server;
	sigset_t ends;
	int caught, status;

	out_init(TOOL);
	opt_parse(&set, argc, argv);
	if (flags.addr) {
		status = split_addr();
		if (status)
			return status;
	}
	if (!flags.cert_file != !flags.cert_key_file)
		return usage("TLS needs a certificate and its private key: give --%s too",
			     flags.cert_file ? "cert_key_file" : "cert_file");
	/* Before any thread is made: the signals that end it wait for sigwait() below. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	raise_file_limit();
	attr.port = (uint16_t)flags.port;
	attr.bind = flags.bind;
	attr.log_file = flags.log_file;
	attr.key_file = flags.key_file;
	attr.cert_file = flags.cert_file;
	attr.cert_key_file = flags.cert_key_file;
	attr.max_bytes = flags.max_bytes;
	attr.flags = flags.insecure ? MC_METADATA_SERVER_INSECURE : 0;
	if (mc_metadata_server_open(&attr, &server))
		return out_error("%s", mc_errmsg());
	status = announce(server);
	while (!status && sigwait(&ends, &caught))
		;
	mc_metadata_server_close(server);
	return status;
}
