// SPDX-License-Identifier: MIT
/*
 * Classic data port: listener and its connections, each on one loop, never blocking, payload straight
 * to and from the registered memory.
 * Lock order: server->lock is a leaf; it guards the list of connections. A connection belongs to its loop.
 */
#include "transport/classic/server.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"

#define CONNECTIONS_MAX 1024
#define DRAIN_NS (2 * MCI_NS_PER_S)
#define HURRY_NS MCI_NS_PER_S
#define ACCEPTS_PER_EVENT 64
#define ACCEPT_REST_NS (100 * MCI_NS_PER_MS) /* after running out of descriptors */
#define BYTES_PER_EVENT (4u << 20)	     /* then other connections get their turn */

enum conn_state {
	CONN_HEADER, /* collecting a header, or idle between frames */
	CONN_WRITE,  /* payload -> memory */
	CONN_STATUS, /* sending a status alone */
	CONN_READ,   /* sending status (v2) and payload */
	CONN_DRAIN,  /* rejected and told so: the peer's payload is thrown away until it closes */
};

struct conn {
	struct mci_watch watch; /* first */
	struct mci_task task;	/* start, or go on after BYTES_PER_EVENT */
	struct mci_timer timer;
	struct classic_server *server;
	struct mci_loop *loop;
	struct conn *prev, *next;
	struct mci_sock sock;
	enum conn_state state;
	bool posted, dead, served, rejected;
	struct mci_classic_request request;
	uint8_t header[MCI_CLASSIC_HEADER], status[MCI_CLASSIC_STATUS];
	size_t status_length;	   /* 0 or 8: what precedes the payload, or is sent alone */
	uint64_t moved;		   /* bytes of the current piece */
	struct mci_region *region; /* used by the current frame */
	uint64_t progress_ns, hurry_ns;
};

_Atomic uint64_t mci_classic_stall_ns = 30 * MCI_NS_PER_S;

struct classic_server {
	struct mci_watch watch; /* first */
	struct mci_timer rest;
	struct mci_transport_host *host;
	struct mci_loop *loop;
	uint16_t port;
	pthread_mutex_t lock;
	struct conn *conns, *spare;
	unsigned int conn_count;
	/* arguments of the calls into the loops, one caller at a time */
	pthread_mutex_t call_lock;
	struct mci_loop *call_loop;
	struct mci_region *call_region;
	uint64_t call_deadline_ns;
};

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

int mci_classic_server_check(struct mci_region_table *regions, const struct mci_classic_request *request,
			     struct mci_region **region)
{
	if (!request->size || request->size > UINTPTR_MAX || request->addr > UINTPTR_MAX - request->size)
		return -EFAULT;
	return mci_region_get_address(regions, (const void *)(uintptr_t)request->addr, request->size,
				      request->write ? MC_REMOTE_WRITE : MC_REMOTE_READ, true, region);
}

/* NULL: full, or no memory. Only the thread that accepts adds connections. */
static struct conn *conn_new(struct classic_server *server)
{
	struct conn *conn;
	bool full;

	pthread_mutex_lock(&server->lock);
	full = server->conn_count >= CONNECTIONS_MAX;
	conn = full ? NULL : server->spare;
	if (conn)
		server->spare = conn->next;
	pthread_mutex_unlock(&server->lock);
	if (full)
		return NULL;
	if (conn) {
		memset(conn, 0, sizeof(*conn));
		return conn;
	}
	count(&server->host->stats.allocs, 1);
	return calloc(1, sizeof(*conn));
}

static void conn_forget(struct conn *conn)
{
	struct classic_server *server = conn->server;

	pthread_mutex_lock(&server->lock);
	conn->next = server->spare;
	server->spare = conn;
	pthread_mutex_unlock(&server->lock);
}

static void release_region(struct conn *conn)
{
	if (!conn->region)
		return;
	mci_region_put(conn->region);
	conn->region = NULL;
	conn->hurry_ns = 0;
}

