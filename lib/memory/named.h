/* SPDX-License-Identifier: MIT */
/* Where named memories lie; shared by named.c and listing.c. */
#ifndef MCI_NAMED_H
#define MCI_NAMED_H

#include <sys/types.h>

#include "memory/memory.h"

#define MCI_NAMED_ROOT "/dev/shm/mooncake"

/* 0 or -EINVAL with a sentence. */
int mci_named_check(const char *name);
/*
 * Directory of the calling user, 0700 and his own: on tmpfs (@page_size at most the base page; sidecars
 * are always here) or on a mounted hugetlbfs of that page size. -ENOENT without a sentence: not there
 * and not @create.
 */
int mci_named_dir(uint64_t page_size, bool create, int *fd);
int mci_sidecar_read(int dir_fd, const char *name, struct mci_sidecar *sidecar); /* -ENOENT, -EBADMSG */
int mci_sidecar_write(int dir_fd, const char *name, const struct mci_sidecar *sidecar);
int mci_sidecar_remove(int dir_fd, const char *name);
/* 0 = now ours until the descriptor is closed, -EBUSY (no sentence). */
int mci_named_lock(int fd);
/* The name still means the file that was opened: nobody replaced it before we had the lock. */
bool mci_named_is(int data_dir_fd, const char *name, int fd);
/* Is there a file of that name, of any page size? */
bool mci_named_exists(const char *name);
int mci_named_busy(int dir_fd, const char *name); /* -EBUSY with a sentence that names the holder */

#endif
