// SPDX-License-Identifier: MIT
/*
 * A NIC in software, as libibverbs.so.1: what the rdma transport calls and no more, within one process. It
 * lets the transport run where there is no device, under sanitizers above all. Two devices, rxe0 and rxe1, on
 * one network; a thread each does the work, so that requests are under way for a while. Keys, bounds, rights
 * and the states of queue pairs are checked as a NIC does; nothing is lost, and time-outs do not exist.
 * softnic_port() changes the state of a port, softnic_allow() lets work wait, softnic_remove()
 * pulls a device out, softnic_hold() keeps who looks for an address waiting. One lock guards everything.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <infiniband/verbs.h>

#define DEVICES 2
#define KEYS 8192
#define QPS 8192

struct region {
	struct ibv_mr mr; /* first */
	uint64_t iova;
	unsigned int access;
};

struct work {
	struct work *next;
	struct queue_pair *qp;
	uint64_t id;
	enum ibv_wr_opcode opcode;
	bool signalled, has_memory;
	struct ibv_sge sge;
	uint64_t remote;
	uint32_t rkey;
};

struct queue_pair {
	struct ibv_qp qp; /* first */
	uint32_t peer;
	struct device *device;
	bool held;
};

struct completions {
	struct ibv_cq cq; /* first */
	bool armed;
	struct ibv_wc *ring;
	unsigned int first, count, size;
};

struct device {
	struct ibv_device device; /* first */
	pthread_t thread;
	pthread_cond_t wanted;
	struct work *head, **tail;
	unsigned int contexts;
	bool down, gone;
	unsigned long reads; /* of its channels, once it is gone */
	uint8_t address; /* last byte of its GID; 0 = the first one it had */
	unsigned int changes;
};

struct open_device {
	struct verbs_context verbs;
	unsigned int told; /* changes that its owner knows of */
	struct open_device *next;
};
static struct open_device *opened;

static struct open_device *open_of(struct ibv_context *context)
{
	return (struct open_device *)((char *)context - offsetof(struct open_device, verbs.context));
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct device devices[DEVICES];
static struct region *keys[KEYS];
static struct queue_pair *qps[QPS];
static uint32_t turn = 1;
static unsigned long done;
static int allowance = -1; /* so much work is done, and no more; < 0: all */

/* Nobody answers at this address (last byte of a GID; 0 = none is held): who connects a queue pair to it waits. */
static uint8_t hold;
static int verdict; /* for those who were held: 0, or an errno */
static unsigned int held;
static pthread_cond_t let_go = PTHREAD_COND_INITIALIZER;

/* ---- the work ---- */

/* lock held */
static void complete(struct queue_pair *qp, const struct work *w, enum ibv_wc_status status)
{
	struct completions *cq = (struct completions *)qp->qp.send_cq;
	uint64_t one = 1;

	if (status == IBV_WC_SUCCESS && !w->signalled)
		return;
	if (cq->count == cq->size)
		abort(); /* an overrun: on a NIC, the end of the completion queue */
	cq->ring[(cq->first + cq->count++) % cq->size] =
		(struct ibv_wc){.wr_id = w->id, .status = status, .qp_num = qp->qp.qp_num};
	if (!cq->armed)
		return;
	cq->armed = false;
	if (write(cq->cq.channel->fd, &one, sizeof(one)) < 0)
		abort();
}

static uint8_t *resolve(const struct ibv_pd *pd, uint32_t key, uint64_t at, uint64_t length,
			unsigned int access)
{
	const struct region *r = keys[key >> 8 & (KEYS - 1)];

	if (!r || r->mr.rkey != key || r->mr.pd != pd || at < r->iova || length > r->mr.length ||
	    at - r->iova > r->mr.length - length || (r->access & access) != access)
		return NULL;
	return (uint8_t *)r->mr.addr + (at - r->iova);
}

static enum ibv_wc_status carry_out(struct queue_pair *qp, const struct work *w)
{
	struct queue_pair *peer = qps[qp->peer % QPS];
	bool reading = w->opcode == IBV_WR_RDMA_READ;
	uint8_t *ours, *theirs;

