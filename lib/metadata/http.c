// SPDX-License-Identifier: MIT
/*
 * The HTTP backend: our metadata server, and classic ones, told apart by a header of each answer.
 * Ours compares versions (ETag), keeps times to live, lists and lets us wait for changes. On a classic one
 * a version is a hash of the text, compare-and-swap is look, put, look again, and nothing ever expires.
 * No lock: struct mci_curl has its own; http.ours is what the last answer said.
 */
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "metadata/curl.h"
#include "metadata/metadata.h"
#include "metadata/server_rest.h"
#include "net/sock.h"

#define CONNECT_MS 1500
#define WATCH_MS 25000
#define WATCH_SETTLE_MS 100 /* changes come in flocks: one call for many */

struct http {
	struct mci_curl *curl;
	char *url, *authorization;
	char shown[512]; /* the url, without a password */
	uint32_t timeout_ms, lease_ms;
	_Atomic bool ours;
};

struct ask {
	const char *method;
	const char *argument; /* "key", "prefix" */
	const char *value;
	const char *more; /* further arguments, escaped: "&renew=1" */
	const void *body;
	size_t body_length;
	const uint64_t *expect; /* as in ops->put */
	uint32_t ttl_ms;
	uint64_t deadline_ns;
};

static char *make_url(const struct http *http, const struct ask *ask)
{
	char *escaped = mci_curl_escape(ask->value);
	char *url;

	if (!escaped)
		return NULL;
	if (asprintf(&url, "%s?%s=%s%s", http->url, ask->argument, escaped, ask->more ? ask->more : "") < 0)
		url = NULL;
	free(escaped);
	return url;
}

/* "503 some words of the server": only its first line, shortened. */
static void status_text(const struct mci_curl_reply *reply, char *text, size_t size)
{
	size_t n = strcspn(reply->body, "\r\n");

	snprintf(text, size, "%ld%s%.*s%s", reply->status, n ? " \"" : "", (int)(n < 300 ? n : 300),
		 reply->body, n ? "\"" : "");
}

/* What no caller has a use for; the sentence says what to do. */
static int unexpected(const struct http *http, const struct mci_curl_reply *reply)
{
	char said[400];

	status_text(reply, said, sizeof(said));
	switch (reply->status) {
	case 401:
	case 403:
		if (http->authorization)
			return mci_fail(-EACCES,
					"the metadata server at %s refuses our token (%s); is it the same "
					"cluster key on both sides?",
					http->shown, said);
		return mci_fail(-EACCES,
				"the metadata server at %s wants a cluster key (%s); give one by --key_file "
				"or MOONCAKE_KEY_FILE",
				http->shown, said);
	case 413:
		return mci_fail(-EMSGSIZE, "the metadata server at %s refuses a value of this size: %s",
				http->shown, said);
	case 503:
		return mci_fail(-EAGAIN, "the metadata server at %s is overloaded: %s", http->shown, said);
	case 507:
		return mci_fail(-ENOSPC, "the metadata server at %s has no room left: %s", http->shown, said);
	case 404:
	case 405:
		return mci_fail(
			-EINVAL,
			"no metadata server answers at %s (%s); is the path right? it usually is /metadata",
			http->shown, said);
	default:
		return mci_fail(-EIO, "the metadata server at %s answered %s", http->shown, said);
	}
}

/* Any status is 0 here, but for the wrong path of a server of ours. */
static int exchange(struct http *http, const struct ask *ask, struct mci_curl_reply *reply)
{
	struct mci_curl_request request = {
		.method = ask->method,
		.body = ask->body,
		.body_length = ask->body_length,
		.authorization = http->authorization,
	};
	char condition[64], ttl[64], mark[32];
	const char *headers[3] = {NULL};
	unsigned int n = 0;
	char *url;
	int ret;

	request.timeout_ms = (uint32_t)mci_ms_left(ask->deadline_ns);
	if (!request.timeout_ms)
		return mci_fail(-ETIMEDOUT, "the metadata server at %s did not answer within %u ms",
				http->shown, http->timeout_ms);
	request.connect_timeout_ms = request.timeout_ms < CONNECT_MS ? request.timeout_ms : CONNECT_MS;
	if (ask->expect && *ask->expect)
		snprintf(condition, sizeof(condition), "If-Match: \"%" PRIu64 "\"", *ask->expect);
	else
		snprintf(condition, sizeof(condition), "If-None-Match: *");
	if (ask->expect)
		headers[n++] = condition;
	snprintf(ttl, sizeof(ttl), MCI_HTTP_TTL ": %u", ask->ttl_ms);
	if (ask->ttl_ms)
		headers[n++] = ttl;
	request.headers = headers;
	url = make_url(http, ask);
	if (!url)
		return mci_fail(-ENOMEM, "no memory for a request to the metadata server");
	request.url = url;
	ret = mci_curl_request(http->curl, &request, reply);
	free(url);
	if (ret)
		return ret;
	if (mci_curl_header(reply, MCI_HTTP_MARK, mark, sizeof(mark)))
		mark[0] = 0;
	/* What a proxy in between answers (5xx, no right) says nothing about the kind. */
	if (mark[0] || reply->status == 200 ||
	    (reply->status >= 400 && reply->status <= 405 && reply->status != 401 && reply->status != 403))
		atomic_store(&http->ours, mark[0] != 0);
	if (!strcmp(mark, MCI_HTTP_MARK_PATH)) {
		ret = unexpected(http, reply);
		mci_curl_reply_free(reply);
	}
	return ret;
}

