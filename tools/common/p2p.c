// SPDX-License-Identifier: MIT
/* Store, progress and signals of the P2P tools. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "free_name.h"
#include "options.h"
#include "output.h"
#include "p2p.h"

static sigset_t signals;

void p2p_block_signals(void)
{
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

bool p2p_signalled(double seconds)
{
	static bool seen; /* one signal ends all that asks, not just what asked first */
	struct timespec now, wait;
	double end, left;

	if (seen)
		return true;
	clock_gettime(CLOCK_MONOTONIC, &now);
	end = (double)now.tv_sec + (double)now.tv_nsec / 1e9 + seconds;
	for (left = seconds;; left = end - (double)now.tv_sec - (double)now.tv_nsec / 1e9) {
		if (left < 0)
			left = 0;
		wait.tv_sec = (time_t)left;
		wait.tv_nsec = (long)((left - (double)wait.tv_sec) * 1e9);
		if (sigtimedwait(&signals, NULL, &wait) > 0) {
			seen = true;
			return true;
		}
		if (errno != EINTR)
			return false;
		clock_gettime(CLOCK_MONOTONIC, &now);
	}
}

int p2p_open(const struct p2p_options *o, mc_p2p **store)
{
	struct mc_engine_attr engine = MC_ENGINE_ATTR_INIT;
	struct mc_p2p_attr attr = MC_P2P_ATTR_INIT;
	char host[200] = "localhost", name[256];
	int ret;

	engine.flags = (o->classic ? MC_ENGINE_CLASSIC : 0) | (o->insecure ? MC_ENGINE_INSECURE : 0);
	engine.metadata = o->metadata_server;
	engine.name = o->local_server_name;
	engine.transports = strcmp(o->protocol, "auto") ? o->protocol : NULL;
	engine.bind = o->bind;
	engine.advertise = o->advertise;
	engine.key_file = o->key_file;
	engine.config_file = o->config;
	engine.cluster_id = o->cluster_id;
	engine.devices = o->device_given && !o->auto_discovery ? o->device_name : NULL;
	engine.nic_matrix = o->nic_priority_matrix && *o->nic_priority_matrix ? o->nic_priority_matrix : NULL;
	attr.engine = &engine;
	attr.peers = o->peers;
	ret = mc_p2p_open(&attr, store);
	gethostname(host, sizeof(host) - 1);
	if (ret == -EADDRINUSE && !o->local_server_name && !free_name(host, name, sizeof(name))) {
		engine.name = name;
		ret = mc_p2p_open(&attr, store);
	}
	if (!ret)
		return 0;
	out_error("%s", mc_errmsg());
	return ret == -EINVAL ? OPT_EXIT_USAGE : 1;
}

int p2p_close(mc_p2p *store)
{
	if (!mc_p2p_close(store))
		return 0;
	out_warn("%s", mc_errmsg());
	return 1;
}

void p2p_show_progress(const char *name, const struct mc_p2p_progress *p)
{
	static const char full[] = "####################", none[] = "                    ";
	double part = p->bytes ? (double)p->held / (double)p->bytes : 0,
	       seconds = (double)p->elapsed_ns / 1e9;
	char size[OUT_SIZE_TEXT];
	int n = (int)(part * 20);

	if (!progress_on())
		return;
	progress_line("%s [%.*s%.*s] %.0f %% of %s, %.2f GB/s, %u source%s", name, n, full, 20 - n, none,
		      part * 100, out_size(p->bytes, size),
		      seconds > 0 ? (double)(p->held - p->reused) / seconds / 1e9 : 0, p->sources,
		      p->sources == 1 ? "" : "s");
}

int p2p_fetch(const char *name, mc_p2p_task *task, bool may_lack, struct mc_p2p_progress *last)
{
	char told[sizeof(last->note)] = "";
	bool interrupted = false;
	int ret;

	do {
		if (!interrupted && p2p_signalled(0)) {
			interrupted = true;
			mc_p2p_task_cancel(task);
		}
		ret = mc_p2p_task_wait(task, 100);
		last->size = sizeof(*last);
		if (mc_p2p_task_progress(task, last))
			continue;
		p2p_show_progress(name, last);
		if (*last->note && strcmp(told, last->note)) {
			snprintf(told, sizeof(told), "%s", last->note);
			out_warn("%s: %s", name, told);
		}
	} while (ret == -ETIME);
	progress_clear();
	if (interrupted && ret) {
		out_error("%s: interrupted", name);
		ret = -EINTR;
	} else if (ret && (ret != -ENOENT || !may_lack)) {
		out_error("%s", mc_p2p_task_error(task));
	}
	mc_p2p_task_free(task);
	return ret;
}
