// SPDX-License-Identifier: MIT
/* What the rdma transport chooses, without a device: a GID of a port, a pair of NICs for a slice, who leaves
 * the pool. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/errors.h"
#include "transport/rdma/initiator.h"

/* ---- GIDs ---- */

#define V4(a, b, c, d)                                               \
	{                                                            \
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d \
	}
#define LOCAL6                                                       \
	{                                                            \
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8 \
	}
#define GLOBAL6                                                        \
	{                                                              \
		0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 \
	}

static const struct ibv_gid_entry *gids;
static int gid_count;

static ssize_t some_gids(struct ibv_context *context, struct ibv_gid_entry *table, size_t max, uint32_t flags,
			 size_t size)
{
	(void)context;
	(void)flags;
	assert_int_equal(size, sizeof(*table));
	if (gid_count < 0)
		return gid_count;
	assert_true((size_t)gid_count <= max);
	memcpy(table, gids, (size_t)gid_count * size);
	return gid_count;
}

static int choose(const struct ibv_gid_entry *table, int count, int wanted)
{
	static const struct mci_verbs verbs = {._ibv_query_gid_table = some_gids};
	static struct mci_rdma rdma = {.verbs = &verbs};
	struct mci_nic nic = {.rdma = &rdma, .port = 1, .name = "nic0"};
	struct ibv_gid_entry gid;
	char why[256];
	int ret;

	gids = table;
	gid_count = count;
	ret = mci_rdma_gid_choose(&nic, wanted, &gid, why, sizeof(why));
	return ret ? ret : (int)gid.gid_index;
}

#define GID(index, port, type, ...)                                                                 \
	{                                                                                           \
		.gid = {.raw = __VA_ARGS__}, .gid_index = index, .port_num = port, .gid_type = type \
	}

static void test_routed_ipv4_over_roce_v2_comes_first(void **state)
{
	static const struct ibv_gid_entry table[] = {
		GID(0, 1, IBV_GID_TYPE_ROCE_V1, LOCAL6),
		GID(1, 1, IBV_GID_TYPE_ROCE_V2, LOCAL6),
		GID(2, 1, IBV_GID_TYPE_ROCE_V1, V4(10, 0, 0, 1)),
		GID(3, 2, IBV_GID_TYPE_ROCE_V2, V4(10, 0, 0, 9)),
		GID(4, 1, IBV_GID_TYPE_ROCE_V2, V4(169, 254, 3, 4)),
		GID(5, 1, IBV_GID_TYPE_ROCE_V2, GLOBAL6),
		GID(6, 1, IBV_GID_TYPE_ROCE_V2, V4(10, 0, 0, 1)),
		GID(7, 1, IBV_GID_TYPE_ROCE_V2, V4(10, 0, 0, 2)),
	};

	(void)state;
	assert_int_equal(choose(table, 8, -1), 6);
	assert_int_equal(choose(table, 6, -1), 5); /* else IPv6 that is routed */
	assert_int_equal(choose(table, 5, -1), 1); /* else IPv6 of the link, before IPv4 of the link */
	assert_int_equal(choose(table, 1, -1), 0); /* else what there is */
}

static void test_a_gid_that_was_asked_for_is_used_or_refused(void **state)
{
	static const struct ibv_gid_entry table[] = {
		GID(0, 1, IBV_GID_TYPE_ROCE_V2, V4(10, 0, 0, 1)),
		GID(1, 1, IBV_GID_TYPE_ROCE_V1, LOCAL6),
		GID(2, 1, IBV_GID_TYPE_ROCE_V2, {0}),
		GID(3, 2, IBV_GID_TYPE_ROCE_V2, V4(10, 0, 0, 9)),
	};

	(void)state;
	assert_int_equal(choose(table, 4, 1), 1);
	assert_int_equal(choose(table, 4, 2), -ENOENT); /* empty */
	assert_int_equal(choose(table, 4, 3), -ENOENT); /* of another port */
	assert_int_equal(choose(table, 4, 9), -ENOENT);
	assert_non_null(strstr(mc_errmsg(), "no GID at index 9"));
}

