// SPDX-License-Identifier: MIT
/* Framed connections: frames, descriptors beside them, bounds, and orderly ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "core/bytes.h"
#include "net/frame.h"
#include "unit/net_peer.h"

#define LIMIT 100000

struct end {
	struct mci_loop *loop;
	struct mci_conn *conn;
	struct mci_sock sock;
	uint32_t limit;
	atomic_int frames, closed, error, fds;
	uint16_t type;
	uint32_t id, length;
	uint8_t body[64];
	uint64_t sum;
	bool echo, close_on_frame;
	int start_ret;
};

static void on_frame(struct mci_conn *conn, const struct mci_frame *frame, void *arg)
{
	struct end *end = arg;
	uint32_t i;

	end->type = frame->type;
	end->id = frame->id;
	end->length = frame->length;
	for (i = 0; i < frame->length; i++)
		end->sum += ((const uint8_t *)frame->body)[i];
	memcpy(end->body, frame->body, frame->length < sizeof(end->body) ? frame->length : sizeof(end->body));
	if (end->echo)
		mci_conn_send(conn, (uint16_t)(frame->type + 1), frame->id, frame->body, frame->length,
			      frame->fd);
	if (frame->fd >= 0) {
		close(frame->fd);
		atomic_fetch_add(&end->fds, 1);
	}
	if (end->close_on_frame)
		mci_conn_close(conn);
	atomic_fetch_add(&end->frames, 1);
}

static void on_closed(struct mci_conn *conn, int err, void *arg)
{
	struct end *end = arg;

	(void)conn;
	atomic_store(&end->error, err);
	atomic_fetch_add(&end->closed, 1);
}

static const struct mci_conn_ops ops = {on_frame, on_closed};

static void start(void *arg)
{
	struct end *end = arg;

	end->start_ret = mci_conn_start(end->loop, end->sock, end->limit, &ops, end, &end->conn);
}

/* A connection of ours on one end, a bare socket on the other. */
static struct mci_sock begin(struct end *end)
{
	int fds[2];

