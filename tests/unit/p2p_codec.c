// SPDX-License-Identifier: MIT
/* Manifests and messages of the P2P store: layout, root, chunks, and that nothing but the exact form decodes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/bytes.h"
#include "p2p/wire.h"

static struct mci_manifest *manifest(const uint64_t *ranges, uint32_t count, uint64_t piece_size)
{
	struct mci_manifest *m;

	assert_int_equal(mci_manifest_new(ranges, count, piece_size, &m), 0);
	return m;
}

static void test_a_piece_is_small_and_a_power_of_two(void **state)
{
	uint64_t bytes;

	(void)state;
	assert_int_equal(mci_manifest_piece_size(1), 4096);
	assert_int_equal(mci_manifest_piece_size(256u << 20), 1u << 20);
	assert_int_equal(mci_manifest_piece_size(1ull << 40), 4u << 20);
	for (bytes = 1u << 20; bytes < 1ull << 42; bytes = bytes * 3 + 7)
		assert_true(mci_manifest_piece_size(bytes) <= bytes / 64 &&
			    !(mci_manifest_piece_size(bytes) & (mci_manifest_piece_size(bytes) - 1)));
}

static void test_pieces_never_span_ranges(void **state)
{
	const uint64_t ranges[] = {4096, 1, 3 * 4096 + 5, 8192};
	const uint64_t offsets[] = {0, 0, 0, 4096, 8192, 12288, 0, 4096};
	const uint32_t lengths[] = {4096, 1, 4096, 4096, 4096, 5, 4096, 4096},
		       range[] = {0, 1, 2, 2, 2, 2, 3, 3};
	struct mci_manifest *m = manifest(ranges, 4, 4096);
	uint32_t i;

	(void)state;
	assert_int_equal(m->piece_count, 8);
	assert_int_equal(m->bytes, 4096 + 1 + 3 * 4096 + 5 + 8192);
	for (i = 0; i < 8; i++) {
		struct mci_piece piece = mci_manifest_piece(m, i);

		assert_int_equal(piece.range, range[i]);
		assert_int_equal(piece.offset, offsets[i]);
		assert_int_equal(piece.length, lengths[i]);
	}
	mci_manifest_free(m);
}

static void test_impossible_sizes_are_refused(void **state)
{
	const uint64_t empty[] = {1, 0}, huge[] = {INT64_MAX, 1}, wrap[] = {UINT64_MAX, 2}, one[] = {1},
		       many[] = {1ull << 40};
	struct mci_manifest *m;

	(void)state;
	assert_int_equal(mci_manifest_new(empty, 2, 4096, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(huge, 2, 4096, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(wrap, 2, 4096, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(one, 0, 4096, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(one, MCI_P2P_RANGES_MAX + 1, 4096, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(one, 1, 2048, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(one, 1, 12288, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(one, 1, 8u << 20, &m), -EINVAL);
	assert_int_equal(mci_manifest_new(many, 1, 4096, &m), -EINVAL); /* too many pieces */
}

static void test_the_root_vouches_for_everything(void **state)
{
	const uint64_t ranges[] = {5000}, other[] = {5001}, split[] = {4096, 904};
	struct mci_manifest *a = manifest(ranges, 1, 4096), *b = manifest(ranges, 1, 4096),
			    *c = manifest(other, 1, 4096), *d = manifest(split, 2, 4096),
			    *e = manifest(ranges, 1, 8192);
	uint8_t bytes[15 + 8 + 4 + 8 + 4 + 64] = "mooncake p2p 1\n", root[MCI_P2P_HASH];

	(void)state;
	mci_piece_hash("x", 1, a->hash[0]);
	memcpy(b->hash[0], a->hash[0], MCI_P2P_HASH);
	memcpy(c->hash[0], a->hash[0], MCI_P2P_HASH);
	memcpy(d->hash[0], a->hash[0], MCI_P2P_HASH);
	memcpy(e->hash[0], a->hash[0], MCI_P2P_HASH);
	mci_manifest_seal(a);
	mci_put64(bytes + 15, 4096);
	mci_put32(bytes + 23, 1);
	mci_put64(bytes + 27, 5000);
	mci_put32(bytes + 35, 2);
	memcpy(bytes + 39, a->hash[0], 64);
	mci_piece_hash(bytes, sizeof(bytes), root);
	assert_memory_equal(a->root, root, MCI_P2P_HASH);
	assert_int_equal(mci_manifest_check(b, root), 0);
	b->hash[1][31] ^= 1;
	assert_int_equal(mci_manifest_check(b, root), -EBADMSG);
	assert_int_equal(mci_manifest_check(c, root), -EBADMSG);
	assert_int_equal(mci_manifest_check(d, root), -EBADMSG);
	assert_int_equal(mci_manifest_check(e, root), -EBADMSG);
	mci_manifest_free(a);
	mci_manifest_free(b);
	mci_manifest_free(c);
	mci_manifest_free(d);
	mci_manifest_free(e);
}

