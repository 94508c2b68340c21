// SPDX-License-Identifier: MIT
/* Control frames of the rdma transport: what was encoded is decoded, and one wrong field is enough to be
 * refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "core/bytes.h"
#include "transport/rdma/wire.h"

static void test_params_come_back_as_they_went(void **state)
{
	static const struct mci_rdma_params in = {
		.version = 1,
		.session = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
		.incarnation = 1ull << 40};
	struct mci_rdma_params out;
	uint8_t bytes[MCI_RDMA_PARAMS + 1];

	(void)state;
	memset(&out, 0, sizeof(out)); /* padding */
	mci_rdma_params_encode(&in, bytes);
	assert_int_equal(mci_rdma_params_decode(bytes, MCI_RDMA_PARAMS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	assert_int_equal(mci_rdma_params_decode(bytes, MCI_RDMA_PARAMS - 1, &out), -EPROTO);
	assert_int_equal(mci_rdma_params_decode(bytes, MCI_RDMA_PARAMS + 1, &out), -EPROTO);
}

static void test_questions_for_keys_are_bounded(void **state)
{
	struct mci_rdma_ask in[MCI_RDMA_ASK_MAX], out[MCI_RDMA_ASK_MAX];
	uint8_t bytes[4 + 8 * MCI_RDMA_ASK_MAX + 8];
	uint16_t count;
	uint32_t n, i;

	(void)state;
	for (i = 0; i < MCI_RDMA_ASK_MAX; i++)
		in[i] = (struct mci_rdma_ask){i * 7, i + 1};
	n = mci_rdma_asks_encode(in, MCI_RDMA_ASK_MAX, bytes);
	assert_int_equal(mci_rdma_asks_decode(bytes, n, out, &count), 0);
	assert_int_equal(count, MCI_RDMA_ASK_MAX);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(mci_rdma_asks_decode(bytes, n - 1, out, &count), -EPROTO);
	mci_put16(bytes, MCI_RDMA_ASK_MAX + 1);
	assert_int_equal(mci_rdma_asks_decode(bytes, n + 8, out, &count), -EPROTO);
	mci_put16(bytes, 0);
	assert_int_equal(mci_rdma_asks_decode(bytes, 4, out, &count), -EPROTO);
	n = mci_rdma_asks_encode(in, 1, bytes);
	bytes[2] = 1; /* reserved */
	assert_int_equal(mci_rdma_asks_decode(bytes, n, out, &count), -EPROTO);
}

static const struct mci_rdma_keys good_keys = {.id = 3,
					       .generation = 9,
					       .rights = 3,
					       .length = 5000,
					       .iova = 1ull << 50,
					       .chunk = 2048,
					       .chunks = 3,
					       .devices = 2};

static int decode_keys(const struct mci_rdma_keys *keys, int more)
{
	uint8_t bytes[MCI_RDMA_KEYS_HEAD + 4 * 64] = {0};
	struct mci_rdma_keys out;
	const uint8_t *key;

	mci_rdma_keys_encode(keys, bytes);
	return mci_rdma_keys_decode(bytes, (size_t)((int)mci_rdma_keys_size(keys) + more), &out, &key);
}

static void test_chunks_of_a_region_cover_it_exactly(void **state)
{
	struct mci_rdma_keys out, keys;
	uint8_t bytes[MCI_RDMA_KEYS_HEAD + 4 * 6];
	const uint8_t *key;
	unsigned int i;

	(void)state;
	memcpy(&keys, &good_keys, sizeof(keys)); /* with its padding */
	memset(&out, 0, sizeof(out));
	mci_rdma_keys_encode(&keys, bytes);
	for (i = 0; i < 6; i++)
		mci_put32(bytes + MCI_RDMA_KEYS_HEAD + 4 * i, 100 + i);
	assert_int_equal(mci_rdma_keys_decode(bytes, sizeof(bytes), &out, &key), 0);
	assert_memory_equal(&keys, &out, sizeof(keys));
	assert_int_equal(mci_get32(key + 4 * 5), 105);
	assert_int_equal(decode_keys(&keys, -1), -EPROTO);
	assert_int_equal(decode_keys(&keys, 1), -EPROTO);
	keys.length = 4096; /* two chunks would do */
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys.length = 6145; /* three do not */
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys = good_keys;
	keys.chunk = 0;
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys = good_keys;
	keys.length = 0;
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys = good_keys;
	keys.iova = UINT64_MAX - 4000; /* it would wrap around */
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys = good_keys;
	keys.devices = 0;
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys = good_keys;
	keys.devices = MCI_RDMA_DEVICES_MAX + 1;
	keys.chunks = 1;
	keys.chunk = keys.length;
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
}

static void test_a_refusal_carries_no_keys(void **state)
{
	struct mci_rdma_keys keys = {.id = 3, .generation = 9, .status = -ESTALE};

	(void)state;
	assert_int_equal(decode_keys(&keys, 0), 0);
	keys.chunks = 1;
	keys.devices = 1;
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys = (struct mci_rdma_keys){.status = 5};
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
	keys.status = -4096;
	assert_int_equal(decode_keys(&keys, 0), -EPROTO);
}

static const struct mci_rdma_end good_end = {.number = 77,
					     .from = 1,
					     .to = 2,
					     .count = 2,
					     .mtu = 3,
					     .lid = 5,
					     .gid = {0xfe, 0x80},
					     .flush_iova = 123456789,
					     .flush_key = 42,
					     .qpn = {17, 18},
					     .psn = {0xabcdef, 1}};

static int decode_end(const struct mci_rdma_end *end, int more)
{
	uint8_t bytes[MCI_RDMA_END_MAX + 8] = {0};
	struct mci_rdma_end out;

	return mci_rdma_end_decode(bytes, (size_t)((int)mci_rdma_end_encode(end, bytes) + more), &out);
}

static void test_an_endpoint_comes_back_as_it_went(void **state)
{
	uint8_t bytes[MCI_RDMA_END_MAX];
	struct mci_rdma_end in, out;

	(void)state;
	memcpy(&in, &good_end, sizeof(in));
	memset(&out, 0, sizeof(out));
	assert_int_equal(mci_rdma_end_decode(bytes, mci_rdma_end_encode(&in, bytes), &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	assert_int_equal(decode_end(&in, -1), -EPROTO);
	assert_int_equal(decode_end(&in, 1), -EPROTO);
	in.count = 0; /* and no error */
	assert_int_equal(decode_end(&in, 0), -EPROTO);
	in = good_end;
	in.mtu = 0;
	assert_int_equal(decode_end(&in, 0), -EPROTO);
	in.mtu = 6;
	assert_int_equal(decode_end(&in, 0), -EPROTO);
	in = good_end;
	in.to = MCI_RDMA_DEVICES_MAX;
	assert_int_equal(decode_end(&in, 0), -EPROTO);
	in = good_end;
	in.status = 1;
	assert_int_equal(decode_end(&in, 0), -EPROTO);
}

static void test_a_sentence_is_printable(void **state)
{
	struct mci_rdma_end in = {.number = 1, .status = -EBUSY, .sentence = "no\x1b[2J more\n"}, out;
	uint8_t bytes[MCI_RDMA_END_MAX];
	uint32_t n;

	(void)state;
	n = mci_rdma_end_encode(&in, bytes);
	assert_int_equal(mci_rdma_end_decode(bytes, n, &out), 0);
	assert_string_equal(out.sentence, "no?[2J more?");
	memset(in.sentence, 'x', MCI_RDMA_SENTENCE);
	n = mci_rdma_end_encode(&in, bytes);
	assert_int_equal(mci_rdma_end_decode(bytes, n, &out), 0);
	assert_int_equal(strlen(out.sentence), MCI_RDMA_SENTENCE);
	mci_put16(bytes + 14, MCI_RDMA_SENTENCE + 1);
	assert_int_equal(mci_rdma_end_decode(bytes, n + 1, &out), -EPROTO);
}

static void test_port_states_are_bounded(void **state)
{
	const struct mci_rdma_port in[2] = {{.up = 1, .mtu = 5, .link = 2, .lid = 9, .gid = {1, 2}},
					    {.mtu = 1}};
	struct mci_rdma_port out[MCI_RDMA_DEVICES_MAX];
	uint8_t bytes[2 + MCI_RDMA_PORT_SIZE * MCI_RDMA_DEVICES_MAX], count;
	uint32_t n;

	(void)state;
	memset(out, 0, sizeof(out));
	n = mci_rdma_ports_encode(in, 2, bytes);
	assert_int_equal(mci_rdma_ports_decode(bytes, n, out, &count), 0);
	assert_int_equal(count, 2);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(mci_rdma_ports_decode(bytes, n - 1, out, &count), -EPROTO);
	bytes[2] = 2; /* neither up nor down */
	assert_int_equal(mci_rdma_ports_decode(bytes, n, out, &count), -EPROTO);
	bytes[2] = 1;
	bytes[3] = 6; /* no such MTU */
	assert_int_equal(mci_rdma_ports_decode(bytes, n, out, &count), -EPROTO);
	bytes[0] = 0;
	assert_int_equal(mci_rdma_ports_decode(bytes, 2, out, &count), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_params_come_back_as_they_went),
		cmocka_unit_test(test_questions_for_keys_are_bounded),
		cmocka_unit_test(test_chunks_of_a_region_cover_it_exactly),
		cmocka_unit_test(test_a_refusal_carries_no_keys),
		cmocka_unit_test(test_an_endpoint_comes_back_as_it_went),
		cmocka_unit_test(test_a_sentence_is_printable),
		cmocka_unit_test(test_port_states_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
