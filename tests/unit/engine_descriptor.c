// SPDX-License-Identifier: MIT
/* Segment descriptors: classic examples byte for byte, our own members, signatures, and bad input. */
#include "engine/descriptor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/errors.h"
#include "core/uuid.h"

static const char tcp_example[] =
	"{\"buffers\":[{\"addr\":139637976727552,\"length\":1073741824,\"name\":\"10.0.0.1:12345\"}],"
	"\"name\":\"10.0.0.1:12345\",\"protocol\":\"tcp\",\"tcp_data_port\":16021,\"tcp_proto_version\":2,"
	"\"timestamp\":\"2026-08-22 12:34:56.123456\"}";

static const char rdma_example[] =
	"{\"name\":\"10.0.0.1:12345\",\"protocol\":\"rdma\",\"tcp_data_port\":0,\"tcp_proto_version\":1,"
	"\"timestamp\":\"2026-08-22 12:34:56.123456\","
	"\"devices\":[{\"gid\":\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01\",\"lid\":0,\"name\":\"mlx5_"
	"0\"}],"
	"\"buffers\":[{\"addr\":139637976727552,\"length\":1073741824,\"lkey\":[8193],\"name\":\"cpu:0\","
	"\"rkey\":[8193]}],"
	"\"priority_matrix\":{\"cpu:0\":[[\"mlx5_0\"],[]]}}\n";

static const char *const two_addresses[] = {"10.0.0.1", "fd00::1"};

static struct mci_descriptor_region two_regions[2] = {
	{.id = 0,
	 .generation = 1,
	 .rights = 3,
	 .length = 1073741824,
	 .base = 139637976727552,
	 .location = "cpu:0"},
	{.id = 7, .generation = 3, .rights = 1, .length = 4096, .base = 139639050469376, .location = "cpu:1"},
};

static struct mci_descriptor_buffer one_buffer = {139637976727552, 1073741824, "10.0.0.1:12345"};

static struct mci_descriptor ours(void)
{
	struct mci_descriptor d = {
		.name = "10.0.0.1:12345",
		.timestamp = "2026-08-22 12:34:56.123456",
		.generation = 5,
		.features = MCI_FEATURE_SHM | MCI_FEATURE_NOTIFY,
		.addresses = two_addresses,
		.address_count = 2,
		.port = 15637,
		.regions = two_regions,
		.region_count = 2,
		.classic = true,
		.tcp_data_port = 16021,
		.tcp_proto_version = 2,
		.buffers = &one_buffer,
		.buffer_count = 1,
	};

	memset(d.uuid.b, 0x11, sizeof(d.uuid.b));
	memset(d.boot_id.b, 0x22, sizeof(d.boot_id.b));
	memset(two_regions[1].content_id.b, 0x33, sizeof(two_regions[1].content_id.b));
	return d;
}

static struct mci_secret key(uint8_t fill)
{
	struct mci_secret secret = {.mode = MCI_AUTH_CLUSTER, .key_length = 32};

	memset(secret.key, fill, 32);
	return secret;
}

static int decode(const char *text, struct mci_descriptor **d)
{
	return mci_descriptor_decode(text, strlen(text), NULL, d);
}

static void test_classic_tcp_example_is_understood(void **state)
{
	struct mci_descriptor *d;

	(void)state;
	assert_int_equal(decode(tcp_example, &d), 0);
	assert_false(d->has_ours);
	assert_string_equal(d->name, "10.0.0.1:12345");
	assert_string_equal(d->protocol, "tcp");
	assert_string_equal(d->timestamp, "2026-08-22 12:34:56.123456");
	assert_int_equal(d->tcp_data_port, 16021);
	assert_int_equal(d->tcp_proto_version, 2);
	assert_int_equal(d->region_count, 1);
	assert_int_equal(d->regions[0].base, 139637976727552);
	assert_int_equal(d->regions[0].length, 1073741824);
	assert_int_equal(d->regions[0].rights, MC_REMOTE_READ | MC_REMOTE_WRITE);
	assert_string_equal(d->regions[0].location, "*");
	mci_descriptor_free(d);
}

