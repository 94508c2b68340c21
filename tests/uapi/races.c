// SPDX-License-Identifier: MIT
/* vm: alone seconds=900 kernels=5.10,6.1,7 */
/*
 * Two threads, one object: every pair of calls at the same moment, many rounds each; and some of them while a third
 * thread forks, moves, unmaps, duplicates, hands on, closes and kills. What must hold: only errors that the contract
 * knows, never another's byte, and nothing left behind. races [ROUNDS [SECONDS [OPERATION [OPERATION]]]]: 1000 rounds
 * of each pair of the plain operations (all pairs a tenth of it, disturbed ones a fiftieth), or fewer when SECONDS
 * (400) are over; all pairs get the same number.
 */
#define TEST_SECONDS 3600
#include "uapi.h"
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define LENGTH (4 * PAGE)

/* The object of a round, and all the ways to it. */
static struct {
	int fd, guest;
	uint32_t id, attached, mine; /* in fd, in guest, and a buffer of the guest's own to copy to */
	struct mooncake_grant spare; /* a grant that nobody used yet */
	uint64_t used;		     /* the number of the one behind `attached` */
	uint64_t offset, guest_offset;
	char *owner_map, *guest_map;
	char *pinnable;
	uint64_t tag; /* the first word of each page; 0 after REPLACE */
} w;

static const char name[] = KEPT "-races";
static const char *current = "";

/* ---- operations: 0 or an errno ---- */

static int result(long r) { return r < 0 ? errno : 0; }

static int op_alloc(void)
{
	struct mooncake_buffer_alloc a;
	int r = result(try_keep(w.fd, name, PAGE, 0, &a));

	if (!r)
		try_destroy(w.fd, a.id);
	return r;
}
static int op_open(void)
{
	struct mooncake_buffer_open o;
	int r = result(try_open(w.guest, name, MOONCAKE_UID_SELF, 0, &o));

	if (!r)
		try_destroy(w.guest, o.id);
	return r;
}
static int op_open_exclusive(void)
{
	struct mooncake_buffer_open o;
	int r = result(try_open(w.guest, name, MOONCAKE_UID_SELF, MOONCAKE_OPEN_EXCLUSIVE, &o));

	if (!r)
		try_destroy(w.guest, o.id);
	return r;
}
static int op_unlink(void) { return result(try_unlink(w.fd, name)); }
static int op_grant(void)
{
	struct mooncake_grant g = STRUCT(grant);

	g.id = w.id;
	g.uses = 1;
	g.rights = RO;
	memcpy(g.context_id, w.spare.context_id, sizeof(g.context_id));
	return result(ioctl(w.fd, MOONCAKE_GRANT, &g));
}
static int op_attach(void)
{
	struct mooncake_attach a;
	int r = result(try_attach(w.guest, w.spare.key, &a));
	char *p;
	uint8_t b;

	if (r)
		return r;
	p = try_map(w.guest, a.mmap_offset, a.length, PROT_READ);
	if (p != MAP_FAILED) {
		peek(p, &b);
		munmap(p, a.length);
	}
	try_destroy(w.guest, a.id);
	return 0;
}
static int op_revoke(void)
{
	struct mooncake_revoke v;

	return result(try_revoke(w.fd, w.id, 0, &v));
}
static int op_replace(void)
{
	struct mooncake_revoke v;

	return result(try_revoke(w.fd, w.id, MOONCAKE_REVOKE_REPLACE, &v));
}
static int op_revoke_grant(void) { return result(try_revoke_grant(w.fd, w.used)); }
static int op_revoke_named(void)
{
	struct mooncake_revoke v;

	return result(try_revoke_named(w.fd, name, 0, &v));
}
static int op_stat(void)
{
	struct mooncake_stat s;
	int r = result(try_stat(w.guest, w.attached, &s));

	return r ? r : result(try_stat(w.fd, w.id, &s));
}
static int op_copy(void) { return result(try_copy(w.guest, w.mine, 8, w.attached, 0, LENGTH - 8)); }
static int op_export(void)
{
	int fd = try_export(w.fd, w.id, MOONCAKE_EXPORT_WRITE), r = result(fd);
	char *p;

	if (!r) {
		p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (p != MAP_FAILED) {
			peek(p, NULL);
			munmap(p, LENGTH);
		}
	}
	return r;
}
static int op_export_attached(void)
{
	int fd = try_export(w.guest, w.attached, 0), r = result(fd);

	if (!r)
		close(fd);
	return r;
}
static int op_pin(void)
{
	uint32_t id = 0;
	int r = result(try_pin(w.fd, w.pinnable, LENGTH, &id));

	if (!r)
		try_destroy(w.fd, id);
	return r;
}
static int op_pin_the_mapping(void)
{
	uint32_t id = 0;
	int r = result(try_pin(w.fd, w.owner_map, LENGTH, &id));

	if (!r)
		try_destroy(w.fd, id);
	return r;
}
static int op_destroy(void) { return result(try_destroy(w.fd, w.id)); }
static int op_destroy_attached(void) { return result(try_destroy(w.guest, w.attached)); }
static int op_mmap(void)
{
	char *p = try_map(w.guest, w.guest_offset, LENGTH, PROT_READ | PROT_WRITE);
	int r = p == MAP_FAILED ? errno : 0;

	if (!r) {
		for (uint64_t at = 0; at < LENGTH; at += PAGE)
			peek(p + at, NULL);
		munmap(p, LENGTH);
	}
	return r;
}
static int op_munmap(void)
{
	munmap(w.guest_map, LENGTH);
	return 0;
}

