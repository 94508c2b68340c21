// SPDX-License-Identifier: MIT
/* vm: short */
/* GRANT and ATTACH: who may use a key, how often, how long, for what. */
#include "uapi.h"
#include <sys/syscall.h>
#include <sys/uio.h>

#define MIB (1ull << 20)

static struct {
	int owner, guest, third;
	struct mooncake_buffer_alloc buffer;
	char *memory; /* the owner's mapping */
} w;

static void world(void)
{
	w.owner = device();
	w.guest = device();
	w.third = device();
	w.buffer = alloc_buffer(w.owner, MIB);
	w.memory = map(w.owner, w.buffer.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	fill(w.memory, MIB, 1);
	catch_bus();
}

static int map_errno(int fd, uint64_t offset, uint64_t length, int prot)
{
	void *p = try_map(fd, offset, length, prot);

	if (p == MAP_FAILED)
		return errno;
	munmap(p, length);
	return 0;
}

static void test_attachment_shows_the_owners_memory(void)
{
	struct mooncake_attach a;
	char *p;

	world();
	a = share(w.owner, w.buffer.id, w.guest, RW);
	CHECK_EQ(a.length, MIB);
	CHECK_EQ(a.rights, RW);
	CHECK_EQ(a.generation, 1);
	CHECK(!memcmp(a.content_id, w.buffer.content_id, sizeof(a.content_id)));
	CHECK(a.mmap_offset != w.buffer.mmap_offset);
	p = map(w.guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	CHECK_FILLED(p, MIB, 1);
	fill(p, MIB, 2);
	CHECK_FILLED(w.memory, MIB, 2);
}

static void test_stat_of_an_attachment(void)
{
	struct mooncake_attach a;
	struct mooncake_stat s;

	world();
	a = share(w.owner, w.buffer.id, w.guest, RO);
	map(w.guest, a.mmap_offset, PAGE, PROT_READ);
	s = stat_object(w.guest, a.id);
	CHECK_EQ(s.kind, MOONCAKE_KIND_BUFFER);
	CHECK_EQ(s.state, MOONCAKE_STATE_ATTACHMENT);
	CHECK_EQ(s.rights, RO);
	CHECK_EQ(s.length, MIB);
	CHECK_EQ(s.mmap_offset, a.mmap_offset);
	s = stat_object(w.owner, w.buffer.id);
	CHECK_EQ(s.state, 0);
	CHECK_EQ(s.contexts, 2);
	CHECK_EQ(s.mappings, 2);
	CHECK_EQ(s.grants, 0); /* spent */
	grant(w.owner, w.buffer.id, w.third, RO);
	CHECK_EQ(stat_object(w.owner, w.buffer.id).grants, 1);
}

static void test_key_is_for_its_context_only(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;

	world();
	g = grant(w.owner, w.buffer.id, w.guest, RW);
	CHECK_ERR(try_attach(w.third, g.key, &a), ENOENT);
	CHECK_ERR(try_attach(w.owner, g.key, &a), ENOENT);
	attach(w.guest, g.key); /* and the wrong tries spent nothing */
}

static void test_uses_are_counted(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;

	world();
	g = grant_for(w.guest, w.buffer.id, RO);
	g.uses = 3;
	CHECK(ioctl(w.owner, MOONCAKE_GRANT, &g) == 0);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(stat_object(w.owner, w.buffer.id).grants, 1);
		attach(w.guest, g.key);
	}
	CHECK_ERR(try_attach(w.guest, g.key, &a), ENOENT);
	CHECK_EQ(stat_object(w.owner, w.buffer.id).grants, 0);
}

static void test_spent_grant_can_still_be_revoked(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;
	char *p;

	world();
	g = grant(w.owner, w.buffer.id, w.guest, RO);
	a = attach(w.guest, g.key);
	p = map(w.guest, a.mmap_offset, MIB, PROT_READ);
	CHECK_EQ(peek(p, NULL), 0);
	CHECK(try_revoke_grant(w.owner, g.grant) == 0);
	CHECK_EQ(peek(p, NULL), SIGBUS);
}

static void test_grant_expires_but_its_attachment_stays(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;
	char *p;

	world();
	g = grant_for(w.guest, w.buffer.id, RO);
	g.uses = 1000;
	g.expiry_ns = boottime_ns() + 400000000;
	CHECK(ioctl(w.owner, MOONCAKE_GRANT, &g) == 0);
	a = attach(w.guest, g.key);
	p = map(w.guest, a.mmap_offset, MIB, PROT_READ);
	CHECK(WAIT_FOR(boottime_ns() > g.expiry_ns, 10));
	CHECK_ERR(try_attach(w.guest, g.key, &a), ENOENT);
	CHECK_FILLED(p, MIB, 1);
	CHECK_EQ(stat_object(w.owner, w.buffer.id).grants, 0);
	CHECK(try_revoke_grant(w.owner, g.grant) == 0);
	CHECK_EQ(peek(p, NULL), SIGBUS);
}

static void test_revoked_key_attaches_no_more(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;

	world();
	g = grant(w.owner, w.buffer.id, w.guest, RO);
	CHECK(try_revoke_grant(w.guest, g.grant) == -1); /* a number in the owner's context */
	CHECK(try_revoke_grant(w.owner, g.grant) == 0);
	CHECK_ERR(try_attach(w.guest, g.key, &a), ENOENT);
	g = grant(w.owner, w.buffer.id, w.guest, RO);
	revoke_object(w.owner, w.buffer.id, 0);
	CHECK_ERR(try_attach(w.guest, g.key, &a), ENOENT);
}

static void test_range_is_what_was_granted(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;
	char *p;

	world();
	g = grant_for(w.guest, w.buffer.id, RW);
	g.offset = 5 * PAGE;
	g.length = 3 * PAGE;
	CHECK(ioctl(w.owner, MOONCAKE_GRANT, &g) == 0);
	a = attach(w.guest, g.key);
	CHECK_EQ(a.length, 3 * PAGE);
	p = map(w.guest, a.mmap_offset, 3 * PAGE, PROT_READ | PROT_WRITE);
	CHECK(!memcmp(p, w.memory + 5 * PAGE, 3 * PAGE));
	memset(p, 0x5a, 3 * PAGE);
	CHECK_EQ((uint8_t)w.memory[8 * PAGE - 1], 0x5a);
	CHECK(!memcmp(w.memory, (uint64_t[1]){pattern(1, 0)}, 8));
	CHECK(*(uint64_t *)(w.memory + 8 * PAGE) == pattern(1, 8 * PAGE / 8));
	CHECK(*(uint64_t *)(w.memory + 5 * PAGE - 8) == pattern(1, 5 * PAGE / 8 - 1));
	CHECK_EQ(map_errno(w.guest, a.mmap_offset, 4 * PAGE, PROT_READ), EINVAL);
	CHECK_EQ(map_errno(w.guest, a.mmap_offset + 3 * PAGE, PAGE, PROT_READ), EINVAL);
	CHECK(map_errno(w.guest, a.mmap_offset - PAGE, PAGE, PROT_READ) != 0);
	/* COPY stays within the range, too. */
	uint32_t mine = alloc_buffer(w.guest, MIB).id;
	CHECK(try_copy(w.guest, mine, 0, a.id, 0, 3 * PAGE) == 0);
	CHECK_ERR(try_copy(w.guest, mine, 0, a.id, 0, 3 * PAGE + 1), EINVAL);
	CHECK_ERR(try_copy(w.guest, mine, 0, a.id, 3 * PAGE, 1), EINVAL);
	/* Length 0: to the end. */
	g = grant_for(w.guest, w.buffer.id, RO);
	g.offset = MIB - 2 * PAGE;
	CHECK(ioctl(w.owner, MOONCAKE_GRANT, &g) == 0);
	CHECK_EQ(attach(w.guest, g.key).length, 2 * PAGE);
}

static void test_read_grant_cannot_be_written(void)
{
	struct mooncake_attach a;
	char byte = 1, *p;
	int mem;

	world();
	a = share(w.owner, w.buffer.id, w.guest, RO);
	CHECK_EQ(a.rights, RO);
	CHECK_EQ(map_errno(w.guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE), EACCES);
	CHECK_EQ(map_errno(w.guest, a.mmap_offset, MIB, PROT_WRITE), EACCES);
	p = map(w.guest, a.mmap_offset, MIB, PROT_READ);
	CHECK_FILLED(p, MIB, 1);
	CHECK_ERR(mprotect(p, MIB, PROT_READ | PROT_WRITE), EACCES);
	CHECK_ERR(mprotect(p + PAGE, PAGE, PROT_WRITE), EACCES);
	CHECK_EQ(poke(p, 9), SIGSEGV);
	/* Neither by the debugger's way, nor by the kernel on the process's behalf. */
	mem = open("/proc/self/mem", O_RDWR);
	CHECK(mem >= 0);
	CHECK(pwrite(mem, &byte, 1, (off_t)PTR(p)) == -1);
	CHECK_ERR(syscall(SYS_read, open("/dev/zero", O_RDONLY), p, PAGE), EFAULT);
	CHECK_ERR(try_copy(w.guest, a.id, 0, a.id, PAGE, PAGE), EACCES);
	CHECK_FILLED(w.memory, MIB, 1);
}

static void test_write_grant_allows_mprotect_up(void)
{
	struct mooncake_attach a;
	char *p;

	world();
	a = share(w.owner, w.buffer.id, w.guest, RW);
	p = map(w.guest, a.mmap_offset, MIB, PROT_READ);
	CHECK(mprotect(p, MIB, PROT_READ | PROT_WRITE) == 0);
	fill(p, MIB, 3);
	CHECK_FILLED(w.memory, MIB, 3);
}

static void test_attachment_cannot_be_granted_on_or_revoked(void)
{
	struct mooncake_attach a;
	struct mooncake_grant g;
	struct mooncake_revoke r;

	world();
	a = share(w.owner, w.buffer.id, w.guest, RW);
	g = grant_for(w.third, a.id, RO);
	CHECK_ERR(ioctl(w.guest, MOONCAKE_GRANT, &g), EOPNOTSUPP);
	CHECK_ERR(try_revoke(w.guest, a.id, 0, &r), EOPNOTSUPP);
	CHECK_ERR(try_revoke(w.guest, a.id, MOONCAKE_REVOKE_REPLACE, &r), EOPNOTSUPP);
}

static void test_attachment_outlives_the_owner(void)
{
	struct meet m = meet_new();
	struct mooncake_grant g;
	struct mooncake_attach a;
	uint8_t me[MOONCAKE_KEY_SIZE];
	int guest = device();
	char *p;
	pid_t pid;

	context_id(guest, me);
	pid = spawn();
	if (!pid) {
		int fd = device();
		struct mooncake_buffer_alloc b = alloc_buffer(fd, MIB);

		fill(map(fd, b.mmap_offset, MIB, PROT_READ | PROT_WRITE), MIB, 6);
		g = (struct mooncake_grant)STRUCT(grant);
		g.id = b.id;
		g.rights = RW;
		g.uses = 1;
		memcpy(g.context_id, me, sizeof(me));
		CHECK(ioctl(fd, MOONCAKE_GRANT, &g) == 0);
		say(m.up, &g, sizeof(g));
		pause();
	}
	hear(m.up, &g, sizeof(g));
	a = attach(guest, g.key);
	kill9(pid);
	p = map(guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	CHECK_FILLED(p, MIB, 6);
	fill(p, MIB, 7);
	CHECK_FILLED(p, MIB, 7);
}

static void test_destroyed_attachment_leaves_its_mapping(void)
{
	struct mooncake_grant g;
	struct mooncake_attach a;
	char *p;

	world();
	g = grant(w.owner, w.buffer.id, w.guest, RO);
	a = attach(w.guest, g.key);
	p = map(w.guest, a.mmap_offset, MIB, PROT_READ);
	destroy(w.guest, a.id);
	CHECK_FILLED(p, MIB, 1);
	CHECK(try_revoke_grant(w.owner, g.grant) == 0); /* which the revocation still finds */
	CHECK_EQ(peek(p, NULL), SIGBUS);
}

static void test_keys_and_numbers_differ(void)
{
	struct mooncake_grant g[32];

	world();
	for (int i = 0; i < 32; i++) {
		g[i] = grant(w.owner, w.buffer.id, w.guest, RO);
		CHECK(g[i].grant != 0);
		for (int k = 0; k < i; k++) {
			CHECK(memcmp(g[i].key, g[k].key, MOONCAKE_KEY_SIZE));
			CHECK(g[i].grant != g[k].grant);
		}
	}
	CHECK_EQ(stat_object(w.owner, w.buffer.id).grants, 32);
	for (int i = 0; i < 32; i++)
		attach(w.guest, g[31 - i].key);
}

static pthread_barrier_t barrier;
static struct mooncake_grant raced;
static struct mooncake_attach attached;

static void *attacher(void *rounds)
{
	for (long i = 0; i < (long)rounds; i++) {
		pthread_barrier_wait(&barrier);
		if (try_attach(w.guest, raced.key, &attached))
			attached.id = 0;
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

/* The id that a key was made of ends while the key is used: what attached nevertheless can be revoked by the grant. */
static void test_what_attaches_while_the_id_ends_can_be_revoked(void)
{
	long rounds = slow() ? 500 : 5000, attached_nevertheless = 0;
	pthread_t thread;

	world();
	CHECK(!pthread_barrier_init(&barrier, NULL, 2));
	CHECK(!pthread_create(&thread, NULL, attacher, (void *)rounds));
	for (long i = 0; i < rounds; i++) {
		uint32_t id = alloc_buffer(w.owner, PAGE).id;

		raced = grant(w.owner, id, w.guest, RO);
		pthread_barrier_wait(&barrier);
		for (volatile long k = i % 300; k > 0; k--)
			;
		destroy(w.owner, id);
		pthread_barrier_wait(&barrier);
		if (!attached.id)
			continue;
		attached_nevertheless++;
		if (try_revoke_grant(w.owner, raced.grant))
			FAIL("REVOKE of the grant in round %ld: %s", i, strerror(errno));
		CHECK(stat_object(w.guest, attached.id).state & MOONCAKE_STATE_REVOKED);
		destroy(w.guest, attached.id);
		CHECK_ERR(try_revoke_grant(w.owner, raced.grant), ENOENT);
	}
	pthread_join(thread, NULL);
	printf("attached in %ld of %ld rounds\n", attached_nevertheless, rounds);
}

static void test_grant_of_a_kept_buffer_reaches_its_memory(void)
{
	static const char name[] = KEPT "-granted";
	struct mooncake_buffer_alloc k;
	struct mooncake_attach a;

	world();
	try_unlink(w.owner, name);
	k = keep_buffer(w.owner, name, MIB, MOONCAKE_BUFFER_EXCLUSIVE);
	a = share(w.owner, k.id, w.guest, RW);
	fill(map(w.guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE), MIB, 4);
	CHECK_FILLED(map(w.owner, k.mmap_offset, MIB, PROT_READ), MIB, 4);
	unlink_buffer(w.owner, name);
}

static const struct test tests[] = {
	TEST(test_attachment_shows_the_owners_memory),
	TEST(test_stat_of_an_attachment),
	TEST(test_key_is_for_its_context_only),
	TEST(test_uses_are_counted),
	TEST(test_spent_grant_can_still_be_revoked),
	TEST(test_grant_expires_but_its_attachment_stays),
	TEST(test_revoked_key_attaches_no_more),
	TEST(test_range_is_what_was_granted),
	TEST(test_read_grant_cannot_be_written),
	TEST(test_write_grant_allows_mprotect_up),
	TEST(test_attachment_cannot_be_granted_on_or_revoked),
	TEST(test_attachment_outlives_the_owner),
	TEST(test_destroyed_attachment_leaves_its_mapping),
	TEST(test_keys_and_numbers_differ),
	TEST(test_what_attaches_while_the_id_ends_can_be_revoked),
	TEST(test_grant_of_a_kept_buffer_reaches_its_memory),
};

RUN_TESTS(tests)
