/* SPDX-License-Identifier: MIT */
/*
 * Within lib/net: what service.c (listening, bounds, stopping) and incoming.c (one connection's way to
 * its handler) share. An incoming connection belongs to its loop's thread; its places in the lists and
 * the flags beside them are under service->lock, a leaf.
 */
#ifndef MCI_INCOMING_H
#define MCI_INCOMING_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/hello.h"
#include "net/service.h"

#define MCI_UNPROVED_MAX 256
#define MCI_UNPROVED_NS (3000 * 1000000ull)
#define MCI_CLASSIC_TOTAL (32u << 20) /* classic messages being read, all together */

struct listener {
	struct mci_watch watch;
	struct mci_service *service;
	bool is_unix;
};

struct mci_service {
	struct mci_service_attr attr;
	const struct mci_identity *self; /* the pointer is under lock */
	struct mci_loop *loop;		 /* of the listeners */
	struct listener tcp, local;
	struct mci_timer pause; /* no descriptors: accept again later */
	uint64_t warn_ns;	/* not before then again */
	uint16_t port;
	_Atomic uint64_t refused;
	_Atomic int64_t classic_bytes;

	pthread_mutex_t lock;
	unsigned int users;			       /* the owner, and each incoming */
	struct mci_incoming *all;		       /* unordered */
	struct mci_incoming *unproved, *unproved_last; /* oldest first */
	unsigned int unproved_count;
};

enum incoming_state {
	INCOMING_OPENING, /* first message: hello or classic */
	INCOMING_PROOF,
	INCOMING_WAITING, /* for the handler's decision */
	INCOMING_SENDING, /* then @after */
	INCOMING_TLS,
	INCOMING_READY,	 /* to be handed over */
	INCOMING_LINGER, /* all is said: wait until the peer closes */
	INCOMING_CLOSED,
};

struct mci_incoming {
	struct mci_watch watch;
	struct mci_timer timer;
	struct mci_task start, evict, decide;
	struct mci_service *service;
	struct mci_loop *loop;
	struct mci_sock sock;
	bool is_unix, watched, charged;
	struct mci_payer payer;
	enum incoming_state state, after;
	uint64_t until_ns;

	uint8_t *in; /* in_small or, for longer classic messages, heap */
	size_t in_length, in_size;
	uint8_t in_small[MCI_HELLO_MAX + 1];
	uint8_t *out; /* out_small or heap */
	size_t out_length, out_done;
	uint8_t out_small[MCI_MESSAGE_MAX];
	size_t discarded;

	struct mci_transcript transcript;
	uint8_t key[32], client_mac[MCI_MAC];
	struct mci_hello hello;

	/* the decision */
	bool accepted;
	bool is_classic; /* it was a classic message: @classic_reply is the answer */
	char *classic_reply;
	int error; /* of a reject; or -EMSGSIZE for an accept that does not fit */
	char sentence[MCI_SENTENCE_MAX + 1];
	struct mci_msg_accept accept;
	void (*ready)(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error);
	void *ready_arg;

	/* under service->lock */
	struct mci_incoming *all_prev, *all_next;
	struct mci_incoming *unproved_prev, *unproved_next;
	bool in_unproved;
	bool evicting; /* the evict task is posted and has not run */
	bool over;     /* done with; the evict task frees it */
	bool swept;
};

/* service.c */
void mci_incoming_unlist(struct mci_incoming *in); /* from the unproved; lock held */
void mci_service_put(struct mci_service *service);

/* incoming.c */
void mci_incoming_prepare(struct mci_incoming *in); /* before any other thread sees it */
/* loop thread of @in */
void mci_incoming_begin(struct mci_incoming *in);
void mci_incoming_abort(struct mci_incoming *in); /* the service stops, or it is too many */

/*
 * greet.c: each sets in->out, or gives the errno and the sentence to refuse with.
 */
int mci_greet_hello(struct mci_incoming *in, char sentence[MCI_SENTENCE_MAX + 1]);
int mci_greet_proof(struct mci_incoming *in, char sentence[MCI_SENTENCE_MAX + 1]); /* sets no out */
void mci_greet_accept(struct mci_incoming *in);

/* classic.c: the answer to a whole classic message, set as in->out; -errno: close without one. */
int mci_incoming_classic(struct mci_incoming *in);
/* Is its answer to come later? Then *json is what to ask the handler. */
bool mci_incoming_classic_later(struct mci_incoming *in, const char **json, size_t *length);
int mci_incoming_classic_reply(struct mci_incoming *in, const char *text);

#endif
