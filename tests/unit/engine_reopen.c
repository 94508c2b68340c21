// SPDX-License-Identifier: MIT
/*
 * A write that timed out on a handle that was then closed must not land after a write of a handle opened
 * later (contracts B2): the bytes wait in the socket of a target whose loop stands still meanwhile.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/engine.h"

#define LOOPS 4

static mc_engine *target, *initiator;
static mc_region *remote, *local;
static uint8_t memory[8192], source[8192];

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

static int put(mc_segment *segment, void *from, uint32_t timeout_ms)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_status status;
	mc_batch *batch;

	attr.timeout_ms = timeout_ms;
	assert_int_equal(mc_batch_alloc(initiator, 1, &batch), 0);
	assert_int_equal(mc_batch_add(batch, MC_WRITE, from, segment,
				      (struct mc_remote){ .region = mc_region_id(remote) }, 4096), 0);
	assert_int_equal(mc_batch_submit(batch, &attr), 0);
	assert_int_equal(mc_batch_wait(batch, -1), 0);
	assert_int_equal(mc_batch_status(batch, 0, &status), 0);
	assert_int_equal(mc_batch_free(batch), 0);
	return status.state == MC_DONE ? 0 : status.error;
}

/* One loop of the target stands still. Returns true if that was the stream's, so that the first write timed out. */
static bool round_with_loop(unsigned int which)
{
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;
	mc_segment *segment;
	pthread_t thread;
	int first, ret, tries;

	memset(memory, 0, sizeof(memory));
	atomic_store(&go_on, false);
	assert_int_equal(mc_segment_open(initiator, mc_engine_name(target), NULL, &segment), 0);
	pthread_create(&thread, NULL, block, target->loops.loop[which]);
	usleep(20000);
	first = put(segment, source, 200);
	atomic_store(&go_on, !first);
	assert_int_equal(mc_segment_close(segment), 0);
	attr.timeout_ms = 1000;
	for (ret = -1, tries = 0; ret && tries < 10; tries++)
		ret = mc_segment_open(initiator, mc_engine_name(target), &attr, &segment);
	assert_int_equal(ret, 0);
	for (ret = -1, tries = 0; ret && tries < 10; tries++)
		ret = put(segment, source + 4096, 1000);
	assert_int_equal(ret, 0);
	pthread_join(thread, NULL);
	if (first)
		usleep(100000);
	assert_int_equal(memory[0], 2);
	assert_int_equal(mc_segment_close(segment), 0);
	return first;
}

static void test_a_write_of_a_closed_handle_never_lands_after_a_later_one(void **state)
{
	unsigned int i, timed_out = 0;

	(void)state;
	for (i = 0; i < 40 && timed_out < 4; i++)
		timed_out += round_with_loop(i * 7 / 4 % LOOPS);
	assert_true(timed_out >= 2);
}

static int setup(void **state)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;

	(void)state;
	memset(source, 1, 4096);
	memset(source + 4096, 2, 4096);
	attr.metadata = "P2PHANDSHAKE";
	attr.name = "127.0.0.1";
	attr.transports = "tcp";
	attr.io_threads = LOOPS;
	if (mc_engine_open(&attr, &target))
		return -1;
	attr.io_threads = attr.streams = 1;
	if (mc_engine_open(&attr, &initiator))
		return -1;
	return mc_engine_register(target, memory, sizeof(memory), NULL, &remote) ||
	       mc_engine_register(initiator, source, sizeof(source), NULL, &local) ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	return mc_engine_unregister(local, MC_UNREGISTER_WAIT) || mc_engine_unregister(remote, MC_UNREGISTER_WAIT) ||
	       mc_engine_close(initiator) || mc_engine_close(target) ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_write_of_a_closed_handle_never_lands_after_a_later_one, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
