// SPDX-License-Identifier: MIT
/*
 * A link's streams: slices out, answers in. Whoever has something to send pumps; one thread at a time
 * sends (tx_lock, only ever tried), the others leave a mark and go. Receiving is the loop thread's.
 * Lock order: tx_lock, then peer->lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <xxhash.h>

#include "core/errors.h"
#include "transport/tcp/peer.h"

#define SENT 1u
#define ANSWERED 2u
#define ID_SHIFT 16		 /* id: count of the slice, slot */
#define UNSENT_ENOUGH (1u << 20) /* bytes in the ring from which no more slices are taken */
#define SLICES_PER_TAKE 64

/* What a round of sending leaves to be done without its lock. */
struct round {
	uint64_t budget;
	unsigned int done_count;
	struct mci_tcp_done done[MCI_TCP_SEND_IOVECS];
	struct mci_request *ended;
	bool again, more;
	int err;
};

void mci_tcp_link_get(struct mci_tcp_link *link) { atomic_fetch_add(&link->refs, 1); }

static void stream_free(struct mci_tcp_stream *s)
{
	mci_tcp_rx_free(&s->rx);
	mci_tcp_tx_free(&s->tx);
	free(s->slot);
	free(s->free);
	free(s->freed);
	pthread_mutex_destroy(&s->tx_lock);
	free(s);
}

void mci_tcp_link_put(struct mci_tcp_link *link)
{
	struct mci_tcp_peer *peer = NULL;
	unsigned int i;

	if (atomic_fetch_sub(&link->refs, 1) != 1)
		return;
	for (i = 0; i < link->count; i++) {
		peer = link->streams[i]->peer;
		stream_free(link->streams[i]);
		mci_tcp_peer_put(peer);
	}
	free(link);
}

/* The receiver's: a slot is free again, the sender will find it. */
static void give_slot(struct mci_tcp_stream *s, uint32_t index)
{
	uint32_t tail = atomic_load_explicit(&s->freed_tail, memory_order_relaxed);

	s->freed[tail & s->tx.mask] = index;
	atomic_store_explicit(&s->freed_tail, tail + 1, memory_order_release);
}

/* The sender's: collect what the receiver gave. */
static void collect_slots(struct mci_tcp_stream *s)
{
	uint32_t head = atomic_load_explicit(&s->freed_head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&s->freed_tail, memory_order_acquire);

	while (head != tail)
		s->free[s->free_count++] = s->freed[head++ & s->tx.mask];
	atomic_store_explicit(&s->freed_head, head, memory_order_relaxed);
}

static struct mci_tcp_done done_of(const struct mci_tcp_slot *slot)
{
	return (struct mci_tcp_done){
		.request = slot->request, .length = slot->length, .status = slot->status};
}

struct sent_arg {
	struct mci_tcp_stream *stream;
	struct round *round;
};

/* A frame is gone. Its answer has been here before we knew: then the slice ends here. */
static void on_sent(void *cookie, void *arg)
{
	struct sent_arg *a = arg;
	struct mci_tcp_slot *slot = cookie;

	if (!(atomic_fetch_or(&slot->ends, SENT) & ANSWERED))
		return;
	a->round->done[a->round->done_count++] = done_of(slot);
	a->stream->free[a->stream->free_count++] = (uint32_t)(slot - a->stream->slot);
}

static void put_slice(struct mci_tcp_stream *s, const struct mci_tcp_slice *slice)
{
	const struct mci_request *r = slice->request;
	struct mci_tcp_header h = {.target = s->peer->uuid};
	uint32_t index = s->free[--s->free_count];
	struct mci_tcp_slot *slot = &s->slot[index];
	const uint8_t *payload = NULL;

	slot->request = slice->request;
	slot->local = r->local + slice->at;
	slot->length = slice->length;
	slot->status = 0;
	h.id = (atomic_load_explicit(&s->count, memory_order_relaxed) + 1) << ID_SHIFT | index;
	atomic_store_explicit(&s->count, h.id >> ID_SHIFT, memory_order_relaxed);
	h.length = slice->length;
	switch (r->op) {
	case MCI_OP_READ:
		h.type = MCI_TCP_READ;
		break;
	case MCI_OP_WRITE:
		h.type = MCI_TCP_WRITE;
		payload = slot->local;
		break;
	case MCI_OP_NOTIFY:
		h.type = MCI_TCP_NOTIFY;
		h.offset = r->tag;
		payload = slot->local;
		break;
	default:
		h.type = MCI_TCP_FENCE;
		h.length = 0;
	}
	if (r->remote) {
		h.region = r->remote->id;
		h.generation = r->remote->generation;
		h.offset = r->offset + slice->at;
	}
	if (s->checksum && payload) {
		h.flags = MCI_TCP_CHECKSUM;
		h.checksum = XXH3_64bits(payload, slice->length);
	}
	slot->type = h.type | MCI_TCP_REPLY;
	atomic_store_explicit(&slot->ends, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->id, h.id, memory_order_release);
	mci_tcp_tx_push(&s->tx, &h, payload, slot);
}

