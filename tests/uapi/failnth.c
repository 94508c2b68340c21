// SPDX-License-Identifier: MIT
/* vm: alone kernels=debug short seconds=900 */
/*
 * Systematic allocation failure: the first, the second, ... allocation within each call is made to fail,
 * until the call gets by without one left to fail. Each failure must unwind: an errno of the contract, and
 * nothing left behind. failnth [MODULE.ko]: with a path, loading of the module is tested as well (it is
 * unloaded first, and loaded at the end). Needs a kernel with CONFIG_FAULT_INJECTION.
 */
#define TEST_SECONDS 1500
#include "uapi.h"
#include <sys/syscall.h>
#include <sys/uio.h>

#define MIB (1ull << 20)
#define NTH "/proc/thread-self/fail-nth"

static struct {
	int fd, other;
	uint32_t buffer, small;
	uint8_t key[MOONCAKE_KEY_SIZE];
	uint64_t number;
	char *memory, *mapped;
	uint64_t offset, small_offset;
	uint32_t id; /* what the call made */
	int result;
} w;

static const char name[] = KEPT "-failnth", second[] = KEPT "-failnth-2";

static int nth_fd = -1; /* open before anything is made to fail, and of this very task */

static void arm(int nth)
{
	char text[16];

	if (nth_fd < 0)
		nth_fd = open(NTH, O_RDWR | O_CLOEXEC);
	snprintf(text, sizeof(text), "%d", nth);
	CHECK(nth_fd >= 0 && pwrite(nth_fd, text, strlen(text), 0) == (ssize_t)strlen(text));
}

/* Was the failure spent? The count has come down to 0 then. The copying of this answer counts as well: EFAULT says that
 * there was one left. */
static int disarm(void)
{
	char text[16] = {0};
	ssize_t n = pread(nth_fd, text, sizeof(text) - 1, 0);

	CHECK(n > 0 || errno == EFAULT);
	while (pwrite(nth_fd, "0", 1, 0) != 1)
		CHECK(errno == EFAULT);
	return n > 0 && atoll(text) == 0;
}

struct step {
	const char *what;
	uint64_t feature;
	void (*before)(void);
	int (*call)(void);
	void (*undo)(void);  /* after it succeeded */
	void (*after)(void); /* in any case */
};

