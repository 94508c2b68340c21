// SPDX-License-Identifier: MIT
/*
 * The HTTP backend against our metadata server, and against one that behaves like the strictest classic
 * ones: no versions, no time to live, no listing, keys kept undecoded, an rpc_meta key never overwritten.
 * The servers are this program, started anew ("--serve", "--classic").
 */
#include "config.h"
#include "metadata_body.h"

#include <mooncake/admin.h>

#if USE_HTTP
#include <microhttpd.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

static char dir[] = "/tmp/mooncake-http-XXXXXX";
static char log_file[64], uri[128];
static uint16_t port;
static pid_t server;

/* ---- a classic server ---- */

struct classic_key {
	struct classic_key *next;
	char *key, *value;
	size_t length;
};

static struct classic_key *classic_keys;

struct classic_body {
	char *bytes;
	size_t length;
};

/* Keys stay as they came: who escapes differently from curl_easy_escape() does not find them. */
static size_t keep_escaped(void *arg, struct MHD_Connection *connection, char *text)
{
	(void)arg;
	(void)connection;
	return strlen(text);
}

static enum MHD_Result classic_reply(struct MHD_Connection *connection, unsigned int status, const void *body,
				     size_t length)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(length, (void *)body, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result ret = MHD_queue_response(connection, status, response);

	MHD_destroy_response(response);
	return ret;
}

static enum MHD_Result classic_text(struct MHD_Connection *connection, unsigned int status, const char *text)
{
	return classic_reply(connection, status, text, strlen(text));
}

static enum MHD_Result classic_put(struct MHD_Connection *connection, struct classic_key **at,
				   const char *key, struct classic_body *body)
{
	struct classic_key *entry = *at;

	if (entry && strstr(key, "rpc_meta")) {
		if (entry->length == body->length && !memcmp(entry->value, body->bytes, body->length))
			return classic_text(connection, 200, "metadata unchanged");
		return classic_text(connection, 400, "Duplicate rpc_meta key not allowed");
	}
	if (!entry) {
		entry = calloc(1, sizeof(*entry));
		entry->key = strdup(key);
		*at = entry;
	}
	free(entry->value);
	entry->value = body->bytes;
	entry->length = body->length;
	body->bytes = NULL;
	return classic_text(connection, 200, "metadata updated");
}

static enum MHD_Result classic_request(void *arg, struct MHD_Connection *connection, const char *url,
				       const char *method, const char *version, const char *data,
				       size_t *length, void **state)
{
	const char *key = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "key");
	struct classic_body *body = *state;
	struct classic_key **at = &classic_keys, *entry;

	(void)arg;
	(void)version;
	if (!body) {
		*state = calloc(1, sizeof(*body));
		return MHD_YES;
	}
	if (*length) {
		body->bytes = realloc(body->bytes, body->length + *length);
		memcpy(body->bytes + body->length, data, *length);
		body->length += *length;
		*length = 0;
		return MHD_YES;
	}
	if (strcmp(url, "/metadata"))
		return classic_text(connection, 404, "");
	if (!key)
		return classic_text(connection, 400, "Missing key parameter");
	while (*at && strcmp((*at)->key, key))
		at = &(*at)->next;
	entry = *at;
	if (!strcmp(method, "PUT"))
		return classic_put(connection, at, key, body);
	if (strcmp(method, "GET") && strcmp(method, "DELETE"))
		return classic_text(connection, 405, "");
	if (!entry)
		return classic_text(connection, 404, "metadata not found");
	if (!strcmp(method, "GET"))
		return classic_reply(connection, 200, entry->value, entry->length);
	*at = entry->next;
	free(entry->key);
	free(entry->value);
	free(entry);
	return classic_text(connection, 200, "metadata deleted");
}

static void classic_done(void *arg, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode why)
{
	struct classic_body *body = *state;

	(void)arg;
	(void)connection;
	(void)why;
	if (body)
		free(body->bytes);
	free(body);
	*state = NULL;
}

