// SPDX-License-Identifier: MIT
/*
 * One object's exchange: what the swarm decides is carried out here. A piece is read straight to its final
 * place. While a read or a check uses that place a second source's read of the same piece goes to a bounce
 * buffer, so that bytes which were verified are never written over. Loop thread, but for check().
 */
#include "p2p/p2p.h"

#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"

#define READ_MS 30000
#define ERRORS_MAX 3u /* reads in a row that failed: the way to that peer is broken */

static bool receives(const struct mci_object *object)
{
	return object->state == MCI_OBJECT_LIVE && !mci_swarm_complete(object->swarm);
}

/* ---- the swarm's answers ---- */

static struct mci_read *find_read(struct mci_link *link, uint32_t piece)
{
	struct mci_read *read;

	LIST_FOREACH(read, &link->reads, next)
		if (read->piece == piece && read->state <= MCI_READ_FLYING)
			return read;
	return NULL;
}

static void end_read(struct mci_read *read)
{
	struct mci_link *link = read->link;
	struct mci_object *object = link->object;

	LIST_REMOVE(read, next);
	link->read_count--;
	if (read->bounce >= 0)
		object->parts.busy &= ~(1u << read->bounce);
	LIST_INSERT_HEAD(&object->store->spare, read, next);
	mci_link_check(link);
	mci_object_check(object);
}

static void unpark(struct mci_object *object, uint32_t piece);

/* It came to nothing. */
static void fail_read(struct mci_read *read, enum mci_swarm_failure why)
{
	struct mci_link *link = read->link;
	struct mci_object *object = link->object;
	uint32_t piece = read->piece;
	bool direct = read->bounce < 0 && read->to;

	link->in_flight--;
	mci_swarm_failed(object->swarm, link->swarm, piece, mci_now_ns(), why);
	if (direct)
		object->direct[piece] = 0;
	end_read(read);
	if (direct)
		unpark(object, piece);
	object->retry = true;
	mci_fetch_kick(object);
}

static int choose_place(struct mci_read *read)
{
	struct mci_object *object = read->link->object;
	int i;

	read->bounce = -1;
	if (!object->direct[read->piece]) {
		object->direct[read->piece] = 1;
		read->to = mci_place_at(&object->place, mci_manifest_piece(object->manifest, read->piece));
		return 0;
	}
	for (i = 0; i < (int)MCI_P2P_BOUNCE; i++) {
		if (object->parts.busy & (1u << i))
			continue;
		object->parts.busy |= 1u << i;
		read->bounce = i;
		read->to = object->parts.memory + (uint64_t)i * object->parts.size;
		return 0;
	}
	return -EAGAIN;
}

/* Let it go, as soon as its source is open and its place is there. */
static void start_read(struct mci_read *read)
{
	struct mci_link *link = read->link;
	struct mci_object *object = link->object;
	struct mci_piece piece = mci_manifest_piece(object->manifest, read->piece);
	struct mc_submit_attr attr = MC_SUBMIT_ATTR_INIT;
	struct mc_remote remote = {.region = link->region[piece.range],
				   .offset = link->offset[piece.range] + piece.offset};
	int ret;

	if (!link->segment) {
		mci_link_open_segment(link);
		return;
	}
	if (choose_place(read))
		return;
	read->length = piece.length;
	attr.timeout_ms = READ_MS;
	ret = mc_batch_reset(read->batch);
	if (!ret)
		ret = mc_batch_add(read->batch, MC_READ, read->to, link->segment, remote, piece.length);
	read->state = MCI_READ_FLYING;
	if (!ret)
		ret = mc_batch_submit(read->batch, &attr);
	if (ret)
		fail_read(read, MCI_SWARM_ERROR);
}

/* Reads that waited for their source to be opened, or for a place. */
static void start_waiting(struct mci_object *object)
{
	struct mci_link *link;
	struct mci_read *read, *next;

	TAILQ_FOREACH(link, &object->links, next) {
		if (link->ending || !link->segment)
			continue;
		for (read = LIST_FIRST(&link->reads); read; read = next) {
			next = LIST_NEXT(read, next);
			if (read->state == MCI_READ_WAITING)
				start_read(read);
		}
	}
}

static void completed(struct mci_arrival *arrival);

static struct mci_read *new_read(struct mci_object *object)
{
	struct mc_p2p *store = object->store;
	struct mci_read *read = LIST_FIRST(&store->spare);

