// SPDX-License-Identifier: MIT
/* Bodies of the swarm's messages. What decodes is exactly such a body: nothing missing, nothing behind it. */
#include "p2p/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"

/* A body of exactly @length bytes; the caller writes all of it. */
static uint8_t *begin(struct mci_writer *w, size_t length, uint32_t *out)
{
	uint8_t *body = malloc(length);

	if (body)
		mci_writer_init(w, body, length);
	*out = (uint32_t)length;
	return body;
}

static void write_text(struct mci_writer *w, const char *text)
{
	size_t n = strlen(text);

	mci_write8(w, (uint8_t)n);
	mci_write_bytes(w, text, n);
}

/* Names are printed and used in keys: no control bytes. "" is fine here. */
static void read_text(struct mci_reader *r, char text[MCI_P2P_NAME_MAX + 1])
{
	uint8_t i, n = mci_read8(r);

	mci_read_bytes(r, text, n);
	text[r->bad ? 0 : n] = '\0';
	for (i = 0; text[i]; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			r->bad = true;
	if (!r->bad && i != n)
		r->bad = true;
}

/* The next @n bytes, where they lie. */
static const uint8_t *read_place(struct mci_reader *r, size_t n)
{
	const uint8_t *p = r->p;

	if (r->bad || n > r->left) {
		r->bad = true;
		return p;
	}
	r->p += n;
	r->left -= n;
	return p;
}

static int end(const struct mci_reader *r) { return r->bad || r->left ? -EBADMSG : 0; }

uint8_t *mci_p2p_put_ask(const struct mci_p2p_ask *ask, uint32_t *length)
{
	struct mci_writer w;
	uint8_t *body = begin(&w, 1 + strlen(ask->name) + 1 + MCI_P2P_HASH, length);

	if (!body)
		return NULL;
	write_text(&w, ask->name);
	mci_write8(&w, ask->by_root);
	mci_write_bytes(&w, ask->root, MCI_P2P_HASH);
	return body;
}

int mci_p2p_get_ask(const void *p, uint32_t length, struct mci_p2p_ask *ask)
{
	struct mci_reader r;
	uint8_t by_root;

	mci_reader_init(&r, p, length);
	read_text(&r, ask->name);
	by_root = mci_read8(&r);
	ask->by_root = by_root;
	mci_read_bytes(&r, ask->root, MCI_P2P_HASH);
	return by_root > 1 || (!by_root && !*ask->name) ? -EBADMSG : end(&r);
}

uint8_t *mci_p2p_put_record(const struct mci_p2p_record *record, uint32_t *length)
{
	const struct mci_manifest *m = record->manifest;
	struct mci_writer w;
	uint8_t *body = begin(&w, MCI_P2P_HASH + 8 + 8 + 4 + 8 * (size_t)m->range_count, length);
	uint32_t i;

	if (!body)
		return NULL;
	mci_write_bytes(&w, m->root, MCI_P2P_HASH);
	mci_write64(&w, record->max_shard_size);
	mci_write64(&w, m->piece_size);
	mci_write32(&w, m->range_count);
	for (i = 0; i < m->range_count; i++)
		mci_write64(&w, m->ranges[i]);
	return body;
}

int mci_p2p_get_record(const void *p, uint32_t length, struct mci_p2p_record *record)
{
	uint8_t root[MCI_P2P_HASH];
	struct mci_reader r;
	uint64_t piece_size, *ranges;
	uint32_t count, i;
	int ret;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, root, MCI_P2P_HASH);
	record->max_shard_size = mci_read64(&r);
	piece_size = mci_read64(&r);
	count = mci_read32(&r);
	if (r.bad || !count || count > MCI_P2P_RANGES_MAX || r.left != 8 * (size_t)count)
		return -EBADMSG;
	ranges = malloc(8 * (size_t)count);
	if (!ranges)
		return -ENOMEM;
	for (i = 0; i < count; i++)
		ranges[i] = mci_read64(&r);
	ret = mci_manifest_new(ranges, count, piece_size, &record->manifest);
	free(ranges);
	if (ret)
		return ret == -ENOMEM ? ret : -EBADMSG;
	memcpy(record->manifest->root, root, MCI_P2P_HASH);
	return 0;
}

