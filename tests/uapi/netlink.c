// SPDX-License-Identifier: MIT
/* vm: short */
/* The generic netlink family: dumps, their filter, their resuming, one object by its serial number. */
#include "uapi.h"
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/socket.h>

#define MIB (1ull << 20)

/* ---- a client ---- */

struct item {
	uint64_t serial, length, generation;
	uint32_t kind, state, uid, pid, contexts, mappings, grants, dmabufs, event;
	char name[MOONCAKE_NAME_MAX + 1];
	uint8_t content_id[MOONCAKE_KEY_SIZE];
	uint32_t have; /* bits: attributes that were there */
};

static uint16_t family, group;

static int nl_open(void)
{
	struct sockaddr_nl a = {.nl_family = AF_NETLINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	struct timeval t = {.tv_sec = 20};

	CHECK(fd >= 0);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) == 0);
	return fd;
}

static void nl_send(int fd, uint16_t type, uint16_t flags, uint8_t cmd, uint16_t attr, const void *data,
		    uint16_t n)
{
	struct {
		struct nlmsghdr h;
		struct genlmsghdr g;
		char attrs[256];
	} m = {.h = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = 1},
	       .g = {.cmd = cmd, .version = 1}};
	struct sockaddr_nl to = {.nl_family = AF_NETLINK};

	m.h.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	if (attr) {
		struct nlattr *a = (struct nlattr *)m.attrs;

		a->nla_type = attr;
		a->nla_len = NLA_HDRLEN + n;
		memcpy((char *)a + NLA_HDRLEN, data, n);
		m.h.nlmsg_len += NLA_ALIGN(a->nla_len);
	}
	CHECK(sendto(fd, &m, m.h.nlmsg_len, 0, (struct sockaddr *)&to, sizeof(to)) == (ssize_t)m.h.nlmsg_len);
}

#define for_each_attr(a, from, len)                                                        \
	for (struct nlattr *a = (void *)(from);                                            \
	     (char *)a + NLA_HDRLEN <= (char *)(from) + (len) && a->nla_len >= NLA_HDRLEN; \
	     a = (void *)((char *)a + NLA_ALIGN(a->nla_len)))
#define attr_type(a) ((a)->nla_type & NLA_TYPE_MASK)
#define attr_data(a) ((void *)((char *)(a) + NLA_HDRLEN))

static void parse(struct nlmsghdr *h, struct item *it)
{
	char *from = (char *)NLMSG_DATA(h) + GENL_HDRLEN;

	memset(it, 0, sizeof(*it));
	for_each_attr(a, from, (char *)h + h->nlmsg_len - from)
	{
		int type = attr_type(a), n = a->nla_len - NLA_HDRLEN;
		struct {
			int type, size;
			void *to;
		} fields[] = {
			{MOONCAKE_GENL_A_SERIAL, 8, &it->serial},
			{MOONCAKE_GENL_A_KIND, 4, &it->kind},
			{MOONCAKE_GENL_A_STATE, 4, &it->state},
			{MOONCAKE_GENL_A_LENGTH, 8, &it->length},
			{MOONCAKE_GENL_A_GENERATION, 8, &it->generation},
			{MOONCAKE_GENL_A_UID, 4, &it->uid},
			{MOONCAKE_GENL_A_PID, 4, &it->pid},
			{MOONCAKE_GENL_A_CONTEXTS, 4, &it->contexts},
			{MOONCAKE_GENL_A_MAPPINGS, 4, &it->mappings},
			{MOONCAKE_GENL_A_GRANTS, 4, &it->grants},
			{MOONCAKE_GENL_A_DMABUFS, 4, &it->dmabufs},
			{MOONCAKE_GENL_A_CONTENT_ID, 16, it->content_id},
			{MOONCAKE_GENL_A_EVENT, 4, &it->event},
		};

		if (type == MOONCAKE_GENL_A_NAME) {
			CHECK(n > 0 && n <= MOONCAKE_NAME_MAX + 1);
			memcpy(it->name, attr_data(a), n > MOONCAKE_NAME_MAX ? MOONCAKE_NAME_MAX : n);
		}
		for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
			if (fields[i].type == type) {
				CHECK_EQ(n, fields[i].size);
				memcpy(fields[i].to, attr_data(a), n);
			}
		if (type < 32)
			it->have |= 1u << type;
	}
}