/* Loop thread. The struct goes back to the spare ones now, or when the task that is under way has run. */
static void conn_close(struct conn *conn)
{
	struct classic_server *server = conn->server;

	if (conn->dead)
		return;
	conn->dead = true;
	mci_loop_del(conn->loop, &conn->watch);
	mci_loop_timer_clear(conn->loop, &conn->timer);
	mci_sock_close(&conn->sock);
	release_region(conn);
	pthread_mutex_lock(&server->lock);
	if (conn->prev)
		conn->prev->next = conn->next;
	else
		server->conns = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	server->conn_count--;
	pthread_mutex_unlock(&server->lock);
	if (!conn->posted)
		conn_forget(conn);
}

/* A header is complete: decide. */
static void begin(struct conn *conn)
{
	struct mci_transport_host *host = conn->server->host;
	struct mci_classic_request *request = &conn->request;

	mci_classic_request_decode(conn->header, request);
	conn->served = true;
	conn->moved = 0;
	conn->status_length = request->v2 ? MCI_CLASSIC_STATUS : 0;
	if (!mci_classic_server_check(host->regions, request, &conn->region)) {
		mci_classic_status_encode(conn->status, MCI_CLASSIC_OK);
		conn->state = request->write ? CONN_WRITE : CONN_READ;
		return;
	}
	count(&host->stats.refused, 1);
	mci_debug("classic peer: %s of %llu bytes refused: not inside one region that it may use",
		  request->write ? "write" : "read", (unsigned long long)request->size);
	mci_classic_status_encode(conn->status, MCI_CLASSIC_REJECTED);
	conn->rejected = true;
	conn->state = CONN_STATUS;
}

/* The current piece is complete: what comes next. Returns false if the connection is over. */
static bool advance(struct conn *conn)
{
	struct mci_transport_stats *stats = &conn->server->host->stats;

	switch (conn->state) {
	case CONN_HEADER:
		begin(conn);
		return true;
	case CONN_WRITE:
		count(&stats->served_writes, 1);
		count(&stats->served_bytes_written, conn->request.size);
		release_region(conn);
		conn->state = conn->request.v2 ? CONN_STATUS : CONN_HEADER;
		break;
	case CONN_READ:
		count(&stats->served_reads, 1);
		count(&stats->served_bytes_read, conn->request.size);
		release_region(conn);
		conn->state = CONN_HEADER;
		break;
	case CONN_STATUS:
		if (!conn->rejected) {
			conn->state = CONN_HEADER;
			break;
		}
		/* v1 knows no status: closing is the answer. */
		if (!conn->request.v2)
			return false;
		/*
		 * Closing with unread payload would reset the connection, and the reset may destroy the
		 * status on its way. So: end our side, and throw away what still comes.
		 */
		shutdown(conn->sock.fd, SHUT_WR);
		conn->state = CONN_DRAIN;
		mci_loop_timer_set(conn->loop, &conn->timer, mci_now_ns() + DRAIN_NS);
		break;
	case CONN_DRAIN:
		break;
	}
	conn->moved = 0;
	return true;
}

/* Bytes of the current piece, status included. */
static uint64_t piece_size(const struct conn *conn)
{
	switch (conn->state) {
	case CONN_HEADER:
		return MCI_CLASSIC_HEADER;
	case CONN_WRITE:
		return conn->request.size;
	case CONN_READ:
		return conn->status_length + conn->request.size;
	case CONN_STATUS:
		return conn->status_length;
	default:
		return UINT64_MAX;
	}
}

static ssize_t move_some(struct conn *conn)
{
	uint8_t *memory = (uint8_t *)(uintptr_t)conn->request.addr, waste[4096];
	struct iovec iov[2];
	uint64_t skip;
	int n = 0;

	switch (conn->state) {
	case CONN_HEADER:
		iov[0] = (struct iovec){conn->header + conn->moved, MCI_CLASSIC_HEADER - conn->moved};
		return mci_sock_recvv(&conn->sock, iov, 1);
	case CONN_WRITE:
		iov[0] = (struct iovec){memory + conn->moved, conn->request.size - conn->moved};
		return mci_sock_recvv(&conn->sock, iov, 1);
	case CONN_DRAIN:
		iov[0] = (struct iovec){waste, sizeof(waste)};
		return mci_sock_recvv(&conn->sock, iov, 1);
	default:
		if (conn->moved < conn->status_length)
			iov[n++] =
				(struct iovec){conn->status + conn->moved, conn->status_length - conn->moved};
		if (conn->state == CONN_READ) {
			skip = conn->moved > conn->status_length ? conn->moved - conn->status_length : 0;
			iov[n++] = (struct iovec){memory + skip, conn->request.size - skip};
		}
		return mci_sock_sendv(&conn->sock, iov, n);
	}
}

