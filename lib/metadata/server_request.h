/* SPDX-License-Identifier: MIT */
/* One request to the metadata server, between libmicrohttpd's callbacks (server_http.c) and the store. */
#ifndef MCI_SERVER_REQUEST_H
#define MCI_SERVER_REQUEST_H

#include <microhttpd.h>

#include "metadata/server_http.h"

enum mci_http_verb { MCI_VERB_GET, MCI_VERB_PUT, MCI_VERB_DELETE, MCI_VERB_POST, MCI_VERB_OTHER };

struct mci_http_request {
	struct mci_keystore *store;
	struct MHD_Connection *connection;
	enum mci_http_verb verb;
	struct mci_blob *body; /* PUT: grows as it comes */
	uint64_t body_seen;
	const char *mark;     /* MCI_HTTP_MARK_* */
	bool health;	      /* the path is /health */
	unsigned int refused; /* status that was decided before the body was read; 0 = none */
	char sentence[640];
	bool watching, watched; /* waiting for a change; it came, or the time is over */
	struct mci_watcher watcher;
};

/* Decides what can be decided before the body is there: sets request->refused. */
void mci_request_begin(struct mci_http_request *request, const char *url, const char *bearer);
/* A piece of the body. False: too much of what is refused anyway, hang up. */
bool mci_request_body(struct mci_http_request *request, const char *data, size_t length);
/* All is there: queue an answer, or wait for a change and come here again. */
enum MHD_Result mci_request_answer(struct mci_http_request *request);

void mci_request_free(struct mci_http_request *request);

/* server_reply.c */
enum MHD_Result mci_reply_text(struct mci_http_request *request, unsigned int status, const char *text);
enum MHD_Result mci_reply_version(struct mci_http_request *request, unsigned int status, const char *text,
				  uint64_t version);
enum MHD_Result mci_reply_value(struct mci_http_request *request, const struct mci_keystore_item *item);
enum MHD_Result mci_reply_list(struct mci_http_request *request, struct mci_keystore_item *items,
			       size_t count, bool more);
enum MHD_Result mci_reply_watch(struct mci_http_request *request, uint64_t version, bool changed);

#endif
