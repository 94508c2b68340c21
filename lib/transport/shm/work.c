// SPDX-License-Identifier: MIT
/*
 * Initiator: requests are claimed under peer->lock, entered in the use page, copied under no lock (move.c),
 * and told as final after the last byte only if the region and the connection were still there then.
 */
#include <errno.h>

#include "core/clock.h"
#include "transport/shm/shm.h"

/* request->state: flags, the verdict and its errno. */
static void set_verdict(struct mci_request *r, enum mc_state state, int error)
{
	if (!(r->state >> 8))
		r->state |= (uint32_t)state << 8 | (uint32_t)-error << 16;
}

void mci_shm_finals_push(struct mci_shm_finals *finals, struct mci_request *r, enum mc_state state, int error)
{
	set_verdict(r, state, error);
	r->next = NULL;
	*finals->last = r;
	finals->last = &r->next;
}

void mci_shm_finals_tell(struct mci_peer *peer, struct mci_shm_finals *finals)
{
	struct mci_request *r = finals->first, *next;

	for (; r; r = next) {
		enum mc_state state = (enum mc_state)(r->state >> 8 & 0xff);

		next = r->next;
		peer->host->complete(r, state, -(int)(r->state >> 16), state == MC_DONE ? r->length : 0, 0);
	}
	mci_shm_finals_init(finals);
}

void mci_shm_queue_add(struct mci_shm_queue *queue, struct mci_request *r)
{
	r->next = NULL;
	r->prev = queue->last;
	if (queue->last)
		queue->last->next = r;
	else
		queue->first = r;
	queue->last = r;
}

void mci_shm_queue_del(struct mci_shm_queue *queue, struct mci_request *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		queue->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		queue->last = r->prev;
	r->next = r->prev = NULL;
}

/* Off whatever queue it is on. */
static void take_off(struct mci_peer *peer, struct mci_shm_queue *own, struct mci_request *r)
{
	if (r->state & MCI_SHM_QUEUED) {
		mci_shm_queue_del(&peer->queue[r->priority <= 0], r);
		atomic_fetch_sub_explicit(&peer->queued, 1, memory_order_relaxed);
		peer->queued_bytes -= r->length - r->cursor;
	} else if (r->state & MCI_SHM_WAITING) {
		mci_shm_queue_del(&mci_shm_map_of(peer->link, r)->waiting, r);
		peer->waiting--;
	} else if (r->state & MCI_SHM_PARKED) {
		mci_shm_queue_del(&peer->parked, r);
	} else if (own) {
		mci_shm_queue_del(own, r);
	}
	r->state &= ~(MCI_SHM_QUEUED | MCI_SHM_WAITING | MCI_SHM_PARKED);
}

/* @r is not copied any more: out of its region. */
static void leave(struct mci_peer *peer, struct mci_shm_link *link, struct mci_request *r)
{
	struct mci_shm_map *map = mci_shm_map_of(link, r);

	mci_shm_leave(&link->use->slot[mci_shm_tag_slot(r->tag)]);
	r->state &= ~MCI_SHM_INSIDE;
	if (!--map->users && map->state != MCI_SHM_MAP_READY)
		mci_shm_map_drop(map);
	link->inside--;
	if (link != peer->link && !--peer->old_inside)
		pthread_cond_broadcast(&peer->changed);
	mci_shm_link_put(link);
}

void mci_shm_take_off(struct mci_peer *peer, struct mci_request *r, struct mci_shm_queue *left)
{
	take_off(peer, NULL, r);
	if (r->outstanding)
		return; /* the last thread that copies for it sees to it */
	if (r->state & MCI_SHM_INSIDE)
		leave(peer, peer->link, r);
	mci_shm_queue_add(left, r);
}

static void end(struct mci_peer *peer, struct mci_shm_queue *own, struct mci_request *r, enum mc_state state,
		int error, struct mci_shm_finals *finals)
{
	take_off(peer, own, r);
	set_verdict(r, state, error);
	if (r->outstanding)
		return; /* the last thread that copies for it tells it */
	if (r->state & MCI_SHM_INSIDE)
		leave(peer, peer->link, r);
	mci_shm_finals_push(finals, r, state, error);
}

void mci_shm_end(struct mci_peer *peer, struct mci_request *r, enum mc_state state, int error,
		 struct mci_shm_finals *finals)
{
	end(peer, NULL, r, state, error, finals);
}

