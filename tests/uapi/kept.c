// SPDX-License-Identifier: MIT
/* vm: short */
/* Kept buffers: names, owners, exclusive use, keep keys, generations, quotas; what survives and what does
 * not. */
#include "uapi.h"
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define MIB (1ull << 20)
#define PARAMETERS "/sys/module/mooncake/parameters/"

static void clean(int fd, const char *name)
{
	try_unlink(fd, name);
	errno = 0;
}

static void test_kept_buffer_survives_kill_and_every_byte_is_there(void)
{
	static const char name[] = KEPT "-survives";
	struct meet m = meet_new();
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	int fd = device();
	char *p;
	pid_t pid;

	clean(fd, name);
	pid = spawn();
	if (!pid) {
		int mine = device();

		a = keep_buffer(mine, name, 32 * MIB + 3 * PAGE, MOONCAKE_BUFFER_EXCLUSIVE);
		p = map(mine, a.mmap_offset, a.length, PROT_READ | PROT_WRITE);
		fill(p, a.length, 42);
		say(m.up, &a, sizeof(a));
		pause();
	}
	hear(m.up, &a, sizeof(a));
	kill9(pid);
	CHECK(WAIT_FOR(try_open(fd, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o) == 0, 10));
	CHECK_EQ(o.length, a.length);
	CHECK(!memcmp(o.content_id, a.content_id, sizeof(a.content_id)));
	p = map(fd, o.mmap_offset, o.length, PROT_READ);
	CHECK_FILLED(p, o.length, 42);
	munmap(p, o.length);
	destroy(fd, o.id);
	unlink_buffer(fd, name);
}

static void test_exclusive_open_refuses_a_second_and_names_the_first(void)
{
	static const char name[] = KEPT "-exclusive";
	struct meet m = meet_new();
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	int fd = device();
	uint64_t generation;
	pid_t pid;

	clean(fd, name);
	a = keep_buffer(fd, name, MIB, 0);
	destroy(fd, a.id);
	pid = spawn();
	if (!pid) {
		o = open_buffer(device(), name, MOONCAKE_OPEN_EXCLUSIVE);
		say(m.up, &o.generation, sizeof(o.generation));
		pause();
	}
	hear(m.up, &generation, sizeof(generation));
	CHECK_EQ(generation, 2);
	CHECK_ERR(try_open(fd, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o), EBUSY);
	CHECK_EQ(o.holder_pid, pid);
	CHECK_EQ(o.id, 0);
	CHECK_ERR(try_open(fd, name, MOONCAKE_UID_SELF, 0, &o), EBUSY); /* held exclusively */
	CHECK_EQ(o.holder_pid, pid);
	CHECK_ERR(try_open_key(fd, a.keep_key, MOONCAKE_OPEN_EXCLUSIVE, &o),
		  EBUSY); /* the key changes nothing */
	CHECK_EQ(o.holder_pid, pid);
	kill9(pid);
	CHECK(WAIT_FOR(try_open(fd, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o) == 0, 10));
	CHECK_EQ(o.generation, 3);
	CHECK_EQ(stat_object(fd, o.id).state, MOONCAKE_STATE_KEPT | MOONCAKE_STATE_EXCLUSIVE);
	unlink_buffer(fd, name);
}

/* Shared users keep an exclusive one out, and the other way round, until the id is destroyed. */
static void test_exclusive_and_shared_exclude_each_other(void)
{
	static const char name[] = KEPT "-shared";
	int a = device(), b = device();
	struct mooncake_buffer_open o, p;

	clean(a, name);
	destroy(a, keep_buffer(a, name, MIB, 0).id);
	o = open_buffer(a, name, 0);
	p = open_buffer(b, name, 0);
	CHECK_ERR(try_open(b, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &p), EBUSY);
	CHECK_EQ(p.holder_pid, getpid());
	destroy(a, o.id);
	CHECK_EQ(stat_object(b, 1).generation, 1); /* shared opening changes nothing */
	CHECK_EQ(stat_object(b, 1).state, MOONCAKE_STATE_KEPT);
	destroy(b, 1);
	p = open_buffer(b, name, MOONCAKE_OPEN_EXCLUSIVE);
	CHECK_EQ(p.generation, 2);
	CHECK_ERR(try_open(a, name, MOONCAKE_UID_SELF, 0, &o), EBUSY);
	destroy(b, p.id);
	o = open_buffer(a, name, 0);
	CHECK_EQ(o.generation, 2);
	unlink_buffer(a, name);
}

