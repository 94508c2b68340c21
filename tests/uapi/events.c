// SPDX-License-Identifier: MIT
/* vm: short */
/* Events of a context: what arrives, coalesced how, read and polled how. */
#include "uapi.h"

#define MIB (1ull << 20)

static int pollin(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	CHECK(poll(&p, 1, 0) >= 0);
	return (p.revents & POLLIN) != 0;
}

static int device_nonblock(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	CHECK(fd >= 0);
	return fd;
}

/* All events that are there; they may come a moment after what caused them. */
static int read_all(int fd, struct mooncake_event *e, int max)
{
	ssize_t n = read(fd, e, max * sizeof(*e));

	if (n < 0) {
		CHECK(errno == EAGAIN);
		return 0;
	}
	CHECK_EQ(n % sizeof(*e), 0);
	return n / sizeof(*e);
}

static void test_no_event_is_eagain(void)
{
	struct mooncake_event e;
	int fd = device_nonblock();

	alloc_buffer(fd, PAGE);
	CHECK_ERR(read(fd, &e, sizeof(e)), EAGAIN);
	CHECK(!pollin(fd));
}

static void test_buffer_too_small_for_one_event_is_einval(void)
{
	struct mooncake_event e[2];
	int fd = device_nonblock(), guest = device_nonblock();
	uint32_t id = alloc_buffer(fd, PAGE).id;

	CHECK_ERR(read(fd, e, sizeof(e[0]) - 1), EINVAL);
	share(fd, id, guest, RO);
	CHECK(WAIT_FOR(pollin(fd), 5));
	CHECK_ERR(read(fd, e, sizeof(e[0]) - 1), EINVAL);
	CHECK_EQ(read(fd, e, sizeof(e) - 1), sizeof(e[0])); /* whole ones only */
	CHECK_ERR(read(fd, e, sizeof(e)), EAGAIN);
}

static void test_unreachable_memory_is_efault_and_loses_no_event(void)
{
	struct mooncake_event e;
	int fd = device_nonblock(), guest = device_nonblock();
	uint32_t id = alloc_buffer(fd, PAGE).id;
	void *gone = map_anon(PAGE);

	munmap(gone, PAGE);
	share(fd, id, guest, RO);
	CHECK(WAIT_FOR(pollin(fd), 5));
	CHECK_ERR(read(fd, (void *)(uintptr_t)0xffff888000001000ull, sizeof(e)), EFAULT);
	CHECK_ERR(read(fd, gone, sizeof(e)), EFAULT);
	CHECK_EQ(read_all(fd, &e, 1), 1);
	CHECK_EQ(e.type, MOONCAKE_EVENT_ATTACHED);
	CHECK_EQ(e.count, 1);
}

static void test_attach_tells_the_owner_and_revoke_the_guest(void)
{
	struct mooncake_event e[4];
	int owner = device_nonblock(), guest = device_nonblock();
	uint32_t id = alloc_buffer(owner, PAGE).id;
	struct mooncake_grant g = grant(owner, id, guest, RO);
	struct mooncake_attach a = attach(guest, g.key);

	CHECK(WAIT_FOR(pollin(owner), 5));
	CHECK_EQ(read_all(owner, e, 4), 1);
	CHECK_EQ(e[0].type, MOONCAKE_EVENT_ATTACHED);
	CHECK_EQ(e[0].id, id);
	CHECK_EQ(e[0].value, g.grant);
	CHECK_EQ(e[0].count, 1);
	CHECK_EQ(e[0].generation, 1);
	CHECK(!pollin(owner));
	CHECK(!pollin(guest));
	revoke_object(owner, id, 0);
	CHECK(WAIT_FOR(pollin(guest), 5));
	CHECK_EQ(read_all(guest, e, 4), 1);
	CHECK_EQ(e[0].type, MOONCAKE_EVENT_REVOKED);
	CHECK_EQ(e[0].id, a.id);
	CHECK_EQ(e[0].count, 1);
	CHECK_EQ(e[0].generation, 2);
	/* Not the one who revoked: it was not somebody else. */
	for (int i = read_all(owner, e, 4); i--;)
		CHECK(e[i].type != MOONCAKE_EVENT_REVOKED);
}

