// SPDX-License-Identifier: MIT
/*
 * The redis backend: values are the plain texts that classic peers GET and SET. A version is the head of
 * the value's SHA-1, so compare-and-swap is a script that hashes what is there. Leases are PX per key.
 * Lock: redis.lock guards the idle connections only; each request has a connection to itself.
 */
#include <ctype.h>
#include <endian.h>
#include <hiredis/hiredis.h>
#include <openssl/sha.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "metadata/redis.h"
#include "metadata/sigpipe.h"
#include "metadata/uri.h"

#define IDLE_MAX 4
#define ARGS_MAX 66
#define REPLY_MAX (32u << 20)
#define KEYS_MAX (64u << 20) /* bytes of key names in one listing */

struct redis {
	char host[MCI_HOST_MAX], name[MCI_HOST_MAX + 32];
	uint16_t port;
	char user[128], password[256];
	int db;
	uint32_t timeout_ms, lease_ms;
	pthread_mutex_t lock;
	redisContext *idle[IDLE_MAX];
	unsigned int idle_count;
};

struct args {
	int count;
	const char *text[ARGS_MAX];
	size_t length[ARGS_MAX];
};

static void add_bytes(struct args *args, const char *text, size_t length)
{
	args->text[args->count] = text;
	args->length[args->count++] = length;
}

static void add(struct args *args, const char *text)
{
	add_bytes(args, text, strlen(text));
}

/* ---- one command on one connection, within a deadline ---- */

static int wait_for(redisContext *context, short events, uint64_t deadline)
{
	struct pollfd pfd = { .fd = context->fd, .events = events };
	int n;

	do {
		n = poll(&pfd, 1, mci_ms_left(deadline));
	} while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : n ? -errno : -ETIMEDOUT;
}

/* 0, -ETIMEDOUT, -EMSGSIZE or -EPIPE (the connection is of no more use); no sentence. */
static int exchange(redisContext *context, const struct args *args, uint64_t deadline, redisReply **out)
{
	void *reply = NULL;
	int done = 0;
	int ret = 0;

	if (redisAppendCommandArgv(context, args->count, (const char **)args->text, args->length) != REDIS_OK)
		return -EPIPE;
	while (!ret && !done) {
		if (redisBufferWrite(context, &done) != REDIS_OK)
			return -EPIPE;
		if (!done)
			ret = wait_for(context, POLLOUT, deadline);
	}
	while (!ret) {
		if (redisGetReplyFromReader(context, &reply) != REDIS_OK)
			return -EPIPE;
		if (reply)
			break;
		if (context->reader->len > REPLY_MAX)
			return -EMSGSIZE;
		ret = wait_for(context, POLLIN, deadline);
		if (!ret && redisBufferRead(context) != REDIS_OK)
			return -EPIPE;
	}
	*out = reply;
	return ret;
}

static int failed(const struct redis *redis, int err)
{
	if (err == -ETIMEDOUT)
		return mci_fail(err, "redis at %s did not answer within %u ms", redis->name,
				redis->timeout_ms);
	if (err == -EMSGSIZE)
		return mci_fail(err, "the answer of redis at %s is longer than %u MiB", redis->name,
				REPLY_MAX >> 20);
	return mci_fail(-EIO, "the connection to redis at %s broke; is it redis, and does it still run?",
			redis->name);
}

/* An error reply as a sentence. What the server says of a login may repeat the password: it is not shown. */
static int refused(const struct redis *redis, const redisReply *reply, bool login)
{
	const char *text = reply->str ? reply->str : "";
	size_t word = strcspn(text, " ");

	if (!strncmp(text, "NOAUTH", 6))
		return mci_fail(-EACCES,
				"redis at %s wants a password; set one in the configuration, in the URI "
				"(redis://user:password@host) or in $MC_REDIS_PASSWORD",
				redis->name);
	if (!strncmp(text, "LOADING", 7))
		return mci_fail(-EAGAIN, "redis at %s is still loading its data; try again soon",
				redis->name);
	if (login)
		return mci_fail(-EACCES, "redis at %s refuses the login (%.*s); check user and password",
				redis->name, (int)(word < 20 ? word : 20), text);
	if (!strncmp(text, "NOPERM", 6))
		return mci_fail(-EACCES,
				"redis at %s refuses: %.200s; the user needs GET, SET, DEL, MGET, SCAN and "
				"EVAL on the keys",
				redis->name, text);
	if (!strncmp(text, "READONLY", 8))
		return mci_fail(-EROFS, "redis at %s is a read-only replica; give the address of its master",
				redis->name);
	if (!strncmp(text, "OOM", 3))
		return mci_fail(-ENOSPC, "redis at %s is out of memory (maxmemory)", redis->name);
	if (!strncmp(text, "MOVED", 5) || !strncmp(text, "ASK", 3))
		return mci_fail(-EOPNOTSUPP,
				"redis at %s is a redis cluster; give the address of a single server",
				redis->name);
	return mci_fail(-EIO, "redis at %s refuses: %.200s", redis->name, text);
}

