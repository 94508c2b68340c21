/* SPDX-License-Identifier: MIT */
/*
 * For tests that break things under the rdma transport: two real engines on a real device, the transport
 * behind an engine, and a tap into the table of verbs, which knows the queue pairs and registrations that
 * live and can spoil them.
 */
#ifndef TESTS_UNIT_RDMA_ENV_H
#define TESTS_UNIT_RDMA_ENV_H

#include "api/pair.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "transport/rdma/initiator.h"

#define TAP_QPS 8192

static struct {
	bool installed;
	struct mci_verbs real;
	pthread_mutex_t lock;
	struct tap_qp {
		struct ibv_qp *qp;
		bool responder;
	} qp[TAP_QPS];
	unsigned int qps, regions;
	unsigned int spoiled; /* queue pairs that were taken to error */
	int region_budget;    /* registrations until one fails with ENOMEM; < 0 = no end */
	int release_budget;   /* registrations that are let go until no more are: EBUSY; < 0 = no end */
	bool no_qp;	      /* none is given any more: ENOMEM */
} tap = {.lock = PTHREAD_MUTEX_INITIALIZER, .region_budget = -1, .release_budget = -1};

static inline struct ibv_qp *tap_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct ibv_qp *qp = NULL;

	errno = ENOMEM;
	pthread_mutex_lock(&tap.lock);
	if (!tap.no_qp)
		qp = tap.real.ibv_create_qp(pd, init);
	if (qp && tap.qps < TAP_QPS)
		tap.qp[tap.qps++] =
			(struct tap_qp){qp, init->cap.max_recv_wr == 1 && init->cap.max_send_wr < 16};
	pthread_mutex_unlock(&tap.lock);
	return qp;
}

static inline int tap_destroy_qp(struct ibv_qp *qp)
{
	unsigned int i;
	int ret;

	pthread_mutex_lock(&tap.lock);
	for (i = 0; i < tap.qps && tap.qp[i].qp != qp; i++)
		;
	if (i < tap.qps)
		tap.qp[i] = tap.qp[--tap.qps];
	ret = tap.real.ibv_destroy_qp(qp);
	pthread_mutex_unlock(&tap.lock);
	return ret;
}

static inline struct ibv_mr *tap_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
					     int access)
{
	struct ibv_mr *mr = NULL;

	pthread_mutex_lock(&tap.lock);
	errno = ENOMEM;
	if (tap.region_budget) {
		tap.region_budget -= tap.region_budget > 0;
		mr = (tap.real.ibv_reg_mr_iova)(pd, addr, length, iova, (unsigned int)access);
	}
	tap.regions += mr ? 1 : 0;
	pthread_mutex_unlock(&tap.lock);
	return mr;
}

static inline int tap_dereg_mr(struct ibv_mr *mr)
{
	int ret = EBUSY;

	pthread_mutex_lock(&tap.lock);
	if (tap.release_budget) {
		tap.release_budget -= tap.release_budget > 0;
		ret = tap.real.ibv_dereg_mr(mr);
	}
	tap.regions -= ret ? 0 : 1;
	pthread_mutex_unlock(&tap.lock);
	return ret;
}

static inline struct mci_rdma *rdma_of(mc_engine *engine)
{
	return (struct mci_rdma *)engine->transport[MCI_TRANSPORT_RDMA];
}

/* Before the first engine: the table is not changed once threads read it. */
static inline void tap_install(void)
{
	struct mci_verbs *verbs = (struct mci_verbs *)(uintptr_t)mci_verbs();

	if (tap.installed)
		return;
	assert_non_null(verbs);
	tap.installed = true;
	tap.real = *verbs;
	verbs->ibv_create_qp = tap_create_qp;
	verbs->ibv_destroy_qp = tap_destroy_qp;
	verbs->ibv_reg_mr_iova = (__typeof__(verbs->ibv_reg_mr_iova))tap_reg_mr_iova;
	verbs->ibv_dereg_mr = tap_dereg_mr;
}

/* Takes a living queue pair to error, as a NIC does that gives up on it. */
static inline bool tap_spoil(bool responder, unsigned int pick)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	unsigned int i, n = 0;
	bool did = false;

	pthread_mutex_lock(&tap.lock);
	for (i = 0; i < tap.qps; i++)
		n += tap.qp[i].responder == responder;
	if (n)
		pick %= n;
	for (i = 0; n && i < tap.qps; i++) {
		if (tap.qp[i].responder != responder || pick--)
			continue;
		did = !tap.real.ibv_modify_qp(tap.qp[i].qp, &attr, IBV_QP_STATE);
		tap.spoiled += did;
		break;
	}
	pthread_mutex_unlock(&tap.lock);
	return did;
}

/* All of one side, and of one NIC if @nic says which. */
static inline void tap_spoil_all(bool responder, const char *nic)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	unsigned int i;

	pthread_mutex_lock(&tap.lock);
	for (i = 0; i < tap.qps; i++)
		if (tap.qp[i].responder == responder &&
		    (!nic || !strcmp(tap.qp[i].qp->context->device->name, nic)))
			tap.spoiled += !tap.real.ibv_modify_qp(tap.qp[i].qp, &attr, IBV_QP_STATE);
	pthread_mutex_unlock(&tap.lock);
}

static inline unsigned int tap_living(void)
{
	unsigned int n;

	pthread_mutex_lock(&tap.lock);
	n = tap.qps;
	pthread_mutex_unlock(&tap.lock);
	return n;
}

static inline int pair_up(void **state)
{
	static struct pair fresh = {.transport = "rdma",
				    .memory = "malloc",
				    .initiator_nics = "rxe0",
				    .target_nics = "rxe1"},
			   pair;

	pair = fresh;
	*state = &pair;
	tap_install();
	pair_setup(&pair);
	return 0;
}

static inline int pair_down(void **state)
{
	pair_teardown(*state);
	return 0;
}

#define pair_test(f)                            \
	{                                       \
#f, f, pair_up, pair_down, NULL \
	}

/* A program's tests, or one of them; says so where there is no device. */
#define run_on_a_device(tests, argc, argv)                                                          \
	({                                                                                          \
		int ret_ = 77;                                                                      \
		if (!pair_has_nic(argv)) {                                                          \
			printf("no RDMA device here; runs in a guest (tests/vm/rdma_faults.sh)\n"); \
		} else {                                                                            \
			only_tests((argc) > 1 ? (argv)[1] : NULL, tests);                           \
			ret_ = cmocka_run_group_tests(tests, NULL, NULL);                           \
		}                                                                                   \
		ret_;                                                                               \
	})

static inline void fill(uint8_t *p, size_t n, uint64_t seed)
{
	size_t i;

	for (i = 0; i + 8 <= n; i += 8) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(p + i, &seed, 8);
	}
}

static inline void pause_ms(unsigned int ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

	nanosleep(&t, NULL);
}

/* How often, or how long, a test goes on: a number from the environment, where a script asks for more or
 * less. */
static inline unsigned int effort(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text && atoi(text) > 0 ? (unsigned int)atoi(text) : otherwise;
}

#endif
