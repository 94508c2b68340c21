// SPDX-License-Identifier: MIT
/* Classic RDMA records to the byte, and what of a descriptor is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

#if USE_RDMA
#include "transport/rdma/classic_wire.h"

#define EXAMPLE                                                                                                  \
	"{\"local_gid\":\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:02\",\"local_lid\":0,"                    \
	"\"local_nic_path\":\"10.0.0.2:12345@mlx5_0\",\"payload\":\"\",\"peer_nic_path\":\"10.0.0.1:12345@mlx5_0\"," \
	"\"qp_num\":[4660,4661],\"ready_ack\":false,\"reply_msg\":\"\"}\n"

static void test_the_example_is_written_to_the_byte(void **state)
{
	struct mci_rdma_record record = {.local = "10.0.0.2:12345@mlx5_0",
					 .peer = "10.0.0.1:12345@mlx5_0",
					 .count = 2,
					 .qpn = {4660, 4661},
					 .has_gid = true,
					 .gid = {[10] = 0xff, 0xff, 10, 0, 0, 2},
					 .has_ack = true};
	char *text = mci_rdma_record_encode(&record);

	(void)state;
	assert_string_equal(text, EXAMPLE);
	assert_int_equal(strlen(text), 226);
	free(text);
	record.has_ack = false; /* the member itself would be a promise */
	text = mci_rdma_record_encode(&record);
	assert_null(strstr(text, "ready_ack"));
	free(text);
}

static void test_records_of_every_age_are_read(void **state)
{
	static const char old[] =
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"qp_num\":[1],\"reply_msg\":\"\"}";
	static const char refused[] =
		"{\"local_nic_path\":\"\",\"peer_nic_path\":\"\",\"reply_msg\":\"no\",\"later\":{}}";
	struct mci_rdma_record record;

	(void)state;
	assert_int_equal(mci_rdma_record_decode(EXAMPLE, strlen(EXAMPLE), &record), 0);
	assert_string_equal(record.local, "10.0.0.2:12345@mlx5_0");
	assert_string_equal(record.peer, "10.0.0.1:12345@mlx5_0");
	assert_int_equal(record.count, 2);
	assert_int_equal(record.qpn[1], 4661);
	assert_true(record.has_gid && record.has_ack && !record.ack);
	assert_int_equal(record.gid[15], 2);
	assert_int_equal(mci_rdma_record_decode(old, strlen(old), &record), 0);
	assert_true(!record.has_gid && !record.has_ack);
	assert_int_equal(mci_rdma_record_decode(refused, strlen(refused), &record), 0);
	assert_string_equal(record.reply, "no");
	assert_int_equal(record.count, 0);
}

static void test_one_wrong_member_spoils_a_record(void **state)
{
	static const char *const wrong[] = {
		"", "null", "[]", "{}",
		"{\"local_nic_path\":\"a@b\"}",
		"{\"local_nic_path\":1,\"peer_nic_path\":\"c@d\"}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c\\u0007d\"}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"qp_num\":7}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"qp_num\":[16777216]}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"qp_num\":[-1]}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"local_lid\":65536}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"local_gid\":\"00\"}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\","
		"\"local_gid\":\"0g:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00\"}",
		"{\"local_nic_path\":\"a@b\",\"peer_nic_path\":\"c@d\",\"ready_ack\":1}",
	};
	struct mci_rdma_record record;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		if (mci_rdma_record_decode(wrong[i], strlen(wrong[i]), &record) != -EBADMSG)
			fail_msg("taken: %s", wrong[i]);
}

static void test_paths_are_split_at_the_first_at(void **state)
{
	char server[MCI_NAME_MAX + 1], nic[MCI_RDMA_NIC_MAX];

	(void)state;
	assert_true(mci_rdma_path_split("10.0.0.1:12345@mlx5_0", server, nic));
	assert_string_equal(server, "10.0.0.1:12345");
	assert_string_equal(nic, "mlx5_0");
	assert_true(mci_rdma_path_split("a@b@c", server, nic));
	assert_string_equal(nic, "b@c");
	assert_false(mci_rdma_path_split("a", server, nic));
	assert_false(mci_rdma_path_split("@b", server, nic));
	assert_false(mci_rdma_path_split("a@", server, nic));
}

static void test_a_region_may_be_several_buffers_in_a_row(void **state)
{
	json_t *root = json_loads("{\"buffers\":[{\"addr\":12288,\"length\":4096,\"rkey\":[3]},"
				  "{\"addr\":4096,\"length\":4096,\"rkey\":[1]},"
				  "{\"addr\":8192,\"length\":4096,\"rkey\":[2]},"
				  "{\"addr\":16384,\"length\":100,\"rkey\":[4]},"
				  "{\"addr\":65536,\"length\":8192,\"rkey\":[]}]}",
				  0, NULL);
	struct mci_rdma_buffers buffers;
	unsigned int first;

	(void)state;
	assert_int_equal(mci_rdma_buffers_load(root, &buffers), 0);
	assert_int_equal(mci_rdma_buffers_find(&buffers, 8192, 4096, &first), 1);
	assert_int_equal(first, 1);
	assert_int_equal(mci_rdma_buffers_find(&buffers, 4096, 3 * 4096 + 100, &first), 4);
	assert_int_equal(first, 0);
	assert_int_equal(mci_rdma_buffers_find(&buffers, 65536, 8192, &first), 1);
	assert_int_equal(mci_rdma_buffers_find(&buffers, 65536, 4096, &first), -ENOENT); /* longer than the region */
	assert_int_equal(mci_rdma_buffers_find(&buffers, 4096, 5 * 4096, &first), -ENOENT);
	assert_int_equal(mci_rdma_buffers_find(&buffers, 4097, 4096, &first), -ENOENT);
	assert_int_equal(mci_rdma_buffers_find(&buffers, 16384, 200, &first), -ENOENT);
	mci_rdma_buffers_free(&buffers);
	json_decref(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_example_is_written_to_the_byte),
		cmocka_unit_test(test_records_of_every_age_are_read),
		cmocka_unit_test(test_one_wrong_member_spoils_a_record),
		cmocka_unit_test(test_paths_are_split_at_the_first_at),
		cmocka_unit_test(test_a_region_may_be_several_buffers_in_a_row),
	};

	return cmocka_run_group_tests_name("rdma_classic_wire", tests, NULL, NULL);
}
#else
int main(void)
{
	print_message("[  SKIPPED ] rdma_classic_wire: this build has no rdma transport\n");
	return 0;
}
#endif
