// SPDX-License-Identifier: MIT
/*
 * Several handles to one target, open at once: they share one session, so that a write that ended badly through one
 * never lands after a later one through another (contracts B2); yet each sees the regions of its own opening.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include <mooncake/mooncake.h>

#include "engine/engine.h"
#include "only.h"
#include "transport/tcp/tcp.h"

#define LOOPS 4
#define BYTES 8192

static mc_metadata_server *server;
static char uri[64];
static mc_engine *target, *initiator;
static mc_memory *memory;
static mc_region *remote, *local, *first;
static uint8_t *bytes, source[2 * BYTES], other[4096];

#define must(expression)                                                              \
	do {                                                                          \
		int must_ret_ = (expression);                                         \
		if (must_ret_)                                                        \
			fail_msg("%s: %d (%s)", #expression, must_ret_, mc_errmsg()); \
	} while (0)

static mc_engine *engine_open(const char *name, unsigned int threads, unsigned int streams)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = uri;
	attr.name = name;
	attr.bind = "127.0.0.1";
	attr.transports = "tcp";
	attr.io_threads = threads;
	attr.streams = streams;
	must(mc_engine_open(&attr, &engine));
	return engine;
}

static mc_segment *segment_open(void)
{
	mc_segment *segment;

	must(mc_segment_open(initiator, "target", NULL, &segment));
	return segment;
}

static mc_batch *start(mc_segment *segment, enum mc_op op, void *from, uint32_t region, uint64_t length,
		       uint32_t timeout_ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	mc_batch *batch;

	attr.timeout_ms = timeout_ms;
	must(mc_batch_alloc(initiator, 1, &batch));
	must(mc_batch_add(batch, op, from, segment, (struct mc_remote){ .region = region }, length));
	must(mc_batch_submit(batch, &attr));
	return batch;
}

static int finish(mc_batch *batch)
{
	struct mc_status status;

	must(mc_batch_wait(batch, -1));
	must(mc_batch_status(batch, 0, &status));
	must(mc_batch_free(batch));
	return status.state == MC_DONE ? 0 : status.error;
}

static int put(mc_segment *segment, void *from, uint32_t timeout_ms)
{
	return finish(start(segment, MC_WRITE, from, mc_region_id(remote), 4096, timeout_ms));
}

static unsigned int connections(const mc_engine *engine)
{
	struct mci_tcp *tcp = (struct mci_tcp *)engine->transport[MCI_TRANSPORT_TCP];
	unsigned int n;

	pthread_mutex_lock(&tcp->lock);
	n = tcp->conn_count;
	pthread_mutex_unlock(&tcp->lock);
	return n;
}

static _Atomic bool go_on;

static void stand_still(void *arg)
{
	uint64_t until = mci_now_ns() + 1200 * MCI_NS_PER_MS;

	(void)arg;
	while (mci_now_ns() < until && !atomic_load(&go_on))
		usleep(1000);
}

static void *block(void *arg)
{
	mci_loop_call(arg, stand_still, NULL);
	return NULL;
}

struct outcome {
	bool timed_out; /* the loop was that of the first handle's stream */
	bool landed;	/* its write landed after the second handle's */
};

/* One loop of the target stands still; both handles write, @close_first: the first is closed in between. */
static struct outcome round_with_loop(unsigned int which, bool close_first)
{
	mc_segment *one, *two;
	struct outcome outcome;
	pthread_t thread;
	int ret, tries;

	memset(bytes, 0, BYTES);
	atomic_store(&go_on, false);
	one = segment_open();
	two = segment_open();
	pthread_create(&thread, NULL, block, target->loops.loop[which]);
	usleep(20000);
	outcome.timed_out = put(one, source, 200);
	atomic_store(&go_on, !outcome.timed_out);
	if (close_first)
		must(mc_segment_close(one));
	for (ret = -1, tries = 0; ret && tries < 10; tries++)
		ret = put(two, source + BYTES, 1000);
	assert_int_equal(ret, 0);
	atomic_store(&go_on, true);
	pthread_join(thread, NULL);
	if (outcome.timed_out)
		usleep(100000);
	outcome.landed = bytes[0] == 1;
	if (!close_first)
		must(mc_segment_close(one));
	must(mc_segment_close(two));
	return outcome;
}

static unsigned int rounds(bool close_first, unsigned int *landed)
{
	unsigned int i, timed_out = 0;

	for (i = *landed = 0; i < 40 && timed_out < 4; i++) {
		struct outcome outcome = round_with_loop(i * 7 / 4 % LOOPS, close_first);

		timed_out += outcome.timed_out;
		*landed += outcome.landed;
	}
	return timed_out;
}