	assert_int_equal(mci_loop_start("test", &end->loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	end->sock = (struct mci_sock){.fd = fds[0]};
	if (!end->limit)
		end->limit = LIMIT;
	mci_loop_call(end->loop, start, end);
	assert_int_equal(end->start_ret, 0);
	return (struct mci_sock){.fd = fds[1]};
}

static void do_close(void *arg) { mci_conn_close(((struct end *)arg)->conn); }

static void finish(struct end *end, struct mci_sock *other)
{
	if (!atomic_load(&end->closed))
		mci_loop_call(end->loop, do_close, end);
	assert_true(wait_for_value(&end->closed, 1));
	mci_sock_close(other);
	mci_loop_stop(end->loop);
	assert_int_equal(atomic_load(&end->closed), 1);
}

static void test_a_frame_goes_out_and_comes_back(void **state)
{
	struct end end = {.echo = true};
	struct mci_sock other = begin(&end);
	uint32_t id, length;
	uint16_t type;
	void *body;
	int fd;

	(void)state;
	assert_int_equal(mci_frame_send(&other, 41, 7, "hello", 5, soon(1000)), 0);
	assert_int_equal(mci_frame_recv(&other, LIMIT, &type, &id, &body, &length, &fd, soon(3000)), 0);
	assert_int_equal(type, 42);
	assert_int_equal(id, 7);
	assert_int_equal(length, 5);
	assert_int_equal(fd, -1);
	assert_string_equal(body, "hello");
	free(body);
	assert_int_equal(mci_frame_send(&other, 1, 8, NULL, 0, soon(1000)), 0);
	assert_int_equal(mci_frame_recv(&other, LIMIT, &type, &id, &body, &length, NULL, soon(3000)), 0);
	assert_int_equal(length, 0);
	free(body);
	finish(&end, &other);
	assert_int_equal(atomic_load(&end.error), 0);
}

static void test_the_layout_of_a_frame_is_fixed(void **state)
{
	static const uint8_t expected[] = "\x0a\0\0\0\x34\x12\0\0\xef\xcd\xab\x89hi";
	uint8_t head[MCI_FRAME_HEAD];

	(void)state;
	mci_frame_head(head, 0x1234, 0, 0x89abcdef, 2);
	assert_memory_equal(head, expected, sizeof(head));
}

static void test_many_frames_of_all_sizes_arrive_in_order(void **state)
{
	struct end end = {.limit = 300000};
	struct mci_sock other = begin(&end);
	uint8_t *body = malloc(300000);
	uint64_t sum = 0;
	int i, k, n = 0;

	(void)state;
	for (i = 0; i < 200; i++) {
		uint32_t length = (uint32_t)(i * i * 7 % 200000);

		for (k = 0; k < (int)length; k++) {
			body[k] = (uint8_t)(k + i);
			sum += body[k];
		}
		assert_int_equal(mci_frame_send(&other, 1, (uint32_t)n++, body, length, soon(5000)), 0);
	}
	assert_true(wait_for_value(&end.frames, n));
	assert_int_equal(end.sum, sum);
	assert_int_equal(end.id, n - 1);
	free(body);
	finish(&end, &other);
}

static void test_a_frame_may_come_byte_after_byte(void **state)
{
	static const uint8_t bytes[] = "\x0a\0\0\0\x05\0\0\0\x09\0\0\0hi";
	struct end end = {0};
	struct mci_sock other = begin(&end);
	struct timespec pause = {.tv_nsec = 1000000};
	size_t i;

	(void)state;
	for (i = 0; i < 14; i++) {
		assert_int_equal(atomic_load(&end.frames), 0);
		assert_int_equal(mci_sock_send_all(&other, bytes + i, 1, soon(1000)), 0);
		nanosleep(&pause, NULL);
	}
	assert_true(wait_for_value(&end.frames, 1));
	assert_int_equal(end.type, 5);
	assert_int_equal(end.id, 9);
	assert_memory_equal(end.body, "hi", 2);
	finish(&end, &other);
}

static void check_malformed(const void *p, size_t n)
{
	struct end end = {0};
	struct mci_sock other = begin(&end);

	assert_int_equal(mci_sock_send_all(&other, p, n, soon(1000)), 0);
	assert_true(wait_for_value(&end.closed, 1));
	assert_int_equal(atomic_load(&end.error), -EPROTO);
	assert_int_equal(atomic_load(&end.frames), 0);
	finish(&end, &other);
}

static void test_malformed_frames_end_the_connection(void **state)
{
	uint8_t head[MCI_FRAME_HEAD];

	(void)state;
	check_malformed("\x07\0\0\0", 4); /* shorter than its head */
	mci_frame_head(head, 1, 0, 1, LIMIT - MCI_FRAME_REST + 1);
	check_malformed(head, 4); /* one too long: known from its length alone */
	mci_frame_head(head, 1, 2, 1, 0);
	check_malformed(head, sizeof(head)); /* a flag that nobody knows */
	mci_frame_head(head, 1, MCI_FRAME_FD, 1, 0);
	check_malformed(head, sizeof(head)); /* a descriptor is promised and none came */
}

static void test_an_end_within_a_frame_is_an_error_and_between_frames_is_not(void **state)
{
	struct end half = {0}, whole = {0};
	struct mci_sock other = begin(&half);

	(void)state;
	assert_int_equal(mci_sock_send_all(&other, "\x0a\0\0\0\x05", 5, soon(1000)), 0);
	mci_sock_close(&other);
	assert_true(wait_for_value(&half.closed, 1));
	assert_int_equal(atomic_load(&half.error), -ECONNRESET);
	finish(&half, &other);

	other = begin(&whole);
	assert_int_equal(mci_frame_send(&other, 1, 1, "x", 1, soon(1000)), 0);
	mci_sock_close(&other);
	assert_true(wait_for_value(&whole.closed, 1));
	assert_int_equal(atomic_load(&whole.error), 0);
	assert_int_equal(atomic_load(&whole.frames), 1);
	finish(&whole, &other);
}

static void test_closing_inside_a_frame_ends_delivery(void **state)
{
	struct end end = {.close_on_frame = true};
	struct mci_sock other = begin(&end);
	uint8_t three[3 * MCI_FRAME_HEAD];
	int i;

	(void)state;
	for (i = 0; i < 3; i++)
		mci_frame_head(three + i * MCI_FRAME_HEAD, 1, 0, 1, 0);
	assert_int_equal(mci_sock_send_all(&other, three, sizeof(three), soon(1000)), 0);
	assert_true(wait_for_value(&end.closed, 1));
	assert_int_equal(atomic_load(&end.frames), 1);
	finish(&end, &other);
}

static void test_a_descriptor_rides_along_and_is_the_same_file(void **state)
{
	struct end end = {.echo = true};
	int before = open_descriptors();
	struct mci_sock other = begin(&end);
	uint8_t head[MCI_FRAME_HEAD];
	struct iovec iov = {head, sizeof(head)};
	struct stat sent, came;
	uint32_t id, length;
	uint16_t type;
	void *body;
	int file, fd = -1, i;

	(void)state;
	file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	for (i = 0; i < 20; i++) {
		mci_frame_head(head, 1, MCI_FRAME_FD, 3, 0);
		assert_int_equal(mci_frame_sendv(&other, &iov, 1, file), sizeof(head));
		/* Frames without one in between must not take it. */
		assert_int_equal(mci_frame_send(&other, 1, 4, "x", 1, soon(1000)), 0);
	}
	for (i = 0; i < 40; i++) {
		assert_int_equal(mci_frame_recv(&other, LIMIT, &type, &id, &body, &length, &fd, soon(3000)),
				 0);
		free(body);
		assert_int_equal(id, 3 + i % 2);
		if (i % 2) {
			assert_int_equal(fd, -1);
			continue;
		}
		assert_true(fd >= 0);
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		assert_int_equal(fstat(file, &sent), 0);
		assert_int_equal(fstat(fd, &came), 0);
		assert_true(sent.st_ino == came.st_ino && sent.st_dev == came.st_dev);
		close(fd);
	}
	assert_int_equal(atomic_load(&end.fds), 20);
	close(file);
	finish(&end, &other);
	assert_int_equal(open_descriptors(), before);
}

static void send_fds(int sock, const void *p, size_t n, int fd, int count)
{
	union {
		char bytes[CMSG_SPACE(64 * sizeof(int))];
		struct cmsghdr align;
	} control = {.bytes = {0}};
	struct iovec iov = {(void *)p, n};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int i;

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
	for (i = 0; i < count; i++)
		memcpy(CMSG_DATA(cmsg) + (size_t)i * sizeof(int), &fd, sizeof(fd));
	assert_int_equal(sendmsg(sock, &msg, MSG_NOSIGNAL), (ssize_t)n);
}

static void test_surplus_descriptors_are_closed(void **state)
{
	struct end end = {0};
	int before = open_descriptors();
	struct mci_sock other = begin(&end);
	uint8_t head[MCI_FRAME_HEAD];
	int i, file = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	for (i = 0; i < 100; i++) {
		mci_frame_head(head, 1, MCI_FRAME_FD, 3, 0);
		send_fds(other.fd, head, sizeof(head), file, 64);
		mci_frame_head(head, 1, 0, 3, 0); /* and where no frame speaks of them */
		send_fds(other.fd, head, sizeof(head), file, 5);
		assert_true(wait_for_value(&end.frames, 2 * i + 2));
	}
	assert_int_equal(atomic_load(&end.fds), 100);
	close(file);
	finish(&end, &other);
	assert_int_equal(open_descriptors(), before);
}

static void test_a_descriptor_that_the_receiver_does_not_want_is_closed(void **state)
{
	int before = open_descriptors(), fds[2], file = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint8_t head[MCI_FRAME_HEAD];
	struct mci_sock sock;
	uint32_t id, length;
	uint16_t type;
	void *body;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	sock = (struct mci_sock){.fd = fds[0]};
	mci_frame_head(head, 1, MCI_FRAME_FD, 3, 0);
	send_fds(fds[1], head, sizeof(head), file, 3);
	assert_int_equal(mci_frame_recv(&sock, LIMIT, &type, &id, &body, &length, NULL, soon(1000)), 0);
	free(body);
	mci_frame_head(head, 1, MCI_FRAME_FD, 3, LIMIT);
	send_fds(fds[1], head, sizeof(head), file, 3);
	assert_int_equal(mci_frame_recv(&sock, LIMIT, &type, &id, &body, &length, NULL, soon(1000)), -EPROTO);
	close(fds[0]);
	close(fds[1]);
	close(file);
	assert_int_equal(open_descriptors(), before);
}

struct flood {
	struct end *end;
	int fd, sent, ret;
	uint32_t length;
};

static void flood(void *arg)
{
	static uint8_t body[65536];
	struct flood *f = arg;

	for (f->sent = 0; f->sent < 1000; f->sent++) {
		f->ret = mci_conn_send(f->end->conn, 1, (uint32_t)f->sent, body, f->length, f->fd);
		if (f->ret)
			break;
	}
}

static void test_the_queue_is_bounded_and_drains(void **state)
{
	struct end end = {0};
	struct mci_sock other = begin(&end);
	struct flood f = {.end = &end, .fd = -1, .length = 65536};
	uint32_t id, length;
	uint16_t type;
	void *body;
	int i;

	(void)state;
	mci_loop_call(end.loop, flood, &f);
	assert_int_equal(f.ret, -EAGAIN);
	/* A mebibyte of ours, and what the socket took. */
	assert_true(f.sent >= 16 && f.sent < 64);
	for (i = 0; i < f.sent; i++) {
		assert_int_equal(mci_frame_recv(&other, LIMIT, &type, &id, &body, &length, NULL, soon(3000)),
				 0);
		assert_int_equal(id, i);
		free(body);
	}
	mci_loop_call(end.loop, flood, &f);
	assert_true(f.sent >= 16);
	finish(&end, &other);
}

static void test_descriptors_queued_at_the_end_are_closed(void **state)
{
	struct end end = {0};
	int before = open_descriptors();
	struct mci_sock other = begin(&end);
	struct flood f = {.end = &end, .fd = open("/dev/null", O_RDONLY | O_CLOEXEC), .length = 65536};

	(void)state;
	mci_loop_call(end.loop, flood, &f);
	assert_int_equal(f.ret, -EAGAIN);
	close(f.fd);
	finish(&end, &other);
	assert_int_equal(open_descriptors(), before);
}

static void test_queued_frames_keep_their_own_descriptors(void **state)
{
	struct end end = {0};
	int before = open_descriptors();
	struct mci_sock other = begin(&end);
	struct flood f = {.end = &end, .fd = open("/dev/null", O_RDONLY | O_CLOEXEC), .length = 10000};
	uint32_t id, length;
	uint16_t type;
	void *body;
	int i, fd;

	(void)state;
	mci_loop_call(end.loop, flood, &f);
	assert_int_equal(f.ret, -EAGAIN);
	for (i = 0; i < f.sent; i++) {
		assert_int_equal(mci_frame_recv(&other, LIMIT, &type, &id, &body, &length, &fd, soon(3000)),
				 0);
		assert_int_equal(id, i);
		assert_true(fd >= 0);
		close(fd);
		free(body);
	}
	close(f.fd);
	finish(&end, &other);
	assert_int_equal(open_descriptors(), before);
}

static void test_a_descriptor_over_tcp_is_refused(void **state)
{
	uint8_t head[MCI_FRAME_HEAD];
	struct iovec iov = {head, sizeof(head)};
	struct mci_sock sock = {.fd = -1};
	uint16_t port = 0;
	int listener;

	(void)state;
	mci_frame_head(head, 1, MCI_FRAME_FD, 3, 0);
	assert_int_equal(mci_listen("127.0.0.1", &port, 0, 0, &listener), 0);
	assert_int_equal(mci_connect_any(loopback_hosts, 1, port, NULL, soon(1000), &sock.fd), 0);
	assert_int_equal(mci_frame_sendv(&sock, &iov, 1, listener), -EOPNOTSUPP);
	mci_sock_close(&sock);
	close(listener);
}

static void test_receiving_a_frame_ends_at_the_deadline(void **state)
{
	int fds[2];
	struct mci_sock sock;
	uint32_t id, length;
	uint16_t type;
	void *body = NULL;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	sock = (struct mci_sock){.fd = fds[0]};
	assert_int_equal(write(fds[1], "\x0a\0\0\0\x05\0\0\0\x09\0\0\0h", 13), 13);
	assert_int_equal(mci_frame_recv(&sock, LIMIT, &type, &id, &body, &length, NULL, soon(100)),
			 -ETIMEDOUT);
	assert_null(body);
	close(fds[1]);
	assert_int_equal(mci_frame_recv(&sock, LIMIT, &type, &id, &body, &length, NULL, soon(1000)),
			 -ECONNRESET);
	close(fds[0]);
}

static void test_the_parser_asks_for_no_byte_too_many(void **state)
{
	static const uint8_t two[] = "\x09\0\0\0\x01\0\0\0\x01\0\0\0a\x08\0\0\0\x02\0\0\0\x02\0\0\0";
	struct mci_frame frame;
	size_t used, n;

	(void)state;
	for (n = 0; n < 13; n++) {
		assert_int_equal(mci_frame_parse(two, n, LIMIT, &frame, &used), -EAGAIN);
		assert_int_equal(used, n < MCI_FRAME_HEAD ? MCI_FRAME_HEAD : 13);
	}
	assert_int_equal(mci_frame_parse(two, sizeof(two), LIMIT, &frame, &used), 0);
	assert_int_equal(used, 13);
	assert_int_equal(frame.length, 1);
	assert_int_equal(mci_frame_parse(two + 13, 12, LIMIT, &frame, &used), 0);
	assert_int_equal(used, 12);
	assert_int_equal(frame.type, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_frame_goes_out_and_comes_back),
		cmocka_unit_test(test_the_layout_of_a_frame_is_fixed),
		cmocka_unit_test(test_many_frames_of_all_sizes_arrive_in_order),
		cmocka_unit_test(test_a_frame_may_come_byte_after_byte),
		cmocka_unit_test(test_malformed_frames_end_the_connection),
		cmocka_unit_test(test_an_end_within_a_frame_is_an_error_and_between_frames_is_not),
		cmocka_unit_test(test_closing_inside_a_frame_ends_delivery),
		cmocka_unit_test(test_a_descriptor_rides_along_and_is_the_same_file),
		cmocka_unit_test(test_surplus_descriptors_are_closed),
		cmocka_unit_test(test_a_descriptor_that_the_receiver_does_not_want_is_closed),
		cmocka_unit_test(test_the_queue_is_bounded_and_drains),
		cmocka_unit_test(test_descriptors_queued_at_the_end_are_closed),
		cmocka_unit_test(test_queued_frames_keep_their_own_descriptors),
		cmocka_unit_test(test_a_descriptor_over_tcp_is_refused),
		cmocka_unit_test(test_receiving_a_frame_ends_at_the_deadline),
		cmocka_unit_test(test_the_parser_asks_for_no_byte_too_many),
	};

	return cmocka_run_group_tests_name("net_conn", tests, NULL, NULL);
}