/* A command at the begin of a connection that must be answered with OK. */
static int greet(const struct redis *redis, redisContext *context, const struct args *args, bool login,
		 uint64_t deadline)
{
	redisReply *reply = NULL;
	int ret;

	ret = exchange(context, args, deadline, &reply);
	if (ret)
		return failed(redis, ret);
	if (reply->type == REDIS_REPLY_ERROR)
		ret = refused(redis, reply, login);
	freeReplyObject(reply);
	return ret;
}

static int log_in(const struct redis *redis, redisContext *context, uint64_t deadline)
{
	struct args args = { 0 };
	char db[16];
	int ret = 0;

	if (redis->password[0]) {
		add(&args, "AUTH");
		if (redis->user[0])
			add(&args, redis->user);
		add(&args, redis->password);
		ret = greet(redis, context, &args, true, deadline);
	}
	if (!ret && redis->db > 0) {
		snprintf(db, sizeof(db), "%d", redis->db);
		args.count = 0;
		add(&args, "SELECT");
		add(&args, db);
		ret = greet(redis, context, &args, false, deadline);
	}
	return ret;
}

static int dial(const struct redis *redis, uint64_t deadline, redisContext **out)
{
	const char *host = redis->host;
	redisContext *context;
	int fd, ret;

	ret = mci_connect_any(&host, 1, redis->port, NULL, deadline, &fd);
	if (ret)
		return mci_fail(ret, "redis at %s cannot be reached: %s", redis->name, mc_errmsg());
	context = redisConnectFd(fd);
	if (!context || context->err) {
		if (context)
			redisFree(context);
		else
			close(fd);
		return mci_fail(-ENOMEM, "no memory for the connection to redis at %s", redis->name);
	}
	context->flags &= ~REDIS_BLOCK;
	ret = log_in(redis, context, deadline);
	if (ret) {
		redisFree(context);
		return ret;
	}
	*out = context;
	return 0;
}

static redisContext *take_idle(struct redis *redis)
{
	redisContext *context = NULL;

	pthread_mutex_lock(&redis->lock);
	if (redis->idle_count)
		context = redis->idle[--redis->idle_count];
	pthread_mutex_unlock(&redis->lock);
	return context;
}

static void give_back(struct redis *redis, redisContext *context)
{
	pthread_mutex_lock(&redis->lock);
	if (redis->idle_count < IDLE_MAX) {
		redis->idle[redis->idle_count++] = context;
		context = NULL;
	}
	pthread_mutex_unlock(&redis->lock);
	if (context)
		redisFree(context);
}

/* An idle connection may have died with its server: then, and only then, once more on a new one. */
static int command_guarded(struct redis *redis, const struct args *args, redisReply **out)
{
	uint64_t deadline = mci_now_ns() + redis->timeout_ms * MCI_NS_PER_MS;
	redisContext *context;
	bool reused;
	int ret;

	do {
		context = take_idle(redis);
		reused = context != NULL;
		if (!context) {
			ret = dial(redis, deadline, &context);
			if (ret)
				return ret;
		}
		ret = exchange(context, args, deadline, out);
		if (!ret) {
			give_back(redis, context);
			return 0;
		}
		redisFree(context);
	} while (reused && ret == -EPIPE);
	return failed(redis, ret);
}

/* 0: *out is a reply of type @type or nil; free it. Else a sentence is set. */
static int command(struct redis *redis, const struct args *args, int type, redisReply **out)
{
	struct mci_sigpipe guard;
	redisReply *reply = NULL;
	int ret;

	mci_sigpipe_block(&guard);
	ret = command_guarded(redis, args, &reply);
	mci_sigpipe_unblock(&guard);
	if (ret)
		return ret;
	if (reply->type == type || reply->type == REDIS_REPLY_NIL) {
		*out = reply;
		return 0;
	}
	if (reply->type == REDIS_REPLY_ERROR)
		ret = refused(redis, reply, false);
	else
		ret = mci_fail(-EIO, "redis at %s answered %s with a reply of type %d; is it redis?",
			       redis->name, args->text[0], reply->type);
	freeReplyObject(reply);
	return ret;
}

