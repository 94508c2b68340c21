/* SPDX-License-Identifier: MIT */
/*
 * etcd's v3 JSON gateway, in three layers: requests and replies as text (etcd_json.c, pure), the exchange
 * with whichever server answers (etcd_gateway.c), keys and leases (etcd.c, etcd_watch.c).
 */
#ifndef MCI_ETCD_H
#define MCI_ETCD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "metadata/metadata.h"

/* ---- etcd_json.c: no I/O, no state ---- */

/* Requests: malloc'd JSON, NULL = no memory. Revisions and leases of 0 are left out, as the gateway wants. */
char *mci_etcd_encode_get(const char *key);
/* Keys from @from (included) to the end of @prefix, at most @limit. */
char *mci_etcd_encode_range(const char *prefix, const char *from, bool after, unsigned int limit);
char *mci_etcd_encode_put(const char *key, const char *text, size_t length, uint64_t lease);
/* Put or (text NULL) delete if the key's revision is @expect (0: if there is no such key); else read it. */
char *mci_etcd_encode_txn(const char *key, const char *text, size_t length, uint64_t lease, uint64_t expect);
char *mci_etcd_encode_delete(const char *key);
char *mci_etcd_encode_lease(uint64_t id, unsigned int ttl_s); /* grant (id 0), keepalive or revoke (ttl 0) */
char *mci_etcd_encode_login(const char *user, const char *password);
char *mci_etcd_encode_watch(const char *prefix);

struct mci_etcd_kv {
	const char *key; /* NUL behind it, none inside */
	const char *text;
	size_t length;
	uint64_t revision; /* of the last change */
	uint64_t lease;
};

/*
 * Replies: -EBADMSG if it is not what etcd sends (no sentence: the caller names the server).
 * @fn may be NULL; what it returns but 0 ends the list and is returned. *more: the limit cut it off.
 */
int mci_etcd_decode_range(const char *json, size_t length, int (*fn)(const struct mci_etcd_kv *kv, void *arg),
			  void *arg, bool *more);
int mci_etcd_decode_revision(const char *json, size_t length, uint64_t *revision); /* put */
/* *exists: the key was there when the comparison failed. */
int mci_etcd_decode_txn(const char *json, size_t length, bool *succeeded, bool *exists, uint64_t *revision);
int mci_etcd_decode_deleted(const char *json, size_t length, uint64_t *deleted);
int mci_etcd_decode_lease(const char *json, size_t length, uint64_t *id, uint64_t *ttl_s); /* ttl 0: gone */
int mci_etcd_decode_token(const char *json, size_t length, char *token, size_t size);

struct mci_etcd_error {
	unsigned int code; /* gRPC's; 0 = there is no error in the reply */
	char message[200]; /* printable */
};
int mci_etcd_decode_error(const char *json, size_t length, struct mci_etcd_error *error);

/* One line of a watch. */
struct mci_etcd_event {
	bool created, changed, cancelled;
	struct mci_etcd_error error;
};
int mci_etcd_decode_watch(const char *json, size_t length, struct mci_etcd_event *event);

/* ---- etcd_gateway.c ---- */

struct mci_etcd_gateway;

int mci_etcd_gateway_open(const char *uri, const struct mci_metadata_options *options,
			  struct mci_etcd_gateway **gateway);
void mci_etcd_gateway_close(struct mci_etcd_gateway *gateway);

#define MCI_ETCD_NO_LEASE (-ESTALE) /* from mci_etcd_call(): the lease of the request is gone */

/*
 * POST @request (freed here; NULL = no memory) to @path ("kv/put") of a server that answers, trying
 * the others within the timeout. 0: *reply (malloc'd, *length bytes, NUL behind) is what it said.
 * MCI_ETCD_NO_LEASE without a sentence; else -errno with a sentence.
 */
int mci_etcd_call(struct mci_etcd_gateway *gateway, const char *path, char *request, char **reply,
		  size_t *length);
/*
 * Find a server that answers, its prefix and, if need be, a token. A user who may not read the key
 * that is asked for passes: what roles allow is shown by the first real request.
 */
int mci_etcd_probe(struct mci_etcd_gateway *gateway);
/* What to say of a reply that mci_etcd_decode_*() refused. */
int mci_etcd_bad_reply(struct mci_etcd_gateway *gateway, const char *path);
/* As mci_curl_stream(); @fn gets whole lines, NUL behind each; one that is too long comes as NULL. */
int mci_etcd_stream(struct mci_etcd_gateway *gateway, const char *path, char *request, int cancel_fd,
		    int (*fn)(void *arg, const char *line, size_t length), void *arg);
/* The server refused our token in a stream: get another for the next call. */
void mci_etcd_forget_token(struct mci_etcd_gateway *gateway);

/* ---- etcd_watch.c ---- */

int mci_etcd_watch(struct mci_etcd_gateway *gateway, const char *prefix, int cancel_fd, void (*fn)(void *arg),
		   void *arg);

#endif
