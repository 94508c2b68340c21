// SPDX-License-Identifier: MIT
/*
 * The opening messages of client and server take any bytes. What is read is within its bounds, and
 * written again gives the same bytes: there is one encoding of each message, so proofs cover its meaning.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void must_equal(const uint8_t *p, size_t n, const uint8_t *again, ssize_t written)
{
	must(written == (ssize_t)n && !memcmp(p, again, n));
}

static void must_be_text(const char *text, size_t size)
{
	must(memchr(text, '\0', size));
	for (; *text; text++)
		must((unsigned char)*text >= 0x20 && *text != 0x7f);
}

static void read_opening(const uint8_t *p, size_t n)
{
	static struct mci_msg_hello m;
	uint8_t again[MCI_HELLO_MAX];
	size_t have = 0;
	ssize_t need;
	int ret;

	/* As the server reads: never past the end of the message, and it always ends. */
	while ((need = mci_opening_need(p, have, false)) > (ssize_t)have) {
		must(need <= MCI_HELLO_MAX || need <= MCI_PROBE_MAX);
		if ((size_t)need > n)
			break;
		have = (size_t)need;
	}
	ret = mci_hello_read(p, n, &m);
	must(ret == 0 || ret == -EPROTO || ret == -EPROTONOSUPPORT);
	if (ret)
		return;
	must(need == (ssize_t)n);
	must(m.version == MCI_PROTOCOL_VERSION && m.mode <= MCI_AUTH_CLUSTER &&
	     m.params_length <= MCI_PARAMS_MAX);
	must_be_text(m.self.name, sizeof(m.self.name));
	if (strlen(m.self.name) == p[MCI_HELLO_HEAD + 6 + 16 + MCI_NONCE])
		must_equal(p, n, again, mci_hello_write(&m, again, sizeof(again)));
	else
		abort(); /* a NUL within a name */
}

static void read_later(const uint8_t *p, size_t n)
{
	static struct mci_msg_challenge challenge;
	static struct mci_msg_accept accept;
	static struct mci_msg_reject reject;
	uint8_t again[MCI_MESSAGE_MAX], mac[MCI_MAC];
	ssize_t need = MCI_HEAD;
	size_t have = 0;

	while (need > (ssize_t)have && (size_t)need <= n) {
		have = (size_t)need;
		need = mci_message_need(p, have);
		must(need < 0 || need <= MCI_MESSAGE_MAX);
	}
	if (!mci_challenge_read(p, n, &challenge)) {
		must(need == (ssize_t)n && challenge.mode <= MCI_AUTH_CLUSTER);
		must_be_text(challenge.self.name, sizeof(challenge.self.name));
		must_equal(p, n, again, mci_challenge_write(&challenge, again, sizeof(again)));
	}
	if (!mci_proof_read(p, n, mac)) {
		must(need == (ssize_t)n);
		must_equal(p, n, again, mci_proof_write(mac, again, sizeof(again)));
	}
	if (!mci_accept_read(p, n, &accept)) {
		must(need == (ssize_t)n && accept.params_length <= MCI_PARAMS_MAX);
		must_equal(p, n, again, mci_accept_write(&accept, again, sizeof(again)));
	}
	if (!mci_reject_read(p, n, &reject)) {
		must(need == (ssize_t)n && reject.err < 0 && reject.err >= -133);
		must_be_text(reject.sentence, sizeof(reject.sentence));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of just that size: one byte too far is seen. */
	uint8_t *p = malloc(size ? size : 1);

	memcpy(p, data, size);
	read_opening(p, size);
	read_later(p, size);
	free(p);
	return 0;
}
