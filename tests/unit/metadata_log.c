// SPDX-License-Identifier: MIT
/* The metadata server's log file: what it keeps over restarts, torn ends, flipped bits, full disks, kill -9.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <mooncake/admin.h>

#include "metadata_server.h"

#if USE_HTTP
#include "core/bytes.h"
#include "core/log.h"
#include "metadata/curl.h"
#include "metadata/server_store.h"

static char dir[] = "/tmp/mooncake-log-XXXXXX";
static char path[64];

static const struct mci_keystore_if always = {.when = MCI_WHEN_ANY};

static struct mci_keystore *open_store(void)
{
	struct mci_keystore *store = NULL;
	int ret = mci_keystore_open(path, 1u << 30, 1u << 28, &store);

	if (ret)
		print_error("%s\n", mc_errmsg());
	assert_int_equal(ret, 0);
	return store;
}

static int put_ttl(struct mci_keystore *store, const char *key, const char *text, uint32_t ttl_ms,
		   uint64_t *version)
{
	struct mci_blob *blob = mci_blob_new(mci_keystore_budget(store), (uint32_t)strlen(text));
	int ret;

	blob->length = (uint32_t)strlen(text);
	memcpy(blob->bytes, text, blob->length);
	ret = mci_keystore_put(store, key, blob, ttl_ms, &always, version);
	mci_blob_put(blob);
	return ret;
}

static uint64_t put(struct mci_keystore *store, const char *key, const char *text)
{
	uint64_t version = 0;

	assert_int_equal(put_ttl(store, key, text, 0, &version), 0);
	return version;
}

/* Version of the key if it holds @text; 0: it does not exist. Anything else fails the test. */
static uint64_t holds(struct mci_keystore *store, const char *key, const char *text)
{
	struct mci_keystore_item item;
	uint64_t version;

	if (mci_keystore_get(store, key, &item))
		return 0;
	assert_int_equal(item.value->length, strlen(text));
	assert_memory_equal(item.value->bytes, text, item.value->length);
	version = item.version;
	mci_keystore_item_free(&item);
	return version;
}

static void delete (struct mci_keystore *store, const char *key)
{
	uint64_t version;

	assert_int_equal(mci_keystore_delete(store, key, &always, &version), 0);
}

static off_t size_of(const char *name)
{
	struct stat st;

	return stat(name, &st) ? -1 : st.st_size;
}

static uint8_t *read_all(size_t *size)
{
	FILE *file = fopen(path, "re");
	uint8_t *bytes;

	*size = (size_t)size_of(path);
	bytes = malloc(*size);
	assert_int_equal(fread(bytes, 1, *size, file), *size);
	fclose(file);
	return bytes;
}

