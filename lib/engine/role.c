// SPDX-License-Identifier: MIT
/* What the stores use of the engine beside its public interface. Lock: engine->roles_lock, held (to read)
 * while a handler runs; nothing else is taken under it by us. */
#include "engine/role.h"

#include <stdio.h>

#include "engine/engine.h"

int mci_engine_role(mc_engine *engine, enum mci_role role,
		    void (*incoming)(void *arg, struct mci_incoming *in), void *arg)
{
	int ret = 0;

	pthread_rwlock_wrlock(&engine->roles_lock);
	if (incoming && engine->roles[role].incoming)
		ret = mci_fail(-EEXIST, "connections of role %d are served by somebody else already", role);
	else
		engine->roles[role] = (struct mci_role_handler){.incoming = incoming, .arg = arg};
	pthread_rwlock_unlock(&engine->roles_lock);
	return ret;
}

void mci_role_incoming(struct mc_engine *engine, struct mci_incoming *in)
{
	const struct mci_role_handler *handler;
	unsigned int role = (unsigned int)mci_incoming_hello(in)->role;

	pthread_rwlock_rdlock(&engine->roles_lock);
	handler = role < MCI_ROLES ? &engine->roles[role] : NULL;
	if (handler && handler->incoming)
		handler->incoming(handler->arg, in);
	else
		mci_incoming_reject(in, -EPROTO, "nobody here serves connections of that role");
	pthread_rwlock_unlock(&engine->roles_lock);
}

int mci_engine_dial(mc_engine *engine, const char *name, enum mci_role role, uint64_t deadline_ns,
		    struct mci_sock *sock, struct mci_hello *hello)
{
	struct mci_connect_attr attr = {
		.self = &engine->self,
		.source = engine->host.options.source,
		.service = MCI_SERVICE_ENGINE,
		.role = role,
		.deadline_ns = deadline_ns,
	};
	struct mci_resolved found;
	int ret;

	if (mci_forked(engine))
		return mci_fork_fail();
	ret = mci_segment_resolve(engine, name, deadline_ns, &found);
	if (ret)
		return ret;
	if (!found.descriptor->has_ours) {
		mci_resolved_release(&found);
		return mci_fail(-EOPNOTSUPP,
				"segment '%s' is served by a classic peer, which has no store of ours", name);
	}
	attr.hosts = (const char *const *)found.hosts;
	attr.host_count = found.host_count;
	attr.port = found.port;
	attr.secret = &found.secret;
	attr.wanted = &found.descriptor->uuid;
	ret = mci_connect(&attr, sock, hello);
	mci_resolved_release(&found);
	return ret;
}

int mci_engine_metadata(mc_engine *engine, struct mci_metadata **metadata)
{
	*metadata = NULL;
	return mci_forked(engine) ? mci_fork_fail() : mci_metadata_connect(engine, metadata);
}

int mci_engine_key(const mc_engine *engine, const char *kind, const char *name, char key[MCI_ENGINE_KEY_MAX])
{
	return mci_key_make(engine->cluster_id, kind, name, key);
}

bool mci_engine_mac(const mc_engine *engine, const char *label, const void *p, size_t n, uint8_t mac[32])
{
	if (engine->cluster.mode != MCI_AUTH_CLUSTER)
		return false;
	mci_key_mac(&engine->cluster, label, p, n, mac);
	return true;
}

enum mci_auth_mode mci_engine_trust(const mc_engine *engine) { return engine->host.secret.mode; }

const char *mci_engine_service(const mc_engine *engine) { return engine->metadata_shown; }

struct mci_ledger *mci_engine_ledger(mc_engine *engine) { return engine->host.ledger; }

int mci_engine_hold(mc_engine *engine, bool on)
{
	int ret = 0;

	pthread_mutex_lock(&engine->publish_lock);
	engine->publish_held += on ? 1u : -1u;
	if (!engine->publish_held && engine->publish_due)
		ret = mci_publish_update(engine);
	pthread_mutex_unlock(&engine->publish_lock);
	return ret;
}

int mci_engine_check(const mc_engine *engine) { return mci_forked(engine) ? mci_fork_fail() : 0; }