	if (read) {
		LIST_REMOVE(read, next);
		return read;
	}
	read = calloc(1, sizeof(*read));
	if (!read)
		return NULL;
	if (mc_batch_alloc(store->engine, 1, &read->batch)) {
		free(read);
		return NULL;
	}
	read->arrival.fn = completed;
	mc_batch_set_user(read->batch, &read->arrival);
	return read;
}

static void fetch(struct mci_object *object, struct mci_link *link, uint32_t piece)
{
	struct mci_read *read = receives(object) && !link->ending ? new_read(object) : NULL;

	if (!read) {
		mci_swarm_failed(object->swarm, link->swarm, piece, mci_now_ns(), MCI_SWARM_CANCELLED);
		if (receives(object) && !link->ending)
			mci_link_close(link, "no memory for one more read");
		return;
	}
	read->link = link;
	read->piece = piece;
	read->state = MCI_READ_WAITING;
	read->bounce = -1;
	read->to = NULL;
	read->overdue = false;
	read->seed = link->seed;
	LIST_INSERT_HEAD(&link->reads, read, next);
	link->read_count++;
	link->in_flight++;
	start_read(read);
}

static void cancel(struct mci_read *read)
{
	if (read->state == MCI_READ_WAITING)
		fail_read(read, MCI_SWARM_CANCELLED);
	else if (read->state == MCI_READ_FLYING)
		mc_batch_cancel(read->batch);
}

void mci_fetch_cancel(struct mci_link *link)
{
	struct mci_read *read, *next;

	for (read = LIST_FIRST(&link->reads); read; read = next) {
		next = LIST_NEXT(read, next);
		cancel(read);
	}
}

static void carry_out(struct mci_object *object, const struct mci_swarm_step *step)
{
	struct mci_link *link = mci_swarm_peer_user(step->peer);
	struct mci_read *read;

	switch (step->action) {
	case MCI_SWARM_FETCH:
		fetch(object, link, step->piece);
		break;
	case MCI_SWARM_CANCEL:
		read = find_read(link, step->piece);
		if (!read)
			break;
		read->overdue = mci_swarm_flights(object->swarm, step->piece) > 1;
		cancel(read);
		break;
	case MCI_SWARM_INTEREST:
		mci_link_number(link, MCI_P2P_INTEREST, step->on);
		break;
	case MCI_SWARM_GRANT:
		mci_link_number(link, MCI_P2P_GRANT, step->slots);
		if (!step->slots)
			mci_link_asked_back(link);
		break;
	case MCI_SWARM_RETURN:
		mci_link_number(link, MCI_P2P_RETURN, step->slots);
		break;
	case MCI_SWARM_ANNOUNCE:
		mci_link_fetches(link, step->piece, step->on);
		break;
	case MCI_SWARM_NOTHING:
		break;
	}
}

static void run(struct mci_object *object)
{
	struct mci_swarm_step step;
	uint64_t next;

	if (object->retry) {
		object->retry = false;
		start_waiting(object);
	}
	for (;;) {
		mci_swarm_step(object->swarm, mci_now_ns(), &step);
		if (step.action == MCI_SWARM_NOTHING)
			break;
		carry_out(object, &step);
	}
	next = mci_swarm_next_ns(object->swarm);
	mci_loop_timer_clear(object->store->loop, &object->step);
	if (next != UINT64_MAX)
		mci_loop_timer_set(object->store->loop, &object->step, next);
	mci_object_check(object);
}

static void kicked(struct mci_task *task)
{
	struct mci_object *object = mci_of(task, struct mci_object, kick);

	object->kicked = false;
	object->jobs--;
	run(object);
}

static void step_time(struct mci_timer *timer) { run(mci_of(timer, struct mci_object, step)); }

void mci_fetch_kick(struct mci_object *object)
{
	if (object->kicked)
		return;
	object->kicked = true;
	object->jobs++;
	object->kick.fn = kicked;
	mci_loop_post(object->store->loop, &object->kick);
}

/* ---- what came ---- */

static void hold(struct mci_object *object, uint32_t piece)
{
	if (object->store->hooks.corrupt)
		mci_place_at(&object->place, mci_manifest_piece(object->manifest, piece))[0] ^= 0xff;
	object->held += mci_manifest_piece(object->manifest, piece).length;
	mci_swarm_have(object->swarm, piece);
	mci_link_have(object, piece);
	if (!mci_swarm_complete(object->swarm))
		return;
	object->end_ns = mci_now_ns();
	if (object->task)
		mci_task_complete(object->task);
}

