// SPDX-License-Identifier: MIT
/*
 * Opening and closing an engine: settings, identity, port, transports, publication, in this order, and
 * back in reverse. Attributes win over the environment, which wins over the configuration file.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config.h"
#include "core/bytes.h"
#include "core/uuid.h"
#include "engine/classic.h"

#define KNOWN_FLAGS                                                                             \
	(MC_ENGINE_CLASSIC | MC_ENGINE_INSECURE | MC_ENGINE_REQUIRE_ACK | MC_ENGINE_INTEGRITY | \
	 MC_ENGINE_CHECKSUM | MC_ENGINE_PUBLISH_LATER)
#define P2P_PORT_TRIES 500

static int keep(char **out, const char *given, const struct mci_settings *settings, const char *key)
{
	const char *text = given ? given : mci_settings_text(settings, key);

	if (!text || !*text)
		return 0;
	*out = strdup(text);
	return *out ? 0 : mci_fail(-ENOMEM, "no memory for the settings");
}

static uint64_t number(uint64_t given, const struct mci_settings *settings, const char *key)
{
	return given ? given : mci_settings_number(settings, key);
}

static uint32_t flag(const struct mci_settings *settings, const char *key, uint32_t bit)
{
	return mci_settings_bool(settings, key) ? bit : 0;
}

static int read_settings(struct mc_engine *engine, const struct mc_engine_attr *attr)
{
	struct mci_settings *s;
	const char *key_file;
	int ret;

	ret = mci_settings_load(attr->config_file, &engine->settings);
	if (ret)
		return ret;
	s = engine->settings;
	engine->flags = attr->flags | flag(s, "engine.classic", MC_ENGINE_CLASSIC) |
			flag(s, "engine.insecure", MC_ENGINE_INSECURE) |
			flag(s, "engine.require_ack", MC_ENGINE_REQUIRE_ACK) |
			flag(s, "engine.integrity", MC_ENGINE_INTEGRITY) |
			flag(s, "engine.checksum", MC_ENGINE_CHECKSUM);
	engine->queue_depth = (uint32_t)number(attr->queue_depth, s, "engine.queue_depth");
	engine->lease_ms = (uint32_t)number(attr->lease_ms, s, "engine.lease_ms");
	engine->timeout_ms = (uint32_t)mci_settings_number(s, "engine.timeout_ms");
	ret = keep(&engine->metadata_uri, attr->metadata, s, "engine.metadata");
	if (!ret)
		ret = keep(&engine->cluster_id, attr->cluster_id, s, "metadata.cluster_id");
	if (!ret)
		ret = keep(&engine->bind, attr->bind, s, "engine.bind");
	if (!ret && !engine->bind)
		ret = keep(&engine->bind, NULL, s, "tcp.bind_address");
	if (!ret)
		ret = keep(&engine->transports_wanted, attr->transports, s, "engine.transports");
	if (ret)
		return ret;
	if (!engine->metadata_uri)
		return mci_fail(-EINVAL,
				"no metadata service given: use --metadata_server with etcd://host:2379, "
				"redis://host:6379, http://host:8080/metadata or P2PHANDSHAKE");
	mci_shown_uri(engine->metadata_uri, engine->metadata_shown, sizeof(engine->metadata_shown));
	key_file = attr->key_file ? attr->key_file : mci_settings_text(s, "security.key_file");
	if (key_file && *key_file)
		return mci_key_load(key_file, &engine->cluster);
	return 0;
}

/* The descriptor's boot id says which host boot this is; the same-host proof itself is a nonce. */
static void read_boot_id(struct mc_uuid *id)
{
	char text[64] = "", plain[MCI_UUID_TEXT];
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	size_t i, n = 0;

	if (file) {
		if (!fgets(text, sizeof(text), file))
			text[0] = '\0';
		fclose(file);
	}
	for (i = 0; text[i] && n < sizeof(plain) - 1; i++)
		if (text[i] != '-' && text[i] != '\n')
			plain[n++] = text[i];
	plain[n] = '\0';
	if (mci_uuid_parse(plain, id))
		mci_uuid_new(id);
}

