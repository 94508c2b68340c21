/* SPDX-License-Identifier: MIT */
/*
 * What classic programs say of RDMA: the record by which two of them connect queue pairs, and the devices and
 * keys of a descriptor. Pure: JSON in, bounded structs out, and back.
 */
#ifndef MCI_RDMA_CLASSIC_WIRE_H
#define MCI_RDMA_CLASSIC_WIRE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "net/auth.h" /* MCI_NAME_MAX */
#include "transport/rdma/wire.h"

#define MCI_RDMA_NIC_MAX 64
#define MCI_RDMA_PATH_MAX 384 /* "<server name>@<NIC>" */
#define MCI_RDMA_GID_TEXT 48
#define MCI_RDMA_REPLY_MAX 256

struct mci_rdma_record { /* a message of type CONNECTION */
	char local[MCI_RDMA_PATH_MAX], peer[MCI_RDMA_PATH_MAX]; /* NIC paths: of who speaks, of who is meant */
	unsigned int count;					/* as it says; no more than MCI_RDMA_QPS_MAX are here */
	uint32_t qpn[MCI_RDMA_QPS_MAX];
	bool has_gid; /* peers before 0.3.11 leave it out */
	uint16_t lid;
	uint8_t gid[16];
	bool has_ack, ack;
	char reply[MCI_RDMA_REPLY_MAX]; /* not empty: refused */
};

/* -EBADMSG. Members that are not known are ignored. */
int mci_rdma_record_decode(const char *json, size_t length, struct mci_rdma_record *record);
/* Compact, keys sorted, "\n" behind it; malloc'd, or NULL. */
char *mci_rdma_record_encode(const struct mci_rdma_record *record);

/* "<server>@<nic>", split at the first '@'. False: it is none, or one part is empty or too long. */
bool mci_rdma_path_split(const char *path, char server[MCI_NAME_MAX + 1], char nic[MCI_RDMA_NIC_MAX]);

void mci_rdma_gid_text(const uint8_t gid[16], char text[MCI_RDMA_GID_TEXT]);
int mci_rdma_gid_parse(const char *text, uint8_t gid[16]); /* -EBADMSG */

struct mci_rdma_classic_device {
	char name[MCI_RDMA_NIC_MAX];
	uint16_t lid;
	uint8_t gid[16];
};
/* The devices of a descriptor, in its order. -EBADMSG with a sentence. */
int mci_rdma_classic_devices(const json_t *descriptor, struct mci_rdma_classic_device device[MCI_RDMA_DEVICES_MAX],
			     uint8_t *count);
/* The name that NIC paths of its process begin with; NULL: none. */
const char *mci_rdma_classic_server(const json_t *descriptor);

/* The buffers of a descriptor by address. */
struct mci_rdma_buffers {
	unsigned int count;
	struct mci_rdma_buffer {
		uint64_t addr, length;
		const json_t *keys; /* one per device; empty: not for peers */
	} *list;
};
int mci_rdma_buffers_load(const json_t *descriptor, struct mci_rdma_buffers *buffers); /* -ENOMEM */
void mci_rdma_buffers_free(struct mci_rdma_buffers *buffers);
/*
 * The buffers that cover a region, one behind the other, all as long as the first but for the last. Returns how
 * many there are and the index of the first, or -ENOENT.
 */
int mci_rdma_buffers_find(const struct mci_rdma_buffers *buffers, uint64_t base, uint64_t length,
			  unsigned int *first);

#endif
