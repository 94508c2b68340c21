// SPDX-License-Identifier: MIT
/*
 * The initiator's table of peers: one per target, shared by all handles that lead there, so that one session
 * orders what they write (contracts B2). The session's name derives from a secret of this engine and the target, so
 * that who opens a target again comes as the same session with a higher incarnation: a write that timed out may
 * still sit in the target's socket when the last handle is closed.
 * Lock order: table_lock, then peer->lock (two of them only here).
 */
#include <openssl/hmac.h>
#include <stdlib.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "transport/tcp/peer.h"

_Atomic bool mci_tcp_sharing_off;

void mci_tcp_peers_open(struct mci_tcp *tcp)
{
	mci_uuid_new(&tcp->secret);
	pthread_mutex_init(&tcp->table_lock, NULL);
	pthread_mutex_init(&tcp->fence_lock, NULL);
	pthread_cond_init(&tcp->fence_done, NULL);
}

void mci_tcp_peers_close(struct mci_tcp *tcp)
{
	pthread_cond_destroy(&tcp->fence_done);
	pthread_mutex_destroy(&tcp->fence_lock);
	pthread_mutex_destroy(&tcp->table_lock);
}

static void name_session(struct mci_tcp_peer *peer)
{
	const struct mc_uuid *secret = &peer->tcp->secret;
	uint8_t mac[EVP_MAX_MD_SIZE];

	if (atomic_load(&mci_tcp_sharing_off) ||
	    !HMAC(EVP_sha256(), secret->b, sizeof(secret->b), peer->uuid.b, sizeof(peer->uuid.b), mac, NULL))
		mci_random(mac, sizeof(mac));
	memcpy(peer->session.b, mac, sizeof(peer->session.b));
}

/* table_lock held */
static struct mci_tcp_peer *find(struct mci_tcp *tcp, const struct mc_uuid *uuid)
{
	struct mci_tcp_peer *peer = tcp->peers;

	if (atomic_load(&mci_tcp_sharing_off))
		return NULL;
	while (peer && !mci_uuid_equal(&peer->uuid, uuid))
		peer = peer->next;
	return peer;
}

int mci_tcp_peer_use(struct mci_tcp *tcp, const struct mci_peer_info *info, struct mci_tcp_peer **out)
{
	struct mci_tcp_peer *peer;
	int ret = 0;

	pthread_mutex_lock(&tcp->table_lock);
	peer = find(tcp, &info->uuid);
	if (!peer) {
		ret = mci_tcp_peer_new(tcp, info, &peer);
		if (ret)
			goto out_unlock;
		name_session(peer);
		peer->next = tcp->peers;
		tcp->peers = peer;
	}
	peer->users++;
	*out = peer;
out_unlock:
	pthread_mutex_unlock(&tcp->table_lock);
	return ret;
}

void mci_tcp_peer_unuse(struct mci_tcp_peer *peer)
{
	struct mci_tcp_peer **link;
	struct mci_tcp *tcp = peer->tcp;

	pthread_mutex_lock(&tcp->table_lock);
	if (--peer->users) {
		pthread_mutex_unlock(&tcp->table_lock);
		return;
	}
	for (link = &tcp->peers; *link != peer; link = &(*link)->next)
		;
	*link = peer->next;
	pthread_mutex_unlock(&tcp->table_lock);
	mci_tcp_peer_end(peer);
}

struct mci_tcp_peer *mci_tcp_handle_lock(struct mci_tcp_handle *handle)
{
	struct mci_tcp_peer *peer;

	for (;;) {
		peer = atomic_load(&handle->peer);
		pthread_mutex_lock(&peer->lock);
		if (peer == atomic_load(&handle->peer))
			return peer;
		pthread_mutex_unlock(&peer->lock);
	}
}

/* peer->lock held */
void mci_tcp_handle_attach(struct mci_tcp_handle *handle, struct mci_tcp_peer *peer)
{
	atomic_store(&handle->peer, peer);
	handle->next = peer->handles;
	peer->handles = handle;
}

/* peer->lock held */
void mci_tcp_handle_detach(struct mci_tcp_handle *handle, struct mci_tcp_peer *peer)
{
	struct mci_tcp_handle **link;

	for (link = &peer->handles; *link != handle; link = &(*link)->next)
		;
	*link = handle->next;
}

/* Both locked; none of them is in flight. Returns the soonest deadline. */
static uint64_t move_requests(const struct mci_tcp_handle *handle, struct mci_tcp_peer *from, struct mci_tcp_peer *to)
{
	uint64_t soonest = UINT64_MAX;
	struct mci_request *r, *next;
	int i;

	for (i = MCI_TCP_HIGH; i < MCI_TCP_FLIGHT; i++) {
		for (r = from->list[i].first; r; r = next) {
			next = r->next;
			if (r->peer != (struct mci_peer *)handle)
				continue;
			mci_tcp_request_unlink(from, r);
			mci_tcp_request_link(to, r, (enum mci_tcp_list)i, false);
			r->tag = 0; /* a notify gets its number in the session that delivers it */
			if (r->deadline_ns < soonest)
				soonest = r->deadline_ns;
		}
	}
	return soonest;
}

void mci_tcp_handle_move(struct mci_tcp_handle *handle, struct mci_tcp_peer *from, struct mci_tcp_peer *to)
{
	uint64_t soonest;

	pthread_mutex_lock(&from->tcp->table_lock);
	pthread_mutex_lock(&from->lock);
	pthread_mutex_lock(&to->lock);
	mci_tcp_handle_detach(handle, from);
	mci_tcp_handle_attach(handle, to);
	handle->refreshing = false;
	pthread_cond_broadcast(&from->changed);
	soonest = move_requests(handle, from, to);
	pthread_mutex_unlock(&from->lock);
	pthread_mutex_unlock(&from->tcp->table_lock);
	mci_tcp_peer_go(to, soonest, 0, NULL);
}
