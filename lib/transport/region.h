/* SPDX-License-Identifier: MIT */
/*
 * Regions of this process: what is registered, under which id and generation, and who uses it now.
 * Every transport checks remote access here, where the memory lives.
 * Lock order: the table's mutex is a leaf. Lookups take it for a few instructions only.
 */
#ifndef MCI_REGION_H
#define MCI_REGION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <mooncake/engine.h>

#define MCI_LOCATION_MAX 64

struct mci_kdev;

struct mci_region {
	uint32_t id, generation;
	uint32_t rights; /* MC_REMOTE_* */
	uint8_t *addr;
	uint64_t length;
	struct mc_uuid content_id;
	char location[MCI_LOCATION_MAX];
	int memfd; /* descriptor behind it (not owned), -1 = none */
	uint64_t memfd_offset;
	struct mci_kdev *kdev; /* memory of the kernel module (not owned), NULL = it is not */
	uint32_t object;
	uint64_t object_offset, object_length; /* of the region in it; of all of it */
	bool classic; /* also reachable by raw address, under --classic */
	/* low bits: users; top bit: dying. mci_region_get() fails once it is dying. */
	_Atomic uint64_t users;
	struct mci_region_table *table; /* set by mci_regions_add() */
	void *engine_private;
	void *transport_private[5]; /* by enum mci_transport_id */
};

struct mci_region_table;

int mci_regions_create(struct mci_region_table **table);
void mci_regions_destroy(struct mci_region_table *table);
/* -EEXIST if the range overlaps one that is there. Fills id and generation: ids are re-used with a higher
 * generation. */
int mci_regions_add(struct mci_region_table *table, struct mci_region *region);
/*
 * Taking a region out: retire() refuses new users (without @force: -EBUSY if there are any, and nothing
 * changed); revive() takes that back; wait() waits until @deadline_ns for the users of a retired region, or
 * -EBUSY; remove() does the same and forgets it, or -EBUSY: it stays retired and the call may be repeated.
 */
int mci_regions_retire(struct mci_region_table *table, struct mci_region *region, bool force);
void mci_regions_revive(struct mci_region_table *table, struct mci_region *region);
int mci_regions_wait(struct mci_region_table *table, struct mci_region *region, uint64_t deadline_ns);
int mci_regions_remove(struct mci_region_table *table, struct mci_region *region, uint64_t deadline_ns);

/*
 * Remote access: find, check and take a use in one step.
 * -ESTALE: no such id, or another generation; -EFAULT: outside; -EACCES: right missing.
 */
int mci_region_get_remote(struct mci_region_table *table, uint32_t id, uint32_t generation, uint64_t offset,
			  uint64_t length, uint32_t right, struct mci_region **region);
/* By address: local buffers of requests (right 0), and classic peers (which only see regions flagged
 * classic). -EFAULT. */
int mci_region_get_address(struct mci_region_table *table, const void *addr, uint64_t length, uint32_t right,
			   bool classic_only, struct mci_region **region);
void mci_region_put(struct mci_region *region);
/* It takes no new uses; for who keeps one over several requests. */
bool mci_region_dying(const struct mci_region *region);
/* Under the table's mutex; @fn must be short. */
void mci_regions_each(struct mci_region_table *table, void (*fn)(struct mci_region *region, void *arg),
		      void *arg);

#endif
