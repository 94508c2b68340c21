// SPDX-License-Identifier: MIT
/* What other members say. A message that is malformed, or makes no sense, ends the connection. Loop thread.
 */
#include "p2p/p2p.h"

#include <stdlib.h>
#include <string.h>

/* Questions of those who do not take part (yet). */

static struct mci_object *asked_for(struct mc_p2p *store, const struct mci_p2p_ask *ask)
{
	struct mci_object *object;

	if (ask->by_root) {
		object = mci_object_by_root(store, ask->root);
		return object && (!ask->name[0] || !strcmp(object->name, ask->name)) ? object : NULL;
	}
	object = mci_object_by_name(store, ask->name);
	return object && object->state == MCI_OBJECT_LIVE ? object : NULL;
}

static int on_ask(struct mci_link *link, const struct mci_frame *frame)
{
	struct mci_p2p_record record;
	struct mci_p2p_ask ask;
	struct mci_object *object;
	uint32_t length;
	uint8_t *body;

	if (mci_p2p_get_ask(frame->body, frame->length, &ask))
		return -EPROTO;
	object = asked_for(link->store, &ask);
	if (!object)
		return mci_link_error(link, frame->id, -ENOENT, "this member does not have that object");
	record = (struct mci_p2p_record){.manifest = object->manifest,
					 .max_shard_size = object->max_shard_size};
	body = mci_p2p_put_record(&record, &length);
	mci_link_say(link, MCI_P2P_RECORD, frame->id, body, length);
	return 0;
}

static int on_chunk(struct mci_link *link, const struct mci_frame *frame)
{
	uint8_t root[MCI_P2P_HASH], *body;
	struct mci_object *object;
	uint32_t index, text_length, length;
	const char *text;
	char *chunk;

	if (mci_p2p_get_chunk(frame->body, frame->length, root, &index, &text, &text_length) || text_length)
		return -EPROTO;
	object = mci_object_by_root(link->store, root);
	if (!object || index >= mci_manifest_chunks(object->manifest))
		return mci_link_error(link, frame->id, -ENOENT, "this member does not have that object");
	chunk = mci_manifest_chunk(object->manifest, index);
	body = chunk ? mci_p2p_put_chunk(root, index, chunk, &length) : NULL;
	free(chunk);
	mci_link_say(link, MCI_P2P_CHUNK, frame->id, body, body ? length : 0);
	return 0;
}

static int on_error(struct mci_link *link, const struct mci_frame *frame)
{
	struct mci_p2p_error error;
	char plain[MCI_P2P_SENTENCE];

	if (mci_p2p_get_error(frame->body, frame->length, &error))
		return -EPROTO;
	mci_link_close(link, mci_plain_text(error.sentence, plain, sizeof(plain)));
	return 0;
}

static int on_join(struct mci_link *link, const struct mci_frame *frame)
{
	struct mci_p2p_join join;

	if (mci_p2p_get_join(frame->body, frame->length, &join))
		return -EPROTO;
	return mci_link_join(link, &join);
}

/* About the object that both sides joined. */

static int on_map(struct mci_link *link, const struct mci_frame *frame)
{
	struct mci_object *object = link->object;
	uint32_t pieces = object->manifest->piece_count, i;
	struct mci_p2p_list map;

	if (mci_p2p_get_map(frame->body, frame->length, &map) || map.first >= pieces)
		return -EPROTO;
	for (i = 0; i < map.count * 8; i++) {
		if (!(map.p[i / 8] & 1u << (i % 8)))
			continue;
		if (i >= pieces - map.first)
			return -EPROTO;
		mci_swarm_peer_has(object->swarm, link->swarm, map.first + i);
	}
	return 0;
}

