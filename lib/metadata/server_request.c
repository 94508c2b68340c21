// SPDX-License-Identifier: MIT
/*
 * What the metadata server makes of a request: the classic REST interface (GET, PUT, DELETE of ?key=),
 * and ours (If-Match, If-None-Match, time to live, ?prefix=, ?watch=, ?renew=1).
 * A request is touched by one thread at a time: libmicrohttpd's, or, while it waits, the one that fires it.
 */
#include "metadata/server_request.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <mooncake/types.h>

#include "core/clock.h"

#define DRAIN_MAX (8u << 20) /* of a refused body that is read, so that the client sees the answer */
#define FIRST_SIZE 4096

static void refuse(struct mci_http_request *request, unsigned int status, const char *sentence)
{
	request->refused = status;
	snprintf(request->sentence, sizeof(request->sentence), "%s", sentence);
}

static const char *header(const struct mci_http_request *request, const char *name)
{
	return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

/* NULL: not given, or not a text (a zero byte in it: *bad). */
static const char *argument(const struct mci_http_request *request, const char *name, bool *bad)
{
	const char *value = NULL;
	size_t length = 0;

	if (!MHD_lookup_connection_value_n(request->connection, MHD_GET_ARGUMENT_KIND, name, strlen(name),
					   &value, &length))
		return NULL;
	if (value && strlen(value) != length) {
		*bad = true;
		return NULL;
	}
	return value;
}

/* Digits only, up to @max; @fallback if not given. */
static bool number(const char *text, uint64_t max, uint64_t fallback, uint64_t *out)
{
	uint64_t value = 0;

	*out = fallback;
	if (!text)
		return true;
	if (!*text)
		return false;
	for (; *text; text++) {
		unsigned int digit = (unsigned int)*text - '0';

		if (digit > 9 || value > (max - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*out = value;
	return true;
}

static bool authorized(const struct mci_http_request *request, const char *bearer)
{
	const char *given = header(request, "Authorization");

	if (!given || strncasecmp(given, "Bearer ", 7))
		return false;
	given += 7;
	return strlen(given) == strlen(bearer) && !CRYPTO_memcmp(given, bearer, strlen(bearer));
}

static bool is_text(const char *key)
{
	json_t *string = json_string(key);

	json_decref(string);
	return string != NULL;
}

static void check_key(struct mci_http_request *request)
{
	bool bad = false;
	const char *key = argument(request, "key", &bad);

	if (bad)
		refuse(request, MHD_HTTP_BAD_REQUEST, "the key has a zero byte in it");
	else if (!key || !*key)
		refuse(request, MHD_HTTP_BAD_REQUEST, "Missing key parameter");
	else if (strlen(key) > MCI_KEY_MAX)
		refuse(request, MHD_HTTP_BAD_REQUEST, "the key is longer than 4096 bytes");
	else if (request->verb == MCI_VERB_PUT && !is_text(key))
		refuse(request, MHD_HTTP_BAD_REQUEST, "the key is not UTF-8 text");
}

static void begin_body(struct mci_http_request *request)
{
	uint64_t length;

	if (!number(header(request, "Content-Length"), UINT64_MAX, FIRST_SIZE, &length) ||
	    length > MCI_VALUE_MAX) {
		refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "a value has at most 1048576 bytes (1 MiB)");
		request->body_seen = length;
		return;
	}
	request->body = mci_blob_new(mci_keystore_budget(request->store), 0);
	if (!request->body)
		refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE,
		       "the metadata server has no memory for a value");
}

/* At least @need bytes of room, all charged. */
static bool grow(struct mci_http_request *request, uint32_t need)
{
	struct mci_blob *body = request->body, *bigger;
	uint64_t hint, size;

	if (need <= body->size)
		return true;
	number(header(request, "Content-Length"), MCI_VALUE_MAX, 0, &hint);
	size = body->size * 2ull > need ? body->size * 2ull : need;
	if (hint >= need)
		size = hint;
	if (size < FIRST_SIZE && !hint)
		size = FIRST_SIZE;
	if (size > MCI_VALUE_MAX)
		size = MCI_VALUE_MAX;
	if (!mci_budget_take(body->budget, size - body->size))
		return false;
	bigger = realloc(body, sizeof(*body) + size);
	if (!bigger) {
		mci_budget_give(body->budget, size - body->size);
		return false;
	}
	bigger->charged = (uint32_t)size;
	bigger->size = (uint32_t)size;
	request->body = bigger;
	return true;
}

bool mci_request_body(struct mci_http_request *request, const char *data, size_t length)
{
	request->body_seen += length;
	if (request->refused || !request->body)
		return request->body_seen <= DRAIN_MAX;
	if (request->body_seen > MCI_VALUE_MAX) {
		refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "a value has at most 1048576 bytes (1 MiB)");
	} else if (!grow(request, (uint32_t)request->body_seen)) {
		refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE,
		       "the metadata server has too many values on their way in; try again in a second");
	} else {
		memcpy(request->body->bytes + request->body->length, data, length);
		request->body->length += (uint32_t)length;
		return true;
	}
	mci_blob_put(request->body);
	request->body = NULL;
	return true;
}

