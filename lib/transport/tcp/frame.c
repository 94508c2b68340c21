// SPDX-License-Identifier: MIT
/* Codec of data frames and of the data role's hello parameters. Bounded, no state, fuzzed. */
#include "transport/tcp/frame.h"

#include <errno.h>

#include "core/bytes.h"

void mci_tcp_header_encode(const struct mci_tcp_header *h, uint8_t out[MCI_TCP_HEADER])
{
	mci_put32(out, MCI_TCP_MAGIC);
	out[4] = MCI_TCP_VERSION;
	out[5] = h->type;
	mci_put16(out + 6, h->flags);
	mci_put32(out + 8, h->extension);
	mci_put32(out + 12, (uint32_t)h->status);
	mci_put64(out + 16, h->id);
	memcpy(out + 24, h->target.b, 16);
	mci_put32(out + 40, h->region);
	mci_put32(out + 44, h->generation);
	mci_put64(out + 48, h->offset);
	mci_put64(out + 56, h->length);
	mci_put64(out + 64, h->grant);
	mci_put64(out + 72, h->checksum);
}

static bool known_type(uint8_t type)
{
	type &= (uint8_t)~MCI_TCP_REPLY;
	return type >= MCI_TCP_READ && type <= MCI_TCP_FENCE;
}

uint64_t mci_tcp_payload_length(const struct mci_tcp_header *h)
{
	switch (h->type) {
	case MCI_TCP_WRITE:
	case MCI_TCP_NOTIFY:
		return h->length;
	case MCI_TCP_READ | MCI_TCP_REPLY:
		return h->status ? 0 : h->length;
	default:
		return 0;
	}
}

int mci_tcp_header_decode(const uint8_t in[MCI_TCP_HEADER], struct mci_tcp_header *h, const char **why)
{
	struct mci_tcp_header v;

	*why = NULL;
	if (mci_get32(in) != MCI_TCP_MAGIC)
		*why = "no frame begins here (wrong magic)";
	else if (in[4] != MCI_TCP_VERSION)
		*why = "frame of another version";
	else if (!known_type(in[5]))
		*why = "frame of an unknown type";
	if (*why)
		return -EPROTO;

	v.type = in[5];
	v.flags = mci_get16(in + 6);
	v.extension = mci_get32(in + 8);
	v.status = (int32_t)mci_get32(in + 12);
	v.id = mci_get64(in + 16);
	memcpy(v.target.b, in + 24, 16);
	v.region = mci_get32(in + 40);
	v.generation = mci_get32(in + 44);
	v.offset = mci_get64(in + 48);
	v.length = mci_get64(in + 56);
	v.grant = mci_get64(in + 64);
	v.checksum = mci_get64(in + 72);

	if (v.flags & ~MCI_TCP_FLAGS_KNOWN)
		*why = "frame with unknown flags";
	else if (v.extension > MCI_TCP_EXTENSION_MAX)
		*why = "frame with an extension longer than 4096 bytes";
	else if (v.extension && !(v.flags & MCI_TCP_EXTENSION_OPTIONAL))
		*why = "frame with an extension that must be understood and is not";
	else if (v.grant)
		*why = "frame with a grant, which this version does not know";
	else if (v.status > 0 || v.status < -4095 || (v.status && !(v.type & MCI_TCP_REPLY)))
		*why = "frame with an impossible status";
	else if (v.length > (v.type == MCI_TCP_NOTIFY ? MCI_TCP_NOTIFY_MAX : MCI_TCP_SLICE_MAX))
		*why = "frame with too long a payload";
	if (*why)
		return -EPROTO;
	*h = v;
	return 0;
}

void mci_tcp_params_encode(const struct mci_tcp_params *in, uint8_t out[MCI_TCP_PARAMS])
{
	memcpy(out, in->session.b, 16);
	mci_put64(out + 16, in->incarnation);
	mci_put16(out + 24, in->index);
	mci_put16(out + 26, in->count);
	mci_put32(out + 28, in->slots);
	mci_put32(out + 32, in->slice_max);
	mci_put32(out + 36, 0);
}

int mci_tcp_params_decode(const uint8_t *p, size_t n, struct mci_tcp_params *out)
{
	struct mci_tcp_params v;

	if (n < MCI_TCP_PARAMS) /* longer: a later minor version added something */
		return -EPROTO;
	memcpy(v.session.b, p, 16);
	v.incarnation = mci_get64(p + 16);
	v.index = mci_get16(p + 24);
	v.count = mci_get16(p + 26);
	v.slots = mci_get32(p + 28);
	v.slice_max = mci_get32(p + 32);
	if (!v.incarnation || !v.count || v.count > MCI_TCP_STREAMS_MAX || v.index >= v.count || !v.slots ||
	    !v.slice_max || v.slice_max > MCI_TCP_SLICE_MAX)
		return -EPROTO;
	*out = v;
	return 0;
}

void mci_tcp_granted_encode(const struct mci_tcp_granted *in, uint8_t out[MCI_TCP_GRANTED])
{
	mci_put32(out, in->slots);
	mci_put32(out + 4, in->slice_max);
}

int mci_tcp_granted_decode(const uint8_t *p, size_t n, struct mci_tcp_granted *out)
{
	struct mci_tcp_granted v;

	if (n < MCI_TCP_GRANTED)
		return -EPROTO;
	v.slots = mci_get32(p);
	v.slice_max = mci_get32(p + 4);
	if (!v.slots || !v.slice_max)
		return -EPROTO;
	*out = v;
	return 0;
}
