// SPDX-License-Identifier: MIT
/*
 * Connections to other members: dialled, or taken in; one per pair of members and object. Of two that were
 * dialled at once the one stays that the member with the smaller uuid dialled. Loop thread, but for what says
 * otherwise.
 */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/uuid.h"

#define SEGMENT_MS 5000
#define STRANGERS_MAX 256u
#define STRANGER_MS 30000 /* to say what it wants, or to answer our JOIN */
#define SLOT_MS 60000	  /* to give back a slot: a read on it ends after 30 s at the latest */

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	struct mci_link *link = arg;

	(void)conn;
	if (frame->fd >= 0)
		close(frame->fd);
	if (!link->ending)
		mci_message(link, frame);
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	struct mci_link *link = arg;

	(void)conn;
	link->conn = NULL;
	mci_loop_timer_clear(link->store->loop, &link->stay);
	mci_link_close(link, err ? strerror(-err) : "it left");
	mci_link_check(link);
}

static const struct mci_conn_ops conn_ops = {.frame = on_frame, .closed = on_closed};

static struct mci_link *new_link(struct mc_p2p *store)
{
	struct mci_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->store = store;
	link->sock.fd = -1;
	LIST_INIT(&link->reads);
	return link;
}

static void free_link(struct mci_link *link)
{
	free(link->have.piece);
	free(link->changes.piece);
	free(link->region);
	free(link->offset);
	free(link);
}

/* ---- the end of a link ---- */

static void segment_closed(struct mci_job *job)
{
	struct mci_link *link = mci_of(job, struct mci_link, job);

	link->object->jobs--;
	link->opening = false;
	mci_link_check(link);
}

static void close_segment(struct mci_job *job)
{
	struct mci_link *link = mci_of(job, struct mci_link, job);

	if (mc_segment_close(link->opened))
		mci_error("the segment of '%s' stays open: %s", link->peer.name, mc_errmsg());
}

static void use_pool(struct mci_link *link, void (*run)(struct mci_job *job),
		     void (*done)(struct mci_job *job))
{
	link->opening = true;
	link->object->jobs++;
	link->job = (struct mci_job){.run = run, .done = done, .loop = link->store->loop};
	mci_pool_add(link->store->callers, &link->job);
}

static void forget_stranger(struct mci_link *link)
{
	struct mc_p2p *store = link->store;

	LIST_REMOVE(link, next_stranger);
	free_link(link);
	pthread_mutex_lock(&store->lock);
	store->stranger_count--;
	pthread_cond_broadcast(&store->wake);
	pthread_mutex_unlock(&store->lock);
}

/* What an ending link still waits for; then it goes. From the loop alone, so that nobody loses it while he
 * looks at it. */
static void settle(struct mci_task *task)
{
	struct mci_link *link = mci_of(task, struct mci_link, task);
	struct mci_object *object = link->object;

	link->posted = false;
	if (!object) {
		if (!link->conn)
			forget_stranger(link);
		return;
	}
	if (link->swarm && !link->in_flight) {
		mci_swarm_peer_remove(object->swarm, link->swarm);
		link->swarm = NULL;
		mci_fetch_kick(object);
	}
	if (link->conn || link->swarm || link->opening || link->in_flight)
		return;
	if (link->segment) {
		link->opened = link->segment;
		link->segment = NULL;
		use_pool(link, close_segment, segment_closed);
		return;
	}
	if (link->read_count)
		return;
	TAILQ_REMOVE(&object->links, link, next);
	free_link(link);
	mci_object_check(object);
}

void mci_link_check(struct mci_link *link)
{
	if (!link->ending || link->posted)
		return;
	link->posted = true;
	link->task.fn = settle;
	mci_loop_post(link->store->loop, &link->task);
}

