// SPDX-License-Identifier: MIT
/* The metadata server over HTTP: the classic interface byte by byte, ours, who may, and how much. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <jansson.h>
#include <pthread.h>

#include <mooncake/admin.h>

#include "metadata_server.h"

#if USE_HTTP
#include "metadata/curl.h"

static struct mci_curl *curl;
static mc_metadata_server *server;
static char base[64]; /* http://127.0.0.1:port */
static char dir[] = "/tmp/mooncake-server-XXXXXX";

struct answer {
	long status;
	char body[4096];
	char tag[64];
	size_t length;
};

static struct answer ask_with(const char *method, const char *path, const void *body, size_t length,
			      const char *authorization, const char *const *headers)
{
	struct mci_curl_reply reply = {0};
	struct answer answer = {0};
	char url[16384];
	int ret;

	snprintf(url, sizeof(url), "%s%s", base, path);
	ret = mci_curl_request(curl,
			       &(struct mci_curl_request){.method = method,
							  .url = url,
							  .body = body,
							  .body_length = length,
							  .authorization = authorization,
							  .headers = headers,
							  .timeout_ms = 40000},
			       &reply);
	if (ret) {
		answer.status = ret;
		snprintf(answer.body, sizeof(answer.body), "%s", mc_errmsg());
		return answer;
	}
	answer.status = reply.status;
	answer.length = reply.length;
	memcpy(answer.body, reply.body,
	       reply.length < sizeof(answer.body) ? reply.length : sizeof(answer.body) - 1);
	mci_curl_header(&reply, "ETag", answer.tag, sizeof(answer.tag));
	mci_curl_reply_free(&reply);
	return answer;
}

static struct answer ask(const char *method, const char *path, const char *body, const char *header)
{
	const char *const headers[] = {header, NULL};

	return ask_with(method, path, body, body ? strlen(body) : 0, NULL, headers);
}

static void expect(struct answer answer, long status, const char *body)
{
	if (answer.status != status || (body && strcmp(answer.body, body)))
		print_error("%ld %s\n", answer.status, answer.body);
	assert_int_equal(answer.status, status);
	if (body)
		assert_string_equal(answer.body, body);
}

static void expect_words(struct answer answer, long status, const char *one, const char *two)
{
	expect(answer, status, NULL);
	if (!strstr(answer.body, one) || !strstr(answer.body, two))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", answer.body, one, two);
}

static mc_metadata_server *open_server(const struct mc_metadata_server_attr *attr)
{
	mc_metadata_server *opened = NULL;
	int ret = mc_metadata_server_open(attr, &opened);

	if (ret)
		print_error("%s\n", mc_errmsg());
	assert_int_equal(ret, 0);
	snprintf(base, sizeof(base), "http://127.0.0.1:%u", mc_metadata_server_port(opened));
	return opened;
}

static int start(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;

	(void)state;
	server = open_server(&attr);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	return mc_metadata_server_close(server);
}

/* ---- the classic interface ---- */

static void test_answers_are_those_of_classic_servers(void **state)
{
	(void)state;
	expect(ask("GET", "/metadata?key=k", NULL, NULL), 404, "metadata not found");
	expect(ask("PUT", "/metadata?key=k", "{\"a\":1}", NULL), 200, "metadata updated");
	expect(ask("GET", "/metadata?key=k", NULL, NULL), 200, "{\"a\":1}");
	expect(ask("DELETE", "/metadata?key=k", NULL, NULL), 200, "metadata deleted");
	expect(ask("DELETE", "/metadata?key=k", NULL, NULL), 404, "metadata not found");
	expect(ask("GET", "/metadata?key=k", NULL, NULL), 404, "metadata not found");
	expect(ask("GET", "/metadata", NULL, NULL), 400, "Missing key parameter");
	expect(ask("PUT", "/metadata", "x", NULL), 400, "Missing key parameter");
	expect(ask("DELETE", "/metadata?key=", NULL, NULL), 400, "Missing key parameter");
	expect(ask("GET", "/health", NULL, NULL), 200, "OK");
}

