/* SPDX-License-Identifier: MIT */
/*
 * For the tests of errors: a description of every call, how to make it valid and what undoes it, and the
 * world that it is valid in. A case is one field of a valid call patched; what fails must write no output.
 */
#ifndef UAPI_ERRORS_H
#define UAPI_ERRORS_H

#include "uapi.h"

enum { MAX_STRUCT = 128 };

/* The world of one test: a buffer, a kept one, a second context, a grant for it and an attachment in it. */
static struct {
	int fd, other;
	uint32_t buffer, kept, attachment, pin; /* pin: 0 without the feature */
	uint32_t theirs;			/* a buffer of the other context */
	uint8_t keep_key[MOONCAKE_KEY_SIZE];
	struct mooncake_grant grant;
	char *memory; /* 16 pages of the process, the last one unmapped */
} w;

struct call {
	const char *name;
	unsigned long cmd;
	uint32_t size;
	void (*valid)(void *arg);      /* fill in a call that succeeds */
	void (*undo)(const void *arg); /* after it did */
	uint32_t known_flags;
	int reserved;  /* offset of the reserved field, 0: none */
	int bad_value; /* offset of a field, and a value that is EINVAL by itself; 0: none */
	uint64_t bad;
	int bad_id; /* offset of an id, 0: none */
};

static inline long make(const struct call *c, void *arg)
{
	errno = 0;
	return ioctl(w.fd, c->cmd, arg);
}

static inline void world(void)
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

static inline void world_end(void) { unlink_buffer(w.fd, KEPT "-errors"); }

static const char the_name[] = KEPT "-errors";

