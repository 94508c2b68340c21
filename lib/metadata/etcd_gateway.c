// SPDX-License-Identifier: MIT
/*
 * One call to whichever etcd server answers: endpoints tried in turn within one deadline, the
 * gateway's path prefix found out (it changed with etcd's versions), a token kept where etcd asks for
 * a password. Lock: mci_etcd_gateway.lock guards the token and what is known of the endpoints; it is
 * never held across a request.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "metadata/curl.h"
#include "metadata/etcd.h"
#include "metadata/uri.h"

#define TOKEN_MAX 2048
#define STREAM_LIFE_MS 60000 /* a server that is frozen, yet connected, is found out by then */
#define LINE_MAX (4u << 20) /* of a watch; a longer line is a change of unknown content */

/* gRPC's codes, as far as they decide something here. */
enum {
	INVALID_ARGUMENT = 3,
	NOT_FOUND = 5,
	DENIED = 7,
	EXHAUSTED = 8,
	PRECONDITION = 9,
	UNAUTHENTICATED = 16
};

/* etcd 3.4 and later; 3.3; 3.2 */
static const char *const prefixes[] = { "v3", "v3beta", "v3alpha" };
#define PREFIXES ((int)(sizeof(prefixes) / sizeof(prefixes[0])))

struct endpoint {
	char base[MCI_HOST_MAX + 32]; /* "https://host:port" */
	int prefix;		      /* -1 = not known yet */
};

struct mci_etcd_gateway {
	struct mci_curl *curl;
	uint32_t timeout_ms;
	char *user, *password;
	struct endpoint endpoints[MCI_URI_ENDPOINTS];
	unsigned int count;

	pthread_mutex_t lock;
	unsigned int good; /* answered last */
	char token[TOKEN_MAX];
	bool needs_no_login; /* a password is set here, but etcd asks for none */
};

/* What one attempt came to. */
enum outcome { DONE, TRY_NEXT, NEW_TOKEN };

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

static void free_gateway(struct mci_etcd_gateway *gateway)
{
	mci_curl_close(gateway->curl);
	wipe(gateway->password);
	free(gateway->user);
	explicit_bzero(gateway->token, sizeof(gateway->token));
	pthread_mutex_destroy(&gateway->lock);
	free(gateway);
}

int mci_etcd_gateway_open(const char *text, const struct mci_metadata_options *options,
			  struct mci_etcd_gateway **out)
{
	struct mci_curl_options http = { options->ca_file,  options->cert_file, options->key_file, NULL, NULL,
					 options->use_proxy };
	struct mci_etcd_gateway *gateway;
	struct mci_uri uri;
	unsigned int i;
	int ret;

	ret = mci_uri_parse(text, &uri);
	if (ret)
		return ret;
	gateway = calloc(1, sizeof(*gateway));
	if (!gateway)
		return mci_fail(-ENOMEM, "no memory for the connection to etcd");
	pthread_mutex_init(&gateway->lock, NULL);
	gateway->timeout_ms = options->timeout_ms;
	gateway->count = uri.count;
	for (i = 0; i < uri.count; i++) {
		const struct mci_endpoint *from = &uri.endpoints[i];
		bool v6 = strchr(from->host, ':') != NULL;

		snprintf(gateway->endpoints[i].base, sizeof(gateway->endpoints[i].base), "http%s://%s%s%s:%u",
			 from->tls ? "s" : "", v6 ? "[" : "", from->host, v6 ? "]" : "", from->port);
		gateway->endpoints[i].prefix = -1;
	}
	if (options->user && *options->user) {
		gateway->user = strdup(options->user);
		gateway->password = strdup(options->password ? options->password : "");
		if (!gateway->user || !gateway->password) {
			ret = mci_fail(-ENOMEM, "no memory for the connection to etcd");
			goto err_free;
		}
	}
	ret = mci_curl_open(&http, &gateway->curl);
	if (ret)
		goto err_free;
	*out = gateway;
	return 0;

err_free:
	free_gateway(gateway);
	return ret;
}

