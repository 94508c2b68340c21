// SPDX-License-Identifier: MIT
/*
 * HTTP requests over libcurl: deadlines, TLS, no proxy unless wanted, bounded answers.
 * Lock: mci_curl.lock guards the list of idle handles only; it is never held across a request.
 */
#include "config.h"
#if USE_ETCD || USE_HTTP

#include "metadata/curl.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "metadata/sigpipe.h"

#define IDLE_MAX 4 /* connections kept open for the next request */
#define HEADERS_MAX (64u << 10)
#define TIMEOUT_MS 3000
#define PEER_GONE_MS 15000 /* of a stream: no answer to keep-alive probes for so long */

struct mci_curl {
	char *ca_file, *cert_file, *key_file, *user, *password;
	bool use_proxy;
	pthread_mutex_t lock;
	CURL *idle[IDLE_MAX];
	unsigned int idle_count;
};

/* One request under way. */
struct call {
	struct mci_curl *curl;
	CURL *easy;
	struct curl_slist *lines;
	char error[CURL_ERROR_SIZE];
	char *body, *headers;
	size_t length, size, headers_length;
	bool too_long, no_memory;
	int (*fn)(void *arg, const char *data, size_t length);
	void *arg;
	int fn_result;
};

static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static CURLcode global_result;

static void global_init(void)
{
	global_result = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static int copy(char **to, const char *from)
{
	*to = NULL;
	if (!from || !*from)
		return 0;
	*to = strdup(from);
	return *to ? 0 : -ENOMEM;
}

static void note_bypassed_proxy(void)
{
	static const char *const names[] = { "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
					     "ALL_PROXY" };
	const char *value;
	unsigned int i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		value = getenv(names[i]);
		if (value && *value)
			mci_debug("$%s is set; metadata traffic goes directly to its server, not through it",
				  names[i]);
	}
}

static int check_file(const char *path, const char *what)
{
	if (!path || !access(path, R_OK))
		return 0;
	return mci_fail(-EINVAL, "the %s '%s' cannot be read: %s", what, path, strerror(errno));
}

int mci_curl_open(const struct mci_curl_options *options, struct mci_curl **out)
{
	struct mci_curl *curl;
	int ret;

	pthread_once(&global_once, global_init);
	if (global_result != CURLE_OK)
		return mci_fail(-ENOMEM, "libcurl cannot be used: %s", curl_easy_strerror(global_result));
	curl = calloc(1, sizeof(*curl));
	if (!curl)
		return mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
	pthread_mutex_init(&curl->lock, NULL);
	curl->use_proxy = options->use_proxy;
	if (copy(&curl->ca_file, options->ca_file) || copy(&curl->cert_file, options->cert_file) ||
	    copy(&curl->key_file, options->key_file) || copy(&curl->user, options->user) ||
	    copy(&curl->password, options->password)) {
		ret = mci_fail(-ENOMEM, "no memory for the connection to the metadata server");
		goto err_close;
	}
	ret = check_file(curl->ca_file, "file of certificate authorities");
	if (!ret)
		ret = check_file(curl->cert_file, "certificate");
	if (!ret)
		ret = check_file(curl->key_file, "private key");
	if (ret)
		goto err_close;
	if (!curl->use_proxy)
		note_bypassed_proxy();
	*out = curl;
	return 0;

err_close:
	mci_curl_close(curl);
	return ret;
}

void mci_curl_close(struct mci_curl *curl)
{
	struct mci_sigpipe guard;

	if (!curl)
		return;
	mci_sigpipe_block(&guard); /* a TLS goodbye may be written to a dead peer */
	while (curl->idle_count)
		curl_easy_cleanup(curl->idle[--curl->idle_count]);
	mci_sigpipe_unblock(&guard);
	pthread_mutex_destroy(&curl->lock);
	if (curl->password)
		explicit_bzero(curl->password, strlen(curl->password));
	free(curl->password);
	free(curl->user);
	free(curl->key_file);
	free(curl->cert_file);
	free(curl->ca_file);
	free(curl);
}

static CURL *take_handle(struct mci_curl *curl)
{
	CURL *easy = NULL;

	pthread_mutex_lock(&curl->lock);
	if (curl->idle_count)
		easy = curl->idle[--curl->idle_count];
	pthread_mutex_unlock(&curl->lock);
	return easy ? easy : curl_easy_init();
}

static void return_handle(struct mci_curl *curl, CURL *easy)
{
	pthread_mutex_lock(&curl->lock);
	if (curl->idle_count < IDLE_MAX) {
		curl->idle[curl->idle_count++] = easy;
		easy = NULL;
	}
	pthread_mutex_unlock(&curl->lock);
	if (easy)
		curl_easy_cleanup(easy);
}

