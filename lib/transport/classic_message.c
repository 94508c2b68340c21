// SPDX-License-Identifier: MIT
/* Classic messages on the rpc port, client side: framing and a blocking exchange. */
#include "transport/classic_message.h"

#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "transport/transport.h" /* struct mci_notify_body */

#define QUESTION_MAX (1u << 20) /* what every classic server takes */

int mci_classic_frame(enum mci_classic_type type, const char *json, uint8_t **frame, size_t *length)
{
	size_t n = strlen(json);
	bool newline = !n || json[n - 1] != '\n';
	uint8_t *p = malloc(MCI_CLASSIC_PREFIX + n + 1);

	if (!p)
		return mci_fail(-ENOMEM, "no memory for a message of %zu bytes", n);
	memcpy(p + MCI_CLASSIC_PREFIX, json, n);
	if (newline)
		p[MCI_CLASSIC_PREFIX + n++] = '\n';
	mci_put64(p, n + 1);
	p[8] = (uint8_t)type;
	*frame = p;
	*length = MCI_CLASSIC_PREFIX + n;
	return 0;
}

int mci_classic_prefix(const uint8_t prefix[MCI_CLASSIC_PREFIX], enum mci_classic_type type, size_t limit,
		       size_t *length)
{
	uint64_t n = mci_get64(prefix);

	if (n < 1 || n > limit)
		return mci_fail(
			-EPROTO,
			"the answer on the rpc port announces %llu bytes: no classic peer listens there",
			(unsigned long long)n);
	if (prefix[8] != type)
		return mci_fail(-EPROTO,
				"the answer on the rpc port has type %u instead of %u: no classic peer of "
				"release 0.3.0 or later listens there",
				prefix[8], (unsigned int)type);
	*length = (size_t)(n - 1);
	return 0;
}

/* The oldest form has a length and no type, both ways. */
static int converse(struct mci_sock *sock, enum mci_classic_type type, bool old, const char *json,
		    uint64_t deadline_ns, char **reply)
{
	uint8_t prefix[MCI_CLASSIC_PREFIX], *frame;
	size_t length;
	char *text;
	int ret;

	ret = mci_classic_frame(type, json, &frame, &length);
	if (ret)
		return ret;
	if (old) {
		mci_put64(frame, length - MCI_CLASSIC_PREFIX);
		memmove(frame + 8, frame + MCI_CLASSIC_PREFIX, length - MCI_CLASSIC_PREFIX);
		length--;
	}
	ret = mci_sock_send_all(sock, frame, length, deadline_ns);
	free(frame);
	ret = ret ?: mci_sock_recv_all(sock, prefix, old ? 8 : sizeof(prefix), deadline_ns);
	if (!ret && old) {
		mci_put64(prefix, mci_get64(prefix) + 1);
		prefix[8] = (uint8_t)type;
	}
	ret = ret ?: mci_classic_prefix(prefix, type, MCI_CLASSIC_MESSAGE_MAX, &length);
	if (ret)
		return ret;
	text = malloc(length + 1);
	if (!text)
		return mci_fail(-ENOMEM, "no memory for an answer of %zu bytes", length);
	ret = mci_sock_recv_all(sock, text, length, deadline_ns);
	if (ret) {
		free(text);
		return ret;
	}
	text[length] = '\0';
	*reply = text;
	return 0;
}

int mci_classic_exchange(const char *const *hosts, unsigned int count, uint16_t port,
			 enum mci_classic_type type, const char *json, uint64_t deadline_ns, char **reply)
{
	struct mci_sock sock = {.fd = -1};
	int ret;

	if (strlen(json) >= QUESTION_MAX)
		return mci_fail(-EMSGSIZE,
				"a classic message of %zu bytes is above the 1 MiB that every peer takes",
				strlen(json));
	ret = mci_connect_any(hosts, count, port, NULL, deadline_ns, &sock.fd);
	if (ret)
		return ret;
	ret = converse(&sock, type, false, json, deadline_ns, reply);
	mci_sock_close(&sock);
	if (ret != -ECONNRESET || type != MCI_CLASSIC_CONNECTION)
		return ret;
	ret = mci_connect_any(hosts, count, port, NULL, deadline_ns, &sock.fd);
	if (ret)
		return ret;
	ret = converse(&sock, type, true, json, deadline_ns, reply);
	mci_sock_close(&sock);
	return ret;
}

int mci_classic_notify_encode(const void *p, size_t length, char **json)
{
	struct mci_notify_body body;
	json_t *root;
	char *text;
	int ret;

	ret = mci_notify_decode(p, length, &body);
	if (ret)
		return ret;
	if (memchr(body.name, 0, body.name_length) || memchr(body.message, 0, body.message_length))
		return -EILSEQ;
	root = json_pack("{s:o?, s:o?}", "name", json_stringn(body.name, body.name_length), "notify_msg",
			 json_stringn(body.message, body.message_length));
	if (!root || json_is_null(json_object_get(root, "name")) ||
	    json_is_null(json_object_get(root, "notify_msg"))) {
		json_decref(root);
		return -EILSEQ;
	}
	text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(root);
	if (!text)
		return -ENOMEM;
	*json = text;
	return 0;
}

int mci_classic_notify_reply(const char *json, size_t length)
{
	json_t *root = json_loadb(json, length, 0, NULL);
	const json_t *text = json_object_get(root, "notify_msg");
	int ret = json_is_string(text) ? 0 : -EPROTO;

	if (!ret && !json_string_length(text))
		ret = -EREMOTEIO; /* refused over there */
	json_decref(root);
	return ret;
}
