// SPDX-License-Identifier: MIT
/*
 * A classic peer for tests, written from the protocol alone: nothing of the library is in it.
 *
 *   classic_peer serve [--port=P] [--data_port=P] [--size=BYTES] [--buffers=N] [--version=1|2] [--once]
 *       P2PHANDSHAKE target: answers probe, metadata and notify on the rpc port, data v1 and v2 on the
 *       data port. Prints "ready <host:port>", then one line per notify, until a signal comes.
 *       --once: one request per connection, as releases before 0.3.10. --data_port=0: no handshake port,
 *       data on the rpc port, as releases before 0.3.5; the descriptor is then only printed.
 *   classic_peer descriptor|probe HOST:PORT
 *   classic_peer notify HOST:PORT NAME MESSAGE
 *   classic_peer read|write HOST:PORT [--version=1|2] [--buffer=N] [--offset=N] [--length=N] [--count=N]
 * [--seed=N] [--descriptor=FILE] [--address=N] Finds the data port and the buffer in the descriptor, which it
 * asks the peer for, or which FILE holds (as a metadata service has it); --address: not a buffer, but there.
 * write: a pattern made from the seed; read: checks for it. Requests of a v2 run share one connection.
 *
 * Exit status: 0 done, 1 failed (said on stderr), 2 usage.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <jansson.h>

#define MESSAGE_MAX (16u << 20)
#define MAGIC 0x4d43545600000000ull

struct options {
	unsigned int port, data_port, version, buffers, buffer;
	bool has_data_port, once;
	uint64_t size, offset, length, count, seed, address;
	const char *descriptor;
};

struct header { /* 24 bytes on the wire, the last 7 are padding */
	uint64_t size, addr;
	uint8_t opcode, padding[7];
};

static struct options options = {.version = 2, .buffers = 1, .size = 64 << 20, .length = 65536, .count = 1};
static uint8_t *memory[16];
static char *descriptor;
static bool data_on_rpc_port;

static void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *fmt, ...)
{
	va_list ap;

	fputs("classic_peer: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

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

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		p = (const char *)p + done;
		n -= (size_t)done;
	}
	return true;
}

/* ---- server ---- */

static uint8_t *find(uint64_t addr, uint64_t size)
{
	unsigned int i;

	for (i = 0; i < options.buffers; i++) {
		uint64_t base = (uintptr_t)memory[i];

		if (size && addr >= base && addr - base < options.size &&
		    size <= options.size - (addr - base))
			return memory[i] + (addr - base);
	}
	return NULL;
}

static bool serve_request(int fd)
{
	struct header header;
	uint64_t size, status;
	uint8_t *place;
	bool v2;

	if (!get(fd, &header, sizeof(header)))
		return false;
	size = le64toh(header.size);
	place = find(le64toh(header.addr), size);
	v2 = header.opcode & 0x80;
	status = htole64(MAGIC | (place ? 0 : 1));
	if (!place) {
		if (v2)
			put(fd, &status, sizeof(status));
		return false;
	}
	if ((header.opcode & 0x7f) == 1)
		return get(fd, place, size) && (!v2 || put(fd, &status, sizeof(status)));
	return (!v2 || put(fd, &status, sizeof(status))) && put(fd, place, size);
}

static void *serve_data(void *arg)
{
	int fd = (int)(intptr_t)arg;

	while (serve_request(fd) && !options.once)
		;
	close(fd);
	return NULL;
}

static bool reply(int fd, uint8_t type, const char *json)
{
	uint64_t length = htole64(1 + strlen(json));

	return put(fd, &length, 8) && put(fd, &type, 1) && put(fd, json, strlen(json));
}

static void print_notify(const char *json)
{
	json_t *root = json_loads(json, 0, NULL);
	const char *name = json_string_value(json_object_get(root, "name"));
	const char *message = json_string_value(json_object_get(root, "notify_msg"));

	printf("notify %s %s\n", name ? name : "?", message ? message : "?");
	fflush(stdout);
	json_decref(root);
}

