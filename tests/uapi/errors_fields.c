// SPDX-License-Identifier: MIT
/* vm: short */
/* Every field of every call: it alone is wrong, and the error is exactly that of the contract. */
#include "errors.h"

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
	static const char *const bad[] = {"",	  ".",	 "..",	 ".hidden",  "a/b", "a b",
					  "a\nb", "a:b", "a\\b", "\xc3\xa9", "a%",  "~"};
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
	struct mooncake_buffer_unlink s;

	EACH(unlink_key_call, {"user given", F(buffer_unlink, uid), 1, EINVAL},
	     {"name given", F(buffer_unlink, name), PTR(the_name), EINVAL},
	     {"name's length given", F(buffer_unlink, name_length), 1, EINVAL});
	world();
	valid_unlink_key(&s);
	s.keep_key[15] ^= 0xff;
	expect(&unlink_key_call, "wrong key", &s, ENOENT);
	world_end();
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
	EACH(cxl_call,
	     /* windows come in 2 MiB */ {"no window there", F(region_cxl, start), 1ull << 46, EACCES},
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

static void test_export(void) { EACH(export_call, {"unknown id", F(export, id), 12345, ENOENT}); }

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
	     {"grant 0", F(revoke, grant), 0, ENOENT},
	     {"grant beyond all", F(revoke, grant), UINT64_MAX, ENOENT},
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
	     {"unknown destination", F(copy, dst_id), 9999, ENOENT},
	     {"unknown source", F(copy, src_id), 9999, ENOENT},
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
