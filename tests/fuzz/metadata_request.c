// SPDX-License-Identifier: MIT
/*
 * Whole requests to the metadata server, as bytes on a connection: request lines, escapes, conditions,
 * times to live, bodies. It must go on reading, and be well afterwards.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
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

/* The fuzzer's alarm clock may ring in the middle of any call. */
static int ready_within(int fd, short events, int wait_ms)
{
	struct pollfd ready = {.fd = fd, .events = events};
	int n;

	do
		n = poll(&ready, 1, wait_ms);
	while (n < 0 && errno == EINTR);
	return n;
}

static int connected(int fd, const struct sockaddr_in *address)
{
	int error = 0;
	socklen_t length = sizeof(error);

	if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)))
		return 1;
	/* Interrupted, it goes on by itself. */
	return errno == EINTR && ready_within(fd, POLLOUT, 8000) > 0 &&
	       !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) && !error;
}

static void end(void) { mc_metadata_server_close(server); }

/* Sends all and reads what comes within @wait_ms; then the connection is reset. Bytes of the answer. */
static size_t exchange(const void *data, size_t length, int wait_ms, char *reply, size_t size)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				      .sin_port = htons(mc_metadata_server_port(server))};
	struct linger now = {.l_onoff = 1};
	struct timeval limit = {.tv_sec = 8};
	size_t total = 0, sent = 0;
	ssize_t n;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	check(fd >= 0 && connected(fd, &address), "connect");
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)); /* no ports left in TIME_WAIT */
	while (sent < length) {
		n = send(fd, (const char *)data + sent, length - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		check(n > 0 || errno != EAGAIN, "it takes no more bytes");
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	if (ready_within(fd, POLLIN, wait_ms) > 0) {
		n = recv(fd, reply, size - 1, 0);
		total = n > 0 ? (size_t)n : 0;
	}
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
	exchange(data, size, 5, reply, sizeof(reply));
	if (++round % 256)
		return 0;
	exchange(health, sizeof(health) - 1, 8000, reply, sizeof(reply));
	check(!strncmp(reply, "HTTP/1.1 200", 12) && strstr(reply, "200 OK"), "health");
	return 0;
}
