// SPDX-License-Identifier: MIT
/* EXPORT: what devices and processes reach through our dma-bufs, and until when. */
#include "region.h"

#define LENGTH (600 * PAGE) /* more than one block */

static uint32_t attached_to(int fd, uint32_t id) { return stat_object(fd, id).dmabuf_attached; }

static void device_moves_bytes(uint32_t flags)
{
	int fd = device(), peer = peer_open();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *seen = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	char *moved = map_anon(LENGTH);

	CHECK_EQ(peer_attach(peer, export_object(fd, b.id, MOONCAKE_EXPORT_WRITE), flags).length, LENGTH);
	CHECK_EQ(attached_to(fd, b.id), 1);
	fill(seen, LENGTH, 1);
	peer_read(peer, 0, moved, LENGTH);
	CHECK_FILLED(moved, LENGTH, 1);
	fill(moved, LENGTH, 2);
	peer_write(peer, 0, moved, LENGTH);
	CHECK_FILLED(seen, LENGTH, 2);
	close(peer);
	CHECK_EQ(attached_to(fd, b.id), 0);
}

static void test_a_static_device_moves_bytes(void) { device_moves_bytes(0); }

static void test_a_dynamic_device_moves_bytes(void) { device_moves_bytes(PEER_DYNAMIC); }

static void test_a_device_that_pins_moves_bytes(void) { device_moves_bytes(PEER_PINNED); }

static void test_a_pin_is_reached_by_devices_and_not_mapped(void)
{
	int fd = device(), peer = peer_open(), dmabuf;
	char *p = map_anon(LENGTH), *moved = map_anon(LENGTH);
	uint32_t id = pin(fd, p, LENGTH);

	dmabuf = export_object(fd, id, MOONCAKE_EXPORT_WRITE);
	CHECK_ERR((long)mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, dmabuf, 0), EOPNOTSUPP);
	peer_attach(peer, dmabuf, 0);
	fill(p, LENGTH, 3);
	peer_read(peer, 0, moved, LENGTH);
	CHECK_FILLED(moved, LENGTH, 3);
	fill(moved, LENGTH, 4);
	peer_write(peer, 0, moved, LENGTH);
	CHECK_FILLED(p, LENGTH, 4);
}

static void test_a_dma_buf_keeps_the_memory_and_not_the_id(void)
{
	int fd = device(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *seen = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	struct mooncake_stat s;

	fill(seen, LENGTH, 5);
	dmabuf = export_object(fd, b.id, 0);
	CHECK(fcntl(dmabuf, F_GETFD) & FD_CLOEXEC);
	CHECK_EQ(stat_object(fd, b.id).dmabufs, 1);
	CHECK(munmap(seen, LENGTH) == 0);
	destroy(fd, b.id);
	CHECK_ERR(try_stat(fd, b.id, &s), ENOENT);
	close(fd);
	seen = mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, dmabuf, 0);
	CHECK(seen != MAP_FAILED);
	CHECK_FILLED(seen, LENGTH, 5);
	CHECK_EQ(lseek(dmabuf, 0, SEEK_END), LENGTH);
}

static void test_a_mapping_of_the_dma_buf_is_the_memory(void)
{
	int fd = device(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *seen = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE), *p;

	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	p = mmap(NULL, LENGTH - 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 2 * PAGE);
	CHECK(p != MAP_FAILED);
	fill(p, LENGTH - 2 * PAGE, 6);
	CHECK_FILLED(seen + 2 * PAGE, LENGTH - 2 * PAGE, 6);
	CHECK_ERR((long)mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, dmabuf, PAGE), EINVAL);
	CHECK_ERR((long)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, dmabuf, 0), EINVAL);
}

static void test_without_write_nobody_writes(void)
{
	int fd = device(), peer = peer_open(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	struct peer_attach a;
	char *p;

	dmabuf = export_object(fd, b.id, 0);
	CHECK_ERR((long)mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0), EACCES);
	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, dmabuf, 0);
	CHECK(p != MAP_FAILED);
	CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_WRITE), EACCES);
	/* A device that may write cannot be held to reading. */
	CHECK_ERR(try_peer_attach(peer, dmabuf, 0, &a), EACCES);
	CHECK_ERR(try_peer_attach(peer, dmabuf, PEER_DYNAMIC, &a), EACCES);
	CHECK_EQ(attached_to(fd, b.id), 0);
}

static void test_an_attachment_without_the_right_is_not_exported_to_write(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	struct mooncake_attach a = share(fd, b.id, other, MOONCAKE_RIGHT_READ);

	CHECK_ERR(try_export(other, a.id, MOONCAKE_EXPORT_WRITE), EACCES);
	export_object(other, a.id, 0);
}

