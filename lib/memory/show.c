// SPDX-License-Identifier: MIT
/* What is known of a named memory, and of the kernel module, as JSON for tools; and revocation. No state. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mooncake/admin.h>

#include "core/errors.h"
#include "core/uuid.h"
#include "memory/named.h"

static json_t *number(uint64_t value) { return json_integer((json_int_t)value); }

static int hand_out(json_t *value, const char *function, char **json)
{
	char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;

	json_decref(value);
	if (!text)
		return mci_fail(-ENOMEM, "%s(): no memory", function);
	*json = text;
	return 0;
}

/* What only an open buffer tells; one that is held exclusively cannot be opened, and its holder knows. */
static void add_stat(const char *name, json_t *item)
{
	struct mci_kdev *kdev = mci_module_get(true);
	struct mci_kdev_buffer buffer;
	struct mci_kdev_stat stat;
	json_t *nodes;

	if (!kdev)
		return;
	if (mci_kdev_open_kept(kdev, name, false, &buffer, NULL)) {
		mci_module_put(kdev);
		return;
	}
	if (!mci_kdev_stat(kdev, buffer.id, &stat)) {
		nodes = json_array();
		for (unsigned int i = 0; i < stat.node_count && i < 8; i++)
			json_array_append_new(nodes, number(stat.node_pages[i]));
		json_object_set_new(item, "pages", number(stat.pages));
		json_object_set_new(item, "extents", number(stat.extents));
		json_object_set_new(item, "pinned_pages", number(stat.pinned_pages));
		json_object_set_new(item, "dmabuf_attached", number(stat.dmabuf_attached));
		json_object_set_new(item, "node_pages", nodes);
	}
	mci_kdev_destroy(kdev, buffer.id);
	mci_module_put(kdev);
}

struct wanted {
	const char *name;
	json_t *list;
};

static int collect(const struct mc_memory_entry *e, void *arg)
{
	struct wanted *w = arg;
	char id[MCI_UUID_TEXT];
	json_t *item;

	if (strcmp(e->name, w->name))
		return 0;
	mci_uuid_text(&e->content_id, id);
	item = json_pack("{ss ss sI sI so so}", "name", e->name, "kind", e->kind, "length",
			 (json_int_t)e->length, "page_size", (json_int_t)e->page_size, "holder_pid",
			 e->holder_pid ? json_integer(e->holder_pid) : json_null(), "content_id",
			 mci_uuid_is_zero(&e->content_id) ? json_null() : json_string(id));
	if (item && !strcmp(e->kind, "module-kept")) {
		json_object_set_new(item, "generation", number(e->generation));
		json_object_set_new(item, "contexts", number(e->contexts));
		json_object_set_new(item, "mappings", number(e->mappings));
		json_object_set_new(item, "grants", number(e->grants));
		json_object_set_new(item, "dmabufs", number(e->dmabufs));
		if (!e->holder_pid)
			add_stat(e->name, item);
	}
	return item && !json_array_append_new(w->list, item) ? 0 : -ENOMEM;
}

/**
 * mc_memory_show() - everything known of a named memory of the calling user
 * @json: array of {name, kind, length, page_size, holder_pid, content_id, ...}, one for each place where the
 * name is found: kept by the kernel module, a file; free() it
 *
 * Return: 0; -ENOENT: there is none; -EINVAL: not a name; as mc_memory_list(). Any thread.
 */
int mc_memory_show(const char *name, char **json)
{
	struct wanted w = {.name = name};
	int ret;

	if (!name || !json)
		return mci_fail(-EINVAL, "mc_memory_show(): no name, or nowhere to put the text");
	ret = mci_named_check(name);
	if (ret)
		return ret;
	w.list = json_array();
	ret = mc_memory_list(collect, &w);
	if (!ret && !json_array_size(w.list))
		ret = mci_fail(-ENOENT, "there is no memory \"%s\" of user %u", name, geteuid());
	if (ret) {
		json_decref(w.list);
		return ret;
	}
	return hand_out(w.list, "mc_memory_show", json);
}

/**
 * mc_memory_revoke() - take a kept memory away from all who use it, its holder included
 * @name: of the calling user, kept by the kernel module
 * @flags: MC_MEMORY_REPLACE
 * @revoked: NULL, or what the revocation could not end; its size member must be set
 *
 * When it returns, no processor reaches the memory through a mapping: a process that touches one gets SIGBUS.
 * The content stays (without MC_MEMORY_REPLACE), and the name: who allocates it anew has it.
 *
 * Return: 0; -ENOENT: there is none; -EOPNOTSUPP: it is a file, which cannot be revoked, or the module cannot
 * replace pages; -ENODEV: no module; -EACCES; -EINVAL. Any thread.
 */
