/* SPDX-License-Identifier: MIT */
/*
 * What every metadata backend must do, as one list of cmocka tests (METADATA_BODY_TESTS). The program
 * that includes this defines `metadata_body` and starts the server before.
 */
#ifndef TESTS_METADATA_BODY_H
#define TESTS_METADATA_BODY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>

#include <mooncake/types.h>

#include "metadata/metadata.h"
#include "metadata_server.h"

struct metadata_body {
	const char *uri;
	struct mci_metadata_options options;	/* lease_ms: short, the tests wait for its end */
	unsigned int lease_ms;		/* what the server makes of it; 0 = options.lease_ms */
	bool cannot_compare;		/* no versions: races are found out afterwards */
	bool cannot_list;
	bool cannot_expire;		/* keys of the dead stay */
	void (*stop_server)(void);	/* both NULL: the server cannot be restarted */
	void (*start_server)(void);
};

static struct metadata_body metadata_body;

#define BODY_WAIT_MS 15000
#define BODY_KEY(name) "mooncake/body/" name

static inline unsigned int body_lease_ms(void)
{
	return metadata_body.lease_ms ? metadata_body.lease_ms : metadata_body.options.lease_ms;
}

static inline struct mci_metadata *body_open(void)
{
	struct mci_metadata *metadata = NULL;
	int ret = mci_metadata_open(metadata_body.uri, &metadata_body.options, &metadata);

	if (ret)
		print_error("%s\n", mc_errmsg());
	assert_int_equal(ret, 0);
	return metadata;
}

static inline void body_ok(int ret)
{
	if (ret)
		print_error("%d: %s\n", ret, mc_errmsg());
	assert_int_equal(ret, 0);
}

/* Does the key hold @text (NULL: does it not exist)? */
static inline bool body_holds(struct mci_metadata *metadata, const char *key, const char *text)
{
	struct mci_metadata_value value = { 0 };
	int ret = mci_metadata_fetch(metadata, key, &value);
	bool holds;

	if (ret)
		return ret == -ENOENT && !text;
	holds = text && value.length == strlen(text) && !memcmp(value.text, text, value.length) &&
		!value.text[value.length];
	free(value.text);
	return holds;
}

static inline uint64_t body_version(struct mci_metadata *metadata, const char *key)
{
	struct mci_metadata_value value = { 0 };

	body_ok(mci_metadata_fetch(metadata, key, &value));
	free(value.text);
	return value.version;
}

struct body_lost {
	pthread_mutex_t lock;
	unsigned int count;
	char key[200];
};

static inline void body_note_lost(void *arg, const char *key)
{
	struct body_lost *lost = arg;

	pthread_mutex_lock(&lost->lock);
	lost->count++;
	snprintf(lost->key, sizeof(lost->key), "%s", key);
	pthread_mutex_unlock(&lost->lock);
}

static inline unsigned int body_lost_count(struct body_lost *lost)
{
	unsigned int count;

	pthread_mutex_lock(&lost->lock);
	count = lost->count;
	pthread_mutex_unlock(&lost->lock);
	return count;
}

static inline void test_what_is_stored_can_be_fetched_until_it_is_removed(void **state)
{
	static const char key[] = BODY_KEY("store");
	struct mci_metadata *metadata = body_open();
	struct mci_metadata_value value;

	(void)state;
	assert_int_equal(mci_metadata_fetch(metadata, key, &value), -ENOENT);
	body_ok(mci_metadata_store(metadata, key, "{\"a\":1}\n"));
	assert_true(body_holds(metadata, key, "{\"a\":1}\n"));
	body_ok(mci_metadata_store(metadata, key, "{\"a\":2}"));
	assert_true(body_holds(metadata, key, "{\"a\":2}"));
	body_ok(mci_metadata_remove(metadata, key));
	assert_int_equal(mci_metadata_fetch(metadata, key, &value), -ENOENT);
	assert_int_equal(mci_metadata_remove(metadata, key), -ENOENT);
	mci_metadata_close(metadata);
}

