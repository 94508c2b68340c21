// SPDX-License-Identifier: MIT
/*
 * From a segment's name to its descriptor, its addresses and the secret to prove there: through the
 * metadata service, or without one (P2PHANDSHAKE) by asking the peer itself.
 */
#include "engine/engine.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/uuid.h"
#include "transport/classic_message.h"

/* How long a token may come later than the descriptor. */
#define TOKEN_PATIENCE_MS 1000

void mci_resolved_release(struct mci_resolved *resolved)
{
	unsigned int i;

	mci_descriptor_free(resolved->descriptor);
	for (i = 0; i < resolved->host_count; i++)
		free(resolved->hosts[i]);
	explicit_bzero(resolved, sizeof(*resolved));
}

static void add_host(struct mci_resolved *resolved, const char *host)
{
	if (resolved->host_count < MCI_MAX_ADDRESSES && *host) {
		resolved->hosts[resolved->host_count] = strdup(host);
		if (resolved->hosts[resolved->host_count])
			resolved->host_count++;
	}
}

static void adopt(struct mci_descriptor *descriptor, struct mci_resolved *out)
{
	unsigned int i;

	out->descriptor = descriptor;
	if (!descriptor->has_ours)
		return;
	for (i = 0; i < descriptor->address_count; i++)
		add_host(out, descriptor->addresses[i]);
	out->port = descriptor->port;
}

int mci_segment_locate(struct mc_engine *engine, const char *text, size_t length, struct mci_resolved *out)
{
	struct mci_descriptor *descriptor;
	int ret;

	memset(out, 0, sizeof(*out));
	ret = mci_descriptor_decode(text, length, NULL, &descriptor);
	if (ret)
		return ret;
	adopt(descriptor, out);
	out->secret = engine->cluster;
	return 0;
}

static int decode(struct mc_engine *engine, const char *name, const char *text, size_t length,
		  struct mci_resolved *out)
{
	const struct mci_secret *cluster = engine->cluster.mode == MCI_AUTH_CLUSTER ? &engine->cluster : NULL;
	struct mci_descriptor *descriptor;
	int ret;

	ret = mci_descriptor_decode(text, length, cluster, &descriptor);
	if (ret)
		return mci_fail(ret, "segment '%s': %s", name, mc_errmsg());
	adopt(descriptor, out);
	if (descriptor->has_ours)
		return 0;
	if (cluster && !(engine->flags & MC_ENGINE_CLASSIC))
		return mci_fail(-EKEYREJECTED,
				"segment '%s' is served by a classic peer, which knows no cluster key; "
				"give --classic to talk to it all the same",
				descriptor->name);
	return 0;
}

/* ram/<name> appears a moment before token/<name>: give it that moment. */
static int fetch_token(struct mc_engine *engine, const char *name, const struct mci_descriptor *descriptor,
		       uint64_t deadline_ns, struct mci_secret *secret)
{
	/* A record that is signed belongs to a cluster with a key: no token will come. */
	bool signed_record = json_object_get(json_object_get(descriptor->root, "mooncake_c"), "mac");
	struct mci_metadata_value value;
	char key[MCI_KEY_MAX];
	int ret;

	if (engine->cluster.mode == MCI_AUTH_CLUSTER) {
		*secret = engine->cluster;
		return 0;
	}
	ret = mci_key_token(engine->cluster_id, name, key);
	if (ret)
		return ret;
	if (deadline_ns > mci_now_ns() + TOKEN_PATIENCE_MS * MCI_NS_PER_MS)
		deadline_ns = mci_now_ns() + TOKEN_PATIENCE_MS * MCI_NS_PER_MS;
	for (;;) {
		ret = mci_metadata_fetch(engine->metadata, key, &value);
		if (ret != -ENOENT || signed_record || mci_ms_left(deadline_ns) < 100)
			break;
		poll(NULL, 0, 50);
	}
	if (ret == -ENOENT)
		return mci_fail(-EKEYREJECTED,
				"segment '%s' publishes no access token, so its cluster uses a key: give "
				"--key_file=FILE (or MOONCAKE_KEY_FILE) with the key of the cluster",
				name);
	if (ret)
		return ret;
	secret->mode = MCI_AUTH_TOKEN;
	secret->key_length = 16;
	ret = mci_unhex(value.text, secret->key, 16);
	explicit_bzero(value.text, value.length);
	free(value.text);
	if (ret)
		return mci_fail(-EBADMSG,
				"the access token of segment '%s' in the metadata service is malformed",
				name);
	return 0;
}

