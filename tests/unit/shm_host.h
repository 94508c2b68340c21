/* SPDX-License-Identifier: MIT */
/*
 * A small stand-in for the engine around the shared memory transport, and a target in a process of its
 * own (the test program run again) that obeys lines on its standard input.
 *
 * Shared memory is that of a memfd or, with $SHARED=module, of the kernel module: each test runs over both, with
 * $MODULE_ONLY over the second alone.
 */
#ifndef TESTS_UNIT_SHM_HOST_H
#define TESTS_UNIT_SHM_HOST_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/errors.h"
#include "core/uuid.h"
#include "kdev/kdev.h"
#include "net/service.h"
#include "transport/shm/shm.h"

#define RW (MC_REMOTE_READ | MC_REMOTE_WRITE)

struct fake { /* one engine */
	struct mci_transport_host host;
	struct mci_identity self;
	struct mci_loops loops;
	struct mci_service *service;
	struct mci_transport *transport;
	/* refresh() */
	_Atomic unsigned int refreshes;
	_Atomic int refresh_error; /* 0: give @info */
	struct mci_peer_info info;
	struct mci_remote_region *remote; /* marked stale with -ESTALE */
	unsigned int remote_count;
};

struct job {		      /* a request and how it ended */
	struct mci_request r; /* first */
	enum mc_state state;
	int error;
	uint64_t bytes;
	_Atomic bool done;
};

static inline void fake_complete(struct mci_request *request, enum mc_state state, int error, uint64_t bytes,
				 uint32_t flags)
{
	struct job *job = (struct job *)request;

	(void)flags;
	if (atomic_load(&job->done))
		abort(); /* told twice */
	job->state = state;
	job->error = error;
	job->bytes = bytes;
	atomic_store(&job->done, true);
}

static inline int fake_refresh(void *engine, void *cookie, uint64_t deadline_ns,
			       int (*use)(void *arg, const struct mci_peer_info *info), void *arg)
{
	struct fake *fake = engine;
	int ret = atomic_load(&fake->refresh_error);

	(void)cookie;
	(void)deadline_ns;
	atomic_fetch_add(&fake->refreshes, 1);
	if (ret == -ESTALE)
		for (unsigned int i = 0; i < fake->remote_count; i++)
			atomic_store(&fake->remote[i].stale, true);
	return ret ? ret : use(arg, &fake->info);
}

static inline void fake_connection(void *arg, struct mci_incoming *in)
{
	struct fake *fake = arg;

	mci_transport_shm.incoming(fake->transport, in);
}

/* Aborts on failure: nothing of this is under test. */
static inline struct fake *fake_open(const char *name)
{
	struct fake *fake = calloc(1, sizeof(*fake));
	struct mci_service_attr attr = {
		.bind = "127.0.0.1",
		.port_low = 21000,
		.port_high = 25000,
		.service = MCI_SERVICE_ENGINE,
		.features = MCI_FEATURES_KNOWN,
		.self = &fake->self,
		.loops = &fake->loops,
		.connection = fake_connection,
		.arg = fake,
	};
	char unix_name[64];

	mci_log_init();
	snprintf(fake->self.name, sizeof(fake->self.name), "%s", name);
	mci_uuid_new(&fake->self.uuid);
	fake->self.generation = 1;
	fake->host.engine = fake;
	fake->host.self = &fake->self;
	fake->host.secret.mode = MCI_AUTH_TOKEN;
	fake->host.secret.key_length = 16;
	memset(fake->host.secret.key, 0x42, 16);
	fake->host.loops = &fake->loops;
	fake->host.complete = fake_complete;
	fake->host.refresh = fake_refresh;
	fake->refresh_error = -EAGAIN;
	attr.secret = fake->host.secret;
	mci_shm_socket_name(&fake->self.uuid, unix_name);
	attr.unix_name = unix_name;
	if (mci_regions_create(&fake->host.regions) || mci_loops_start("test", 2, &fake->loops) ||
	    mci_transport_shm.open(&fake->host, &fake->transport) ||
	    mci_service_start(&attr, &fake->service)) {
		fprintf(stderr, "fake_open: %s\n", mc_errmsg());
		abort();
	}
	return fake;
}

static inline void fake_close(struct fake *fake)
{
	mci_service_stop(fake->service);
	mci_transport_shm.close(fake->transport);
	mci_loops_stop(&fake->loops);
	mci_regions_destroy(fake->host.regions);
	free(fake);
}

static inline bool by_module(void)
{
	const char *text = getenv("SHARED");

	return text && !strcmp(text, "module");
}