void mci_etcd_gateway_close(struct mci_etcd_gateway *gateway)
{
	free_gateway(gateway);
}

static void get_token(struct mci_etcd_gateway *gateway, char token[TOKEN_MAX])
{
	pthread_mutex_lock(&gateway->lock);
	memcpy(token, gateway->token, TOKEN_MAX);
	pthread_mutex_unlock(&gateway->lock);
}

static void set_token(struct mci_etcd_gateway *gateway, const char token[TOKEN_MAX])
{
	pthread_mutex_lock(&gateway->lock);
	memcpy(gateway->token, token, TOKEN_MAX);
	pthread_mutex_unlock(&gateway->lock);
}

void mci_etcd_forget_token(struct mci_etcd_gateway *gateway)
{
	static const char none[TOKEN_MAX];

	set_token(gateway, none);
}

static int get_prefix(struct mci_etcd_gateway *gateway, unsigned int i)
{
	int prefix;

	pthread_mutex_lock(&gateway->lock);
	prefix = gateway->endpoints[i].prefix;
	pthread_mutex_unlock(&gateway->lock);
	return prefix;
}

static void set_prefix(struct mci_etcd_gateway *gateway, unsigned int i, int prefix)
{
	pthread_mutex_lock(&gateway->lock);
	gateway->endpoints[i].prefix = prefix;
	pthread_mutex_unlock(&gateway->lock);
}

static int post(struct mci_etcd_gateway *gateway, unsigned int i, int prefix, const char *path,
		const char *body, const char *token, uint32_t timeout_ms, struct mci_curl_reply *reply)
{
	char url[MCI_HOST_MAX + 96];
	struct mci_curl_request request = {
		.method = "POST",
		.url = url,
		.body = body,
		.body_length = strlen(body),
		.authorization = token && *token ? token : NULL,
		.timeout_ms = timeout_ms,
	};

	snprintf(url, sizeof(url), "%s/%s/%s", gateway->endpoints[i].base, prefixes[prefix], path);
	return mci_curl_request(gateway->curl, &request, reply);
}

/* A missing path and a missing lease are both "404"; only what the gateway forwards speaks of etcdserver. */
static bool is_unknown_path(const struct mci_curl_reply *reply)
{
	return (reply->status == 404 || reply->status == 405) && !strstr(reply->body, "etcdserver");
}

/* Ask under each prefix for a key that need not exist: any answer but "no such path" will do. */
static int find_prefix(struct mci_etcd_gateway *gateway, unsigned int i, uint64_t deadline)
{
	const char *base = gateway->endpoints[i].base;
	struct mci_curl_reply reply;
	char token[TOKEN_MAX];
	bool unknown;
	int prefix;
	int ret;

	get_token(gateway, token);
	for (prefix = 0; prefix < PREFIXES; prefix++) {
		ret = post(gateway, i, prefix, "kv/range", "{\"key\":\"bW9vbmNha2U=\"}", token,
			   (uint32_t)mci_ms_left(deadline) + 1, &reply);
		if (ret)
			break;
		unknown = is_unknown_path(&reply);
		if (reply.status == 400 && strstr(reply.body, "HTTPS server"))
			ret = mci_fail(-EACCES, "%s speaks TLS; write etcds:// instead of etcd://", base);
		mci_curl_reply_free(&reply);
		if (ret)
			break;
		if (!unknown) {
			set_prefix(gateway, i, prefix);
			ret = prefix;
			break;
		}
		ret = mci_fail(-EPROTO,
			       "%s answers, but has no etcd v3 JSON gateway; it needs etcd 3.2 or later, "
			       "without --enable-grpc-gateway=false",
			       base);
	}
	explicit_bzero(token, sizeof(token));
	return ret;
}

static bool says(const struct mci_etcd_error *error, const char *text)
{
	return strstr(error->message, text) != NULL;
}

