/* SPDX-License-Identifier: MIT */
/*
 * Messages of the swarm: bodies of frames (net/conn.h) on connections of role MCI_ROLE_P2P, which are
 * authenticated by the hello like all of ours. Pure codec; integers little-endian; docs/protocol.md, "Swarm".
 * Both sides speak whenever they have something to say; ASK and its answers carry the same frame id.
 */
#ifndef MCI_P2P_WIRE_H
#define MCI_P2P_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "p2p/manifest.h"

#define MCI_P2P_FRAME_MAX (1u << 20)
#define MCI_P2P_NAME_MAX 255u
#define MCI_P2P_MAP_BYTES 8192u	 /* of a map in one message */
#define MCI_P2P_LIST_MAX 4096u	 /* indexes in one message */
#define MCI_P2P_SLOTS_MAX 4096u	 /* of a source */
#define MCI_P2P_MEMBERS_MAX 256u /* members in one message */

enum mci_p2p_type {
	MCI_P2P_ASK =
		1, /* the object called @name, and/or with @root: who knows it answers RECORD or ERROR */
	MCI_P2P_RECORD = 2, /* sizes, piece size, root, members that it knows */
	MCI_P2P_CHUNK = 3,  /* request: root, index; the reply has the text behind */
	MCI_P2P_JOIN = 4,   /* first message about an object on a connection, in both directions: root, flags,
			       regions */
	MCI_P2P_MAP = 5,    /* what the sender holds: first piece (multiple of 8), bits */
	MCI_P2P_HAVE = 6,   /* list of pieces that it holds from now on */
	MCI_P2P_FETCHES = 7,  /* list of pieces that it began to fetch */
	MCI_P2P_CEASES = 8,   /* list of pieces that it does not fetch any more */
	MCI_P2P_INTEREST = 9, /* u8 on */
	MCI_P2P_GRANT = 10,   /* u32 slots */
	MCI_P2P_RETURN = 11,  /* u32 slots */
	MCI_P2P_LEAVE = 12,   /* it does not serve any more */
	MCI_P2P_MEMBERS = 13, /* segment names of others that it knows, where there is no metadata service */
	MCI_P2P_ERROR = 0xffff, /* u32 errno, sentence */
};

/* Every body but ASK, RECORD and ERROR begins with the root of the object that it is about. */

#define MCI_P2P_JOIN_SEED (1u << 0) /* registered it */

struct mci_p2p_ask {
	char name[MCI_P2P_NAME_MAX + 1]; /* "" = by root alone */
	bool by_root;
	uint8_t root[MCI_P2P_HASH];
};
struct mci_p2p_record {
	struct mci_manifest *manifest; /* layout and root; hashes are zeros */
	uint64_t max_shard_size;
};
struct mci_p2p_join {
	uint8_t root[MCI_P2P_HASH];
	uint32_t flags;
	char segment[MCI_P2P_NAME_MAX + 1]; /* the sender's segment */
	uint32_t region_count;		    /* as many as ranges */
	const uint8_t *regions;		    /* u32 id and u64 offset in it, each; points into the frame */
};
struct mci_p2p_list {
	uint8_t root[MCI_P2P_HASH];
	uint32_t first;	  /* MAP: first piece */
	uint32_t count;	  /* indexes; MAP: bytes */
	const uint8_t *p; /* u32 each; MAP: bits, lowest first; points into the frame */
};
struct mci_p2p_error {
	int error; /* negative errno */
	char sentence[512];
};

/* Encoders: malloc'd body and its length; NULL = no memory. */
uint8_t *mci_p2p_put_ask(const struct mci_p2p_ask *ask, uint32_t *length);
uint8_t *mci_p2p_put_record(const struct mci_p2p_record *record, uint32_t *length);
uint8_t *mci_p2p_put_chunk(const uint8_t root[MCI_P2P_HASH], uint32_t index, const char *text,
			   uint32_t *length);
uint8_t *mci_p2p_put_join(const uint8_t root[MCI_P2P_HASH], uint32_t flags, const char *segment,
			  const uint32_t *ids, const uint64_t *offsets, uint32_t count, uint32_t *length);
uint8_t *mci_p2p_put_map(const uint8_t root[MCI_P2P_HASH], uint32_t first, const uint8_t *bits,
			 uint32_t bytes, uint32_t *length);
uint8_t *mci_p2p_put_list(const uint8_t root[MCI_P2P_HASH], const uint32_t *pieces, uint32_t count,
			  uint32_t *length);
uint8_t *mci_p2p_put_number(const uint8_t root[MCI_P2P_HASH], uint32_t number,
			    uint32_t *length); /* INTEREST, GRANT, RETURN, LEAVE */
uint8_t *mci_p2p_put_members(const uint8_t root[MCI_P2P_HASH], const char *const *names, uint32_t count,
			     uint32_t *length);
uint8_t *mci_p2p_put_error(int error, const char *sentence, uint32_t *length);

/* Decoders: -EBADMSG for anything that is not exactly such a body. None reads beyond @length or keeps @p
 * beyond the frame but where it says so. */
int mci_p2p_get_ask(const void *p, uint32_t length, struct mci_p2p_ask *ask);
int mci_p2p_get_record(const void *p, uint32_t length,
		       struct mci_p2p_record *record); /* manifest: the caller frees */
int mci_p2p_get_chunk(const void *p, uint32_t length, uint8_t root[MCI_P2P_HASH], uint32_t *index,
		      const char **text, uint32_t *text_length); /* a request has text_length 0 */
int mci_p2p_get_join(const void *p, uint32_t length, struct mci_p2p_join *join);
void mci_p2p_join_region(const struct mci_p2p_join *join, uint32_t i, uint32_t *id, uint64_t *offset);
int mci_p2p_get_map(const void *p, uint32_t length, struct mci_p2p_list *map);
int mci_p2p_get_list(const void *p, uint32_t length, struct mci_p2p_list *list);
uint32_t mci_p2p_list_at(const struct mci_p2p_list *list, uint32_t i);
int mci_p2p_get_number(const void *p, uint32_t length, uint8_t root[MCI_P2P_HASH], uint32_t *number);
int mci_p2p_get_members(const void *p, uint32_t length, uint8_t root[MCI_P2P_HASH],
			int (*fn)(const char *name, void *arg),
			void *arg); /* checked whole before @fn runs */
int mci_p2p_get_error(const void *p, uint32_t length, struct mci_p2p_error *error);

#endif
