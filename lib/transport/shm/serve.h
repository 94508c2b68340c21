/* SPDX-License-Identifier: MIT */
/* Target: what serve.c (connections) and fence.c (regions) share. serve->lock guards all of it. */
#ifndef MCI_SHM_SERVE_H
#define MCI_SHM_SERVE_H

#include "net/service.h"
#include "transport/shm/shm.h"

struct mci_shm_granted { /* a key that was made for a connection; the number is the module's */
	struct mci_shm_served *served;
	uint64_t number;
};

struct mci_shm_tenant { /* by region id, which is also the slot */
	bool there;
	bool going;    /* takes nobody new */
	bool given_up; /* somebody was inside past the deadline: never comes back */
	uint32_t generation, rights;
	uint64_t address, length, stamp, memfd_offset;
	int memfd;
	struct mci_shm_file file;
	struct mci_kdev *kdev; /* memory of the module, else NULL */
	uint32_t object;
	uint64_t object_offset, object_length;
	struct mci_shm_granted *granted;
	uint32_t granted_count, granted_room;
};

struct mci_shm_served { /* a connection */
	struct mci_shm_serve *serve;
	struct mci_shm_served *prev, *next;
	struct mci_loop *loop;
	struct mci_conn *conn; /* loop thread; NULL before and behind */
	struct mci_shm_use *use;
	uint8_t nonce[MCI_SHM_NONCE]; /* also in the use page, which the peer can write */
	uint8_t probe[MCI_SHM_NONCE]; /* read from outside at this very address */
	struct mci_payer payer;
	char name[MCI_NAME_MAX + 1];
	pid_t pid;
	int pidfd; /* -1 = none */
	bool proved, probed, same_user;
	bool attaches; /* keys for @context_id */
	struct mc_uuid context_id;
	bool closing;
	bool cut; /* it held on to a region for too long: to be closed */
	bool gone_posted;
	struct mci_task gone;
	unsigned int refs; /* serve->lock */
};

struct mci_shm_serve {
	struct mci_transport *transport;
	pthread_mutex_t lock;
	pthread_cond_t empty;
	struct mci_shm_table *table;
	int table_fd;
	struct mci_shm_tenant *tenants;
	uint32_t tenant_count;
	uint64_t stamps;
	struct mci_shm_served *first;
	unsigned int count;
	bool closing;
};

/* A sealed memfd and our mapping of it. */
int mci_shm_share(const char *name, size_t size, int seals, int *fd, void **mapped);
/* The region that a peer means, if it is alive; serve->lock held. */
struct mci_shm_tenant *mci_shm_tenant_find(struct mci_shm_serve *serve, const struct mci_shm_ask *ask);
/* grant.c: memory of the module; serve->lock held */
bool mci_shm_object_grantable(const struct mci_shm_tenant *tenant, const struct mci_shm_served *served);
/* A key for @served, in place of one that it may have had. */
int mci_shm_object_grant(struct mci_shm_tenant *tenant, struct mci_shm_served *served, uint8_t key[MCI_SHM_KEY]);
bool mci_shm_object_granted(const struct mci_shm_tenant *tenant, const struct mci_shm_served *served);
/* What was attached by a key of @served (NULL: of anybody) is no more when this returns. */
void mci_shm_object_revoke(struct mci_shm_tenant *tenant, const struct mci_shm_served *served);
/* Have all initiators look at the table; serve->lock held. */
void mci_shm_serve_tell_gone(struct mci_shm_serve *serve);

#endif
