// SPDX-License-Identifier: MIT
/* vm: short */
/* BUFFER_ALLOC, mmap of a buffer, DESTROY, QUERY, STAT, and what is left when a process dies. */
#define TEST_SECONDS 400 /* 8 GiB are zeroed, where there is that much */
#include "uapi.h"
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static void test_query_tells_what_is_there(void)
{
	int fd = device(), other = device();
	struct mooncake_query q = query(fd), r = query(other);
	static const uint8_t zero[MOONCAKE_KEY_SIZE];

	CHECK_EQ(q.size, sizeof(q));
	CHECK_EQ(q.abi_version, MOONCAKE_ABI_VERSION);
	CHECK_EQ(q.page_size, PAGE);
	CHECK(q.features & MOONCAKE_FEATURE_KEEP);
	CHECK(q.length_max >= 1ull << 30 && q.length_max <= MOONCAKE_LENGTH_MAX);
	CHECK(memcmp(q.context_id, zero, sizeof(zero)));
	CHECK(memcmp(q.context_id, r.context_id, sizeof(zero)));
	CHECK_EQ(q.objects, 0);
	CHECK(q.objects_max >= 1024);
	alloc_buffer(fd, PAGE);
	CHECK_EQ(query(fd).objects, 1);
	CHECK_EQ(query(other).objects, 0);
	CHECK(!memcmp(query(fd).context_id, q.context_id, sizeof(zero)));
}

static void test_buffer_is_zeroed(void)
{
	int fd = device();

	/* Dirty some memory first, so that pages that are not cleared show. */
	for (int round = 0; round < 3; round++) {
		struct mooncake_buffer_alloc a = alloc_buffer(fd, 16 << 20);
		char *p = map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE);

		CHECK_ZERO(p, a.length);
		fill(p, a.length, round);
		munmap(p, a.length);
		destroy(fd, a.id);
	}
}

static void test_length_is_rounded_up_to_whole_pages(void)
{
	static const uint64_t asked[] = {
		1, PAGE - 1, PAGE, PAGE + 1, (2 << 20) - 1, (2 << 20) + 1, 3 * PAGE + 17};
	int fd = device();

	for (size_t i = 0; i < ARRAY_SIZE(asked); i++) {
		struct mooncake_buffer_alloc a = alloc_buffer(fd, asked[i]);
		uint64_t length = (asked[i] + PAGE - 1) & ~(PAGE - 1);
		struct mooncake_stat s;

		CHECK_EQ(a.length, length);
		s = stat_object(fd, a.id);
		CHECK_EQ(s.length, length);
		CHECK_EQ(s.pages, length / PAGE);
		CHECK_EQ(a.mmap_offset % PAGE, 0);
		CHECK_EQ(s.mmap_offset, a.mmap_offset);
		CHECK_EQ(a.generation, 1);
		CHECK_EQ(s.generation, 1);
		CHECK(!memcmp(s.content_id, a.content_id, sizeof(a.content_id)));
		destroy(fd, a.id);
	}
}

static void test_content_ids_and_mmap_offsets_are_never_shared(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a[64];

	for (int i = 0; i < 64; i++)
		a[i] = alloc_buffer(i % 2 ? fd : other, PAGE * (1 + i % 3));
	for (int i = 0; i < 64; i++)
		for (int k = 0; k < i; k++) {
			CHECK(memcmp(a[i].content_id, a[k].content_id, MOONCAKE_KEY_SIZE));
			CHECK(a[i].mmap_offset >= a[k].mmap_offset + a[k].length ||
			      a[k].mmap_offset >= a[i].mmap_offset + a[i].length);
		}
}

static void test_ids_are_lowest_first_and_used_again(void)
{
	int fd = device();

	for (uint32_t i = 1; i <= 5; i++)
		CHECK_EQ(alloc_buffer(fd, PAGE).id, i);
	destroy(fd, 2);
	destroy(fd, 4);
	CHECK_EQ(alloc_buffer(fd, PAGE).id, 2);
	CHECK_EQ(alloc_buffer(fd, PAGE).id, 4);
	CHECK_EQ(alloc_buffer(fd, PAGE).id, 6);
}