/* tx_lock held. Slices from the peer's queue into the ring, as far as slots and room go. */
static void take_slices(struct mci_tcp_stream *s, struct round *round)
{
	struct mci_tcp_slice slices[SLICES_PER_TAKE];
	unsigned int max, n, i;
	uint64_t room;

	while (s->tx.unsent < UNSENT_ENOUGH && round->budget) {
		collect_slots(s);
		max = s->free_count < SLICES_PER_TAKE ? s->free_count : SLICES_PER_TAKE;
		if (!max)
			return;
		room = UNSENT_ENOUGH - s->tx.unsent;
		n = mci_tcp_peer_take(s->peer, s, slices, max, room < round->budget ? room : round->budget,
				      &round->ended);
		for (i = 0; i < n; i++) {
			put_slice(s, &slices[i]);
			round->budget -= slices[i].length < round->budget ? slices[i].length : round->budget;
		}
		if (n < max)
			return;
	}
}

/* tx_lock held. */
static void transmit(struct mci_tcp_stream *s, struct round *round)
{
	struct sent_arg arg = {.stream = s, .round = round};
	ssize_t n;
	bool full;

	if (atomic_exchange(&s->edge, false))
		s->blocked = false;
	while (!s->dead && !s->blocked) {
		take_slices(s, round);
		if (!mci_tcp_tx_count(&s->tx)) {
			round->more = !round->budget && atomic_load(&s->peer->queued);
			return;
		}
		n = mci_tcp_tx_send(&s->tx, &s->sock, &full, on_sent, &arg);
		if (n == -EAGAIN) {
			s->blocked = true;
			return;
		}
		if (n < 0) {
			round->err = (int)n;
			return;
		}
		if (full && !s->sock.tls)
			s->blocked = true;
		if (round->done_count || round->ended) {
			round->again = true;
			return;
		}
		if (!round->budget && !s->blocked) {
			round->more = true;
			return;
		}
	}
}

static void post(struct mci_tcp_stream *s)
{
	if (atomic_exchange(&s->posted, true))
		return;
	mci_tcp_link_get(s->link);
	mci_loop_post(s->loop, &s->task);
}

void mci_tcp_stream_pump(struct mci_tcp_stream *s, uint64_t budget)
{
	struct round round; /* set by hand: its array is large, and this runs per batch */

	round.budget = budget;
	round.done_count = 0;
	round.ended = NULL;
	round.err = 0;

	atomic_store(&s->want_tx, true);
	while (atomic_load(&s->want_tx)) {
		if (pthread_mutex_trylock(&s->tx_lock))
			return; /* its owner looks at want_tx again after unlocking */
		atomic_store(&s->want_tx, false);
		round.again = false;
		round.more = false;
		transmit(s, &round);
		pthread_mutex_unlock(&s->tx_lock);
		atomic_thread_fence(memory_order_seq_cst);
		if (round.done_count)
			mci_tcp_peer_done(s->peer, s->link, round.done, round.done_count);
		round.done_count = 0;
		mci_tcp_peer_complete(s->peer, round.ended);
		round.ended = NULL;
		if (round.err) {
			mci_tcp_peer_break(s->peer, s->link, round.err, "sending failed");
			return;
		}
		if (round.again)
			atomic_store(&s->want_tx, true);
		if (round.more) {
			post(s);
			return;
		}
	}
}

void mci_tcp_stream_post(struct mci_tcp_stream *s) { post(s); }