/* Why must this request not be copied? 0 = it may. */
static int refuse(const struct mci_request *r, uint64_t now, enum mc_state *state)
{
	*state = MC_FAILED;
	if (atomic_load_explicit(&r->cancelled, memory_order_relaxed)) {
		*state = MC_CANCELLED;
		return -ECANCELED;
	}
	if (now >= r->deadline_ns) {
		*state = MC_TIMED_OUT;
		return -ETIMEDOUT;
	}
	if (atomic_load_explicit(&r->remote->stale, memory_order_relaxed))
		return -ESTALE;
	return 0;
}

/* Enter its region. 0; -EAGAIN: it has to be asked for first; or why it fails. */
static int enter(struct mci_shm_link *link, struct mci_shm_map *map, struct mci_request *r)
{
	if (map->state == MCI_SHM_MAP_UNUSABLE)
		return -EOPNOTSUPP;
	if (map->state != MCI_SHM_MAP_READY)
		return -EAGAIN;
	if (!(map->rights & (r->op == MCI_OP_WRITE ? MC_REMOTE_WRITE : MC_REMOTE_READ)))
		return -EACCES;
	if (!mci_shm_enter(&link->use->slot[map->slot], &link->table->word[map->slot], map->stamp)) {
		map->state = MCI_SHM_MAP_IDLE;
		return -EAGAIN;
	}
	r->tag = mci_shm_tag(map);
	r->state |= MCI_SHM_INSIDE;
	map->users++;
	link->refs++;
	link->inside++;
	return 0;
}

static void park(struct mci_peer *peer, struct mci_shm_queue *own, struct mci_request *r)
{
	struct mci_shm_map *map = mci_shm_map_of(peer->link, r);

	take_off(peer, own, r);
	r->state |= MCI_SHM_WAITING;
	mci_shm_queue_add(&map->waiting, r);
	peer->waiting++;
	mci_shm_peer_tick(peer);
	if (map->state != MCI_SHM_MAP_ASKED)
		mci_shm_link_ask(peer->link, (unsigned int)(r->remote - peer->regions));
}

#define LOOK 8 /* requests at the head of the queue among which a thread chooses */

/*
 * What to do next: the large request that this thread is at, else one that nobody is at, else the first.
 * Threads that stream through requests of their own disturb each other less than those that share one.
 */
static struct mci_request *choose(struct mci_peer *peer, struct mci_shm_queue *own,
				  const struct mci_request *mine)
{
	struct mci_request *first, *free = NULL, *r;
	unsigned int i = 0;

	if (own)
		return own->first;
	first = peer->queue[0].first ? peer->queue[0].first : peer->queue[1].first;
	for (r = first; r && i < LOOK; r = r->next, i++) {
		if (r == mine)
			return r;
		if (!free && !r->outstanding)
			free = r;
	}
	return free ? free : first;
}

/* The next part of a large request: a quarter of it, so that others find some to do, within bounds. */
static uint64_t chunk_of(const struct mci_request *r)
{
	uint64_t chunk = (r->length / 4 + MCI_SHM_UNIT - 1) / MCI_SHM_UNIT * MCI_SHM_UNIT;

	if (chunk < MCI_SHM_CHUNK)
		chunk = MCI_SHM_CHUNK;
	if (chunk > MCI_SHM_CHUNK_MAX)
		chunk = MCI_SHM_CHUNK_MAX;
	return r->length - r->cursor < chunk ? r->length - r->cursor : chunk;
}

/* Fill a lot: several small requests, or one part of a large one. peer->lock held. */
static void claim(struct mci_peer *peer, struct mci_shm_queue *own, struct mci_shm_lot *lot,
		  struct mci_shm_finals *finals)
{
	static _Thread_local struct mci_request *mine; /* compared only: it may be gone */
	uint64_t now = mci_now_ns();
	struct mci_request *r;

