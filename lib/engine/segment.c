// SPDX-License-Identifier: MIT
/*
 * Remote segments: open, choose a way for each region, read the descriptor anew after a failure.
 * A segment handle is a snapshot of the regions at open; contracts A2 says what may change under it.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/uuid.h"

#define OPEN_TIMEOUT_MS 5000
#define KNOWN_FLAGS (MC_SEGMENT_FOLLOW_RESTART | MC_SEGMENT_TRY_RAILS)
/* A restarted peer publishes itself first and its memory after: how long that may take. */
#define SETTLE_MS 5000

/* Preference when several ways lead to a peer. */
static const enum mci_transport_id preference[] = {MCI_TRANSPORT_SHM, MCI_TRANSPORT_RDMA, MCI_TRANSPORT_TCP,
						   MCI_TRANSPORT_RDMA_CLASSIC, MCI_TRANSPORT_CLASSIC};

bool mci_transport_listed(const char *list, const char *word)
{
	size_t n = strlen(word);
	const char *p = list;

	if (!list || !*list || !strcmp(list, "auto"))
		return true;
	while (p && *p) {
		if (!strncmp(p, word, n) && (p[n] == ',' || !p[n]))
			return true;
		p = strchr(p, ',');
		p = p ? p + 1 : NULL;
	}
	return false;
}

/* The classic protocol is spoken where the peer knows no other, or where it is asked for by name. */
static bool wants_classic(const char *list)
{
	return list && strcmp(list, "auto") &&
	       (mci_transport_listed(list, "tcp-classic") || mci_transport_listed(list, "rdma-classic"));
}

static void peer_info(const struct mc_segment *segment, const struct mci_transport_ops *ops,
		      struct mci_peer_info *info)
{
	const struct mci_descriptor *descriptor = segment->descriptor;

	*info = (struct mci_peer_info){
		.name = segment->name,
		.uuid = segment->uuid,
		.generation = segment->generation,
		.addresses = (const char *const *)segment->hosts,
		.address_count = segment->host_count,
		.port = segment->port,
		.secret = segment->secret,
		.descriptor = descriptor->root,
		.rails = segment->rails,
		.try_rails = segment->flags & MC_SEGMENT_TRY_RAILS,
		.transport =
			descriptor->transports ? json_object_get(descriptor->transports, ops->name) : NULL,
	};
}

static int open_way(struct mc_segment *segment, enum mci_transport_id id, uint64_t deadline,
		    struct mci_way *way)
{
	struct mc_engine *engine = segment->engine;
	struct mci_transport *transport = engine->transport[id];
	const struct mci_transport_ops *ops = mci_transports[id];
	char *hosts[MCI_MAX_ADDRESSES];
	struct mci_peer_info info;
	json_t *root;
	unsigned int i, n;
	bool moved;
	int ret;

	/* A copy: connecting may take its time, and another way may refresh the original meanwhile. */
	pthread_mutex_lock(&segment->refresh_lock);
	peer_info(segment, ops, &info);
	root = json_incref(segment->descriptor->root);
	for (i = n = 0; i < info.address_count; i++) {
		hosts[n] = strdup(info.addresses[i]);
		n += hosts[n] ? 1 : 0;
	}
	info.addresses = (const char *const *)hosts;
	info.address_count = n;
	pthread_mutex_unlock(&segment->refresh_lock);
	way->segment = segment;
	way->ops = ops;
	way->uuid = info.uuid;
	ret = ops->peer_open(transport, &info, way, segment->regions, segment->region_count, deadline,
			     &way->peer);
	pthread_mutex_lock(&segment->refresh_lock);
	moved = !mci_uuid_equal(&way->uuid, &segment->uuid);
	pthread_mutex_unlock(&segment->refresh_lock);
	if (!ret && moved) { /* regions without a way are described for the new process already */
		ops->peer_close(way->peer);
		ret = mci_fail(-ESTALE, "segment '%s' was restarted while it was being opened; open it again",
			       segment->name);
	}
	if (ret)
		way->ops = NULL;
	for (i = 0; i < info.address_count; i++)
		free(hosts[i]);
	json_decref(root);
	return ret;
}

/* Is that transport open here, and of the peer's kind? */
static bool fits(const struct mc_segment *segment, enum mci_transport_id id)
{
	return segment->engine->transport[id] && mci_transports[id]->classic == segment->classic;
}

