// SPDX-License-Identifier: MIT
/*
 * The notifies of a batch: encoded and routed before anything flies, with the flushes that have to come before
 * them. They are sent by batch.c, once all requests are done.
 */
#include "engine/batch.h"

#include <stdlib.h>

#include "core/bytes.h"

void mci_batch_notify_free(struct mc_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->notify_count; i++)
		mci_segment_unref(batch->notify[i].segment);
	free(batch->notify);
	free(batch->notify_body);
	free(batch->flush);
	batch->notify = batch->flush = NULL;
	batch->notify_body = NULL;
	batch->notify_count = batch->flush_count = 0;
}

static int add_notify(struct mc_batch *batch, struct mc_segment *segment, uint32_t body_length)
{
	struct mci_entry *entry = &batch->notify[batch->notify_count];
	struct mci_way *way;
	unsigned int i;
	int ret;

	ret = mci_segment_notify_way(segment, &way);
	if (ret)
		return ret;
	mci_segment_ref(segment);
	*entry = (struct mci_entry){.batch = batch, .segment = segment, .way = way};
	entry->request.op = MCI_OP_NOTIFY;
	entry->request.local = batch->notify_body;
	entry->request.length = body_length;
	batch->notify_count++;
	for (i = 0; i < segment->way_count; i++) {
		if (!segment->way[i].ops->flushes)
			continue;
		entry = &batch->flush[batch->flush_count++];
		*entry = (struct mci_entry){.batch = batch, .segment = segment, .way = &segment->way[i]};
		entry->request.op = MCI_OP_FLUSH;
	}
	return 0;
}

/* Encode the body and find the way of each distinct segment, before anything flies. */
int mci_batch_notify_prepare(struct mc_batch *batch, const struct mc_submit_attr *attr, struct mc_segment *only)
{
	size_t name_length = strlen(attr->notify_name);
	size_t length = 2 + name_length + 4 + attr->notify_length;
	struct mci_writer w;
	unsigned int i, j;
	int ret;

	if (name_length > MC_NOTIFY_NAME_MAX || attr->notify_length > MC_NOTIFY_MESSAGE_MAX)
		return mci_fail(-EMSGSIZE,
				"a notify has a name of at most %u and a message of at most %u bytes; these "
				"are %zu and %u",
				MC_NOTIFY_NAME_MAX, MC_NOTIFY_MESSAGE_MAX, name_length, attr->notify_length);
	batch->notify_body = malloc(length);
	batch->notify = calloc(only ? 1 : batch->count, sizeof(*batch->notify));
	batch->flush = calloc((only ? 1 : batch->count) * MCI_TRANSPORT_COUNT, sizeof(*batch->flush));
	if (!batch->notify_body || !batch->notify || !batch->flush) {
		mci_batch_notify_free(batch);
		return mci_fail(-ENOMEM, "no memory for a notify");
	}
	mci_writer_init(&w, batch->notify_body, length);
	mci_write16(&w, (uint16_t)name_length);
	mci_write_bytes(&w, attr->notify_name, name_length);
	mci_write32(&w, attr->notify_length);
	mci_write_bytes(&w, attr->notify_message, attr->notify_length);
	for (i = 0; i < (only ? 1 : batch->count); i++) {
		struct mc_segment *segment = only ? only : batch->entry[i].segment;

		for (j = 0; j < batch->notify_count && batch->notify[j].segment != segment; j++)
			;
		if (j < batch->notify_count)
			continue;
		ret = add_notify(batch, segment, (uint32_t)length);
		if (ret) {
			mci_batch_notify_free(batch);
			return ret;
		}
	}
	return 0;
}