static inline void test_long_and_odd_texts_come_back_unchanged(void **state)
{
	static const char key[] = BODY_KEY("text");
	static const char odd[] = "{\"name\":\"\xc3\xa4\\u0000 \\\"%s%n' ;?&=#+\",\"l\":[1,\t2]}\r\n\n";
	struct mci_metadata *metadata = body_open();
	char *text = malloc(300001);

	(void)state;
	memset(text, 'x', 300000);
	text[300000] = 0;
	body_ok(mci_metadata_store(metadata, key, text));
	assert_true(body_holds(metadata, key, text));
	body_ok(mci_metadata_store(metadata, key, odd));
	assert_true(body_holds(metadata, key, odd));
	body_ok(mci_metadata_remove(metadata, key));
	free(text);
	mci_metadata_close(metadata);
}

static inline void test_keys_may_have_any_printable_character(void **state)
{
	static const char *const keys[] = {
		BODY_KEY("ram/[fe80::1%eth0]:12345"), BODY_KEY("a b"), BODY_KEY("50%"), BODY_KEY("q?key=x&y#z+"),
		BODY_KEY("star*[a-z]\\"), BODY_KEY("\xc3\xa4"), BODY_KEY("\"quote\"{}"),
	};
	struct mci_metadata *metadata = body_open();
	char text[32];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		snprintf(text, sizeof(text), "\"%zu\"", i);
		body_ok(mci_metadata_store(metadata, keys[i], text));
	}
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		snprintf(text, sizeof(text), "\"%zu\"", i);
		assert_true(body_holds(metadata, keys[i], text));
		body_ok(mci_metadata_remove(metadata, keys[i]));
		assert_true(body_holds(metadata, keys[i], NULL));
	}
	assert_int_equal(mci_metadata_store(metadata, "", "x"), -EINVAL);
	mci_metadata_close(metadata);
}

struct body_list {
	unsigned int count, stop_at;
	char seen[700];
};

static inline int body_note_key(const char *key, const struct mci_metadata_value *value, void *arg)
{
	struct body_list *list = arg;
	unsigned int number;

	list->count++;
	if (list->count == list->stop_at)
		return 77;
	if (sscanf(key, BODY_KEY("list/%u"), &number) == 1 && number < sizeof(list->seen)) {
		assert_int_equal(strtoul(value->text, NULL, 10), number);
		list->seen[number]++;
	}
	return 0;
}

static inline void test_listing_gives_each_key_of_the_prefix_once(void **state)
{
	struct mci_metadata *metadata;
	struct body_list list = { 0 };
	char key[64], text[16];
	unsigned int i;

	(void)state;
	if (metadata_body.cannot_list)
		skip();
	metadata = body_open();
	for (i = 0; i < sizeof(list.seen); i++) {
		snprintf(key, sizeof(key), BODY_KEY("list/%u"), i);
		snprintf(text, sizeof(text), "%u", i);
		body_ok(mci_metadata_store(metadata, key, text));
	}
	body_ok(mci_metadata_store(metadata, BODY_KEY("lisu"), "0"));
	body_ok(mci_metadata_store(metadata, BODY_KEY("lis"), "0"));
	body_ok(mci_metadata_list(metadata, BODY_KEY("list/"), body_note_key, &list));
	assert_int_equal(list.count, sizeof(list.seen));
	for (i = 0; i < sizeof(list.seen); i++)
		assert_int_equal(list.seen[i], 1);
	memset(&list, 0, sizeof(list));
	list.stop_at = 3;
	assert_int_equal(mci_metadata_list(metadata, BODY_KEY("list/"), body_note_key, &list), 77);
	assert_int_equal(list.count, 3);
	memset(&list, 0, sizeof(list));
	body_ok(mci_metadata_list(metadata, BODY_KEY("l?s*"), body_note_key, &list));
	assert_int_equal(list.count, 0);	/* a prefix is not a pattern */
	for (i = 0; i < sizeof(list.seen); i++) {
		snprintf(key, sizeof(key), BODY_KEY("list/%u"), i);
		body_ok(mci_metadata_remove(metadata, key));
	}
	body_ok(mci_metadata_remove(metadata, BODY_KEY("lisu")));
	body_ok(mci_metadata_remove(metadata, BODY_KEY("lis")));
	body_ok(mci_metadata_list(metadata, BODY_KEY(""), body_note_key, &list));
	assert_int_equal(list.count, 0);
	mci_metadata_close(metadata);
}