static void test_other_methods_and_paths_are_refused(void **state)
{
	(void)state;
	expect(ask("PATCH", "/metadata?key=k", "x", NULL), 405, NULL);
	expect(ask("OPTIONS", "/metadata", NULL, NULL), 405, NULL);
	expect(ask("POST", "/metadata?key=k", "x", NULL), 405, NULL);
	expect(ask("PUT", "/health", "x", NULL), 405, NULL);
	expect_words(ask("GET", "/", NULL, NULL), 404, "/metadata", "/health");
	expect(ask("GET", "/metadata/?key=k", NULL, NULL), 404, "metadata not found");
}

static void test_a_key_is_the_same_however_it_was_escaped(void **state)
{
	(void)state;
	expect(ask("PUT", "/metadata?key=mooncake%2Fram%2F10.0.0.1%3A12345", "1", NULL), 200, NULL);
	expect(ask("GET", "/metadata?key=mooncake/ram/10.0.0.1:12345", NULL, NULL), 200, "1");
	expect(ask("GET", "/metadata?key=mooncake%2fram%2f10.0.0.1%3a12345", NULL, NULL), 200, "1");
	expect(ask("PUT", "/metadata?key=%E4%BD%A0%26%3D%23%25%2B", "2", NULL), 200, NULL);
	expect(ask("GET", "/metadata?x=y&key=%E4%BD%A0%26%3D%23%25%2B&z", NULL, NULL), 200, "2");
	expect(ask("GET", "/metadata?prefix=%E4", NULL, NULL), 200, NULL);
	expect(ask("GET", "/metadata?key=a%00b", NULL, NULL), 400, NULL);
	expect(ask("PUT", "/metadata?key=%FF%FE", "x", NULL), 400, NULL);
}

static void test_an_rpc_meta_key_may_be_registered_again(void **state)
{
	(void)state;
	expect(ask("PUT", "/metadata?key=mooncake%2Frpc_meta%2Fa", "{\"rpc_port\":1}", NULL), 200,
	       "metadata updated");
	expect(ask("PUT", "/metadata?key=mooncake%2Frpc_meta%2Fa", "{\"rpc_port\":2}", NULL), 200,
	       "metadata updated");
	expect(ask("GET", "/metadata?key=mooncake%2Frpc_meta%2Fa", NULL, NULL), 200, "{\"rpc_port\":2}");
}

static void test_values_are_bytes_up_to_1_mib(void **state)
{
	static char big[(1 << 20) + 1];
	static const char odd[] = {0, (char)0xff, '\n', 0, 'x'};
	struct mci_curl_reply reply = {0};
	char url[128];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + i / 251);
	expect(ask_with("PUT", "/metadata?key=odd", odd, sizeof(odd), NULL, NULL), 200, NULL);
	assert_memory_equal(ask("GET", "/metadata?key=odd", NULL, NULL).body, odd, sizeof(odd));
	expect(ask_with("PUT", "/metadata?key=empty", "", 0, NULL, NULL), 200, NULL);
	expect(ask("GET", "/metadata?key=empty", NULL, NULL), 200, "");
	expect(ask_with("PUT", "/metadata?key=big", big, 1 << 20, NULL, NULL), 200, NULL);
	snprintf(url, sizeof(url), "%s/metadata?key=big", base);
	assert_int_equal(
		mci_curl_request(curl, &(struct mci_curl_request){.method = "GET", .url = url}, &reply), 0);
	assert_int_equal(reply.length, 1 << 20);
	assert_memory_equal(reply.body, big, 1 << 20);
	mci_curl_reply_free(&reply);
	expect(ask_with("PUT", "/metadata?key=big", big, sizeof(big), NULL, NULL), 413, NULL);
	assert_int_equal(ask("GET", "/metadata?key=big", NULL, NULL).length, 1 << 20);
	/* no length said beforehand */
	expect(ask("PUT", "/metadata?key=chunked", "in pieces", "Transfer-Encoding: chunked"), 200, NULL);
	expect(ask("GET", "/metadata?key=chunked", NULL, NULL), 200, "in pieces");
	expect(ask_with("PUT", "/metadata?key=chunked", big, sizeof(big), NULL,
			(const char *const[]){"Transfer-Encoding: chunked", NULL}),
	       413, NULL);
	expect(ask("GET", "/metadata?key=chunked", NULL, NULL), 200, "in pieces");
}

