// SPDX-License-Identifier: MIT
/* Copy routines: every variant that this machine can run, against memcmp(). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "transport/shm/copy.h"

#define ROOM (96u << 10)

static uint8_t *from, *to;

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 1664525u + 1013904223u;
		p[i] = (uint8_t)(seed >> 24);
	}
}

/* Copy, then look at every byte of the destination: those inside and those around. */
static void check(mci_shm_copy_fn fn, const char *name, size_t d, size_t s, size_t n)
{
	memset(to, 0xa5, d + n + 256);
	fn(to + d, from + s, n);
	if (memcmp(to + d, from + s, n))
		fail_msg("%s: %zu bytes from %zu to %zu differ", name, n, s, d);
	for (size_t i = 0; i < d; i++)
		if (to[i] != 0xa5)
			fail_msg("%s: wrote %zu bytes ahead of its destination", name, d - i);
	for (size_t i = d + n; i < d + n + 256; i++)
		if (to[i] != 0xa5)
			fail_msg("%s: wrote behind its destination (%zu bytes from %zu to %zu)", name, n, s,
				 d);
}

static void each_variant(void (*fn)(mci_shm_copy_fn copy, const char *name))
{
	mci_shm_copy_fn copy;
	const char *name;

	for (unsigned int i = 0; (copy = mci_shm_copy_variant(i, &name)); i++)
		fn(copy, name);
	fn(mci_shm_copy, "chosen");
}

static void small_sizes(mci_shm_copy_fn copy, const char *name)
{
	for (size_t n = 0; n <= 640; n++)
		for (size_t d = 0; d < 65; d += 1 + n % 3)
			check(copy, name, d, (d * 7 + n) % 67, n);
}

static void all_alignments(mci_shm_copy_fn copy, const char *name)
{
	static const size_t sizes[] = {4095,  4096,  4097,  8191,  16383, 16384,
				       16385, 20000, 33000, 65536, 65537};

	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
		for (size_t d = 0; d < 64; d += 3)
			for (size_t s = 0; s < 64; s += 5)
				check(copy, name, d, s, sizes[k]);
}

static void test_every_small_size_is_copied_and_nothing_around_it(void **state)
{
	(void)state;
	each_variant(small_sizes);
}

static void test_every_alignment_is_copied_and_nothing_around_it(void **state)
{
	(void)state;
	each_variant(all_alignments);
}

static void at_the_edge(mci_shm_copy_fn copy, const char *name)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), room = 20 * page;
	uint8_t *a = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *b = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(a, MAP_FAILED);
	assert_ptr_not_equal(b, MAP_FAILED);
	assert_int_equal(mprotect(a + room, page, PROT_NONE), 0);
	assert_int_equal(mprotect(b + room, page, PROT_NONE), 0);
	fill(a, room, 3);
	for (size_t n = 1; n < room; n += 509) {
		copy(b + room - n, a + room - n, n);
		if (memcmp(b + room - n, a + room - n, n))
			fail_msg("%s: %zu bytes at the end of a mapping differ", name, n);
	}
	munmap(a, room + page);
	munmap(b, room + page);
}

static void test_no_byte_behind_the_source_is_read(void **state)
{
	(void)state;
	each_variant(at_the_edge);
}

static int setup(void **state)
{
	(void)state;
	from = malloc(ROOM);
	to = malloc(ROOM);
	if (!from || !to)
		return -1;
	fill(from, ROOM, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(from);
	free(to);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_small_size_is_copied_and_nothing_around_it),
		cmocka_unit_test(test_every_alignment_is_copied_and_nothing_around_it),
		cmocka_unit_test(test_no_byte_behind_the_source_is_read),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
