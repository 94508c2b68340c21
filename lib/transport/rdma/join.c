// SPDX-License-Identifier: MIT
/*
 * Queue pairs on their way to those of a peer. The driver looks for the peer's address then, for a second where
 * nobody answers, so threads of the NIC do it and no loop waits. Nothing but the NIC is shared: what leads over
 * another one goes on. Of one peer only a few are under way at a time, the others wait in its lane; who waits
 * too long is refused, so that an answer to the peer never takes longer than it waits.
 */
#include <errno.h>
#include <stdio.h>

#include "core/clock.h"
#include "core/errors.h"
#include "transport/rdma/rdma.h"

#define THREADS 8u   /* of a NIC, as many as are needed */
#define AT_A_TIME 4u /* of a lane */
#define WAIT_NS (1500 * MCI_NS_PER_MS)

static void run(struct mci_job *job) /* a thread of the NIC */
{
	struct mci_rdma_join *join = (struct mci_rdma_join *)job;
	unsigned int i;
	int ret = 0;

	if (mci_now_ns() > join->until)
		ret = mci_fail(-EBUSY,
			       "%s is busy looking for peers that do not answer; `mooncake doctor` shows which pairs "
			       "of NICs do, --device_name leaves the others out",
			       join->device->name);
	for (i = 0; i < join->count && !ret; i++)
		ret = atomic_load(&join->given_up) ? -ECANCELED
						   : mci_rdma_qp_ready(join->device, join->qp[i], &join->peer, i,
								       join->psn[i], join->send);
	join->ret = ret;
	if (ret)
		snprintf(join->why, sizeof(join->why), "%s", mc_errmsg());
}

static void hand_over(struct mci_rdma_lane *lane, struct mci_rdma_join *join)
{
	lane->under_way++;
	join->job.run = run;
	mci_pool_add(join->device->joiners, &join->job);
}

int mci_rdma_join_add(struct mci_rdma_lane *lane, struct mci_rdma_join *join)
{
	struct mci_nic *device = join->device;
	int ret = 0;

	pthread_mutex_lock(&device->state_lock);
	if (!device->joiners)
		ret = mci_pool_start("mc-rdma-join", THREADS, &device->joiners);
	pthread_mutex_unlock(&device->state_lock);
	if (ret)
		return ret;
	join->until = mci_now_ns() + WAIT_NS;
	join->next = NULL;
	if (lane->under_way < AT_A_TIME) {
		hand_over(lane, join);
	} else if (lane->first) {
		lane->last->next = join;
		lane->last = join;
	} else {
		lane->first = lane->last = join;
	}
	return 0;
}

bool mci_rdma_join_give_up(struct mci_rdma_lane *lane, struct mci_rdma_join *join)
{
	struct mci_rdma_join **at, *before = NULL;

	for (at = &lane->first; *at && *at != join; at = &(*at)->next)
		before = *at;
	if (!*at) {
		atomic_store(&join->given_up, true);
		return false;
	}
	*at = join->next;
	if (lane->last == join)
		lane->last = before;
	return true;
}

void mci_rdma_join_over(struct mci_rdma_lane *lane)
{
	struct mci_rdma_join *join = lane->first;

	lane->under_way--;
	if (!join)
		return;
	lane->first = join->next;
	hand_over(lane, join);
}

void mci_rdma_join_destroy(struct mci_rdma_join *join)
{
	unsigned int i;

	for (i = 0; i < join->count; i++)
		if (join->qp[i])
			join->device->rdma->verbs->ibv_destroy_qp(join->qp[i]);
}

static void nothing(void *arg) { (void)arg; }

void mci_rdma_joins_end(struct mci_rdma *rdma)
{
	struct mci_loops *loops = rdma->host->loops;
	unsigned int i;

	for (i = 0; i < rdma->device_count; i++) {
		mci_pool_stop(rdma->device[i]->joiners);
		rdma->device[i]->joiners = NULL;
	}
	for (i = 0; i < loops->count; i++)
		mci_loop_call(loops->loop[i], nothing, NULL); /* what came back has been put away */
}
