/* SPDX-License-Identifier: MIT */
/* Answers to what classic programs ask on our rpc port: JSON in, JSON out. Pure, but for the callbacks. */
#ifndef MCI_ENGINE_CLASSIC_H
#define MCI_ENGINE_CLASSIC_H

#include <stddef.h>
#include <stdint.h>

#include "transport/classic_message.h"

struct mci_classic_handler {
	/* Our descriptor's text, malloc'd, or NULL: "null" is answered (as everywhere but with P2PHANDSHAKE).
	 */
	char *(*descriptor)(void *arg);
	/* A notify arrived; negative = not taken, the sender is told. @message ends with a NUL behind
	 * @length. */
	int (*notify)(void *arg, const char *name, const char *message, size_t length);
	void *arg;
};

/*
 * Fits mci_service_attr.classic_message: *@reply is malloc'd and ends with "\n".
 * -EBADMSG: malformed JSON or a type that is not known; close without an answer, as classic servers do.
 */
int mci_classic_answer(const struct mci_classic_handler *handler, enum mci_classic_type type,
		       const char *json, size_t length, char **reply);

#endif