	lot->count = 0;
	lot->link = NULL;
	lot->bytes = lot->offset = lot->length = 0;
	lot->part = false;
	while ((r = choose(peer, own, mine)) && lot->count < MCI_SHM_LOT) {
		bool large = r->length > MCI_SHM_CHUNK;
		struct mci_shm_map *map;
		enum mc_state state;
		int ret;

		if (lot->count && (large || lot->bytes + r->length > MCI_SHM_CHUNK))
			break;
		ret = refuse(r, now, &state);
		if (ret) {
			end(peer, own, r, state, ret, finals);
			continue;
		}
		if (!peer->link) { /* lost since it was submitted */
			take_off(peer, own, r);
			mci_shm_peer_again(peer, r, finals);
			continue;
		}
		map = mci_shm_map_of(peer->link, r);
		if (!(r->state & MCI_SHM_INSIDE)) {
			ret = enter(peer->link, map, r);
			if (ret == -EAGAIN) {
				park(peer, own, r);
				continue;
			} else if (ret) {
				end(peer, own, r, MC_FAILED, ret, finals);
				continue;
			}
		}
		lot->link = peer->link;
		lot->item[lot->count] = r;
		lot->map[lot->count] = map;
		lot->error[lot->count++] = 0;
		if (!large) {
			take_off(peer, own, r);
			r->outstanding = 1;
			r->cursor = r->length;
			lot->bytes += r->length;
			continue;
		}
		mine = r;
		lot->part = true;
		lot->offset = r->cursor;
		lot->length = lot->bytes = chunk_of(r);
		r->outstanding++;
		if (lot->offset + lot->length == r->length)
			take_off(peer, own, r);
		else
			peer->queued_bytes -= lot->length;
		r->cursor += lot->length;
		break;
	}
	if (lot->count) {
		peer->active++;
		peer->claims++;
	}
}

/* A thread has done its part of @r. If it was the last: judge. peer->lock held. */
static void judge(struct mci_peer *peer, struct mci_shm_lot *lot, struct mci_request *r, bool lives,
		  struct mci_shm_finals *finals)
{
	struct mci_shm_link *link = lot->link;

	if (--r->outstanding || r->state & MCI_SHM_QUEUED)
		return;
	if (!(r->state >> 8) && (!lives || r->cursor < r->length)) {
		leave(peer, link, r);
		atomic_fetch_add_explicit(&peer->host->stats.resent, 1, memory_order_relaxed);
		mci_shm_peer_again(peer, r, finals);
		return;
	}
	if (!mci_shm_alive(&link->table->word[mci_shm_tag_slot(r->tag)], mci_shm_tag_stamp(r->tag)))
		set_verdict(r, MC_FAILED, -ESTALE); /* the owner gave up on us */
	leave(peer, link, r);
	mci_shm_finals_push(finals, r, MC_DONE, 0);
}

static void finish(struct mci_peer *peer, struct mci_shm_lot *lot, struct mci_shm_finals *finals)
{
	struct mci_shm_link *link = lot->link;
	bool lives;

	/* Looked at after the last byte, and while we are inside still. */
	lives = mci_shm_link_lives(link);
	for (unsigned int i = 0; i < lot->count; i++)
		lives &= lot->error[i] != -ECONNRESET;
	pthread_mutex_lock(&peer->lock);
	peer->active--;
	if (!lives)
		mci_shm_peer_detach(peer, link, finals);
	else if (atomic_load(&link->dead) && !peer->transport->hooks.no_liveness)
		lives = false;
	for (unsigned int i = 0; i < lot->count; i++) {
		struct mci_request *r = lot->item[i];

		if (lot->error[i] && lot->error[i] != -ECONNRESET) {
			if (r->state & MCI_SHM_QUEUED) /* parts of it were not begun: they never will */
				mci_shm_end(peer, r, MC_FAILED, lot->error[i], finals);
			set_verdict(r, MC_FAILED, lot->error[i]);
		}
		judge(peer, lot, r, lives, finals);
	}
	pthread_mutex_unlock(&peer->lock);
}

bool mci_shm_work(struct mci_peer *peer, struct mci_shm_queue *own)
{
	struct mci_shm_hooks *hooks = &peer->transport->hooks;
	struct mci_shm_finals finals;
	struct mci_shm_lot lot;
	bool did;

	mci_shm_finals_init(&finals);
	pthread_mutex_lock(&peer->lock);
	claim(peer, own, &lot, &finals);
	pthread_mutex_unlock(&peer->lock);
	did = lot.link || finals.first;
	if (lot.link) {
		if (hooks->inside)
			hooks->inside(hooks->arg);
		mci_shm_move(&lot);
		finish(peer, &lot, &finals);
	}
	mci_shm_finals_tell(peer, &finals);
	return did;
}
