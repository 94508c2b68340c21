// SPDX-License-Identifier: MIT
/*
 * Contexts of the kernel module: opening, asking, mapping, and the sentence for every error. The list of open
 * contexts exists for fork() alone; its mutex is a leaf.
 */
#include "kdev/kdev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mooncake.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/errors.h"

#define HUGE_2M (2ull << 20)

struct mci_kdev {
	struct mci_kdev *prev, *next;
	int fd; /* -1: closed in a child */
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mci_kdev *list;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&list_lock); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&list_lock); }

/* Else a child that lives on would keep what its parent held exclusively. */
static void after_fork_in_child(void)
{
	for (struct mci_kdev *k = list; k; k = k->next) {
		close(k->fd);
		k->fd = -1;
	}
	list = NULL;
	pthread_mutex_init(&list_lock, NULL);
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

static int not_loaded(void)
{
	return mci_fail(-ENODEV,
			"the kernel module mooncake is not loaded: there is no " MCI_KDEV_PATH
			"; load it with \"modprobe mooncake\", or build it first with \"dkms install "
			"mooncake/" MC_VERSION_STRING "\"");
}

static int cannot_open(int err)
{
	switch (err) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		return not_loaded();
	case EACCES:
	case EPERM:
		return mci_fail(-EACCES,
				"user %u may not use " MCI_KDEV_PATH
				"; put him in the group mooncake (\"usermod -aG mooncake USER\", then log in "
				"anew), or "
				"hand the device to the container (--device " MCI_KDEV_PATH ")",
				geteuid());
	default:
		return mci_fail(-err, "cannot open " MCI_KDEV_PATH ": %s", strerror(err));
	}
}

static int unusable(struct mci_kdev *kdev)
{
	if (!kdev)
		return not_loaded();
	return mci_fail(-ECHILD, "this context of " MCI_KDEV_PATH " belongs to the parent process");
}