static inline void test_a_published_key_is_refused_to_others(void **state)
{
	static const char key[] = BODY_KEY("publish");
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();

	(void)state;
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	assert_int_equal(mci_metadata_publish(two, key, "two", 0, false), -EEXIST);
	assert_non_null(strstr(mc_errmsg(), key));
	assert_true(body_holds(two, key, "one"));
	mci_metadata_close(two);
	assert_true(body_holds(one, key, "one"));
	mci_metadata_close(one);
}

static inline void test_the_publisher_may_publish_anew(void **state)
{
	static const char key[] = BODY_KEY("anew");
	struct mci_metadata *one = body_open();

	(void)state;
	body_ok(mci_metadata_publish(one, key, "first", 0, false));
	body_ok(mci_metadata_publish(one, key, "second", 0, false));
	assert_true(body_holds(one, key, "second"));
	body_ok(mci_metadata_publish(one, key, "third", 0, true));
	assert_true(body_holds(one, key, "third"));
	body_ok(mci_metadata_withdraw(one, key));
	assert_true(body_holds(one, key, NULL));
	assert_int_equal(mci_metadata_withdraw(one, key), -ENOENT);
	mci_metadata_close(one);
}

static inline void test_takeover_needs_the_version_that_is_there(void **state)
{
	static const char key[] = BODY_KEY("takeover");
	struct mci_metadata *one, *two;
	uint64_t stale, seen;

	(void)state;
	if (metadata_body.cannot_compare)
		skip();
	one = body_open();
	two = body_open();
	body_ok(mci_metadata_store(one, key, "left by the dead"));
	stale = body_version(one, key);
	body_ok(mci_metadata_store(one, key, "left by another"));
	seen = body_version(one, key);
	assert_int_not_equal(stale, seen);
	assert_int_equal(mci_metadata_publish(one, key, "one", stale, false), -EEXIST);
	assert_true(body_holds(one, key, "left by another"));
	body_ok(mci_metadata_publish(one, key, "one", seen, false));
	assert_int_equal(mci_metadata_publish(two, key, "two", seen, false), -EEXIST);
	assert_true(body_holds(one, key, "one"));
	body_ok(mci_metadata_publish(two, key, "two", 0, true));
	assert_true(body_holds(one, key, "two"));
	mci_metadata_close(two);
	mci_metadata_close(one);
}

/* Without a lease: who swaps or drops must have seen what is there, and the key outlives him. */
static inline void test_swap_and_drop_need_the_version_that_is_there(void **state)
{
	static const char key[] = BODY_KEY("swap");
	struct mci_metadata *one, *two;
	uint64_t first, second;

	(void)state;
	if (metadata_body.cannot_compare)
		skip();
	one = body_open();
	two = body_open();
	mci_metadata_remove(one, key);
	assert_int_equal(mci_metadata_swap(one, key, "never", 12345), -ESTALE);
	body_ok(mci_metadata_swap(one, key, "first", 0));
	assert_int_equal(mci_metadata_swap(two, key, "again", 0), -ESTALE);
	first = body_version(one, key);
	body_ok(mci_metadata_swap(two, key, "second", first));
	assert_int_equal(mci_metadata_swap(one, key, "late", first), -ESTALE);
	assert_true(body_holds(one, key, "second"));
	mci_metadata_close(two);
	assert_true(body_holds(one, key, "second"));
	second = body_version(one, key);
	assert_int_equal(mci_metadata_drop(one, key, first), -ESTALE);
	assert_true(body_holds(one, key, "second"));
	body_ok(mci_metadata_drop(one, key, second));
	assert_int_equal(mci_metadata_drop(one, key, second), -ENOENT);
	mci_metadata_close(one);
}