static void test_keep_key_is_zero_without_keep(void)
{
	static const uint8_t zero[MOONCAKE_KEY_SIZE];
	struct mooncake_buffer_alloc a = alloc_buffer(device(), PAGE);

	CHECK(!memcmp(a.keep_key, zero, sizeof(zero)));
}

static void test_two_mappings_show_the_same_memory(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 8 * PAGE);
	char *p = map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE);
	char *q = map(fd, a.mmap_offset + 3 * PAGE, 2 * PAGE, PROT_READ);

	fill(p, a.length, 7);
	CHECK(!memcmp(p + 3 * PAGE, q, 2 * PAGE));
	CHECK_EQ(stat_object(fd, a.id).mappings, 2);
	munmap(p, a.length);
	CHECK_EQ(stat_object(fd, a.id).mappings, 1);
}

static void test_mmap_stays_within_the_object(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE);

	CHECK_ERR(try_map(fd, a.mmap_offset, 5 * PAGE, PROT_READ) == MAP_FAILED ? -1 : 0, EINVAL);
	CHECK_ERR(try_map(fd, a.mmap_offset + PAGE, 4 * PAGE, PROT_READ) == MAP_FAILED ? -1 : 0, EINVAL);
	CHECK_ERR(try_map(fd, a.mmap_offset + 3 * PAGE, 2 * PAGE, PROT_READ) == MAP_FAILED ? -1 : 0, EINVAL);
	CHECK_ERR(try_map(fd, a.mmap_offset + 4 * PAGE, PAGE, PROT_READ) == MAP_FAILED ? -1 : 0, EINVAL);
	CHECK_ERR(try_map(fd, a.mmap_offset - PAGE, 2 * PAGE, PROT_READ) == MAP_FAILED ? -1 : 0, EINVAL);
	CHECK(try_map(fd, a.mmap_offset + 3 * PAGE, PAGE, PROT_READ) != MAP_FAILED);
}

static int mmap_errno(int fd, uint64_t offset, uint64_t length)
{
	errno = 0;
	return try_map(fd, offset, length, PROT_READ) == MAP_FAILED ? errno : 0;
}

static void test_mmap_at_an_offset_of_nothing_fails(void)
{
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, PAGE);

	CHECK(mmap_errno(fd, 0, PAGE) != 0 || a.mmap_offset == 0);
	CHECK(mmap_errno(fd, 1ull << 50, PAGE));
	CHECK(mmap_errno(fd, 0x7ffffffffffff000ull, PAGE));
	CHECK(mmap_errno(fd, 0xfffffffffffff000ull, PAGE));
	CHECK_EQ(mmap_errno(fd, a.mmap_offset, PAGE), 0);
	CHECK(mmap_errno(other, a.mmap_offset, PAGE)); /* another context's */
	destroy(fd, a.id);
	CHECK(mmap_errno(fd, a.mmap_offset, PAGE));
}

static void test_private_mapping_is_refused(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, PAGE);
	static const int prots[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE};

	for (size_t i = 0; i < ARRAY_SIZE(prots); i++)
		CHECK_ERR(mmap(NULL, PAGE, prots[i], MAP_PRIVATE, fd, (off_t)a.mmap_offset) == MAP_FAILED ? -1
													  : 0,
			  EINVAL);
}

static void test_mapping_cannot_grow(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE), b = alloc_buffer(fd, 4 * PAGE);
	char *p = map(fd, a.mmap_offset, 2 * PAGE, PROT_READ | PROT_WRITE);

	(void)b;
	CHECK_ERR(mremap(p, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0, EFAULT);
	CHECK_ERR(mremap(p, 2 * PAGE, 8 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0, EFAULT);
	p = mremap(p, 2 * PAGE, PAGE, 0); /* shrinking is fine */
	CHECK(p != MAP_FAILED);
	*p = 1;
}

static void test_moved_mapping_shows_the_same_memory(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE);
	char *p = map(fd, a.mmap_offset, 4 * PAGE, PROT_READ | PROT_WRITE), *to = map_anon(8 * PAGE), *q;

	fill(p, 4 * PAGE, 3);
	q = mremap(p, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + 2 * PAGE);
	CHECK(q == to + 2 * PAGE);
	CHECK_FILLED(q, 4 * PAGE, 3);
	CHECK_EQ(stat_object(fd, a.id).mappings, 1);
	munmap(q + PAGE, PAGE); /* and split */
	CHECK_EQ(stat_object(fd, a.id).mappings, 2);
	munmap(q, 4 * PAGE);
	CHECK_EQ(stat_object(fd, a.id).mappings, 0);
}

