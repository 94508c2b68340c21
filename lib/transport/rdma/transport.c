// SPDX-License-Identifier: MIT
/* The rdma transport as the engine sees it: one-sided reads and writes over reliable connections, many NICs.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/uuid.h"
#include "transport/rdma/initiator.h"

#define GRACE_NS MCI_NS_PER_S

int mci_rdma_new(struct mci_transport_host *host, enum mci_transport_id id, struct mci_rdma **out)
{
	const struct mci_rdma_options *options = &host->options.rdma;
	const struct mci_verbs *verbs = mci_verbs();
	struct mci_rdma *rdma;
	int ret;

	if (!verbs)
		return -EOPNOTSUPP;
	rdma = calloc(1, sizeof(*rdma));
	if (!rdma)
		return mci_fail(-ENOMEM, "no memory for the rdma transport");
	rdma->host = host;
	rdma->id = id;
	rdma->verbs = verbs;
	rdma->endpoints_max = options->endpoints_max ? options->endpoints_max : 256;
	if (rdma->endpoints_max > MCI_RDMA_ENDPOINTS_MAX)
		rdma->endpoints_max = MCI_RDMA_ENDPOINTS_MAX;
	rdma->qps = options->qps ? options->qps : mci_rdma_is_classic(rdma) ? 2 : 1;
	if (rdma->qps > MCI_RDMA_QPS_MAX)
		rdma->qps = MCI_RDMA_QPS_MAX;
	mci_uuid_new(&rdma->secret);
	ret = mci_rdma_pool_open(rdma);
	if (ret)
		goto err_free;
	ret = mci_rdma_serve_open(rdma); /* first: events of devices tell those who are served */
	if (ret)
		goto err_close_pool;
	ret = mci_rdma_devices_open(rdma);
	if (ret)
		goto err_close_serve;
	rdma->matrix = mci_rdma_matrix(rdma);
	*out = rdma;
	return 0;

err_close_serve:
	mci_rdma_serve_close(rdma);
err_close_pool:
	mci_rdma_pool_close(rdma);
err_free:
	free(rdma);
	return ret;
}

void mci_rdma_free(struct mci_rdma *rdma)
{
	mci_rdma_devices_ignore(rdma);
	mci_rdma_serve_close(rdma);
	mci_rdma_joins_end(rdma);
	mci_rdma_devices_close(rdma);
	mci_rdma_pool_close(rdma);
	mci_debug("rdma: %llu work requests, %llu doorbells, %llu completions asked for, %llu taken",
		  (unsigned long long)rdma->posted, (unsigned long long)rdma->doorbells,
		  (unsigned long long)rdma->signalled, (unsigned long long)rdma->polled);
	json_decref(rdma->matrix);
	free(rdma);
}

static int rdma_open(struct mci_transport_host *host, struct mci_transport **out)
{
	struct mci_rdma *rdma;
	int ret = mci_rdma_new(host, MCI_TRANSPORT_RDMA, &rdma);

	if (!ret)
		*out = (struct mci_transport *)rdma;
	return ret;
}

static struct mci_rdma *of(struct mci_transport *transport) { return (struct mci_rdma *)transport; }

static void rdma_close(struct mci_transport *transport)
{
	mci_rdma_free(of(transport));
}

static int rdma_describe(struct mci_transport *transport, json_t *mine)
{
	struct mci_rdma *rdma = of(transport);
	json_t *list = json_array();
	uint8_t i;
	int ret = 0;

	for (i = 0; i < rdma->device_count; i++)
		ret |= json_array_append_new(list, json_pack("{s:s}", "name", rdma->device[i]->name));
	ret |= json_object_set_new(mine, "devices", list);
	if (rdma->matrix)
		ret |= json_object_set(mine, "matrix", rdma->matrix);
	return ret ? mci_fail(-ENOMEM, "no memory to describe the rdma transport") : 0;
}

static int rdma_region_add(struct mci_transport *transport, struct mci_region *region, json_t *json)
{
	(void)json;
	return mci_rdma_memory_add(of(transport), region);
}

static int rdma_region_remove(struct mci_transport *transport, struct mci_region *region,
			      uint64_t deadline_ns)
{
	int ret;

	mci_rdma_serve_gone(of(transport), region);
	/* Transfers of our own use the keys until their last slice; other transports cut theirs at the deadline. */
	ret = mci_regions_wait(of(transport)->host->regions, region, deadline_ns + GRACE_NS);
	return ret ? ret : mci_rdma_memory_remove(of(transport), region);
}

static void rdma_incoming(struct mci_transport *transport, struct mci_incoming *in)
{
	mci_rdma_serve_incoming(of(transport), in);
}

const struct mci_transport_ops mci_transport_rdma = {
	.id = MCI_TRANSPORT_RDMA,
	.name = "rdma",
	.flushes = true,
	.open = rdma_open,
	.close = rdma_close,
	.describe = rdma_describe,
	.region_add = rdma_region_add,
	.region_remove = rdma_region_remove,
	.incoming = rdma_incoming,
	.peer_open = mci_rdma_peer_open,
	.peer_close = mci_rdma_peer_close,
	.submit = mci_rdma_peer_submit,
	.cancel = mci_rdma_peer_cancel,
	.help = mci_rdma_peer_help,
	.fence = mci_rdma_peer_fence,
	.region_usable = mci_rdma_peer_usable,
	.detail = mci_rdma_peer_detail,
	.nics = mci_rdma_nics_json,
	.rails = mci_rdma_rails_json,
};
