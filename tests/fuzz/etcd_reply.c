// SPDX-License-Identifier: MIT
/* Replies of etcd's JSON gateway: the first byte chooses what was asked. */
#include <stdlib.h>
#include <string.h>

#include "metadata/etcd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check(const struct mci_etcd_kv *kv, void *arg)
{
	unsigned int *count = arg;

	if (strlen(kv->key) > 1u << 20 || kv->text[kv->length])
		abort();
	return ++*count == 100 ? 1 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_etcd_event event = {0};
	struct mci_etcd_error error;
	const char *json = (const char *)data + 1;
	unsigned int count = 0;
	uint64_t a, b;
	char token[64];
	bool x, y;

	if (!size)
		return 0;
	size--;
	switch (*data % 8) {
	case 0:
		mci_etcd_decode_range(json, size, check, &count, &x);
		break;
	case 1:
		mci_etcd_decode_revision(json, size, &a);
		break;
	case 2:
		mci_etcd_decode_txn(json, size, &x, &y, &a);
		break;
	case 3:
		mci_etcd_decode_deleted(json, size, &a);
		break;
	case 4:
		mci_etcd_decode_lease(json, size, &a, &b);
		break;
	case 5:
		if (!mci_etcd_decode_token(json, size, token, sizeof(token)) && strpbrk(token, "\r\n "))
			abort();
		break;
	case 6:
		if (!mci_etcd_decode_error(json, size, &error) && strpbrk(error.message, "\r\n\033"))
			abort();
		break;
	case 7:
		mci_etcd_decode_watch(json, size, &event);
		break;
	}
	return 0;
}