void mci_link_close(struct mci_link *link, const char *why)
{
	struct mci_object *object = link->object;

	if (link->ending)
		return;
	link->ending = true;
	if (object && why)
		mci_info("object '%s': the connection with '%s' ends: %s", object->name, link->peer.name,
			 why);
	if (link->member && link->member->link == link) {
		link->member->link = NULL;
		mci_member_later(object, link->member);
	}
	link->member = NULL;
	if (link->swarm)
		mci_swarm_peer_leaving(object->swarm, link->swarm);
	if (link->conn)
		mci_conn_close(link->conn);
	if (object) {
		mci_fetch_cancel(link);
		mci_fetch_kick(object);
	}
	mci_link_check(link);
}

/* ---- what a peer has time for ---- */

static void stayed(struct mci_timer *timer)
{
	mci_link_close(mci_of(timer, struct mci_link, stay), "it does not say which object it is there for");
}

static void kept(struct mci_timer *timer)
{
	mci_link_close(mci_of(timer, struct mci_link, stay), "it does not give back slots that others wait for");
}

static void give_time(struct mci_link *link, void (*fn)(struct mci_timer *timer), uint64_t ms)
{
	uint64_t hurry = link->store->hooks.patience_ms;

	link->stay.fn = fn;
	mci_loop_timer_set(link->store->loop, &link->stay, mci_now_ns() + (hurry ? hurry : ms) * MCI_NS_PER_MS);
}

void mci_link_asked_back(struct mci_link *link)
{
	if (link->conn && !link->ending && !link->stay.armed)
		give_time(link, kept, SLOT_MS);
}

void mci_link_gave_back(struct mci_link *link)
{
	if (!link->stay.armed)
		return;
	mci_loop_timer_clear(link->store->loop, &link->stay);
	if (mci_swarm_peer_owes(link->swarm))
		mci_link_asked_back(link);
}

/* ---- dialling ---- */

static void dial(struct mci_job *job)
{
	struct mci_link *link = mci_of(job, struct mci_link, job);
	struct mci_hello hello;

	link->error = mci_engine_dial(link->store->engine, link->name, MCI_ROLE_P2P,
				      mci_now_ns() + MCI_P2P_DIAL_MS * MCI_NS_PER_MS, &link->sock, &hello);
	if (link->error)
		snprintf(link->why, sizeof(link->why), "%s", mc_errmsg());
	else
		link->peer = hello.peer;
}

/* Another link to the same member about the same object that lives. */
static struct mci_link *rival(const struct mci_link *link, const struct mci_object *object)
{
	struct mci_link *other;

	TAILQ_FOREACH(other, &object->links, next)
		if (other != link && !other->ending && other->conn &&
		    mci_uuid_equal(&other->peer.uuid, &link->peer.uuid))
			return other;
	return NULL;
}

/* Does @link stay beside (in place of) @other? Both sides come to the same answer. */
static bool preferred(const struct mci_link *link, const struct mci_link *other)
{
	bool we_are_smaller = memcmp(link->store->uuid.b, link->peer.uuid.b, sizeof(link->peer.uuid.b)) < 0;

	/* The same side dialled anew: to it the old one is dead. */
	if (link->dialled == other->dialled)
		return true;
	return link->dialled == we_are_smaller;
}

static void dialled(struct mci_job *job)
{
	struct mci_link *link = mci_of(job, struct mci_link, job);
	struct mci_object *object = link->object;
	struct mci_link *other;

	object->jobs--;
	link->opening = false;
	if (link->error) {
		mci_info("object '%s': member '%s' cannot be reached: %s", object->name, link->name,
			 link->why);
		if (object->task)
			mci_object_note(object, "member '%s' cannot be reached: %.160s", link->name,
					link->why);
		goto err_end;
	}
	if (link->ending || object->state != MCI_OBJECT_LIVE)
		goto err_close;
	if (link->member)
		link->member->uuid = link->peer.uuid;
	if (mci_uuid_equal(&link->peer.uuid, &link->store->uuid)) {
		if (link->member)
			link->member->self = true;
		goto err_close;
	}
	other = rival(link, object);
	if (other && !preferred(link, other))
		goto err_close;
	if (mci_conn_start(link->store->loop, link->sock, MCI_P2P_FRAME_MAX, &conn_ops, link, &link->conn))
		goto err_close;
	if (other) {
		other->member = NULL;
		mci_link_close(other, "a newer one takes its place");
	}
	give_time(link, stayed, STRANGER_MS);
	mci_link_say_join(link);
	return;

err_close:
	mci_sock_close(&link->sock);
err_end:
	mci_link_close(link, NULL);
	mci_link_check(link);
}

