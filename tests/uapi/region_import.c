// SPDX-License-Identifier: MIT
/* REGION_IMPORT: dma-bufs of other drivers: vgem, a dma-buf heap where there is one, the peer that hides its memory. */
#include "region.h"

#include <linux/dma-heap.h>

/* The few calls of a graphics device, whose header is not everywhere. */
struct drm_version {
	int version[3];
	size_t name_len;
	char *name;
	size_t date_len;
	char *date;
	size_t desc_len;
	char *desc;
};
struct drm_mode_create_dumb {
	uint32_t height, width, bpp, flags, handle, pitch;
	uint64_t size;
};
struct drm_prime_handle {
	uint32_t handle, flags;
	int32_t fd;
};
#define DRM_IOCTL_VERSION	     _IOWR('d', 0x00, struct drm_version)
#define DRM_IOCTL_PRIME_HANDLE_TO_FD _IOWR('d', 0x2d, struct drm_prime_handle)
#define DRM_IOCTL_MODE_CREATE_DUMB   _IOWR('d', 0xb2, struct drm_mode_create_dumb)

#define LENGTH (16 * PAGE)

static int try_import(int fd, int dmabuf, uint32_t *id, uint64_t *length)
{
	struct mooncake_region_import i = STRUCT(region_import);

	i.fd = dmabuf;
	if (ioctl(fd, MOONCAKE_REGION_IMPORT, &i))
		return -1;
	*id = i.id;
	if (length)
		*length = i.length;
	return 0;
}

static uint32_t import(int fd, int dmabuf)
{
	uint32_t id;

	if (try_import(fd, dmabuf, &id, NULL))
		FAIL("REGION_IMPORT: %s", strerror(errno));
	return id;
}

/* A dma-buf of LENGTH bytes of the virtual graphics memory, which is plain pages. */
static int vgem_dmabuf(void)
{
	struct drm_mode_create_dumb dumb = {.width = LENGTH / 4, .height = 1, .bpp = 32};
	struct drm_prime_handle prime = {.flags = O_CLOEXEC | O_RDWR};
	int card = -1;

	for (int i = 0; i < 4; i++) {
		struct drm_version version = {0};
		char path[32], name[16] = "";

		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		card = open(path, O_RDWR | O_CLOEXEC);
		version.name = name;
		version.name_len = sizeof(name) - 1;
		if (card >= 0 && !ioctl(card, DRM_IOCTL_VERSION, &version) && !strncmp(name, "vgem", 4))
			break;
		if (card >= 0)
			close(card);
		card = -1;
	}
	if (card < 0)
		SKIP("there is no vgem device");
	CHECK(ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb) == 0);
	prime.handle = dumb.handle;
	CHECK(ioctl(card, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) == 0);
	close(card);
	return prime.fd;
}

static int heap_dmabuf(void)
{
	struct dma_heap_allocation_data a = {.len = LENGTH, .fd_flags = O_RDWR | O_CLOEXEC};
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);

	if (heap < 0)
		SKIP("this kernel has no dma-buf heap");
	CHECK(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &a) == 0);
	close(heap);
	return a.fd;
}

static int hidden_dmabuf(void)
{
	struct peer_export e = {.length = LENGTH};
	int peer = peer_open();

	CHECK(ioctl(peer, PEER_EXPORT, &e) == 0);
	close(peer);
	return e.fd;
}

static void copies_both_ways(int dmabuf)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	char *seen = map(fd, b.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	char *theirs = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, 0);
	uint32_t id;
	uint64_t length;

	CHECK(try_import(fd, dmabuf, &id, &length) == 0);
	CHECK_EQ(length, LENGTH);
	close(dmabuf);
	fill(seen, LENGTH, 1);
	copy(fd, id, 0, b.id, 0, LENGTH);
	if (theirs != MAP_FAILED)
		CHECK_FILLED(theirs, LENGTH, 1);
	memset(seen, 0, LENGTH);
	copy(fd, b.id, 3, id, 3, LENGTH - 3);
	memset(seen, 0, 3);
	copy(fd, b.id, 0, id, 0, 3);
	CHECK_FILLED(seen, LENGTH, 1);
	if (theirs != MAP_FAILED) {
		fill(theirs, LENGTH, 2);
		copy(fd, b.id, 0, id, 0, LENGTH);
		CHECK_FILLED(seen, LENGTH, 2);
	}
}

static void test_vgem_memory_is_copied_both_ways(void) { copies_both_ways(vgem_dmabuf()); }

static void test_heap_memory_is_copied_both_ways(void) { copies_both_ways(heap_dmabuf()); }

static void test_an_import_says_what_it_is(void)
{
	int fd = device();
	struct mooncake_stat s = stat_object(fd, import(fd, vgem_dmabuf()));

	CHECK_EQ(s.kind, MOONCAKE_KIND_IMPORT);
	CHECK_EQ(s.length, LENGTH);
	CHECK_EQ(s.mmap_offset, 0);
}

static void test_copy_with_hidden_memory_is_refused(void)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	uint32_t id = import(fd, hidden_dmabuf());

	CHECK_ERR(try_copy(fd, b.id, 0, id, 0, PAGE), EOPNOTSUPP);
	CHECK_ERR(try_copy(fd, id, 0, b.id, 0, PAGE), EOPNOTSUPP);
}