static void take_parked(struct mci_read *read)
{
	struct mci_object *object = read->link->object;
	struct mci_piece piece = mci_manifest_piece(object->manifest, read->piece);

	if (!mci_swarm_holds(object->swarm, read->piece)) {
		memcpy(mci_place_at(&object->place, piece), read->to, piece.length);
		hold(object, read->piece);
	}
	end_read(read);
}

/* The place of @piece is free again: what was verified beside it moves in. */
static void unpark(struct mci_object *object, uint32_t piece)
{
	struct mci_link *link;
	struct mci_read *read, *next;

	if (!object->parked)
		return;
	TAILQ_FOREACH(link, &object->links, next) {
		for (read = LIST_FIRST(&link->reads); read; read = next) {
			next = LIST_NEXT(read, next);
			if (read->state == MCI_READ_PARKED && read->piece == piece) {
				object->parked--;
				read->state = MCI_READ_CHECKING;
				take_parked(read);
				unpark(object, piece); /* the lists may have changed */
				return;
			}
		}
	}
}

static void check(struct mci_job *job)
{
	struct mci_read *read = mci_of(job, struct mci_read, check);
	const struct mci_manifest *manifest = read->link->object->manifest;
	uint8_t hash[MCI_P2P_HASH];

	mci_piece_hash(read->to, read->length, hash);
	read->ok =
		read->link->store->hooks.no_check || !memcmp(hash, manifest->hash[read->piece], MCI_P2P_HASH);
}

static struct mci_blamed *blamed(const struct mci_object *object, const struct mc_uuid *uuid)
{
	unsigned int i;

	for (i = 0; i < object->blamed_count; i++)
		if (mci_uuid_equal(&object->blamed[i].uuid, uuid))
			return &object->blamed[i];
	return NULL;
}

bool mci_fetch_avoids(const struct mci_object *object, const struct mc_uuid *uuid)
{
	const struct mci_blamed *one = blamed(object, uuid);

	return one && one->bad >= MCI_P2P_BAD;
}

static unsigned int count_bad(struct mci_object *object, const struct mc_uuid *uuid)
{
	struct mci_blamed *one = blamed(object, uuid);

	if (!one) {
		one = realloc(object->blamed, (object->blamed_count + 1) * sizeof(*one));
		if (!one)
			return 1;
		object->blamed = one;
		one += object->blamed_count++;
		*one = (struct mci_blamed){.uuid = *uuid};
	}
	return ++one->bad;
}

static void blame(struct mci_read *read)
{
	struct mci_link *link = read->link;
	struct mci_object *object = link->object;
	unsigned int bad = count_bad(object, &link->peer.uuid);

	mci_swarm_bad(object->swarm, link->swarm, read->piece);
	if (bad >= MCI_P2P_BAD && link->swarm && !mci_swarm_peer_avoided(link->swarm))
		mci_swarm_peer_leaving(object->swarm, link->swarm);
	object->bad++;
	mci_object_note(object, "piece %u from '%s' did not match its hash%s", read->piece, link->peer.name,
			bad < MCI_P2P_BAD ? "; it is fetched anew"
					  : ", and it was not the first: that member is avoided from now on");
	/* What was under way from the same member comes in its wake. */
	mci_log(bad <= MCI_P2P_BAD ? MCI_LOG_WARNING : MCI_LOG_INFO, "object '%s': %s", object->name,
		object->note);
}

static void checked(struct mci_job *job)
{
	struct mci_read *read = mci_of(job, struct mci_read, check);
	struct mci_object *object = read->link->object;
	uint32_t piece = read->piece;

	object->jobs--;
	if (read->bounce >= 0 && read->ok && object->direct[piece] &&
	    !mci_swarm_holds(object->swarm, piece)) {
		read->state = MCI_READ_PARKED;
		object->parked++;
		mci_fetch_kick(object);
		return;
	}
	if (!read->ok) {
		blame(read);
	} else if (read->bounce >= 0) {
		take_parked(read);
		goto out;
	} else {
		hold(object, piece);
	}
	if (read->bounce < 0)
		object->direct[piece] = 0;
	end_read(read);
out:
	unpark(object, piece);
	object->retry = true;
	mci_fetch_kick(object);
}

