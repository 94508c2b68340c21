// SPDX-License-Identifier: MIT
/*
 * Target's table of sessions: which incarnation each has, which connections belong to it, and that a
 * newer one is accepted only after every thread has let go of the older connections (contracts B1).
 * tcp->lock covers the table; accept, reject and close calls are made outside of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "core/bytes.h"
#include "core/errors.h"
#include "core/log.h"
#include "transport/tcp/serve.h"

#define BUCKETS 4096u
#define OUTCOME_BYTES (MCI_TCP_SLOTS * sizeof(*((struct mci_tcp_session *)NULL)->outcomes))

_Atomic bool mci_tcp_fence_off;

int mci_tcp_sessions_open(struct mci_tcp *tcp)
{
	pthread_condattr_t attr;

	tcp->buckets = calloc(BUCKETS, sizeof(*tcp->buckets));
	if (!tcp->buckets)
		return mci_fail(-ENOMEM, "no memory for the table of sessions");
	pthread_mutex_init(&tcp->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&tcp->changed, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

static struct mci_tcp_session **bucket(struct mci_tcp *tcp, const struct mc_uuid *id)
{
	return &tcp->buckets[mci_get32(id->b) % BUCKETS];
}

static struct mci_tcp_session *find(struct mci_tcp *tcp, const struct mc_uuid *id)
{
	struct mci_tcp_session *s = *bucket(tcp, id);

	while (s && !mci_uuid_equal(&s->id, id))
		s = s->chain;
	return s;
}

static void idle_add(struct mci_tcp *tcp, struct mci_tcp_session *s)
{
	s->idle_since = mci_now_ns();
	s->older = tcp->newest;
	s->newer = NULL;
	if (s->older)
		s->older->newer = s;
	else
		tcp->oldest = s;
	tcp->newest = s;
}

static void idle_del(struct mci_tcp *tcp, struct mci_tcp_session *s)
{
	if (s->older)
		s->older->newer = s->newer;
	else
		tcp->oldest = s->newer;
	if (s->newer)
		s->newer->older = s->older;
	else
		tcp->newest = s->older;
}

static void forget_session(struct mci_tcp *tcp, struct mci_tcp_session *s)
{
	struct mci_tcp_session **at = bucket(tcp, &s->id);

	while (*at != s)
		at = &(*at)->chain;
	*at = s->chain;
	idle_del(tcp, s);
	tcp->session_count--;
	if (s->outcomes)
		mci_ledger_give(tcp->host->ledger, &s->payer, OUTCOME_BYTES);
	free(s->outcomes);
	free(s);
}

/* Sessions that have had no connection for long are forgotten, the oldest first; no timer is needed for that.
 */
static void forget_old(struct mci_tcp *tcp)
{
	uint64_t now = mci_now_ns();

	while (tcp->oldest && (tcp->session_count > MCI_TCP_SESSIONS_MAX ||
			       now - tcp->oldest->idle_since > MCI_TCP_SESSION_MEMORY_NS))
		forget_session(tcp, tcp->oldest);
}

static void add_conn(struct mci_tcp_session *s, struct mci_tcp_conn *conn)
{
	conn->session = s;
	conn->prev = NULL;
	conn->next = s->conns;
	if (conn->next)
		conn->next->prev = conn;
	s->conns = conn;
	s->count++;
	conn->tcp->conn_count++;
}

static void del_conn(struct mci_tcp_conn *conn)
{
	struct mci_tcp_session *s = conn->session;
	struct mci_tcp *tcp = conn->tcp;

	if (conn->prev)
		conn->prev->next = conn->next;
	else
		s->conns = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	conn->session = NULL;
	if (!--s->count)
		idle_add(tcp, s);
	tcp->conn_count--;
	pthread_cond_broadcast(&tcp->changed);
}

static void ready(void *arg, struct mci_sock sock, const struct mci_hello *hello, int error)
{
	struct mci_tcp_conn *conn = arg;
	struct mci_tcp *tcp = conn->tcp;
	bool start;

	pthread_mutex_lock(&tcp->lock);
	start = !error && !conn->doomed && !tcp->closing;
	if (start) {
		conn->sock = sock;
		conn->checksum = hello->features & MCI_FEATURE_CHECKSUM;
		conn->state = MCI_TCP_CONN_LIVE;
		/* Under the lock: in its loop, which need not be this one, it starts before it may be closed. */
		mci_tcp_conn_start(conn);
	} else {
		del_conn(conn);
	}
	pthread_mutex_unlock(&tcp->lock);
	if (start)
		return;
	if (!error)
		mci_sock_close(&sock);
	mci_tcp_conn_put(conn);
}

