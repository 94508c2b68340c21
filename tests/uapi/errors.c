// SPDX-License-Identifier: MIT
/* vm: short */
/*
 * Every call, every field: one field wrong, all others valid, and exactly the error of the contract. A call is described
 * by how to make it valid; what is wrong is a table of patches. What fails writes no output.
 */
#include "uapi.h"

enum { MAX_STRUCT = 128 };

/* The world of one test: a buffer, a kept one, a second context, a grant for it and an attachment in it. */
static struct {
	int fd, other;
	uint32_t buffer, kept, attachment, pin; /* pin: 0 without the feature */
	uint32_t theirs;			 /* a buffer of the other context */
	uint8_t keep_key[MOONCAKE_KEY_SIZE];
	struct mooncake_grant grant;
	char *memory; /* 16 pages of the process, the last one unmapped */
} w;

struct call {
	const char *name;
	unsigned long cmd;
	uint32_t size;
	void (*valid)(void *arg);	 /* fill in a call that succeeds */
	void (*undo)(const void *arg); /* after it did */
	uint32_t known_flags;
	int reserved; /* offset of the reserved field, 0: none */
	int bad_value; /* offset of a field, and a value that is EINVAL by itself; 0: none */
	uint64_t bad;
	int bad_id; /* offset of an id, 0: none */
};

static long make(const struct call *c, void *arg)
{
	errno = 0;
	return ioctl(w.fd, c->cmd, arg);
}

static void world(void)
{
	struct mooncake_buffer_alloc a;

	w.fd = device();
	w.other = device();
	w.buffer = alloc_buffer(w.fd, 4 * PAGE).id;
	try_unlink(w.fd, KEPT "-errors");
	a = keep_buffer(w.fd, KEPT "-errors", 2 * PAGE, 0);
	w.kept = a.id;
	memcpy(w.keep_key, a.keep_key, sizeof(w.keep_key));
	w.theirs = alloc_buffer(w.other, 2 * PAGE).id;
	w.attachment = share(w.other, w.theirs, w.fd, RW).id;
	w.memory = map_anon(16 * PAGE);
	munmap(w.memory + 15 * PAGE, PAGE);
	memset(w.memory, 1, 15 * PAGE);
	if (has_feature(w.fd, MOONCAKE_FEATURE_PIN))
		CHECK(try_pin(w.fd, w.memory, 2 * PAGE, &w.pin) == 0);
}

static void world_end(void) { unlink_buffer(w.fd, KEPT "-errors"); }

static const char the_name[] = KEPT "-errors";

#define S(type) struct mooncake_##type *s = arg; *s = (struct mooncake_##type)STRUCT(type)
static void valid_query(void *arg) { S(query); }
static void valid_alloc(void *arg)
{
	S(buffer_alloc);
	s->length = 2 * PAGE;
	s->numa_node = -1;
}
static void undo_alloc(const void *arg) { destroy(w.fd, ((const struct mooncake_buffer_alloc *)arg)->id); }
static void valid_keep(void *arg)
{
	static const char name[] = KEPT "-errors-2";

	S(buffer_alloc);
	s->flags = MOONCAKE_BUFFER_KEEP;
	s->length = 2 * PAGE;
	s->numa_node = -1;
	s->name = PTR(name);
	s->name_length = sizeof(name) - 1;
}
static void undo_keep(const void *arg)
{
	undo_alloc(arg);
	unlink_buffer(w.fd, KEPT "-errors-2");
}
static void valid_open(void *arg)
{
	S(buffer_open);
	s->uid = MOONCAKE_UID_SELF;
	s->name = PTR(the_name);
	s->name_length = sizeof(the_name) - 1;
}
static void valid_open_key(void *arg)
{
	S(buffer_open);
	s->flags = MOONCAKE_OPEN_BY_KEY;
	memcpy(s->keep_key, w.keep_key, sizeof(s->keep_key));
}
static void undo_open(const void *arg) { destroy(w.fd, ((const struct mooncake_buffer_open *)arg)->id); }
static void valid_unlink(void *arg)
{
	S(buffer_unlink);
	s->uid = MOONCAKE_UID_SELF;
	s->name = PTR(the_name);
	s->name_length = sizeof(the_name) - 1;
}
static void valid_unlink_key(void *arg)
{
	S(buffer_unlink);
	s->flags = MOONCAKE_UNLINK_BY_KEY;
	memcpy(s->keep_key, w.keep_key, sizeof(s->keep_key));
}
static void undo_unlink(const void *arg)
{
	struct mooncake_buffer_alloc a;

	(void)arg;
	destroy(w.fd, w.kept);
	a = keep_buffer(w.fd, the_name, 2 * PAGE, 0);
	w.kept = a.id;
	memcpy(w.keep_key, a.keep_key, sizeof(w.keep_key));
}
static void valid_pin(void *arg)
{
	S(region_pin);
	s->addr = PTR(w.memory);
	s->length = 4 * PAGE;
}
static void undo_pin(const void *arg) { destroy(w.fd, ((const struct mooncake_region_pin *)arg)->id); }
static void valid_import(void *arg)
{
	S(region_import);
	s->fd = -1;
}
static void valid_bar(void *arg)
{
	S(region_bar);
	s->domain = 0xffff;
}
static void valid_cxl(void *arg)
{
	S(region_cxl);
	s->start = 1ull << 46;
	s->length = 2ull << 20;
}
static void valid_cxl_mapped(void *arg)
{
	S(region_cxl);
	s->flags = MOONCAKE_CXL_MAPPED;
	s->start = PTR(w.memory);
	s->length = 2 * PAGE;
}
static void valid_export(void *arg)
{
	S(export);
	s->id = w.buffer;
}
static void undo_export(const void *arg) { close(((const struct mooncake_export *)arg)->fd); }
static void valid_grant(void *arg)
{
	S(grant);
	*s = grant_for(w.other, w.buffer, RW);
}
static void undo_grant(const void *arg)
{
	CHECK(try_revoke_grant(w.fd, ((const struct mooncake_grant *)arg)->grant) == 0);
}
static void valid_attach(void *arg)
{
	S(attach);
	memcpy(s->key, grant(w.other, w.theirs, w.fd, RO).key, MOONCAKE_KEY_SIZE);
}
static void undo_attach(const void *arg) { destroy(w.fd, ((const struct mooncake_attach *)arg)->id); }
static void valid_revoke(void *arg)
{
	S(revoke);
	s->id = w.buffer;
}
static void valid_revoke_grant(void *arg)
{
	S(revoke);
	s->flags = MOONCAKE_REVOKE_GRANT;
	s->grant = grant(w.fd, w.buffer, w.other, RO).grant;
}
static void valid_revoke_named(void *arg)
{
	S(revoke);
	s->flags = MOONCAKE_REVOKE_NAMED;
	s->uid = MOONCAKE_UID_SELF;
	s->name = PTR(the_name);
	s->name_length = sizeof(the_name) - 1;
}
static void undo_revoke_named(const void *arg) /* it took our own use of it, too */
{
	(void)arg;
	destroy(w.fd, w.kept);
	w.kept = open_buffer(w.fd, the_name, 0).id;
}
static void valid_stat(void *arg)
{
	S(stat);
	s->id = w.buffer;
}
static void valid_copy(void *arg)
{
	S(copy);
	s->dst_id = w.buffer;
	s->src_id = w.kept;
	s->length = 2 * PAGE;
}
static void valid_destroy(void *arg)
{
	S(destroy);
	s->id = alloc_buffer(w.fd, PAGE).id;
}
#undef S

