// SPDX-License-Identifier: MIT
/*
 * Baseline of tcp: two processes, a thread on each side per connection. The sender writes pieces of the
 * block size from its buffer, the receiver reads them into its own; nothing is asked, framed or confirmed.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "baseline.h"

static struct shared *shared;
static uint8_t *buffer;
static const char *congestion;

static const struct opt table[] = {
	BASE_OPTIONS,
	{"congestion", OPT_TEXT, &congestion, "cubic", .help = "congestion control; empty = the system's"},
	{0},
};
static const struct opt_set set = {
	"plain_socket", "[flags]", "Sends through loopback TCP.", table, NULL, 0, 0};

struct end {
	int fd;
	uint64_t thread;
	bool sends;
};

static void die(const char *what)
{
	fprintf(stderr, "plain_socket: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *sender(const struct end *end)
{
	uint64_t i, at, done;
	ssize_t n;

	for (i = 0;; i++) {
		at = walk(i, end->thread);
		for (done = 0; done < base.block_size; done += (uint64_t)n) {
			n = send(end->fd, buffer + at + done, base.block_size - done, MSG_NOSIGNAL);
			if (n <= 0)
				return NULL;
		}
	}
}

static void *receiver(const struct end *end)
{
	uint64_t i, at, done;
	ssize_t n;

	for (i = 0;; i++) {
		at = walk(i, end->thread);
		for (done = 0; done < base.block_size; done += (uint64_t)n) {
			n = recv(end->fd, buffer + at + done, base.block_size - done, 0);
			if (n <= 0)
				return NULL;
			count(&shared->lanes[end->thread], (uint64_t)n);
		}
	}
}

static void *run_end(void *arg)
{
	struct end *end = arg;

	return end->sends ? sender(end) : receiver(end);
}

static void set_up(int fd)
{
	int one = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		die("TCP_NODELAY");
	/* Best effort, as in the engine: a user may be allowed the system's own only. */
	if (*congestion &&
	    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion)) &&
	    errno != EPERM && errno != ENOENT)
		die(congestion);
}

static void start(struct end *ends, pthread_t *threads, const int *fds, bool sends)
{
	uint64_t i;

	for (i = 0; i < base.threads; i++) {
		ends[i] = (struct end){fds[i], i, sends};
		errno = pthread_create(&threads[i], NULL, run_end, &ends[i]);
		if (errno)
			die("pthread_create");
	}
}

static void target(int listener)
{
	pthread_t threads[MAX_THREADS];
	struct end ends[MAX_THREADS];
	int fds[MAX_THREADS];
	uint64_t i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	buffer = memory_new(base.working_set, 0);
	for (i = 0; i < base.threads; i++) {
		fds[i] = accept(listener, NULL, NULL);
		if (fds[i] < 0)
			die("accept");
		set_up(fds[i]);
	}
	start(ends, threads, fds, !strcmp(base.operation, "read"));
	for (i = 0; i < base.threads; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	pthread_t threads[MAX_THREADS];
	struct end ends[MAX_THREADS];
	int listener, fds[MAX_THREADS];
	uint64_t i;
	pid_t pid;

	opt_parse(&set, argc, argv);
	shared = shared_new();
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(listener, MAX_THREADS) || getsockname(listener, (struct sockaddr *)&addr, &len))
		die("listen");
	set_up(listener);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		target(listener);
	buffer = memory_new(base.working_set, 0);
	for (i = 0; i < base.threads; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fds[i] < 0)
			die("socket");
		set_up(fds[i]);
		if (connect(fds[i], (struct sockaddr *)&addr, sizeof(addr)))
			die("connect");
	}
	start(ends, threads, fds, !strcmp(base.operation, "write"));
	measure(shared, pid);
	for (i = 0; i < base.threads; i++)
		shutdown(fds[i], SHUT_RDWR);
	for (i = 0; i < base.threads; i++)
		pthread_join(threads[i], NULL);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}
