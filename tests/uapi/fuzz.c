// SPDX-License-Identifier: MIT
/* vm: short */
/*
 * A fuzzer that knows the structs: mostly valid calls with now and then a field that is not, from several
 * threads of several processes that die and come again, between mmap, mremap, fork, touching, handing on and
 * closing. fuzz [SECONDS [SEED]]: 20 s by default. At the end nothing may be left. With SECONDS it gets the guest's
 * stand-in devices ready first: BARs, the window of memory, CXL memory by its dax device.
 */
#define TEST_SECONDS 7200
#include "fuzz_devices.h"
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/uio.h>

enum { PROCESSES = 3, THREADS = 3, FDS = 6, MAPS = 24, KEYS = 64, NAMES = 5, CALLS = 15 };

/* Shared by all processes: keys and ids that they learned. */
static struct shared {
	_Atomic(unsigned) at;
	struct {
		uint8_t key[MOONCAKE_KEY_SIZE], context[MOONCAKE_KEY_SIZE], keep[MOONCAKE_KEY_SIZE];
		unsigned receiver; /* index, in its process, of the descriptor that the key is made out to */
		pid_t pid;
	} known[KEYS];
	_Atomic(unsigned long) calls[CALLS], good[CALLS], maps, touches, buses, restarts;
} * shared;

static int fds[FDS];
static struct {
	char *p;
	uint64_t length;
} maps[MAPS];
static pthread_mutex_t maps_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	uint64_t offset;
	int fd;
} offsets[64]; /* mmap offsets seen */
static struct {
	int fd;
	uint32_t id;
} ids[64]; /* objects made or attached; some are gone by now */
static uint8_t contexts[FDS][MOONCAKE_KEY_SIZE];
static int buffers[8]; /* dma-bufs */
static char *arena;    /* to pin, and to lie in */
enum { ARENA = 256 * 4096 };

static uint64_t odd_value(uint64_t *s)
{
	static const uint64_t odd[] = {
		0,
		1,
		2,
		7,
		8,
		4095,
		4096,
		4097,
		1 << 20,
		1 << 21,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		1ull << 32,
		1ull << 42,
		(1ull << 42) + 1,
		(1ull << 42) - 4096,
		1ull << 47,
		1ull << 52,
		1ull << 62,
		1ull << 63,
		0x7fffffffffffffff,
		0xfffffffffffff000,
		0xffffffffffffffff,
		0xffff888000000000,
		0xffffffff81000000,
		0x00007ffffffff000,
	};

	switch (R(4)) {
	case 0:
		return next(s);
	case 1:
		return 1ull << R(64);
	default:
		return odd[R(ARRAY_SIZE(odd))] + R(3) - 1;
	}
}

static uint64_t a_length(uint64_t *s)
{
	switch (R(12)) {
	case 0:
		return R(8 << 20);
	case 1:
		return (R(4) + 1) << 21;
	case 2:
		return odd_value(s);
	default:
		return (R(40) + 1) * PAGE - (R(8) ? 0 : R(PAGE));
	}
}

static uint64_t within(uint64_t *s) { return R(3) ? R(4) * PAGE : R(1 << 18); }

/* One of any context, which it then is about. */
static uint32_t an_id(uint64_t *s, int *fd)
{
	unsigned i = R(ARRAY_SIZE(ids));

	if (R(20) == 0)
		return (uint32_t)odd_value(s);
	if (!ids[i].id || R(10) == 0)
		return 1 + R(10);
	*fd = ids[i].fd;
	return ids[i].id;
}

/* Another one of the same context. */
static uint32_t an_id_in(uint64_t *s, int fd)
{
	for (int n = 0; n < 20; n++) {
		unsigned i = R(ARRAY_SIZE(ids));

		if (ids[i].id && ids[i].fd == fd)
			return ids[i].id;
	}
	return 1 + R(10);
}

static void learn_id(uint64_t *s, int fd, uint32_t id)
{
	unsigned i = R(ARRAY_SIZE(ids));

	ids[i].fd = fd;
	ids[i].id = id;
}

