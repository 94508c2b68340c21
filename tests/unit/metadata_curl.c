// SPDX-License-Identifier: MIT
/* The HTTP helper, and the etcd client on it, against servers that are old, broken, slow or hostile. */
#include "config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <poll.h>

#include <mooncake/types.h>

#include "metadata_server.h"

#if USE_ETCD
#include "metadata/curl.h"
#include "metadata/etcd.h"
#include "metadata/metadata.h"

/* One request per connection; @answer writes what it likes to it. */
struct fake {
	int fd, stop_fd;
	uint16_t port;
	char url[64], uri[64], request[65536]; /* the last request */
	unsigned int count;
	void (*answer)(struct fake *fake, int fd);
	pthread_t thread;
};

static void say(int fd, const char *text)
{
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		return;
}

static void reply(int fd, const char *status, const char *body)
{
	char text[4096];

	snprintf(text, sizeof(text),
		 "HTTP/1.1 %s\r\nConnection: close\r\nETag:  \"v 7\" \r\nX-Empty:\r\nContent-Length: "
		 "%zu\r\n\r\n%s",
		 status, strlen(body), body);
	say(fd, text);
}

/* Head, and a body of the length it says. */
static void read_request(struct fake *fake, int fd)
{
	size_t used = 0;
	const char *head, *length;
	ssize_t n;

	while (used < sizeof(fake->request) - 1) {
		n = recv(fd, fake->request + used, sizeof(fake->request) - 1 - used, 0);
		if (n <= 0)
			return;
		used += (size_t)n;
		fake->request[used] = 0;
		head = strstr(fake->request, "\r\n\r\n");
		length = strcasestr(fake->request, "content-length:");
		if (head && used >= (size_t)(head + 4 - fake->request) +
					    (length ? strtoul(length + 15, NULL, 10) : 0))
			return;
	}
}

static void *serve(void *arg)
{
	struct fake *fake = arg;
	struct timeval patience = { .tv_sec = 5 };
	struct pollfd fds[2] = { { .fd = fake->fd, .events = POLLIN },
				 { .fd = fake->stop_fd, .events = POLLIN } };
	int fd;

	while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
		fd = accept4(fake->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		read_request(fake, fd);
		fake->count++;
		fake->answer(fake, fd);
		close(fd);
	}
	return NULL;
}

static struct fake *fake_start(void (*answer)(struct fake *fake, int fd))
{
	struct fake *fake = calloc(1, sizeof(*fake));

	fake->answer = answer;
	fake->fd = test_silent_listener(&fake->port);
	fake->stop_fd = eventfd(0, EFD_CLOEXEC);
	snprintf(fake->url, sizeof(fake->url), "http://127.0.0.1:%u/x", fake->port);
	snprintf(fake->uri, sizeof(fake->uri), "etcd://127.0.0.1:%u", fake->port);
	assert_int_equal(pthread_create(&fake->thread, NULL, serve, fake), 0);
	return fake;
}

static void fake_stop(struct fake *fake)
{
	eventfd_write(fake->stop_fd, 1);
	pthread_join(fake->thread, NULL);
	close(fake->fd);
	close(fake->stop_fd);
	free(fake);
}

static int request(struct fake *fake, const struct mci_curl_options *options, uint32_t timeout_ms,
		   struct mci_curl_reply *out)
{
	static const char *const headers[] = { "If-Match: \"1\"", "X-Two: 2", NULL };
	struct mci_curl_request ask = { .method = "PUT",
					.url = fake->url,
					.body = "{}",
					.body_length = 2,
					.authorization = options->user ? NULL : "Bearer abc",
					.headers = headers,
					.timeout_ms = timeout_ms };
	struct mci_curl *curl;
	int ret;

	assert_int_equal(mci_curl_open(options, &curl), 0);
	ret = mci_curl_request(curl, &ask, out);
	mci_curl_close(curl);
	return ret;
}

static void answer_conflict(struct fake *fake, int fd)
{
	(void)fake;
	say(fd, "HTTP/1.1 100 Continue\r\nETag: \"interim\"\r\n\r\n");
	reply(fd, "412 Precondition Failed", "no");
}