static void write_all(const void *bytes, size_t size)
{
	FILE *file = fopen(path, "we");

	assert_int_equal(fwrite(bytes, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
}

static int fresh(void **state)
{
	char other[96];

	(void)state;
	unlink(path);
	snprintf(other, sizeof(other), "%s.damaged", path);
	unlink(other);
	mci_log_threshold = MCI_LOG_ERROR; /* what the tests break on purpose is warned of */
	return 0;
}

static void test_keys_and_versions_outlive_a_restart(void **state)
{
	struct mci_keystore *store = open_store();
	uint64_t a, b, c;

	(void)state;
	put(store, "a", "old");
	a = put(store, "a", "new");
	b = put(store, "mooncake/ram/b", "");
	c = put(store, "gone", "x");
	delete (store, "gone");
	mci_keystore_close(store);
	assert_int_equal(size_of(path) % 8, 0);
	store = open_store();
	assert_int_equal(holds(store, "a", "new"), a);
	assert_int_equal(holds(store, "mooncake/ram/b", ""), b);
	assert_int_equal(holds(store, "gone", "x"), 0);
	assert_true(put(store, "d", "1") > c + 1);
	mci_keystore_close(store);
}

static void test_versions_grow_even_without_a_log(void **state)
{
	struct mci_keystore *store;
	uint64_t first, second;

	(void)state;
	assert_int_equal(mci_keystore_open(NULL, 1u << 20, 1u << 20, &store), 0);
	first = put(store, "a", "x");
	mci_keystore_close(store);
	assert_int_equal(mci_keystore_open(NULL, 1u << 20, 1u << 20, &store), 0);
	second = put(store, "a", "x");
	mci_keystore_close(store);
	assert_true(second > first);
}

static void test_keys_with_a_time_to_live_get_it_anew_after_a_restart(void **state)
{
	struct mci_keystore *store = open_store();
	uint64_t version, begin;

	(void)state;
	assert_int_equal(put_ttl(store, "m", "x", 400, &version), 0);
	assert_int_equal(put_ttl(store, "expired", "x", 1, &version), 0);
	assert_true(test_until(2000, !holds(store, "expired", "x")));
	mci_keystore_close(store);
	test_sleep_ms(500);
	store = open_store();
	begin = test_now_ms();
	assert_true(holds(store, "m", "x"));
	assert_int_equal(holds(store, "expired", "x"), 0);
	assert_true(test_until(2000, !holds(store, "m", "x")));
	assert_true(test_now_ms() - begin >= 380);
	mci_keystore_close(store);
	store = open_store();
	assert_int_equal(holds(store, "m", "x"), 0);
	mci_keystore_close(store);
}

/* Records at known ends: a=1, b=2, a=3, del b, c=4. */
static uint8_t *sample(size_t *size, size_t ends[6])
{
	struct mci_keystore *store = open_store();

	ends[0] = MCI_KEYLOG_HEADER;
	put(store, "a", "1");
	ends[1] = ends[0] + mci_keylog_record_size(1, 1);
	put(store, "b", "2");
	ends[2] = ends[1] + mci_keylog_record_size(1, 1);
	put(store, "a", "3");
	ends[3] = ends[2] + mci_keylog_record_size(1, 1);
	delete (store, "b");
	ends[4] = ends[3] + mci_keylog_record_size(1, 0);
	put(store, "c", "a longer value, so that the record is not the shortest");
	mci_keystore_close(store);
	ends[5] = (size_t)size_of(path);
	return read_all(size);
}

static void check_first(struct mci_keystore *store, unsigned int records)
{
	static const char *const a[] = {NULL, "1", "1", "3", "3", "3"};
	static const char *const b[] = {NULL, NULL, "2", "2", NULL, NULL};

	assert_int_equal(holds(store, "a", a[records] ? a[records] : "") > 0, a[records] != NULL);
	assert_int_equal(holds(store, "b", b[records] ? b[records] : "") > 0, b[records] != NULL);
	assert_int_equal(holds(store, "c", "a longer value, so that the record is not the shortest") > 0,
			 records == 5);
}

static void test_an_end_torn_at_any_byte_leaves_the_changes_before_it(void **state)
{
	size_t size, cut, ends[6];
	uint8_t *bytes = sample(&size, ends);
	unsigned int whole = 0;

	(void)state;
	for (cut = MCI_KEYLOG_HEADER; cut <= size; cut++) {
		struct mci_keystore *store;

		while (whole < 5 && ends[whole + 1] <= cut)
			whole++;
		write_all(bytes, cut);
		store = open_store();
		check_first(store, whole);
		put(store, "after", "x");
		mci_keystore_close(store);
		store = open_store(); /* the cut end does not come back, and what followed is kept */
		check_first(store, whole);
		assert_true(holds(store, "after", "x"));
		mci_keystore_close(store);
	}
	free(bytes);
}

static void test_a_torn_end_of_garbage_is_cut_off(void **state)
{
	size_t size, ends[6], i;
	uint8_t *bytes = sample(&size, ends);
	struct mci_keystore *store;

	(void)state;
	bytes = realloc(bytes, size + 10000);
	for (i = 0; i < 10000; i++)
		bytes[size + i] = i < 5000 ? (uint8_t)(i * 131) : 0;
	write_all(bytes, size + 10000);
	store = open_store();
	check_first(store, 5);
	mci_keystore_close(store);
	assert_int_equal(size_of(path), size);
	free(bytes);
}

static void test_a_flipped_bit_costs_its_record_and_no_other(void **state)
{
	size_t size, at, ends[6];
	uint8_t *bytes = sample(&size, ends);

	(void)state;
	for (at = 0; at < size; at++) {
		struct mci_keystore *store = NULL;
		unsigned int record = 0;
		int ret;

		bytes[at] ^= (uint8_t)(1u << at % 8);
		write_all(bytes, size);
		ret = mci_keystore_open(path, 1u << 30, 1u << 28, &store);
		bytes[at] ^= (uint8_t)(1u << at % 8);
		if (at < 24) {
			assert_int_equal(ret,
					 -EBADMSG); /* magic, salt, their checksum: nothing can be read */
			assert_int_equal(size_of(path), size);
			continue;
		}
		assert_int_equal(ret, 0);
		while (at >= ends[record])
			record++;
		/* record 0: the holder's pid, which is no key */
		assert_int_equal(holds(store, "a", record == 3 ? "1" : "3") > 0, 1);
		assert_int_equal(holds(store, "b", "2") > 0, record == 4);
		assert_int_equal(holds(store, "c", "a longer value, so that the record is not the shortest") >
					 0,
				 record != 5);
		mci_keystore_close(store);
	}
	free(bytes);
}

static void test_a_damaged_file_is_kept_aside_and_written_anew(void **state)
{
	size_t size, ends[6];
	uint8_t *bytes = sample(&size, ends);
	struct mci_keystore *store;
	char aside[96];

	(void)state;
	snprintf(aside, sizeof(aside), "%s.damaged", path);
	bytes[ends[1] + 9] ^= 0xff;
	write_all(bytes, size);
	store = open_store();
	assert_int_equal(size_of(aside), size);
	assert_true(test_until(5000, size_of(path) < (off_t)size));
	check_first(store, 5);
	mci_keystore_close(store);
	store = open_store();
	check_first(store, 5);
	mci_keystore_close(store);
	free(bytes);
}

static void test_a_value_cannot_smuggle_in_records(void **state)
{
	struct mci_keylog_record record = {.type = MCI_KEYLOG_PUT,
					   .version = 1ull << 60,
					   .key = "evil",
					   .key_length = 4,
					   .value = "x",
					   .value_length = 1};
	struct mci_keystore *store = open_store();
	char value[1024];
	uint8_t *bytes;
	uint64_t version;
	struct mci_blob *blob;
	size_t size, i;

	(void)state;
	/* a record for each offset it could have, right but for the salt, which is a secret of the file */
	memset(value, 0, sizeof(value));
	for (i = 0; i + 64 <= sizeof(value); i += 48)
		mci_keylog_seal_record((uint8_t *)value + i, &record, 0, MCI_KEYLOG_HEADER + 36 + 4 + i);
	blob = mci_blob_new(mci_keystore_budget(store), sizeof(value));
	blob->length = sizeof(value);
	memcpy(blob->bytes, value, sizeof(value));
	assert_int_equal(mci_keystore_put(store, "good", blob, 0, &always, &version), 0);
	mci_blob_put(blob);
	put(store, "last", "1");
	mci_keystore_close(store);
	bytes = read_all(&size);
	bytes[MCI_KEYLOG_HEADER + 20] ^= 1;
	write_all(bytes, size);
	free(bytes);
	store = open_store();
	assert_int_equal(holds(store, "evil", "x"), 0);
	assert_int_equal(holds(store, "good", ""), 0);
	assert_true(holds(store, "last", "1"));
	mci_keystore_close(store);
}

static void test_another_file_is_refused_and_left_alone(void **state)
{
	static const char text[] = "dear diary, this is no log of a metadata server";
	struct mci_keystore *store;

	(void)state;
	write_all(text, sizeof(text));
	assert_int_equal(mci_keystore_open(path, 1, 1, &store), -EBADMSG);
	assert_non_null(strstr(mc_errmsg(), path));
	assert_int_equal(size_of(path), sizeof(text));
	write_all(text, 3);
	assert_int_equal(mci_keystore_open(path, 1, 1, &store), -EBADMSG);
	assert_int_equal(size_of(path), 3);
	write_all("", 0); /* made by touch or mktemp: fine */
	store = open_store();
	mci_keystore_close(store);
}

static void test_a_held_file_is_refused_naming_the_pid(void **state)
{
	struct mci_keystore *store = open_store(), *second;
	char pid[32];

	(void)state;
	snprintf(pid, sizeof(pid), "pid %d", getpid());
	assert_int_equal(mci_keystore_open(path, 1u << 20, 1, &second), -EBUSY);
	assert_non_null(strstr(mc_errmsg(), pid));
	assert_non_null(strstr(mc_errmsg(), path));
	mci_keystore_close(store);
	store = open_store();
	mci_keystore_close(store);
}

#define WRITERS 4

struct writer {
	struct mci_keystore *store;
	unsigned int number;
};

static void *overwrite(void *arg)
{
	struct writer *writer = arg;
	static char filler[4000];
	char key[32], text[4100];
	unsigned int i;
	uint64_t version;

	memset(filler, '.', sizeof(filler) - 1);
	for (i = 0; i < 600; i++) {
		snprintf(key, sizeof(key), "key/%u/%u", writer->number, i % 10);
		snprintf(text, sizeof(text), "%u %s", i, filler);
		if (put_ttl(writer->store, key, text, 0, &version))
			return arg;
		if (i % 10 == 9 && mci_keystore_delete(writer->store, key, &always, &version))
			return arg;
	}
	return NULL;
}

static void test_a_file_of_mostly_garbage_is_written_anew_while_in_use(void **state)
{
	struct mci_keystore *store = open_store();
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];
	struct mci_keystore_item item;
	char key[32];
	unsigned int i, j;
	void *failed;

	(void)state;
	/* 2400 values of 4 KiB are written, 36 remain: about 150 KB */
	for (i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){store, i};
		assert_int_equal(pthread_create(&threads[i], NULL, overwrite, &writers[i]), 0);
	}
	for (i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_true(test_until(8000, size_of(path) < (1 << 20) + 400000));
	mci_keystore_close(store);
	store = open_store();
	for (i = 0; i < WRITERS; i++)
		for (j = 0; j < 10; j++) {
			snprintf(key, sizeof(key), "key/%u/%u", i, j);
			if (j == 9) {
				assert_int_equal(mci_keystore_get(store, key, &item), -ENOENT);
				continue;
			}
			assert_int_equal(mci_keystore_get(store, key, &item), 0);
			assert_int_equal(strtoul(item.value->bytes, NULL, 10), 590 + j);
			mci_keystore_item_free(&item);
		}
	mci_keystore_close(store);
}

static struct mci_keylog_record record_of(const char *key, const char *value)
{
	return (struct mci_keylog_record){
		.type = value ? MCI_KEYLOG_PUT : MCI_KEYLOG_DELETE,
		.version = 1,
		.key = key,
		.key_length = (uint16_t)strlen(key),
		.value = value,
		.value_length = value ? (uint32_t)strlen(value) : 0,
	};
}

static int join(void *arg, const struct mci_keylog_record *record)
{
	char *seen = arg;

	sprintf(seen + strlen(seen), "%.*s=%.*s;", record->key_length, record->key, (int)record->value_length,
		record->value);
	return 0;
}

static void test_changes_during_a_compaction_are_in_the_new_file_and_in_the_old(void **state)
{
	const struct mci_keylog_record a = record_of("a", "1"), b = record_of("b", "2"),
				       no_a = record_of("a", NULL);
	struct mci_keylog_report report;
	struct mci_keylog *log;
	char seen[200] = "";
	unsigned int finish;

	(void)state;
	for (finish = 0; finish < 2; finish++) {
		fresh(NULL);
		assert_int_equal(mci_keylog_open(path, join, seen, &log, &report), 0);
		assert_int_equal(mci_keylog_append(log, &a), 0);
		assert_int_equal(mci_keylog_append(log, &a), 0);
		assert_int_equal(mci_keylog_compact_begin(log), 0);
		assert_int_equal(mci_keylog_rewrite(log, &a), 0);
		assert_int_equal(mci_keylog_append(log, &b), 0);
		assert_int_equal(mci_keylog_append(log, &no_a), 0);
		assert_int_equal(mci_keylog_compact_presync(log), 0);
		if (finish)
			assert_int_equal(mci_keylog_compact_finish(log), 0);
		assert_int_equal(mci_keylog_append(log, &b), 0);
		assert_int_equal(mci_keylog_sync(log), 0);
		mci_keylog_close(log);
		seen[0] = 0;
		assert_int_equal(mci_keylog_open(path, join, seen, &log, &report), 0);
		assert_string_equal(seen, finish ? "a=1;b=2;a=;b=2;" : "a=1;a=1;b=2;a=;b=2;");
		mci_keylog_close(log);
	}
}

static void test_a_full_disk_refuses_changes_and_keeps_what_is_there(void **state)
{
	struct mci_keystore *store = open_store();
	struct rlimit before, full;
	uint64_t version, kept;

	(void)state;
	kept = put(store, "a", "1");
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	full = before;
	full.rlim_cur = (rlim_t)size_of(path) + 20; /* not even half a record */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
	assert_int_equal(put_ttl(store, "a", "2", 0, &version), -ENOSPC);
	assert_int_equal(put_ttl(store, "b", "2", 0, &version), -ENOSPC);
	assert_int_equal(mci_keystore_delete(store, "a", &always, &version), -ENOSPC);
	assert_non_null(strstr(mc_errmsg(), path));
	assert_int_equal(holds(store, "a", "1"), kept);
	assert_int_equal(holds(store, "b", ""), 0);
	setrlimit(RLIMIT_FSIZE, &before);
	put(store, "b", "3");
	mci_keystore_close(store);
	store = open_store();
	assert_int_equal(holds(store, "a", "1"), kept);
	assert_true(holds(store, "b", "3"));
	mci_keystore_close(store);
}

/* ---- kill -9 ---- */

#define CLIENTS 4

struct client {
	struct mci_curl *curl;
	unsigned int number, port, acknowledged;
};

static void *store_keys(void *arg)
{
	struct client *client = arg;
	struct mci_curl_reply reply = {0};
	char url[128], text[32];
	unsigned int i;

	for (i = 0; i < 1000000; i++) {
		snprintf(url, sizeof(url), "http://127.0.0.1:%u/metadata?key=%u/%u", client->port,
			 client->number, i);
		snprintf(text, sizeof(text), "%u", i);
		if (mci_curl_request(
			    client->curl,
			    &(struct mci_curl_request){
				    .method = "PUT", .url = url, .body = text, .body_length = strlen(text)},
			    &reply) ||
		    reply.status != 200)
			break;
		mci_curl_reply_free(&reply);
		__atomic_store_n(&client->acknowledged, i + 1, __ATOMIC_SEQ_CST);
	}
	mci_curl_reply_free(&reply);
	return NULL;
}

static void test_what_was_acknowledged_survives_kill_9(void **state)
{
	char port_text[8], out[96];
	char *argv[] = {"/proc/self/exe", "--serve", path, port_text, NULL};
	struct client clients[CLIENTS] = {0};
	pthread_t threads[CLIENTS];
	struct mci_keystore *store;
	unsigned int i, j;
	uint16_t port = test_free_port();
	pid_t pid;

	(void)state;
	snprintf(port_text, sizeof(port_text), "%u", port);
	snprintf(out, sizeof(out), "%s.out", path);
	pid = test_spawn(argv, out);
	assert_true(pid > 0);
	assert_true(test_until(20000, test_can_connect(port)));
	for (i = 0; i < CLIENTS; i++) {
		assert_int_equal(mci_curl_open(&(struct mci_curl_options){0}, &clients[i].curl), 0);
		clients[i].number = i;
		clients[i].port = port;
		assert_int_equal(pthread_create(&threads[i], NULL, store_keys, &clients[i]), 0);
	}
	assert_true(test_until(20000, __atomic_load_n(&clients[0].acknowledged, __ATOMIC_SEQ_CST) > 300));
	test_kill(&pid);
	for (i = 0; i < CLIENTS; i++) {
		pthread_join(threads[i], NULL);
		mci_curl_close(clients[i].curl);
	}
	store = open_store();
	for (i = 0; i < CLIENTS; i++)
		for (j = 0; j < clients[i].acknowledged; j++) {
			char key[32], text[32];

			snprintf(key, sizeof(key), "%u/%u", i, j);
			snprintf(text, sizeof(text), "%u", j);
			assert_true(holds(store, key, text));
		}
	mci_keystore_close(store);
	unlink(out);
}

static int serve(const char *log_file, const char *port)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *server;

	attr.log_file = log_file;
	attr.port = (uint16_t)strtoul(port, NULL, 10);
	if (mc_metadata_server_open(&attr, &server)) {
		fprintf(stderr, "%s\n", mc_errmsg());
		return 1;
	}
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_keys_and_versions_outlive_a_restart, fresh),
		cmocka_unit_test_setup(test_versions_grow_even_without_a_log, fresh),
		cmocka_unit_test_setup(test_keys_with_a_time_to_live_get_it_anew_after_a_restart, fresh),
		cmocka_unit_test_setup(test_an_end_torn_at_any_byte_leaves_the_changes_before_it, fresh),
		cmocka_unit_test_setup(test_a_torn_end_of_garbage_is_cut_off, fresh),
		cmocka_unit_test_setup(test_a_flipped_bit_costs_its_record_and_no_other, fresh),
		cmocka_unit_test_setup(test_a_damaged_file_is_kept_aside_and_written_anew, fresh),
		cmocka_unit_test_setup(test_a_value_cannot_smuggle_in_records, fresh),
		cmocka_unit_test_setup(test_another_file_is_refused_and_left_alone, fresh),
		cmocka_unit_test_setup(test_a_held_file_is_refused_naming_the_pid, fresh),
		cmocka_unit_test_setup(test_a_file_of_mostly_garbage_is_written_anew_while_in_use, fresh),
		cmocka_unit_test_setup(test_changes_during_a_compaction_are_in_the_new_file_and_in_the_old,
				       fresh),
		cmocka_unit_test_setup(test_a_full_disk_refuses_changes_and_keeps_what_is_there, fresh),
		cmocka_unit_test_setup(test_what_was_acknowledged_survives_kill_9, fresh),
	};
	int failed;

	unsetenv("MOONCAKE_KEY_FILE");
	if (argc == 4)
		return serve(argv[2], argv[3]);
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/log", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	test_remove_tree(dir);
	return failed;
}
#else
int main(void)
{
	puts("this build has no metadata server (USE_HTTP=0)");
	return 77;
}
#endif
