// SPDX-License-Identifier: MIT
/*
 * Names of sessions. A write that timed out may still sit in the target's socket when its segment handle
 * is closed: whoever opens the target next must come as the same session with a higher incarnation, so
 * that the target lets go of the old connections first (contracts B1, B2). So the name is not random per
 * handle: it derives from a secret of this engine, the target, and the handle's place among those open to it.
 */
#include <openssl/hmac.h>

#include "core/bytes.h"
#include "transport/tcp/peer.h"

void mci_tcp_names_open(struct mci_tcp *tcp)
{
	mci_uuid_new(&tcp->secret);
	pthread_mutex_init(&tcp->names_lock, NULL);
}

void mci_tcp_names_close(struct mci_tcp *tcp) { pthread_mutex_destroy(&tcp->names_lock); }

static bool place_is_taken(const struct mci_tcp *tcp, const struct mc_uuid *target, uint32_t place)
{
	const struct mci_tcp_peer *peer;

	for (peer = tcp->peers; peer; peer = peer->next)
		if (peer->place == place && mci_uuid_equal(&peer->target, target))
			return true;
	return false;
}

void mci_tcp_name_take(struct mci_tcp_peer *peer, const struct mc_uuid *target)
{
	struct mci_tcp *tcp = peer->tcp;
	uint8_t text[sizeof(target->b) + 4], mac[EVP_MAX_MD_SIZE];

	peer->target = *target;
	pthread_mutex_lock(&tcp->names_lock);
	for (peer->place = 0; place_is_taken(tcp, target, peer->place); peer->place++)
		;
	peer->next = tcp->peers;
	tcp->peers = peer;
	pthread_mutex_unlock(&tcp->names_lock);
	memcpy(text, target->b, sizeof(target->b));
	mci_put32(text + sizeof(target->b), peer->place);
	if (!HMAC(EVP_sha256(), tcp->secret.b, sizeof(tcp->secret.b), text, sizeof(text), mac, NULL))
		mci_random(mac, sizeof(mac));
	memcpy(peer->session.b, mac, sizeof(peer->session.b));
}

void mci_tcp_name_give_back(struct mci_tcp_peer *peer)
{
	struct mci_tcp_peer **link;

	pthread_mutex_lock(&peer->tcp->names_lock);
	for (link = &peer->tcp->peers; *link && *link != peer; link = &(*link)->next)
		;
	if (*link)
		*link = peer->next;
	pthread_mutex_unlock(&peer->tcp->names_lock);
}