static void test_split_mapping_counts_its_parts(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE);
	char *p = map(fd, a.mmap_offset, 4 * PAGE, PROT_READ | PROT_WRITE);

	CHECK(mprotect(p + PAGE, PAGE, PROT_READ) == 0);
	CHECK_EQ(stat_object(fd, a.id).mappings, 3);
	munmap(p, 4 * PAGE);
	CHECK_EQ(stat_object(fd, a.id).mappings, 0);
}

static void test_child_does_not_inherit_the_mapping(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 2 * PAGE);
	char *p = map(fd, a.mmap_offset, 2 * PAGE, PROT_READ | PROT_WRITE);
	pid_t pid;

	*p = 5;
	pid = spawn();
	if (!pid) {
		catch_bus();
		CHECK_EQ(peek(p, NULL), SIGSEGV);
		/* But it has the context, and may map it itself. */
		CHECK(*(char *)map(fd, a.mmap_offset, PAGE, PROT_READ) == 5);
		_exit(0);
	}
	REAP(pid);
	CHECK(*p == 5);
}

/* The word of smaps that says: not in core dumps. */
static void test_mapping_is_not_in_core_dumps(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, PAGE);
	unsigned long start, end, p = PTR(map(fd, a.mmap_offset, PAGE, PROT_READ | PROT_WRITE));
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	int ours = 0, seen = 0;

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			ours = start <= p && p < end;
		if (ours && !strncmp(line, "VmFlags:", 8)) {
			seen = 1;
			CHECK(strstr(line, " dd")); /* do not dump */
			CHECK(strstr(line, " dc")); /* do not copy on fork */
			CHECK(strstr(line, " de")); /* do not expand */
			CHECK(strstr(line, " sh"));
		}
	}
	CHECK(seen);
}

static void test_destroy_leaves_mappings(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 8 * PAGE);
	char *p = map(fd, a.mmap_offset, 8 * PAGE, PROT_READ | PROT_WRITE), *fresh;

	fill(p, 4 * PAGE, 1);
	destroy(fd, a.id);
	CHECK_FILLED(p, 4 * PAGE, 1);
	CHECK_ZERO(p + 4 * PAGE, 4 * PAGE); /* pages that were never touched still come */
	fill(p, 8 * PAGE, 2);
	/* New memory is not that memory. */
	for (int i = 0; i < 64; i++) {
		struct mooncake_buffer_alloc b = alloc_buffer(fd, 8 * PAGE);

		fresh = map(fd, b.mmap_offset, 8 * PAGE, PROT_READ | PROT_WRITE);
		memset(fresh, 0xee, 8 * PAGE);
	}
	CHECK_FILLED(p, 8 * PAGE, 2);
}

static void test_mapping_outlives_the_descriptor(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE);
	char *p = map(fd, a.mmap_offset, 4 * PAGE, PROT_READ | PROT_WRITE);

	close(fd);
	fill(p, 4 * PAGE, 9);
	CHECK_FILLED(p, 4 * PAGE, 9);
}

static void test_buffer_lies_on_the_node_that_was_asked_for(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = STRUCT(buffer_alloc);
	struct mooncake_stat s = STRUCT(stat);
	uint64_t nodes[64] = {0}, sum = 0;
	int node = access("/sys/devices/system/node/node1", F_OK) == 0;

	a.length = 8 << 20;
	a.numa_node = node;
	CHECK(ioctl(fd, MOONCAKE_BUFFER_ALLOC, &a) == 0);
	s.id = a.id;
	s.nodes = PTR(nodes);
	s.node_count = 64;
	CHECK(ioctl(fd, MOONCAKE_STAT, &s) == 0);
	CHECK(s.node_count >= 1u + node && s.node_count <= 64);
	for (uint32_t i = 0; i < s.node_count; i++)
		sum += nodes[i];
	CHECK_EQ(sum, a.length / PAGE);
	CHECK_EQ(nodes[node], a.length / PAGE);
	/* What does not fit is not written; the count comes back all the same. */
	memset(nodes, 0xff, sizeof(nodes));
	s.node_count = 0;
	CHECK(ioctl(fd, MOONCAKE_STAT, &s) == 0);
	CHECK(s.node_count >= 1);
	CHECK_EQ(nodes[0], UINT64_MAX);
	CHECK(s.extents >= 1 && s.extents <= s.pages);
}

