/* SPDX-License-Identifier: MIT */
/*
 * Messages that classic programs exchange on the rpc port, client side: u64 LE length of what follows,
 * one byte type, JSON text. One question per connection, closed at once: a classic server serves
 * nobody else before.
 */
#ifndef MCI_CLASSIC_MESSAGE_H
#define MCI_CLASSIC_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "net/service.h" /* enum mci_classic_type */

#define MCI_CLASSIC_PREFIX 9		    /* length and type */
#define MCI_CLASSIC_MESSAGE_MAX (16u << 20) /* bytes of a reply that we take */

/* Frame around @json ("\n" is added where it lacks), malloc'd. -ENOMEM. */
int mci_classic_frame(enum mci_classic_type type, const char *json, uint8_t **frame, size_t *length);
/*
 * What the first 9 bytes of a reply to @type promise: *@length bytes of JSON behind them, at most @limit.
 * -EPROTO with a sentence.
 */
int mci_classic_prefix(const uint8_t prefix[MCI_CLASSIC_PREFIX], enum mci_classic_type type, size_t limit,
		       size_t *length);
/*
 * Ask, blocking. *@reply is the JSON text, malloc'd, with a NUL behind it.
 * -EPROTO: no classic peer; -EMSGSIZE: @json is above 1 MiB; -ECONNRESET: it closed without an answer;
 * else as mci_connect_any().
 */
/* (A CONNECTION that is not understood is asked again in the form before 0.3.0, without a type.) */
int mci_classic_exchange(const char *const *hosts, unsigned int count, uint16_t port,
			 enum mci_classic_type type, const char *json, uint64_t deadline_ns, char **reply);

/* The JSON text of a notify, whose body is encoded as ours is; malloc'd. -EILSEQ: a classic message is text. */
int mci_classic_notify_encode(const void *body, size_t length, char **json);
/* 0 if the JSON text of a reply says that the notify was taken. */
int mci_classic_notify_reply(const char *json, size_t length);

#endif
