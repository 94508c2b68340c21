// SPDX-License-Identifier: MIT
/*
 * The server of the classic data protocol, against the bytes that classic programs put on the wire, and our
 * client against our server.
 */
#include <sys/resource.h>

#include "unit/classic_fixture.h"

static struct mci_region *add_region(uint8_t *memory, size_t length, uint32_t rights, bool classic)
{
	struct mci_region *region = calloc(1, sizeof(*region));

	region->addr = memory;
	region->length = length;
	region->rights = rights;
	region->classic = classic;
	region->memfd = -1;
	assert_int_equal(mci_regions_add(f.host.regions, region), 0);
	return region;
}

static void remove_region(struct mci_region *region)
{
	assert_int_equal(mci_regions_retire(f.host.regions, region, true), 0);
	assert_int_equal(mci_regions_remove(f.host.regions, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	free(region);
}

static uint16_t server_port(void)
{
	json_t *mine = json_object();
	uint16_t port;

	assert_int_equal(mci_transport_classic.describe(f.transport, mine), f.host.options.classic ? 0 : -EOPNOTSUPP);
	port = (uint16_t)json_integer_value(json_object_get(mine, "port"));
	json_decref(mine);
	return port;
}

static int call_server(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(server_port())};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

static void ask(int fd, uint8_t opcode, const void *addr, uint64_t size)
{
	uint8_t header[24];

	memset(header, 0xee, sizeof(header)); /* padding is undefined: it must be ignored */
	mci_put64(header, size);
	mci_put64(header + 8, (uintptr_t)addr);
	header[16] = opcode;
	put(fd, header, 24);
}

static void test_server_is_off_unless_asked_for(void **state)
{
	(void)state;
	assert_int_equal(server_port(), 0);
}

static void test_server_takes_many_requests_of_both_versions_on_one_connection(void **state)
{
	uint8_t *memory = pattern(65536, 9), *data = pattern(65536, 10), got[4096];
	struct mci_region *region;
	int fd, i;

	(void)state;
	region = add_region(memory, 65536, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	fd = call_server();
	for (i = 0; i < 8; i++) {
		ask(fd, 0x81, memory + 4096 * i, 4096);
		put(fd, data + 4096 * i, 4096);
		expect_bytes(fd, status_ok, 8);
		assert_memory_equal(memory + 4096 * i, data + 4096 * i, 4096);
		ask(fd, 0x80, memory + 4096 * i, 4096);
		expect_bytes(fd, status_ok, 8);
		get(fd, got, 4096);
		assert_memory_equal(got, data + 4096 * i, 4096);
		ask(fd, 0x01, memory + 4096 * i, 100);
		put(fd, memory, 100);
		ask(fd, 0x00, memory + 4096 * i, 100);
		get(fd, got, 100);
		assert_memory_equal(got, memory, 100);
		ask(fd, 0x85, memory, 16); /* every operation but 1 is a read */
		expect_bytes(fd, status_ok, 8);
		expect_bytes(fd, memory, 16);
	}
	/* The last answer may be here a moment before its request is counted. */
	for (i = 0; i < 1000 && atomic_load(&f.host.stats.served_reads) != 24; i++)
		poll(NULL, 0, 10);
	assert_int_equal(f.host.stats.served_writes, 16);
	assert_int_equal(f.host.stats.served_reads, 24);
	assert_int_equal(f.host.stats.served_bytes_written, 8 * (4096 + 100));
	close(fd);
	remove_region(region);
	free(memory);
	free(data);
}

static void test_server_rejects_whatever_is_not_inside_one_classic_region(void **state)
{
	uint8_t *memory = pattern(16384, 9), before[16384];
	struct mci_region *one, *two, *hidden, *read_only;
	struct {
		uint8_t opcode;
		void *addr;
		uint64_t size;
	} cases[] = {
		{0x80, memory, 0},	     {0x81, memory, 0},		 {0x80, memory - 1, 2},
		{0x81, memory, 4097},					/* into the neighbour */
		{0x81, memory + 4096, 4097}, {0x80, memory + 8192, 16}, /* not flagged classic */
		{0x81, memory + 12288, 16},				/* read only */
		{0x80, (void *)8, 16},	     {0x80, memory, UINT64_MAX}, {0x81, (void *)UINTPTR_MAX, 2},
	};
	size_t i;
	int fd;

	(void)state;
	memcpy(before, memory, sizeof(before));
	one = add_region(memory, 4096, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	two = add_region(memory + 4096, 4096, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	hidden = add_region(memory + 8192, 4096, MC_REMOTE_READ | MC_REMOTE_WRITE, false);
	read_only = add_region(memory + 12288, 4096, MC_REMOTE_READ, true);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fd = call_server();
		ask(fd, cases[i].opcode, cases[i].addr, cases[i].size);
		expect_bytes(fd, status_rejected, 8);
		expect_closed(fd);
		close(fd);
		fd = call_server();
		ask(fd, cases[i].opcode & 0x7f, cases[i].addr, cases[i].size);
		expect_closed(fd); /* v1: closing says it all */
		close(fd);
	}
	assert_int_equal(f.host.stats.refused, 2 * sizeof(cases) / sizeof(cases[0]));
	assert_memory_equal(memory, before, sizeof(before));
	remove_region(one);
	remove_region(two);
	remove_region(hidden);
	remove_region(read_only);
	free(memory);
}

static void test_rejection_reaches_a_client_that_is_still_sending(void **state)
{
	uint8_t *data = calloc(1, 1 << 20);
	int fd, i;

	(void)state;
	fd = call_server();
	ask(fd, 0x81, data, 16 << 20);
	for (i = 0; i < 16; i++)
		put(fd, data, 1 << 20);
	expect_bytes(fd, status_rejected, 8);
	expect_closed(fd);
	close(fd);
	free(data);
}

static void test_half_a_frame_holds_nothing_once_the_client_is_gone(void **state)
{
	uint8_t *memory = calloc(1, 4096);
	struct mci_region *region;
	int fd;

	(void)state;
	region = add_region(memory, 4096, MC_REMOTE_WRITE, true);
	fd = call_server();
	ask(fd, 0x81, memory, 4096);
	put(fd, "abc", 3);
	close(fd);
	remove_region(region);
	free(memory);
}

static void test_stuck_transfer_does_not_hold_up_unregistering(void **state)
{
	uint8_t *memory = calloc(1, 4096);
	struct mci_region *region;
	uint64_t begin = mci_now_ns();
	int fd;

	(void)state;
	region = add_region(memory, 4096, MC_REMOTE_WRITE, true);
	fd = call_server();
	ask(fd, 0x81, memory, 4096);
	put(fd, "abc", 3);
	while (!atomic_load(&region->users))
		assert_true(mci_now_ns() - begin < 20 * MCI_NS_PER_S);
	assert_int_equal(mci_regions_retire(f.host.regions, region, true), 0);
	assert_int_equal(
		mci_transport_classic.region_remove(f.transport, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	assert_int_equal(mci_regions_remove(f.host.regions, region, mci_now_ns() + 3 * MCI_NS_PER_S), 0);
	expect_closed(fd);
	close(fd);
	free(region);
	free(memory);
}

static void test_stalled_clients_are_closed_and_idle_ones_kept(void **state)
{
	uint8_t *memory = calloc(2, 4096);
	struct mci_region *region;
	int silent, header, payload, idle;

	(void)state;
	region = add_region(memory, 8192, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
	mci_classic_stall_ns = 200 * MCI_NS_PER_MS;
	silent = call_server();
	header = call_server();
	put(header, "abc", 3);
	payload = call_server();
	ask(payload, 0x81, memory, 4096);
	put(payload, "abc", 3);
	idle = call_server();
	ask(idle, 0x80, memory + 4096, 16);
	expect_bytes(idle, status_ok, 8);
	expect_bytes(idle, memory + 4096, 16);
	expect_closed(silent);
	expect_closed(header);
	expect_closed(payload);
	mci_classic_stall_ns = 30 * MCI_NS_PER_S;
	ask(idle, 0x80, memory + 4096, 16);
	expect_bytes(idle, status_ok, 8);
	expect_bytes(idle, memory + 4096, 16);
	close(silent);
	close(header);
	close(payload);
	close(idle);
	remove_region(region);
	free(memory);
}

static void test_server_bounds_its_connections(void **state)
{
	struct rlimit limit;
	int *fds = calloc(1025, sizeof(int)), i, open = 0;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 2200)
		skip();
	for (i = 0; i < 1025; i++)
		fds[i] = call_server();
	/* Which one is refused is the kernel's choice of order: exactly one is. */
	for (i = 0; i < 1025; i++) {
		if (i == 1024)
			expect_closed(fds[i]);
		else if (!readable(fds[i], 0))
			open++;
	}
	assert_int_equal(open, 1024);
	assert_int_equal(f.host.stats.refused, 1);
	for (i = 0; i < 1025; i++)
		close(fds[i]);
	free(fds);
}

/* ---- both ---- */

static void test_client_and_server_agree_and_stop_allocating(void **state)
{
	enum { COUNT = 200, SIZE = 70000 };
	uint8_t *memory = calloc(COUNT, SIZE), *data = pattern((size_t)COUNT * SIZE, 5),
		*back = calloc(COUNT, SIZE);
	struct result *r = calloc(COUNT, sizeof(*r));
	struct mci_region *region;
	uint64_t allocs;
	int i, version;

	(void)state;
	f.remote.base = (uintptr_t)memory;
	f.remote.length = (size_t)COUNT * SIZE;
	for (version = 2; version >= 1; version--) {
		memset(memory, 0, (size_t)COUNT * SIZE);
		memset(back, 0, (size_t)COUNT * SIZE);
		region = add_region(memory, (size_t)COUNT * SIZE, MC_REMOTE_READ | MC_REMOTE_WRITE, true);
		describe(server_port(), version);
		assert_int_equal(open_peer(), 0);
		for (i = 0; i < COUNT; i++)
			submit(&r[i], MCI_OP_WRITE, (uint64_t)i * SIZE, data + (size_t)i * SIZE, SIZE,
			       2 * SOON_MS);
		for (i = 0; i < COUNT; i++) {
			expect_final(&r[i], MC_DONE, 0);
			assert_int_equal(r[i].flags, version == 1 ? MC_STATUS_UNCONFIRMED : 0);
		}
		assert_memory_equal(memory, data, (size_t)COUNT * SIZE);
		allocs = f.host.stats.allocs;
		for (i = 0; i < COUNT; i++)
			submit(&r[i], MCI_OP_READ, (uint64_t)i * SIZE, back + (size_t)i * SIZE, SIZE,
			       2 * SOON_MS);
		for (i = 0; i < COUNT; i++)
			expect_final(&r[i], MC_DONE, 0);
		assert_memory_equal(back, data, (size_t)COUNT * SIZE);
		assert_true(f.host.stats.allocs <= allocs + (version == 1 ? 8 : 0));
		mci_transport_classic.peer_close(f.peer);
		f.peer = NULL;
		remove_region(region);
	}
	free(r);
	free(memory);
	free(data);
	free(back);
}

static void test_engine_closes_with_connections_open_and_requests_stuck_on_the_far_side(void **state)
{
	uint8_t *memory = calloc(1, 4096);
	struct mci_region *region;
	int fd, idle;

	(void)state;
	region = add_region(memory, 4096, MC_REMOTE_WRITE, true);
	idle = call_server();
	fd = call_server();
	ask(fd, 0x81, memory, 4096);
	put(fd, "abc", 3);
	mci_transport_classic.close(f.transport);
	expect_closed(fd);
	expect_closed(idle);
	close(fd);
	close(idle);
	remove_region(region);
	f.host.options.classic = false;
	assert_int_equal(mci_transport_classic.open(&f.host, &f.transport), 0);
	free(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CLIENT(test_server_is_off_unless_asked_for),
		SERVER(test_server_takes_many_requests_of_both_versions_on_one_connection),
		SERVER(test_server_rejects_whatever_is_not_inside_one_classic_region),
		SERVER(test_rejection_reaches_a_client_that_is_still_sending),
		SERVER(test_half_a_frame_holds_nothing_once_the_client_is_gone),
		SERVER(test_stuck_transfer_does_not_hold_up_unregistering),
		SERVER(test_stalled_clients_are_closed_and_idle_ones_kept),
		SERVER(test_server_bounds_its_connections),
		SERVER(test_client_and_server_agree_and_stop_allocating),
		SERVER(test_engine_closes_with_connections_open_and_requests_stuck_on_the_far_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
