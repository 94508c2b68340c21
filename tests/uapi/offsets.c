// SPDX-License-Identifier: MIT
/*
 * Where ids are mapped: ranges of their own for all that a program has, within what its mmap() can say. Built for 32
 * and for 64 bits.
 * vm: short
 */
#include "uapi.h"

#define LOW  (1ull << 44) /* mmap() of a 32-bit program passes pages, in 32 bits */
#define MANY 200
#define IDS  4095 /* of 32-bit programs, below LOW */

static int narrow(void) { return sizeof(long) == 4; }

static void test_many_ids_have_ranges_of_their_own(void)
{
	struct mooncake_buffer_alloc b[MANY];
	int fd = device();
	char *p[MANY];

	for (int i = 0; i < MANY; i++) {
		b[i] = alloc_buffer(fd, (1 + i % 3) * PAGE);
		CHECK_EQ(b[i].mmap_offset < LOW, narrow());
		CHECK_EQ(stat_object(fd, b[i].id).mmap_offset, b[i].mmap_offset);
		p[i] = map(fd, b[i].mmap_offset, b[i].length, PROT_READ | PROT_WRITE);
		fill(p[i], b[i].length, i);
	}
	for (int i = 0; i < MANY; i++) {
		CHECK_FILLED(p[i], b[i].length, i);
		munmap(p[i], b[i].length);
		p[i] = map(fd, b[i].mmap_offset + b[i].length - PAGE, PAGE, PROT_READ);
		CHECK_EQ(*(uint64_t *)p[i], pattern(i, (b[i].length - PAGE) / 8));
	}
}

static void test_a_range_ends_where_its_memory_does(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 2 * PAGE), b = alloc_buffer(fd, 2 * PAGE);
	struct mooncake_buffer_alloc theirs = alloc_buffer(other, 2 * PAGE);

	CHECK(b.mmap_offset > a.mmap_offset);
	CHECK_ERR((long)try_map(fd, a.mmap_offset, 3 * PAGE, PROT_READ), EINVAL);
	CHECK_ERR((long)try_map(fd, a.mmap_offset + 2 * PAGE, PAGE, PROT_READ), EINVAL);
	CHECK_ERR((long)try_map(fd, b.mmap_offset - PAGE, PAGE, PROT_READ), EINVAL);
	CHECK_ERR((long)try_map(fd, theirs.mmap_offset, PAGE, PROT_READ), EINVAL);
	CHECK_ERR((long)try_map(fd, 0, PAGE, PROT_READ), EINVAL);
}

static void test_revoking_one_leaves_its_neighbours(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, 4 * PAGE);
	struct mooncake_grant g[3];
	struct mooncake_attach a;
	char *p[3];

	catch_bus();
	for (int i = 0; i < 3; i++) {
		g[i] = grant(fd, b.id, other, RW);
		a = attach(other, g[i].key);
		CHECK_EQ(a.mmap_offset < LOW, narrow());
		p[i] = map(other, a.mmap_offset, b.length, PROT_READ | PROT_WRITE);
		CHECK_EQ(poke(p[i] + 3 * PAGE, i), 0);
	}
	CHECK(try_revoke_grant(fd, g[1].grant) == 0);
	CHECK_EQ(peek(p[1] + 3 * PAGE, NULL), SIGBUS);
	CHECK_EQ(peek(p[0] + 3 * PAGE, NULL), 0);
	CHECK_EQ(peek(p[2] + 3 * PAGE, NULL), 0);
}

static void test_a_dma_buf_is_mapped_from_its_beginning(void)
{
	int fd = device(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, 4 * PAGE);
	char *p = map(fd, b.mmap_offset, b.length, PROT_READ | PROT_WRITE), *q;

	fill(p, b.length, 5);
	dmabuf = try_export(fd, b.id, MOONCAKE_EXPORT_WRITE);
	if (dmabuf < 0 && errno == EOPNOTSUPP)
		SKIP("no EXPORT on this kernel");
	CHECK(dmabuf >= 0);
	q = map(dmabuf, PAGE, 3 * PAGE, PROT_READ);
	CHECK(!memcmp(q, p + PAGE, 3 * PAGE));
}

/* The low ones are all in use: what comes then can be used, and not mapped, until one is free again. */
static void test_the_low_ranges_run_out_and_come_back(void)
{
	struct mooncake_buffer_alloc last, more;
	int fd = device();

	if (!narrow())
		SKIP("a 64-bit program's offsets are above them");
	for (int i = 0; i < IDS; i++)
		last = alloc_buffer(fd, PAGE);
	CHECK(last.mmap_offset < LOW);
	more = alloc_buffer(fd, PAGE);
	CHECK(more.mmap_offset >= LOW);
	CHECK((long)try_map(fd, more.mmap_offset, PAGE, PROT_READ) == -1);
	CHECK(try_copy(fd, more.id, 0, last.id, 0, PAGE) == 0);
	destroy(fd, more.id);
	destroy(fd, last.id);
	more = alloc_buffer(fd, PAGE);
	CHECK_EQ(more.mmap_offset, last.mmap_offset);
	*(char *)map(fd, more.mmap_offset, PAGE, PROT_READ | PROT_WRITE) = 1;
}

static const struct test tests[] = {
	TEST(test_many_ids_have_ranges_of_their_own),
	TEST(test_a_range_ends_where_its_memory_does),
	TEST(test_revoking_one_leaves_its_neighbours),
	TEST(test_a_dma_buf_is_mapped_from_its_beginning),
	TEST(test_the_low_ranges_run_out_and_come_back),
};

RUN_TESTS(tests)
