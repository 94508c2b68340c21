// SPDX-License-Identifier: MIT
/* What every transport keeps: one test body, run over tcp, rdma, their classic forms, and shm. */
#include "api/pair.h"

#include <poll.h>
#include <stdbool.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
	size_t i;

	for (i = 0; i < n; i++)
		p[i] = (uint8_t)(seed + i * 2654435761u / 65536);
}

static void test_what_is_written_is_read_back_at_every_size(void **state)
{
	static const uint32_t sizes[] = {1, 7, 4096, 65536, 65537, 1 << 20, (1 << 20) + 13, 3 << 20};
	struct pair *p = *state;
	unsigned int i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint32_t n = sizes[i];

		fill(p->local, n, i + 1);
		assert_done(move(p, MC_WRITE, p->local, at(p, 333), n));
		assert_memory_equal(p->remote + 333, p->local, n);
		assert_int_equal(p->remote[332], 0xa5);
		assert_done(move(p, MC_READ, p->local + (4 << 20), at(p, 333), n));
		assert_memory_equal(p->local + (4 << 20), p->local, n);
		memset(p->remote, 0xa5, PAIR_BYTES);
	}
}

static void test_a_full_batch_of_small_requests_all_complete(void **state)
{
	struct pair *p = *state;
	struct mc_status status;
	mc_batch *batch;
	unsigned int i;

	must(mc_batch_alloc(p->initiator, 1000, &batch));
	fill(p->local, 1000 * 512, 9);
	for (i = 0; i < 1000; i++)
		must(mc_batch_add(batch, MC_WRITE, p->local + i * 512, p->segment, at(p, i * 1024), 512));
	must(mc_batch_submit(batch, NULL));
	must(mc_batch_wait(batch, -1));
	for (i = 0; i < 1000; i++) {
		must(mc_batch_status(batch, i, &status));
		assert_int_equal(status.state, MC_DONE);
		assert_int_equal(status.bytes, 512);
		assert_memory_equal(p->remote + i * 1024, p->local + i * 512, 512);
	}
	must(mc_batch_free(batch));
}

static void test_zero_length_is_done_at_once(void **state)
{
	struct pair *p = *state;

	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 0));
	assert_done(move(p, MC_READ, NULL, at(p, 0), 0));
}

static void test_requests_outside_a_region_fail_before_a_byte_moves(void **state)
{
	struct pair *p = *state;
	struct mc_remote wrong = at(p, 0);
	uint8_t stray[64];

	assert_failed(move(p, MC_WRITE, p->local, at(p, PAIR_BYTES - 10), 11), -EFAULT);
	assert_failed(move(p, MC_WRITE, p->local, at(p, UINT64_MAX - 5), 11), -EFAULT);
	assert_failed(move(p, MC_READ, p->local + PAIR_BYTES - 5, at(p, 0), 6), -EFAULT);
	assert_failed(move(p, MC_READ, stray, at(p, 0), sizeof(stray)), -EFAULT);
	wrong.region = 77;
	assert_failed(move(p, MC_READ, p->local, wrong, 8), -EFAULT);
	assert_int_equal(p->remote[PAIR_BYTES - 1], 0xa5);
}

static void test_overlapping_registration_is_refused(void **state)
{
	struct pair *p = *state;
	mc_region *region;

	assert_int_equal(mc_engine_register(p->target, p->remote + 4096, 4096, NULL, &region), -EEXIST);
	assert_non_null(strstr(mc_errmsg(), "overlap"));
	assert_int_equal(mc_engine_register(p->target, NULL, 4096, NULL, &region), -EINVAL);
	assert_int_equal(mc_engine_register(p->target, (void *)0x1000, 4096, NULL, &region), -EFAULT);
}

static void test_rights_are_kept(void **state)
{
	struct pair *p = *state;
	struct mc_region_attr attr = MC_REGION_ATTR_INIT;

	must(mc_segment_close(p->segment));
	must(mc_engine_unregister(p->remote_region, MC_UNREGISTER_WAIT));
	attr.rights = MC_REMOTE_READ;
	must(mc_engine_register(p->target, p->remote, PAIR_BYTES, &attr, &p->remote_region));
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
	assert_done(move(p, MC_READ, p->local, at(p, 0), 4096));
	if (strcmp(p->transport, "tcp-classic")) /* classic descriptors know no rights: the target refuses */
		assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 4096), -EACCES);
	else
		assert_int_not_equal(move(p, MC_WRITE, p->local, at(p, 0), 4096).state, MC_DONE);
	assert_int_equal(p->remote[0], 0xa5);
}

