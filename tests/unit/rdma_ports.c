// SPDX-License-Identifier: MIT
/*
 * Ports that fail, come back and change their address under load or while a segment is opened, with two NICs on each
 * side. With the NIC in software (tests/softnic) alone, whose ports a test can change; soft-RoCE's are changed by
 * tests/vm/rdma_ports.sh and rdma_rails.sh.
 */
#include "unit/rdma_env.h"

#include <dlfcn.h>

#define PIECES 32u

static void (*set_port)(unsigned int index, bool down, uint8_t address);

static int nics_of(void **state, const struct pair *fresh)
{
	static struct pair pair;

	set_port =
		(__typeof__(set_port))dlsym(dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL), "softnic_port");
	assert_non_null(set_port);
	pair = *fresh;
	*state = &pair;
	pair_setup(&pair);
	return 0;
}

static int two_nics(void **state)
{
	static const struct pair fresh = {.transport = "rdma", .memory = "malloc"};

	return nics_of(state, &fresh);
}

/* Both dialects: ours comes first and does not fit. */
static int classic_nics(void **state)
{
	static const struct pair fresh = {
		.transport = "rdma,rdma-classic", .memory = "malloc", .flags = MC_ENGINE_CLASSIC};

	return nics_of(state, &fresh);
}

struct load {
	struct pair *pair;
	_Atomic bool stop;
	_Atomic unsigned int rounds;
	unsigned int failed, wrong;
};

static void *keep_moving(void *arg)
{
	struct load *l = arg;
	struct pair *p = l->pair;
	size_t n = PAIR_BYTES / PIECES;
	struct mc_status status;
	mc_batch *batch;
	unsigned int i;

	if (mc_batch_alloc(p->initiator, PIECES, &batch))
		return NULL;
	for (; !atomic_load(&l->stop); l->rounds++) {
		fill(p->local, PAIR_BYTES, l->rounds + 1);
		for (i = 0; i < PIECES; i++)
			mc_batch_add(batch, MC_WRITE, p->local + i * n, p->segment,
				     (struct mc_remote){.offset = i * n}, n);
		l->failed += mc_batch_submit(batch, NULL) || mc_batch_wait(batch, -1);
		for (i = 0; i < PIECES; i++)
			l->failed += mc_batch_status(batch, i, &status) || status.state != MC_DONE;
		l->wrong += !!memcmp(p->local, p->remote, PAIR_BYTES);
		mc_batch_reset(batch);
	}
	mc_batch_free(batch);
	return NULL;
}

/* Until the load has gone on for @n rounds more. */
static void go_on(struct load *l, unsigned int n)
{
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	unsigned int until = l->rounds + n;

	while (l->rounds < until) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
}

static unsigned int rails_up(struct pair *p)
{
	struct mci_rdma_peer *peer = rdma_of(p->initiator)->peers;
	struct mci_rdma_endpoint *e;
	unsigned int n = 0;

	pthread_mutex_lock(&peer->lock);
	for (e = peer->endpoints; e; e = e->next)
		n += e->state == MCI_RDMA_UP;
	pthread_mutex_unlock(&peer->lock);
	return n;
}

static void await_rails(struct pair *p, unsigned int n)
{
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;

	while (rails_up(p) != n) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
}

static void under_load(struct pair *p, void (*fault)(struct pair *p, struct load *l))
{
	struct load load = {.pair = p};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, keep_moving, &load), 0);
	await_rails(p, 2);
	go_on(&load, 3);
	fault(p, &load);
	atomic_store(&load.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(load.failed, 0);
	assert_int_equal(load.wrong, 0);
}

static void fail_and_come_back(struct pair *p, struct load *l)
{
	unsigned int i;

	for (i = 0; i < 6; i++) {
		set_port(i & 1, true, 0);
		await_rails(p, 1);
		go_on(l, 3);
		set_port(i & 1, false, 0);
		await_rails(p, 2);
		go_on(l, 3);
	}
}