static void arrived(struct mci_read *read)
{
	struct mci_link *link = read->link;
	struct mci_object *object = link->object;
	uint32_t piece = read->piece;
	bool direct = read->bounce < 0;

	object->fetched += read->length;
	if (read->seed)
		object->from_seeds += read->length;
	link->errors = 0;
	link->in_flight--;
	if (mci_swarm_done(object->swarm, link->swarm, piece, mci_now_ns())) {
		read->state = MCI_READ_CHECKING;
		read->check.run = check;
		read->check.done = checked;
		read->check.loop = object->store->loop;
		object->jobs++;
		mci_pool_add(object->store->hashers, &read->check);
	} else { /* another was faster */
		if (direct)
			object->direct[piece] = 0;
		end_read(read);
		if (direct)
			unpark(object, piece);
		object->retry = true;
	}
	mci_link_check(link);
	mci_fetch_kick(object);
}

static void completed(struct mci_arrival *arrival)
{
	struct mci_read *read = mci_of(arrival, struct mci_read, arrival);
	struct mci_link *link = read->link;
	struct mc_status status;

	mc_batch_status(read->batch, 0, &status);
	if (status.state == MC_DONE) {
		arrived(read);
		return;
	}
	/* Cancelled because it took too long, not because another was faster: an error of the source. */
	if (status.state == MC_CANCELLED && !read->overdue) {
		fail_read(read, MCI_SWARM_CANCELLED);
		return;
	}
	mci_info("object '%s': piece %u from '%s': %s", link->object->name, read->piece, link->peer.name,
		 status.state == MC_CANCELLED ? "it takes too long" : strerror(-status.error));
	if (++link->errors == ERRORS_MAX)
		mci_link_close(link, "its memory cannot be read");
	fail_read(read, MCI_SWARM_ERROR);
}

void mci_fetch_completions(struct mci_watch *watch, uint32_t events)
{
	struct mc_p2p *store = mci_of(watch, struct mc_p2p, completions);
	struct mc_notify notify = {.size = sizeof(notify)};
	mc_batch *batch;

	(void)events;
	while (!mc_engine_completed(store->engine, &batch)) {
		struct mci_arrival *arrival = mc_batch_user(batch);

		arrival->fn(arrival);
	}
	/* Nobody here waits for notifies; left alone they would keep the descriptor readable. */
	while (!mc_notify_recv(store->engine, &notify, 0))
		free(notify.message);
}

/* ---- beginning and end ---- */

int mci_fetch_open(struct mci_object *object)
{
	object->direct = calloc(object->manifest->piece_count, 1);
	if (!object->direct)
		return mci_fail(-ENOMEM, "no memory for the %u pieces of '%s'", object->manifest->piece_count,
				object->name);
	object->step.fn = step_time;
	object->say.fn = mci_link_flush;
	return 0;
}

void mci_fetch_close(struct mci_object *object)
{
	struct mci_loop *loop = object->store->loop;

	mci_loop_timer_clear(loop, &object->step);
	mci_loop_timer_clear(loop, &object->say);
	mci_loop_timer_clear(loop, &object->dial);
	mci_loop_timer_clear(loop, &object->refresh);
	mci_loop_timer_clear(loop, &object->guard);
	free(object->direct);
	free(object->blamed);
	mci_swarm_free(object->swarm);
	object->swarm = NULL;
}

void mci_fetch_progress(struct mci_object *object, struct mc_p2p_progress *progress)
{
	const struct mci_manifest *manifest = object->manifest;
	const struct mci_link *link;
	uint64_t end = object->end_ns ? object->end_ns : mci_now_ns();

	progress->bytes = manifest->bytes;
	progress->pieces = manifest->piece_count;
	if (!object->swarm)
		return;
	progress->pieces_held = mci_swarm_held(object->swarm);
	progress->missing = mci_swarm_missing(object->swarm);
	progress->held = object->held;
	progress->reused = object->reused;
	progress->fetched = object->fetched;
	progress->from_seeds = object->from_seeds;
	progress->bad_pieces = object->bad;
	progress->elapsed_ns = end - object->start_ns;
	progress->members = object->member_count;
	TAILQ_FOREACH(link, &object->links, next)
		progress->sources += link->in_flight > 0;
}