static void test_end_of_an_attachment_tells_the_owner(void)
{
	struct mooncake_event e[4];
	int owner = device_nonblock(), guest = device_nonblock();
	uint32_t id = alloc_buffer(owner, PAGE).id;
	struct mooncake_grant g = grant(owner, id, guest, RO);

	destroy(guest, attach(guest, g.key).id);
	CHECK(WAIT_FOR(pollin(owner), 5));
	CHECK_EQ(read_all(owner, e, 4), 2);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(e[i].type, i ? MOONCAKE_EVENT_DETACHED : MOONCAKE_EVENT_ATTACHED); /* in order */
		CHECK_EQ(e[i].id, id);
		CHECK_EQ(e[i].value, g.grant);
	}
	/* And when the guest's context ends. */
	share(owner, id, guest, RO);
	CHECK(WAIT_FOR(pollin(owner), 5));
	CHECK_EQ(read_all(owner, e, 4), 1);
	close(guest);
	CHECK(WAIT_FOR(pollin(owner), 5));
	CHECK_EQ(read_all(owner, e, 4), 1);
	CHECK_EQ(e[0].type, MOONCAKE_EVENT_DETACHED);
}

static void test_events_of_one_object_and_type_are_one(void)
{
	struct mooncake_event e[8];
	int owner = device_nonblock(), guest = device_nonblock();
	uint32_t one = alloc_buffer(owner, PAGE).id, two = alloc_buffer(owner, PAGE).id;
	int seen = 0;

	for (int i = 0; i < 7; i++)
		share(owner, one, guest, RO);
	for (int i = 0; i < 3; i++)
		share(owner, two, guest, RO);
	CHECK_EQ(read_all(owner, e, 8), 2);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(e[i].type, MOONCAKE_EVENT_ATTACHED);
		CHECK_EQ(e[i].count, e[i].id == one ? 7 : 3);
		seen |= e[i].id;
	}
	CHECK_EQ(seen, one | two);
	/* The count begins anew once read. */
	share(owner, one, guest, RO);
	CHECK_EQ(read_all(owner, e, 8), 1);
	CHECK_EQ(e[0].count, 1);
}

static void test_no_event_arrives_after_destroy(void)
{
	struct mooncake_event e[4];
	int owner = device_nonblock(), guest = device_nonblock();
	uint32_t id = alloc_buffer(owner, PAGE).id, again;
	struct mooncake_attach a = share(owner, id, guest, RO);

	destroy(owner, id); /* with ATTACHED pending */
	CHECK(!pollin(owner));
	CHECK_EQ(read_all(owner, e, 4), 0);
	again = alloc_buffer(owner, PAGE).id;
	CHECK_EQ(again, id); /* the number lives on, as another's */
	destroy(guest, a.id);
	CHECK_EQ(read_all(owner, e, 4), 0);
	a = share(owner, again, guest, RO);
	revoke_object(owner, again, 0);
	destroy(guest, a.id); /* with REVOKED pending */
	CHECK_EQ(read_all(guest, e, 4), 0);
}

static void test_many_events_come_in_pieces(void)
{
	enum { N = 100 };
	struct mooncake_event e[7];
	int owner = device_nonblock(), guest = device_nonblock(), got = 0, n;
	uint8_t seen[N + 1] = {0};

	for (int i = 0; i < N; i++)
		share(owner, alloc_buffer(owner, PAGE).id, guest, RO);
	while ((n = read_all(owner, e, 7)) > 0) {
		for (int i = 0; i < n; i++) {
			CHECK(e[i].id >= 1 && e[i].id <= N && !seen[e[i].id]);
			seen[e[i].id] = 1;
		}
		got += n;
	}
	CHECK_EQ(got, N);
}

struct sleeper {
	int fd;
	ssize_t n;
	struct mooncake_event e;
	pid_t tid;
};

static void *sleep_in_read(void *arg)
{
	struct sleeper *s = arg;

	__atomic_store_n(&s->tid, gettid(), __ATOMIC_RELEASE);
	s->n = read(s->fd, &s->e, sizeof(s->e));
	return NULL;
}

static int asleep(struct sleeper *s)
{
	char path[64], state = 0;
	pid_t tid = __atomic_load_n(&s->tid, __ATOMIC_ACQUIRE);
	FILE *f;

	if (!tid)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(f);
	return state == 'S';
}