static void test_a_region_registered_anew_is_other_memory(void **state)
{
	struct pair *p = *state;

	if (!strcmp(p->transport, "tcp-classic"))
		return; /* raw addresses know no generations: that is why it is off by default */
	must(mc_engine_unregister(p->remote_region, MC_UNREGISTER_WAIT));
	must(mc_engine_register(p->target, p->remote, PAIR_BYTES, NULL, &p->remote_region));
	assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 4096), -ESTALE);
	assert_failed(move(p, MC_READ, p->local, at(p, 0), 4096), -ESTALE);
	assert_int_equal(p->remote[0], 0xa5);
	must(mc_segment_close(p->segment));
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
}

static void test_a_restarted_target_answers_stale_until_opened_anew(void **state)
{
	struct pair *p = *state;

	if (!strcmp(p->transport, "tcp-classic"))
		return;
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	pair_stop_target(p);
	memset(p->remote, 0xa5, PAIR_BYTES);
	pair_start_target(p);
	if (p->target_memory) { /* memory that is known to be the same, intact: goes on by itself */
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
		return;
	}
	assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 4096), -ESTALE);
	assert_failed(move(p, MC_READ, p->local, at(p, 0), 4096), -ESTALE);
	assert_int_equal(p->remote[0], 0xa5);
	must(mc_segment_close(p->segment));
	must(mc_segment_open(p->initiator, p->target_name, NULL, &p->segment));
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
}

static void *register_late(void *arg)
{
	struct pair *p = arg;

	usleep(1500000);
	must(mc_engine_register(p->target, p->remote, PAIR_BYTES, NULL, &p->remote_region));
	return NULL;
}

/* Every application opens its engine first and registers after. */
static void test_a_restarted_target_has_time_to_register(void **state)
{
	struct pair *p = *state;
	struct mc_status status;
	pthread_t thread;

	if (!strcmp(p->transport, "tcp-classic"))
		return;
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 4096));
	pair_stop_target(p);
	pair_open_engine(p, p->target_name, 0, &p->target);
	assert_int_equal(pthread_create(&thread, NULL, register_late, p), 0);
	status = move(p, MC_WRITE, p->local, at(p, 0), 4096);
	pthread_join(thread, NULL);
	if (p->target_memory)
		assert_done(status);
	else
		assert_failed(status, -ESTALE);
}

static void test_a_target_that_never_registers_again_is_stale_in_the_end(void **state)
{
	struct pair *p = *state;

	if (strcmp(p->transport, "tcp"))
		return;
	pair_stop_target(p);
	pair_open_engine(p, p->target_name, 0, &p->target);
	assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 4096), -ESTALE);
	must(mc_engine_register(p->target, p->remote, PAIR_BYTES, NULL, &p->remote_region));
}

static void test_a_stopped_target_fails_requests_within_their_deadline(void **state)
{
	struct pair *p = *state;
	struct mc_status status;

	pair_stop_target(p);
	status = move(p, MC_WRITE, p->local, (struct mc_remote){0}, 4096);
	assert_int_not_equal(status.state, MC_DONE);
	assert_int_not_equal(status.state, MC_PENDING);
	assert_true(status.error < 0);
}

static void test_batch_life_is_guarded(void **state)
{
	struct pair *p = *state;
	mc_batch *batch;

	assert_int_equal(mc_batch_alloc(p->initiator, 0, &batch), -EINVAL);
	must(mc_batch_alloc(p->initiator, 1, &batch));
	assert_int_equal(mc_batch_submit(batch, NULL), -EINVAL);
	assert_int_equal(mc_batch_wait(batch, 0), -EINVAL);
	must(mc_batch_add(batch, MC_READ, p->local, p->segment, at(p, 0), 8));
	assert_int_equal(mc_batch_add(batch, MC_READ, p->local, p->segment, at(p, 0), 8), -ENOSPC);
	assert_int_equal(mc_engine_close(p->initiator), -EBUSY);
	must(mc_batch_submit(batch, NULL));
	assert_int_equal(mc_batch_add(batch, MC_READ, p->local, p->segment, at(p, 0), 8), -EBUSY);
	assert_int_equal(mc_batch_submit(batch, NULL), -EBUSY);
	must(mc_batch_wait(batch, -1));
	assert_int_equal(mc_batch_poll(batch), 0);
	must(mc_batch_reset(batch));
	assert_int_equal(mc_batch_count(batch), 0);
	must(mc_batch_free(batch));
}