int mci_segment_rpc_meta(struct mc_engine *engine, const char *name, struct mci_resolved *out)
{
	struct mci_metadata_value value;
	char key[MCI_KEY_MAX], host[MCI_HOST_MAX];
	int ret;

	ret = mci_key_rpc_meta(engine->cluster_id, name, key);
	if (!ret)
		ret = mci_metadata_fetch(engine->metadata, key, &value);
	if (ret == -ENOENT)
		return mci_fail(-ENOENT,
				"segment '%s' has no entry '%s' in the metadata service; is the target "
				"running?",
				name, key);
	if (ret)
		return ret;
	ret = mci_rpc_meta_decode(value.text, value.length, host, &out->port);
	free(value.text);
	if (!ret)
		add_host(out, host);
	return ret;
}

static int resolve_by_service(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
			      struct mci_resolved *out)
{
	struct mci_metadata_value value;
	char key[MCI_KEY_MAX];
	int ret;

	ret = mci_key_ram(engine->cluster_id, name, key);
	if (ret)
		return ret;
	ret = mci_metadata_fetch(engine->metadata, key, &value);
	if (ret == -ENOENT)
		return mci_fail(
			-ENOENT,
			"segment '%s' is not known to the metadata service %s; is the target running, "
			"and under that name? (mooncake segment ls --metadata_server=%s lists what there is)",
			name, engine->metadata_shown, engine->metadata_shown);
	if (ret)
		return ret;
	ret = decode(engine, name, value.text, value.length, out);
	free(value.text);
	if (ret)
		return ret;
	/* Signed it may be, for another name: whoever writes the service must not lead us elsewhere. */
	if (out->descriptor->has_ours && strcmp(out->descriptor->name, name))
		return mci_fail(
			-EBADMSG,
			"the record under the name '%s' in the metadata service describes segment '%s'; it "
			"was put there by hand, or tampered with",
			name, out->descriptor->name);
	if (!out->descriptor->has_ours)
		return mci_segment_rpc_meta(engine, out->descriptor->name[0] ? out->descriptor->name : name,
					    out);
	return fetch_token(engine, name, out->descriptor, deadline_ns, &out->secret);
}

/* A classic peer without a metadata service answers type-1 messages. */
static int ask_classic(struct mc_engine *engine, const char *name, const struct mci_hostport *at,
		       uint64_t deadline_ns, struct mci_resolved *out)
{
	const char *hosts[1] = {at->host};
	char *mine = mci_publish_text(engine), *reply = NULL;
	int ret;

	ret = mci_classic_exchange(hosts, 1, at->port, MCI_CLASSIC_METADATA, mine ? mine : "{}", deadline_ns,
				   &reply);
	free(mine);
	if (ret)
		return ret;
	ret = decode(engine, name, reply, strlen(reply), out);
	free(reply);
	if (!ret) {
		add_host(out, at->host);
		out->port = at->port;
		out->secret = engine->cluster; /* should it be one of ours after all: no downgrade */
	}
	return ret;
}