static void find_family(void)
{
	static char buffer[32768];
	int fd = nl_open();
	ssize_t n;
	struct nlmsghdr *h = (void *)buffer;

	nl_send(fd, GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, MOONCAKE_GENL_NAME,
		sizeof(MOONCAKE_GENL_NAME));
	n = recv(fd, buffer, sizeof(buffer), 0);
	CHECK(n > 0 && h->nlmsg_type != NLMSG_ERROR);
	for_each_attr(a, (char *)NLMSG_DATA(h) + GENL_HDRLEN, h->nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN))
	{
		if (attr_type(a) == CTRL_ATTR_FAMILY_ID)
			memcpy(&family, attr_data(a), 2);
		if (attr_type(a) == CTRL_ATTR_VERSION)
			CHECK_EQ(*(uint32_t *)attr_data(a), MOONCAKE_GENL_VERSION);
		if (attr_type(a) == CTRL_ATTR_MCAST_GROUPS)
			for_each_attr(one, attr_data(a), a->nla_len - NLA_HDRLEN)
			{
				uint32_t id = 0;
				char *name = NULL;

				for_each_attr(f, attr_data(one), one->nla_len - NLA_HDRLEN)
				{
					if (attr_type(f) == CTRL_ATTR_MCAST_GRP_ID)
						memcpy(&id, attr_data(f), 4);
					if (attr_type(f) == CTRL_ATTR_MCAST_GRP_NAME)
						name = attr_data(f);
				}
				if (name && !strcmp(name, MOONCAKE_GENL_GROUP))
					group = id;
			}
	}
	CHECK(family && group);
	close(fd);
}

/* A dump; `between` runs once after the first piece has arrived. Returns how many pieces it took. */
static int dump(uint8_t cmd, struct item **items, size_t *count, void (*between)(void))
{
	static char buffer[65536];
	int fd = nl_open(), pieces = 0;
	size_t room = 0;

	*items = NULL;
	*count = 0;
	nl_send(fd, family, NLM_F_DUMP, cmd, 0, NULL, 0);
	for (;;) {
		ssize_t n = recv(fd, buffer, sizeof(buffer), 0);

		CHECK(n > 0);
		pieces++;
		for (struct nlmsghdr *h = (void *)buffer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_DONE) {
				CHECK_EQ(*(int *)NLMSG_DATA(h), 0);
				close(fd);
				return pieces;
			}
			CHECK(h->nlmsg_type == family);
			CHECK(h->nlmsg_flags & NLM_F_MULTI);
			if (*count == room)
				*items = realloc(*items, (room = room ? room * 2 : 64) * sizeof(**items));
			parse(h, &(*items)[(*count)++]);
		}
		if (pieces == 1 && between)
			between();
	}
}

static struct item *with_content(struct item *items, size_t n, const uint8_t id[MOONCAKE_KEY_SIZE])
{
	for (size_t i = 0; i < n; i++)
		if (!memcmp(items[i].content_id, id, MOONCAKE_KEY_SIZE))
			return &items[i];
	return NULL;
}

/* 0, or the errno of the answer. */
static int get(uint64_t serial, struct item *it)
{
	static char buffer[32768];
	struct nlmsghdr *h = (void *)buffer;
	int fd = nl_open(), error = 0;
	ssize_t n;

	nl_send(fd, family, 0, MOONCAKE_GENL_CMD_OBJECT_GET, MOONCAKE_GENL_A_SERIAL, &serial, 8);
	n = recv(fd, buffer, sizeof(buffer), 0);
	CHECK(n > 0);
	if (h->nlmsg_type == NLMSG_ERROR)
		error = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
	else
		parse(h, it);
	close(fd);
	return error;
}

/* ---- tests ---- */

static void test_dump_describes_every_object(void)
{
	int fd = device(), guest = device();
	struct mooncake_buffer_alloc a = alloc_buffer(fd, 3 * PAGE);
	struct item *items, *it, one;
	size_t n;

	find_family();
	share(fd, a.id, guest, RO);
	grant(fd, a.id, guest, RO);
	map(fd, a.mmap_offset, PAGE, PROT_READ);
	revoke_object(fd, alloc_buffer(fd, PAGE).id, 0);
	dump(MOONCAKE_GENL_CMD_OBJECT_GET, &items, &n, NULL);
	it = with_content(items, n, a.content_id);
	CHECK(it);
	CHECK(it->serial);
	CHECK_EQ(it->kind, MOONCAKE_KIND_BUFFER);
	CHECK_EQ(it->state, 0);
	CHECK_EQ(it->length, 3 * PAGE);
	CHECK_EQ(it->generation, 1);
	CHECK_EQ(it->uid, 0);
	CHECK_EQ(it->pid, getpid());
	CHECK_EQ(it->contexts, 2);
	CHECK_EQ(it->mappings, 1);
	CHECK_EQ(it->grants, 1);
	CHECK_EQ(it->dmabufs, 0);
	CHECK(!(it->have & 1u << MOONCAKE_GENL_A_NAME));
	CHECK_EQ(get(it->serial, &one), 0);
	CHECK(!memcmp(one.content_id, it->content_id, MOONCAKE_KEY_SIZE));
	CHECK_EQ(get(UINT64_MAX, &one), ENOENT);
	/* Serial numbers are never used again. */
	destroy(guest, 1);
	destroy(fd, a.id);
}

