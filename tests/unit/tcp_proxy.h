/* SPDX-License-Identifier: MIT */
/* A man in the middle for tests: forwards connections, and holds, releases, spoils or cuts them on demand. */
#ifndef TESTS_UNIT_TCP_PROXY_H
#define TESTS_UNIT_TCP_PROXY_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROXY_LINKS 64
#define PROXY_BUFFER (256u << 10)
#define PROXY_HELD_MAX (64u << 20)

struct proxy_pipe { /* one direction */
	uint8_t *p;
	size_t used, size;
	uint64_t passed; /* bytes received so far */
	bool eof, shut;
};

struct proxy_link {
	int client, target;
	struct proxy_pipe up, down; /* to the target, to the client */
	bool hold_up, hold_down, read_none;
};

struct proxy {
	pthread_t thread;
	pthread_mutex_t lock;
	int listener, wake[2];
	uint16_t port, target_port;
	bool stop;
	bool hold_new;	    /* also hold what new connections send to the target */
	bool refuse;	    /* close new connections at once */
	int64_t spoil_at;   /* byte of the next that goes up on any link to flip, -1 = none: counts down */
	unsigned int count; /* links made so far */
	struct proxy_link links[PROXY_LINKS];
};

static inline void proxy_close_link(struct proxy_link *l)
{
	if (l->client >= 0)
		close(l->client);
	if (l->target >= 0)
		close(l->target);
	free(l->up.p);
	free(l->down.p);
	memset(l, 0, sizeof(*l));
	l->client = -1;
	l->target = -1;
}

static inline void proxy_accept(struct proxy *p)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(p->target_port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), to, i;

	if (fd < 0)
		return;
	to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (i = 0; i < PROXY_LINKS && p->links[i].client >= 0; i++)
		;
	/* Connecting on loopback does not wait. */
	if (i == PROXY_LINKS || p->refuse || connect(to, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		close(to);
		return;
	}
	fcntl(to, F_SETFL, O_NONBLOCK);
	memset(&p->links[i], 0, sizeof(p->links[i]));
	p->links[i].client = fd;
	p->links[i].target = to;
	p->links[i].hold_up = p->hold_new;
	p->count++;
}

static inline void proxy_read(struct proxy *p, int fd, struct proxy_pipe *pipe, bool held, bool up)
{
	size_t limit = held ? PROXY_HELD_MAX : PROXY_BUFFER;
	ssize_t n;

	if (pipe->used >= limit)
		return;
	if (pipe->size < limit) {
		pipe->p = realloc(pipe->p, limit);
		pipe->size = limit;
	}
	n = recv(fd, pipe->p + pipe->used, limit - pipe->used, MSG_DONTWAIT);
	if (n > 0) {
		if (up && p->spoil_at >= 0) {
			if (p->spoil_at < n)
				pipe->p[pipe->used + (size_t)p->spoil_at] ^= 0x10;
			p->spoil_at = p->spoil_at < n ? -1 : p->spoil_at - n;
		}
		pipe->used += (size_t)n;
		pipe->passed += (uint64_t)n;
	} else if (!n || errno != EAGAIN) {
		pipe->eof = true;
	}
}