int mci_link_dial(struct mci_object *object, struct mci_member *member)
{
	struct mci_link *link = new_link(object->store);

	if (!link)
		return -ENOMEM;
	link->object = object;
	link->member = member;
	link->dialled = true;
	link->seed = member->seed;
	snprintf(link->name, sizeof(link->name), "%s", member->segment);
	snprintf(link->peer.name, sizeof(link->peer.name), "%s", member->segment);
	member->link = link;
	TAILQ_INSERT_TAIL(&object->links, link, next);
	use_pool(link, dial, dialled);
	return 0;
}

/* ---- taken in ---- */

static void decided(struct mc_p2p *store)
{
	pthread_mutex_lock(&store->lock);
	store->accepting--;
	pthread_cond_broadcast(&store->wake);
	pthread_mutex_unlock(&store->lock);
}

static void on_arrived(struct mci_task *task)
{
	struct mci_link *link = mci_of(task, struct mci_link, task);
	struct mc_p2p *store = link->store;

	if (store->closing ||
	    mci_conn_start(store->loop, link->sock, MCI_P2P_FRAME_MAX, &conn_ops, link, &link->conn)) {
		mci_sock_close(&link->sock);
		free_link(link);
		decided(store);
		return;
	}
	LIST_INSERT_HEAD(&store->strangers, link, next_stranger);
	pthread_mutex_lock(&store->lock);
	store->stranger_count++;
	pthread_mutex_unlock(&store->lock);
	mci_conn_account(link->conn, mci_engine_ledger(store->engine), &link->payer);
	give_time(link, stayed, STRANGER_MS);
	decided(store);
}

/* A thread of the engine. */
static void ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	struct mci_link *link = arg;
	struct mc_p2p *store = link->store;

	if (error) {
		free_link(link);
		decided(store);
		return;
	}
	link->sock = sock;
	link->peer = hello->peer;
	link->task.fn = on_arrived;
	mci_loop_post(store->loop, &link->task);
}

/* A thread of the engine. */
void mci_link_incoming(void *arg, struct mci_incoming *in)
{
	struct mc_p2p *store = arg;
	struct mci_link *link = NULL;
	bool room;

	pthread_mutex_lock(&store->lock);
	room = store->accepting + store->stranger_count < STRANGERS_MAX;
	store->accepting++;
	pthread_mutex_unlock(&store->lock);
	if (room)
		link = new_link(store);
	if (!link) {
		decided(store);
		mci_incoming_reject(in, -EBUSY,
				    "this member has no room for one more connection now; try again");
		return;
	}
	link->payer = *mci_incoming_payer(in);
	mci_incoming_accept(in, NULL, 0, ready, link);
}

/* ---- joining ---- */

static int take_regions(struct mci_link *link, const struct mci_p2p_join *join)
{
	uint32_t i;

	link->region = calloc(join->region_count, sizeof(*link->region));
	link->offset = calloc(join->region_count, sizeof(*link->offset));
	if (!link->region || !link->offset)
		return -ENOMEM;
	for (i = 0; i < join->region_count; i++)
		mci_p2p_join_region(join, i, &link->region[i], &link->offset[i]);
	return 0;
}

