/* SPDX-License-Identifier: MIT */
/* Data frames of our own TCP dialect (docs/protocol.md, "Data frames"): pure codec, no I/O. */
#ifndef MCI_TCP_FRAME_H
#define MCI_TCP_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mooncake/types.h>

#define MCI_TCP_HEADER 80u	  /* bytes of an encoded header */
#define MCI_TCP_MAGIC 0x3154434du /* "MCT1" */
#define MCI_TCP_VERSION 1
#define MCI_TCP_EXTENSION_MAX 4096u
#define MCI_TCP_SLICE_MAX (64u << 20) /* payload bytes of one frame */
#define MCI_TCP_NOTIFY_MAX (65536u + 255u + 6u)
#define MCI_TCP_SLOTS_MAX 4096u /* requests in flight on one connection */
#define MCI_TCP_STREAMS_MAX 16u

enum mci_tcp_type {
	MCI_TCP_READ = 1,
	MCI_TCP_WRITE = 2,
	MCI_TCP_NOTIFY = 3,
	MCI_TCP_FENCE = 4,
	MCI_TCP_REPLY = 0x80, /* or'ed to the type of the request */
};

/* flags */
#define MCI_TCP_EXTENSION_OPTIONAL (1u << 0) /* who does not know the extension skips it */
#define MCI_TCP_CHECKSUM (1u << 1)	     /* @checksum is the xxh3 of the payload */
#define MCI_TCP_FLAGS_KNOWN 0x3u

struct mci_tcp_header {
	uint8_t type;
	uint16_t flags;
	uint32_t extension; /* bytes between header and payload */
	int32_t status;	    /* replies: 0 or negative errno */
	uint64_t id;
	struct mc_uuid target;
	uint32_t region, generation;
	uint64_t offset; /* NOTIFY: its sequence number */
	uint64_t length;
	uint64_t grant; /* reserved, zero */
	uint64_t checksum;
};

void mci_tcp_header_encode(const struct mci_tcp_header *h, uint8_t out[MCI_TCP_HEADER]);
/* 0; -EPROTO with *why: not a header that this version can go on behind. */
int mci_tcp_header_decode(const uint8_t in[MCI_TCP_HEADER], struct mci_tcp_header *h, const char **why);
/* Payload bytes that follow this header (behind its extension). */
uint64_t mci_tcp_payload_length(const struct mci_tcp_header *h);

/* Parameters of the hello (role DATA). */
#define MCI_TCP_PARAMS 40u
struct mci_tcp_params { /* from the initiator */
	struct mc_uuid session;
	uint64_t incarnation;  /* from 1 */
	uint16_t index, count; /* of the streams of this session */
	uint32_t slots;	       /* requests it would like to have in flight on this stream */
	uint32_t slice_max;    /* longest payload it will send or ask for */
};
#define MCI_TCP_GRANTED 8u
struct mci_tcp_granted { /* from the target, in ACCEPT */
	uint32_t slots;	 /* credits: requests that may be in flight on this stream */
	uint32_t slice_max;
};
void mci_tcp_params_encode(const struct mci_tcp_params *in, uint8_t out[MCI_TCP_PARAMS]);
int mci_tcp_params_decode(const uint8_t *p, size_t n, struct mci_tcp_params *out); /* -EPROTO */
void mci_tcp_granted_encode(const struct mci_tcp_granted *in, uint8_t out[MCI_TCP_GRANTED]);
int mci_tcp_granted_decode(const uint8_t *p, size_t n, struct mci_tcp_granted *out);

#endif
