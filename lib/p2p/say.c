// SPDX-License-Identifier: MIT
/* What we say to other members. Small news waits a moment for more, so that one message tells many. Loop
 * thread. */
#include "p2p/p2p.h"

#include <stdlib.h>
#include <string.h>

#define SAY_MS 10
#define SAY_MAX 512u
#define CEASES (1u << 31)

int mci_link_say(struct mci_link *link, enum mci_p2p_type type, uint32_t id, uint8_t *body, uint32_t length)
{
	int ret = body ? 0 : -ENOMEM;

	if (!ret && (link->ending || !link->conn))
		ret = -EPIPE;
	if (!ret)
		ret = mci_conn_send(link->conn, (uint16_t)type, id, body, length, -1);
	free(body);
	/* One that does not take what it is told is no use, and must not cost the others anything. */
	if (ret && ret != -EPIPE)
		mci_link_close(link,
			       ret == -ENOMEM ? "no memory for a message" : "it does not take our messages");
	return ret;
}

int mci_link_error(struct mci_link *link, uint32_t id, int error, const char *sentence)
{
	uint32_t length;
	uint8_t *body = mci_p2p_put_error(error, sentence, &length);

	return mci_link_say(link, MCI_P2P_ERROR, id, body, length);
}

void mci_link_number(struct mci_link *link, enum mci_p2p_type type, uint32_t number)
{
	uint32_t length;
	uint8_t *body;

	if (!link->joined || link->ending)
		return;
	body = mci_p2p_put_number(link->object->manifest->root, number, &length);
	mci_link_say(link, type, 0, body, length);
}

int mci_link_say_join(struct mci_link *link)
{
	struct mci_object *object = link->object;
	uint32_t length;
	uint8_t *body = mci_p2p_put_join(object->manifest->root, object->seed ? MCI_P2P_JOIN_SEED : 0,
					 mc_engine_name(link->store->engine), object->place.id,
					 object->place.offset, object->place.count, &length);

	return mci_link_say(link, MCI_P2P_JOIN, 0, body, length);
}

void mci_link_say_map(struct mci_link *link)
{
	struct mci_object *object = link->object;
	uint32_t pieces = object->manifest->piece_count, first, i, length;
	bool forge = link->store->hooks.forge_map;
	uint8_t bits[MCI_P2P_MAP_BYTES], *body;

	if (!mci_swarm_held(object->swarm) && !forge)
		return;
	for (first = 0; first < pieces; first += 8 * MCI_P2P_MAP_BYTES) {
		uint32_t n = pieces - first < 8 * MCI_P2P_MAP_BYTES ? pieces - first : 8 * MCI_P2P_MAP_BYTES;

		memset(bits, 0, sizeof(bits));
		for (i = 0; i < n; i++)
			if (forge || mci_swarm_holds(object->swarm, first + i))
				bits[i / 8] |= (uint8_t)(1u << (i % 8));
		body = mci_p2p_put_map(object->manifest->root, first, bits, (n + 7) / 8, &length);
		if (mci_link_say(link, MCI_P2P_MAP, 0, body, length))
			return;
	}
}

/* Without a metadata service members tell each other of members. */
void mci_link_say_members(struct mci_link *link)
{
	struct mci_object *object = link->object;
	const char *names[MCI_P2P_MEMBERS_MAX];
	const struct mci_link *other;
	uint32_t count = 0, length;
	uint8_t *body;

	if (link->store->metadata)
		return;
	TAILQ_FOREACH(other, &object->links, next)
		if (other != link && other->joined && !other->ending && count < MCI_P2P_MEMBERS_MAX)
			names[count++] = other->peer.name;
	if (!count)
		return;
	body = mci_p2p_put_members(object->manifest->root, names, count, &length);
	mci_link_say(link, MCI_P2P_MEMBERS, 0, body, length);
}

static int list_add(struct mci_piece_list *list, uint32_t value)
{
	uint32_t room = list->room ? list->room * 2 : 64, *bigger;

	if (list->count == list->room) {
		bigger = realloc(list->piece, room * sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		list->piece = bigger;
		list->room = room;
	}
	list->piece[list->count++] = value;
	return 0;
}

static void say_list(struct mci_link *link, enum mci_p2p_type type, const uint32_t *pieces, uint32_t count)
{
	uint32_t length;
	uint8_t *body;

	if (!count)
		return;
	body = mci_p2p_put_list(link->object->manifest->root, pieces, count, &length);
	mci_link_say(link, type, 0, body, length);
}

/* Changes go out in order, as runs of one kind. */
static void say_changes(struct mci_link *link)
{
	struct mci_piece_list *list = &link->changes;
	uint32_t i, from = 0;

	for (i = 0; i < list->count; i++) {
		uint32_t kind = list->piece[i] & CEASES;

		list->piece[i] &= ~CEASES;
		if (i + 1 == list->count || (list->piece[i + 1] & CEASES) != kind) {
			say_list(link, kind ? MCI_P2P_CEASES : MCI_P2P_FETCHES, list->piece + from,
				 i + 1 - from);
			from = i + 1;
		}
	}
	list->count = 0;
}

static void say_all(struct mci_link *link)
{
	say_list(link, MCI_P2P_HAVE, link->have.piece, link->have.count);
	link->have.count = 0;
	say_changes(link);
}

void mci_link_flush(struct mci_timer *timer)
{
	struct mci_object *object = mci_of(timer, struct mci_object, say);
	struct mci_link *link;

	TAILQ_FOREACH(link, &object->links, next)
		if (link->joined && !link->ending)
			say_all(link);
}

static void add(struct mci_link *link, struct mci_piece_list *list, uint32_t value)
{
	struct mci_object *object = link->object;

	if (!link->joined || link->ending)
		return;
	if (list_add(list, value)) {
		mci_link_close(link, "no memory for a message");
		return;
	}
	if (list->count >= SAY_MAX)
		say_all(link);
	else if (!object->say.armed)
		mci_loop_timer_set(link->store->loop, &object->say, mci_now_ns() + SAY_MS * MCI_NS_PER_MS);
}

void mci_link_have(struct mci_object *object, uint32_t piece)
{
	struct mci_link *link;

	TAILQ_FOREACH(link, &object->links, next)
		add(link, &link->have, piece);
}

void mci_link_fetches(struct mci_link *link, uint32_t piece, bool on)
{
	struct mci_piece_list *list = &link->changes;

	/* Begun and ceased before anybody was told. */
	if (!on && list->count && list->piece[list->count - 1] == piece)
		list->count--;
	else
		add(link, list, on ? piece : piece | CEASES);
}
