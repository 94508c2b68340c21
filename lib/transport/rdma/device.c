// SPDX-License-Identifier: MIT
/*
 * The NICs of this machine: opened once per engine, each with a protection domain, a completion queue and a
 * channel that wakes a loop. Ports come and go; what the driver says of them arrives in the loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "topology/topology.h"
#include "transport/rdma/initiator.h"

#define CQ_ENTRIES_MIN 4096
#define DEFAULT_RD_ATOMIC 16
#define SOFT_ROCE_VENDOR 0xffffff

static void read_numa_node(struct mci_nic *device)
{
	char path[160], text[16] = "";
	int fd;

	device->numa_node = -1;
	snprintf(path, sizeof(path), "/sys/class/infiniband/%s/device/numa_node", device->name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (read(fd, text, sizeof(text) - 1) > 0)
		device->numa_node = atoi(text);
	close(fd);
}

/* What the port is now; 0 or -errno with a sentence why it cannot be used. */
static int look_at_port(struct mci_nic *device)
{
	int wanted = device->rdma->host->options.rdma.gid_index, ret;
	struct ibv_gid_entry gid = {0};
	struct ibv_port_attr attr;
	char why[sizeof(device->gid_why)] = "";

	ret = mci_verbs_query_port(device->context, device->port, &attr);
	if (ret)
		ret = mci_fail(ret, "%s has no port %u: %s; set MC_IB_PORT", device->name, device->port,
			       strerror(-ret));
	else if (attr.state != IBV_PORT_ACTIVE)
		ret = mci_fail(-ENETDOWN, "port %u of %s is down; check its cable and `ip link`",
			       device->port, device->name);
	else
		ret = mci_rdma_gid_choose(device, wanted, &gid, why, sizeof(why));
	pthread_mutex_lock(&device->state_lock);
	device->link_layer = attr.link_layer;
	device->attr = attr;
	if (!ret) {
		device->gid_index = (int)gid.gid_index;
		device->gid = gid.gid;
		if (device->ifindex != gid.ndev_ifindex)
			device->link_down = device->link_watch && gid.ndev_ifindex && !mci_link_is_up(gid.ndev_ifindex);
		device->ifindex = gid.ndev_ifindex;
		snprintf(device->gid_why, sizeof(device->gid_why), "%s", why);
	}
	device->up = !ret && !device->fatal && !device->link_down;
	pthread_mutex_unlock(&device->state_lock);
	return ret;
}

void mci_rdma_device_port(struct mci_nic *device, struct mci_rdma_port *port)
{
	pthread_mutex_lock(&device->state_lock);
	*port = (struct mci_rdma_port){.up = device->up,
				       .mtu = (uint8_t)device->attr.active_mtu,
				       .link = device->attr.link_layer,
				       .lid = device->attr.lid};
	memcpy(port->gid, device->gid.raw, 16);
	pthread_mutex_unlock(&device->state_lock);
}

static void port_changed(struct mci_nic *device)
{
	bool before, now;

	pthread_mutex_lock(&device->state_lock);
	before = device->up;
	pthread_mutex_unlock(&device->state_lock);
	look_at_port(device);
	pthread_mutex_lock(&device->state_lock);
	now = device->up;
	pthread_mutex_unlock(&device->state_lock);
	if (before != now)
		mci_info("port %u of %s is %s", device->port, device->name, now ? "up" : "down");
	mci_rdma_serve_ports(device->rdma);
	mci_rdma_initiator_port(device);
}

/*
 * The kernel tells of an interface that goes down before the NIC does, and of some losses of carrier alone. The
 * state at this moment counts, not that of the message.
 */
static void on_link(struct mci_watch *watch, uint32_t events)
{
	struct mci_nic *device = (struct mci_nic *)((char *)watch - offsetof(struct mci_nic, link));
	unsigned int ifindex;
	bool before, down;

	(void)events;
	pthread_mutex_lock(&device->state_lock);
	ifindex = device->ifindex;
	pthread_mutex_unlock(&device->state_lock);
	if (!mci_link_watch_read(device->link_watch, ifindex) || !ifindex)
		return;
	down = !mci_link_is_up(ifindex);
	pthread_mutex_lock(&device->state_lock);
	before = device->link_down;
	device->link_down = down;
	pthread_mutex_unlock(&device->state_lock);
	if (before == down)
		return;
	mci_info("the network interface of %s is %s", device->name, down ? "down" : "up");
	port_changed(device);
}