#define SIZED(type)	 sizeof(struct mooncake_##type)
#define FIELD(type, f)	 offsetof(struct mooncake_##type, f)

static const struct call query_call = {"QUERY", MOONCAKE_QUERY, SIZED(query), valid_query, NULL, 0, 0, 0, 0, 0},
	alloc_call = {"BUFFER_ALLOC", MOONCAKE_BUFFER_ALLOC, SIZED(buffer_alloc), valid_alloc, undo_alloc, 3,
		      FIELD(buffer_alloc, reserved), FIELD(buffer_alloc, length), 0, 0},
	keep_call = {"BUFFER_ALLOC, kept", MOONCAKE_BUFFER_ALLOC, SIZED(buffer_alloc), valid_keep, undo_keep, 3,
		     FIELD(buffer_alloc, reserved), FIELD(buffer_alloc, length), 0, 0},
	open_call = {"BUFFER_OPEN", MOONCAKE_BUFFER_OPEN, SIZED(buffer_open), valid_open, undo_open, 3, 0,
		     FIELD(buffer_open, name_length), 0, 0},
	open_key_call = {"BUFFER_OPEN by key", MOONCAKE_BUFFER_OPEN, SIZED(buffer_open), valid_open_key, undo_open, 3,
			 0, FIELD(buffer_open, uid), 1, 0},
	unlink_call = {"BUFFER_UNLINK", MOONCAKE_BUFFER_UNLINK, SIZED(buffer_unlink), valid_unlink, undo_unlink, 1, 0,
		       FIELD(buffer_unlink, name_length), 0, 0},
	unlink_key_call = {"BUFFER_UNLINK by key", MOONCAKE_BUFFER_UNLINK, SIZED(buffer_unlink), valid_unlink_key,
			   undo_unlink, 1, 0, FIELD(buffer_unlink, uid), 1, 0},
	pin_call = {"REGION_PIN", MOONCAKE_REGION_PIN, SIZED(region_pin), valid_pin, undo_pin, 0,
		    FIELD(region_pin, reserved), FIELD(region_pin, length), 0, 0},
	import_call = {"REGION_IMPORT", MOONCAKE_REGION_IMPORT, SIZED(region_import), valid_import, NULL, 0, 0, 0, 0, 0},
	bar_call = {"REGION_BAR", MOONCAKE_REGION_BAR, SIZED(region_bar), valid_bar, NULL, 1,
		    FIELD(region_bar, reserved), 0, 0, 0},
	cxl_call = {"REGION_CXL", MOONCAKE_REGION_CXL, SIZED(region_cxl), valid_cxl, NULL, 1,
		    FIELD(region_cxl, reserved), FIELD(region_cxl, length), 0, 0},
	cxl_mapped_call = {"REGION_CXL, mapped", MOONCAKE_REGION_CXL, SIZED(region_cxl), valid_cxl_mapped, NULL, 1,
			   FIELD(region_cxl, reserved), FIELD(region_cxl, length), 0, 0},
	export_call = {"EXPORT", MOONCAKE_EXPORT, SIZED(export), valid_export, undo_export, 1, 0, 0, 0,
		       FIELD(export, id)},
	grant_call = {"GRANT", MOONCAKE_GRANT, SIZED(grant), valid_grant, undo_grant, 0, FIELD(grant, reserved),
		      FIELD(grant, rights), 0, FIELD(grant, id)},
	attach_call = {"ATTACH", MOONCAKE_ATTACH, SIZED(attach), valid_attach, undo_attach, 0, 0, 0, 0, 0},
	revoke_call = {"REVOKE", MOONCAKE_REVOKE, SIZED(revoke), valid_revoke, NULL, 7, 0, 0, 0, FIELD(revoke, id)},
	revoke_grant_call = {"REVOKE of a grant", MOONCAKE_REVOKE, SIZED(revoke), valid_revoke_grant, NULL, 7, 0,
			     FIELD(revoke, id), 1, FIELD(revoke, grant)},
	revoke_named_call = {"REVOKE by name", MOONCAKE_REVOKE, SIZED(revoke), valid_revoke_named, undo_revoke_named, 7, 0,
			     FIELD(revoke, name_length), 0, 0},
	stat_call = {"STAT", MOONCAKE_STAT, SIZED(stat), valid_stat, NULL, 0, FIELD(stat, reserved), 0, 0,
		     FIELD(stat, id)},
	copy_call = {"COPY", MOONCAKE_COPY, SIZED(copy), valid_copy, NULL, 0, 0, FIELD(copy, length), 0,
		     FIELD(copy, src_id)},
	destroy_call = {"DESTROY", MOONCAKE_DESTROY, SIZED(destroy), valid_destroy, NULL, 0,
			FIELD(destroy, reserved), 0, 0, FIELD(destroy, id)};