static inline void test_withdrawing_spares_what_others_put_there(void **state)
{
	static const char key[] = BODY_KEY("withdraw");
	static const char other[] = BODY_KEY("withdraw2");
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();

	(void)state;
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	body_ok(mci_metadata_publish(one, other, "one", 0, false));
	body_ok(mci_metadata_store(two, key, "two"));
	body_ok(mci_metadata_store(two, other, "two"));
	body_ok(mci_metadata_withdraw(one, key));
	assert_true(body_holds(two, key, "two"));
	mci_metadata_close(one);
	assert_true(body_holds(two, other, "two"));
	body_ok(mci_metadata_remove(two, key));
	body_ok(mci_metadata_remove(two, other));
	mci_metadata_close(two);
}

static inline void test_closing_withdraws_what_is_published(void **state)
{
	static const char key[] = BODY_KEY("close");
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();

	(void)state;
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	assert_true(body_holds(two, key, "one"));
	mci_metadata_close(one);
	assert_true(body_holds(two, key, NULL));
	mci_metadata_close(two);
}

static inline void test_a_published_key_outlives_its_lease(void **state)
{
	static const char key[] = BODY_KEY("renewed");
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();
	uint64_t end;

	(void)state;
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	for (end = test_now_ms() + body_lease_ms() * 2; test_now_ms() < end; test_sleep_ms(50))
		assert_true(body_holds(two, key, "one"));
	mci_metadata_close(one);
	mci_metadata_close(two);
}

static inline void test_the_keys_of_a_killed_process_vanish(void **state)
{
	static const char key[] = BODY_KEY("killed");
	struct mci_metadata *metadata;
	int ready[2];
	char byte;
	pid_t pid;

	(void)state;
	if (metadata_body.cannot_expire)
		skip();
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (mci_metadata_open(metadata_body.uri, &metadata_body.options, &metadata) ||
		    mci_metadata_publish(metadata, key, "child", 0, false))
			_exit(1);
		byte = 1;
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	metadata = body_open();
	assert_true(body_holds(metadata, key, "child"));
	test_kill(&pid);
	assert_true(test_until(BODY_WAIT_MS, body_holds(metadata, key, NULL)));
	mci_metadata_close(metadata);
}

static inline void test_a_vanished_key_is_published_again(void **state)
{
	static const char key[] = BODY_KEY("vanished");
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();
	struct body_lost lost = { .lock = PTHREAD_MUTEX_INITIALIZER };

	(void)state;
	mci_metadata_on_lost(one, body_note_lost, &lost);
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	body_ok(mci_metadata_remove(two, key));
	assert_true(test_until(BODY_WAIT_MS, body_holds(two, key, "one")));
	assert_int_equal(body_lost_count(&lost), 0);
	mci_metadata_close(one);
	assert_true(body_holds(two, key, NULL));
	mci_metadata_close(two);
}

static inline void test_losing_a_key_is_told_once_and_ends_its_renewal(void **state)
{
	static const char key[] = BODY_KEY("lost");
	struct mci_metadata *one = body_open();
	struct mci_metadata *two = body_open();
	struct body_lost lost = { .lock = PTHREAD_MUTEX_INITIALIZER };
	uint64_t end;

	(void)state;
	mci_metadata_on_lost(one, body_note_lost, &lost);
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	body_ok(mci_metadata_store(two, key, "two"));
	assert_true(test_until(BODY_WAIT_MS, body_lost_count(&lost) > 0));
	assert_string_equal(lost.key, key);
	for (end = test_now_ms() + body_lease_ms(); test_now_ms() < end; test_sleep_ms(50))
		assert_true(body_holds(two, key, "two"));
	assert_int_equal(body_lost_count(&lost), 1);
	assert_int_equal(mci_metadata_withdraw(one, key), -ENOENT);
	mci_metadata_close(one);
	assert_true(body_holds(two, key, "two"));
	body_ok(mci_metadata_remove(two, key));
	mci_metadata_close(two);
}

