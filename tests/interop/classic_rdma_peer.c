// SPDX-License-Identifier: MIT
/*
 * A classic RDMA peer for tests, written from the protocol alone, over libibverbs: nothing of the library is in it.
 *
 *   classic_rdma_peer [flags] [COMMAND [ARG...]]
 *
 * It listens on its rpc port and serves its buffers from the start; without a COMMAND it reads commands from its
 * standard input, one a line, until "quit" or the end, and says "ok" or "failed: why" after each:
 *   write|read NAME SEED   a pattern made from SEED to the segment NAME, or checks for it (flags --length, --offset,
 *                          --buffer); retried as classic programs do: other queue pairs, the descriptor read again
 *   ask NAME PATH          only asks NAME for queue pairs of PATH, and prints the answer
 *   repeat NAME PATH       asks twice with the same queue pairs: the answers must be equal
 *   evict                  destroys all queue pairs without a word, as a full endpoint store does
 *   rereg                  registers the buffers anew: other keys
 * Flags: --device=NAME --gid_index=N --port=N (rpc) --host=ADDR (127.0.0.1) --qps=N (2) --timeout=N (14)
 *   --buffers=N --size=BYTES --length --offset --buffer --old (says no local_gid, as before 0.3.11) --no_type (no
 *   type byte, as before 0.3.0) --ack (ready_ack, as from 0.3.12 on) --metadata=URI (of an HTTP service, to read
 *   descriptors from)
 * Prints "ready NAME" and "descriptor JSON" first, then a line per event: connected, repeated, retired, acked.
 * Exit status: 0 done, 1 failed, 2 usage.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <infiniband/verbs.h>
#include <jansson.h>

#include "interop/classic_message.h"

#define QPS_MAX 8
#define BUFFERS_MAX 16
#define ENDPOINTS_MAX 64
#define SLICE 65536
#define RETRIES 8
#define COUNT_TEXT "QP count mismatch in peer and local endpoints, check MC_MAX_EP_PER_CTX"

static struct {
	const char *device, *host, *metadata;
	unsigned int gid_index, port, qps, buffers, buffer, timeout;
	bool old, no_type, ack;
	uint64_t size, length, offset;
} o = {.host = "127.0.0.1", .gid_index = 1, .qps = 2, .timeout = 14, .buffers = 1, .size = 16 << 20, .length = 1 << 20};

struct endpoint {
	char path[300]; /* of the peer's NIC */
	bool used, connected;
	struct ibv_qp *qp[QPS_MAX];
	uint32_t peer[QPS_MAX];
};

static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static union ibv_gid gid;
static struct ibv_port_attr port_attr;
static uint8_t *memory[BUFFERS_MAX], *scratch;
static struct ibv_mr *mr[BUFFERS_MAX], *scratch_mr;
static struct endpoint endpoints[ENDPOINTS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* endpoints, registrations */
static char name[128];

/* ---- queue pairs ---- */

static bool create(struct endpoint *e)
{
	unsigned int i;

	for (i = 0; i < o.qps; i++) {
		struct ibv_qp_init_attr init = {.send_cq = cq,
						.recv_cq = cq,
						.cap = {256, 256, 4, 4, 64},
						.qp_type = IBV_QPT_RC};
		struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
					   .port_num = 1,
					   .qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ |
							      IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC};

		e->qp[i] = ibv_create_qp(pd, &init);
		if (!e->qp[i])
			return no("ibv_create_qp: %s", strerror(errno));
		if (ibv_modify_qp(e->qp[i], &attr,
				  IBV_QP_STATE | IBV_QP_PORT | IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS))
			return no("to INIT: %s", strerror(errno));
	}
	return true;
}

static bool connect_to(struct endpoint *e, const uint32_t *qpn, const union ibv_gid *dgid, uint16_t lid)
{
	unsigned int i;

	for (i = 0; i < o.qps; i++) {
		struct ibv_qp_attr attr = {
			.qp_state = IBV_QPS_RTR,
			.path_mtu = port_attr.active_mtu,
			.dest_qp_num = qpn[i],
			.max_dest_rd_atomic = 16,
			.min_rnr_timer = 12,
			.ah_attr = {.dlid = lid,
				    .port_num = 1,
				    .is_global = 1,
				    .grh = {.dgid = *dgid, .sgid_index = (uint8_t)o.gid_index, .hop_limit = 16}}};

		if (ibv_modify_qp(e->qp[i], &attr,
				  IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
					  IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))
			return no("to RTR: %s", strerror(errno));
		attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
					    .timeout = (uint8_t)o.timeout,
					    .retry_cnt = 6, /* soft-RoCE takes 7 for "for ever" */
					    .rnr_retry = 7,
					    .max_rd_atomic = 16};
		if (ibv_modify_qp(e->qp[i], &attr,
				  IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
					  IBV_QP_MAX_QP_RD_ATOMIC))
			return no("to RTS: %s", strerror(errno));
		e->peer[i] = qpn[i];
	}
	e->connected = true;
	return true;
}

