// SPDX-License-Identifier: MIT
/*
 * Target: the table of regions that initiators on this host see, and the fence that keeps them out of a
 * region once it is unregistered. serve->lock guards all of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/errors.h"
#include "core/log.h"
#include "transport/shm/serve.h"

int mci_shm_share(const char *name, size_t size, int seals, int *out, void **mapped)
{
	int ret, fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *p;

	if (fd < 0)
		return mci_fail(-errno, "cannot create shared memory: memfd_create: %s", strerror(errno));
	if (fchmod(fd, 0600) || ftruncate(fd, (off_t)size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
		ret = mci_fail(-errno, "cannot size and seal shared memory: %s", strerror(errno));
		goto err_close;
	}
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		ret = mci_fail(-errno, "cannot map %zu bytes of shared memory: %s", size, strerror(errno));
		goto err_close;
	}
	madvise(p, size, MADV_DONTFORK);
	if (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_SEAL)) {
		ret = mci_fail(-errno,
			       "cannot seal shared memory: %s; shared memory needs Linux 5.1 or newer",
			       strerror(errno));
		goto err_unmap;
	}
	*out = fd;
	*mapped = p;
	return 0;

err_unmap:
	munmap(p, size);
err_close:
	close(fd);
	return ret;
}

static int tenants_grow(struct mci_shm_serve *serve, uint32_t id)
{
	uint32_t n = serve->tenant_count ? serve->tenant_count : 16;
	struct mci_shm_tenant *tenants;

	while (n <= id)
		n *= 2;
	if (n == serve->tenant_count)
		return 0;
	tenants = realloc(serve->tenants, n * sizeof(*tenants));
	if (!tenants)
		return mci_fail(-ENOMEM, "no memory to offer one more region to peers on this host");
	memset(tenants + serve->tenant_count, 0, (n - serve->tenant_count) * sizeof(*tenants));
	serve->tenants = tenants;
	serve->tenant_count = n;
	return 0;
}

static int add(struct mci_shm_serve *serve, const struct mci_region *region) /* serve->lock held */
{
	struct mci_shm_tenant *tenant;
	int ret;

	if (!region->rights || region->id >= MCI_SHM_SLOTS)
		return 0; /* peers take another way, if any */
	ret = tenants_grow(serve, region->id);
	if (ret)
		return ret;
	tenant = &serve->tenants[region->id];
	mci_shm_object_revoke(tenant, NULL);
	free(tenant->granted);
	*tenant = (struct mci_shm_tenant){
		.there = true,
		.generation = region->generation,
		.rights = region->rights,
		.address = (uintptr_t)region->addr,
		.length = region->length,
		.stamp = ++serve->stamps,
		.memfd = region->memfd,
		.memfd_offset = region->memfd_offset,
		.kdev = region->kdev,
		.object = region->object,
		.object_offset = region->object_offset,
		.object_length = region->object_length,
	};
	mci_shm_file_look(tenant->memfd, tenant->memfd_offset, tenant->length, &tenant->file);
	atomic_store(&serve->table->word[region->id], tenant->stamp);
	return 0;
}

int mci_shm_serve_add(struct mci_shm_serve *serve, const struct mci_region *region)
{
	int ret;

	pthread_mutex_lock(&serve->lock);
	ret = add(serve, region);
	pthread_mutex_unlock(&serve->lock);
	return ret;
}

/* Its memory is gone with the process, even if a child that it forked holds the connection open. */
static bool dead(const struct mci_shm_served *s)
{
	struct pollfd end = {.fd = s->pidfd, .events = POLLIN};

	return s->pidfd >= 0 && poll(&end, 1, 0) > 0;
}

/* Who is inside of @slot? Counters are the peers' word: good for a bounded wait, no more. */
static struct mci_shm_served *somebody_inside(struct mci_shm_serve *serve, uint32_t slot, uint32_t *copies,
					      uint32_t *views)
{
	struct mci_shm_served *s;

	for (s = serve->first; s; s = s->next) {
		if (!s->use)
			continue;
		*copies = atomic_load(&s->use->slot[slot].copies);
		*views = atomic_load(&s->use->slot[slot].views);
		if ((*copies || *views) && !dead(s))
			return s;
	}
	return NULL;
}