/* libcurl opens its sockets without close-on-exec, and would wait long for a peer that is cut off. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	unsigned int ms = PEER_GONE_MS;

	(void)arg;
	(void)purpose;
	if (fd >= 0 && address->family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
	return fd;
}

static bool append(char **text, size_t *length, size_t *size, const char *data, size_t n)
{
	size_t want = *length + n + 1;
	char *bigger;

	if (want > *size) {
		want = want < 4096 ? 4096 : want + want / 2;
		bigger = realloc(*text, want);
		if (!bigger)
			return false;
		*text = bigger;
		*size = want;
	}
	memcpy(*text + *length, data, n);
	*length += n;
	(*text)[*length] = 0;
	return true;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
	struct call *call = arg;

	n *= one;
	if (call->fn) {
		call->fn_result = call->fn(call->arg, data, n);
		return call->fn_result ? 0 : n;
	}
	if (n > MCI_CURL_BODY_MAX - call->length) {
		call->too_long = true;
		return 0;
	}
	if (!append(&call->body, &call->length, &call->size, data, n)) {
		call->no_memory = true;
		return 0;
	}
	return n;
}

static size_t on_header(char *data, size_t one, size_t n, void *arg)
{
	struct call *call = arg;

	n *= one;
	if (n > 5 && !strncasecmp(data, "HTTP/", 5))
		call->headers_length = 0; /* the lines before belong to an interim answer */
	if (n > HEADERS_MAX - 1 - call->headers_length) {
		call->too_long = true;
		return 0;
	}
	memcpy(call->headers + call->headers_length, data, n);
	call->headers_length += n;
	call->headers[call->headers_length] = 0;
	return n;
}

static void add_line(struct call *call, const char *line)
{
	struct curl_slist *more = curl_slist_append(call->lines, line);

	if (more)
		call->lines = more;
	else
		call->no_memory = true;
}

static void add_header(struct call *call, const char *name, const char *value)
{
	char *line;

	if (asprintf(&line, "%s: %s", name, value) < 0) {
		call->no_memory = true;
		return;
	}
	add_line(call, line);
	explicit_bzero(line, strlen(line));
	free(line);
}

static void set_method(struct call *call, const struct mci_curl_request *request)
{
	if (request->body) {
		curl_easy_setopt(call->easy, CURLOPT_POST, 1L);
		curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, request->body);
		curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_length);
		add_header(call, "Content-Type",
			   request->content_type ? request->content_type : "application/json");
	} else {
		curl_easy_setopt(call->easy, CURLOPT_HTTPGET, 1L);
	}
	curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, request->method);
}

static void set_security(CURL *easy, const struct mci_curl *curl)
{
	if (curl->ca_file)
		curl_easy_setopt(easy, CURLOPT_CAINFO, curl->ca_file);
	if (curl->cert_file)
		curl_easy_setopt(easy, CURLOPT_SSLCERT, curl->cert_file);
	if (curl->key_file)
		curl_easy_setopt(easy, CURLOPT_SSLKEY, curl->key_file);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (curl->user || curl->password) {
		curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
		curl_easy_setopt(easy, CURLOPT_USERNAME, curl->user ? curl->user : "");
		curl_easy_setopt(easy, CURLOPT_PASSWORD, curl->password ? curl->password : "");
	}
	if (!curl->use_proxy) {
		curl_easy_setopt(easy, CURLOPT_PROXY, "");
		curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	}
}

static int call_begin(struct call *call, struct mci_curl *curl, const struct mci_curl_request *request)
{
	uint32_t total = request->timeout_ms ? request->timeout_ms : TIMEOUT_MS;
	uint32_t connect = request->connect_timeout_ms ? request->connect_timeout_ms : total;
	const char *const *line;
	CURL *easy;

	memset(call, 0, sizeof(*call));
	call->curl = curl;
	call->headers = calloc(1, HEADERS_MAX);
	easy = take_handle(curl);
	call->easy = easy;
	if (!easy || !call->headers)
		return -ENOMEM;
	curl_easy_reset(easy); /* keeps the connection */
	curl_easy_setopt(easy, CURLOPT_URL, request->url);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->error);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)connect);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)total);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 10L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 5L);
	set_security(easy, curl);
	add_line(call, "Expect:"); /* never wait for "100 Continue" */
	set_method(call, request);
	if (request->authorization)
		add_header(call, "Authorization", request->authorization);
	for (line = request->headers; line && *line; line++)
		add_line(call, *line);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->lines);
	return call->no_memory ? -ENOMEM : 0;
}

