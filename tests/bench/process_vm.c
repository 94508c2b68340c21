// SPDX-License-Identifier: MIT
/* Baseline of shm over anonymous memory: a bare loop of process_vm_readv() or process_vm_writev(). */
#include <sys/uio.h>

#include "baseline.h"

static struct shared *shared;
static uint8_t *local;
static uintptr_t remote;
static pid_t peer;
static bool reading;

static const struct opt table[] = {BASE_OPTIONS, {0}};
static const struct opt_set set = {
	"process_vm", "[flags]", "Copies from or to another process.", table, NULL, 0, 0};

static void *worker(void *arg)
{
	uint64_t thread = (uintptr_t)arg, i, at;
	struct iovec here, there;
	ssize_t n;

	for (i = 0; !atomic_load_explicit(&shared->stop, memory_order_relaxed); i++) {
		at = walk(i, thread);
		here = (struct iovec){local + at, base.block_size};
		there = (struct iovec){(void *)(remote + at), base.block_size};
		n = reading ? process_vm_readv(peer, &here, 1, &there, 1, 0)
			    : process_vm_writev(peer, &here, 1, &there, 1, 0);
		if (n != (ssize_t)base.block_size) {
			perror(reading ? "process_vm_readv" : "process_vm_writev");
			kill(peer, SIGKILL);
			_exit(1);
		}
		count(&shared->lanes[thread], base.block_size);
	}
	return NULL;
}

/* The other process: offers its memory, and lets this one at it. */
static pid_t start_peer(void)
{
	pid_t pid, parent = getpid();
	uintptr_t at;
	int fds[2];

	if (pipe(fds) || (pid = fork()) < 0) {
		perror("process_vm");
		exit(1);
	}
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_PTRACER, parent);
		at = (uintptr_t)memory_new(base.working_set, MC_MEMORY_PRIVATE);
		if (write(fds[1], &at, sizeof(at)) != (ssize_t)sizeof(at))
			_exit(1);
		for (;;)
			pause();
	}
	close(fds[1]);
	if (read(fds[0], &remote, sizeof(remote)) != (ssize_t)sizeof(remote)) {
		fprintf(stderr, "process_vm: the other process failed\n");
		exit(1);
	}
	close(fds[0]);
	return pid;
}

int main(int argc, char **argv)
{
	pthread_t threads[MAX_THREADS];
	uintptr_t i;

	opt_parse(&set, argc, argv);
	reading = !strcmp(base.operation, "read");
	shared = shared_new();
	peer = start_peer();
	local = memory_new(base.working_set, MC_MEMORY_PRIVATE);
	for (i = 0; i < base.threads; i++)
		if (pthread_create(&threads[i], NULL, worker, (void *)i))
			return 1;
	measure(shared, peer);
	atomic_store(&shared->stop, 1);
	for (i = 0; i < base.threads; i++)
		pthread_join(threads[i], NULL);
	kill(peer, SIGKILL);
	waitpid(peer, NULL, 0);
	return 0;
}