static int choose_secret(struct mc_engine *engine)
{
	struct mci_secret *secret = &engine->host.secret;

	if (engine->cluster.mode == MCI_AUTH_CLUSTER) {
		*secret = engine->cluster;
	} else if (engine->kind == MCI_METADATA_P2P && engine->flags & MC_ENGINE_INSECURE) {
		secret->mode = MCI_AUTH_NONE;
		mci_warn("--insecure without a cluster key: anybody who reaches this port can read and write "
			 "registered memory");
	} else {
		secret->mode = MCI_AUTH_TOKEN;
		secret->key_length = 16;
		mci_random(secret->key, 16);
	}
	return 0;
}

/* P2PHANDSHAKE has no third party to trust: without a key, loopback only (design 5). */
static int check_p2p(struct mc_engine *engine, struct mci_hostport *name)
{
	bool protected = engine->cluster.mode == MCI_AUTH_CLUSTER || engine->flags & MC_ENGINE_INSECURE;

	if (engine->kind != MCI_METADATA_P2P || protected)
		return 0;
	if (!engine->bind) {
		if (name->host[0] && !mci_host_is_loopback(name->host))
			goto refuse;
		engine->bind = strdup(mci_host_is_literal(name->host) ? name->host : mci_loopback());
		if (!engine->bind)
			return mci_fail(-ENOMEM, "no memory for the settings");
		engine->bind_chosen = true;
		return 0;
	}
	if (mci_host_is_loopback(engine->bind))
		return 0;
refuse:
	return mci_fail(
		-EPERM,
		"P2PHANDSHAKE without a cluster key serves loopback only, not '%s': give "
		"--key_file=FILE (mooncake key new FILE writes one), or --insecure to let everybody in",
		engine->bind ? engine->bind : name->host);
}

static void on_connection(void *arg, struct mci_incoming *in)
{
	struct mc_engine *engine = arg;
	enum mci_transport_id id;

	switch (mci_incoming_hello(in)->role) {
	case MCI_ROLE_CONTROL:
		mci_control_incoming(engine, in);
		return;
	case MCI_ROLE_DATA:
		id = MCI_TRANSPORT_TCP;
		break;
	case MCI_ROLE_SHM:
		id = MCI_TRANSPORT_SHM;
		break;
	case MCI_ROLE_RDMA:
		id = MCI_TRANSPORT_RDMA;
		break;
	default:
		mci_role_incoming(engine, in);
		return;
	}
	if (engine->transport[id])
		mci_transports[id]->incoming(engine->transport[id], in);
	else
		mci_incoming_reject(in, -EOPNOTSUPP, "this process does not serve that transport");
}

static int classic_notify(void *arg, const char *name, const char *message, size_t length)
{
	struct mc_engine *engine = arg;
	struct mc_uuid nobody = {{0}};
	size_t name_length = strlen(name);
	uint8_t *body;
	int ret;

	if (length > MC_NOTIFY_MESSAGE_MAX || name_length > MC_NOTIFY_NAME_MAX)
		return -EMSGSIZE;
	body = malloc(6 + name_length + length);
	if (!body)
		return -ENOMEM;
	mci_put16(body, (uint16_t)name_length);
	memcpy(body + 2, name, name_length);
	mci_put32(body + 2 + name_length, (uint32_t)length);
	memcpy(body + 6 + name_length, message, length);
	ret = mci_notify_arrived(engine, &nobody, 0, body, (uint32_t)(6 + name_length + length));
	free(body);
	return ret;
}

/* Classic peers read the descriptor from us only where there is no metadata service. */
static char *classic_descriptor(void *arg)
{
	struct mc_engine *engine = arg;

	if (engine->kind != MCI_METADATA_P2P)
		return NULL;
	return mci_publish_text(engine);
}

static int on_classic(void *arg, enum mci_classic_type type, const char *json, size_t length, char **reply)
{
	struct mci_classic_handler handler = {
		.descriptor = classic_descriptor, .notify = classic_notify, .arg = arg};

	return mci_classic_answer(&handler, type, json, length, reply);
}

/* Queue pairs are exchanged: set only where the transport serves them. */
static void on_classic_connection(void *arg, struct mci_incoming *in, const char *json, size_t length)
{
	struct mc_engine *engine = arg;

	mci_transports[MCI_TRANSPORT_RDMA_CLASSIC]->classic_connection(
		engine->transport[MCI_TRANSPORT_RDMA_CLASSIC], in, json, length);
}

