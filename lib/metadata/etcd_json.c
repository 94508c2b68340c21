// SPDX-License-Identifier: MIT
/*
 * Requests and replies of etcd's v3 JSON gateway as text. Keys and values travel in base64; 64-bit
 * integers are strings; members that are zero are missing.
 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metadata/etcd.h"

#define BAD (-EBADMSG)

static json_t *number(uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return json_string(text);
}

static json_t *base64(const void *data, size_t length)
{
	char *text;
	json_t *out;

	if (length > INT32_MAX / 2)
		return NULL;
	text = malloc(length / 3 * 4 + 5);
	if (!text)
		return NULL;
	EVP_EncodeBlock((unsigned char *)text, data, (int)length);
	out = json_string(text);
	free(text);
	return out;
}

static json_t *base64_text(const char *text)
{
	return base64(text, strlen(text));
}

/* The first key behind all that begin with @prefix; a single zero byte means "to the end". */
static json_t *prefix_end(const char *prefix)
{
	size_t n = strlen(prefix);
	char *end = strdup(prefix);
	json_t *out;

	if (!end)
		return NULL;
	while (n && (unsigned char)end[n - 1] == 0xff)
		n--;
	if (n)
		end[n - 1]++;
	out = n ? base64(end, n) : base64("", 1);
	free(end);
	return out;
}

/* json_object_set_new() frees the value even if it fails; a NULL value fails. */
static int set(json_t *object, const char *name, json_t *value)
{
	return json_object_set_new(object, name, value);
}

static char *finish(json_t *object, int failed)
{
	char *text = failed ? NULL : json_dumps(object, JSON_COMPACT);

	json_decref(object);
	return text;
}

char *mci_etcd_encode_get(const char *key)
{
	json_t *object = json_object();

	return finish(object, set(object, "key", base64_text(key)));
}

char *mci_etcd_encode_range(const char *prefix, const char *from, bool after, unsigned int limit)
{
	json_t *object = json_object();
	json_t *start;
	int failed;

	if (!*from)
		start = base64("", 1);
	else
		start = base64(from, strlen(from) + after); /* key + a zero byte is the next possible key */
	failed = set(object, "key", start);
	failed |= set(object, "range_end", prefix_end(prefix));
	failed |= set(object, "limit", number(limit));
	return finish(object, failed);
}

static json_t *put_object(const char *key, const char *text, size_t length, uint64_t lease)
{
	json_t *object = json_object();
	int failed = set(object, "key", base64_text(key));

	failed |= set(object, "value", base64(text, length));
	if (lease)
		failed |= set(object, "lease", number(lease));
	if (!failed)
		return object;
	json_decref(object);
	return NULL;
}

char *mci_etcd_encode_put(const char *key, const char *text, size_t length, uint64_t lease)
{
	json_t *object = put_object(key, text, length, lease);

	return finish(object, !object);
}

static json_t *key_object(const char *key)
{
	json_t *object = json_object();

	if (!set(object, "key", base64_text(key)))
		return object;
	json_decref(object);
	return NULL;
}

/* [{ @name: @value }] */
static json_t *one_step(const char *name, json_t *value)
{
	json_t *step = json_object();
	json_t *list = json_array();

	if (set(step, name, value) || json_array_append(list, step)) {
		json_decref(list);
		list = NULL;
	}
	json_decref(step);
	return list;
}

char *mci_etcd_encode_txn(const char *key, const char *text, size_t length, uint64_t lease, uint64_t expect)
{
	const char *field = expect ? "mod_revision" : "create_revision";
	json_t *object = json_object();
	json_t *compare = key_object(key);
	json_t *list = json_array();
	int failed;

	failed = set(compare, "target", json_string(expect ? "MOD" : "CREATE"));
	failed |= set(compare, "result", json_string("EQUAL"));
	failed |= set(compare, field, number(expect));
	failed |= json_array_append(list, compare);
	json_decref(compare);
	failed |= set(object, "compare", list);
	if (text)
		failed |=
			set(object, "success", one_step("request_put", put_object(key, text, length, lease)));
	else
		failed |= set(object, "success", one_step("request_delete_range", key_object(key)));
	failed |= set(object, "failure", one_step("request_range", key_object(key)));
	return finish(object, failed);
}

char *mci_etcd_encode_delete(const char *key)
{
	return mci_etcd_encode_get(key);
}

