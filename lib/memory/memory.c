// SPDX-License-Identifier: MIT
/*
 * mc_memory: allocation, mapping, placement and locking in RAM; and the process-wide table of what is alive,
 * by which the engine finds the descriptor behind an address. The table's mutex is a leaf, never held over a
 * system call that may block.
 */
#include "memory/memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

struct mc_memory {
	struct mc_memory *next;
	struct mci_backing backing;
	uint8_t *addr;
	uint64_t prefault_ns;
	unsigned int holds; /* under table_lock */
	pid_t pid;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mc_memory *table;

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&table_lock); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&table_lock); }

/* The parent's memories are not mapped here; new ones may come to lie at the same addresses. */
static void after_fork_in_child(void)
{
	table = NULL;
	pthread_mutex_init(&table_lock, NULL);
	mci_module_after_fork();
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

static unsigned int log2_of(uint64_t v) { return 63 - (unsigned int)__builtin_clzll(v); }

static uint64_t round_up(uint64_t length, uint64_t page_size)
{
	return (length + page_size - 1) & ~(page_size - 1);
}

/* @page_size is certain here. Sealed at once: a peer that maps it can rely on its size. */
static int open_memfd(uint64_t length, uint64_t page_size, struct mci_backing *b)
{
	bool huge = page_size > mci_base_page();
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd, ret;

	if (huge)
		flags |= MFD_HUGETLB | log2_of(page_size) << MFD_HUGE_SHIFT;
	length = round_up(length, page_size);
	fd = memfd_create("mooncake", flags);
	if (fd < 0 && huge)
		return mci_huge_pages_missing(page_size, length, -1);
	if (fd < 0)
		return mci_fail(-errno, "cannot create shared memory: memfd_create: %s", strerror(errno));
	/* Others may not open it anew through /proc and gain rights that we did not hand out. */
	if (fchmod(fd, 0600) || ftruncate(fd, (off_t)length)) {
		ret = mci_fail(-errno, "cannot size shared memory to %llu bytes: %s",
			       (unsigned long long)length, strerror(errno));
		goto err_close;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		ret = mci_fail(-errno, "cannot seal shared memory: %s", strerror(errno));
		goto err_close;
	}
	b->fd = fd;
	b->length = length;
	b->page_size = page_size;
	b->kind = huge ? "hugetlb-memfd" : "memfd";
	mci_uuid_new(&b->content_id);
	return 0;
err_close:
	close(fd);
	return ret;
}

static int map(const struct mc_memory_attr *attr, struct mci_backing *b, uint8_t **addr)
{
	bool huge = b->page_size > mci_base_page();
	int flags = MAP_SHARED, err;
	char size[MCI_SIZE_TEXT];
	void *p;

	if (b->kdev) { /* small pages, of its own choice; never inherited */
		err = mci_kdev_map(b->kdev, b->mmap_offset, b->length, true, &p);
		if (!err)
			*addr = p;
		return err;
	}
	if (b->fd < 0) {
		flags = MAP_PRIVATE | MAP_ANONYMOUS;
		if (huge)
			flags |= MAP_HUGETLB | (int)log2_of(b->page_size) << MAP_HUGE_SHIFT;
	}
	p = mmap(NULL, b->length, PROT_READ | PROT_WRITE, flags, b->fd, 0);
	if (p == MAP_FAILED) {
		err = errno;
		if (huge)
			return mci_huge_pages_missing(b->page_size, b->length, -1);
		return mci_fail(
			-err,
			"cannot map %s of memory: %s; is there a limit on address space (ulimit -v) or on "
			"overcommit (vm.overcommit_memory)?",
			mci_size_text(b->length, size), strerror(err));
	}
	/* A child after fork() could touch pages while a peer writes them, or break copy-on-write for a NIC.
	 */
	if (madvise(p, b->length, MADV_DONTFORK)) {
		err = errno;
		munmap(p, b->length);
		return mci_fail(-err, "cannot keep memory out of forked children: madvise: %s",
				strerror(err));
	}
	if (!huge && !attr->page_size)
		madvise(p, b->length, MADV_HUGEPAGE); /* transparent ones, where the system gives them */
	*addr = p;
	return 0;
}

static int open_backing(const struct mc_memory_attr *attr, uint64_t page_size, struct mci_backing *b)
{
	bool taken;
	int ret;

	memset(b, 0, sizeof(*b));
	b->fd = b->dir_fd = b->data_dir_fd = -1;
	if (attr->name) {
		ret = mci_module_open_named(attr, b, &taken);
		return ret || taken ? ret : mci_named_open(attr, b);
	}
	if (!(attr->flags & MC_MEMORY_PRIVATE))
		return open_memfd(attr->length, page_size, b);
	b->length = round_up(attr->length, page_size);
	b->page_size = page_size;
	b->kind = "anonymous";
	mci_uuid_new(&b->content_id);
	return 0;
}

static void close_backing(struct mci_backing *b, bool undo)
{
	if (b->kdev)
		mci_module_close(b, undo);
	else if (b->name[0])
		mci_named_close(b, undo);
	else if (b->fd >= 0)
		close(b->fd);
}

static int open_and_map(const struct mc_memory_attr *attr, struct mci_backing *b, uint8_t **addr)
{
	uint64_t need = round_up(attr->length, MCI_PAGE_2M);
	int ret;

	/* Huge pages are taken unasked only where they lie ready; somebody may be quicker, so have a second
	 * try. */
	if (!attr->name && !attr->page_size && attr->length >= MCI_PAGE_2M &&
	    mci_huge_pages_free(MCI_PAGE_2M, -1) * MCI_PAGE_2M >= need &&
	    (attr->numa_node < 0 ||
	     mci_huge_pages_free(MCI_PAGE_2M, attr->numa_node) * MCI_PAGE_2M >= need)) {
		ret = open_backing(attr, MCI_PAGE_2M, b);
		if (!ret) {
			ret = map(attr, b, addr);
			if (!ret)
				return 0;
			close_backing(b, true);
		}
	}
	/* What the module cannot do is done without it: never a reason to fail. */
	if (!attr->name && mci_module_alloc(attr, b)) {
		if (!map(attr, b, addr))
			return 0;
		close_backing(b, true);
	}
	ret = open_backing(attr, attr->page_size ? attr->page_size : mci_base_page(), b);
	if (ret)
		return ret;
	ret = map(attr, b, addr);
	if (ret)
		close_backing(b, true);
	return ret;
}

static int lock_pages(uint8_t *addr, uint64_t length)
{
	char asked[MCI_SIZE_TEXT], limit_text[MCI_SIZE_TEXT] = "unlimited";
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	int err;

	/* On fault: the limit is checked now, the pages come from the parallel pre-fault. */
	if (!mlock2(addr, length, MLOCK_ONFAULT))
		return 0;
	err = errno;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur != RLIM_INFINITY)
		mci_size_text(limit.rlim_cur, limit_text);
	return mci_fail(-err,
			"cannot lock %s in memory: the limit for this process (RLIMIT_MEMLOCK) is %s, all "
			"locks together; "
			"raise it with \"ulimit -l unlimited\", LimitMEMLOCK=infinity in the systemd unit, "
			"\"memlock\" in "
			"/etc/security/limits.conf or --ulimit memlock=-1 for a container, or leave out "
			"MC_MEMORY_LOCK (%s)",
			mci_size_text(length, asked), limit_text, strerror(err));
}