static const char *a_name(uint64_t *s, uint32_t *length)
{
	static const char *const names[NAMES] = {KEPT "-fuzz-a", KEPT "-fuzz-b", KEPT "-fuzz-c",
						 KEPT "-fuzz-d", "../x"};
	const char *n = names[R(R(8) ? NAMES - 1 : NAMES)];

	*length = R(40) ? strlen(n) : R(300);
	return R(60) ? n : (void *)(uintptr_t)odd_value(s);
}

static void *an_address(uint64_t *s)
{
	switch (R(6)) {
	case 0:
		return (void *)(uintptr_t)odd_value(s);
	case 1:
		return maps[R(MAPS)].p + R(4) * PAGE;
	case 2:
		if (dax_map)
			return dax_map + R(DAX / PAGE) * PAGE;
		/* fall through */
	default:
		return arena + R(256) * PAGE;
	}
}

static void learn_offset(uint64_t *s, int fd, uint64_t offset)
{
	int i = R(ARRAY_SIZE(offsets));

	offsets[i].offset = offset;
	offsets[i].fd = fd;
}

union any {
	struct mooncake_query query;
	struct mooncake_buffer_alloc alloc;
	struct mooncake_buffer_open open;
	struct mooncake_buffer_unlink unlink;
	struct mooncake_region_pin pin;
	struct mooncake_region_import import;
	struct mooncake_region_bar bar;
	struct mooncake_region_cxl cxl;
	struct mooncake_export export;
	struct mooncake_grant grant;
	struct mooncake_attach attach;
	struct mooncake_revoke revoke;
	struct mooncake_stat stat;
	struct mooncake_copy copy;
	struct mooncake_destroy destroy;
	uint8_t bytes[512];
};

static const uint32_t sizes[CALLS] = {
	sizeof(struct mooncake_query),	     sizeof(struct mooncake_buffer_alloc),
	sizeof(struct mooncake_buffer_open), sizeof(struct mooncake_buffer_unlink),
	sizeof(struct mooncake_region_pin),  sizeof(struct mooncake_region_import),
	sizeof(struct mooncake_region_bar),  sizeof(struct mooncake_region_cxl),
	sizeof(struct mooncake_export),	     sizeof(struct mooncake_grant),
	sizeof(struct mooncake_attach),	     sizeof(struct mooncake_revoke),
	sizeof(struct mooncake_stat),	     sizeof(struct mooncake_copy),
	sizeof(struct mooncake_destroy),
};

