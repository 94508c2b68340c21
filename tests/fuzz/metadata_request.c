// SPDX-License-Identifier: MIT
/*
 * Whole requests to the metadata server, as bytes on a connection: request lines, escapes, conditions,
 * times to live, bodies. It must answer or hang up within seconds, and be well afterwards.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <mooncake/admin.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static mc_metadata_server *server;

static void check(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	abort();
}

static void end(void)
{
	mc_metadata_server_close(server);
}

/* Sends all, then no more; reads to the end. Bytes of the answer, up to @size - 1 kept. */
static size_t exchange(const void *data, size_t length, char *reply, size_t size)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				       .sin_port = htons(mc_metadata_server_port(server)) };
	struct linger now = { .l_onoff = 1 };
	struct timeval limit = { .tv_sec = 8 };
	size_t total = 0, sent = 0;
	ssize_t n;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	check(fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address)), "connect");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));	/* no ports left in TIME_WAIT */
	while (sent < length) {
		n = send(fd, (const char *)data + sent, length - sent, MSG_NOSIGNAL);
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	shutdown(fd, SHUT_WR);
	for (;;) {
		char rest[4096];

		n = total < size - 1 ? recv(fd, reply + total, size - 1 - total, 0) : recv(fd, rest, sizeof(rest), 0);
		if (n <= 0)
			break;
		if (total < size - 1)
			total += (size_t)n;
	}
	check(!n || errno != EAGAIN, "neither an answer nor the end");
	reply[total] = 0;
	close(fd);
	return total;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char health[] = "GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	static unsigned int round;
	char reply[1024];

	if (!server) {
		attr.max_bytes = 16 << 20;
		check(!mc_metadata_server_open(&attr, &server), mc_errmsg());
		atexit(end);
	}
	exchange(data, size, reply, sizeof(reply));
	if (++round % 256)
		return 0;
	exchange(health, sizeof(health) - 1, reply, sizeof(reply));
	check(!strncmp(reply, "HTTP/1.1 200", 12) && strstr(reply, "OK"), "health");
	return 0;
}