static void accept_conn(struct mci_tcp_conn *conn, struct mci_incoming *in)
{
	const struct mci_tcp_granted granted = {.slots = conn->slots, .slice_max = MCI_TCP_SLICE_MAX};
	uint8_t encoded[MCI_TCP_GRANTED];

	mci_tcp_granted_encode(&granted, encoded);
	mci_incoming_accept(in, encoded, sizeof(encoded), ready, conn);
}

/* Call without the lock, for conns chained by ->next that were taken off their session. */
static void reject_all(struct mci_tcp_conn *chain, int err, const char *why)
{
	while (chain) {
		struct mci_tcp_conn *next = chain->next;

		mci_incoming_reject(chain->in, err, why);
		mci_tcp_conn_put(chain);
		chain = next;
	}
}

/* Locked. Those that wait may come in: chain, by ->next of a list of their own. */
static unsigned int take_waiting(struct mci_tcp_session *s, struct mci_tcp_conn **out)
{
	struct mci_tcp_conn *conn;
	unsigned int n = 0;

	for (conn = s->conns; conn && n < MCI_TCP_STREAMS_MAX; conn = conn->next) {
		if (conn->state != MCI_TCP_CONN_WAITING)
			continue;
		conn->state = MCI_TCP_CONN_ACCEPTING;
		out[n++] = conn;
	}
	return n;
}

void mci_tcp_session_left(struct mci_tcp_conn *conn)
{
	struct mci_tcp_conn *waiting[MCI_TCP_STREAMS_MAX];
	struct mci_tcp *tcp = conn->tcp;
	unsigned int n = 0, i;

	pthread_mutex_lock(&tcp->lock);
	if (conn->doomed && !--conn->session->ending)
		n = take_waiting(conn->session, waiting);
	del_conn(conn);
	pthread_mutex_unlock(&tcp->lock);
	for (i = 0; i < n; i++)
		accept_conn(waiting[i], waiting[i]->in);
	mci_tcp_conn_put(conn);
}

/* Locked. Ends what belongs to the incarnations before; those that were still waiting are chained to
 * *rejected. */
static void supersede(struct mci_tcp_session *s, struct mci_tcp_conn **rejected)
{
	struct mci_tcp_conn *conn, *next;

	for (conn = s->conns; conn; conn = next) {
		next = conn->next;
		if (conn->doomed)
			continue;
		switch (conn->state) {
		case MCI_TCP_CONN_WAITING:
			del_conn(conn);
			conn->next = *rejected;
			*rejected = conn;
			break;
		case MCI_TCP_CONN_ACCEPTING:
			/* Not a byte is received on it before ready(), which then drops it. */
			conn->doomed = true;
			break;
		case MCI_TCP_CONN_LIVE:
			conn->doomed = true;
			s->ending++;
			atomic_fetch_add(&conn->refs, 1);
			mci_loop_post(conn->loop, &conn->close_task);
			break;
		}
	}
}

static void close_conn(struct mci_task *task)
{
	struct mci_tcp_conn *conn =
		(struct mci_tcp_conn *)((char *)task - offsetof(struct mci_tcp_conn, close_task));

	mci_tcp_conn_close(conn, -ESTALE, "its session has a newer incarnation, or the transport is closed");
	mci_tcp_conn_put(conn);
}

/* Locked. Connections of the present incarnation. */
static unsigned int live_count(const struct mci_tcp_session *s)
{
	const struct mci_tcp_conn *conn;
	unsigned int n = 0;

	for (conn = s->conns; conn; conn = conn->next)
		n += !conn->doomed;
	return n;
}

/* Locked. 0, or why this connection may not come in. */
static int admit(struct mci_tcp *tcp, const struct mci_hello *hello, const struct mci_tcp_params *params,
		 struct mci_tcp_conn *conn, struct mci_tcp_conn **rejected, const char **why)
{
	struct mci_tcp_session *s;

	*why = "this segment is closing";
	if (tcp->closing)
		return -ESHUTDOWN;
	*why = "this segment serves as many data connections as it can (4096); close some, or use fewer "
	       "streams";
	if (tcp->conn_count >= MCI_TCP_CONNECTIONS_MAX)
		return -EBUSY;
	forget_old(tcp);
	s = find(tcp, &params->session);
	if (!s) {
		*why = "no memory for a session";
		s = calloc(1, sizeof(*s));
		if (!s)
			return -ENOMEM;
		s->id = params->session;
		s->owner = hello->peer.uuid;
		s->chain = *bucket(tcp, &s->id);
		*bucket(tcp, &s->id) = s;
		tcp->session_count++;
		idle_add(tcp, s);
	}
	*why = "this session belongs to another engine";
	if (!mci_uuid_equal(&s->owner, &hello->peer.uuid))
		return -EACCES;
	*why = "this session has a newer incarnation already: what belongs to an older one comes too late";
	if (params->incarnation < s->incarnation && !atomic_load(&mci_tcp_fence_off))
		return -ESTALE;
	if (params->incarnation > s->incarnation) {
		s->incarnation = params->incarnation;
		if (!atomic_load(&mci_tcp_fence_off))
			supersede(s, rejected);
	}
	*why = "this session has as many connections as it may (16)";
	if (live_count(s) >= MCI_TCP_STREAMS_MAX)
		return -EBUSY;
	if (!s->count)
		idle_del(tcp, s);
	add_conn(s, conn);
	conn->state = s->ending ? MCI_TCP_CONN_WAITING : MCI_TCP_CONN_ACCEPTING;
	return 0;
}