/* @keep: the connection is in order, another request may use it. */
static void call_end(struct call *call, bool keep)
{
	struct mci_sigpipe guard;

	if (call->easy && keep) {
		curl_easy_reset(call->easy); /* no pointer into @call stays behind */
		return_handle(call->curl, call->easy);
	} else if (call->easy) {
		mci_sigpipe_block(&guard);
		curl_easy_cleanup(call->easy);
		mci_sigpipe_unblock(&guard);
	}
	curl_slist_free_all(call->lines);
	free(call->headers);
	free(call->body);
}

/* "http://host:port" of @url: without path, and without a password somebody put there. */
static void server_of(const char *url, char *text, size_t size)
{
	const char *host = strstr(url, "://");
	const char *end, *at;

	if (!host) {
		snprintf(text, size, "the metadata server");
		return;
	}
	host += 3;
	end = host + strcspn(host, "/?#");
	at = memrchr(host, '@', (size_t)(end - host));
	snprintf(text, size, "%.*s%.*s", (int)(host - url), url, (int)(end - (at ? at + 1 : host)),
		 at ? at + 1 : host);
}

static int explain(const struct call *call, const struct mci_curl_request *request, CURLcode code)
{
	const char *why = call->error[0] ? call->error : curl_easy_strerror(code);
	curl_off_t spent = 0;
	char server[300];
	long os = 0;

	server_of(request->url, server, sizeof(server));
	curl_easy_getinfo(call->easy, CURLINFO_TOTAL_TIME_T, &spent);
	curl_easy_getinfo(call->easy, CURLINFO_OS_ERRNO, &os);
	if (os == EMFILE || os == ENFILE)
		return mci_fail(-(int)os, "%s cannot be reached: %s", server, strerror((int)os));
	if (call->no_memory || code == CURLE_OUT_OF_MEMORY)
		return mci_fail(-ENOMEM, "no memory for the answer of %s", server);
	if (call->too_long)
		return mci_fail(-EMSGSIZE, "the answer of %s is longer than %u MiB; is it a metadata server?",
				server, MCI_CURL_BODY_MAX >> 20);
	switch (code) {
	case CURLE_COULDNT_CONNECT:
		return mci_fail(-ECONNREFUSED,
				"%s cannot be reached (%s); is the metadata server running there?", server,
				why);
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return mci_fail(-EHOSTUNREACH,
				"the host name in %s is not known (%s); check its spelling or use an address",
				server, why);
	case CURLE_OPERATION_TIMEDOUT:
		return mci_fail(
			-ETIMEDOUT,
			"%s did not answer within %lld ms; is the address right, and no firewall between?",
			server, (long long)(spent / 1000));
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_USE_SSL_FAILED:
		return mci_fail(-EACCES,
				"no TLS connection to %s (%s); does that port speak TLS? who signed its "
				"certificate (itself, where it is self-signed) must be in MOONCAKE_CA_FILE or "
				"security.ca_file; certificate and key of our own must fit the server",
				server, why);
	case CURLE_UNSUPPORTED_PROTOCOL:
		if (!strncmp(server, "http://", 7) || !strncmp(server, "https://", 8))
			return mci_fail(
				-EIO, "what answers at %s does not speak HTTP (%s); is it a metadata server?",
				server, why);
		/* fall through */
	case CURLE_URL_MALFORMAT:
		return mci_fail(-EINVAL, "'%s' is not an http or https address (%s)", server, why);
	case CURLE_GOT_NOTHING:
		if (!strncmp(server, "http://", 7))
			return mci_fail(-EIO,
					"%s closed the connection without an answer; if it speaks TLS, write "
					"https:// (etcd: etcds://)",
					server);
		/* fall through */
	default:
		return mci_fail(-EIO, "the exchange with %s failed: %s", server, why);
	}
}

int mci_curl_request(struct mci_curl *curl, const struct mci_curl_request *request,
		     struct mci_curl_reply *reply)
{
	struct mci_sigpipe guard;
	struct call call;
	CURLcode code;
	int ret;

	ret = call_begin(&call, curl, request);
	if (!ret && !append(&call.body, &call.length, &call.size, "", 0))
		ret = -ENOMEM;
	if (ret) {
		call_end(&call, false);
		return mci_fail(ret, "no memory for a request to the metadata server");
	}
	mci_sigpipe_block(&guard);
	code = curl_easy_perform(call.easy);
	mci_sigpipe_unblock(&guard);
	if (code != CURLE_OK) {
		ret = explain(&call, request, code);
		call_end(&call, false);
		return ret;
	}
	curl_easy_getinfo(call.easy, CURLINFO_RESPONSE_CODE, &reply->status);
	reply->body = call.body;
	reply->length = call.length;
	reply->headers = call.headers;
	call.body = NULL;
	call.headers = NULL;
	call_end(&call, true);
	return 0;
}

