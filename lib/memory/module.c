// SPDX-License-Identifier: MIT
/*
 * Memory of the kernel module: buffers, and kept buffers as named memory. What the module cannot do, or must
 * not by the setting memory.module, is left to memfds and files. All memory of a process is in one context,
 * which is open as long as something needs it; context_lock guards it and is never held over a call to the
 * module.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/settings.h"
#include "memory/named.h"

#define TRIES 100

static pthread_mutex_t context_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mci_kdev *context;
static unsigned int context_users;

/* Names that this process holds or is busy with: to the module, who has the context may open them again. */
struct held {
	struct held *next;
	char name[];
};
static struct held *held;

/* The parent's is closed in a child (kdev.c). */
void mci_module_after_fork(void)
{
	pthread_mutex_init(&context_lock, NULL);
	context = NULL;
	context_users = 0;
	held = NULL;
}

bool mci_module_wanted(void)
{
	struct mci_settings *settings;
	bool wanted;

	if (mci_settings_load(NULL, &settings)) {
		mci_warn("the setting memory.module is not known, the kernel module is not used: %s",
			 mc_errmsg());
		return false;
	}
	wanted = strcmp(mci_settings_text(settings, "memory.module"), "off");
	mci_settings_free(settings);
	return wanted;
}

/* Doing without the module is no failure: say why, once per reason, and leave the last sentence as it was. */
static void say_once(int err)
{
	static _Atomic int said;

	if (atomic_exchange(&said, err) != err)
		mci_info("memory comes from memfds and files: %s", mc_errmsg());
}

struct mci_kdev *mci_module_get(bool quiet)
{
	struct mci_kdev *mine = NULL, *extra = NULL;
	char sentence[1024];
	int ret;

	if (!mci_module_wanted())
		return NULL;
	pthread_mutex_lock(&context_lock);
	if (context) {
		mine = context;
		context_users++;
	}
	pthread_mutex_unlock(&context_lock);
	if (mine)
		return mine;
	snprintf(sentence, sizeof(sentence), "%s", mc_errmsg());
	ret = mci_kdev_open(&mine);
	if (ret) {
		if (!quiet)
			say_once(ret);
		mci_errmsg_set(sentence);
		return NULL;
	}
	pthread_mutex_lock(&context_lock);
	if (context) {
		extra = mine; /* another thread was quicker */
		mine = context;
	}
	context = mine;
	context_users++;
	pthread_mutex_unlock(&context_lock);
	mci_kdev_close(extra);
	return mine;
}

void mci_module_put(struct mci_kdev *kdev)
{
	struct mci_kdev *last = NULL;

	if (!kdev)
		return;
	pthread_mutex_lock(&context_lock);
	if (kdev == context && !--context_users) {
		last = context;
		context = NULL;
	}
	pthread_mutex_unlock(&context_lock);
	mci_kdev_close(last);
}

/* Its pages are taken now, all of them: more than there is would push others out. */
static bool fits(const struct mc_memory_attr *attr)
{
	uint64_t have = mci_memory_available();
	char asked[MCI_SIZE_TEXT], have_text[MCI_SIZE_TEXT];

	if (attr->length <= have)
		return true;
	mci_info("%s are not taken from the kernel module: %s are available to this process",
		 mci_size_text(attr->length, asked), mci_size_text(have, have_text));
	return false;
}

static bool small_pages(const struct mc_memory_attr *attr) { return attr->page_size <= mci_base_page(); }

static void take(struct mci_backing *b, struct mci_kdev *kdev, const struct mci_kdev_buffer *buffer,
		 const char *name)
{
	b->kdev = kdev;
	b->object = buffer->id;
	b->length = buffer->length;
	b->page_size = mci_base_page();
	b->mmap_offset = buffer->mmap_offset;
	b->content_id = buffer->content_id;
	b->kind = name ? "module-kept" : "module";
	snprintf(b->name, sizeof(b->name), "%s", name ? name : "");
}