static void leave_slot(struct mci_shm_serve *serve, struct mci_shm_tenant *tenant, uint32_t slot)
{
	atomic_store(&serve->table->word[slot], 0);
	tenant->there = false;
	/* Who keeps to the rules is out, or sees the word before he touches anything. The module sees to the rest. */
	if (!serve->transport->hooks.no_revoke)
		mci_shm_object_revoke(tenant, NULL);
	mci_shm_serve_tell_gone(serve);
}

/*
 * The deadline has passed and somebody copies still: stopped, or worse. If all of them are inside by a key, they can be
 * shut out: who goes on in the middle of a copy gets SIGBUS, others find the region gone. Views are kept: a view
 * is a reference, and its holder has done no wrong.
 */
static bool shut_out(struct mci_shm_serve *serve, struct mci_shm_tenant *tenant, uint32_t slot)
{
	struct mci_shm_served *s;

	if (serve->transport->hooks.no_revoke)
		return false;
	for (s = serve->first; s; s = s->next) {
		if (!s->use || dead(s))
			continue;
		if (atomic_load(&s->use->slot[slot].views) ||
		    (atomic_load(&s->use->slot[slot].copies) && !mci_shm_object_granted(tenant, s)))
			return false;
	}
	for (s = serve->first; s; s = s->next) {
		if (!s->use || !atomic_load(&s->use->slot[slot].copies))
			continue;
		s->cut = true; /* its counters end with its connection */
		mci_warn("'%s' (process %d on this host) did not leave region %u in time; it is shut out", s->name,
			 (int)s->pid, slot);
	}
	return true;
}

int mci_shm_serve_remove(struct mci_shm_serve *serve, const struct mci_region *region, uint64_t deadline_ns)
{
	struct timespec pause = {.tv_nsec = 20000};
	_Atomic uint64_t *word;
	struct mci_shm_tenant *tenant;
	struct mci_shm_served *s;
	uint32_t copies = 0, views = 0;
	int ret = 0;

	pthread_mutex_lock(&serve->lock);
	if (region->id >= serve->tenant_count)
		goto out_unlock;
	tenant = &serve->tenants[region->id];
	if (!tenant->there || tenant->generation != region->generation)
		goto out_unlock;
	word = &serve->table->word[region->id];
	tenant->going = true;
	if (!tenant->given_up)
		atomic_store(word, tenant->stamp | MCI_SHM_DYING);
	atomic_thread_fence(memory_order_seq_cst);
	while ((s = somebody_inside(serve, region->id, &copies, &views)) &&
	       !serve->transport->hooks.no_fence) {
		if (mci_now_ns() >= deadline_ns) {
			if (deadline_ns && shut_out(serve, tenant, region->id))
				break;
			ret = mci_fail(
				-EBUSY,
				"region %u is still in use by '%s' (process %d on this host: %u copies, %u "
				"views); wait for it, or end that process",
				region->id, s->name, (int)s->pid, copies, views);
			break;
		}
		pthread_mutex_unlock(&serve->lock);
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 1000000)
			pause.tv_nsec *= 2;
		pthread_mutex_lock(&serve->lock);
		tenant = &serve->tenants[region->id]; /* the array may have moved */
	}
	if (!ret) {
		leave_slot(serve, tenant, region->id);
	} else if (!deadline_ns && !tenant->given_up) {
		tenant->going = false;
		atomic_store(word, tenant->stamp);
	} else {
		tenant->given_up = true;
		atomic_store(word, 0);
	}
out_unlock:
	pthread_mutex_unlock(&serve->lock);
	return ret;
}

/* A region may have come to life again without us: the table of regions knows. */
struct mci_shm_tenant *mci_shm_tenant_find(struct mci_shm_serve *serve, const struct mci_shm_ask *ask)
{
	struct mci_region *region;
	struct mci_shm_tenant *tenant = NULL;

	if (ask->id >= MCI_SHM_SLOTS)
		return NULL;
	if (ask->id < serve->tenant_count)
		tenant = &serve->tenants[ask->id];
	if (!tenant || !tenant->there || tenant->generation != ask->generation) {
		if (tenant && tenant->there)
			return NULL;
		if (mci_region_get_remote(serve->transport->host->regions, ask->id, ask->generation, 0, 0, 0,
					  &region))
			return NULL;
		if (!add(serve, region) && ask->id < serve->tenant_count)
			tenant = &serve->tenants[ask->id];
		mci_region_put(region);
	}
	return tenant && tenant->there && !tenant->going ? tenant : NULL;
}