/* What is likely to work. */
static void fill_in(uint64_t *s, int call, union any *a, int *fd)
{
	unsigned known = R(KEYS);
	uint32_t n = 0;

	memset(a, 0, sizeof(*a));
	a->query.size = sizes[call];
	switch (call + MOONCAKE_CMD_BASE) {
	case MOONCAKE_CMD_BUFFER_ALLOC:
		a->alloc.length = a_length(s);
		a->alloc.numa_node = R(3) ? -1 : 0;
		if (R(4) == 0) {
			a->alloc.flags = MOONCAKE_BUFFER_KEEP | (R(3) ? 0 : MOONCAKE_BUFFER_EXCLUSIVE);
			a->alloc.name = PTR(a_name(s, &n));
			a->alloc.name_length = n;
		}
		break;
	case MOONCAKE_CMD_BUFFER_OPEN:
		a->open.flags = R(3) ? 0 : MOONCAKE_OPEN_EXCLUSIVE;
		if (R(4)) {
			a->open.uid = R(4) ? MOONCAKE_UID_SELF : R(3) * 1000;
			a->open.name = PTR(a_name(s, &n));
			a->open.name_length = n;
		} else {
			a->open.flags |= MOONCAKE_OPEN_BY_KEY;
			memcpy(a->open.keep_key, shared->known[known].keep, MOONCAKE_KEY_SIZE);
		}
		break;
	case MOONCAKE_CMD_BUFFER_UNLINK:
		if (R(4)) {
			a->unlink.uid = R(4) ? MOONCAKE_UID_SELF : R(3) * 1000;
			a->unlink.name = PTR(a_name(s, &n));
			a->unlink.name_length = n;
		} else {
			a->unlink.flags = MOONCAKE_UNLINK_BY_KEY;
			memcpy(a->unlink.keep_key, shared->known[known].keep, MOONCAKE_KEY_SIZE);
		}
		break;
	case MOONCAKE_CMD_REGION_PIN:
		a->pin.addr = PTR(an_address(s));
		a->pin.length = (R(20) + 1) * PAGE;
		break;
	case MOONCAKE_CMD_REGION_IMPORT:
		a->import.fd = R(8) ? buffers[R(8)] : (int)R(40) - 2;
		break;
	case MOONCAKE_CMD_REGION_BAR:
		a_bar(s, &a->bar);
		break;
	case MOONCAKE_CMD_REGION_CXL:
		a_window(s, &a->cxl, an_address(s));
		break;
	case MOONCAKE_CMD_EXPORT:
		a->export.id = an_id(s, fd);
		a->export.flags = R(2);
		break;
	case MOONCAKE_CMD_GRANT:
		a->grant.id = an_id(s, fd);
		a->grant.rights = R(2) ? RO : RW;
		a->grant.offset = R(3) ? 0 : R(20) * PAGE;
		a->grant.length = R(3) ? 0 : R(20) * PAGE;
		a->grant.expiry_ns = R(5) ? 0 : boottime_ns() + R(50000000);
		a->grant.uses = R(5) ? 1 + R(3) : 0xffffffff;
		if (R(4))
			memcpy(a->grant.context_id, contexts[R(FDS)], MOONCAKE_KEY_SIZE);
		else
			memcpy(a->grant.context_id, shared->known[known].context, MOONCAKE_KEY_SIZE);
		break;
	case MOONCAKE_CMD_ATTACH:
		for (int i = 0; i < 8 && shared->known[known].pid != getpid(); i++)
			known = R(KEYS);
		memcpy(a->attach.key, shared->known[known].key, MOONCAKE_KEY_SIZE);
		if (R(4))
			*fd = fds[shared->known[known].receiver % FDS];
		break;
	case MOONCAKE_CMD_REVOKE:
		switch (R(4)) {
		case 0:
			a->revoke.flags = MOONCAKE_REVOKE_GRANT;
			a->revoke.grant = 1 + R(30);
			break;
		case 1:
			a->revoke.flags = MOONCAKE_REVOKE_NAMED | (R(2) ? MOONCAKE_REVOKE_REPLACE : 0);
			a->revoke.uid = MOONCAKE_UID_SELF;
			a->revoke.name = PTR(a_name(s, &n));
			a->revoke.name_length = n;
			break;
		default:
			a->revoke.id = an_id(s, fd);
			a->revoke.flags = R(2) ? 0 : MOONCAKE_REVOKE_REPLACE;
		}
		break;
	case MOONCAKE_CMD_STAT:
		a->stat.id = an_id(s, fd);
		a->stat.node_count = R(3) ? 0 : R(70);
		a->stat.nodes = R(3) ? PTR(arena) : R(2) ? 0 : PTR(an_address(s));
		break;
	case MOONCAKE_CMD_COPY:
		a->copy.dst_id = an_id(s, fd);
		a->copy.src_id = an_id_in(s, *fd);
		a->copy.dst_offset = within(s);
		a->copy.src_offset = within(s);
		a->copy.length = 1 + R(R(4) ? 1 << 12 : 1 << 18);
		break;
	case MOONCAKE_CMD_DESTROY:
		a->destroy.id = an_id(s, fd);
		break;
	}
}