static void test_completion_fd_is_readable_while_a_batch_waits_to_be_fetched(void **state)
{
	struct pair *p = *state;
	struct pollfd poll_fd = {.fd = mc_engine_fd(p->initiator), .events = POLLIN};
	mc_batch *batch, *done = NULL;

	assert_true(poll_fd.fd >= 0);
	assert_int_equal(poll(&poll_fd, 1, 0), 0);
	must(mc_batch_alloc(p->initiator, 4, &batch));
	mc_batch_set_user(batch, p);
	must(mc_batch_add(batch, MC_WRITE, p->local, p->segment, at(p, 0), 1 << 20));
	must(mc_batch_add(batch, MC_READ, p->local + (2 << 20), p->segment, at(p, 1 << 20), 1 << 20));
	must(mc_batch_submit(batch, NULL));
	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
	assert_int_equal(poll(&poll_fd, 1, 0), 1); /* level-triggered */
	must(mc_engine_completed(p->initiator, &done));
	assert_ptr_equal(done, batch);
	assert_ptr_equal(mc_batch_user(done), p);
	assert_int_equal(mc_engine_completed(p->initiator, &done), -EAGAIN);
	assert_int_equal(poll(&poll_fd, 1, 0), 0);
	must(mc_batch_wait(batch, 1000));
	must(mc_batch_free(batch));
}

static void test_submit_is_all_or_nothing_when_the_queue_is_full(void **state)
{
	struct pair *p = *state;
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	mc_batch *first, *second;
	unsigned int i, j, refused = 0;

	must(mc_batch_alloc(p->initiator, 4000, &first));
	must(mc_batch_alloc(p->initiator, 4000, &second));
	for (j = 0; j < 20; j++) {
		for (i = 0; i < 4000; i++) {
			must(mc_batch_add(first, MC_WRITE, p->local, p->segment, at(p, i * 1024), 1024));
			must(mc_batch_add(second, MC_WRITE, p->local, p->segment, at(p, i * 1024), 1024));
		}
		must(mc_batch_submit(first, NULL));
		if (mc_batch_submit(second, NULL) == -EAGAIN) {
			refused++;
			attr.flags = MC_SUBMIT_BLOCK;
			must(mc_batch_submit(second, &attr));
		}
		must(mc_batch_wait(second, -1));
		must(mc_batch_wait(first, -1));
		must(mc_batch_reset(first));
		must(mc_batch_reset(second));
	}
	if (strcmp(p->transport, "shm"))
		assert_true(refused > 0);
	must(mc_batch_free(first));
	must(mc_batch_free(second));
}

static void test_cancelled_requests_become_final(void **state)
{
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct pair *p = *state;
	struct mc_status status;
	mc_batch *batch;
	unsigned int i;

	/* Soft-RoCE sends in the thread that submits: what that takes on an emulated processor must not be its time. */
	attr.timeout_ms = 600000;
	must(mc_batch_alloc(p->initiator, 1000, &batch));
	for (i = 0; i < 1000; i++)
		must(mc_batch_add(batch, MC_WRITE, p->local, p->segment, at(p, 0), 1 << 20));
	must(mc_batch_submit(batch, &attr));
	must(mc_batch_cancel(batch));
	must(mc_batch_wait(batch, 20000));
	for (i = 0; i < 1000; i++) {
		must(mc_batch_status(batch, i, &status));
		if (status.state != MC_DONE && status.state != MC_CANCELLED)
			fail_msg("request %u: state %d, error %d (%s)", i, status.state, status.error,
				 strerror(-status.error));
	}
	must(mc_batch_free(batch));
	/* What comes later lands, and lands later. */
	fill(p->local, 1 << 20, 77);
	assert_done(move(p, MC_WRITE, p->local, at(p, 0), 1 << 20));
	assert_memory_equal(p->remote, p->local, 1 << 20);
	if (!strcmp(p->transport,
		    "tcp-classic")) { /* it cannot confirm a write that was cut off, and says so */
		int ret = mc_segment_fence(p->segment, 5000);

		assert_true(!ret || ret == -EOPNOTSUPP);
		return;
	}
	must(mc_segment_fence(p->segment, 5000));
	assert_memory_equal(p->remote, p->local, 1 << 20);
}

