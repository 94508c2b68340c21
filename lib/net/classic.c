// SPDX-License-Identifier: MIT
/* Classic handshake messages at a server of ours: one request, one reply, in the request's own form. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "net/incoming.h"

static const char probe_reply[] = "{\"status\":\"success\"}\n";

bool mci_incoming_classic_later(struct mci_incoming *in, const char **json, size_t *length)
{
	struct mci_classic m;

	if (!in->service->attr.classic_connection || mci_classic_read(in->in, in->in_length, &m) ||
	    (!m.old && m.type != MCI_CLASSIC_CONNECTION))
		return false;
	in->in[in->in_length] = '\0'; /* there is room for it */
	*json = m.json;
	*length = m.length;
	return true;
}

/* @text in the form that the question had. */
int mci_incoming_classic_reply(struct mci_incoming *in, const char *text)
{
	size_t length = strlen(text), head_length;
	struct mci_classic m;
	uint8_t head[9];
	int ret;

	ret = mci_classic_read(in->in, in->in_length, &m);
	if (ret)
		return ret;
	head_length = mci_classic_head(head, m.type, m.old, length);
	in->out = malloc(head_length + length);
	if (!in->out) {
		in->out = in->out_small;
		return -ENOMEM;
	}
	memcpy(in->out, head, head_length);
	memcpy(in->out + head_length, text, length);
	in->out_length = head_length + length;
	in->out_done = 0;
	return 0;
}

int mci_incoming_classic(struct mci_incoming *in)
{
	const struct mci_service_attr *attr = &in->service->attr;
	const char *text = "null\n";
	struct mci_classic m;
	char *reply = NULL;
	int ret;

	ret = mci_classic_read(in->in, in->in_length, &m);
	if (ret)
		return ret;
	in->in[in->in_length] = '\0'; /* there is room for it */
	if (!m.old && m.type == MCI_CLASSIC_PROBE) {
		text = probe_reply;
	} else if (attr->classic_message) {
		ret = attr->classic_message(attr->arg, m.type, m.json, m.length, &reply);
		if (ret < 0) {
			mci_info("a classic message of type %u was not answered: %s", m.type, strerror(-ret));
			free(reply);
			return ret;
		}
		if (reply)
			text = reply;
	}
	ret = mci_incoming_classic_reply(in, text);
	free(reply);
	return ret;
}
