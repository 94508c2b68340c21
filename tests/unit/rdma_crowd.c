// SPDX-License-Identifier: MIT
/*
 * More peers than endpoints: SIEVE moves the few to where they are needed. On a real device: soft-RoCE in a
 * guest (tests/vm/rdma_faults.sh). With an argument: that test alone.
 */
#include "unit/rdma_env.h"

#include <sys/mman.h>

#define SLOT (64u << 10)

#define CROWD_THREADS 3u
#define CROWD_CAP 16u

struct crowd {
	unsigned int count;
	mc_engine *initiator, **target;
	uint8_t *remote, *local; /* CROWD_THREADS slots of SLOT for each target */
	mc_segment **segment;
	struct mc_remote *at;
	_Atomic unsigned int failed, wrong;
};

struct crowd_worker {
	struct crowd *crowd;
	unsigned int index;
};

static uint64_t place(unsigned int target, unsigned int worker)
{
	return (uint64_t)(target * CROWD_THREADS + worker) * SLOT;
}

/* Each batch goes to all targets at once: a write, and then a read of the same. */
static void *crowd_work(void *arg)
{
	struct crowd_worker *w = arg;
	struct crowd *c = w->crowd;
	unsigned int rounds = effort("ROUNDS", 2), round, i;
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_status status;
	mc_batch *batch;

	attr.timeout_ms = 60000;
	must(mc_batch_alloc(c->initiator, c->count, &batch));
	for (round = 0; round < 2 * rounds; round++) {
		bool reading = round & 1;

		for (i = 0; i < c->count; i++) {
			uint8_t *mine = c->local + place(i, w->index);

			if (reading)
				memset(mine, 0, SLOT);
			else
				fill(mine, SLOT, round * 1000003 + place(i, w->index));
			must(mc_batch_add(batch, reading ? MC_READ : MC_WRITE, mine, c->segment[i],
					  (struct mc_remote){.region = c->at[i].region,
							     .offset = w->index * SLOT},
					  SLOT));
		}
		must(mc_batch_submit(batch, &attr));
		must(mc_batch_wait(batch, -1));
		for (i = 0; i < c->count; i++) {
			must(mc_batch_status(batch, i, &status));
			c->failed += status.state != MC_DONE;
			c->wrong +=
				!!memcmp(c->local + place(i, w->index), c->remote + place(i, w->index), SLOT);
		}
		must(mc_batch_reset(batch));
	}
	must(mc_batch_free(batch));
	return NULL;
}

static mc_engine *crowd_engine(const struct pair *p, const char *name)
{
	struct mc_engine_attr attr = MC_ENGINE_ATTR_INIT;
	mc_engine *engine;

	attr.metadata = p->uri;
	attr.name = name;
	attr.transports = "rdma";
	must(mc_engine_open(&attr, &engine));
	return engine;
}

/* SIEVE gives the few endpoints to who needs one; nobody is forgotten, and no more are held than allowed. */
static void test_more_targets_than_endpoints_are_all_served(void **state)
{
	struct pair *p = *state;
	struct crowd c = {.count = effort("TARGETS", 24)};
	mc_region **region = calloc(c.count + 1, sizeof(*region));
	struct crowd_worker worker[CROWD_THREADS];
	pthread_t thread[CROWD_THREADS];
	uint64_t bytes = place(c.count, 0);
	unsigned int i;
	char name[32];

	setenv("MC_MAX_EP_PER_CTX", "16", 1);
	setenv("MOONCAKE_IO_THREADS", "1", 1);
	c.target = calloc(c.count, sizeof(*c.target));
	c.segment = calloc(c.count, sizeof(*c.segment));
	c.at = calloc(c.count, sizeof(*c.at));
	c.remote = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
			-1, 0);
	assert_ptr_not_equal(c.remote, MAP_FAILED);
	c.local = c.remote + bytes;
	for (i = 0; i < c.count; i++) {
		snprintf(name, sizeof(name), "crowd-%u", i);
		c.target[i] = crowd_engine(p, name);
		must(mc_engine_register(c.target[i], c.remote + place(i, 0), CROWD_THREADS * SLOT, NULL,
					&region[i]));
	}
	unsetenv("MOONCAKE_IO_THREADS");
	c.initiator = crowd_engine(p, "crowd-initiator");
	unsetenv("MC_MAX_EP_PER_CTX");
	assert_int_equal(rdma_of(c.initiator)->endpoints_max, CROWD_CAP);
	must(mc_engine_register(c.initiator, c.local, bytes, NULL, &region[c.count]));
	for (i = 0; i < c.count; i++) {
		struct mc_segment_region info = {.size = sizeof(info)};

		snprintf(name, sizeof(name), "crowd-%u", i);
		must(mc_segment_open(c.initiator, name, NULL, &c.segment[i]));
		must(mc_segment_region(c.segment[i], 0, &info));
		c.at[i].region = info.id;
	}
	for (i = 0; i < CROWD_THREADS; i++) {
		worker[i] = (struct crowd_worker){&c, i};
		assert_int_equal(pthread_create(&thread[i], NULL, crowd_work, &worker[i]), 0);
	}
	for (i = 0; i < CROWD_THREADS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(c.failed, 0);
	assert_int_equal(c.wrong, 0);
	assert_true(atomic_load(&rdma_of(c.initiator)->evictions) >= c.count - CROWD_CAP);
	print_message("%u targets, %u endpoints, %llu evictions\n", c.count, CROWD_CAP,
		      (unsigned long long)atomic_load(&rdma_of(c.initiator)->evictions));
	for (i = 0; i < c.count; i++)
		must(mc_segment_close(c.segment[i]));
	must(mc_engine_unregister(region[c.count], MC_UNREGISTER_WAIT));
	must(mc_engine_close(c.initiator));
	for (i = 0; i < c.count; i++) {
		must(mc_engine_unregister(region[i], MC_UNREGISTER_WAIT));
		must(mc_engine_close(c.target[i]));
	}
	munmap(c.remote, 2 * bytes);
	free(c.target);
	free(c.segment);
	free(c.at);
	free(region);
}

