// SPDX-License-Identifier: MIT
/* Codec of the control frames; little-endian. Every decoder refuses what is too short, too long or out of
 * range. */
#include "transport/rdma/wire.h"

#include <errno.h>
#include <string.h>

#include "core/bytes.h"

void mci_rdma_params_encode(const struct mci_rdma_params *params, uint8_t out[MCI_RDMA_PARAMS])
{
	mci_put32(out, params->version);
	memcpy(out + 4, params->session.b, 16);
	mci_put64(out + 20, params->incarnation);
}

int mci_rdma_params_decode(const void *p, size_t n, struct mci_rdma_params *params)
{
	const uint8_t *in = p;

	if (n != MCI_RDMA_PARAMS)
		return -EPROTO;
	params->version = mci_get32(in);
	memcpy(params->session.b, in + 4, 16);
	params->incarnation = mci_get64(in + 20);
	return 0;
}

uint32_t mci_rdma_asks_encode(const struct mci_rdma_ask *ask, uint16_t count, uint8_t *out)
{
	uint16_t i;

	mci_put16(out, count);
	mci_put16(out + 2, 0);
	for (i = 0; i < count; i++) {
		mci_put32(out + 4 + 8 * i, ask[i].id);
		mci_put32(out + 8 + 8 * i, ask[i].generation);
	}
	return 4 + 8u * count;
}

int mci_rdma_asks_decode(const void *p, size_t n, struct mci_rdma_ask ask[MCI_RDMA_ASK_MAX], uint16_t *count)
{
	const uint8_t *in = p;
	uint16_t i;

	if (n < 4)
		return -EPROTO;
	*count = mci_get16(in);
	if (!*count || *count > MCI_RDMA_ASK_MAX || mci_get16(in + 2) || n != 4 + 8u * *count)
		return -EPROTO;
	for (i = 0; i < *count; i++) {
		ask[i].id = mci_get32(in + 4 + 8 * i);
		ask[i].generation = mci_get32(in + 8 + 8 * i);
	}
	return 0;
}

uint32_t mci_rdma_keys_size(const struct mci_rdma_keys *keys)
{
	return MCI_RDMA_KEYS_HEAD + 4u * keys->chunks * keys->devices;
}

void mci_rdma_keys_encode(const struct mci_rdma_keys *keys, uint8_t *out)
{
	mci_put32(out, keys->id);
	mci_put32(out + 4, keys->generation);
	mci_put32(out + 8, (uint32_t)keys->status);
	mci_put32(out + 12, keys->rights);
	mci_put64(out + 16, keys->length);
	mci_put64(out + 24, keys->iova);
	mci_put64(out + 32, keys->chunk);
	mci_put16(out + 40, keys->chunks);
	mci_put16(out + 42, keys->devices);
}

int mci_rdma_keys_decode(const void *p, size_t n, struct mci_rdma_keys *keys, const uint8_t **key)
{
	const uint8_t *in = p;

	if (n < MCI_RDMA_KEYS_HEAD)
		return -EPROTO;
	keys->id = mci_get32(in);
	keys->generation = mci_get32(in + 4);
	keys->status = (int32_t)mci_get32(in + 8);
	keys->rights = mci_get32(in + 12);
	keys->length = mci_get64(in + 16);
	keys->iova = mci_get64(in + 24);
	keys->chunk = mci_get64(in + 32);
	keys->chunks = mci_get16(in + 40);
	keys->devices = mci_get16(in + 42);
	*key = in + MCI_RDMA_KEYS_HEAD;
	if (n != mci_rdma_keys_size(keys) || keys->status > 0 || keys->status < -4095)
		return -EPROTO;
	if (keys->status)
		return keys->chunks || keys->devices ? -EPROTO : 0;
	/* The chunks cover the region exactly, and no address wraps around. */
	if (!keys->devices || keys->devices > MCI_RDMA_DEVICES_MAX || !keys->chunks ||
	    keys->chunks > MCI_RDMA_CHUNKS_MAX || !keys->length || !keys->chunk ||
	    keys->iova + keys->length < keys->iova ||
	    (keys->length - 1) / keys->chunk != (uint64_t)keys->chunks - 1)
		return -EPROTO;
	return 0;
}