void mci_tcp_incoming(struct mci_transport *transport, struct mci_incoming *in)
{
	struct mci_tcp *tcp = (struct mci_tcp *)transport;
	const struct mci_hello *hello = mci_incoming_hello(in);
	struct mci_tcp_conn *conn, *rejected = NULL;
	const struct mci_payer *payer = mci_incoming_payer(in);
	char refusal[MCI_SENTENCE_MAX + 1];
	struct mci_tcp_params params;
	const char *why;
	uint64_t bytes;
	uint32_t slots;
	bool accept;
	int ret;

	if (mci_tcp_params_decode(hello->params, hello->params_length, &params)) {
		mci_incoming_reject(in, -EPROTO, "the parameters of this data connection make no sense");
		return;
	}
	slots = params.slots < MCI_TCP_SLOTS ? params.slots : MCI_TCP_SLOTS;
	bytes = mci_tcp_conn_bytes(slots, hello->features & MCI_FEATURE_INTEGRITY);
	ret = mci_ledger_take(tcp->host->ledger, payer, bytes, refusal);
	if (ret) {
		mci_incoming_reject(in, ret, refusal);
		return;
	}
	conn = calloc(1, sizeof(*conn));
	if (!conn || mci_tcp_conn_init(conn, slots)) {
		free(conn);
		mci_ledger_give(tcp->host->ledger, payer, bytes);
		mci_incoming_reject(in, -ENOMEM, "no memory for a data connection");
		return;
	}
	conn->tcp = tcp;
	conn->loop = mci_tcp_loop_of(tcp, &params.session, params.index);
	conn->in = in;
	conn->owner = hello->peer.uuid;
	conn->ledger = tcp->host->ledger;
	conn->payer = *payer;
	conn->charged = bytes;
	conn->close_task.fn = close_conn;

	pthread_mutex_lock(&tcp->lock);
	ret = admit(tcp, hello, &params, conn, &rejected, &why);
	accept = !ret && conn->state == MCI_TCP_CONN_ACCEPTING;
	pthread_mutex_unlock(&tcp->lock);

	reject_all(rejected, -ESTALE, "this session has a newer incarnation already");
	if (ret) {
		mci_incoming_reject(in, ret, why);
		mci_tcp_conn_put(conn);
	} else if (accept) {
		accept_conn(conn, in);
	}
}

/* tcp->lock held */
static int room_for_outcomes(struct mci_tcp *tcp, struct mci_tcp_session *s, const struct mci_payer *payer)
{
	char why[MCI_SENTENCE_MAX + 1];

	if (s->outcomes)
		return 0;
	if (mci_ledger_take(tcp->host->ledger, payer, OUTCOME_BYTES, why)) {
		mci_info("a notify is refused: %s", why);
		return -ENOBUFS;
	}
	s->payer = *payer;
	s->outcomes = calloc(MCI_TCP_SLOTS, sizeof(*s->outcomes));
	atomic_fetch_add_explicit(&tcp->host->stats.allocs, 1, memory_order_relaxed);
	if (s->outcomes)
		return 0;
	mci_ledger_give(tcp->host->ledger, payer, OUTCOME_BYTES);
	return -ENOMEM;
}

/*
 * A notify is delivered once. One that comes again, because the answer to it was lost with its
 * connection, gets the answer it had; the initiator's credits bound how far back that can be.
 */
int mci_tcp_session_notify(struct mci_tcp *tcp, struct mci_tcp_session *s, const struct mci_payer *payer,
			   uint64_t sequence, int *status)
{
	unsigned int i;
	int ret;

	pthread_mutex_lock(&tcp->lock);
	ret = room_for_outcomes(tcp, s, payer);
	if (ret) {
		/* nothing is remembered of it, so it cannot be delivered */
	} else if (sequence > s->sequence) {
		s->sequence = sequence;
	} else {
		ret = -EALREADY;
		*status = 0;
		for (i = 0; i < MCI_TCP_SLOTS; i++)
			if (s->outcomes[i].sequence == sequence)
				*status = s->outcomes[i].status;
	}
	pthread_mutex_unlock(&tcp->lock);
	return ret;
}