static int do_open(void) { return (w.result = open(DEVICE, O_RDWR | O_CLOEXEC)) < 0 ? -1 : 0; }
static void undo_open(void) { close(w.result); }
static int do_query(void)
{
	struct mooncake_query q = STRUCT(query);

	return ioctl(w.fd, MOONCAKE_QUERY, &q);
}
static int alloc(uint64_t length)
{
	struct mooncake_buffer_alloc a = STRUCT(buffer_alloc);
	int r;

	a.length = length;
	a.numa_node = -1;
	r = ioctl(w.fd, MOONCAKE_BUFFER_ALLOC, &a);
	w.id = a.id;
	return r;
}
static int do_alloc(void) { return alloc(5 * PAGE); }
static int do_alloc_large(void) { return alloc(4 * MIB + 3 * PAGE); }
static void undo_id(void) { destroy(w.fd, w.id); }
static int do_keep(void)
{
	struct mooncake_buffer_alloc a;
	int r = try_keep(w.fd, second, 3 * PAGE, 0, &a);

	w.id = a.id;
	return r;
}
static void undo_keep(void)
{
	unlink_buffer(w.fd, second);
	destroy(w.fd, w.id);
}
static int do_buffer_open(void)
{
	struct mooncake_buffer_open o;
	int r = try_open(w.fd, name, MOONCAKE_UID_SELF, 0, &o);

	w.id = o.id;
	return r;
}
static void before_unlink(void)
{
	struct mooncake_buffer_alloc a;

	if (try_keep(w.fd, second, PAGE, 0, &a) == 0)
		destroy(w.fd, a.id);
}
static int do_unlink(void) { return try_unlink(w.fd, second); }
static void after_unlink(void) { try_unlink(w.fd, second); }
static int do_pin(void) { return try_pin(w.fd, w.memory, 64 * PAGE, &w.id); }
static int do_export(void)
{
	return (w.result = try_export(w.fd, w.buffer, MOONCAKE_EXPORT_WRITE)) < 0 ? -1 : 0;
}
static void undo_export(void) { close(w.result); }
static int do_import(void)
{
	struct mooncake_region_import i = STRUCT(region_import);
	int r;

	i.fd = w.result;
	r = ioctl(w.other, MOONCAKE_REGION_IMPORT, &i);
	w.id = i.id;
	return r;
}
static void before_import(void) { CHECK((w.result = try_export(w.fd, w.buffer, 0)) >= 0); }
static void undo_import(void) { destroy(w.other, w.id); }
static void after_import(void) { close(w.result); }
static int do_cxl(void)
{
	struct mooncake_region_cxl c = STRUCT(region_cxl);
	int r;

	c.start = 1ull << 46;
	c.length = 2 * MIB;
	r = ioctl(w.fd, MOONCAKE_REGION_CXL, &c);
	return r && errno == EACCES ? 0 : r;
}
static int do_bar(void)
{
	struct mooncake_region_bar b = STRUCT(region_bar);
	int r;

	b.domain = 0xffff;
	r = ioctl(w.fd, MOONCAKE_REGION_BAR, &b);
	return r && errno == ENODEV ? 0 : r;
}
static int do_grant(void)
{
	struct mooncake_grant g = STRUCT(grant);
	int r;

	g.id = w.buffer;
	g.uses = 1;
	g.rights = RO;
	memcpy(g.context_id, w.key, sizeof(w.key));
	r = ioctl(w.fd, MOONCAKE_GRANT, &g);
	w.number = g.grant;
	return r;
}
static void before_grant(void) { context_id(w.other, w.key); }
static void undo_grant(void) { CHECK(try_revoke_grant(w.fd, w.number) == 0); }
static void before_attach(void)
{
	struct mooncake_grant g = grant(w.fd, w.buffer, w.other, RW);

	memcpy(w.key, g.key, sizeof(w.key));
	w.number = g.grant;
}
static int do_attach(void)
{
	struct mooncake_attach a;
	int r = try_attach(w.other, w.key, &a);

	w.id = a.id;
	return r;
}
static void undo_attach(void) { destroy(w.other, w.id); }
static void after_attach(void) /* spent, and without attachments: its number is gone */
{
	CHECK(try_revoke_grant(w.fd, w.number) == 0 || errno == ENOENT);
}
static void before_revoke(void)
{
	w.id = share(w.fd, w.buffer, w.other, RW).id;
	w.mapped = map(w.other, stat_object(w.other, w.id).mmap_offset, 4 * PAGE, PROT_READ | PROT_WRITE);
	memset(w.mapped, 1, 4 * PAGE);
}
static int do_revoke(void)
{
	struct mooncake_revoke v;

	return try_revoke(w.fd, w.buffer, 0, &v);
}
static int do_replace(void)
{
	struct mooncake_revoke v;

	return try_revoke(w.fd, w.buffer, MOONCAKE_REVOKE_REPLACE, &v);
}
static void after_revoke(void)
{
	munmap(w.mapped, 4 * PAGE);
	destroy(w.other, w.id);
}
static int do_revoke_named(void)
{
	struct mooncake_revoke v;

	return try_revoke_named(w.fd, name, 0, &v);
}
static int do_stat(void)
{
	uint64_t nodes[8];
	struct mooncake_stat s = STRUCT(stat);

	s.id = w.buffer;
	s.nodes = PTR(nodes);
	s.node_count = 8;
	return ioctl(w.fd, MOONCAKE_STAT, &s);
}
static int do_copy(void) { return try_copy(w.fd, w.buffer, 100, w.small, 17, 3 * PAGE); }
static void before_destroy(void) { w.id = alloc_buffer(w.fd, 3 * PAGE).id; }
static int do_destroy(void) { return try_destroy(w.fd, w.id); }
static void after_destroy(void) { try_destroy(w.fd, w.id); }
static int do_map(void)
{
	w.mapped = try_map(w.fd, w.offset, 8 * PAGE, PROT_READ | PROT_WRITE);
	return w.mapped == MAP_FAILED ? -1 : 0;
}
static void undo_map(void) { munmap(w.mapped, 8 * PAGE); }
/* Where nothing else is mapped, so that a fault needs page tables; touched through the kernel, as a fault that finds no
 * memory for them in the program itself comes again until there is some. */