static void learn(uint64_t *s, int fd, int call, const union any *a)
{
	unsigned slot = atomic_fetch_add(&shared->at, 1) % KEYS;

	switch (call + MOONCAKE_CMD_BASE) {
	case MOONCAKE_CMD_QUERY:
		for (int i = 0; i < FDS; i++)
			if (fds[i] == fd)
				memcpy(contexts[i], a->query.context_id, MOONCAKE_KEY_SIZE);
		memcpy(shared->known[slot].context, a->query.context_id, MOONCAKE_KEY_SIZE);
		break;
	case MOONCAKE_CMD_BUFFER_ALLOC:
		learn_offset(s, fd, a->alloc.mmap_offset);
		learn_id(s, fd, a->alloc.id);
		if (a->alloc.flags)
			memcpy(shared->known[slot].keep, a->alloc.keep_key, MOONCAKE_KEY_SIZE);
		break;
	case MOONCAKE_CMD_BUFFER_OPEN:
		learn_offset(s, fd, a->open.mmap_offset);
		learn_id(s, fd, a->open.id);
		break;
	case MOONCAKE_CMD_REGION_PIN:
		learn_id(s, fd, a->pin.id);
		break;
	case MOONCAKE_CMD_REGION_IMPORT:
		learn_id(s, fd, a->import.id);
		break;
	case MOONCAKE_CMD_REGION_BAR:
		learn_offset(s, fd, a->bar.mmap_offset);
		learn_id(s, fd, a->bar.id);
		break;
	case MOONCAKE_CMD_REGION_CXL:
		learn_offset(s, fd, a->cxl.mmap_offset);
		learn_id(s, fd, a->cxl.id);
		break;
	case MOONCAKE_CMD_ATTACH:
		learn_offset(s, fd, a->attach.mmap_offset);
		learn_id(s, fd, a->attach.id);
		break;
	case MOONCAKE_CMD_GRANT:
		for (int i = 0; i < FDS; i++)
			if (!memcmp(contexts[i], a->grant.context_id, MOONCAKE_KEY_SIZE))
				shared->known[slot].receiver = i;
		memcpy(shared->known[slot].key, a->grant.key, MOONCAKE_KEY_SIZE);
		shared->known[slot].pid = getpid();
		break;
	case MOONCAKE_CMD_EXPORT: {
		int *at = &buffers[R(8)], old = __atomic_exchange_n(at, a->export.fd, __ATOMIC_RELAXED);

		if (old >= 0)
			close(old);
		break;
	}
	}
}

static void one_call(uint64_t *s)
{
	static const uint8_t weights[CALLS] = {3, 8, 5, 3, 3, 2, 2, 2, 3, 8, 8, 5, 4, 6, 7};
	int fd = fds[R(FDS)], call = 0, pick = R(69);
	union any a;

	while (pick >= weights[call] && call < CALLS - 1)
		pick -= weights[call++];
	fill_in(s, call, &a, &fd);
	if (R(5) == 0) { /* one field wrong, at any width */
		unsigned width = 1u << R(4), at = R(sizes[call] / width) * width;
		uint64_t v = odd_value(s);

		memcpy(a.bytes + at, &v, width);
		if (a.query.size > sizeof(a))
			a.query.size = sizeof(a);
	}
	if (call + MOONCAKE_CMD_BASE == MOONCAKE_CMD_REGION_BAR)
		spare_registers(&a.bar);
	atomic_fetch_add(&shared->calls[call], 1);
	if (R(200) == 0) { /* the struct itself lies oddly */
		ioctl(fd, _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_BASE + call), an_address(s));
		return;
	}
	if (R(300) == 0) {
		ioctl(fd, (unsigned)odd_value(s), &a);
		return;
	}
	if (ioctl(fd, _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_BASE + call), &a) == 0) {
		atomic_fetch_add(&shared->good[call], 1);
		learn(s, fd, call, &a);
	}
}

static void do_mmap(uint64_t *s)
{
	uint64_t length = R(10) ? (1 + R(R(2) ? 4 : 40)) * PAGE : a_length(s) % (64 << 20), offset;
	int prot = R(8) ? (R(2) ? PROT_READ | PROT_WRITE : PROT_READ) : R(8), i = R(MAPS),
	    k = R(ARRAY_SIZE(offsets));
	int fd = R(8) ? offsets[k].fd : buffers[R(8)];
	char *p;

	offset = fd == offsets[k].fd ? offsets[k].offset : 0;
	if (R(20) == 0)
		fd = fds[R(FDS)];
	if (R(6) == 0)
		offset += R(20) * PAGE;
	if (R(30) == 0)
		offset = odd_value(s) & ~(PAGE - 1);
	p = mmap(NULL, length, prot, R(20) ? MAP_SHARED : MAP_PRIVATE | (R(2) ? 0 : MAP_POPULATE), fd,
		 (off_t)offset);
	if (p == MAP_FAILED)
		return;
	atomic_fetch_add(&shared->maps, 1);
	pthread_mutex_lock(&maps_lock);
	if (maps[i].p)
		munmap(maps[i].p, maps[i].length);
	maps[i].p = p;
	maps[i].length = length;
	pthread_mutex_unlock(&maps_lock);
}