static const struct call *const calls[] = {
	&query_call, &alloc_call, &keep_call, &open_call, &open_key_call, &unlink_call, &unlink_key_call, &pin_call,
	&import_call, &bar_call, &cxl_call, &cxl_mapped_call, &export_call, &grant_call, &attach_call, &revoke_call,
	&revoke_grant_call, &revoke_named_call, &stat_call, &copy_call, &destroy_call,
};

static uint64_t feature_of(const struct call *c)
{
	switch (c->cmd) {
	case MOONCAKE_REGION_PIN: return MOONCAKE_FEATURE_PIN;
	case MOONCAKE_REGION_IMPORT: return MOONCAKE_FEATURE_IMPORT;
	case MOONCAKE_REGION_BAR: return MOONCAKE_FEATURE_BAR;
	case MOONCAKE_REGION_CXL: return MOONCAKE_FEATURE_CXL;
	case MOONCAKE_EXPORT: return MOONCAKE_FEATURE_EXPORT;
	default: return 0;
	}
}

/* What this module was built without needs no valid call; all others must have one that succeeds here. */
static int absent(const struct call *c) { return feature_of(c) && !has_feature(w.fd, feature_of(c)); }
static int needs_hardware(const struct call *c)
{
	return c->cmd == MOONCAKE_REGION_IMPORT || c->cmd == MOONCAKE_REGION_BAR || c->cmd == MOONCAKE_REGION_CXL;
}

/* The call with everything right succeeds: without this, the cases below would prove nothing. */
static void expect_valid(const struct call *c)
{
	uint8_t arg[MAX_STRUCT];

	if (absent(c) || needs_hardware(c))
		return;
	c->valid(arg);
	if (make(c, arg))
		FAIL("%s, all valid: %s", c->name, strerror(errno));
	if (c->undo)
		c->undo(arg);
}

static void expect(const struct call *c, const char *what, void *arg, int error)
{
	uint8_t before[MAX_STRUCT];
	long r;

	memcpy(before, arg, c->size);
	r = make(c, arg);
	if (r == 0)
		FAIL("%s, %s: succeeded, not %s", c->name, what, strerror(error));
	if (errno != error)
		FAIL("%s, %s: %s, not %s", c->name, what, strerror(errno), strerror(error));
	if (memcmp(before, arg, c->size))
		FAIL("%s, %s: failed, and wrote outputs", c->name, what);
}

/* A patch of one field of a valid call. */
struct patch {
	const char *what;
	int offset, width;
	uint64_t value;
	int error;
};

static void patch(void *arg, int offset, int width, uint64_t value)
{
	memcpy((char *)arg + offset, &value, width); /* little-endian, as all machines with this module */
}

static void each(const struct call *c, const struct patch *p, size_t n)
{
	if (absent(c)) {
		printf("  %s: not in this module\n", c->name);
		return;
	}
	expect_valid(c);
	for (; n--; p++) {
		uint8_t arg[MAX_STRUCT];

		c->valid(arg);
		patch(arg, p->offset, p->width, p->value);
		expect(c, p->what, arg, p->error);
	}
	expect_valid(c);
}

#define F(type, f)	  (int)offsetof(struct mooncake_##type, f), (int)sizeof(((struct mooncake_##type *)0)->f)
#define EACH(call, ...)                                                                                      \
	do {                                                                                                 \
		world();                                                                                     \
		const struct patch cases_[] = {__VA_ARGS__};                                                 \
		each(&call, cases_, ARRAY_SIZE(cases_));                                                     \
		world_end();                                                                                 \
	} while (0)

/* ---- what holds for every call ---- */

static void test_unknown_call_is_enotty(void)
{
	uint8_t arg[256] = {128};
	int fd = device();

	CHECK_ERR(ioctl(fd, _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_BASE - 1), arg), ENOTTY);
	CHECK_ERR(ioctl(fd, _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_DESTROY + 1), arg), ENOTTY);
	CHECK_ERR(ioctl(fd, _IO(MOONCAKE_IOC_MAGIC, 0), arg), ENOTTY);
	CHECK_ERR(ioctl(fd, _IO(MOONCAKE_IOC_MAGIC, 0xff), arg), ENOTTY);
	CHECK_ERR(ioctl(fd, _IO(MOONCAKE_IOC_MAGIC - 1, MOONCAKE_CMD_QUERY), arg), ENOTTY);
	/* Numbers carry neither size nor direction. */
	CHECK_ERR(ioctl(fd, _IOWR(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_QUERY, struct mooncake_query), arg), ENOTTY);
	CHECK_ERR(ioctl(fd, _IOC(_IOC_NONE, MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_QUERY, 8), arg), ENOTTY);
}