static int joined(struct mci_link *link, const struct mci_p2p_join *join)
{
	struct mci_object *object = link->object;
	int ret;

	ret = take_regions(link, join);
	link->seed = join->flags & MCI_P2P_JOIN_SEED;
	if (!ret)
		ret = mci_swarm_peer_add(object->swarm, &link->peer.uuid, link->seed, link, &link->swarm);
	if (ret) {
		mci_link_close(link, "no memory for one more member");
		return ret;
	}
	link->joined = true;
	mci_loop_timer_clear(link->store->loop, &link->stay);
	if (mci_fetch_avoids(object, &link->peer.uuid))
		mci_swarm_peer_leaving(object->swarm, link->swarm);
	if (!link->member)
		link->member = mci_member_of(object, link->peer.name);
	if (link->member) {
		link->member->link = link;
		link->member->uuid = link->peer.uuid;
		link->member->seed = link->seed;
		link->member->tries = 0;
	}
	mci_link_say_map(link);
	mci_link_say_members(link);
	mci_fetch_kick(object);
	return 0;
}

/* A stranger says what it is about. */
static int adopt(struct mci_link *link, struct mci_object *object)
{
	struct mci_link *other = rival(link, object);

	if (other && !preferred(link, other)) {
		mci_link_close(link, NULL);
		return -EEXIST;
	}
	mci_loop_timer_clear(link->store->loop, &link->stay);
	LIST_REMOVE(link, next_stranger);
	pthread_mutex_lock(&link->store->lock);
	link->store->stranger_count--;
	pthread_cond_broadcast(&link->store->wake);
	pthread_mutex_unlock(&link->store->lock);
	link->object = object;
	TAILQ_INSERT_TAIL(&object->links, link, next);
	if (other) {
		other->member = NULL;
		mci_link_close(other, "a newer one takes its place");
	}
	return mci_link_say_join(link);
}

int mci_link_join(struct mci_link *link, const struct mci_p2p_join *join)
{
	struct mci_object *object = link->object;

	if (link->joined || strcmp(join->segment, link->peer.name))
		return -EPROTO;
	if (!object) {
		object = mci_object_by_root(link->store, join->root);
		if (!object)
			return mci_link_error(link, 0, -ENOENT,
					      "this member does not have that object, or not any more");
		if (join->region_count != object->manifest->range_count)
			return -EPROTO;
		if (adopt(link, object))
			return 0;
	} else if (memcmp(join->root, object->manifest->root, MCI_P2P_HASH) ||
		   join->region_count != object->manifest->range_count) {
		return -EPROTO;
	}
	if (!link->ending && object->state == MCI_OBJECT_LIVE)
		joined(link, join);
	else
		mci_link_close(link, NULL);
	return 0;
}

/* ---- the segment to read from ---- */

static void open_segment(struct mci_job *job)
{
	struct mci_link *link = mci_of(job, struct mci_link, job);
	struct mc_segment_attr attr = MC_SEGMENT_ATTR_INIT;

	attr.timeout_ms = SEGMENT_MS;
	link->error = mc_segment_open(link->store->engine, link->peer.name, &attr, &link->opened);
	if (link->error)
		snprintf(link->why, sizeof(link->why), "%s", mc_errmsg());
}

static void segment_opened(struct mci_job *job)
{
	struct mci_link *link = mci_of(job, struct mci_link, job);
	struct mci_object *object = link->object;

	object->jobs--;
	link->opening = false;
	if (link->error) {
		mci_object_note(object, "member '%s' cannot be read from: %.160s", link->peer.name,
				link->why);
		mci_info("object '%s': %s", object->name, object->note);
		mci_link_close(link, NULL);
	} else {
		link->segment = link->opened;
		object->retry = true;
		mci_fetch_kick(object);
	}
	mci_link_check(link);
}

void mci_link_open_segment(struct mci_link *link)
{
	if (!link->opening && !link->segment && !link->ending)
		use_pool(link, open_segment, segment_opened);
}