/* One thread: the keys need no lock. */
static int serve_classic(uint16_t at)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(at)};

	if (!MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, at, NULL, NULL, classic_request, NULL,
			      MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, classic_done, NULL,
			      MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, NULL, MHD_OPTION_END))
		return 1;
	for (;;)
		pause();
}

static int serve_ours(uint16_t at, const char *key_file, const char *cert_file, const char *cert_key_file)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *opened;

	attr.port = at;
	attr.key_file = *key_file ? key_file : NULL;
	attr.cert_file = *cert_file ? cert_file : NULL;
	attr.cert_key_file = *cert_key_file ? cert_key_file : NULL;
	if (mc_metadata_server_open(&attr, &opened)) {
		fprintf(stderr, "%s\n", mc_errmsg());
		return 1;
	}
	for (;;)
		pause();
}

static const char *what = "--serve", *key_file = "", *cert_file = "", *cert_key_file = "";

static void start_server(void)
{
	char port_text[8];
	char *argv[] = {"/proc/self/exe",  (char *)what,	  port_text, (char *)key_file,
			(char *)cert_file, (char *)cert_key_file, NULL};

	snprintf(port_text, sizeof(port_text), "%u", port);
	server = test_spawn(argv, log_file);
	assert_true(server > 0);
	assert_true(test_until(20000, test_can_connect(port)));
}

static void stop_server(void) { test_kill(&server); }

static int start(const char *kind)
{
	what = kind;
	port = test_free_port();
	start_server();
	snprintf(uri, sizeof(uri), "http://127.0.0.1:%u/metadata", port);
	metadata_body = (struct metadata_body){
		.uri = uri,
		.options = {.lease_ms = 900, .timeout_ms = 3000},
		.stop_server = stop_server,
		.start_server = start_server,
	};
	return 0;
}

static int start_ours(void **state)
{
	(void)state;
	return start("--serve");
}

static int start_classic(void **state)
{
	(void)state;
	start("--classic");
	metadata_body.cannot_compare = true;
	metadata_body.cannot_list = true;
	metadata_body.cannot_expire = true;
	return 0;
}

static int end(void **state)
{
	(void)state;
	stop_server();
	return 0;
}

/* ---- ours ---- */

static int open_uri(const char *text, const struct mci_metadata_options *options)
{
	struct mci_metadata *metadata;
	int ret = mci_metadata_open(text, options, &metadata);

	if (!ret)
		mci_metadata_close(metadata);
	return ret;
}

static void sentence_has(const char *one, const char *two)
{
	if (!strstr(mc_errmsg(), one) || !strstr(mc_errmsg(), two))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", mc_errmsg(), one, two);
}

static void test_a_long_listing_comes_page_by_page(void **state)
{
	struct mci_metadata *metadata = body_open();
	struct body_list list = {0};
	char *text = calloc(1, 900001), key[64];
	unsigned int i;

	(void)state;
	memset(text, '"', 900000); /* doubled by JSON: 14 pages of 4 MiB at most */
	for (i = 0; i < 20; i++) {
		snprintf(key, sizeof(key), BODY_KEY("page/%u"), i);
		body_ok(mci_metadata_store(metadata, key, text));
	}
	body_ok(mci_metadata_list(metadata, BODY_KEY("page/"), body_note_key, &list));
	assert_int_equal(list.count, 20);
	for (i = 0; i < 20; i++) {
		snprintf(key, sizeof(key), BODY_KEY("page/%u"), i);
		body_ok(mci_metadata_remove(metadata, key));
	}
	free(text);
	mci_metadata_close(metadata);
}

static void test_a_wrong_path_is_told_when_opening(void **state)
{
	char text[128];

	(void)state;
	snprintf(text, sizeof(text), "http://127.0.0.1:%u/", port);
	assert_int_equal(open_uri(text, NULL), -EINVAL);
	sentence_has(text, "/metadata");
}