static void test_a_port_without_gids_says_what_to_do(void **state)
{
	static const struct ibv_gid_entry table[] = {GID(0, 2, IBV_GID_TYPE_ROCE_V2, V4(10, 0, 0, 1))};

	(void)state;
	assert_int_equal(choose(table, 1, -1), -ENOENT);
	assert_non_null(strstr(mc_errmsg(), "give its network interface an address"));
	assert_int_equal(choose(table, -EPERM, -1), -EPERM);
}

/* ---- a peer without a network ---- */

struct world {
	struct mci_transport_host host;
	struct mci_loops loops;
	struct mci_rdma rdma;
	struct mci_nic nic[2];
};

static void on_wake(struct mci_task *task) /* what on_task() of peer.c does with references */
{
	struct mci_rdma_peer *peer =
		(struct mci_rdma_peer *)((char *)task - offsetof(struct mci_rdma_peer, task));

	atomic_store(&peer->posted, false);
	mci_rdma_peer_put(peer);
}

static void nothing(void *arg) { (void)arg; }
static void settle_loops(struct world *w)
{
	unsigned int i, turn;

	for (turn = 0; turn < 3; turn++)
		for (i = 0; i < w->loops.count; i++)
			mci_loop_call(w->loops.loop[i], nothing, NULL);
}

static int world_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned int i;

	assert_int_equal(mci_loops_start("test", 2, &w->loops), 0);
	w->host.loops = &w->loops;
	w->rdma.host = &w->host;
	w->rdma.endpoints_max = 3;
	w->rdma.qps = 1;
	for (i = 0; i < 2; i++) {
		w->nic[i].rdma = &w->rdma;
		w->nic[i].index = (uint8_t)i;
		w->nic[i].up = true;
		w->nic[i].attr.link_layer = IBV_LINK_LAYER_ETHERNET;
		w->nic[i].link_layer = IBV_LINK_LAYER_ETHERNET;
		snprintf(w->nic[i].name, sizeof(w->nic[i].name), "nic%u", i);
		pthread_mutex_init(&w->nic[i].state_lock, NULL);
		w->rdma.device[i] = &w->nic[i];
	}
	w->rdma.device_count = 2;
	assert_int_equal(mci_rdma_pool_open(&w->rdma), 0);
	*state = w;
	return 0;
}

static int world_down(void **state)
{
	struct world *w = *state;

	mci_rdma_pool_close(&w->rdma);
	mci_loops_stop(&w->loops);
	free(w);
	return 0;
}

static struct mci_rdma_peer *peer_new(struct world *w)
{
	struct mci_rdma_peer *peer = calloc(1, sizeof(*peer));
	unsigned int i;

	peer->rdma = &w->rdma;
	peer->loop = w->loops.loop[0];
	peer->refs = 1;
	peer->task.fn = on_wake;
	peer->ports = 2;
	for (i = 0; i < 2; i++)
		peer->port[i] = (struct mci_rdma_port){.up = 1, .mtu = 3, .link = IBV_LINK_LAYER_ETHERNET};
	peer->rail = calloc(2 * MCI_RDMA_DEVICES_MAX, sizeof(*peer->rail));
	pthread_mutex_init(&peer->lock, NULL);
	pthread_cond_init(&peer->changed, NULL);
	return peer;
}

static bool take(struct mci_rdma_peer *peer, struct mci_rdma_endpoint *e)
{
	memset(e, 0, sizeof(*e));
	e->peer = peer;
	return mci_rdma_pool_take(peer, e);
}

/* An endpoint that works, from NIC @from to @to. */
static void up(struct mci_rdma_peer *peer, struct mci_rdma_endpoint *e, struct mci_rdma_queue *q,
	       unsigned int from, uint8_t to)
{
	e->peer = peer;
	e->device = peer->rdma->device[from];
	e->to = to;
	e->state = MCI_RDMA_UP;
	e->count = 1;
	e->queue[0] = q;
	mci_rdma_rail_of(peer, e->device, to)->endpoint = e;
}

