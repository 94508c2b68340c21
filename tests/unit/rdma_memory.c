// SPDX-License-Identifier: MIT
/*
 * Registration with NICs: limits, places, addresses; and memory of the kernel module by its dma-buf. Runs in a
 * guest.
 */
#include "api/pair.h"

#include <infiniband/verbs.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "transport/rdma/initiator.h"

#define MIB (1u << 20)

/* A tap into the table of verbs. */
static struct {
	const struct mci_verbs *real;
	struct mci_verbs verbs;
	_Atomic unsigned int dmabufs;
	bool stand_in; /* take dma-bufs as a NIC would that can: what is registered are the pages of the dma-buf */
} tap;

static struct pair p;

static struct mci_rdma *rdma_of(mc_engine *engine)
{
	return (struct mci_rdma *)engine->transport[MCI_TRANSPORT_RDMA];
}

static struct mci_rdma_memory *memory_of(mc_region *region)
{
	return mci_rdma_memory_of(rdma_of(((struct mc_region *)region)->engine), (struct mci_region *)region);
}

static struct ibv_mr *reg_dmabuf(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access)
{
	uint64_t page = offset & 4095;
	struct ibv_mr *mr;
	uint8_t *at;

	tap.dmabufs++;
	if (!tap.stand_in)
		return tap.real->ibv_reg_dmabuf_mr(pd, offset, length, iova, fd, access);
	/* What the kernel asks of both. */
	assert_int_equal(iova & 4095, page);
	at = mmap(NULL, length + page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset - page));
	if (at == MAP_FAILED)
		return NULL;
	mr = (tap.real->ibv_reg_mr_iova)(pd, at + page, length, iova, (unsigned int)access);
	munmap(at, length + page); /* the pages stay pinned */
	return mr;
}

static void open_both(const char *memory)
{
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;

	p = (struct pair){.transport = "rdma", .memory = memory};
	must(mc_metadata_server_open(&attr, &p.server));
	snprintf(p.uri, sizeof(p.uri), "http://127.0.0.1:%u/metadata", mc_metadata_server_port(p.server));
	snprintf(p.target_name, sizeof(p.target_name), "target");
	pair_open_engine(&p, p.target_name, 0, &p.target);
	pair_open_engine(&p, "initiator", 0, &p.initiator);
	p.remote = pair_alloc(&p, &p.target_memory);
	p.local = pair_alloc(&p, &p.initiator_memory);
	memset(p.remote, 0xa5, PAIR_BYTES);
	memset(p.local, 0x5a, PAIR_BYTES);
	tap.real = rdma_of(p.target)->verbs;
	tap.verbs = *tap.real;
	tap.verbs.ibv_reg_dmabuf_mr = reg_dmabuf;
	tap.dmabufs = 0;
	tap.stand_in = false;
	rdma_of(p.target)->verbs = rdma_of(p.initiator)->verbs = &tap.verbs;
}

static void register_both(void)
{
	must(mc_engine_register(p.target, p.remote, PAIR_BYTES, NULL, &p.remote_region));
	must(mc_engine_register(p.initiator, p.local, PAIR_BYTES, NULL, &p.local_region));
}

static void close_both(void)
{
	pair_teardown(&p);
}

/* Bytes of a pattern go there and come back elsewhere, at odd places. */
static void there_and_back(void)
{
	uint64_t n = 3 * MIB + 17, i;

	must(mc_segment_open(p.initiator, p.target_name, NULL, &p.segment));
	for (i = 0; i < n; i++)
		p.local[1001 + i] = (uint8_t)(i * 7 + (i >> 8));
	assert_done(move(&p, MC_WRITE, p.local + 1001, at(&p, 2 * MIB - 5), n));
	assert_memory_equal(p.remote + 2 * MIB - 5, p.local + 1001, n);
	assert_done(move(&p, MC_READ, p.local + 4 * MIB + 3, at(&p, 2 * MIB - 5), n));
	assert_memory_equal(p.local + 4 * MIB + 3, p.local + 1001, n);
	assert_int_equal(p.remote[2 * MIB - 6], 0xa5);
	assert_int_equal(p.remote[2 * MIB - 5 + n], 0xa5);
}

static void test_a_region_beyond_the_limit_is_registered_in_pieces(void **state)
{
	unsigned int i;

	(void)state;
	open_both("memfd");
	rdma_of(p.target)->hooks.max_mr = MIB + 5000;
	rdma_of(p.initiator)->hooks.max_mr = 700000;
	register_both();
	assert_int_equal(memory_of(p.remote_region)->chunks, 8);
	assert_int_equal(memory_of(p.local_region)->chunks, 13);
	for (i = 0; i < 8u * rdma_of(p.target)->device_count; i++)
		assert_non_null(memory_of(p.remote_region)->mr[i]);
	there_and_back();
	close_both();
}

static void test_a_nic_whose_registrations_are_used_up_is_named(void **state)
{
	struct mci_rdma *rdma;
	mc_region *one, *other;
	uint32_t mrs;
	uint8_t i;

	(void)state;
	open_both("memfd");
	register_both();
	rdma = rdma_of(p.initiator);
	mrs = atomic_load(&rdma->device[0]->mrs);
	rdma->hooks.max_mrs = mrs + 1;
	one = other = NULL;
	must(mc_engine_unregister(p.local_region, 0));
	must(mc_engine_register(p.initiator, p.local, MIB, NULL, &p.local_region));
	must(mc_engine_register(p.initiator, p.local + MIB, MIB, NULL, &one));
	assert_int_equal(mc_engine_register(p.initiator, p.local + 2 * MIB, MIB, NULL, &other), -ENOSPC);
	assert_non_null(strstr(mc_errmsg(), rdma->device[0]->name));
	assert_non_null(strstr(mc_errmsg(), "unregister"));
	assert_null(other);
	for (i = 0; i < rdma->device_count; i++)
		assert_int_equal(atomic_load(&rdma->device[i]->mrs), mrs + 1);
	must(mc_engine_unregister(one, 0));
	must(mc_engine_register(p.initiator, p.local + 2 * MIB, MIB, NULL, &other));
	must(mc_engine_unregister(other, 0));
	close_both();
}