static void test_stat_describes_the_buffer(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 4 * PAGE);
	struct mooncake_stat s = stat_object(fd, a.id);

	CHECK_EQ(s.kind, MOONCAKE_KIND_BUFFER);
	CHECK_EQ(s.state, 0);
	CHECK_EQ(s.rights, RW);
	CHECK_EQ(s.contexts, 1);
	CHECK_EQ(s.mappings, 0);
	CHECK_EQ(s.dmabufs, 0);
	CHECK_EQ(s.grants, 0);
	CHECK_EQ(s.pinned, 0);
	CHECK_EQ(s.owner_uid, geteuid());
}

/* A mapping is no pin; a reference that somebody else holds on a page is one. */
static void test_pinned_counts_foreign_references_only(void)
{
	int fd = device(), p[2];
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 8 * PAGE);
	char *m = map(fd, a.mmap_offset, 8 * PAGE, PROT_READ | PROT_WRITE), page[PAGE];
	struct iovec v = {.iov_base = m + 2 * PAGE, .iov_len = PAGE};

	fill(m, 8 * PAGE, 1);
	CHECK_EQ(stat_object(fd, a.id).pinned, 0);
	CHECK(pipe(p) == 0);
	CHECK_EQ(vmsplice(p[1], &v, 1, 0), PAGE);
	CHECK_EQ(stat_object(fd, a.id).pinned, 1);
	CHECK_EQ(read(p[0], page, PAGE), PAGE);
	CHECK_EQ(stat_object(fd, a.id).pinned, 0);
}

static void test_a_mapping_takes_direct_io(void)
{
	int fd = device(), file;
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 16 * PAGE);
	char *m = map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE);
	char shared[] = "/host/direct-XXXXXX", path[] = "/tmp/mooncake-direct-XXXXXX", *made = shared;

	fill(m, a.length, 4);
	file = mkstemp(shared); /* the host's files over 9p take O_DIRECT, tmpfs does not */
	if (file < 0) {
		made = path;
		file = mkstemp(path);
	}
	CHECK(file >= 0);
	unlink(made);
	if (fcntl(file, F_SETFL, O_DIRECT))
		printf("  %s takes no O_DIRECT: plain I/O\n", made);
	CHECK_EQ(pwrite(file, m, a.length, 0), a.length);
	memset(m, 0, a.length);
	CHECK_EQ(pread(file, m, a.length, 0), a.length);
	CHECK_FILLED(m, a.length, 4);
}

static void test_killed_process_leaves_nothing(void)
{
	struct counter before[128];
	int n = counters_read(before, ARRAY_SIZE(before)), watched = 0;
	struct meet m = meet_new();
	pid_t pid;
	char c;

	if (!n)
		SKIP("no %s", COUNTERS);
	for (int i = 0; i < n; i++)
		watched += is_gauge(before[i].name);
	CHECK(watched >= 3);
	pid = spawn();
	if (!pid) {
		int fd = device(), other = device();

		for (int i = 0; i < 20; i++) {
			struct mooncake_buffer_alloc a = alloc_buffer(fd, (i + 1) * 7 * PAGE);
			struct mooncake_attach t = share(fd, a.id, other, RW);

			memset(map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE), i, a.length);
			*(char *)map(other, t.mmap_offset, t.length, PROT_READ | PROT_WRITE) = 1;
			grant(fd, a.id, other, RO);
			if (has_feature(fd, MOONCAKE_FEATURE_EXPORT))
				CHECK(try_export(fd, a.id, 0) >= 0);
		}
		say(m.up, "r", 1);
		pause();
	}
	hear(m.up, &c, 1);
	CHECK(gauges_grew(before, n)); /* or this test would see nothing */
	kill9(pid);
	if (!WAIT_FOR(!gauges_grew(before, n), 20))
		FAIL("after kill -9: %s", gauges_grew(before, n));
}

