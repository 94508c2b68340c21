// SPDX-License-Identifier: MIT
/* Cluster key files, and what is derived from keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "core/uuid.h"
#include "net/hello.h"

static struct mci_secret secret(enum mci_auth_mode mode, uint8_t fill)
{
	struct mci_secret s = {.mode = mode, .key_length = 32};

	memset(s.key, fill, s.key_length);
	return s;
}

static void assert_says(const char *words)
{
	if (!strstr(mc_errmsg(), words))
		fail_msg("the sentence \"%s\" does not say \"%s\"", mc_errmsg(), words);
}

static void write_key(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void test_key_files_are_checked(void **state)
{
	static const char hex[] = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n";
	struct mci_secret s = {.mode = MCI_AUTH_NONE};
	char path[] = "/tmp/mooncake-test-key-XXXXXX", longer[300];
	int fd = mkstemp(path);

	(void)state;
	close(fd);
	write_key(path, hex, 0600);
	assert_int_equal(mci_key_load(path, &s), 0);
	assert_int_equal(s.mode, MCI_AUTH_CLUSTER);
	assert_int_equal(s.key_length, 32);
	assert_int_equal(s.key[1], 0x11);
	assert_int_equal(s.key[31], 0xff);

	s.mode = MCI_AUTH_NONE;
	write_key(path, hex, 0640);
	assert_int_equal(mci_key_load(path, &s), -EPERM);
	assert_says("chmod 600");
	write_key(path, hex, 0604);
	assert_int_equal(mci_key_load(path, &s), -EPERM);
	write_key(path, "00112233\n", 0600);
	assert_int_equal(mci_key_load(path, &s), -EINVAL);
	assert_says("64 to 128 hex digits");
	write_key(path, "", 0600);
	assert_int_equal(mci_key_load(path, &s), -EINVAL);
	memset(longer, 'a', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	write_key(path, longer, 0600);
	assert_int_equal(mci_key_load(path, &s), -EINVAL);
	longer[128] = '\0';
	write_key(path, longer, 0600);
	assert_int_equal(mci_key_load(path, &s), 0);
	assert_int_equal(s.key_length, 64);
	longer[64] = 'g';
	s.mode = MCI_AUTH_NONE;
	write_key(path, longer, 0600);
	assert_int_equal(mci_key_load(path, &s), -EINVAL);
	unlink(path);
	assert_int_equal(mci_key_load(path, &s), -ENOENT);
	assert_int_equal(mci_key_load("/dev", &s), -EINVAL);
	assert_int_equal(s.mode, MCI_AUTH_NONE); /* set on success only */
}

static void test_keys_of_different_purposes_differ(void **state)
{
	struct mci_secret a = secret(MCI_AUTH_CLUSTER, 1), b = secret(MCI_AUTH_CLUSTER, 2);
	char metrics[65], admin[65], other[65], id_a[17], id_b[17];
	uint8_t mac[32], again[32];

	(void)state;
	mci_key_bearer(&a, "metrics", metrics);
	mci_key_bearer(&a, "admin", admin);
	mci_key_bearer(&b, "metrics", other);
	assert_int_equal(strlen(metrics), 64);
	assert_string_not_equal(metrics, admin);
	assert_string_not_equal(metrics, other);
	mci_key_id(&a, id_a);
	mci_key_id(&b, id_b);
	assert_int_equal(strlen(id_a), 16);
	assert_string_not_equal(id_a, id_b);
	mci_key_mac(&a, "descriptor", "text", 4, mac);
	mci_key_mac(&a, "descriptor", "text", 4, again);
	assert_memory_equal(mac, again, 32);
	mci_key_mac(&a, "descriptort", "ext", 3, again);
	assert_memory_not_equal(mac, again, 32);
}

/* RFC 5869 knows HKDF; this pins our use of it: a change here locks out every peer of before. */
static void test_the_proofs_of_version_1_stay_what_they_are(void **state)
{
	struct mci_secret s = secret(MCI_AUTH_CLUSTER, 0x42);
	struct mci_identity server = {.name = "s", .generation = 5};
	struct mci_transcript t = {
		.hello = "hello", .hello_length = 5, .challenge = "challenge", .challenge_length = 9};
	uint8_t key[32], mac[MCI_MAC];
	char text[65];

	(void)state;
	memset(server.uuid.b, 0x11, sizeof(server.uuid.b));
	mci_handshake_key(&s, MCI_AUTH_CLUSTER, &server, key);
	mci_hex(key, 32, text);
	assert_string_equal(text, "a77a2970efdd87840c7b0c7d32d20e7753d9580a221df9fac319789552e54d6e");
	mci_client_proof(key, &t, mac);
	mci_hex(mac, 32, text);
	assert_string_equal(text, "3dc12316e2a4bf1215e1ef96949089149cf2c4ed403f5eb9a48f2e71fffc86b5");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_files_are_checked),
		cmocka_unit_test(test_keys_of_different_purposes_differ),
		cmocka_unit_test(test_the_proofs_of_version_1_stay_what_they_are),
	};

	return cmocka_run_group_tests_name("net_key", tests, NULL, NULL);
}