static void give_up(struct mci_nic *device, const char *why)
{
	pthread_mutex_lock(&device->state_lock);
	device->fatal = true;
	pthread_mutex_unlock(&device->state_lock);
	mci_warn("%s %s and is not used any more", device->name, why);
	port_changed(device);
}

static void on_event(struct mci_watch *watch, uint32_t events)
{
	struct mci_nic *device = (struct mci_nic *)watch;
	const struct mci_verbs *verbs = device->rdma->verbs;
	struct ibv_async_event event;

	(void)events;
	errno = 0;
	while (!verbs->ibv_get_async_event(device->context, &event)) {
		enum ibv_event_type type = event.event_type;

		mci_debug("%s: %s", device->name, verbs->ibv_event_type_str(type));
		/* Queue pairs show their state by flushed work requests too. */
		verbs->ibv_ack_async_event(&event);
		switch (type) {
		case IBV_EVENT_DEVICE_FATAL:
			give_up(device, "reports a fatal error");
			break;
		case IBV_EVENT_PORT_ACTIVE:
		case IBV_EVENT_PORT_ERR:
		case IBV_EVENT_LID_CHANGE:
		case IBV_EVENT_GID_CHANGE:
		case IBV_EVENT_PKEY_CHANGE:
			port_changed(device);
			break;
		default:
			break;
		}
		errno = 0;
	}
	/* One that was pulled out stays readable for ever, and has nothing to say. */
	if (errno && errno != EAGAIN && errno != EINTR) {
		mci_loop_del(device->loop, &device->events);
		give_up(device, "was taken out");
	}
}