static void test_killed_while_allocating_leaves_nothing(void)
{
	struct counter before[128];
	int n = counters_read(before, ARRAY_SIZE(before)), some = slow();

	for (int i = 0; i < 40; i += some ? 5 : 1) {
		struct meet m = meet_new();
		pid_t pid = spawn();
		char c;

		if (!pid) {
			int fd = device();
			say(m.up, "r", 1);
			for (;;) {
				struct mooncake_buffer_alloc a = alloc_buffer(fd, some ? 32 << 20 : 128 << 20);

				destroy(fd, a.id);
			}
		}
		hear(m.up, &c, 1);
		poll(NULL, 0, i); /* somewhere within it: the place is what varies */
		kill9(pid);
		for (int k = 0; k < 2; k++)
			close(m.up[k]), close(m.down[k]);
	}
	if (!WAIT_FOR(!gauges_grew(before, n), 20))
		FAIL("%s", gauges_grew(before, n));
}

static void test_context_lives_with_whoever_has_the_descriptor(void)
{
	int fd = device(), s[2];
	uint32_t id = 0;
	struct mooncake_buffer_alloc a;
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	close(fd);
	pid = spawn();
	if (!pid) {
		char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
		struct iovec v = {&byte, 1};
		struct msghdr h = {.msg_iov = &v,
				   .msg_iovlen = 1,
				   .msg_control = control,
				   .msg_controllen = sizeof(control)};
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);

		fd = device();
		a = alloc_buffer(fd, PAGE);
		*(char *)map(fd, a.mmap_offset, PAGE, PROT_READ | PROT_WRITE) = 77;
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
		CHECK(sendmsg(s[1], &h, 0) == 1);
		CHECK(write(s[1], &a.id, sizeof(a.id)) == sizeof(a.id));
		_exit(0);
	} else {
		char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
		struct iovec v = {&byte, 1};
		struct msghdr h = {.msg_iov = &v,
				   .msg_iovlen = 1,
				   .msg_control = control,
				   .msg_controllen = sizeof(control)};

		CHECK(recvmsg(s[0], &h, MSG_CMSG_CLOEXEC) == 1);
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof(int));
		CHECK(read(s[0], &id, sizeof(id)) == sizeof(id));
	}
	REAP(pid);
	CHECK(*(char *)map(fd, stat_object(fd, id).mmap_offset, PAGE, PROT_READ) == 77);
}

static void test_more_than_there_is_gives_enomem_and_kills_nobody(void)
{
	int fd = device();
	struct mooncake_buffer_alloc a = STRUCT(buffer_alloc);

	a.length = MOONCAKE_LENGTH_MAX;
	a.numa_node = -1;
	CHECK(ioctl(fd, MOONCAKE_BUFFER_ALLOC, &a) == -1);
	CHECK(errno == ENOMEM || (errno == EDQUOT && query(fd).user_limit < a.length));
	CHECK_EQ(query(fd).objects, 0);
	alloc_buffer(fd, PAGE);
}

static void test_user_bytes_follow_what_the_user_has(void)
{
	int fd = device(), other = device();
	uint64_t before = query(fd).user_bytes;
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 3 << 20);
	char *p = map(fd, a.mmap_offset, PAGE, PROT_READ);

	CHECK_EQ(query(fd).user_bytes, before + (3 << 20));
	CHECK_EQ(query(other).user_bytes, before + (3 << 20));
	share(fd, a.id, other, RW); /* shared memory is charged once */
	CHECK_EQ(query(fd).user_bytes, before + (3 << 20));
	destroy(fd, a.id);
	close(other);
	CHECK_EQ(query(fd).user_bytes, before + (3 << 20)); /* a mapping holds it */
	munmap(p, PAGE);
	CHECK(WAIT_FOR(query(fd).user_bytes == before, 10));
}

