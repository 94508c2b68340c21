// SPDX-License-Identifier: MIT
/* The fence on the shared pages, and the codec of the frames. Nothing here trusts the other side. */
#include "transport/shm/control.h"

#include <errno.h>
#include <string.h>

#include "core/bytes.h"
#include "core/errors.h"

#define LIST_HEAD 4u

int mci_shm_table_check(const struct mci_shm_table *table)
{
	if (table->magic != MCI_SHM_TABLE_MAGIC || table->version != MCI_SHM_VERSION ||
	    table->slots != MCI_SHM_SLOTS)
		return mci_fail(-EPROTO,
				"the peer's table of shared regions is not one of version %u; "
				"run the same release on both sides",
				MCI_SHM_VERSION);
	return 0;
}

int mci_shm_use_check(const struct mci_shm_use *use)
{
	if (use->magic != MCI_SHM_USE_MAGIC || use->version != MCI_SHM_VERSION || use->slots != MCI_SHM_SLOTS)
		return mci_fail(-EPROTO,
				"the peer's page of use counters is not one of version %u; "
				"run the same release on both sides",
				MCI_SHM_VERSION);
	return 0;
}

static bool enter(_Atomic uint32_t *counter, const _Atomic uint64_t *word, uint64_t stamp)
{
	atomic_fetch_add(counter, 1);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(word) == stamp)
		return true;
	atomic_fetch_sub(counter, 1);
	return false;
}

bool mci_shm_enter(struct mci_shm_use_slot *slot, const _Atomic uint64_t *word, uint64_t stamp)
{
	return enter(&slot->copies, word, stamp);
}

void mci_shm_leave(struct mci_shm_use_slot *slot) { atomic_fetch_sub(&slot->copies, 1); }

bool mci_shm_view_enter(struct mci_shm_use_slot *slot, const _Atomic uint64_t *word, uint64_t stamp)
{
	return enter(&slot->views, word, stamp);
}

void mci_shm_view_leave(struct mci_shm_use_slot *slot) { atomic_fetch_sub(&slot->views, 1); }

static int whole(const struct mci_reader *r) { return r->bad || r->left ? -EPROTO : 0; }

uint32_t mci_shm_table_encode(const struct mci_shm_table_frame *frame, uint8_t *out)
{
	mci_put32(out, frame->version);
	mci_put32(out + 4, frame->slots);
	mci_put64(out + 8, frame->size);
	return 16;
}

int mci_shm_table_decode(const void *p, size_t n, struct mci_shm_table_frame *frame)
{
	struct mci_reader r;

	mci_reader_init(&r, p, n);
	frame->version = mci_read32(&r);
	frame->slots = mci_read32(&r);
	frame->size = mci_read64(&r);
	if (whole(&r) || frame->version != MCI_SHM_VERSION || frame->slots != MCI_SHM_SLOTS ||
	    frame->size < sizeof(struct mci_shm_table) || frame->size > 2 * sizeof(struct mci_shm_table))
		return -EPROTO;
	return 0;
}

uint32_t mci_shm_use_encode(const struct mci_shm_use_frame *frame, uint8_t *out)
{
	mci_put64(out, frame->size);
	mci_put64(out + 8, frame->probe);
	return 16;
}

int mci_shm_use_decode(const void *p, size_t n, struct mci_shm_use_frame *frame)
{
	struct mci_reader r;

	mci_reader_init(&r, p, n);
	frame->size = mci_read64(&r);
	frame->probe = mci_read64(&r);
	if (whole(&r) || frame->size < sizeof(struct mci_shm_use) ||
	    frame->size > 2 * sizeof(struct mci_shm_use))
		return -EPROTO;
	return 0;
}

uint32_t mci_shm_prove_encode(const struct mci_shm_prove_frame *frame, uint8_t *out)
{
	memcpy(out, frame->nonce, MCI_SHM_NONCE);
	memcpy(out + MCI_SHM_NONCE, frame->probe, MCI_SHM_NONCE);
	out[2 * MCI_SHM_NONCE] = frame->probed;
	out[2 * MCI_SHM_NONCE + 1] = frame->attaches;
	memcpy(out + 2 * MCI_SHM_NONCE + 2, frame->context_id, MCI_SHM_KEY);
	return 2 * MCI_SHM_NONCE + 2 + MCI_SHM_KEY;
}

static bool read_bool(struct mci_reader *r)
{
	uint8_t v = mci_read8(r);

	r->bad |= v > 1;
	return v;
}