	if (qp->qp.state != IBV_QPS_RTS)
		return IBV_WC_WR_FLUSH_ERR;
	if (qp->device->down || (peer && peer->device->down))
		return IBV_WC_RETRY_EXC_ERR;
	if (!peer || peer->qp.qp_num != qp->peer || peer->peer != qp->qp.qp_num ||
	    (peer->qp.state != IBV_QPS_RTR && peer->qp.state != IBV_QPS_RTS))
		return IBV_WC_RETRY_EXC_ERR;
	if (!w->has_memory)
		return IBV_WC_SUCCESS;
	ours = resolve(qp->qp.pd, w->sge.lkey, w->sge.addr, w->sge.length,
		       reading ? IBV_ACCESS_LOCAL_WRITE : 0);
	if (!ours)
		return IBV_WC_LOC_PROT_ERR;
	theirs = resolve(peer->qp.pd, w->rkey, w->remote, w->sge.length,
			 reading ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE);
	if (!theirs)
		return IBV_WC_REM_ACCESS_ERR;
	memcpy(reading ? ours : theirs, reading ? theirs : ours, w->sge.length);
	return IBV_WC_SUCCESS;
}

static void *nic_main(void *arg)
{
	struct device *d = arg;

	pthread_mutex_lock(&lock);
	while (d->contexts) {
		struct work *w = d->head;
		enum ibv_wc_status status;

		if (!w || !allowance) {
			pthread_cond_wait(&d->wanted, &lock);
			continue;
		}
		allowance -= allowance > 0;
		d->head = w->next;
		if (!d->head)
			d->tail = &d->head;
		status = carry_out(w->qp, w);
		if (status != IBV_WC_SUCCESS)
			w->qp->qp.state = IBV_QPS_ERR;
		complete(w->qp, w, status);
		done++;
		free(w);
		/* Others get their turn. */
		pthread_mutex_unlock(&lock);
		pthread_mutex_lock(&lock);
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

static int post_send(struct ibv_qp *ibqp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct queue_pair *qp = (struct queue_pair *)ibqp;
	struct device *d = qp->device;
	int ret = 0;

	pthread_mutex_lock(&lock);
	for (; wr && !ret; wr = wr->next) {
		struct work *w = malloc(sizeof(*w));

		if (!w || wr->num_sge > 1 || (ibqp->state != IBV_QPS_RTS && ibqp->state != IBV_QPS_ERR)) {
			*bad = wr;
			ret = w ? EINVAL : ENOMEM;
			free(w);
			continue;
		}
		*w = (struct work){.qp = qp,
				   .id = wr->wr_id,
				   .opcode = wr->opcode,
				   .signalled = wr->send_flags & IBV_SEND_SIGNALED,
				   .has_memory = wr->num_sge == 1,
				   .sge = wr->num_sge ? wr->sg_list[0] : (struct ibv_sge){.length = 0},
				   .remote = wr->wr.rdma.remote_addr,
				   .rkey = wr->wr.rdma.rkey};
		*d->tail = w;
		d->tail = &w->next;
	}
	pthread_cond_signal(&d->wanted);
	pthread_mutex_unlock(&lock);
	return ret;
}

static int poll_cq(struct ibv_cq *ibcq, int n, struct ibv_wc *wc)
{
	struct completions *cq = (struct completions *)ibcq;
	int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < n && cq->count; i++, cq->count--) {
		wc[i] = cq->ring[cq->first];
		cq->first = (cq->first + 1) % cq->size;
	}
	pthread_mutex_unlock(&lock);
	return i;
}

static int req_notify_cq(struct ibv_cq *ibcq, int solicited)
{
	struct completions *cq = (struct completions *)ibcq;

	(void)solicited;
	pthread_mutex_lock(&lock);
	cq->armed = true;
	pthread_mutex_unlock(&lock);
	return 0;
}

/* ---- devices ---- */

struct ibv_device **ibv_get_device_list(int *n)
{
	struct ibv_device **list = calloc(DEVICES + 1, sizeof(*list));
	unsigned int i;

	for (i = 0; list && i < DEVICES; i++) {
		snprintf(devices[i].device.name, sizeof(devices[i].device.name), "rxe%u", i);
		list[i] = &devices[i].device;
	}
	if (n)
		*n = DEVICES;
	return list;
}

void ibv_free_device_list(struct ibv_device **list) { free(list); }
const char *ibv_get_device_name(struct ibv_device *device) { return device->name; }

static int query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr, size_t size)
{
	memset(attr, 0, size);
	pthread_mutex_lock(&lock);
	attr->state = ((struct device *)context->device)->down ? IBV_PORT_DOWN : IBV_PORT_ACTIVE;
	pthread_mutex_unlock(&lock);
	attr->active_mtu = attr->max_mtu = IBV_MTU_4096;
	attr->link_layer = IBV_LINK_LAYER_ETHERNET;
	attr->gid_tbl_len = 1;
	return port == 1 ? 0 : EINVAL;
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	struct open_device *o = calloc(1, sizeof(*o));
	struct verbs_context *v = o ? &o->verbs : NULL;
	struct device *d = (struct device *)device;
	int ret = 0;

	if (!v)
		return NULL;
	v->sz = sizeof(*v);
	v->query_port = query_port;
	v->context.device = device;
	v->context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	v->context.ops.post_send = post_send;
	v->context.ops.poll_cq = poll_cq;
	v->context.ops.req_notify_cq = req_notify_cq;
	v->context.async_fd = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_lock(&lock);
	o->told = d->changes;
	o->next = opened;
	opened = o;
	if (!d->contexts++) {
		d->head = NULL;
		d->tail = &d->head;
		pthread_cond_init(&d->wanted, NULL);
		ret = pthread_create(&d->thread, NULL, nic_main, d);
	}
	pthread_mutex_unlock(&lock);
	if (ret)
		abort();
	return &v->context;
}

int ibv_close_device(struct ibv_context *context)
{
	struct device *d = (struct device *)context->device;
	struct open_device *o = open_of(context), **link;
	pthread_t thread;
	bool last;

	pthread_mutex_lock(&lock);
	for (link = &opened; *link != o; link = &(*link)->next)
		;
	*link = o->next;
	last = !--d->contexts;
	if (last && d->gone)
		d->gone = d->down = false; /* put in again */
	thread = d->thread;
	if (last)
		pthread_cond_signal(&d->wanted);
	pthread_mutex_unlock(&lock);
	if (last)
		pthread_join(thread, NULL);
	close(context->async_fd);
	free(o);
	return 0;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	(void)context;
	*attr = (struct ibv_device_attr){.max_mr_size = UINT64_MAX,
					 .max_qp = QPS,
					 .max_qp_wr = 1024,
					 .max_qp_rd_atom = 16,
					 .max_cqe = 1 << 20};
	return 0;
}

ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
			     uint32_t flags, size_t size)
{
	struct device *d = (struct device *)context->device;

	(void)max;
	(void)flags;
	memset(entries, 0, size);
	entries->gid_index = 1;
	entries->port_num = 1;
	entries->gid_type = IBV_GID_TYPE_ROCE_V2;
	memcpy(entries->gid.raw, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x09\0", 15);
	pthread_mutex_lock(&lock);
	entries->gid.raw[15] = d->address ? d->address : (uint8_t)(1 + (d - devices));
	pthread_mutex_unlock(&lock);
	return 1;
}

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	struct open_device *o = open_of(context);
	struct device *d = (struct device *)context->device;
	bool news;
	uint64_t n;

	pthread_mutex_lock(&lock);
	news = o->told != d->changes;
	o->told = d->changes;
	if (d->gone && !news) {
		d->reads++;
		pthread_mutex_unlock(&lock);
		errno = EIO; /* and its descriptor stays readable */
		return -1;
	}
	event->event_type = d->down ? IBV_EVENT_PORT_ERR : IBV_EVENT_GID_CHANGE;
	pthread_mutex_unlock(&lock);
	if (news)
		return 0;
	if (read(context->async_fd, &n, sizeof(n)) < 0)
		return -1;
	errno = EAGAIN;
	return -1;
}