static void destroy(struct endpoint *e)
{
	unsigned int i;

	for (i = 0; i < o.qps; i++)
		if (e->qp[i])
			ibv_destroy_qp(e->qp[i]);
	memset(e, 0, sizeof(*e));
}

static struct endpoint *find(const char *path)
{
	unsigned int i;

	for (i = 0; i < ENDPOINTS_MAX; i++)
		if (endpoints[i].used && !strcmp(endpoints[i].path, path))
			return &endpoints[i];
	return NULL;
}

static struct endpoint *add(const char *path)
{
	struct endpoint *e = endpoints;

	while (e->used)
		e++;
	memset(e, 0, sizeof(*e));
	e->used = true;
	snprintf(e->path, sizeof(e->path), "%s", path);
	if (create(e))
		return e;
	destroy(e);
	return NULL;
}

static void gid_text(char text[48])
{
	unsigned int i;

	for (i = 0; i < 16; i++)
		sprintf(text + 3 * i, i < 15 ? "%02x:" : "%02x", gid.raw[i]);
}

static bool gid_of(const char *text, union ibv_gid *out)
{
	unsigned int i, byte;

	for (i = 0; i < 16; i++) {
		if (sscanf(text + 3 * i, "%2x", &byte) != 1)
			return no("'%s' is no GID", text);
		out->raw[i] = (uint8_t)byte;
	}
	return true;
}

static void own_path(char path[300]) { snprintf(path, 300, "%s@%s", name, o.device); }

/* What we say of @e, or why not. */
static json_t *record(const struct endpoint *e, const char *local, const char *peer, const char *reply)
{
	json_t *list = json_array(), *root;
	unsigned int i;
	char text[48];

	for (i = 0; e && i < o.qps; i++)
		json_array_append_new(list, json_integer(e->qp[i]->qp_num));
	root = json_pack("{s:s, s:s, s:o, s:s}", "local_nic_path", local, "peer_nic_path", peer, "qp_num", list,
			 "reply_msg", reply);
	if (!o.old) {
		gid_text(text);
		json_object_set_new(root, "local_gid", json_string(text));
		json_object_set_new(root, "local_lid", json_integer(port_attr.lid));
		json_object_set_new(root, "payload", json_string(""));
	}
	if (o.ack)
		json_object_set_new(root, "ready_ack", json_false());
	return root;
}

static char *dump(json_t *root)
{
	char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS), *line = malloc(strlen(text) + 2);

	sprintf(line, "%s\n", text);
	free(text);
	json_decref(root);
	return line;
}

static const char *text_of(const json_t *root, const char *key)
{
	const char *text = json_string_value(json_object_get(root, key));

	return text ? text : "";
}

static unsigned int list_of(const json_t *root, uint32_t qpn[QPS_MAX])
{
	const json_t *list = json_object_get(root, "qp_num");
	size_t i;

	for (i = 0; i < json_array_size(list) && i < QPS_MAX; i++)
		qpn[i] = (uint32_t)json_integer_value(json_array_get(list, i));
	return (unsigned int)json_array_size(list);
}

/* The descriptor of @server in the metadata service. */
static char *fetch(const char *server)
{
	char line[600], *text = calloc(1, 1 << 16);
	FILE *pipe;

	snprintf(line, sizeof(line), "curl -fsSG --data-urlencode 'key=mooncake/ram/%s' '%s'", server, o.metadata);
	pipe = popen(line, "r");
	if (!pipe || !fread(text, 1, (1 << 16) - 1, pipe))
		no("nothing from: %s", line);
	if (pipe)
		pclose(pipe);
	return text;
}