static void test_classic_rdma_example_is_understood(void **state)
{
	struct mci_descriptor *d;

	(void)state;
	assert_int_equal(decode(rdma_example, &d), 0);
	assert_string_equal(d->protocol, "rdma");
	assert_int_equal(d->tcp_data_port, 0);
	assert_string_equal(d->regions[0].location, "cpu:0");
	assert_non_null(json_object_get(d->root, "devices"));
	mci_descriptor_free(d);
}

static void test_old_descriptor_without_port_and_version_is_v1(void **state)
{
	struct mci_descriptor *d;

	(void)state;
	assert_int_equal(decode("{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[]}", &d), 0);
	assert_int_equal(d->tcp_data_port, 0);
	assert_int_equal(d->tcp_proto_version, 1);
	assert_int_equal(d->region_count, 0);
	mci_descriptor_free(d);
}

static void test_protocol_list_with_tcp_is_tcp(void **state)
{
	struct mci_descriptor *d;

	(void)state;
	assert_int_equal(decode("{\"name\":\"a\",\"protocol\":[\"rdma\",\"tcp\"],\"buffers\":["
				"{\"addr\":4096,\"length\":1,\"name\":\"cpu:0\",\"protocol\":\"rdma\"},"
				"{\"addr\":8192,\"length\":2,\"name\":\"a\",\"protocol\":\"tcp\"}]}",
				&d),
			 0);
	assert_string_equal(d->protocol, "tcp");
	assert_int_equal(d->region_count, 1);
	assert_int_equal(d->regions[0].base, 8192);
	mci_descriptor_free(d);
}

static void test_descriptor_of_files_has_no_regions(void **state)
{
	struct mci_descriptor *d;

	(void)state;
	assert_int_equal(decode("{\"server_name\":\"nvmeof/"
				"s\",\"protocol\":\"nvmeof\",\"buffers\":[{\"file_path\":\"/m\","
				"\"length\":9,\"local_path_map\":{}}]}",
				&d),
			 0);
	assert_string_equal(d->name, "nvmeof/s");
	assert_int_equal(d->region_count, 0);
	mci_descriptor_free(d);
}

static void test_our_text_is_the_classic_text_plus_one_member(void **state)
{
	struct mci_descriptor d = ours();
	char *text, *classic;
	json_t *root;

	(void)state;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), 0);
	root = json_loads(text, 0, NULL);
	assert_int_equal(json_object_del(root, "mooncake_c"), 0);
	classic = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(classic, tcp_example);
	assert_null(strchr(text, '\n'));
	free(classic);
	free(text);
	json_decref(root);
}

static void test_our_descriptor_survives_encode_and_decode(void **state)
{
	struct mci_secret secret = key(9);
	struct mci_descriptor d = ours(), *back;
	char *text;

	(void)state;
	d.transports = json_pack("{s:{s:i}}", "tcp", "streams", 4);
	two_regions[0].json = json_pack("{s:s}", "memfd", "yes");
	assert_int_equal(mci_descriptor_encode(&d, &secret, &text), 0);
	assert_int_equal(mci_descriptor_decode(text, strlen(text), &secret, &back), 0);
	assert_true(back->has_ours);
	assert_int_equal(back->version, MCI_DESCRIPTOR_VERSION);
	assert_memory_equal(&back->uuid, &d.uuid, sizeof(d.uuid));
	assert_memory_equal(&back->boot_id, &d.boot_id, sizeof(d.boot_id));
	assert_int_equal(back->generation, 5);
	assert_int_equal(back->features, MCI_FEATURE_SHM | MCI_FEATURE_NOTIFY);
	assert_int_equal(back->address_count, 2);
	assert_string_equal(back->addresses[1], "fd00::1");
	assert_int_equal(back->port, 15637);
	assert_int_equal(back->region_count, 2);
	assert_int_equal(back->regions[1].id, 7);
	assert_int_equal(back->regions[1].generation, 3);
	assert_int_equal(back->regions[1].rights, MC_REMOTE_READ);
	assert_int_equal(back->regions[1].length, 4096);
	assert_int_equal(back->regions[1].base, 139639050469376);
	assert_memory_equal(&back->regions[1].content_id, &two_regions[1].content_id, 16);
	assert_string_equal(back->regions[1].location, "cpu:1");
	assert_string_equal(json_string_value(json_object_get(back->regions[0].json, "memfd")), "yes");
	assert_non_null(json_object_get(back->transports, "tcp"));
	assert_int_equal(back->buffer_count, 1);
	mci_descriptor_free(back);
	free(text);
	json_decref(d.transports);
	json_decref(two_regions[0].json);
	two_regions[0].json = NULL;
}