static void test_a_write_of_one_handle_never_lands_after_a_later_one_of_another(void **state)
{
	unsigned int landed;

	(void)state;
	assert_true(rounds(false, &landed) >= 2);
	assert_int_equal(landed, 0);
	assert_true(rounds(true, &landed) >= 2);
	assert_int_equal(landed, 0);
}

static void test_it_does_where_each_handle_has_a_session_of_its_own(void **state)
{
	unsigned int landed;

	(void)state;
	atomic_store(&mci_tcp_sharing_off, true);
	rounds(false, &landed);
	atomic_store(&mci_tcp_sharing_off, false);
	assert_true(landed > 0);
}

/* A large transfer of one handle goes on while others come and go. */
static void test_closing_one_handle_leaves_the_others_alone(void **state)
{
	uint64_t length = 64 << 20;
	void *there = calloc(1, length), *here = malloc(length);
	mc_region *big, *mine;
	mc_segment *one, *two;
	unsigned int i, closed = 0;
	mc_batch *batch;

	(void)state;
	memset(here, 7, length);
	must(mc_engine_register(target, there, length, NULL, &big));
	must(mc_engine_register(initiator, here, length, NULL, &mine));
	for (i = 0; i < 20; i++) {
		one = segment_open();
		two = segment_open();
		batch = start(one, i & 1 ? MC_READ : MC_WRITE, here, mc_region_id(big), length, 20000);
		assert_true(connections(target) <= 1);
		must(mc_segment_close(two));
		closed += mc_batch_poll(batch) > 0;
		two = segment_open();
		must(put(two, source, 5000));
		must(mc_segment_close(two));
		assert_int_equal(finish(batch), 0);
		must(mc_segment_close(one));
	}
	assert_true(closed > 0);
	assert_memory_equal(here, there, length);
	must(mc_engine_unregister(mine, MC_UNREGISTER_WAIT));
	must(mc_engine_unregister(big, MC_UNREGISTER_WAIT));
	free(there);
	free(here);
}

static void test_a_handle_from_before_a_region_was_registered_anew_is_stale(void **state)
{
	mc_segment *one = segment_open(), *two;

	(void)state;
	must(put(one, source, 5000));
	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_register(target, bytes, BYTES, NULL, &remote));
	two = segment_open();
	assert_int_equal(put(one, source, 5000), -ESTALE);
	must(put(two, source + BYTES, 5000));
	assert_int_equal(put(one, source, 5000), -ESTALE);
	assert_int_equal(bytes[0], 2);
	must(mc_segment_close(one));
	must(put(two, source, 5000));
	must(mc_segment_close(two));
}

/* Another process, and other ids: what was the memory's is another region's now. */
static void restart_target(void)
{
	uint32_t id = mc_region_id(remote);

	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_close(target));
	target = engine_open("target", LOOPS, 0);
	must(mc_engine_register(target, other, sizeof(other), NULL, &first));
	must(mc_engine_register(target, bytes, BYTES, NULL, &remote));
	assert_int_equal(mc_region_id(first), id);
	memset(other, 9, sizeof(other));
}

/* The memory alone, with the lowest id. */
static void settle(void)
{
	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_unregister(first, MC_UNREGISTER_WAIT));
	must(mc_engine_register(target, bytes, BYTES, NULL, &remote));
}

static void test_handles_of_different_times_follow_a_restart_to_one_session(void **state)
{
	mc_segment *one = segment_open(), *two = segment_open(), *three;
	uint32_t old_id = mc_region_id(remote), id;
	mc_batch *batch;

	(void)state;
	must(put(one, source, 5000));
	must(put(two, source, 5000));
	restart_target();
	three = segment_open();
	id = mc_region_id(remote);
	/* Callers go on with the ids of their handle's opening. */
	batch = start(one, MC_WRITE, source + BYTES, old_id, 4096, 10000);
	assert_int_equal(finish(batch), 0);
	assert_int_equal(bytes[0], 2);
	batch = start(two, MC_WRITE, source, old_id, 4096, 10000);
	assert_int_equal(finish(batch), 0);
	assert_int_equal(bytes[0], 1);
	batch = start(three, MC_WRITE, source + BYTES, id, 4096, 10000);
	assert_int_equal(finish(batch), 0);
	assert_int_equal(bytes[0], 2);
	assert_int_equal(other[0], 9);
	assert_int_equal(connections(target), 1);
	must(mc_segment_close(two));
	must(mc_segment_close(three));
	must(mc_segment_close(one));
	settle();
}

