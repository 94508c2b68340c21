/* SPDX-License-Identifier: MIT */
/* Random bytes and 128-bit identities. */
#ifndef MCI_UUID_H
#define MCI_UUID_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <mooncake/types.h>

#define MCI_UUID_TEXT 33 /* 32 hex digits and a NUL */

void mci_random(void *out, size_t n); /* getrandom(); aborts if the kernel has none */
void mci_uuid_new(struct mc_uuid *uuid);
void mci_uuid_text(const struct mc_uuid *uuid, char text[MCI_UUID_TEXT]);
int mci_uuid_parse(const char *text, struct mc_uuid *uuid); /* 0 or -EINVAL */

/* Hex of any bytes: @text takes 2 * n + 1. Parse wants exactly 2 * n digits. */
void mci_hex(const void *in, size_t n, char *text);
int mci_unhex(const char *text, void *out, size_t n);

static inline bool mci_uuid_equal(const struct mc_uuid *a, const struct mc_uuid *b)
{
	return !memcmp(a->b, b->b, sizeof(a->b));
}

static inline bool mci_uuid_is_zero(const struct mc_uuid *a)
{
	static const struct mc_uuid zero;

	return mci_uuid_equal(a, &zero);
}

#endif