static void adopt(struct mc_segment *segment, struct mci_resolved *resolved)
{
	unsigned int i;

	mci_descriptor_free(segment->descriptor);
	for (i = 0; i < segment->host_count; i++)
		free(segment->hosts[i]);
	segment->descriptor = resolved->descriptor;
	segment->secret = resolved->secret;
	memcpy(segment->hosts, resolved->hosts, sizeof(segment->hosts));
	segment->host_count = resolved->host_count;
	segment->port = resolved->port;
	segment->uuid = resolved->descriptor->uuid;
	segment->generation = resolved->descriptor->generation;
	explicit_bzero(resolved, sizeof(*resolved));
}

static int copy_regions(struct mc_segment *segment)
{
	const struct mci_descriptor *descriptor = segment->descriptor;
	unsigned int i, n = descriptor->region_count;

	segment->regions = calloc(n ? n : 1, sizeof(*segment->regions));
	segment->region_id = calloc(n ? n : 1, sizeof(*segment->region_id));
	segment->region_way = calloc(n ? n : 1, sizeof(*segment->region_way));
	if (!segment->regions || !segment->region_id || !segment->region_way)
		return mci_fail(-ENOMEM, "no memory for the %u regions of segment '%s'", n, segment->name);
	for (i = 0; i < n; i++) {
		const struct mci_descriptor_region *from = &descriptor->regions[i];
		struct mci_remote_region *to = &segment->regions[i];

		to->id = segment->region_id[i] = from->id;
		to->generation = from->generation;
		to->rights = from->rights;
		to->length = from->length;
		to->base = from->base;
		to->content_id = from->content_id;
		to->json = json_incref(from->json);
		memcpy(to->location, from->location, sizeof(to->location));
	}
	segment->region_count = n;
	return 0;
}

/* Each region takes the first way that can reach it. */
static void choose_ways(struct mc_segment *segment)
{
	unsigned int i, w;

	pthread_mutex_lock(&segment->refresh_lock);
	for (i = 0; i < segment->region_count; i++) {
		for (w = 0; w < segment->way_count && !segment->region_way[i]; w++) {
			struct mci_way *way = &segment->way[w];

			if (!way->ops->region_usable ||
			    !way->ops->region_usable(way->peer, &segment->regions[i]))
				segment->region_way[i] = way;
		}
	}
	pthread_mutex_unlock(&segment->refresh_lock);
}

/* Unreachable as a whole: there are regions, and no way leads to any of them. */
static bool none_reached(const struct mc_segment *segment)
{
	unsigned int i;

	for (i = 0; i < segment->region_count; i++)
		if (segment->region_way[i])
			return false;
	return segment->region_count > 0;
}

static bool all_reached(const struct mc_segment *segment)
{
	unsigned int i;

	for (i = 0; i < segment->region_count; i++)
		if (!segment->region_way[i])
			return false;
	return segment->way_count > 0;
}

/* "tcp" and "rdma" stand for the classic form too, where the peer knows no other. */
static bool allowed(const char *list, enum mci_transport_id id)
{
	switch (id) {
	case MCI_TRANSPORT_CLASSIC:
		return mci_transport_listed(list, "tcp") || mci_transport_listed(list, "tcp-classic");
	case MCI_TRANSPORT_RDMA_CLASSIC:
		return mci_transport_listed(list, "rdma") || mci_transport_listed(list, "rdma-classic");
	default:
		return mci_transports[id] && mci_transport_listed(list, mci_transports[id]->name);
	}
}

static int open_ways(struct mc_segment *segment, const char *transports, uint64_t deadline)
{
	char why[sizeof(((struct mc_segment *)0)->name) + 512] = "";
	unsigned int i;
	int ret = -EOPNOTSUPP;

	for (i = 0; i < sizeof(preference) / sizeof(preference[0]); i++) {
		int err;

		if (!allowed(transports, preference[i]) ||
		    !allowed(segment->engine->transports_wanted, preference[i]) || !fits(segment, preference[i]))
			continue;
		err = open_way(segment, preference[i], deadline, &segment->way[segment->way_count]);
		if (!err) {
			segment->way_count++;
			mci_errmsg_set("");
			choose_ways(segment);
			if (all_reached(segment))
				return 0;
			if (*mc_errmsg())
				snprintf(why, sizeof(why), "%s", mc_errmsg());
			continue;
		}
		if (err != -EOPNOTSUPP || !why[0])
			snprintf(why, sizeof(why), "%s", mc_errmsg());
		if (err != -EOPNOTSUPP)
			ret = err;
	}
	if (segment->way_count && (segment->flags & MC_SEGMENT_TRY_RAILS || !none_reached(segment)))
		return 0; /* regions without a way answer -ENETUNREACH */
	if (segment->classic && segment->engine->cluster.mode == MCI_AUTH_CLUSTER &&
	    !(segment->engine->flags & MC_ENGINE_CLASSIC))
		return mci_fail(-EKEYREJECTED,
				"segment '%s' is served by a classic peer, which knows no cluster key; "
				"give --classic to talk to it all the same",
				segment->name);
	return mci_fail(ret, "no transport leads to segment '%s': %s", segment->name,
			why[0] ? why : "none of those allowed is offered there; use --protocol=auto");
}

