// SPDX-License-Identifier: MIT
/*
 * Corners of the rdma transport that load alone does not reach: what nobody polls for, what stands in others' way,
 * NICs that do not let go, and classic peers whose queue pairs fail.
 */
#include "unit/rdma_env.h"

#include <dlfcn.h>

#include "transport/rdma/classic.h"

/* Of the NIC in software; NULL: it is a real one. */
static void *softnic(const char *name)
{
	void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL), *found = dlsym(library, name);

	dlclose(library);
	return found;
}

static int two_nics(void **state)
{
	static struct pair fresh = {.transport = "rdma", .memory = "malloc"}, pair;

	pair = fresh;
	*state = &pair;
	tap_install();
	pair_setup(&pair);
	return 0;
}

/* ---- NICs that do not let go ---- */

/* One of two has let go already: the region is of no use any more, and its memory is not free either (contracts I1). */
static void test_a_region_that_a_nic_keeps_is_out_of_use_until_it_lets_go(void **state)
{
	struct pair *p = *state;

	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	tap.release_budget = 1;
	assert_int_equal(mc_engine_unregister(p->local_region, 0), -EIO);
	assert_non_null(strstr(mc_errmsg(), "does not let go"));
	assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 4096), -EFAULT);
	assert_int_equal(mc_engine_unregister(p->local_region, MC_UNREGISTER_WAIT), -EIO);
	tap.release_budget = -1;
	must(mc_engine_unregister(p->local_region, 0));
	must(mc_engine_register(p->initiator, p->local, PAIR_BYTES, NULL, &p->local_region));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
}

static void nothing(void *arg) { (void)arg; }

/* Its descriptors are readable from then on, and nothing can be read. */
static void test_a_device_that_is_pulled_out_keeps_no_loop_busy(void **state)
{
	void (*pull)(unsigned int) = (__typeof__(pull))softnic("softnic_remove");
	unsigned long (*reads)(void) = (__typeof__(reads))softnic("softnic_reads"), before;
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	struct pair *p = *state;
	struct mci_nic *nic[2] = {rdma_of(p->initiator)->device[0], rdma_of(p->target)->device[0]};
	unsigned int i;

	if (!pull || !reads)
		skip();
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), PAIR_BYTES));
	pull(0);
	while (reads() < 2) { /* both engines know */
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
	for (i = 0; i < 4; i++)
		mci_loop_call(nic[i & 1]->loop, nothing, NULL);
	before = reads();
	for (i = 0; i < 100; i++)
		mci_loop_call(nic[i & 1]->loop, nothing, NULL);
	assert_int_equal(reads(), before);
	assert_false(nic[0]->up);
	/* The other one does, and what was registered with the first is free. */
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), PAIR_BYTES));
	must(mc_engine_unregister(p->local_region, 0));
	must(mc_engine_register(p->initiator, p->local, PAIR_BYTES, NULL, &p->local_region));
}

/* ---- completions that nobody polls for ---- */

#define READS 1500u
#define READ_BYTES 64u

static int many_queue_pairs(void **state)
{
	int ret;

	setenv("MOONCAKE_RDMA_QPS", "8", 1);
	ret = pair_up(state);
	unsetenv("MOONCAKE_RDMA_QPS");
	return ret;
}

struct pause {
	struct mci_task task;
	pthread_mutex_t lock;
};

static void until_unlocked(struct mci_task *task)
{
	struct pause *pause = (struct pause *)task;

	pthread_mutex_lock(&pause->lock);
	pthread_mutex_unlock(&pause->lock);
}

/* One wake-up for more than one look takes: what is left then raises no other. */
static void test_all_completions_are_taken_though_one_event_tells_of_them(void **state)
{
	struct pair *p = *state;
	struct mci_nic *nic = rdma_of(p->initiator)->device[0];
	struct pause pause = {.task.fn = until_unlocked, .lock = PTHREAD_MUTEX_INITIALIZER};
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	unsigned long (*done)(void) = (__typeof__(done))softnic("softnic_done"), before;
	struct mc_status status;
	mc_batch *batch[READS];
	unsigned int i;

	if (!done)
		skip();
	before = done();
	fill(p->remote, READS * READ_BYTES, 1);
	pthread_mutex_lock(&pause.lock);
	mci_loop_post(nic->loop, &pause.task);
	for (i = 0; i < READS; i++) {
		must(mc_batch_alloc(p->initiator, 1, &batch[i]));
		must(mc_batch_add(batch[i], MC_READ, p->local + i * READ_BYTES, p->segment, at(p, i * READ_BYTES),
				  READ_BYTES));
		must(mc_batch_submit(batch[i], NULL));
	}
	while (done() < before + READS) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
	pthread_mutex_unlock(&pause.lock);
	for (i = 0; i < READS; i++) {
		for (;;) { /* a look, without help */
			must(mc_batch_status(batch[i], 0, &status));
			if (status.state != MC_PENDING)
				break;
			assert_true(mci_now_ns() < end);
			pause_ms(1);
		}
		assert_done(status);
		must(mc_batch_wait(batch[i], -1));
		must(mc_batch_free(batch[i]));
	}
}

