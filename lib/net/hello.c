// SPDX-License-Identifier: MIT
/* Codec of the opening messages: bounded, exact (no byte left over), every field checked before use. */
#include "net/hello.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/bytes.h"

#define ERRNO_MAX 133 /* EHWPOISON, the last that Linux has */

static void write_identity(struct mci_writer *w, const struct mci_identity *id)
{
	size_t n = strnlen(id->name, sizeof(id->name));

	if (n > MCI_NAME_MAX)
		w->bad = true;
	mci_write8(w, (uint8_t)n);
	mci_write_bytes(w, id->name, n);
	mci_write_bytes(w, id->uuid.b, sizeof(id->uuid.b));
	mci_write64(w, id->generation);
}

/* A name is shown in sentences and logs: control bytes have no place in it. */
static void read_identity(struct mci_reader *r, struct mci_identity *id)
{
	size_t n = mci_read8(r), i;

	memset(id->name, 0, sizeof(id->name));
	mci_read_bytes(r, id->name, n);
	for (i = 0; i < n; i++)
		if ((unsigned char)id->name[i] < 0x20 || id->name[i] == 0x7f)
			r->bad = true;
	mci_read_bytes(r, id->uuid.b, sizeof(id->uuid.b));
	id->generation = mci_read64(r);
}

static void begin(struct mci_writer *w, uint8_t *p, size_t size, uint8_t type)
{
	mci_writer_init(w, p, size < MCI_MESSAGE_MAX ? size : MCI_MESSAGE_MAX);
	mci_write8(w, type);
	mci_write32(w, 0);
}

static ssize_t end(struct mci_writer *w)
{
	if (w->bad)
		return -EMSGSIZE;
	mci_put32(w->p + 1, (uint32_t)(w->used - MCI_HEAD));
	return (ssize_t)w->used;
}

/* Reader over the body of a message of @type that is exactly @n bytes long. */
static int open_message(const uint8_t *p, size_t n, uint8_t type, struct mci_reader *r)
{
	if (n < MCI_HEAD || n > MCI_MESSAGE_MAX || p[0] != type || mci_get32(p + 1) != n - MCI_HEAD)
		return -EPROTO;
	mci_reader_init(r, p + MCI_HEAD, n - MCI_HEAD);
	return 0;
}

static int close_reader(const struct mci_reader *r) { return r->bad || r->left ? -EPROTO : 0; }

ssize_t mci_hello_write(const struct mci_msg_hello *m, uint8_t *p, size_t size)
{
	struct mci_writer w;

	if (m->params_length > MCI_PARAMS_MAX)
		return -EMSGSIZE;
	mci_writer_init(&w, p, size < MCI_HELLO_MAX ? size : MCI_HELLO_MAX);
	mci_write_bytes(&w, MCI_MAGIC, 8);
	mci_write32(&w, 0);
	mci_write16(&w, m->version);
	mci_write8(&w, m->mode);
	mci_write8(&w, m->service);
	mci_write8(&w, m->role);
	mci_write8(&w, 0);
	mci_write64(&w, m->features);
	mci_write64(&w, m->required);
	mci_write_bytes(&w, m->nonce, sizeof(m->nonce));
	write_identity(&w, &m->self);
	mci_write_bytes(&w, m->wanted.b, sizeof(m->wanted.b));
	mci_write16(&w, m->params_length);
	mci_write_bytes(&w, m->params, m->params_length);
	if (w.bad)
		return -EMSGSIZE;
	mci_put32(p + 8, (uint32_t)(w.used - MCI_HELLO_HEAD));
	return (ssize_t)w.used;
}

int mci_hello_read(const uint8_t *p, size_t n, struct mci_msg_hello *m)
{
	struct mci_reader r;

	if (n < MCI_HELLO_HEAD || n > MCI_HELLO_MAX || !mci_opening_is_hello(p, n) ||
	    mci_get32(p + 8) != n - MCI_HELLO_HEAD)
		return -EPROTO;
	memset(m, 0, sizeof(*m));
	mci_reader_init(&r, p + MCI_HELLO_HEAD, n - MCI_HELLO_HEAD);
	m->version = mci_read16(&r);
	if (r.bad)
		return -EPROTO;
	if (m->version != MCI_PROTOCOL_VERSION)
		return -EPROTONOSUPPORT;
	m->mode = mci_read8(&r);
	m->service = mci_read8(&r);
	m->role = mci_read8(&r);
	if (mci_read8(&r) || m->mode > MCI_AUTH_CLUSTER)
		return -EPROTO;
	m->features = mci_read64(&r);
	m->required = mci_read64(&r);
	mci_read_bytes(&r, m->nonce, sizeof(m->nonce));
	read_identity(&r, &m->self);
	mci_read_bytes(&r, m->wanted.b, sizeof(m->wanted.b));
	m->params_length = mci_read16(&r);
	if (m->params_length > MCI_PARAMS_MAX)
		return -EPROTO;
	mci_read_bytes(&r, m->params, m->params_length);
	return close_reader(&r);
}

