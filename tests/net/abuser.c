// SPDX-License-Identifier: MIT
/*
 * abuser WHAT PORT COUNT SECONDS [ADDRESS LENGTH]: COUNT connections to 127.0.0.1, each with one bad manner
 * of the kind WHAT (rpc, http, data), all open at once and held until the peer closes them, SECONDS at most.
 * ADDRESS and LENGTH: memory that the peer serves on its classic data port, to aim just past it.
 * Prints {"connections", "refused", "closed", "held", "seconds"}: held are those that the peer left open.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct victim {
	int fd;
	uint8_t *bytes;		/* what to send, once */
	size_t length, sent;
	bool drip;		/* one byte at a time, slowly */
	uint64_t next_ns;
	bool deaf;		/* never reads what comes back */
};

#define HTTP_1_1 " HTTP/1.1\r\nHost: x\r\n"

static uint64_t seed = 88172645463325252ull, address, span;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint8_t *little(uint8_t *p, uint64_t value, unsigned int bytes)
{
	for (; bytes--; value >>= 8)
		*p++ = (uint8_t)value;
	return p;
}

static void noise(uint8_t *p, size_t n)
{
	while (n--)
		*p++ = (uint8_t)(next_random() >> 24);
}

static void give(struct victim *v, const void *bytes, size_t n)
{
	v->bytes = realloc(v->bytes, v->length + n + 1);
	if (!v->bytes)
		abort();
	memcpy(v->bytes + v->length, bytes, n);
	v->length += n;
}

static void give_noise(struct victim *v, size_t n)
{
	uint8_t *bytes = malloc(n);

	if (!bytes)
		abort();
	noise(bytes, n);
	give(v, bytes, n);
	free(bytes);
}

static void give_text(struct victim *v, const char *text) { give(v, text, strlen(text)); }

static const uint8_t magic[] = "\xffMOONC1\n";

/* A HELLO as docs/protocol.md has it, from nobody, for whoever listens. */
static void give_hello(struct victim *v, uint8_t mode, uint16_t parameters)
{
	uint8_t bytes[2048], *p = bytes, *length;

	memcpy(p, magic, 8);
	length = p + 8;
	p = little(length, 0, 4);
	p = little(p, 1, 2);		/* version */
	p = little(p, mode, 1);
	p = little(p, 1, 1);		/* engine */
	p = little(p, 1 + next_random() % 3, 1);
	p = little(p, 0, 1);
	p = little(p, 0, 8);
	p = little(p, 0, 8);
	noise(p, 32);
	p = little(p + 32, 6, 1);
	memcpy(p, "abuser", 6);
	noise(p + 6, 16);
	p = little(p + 22, 1, 8);
	memset(p, 0, 16);
	p = little(p + 16, parameters, 2);
	noise(p, parameters < 512 ? parameters : 512);
	p += parameters < 512 ? parameters : 512;
	little(length, (uint64_t)(p - length - 4), 4);
	give(v, bytes, (size_t)(p - bytes));
}

static void give_number(struct victim *v, uint64_t value, unsigned int bytes)
{
	uint8_t text[8];

	little(text, value, bytes);
	give(v, text, bytes);
}