static inline void body_count_change(void *arg)
{
	__atomic_add_fetch((unsigned int *)arg, 1, __ATOMIC_SEQ_CST);
}

static inline unsigned int body_changes(const unsigned int *changes)
{
	return __atomic_load_n(changes, __ATOMIC_SEQ_CST);
}

/* Wait until no call came for 1.5 s: a watch may count its own beginning as a change. */
static inline unsigned int body_settled(const unsigned int *changes)
{
	unsigned int last = body_changes(changes);
	uint64_t quiet = test_now_ms() + 1500;
	uint64_t end = test_now_ms() + BODY_WAIT_MS;

	while (test_now_ms() < quiet && test_now_ms() < end) {
		test_sleep_ms(20);
		if (body_changes(changes) != last) {
			last = body_changes(changes);
			quiet = test_now_ms() + 1500;
		}
	}
	return last;
}

static inline void test_a_watch_tells_of_changes_under_its_prefix(void **state)
{
	struct mci_metadata *one, *two;
	unsigned int changes = 0;
	unsigned int before;

	(void)state;
	if (metadata_body.cannot_list)
		skip();
	one = body_open();
	two = body_open();
	body_ok(mci_metadata_watch(one, BODY_KEY("watched/"), body_count_change, &changes));
	before = body_settled(&changes);
	body_ok(mci_metadata_store(two, BODY_KEY("watched/a"), "1"));
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));
	before = body_settled(&changes);
	body_ok(mci_metadata_store(two, BODY_KEY("watched/a"), "2"));
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));
	before = body_settled(&changes);
	body_ok(mci_metadata_store(two, BODY_KEY("elsewhere"), "1"));
	assert_int_equal(body_settled(&changes), before);
	body_ok(mci_metadata_remove(two, BODY_KEY("watched/a")));
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));
	body_ok(mci_metadata_watch(one, "", NULL, NULL));
	before = body_changes(&changes);
	body_ok(mci_metadata_store(two, BODY_KEY("watched/b"), "1"));
	test_sleep_ms(1500);
	assert_int_equal(body_changes(&changes), before);
	body_ok(mci_metadata_remove(two, BODY_KEY("watched/b")));
	body_ok(mci_metadata_remove(two, BODY_KEY("elsewhere")));
	mci_metadata_close(one);
	mci_metadata_close(two);
}

static inline void test_a_watch_ends_at_once(void **state)
{
	struct mci_metadata *one;
	unsigned int changes = 0;
	uint64_t start;

	(void)state;
	if (metadata_body.cannot_list)
		skip();
	one = body_open();
	body_ok(mci_metadata_watch(one, BODY_KEY("watched/"), body_count_change, &changes));
	body_ok(mci_metadata_publish(one, BODY_KEY("watched/x"), "x", 0, false));
	body_settled(&changes);
	start = test_now_ms();
	body_ok(mci_metadata_watch(one, "", NULL, NULL));
	assert_true(test_now_ms() - start < 900);
	body_ok(mci_metadata_watch(one, BODY_KEY("watched/"), body_count_change, &changes));
	mci_metadata_close(one);	/* ends it too */
}

struct body_racer {
	pthread_t thread;
	pthread_barrier_t *barrier;
	unsigned int number;
	struct mci_metadata *metadata;
	int result;
};

#define BODY_RACERS 8

static inline void *body_race(void *arg)
{
	struct body_racer *racer = arg;
	char text[16];

	snprintf(text, sizeof(text), "\"%u\"", racer->number);
	pthread_barrier_wait(racer->barrier);
	racer->result = mci_metadata_publish(racer->metadata, BODY_KEY("race"), text, 0, false);
	return NULL;
}