static void test_notify_comes_after_the_data_and_only_if_all_is_done(void **state)
{
	struct pair *p = *state;
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_notify notify;
	mc_batch *batch;
	int i;

	if (!strcmp(p->transport, "tcp-classic"))
		return;
	attr.notify_name = "layer";
	attr.notify_message = "17";
	attr.notify_length = 2;
	attr.timeout_ms = 10000;
	must(mc_batch_alloc(p->initiator, 2, &batch));
	for (i = 0; i < 20; i++) {
		fill(p->local, 1 << 20, (uint32_t)i);
		must(mc_batch_add(batch, MC_WRITE, p->local, p->segment, at(p, 0), 1 << 20));
		must(mc_batch_submit(batch, &attr));
		must(mc_notify_recv(p->target, &notify, 10000));
		assert_memory_equal(p->remote, p->local, 1 << 20);
		assert_string_equal(notify.name, "layer");
		assert_int_equal(notify.length, 2);
		assert_memory_equal(notify.message, "17", 2);
		free(notify.message);
		must(mc_batch_wait(batch, -1));
		assert_int_equal(mc_batch_notify_status(batch), 0);
		must(mc_batch_reset(batch));
	}
	must(mc_batch_add(batch, MC_WRITE, p->local, p->segment, at(p, 0), 8));
	must(mc_batch_add(batch, MC_WRITE, p->local, p->segment, at(p, PAIR_BYTES), 8));
	must(mc_batch_submit(batch, &attr));
	must(mc_batch_wait(batch, -1));
	assert_int_equal(mc_batch_notify_status(batch), -ECANCELED);
	assert_int_equal(mc_notify_recv(p->target, &notify, 0), -EAGAIN);
	must(mc_batch_free(batch));
	must(mc_notify_send(p->segment, "hello", NULL, 0, 5000));
	must(mc_notify_recv(p->target, &notify, 5000));
	assert_string_equal(notify.name, "hello");
	free(notify.message);
}

struct worker {
	struct pair *pair;
	unsigned int index;
	int errors;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct pair *p = w->pair;
	size_t span = PAIR_BYTES / 8, n = span / 4;
	uint8_t *mine = p->local + w->index * span;
	struct mc_status status;
	mc_batch *batch;
	unsigned int round, i;

	if (mc_batch_alloc(p->initiator, 4, &batch))
		return NULL;
	for (round = 0; round < 10; round++) {
		fill(mine, span, w->index * 100 + round);
		for (i = 0; i < 4; i++)
			mc_batch_add(batch, MC_WRITE, mine + i * n, p->segment,
				     (struct mc_remote){.offset = w->index * span + i * n}, n);
		if (mc_batch_submit(batch, NULL) || mc_batch_wait(batch, -1))
			w->errors++;
		for (i = 0; i < 4; i++)
			if (mc_batch_status(batch, i, &status) || status.state != MC_DONE)
				w->errors++;
		if (memcmp(p->remote + w->index * span, mine, span))
			w->errors++;
		mc_batch_reset(batch);
	}
	mc_batch_free(batch);
	return NULL;
}

static void test_eight_threads_share_a_segment(void **state)
{
	struct pair *p = *state;
	struct worker workers[8];
	pthread_t threads[8];
	unsigned int i;

	for (i = 0; i < 8; i++) {
		workers[i] = (struct worker){.pair = p, .index = i};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(workers[i].errors, 0);
	}
}

static void test_warm_data_path_allocates_nothing(void **state)
{
	struct pair *p = *state;
	struct mc_engine_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
	int i;

	for (i = 0; i < 100; i++)
		assert_done(move(p, MC_WRITE, p->local, at(p, 0), 65536));
	must(mc_engine_stats(p->initiator, &before));
	for (i = 0; i < 100; i++)
		assert_done(move(p, i & 1 ? MC_WRITE : MC_READ, p->local, at(p, 0), 65536));
	must(mc_engine_stats(p->initiator, &after));
	assert_int_equal(after.data_path_allocs, before.data_path_allocs);
	assert_int_equal(after.requests_done - before.requests_done, 100);
}

