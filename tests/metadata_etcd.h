/* SPDX-License-Identifier: MIT */
/* A real etcd member on loopback, for tests. */
#ifndef TESTS_METADATA_ETCD_H
#define TESTS_METADATA_ETCD_H

#include "metadata_server.h"

struct test_etcd {
	char name[16], dir[64], log[80];
	uint16_t port, peer_port;
	char cluster[256];		/* --initial-cluster; empty = a cluster of one */
	const char *extra[16];		/* further arguments, NULL at the end */
	const char *scheme;		/* NULL = http */
	pid_t pid;
};

/* The data directory is @parent/@name, and stays over a stop. */
static inline void test_etcd_init(struct test_etcd *etcd, const char *parent, const char *name)
{
	memset(etcd, 0, sizeof(*etcd));
	snprintf(etcd->name, sizeof(etcd->name), "%s", name);
	snprintf(etcd->dir, sizeof(etcd->dir), "%.40s/%.16s", parent, name);
	snprintf(etcd->log, sizeof(etcd->log), "%s.log", etcd->dir);
	etcd->port = test_free_port();
	do {
		etcd->peer_port = test_free_port();
	} while (etcd->peer_port == etcd->port);
}

static inline bool test_etcd_start(struct test_etcd *etcd)
{
	char client[64], peer[64], one[128];
	const char *argv[48] = {
		"etcd", "--name", etcd->name, "--data-dir", etcd->dir, "--listen-client-urls", client,
		"--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", etcd->cluster[0] ? etcd->cluster : one, "--heartbeat-interval", "50",
		"--election-timeout", "500", "--log-level", "error", "--logger", "zap",
	};
	unsigned int n, i;

	snprintf(client, sizeof(client), "%s://127.0.0.1:%u", etcd->scheme ? etcd->scheme : "http", etcd->port);
	snprintf(peer, sizeof(peer), "http://127.0.0.1:%u", etcd->peer_port);
	snprintf(one, sizeof(one), "%s=%s", etcd->name, peer);
	for (n = 0; argv[n]; n++)
		;
	for (i = 0; etcd->extra[i]; i++)
		argv[n++] = etcd->extra[i];
	etcd->pid = test_spawn((char *const *)argv, etcd->log);
	return etcd->pid > 0;
}

static inline bool test_etcd_ready(const struct test_etcd *etcd)
{
	return test_until(20000, test_can_connect(etcd->port));
}

#endif