static void test_a_request_carries_its_headers_and_gets_those_of_the_answer(void **state)
{
	struct mci_curl_options options = { 0 };
	struct mci_curl_options basic = { .user = "u", .password = "p" };
	struct fake *fake = fake_start(answer_conflict);
	struct mci_curl_reply got = { 0 };
	char value[16];

	(void)state;
	assert_int_equal(request(fake, &options, 0, &got), 0);
	assert_int_equal(got.status, 412);
	assert_string_equal(got.body, "no");
	assert_int_equal(got.length, 2);
	assert_int_equal(mci_curl_header(&got, "etag", value, sizeof(value)), 0);
	assert_string_equal(value, "\"v 7\"");
	assert_int_equal(mci_curl_header(&got, "ETag", value, 5), -EMSGSIZE);
	assert_int_equal(mci_curl_header(&got, "X-Empty", value, sizeof(value)), 0);
	assert_string_equal(value, "");
	assert_int_equal(mci_curl_header(&got, "ETa", value, sizeof(value)), -ENOENT);
	mci_curl_reply_free(&got);
	assert_non_null(strstr(fake->request, "PUT /x HTTP/1.1\r\n"));
	assert_non_null(strstr(fake->request, "\r\nAuthorization: Bearer abc\r\n"));
	assert_non_null(strstr(fake->request, "\r\nIf-Match: \"1\"\r\n"));
	assert_non_null(strstr(fake->request, "\r\nX-Two: 2\r\n"));
	assert_non_null(strstr(fake->request, "\r\nContent-Type: application/json\r\n"));
	assert_null(strcasestr(fake->request, "Expect"));
	assert_int_equal(request(fake, &basic, 0, &got), 0);
	mci_curl_reply_free(&got);
	assert_non_null(strstr(fake->request, "\r\nAuthorization: Basic dTpw\r\n"));
	fake_stop(fake);
}

static void test_escaping_leaves_unreserved_characters_only(void **state)
{
	char *text = mci_curl_escape("mooncake/ram/10.0.0.1:12345 a-b_c~\xc3\xa4%");

	(void)state;
	assert_string_equal(text, "mooncake%2Fram%2F10.0.0.1%3A12345%20a-b_c~%C3%A4%25");
	free(text);
}

static void answer_for_ever(struct fake *fake, int fd)
{
	char block[65536];

	(void)fake;
	memset(block, '[', sizeof(block));
	say(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
	while (send(fd, block, sizeof(block), MSG_NOSIGNAL) > 0)
		;
}

static void answer_headers_for_ever(struct fake *fake, int fd)
{
	char block[1024];
	int i;

	(void)fake;
	memset(block, 'h', sizeof(block));
	memcpy(block, "X-A: ", 5);
	memcpy(block + sizeof(block) - 2, "\r\n", 2);
	say(fd, "HTTP/1.1 200 OK\r\n");
	for (i = 0; i < 1000 && send(fd, block, sizeof(block), MSG_NOSIGNAL) > 0; i++)
		;
}

static void answer_slowly(struct fake *fake, int fd)
{
	int i;

	(void)fake;
	say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
	for (i = 0; i < 30 && send(fd, " ", 1, MSG_NOSIGNAL) > 0; i++)
		test_sleep_ms(50);
}

static void answer_half(struct fake *fake, int fd)
{
	(void)fake;
	say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
}

static void answer_noise(struct fake *fake, int fd)
{
	(void)fake;
	say(fd, "SSH-2.0-OpenSSH_9.2p1\r\n");
}

static void answer_nothing(struct fake *fake, int fd)
{
	(void)fake;
	(void)fd;
}

static void test_broken_and_endless_answers_end_with_a_sentence(void **state)
{
	static const struct {
		void (*answer)(struct fake *fake, int fd);
		int ret;
	} cases[] = {
		{ answer_for_ever, -EMSGSIZE }, { answer_headers_for_ever, -EMSGSIZE },
		{ answer_slowly, -ETIMEDOUT },	{ answer_half, -EIO },
		{ answer_noise, -EIO },		{ answer_nothing, -EIO },
	};
	struct mci_curl_options options = { 0 };
	struct mci_curl_reply got = { 0 };
	struct fake *fake;
	uint64_t begin;
	char server[32];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fake = fake_start(cases[i].answer);
		begin = test_now_ms();
		assert_int_equal(request(fake, &options, cases[i].ret == -ETIMEDOUT ? 400 : 10000, &got),
				 cases[i].ret);
		assert_true(cases[i].ret != -ETIMEDOUT || test_now_ms() - begin < 1200);
		snprintf(server, sizeof(server), "http://127.0.0.1:%u", fake->port);
		assert_non_null(strstr(mc_errmsg(), server));
		assert_null(got.body);
		fake_stop(fake);
	}
}

static int open_uri(const char *text)
{
	struct mci_metadata_options options = { .timeout_ms = 2000 };
	struct mci_metadata *metadata;
	int ret = mci_metadata_open(text, &options, &metadata);

	if (!ret)
		mci_metadata_close(metadata);
	return ret;
}

