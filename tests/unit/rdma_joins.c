// SPDX-License-Identifier: MIT
/*
 * An address at which nobody answers keeps the driver busy while it connects a queue pair: what that may hold up,
 * and what not. The NIC in software (tests/softnic) keeps it waiting until the test lets go, so no time is measured.
 * Engines have one loop, which all share. NIC rxe0 has the address 10.9.0.1, the silent one; rxe1 has 10.9.0.2.
 */
#include "unit/rdma_env.h"

#include <dlfcn.h>

#define SILENT 1

static void (*hold)(uint8_t address, int err);
static unsigned int (*held)(void);

static void find_gate(void)
{
	void *nic = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);

	hold = (__typeof__(hold))dlsym(nic, "softnic_hold");
	held = (__typeof__(held))dlsym(nic, "softnic_held");
	assert_non_null(hold);
	assert_non_null(held);
}

static void await_held(unsigned int n)
{
	uint64_t end = mci_now_ns() + 20 * MCI_NS_PER_S;

	while (held() < n) {
		assert_true(mci_now_ns() < end);
		pause_ms(1);
	}
}

static void set_up(void **state, const char *transport, const char *initiator_nics, const char *target_nics)
{
	static struct pair pair;

	pair = (struct pair){.transport = transport,
			     .memory = "malloc",
			     .flags = strcmp(transport, "rdma") ? MC_ENGINE_CLASSIC : 0,
			     .initiator_nics = initiator_nics,
			     .target_nics = target_nics};
	*state = &pair;
	tap_install();
	find_gate();
	setenv("MOONCAKE_IO_THREADS", "1", 1);
	pair_setup(&pair);
}

static int live_pair(void **state)
{
	set_up(state, "rdma", "rxe1", "rxe1");
	return 0;
}

static int live_classic_pair(void **state)
{
	set_up(state, "rdma-classic", "rxe1", "rxe1");
	return 0;
}

/* The only address of one side is the silent one. */
static int silent_target(void **state)
{
	set_up(state, "rdma", "rxe1", "rxe0");
	return 0;
}

static int silent_initiator(void **state)
{
	set_up(state, "rdma", "rxe0", "rxe1");
	return 0;
}

static int tear_down(void **state)
{
	hold(0, 0);
	pair_teardown(*state);
	unsetenv("MOONCAKE_IO_THREADS");
	assert_int_equal(tap_living(), 0);
	return 0;
}

static mc_engine *other_engine(struct pair *p, const char *name, const char *nics)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = p->uri;
	attr.name = name;
	attr.transports = p->transport;
	attr.flags = p->flags;
	attr.devices = nics;
	must(mc_engine_open(&attr, &engine));
	return engine;
}

struct opener {
	mc_engine *engine;
	const char *name;
	mc_segment *segment;
	int ret;
	pthread_t thread;
};

static void *open_it(void *arg)
{
	struct opener *o = arg;

	o->ret = mc_segment_open(o->engine, o->name, NULL, &o->segment);
	return NULL;
}

static void begin(struct opener *o, mc_engine *engine, const char *name)
{
	*o = (struct opener){.engine = engine, .name = name};
	assert_int_equal(pthread_create(&o->thread, NULL, open_it, o), 0);
}

/* The gate is open: if it had given up meanwhile, another try succeeds. */
static void end(struct opener *o)
{
	pthread_join(o->thread, NULL);
	if (o->ret)
		must(mc_segment_open(o->engine, o->name, NULL, &o->segment));
	must(mc_segment_close(o->segment));
}

static void write_and_compare(struct pair *p, uint64_t seed)
{
	fill(p->local, PAIR_BYTES, seed);
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), PAIR_BYTES));
	assert_memory_equal(p->local, p->remote, PAIR_BYTES);
}

/* Closed and opened anew: all that the two sides say to each other is said again. */
static void meet_again(struct pair *p)
{
	must(mc_segment_close(p->segment));
	p->segment = NULL;
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
}

/* ---- peers ---- */

static void test_a_silent_initiator_delays_no_other(void **state)
{
	struct pair *p = *state;
	mc_engine *silent = other_engine(p, "silent", "rxe0");
	struct opener opener;

	hold(SILENT, 0);
	begin(&opener, silent, p->target_name);
	await_held(1);
	write_and_compare(p, 1);
	meet_again(p);
	write_and_compare(p, 2);
	assert_true(held() > 0);
	hold(0, 0);
	end(&opener);
	must(mc_engine_close(silent));
}

