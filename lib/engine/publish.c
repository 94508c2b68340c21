// SPDX-License-Identifier: MIT
/*
 * Our descriptor in the metadata service: taking the name (contracts A3), keeping it up to date,
 * withdrawing it. The text is kept here too, for peers that ask us directly.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/uuid.h"
#include "transport/classic_message.h"

static void on_lost(void *arg, const char *key)
{
	struct mc_engine *engine = arg;

	if (!atomic_exchange(&engine->lost, true))
		mci_error("another process published '%s' as its own: this one withdraws and answers "
			  "-EOWNERDEAD; give each "
			  "process a --local_server_name of its own",
			  key);
}

/* Regions whose memory may be named to others, with what the transports add. publish_lock held. */
static int collect_regions(struct mc_engine *engine, struct mci_descriptor *descriptor)
{
	struct mc_region *region;
	unsigned int n = 0;

	for (region = engine->regions; region; region = region->next)
		n++;
	descriptor->regions = calloc(n ? n : 1, sizeof(*descriptor->regions));
	descriptor->buffers = calloc(n ? n : 1, sizeof(*descriptor->buffers));
	if (!descriptor->regions || !descriptor->buffers)
		return mci_fail(-ENOMEM, "no memory for the descriptor");
	for (region = engine->regions; region; region = region->next) {
		struct mci_descriptor_region *to = &descriptor->regions[descriptor->region_count];
		const struct mci_region *from = &region->base;

		if (!from->rights)
			continue;
		*to = (struct mci_descriptor_region){.id = from->id,
						     .generation = from->generation,
						     .rights = from->rights,
						     .length = from->length,
						     .content_id = from->content_id,
						     .json = region->json};
		memcpy(to->location, from->location, sizeof(to->location));
		descriptor->region_count++;
		if (!from->classic)
			continue;
		to->base = (uintptr_t)from->addr;
		descriptor->buffers[descriptor->buffer_count++] = (struct mci_descriptor_buffer){
			.addr = (uintptr_t)from->addr, .length = from->length, .name = engine->self.name};
	}
	return 0;
}

/*
 * What classic peers are told of RDMA; publish_lock held. The devices stand there also where we are their client
 * only: peers before 0.3.11 look up whose queue pairs they connect to.
 */
static int collect_rdma(struct mc_engine *engine, struct mci_descriptor *descriptor)
{
	const struct mci_transport_ops *ops = mci_transports[MCI_TRANSPORT_RDMA_CLASSIC];
	struct mci_transport *transport = engine->transport[MCI_TRANSPORT_RDMA_CLASSIC];
	struct mc_region *region;
	int ret;

	if (!transport)
		return 0;
	descriptor->classic_root = json_object();
	ret = ops->classic_describe(transport, descriptor->classic_root);
	if (ret)
		return ret == -EOPNOTSUPP ? 0 : ret;
	snprintf(descriptor->protocol, sizeof(descriptor->protocol), "rdma");
	descriptor->classic_buffers = json_array();
	for (region = engine->regions; region && !ret; region = region->next)
		if (descriptor->classic && region->base.classic)
			ret = ops->classic_buffers(transport, &region->base, descriptor->classic_buffers);
	return ret;
}

static int collect_transports(struct mc_engine *engine, struct mci_descriptor *descriptor)
{
	unsigned int i;

	descriptor->transports = json_object();
	if (!descriptor->transports)
		return mci_fail(-ENOMEM, "no memory for the descriptor");
	for (i = 0; i < MCI_TRANSPORT_COUNT; i++) {
		json_t *mine;
		int ret;

		if (!engine->transport[i] || !mci_transports[i]->describe)
			continue;
		mine = json_object();
		ret = mci_transports[i]->describe(engine->transport[i], mine);
		if (ret) {
			json_decref(mine);
			if (ret == -EOPNOTSUPP)
				continue;
			return ret;
		}
		if (mci_transports[i]->id == MCI_TRANSPORT_CLASSIC)
			descriptor->tcp_data_port =
				(uint16_t)json_integer_value(json_object_get(mine, "port"));
		json_object_set_new(descriptor->transports, mci_transports[i]->name, mine);
	}
	return 0;
}

static int encode(struct mc_engine *engine, char **text)
{
	struct mci_descriptor descriptor = {
		.has_ours = true,
		.uuid = engine->self.uuid,
		.generation = engine->self.generation,
		.boot_id = engine->boot_id,
		.version = MCI_DESCRIPTOR_VERSION,
		.features = MCI_FEATURES_KNOWN,
		.addresses = (const char *const *)engine->addresses,
		.address_count = engine->address_count,
		.port = engine->port,
		.classic = engine->flags & MC_ENGINE_CLASSIC,
		.tcp_proto_version = 2,
	};
	int ret;

	snprintf(descriptor.name, sizeof(descriptor.name), "%s", engine->self.name);
	ret = collect_regions(engine, &descriptor);
	if (!ret)
		ret = collect_transports(engine, &descriptor);
	if (!ret)
		ret = collect_rdma(engine, &descriptor);
	if (!ret)
		ret = mci_descriptor_encode(&descriptor, &engine->cluster, text);
	json_decref(descriptor.transports);
	json_decref(descriptor.classic_root);
	json_decref(descriptor.classic_buffers);
	free(descriptor.regions);
	free(descriptor.buffers);
	return ret;
}

