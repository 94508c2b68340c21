/* SPDX-License-Identifier: MIT */
/*
 * What two sides of the rdma transport say to each other on their authenticated control connection
 * (docs/protocol.md, "rdma"). Pure codec: bounded, no I/O.
 *
 *   initiator                                   target
 *   KEYS_ASK {regions} ->                   <-  KEYS {address and keys of each, or why not}
 *   CONNECT {number, queue pairs} ->        <-  CONNECTED {number, queue pairs, or why not}
 *   DROP {number} ->                        <-  DROPPED {number}: its queue pairs are no more
 *                                           <-  GONE {region}: unregistered
 *                                           <-  PORTS {state of each device}: something changed
 */
#ifndef MCI_RDMA_WIRE_H
#define MCI_RDMA_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include <mooncake/types.h>

#define MCI_RDMA_VERSION 1
#define MCI_RDMA_DEVICES_MAX 32
#define MCI_RDMA_QPS_MAX 8
#define MCI_RDMA_CHUNKS_MAX 4096
#define MCI_RDMA_ASK_MAX 128 /* regions of one question */
#define MCI_RDMA_FRAME_LIMIT (1u << 20)
#define MCI_RDMA_SENTENCE 200

enum mci_rdma_frame {
	MCI_RDMA_KEYS_ASK = 1,
	MCI_RDMA_KEYS,
	MCI_RDMA_CONNECT,
	MCI_RDMA_CONNECTED,
	MCI_RDMA_DROP,
	MCI_RDMA_DROPPED,
	MCI_RDMA_GONE,
	MCI_RDMA_PORTS,
};

/* Parameters of the hello. */
#define MCI_RDMA_PARAMS 28
struct mci_rdma_params {
	uint32_t version;
	struct mc_uuid session;
	uint64_t incarnation;
};
void mci_rdma_params_encode(const struct mci_rdma_params *params, uint8_t out[MCI_RDMA_PARAMS]);
int mci_rdma_params_decode(const void *p, size_t n, struct mci_rdma_params *params);

struct mci_rdma_ask {
	uint32_t id, generation;
};
/* -> bytes; @out has room for 4 + 8 * count. */
uint32_t mci_rdma_asks_encode(const struct mci_rdma_ask *ask, uint16_t count, uint8_t *out);
int mci_rdma_asks_decode(const void *p, size_t n, struct mci_rdma_ask ask[MCI_RDMA_ASK_MAX], uint16_t *count);

/* Keys of one region: @keys[chunk * devices + device]. */
struct mci_rdma_keys {
	uint32_t id, generation;
	int32_t status; /* 0, or -ESTALE, -EOPNOTSUPP */
	uint32_t rights;
	uint64_t length, iova, chunk; /* chunk: bytes of each registration but the last */
	uint16_t chunks, devices;
};
#define MCI_RDMA_KEYS_HEAD 44
/* One KEYS frame carries one region. Decoding leaves the keys where they are: @keys, little-endian. */
uint32_t mci_rdma_keys_size(const struct mci_rdma_keys *keys);
void mci_rdma_keys_encode(const struct mci_rdma_keys *keys, uint8_t *out); /* the head; keys follow */
int mci_rdma_keys_decode(const void *p, size_t n, struct mci_rdma_keys *keys, const uint8_t **key);

struct mci_rdma_end {	    /* one side's queue pairs of an endpoint */
	uint32_t number;    /* the initiator's, unique on its connection */
	int32_t status;	    /* CONNECTED: 0 or a negative errno */
	uint8_t from, to;   /* device of the initiator, of the target */
	uint8_t count, mtu; /* queue pairs; enum ibv_mtu of the port */
	uint16_t lid;
	uint8_t gid[16];
	uint64_t flush_iova; /* CONNECTED: eight bytes to be read behind writes */
	uint32_t flush_key;
	uint32_t qpn[MCI_RDMA_QPS_MAX], psn[MCI_RDMA_QPS_MAX];
	char sentence[MCI_RDMA_SENTENCE + 1];
};
#define MCI_RDMA_END_MAX (44 + 8 * MCI_RDMA_QPS_MAX + MCI_RDMA_SENTENCE)
uint32_t mci_rdma_end_encode(const struct mci_rdma_end *end, uint8_t out[MCI_RDMA_END_MAX]);
int mci_rdma_end_decode(const void *p, size_t n, struct mci_rdma_end *end);

struct mci_rdma_port {
	uint8_t up, mtu, link; /* link: enum of IBV_LINK_LAYER_* */
	uint16_t lid;
	uint8_t gid[16];
};
#define MCI_RDMA_PORT_SIZE 22
uint32_t mci_rdma_ports_encode(const struct mci_rdma_port *port, uint8_t count, uint8_t *out);
int mci_rdma_ports_decode(const void *p, size_t n, struct mci_rdma_port port[MCI_RDMA_DEVICES_MAX],
			  uint8_t *count);

#endif
