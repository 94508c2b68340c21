/* SPDX-License-Identifier: MIT */
/*
 * Server side: the rpc port. Accepts, tells our frames from classic messages by the first 8 bytes,
 * runs the hello in the loops without blocking, and hands authenticated streams to the handler.
 * Bounds: 256 connections that have not proved themselves, 4 KiB each (classic messages: 1 MiB,
 * only under classic), 3 s; then they are closed and counted.
 */
#ifndef MCI_SERVICE_H
#define MCI_SERVICE_H

#include "net/auth.h"
#include "net/ledger.h"
#include "net/loop.h"
#include "net/sock.h"

struct mci_service;
struct mci_incoming; /* a proved connection waiting for accept or reject */

/* Types of classic messages. */
enum mci_classic_type {
	MCI_CLASSIC_CONNECTION = 0,
	MCI_CLASSIC_METADATA = 1,
	MCI_CLASSIC_NOTIFY = 2,
	MCI_CLASSIC_PROBE = 3,
};

struct mci_service_attr {
	const char *bind;
	uint16_t port, port_low, port_high;
	const char *unix_name; /* NULL, or also listen on this abstract unix socket */
	bool unix_only;	       /* no TCP listener at all: only the unix socket */
	bool unix_same_user;   /* on the unix socket, SO_PEERCRED of the same user (or root) counts as
				* proof in place of a token: the hello there uses mode none for peers
				* that offer none. Never in place of a cluster key. */
	bool classic;	       /* answer classic messages other than the probe */
	enum mci_service_id service;
	uint64_t features;
	const struct mci_identity *self; /* outlives the service; read at each hello */
	struct mci_secret secret;
	struct mci_loops *loops;
	struct mci_ledger *ledger; /* of those that proved themselves, until they are handed over; NULL = none */
	/*
	 * An authenticated stream; loop thread. Call mci_incoming_accept() or _reject(), now or later,
	 * from any thread, exactly once. A @wanted uuid other than ours was rejected before with -ESTALE.
	 */
	void (*connection)(void *arg, struct mci_incoming *in);
	/*
	 * A classic message other than the probe, which is answered here. Loop thread; must not block. @json
	 * has a NUL behind it. Without a handler the answer is "null\n".
	 * Set *reply (malloc'd, with its "\n") or leave NULL for "null\n". Negative = close without a reply.
	 */
	int (*classic_message)(void *arg, enum mci_classic_type type, const char *json, size_t length,
			       char **reply);
	/*
	 * A message of type CONNECTION, whose answer may take a while: @in waits for mci_incoming_answer(), which
	 * has to come, exactly once, from any thread. @json lives until then. NULL = classic_message has them too.
	 */
	void (*classic_connection)(void *arg, struct mci_incoming *in, const char *json, size_t length);
	void *arg;
};

int mci_service_start(const struct mci_service_attr *attr, struct mci_service **service);
/*
 * Closes what was not handed over; afterwards no callback comes but the error of an accept() that was
 * under way. Not from a loop thread. Incoming connections still waiting for a decision stay valid until
 * that is made (it frees them, so the loops must still run then).
 */
void mci_service_stop(struct mci_service *service);
uint16_t mci_service_port(const struct mci_service *service);
uint64_t mci_service_refused(const struct mci_service *service);
/* Any thread; for hellos from now on. @self outlives the service. */
void mci_service_identity(struct mci_service *service, const struct mci_identity *self);

const struct mci_hello *mci_incoming_hello(const struct mci_incoming *in);
bool mci_incoming_is_unix(const struct mci_incoming *in);
/* In whose account to book what it will hold. */
const struct mci_payer *mci_incoming_payer(const struct mci_incoming *in);
/* Loop that the stream should live on. */
struct mci_loop *mci_incoming_loop(const struct mci_incoming *in);
/*
 * Send ACCEPT with @params and hand the stream over: @ready runs in the loop thread once ACCEPT is on
 * its way (and TLS, where agreed, is up): it owns @sock (not watched by anything). @error < 0: it failed,
 * sock is closed.
 * Accepted bytes that the client sent behind its PROOF stay unread in the socket.
 */
void mci_incoming_accept(struct mci_incoming *in, const void *params, uint16_t length,
			 void (*ready)(void *arg, struct mci_sock sock, const struct mci_hello *hello,
				       int error),
			 void *arg);
void mci_incoming_reject(struct mci_incoming *in, int err, const char *sentence);
/* Answers a classic message; @reply is malloc'd and ends with "\n"; NULL: closed without an answer. */
void mci_incoming_answer(struct mci_incoming *in, char *reply);

#endif