static int on_list(struct mci_link *link, const struct mci_frame *frame)
{
	struct mci_object *object = link->object;
	struct mci_p2p_list list;
	uint32_t i;

	if (mci_p2p_get_list(frame->body, frame->length, &list))
		return -EPROTO;
	for (i = 0; i < list.count; i++)
		if (mci_p2p_list_at(&list, i) >= object->manifest->piece_count)
			return -EPROTO;
	for (i = 0; i < list.count; i++) {
		uint32_t piece = mci_p2p_list_at(&list, i);

		if (frame->type == MCI_P2P_HAVE)
			mci_swarm_peer_has(object->swarm, link->swarm, piece);
		else
			mci_swarm_peer_fetches(object->swarm, link->swarm, piece,
					       frame->type == MCI_P2P_FETCHES);
	}
	return 0;
}

static int on_number(struct mci_link *link, const struct mci_frame *frame)
{
	struct mci_swarm *swarm = link->object->swarm;
	uint8_t root[MCI_P2P_HASH];
	uint32_t number;
	int ret;

	if (mci_p2p_get_number(frame->body, frame->length, root, &number))
		return -EPROTO;
	switch (frame->type) {
	case MCI_P2P_INTEREST:
		mci_swarm_peer_interested(swarm, link->swarm, number);
		return number > 1 ? -EPROTO : 0;
	case MCI_P2P_GRANT:
		if (number > MCI_P2P_SLOTS_MAX)
			return -EPROTO;
		mci_swarm_peer_granted(swarm, link->swarm, number);
		return 0;
	case MCI_P2P_RETURN:
		ret = mci_swarm_peer_returned(swarm, link->swarm, number);
		if (!ret && number)
			mci_link_gave_back(link);
		return ret;
	default:
		mci_swarm_peer_leaving(swarm, link->swarm);
		return 0;
	}
}

static int meet(const char *name, void *arg)
{
	struct mci_link *link = arg;

	mci_member_add(link->object, name);
	return 0;
}

static int on_members(struct mci_link *link, const struct mci_frame *frame)
{
	uint8_t root[MCI_P2P_HASH];

	if (link->store->metadata) /* that one tells; nobody sends us to names of his choice */
		return 0;
	if (mci_p2p_get_members(frame->body, frame->length, root, meet, link))
		return -EPROTO;
	mci_member_dial(link->object);
	return 0;
}

static bool same_object(const struct mci_link *link, const struct mci_frame *frame)
{
	return frame->length >= MCI_P2P_HASH &&
	       !memcmp(frame->body, link->object->manifest->root, MCI_P2P_HASH);
}

static int about_object(struct mci_link *link, const struct mci_frame *frame)
{
	int ret;

	if (!link->joined || !same_object(link, frame))
		return -EPROTO;
	switch (frame->type) {
	case MCI_P2P_MAP:
		ret = on_map(link, frame);
		break;
	case MCI_P2P_HAVE:
	case MCI_P2P_FETCHES:
	case MCI_P2P_CEASES:
		ret = on_list(link, frame);
		break;
	case MCI_P2P_INTEREST:
	case MCI_P2P_GRANT:
	case MCI_P2P_RETURN:
	case MCI_P2P_LEAVE:
		ret = on_number(link, frame);
		break;
	case MCI_P2P_MEMBERS:
		ret = on_members(link, frame);
		break;
	default:
		return -EPROTO;
	}
	mci_fetch_kick(link->object);
	return ret;
}

void mci_message(struct mci_link *link, const struct mci_frame *frame)
{
	int ret;

	switch (frame->type) {
	case MCI_P2P_ASK:
		ret = on_ask(link, frame);
		break;
	case MCI_P2P_CHUNK:
		ret = on_chunk(link, frame);
		break;
	case MCI_P2P_JOIN:
		ret = on_join(link, frame);
		break;
	case MCI_P2P_ERROR:
		ret = on_error(link, frame);
		break;
	default:
		ret = about_object(link, frame);
	}
	if (ret == -EPROTO) {
		mci_warn("'%s' speaks no swarm protocol of ours (message %u); it is left", link->peer.name,
			 frame->type);
		mci_link_close(link, "it does not keep to the protocol");
	}
}
