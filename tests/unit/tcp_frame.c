// SPDX-License-Identifier: MIT
/* Codec of data frames and of the data role's parameters, and the receiver that cuts a byte stream into
 * frames. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/bytes.h"
#include "transport/tcp/stream.h"

static struct mci_tcp_header sample(void)
{
	struct mci_tcp_header h = {.type = MCI_TCP_WRITE,
				   .flags = MCI_TCP_CHECKSUM,
				   .id = 0x1122334455667788,
				   .region = 7,
				   .generation = 9,
				   .offset = 0x0102030405060708,
				   .length = 4096,
				   .checksum = 0xa1a2a3a4a5a6a7a8};

	memset(h.target.b, 0x5c, 16);
	return h;
}

static void test_a_header_has_the_layout_of_the_specification(void **state)
{
	static const uint8_t expected[MCI_TCP_HEADER] = {
		'M',  'C',  'T',  '1',	1,    2,    2,	  0,	0,    0,    0,	  0,	0,    0,
		0,    0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x5c, 0x5c, 0x5c, 0x5c,
		0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 0x5c, 7,    0,
		0,    0,    9,	  0,	0,    0,    8,	  7,	6,    5,    4,	  3,	2,    1,
		0,    0x10, 0,	  0,	0,    0,    0,	  0,	0,    0,    0,	  0,	0,    0,
		0,    0,    0xa8, 0xa7, 0xa6, 0xa5, 0xa4, 0xa3, 0xa2, 0xa1,
	};
	struct mci_tcp_header h = sample();
	uint8_t out[MCI_TCP_HEADER];

	(void)state;
	mci_tcp_header_encode(&h, out);
	assert_memory_equal(out, expected, sizeof(expected));
}

static void test_a_header_comes_back_as_it_was(void **state)
{
	struct mci_tcp_header h = sample(), back;
	uint8_t out[MCI_TCP_HEADER], again[MCI_TCP_HEADER];
	const char *why;

	(void)state;
	h.type = MCI_TCP_READ | MCI_TCP_REPLY;
	h.status = -EFAULT;
	mci_tcp_header_encode(&h, out);
	assert_int_equal(mci_tcp_header_decode(out, &back, &why), 0);
	assert_int_equal(back.status, -EFAULT);
	assert_int_equal(back.length, 4096);
	assert_int_equal(mci_tcp_payload_length(&back), 0);
	mci_tcp_header_encode(&back, again);
	assert_memory_equal(out, again, sizeof(out));
}

struct bad {
	const char *what;
	size_t at;
	uint8_t value;
};

static void test_each_impossible_field_is_refused(void **state)
{
	static const struct bad bads[] = {
		{"magic", 0, 'X'},
		{"version", 4, 2},
		{"type 0", 5, 0},
		{"type 5", 5, 5},
		{"flag", 6, 4},
		{"high flag", 7, 0x80},
		{"extension not optional", 8, 1},
		{"extension too long", 9, 0x20},
		{"status of a request", 12, 1},
		{"grant", 64, 1},
		{"length", 60, 1},
		{"length of 2^63", 63, 0x80},
	};
	struct mci_tcp_header h = sample(), out = {.id = 99};
	uint8_t bytes[MCI_TCP_HEADER];
	const char *why;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		mci_tcp_header_encode(&h, bytes);
		assert_int_equal(mci_tcp_header_decode(bytes, &out, &why), 0);
		out.id = 99;
		bytes[bads[i].at] = bads[i].value;
		assert_int_equal(mci_tcp_header_decode(bytes, &out, &why), -EPROTO);
		assert_non_null(why);
		assert_int_equal(out.id, 99);
	}
}

static void test_a_status_must_be_an_errno(void **state)
{
	struct mci_tcp_header h = sample(), out;
	uint8_t bytes[MCI_TCP_HEADER];
	const char *why;

	(void)state;
	h.type |= MCI_TCP_REPLY;
	for (h.status = -4095; h.status <= 0; h.status += 4095) {
		mci_tcp_header_encode(&h, bytes);
		assert_int_equal(mci_tcp_header_decode(bytes, &out, &why), 0);
	}
	h.status = -4096;
	mci_tcp_header_encode(&h, bytes);
	assert_int_equal(mci_tcp_header_decode(bytes, &out, &why), -EPROTO);
	h.status = 1;
	mci_tcp_header_encode(&h, bytes);
	assert_int_equal(mci_tcp_header_decode(bytes, &out, &why), -EPROTO);
}

static void test_parameters_come_back_and_wrong_ones_are_refused(void **state)
{
	struct mci_tcp_params in = {.incarnation = 3,
				    .index = 1,
				    .count = 2,
				    .slots = 64,
				    .slice_max = 65536},
			      bad, out;
	uint8_t bytes[MCI_TCP_PARAMS];
	int i;

	(void)state;
	memset(in.session.b, 9, 16);
	mci_tcp_params_encode(&in, bytes);
	assert_int_equal(mci_tcp_params_decode(bytes, sizeof(bytes), &out), 0);
	assert_memory_equal(in.session.b, out.session.b, 16);
	assert_int_equal(out.incarnation, 3);
	assert_int_equal(out.index, 1);
	assert_int_equal(out.slots, 64);
	assert_int_equal(mci_tcp_params_decode(bytes, sizeof(bytes) - 1, &out), -EPROTO);
	for (i = 0; i < 6; i++) {
		bad = in;
		switch (i) {
		case 0:
			bad.incarnation = 0;
			break;
		case 1:
			bad.index = 2;
			break;
		case 2:
			bad.count = 17;
			break;
		case 3:
			bad.slots = 0;
			break;
		case 4:
			bad.slice_max = 0;
			break;
		case 5:
			bad.slice_max = MCI_TCP_SLICE_MAX + 1;
			break;
		}
		mci_tcp_params_encode(&bad, bytes);
		assert_int_equal(mci_tcp_params_decode(bytes, sizeof(bytes), &out), -EPROTO);
	}
}

static void test_what_was_granted_comes_back(void **state)
{
	struct mci_tcp_granted in = {.slots = 256, .slice_max = 1 << 20}, out;
	uint8_t bytes[MCI_TCP_GRANTED];

	(void)state;
	mci_tcp_granted_encode(&in, bytes);
	assert_int_equal(mci_tcp_granted_decode(bytes, sizeof(bytes), &out), 0);
	assert_int_equal(out.slots, 256);
	assert_int_equal(out.slice_max, 1 << 20);
	assert_int_equal(mci_tcp_granted_decode(bytes, 7, &out), -EPROTO);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(mci_tcp_granted_decode(bytes, sizeof(bytes), &out), -EPROTO);
}

/* A receiver that gathers payloads one behind the other. */
struct gather {
	struct mci_tcp_rx rx; /* first */
	uint8_t out[100000];
	size_t used;
	unsigned int frames;
};