static void test_a_silent_target_delays_no_other(void **state)
{
	struct pair *p = *state;
	mc_engine *silent = other_engine(p, "silent", "rxe0");
	struct opener opener;
	mc_region *region;
	uint8_t *memory = aligned_alloc(4096, 4096);

	must(mc_engine_register(silent, memory, 4096, NULL, &region));
	hold(SILENT, 0);
	begin(&opener, p->initiator, "silent");
	await_held(1);
	write_and_compare(p, 1);
	meet_again(p);
	write_and_compare(p, 2);
	assert_true(held() > 0);
	hold(0, 0);
	end(&opener);
	must(mc_engine_unregister(region, MC_UNREGISTER_WAIT));
	must(mc_engine_close(silent));
	free(memory);
}

/* ---- rails ---- */

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

static void hang_up(void *arg) /* loop thread */
{
	struct mci_rdma_peer *peer = arg;

	if (peer->conn)
		mci_conn_close(peer->conn);
}

/* One of two rails is silent from the start. */
static void two_rails(void **state, const char *initiator_nics, const char *target_nics)
{
	struct mci_rdma_peer *peer;
	uint64_t until;
	struct pair *p;

	find_gate();
	hold(SILENT, ETIMEDOUT);
	set_up(state, "rdma", initiator_nics, target_nics);
	p = *state;
	await_held(1);
	write_and_compare(p, 1);
	assert_int_equal(rails_up(p), 1);
	/* A lost connection comes back, though queue pairs of the one before are in the driver still. */
	peer = rdma_of(p->initiator)->peers;
	mci_loop_call(peer->loop, hang_up, peer);
	write_and_compare(p, 2);
	assert_true(held() > 0);
	hold(0, ETIMEDOUT);
	for (until = mci_now_ns() + 20 * MCI_NS_PER_S; rails_up(p) < 2;) {
		assert_true(mci_now_ns() < until);
		write_and_compare(p, 3);
	}
	tear_down(state);
}

static void test_a_rail_that_is_silent_to_the_target_delays_no_other(void **state)
{
	two_rails(state, "rxe0,rxe1", "rxe1");
}

static void test_a_rail_that_is_silent_to_the_initiator_delays_no_other(void **state)
{
	two_rails(state, "rxe1", "rxe0,rxe1");
}

/* ---- what waits for it ends all the same ---- */

/* Contracts A: no way is found in time, and the request ends. Then there is one again. */
static void no_way(struct pair *p)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_status status;
	mc_batch *batch;

	hold(SILENT, ETIMEDOUT);
	tap_spoil_all(false, NULL);
	attr.timeout_ms = 700;
	must(mc_batch_alloc(p->initiator, 1, &batch));
	must(mc_batch_add(batch, MC_WRITE, p->local, p->segment, at(p, 0), PAIR_BYTES));
	must(mc_batch_submit(batch, &attr));
	await_held(1);
	must(mc_batch_wait(batch, 20000));
	must(mc_batch_status(batch, 0, &status));
	assert_int_equal(status.state, MC_TIMED_OUT);
	must(mc_batch_free(batch));
	must(mc_segment_fence(p->segment, 20000));
	assert_true(held() > 0);
}

static void test_requests_end_in_time_while_the_target_is_silent(void **state)
{
	no_way(*state);
	hold(0, ETIMEDOUT);
	write_and_compare(*state, 4);
}

static void test_requests_end_in_time_while_the_initiator_is_silent(void **state)
{
	no_way(*state);
	hold(0, ETIMEDOUT);
	write_and_compare(*state, 4);
}

static void *close_initiator(void *arg)
{
	struct pair *p = arg;
	int ret = mc_engine_unregister(p->local_region, MC_UNREGISTER_WAIT);

	return (void *)(intptr_t)(ret ? ret : mc_engine_close(p->initiator));
}

static void *close_target(void *arg)
{
	struct pair *p = arg;
	int ret = mc_engine_unregister(p->remote_region, MC_UNREGISTER_WAIT);

	return (void *)(intptr_t)(ret ? ret : mc_engine_close(p->target));
}

/* A handle closes at once. Engines wait for the driver, and no longer. */
static void close_while_held(void **state)
{
	struct pair *p = *state;
	pthread_t thread[2];
	void *ret[2];

	no_way(p);
	must(mc_segment_close(p->segment));
	assert_true(held() > 0);
	assert_int_equal(pthread_create(&thread[0], NULL, close_initiator, p), 0);
	assert_int_equal(pthread_create(&thread[1], NULL, close_target, p), 0);
	pause_ms(100);
	hold(0, ETIMEDOUT);
	pthread_join(thread[0], &ret[0]);
	pthread_join(thread[1], &ret[1]);
	assert_null(ret[0]);
	assert_null(ret[1]);
	assert_int_equal(tap_living(), 0);
	pair_free_memory(p->target_memory, p->remote);
	pair_free_memory(p->initiator_memory, p->local);
	must(mc_metadata_server_close(p->server));
}

static void test_all_closes_while_the_target_is_silent(void **state)
{
	silent_target(state);
	close_while_held(state);
}