static void pump(struct conn *conn)
{
	uint64_t budget = BYTES_PER_EVENT;

	for (;;) {
		ssize_t n;

		if (conn->moved == piece_size(conn)) {
			if (!advance(conn))
				break;
			continue;
		}
		if (!budget) {
			conn->posted = true;
			mci_loop_post(conn->loop, &conn->task);
			return;
		}
		n = move_some(conn);
		if (n == -EAGAIN)
			return;
		if (n <= 0)
			break; /* it closed, or broke; half a frame is half a frame */
		conn->moved += (uint64_t)n;
		conn->progress_ns = mci_now_ns();
		budget = (uint64_t)n < budget ? budget - (uint64_t)n : 0;
	}
	conn_close(conn);
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	struct conn *conn = (struct conn *)watch;

	(void)events;
	if (!conn->posted)
		pump(conn);
}

static void on_go_on(struct mci_task *task)
{
	struct conn *conn = container(task, struct conn, task);

	conn->posted = false;
	if (conn->dead)
		conn_forget(conn);
	else
		pump(conn);
}

static void on_timer(struct mci_timer *timer)
{
	struct conn *conn = container(timer, struct conn, timer);
	bool idle = conn->state == CONN_HEADER && !conn->moved && conn->served;
	uint64_t now = mci_now_ns(), at = (idle ? now : conn->progress_ns) + mci_classic_stall_ns;

	if (conn->hurry_ns && conn->hurry_ns < at)
		at = conn->hurry_ns;
	if (conn->state != CONN_DRAIN && at > now) {
		mci_loop_timer_set(conn->loop, timer, at);
		return;
	}
	if (conn->state != CONN_DRAIN)
		count(&conn->server->host->stats.refused, 1);
	conn_close(conn);
}

static void on_start(struct mci_task *task)
{
	struct conn *conn = container(task, struct conn, task);

	conn->posted = false;
	conn->task.fn = on_go_on;
	conn->progress_ns = mci_now_ns();
	mci_sock_tune(conn->sock.fd);
	mci_loop_timer_set(conn->loop, &conn->timer, conn->progress_ns + mci_classic_stall_ns);
	if (mci_loop_add(conn->loop, &conn->watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET))
		conn_close(conn);
}

static void adopt(struct classic_server *server, int fd)
{
	struct conn *conn = conn_new(server);

	if (!conn) {
		count(&server->host->stats.refused, 1);
		close(fd);
		return;
	}
	conn->server = server;
	conn->loop = mci_loops_next(server->host->loops);
	conn->sock.fd = fd;
	conn->watch.fd = fd;
	conn->watch.fn = on_event;
	conn->timer.fn = on_timer;
	conn->task.fn = on_start;
	conn->posted = true;
	pthread_mutex_lock(&server->lock);
	conn->next = server->conns;
	if (conn->next)
		conn->next->prev = conn;
	server->conns = conn;
	server->conn_count++;
	pthread_mutex_unlock(&server->lock);
	mci_loop_post(conn->loop, &conn->task);
}

static void on_accept(struct mci_watch *watch, uint32_t events)
{
	struct classic_server *server = (struct classic_server *)watch;
	int i, fd;

	(void)events;
	for (i = 0; i < ACCEPTS_PER_EVENT; i++) {
		fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			adopt(server, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			mci_warn("classic data port %u cannot accept connections: %s", server->port,
				 strerror(errno));
			mci_loop_del(server->loop, watch);
			mci_loop_timer_set(server->loop, &server->rest, mci_now_ns() + ACCEPT_REST_NS);
		}
		return;
	}
}