static void test_memory_registered_again_has_another_address_and_keys_of_its_own(void **state)
{
	uint64_t iova;
	uint32_t key;

	(void)state;
	open_both("memfd");
	register_both();
	iova = memory_of(p.remote_region)->iova;
	key = memory_of(p.remote_region)->mr[0]->rkey;
	must(mc_engine_unregister(p.remote_region, 0));
	must(mc_engine_register(p.target, p.remote, PAIR_BYTES, NULL, &p.remote_region));
	assert_int_not_equal(memory_of(p.remote_region)->iova, iova);
	assert_int_not_equal(memory_of(p.remote_region)->mr[0]->rkey, key);
	there_and_back();
	close_both();
}

static void test_a_region_knows_the_nics_near_it(void **state)
{
	struct mc_region_attr attr = MC_REGION_ATTR_INIT;
	char matrix[256];

	(void)state;
	open_both("memfd");
	if (rdma_of(p.target)->device_count < 2)
		skip();
	snprintf(matrix, sizeof(matrix), "{\"cpu:0\": [[\"%s\"], []], \"cpu:1\": [[\"%s\"], []]}",
		 rdma_of(p.target)->device[0]->name, rdma_of(p.target)->device[1]->name);
	json_decref(rdma_of(p.target)->matrix);
	rdma_of(p.target)->matrix = json_loads(matrix, 0, NULL);
	assert_non_null(rdma_of(p.target)->matrix);
	attr.location = "cpu:1";
	must(mc_engine_register(p.target, p.remote, MIB, &attr, &p.remote_region));
	assert_int_equal(memory_of(p.remote_region)->prefer, 2);
	must(mc_engine_unregister(p.remote_region, 0));
	attr.location = "cpu:0";
	must(mc_engine_register(p.target, p.remote, MIB, &attr, &p.remote_region));
	assert_int_equal(memory_of(p.remote_region)->prefer, 1);
	must(mc_engine_unregister(p.remote_region, 0));
	register_both();
	close_both();
}

/* ---- memory of the kernel module ---- */

static void test_the_modules_memory_goes_by_its_dma_buf(void **state)
{
	(void)state;
	if (!pair_has_module())
		skip();
	open_both("module");
	tap.stand_in = true;
	rdma_of(p.target)->hooks.max_mr = 3 * MIB;
	register_both();
	assert_int_equal(tap.dmabufs, (4 + 1) * rdma_of(p.target)->device_count);
	assert_false(rdma_of(p.target)->device[0]->no_dmabuf);
	there_and_back();
	close_both();
}

static void test_part_of_the_modules_memory_is_that_part_of_the_dma_buf(void **state)
{
	(void)state;
	if (!pair_has_module())
		skip();
	open_both("module");
	tap.stand_in = true;
	must(mc_engine_register(p.target, p.remote + MIB + 100, MIB, NULL, &p.remote_region));
	must(mc_engine_register(p.initiator, p.local, PAIR_BYTES, NULL, &p.local_region));
	must(mc_segment_open(p.initiator, p.target_name, NULL, &p.segment));
	assert_done(move(&p, MC_WRITE, p.local, at(&p, 0), MIB));
	assert_int_equal(p.remote[MIB + 99], 0xa5);
	assert_memory_equal(p.remote + MIB + 100, p.local, MIB);
	assert_int_equal(p.remote[2 * MIB + 100], 0xa5);
	close_both();
}

static void test_a_nic_without_dma_bufs_is_asked_once(void **state)
{
	unsigned int devices;

	(void)state;
	if (!pair_has_module())
		skip();
	open_both("module");
	devices = rdma_of(p.target)->device_count;
	register_both();
	if (!rdma_of(p.target)->device[0]->no_dmabuf) {
		close_both();
		skip(); /* it takes them */
	}
	assert_int_equal(tap.dmabufs, 2 * devices); /* both engines, each NIC */
	there_and_back();
	must(mc_segment_close(p.segment));
	p.segment = NULL;
	must(mc_engine_unregister(p.remote_region, 0));
	must(mc_engine_register(p.target, p.remote, PAIR_BYTES, NULL, &p.remote_region));
	assert_int_equal(tap.dmabufs, 2 * devices);
	there_and_back();
	close_both();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_region_beyond_the_limit_is_registered_in_pieces),
		cmocka_unit_test(test_a_nic_whose_registrations_are_used_up_is_named),
		cmocka_unit_test(test_memory_registered_again_has_another_address_and_keys_of_its_own),
		cmocka_unit_test(test_a_region_knows_the_nics_near_it),
		cmocka_unit_test(test_the_modules_memory_goes_by_its_dma_buf),
		cmocka_unit_test(test_part_of_the_modules_memory_is_that_part_of_the_dma_buf),
		cmocka_unit_test(test_a_nic_without_dma_bufs_is_asked_once),
	};
	struct ibv_device **list;
	int n = 0;

	list = mci_verbs() ? mci_verbs()->ibv_get_device_list(&n) : NULL;
	if (!list || !n) {
		printf("[  SKIPPED ] no RDMA device here; the same tests run in a guest (tests/vm)\n");
		return 77;
	}
	mci_verbs()->ibv_free_device_list(list);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
