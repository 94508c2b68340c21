// SPDX-License-Identifier: MIT
/* Random bytes and 128-bit identities. */
#include "core/uuid.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

void mci_random(void *out, size_t n)
{
	uint8_t *p = out;

	while (n) {
		ssize_t got = getrandom(p, n, 0);

		if (got < 0) {
			if (errno == EINTR)
				continue;
			abort();
		}
		p += got;
		n -= (size_t)got;
	}
}

void mci_uuid_new(struct mc_uuid *uuid) { mci_random(uuid->b, sizeof(uuid->b)); }

void mci_hex(const void *in, size_t n, char *text)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = in;
	size_t i;

	for (i = 0; i < n; i++) {
		text[2 * i] = digits[p[i] >> 4];
		text[2 * i + 1] = digits[p[i] & 15];
	}
	text[2 * n] = '\0';
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int mci_unhex(const char *text, void *out, size_t n)
{
	uint8_t *p = out;
	size_t i;

	if (strlen(text) != 2 * n)
		return -EINVAL;
	for (i = 0; i < n; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		p[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

void mci_uuid_text(const struct mc_uuid *uuid, char text[MCI_UUID_TEXT])
{
	mci_hex(uuid->b, sizeof(uuid->b), text);
}

int mci_uuid_parse(const char *text, struct mc_uuid *uuid)
{
	return mci_unhex(text, uuid->b, sizeof(uuid->b));
}