ssize_t mci_challenge_write(const struct mci_msg_challenge *m, uint8_t *p, size_t size)
{
	struct mci_writer w;

	begin(&w, p, size, MCI_MSG_CHALLENGE);
	mci_write16(&w, m->version);
	mci_write8(&w, m->mode);
	mci_write8(&w, 0);
	mci_write64(&w, m->features);
	mci_write_bytes(&w, m->nonce, sizeof(m->nonce));
	write_identity(&w, &m->self);
	return end(&w);
}

int mci_challenge_read(const uint8_t *p, size_t n, struct mci_msg_challenge *m)
{
	struct mci_reader r;
	int ret = open_message(p, n, MCI_MSG_CHALLENGE, &r);

	if (ret)
		return ret;
	memset(m, 0, sizeof(*m));
	m->version = mci_read16(&r);
	if (r.bad)
		return -EPROTO;
	if (m->version != MCI_PROTOCOL_VERSION)
		return -EPROTONOSUPPORT;
	m->mode = mci_read8(&r);
	if (mci_read8(&r) || m->mode > MCI_AUTH_CLUSTER)
		return -EPROTO;
	m->features = mci_read64(&r);
	mci_read_bytes(&r, m->nonce, sizeof(m->nonce));
	read_identity(&r, &m->self);
	return close_reader(&r);
}

ssize_t mci_proof_write(const uint8_t mac[MCI_MAC], uint8_t *p, size_t size)
{
	struct mci_writer w;

	begin(&w, p, size, MCI_MSG_PROOF);
	mci_write_bytes(&w, mac, MCI_MAC);
	return end(&w);
}

int mci_proof_read(const uint8_t *p, size_t n, uint8_t mac[MCI_MAC])
{
	struct mci_reader r;
	int ret = open_message(p, n, MCI_MSG_PROOF, &r);

	if (ret)
		return ret;
	mci_read_bytes(&r, mac, MCI_MAC);
	return close_reader(&r);
}

ssize_t mci_accept_write(const struct mci_msg_accept *m, uint8_t *p, size_t size)
{
	struct mci_writer w;

	if (m->params_length > MCI_PARAMS_MAX)
		return -EMSGSIZE;
	begin(&w, p, size, MCI_MSG_ACCEPT);
	mci_write64(&w, m->features);
	mci_write16(&w, m->params_length);
	mci_write_bytes(&w, m->params, m->params_length);
	mci_write_bytes(&w, m->mac, sizeof(m->mac));
	return end(&w);
}

int mci_accept_read(const uint8_t *p, size_t n, struct mci_msg_accept *m)
{
	struct mci_reader r;
	int ret = open_message(p, n, MCI_MSG_ACCEPT, &r);

	if (ret)
		return ret;
	memset(m, 0, sizeof(*m));
	m->features = mci_read64(&r);
	m->params_length = mci_read16(&r);
	if (m->params_length > MCI_PARAMS_MAX)
		return -EPROTO;
	mci_read_bytes(&r, m->params, m->params_length);
	mci_read_bytes(&r, m->mac, sizeof(m->mac));
	return close_reader(&r);
}

ssize_t mci_reject_write(int err, const char *sentence, uint8_t *p, size_t size)
{
	size_t n = strnlen(sentence, MCI_SENTENCE_MAX);
	struct mci_writer w;

	begin(&w, p, size, MCI_MSG_REJECT);
	mci_write32(&w, err < 0 && err >= -ERRNO_MAX ? (uint32_t)-err : EPROTO);
	mci_write16(&w, (uint16_t)n);
	mci_write_bytes(&w, sentence, n);
	return end(&w);
}

int mci_reject_read(const uint8_t *p, size_t n, struct mci_msg_reject *m)
{
	struct mci_reader r;
	size_t length, i;
	uint32_t number;
	int ret = open_message(p, n, MCI_MSG_REJECT, &r);

	if (ret)
		return ret;
	memset(m, 0, sizeof(*m));
	number = mci_read32(&r);
	m->err = number && number <= ERRNO_MAX ? -(int)number : -EPROTO;
	length = mci_read16(&r);
	if (length > MCI_SENTENCE_MAX)
		return -EPROTO;
	mci_read_bytes(&r, m->sentence, length);
	/* It goes to a terminal: nothing but printable ASCII. */
	for (i = 0; i < length; i++)
		if (m->sentence[i] < 0x20 || m->sentence[i] > 0x7e)
			m->sentence[i] = '?';
	return close_reader(&r);
}