static bool wants_renewal(const struct mci_http_request *request)
{
	bool bad = false;
	const char *value = argument(request, "renew", &bad);

	return value && !strcmp(value, "1");
}

void mci_request_begin(struct mci_http_request *request, const char *url, const char *bearer)
{
	bool bad = false;

	request->health = !strcmp(url, "/health");
	if (request->health) {
		if (request->verb != MCI_VERB_GET)
			refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET here");
		return;
	}
	if (bearer && !authorized(request, bearer)) {
		refuse(request, MHD_HTTP_UNAUTHORIZED,
		       "this metadata server has a cluster key: send \"Authorization: Bearer TOKEN\" "
		       "(mooncake key show FILE --role=metadata prints it)");
		return;
	}
	if (strcmp(url, "/metadata") && strcmp(url, "/metadata/")) {
		request->mark = MCI_HTTP_MARK_PATH;
		refuse(request, MHD_HTTP_NOT_FOUND,
		       "no such page: keys are at /metadata?key=..., health at /health");
		return;
	}
	switch (request->verb) {
	case MCI_VERB_OTHER:
		refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET, HEAD, PUT, DELETE and POST here");
		return;
	case MCI_VERB_POST:
		if (!wants_renewal(request)) {
			refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED,
			       "POST only renews: ?key=...&renew=1; use PUT to store");
			return;
		}
		break;
	case MCI_VERB_GET:
		if (!argument(request, "key", &bad) &&
		    (argument(request, "prefix", &bad) || argument(request, "watch", &bad)) && !bad)
			return;
		break;
	case MCI_VERB_PUT:
	case MCI_VERB_DELETE:
		break;
	}
	check_key(request);
	if (request->verb == MCI_VERB_PUT && !request->refused)
		begin_body(request);
}

/* "17", 17 (with or without quotes), or *. */
static bool parse_tag(const char *text, struct mci_keystore_if *condition)
{
	char digits[24];
	size_t n = strlen(text);

	if (!strcmp(text, "*")) {
		condition->when = MCI_WHEN_PRESENT;
		return true;
	}
	if (n >= 2 && text[0] == '"' && text[n - 1] == '"') {
		text++;
		n -= 2;
	}
	if (n >= sizeof(digits))
		return false;
	memcpy(digits, text, n);
	digits[n] = 0;
	condition->when = MCI_WHEN_VERSION;
	return number(digits, UINT64_MAX, 0, &condition->version);
}

static bool read_condition(struct mci_http_request *request, struct mci_keystore_if *condition)
{
	const char *match = header(request, "If-Match");
	const char *none = header(request, "If-None-Match");

	condition->when = MCI_WHEN_ANY;
	if (none && request->verb != MCI_VERB_PUT) {
		refuse(request, MHD_HTTP_BAD_REQUEST, "If-None-Match goes with PUT only");
		return false;
	}
	if ((none && match) || (none && strcmp(none, "*")) || (match && !parse_tag(match, condition))) {
		refuse(request, MHD_HTTP_BAD_REQUEST,
		       "a condition is If-None-Match: *, If-Match: *, or If-Match: \"version\" (the ETag of "
		       "an answer)");
		return false;
	}
	if (none)
		condition->when = MCI_WHEN_ABSENT;
	return true;
}

static bool read_ttl(struct mci_http_request *request, uint32_t *ttl_ms)
{
	const char *text = header(request, MCI_HTTP_TTL);
	bool bad = false;
	uint64_t value;

	if (!text)
		text = argument(request, "ttl_ms", &bad);
	if (bad || !number(text, MCI_HTTP_TTL_MAX_MS, 0, &value) || (text && !value)) {
		refuse(request, MHD_HTTP_BAD_REQUEST,
		       "a time to live (header " MCI_HTTP_TTL
		       " or ttl_ms=) is a number of milliseconds from 1 to 2147483647");
		return false;
	}
	*ttl_ms = (uint32_t)value;
	return true;
}

static enum MHD_Result answer_change(struct mci_http_request *request, int ret, const char *done,
				     uint64_t version)
{
	switch (ret) {
	case 0:
		return mci_reply_version(request, MHD_HTTP_OK, done, version);
	case -ENOENT:
		return mci_reply_text(request, MHD_HTTP_NOT_FOUND, "metadata not found");
	case -EEXIST:
		return mci_reply_version(request, MHD_HTTP_PRECONDITION_FAILED, "the key exists already",
					 version);
	case -ESTALE:
		return mci_reply_version(request, MHD_HTTP_PRECONDITION_FAILED,
					 version ? "the key has another version" : "the key does not exist",
					 version);
	case -ENOSPC:
		return mci_reply_text(request, MHD_HTTP_INSUFFICIENT_STORAGE, mc_errmsg());
	case -ENOMEM:
		return mci_reply_text(request, MHD_HTTP_SERVICE_UNAVAILABLE, mc_errmsg());
	default:
		return mci_reply_text(request, MHD_HTTP_INTERNAL_SERVER_ERROR, mc_errmsg());
	}
}