static void answer_as_old_etcd(struct fake *fake, int fd)
{
	if (!strncmp(fake->request, "POST /v3alpha/kv/", 17))
		reply(fd, "200 OK",
		      "{\"header\":{\"revision\":\"9\"},\"kvs\":[{\"key\":\"aw==\",\"mod_revision\":\"5\","
		      "\"value\":\"dg==\"}],\"count\":\"1\"}");
	else
		reply(fd, "404 Not Found", "404 page not found\n");
}

static void test_the_path_of_older_etcds_is_found(void **state)
{
	struct fake *fake = fake_start(answer_as_old_etcd);
	struct mci_metadata_value value;
	struct mci_metadata *metadata;

	(void)state;
	assert_int_equal(mci_metadata_open(fake->uri, NULL, &metadata), 0);
	assert_int_equal(fake->count, 4); /* /v3, /v3beta and /v3alpha are tried, then the request itself */
	assert_int_equal(mci_metadata_fetch(metadata, "k", &value), 0);
	assert_int_equal(fake->count, 5);
	assert_string_equal(value.text, "v");
	assert_int_equal(value.version, 5);
	free(value.text);
	mci_metadata_close(metadata);
	fake_stop(fake);
}

static void answer_404(struct fake *fake, int fd)
{
	(void)fake;
	reply(fd, "404 Not Found", "<html>nothing here</html>");
}

static void answer_html(struct fake *fake, int fd)
{
	(void)fake;
	reply(fd, "200 OK", "<html>welcome</html>");
}

static void answer_500(struct fake *fake, int fd)
{
	(void)fake;
	reply(fd, "500 Internal Server Error", "\033[31moops");
}

static void answer_sick(struct fake *fake, int fd)
{
	(void)fake;
	reply(fd, "503 Service Unavailable", "{\"error\":\"etcdserver: no leader\\u001b[31m\",\"code\":14}");
}

static void test_what_is_not_etcd_is_told(void **state)
{
	struct mci_metadata_value value;
	struct mci_metadata *metadata;
	struct fake *fake;

	(void)state;
	fake = fake_start(answer_404);
	assert_int_equal(open_uri(fake->uri), -EPROTO);
	assert_non_null(strstr(mc_errmsg(), "no etcd v3 JSON gateway"));
	fake_stop(fake);
	fake = fake_start(answer_500);
	assert_int_equal(open_uri(fake->uri), -EIO);
	assert_non_null(strstr(mc_errmsg(), "500"));
	fake_stop(fake);
	fake = fake_start(answer_sick);
	assert_int_equal(open_uri(fake->uri), -EIO);
	assert_non_null(strstr(mc_errmsg(), "no leader"));
	assert_null(strchr(mc_errmsg(), '\033'));
	fake_stop(fake);
	fake = fake_start(answer_html);
	assert_int_equal(mci_metadata_open(fake->uri, NULL, &metadata), 0);
	assert_int_equal(mci_metadata_fetch(metadata, "k", &value), -EIO);
	assert_non_null(strstr(mc_errmsg(), "is it etcd?"));
	assert_int_equal(mci_metadata_store(metadata, "k", "v"), -EIO);
	assert_int_equal(mci_metadata_remove(metadata, "k"), -EIO);
	mci_metadata_close(metadata);
	fake_stop(fake);
}

static void answer_round_and_round(struct fake *fake, int fd)
{
	(void)fake;
	reply(fd, "200 OK",
	      "{\"header\":{\"revision\":\"9\"},\"kvs\":[{\"key\":\"aw==\",\"mod_revision\":\"5\"}],\"more\":"
	      "true}");
}

static int count_key(const char *key, const struct mci_metadata_value *value, void *arg)
{
	(void)key;
	(void)value;
	++*(unsigned int *)arg;
	return 0;
}

static void test_a_listing_that_never_ends_is_left(void **state)
{
	struct fake *fake = fake_start(answer_round_and_round);
	struct mci_metadata *metadata;
	unsigned int count = 0;

	(void)state;
	assert_int_equal(mci_metadata_open(fake->uri, NULL, &metadata), 0);
	assert_int_equal(mci_metadata_list(metadata, "k", count_key, &count), -EIO);
	assert_true(count <= 2);
	mci_metadata_close(metadata);
	fake_stop(fake);
}

struct lines {
	unsigned int lines, too_long;
};

static int count_line(void *arg, const char *line, size_t length)
{
	struct lines *lines = arg;

	if (!line)
		lines->too_long++;
	else if (length == strlen(line))
		lines->lines++;
	return 0;
}