void mci_tcp_stream_look(struct mci_tcp_stream *s)
{
	atomic_store(&s->look, true);
	post(s);
}

/* A reply's header: it must answer a slice that is in flight. */
static int reply_header(struct mci_tcp_rx *rx)
{
	struct mci_tcp_stream *s =
		(struct mci_tcp_stream *)((char *)rx - offsetof(struct mci_tcp_stream, rx));
	const struct mci_tcp_header *h = &rx->header;
	uint32_t index = h->id & ((1u << ID_SHIFT) - 1);
	struct mci_tcp_slot *slot = &s->slot[index];

	if (index >= s->slots || !h->id || atomic_load_explicit(&slot->id, memory_order_acquire) != h->id ||
	    slot->type != h->type) {
		rx->why = "answer to nothing that was asked";
		return -EPROTO;
	}
	if (h->type == (MCI_TCP_READ | MCI_TCP_REPLY) && !h->status) {
		if (h->length != slot->length) {
			rx->why = "answer of another length than was asked";
			return -EPROTO;
		}
		rx->dest = slot->local;
	}
	return 0;
}

static void flush_done(struct mci_tcp_stream *s)
{
	unsigned int n = s->done_count;

	s->done_count = 0;
	if (n)
		mci_tcp_peer_done(s->peer, s->link, s->done, n);
}

static int reply_frame(struct mci_tcp_rx *rx)
{
	struct mci_tcp_stream *s =
		(struct mci_tcp_stream *)((char *)rx - offsetof(struct mci_tcp_stream, rx));
	const struct mci_tcp_header *h = &rx->header;
	uint32_t index = h->id & ((1u << ID_SHIFT) - 1);
	struct mci_tcp_slot *slot = &s->slot[index];

	s->answered++;
	atomic_store_explicit(&s->came, atomic_load_explicit(&s->came, memory_order_relaxed) + slot->length,
			      memory_order_relaxed);
	slot->status = h->status;
	if (h->type == (MCI_TCP_READ | MCI_TCP_REPLY)) {
		atomic_fetch_sub_explicit(&s->reading, slot->length, memory_order_relaxed);
		if (s->checksum && !h->status &&
		    (!(h->flags & MCI_TCP_CHECKSUM) || XXH3_64bits(slot->local, slot->length) != h->checksum))
			slot->status = -EBADMSG;
	}
	atomic_store_explicit(&slot->id, 0, memory_order_relaxed);
	s->done[s->done_count] = done_of(slot);
	if (!(atomic_fetch_or(&slot->ends, ANSWERED) & SENT))
		return 0; /* the sender does not know yet that the frame is gone: it ends the slice */
	give_slot(s, index);
	if (++s->done_count == MCI_TCP_DONE_BATCH)
		flush_done(s);
	return 0;
}

static const struct mci_tcp_rx_ops reply_ops = {.header = reply_header, .frame = reply_frame};

/* Loop thread, behind its work: all that was asked for is here, or much was sent. */
static void linger(struct mci_tcp_stream *s)
{
	if (!s->near)
		return;
	if (s->answered == atomic_load_explicit(&s->count, memory_order_relaxed))
		mci_tcp_linger(s->loop, &s->came);
	mci_tcp_linger(s->loop, &s->tx.gone);
}

/* Loop thread. */
static void stream_work(struct mci_tcp_stream *s)
{
	bool look = atomic_exchange(&s->look, false);
	int ret;

	if (s->dead) /* set by this thread only */
		return;
	s->more = false;
	ret = mci_tcp_rx_run(&s->rx, &s->sock, MCI_TCP_TURN, s->hurry || look);
	flush_done(s);
	if (ret < 0) {
		mci_tcp_peer_break(s->peer, s->link, ret, s->rx.why ? s->rx.why : "the peer hung up");
		return;
	}
	s->more = ret == MCI_TCP_RX_MORE;
	mci_tcp_stream_pump(s, MCI_TCP_TURN);
	if (s->more)
		post(s);
}

static void stream_event(struct mci_watch *watch, uint32_t events)
{
	struct mci_tcp_stream *s = (struct mci_tcp_stream *)watch;

	if (events & EPOLLOUT)
		atomic_store(&s->edge, true);
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		s->hurry = true;
	if (events & ~(uint32_t)EPOLLOUT || s->sock.tls)
		stream_work(s);
	else
		mci_tcp_stream_pump(s, MCI_TCP_TURN);
	linger(s);
}

