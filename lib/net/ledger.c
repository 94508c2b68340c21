// SPDX-License-Identifier: MIT
/* Accounts of peers and of hosts, in one table; those that hold nothing have no entry. */
#include "net/ledger.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/bytes.h"
#include "core/errors.h"

#define BUCKETS 256u

struct account {
	struct account *next;
	struct mc_uuid id;
	bool host;
	uint64_t bytes;
};

struct mci_ledger {
	pthread_mutex_t lock;
	uint64_t total, per_peer, used;
	struct account *bucket[BUCKETS];
};

int mci_ledger_open(uint64_t total, uint64_t per_peer, struct mci_ledger **out)
{
	struct mci_ledger *ledger = calloc(1, sizeof(*ledger));

	if (!ledger)
		return mci_fail(-ENOMEM, "no memory for the accounts of what peers hold");
	pthread_mutex_init(&ledger->lock, NULL);
	ledger->total = total;
	ledger->per_peer = per_peer;
	*out = ledger;
	return 0;
}

void mci_ledger_close(struct mci_ledger *ledger)
{
	struct account *account;
	unsigned int i;

	if (!ledger)
		return;
	for (i = 0; i < BUCKETS; i++) {
		while ((account = ledger->bucket[i])) {
			ledger->bucket[i] = account->next;
			free(account);
		}
	}
	pthread_mutex_destroy(&ledger->lock);
	free(ledger);
}

/* The link that leads to an account, or to the place where it would be. */
static struct account **find(struct mci_ledger *ledger, const struct mc_uuid *id, bool host)
{
	/* Addresses differ at their end, random ids anywhere. */
	struct account **link = &ledger->bucket[(mci_get32(id->b + 12) ^ mci_get32(id->b)) % BUCKETS];

	while (*link && !((*link)->host == host && mci_uuid_equal(&(*link)->id, id)))
		link = &(*link)->next;
	return link;
}

static uint64_t held(struct mci_ledger *ledger, const struct mc_uuid *id, bool host)
{
	const struct account *account = *find(ledger, id, host);

	return account ? account->bytes : 0;
}

static int add(struct mci_ledger *ledger, const struct mc_uuid *id, bool host, uint64_t bytes)
{
	struct account **link = find(ledger, id, host), *account = *link;

	if (!account) {
		account = calloc(1, sizeof(*account));
		if (!account)
			return -ENOMEM;
		account->id = *id;
		account->host = host;
		*link = account;
	}
	account->bytes += bytes;
	return 0;
}

static void sub(struct mci_ledger *ledger, const struct mc_uuid *id, bool host, uint64_t bytes)
{
	struct account **link = find(ledger, id, host), *account = *link;

	account->bytes -= bytes;
	if (account->bytes)
		return;
	*link = account->next;
	free(account);
}

static bool over(uint64_t had, uint64_t bytes, uint64_t limit)
{
	return bytes > limit || had > limit - bytes;
}

int mci_ledger_take(struct mci_ledger *ledger, const struct mci_payer *payer, uint64_t bytes,
		    char why[MCI_SENTENCE_MAX + 1])
{
	int ret = -EBUSY;

	if (!ledger)
		return 0;
	pthread_mutex_lock(&ledger->lock);
	if (over(held(ledger, &payer->peer, false), bytes, ledger->per_peer)) {
		snprintf(why, MCI_SENTENCE_MAX + 1,
			 "the connections of this peer would hold more than the %llu KiB that one peer gets here "
			 "(engine.serve_bytes_per_peer); close some, or use fewer streams",
			 (unsigned long long)ledger->per_peer >> 10);
	} else if (over(held(ledger, &payer->host, true), bytes, ledger->total / 2)) {
		snprintf(why, MCI_SENTENCE_MAX + 1,
			 "the connections from this host would hold more than the %llu KiB that one host gets here "
			 "(half of engine.serve_bytes); close some, or use fewer streams",
			 (unsigned long long)ledger->total / 2 >> 10);
	} else if (over(ledger->used, bytes, ledger->total)) {
		snprintf(why, MCI_SENTENCE_MAX + 1,
			 "all connections together would hold more than the %llu KiB that they get here "
			 "(engine.serve_bytes); raise it, or use fewer streams",
			 (unsigned long long)ledger->total >> 10);
	} else {
		ret = add(ledger, &payer->peer, false, bytes);
		if (!ret) {
			ret = add(ledger, &payer->host, true, bytes);
			if (ret)
				sub(ledger, &payer->peer, false, bytes);
			else
				ledger->used += bytes;
		}
		if (ret)
			snprintf(why, MCI_SENTENCE_MAX + 1, "no memory for one more connection");
	}
	pthread_mutex_unlock(&ledger->lock);
	return ret;
}

void mci_ledger_give(struct mci_ledger *ledger, const struct mci_payer *payer, uint64_t bytes)
{
	if (!ledger || !bytes)
		return;
	pthread_mutex_lock(&ledger->lock);
	sub(ledger, &payer->peer, false, bytes);
	sub(ledger, &payer->host, true, bytes);
	ledger->used -= bytes;
	pthread_mutex_unlock(&ledger->lock);
}

uint64_t mci_ledger_used(struct mci_ledger *ledger)
{
	uint64_t used;

	pthread_mutex_lock(&ledger->lock);
	used = ledger->used;
	pthread_mutex_unlock(&ledger->lock);
	return used;
}

void mci_payer_of(int fd, const struct mc_uuid *peer, struct mci_payer *payer)
{
	struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
	socklen_t length = sizeof(address);

	payer->peer = *peer;
	memset(&payer->host, 0xff, sizeof(payer->host));
	if (getpeername(fd, (struct sockaddr *)&address, &length))
		return;
	if (address.ss_family == AF_INET6) {
		memcpy(payer->host.b, &v6->sin6_addr, 16);
	} else if (address.ss_family == AF_INET) {
		memset(payer->host.b, 0, 10);
		memcpy(payer->host.b + 12, &v4->sin_addr, 4);
	}
}
