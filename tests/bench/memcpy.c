// SPDX-License-Identifier: MIT
/* Baseline of shm: memcpy between two shared mappings, same threads, pages and order as the bench. */
#include "baseline.h"

static struct shared *shared;
static uint8_t *from, *to;

static const struct opt table[] = {BASE_OPTIONS, {0}};
static const struct opt_set set = {"memcpy", "[flags]", "Copies between two memfds.", table, NULL, 0, 0};

static void *worker(void *arg)
{
	uint64_t thread = (uintptr_t)arg, i, at;

	for (i = 0; !atomic_load_explicit(&shared->stop, memory_order_relaxed); i++) {
		at = walk(i, thread);
		memcpy(to + at, from + at, base.block_size);
		count(&shared->lanes[thread], base.block_size);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[MAX_THREADS];
	uintptr_t i;

	opt_parse(&set, argc, argv);
	shared = shared_new();
	from = memory_new(base.working_set, 0);
	to = memory_new(base.working_set, 0);
	for (i = 0; i < base.threads; i++)
		if (pthread_create(&threads[i], NULL, worker, (void *)i))
			return 1;
	measure(shared, 0);
	atomic_store(&shared->stop, 1);
	for (i = 0; i < base.threads; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
