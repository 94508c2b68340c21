/* SPDX-License-Identifier: MIT */
/*
 * Messages on the rpc port as classic programs exchange them, for a peer written from the protocol alone. With them
 * how it says what it does, and why something failed.
 */
#ifndef CLASSIC_MESSAGE_H
#define CLASSIC_MESSAGE_H

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE_MAX (16u << 20)

static char why[512];

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	fputs("classic_rdma_peer: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static bool no(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool no(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return false;
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

/* ---- sockets ---- */

static bool get(int fd, void *p, size_t n)
{
	while (n) {
		ssize_t got = recv(fd, p, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		p = (char *)p + got;
		n -= (size_t)got;
	}
	return true;
}

static bool put(int fd, const void *p, size_t n)
{
	while (n) {
		ssize_t done = send(fd, p, n, MSG_NOSIGNAL);

		if (done <= 0)
			return false;
		p = (const char *)p + done;
		n -= (size_t)done;
	}
	return true;
}

static bool put_message(int fd, int type, const char *json)
{
	uint64_t length = htole64(strlen(json) + (type >= 0));
	uint8_t byte = (uint8_t)type;

	return put(fd, &length, 8) && (type < 0 || put(fd, &byte, 1)) && put(fd, json, strlen(json));
}

/* Type -1: the form without a type. */
static char *get_message(int fd, int *type)
{
	uint64_t length;
	uint8_t first;
	char *json;

	if (!get(fd, &length, 8) || !get(fd, &first, 1))
		return NULL;
	length = le64toh(length);
	if (!length || length > MESSAGE_MAX)
		return NULL;
	json = calloc(1, length + 1);
	*type = first <= 3 ? first : -1;
	if (first > 3)
		json[0] = (char)first;
	if (!get(fd, json + (first > 3), length - 1)) {
		free(json);
		return NULL;
	}
	return json;
}

static char *exchange(const char *target, int type, const char *json)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	const char *colon = strrchr(target, ':');
	char host[64], *reply = NULL;
	int fd, got = type;

	if (!colon || (size_t)(colon - target) >= sizeof(host)) {
		no("'%s' is not host:port", target);
		return NULL;
	}
	snprintf(host, sizeof(host), "%.*s", (int)(colon - target), target);
	in.sin_port = htons((uint16_t)atoi(colon + 1));
	inet_pton(AF_INET, host, &in.sin_addr);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)))
		no("cannot connect to %s: %s", target, strerror(errno));
	else if (!put_message(fd, type, json) || !(reply = get_message(fd, &got)) || got != type)
		no("%s closed without an answer of type %d", target, type);
	close(fd);
	return reply;
}

#endif