static void on_rested(struct mci_timer *timer)
{
	struct classic_server *server = container(timer, struct classic_server, rest);

	if (mci_loop_add(server->loop, &server->watch, EPOLLIN))
		mci_loop_timer_set(server->loop, timer, mci_now_ns() + ACCEPT_REST_NS);
}

int mci_classic_server_start(struct mci_transport_host *host, struct classic_server **out)
{
	struct classic_server *server = calloc(1, sizeof(*server));
	int ret;

	if (!server)
		return mci_fail(-ENOMEM, "no memory for the classic data port");
	server->host = host;
	server->loop = mci_loops_next(host->loops);
	server->watch.fn = on_accept;
	server->rest.fn = on_rested;
	pthread_mutex_init(&server->lock, NULL);
	pthread_mutex_init(&server->call_lock, NULL);
	ret = mci_listen(host->options.bind, &server->port, host->options.port_low, host->options.port_high,
			 &server->watch.fd);
	if (ret)
		goto err_free;
	ret = mci_loop_add(server->loop, &server->watch, EPOLLIN);
	if (ret)
		goto err_close;
	*out = server;
	return 0;

err_close:
	close(server->watch.fd);
err_free:
	pthread_mutex_destroy(&server->call_lock);
	pthread_mutex_destroy(&server->lock);
	free(server);
	return ret;
}

uint16_t mci_classic_server_port(const struct classic_server *server) { return server->port; }

static void stop_listening(void *arg)
{
	struct classic_server *server = arg;

	mci_loop_del(server->loop, &server->watch);
	mci_loop_timer_clear(server->loop, &server->rest);
	close(server->watch.fd);
}

/* Next connection of the loop that is being called, @from itself included. */
static struct conn *of_this_loop(struct classic_server *server, struct conn *from)
{
	while (from && from->loop != server->call_loop)
		from = from->next;
	return from;
}

static void close_all(void *arg)
{
	struct classic_server *server = arg;
	struct conn *conn;

	for (;;) {
		pthread_mutex_lock(&server->lock);
		conn = of_this_loop(server, server->conns);
		pthread_mutex_unlock(&server->lock);
		if (!conn)
			return;
		conn_close(conn);
	}
}

static void nothing(void *arg) { (void)arg; }

void mci_classic_server_stop(struct classic_server *server)
{
	struct mci_loops *loops;
	struct conn *conn;
	unsigned int i;

	if (!server)
		return;
	loops = server->host->loops;
	mci_loop_call(server->loop, stop_listening, server);
	for (i = 0; i < loops->count; i++) {
		server->call_loop = loops->loop[i];
		mci_loop_call(loops->loop[i], close_all, server);
		mci_loop_call(loops->loop[i], nothing,
			      NULL); /* behind any task that a closed one still had posted */
	}
	while ((conn = server->spare)) {
		server->spare = conn->next;
		free(conn);
	}
	pthread_mutex_destroy(&server->call_lock);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

static void hurry_these(void *arg)
{
	struct classic_server *server = arg;
	struct conn *conn;

	/* Others may add in front and take out what is theirs: ours stay while we are here, but links need
	 * the lock. */
	pthread_mutex_lock(&server->lock);
	for (conn = of_this_loop(server, server->conns); conn; conn = of_this_loop(server, conn->next)) {
		if (conn->region != server->call_region)
			continue;
		conn->hurry_ns = server->call_deadline_ns;
		mci_loop_timer_set(conn->loop, &conn->timer, conn->hurry_ns);
	}
	pthread_mutex_unlock(&server->lock);
}

void mci_classic_server_hurry(struct classic_server *server, struct mci_region *region, uint64_t deadline_ns)
{
	struct mci_loops *loops = server->host->loops;
	uint64_t latest = mci_now_ns() + HURRY_NS;
	unsigned int i;

	if (!deadline_ns)
		return;
	pthread_mutex_lock(&server->call_lock);
	server->call_region = region;
	server->call_deadline_ns = deadline_ns < latest ? deadline_ns : latest;
	for (i = 0; i < loops->count; i++) {
		server->call_loop = loops->loop[i];
		mci_loop_call(loops->loop[i], hurry_these, server);
	}
	pthread_mutex_unlock(&server->call_lock);
}
