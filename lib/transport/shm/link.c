// SPDX-License-Identifier: MIT
/*
 * Initiator: one connection to a target, from opening to the last user of what it maps.
 * peer->lock guards everything but the frames, which are the loop thread's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "net/connect.h"
#include "transport/shm/shm.h"

static void link_free(struct mci_shm_link *link)
{
	struct mci_peer *peer = link->peer;
	unsigned int i;

	for (i = 0; link->maps && i < peer->count; i++)
		mci_shm_map_drop(&link->maps[i]);
	free(link->maps);
	free(link->asked);
	if (link->table)
		munmap((void *)(uintptr_t)link->table, sizeof(*link->table));
	if (link->use)
		munmap(link->use, sizeof(*link->use));
	if (link->pidfd >= 0)
		close(link->pidfd);
	/* Last: while it is open the target counts us among those inside. */
	if (link->fd >= 0)
		close(link->fd);
	if (link->started && !--peer->links)
		pthread_cond_broadcast(&peer->changed);
	free(link);
}

void mci_shm_link_put(struct mci_shm_link *link)
{
	if (!--link->refs)
		link_free(link);
}

/* Where does this descriptor lead? -EOPNOTSUPP: not to this host. */
static int same_host(const struct mci_peer *peer, const struct mci_peer_info *info, const char **unix_name)
{
	const char *boot =
		info->transport ? json_string_value(json_object_get(info->transport, "boot_id")) : NULL;

	*unix_name = info->transport ? json_string_value(json_object_get(info->transport, "unix")) : NULL;
	if (!boot || !*unix_name || strlen(*unix_name) > 100)
		return mci_fail(-EOPNOTSUPP, "segment '%s' does not offer shared memory", info->name);
	if (!peer->transport->boot_id[0] || strcmp(boot, peer->transport->boot_id))
		return mci_fail(-EOPNOTSUPP,
				"segment '%s' is on another host, so it cannot be reached by shared memory",
				info->name);
	return 0;
}

static void know_process(struct mci_shm_link *link, int fd)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size))
		return;
	link->uid = cred.uid;
	link->pid = cred.pid;
	link->pidfd = mci_shm_pidfd(cred.pid);
}

/* Loop thread: send the questions, or the end. */
static void send_asks(struct mci_task *task)
{
	struct mci_shm_link *link =
		(struct mci_shm_link *)((char *)task - offsetof(struct mci_shm_link, ask));
	struct mci_peer *peer = link->peer;
	uint8_t body[4 + MCI_SHM_ASK_SIZE];
	bool failed = false;

	pthread_mutex_lock(&peer->lock);
	link->ask_posted = false;
	for (unsigned int i = 0; i < peer->count && link->conn && !failed && !atomic_load(&link->dead); i++) {
		struct mci_shm_ask ask;

		if (!link->asked[i])
			continue;
		link->asked[i] = 0;
		ask = (struct mci_shm_ask){peer->regions[i].id, peer->regions[i].generation};
		pthread_mutex_unlock(&peer->lock); /* what sends may find the end of the connection */
		mci_shm_ask_encode(&ask, 0, body);
		failed = mci_conn_send(link->conn, MCI_SHM_ASK, i, body,
				       mci_shm_list_encode(1, MCI_SHM_WANT_FD, body) + MCI_SHM_ASK_SIZE, -1);
		pthread_mutex_lock(&peer->lock);
	}
	pthread_mutex_unlock(&peer->lock);
	if (link->conn && (failed || atomic_load(&link->dead)))
		mci_conn_close(link->conn);
	pthread_mutex_lock(&peer->lock);
	mci_shm_link_put(link);
	pthread_mutex_unlock(&peer->lock);
}

static void post(struct mci_shm_link *link)
{
	if (link->ask_posted)
		return;
	link->ask_posted = true;
	link->refs++;
	mci_loop_post(link->loop, &link->ask);
}

/* Have region @index asked for; peer->lock held. */
void mci_shm_link_ask(struct mci_shm_link *link, unsigned int index)
{
	link->maps[index].state = MCI_SHM_MAP_ASKED;
	link->asked[index] = 1;
	post(link);
}

/* peer->lock held */
void mci_shm_link_close(struct mci_shm_link *link)
{
	atomic_store(&link->dead, true);
	if (link->conn)
		post(link);
}

/* The answer for one region: let those go on who waited for it. */
static int on_grant(struct mci_shm_link *link, const struct mci_frame *frame, struct mci_shm_finals *finals)
{
	struct mci_peer *peer = link->peer;
	struct mci_shm_grant grant;
	struct mci_request *r;
	struct mci_shm_map *map;
	uint16_t count, flags;
	int ret;

	if (mci_shm_list_decode(frame->body, frame->length, MCI_SHM_GRANT_SIZE, &count, &flags) ||
	    count != 1 || frame->id >= peer->count || mci_shm_grant_decode(frame->body, 0, &grant))
		return -EPROTO;
	pthread_mutex_lock(&peer->lock);
	map = &link->maps[frame->id];
	if (map->state != MCI_SHM_MAP_ASKED) {
		pthread_mutex_unlock(&peer->lock);
		return -EPROTO;
	}
	ret = mci_shm_map_take(link, frame->id, &grant, frame->fd);
	if (!ret && map->state != MCI_SHM_MAP_READY)
		ret = map->error = -EPROTO; /* a descriptor was promised and did not come */
	while ((r = map->waiting.first)) {
		mci_shm_queue_del(&map->waiting, r);
		peer->waiting--;
		r->state = 0;
		if (ret)
			mci_shm_end(peer, r, MC_FAILED, ret, finals);
		else
			mci_shm_peer_queue(peer, r);
	}
	mci_shm_peer_wake(peer);
	pthread_cond_broadcast(&peer->changed);
	pthread_mutex_unlock(&peer->lock);
	return 0;
}