/* An answer other than 200: whose fault, and is another try of use? */
static enum outcome judge(struct mci_etcd_gateway *gateway, unsigned int i,
			  const struct mci_curl_reply *reply, int *ret)
{
	const char *base = gateway->endpoints[i].base;
	struct mci_etcd_error error;

	if (is_unknown_path(reply)) {
		set_prefix(gateway, i, -1); /* another version of etcd runs there now */
		*ret = mci_fail(-EPROTO, "%s does not know the etcd v3 JSON gateway any more", base);
		return TRY_NEXT;
	}
	if (mci_etcd_decode_error(reply->body, reply->length, &error) || !error.code) {
		*ret = mci_fail(-EIO, "%s answered with HTTP status %ld and no reason; is it etcd?", base,
				reply->status);
		return TRY_NEXT;
	}
	if (says(&error, "lease not found")) {
		*ret = MCI_ETCD_NO_LEASE;
		return DONE;
	}
	if (error.code == UNAUTHENTICATED || says(&error, "invalid auth token") ||
	    says(&error, "auth store is old")) {
		*ret = mci_fail(-EACCES, "etcd at %s does not accept the login any more: %s", base,
				error.message);
		return NEW_TOKEN;
	}
	if (says(&error, "user name is empty")) {
		*ret = mci_fail(-EACCES,
				"etcd at %s wants a user and a password; set them in the configuration",
				base);
		return gateway->user ? NEW_TOKEN : DONE;
	}
	if (says(&error, "authentication is not enabled")) {
		*ret = mci_fail(-EOPNOTSUPP, "etcd at %s asks for no password", base);
		return DONE;
	}
	if (says(&error, "authentication failed") || error.code == DENIED) {
		*ret = mci_fail(error.code == DENIED ? -EPERM : -EACCES,
				"etcd at %s refuses: %s; check user, password and the roles of the user",
				base, error.message);
		return DONE;
	}
	if (says(&error, "too large") || says(&error, "larger than max")) {
		*ret = mci_fail(-EMSGSIZE, "etcd at %s refuses: %s; raise its --max-request-bytes", base,
				error.message);
		return DONE;
	}
	if (says(&error, "space exceeded")) {
		*ret = mci_fail(-ENOSPC,
				"etcd at %s is full: %s; compact and defragment it, or raise its "
				"--quota-backend-bytes",
				base, error.message);
		return DONE;
	}
	*ret = mci_fail(-EIO, "etcd at %s refuses: %s", base, error.message);
	return error.code == INVALID_ARGUMENT || error.code == PRECONDITION ? DONE : TRY_NEXT;
}

static enum outcome attempt(struct mci_etcd_gateway *gateway, unsigned int i, const char *path,
			    const char *body, const char *token, uint64_t deadline,
			    struct mci_curl_reply *reply, int *ret)
{
	int prefix = get_prefix(gateway, i);
	enum outcome outcome;

	if (prefix < 0)
		prefix = find_prefix(gateway, i, deadline);
	if (prefix < 0) {
		*ret = prefix;
		return TRY_NEXT;
	}
	*ret = post(gateway, i, prefix, path, body, token, (uint32_t)mci_ms_left(deadline) + 1, reply);
	if (*ret)
		return *ret == -EMSGSIZE || *ret == -ENOMEM ? DONE : TRY_NEXT;
	if (reply->status == 200)
		return DONE;
	outcome = judge(gateway, i, reply, ret);
	mci_curl_reply_free(reply);
	return outcome;
}

/* Each server that is left gets an equal share of the time that is left. */
static enum outcome round_of_servers(struct mci_etcd_gateway *gateway, const char *path, const char *body,
				     const char *token, uint64_t deadline, struct mci_curl_reply *reply,
				     int *ret)
{
	enum outcome outcome = TRY_NEXT;
	unsigned int first, i, n;
	uint64_t now;

	pthread_mutex_lock(&gateway->lock);
	first = gateway->good;
	pthread_mutex_unlock(&gateway->lock);
	*ret = mci_fail(-ETIMEDOUT, "%s did not answer within %u ms", gateway->endpoints[first].base,
			gateway->timeout_ms);
	for (n = 0; n < gateway->count && outcome == TRY_NEXT; n++) {
		i = (first + n) % gateway->count;
		now = mci_now_ns();
		if (now >= deadline)
			break;
		if (n)
			mci_debug("etcd: %s", mc_errmsg());
		outcome = attempt(gateway, i, path, body, token,
				  now + (deadline - now) / (gateway->count - n), reply, ret);
		if (outcome != TRY_NEXT) {
			pthread_mutex_lock(&gateway->lock);
			gateway->good = i;
			pthread_mutex_unlock(&gateway->lock);
		}
	}
	return outcome;
}