static uint64_t deadline(const struct http *http) { return mci_now_ns() + http->timeout_ms * MCI_NS_PER_MS; }

static uint64_t text_version(const void *text, size_t length) { return XXH3_64bits(text, length) | 1; }

static uint64_t reply_version(const struct mci_curl_reply *reply)
{
	char tag[64];
	char *end;
	uint64_t version;

	if (mci_curl_header(reply, "ETag", tag, sizeof(tag)) || tag[0] != '"')
		return 0;
	version = strtoull(tag + 1, &end, 10);
	return *end == '"' ? version : 0;
}

static int get(struct http *http, const char *key, uint64_t deadline_ns, struct mci_metadata_value *value)
{
	struct ask ask = {.method = "GET", .argument = "key", .value = key, .deadline_ns = deadline_ns};
	struct mci_curl_reply reply = {0};
	int ret;

	ret = exchange(http, &ask, &reply);
	if (ret)
		return ret;
	if (reply.status == 404)
		ret = -ENOENT;
	else if (reply.status != 200)
		ret = unexpected(http, &reply);
	if (ret)
		goto out;
	value->version =
		atomic_load(&http->ours) ? reply_version(&reply) : text_version(reply.body, reply.length);
	value->text = reply.body;
	value->length = reply.length;
	reply.body = NULL;
out:
	mci_curl_reply_free(&reply);
	return ret;
}

static int http_get(void *backend, const char *key, struct mci_metadata_value *value)
{
	return get(backend, key, deadline(backend), value);
}

/* 0: the server has it (*version 0 if it is a classic one); -ESTALE or -EEXIST by the condition. */
static int put_once(struct http *http, struct ask *ask, uint64_t *version, bool *duplicate)
{
	struct mci_curl_reply reply = {0};
	int ret;

	ask->method = "PUT";
	*duplicate = false;
	ret = exchange(http, ask, &reply);
	if (ret)
		return ret;
	*version = reply_version(&reply);
	if (reply.status == 412)
		ret = ask->expect && !*ask->expect ? -EEXIST : -ESTALE;
	else if (reply.status == 400 && !atomic_load(&http->ours) && strstr(ask->value, "rpc_meta"))
		*duplicate = true;
	else if (reply.status != 200)
		ret = unexpected(http, &reply);
	if (*duplicate)
		ret = unexpected(http, &reply); /* the sentence, if it was something else after all */
	mci_curl_reply_free(&reply);
	return ret;
}

/* A classic server refuses another value for an rpc_meta key that exists: the way is to delete it first. */
static int put_over(struct http *http, struct ask *ask, uint64_t *version)
{
	struct ask delete = *ask;
	struct mci_curl_reply reply = {0};
	bool duplicate;
	int ret;

	ret = put_once(http, ask, version, &duplicate);
	if (!duplicate)
		return ret;
	delete.method = "DELETE";
	delete.body = NULL;
	delete.body_length = 0;
	delete.expect = NULL;
	ret = exchange(http, &delete, &reply);
	if (ret)
		return ret;
	if (reply.status != 200 && reply.status != 404)
		ret = unexpected(http, &reply);
	mci_curl_reply_free(&reply);
	return ret ? ret : put_once(http, ask, version, &duplicate);
}

static bool same(const struct mci_metadata_value *value, const struct ask *ask)
{
	return value->length == ask->body_length && !memcmp(value->text, ask->body, ask->body_length);
}

/* Does the key on a classic server satisfy ask->expect? Also finds out whether the server still is classic.
 */
