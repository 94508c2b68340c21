// SPDX-License-Identifier: MIT
/*
 * metadata_clients PORT COUNT: COUNT connections to a metadata server on 127.0.0.1, all open at once; each
 * stores a key of its own and reads it back, with the requests of all on their way together.
 * Exit 0 if every answer was right.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int fail(unsigned long client, const char *what)
{
	fprintf(stderr, "client %lu: %s: %s\n", client, what, strerror(errno));
	return 1;
}

static int dial(unsigned int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons((unsigned short)port),
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return -1;
	}
	return fd;
}

static int say(int fd, const char *text)
{
	return send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text) ? 0 : -1;
}

/* One answer: status 200, and the body that is expected. */
static int hear(int fd, const char *body)
{
	char text[2048];
	size_t used = 0;

	for (;;) {
		ssize_t got = recv(fd, text + used, sizeof(text) - 1 - used, 0);
		char *end;

		if (got <= 0)
			return -1;
		used += (size_t)got;
		text[used] = 0;
		end = strstr(text, "\r\n\r\n");
		if (end && strlen(end + 4) >= strlen(body))
			return strncmp(text, "HTTP/1.1 200 ", 13) || strcmp(end + 4, body) ? -1 : 0;
	}
}

int main(int argc, char **argv)
{
	struct timespec begin, end;
	struct rlimit files;
	unsigned long count, i;
	unsigned int port;
	char text[512], body[32];
	int *fds;

	if (argc != 3)
		return 2;
	port = (unsigned int)strtoul(argv[1], NULL, 10);
	count = strtoul(argv[2], NULL, 10);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < count + 16) {
		printf("only %lu files may be open\n", (unsigned long)files.rlim_cur);
		return 77;
	}
	fds = calloc(count, sizeof(*fds));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 0; i < count; i++) {
		fds[i] = dial(port);
		if (fds[i] < 0)
			return fail(i, "connect");
	}
	for (i = 0; i < count; i++) {
		snprintf(body, sizeof(body), "{\"n\":%lu}", i);
		snprintf(text, sizeof(text),
			 "PUT /metadata?key=client%%2F%lu HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
			 "%zu\r\n\r\n%s",
			 i, strlen(body), body);
		if (say(fds[i], text))
			return fail(i, "PUT");
	}
	for (i = 0; i < count; i++)
		if (hear(fds[i], "metadata updated"))
			return fail(i, "answer to PUT");
	for (i = 0; i < count; i++) {
		snprintf(text, sizeof(text),
			 "GET /metadata?key=client%%2F%lu HTTP/1.1\r\nHost: localhost\r\n\r\n",
			 count - 1 - i);
		if (say(fds[i], text))
			return fail(i, "GET");
	}
	for (i = 0; i < count; i++) {
		snprintf(body, sizeof(body), "{\"n\":%lu}", count - 1 - i);
		if (hear(fds[i], body))
			return fail(i, "answer to GET");
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%lu clients at once: %.0f ms\n", count,
	       (double)(end.tv_sec - begin.tv_sec) * 1e3 + (double)(end.tv_nsec - begin.tv_nsec) / 1e6);
	for (i = 0; i < count; i++)
		close(fds[i]);
	free(fds);
	return 0;
}