/* The context that owns what this process shares. */
static inline struct mci_kdev *own_context(void)
{
	static struct mci_kdev *kdev;

	if (!kdev && mci_kdev_open(&kdev)) {
		fprintf(stderr, "own_context: %s\n", mc_errmsg());
		abort();
	}
	return kdev;
}

static inline void fake_object(struct mci_region *region, size_t whole)
{
	struct mci_kdev_buffer buffer;
	void *addr;

	region->kdev = own_context();
	if (mci_kdev_alloc(region->kdev, whole, -1, &buffer) ||
	    mci_kdev_map(region->kdev, buffer.mmap_offset, buffer.length, true, &addr)) {
		fprintf(stderr, "fake_object: %s\n", mc_errmsg());
		abort();
	}
	region->object = buffer.id;
	region->object_length = buffer.length;
	region->object_offset = whole - region->length;
	region->addr = (uint8_t *)addr + region->object_offset;
}

/* Memory of a kind: "shared", "heap", or "part" (the second half of a shared one). */
static inline struct mci_region *fake_region(struct fake *fake, const char *kind, size_t length,
					     uint32_t rights)
{
	struct mci_region *region = calloc(1, sizeof(*region));
	size_t whole = strcmp(kind, "part") ? length : 2 * length;

	region->length = length;
	region->rights = rights;
	region->memfd = -1;
	if (!strcmp(kind, "heap")) {
		region->addr = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	} else if (by_module()) {
		fake_object(region, whole);
	} else {
		region->memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (region->memfd < 0 || ftruncate(region->memfd, (off_t)whole) ||
		    fchmod(region->memfd, 0600) ||
		    fcntl(region->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
			abort();
		region->memfd_offset = whole - length;
		region->addr = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, region->memfd,
				    (off_t)region->memfd_offset);
	}
	if (region->addr == MAP_FAILED || mci_regions_add(fake->host.regions, region) ||
	    mci_transport_shm.region_add(fake->transport, region, NULL))
		abort();
	return region;
}

/* As the engine does it. The memory stays: tests look at it afterwards. */
static inline int fake_unregister(struct fake *fake, struct mci_region *region, uint64_t deadline_ns)
{
	int ret = mci_regions_retire(fake->host.regions, region, deadline_ns != 0);

	if (ret)
		return ret;
	ret = mci_transport_shm.region_remove(fake->transport, region, deadline_ns);
	if (ret && !deadline_ns)
		mci_regions_revive(fake->host.regions, region);
	return ret ? ret : mci_regions_remove(fake->host.regions, region, mci_now_ns() + MCI_NS_PER_S);
}

static inline void fake_region_free(struct mci_region *region)
{
	munmap(region->addr, region->length);
	if (region->kdev)
		mci_kdev_destroy(region->kdev, region->object);
	if (region->memfd >= 0)
		close(region->memfd);
	free(region);
}

static inline uint8_t pattern(uint64_t at, uint32_t seed)
{
	return (uint8_t)((at * 2654435761u >> 13) + at + seed);
}

static inline void fill(uint8_t *p, uint64_t at, uint64_t length, uint32_t seed)
{
	for (uint64_t i = 0; i < length; i++)
		p[i] = pattern(at + i, seed);
}

static inline bool filled(const uint8_t *p, uint64_t at, uint64_t length, uint32_t seed)
{
	for (uint64_t i = 0; i < length; i++)
		if (p[i] != pattern(at + i, seed))
			return false;
	return true;
}

/* What a segment handle holds: info and remote regions. */
struct remote {
	struct mci_peer_info info;
	struct mci_remote_region *regions;
	unsigned int count;
};

static inline void remote_free(struct remote *remote)
{
	json_decref((json_t *)(uintptr_t)remote->info.transport);
	free(remote->regions);
	memset(remote, 0, sizeof(*remote));
}

static inline void remote_of(struct fake *target, struct mci_region **regions, unsigned int count,
			     struct remote *out)
{
	json_t *mine = json_object();

	memset(out, 0, sizeof(*out));
	mci_transport_shm.describe(target->transport, mine);
	out->info.name = target->self.name;
	out->info.uuid = target->self.uuid;
	out->info.generation = target->self.generation;
	out->info.secret = target->host.secret;
	out->info.transport = mine;
	out->count = count;
	out->regions = calloc(count, sizeof(*out->regions));
	for (unsigned int i = 0; i < count; i++) {
		out->regions[i].id = regions[i]->id;
		out->regions[i].generation = regions[i]->generation;
		out->regions[i].rights = regions[i]->rights;
		out->regions[i].length = regions[i]->length;
	}
}

/* ---- a target in a process of its own ---- */

struct target {
	pid_t pid;
	FILE *to, *from;
	struct remote remote;
	char name[64];
};

/* Another user, who may use the module if there is one. */
static inline void become_other_user(void)
{
	const char *uid = getenv("TARGET_UID");
	struct stat st;

	if (!uid)
		return;
	if (setgid(stat(MCI_KDEV_PATH, &st) ? (gid_t)atoi(uid) : st.st_gid) || setuid((uid_t)atoi(uid)))
		abort();
}

/* "kind:length:rights" each. */
static inline int target_main(int argc, char **argv)
{
	struct mci_region *region[16];
	uint8_t *before[16] = {NULL};
	struct remote remote;
	struct fake *fake;
	char line[256], hex[MCI_UUID_TEXT], *text;
	unsigned int count = 0, i;
	unsigned long long a, b, c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	become_other_user();
	fake = fake_open("target");
	for (int k = 0; k < argc; k++) {
		char kind[16];

		if (sscanf(argv[k], "%15[^:]:%llu:%llu", kind, &a, &b) != 3)
			abort();
		region[count++] = fake_region(fake, kind, a, (uint32_t)b);
	}
	remote_of(fake, region, count, &remote);
	mci_uuid_text(&fake->self.uuid, hex);
	text = json_dumps(remote.info.transport, JSON_COMPACT);
	printf("%s %u %s\n", hex, count, text);
	for (i = 0; i < count; i++)
		printf("%u %u %u %llu\n", region[i]->id, region[i]->generation, region[i]->rights,
		       (unsigned long long)region[i]->length);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long long ret = 0;
		char word[16] = "";

		a = b = c = 0;
		if (sscanf(line, "%15s %u %llu %llu %llu", word, &i, &a, &b, &c) < 1)
			break;
		if (!strcmp(word, "fill")) {
			fill(region[i]->addr, 0, region[i]->length, (uint32_t)a);
		} else if (!strcmp(word, "filled")) { /* seed, at, length */
			ret = filled(region[i]->addr + b, b, c, (uint32_t)a);
		} else if (!strcmp(word, "remove")) { /* ms; 0 = do not wait */
			ret = fake_unregister(fake, region[i], a ? mci_now_ns() + a * MCI_NS_PER_MS : 0);
			free(before[i]);
			before[i] = malloc(region[i]->length);
			memcpy(before[i], region[i]->addr, region[i]->length);
		} else if (!strcmp(word, "changed")) { /* since it was removed */
			ret = !!memcmp(before[i], region[i]->addr, region[i]->length);
		} else if (!strcmp(word, "nofence")) {
			fake->transport->hooks.no_fence = true;
		} else if (!strcmp(word, "norevoke")) {
			fake->transport->hooks.no_revoke = true;
		} else if (!strcmp(word, "child")) { /* one that holds every descriptor, and sleeps */
			ret = fork();
			if (!ret) {
				alarm(20);
				for (;;)
					pause();
			}
		} else if (!strcmp(word, "unmap")) {
			ret = mprotect(region[i]->addr + a, b, PROT_NONE);
		} else {
			break;
		}
		printf("%lld\n", ret);
		fflush(stdout);
	}
	_exit(0);
}