uint32_t mci_rdma_end_encode(const struct mci_rdma_end *end, uint8_t out[MCI_RDMA_END_MAX])
{
	size_t text = strnlen(end->sentence, MCI_RDMA_SENTENCE);
	uint8_t *p = out + 44;
	unsigned int i;

	mci_put32(out, end->number);
	mci_put32(out + 4, (uint32_t)end->status);
	out[8] = end->from;
	out[9] = end->to;
	out[10] = end->count;
	out[11] = end->mtu;
	mci_put16(out + 12, end->lid);
	mci_put16(out + 14, (uint16_t)text);
	memcpy(out + 16, end->gid, 16);
	mci_put64(out + 32, end->flush_iova);
	mci_put32(out + 40, end->flush_key);
	for (i = 0; i < end->count; i++, p += 8) {
		mci_put32(p, end->qpn[i]);
		mci_put32(p + 4, end->psn[i]);
	}
	memcpy(p, end->sentence, text);
	return (uint32_t)(p + text - out);
}

int mci_rdma_end_decode(const void *p, size_t n, struct mci_rdma_end *end)
{
	const uint8_t *in = p;
	unsigned int i;
	size_t text;

	if (n < 44)
		return -EPROTO;
	end->number = mci_get32(in);
	end->status = (int32_t)mci_get32(in + 4);
	end->from = in[8];
	end->to = in[9];
	end->count = in[10];
	end->mtu = in[11];
	end->lid = mci_get16(in + 12);
	text = mci_get16(in + 14);
	memcpy(end->gid, in + 16, 16);
	end->flush_iova = mci_get64(in + 32);
	end->flush_key = mci_get32(in + 40);
	if (end->status > 0 || end->status < -4095 || end->from >= MCI_RDMA_DEVICES_MAX ||
	    end->to >= MCI_RDMA_DEVICES_MAX || end->count > MCI_RDMA_QPS_MAX || text > MCI_RDMA_SENTENCE ||
	    n != 44 + 8u * end->count + text)
		return -EPROTO;
	if (!end->status && (!end->count || !end->mtu || end->mtu > 5))
		return -EPROTO;
	for (i = 0, in += 44; i < end->count; i++, in += 8) {
		end->qpn[i] = mci_get32(in) & 0xffffff;
		end->psn[i] = mci_get32(in + 4) & 0xffffff;
	}
	for (i = 0; i < text; i++)
		end->sentence[i] = in[i] < ' ' || in[i] > '~' ? '?' : (char)in[i];
	end->sentence[text] = 0;
	return 0;
}

uint32_t mci_rdma_ports_encode(const struct mci_rdma_port *port, uint8_t count, uint8_t *out)
{
	uint8_t *p = out + 2;
	uint8_t i;

	out[0] = count;
	out[1] = 0;
	for (i = 0; i < count; i++, p += MCI_RDMA_PORT_SIZE) {
		p[0] = port[i].up;
		p[1] = port[i].mtu;
		p[2] = port[i].link;
		p[3] = 0;
		mci_put16(p + 4, port[i].lid);
		memcpy(p + 6, port[i].gid, 16);
	}
	return (uint32_t)(p - out);
}

int mci_rdma_ports_decode(const void *p, size_t n, struct mci_rdma_port port[MCI_RDMA_DEVICES_MAX],
			  uint8_t *count)
{
	const uint8_t *in = p;
	uint8_t i;

	if (n < 2 || !in[0] || in[0] > MCI_RDMA_DEVICES_MAX || in[1] ||
	    n != 2 + (size_t)MCI_RDMA_PORT_SIZE * in[0])
		return -EPROTO;
	*count = in[0];
	for (i = 0, in += 2; i < *count; i++, in += MCI_RDMA_PORT_SIZE) {
		if (in[0] > 1 || in[1] > 5 || in[3])
			return -EPROTO;
		port[i].up = in[0];
		port[i].mtu = in[1];
		port[i].link = in[2];
		port[i].lid = mci_get16(in + 4);
		memcpy(port[i].gid, in + 6, 16);
	}
	return 0;
}