static int start_service(struct mc_engine *engine, const struct mc_engine_attr *attr,
			 const struct mci_hostport *name)
{
	struct mci_service_attr service = {
		.bind = engine->bind,
		.port = attr->port ? attr->port
			: mci_settings_number(engine->settings, "engine.port")
				? (uint16_t)mci_settings_number(engine->settings, "engine.port")
				: name->port,
		.port_low = (uint16_t)mci_settings_number(engine->settings, "engine.port_low"),
		.port_high = (uint16_t)mci_settings_number(engine->settings, "engine.port_high"),
		.classic = engine->flags & MC_ENGINE_CLASSIC,
		.service = MCI_SERVICE_ENGINE,
		.features = MCI_FEATURES_KNOWN,
		.self = &engine->first_self,
		.secret = engine->host.secret,
		.loops = &engine->loops,
		.ledger = engine->host.ledger,
		.connection = on_connection,
		.classic_message = on_classic,
		.arg = engine,
	};
	char unix_name[64] = "mooncake/", uuid[MCI_UUID_TEXT];
	int ret;

	if (service.classic && engine->transport[MCI_TRANSPORT_RDMA_CLASSIC])
		service.classic_connection = on_classic_connection;
	mci_uuid_text(&engine->self.uuid, uuid);
	snprintf(unix_name + strlen(unix_name), sizeof(unix_name) - strlen(unix_name), "%s", uuid);
	service.unix_name = unix_name;
	engine->first_self = engine->self;
	ret = mci_service_start(&service, &engine->service);
	if (ret)
		return ret;
	engine->port = mci_service_port(engine->service);
	if (engine->kind != MCI_METADATA_P2P || engine->host.secret.mode != MCI_AUTH_TOKEN)
		return 0;
	/* No third party hands out the token: processes of the same user on this host ask for it here. */
	mci_p2p_socket_name(engine->port, unix_name, sizeof(unix_name));
	service.unix_only = true;
	service.unix_same_user = true;
	service.secret = (struct mci_secret){.mode = MCI_AUTH_NONE};
	return mci_service_start(&service, &engine->local_service);
}

/* "node:22x", "[::1]:99999": a port was meant there, and is none. "node:gpu0" is just a name. */
static bool means_port(const char *text)
{
	const char *colon = text[0] == '[' ? strstr(text, "]:") : strchr(text, ':');

	if (colon && text[0] == '[')
		colon++;
	return colon && !strchr(colon + 1, ':') && (!colon[1] || strchr("+-0123456789", colon[1]));
}

static int set_name(struct mc_engine *engine, const struct mc_engine_attr *attr, struct mci_hostport *host)
{
	const char *text = attr->name ? attr->name : mci_settings_text(engine->settings, "engine.name");
	char hostname[MCI_HOST_MAX];

	memset(host, 0, sizeof(*host));
	if (!text || !*text) {
		if (engine->kind == MCI_METADATA_P2P && engine->cluster.mode != MCI_AUTH_CLUSTER &&
		    !(engine->flags & MC_ENGINE_INSECURE))
			snprintf(hostname, sizeof(hostname), "%s", mci_loopback());
		else if (gethostname(hostname, sizeof(hostname)))
			return mci_fail(-errno, "the host has no name: %m; give --local_server_name");
		text = hostname;
	}
	if (strlen(text) > MCI_NAME_MAX)
		return mci_fail(-EINVAL, "the segment name is longer than %d bytes", MCI_NAME_MAX);
	snprintf(engine->self.name, sizeof(engine->self.name), "%s", text);
	/* A name need not be an address; where it is one, its port is meant. */
	if (!strchr(text, '/') && mci_hostport_parse(text, host)) {
		if (engine->kind == MCI_METADATA_P2P || means_port(text))
			return -EINVAL;
		memset(host, 0, sizeof(*host));
	}
	return 0;
}

/* Names that ask for it get the port that was found: all with P2PHANDSHAKE, elsewhere "host:0". */
static void finish_name(struct mc_engine *engine, struct mci_hostport *host)
{
	size_t n = strlen(engine->self.name);
	bool asked = n > 2 && !strcmp(engine->self.name + n - 2, ":0");

	if (engine->kind == MCI_METADATA_P2P && engine->address_count)
		snprintf(host->host, sizeof(host->host), "%s", engine->addresses[0]);
	else if (!asked)
		return;
	host->port = engine->port;
	/* The services listen already: they go over to the finished identity in one step. */
	mci_hostport_text(host, engine->self.name, sizeof(engine->self.name));
	mci_service_identity(engine->service, &engine->self);
	if (engine->local_service)
		mci_service_identity(engine->local_service, &engine->self);
}