static uint64_t word(const volatile char *p, int *sig)
{
	uint64_t value = 0;

	*sig = sigsetjmp(bus_jump, 0);
	if (!*sig) {
		bus_armed = 1;
		value = *(const volatile uint64_t *)p;
	}
	bus_armed = 0;
	return value;
}

static int op_fault(void)
{
	for (int pass = 0; pass < 3; pass++)
		for (uint64_t at = 0; at < LENGTH; at += PAGE) {
			int sig;
			uint64_t v = word(w.guest_map + at, &sig);

			if (!sig && v != w.tag)
				FAIL("%s: the guest read %#llx, not %#llx", current, (unsigned long long)v,
				     (unsigned long long)w.tag);
			v = word(w.owner_map + at, &sig);
			if (!sig && v != w.tag && v)
				FAIL("%s: the owner read %#llx, not %#llx or 0", current,
				     (unsigned long long)v, (unsigned long long)w.tag);
		}
	return 0;
}
static int op_vmsplice(void)
{
	int p[2];
	char page[PAGE];
	struct iovec v = {.iov_base = w.guest_map, .iov_len = PAGE};
	ssize_t n;
	int r;

	if (pipe(p))
		return 0;
	n = vmsplice(p[1], &v, 1, SPLICE_F_NONBLOCK);
	r = n < 0 && errno != EFAULT ? errno : 0;
	if (n == (ssize_t)PAGE) {
		sched_yield(); /* held while the other one does its worst */
		CHECK_EQ(read(p[0], page, PAGE), PAGE);
		if (*(uint64_t *)page != w.tag)
			FAIL("%s: a held page has %#llx, not %#llx", current, *(unsigned long long *)page,
			     (unsigned long long)w.tag);
	}
	close(p[0]);
	close(p[1]);
	return r;
}
static int op_read_events(void)
{
	struct mooncake_event e[3];
	int r = result(read(w.guest, e, sizeof(e)));

	return r == EAGAIN ? 0 : r;
}

/* What a round uses up: nothing, the spare grant, the object. */
enum use { LEAVES, SPARE, SPENDS };

struct op {
	const char *name;
	int (*run)(void);
	int plain; /* one of the 13 that meet each other most often */
	enum use use;
	uint64_t feature;
	int errors[2]; /* that may come of a race, besides ENOENT, ESTALE and EBADF of a context closed meanwhile */
};

