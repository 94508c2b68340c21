/* SPDX-License-Identifier: MIT */
/* For the tests of net: a service that accepts everybody, a client's attributes, and waiting for states. */
#ifndef TESTS_NET_PEER_H
#define TESTS_NET_PEER_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/uuid.h"
#include "net/connect.h"
#include "net/hello.h"
#include "net/loop.h"
#include "net/service.h"
#include "net/sock.h"

struct peer {
	struct mci_loops loops;
	struct mci_identity self;
	struct mci_service_attr attr;
	struct mci_service *service;
	uint16_t port;
	/* what the handler does */
	bool keep; /* do not decide: leave it in @kept */
	const char *refuse;
	int refuse_errno;
	bool read_behind; /* take 4 bytes that came behind the PROOF, send them back */
	_Atomic(struct mci_incoming *) kept;
	/* what it saw */
	atomic_int connections, ready, failed, last_error, classic;
	struct mci_hello hello; /* of the last connection; read it after ready */
	bool was_inside;
	uint8_t got[4];
};

static inline uint64_t soon(unsigned int ms) { return mci_now_ns() + ms * MCI_NS_PER_MS; }

static inline bool wait_for_value(atomic_int *value, int at_least)
{
	uint64_t deadline = soon(10000);
	struct timespec pause = {.tv_nsec = 1000000};

	while (atomic_load(value) < at_least) {
		if (mci_now_ns() > deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static inline bool wait_for_refused(struct mci_service *service, uint64_t at_least)
{
	uint64_t deadline = soon(10000);
	struct timespec pause = {.tv_nsec = 1000000};

	while (mci_service_refused(service) < at_least) {
		if (mci_now_ns() > deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static inline int open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = -3; /* ".", ".." and the directory itself */

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static inline bool wait_for_descriptors(int at_most)
{
	uint64_t deadline = soon(10000);
	struct timespec pause = {.tv_nsec = 1000000};

	while (open_descriptors() > at_most) {
		if (mci_now_ns() > deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static inline struct mci_identity identity(const char *name)
{
	struct mci_identity id = {.generation = 7};

	snprintf(id.name, sizeof(id.name), "%s", name);
	mci_uuid_new(&id.uuid);
	return id;
}

static inline struct mci_secret secret(enum mci_auth_mode mode, uint8_t fill)
{
	struct mci_secret s = {.mode = mode,
			       .key_length = mode == MCI_AUTH_CLUSTER ? 32
					     : mode == MCI_AUTH_TOKEN ? 16
								      : 0};

	memset(s.key, fill, s.key_length);
	return s;
}

static inline void peer_ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	struct peer *peer = arg;

	if (error) {
		atomic_store(&peer->last_error, error);
		atomic_fetch_add(&peer->failed, 1);
		return;
	}
	peer->hello = *hello;
	if (peer->read_behind) {
		/* Blocking for a moment in the loop: this is a test. */
		if (!mci_sock_recv_all(&sock, peer->got, sizeof(peer->got), soon(3000)))
			mci_sock_send_all(&sock, peer->got, sizeof(peer->got), soon(3000));
	} else {
		mci_sock_send_all(&sock, "hi", 2, soon(3000));
	}
	mci_sock_close(&sock);
	atomic_fetch_add(&peer->ready, 1);
}

static inline void peer_connection(void *arg, struct mci_incoming *in)
{
	struct peer *peer = arg;

	peer->was_inside = mci_loop_inside(mci_incoming_loop(in));
	atomic_fetch_add(&peer->connections, 1);
	if (peer->keep)
		atomic_store(&peer->kept, in);
	else if (peer->refuse)
		mci_incoming_reject(in, peer->refuse_errno, peer->refuse);
	else
		mci_incoming_accept(in, "pong", 4, peer_ready, peer);
}

static inline int peer_classic(void *arg, enum mci_classic_type type, const char *json, size_t length,
			       char **reply)
{
	struct peer *peer = arg;

	atomic_fetch_add(&peer->classic, 1);
	if (!length || json[0] != '{')
		return -EINVAL;
	if (type == MCI_CLASSIC_NOTIFY)
		*reply = strdup("{\"name\":\"\",\"notify_msg\":\"success\"}\n");
	return 0;
}

/* Fill peer->attr beforehand where it should differ; zeroed members get a default. */
static inline int peer_start(struct peer *peer, struct mci_secret own)
{
	int ret;

	if (!peer->self.name[0])
		peer->self = identity("server");
	ret = mci_loops_start("test", 2, &peer->loops);
	if (ret)
		return ret;
	if (!peer->attr.bind)
		peer->attr.bind = "127.0.0.1";
	if (!peer->attr.service)
		peer->attr.service = MCI_SERVICE_ENGINE;
	peer->attr.self = &peer->self;
	peer->attr.secret = own;
	peer->attr.loops = &peer->loops;
	peer->attr.connection = peer_connection;
	peer->attr.classic_message = peer_classic;
	peer->attr.arg = peer;
	ret = mci_service_start(&peer->attr, &peer->service);
	if (ret) {
		mci_loops_stop(&peer->loops);
		return ret;
	}
	peer->port = mci_service_port(peer->service);
	return 0;
}

static inline void peer_stop(struct peer *peer)
{
	mci_service_stop(peer->service);
	mci_loops_stop(&peer->loops);
}

static const char *const loopback_hosts[] = {"127.0.0.1"};
static struct mci_identity client_self;

static inline struct mci_connect_attr client_attr(const struct peer *peer, const struct mci_secret *own)
{
	struct mci_connect_attr attr = {
		.hosts = loopback_hosts,
		.host_count = 1,
		.port = peer->port,
		.self = &client_self,
		.secret = own,
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_CONTROL,
		.params = "ping",
		.params_length = 4,
		.deadline_ns = soon(5000),
	};

	if (!client_self.name[0])
		client_self = identity("client");
	return attr;
}

/* Connect, take the "hi", close. */
static inline int try_hello(const struct mci_connect_attr *attr, struct mci_hello *hello)
{
	struct mci_hello unused;
	struct mci_sock sock;
	char hi[2];
	int ret;

	ret = mci_connect(attr, &sock, hello ? hello : &unused);
	if (ret)
		return ret;
	ret = mci_sock_recv_all(&sock, hi, 2, soon(5000));
	if (!ret && memcmp(hi, "hi", 2))
		ret = -EBADMSG;
	mci_sock_close(&sock);
	return ret;
}

/* A bare TCP connection. */
static inline int bare(const struct peer *peer)
{
	int fd = -1;

	if (mci_connect_any(loopback_hosts, 1, peer->port, NULL, soon(5000), &fd))
		return -1;
	return fd;
}

/*
 * A hello by hand, up to the ACCEPT, with @more sent right behind the PROOF. 0, or what the peer
 * said instead: -EKEYREJECTED for a REJECT.
 */
static inline int open_by_hand(const struct peer *peer, const struct mci_secret *own, uint64_t features,
			       const char *more, struct mci_sock *sock)
{
	struct mci_msg_hello m = {
		.version = 1,
		.mode = (uint8_t)own->mode,
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_DATA,
		.features = features,
		.self = identity("by hand"),
	};
	uint8_t key[32], mac[MCI_MAC], out[MCI_HEAD + MCI_MAC + 64], in[MCI_MESSAGE_MAX];
	struct mci_msg_challenge challenge;
	struct mci_transcript t = {0};
	size_t n;
	int ret;

	*sock = (struct mci_sock){.fd = bare(peer)};
	t.hello_length = (size_t)mci_hello_write(&m, t.hello, sizeof(t.hello));
	ret = mci_sock_send_all(sock, t.hello, t.hello_length, soon(3000));
	if (!ret)
		ret = mci_sock_recv_all(sock, t.challenge, MCI_HEAD, soon(3000));
	if (ret)
		return ret;
	t.challenge_length = (size_t)mci_message_need(t.challenge, MCI_HEAD);
	ret = mci_sock_recv_all(sock, t.challenge + MCI_HEAD, t.challenge_length - MCI_HEAD, soon(3000));
	if (!ret)
		ret = mci_challenge_read(t.challenge, t.challenge_length, &challenge);
	if (ret)
		return ret;
	mci_handshake_key(own, (enum mci_auth_mode)challenge.mode, &challenge.self, key);
	mci_client_proof(key, &t, mac);
	mci_proof_write(mac, out, sizeof(out));
	n = more ? strlen(more) : 0;
	if (n)
		memcpy(out + MCI_HEAD + MCI_MAC, more, n);
	ret = mci_sock_send_all(sock, out, MCI_HEAD + MCI_MAC + n, soon(3000));
	if (!ret)
		ret = mci_sock_recv_all(sock, in, MCI_HEAD, soon(3000));
	if (ret)
		return ret;
	n = (size_t)mci_message_need(in, MCI_HEAD);
	ret = mci_sock_recv_all(sock, in + MCI_HEAD, n - MCI_HEAD, soon(3000));
	return ret ? ret : in[0] == MCI_MSG_ACCEPT ? 0 : -EKEYREJECTED;
}

/* What the peer sends until it closes; -errno if it does not within 5 s. */
static inline ssize_t read_to_end(int fd, uint8_t *p, size_t size)
{
	struct mci_sock sock = {.fd = fd};
	uint64_t deadline = soon(5000);
	struct timespec pause = {.tv_nsec = 1000000};
	size_t used = 0;

	for (;;) {
		struct iovec iov = {p + used, size - used};
		ssize_t n = mci_sock_recvv(&sock, &iov, 1);

		if (n == -ECONNRESET || n == 0)
			return (ssize_t)used;
		if (n == -EAGAIN) {
			if (mci_now_ns() > deadline)
				return -ETIMEDOUT;
			nanosleep(&pause, NULL);
			continue;
		}
		if (n < 0)
			return n;
		used += (size_t)n;
	}
}

#endif