/* Asked for by name it must be there; else the others do. A NIC that cannot be used is no reason to stop. */
static bool may_do_without(const struct mc_engine *engine, const struct mci_transport_ops *ops, int err)
{
	const char *list = engine->transports_wanted;
	const struct mci_rdma_options *rdma = &engine->host.options.rdma;

	if (ops->id != MCI_TRANSPORT_RDMA && ops->id != MCI_TRANSPORT_RDMA_CLASSIC)
		return err == -EOPNOTSUPP;
	return !(list && strstr(list, ops->name)) &&
	       (!rdma->devices || !*rdma->devices || rdma->devices_by_matrix);
}

/* Who chose TCP serves classic peers by TCP: their descriptor names one protocol. */
static bool wants_rdma(const struct mc_engine *engine)
{
	return mci_transport_listed(engine->transports_wanted, "rdma") ||
	       mci_transport_listed(engine->transports_wanted, "rdma-classic");
}

static int open_transports(struct mc_engine *engine, const struct mc_engine_attr *attr)
{
	struct mci_transport_host *host = &engine->host;
	const struct mci_settings *s = engine->settings;
	unsigned int i;
	int ret;

	host->engine = engine;
	host->self = &engine->self;
	host->loops = &engine->loops;
	host->complete = mci_batch_complete;
	host->refresh = mci_segment_refresh;
	host->notify = mci_notify_arrived;
	host->lookup = mci_segment_lookup;
	host->publish = mci_publish_again;
	host->options = (struct mci_transport_options){
		.streams = (uint32_t)number(attr->streams, s, "engine.streams"),
		.slice_size = (uint32_t)mci_settings_number(s, "engine.slice_size"),
		.classic = engine->flags & MC_ENGINE_CLASSIC,
		.require_ack = engine->flags & MC_ENGINE_REQUIRE_ACK,
		.integrity = engine->flags & MC_ENGINE_INTEGRITY,
		.checksum = engine->flags & MC_ENGINE_CHECKSUM,
		.no_module = !strcmp(mci_settings_text(s, "memory.module"), "off"),
		.source = engine->bind,
		.connect_timeout_ms = MCI_CONNECT_TIMEOUT_MS,
		.port_low = (uint16_t)mci_settings_number(s, "engine.port_low"),
		.port_high = (uint16_t)mci_settings_number(s, "engine.port_high"),
		.bind = engine->bind,
	};
	ret = mci_rdma_options(engine, attr, &host->options.rdma);
	if (ret)
		return ret;
	/* Bound to "any", or to what nobody asked for, connections leave by route. */
	if (mci_bind_is_any(engine) || engine->bind_chosen)
		host->options.source = NULL;
	for (i = 0; i < MCI_TRANSPORT_COUNT; i++) {
		const struct mci_transport_ops *ops = mci_transports[i];

		if (!ops || (ops->id == MCI_TRANSPORT_RDMA_CLASSIC && !wants_rdma(engine)))
			continue;
		ret = ops->open(host, &engine->transport[ops->id]);
		if (ret && may_do_without(engine, ops, ret)) {
			mci_info("transport %s is off: %s", ops->name, mc_errmsg());
			continue;
		}
		if (ret)
			return ret;
	}
	return 0;
}

static int check_transports(const char *list)
{
	char *copy, *save = NULL, *word;
	int ret = 0;

	if (!list)
		return 0;
	copy = strdup(list);
	if (!copy)
		return mci_fail(-ENOMEM, "no memory for the settings");
	for (word = strtok_r(copy, ",", &save); word && !ret; word = strtok_r(NULL, ",", &save))
		if (strcmp(word, "tcp") && strcmp(word, "shm") && strcmp(word, "auto") &&
		    strcmp(word, "tcp-classic") &&
		    !(USE_RDMA && (!strcmp(word, "rdma") || !strcmp(word, "rdma-classic"))))
			ret = mci_fail(-EOPNOTSUPP,
				       "transport '%s' is not in this build; use tcp, shm or auto", word);
	free(copy);
	return ret;
}