static void test_all_closes_while_the_initiator_is_silent(void **state)
{
	silent_initiator(state);
	close_while_held(state);
}

/* ---- lanes ---- */

#define JOINS 6u
#define AT_A_TIME 4u

static struct {
	struct mci_rdma_lane lane[2];
	struct mci_rdma_join join[JOINS + 1];
	_Atomic unsigned int over;
	mc_engine *engine;
} lanes;

static void over(struct mci_job *job) /* loop thread */
{
	struct mci_rdma_join *join = (struct mci_rdma_join *)job;

	mci_rdma_join_over(join->owner);
	atomic_fetch_add(&lanes.over, 1);
}

static void await_over(unsigned int n)
{
	uint64_t until = mci_now_ns() + 20 * MCI_NS_PER_S;

	while (atomic_load(&lanes.over) < n) {
		assert_true(mci_now_ns() < until);
		pause_ms(1);
	}
}

static void add_join(unsigned int i, unsigned int lane, uint8_t address)
{
	struct mci_rdma_join *join = &lanes.join[i];

	*join = (struct mci_rdma_join){.job = {.done = over, .loop = lanes.engine->loops.loop[0]},
				       .owner = &lanes.lane[lane],
				       .device = rdma_of(lanes.engine)->device[0],
				       .count = 1,
				       .peer = {.mtu = IBV_MTU_4096, .qpn = {1}}};
	join->peer.gid[15] = address;
	must(mci_rdma_qp_create(join->device, 1, &join->qp[0]));
	must(mci_rdma_join_add(&lanes.lane[lane], join));
}

static void add_joins(void *arg) /* the loop, which owns the lanes */
{
	unsigned int i;

	(void)arg;
	for (i = 0; i < JOINS; i++)
		add_join(i, 0, SILENT);
	add_join(JOINS, 1, SILENT + 1);
}

static void give_two_up(void *arg) /* loop thread */
{
	(void)arg;
	assert_true(mci_rdma_join_give_up(&lanes.lane[0], &lanes.join[4]));  /* it waits */
	assert_false(mci_rdma_join_give_up(&lanes.lane[0], &lanes.join[0])); /* the driver has it */
}

/* One peer gets a few threads, others find one; who waited too long is told why. */
static void test_one_peer_does_not_get_all_threads(void **state)
{
	struct pair *p = *state;
	unsigned int i;

	lanes.engine = p->initiator;
	hold(SILENT, ETIMEDOUT);
	mci_loop_call(lanes.engine->loops.loop[0], add_joins, NULL);
	await_over(1);
	await_held(AT_A_TIME);
	assert_int_equal(lanes.join[JOINS].ret, 0);
	assert_int_equal(held(), AT_A_TIME);
	mci_loop_call(lanes.engine->loops.loop[0], give_two_up, NULL);
	while (mci_now_ns() <= lanes.join[5].until)
		pause_ms(10);
	hold(0, ETIMEDOUT);
	await_over(JOINS); /* all but the one that was given up before it began */
	for (i = 0; i < AT_A_TIME; i++) {
		assert_int_equal(lanes.join[i].ret, -ETIMEDOUT);
		assert_non_null(strstr(lanes.join[i].why, "does not connect a queue pair"));
	}
	assert_int_equal(lanes.join[5].ret, -EBUSY);
	assert_non_null(strstr(lanes.join[5].why, "busy looking for peers"));
	for (i = 0; i <= JOINS; i++)
		mci_rdma_join_destroy(&lanes.join[i]);
}

#define joins_test(f, up)            \
	{                            \
#f, f, up, tear_down, NULL   \
	}
#define bare_test(f)                \
	{                           \
#f, f, NULL, NULL, NULL     \
	}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		joins_test(test_a_silent_initiator_delays_no_other, live_pair),
		joins_test(test_a_silent_target_delays_no_other, live_pair),
		bare_test(test_a_rail_that_is_silent_to_the_target_delays_no_other),
		bare_test(test_a_rail_that_is_silent_to_the_initiator_delays_no_other),
		joins_test(test_requests_end_in_time_while_the_target_is_silent, silent_target),
		joins_test(test_requests_end_in_time_while_the_initiator_is_silent, silent_initiator),
		bare_test(test_all_closes_while_the_target_is_silent),
		bare_test(test_all_closes_while_the_initiator_is_silent),
		joins_test(test_one_peer_does_not_get_all_threads, live_pair),
		{"classic: test_a_silent_initiator_delays_no_other", test_a_silent_initiator_delays_no_other,
		 live_classic_pair, tear_down, NULL},
		{"classic: test_a_silent_target_delays_no_other", test_a_silent_target_delays_no_other,
		 live_classic_pair, tear_down, NULL},
	};

	if (pair_has_device()) {
		printf("wants a NIC in software, and there is a device here\n");
		return 77;
	}
	return run_on_a_device(tests, argc, argv);
}