static void test_all_handles_are_stale_when_the_memory_is_gone(void **state)
{
	mc_segment *one = segment_open(), *two = segment_open(), *three;
	uint32_t id = mc_region_id(remote);

	(void)state;
	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_close(target));
	target = engine_open("target", LOOPS, 0);
	must(mc_engine_register(target, other, sizeof(other), NULL, &remote));
	three = segment_open();
	assert_int_equal(mc_region_id(remote), id);
	memset(other, 9, sizeof(other));
	assert_int_equal(put(one, source, 5000), -ESTALE);
	assert_int_equal(put(two, source, 5000), -ESTALE);
	assert_int_equal(other[0], 9);
	must(put(three, source, 5000));
	assert_int_equal(other[0], 1);
	must(mc_segment_close(one));
	must(mc_segment_close(two));
	must(mc_segment_close(three));
	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_register(target, bytes, BYTES, NULL, &remote));
}

static int note_uuid(void *arg, const struct mci_peer_info *info)
{
	*(struct mc_uuid *)arg = info->uuid;
	return 0;
}

/* Two ways lead to a segment; one finds out about a restart before the other, which still sends to the old process. */
static void test_a_way_that_follows_a_restart_leaves_the_regions_of_others_alone(void **state)
{
	mc_segment *segment = segment_open();
	struct mci_way early = { .segment = segment, .ops = &mci_transport_tcp, .uuid = target->self.uuid };
	uint32_t old_id = mc_region_id(remote), generation = segment->regions[0].generation;
	struct mc_uuid uuid;
	mc_batch *batch;

	(void)state;
	restart_target();
	must(mci_segment_refresh(initiator, &early, mci_now_ns() + 5 * MCI_NS_PER_S, note_uuid, &uuid));
	assert_true(mci_uuid_equal(&uuid, &target->self.uuid));
	assert_true(mci_uuid_equal(&early.uuid, &target->self.uuid));
	assert_int_equal(segment->regions[0].id, old_id);
	assert_int_equal(segment->regions[0].generation, generation);
	assert_false(atomic_load(&segment->regions[0].stale));
	/* The way that serves the region follows in its own time. */
	batch = start(segment, MC_WRITE, source + BYTES, old_id, 4096, 10000);
	assert_int_equal(finish(batch), 0);
	assert_int_equal(segment->regions[0].id, mc_region_id(remote));
	assert_int_equal(bytes[0], 2);
	assert_int_equal(other[0], 9);
	assert_int_equal(segment->restarts, 1);
	must(mc_segment_close(segment));
	settle();
}

static int setup(void **state)
{
	struct mc_metadata_server_attr server_attr = MC_METADATA_SERVER_ATTR_INIT;
	struct mc_memory_attr attr = MC_MEMORY_ATTR_INIT;

	(void)state;
	memset(source, 1, BYTES);
	memset(source + BYTES, 2, BYTES);
	must(mc_metadata_server_open(&server_attr, &server));
	snprintf(uri, sizeof(uri), "http://127.0.0.1:%u/metadata", mc_metadata_server_port(server));
	attr.length = BYTES;
	attr.page_size = 4096;
	must(mc_memory_alloc(&attr, &memory));
	bytes = mc_memory_addr(memory);
	target = engine_open("target", LOOPS, 0);
	initiator = engine_open("initiator", 1, 1);
	must(mc_engine_register(target, bytes, BYTES, NULL, &remote));
	must(mc_engine_register(initiator, source, sizeof(source), NULL, &local));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	must(mc_engine_unregister(local, MC_UNREGISTER_WAIT));
	must(mc_engine_close(initiator));
	must(mc_engine_unregister(remote, MC_UNREGISTER_WAIT));
	must(mc_engine_close(target));
	must(mc_memory_free(memory));
	must(mc_metadata_server_close(server));
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_write_of_one_handle_never_lands_after_a_later_one_of_another),
		cmocka_unit_test(test_it_does_where_each_handle_has_a_session_of_its_own),
		cmocka_unit_test(test_closing_one_handle_leaves_the_others_alone),
		cmocka_unit_test(test_a_handle_from_before_a_region_was_registered_anew_is_stale),
		cmocka_unit_test(test_handles_of_different_times_follow_a_restart_to_one_session),
		cmocka_unit_test(test_all_handles_are_stale_when_the_memory_is_gone),
		cmocka_unit_test(test_a_way_that_follows_a_restart_leaves_the_regions_of_others_alone),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, setup, teardown);
}