static void test_an_attachment_exports_its_range_alone(void)
{
	int fd = device(), other = device(), peer = peer_open(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *seen = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE), *p;
	struct mooncake_grant g = grant_for(other, b.id, RW);
	char *moved = map_anon(8 * PAGE);

	g.offset = 508 * PAGE;
	g.length = 8 * PAGE;
	CHECK(ioctl(fd, MOONCAKE_GRANT, &g) == 0);
	dmabuf = export_object(other, attach(other, g.key).id, MOONCAKE_EXPORT_WRITE);
	CHECK_EQ(lseek(dmabuf, 0, SEEK_END), 8 * PAGE);
	CHECK_EQ(peer_attach(peer, dmabuf, 0).length, 8 * PAGE);
	fill(seen + 508 * PAGE, 8 * PAGE, 7);
	peer_read(peer, 0, moved, 8 * PAGE);
	CHECK_FILLED(moved, 8 * PAGE, 7);
	p = mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, dmabuf, 0);
	CHECK(p != MAP_FAILED);
	CHECK_FILLED(p, 8 * PAGE, 7);
	CHECK_ERR((long)mmap(NULL, 9 * PAGE, PROT_READ, MAP_SHARED, dmabuf, 0), EINVAL);
}

/* ---- revocation ---- */

