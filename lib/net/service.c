// SPDX-License-Identifier: MIT
/*
 * The rpc port: listens, accepts, spreads connections over the loops and keeps strangers within bounds.
 * Lock order: service->lock is a leaf; tasks are posted under it (the loop's lock is a leaf below).
 */
#include "net/service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "net/incoming.h"

#define ACCEPTS_PER_EVENT 64
#define PAUSE_NS (100 * MCI_NS_PER_MS)
#define WARN_EVERY_NS (10 * MCI_NS_PER_S)

#define of(type, ptr, member) ((type *)((char *)(ptr)-offsetof(type, member)))

void mci_service_put(struct mci_service *service)
{
	bool last;

	pthread_mutex_lock(&service->lock);
	last = !--service->users;
	pthread_mutex_unlock(&service->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&service->lock);
	mci_wipe(&service->attr.secret, sizeof(service->attr.secret));
	free(service);
}

void mci_incoming_unlist(struct mci_incoming *in)
{
	struct mci_service *service = in->service;

	if (in->unproved_prev)
		in->unproved_prev->unproved_next = in->unproved_next;
	else
		service->unproved = in->unproved_next;
	if (in->unproved_next)
		in->unproved_next->unproved_prev = in->unproved_prev;
	else
		service->unproved_last = in->unproved_prev;
	in->in_unproved = false;
	service->unproved_count--;
}

/*
 * One too many: the oldest goes. Were the newest refused instead, 256 silent connections every 3 s
 * would keep everybody out; like this an honest client, which proves itself within a round trip or
 * two, is in danger only while 256 strangers come in that time. Lock held.
 */
static void evict_oldest(struct mci_service *service)
{
	struct mci_incoming *oldest = service->unproved;

	if (!oldest)
		return;
	mci_incoming_unlist(oldest);
	oldest->evicting = true;
	mci_loop_post(oldest->loop, &oldest->evict);
}

static void on_start(struct mci_task *task) { mci_incoming_begin(of(struct mci_incoming, task, start)); }

static void admit(struct mci_service *service, int fd, bool is_unix)
{
	struct mci_incoming *in = calloc(1, sizeof(*in));

	if (!in) {
		close(fd);
		atomic_fetch_add(&service->refused, 1);
		return;
	}
	in->service = service;
	in->loop = mci_loops_next(service->attr.loops);
	in->sock.fd = fd;
	in->is_unix = is_unix;
	in->in = in->in_small;
	in->in_size = sizeof(in->in_small);
	in->out = in->out_small;
	in->until_ns = mci_now_ns() + MCI_UNPROVED_NS;
	in->start.fn = on_start;
	mci_incoming_prepare(in);

	pthread_mutex_lock(&service->lock);
	while (service->unproved_count >= MCI_UNPROVED_MAX)
		evict_oldest(service);
	service->users++;
	in->all_next = service->all;
	if (service->all)
		service->all->all_prev = in;
	service->all = in;
	in->unproved_prev = service->unproved_last;
	if (service->unproved_last)
		service->unproved_last->unproved_next = in;
	else
		service->unproved = in;
	service->unproved_last = in;
	in->in_unproved = true;
	service->unproved_count++;
	mci_loop_post(in->loop, &in->start);
	pthread_mutex_unlock(&service->lock);
}

static void listen_for(struct mci_service *service, uint32_t events)
{
	if (service->tcp.watch.fd >= 0)
		mci_loop_modify(service->loop, &service->tcp.watch, events);
	if (service->local.watch.fd >= 0)
		mci_loop_modify(service->loop, &service->local.watch, events);
}

/* Out of descriptors or memory: a level-triggered listener would spin. Rest, and give one back. */
static void rest(struct mci_service *service, int err)
{
	uint64_t now = mci_now_ns();

	if (now >= service->warn_ns) {
		service->warn_ns = now + WARN_EVERY_NS;
		mci_warn("cannot accept connections for a moment: %s%s", strerror(err),
			 err == EMFILE ? "; raise the limit (ulimit -n)" : "");
	}
	pthread_mutex_lock(&service->lock);
	evict_oldest(service);
	pthread_mutex_unlock(&service->lock);
	listen_for(service, 0);
	mci_loop_timer_set(service->loop, &service->pause, now + PAUSE_NS);
}

static void on_pause_over(struct mci_timer *timer)
{
	struct mci_service *service = of(struct mci_service, timer, pause);

	listen_for(service, EPOLLIN);
}

