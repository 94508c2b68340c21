// SPDX-License-Identifier: MIT
/* Checks of the kernel module: loaded, usable by this user, of this release, limits, what it keeps. */
#include "doctor.h"

#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"

#define DEVICE "/dev/mooncake"

static uint64_t number(const json_t *root, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(root, key));
}

static void check_access(const json_t *root)
{
	unsigned int mode = (unsigned int)number(root, "mode");
	struct group *group = getgrgid((gid_t)number(root, "gid"));
	char name[40];

	if (group)
		snprintf(name, sizeof(name), "%s", group->gr_name);
	else
		snprintf(name, sizeof(name), "%u", (unsigned int)number(root, "gid"));
	if (mode & 07)
		finding(FINDING_WARN, DEVICE, "install the udev rule (0660, group mooncake)",
			"its mode is %04o: every user may take memory from it", mode);
	else if (!strcmp(name, "root"))
		finding(FINDING_WARN, DEVICE,
			"make the group (\"groupadd --system mooncake\") and install the udev rule, then "
			"load the module "
			"anew",
			"only root may use it: its mode is %04o and its group root", mode);
	else
		finding(FINDING_OK, DEVICE, NULL, "mode %04o, group %s", mode, name);
}

static void check_version(const json_t *root)
{
	const char *version = json_string_value(json_object_get(root, "version"));
	char features[200] = "";
	json_t *name;
	size_t i, n = 0;

	json_array_foreach(json_object_get(root, "features"), i, name) if (n < sizeof(features)) n +=
		(size_t)snprintf(features + n, sizeof(features) - n, "%s%s", i ? ", " : "",
				 json_string_value(name));
	if (version && strcmp(version, mc_version()))
		finding(FINDING_WARN, "module",
			"both work, with what both know; to have all: \"dkms install "
			"mooncake/" MC_VERSION_STRING "\", \"modprobe -r mooncake\", \"modprobe mooncake\"",
			"version %s is loaded, the library is %s; it can: %s", version, mc_version(),
			features);
	else
		finding(FINDING_OK, "module", NULL, "loaded%s%s; it can: %s", version ? ", version " : "",
			version ? version : "", features);
}

struct sum {
	unsigned int count, idle;
};

static int add_up(const struct mc_memory_entry *entry, void *arg)
{
	struct sum *sum = arg;

	if (!strcmp(entry->kind, "module-kept")) {
		sum->count++;
		sum->idle += !entry->holder_pid;
	}
	return 0;
}

/* "3.0 of 8.0 GiB", "no limit" for a null. */
static const char *of_limit(const json_t *root, const char *used, const char *limit,
			    char text[2 * OUT_SIZE_TEXT + 16])
{
	char a[OUT_SIZE_TEXT], b[OUT_SIZE_TEXT];

	if (json_is_integer(json_object_get(root, limit)))
		snprintf(text, 2 * OUT_SIZE_TEXT + 16, "%s of %s", out_size(number(root, used), a),
			 out_size(number(root, limit), b));
	else
		snprintf(text, 2 * OUT_SIZE_TEXT + 16, "%s, no limit", out_size(number(root, used), a));
	return text;
}

static bool nearly_full(const json_t *root, const char *used, const char *limit)
{
	return json_is_integer(json_object_get(root, limit)) &&
	       number(root, used) > number(root, limit) - number(root, limit) / 10;
}

static void check_limits(const json_t *root)
{
	char user[2 * OUT_SIZE_TEXT + 16], kept[2 * OUT_SIZE_TEXT + 16];
	bool full = nearly_full(root, "user_bytes", "user_limit") ||
		    nearly_full(root, "kept_bytes", "kept_limit");
	struct sum sum = {0};

	mc_memory_list(add_up, &sum);
	finding(full ? FINDING_WARN : FINDING_OK, "module memory",
		full ? "remove what \"mooncake memory ls\" shows unused, or raise user_limit or kept_limit "
		       "in "
		       "/sys/module/mooncake/parameters"
		     : NULL,
		"this user: %s; kept, all users: %s; this user keeps %u, %u of them held by nobody",
		of_limit(root, "user_bytes", "user_limit", user),
		of_limit(root, "kept_bytes", "kept_limit", kept), sum.count, sum.idle);
}

void check_module(void)
{
	char *text = NULL;
	json_t *root;

	if (mc_module_show(&text)) {
		finding(FINDING_WARN, "module", NULL, "%s", mc_errmsg());
		return;
	}
	root = take_json(text);
	if (!root)
		return;
	if (!json_is_true(json_object_get(root, "wanted")))
		finding(FINDING_OK, "module", NULL, "not used: the setting memory.module is off");
	else if (!json_is_true(json_object_get(root, "present")))
		finding(FINDING_OK, "module", NULL,
			"not loaded: memfds and files do its work, without revocation (modprobe mooncake, or "
			"\"dkms "
			"install mooncake/" MC_VERSION_STRING "\" first)");
	else if (!json_is_true(json_object_get(root, "usable")))
		finding(FINDING_WARN, "module", "usermod -aG mooncake USER, then log in anew", "%s",
			json_string_value(json_object_get(root, "error")));
	if (json_is_true(json_object_get(root, "present")))
		check_access(root);
	if (json_is_true(json_object_get(root, "usable"))) {
		check_version(root);
		check_limits(root);
	}
	json_decref(root);
}