static enum MHD_Result change(struct mci_http_request *request, const char *key)
{
	struct mci_keystore_if condition = {.when = MCI_WHEN_ANY};
	uint64_t version = 0;
	uint32_t ttl_ms = 0;
	int ret;

	if (!read_condition(request, &condition) || !read_ttl(request, &ttl_ms))
		return mci_reply_text(request, request->refused, request->sentence);
	if (request->verb == MCI_VERB_PUT) {
		ret = mci_keystore_put(request->store, key, request->body, ttl_ms, &condition, &version);
		return answer_change(request, ret, "metadata updated", version);
	}
	if (request->verb == MCI_VERB_DELETE) {
		ret = mci_keystore_delete(request->store, key, &condition, &version);
		return answer_change(request, ret, "metadata deleted", ret ? version : 0);
	}
	ret = mci_keystore_renew(request->store, key, ttl_ms, &condition, &version);
	return answer_change(request, ret, "metadata renewed", version);
}

static enum MHD_Result get(struct mci_http_request *request, const char *key)
{
	struct mci_keystore_item item;
	enum MHD_Result ret;

	if (mci_keystore_get(request->store, key, &item))
		return mci_reply_text(request, MHD_HTTP_NOT_FOUND, "metadata not found");
	ret = mci_reply_value(request, &item);
	mci_keystore_item_free(&item);
	return ret;
}

static enum MHD_Result list(struct mci_http_request *request, const char *prefix)
{
	struct mci_keystore_item *items;
	size_t count = 0, i;
	enum MHD_Result ret;
	bool bad = false, more;
	const char *after = argument(request, "after", &bad);
	uint64_t limit;

	if (bad || !number(argument(request, "limit", &bad), UINT32_MAX, MCI_HTTP_PAGE_KEYS, &limit) ||
	    !limit)
		return mci_reply_text(request, MHD_HTTP_BAD_REQUEST,
				      "limit= is a number of keys of at least 1, after= a key");
	if (limit > MCI_HTTP_PAGE_KEYS)
		limit = MCI_HTTP_PAGE_KEYS;
	items = calloc(limit, sizeof(*items));
	if (!items)
		return mci_reply_text(request, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory to list keys");
	if (mci_keystore_page(request->store, prefix, after, limit, MCI_HTTP_PAGE_BYTES, items, &count,
			      &more))
		ret = mci_reply_text(request, MHD_HTTP_SERVICE_UNAVAILABLE, mc_errmsg());
	else
		ret = mci_reply_list(request, items, count, more);
	for (i = 0; i < count; i++)
		mci_keystore_item_free(&items[i]);
	free(items);
	return ret;
}

/* Runs in whichever thread made the change, or the timer's. */
static void wake(struct mci_watcher *watcher)
{
	struct mci_http_request *request =
		(struct mci_http_request *)((char *)watcher - offsetof(struct mci_http_request, watcher));

	request->watched = true;
	MHD_resume_connection(request->connection);
}

static enum MHD_Result watch(struct mci_http_request *request, const char *prefix)
{
	uint64_t since, timeout_ms;
	bool bad = false;

	if (request->watched && request->refused)
		return mci_reply_text(request, request->refused, request->sentence);
	if (request->watched)
		return mci_reply_watch(request, request->watcher.version, request->watcher.changed);
	if (!number(argument(request, "since", &bad), UINT64_MAX, 0, &since) ||
	    !number(argument(request, "timeout_ms", &bad), UINT32_MAX, MCI_HTTP_WATCH_MS, &timeout_ms) || bad)
		return mci_reply_text(
			request, MHD_HTTP_BAD_REQUEST,
			"since= is the version of an earlier answer, timeout_ms= a number of milliseconds");
	if (timeout_ms > MCI_HTTP_WATCH_MS)
		timeout_ms = MCI_HTTP_WATCH_MS;
	request->watcher.prefix = prefix;
	request->watcher.deadline_ns = mci_now_ns() + timeout_ms * MCI_NS_PER_MS;
	request->watcher.fn = wake;
	/* Suspended first: the watcher may fire before mci_keystore_watch() returns. */
	MHD_suspend_connection(request->connection);
	switch (mci_keystore_watch(request->store, &request->watcher, since)) {
	case 0:
		return MHD_YES;
	case 1:
		break;
	default:
		refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE,
		       "too many wait for changes at the metadata server already; poll instead");
	}
	wake(&request->watcher);
	return MHD_YES;
}

enum MHD_Result mci_request_answer(struct mci_http_request *request)
{
	bool bad = false;
	const char *key;

	if (request->refused && !request->watched)
		return mci_reply_text(request, request->refused, request->sentence);
	if (request->health)
		return mci_reply_text(request, MHD_HTTP_OK, "OK");
	key = argument(request, "key", &bad);
	if (request->verb != MCI_VERB_GET)
		return change(request, key);
	if (key)
		return get(request, key);
	key = argument(request, "prefix", &bad);
	if (key)
		return list(request, key);
	return watch(request, argument(request, "watch", &bad));
}

void mci_request_free(struct mci_http_request *request)
{
	mci_blob_put(request->body);
	free(request);
}