static int look_before(struct http *http, const struct ask *ask)
{
	struct mci_metadata_value value;
	int ret;

	ret = get(http, ask->value, ask->deadline_ns, &value);
	if (ret == -ENOENT)
		return *ask->expect ? -ESTALE : 0;
	if (ret)
		return ret;
	ret = !*ask->expect ? -EEXIST : value.version == *ask->expect ? 0 : -ESTALE;
	free(value.text);
	return ret;
}

static int look_after(struct http *http, const struct ask *ask, uint64_t *version)
{
	struct mci_metadata_value value;
	bool stayed;
	int ret;

	ret = get(http, ask->value, ask->deadline_ns, &value);
	if (ret == -ENOENT)
		return -ESTALE;
	if (ret)
		return ret;
	stayed = same(&value, ask);
	*version = value.version;
	free(value.text);
	return stayed ? 0 : ask->expect && !*ask->expect ? -EEXIST : -ESTALE;
}

static int explain(const char *key, int ret)
{
	if (ret == -EEXIST)
		return mci_fail(ret,
				"the metadata key '%s' holds what another process put there; use another "
				"name, or end that process",
				key);
	return ret;
}

static int http_put(void *backend, const char *key, const char *text, size_t length, const uint64_t *expect,
		    bool lease, uint64_t *version)
{
	struct http *http = backend;
	struct ask ask = {
		.argument = "key",
		.value = key,
		.body = text,
		.body_length = length,
		.expect = expect,
		.ttl_ms = lease ? http->lease_ms : 0,
		.deadline_ns = deadline(http),
	};
	uint64_t got = 0;
	int ret = 0;

	if (expect && !atomic_load(&http->ours))
		ret = look_before(http, &ask);
	if (ret)
		return explain(key, ret);
	ret = put_over(http, &ask, &got);
	if (!ret && !atomic_load(&http->ours))
		ret = look_after(http, &ask, &got);
	if (ret == -ESTALE && !expect)
		ret = 0; /* somebody put another value a moment later, as they may */
	if (!ret)
		*version = got;
	return explain(key, ret);
}

static int http_del(void *backend, const char *key, const uint64_t *expect)
{
	struct http *http = backend;
	struct ask ask = {
		.method = "DELETE",
		.argument = "key",
		.value = key,
		.expect = expect,
		.deadline_ns = deadline(http),
	};
	struct mci_curl_reply reply = {0};
	int ret = 0;

	if (expect && !*expect)
		return -ESTALE;
	/* Go's classic server says 200 for a key that never was: only looking tells. */
	if (!atomic_load(&http->ours)) {
		struct mci_metadata_value value;

		ret = get(http, key, ask.deadline_ns, &value);
		if (ret)
			return ret;
		if (!atomic_load(&http->ours) && expect && value.version != *expect)
			ret = -ESTALE;
		free(value.text);
	}
	if (!ret)
		ret = exchange(http, &ask, &reply);
	if (ret)
		return ret;
	if (reply.status == 404)
		ret = -ENOENT;
	else if (reply.status == 412)
		ret = -ESTALE;
	else if (reply.status != 200)
		ret = unexpected(http, &reply);
	mci_curl_reply_free(&reply);
	return ret;
}

static int renew_once(struct http *http, const char *key, const uint64_t *version, uint64_t deadline_ns)
{
	struct ask ask = {
		.method = "POST",
		.argument = "key",
		.value = key,
		.more = "&renew=1",
		.body = "",
		.expect = version,
		.ttl_ms = http->lease_ms,
		.deadline_ns = deadline_ns,
	};
	struct mci_curl_reply reply = {0};
	int ret;

	ret = exchange(http, &ask, &reply);
	if (ret)
		return ret;
	if (!atomic_load(&http->ours))
		ret = -EOPNOTSUPP; /* a classic server took its place */
	else if (reply.status == 404)
		ret = -ENOENT;
	else if (reply.status == 412)
		ret = -ESTALE;
	else if (reply.status != 200)
		ret = unexpected(http, &reply);
	mci_curl_reply_free(&reply);
	return ret;
}

/* Ours: a light POST while the version is the known one; else, and on classic servers, the text decides. */
static int http_renew(void *backend, const char *key, const char *text, size_t length, uint64_t *version)
{
	struct http *http = backend;
	struct ask wanted = {.body = text, .body_length = length};
	struct mci_metadata_value value;
	uint64_t deadline_ns = deadline(http);
	bool mine;
	int ret;

	if (*version && atomic_load(&http->ours)) {
		ret = renew_once(http, key, version, deadline_ns);
		if (ret != -ESTALE && ret != -EOPNOTSUPP)
			return ret;
	}
	ret = get(http, key, deadline_ns, &value);
	if (ret)
		return ret;
	mine = same(&value, &wanted);
	free(value.text);
	if (!mine)
		return -ESTALE;
	if (atomic_load(&http->ours)) {
		ret = renew_once(http, key, &value.version, deadline_ns);
		if (ret)
			return ret;
	}
	*version = value.version;
	return 0;
}

