/* SPDX-License-Identifier: MIT */
/*
 * The record of the classic P2P store: JSON under mooncake/checkpoint/NAME, all shards with who has them. For
 * us a derived view, written under classic only (contracts F1). Pure codec: no socket, no thread.
 *
 * A shard never spans two ranges; the last one of a range is short. Where a shard lies is a segment name and
 * an address in that process; "gold" are those who registered it, "replicas" those who fetched all of it.
 */
#ifndef MCI_P2P_CLASSIC_H
#define MCI_P2P_CLASSIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCI_P2P_CLASSIC_PREFIX "mooncake/checkpoint/"
#define MCI_P2P_CLASSIC_MAX (1u << 20) /* longer records are not written; etcd refuses 1.5 MiB */
#define MCI_P2P_CLASSIC_REPLICAS 2     /* of ours in one shard */

struct mci_classic_location {
	char *segment;
	uint64_t address;
};
struct mci_classic_locations {
	struct mci_classic_location *at;
	uint32_t count;
};
struct mci_classic_shard {
	uint64_t size;
	struct mci_classic_locations gold, replicas;
};
struct mci_classic_record {
	char *name;
	uint64_t bytes, max_shard_size;
	uint64_t *size_list;
	uint32_t size_count, shard_count;
	struct mci_classic_shard *shard;
};

/* No locations yet. -EINVAL with a sentence: no sizes, a size or shard of 0, or more than 2^20 shards;
 * -ENOMEM. */
int mci_classic_new(const char *name, const uint64_t *sizes, uint32_t count, uint64_t max_shard_size,
		    struct mci_classic_record **record);
/* -EBADMSG with a sentence: not JSON, a member missing or of another type, sizes that do not fit each other.
 */
int mci_classic_parse(const char *text, size_t length, struct mci_classic_record **record);
void mci_classic_free(struct mci_classic_record *record); /* NULL is fine */
/* malloc'd. NULL = no memory. */
char *mci_classic_text(const struct mci_classic_record *record);

/* @addresses: of each range in @segment's process. What @segment had there before is replaced. Not gold: only
 * where fewer than MCI_P2P_CLASSIC_REPLICAS replicas are listed. -ENOMEM. */
int mci_classic_add(struct mci_classic_record *record, const char *segment, const uint64_t *addresses,
		    bool gold);
/* Remove what @segment has there, and nothing else. True: there was something. */
bool mci_classic_remove(struct mci_classic_record *record, const char *segment);
bool mci_classic_nobody(const struct mci_classic_record *record); /* no shard has any location */

#endif
