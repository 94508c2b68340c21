// SPDX-License-Identifier: MIT
/* COPY between buffers, attachments and pins: every alignment, its limits, its end by signals and by REVOKE. */
#include "region.h"

#define MIB    (1ul << 20)
#define LENGTH (3 * MIB + 5 * PAGE)

static void test_every_alignment_is_copied(void)
{
	static const uint64_t offsets[] = {0, 1, 7, 4095, 4096, 65535, 2 * MIB - 3};
	static const uint64_t lengths[] = {1, 2, 63, 4096, 4097, 65536, 65537, MIB + 1};
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, LENGTH), b = alloc_buffer(fd, LENGTH);
	unsigned char *src = map(fd, a.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	unsigned char *dst = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);

	fill(src, LENGTH, 1);
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(offsets); j++) {
			for (size_t k = 0; k < ARRAY_SIZE(lengths); k++) {
				uint64_t from = offsets[i], to = offsets[j], n = lengths[k];

				if (to)
					dst[to - 1] = 0xa5;
				dst[to + n] = 0x5a;
				copy(fd, b.id, to, a.id, from, n);
				CHECK(!memcmp(dst + to, src + from, n));
				CHECK(!to || dst[to - 1] == 0xa5);
				CHECK(dst[to + n] == 0x5a);
			}
		}
	}
}

static void test_copied_is_told(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, LENGTH), b = alloc_buffer(fd, LENGTH);
	struct mooncake_copy c = STRUCT(copy);

	c.src_id = a.id;
	c.dst_id = b.id;
	c.length = LENGTH;
	c.copied = 12345;
	CHECK(ioctl(fd, MOONCAKE_COPY, &c) == 0);
	CHECK_EQ(c.copied, LENGTH);
}

static void test_beyond_the_end_is_refused(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, PAGE), b = alloc_buffer(fd, 2 * PAGE);

	CHECK_ERR(try_copy(fd, a.id, 0, b.id, 0, PAGE + 1), EINVAL);
	CHECK_ERR(try_copy(fd, b.id, 0, a.id, 0, PAGE + 1), EINVAL);
	CHECK_ERR(try_copy(fd, b.id, PAGE + 1, a.id, 0, PAGE), EINVAL);
	CHECK_ERR(try_copy(fd, b.id, 0, a.id, PAGE, 1), EINVAL);
	CHECK_ERR(try_copy(fd, b.id, 0, a.id, 1ull << 63, 1), EINVAL);
	CHECK_ERR(try_copy(fd, b.id, ~0ull, a.id, 0, 2), EOVERFLOW);
	CHECK_ERR(try_copy(fd, b.id, 0, a.id, ~0ull, 2), EOVERFLOW);
	CHECK_ERR(try_copy(fd, b.id, 0, a.id, 0, 0), EINVAL);
	CHECK_ERR(try_copy(fd, 77, 0, a.id, 0, 1), ENOENT);
	CHECK_ERR(try_copy(fd, b.id, 0, 77, 0, 1), ENOENT);
}

static void test_overlap_within_one_memory_is_refused(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE);
	struct mooncake_grant g = grant_for(fd, a.id, RW);
	struct mooncake_attach at;

	CHECK_ERR(try_copy(fd, a.id, 0, a.id, 0, PAGE), EINVAL);
	CHECK_ERR(try_copy(fd, a.id, 0, a.id, PAGE - 1, PAGE), EINVAL);
	CHECK_ERR(try_copy(fd, a.id, PAGE - 1, a.id, 0, PAGE), EINVAL);
	copy(fd, a.id, PAGE, a.id, 0, PAGE);
	copy(fd, a.id, 0, a.id, PAGE, PAGE);
	/* Two attachments to pages 0 to 1 and 1 to 2 are one memory. */
	memset(g.context_id, 0, sizeof(g.context_id));
	context_id(other, g.context_id);
	g.length = 2 * PAGE;
	CHECK(ioctl(fd, MOONCAKE_GRANT, &g) == 0);
	at = attach(other, g.key);
	g.offset = PAGE;
	CHECK(ioctl(fd, MOONCAKE_GRANT, &g) == 0);
	CHECK_ERR(try_copy(other, at.id, PAGE, attach(other, g.key).id, 0, PAGE), EINVAL);
}