static int no_room(const struct mci_backing *b, int err)
{
	char size[MCI_SIZE_TEXT];

	if (b->page_size > mci_base_page())
		return mci_huge_pages_missing(b->page_size, b->length, -1);
	if (b->name[0] && (err == -EFAULT || err == -ENOSPC))
		return mci_fail(
			-ENOSPC,
			"memory \"%s\" of %s does not fit on /dev/shm: it is full; enlarge it (\"mount -o "
			"remount,size=... /dev/shm\", for containers --shm-size), or remove what \"mooncake "
			"memory ls\" "
			"shows unused",
			b->name, mci_size_text(b->length, size));
	if (err == -EFAULT)
		err = -ENOMEM;
	return mci_fail(err, "cannot get %s of memory: %s", mci_size_text(b->length, size), strerror(-err));
}

/* fallocate() of a named file turns "full" into an error here instead of SIGBUS at some later touch. */
static int reserve(const struct mci_backing *b)
{
	while (fallocate(b->fd, 0, 0, (off_t)b->length)) {
		if (errno != EINTR)
			return no_room(b, -errno);
	}
	return 0;
}

/* Asking for more than there is would end in the out-of-memory killer, not in an error. */
static int check_available(const struct mci_backing *b)
{
	char size[MCI_SIZE_TEXT], have_text[MCI_SIZE_TEXT];
	uint64_t have = mci_memory_available();
	struct stat st;

	if (b->page_size > mci_base_page() || have == UINT64_MAX)
		return 0;
	if (b->fd >= 0 && !fstat(b->fd, &st))
		have += (uint64_t)st.st_blocks * 512;
	if (have >= b->length)
		return 0;
	return mci_fail(-ENOMEM,
			"%s of memory were asked for, %s are available to this process (machine and memory "
			"cgroup); ask for less, or stop what "
			"uses the rest",
			mci_size_text(b->length, size), mci_size_text(have, have_text));
}