static const struct op ops[] = {
	{"alloc", op_alloc, 1, LEAVES, 0, {EEXIST}},
	{"open", op_open, 1, LEAVES, 0, {EBUSY}},
	{"unlink", op_unlink, 1, SPENDS, 0, {0}},
	{"grant", op_grant, 1, LEAVES, 0, {0}},
	{"attach", op_attach, 1, SPARE, 0, {0}},
	{"revoke", op_revoke, 1, SPENDS, 0, {0}},
	{"stat", op_stat, 1, LEAVES, 0, {0}},
	{"copy", op_copy, 1, LEAVES, 0, {0}},
	{"export", op_export, 1, LEAVES, MOONCAKE_FEATURE_EXPORT, {0}},
	{"pin", op_pin, 1, LEAVES, MOONCAKE_FEATURE_PIN, {EFAULT}},
	{"destroy", op_destroy, 1, SPENDS, 0, {0}},
	{"mmap", op_mmap, 1, LEAVES, 0, {EINVAL, EACCES}}, /* an offset that names nothing (any more) */
	{"fault", op_fault, 1, LEAVES, 0, {0}},
	{"open-exclusive", op_open_exclusive, 0, LEAVES, 0, {EBUSY}},
	{"replace", op_replace, 0, SPENDS, 0, {0}},
	{"revoke-grant", op_revoke_grant, 0, SPENDS, 0, {0}},
	{"revoke-named", op_revoke_named, 0, SPENDS, 0, {0}},
	{"export-attached", op_export_attached, 0, LEAVES, MOONCAKE_FEATURE_EXPORT, {0}},
	{"pin-mapping", op_pin_the_mapping, 0, LEAVES, MOONCAKE_FEATURE_PIN, {EFAULT, EOPNOTSUPP}},
	{"destroy-attached", op_destroy_attached, 0, SPENDS, 0, {0}},
	{"munmap", op_munmap, 0, SPENDS, 0, {0}},
	{"vmsplice", op_vmsplice, 0, LEAVES, 0, {EAGAIN}},
	{"read-events", op_read_events, 0, LEAVES, 0, {0}},
};

/* ---- what happens in between ---- */

static void disturb(unsigned n)
{
	char *anon;
	int fd, s[2];
	pid_t pid;

	switch (n % 10) {
	case 0: /* a child that leaves at once, and one that is killed at work */
		pid = fork();
		if (!pid)
			_exit(0);
		reap_status(pid);
		break;
	case 1:
		pid = fork();
		if (!pid) {
			alarm(20);
			for (;;) {
				op_stat();
				op_copy();
				op_mmap();
			}
		}
		poll(NULL, 0, 0);
		kill(pid, SIGKILL);
		reap_status(pid);
		break;
	case 2:
		anon = mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mremap(w.guest_map, LENGTH, LENGTH, MREMAP_MAYMOVE | MREMAP_FIXED, anon) == anon)
			munmap(anon, LENGTH);
		break;
	case 3:
		madvise(w.guest_map, LENGTH, MADV_DONTNEED);
		madvise(w.owner_map, LENGTH, MADV_DONTNEED);
		break;
	case 4:
		fd = dup(w.guest);
		close(fd);
		break;
	case 5: { /* in flight in a socket while it happens */
		char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
		struct iovec v = {&byte, 1};
		struct msghdr h = {.msg_iov = &v,
				   .msg_iovlen = 1,
				   .msg_control = control,
				   .msg_controllen = sizeof(control)};
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);

		if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
			break;
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &w.guest, sizeof(int));
		sendmsg(s[1], &h, MSG_DONTWAIT);
		close(s[0]);
		close(s[1]);
		break;
	}
	case 6: /* the guest's descriptor goes; dup2 keeps the number from being another file's */
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		dup2(fd, w.guest);
		close(fd);
		break;
	case 7:
		munmap(w.guest_map + PAGE, LENGTH - 3 * PAGE);
		break;
	case 8:
		mprotect(w.guest_map + PAGE, PAGE, PROT_READ);
		munmap(w.pinnable, 2 * PAGE);
		break;
	case 9: /* many threads' worth of system calls into the mapping */
		fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
		if (read(fd, w.guest_map + LENGTH - PAGE + 64, 128) < 0)
			errno = 0;
		close(fd);
		break;
	}
}

/* ---- rounds ---- */

struct worker {
	const struct op *op; /* NULL: it disturbs */
	int delay, error;
	pthread_t thread;
	_Atomic(unsigned) done;
};

static struct worker workers[3]; /* the first is the test's own thread, the third disturbs */
static int helpers;		 /* besides the first */
static _Atomic(unsigned) round_now;
static _Atomic(int) arrived, quit;

/*
 * Those about to meet wait for each other awake, as waking a thread takes longer than a call. For 20 us or so: then the
 * host has taken away the other processor of the guest, and asleep, this one's time goes to it.
 */