static inline void test_of_many_who_publish_a_key_at_once_one_gets_it(void **state)
{
	struct body_racer racers[BODY_RACERS] = { 0 };
	pthread_barrier_t barrier;
	unsigned int i, winners;
	char text[16] = "";

	(void)state;
	if (metadata_body.cannot_compare)
		skip();
	pthread_barrier_init(&barrier, NULL, BODY_RACERS);
	winners = 0;
	for (i = 0; i < BODY_RACERS; i++) {
		racers[i].number = i;
		racers[i].barrier = &barrier;
		racers[i].metadata = body_open();
	}
	for (i = 0; i < BODY_RACERS; i++)
		assert_int_equal(pthread_create(&racers[i].thread, NULL, body_race, &racers[i]), 0);
	for (i = 0; i < BODY_RACERS; i++)
		pthread_join(racers[i].thread, NULL);
	for (i = 0; i < BODY_RACERS; i++) {
		if (!racers[i].result) {
			winners++;
			snprintf(text, sizeof(text), "\"%u\"", i);
		} else {
			assert_int_equal(racers[i].result, -EEXIST);
		}
	}
	assert_int_equal(winners, 1);
	assert_true(body_holds(racers[0].metadata, BODY_KEY("race"), text));
	for (i = 0; i < BODY_RACERS; i++)
		mci_metadata_close(racers[i].metadata);
	pthread_barrier_destroy(&barrier);
}

static inline void *body_use(void *arg)
{
	struct body_racer *user = arg;
	char key[64], text[32];
	unsigned int i;

	pthread_barrier_wait(user->barrier);
	for (i = 0; i < 20 && !user->result; i++) {
		snprintf(key, sizeof(key), BODY_KEY("user/%u"), user->number);
		snprintf(text, sizeof(text), "%u", i);
		user->result = mci_metadata_publish(user->metadata, key, text, 0, false);
		if (!user->result && !body_holds(user->metadata, key, text))
			user->result = -EBADMSG;
		if (!user->result)
			user->result = mci_metadata_withdraw(user->metadata, key);
		if (!user->result && !body_holds(user->metadata, key, NULL))
			user->result = -EBADMSG;
	}
	return NULL;
}

static inline void test_threads_may_share_one_object(void **state)
{
	struct body_racer users[BODY_RACERS] = { 0 };
	struct mci_metadata *metadata = body_open();
	pthread_barrier_t barrier;
	unsigned int i;

	(void)state;
	pthread_barrier_init(&barrier, NULL, BODY_RACERS);
	for (i = 0; i < BODY_RACERS; i++) {
		users[i].number = i;
		users[i].barrier = &barrier;
		users[i].metadata = metadata;
		assert_int_equal(pthread_create(&users[i].thread, NULL, body_use, &users[i]), 0);
	}
	for (i = 0; i < BODY_RACERS; i++) {
		pthread_join(users[i].thread, NULL);
		assert_int_equal(users[i].result, 0);
	}
	pthread_barrier_destroy(&barrier);
	mci_metadata_close(metadata);
}

static inline void test_what_is_published_is_there_again_after_the_server_was_away(void **state)
{
	static const char key[] = BODY_KEY("restart");
	struct mci_metadata *one, *two;
	struct mci_metadata_value value;
	struct body_lost lost = { .lock = PTHREAD_MUTEX_INITIALIZER };
	int ret;

	(void)state;
	if (!metadata_body.stop_server)
		skip();
	one = body_open();
	two = body_open();
	mci_metadata_on_lost(one, body_note_lost, &lost);
	body_ok(mci_metadata_publish(one, key, "one", 0, false));
	metadata_body.stop_server();
	ret = mci_metadata_fetch(two, key, &value);
	assert_true(ret == -ECONNREFUSED || ret == -ETIMEDOUT || ret == -EIO);
	assert_non_null(strstr(mc_errmsg(), "127.0.0.1"));
	test_sleep_ms(body_lease_ms() + 500);	/* long enough for the lease to end */
	metadata_body.start_server();
	assert_true(test_until(BODY_WAIT_MS, body_holds(two, key, "one")));
	test_sleep_ms(body_lease_ms());
	assert_true(body_holds(two, key, "one"));
	assert_int_equal(body_lost_count(&lost), 0);
	mci_metadata_close(one);
	assert_true(body_holds(two, key, NULL));
	mci_metadata_close(two);
}