static void test_mapping_of_an_exclusive_holder_still_holds(void)
{
	static const char name[] = KEPT "-exclusive-map";
	int a = device(), b = device();
	struct mooncake_buffer_alloc k;
	struct mooncake_buffer_open o;
	char *p;

	clean(a, name);
	k = keep_buffer(a, name, MIB, MOONCAKE_BUFFER_EXCLUSIVE);
	p = map(a, k.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	close(a); /* the mapping is the context's last user */
	CHECK_ERR(try_open(b, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o), EBUSY);
	*p = 1;
	munmap(p, MIB);
	CHECK(WAIT_FOR(try_open(b, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o) == 0, 5));
	unlink_buffer(b, name);
}

/* The answer does not fit where the caller wants it: nobody holds the buffer, and its generation is what it was. */
static void test_exclusive_open_that_cannot_answer_changes_nothing(void)
{
	static const char name[] = KEPT "-efault";
	int a = device(), b = device();
	struct mooncake_buffer_open o, *bad;
	char *p = map_anon(2 * PAGE);

	clean(a, name);
	destroy(a, keep_buffer(a, name, MIB, 0).id);
	/* All of it out of reach, all but its first 32 bytes. */
	for (unsigned int within = 0; within <= 32; within += 32) {
		bad = (void *)(p + PAGE - within);
		mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE);
		*bad = (struct mooncake_buffer_open)STRUCT(buffer_open);
		bad->flags = MOONCAKE_OPEN_EXCLUSIVE;
		bad->uid = MOONCAKE_UID_SELF;
		bad->name = PTR(name);
		bad->name_length = strlen(name);
		CHECK(mprotect(p + PAGE, PAGE, PROT_READ) == 0);
		CHECK_ERR(ioctl(a, MOONCAKE_BUFFER_OPEN, bad), EFAULT);
		CHECK_EQ(query(a).objects, 0);
		o = open_buffer(b, name, 0);
		CHECK_EQ(o.generation, 1);
		destroy(b, o.id);
	}
	CHECK_EQ(open_buffer(b, name, MOONCAKE_OPEN_EXCLUSIVE).generation, 2);
	unlink_buffer(b, name);
}

static atomic_int flipping;