static void on_accept(struct mci_watch *watch, uint32_t events)
{
	struct listener *listener = of(struct listener, watch, watch);
	int i;

	(void)events;
	for (i = 0; i < ACCEPTS_PER_EVENT; i++) {
		int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			mci_sock_tune(fd);
			admit(listener->service, fd, listener->is_unix);
			continue;
		}
		switch (errno) {
		case EINTR:
		case ECONNABORTED:
		case EPROTO:
			continue;
		case EAGAIN:
			return;
		case EMFILE:
		case ENFILE:
		case ENOBUFS:
		case ENOMEM:
			rest(listener->service, errno);
			return;
		default:
			/* Linux also hands network errors of the new socket to accept(): go on with the next.
			 */
			mci_debug("accept: %s", strerror(errno));
			continue;
		}
	}
}

static void close_listeners(void *arg)
{
	struct mci_service *service = arg;

	mci_loop_timer_clear(service->loop, &service->pause);
	if (service->tcp.watch.fd >= 0) {
		mci_loop_del(service->loop, &service->tcp.watch);
		close(service->tcp.watch.fd);
		service->tcp.watch.fd = -1;
	}
	if (service->local.watch.fd >= 0) {
		mci_loop_del(service->loop, &service->local.watch);
		close(service->local.watch.fd);
		service->local.watch.fd = -1;
	}
}

int mci_service_start(const struct mci_service_attr *attr, struct mci_service **out)
{
	struct mci_service *service;
	int ret;

	if (attr->unix_only && !attr->unix_name)
		return mci_fail(-EINVAL, "a service on a unix socket only, and no name for the socket");
	ret = mci_secret_check(&attr->secret);
	if (ret)
		return ret;
	service = calloc(1, sizeof(*service));
	if (!service)
		return mci_fail(-ENOMEM, "no memory for a service");
	service->attr = *attr;
	service->self = attr->self;
	service->users = 1;
	service->loop = mci_loops_next(attr->loops);
	service->pause.fn = on_pause_over;
	service->tcp = (struct listener){.watch = {.fd = -1, .fn = on_accept}, .service = service};
	service->local =
		(struct listener){.watch = {.fd = -1, .fn = on_accept}, .service = service, .is_unix = true};
	pthread_mutex_init(&service->lock, NULL);

	if (!attr->unix_only) {
		service->port = attr->port;
		ret = mci_listen(attr->bind, &service->port, attr->port_low, attr->port_high,
				 &service->tcp.watch.fd);
		if (ret)
			goto err_free;
		ret = mci_loop_add(service->loop, &service->tcp.watch, EPOLLIN);
		if (ret)
			goto err_stop;
	}
	if (attr->unix_name) {
		ret = mci_unix_listen(attr->unix_name, &service->local.watch.fd);
		if (ret)
			goto err_stop;
		ret = mci_loop_add(service->loop, &service->local.watch, EPOLLIN);
		if (ret)
			goto err_stop;
	}
	/* The strings of the caller were used; nothing of it is kept. */
	service->attr.bind = NULL;
	service->attr.unix_name = NULL;
	*out = service;
	return 0;

err_stop:
	mci_service_stop(service);
	return ret;
err_free:
	mci_service_put(service);
	return ret;
}

struct sweep {
	struct mci_service *service;
	struct mci_loop *loop;
};

/* Ends what lives on this loop. Callbacks run in between, so the list is looked at anew each time. */
static void sweep(void *arg)
{
	struct sweep *s = arg;
	struct mci_incoming *in;

	for (;;) {
		pthread_mutex_lock(&s->service->lock);
		for (in = s->service->all; in; in = in->all_next)
			if (in->loop == s->loop && !in->swept)
				break;
		if (in)
			in->swept = true;
		pthread_mutex_unlock(&s->service->lock);
		if (!in)
			return;
		mci_incoming_abort(in);
	}
}

void mci_service_stop(struct mci_service *service)
{
	struct sweep s = {.service = service};
	unsigned int i;

	if (!service)
		return;
	/* First nobody comes in any more; then, on each loop, behind all that was posted to it before. */
	mci_loop_call(service->loop, close_listeners, service);
	for (i = 0; i < service->attr.loops->count; i++) {
		s.loop = service->attr.loops->loop[i];
		mci_loop_call(s.loop, sweep, &s);
	}
	mci_service_put(service);
}

uint16_t mci_service_port(const struct mci_service *service) { return service->port; }

uint64_t mci_service_refused(const struct mci_service *service) { return atomic_load(&service->refused); }

void mci_service_identity(struct mci_service *service, const struct mci_identity *self)
{
	pthread_mutex_lock(&service->lock);
	service->self = self;
	pthread_mutex_unlock(&service->lock);
}