static void answer_lines(struct fake *fake, int fd)
{
	char block[65536];
	int i;

	(void)fake;
	say(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"a\":");
	test_sleep_ms(100);
	say(fd, "1}\n\n{}\n");
	memset(block, 'x', sizeof(block));
	for (i = 0; i < 80 && send(fd, block, sizeof(block), MSG_NOSIGNAL) > 0; i++)
		;
	say(fd, "\n{}\n{cut off");
}

static void answer_silence(struct fake *fake, int fd)
{
	char byte;

	(void)fake;
	say(fd, "HTTP/1.1 200 OK\r\n\r\n");
	if (recv(fd, &byte, 1, 0) < 0)
		return;
}

static void *cancel_soon(void *arg)
{
	test_sleep_ms(300);
	eventfd_write(*(int *)arg, 1);
	return NULL;
}

static void test_a_stream_is_cut_into_lines_and_ends_when_cancelled(void **state)
{
	struct mci_metadata_options options = { .timeout_ms = 2000 };
	struct fake *fake = fake_start(answer_lines);
	struct mci_etcd_gateway *gateway;
	struct lines lines = { 0 };
	int cancel_fd = eventfd(0, EFD_CLOEXEC);
	uint64_t begin;
	pthread_t thread;

	(void)state;
	assert_int_equal(mci_etcd_gateway_open(fake->uri, &options, &gateway), 0);
	assert_int_equal(mci_etcd_stream(gateway, "watch", strdup("{}"), cancel_fd, count_line, &lines), 0);
	assert_int_equal(lines.lines, 3);
	assert_int_equal(lines.too_long, 1);
	mci_etcd_gateway_close(gateway);
	fake_stop(fake);

	fake = fake_start(answer_silence);
	assert_int_equal(mci_etcd_gateway_open(fake->uri, &options, &gateway), 0);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel_fd), 0);
	begin = test_now_ms();
	assert_int_equal(mci_etcd_stream(gateway, "watch", strdup("{}"), cancel_fd, count_line, &lines),
			 -ECANCELED);
	assert_in_range(test_now_ms() - begin, 250, 900);
	pthread_join(thread, NULL);
	mci_etcd_gateway_close(gateway);
	fake_stop(fake);
	close(cancel_fd);
}

static int ignore_data(void *arg, const char *data, size_t length)
{
	(void)arg;
	(void)data;
	(void)length;
	return 0;
}

static void test_a_stream_has_a_life_and_a_time_to_begin(void **state)
{
	struct mci_curl_options options = { 0 };
	struct mci_curl_request ask = { .method = "GET", .timeout_ms = 2000, .life_ms = 400 };
	struct fake *fake = fake_start(answer_silence);
	int cancel_fd = eventfd(0, EFD_CLOEXEC);
	struct mci_curl *curl;
	long status = 0;
	uint64_t begin;
	char url[64];
	uint16_t silent;
	int fd;

	(void)state;
	assert_int_equal(mci_curl_open(&options, &curl), 0);
	ask.url = fake->url;
	begin = test_now_ms();
	assert_int_equal(mci_curl_stream(curl, &ask, cancel_fd, ignore_data, NULL, &status), 0);
	assert_in_range(test_now_ms() - begin, 350, 1500);
	assert_int_equal(status, 200);
	fake_stop(fake);

	fd = test_silent_listener(&silent);
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/", silent);
	ask.url = url;
	ask.timeout_ms = 500;
	ask.life_ms = 0;
	begin = test_now_ms();
	assert_int_equal(mci_curl_stream(curl, &ask, cancel_fd, ignore_data, NULL, &status), -ETIMEDOUT);
	assert_in_range(test_now_ms() - begin, 400, 1500);
	close(fd);
	mci_curl_close(curl);
	close(cancel_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_request_carries_its_headers_and_gets_those_of_the_answer),
		cmocka_unit_test(test_escaping_leaves_unreserved_characters_only),
		cmocka_unit_test(test_broken_and_endless_answers_end_with_a_sentence),
		cmocka_unit_test(test_the_path_of_older_etcds_is_found),
		cmocka_unit_test(test_what_is_not_etcd_is_told),
		cmocka_unit_test(test_a_listing_that_never_ends_is_left),
		cmocka_unit_test(test_a_stream_is_cut_into_lines_and_ends_when_cancelled),
		cmocka_unit_test(test_a_stream_has_a_life_and_a_time_to_begin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
	puts("skipped: built with USE_ETCD=0");
	return 77;
}
#endif