static void test_without_classic_no_address_is_published(void **state)
{
	struct mci_descriptor d = ours(), *back;
	char *text;

	(void)state;
	d.classic = false;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), 0);
	assert_null(strstr(text, "139637976727552"));
	assert_null(strstr(text, "139639050469376"));
	assert_non_null(strstr(text, "\"buffers\":[]"));
	assert_non_null(strstr(text, "\"tcp_data_port\":0"));
	assert_int_equal(decode(text, &back), 0);
	assert_int_equal(back->region_count, 2);
	assert_int_equal(back->regions[0].base, 0);
	mci_descriptor_free(back);
	free(text);
}

static void test_timestamp_is_written_when_none_is_given(void **state)
{
	struct mci_descriptor d = ours(), *back;
	int year, month, day, hour, minute, second, micro, end = 0;
	char *text;

	(void)state;
	d.timestamp[0] = '\0';
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), 0);
	assert_int_equal(decode(text, &back), 0);
	assert_int_equal(sscanf(back->timestamp, "%4d-%2d-%2d %2d:%2d:%2d.%6d%n", &year, &month, &day, &hour,
				&minute, &second, &micro, &end),
			 7);
	assert_int_equal(end, 26);
	assert_int_equal(strlen(back->timestamp), 26);
	mci_descriptor_free(back);
	free(text);
}

static void expect_rejected(const char *text, const struct mci_secret *secret)
{
	struct mci_descriptor *back = NULL;

	assert_int_equal(mci_descriptor_decode(text, strlen(text), secret, &back), -EKEYREJECTED);
	assert_null(back);
}

static void test_signature_is_demanded_and_checked(void **state)
{
	struct mci_secret mine = key(9), other = key(8);
	struct mci_descriptor d = ours(), *back;
	char *text, *at;

	(void)state;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), 0);
	expect_rejected(text, &mine);
	free(text);
	assert_int_equal(mci_descriptor_encode(&d, &mine, &text), 0);
	expect_rejected(text, &other);
	at = strstr(text, "\"port\":15637");
	assert_non_null(at);
	at[7] = '2';
	expect_rejected(text, &mine);
	at[7] = '1';
	assert_int_equal(mci_descriptor_decode(text, strlen(text), &mine, &back), 0);
	mci_descriptor_free(back);
	free(text);
}

static void test_signed_record_under_another_name_is_refused(void **state)
{
	struct mci_secret mine = key(9);
	struct mci_descriptor d = ours(), *back;
	char *text, *moved;
	json_t *root;

	(void)state;
	assert_int_equal(mci_descriptor_encode(&d, &mine, &text), 0);
	root = json_loads(text, 0, NULL);
	json_object_set_new(root, "name", json_string("10.0.0.2:12345"));
	moved = json_dumps(root, 0);
	assert_int_equal(mci_descriptor_decode(moved, strlen(moved), &mine, &back), -EBADMSG);
	json_decref(root);
	free(moved);
	free(text);
}

static void test_newer_version_is_refused_with_a_sentence(void **state)
{
	struct mci_descriptor d = ours(), *back;
	char *text, *at;

	(void)state;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), 0);
	at = strstr(text, "\"version\":1");
	assert_non_null(at);
	at[10] = '2';
	assert_int_equal(decode(text, &back), -EPROTO);
	assert_non_null(strstr(mc_errmsg(), "version 2"));
	free(text);
}