/* Where @path is: as @root says, or as the descriptor of its process does. */
static bool place_of(const json_t *root, const char *path, union ibv_gid *dgid, uint16_t *lid)
{
	char server[200], *text;
	const json_t *one;
	bool found = false;
	json_t *other;
	size_t i;

	*lid = (uint16_t)json_integer_value(json_object_get(root, "local_lid"));
	if (!o.old && *text_of(root, "local_gid"))
		return gid_of(text_of(root, "local_gid"), dgid);
	snprintf(server, sizeof(server), "%.*s", (int)strcspn(path, "@"), path);
	text = o.metadata ? fetch(server) : exchange(server, 1, "{}\n");
	other = text ? json_loads(text, 0, NULL) : NULL;
	json_array_foreach(json_object_get(other, "devices"), i, one)
	{
		if (strcmp(text_of(one, "name"), strchr(path, '@') + 1))
			continue;
		*lid = (uint16_t)json_integer_value(json_object_get(one, "lid"));
		found = gid_of(text_of(one, "gid"), dgid);
	}
	json_decref(other);
	free(text);
	return found || no("the descriptor of %s says nothing of %s", server, path);
}

/* ---- passive ---- */

static char *answer(const json_t *root)
{
	const char *theirs = text_of(root, "local_nic_path");
	uint32_t qpn[QPS_MAX] = {0};
	unsigned int count = list_of(root, qpn);
	char ours[300], text[600];
	union ibv_gid dgid;
	struct endpoint *e;
	uint16_t lid;

	own_path(ours);
	if (strcmp(text_of(root, "peer_nic_path"), ours)) {
		snprintf(text, sizeof(text), "Invalid argument: peer nic path inconsistency, expect %s", ours);
		return dump(record(NULL, ours, theirs, text));
	}
	if (count != o.qps)
		return dump(record(NULL, ours, theirs, COUNT_TEXT));
	e = find(theirs);
	if (json_is_true(json_object_get(root, "ready_ack"))) {
		say("acked %s", theirs);
		return dump(record(NULL, "", "", ""));
	}
	if (e && e->connected && !memcmp(e->peer, qpn, count * sizeof(qpn[0]))) {
		say("repeated %s", theirs);
		return dump(record(e, ours, theirs, ""));
	}
	if (e && e->connected) {
		say("retired %s", theirs);
		destroy(e);
		e = NULL;
	}
	if (!e)
		e = add(theirs);
	if (!e || !place_of(root, theirs, &dgid, &lid) || !connect_to(e, qpn, &dgid, lid)) {
		if (e)
			destroy(e);
		return dump(record(NULL, ours, theirs, why));
	}
	say("connected %s%s", theirs, o.old || !*text_of(root, "local_gid") ? " by its descriptor" : "");
	return dump(record(e, ours, theirs, ""));
}

static char *descriptor(void)
{
	json_t *buffers = json_array(), *root;
	char text[48], stamp[32];
	time_t now = time(NULL);
	unsigned int i;

	for (i = 0; i < o.buffers; i++)
		json_array_append_new(buffers,
				      json_pack("{s:I, s:I, s:[I], s:s, s:[I]}", "addr",
						(json_int_t)(uintptr_t)memory[i], "length", (json_int_t)o.size, "lkey",
						(json_int_t)mr[i]->lkey, "name", "cpu:0", "rkey",
						(json_int_t)mr[i]->rkey));
	strftime(stamp, sizeof(stamp), "%F %T.000000", localtime(&now));
	gid_text(text);
	root = json_pack("{s:s, s:s, s:i, s:i, s:s, s:[{s:s, s:i, s:s}], s:o, s:{s:[[s], []]}}", "name", name,
			 "protocol", "rdma", "tcp_data_port", 0, "tcp_proto_version", 1, "timestamp", stamp, "devices",
			 "gid", text, "lid", port_attr.lid, "name", o.device, "buffers", buffers, "priority_matrix",
			 "cpu:0", o.device);
	return dump(root);
}