/* The same dma-buf: same inode, and devices reach the same bytes. */
static void test_export_gives_the_same_dma_buf(void)
{
	int fd = device(), dmabuf = hidden_dmabuf(), again, peer = peer_open(), other = peer_open();
	char in[64] = "the same bytes", out[64];
	uint32_t id = import(fd, dmabuf);
	struct stat a, b;

	again = export_object(fd, id, MOONCAKE_EXPORT_WRITE);
	CHECK(fstat(dmabuf, &a) == 0 && fstat(again, &b) == 0);
	CHECK_EQ(a.st_ino, b.st_ino);
	CHECK(fcntl(again, F_GETFD) & FD_CLOEXEC);
	peer_attach(peer, dmabuf, 0);
	peer_attach(other, again, 0);
	peer_write(peer, 8 * PAGE + 5, in, sizeof(in));
	peer_read(other, 8 * PAGE + 5, out, sizeof(out));
	CHECK(!memcmp(in, out, sizeof(in)));
}

static void test_an_import_keeps_the_memory(void)
{
	int fd = device(), dmabuf = hidden_dmabuf(), peer = peer_open();
	char in[64] = "still there", out[64];
	uint32_t id;

	peer_attach(peer, dmabuf, 0);
	peer_write(peer, 0, in, sizeof(in));
	close(peer);
	id = import(fd, dmabuf);
	close(dmabuf);
	peer = peer_open();
	peer_attach(peer, export_object(fd, id, 0), 0);
	peer_read(peer, 0, out, sizeof(out));
	CHECK(!memcmp(in, out, sizeof(in)));
}

static void test_an_import_cannot_be_granted_or_replaced(void)
{
	int fd = device(), other = device();
	uint32_t id = import(fd, hidden_dmabuf());
	struct mooncake_grant g = grant_for(other, id, MOONCAKE_RIGHT_READ);
	struct mooncake_revoke r;

	CHECK_ERR(ioctl(fd, MOONCAKE_GRANT, &g), EOPNOTSUPP);
	CHECK_ERR(try_revoke(fd, id, MOONCAKE_REVOKE_REPLACE, &r), EOPNOTSUPP);
}

static void test_what_is_no_dma_buf_is_refused(void)
{
	int fd = device();
	uint32_t id;

	CHECK_ERR(try_import(fd, -1, &id, NULL), EBADF);
	CHECK_ERR(try_import(fd, 12345, &id, NULL), EBADF);
	CHECK_ERR(try_import(fd, fd, &id, NULL), EINVAL);
	CHECK_ERR(try_import(fd, open("/dev/null", O_RDWR), &id, NULL), EINVAL);
}

/* Our own dma-buf comes back as a stranger's: nothing of it is mapped for CPUs but through our own calls. */
static void test_our_own_dma_buf_can_be_imported_and_not_copied(void)
{
	int fd = device();
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	int dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	uint32_t id = import(fd, dmabuf);

	close(dmabuf);
	CHECK_ERR(try_copy(fd, id, 0, b.id, 0, PAGE), EOPNOTSUPP);
	destroy(fd, b.id);
	CHECK_EQ(stat_object(fd, id).length, LENGTH);
}

/* What was handed out to be read is not written by way of the module. */
static void test_a_read_only_dma_buf_cannot_be_written(void)
{
	int fd = device(), dmabuf;
	struct mooncake_buffer_alloc b = alloc_buffer(fd, LENGTH);
	uint32_t id;

	dmabuf = export_object(fd, b.id, 0);
	id = import(fd, dmabuf);
	close(dmabuf);
	CHECK_EQ(stat_object(fd, id).rights, MOONCAKE_RIGHT_READ);
	CHECK_ERR(try_copy(fd, id, 0, b.id, 0, PAGE), EACCES);
	CHECK_ERR(try_export(fd, id, MOONCAKE_EXPORT_WRITE), EACCES);
	export_object(fd, id, 0);
	dmabuf = export_object(fd, b.id, MOONCAKE_EXPORT_WRITE);
	CHECK_EQ(stat_object(fd, import(fd, dmabuf)).rights, RW);
}

static const struct test tests[] = {
	TEST(test_vgem_memory_is_copied_both_ways),
	TEST(test_heap_memory_is_copied_both_ways),
	TEST(test_an_import_says_what_it_is),
	TEST(test_copy_with_hidden_memory_is_refused),
	TEST(test_export_gives_the_same_dma_buf),
	TEST(test_an_import_keeps_the_memory),
	TEST(test_an_import_cannot_be_granted_or_replaced),
	TEST(test_what_is_no_dma_buf_is_refused),
	TEST(test_our_own_dma_buf_can_be_imported_and_not_copied),
	TEST(test_a_read_only_dma_buf_cannot_be_written),
};

int main(int argc, char **argv)
{
	/* What a distribution loads on demand, and a guest does not. */
	if (system("modprobe vgem 2>/dev/null"))
		printf("note: no vgem here\n");
	return run_tests(tests, ARRAY_SIZE(tests), argc, argv);
}