static void destroy(struct mc_segment *segment)
{
	unsigned int i;

	if (segment->notify_way.ops)
		segment->notify_way.ops->peer_close(segment->notify_way.peer);
	for (i = 0; i < segment->way_count; i++)
		segment->way[i].ops->peer_close(segment->way[i].peer);
	for (i = 0; i < segment->region_count; i++)
		json_decref(segment->regions[i].json);
	for (i = 0; i < segment->host_count; i++)
		free(segment->hosts[i]);
	mci_descriptor_free(segment->descriptor);
	free(segment->rails);
	free(segment->regions);
	free(segment->region_id);
	free(segment->region_way);
	explicit_bzero(&segment->secret, sizeof(segment->secret));
	pthread_mutex_destroy(&segment->refresh_lock);
	pthread_mutex_destroy(&segment->notify_lock);
	free(segment);
}

/**
 * mc_segment_open() - reach the segment of another process (or one's own)
 * @engine: engine
 * @name: as the target published it; with P2PHANDSHAKE its "host:port"
 * @attr: NULL for the defaults
 * @out: the segment; mc_segment_close() it
 *
 * Reads the descriptor, connects, proves the secret, and chooses for each region the best way there is.
 * The regions are those of this moment: open anew to see later ones. Thread-safe; blocks up to the timeout.
 *
 * Writes of an engine are ordered in this sense: what ended with an error never lands after a later write over TCP,
 * through whatever handle to that target. Two handles that reach the same memory in different ways (attr->transports:
 * one by TCP, one by shared memory) are two initiators; mc_segment_fence() on one before writing through the other
 * settles it.
 *
 * Return: 0; -ENOENT: no such segment; -EKEYREJECTED: wrong key, or only one side has one; -ECONNREFUSED,
 * -ETIMEDOUT, -EHOSTUNREACH: not reachable; -EPROTO: no common protocol; -ESTALE: what is published is dead;
 * -EOPNOTSUPP: no transport allowed leads there; -EOWNERDEAD: our name was taken over; -EINVAL; -ENOMEM;
 * -ECHILD.
 */
int mc_segment_open(mc_engine *engine, const char *name, const struct mc_segment_attr *attr, mc_segment **out)
{
	struct mc_segment_attr none = MC_SEGMENT_ATTR_INIT;
	struct mci_resolved resolved;
	struct mc_segment *segment;
	uint64_t deadline;
	int ret;

	if (mci_forked(engine))
		return mci_fork_fail();
	if (!attr)
		attr = &none;
	if (attr->size != sizeof(*attr) || (attr->flags & ~KNOWN_FLAGS) || !name || !*name ||
	    strlen(name) > MCI_NAME_MAX)
		return mci_fail(
			-EINVAL,
			"mc_segment_open() needs a name of 1 to %u bytes and an attribute struct that "
			"this library knows",
			MCI_NAME_MAX);
	deadline = mci_now_ns() + (attr->timeout_ms ? attr->timeout_ms : OPEN_TIMEOUT_MS) * MCI_NS_PER_MS;
	ret = mci_segment_resolve(engine, name, deadline, &resolved);
	if (ret)
		return ret;
	segment = calloc(1, sizeof(*segment));
	if (!segment) {
		mci_resolved_release(&resolved);
		return mci_fail(-ENOMEM, "no memory for segment '%s'", name);
	}
	segment->engine = engine;
	segment->flags = attr->flags;
	pthread_mutex_init(&segment->refresh_lock, NULL);
	pthread_mutex_init(&segment->notify_lock, NULL);
	snprintf(segment->name, sizeof(segment->name), "%s", name);
	segment->has_ours = resolved.descriptor->has_ours;
	segment->classic = !segment->has_ours ||
			   wants_classic(attr->transports ? attr->transports : engine->transports_wanted);
	adopt(segment, &resolved);
	ret = copy_regions(segment);
	if (!ret && attr->rails && *attr->rails) {
		segment->rails = strdup(attr->rails);
		if (!segment->rails)
			ret = mci_fail(-ENOMEM, "no memory for the rails of segment '%s'", name);
	}
	if (!ret)
		ret = open_ways(segment, attr->transports, deadline);
	if (ret)
		goto err_destroy;
	pthread_mutex_lock(&engine->lock);
	segment->next = engine->segments;
	engine->segments = segment;
	pthread_mutex_unlock(&engine->lock);
	*out = segment;
	return 0;

err_destroy:
	destroy(segment);
	return ret;
}

