// SPDX-License-Identifier: MIT
/* The table of libibverbs' functions, filled once. */
#include "transport/rdma/verbs.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/errors.h"

static struct mci_verbs table;
static char problem[256];

static void load(void)
{
	void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		snprintf(problem, sizeof(problem), "libibverbs.so.1 is not there (%s); install libibverbs1",
			 dlerror());
		return;
	}
#define MCI_VERB(name)                                                           \
	table.name = (__typeof__(table.name))dlsym(library, #name);              \
	if (!table.name && !problem[0])                                          \
		snprintf(problem, sizeof(problem),                               \
			 "libibverbs.so.1 has no %s(); install rdma-core 34 or " \
			 "later",                                                \
			 #name);
	MCI_VERBS(MCI_VERB)
#undef MCI_VERB
}

const struct mci_verbs *mci_verbs(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	if (!problem[0])
		return &table;
	mci_fail(-EOPNOTSUPP, "%s", problem);
	return NULL;
}

int mci_verbs_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
	struct verbs_context *verbs = verbs_get_ctx_op(context, query_port);

	memset(attr, 0, sizeof(*attr));
	if (!verbs)
		return -EOPNOTSUPP;
	return -verbs->query_port(context, port, attr, sizeof(*attr));
}
