// SPDX-License-Identifier: MIT
/* Shared memory transport: other users, peers that keep to no rule, peers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net/connect.h"
#include "shm_initiator.h"

static struct fake *me;
static const struct timespec moment = {.tv_nsec = 1000000};

/* Another user of this host: no access to our memory but what is handed out, and that in full only. */
static void test_another_user_gets_whole_regions_only_and_read_only_means_it(void **state)
{
	struct mci_region *regions[5];
	struct child child;
	char line[200];
	int fd;

	(void)state;
	if (geteuid())
		skip();
	regions[0] = fake_region(me, "shared", MIB, RW);
	regions[1] = fake_region(me, "heap", MIB, RW);
	regions[2] = fake_region(me, "part", MIB, RW);
	regions[3] = fake_region(me, "shared", MIB, MC_REMOTE_READ);
	regions[4] = fake_region(me, "shared", MIB, MC_REMOTE_WRITE);
	setenv("TARGET_UID", "65534", 1);
	child = initiator_start(me, regions, 5);
	unsetenv("TARGET_UID");
	for (int i = 0; i < 5; i++) {
		child_line(&child, line, sizeof(line));
		/* a key can be made out for whole pages of something larger, too */
		assert_int_equal(atoi(line), i == 0 || i == 3 || (i == 2 && by_module()) ? 0 : -EOPNOTSUPP);
		if (by_module() && !atoi(line))
			assert_non_null(strstr(line, "attached by key"));
	}
	child_line(&child, line, sizeof(line));
	assert_string_equal(line, "1 0");
	child_end(&child);
	if (by_module())
		goto out;
	/* What was granted for reading cannot be made writable, not even by us. */
	fd = mci_shm_file_open(regions[3]->memfd, MC_REMOTE_READ);
	assert_true(fd >= 0);
	assert_ptr_equal(mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	close(fd);
	fd = mci_shm_file_open(regions[3]->memfd, RW);
	assert_true(fd >= 0);
	assert_ptr_equal(mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	close(fd);
	regions[3]->addr[5] = 1; /* its owner still writes */
out:
	for (int i = 0; i < 5; i++) {
		assert_int_equal(fake_unregister(me, regions[i], mci_now_ns() + 5 * MCI_NS_PER_S), 0);
		fake_region_free(regions[i]);
	}
}

static struct target *owner;

static void take_it_away(void *arg)
{
	(void)arg;
	me->transport->hooks.inside = NULL;
	if (target_say(owner, "remove 0 1000"))
		abort();
}

/* An owner of another user may revoke at any time: that must end requests, not us. */
static void test_an_owner_who_is_not_trusted_cannot_kill_who_copies(void **state)
{
	static const char *const specs[] = {"shared:16777216:3"};
	uint8_t *mine = malloc(16 * MIB);
	struct mci_peer *peer = NULL;
	const void *addr;
	struct job job;
	char text[128];
	void *view;
	int ret;

	(void)state;
	if (geteuid())
		skip();
	setenv("TARGET_UID", "65534", 1);
	owner = target_start(1, specs);
	unsetenv("TARGET_UID");
	assert_int_equal(try_peer(me, &owner->remote, &peer), 0);
	fill(mine, 0, 16 * MIB, 4);
	assert_int_equal(transfer(peer, MCI_OP_WRITE, owner->remote.regions, 0, mine, 16 * MIB).state, MC_DONE);
	assert_int_equal(target_say(owner, "filled 0 4 0 %llu", 16 * MIB), 1);
	memset(mine, 0, 16 * MIB);
	assert_int_equal(transfer(peer, MCI_OP_READ, owner->remote.regions, 77, mine, 5 * MIB).state, MC_DONE);
	assert_true(filled(mine, 77, 5 * MIB, 4));
	mci_transport_shm.detail(peer, owner->remote.regions, text, sizeof(text));
	ret = mci_transport_shm.map(peer, owner->remote.regions, 0, 4096, &addr, &view);
	if (by_module()) {
		assert_string_equal(text, "module, attached by key, copied by the kernel");
		assert_int_equal(ret, -EOPNOTSUPP);
		assert_non_null(strstr(mc_errmsg(), "another user"));
		/* It does not wait for us, and we do not look: the copy itself finds the memory gone. */
		target_say(owner, "nofence");
		me->transport->hooks.no_liveness = true;
		me->transport->hooks.inside = take_it_away;
		job = transfer(peer, MCI_OP_WRITE, owner->remote.regions, 0, mine, 4096);
		me->transport->hooks.no_liveness = false;
		assert_int_equal(job.state, MC_FAILED);
		assert_int_equal(job.error, -EFAULT);
		assert_int_equal(target_say(owner, "changed 0"), 0);
	} else {
		assert_int_equal(ret, 0); /* a sealed file cannot be taken away */
		mci_transport_shm.unmap(view);
	}
	mci_transport_shm.peer_close(peer);
	target_end(owner);
	free(mine);
}

/* One that maps what it was granted and then keeps to no rule at all: it writes, and writes. */
static int liar_main(char **argv)
{
	struct mci_remote_region region = {.id = (uint32_t)atoi(argv[2]),
					   .generation = (uint32_t)atoi(argv[3]),
					   .rights = RW,
					   .length = MIB};
	struct remote remote = {.regions = &region, .count = 1};
	struct mci_peer *peer;
	struct fake *fake;
	static uint8_t bytes[64];
	volatile uint32_t *memory;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fake = fake_open("liar");
	mci_uuid_parse(argv[0], &remote.info.uuid);
	remote.info.name = "parent";
	remote.info.generation = 1;
	remote.info.secret = fake->host.secret;
	remote.info.transport = json_loads(argv[1], 0, NULL);
	if (try_peer(fake, &remote, &peer) ||
	    transfer(peer, MCI_OP_WRITE, &region, 0, bytes, sizeof(bytes)).state != MC_DONE)
		return 1;
	pthread_mutex_lock(&peer->lock);
	peer->link->maps[0].users++; /* it does not let go when it is told to */
	memory = (volatile uint32_t *)(void *)peer->link->maps[0].base;
	pthread_mutex_unlock(&peer->lock);
	printf("1 0\n");
	fflush(stdout);
	for (uint32_t i = 0;; i++)
		memory[i % (MIB / 4)] = i;
}

/* Where the module keeps it, the promise of unregister does not hang on the goodwill of others. */
static void test_a_peer_that_keeps_to_no_rule_is_out_only_with_the_module(void **state)
{
	struct mci_region *region = fake_region(me, "shared", MIB, RW);
	char uuid[MCI_UUID_TEXT], id[16], generation[16], line[64], *json;
	struct child child = {0, -1};
	struct remote remote;
	uint8_t *before;
	int out[2], status;

	(void)state;
	remote_of(me, &region, 1, &remote);
	mci_uuid_text(&me->self.uuid, uuid);
	json = json_dumps(remote.info.transport, JSON_COMPACT);
	snprintf(id, sizeof(id), "%u", region->id);
	snprintf(generation, sizeof(generation), "%u", region->generation);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	child.pid = fork();
	if (!child.pid) {
		char *argv[] = {(char *)"self", (char *)"liar", uuid, json, id, generation, NULL};

		dup2(out[1], 1);
		execv("/proc/self/exe", argv);
		_exit(127);
	}
	close(out[1]);
	child.out = out[0];
	child_line(&child, line, sizeof(line));
	assert_string_equal(line, "1 0");
	assert_int_equal(fake_unregister(me, region, mci_now_ns() + 5 * MCI_NS_PER_S), 0);
	before = malloc(MIB);
	memcpy(before, region->addr, MIB);
	if (by_module()) {
		assert_int_equal(waitpid(child.pid, &status, 0), child.pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
		assert_memory_equal(before, region->addr, MIB);
	} else { /* a memfd cannot be taken back: it writes on */
		while (!memcmp(before, region->addr, MIB))
			nanosleep(&moment, NULL);
		kill(child.pid, SIGKILL);
		waitpid(child.pid, NULL, 0);
	}
	free(before);
	free(json);
	close(child.out);
	remote_free(&remote);
	fake_region_free(region);
}

/* ---- liars ---- */

/* A connection that speaks for itself; returns what the first answer to @type was, or -errno. */
static int speak(uint16_t first, const void *body, uint32_t length)
{
	char name[64];
	uint8_t params[4] = {MCI_SHM_VERSION};
	struct mci_hello *hello = malloc(sizeof(*hello));
	struct mci_sock sock;
	uint64_t deadline = mci_now_ns() + 3 * MCI_NS_PER_S;
	uint16_t type = 0;
	int ret, fd;

	mci_shm_socket_name(&me->self.uuid, name);
	ret = mci_connect(&(struct mci_connect_attr){.unix_name = name,
						     .self = &me->self,
						     .secret = &me->host.secret,
						     .service = MCI_SERVICE_ENGINE,
						     .role = MCI_ROLE_SHM,
						     .params = params,
						     .params_length = 4,
						     .deadline_ns = deadline},
			  &sock, hello);
	free(hello);
	assert_int_equal(ret, 0);
	ret = mci_frame_send(&sock, first, 0, body, length, deadline);
	while (!ret) {
		uint32_t id, n;
		void *reply;

		ret = mci_frame_recv(&sock, MCI_SHM_FRAME_LIMIT, &type, &id, &reply, &n, &fd, deadline);
		if (ret)
			break;
		free(reply);
		if (fd >= 0)
			close(fd);
		if (type != MCI_SHM_TABLE && type != MCI_SHM_USE)
			break;
	}
	mci_sock_close(&sock);
	return ret ? ret : type;
}

static void test_who_does_not_see_the_nonce_gets_nothing(void **state)
{
	struct mci_shm_prove_frame prove = {.probed = true};
	uint8_t body[200];

	(void)state;
	assert_true(speak(MCI_SHM_PROVE, body, mci_shm_prove_encode(&prove, body)) < 0);
	mci_shm_ask_encode(&(struct mci_shm_ask){0, 1}, 0, body);
	assert_true(speak(MCI_SHM_ASK, body, mci_shm_list_encode(1, 0, body) + MCI_SHM_ASK_SIZE) < 0);
	assert_true(speak(77, "x", 1) < 0);
}

static int setup(void **state)
{
	(void)state;
	me = fake_open("owner");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_close(me);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_another_user_gets_whole_regions_only_and_read_only_means_it),
		cmocka_unit_test(test_an_owner_who_is_not_trusted_cannot_kill_who_copies),
		cmocka_unit_test(test_a_peer_that_keeps_to_no_rule_is_out_only_with_the_module),
		cmocka_unit_test(test_who_does_not_see_the_nonce_gets_nothing),
	};

	if (argc > 1 && !strcmp(argv[1], "target"))
		return target_main(argc - 2, argv + 2);
	if (argc > 5 && !strcmp(argv[1], "liar"))
		return liar_main(argv + 2);
	if (argc > 1 && !strcmp(argv[1], "initiator"))
		return initiator_main(argc - 2, argv + 2);
	return run_over_both(tests, setup, teardown);
}
