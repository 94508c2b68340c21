/* SPDX-License-Identifier: MIT */
/*
 * What two processes on one host share, and what they say to each other about it: the layout of the
 * two control pages and the codec of the frames. Pure layout and state, no I/O here.
 *
 *   initiator                              target
 *                                      <-  TABLE {version, slots, size} + descriptor of the table
 *                                      <-  USE {size, probe address} + descriptor of the use page
 *   PROVE {nonce read in the use page, nonce read at the probe address or zeros,
 *          our context of the kernel module or zeros} ->
 *                                      <-  READY {the initiator's nonce read in the use page, flags}
 *   ASK {regions} ->                   <-  GRANT {how each can be reached} (+ descriptor or key of one)
 *                                      <-  GONE {}: some word of the table changed
 *
 * Addresses, keys and descriptors travel on this authenticated unix connection only.
 */
#ifndef MCI_SHM_CONTROL_H
#define MCI_SHM_CONTROL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCI_SHM_VERSION 2
#define MCI_SHM_SLOTS 65536u
#define MCI_SHM_NONCE 32
#define MCI_SHM_KEY 16
#define MCI_SHM_FRAME_LIMIT (64u << 10)
#define MCI_SHM_ASK_MAX 1024u
#define MCI_SHM_TABLE_MAGIC 0x31454c424154434dull /* "MCTABLE1" */
#define MCI_SHM_USE_MAGIC 0x314553554853434dull	  /* "MCSHUSE1" */

_Static_assert(4 + MCI_SHM_ASK_MAX * 60 <= MCI_SHM_FRAME_LIMIT, "the longest list fits into a frame");

enum mci_shm_frame {
	MCI_SHM_TABLE = 1,
	MCI_SHM_USE,
	MCI_SHM_PROVE,
	MCI_SHM_READY,
	MCI_SHM_ASK,
	MCI_SHM_GRANT,
	MCI_SHM_GONE
};

/*
 * The table: one per target, written by it alone, mapped read-only by all its initiators (sealed: nobody
 * can map it writable). A slot's word is the stamp of the region that lives there, a number that never
 * comes twice; with MCI_SHM_DYING while its owner waits for those inside to leave; 0 = nothing lives here.
 */
#define MCI_SHM_DYING (1ull << 63)
#define MCI_SHM_STAMP_BITS 47

struct mci_shm_table {
	uint64_t magic;
	uint32_t version, slots;
	uint64_t pad[6];
	_Atomic uint64_t word[MCI_SHM_SLOTS];
};

/*
 * The use page: one per connection, writable by both. Before an initiator touches a region it adds 1
 * to the slot's counter, then reads the slot's word; the owner changes the word, then reads the counters. So
 * either the initiator sees that the region is going, or the owner sees that somebody is inside.
 */
struct mci_shm_use_slot {
	_Atomic uint32_t copies; /* requests inside */
	_Atomic uint32_t views;	 /* mapped views */
	uint8_t pad[56];	 /* a cache line each: slots are used by different threads */
};

struct mci_shm_use {
	uint64_t magic;
	uint32_t version, slots;
	uint8_t target_nonce[MCI_SHM_NONCE], initiator_nonce[MCI_SHM_NONCE];
	uint8_t pad[4096 - 16 - 2 * MCI_SHM_NONCE];
	struct mci_shm_use_slot slot[MCI_SHM_SLOTS];
};

_Static_assert(sizeof(struct mci_shm_use_slot) == 64, "a slot is a cache line");
_Static_assert(offsetof(struct mci_shm_use, slot) == 4096, "slots begin on a page");
_Static_assert(offsetof(struct mci_shm_table, word) == 64, "words begin on a cache line");

/* 0, or -EPROTO with a sentence: what a peer put there, in memory that it may change at any time. */
int mci_shm_table_check(const struct mci_shm_table *table);
int mci_shm_use_check(const struct mci_shm_use *use);

