// SPDX-License-Identifier: MIT
/*
 * libmicrohttpd's daemon for the metadata server: up to four epoll threads, bounded connections, TLS 1.3.
 * No lock: what is shared lies in the store.
 */
#include "metadata/server_http.h"

#include <microhttpd.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/log.h"
#include "metadata/server_request.h"

#define THREADS_MAX 4
#define BACKLOG 4096
#define REQUEST_MEMORY \
	(20u << 10)    /* per connection, for request line and headers: an escaped key may have 12 KiB */
#define OTHER_FILES 64 /* descriptors left to the rest of the process */
#define HANG_UP_LENGTH (8u << 20) /* a refused body longer than this is not waited for */

struct mci_http {
	struct MHD_Daemon *daemon;
	struct mci_keystore *store;
	char *bearer;
};

static void log_message(void *arg, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void log_message(void *arg, const char *fmt, va_list ap)
{
	char text[400];
	size_t n;

	(void)arg;
	vsnprintf(text, sizeof(text), fmt, ap);
	n = strlen(text);
	while (n && text[n - 1] == '\n')
		text[--n] = 0;
	mci_debug("metadata server: %s", text);
}

static enum mci_http_verb verb_of(const char *method)
{
	if (!strcmp(method, "GET") || !strcmp(method, "HEAD"))
		return MCI_VERB_GET;
	if (!strcmp(method, "PUT"))
		return MCI_VERB_PUT;
	if (!strcmp(method, "DELETE"))
		return MCI_VERB_DELETE;
	return strcmp(method, "POST") ? MCI_VERB_OTHER : MCI_VERB_POST;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *http_version, const char *data,
				  size_t *length, void **state)
{
	struct mci_http_request *request = *state;
	struct mci_http *http = arg;
	bool go_on;

	(void)http_version;
	if (!request) {
		request = calloc(1, sizeof(*request));
		if (!request)
			return MHD_NO;
		*state = request;
		request->store = http->store;
		request->connection = connection;
		request->mark = MCI_HTTP_MARK_YES;
		request->verb = verb_of(method);
		mci_request_begin(request, url, http->bearer);
		/* A body far too long: answered at once, then the connection is closed. */
		if (request->refused && request->body_seen > HANG_UP_LENGTH)
			return mci_request_answer(request);
		request->body_seen = 0;
		return MHD_YES;
	}
	if (*length) {
		go_on = mci_request_body(request, data, *length);
		*length = 0;
		return go_on ? MHD_YES : MHD_NO;
	}
	return mci_request_answer(request);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode why)
{
	(void)arg;
	(void)connection;
	(void)why;
	if (*state)
		mci_request_free(*state);
	*state = NULL;
}

static unsigned int connection_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur == RLIM_INFINITY ||
	    files.rlim_cur >= MCI_HTTP_CONNECTIONS + OTHER_FILES)
		return MCI_HTTP_CONNECTIONS;
	mci_info("metadata server: at most %llu connections at once, since this process may open %llu files "
		 "(ulimit -n)",
		 (unsigned long long)(files.rlim_cur > 2 * OTHER_FILES ? files.rlim_cur - OTHER_FILES
								       : OTHER_FILES),
		 (unsigned long long)files.rlim_cur);
	return files.rlim_cur > 2 * OTHER_FILES ? (unsigned int)files.rlim_cur - OTHER_FILES : OTHER_FILES;
}

static struct MHD_Daemon *start_daemon(struct mci_http *http, const struct mci_http_attr *attr)
{
	unsigned int flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int limit = connection_limit();
	unsigned int threads = cores < 2 ? 2 : cores > THREADS_MAX ? THREADS_MAX : (unsigned int)cores;
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)attr->cert},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)attr->cert_key},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)"NORMAL:-VERS-ALL:+VERS-TLS1.3"},
		{MHD_OPTION_END, 0, NULL},
	};
	struct MHD_OptionItem plain[] = {{MHD_OPTION_END, 0, NULL}};

	if (attr->cert)
		flags |= MHD_USE_TLS;
	return MHD_start_daemon(flags, 0, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER,
				log_message, NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
				MHD_OPTION_LISTEN_SOCKET, attr->listen_fd, MHD_OPTION_THREAD_POOL_SIZE,
				threads, MHD_OPTION_CONNECTION_LIMIT, limit,
				MHD_OPTION_PER_IP_CONNECTION_LIMIT, limit / 2,
				MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)MCI_HTTP_IDLE_S,
				MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_MEMORY, MHD_OPTION_ARRAY,
				attr->cert ? tls : plain, MHD_OPTION_END);
}

static void free_http(struct mci_http *http)
{
	if (http && http->bearer)
		OPENSSL_cleanse(http->bearer, strlen(http->bearer));
	if (http)
		free(http->bearer);
	free(http);
}

int mci_http_start(const struct mci_http_attr *attr, struct mci_http **out)
{
	struct mci_http *http = calloc(1, sizeof(*http));
	sigset_t all, before;
	int ret;

	if (http && attr->bearer)
		http->bearer = strdup(attr->bearer);
	if (!http || (attr->bearer && !http->bearer)) {
		ret = mci_fail(-ENOMEM, "no memory for a metadata server");
		goto err_listen;
	}
	http->store = attr->store;
	if (attr->cert && !MHD_is_feature_supported(MHD_FEATURE_TLS)) {
		ret = mci_fail(-EOPNOTSUPP, "this libmicrohttpd was built without TLS: start without a "
					    "certificate, behind a TLS proxy or on loopback");
		goto err_listen;
	}
	listen(attr->listen_fd, BACKLOG); /* a longer queue than mci_listen() gave it */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the application's: none for our threads */
	http->daemon = start_daemon(http, attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!http->daemon) {
		/* it has closed the listening socket */
		ret = mci_fail(-EIO, "libmicrohttpd could not start%s; MOONCAKE_LOG=debug shows its reasons",
			       attr->cert ? " with this certificate and key" : "");
		goto err_free;
	}
	*out = http;
	return 0;

err_listen:
	close(attr->listen_fd);
err_free:
	free_http(http);
	return ret;
}

void mci_http_stop(struct mci_http *http)
{
	if (!http)
		return;
	/* those who wait for a change are answered, so that no connection is suspended any more */
	mci_keystore_end_watches(http->store);
	MHD_stop_daemon(http->daemon); /* closes the listening socket */
	free_http(http);
}