static void rpc(struct victim *v, unsigned int kind)
{
	switch (kind % 16) {
	case 0:			/* nothing */
		break;
	case 1:			/* half a magic */
		give(v, magic, 4);
		break;
	case 2:
		give_noise(v, 65536);
		break;
	case 3:			/* a magic, and a hello of 4 GiB */
		give(v, magic, 8);
		give_number(v, UINT32_MAX, 4);
		give_noise(v, 1000);
		break;
	case 4:			/* half a hello */
		give(v, magic, 8);
		give_number(v, 200, 4);
		give_noise(v, 100);
		break;
	case 5:			/* noise in the frame of a hello */
		give(v, magic, 8);
		give_number(v, 200, 4);
		give_noise(v, 200);
		break;
	case 6:			/* no proof after the challenge */
	case 7:
		give_hello(v, 1, 0);
		break;
	case 8:			/* a proof of 4 GiB */
		give_hello(v, 1, 20);
		give_number(v, 3, 1);
		give_number(v, UINT32_MAX, 4);
		give_noise(v, 5000);
		break;
	case 9:			/* a wrong proof, and what a control request would be */
		give_hello(v, 1, 0);
		give_number(v, 3, 1);
		give_number(v, 32, 4);
		give_noise(v, 32 + 400);
		break;
	case 10:		/* parameters longer than there may be */
		give_hello(v, 1, 60000);
		break;
	case 11:		/* other means of proof */
		give_hello(v, kind % 32 < 16 ? 0 : 2, 0);
		break;
	case 12:		/* a classic message of 1 MiB, half of it; without --classic too much already */
		give_number(v, 1 << 20, 8);
		give_number(v, 1, 1);
		give_noise(v, 1 << 19);
		break;
	case 13:		/* a classic message of 2^56 bytes */
		give_number(v, 1ull << 56, 8);
		give_number(v, kind % 4, 1);
		give_noise(v, 20000);
		break;
	case 14:		/* a classic message that is no JSON */
		give_number(v, 101, 8);
		give_number(v, next_random() % 5, 1);
		give_noise(v, 100);
		break;
	default:		/* a hello that takes for ever */
		give_hello(v, 1, 500);
		v->drip = true;
	}
}

static void http(struct victim *v, unsigned int kind)
{
	static char line[160000];
	unsigned int i;

	switch (kind % 10) {
	case 0:
		break;
	case 1:
		give_text(v, "GET /metadata?ke");
		break;
	case 2:
		give_noise(v, 65536);
		break;
	case 3:			/* far too much, announced */
		give_text(v, "PUT /metadata?key=abuse%2Fhuge" HTTP_1_1 "Content-Length: 999999999999999\r\n\r\n{");
		break;
	case 4:			/* a small part of a body */
		give_text(v, "PUT /metadata?key=abuse%2Fhalf" HTTP_1_1 "Content-Length: 1048576\r\n\r\n");
		give_noise(v, 65536);
		break;
	case 5:			/* a header line without an end */
		give_text(v, "GET /metadata?key=a HTTP/1.1\r\nX: ");
		memset(line, 'a', sizeof(line));
		give(v, line, sizeof(line));
		break;
	case 6:			/* a chunk of nearly 2^64 */
		give_text(v, "PUT /metadata?key=abuse%2Fchunk" HTTP_1_1 "Transfer-Encoding: chunked\r\n\r\n"
			     "fffffffffffffff0\r\n");
		give_noise(v, 3000);
		break;
	case 7:			/* many questions, and no ear for the answers */
		for (i = 0; i < 200; i++)
			give_text(v, "GET /metadata?key=abuse%2Fnothing" HTTP_1_1 "\r\n");
		v->deaf = true;
		break;
	case 8:			/* keys that are none */
		give_text(v, "PUT /metadata?key=%00%ff%zz" HTTP_1_1 "Content-Length: 2\r\n\r\n{}");
		break;
	default:
		give_text(v, "GET /metadata?key=slow" HTTP_1_1 "\r\n");
		v->drip = true;
	}
}

static void data_header(struct victim *v, uint64_t size, uint64_t at, uint8_t opcode)
{
	give_number(v, size, 8);
	give_number(v, at, 8);
	give_number(v, opcode, 8);
	give_noise(v, 65536);
}

static void data(struct victim *v, unsigned int kind)
{
	uint8_t v2 = kind % 32 < 16 ? 0x80 : 0;

	switch (kind % 16) {
	case 0:
		break;
	case 1:
		give_noise(v, 11);
		break;
	case 2:
		give_noise(v, 65536);
		break;
	case 3:
		data_header(v, UINT64_MAX, address, 1 | v2);
		break;
	case 4:			/* one byte past the end */
		data_header(v, 4097, address + span - 4096, 1 | v2);
		break;
	case 5:			/* one byte before the beginning */
		data_header(v, 4097, address - 1, 1 | v2);
		break;
	case 6:			/* around the end of the address space */
		data_header(v, address + span, UINT64_MAX - address + 1, 1 | v2);
		break;
	case 7:
		data_header(v, 4096, address + span, 1 | v2);
		break;
	case 8:
		data_header(v, 0, address, 1 | v2);
		break;
	case 9:			/* reads of what is not served */
		data_header(v, span + 1, address, v2);
		break;
	case 10:
		data_header(v, 65536, address - 65536, v2);
		break;
	case 11:		/* a good read, and no ear for the answer */
		give_number(v, span ? span : 4096, 8);
		give_number(v, address, 8);
		give_number(v, v2, 8);
		v->deaf = true;
		break;
	case 12:
		data_header(v, 1ull << 63, 0, 1 | v2);
		break;
	default:		/* half a header, slowly */
		give_noise(v, 23);
		v->drip = true;
	}
}