/* The command's reply is a number. */
static int command_number(struct redis *redis, const struct args *args, long long *number)
{
	redisReply *reply;
	int ret;

	ret = command(redis, args, REDIS_REPLY_INTEGER, &reply);
	if (ret)
		return ret;
	*number = reply->integer;
	freeReplyObject(reply);
	return 0;
}

/* ---- the operations ---- */

static void redis_close(void *backend)
{
	struct redis *redis = backend;

	while (redis->idle_count)
		redisFree(redis->idle[--redis->idle_count]);
	pthread_mutex_destroy(&redis->lock);
	explicit_bzero(redis->password, sizeof(redis->password));
	free(redis);
}

/* The URI, else what the caller's configuration says, else the variables that classic tools read. */
static int set_login(struct redis *redis, const struct mci_uri *uri,
		     const struct mci_metadata_options *options)
{
	const char *user = uri->user;
	const char *password = uri->password;
	const char *db;
	char *end;

	if (!*password && options->password && *options->password) {
		user = options->user;
		password = options->password;
	} else if (!*password) {
		user = getenv("MC_REDIS_USERNAME");
		password = getenv("MC_REDIS_PASSWORD");
	}
	if ((user && strlen(user) >= sizeof(redis->user)) ||
	    (password && strlen(password) >= sizeof(redis->password)))
		return mci_fail(-EINVAL, "the user or the password for redis is too long");
	snprintf(redis->user, sizeof(redis->user), "%s", user ? user : "");
	snprintf(redis->password, sizeof(redis->password), "%s", password ? password : "");
	redis->db = uri->db >= 0 ? uri->db : (int)options->redis_db;
	db = getenv("MC_REDIS_DB_INDEX");
	if (redis->db || uri->db >= 0 || !db || !*db)
		return 0;
	redis->db = (int)strtol(db, &end, 10);
	if (!isdigit((unsigned char)*db) || *end || redis->db < 0)
		return mci_fail(-EINVAL,
				"$MC_REDIS_DB_INDEX is '%s'; it must be the number of a redis database", db);
	return 0;
}

static int redis_open(const char *text, const struct mci_metadata_options *options, void **backend)
{
	struct redis *redis = calloc(1, sizeof(*redis));
	struct args args = { 0 };
	redisReply *reply;
	struct mci_uri uri;
	int ret;

	if (!redis)
		return mci_fail(-ENOMEM, "no memory for the connection to redis");
	pthread_mutex_init(&redis->lock, NULL);
	ret = mci_uri_parse(text, &uri);
	if (!ret)
		ret = set_login(redis, &uri, options);
	explicit_bzero(uri.password, sizeof(uri.password));
	if (ret)
		goto err_close;
	redis->port = uri.endpoints[0].port;
	redis->timeout_ms = options->timeout_ms;
	redis->lease_ms = options->lease_ms;
	snprintf(redis->host, sizeof(redis->host), "%s", uri.endpoints[0].host);
	snprintf(redis->name, sizeof(redis->name), strchr(redis->host, ':') ? "[%s]:%u%s" : "%s:%u%s",
		 redis->host, redis->port, uri.endpoints[0].default_port ? " (no port was given)" : "");
	if (uri.endpoints[0].default_port)
		mci_info("redis://%s has no port: %u is taken (classic tools would take 12001)", redis->host,
			 redis->port);
	add(&args, "PING");
	ret = command(redis, &args, REDIS_REPLY_STATUS, &reply);
	if (ret)
		goto err_close;
	freeReplyObject(reply);
	*backend = redis;
	return 0;

err_close:
	redis_close(redis);
	return ret;
}

uint64_t mci_redis_version(const char *text, size_t length)
{
	unsigned char sum[SHA_DIGEST_LENGTH];
	uint64_t head;

	SHA1((const unsigned char *)text, length, sum);
	memcpy(&head, sum, sizeof(head));
	return be64toh(head);
}

static int redis_get(void *backend, const char *key, struct mci_metadata_value *value)
{
	struct args args = { 0 };
	redisReply *reply;
	char *text;
	int ret;

	add(&args, "GET");
	add(&args, key);
	ret = command(backend, &args, REDIS_REPLY_STRING, &reply);
	if (ret)
		return ret;
	if (reply->type == REDIS_REPLY_NIL) {
		freeReplyObject(reply);
		return -ENOENT;
	}
	text = malloc((size_t)reply->len + 1);
	if (text) {
		memcpy(text, reply->str, (size_t)reply->len);
		text[reply->len] = 0;
		value->text = text;
		value->length = (size_t)reply->len;
		value->version = mci_redis_version(text, value->length);
	}
	freeReplyObject(reply);
	return text ? 0 : mci_fail(-ENOMEM, "no memory for the metadata key '%s'", key);
}

