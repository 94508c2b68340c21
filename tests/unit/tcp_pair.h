/* SPDX-License-Identifier: MIT */
/* Two stand-in engines, an initiator and a target, perhaps with a proxy between them: what the TCP tests
 * share. */
#ifndef TESTS_UNIT_TCP_PAIR_H
#define TESTS_UNIT_TCP_PAIR_H

#include "unit/tcp_host.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "only.h"
#include "unit/tcp_proxy.h"

#define MIB (1ull << 20)
#define S MCI_NS_PER_S
#define MS MCI_NS_PER_MS

struct pair { /* an initiator, a target, a region there */
	struct fake *from, *to;
	struct proxy *proxy;
	uint8_t *local, *memory;
	uint64_t length;
	struct mci_region *region;
	struct mci_remote_region remote;
	struct mci_peer *peer;
};

static inline void pair_open(struct pair *p, uint64_t length, bool proxy,
			     const struct mci_transport_options *options)
{
	memset(p, 0, sizeof(*p));
	p->length = length;
	p->from = fake_open(0, options);
	p->to = fake_open(0, NULL);
	p->local = fake_memory(length);
	p->memory = fake_memory(length);
	p->region = fake_region(p->to, p->memory, length, MC_REMOTE_READ | MC_REMOTE_WRITE);
	p->remote = fake_remote(p->region);
	if (proxy)
		p->proxy = proxy_open(mci_service_port(p->to->service));
	p->peer = fake_connect(p->from, p->to, proxy ? p->proxy->port : 0, &p->remote);
}

static inline void pair_close(struct pair *p)
{
	mci_transport_tcp.peer_close(p->peer);
	if (p->proxy)
		proxy_close(p->proxy);
	if (p->region)
		assert_int_equal(fake_unregister(p->to, p->region, S), 0);
	fake_close(p->from);
	fake_close(p->to);
	munmap(p->local, p->length);
	munmap(p->memory, p->length);
}

/* Under TSAN, checking each of these bytes would take most of the time. */
__attribute__((no_sanitize("thread"))) static inline void fill(uint8_t *p, uint64_t n, uint64_t seed)
{
	uint64_t i;

	for (i = 0; i + 8 <= n; i += 8) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(p + i, &seed, 8);
	}
	for (; i < n; i++)
		p[i] = (uint8_t)(seed >> (8 * (i & 7)));
}

static inline void nothing(struct mci_region *region, void *arg)
{
	(void)region;
	(void)arg;
}

/*
 * Both engines live in one process, and a socket between two threads orders nothing that TSAN sees. So
 * before requests are sent the target's table of regions is locked once, and behind them its uses of
 * the region are seen to have ended: that orders our accesses to the target's memory and its own.
 */
static inline void run(struct pair *p, struct job *jobs, unsigned int count, uint64_t timeout_ns)
{
	if (p->to)
		mci_regions_each(p->to->host.regions, nothing, NULL);
	jobs_submit(p->peer, jobs, count);
	assert_true(jobs_wait(jobs, count, timeout_ns));
	while (p->region && atomic_load(&p->region->users))
		sched_yield();
}

static inline void assert_done(const struct job *job)
{
	assert_int_equal(job->error, 0);
	assert_int_equal(job->state, MC_DONE);
	assert_int_equal(job->bytes, job->r.length);
}

/* One request; its errno. */
static inline int one(struct pair *p, enum mci_op op, uint64_t offset, uint64_t length, uint64_t timeout_ns)
{
	struct job job;

	job_set(&job, p->from, op, &p->remote, offset, p->local, length, timeout_ns);
	run(p, &job, 1, timeout_ns + 2 * S);
	return job.error;
}

static inline void wait_until(bool (*fn)(void *arg), void *arg)
{
	static const struct timespec step = {.tv_nsec = 1000000};
	uint64_t end = mci_now_ns() + 10 * S;

	while (!fn(arg)) {
		assert_true(mci_now_ns() < end);
		nanosleep(&step, NULL);
	}
}

#endif
