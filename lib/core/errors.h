/* SPDX-License-Identifier: MIT */
/* The last failure of each thread, as a sentence. The function that decides on an error says it here. */
#ifndef MCI_ERRORS_H
#define MCI_ERRORS_H

#include <errno.h>
#include <stddef.h>

/*
 * mci_fail() - record what failed, where, why and what to do; returns @err (negative errno).
 * Usage: return mci_fail(-ENOENT, "segment '%s' is not known to %s; is the target running?", ...);
 */
int mci_fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/*
 * Copy @text for people: control bytes, which could steer a terminal, as \xNN. Names and values come from
 * the metadata service and from peers. Returns @out.
 */
char *mci_plain_text(const char *text, char *out, size_t size);
/* Copy @uri for people: what stands before its last '@' can be a password, and is left out. Returns @out. */
char *mci_shown_uri(const char *uri, char *out, size_t size);
/* Keep the sentence, change nothing else: hand a message over from another thread. */
void mci_errmsg_set(const char *text);

#endif