/* Initiator: enter a region; false = not the one we know any more, and we are not inside. */
bool mci_shm_enter(struct mci_shm_use_slot *slot, const _Atomic uint64_t *word, uint64_t stamp);
/* Still granted after the last byte? (A dying region waits for us.) */
static inline bool mci_shm_alive(const _Atomic uint64_t *word, uint64_t stamp)
{
	return (atomic_load_explicit(word, memory_order_acquire) & ~MCI_SHM_DYING) == stamp;
}
void mci_shm_leave(struct mci_shm_use_slot *slot);
/* The same with the counter of views. */
bool mci_shm_view_enter(struct mci_shm_use_slot *slot, const _Atomic uint64_t *word, uint64_t stamp);
void mci_shm_view_leave(struct mci_shm_use_slot *slot);

/* Frames: encoders return the length; decoders 0 or -EPROTO, anything left over included. */
struct mci_shm_table_frame {
	uint32_t version, slots;
	uint64_t size;
};
struct mci_shm_use_frame {
	uint64_t size, probe;
};
struct mci_shm_prove_frame {
	uint8_t nonce[MCI_SHM_NONCE], probe[MCI_SHM_NONCE];
	bool probed;
	bool attaches; /* it can attach memory of the kernel module, by keys for this context: */
	uint8_t context_id[MCI_SHM_KEY];
};
struct mci_shm_ready_frame {
	uint8_t nonce[MCI_SHM_NONCE];
	bool probed; /* the target believes the probe */
};
struct mci_shm_ask {
	uint32_t id, generation;
};
enum mci_shm_mode { MCI_SHM_NONE, MCI_SHM_MEMFD, MCI_SHM_VM, MCI_SHM_MODULE };
struct mci_shm_grant {
	uint32_t id, generation;
	int32_t status; /* 0 or a negative errno: -ESTALE, -EOPNOTSUPP */
	uint32_t slot;
	uint64_t stamp, length;
	uint64_t place; /* MEMFD: offset in the file; VM: the owner's address; MODULE: offset in what the key opens */
	uint8_t mode, rights;
	uint8_t key[MCI_SHM_KEY]; /* MODULE, if it was wanted; else zeros */
};
#define MCI_SHM_WANT_FD 1u /* of an ASK for one region; of its GRANT: the descriptor rides along, or the key is in it */

/* Longest encoded frames, for buffers. */
#define MCI_SHM_SMALL_MAX 96u
#define MCI_SHM_ASK_SIZE 8u
#define MCI_SHM_GRANT_SIZE 60u

uint32_t mci_shm_table_encode(const struct mci_shm_table_frame *frame, uint8_t *out);
int mci_shm_table_decode(const void *p, size_t n, struct mci_shm_table_frame *frame);
uint32_t mci_shm_use_encode(const struct mci_shm_use_frame *frame, uint8_t *out);
int mci_shm_use_decode(const void *p, size_t n, struct mci_shm_use_frame *frame);
uint32_t mci_shm_prove_encode(const struct mci_shm_prove_frame *frame, uint8_t *out);
int mci_shm_prove_decode(const void *p, size_t n, struct mci_shm_prove_frame *frame);
uint32_t mci_shm_ready_encode(const struct mci_shm_ready_frame *frame, uint8_t *out);
int mci_shm_ready_decode(const void *p, size_t n, struct mci_shm_ready_frame *frame);
/* Lists: a head {count, flags}, then the entries, each read by its own call. @out takes 4 + count entries. */
uint32_t mci_shm_list_encode(uint16_t count, uint16_t flags, uint8_t *out);
int mci_shm_list_decode(const void *p, size_t n, uint32_t entry_size, uint16_t *count, uint16_t *flags);
void mci_shm_ask_encode(const struct mci_shm_ask *ask, uint32_t index, uint8_t *list);
void mci_shm_ask_decode(const void *list, uint32_t index, struct mci_shm_ask *ask);
void mci_shm_grant_encode(const struct mci_shm_grant *grant, uint32_t index, uint8_t *list);
/* -EPROTO: slot, stamp, mode or status that cannot be. */
int mci_shm_grant_decode(const void *list, uint32_t index, struct mci_shm_grant *grant);

#endif
