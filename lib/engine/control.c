// SPDX-License-Identifier: MIT
/*
 * Control connections (role CONTROL): one peer asks, the other answers. Describe (with P2PHANDSHAKE
 * there is no other place to read the descriptor), statistics. docs/protocol.md, "Control".
 */
#include "engine/engine.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/bytes.h"
#include "net/conn.h"

#define FRAME_MAX (16u << 20)
#define REQUEST_MAX 4096u

/* What a connection holds beside the answers in its queue. */
#define HELD_BYTES (sizeof(struct mci_control_conn) + 2 * REQUEST_MAX)

/* A peer asks and leaves; one that stays is sent away. */
#define STAY_MS 10000

/* Our side of one connection; listed in engine->controls under engine->lock from start to closed. */
struct mci_control_conn {
	struct mc_engine *engine;
	struct mci_loop *loop;
	struct mci_conn *conn;
	struct mci_timer stay;
	struct mci_control_conn *prev, *next;
	struct mci_payer payer;
	bool same_user; /* came over the unix socket: may have the token */
};

void mci_p2p_socket_name(uint16_t port, char *name, size_t size)
{
	snprintf(name, size, "mooncake/p2p/%u", port);
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
	       ((double)usage.ru_utime.tv_usec + (double)usage.ru_stime.tv_usec) / 1e6;
}

static int send_description(struct mci_control_conn *control, struct mci_conn *conn, uint32_t id)
{
	struct mc_engine *engine = control->engine;
	size_t length;
	uint8_t *body;
	int ret = -ENOMEM;

	pthread_mutex_lock(&engine->lock);
	/* We listen before there is a first descriptor: who asks that early is sent away, to ask again. */
	if (!engine->descriptor) {
		pthread_mutex_unlock(&engine->lock);
		return -EAGAIN;
	}
	length = strlen(engine->descriptor);
	body = calloc(1, 17 + length);
	if (body)
		memcpy(body + 17, engine->descriptor, length);
	pthread_mutex_unlock(&engine->lock);
	if (!body)
		return ret;
	if (control->same_user && engine->local_service) {
		body[0] = (uint8_t)engine->host.secret.mode;
		memcpy(body + 1, engine->host.secret.key, 16);
	}
	ret = mci_conn_send(conn, MCI_CONTROL_DESCRIBE | MCI_CONTROL_REPLY, id, body, (uint32_t)(17 + length),
			    -1);
	free(body);
	return ret;
}

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	static const char unknown[] = "unknown control request";
	struct mci_control_conn *control = arg;
	uint8_t seconds[8];
	int ret;

	if (frame->fd >= 0)
		close(frame->fd);
	switch (frame->type) {
	case MCI_CONTROL_DESCRIBE:
		ret = send_description(control, conn, frame->id);
		break;
	case MCI_CONTROL_STATS:
		mci_put64(seconds, (uint64_t)(cpu_seconds() * 1e9));
		ret = mci_conn_send(conn, MCI_CONTROL_STATS | MCI_CONTROL_REPLY, frame->id, seconds,
				    sizeof(seconds), -1);
		break;
	default:
		ret = mci_conn_send(conn, MCI_CONTROL_ERROR, frame->id, unknown, sizeof(unknown) - 1, -1);
	}
	if (ret == -EBUSY)
		mci_conn_send(conn, MCI_CONTROL_ERROR, frame->id, mc_errmsg(), (uint32_t)strlen(mc_errmsg()), -1);
	if (ret)
		mci_conn_close(conn);
}

static void end(struct mci_control_conn *control)
{
	mci_ledger_give(control->engine->host.ledger, &control->payer, HELD_BYTES);
	free(control);
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	struct mci_control_conn *control = arg;
	struct mc_engine *engine = control->engine;

	(void)conn;
	(void)err;
	mci_loop_timer_clear(control->loop, &control->stay);
	pthread_mutex_lock(&engine->lock);
	if (control->prev)
		control->prev->next = control->next;
	else
		engine->controls = control->next;
	if (control->next)
		control->next->prev = control->prev;
	pthread_mutex_unlock(&engine->lock);
	end(control);
}

static void stayed(struct mci_timer *timer)
{
	struct mci_control_conn *control =
		(struct mci_control_conn *)((char *)timer - offsetof(struct mci_control_conn, stay));

	mci_conn_close(control->conn);
}

static void ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	static const struct mci_conn_ops ops = {.frame = on_frame, .closed = on_closed};
	struct mci_control_conn *control = arg;
	struct mc_engine *engine = control->engine;

	(void)hello;
	if (error) {
		end(control);
		return;
	}
	if (mci_conn_start(control->loop, sock, REQUEST_MAX, &ops, control, &control->conn)) {
		mci_sock_close(&sock);
		end(control);
		return;
	}
	mci_conn_account(control->conn, engine->host.ledger, &control->payer);
	control->stay.fn = stayed;
	mci_loop_timer_set(control->loop, &control->stay, mci_now_ns() + STAY_MS * MCI_NS_PER_MS);
	pthread_mutex_lock(&engine->lock);
	control->next = engine->controls;
	if (control->next)
		control->next->prev = control;
	engine->controls = control;
	pthread_mutex_unlock(&engine->lock);
}