static void *serve_message(void *arg)
{
	static const struct timeval limit = {.tv_sec = 5};
	int fd = (int)(intptr_t)arg, type;
	char *json, *reply = NULL, byte;
	json_t *root;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	json = get_message(fd, &type);
	root = json ? json_loads(json, JSON_DECODE_ANY, NULL) : NULL;
	if (root && type <= 0) {
		pthread_mutex_lock(&lock);
		reply = answer(root);
		pthread_mutex_unlock(&lock);
	} else if (root && type == 1) {
		pthread_mutex_lock(&lock);
		reply = descriptor();
		pthread_mutex_unlock(&lock);
	} else if (root && type == 2) {
		say("notify %s %s", text_of(root, "name"), text_of(root, "notify_msg"));
		reply = strdup("{\"name\":\"\",\"notify_msg\":\"success\"}\n");
	} else if (root) {
		reply = strdup("{\"status\":\"success\"}\n");
	}
	/* A server before 0.3.0 takes a type for the first byte of its JSON, and hangs up. */
	if (reply && !(o.no_type && type == 0)) {
		put_message(fd, type, reply);
		shutdown(fd, SHUT_WR);
		while (recv(fd, &byte, 1, 0) > 0)
			;
	}
	json_decref(root);
	free(json);
	free(reply);
	close(fd);
	return NULL;
}

static void *accept_all(void *arg)
{
	int listener = (int)(intptr_t)arg;

	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		pthread_t thread;

		if (fd < 0)
			continue;
		if (pthread_create(&thread, NULL, serve_message, (void *)(intptr_t)fd))
			close(fd);
		else
			pthread_detach(thread);
	}
	return NULL;
}

/* ---- active ---- */

static json_t *ask(const char *target, const json_t *question)
{
	char *json = dump(json_deep_copy(question)), *text = exchange(target, o.no_type ? -1 : 0, json);
	json_t *root = text ? json_loads(text, 0, NULL) : NULL;

	if (text && !root)
		no("%s answered with no JSON", target);
	free(json);
	free(text);
	return root;
}

static bool check_answer(const json_t *root, const char *ours, const char *theirs)
{
	uint32_t qpn[QPS_MAX];

	if (*text_of(root, "reply_msg"))
		return no("refused: %s", text_of(root, "reply_msg"));
	if (strcmp(text_of(root, "local_nic_path"), theirs) || strcmp(text_of(root, "peer_nic_path"), ours))
		return no("the answer's paths are %s and %s", text_of(root, "local_nic_path"),
			  text_of(root, "peer_nic_path"));
	if (list_of(root, qpn) != o.qps)
		return no("the answer has %u queue pairs", list_of(root, qpn));
	return true;
}

/* The endpoint to @path; one that the peer has made with us will do. The lock is let go while we ask. */
static struct endpoint *reach(const char *target, const char *path)
{
	json_t *question, *root, *second;
	struct endpoint *e = find(path);
	uint32_t qpn[QPS_MAX];
	union ibv_gid dgid;
	char ours[300];
	uint16_t lid;
	bool ok;

	if (e && e->connected)
		return e;
	if (!e && !(e = add(path)))
		return NULL;
	own_path(ours);
	question = record(e, ours, path, "");
	pthread_mutex_unlock(&lock);
	root = ask(target, question);
	pthread_mutex_lock(&lock);
	ok = root && check_answer(root, ours, path);
	list_of(root, qpn);
	if (ok && !e->connected)
		ok = place_of(root, path, &dgid, &lid) && connect_to(e, qpn, &dgid, lid);
	else if (ok && memcmp(e->peer, qpn, o.qps * sizeof(qpn[0])))
		ok = no("both asked, and the answer names other queue pairs");
	if (ok && json_object_get(root, "ready_ack")) {
		json_object_set_new(question, "ready_ack", json_true());
		pthread_mutex_unlock(&lock);
		second = ask(target, question);
		pthread_mutex_lock(&lock);
		ok = second && (!*text_of(second, "reply_msg") || no("the ack was refused"));
		json_decref(second);
	}
	json_decref(question);
	json_decref(root);
	if (ok)
		return e;
	destroy(e);
	return NULL;
}