/**
 * mc_segment_close() - let go of a segment
 *
 * Return: 0; -EBUSY: requests in flight, or batches with a notify for it not reset yet; -ECHILD.
 */
int mc_segment_close(mc_segment *segment)
{
	struct mc_engine *engine;
	struct mc_segment **link;

	if (!segment)
		return 0;
	engine = segment->engine;
	if (mci_forked(engine))
		return mci_fork_fail();
	pthread_mutex_lock(&engine->lock);
	if (atomic_load(&segment->in_flight) || segment->refs) {
		pthread_mutex_unlock(&engine->lock);
		return mci_fail(-EBUSY, "segment '%s' has requests in flight; wait for them first",
				segment->name);
	}
	for (link = &engine->segments; *link != segment; link = &(*link)->next)
		;
	*link = segment->next;
	pthread_mutex_unlock(&engine->lock);
	destroy(segment);
	return 0;
}

void mci_segment_ref(struct mc_segment *segment)
{
	pthread_mutex_lock(&segment->engine->lock);
	segment->refs++;
	pthread_mutex_unlock(&segment->engine->lock);
}

void mci_segment_unref(struct mc_segment *segment)
{
	pthread_mutex_lock(&segment->engine->lock);
	segment->refs--;
	pthread_mutex_unlock(&segment->engine->lock);
}

/* The way that carries notifies: one that is open already, else a TCP connection of its own. */
int mci_segment_notify_way(struct mc_segment *segment, struct mci_way **way)
{
	enum mci_transport_id id = segment->classic ? MCI_TRANSPORT_CLASSIC : MCI_TRANSPORT_TCP;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < segment->way_count; i++) {
		if (segment->way[i].ops->id == MCI_TRANSPORT_TCP || segment->way[i].ops->classic) {
			*way = &segment->way[i];
			return 0;
		}
	}
	if (!fits(segment, id))
		return mci_fail(-EOPNOTSUPP, "notifies to segment '%s' go by %s, which is off here", segment->name,
				mci_transports[id]->name);
	pthread_mutex_lock(&segment->notify_lock);
	if (!segment->notify_way.ops)
		ret = open_way(segment, id,
			       mci_now_ns() + MCI_CONNECT_TIMEOUT_MS * MCI_NS_PER_MS, &segment->notify_way);
	pthread_mutex_unlock(&segment->notify_lock);
	if (!ret)
		*way = &segment->notify_way;
	return ret;
}

static struct mci_descriptor_region *same_content(struct mci_descriptor *descriptor, const struct mc_uuid *id)
{
	unsigned int i;

	for (i = 0; i < descriptor->region_count && !mci_uuid_is_zero(id); i++)
		if (mci_uuid_equal(&descriptor->regions[i].content_id, id))
			return &descriptor->regions[i];
	return NULL;
}

/*
 * The process behind @way lives on under another uuid: its regions stand in for the old ones where the content is
 * the same memory, intact (or, if the caller asked to follow, where index and length agree). Only regions that
 * @way serves, or none yet, are rewritten: another way may still be connected to the old process, and finds out
 * by itself. False: nothing of the segment is there any more.
 */
static bool match_regions(struct mci_way *way, struct mci_descriptor *descriptor)
{
	struct mc_segment *segment = way->segment;
	bool matched = false;
	unsigned int i;

	for (i = 0; i < segment->region_count; i++) {
		struct mci_remote_region *old = &segment->regions[i];
		struct mci_descriptor_region *now = same_content(descriptor, &old->content_id);

		if (!now && segment->flags & MC_SEGMENT_FOLLOW_RESTART && i < descriptor->region_count)
			now = &descriptor->regions[i];
		if (now && now->length != old->length)
			now = NULL;
		matched |= now != NULL;
		if (segment->region_way[i] && segment->region_way[i] != way)
			continue;
		if (!now) {
			atomic_store(&old->stale, true);
			continue;
		}
		old->id = now->id;
		old->generation = now->generation;
		old->rights = now->rights;
		old->base = now->base;
		json_decref(old->json);
		old->json = json_incref(now->json);
	}
	return matched;
}