static void test_smaller_than_the_first_release_is_einval(void)
{
	static const int less[] = {1, 4, 8};

	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		uint8_t arg[MAX_STRUCT];

		for (size_t k = 0; k < ARRAY_SIZE(less); k++) {
			calls[i]->valid(arg);
			patch(arg, 0, 4, calls[i]->size - less[k]);
			expect(calls[i], "size too small", arg, EINVAL);
		}
		calls[i]->valid(arg);
		patch(arg, 0, 4, 0);
		expect(calls[i], "size 0", arg, EINVAL);
	}
	world_end();
}

static void test_larger_struct_with_zero_tail_is_accepted(void)
{
	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		uint8_t arg[PAGE] = {0};

		if (absent(calls[i]) || needs_hardware(calls[i]))
			continue;
		calls[i]->valid(arg);
		patch(arg, 0, 4, calls[i]->size + 8);
		if (make(calls[i], arg))
			FAIL("%s with 8 bytes more: %s", calls[i]->name, strerror(errno));
		if (calls[i]->undo)
			calls[i]->undo(arg);
		calls[i]->valid(arg);
		patch(arg, 0, 4, sizeof(arg));
		if (make(calls[i], arg))
			FAIL("%s with %zu bytes: %s", calls[i]->name, sizeof(arg), strerror(errno));
		for (size_t k = calls[i]->size; k < sizeof(arg); k++)
			if (arg[k])
				FAIL("%s wrote past what it knows", calls[i]->name);
		if (calls[i]->undo)
			calls[i]->undo(arg);
	}
	world_end();
}

static void test_larger_struct_with_non_zero_tail_is_e2big(void)
{
	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		static uint8_t arg[PAGE];
		size_t places[] = {calls[i]->size, calls[i]->size + 7, sizeof(arg) - 1};

		for (size_t k = 0; k < ARRAY_SIZE(places); k++) {
			memset(arg, 0, sizeof(arg));
			calls[i]->valid(arg);
			patch(arg, 0, 4, sizeof(arg));
			arg[places[k]] = 1;
			expect(calls[i], "one byte of the tail", arg, E2BIG);
		}
	}
	world_end();
}

static void test_struct_out_of_reach_is_efault(void)
{
	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		const struct call *c = calls[i];
		char *end = w.memory + 15 * PAGE;
		uint8_t arg[MAX_STRUCT];

		CHECK_ERR(make(c, NULL), EFAULT);
		CHECK_ERR(make(c, (void *)(uintptr_t)0xffff800000000000ull), EFAULT);
		CHECK_ERR(make(c, end), EFAULT);
		c->valid(arg);
		memcpy(end - c->size + 4, arg, c->size - 4);
		CHECK_ERR(make(c, end - c->size + 4), EFAULT); /* the last four bytes are not there */
		memcpy(end - c->size, arg, c->size);
		patch(end - c->size, 0, 4, c->size + 8);
		CHECK_ERR(make(c, end - c->size), EFAULT); /* the tail is not there */
	}
	world_end();
}

static void test_unknown_flag_is_eopnotsupp(void)
{
	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		for (int bit = 0; bit < 32; bit++) {
			uint8_t arg[MAX_STRUCT];
			uint32_t flags;

			if (calls[i]->known_flags & 1u << bit)
				continue;
			calls[i]->valid(arg);
			memcpy(&flags, arg + 4, 4);
			patch(arg, 4, 4, flags | 1u << bit);
			expect(calls[i], "unknown flag", arg, EOPNOTSUPP);
		}
	world_end();
}

static void test_reserved_field_is_einval(void)
{
	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		for (int bit = 0; calls[i]->reserved && bit < 32; bit++) {
			uint8_t arg[MAX_STRUCT];

			calls[i]->valid(arg);
			patch(arg, calls[i]->reserved, 4, 1u << bit);
			expect(calls[i], "reserved field", arg, EINVAL);
		}
	world_end();
}

static void test_unknown_id_is_enoent(void)
{
	static const uint32_t ids[] = {0, 9999, 0x7fffffff, 0x80000000, 0xffffffff};

	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		for (size_t k = 0; calls[i]->bad_id && k < ARRAY_SIZE(ids); k++) {
			uint8_t arg[MAX_STRUCT];

			if (absent(calls[i]))
				continue;
			calls[i]->valid(arg);
			patch(arg, calls[i]->bad_id, 4, ids[k]);
			expect(calls[i], "unknown id", arg, ENOENT);
		}
	world_end();
}

static void test_ids_of_another_context_mean_nothing(void)
{
	world();
	for (int i = 0; i < 40; i++)
		alloc_buffer(w.other, PAGE);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		uint8_t arg[MAX_STRUCT];

		if (!calls[i]->bad_id || absent(calls[i]))
			continue;
		calls[i]->valid(arg);
		patch(arg, calls[i]->bad_id, 4, 40); /* lives in the other one */
		expect(calls[i], "an id of another context", arg, ENOENT);
	}
	world_end();
}

