// SPDX-License-Identifier: MIT
/* vm: short */
/* What holds for every call: its size, its flags, its reserved fields, its ids, and the order of the checks.
 */
#include "errors.h"

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
	CHECK_ERR(ioctl(fd, _IOWR(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_QUERY, struct mooncake_query), arg),
		  ENOTTY);
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
	int step = slow() ? 5 : 1;

	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		for (int bit = i % step; bit < 32; bit += step) {
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
	int step = slow() ? 5 : 1;

	world();
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		for (int bit = i % step; calls[i]->reserved && bit < 32; bit += step) {
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
};

RUN_TESTS(tests)