static void *serve_message(void *arg)
{
	static const struct timeval limit = {.tv_sec = 5};
	int fd = (int)(intptr_t)arg;
	uint64_t length;
	uint8_t type;
	char *json = NULL, byte;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (!get(fd, &length, 8) || !get(fd, &type, 1))
		goto out;
	length = le64toh(length);
	if (!length || length > MESSAGE_MAX)
		goto out;
	json = calloc(1, length);
	if (!json || !get(fd, json, length - 1))
		goto out;
	if (type == 1)
		reply(fd, type, descriptor);
	else if (type == 2)
		reply(fd, type, "{\"name\":\"\",\"notify_msg\":\"success\"}\n");
	else if (type == 3)
		reply(fd, type, "{\"status\":\"success\"}\n");
	if (type == 2)
		print_notify(json);
	shutdown(fd, SHUT_WR);
	while (recv(fd, &byte, 1, 0) > 0)
		;
out:
	free(json);
	close(fd);
	return NULL;
}

static int listen_on(unsigned int *port)
{
	struct sockaddr_in6 in = {
		.sin6_family = AF_INET6, .sin6_addr = in6addr_any, .sin6_port = htons(*port)};
	socklen_t length = sizeof(in);
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, off = 0;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, (struct sockaddr *)&in, sizeof(in)) || listen(fd, 128) ||
	    getsockname(fd, (struct sockaddr *)&in, &length))
		fail("cannot listen on port %u: %s", *port, strerror(errno));
	*port = ntohs(in.sin6_port);
	return fd;
}

struct listener {
	int fd;
	void *(*serve)(void *arg);
};

static void *accept_all(void *arg)
{
	struct listener *listener = arg;

	for (;;) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC), on = 1;
		pthread_t thread;

		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (pthread_create(&thread, NULL, listener->serve, (void *)(intptr_t)fd))
			close(fd);
		else
			pthread_detach(thread);
	}
	return NULL;
}

static void make_descriptor(const char *name)
{
	json_t *buffers = json_array(), *root;
	unsigned int i;
	char *text;

	for (i = 0; i < options.buffers; i++) {
		memory[i] = calloc(1, options.size);
		if (!memory[i])
			fail("no memory for a buffer of %llu bytes", (unsigned long long)options.size);
		json_array_append_new(buffers,
				      json_pack("{s:I, s:I, s:s}", "addr", (json_int_t)(uintptr_t)memory[i],
						"length", (json_int_t)options.size, "name", name));
	}
	root = json_pack("{s:s, s:s, s:o, s:s}", "name", name, "protocol", "tcp", "buffers", buffers,
			 "timestamp", "2026-08-22 12:34:56.123456");
	if (!data_on_rpc_port) {
		json_object_set_new(root, "tcp_data_port", json_integer((json_int_t)options.data_port));
		if (options.version >= 2)
			json_object_set_new(root, "tcp_proto_version", json_integer(2));
	}
	text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
	descriptor = malloc(strlen(text) + 2);
	sprintf(descriptor, "%s\n", text);
	free(text);
	json_decref(root);
}

static int serve(void)
{
	struct listener data = {.serve = serve_data}, rpc = {.serve = serve_message};
	char name[64];
	pthread_t thread;
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	data_on_rpc_port = options.has_data_port && !options.data_port;
	rpc.fd = listen_on(&options.port);
	snprintf(name, sizeof(name), "127.0.0.1:%u", options.port);
	if (data_on_rpc_port)
		rpc.serve = serve_data;
	else
		data.fd = listen_on(&options.data_port);
	make_descriptor(name);
	if (pthread_create(&thread, NULL, accept_all, &rpc) ||
	    (!data_on_rpc_port && pthread_create(&thread, NULL, accept_all, &data)))
		fail("cannot start a thread");
	printf("descriptor %sready %s\n", descriptor, name);
	fflush(stdout);
	sigwait(&set, &sig);
	return 0;
}