static void test_revoking_the_grant_zaps_the_dma_buf_of_the_attachment(void)
{
	int fd = device(), other = device(), peer = peer_open(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	struct mooncake_grant g = grant(fd, b.id, other, RW);
	struct mooncake_attach a = attach(other, g.key);
	struct mooncake_revoke r = STRUCT(revoke);
	struct peer_attach at;
	char byte[8];
	char *p;

	catch_bus();
	dmabuf = export_object(other, a.id, MOONCAKE_EXPORT_WRITE);
	p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	CHECK(p != MAP_FAILED);
	memset(p, 8, LENGTH);
	peer_attach(peer, dmabuf, PEER_DYNAMIC);
	r.flags = MOONCAKE_REVOKE_GRANT;
	r.grant = g.grant;
	CHECK(ioctl(fd, MOONCAKE_REVOKE, &r) == 0);
	CHECK_EQ(r.dmabuf_attached, 1);
	for (uint64_t i = 0; i < LENGTH; i += PAGE)
		CHECK_EQ(peek(p + i, NULL), SIGBUS);
	CHECK_EQ(poke(p, 1), SIGBUS);
	/* The device was told, let go, and cannot come back. */
	CHECK_EQ(peer_state(peer).notified, 1);
	CHECK_EQ(peer_state(peer).mapped, 0);
	CHECK_ERR(try_peer_move(peer, 0, byte, 8, 0), ESTALE);
	close(peer);
	peer = peer_open();
	CHECK_ERR(try_peer_attach(peer, dmabuf, 0, &at), ESTALE);
	CHECK_ERR((long)mmap(NULL, PAGE, PROT_READ, MAP_SHARED, dmabuf, 0), ESTALE);
	CHECK_ERR(try_export(other, a.id, 0), ESTALE);
	/* The owner's use is what it was. */
	CHECK_EQ(((char *)map(fd, b.mmap_offset, PAGE, PROT_READ))[0], 8);
}

static void test_revoking_tells_dynamic_devices_and_counts_those_that_pin(void)
{
	int fd = device(), dynamic = peer_open(), pinned = peer_open(), fixed = peer_open(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	struct mooncake_revoke r;
	char byte[8];

	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	peer_attach(dynamic, dmabuf, PEER_DYNAMIC);
	peer_attach(pinned, dmabuf, PEER_PINNED);
	peer_attach(fixed, dmabuf, 0);
	r = revoke_object(fd, b.id, 0);
	CHECK_EQ(r.dmabuf_attached, 3);
	CHECK_EQ(peer_state(dynamic).notified, 1);
	CHECK_EQ(peer_state(pinned).notified, 0);
	CHECK_EQ(peer_state(pinned).mapped, 1);
	/* The owner's use goes on, so what is his may map again. */
	peer_read(dynamic, 0, byte, sizeof(byte));
	CHECK_EQ(peer_state(dynamic).mapped, 1);
}

static void test_replacing_moves_devices_to_fresh_pages(void)
{
	int fd = device(), dynamic = peer_open(), fixed = peer_open(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *seen = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE), *p;
	char *moved = map_anon(LENGTH);

	fill(seen, LENGTH, 9);
	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	CHECK(p != MAP_FAILED);
	CHECK_FILLED(p, LENGTH, 9);
	peer_attach(dynamic, dmabuf, PEER_DYNAMIC);
	peer_attach(fixed, dmabuf, 0);
	revoke_object(fd, b.id, MOONCAKE_REVOKE_REPLACE);
	CHECK_EQ(peer_state(dynamic).notified, 1);
	/* All that follow see the new memory, */
	CHECK_ZERO(seen, LENGTH);
	CHECK_ZERO(p, LENGTH);
	peer_read(dynamic, 0, moved, LENGTH);
	CHECK_ZERO(moved, LENGTH);
	fill(moved, LENGTH, 10);
	peer_write(dynamic, 0, moved, LENGTH);
	CHECK_FILLED(seen, LENGTH, 10);
	CHECK_FILLED(p, LENGTH, 10);
	/* and who could not move writes into orphans. */
	peer_read(fixed, 0, moved, LENGTH);
	CHECK_FILLED(moved, LENGTH, 9);
	fill(moved, LENGTH, 11);
	peer_write(fixed, 0, moved, LENGTH);
	CHECK_FILLED(seen, LENGTH, 10);
}

static void test_memory_stays_with_a_device_after_all_else_is_gone(void)
{
	int fd = device(), peer = peer_open(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *moved = map_anon(LENGTH);

	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	peer_attach(peer, dmabuf, 0);
	close(dmabuf);
	destroy(fd, b.id);
	close(fd);
	fill(moved, LENGTH, 12);
	peer_write(peer, 0, moved, LENGTH);
	memset(moved, 0, LENGTH);
	peer_read(peer, 0, moved, LENGTH);
	CHECK_FILLED(moved, LENGTH, 12);
}

/* One thread exports, attaches, maps and lets go, the other revokes what it does it to. */
struct race {
	int fd, other;
	uint32_t id;
	volatile int over;
};

static void *exporter(void *arg)
{
	struct race *race = arg;
	int peer = peer_open();
	struct peer_attach a;
	char byte[8];

	while (!race->over) {
		struct mooncake_grant g = grant_for(race->other, race->id, RW);
		struct mooncake_attach at;
		int dmabuf;
		char *p;

		CHECK(ioctl(race->fd, MOONCAKE_GRANT, &g) == 0);
		if (try_attach(race->other, g.key, &at)) {
			CHECK_EQ(errno, ENOENT);
			continue;
		}
		dmabuf = try_export(race->other, at.id, MOONCAKE_EXPORT_WRITE);
		CHECK(dmabuf >= 0 || errno == ESTALE);
		if (dmabuf >= 0) {
			if (try_peer_attach(peer, dmabuf, PEER_DYNAMIC, &a))
				CHECK_EQ(errno, ESTALE);
			else if (try_peer_move(peer, 0, byte, sizeof(byte), 0))
				CHECK_EQ(errno, ESTALE);
			p = mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, dmabuf, 0);
			CHECK(p != MAP_FAILED || errno == ESTALE);
			close(dmabuf);
			if (p != MAP_FAILED) {
				int sig = peek(p, NULL);

				CHECK(!sig || sig == SIGBUS);
				munmap(p, LENGTH);
			}
			CHECK(ioctl(peer, PEER_DETACH) == 0);
		}
		destroy(race->other, at.id);
	}
	return NULL;
}

static void test_export_races_with_revoke(void)
{
	struct race race = {.fd = device(), .other = device()};
	struct mooncake_revoke r;
	pthread_t thread;

	catch_bus();
	race.id = alloc_buffer(race.fd, LENGTH).id;
	CHECK(!pthread_create(&thread, NULL, exporter, &race));
	for (int i = 0; i < 200; i++)
		CHECK(try_revoke(race.fd, race.id, i % 4 ? 0 : MOONCAKE_REVOKE_REPLACE, &r) == 0);
	race.over = 1;
	pthread_join(thread, NULL);
}

static const struct test tests[] = {
	TEST(test_a_static_device_moves_bytes),
	TEST(test_a_dynamic_device_moves_bytes),
	TEST(test_a_device_that_pins_moves_bytes),
	TEST(test_a_pin_is_reached_by_devices_and_not_mapped),
	TEST(test_a_dma_buf_keeps_the_memory_and_not_the_id),
	TEST(test_a_mapping_of_the_dma_buf_is_the_memory),
	TEST(test_without_write_nobody_writes),
	TEST(test_an_attachment_without_the_right_is_not_exported_to_write),
	TEST(test_an_attachment_exports_its_range_alone),
	TEST(test_revoking_the_grant_zaps_the_dma_buf_of_the_attachment),
	TEST(test_revoking_tells_dynamic_devices_and_counts_those_that_pin),
	TEST(test_replacing_moves_devices_to_fresh_pages),
	TEST(test_memory_stays_with_a_device_after_all_else_is_gone),
	TEST(test_export_races_with_revoke),
};
RUN_TESTS(tests)