int mci_metadata_connect(struct mc_engine *engine, struct mci_metadata **metadata)
{
	const struct mci_settings *s = engine->settings;
	bool redis = engine->kind == MCI_METADATA_REDIS;
	char bearer[65] = "";
	struct mci_metadata_options options = {
		.timeout_ms = (uint32_t)mci_settings_number(s, "metadata.timeout_ms"),
		.lease_ms = engine->lease_ms,
		.user = mci_settings_text(s, redis ? "metadata.redis_user" : "metadata.user"),
		.password = mci_settings_text(s, redis ? "metadata.redis_password" : "metadata.password"),
		.ca_file = mci_settings_text(s, "security.ca_file"),
		.cert_file = mci_settings_text(s, "security.cert_file"),
		.key_file = mci_settings_text(s, "security.cert_key_file"),
		.redis_db = (unsigned int)mci_settings_number(s, "metadata.redis_db"),
		.use_proxy = mci_settings_bool(s, "metadata.use_proxy"),
	};

	if (engine->kind == MCI_METADATA_P2P)
		return 0;
	if (engine->cluster.mode == MCI_AUTH_CLUSTER) {
		mci_key_bearer(&engine->cluster, "metadata", bearer);
		options.bearer = bearer;
	}
	return mci_metadata_open(engine->metadata_uri, &options, metadata);
}

static void destroy(struct mc_engine *engine)
{
	unsigned int i;

	if (engine->service)
		mci_service_stop(engine->service);
	if (engine->local_service)
		mci_service_stop(engine->local_service);
	mci_control_stop(engine);
	for (i = MCI_TRANSPORT_COUNT; i--;)
		if (engine->transport[i])
			mci_transports[i]->close(engine->transport[i]);
	if (engine->loops.count)
		mci_loops_stop(&engine->loops);
	mci_publish_stop(engine);
	mci_regions_destroy(engine->host.regions);
	mci_notify_drop_all(engine);
	mci_ledger_close(engine->host.ledger);
	if (engine->done_fd >= 0)
		close(engine->done_fd);
	for (i = 0; i < engine->address_count; i++)
		free(engine->addresses[i]);
	mci_settings_free(engine->settings);
	free(engine->metadata_uri);
	free(engine->cluster_id);
	free(engine->bind);
	free(engine->transports_wanted);
	free(engine->rdma_devices);
	free(engine->rdma_matrix);
	pthread_rwlock_destroy(&engine->roles_lock);
	pthread_mutex_destroy(&engine->publish_lock);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->done_lock);
	pthread_cond_destroy(&engine->notify_arrived);
	explicit_bzero(&engine->cluster, sizeof(engine->cluster));
	explicit_bzero(&engine->host.secret, sizeof(engine->host.secret));
	free(engine);
}

static struct mc_engine *create(void)
{
	struct mc_engine *engine = calloc(1, sizeof(*engine));
	pthread_condattr_t attr;

	if (!engine)
		return NULL;
	engine->done_fd = -1;
	engine->fork_epoch = mci_fork_epoch();
	pthread_rwlock_init(&engine->roles_lock, NULL);
	pthread_mutex_init(&engine->publish_lock, NULL);
	pthread_mutex_init(&engine->lock, NULL);
	pthread_mutex_init(&engine->done_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&engine->notify_arrived, &attr);
	pthread_condattr_destroy(&attr);
	return engine;
}

static unsigned int default_threads(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return cores < 1 ? 1 : cores > 4 ? 4 : (unsigned int)cores;
}

static int start(struct mc_engine *engine, const struct mc_engine_attr *attr)
{
	struct mci_hostport name;
	const char *advertise;
	uint64_t threads;
	bool given;
	int ret;

	ret = read_settings(engine, attr);
	if (!ret)
		ret = check_transports(engine->transports_wanted);
	if (!ret)
		ret = mci_metadata_kind(engine->metadata_uri, &engine->kind);
	if (!ret)
		ret = set_name(engine, attr, &name);
	if (!ret)
		ret = check_p2p(engine, &name);
	if (ret)
		return ret;
	mci_uuid_new(&engine->self.uuid);
	engine->self.generation = 1;
	read_boot_id(&engine->boot_id);
	choose_secret(engine);
	/* Addresses that were given are judged before anybody is asked; others are found by the route there.
	 */
	advertise =
		attr->advertise ? attr->advertise : mci_settings_text(engine->settings, "engine.advertise");
	given = (advertise && *advertise) || (engine->bind && !mci_bind_is_any(engine));
	ret = given ? mci_addresses_choose(engine, advertise, name.host) : 0;
	if (!ret)
		ret = mci_metadata_connect(engine, &engine->metadata);
	if (!ret && !given)
		ret = mci_addresses_choose(engine, advertise, name.host);
	if (!ret)
		ret = mci_regions_create(&engine->host.regions);
	if (ret)
		return ret;
	ret = mci_ledger_open(mci_settings_number(engine->settings, "engine.serve_bytes"),
			      mci_settings_number(engine->settings, "engine.serve_bytes_per_peer"),
			      &engine->host.ledger);
	if (ret)
		return ret;
	threads = number(attr->io_threads, engine->settings, "engine.io_threads");
	ret = mci_loops_start("mooncake-io", threads ? (unsigned int)threads : default_threads(),
			      &engine->loops);
	if (!ret)
		ret = open_transports(engine, attr);
	if (!ret)
		ret = start_service(engine, attr, &name);
	if (ret)
		return ret;
	finish_name(engine, &name);
	return mci_publish_start(engine);
}