static int resolve_by_peer(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
			   struct mci_resolved *out)
{
	struct mci_connect_attr attr = {
		.self = &engine->self,
		.service = MCI_SERVICE_ENGINE,
		.role = MCI_ROLE_CONTROL,
		.deadline_ns = deadline_ns,
		.host_count = 1,
	};
	struct mci_hostport at;
	const char *hosts[1];
	struct mci_secret none = {.mode = MCI_AUTH_NONE};
	char unix_name[64], why[400];
	uint32_t length;
	void *body;
	int ret;

	ret = mci_hostport_parse(name, &at);
	if (ret)
		return ret;
	if (!at.port)
		return mci_fail(
			-EINVAL,
			"with P2PHANDSHAKE a segment is named by host:port, as the target prints it; '%s' "
			"has no port",
			name);
	hosts[0] = at.host;
	attr.hosts = hosts;
	attr.port = at.port;
	attr.secret = &engine->cluster; /* mode NONE if there is no key */
	if (engine->cluster.mode != MCI_AUTH_CLUSTER && !(engine->flags & MC_ENGINE_INSECURE)) {
		if (!mci_host_is_loopback(at.host))
			return mci_fail(-EKEYREJECTED,
					"without a metadata service and without a cluster key only this host "
					"can be reached, not '%s': give --key_file=FILE (mooncake key new "
					"FILE), or --insecure",
					name);
		mci_p2p_socket_name(at.port, unix_name, sizeof(unix_name));
		attr.unix_name = unix_name;
		attr.secret = &none;
	}
	ret = mci_control_ask(engine, &attr, MCI_CONTROL_DESCRIBE, &body, &length, NULL);
	if (ret && (engine->cluster.mode != MCI_AUTH_CLUSTER || engine->flags & MC_ENGINE_CLASSIC) &&
	    ret != -EKEYREJECTED && ret != -ETIMEDOUT && ret != -EHOSTUNREACH && ret != -ENETUNREACH) {
		if (!ask_classic(engine, name, &at, deadline_ns, out))
			return 0;
		snprintf(why, sizeof(why), "%s", mc_errmsg());
		/* Somebody may live there who wants a key: the hello over TCP says so. */
		attr.unix_name = NULL;
		if (mci_control_ask(engine, &attr, MCI_CONTROL_DESCRIBE, &body, &length, NULL) ==
		    -EKEYREJECTED)
			return -EKEYREJECTED;
		return mci_fail(ret, "no segment answers at %s; is the target running there, as the same user? (%s)",
				name, why);
	}
	if (ret)
		return ret;
	/* Body: 1 + 16 bytes of mode and token (zeros unless this is the same-user socket), then the
	 * descriptor. */
	if (length < 17) {
		free(body);
		return mci_fail(-EPROTO, "the peer at %s describes itself in %u bytes, which is too short",
				name, length);
	}
	ret = decode(engine, name, (const char *)body + 17, length - 17, out);
	if (!ret) {
		out->secret = *attr.secret;
		if (((uint8_t *)body)[0] == MCI_AUTH_TOKEN) {
			out->secret.mode = MCI_AUTH_TOKEN;
			out->secret.key_length = 16;
			memcpy(out->secret.key, (uint8_t *)body + 1, 16);
		}
		if (!out->host_count)
			add_host(out, at.host);
	}
	free(body);
	return ret;
}

int mci_segment_resolve(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
			struct mci_resolved *out)
{
	int ret;

	memset(out, 0, sizeof(*out));
	ret = engine->metadata ? resolve_by_service(engine, name, deadline_ns, out)
			       : resolve_by_peer(engine, name, deadline_ns, out);
	if (ret)
		mci_resolved_release(out);
	return ret;
}

int mci_segment_lookup(void *engine, const char *name, uint64_t deadline_ns, json_t **descriptor)
{
	struct mci_resolved resolved;
	int ret = mci_segment_resolve(engine, name, deadline_ns, &resolved);

	if (ret)
		return ret;
	*descriptor = json_incref(resolved.descriptor->root);
	mci_resolved_release(&resolved);
	return 0;
}