static int taken_over(const struct mc_engine *engine)
{
	return mci_fail(
		-EOWNERDEAD,
		"the name '%s' was taken over by another process; open the engine anew under a name of "
		"its own",
		engine->self.name);
}

int mci_publish_again(void *arg)
{
	struct mc_engine *engine = arg;
	int ret = 0;

	pthread_mutex_lock(&engine->publish_lock);
	if (!engine->publish_later)
		ret = mci_publish_update(engine);
	pthread_mutex_unlock(&engine->publish_lock);
	return ret;
}

char *mci_publish_text(struct mc_engine *engine)
{
	char *text;

	pthread_mutex_lock(&engine->lock);
	text = engine->descriptor ? strdup(engine->descriptor) : NULL;
	pthread_mutex_unlock(&engine->lock);
	return text;
}

/* Does the process that left this record still answer? 0: no; -EADDRINUSE: yes. */
static int probe(struct mc_engine *engine, const struct mci_resolved *found)
{
	uint64_t deadline = mci_now_ns() + MCI_PROBE_TIMEOUT_MS * MCI_NS_PER_MS;
	const char *const *hosts = (const char *const *)found->hosts;
	int ret;

	if (!found->host_count || !found->port)
		return 0;
	if (found->descriptor->has_ours) {
		struct mci_connect_attr attr = {
			.self = &engine->self,
			.secret = &found->secret,
			.wanted = &found->descriptor->uuid,
			.hosts = hosts,
			.host_count = found->host_count,
			.port = found->port,
			.service = MCI_SERVICE_ENGINE,
			.role = MCI_ROLE_CONTROL,
			.deadline_ns = deadline,
		};
		struct mci_hello hello;
		struct mci_sock sock;

		ret = mci_connect(&attr, &sock, &hello);
		if (!ret)
			mci_sock_close(&sock);
		/* A wrong key is an answer too: somebody lives there. */
		if (ret && ret != -EKEYREJECTED)
			return 0;
	} else {
		char *reply = NULL;

		if (mci_classic_exchange(hosts, found->host_count, found->port, MCI_CLASSIC_PROBE, "{}\n",
					 deadline, &reply))
			return 0;
		free(reply);
	}
	return mci_fail(-EADDRINUSE,
			"the name '%s' is in use by a living process at %s port %u; give another "
			"--local_server_name, or stop that process",
			engine->self.name, found->hosts[0], found->port);
}

/* The record itself is at fault. Other errors are the service's, and say nothing of who lives under the name. */
static bool is_of_record(int err) { return err == -EBADMSG || err == -EPROTO || err == -ENOENT; }

/* What is under our name now: *version of it for the take-over, or -EADDRINUSE. */
static int look_at_predecessor(struct mc_engine *engine, const char *key, uint64_t *version, bool *there)
{
	struct mci_metadata_value value;
	struct mci_resolved found;
	int ret;

	*there = false;
	ret = mci_metadata_fetch(engine->metadata, key, &value);
	if (ret == -ENOENT)
		return 0;
	if (ret)
		return ret;
	*there = true;
	*version = value.version;
	ret = mci_segment_resolve(engine, engine->self.name,
				  mci_now_ns() + MCI_PROBE_TIMEOUT_MS * MCI_NS_PER_MS, &found);
	/* Written under another key, or none: its process may live all the same, and says so by refusing
	 * ours. */
	if (ret == -EKEYREJECTED)
		ret = mci_segment_locate(engine, value.text, value.length, &found);
	free(value.text);
	if (ret && !is_of_record(ret))
		return ret;
	if (ret) {
		mci_info("the record under '%s' cannot be read (%s); it is replaced", key, mc_errmsg());
		return 0;
	}
	/* A classic process says only there where it listens. */
	if (!found.host_count)
		ret = mci_segment_rpc_meta(engine, engine->self.name, &found);
	if (ret && !is_of_record(ret)) {
		mci_resolved_release(&found);
		return ret;
	}
	if (ret)
		mci_info("nothing says where the classic process under '%s' listens", key);
	/* Ours, from a registration whose publication did not get to its end. */
	ret = mci_uuid_equal(&found.descriptor->uuid, &engine->self.uuid) ? 0 : probe(engine, &found);
	mci_resolved_release(&found);
	return ret;
}