void mci_tcp_session_notified(struct mci_tcp *tcp, struct mci_tcp_session *s, uint64_t sequence, int status)
{
	pthread_mutex_lock(&tcp->lock);
	s->outcomes[s->outcome_next].sequence = sequence;
	s->outcomes[s->outcome_next].status = status;
	s->outcome_next = (s->outcome_next + 1) % MCI_TCP_SLOTS;
	pthread_mutex_unlock(&tcp->lock);
}

struct visit {
	struct mci_tcp *tcp;
	struct mci_loop *loop;
	const struct mci_region *region;
	bool end; /* shut those down that use it */
	unsigned int users;
};

static void visit_conns(void *arg)
{
	struct visit *v = arg;
	struct mci_tcp_session *s;
	struct mci_tcp_conn *conn;
	uint32_t i;

	pthread_mutex_lock(&v->tcp->lock);
	for (i = 0; i < BUCKETS; i++) {
		for (s = v->tcp->buckets[i]; s; s = s->chain) {
			for (conn = s->conns; conn; conn = conn->next) {
				if (conn->loop != v->loop || conn->state != MCI_TCP_CONN_LIVE ||
				    !mci_tcp_conn_uses(conn, v->region))
					continue;
				v->users++;
				if (!v->end || conn->doomed)
					continue;
				conn->doomed = true;
				s->ending++;
				atomic_fetch_add(&conn->refs, 1);
				mci_loop_post(conn->loop, &conn->close_task);
			}
		}
	}
	pthread_mutex_unlock(&v->tcp->lock);
}

static unsigned int users_of(struct mci_tcp *tcp, const struct mci_region *region, bool end)
{
	struct visit v = {.tcp = tcp, .region = region, .end = end};
	unsigned int i;

	for (i = 0; i < tcp->host->loops->count; i++) {
		v.loop = tcp->host->loops->loop[i];
		mci_loop_call(v.loop, visit_conns, &v);
	}
	return v.users;
}

/*
 * The region is dying. Transfers that go on end by themselves; those whose peer stands still are cut
 * off shortly before the deadline, so that the engine's wait behind this ends.
 */
int mci_tcp_region_remove(struct mci_transport *transport, struct mci_region *region, uint64_t deadline_ns)
{
	struct mci_tcp *tcp = (struct mci_tcp *)transport;
	static const struct timespec step = {.tv_nsec = 2000000};
	uint64_t now = mci_now_ns(), cut, last;

	if (deadline_ns <= now)
		return 0;
	cut = deadline_ns -
	      (deadline_ns - now < 400 * MCI_NS_PER_MS ? (deadline_ns - now) / 2 : 200 * MCI_NS_PER_MS);
	last = deadline_ns;
	while (users_of(tcp, region, mci_now_ns() >= cut)) {
		if (mci_now_ns() >= last)
			return -EBUSY;
		nanosleep(&step, NULL);
	}
	return 0;
}

bool mci_tcp_sessions_close(struct mci_tcp *tcp)
{
	uint64_t until = mci_now_ns() + 5 * MCI_NS_PER_S;
	struct timespec at = {.tv_sec = (time_t)(until / MCI_NS_PER_S),
			      .tv_nsec = (long)(until % MCI_NS_PER_S)};
	struct mci_tcp_conn *rejected = NULL;
	struct mci_tcp_session *s;
	uint32_t i;
	int ret = 0;

	pthread_mutex_lock(&tcp->lock);
	tcp->closing = true;
	for (i = 0; i < BUCKETS; i++)
		for (s = tcp->buckets[i]; s; s = s->chain)
			supersede(s, &rejected);
	pthread_mutex_unlock(&tcp->lock);
	reject_all(rejected, -ESHUTDOWN, "this segment is closing");

	pthread_mutex_lock(&tcp->lock);
	while (tcp->conn_count && !ret)
		ret = pthread_cond_timedwait(&tcp->changed, &tcp->lock, &at);
	if (tcp->conn_count)
		mci_warn("%u data connections did not end in time", tcp->conn_count);
	while (!tcp->conn_count && tcp->oldest)
		forget_session(tcp, tcp->oldest);
	pthread_mutex_unlock(&tcp->lock);
	if (ret)
		return false; /* somebody may still come back to them: keep the table */
	free(tcp->buckets);
	pthread_cond_destroy(&tcp->changed);
	pthread_mutex_destroy(&tcp->lock);
	return true;
}