/**
 * mc_engine_open() - join the cluster under a name
 * @attr: how; see struct mc_engine_attr
 * @out: the engine; mc_engine_close() it
 *
 * Connects to the metadata service, takes the name, listens, and publishes a segment without regions. With
 * MC_ENGINE_PUBLISH_LATER it only looks whether the name is free; mc_engine_register() publishes then, so that
 * memory may take its time and a restarted process never shows itself without its regions.
 * Blocks at most about 5 s. The calls on an engine are thread-safe.
 *
 * Return: 0; -EINVAL: attributes or configuration; -EADDRINUSE: port taken, or the name belongs to a living
 * process; -ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH: metadata service not reachable; -EACCES, -EKEYREJECTED:
 * it or the key file refused us; -EPERM: P2PHANDSHAKE beyond loopback without a key; -EOPNOTSUPP: unknown
 * transport; -EMFILE; -ENOMEM.
 */
int mc_engine_open(const struct mc_engine_attr *attr, mc_engine **out)
{
	struct mc_engine *engine;
	int ret;

	mci_log_init();
	if (!attr || attr->size != sizeof(*attr))
		return mci_fail(
			-EINVAL,
			"struct mc_engine_attr of %zu bytes is not known, this library has %zu; set its size "
			"(MC_ENGINE_ATTR_INIT), and build against the headers of this library",
			attr ? attr->size : 0, sizeof(*attr));
	if ((attr->flags & ~KNOWN_FLAGS) || attr->reserved0)
		return mci_fail(
			-EINVAL,
			"struct mc_engine_attr: this library does not know flag %#x, and reserved0 is %u "
			"instead of 0; was the program built against other headers?",
			attr->flags & ~KNOWN_FLAGS, attr->reserved0);
	engine = create();
	if (!engine)
		return mci_fail(-ENOMEM, "no memory for an engine");
	ret = start(engine, attr);
	if (ret) {
		destroy(engine);
		return ret;
	}
	*out = engine;
	return 0;
}

/**
 * mc_engine_close() - leave the cluster
 *
 * Return: 0; -EBUSY: batches, segments or regions are still open, nothing changed; -ECHILD.
 */
int mc_engine_close(mc_engine *engine)
{
	unsigned int batches, regions;
	bool segments;

	if (!engine)
		return 0;
	if (mci_forked(engine))
		return mci_fork_fail();
	pthread_mutex_lock(&engine->publish_lock);
	regions = engine->open_regions;
	pthread_mutex_unlock(&engine->publish_lock);
	pthread_mutex_lock(&engine->lock);
	batches = engine->batches;
	segments = engine->segments;
	pthread_mutex_unlock(&engine->lock);
	if (batches || segments || regions)
		return mci_fail(-EBUSY,
				"the engine still has %u batches, %u regions and %s open; end them first",
				batches, regions, segments ? "segments" : "no segment");
	destroy(engine);
	return 0;
}

/** mc_engine_name() - the name it is known by; with P2PHANDSHAKE "host:port". */
const char *mc_engine_name(const mc_engine *engine) { return engine->self.name; }

/** mc_engine_port() - the port it listens on. */
uint16_t mc_engine_port(const mc_engine *engine) { return engine->port; }

/** mc_engine_uuid() - identity of its segment; new at every open. Return: 0. */
int mc_engine_uuid(const mc_engine *engine, struct mc_uuid *uuid)
{
	*uuid = engine->self.uuid;
	return 0;
}
