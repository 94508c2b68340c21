// SPDX-License-Identifier: MIT
/*
 * Target: connections of initiators on this host: proof, questions and answers. No byte moves here.
 * serve->lock guards the list; a connection's frames are its loop thread's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "transport/shm/serve.h"

/*
 * What a connection holds beside the answers in its queue. Of the counters of its uses only the first page is
 * ours; the others are there when the peer touches them, as memory of the peer's.
 */
#define HELD_BYTES (sizeof(struct mci_shm_served) + offsetof(struct mci_shm_use, slot) + 2 * MCI_SHM_FRAME_LIMIT)

void mci_shm_socket_name(const struct mc_uuid *uuid, char name[64])
{
	char text[MCI_UUID_TEXT];

	mci_uuid_text(uuid, text);
	snprintf(name, 64, "mooncake/%s", text);
}

int mci_shm_serve_open(struct mci_transport *transport, struct mci_shm_serve **out)
{
	struct mci_shm_serve *serve = calloc(1, sizeof(*serve));
	void *table;
	int ret;

	if (!serve)
		return mci_fail(-ENOMEM, "no memory for the shared memory transport");
	ret = mci_shm_share("mooncake-regions", sizeof(struct mci_shm_table), F_SEAL_FUTURE_WRITE,
			    &serve->table_fd, &table);
	if (ret) {
		free(serve);
		return ret;
	}
	serve->transport = transport;
	serve->table = table;
	serve->table->magic = MCI_SHM_TABLE_MAGIC;
	serve->table->version = MCI_SHM_VERSION;
	serve->table->slots = MCI_SHM_SLOTS;
	pthread_mutex_init(&serve->lock, NULL);
	pthread_cond_init(&serve->empty, NULL);
	*out = serve;
	return 0;
}

static void served_put(struct mci_shm_served *s) /* serve->lock held */
{
	if (--s->refs)
		return;
	if (s->use)
		munmap(s->use, sizeof(*s->use));
	if (s->pidfd >= 0)
		close(s->pidfd);
	mci_ledger_give(s->serve->transport->host->ledger, &s->payer, HELD_BYTES);
	free(s);
}

static void
served_forget(struct mci_shm_served *s) /* loop thread: the connection is no more, nor are its counters */
{
	struct mci_shm_serve *serve = s->serve;

	pthread_mutex_lock(&serve->lock);
	s->conn = NULL;
	if (s->prev)
		s->prev->next = s->next;
	else
		serve->first = s->next;
	if (s->next)
		s->next->prev = s->prev;
	serve->count--;
	for (uint32_t i = 0; i < serve->tenant_count; i++)
		mci_shm_object_revoke(&serve->tenants[i], s);
	served_put(s);
	if (!serve->first)
		pthread_cond_broadcast(&serve->empty);
	pthread_mutex_unlock(&serve->lock);
}

static void close_served(void *arg) /* loop thread */
{
	struct mci_shm_served *s = arg;

	if (s->conn)
		mci_conn_close(s->conn);
}

void mci_shm_serve_close(struct mci_shm_serve *serve)
{
	struct mci_shm_served *s;

	pthread_mutex_lock(&serve->lock);
	serve->closing = true;
	for (;;) {
		for (s = serve->first; s && s->closing; s = s->next)
			;
		if (!s)
			break;
		s->closing = true;
		s->refs++;
		pthread_mutex_unlock(&serve->lock);
		mci_loop_call(s->loop, close_served, s);
		pthread_mutex_lock(&serve->lock);
		served_put(s);
	}
	while (serve->first)
		pthread_cond_wait(&serve->empty, &serve->lock);
	pthread_mutex_unlock(&serve->lock);
	munmap(serve->table, sizeof(*serve->table));
	close(serve->table_fd);
	pthread_cond_destroy(&serve->empty);
	pthread_mutex_destroy(&serve->lock);
	for (uint32_t i = 0; i < serve->tenant_count; i++)
		free(serve->tenants[i].granted);
	free(serve->tenants);
	free(serve);
}

static void tell_gone(struct mci_task *task) /* loop thread */
{
	struct mci_shm_served *s =
		(struct mci_shm_served *)((char *)task - offsetof(struct mci_shm_served, gone));
	struct mci_shm_serve *serve = s->serve;
	bool cut;

	pthread_mutex_lock(&serve->lock);
	s->gone_posted = false;
	cut = s->cut;
	pthread_mutex_unlock(&serve->lock);
	if (s->conn && cut)
		mci_conn_close(s->conn);
	else if (s->conn && s->proved)
		mci_conn_send(s->conn, MCI_SHM_GONE, 0, NULL, 0, -1);
	pthread_mutex_lock(&serve->lock);
	served_put(s);
	pthread_mutex_unlock(&serve->lock);
}

