// SPDX-License-Identifier: MIT
/* The etcd backend where access is guarded (password, TLS) and where there are several members. */
#include "config.h"
#include "metadata_body.h"

#include "metadata_etcd.h"

#if USE_ETCD
#include "metadata/etcd.h"

static char dir[] = "/tmp/mooncake-guard-XXXXXX";
static char log_file[64];

static int start(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(log_file, sizeof(log_file), "%s/commands.log", dir);
	return 0;
}

static int end(void **state)
{
	(void)state;
	test_remove_tree(dir);
	return 0;
}

static int open_uri(const char *text, const struct mci_metadata_options *options)
{
	struct mci_metadata *metadata;
	int ret = mci_metadata_open(text, options, &metadata);

	if (!ret)
		mci_metadata_close(metadata);
	return ret;
}

static void start_etcd(struct test_etcd *etcd)
{
	assert_true(test_etcd_start(etcd));
	assert_true(test_etcd_ready(etcd));
}

static void admin(struct mci_etcd_gateway *gateway, const char *path, const char *request)
{
	size_t length;
	char *reply;

	body_ok(mci_etcd_call(gateway, path, strdup(request), &reply, &length));
	free(reply);
}

/* root may do all; "mc" may read and write below mooncake/, "reader" may read there. */
static void enable_passwords(const char *uri)
{
	struct mci_metadata_options options = { .timeout_ms = 3000 };
	struct mci_etcd_gateway *gateway;

	assert_true(test_until(20000, !open_uri(uri, NULL)));
	body_ok(mci_etcd_gateway_open(uri, &options, &gateway));
	admin(gateway, "auth/user/add", "{\"name\":\"root\",\"password\":\"r00t\"}");
	admin(gateway, "auth/role/add", "{\"name\":\"root\"}");
	admin(gateway, "auth/user/grant", "{\"user\":\"root\",\"role\":\"root\"}");
	admin(gateway, "auth/user/add", "{\"name\":\"mc\",\"password\":\"s3cret\"}");
	admin(gateway, "auth/role/add", "{\"name\":\"mooncake\"}");
	/* "mooncake/" to "mooncake0" */
	admin(gateway, "auth/role/grant",
	      "{\"name\":\"mooncake\",\"perm\":{\"permType\":\"READWRITE\",\"key\":\"bW9vbmNha2Uv\",\"range_"
	      "end\":\"bW9vbmNha2Uw\"}}");
	admin(gateway, "auth/user/grant", "{\"user\":\"mc\",\"role\":\"mooncake\"}");
	admin(gateway, "auth/user/add", "{\"name\":\"reader\",\"password\":\"readme\"}");
	admin(gateway, "auth/role/add", "{\"name\":\"reads\"}");
	admin(gateway, "auth/role/grant",
	      "{\"name\":\"reads\",\"perm\":{\"permType\":\"READ\",\"key\":\"bW9vbmNha2Uv\",\"range_end\":"
	      "\"bW9vbmNha2Uw\"}}");
	admin(gateway, "auth/user/grant", "{\"user\":\"reader\",\"role\":\"reads\"}");
	admin(gateway, "auth/enable", "{}");
	mci_etcd_gateway_close(gateway);
}