static void test_unregister_refuses_or_waits_while_transfers_fly(void **state)
{
	struct pair *p = *state;
	struct mc_status status;
	mc_batch *batch;
	unsigned int i;
	int ret;

	must(mc_batch_alloc(p->initiator, 64, &batch));
	for (i = 0; i < 64; i++)
		must(mc_batch_add(batch, MC_WRITE, p->local + (i << 17), p->segment, at(p, i << 17), 1 << 17));
	must(mc_batch_submit(batch, NULL));
	ret = mc_engine_unregister(p->local_region, 0);
	if (ret) {
		assert_int_equal(ret, -EBUSY);
		must(mc_engine_unregister(p->local_region, MC_UNREGISTER_WAIT));
	}
	must(mc_batch_wait(batch, -1));
	for (i = 0; i < 64; i++) {
		must(mc_batch_status(batch, i, &status));
		assert_int_equal(status.state, MC_DONE);
	}
	must(mc_batch_free(batch));
	assert_failed(move(p, MC_WRITE, p->local, at(p, 0), 8), -EFAULT);
	must(mc_engine_register(p->initiator, p->local, PAIR_BYTES, NULL, &p->local_region));
}

static void test_child_of_a_fork_gets_echild(void **state)
{
	struct pair *p = *state;
	int status;
	pid_t pid = fork();

	if (!pid) {
		mc_batch *batch;

		_exit(mc_batch_alloc(p->initiator, 1, &batch) == -ECHILD &&
				      mc_engine_close(p->initiator) == -ECHILD
			      ? 0
			      : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_unknown_segments_and_taken_names_are_sentences(void **state)
{
	struct pair *p = *state;
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_segment *segment;
	mc_engine *engine;

	assert_int_equal(mc_segment_open(p->initiator, "nobody", NULL, &segment), -ENOENT);
	assert_non_null(strstr(mc_errmsg(), "nobody"));
	attr.metadata = p->uri;
	attr.name = p->target_name;
	assert_int_equal(mc_engine_open(&attr, &engine), -EADDRINUSE);
	assert_non_null(strstr(mc_errmsg(), p->target_name));
}

static void test_shared_memory_of_the_kernel_module(void **state)
{
	(void)state;
	print_message("skipped: there is no memory of the kernel module here (\"mooncake doctor\" says why)\n");
	skip();
}

/* A requester may look at what it was attached: zero-copy views, and the path that says how. */
static void test_a_region_can_be_viewed_and_the_path_says_how_it_is_reached(void **state)
{
	struct mc_segment_region region = {.size = sizeof(region)};
	struct pair *p = *state;
	const void *addr;
	mc_view *view;

	fill(p->remote, 4096, 3);
	must(mc_segment_region(p->segment, 0, &region));
	if (strcmp(p->transport, "shm") || !strcmp(p->memory, "malloc")) {
		assert_int_equal(mc_segment_map(p->segment, region.id, 0, 4096, &addr, &view), -EOPNOTSUPP);
		return;
	}
	assert_non_null(strstr(region.detail,
			       !strcmp(p->memory, "module") ? "module, attached by key" : "memfd mapped"));
	must(mc_segment_map(p->segment, region.id, 0, 4096, &addr, &view));
	assert_memory_equal(addr, p->remote, 4096);
	p->remote[5] ^= 0xff;
	assert_int_equal(((const uint8_t *)addr)[5], p->remote[5]);
	assert_int_equal(mc_engine_unregister(p->remote_region, 0), -EBUSY);
	must(mc_view_close(view));
}

static int setup(void **state)
{
	pair_setup(*state);
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;
	struct pair fresh = {.transport = p->transport, .memory = p->memory, .flags = p->flags};

	pair_teardown(p);
	*p = fresh;
	return 0;
}

#define each(p, f)                        \
	{                                 \
#f, f, setup, teardown, p \
	}
#define run(title, p)                                                                              \
	({                                                                                         \
		const struct CMUnitTest tests[] = {                                                \
			each(p, test_what_is_written_is_read_back_at_every_size),                  \
			each(p, test_a_full_batch_of_small_requests_all_complete),                 \
			each(p, test_zero_length_is_done_at_once),                                 \
			each(p, test_requests_outside_a_region_fail_before_a_byte_moves),          \
			each(p, test_overlapping_registration_is_refused),                         \
			each(p, test_rights_are_kept),                                             \
			each(p, test_a_region_registered_anew_is_other_memory),                    \
			each(p, test_a_restarted_target_answers_stale_until_opened_anew),          \
			each(p, test_a_restarted_target_has_time_to_register),                     \
			each(p, test_a_target_that_never_registers_again_is_stale_in_the_end),     \
			each(p, test_a_stopped_target_fails_requests_within_their_deadline),       \
			each(p, test_batch_life_is_guarded),                                       \
			each(p, test_completion_fd_is_readable_while_a_batch_waits_to_be_fetched), \
			each(p, test_submit_is_all_or_nothing_when_the_queue_is_full),             \
			each(p, test_cancelled_requests_become_final),                             \
			each(p, test_notify_comes_after_the_data_and_only_if_all_is_done),         \
			each(p, test_eight_threads_share_a_segment),                               \
			each(p, test_warm_data_path_allocates_nothing),                            \
			each(p, test_unregister_refuses_or_waits_while_transfers_fly),             \
			each(p, test_child_of_a_fork_gets_echild),                                 \
			each(p, test_a_region_can_be_viewed_and_the_path_says_how_it_is_reached),  \
			each(p, test_unknown_segments_and_taken_names_are_sentences),              \
		};                                                                                 \
		only_tests(argc > 2 ? argv[2] : NULL, tests);                                      \
		cmocka_run_group_tests_name(title, tests, NULL, NULL);                             \
	})

#define wanted(name) (!only || (!strcmp(only, name) && (known = true)))

int main(int argc, char **argv)
{
	static struct pair tcp = {.transport = "tcp", .memory = "memfd"};
	static struct pair tcp_checked = {
		.transport = "tcp", .memory = "malloc", .flags = MC_ENGINE_INTEGRITY | MC_ENGINE_CHECKSUM};
	static struct pair classic = {
		.transport = "tcp-classic", .memory = "malloc", .flags = MC_ENGINE_CLASSIC};
	static struct pair shm = {.transport = "shm", .memory = "memfd"};
	static struct pair shm_module = {.transport = "shm", .memory = "module"};
	static struct pair shm_vm = {.transport = "shm", .memory = "malloc"};
	static struct pair rdma = {.transport = "rdma", .memory = "memfd"};
	static struct pair rdma_malloc = {.transport = "rdma", .memory = "malloc"};
	static struct pair rdma_classic = {
		.transport = "rdma-classic", .memory = "malloc", .flags = MC_ENGINE_CLASSIC};
	static struct pair rdma_classic_memfd = {
		.transport = "rdma-classic", .memory = "memfd", .flags = MC_ENGINE_CLASSIC};
	const struct CMUnitTest none[] = {cmocka_unit_test(test_shared_memory_of_the_kernel_module)};
	const char *only = argc > 1 ? argv[1] : NULL;
	bool nic = (!only || strstr(only, "rdma")) && pair_has_nic(argv);
	bool known = !only;
	int failed = 0;

	if (wanted("tcp"))
		failed += run("tcp", &tcp);
	if (wanted("tcp-checked"))
		failed += run("tcp, TLS and checksums", &tcp_checked);
	if (wanted("tcp-classic"))
		failed += run("tcp-classic", &classic);
	if (wanted("shm"))
		failed += run("shm, memfd", &shm);
	if (wanted("shm-module")) {
		if (pair_has_module())
			failed += run("shm, module", &shm_module);
		else
			failed += cmocka_run_group_tests_name("shm, module", none, NULL, NULL);
	}
	if (wanted("shm-vm"))
		failed += run("shm, process_vm", &shm_vm);
	if (!nic && !only) {
		printf("[  SKIPPED ] rdma: no RDMA device here; the same tests run in a guest (tests/vm)\n");
		return failed ? 1 : 0;
	}
	if (wanted("rdma"))
		failed += run("rdma, memfd", &rdma);
	if (wanted("rdma-malloc"))
		failed += run("rdma, malloc", &rdma_malloc);
	if (wanted("rdma-classic"))
		failed += run("rdma-classic, malloc", &rdma_classic);
	if (wanted("rdma-classic-memfd"))
		failed += run("rdma-classic, memfd", &rdma_classic_memfd);
	if (!known) {
		fprintf(stderr, "'%s' is none of the transports of this test; shm-vm is one\n", only);
		return 2;
	}
	return failed ? 1 : 0;
}