/* For tests: the port of a device goes down or comes up, with another address if one is given. */
void softnic_port(unsigned int index, bool down, uint8_t address);
void softnic_port(unsigned int index, bool down, uint8_t address)
{
	struct device *d = &devices[index];
	struct open_device *o;
	uint64_t one = 1;

	pthread_mutex_lock(&lock);
	d->down = down;
	if (address)
		d->address = address;
	d->changes++;
	for (o = opened; o; o = o->next)
		if (o->verbs.context.device == &d->device &&
		    write(o->verbs.context.async_fd, &one, sizeof(one)) < 0)
			abort();
	pthread_mutex_unlock(&lock);
}

/* For tests: a device is pulled out. Nothing of it works, and its channels end. */
void softnic_remove(unsigned int index);
void softnic_remove(unsigned int index)
{
	struct device *d = &devices[index];
	struct open_device *o;
	uint64_t one = 1;

	pthread_mutex_lock(&lock);
	d->gone = d->down = true;
	for (o = opened; o; o = o->next)
		if (o->verbs.context.device == &d->device &&
		    write(o->verbs.context.async_fd, &one, sizeof(one)) < 0)
			abort();
	pthread_mutex_unlock(&lock);
}

/* For tests: reads of the channels of devices that are gone. */
unsigned long softnic_reads(void);
unsigned long softnic_reads(void)
{
	unsigned long n = 0;
	unsigned int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < DEVICES; i++)
		n += devices[i].reads;
	pthread_mutex_unlock(&lock);
	return n;
}