static void test_no_server_fails_at_once_with_its_address(void **state)
{
	struct mci_metadata_options options = {.timeout_ms = 2000};
	uint64_t begin = test_now_ms();
	char text[128];

	(void)state;
	snprintf(text, sizeof(text), "http://127.0.0.1:%u/metadata", test_free_port());
	assert_int_equal(open_uri(text, &options), -ECONNREFUSED);
	sentence_has("127.0.0.1", "metadata server");
	assert_true(test_now_ms() - begin < 1500);
}

static void test_a_silent_server_is_given_up_at_the_deadline(void **state)
{
	struct mci_metadata_options options = {.timeout_ms = 400};
	uint64_t begin = test_now_ms();
	uint16_t silent;
	char text[128];
	int fd = test_silent_listener(&silent);

	(void)state;
	snprintf(text, sizeof(text), "http://127.0.0.1:%u/metadata", silent);
	assert_int_equal(open_uri(text, &options), -ETIMEDOUT);
	assert_true(test_now_ms() - begin >= 380);
	assert_true(test_now_ms() - begin < 2000);
	close(fd);
}

static void test_a_proxy_of_the_environment_is_bypassed(void **state)
{
	char proxy[64];

	(void)state;
	snprintf(proxy, sizeof(proxy), "http://127.0.0.1:%u", test_free_port());
	setenv("http_proxy", proxy, 1);
	setenv("all_proxy", proxy, 1);
	assert_int_equal(open_uri(uri, &metadata_body.options), 0);
	unsetenv("http_proxy");
	unsetenv("all_proxy");
}

static void test_a_value_too_large_is_refused_with_a_sentence(void **state)
{
	struct mci_metadata *metadata = body_open();
	char *text = calloc(1, (1 << 20) + 2);

	(void)state;
	memset(text, 'x', (1 << 20) + 1);
	assert_int_equal(mci_metadata_store(metadata, BODY_KEY("large"), text), -EMSGSIZE);
	sentence_has("1 MiB", uri);
	free(text);
	mci_metadata_close(metadata);
}

static void write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fputs(text, file);
	fchmod(fileno(file), 0600);
	fclose(file);
}