static void spin(int n, int patience)
{
	static const struct timespec least = {.tv_nsec = 1000};

	if (n > patience)
		nanosleep(&least, NULL);
	else if (helpers > 1 && n % 16 == 15)
		sched_yield();
}

/*
 * Until the next round they sleep, where something has to be set up for it: a processor that is idle need not be asked
 * to forget what is unmapped meanwhile, and that question waits for the host to run it.
 */
static _Atomic(int) awake;

static void wait_for_round(unsigned seen)
{
	for (int n = 0; atomic_load(&round_now) == seen; n++)
		if (!atomic_load(&awake) || n > 1000)
			syscall(SYS_futex, &round_now, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void begin_round(void)
{
	atomic_fetch_add(&round_now, 1);
	syscall(SYS_futex, &round_now, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void take_part(struct worker *me)
{
	if (!me->op) {
		disturb(me->delay);
		return;
	}
	atomic_fetch_add(&arrived, 1);
	for (int n = 0; atomic_load(&arrived) < 2; n++)
		spin(n, 1000);
	for (volatile int i = 0; i < me->delay; i++)
		;
	me->error = me->op->run();
}

static void *work(void *arg)
{
	struct worker *me = arg;

	for (unsigned seen = 0, now;; seen = now) {
		wait_for_round(seen);
		now = atomic_load(&round_now);
		if (atomic_load(&quit))
			return NULL;
		take_part(me);
		atomic_store(&me->done, now);
	}
}

static void start_workers(int n)
{
	helpers = n;
	atomic_store(&quit, 0);
	atomic_store(&round_now, 0);
	for (int i = 1; i <= n; i++) {
		atomic_store(&workers[i].done, 0);
		CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
	}
}

static void stop_workers(void)
{
	atomic_store(&quit, 1);
	begin_round();
	for (int i = 1; i <= helpers; i++)
		pthread_join(workers[i].thread, NULL);
}

static void one_round(void)
{
	unsigned now;

	atomic_store(&arrived, 0);
	begin_round();
	now = atomic_load(&round_now);
	take_part(&workers[0]);
	for (int i = 1; i <= helpers; i++)
		for (int n = 0; atomic_load(&workers[i].done) != now; n++)
			spin(n, 200);
}

static void open_contexts(void)
{
	w.fd = open(DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	w.guest = open(DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	CHECK(w.fd >= 0 && w.guest >= 0);
	w.mine = alloc_buffer(w.guest, LENGTH).id;
	w.pinnable = map_anon(LENGTH);
	memset(w.pinnable, 1, LENGTH);
}

static void close_contexts(void)
{
	munmap(w.pinnable, LENGTH);
	close(w.fd);
	close(w.guest);
}

static void make_object(uint64_t tag)
{
	struct mooncake_buffer_alloc a = keep_buffer(w.fd, name, LENGTH, 0);
	struct mooncake_attach at;

	w.tag = tag;
	w.id = a.id;
	w.offset = a.mmap_offset;
	w.owner_map = map(w.fd, a.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	for (uint64_t i = 0; i < LENGTH; i += PAGE)
		*(uint64_t *)(w.owner_map + i) = tag;
	w.spare = grant(w.fd, w.id, w.guest, RW);
	w.used = w.spare.grant;
	at = attach(w.guest, w.spare.key);
	w.attached = at.id;
	w.guest_offset = at.mmap_offset;
	w.guest_map = map(w.guest, at.mmap_offset, LENGTH, PROT_READ | PROT_WRITE);
	w.spare = grant(w.fd, w.id, w.guest, RO);
}

static void drop_object(void)
{
	munmap(w.guest_map, LENGTH);
	munmap(w.owner_map, LENGTH);
	try_unlink(w.fd, name);
	try_destroy(w.guest, w.attached);
	try_destroy(w.fd, w.id);
}

static void check_result(const struct worker *me)
{
	int e = me->error;

	if (!e || e == ENOENT || e == ESTALE || e == EBADF || e == ENOTTY || e == ENODEV)
		return; /* the last three: the descriptor is /dev/null's meanwhile */
	for (size_t i = 0; i < ARRAY_SIZE(me->op->errors); i++)
		if (e == me->op->errors[i])
			return;
	FAIL("%s: %s gave %s", current, me->op->name, strerror(e));
}

/* Rounds of one pair. Undisturbed ones share contexts, and the object until a call spent it. */
static void pair_rounds(const struct op *a, const struct op *b, int first, int n, int disturbed)
{
	static uint64_t tag = 1ull << 60;
	static unsigned seed = 1;
	enum use use = a->use > b->use ? a->use : b->use;

	atomic_store(&awake, use == LEAVES && !disturbed);
	open_contexts();
	make_object(++tag);
	for (int i = 0; i < n; i++) {
		workers[0] = (struct worker){.op = a, .delay = rand_r(&seed) % 200};
		workers[1].op = b;
		workers[1].delay = rand_r(&seed) % 200;
		workers[2].op = NULL;
		workers[2].delay = first + i;
		one_round();
		check_result(&workers[0]);
		check_result(&workers[1]);
		if (i + 1 == n)
			break;
		if (disturbed) {
			drop_object();
			close_contexts();
			open_contexts();
			make_object(++tag);
		} else if (use == SPENDS) {
			drop_object();
			make_object(++tag);
		} else if (use == SPARE) {
			w.spare = grant(w.fd, w.id, w.guest, RO);
		}
	}
	drop_object();
	close_contexts();
}

static int rounds = 1000, limit_s = 400;
static double ends;
static const char *only[2];

static int wanted(const struct op *a, const struct op *b)
{
	if (!only[0])
		return 1;
	if (!only[1])
		return !strcmp(a->name, only[0]) || !strcmp(b->name, only[0]);
	return (!strcmp(a->name, only[0]) && !strcmp(b->name, only[1])) ||
	       (!strcmp(a->name, only[1]) && !strcmp(b->name, only[0]));
}

/* All pairs in turn, `step` rounds of each, so that a limit cuts all of them alike. */
static void all_pairs(int plain, int disturbed, int each, int step, double limit)
{
	static char text[64];
	int fd = device(), pairs = 0, done;
	uint64_t features = query(fd).features;
	double began = seconds();

	prctl(PR_SET_TIMERSLACK, 1);
	catch_bus();
	current = text;
	try_unlink(fd, name);
	step = step < each ? step : each;
	start_workers(disturbed ? 2 : 1);
	for (done = 0; done < each && (!done || seconds() < began + limit); done += step)
		for (size_t a = 0; a < ARRAY_SIZE(ops); a++)
			for (size_t b = a; b < ARRAY_SIZE(ops); b++) {
				if ((plain && !(ops[a].plain && ops[b].plain)) || !wanted(&ops[a], &ops[b]) ||
				    (ops[a].feature | ops[b].feature) & ~features)
					continue;
				snprintf(text, sizeof(text), "%s against %s", ops[a].name, ops[b].name);
				pairs += !done;
				pair_rounds(&ops[a], &ops[b], done, step, disturbed);
			}
	stop_workers();
	if (!pairs)
		SKIP("no such pair here");
	printf("  %d pairs, %d rounds each, %.1f s\n", pairs, done, seconds() - began);
	if (done < each)
		printf("note: %d of %d rounds of each pair in the time there was\n", done, each);
}

static int share_of(int n) { return rounds > n ? rounds / n : 1; }

static void test_every_operation_meets_every_other(void) { all_pairs(0, 0, share_of(10), 10, limit_s * 0.2); }
static void test_they_meet_while_a_third_thread_disturbs(void) { all_pairs(1, 1, share_of(50), 2, limit_s * 0.2); }
static void test_plain_operations_meet_each_other(void) { all_pairs(1, 0, rounds, 20, ends - seconds()); }

static const struct test tests[] = {
	TEST(test_every_operation_meets_every_other),
	TEST(test_they_meet_while_a_third_thread_disturbs),
	TEST(test_plain_operations_meet_each_other), /* with what time the others left */
};

int main(int argc, char **argv)
{
	if (argc > 1)
		rounds = atoi(argv[1]);
	if (argc > 2)
		limit_s = atoi(argv[2]);
	ends = seconds() + limit_s;
	for (int i = 0; i < 2 && argc > 3 + i; i++)
		only[i] = argv[3 + i];
	return run_tests(tests, ARRAY_SIZE(tests), 1, argv);
}