/* With two faults the earlier check reports: size, flags, reserved, values, ids. */
static void test_checks_are_made_in_order(void)
{
	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		const struct call *c = calls[i];
		static uint8_t arg[PAGE];

		memset(arg, 0, sizeof(arg));
		c->valid(arg);
		if (c->bad_id)
			patch(arg, c->bad_id, 4, 9999);
		if (c->bad_value && c->bad_value != c->bad_id) {
			int wide = c->cmd == MOONCAKE_BUFFER_ALLOC || c->cmd == MOONCAKE_REGION_PIN ||
				   c->cmd == MOONCAKE_REGION_CXL || c->cmd == MOONCAKE_COPY;

			patch(arg, c->bad_value, wide ? 8 : 4, c->bad);
			if (!absent(c))
				expect(c, "a bad value and a bad id", arg, EINVAL);
		}
		patch(arg, 4, 4, 1u << 31);
		if (c->reserved)
			patch(arg, c->reserved, 4, 1);
		expect(c, "flags before all but size", arg, EOPNOTSUPP);
		patch(arg, 0, 4, c->size - 4);
		expect(c, "size before flags", arg, EINVAL);
		patch(arg, 0, 4, c->size + 8);
		arg[c->size + 1] = 1;
		expect(c, "size before flags", arg, E2BIG);
	}
	world_end();
}

/* ---- call by call ---- */

static void test_buffer_alloc(void)
{
	EACH(alloc_call, {"length 0", F(buffer_alloc, length), 0, EINVAL},
	     {"length above the most", F(buffer_alloc, length), MOONCAKE_LENGTH_MAX + 1, EINVAL},
	     {"length that wraps when rounded", F(buffer_alloc, length), UINT64_MAX, EINVAL},
	     {"length that wraps when rounded", F(buffer_alloc, length), UINT64_MAX - PAGE + 2, EINVAL},
	     {"length negative", F(buffer_alloc, length), 1ull << 63, EINVAL},
	     {"node -2", F(buffer_alloc, numa_node), -2, EINVAL},
	     {"node that no machine has", F(buffer_alloc, numa_node), 1 << 20, EINVAL},
	     {"node beyond all bits", F(buffer_alloc, numa_node), 0x7fffffff, EINVAL},
	     {"the least node", F(buffer_alloc, numa_node), 0x80000000, EINVAL},
	     {"node that this machine lacks", F(buffer_alloc, numa_node), 63, EINVAL},
	     {"a name without KEEP", F(buffer_alloc, name), PTR(the_name), EINVAL},
	     {"a name's length without KEEP", F(buffer_alloc, name_length), 3, EINVAL},
	     {"EXCLUSIVE without KEEP", F(buffer_alloc, flags), MOONCAKE_BUFFER_EXCLUSIVE, EINVAL});
}

static void test_buffer_alloc_kept(void)
{
	EACH(keep_call, {"empty name", F(buffer_alloc, name_length), 0, EINVAL},
	     {"name too long", F(buffer_alloc, name_length), MOONCAKE_NAME_MAX + 1, EINVAL},
	     {"name far too long", F(buffer_alloc, name_length), UINT32_MAX, EINVAL},
	     {"no name", F(buffer_alloc, name), 0, EFAULT},
	     {"name out of reach", F(buffer_alloc, name), PTR(w.memory + 15 * PAGE), EFAULT},
	     {"name half out of reach", F(buffer_alloc, name), PTR(w.memory + 15 * PAGE - 4), EFAULT},
	     {"name in the kernel", F(buffer_alloc, name), 0xffff888000001000ull, EFAULT},
	     {"length 0", F(buffer_alloc, length), 0, EINVAL},
	     {"node that this machine lacks", F(buffer_alloc, numa_node), 63, EINVAL});
}

static void test_names_are_of_safe_bytes(void)
{
	static const char *const bad[] = {"", ".", "..", ".hidden", "a/b", "a b", "a\nb", "a:b", "a\\b", "\xc3\xa9", "a%", "~"};
	static const char *const good[] = {"a", "A-Z_0.9", "-", "_", "0", "a..b", "a."};
	char longest[MOONCAKE_NAME_MAX + 2];
	struct mooncake_buffer_alloc a;
	struct mooncake_buffer_open o;
	int fd = device();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CHECK_ERR(try_keep(fd, bad[i], PAGE, 0, &a), EINVAL);
		CHECK_ERR(try_open(fd, bad[i], MOONCAKE_UID_SELF, 0, &o), EINVAL);
		CHECK_ERR(try_unlink(fd, bad[i]), EINVAL);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		keep_buffer(fd, good[i], PAGE, 0);
		unlink_buffer(fd, good[i]);
	}
	memset(longest, 'x', sizeof(longest));
	longest[MOONCAKE_NAME_MAX + 1] = 0;
	CHECK_ERR(try_keep(fd, longest, PAGE, 0, &a), EINVAL);
	CHECK_ERR(try_open(fd, longest, MOONCAKE_UID_SELF, 0, &o), EINVAL);
	CHECK_ERR(try_unlink(fd, longest), EINVAL);
	longest[MOONCAKE_NAME_MAX] = 0;
	keep_buffer(fd, longest, PAGE, 0);
	unlink_buffer(fd, longest);
	/* A zero byte is a byte like others, and not allowed. */
	a = (struct mooncake_buffer_alloc)STRUCT(buffer_alloc);
	a.flags = MOONCAKE_BUFFER_KEEP;
	a.length = PAGE;
	a.numa_node = -1;
	a.name = PTR("ab");
	a.name_length = 3;
	CHECK_ERR(ioctl(fd, MOONCAKE_BUFFER_ALLOC, &a), EINVAL);
}

static void test_name_taken_is_eexist(void)
{
	struct mooncake_buffer_alloc a;

	world();
	CHECK_ERR(try_keep(w.fd, the_name, PAGE, 0, &a), EEXIST);
	CHECK_ERR(try_keep(w.other, the_name, PAGE, 0, &a), EEXIST);
	world_end();
}