static inline void proxy_write(int fd, struct proxy_pipe *pipe)
{
	ssize_t n = pipe->used ? send(fd, pipe->p, pipe->used, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (n > 0) {
		memmove(pipe->p, pipe->p + n, pipe->used - (size_t)n);
		pipe->used -= (size_t)n;
	} else if (n < 0 && errno != EAGAIN) {
		pipe->used = 0;
	}
	if (pipe->eof && !pipe->used && !pipe->shut) {
		shutdown(fd, SHUT_WR);
		pipe->shut = true;
	}
}

static inline void *proxy_main(void *arg)
{
	struct proxy *p = arg;
	struct pollfd fds[2 + 2 * PROXY_LINKS];
	char waste[64];
	int i;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		fds[0] = (struct pollfd){.fd = p->listener, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = p->wake[0], .events = POLLIN};
		for (i = 0; i < PROXY_LINKS; i++) {
			struct proxy_link *l = &p->links[i];
			short c = 0, t = 0;

			if (l->client >= 0 && l->up.shut && l->down.shut)
				proxy_close_link(l);
			if (!l->read_none && !l->up.eof &&
			    l->up.used < (l->hold_up ? PROXY_HELD_MAX : PROXY_BUFFER))
				c |= POLLIN;
			if (!l->down.eof && l->down.used < (l->hold_down ? PROXY_HELD_MAX : PROXY_BUFFER))
				t |= POLLIN;
			if (!l->hold_up && (l->up.used || (l->up.eof && !l->up.shut)))
				t |= POLLOUT;
			if (!l->hold_down && (l->down.used || (l->down.eof && !l->down.shut)))
				c |= POLLOUT;
			fds[2 + 2 * i] = (struct pollfd){.fd = c ? l->client : -1, .events = c};
			fds[3 + 2 * i] = (struct pollfd){.fd = t ? l->target : -1, .events = t};
		}
		pthread_mutex_unlock(&p->lock);
		poll(fds, 2 + 2 * PROXY_LINKS, 1000);
		pthread_mutex_lock(&p->lock);
		if (fds[1].revents && read(p->wake[0], waste, sizeof(waste)) < 0)
			continue;
		if (fds[0].revents)
			proxy_accept(p);
		for (i = 0; i < PROXY_LINKS; i++) {
			struct proxy_link *l = &p->links[i];

			if (l->client < 0)
				continue;
			if (!l->read_none && !l->up.eof)
				proxy_read(p, l->client, &l->up, l->hold_up, true);
			if (!l->down.eof)
				proxy_read(p, l->target, &l->down, l->hold_down, false);
			if (!l->hold_up)
				proxy_write(l->target, &l->up);
			if (!l->hold_down)
				proxy_write(l->client, &l->down);
		}
	}
	for (i = 0; i < PROXY_LINKS; i++)
		proxy_close_link(&p->links[i]);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static inline struct proxy *proxy_open(uint16_t target_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct proxy *p = calloc(1, sizeof(*p));
	socklen_t length = sizeof(a);
	int i;

	pthread_mutex_init(&p->lock, NULL);
	p->target_port = target_port;
	p->spoil_at = -1;
	for (i = 0; i < PROXY_LINKS; i++)
		p->links[i].client = p->links[i].target = -1;
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (bind(p->listener, (struct sockaddr *)&a, sizeof(a)) || listen(p->listener, 64) ||
	    getsockname(p->listener, (struct sockaddr *)&a, &length) ||
	    pipe2(p->wake, O_CLOEXEC | O_NONBLOCK))
		abort();
	p->port = ntohs(a.sin_port);
	pthread_create(&p->thread, NULL, proxy_main, p);
	return p;
}

static inline void proxy_kick(struct proxy *p)
{
	if (write(p->wake[1], "x", 1) < 0)
		abort();
}

static inline void proxy_close(struct proxy *p)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_mutex_unlock(&p->lock);
	proxy_kick(p);
	pthread_join(p->thread, NULL);
	close(p->listener);
	close(p->wake[0]);
	close(p->wake[1]);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* Hold (or let go) what the connections that exist now send to the target, or the target's answers. */
static inline void proxy_hold(struct proxy *p, bool up, bool down)
{
	int i;

	pthread_mutex_lock(&p->lock);
	for (i = 0; i < PROXY_LINKS; i++) {
		p->links[i].hold_up = up;
		p->links[i].hold_down = down;
	}
	pthread_mutex_unlock(&p->lock);
	proxy_kick(p);
}

/* Do not even receive from the initiators of the connections that exist now. */
static inline void proxy_deaf(struct proxy *p, bool deaf)
{
	int i;

	pthread_mutex_lock(&p->lock);
	for (i = 0; i < PROXY_LINKS; i++)
		p->links[i].read_none = deaf;
	pthread_mutex_unlock(&p->lock);
	proxy_kick(p);
}

static inline void proxy_cut(struct proxy *p)
{
	int i;

	pthread_mutex_lock(&p->lock);
	for (i = 0; i < PROXY_LINKS; i++)
		proxy_close_link(&p->links[i]);
	pthread_mutex_unlock(&p->lock);
	proxy_kick(p);
}

static inline uint64_t proxy_held(struct proxy *p, bool up)
{
	uint64_t n = 0;
	int i;

	pthread_mutex_lock(&p->lock);
	for (i = 0; i < PROXY_LINKS; i++)
		n += up ? p->links[i].up.used : p->links[i].down.used;
	pthread_mutex_unlock(&p->lock);
	return n;
}

static inline unsigned int proxy_count(struct proxy *p)
{
	unsigned int n;

	pthread_mutex_lock(&p->lock);
	n = p->count;
	pthread_mutex_unlock(&p->lock);
	return n;
}

#endif
