/* SPDX-License-Identifier: MIT */
/*
 * What a process publishes about its segment, and what it reads of others: the classic segment
 * descriptor (JSON) with our own members under "mooncake_c", the rpc meta record, and the names of
 * the keys they lie under. Pure codec: no I/O, no lock, no state.
 */
#ifndef MCI_DESCRIPTOR_H
#define MCI_DESCRIPTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "net/auth.h"
#include "net/sock.h"
#include "transport/region.h"

#define MCI_DESCRIPTOR_VERSION 1
#define MCI_DESCRIPTOR_MAX (16u << 20) /* bytes of text */
#define MCI_DESCRIPTOR_REGIONS 65536   /* regions, and classic buffers */
#define MCI_DESCRIPTOR_ADDRESSES 64
#define MCI_KEY_MAX 1024 /* bytes of a metadata key, NUL included */

struct mci_descriptor_region {
	uint32_t id, generation;
	uint32_t rights; /* MC_REMOTE_* */
	uint64_t length;
	uint64_t base;			 /* owner's address, 0 = hidden */
	struct mc_uuid content_id;	 /* zero in a classic descriptor */
	char location[MCI_LOCATION_MAX]; /* "*" where it is not known */
	/* encode: further members from the transports, or NULL; decode: this region's object, borrowed from
	 * root */
	json_t *json;
};

struct mci_descriptor_buffer { /* classic */
	uint64_t addr, length;
	const char *name;
};

/*
 * For encode() the caller fills it in and keeps ownership of everything. From decode() it is one
 * allocation family: pointers borrow from @root, and mci_descriptor_free() ends all of it.
 */
struct mci_descriptor {
	char name[MCI_NAME_MAX + 1];
	char protocol[32];  /* encode: empty = "tcp"; decode, of several: "tcp" if it is among them */
	char timestamp[32]; /* "2026-08-22 12:34:56.123456"; encode: empty = now */
	bool has_ours;	    /* decode: "mooncake_c" is there; all up to @transports is set only then */
	struct mc_uuid uuid;
	uint64_t generation;
	struct mc_uuid boot_id;
	uint32_t version;  /* encode writes MCI_DESCRIPTOR_VERSION */
	uint64_t features; /* MCI_FEATURE_*; names that are not known here are ignored */
	const char *const *addresses;
	unsigned int address_count;
	uint16_t port;	    /* rpc port */
	json_t *transports; /* object: name -> object; NULL = none */
	/* Ours where has_ours, else one per classic buffer (id = index, both rights, base = addr). */
	struct mci_descriptor_region *regions;
	unsigned int region_count;
	/* Classic members. Without @classic encode() writes no buffers, data port 0 and bases 0. */
	bool classic;		    /* encode only */
	uint16_t tcp_data_port;	    /* 0 = none: the rpc port serves data, v1 */
	uint32_t tcp_proto_version; /* 1 if the member is missing */
	struct mci_descriptor_buffer *buffers;
	unsigned int buffer_count;
	json_t *classic_root;	 /* encode only: further classic members, or NULL */
	json_t *classic_buffers; /* encode only: written instead of @buffers, or NULL */
	json_t *root; /* decode: the whole document */
};

/*
 * Compact text, keys sorted, malloc'd. With a @secret of mode MCI_AUTH_CLUSTER our member carries a MAC.
 * -EINVAL: a value that no reader would accept; -ENOMEM.
 */
int mci_descriptor_encode(const struct mci_descriptor *descriptor, const struct mci_secret *secret,
			  char **text);
/*
 * @cluster: NULL (or a secret of another mode), or the key under which our member must be signed.
 * -EBADMSG: malformed or out of bounds; -EPROTO: a newer version; -EKEYREJECTED: MAC missing or wrong;
 * -ENOMEM. A purely classic descriptor is never signed: whether to trust one is the caller's decision.
 */
int mci_descriptor_decode(const char *text, size_t length, const struct mci_secret *cluster,
			  struct mci_descriptor **descriptor);
void mci_descriptor_free(struct mci_descriptor *descriptor); /* from decode() only; NULL is fine */

/* rpc meta record: where the rpc port of a name is. -EBADMSG, -EINVAL, -ENOMEM. */
int mci_rpc_meta_encode(const char *host, uint16_t port, char **text);
int mci_rpc_meta_decode(const char *text, size_t length, char host[MCI_HOST_MAX], uint16_t *port);

/*
 * Keys of the metadata service. @cluster_id may be NULL or empty. -EINVAL: empty, a control character,
 * longer than MCI_NAME_MAX, or a name such as "rpc_meta/x" that would be another kind of key.
 */
int mci_key_ram(const char *cluster_id, const char *name, char key[MCI_KEY_MAX]);
int mci_key_rpc_meta(const char *cluster_id, const char *name, char key[MCI_KEY_MAX]);
int mci_key_token(const char *cluster_id, const char *name, char key[MCI_KEY_MAX]);
/* "mooncake/<cluster id>/<kind><name>"; -EINVAL: too long. */
int mci_key_make(const char *cluster_id, const char *kind, const char *name, char key[MCI_KEY_MAX]);
/* Prefix of all ram keys, for listings: "mooncake/ram/". */
int mci_key_ram_prefix(const char *cluster_id, char key[MCI_KEY_MAX]);

#endif
