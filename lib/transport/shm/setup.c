// SPDX-License-Identifier: MIT
/*
 * Initiator, the blocking part of opening a connection: take the control pages, prove in both directions
 * that the memory is the same, ask how each region can be reached.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/uuid.h"
#include "transport/shm/shm.h"

static int protocol(const char *what)
{
	return mci_fail(-EPROTO,
			"the peer on this host sent a malformed or unexpected %s frame; run the same release "
			"on both sides",
			what);
}

/* The next frame, which must be of @want; what the target says at any time is passed over. */
static int receive(struct mci_sock *sock, uint16_t want, const char *what, void **body, uint32_t *length,
		   int *fd, uint64_t deadline_ns)
{
	uint16_t type;
	uint32_t id;
	int ret;

	do {
		*fd = -1;
		ret = mci_frame_recv(sock, MCI_SHM_FRAME_LIMIT, &type, &id, body, length, fd, deadline_ns);
		if (ret)
			return ret;
		if (type == want)
			return 0;
		free(*body);
		if (*fd >= 0)
			close(*fd);
	} while (type == MCI_SHM_GONE);
	return protocol(what);
}

static int map_control(const struct mci_shm_link *link, int fd, uint64_t size, int prot, void **out)
{
	struct stat st;
	void *p;

	if (fd < 0)
		return protocol("control");
	if (fstat(fd, &st) || (uint64_t)st.st_size < size || !mci_shm_safe_to_map(link, fd))
		return mci_fail(-EPROTO, "the peer's control page is too small, or could shrink");
	p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return mci_fail(-errno, "cannot map the peer's control page: %s", strerror(errno));
	madvise(p, size, MADV_DONTFORK);
	*out = p;
	return 0;
}

static int take_table(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns)
{
	struct mci_shm_table_frame frame;
	uint32_t length;
	void *body, *mapped;
	int fd, ret;

	ret = receive(sock, MCI_SHM_TABLE, "TABLE", &body, &length, &fd, deadline_ns);
	if (ret)
		return ret;
	ret = mci_shm_table_decode(body, length, &frame) ? protocol("TABLE") : 0;
	free(body);
	if (!ret)
		ret = map_control(link, fd, sizeof(struct mci_shm_table), PROT_READ, &mapped);
	if (fd >= 0)
		close(fd);
	if (ret)
		return ret;
	link->table = mapped;
	return mci_shm_table_check(link->table);
}

static int take_use(struct mci_shm_link *link, struct mci_sock *sock, uint64_t *probe, uint64_t deadline_ns)
{
	struct mci_shm_use_frame frame;
	uint32_t length;
	void *body, *mapped;
	int fd, ret;

	ret = receive(sock, MCI_SHM_USE, "USE", &body, &length, &fd, deadline_ns);
	if (ret)
		return ret;
	ret = mci_shm_use_decode(body, length, &frame) ? protocol("USE") : 0;
	free(body);
	if (!ret)
		ret = map_control(link, fd, sizeof(struct mci_shm_use), PROT_READ | PROT_WRITE, &mapped);
	if (fd >= 0)
		close(fd);
	if (ret)
		return ret;
	link->use = mapped;
	*probe = frame.probe;
	return mci_shm_use_check(link->use);
}

/* Read the target's nonce in its own memory: works or not, the answer tells whether process_vm_* may be used.
 */
static bool probe_vm(const struct mci_shm_link *link, uint64_t address, uint8_t nonce[MCI_SHM_NONCE])
{
	struct iovec here = {nonce, MCI_SHM_NONCE};
	struct iovec there = {(void *)(uintptr_t)address, MCI_SHM_NONCE};

	return link->pidfd >= 0 && process_vm_readv(link->pid, &here, 1, &there, 1, 0) == MCI_SHM_NONCE;
}

static int prove(struct mci_shm_link *link, struct mci_sock *sock, uint64_t probe, uint64_t deadline_ns)
{
	struct mci_shm_prove_frame frame = {.probed = false};
	struct mci_shm_ready_frame ready;
	uint8_t mine[MCI_SHM_NONCE], out[MCI_SHM_SMALL_MAX];
	uint32_t length;
	void *body;
	int fd, ret;

	mci_random(mine, sizeof(mine));
	memcpy(link->use->initiator_nonce, mine, sizeof(mine));
	memcpy(frame.nonce, link->use->target_nonce, sizeof(frame.nonce));
	frame.probed = probe_vm(link, probe, frame.probe);
	frame.attaches = link->peer->transport->kdev;
	memcpy(frame.context_id, link->peer->transport->context_id.b, sizeof(frame.context_id));
	ret = mci_frame_send(sock, MCI_SHM_PROVE, 0, out, mci_shm_prove_encode(&frame, out), deadline_ns);
	if (!ret)
		ret = receive(sock, MCI_SHM_READY, "READY", &body, &length, &fd, deadline_ns);
	if (ret)
		return ret;
	ret = mci_shm_ready_decode(body, length, &ready) ? protocol("READY") : 0;
	free(body);
	if (fd >= 0)
		close(fd);
	if (!ret && memcmp(ready.nonce, mine, sizeof(mine)))
		ret = mci_fail(-EOPNOTSUPP,
			       "the peer does not see this process's memory: it is not on this host");
	if (!ret) {
		link->probed = frame.probed && ready.probed;
		link->attaches = frame.attaches;
	}
	return ret;
}

static int ask_all(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns)
{
	struct mci_peer *peer = link->peer;
	uint8_t *list = malloc(4 + MCI_SHM_ASK_MAX * MCI_SHM_ASK_SIZE);
	uint16_t got, flags;
	uint32_t length;
	void *body;
	int fd, ret = 0;

	if (!list)
		return mci_fail(-ENOMEM, "no memory to ask for %u regions", peer->count);
	for (unsigned int first = 0; first < peer->count && !ret;) {
		unsigned int n =
			peer->count - first < MCI_SHM_ASK_MAX ? peer->count - first : MCI_SHM_ASK_MAX;

		for (unsigned int i = 0; i < n; i++)
			mci_shm_ask_encode(&(struct mci_shm_ask){peer->regions[first + i].id,
								 peer->regions[first + i].generation},
					   i, list);
		ret = mci_frame_send(sock, MCI_SHM_ASK, 0, list,
				     mci_shm_list_encode((uint16_t)n, 0, list) + n * MCI_SHM_ASK_SIZE,
				     deadline_ns);
		if (!ret)
			ret = receive(sock, MCI_SHM_GRANT, "GRANT", &body, &length, &fd, deadline_ns);
		if (ret)
			break;
		if (fd >= 0)
			close(fd);
		ret = mci_shm_list_decode(body, length, MCI_SHM_GRANT_SIZE, &got, &flags);
		for (unsigned int i = 0; i < n && !ret && got == n; i++) {
			struct mci_shm_grant grant;

			ret = mci_shm_grant_decode(body, i, &grant);
			if (!ret)
				mci_shm_map_take(link, first + i, &grant, -1);
		}
		free(body);
		if (ret || got != n)
			ret = protocol("GRANT");
		first += n;
	}
	free(list);
	return ret;
}

int mci_shm_setup(struct mci_shm_link *link, struct mci_sock *sock, uint64_t deadline_ns)
{
	uint64_t probe;
	int ret;

	ret = take_table(link, sock, deadline_ns);
	if (!ret)
		ret = take_use(link, sock, &probe, deadline_ns);
	if (!ret)
		ret = prove(link, sock, probe, deadline_ns);
	return ret ? ret : ask_all(link, sock, deadline_ns);
}
