/* SPDX-License-Identifier: MIT */
/* Within lib/p2p: the texts of records and members in the metadata service. Pure, but for the cluster's MAC.
 */
#ifndef MCI_P2P_RECORD_H
#define MCI_P2P_RECORD_H

#include "p2p/p2p.h"

/* Malloc'd. -EINVAL: a name that is not UTF-8; -ENOMEM. */
int mci_record_encode(mc_engine *engine, const char *name, const struct mci_manifest *manifest,
		      uint64_t max_shard_size, char **text);
/* Layout and root. -EBADMSG; -EKEYREJECTED: the cluster has a key, and the record's MAC is missing or wrong.
 */
int mci_record_decode(mc_engine *engine, const char *name, const char *text, size_t length,
		      struct mci_found *found);
int mci_record_name(const char *text, size_t length, char name[MCI_P2P_NAME_MAX + 1]);

int mci_seen_encode(const struct mci_seen *seen, char **text);
/* @key: what is behind the prefix of all members. -EBADMSG without a sentence. */
int mci_seen_decode(const char *key, const char *text, size_t length, struct mci_seen *seen);

#endif
