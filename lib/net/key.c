// SPDX-License-Identifier: MIT
/* mc_key_*: cluster key files for tools. The key itself is never handed out. No state. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include <mooncake/admin.h>

#include "core/errors.h"
#include "core/uuid.h"
#include "net/auth.h"

#define KEY_BYTES 32

/**
 * mc_key_create() - write a new cluster key: 32 random bytes as hex, a newline, mode 0600
 *
 * Return: 0; -EEXIST: @path exists, it is left alone; -ENOENT, -EACCES, -ENOSPC, ...: as the file system
 * says. Any thread.
 */
int mc_key_create(const char *path)
{
	char text[2 * KEY_BYTES + 2];
	uint8_t key[KEY_BYTES];
	int fd, ret = 0;

	if (!path || !*path)
		return mci_fail(-EINVAL, "mc_key_create(): no path given");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd < 0) {
		ret = -errno;
		return mci_fail(ret, "cannot create key file '%s': %s%s", path, strerror(-ret),
				ret == -EEXIST ? "; a cluster has one key, copy this one to the other hosts"
				: ret == -ENOENT || ret == -ENOTDIR
					? "; its directory must exist: create that first (mkdir -p)"
				: ret == -EACCES || ret == -EROFS ? "; choose a place where you may write"
								  : "");
	}
	mci_random(key, sizeof(key));
	mci_hex(key, sizeof(key), text);
	memcpy(text + 2 * KEY_BYTES, "\n", 2);
	/* The umask may have taken even the owner's rights. */
	if (fchmod(fd, 0600) || write(fd, text, 2 * KEY_BYTES + 1) != 2 * KEY_BYTES + 1 || fsync(fd))
		ret = errno ? -errno : -ENOSPC;
	if (close(fd) && !ret)
		ret = -errno;
	OPENSSL_cleanse(key, sizeof(key));
	OPENSSL_cleanse(text, sizeof(text));
	if (!ret)
		return 0;
	unlink(path);
	return mci_fail(ret, "cannot write key file '%s': %s", path, strerror(-ret));
}

/**
 * mc_key_id() - what to compare keys by
 * @id: 16 hex digits and a NUL
 *
 * Return: 0; -ENOENT, -EPERM (others may read the file), -EINVAL (no key in it), with a sentence. Any thread.
 */
int mc_key_id(const char *path, char id[17])
{
	struct mci_secret secret;
	int ret;

	if (!path || !id)
		return mci_fail(-EINVAL, "mc_key_id(): no path given, or nowhere to put the id");
	ret = mci_key_load(path, &secret);
	if (ret)
		return ret;
	mci_key_id(&secret, id);
	OPENSSL_cleanse(&secret, sizeof(secret));
	return 0;
}

/**
 * mc_key_bearer() - bearer token of a role, for HTTP ports
 * @role: "metrics", "metadata" or "admin"
 * @bearer: 64 hex digits and a NUL
 *
 * Return: as mc_key_id(), and -EINVAL for another role. Any thread.
 */
int mc_key_bearer(const char *path, const char *role, char bearer[65])
{
	struct mci_secret secret;
	int ret;

	if (!path || !role || !bearer)
		return mci_fail(-EINVAL, "mc_key_bearer(): path, role or room for the token is missing");
	if (strcmp(role, "metrics") && strcmp(role, "metadata") && strcmp(role, "admin"))
		return mci_fail(-EINVAL, "\"%.40s\" is not a role; there are metrics, metadata and admin",
				role);
	ret = mci_key_load(path, &secret);
	if (ret)
		return ret;
	mci_key_bearer(&secret, role, bearer);
	OPENSSL_cleanse(&secret, sizeof(secret));
	return 0;
}