static void test_keys_have_at_most_4096_bytes(void **state)
{
	char path[14 + 3 * 4097 + 1] = "/metadata?key=";
	char *at = path + strlen(path);
	unsigned int i;

	(void)state;
	for (i = 0; i < 4096; i++, at += 3)
		memcpy(at, i % 2 ? "%A4" : "%C3", 4);
	expect(ask("PUT", path, "x",
		   "Authorization: Bearer of a header that has some length too, as real ones do"),
	       200, NULL);
	expect(ask("GET", path, NULL, NULL), 200, "x");
	memcpy(at, "%6b", 4);
	expect(ask("PUT", path, "x", NULL), 400, NULL);
}

/* ---- versions ---- */

static void test_a_change_may_ask_for_a_version(void **state)
{
	struct answer first, second;
	char match[96];

	(void)state;
	first = ask("PUT", "/metadata?key=v", "1", "If-None-Match: *");
	expect(first, 200, NULL);
	assert_string_equal(ask("GET", "/metadata?key=v", NULL, NULL).tag, first.tag);
	expect(ask("PUT", "/metadata?key=v", "2", "If-None-Match: *"), 412, "the key exists already");
	snprintf(match, sizeof(match), "If-Match: %s", first.tag);
	second = ask("PUT", "/metadata?key=v", "2", match);
	expect(second, 200, NULL);
	assert_string_not_equal(first.tag, second.tag);
	expect(ask("PUT", "/metadata?key=v", "3", match), 412, "the key has another version");
	assert_string_equal(ask("PUT", "/metadata?key=v", "3", match).tag, second.tag);
	expect(ask("DELETE", "/metadata?key=v", NULL, match), 412, NULL);
	expect(ask("GET", "/metadata?key=v", NULL, NULL), 200, "2");
	snprintf(match, sizeof(match), "If-Match: %s", second.tag);
	expect(ask("DELETE", "/metadata?key=v", NULL, match), 200, NULL);
	expect(ask("PUT", "/metadata?key=v", "4", match), 412, "the key does not exist");
	expect(ask("PUT", "/metadata?key=v", "4", "If-Match: *"), 412, NULL);
	expect(ask("PUT", "/metadata?key=v", "4", "If-Match: W/\"1\""), 400, NULL);
	expect(ask("PUT", "/metadata?key=v", "4", "If-Match: \"x\""), 400, NULL);
	expect(ask("PUT", "/metadata?key=v", "4", "If-None-Match: \"1\""), 400, NULL);
	expect(ask("GET", "/metadata?key=v", NULL, NULL), 404, NULL);
}

#define RACERS 16
#define ROUNDS 25

static void *count_up(void *arg)
{
	unsigned int done = 0;
	char text[32], match[96];

	while (done < ROUNDS) {
		struct answer seen = ask("GET", "/metadata?key=counter", NULL, NULL);

		if (seen.status != 200)
			return "no counter";
		snprintf(text, sizeof(text), "%lu", strtoul(seen.body, NULL, 10) + 1);
		snprintf(match, sizeof(match), "If-Match: %s", seen.tag);
		seen = ask("PUT", "/metadata?key=counter", text, match);
		if (seen.status == 200)
			done++;
		else if (seen.status != 412)
			return "neither changed nor refused";
	}
	__atomic_add_fetch((unsigned int *)arg,
			   ask("PUT", "/metadata?key=first", "x", "If-None-Match: *").status == 200,
			   __ATOMIC_SEQ_CST);
	return NULL;
}

static void test_compare_and_swap_loses_no_step_of_many_threads(void **state)
{
	pthread_t threads[RACERS];
	unsigned int firsts = 0, i;
	char sum[16];
	void *wrong;

	(void)state;
	expect(ask("PUT", "/metadata?key=counter", "0", NULL), 200, NULL);
	for (i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_up, &firsts), 0);
	for (i = 0; i < RACERS; i++) {
		pthread_join(threads[i], &wrong);
		if (wrong)
			fail_msg("%s", (char *)wrong);
	}
	snprintf(sum, sizeof(sum), "%d", RACERS * ROUNDS);
	expect(ask("GET", "/metadata?key=counter", NULL, NULL), 200, sum);
	assert_int_equal(firsts, 1);
}

