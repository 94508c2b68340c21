// SPDX-License-Identifier: MIT
/*
 * May a peer have a descriptor of the file behind a region, and which one? Or a key to memory of the kernel
 * module?
 *
 * A peer is trusted with files if it is of our user (it could open /proc/<pid>/fd/<n> by itself), or has
 * shown that the kernel lets it read our memory. Others get a file only if the region is all of it, and a
 * read-only one only if no way leads from there to a writable one: F_SEAL_FUTURE_WRITE, or a mode that keeps
 * them from opening it anew. Each grant is an open file of its own: it shares no lock with ours.
 *
 * A key opens whole pages, for one context, once, with the rights that the module enforces. So strangers may
 * have one wherever no byte of another region lies on those pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/log.h"
#include "transport/shm/serve.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define OVERFLOW_USER 65534
#define HUGETLBFS 0x958458f6

int mci_shm_pidfd(pid_t pid) { return pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1; }

bool mci_shm_same_user(uid_t uid)
{
	/* The overflow user stands for anybody whom our user namespace does not know. */
	return !uid || (uid == geteuid() && uid != OVERFLOW_USER);
}

uint64_t mci_shm_file_page(int fd, const struct stat *st)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS && st->st_blksize >= 4096 &&
	    !(st->st_blksize & (st->st_blksize - 1)))
		return (uint64_t)st->st_blksize;
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

void mci_shm_file_look(int fd, uint64_t offset, uint64_t length, struct mci_shm_file *file)
{
	struct stat st;
	int seals;

	*file = (struct mci_shm_file){.there = false};
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || offset > (uint64_t)st.st_size ||
	    length > (uint64_t)st.st_size - offset)
		return;
	seals = fcntl(fd, F_GET_SEALS);
	file->there = true;
	file->whole = !offset && (uint64_t)st.st_size - length < mci_shm_file_page(fd, &st);
	file->shut = !(st.st_mode & 0077);
	file->fixed = seals >= 0 && seals & F_SEAL_SHRINK;
	file->sealed = seals >= 0 && seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE);
}

bool mci_shm_file_grantable(struct mci_shm_file *file, int fd, uint32_t rights, bool trusted)
{
	if (!file->there || !rights)
		return false;
	if (!trusted && (!file->whole || !file->fixed || rights == MC_REMOTE_WRITE))
		return false;
	if (rights & MC_REMOTE_WRITE)
		return !file->sealed;
	/* Our own mapping stays writable. Sealed only where no other region can live in this file. */
	if (!file->sealed && file->whole && !fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE))
		file->sealed = true;
	return trusted || file->sealed || file->shut;
}

int mci_shm_file_open(int fd, uint32_t rights)
{
	char path[40];
	int out;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	out = open(path, (rights & MC_REMOTE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	return out < 0 ? -errno : out;
}

static uint64_t page_of(void) { return (uint64_t)sysconf(_SC_PAGESIZE); }

bool mci_shm_object_grantable(const struct mci_shm_tenant *t, const struct mci_shm_served *served)
{
	uint64_t page = page_of(), end = t->object_offset + t->length;

	if (!t->kdev || !t->rights || !served->attaches)
		return false;
	if (served->same_user || served->probed)
		return true;
	/* What may be written can be read, on whole pages: strangers get it where that is no more than the
	 * region. */
	return t->rights != MC_REMOTE_WRITE && !(t->object_offset % page) &&
	       (!(end % page) || t->object_length - end < page);
}

static struct mci_shm_granted *find_granted(const struct mci_shm_tenant *t,
					    const struct mci_shm_served *served)
{
	for (uint32_t i = 0; i < t->granted_count; i++)
		if (t->granted[i].served == served)
			return &t->granted[i];
	return NULL;
}

bool mci_shm_object_granted(const struct mci_shm_tenant *t, const struct mci_shm_served *served)
{
	return find_granted(t, served);
}

static struct mci_shm_granted *place_for(struct mci_shm_tenant *t)
{
	if (t->granted_count == t->granted_room) {
		uint32_t room = t->granted_room ? 2 * t->granted_room : 4;
		struct mci_shm_granted *more = realloc(t->granted, room * sizeof(*more));

		if (!more)
			return NULL;
		t->granted = more;
		t->granted_room = room;
	}
	return &t->granted[t->granted_count];
}

int mci_shm_object_grant(struct mci_shm_tenant *t, struct mci_shm_served *served, uint8_t key[MCI_SHM_KEY])
{
	uint64_t page = page_of(), from = t->object_offset & ~(page - 1);
	uint64_t to = (t->object_offset + t->length + page - 1) & ~(page - 1);
	struct mci_shm_granted *place;
	int ret;

	mci_shm_object_revoke(t, served);
	place = place_for(t);
	if (!place)
		return mci_fail(-ENOMEM, "no memory for one more peer of a region");
	ret = mci_kdev_grant(t->kdev, t->object, from, to - from, t->rights & MC_REMOTE_WRITE,
			     &served->context_id, &place->number, key);
	if (ret)
		return ret;
	place->served = served;
	t->granted_count++;
	return 0;
}

void mci_shm_object_revoke(struct mci_shm_tenant *t, const struct mci_shm_served *served)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < t->granted_count; i++) {
		int ret;

		if (served && t->granted[i].served != served) {
			t->granted[left++] = t->granted[i];
			continue;
		}
		ret = mci_kdev_revoke_grant(t->kdev, t->granted[i].number);
		if (ret && ret != -ENOENT) /* nothing is attached by it any more */
			mci_error("a grant could not be revoked: %s", mc_errmsg());
	}
	t->granted_count = left;
}