static int take_name(struct mc_engine *engine, const char *key, const char *text)
{
	uint64_t version = 0;
	bool there;
	int ret, tries;

	for (tries = 0; tries < 3; tries++) {
		ret = look_at_predecessor(engine, key, &version, &there);
		if (ret)
			return ret;
		/* Without versions (classic servers) overwrite and let the heartbeat notice a rival. */
		ret = mci_metadata_publish(engine->metadata, key, text, there ? version : 0,
					   there && !version);
		if (ret != -EEXIST && ret != -ESTALE)
			return ret;
	}
	return mci_fail(-EADDRINUSE,
			"the name '%s' is being taken by another process at this moment; give another "
			"--local_server_name",
			engine->self.name);
}

static int publish_token(struct mc_engine *engine)
{
	char key[MCI_KEY_MAX], text[33];
	int ret;

	if (engine->host.secret.mode != MCI_AUTH_TOKEN)
		return 0;
	ret = mci_key_token(engine->cluster_id, engine->self.name, key);
	if (ret)
		return ret;
	mci_hex(engine->host.secret.key, 16, text);
	return mci_metadata_publish(engine->metadata, key, text, 0, true);
}

static int publish_rpc_meta(struct mc_engine *engine)
{
	char key[MCI_KEY_MAX], *text;
	int ret;

	ret = mci_key_rpc_meta(engine->cluster_id, engine->self.name, key);
	if (!ret)
		ret = mci_rpc_meta_encode(engine->addresses[0], engine->port, &text);
	if (ret)
		return ret;
	ret = mci_metadata_publish(engine->metadata, key, text, 0, true);
	free(text);
	return ret;
}

/* Take the name with @text under it, and publish what belongs to it. publish_lock held. */
static int publish_first(struct mc_engine *engine, const char *text)
{
	char key[MCI_KEY_MAX];
	int ret;

	ret = mci_key_ram(engine->cluster_id, engine->self.name, key);
	if (!ret)
		ret = take_name(engine, key, text);
	if (!ret)
		ret = publish_token(engine);
	if (!ret)
		ret = publish_rpc_meta(engine);
	if (ret)
		return ret;
	engine->published = true;
	engine->publish_later = false;
	return 0;
}

int mci_publish_update(struct mc_engine *engine)
{
	char key[MCI_KEY_MAX], *text;
	int ret;

	if (atomic_load(&engine->lost))
		return taken_over(engine);
	if (engine->publish_held) {
		engine->publish_due = true;
		return 0;
	}
	engine->publish_due = false;
	ret = encode(engine, &text);
	if (ret)
		return ret;
	if (engine->publish_later) {
		ret = publish_first(engine, text);
	} else if (engine->metadata && engine->published) {
		ret = mci_key_ram(engine->cluster_id, engine->self.name, key);
		/* Over our own text only: what another process put there is not ours to replace. */
		if (!ret)
			ret = mci_metadata_publish(engine->metadata, key, text, 0, false);
		if (ret == -EEXIST) {
			on_lost(engine, key);
			ret = taken_over(engine);
		}
	}
	if (ret) {
		free(text);
		return ret;
	}
	pthread_mutex_lock(&engine->lock);
	free(engine->descriptor);
	engine->descriptor = text;
	pthread_mutex_unlock(&engine->lock);
	return 0;
}

/* Not before there is memory to show; but a name that is taken is said now. */
static int publish_later(struct mc_engine *engine)
{
	char key[MCI_KEY_MAX];
	uint64_t version;
	bool there;
	int ret;

	ret = mci_key_ram(engine->cluster_id, engine->self.name, key);
	if (!ret)
		ret = look_at_predecessor(engine, key, &version, &there);
	engine->publish_later = !ret;
	return ret;
}

int mci_publish_start(struct mc_engine *engine)
{
	int ret;

	pthread_mutex_lock(&engine->publish_lock);
	ret = mci_publish_update(engine);
	if (ret || !engine->metadata)
		goto out_unlock;
	mci_metadata_on_lost(engine->metadata, on_lost, engine);
	ret = engine->flags & MC_ENGINE_PUBLISH_LATER ? publish_later(engine)
						      : publish_first(engine, engine->descriptor);
	if (ret)
		goto out_unlock;
	if (engine->host.secret.mode == MCI_AUTH_TOKEN && mci_metadata_is_remote(engine))
		mci_warn("no cluster key: whoever can read or write the metadata service %s can reach this "
			 "process's memory "
			 "(mooncake key new FILE, then --key_file=FILE everywhere, ends that)",
			 engine->metadata_shown);
out_unlock:
	pthread_mutex_unlock(&engine->publish_lock);
	return ret;
}

void mci_publish_stop(struct mc_engine *engine)
{
	/* Closing the metadata service withdraws what is still ours there. */
	mci_metadata_close(engine->metadata);
	engine->metadata = NULL;
	free(engine->descriptor);
	engine->descriptor = NULL;
}