ssize_t mci_message_need(const uint8_t *p, size_t n)
{
	uint32_t length;

	if (n >= 1 && (p[0] < MCI_MSG_CHALLENGE || p[0] > MCI_MSG_REJECT))
		return -EPROTO;
	if (n < MCI_HEAD)
		return MCI_HEAD;
	length = mci_get32(p + 1);
	if (length > MCI_MESSAGE_MAX - MCI_HEAD)
		return -EPROTO;
	return (ssize_t)(MCI_HEAD + length);
}

bool mci_opening_is_hello(const uint8_t *p, size_t n) { return n >= 8 && !memcmp(p, MCI_MAGIC, 8); }

ssize_t mci_opening_need(const uint8_t *p, size_t n, bool classic)
{
	uint64_t length;

	if (n < 8)
		return 8;
	if (mci_opening_is_hello(p, n)) {
		if (n < MCI_HELLO_HEAD)
			return MCI_HELLO_HEAD;
		length = mci_get32(p + 8);
		if (length > MCI_HELLO_MAX - MCI_HELLO_HEAD)
			return -EPROTO;
		return (ssize_t)(MCI_HELLO_HEAD + length);
	}
	length = mci_get64(p);
	if (!length || length > MCI_CLASSIC_MAX)
		return -EPROTO;
	if (n < 9)
		return 9;
	if (!classic && (p[8] != 3 || 8 + length > MCI_PROBE_MAX))
		return -EACCES;
	return (ssize_t)(8 + length);
}

int mci_classic_read(const uint8_t *p, size_t n, struct mci_classic *m)
{
	if (n < 9 || mci_opening_is_hello(p, n) || mci_get64(p) != n - 8 || n - 8 > MCI_CLASSIC_MAX)
		return -EPROTO;
	/* Before v0.3 there was no type byte: what begins with none of the types is JSON of a connection
	 * request. */
	m->old = p[8] > 3;
	m->type = m->old ? 0 : p[8];
	m->json = (const char *)p + (m->old ? 8 : 9);
	m->length = n - (m->old ? 8 : 9);
	return 0;
}

size_t mci_classic_head(uint8_t p[9], uint8_t type, bool old, size_t json_length)
{
	mci_put64(p, json_length + !old);
	p[8] = type;
	return old ? 8 : 9;
}

const char *mci_mode_name(unsigned int mode)
{
	static const char *const names[] = {"none", "token", "cluster key"};

	return mode < sizeof(names) / sizeof(names[0]) ? names[mode] : "unknown";
}

void mci_feature_names(uint64_t features, char *text, size_t size)
{
	static const char *const names[] = {"checksum", "integrity", "shm", "notify"};
	size_t used = 0;
	unsigned int bit;

	snprintf(text, size, "none");
	for (bit = 0; bit < 64 && used < size; bit++) {
		if (!(features >> bit & 1))
			continue;
		if (bit < sizeof(names) / sizeof(names[0]))
			used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "",
						 names[bit]);
		else
			used += (size_t)snprintf(text + used, size - used, "%sbit %u", used ? ", " : "", bit);
	}
}

int mci_mode_mismatch(char sentence[MCI_SENTENCE_MAX + 1], unsigned int client, unsigned int server)
{
	if (client == server)
		return 0;
	if (server == MCI_AUTH_CLUSTER)
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the server has a cluster key and the client has none: give the client "
			 "--key_file=... (or MOONCAKE_KEY_FILE) with the key of this cluster");
	else if (client == MCI_AUTH_CLUSTER)
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the client has a cluster key and the server has none: give the server "
			 "--key_file=... (or MOONCAKE_KEY_FILE) with the key of this cluster, or run the "
			 "client without a key");
	else if (server == MCI_AUTH_TOKEN)
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the server asks for the access token of its segment, which the client does not "
			 "have: let both use the same metadata service, or give both --key_file=... (or "
			 "MOONCAKE_KEY_FILE)");
	else
		snprintf(sentence, MCI_SENTENCE_MAX + 1,
			 "the client has an access token and the server has none: let both use the same "
			 "metadata service, or give both --key_file=... (or MOONCAKE_KEY_FILE)");
	return -EKEYREJECTED;
}