/* The head of a SHA-1 as 16 hex digits, which is what the scripts compare; empty: the key must not exist. */
static const char *expectation(const uint64_t *expect, char text[17])
{
	text[0] = 0;
	if (*expect)
		snprintf(text, 17, "%016llx", (unsigned long long)*expect);
	return text;
}

static int redis_put(void *backend, const char *key, const char *text, size_t length, const uint64_t *expect,
		     bool lease, uint64_t *version)
{
	static const char script[] = "local v = redis.call('GET', KEYS[1]) "
				     "if v then v = string.sub(redis.sha1hex(v), 1, 16) else v = '' end "
				     "if v ~= ARGV[1] then return 0 end "
				     "if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2]) "
				     "else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end "
				     "return 1";
	struct redis *redis = backend;
	struct args args = { 0 };
	redisReply *reply;
	long long done = 1;
	char head[17], ttl[16];
	int ret;

	snprintf(ttl, sizeof(ttl), "%u", lease ? redis->lease_ms : 0);
	if (expect) {
		add(&args, "EVAL");
		add(&args, script);
		add(&args, "1");
		add(&args, key);
		add(&args, expectation(expect, head));
		add_bytes(&args, text, length);
		add(&args, ttl);
		ret = command_number(redis, &args, &done);
	} else {
		add(&args, "SET");
		add(&args, key);
		add_bytes(&args, text, length);
		if (lease) {
			add(&args, "PX");
			add(&args, ttl);
		}
		ret = command(redis, &args, REDIS_REPLY_STATUS, &reply);
		if (!ret)
			freeReplyObject(reply);
	}
	if (ret)
		return ret;
	if (!done)
		return -ESTALE;
	*version = mci_redis_version(text, length);
	return 0;
}

static int redis_del(void *backend, const char *key, const uint64_t *expect)
{
	static const char script[] = "local v = redis.call('GET', KEYS[1]) "
				     "if not v then return 0 end "
				     "if string.sub(redis.sha1hex(v), 1, 16) ~= ARGV[1] then return -1 end "
				     "return redis.call('DEL', KEYS[1])";
	struct args args = { 0 };
	long long deleted = 0;
	char head[17];
	int ret;

	if (expect) {
		add(&args, "EVAL");
		add(&args, script);
		add(&args, "1");
		add(&args, key);
		add(&args, expectation(expect, head));
	} else {
		add(&args, "DEL");
		add(&args, key);
	}
	ret = command_number(backend, &args, &deleted);
	if (ret)
		return ret;
	return deleted > 0 ? 0 : deleted ? -ESTALE : -ENOENT;
}

static int redis_renew(void *backend, const char *key, const char *text, size_t length, uint64_t *version)
{
	static const char script[] = "local v = redis.call('GET', KEYS[1]) "
				     "if not v then return 0 end "
				     "if v ~= ARGV[1] then return -1 end "
				     "return redis.call('PEXPIRE', KEYS[1], ARGV[2])";
	struct redis *redis = backend;
	struct args args = { 0 };
	long long renewed = 0;
	char ttl[16];
	int ret;

	snprintf(ttl, sizeof(ttl), "%u", redis->lease_ms);
	add(&args, "EVAL");
	add(&args, script);
	add(&args, "1");
	add(&args, key);
	add_bytes(&args, text, length);
	add(&args, ttl);
	ret = command_number(redis, &args, &renewed);
	if (ret)
		return ret;
	if (renewed <= 0)
		return renewed ? -ESTALE : -ENOENT;
	*version = mci_redis_version(text, length);
	return 0;
}

/* ---- listing ---- */

struct keys {
	char **text;
	size_t count, size, bytes;
};

static void free_keys(struct keys *keys)
{
	while (keys->count)
		free(keys->text[--keys->count]);
	free(keys->text);
}