static int login(struct mci_etcd_gateway *gateway, uint64_t deadline, char token[TOKEN_MAX])
{
	char *body = mci_etcd_encode_login(gateway->user, gateway->password);
	struct mci_curl_reply reply = { 0 };
	int ret;

	if (!body)
		return mci_fail(-EINVAL,
				"user or password of etcd is not valid UTF-8, or there is no memory");
	round_of_servers(gateway, "auth/authenticate", body, NULL, deadline, &reply, &ret);
	wipe(body);
	pthread_mutex_lock(&gateway->lock);
	gateway->needs_no_login = ret == -EOPNOTSUPP;
	pthread_mutex_unlock(&gateway->lock);
	if (ret == -EOPNOTSUPP) {
		mci_debug("%s; the user '%s' is not used", mc_errmsg(), gateway->user);
		memset(token, 0, TOKEN_MAX);
		return 0;
	}
	if (!ret)
		ret = mci_etcd_decode_token(reply.body, reply.length, token, TOKEN_MAX);
	if (ret == -EBADMSG)
		mci_etcd_bad_reply(gateway, "auth/authenticate");
	if (reply.body)
		explicit_bzero(reply.body, reply.length);
	mci_curl_reply_free(&reply);
	if (!ret)
		set_token(gateway, token);
	return ret;
}

static int call(struct mci_etcd_gateway *gateway, const char *path, const char *body,
		struct mci_curl_reply *reply)
{
	uint64_t deadline = mci_now_ns() + gateway->timeout_ms * MCI_NS_PER_MS;
	char token[TOKEN_MAX];
	enum outcome outcome;
	bool unneeded;
	int ret = 0;
	int tries;

	pthread_mutex_lock(&gateway->lock);
	memcpy(token, gateway->token, TOKEN_MAX);
	unneeded = !gateway->user || *token || gateway->needs_no_login;
	pthread_mutex_unlock(&gateway->lock);
	if (!unneeded)
		ret = login(gateway, deadline, token);
	for (tries = 0; !ret && tries < 2; tries++) {
		outcome = round_of_servers(gateway, path, body, token, deadline, reply, &ret);
		if (outcome != NEW_TOKEN || !gateway->user || tries)
			break;
		ret = login(gateway, deadline, token);
	}
	explicit_bzero(token, sizeof(token));
	return ret;
}

/* All endpoints failed: a sentence about the last is not enough where there are several. */
static int explain(struct mci_etcd_gateway *gateway, int ret)
{
	char last[600];

	if (ret == -EPERM || ret == -EOPNOTSUPP)
		return -EACCES;
	if (gateway->count == 1 || (ret != -ECONNREFUSED && ret != -ETIMEDOUT && ret != -EHOSTUNREACH))
		return ret;
	snprintf(last, sizeof(last), "%s", mc_errmsg());
	return mci_fail(ret, "none of the %u etcd servers answered within %u ms; the last: %s",
			gateway->count, gateway->timeout_ms, last);
}

int mci_etcd_call(struct mci_etcd_gateway *gateway, const char *path, char *request, char **out,
		  size_t *length)
{
	struct mci_curl_reply reply;
	int ret;

	if (!request)
		return mci_fail(-ENOMEM, "no memory for a request to etcd");
	ret = call(gateway, path, request, &reply);
	free(request);
	if (ret)
		return explain(gateway, ret);
	*out = reply.body;
	*length = reply.length;
	reply.body = NULL;
	mci_curl_reply_free(&reply);
	return 0;
}

