// SPDX-License-Identifier: MIT
/*
 * Same-host transport: memory of mc_memory_alloc() is mapped, attached by a key of the kernel module or passed as a
 * descriptor; other memory is reached by process_vm_readv() and process_vm_writev() where the system allows it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/errors.h"
#include "transport/shm/shm.h"

static void read_boot_id(char text[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, 39);

	text[n > 0 ? n : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	if (fd >= 0)
		close(fd);
}

/* A context of its own, apart from that of our memory: within one process, too, keys are made out to another. */
static void open_context(struct mci_transport *transport)
{
	struct mci_kdev_info info;

	if (transport->host->options.no_module || mci_kdev_open(&transport->kdev))
		return;
	if (mci_kdev_query(transport->kdev, &info)) {
		mci_kdev_close(transport->kdev);
		transport->kdev = NULL;
		return;
	}
	transport->context_id = info.context_id;
}

static int shm_open_transport(struct mci_transport_host *host, struct mci_transport **out)
{
	struct mci_transport *transport = calloc(1, sizeof(*transport));
	int ret;

	if (!transport)
		return mci_fail(-ENOMEM, "no memory for the shared memory transport");
	transport->host = host;
	read_boot_id(transport->boot_id);
	if (!transport->boot_id[0]) {
		ret = mci_fail(-EOPNOTSUPP, "no shared memory transport: /proc/sys/kernel/random/boot_id "
					    "cannot be read; mount /proc");
		goto err_free;
	}
	ret = mci_shm_pool_open(transport, &transport->pool);
	if (ret)
		goto err_free;
	ret = mci_shm_serve_open(transport, &transport->serve);
	if (ret)
		goto err_close_pool;
	open_context(transport);
	*out = transport;
	return 0;

err_close_pool:
	mci_shm_pool_close(transport->pool);
err_free:
	free(transport);
	return ret;
}

static void shm_close(struct mci_transport *transport)
{
	mci_shm_serve_close(transport->serve);
	mci_shm_pool_close(transport->pool);
	mci_kdev_close(transport->kdev);
	free(transport);
}

static int shm_describe(struct mci_transport *transport, json_t *mine)
{
	char name[64];

	mci_shm_socket_name(&transport->host->self->uuid, name);
	if (json_object_set_new(mine, "unix", json_string(name)) ||
	    json_object_set_new(mine, "pid", json_integer(getpid())) ||
	    json_object_set_new(mine, "boot_id", json_string(transport->boot_id)))
		return mci_fail(-ENOMEM, "no memory to describe the shared memory transport");
	return 0;
}

static int shm_region_add(struct mci_transport *transport, struct mci_region *region, json_t *json)
{
	(void)json;
	return mci_shm_serve_add(transport->serve, region);
}

static int shm_region_remove(struct mci_transport *transport, struct mci_region *region, uint64_t deadline_ns)
{
	return mci_shm_serve_remove(transport->serve, region, deadline_ns);
}

static void shm_incoming(struct mci_transport *transport, struct mci_incoming *in)
{
	mci_shm_serve_incoming(transport->serve, in);
}

const struct mci_transport_ops mci_transport_shm = {
	.id = MCI_TRANSPORT_SHM,
	.name = "shm",
	.open = shm_open_transport,
	.close = shm_close,
	.describe = shm_describe,
	.region_add = shm_region_add,
	.region_remove = shm_region_remove,
	.incoming = shm_incoming,
	.peer_open = mci_shm_peer_open,
	.peer_close = mci_shm_peer_close,
	.submit = mci_shm_peer_submit,
	.cancel = mci_shm_peer_cancel,
	.help = mci_shm_peer_help,
	.region_usable = mci_shm_peer_usable,
	.detail = mci_shm_peer_detail,
	.map = mci_shm_view_map,
	.unmap = mci_shm_view_unmap,
};