/* For tests: see above. With 0 all that wait go on, or fail with @err. */
void softnic_hold(uint8_t address, int err);
void softnic_hold(uint8_t address, int err)
{
	pthread_mutex_lock(&lock);
	hold = address;
	verdict = err;
	pthread_cond_broadcast(&let_go);
	pthread_mutex_unlock(&lock);
}

/* How many wait now. */
unsigned int softnic_held(void);
unsigned int softnic_held(void)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = held;
	pthread_mutex_unlock(&lock);
	return n;
}

/* For tests: how much work was carried out so far. */
unsigned long softnic_done(void);
unsigned long softnic_done(void)
{
	unsigned long n;

	pthread_mutex_lock(&lock);
	n = done;
	pthread_mutex_unlock(&lock);
	return n;
}

/* For tests: @work requests are carried out, and what else is posted waits; < 0: all. */
void softnic_allow(int work);
void softnic_allow(int work)
{
	unsigned int i;

	pthread_mutex_lock(&lock);
	allowance = work;
	for (i = 0; i < DEVICES; i++)
		if (devices[i].contexts)
			pthread_cond_signal(&devices[i].wanted);
	pthread_mutex_unlock(&lock);
}

void ibv_ack_async_event(struct ibv_async_event *event) { (void)event; }
const char *ibv_event_type_str(enum ibv_event_type type) { return type ? "event" : "CQ error"; }
const char *ibv_wc_status_str(enum ibv_wc_status status)
{
	return status == IBV_WC_REM_ACCESS_ERR	? "remote access error"
	       : status == IBV_WC_RETRY_EXC_ERR ? "transport retry counter exceeded"
						: "error";
}

/* ---- objects ---- */

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));

	if (pd)
		pd->context = context;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

struct ibv_mr *(ibv_reg_mr_iova)(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access);
struct ibv_mr *(ibv_reg_mr_iova)(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access)
{
	struct region *r = calloc(1, sizeof(*r));
	unsigned int i;

	if (!r)
		return NULL;
	pthread_mutex_lock(&lock);
	for (i = 1; i < KEYS && keys[i]; i++)
		;
	if (i < KEYS) {
		r->mr = (struct ibv_mr){.context = pd->context, .pd = pd, .addr = addr, .length = length};
		r->mr.lkey = r->mr.rkey = turn << 21 | i << 8 | (turn * 37 & 0xff);
		turn++;
		r->iova = iova;
		r->access = (unsigned int)access;
		keys[i] = r;
	}
	pthread_mutex_unlock(&lock);
	if (i < KEYS)
		return &r->mr;
	free(r);
	errno = ENOMEM;
	return NULL;
}

struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
				 int access)
{
	(void)pd, (void)offset, (void)length, (void)iova, (void)fd, (void)access;
	errno = EOPNOTSUPP;
	return NULL;
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	pthread_mutex_lock(&lock);
	if (((struct device *)mr->context->device)->gone) {
		keys[mr->rkey >> 8 & (KEYS - 1)] = NULL;
		pthread_mutex_unlock(&lock);
		free(mr);
		return EIO; /* it went with the device */
	}
	keys[mr->rkey >> 8 & (KEYS - 1)] = NULL;
	pthread_mutex_unlock(&lock);
	free(mr);
	return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	struct ibv_comp_channel *channel = calloc(1, sizeof(*channel));

	if (!channel)
		return NULL;
	channel->context = context;
	channel->fd = eventfd(0, EFD_CLOEXEC);
	return channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	close(channel->fd);
	free(channel);
	return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int entries, void *arg,
			     struct ibv_comp_channel *channel, int vector)
{
	struct completions *cq = calloc(1, sizeof(*cq));

	(void)vector;
	cq->ring = calloc((size_t)entries, sizeof(*cq->ring));
	cq->size = (unsigned int)entries;
	cq->cq = (struct ibv_cq){.context = context, .channel = channel, .cq_context = arg, .cqe = entries};
	return &cq->cq;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	free(((struct completions *)cq)->ring);
	free(cq);
	return 0;
}

/* One completion queue per channel is all that is needed here, and the channel knows nobody else. */
int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **arg)
{
	struct device *d = (struct device *)channel->context->device;
	uint64_t n;
	bool gone;

	*cq = NULL;
	*arg = NULL;
	pthread_mutex_lock(&lock);
	gone = d->gone;
	d->reads += gone;
	pthread_mutex_unlock(&lock);
	if (gone) {
		errno = EIO;
		return -1;
	}
	return read(channel->fd, &n, sizeof(n)) == sizeof(n) ? 0 : -1;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int n) { (void)cq, (void)n; }

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct queue_pair *qp = calloc(1, sizeof(*qp));
	uint32_t n;

	if (!qp)
		return NULL;
	qp->device = (struct device *)pd->context->device;
	qp->qp = (struct ibv_qp){.context = pd->context,
				 .pd = pd,
				 .send_cq = init->send_cq,
				 .recv_cq = init->recv_cq,
				 .state = IBV_QPS_RESET,
				 .qp_type = init->qp_type};
	pthread_mutex_lock(&lock);
	do
		n = turn++ & 0xffffff;
	while (!n || qps[n % QPS]);
	qp->qp.qp_num = n;
	qps[n % QPS] = qp;
	pthread_mutex_unlock(&lock);
	return &qp->qp;
}

/* lock held */
static int look_for(struct queue_pair *qp, const struct ibv_qp_attr *attr)
{
	uint8_t address = attr->ah_attr.grh.dgid.raw[15];
	bool waited = false;

	while (hold && hold == address) {
		held += !waited;
		waited = qp->held = true;
		pthread_cond_wait(&let_go, &lock);
	}
	held -= waited;
	qp->held = false;
	return waited ? verdict : 0;
}

int ibv_modify_qp(struct ibv_qp *ibqp, struct ibv_qp_attr *attr, int mask)
{
	struct queue_pair *qp = (struct queue_pair *)ibqp;
	int ret = 0;

	pthread_mutex_lock(&lock);
	if (qp->held)
		abort(); /* used by two at once */
	if (mask & IBV_QP_AV)
		ret = look_for(qp, attr);
	if (!ret && attr->qp_state != IBV_QPS_ERR && (unsigned int)attr->qp_state != (unsigned int)ibqp->state + 1)
		ret = EINVAL;
	if (!ret)
		ibqp->state = attr->qp_state;
	if (!ret && mask & IBV_QP_DEST_QPN)
		qp->peer = attr->dest_qp_num;
	pthread_mutex_unlock(&lock);
	return ret;
}

/* What is not done of it yet vanishes with it; so do its completions, as with NICs. */
int ibv_destroy_qp(struct ibv_qp *ibqp)
{
	struct queue_pair *qp = (struct queue_pair *)ibqp;
	struct work **link, *w;

	pthread_mutex_lock(&lock);
	if (qp->held)
		abort(); /* the driver has it */
	for (link = &qp->device->head; (w = *link);) {
		if (w->qp != qp) {
			link = &w->next;
			continue;
		}
		*link = w->next;
		free(w);
	}
	qp->device->tail = link;
	qps[ibqp->qp_num % QPS] = NULL;
	pthread_mutex_unlock(&lock);
	free(qp);
	return 0;
}