#define FAR ((void *)(1ul << 37))
static void before_fault(void)
{
	w.mapped = mmap(FAR, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, w.fd,
			(off_t)w.small_offset);
	CHECK(w.mapped == FAR);
	w.result = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	CHECK(w.result >= 0);
}
static int do_fault(void)
{
	ssize_t n = read(w.result, w.mapped, 4 * PAGE);

	if (n >= 0 && n < (ssize_t)(4 * PAGE))
		errno = EFAULT;
	return n == (ssize_t)(4 * PAGE) ? 0 : -1;
}
static void after_fault(void)
{
	close(w.result);
	munmap(w.mapped, 4 * PAGE);
}
static void before_read(void)
{
	struct mooncake_revoke v;

	w.id = share(w.fd, w.buffer, w.other, RW).id;
	CHECK(try_revoke(w.fd, w.buffer, 0, &v) == 0);
}
static int do_read(void)
{
	struct mooncake_event e[4];

	w.result = read(w.other, e, sizeof(e)) < 0 ? -1 : 0;
	return w.result;
}
static void after_read(void)
{
	struct mooncake_event e[4];

	if (w.result) /* it could not be told, and so is not lost */
		CHECK_EQ(read(w.other, e, sizeof(e)), sizeof(e[0]));
	CHECK_ERR(read(w.other, e, sizeof(e)), EAGAIN);
	destroy(w.other, w.id);
}

static const struct step steps[] = {
	{"open", 0, NULL, do_open, undo_open, NULL},
	{"QUERY", 0, NULL, do_query, NULL, NULL},
	{"BUFFER_ALLOC", 0, NULL, do_alloc, undo_id, NULL},
	{"BUFFER_ALLOC, large", 0, NULL, do_alloc_large, undo_id, NULL},
	{"BUFFER_ALLOC, kept", 0, NULL, do_keep, undo_keep, NULL},
	{"BUFFER_OPEN", 0, NULL, do_buffer_open, undo_id, NULL},
	{"BUFFER_UNLINK", 0, before_unlink, do_unlink, NULL, after_unlink},
	{"REGION_PIN", MOONCAKE_FEATURE_PIN, NULL, do_pin, undo_id, NULL},
	{"EXPORT", MOONCAKE_FEATURE_EXPORT, NULL, do_export, undo_export, NULL},
	{"REGION_IMPORT", MOONCAKE_FEATURE_IMPORT, before_import, do_import, undo_import, after_import},
	{"REGION_BAR", MOONCAKE_FEATURE_BAR, NULL, do_bar, NULL, NULL},
	{"REGION_CXL", MOONCAKE_FEATURE_CXL, NULL, do_cxl, NULL, NULL},
	{"GRANT", 0, before_grant, do_grant, undo_grant, NULL},
	{"ATTACH", 0, before_attach, do_attach, undo_attach, after_attach},
	{"REVOKE", 0, before_revoke, do_revoke, NULL, after_revoke},
	{"REVOKE, replace", 0, before_revoke, do_replace, NULL, after_revoke},
	{"REVOKE by name", 0, NULL, do_revoke_named, NULL, NULL},
	{"STAT", 0, NULL, do_stat, NULL, NULL},
	{"COPY", 0, NULL, do_copy, NULL, NULL},
	{"DESTROY", 0, before_destroy, do_destroy, NULL, after_destroy},
	{"mmap", 0, NULL, do_map, undo_map, NULL},
	{"page fault", 0, before_fault, do_fault, NULL, after_fault},
	{"read", 0, before_read, do_read, NULL, after_read},
};