static void *flipper(void *page)
{
	while (atomic_load(&flipping)) {
		mprotect(page, PAGE, PROT_READ);
		mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

/* Whoever takes the place of the answer away meanwhile: the generation counts the opens that were told, no others. */
static void test_exclusive_opens_that_were_told_are_those_that_count(void)
{
	static const char name[] = KEPT "-told";
	int fd = device(), rounds = slow() ? 500 : 2000, question = memfd_create("question", MFD_CLOEXEC);
	struct mooncake_buffer_open *o = map_anon(PAGE), fresh = STRUCT(buffer_open);
	uint64_t generation = 1;
	pthread_t thread;

	clean(fd, name);
	destroy(fd, keep_buffer(fd, name, PAGE, 0).id);
	fresh.flags = MOONCAKE_OPEN_EXCLUSIVE;
	fresh.uid = MOONCAKE_UID_SELF;
	fresh.name = PTR(name);
	fresh.name_length = strlen(name);
	CHECK_EQ(write(question, &fresh, sizeof(fresh)), sizeof(fresh));
	atomic_store(&flipping, 1);
	CHECK(!pthread_create(&thread, NULL, flipper, o));
	for (int i = 0; i < rounds; i++) {
		/* By way of the kernel, which does not die of a page that cannot be written. */
		while (pread(question, o, sizeof(*o), 0) != (ssize_t)sizeof(*o))
			CHECK(errno == EFAULT);
		if (ioctl(fd, MOONCAKE_BUFFER_OPEN, o)) {
			CHECK_EQ(errno, EFAULT);
			continue;
		}
		CHECK_EQ(o->generation, ++generation);
		destroy(fd, o->id);
	}
	atomic_store(&flipping, 0);
	pthread_join(thread, NULL);
	CHECK_EQ(open_buffer(fd, name, 0).generation, generation);
	unlink_buffer(fd, name);
}

static void test_holder_is_named_as_its_reader_sees_it(void)
{
	static const char name[] = KEPT "-pidns";
	int fd = device();
	struct mooncake_buffer_open o;
	pid_t pid, inner;

	clean(fd, name);
	keep_buffer(fd, name, MIB, MOONCAKE_BUFFER_EXCLUSIVE);
	pid = spawn();
	if (!pid) {
		if (unshare(CLONE_NEWPID))
			SKIP("no PID namespaces: %s", strerror(errno));
		inner = fork();
		if (!inner) {
			CHECK_ERR(try_open(device(), name, MOONCAKE_UID_SELF, 0, &o), EBUSY);
			CHECK_EQ(o.holder_pid, 0); /* not visible from in here */
			_exit(0);
		}
		REAP(inner);
		_exit(0);
	}
	REAP(pid);
	unlink_buffer(fd, name);
}

static void test_another_user_gets_eacces(void)
{
	static const char name[] = KEPT "-users";
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	struct mooncake_revoke r;
	int fd = device();
	pid_t pid;

	clean(fd, name);
	a = keep_buffer(fd, name, MIB, 0);
	pid = spawn();
	if (!pid) {
		struct mooncake_buffer_unlink u = STRUCT(buffer_unlink);
		int mine = device();

		become(23456);
		CHECK_ERR(try_open(mine, name, 0, 0, &o), EACCES);
		CHECK_ERR(try_open(mine, name, 0, MOONCAKE_OPEN_EXCLUSIVE, &o), EACCES);
		CHECK_ERR(try_open(mine, name, MOONCAKE_UID_SELF, 0, &o), ENOENT); /* names belong to users */
		u.uid = 0;
		u.name = PTR(name);
		u.name_length = strlen(name);
		CHECK_ERR(ioctl(mine, MOONCAKE_BUFFER_UNLINK, &u), EACCES);
		r = (struct mooncake_revoke)STRUCT(revoke);
		r.flags = MOONCAKE_REVOKE_NAMED;
		r.name = PTR(name);
		r.name_length = strlen(name);
		CHECK_ERR(ioctl(mine, MOONCAKE_REVOKE, &r), EACCES);
		CHECK(try_open_key(mine, a.keep_key, 0, &o) == 0); /* whoever knows the key owns it */
		_exit(0);
	}
	REAP(pid);
	unlink_buffer(fd, name);
}

static void test_cap_ipc_owner_opens_any_users_buffer(void)
{
	static const char name[] = KEPT "-of-another";
	struct meet m = meet_new();
	struct mooncake_buffer_open o;
	struct mooncake_buffer_alloc a;
	int fd = device(), allowed = 1;
	pid_t pid = spawn();
	char c = 0;

	if (!pid) {
		int mine = device();

		become(23457);
		if (try_keep(mine, name, MIB, 0, &a)) {
			CHECK(errno == EACCES); /* the module's parameters say who may */
			c = 1;
		}
		say(m.up, &c, 1);
		hear(m.down, &c, 1);
		_exit(0);
	}
	hear(m.up, &c, 1);
	allowed = !c;
	if (allowed) {
		struct mooncake_buffer_unlink u = STRUCT(buffer_unlink);

		CHECK(try_open(fd, name, 23457, 0, &o) == 0);
		CHECK_ERR(try_open(fd, name, MOONCAKE_UID_SELF, 0, &o), ENOENT);
		u.uid = 23457;
		u.name = PTR(name);
		u.name_length = strlen(name);
		CHECK(ioctl(fd, MOONCAKE_BUFFER_UNLINK, &u) == 0);
	}
	say(m.down, "x", 1);
	REAP(pid);
	if (!allowed)
		SKIP("the module's parameters let root alone keep buffers");
}

static void test_other_user_namespace_opens_by_key_only(void)
{
	static const char name[] = KEPT "-userns";
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	int fd = device();
	pid_t pid;

	clean(fd, name);
	a = keep_buffer(fd, name, MIB, 0);
	/* No map at all: the owner has no name in there, though the process runs as him. */
	pid = spawn();
	if (!pid) {
		int mine = device();

		if (unshare(CLONE_NEWUSER))
			SKIP("no user namespaces: %s", strerror(errno));
		CHECK_ERR(try_open(mine, name, MOONCAKE_UID_SELF, 0, &o), EACCES);
		CHECK(try_open(mine, name, 0, 0, &o) == -1);
		CHECK(try_open_key(mine, a.keep_key, 0, &o) == 0);
		CHECK_EQ(stat_object(mine, o.id).owner_uid, 65534);
		_exit(0);
	}
	REAP(pid);
	/* A root of its own, who is another user outside. */
	pid = spawn();
	if (!pid) {
		int mine = device();
		struct meet m = meet_new();
		char path[64], c;
		pid_t inner = fork();

		if (!inner) {
			CHECK(unshare(CLONE_NEWUSER) == 0);
			say(m.up, "u", 1);
			hear(m.down, &c, 1);
			CHECK(setresuid(0, 0, 0) == 0);
			CHECK(try_open(mine, name, MOONCAKE_UID_SELF, 0, &o) == -1);
			CHECK(try_open(mine, name, 0, 0, &o) == -1); /* that is 100000 outside */
			CHECK_ERR(try_unlink(mine, name), ENOENT);
			CHECK(try_open_key(mine, a.keep_key, 0, &o) == 0);
			_exit(0);
		}
		hear(m.up, &c, 1);
		snprintf(path, sizeof(path), "/proc/%d/uid_map", inner);
		CHECK(file_write(path, "0 100000 1000") == 0);
		say(m.down, "m", 1);
		REAP(inner);
		_exit(0);
	}
	REAP(pid);
	unlink_buffer(fd, name);
}

static void test_unlink_frees_with_the_last_user(void)
{
	static const char name[] = KEPT "-unlink";
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	uint64_t before = query(fd).user_bytes, kept;
	char *p;

	clean(fd, name);
	kept = query(fd).kept_bytes;
	a = keep_buffer(fd, name, 4 * MIB, 0);
	CHECK_EQ(query(fd).kept_bytes, kept + 4 * MIB);
	p = map(fd, a.mmap_offset, 4 * MIB, PROT_READ | PROT_WRITE);
	fill(p, 4 * MIB, 1);
	unlink_buffer(fd, name);
	CHECK_ERR(try_open(other, name, MOONCAKE_UID_SELF, 0, &o), ENOENT);
	CHECK_ERR(try_open_key(other, a.keep_key, 0, &o), ENOENT);
	CHECK_ERR(try_unlink(fd, name), ENOENT);
	CHECK_EQ(stat_object(fd, a.id).state & MOONCAKE_STATE_KEPT, 0);
	destroy(fd, a.id);
	CHECK_FILLED(p, 4 * MIB, 1);
	CHECK_EQ(query(fd).user_bytes, before + 4 * MIB);
	/* The name is free at once, for another memory. */
	a = keep_buffer(other, name, MIB, 0);
	CHECK_ZERO(map(other, a.mmap_offset, MIB, PROT_READ), MIB);
	unlink_buffer(other, name);
	munmap(p, 4 * MIB);
	CHECK(WAIT_FOR(query(fd).user_bytes == before + MIB, 10));
}

static void test_unlink_by_key_ends_the_name(void)
{
	static const char name[] = KEPT "-unlink-key";
	struct mooncake_buffer_unlink u = STRUCT(buffer_unlink);
	struct mooncake_buffer_open o;
	int fd = device();
	struct mooncake_buffer_alloc a;

	clean(fd, name);
	a = keep_buffer(fd, name, PAGE, 0);
	u.flags = MOONCAKE_UNLINK_BY_KEY;
	memcpy(u.keep_key, a.keep_key, sizeof(u.keep_key));
	CHECK(ioctl(fd, MOONCAKE_BUFFER_UNLINK, &u) == 0);
	CHECK_ERR(ioctl(fd, MOONCAKE_BUFFER_UNLINK, &u), ENOENT);
	CHECK_ERR(try_open(fd, name, MOONCAKE_UID_SELF, 0, &o), ENOENT);
}

/* The content id stays while the content can be what was written: across opens, not across names or REPLACE.
 */
static void test_content_id_stays_with_the_content(void)
{
	static const char name[] = KEPT "-content";
	int fd = device(), other = device();
	struct mooncake_buffer_alloc a, b;
	struct mooncake_buffer_open o;
	struct mooncake_revoke r;
	uint64_t generation;

	clean(fd, name);
	a = keep_buffer(fd, name, MIB, 0);
	fill(map(fd, a.mmap_offset, MIB, PROT_READ | PROT_WRITE), MIB, 5);
	for (int i = 0; i < 3; i++) {
		o = open_buffer(other, name, 0);
		CHECK(!memcmp(o.content_id, a.content_id, sizeof(a.content_id)));
		CHECK_EQ(o.generation, 1);
		destroy(other, o.id);
	}
	r = revoke_object(fd, a.id, 0);
	CHECK_EQ(r.generation, 2);
	CHECK(!memcmp(stat_object(fd, a.id).content_id, a.content_id, sizeof(a.content_id)));
	generation = revoke_object(fd, a.id, MOONCAKE_REVOKE_REPLACE).generation;
	CHECK(generation > 2);
	o = open_buffer(other, name, 0);
	CHECK(memcmp(o.content_id, a.content_id, sizeof(a.content_id)));
	CHECK_EQ(o.generation, generation);
	CHECK_ZERO(map(other, o.mmap_offset, MIB, PROT_READ), MIB);
	unlink_buffer(fd, name);
	b = keep_buffer(fd, name, MIB, 0);
	CHECK(memcmp(b.content_id, a.content_id, sizeof(a.content_id)));
	CHECK(memcmp(b.keep_key, a.keep_key, sizeof(a.keep_key)));
	CHECK_EQ(b.generation, 1);
	unlink_buffer(fd, name);
}

static void test_revoke_by_name_ends_all_users(void)
{
	static const char name[] = KEPT "-named";
	int a = device(), b = device(), c = device();
	struct mooncake_buffer_alloc k;
	struct mooncake_buffer_open o;
	struct mooncake_revoke r;
	char *p, *q;

	clean(a, name);
	k = keep_buffer(a, name, MIB, 0);
	o = open_buffer(b, name, 0);
	p = map(a, k.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	q = map(b, o.mmap_offset, MIB, PROT_READ | PROT_WRITE);
	fill(p, MIB, 8);
	CHECK(*(uint64_t *)q == pattern(8, 0));
	CHECK(try_revoke_named(c, name, 0, &r) == 0);
	CHECK_EQ(r.generation, 2);
	catch_bus();
	CHECK_EQ(peek(p, NULL), SIGBUS);
	CHECK_EQ(peek(q, NULL), SIGBUS);
	CHECK(mmap(NULL, MIB, PROT_READ, MAP_SHARED, a, (off_t)k.mmap_offset) == MAP_FAILED);
	CHECK_EQ(stat_object(a, k.id).state & MOONCAKE_STATE_REVOKED, MOONCAKE_STATE_REVOKED);
	/* The buffer itself lives: its name opens it again, with its content. */
	o = open_buffer(c, name, MOONCAKE_OPEN_EXCLUSIVE);
	CHECK_FILLED(map(c, o.mmap_offset, MIB, PROT_READ), MIB, 8);
	unlink_buffer(c, name);
}

static void test_quota_of_a_user_is_edquot(void)
{
	struct mooncake_buffer_alloc a = STRUCT(buffer_alloc);
	long long old;
	char text[32];
	int fd = device();
	uint64_t used = query(fd).user_bytes;

	if (file_int(PARAMETERS "user_limit", &old))
		SKIP("no module parameter user_limit that can be read");
	snprintf(text, sizeof(text), "%llu", (unsigned long long)(used + 8 * MIB));
	if (file_write(PARAMETERS "user_limit", text))
		SKIP("the module parameter user_limit cannot be written while loaded");
	CHECK_EQ(query(fd).user_limit, used + 8 * MIB);
	a.numa_node = -1;
	a.length = 8 * MIB + PAGE;
	errno = 0;
	int r = ioctl(fd, MOONCAKE_BUFFER_ALLOC, &a), error = errno;
	a.length = 8 * MIB;
	int r2 = ioctl(fd, MOONCAKE_BUFFER_ALLOC, &a);
	snprintf(text, sizeof(text), "%lld", old);
	CHECK(file_write(PARAMETERS "user_limit", text) == 0);
	CHECK(r == -1);
	CHECK_EQ(error, EDQUOT);
	CHECK(r2 == 0);
}

/* Who may not use the object any more learns that, and its owner is not charged for pages that replace nothing. */
static void test_replacing_through_a_revoked_id_asks_for_no_memory(void)
{
	static const char name[] = KEPT "-no-say";
	int fd = device(), other = device(), r, error;
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	struct mooncake_revoke v;
	long long old;
	char text[32];

	clean(fd, name);
	if (file_int(PARAMETERS "user_limit", &old))
		SKIP("no module parameter user_limit that can be read");
	a = keep_buffer(fd, name, 4 * MIB, 0);
	o = open_buffer(other, name, 0);
	revoke_object(fd, a.id, 0);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)query(fd).user_bytes);
	if (file_write(PARAMETERS "user_limit", text))
		SKIP("the module parameter user_limit cannot be written while loaded");
	errno = 0;
	r = try_revoke(other, o.id, MOONCAKE_REVOKE_REPLACE, &v);
	error = errno;
	snprintf(text, sizeof(text), "%lld", old);
	CHECK(file_write(PARAMETERS "user_limit", text) == 0);
	CHECK(r == -1);
	CHECK_EQ(error, ESTALE);
	unlink_buffer(fd, name);
}

static void test_limit_for_kept_memory_is_edquot(void)
{
	static const char name[] = KEPT "-limit";
	struct mooncake_buffer_alloc a;
	int fd = device();
	uint64_t kept = query(fd).kept_bytes;
	long long old;
	char text[32];

	clean(fd, name);
	if (file_int(PARAMETERS "kept_limit", &old))
		SKIP("no module parameter kept_limit that can be read");
	snprintf(text, sizeof(text), "%llu", (unsigned long long)(kept + 2 * MIB));
	if (file_write(PARAMETERS "kept_limit", text))
		SKIP("the module parameter kept_limit cannot be written while loaded");
	CHECK_EQ(query(fd).kept_limit, kept + 2 * MIB);
	errno = 0;
	int r = try_keep(fd, name, 2 * MIB + PAGE, 0, &a), error = errno;
	int r2 = try_keep(fd, name, 2 * MIB, 0, &a), r3;
	struct mooncake_buffer_alloc plain = STRUCT(buffer_alloc);

	plain.length = 4 * MIB;
	plain.numa_node = -1;
	r3 = ioctl(fd, MOONCAKE_BUFFER_ALLOC, &plain); /* what is not kept is not limited by it */
	snprintf(text, sizeof(text), "%lld", old);
	CHECK(file_write(PARAMETERS "kept_limit", text) == 0);
	CHECK(r == -1);
	CHECK_EQ(error, EDQUOT);
	CHECK(r2 == 0 && r3 == 0);
	unlink_buffer(fd, name);
}

static void test_module_stays_while_something_is_kept(void)
{
	static const char name[] = KEPT "-module";
	int fd = device();

	clean(fd, name);
	keep_buffer(fd, name, PAGE, 0);
	close(fd);
	CHECK_ERR(syscall(SYS_delete_module, "mooncake", O_NONBLOCK), EWOULDBLOCK);
	fd = device();
	unlink_buffer(fd, name);
}

static void test_kept_buffers_of_many_names_are_told_apart(void)
{
	enum { N = 300 };
	int fd = device();
	char name[64];

	for (int i = 0; i < N; i++) {
		struct mooncake_buffer_alloc a;

		snprintf(name, sizeof(name), KEPT "-many-%d", i);
		clean(fd, name);
		a = keep_buffer(fd, name, PAGE, 0);
		*(int *)map(fd, a.mmap_offset, PAGE, PROT_READ | PROT_WRITE) = i;
		destroy(fd, a.id);
	}
	for (int i = N - 1; i >= 0; i--) {
		struct mooncake_buffer_open o;

		snprintf(name, sizeof(name), KEPT "-many-%d", i);
		o = open_buffer(fd, name, 0);
		CHECK(*(int *)map(fd, o.mmap_offset, PAGE, PROT_READ) == i);
		unlink_buffer(fd, name);
	}
}

/* A process ended by a signal in the middle of keeping leaves either the buffer with its name, or neither. */
static void test_killed_while_keeping_leaves_all_or_nothing(void)
{
	static const char name[] = KEPT "-half";
	int fd = device();
	uint64_t before = query(fd).kept_bytes;

	for (int i = 0; i < 30; i++) {
		struct meet m = meet_new();
		struct mooncake_buffer_open o;
		pid_t pid = spawn();
		char c;

		if (!pid) {
			int mine = device();

			say(m.up, "r", 1);
			for (;;) {
				keep_buffer(mine, name, 64 * MIB, 0);
				unlink_buffer(mine, name);
				destroy(mine, 1);
			}
		}
		hear(m.up, &c, 1);
		poll(NULL, 0, i * 2); /* the place is what varies */
		kill9(pid);
		if (try_open(fd, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o) == 0) {
			CHECK_EQ(o.length, 64 * MIB);
			CHECK_ZERO(map(fd, o.mmap_offset + o.length - PAGE, PAGE, PROT_READ), PAGE);
			unlink_buffer(fd, name);
			destroy(fd, o.id);
		} else {
			CHECK(errno == ENOENT);
		}
		for (int k = 0; k < 2; k++)
			close(m.up[k]), close(m.down[k]);
	}
	CHECK(WAIT_FOR(query(fd).kept_bytes == before, 10));
}

static const struct test tests[] = {
	TEST(test_kept_buffer_survives_kill_and_every_byte_is_there),
	TEST(test_exclusive_open_refuses_a_second_and_names_the_first),
	TEST(test_exclusive_and_shared_exclude_each_other),
	TEST(test_mapping_of_an_exclusive_holder_still_holds),
	TEST(test_exclusive_open_that_cannot_answer_changes_nothing),
	TEST(test_exclusive_opens_that_were_told_are_those_that_count),
	TEST(test_holder_is_named_as_its_reader_sees_it),
	TEST(test_another_user_gets_eacces),
	TEST(test_cap_ipc_owner_opens_any_users_buffer),
	TEST(test_other_user_namespace_opens_by_key_only),
	TEST(test_unlink_frees_with_the_last_user),
	TEST(test_unlink_by_key_ends_the_name),
	TEST(test_content_id_stays_with_the_content),
	TEST(test_revoke_by_name_ends_all_users),
	TEST(test_quota_of_a_user_is_edquot),
	TEST(test_replacing_through_a_revoked_id_asks_for_no_memory),
	TEST(test_limit_for_kept_memory_is_edquot),
	TEST(test_module_stays_while_something_is_kept),
	TEST(test_kept_buffers_of_many_names_are_told_apart),
	TEST(test_killed_while_keeping_leaves_all_or_nothing),
};

RUN_TESTS(tests)
