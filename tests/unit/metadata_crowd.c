// SPDX-License-Identifier: MIT
/* The metadata server among clients that connect and say nothing. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/resource.h>

#include <mooncake/admin.h>

#include "metadata_server.h"

#if USE_HTTP
static int dial_from(uint32_t source, uint16_t port)
{
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = 10};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

#define SILENT 300 /* more than a server that may open FILES files serves */
#define FILES 256

static void test_one_host_does_not_keep_the_others_out(void **state)
{
	static const char question[] = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	struct mc_metadata_server_attr attr = MC_METADATA_SERVER_ATTR_INIT;
	mc_metadata_server *crowded;
	struct rlimit files, few;
	char answer[16] = "";
	int silent[SILENT], fd, i;
	uint16_t port;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	few = files;
	few.rlim_cur = FILES;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	i = mc_metadata_server_open(&attr, &crowded);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	assert_int_equal(i, 0);
	port = mc_metadata_server_port(crowded);
	for (i = 0; i < SILENT; i++)
		silent[i] = dial_from(INADDR_LOOPBACK, port);
	fd = dial_from(INADDR_LOOPBACK + 1, port);
	assert_int_equal(send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL), sizeof(question) - 1);
	assert_int_equal(recv(fd, answer, 12, MSG_WAITALL), 12);
	assert_string_equal(answer, "HTTP/1.1 200");
	close(fd);
	for (i = 0; i < SILENT; i++)
		close(silent[i]);
	assert_int_equal(mc_metadata_server_close(crowded), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_host_does_not_keep_the_others_out),
	};

	unsetenv("MOONCAKE_KEY_FILE");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
	puts("this build has no metadata server (USE_HTTP=0)");
	return 77;
}
#endif