/* One entry of a listing: {"key", "value" or "value_hex", "version"}. */
static int hand_over(json_t *entry,
		     int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg), void *arg)
{
	json_t *text = json_object_get(entry, "value"), *hex = json_object_get(entry, "value_hex");
	const char *key = json_string_value(json_object_get(entry, "key"));
	struct mci_metadata_value value = {
		.length = hex ? json_string_length(hex) / 2 : json_string_length(text),
		.version = (uint64_t)json_integer_value(json_object_get(entry, "version")),
	};
	int ret;

	if (!key || (!json_is_string(text) && !json_is_string(hex)))
		return mci_fail(-EIO, "the metadata server sent a listing that is not one");
	value.text = malloc(value.length + 1);
	if (!value.text)
		return mci_fail(-ENOMEM, "no memory for a listing of the metadata server");
	if (!hex)
		memcpy(value.text, json_string_value(text), value.length);
	else if (mci_unhex(json_string_value(hex), value.text, value.length))
		value.length = 0;
	value.text[value.length] = 0;
	ret = fn(key, &value, arg);
	free(value.text);
	return ret;
}

/* Up to ~16000 keys a page; *last is the key to go on behind, NULL after the last page. */
static int list_page(struct http *http, struct ask *ask, char **last,
		     int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg), void *arg)
{
	struct mci_curl_reply reply = {0};
	json_t *array = NULL;
	char more[8];
	size_t i, n;
	int ret;

	ask->deadline_ns = deadline(http);
	ret = exchange(http, ask, &reply);
	if (ret)
		return ret;
	if (!atomic_load(&http->ours)) {
		ret = mci_fail(-EOPNOTSUPP,
			       "the metadata server at %s is a classic one, which cannot list its keys; use "
			       "mooncake-metadata-server, etcd or redis",
			       http->shown);
		goto out;
	}
	if (reply.status != 200) {
		ret = unexpected(http, &reply);
		goto out;
	}
	array = json_loadb(reply.body, reply.length, JSON_ALLOW_NUL, NULL);
	n = json_array_size(array);
	if (!json_is_array(array))
		ret = mci_fail(-EIO, "the metadata server at %s sent a listing that is not one", http->shown);
	for (i = 0; i < n && !ret; i++)
		ret = hand_over(json_array_get(array, i), fn, arg);
	free(*last);
	*last = NULL;
	if (!ret && n && !mci_curl_header(&reply, MCI_HTTP_MORE, more, sizeof(more)))
		*last = strdup(json_string_value(json_object_get(json_array_get(array, n - 1), "key")));
out:
	json_decref(array);
	mci_curl_reply_free(&reply);
	return ret;
}

static int http_list(void *backend, const char *prefix,
		     int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg), void *arg)
{
	struct ask ask = {.method = "GET", .argument = "prefix", .value = prefix};
	char *last = NULL, *after = NULL, *escaped;
	int ret;

	do {
		ret = list_page(backend, &ask, &last, fn, arg);
		free(after);
		after = NULL;
		if (ret || !last)
			break;
		escaped = mci_curl_escape(last);
		if (!escaped || asprintf(&after, "&after=%s", escaped) < 0) {
			after = NULL;
			ret = mci_fail(-ENOMEM, "no memory for a listing of the metadata server");
		}
		free(escaped);
		ask.more = after;
	} while (!ret);
	free(last);
	return ret;
}

struct answer {
	char text[256];
	size_t length;
};

static int collect(void *arg, const char *data, size_t length)
{
	struct answer *answer = arg;

	if (length >= sizeof(answer->text) - answer->length)
		return mci_fail(-EIO, "the metadata server answered a watch with something long");
	memcpy(answer->text + answer->length, data, length);
	answer->length += length;
	return 0;
}