char *mci_etcd_encode_lease(uint64_t id, unsigned int ttl_s)
{
	json_t *object = json_object();
	int failed = 0;

	if (id)
		failed |= set(object, "ID", number(id));
	if (ttl_s)
		failed |= set(object, "TTL", number(ttl_s));
	return finish(object, failed);
}

char *mci_etcd_encode_login(const char *user, const char *password)
{
	json_t *object = json_object();
	int failed = set(object, "name", json_string(user));

	failed |= set(object, "password", json_string(password));
	return finish(object, failed);
}

char *mci_etcd_encode_watch(const char *prefix)
{
	json_t *object = json_object();
	json_t *create = json_object();
	int failed;

	failed = set(create, "key", *prefix ? base64_text(prefix) : base64("", 1));
	failed |= set(create, "range_end", prefix_end(prefix));
	failed |= set(create, "progress_notify", json_true());
	failed |= set(object, "create_request", create);
	return finish(object, failed);
}

/* ---- replies ---- */

/* The members of a reply; a streaming call wraps them in "result". */
static json_t *load(const char *json, size_t length, json_t **root)
{
	json_t *result;

	*root = json_loadb(json, length, 0, NULL);
	if (!json_is_object(*root)) {
		json_decref(*root);
		*root = NULL;
		return NULL;
	}
	result = json_object_get(*root, "result");
	return json_is_object(result) ? result : *root;
}

/* A missing member is 0. */
static int read_number(const json_t *object, const char *name, uint64_t *out)
{
	const json_t *value = json_object_get(object, name);
	const char *text;
	char *end;

	*out = 0;
	if (!value)
		return 0;
	if (json_is_integer(value)) {
		if (json_integer_value(value) < 0)
			return BAD;
		*out = (uint64_t)json_integer_value(value);
		return 0;
	}
	text = json_string_value(value);
	if (!text || !isdigit((unsigned char)*text))
		return BAD;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return errno || *end ? BAD : 0;
}

/* A missing member is an empty text. malloc'd, with a NUL behind. */
static int read_base64(const json_t *object, const char *name, char **out, size_t *length)
{
	const json_t *value = json_object_get(object, name);
	const char *text = value ? json_string_value(value) : "";
	size_t n;
	int got;

	if (!text)
		return BAD;
	n = strlen(text);
	if (n % 4 || n > INT32_MAX / 2 ||
	    strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != n)
		return BAD;
	*out = malloc(n / 4 * 3 + 1);
	if (!*out)
		return -ENOMEM;
	got = n ? EVP_DecodeBlock((unsigned char *)*out, (const unsigned char *)text, (int)n) : 0;
	if (got < 0) {
		free(*out);
		return BAD;
	}
	if (n && text[n - 1] == '=')
		got -= text[n - 2] == '=' ? 2 : 1;
	(*out)[got] = 0;
	*length = (size_t)got;
	return 0;
}

static int read_kv(const json_t *object, int (*fn)(const struct mci_etcd_kv *kv, void *arg), void *arg)
{
	struct mci_etcd_kv kv = { 0 };
	size_t key_length;
	char *key, *text;
	int ret;

	if (!json_is_object(object))
		return BAD;
	ret = read_number(object, "mod_revision", &kv.revision);
	if (!ret)
		ret = read_number(object, "lease", &kv.lease);
	if (!ret)
		ret = read_base64(object, "key", &key, &key_length);
	if (ret)
		return ret;
	ret = read_base64(object, "value", &text, &kv.length);
	if (ret)
		goto out_key;
	kv.key = key;
	kv.text = text;
	if (strlen(key) == key_length && fn) /* a key with a zero byte inside is not one of ours */
		ret = fn(&kv, arg);
	free(text);
out_key:
	free(key);
	return ret;
}

int mci_etcd_decode_range(const char *json, size_t length, int (*fn)(const struct mci_etcd_kv *kv, void *arg),
			  void *arg, bool *more)
{
	json_t *root, *kv;
	json_t *reply = load(json, length, &root);
	json_t *kvs = json_object_get(reply, "kvs");
	size_t i;
	int ret = 0;

	if (!reply || !json_is_object(json_object_get(reply, "header")) || (kvs && !json_is_array(kvs)))
		ret = BAD;
	else
		*more = json_is_true(json_object_get(reply, "more"));
	if (!ret)
		json_array_foreach(kvs, i, kv)
		{
			ret = read_kv(kv, fn, arg);
			if (ret)
				break;
		}
	json_decref(root);
	return ret;
}

