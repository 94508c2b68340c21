/* SPDX-License-Identifier: MIT */
/* Start a real server (etcd, redis) for a test: free loopback ports, a directory of its own, ended by pid. */
#ifndef TESTS_METADATA_SERVER_H
#define TESTS_METADATA_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t test_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void test_sleep_ms(unsigned int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000l };

	nanosleep(&t, NULL);
}

/* Wait up to @ms until @condition holds; false if it never did. */
#define test_until(ms, condition)							\
	({										\
		uint64_t until_end_ = test_now_ms() + (ms);				\
		bool until_met_;							\
											\
		while (!(until_met_ = (condition)) && test_now_ms() < until_end_)	\
			test_sleep_ms(20);						\
		until_met_;								\
	})

static inline bool test_has_program(const char *name)
{
	char *path = strdup(getenv("PATH") ? getenv("PATH") : "");
	char file[PATH_MAX];
	bool found = false;
	char *dir, *save;

	for (dir = strtok_r(path, ":", &save); dir && !found; dir = strtok_r(NULL, ":", &save)) {
		snprintf(file, sizeof(file), "%s/%s", dir, name);
		found = !access(file, X_OK);
	}
	free(path);
	return found;
}

/* A port that was free a moment ago. */
static inline uint16_t test_free_port(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (void *)&address, length) || getsockname(fd, (void *)&address, &length))
		abort();
	close(fd);
	return ntohs(address.sin_port);
}

/* Accepts connections into its backlog, and never answers. */
static inline int test_silent_listener(uint16_t *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (void *)&address, length) || listen(fd, 64) ||
	    getsockname(fd, (void *)&address, &length))
		abort();
	*port = ntohs(address.sin_port);
	return fd;
}

static inline bool test_can_connect(uint16_t port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				       .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && !connect(fd, (void *)&address, sizeof(address));

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Output goes to @log; the child dies with this process. */
static inline pid_t test_spawn(char *const argv[], const char *log)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	int fd;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0) {
		dup2(fd, 1);
		dup2(fd, 2);
	}
	execvp(argv[0], argv);
	_exit(127);
}

/* 0 if it ends with status 0. */
static inline int test_command(const char *log, char *const argv[])
{
	pid_t pid = test_spawn(argv, log);
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

static inline void test_kill(pid_t *pid)
{
	if (*pid <= 0)
		return;
	kill(*pid, SIGKILL);
	waitpid(*pid, NULL, 0);
	*pid = 0;
}

static inline int test_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline void test_remove_tree(const char *dir)
{
	nftw(dir, test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