static void test_passwords_roles_and_lost_tokens(void **state)
{
	struct mci_metadata_options mc = { .user = "mc", .password = "s3cret", .lease_ms = 3000 };
	struct mci_metadata_options wrong = { .user = "mc", .password = "wr0ng-pass" };
	struct mci_metadata_options reader = { .user = "reader", .password = "readme" };
	struct mci_metadata *metadata, *read_only;
	unsigned int changes = 0, before;
	struct test_etcd etcd;
	char uri[64];

	(void)state;
	test_etcd_init(&etcd, dir, "auth");
	etcd.extra[0] = "--auth-token-ttl";
	etcd.extra[1] = "2";
	snprintf(uri, sizeof(uri), "etcd://127.0.0.1:%u", etcd.port);
	start_etcd(&etcd);
	enable_passwords(uri);

	assert_int_equal(open_uri(uri, NULL), -EACCES);
	assert_non_null(strstr(mc_errmsg(), "wants a user and a password"));
	assert_int_equal(open_uri(uri, &wrong), -EACCES);
	assert_null(strstr(mc_errmsg(), "wr0ng-pass"));
	body_ok(mci_metadata_open(uri, &mc, &metadata));
	body_ok(mci_metadata_open(uri, &reader, &read_only));
	body_ok(mci_metadata_publish(metadata, BODY_KEY("auth"), "x", 0, false));
	assert_true(body_holds(read_only, BODY_KEY("auth"), "x"));
	assert_int_equal(mci_metadata_store(read_only, BODY_KEY("auth"), "y"), -EACCES);
	assert_non_null(strstr(mc_errmsg(), "permission denied"));
	assert_int_equal(mci_metadata_store(metadata, "elsewhere", "y"), -EACCES);

	body_ok(mci_metadata_watch(read_only, BODY_KEY("auth/"), body_count_change, &changes));
	before = body_settled(&changes);
	body_ok(mci_metadata_store(metadata, BODY_KEY("auth/1"), "1"));
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));

	/* Idle for longer than a token lives: it is fetched anew without anybody noticing. */
	test_sleep_ms(3500);
	assert_true(body_holds(read_only, BODY_KEY("auth"), "x"));
	body_ok(mci_metadata_remove(metadata, BODY_KEY("auth/1")));
	/* A restarted server knows no token at all. */
	test_kill(&etcd.pid);
	start_etcd(&etcd);
	assert_true(test_until(BODY_WAIT_MS, body_holds(read_only, BODY_KEY("auth"), "x")));
	before = body_settled(&changes);
	assert_true(test_until(BODY_WAIT_MS, !mci_metadata_store(metadata, BODY_KEY("auth/2"), "2")));
	assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));
	mci_metadata_close(metadata);
	assert_true(body_holds(read_only, BODY_KEY("auth"), NULL));
	mci_metadata_close(read_only);
	test_kill(&etcd.pid);
}

static void openssl(const char *arguments)
{
	char command[1024];
	char *argv[] = { "sh", "-c", command, NULL };

	snprintf(command, sizeof(command), "cd %s && openssl %s", dir, arguments);
	assert_int_equal(test_command(log_file, argv), 0);
}

/* ca.pem signs server.pem (127.0.0.1) and client.pem; other.pem signed nothing. */
static void make_certificates(void)
{
	openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem");
	openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other-ca -keyout other.key -out "
		"other.pem");
	openssl("req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr");
	openssl("req -newkey rsa:2048 -nodes -subj /CN=client -keyout client.key -out client.csr");
	openssl("version >/dev/null && echo subjectAltName=IP:127.0.0.1 > san.cnf");
	openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san.cnf "
		"-out server.pem");
	openssl("x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out client.pem");
}

static void test_tls_with_certificates_on_both_sides(void **state)
{
	char ca[64], other[64], server[64], server_key[64], client[64], client_key[64], missing[64];
	struct mci_metadata_options options = { .ca_file = ca, .cert_file = client, .key_file = client_key };
	struct mci_metadata *metadata;
	struct test_etcd etcd;
	char uri[64];

	(void)state;
	if (!test_has_program("openssl"))
		skip();
	make_certificates();
	snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
	snprintf(other, sizeof(other), "%s/other.pem", dir);
	snprintf(server, sizeof(server), "%s/server.pem", dir);
	snprintf(server_key, sizeof(server_key), "%s/server.key", dir);
	snprintf(client, sizeof(client), "%s/client.pem", dir);
	snprintf(client_key, sizeof(client_key), "%s/client.key", dir);
	snprintf(missing, sizeof(missing), "%s/missing.pem", dir);
	test_etcd_init(&etcd, dir, "tls");
	etcd.scheme = "https";
	etcd.extra[0] = "--cert-file";
	etcd.extra[1] = server;
	etcd.extra[2] = "--key-file";
	etcd.extra[3] = server_key;
	etcd.extra[4] = "--trusted-ca-file";
	etcd.extra[5] = ca;
	etcd.extra[6] = "--client-cert-auth";
	start_etcd(&etcd);

	snprintf(uri, sizeof(uri), "etcds://127.0.0.1:%u", etcd.port);
	assert_true(test_until(20000, !open_uri(uri, &options)));
	snprintf(uri, sizeof(uri), "https://127.0.0.1:%u", etcd.port);
	snprintf(uri, sizeof(uri), "etcd://https://127.0.0.1:%u", etcd.port);
	body_ok(mci_metadata_open(uri, &options, &metadata));
	body_ok(mci_metadata_publish(metadata, BODY_KEY("tls"), "x", 0, false));
	assert_true(body_holds(metadata, BODY_KEY("tls"), "x"));
	mci_metadata_close(metadata);

	options.ca_file = other;
	assert_int_equal(open_uri(uri, &options), -EACCES);
	assert_non_null(strstr(mc_errmsg(), "CA"));
	options.ca_file = missing;
	assert_int_equal(open_uri(uri, &options), -EINVAL);
	assert_non_null(strstr(mc_errmsg(), missing));
	options.ca_file = ca;
	options.cert_file = options.key_file = NULL;
	assert_true(open_uri(uri, &options) < 0); /* without a certificate; TLS 1.3 tells of it late */
	snprintf(uri, sizeof(uri), "etcd://127.0.0.1:%u", etcd.port);
	assert_int_equal(open_uri(uri, &options), -EIO);
	assert_non_null(strstr(mc_errmsg(), "etcds://"));
	test_kill(&etcd.pid);
}