/* Each is a good descriptor with one thing wrong. */
static void test_malformed_descriptors_are_refused(void **state)
{
	static const char *const cases[] = {
		"",
		"null\n",
		"[]",
		"{",
		"{\"name\":\"a\"}",
		"{\"protocol\":\"tcp\"}",
		"{\"name\":\"\",\"protocol\":\"tcp\"}",
		"{\"name\":\"a\\u001b[31m\",\"protocol\":\"tcp\"}",
		"{\"name\":1,\"protocol\":\"tcp\"}",
		"{\"name\":\"a\",\"protocol\":[]}",
		"{\"name\":\"a\",\"name\":\"b\",\"protocol\":\"tcp\"}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"tcp_data_port\":65536}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"tcp_data_port\":-1}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"tcp_data_port\":\"1\"}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":{}}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[1]}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[{\"addr\":0,\"length\":1,\"name\":\"a\"}]"
		"}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[{\"addr\":1,\"length\":0,\"name\":\"a\"}]"
		"}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[{\"addr\":1,\"length\":1,\"name\":\"\"}]}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[{\"addr\":1.5,\"length\":1,\"name\":\"a\"}"
		"]}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[{\"addr\":18446744073709551615,\"length\":"
		"1,\"name\":\"a\"}]}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[{\"addr\":9223372036854775807,\"length\":"
		"1,\"name\":\"a\"}]}",
		"{\"name\":\"a\",\"protocol\":\"tcp\",\"mooncake_c\":[]}",
	};
	struct mci_descriptor *back = NULL;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		mci_errmsg_set("");
		assert_int_equal(decode(cases[i], &back), -EBADMSG);
		assert_string_not_equal(mc_errmsg(), "");
		assert_null(back);
	}
}

static void test_each_member_of_ours_is_type_checked(void **state)
{
	static const char *const members[] = {"version",  "name",      "uuid", "generation", "boot_id",
					      "features", "addresses", "port", "regions",    "transports"};
	static const char *const of_region[] = {"id",	      "generation", "rights", "length",
						"content_id", "location",   "base"};
	struct mci_descriptor d = ours(), *back = NULL;
	char *text, *broken;
	size_t i;

	(void)state;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), 0);
	for (i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
		json_t *root = json_loads(text, 0, NULL);

		json_object_set_new(json_object_get(root, "mooncake_c"), members[i], json_true());
		broken = json_dumps(root, 0);
		assert_int_equal(decode(broken, &back), -EBADMSG);
		free(broken);
		json_decref(root);
	}
	for (i = 0; i < sizeof(of_region) / sizeof(of_region[0]); i++) {
		json_t *root = json_loads(text, 0, NULL);
		json_t *regions = json_object_get(json_object_get(root, "mooncake_c"), "regions");

		json_object_set_new(json_array_get(regions, 1), of_region[i], json_true());
		broken = json_dumps(root, 0);
		assert_int_equal(decode(broken, &back), -EBADMSG);
		free(broken);
		json_decref(root);
	}
	assert_null(back);
	free(text);
}

static void test_too_many_regions_addresses_or_values_are_refused(void **state)
{
	static const char head[] = "{\"name\":\"a\",\"protocol\":\"tcp\",\"buffers\":[";
	struct mci_descriptor d = ours(), *back = NULL;
	size_t n = 0, i, size = 4u << 20;
	char *text = malloc(size);

	(void)state;
	n = (size_t)sprintf(text, "%s", head);
	for (i = 0; i <= MCI_DESCRIPTOR_REGIONS; i++)
		n += (size_t)sprintf(text + n, "%s{\"addr\":1,\"length\":1,\"name\":\"a\"}", i ? "," : "");
	sprintf(text + n, "]}");
	assert_int_equal(decode(text, &back), -EBADMSG);
	memset(text, '[', size);
	assert_int_equal(mci_descriptor_decode(text, size, NULL, &back), -EBADMSG);
	assert_non_null(strstr(mc_errmsg(), "too large"));
	d.address_count = MCI_DESCRIPTOR_ADDRESSES + 1;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), -EINVAL);
	free(text);
}

static void test_encode_refuses_what_readers_would(void **state)
{
	struct mci_descriptor d = ours();
	struct mci_descriptor_buffer empty = {4096, 0, "a"};
	char *text = NULL;

	(void)state;
	d.generation = 1ull << 63;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), -EINVAL);
	d = ours();
	d.buffers = &empty;
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), -EINVAL);
	d = ours();
	strcpy(d.name, "\xff\xfe");
	assert_int_equal(mci_descriptor_encode(&d, NULL, &text), -EINVAL);
	assert_null(text);
}