/* Regions went: let go of their memory, so that the owner can have it back. */
static void on_gone(struct mci_shm_link *link)
{
	struct mci_peer *peer = link->peer;

	pthread_mutex_lock(&peer->lock);
	for (unsigned int i = 0; i < peer->count; i++) {
		struct mci_shm_map *map = &link->maps[i];

		if (map->state != MCI_SHM_MAP_READY ||
		    mci_shm_alive(&link->table->word[map->slot], map->stamp))
			continue;
		map->state = MCI_SHM_MAP_IDLE;
		mci_shm_map_drop(map);
	}
	pthread_mutex_unlock(&peer->lock);
}

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	struct mci_shm_link *link = arg;
	struct mci_shm_finals finals;
	int ret = -EPROTO;

	mci_shm_finals_init(&finals);
	if (frame->type == MCI_SHM_GRANT)
		ret = on_grant(link, frame, &finals);
	else if (frame->type == MCI_SHM_GONE)
		ret = 0, on_gone(link);
	if (frame->fd >= 0)
		close(frame->fd);
	mci_shm_finals_tell(link->peer, &finals);
	if (ret) {
		mci_warn("process %d on this host sent a malformed or unexpected frame; its connection is "
			 "closed",
			 (int)link->pid);
		mci_conn_close(conn);
	}
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	(void)conn;
	(void)err;
	mci_shm_peer_closed(arg);
}

struct start {
	struct mci_shm_link *link;
	struct mci_sock sock;
	int ret;
};

static void start(void *arg) /* loop thread */
{
	static const struct mci_conn_ops ops = {.frame = on_frame, .closed = on_closed};
	struct start *s = arg;

	pthread_mutex_lock(&s->link->peer->lock);
	s->ret = mci_conn_start(s->link->loop, s->sock, MCI_SHM_FRAME_LIMIT, &ops, s->link, &s->link->conn);
	pthread_mutex_unlock(&s->link->peer->lock);
}

static int link_start(struct mci_shm_link *link, struct mci_sock *sock)
{
	struct start s = {.link = link, .sock = *sock};

	pthread_mutex_lock(&link->peer->lock);
	link->refs++;	      /* the connection's */
	link->started = true; /* peer_close() waits for its end */
	link->peer->links++;
	pthread_mutex_unlock(&link->peer->lock);
	mci_loop_call(link->loop, start, &s);
	if (!s.ret)
		return 0;
	pthread_mutex_lock(&link->peer->lock);
	link->refs--;
	link->started = false;
	link->peer->links--;
	pthread_mutex_unlock(&link->peer->lock);
	return s.ret;
}

int mci_shm_link_open(struct mci_peer *peer, const struct mci_peer_info *info, uint64_t deadline_ns,
		      struct mci_shm_link **out)
{
	struct mci_sock sock = {.fd = -1};
	struct mci_shm_link *link;
	struct mci_hello *hello;
	const char *unix_name;
	uint8_t params[4];
	int ret;

	ret = same_host(peer, info, &unix_name);
	if (ret)
		return ret;
	link = calloc(1, sizeof(*link));
	hello = malloc(sizeof(*hello));
	if (!link || !hello) {
		free(link);
		free(hello);
		return mci_fail(-ENOMEM, "no memory for a connection to segment '%s'", info->name);
	}
	link->peer = peer;
	link->loop = peer->loop;
	link->fd = link->pidfd = -1;
	link->uid = (uid_t)-1;
	link->refs = 1;
	link->ask.fn = send_asks;
	link->maps = calloc(peer->count + 1, sizeof(*link->maps));
	link->asked = calloc(peer->count + 1, 1);
	mci_put32(params, MCI_SHM_VERSION);
	if (!link->maps || !link->asked) {
		ret = mci_fail(-ENOMEM, "no memory for %u regions of segment '%s'", peer->count, info->name);
		goto err_free;
	}
	ret = mci_connect(
		&(struct mci_connect_attr){
			.unix_name = unix_name,
			.self = peer->host->self,
			.secret = &info->secret,
			.wanted = &info->uuid,
			.features = MCI_FEATURE_SHM,
			.service = MCI_SERVICE_ENGINE,
			.role = MCI_ROLE_SHM,
			.params = params,
			.params_length = sizeof(params),
			.deadline_ns = deadline_ns,
		},
		&sock, hello);
	if (ret)
		goto err_free;
	know_process(link, sock.fd);
	link->fd = fcntl(sock.fd, F_DUPFD_CLOEXEC, 3);
	if (link->fd < 0)
		ret = mci_fail(-errno, "cannot duplicate a descriptor: %s", strerror(errno));
	else
		ret = mci_shm_setup(link, &sock, deadline_ns);
	if (ret)
		goto err_close;
	ret = link_start(link, &sock);
	if (ret)
		goto err_close;
	free(hello);
	*out = link;
	return 0;

err_close:
	mci_sock_close(&sock);
err_free:
	mci_shm_link_put(link);
	free(hello);
	return ret;
}
