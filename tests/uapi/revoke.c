// SPDX-License-Identifier: MIT
/* vm: short */
/*
 * REVOKE keeps its word: once it returned, no CPU reaches the memory through what was revoked, nobody ever
 * sees another's page, and a page that somebody still holds is not used again.
 */
#define TEST_SECONDS 900
#include "uapi.h"
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/uio.h>

#define MIB (1ull << 20)

static void test_revoked_object_is_gone_for_others_and_stays_for_its_owner(void)
{
	int owner = device(), guest = device();
	struct mooncake_buffer_alloc b = alloc_buffer(owner, MIB);
	struct mooncake_attach a = share(owner, b.id, guest, RW);
	struct mooncake_revoke r;
	char *mine = map(owner, b.mmap_offset, MIB, PROT_READ | PROT_WRITE), *p;
	uint32_t other = alloc_buffer(guest, MIB).id;

	catch_bus();
	p = map(guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	fill(p, MIB / 2, 1); /* half of it was never touched */
	r = revoke_object(owner, b.id, 0);
	CHECK_EQ(r.generation, 2);
	CHECK_EQ(r.pinned, 0);
	CHECK_EQ(r.dmabuf_attached, 0);
	for (uint64_t at = 0; at < MIB; at += PAGE) {
		CHECK_EQ(peek(p + at, NULL), SIGBUS);
		CHECK_EQ(poke(p + at, 1), SIGBUS);
	}
	CHECK_ERR(try_map(guest, a.mmap_offset, PAGE, PROT_READ) == MAP_FAILED ? -1 : 0, ESTALE);
	CHECK_ERR(try_copy(guest, other, 0, a.id, 0, PAGE), ESTALE);
	CHECK_ERR(try_copy(guest, a.id, 0, other, 0, PAGE), ESTALE);
	if (has_feature(guest, MOONCAKE_FEATURE_EXPORT))
		CHECK_ERR(try_export(guest, a.id, 0), ESTALE);
	CHECK_EQ(stat_object(guest, a.id).state, MOONCAKE_STATE_ATTACHMENT | MOONCAKE_STATE_REVOKED);
	CHECK_EQ(stat_object(guest, a.id).generation, 2);
	/* A system call into it fails like the access. */
	CHECK_ERR(read(open("/dev/zero", O_RDONLY), p, 1), EFAULT);
	destroy(guest, a.id);
	CHECK_FILLED(mine, MIB / 2, 1);
	fill(mine, MIB, 2);
	CHECK_EQ(stat_object(owner, b.id).state, 0);
	/* And it can be granted anew. */
	a = share(owner, b.id, guest, RO);
	CHECK_EQ(a.generation, 2);
	CHECK_FILLED(map(guest, a.mmap_offset, MIB, PROT_READ), MIB, 2);
}

static void test_generation_grows_by_one_with_every_revoke_of_an_object(void)
{
	int owner = device(), guest = device();
	uint32_t id = alloc_buffer(owner, MIB).id;
	struct mooncake_grant g;

	for (uint64_t n = 2; n < 6; n++)
		CHECK_EQ(revoke_object(owner, id, 0).generation, n);
	g = grant(owner, id, guest, RO);
	CHECK(try_revoke_grant(owner, g.grant) == 0);
	CHECK_EQ(stat_object(owner, id).generation, 5);
}

static void test_one_grantee_is_zapped_alone(void)
{
	enum { N = 5 };
	int owner = device(), guest[N];
	struct mooncake_buffer_alloc b = alloc_buffer(owner, 4 * MIB);
	struct mooncake_grant g[N];
	char *mine = map(owner, b.mmap_offset, b.length, PROT_READ | PROT_WRITE), *p[N];

	catch_bus();
	fill(mine, b.length, 3);
	for (int i = 0; i < N; i++) {
		guest[i] = device();
		g[i] = grant(owner, b.id, guest[i], RO);
		p[i] = map(guest[i], attach(guest[i], g[i].key).mmap_offset, b.length, PROT_READ);
		CHECK_FILLED(p[i], b.length, 3);
	}
	long long zaps = counter("zaps"), faults = counter("faults");

	CHECK(try_revoke_grant(owner, g[2].grant) == 0);
	for (uint64_t at = 0; at < b.length; at += PAGE)
		CHECK_EQ(peek(p[2] + at, NULL), SIGBUS);
	for (int i = 0; i < N; i++)
		if (i != 2)
			CHECK_FILLED(p[i], b.length, 3);
	CHECK_FILLED(mine, b.length, 3);
	if (zaps >= 0) {
		CHECK(counter("zaps") > zaps);
		CHECK(counter("faults") - faults <=
		      (long long)(b.length / PAGE)); /* the others were left alone */
	}
}

static void test_attachments_of_one_grant_go_together(void)
{
	int owner = device(), guest = device();
	uint32_t id = alloc_buffer(owner, MIB).id;
	struct mooncake_grant g = grant_for(guest, id, RO), other = grant(owner, id, guest, RO);
	char *p, *q, *r;

	catch_bus();
	g.uses = 2;
	CHECK(ioctl(owner, MOONCAKE_GRANT, &g) == 0);
	p = map(guest, attach(guest, g.key).mmap_offset, MIB, PROT_READ);
	q = map(guest, attach(guest, g.key).mmap_offset, MIB, PROT_READ);
	r = map(guest, attach(guest, other.key).mmap_offset, MIB, PROT_READ);
	CHECK(!peek(p, NULL) && !peek(q, NULL) && !peek(r, NULL));
	CHECK(try_revoke_grant(owner, g.grant) == 0);
	CHECK_EQ(peek(p, NULL), SIGBUS);
	CHECK_EQ(peek(q, NULL), SIGBUS);
	CHECK_EQ(peek(r, NULL), 0);
}

static void test_mappings_moved_split_and_handed_on_are_zapped_too(void)
{
	int owner = device(), guest = device();
	struct mooncake_buffer_alloc b = alloc_buffer(owner, 16 * PAGE);
	struct mooncake_attach a = share(owner, b.id, guest, RW);
	struct meet m = meet_new();
	char *p = map(guest, a.mmap_offset, 16 * PAGE, PROT_READ | PROT_WRITE), *to = map_anon(32 * PAGE), c;
	pid_t other, forked;

	catch_bus();
	memset(p, 1, 16 * PAGE);
	CHECK(mprotect(p + 2 * PAGE, PAGE, PROT_READ) == 0);
	CHECK(munmap(p + 5 * PAGE, PAGE) == 0);
	CHECK(mremap(p + 8 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + 3 * PAGE) ==
	      to + 3 * PAGE);
	CHECK(madvise(p, PAGE, MADV_DOFORK) == 0 || errno == EINVAL);
	forked = spawn(); /* what the first page may have taken into a child */
	if (!forked) {
		CHECK(peek(p, NULL) == 0 || peek(p, NULL) == SIGSEGV);
		say(m.up, "f", 1);
		hear(m.down, &c, 1);
		CHECK(peek(p, NULL) == SIGBUS || peek(p, NULL) == SIGSEGV);
		_exit(0);
	}
	hear(m.up, &c, 1);
	other = spawn(); /* another process with the same descriptor */
	if (!other) {
		char *q = map(guest, a.mmap_offset, 16 * PAGE, PROT_READ);

		CHECK_EQ(peek(q, NULL), 0);
		say(m.up, "o", 1);
		hear(m.down, &c, 1);
		for (int i = 0; i < 16; i++)
			CHECK_EQ(peek(q + i * PAGE, NULL), SIGBUS);
		_exit(0);
	}
	hear(m.up, &c, 1);
	revoke_object(owner, b.id, 0);
	for (int i = 0; i < 16; i++)
		CHECK_EQ(peek(p + i * PAGE, NULL), i == 5 || (i >= 8 && i < 12) ? SIGSEGV : SIGBUS);
	for (int i = 3; i < 7; i++)
		CHECK_EQ(peek(to + i * PAGE, NULL), SIGBUS);
	say(m.down, "xx", 2);
	REAP(forked);
	REAP(other);
}

static void test_second_device_node_is_zapped_too(void)
{
	static const char node[] = "/dev/mooncake-second-node";
	int owner = device(), guest;
	struct mooncake_buffer_alloc b = alloc_buffer(owner, MIB);
	struct mooncake_attach a;
	struct stat s;
	char *p;

	catch_bus();
	CHECK(stat(DEVICE, &s) == 0);
	unlink(node);
	CHECK(mknod(node, S_IFCHR | 0600, s.st_rdev) == 0);
	guest = open(node, O_RDWR | O_CLOEXEC);
	unlink(node);
	CHECK(guest >= 0);
	a = share(owner, b.id, guest, RW);
	p = map(guest, a.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	memset(p, 1, MIB);
	revoke_object(owner, b.id, 0);
	for (uint64_t at = 0; at < MIB; at += PAGE)
		CHECK_EQ(peek(p + at, NULL), SIGBUS);
}

/* Anonymous memory and buffers full of something else, to take over pages that were freed. */
static void take_over_free_pages(int fd, uint64_t length)
{
	char *p = map_anon(length);

	memset(p, 0xee, length);
	munmap(p, length);
	for (int i = 0; i < 4; i++) {
		struct mooncake_buffer_alloc a = alloc_buffer(fd, length / 4);

		p = map(fd, a.mmap_offset, a.length, PROT_READ | PROT_WRITE);
		memset(p, 0xdd, a.length);
		munmap(p, a.length);
		destroy(fd, a.id);
	}
}

static void test_held_page_is_not_used_again(void)
{
	enum { PAGES = 16 };
	int owner = device(), guest = device(), pipes[2];
	struct mooncake_buffer_alloc b = alloc_buffer(owner, 4 * MIB);
	struct mooncake_attach a = share(owner, b.id, guest, RW);
	struct mooncake_revoke r;
	static char page[PAGE];
	char *p = map(guest, a.mmap_offset, b.length, PROT_READ | PROT_WRITE);
	char *mine = map(owner, b.mmap_offset, b.length, PROT_READ | PROT_WRITE);
	struct iovec v = {.iov_base = p + 7 * PAGE, .iov_len = PAGES * PAGE};
	uint64_t again = (slow() ? 16 : 64) * MIB; /* what was freed is used first: a multiple of it is enough */

	if (again > memory_available() / 8)
		again = memory_available() / 8 & ~(MIB - 1);
	CHECK(again >= 2 * b.length);
	catch_bus();
	fill(mine, b.length, 12);
	CHECK(pipe(pipes) == 0);
	fcntl(pipes[1], F_SETPIPE_SZ, PAGES * PAGE);
	CHECK_EQ(vmsplice(pipes[1], &v, 1, 0), PAGES * PAGE); /* the pipe holds the pages now */
	r = revoke_object(owner, b.id, MOONCAKE_REVOKE_REPLACE);
	CHECK(r.pinned >= 1);
	CHECK(r.generation >= 2);
	CHECK(memcmp(stat_object(owner, b.id).content_id, b.content_id, sizeof(b.content_id)));
	CHECK_EQ(peek(p, NULL), SIGBUS);
	CHECK_ZERO(mine, b.length); /* the owner has fresh pages already */
	fill(mine, b.length, 13);
	munmap(mine, b.length);
	destroy(owner, b.id);
	destroy(guest, a.id);
	munmap(p, b.length);
	for (int i = 0; i < (slow() ? 2 : 8); i++)
		take_over_free_pages(owner, again);
	for (int i = 0; i < PAGES; i++) {
		CHECK_EQ(read(pipes[0], page, PAGE), PAGE);
		for (uint64_t k = 0; k < PAGE / 8; k++)
			if (((uint64_t *)page)[k] != pattern(12, (7 + i) * PAGE / 8 + k))
				FAIL("held page %d word %llu: %#llx", i, (unsigned long long)k,
				     (unsigned long long)((uint64_t *)page)[k]);
	}
}

static void test_pinned_is_zero_again_when_the_last_holder_let_go(void)
{
	int owner = device(), pipes[2];
	struct mooncake_buffer_alloc b = alloc_buffer(owner, 4 * MIB);
	char *p = map(owner, b.mmap_offset, b.length, PROT_READ | PROT_WRITE), page[PAGE];
	struct iovec v = {.iov_base = p, .iov_len = PAGE};

	fill(p, b.length, 1);
	CHECK(pipe(pipes) == 0);
	CHECK_EQ(vmsplice(pipes[1], &v, 1, 0), PAGE);
	CHECK(revoke_object(owner, b.id, 0).pinned >= 1);
	CHECK(stat_object(owner, b.id).pinned >= 1);
	CHECK_EQ(read(pipes[0], page, PAGE), PAGE);
	CHECK_EQ(revoke_object(owner, b.id, 0).pinned, 0);
}

/* The owner's mapping made before REPLACE shows the new pages, all of them, at once. */
static void test_replace_gives_fresh_pages_to_all_mappings_of_the_owner(void)
{
	int owner = device();
	struct mooncake_buffer_alloc b = alloc_buffer(owner, 3 * MIB);
	char *p = map(owner, b.mmap_offset, b.length, PROT_READ | PROT_WRITE);
	char *q = map(owner, b.mmap_offset, b.length, PROT_READ);

	for (int i = 0; i < 5; i++) {
		fill(p, b.length, i);
		CHECK_FILLED(q, b.length, i);
		revoke_object(owner, b.id, MOONCAKE_REVOKE_REPLACE);
		CHECK_ZERO(q, b.length);
		CHECK_ZERO(p, b.length);
	}
}

/* ---- under load ---- */

enum { READERS = 3 };

static int load_rounds = 30;

struct load {
	sem_t ready, go[READERS];
	atomic_int revoked;
	atomic_ulong accesses;
	uint8_t ids[READERS][MOONCAKE_KEY_SIZE];
	uint8_t keys[READERS][MOONCAKE_KEY_SIZE];
	uint64_t length;
};

/*
 * Reads (and, the odd ones, writes) without a pause until SIGBUS. What it reads must be this round's pattern;
 * an access that began after the owner's REVOKE had returned must not succeed.
 */
static void reader(struct load *l, int me)
{
	int fd = device();

	catch_bus();
	context_id(fd, l->ids[me]);
	sem_post(&l->ready);
	for (int round = 1; round <= load_rounds; round++) {
		struct mooncake_attach a;
		uint64_t words = l->length / 8, i = 0, step = 8191;
		volatile uint64_t *p;

		while (sem_wait(&l->go[me]))
			;
		a = attach(fd, l->keys[me]);
		p = map(fd, a.mmap_offset, a.length, me & 1 ? PROT_READ | PROT_WRITE : PROT_READ);
		sem_post(&l->ready);
		for (;;) {
			int after = atomic_load(&l->revoked) == round;
			uint64_t value = 0;
			int sig = sigsetjmp(bus_jump, 0);

			i = (i + step) % words;
			if (sig) {
				bus_armed = 0;
				CHECK_EQ(sig, SIGBUS);
				break;
			}
			bus_armed = 1;
			value = p[i];
			if (me & 1)
				p[i] = value;
			bus_armed = 0;
			if (after)
				FAIL("round %d: an access after REVOKE had returned succeeded", round);
			if (value != pattern(round, i))
				FAIL("round %d: word %llu is %#llx, another's", round, (unsigned long long)i,
				     (unsigned long long)value);
			atomic_fetch_add(&l->accesses, 1);
		}
		while (sem_wait(&l->go[me])) /* the call has returned: now all of it is gone */
			;
		for (uint64_t k = 0; k < words; k += PAGE / 8)
			CHECK_EQ(peek(p + k, NULL), SIGBUS);
		munmap((void *)p, a.length);
		destroy(fd, a.id);
		sem_post(&l->ready);
	}
	_exit(0);
}

static void wait_ready(struct load *l, const pid_t *pids)
{
	for (int got = 0; got < READERS;) {
		struct timespec soon;

		clock_gettime(CLOCK_REALTIME, &soon);
		soon.tv_sec++;
		if (sem_timedwait(&l->ready, &soon) == 0) {
			got++;
			continue;
		}
		for (int i = 0; i < READERS; i++) { /* none will come of one that failed */
			int status;

			if (waitpid(pids[i], &status, WNOHANG) == pids[i] && status)
				FAIL("reader %d ended (wait status %#x)", i, status);
		}
	}
}

static void test_readers_under_load_see_their_own_bytes_or_sigbus(void)
{
	struct load *l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int owner = device();
	pid_t pids[READERS];

	CHECK(l != MAP_FAILED);
	l->length = 2 * MIB + 5 * PAGE;
	if (slow())
		load_rounds = 3; /* one of each way to revoke */
	sem_init(&l->ready, 1, 0);
	for (int i = 0; i < READERS; i++)
		sem_init(&l->go[i], 1, 0);
	for (int i = 0; i < READERS; i++) {
		pids[i] = spawn();
		if (!pids[i])
			reader(l, i);
	}
	wait_ready(l, pids);
	for (int round = 1; round <= load_rounds; round++) {
		struct mooncake_buffer_alloc b = alloc_buffer(owner, l->length);
		char *p = map(owner, b.mmap_offset, b.length, PROT_READ | PROT_WRITE);
		unsigned long seen = atomic_load(&l->accesses);
		uint64_t numbers[READERS];

		fill(p, b.length, round);
		for (int i = 0; i < READERS; i++) {
			struct mooncake_grant g = STRUCT(grant);

			g.id = b.id;
			g.uses = 1;
			g.rights = i & 1 ? RW : RO;
			memcpy(g.context_id, l->ids[i], MOONCAKE_KEY_SIZE);
			CHECK(ioctl(owner, MOONCAKE_GRANT, &g) == 0);
			memcpy(l->keys[i], g.key, MOONCAKE_KEY_SIZE);
			numbers[i] = g.grant;
		}
		for (int i = 0; i < READERS; i++)
			sem_post(&l->go[i]);
		wait_ready(l, pids);
		while (atomic_load(&l->accesses) < seen + 200) /* they are at it */
			sched_yield();
		if (round % 3 == 0)
			for (int i = 0; i < READERS; i++)
				CHECK(try_revoke_grant(owner, numbers[i]) == 0);
		else
			revoke_object(owner, b.id, round % 3 == 1 ? 0 : MOONCAKE_REVOKE_REPLACE);
		atomic_store(&l->revoked, round);
		for (int i = 0; i < READERS; i++)
			sem_post(&l->go[i]);
		if (round % 3 == 2)
			CHECK_ZERO(p, b.length); /* no writer reaches the fresh pages */
		munmap(p, b.length);
		destroy(owner, b.id);
		take_over_free_pages(owner, 4 * MIB);
		wait_ready(l, pids);
	}
	for (int i = 0; i < READERS; i++)
		REAP(pids[i]);
	printf("  %lu accesses in %d rounds\n", atomic_load(&l->accesses), load_rounds);
}

static const struct test tests[] = {
	TEST(test_revoked_object_is_gone_for_others_and_stays_for_its_owner),
	TEST(test_generation_grows_by_one_with_every_revoke_of_an_object),
	TEST(test_one_grantee_is_zapped_alone),
	TEST(test_attachments_of_one_grant_go_together),
	TEST(test_mappings_moved_split_and_handed_on_are_zapped_too),
	TEST(test_second_device_node_is_zapped_too),
	TEST(test_held_page_is_not_used_again),
	TEST(test_pinned_is_zero_again_when_the_last_holder_let_go),
	TEST(test_replace_gives_fresh_pages_to_all_mappings_of_the_owner),
	TEST(test_readers_under_load_see_their_own_bytes_or_sigbus),
};

RUN_TESTS(tests)