void mci_shm_serve_tell_gone(struct mci_shm_serve *serve)
{
	struct mci_shm_served *s;

	for (s = serve->first; s; s = s->next) {
		if (s->gone_posted || !s->use)
			continue;
		s->gone_posted = true;
		s->refs++;
		mci_loop_post(s->loop, &s->gone);
	}
}

static void decide(struct mci_shm_served *s, const struct mci_shm_ask *ask, struct mci_shm_grant *grant,
		   int *fd)
{
	struct mci_shm_serve *serve = s->serve;
	struct mci_shm_tenant *tenant = mci_shm_tenant_find(serve, ask);

	*grant = (struct mci_shm_grant){.id = ask->id, .generation = ask->generation};
	if (!tenant) {
		grant->status = -ESTALE;
		return;
	}
	grant->slot = ask->id;
	grant->stamp = tenant->stamp;
	grant->length = tenant->length;
	grant->rights = (uint8_t)tenant->rights;
	if (mci_shm_object_grantable(tenant, s)) {
		grant->mode = MCI_SHM_MODULE;
		grant->place = tenant->object_offset % (uint64_t)sysconf(_SC_PAGESIZE);
		if (!fd || !mci_shm_object_grant(tenant, s, grant->key))
			return;
		mci_warn("cannot pass region %u to process %d: %s", ask->id, (int)s->pid, mc_errmsg());
	}
	if (mci_shm_file_grantable(&tenant->file, tenant->memfd, tenant->rights, s->same_user || s->probed)) {
		grant->mode = MCI_SHM_MEMFD;
		grant->place = tenant->memfd_offset;
		if (!fd)
			return;
		*fd = mci_shm_file_open(tenant->memfd, tenant->rights);
		if (*fd >= 0)
			return;
		mci_warn("cannot pass region %u to process %d: %s", ask->id, (int)s->pid, strerror(-*fd));
		*fd = -1;
	}
	grant->mode = MCI_SHM_VM;
	grant->place = tenant->address;
	if (!s->probed)
		grant->status = -EOPNOTSUPP;
}

static int on_ask(struct mci_shm_served *s, const struct mci_frame *frame)
{
	uint8_t *reply;
	uint16_t count, flags;
	uint32_t n;
	int fd = -1, ret;

	ret = mci_shm_list_decode(frame->body, frame->length, MCI_SHM_ASK_SIZE, &count, &flags);
	if (ret)
		return ret;
	reply = malloc(4 + (size_t)count * MCI_SHM_GRANT_SIZE);
	if (!reply)
		return -ENOMEM;
	n = mci_shm_list_encode(count, flags, reply) + count * MCI_SHM_GRANT_SIZE;
	pthread_mutex_lock(&s->serve->lock);
	for (uint32_t i = 0; i < count; i++) {
		struct mci_shm_grant grant;
		struct mci_shm_ask ask;

		mci_shm_ask_decode(frame->body, i, &ask);
		decide(s, &ask, &grant, flags & MCI_SHM_WANT_FD ? &fd : NULL);
		if (grant.status)
			atomic_fetch_add_explicit(&s->serve->transport->host->stats.refused, 1,
						  memory_order_relaxed);
		mci_shm_grant_encode(&grant, i, reply);
	}
	pthread_mutex_unlock(&s->serve->lock);
	ret = mci_conn_send(s->conn, MCI_SHM_GRANT, frame->id, reply, n, fd);
	if (fd >= 0)
		close(fd);
	free(reply);
	return ret;
}

static int on_prove(struct mci_shm_served *s, const struct mci_frame *frame)
{
	struct mci_shm_ready_frame ready;
	struct mci_shm_prove_frame prove;
	uint8_t body[MCI_SHM_SMALL_MAX];
	int ret = mci_shm_prove_decode(frame->body, frame->length, &prove);

	if (ret)
		return ret;
	if (memcmp(prove.nonce, s->nonce, MCI_SHM_NONCE))
		return -EPROTO; /* it does not see our memory: not on this host */
	s->probed = prove.probed && !memcmp(prove.probe, s->probe, MCI_SHM_NONCE);
	s->attaches = prove.attaches;
	memcpy(s->context_id.b, prove.context_id, sizeof(s->context_id.b));
	s->proved = true;
	ready.probed = s->probed;
	memcpy(ready.nonce, s->use->initiator_nonce, MCI_SHM_NONCE);
	return mci_conn_send(s->conn, MCI_SHM_READY, 0, body, mci_shm_ready_encode(&ready, body), -1);
}

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	struct mci_shm_served *s = arg;
	int ret = -EPROTO;

	if (frame->fd >= 0)
		close(frame->fd); /* nobody asked for one */
	if (frame->type == MCI_SHM_PROVE && !s->proved)
		ret = on_prove(s, frame);
	else if (frame->type == MCI_SHM_ASK && s->proved)
		ret = on_ask(s, frame);
	if (!ret)
		return;
	mci_warn("connection of '%s' (process %d on this host) closed: %s", s->name, (int)s->pid,
		 ret == -EPROTO ? "malformed or unexpected frame" : strerror(-ret));
	mci_conn_close(conn);
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	(void)conn;
	(void)err;
	served_forget(arg);
}