static void close_on_loop(void *arg)
{
	struct mc_engine *engine = arg;
	struct mci_control_conn *control;

	/* They are unlisted by closed(), which follows from the loop, at the latest when that is stopped. */
	pthread_mutex_lock(&engine->lock);
	for (control = engine->controls; control; control = control->next)
		if (mci_loop_inside(control->loop))
			mci_conn_close(control->conn);
	pthread_mutex_unlock(&engine->lock);
}

void mci_control_stop(struct mc_engine *engine)
{
	unsigned int i;

	for (i = 0; i < engine->loops.count; i++)
		mci_loop_call(engine->loops.loop[i], close_on_loop, engine);
}

void mci_control_incoming(struct mc_engine *engine, struct mci_incoming *in)
{
	const struct mci_payer *payer = mci_incoming_payer(in);
	struct mci_control_conn *control;
	char why[MCI_SENTENCE_MAX + 1];
	int ret;

	ret = mci_ledger_take(engine->host.ledger, payer, HELD_BYTES, why);
	if (ret) {
		mci_incoming_reject(in, ret, why);
		return;
	}
	control = calloc(1, sizeof(*control));
	if (!control) {
		mci_ledger_give(engine->host.ledger, payer, HELD_BYTES);
		mci_incoming_reject(in, -ENOMEM, "no memory for one more control connection");
		return;
	}
	control->payer = *payer;
	control->engine = engine;
	control->loop = mci_incoming_loop(in);
	control->same_user = mci_incoming_is_unix(in);
	mci_incoming_accept(in, NULL, 0, ready, control);
}

/* The token that a unix socket hands out is only as good as who listens there: any user can take the name. */
static bool served_by_same_user(const struct mci_sock *sock)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	return !getsockopt(sock->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) &&
	       (!peer.uid || peer.uid == geteuid());
}

int mci_control_ask(struct mc_engine *engine, const struct mci_connect_attr *attr, enum mci_control what,
		    void **body, uint32_t *length, struct mci_identity *peer)
{
	struct mci_hello hello;
	struct mci_sock sock;
	uint16_t type;
	uint32_t id;
	int ret;

	(void)engine;
	ret = mci_connect(attr, &sock, &hello);
	if (ret)
		return ret;
	if (attr->unix_name && attr->secret->mode == MCI_AUTH_NONE && !served_by_same_user(&sock)) {
		mci_sock_close(&sock);
		return mci_fail(-EKEYREJECTED,
				"the unix socket '@%s' is served by another user; give both sides "
				"--key_file=FILE (mooncake key new FILE), or run them as one user",
				attr->unix_name);
	}
	if (peer)
		*peer = hello.peer;
	ret = mci_frame_send(&sock, (uint16_t)what, 1, NULL, 0, attr->deadline_ns);
	if (!ret)
		ret = mci_frame_recv(&sock, FRAME_MAX, &type, &id, body, length, NULL, attr->deadline_ns);
	mci_sock_close(&sock);
	if (ret)
		return mci_fail(ret, "peer '%s' did not answer a control request: %s", hello.peer.name,
				strerror(-ret));
	if (type != ((uint16_t)what | MCI_CONTROL_REPLY)) {
		ret = mci_fail(-EPROTO, "peer '%s' did not answer control request %u: %.*s", hello.peer.name, what,
			       type == MCI_CONTROL_ERROR && *length < 1000 ? (int)*length : 0, (const char *)*body);
		free(*body);
		return ret;
	}
	return 0;
}

/**
 * mc_segment_cpu_seconds() - CPU time that the owner of a segment has used so far
 * @segment: open segment
 * @seconds: out: user plus system, of the whole process
 *
 * Return: 0; -EOPNOTSUPP: a classic peer cannot tell; connection errors; -ECHILD.
 */
int mc_segment_cpu_seconds(mc_segment *segment, double *seconds)
{
	struct mc_engine *engine = segment->engine;
	struct mci_connect_attr attr = {
		.self = &engine->self,
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_CONTROL,
		.deadline_ns = mci_now_ns() + 1000 * MCI_NS_PER_MS,
	};
	struct mci_secret secret;
	struct mc_uuid uuid;
	char *hosts[MCI_MAX_ADDRESSES];
	uint32_t length;
	unsigned int i;
	void *body;
	int ret;

	if (mci_forked(engine))
		return mci_fork_fail();
	if (segment->classic)
		return mci_fail(-EOPNOTSUPP, "'%s' is a classic peer; it does not tell its CPU time",
				segment->name);
	pthread_mutex_lock(&segment->refresh_lock);
	for (i = 0; i < segment->host_count; i++) {
		hosts[attr.host_count] = strdup(segment->hosts[i]);
		attr.host_count += hosts[attr.host_count] ? 1 : 0;
	}
	attr.port = segment->port;
	secret = segment->secret;
	uuid = segment->uuid;
	pthread_mutex_unlock(&segment->refresh_lock);
	attr.hosts = (const char *const *)hosts;
	attr.secret = &secret;
	attr.wanted = &uuid;
	ret = mci_control_ask(engine, &attr, MCI_CONTROL_STATS, &body, &length, NULL);
	for (i = 0; i < attr.host_count; i++)
		free(hosts[i]);
	if (ret)
		return ret;
	if (length >= 8)
		*seconds = (double)mci_get64(body) / 1e9;
	else
		ret = mci_fail(-EPROTO, "'%s' answered with %u bytes of statistics", segment->name, length);
	free(body);
	return ret;
}