static void test_buffer_open(void)
{
	EACH(open_call, {"a user with no such buffer", F(buffer_open, uid), 4242, ENOENT},
	     {"shorter name", F(buffer_open, name_length), sizeof(the_name) - 2, ENOENT},
	     {"empty name", F(buffer_open, name_length), 0, EINVAL},
	     {"name too long", F(buffer_open, name_length), MOONCAKE_NAME_MAX + 1, EINVAL},
	     {"no name", F(buffer_open, name), 0, EFAULT},
	     {"name out of reach", F(buffer_open, name), PTR(w.memory + 15 * PAGE), EFAULT},
	     {"a key without BY_KEY", F(buffer_open, keep_key[0]), 1, EINVAL},
	     {"a key without BY_KEY", F(buffer_open, keep_key[15]), 0x80, EINVAL});
}

static void test_buffer_open_by_key(void)
{
	EACH(open_key_call, {"user given", F(buffer_open, uid), 1, EINVAL},
	     {"user given", F(buffer_open, uid), MOONCAKE_UID_SELF, EINVAL},
	     {"name given", F(buffer_open, name), PTR(the_name), EINVAL},
	     {"name's length given", F(buffer_open, name_length), 1, EINVAL},
	     {"wrong key", F(buffer_open, keep_key[0]), (uint8_t)~w.keep_key[0], ENOENT},
	     {"wrong key", F(buffer_open, keep_key[15]), (uint8_t)~w.keep_key[15], ENOENT});
}

static void test_zero_key_opens_nothing(void)
{
	static const uint8_t zero[MOONCAKE_KEY_SIZE];
	struct mooncake_buffer_open o;
	struct mooncake_attach a;

	world();
	CHECK_ERR(try_open_key(w.fd, zero, 0, &o), ENOENT);
	CHECK_ERR(try_attach(w.fd, zero, &a), ENOENT);
	world_end();
}

static void test_buffer_unlink(void)
{
	EACH(unlink_call, {"a user with no such buffer", F(buffer_unlink, uid), 4242, ENOENT},
	     {"shorter name", F(buffer_unlink, name_length), sizeof(the_name) - 2, ENOENT},
	     {"empty name", F(buffer_unlink, name_length), 0, EINVAL},
	     {"name too long", F(buffer_unlink, name_length), MOONCAKE_NAME_MAX + 1, EINVAL},
	     {"no name", F(buffer_unlink, name), 0, EFAULT},
	     {"name out of reach", F(buffer_unlink, name), PTR(w.memory + 15 * PAGE), EFAULT},
	     {"a key without BY_KEY", F(buffer_unlink, keep_key[7]), 1, EINVAL});
}

static void test_buffer_unlink_by_key(void)
{
	EACH(unlink_key_call, {"user given", F(buffer_unlink, uid), 1, EINVAL},
	     {"name given", F(buffer_unlink, name), PTR(the_name), EINVAL},
	     {"name's length given", F(buffer_unlink, name_length), 1, EINVAL},
	     {"wrong key", F(buffer_unlink, keep_key[15]), (uint8_t)~w.keep_key[15], ENOENT});
}

static void test_region_pin(void)
{
	EACH(pin_call, {"length 0", F(region_pin, length), 0, EINVAL},
	     {"length not whole pages", F(region_pin, length), PAGE + 1, EINVAL},
	     {"length above the most", F(region_pin, length), MOONCAKE_LENGTH_MAX + PAGE, EINVAL},
	     {"address within a page", F(region_pin, addr), PTR(w.memory) + 8, EINVAL},
	     {"address + length past 64 bits", F(region_pin, addr), UINT64_MAX - 2 * PAGE + 1, EOVERFLOW},
	     {"address 0", F(region_pin, addr), 0, EFAULT},
	     {"address in the kernel", F(region_pin, addr), 0xffff888000001000ull, EFAULT},
	     {"nothing mapped there", F(region_pin, addr), PTR(w.memory + 15 * PAGE), EFAULT},
	     {"the end is not mapped", F(region_pin, addr), PTR(w.memory + 13 * PAGE), EFAULT});
}

static void test_region_import(void)
{
	int null = open("/dev/null", O_RDWR), closed = 900;

	EACH(import_call, {"descriptor -1", F(region_import, fd), -1, EBADF},
	     {"descriptor closed", F(region_import, fd), closed, EBADF},
	     {"descriptor beyond all", F(region_import, fd), 0x7fffffff, EBADF},
	     {"not a dma-buf", F(region_import, fd), null, EINVAL},
	     {"our own context", F(region_import, fd), w.fd, EINVAL});
}

static void test_region_bar(void)
{
	EACH(bar_call, {"no such domain", F(region_bar, domain), 0xffff, ENODEV},
	     {"no such domain", F(region_bar, domain), UINT32_MAX, ENODEV},
	     {"device number above 31", F(region_bar, device), 32, EINVAL},
	     {"function above 7", F(region_bar, function), 8, EINVAL},
	     {"BAR 6", F(region_bar, bar), 6, EINVAL}, {"BAR 255", F(region_bar, bar), 255, EINVAL},
	     {"offset not whole pages", F(region_bar, offset), 8, EINVAL},
	     {"length not whole pages", F(region_bar, length), 8, EINVAL});
}

static void test_region_bar_arithmetic(void)
{
	struct mooncake_region_bar b = STRUCT(region_bar);
	int fd = device();

	if (!has_feature(fd, MOONCAKE_FEATURE_BAR))
		SKIP("no REGION_BAR in this module");
	b.domain = 0xffff;
	b.offset = UINT64_MAX - PAGE + 1;
	b.length = 2 * PAGE;
	CHECK_ERR(ioctl(fd, MOONCAKE_REGION_BAR, &b), EOVERFLOW);
}