static inline long long target_answer(struct target *target)
{
	char line[64];

	if (!fgets(line, sizeof(line), target->from))
		abort();
	return atoll(line);
}

static inline __attribute__((format(printf, 2, 3))) void target_tell(struct target *target, const char *fmt,
								     ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(target->to, fmt, ap);
	va_end(ap);
	fputc('\n', target->to);
	fflush(target->to);
}

#define target_say(target, ...) (target_tell(target, __VA_ARGS__), target_answer(target))

static inline struct target *target_start(int count, const char *const *regions)
{
	struct target *target = calloc(1, sizeof(*target));
	char *argv[20] = {(char *)"self", (char *)"target"}, hex[64], text[512], line[640];
	int in[2], out[2];

	for (int i = 0; i < count; i++)
		argv[2 + i] = (char *)(uintptr_t)regions[i];
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		abort();
	target->pid = fork();
	if (!target->pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execv("/proc/self/exe", argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	target->to = fdopen(in[1], "w");
	target->from = fdopen(out[0], "r");
	snprintf(target->name, sizeof(target->name), "target");
	if (!fgets(line, sizeof(line), target->from) ||
	    sscanf(line, "%63s %u %511s", hex, &target->remote.count, text) != 3)
		abort();
	mci_uuid_parse(hex, &target->remote.info.uuid);
	target->remote.info.name = target->name;
	target->remote.info.generation = 1;
	target->remote.info.secret.mode = MCI_AUTH_TOKEN;
	target->remote.info.secret.key_length = 16;
	memset(target->remote.info.secret.key, 0x42, 16);
	target->remote.info.transport = json_loads(text, 0, NULL);
	target->remote.regions = calloc(target->remote.count, sizeof(*target->remote.regions));
	for (unsigned int i = 0; i < target->remote.count; i++) {
		struct mci_remote_region *r = &target->remote.regions[i];
		unsigned long long length;

		if (!fgets(line, sizeof(line), target->from) ||
		    sscanf(line, "%u %u %u %llu", &r->id, &r->generation, &r->rights, &length) != 4)
			abort();
		r->length = length;
	}
	return target;
}

static inline void target_kill(struct target *target)
{
	if (target->pid > 0) {
		kill(target->pid, SIGKILL);
		waitpid(target->pid, NULL, 0);
		target->pid = 0;
	}
}

/* A signal takes a moment: nothing of it runs any more when this comes back. */
static inline void target_stop(struct target *target)
{
	int status;

	kill(target->pid, SIGSTOP);
	if (waitpid(target->pid, &status, WUNTRACED) != target->pid || !WIFSTOPPED(status))
		abort();
}

static inline void target_end(struct target *target)
{
	target_kill(target);
	fclose(target->to);
	fclose(target->from);
	remote_free(&target->remote);
	free(target);
}

/* ---- running each test over both kinds of shared memory ---- */

static void test_shared_memory_of_the_module(void **state)
{
	struct mci_kdev *kdev;

	(void)state;
	if (mci_kdev_open(&kdev)) {
		print_message("skipped: memory of the kernel module: %s\n", mc_errmsg());
		skip();
	}
	mci_kdev_close(kdev);
}

#define run_over_both(tests, setup, teardown)                                                               \
	({                                                                                                  \
		const struct CMUnitTest probe[] = {cmocka_unit_test(test_shared_memory_of_the_module)};     \
		struct mci_kdev *kdev_;                                                                     \
		int failed_;                                                                                \
		setenv("SHARED", "memfd", 1);                                                               \
		failed_ = getenv("MODULE_ONLY") ?                                                           \
				  0 :                                                                       \
				  cmocka_run_group_tests_name("shared: memfd", tests, setup, teardown);     \
		failed_ += cmocka_run_group_tests_name("shared: module?", probe, NULL, NULL);               \
		if (!mci_kdev_open(&kdev_)) {                                                               \
			mci_kdev_close(kdev_);                                                              \
			setenv("SHARED", "module", 1);                                                      \
			failed_ += cmocka_run_group_tests_name("shared: module", tests, setup, teardown);   \
		}                                                                                           \
		failed_;                                                                                    \
	})

/* ---- requests ---- */

static inline void job_init(struct job *job, int op, struct mci_remote_region *remote, uint64_t offset,
			    void *local, uint64_t length, unsigned int timeout_ms)
{
	memset(job, 0, sizeof(*job));
	job->r.op = (uint8_t)op;
	job->r.remote = remote;
	job->r.offset = offset;
	job->r.local = local;
	job->r.length = length;
	job->r.deadline_ns = mci_now_ns() + timeout_ms * MCI_NS_PER_MS;
}

/* Help, as mc_batch_wait() does, until all are final; aborts after 20 s. */
static inline void jobs_wait(struct mci_peer *peer, struct job *jobs, unsigned int count, bool help)
{
	uint64_t deadline = mci_now_ns() + 20 * MCI_NS_PER_S;
	struct timespec pause = {.tv_nsec = 100000};

	for (unsigned int i = 0; i < count; i++) {
		while (!atomic_load(&jobs[i].done)) {
			if (help && mci_transport_shm.help(peer))
				continue;
			if (mci_now_ns() > deadline) {
				fprintf(stderr, "request %u does not end\n", i);
				abort();
			}
			nanosleep(&pause, NULL);
		}
	}
}

static inline void jobs_submit(struct mci_peer *peer, struct job *jobs, unsigned int count)
{
	for (unsigned int i = 0; i + 1 < count; i++)
		jobs[i].r.next = &jobs[i + 1].r;
	mci_transport_shm.submit(peer, &jobs[0].r);
}

/* One request, to its end. */
static inline struct job transfer(struct mci_peer *peer, int op, struct mci_remote_region *remote,
				  uint64_t offset, void *local, uint64_t length)
{
	struct job job;

	job_init(&job, op, remote, offset, local, length, 10000);
	jobs_submit(peer, &job, 1);
	jobs_wait(peer, &job, 1, true);
	return job;
}

#endif