static void test_a_port_that_fails_loses_nothing_and_is_used_again(void **state)
{
	under_load(*state, fail_and_come_back);
}

static void both_fail(struct pair *p, struct load *l)
{
	set_port(0, true, 0);
	set_port(1, true, 0);
	await_rails(p, 0);
	pause_ms(100);
	set_port(1, false, 0);
	go_on(l, 3);
	set_port(0, false, 0);
	await_rails(p, 2);
}

static void test_requests_wait_for_a_port_when_there_is_none(void **state) { under_load(*state, both_fail); }

/* The first one leads nowhere any more, though the port is up all the time. */
static void new_addresses(struct pair *p, struct load *l)
{
	struct mci_rdma_peer *peer = rdma_of(p->initiator)->peers;
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	struct mci_rdma_endpoint *e;
	unsigned int i, old = 2;

	for (i = 0; i < 8; i++) {
		set_port(i & 1, false, (uint8_t)(100 + i));
		go_on(l, 2);
	}
	while (old) { /* what is open was opened with the last addresses */
		assert_true(mci_now_ns() < end);
		await_rails(p, 2);
		pthread_mutex_lock(&peer->lock);
		for (e = peer->endpoints, old = 0; e; e = e->next)
			old += e->state == MCI_RDMA_UP && (e->own_gid[15] < 106 || e->peer_gid[15] < 106);
		pthread_mutex_unlock(&peer->lock);
	}
}

static void test_an_address_that_changes_is_followed(void **state) { under_load(*state, new_addresses); }

/* ---- opening ---- */

static void all_ports(bool down)
{
	set_port(0, down, 0);
	set_port(1, down, 0);
}

static void *plug_in_late(void *arg)
{
	(void)arg;
	pause_ms(4000); /* longer than who opens waits without being told */
	all_ports(false);
	return NULL;
}

static void test_opening_waits_for_a_path_as_long_as_it_was_told(void **state)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	struct pair *p = *state;
	pthread_t thread;
	int ret;

	must(mc_segment_close(p->segment));
	p->segment = NULL;
	all_ports(true);
	attr.timeout_ms = 60000;
	assert_int_equal(pthread_create(&thread, NULL, plug_in_late, NULL), 0);
	ret = mc_segment_open(p->initiator, p->target_name, &attr, &p->segment);
	pthread_join(thread, NULL);
	must(ret);
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
}

static void test_an_opening_that_fails_says_what_of_it_failed(void **state)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	struct pair *p = *state;
	int ret;

	must(mc_segment_close(p->segment));
	p->segment = NULL;
	assert_int_equal(mc_segment_open(p->initiator, "nobody", NULL, &p->segment), -ENOENT);
	all_ports(true);
	attr.timeout_ms = 1000;
	ret = mc_segment_open(p->initiator, p->target_name, &attr, &p->segment);
	all_ports(false);
	assert_int_equal(ret, -EOPNOTSUPP);
	if (!strstr(mc_errmsg(), "does not get through") || strstr(mc_errmsg(), "nobody"))
		fail_msg("%s", mc_errmsg());
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
}

#define nics_test(f)                             \
	{                                        \
#f, f, two_nics, pair_down, NULL \
	}

#define classic_test(f)                                     \
	{                                                   \
#f " in the classic way", f, classic_nics, pair_down, NULL \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		nics_test(test_a_port_that_fails_loses_nothing_and_is_used_again),
		nics_test(test_requests_wait_for_a_port_when_there_is_none),
		nics_test(test_an_address_that_changes_is_followed),
		nics_test(test_opening_waits_for_a_path_as_long_as_it_was_told),
		classic_test(test_opening_waits_for_a_path_as_long_as_it_was_told),
		nics_test(test_an_opening_that_fails_says_what_of_it_failed),
		classic_test(test_an_opening_that_fails_says_what_of_it_failed),
	};

	if (pair_has_device()) {
		printf("wants a NIC in software, and there is a device here\n");
		return 77;
	}
	return run_on_a_device(tests, argc, argv);
}
