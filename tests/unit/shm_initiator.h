/* SPDX-License-Identifier: MIT */
/* For tests of the shared memory transport: an initiator in a process of its own, which is the test program again. */
#ifndef TESTS_UNIT_SHM_INITIATOR_H
#define TESTS_UNIT_SHM_INITIATOR_H

#include "shm_host.h"

#define MIB (1ull << 20)

static inline int try_peer(struct fake *fake, struct remote *remote, struct mci_peer **peer)
{
	return mci_transport_shm.peer_open(fake->transport, &remote->info, NULL, remote->regions,
					   remote->count, mci_now_ns() + 3 * MCI_NS_PER_S, peer);
}

struct child {
	pid_t pid;
	int out;
};

/* With STOP_INSIDE=N in the environment: all of the process stops before piece N of what it writes, once. */
static inline void initiator_stop(void *arg)
{
	static atomic_int pieces;

	if (atomic_fetch_add(&pieces, 1) + 1 == *(int *)arg)
		raise(SIGSTOP);
}

/* argv: uuid, transport JSON, then "id:generation:rights:length" each. Prints a line per region, then writes
 * for ever. */
static inline int initiator_main(int argc, char **argv)
{
	struct remote remote = {.count = (unsigned int)argc - 2};
	struct mci_remote_region regions[8];
	struct mci_peer *peer;
	struct fake *fake;
	uint8_t *from = malloc(16 * MIB);
	char text[128];
	pid_t pid;
	int ret, stop;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	become_other_user();
	fake = fake_open("child");
	memset(regions, 0, sizeof(regions));
	memset(from, 7, 16 * MIB);
	mci_uuid_parse(argv[0], &remote.info.uuid);
	remote.info.name = "parent";
	remote.info.generation = 1;
	remote.info.secret = fake->host.secret;
	remote.info.transport = json_loads(argv[1], 0, NULL);
	remote.regions = regions;
	for (unsigned int i = 0; i < remote.count; i++) {
		unsigned long long length;

		if (sscanf(argv[2 + i], "%u:%u:%u:%llu", &regions[i].id, &regions[i].generation,
			   &regions[i].rights, &length) != 4)
			abort();
		regions[i].length = length;
	}
	ret = try_peer(fake, &remote, &peer);
	if (ret) {
		printf("%d %s\n", ret, mc_errmsg());
		fflush(stdout);
		return 1;
	}
	for (unsigned int i = 0; i < remote.count; i++) {
		mci_transport_shm.detail(peer, &regions[i], text, sizeof(text));
		printf("%d %s\n", mci_transport_shm.region_usable(peer, &regions[i]), text);
		fflush(stdout);
	}
	if (getenv("MAP_ONLY")) {
		const void *addr;
		void *view;

		ret = mci_transport_shm.map(peer, regions, 0, 4096, &addr, &view);
		pid = fork(); /* the child holds every descriptor, and sleeps */
		if (pid)
			printf("%d %d\n", ret, (int)pid);
		else
			alarm(20);
		fflush(stdout);
		for (;;)
			pause();
	}
	if (getenv("STOP_INSIDE")) {
		stop = atoi(getenv("STOP_INSIDE"));
		fake->transport->hooks.arg = &stop;
		fake->transport->hooks.inside = initiator_stop;
	}
	for (;;) {
		struct job job = transfer(peer, MCI_OP_WRITE, regions, 0, from, regions[0].length);

		printf("%d %d\n", job.state, job.error);
		fflush(stdout);
		if (job.state != MC_DONE)
			return 0;
	}
}

static inline struct child initiator_start(struct fake *owner, struct mci_region **regions, unsigned int count)
{
	char uuid[MCI_UUID_TEXT], text[8][64], *argv[16] = {(char *)"self", (char *)"initiator"}, *json;
	struct child child = {0, -1};
	struct remote remote;
	int out[2];

	remote_of(owner, regions, count, &remote);
	mci_uuid_text(&owner->self.uuid, uuid);
	json = json_dumps(remote.info.transport, JSON_COMPACT);
	argv[2] = uuid;
	argv[3] = json;
	for (unsigned int i = 0; i < count; i++) {
		snprintf(text[i], sizeof(text[i]), "%u:%u:%u:%llu", regions[i]->id, regions[i]->generation,
			 regions[i]->rights, (unsigned long long)regions[i]->length);
		argv[4 + i] = text[i];
	}
	if (pipe2(out, O_CLOEXEC))
		abort();
	child.pid = fork();
	if (!child.pid) {
		dup2(out[1], 1);
		execv("/proc/self/exe", argv);
		_exit(127);
	}
	close(out[1]);
	child.out = out[0];
	free(json);
	remote_free(&remote);
	return child;
}

static inline void child_line(struct child *child, char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size && read(child->out, line + n, 1) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
}

static inline void child_end(struct child *child)
{
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
	close(child->out);
}

#endif