bool mci_module_alloc(const struct mc_memory_attr *attr, struct mci_backing *b)
{
	struct mci_kdev_buffer buffer;
	char sentence[1024];
	struct mci_kdev *kdev;

	if (attr->flags & (MC_MEMORY_PRIVATE | MC_MEMORY_NO_MODULE) || !small_pages(attr))
		return false;
	kdev = mci_module_get(false);
	if (!kdev)
		return false;
	snprintf(sentence, sizeof(sentence), "%s", mc_errmsg());
	if (!fits(attr) || mci_kdev_alloc(kdev, attr->length, attr->numa_node, &buffer)) {
		mci_info("a memfd is used instead of the kernel module: %s", mc_errmsg());
		mci_errmsg_set(sentence);
		mci_module_put(kdev);
		return false;
	}
	memset(b, 0, sizeof(*b));
	b->fd = b->dir_fd = b->data_dir_fd = -1;
	take(b, kdev, &buffer, NULL);
	return true;
}

static int busy(const char *name, uint32_t holder)
{
	if (holder == (uint32_t)getpid())
		return mci_fail(-EBUSY, "memory \"%s\" is held by this process (%u) already; free it first",
				name, holder);
	if (holder)
		return mci_fail(-EBUSY, "memory \"%s\" is held by process %u; stop that process first", name,
				holder);
	return mci_fail(
		-EBUSY,
		"memory \"%s\" is held by a process that is not seen from here (of another container?); stop "
		"that process first",
		name);
}

static int hold(const char *name)
{
	size_t n = strlen(name) + 1;
	struct held *h, *mine = malloc(sizeof(*mine) + n);

	if (!mine)
		return mci_fail(-ENOMEM, "no memory for the name \"%s\"", name);
	memcpy(mine->name, name, n);
	pthread_mutex_lock(&context_lock);
	for (h = held; h && strcmp(h->name, name); h = h->next)
		;
	if (!h) {
		mine->next = held;
		held = mine;
	}
	pthread_mutex_unlock(&context_lock);
	if (!h)
		return 0;
	free(mine);
	return busy(name, (uint32_t)getpid());
}

static void let_go(const char *name)
{
	struct held **p, *found;

	pthread_mutex_lock(&context_lock);
	for (p = &held; *p && strcmp((*p)->name, name); p = &(*p)->next)
		;
	found = *p;
	if (found)
		*p = found->next;
	pthread_mutex_unlock(&context_lock);
	free(found);
}

static int twice(const char *name)
{
	return mci_fail(
		-ENOTUNIQ,
		"memory \"%s\" is there twice: the kernel module keeps one, and there is a file; with "
		"MOONCAKE_MODULE=off the file alone is seen, and can be used or removed; \"mooncake memory "
		"unlink "
		"%s\" removes both",
		name, name);
}

static int exists(const char *name)
{
	return mci_fail(
		-EEXIST,
		"memory \"%s\" exists already and MC_MEMORY_CREATE was asked for; mc_memory_unlink() or "
		"\"mooncake memory unlink %s\" removes it",
		name, name);
}

/* Is what was opened what the caller asked for? */
static int check_kept(const struct mc_memory_attr *attr, const struct mci_kdev_buffer *buffer)
{
	uint64_t page = mci_base_page(), length = (attr->length + page - 1) & ~(page - 1);

	if (!small_pages(attr))
		return mci_fail(-EINVAL,
				"memory \"%s\" exists with pages of %llu bytes, not %llu; ask for page size "
				"0 or unlink "
				"it first",
				attr->name, (unsigned long long)page, (unsigned long long)attr->page_size);
	if (buffer->length != length)
		return mci_fail(-EINVAL,
				"memory \"%s\" exists with %llu bytes, not %llu; ask for its length, or "
				"remove it with "
				"mc_memory_unlink() or \"mooncake memory unlink %s\"",
				attr->name, (unsigned long long)buffer->length, (unsigned long long)length,
				attr->name);
	return 0;
}

/*
 * One look at both places. 0: @buffer is ours, *@kept says whether it was there before; 1: a file is meant;
 * -EAGAIN: somebody made or removed it meanwhile.
 */
static int find_or_make(struct mci_kdev *kdev, const struct mc_memory_attr *attr,
			struct mci_kdev_buffer *buffer, bool *kept)
{
	bool file = mci_named_exists(attr->name);
	uint32_t holder = 0;
	int ret;