static void test_rpc_meta_is_the_classic_record(void **state)
{
	static const char example[] = "{\"ip_or_host_name\":\"10.0.0.1\",\"rpc_port\":15637}";
	char host[MCI_HOST_MAX];
	uint16_t port;
	char *text;

	(void)state;
	assert_int_equal(mci_rpc_meta_encode("10.0.0.1", 15637, &text), 0);
	assert_string_equal(text, example);
	assert_int_equal(mci_rpc_meta_decode(text, strlen(text), host, &port), 0);
	assert_string_equal(host, "10.0.0.1");
	assert_int_equal(port, 15637);
	assert_int_equal(mci_rpc_meta_decode("{\"rpc_port\":1}", 14, host, &port), -EBADMSG);
	assert_int_equal(mci_rpc_meta_decode("{\"ip_or_host_name\":\"h\",\"rpc_port\":0}", 36, host, &port),
			 -EBADMSG);
	assert_int_equal(mci_rpc_meta_decode("{\"ip_or_host_name\":\"h\",\"rpc_port\":65536}", 40, host,
					     &port),
			 -EBADMSG);
	free(text);
}

static void test_keys_are_the_classic_keys(void **state)
{
	char name[MCI_NAME_MAX + 2], k[MCI_KEY_MAX];

	(void)state;
	assert_int_equal(mci_key_ram(NULL, "10.0.0.1:12345", k), 0);
	assert_string_equal(k, "mooncake/ram/10.0.0.1:12345");
	assert_int_equal(mci_key_ram("", "nvmeof/seg1", k), 0);
	assert_string_equal(k, "mooncake/nvmeof/seg1");
	assert_int_equal(mci_key_ram("c1", "a", k), 0);
	assert_string_equal(k, "mooncake/c1/ram/a");
	assert_int_equal(mci_key_rpc_meta("c1/", "a", k), 0);
	assert_string_equal(k, "mooncake/c1/rpc_meta/a");
	assert_int_equal(mci_key_token(NULL, "a/b", k), 0);
	assert_string_equal(k, "mooncake/token/a/b");
	assert_int_equal(mci_key_ram_prefix("c1", k), 0);
	assert_string_equal(k, "mooncake/c1/ram/");
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(mci_key_ram(NULL, name, k), -EINVAL);
	assert_int_equal(mci_key_ram(NULL, "", k), -EINVAL);
	assert_int_equal(mci_key_ram(NULL, "a\nb", k), -EINVAL);
	assert_int_equal(mci_key_ram(NULL, "token/a", k), -EINVAL);
	assert_int_equal(mci_key_ram(NULL, "rpc_meta/a", k), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_classic_tcp_example_is_understood),
		cmocka_unit_test(test_classic_rdma_example_is_understood),
		cmocka_unit_test(test_old_descriptor_without_port_and_version_is_v1),
		cmocka_unit_test(test_protocol_list_with_tcp_is_tcp),
		cmocka_unit_test(test_descriptor_of_files_has_no_regions),
		cmocka_unit_test(test_our_text_is_the_classic_text_plus_one_member),
		cmocka_unit_test(test_our_descriptor_survives_encode_and_decode),
		cmocka_unit_test(test_without_classic_no_address_is_published),
		cmocka_unit_test(test_timestamp_is_written_when_none_is_given),
		cmocka_unit_test(test_signature_is_demanded_and_checked),
		cmocka_unit_test(test_signed_record_under_another_name_is_refused),
		cmocka_unit_test(test_newer_version_is_refused_with_a_sentence),
		cmocka_unit_test(test_malformed_descriptors_are_refused),
		cmocka_unit_test(test_each_member_of_ours_is_type_checked),
		cmocka_unit_test(test_too_many_regions_addresses_or_values_are_refused),
		cmocka_unit_test(test_encode_refuses_what_readers_would),
		cmocka_unit_test(test_rpc_meta_is_the_classic_record),
		cmocka_unit_test(test_keys_are_the_classic_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