static void test_a_cluster_key_is_needed_on_both_sides(void **state)
{
	struct mci_metadata_options options = metadata_body.options;
	char path[64], token[65];

	(void)state;
	snprintf(path, sizeof(path), "%s/key", dir);
	write_text(path, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n");
	assert_int_equal(mc_key_bearer(path, "metadata", token), 0);
	stop_server();
	key_file = path;
	start_server();
	assert_int_equal(open_uri(uri, &options), -EACCES);
	sentence_has("--key_file", uri);
	options.bearer = "0123";
	assert_int_equal(open_uri(uri, &options), -EACCES);
	sentence_has("same cluster key", uri);
	options.bearer = token;
	body_ok(open_uri(uri, &options));
	stop_server();
	key_file = "";
	start_server();
}

/* A key and a certificate for 127.0.0.1, signed by itself. */
static void make_certificate(const char *cert, const char *cert_key)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x509 = X509_new();
	X509_EXTENSION *name = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
	FILE *file;

	X509_set_version(x509, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
	X509_gmtime_adj(X509_getm_notBefore(x509), -60);
	X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
	X509_set_pubkey(x509, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
				   (const unsigned char *)"test", -1, -1, 0);
	X509_set_issuer_name(x509, X509_get_subject_name(x509));
	X509_add_ext(x509, name, -1);
	assert_true(X509_sign(x509, key, EVP_sha256()) > 0);
	file = fopen(cert, "we");
	assert_true(PEM_write_X509(file, x509));
	fclose(file);
	file = fopen(cert_key, "we");
	assert_true(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
	fclose(file);
	X509_EXTENSION_free(name);
	X509_free(x509);
	EVP_PKEY_free(key);
}

static void test_tls_is_spoken_and_the_certificate_checked(void **state)
{
	struct mci_metadata_options options = metadata_body.options;
	char cert[64], cert_key[64], other[64], other_key[64], text[128];
	struct mci_metadata *metadata;

	(void)state;
	snprintf(cert, sizeof(cert), "%s/cert", dir);
	snprintf(cert_key, sizeof(cert_key), "%s/cert_key", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	snprintf(other_key, sizeof(other_key), "%s/other_key", dir);
	make_certificate(cert, cert_key);
	make_certificate(other, other_key);
	stop_server();
	cert_file = cert;
	cert_key_file = cert_key;
	start_server();
	snprintf(text, sizeof(text), "https://127.0.0.1:%u/metadata", port);
	options.ca_file = cert;
	assert_int_equal(mci_metadata_open(text, &options, &metadata), 0);
	body_ok(mci_metadata_publish(metadata, BODY_KEY("tls"), "{}", 0, false));
	assert_true(body_holds(metadata, BODY_KEY("tls"), "{}"));
	mci_metadata_close(metadata);
	options.ca_file = other;
	assert_int_equal(open_uri(text, &options), -EACCES);
	assert_int_not_equal(open_uri(uri, &metadata_body.options), 0); /* plain HTTP on the TLS port */
	stop_server();
	cert_file = cert_key_file = "";
	start_server();
}

static void test_a_certificate_without_its_key_is_refused(void **state)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *opened;
	char cert[64], cert_key[64];

	(void)state;
	snprintf(cert, sizeof(cert), "%s/cert", dir);
	snprintf(cert_key, sizeof(cert_key), "%s/other_key", dir);
	attr.cert_file = cert;
	attr.cert_key_file = cert_key;
	assert_int_equal(mc_metadata_server_open(&attr, &opened), -EINVAL);
	sentence_has(cert_key, "key");
}

/* ---- classic ---- */

static void test_an_rpc_meta_key_left_by_the_dead_is_replaced(void **state)
{
	static const char key[] = "mooncake/rpc_meta/10.0.0.1:12345";
	struct mci_metadata *metadata = body_open();

	(void)state;
	body_ok(mci_metadata_store(metadata, key, "{\"rpc_port\":1}"));
	body_ok(mci_metadata_store(metadata, key, "{\"rpc_port\":2}"));
	assert_true(body_holds(metadata, key, "{\"rpc_port\":2}"));
	body_ok(mci_metadata_publish(metadata, key, "{\"rpc_port\":3}", 0, true));
	assert_true(body_holds(metadata, key, "{\"rpc_port\":3}"));
	body_ok(mci_metadata_withdraw(metadata, key));
	assert_true(body_holds(metadata, key, NULL));
	mci_metadata_close(metadata);
}

static int never(const char *key, const struct mci_metadata_value *value, void *arg)
{
	(void)key;
	(void)value;
	(void)arg;
	return 1;
}

static void test_a_classic_server_cannot_list(void **state)
{
	struct mci_metadata *metadata = body_open();

	(void)state;
	assert_int_equal(mci_metadata_list(metadata, "mooncake/", never, NULL), -EOPNOTSUPP);
	sentence_has("classic", uri);
	mci_metadata_close(metadata);
}

static void test_takeover_on_a_classic_server_looks_before_it_puts(void **state)
{
	static const char key[] = BODY_KEY("look");
	struct mci_metadata *metadata = body_open();
	uint64_t stale, seen;

	(void)state;
	body_ok(mci_metadata_store(metadata, key, "left by the dead"));
	stale = body_version(metadata, key);
	body_ok(mci_metadata_store(metadata, key, "left by another"));
	seen = body_version(metadata, key);
	assert_int_not_equal(stale, seen);
	assert_int_equal(mci_metadata_publish(metadata, key, "one", 0, false), -EEXIST);
	assert_int_equal(mci_metadata_publish(metadata, key, "one", stale, false), -EEXIST);
	assert_true(body_holds(metadata, key, "left by another"));
	body_ok(mci_metadata_publish(metadata, key, "one", seen, false));
	assert_true(body_holds(metadata, key, "one"));
	mci_metadata_close(metadata);
}

static void test_a_classic_server_that_turns_into_ours_is_noticed(void **state)
{
	struct mci_metadata *metadata = body_open();
	struct body_list list = {0};

	(void)state;
	body_ok(mci_metadata_publish(metadata, BODY_KEY("list/5"), "5", 0, false));
	stop_server();
	what = "--serve";
	start_server();
	assert_true(test_until(BODY_WAIT_MS, body_holds(metadata, BODY_KEY("list/5"), "5")));
	body_ok(mci_metadata_list(metadata, BODY_KEY("list/"), body_note_key, &list));
	assert_int_equal(list.seen[5], 1);
	stop_server();
	what = "--classic";
	start_server();
	assert_true(test_until(BODY_WAIT_MS, body_holds(metadata, BODY_KEY("list/5"), "5")));
	assert_int_equal(mci_metadata_list(metadata, BODY_KEY(""), never, NULL), -EOPNOTSUPP);
	mci_metadata_close(metadata);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest ours[] = {
		METADATA_BODY_TESTS,
		cmocka_unit_test(test_a_long_listing_comes_page_by_page),
		cmocka_unit_test(test_a_wrong_path_is_told_when_opening),
		cmocka_unit_test(test_no_server_fails_at_once_with_its_address),
		cmocka_unit_test(test_a_silent_server_is_given_up_at_the_deadline),
		cmocka_unit_test(test_a_proxy_of_the_environment_is_bypassed),
		cmocka_unit_test(test_a_value_too_large_is_refused_with_a_sentence),
		cmocka_unit_test(test_a_cluster_key_is_needed_on_both_sides),
		cmocka_unit_test(test_tls_is_spoken_and_the_certificate_checked),
		cmocka_unit_test(test_a_certificate_without_its_key_is_refused),
		cmocka_unit_test(test_an_rpc_meta_key_left_by_the_dead_is_replaced),
	};
	/* Of the body, what a server without versions, expiry and listing can do. */
	const struct CMUnitTest classic[] = {
		cmocka_unit_test(test_what_is_stored_can_be_fetched_until_it_is_removed),
		cmocka_unit_test(test_long_and_odd_texts_come_back_unchanged),
		cmocka_unit_test(test_keys_may_have_any_printable_character),
		cmocka_unit_test(test_a_published_key_is_refused_to_others),
		cmocka_unit_test(test_the_publisher_may_publish_anew),
		cmocka_unit_test(test_withdrawing_spares_what_others_put_there),
		cmocka_unit_test(test_closing_withdraws_what_is_published),
		cmocka_unit_test(test_a_published_key_outlives_its_lease),
		cmocka_unit_test(test_a_vanished_key_is_published_again),
		cmocka_unit_test(test_losing_a_key_is_told_once_and_ends_its_renewal),
		cmocka_unit_test(test_threads_may_share_one_object),
		cmocka_unit_test(test_what_is_published_is_there_again_after_the_server_was_away),
		cmocka_unit_test(test_closing_does_not_wait_long_for_a_server_that_is_away),
		cmocka_unit_test(test_an_rpc_meta_key_left_by_the_dead_is_replaced),
		cmocka_unit_test(test_a_classic_server_cannot_list),
		cmocka_unit_test(test_takeover_on_a_classic_server_looks_before_it_puts),
		cmocka_unit_test(test_a_classic_server_that_turns_into_ours_is_noticed),
	};
	int failed;

	unsetenv("MOONCAKE_KEY_FILE");
	if (argc == 6 && !strcmp(argv[1], "--classic"))
		return serve_classic((uint16_t)strtoul(argv[2], NULL, 10));
	if (argc == 6)
		return serve_ours((uint16_t)strtoul(argv[2], NULL, 10), argv[3], argv[4], argv[5]);
	if (!mkdtemp(dir))
		return 1;
	snprintf(log_file, sizeof(log_file), "%s/log", dir);
	failed = cmocka_run_group_tests_name("our server", ours, start_ours, end);
	failed += cmocka_run_group_tests_name("classic server", classic, start_classic, end);
	test_remove_tree(dir);
	return failed;
}
#else
int main(void)
{
	puts("this build has no HTTP metadata (USE_HTTP=0)");
	return 77;
}
#endif
