// SPDX-License-Identifier: MIT
/* Figures of an engine, and the state of its paths. */
#include "engine/engine.h"

#include <stdlib.h>

/**
 * mc_engine_stats() - counters since the engine was opened
 * @engine: engine
 * @stats: out; its size member must be set
 *
 * Thread-safe; the counters are read one by one, not as one snapshot. Return: 0; -EINVAL; -ECHILD.
 */
int mc_engine_stats(mc_engine *engine, struct mc_engine_stats *stats)
{
	struct mci_counters *c = &engine->counters;
	struct mci_transport_stats *t = &engine->host.stats;

	if (mci_forked(engine))
		return mci_fork_fail();
	if (stats->size != sizeof(*stats))
		return mci_fail(-EINVAL, "struct mc_engine_stats has %zu bytes here; set its size member",
				sizeof(*stats));
	*stats = (struct mc_engine_stats){
		.size = sizeof(*stats),
		.requests = c->requests,
		.requests_done = c->done,
		.requests_failed = c->failed,
		.requests_timed_out = c->timed_out,
		.requests_cancelled = c->cancelled,
		.requests_unconfirmed = c->unconfirmed,
		.requests_stale = c->stale,
		.bytes_read = c->bytes_read,
		.bytes_written = c->bytes_written,
		.served_reads = t->served_reads,
		.served_writes = t->served_writes,
		.served_bytes_read = t->served_bytes_read,
		.served_bytes_written = t->served_bytes_written,
		.refused = t->refused,
		.refused_connections = engine->service ? mci_service_refused(engine->service) : 0,
		.reconnects = t->reconnects,
		.resent_requests = t->resent,
		.notifies_sent = c->notifies_sent,
		.notifies_received = c->notifies_received,
		.data_path_allocs = t->allocs,
	};
	return 0;
}

static json_t *way_json(struct mc_segment *segment, struct mci_way *way)
{
	char text[128] = "";
	json_t *rails = way->ops->rails ? way->ops->rails(way->peer) : NULL;

	if (way->ops->detail && segment->region_count)
		way->ops->detail(way->peer, &segment->regions[0], text, sizeof(text));
	return json_pack("{s:s, s:s, s:b, s:I, s:I, s:o*}", "transport", way->ops->name, "detail", text, "stale",
			 (int)atomic_load(&segment->stale), "in_flight",
			 (json_int_t)atomic_load(&segment->in_flight), "restarts",
			 (json_int_t)segment->restarts, "rails", rails);
}

/**
 * mc_engine_paths() - the ways to each open segment, as JSON
 * @engine: engine
 * @json: out: array of {segment, paths: [{transport, detail, stale, in_flight, restarts, rails}]}; free() it
 *
 * rails, of RDMA alone: {own, peer, state, error, mtu, and own_ and peer_ each with gid, mtu, up; own_gid_why} for each
 * pair of NICs: state is "up", "opening", "failed" (error says how), "down" (a port is), "excluded" (by
 * mc_segment_attr.rails) or "idle" (not tried, or not needed).
 *
 * Thread-safe. Return: 0; -ENOMEM; -ECHILD.
 */
int mc_engine_paths(mc_engine *engine, char **json)
{
	struct mc_segment *segment;
	json_t *list = json_array();
	unsigned int i;
	char *text;

	if (mci_forked(engine))
		return mci_fork_fail();
	pthread_mutex_lock(&engine->lock);
	for (segment = engine->segments; segment; segment = segment->next) {
		json_t *paths = json_array();

		for (i = 0; i < segment->way_count; i++)
			json_array_append_new(paths, way_json(segment, &segment->way[i]));
		json_array_append_new(list,
				      json_pack("{s:s, s:o}", "segment", segment->name, "paths", paths));
	}
	pthread_mutex_unlock(&engine->lock);
	text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	if (!text)
		return mci_fail(-ENOMEM, "no memory for the paths");
	*json = text;
	return 0;
}

/**
 * mc_engine_nics() - the RDMA NICs that an engine uses, as JSON
 * @engine: engine
 * @json: out: array of {name, port, up, gid_index, gid, gid_why, mtu, numa_node}, empty without RDMA; free() it
 *
 * Thread-safe. Return: 0; -ENOMEM; -ECHILD.
 */
int mc_engine_nics(mc_engine *engine, char **json)
{
	const struct mci_transport_ops *ops = mci_transports[MCI_TRANSPORT_RDMA];
	json_t *list;
	char *text;

	if (mci_forked(engine))
		return mci_fork_fail();
	list = ops && engine->transport[MCI_TRANSPORT_RDMA] ? ops->nics(engine->transport[MCI_TRANSPORT_RDMA])
							     : json_array();
	text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	if (!text)
		return mci_fail(-ENOMEM, "no memory for the NICs");
	*json = text;
	return 0;
}