#define S(type)                          \
	struct mooncake_##type *s = arg; \
	*s = (struct mooncake_##type)STRUCT(type)
static inline void valid_query(void *arg) { S(query); }
static inline void valid_alloc(void *arg)
{
	S(buffer_alloc);
	s->length = 2 * PAGE;
	s->numa_node = -1;
}
static inline void undo_alloc(const void *arg)
{
	destroy(w.fd, ((const struct mooncake_buffer_alloc *)arg)->id);
}
static inline void valid_keep(void *arg)
{
	static const char name[] = KEPT "-errors-2";

	S(buffer_alloc);
	s->flags = MOONCAKE_BUFFER_KEEP;
	s->length = 2 * PAGE;
	s->numa_node = -1;
	s->name = PTR(name);
	s->name_length = sizeof(name) - 1;
}
static inline void undo_keep(const void *arg)
{
	undo_alloc(arg);
	unlink_buffer(w.fd, KEPT "-errors-2");
}
static inline void valid_open(void *arg)
{
	S(buffer_open);
	s->uid = MOONCAKE_UID_SELF;
	s->name = PTR(the_name);
	s->name_length = sizeof(the_name) - 1;
}
static inline void valid_open_key(void *arg)
{
	S(buffer_open);
	s->flags = MOONCAKE_OPEN_BY_KEY;
	memcpy(s->keep_key, w.keep_key, sizeof(s->keep_key));
}
static inline void undo_open(const void *arg)
{
	destroy(w.fd, ((const struct mooncake_buffer_open *)arg)->id);
}
static inline void valid_unlink(void *arg)
{
	S(buffer_unlink);
	s->uid = MOONCAKE_UID_SELF;
	s->name = PTR(the_name);
	s->name_length = sizeof(the_name) - 1;
}
static inline void valid_unlink_key(void *arg)
{
	S(buffer_unlink);
	s->flags = MOONCAKE_UNLINK_BY_KEY;
	memcpy(s->keep_key, w.keep_key, sizeof(s->keep_key));
}
static inline void undo_unlink(const void *arg)
{
	struct mooncake_buffer_alloc a;

	(void)arg;
	destroy(w.fd, w.kept);
	a = keep_buffer(w.fd, the_name, 2 * PAGE, 0);
	w.kept = a.id;
	memcpy(w.keep_key, a.keep_key, sizeof(w.keep_key));
}
static inline void valid_pin(void *arg)
{
	S(region_pin);
	s->addr = PTR(w.memory);
	s->length = 4 * PAGE;
}
static inline void undo_pin(const void *arg) { destroy(w.fd, ((const struct mooncake_region_pin *)arg)->id); }
static inline void valid_import(void *arg)
{
	S(region_import);
	s->fd = -1;
}
static inline void valid_bar(void *arg)
{
	S(region_bar);
	s->domain = 0xffff;
}
static inline void valid_cxl(void *arg)
{
	S(region_cxl);
	s->start = 1ull << 46;
	s->length = 2ull << 20;
}
static inline void valid_cxl_mapped(void *arg)
{
	S(region_cxl);
	s->flags = MOONCAKE_CXL_MAPPED;
	s->start = PTR(w.memory);
	s->length = 2 * PAGE;
}
static inline void valid_export(void *arg)
{
	S(export);
	s->id = w.buffer;
}
static inline void undo_export(const void *arg) { close(((const struct mooncake_export *)arg)->fd); }
static inline void valid_grant(void *arg)
{
	S(grant);
	*s = grant_for(w.other, w.buffer, RW);
}
static inline void undo_grant(const void *arg)
{
	CHECK(try_revoke_grant(w.fd, ((const struct mooncake_grant *)arg)->grant) == 0);
}
static inline void valid_attach(void *arg)
{
	S(attach);
	memcpy(s->key, grant(w.other, w.theirs, w.fd, RO).key, MOONCAKE_KEY_SIZE);
}
static inline void undo_attach(const void *arg) { destroy(w.fd, ((const struct mooncake_attach *)arg)->id); }
static inline void valid_revoke(void *arg)
{
	S(revoke);
	s->id = w.buffer;
}
static inline void valid_revoke_grant(void *arg)
{
	S(revoke);
	s->flags = MOONCAKE_REVOKE_GRANT;
	s->grant = grant(w.fd, w.buffer, w.other, RO).grant;
}
static inline void valid_revoke_named(void *arg)
{
	S(revoke);
	s->flags = MOONCAKE_REVOKE_NAMED;
	s->uid = MOONCAKE_UID_SELF;
	s->name = PTR(the_name);
	s->name_length = sizeof(the_name) - 1;
}
static inline void undo_revoke_named(const void *arg) /* it took our own use of it, too */
{
	(void)arg;
	destroy(w.fd, w.kept);
	w.kept = open_buffer(w.fd, the_name, 0).id;
}
static inline void valid_stat(void *arg)
{
	S(stat);
	s->id = w.buffer;
}
static inline void valid_copy(void *arg)
{
	S(copy);
	s->dst_id = w.buffer;
	s->src_id = w.kept;
	s->length = 2 * PAGE;
}
static inline void valid_destroy(void *arg)
{
	S(destroy);
	s->id = alloc_buffer(w.fd, PAGE).id;
}
#undef S

#define SIZED(type) sizeof(struct mooncake_##type)
#define FIELD(type, f) offsetof(struct mooncake_##type, f)

static const struct call
	query_call = {"QUERY", MOONCAKE_QUERY, SIZED(query), valid_query, NULL, 0, 0, 0, 0, 0},
	alloc_call = {"BUFFER_ALLOC",
		      MOONCAKE_BUFFER_ALLOC,
		      SIZED(buffer_alloc),
		      valid_alloc,
		      undo_alloc,
		      3,
		      FIELD(buffer_alloc, reserved),
		      FIELD(buffer_alloc, length),
		      0,
		      0},
	keep_call = {"BUFFER_ALLOC, kept",
		     MOONCAKE_BUFFER_ALLOC,
		     SIZED(buffer_alloc),
		     valid_keep,
		     undo_keep,
		     3,
		     FIELD(buffer_alloc, reserved),
		     FIELD(buffer_alloc, length),
		     0,
		     0},
	open_call = {"BUFFER_OPEN",
		     MOONCAKE_BUFFER_OPEN,
		     SIZED(buffer_open),
		     valid_open,
		     undo_open,
		     3,
		     0,
		     FIELD(buffer_open, name_length),
		     0,
		     0},
	open_key_call = {"BUFFER_OPEN by key",
			 MOONCAKE_BUFFER_OPEN,
			 SIZED(buffer_open),
			 valid_open_key,
			 undo_open,
			 3,
			 0,
			 FIELD(buffer_open, uid),
			 1,
			 0},
	unlink_call = {"BUFFER_UNLINK",
		       MOONCAKE_BUFFER_UNLINK,
		       SIZED(buffer_unlink),
		       valid_unlink,
		       undo_unlink,
		       1,
		       0,
		       FIELD(buffer_unlink, name_length),
		       0,
		       0},
	unlink_key_call = {"BUFFER_UNLINK by key",
			   MOONCAKE_BUFFER_UNLINK,
			   SIZED(buffer_unlink),
			   valid_unlink_key,
			   undo_unlink,
			   1,
			   0,
			   FIELD(buffer_unlink, uid),
			   1,
			   0},
	pin_call = {"REGION_PIN",
		    MOONCAKE_REGION_PIN,
		    SIZED(region_pin),
		    valid_pin,
		    undo_pin,
		    0,
		    FIELD(region_pin, reserved),
		    FIELD(region_pin, length),
		    0,
		    0},
	import_call = {"REGION_IMPORT",
		       MOONCAKE_REGION_IMPORT,
		       SIZED(region_import),
		       valid_import,
		       NULL,
		       0,
		       0,
		       0,
		       0,
		       0},
	bar_call = {"REGION_BAR",
		    MOONCAKE_REGION_BAR,
		    SIZED(region_bar),
		    valid_bar,
		    NULL,
		    1,
		    FIELD(region_bar, reserved),
		    0,
		    0,
		    0},
	cxl_call = {"REGION_CXL",
		    MOONCAKE_REGION_CXL,
		    SIZED(region_cxl),
		    valid_cxl,
		    NULL,
		    1,
		    FIELD(region_cxl, reserved),
		    FIELD(region_cxl, length),
		    0,
		    0},
	cxl_mapped_call = {"REGION_CXL, mapped",
			   MOONCAKE_REGION_CXL,
			   SIZED(region_cxl),
			   valid_cxl_mapped,
			   NULL,
			   1,
			   FIELD(region_cxl, reserved),
			   FIELD(region_cxl, length),
			   0,
			   0},
	export_call = {"EXPORT", MOONCAKE_EXPORT,  SIZED(export), valid_export, undo_export, 1, 0, 0,
		       0,	 FIELD(export, id)},
	grant_call = {"GRANT", MOONCAKE_GRANT,	       SIZED(grant),	     valid_grant, undo_grant,
		      0,       FIELD(grant, reserved), FIELD(grant, rights), 0,		  FIELD(grant, id)},
	attach_call = {"ATTACH", MOONCAKE_ATTACH, SIZED(attach), valid_attach, undo_attach, 0, 0, 0, 0, 0},
	revoke_call = {"REVOKE", MOONCAKE_REVOKE,  SIZED(revoke), valid_revoke, NULL, 7, 0, 0,
		       0,	 FIELD(revoke, id)},
	revoke_grant_call = {"REVOKE of a grant",
			     MOONCAKE_REVOKE,
			     SIZED(revoke),
			     valid_revoke_grant,
			     NULL,
			     7,
			     0,
			     FIELD(revoke, id),
			     1,
			     FIELD(revoke, grant)},
	revoke_named_call = {"REVOKE by name",
			     MOONCAKE_REVOKE,
			     SIZED(revoke),
			     valid_revoke_named,
			     undo_revoke_named,
			     7,
			     0,
			     FIELD(revoke, name_length),
			     0,
			     0},
	stat_call = {"STAT", MOONCAKE_STAT,	    SIZED(stat), valid_stat, NULL,
		     0,	     FIELD(stat, reserved), 0,		 0,	     FIELD(stat, id)},
	copy_call = {"COPY", MOONCAKE_COPY,	  SIZED(copy), valid_copy,	   NULL, 0,
		     0,	     FIELD(copy, length), 0,	       FIELD(copy, src_id)},
	destroy_call = {"DESTROY",
			MOONCAKE_DESTROY,
			SIZED(destroy),
			valid_destroy,
			NULL,
			0,
			FIELD(destroy, reserved),
			0,
			0,
			FIELD(destroy, id)};

static const struct call *const calls[] = {
	&query_call,	  &alloc_call, &keep_call,    &open_call,   &open_key_call,	&unlink_call,
	&unlink_key_call, &pin_call,   &import_call,  &bar_call,    &cxl_call,		&cxl_mapped_call,
	&export_call,	  &grant_call, &attach_call,  &revoke_call, &revoke_grant_call, &revoke_named_call,
	&stat_call,	  &copy_call,  &destroy_call,
};

static inline uint64_t feature_of(const struct call *c)
{
	switch (c->cmd) {
	case MOONCAKE_REGION_PIN:
		return MOONCAKE_FEATURE_PIN;
	case MOONCAKE_REGION_IMPORT:
		return MOONCAKE_FEATURE_IMPORT;
	case MOONCAKE_REGION_BAR:
		return MOONCAKE_FEATURE_BAR;
	case MOONCAKE_REGION_CXL:
		return MOONCAKE_FEATURE_CXL;
	case MOONCAKE_EXPORT:
		return MOONCAKE_FEATURE_EXPORT;
	default:
		return 0;
	}
}

/* What this module was built without needs no valid call; all others must have one that succeeds here. */
static inline int absent(const struct call *c) { return feature_of(c) && !has_feature(w.fd, feature_of(c)); }
static inline int needs_hardware(const struct call *c)
{
	return c->cmd == MOONCAKE_REGION_IMPORT || c->cmd == MOONCAKE_REGION_BAR ||
	       c->cmd == MOONCAKE_REGION_CXL;
}

/* The call with everything right succeeds: without this, the cases below would prove nothing. */
static inline void expect_valid(const struct call *c)
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

static inline void expect(const struct call *c, const char *what, void *arg, int error)
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

static inline void patch(void *arg, int offset, int width, uint64_t value)
{
	memcpy((char *)arg + offset, &value, width); /* little-endian, as all machines with this module */
}

static inline void each(const struct call *c, const struct patch *p, size_t n)
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

#define F(type, f) (int)offsetof(struct mooncake_##type, f), (int)sizeof(((struct mooncake_##type *)0)->f)
#define EACH(call, ...)                                      \
	do {                                                 \
		world();                                     \
		const struct patch cases_[] = {__VA_ARGS__}; \
		each(&call, cases_, ARRAY_SIZE(cases_));     \
		world_end();                                 \
	} while (0)

#endif
