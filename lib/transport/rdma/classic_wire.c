// SPDX-License-Identifier: MIT
/* Codec of the classic RDMA records; see classic_wire.h. */
#include "transport/rdma/classic_wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/errors.h"

#define QPN_MAX 0xffffff

/* ---- texts ---- */

static int bad(const char *what) { return mci_fail(-EBADMSG, "malformed classic RDMA record: %s", what); }

/* A text without control characters, shorter than @size. Missing: "" if @optional. */
static int get_text(const json_t *root, const char *key, bool optional, char *out, size_t size)
{
	const json_t *value = json_object_get(root, key);
	const char *text = json_string_value(value), *p;

	if (!value && optional)
		text = "";
	if (!text || strlen(text) >= size || (value && json_string_length(value) != strlen(text)))
		return bad(key);
	for (p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return bad(key);
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

bool mci_rdma_path_split(const char *path, char server[MCI_NAME_MAX + 1], char nic[MCI_RDMA_NIC_MAX])
{
	const char *at = strchr(path, '@');

	if (!at || at == path || at - path > MCI_NAME_MAX || !at[1] || strlen(at + 1) >= MCI_RDMA_NIC_MAX)
		return false;
	snprintf(server, MCI_NAME_MAX + 1, "%.*s", (int)(at - path), path);
	snprintf(nic, MCI_RDMA_NIC_MAX, "%s", at + 1);
	return true;
}

void mci_rdma_gid_text(const uint8_t gid[16], char text[MCI_RDMA_GID_TEXT])
{
	unsigned int i;

	for (i = 0; i < 16; i++)
		sprintf(text + 3 * i, i < 15 ? "%02x:" : "%02x", gid[i]);
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int mci_rdma_gid_parse(const char *text, uint8_t gid[16])
{
	unsigned int i;

	if (strlen(text) != MCI_RDMA_GID_TEXT - 1)
		return bad("a GID");
	for (i = 0; i < 16; i++) {
		int high = hex(text[3 * i]), low = hex(text[3 * i + 1]);

		if (high < 0 || low < 0 || (i < 15 && text[3 * i + 2] != ':'))
			return bad("a GID");
		gid[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

static int get_lid(const json_t *root, const char *key, uint16_t *lid)
{
	const json_t *value = json_object_get(root, key);

	*lid = 0;
	if (!value)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > UINT16_MAX)
		return bad(key);
	*lid = (uint16_t)json_integer_value(value);
	return 0;
}

/* ---- records ---- */

static int get_queue_pairs(const json_t *list, struct mci_rdma_record *record)
{
	const json_t *one;
	size_t i;

	if (list && !json_is_array(list))
		return bad("qp_num");
	json_array_foreach(list, i, one)
	{
		if (!json_is_integer(one) || json_integer_value(one) < 0 || json_integer_value(one) > QPN_MAX)
			return bad("qp_num");
		if (i < MCI_RDMA_QPS_MAX)
			record->qpn[i] = (uint32_t)json_integer_value(one);
	}
	record->count = (unsigned int)json_array_size(list);
	return 0;
}

static int decode(const json_t *root, struct mci_rdma_record *record)
{
	const json_t *ack = json_object_get(root, "ready_ack");
	char gid[MCI_RDMA_GID_TEXT];
	int ret;

	memset(record, 0, sizeof(*record));
	if (!json_is_object(root))
		return bad("no object");
	ret = get_text(root, "local_nic_path", false, record->local, sizeof(record->local));
	ret = ret ?: get_text(root, "peer_nic_path", false, record->peer, sizeof(record->peer));
	ret = ret ?: get_text(root, "reply_msg", true, record->reply, sizeof(record->reply));
	ret = ret ?: get_text(root, "local_gid", true, gid, sizeof(gid));
	ret = ret ?: get_lid(root, "local_lid", &record->lid);
	ret = ret ?: get_queue_pairs(json_object_get(root, "qp_num"), record);
	if (!ret && gid[0]) {
		ret = mci_rdma_gid_parse(gid, record->gid);
		record->has_gid = !ret;
	}
	if (!ret && ack && !json_is_boolean(ack))
		ret = bad("ready_ack");
	record->has_ack = ack != NULL;
	record->ack = json_is_true(ack);
	return ret;
}

int mci_rdma_record_decode(const char *json, size_t length, struct mci_rdma_record *record)
{
	json_t *root = json_loadb(json, length, 0, NULL);
	int ret = root ? decode(root, record) : bad("no JSON");

	json_decref(root);
	return ret;
}

char *mci_rdma_record_encode(const struct mci_rdma_record *record)
{
	char gid[MCI_RDMA_GID_TEXT] = "", *text, *line = NULL;
	json_t *root, *list = json_array();
	unsigned int i;

	if (record->has_gid)
		mci_rdma_gid_text(record->gid, gid);
	for (i = 0; i < record->count; i++)
		json_array_append_new(list, json_integer(record->qpn[i]));
	root = json_pack("{s:s, s:i, s:s, s:s, s:s, s:o, s:s}", "local_gid", gid, "local_lid", record->lid,
			 "local_nic_path", record->local, "payload", "", "peer_nic_path", record->peer, "qp_num", list,
			 "reply_msg", record->reply);
	if (root && record->has_ack)
		json_object_set_new(root, "ready_ack", json_boolean(record->ack));
	text = root ? json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	json_decref(root);
	if (text)
		line = malloc(strlen(text) + 2);
	if (line)
		sprintf(line, "%s\n", text);
	free(text);
	return line;
}

/* ---- descriptors ---- */

const char *mci_rdma_classic_server(const json_t *descriptor)
{
	const char *name = json_string_value(json_object_get(descriptor, "rdma_server_name"));

	if (!name || !*name)
		name = json_string_value(json_object_get(descriptor, "name"));
	return name && *name && strlen(name) <= MCI_NAME_MAX ? name : NULL;
}

int mci_rdma_classic_devices(const json_t *descriptor, struct mci_rdma_classic_device device[MCI_RDMA_DEVICES_MAX],
			     uint8_t *count)
{
	const json_t *list = json_object_get(descriptor, "devices"), *one;
	char gid[MCI_RDMA_GID_TEXT];
	size_t i;
	int ret;

	if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > MCI_RDMA_DEVICES_MAX)
		return bad("devices");
	json_array_foreach(list, i, one)
	{
		ret = get_text(one, "name", false, device[i].name, sizeof(device[i].name));
		ret = ret ?: get_text(one, "gid", false, gid, sizeof(gid));
		ret = ret ?: get_lid(one, "lid", &device[i].lid);
		ret = ret ?: mci_rdma_gid_parse(gid, device[i].gid);
		if (ret)
			return ret;
		if (!device[i].name[0])
			return bad("a device without a name");
	}
	*count = (uint8_t)json_array_size(list);
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct mci_rdma_buffer *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

int mci_rdma_buffers_load(const json_t *descriptor, struct mci_rdma_buffers *buffers)
{
	const json_t *list = json_object_get(descriptor, "buffers"), *one;
	size_t i;

	buffers->count = 0;
	buffers->list = calloc(json_array_size(list) + 1, sizeof(*buffers->list));
	if (!buffers->list)
		return mci_fail(-ENOMEM, "no memory for the buffers of a segment");
	json_array_foreach(list, i, one)
	{
		json_int_t addr = json_integer_value(json_object_get(one, "addr"));
		json_int_t length = json_integer_value(json_object_get(one, "length"));

		if (addr > 0 && length > 0 && length <= INT64_MAX - addr)
			buffers->list[buffers->count++] = (struct mci_rdma_buffer){
				(uint64_t)addr, (uint64_t)length, json_object_get(one, "rkey")};
	}
	qsort(buffers->list, buffers->count, sizeof(*buffers->list), by_address);
	return 0;
}

void mci_rdma_buffers_free(struct mci_rdma_buffers *buffers) { free(buffers->list); }

int mci_rdma_buffers_find(const struct mci_rdma_buffers *buffers, uint64_t base, uint64_t length,
			  unsigned int *first)
{
	unsigned int low = 0, high = buffers->count, n = 0;
	uint64_t at = 0;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;

		if (buffers->list[middle].addr < base)
			low = middle + 1;
		else
			high = middle;
	}
	*first = low;
	while (at < length) {
		const struct mci_rdma_buffer *b = &buffers->list[low + n];

		if (low + n == buffers->count || b->addr != base + at || b->length > length - at ||
		    n == MCI_RDMA_CHUNKS_MAX)
			return -ENOENT;
		if (b->length > buffers->list[low].length ||
		    (b->length < buffers->list[low].length && at + b->length != length))
			return -ENOENT;
		at += b->length;
		n++;
	}
	return (int)n;
}