static void stream_task(struct mci_task *task)
{
	struct mci_tcp_stream *s =
		(struct mci_tcp_stream *)((char *)task - offsetof(struct mci_tcp_stream, task));
	struct mci_tcp_link *link = s->link;

	atomic_store(&s->posted, false);
	if (s->more || atomic_load(&s->look))
		stream_work(s);
	else
		mci_tcp_stream_pump(s, MCI_TCP_TURN);
	linger(s);
	mci_tcp_link_put(link);
}

/* Loop thread: after this nobody sends from or receives into the memory of requests on this stream. */
static void stream_close(struct mci_task *task)
{
	struct mci_tcp_stream *s =
		(struct mci_tcp_stream *)((char *)task - offsetof(struct mci_tcp_stream, close_task));

	pthread_mutex_lock(&s->tx_lock);
	s->dead = true;
	pthread_mutex_unlock(&s->tx_lock);
	mci_loop_del(s->loop, &s->watch);
	mci_sock_close(&s->sock);
	mci_tcp_peer_stream_closed(s->peer);
}

int mci_tcp_stream_new(struct mci_tcp_peer *peer, struct mci_tcp_link *link, struct mci_sock sock,
		       const struct mci_hello *hello)
{
	struct mci_tcp_granted granted;
	struct mci_tcp_stream *s;
	uint32_t i;

	if (mci_tcp_granted_decode(hello->params, hello->params_length, &granted))
		return mci_fail(-EPROTO,
				"segment '%s' accepted a data connection with parameters that make no sense",
				peer->name);
	s = calloc(1, sizeof(*s));
	if (!s)
		return mci_fail(-ENOMEM, "no memory for a data connection");
	pthread_mutex_init(&s->tx_lock, NULL);
	s->slots = granted.slots < MCI_TCP_SLOTS ? granted.slots : MCI_TCP_SLOTS;
	s->slice_max = granted.slice_max < MCI_TCP_SLICE_MAX ? granted.slice_max : MCI_TCP_SLICE_MAX;
	s->slot = calloc(s->slots, sizeof(*s->slot));
	s->free = calloc(s->slots, sizeof(*s->free));
	if (mci_tcp_rx_init(&s->rx, &reply_ops) || mci_tcp_tx_init(&s->tx, s->slots) || !s->slot || !s->free)
		goto err_free;
	s->freed = calloc(s->tx.mask + 1, sizeof(*s->freed));
	if (!s->freed)
		goto err_free;
	for (i = 0; i < s->slots; i++)
		s->free[s->free_count++] = s->slots - 1 - i;
	s->peer = peer;
	s->link = link;
	s->loop = mci_tcp_loop_of(peer->tcp, &peer->session, link->count);
	s->sock = sock;
	s->index = (uint16_t)link->count;
	s->checksum = hello->features & MCI_FEATURE_CHECKSUM;
	s->watch.fd = sock.fd;
	s->watch.fn = stream_event;
	s->task.fn = stream_task;
	s->close_task.fn = stream_close;
	s->near = mci_tcp_tune(sock.fd, s->loop);
	atomic_fetch_add(&peer->refs, 1);
	link->streams[link->count++] = s;
	return 0;
err_free:
	stream_free(s);
	return mci_fail(-ENOMEM, "no memory for a data connection");
}

static void unwatch(void *arg)
{
	struct mci_tcp_stream *s = arg;

	mci_loop_del(s->loop, &s->watch);
}

int mci_tcp_link_watch(struct mci_tcp_link *link)
{
	static const uint32_t events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
	unsigned int i;
	int ret;

	for (i = 0; i < link->count; i++) {
		ret = mci_loop_add(link->streams[i]->loop, &link->streams[i]->watch, events);
		if (ret)
			goto err_unwatch;
	}
	return 0;
err_unwatch:
	while (i--)
		mci_loop_call(link->streams[i]->loop, unwatch, link->streams[i]);
	return ret;
}

void mci_tcp_link_discard(struct mci_tcp_link *link)
{
	unsigned int i;

	for (i = 0; i < link->count; i++)
		mci_sock_close(&link->streams[i]->sock);
	mci_tcp_link_put(link);
}