uint8_t *mci_p2p_put_chunk(const uint8_t root[MCI_P2P_HASH], uint32_t index, const char *text,
			   uint32_t *length)
{
	size_t n = strlen(text);
	struct mci_writer w;
	uint8_t *body = begin(&w, MCI_P2P_HASH + 4 + n, length);

	if (!body)
		return NULL;
	mci_write_bytes(&w, root, MCI_P2P_HASH);
	mci_write32(&w, index);
	mci_write_bytes(&w, text, n);
	return body;
}

int mci_p2p_get_chunk(const void *p, uint32_t length, uint8_t root[MCI_P2P_HASH], uint32_t *index,
		      const char **text, uint32_t *text_length)
{
	struct mci_reader r;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, root, MCI_P2P_HASH);
	*index = mci_read32(&r);
	*text_length = (uint32_t)r.left;
	*text = (const char *)read_place(&r, r.left);
	return *text_length > MCI_P2P_CHUNK_MAX ? -EBADMSG : end(&r);
}

uint8_t *mci_p2p_put_join(const uint8_t root[MCI_P2P_HASH], uint32_t flags, const char *segment,
			  const uint32_t *ids, const uint64_t *offsets, uint32_t count, uint32_t *length)
{
	struct mci_writer w;
	uint8_t *body = begin(&w, MCI_P2P_HASH + 4 + 1 + strlen(segment) + 4 + 12 * (size_t)count, length);
	uint32_t i;

	if (!body)
		return NULL;
	mci_write_bytes(&w, root, MCI_P2P_HASH);
	mci_write32(&w, flags);
	write_text(&w, segment);
	mci_write32(&w, count);
	for (i = 0; i < count; i++) {
		mci_write32(&w, ids[i]);
		mci_write64(&w, offsets[i]);
	}
	return body;
}

int mci_p2p_get_join(const void *p, uint32_t length, struct mci_p2p_join *join)
{
	struct mci_reader r;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, join->root, MCI_P2P_HASH);
	join->flags = mci_read32(&r);
	read_text(&r, join->segment);
	join->region_count = mci_read32(&r);
	if (join->region_count > MCI_P2P_RANGES_MAX)
		return -EBADMSG;
	join->regions = read_place(&r, 12 * (size_t)join->region_count);
	return join->flags & ~MCI_P2P_JOIN_SEED || !*join->segment ? -EBADMSG : end(&r);
}

void mci_p2p_join_region(const struct mci_p2p_join *join, uint32_t i, uint32_t *id, uint64_t *offset)
{
	*id = mci_get32(join->regions + 12 * (size_t)i);
	*offset = mci_get64(join->regions + 12 * (size_t)i + 4);
}

uint8_t *mci_p2p_put_map(const uint8_t root[MCI_P2P_HASH], uint32_t first, const uint8_t *bits,
			 uint32_t bytes, uint32_t *length)
{
	struct mci_writer w;
	uint8_t *body = begin(&w, MCI_P2P_HASH + 4 + (size_t)bytes, length);

	if (!body)
		return NULL;
	mci_write_bytes(&w, root, MCI_P2P_HASH);
	mci_write32(&w, first);
	mci_write_bytes(&w, bits, bytes);
	return body;
}

int mci_p2p_get_map(const void *p, uint32_t length, struct mci_p2p_list *map)
{
	struct mci_reader r;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, map->root, MCI_P2P_HASH);
	map->first = mci_read32(&r);
	map->count = (uint32_t)r.left;
	map->p = read_place(&r, r.left);
	return !map->count || map->count > MCI_P2P_MAP_BYTES || map->first % 8 ||
			       map->first >= MCI_P2P_PIECES_MAX
		       ? -EBADMSG
		       : end(&r);
}