static void test_region_cxl(void)
{
	EACH(cxl_call, /* windows come in 2 MiB */ {"no window there", F(region_cxl, start), 1ull << 46, EACCES},
	     {"length 0", F(region_cxl, length), 0, EINVAL},
	     {"length not whole pages", F(region_cxl, length), PAGE + 1, EINVAL},
	     {"start within a page", F(region_cxl, start), 8, EINVAL},
	     {"start + length past 64 bits", F(region_cxl, start), UINT64_MAX - (2 << 20) + 1, EOVERFLOW},
	     {"RAM", F(region_cxl, start), 16ull << 20, EACCES},
	     {"the local APIC", F(region_cxl, start), 0xfee00000, EACCES});
}

static void test_region_cxl_mapped(void)
{
	EACH(cxl_mapped_call, {"not a dax device", F(region_cxl, start), PTR(w.memory), EOPNOTSUPP},
	     {"length 0", F(region_cxl, length), 0, EINVAL},
	     {"length not whole pages", F(region_cxl, length), 8, EINVAL},
	     {"start within a page", F(region_cxl, start), PTR(w.memory) + 1, EINVAL},
	     {"start + length past 64 bits", F(region_cxl, start), UINT64_MAX - PAGE + 1, EOVERFLOW});
}

static void test_export(void)
{
	EACH(export_call, {"unknown id", F(export, id), 12345, ENOENT});
}

static void test_export_to_write_of_a_read_attachment_is_eacces(void)
{
	uint32_t id;

	world();
	if (!has_feature(w.fd, MOONCAKE_FEATURE_EXPORT))
		SKIP("no EXPORT in this module");
	id = share(w.other, alloc_buffer(w.other, PAGE).id, w.fd, RO).id;
	CHECK_ERR(try_export(w.fd, id, MOONCAKE_EXPORT_WRITE), EACCES);
	CHECK(try_export(w.fd, id, 0) >= 0);
	world_end();
}

static void test_grant(void)
{
	uint8_t self[MOONCAKE_KEY_SIZE];
	struct mooncake_grant g;

	EACH(grant_call, {"no rights", F(grant, rights), 0, EINVAL},
	     {"WRITE alone", F(grant, rights), MOONCAKE_RIGHT_WRITE, EINVAL},
	     {"unknown right", F(grant, rights), RW | 4, EINVAL},
	     {"unknown right", F(grant, rights), RO | 1u << 31, EINVAL},
	     {"offset not whole pages", F(grant, offset), 8, EINVAL},
	     {"length not whole pages", F(grant, length), PAGE + 8, EINVAL},
	     {"offset at the end", F(grant, offset), 4 * PAGE, EINVAL},
	     {"offset past the end", F(grant, offset), 5 * PAGE, EINVAL},
	     {"length past the end", F(grant, length), 5 * PAGE, EINVAL},
	     {"an expiry in the past", F(grant, expiry_ns), 1, EINVAL},
	     {"an expiry now", F(grant, expiry_ns), boottime_ns(), EINVAL},
	     {"no use", F(grant, uses), 0, EINVAL}, {"unknown id", F(grant, id), 9999, ENOENT},
	     {"an attachment", F(grant, id), w.attachment, EOPNOTSUPP});
	/* What needs two fields. */
	world();
	g = grant_for(w.other, w.buffer, RW);
	g.offset = UINT64_MAX - PAGE + 1;
	g.length = 2 * PAGE;
	CHECK_ERR(ioctl(w.fd, MOONCAKE_GRANT, &g), EOVERFLOW);
	g = grant_for(w.other, w.buffer, RW);
	g.offset = PAGE;
	g.length = 4 * PAGE;
	CHECK_ERR(ioctl(w.fd, MOONCAKE_GRANT, &g), EINVAL);
	g = grant_for(w.other, w.buffer, RW);
	context_id(w.fd, self);
	memcpy(g.context_id, self, sizeof(self));
	CHECK_ERR(ioctl(w.fd, MOONCAKE_GRANT, &g), EINVAL);
	if (w.pin) {
		g = grant_for(w.other, w.pin, RW);
		CHECK_ERR(ioctl(w.fd, MOONCAKE_GRANT, &g), EOPNOTSUPP);
	}
	world_end();
}

static void test_attach(void)
{
	struct mooncake_attach a;
	struct mooncake_grant g;

	world();
	expect_valid(&attach_call);
	g = grant(w.fd, w.buffer, w.other, RW);
	for (int i = 0; i < MOONCAKE_KEY_SIZE; i++) {
		uint8_t key[MOONCAKE_KEY_SIZE];

		memcpy(key, g.key, sizeof(key));
		key[i] ^= 1;
		CHECK_ERR(try_attach(w.other, key, &a), ENOENT);
	}
	CHECK_ERR(try_attach(w.fd, g.key, &a), ENOENT); /* made out to another */
	attach(w.other, g.key);
	CHECK_ERR(try_attach(w.other, g.key, &a), ENOENT); /* spent */
	world_end();
}

static void test_revoke(void)
{
	EACH(revoke_call, {"unknown id", F(revoke, id), 9999, ENOENT},
	     {"an attachment", F(revoke, id), w.attachment, EOPNOTSUPP},
	     {"a grant and a name", F(revoke, flags), MOONCAKE_REVOKE_GRANT | MOONCAKE_REVOKE_NAMED, EINVAL});
}

static void test_revoke_of_a_grant(void)
{
	EACH(revoke_grant_call, {"unknown grant", F(revoke, grant), 123456, ENOENT},
	     {"grant 0", F(revoke, grant), 0, ENOENT}, {"grant beyond all", F(revoke, grant), UINT64_MAX, ENOENT},
	     {"an id as well", F(revoke, id), w.buffer, EINVAL});
}