/* Waits up to WATCH_MS for a change after *since. */
static int watch_once(struct http *http, const char *prefix, int cancel_fd, uint64_t *since, bool *changed)
{
	struct mci_curl_request request = {
		.method = "GET",
		.authorization = http->authorization,
		.connect_timeout_ms = CONNECT_MS,
		.timeout_ms = WATCH_MS + http->timeout_ms,
	};
	struct ask ask = {.argument = "watch", .value = prefix};
	struct answer answer = {.length = 0};
	json_t *reply, *flag;
	char more[80];
	long status = 0;
	char *url;
	int ret;

	snprintf(more, sizeof(more), "&since=%" PRIu64 "&timeout_ms=%u", *since, WATCH_MS);
	ask.more = more;
	url = make_url(http, &ask);
	if (!url)
		return mci_fail(-ENOMEM, "no memory for a request to the metadata server");
	request.url = url;
	ret = mci_curl_stream(http->curl, &request, cancel_fd, collect, &answer, &status);
	free(url);
	if (ret)
		return ret;
	if (status != 200)
		return mci_fail(-EIO, "the metadata server at %s answered a watch with status %ld", http->shown,
				status);
	reply = json_loadb(answer.text, answer.length, 0, NULL);
	flag = json_object_get(reply, "changed");
	*since = (uint64_t)json_integer_value(json_object_get(reply, "version"));
	*changed = json_is_true(flag);
	json_decref(reply);
	return flag ? 0
		    : mci_fail(-EIO, "the metadata server at %s answered a watch with something else",
			       http->shown);
}

static bool is_cancelled(int cancel_fd, int wait_ms)
{
	struct pollfd pfd = {.fd = cancel_fd, .events = POLLIN};

	return poll(&pfd, 1, wait_ms) > 0;
}

static int http_watch(void *backend, const char *prefix, int cancel_fd, void (*fn)(void *arg), void *arg)
{
	struct http *http = backend;
	uint64_t since = 0;
	bool changed;
	int ret;

	while (atomic_load(&http->ours)) {
		ret = watch_once(http, prefix, cancel_fd, &since, &changed);
		if (ret == -ECANCELED)
			return 0;
		if (ret)
			return ret;
		if (!changed)
			continue;
		fn(arg);
		if (is_cancelled(cancel_fd, WATCH_SETTLE_MS))
			return 0;
	}
	return mci_fail(-EOPNOTSUPP, "the metadata server at %s is a classic one, which cannot be watched",
			http->shown);
}

static void http_close(void *backend)
{
	struct http *http = backend;

	mci_curl_close(http->curl);
	if (http->authorization)
		explicit_bzero(http->authorization, strlen(http->authorization));
	free(http->authorization);
	free(http->url);
	free(http);
}

static int set_bearer(struct http *http, const char *uri, const char *bearer)
{
	char host[MCI_HOST_MAX];

	if (!bearer || !*bearer)
		return 0;
	if (asprintf(&http->authorization, "Bearer %s", bearer) < 0) {
		http->authorization = NULL;
		return mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
	}
	if (strncmp(uri, "https://", 8) && !mci_metadata_host(uri, host, sizeof(host)) &&
	    !mci_host_is_loopback(host))
		mci_warn("the cluster's metadata token goes to %s in clear text; use https, with --cert_file "
			 "and --cert_key_file at the server",
			 http->shown);
	return 0;
}

static int http_open(const char *uri, const struct mci_metadata_options *options, void **backend)
{
	struct mci_curl_options curl = {
		.ca_file = options->ca_file,
		.cert_file = options->cert_file,
		.key_file = options->key_file,
		.use_proxy = options->use_proxy,
	};
	struct mci_metadata_value value;
	struct http *http = calloc(1, sizeof(*http));
	int ret;

	if (!http)
		return mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
	http->timeout_ms = options->timeout_ms ? options->timeout_ms : 3000;
	http->lease_ms = options->lease_ms ? options->lease_ms : 10000;
	mci_shown_uri(uri, http->shown, sizeof(http->shown));
	http->url = strdup(uri);
	ret = http->url ? mci_curl_open(&curl, &http->curl)
			: mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
	if (!ret)
		ret = set_bearer(http, uri, options->bearer);
	if (ret)
		goto err_close;
	/* Nobody has this key; what the answer looks like tells whom we talk to. */
	ret = get(http, "mooncake/probe", deadline(http), &value);
	if (!ret)
		free(value.text);
	else if (ret != -ENOENT)
		goto err_close;
	if (!atomic_load(&http->ours))
		mci_info("the metadata server at %s is a classic one: keys do not expire, and changes cannot "
			 "be compared first",
			 http->shown);
	*backend = http;
	return 0;

err_close:
	http_close(http);
	return ret;
}

const struct mci_metadata_ops mci_metadata_http = {
	.name = "http",
	.open = http_open,
	.close = http_close,
	.get = http_get,
	.put = http_put,
	.del = http_del,
	.list = http_list,
	.renew = http_renew,
	.watch = http_watch,
};