static int populate(const struct mc_memory_attr *attr, struct mc_memory *m)
{
	bool touch = attr->flags & (MC_MEMORY_PREFAULT | MC_MEMORY_LOCK);
	bool named = m->backing.name[0] && !m->backing.kdev; /* a file */
	uint64_t start;
	int ret;

	if ((touch || named) && !m->backing.kdev) { /* the module's pages are there already */
		ret = check_available(&m->backing);
		if (ret)
			return ret;
	}
	if (attr->flags & MC_MEMORY_LOCK && m->backing.page_size == mci_base_page()) {
		ret = lock_pages(m->addr, m->backing.length); /* hugetlb pages are never paged out */
		if (ret)
			return ret;
	}
	start = mci_now_ns();
	/* Where it may, the parallel touch goes first: fallocate() has but one core. */
	if (named && !(touch && mci_prefault_is_safe(m->addr, m->backing.page_size))) {
		ret = reserve(&m->backing);
		if (ret)
			return ret;
	}
	if (touch) {
		ret = mci_prefault(m->addr, m->backing.length, m->backing.page_size);
		if (ret)
			return no_room(&m->backing, ret);
		m->prefault_ns = mci_now_ns() - start;
	}
	return named ? reserve(&m->backing) : 0;
}

/**
 * mc_memory_alloc() - allocate memory that is fit for transfers
 * @attr: begin with MC_MEMORY_ATTR_INIT; copied, names too
 * @memory: set on success; mc_memory_free() it
 *
 * Memory that is new (mc_memory_info.reattached == 0) reads as zeros. Any thread.
 *
 * Return: 0, or a negative errno with a sentence:
 * -EINVAL: attributes; named: it exists with another length or page size. -E2BIG: newer attributes.
 * -ENOMEM: not enough memory or huge pages; -ENOMEM, -EPERM: RLIMIT_MEMLOCK. -ENOSPC: /dev/shm is full.
 * -EBUSY: named: another process, or this one, holds it. -ENOTUNIQ: named: it is there twice, as kept memory
 * of the kernel module and as a file. -EEXIST, -ENOENT: by MC_MEMORY_CREATE, _EXISTING, or
 * no hugetlbfs mount. -EACCES: named: the directory is not safe. -EOPNOTSUPP: NUMA placement in a build
 * without it.
 */
int mc_memory_alloc(const struct mc_memory_attr *attr, mc_memory **memory)
{
	struct mc_memory_attr a;
	struct mc_memory *m;
	int ret;

	if (!memory)
		return mci_fail(-EINVAL, "mc_memory_alloc(): nowhere to put the handle");
	ret = mci_memory_attr_check(attr, &a);
	if (ret)
		return ret;
	pthread_once(&fork_once, watch_forks);
	mci_log_init();
	m = calloc(1, sizeof(*m));
	if (!m)
		return mci_fail(-ENOMEM, "mc_memory_alloc(): no memory for the handle");
	m->pid = getpid();
	ret = open_and_map(&a, &m->backing, &m->addr);
	if (ret)
		goto err_free;
	ret = m->backing.kdev ? 0 : mci_numa_place(m->addr, m->backing.length, a.numa_node);
	if (ret)
		goto err_unmap;
	ret = populate(&a, m);
	if (ret)
		goto err_unmap;
	if (m->backing.name[0] && !m->backing.kdev) {
		ret = mci_named_commit(&m->backing);
		if (ret)
			goto err_unmap;
	}
	pthread_mutex_lock(&table_lock);
	m->next = table;
	table = m;
	pthread_mutex_unlock(&table_lock);
	*memory = m;
	return 0;
err_unmap:
	munmap(m->addr, m->backing.length);
	close_backing(&m->backing, true);
err_free:
	free(m);
	return ret;
}