int mci_etcd_probe(struct mci_etcd_gateway *gateway)
{
	char *request = mci_etcd_encode_get("mooncake");
	struct mci_curl_reply reply = { 0 };
	int ret;

	if (!request)
		return mci_fail(-ENOMEM, "no memory for a request to etcd");
	ret = call(gateway, "kv/range", request, &reply);
	free(request);
	mci_curl_reply_free(&reply);
	return !ret || ret == -EPERM ? 0 : explain(gateway, ret);
}

int mci_etcd_bad_reply(struct mci_etcd_gateway *gateway, const char *path)
{
	unsigned int i;

	pthread_mutex_lock(&gateway->lock);
	i = gateway->good;
	pthread_mutex_unlock(&gateway->lock);
	return mci_fail(-EIO, "the answer of %s to %s is not what etcd sends; is it etcd?",
			gateway->endpoints[i].base, path);
}

/* ---- streams ---- */

struct lines {
	char *text;
	size_t length, size;
	bool skipping; /* to the end of a line that is too long */
	int (*fn)(void *arg, const char *line, size_t length);
	void *arg;
};

static int add_piece(struct lines *lines, const char *data, size_t length)
{
	char *bigger;
	size_t size;

	if (lines->skipping)
		return 0;
	if (length > LINE_MAX - lines->length) {
		lines->skipping = true;
		return 0;
	}
	if (lines->length + length + 1 > lines->size) {
		size = (lines->length + length + 1) * 2;
		bigger = realloc(lines->text, size);
		if (!bigger)
			return -ENOMEM;
		lines->text = bigger;
		lines->size = size;
	}
	memcpy(lines->text + lines->length, data, length);
	lines->length += length;
	lines->text[lines->length] = 0;
	return 0;
}

static int on_data(void *arg, const char *data, size_t length)
{
	struct lines *lines = arg;
	const char *end;
	int ret = 0;

	while (!ret && (end = memchr(data, '\n', length))) {
		ret = add_piece(lines, data, (size_t)(end - data));
		if (!ret && (lines->length || lines->skipping))
			ret = lines->fn(lines->arg, lines->skipping ? NULL : lines->text, lines->length);
		length -= (size_t)(end + 1 - data);
		data = end + 1;
		lines->length = 0;
		lines->skipping = false;
	}
	return ret ? ret : add_piece(lines, data, length);
}

int mci_etcd_stream(struct mci_etcd_gateway *gateway, const char *path, char *body, int cancel_fd,
		    int (*fn)(void *arg, const char *line, size_t length), void *arg)
{
	struct lines lines = { .fn = fn, .arg = arg };
	char url[MCI_HOST_MAX + 96];
	char token[TOKEN_MAX];
	struct mci_curl_request request = {
		.method = "POST",
		.url = url,
		.body = body,
		.authorization = token,
		.timeout_ms = gateway->timeout_ms,
		.life_ms = STREAM_LIFE_MS,
	};
	long status = 0;
	unsigned int i;
	int prefix;
	int ret;

	if (!body)
		return mci_fail(-ENOMEM, "no memory for a request to etcd");
	request.body_length = strlen(body);
	pthread_mutex_lock(&gateway->lock);
	i = gateway->good;
	prefix = gateway->endpoints[i].prefix;
	pthread_mutex_unlock(&gateway->lock);
	get_token(gateway, token);
	if (!*token)
		request.authorization = NULL;
	snprintf(url, sizeof(url), "%s/%s/%s", gateway->endpoints[i].base, prefixes[prefix < 0 ? 0 : prefix],
		 path);
	ret = mci_curl_stream(gateway->curl, &request, cancel_fd, on_data, &lines, &status);
	if (!ret && status != 200)
		ret = mci_fail(-EIO, "%s ended a stream with HTTP status %ld", gateway->endpoints[i].base,
			       status);
	explicit_bzero(token, sizeof(token));
	free(lines.text);
	free(body);
	return ret;
}