static void touch(uint64_t *s)
{
	int i = R(MAPS);
	char *p = maps[i].p;
	uint64_t length = maps[i].length;

	/* It may be unmapped, or be another's, by now: then it is SIGSEGV or SIGBUS, or that other's. */
	for (int n = 0; p && n < 8; n++) {
		char *at = p + R(length);
		int sig = R(2) ? peek(at, NULL) : poke(at, 1);

		atomic_fetch_add(sig ? &shared->buses : &shared->touches, 1);
	}
}

static void change_map(uint64_t *s)
{
	int i = R(MAPS), pipes[2];
	struct iovec v;

	pthread_mutex_lock(&maps_lock);
	if (maps[i].p) {
		char *p = maps[i].p + R(maps[i].length / PAGE) * PAGE;

		switch (R(8)) {
		case 0:
			munmap(maps[i].p, maps[i].length);
			maps[i].p = NULL;
			break;
		case 1:
			munmap(p, PAGE);
			break;
		case 2:
			mprotect(p, PAGE, R(8));
			break;
		case 3:
			madvise(p, PAGE, R(26));
			break;
		case 4:
			p = mremap(maps[i].p, maps[i].length, R(2) ? maps[i].length : R(64) * PAGE,
				   MREMAP_MAYMOVE);
			if (p != MAP_FAILED)
				maps[i].p = p;
			break;
		case 5:
			v = (struct iovec){p, PAGE};
			if (pipe2(pipes, O_NONBLOCK | O_CLOEXEC) == 0) {
				if (vmsplice(pipes[1], &v, 1, SPLICE_F_NONBLOCK) > 0 &&
				    read(pipes[0], arena, PAGE) < 0)
					errno = 0;
				close(pipes[0]);
				close(pipes[1]);
			}
			break;
		case 6:
			mlock(p, PAGE);
			munlock(p, PAGE);
			break;
		case 7:
			msync(p, PAGE, MS_SYNC);
			break;
		}
	}
	pthread_mutex_unlock(&maps_lock);
}