static void run_step(const struct step *s)
{
	static struct counter start[128];
	int n, nth, failed = 0;

	if (s->feature && !has_feature(w.fd, s->feature)) {
		printf("  %s: not in this module\n", s->what);
		return;
	}
	for (nth = 1; nth < 20000; nth++) {
		int r, error, spent;
		const char *differs = NULL;

		if (s->before)
			s->before();
		n = counters_read(start, ARRAY_SIZE(start));
		arm(nth);
		errno = 0;
		r = s->call();
		error = errno;
		spent = disarm();
		if (r) {
			if (!spent)
				FAIL("%s failed with %s, and no allocation had been made to fail", s->what,
				     strerror(error));
			if (error != ENOMEM &&
			    error != EFAULT) /* the copying of arguments may fail as well */
				FAIL("%s, failure %d: %s, not ENOMEM", s->what, nth, strerror(error));
			if (!WAIT_FOR(!(differs = gauges_grew(start, n)), 20))
				FAIL("%s, failure %d, left something behind: %s", s->what, nth, differs);
			failed++;
		} else if (s->undo) {
			s->undo();
		}
		if (s->after)
			s->after();
		if (!spent)
			break;
	}
	printf("  %s: %d places, %d of them made it fail\n", s->what, nth - 1, failed);
}

static void test_every_failed_allocation_in_a_call_unwinds(void)
{
	struct mooncake_buffer_alloc a;

	if (access(NTH, W_OK))
		SKIP("no %s: the kernel lacks CONFIG_FAULT_INJECTION", NTH);
	w.fd = device();
	w.other = open(DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	a = alloc_buffer(w.fd, 8 * PAGE);
	w.buffer = a.id;
	w.offset = a.mmap_offset;
	a = alloc_buffer(w.fd, 4 * PAGE);
	w.small = a.id;
	w.small_offset = a.mmap_offset;
	w.memory = map_anon(64 * PAGE);
	memset(w.memory, 1, 64 * PAGE);
	try_unlink(w.fd, name);
	try_unlink(w.fd, second);
	destroy(w.fd, keep_buffer(w.fd, name, PAGE, 0).id);
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		run_step(&steps[i]);
	unlink_buffer(w.fd, name);
}

static const char *module_path;

static int module_fd(void)
{
	int fd = open(module_path, O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

static int unload(void) { return syscall(SYS_delete_module, "mooncake", O_NONBLOCK); }

static int load_all(void)
{
	int failed = 0, nth;

	if (access(NTH, W_OK))
		return 0;
	if (!WAIT_FOR(unload() == 0 || errno == ENOENT, 10))
		FAIL("the module cannot be unloaded: %s", strerror(errno));
	for (nth = 1; nth < 20000; nth++) {
		int fd = module_fd(), r, spent, error;

		arm(nth);
		r = syscall(SYS_finit_module, fd, "", 0);
		error = errno;
		spent = disarm();
		close(fd);
		if (r) {
			if (!spent)
				FAIL("loading failed with %s, and no allocation had been made to fail",
				     strerror(error));
			failed++;
			if (!access(DEVICE, F_OK))
				FAIL("failure %d: the module is not loaded, and %s is there", nth, DEVICE);
		} else if (!WAIT_FOR(unload() == 0, 10)) {
			FAIL("the module cannot be unloaded: %s", strerror(errno));
		}
		if (!spent)
			break;
	}
	printf("  loading: %d places, %d of them made it fail\n", nth - 1, failed);
	CHECK(syscall(SYS_finit_module, module_fd(), "", 0) == 0);
	return WAIT_FOR(!access(DEVICE, F_OK), 10);
}

static const struct test tests[] = {TEST(test_every_failed_allocation_in_a_call_unwinds)};

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	file_write("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	file_write("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	file_write("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	file_write("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	file_write("/sys/kernel/debug/failslab/verbose", "0");
	file_write("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	file_write("/sys/kernel/debug/fail_usercopy/verbose", "0");
	if (argc > 1) {
		module_path = argv[1];
		load_all();
		close(nth_fd);
		nth_fd = -1;
	}
	return run_tests(tests, ARRAY_SIZE(tests), 1, argv);
}