static int greet(struct mci_shm_served *s)
{
	struct mci_shm_table_frame table = {MCI_SHM_VERSION, MCI_SHM_SLOTS, sizeof(struct mci_shm_table)};
	struct mci_shm_use_frame frame = {sizeof(struct mci_shm_use), (uintptr_t)s->probe};
	uint8_t body[MCI_SHM_SMALL_MAX];
	void *mapped;
	int ret, fd;

	ret = mci_shm_share("mooncake-uses", sizeof(struct mci_shm_use), 0, &fd, &mapped);
	if (ret)
		return ret;
	mci_random(s->nonce, sizeof(s->nonce));
	mci_random(s->probe, sizeof(s->probe));
	pthread_mutex_lock(&s->serve->lock);
	s->use = mapped;
	pthread_mutex_unlock(&s->serve->lock);
	s->use->magic = MCI_SHM_USE_MAGIC;
	s->use->version = MCI_SHM_VERSION;
	s->use->slots = MCI_SHM_SLOTS;
	memcpy(s->use->target_nonce, s->nonce, sizeof(s->nonce));
	ret = mci_conn_send(s->conn, MCI_SHM_TABLE, 0, body, mci_shm_table_encode(&table, body),
			    s->serve->table_fd);
	if (!ret)
		ret = mci_conn_send(s->conn, MCI_SHM_USE, 0, body, mci_shm_use_encode(&frame, body), fd);
	close(fd);
	return ret;
}

static void on_ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	static const struct mci_conn_ops ops = {.frame = on_frame, .closed = on_closed};
	struct mci_shm_served *s = arg;
	struct ucred cred;
	socklen_t size = sizeof(cred);
	bool closing;

	(void)hello;
	if (error < 0)
		goto err_forget;
	pthread_mutex_lock(&s->serve->lock);
	closing = s->closing;
	pthread_mutex_unlock(&s->serve->lock);
	if (!getsockopt(sock.fd, SOL_SOCKET, SO_PEERCRED, &cred, &size)) {
		s->pid = cred.pid;
		s->pidfd = mci_shm_pidfd(cred.pid);
		s->same_user = mci_shm_same_user(cred.uid);
	}
	if (closing || mci_conn_start(s->loop, sock, MCI_SHM_FRAME_LIMIT, &ops, s, &s->conn)) {
		mci_sock_close(&sock);
		goto err_forget;
	}
	mci_conn_account(s->conn, s->serve->transport->host->ledger, &s->payer);
	if (greet(s)) {
		mci_warn("cannot serve '%s' (process %d) by shared memory: %s", s->name, (int)s->pid,
			 mc_errmsg());
		mci_conn_close(s->conn);
	}
	return;

err_forget:
	served_forget(s);
}

void mci_shm_serve_incoming(struct mci_shm_serve *serve, struct mci_incoming *in)
{
	const struct mci_hello *hello = mci_incoming_hello(in);
	struct mci_ledger *ledger = serve->transport->host->ledger;
	char why[MCI_SENTENCE_MAX + 1];
	struct mci_shm_served *s;
	int ret;

	if (!mci_incoming_is_unix(in)) {
		mci_incoming_reject(in, -EPROTOTYPE, "shared memory is served on the unix socket only");
		return;
	}
	if (hello->params_length != 4 || mci_get32(hello->params) != MCI_SHM_VERSION) {
		mci_incoming_reject(in, -EPROTO,
				    "another version of the shared memory protocol; run the same release "
				    "on both sides");
		return;
	}
	ret = mci_ledger_take(ledger, mci_incoming_payer(in), HELD_BYTES, why);
	if (ret) {
		mci_incoming_reject(in, ret, why);
		return;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		mci_ledger_give(ledger, mci_incoming_payer(in), HELD_BYTES);
		mci_incoming_reject(in, -ENOMEM, "no memory for one more connection");
		return;
	}
	s->payer = *mci_incoming_payer(in);
	pthread_mutex_lock(&serve->lock);
	if (serve->closing || serve->count >= MCI_SHM_CONNECTIONS) {
		pthread_mutex_unlock(&serve->lock);
		mci_ledger_give(ledger, &s->payer, HELD_BYTES);
		free(s);
		mci_incoming_reject(in, -EUSERS, "too many connections for shared memory");
		return;
	}
	s->serve = serve;
	s->loop = mci_incoming_loop(in);
	s->refs = 1;
	s->pidfd = -1;
	s->gone.fn = tell_gone;
	snprintf(s->name, sizeof(s->name), "%s", hello->peer.name);
	s->next = serve->first;
	if (s->next)
		s->next->prev = s;
	serve->first = s;
	serve->count++;
	pthread_mutex_unlock(&serve->lock);
	mci_incoming_accept(in, NULL, 0, on_ready, s);
}