static void make_pattern(uint8_t *p, uint64_t seed)
{
	uint64_t i, x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (i = 0; i < o.length; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
}

/* One pass over @length bytes in slices, one after the other. False: a slice failed. */
static bool move(struct endpoint *e, bool write, uint64_t addr, uint32_t rkey)
{
	uint64_t at;

	for (at = 0; at < o.length; at += SLICE) {
		struct ibv_sge sge = {.addr = (uintptr_t)scratch + at,
				      .length = (uint32_t)(o.length - at < SLICE ? o.length - at : SLICE),
				      .lkey = scratch_mr->lkey};
		struct ibv_send_wr *bad, wr = {.sg_list = &sge,
					       .num_sge = 1,
					       .opcode = write ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ,
					       .send_flags = IBV_SEND_SIGNALED,
					       .wr.rdma = {.remote_addr = addr + at, .rkey = rkey}};
		struct ibv_wc wc;
		int n;

		if (ibv_post_send(e->qp[at / SLICE % o.qps], &wr, &bad))
			return no("ibv_post_send: %s", strerror(errno));
		while (!(n = ibv_poll_cq(cq, 1, &wc)))
			usleep(50);
		if (n < 0 || wc.status != IBV_WC_SUCCESS)
			return no("work request: %s", ibv_wc_status_str(wc.status));
	}
	return true;
}

static bool transfer_once(const char *target, bool write)
{
	char *text = exchange(target, 1, "{}\n"), path[300];
	json_t *root = text ? json_loads(text, 0, NULL) : NULL;
	const json_t *device = json_array_get(json_object_get(root, "devices"), 0);
	const json_t *buffer = json_array_get(json_object_get(root, "buffers"), o.buffer);
	const json_t *rkey = json_array_get(json_object_get(buffer, "rkey"), 0);
	struct endpoint *e;
	bool ok = false;

	free(text);
	if (strcmp(text_of(root, "protocol"), "rdma") || !device || !rkey) {
		no("%s publishes no rdma segment with buffer %u", target, o.buffer);
	} else {
		snprintf(path, sizeof(path), "%s@%s", text_of(root, "name"), text_of(device, "name"));
		pthread_mutex_lock(&lock);
		e = reach(target, path);
		if (e) {
			ok = move(e, write,
				  (uint64_t)json_integer_value(json_object_get(buffer, "addr")) + o.offset,
				  (uint32_t)json_integer_value(rkey));
			if (!ok)
				destroy(e);
		}
		pthread_mutex_unlock(&lock);
	}
	json_decref(root);
	return ok;
}

static bool transfer(const char *target, bool write, uint64_t seed)
{
	uint8_t *want = malloc(o.length);
	bool ok = false;
	int tries;

	make_pattern(want, seed);
	for (tries = 0; tries <= RETRIES && !ok; tries++) {
		if (tries) {
			say("again: %s", why);
			usleep(200000);
		}
		if (write)
			memcpy(scratch, want, o.length);
		else
			memset(scratch, 0, o.length);
		ok = transfer_once(target, write);
		if (!ok && strstr(why, "refused"))
			break;
	}
	if (ok && !write && memcmp(scratch, want, o.length))
		ok = no("other bytes were read than were written");
	free(want);
	return ok;
}

/* Only asks; twice with @repeat. */
static bool only_ask(const char *target, const char *path, bool repeat)
{
	json_t *question, *root, *again = NULL;
	struct endpoint e = {.used = true};
	char ours[300], *text;
	bool ok;

	if (!create(&e))
		return false;
	own_path(ours);
	question = record(&e, ours, path, "");
	root = ask(target, question);
	ok = root != NULL;
	if (ok && repeat) {
		again = ask(target, question);
		ok = check_answer(root, ours, path) && again &&
		     (json_equal(json_object_get(root, "qp_num"), json_object_get(again, "qp_num")) ||
		      no("the second answer names other queue pairs"));
	}
	if (root) {
		text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
		say("answer %s", text);
		free(text);
	}
	json_decref(question);
	json_decref(root);
	json_decref(again);
	destroy(&e);
	return ok;
}

static void register_all(void)
{
	unsigned int i;

	for (i = 0; i < o.buffers; i++) {
		if (mr[i])
			ibv_dereg_mr(mr[i]);
		mr[i] = ibv_reg_mr(pd, memory[i], o.size,
				   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
		if (!mr[i])
			die("ibv_reg_mr: %s", strerror(errno));
	}
}

static bool command(int n, char **word)
{
	unsigned int i;

	if (n == 3 && (!strcmp(word[0], "write") || !strcmp(word[0], "read")))
		return transfer(word[1], word[0][0] == 'w', strtoull(word[2], NULL, 0));
	if (n == 3 && !strcmp(word[0], "ask"))
		return only_ask(word[1], word[2], false);
	if (n == 3 && !strcmp(word[0], "repeat"))
		return only_ask(word[1], word[2], true);
	if (n != 1 || (strcmp(word[0], "evict") && strcmp(word[0], "rereg")))
		return no("no such command");
	pthread_mutex_lock(&lock);
	if (word[0][0] == 'r')
		register_all();
	for (i = 0; i < ENDPOINTS_MAX && word[0][0] == 'e'; i++)
		if (endpoints[i].used)
			destroy(&endpoints[i]);
	pthread_mutex_unlock(&lock);
	return true;
}

/* ---- start ---- */

static void open_device(void)
{
	struct ibv_device **list = ibv_get_device_list(NULL), **d = list;
	unsigned int i;

	while (list && *d && strcmp(ibv_get_device_name(*d), o.device))
		d++;
	if (!list || !*d || !(context = ibv_open_device(*d)))
		die("cannot open %s", o.device);
	pd = ibv_alloc_pd(context);
	cq = ibv_create_cq(context, 4096, NULL, NULL, 0);
	if (!pd || !cq || ibv_query_port(context, 1, &port_attr) || ibv_query_gid(context, 1, (int)o.gid_index, &gid))
		die("cannot use %s: %s", o.device, strerror(errno));
	for (i = 0; i < o.buffers; i++)
		memory[i] = mmap(NULL, o.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	register_all();
	scratch = mmap(NULL, o.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	scratch_mr = ibv_reg_mr(pd, scratch, o.length, IBV_ACCESS_LOCAL_WRITE);
	if (!scratch_mr)
		die("ibv_reg_mr: %s", strerror(errno));
}

static void start_serving(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o.port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	socklen_t length = sizeof(in);
	pthread_t thread;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&in, sizeof(in)) || listen(fd, 128) ||
	    getsockname(fd, (struct sockaddr *)&in, &length))
		die("cannot listen on port %u: %s", o.port, strerror(errno));
	snprintf(name, sizeof(name), "%s:%u", o.host, ntohs(in.sin_port));
	if (pthread_create(&thread, NULL, accept_all, (void *)(intptr_t)fd))
		die("no thread");
}

static bool parse(char *arg)
{
	struct {
		const char *name;
		unsigned int *number;
		uint64_t *size;
		bool *on;
		const char **text;
	} table[] = {{"device", .text = &o.device},	{"host", .text = &o.host},
		     {"metadata", .text = &o.metadata},
		     {"gid_index", .number = &o.gid_index}, {"port", .number = &o.port},
		     {"qps", .number = &o.qps},		{"buffers", .number = &o.buffers},
		     {"timeout", .number = &o.timeout},
		     {"buffer", .number = &o.buffer},	{"size", .size = &o.size},
		     {"length", .size = &o.length},	{"offset", .size = &o.offset},
		     {"old", .on = &o.old},		{"no_type", .on = &o.no_type},
		     {"ack", .on = &o.ack}};
	size_t i, n = strcspn(arg + 2, "=");
	const char *value = arg[2 + n] ? arg + 3 + n : "";

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strlen(table[i].name) != n || strncmp(arg + 2, table[i].name, n))
			continue;
		if (table[i].number)
			*table[i].number = (unsigned int)strtoul(value, NULL, 0);
		if (table[i].size)
			*table[i].size = strtoull(value, NULL, 0);
		if (table[i].on)
			*table[i].on = true;
		if (table[i].text)
			*table[i].text = value;
		return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	char line[1024], *word[4], *save, *text;
	int i, n;

	for (i = 1; i < argc && !strncmp(argv[i], "--", 2); i++)
		if (!parse(argv[i]))
			return 2;
	if (!o.device || !o.qps || o.qps > QPS_MAX || !o.buffers || o.buffers > BUFFERS_MAX ||
	    o.offset + o.length > o.size || argc - i > 3)
		return 2;
	open_device();
	start_serving();
	text = descriptor();
	printf("ready %s\ndescriptor %s", name, text);
	fflush(stdout);
	free(text);
	if (i < argc) {
		if (command(argc - i, argv + i))
			return 0;
		fprintf(stderr, "classic_rdma_peer: %s\n", why);
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		word[n = 0] = strtok_r(line, " \n", &save);
		while (word[n] && n < 3)
			word[++n] = strtok_r(NULL, " \n", &save);
		if (n && !strcmp(word[0], "quit"))
			return 0;
		if (n)
			say(command(n, word) ? "ok" : "failed: %s", why);
	}
	return 0;
}