/* ---- time to live ---- */

static void test_a_key_lives_as_long_as_it_was_given(void **state)
{
	uint64_t begin = test_now_ms(), end;

	(void)state;
	expect(ask("PUT", "/metadata?key=mortal", "x", "X-Mooncake-TTL-Ms: 500"), 200, NULL);
	expect(ask("PUT", "/metadata?key=mortal2&ttl_ms=500", "x", NULL), 200, NULL);
	end = test_now_ms();
	/* It never dies early; how late it may be seen to die depends on how busy this machine is. */
	while (ask("GET", "/metadata?key=mortal", NULL, NULL).status == 200) {
		assert_true(test_now_ms() - end < 20000);
		test_sleep_ms(5);
	}
	assert_true(test_now_ms() - begin >= 500);
	while (ask("GET", "/metadata?prefix=mortal", NULL, NULL).length > 2)
		assert_true(test_now_ms() - end < 20000);
	expect(ask("GET", "/metadata?key=mortal", NULL, NULL), 404, NULL);
	expect(ask("PUT", "/metadata?key=mortal", "x", "If-None-Match: *"), 200, NULL);
	expect(ask("PUT", "/metadata?key=m&ttl_ms=0", "x", NULL), 400, NULL);
	expect(ask("PUT", "/metadata?key=m&ttl_ms=x", "x", NULL), 400, NULL);
	expect(ask("PUT", "/metadata?key=m&ttl_ms=2147483648", "x", NULL), 400, NULL);
	expect(ask("GET", "/metadata?key=m", NULL, NULL), 404, NULL);
}

static void test_renewal_prolongs_life_and_keeps_the_version(void **state)
{
	struct answer put, renewed;
	char match[96];
	int i;

	(void)state;
	put = ask("PUT", "/metadata?key=r", "x", "X-Mooncake-TTL-Ms: 2000");
	snprintf(match, sizeof(match), "If-Match: %s", put.tag);
	for (i = 0; i < 6; i++) {
		test_sleep_ms(400);
		renewed = ask("POST", "/metadata?key=r&renew=1", "", match);
		expect(renewed, 200, "metadata renewed");
		assert_string_equal(renewed.tag, put.tag);
	}
	expect(ask("POST", "/metadata?key=r&renew=1", "", "If-Match: \"5\""), 412, NULL);
	expect(ask("GET", "/metadata?key=r", NULL, NULL), 200, "x");
	assert_true(test_until(20000, ask("GET", "/metadata?key=r", NULL, NULL).status == 404));
	expect(ask("POST", "/metadata?key=r&renew=1", "", match), 404, NULL);
}

