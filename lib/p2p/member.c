// SPDX-License-Identifier: MIT
/*
 * Whom there is, and whom to dial. Members come from the metadata service (looked at anew when it says that
 * something changed), or from the user and from other members. Receivers dial; who holds everything waits to
 * be dialled, but where there is no metadata service, since there nobody else might know the other. Loop
 * thread, but for the jobs.
 */
#include "p2p/p2p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"

#define LINKS_WANTED 40u   /* of one object; beyond this others dial us */
#define MEMBERS_MAX 65535u /* of one object; more are not looked at */
#define DIALS_MAX 8u	   /* at one time */
#define AGAIN_MS 200u	   /* after a failure, doubled each time */
#define AGAIN_MAX_MS 5000u
#define REFRESH_MS 100u /* at least between two looks, and per member: */
#define REFRESH_PER_MEMBER_MS 2u
#define GUARD_SEED_MS 2000u /* between two looks whether the record is there */
#define GUARD_HOLDER_MS 20000u

struct mci_member *mci_member_of(struct mci_object *object, const char *segment)
{
	struct mci_member *member;

	TAILQ_FOREACH(member, &object->members, next)
		if (!strcmp(member->segment, segment))
			return member;
	return NULL;
}

struct mci_member *mci_member_add(struct mci_object *object, const char *segment)
{
	struct mci_member *member = mci_member_of(object, segment);

	if (member || !*segment || strlen(segment) > MCI_NAME_MAX || object->member_count == MEMBERS_MAX)
		return member;
	member = calloc(1, sizeof(*member));
	if (!member)
		return NULL;
	snprintf(member->segment, sizeof(member->segment), "%s", segment);
	member->self = !strcmp(segment, mc_engine_name(object->store->engine));
	object->member_count += !member->self;
	TAILQ_INSERT_TAIL(&object->members, member, next);
	return member;
}

static void drop(struct mci_object *object, struct mci_member *member)
{
	struct mci_link *link;

	TAILQ_FOREACH(link, &object->links, next)
		if (link->member == member)
			link->member = NULL;
	object->member_count -= !member->self;
	TAILQ_REMOVE(&object->members, member, next);
	free(member);
}

void mci_member_free_all(struct mci_object *object)
{
	struct mci_member *member;

	while ((member = TAILQ_FIRST(&object->members)))
		drop(object, member);
}

static void dial_time(struct mci_timer *timer) { mci_member_dial(mci_of(timer, struct mci_object, dial)); }

static bool dials(const struct mci_object *object)
{
	return object->state == MCI_OBJECT_LIVE &&
	       (!object->store->metadata || !mci_swarm_complete(object->swarm));
}

/* Holders of everything first, then at random by the order they came in. */
static struct mci_member *best(struct mci_object *object, uint64_t now, uint64_t *next)
{
	struct mci_member *member, *found = NULL;

	TAILQ_FOREACH(member, &object->members, next) {
		if (member->self || member->link)
			continue;
		if (member->next_ns > now) {
			*next = member->next_ns < *next ? member->next_ns : *next;
			continue;
		}
		if (!found || (member->whole && !found->whole))
			found = member;
	}
	return found;
}

void mci_member_dial(struct mci_object *object)
{
	uint64_t now = mci_now_ns(), next = UINT64_MAX;
	unsigned int links = 0, dialling = 0, wanted = LINKS_WANTED;
	struct mci_member *member;
	struct mci_link *link;

	if (!dials(object))
		return;
	TAILQ_FOREACH(link, &object->links, next) {
		links += !link->ending;
		dialling += !link->ending && !link->conn;
	}
	if (mci_swarm_missing(object->swarm))
		wanted *= 2; /* those that we know have not got everything */
	while (links < wanted && dialling < DIALS_MAX && (member = best(object, now, &next))) {
		if (mci_link_dial(object, member)) {
			mci_member_later(object, member);
			break;
		}
		links++;
		dialling++;
	}
	object->dial.fn = dial_time;
	if (next != UINT64_MAX)
		mci_loop_timer_set(object->store->loop, &object->dial, next);
}

void mci_member_later(struct mci_object *object, struct mci_member *member)
{
	uint64_t pause = AGAIN_MS << (member->tries < 5 ? member->tries : 5);

	member->tries++;
	pause = pause > AGAIN_MAX_MS ? AGAIN_MAX_MS : pause;
	member->next_ns = mci_now_ns() + pause * MCI_NS_PER_MS;
	if (dials(object) && (!object->dial.armed || object->dial.at_ns > member->next_ns)) {
		object->dial.fn = dial_time;
		mci_loop_timer_set(object->store->loop, &object->dial, member->next_ns);
	}
}

/* ---- the metadata service ---- */

struct refresh {
	struct mci_job job;
	struct mci_object *object;
	char root[2 * MCI_P2P_HASH + 1];
	struct mci_seen *seen;
	unsigned int count, room;
	int ret;
	char why[MCI_P2P_SENTENCE];
};