static void test_blocking_read_wakes_with_the_event(void)
{
	int owner = device(), guest = device();
	uint32_t id = alloc_buffer(owner, PAGE).id;
	struct sleeper s = {.fd = owner};
	pthread_t t;

	CHECK(pthread_create(&t, NULL, sleep_in_read, &s) == 0);
	CHECK(WAIT_FOR(asleep(&s), 5));
	share(owner, id, guest, RO);
	CHECK(pthread_join(t, NULL) == 0);
	CHECK_EQ(s.n, sizeof(s.e));
	CHECK_EQ(s.e.type, MOONCAKE_EVENT_ATTACHED);
}

static void *sleep_in_poll(void *arg)
{
	struct sleeper *s = arg;
	struct pollfd p = {.fd = s->fd, .events = POLLIN};

	__atomic_store_n(&s->tid, gettid(), __ATOMIC_RELEASE);
	s->n = poll(&p, 1, 20000);
	return NULL;
}

static void test_poll_wakes_with_the_event(void)
{
	int owner = device(), guest = device();
	struct mooncake_attach a = share(owner, alloc_buffer(owner, PAGE).id, guest, RO);
	struct sleeper s = {.fd = guest};
	pthread_t t;

	(void)a;
	CHECK(pthread_create(&t, NULL, sleep_in_poll, &s) == 0);
	CHECK(WAIT_FOR(asleep(&s), 5));
	revoke_object(owner, 1, 0);
	CHECK(pthread_join(t, NULL) == 0);
	CHECK_EQ(s.n, 1);
}

static void nothing(int sig) { (void)sig; }

static void *run_with_handler(void *arg)
{
	sleep_in_read(arg);
	((struct sleeper *)arg)->e.count = errno;
	return NULL;
}

static void test_signal_ends_a_blocking_read(void)
{
	struct sigaction sa = {.sa_handler = nothing};
	struct sleeper s = {.fd = device()};
	pthread_t t;

	sigaction(SIGUSR1, &sa, NULL);
	CHECK(pthread_create(&t, NULL, run_with_handler, &s) == 0);
	CHECK(WAIT_FOR(asleep(&s), 5));
	pthread_kill(t, SIGUSR1);
	CHECK(pthread_join(t, NULL) == 0);
	CHECK_EQ(s.n, (ssize_t)-1);
	CHECK_EQ(s.e.count, EINTR);
}

static void test_every_context_of_a_revoked_kept_buffer_is_told(void)
{
	static const char name[] = KEPT "-events";
	int fds[4] = {device_nonblock(), device_nonblock(), device_nonblock(), device_nonblock()};
	struct mooncake_event e[4];
	struct mooncake_revoke r;

	try_unlink(fds[0], name);
	keep_buffer(fds[0], name, MIB, 0);
	for (int i = 1; i < 3; i++)
		open_buffer(fds[i], name, 0);
	CHECK(try_revoke_named(fds[3], name, 0, &r) == 0);
	for (int i = 0; i < 3; i++) {
		CHECK(WAIT_FOR(pollin(fds[i]), 5));
		CHECK_EQ(read_all(fds[i], e, 4), 1);
		CHECK_EQ(e[0].type, MOONCAKE_EVENT_REVOKED);
		CHECK_EQ(e[0].generation, r.generation);
	}
	unlink_buffer(fds[3], name);
}

static const struct test tests[] = {
	TEST(test_no_event_is_eagain),
	TEST(test_buffer_too_small_for_one_event_is_einval),
	TEST(test_unreachable_memory_is_efault_and_loses_no_event),
	TEST(test_attach_tells_the_owner_and_revoke_the_guest),
	TEST(test_end_of_an_attachment_tells_the_owner),
	TEST(test_events_of_one_object_and_type_are_one),
	TEST(test_no_event_arrives_after_destroy),
	TEST(test_many_events_come_in_pieces),
	TEST(test_blocking_read_wakes_with_the_event),
	TEST(test_poll_wakes_with_the_event),
	TEST(test_signal_ends_a_blocking_read),
	TEST(test_every_context_of_a_revoked_kept_buffer_is_told),
};

RUN_TESTS(tests)
