// SPDX-License-Identifier: MIT
/* Notifies over TCP: once each, whatever breaks. */
#include "unit/tcp_pair.h"

static uint32_t notify_encode(uint8_t *p, const char *name, const char *message)
{
	struct mci_writer w;

	mci_writer_init(&w, p, 256);
	mci_write16(&w, (uint16_t)strlen(name));
	mci_write_bytes(&w, name, strlen(name));
	mci_write32(&w, (uint32_t)strlen(message));
	mci_write_bytes(&w, message, strlen(message));
	return (uint32_t)w.used;
}

static bool holds_answer(void *arg) { return proxy_held(arg, false) > 0; }

static void repeat_notify(int result, int expected)
{
	uint8_t body[256], other[256];
	struct job job, next;
	struct pair p;

	pair_open(&p, MIB, true, NULL);
	p.to->notify_result = result;
	job_set(&job, p.from, MCI_OP_NOTIFY, NULL, 0, body, notify_encode(body, "name", "once"), 10 * S);
	proxy_hold(p.proxy, false, true);
	jobs_submit(p.peer, &job, 1);
	/* It was delivered, and the answer is on its way: now the connection breaks. */
	wait_until(holds_answer, p.proxy);
	assert_int_equal(p.to->notifies, 1);
	assert_int_equal(job.state, MC_PENDING);
	p.to->notify_result = 0;
	proxy_cut(p.proxy);
	assert_true(jobs_wait(&job, 1, 12 * S));
	assert_int_equal(job.error, expected);
	assert_true(p.from->host.stats.resent >= 1);
	assert_int_equal(p.to->notifies, 1);
	job_set(&next, p.from, MCI_OP_NOTIFY, NULL, 0, other, notify_encode(other, "name", "twice"), 10 * S);
	run(&p, &next, 1, 12 * S);
	assert_done(&next);
	assert_int_equal(p.to->notifies, 2);
	assert_string_equal(p.to->last_notify, "twice");
	pair_close(&p);
}

static void test_a_notify_that_is_sent_again_is_delivered_once(void **state)
{
	(void)state;
	repeat_notify(0, 0);
}

static void test_a_refused_notify_stays_refused_when_it_is_sent_again(void **state)
{
	(void)state;
	repeat_notify(-ENOBUFS, -ENOBUFS);
}

static void test_malformed_notifies_are_refused(void **state)
{
	uint8_t body[16] = {200, 0, 'x'};
	struct job job;
	struct pair p;

	(void)state;
	pair_open(&p, MIB, false, NULL);
	job_set(&job, p.from, MCI_OP_NOTIFY, NULL, 0, body, 3, 5 * S);
	run(&p, &job, 1, 6 * S);
	assert_int_equal(job.error, -EINVAL);
	assert_int_equal(p.to->notifies, 0);
	pair_close(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_notify_that_is_sent_again_is_delivered_once),
		cmocka_unit_test(test_a_refused_notify_stays_refused_when_it_is_sent_again),
		cmocka_unit_test(test_malformed_notifies_are_refused),
	};

	only_tests(argc > 1 ? argv[1] : NULL, tests);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