/* The peer was restarted, and its memory may be on the way: too early to say that the old is gone. */
static bool still_registering(struct mc_segment *segment, const struct mci_descriptor *descriptor)
{
	uint64_t now = mci_now_ns();

	if (descriptor->region_count >= segment->region_count)
		return false;
	if (!mci_uuid_equal(&segment->reborn, &descriptor->uuid)) {
		segment->reborn = descriptor->uuid;
		segment->reborn_ns = now;
	}
	return now - segment->reborn_ns < SETTLE_MS * MCI_NS_PER_MS;
}

static void mark_stale(struct mc_segment *segment)
{
	unsigned int i;

	for (i = 0; i < segment->region_count; i++)
		atomic_store(&segment->regions[i].stale, true);
	atomic_store(&segment->stale, true);
}

/* @way cannot follow its process: what it serves is out of reach for good. */
static void mark_way_stale(struct mci_way *way)
{
	struct mc_segment *segment = way->segment;
	unsigned int i;

	for (i = 0; i < segment->region_count; i++)
		if (segment->region_way[i] == way)
			atomic_store(&segment->regions[i].stale, true);
}

/* host->refresh of the transports; the cookie is the way. -EINPROGRESS: being restarted. */
int mci_segment_refresh(void *arg, void *cookie, uint64_t deadline_ns,
			int (*use)(void *arg, const struct mci_peer_info *info), void *use_arg)
{
	struct mc_engine *engine = arg;
	struct mci_way *way = cookie;
	struct mc_segment *segment = way->segment;
	struct mci_resolved resolved;
	struct mci_peer_info info;
	bool reborn;
	int ret;

	pthread_mutex_lock(&segment->refresh_lock);
	if (atomic_load(&segment->stale)) {
		ret = -ESTALE;
		goto out_unlock;
	}
	ret = mci_segment_resolve(engine, segment->name, deadline_ns, &resolved);
	if (ret)
		goto out_unlock;
	reborn = segment->has_ours && resolved.descriptor->has_ours &&
		 !mci_uuid_equal(&resolved.descriptor->uuid, &way->uuid);
	if (reborn && still_registering(segment, resolved.descriptor)) {
		ret = mci_fail(-EINPROGRESS, "segment '%s' was restarted and has %u of its %u regions so far",
			       segment->name, resolved.descriptor->region_count, segment->region_count);
		mci_resolved_release(&resolved);
		goto out_unlock;
	}
	if (resolved.descriptor->has_ours != segment->has_ours ||
	    (reborn && !match_regions(way, resolved.descriptor))) {
		mark_stale(segment);
		ret = -ESTALE;
		mci_info("segment '%s' was restarted; its old memory is gone", segment->name);
		mci_resolved_release(&resolved);
		goto out_unlock;
	}
	if (!mci_uuid_equal(&resolved.descriptor->uuid, &segment->uuid))
		segment->restarts++;
	way->uuid = resolved.descriptor->uuid;
	adopt(segment, &resolved);
	peer_info(segment, way->ops, &info);
	ret = use(use_arg, &info);
	if (ret == -ESTALE)
		mark_way_stale(way);
out_unlock:
	pthread_mutex_unlock(&segment->refresh_lock);
	return ret;
}

/** mc_segment_name() - the name it was opened by. */
const char *mc_segment_name(const mc_segment *segment) { return segment->name; }

/** mc_segment_region_count() - regions that the segment had when it was opened. */
unsigned int mc_segment_region_count(const mc_segment *segment) { return segment->region_count; }

/**
 * mc_segment_region() - what is known of one region
 * @segment: open segment
 * @index: 0 .. mc_segment_region_count() - 1
 * @out: its size member must be set
 *
 * One thread at a time per segment: the text of @detail lives until the next call.
 * Return: 0; -EINVAL; -ECHILD.
 */
