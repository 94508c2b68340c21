// SPDX-License-Identifier: MIT
/* Touching all pages of a mapping with every core that this process may run on. No lock: an atomic cursor. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "core/errors.h"
#include "memory/memory.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define CHUNK (32ull << 20)
#define MAX_THREADS 64

struct work {
	uint8_t *addr;
	uint64_t length, page_size, chunk;
	bool touch; /* the kernel has no MADV_POPULATE_WRITE (before 5.14) */
	_Atomic uint64_t next;
	_Atomic int error;
};

static int populate(const struct work *w, uint8_t *p, uint64_t n)
{
	if (w->touch) {
		for (uint64_t i = 0; i < n; i += w->page_size)
			atomic_fetch_or((_Atomic uint8_t *)(p + i), 0); /* a write that changes nothing */
		return 0;
	}
	while (madvise(p, n, MADV_POPULATE_WRITE)) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return 0;
}

static void *worker(void *arg)
{
	struct work *w = arg;

	while (!atomic_load(&w->error)) {
		uint64_t at = atomic_fetch_add(&w->next, w->chunk);
		int ret;

		if (at >= w->length)
			break;
		ret = populate(w, w->addr + at, w->length - at < w->chunk ? w->length - at : w->chunk);
		if (ret)
			atomic_store(&w->error, ret);
	}
	return NULL;
}

bool mci_prefault_is_safe(void *addr, uint64_t page_size)
{
	return !madvise(addr, page_size, MADV_POPULATE_WRITE) || errno != EINVAL;
}

int mci_prefault(void *addr, uint64_t length, uint64_t page_size)
{
	struct work w = { .addr = addr, .length = length, .page_size = page_size };
	pthread_t threads[MAX_THREADS];
	unsigned int wanted, started = 0;
	sigset_t all, old;
	cpu_set_t cpus;

	w.chunk = page_size > CHUNK ? page_size : CHUNK;
	w.touch = !mci_prefault_is_safe(addr, page_size);
	wanted = sched_getaffinity(0, sizeof(cpus), &cpus) ? 1 : (unsigned int)CPU_COUNT(&cpus);
	if (wanted > MAX_THREADS)
		wanted = MAX_THREADS;
	if (wanted > (length + w.chunk - 1) / w.chunk)
		wanted = (unsigned int)((length + w.chunk - 1) / w.chunk);
	/* The application's signals are not for our threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (started + 1 < wanted && !pthread_create(&threads[started], NULL, worker, &w))
		started++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	worker(&w);
	while (started)
		pthread_join(threads[--started], NULL);
	/* VM_FAULT_SIGBUS comes as EFAULT: a file system without room, or huge pages that ran out. */
	return atomic_load(&w.error);
}
