// SPDX-License-Identifier: MIT
/* The metadata server's keys: a skip list by text, a binary heap by expiry, counted values. */
#include "metadata/server_keys.h"

#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"

#define NOT_IN_HEAP UINT32_MAX

bool mci_budget_take(struct mci_budget *budget, uint64_t n)
{
	uint64_t used = atomic_load(&budget->used);

	do {
		if (used > budget->max || n > budget->max - used)
			return false;
	} while (!atomic_compare_exchange_weak(&budget->used, &used, used + n));
	return true;
}

void mci_budget_give(struct mci_budget *budget, uint64_t n) { atomic_fetch_sub(&budget->used, n); }

struct mci_blob *mci_blob_new(struct mci_budget *budget, uint32_t size)
{
	struct mci_blob *blob = malloc(sizeof(*blob) + size);

	if (!blob)
		return NULL;
	atomic_init(&blob->refs, 1);
	blob->length = 0;
	blob->size = size;
	blob->charged = 0;
	blob->budget = budget;
	return blob;
}

struct mci_blob *mci_blob_get(struct mci_blob *blob)
{
	atomic_fetch_add(&blob->refs, 1);
	return blob;
}

void mci_blob_put(struct mci_blob *blob)
{
	if (!blob || atomic_fetch_sub(&blob->refs, 1) != 1)
		return;
	if (blob->charged)
		mci_budget_give(blob->budget, blob->charged);
	free(blob);
}

/* The table lets go of a value. While readers still hold it, it counts as memory in flight. */
static void drop_value(struct mci_blob *blob)
{
	if (!blob)
		return;
	if (blob->budget && atomic_load(&blob->refs) > 1) {
		blob->charged = blob->length;
		atomic_fetch_add(&blob->budget->used, blob->charged);
	}
	mci_blob_put(blob);
}

void mci_keys_init(struct mci_keys *keys)
{
	memset(keys, 0, sizeof(*keys));
	mci_random(&keys->random, sizeof(keys->random));
	keys->random |= 1;
}

void mci_keys_free(struct mci_keys *keys)
{
	struct mci_key *key = keys->head[0];

	while (key) {
		struct mci_key *next = key->next[0];

		mci_blob_put(key->value);
		free(key);
		key = next;
	}
	free(keys->heap);
	memset(keys, 0, sizeof(*keys));
}

/* Fills before[level] with the link that points to the first key >= @text (> @text with @beyond). */
static struct mci_key *descend(const struct mci_keys *keys, const char *text, bool beyond,
			       struct mci_key **before[MCI_KEY_LEVELS])
{
	struct mci_key *const *links = keys->head;
	struct mci_key *key = NULL;
	int level;

	for (level = MCI_KEY_LEVELS - 1; level >= 0; level--) {
		for (key = links[level]; key; key = links[level]) {
			int order = strcmp(key->text, text);

			if (order > 0 || (!order && !beyond))
				break;
			links = key->next;
		}
		if (before)
			before[level] = (struct mci_key **)&links[level];
	}
	return key;
}

struct mci_key *mci_keys_seek(const struct mci_keys *keys, const char *text, bool beyond)
{
	return descend(keys, text, beyond, NULL);
}

struct mci_key *mci_keys_find(const struct mci_keys *keys, const char *text)
{
	struct mci_key *key = descend(keys, text, false, NULL);

	return key && !strcmp(key->text, text) ? key : NULL;
}

/* One level more in one case of four (xorshift64). */
static uint8_t random_levels(struct mci_keys *keys)
{
	uint64_t bits = keys->random;
	uint8_t levels = 1;

	bits ^= bits << 13;
	bits ^= bits >> 7;
	bits ^= bits << 17;
	keys->random = bits;
	for (bits >>= 20; levels < MCI_KEY_LEVELS && !(bits & 3); bits >>= 2)
		levels++;
	return levels;
}

static bool heap_room(struct mci_keys *keys)
{
	struct mci_key **bigger;
	uint32_t size;

	if (keys->heap_count < keys->heap_size)
		return true;
	size = keys->heap_size ? keys->heap_size * 2 : 64;
	bigger = reallocarray(keys->heap, size, sizeof(*bigger));
	if (!bigger)
		return false;
	keys->heap = bigger;
	keys->heap_size = size;
	return true;
}