/* ---- the pool ---- */

static void test_the_pool_evicts_the_oldest_that_was_not_used(void **state)
{
	struct mci_rdma_endpoint e[4];
	struct mci_rdma_peer *peer[4];
	struct world *w = *state;
	unsigned int i;

	for (i = 0; i < 4; i++)
		peer[i] = peer_new(w);
	for (i = 0; i < 3; i++) {
		assert_true(take(peer[i], &e[i]));
		mci_rdma_pool_settle(&e[i]);
	}
	atomic_store(&e[0].visited, true);
	assert_false(take(peer[3], &e[3]));
	settle_loops(w);
	assert_false(e[0].evict); /* spared, once */
	assert_true(e[1].evict);
	assert_false(e[2].evict);
	assert_false(take(peer[3], &e[3])); /* one leaves already: nobody else has to */
	settle_loops(w);
	assert_false(e[0].evict);
	assert_false(e[2].evict);
	assert_true(mci_rdma_pool_waits(peer[3]));
	mci_rdma_pool_give(&w->rdma, &e[1]);
	assert_true(take(peer[3], &e[3]));
	assert_false(mci_rdma_pool_waits(peer[3]));
	/* The hand goes on from where it was: 2 is next, though 0 is older. */
	mci_rdma_pool_settle(&e[3]);
	assert_false(take(peer[1], &e[1]));
	settle_loops(w);
	assert_true(e[2].evict);
	mci_rdma_pool_leave(peer[1]);
	for (i = 0; i < 4; i++) {
		if (i != 1)
			mci_rdma_pool_give(&w->rdma, &e[i]);
		mci_rdma_peer_put(peer[i]);
	}
}

static void test_what_was_just_opened_is_not_taken_away_before_it_was_used(void **state)
{
	struct mci_rdma_endpoint e[4];
	struct mci_rdma_peer *peer[4];
	struct world *w = *state;
	unsigned int i;

	for (i = 0; i < 4; i++)
		peer[i] = peer_new(w);
	for (i = 0; i < 3; i++)
		assert_true(take(peer[i], &e[i]));
	assert_false(take(peer[3], &e[3]));
	settle_loops(w);
	for (i = 0; i < 3; i++)
		assert_false(e[i].evict);
	mci_rdma_pool_settle(&e[2]); /* it carried something: now somebody can leave */
	settle_loops(w);
	assert_true(e[2].evict);
	assert_false(e[0].evict);
	for (i = 0; i < 3; i++)
		mci_rdma_pool_give(&w->rdma, &e[i]);
	mci_rdma_pool_leave(peer[3]);
	for (i = 0; i < 4; i++)
		mci_rdma_peer_put(peer[i]);
}

static void test_those_who_wait_come_first_and_in_their_order(void **state)
{
	struct mci_rdma_endpoint e[6];
	struct mci_rdma_peer *peer[5];
	struct world *w = *state;
	unsigned int i;

	for (i = 0; i < 5; i++)
		peer[i] = peer_new(w);
	for (i = 0; i < 3; i++) {
		assert_true(take(peer[i], &e[i]));
		e[i].next = peer[i]->endpoints;
		peer[i]->endpoints = &e[i];
	}
	assert_false(take(peer[3], &e[3]));
	assert_false(take(peer[4], &e[4]));
	mci_rdma_pool_give(&w->rdma, &e[0]);
	peer[0]->endpoints = NULL;
	assert_false(take(peer[1], &e[5])); /* a second one for who has one */
	assert_false(mci_rdma_pool_waits(peer[1]));
	assert_false(take(peer[4], &e[4])); /* not its turn */
	mci_rdma_pool_leave(peer[3]);	    /* gave up: nobody waits behind it for ever */
	assert_true(take(peer[4], &e[4]));
	assert_int_equal(atomic_load(&w->rdma.starving), 0);
	mci_rdma_pool_give(&w->rdma, &e[1]);
	mci_rdma_pool_give(&w->rdma, &e[2]);
	mci_rdma_pool_give(&w->rdma, &e[4]);
	settle_loops(w);
	for (i = 0; i < 5; i++)
		mci_rdma_peer_put(peer[i]);
}