/* ---- all with all ---- */

#define MESH 5u

struct mesh {
	mc_engine *engine[MESH];
	mc_region *region[MESH];
	uint8_t *memory[MESH]; /* a slot to send from, and one for each sender */
	_Atomic unsigned int failed, wrong;
};

struct mesh_worker {
	struct mesh *mesh;
	unsigned int index;
};

static void *mesh_work(void *arg)
{
	struct mesh_worker *w = arg;
	struct mesh *m = w->mesh;
	unsigned int rounds = effort("ROUNDS", 2), round, i;
	uint8_t *mine = m->memory[w->index];
	mc_segment *segment[MESH] = {NULL};
	struct mc_status status;
	mc_batch *batch;
	char name[32];

	for (i = 0; i < MESH; i++) {
		snprintf(name, sizeof(name), "mesh-%u", i);
		if (i != w->index && mc_segment_open(m->engine[w->index], name, NULL, &segment[i]))
			m->failed++;
	}
	must(mc_batch_alloc(m->engine[w->index], MESH, &batch));
	for (round = 0; round < 4 * rounds && !m->failed; round++) {
		fill(mine, SLOT, round * MESH + w->index);
		for (i = 0; i < MESH; i++)
			if (i != w->index)
				must(mc_batch_add(batch, MC_WRITE, mine, segment[i],
						  (struct mc_remote){.offset = (1 + w->index) * SLOT}, SLOT));
		must(mc_batch_submit(batch, NULL));
		must(mc_batch_wait(batch, -1));
		for (i = 0; i < MESH - 1; i++) {
			must(mc_batch_status(batch, i, &status));
			m->failed += status.state != MC_DONE;
		}
		for (i = 0; i < MESH; i++)
			m->wrong += i != w->index && memcmp(mine, m->memory[i] + (1 + w->index) * SLOT, SLOT);
		must(mc_batch_reset(batch));
	}
	must(mc_batch_free(batch));
	for (i = 0; i < MESH; i++)
		if (segment[i])
			must(mc_segment_close(segment[i]));
	return NULL;
}

/* Each has two endpoints for four others, and answers all of them meanwhile: nobody waits for somebody who
 * waits. */
static void test_all_talk_to_all_with_few_endpoints(void **state)
{
	struct pair *p = *state;
	struct mesh m = {.failed = 0};
	struct mesh_worker worker[MESH];
	pthread_t thread[MESH];
	unsigned int i;
	char name[32];

	setenv("MC_MAX_EP_PER_CTX", "2", 1);
	for (i = 0; i < MESH; i++) {
		snprintf(name, sizeof(name), "mesh-%u", i);
		m.engine[i] = crowd_engine(p, name);
		m.memory[i] = mmap(NULL, (MESH + 1) * SLOT, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_ptr_not_equal(m.memory[i], MAP_FAILED);
		must(mc_engine_register(m.engine[i], m.memory[i], (MESH + 1) * SLOT, NULL, &m.region[i]));
	}
	unsetenv("MC_MAX_EP_PER_CTX");
	for (i = 0; i < MESH; i++) {
		worker[i] = (struct mesh_worker){&m, i};
		assert_int_equal(pthread_create(&thread[i], NULL, mesh_work, &worker[i]), 0);
	}
	for (i = 0; i < MESH; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(m.failed, 0);
	assert_int_equal(m.wrong, 0);
	for (i = 0; i < MESH; i++) {
		assert_true(atomic_load(&rdma_of(m.engine[i])->evictions) > 0);
		must(mc_engine_unregister(m.region[i], MC_UNREGISTER_WAIT));
		must(mc_engine_close(m.engine[i]));
		munmap(m.memory[i], (MESH + 1) * SLOT);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		pair_test(test_more_targets_than_endpoints_are_all_served),
		pair_test(test_all_talk_to_all_with_few_endpoints),
	};

	return run_on_a_device(tests, argc, argv);
}