	ret = mci_kdev_open_kept(kdev, attr->name, true, buffer, &holder);
	*kept = !ret;
	if (ret && ret != -EBUSY && ret != -ENOENT)
		return 1;
	if (ret != -ENOENT && (file || attr->flags & MC_MEMORY_CREATE)) {
		if (*kept)
			mci_kdev_destroy(kdev, buffer->id);
		return file ? twice(attr->name) : exists(attr->name);
	}
	if (ret == -EBUSY)
		return busy(attr->name, holder);
	if (*kept) {
		ret = check_kept(attr, buffer);
		if (ret)
			mci_kdev_destroy(kdev, buffer->id);
		return ret;
	}
	if (file || !small_pages(attr) || attr->flags & MC_MEMORY_EXISTING || !fits(attr))
		return 1;
	ret = mci_kdev_alloc_kept(kdev, attr->name, attr->length, attr->numa_node, buffer);
	if (ret == -EEXIST)
		return attr->flags & MC_MEMORY_CREATE ? exists(attr->name) : -EAGAIN;
	if (ret)
		mci_info("memory \"%s\" becomes a file: %s", attr->name, mc_errmsg());
	return ret ? 1 : 0;
}

int mci_module_open_named(const struct mc_memory_attr *attr, struct mci_backing *b, bool *taken)
{
	struct mci_kdev_buffer buffer;
	struct mci_kdev *kdev;
	bool kept = false;
	int ret;

	*taken = false;
	ret = mci_named_check(attr->name);
	if (ret || attr->flags & MC_MEMORY_NO_MODULE)
		return ret;
	kdev = mci_module_get(false);
	if (!kdev)
		return 0;
	ret = hold(attr->name);
	if (ret) {
		mci_module_put(kdev);
		return ret;
	}
	ret = -EAGAIN;
	for (int try = 0; ret == -EAGAIN && try < TRIES; try++)
		ret = find_or_make(kdev, attr, &buffer, &kept);
	if (ret) {
		let_go(attr->name);
		mci_module_put(kdev);
		if (ret == -EAGAIN)
			return mci_fail(
				ret, "memory \"%s\" is removed and created all the time by another process",
				attr->name);
		return ret == 1 ? 0 : ret;
	}
	take(b, kdev, &buffer, attr->name);
	b->reattached = kept;
	*taken = true;
	return 0;
}

void mci_module_close(struct mci_backing *b, bool undo)
{
	if (undo && b->name[0] && !b->reattached)
		mci_kdev_unlink(b->kdev, b->name);
	mci_kdev_destroy(b->kdev, b->object);
	if (b->name[0])
		let_go(b->name);
	mci_module_put(b->kdev);
}

struct listing {
	int (*fn)(const struct mc_memory_entry *entry, void *arg);
	void *arg;
};

static int list_one(const struct mci_kdev_entry *kept, void *arg)
{
	struct mc_memory_entry entry = {
		.size = sizeof(entry),
		.name = kept->name,
		.length = kept->length,
		.page_size = mci_base_page(),
		.kind = "module-kept",
		.content_id = kept->content_id,
		.generation = kept->generation,
		.contexts = kept->contexts,
		.mappings = kept->mappings,
		.grants = kept->grants,
		.dmabufs = kept->dmabufs,
	};
	struct listing *l = arg;

	if (kept->uid != geteuid() || !kept->name)
		return 0;
	/* Without a holder the pid is its maker's, who may live still. */
	if (kept->exclusive)
		entry.holder_pid = kept->pid ? (int)kept->pid : -1;
	return l->fn(&entry, l->arg);
}

int mci_module_list(int (*fn)(const struct mc_memory_entry *entry, void *arg), void *arg)
{
	struct listing l = {fn, arg};
	int ret;

	if (!mci_module_wanted())
		return 0;
	ret = mci_kdev_list(true, list_one, &l);
	if (ret != -ENODEV && ret != -EOPNOTSUPP)
		return ret;
	mci_info("kept memory of the kernel module is not listed: %s", mc_errmsg());
	return 0;
}

int mci_module_unlink(const char *name)
{
	struct mci_kdev *kdev = mci_module_get(true);
	struct mci_kdev_buffer buffer;
	uint32_t holder = 0;
	int ret;

	if (!kdev)
		return -ENOENT;
	ret = hold(name);
	if (ret)
		goto out_put;
	ret = mci_kdev_open_kept(kdev, name, true, &buffer, &holder);
	if (ret == -EBUSY) {
		ret = busy(name, holder);
	} else if (!ret) {
		ret = mci_kdev_unlink(kdev, name);
		mci_kdev_destroy(kdev, buffer.id);
	} else {
		ret = -ENOENT; /* none, or not for us: a file may be meant */
	}
	let_go(name);
out_put:
	mci_module_put(kdev);
	return ret;
}