static inline void test_closing_does_not_wait_long_for_a_server_that_is_away(void **state)
{
	struct mci_metadata *one;
	uint64_t start;

	(void)state;
	if (!metadata_body.stop_server)
		skip();
	one = body_open();
	body_ok(mci_metadata_publish(one, BODY_KEY("away/1"), "one", 0, false));
	body_ok(mci_metadata_publish(one, BODY_KEY("away/2"), "one", 0, false));
	metadata_body.stop_server();
	start = test_now_ms();
	mci_metadata_close(one);
	assert_true(test_now_ms() - start < 8000);
	metadata_body.start_server();
}

static inline int body_add_length(const char *key, const struct mci_metadata_value *value, void *arg)
{
	(void)key;
	*(size_t *)arg += value->length;
	return 0;
}

/* More than one answer of a server may be long. For backends that take texts of 1 MiB. */
static inline void test_a_listing_of_many_long_texts_comes_in_parts(void **state)
{
	struct mci_metadata_options patient = metadata_body.options;
	struct mci_metadata *metadata;
	size_t n = (1u << 20) - 100;
	char *text = malloc(n + 1);
	size_t length = 0;
	char key[64];
	unsigned int i;

	(void)state;
	patient.timeout_ms = 15000;
	body_ok(mci_metadata_open(metadata_body.uri, &patient, &metadata));
	memset(text, 'x', n);
	text[n] = 0;
	for (i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), BODY_KEY("long/%u"), i);
		body_ok(mci_metadata_store(metadata, key, text));
	}
	body_ok(mci_metadata_list(metadata, BODY_KEY("long/"), body_add_length, &length));
	assert_int_equal(length, 40 * n);
	for (i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), BODY_KEY("long/%u"), i);
		body_ok(mci_metadata_remove(metadata, key));
	}
	free(text);
	mci_metadata_close(metadata);
}

#define METADATA_BODY_TESTS									\
	cmocka_unit_test(test_what_is_stored_can_be_fetched_until_it_is_removed),		\
	cmocka_unit_test(test_long_and_odd_texts_come_back_unchanged),				\
	cmocka_unit_test(test_keys_may_have_any_printable_character),				\
	cmocka_unit_test(test_listing_gives_each_key_of_the_prefix_once),			\
	cmocka_unit_test(test_a_published_key_is_refused_to_others),				\
	cmocka_unit_test(test_the_publisher_may_publish_anew),					\
	cmocka_unit_test(test_takeover_needs_the_version_that_is_there),			\
	cmocka_unit_test(test_swap_and_drop_need_the_version_that_is_there),			\
	cmocka_unit_test(test_withdrawing_spares_what_others_put_there),			\
	cmocka_unit_test(test_closing_withdraws_what_is_published),				\
	cmocka_unit_test(test_a_published_key_outlives_its_lease),				\
	cmocka_unit_test(test_the_keys_of_a_killed_process_vanish),				\
	cmocka_unit_test(test_a_vanished_key_is_published_again),				\
	cmocka_unit_test(test_losing_a_key_is_told_once_and_ends_its_renewal),			\
	cmocka_unit_test(test_a_watch_tells_of_changes_under_its_prefix),			\
	cmocka_unit_test(test_a_watch_ends_at_once),						\
	cmocka_unit_test(test_of_many_who_publish_a_key_at_once_one_gets_it),			\
	cmocka_unit_test(test_threads_may_share_one_object),					\
	cmocka_unit_test(test_what_is_published_is_there_again_after_the_server_was_away),	\
	cmocka_unit_test(test_closing_does_not_wait_long_for_a_server_that_is_away)

#endif
