// SPDX-License-Identifier: MIT
/* Names of metadata keys, and the rpc meta record. */
#include "engine/descriptor.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/errors.h"

#define RPC_META_MAX 4096

/* A name with a slash is a key of its own below the prefix; these would reach into other kinds of keys. */
static const char *const reserved[] = {"rpc_meta/", "ram/", "token/", "checkpoint/", "p2p/"};

static int check_name(const char *name)
{
	const char *p;
	size_t i;

	if (!name || !*name || strlen(name) > MCI_NAME_MAX)
		return mci_fail(-EINVAL, "a segment name has 1 to %d bytes", MCI_NAME_MAX);
	for (p = name; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return mci_fail(-EINVAL, "a segment name has no control characters");
	for (i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
		if (!strncmp(name, reserved[i], strlen(reserved[i])))
			return mci_fail(-EINVAL,
					"segment name '%s' would be a key of another kind; it must not begin "
					"with '%s'",
					name, reserved[i]);
	return 0;
}

int mci_key_make(const char *cluster_id, const char *kind, const char *name, char key[MCI_KEY_MAX])
{
	const char *id = cluster_id ? cluster_id : "";
	size_t length = strlen(id);
	const char *slash = length && id[length - 1] != '/' ? "/" : "";
	char text[MCI_KEY_MAX];
	int n;

	n = snprintf(text, sizeof(text), "mooncake/%s%s%s%s", id, slash, kind, name);
	if (n < 0 || (size_t)n >= sizeof(text))
		return mci_fail(-EINVAL, "cluster id of %zu bytes: the metadata key would be longer than %d",
				length, MCI_KEY_MAX - 1);
	memcpy(key, text, (size_t)n + 1);
	return 0;
}

int mci_key_ram(const char *cluster_id, const char *name, char key[MCI_KEY_MAX])
{
	int ret = check_name(name);

	return ret ?: mci_key_make(cluster_id, strchr(name, '/') ? "" : "ram/", name, key);
}

int mci_key_rpc_meta(const char *cluster_id, const char *name, char key[MCI_KEY_MAX])
{
	int ret = check_name(name);

	return ret ?: mci_key_make(cluster_id, "rpc_meta/", name, key);
}

int mci_key_token(const char *cluster_id, const char *name, char key[MCI_KEY_MAX])
{
	int ret = check_name(name);

	return ret ?: mci_key_make(cluster_id, "token/", name, key);
}

int mci_key_ram_prefix(const char *cluster_id, char key[MCI_KEY_MAX])
{
	return mci_key_make(cluster_id, "ram/", "", key);
}

int mci_rpc_meta_encode(const char *host, uint16_t port, char **text)
{
	json_t *root = json_pack("{s:s, s:i}", "ip_or_host_name", host, "rpc_port", (int)port);
	char *out = root ? json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(root);
	if (!out)
		return mci_fail(
			-EINVAL,
			"the address record of this process cannot be written: not UTF-8, or no memory");
	*text = out;
	return 0;
}

int mci_rpc_meta_decode(const char *text, size_t length, char host[MCI_HOST_MAX], uint16_t *port)
{
	const json_t *name, *number;
	json_t *root = NULL;
	int ret = 0;

	if (length <= RPC_META_MAX)
		root = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
	name = json_object_get(root, "ip_or_host_name");
	number = json_object_get(root, "rpc_port");
	if (!json_is_string(name) || !json_string_length(name) || json_string_length(name) >= MCI_HOST_MAX ||
	    !json_is_integer(number) || json_integer_value(number) < 1 ||
	    json_integer_value(number) > UINT16_MAX) {
		ret = mci_fail(-EBADMSG,
			       "the address record (rpc_meta) is malformed: it must be {\"ip_or_host_name\": "
			       "text, \"rpc_port\": 1 to 65535}");
	} else {
		memcpy(host, json_string_value(name), json_string_length(name) + 1);
		*port = (uint16_t)json_integer_value(number);
	}
	json_decref(root);
	return ret;
}