int mci_shm_prove_decode(const void *p, size_t n, struct mci_shm_prove_frame *frame)
{
	struct mci_reader r;

	mci_reader_init(&r, p, n);
	mci_read_bytes(&r, frame->nonce, MCI_SHM_NONCE);
	mci_read_bytes(&r, frame->probe, MCI_SHM_NONCE);
	frame->probed = read_bool(&r);
	frame->attaches = read_bool(&r);
	mci_read_bytes(&r, frame->context_id, MCI_SHM_KEY);
	return whole(&r);
}

uint32_t mci_shm_ready_encode(const struct mci_shm_ready_frame *frame, uint8_t *out)
{
	memcpy(out, frame->nonce, MCI_SHM_NONCE);
	out[MCI_SHM_NONCE] = frame->probed;
	return MCI_SHM_NONCE + 1;
}

int mci_shm_ready_decode(const void *p, size_t n, struct mci_shm_ready_frame *frame)
{
	struct mci_reader r;

	mci_reader_init(&r, p, n);
	mci_read_bytes(&r, frame->nonce, MCI_SHM_NONCE);
	frame->probed = read_bool(&r);
	return whole(&r);
}

uint32_t mci_shm_list_encode(uint16_t count, uint16_t flags, uint8_t *out)
{
	mci_put16(out, count);
	mci_put16(out + 2, flags);
	return LIST_HEAD;
}

int mci_shm_list_decode(const void *p, size_t n, uint32_t entry_size, uint16_t *count, uint16_t *flags)
{
	struct mci_reader r;

	mci_reader_init(&r, p, n);
	*count = mci_read16(&r);
	*flags = mci_read16(&r);
	if (r.bad || !*count || *count > MCI_SHM_ASK_MAX || *flags & ~MCI_SHM_WANT_FD ||
	    (*flags & MCI_SHM_WANT_FD && *count != 1) || r.left != (size_t)*count * entry_size)
		return -EPROTO;
	return 0;
}

void mci_shm_ask_encode(const struct mci_shm_ask *ask, uint32_t index, uint8_t *list)
{
	uint8_t *p = list + LIST_HEAD + (size_t)index * MCI_SHM_ASK_SIZE;

	mci_put32(p, ask->id);
	mci_put32(p + 4, ask->generation);
}

void mci_shm_ask_decode(const void *list, uint32_t index, struct mci_shm_ask *ask)
{
	const uint8_t *p = (const uint8_t *)list + LIST_HEAD + (size_t)index * MCI_SHM_ASK_SIZE;

	ask->id = mci_get32(p);
	ask->generation = mci_get32(p + 4);
}

void mci_shm_grant_encode(const struct mci_shm_grant *grant, uint32_t index, uint8_t *list)
{
	uint8_t *p = list + LIST_HEAD + (size_t)index * MCI_SHM_GRANT_SIZE;

	mci_put32(p, grant->id);
	mci_put32(p + 4, grant->generation);
	mci_put32(p + 8, (uint32_t)grant->status);
	mci_put32(p + 12, grant->slot);
	mci_put64(p + 16, grant->stamp);
	mci_put64(p + 24, grant->length);
	mci_put64(p + 32, grant->place);
	p[40] = grant->mode;
	p[41] = grant->rights;
	mci_put16(p + 42, 0);
	memcpy(p + 44, grant->key, MCI_SHM_KEY);
}

int mci_shm_grant_decode(const void *list, uint32_t index, struct mci_shm_grant *grant)
{
	const uint8_t *p = (const uint8_t *)list + LIST_HEAD + (size_t)index * MCI_SHM_GRANT_SIZE;

	grant->id = mci_get32(p);
	grant->generation = mci_get32(p + 4);
	grant->status = (int32_t)mci_get32(p + 8);
	grant->slot = mci_get32(p + 12);
	grant->stamp = mci_get64(p + 16);
	grant->length = mci_get64(p + 24);
	grant->place = mci_get64(p + 32);
	grant->mode = p[40];
	grant->rights = p[41];
	memcpy(grant->key, p + 44, MCI_SHM_KEY);
	if (grant->status > 0 || grant->status < -4095 || mci_get16(p + 42))
		return -EPROTO;
	if (grant->status)
		return 0;
	if (grant->slot >= MCI_SHM_SLOTS || !grant->stamp || grant->stamp >> MCI_SHM_STAMP_BITS ||
	    !grant->length || grant->mode < MCI_SHM_MEMFD || grant->mode > MCI_SHM_MODULE ||
	    grant->length > UINT64_MAX - grant->place || grant->place + grant->length > (uint64_t)INT64_MAX)
		return -EPROTO;
	return 0;
}