int mc_segment_region(const mc_segment *constant, unsigned int index, struct mc_segment_region *out)
{
	struct mc_segment *segment = (struct mc_segment *)constant;
	struct mci_remote_region *region;
	struct mci_way *way;

	if (mci_forked(segment->engine))
		return mci_fork_fail();
	if (index >= segment->region_count || out->size != sizeof(*out))
		return mci_fail(-EINVAL, "segment '%s' has %u regions; there is no region %u", segment->name,
				segment->region_count, index);
	region = &segment->regions[index];
	way = segment->region_way[index];
	segment->region_text[0] = '\0';
	if (way && way->ops->detail)
		way->ops->detail(way->peer, region, segment->region_text, sizeof(segment->region_text));
	*out = (struct mc_segment_region){.size = sizeof(*out),
					  .id = segment->region_id[index],
					  .rights = region->rights,
					  .length = region->length,
					  .base = region->base,
					  .location = region->location,
					  .path = way ? way->ops->name : "none",
					  .detail = segment->region_text};
	return 0;
}

/**
 * mc_segment_fence() - settle what failed writes may still do
 * @segment: open segment
 * @timeout_ms: 0 = 30 s
 *
 * After it returned 0, no write of this engine to the segment that ended before the call can still
 * change memory there. Return: 0; -ETIMEDOUT; -ESTALE: the owner is gone, nothing can land; -ECHILD.
 */
int mc_segment_fence(mc_segment *segment, uint32_t timeout_ms)
{
	uint64_t deadline = mci_now_ns() + (timeout_ms ? timeout_ms : 30000) * MCI_NS_PER_MS;
	unsigned int i;
	int ret = 0;

	if (mci_forked(segment->engine))
		return mci_fork_fail();
	for (i = 0; i < segment->way_count && !ret; i++)
		if (segment->way[i].ops->fence)
			ret = segment->way[i].ops->fence(segment->way[i].peer, deadline);
	if (ret)
		return mci_fail(ret, "segment '%s' did not confirm the fence: %s", segment->name,
				strerror(-ret));
	return 0;
}

struct mc_view {
	struct mc_segment *segment;
	const struct mci_transport_ops *ops;
	void *view;
};

/**
 * mc_segment_map() - zero-copy read-only view of a region of a segment on this host
 * @segment: open segment, reached through shared memory
 * @region: region id
 * @offset, @length: bytes
 * @addr: out: where it is readable
 * @view: out: mc_view_close() it before the segment
 *
 * The view is a reference: the owner cannot unregister the region while it lasts. Thread-safe.
 * Return: 0; -EOPNOTSUPP: not on this host, or memory that cannot be mapped; -EFAULT: outside the region;
 * -EACCES: no right to read; -ESTALE; -ENOSPC: too many views; -ENOMEM; -ECHILD.
 */
int mc_segment_map(mc_segment *segment, uint32_t region, uint64_t offset, uint64_t length, const void **addr,
		   mc_view **out)
{
	struct mci_remote_region *remote = NULL;
	struct mci_way *way = NULL;
	struct mc_view *view;
	unsigned int i;
	int ret;

	if (mci_forked(segment->engine))
		return mci_fork_fail();
	for (i = 0; i < segment->region_count; i++) {
		if (segment->region_id[i] == region) {
			remote = &segment->regions[i];
			way = segment->region_way[i];
		}
	}
	if (!remote || !length || offset > remote->length || length > remote->length - offset)
		return mci_fail(-EFAULT, "bytes %llu to %llu are not inside region %u of segment '%s'",
				(unsigned long long)offset, (unsigned long long)(offset + length), region,
				segment->name);
	if (atomic_load(&segment->stale) || atomic_load(&remote->stale))
		return mci_fail(-ESTALE, "segment '%s' was restarted; open it anew", segment->name);
	if (!(remote->rights & MC_REMOTE_READ))
		return mci_fail(-EACCES, "region %u of segment '%s' may not be read", region, segment->name);
	if (!way || !way->ops->map)
		return mci_fail(-EOPNOTSUPP,
				"region %u of segment '%s' is not reached through shared memory, so it "
				"cannot be mapped; read it instead",
				region, segment->name);
	view = calloc(1, sizeof(*view));
	if (!view)
		return mci_fail(-ENOMEM, "no memory for a view");
	ret = way->ops->map(way->peer, remote, offset, length, addr, &view->view);
	if (ret) {
		free(view);
		return ret;
	}
	view->segment = segment;
	view->ops = way->ops;
	mci_segment_ref(segment);
	*out = view;
	return 0;
}

/** mc_view_close() - end a view; its address must not be read any more. Return: 0; -ECHILD. */
int mc_view_close(mc_view *view)
{
	if (!view)
		return 0;
	if (mci_forked(view->segment->engine))
		return mci_fork_fail();
	view->ops->unmap(view->view);
	mci_segment_unref(view->segment);
	free(view);
	return 0;
}