/* Charged to who made it, given back to him, whoever frees it and whatever he became meanwhile. */
static void test_charge_goes_back_to_who_was_charged(void)
{
	int root = device();
	uint64_t before = query(root).user_bytes;
	pid_t pid;

	pid = spawn();
	if (!pid) {
		int fd = device();
		struct mooncake_buffer_alloc a = alloc_buffer(fd, 1 << 20);

		CHECK_EQ(query(root).user_bytes, before + (1 << 20));
		become(12345);
		CHECK_EQ(query(fd).user_bytes, 0); /* the new one has nothing */
		destroy(fd, a.id);
		CHECK(WAIT_FOR(query(fd).user_bytes == 0, 5));
		alloc_buffer(fd, 2 << 20);
		CHECK_EQ(query(fd).user_bytes, 2 << 20);
		_exit(0);
	}
	REAP(pid);
	CHECK(WAIT_FOR(query(root).user_bytes == before, 10));
}

static void test_large_buffer_is_freed_in_small_steps(void)
{
	uint64_t length = memory_available() / 10 * 7, most = slow() ? 96ull << 20 : 8ull << 30;
	double began;
	pid_t pid;
	struct meet m = meet_new();
	char c;
	struct counter before[128];
	int n = counters_read(before, ARRAY_SIZE(before)), fd;

	static const char limit[] = "/sys/module/mooncake/parameters/user_limit";
	unsigned long long old = 0;
	char text[32];

	if (counter("max_free_batch") < 0)
		SKIP("no counter max_free_batch in %s", COUNTERS);
	length = (length < most ? length : most) & ~((2ull << 20) - 1);
	FILE *p = fopen(limit, "re");

	CHECK(p && fscanf(p, "%llu", &old) == 1);
	fclose(p);
	CHECK(file_write(limit, "18446744073709551615") == 0);
	pid = spawn();
	if (!pid) {
		fd = device();
		alloc_buffer(fd, length);
		say(m.up, "r", 1);
		pause();
	}
	hear(m.up, &c, 1);
	snprintf(text, sizeof(text), "%llu", old);
	CHECK(file_write(limit, text) == 0);
	began = seconds();
	kill9(pid);
	if (!WAIT_FOR(!gauges_grew(before, n), 200))
		FAIL("%s", gauges_grew(before, n));
	printf("  %llu MiB freed within %.2f s of kill -9, most pages between two chances to reschedule: "
	       "%lld\n",
	       (unsigned long long)length >> 20, seconds() - began, counter("max_free_batch"));
	CHECK(counter("max_free_batch") > 0);
	CHECK(counter("max_free_batch") <= 512);
}

static const struct test tests[] = {
	TEST(test_query_tells_what_is_there),
	TEST(test_buffer_is_zeroed),
	TEST(test_length_is_rounded_up_to_whole_pages),
	TEST(test_content_ids_and_mmap_offsets_are_never_shared),
	TEST(test_ids_are_lowest_first_and_used_again),
	TEST(test_keep_key_is_zero_without_keep),
	TEST(test_two_mappings_show_the_same_memory),
	TEST(test_mmap_stays_within_the_object),
	TEST(test_mmap_at_an_offset_of_nothing_fails),
	TEST(test_private_mapping_is_refused),
	TEST(test_mapping_cannot_grow),
	TEST(test_moved_mapping_shows_the_same_memory),
	TEST(test_split_mapping_counts_its_parts),
	TEST(test_child_does_not_inherit_the_mapping),
	TEST(test_mapping_is_not_in_core_dumps),
	TEST(test_destroy_leaves_mappings),
	TEST(test_mapping_outlives_the_descriptor),
	TEST(test_buffer_lies_on_the_node_that_was_asked_for),
	TEST(test_stat_describes_the_buffer),
	TEST(test_pinned_counts_foreign_references_only),
	TEST(test_a_mapping_takes_direct_io),
	TEST(test_killed_process_leaves_nothing),
	TEST(test_killed_while_allocating_leaves_nothing),
	TEST(test_context_lives_with_whoever_has_the_descriptor),
	TEST(test_more_than_there_is_gives_enomem_and_kills_nobody),
	TEST(test_user_bytes_follow_what_the_user_has),
	TEST(test_charge_goes_back_to_who_was_charged),
	TEST(test_large_buffer_is_freed_in_small_steps),
};

RUN_TESTS(tests)