/* ---- the line for endpoints ---- */

struct target {
	mc_engine *engine, *initiator;
	uint8_t *memory;
	mc_region *region;
	mc_segment *segment;
	mc_batch *batch;
};

static mc_engine *engine_on(const struct pair *p, const char *name, const char *nics)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = p->uri;
	attr.name = name;
	attr.transports = "rdma";
	attr.devices = nics;
	must(mc_engine_open(&attr, &engine));
	return engine;
}

static void write_to(mc_engine *initiator, struct target *t, uint8_t *from, uint32_t timeout_ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;

	attr.timeout_ms = timeout_ms;
	must(mc_batch_alloc(initiator, 1, &t->batch));
	must(mc_batch_add(t->batch, MC_WRITE, from, t->segment, (struct mc_remote){.offset = 0}, 4096));
	must(mc_batch_submit(t->batch, &attr));
}

static void must_be_done(struct target *t)
{
	struct mc_status status;

	must(mc_batch_wait(t->batch, -1));
	must(mc_batch_status(t->batch, 0, &status));
	assert_done(status);
	must(mc_batch_free(t->batch));
}

/* One endpoint for three peers; the first in the line is one whose port is down. */
static void test_who_waits_for_a_port_keeps_no_endpoint_from_others(void **state)
{
	void (*set_port)(unsigned int, bool, uint8_t) = (__typeof__(set_port))softnic("softnic_port");
	void (*allow)(int) = (__typeof__(allow))softnic("softnic_allow");
	static const char *const name[] = {"line-0", "line-1", "line-2"}, *const nic[] = {"rxe0", "rxe1", "rxe0"};
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	struct mci_rdma_peer *peer;
	struct pair *p = *state;
	struct target t[3];
	mc_engine *initiator;
	mc_region *region;
	unsigned int i;
	bool down = false;

	if (!set_port || !allow)
		skip();
	setenv("MC_MAX_EP_PER_CTX", "1", 1);
	initiator = engine_on(p, "line-initiator", "rxe0");
	unsetenv("MC_MAX_EP_PER_CTX");
	must(mc_engine_register(initiator, p->local, PAIR_BYTES, NULL, &region));
	for (i = 0; i < 3; i++) {
		t[i].engine = engine_on(p, name[i], nic[i]);
		t[i].memory = calloc(1, 4096);
		must(mc_engine_register(t[i].engine, t[i].memory, 4096, NULL, &t[i].region));
		must(mc_segment_open(initiator, name[i], NULL, &t[i].segment));
	}
	write_to(initiator, &t[0], p->local, 30000);
	must_be_done(&t[0]); /* it has the endpoint */
	allow(0);
	write_to(initiator, &t[0], p->local, 30000);
	write_to(initiator, &t[1], p->local, 60000);
	write_to(initiator, &t[2], p->local, 10000);
	assert_int_equal(atomic_load(&rdma_of(initiator)->starving), 2);
	set_port(1, true, 0);
	for (peer = rdma_of(initiator)->peers; strcmp(peer->name, name[1]); peer = peer->peers_next)
		;
	while (!down) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
		pthread_mutex_lock(&peer->lock);
		down = !peer->port[0].up;
		pthread_mutex_unlock(&peer->lock);
	}
	allow(-1);
	must_be_done(&t[0]);
	must_be_done(&t[2]);
	set_port(1, false, 0);
	must_be_done(&t[1]);
	for (i = 0; i < 3; i++) {
		must(mc_segment_close(t[i].segment));
		must(mc_engine_unregister(t[i].region, MC_UNREGISTER_WAIT));
		must(mc_engine_close(t[i].engine));
		free(t[i].memory);
	}
	must(mc_engine_unregister(region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(initiator));
}

/* ---- a proof, and the last who polls ---- */

static void *open_it(void *arg)
{
	struct target *t = arg;

	return (void *)(intptr_t)mc_segment_open(t->initiator, "late", NULL, &t->segment);
}