static int gather_header(struct mci_tcp_rx *rx)
{
	struct gather *g = (struct gather *)rx;

	/* Every third is thrown away. */
	rx->dest = rx->header.id % 3 ? g->out + g->used : NULL;
	return 0;
}

static int gather_frame(struct mci_tcp_rx *rx)
{
	struct gather *g = (struct gather *)rx;

	if (rx->header.id % 3)
		g->used += mci_tcp_payload_length(&rx->header);
	g->frames++;
	return 0;
}

static const struct mci_tcp_rx_ops gather_ops = {.header = gather_header, .frame = gather_frame};

static void test_frames_are_found_wherever_the_stream_is_cut(void **state)
{
	static const uint64_t lengths[] = {1, 0, 5000, 80, 79, 20000, 3, 0, 0, 33333, 1};
	static const size_t cuts[] = {1, 7, 79, 80, 81, 1000, 100000};
	uint8_t *stream = malloc(200000), *expected = malloc(200000);
	size_t n = 0, want = 0, at, c;
	struct gather *g = malloc(sizeof(*g));
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct mci_tcp_header h = {.type = MCI_TCP_WRITE, .id = i, .length = lengths[i]};

		if (i % 4 == 1) {
			h.extension = 100 * i;
			h.flags = MCI_TCP_EXTENSION_OPTIONAL;
		}
		mci_tcp_header_encode(&h, stream + n);
		n += MCI_TCP_HEADER;
		memset(stream + n, 0xee, h.extension);
		n += h.extension;
		for (at = 0; at < lengths[i]; at++)
			stream[n + at] = (uint8_t)(at * 31 + i);
		if (i % 3) {
			memcpy(expected + want, stream + n, lengths[i]);
			want += lengths[i];
		}
		n += lengths[i];
	}
	for (c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++) {
		memset(g, 0, sizeof(*g));
		assert_int_equal(mci_tcp_rx_init(&g->rx, &gather_ops), 0);
		for (at = 0; at < n; at += cuts[c])
			assert_int_equal(
				mci_tcp_rx_feed(&g->rx, stream + at, n - at < cuts[c] ? n - at : cuts[c]), 0);
		assert_int_equal(g->frames, sizeof(lengths) / sizeof(lengths[0]));
		assert_int_equal(g->used, want);
		assert_memory_equal(g->out, expected, want);
		mci_tcp_rx_free(&g->rx);
	}
	free(g);
	free(stream);
	free(expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_header_has_the_layout_of_the_specification),
		cmocka_unit_test(test_a_header_comes_back_as_it_was),
		cmocka_unit_test(test_each_impossible_field_is_refused),
		cmocka_unit_test(test_a_status_must_be_an_errno),
		cmocka_unit_test(test_parameters_come_back_and_wrong_ones_are_refused),
		cmocka_unit_test(test_what_was_granted_comes_back),
		cmocka_unit_test(test_frames_are_found_wherever_the_stream_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
