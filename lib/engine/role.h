/* SPDX-License-Identifier: MIT */
/*
 * The engine's seam for what is built on it (the stores): connections of a role of their own, on the engine's
 * port and proved like all others; a metadata connection of their own; key names and MACs of the cluster.
 * Thread-safe; the blocking calls not from a loop thread.
 */
#ifndef MCI_ENGINE_ROLE_H
#define MCI_ENGINE_ROLE_H

#include <mooncake/engine.h>

#include "metadata/metadata.h"
#include "net/auth.h"
#include "net/ledger.h"
#include "net/service.h"
#include "net/sock.h"

#define MCI_ENGINE_KEY_MAX 1024 /* bytes of a metadata key, NUL included */

/*
 * Connections of @role go to @incoming (engine's loop thread; rules of mci_service_attr.connection). One
 * handler per role: -EEXIST. NULL ends it, and waits for one that runs; not from @incoming.
 */
int mci_engine_role(mc_engine *engine, enum mci_role role,
		    void (*incoming)(void *arg, struct mci_incoming *in), void *arg);
/* Blocking: from the segment's name to a proved stream of @role. Errors of mc_segment_open() and
 * mci_connect(). */
int mci_engine_dial(mc_engine *engine, const char *name, enum mci_role role, uint64_t deadline_ns,
		    struct mci_sock *sock, struct mci_hello *hello);
/* A connection of its own with the engine's options and lease, to be closed; NULL with P2PHANDSHAKE. */
int mci_engine_metadata(mc_engine *engine, struct mci_metadata **metadata);
/* "mooncake/<cluster id>/<kind><name>". -EINVAL: too long. */
int mci_engine_key(const mc_engine *engine, const char *kind, const char *name, char key[MCI_ENGINE_KEY_MAX]);
/* MAC under the cluster key; false: there is none. */
bool mci_engine_mac(const mc_engine *engine, const char *label, const void *p, size_t n, uint8_t mac[32]);
/* What a peer has proved that dialled us or answered us: the cluster key, a token, or nothing (--insecure).
 */
enum mci_auth_mode mci_engine_trust(const mc_engine *engine);
const char *mci_engine_service(const mc_engine *engine); /* URI of the metadata service, for sentences */
/* In whose books a served connection's queue goes (mci_conn_account()). */
struct mci_ledger *mci_engine_ledger(mc_engine *engine);
/*
 * Between hold(true) and hold(false) regions that are registered or unregistered are not published, then all
 * at once: of many, each for itself would cost its square. The error of hold(false) is that of the
 * publication.
 */
int mci_engine_hold(mc_engine *engine, bool on);
int mci_engine_check(const mc_engine *engine); /* -ECHILD after fork() */

#endif
