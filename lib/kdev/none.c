// SPDX-License-Identifier: MIT
/* A build without USE_KMOD has the same functions; they say what is missing. */
#include "core/errors.h"
#include "kdev/kdev.h"

static int none(void)
{
	return mci_fail(-ENODEV, "this build cannot use the kernel module; build it with 'make USE_KMOD=1'");
}

#define NONE(function, ...) \
	int function(__VA_ARGS__) { return none(); }

/* clang-format off */
#pragma GCC diagnostic ignored "-Wunused-parameter"
NONE(mci_kdev_open, struct mci_kdev **kdev)
void mci_kdev_close(struct mci_kdev *kdev) { (void)kdev; }
NONE(mci_kdev_query, struct mci_kdev *kdev, struct mci_kdev_info *info)
const char *mci_kdev_feature_name(enum mci_kdev_feature feature) { (void)feature; return "?"; }
NONE(mci_kdev_destroy, struct mci_kdev *kdev, uint32_t id)
NONE(mci_kdev_stat, struct mci_kdev *kdev, uint32_t id, struct mci_kdev_stat *stat)
NONE(mci_kdev_export, struct mci_kdev *kdev, uint32_t id, bool writable, int *fd)
NONE(mci_kdev_map, struct mci_kdev *kdev, uint64_t mmap_offset, uint64_t length, bool writable, void **addr)
NONE(mci_kdev_alloc, struct mci_kdev *kdev, uint64_t length, int node, struct mci_kdev_buffer *buffer)
NONE(mci_kdev_alloc_kept, struct mci_kdev *kdev, const char *name, uint64_t length, int node,
     struct mci_kdev_buffer *buffer)
NONE(mci_kdev_open_kept, struct mci_kdev *kdev, const char *name, bool exclusive, struct mci_kdev_buffer *buffer,
     uint32_t *holder)
NONE(mci_kdev_unlink, struct mci_kdev *kdev, const char *name)
NONE(mci_kdev_grant, struct mci_kdev *kdev, uint32_t id, uint64_t offset, uint64_t length, bool writable,
     const struct mc_uuid *receiver, uint64_t *grant, uint8_t key[MCI_KDEV_KEY])
NONE(mci_kdev_attach, struct mci_kdev *kdev, const uint8_t key[MCI_KDEV_KEY],
     struct mci_kdev_attachment *attachment)
NONE(mci_kdev_revoke_grant, struct mci_kdev *kdev, uint64_t grant)
NONE(mci_kdev_revoke, struct mci_kdev *kdev, uint32_t id, bool replace, struct mci_kdev_revoked *revoked)
NONE(mci_kdev_revoke_kept, struct mci_kdev *kdev, const char *name, bool replace, struct mci_kdev_revoked *revoked)
NONE(mci_kdev_list, bool kept, int (*fn)(const struct mci_kdev_entry *entry, void *arg), void *arg)