static void test_serial_numbers_are_never_used_again(void)
{
	int fd = device();
	struct item *items, *it, one;
	uint64_t last = 0;
	size_t n;

	find_family();
	for (int i = 0; i < 5; i++) {
		struct mooncake_buffer_alloc a = alloc_buffer(fd, PAGE);

		dump(MOONCAKE_GENL_CMD_OBJECT_GET, &items, &n, NULL);
		it = with_content(items, n, a.content_id);
		CHECK(it && it->serial > last);
		last = it->serial;
		destroy(fd, a.id);
		CHECK_EQ(get(last, &one), ENOENT);
	}
}

static void test_dump_of_kept_buffers_has_their_names(void)
{
	static const char name[] = KEPT "-netlink";
	int fd = device();
	struct mooncake_buffer_alloc a, plain = alloc_buffer(fd, PAGE);
	struct item *items, *it;
	size_t n;

	find_family();
	try_unlink(fd, name);
	a = keep_buffer(fd, name, MIB, MOONCAKE_BUFFER_EXCLUSIVE);
	dump(MOONCAKE_GENL_CMD_KEPT_GET, &items, &n, NULL);
	CHECK(!with_content(items, n, plain.content_id));
	it = with_content(items, n, a.content_id);
	CHECK(it);
	CHECK(!strcmp(it->name, name));
	CHECK_EQ(it->length, MIB);
	CHECK_EQ(it->pid, getpid());
	CHECK_EQ(it->state, MOONCAKE_STATE_KEPT | MOONCAKE_STATE_EXCLUSIVE);
	destroy(fd, a.id);
	dump(MOONCAKE_GENL_CMD_KEPT_GET, &items, &n, NULL);
	it = with_content(items, n, a.content_id);
	CHECK(it);
	CHECK_EQ(it->state, MOONCAKE_STATE_KEPT);
	CHECK_EQ(it->contexts, 0);
	unlink_buffer(fd, name);
	dump(MOONCAKE_GENL_CMD_KEPT_GET, &items, &n, NULL);
	CHECK(!with_content(items, n, a.content_id));
}

static void test_dump_shows_a_user_his_own_only(void)
{
	static const char name[] = KEPT "-netlink-root";
	int fd = device();
	struct mooncake_buffer_alloc roots = alloc_buffer(fd, PAGE), kept;
	struct item *items, one;
	uint64_t serial;
	size_t n;
	pid_t pid;

	find_family();
	try_unlink(fd, name);
	kept = keep_buffer(fd, name, PAGE, 0);
	dump(MOONCAKE_GENL_CMD_OBJECT_GET, &items, &n, NULL);
	CHECK(with_content(items, n, roots.content_id));
	serial = with_content(items, n, roots.content_id)->serial;
	pid = spawn();
	if (!pid) {
		int mine = device();
		struct mooncake_buffer_alloc a;

		become(34567);
		a = alloc_buffer(mine, PAGE);
		dump(MOONCAKE_GENL_CMD_OBJECT_GET, &items, &n, NULL);
		CHECK_EQ(n, 1);
		CHECK(with_content(items, n, a.content_id));
		dump(MOONCAKE_GENL_CMD_KEPT_GET, &items, &n, NULL);
		CHECK_EQ(n, 0);
		CHECK_EQ(get(serial, &one), ENOENT); /* as if it were not there */
		_exit(0);
	}
	REAP(pid);
	/* Root of another user namespace is no administrator here. */
	pid = spawn();
	if (!pid) {
		become(34568);
		if (unshare(CLONE_NEWUSER))
			SKIP("no user namespaces: %s", strerror(errno));
		dump(MOONCAKE_GENL_CMD_OBJECT_GET, &items, &n, NULL);
		CHECK_EQ(n, 0);
		CHECK_EQ(get(serial, &one), ENOENT);
		_exit(0);
	}
	REAP(pid);
	(void)kept;
	unlink_buffer(fd, name);
}

enum { MANY = 4000 };
static struct mooncake_buffer_alloc many[MANY];
static int many_fd;

static void change_while_dumping(void)
{
	for (int i = 1; i < MANY; i += 2)
		destroy(many_fd, many[i].id);
	for (int i = 0; i < 500; i++)
		alloc_buffer(many_fd, PAGE);
}

