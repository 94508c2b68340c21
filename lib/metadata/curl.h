/* SPDX-License-Identifier: MIT */
/*
 * One blocking HTTP request with a deadline, for the backends that speak HTTP (etcd, our metadata server).
 * A struct mci_curl is shared by threads: each request takes an idle connection handle, or makes one.
 */
#ifndef MCI_CURL_H
#define MCI_CURL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCI_CURL_BODY_MAX (32u << 20) /* a longer answer is -EMSGSIZE */

struct mci_curl;

struct mci_curl_options {
	const char *ca_file, *cert_file, *key_file; /* TLS; NULL = the system's authorities, no certificate */
	const char *user, *password;		    /* HTTP basic authentication; NULL = none */
	bool use_proxy;				    /* obey http_proxy & co.; default is to bypass them */
};

struct mci_curl_request {
	const char *method; /* "GET", "PUT", "POST", "DELETE" */
	const char *url;    /* already escaped, see mci_curl_escape() */
	const void *body;   /* NULL = none */
	size_t body_length;
	const char *content_type;    /* of the body; NULL = application/json */
	const char *authorization;   /* the header's value ("Bearer x", or an etcd token); NULL = none */
	const char *const *headers;  /* further "Name: value" lines, NULL at the end; may be NULL */
	uint32_t connect_timeout_ms; /* 0 = timeout_ms */
	uint32_t timeout_ms;	     /* total, name resolution included; 0 = 3000 */
	uint32_t life_ms; /* of a stream: it ends then as if the server had ended it; 0 = no limit */
};

struct mci_curl_reply {
	long status; /* 200, 404, ... */
	char *body;  /* never NULL after success; a NUL is behind it */
	size_t length;
	char *headers; /* raw lines of the final answer; see mci_curl_header() */
};

/* The strings of @options are copied. -EINVAL (a file that is not readable), -ENOMEM. */
int mci_curl_open(const struct mci_curl_options *options, struct mci_curl **curl);
void mci_curl_close(struct mci_curl *curl); /* no request may be running */

/*
 * Any HTTP status is success (0) here: look at reply->status. Failures, each with a sentence that names
 * scheme, host and port: -ECONNREFUSED, -EHOSTUNREACH (no such name), -ETIMEDOUT, -EACCES (TLS refused),
 * -EMSGSIZE, -EIO (cut off, not HTTP), -EINVAL (bad URL), -ENOMEM.
 */
int mci_curl_request(struct mci_curl *curl, const struct mci_curl_request *request,
		     struct mci_curl_reply *reply);
void mci_curl_reply_free(struct mci_curl_reply *reply); /* leaves it empty; safe on a zeroed one */

/* Copies the header's value (name without colon, any case; blanks around the value cut off). -ENOENT;
 * -EMSGSIZE. */
int mci_curl_header(const struct mci_curl_reply *reply, const char *name, char *value, size_t size);

/* Percent-encoding of everything but unreserved characters ('/' too). Free with free(). NULL: no memory. */
char *mci_curl_escape(const char *text);

/*
 * As mci_curl_request, but the body is handed to @fn in pieces as it comes, without a limit in
 * length, until @cancel_fd is readable (-ECANCELED), @fn returns non-zero (that), or the server ends
 * it (0, *status set). timeout_ms bounds the time until the answer's header has come.
 */
int mci_curl_stream(struct mci_curl *curl, const struct mci_curl_request *request, int cancel_fd,
		    int (*fn)(void *arg, const char *data, size_t length), void *arg, long *status);

#endif
