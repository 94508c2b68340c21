// SPDX-License-Identifier: MIT
/*
 * Copy routines, chosen by what the processor has. Streaming stores leave out the read-for-ownership of
 * the destination, about a third of the memory traffic; they are weakly ordered, so each copy ends
 * with a store fence before anybody is told.
 */
#include "transport/shm/copy.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static void copy_plain(void *to, const void *from, size_t n)
{
	memcpy(to, from, n);
	atomic_thread_fence(memory_order_release);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define LINE 64

/* Bring the destination to a cache line; returns how much that took. */
static inline size_t align_line(uint8_t *to, const uint8_t *from, size_t n)
{
	size_t head = (size_t)(-(uintptr_t)to & (LINE - 1));

	if (head > n)
		head = n;
	memcpy(to, from, head);
	return head;
}

/*
 * Four streams, one per page of a 16 KiB block: more pages open in the memory controller and more
 * prefetchers at work than with one stream. Rest: one stream.
 */
#define PAGE 4096
#define PAGES 4

__attribute__((target("avx512f"))) static void copy_avx512(void *to, const void *from, size_t n)
{
	uint8_t *d = to;
	const uint8_t *s = from;
	size_t head = align_line(d, s, n);

	d += head;
	s += head;
	n -= head;
	while (n >= PAGES * PAGE) {
		for (size_t i = 0; i < PAGE; i += 2 * LINE) {
			for (size_t p = 0; p < PAGES * PAGE; p += PAGE) {
				__m512i a = _mm512_loadu_si512(s + p + i);
				__m512i b = _mm512_loadu_si512(s + p + i + LINE);

				_mm512_stream_si512((__m512i *)(d + p + i), a);
				_mm512_stream_si512((__m512i *)(d + p + i + LINE), b);
			}
		}
		d += PAGES * PAGE;
		s += PAGES * PAGE;
		n -= PAGES * PAGE;
	}
	while (n >= 4 * LINE) {
		__m512i a = _mm512_loadu_si512(s);
		__m512i b = _mm512_loadu_si512(s + LINE);
		__m512i c = _mm512_loadu_si512(s + 2 * LINE);
		__m512i e = _mm512_loadu_si512(s + 3 * LINE);

		_mm512_stream_si512((__m512i *)d, a);
		_mm512_stream_si512((__m512i *)(d + LINE), b);
		_mm512_stream_si512((__m512i *)(d + 2 * LINE), c);
		_mm512_stream_si512((__m512i *)(d + 3 * LINE), e);
		d += 4 * LINE;
		s += 4 * LINE;
		n -= 4 * LINE;
	}
	memcpy(d, s, n);
	_mm_sfence();
}

__attribute__((target("avx2"))) static void copy_avx2(void *to, const void *from, size_t n)
{
	uint8_t *d = to;
	const uint8_t *s = from;
	size_t head = align_line(d, s, n);

	d += head;
	s += head;
	n -= head;
	while (n >= 2 * LINE) {
		__m256i a = _mm256_loadu_si256((const __m256i *)s);
		__m256i b = _mm256_loadu_si256((const __m256i *)(s + 32));
		__m256i c = _mm256_loadu_si256((const __m256i *)(s + 64));
		__m256i e = _mm256_loadu_si256((const __m256i *)(s + 96));

		_mm256_stream_si256((__m256i *)d, a);
		_mm256_stream_si256((__m256i *)(d + 32), b);
		_mm256_stream_si256((__m256i *)(d + 64), c);
		_mm256_stream_si256((__m256i *)(d + 96), e);
		d += 2 * LINE;
		s += 2 * LINE;
		n -= 2 * LINE;
	}
	memcpy(d, s, n);
	_mm_sfence();
}

mci_shm_copy_fn mci_shm_copy_variant(unsigned int index, const char **name)
{
	static const struct {
		const char *name;
		mci_shm_copy_fn fn;
	} variants[] = {{"avx512", copy_avx512}, {"avx2", copy_avx2}, {"memcpy", copy_plain}};
	const bool there[] = {__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx2"), true};

	for (unsigned int i = 0; i < 3; i++) {
		if (!there[i] || index--)
			continue;
		*name = variants[i].name;
		return variants[i].fn;
	}
	return NULL;
}
#else
mci_shm_copy_fn mci_shm_copy_variant(unsigned int index, const char **name)
{
	*name = "memcpy";
	return index ? NULL : copy_plain;
}
#endif

void mci_shm_copy(void *to, const void *from, size_t n)
{
	static _Atomic(mci_shm_copy_fn) chosen;
	mci_shm_copy_fn fn;
	const char *name;

	if (n < MCI_SHM_STREAM_MIN) {
		copy_plain(to, from, n);
		return;
	}
	fn = atomic_load_explicit(&chosen, memory_order_relaxed);
	if (!fn) {
		fn = mci_shm_copy_variant(0, &name);
		atomic_store_explicit(&chosen, fn, memory_order_relaxed);
	}
	fn(to, from, n);
}

const char *mci_shm_copy_name(void)
{
	const char *name = "memcpy";

	mci_shm_copy_variant(0, &name);
	return name;
}