static int add_key(struct keys *keys, const redisReply *reply)
{
	char **bigger;

	if (reply->type != REDIS_REPLY_STRING || strlen(reply->str) != (size_t)reply->len)
		return 0; /* a key with a zero byte inside is not one of ours */
	if (keys->count == keys->size) {
		keys->size = keys->size ? keys->size * 2 : 64;
		bigger = reallocarray(keys->text, keys->size, sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		keys->text = bigger;
	}
	keys->bytes += (size_t)reply->len + 1;
	keys->text[keys->count] = strdup(reply->str);
	if (!keys->text[keys->count])
		return -ENOMEM;
	keys->count++;
	return keys->bytes > KEYS_MAX ? -EMSGSIZE : 0;
}

/* @prefix as a glob pattern that matches it and what follows. */
char *mci_redis_pattern(const char *prefix)
{
	char *out = malloc(strlen(prefix) * 2 + 2);
	char *to = out;

	if (!out)
		return NULL;
	for (; *prefix; prefix++) {
		if (strchr("\\*?[]^-", *prefix))
			*to++ = '\\';
		*to++ = *prefix;
	}
	*to++ = '*';
	*to = 0;
	return out;
}

/* One SCAN step: its keys, and the cursor for the next. */
static int scan_step(struct redis *redis, const char *pattern, char cursor[32], struct keys *keys)
{
	struct args args = { 0 };
	redisReply *reply;
	int ret;
	size_t i;

	add(&args, "SCAN");
	add(&args, cursor);
	add(&args, "MATCH");
	add(&args, pattern);
	add(&args, "COUNT");
	add(&args, "512");
	ret = command(redis, &args, REDIS_REPLY_ARRAY, &reply);
	if (ret)
		return ret;
	if (reply->elements != 2 || reply->element[0]->type != REDIS_REPLY_STRING ||
	    reply->element[0]->len >= 32 || reply->element[1]->type != REDIS_REPLY_ARRAY) {
		freeReplyObject(reply);
		return mci_fail(-EIO, "redis at %s answered SCAN with something else; is it redis?",
				redis->name);
	}
	snprintf(cursor, 32, "%s", reply->element[0]->str);
	for (i = 0; !ret && i < reply->element[1]->elements; i++)
		ret = add_key(keys, reply->element[1]->element[i]);
	freeReplyObject(reply);
	return ret ? mci_fail(ret, "the list of keys at redis %s is too long for this process", redis->name)
		   : 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* SCAN may name a key twice. */
static void sort(struct keys *keys)
{
	size_t from, to = 0;

	if (keys->count)
		qsort(keys->text, keys->count, sizeof(*keys->text), compare);
	for (from = 0; from < keys->count; from++) {
		if (to && !strcmp(keys->text[to - 1], keys->text[from]))
			free(keys->text[from]);
		else
			keys->text[to++] = keys->text[from];
	}
	keys->count = to;
}

static int hand_out(struct redis *redis, char *const *keys, size_t count,
		    int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg), void *arg)
{
	struct mci_metadata_value value;
	struct args args = { 0 };
	redisReply *reply, *one;
	size_t i;
	int ret;

	add(&args, "MGET");
	for (i = 0; i < count; i++)
		add(&args, keys[i]);
	ret = command(redis, &args, REDIS_REPLY_ARRAY, &reply);
	if (ret)
		return ret;
	for (i = 0; !ret && i < count && i < reply->elements; i++) {
		one = reply->element[i];
		if (one->type != REDIS_REPLY_STRING)
			continue; /* gone meanwhile, or not a text */
		value.text = one->str;
		value.length = (size_t)one->len;
		value.version = mci_redis_version(value.text, value.length);
		ret = fn(keys[i], &value, arg);
	}
	freeReplyObject(reply);
	return ret;
}

static int redis_list(void *backend, const char *prefix,
		      int (*fn)(const char *key, const struct mci_metadata_value *value, void *arg),
		      void *arg)
{
	char *pattern = mci_redis_pattern(prefix);
	struct redis *redis = backend;
	struct keys keys = { 0 };
	char cursor[32] = "0";
	size_t chunk = 64;
	size_t i, n;
	int ret;

	if (!pattern)
		return mci_fail(-ENOMEM, "no memory to list '%s'", prefix);
	do {
		ret = scan_step(redis, pattern, cursor, &keys);
	} while (!ret && strcmp(cursor, "0"));
	sort(&keys);
	for (i = 0; !ret && i < keys.count; i += n) {
		n = keys.count - i < chunk ? keys.count - i : chunk;
		ret = hand_out(redis, keys.text + i, n, fn, arg);
		if (ret == -EMSGSIZE && n > 1) { /* very long texts: fewer at once */
			chunk = n / 4 + 1;
			n = 0;
			ret = 0;
		}
	}
	free_keys(&keys);
	free(pattern);
	return ret;
}

const struct mci_metadata_ops mci_metadata_redis = {
	.name = "redis",
	.open = redis_open,
	.close = redis_close,
	.get = redis_get,
	.put = redis_put,
	.del = redis_del,
	.list = redis_list,
	.renew = redis_renew,
};