static void test_a_late_completion_finds_no_other_endpoint(void **state)
{
	struct mci_rdma_endpoint e, other;
	struct world *w = *state;
	struct mci_rdma_peer *peer = peer_new(w);
	uint32_t number, stamp, i;

	assert_true(take(peer, &e));
	number = e.number;
	stamp = e.stamp;
	assert_ptr_equal(mci_rdma_pool_find(&w->rdma, number, stamp), peer);
	mci_rdma_peer_put(peer); /* the finder's reference */
	mci_rdma_pool_give(&w->rdma, &e);
	assert_null(mci_rdma_pool_find(&w->rdma, number, stamp));
	for (i = 0; i < 3; i++) { /* until the number comes again */
		assert_true(take(peer, &other));
		assert_null(mci_rdma_pool_find(&w->rdma, number, stamp));
		mci_rdma_pool_give(&w->rdma, &other);
	}
	assert_null(mci_rdma_pool_find(&w->rdma, 4000, 1));
	mci_rdma_peer_put(peer);
}

/* ---- rails ---- */

static void test_a_slice_takes_the_near_pair_with_the_least_to_do(void **state)
{
	static struct mci_rdma_queue queue[4];
	struct mci_rdma_endpoint e[4];
	struct world *w = *state;
	struct mci_rdma_peer *peer = peer_new(w);
	struct mci_rdma_queue *q;

	memset(e, 0, sizeof(e));
	memset(queue, 0, sizeof(queue));
	up(peer, &e[0], &queue[0], 0, 0);
	up(peer, &e[1], &queue[1], 1, 1);
	up(peer, &e[2], &queue[2], 0, 1);
	up(peer, &e[3], &queue[3], 1, 0);
	e[0].bytes = 100;
	e[1].bytes = 50;
	assert_ptr_equal(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q),
			 &e[1]); /* pairs of second choice stay out of it */
	assert_ptr_equal(q, &queue[1]);
	assert_ptr_equal(mci_rdma_rail_pick(peer, 1, 3, UINT32_MAX, &q), &e[0]); /* near to our memory */
	assert_ptr_equal(mci_rdma_rail_pick(peer, 3, 1, UINT32_MAX, &q), &e[0]); /* near to the peer's */
	queue[1].head = MCI_RDMA_DEPTH - 1;			     /* full */
	assert_ptr_equal(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q), &e[0]);
	queue[0].head = MCI_RDMA_DEPTH - 1;
	assert_null(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q)); /* wait for room instead of taking a detour */
	queue[0].head = queue[1].head = 0;
	w->nic[1].up = false;
	assert_ptr_equal(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q), &e[0]);
	peer->port[0].up = 0; /* what is left is a pair of second choice */
	assert_ptr_equal(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q), &e[2]);
	assert_null(mci_rdma_rail_pick(peer, 3, 3, 1, &q)); /* which there is no key for */
	atomic_store(&e[2].evict, true);
	mci_rdma_rail_of(peer, &w->nic[0], 0)->endpoint = NULL;
	assert_null(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q));
	mci_rdma_peer_put(peer);
}

static void test_a_pair_that_rests_is_woken_for(void **state)
{
	struct world *w = *state;
	struct mci_rdma_peer *peer = peer_new(w);
	uint64_t now = mci_now_ns();
	struct mci_rdma_queue *q;
	unsigned int i, j;

	assert_int_equal(mci_rdma_rail_wake(peer, now), 0);
	for (i = 0; i < 2; i++)
		for (j = 0; j < 2; j++)
			mci_rdma_rail_of(peer, &w->nic[i], (uint8_t)j)->rest_until =
				now + (1 + i + j) * MCI_NS_PER_S;
	assert_null(mci_rdma_rail_pick(peer, 3, 3, UINT32_MAX, &q)); /* and none is opened */
	assert_null(peer->endpoints);
	assert_int_equal(mci_rdma_rail_wake(peer, now), now + MCI_NS_PER_S);
	assert_int_equal(mci_rdma_rail_wake(peer, now + MCI_NS_PER_S), now + 2 * MCI_NS_PER_S);
	mci_rdma_peer_put(peer);
}