static int dial(unsigned int port)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_port = htons((unsigned short)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), small = 4096;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) && errno != EINPROGRESS) {
		close(fd);
		return -1;
	}
	return fd;
}

/* false: the peer closed it */
static bool push(struct victim *v, uint64_t now)
{
	size_t n = v->drip ? 1 : v->length - v->sent;
	ssize_t sent;

	if (v->sent == v->length || now < v->next_ns)
		return true;
	sent = send(v->fd, v->bytes + v->sent, n, MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == ENOTCONN;
	v->sent += (size_t)sent;
	v->next_ns = v->drip ? now + 100000000u : 0;
	return true;
}

static bool drain(struct victim *v, short events)
{
	char bytes[16384];
	ssize_t n;

	if (v->deaf)
		return !(events & POLLERR);
	do
		n = recv(v->fd, bytes, sizeof(bytes), 0);
	while (n > 0);
	return n < 0 && (errno == EAGAIN || errno == ENOTCONN);
}

static void raise_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files))
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv)
{
	unsigned int i, count, port, refused = 0, closed = 0, open = 0;
	void (*prepare)(struct victim *, unsigned int) = NULL;
	uint64_t start = now_ns(), end, now, last = start;
	struct victim *victim;
	struct pollfd *poll_for;

	if (argc == 5 || argc == 7)
		prepare = !strcmp(argv[1], "rpc") ? rpc : !strcmp(argv[1], "http") ? http :
			  !strcmp(argv[1], "data") ? data : NULL;
	if (!prepare) {
		fprintf(stderr, "usage: abuser rpc|http|data PORT COUNT SECONDS [ADDRESS LENGTH]\n");
		return 2;
	}
	port = (unsigned int)strtoul(argv[2], NULL, 10);
	count = (unsigned int)strtoul(argv[3], NULL, 10);
	end = start + strtoull(argv[4], NULL, 10) * 1000000000u;
	if (argc == 7) {
		address = strtoull(argv[5], NULL, 10);
		span = strtoull(argv[6], NULL, 10);
	}
	raise_limit();
	victim = calloc(count, sizeof(*victim));
	poll_for = calloc(count, sizeof(*poll_for));
	if (!victim || !poll_for)
		return 1;
	for (i = 0; i < count; i++) {
		prepare(&victim[i], i);
		victim[i].fd = dial(port);
		refused += victim[i].fd < 0;
		open += victim[i].fd >= 0;
	}
	while (open && (now = now_ns()) < end) {
		for (i = 0; i < count; i++) {
			struct victim *v = &victim[i];

			poll_for[i] = (struct pollfd){.fd = v->fd, .events = v->deaf ? 0 : POLLIN};
			if (v->sent < v->length && !v->drip)
				poll_for[i].events |= POLLOUT;
		}
		if (poll(poll_for, count, 50) < 0)
			return 1;
		now = now_ns();
		for (i = 0; i < count; i++) {
			struct victim *v = &victim[i];

			if (v->fd < 0 || (push(v, now) && drain(v, poll_for[i].revents)))
				continue;
			close(v->fd);
			v->fd = -1;
			closed++;
			open--;
			last = now;
		}
	}
	printf("{\"connections\": %u, \"refused\": %u, \"closed\": %u, \"held\": %u, \"seconds\": %.2f}\n", count,
	       refused, closed, open, (double)(last - start) / 1e9);
	for (i = 0; i < count; i++) {
		if (victim[i].fd >= 0)
			close(victim[i].fd);
		free(victim[i].bytes);
	}
	free(victim);
	free(poll_for);
	return 0;
}
