// SPDX-License-Identifier: MIT
/* Record and hashes without a metadata service: the peers that the user named are asked, one after the other.
 * Blocks. */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MS 5000

/* One question, its answer. -ENOENT: the peer says no (why in the thread's sentence). */
static int ask(struct mci_sock *sock, enum mci_p2p_type type, uint8_t *body, uint32_t length, void **answer,
	       uint32_t *answer_length)
{
	uint64_t deadline = mci_now_ns() + ANSWER_MS * MCI_NS_PER_MS;
	enum mci_p2p_type wanted = type == MCI_P2P_ASK ? MCI_P2P_RECORD : type;
	struct mci_p2p_error error;
	char plain[MCI_P2P_SENTENCE];
	uint16_t got;
	uint32_t id;
	int ret;

	if (!body)
		return mci_fail(-ENOMEM, "no memory for a question");
	ret = mci_frame_send(sock, (uint16_t)type, 1, body, length, deadline);
	free(body);
	if (!ret)
		ret = mci_frame_recv(sock, MCI_P2P_FRAME_MAX, &got, &id, answer, answer_length, NULL,
				     deadline);
	if (ret)
		return mci_fail(ret, "it does not answer: %s", strerror(-ret));
	if (got == wanted && id == 1)
		return 0;
	ret = -EPROTO;
	if (got == MCI_P2P_ERROR && !mci_p2p_get_error(*answer, *answer_length, &error)) {
		ret = error.error < 0 ? error.error : -EPROTO;
		mci_fail(ret, "%s", mci_plain_text(error.sentence, plain, sizeof(plain)));
	} else {
		mci_fail(ret, "it answers with message %u, which makes no sense", got);
	}
	free(*answer);
	return ret;
}

static int ask_record(struct mci_sock *sock, const char *name, const uint8_t *root, struct mci_found *found)
{
	struct mci_p2p_ask question = {.by_root = root != NULL};
	struct mci_p2p_record record;
	uint32_t length, answer_length;
	uint8_t *body;
	void *answer;
	int ret;

	snprintf(question.name, sizeof(question.name), "%s", name);
	if (root)
		memcpy(question.root, root, MCI_P2P_HASH);
	body = mci_p2p_put_ask(&question, &length);
	ret = ask(sock, MCI_P2P_ASK, body, length, &answer, &answer_length);
	if (ret)
		return ret;
	ret = mci_p2p_get_record(answer, answer_length, &record);
	free(answer);
	if (ret)
		return mci_fail(ret, "its record is malformed");
	found->manifest = record.manifest;
	found->max_shard_size = record.max_shard_size;
	if (root && memcmp(root, record.manifest->root, MCI_P2P_HASH))
		return mci_fail(-EBADMSG, "it answers with another root than the one asked for");
	return 0;
}

static int ask_hashes(const struct mc_p2p_task *task, struct mci_sock *sock, struct mci_manifest *manifest)
{
	uint32_t i, count = mci_manifest_chunks(manifest), length, answer_length, index, text_length;
	uint8_t wanted[MCI_P2P_HASH], root[MCI_P2P_HASH], *body;
	const char *text;
	void *answer;
	int ret;

	memcpy(wanted, manifest->root, sizeof(wanted));
	for (i = 0; i < count; i++) {
		ret = mci_task_over(task);
		if (ret)
			return ret;
		body = mci_p2p_put_chunk(wanted, i, "", &length);
		ret = ask(sock, MCI_P2P_CHUNK, body, length, &answer, &answer_length);
		if (ret)
			return ret;
		ret = mci_p2p_get_chunk(answer, answer_length, root, &index, &text, &text_length);
		if (!ret && (index != i || memcmp(root, wanted, sizeof(root))))
			ret = mci_fail(-EBADMSG, "it answers with other hashes than those asked for");
		if (!ret)
			ret = mci_manifest_take_chunk(manifest, i, text, text_length);
		free(answer);
		if (ret)
			return ret;
	}
	return mci_manifest_check(manifest, wanted);
}

static int ask_one(const struct mc_p2p_task *task, const char *peer, struct mci_found *found)
{
	struct mci_hello hello;
	struct mci_sock sock;
	int ret;

	ret = mci_engine_dial(task->store->engine, peer, MCI_ROLE_P2P,
			      mci_now_ns() + MCI_P2P_DIAL_MS * MCI_NS_PER_MS, &sock, &hello);
	if (ret)
		return ret;
	ret = ask_record(&sock, task->name, task->by_root ? task->root : NULL, found);
	if (!ret)
		ret = ask_hashes(task, &sock, found->manifest);
	mci_sock_close(&sock);
	if (ret) {
		mci_manifest_free(found->manifest);
		found->manifest = NULL;
	}
	return ret;
}

int mci_ask_read(const struct mc_p2p_task *task, struct mci_found *found)
{
	char why[MCI_P2P_SENTENCE] = "";
	struct mc_p2p *store = task->store;
	unsigned int i, asked = 0;
	int ret = 0, over;

	memset(found, 0, sizeof(*found));
	if (!task->by_root && mci_engine_trust(store->engine) == MCI_AUTH_NONE)
		return mci_fail(-EPERM,
				"with --insecure and without a metadata service anybody could answer for "
				"'%s': ask for "
				"name@root, as the one who registered it was told, or give all members a key",
				task->name);
	for (i = 0; i < store->peer_count; i++) {
		if (!strcmp(store->peers[i], mc_engine_name(store->engine)))
			continue;
		asked++;
		ret = ask_one(task, store->peers[i], found);
		if (!ret)
			return 0;
		snprintf(why, sizeof(why), "%s: %.400s", store->peers[i], mc_errmsg());
		over = mci_task_over(task);
		if (over)
			return over;
	}
	if (!asked)
		return mci_fail(
			-ENOENT,
			"there is no metadata service, and no peer to ask for object '%s'; give peers "
			"(mc_p2p_attr.peers, --peers=host:port,...)",
			task->name);
	return mci_fail(ret, "none of the %u peers has object '%s'; the last one, %s", asked, task->name, why);
}