uint8_t *mci_p2p_put_list(const uint8_t root[MCI_P2P_HASH], const uint32_t *pieces, uint32_t count,
			  uint32_t *length)
{
	struct mci_writer w;
	uint8_t *body = begin(&w, MCI_P2P_HASH + 4 * (size_t)count, length);
	uint32_t i;

	if (!body)
		return NULL;
	mci_write_bytes(&w, root, MCI_P2P_HASH);
	for (i = 0; i < count; i++)
		mci_write32(&w, pieces[i]);
	return body;
}

int mci_p2p_get_list(const void *p, uint32_t length, struct mci_p2p_list *list)
{
	struct mci_reader r;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, list->root, MCI_P2P_HASH);
	list->first = 0;
	list->count = (uint32_t)(r.left / 4);
	if (r.left % 4 || !list->count || list->count > MCI_P2P_LIST_MAX)
		return -EBADMSG;
	list->p = read_place(&r, r.left);
	return end(&r);
}

uint32_t mci_p2p_list_at(const struct mci_p2p_list *list, uint32_t i)
{
	return mci_get32(list->p + 4 * (size_t)i);
}

uint8_t *mci_p2p_put_number(const uint8_t root[MCI_P2P_HASH], uint32_t number, uint32_t *length)
{
	return mci_p2p_put_list(root, &number, 1, length);
}

int mci_p2p_get_number(const void *p, uint32_t length, uint8_t root[MCI_P2P_HASH], uint32_t *number)
{
	struct mci_reader r;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, root, MCI_P2P_HASH);
	*number = mci_read32(&r);
	return end(&r);
}

uint8_t *mci_p2p_put_members(const uint8_t root[MCI_P2P_HASH], const char *const *names, uint32_t count,
			     uint32_t *length)
{
	size_t total = MCI_P2P_HASH;
	struct mci_writer w;
	uint8_t *body;
	uint32_t i;

	for (i = 0; i < count; i++)
		total += 1 + strlen(names[i]);
	body = begin(&w, total, length);
	if (!body)
		return NULL;
	mci_write_bytes(&w, root, MCI_P2P_HASH);
	for (i = 0; i < count; i++)
		write_text(&w, names[i]);
	return body;
}

int mci_p2p_get_members(const void *p, uint32_t length, uint8_t root[MCI_P2P_HASH],
			int (*fn)(const char *name, void *arg), void *arg)
{
	char name[MCI_P2P_NAME_MAX + 1];
	struct mci_reader start, r;
	uint32_t count = 0, i;
	int ret;

	mci_reader_init(&r, p, length);
	mci_read_bytes(&r, root, MCI_P2P_HASH);
	for (start = r; !r.bad && r.left; count++) {
		read_text(&r, name);
		if (!*name)
			r.bad = true;
	}
	if (!count || count > MCI_P2P_MEMBERS_MAX || end(&r))
		return -EBADMSG;
	for (i = 0; i < count; i++) {
		read_text(&start, name);
		ret = fn(name, arg);
		if (ret)
			return ret;
	}
	return 0;
}

uint8_t *mci_p2p_put_error(int error, const char *sentence, uint32_t *length)
{
	size_t n = strnlen(sentence, sizeof(((struct mci_p2p_error *)0)->sentence) - 1);
	struct mci_writer w;
	uint8_t *body = begin(&w, 4 + n, length);

	if (!body)
		return NULL;
	mci_write32(&w, (uint32_t)-error);
	mci_write_bytes(&w, sentence, n);
	return body;
}

int mci_p2p_get_error(const void *p, uint32_t length, struct mci_p2p_error *error)
{
	struct mci_reader r;
	uint32_t number;
	size_t i, n;

	mci_reader_init(&r, p, length);
	number = mci_read32(&r);
	n = r.left;
	if (r.bad || !number || number > 4095 || n >= sizeof(error->sentence))
		return -EBADMSG;
	error->error = -(int)number;
	mci_read_bytes(&r, error->sentence, n);
	error->sentence[n] = '\0';
	for (i = 0; i < n; i++) /* printed: nothing that steers a terminal */
		if ((unsigned char)error->sentence[i] < 0x20 || error->sentence[i] == 0x7f)
			return -EBADMSG;
	return 0;
}