static void test_chunks_carry_the_hashes(void **state)
{
	const uint64_t ranges[] = {(uint64_t)20000 * 4096};
	struct mci_manifest *a = manifest(ranges, 1, 4096), *b = manifest(ranges, 1, 4096);
	uint32_t i, chunks = mci_manifest_chunks(a);
	char *text;

	(void)state;
	assert_int_equal(chunks, 3);
	for (i = 0; i < a->piece_count; i++)
		mci_piece_hash(&i, sizeof(i), a->hash[i]);
	mci_manifest_seal(a);
	for (i = 0; i < chunks; i++) {
		text = mci_manifest_chunk(a, i);
		assert_true(strlen(text) <= MCI_P2P_CHUNK_MAX);
		assert_int_equal(mci_manifest_take_chunk(b, i, text, strlen(text) - 1), -EBADMSG);
		assert_int_equal(mci_manifest_take_chunk(b, (i + 1) % chunks, text, strlen(text)) == 0,
				 i == 0);
		assert_int_equal(mci_manifest_take_chunk(b, i, text, strlen(text)), 0);
		free(text);
	}
	text = mci_manifest_chunk(
		a, 1); /* the loop put the first chunk there too, and this one again after it */
	assert_int_equal(mci_manifest_take_chunk(b, 1, text, strlen(text)), 0);
	text[77] = 'g';
	assert_int_equal(mci_manifest_check(b, a->root), 0);
	assert_int_equal(mci_manifest_take_chunk(b, 1, text, strlen(text)), -EBADMSG);
	assert_int_equal(mci_manifest_take_chunk(b, chunks, text, strlen(text)), -EBADMSG);
	free(text);
	mci_manifest_free(a);
	mci_manifest_free(b);
}

/* Every shorter body, and one with a byte more, is refused. */
static void exact(const uint8_t *body, uint32_t length, int (*get)(const void *p, uint32_t length))
{
	uint8_t *copy;
	uint32_t n;

	assert_non_null(body);
	for (n = 0; n <= length + 1; n++) {
		copy = malloc(n ? n : 1); /* so that ASAN sees a read beyond it */
		memcpy(copy, body, n < length ? n : length);
		if (n > length)
			copy[length] = 0;
		if (n == length)
			assert_int_equal(get(copy, n), 0);
		else
			assert_int_equal(get(copy, n), -EBADMSG);
		free(copy);
	}
}

static uint8_t root_a[MCI_P2P_HASH] = "root of an object, 32 bytes long";

static int get_ask(const void *p, uint32_t n)
{
	struct mci_p2p_ask ask;

	return mci_p2p_get_ask(p, n, &ask);
}
static int get_record(const void *p, uint32_t n)
{
	struct mci_p2p_record record;
	int ret = mci_p2p_get_record(p, n, &record);

	if (!ret)
		mci_manifest_free(record.manifest);
	return ret;
}
static int get_join(const void *p, uint32_t n)
{
	struct mci_p2p_join join;

	return mci_p2p_get_join(p, n, &join);
}
static int get_number(const void *p, uint32_t n)
{
	uint8_t root[MCI_P2P_HASH];
	uint32_t number;

	return mci_p2p_get_number(p, n, root, &number);
}