/* Can memory be registered under an address of ours? Without that no key of ours would be safe. */
static int probe(struct mci_nic *device)
{
	const struct mci_verbs *verbs = device->rdma->verbs;
	uint64_t iova = 0x5a5a00000000ull;
	struct ibv_mr *mr;
	void *page;
	int err;

	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return mci_fail(-errno, "no memory to probe %s", device->name);
	madvise(page, 4096, MADV_DONTFORK);
	errno = 0;
	mr = (verbs->ibv_reg_mr_iova)(device->pd, page, 4096, iova,
				      IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ |
					      IBV_ACCESS_REMOTE_WRITE);
	err = errno ? -errno : -EIO;
	if (mr)
		verbs->ibv_dereg_mr(mr);
	munmap(page, 4096);
	if (mr)
		return 0;
	return mci_fail(err, "%s does not register memory under an address of our choice: %s%s", device->name,
			strerror(-err),
			err == -ENOMEM ? "; raise the limit on locked memory (ulimit -l)" : "");
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int open_queues(struct mci_nic *device, const struct ibv_device_attr *attr)
{
	const struct mci_verbs *verbs = device->rdma->verbs;
	uint32_t each = device->rdma->qps * MCI_RDMA_DEPTH, fits;
	int entries = (int)(device->rdma->endpoints_max * each);

	if (attr->max_cqe > 0 && attr->max_cqe < entries)
		entries = attr->max_cqe;

	device->pd = verbs->ibv_alloc_pd(device->context);
	if (!device->pd)
		return mci_fail(-ENOMEM, "%s gives no protection domain: %s", device->name, strerror(errno));
	device->channel = verbs->ibv_create_comp_channel(device->context);
	if (!device->channel)
		return mci_fail(-ENOMEM, "%s gives no completion channel: %s", device->name, strerror(errno));
	/* When a port fails, all work requests of all endpoints come back at once: there has to be room. */
	device->cq = verbs->ibv_create_cq(device->context, entries, device, device->channel, 0);
	while (!device->cq && entries > CQ_ENTRIES_MIN) {
		entries = entries / 2 > CQ_ENTRIES_MIN ? entries / 2 : CQ_ENTRIES_MIN;
		device->cq = verbs->ibv_create_cq(device->context, entries, device, device->channel, 0);
	}
	if (!device->cq)
		return mci_fail(-ENOMEM,
				"%s gives no completion queue of %d entries: %s; raise the limit on locked "
				"memory (ulimit -l)",
				device->name, entries, strerror(errno));
	fits = (uint32_t)device->cq->cqe / each;
	if (fits < device->rdma->endpoints_max) {
		device->rdma->endpoints_max = fits ? fits : 1;
		mci_info("%s has room for %u endpoints at a time", device->name, device->rdma->endpoints_max);
	}
	device->flush_mr = (verbs->ibv_reg_mr_iova)(device->pd, device->flush_word,
						    sizeof(device->flush_word), (uintptr_t)device->flush_word,
						    IBV_ACCESS_LOCAL_WRITE |
							    (mci_rdma_is_classic(device->rdma)
								     ? 0
								     : IBV_ACCESS_REMOTE_READ));
	if (!device->flush_mr)
		return mci_fail(
			-ENOMEM,
			"%s does not register memory: %s; raise the limit on locked memory (ulimit -l)",
			device->name, strerror(errno));
	if (set_nonblocking(device->channel->fd) || set_nonblocking(device->context->async_fd))
		return mci_fail(-errno, "cannot poll the channels of %s: %s", device->name, strerror(errno));
	return 0;
}

static void close_device(struct mci_nic *device)
{
	const struct mci_verbs *verbs = device->rdma->verbs;

	if (device->flush_mr)
		verbs->ibv_dereg_mr(device->flush_mr);
	if (device->cq)
		verbs->ibv_destroy_cq(device->cq);
	if (device->channel)
		verbs->ibv_destroy_comp_channel(device->channel);
	if (device->pd)
		verbs->ibv_dealloc_pd(device->pd);
	verbs->ibv_close_device(device->context);
	if (device->link_watch)
		mci_link_watch_close(device->link_watch);
	pthread_mutex_destroy(&device->state_lock);
	pthread_mutex_destroy(&device->cq_lock);
	free(device);
}

/* Where there is no netlink, the NIC's own events have to do. */
static int watch_link(struct mci_nic *device)
{
	if (mci_link_watch_open(&device->link_watch)) {
		mci_debug("%s: %s", device->name, mc_errmsg());
		return 0;
	}
	device->link.fd = mci_link_watch_fd(device->link_watch);
	device->link.fn = on_link;
	return mci_loop_add(device->loop, &device->link, EPOLLIN);
}

static int watch_device(struct mci_nic *device)
{
	int ret;

	device->loop = mci_loops_next(device->rdma->host->loops);
	device->events.fd = device->context->async_fd;
	device->events.fn = on_event;
	device->completions.fd = device->channel->fd;
	device->completions.fn = mci_rdma_poll_event;
	device->rest.fn = mci_rdma_poll_rest;
	ret = mci_loop_add(device->loop, &device->events, EPOLLIN);
	if (!ret)
		ret = mci_loop_add(device->loop, &device->completions, EPOLLIN);
	if (!ret && device->attr.link_layer == IBV_LINK_LAYER_ETHERNET)
		ret = watch_link(device);
	return ret ? mci_fail(ret, "cannot watch %s: %s", device->name, strerror(-ret)) : 0;
}

static int open_device(struct mci_rdma *rdma, struct ibv_device *from, struct mci_nic **out)
{
	struct mci_nic *device = calloc(1, sizeof(*device));
	struct ibv_device_attr attr;
	int ret;

	if (!device)
		return mci_fail(-ENOMEM, "no memory for a NIC");
	device->rdma = rdma;
	device->port = (uint8_t)rdma->host->options.rdma.port;
	snprintf(device->name, sizeof(device->name), "%s", rdma->verbs->ibv_get_device_name(from));
	device->context = rdma->verbs->ibv_open_device(from);
	if (!device->context) {
		ret = mci_fail(-errno, "cannot open %s: %s; may this user open /dev/infiniband/uverbs*?",
			       device->name, strerror(errno));
		free(device);
		return ret;
	}
	pthread_mutex_init(&device->state_lock, NULL);
	pthread_mutex_init(&device->cq_lock, NULL);
	read_numa_node(device);
	ret = -rdma->verbs->ibv_query_device(device->context, &attr);
	if (ret) {
		ret = mci_fail(ret, "cannot query %s: %s", device->name, strerror(-ret));
		goto err_close;
	}
	device->max_qp_wr = (uint32_t)attr.max_qp_wr;
	device->max_mr = attr.max_mr_size;
	device->soft = attr.vendor_id == SOFT_ROCE_VENDOR;
	device->max_mrs = attr.max_mr > 0 ? (uint32_t)attr.max_mr : UINT32_MAX;
	device->max_rd =
		attr.max_qp_rd_atom < DEFAULT_RD_ATOMIC ? (uint32_t)attr.max_qp_rd_atom : DEFAULT_RD_ATOMIC;
	if (!device->max_rd)
		device->max_rd = 1;
	ret = open_queues(device, &attr);
	if (!ret)
		ret = probe(device);
	if (!ret)
		ret = look_at_port(device);
	if (ret)
		goto err_close;
	*out = device;
	return 0;
err_close:
	close_device(device);
	return ret;
}

static bool named(const char *list, const char *name)
{
	size_t n = strlen(name);
	const char *p;

	for (p = list; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, name, n) && (p[n] == ',' || !p[n]))
			return true;
	return false;
}