static void change_fd(uint64_t *s)
{
	int i = R(FDS), fd;
	struct mooncake_event e[4];
	pid_t pid;

	switch (R(6)) {
	case 0:
	case 1:
		fd = open(DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0) {
			context_id(fd, contexts[i]);
			dup2(fd, fds[i]); /* the old context ends, unless mappings hold it */
			close(fd);
		}
		break;
	case 2:
	case 3:
		if (read(fds[i], e, R(2) ? sizeof(e) : R(sizeof(e))) < 0)
			errno = 0;
		break;
	case 4:
		pid = fork();
		if (pid == 0) {
			uint64_t mine = next(s);

			alarm(20);
			pthread_mutex_init(&maps_lock, NULL);
			for (int n = 0; n < 20; n++)
				n % 3 ? one_call(&mine) : touch(&mine);
			_exit(0);
		}
		if (pid > 0) {
			if (R(2))
				kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		break;
	case 5:
		munmap(arena + 16 * PAGE, 16 * PAGE);
		if (mmap(arena + 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			_exit(0);
		break;
	}
}

static void *fuzz_thread(void *arg)
{
	uint64_t state = (uint64_t)(uintptr_t)arg, *s = &state;

	for (;;) {
		switch (R(16)) {
		case 0:
		case 1:
			do_mmap(s);
			break;
		case 2:
		case 3:
			touch(s);
			break;
		case 4:
			change_map(s);
			break;
		case 5:
			if (R(4) == 0)
				change_fd(s);
			break;
		default:
			one_call(s);
		}
	}
	return NULL;
}

static void fuzz_process(uint64_t seed, int index)
{
	uint64_t state = seed, *s = &state;
	struct rlimit lock = {1 << 20, 1 << 20};
	pthread_t t;

	file_write("/proc/self/oom_score_adj", "1000");
	catch_bus();
	arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(arena != MAP_FAILED);
	for (int i = 0; i < 8; i++)
		buffers[i] = -1;
	for (int i = 0; i < FDS; i++) {
		fds[i] = open(DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		CHECK(fds[i] >= 0);
		context_id(fds[i], contexts[i]);
	}
	map_dax();
	if (index == 1) { /* one of them is nobody special */
		setrlimit(RLIMIT_MEMLOCK, &lock);
		become(1000);
	}
	for (int i = 0; i < THREADS; i++)
		CHECK(pthread_create(&t, NULL, fuzz_thread, (void *)(uintptr_t)(next(s) | 1)) == 0);
	for (;;)
		pause();
}

static double limit_s = 20;
static uint64_t seed;

static int succeeded(int command) { return atomic_load(&shared->good[command - MOONCAKE_CMD_BASE]) > 0; }

/* Or it never got anywhere. */
static int got_somewhere(void)
{
	return succeeded(MOONCAKE_CMD_BUFFER_ALLOC) && succeeded(MOONCAKE_CMD_ATTACH);
}

static void test_random_calls_break_nothing(void)
{
	static const char *const names[CALLS] = {
		"QUERY",  "ALLOC", "OPEN",   "UNLINK", "PIN",  "IMPORT", "BAR",	    "CXL",
		"EXPORT", "GRANT", "ATTACH", "REVOKE", "STAT", "COPY",	 "DESTROY",
	};
	static const char *const kept[] = {KEPT "-fuzz-a", KEPT "-fuzz-b", KEPT "-fuzz-c", KEPT "-fuzz-d"};
	double end = seconds() + limit_s;
	pid_t pids[PROCESSES] = {0};
	uint64_t state = seed, *s = &state;
	int fd;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	/* Where that takes longer than it should, it takes longer. */
	while (seconds() < end || (!got_somewhere() && seconds() < end + 9 * limit_s)) {
		int i = R(PROCESSES), status;
		uint64_t mine = next(s) | 1;

		if (pids[i]) { /* a death in the middle of everything */
			kill(pids[i], SIGKILL);
			waitpid(pids[i], &status, 0);
			atomic_fetch_add(&shared->restarts, 1);
		}
		pids[i] = spawn();
		if (!pids[i])
			fuzz_process(mine, i);
		poll(NULL, 0, 20 + R(700));
		for (i = 0; i < PROCESSES; i++) /* an odd mmap or mprotect may end one by itself */
			if (pids[i] && waitpid(pids[i], &status, WNOHANG) == pids[i])
				pids[i] = 0;
	}
	for (int i = 0; i < PROCESSES; i++)
		if (pids[i]) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
		}
	fd = device();
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		for (uint32_t u = 0, n = strlen(kept[i]); n;
		     u = !u, n -= !u) { /* shorter names are names too */
			struct mooncake_buffer_unlink l = STRUCT(buffer_unlink);

			l.uid = u * 1000;
			l.name = PTR(kept[i]);
			l.name_length = n;
			ioctl(fd, MOONCAKE_BUFFER_UNLINK, &l);
		}
	for (int i = 0; i < CALLS; i++)
		printf("  %s %lu, %lu succeeded\n", names[i], atomic_load(&shared->calls[i]),
		       atomic_load(&shared->good[i]));
	printf("  %lu mappings, %lu touches, %lu of them too late, %lu restarts\n",
	       atomic_load(&shared->maps), atomic_load(&shared->touches), atomic_load(&shared->buses),
	       atomic_load(&shared->restarts));
	CHECK(got_somewhere());
	if (limit_s > 60 && bar_count)
		CHECK(succeeded(MOONCAKE_CMD_REGION_BAR));
	if (limit_s > 60 && (window_length || dax[0]))
		CHECK(succeeded(MOONCAKE_CMD_REGION_CXL));
}

static const struct test tests[] = {TEST(test_random_calls_break_nothing)};

int main(int argc, char **argv)
{
	if (slow())
		limit_s = 15;
	setvbuf(stdout, NULL, _IOLBF, 0);
	find_bars();
	if (argc > 1) {
		limit_s = atof(argv[1]);
		prepare_devices();
	}
	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u | 1;
	printf("seed %llu\n", (unsigned long long)seed);
	return run_tests(tests, ARRAY_SIZE(tests), 1, argv);
}