static void test_only_exact_bodies_decode(void **state)
{
	const uint64_t ranges[] = {5000, 77}, offsets[] = {0, 4096};
	const uint32_t ids[] = {3, 4}, pieces[] = {1, 2, 70000};
	struct mci_p2p_ask ask = {.name = "foo/bar", .by_root = true}, got;
	struct mci_p2p_record record = {.manifest = manifest(ranges, 2, 4096), .max_shard_size = 65536}, back;
	struct mci_p2p_join join;
	struct mci_p2p_list list;
	uint32_t length, id;
	uint64_t offset;
	uint8_t *body;

	(void)state;
	memcpy(ask.root, root_a, MCI_P2P_HASH);
	body = mci_p2p_put_ask(&ask, &length);
	exact(body, length, get_ask);
	assert_int_equal(mci_p2p_get_ask(body, length, &got), 0);
	assert_string_equal(got.name, "foo/bar");
	assert_memory_equal(got.root, root_a, MCI_P2P_HASH);
	body[3] = 1; /* a control byte in the name */
	assert_int_equal(mci_p2p_get_ask(body, length, &got), -EBADMSG);
	free(body);

	mci_manifest_seal(record.manifest);
	body = mci_p2p_put_record(&record, &length);
	exact(body, length, get_record);
	assert_int_equal(mci_p2p_get_record(body, length, &back), 0);
	assert_int_equal(back.max_shard_size, 65536);
	assert_int_equal(back.manifest->bytes, 5077);
	assert_memory_equal(back.manifest->root, record.manifest->root, MCI_P2P_HASH);
	mci_manifest_free(back.manifest);
	mci_manifest_free(record.manifest);
	mci_put64(body + MCI_P2P_HASH + 8, 5000); /* no power of two */
	assert_int_equal(get_record(body, length), -EBADMSG);
	free(body);

	body = mci_p2p_put_join(root_a, MCI_P2P_JOIN_SEED, "host:1", ids, offsets, 2, &length);
	exact(body, length, get_join);
	assert_int_equal(mci_p2p_get_join(body, length, &join), 0);
	assert_string_equal(join.segment, "host:1");
	mci_p2p_join_region(&join, 1, &id, &offset);
	assert_int_equal(id, 4);
	assert_int_equal(offset, 4096);
	mci_put32(body + MCI_P2P_HASH, 2); /* a flag that is not known */
	assert_int_equal(get_join(body, length), -EBADMSG);
	free(body);

	body = mci_p2p_put_number(root_a, 9, &length);
	exact(body, length, get_number);
	free(body);

	body = mci_p2p_put_list(root_a, pieces, 3, &length);
	assert_int_equal(mci_p2p_get_list(body, length, &list), 0);
	assert_int_equal(list.count, 3);
	assert_int_equal(mci_p2p_list_at(&list, 2), 70000);
	assert_int_equal(mci_p2p_get_list(body, length - 1, &list), -EBADMSG);
	assert_int_equal(mci_p2p_get_list(body, MCI_P2P_HASH, &list), -EBADMSG);
	free(body);
}

static int count_name(const char *name, void *arg)
{
	assert_non_null(strstr(name, "host"));
	++*(int *)arg;
	return 0;
}

static void test_maps_chunks_members_and_errors(void **state)
{
	const char *names[] = {"host-a:1", "host-b:2"};
	uint8_t *body, root[MCI_P2P_HASH], bits[MCI_P2P_MAP_BYTES + 1] = {0x81};
	struct mci_p2p_error error;
	struct mci_p2p_list map;
	uint32_t length, index, n;
	const char *text;
	int count = 0;

	(void)state;
	body = mci_p2p_put_map(root_a, 16, bits, 2, &length);
	assert_int_equal(mci_p2p_get_map(body, length, &map), 0);
	assert_int_equal(map.first, 16);
	assert_int_equal(map.count, 2);
	assert_int_equal(map.p[0], 0x81);
	assert_int_equal(mci_p2p_get_map(body, length - 2, &map), -EBADMSG); /* no bits */
	mci_put32(body + MCI_P2P_HASH, 17);
	assert_int_equal(mci_p2p_get_map(body, length, &map), -EBADMSG);
	free(body);
	body = mci_p2p_put_map(root_a, 0, bits, MCI_P2P_MAP_BYTES + 1, &length);
	assert_int_equal(mci_p2p_get_map(body, length, &map), -EBADMSG);
	free(body);

	body = mci_p2p_put_chunk(root_a, 5, "00ff", &length);
	assert_int_equal(mci_p2p_get_chunk(body, length, root, &index, &text, &n), 0);
	assert_int_equal(index, 5);
	assert_int_equal(n, 4);
	assert_memory_equal(text, "00ff", 4);
	assert_int_equal(mci_p2p_get_chunk(body, MCI_P2P_HASH + 3, root, &index, &text, &n), -EBADMSG);
	free(body);

	body = mci_p2p_put_members(root_a, names, 2, &length);
	assert_int_equal(mci_p2p_get_members(body, length, root, count_name, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(mci_p2p_get_members(body, length - 1, root, count_name, &count), -EBADMSG);
	assert_int_equal(count, 2); /* nothing of a bad list is believed */
	free(body);

	body = mci_p2p_put_error(-ENOENT, "no object 'x' here", &length);
	assert_int_equal(mci_p2p_get_error(body, length, &error), 0);
	assert_int_equal(error.error, -ENOENT);
	assert_string_equal(error.sentence, "no object 'x' here");
	body[6] = 27;
	assert_int_equal(mci_p2p_get_error(body, length, &error), -EBADMSG);
	mci_put32(body, 0);
	assert_int_equal(mci_p2p_get_error(body, length, &error), -EBADMSG);
	free(body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_piece_is_small_and_a_power_of_two),
		cmocka_unit_test(test_pieces_never_span_ranges),
		cmocka_unit_test(test_impossible_sizes_are_refused),
		cmocka_unit_test(test_the_root_vouches_for_everything),
		cmocka_unit_test(test_chunks_carry_the_hashes),
		cmocka_unit_test(test_only_exact_bodies_decode),
		cmocka_unit_test(test_maps_chunks_members_and_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