/* Who polls turns events off; he leaves, his own request being done, while the proof of a new endpoint is under way. */
static void test_a_proof_is_seen_though_who_polled_has_left(void **state)
{
	void (*allow)(int) = (__typeof__(allow))softnic("softnic_allow");
	unsigned long (*done)(void) = (__typeof__(done))softnic("softnic_done"), before;
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S, posted;
	struct pair *p = *state;
	struct mci_rdma *rdma = rdma_of(p->initiator);
	struct mci_nic *nic = rdma->device[0];
	struct target t = {.initiator = p->initiator, .memory = calloc(1, 4096)}, mine = {.segment = p->segment};
	pthread_t thread;
	void *ret;

	if (!allow || !done)
		skip();
	t.engine = engine_on(p, "late", "rxe1");
	must(mc_engine_register(t.engine, t.memory, 4096, NULL, &t.region));
	atomic_fetch_add(&nic->pollers, 1);
	while (atomic_load(&nic->armed)) {
		assert_true(mci_now_ns() < end);
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	}
	allow(0);
	write_to(p->initiator, &mine, p->local, 30000);
	posted = atomic_load(&rdma->posted);
	assert_int_equal(pthread_create(&thread, NULL, open_it, &t), 0);
	while (atomic_load(&rdma->posted) == posted) { /* the proof */
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
	before = done();
	allow(1);
	while (done() == before) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
	while (mc_batch_poll(mine.batch))
		assert_true(mci_now_ns() < end);
	must_be_done(&mine);
	atomic_fetch_sub(&nic->pollers, 1);
	allow(-1);
	pthread_join(thread, &ret);
	if (ret)
		fail_msg("cannot open: %d", (int)(intptr_t)ret);
	must(mc_segment_close(t.segment));
	must(mc_engine_unregister(t.region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(t.engine));
	free(t.memory);
}

/* ---- classic ---- */

static int classic_up(void **state)
{
	static struct pair fresh = {.transport = "rdma-classic",
				    .memory = "malloc",
				    .flags = MC_ENGINE_CLASSIC,
				    .initiator_nics = "rxe0",
				    .target_nics = "rxe1"},
			   pair;

	pair = fresh;
	*state = &pair;
	tap_install();
	pair_setup(&pair);
	return 0;
}

/* A classic peer confirms by accepting other queue pairs; there is no connection whose end could be missed. */
static void test_a_classic_fence_ends_after_queue_pairs_failed(void **state)
{
	struct pair *p = *state;

	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	tap_spoil_all(false, "rxe0");
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	must(mc_segment_fence(p->segment, 10000));
}

/* A NIC that takes no reads any more, and no markers. */
static struct ibv_context *sick;
static int (*real_post_send)(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);

static int post_no_reads(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	if (wr->opcode != IBV_WR_RDMA_READ && wr->num_sge)
		return real_post_send(qp, wr, bad);
	*bad = wr;
	return ENOMEM;
}

static int classic_nics_up(void **state)
{
	struct pair *p;
	int ret = classic_up(state);

	pair_teardown(*state);
	p = *state;
	p->initiator_nics = p->target_nics = NULL;
	pair_setup(p);
	return ret;
}

static unsigned int endpoints_up(struct mci_rdma_peer *peer)
{
	struct mci_rdma_endpoint *e;
	unsigned int n = 0;

	pthread_mutex_lock(&peer->lock);
	for (e = peer->endpoints; e; e = e->next)
		n += e->state == MCI_RDMA_UP;
	pthread_mutex_unlock(&peer->lock);
	return n;
}

/* The endpoint with the first of two flushes breaks at once: the second is still under way. */
static void test_a_flush_waits_for_all_its_reads_though_one_cannot_be_posted(void **state)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;
	struct pair *p = *state;
	struct mci_rdma_peer *peer = ((struct mci_rdma_handle *)p->segment->way[0].peer)->peer;
	struct mc_notify notify;
	mc_batch *batch;
	unsigned int i;

	while (endpoints_up(peer) < 2) {
		assert_true(mci_now_ns() < end);
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), PAIR_BYTES));
	}
	sick = peer->endpoints->device->context;
	real_post_send = sick->ops.post_send;
	attr.notify_name = "flushed";
	must(mc_batch_alloc(p->initiator, 8, &batch));
	for (i = 0; i < 8; i++)
		must(mc_batch_add(batch, MC_WRITE, p->local + i * (PAIR_BYTES / 8), p->segment,
				  at(p, i * (PAIR_BYTES / 8)), PAIR_BYTES / 8));
	sick->ops.post_send = post_no_reads;
	must(mc_batch_submit(batch, &attr));
	must(mc_batch_wait(batch, -1));
	must(mc_batch_notify_status(batch));
	must(mc_batch_free(batch));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), PAIR_BYTES));
	must(mc_notify_recv(p->target, &notify, 10000));
	free(notify.message);
	assert_int_equal(mc_notify_recv(p->target, &notify, 200), -EAGAIN);
	/* Each request ended once. */
	assert_int_equal(atomic_load(&peer->pending), 0);
	assert_int_equal(atomic_load(&peer->rdma->in_flight), 0);
	sick->ops.post_send = real_post_send;
}

#define nics_test(f)                             \
	{                                        \
#f, f, two_nics, pair_down, NULL \
	}
#define classic_test(f)                            \
	{                                          \
#f, f, classic_up, pair_down, NULL \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_all_completions_are_taken_though_one_event_tells_of_them,
						many_queue_pairs, pair_down),
		pair_test(test_who_waits_for_a_port_keeps_no_endpoint_from_others),
		pair_test(test_a_proof_is_seen_though_who_polled_has_left),
		nics_test(test_a_region_that_a_nic_keeps_is_out_of_use_until_it_lets_go),
		cmocka_unit_test_setup_teardown(test_a_flush_waits_for_all_its_reads_though_one_cannot_be_posted,
						classic_nics_up, pair_down),
		nics_test(test_a_device_that_is_pulled_out_keeps_no_loop_busy),
		classic_test(test_a_classic_fence_ends_after_queue_pairs_failed),
	};

	return run_on_a_device(tests, argc, argv);
}