/* Whatever comes and goes meanwhile: what was there all the time is told exactly once, in order. */
static void test_long_dump_resumes_by_serial_number(void)
{
	struct item *items;
	int pieces;
	size_t n;

	find_family();
	many_fd = device();
	for (int i = 0; i < MANY; i++)
		many[i] = alloc_buffer(many_fd, PAGE);
	pieces = dump(MOONCAKE_GENL_CMD_OBJECT_GET, &items, &n, change_while_dumping);
	CHECK(pieces > 5);
	for (size_t i = 1; i < n; i++)
		CHECK(items[i].serial > items[i - 1].serial);
	for (int i = 0, at = 0; i < MANY; i += 2) {
		while ((size_t)at < n && memcmp(items[at].content_id, many[i].content_id, MOONCAKE_KEY_SIZE))
			at++;
		if ((size_t)at == n)
			FAIL("object %d of %d is missing", i, MANY);
	}
	printf("  %zu objects in %d pieces\n", n, pieces);
}

static void test_dump_that_is_not_read_to_its_end_leaves_nothing(void)
{
	int fd = device(), nl;

	find_family();
	for (int i = 0; i < 500; i++)
		alloc_buffer(fd, PAGE);
	for (int i = 0; i < 20; i++) {
		nl = nl_open();
		nl_send(nl, family, NLM_F_DUMP, MOONCAKE_GENL_CMD_OBJECT_GET, 0, NULL, 0);
		close(nl);
	}
}

static void test_unknown_command_and_missing_serial_are_errors(void)
{
	static char buffer[8192];
	struct nlmsghdr *h = (void *)buffer;
	int fd;

	find_family();
	fd = nl_open();
	nl_send(fd, family, 0, 77, 0, NULL, 0);
	CHECK(recv(fd, buffer, sizeof(buffer), 0) > 0);
	CHECK_EQ(h->nlmsg_type, NLMSG_ERROR);
	CHECK_EQ(-((struct nlmsgerr *)NLMSG_DATA(h))->error, EOPNOTSUPP);
	nl_send(fd, family, 0, MOONCAKE_GENL_CMD_OBJECT_GET, 0, NULL, 0);
	CHECK(recv(fd, buffer, sizeof(buffer), 0) > 0);
	CHECK_EQ(h->nlmsg_type, NLMSG_ERROR);
	CHECK_EQ(-((struct nlmsgerr *)NLMSG_DATA(h))->error, EINVAL);
	nl_send(fd, family, 0, MOONCAKE_GENL_CMD_OBJECT_GET, MOONCAKE_GENL_A_SERIAL, "abc",
		3); /* too short a number */
	CHECK(recv(fd, buffer, sizeof(buffer), 0) > 0);
	CHECK_EQ(h->nlmsg_type, NLMSG_ERROR);
	CHECK(((struct nlmsgerr *)NLMSG_DATA(h))->error < 0);
}

static void test_group_hears_of_what_is_made_and_ended(void)
{
	static char buffer[32768];
	static const char name[] = KEPT "-netlink-events";
	const uint64_t length = 77 * PAGE; /* by which we know ours */
	int fd = device(), nl, g, seen = 0;
	struct mooncake_buffer_alloc a;
	uint64_t serial = 0;

	find_family();
	try_unlink(fd, name);
	nl = nl_open();
	g = group;
	CHECK(setsockopt(nl, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &g, sizeof(g)) == 0);
	a = keep_buffer(fd, name, length, 0);
	unlink_buffer(fd, name);
	destroy(fd, a.id);
	while (seen != 15) {
		ssize_t n = recv(nl, buffer, sizeof(buffer), 0);

		if (n < 0)
			FAIL("only these of CREATED, KEPT, UNLINKED, DESTROYED arrived: %#x", seen);
		for (struct nlmsghdr *h = (void *)buffer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			struct item it;

			parse(h, &it);
			if (it.length != length)
				continue;
			CHECK_EQ(it.kind, MOONCAKE_KIND_BUFFER);
			CHECK(it.serial && (!serial || it.serial == serial));
			serial = it.serial;
			CHECK_EQ(((struct genlmsghdr *)NLMSG_DATA(h))->cmd, MOONCAKE_GENL_CMD_EVENT);
			seen |= it.event == MOONCAKE_EVENT_CREATED     ? 1
				: it.event == MOONCAKE_EVENT_KEPT      ? 2
				: it.event == MOONCAKE_EVENT_UNLINKED  ? 4
				: it.event == MOONCAKE_EVENT_DESTROYED ? 8
								       : 0;
		}
	}
}

static const struct test tests[] = {
	TEST(test_dump_describes_every_object),
	TEST(test_serial_numbers_are_never_used_again),
	TEST(test_dump_of_kept_buffers_has_their_names),
	TEST(test_dump_shows_a_user_his_own_only),
	TEST(test_long_dump_resumes_by_serial_number),
	TEST(test_dump_that_is_not_read_to_its_end_leaves_nothing),
	TEST(test_unknown_command_and_missing_serial_are_errors),
	TEST(test_group_hears_of_what_is_made_and_ended),
};

RUN_TESTS(tests)
