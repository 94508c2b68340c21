/* SPDX-License-Identifier: MIT */
/*
 * The keys of the metadata server in memory: ordered by text (for listing by prefix) and by expiry.
 * Values are counted references, so that a slow reader keeps what it reads and holds no lock.
 * Not locked: the owner (server_store.c) serialises everything but mci_blob_*.
 */
#ifndef MCI_SERVER_KEYS_H
#define MCI_SERVER_KEYS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCI_KEY_MAX 4096	 /* bytes of a key */
#define MCI_VALUE_MAX (1u << 20) /* bytes of a value */
#define MCI_KEY_OVERHEAD 160	 /* charged per key beside its bytes: nodes, allocator */
#define MCI_KEY_LEVELS 12

/* Memory that is no key (yet, or any more): uploads, answers, replaced values that somebody still reads. */
struct mci_budget {
	_Atomic uint64_t used;
	uint64_t max;
};

bool mci_budget_take(struct mci_budget *budget, uint64_t n); /* false: it would exceed the bound */
void mci_budget_give(struct mci_budget *budget, uint64_t n);

struct mci_blob {
	_Atomic uint32_t refs;
	uint32_t length, size;
	uint32_t charged; /* to @budget; given back when freed */
	struct mci_budget *budget;
	char bytes[];
};

/* NULL: no memory. One reference, length 0, nothing charged. */
struct mci_blob *mci_blob_new(struct mci_budget *budget, uint32_t size);
struct mci_blob *mci_blob_get(struct mci_blob *blob);
void mci_blob_put(struct mci_blob *blob); /* NULL is fine */

struct mci_key {
	struct mci_blob *value;
	uint64_t version;
	uint64_t expires_ns; /* CLOCK_MONOTONIC; 0 = never */
	uint32_t ttl_ms;     /* 0 = none */
	uint32_t heap_index; /* UINT32_MAX = not in the heap */
	uint16_t length;
	uint8_t levels;
	char *text; /* behind next[] */
	struct mci_key *next[];
};

struct mci_keys {
	struct mci_key *head[MCI_KEY_LEVELS];
	struct mci_key **heap;
	uint32_t heap_count, heap_size;
	uint64_t count, bytes; /* bytes: keys, values, overhead */
	uint64_t random;
};

void mci_keys_init(struct mci_keys *keys);
void mci_keys_free(struct mci_keys *keys);
struct mci_key *mci_keys_find(const struct mci_keys *keys, const char *text);
/* First key >= @text (or > @text); NULL: none. The one behind @key is key->next[0]. */
struct mci_key *mci_keys_seek(const struct mci_keys *keys, const char *text, bool beyond);

/*
 * A change in two steps, so that a log can be written between: prepare may fail, the rest cannot.
 * prepare: the key of that text, or a new one that is not linked yet (value NULL). NULL: no memory.
 */
struct mci_key *mci_keys_prepare(struct mci_keys *keys, const char *text);
void mci_keys_cancel(struct mci_key *key); /* frees it if it is not linked */
/* Takes over the reference to @value. */
void mci_keys_commit(struct mci_keys *keys, struct mci_key *key, struct mci_blob *value, uint64_t version,
		     uint32_t ttl_ms, uint64_t expires_ns);
void mci_keys_touch(struct mci_keys *keys, struct mci_key *key, uint32_t ttl_ms, uint64_t expires_ns);
void mci_keys_remove(struct mci_keys *keys, struct mci_key *key);  /* frees it */
struct mci_key *mci_keys_next_expiry(const struct mci_keys *keys); /* NULL: none has one */

static inline uint64_t mci_keys_cost(size_t key_length, size_t value_length)
{
	return key_length + value_length + MCI_KEY_OVERHEAD;
}

#endif