static void test_a_put_without_a_time_to_live_makes_a_key_last(void **state)
{
	(void)state;
	expect(ask("PUT", "/metadata?key=p&ttl_ms=200", "x", NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=p", "y", NULL), 200, NULL);
	test_sleep_ms(400);
	expect(ask("GET", "/metadata?key=p", NULL, NULL), 200, "y");
}

/* ---- listing and watching ---- */

static void test_a_listing_is_in_order_and_has_versions(void **state)
{
	struct answer a;
	json_t *array, *entry;

	(void)state;
	expect(ask("GET", "/metadata?prefix=list", NULL, NULL), 200, "[]");
	expect(ask("PUT", "/metadata?key=list%2Fb", "2", NULL), 200, NULL);
	a = ask("PUT", "/metadata?key=list%2Fa", "\"\xc3\xa4\"", NULL);
	expect(ask("PUT", "/metadata?key=list0", "no", NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=list%2Fc", "\xff\x01", NULL), 200, NULL);
	array = json_loads(ask("GET", "/metadata?prefix=list%2F", NULL, NULL).body, 0, NULL);
	assert_int_equal(json_array_size(array), 3);
	entry = json_array_get(array, 0);
	assert_string_equal(json_string_value(json_object_get(entry, "key")), "list/a");
	assert_string_equal(json_string_value(json_object_get(entry, "value")), "\"\xc3\xa4\"");
	assert_int_equal(json_integer_value(json_object_get(entry, "version")),
			 strtoull(a.tag + 1, NULL, 10));
	assert_string_equal(json_string_value(json_object_get(json_array_get(array, 1), "key")), "list/b");
	entry = json_array_get(array, 2);
	assert_null(json_object_get(entry, "value"));
	assert_string_equal(json_string_value(json_object_get(entry, "value_hex")), "ff01");
	json_decref(array);
}

static void test_pages_of_a_listing_join_without_gap(void **state)
{
	char path[128], after[64] = "";
	unsigned int i, seen = 0, pages = 0;

	(void)state;
	for (i = 0; i < 25; i++) {
		snprintf(path, sizeof(path), "/metadata?key=page%%2F%02u", i);
		expect(ask("PUT", path, "x", NULL), 200, NULL);
	}
	for (;;) {
		json_t *array;
		size_t n;

		snprintf(path, sizeof(path), "/metadata?prefix=page%%2F&limit=10%s", after);
		array = json_loads(ask("GET", path, NULL, NULL).body, 0, NULL);
		n = json_array_size(array);
		for (i = 0; i < n; i++) {
			const char *key = json_string_value(json_object_get(json_array_get(array, i), "key"));

			assert_int_equal(strtoul(key + 5, NULL, 10), seen++);
			snprintf(after, sizeof(after), "&after=%s", key);
		}
		json_decref(array);
		if (!n)
			break;
		pages++;
	}
	assert_int_equal(seen, 25);
	assert_int_equal(pages, 3);
	expect(ask("GET", "/metadata?prefix=page&limit=0", NULL, NULL), 400, NULL);
}

static uint64_t watch_version(struct answer answer, bool changed)
{
	json_t *reply = json_loads(answer.body, 0, NULL);
	uint64_t version = (uint64_t)json_integer_value(json_object_get(reply, "version"));

	assert_int_equal(answer.status, 200);
	assert_int_equal(json_is_true(json_object_get(reply, "changed")), changed);
	assert_int_not_equal(version, 0);
	json_decref(reply);
	return version;
}

static void *watch_forever(void *arg)
{
	struct answer *answer = arg;

	*answer = ask("GET", answer->body, NULL, NULL);
	return NULL;
}

static void test_a_watch_waits_for_a_change_under_its_prefix(void **state)
{
	uint64_t version = watch_version(ask("GET", "/metadata?watch=w%2F", NULL, NULL), true);
	struct answer answer = {0};
	pthread_t thread;
	char path[128];
	uint64_t begin;

	(void)state;
	snprintf(path, sizeof(path), "/metadata?watch=w%%2F&since=%llu&timeout_ms=200",
		 (unsigned long long)version);
	begin = test_now_ms();
	watch_version(ask("GET", path, NULL, NULL), false);
	assert_true(test_now_ms() - begin >= 199);
	assert_true(test_now_ms() - begin < 1500);

	snprintf(answer.body, sizeof(answer.body), "/metadata?watch=w%%2F&since=%llu",
		 (unsigned long long)version);
	assert_int_equal(pthread_create(&thread, NULL, watch_forever, &answer), 0);
	test_sleep_ms(200);
	expect(ask("PUT", "/metadata?key=elsewhere", "x", NULL), 200, NULL);
	test_sleep_ms(200);
	begin = test_now_ms();
	expect(ask("PUT", "/metadata?key=w%2Fa&ttl_ms=300", "x", NULL), 200, NULL);
	pthread_join(thread, NULL);
	assert_true(test_now_ms() - begin < 1500);
	version = watch_version(answer, true);

	/* expiry is a change too */
	memset(&answer, 0, sizeof(answer));
	snprintf(path, sizeof(path), "/metadata?watch=w%%2F&since=%llu", (unsigned long long)version);
	watch_version(ask("GET", path, NULL, NULL), true);
	assert_true(test_now_ms() - begin >= 299);
	assert_true(test_now_ms() - begin < 1500);

	/* what happened between two watches is not missed */
	version = watch_version(ask("GET", "/metadata?watch=w%2F", NULL, NULL), true);
	expect(ask("PUT", "/metadata?key=w%2Fb", "x", NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=elsewhere", "y", NULL), 200, NULL);
	snprintf(path, sizeof(path), "/metadata?watch=w%%2F&since=%llu&timeout_ms=30000",
		 (unsigned long long)version);
	begin = test_now_ms();
	watch_version(ask("GET", path, NULL, NULL), true);
	assert_true(test_now_ms() - begin < 1500);
}

static void test_closing_the_server_answers_those_who_watch(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *other;
	struct answer answers[20] = {0};
	pthread_t threads[20];
	char keep[64];
	uint64_t version, begin;
	unsigned int i;

	(void)state;
	strcpy(keep, base);
	other = open_server(&attr);
	version = watch_version(ask("GET", "/metadata?watch=", NULL, NULL), true);
	for (i = 0; i < 20; i++) {
		snprintf(answers[i].body, sizeof(answers[i].body), "/metadata?watch=&since=%llu",
			 (unsigned long long)version);
		assert_int_equal(pthread_create(&threads[i], NULL, watch_forever, &answers[i]), 0);
	}
	test_sleep_ms(300);
	begin = test_now_ms();
	mc_metadata_server_close(other);
	for (i = 0; i < 20; i++)
		pthread_join(threads[i], NULL);
	assert_true(test_now_ms() - begin < 3000);
	strcpy(base, keep);
}

/* ---- who may, and how much ---- */

static void write_key(const char *path)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fprintf(file, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n");
	fchmod(fileno(file), 0600);
	fclose(file);
}

static void test_with_a_cluster_key_only_its_token_opens(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *other;
	char keep[64], path[64], token[65], other_role[65], header[128];

	(void)state;
	strcpy(keep, base);
	snprintf(path, sizeof(path), "%s/key", dir);
	write_key(path);
	assert_int_equal(mc_key_bearer(path, "metadata", token), 0);
	assert_int_equal(mc_key_bearer(path, "metrics", other_role), 0);
	attr.key_file = path;
	other = open_server(&attr);
	expect(ask("GET", "/health", NULL, NULL), 200, "OK");
	expect_words(ask("GET", "/metadata?key=k", NULL, NULL), 401, "Bearer", "mooncake key show");
	expect(ask("PUT", "/metadata?key=k", "x", NULL), 401, NULL);
	expect(ask("DELETE", "/metadata?key=k", NULL, NULL), 401, NULL);
	expect(ask("GET", "/metadata?prefix=", NULL, NULL), 401, NULL);
	expect(ask("GET", "/metadata?watch=", NULL, NULL), 401, NULL);
	expect(ask("GET", "/nowhere", NULL, NULL), 401, NULL);
	snprintf(header, sizeof(header), "Bearer %s", other_role);
	expect(ask_with("GET", "/metadata?key=k", NULL, 0, header, NULL), 401, NULL);
	snprintf(header, sizeof(header), "Basic %s", token);
	expect(ask_with("GET", "/metadata?key=k", NULL, 0, header, NULL), 401, NULL);
	snprintf(header, sizeof(header), "Bearer %s0", token);
	expect(ask_with("GET", "/metadata?key=k", NULL, 0, header, NULL), 401, NULL);
	snprintf(header, sizeof(header), "Bearer %.63s", token);
	expect(ask_with("GET", "/metadata?key=k", NULL, 0, header, NULL), 401, NULL);
	snprintf(header, sizeof(header), "Bearer %s", token);
	expect(ask_with("PUT", "/metadata?key=k", "x", 1, header, NULL), 200, NULL);
	expect(ask_with("GET", "/metadata?key=k", NULL, 0, header, NULL), 200, "x");
	mc_metadata_server_close(other);
	strcpy(base, keep);
}

static void refused(const struct mc_metadata_server_attr *attr, int error, const char *one, const char *two)
{
	mc_metadata_server *opened = NULL;
	int ret = mc_metadata_server_open(attr, &opened);

	assert_int_equal(ret, error);
	assert_null(opened);
	if (!strstr(mc_errmsg(), one) || !strstr(mc_errmsg(), two))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", mc_errmsg(), one, two);
}

static void test_beyond_loopback_it_must_be_secured_or_told_not_to_be(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *other;
	char path[64], keep[64];

	(void)state;
	strcpy(keep, base);
	snprintf(path, sizeof(path), "%s/key", dir);
	write_key(path);
	attr.bind = "0.0.0.0";
	refused(&attr, -EPERM, "--key_file", "--insecure");
	attr.bind = "::";
	refused(&attr, -EPERM, "--key_file", "--insecure");
	attr.key_file = path;
	refused(&attr, -EPERM, "--cert_file", "--insecure");
	attr.key_file = NULL;
	attr.bind = "0.0.0.0";
	attr.flags = MC_METADATA_SERVER_INSECURE;
	other = open_server(&attr);
	expect(ask("GET", "/health", NULL, NULL), 200, "OK");
	mc_metadata_server_close(other);
	attr.bind = "127.0.0.1";
	attr.flags = 0;
	other = open_server(&attr);
	mc_metadata_server_close(other);
	strcpy(base, keep);
}

static void test_the_key_file_of_the_environment_is_honoured(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *other;
	char path[64], keep[64];

	(void)state;
	strcpy(keep, base);
	snprintf(path, sizeof(path), "%s/key", dir);
	write_key(path);
	setenv("MOONCAKE_KEY_FILE", path, 1);
	other = open_server(&attr);
	unsetenv("MOONCAKE_KEY_FILE");
	expect(ask("GET", "/metadata?key=k", NULL, NULL), 401, NULL);
	mc_metadata_server_close(other);
	attr.key_file = "/nonexistent/key";
	refused(&attr, -ENOENT, "/nonexistent/key", "");
	strcpy(base, keep);
}

static void test_wrong_attributes_are_refused_with_a_sentence(void **state)
{
	struct mc_metadata_server_attr good = MC_METADATA_SERVER_ATTR_INIT, attr;
	char path[64];
	FILE *file;

	(void)state;
	attr = good;
	attr.size = 0;
	refused(&attr, -EINVAL, "MC_METADATA_SERVER_ATTR_INIT", "");
	attr = good;
	attr.size++;
	refused(&attr, -E2BIG, "newer", "");
	attr = good;
	attr.flags = 2;
	refused(&attr, -EINVAL, "0x2", "");
	attr = good;
	attr.reserved[7] = 1;
	refused(&attr, -EINVAL, "reserved", "");
	attr = good;
	attr.cert_file = "x";
	refused(&attr, -EINVAL, "--cert_file", "--cert_key_file");
	attr.cert_key_file = "x";
	attr.cert_file = "/nonexistent/cert";
	refused(&attr, -ENOENT, "/nonexistent/cert", "");
	snprintf(path, sizeof(path), "%s/no.pem", dir);
	file = fopen(path, "we");
	fputs("this is no certificate\n", file);
	fclose(file);
	attr.cert_file = attr.cert_key_file = path;
	refused(&attr, -EINVAL, path, "certificate");
	attr = good;
	attr.port = mc_metadata_server_port(server);
	refused(&attr, -EADDRINUSE, "port", "");
	attr = good;
	attr.log_file = "/nonexistent/dir/log";
	refused(&attr, -ENOENT, "/nonexistent/dir/log", "");
	attr.log_file = "/dev/null";
	refused(&attr, -EINVAL, "/dev/null", "regular");
	assert_int_equal(mc_metadata_server_close(NULL), 0);
}

static void test_beyond_max_bytes_put_is_refused_and_nothing_changes(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *other;
	char keep[64], value[3001];

	(void)state;
	strcpy(keep, base);
	memset(value, 'v', sizeof(value));
	value[3000] = 0;
	attr.max_bytes = 8000;
	other = open_server(&attr);
	expect(ask("PUT", "/metadata?key=a", value, NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=b", value, NULL), 200, NULL);
	expect_words(ask("PUT", "/metadata?key=c", value, NULL), 507, "8000", "--max_bytes");
	expect(ask("GET", "/metadata?key=c", NULL, NULL), 404, NULL);
	expect(ask("PUT", "/metadata?key=b", value, NULL), 200, NULL); /* no larger than before */
	expect(ask("PUT", "/metadata?key=b", "small", NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=c", value, NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=b", value, NULL), 507, NULL);
	expect(ask("GET", "/metadata?key=b", NULL, NULL), 200, "small");
	expect(ask("DELETE", "/metadata?key=a", NULL, NULL), 200, NULL);
	expect(ask("PUT", "/metadata?key=b", value, NULL), 200, NULL);
	mc_metadata_server_close(other);
	strcpy(base, keep);
}

static unsigned int open_files(void)
{
	DIR *fds = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(fds))
		n++;
	closedir(fds);
	return n;
}

static void test_a_closed_server_leaves_no_descriptor_behind(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	char keep[64], path[64];
	unsigned int before, i;

	(void)state;
	strcpy(keep, base);
	snprintf(path, sizeof(path), "%s/fd.log", dir);
	attr.log_file = path;
	before = open_files();
	for (i = 0; i < 5; i++) {
		mc_metadata_server *other = open_server(&attr);

		mc_metadata_server_close(other);
	}
	assert_int_equal(open_files(), before);
	strcpy(base, keep);
}

static void *pour(void *arg)
{
	char path[64];
	unsigned int i;

	for (i = 0; i < 60; i++) {
		snprintf(path, sizeof(path), "/metadata?key=pour%%2F%u&ttl_ms=%u", i % 7, 1 + i % 5);
		if (ask(i % 3 ? "PUT" : "DELETE", path, i % 3 ? "x" : NULL, NULL).status < 0)
			return arg;
		if (ask("GET", "/metadata?prefix=pour", NULL, NULL).status != 200)
			return arg;
	}
	return NULL;
}

static void test_it_can_be_closed_while_many_ask(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *other;
	pthread_t threads[8];
	char keep[64];
	unsigned int i;

	(void)state;
	strcpy(keep, base);
	other = open_server(&attr);
	for (i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, pour, NULL), 0);
	test_sleep_ms(150);
	mc_metadata_server_close(other);
	for (i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	strcpy(base, keep);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers_are_those_of_classic_servers),
		cmocka_unit_test(test_other_methods_and_paths_are_refused),
		cmocka_unit_test(test_a_key_is_the_same_however_it_was_escaped),
		cmocka_unit_test(test_an_rpc_meta_key_may_be_registered_again),
		cmocka_unit_test(test_values_are_bytes_up_to_1_mib),
		cmocka_unit_test(test_keys_have_at_most_4096_bytes),
		cmocka_unit_test(test_a_change_may_ask_for_a_version),
		cmocka_unit_test(test_compare_and_swap_loses_no_step_of_many_threads),
		cmocka_unit_test(test_a_key_lives_as_long_as_it_was_given),
		cmocka_unit_test(test_renewal_prolongs_life_and_keeps_the_version),
		cmocka_unit_test(test_a_put_without_a_time_to_live_makes_a_key_last),
		cmocka_unit_test(test_a_listing_is_in_order_and_has_versions),
		cmocka_unit_test(test_pages_of_a_listing_join_without_gap),
		cmocka_unit_test(test_a_watch_waits_for_a_change_under_its_prefix),
		cmocka_unit_test(test_closing_the_server_answers_those_who_watch),
		cmocka_unit_test(test_with_a_cluster_key_only_its_token_opens),
		cmocka_unit_test(test_beyond_loopback_it_must_be_secured_or_told_not_to_be),
		cmocka_unit_test(test_the_key_file_of_the_environment_is_honoured),
		cmocka_unit_test(test_wrong_attributes_are_refused_with_a_sentence),
		cmocka_unit_test(test_beyond_max_bytes_put_is_refused_and_nothing_changes),
		cmocka_unit_test(test_a_closed_server_leaves_no_descriptor_behind),
		cmocka_unit_test(test_it_can_be_closed_while_many_ask),
	};
	int failed;

	unsetenv("MOONCAKE_KEY_FILE");
	if (!mkdtemp(dir) || mci_curl_open(&(struct mci_curl_options){0}, &curl))
		return 1;
	failed = cmocka_run_group_tests(tests, start, stop);
	mci_curl_close(curl);
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