/* Each name that was asked for must be there; of those that the matrix names, what is there is taken. */
static int check_names(struct mci_rdma *rdma, struct ibv_device **list, int n)
{
	const char *wanted = rdma->host->options.rdma.devices;
	char copy[1024], there[512] = "", *save = NULL, *word;
	int i;

	for (i = 0; i < n; i++) {
		size_t used = strlen(there);

		snprintf(there + used, sizeof(there) - used, "%s%s", i ? ", " : "",
			 rdma->verbs->ibv_get_device_name(list[i]));
	}
	snprintf(copy, sizeof(copy), "%s", wanted ? wanted : "");
	for (word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < n && strcmp(rdma->verbs->ibv_get_device_name(list[i]), word); i++)
			;
		if (i == n && rdma->host->options.rdma.devices_by_matrix)
			mci_warn("the NIC priority matrix (or MC_TE_FILTERS) names '%s', and there is no such RDMA "
				 "device here",
				 word);
		else if (i == n)
			return mci_fail(-ENODEV, "there is no RDMA device '%s' here; %s%s", word,
					n ? "there are: " : "there is none at all", there);
	}
	return 0;
}

int mci_rdma_devices_open(struct mci_rdma *rdma)
{
	const char *wanted = rdma->host->options.rdma.devices;
	struct ibv_device **list;
	char why[512] = "";
	int i, n = 0, ret;

	list = rdma->verbs->ibv_get_device_list(&n);
	if (!list)
		return mci_fail(-EOPNOTSUPP,
				"this kernel has no RDMA subsystem (%s); load the NIC's driver and ib_uverbs",
				strerror(errno));
	ret = check_names(rdma, list, n);
	for (i = 0; i < n && !ret && rdma->device_count < MCI_RDMA_DEVICES_MAX; i++) {
		const char *name = rdma->verbs->ibv_get_device_name(list[i]);
		struct mci_nic *device = NULL;
		int err;

		if (wanted && *wanted && !named(wanted, name))
			continue;
		err = open_device(rdma, list[i], &device);
		if (err) {
			snprintf(why, sizeof(why), "%s", mc_errmsg());
			if (wanted && *wanted && !rdma->host->options.rdma.devices_by_matrix)
				ret = err; /* asked for by name: no silent substitute */
			else
				mci_info("%s", why);
			continue;
		}
		device->index = rdma->device_count;
		rdma->device[rdma->device_count++] = device;
		mci_info("using %s: %s", device->name, device->gid_why);
	}
	rdma->verbs->ibv_free_device_list(list);
	if (!ret && !rdma->device_count)
		ret = mci_fail(-EOPNOTSUPP, "%s",
			       why[0] ? why : "there is no RDMA device here; `mooncake doctor` says more");
	for (i = 0; i < rdma->device_count && !ret; i++)
		ret = watch_device(rdma->device[i]);
	if (ret)
		mci_rdma_devices_close(rdma);
	return ret;
}

static void unwatch(void *arg) /* loop thread */
{
	struct mci_nic *device = arg;

	mci_loop_del(device->loop, &device->events);
	mci_loop_del(device->loop, &device->completions);
	if (device->link_watch)
		mci_loop_del(device->loop, &device->link);
	atomic_store(&device->ignored, true);
}

static void nothing(void *arg) { (void)arg; }

void mci_rdma_devices_ignore(struct mci_rdma *rdma)
{
	uint8_t i;

	for (i = 0; i < rdma->device_count; i++) {
		if (rdma->device[i]->loop)
			mci_loop_call(rdma->device[i]->loop, unwatch, rdma->device[i]);
		if (rdma->device[i]->loop)
			mci_loop_call(rdma->device[i]->loop, nothing, NULL); /* what it had posted has run */
		rdma->device[i]->loop = NULL;
	}
}

void mci_rdma_devices_close(struct mci_rdma *rdma)
{
	mci_rdma_devices_ignore(rdma);
	while (rdma->device_count)
		close_device(rdma->device[--rdma->device_count]);
}