struct mci_key *mci_keys_prepare(struct mci_keys *keys, const char *text)
{
	struct mci_key *key = mci_keys_find(keys, text);
	size_t length = strlen(text);
	uint8_t levels;

	if (!heap_room(keys))
		return NULL;
	if (key)
		return key;
	levels = random_levels(keys);
	key = calloc(1, sizeof(*key) + levels * sizeof(key->next[0]) + length + 1);
	if (!key)
		return NULL;
	key->heap_index = NOT_IN_HEAP;
	key->length = (uint16_t)length;
	key->levels = levels;
	key->text = (char *)&key->next[levels];
	memcpy(key->text, text, length + 1);
	return key;
}

void mci_keys_cancel(struct mci_key *key)
{
	if (!key->value)
		free(key);
}

static void heap_set(struct mci_keys *keys, uint32_t i, struct mci_key *key)
{
	keys->heap[i] = key;
	key->heap_index = i;
}

static void heap_sift(struct mci_keys *keys, uint32_t i)
{
	struct mci_key *key = keys->heap[i];

	while (i && keys->heap[(i - 1) / 2]->expires_ns > key->expires_ns) {
		heap_set(keys, i, keys->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * i + 1;

		if (child >= keys->heap_count)
			break;
		if (child + 1 < keys->heap_count &&
		    keys->heap[child + 1]->expires_ns < keys->heap[child]->expires_ns)
			child++;
		if (keys->heap[child]->expires_ns >= key->expires_ns)
			break;
		heap_set(keys, i, keys->heap[child]);
		i = child;
	}
	heap_set(keys, i, key);
}

static void heap_remove(struct mci_keys *keys, struct mci_key *key)
{
	uint32_t i = key->heap_index;
	struct mci_key *last;

	if (i == NOT_IN_HEAP)
		return;
	key->heap_index = NOT_IN_HEAP;
	last = keys->heap[--keys->heap_count];
	if (last == key)
		return;
	heap_set(keys, i, last);
	heap_sift(keys, i);
}

void mci_keys_touch(struct mci_keys *keys, struct mci_key *key, uint32_t ttl_ms, uint64_t expires_ns)
{
	key->ttl_ms = ttl_ms;
	key->expires_ns = expires_ns;
	if (!expires_ns) {
		heap_remove(keys, key);
		return;
	}
	if (key->heap_index == NOT_IN_HEAP)
		heap_set(keys, keys->heap_count++, key);
	heap_sift(keys, key->heap_index);
}

void mci_keys_commit(struct mci_keys *keys, struct mci_key *key, struct mci_blob *value, uint64_t version,
		     uint32_t ttl_ms, uint64_t expires_ns)
{
	struct mci_key **before[MCI_KEY_LEVELS];
	unsigned int i;

	if (value->charged) {
		mci_budget_give(value->budget, value->charged);
		value->charged = 0;
	}
	if (key->value) {
		keys->bytes -= key->value->length;
		keys->bytes += value->length;
		drop_value(key->value);
	} else {
		descend(keys, key->text, false, before);
		for (i = 0; i < key->levels; i++) {
			key->next[i] = *before[i];
			*before[i] = key;
		}
		keys->count++;
		keys->bytes += mci_keys_cost(key->length, value->length);
	}
	key->value = value;
	key->version = version;
	mci_keys_touch(keys, key, ttl_ms, expires_ns);
}

void mci_keys_remove(struct mci_keys *keys, struct mci_key *key)
{
	struct mci_key **before[MCI_KEY_LEVELS];
	unsigned int i;

	descend(keys, key->text, false, before);
	for (i = 0; i < key->levels; i++)
		*before[i] = key->next[i];
	heap_remove(keys, key);
	keys->count--;
	keys->bytes -= mci_keys_cost(key->length, key->value->length);
	drop_value(key->value);
	free(key);
}

struct mci_key *mci_keys_next_expiry(const struct mci_keys *keys)
{
	return keys->heap_count ? keys->heap[0] : NULL;
}