/**
 * mc_memory_free() - unmap and forget; named memory stays for the next process
 * @memory: NULL is fine
 *
 * Return: 0; -EBUSY: a region is registered in it; -ECHILD: it is the parent's, from before fork(). Any
 * thread.
 */
int mc_memory_free(mc_memory *memory)
{
	struct mc_memory **p;

	if (!memory)
		return 0;
	if (memory->pid != getpid())
		return mci_fail(-ECHILD, "mc_memory_free(): this memory belongs to the parent process %d",
				(int)memory->pid);
	pthread_mutex_lock(&table_lock);
	if (memory->holds) {
		unsigned int holds = memory->holds;

		pthread_mutex_unlock(&table_lock);
		return mci_fail(
			-EBUSY,
			"mc_memory_free(): %u region(s) are registered in this memory; unregister them first",
			holds);
	}
	for (p = &table; *p; p = &(*p)->next) {
		if (*p == memory) {
			*p = memory->next;
			break;
		}
	}
	pthread_mutex_unlock(&table_lock);
	munmap(memory->addr, memory->backing.length);
	close_backing(&memory->backing, false);
	free(memory);
	return 0;
}

/** mc_memory_addr() - first byte of the mapping, page-aligned; valid until mc_memory_free(). */
void *mc_memory_addr(const mc_memory *memory) { return memory->addr; }

/**
 * mc_memory_info() - what was allocated
 * @info: its size member must be set; at most that many bytes are written
 *
 * Return: 0 or -EINVAL. Any thread.
 */
int mc_memory_info(const mc_memory *memory, struct mc_memory_info *info)
{
	struct mc_memory_info full = { .size = sizeof(full) };
	size_t size;

	if (!memory || !info || info->size < offsetof(struct mc_memory_info, reserved))
		return mci_fail(-EINVAL,
				"mc_memory_info(): set info.size to sizeof(struct mc_memory_info) first");
	size = info->size;
	full.length = memory->backing.length;
	full.page_size = memory->backing.page_size;
	full.kind = memory->backing.kind;
	full.fd = memory->backing.fd;
	full.reattached = memory->backing.reattached;
	full.content_id = memory->backing.content_id;
	full.prefault_ns = memory->prefault_ns;
	memset(info, 0, size);
	memcpy(info, &full, size < sizeof(full) ? size : sizeof(full));
	info->size = size;
	return 0;
}

/* Under table_lock. */
static struct mc_memory *lookup(const void *addr, uint64_t length)
{
	uintptr_t a = (uintptr_t)addr;

	for (struct mc_memory *m = table; m; m = m->next) {
		uintptr_t base = (uintptr_t)m->addr;

		if (a >= base && a - base <= m->backing.length && length <= m->backing.length - (a - base))
			return m;
	}
	return NULL;
}

int mci_memory_find(const void *addr, uint64_t length, int *fd, uint64_t *offset, struct mc_uuid *content_id)
{
	struct mc_memory *m;

	pthread_mutex_lock(&table_lock);
	m = lookup(addr, length);
	if (m) {
		if (fd)
			*fd = m->backing.fd;
		if (offset)
			*offset = (uint64_t)((uintptr_t)addr - (uintptr_t)m->addr);
		if (content_id)
			*content_id = m->backing.content_id;
	}
	pthread_mutex_unlock(&table_lock);
	return m ? 0 : -ENOENT;
}

int mci_memory_hold(const void *addr, uint64_t length, mc_memory **memory)
{
	struct mc_memory *m;

	pthread_mutex_lock(&table_lock);
	m = lookup(addr, length);
	if (m) {
		m->holds++;
		*memory = m;
	}
	pthread_mutex_unlock(&table_lock);
	return m ? 0 : -ENOENT;
}

void mci_memory_object(const mc_memory *memory, struct mci_kdev **kdev, uint32_t *object, uint64_t *length)
{
	*kdev = memory->backing.kdev;
	*object = memory->backing.object;
	*length = memory->backing.length;
}

void mci_memory_put(mc_memory *memory)
{
	pthread_mutex_lock(&table_lock);
	memory->holds--;
	pthread_mutex_unlock(&table_lock);
}