void mci_curl_reply_free(struct mci_curl_reply *reply)
{
	free(reply->body);
	free(reply->headers);
	memset(reply, 0, sizeof(*reply));
}

int mci_curl_header(const struct mci_curl_reply *reply, const char *name, char *value, size_t size)
{
	size_t n = strlen(name);
	const char *line = reply->headers;
	const char *end, *from;

	for (; line && *line; line = *end ? end + 1 : end) {
		end = line + strcspn(line, "\n");
		if ((size_t)(end - line) <= n || strncasecmp(line, name, n) || line[n] != ':')
			continue;
		from = line + n + 1;
		from += strspn(from, " \t");
		while (end > from && strchr(" \t\r", end[-1]))
			end--;
		if (end < from)
			end = from;
		if ((size_t)(end - from) >= size)
			return -EMSGSIZE;
		memcpy(value, from, (size_t)(end - from));
		value[end - from] = 0;
		return 0;
	}
	return -ENOENT;
}

char *mci_curl_escape(const char *text)
{
	static const char hex[] = "0123456789ABCDEF";
	char *out = malloc(strlen(text) * 3 + 1);
	char *to = out;

	if (!out)
		return NULL;
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		    strchr("-._~", c)) {
			*to++ = (char)c;
		} else {
			*to++ = '%';
			*to++ = hex[c >> 4];
			*to++ = hex[c & 15];
		}
	}
	*to = 0;
	return out;
}

static bool is_done(CURLM *multi, CURLcode *code)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(multi, &left)))
		if (message->msg == CURLMSG_DONE) {
			*code = message->data.result;
			return true;
		}
	return false;
}

/* 0: the transfer ended, with *code; else why it was left. */
static int stream_run(CURLM *multi, struct call *call, const struct mci_curl_request *request, int cancel_fd,
		      CURLcode *code)
{
	uint64_t start = mci_now_ns();
	uint64_t deadline = start + (request->timeout_ms ? request->timeout_ms : TIMEOUT_MS) * MCI_NS_PER_MS;
	uint64_t end = request->life_ms ? start + request->life_ms * MCI_NS_PER_MS : UINT64_MAX;
	struct curl_waitfd cancel = { .fd = cancel_fd, .events = CURL_WAIT_POLLIN };
	int running, wait_ms;

	for (;;) {
		bool answered = call->headers_length > 0;

		if (curl_multi_perform(multi, &running) != CURLM_OK)
			return -EIO;
		if (is_done(multi, code))
			return 0;
		if (!answered && !mci_ms_left(deadline))
			return -ETIMEDOUT;
		wait_ms = mci_ms_left(end);
		if (answered && !wait_ms)
			return 0;
		if (!answered)
			wait_ms = mci_ms_left(deadline);
		else if (wait_ms > 1000)
			wait_ms = 1000;
		cancel.revents = 0;
		if (curl_multi_poll(multi, &cancel, 1, wait_ms, NULL) != CURLM_OK)
			return -EIO;
		if (cancel.revents)
			return -ECANCELED;
	}
}

int mci_curl_stream(struct mci_curl *curl, const struct mci_curl_request *request, int cancel_fd,
		    int (*fn)(void *arg, const char *data, size_t length), void *arg, long *status)
{
	struct mci_sigpipe guard;
	CURLcode code = CURLE_OK;
	struct call call;
	CURLM *multi;
	int ret;

	ret = call_begin(&call, curl, request);
	multi = curl_multi_init();
	if (ret || !multi || curl_multi_add_handle(multi, call.easy) != CURLM_OK) {
		ret = mci_fail(-ENOMEM, "no memory for a request to the metadata server");
		goto out_end;
	}
	curl_easy_setopt(call.easy, CURLOPT_TIMEOUT_MS, 0L);
	call.fn = fn;
	call.arg = arg;
	mci_sigpipe_block(&guard);
	ret = stream_run(multi, &call, request, cancel_fd, &code);
	curl_multi_remove_handle(multi, call.easy);
	mci_sigpipe_unblock(&guard);
	if (ret == -EIO)
		ret = explain(&call, request, CURLE_RECV_ERROR);
	else if (ret == -ETIMEDOUT)
		ret = explain(&call, request, CURLE_OPERATION_TIMEDOUT);
	else if (!ret && call.fn_result)
		ret = call.fn_result;
	else if (!ret && code != CURLE_OK)
		ret = explain(&call, request, code);
	else if (!ret)
		curl_easy_getinfo(call.easy, CURLINFO_RESPONSE_CODE, status);

out_end:
	call_end(&call, false);
	if (multi)
		curl_multi_cleanup(multi);
	return ret;
}

#endif