static void test_revoke_by_name(void)
{
	EACH(revoke_named_call, {"a user with no such buffer", F(revoke, uid), 4242, ENOENT},
	     {"shorter name", F(revoke, name_length), sizeof(the_name) - 2, ENOENT},
	     {"empty name", F(revoke, name_length), 0, EINVAL},
	     {"name too long", F(revoke, name_length), MOONCAKE_NAME_MAX + 1, EINVAL},
	     {"no name", F(revoke, name), 0, EFAULT},
	     {"name out of reach", F(revoke, name), PTR(w.memory + 15 * PAGE), EFAULT});
}

static void test_revoke_with_replace_is_for_buffers(void)
{
	struct mooncake_revoke r;

	world();
	if (!w.pin)
		SKIP("no REGION_PIN in this module");
	CHECK_ERR(try_revoke(w.fd, w.pin, MOONCAKE_REVOKE_REPLACE, &r), EOPNOTSUPP);
	world_end();
}

static void test_stat(void)
{
	struct mooncake_stat s = STRUCT(stat);

	EACH(stat_call, {"unknown id", F(stat, id), 9999, ENOENT});
	world();
	s.id = w.buffer;
	s.node_count = 4;
	s.nodes = PTR(w.memory + 15 * PAGE);
	CHECK_ERR(ioctl(w.fd, MOONCAKE_STAT, &s), EFAULT);
	s.nodes = 0xffff888000001000ull;
	CHECK_ERR(ioctl(w.fd, MOONCAKE_STAT, &s), EFAULT);
	s.node_count = UINT32_MAX;
	s.nodes = PTR(w.memory);
	CHECK(ioctl(w.fd, MOONCAKE_STAT, &s) == 0); /* as many as there are */
	CHECK(s.node_count >= 1 && s.node_count <= 1024);
	world_end();
}

static void test_copy(void)
{
	uint32_t ro;

	EACH(copy_call, {"length 0", F(copy, length), 0, EINVAL},
	     {"unknown destination", F(copy, dst_id), 9999, ENOENT}, {"unknown source", F(copy, src_id), 9999, ENOENT},
	     {"destination offset + length past 64 bits", F(copy, dst_offset), UINT64_MAX - PAGE, EOVERFLOW},
	     {"source offset + length past 64 bits", F(copy, src_offset), UINT64_MAX - PAGE, EOVERFLOW},
	     {"length past the end", F(copy, length), 2 * PAGE + 1, EINVAL},
	     {"length beyond all", F(copy, length), UINT64_MAX, EINVAL},
	     {"destination past its end", F(copy, dst_offset), 2 * PAGE + 1, EINVAL},
	     {"source past its end", F(copy, src_offset), 1, EINVAL},
	     {"both the same place", F(copy, src_id), w.buffer, EINVAL});
	world();
	CHECK_ERR(try_copy(w.fd, w.buffer, PAGE, w.buffer, 1, PAGE), EINVAL); /* overlap by a byte */
	CHECK(try_copy(w.fd, w.buffer, PAGE, w.buffer, 0, PAGE) == 0);
	ro = share(w.other, alloc_buffer(w.other, PAGE).id, w.fd, RO).id;
	CHECK_ERR(try_copy(w.fd, ro, 0, w.buffer, 0, PAGE), EACCES);
	CHECK(try_copy(w.fd, w.buffer, 0, ro, 0, PAGE) == 0);
	world_end();
}

static void test_destroy(void)
{
	uint32_t id;

	EACH(destroy_call, {"unknown id", F(destroy, id), 9999, ENOENT}, {"id 0", F(destroy, id), 0, ENOENT});
	world();
	id = alloc_buffer(w.fd, PAGE).id;
	destroy(w.fd, id);
	CHECK_ERR(try_destroy(w.fd, id), ENOENT);
	world_end();
}

static const struct test tests[] = {
	TEST(test_unknown_call_is_enotty),
	TEST(test_smaller_than_the_first_release_is_einval),
	TEST(test_larger_struct_with_zero_tail_is_accepted),
	TEST(test_larger_struct_with_non_zero_tail_is_e2big),
	TEST(test_struct_out_of_reach_is_efault),
	TEST(test_unknown_flag_is_eopnotsupp),
	TEST(test_reserved_field_is_einval),
	TEST(test_unknown_id_is_enoent),
	TEST(test_ids_of_another_context_mean_nothing),
	TEST(test_checks_are_made_in_order),
	TEST(test_buffer_alloc),
	TEST(test_buffer_alloc_kept),
	TEST(test_names_are_of_safe_bytes),
	TEST(test_name_taken_is_eexist),
	TEST(test_buffer_open),
	TEST(test_buffer_open_by_key),
	TEST(test_zero_key_opens_nothing),
	TEST(test_buffer_unlink),
	TEST(test_buffer_unlink_by_key),
	TEST(test_region_pin),
	TEST(test_region_import),
	TEST(test_region_bar),
	TEST(test_region_bar_arithmetic),
	TEST(test_region_cxl),
	TEST(test_region_cxl_mapped),
	TEST(test_export),
	TEST(test_export_to_write_of_a_read_attachment_is_eacces),
	TEST(test_grant),
	TEST(test_attach),
	TEST(test_revoke),
	TEST(test_revoke_of_a_grant),
	TEST(test_revoke_by_name),
	TEST(test_revoke_with_replace_is_for_buffers),
	TEST(test_stat),
	TEST(test_copy),
	TEST(test_destroy),
};

RUN_TESTS(tests)