static void test_rights_are_those_of_the_attachment(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, PAGE), b = alloc_buffer(other, PAGE);
	struct mooncake_attach at = share(fd, a.id, other, RO);

	copy(other, b.id, 0, at.id, 0, PAGE);
	CHECK_ERR(try_copy(other, at.id, 0, b.id, 0, PAGE), EACCES);
	at = share(fd, a.id, other, RW);
	copy(other, at.id, 0, b.id, 0, PAGE);
}

static void test_an_attachment_copies_its_range(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, LENGTH), b = alloc_buffer(other, 3 * PAGE);
	char *src = map(fd, a.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	char *dst = map(other, b.mmap_offset, 3 * PAGE, PROT_READ);
	struct mooncake_grant g = grant_for(other, a.id, RW);
	struct mooncake_attach at;

	g.offset = 2 * MIB - PAGE;
	g.length = 3 * PAGE;
	CHECK(ioctl(fd, MOONCAKE_GRANT, &g) == 0);
	at = attach(other, g.key);
	fill(src, LENGTH, 2);
	copy(other, b.id, 0, at.id, 0, 3 * PAGE);
	CHECK(!memcmp(dst, src + 2 * MIB - PAGE, 3 * PAGE));
	CHECK_ERR(try_copy(other, b.id, 0, at.id, 0, 3 * PAGE + 1), EINVAL);
}

static void test_pins_are_copied_between(void)
{
	int fd = device();
	char *p = map_anon(LENGTH), *q = map_anon(LENGTH);

	fill(p, LENGTH, 3);
	copy(fd, pin(fd, q, LENGTH), 0, pin(fd, p, LENGTH), 0, LENGTH);
	CHECK_FILLED(q, LENGTH, 3);
}

static void test_a_fatal_signal_ends_it(void)
{
	struct meet m = meet_new();
	double began;
	pid_t pid;
	char c;

	pid = spawn();
	if (!pid) {
		int fd = device();
		uint32_t a = alloc_buffer(fd, 128 * MIB).id, b = alloc_buffer(fd, 128 * MIB).id;

		say(m.up, "x", 1);
		for (;;)
			copy(fd, a, 0, b, 0, 128 * MIB);
	}
	hear(m.up, &c, 1);
	began = seconds();
	kill9(pid);
	CHECK(seconds() - began < 10);
}

struct copying {
	int fd;
	uint32_t dst, src;
};

static void *copy_until_stale(void *arg)
{
	struct copying *c = arg;

	while (!try_copy(c->fd, c->dst, 0, c->src, 0, 8 * MIB))
		;
	CHECK_EQ(errno, ESTALE);
	return NULL;
}

/* Once REVOKE returned, not a byte more arrives. */
static void test_revoke_ends_it(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 8 * MIB), b = alloc_buffer(other, 8 * MIB);
	uint64_t *seen = map(fd, a.mmap_offset, 8 * MIB, PROT_READ | PROT_WRITE);
	char *src = map(other, b.mmap_offset, 8 * MIB, PROT_READ | PROT_WRITE);
	struct copying c = {other, share(fd, a.id, other, RW).id, b.id};
	pthread_t thread;

	memset(src, 0xff, 8 * MIB);
	for (int i = 0; i < 20; i++) {
		struct mooncake_revoke r;

		CHECK(!pthread_create(&thread, NULL, copy_until_stale, &c));
		poll(NULL, 0, 5);
		CHECK(try_revoke(fd, a.id, 0, &r) == 0);
		memset(seen, 0, 8 * MIB);
		CHECK_ZERO(seen, 8 * MIB);
		pthread_join(thread, NULL);
		CHECK_ZERO(seen, 8 * MIB);
		c.dst = share(fd, a.id, other, RW).id;
	}
}

static const struct test tests[] = {
	TEST(test_every_alignment_is_copied),
	TEST(test_copied_is_told),
	TEST(test_beyond_the_end_is_refused),
	TEST(test_overlap_within_one_memory_is_refused),
	TEST(test_rights_are_those_of_the_attachment),
	TEST(test_an_attachment_copies_its_range),
	TEST(test_pins_are_copied_between),
	TEST(test_a_fatal_signal_ends_it),
	TEST(test_revoke_ends_it),
};
RUN_TESTS(tests)