static void test_the_matrix_says_what_is_near(void **state)
{
	struct world *w = *state;

	w->host.options.rdma.matrix =
		"{\"cpu:0\": [[\"nic1\"], [\"nic0\"]], \"cpu:1\": [[], [\"nic0\", \"other\"]], "
		"\"cpu:2\": [[\"other\"]]}";
	w->rdma.matrix = mci_rdma_matrix(&w->rdma);
	assert_int_equal(mci_rdma_prefer(&w->rdma, "cpu:0"), 2);
	assert_int_equal(mci_rdma_prefer(&w->rdma, "cpu:1"), 1);
	assert_int_equal(mci_rdma_prefer(&w->rdma, "cpu:2"), UINT32_MAX);
	assert_int_equal(mci_rdma_prefer(&w->rdma, "cpu:9"), UINT32_MAX);
	w->rdma.device_count = 1; /* the near one is not used: the other, then */
	assert_int_equal(mci_rdma_prefer(&w->rdma, "cpu:0"), 1);
	json_decref(w->rdma.matrix);
	w->rdma.matrix = NULL;
}

static void test_nics_of_a_peer_are_learnt_from_its_descriptor(void **state)
{
	struct world *w = *state;
	struct mci_rdma_peer *peer = peer_new(w);
	struct mci_remote_region region = {.location = "cpu:0"};
	struct mci_rdma_remote remote = {0};
	struct mci_peer_info info = {.name = "peer"};
	json_t *json;

	peer->regions = &region;
	peer->remote = &remote;
	peer->count = 1;
	json = json_loads("{\"devices\": [{\"name\": \"a\"}, {\"name\": \"b\"}, {}], \"matrix\": {\"cpu:0\": "
			  "[[\"b\"], []]}}",
			  0, NULL);
	info.transport = json;
	assert_int_equal(mci_rdma_rails_learn(peer, &info), 0);
	assert_int_equal(peer->ports, 3);
	assert_string_equal(peer->port_name[1], "b");
	assert_string_equal(peer->port_name[2], "?");
	assert_int_equal(remote.prefer, 2);
	json_decref(json);
	json = json_loads("{\"devices\": []}", 0, NULL);
	info.transport = json;
	assert_int_equal(mci_rdma_rails_learn(peer, &info), -EOPNOTSUPP);
	json_decref(json);
	info.transport = NULL;
	assert_int_equal(mci_rdma_rails_learn(peer, &info), -EOPNOTSUPP);
	assert_int_equal(peer->ports, 3);
	peer->remote = NULL;
	peer->count = 0;
	mci_rdma_peer_put(peer);
}

#define in_world(f) cmocka_unit_test_setup_teardown(f, world_up, world_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_routed_ipv4_over_roce_v2_comes_first),
		cmocka_unit_test(test_a_gid_that_was_asked_for_is_used_or_refused),
		cmocka_unit_test(test_a_port_without_gids_says_what_to_do),
		in_world(test_the_pool_evicts_the_oldest_that_was_not_used),
		in_world(test_what_was_just_opened_is_not_taken_away_before_it_was_used),
		in_world(test_those_who_wait_come_first_and_in_their_order),
		in_world(test_a_late_completion_finds_no_other_endpoint),
		in_world(test_a_slice_takes_the_near_pair_with_the_least_to_do),
		in_world(test_a_pair_that_rests_is_woken_for),
		in_world(test_the_matrix_says_what_is_near),
		in_world(test_nics_of_a_peer_are_learnt_from_its_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
