/* SPDX-License-Identifier: MIT */
/*
 * Tiny helpers of the tests of /dev/mooncake. A program is a table of tests; each runs in a process of its own, and
 * after each the gauges of the module must return to where they were. Exit status: 0, 1, or 77 with a reason.
 */
#ifndef UAPI_H
#define UAPI_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <linux/mooncake.h>

#define DEVICE	 "/dev/mooncake"
#define COUNTERS "/sys/kernel/debug/mooncake/counters"
#define PAGE	 4096ul
#define KEPT	 "uapi-test" /* every name that tests give to kept buffers begins so */

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PTR(p)	      ((uint64_t)(uintptr_t)(p))
/* A struct of the contract, all zero but for its size. */
#define STRUCT(name) {.size = sizeof(struct mooncake_##name)}

/* ---- verdicts ---- */

__attribute__((noreturn, format(printf, 3, 4))) static void fail_at(const char *file, int line, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s:%d: ", file, line);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(1);
}

#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond)                                                                                          \
	do {                                                                                                 \
		if (!(cond))                                                                                 \
			FAIL("%s is false (errno %s)", #cond, strerror(errno));                              \
	} while (0)
#define CHECK_EQ(a, b)                                                                                       \
	do {                                                                                                 \
		unsigned long long a_ = (a), b_ = (b);                                                       \
		if (a_ != b_)                                                                                \
			FAIL("%s is %#llx, not %s (%#llx)", #a, a_, #b, b_);                                 \
	} while (0)
/* The call must fail, with exactly this error. */
#define CHECK_ERR(call, error)                                                                               \
	do {                                                                                                 \
		errno = 0;                                                                                   \
		long r_ = (long)(call);                                                                      \
		if (r_ != -1)                                                                                \
			FAIL("%s succeeded, not %s", #call, strerror(error));                                \
		if (errno != (error))                                                                        \
			FAIL("%s: %s, not %s", #call, strerror(errno), strerror(error));                     \
	} while (0)
#define SKIP(...)                                                                                            \
	do {                                                                                                 \
		printf("skipped: " __VA_ARGS__);                                                             \
		putchar('\n');                                                                               \
		fflush(stdout);                                                                              \
		_exit(77);                                                                                   \
	} while (0)

/* A short pass, or a kernel whose checks make everything many times slower: do less of the same. */
static inline int slow(void)
{
	const char *e = getenv("VM_SHORT");

	return (e && !strcmp(e, "yes")) || !access("/sys/kernel/debug/kmemleak", F_OK);
}

static inline uint64_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "MemAvailable: %llu", &kib);
	if (f)
		fclose(f);
	return kib << 10;
}

/* ---- the module's counters ---- */

struct counter {
	char name[48];
	long long value;
};

static inline int counters_read(struct counter *c, int max)
{
	FILE *f = fopen(COUNTERS, "re");
	int n = 0;

	if (!f)
		return 0;
	while (n < max && fscanf(f, "%47s %lld", c[n].name, &c[n].value) == 2)
		n++;
	fclose(f);
	return n;
}

/* -1: there is none of that name. */
static inline long long counter(const char *name)
{
	struct counter c[128];
	int n = counters_read(c, ARRAY_SIZE(c));

	for (int i = 0; i < n; i++)
		if (!strcmp(c[i].name, name))
			return c[i].value;
	return -1;
}

/* All count what lives now and return to where they were, but for these. */
static inline int is_gauge(const char *name)
{
	return strcmp(name, "max_free_batch") && strcmp(name, "faults") && strcmp(name, "zaps");
}

static inline double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static inline uint64_t boottime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Wait until a condition holds; what cannot be waited on any other way is polled. */
#define WAIT_FOR(cond, limit_s)                                                                              \
	({                                                                                                   \
		double end_ = seconds() + (limit_s);                                                         \
		int held_;                                                                                   \
		while (!(held_ = !!(cond)) && seconds() < end_)                                              \
			poll(NULL, 0, 1);                                                                    \
		held_;                                                                                       \
	})

/* NULL, or what is more than it was: memory goes back off the exit path, so give it time. */
static inline const char *gauges_grew(const struct counter *start, int n)
{
	static struct counter now[128];
	static char text[160];
	int m = counters_read(now, ARRAY_SIZE(now));

	for (int i = 0; i < n; i++)
		for (int k = 0; is_gauge(start[i].name) && k < m; k++)
			if (!strcmp(now[k].name, start[i].name) && now[k].value > start[i].value) {
				snprintf(text, sizeof(text), "%.47s is %lld, was %lld", now[k].name, now[k].value,
					 start[i].value);
				return text;
			}
	return NULL;
}

/* ---- calls, each a line; they end the test when they fail ---- */

static inline int device(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		FAIL("%s: %s", DEVICE, strerror(errno));
	return fd;
}

static inline struct mooncake_query query(int fd)
{
	struct mooncake_query q = STRUCT(query);

	CHECK(ioctl(fd, MOONCAKE_QUERY, &q) == 0);
	return q;
}

static inline void context_id(int fd, uint8_t id[MOONCAKE_KEY_SIZE])
{
	struct mooncake_query q = query(fd);

	memcpy(id, q.context_id, MOONCAKE_KEY_SIZE);
}

static inline int has_feature(int fd, uint64_t feature)
{
	return (query(fd).features & feature) != 0;
}

static inline struct mooncake_buffer_alloc alloc_buffer(int fd, uint64_t length)
{
	struct mooncake_buffer_alloc a = STRUCT(buffer_alloc);

	a.length = length;
	a.numa_node = -1;
	if (ioctl(fd, MOONCAKE_BUFFER_ALLOC, &a))
		FAIL("BUFFER_ALLOC of %llu bytes: %s", (unsigned long long)length, strerror(errno));
	return a;
}

static inline int try_keep(int fd, const char *name, uint64_t length, uint32_t flags, struct mooncake_buffer_alloc *a)
{
	*a = (struct mooncake_buffer_alloc)STRUCT(buffer_alloc);
	a->flags = MOONCAKE_BUFFER_KEEP | flags;
	a->length = length;
	a->numa_node = -1;
	a->name = PTR(name);
	a->name_length = strlen(name);
	return ioctl(fd, MOONCAKE_BUFFER_ALLOC, a);
}

static inline struct mooncake_buffer_alloc keep_buffer(int fd, const char *name, uint64_t length, uint32_t flags)
{
	struct mooncake_buffer_alloc a;

	if (try_keep(fd, name, length, flags, &a))
		FAIL("BUFFER_ALLOC kept as %s: %s", name, strerror(errno));
	return a;
}

static inline int try_open(int fd, const char *name, uint32_t uid, uint32_t flags, struct mooncake_buffer_open *o)
{
	*o = (struct mooncake_buffer_open)STRUCT(buffer_open);
	o->flags = flags;
	o->uid = uid;
	o->name = PTR(name);
	o->name_length = strlen(name);
	return ioctl(fd, MOONCAKE_BUFFER_OPEN, o);
}

static inline struct mooncake_buffer_open open_buffer(int fd, const char *name, uint32_t flags)
{
	struct mooncake_buffer_open o;

	if (try_open(fd, name, MOONCAKE_UID_SELF, flags, &o))
		FAIL("BUFFER_OPEN of %s: %s", name, strerror(errno));
	return o;
}

static inline int try_open_key(int fd, const uint8_t key[MOONCAKE_KEY_SIZE], uint32_t flags,
			       struct mooncake_buffer_open *o)
{
	*o = (struct mooncake_buffer_open)STRUCT(buffer_open);
	o->flags = MOONCAKE_OPEN_BY_KEY | flags;
	memcpy(o->keep_key, key, MOONCAKE_KEY_SIZE);
	return ioctl(fd, MOONCAKE_BUFFER_OPEN, o);
}

static inline int try_unlink(int fd, const char *name)
{
	struct mooncake_buffer_unlink u = STRUCT(buffer_unlink);

	u.uid = MOONCAKE_UID_SELF;
	u.name = PTR(name);
	u.name_length = strlen(name);
	return ioctl(fd, MOONCAKE_BUFFER_UNLINK, &u);
}

static inline void unlink_buffer(int fd, const char *name)
{
	if (try_unlink(fd, name))
		FAIL("BUFFER_UNLINK of %s: %s", name, strerror(errno));
}

static inline int try_destroy(int fd, uint32_t id)
{
	struct mooncake_destroy d = STRUCT(destroy);

	d.id = id;
	return ioctl(fd, MOONCAKE_DESTROY, &d);
}

static inline void destroy(int fd, uint32_t id)
{
	if (try_destroy(fd, id))
		FAIL("DESTROY of %u: %s", id, strerror(errno));
}

static inline int try_stat(int fd, uint32_t id, struct mooncake_stat *s)
{
	*s = (struct mooncake_stat)STRUCT(stat);
	s->id = id;
	return ioctl(fd, MOONCAKE_STAT, s);
}

static inline struct mooncake_stat stat_object(int fd, uint32_t id)
{
	struct mooncake_stat s;

	if (try_stat(fd, id, &s))
		FAIL("STAT of %u: %s", id, strerror(errno));
	return s;
}

/* A grant of the whole object to the context behind `to`, one use, no expiry. */
static inline struct mooncake_grant grant_for(int to, uint32_t id, uint32_t rights)
{
	struct mooncake_grant g = STRUCT(grant);

	g.id = id;
	g.rights = rights;
	g.uses = 1;
	context_id(to, g.context_id);
	return g;
}

static inline struct mooncake_grant grant(int fd, uint32_t id, int to, uint32_t rights)
{
	struct mooncake_grant g = grant_for(to, id, rights);

	if (ioctl(fd, MOONCAKE_GRANT, &g))
		FAIL("GRANT of %u: %s", id, strerror(errno));
	return g;
}

static inline int try_attach(int fd, const uint8_t key[MOONCAKE_KEY_SIZE], struct mooncake_attach *a)
{
	*a = (struct mooncake_attach)STRUCT(attach);
	memcpy(a->key, key, MOONCAKE_KEY_SIZE);
	return ioctl(fd, MOONCAKE_ATTACH, a);
}

static inline struct mooncake_attach attach(int fd, const uint8_t key[MOONCAKE_KEY_SIZE])
{
	struct mooncake_attach a;

	if (try_attach(fd, key, &a))
		FAIL("ATTACH: %s", strerror(errno));
	return a;
}

#define RW (MOONCAKE_RIGHT_READ | MOONCAKE_RIGHT_WRITE)
#define RO MOONCAKE_RIGHT_READ

/* From one context to another in one step. */
static inline struct mooncake_attach share(int from, uint32_t id, int to, uint32_t rights)
{
	return attach(to, grant(from, id, to, rights).key);
}

static inline int try_revoke(int fd, uint32_t id, uint32_t flags, struct mooncake_revoke *r)
{
	*r = (struct mooncake_revoke)STRUCT(revoke);
	r->id = id;
	r->flags = flags;
	return ioctl(fd, MOONCAKE_REVOKE, r);
}

static inline struct mooncake_revoke revoke_object(int fd, uint32_t id, uint32_t flags)
{
	struct mooncake_revoke r;

	if (try_revoke(fd, id, flags, &r))
		FAIL("REVOKE of %u: %s", id, strerror(errno));
	return r;
}

static inline int try_revoke_grant(int fd, uint64_t number)
{
	struct mooncake_revoke r = STRUCT(revoke);

	r.flags = MOONCAKE_REVOKE_GRANT;
	r.grant = number;
	return ioctl(fd, MOONCAKE_REVOKE, &r);
}

static inline int try_revoke_named(int fd, const char *name, uint32_t flags, struct mooncake_revoke *r)
{
	*r = (struct mooncake_revoke)STRUCT(revoke);
	r->flags = MOONCAKE_REVOKE_NAMED | flags;
	r->uid = MOONCAKE_UID_SELF;
	r->name = PTR(name);
	r->name_length = strlen(name);
	return ioctl(fd, MOONCAKE_REVOKE, r);
}

static inline int try_copy(int fd, uint32_t dst, uint64_t dst_offset, uint32_t src, uint64_t src_offset,
			   uint64_t length)
{
	struct mooncake_copy c = STRUCT(copy);

	c.dst_id = dst;
	c.dst_offset = dst_offset;
	c.src_id = src;
	c.src_offset = src_offset;
	c.length = length;
	return ioctl(fd, MOONCAKE_COPY, &c);
}

static inline int try_export(int fd, uint32_t id, uint32_t flags)
{
	struct mooncake_export e = STRUCT(export);

	e.id = id;
	e.flags = flags;
	return ioctl(fd, MOONCAKE_EXPORT, &e) ? -1 : e.fd;
}

static inline int try_pin(int fd, const void *addr, uint64_t length, uint32_t *id)
{
	struct mooncake_region_pin p = STRUCT(region_pin);

	p.addr = PTR(addr);
	p.length = length;
	if (ioctl(fd, MOONCAKE_REGION_PIN, &p))
		return -1;
	*id = p.id;
	return 0;
}

static inline void *try_map(int fd, uint64_t offset, uint64_t length, int prot)
{
	return mmap(NULL, length, prot, MAP_SHARED, fd, (off_t)offset);
}

static inline void *map(int fd, uint64_t offset, uint64_t length, int prot)
{
	void *p = try_map(fd, offset, length, prot);

	if (p == MAP_FAILED)
		FAIL("mmap of %llu bytes at %#llx: %s", (unsigned long long)length, (unsigned long long)offset,
		     strerror(errno));
	return p;
}

static inline void *map_anon(uint64_t length)
{
	void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* ---- memory that may be gone ---- */

static __thread sigjmp_buf bus_jump;
static __thread volatile int bus_armed;

static void bus_handler(int sig)
{
	if (bus_armed)
		siglongjmp(bus_jump, sig);
	signal(sig, SIG_DFL);
	raise(sig);
}

static inline void catch_bus(void)
{
	struct sigaction s = {.sa_handler = bus_handler, .sa_flags = SA_NODEFER};

	sigaction(SIGBUS, &s, NULL);
	sigaction(SIGSEGV, &s, NULL);
}

/* 0 and the byte, or the signal that the access gave. */
static inline int peek(const volatile void *p, uint8_t *byte)
{
	int sig = sigsetjmp(bus_jump, 0);
	uint8_t b;

	if (!sig) {
		bus_armed = 1;
		b = *(const volatile uint8_t *)p;
		bus_armed = 0;
		if (byte)
			*byte = b;
		return 0;
	}
	bus_armed = 0;
	return sig;
}

static inline int poke(volatile void *p, uint8_t byte)
{
	int sig = sigsetjmp(bus_jump, 0);

	if (!sig) {
		bus_armed = 1;
		*(volatile uint8_t *)p = byte;
		bus_armed = 0;
		return 0;
	}
	bus_armed = 0;
	return sig;
}

/* Words that say which buffer and which place they belong to. */
static inline uint64_t pattern(uint64_t seed, uint64_t index)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + index * 0xbf58476d1ce4e5b9ull;

	return (x ^ x >> 31) | 1;
}

static inline void fill(void *p, uint64_t length, uint64_t seed)
{
	for (uint64_t i = 0; i < length / 8; i++)
		((uint64_t *)p)[i] = pattern(seed, i);
}

#define CHECK_FILLED(p, length, seed)                                                                        \
	do {                                                                                                 \
		const volatile uint64_t *p_ = (const volatile void *)(p);                                    \
		for (uint64_t i_ = 0; i_ < (uint64_t)(length) / 8; i_++)                                     \
			if (p_[i_] != pattern(seed, i_))                                                     \
				FAIL("%s differs at byte %#llx: %#llx", #p, (unsigned long long)i_ * 8,      \
				     (unsigned long long)p_[i_]);                                            \
	} while (0)
#define CHECK_ZERO(p, length)                                                                                \
	do {                                                                                                 \
		const volatile uint64_t *p_ = (const volatile void *)(p);                                    \
		for (uint64_t i_ = 0; i_ < (uint64_t)(length) / 8; i_++)                                     \
			if (p_[i_])                                                                          \
				FAIL("%s is not zero at byte %#llx: %#llx", #p, (unsigned long long)i_ * 8,  \
				     (unsigned long long)p_[i_]);                                            \
	} while (0)

/* ---- other processes ---- */

/* Run a block in a child: CHILD { ... _exit(0); } then reap(pid). A child dies with the test. */
static inline pid_t spawn(void)
{
	pid_t parent = getpid(), pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

static inline int reap_status(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) != pid)
		CHECK(errno == EINTR);
	return status;
}

#define REAP(pid)                                                                                            \
	do {                                                                                                 \
		int s_ = reap_status(pid);                                                                   \
		if (s_)                                                                                      \
			FAIL("the child failed (wait status %#x)", s_);                                      \
	} while (0)

static inline void kill9(pid_t pid)
{
	CHECK(kill(pid, SIGKILL) == 0);
	CHECK_EQ(reap_status(pid), SIGKILL);
}

/* A pair of pipes: parent and child wait for each other, not for time. */
struct meet {
	int up[2], down[2];
};

static inline struct meet meet_new(void)
{
	struct meet m;

	CHECK(pipe(m.up) == 0 && pipe(m.down) == 0);
	return m;
}

static inline void say(const int p[2], const void *data, size_t n) { CHECK(write(p[1], data, n) == (ssize_t)n); }

static inline void hear(const int p[2], void *data, size_t n)
{
	for (size_t got = 0; got < n;) {
		ssize_t r = read(p[0], (char *)data + got, n - got);

		CHECK(r > 0);
		got += r;
	}
}

/* In a child: become this user with no capability. Files that were open stay open. */
static inline void become(uid_t uid)
{
	CHECK(setresgid(uid, uid, uid) == 0);
	CHECK(setresuid(uid, uid, uid) == 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* setuid clears it */
}

static inline int file_int(const char *path, long long *value)
{
	FILE *f = fopen(path, "re");
	int n = f ? fscanf(f, "%lld", value) : 0;

	if (f)
		fclose(f);
	return n == 1 ? 0 : -1;
}

static inline int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	close(fd);
	return r;
}

/* ---- the table ---- */

struct test {
	const char *name;
	void (*run)(void);
};
#define TEST(fn) {#fn, fn}

#ifndef TEST_SECONDS
#define TEST_SECONDS 120
#endif

static inline int run_one(const struct test *t)
{
	static struct counter start[128], now[128]; /* the least that was seen so far */
	static int n;
	int m = counters_read(now, ARRAY_SIZE(now)), status;
	double began = seconds();
	const char *differs = NULL;
	pid_t pid;

	for (int i = 0; i < m; i++)
		if (i >= n || now[i].value < start[i].value)
			start[i] = now[i];
	n = m;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		alarm(TEST_SECONDS);
		t->run();
		fflush(NULL);
		_exit(0);
	}
	setpgid(pid, pid);
	while (waitpid(pid, &status, 0) != pid)
		;
	kill(-pid, SIGKILL);
	WAIT_FOR(!(differs = gauges_grew(start, n)), status ? 1 : 30);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		printf("SKIPPED %s\n", t->name);
		return 77;
	}
	if (status)
		printf("FAILED %s: %s %d\n", t->name, WIFSIGNALED(status) ? "signal" : "status",
		       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	else if (differs)
		printf("FAILED %s: left something behind: %s\n", t->name, differs);
	else
		printf("ok %s (%.2f s)\n", t->name, seconds() - began);
	return status || differs;
}

/* Arguments name the tests to run; none: all. */
static inline int run_tests(const struct test *tests, size_t n, int argc, char **argv)
{
	int ran = 0, failed = 0, skipped = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int k = 1; k < argc; k++) {
		size_t i = 0;

		while (i < n && !strstr(tests[i].name, argv[k]))
			i++;
		if (i == n) {
			printf("no test has '%s' in its name\n", argv[k]);
			return 2;
		}
	}
	if (access(DEVICE, F_OK)) {
		printf("%s is not there: load the module first\n", DEVICE);
		return 77;
	}
	for (size_t i = 0; i < n; i++) {
		int wanted = argc < 2, r;

		for (int k = 1; k < argc; k++)
			wanted |= strstr(tests[i].name, argv[k]) != NULL;
		if (!wanted)
			continue;
		r = run_one(&tests[i]);
		ran++;
		failed += r && r != 77;
		skipped += r == 77;
	}
	printf("%d tests, %d failed, %d skipped\n", ran, failed, skipped);
	return failed ? 1 : ran && ran == skipped ? 77 : 0;
}

#define RUN_TESTS(tests)                                                                                     \
	int main(int argc, char **argv) { return run_tests(tests, ARRAY_SIZE(tests), argc, argv); }

#endif