int mc_memory_revoke(const char *name, uint32_t flags, struct mc_memory_revoked *out)
{
	struct mci_kdev_revoked revoked = {0};
	struct mc_memory_revoked full = {.size = sizeof(full)};
	struct mci_kdev *kdev = NULL;
	size_t size;
	int ret;

	if (!name || flags & ~MC_MEMORY_REPLACE ||
	    (out && out->size < offsetof(struct mc_memory_revoked, reserved)))
		return mci_fail(
			-EINVAL,
			"mc_memory_revoke(): no name, an unknown flag, or the size member is not set");
	ret = mci_named_check(name);
	if (!ret)
		ret = mci_kdev_open(&kdev);
	if (ret)
		return ret;
	ret = mci_kdev_revoke_kept(kdev, name, flags & MC_MEMORY_REPLACE, &revoked);
	mci_kdev_close(kdev);
	if (ret == -ENOENT && mci_named_exists(name))
		ret = mci_fail(-EOPNOTSUPP,
			       "memory \"%s\" is a file, which nobody can take from a process that has "
			       "mapped it; end its "
			       "holder, or let the kernel module keep it",
			       name);
	if (ret || !out)
		return ret;
	full.pinned_pages = revoked.pinned_pages;
	full.generation = revoked.generation;
	full.dmabuf_attached = revoked.dmabuf_attached;
	size = out->size;
	memset(out, 0, size);
	memcpy(out, &full, size < sizeof(full) ? size : sizeof(full));
	out->size = size;
	return 0;
}

static void add_query(struct mci_kdev *kdev, json_t *root)
{
	struct mci_kdev_info info;
	json_t *features = json_array();

	if (mci_kdev_query(kdev, &info)) {
		json_decref(features);
		return;
	}
	for (unsigned int i = 0; i < MCI_KDEV_FEATURES; i++)
		if (info.features >> i & 1)
			json_array_append_new(features,
					      json_string(mci_kdev_feature_name((enum mci_kdev_feature)i)));
	json_object_set_new(root, "abi_version", number(info.abi_version));
	json_object_set_new(root, "features", features);
	json_object_set_new(root, "page_size", number(info.page_size));
	json_object_set_new(root, "length_max", number(info.length_max));
	json_object_set_new(root, "user_bytes", number(info.user_bytes));
	json_object_set_new(root, "user_limit",
			    info.user_limit == MCI_KDEV_NO_LIMIT ? json_null() : number(info.user_limit));
	json_object_set_new(root, "kept_bytes", number(info.kept_bytes));
	json_object_set_new(root, "kept_limit",
			    info.kept_limit == MCI_KDEV_NO_LIMIT ? json_null() : number(info.kept_limit));
	json_object_set_new(root, "objects_max", number(info.objects_max));
}

static json_t *first_line(const char *path)
{
	char text[128] = "";
	FILE *f = fopen(path, "re");

	if (!f)
		return json_null();
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	text[strcspn(text, "\n")] = '\0';
	return json_string(text);
}

/**
 * mc_module_show() - the kernel module as this process sees it
 * @json: object: present (is there a device), usable, wanted (by the setting memory.module), error (why it is
 * not usable), version (of the loaded module), mode, uid, gid (of the device); if usable: abi_version,
 *        features, page_size, length_max, objects_max, user_bytes and user_limit (of the calling user; null:
 * no limit), kept_bytes and kept_limit (of all users); free() it
 *
 * Return: 0, also without a module; -ENOMEM. Any thread.
 */
int mc_module_show(char **json)
{
	struct mci_kdev *kdev;
	json_t *root = json_object();
	struct stat st;
	bool present;
	int ret;

	if (!json)
		return mci_fail(-EINVAL, "mc_module_show(): nowhere to put the text");
	present = !stat(MCI_KDEV_PATH, &st) && S_ISCHR(st.st_mode);
	json_object_set_new(root, "present", json_boolean(present));
	json_object_set_new(root, "wanted", json_boolean(mci_module_wanted()));
	json_object_set_new(root, "version", first_line("/sys/module/mooncake/version"));
	if (present) {
		json_object_set_new(root, "mode", number(st.st_mode & 07777));
		json_object_set_new(root, "uid", number(st.st_uid));
		json_object_set_new(root, "gid", number(st.st_gid));
	}
	ret = mci_kdev_open(&kdev);
	json_object_set_new(root, "usable", json_boolean(!ret));
	json_object_set_new(root, "error", ret ? json_string(mc_errmsg()) : json_null());
	if (!ret) {
		add_query(kdev, root);
		mci_kdev_close(kdev);
	}
	return hand_out(root, "mc_module_show", json);
}