/* ---- client ---- */

static int call(const char *target, unsigned int port)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	char host[64];
	const char *colon = strrchr(target, ':');
	int fd, on = 1;

	if (!colon || (size_t)(colon - target) >= sizeof(host))
		fail("'%s' is not host:port", target);
	snprintf(host, sizeof(host), "%.*s", (int)(colon - target), target);
	in.sin_port = htons((uint16_t)(port ? port : (unsigned int)atoi(colon + 1)));
	if (inet_pton(AF_INET, host, &in.sin_addr) != 1)
		fail("'%s' is no IPv4 address", host);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)))
		fail("cannot connect to %s port %u: %s", host, ntohs(in.sin_port), strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static char *exchange(const char *target, uint8_t type, const char *json)
{
	int fd = call(target, 0);
	uint64_t length;
	uint8_t echoed;
	char *text;

	if (!reply(fd, type, json) || !get(fd, &length, 8) || !get(fd, &echoed, 1))
		fail("%s closed without an answer", target);
	length = le64toh(length);
	if (!length || length > MESSAGE_MAX || echoed != type)
		fail("%s answered with length %llu, type %u", target, (unsigned long long)length, echoed);
	text = calloc(1, length);
	if (!text || !get(fd, text, length - 1))
		fail("%s cut its answer short", target);
	close(fd);
	return text;
}

static uint8_t *pattern(uint64_t number)
{
	uint8_t *p = malloc(options.length);
	uint64_t i, x = options.seed * 0x9e3779b97f4a7c15ull + number + 1;

	for (i = 0; i < options.length; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
	return p;
}

static void read_status(int fd)
{
	uint64_t status;

	if (!get(fd, &status, 8))
		fail("no status came");
	status = le64toh(status);
	if ((status & 0xffffffff00000000ull) != MAGIC)
		fail("status %016llx is not of protocol v2", (unsigned long long)status);
	if (status != MAGIC)
		fail("rejected, code %u", (unsigned int)status);
}

static void one_transfer(int fd, bool write, bool v2, uint64_t addr, uint64_t number)
{
	struct header header = {.size = htole64(options.length), .addr = htole64(addr)};
	uint8_t *want = pattern(number), *got = malloc(options.length);

	header.opcode = (uint8_t)((v2 ? 0x80 : 0) | (write ? 1 : 0));
	memset(header.padding, 0xa5, sizeof(header.padding)); /* undefined on purpose */
	if (!put(fd, &header, sizeof(header)) || (write && !put(fd, want, options.length)))
		fail("the peer closed while request %llu was sent", (unsigned long long)number);
	if (v2)
		read_status(fd);
	if (!write) {
		if (!get(fd, got, options.length))
			fail("the peer closed in request %llu", (unsigned long long)number);
		if (memcmp(got, want, options.length))
			fail("request %llu brought other bytes than were written",
			     (unsigned long long)number);
	}
	free(want);
	free(got);
}

/* v1 knows no acknowledgement: the server's closing behind the last byte has to do. */
static void end_v1(int fd)
{
	char byte;

	shutdown(fd, SHUT_WR);
	if (recv(fd, &byte, 1, 0) < 0)
		fail("the peer reset the connection: %s", strerror(errno));
	close(fd);
}

static int transfer(const char *target, bool write)
{
	char *text = options.descriptor ? NULL : exchange(target, 1, "{}\n");
	json_t *root = text ? json_loads(text, 0, NULL) : json_load_file(options.descriptor, 0, NULL),
	       *buffer;
	unsigned int port = (unsigned int)json_integer_value(json_object_get(root, "tcp_data_port"));
	bool v2 = options.version >= 2 && json_integer_value(json_object_get(root, "tcp_proto_version")) >= 2;
	uint64_t addr, i;
	int fd = -1;

	buffer = json_array_get(json_object_get(root, "buffers"), options.buffer);
	if (!port || !buffer)
		fail("%s offers no data port, or no buffer %u", target, options.buffer);
	addr = (uint64_t)json_integer_value(json_object_get(buffer, "addr")) + options.offset;
	if (options.address)
		addr = options.address;
	for (i = 0; i < options.count; i++) {
		if (fd < 0)
			fd = call(target, port);
		one_transfer(fd, write, v2, addr + i * options.length, i);
		if (!v2) {
			end_v1(fd);
			fd = -1;
		}
	}
	if (fd >= 0)
		close(fd);
	json_decref(root);
	free(text);
	printf("%s %llu requests of %llu bytes, v%d\n", write ? "wrote" : "read",
	       (unsigned long long)options.count, (unsigned long long)options.length, v2 ? 2 : 1);
	return 0;
}

static int notify(const char *target, const char *name, const char *message)
{
	json_t *root = json_pack("{s:s, s:s}", "name", name, "notify_msg", message);
	char *json = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS), *text, *line;

	line = malloc(strlen(json) + 2);
	sprintf(line, "%s\n", json);
	text = exchange(target, 2, line);
	if (strcmp(text, "{\"name\":\"\",\"notify_msg\":\"success\"}\n"))
		fail("the notify was answered with %s", text);
	free(text);
	free(line);
	free(json);
	json_decref(root);
	return 0;
}

/* ---- command line ---- */

static bool parse_option(const char *arg)
{
	static const char *const names[] = {"port",   "data_port", "size",  "buffers", "version", "buffer",
					    "offset", "length",	   "count", "seed",    "address"};
	const char *equals = strchr(arg, '=');
	uint64_t value;
	size_t i;

	if (!strcmp(arg, "--once")) {
		options.once = true;
		return true;
	}
	if (!strncmp(arg, "--descriptor=", 13)) {
		options.descriptor = equals + 1;
		return true;
	}
	if (strncmp(arg, "--", 2) || !equals)
		return false;
	value = strtoull(equals + 1, NULL, 0);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strlen(names[i]) == (size_t)(equals - arg - 2) &&
		    !strncmp(arg + 2, names[i], strlen(names[i])))
			break;
	switch (i) {
	case 0:
		options.port = (unsigned int)value;
		break;
	case 1:
		options.data_port = (unsigned int)value;
		options.has_data_port = true;
		break;
	case 2:
		options.size = value;
		break;
	case 3:
		options.buffers = value > 16 ? 16 : (unsigned int)value;
		break;
	case 4:
		options.version = (unsigned int)value;
		break;
	case 5:
		options.buffer = (unsigned int)value;
		break;
	case 6:
		options.offset = value;
		break;
	case 7:
		options.length = value;
		break;
	case 8:
		options.count = value;
		break;
	case 9:
		options.seed = value;
		break;
	case 10:
		options.address = value;
		break;
	default:
		return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	const char *words[4] = {NULL};
	int i, n = 0;

	for (i = 1; i < argc; i++) {
		if (parse_option(argv[i]))
			continue;
		if (n < 4 && argv[i][0] != '-')
			words[n++] = argv[i];
		else
			n = 5;
	}
	if (n == 1 && !strcmp(words[0], "serve"))
		return serve();
	if (n == 2 && (!strcmp(words[0], "descriptor") || !strcmp(words[0], "probe"))) {
		char *text = exchange(words[1], words[0][0] == 'd' ? 1 : 3, "{}\n");

		fputs(text, stdout);
		free(text);
		return 0;
	}
	if (n == 2 && (!strcmp(words[0], "read") || !strcmp(words[0], "write")))
		return transfer(words[1], words[0][0] == 'w');
	if (n == 4 && !strcmp(words[0], "notify"))
		return notify(words[1], words[2], words[3]);
	fputs("usage: classic_peer serve | descriptor|probe|read|write HOST:PORT | notify HOST:PORT NAME "
	      "MESSAGE\n",
	      stderr);
	return 2;
}
