// SPDX-License-Identifier: MIT
/* Codec of a notify's body, shared by the engine and the transports that carry it. */
#include <errno.h>

#include "core/bytes.h"
#include "transport/transport.h"

int mci_notify_decode(const void *p, size_t n, struct mci_notify_body *body)
{
	struct mci_reader r;
	const uint8_t *name;
	uint16_t name_length;
	uint32_t length;

	mci_reader_init(&r, p, n);
	name_length = mci_read16(&r);
	if (r.bad || name_length > MC_NOTIFY_NAME_MAX || name_length > r.left)
		return -EINVAL;
	name = r.p;
	r.p += name_length;
	r.left -= name_length;
	length = mci_read32(&r);
	if (r.bad || length > MC_NOTIFY_MESSAGE_MAX || length != r.left)
		return -EINVAL;
	*body = (struct mci_notify_body){.name = (const char *)name,
					 .name_length = name_length,
					 .message = r.p,
					 .message_length = length};
	return 0;
}