static int read_revision(const json_t *reply, uint64_t *revision)
{
	const json_t *header = json_object_get(reply, "header");
	int ret = json_is_object(header) ? read_number(header, "revision", revision) : BAD;

	return ret ? ret : *revision ? 0 : BAD;
}

int mci_etcd_decode_revision(const char *json, size_t length, uint64_t *revision)
{
	json_t *root;
	json_t *reply = load(json, length, &root);
	int ret = read_revision(reply, revision);

	json_decref(root);
	return ret;
}

int mci_etcd_decode_txn(const char *json, size_t length, bool *succeeded, bool *exists, uint64_t *revision)
{
	json_t *root;
	json_t *reply = load(json, length, &root);
	json_t *range;
	int ret = read_revision(reply, revision);

	range = json_object_get(json_array_get(json_object_get(reply, "responses"), 0), "response_range");
	*succeeded = json_is_true(json_object_get(reply, "succeeded"));
	*exists = json_array_size(json_object_get(range, "kvs")) > 0;
	json_decref(root);
	return ret;
}

int mci_etcd_decode_deleted(const char *json, size_t length, uint64_t *deleted)
{
	json_t *root;
	json_t *reply = load(json, length, &root);
	int ret = json_is_object(json_object_get(reply, "header")) ? read_number(reply, "deleted", deleted)
								   : BAD;

	json_decref(root);
	return ret;
}

int mci_etcd_decode_lease(const char *json, size_t length, uint64_t *id, uint64_t *ttl_s)
{
	json_t *root;
	json_t *reply = load(json, length, &root);
	int ret = reply ? read_number(reply, "ID", id) : BAD;

	if (!ret)
		ret = *id ? read_number(reply, "TTL", ttl_s) : BAD;
	json_decref(root);
	return ret;
}

int mci_etcd_decode_token(const char *json, size_t length, char *token, size_t size)
{
	json_t *root;
	json_t *reply = load(json, length, &root);
	const char *text = json_string_value(json_object_get(reply, "token"));
	const char *c;
	int ret = 0;

	/* It goes into a header line. */
	for (c = text; c && *c; c++)
		if (!isgraph((unsigned char)*c))
			ret = BAD;
	if (!text || !*text || strlen(text) >= size)
		ret = BAD;
	if (!ret)
		memcpy(token, text, strlen(text) + 1);
	json_decref(root);
	return ret;
}

static void copy_message(struct mci_etcd_error *error, const char *text)
{
	char *c;

	snprintf(error->message, sizeof(error->message), "%s", text);
	for (c = error->message; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = ' ';
}

/* {"error": "text", "code": 5}, {"message": "text", "code": 5}, or {"error": {"grpc_code": 5, "message":
 * "text"}}. */
static int read_error(const json_t *root, struct mci_etcd_error *error)
{
	const json_t *inner = json_object_get(root, "error");
	const json_t *from = json_is_object(inner) ? inner : root;
	const char *text;
	uint64_t code = 0;

	memset(error, 0, sizeof(*error));
	text = json_string_value(json_object_get(from, "message"));
	if (!text)
		text = json_string_value(inner);
	if (!text && !json_object_get(from, "code"))
		return 0;
	if (read_number(from, json_object_get(from, "grpc_code") ? "grpc_code" : "code", &code) ||
	    code > 1000)
		return BAD;
	error->code = code ? (unsigned int)code : 2; /* 2: gRPC's "unknown" */
	copy_message(error, text ? text : "no reason given");
	return 0;
}

int mci_etcd_decode_error(const char *json, size_t length, struct mci_etcd_error *error)
{
	json_t *root;
	int ret = load(json, length, &root) ? read_error(root, error) : BAD;

	json_decref(root);
	return ret;
}

int mci_etcd_decode_watch(const char *json, size_t length, struct mci_etcd_event *event)
{
	json_t *root;
	json_t *reply = load(json, length, &root);
	int ret = reply ? read_error(root, &event->error) : BAD;
	const char *reason = json_string_value(json_object_get(reply, "cancel_reason"));

	if (!ret && reason && !event->error.code) {
		event->error.code = 2;
		copy_message(&event->error, reason);
	}
	event->created = json_is_true(json_object_get(reply, "created"));
	event->cancelled = json_is_true(json_object_get(reply, "canceled"));
	event->changed = json_array_size(json_object_get(reply, "events")) > 0;
	json_decref(root);
	return ret;
}