static void test_a_cluster_of_three_survives_the_death_of_each_but_one(void **state)
{
	struct mci_metadata_options options = { .lease_ms = 3000 };
	struct body_lost lost = { .lock = PTHREAD_MUTEX_INITIALIZER };
	static const char *const names[] = { "a", "b", "c" };
	struct mci_metadata *one, *two;
	unsigned int changes = 0, before;
	struct test_etcd etcd[3];
	char uri[128], key[64];
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++)
		test_etcd_init(&etcd[i], dir, names[i]);
	snprintf(etcd[0].cluster, sizeof(etcd[0].cluster),
		 "a=http://127.0.0.1:%u,b=http://127.0.0.1:%u,c=http://127.0.0.1:%u", etcd[0].peer_port,
		 etcd[1].peer_port, etcd[2].peer_port);
	for (i = 0; i < 3; i++) {
		memcpy(etcd[i].cluster, etcd[0].cluster, sizeof(etcd[0].cluster));
		assert_true(test_etcd_start(&etcd[i]));
	}
	snprintf(uri, sizeof(uri), "etcd://127.0.0.1:%u,127.0.0.1:%u,127.0.0.1:%u", etcd[0].port,
		 etcd[1].port, etcd[2].port);
	assert_true(test_until(20000, !open_uri(uri, NULL)));
	body_ok(mci_metadata_open(uri, &options, &one));
	body_ok(mci_metadata_open(uri, &options, &two));
	mci_metadata_on_lost(one, body_note_lost, &lost);
	body_ok(mci_metadata_publish(one, BODY_KEY("cluster"), "x", 0, false));
	body_ok(mci_metadata_watch(two, BODY_KEY("cluster/"), body_count_change, &changes));
	for (i = 0; i < 3; i++) {
		before = body_settled(&changes);
		test_kill(&etcd[i].pid);
		snprintf(key, sizeof(key), BODY_KEY("cluster/%u"), i);
		assert_true(test_until(BODY_WAIT_MS, !mci_metadata_store(one, key, "1")));
		assert_true(test_until(BODY_WAIT_MS, body_changes(&changes) > before));
		assert_true(body_holds(two, BODY_KEY("cluster"), "x"));
		assert_true(test_etcd_start(&etcd[i]));
		assert_true(test_etcd_ready(&etcd[i]));
	}
	assert_int_equal(body_lost_count(&lost), 0);
	mci_metadata_close(one);
	assert_true(body_holds(two, BODY_KEY("cluster"), NULL));
	mci_metadata_close(two);
	for (i = 0; i < 3; i++)
		test_kill(&etcd[i].pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_passwords_roles_and_lost_tokens),
		cmocka_unit_test(test_tls_with_certificates_on_both_sides),
		cmocka_unit_test(test_a_cluster_of_three_survives_the_death_of_each_but_one),
	};

	if (!test_has_program("etcd")) {
		puts("skipped: etcd is not installed");
		return 77;
	}
	return cmocka_run_group_tests(tests, start, end);
}
#else
int main(void)
{
	puts("skipped: built with USE_ETCD=0");
	return 77;
}
#endif
