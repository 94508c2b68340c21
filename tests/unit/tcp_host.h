/* SPDX-License-Identifier: MIT */
/* A small stand-in for the engine around the TCP transport: identity, regions, loops, rpc port, completions.
 */
#ifndef TESTS_UNIT_TCP_HOST_H
#define TESTS_UNIT_TCP_HOST_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/uuid.h"
#include "net/service.h"
#include "transport/tcp/tcp.h"

/*
 * Both engines live in one process, and that bytes went over a socket orders memory accesses in no way
 * that TSAN sees: the memory that requests move is left out.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:mci_sock_sendv\nrace:mci_sock_recvv\nrace:^consume$\nrace:XXH3_64bits\n";
}

struct fake { /* one engine */
	struct mci_transport_host host;
	struct mci_identity self;
	struct mci_loops loops;
	struct mci_service *service;
	struct mci_transport *transport;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int completed;
	uint64_t notifies, last_sequence;
	char last_notify[64];
	int notify_result;
	/* refresh() */
	unsigned int refreshes;
	int refresh_error; /* 0: give @info */
	struct mci_peer_info info;
	struct mci_remote_region *remote; /* marked stale with -ESTALE */
	unsigned int remote_count;
};

struct job {		      /* a request and how it ended */
	struct mci_request r; /* first */
	struct fake *fake;
	enum mc_state state;
	int error;
	uint64_t bytes, ended_ns;
};

static inline void fake_complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
				 uint32_t flags)
{
	struct job *job = (struct job *)request;
	struct fake *fake = job->fake;

	(void)flags;
	pthread_mutex_lock(&fake->lock);
	job->error = error;
	job->bytes = bytes;
	job->ended_ns = mci_now_ns();
	job->state = state;
	fake->completed++;
	pthread_cond_broadcast(&fake->changed);
	pthread_mutex_unlock(&fake->lock);
}

static inline int fake_refresh(void *engine, void *cookie, uint64_t deadline_ns,
			       int (*use)(void *arg, const struct mci_peer_info *info), void *arg)
{
	struct fake *fake = engine;
	unsigned int i;
	int ret;

	(void)cookie;
	(void)deadline_ns;
	pthread_mutex_lock(&fake->lock);
	fake->refreshes++;
	ret = fake->refresh_error;
	pthread_mutex_unlock(&fake->lock);
	if (ret == -ESTALE)
		for (i = 0; i < fake->remote_count; i++)
			atomic_store(&fake->remote[i].stale, true);
	return ret ? ret : use(arg, &fake->info);
}

static inline int fake_notify(void *engine, const struct mc_uuid *sender, uint64_t sequence, const void *p,
			      uint32_t length)
{
	struct fake *fake = engine;
	struct mci_notify_body body;
	int ret;

	(void)sender;
	if (mci_notify_decode(p, length, &body))
		abort();
	pthread_mutex_lock(&fake->lock);
	ret = fake->notify_result;
	fake->notifies++;
	fake->last_sequence = sequence;
	snprintf(fake->last_notify, sizeof(fake->last_notify), "%.*s", (int)body.message_length,
		 (const char *)body.message);
	pthread_cond_broadcast(&fake->changed);
	pthread_mutex_unlock(&fake->lock);
	return ret;
}

static inline void fake_connection(void *arg, struct mci_incoming *in)
{
	struct fake *fake = arg;

	if (mci_incoming_hello(in)->role == MCI_ROLE_DATA)
		mci_tcp_incoming(fake->transport, in);
	else
		mci_incoming_reject(in, -EPROTO, "not served in this test");
}

/* @port 0 = any. Aborts on failure: nothing of this is under test. */
static inline struct fake *fake_open(uint16_t port, const struct mci_transport_options *options)
{
	struct fake *fake = calloc(1, sizeof(*fake));
	struct mci_service_attr attr = {
		.bind = "127.0.0.1",
		.port = port,
		.port_low = 21000,
		.port_high = 25000,
		.service = MCI_SERVICE_ENGINE,
		.features = MCI_FEATURES_KNOWN,
		.self = &fake->self,
		.loops = &fake->loops,
		.connection = fake_connection,
		.arg = fake,
	};
	pthread_condattr_t condattr;

	mci_log_init();
	pthread_condattr_init(&condattr);
	pthread_condattr_setclock(&condattr, CLOCK_MONOTONIC);
	pthread_mutex_init(&fake->lock, NULL);
	pthread_cond_init(&fake->changed, &condattr);
	pthread_condattr_destroy(&condattr);
	snprintf(fake->self.name, sizeof(fake->self.name), "fake");
	mci_uuid_new(&fake->self.uuid);
	fake->self.generation = 1;
	fake->host.engine = fake;
	fake->host.self = &fake->self;
	fake->host.secret.mode = MCI_AUTH_TOKEN;
	fake->host.secret.key_length = 16;
	memset(fake->host.secret.key, 0x42, 16);
	if (options)
		fake->host.options = *options;
	fake->host.loops = &fake->loops;
	fake->host.complete = fake_complete;
	fake->host.refresh = fake_refresh;
	fake->host.notify = fake_notify;
	attr.secret = fake->host.secret;
	if (mci_regions_create(&fake->host.regions) || mci_loops_start("test", 2, &fake->loops) ||
	    mci_transport_tcp.open(&fake->host, &fake->transport) ||
	    mci_service_start(&attr, &fake->service)) {
		fprintf(stderr, "fake_open: %s\n", mc_errmsg());
		abort();
	}
	return fake;
}