static int note_seen(const struct mci_seen *seen, void *arg)
{
	struct refresh *refresh = arg;
	unsigned int room = refresh->room ? refresh->room * 2 : 16;
	struct mci_seen *bigger;

	if (refresh->count == refresh->room) {
		bigger = realloc(refresh->seen, room * sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		refresh->seen = bigger;
		refresh->room = room;
	}
	refresh->seen[refresh->count++] = *seen;
	return 0;
}

static void look(struct mci_job *job)
{
	struct refresh *refresh = (struct refresh *)job;

	refresh->ret = mci_directory_members(refresh->object->store, refresh->root, note_seen, refresh);
	if (refresh->ret)
		snprintf(refresh->why, sizeof(refresh->why), "%s", mc_errmsg());
}

static void merge(struct mci_object *object, const struct refresh *refresh)
{
	struct mci_member *member, *next;
	unsigned int i;

	TAILQ_FOREACH(member, &object->members, next)
		member->listed = false;
	for (i = 0; i < refresh->count; i++) {
		member = mci_member_add(object, refresh->seen[i].segment);
		if (!member)
			continue;
		/* Another process under that name, or the same one anew: worth a try at once. */
		if (!mci_uuid_equal(&member->uuid, &refresh->seen[i].uuid) && !member->link) {
			member->uuid = refresh->seen[i].uuid;
			member->next_ns = 0;
			member->tries = 0;
		}
		member->listed = true;
		member->seed = refresh->seen[i].seed;
		member->whole = refresh->seen[i].whole;
	}
	for (member = TAILQ_FIRST(&object->members); member; member = next) {
		next = TAILQ_NEXT(member, next);
		if (!member->listed && !member->fixed && !member->link)
			drop(object, member);
	}
}

static void refresh_time(struct mci_timer *timer)
{
	mci_member_refresh(mci_of(timer, struct mci_object, refresh));
}

static void looked(struct mci_job *job)
{
	struct refresh *refresh = (struct refresh *)job;
	struct mci_object *object = refresh->object;

	object->jobs--;
	object->refreshing = false;
	object->refresh_ns =
		mci_now_ns() + (REFRESH_MS + REFRESH_PER_MEMBER_MS * refresh->count) * MCI_NS_PER_MS;
	if (!refresh->ret) {
		merge(object, refresh);
		object->lost = false;
	} else {
		if (!object->lost)
			mci_warn("object '%s': the metadata service does not tell of members (%s); it goes "
				 "on with the %u "
				 "that it knows",
				 object->name, refresh->why, object->member_count);
		object->lost = true;
		object->refresh_again = true;
		object->refresh_ns = mci_now_ns() + MCI_NS_PER_S;
		mci_object_note(
			object,
			"the metadata service does not answer; going on with the %u members that are known",
			object->member_count);
	}
	free(refresh->seen);
	free(refresh);
	if (object->refresh_again)
		mci_member_refresh(object);
	mci_member_dial(object);
	if (object->task)
		mci_task_poke(object->task);
	mci_object_check(object);
}

/* Look anew, soon: not more often than the number of members allows, and once at a time. */
void mci_member_refresh(struct mci_object *object)
{
	struct mc_p2p *store = object->store;
	struct refresh *refresh;

	if (!store->metadata || !dials(object))
		return;
	if (object->refreshing) {
		object->refresh_again = true;
		return;
	}
	if (mci_now_ns() < object->refresh_ns) {
		object->refresh.fn = refresh_time;
		if (!object->refresh.armed)
			mci_loop_timer_set(store->loop, &object->refresh, object->refresh_ns);
		return;
	}
	refresh = calloc(1, sizeof(*refresh));
	if (!refresh)
		return;
	object->refresh_again = false;
	object->refreshing = true;
	object->jobs++;
	refresh->object = object;
	refresh->job = (struct mci_job){.run = look, .done = looked, .loop = store->loop};
	mci_root_text(object->manifest->root, refresh->root);
	mci_pool_add(store->clerk, &refresh->job);
}

/* ---- the record: it has no lease, since it outlives its seed, so nobody's heartbeat brings it back ---- */

struct guard {
	struct mci_job job;
	struct mci_object *object;
};

static void guard_record(struct mci_job *job) { mci_directory_restore(((struct guard *)job)->object); }

static void guarded(struct mci_job *job)
{
	struct mci_object *object = ((struct guard *)job)->object;

	free(job);
	object->jobs--;
	object->guarding = false;
	mci_object_check(object);
}

static void look_at_record(struct mci_object *object)
{
	struct guard *guard;

	if (object->guarding || object->state != MCI_OBJECT_LIVE || !(object->seed || object->whole))
		return;
	guard = calloc(1, sizeof(*guard));
	if (!guard)
		return;
	object->guarding = true;
	object->jobs++;
	guard->object = object;
	guard->job = (struct mci_job){.run = guard_record, .done = guarded, .loop = object->store->loop};
	mci_pool_add(object->store->clerk, &guard->job);
}

static void guard_time(struct mci_timer *timer) { look_at_record(mci_of(timer, struct mci_object, guard)); }

/* Something changed; perhaps everything is gone. Seeds look first. */
static void guard_soon(struct mci_object *object)
{
	object->guard.fn = guard_time;
	if (!object->guard.armed && object->state == MCI_OBJECT_LIVE)
		mci_loop_timer_set(object->store->loop, &object->guard,
				   mci_now_ns() +
					   (object->seed ? GUARD_SEED_MS : GUARD_HOLDER_MS) * MCI_NS_PER_MS);
}

void mci_member_on_changed(struct mci_task *task)
{
	struct mc_p2p *store = mci_of(task, struct mc_p2p, changed);
	struct mci_object *object;

	atomic_store(&store->changed_posted, false);
	TAILQ_FOREACH(object, &store->objects, next) {
		mci_member_refresh(object);
		guard_soon(object);
	}
}

void mci_member_changed(void *arg)
{
	struct mc_p2p *store = arg;

	if (!atomic_exchange(&store->changed_posted, true))
		mci_loop_post(store->loop, &store->changed);
	mci_watcher_poke(store);
}