int mci_kdev_open(struct mci_kdev **out)
{
	struct mci_kdev_info info;
	struct mci_kdev *kdev;
	int ret;

	pthread_once(&fork_once, watch_forks);
	kdev = calloc(1, sizeof(*kdev));
	if (!kdev)
		return mci_fail(-ENOMEM, "no memory for a context of " MCI_KDEV_PATH);
	pthread_mutex_lock(&list_lock);
	kdev->fd = open(MCI_KDEV_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (kdev->fd < 0) {
		ret = errno;
		pthread_mutex_unlock(&list_lock);
		free(kdev);
		return cannot_open(ret);
	}
	kdev->next = list;
	if (list)
		list->prev = kdev;
	list = kdev;
	pthread_mutex_unlock(&list_lock);
	ret = mci_kdev_query(kdev, &info);
	if (!ret && (!info.abi_version || !info.page_size))
		ret = mci_fail(-EOPNOTSUPP, MCI_KDEV_PATH " answers like no module that libmooncake %s knows",
			       MC_VERSION_STRING);
	if (ret) {
		mci_kdev_close(kdev);
		return ret;
	}
	*out = kdev;
	return 0;
}

void mci_kdev_close(struct mci_kdev *kdev)
{
	if (!kdev)
		return;
	pthread_mutex_lock(&list_lock);
	if (kdev->fd >= 0) {
		if (kdev->prev)
			kdev->prev->next = kdev->next;
		else
			list = kdev->next;
		if (kdev->next)
			kdev->next->prev = kdev->prev;
		close(kdev->fd);
	}
	pthread_mutex_unlock(&list_lock);
	free(kdev);
}

/* EDQUOT, with the figures: which of the two limits is it? */
static int over_quota(struct mci_kdev *kdev, const struct mci_kdev_call *call)
{
	struct mooncake_query q = {.size = sizeof(q)};
	unsigned long long mib = 1 << 20;

	if (ioctl(kdev->fd, MOONCAKE_QUERY, &q))
		return mci_fail(-EDQUOT, "%s: the quota of user %u is used up", call->what, geteuid());
	if (call->name && q.kept_limit != MCI_KDEV_NO_LIMIT &&
	    (q.kept_bytes >= q.kept_limit || call->length > q.kept_limit - q.kept_bytes))
		return mci_fail(
			-EDQUOT,
			"%s of %llu MiB: kept memory of all users is limited to %llu MiB, and %llu MiB are "
			"taken; remove what \"mooncake memory ls\" shows unused, or raise the module's "
			"parameter (/sys/module/mooncake/parameters/kept_limit)",
			call->what, (unsigned long long)call->length / mib,
			(unsigned long long)q.kept_limit / mib, (unsigned long long)q.kept_bytes / mib);
	return mci_fail(
		-EDQUOT,
		"%s of %llu MiB: user %u has %llu of %llu MiB already; free some, or raise the module's "
		"parameter (/sys/module/mooncake/parameters/user_limit)",
		call->what, (unsigned long long)call->length / mib, geteuid(),
		(unsigned long long)q.user_bytes / mib, (unsigned long long)q.user_limit / mib);
}

static int explain(struct mci_kdev *kdev, int err, const struct mci_kdev_call *call)
{
	const char *name = call->name ? call->name : "";

	switch (err) {
	case EDQUOT:
		return over_quota(kdev, call);
	case ENOTTY:
		return mci_fail(-EOPNOTSUPP,
				"%s: the loaded module is older than that; load the one of release %s",
				call->what, MC_VERSION_STRING);
	case ENOENT:
		return mci_fail(-ENOENT,
				call->name ? "%s: there is no kept memory \"%s\" of user %u"
					   : "%s: no such object or key",
				call->what, name, geteuid());
	case EEXIST:
		return mci_fail(-EEXIST, "%s: user %u has kept memory \"%s\" already", call->what, geteuid(),
				name);
	case EACCES:
		return mci_fail(
			-EACCES,
			call->name
				? "%s: user %u may not have kept memory \"%s\"; is he in the group mooncake?"
				: "%s: not allowed to user %u",
			call->what, geteuid(), name);
	case ESTALE:
		return mci_fail(-ESTALE, "%s: it was revoked", call->what);
	default:
		return mci_fail(-err, "%s: %s", call->what, strerror(err));
	}
}

int mci_kdev_call(struct mci_kdev *kdev, unsigned long number, void *args, const struct mci_kdev_call *call)
{
	if (!kdev || kdev->fd < 0)
		return unusable(kdev);
	if (!ioctl(kdev->fd, number, args))
		return 0;
	return explain(kdev, errno, call);
}

int mci_kdev_query(struct mci_kdev *kdev, struct mci_kdev_info *info)
{
	static const uint64_t bits[MCI_KDEV_FEATURES] = {
		[MCI_KDEV_KEEP] = MOONCAKE_FEATURE_KEEP,
		[MCI_KDEV_PIN] = MOONCAKE_FEATURE_PIN,
		[MCI_KDEV_IMPORT] = MOONCAKE_FEATURE_IMPORT,
		[MCI_KDEV_EXPORT] = MOONCAKE_FEATURE_EXPORT,
		[MCI_KDEV_BAR] = MOONCAKE_FEATURE_BAR,
		[MCI_KDEV_BAR_PAGES] = MOONCAKE_FEATURE_BAR_PAGES,
		[MCI_KDEV_CXL] = MOONCAKE_FEATURE_CXL,
		[MCI_KDEV_CXL_MAPPED] = MOONCAKE_FEATURE_CXL_MAPPED,
		[MCI_KDEV_HUGE_MAP] = MOONCAKE_FEATURE_HUGE_MAP,
		[MCI_KDEV_REPLACE] = MOONCAKE_FEATURE_REPLACE,
	};
	struct mooncake_query q = {.size = sizeof(q)};
	const struct mci_kdev_call call = {.what = "QUERY of the kernel module"};
	int ret = mci_kdev_call(kdev, MOONCAKE_QUERY, &q, &call);

	if (ret)
		return ret;
	*info = (struct mci_kdev_info){
		.abi_version = q.abi_version,
		.page_size = q.page_size,
		.length_max = q.length_max,
		.user_bytes = q.user_bytes,
		.user_limit = q.user_limit,
		.kept_bytes = q.kept_bytes,
		.kept_limit = q.kept_limit,
		.objects = q.objects,
		.objects_max = q.objects_max,
	};
	memcpy(info->context_id.b, q.context_id, sizeof(info->context_id.b));
	for (unsigned int i = 0; i < MCI_KDEV_FEATURES; i++)
		info->features |= q.features & bits[i] ? 1u << i : 0;
	return 0;
}

const char *mci_kdev_feature_name(enum mci_kdev_feature feature)
{
	static const char *const names[MCI_KDEV_FEATURES] = {
		[MCI_KDEV_KEEP] = "keep",	  [MCI_KDEV_PIN] = "pin",
		[MCI_KDEV_IMPORT] = "import",	  [MCI_KDEV_EXPORT] = "export",
		[MCI_KDEV_BAR] = "bar",		  [MCI_KDEV_BAR_PAGES] = "bar_pages",
		[MCI_KDEV_CXL] = "cxl",		  [MCI_KDEV_CXL_MAPPED] = "cxl_mapped",
		[MCI_KDEV_HUGE_MAP] = "huge_map", [MCI_KDEV_REPLACE] = "replace",
	};

	return feature < MCI_KDEV_FEATURES ? names[feature] : "?";
}

const char *mci_kdev_kind_name(uint32_t kind)
{
	static const char *const names[] = {"?", "buffer", "pin", "import", "bar", "cxl"};

	return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "?";
}

int mci_kdev_destroy(struct mci_kdev *kdev, uint32_t id)
{
	struct mooncake_destroy d = {.size = sizeof(d), .id = id};
	const struct mci_kdev_call call = {.what = "letting go of an object of the kernel module"};

	return mci_kdev_call(kdev, MOONCAKE_DESTROY, &d, &call);
}

int mci_kdev_stat(struct mci_kdev *kdev, uint32_t id, struct mci_kdev_stat *stat)
{
	struct mooncake_stat s = {.size = sizeof(s), .id = id};
	const struct mci_kdev_call call = {.what = "looking at an object of the kernel module"};
	uint64_t nodes[8] = {0};
	int ret;

	s.nodes = (uintptr_t)nodes;
	s.node_count = sizeof(nodes) / sizeof(nodes[0]);
	ret = mci_kdev_call(kdev, MOONCAKE_STAT, &s, &call);
	if (ret)
		return ret;
	*stat = (struct mci_kdev_stat){
		.kind = mci_kdev_kind_name(s.kind),
		.revoked = s.state & MOONCAKE_STATE_REVOKED,
		.kept = s.state & MOONCAKE_STATE_KEPT,
		.exclusive = s.state & MOONCAKE_STATE_EXCLUSIVE,
		.attachment = s.state & MOONCAKE_STATE_ATTACHMENT,
		.suspect = s.state & MOONCAKE_STATE_SUSPECT,
		.readable = s.rights & MOONCAKE_RIGHT_READ,
		.writable = s.rights & MOONCAKE_RIGHT_WRITE,
		.length = s.length,
		.mmap_offset = s.mmap_offset,
		.pages = s.pages,
		.extents = s.extents,
		.generation = s.generation,
		.pinned_pages = s.pinned,
		.contexts = s.contexts,
		.mappings = s.mappings,
		.dmabufs = s.dmabufs,
		.dmabuf_attached = s.dmabuf_attached,
		.grants = s.grants,
		.owner = s.owner_uid,
		.node_count = s.node_count,
	};
	memcpy(stat->content_id.b, s.content_id, sizeof(stat->content_id.b));
	memcpy(stat->node_pages, nodes, sizeof(nodes));
	return 0;
}

int mci_kdev_export(struct mci_kdev *kdev, uint32_t id, bool writable, int *fd)
{
	struct mooncake_export e = {
		.size = sizeof(e), .flags = writable ? MOONCAKE_EXPORT_WRITE : 0, .id = id, .fd = -1};
	const struct mci_kdev_call call = {.what = "exporting an object of the kernel module as a dma-buf"};
	int ret = mci_kdev_call(kdev, MOONCAKE_EXPORT, &e, &call);

	if (!ret)
		*fd = e.fd;
	return ret;
}

/*
 * The place is a wish. MAP_FIXED into memory held free would be none, but when it fails the place may be free already,
 * and another thread's mapping in it.
 */
static void *map_at_2m(int fd, uint64_t offset, uint64_t length, int prot)
{
	void *hole = mmap(NULL, length + HUGE_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t start = 0;

	if (hole != MAP_FAILED) {
		start = ((uintptr_t)hole + HUGE_2M - 1) & ~(uintptr_t)(HUGE_2M - 1);
		munmap(hole, length + HUGE_2M);
	}
	return mmap((void *)start, length, prot, MAP_SHARED, fd, (off_t)offset);
}

int mci_kdev_map(struct mci_kdev *kdev, uint64_t mmap_offset, uint64_t length, bool writable, void **addr)
{
	int prot = writable ? PROT_READ | PROT_WRITE : PROT_READ;
	void *p;

	if (!kdev || kdev->fd < 0)
		return unusable(kdev);
	if (length >= HUGE_2M)
		p = map_at_2m(kdev->fd, mmap_offset, length, prot);
	else
		p = mmap(NULL, length, prot, MAP_SHARED, kdev->fd, (off_t)mmap_offset);
	if (p == MAP_FAILED)
		return mci_fail(-errno, "cannot map %llu bytes of " MCI_KDEV_PATH ": %s",
				(unsigned long long)length, strerror(errno));
	*addr = p;
	return 0;
}