static inline void fake_close(struct fake *fake)
{
	mci_service_stop(fake->service);
	mci_transport_tcp.close(fake->transport);
	mci_loops_stop(&fake->loops);
	mci_regions_destroy(fake->host.regions);
	pthread_cond_destroy(&fake->changed);
	pthread_mutex_destroy(&fake->lock);
	free(fake);
}

static inline void *fake_memory(uint64_t length)
{
	void *p =
		mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

static inline struct mci_region *fake_region(struct fake *fake, void *addr, uint64_t length, uint32_t rights)
{
	struct mci_region *region = calloc(1, sizeof(*region));

	region->addr = addr;
	region->length = length;
	region->rights = rights;
	region->memfd = -1;
	if (mci_regions_add(fake->host.regions, region))
		abort();
	return region;
}

static inline int fake_unregister(struct fake *fake, struct mci_region *region, uint64_t timeout_ns)
{
	uint64_t deadline = mci_now_ns() + timeout_ns;
	int ret;

	mci_regions_retire(fake->host.regions, region, true);
	mci_transport_tcp.region_remove(fake->transport, region, deadline);
	ret = mci_regions_remove(fake->host.regions, region, deadline);
	if (!ret)
		free(region);
	return ret;
}

static inline struct mci_remote_region fake_remote(const struct mci_region *region)
{
	return (struct mci_remote_region){.id = region->id,
					  .generation = region->generation,
					  .rights = region->rights,
					  .length = region->length};
}

/* How to reach @to, over @port (0 = its own); may outlive it. Free ->transport. */
static inline struct mci_peer_info fake_info(const struct fake *to, uint16_t port)
{
	static const char *const loopback[] = {"127.0.0.1"};
	struct mci_peer_info info = {
		.name = "fake",
		.uuid = to->self.uuid,
		.generation = to->self.generation,
		.addresses = loopback,
		.address_count = 1,
		.port = port ? port : mci_service_port(to->service),
		.secret = to->host.secret,
	};

	info.transport = json_pack("{s:i}", "version", 1);
	return info;
}

static inline struct mci_peer *fake_connect(struct fake *from, const struct fake *to, uint16_t port,
					    struct mci_remote_region *remote)
{
	struct mci_peer_info info = fake_info(to, port);
	struct mci_peer *peer = NULL;

	from->info = info;
	from->info.transport = NULL;
	from->remote = remote;
	from->remote_count = remote ? 1 : 0;
	if (mci_transport_tcp.peer_open(from->transport, &info, from, remote, remote ? 1 : 0,
					mci_now_ns() + 5 * MCI_NS_PER_S, &peer)) {
		fprintf(stderr, "fake_connect: %s\n", mc_errmsg());
		abort();
	}
	json_decref((json_t *)info.transport);
	return peer;
}

static inline void job_set(struct job *job, struct fake *fake, enum mci_op op,
			   struct mci_remote_region *remote, uint64_t offset, void *local, uint64_t length,
			   uint64_t timeout_ns)
{
	memset(job, 0, sizeof(*job));
	job->fake = fake;
	job->r.op = (uint8_t)op;
	job->r.remote = remote;
	job->r.offset = offset;
	job->r.local = local;
	job->r.length = length;
	job->r.deadline_ns = mci_now_ns() + timeout_ns;
}

static inline void jobs_submit(struct mci_peer *peer, struct job *jobs, unsigned int count)
{
	unsigned int i;

	for (i = 0; i + 1 < count; i++)
		jobs[i].r.next = &jobs[i + 1].r;
	jobs[count - 1].r.next = NULL;
	mci_transport_tcp.submit(peer, &jobs[0].r);
}

static inline struct timespec fake_in(uint64_t ns)
{
	uint64_t at = mci_now_ns() + ns;

	return (struct timespec){.tv_sec = (time_t)(at / MCI_NS_PER_S), .tv_nsec = (long)(at % MCI_NS_PER_S)};
}

/* True once all are final; false after @timeout_ns. */
static inline bool jobs_wait(struct job *jobs, unsigned int count, uint64_t timeout_ns)
{
	struct timespec until = fake_in(timeout_ns);
	struct fake *fake = jobs[0].fake;
	unsigned int i = 0;
	int ret = 0;

	pthread_mutex_lock(&fake->lock);
	while (!ret) {
		while (i < count && jobs[i].state != MC_PENDING)
			i++;
		if (i == count)
			break;
		ret = pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
	}
	pthread_mutex_unlock(&fake->lock);
	return i == count;
}

#endif
