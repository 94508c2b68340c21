// SPDX-License-Identifier: MIT
/*
 * Memory of the kernel module, directly: no library, only <linux/mooncake.h>.
 *   kernel_buffer [NAME [MIB]]
 * Without a name: makes a buffer, lets a child attach the second half of it by a key, writes, looks, takes it
 * back. With a name: opens the kept buffer of that name, or makes it, and counts how often that was done.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/mooncake.h>

static void check(int ret, const char *what)
{
	if (ret < 0) {
		fprintf(stderr, "kernel_buffer: %s: %s\n", what, strerror(errno));
		exit(errno == ENOENT ? 77 : 1);
	}
}

static int context(void)
{
	int fd = open("/dev/mooncake", O_RDWR | O_CLOEXEC);

	check(fd, "/dev/mooncake");
	return fd;
}

static unsigned char *map(int fd, __u64 offset, __u64 length, int prot)
{
	void *addr = mmap(NULL, length, prot, MAP_SHARED, fd, (off_t)offset);

	check(addr == MAP_FAILED ? -1 : 0, "mmap");
	return addr;
}

/* A child with a context of its own: it says who it is, gets a key, and reads what the key opens. */
static pid_t reader(int *to, int *from)
{
	struct mooncake_query query = {.size = sizeof(query)};
	struct mooncake_attach attach = {.size = sizeof(attach)};
	int in[2], out[2], fd;
	unsigned char *seen;
	pid_t pid;

	check(pipe(in), "pipe");
	check(pipe(out), "pipe");
	pid = fork();
	check(pid, "fork");
	if (pid) {
		close(in[0]);
		close(out[1]);
		*to = in[1];
		*from = out[0];
		return pid;
	}
	close(in[1]);
	close(out[0]);
	fd = context();
	check(ioctl(fd, MOONCAKE_QUERY, &query), "QUERY");
	check(write(out[1], query.context_id, sizeof(query.context_id)) > 0 ? 0 : -1, "write");
	check(read(in[0], attach.key, sizeof(attach.key)) > 0 ? 0 : -1, "read");
	check(ioctl(fd, MOONCAKE_ATTACH, &attach), "ATTACH");
	seen = map(fd, attach.mmap_offset, attach.length, PROT_READ);
	printf("attached %llu bytes, which begin with 0x%02x\n", (unsigned long long)attach.length, seen[0]);
	check(write(out[1], seen, 1) > 0 ? 0 : -1, "write");
	check(read(in[0], attach.key, 1) > 0 ? 0 : -1, "read"); /* until it was revoked */
	/* The kernel reads for us: a load of our own would be SIGBUS now. */
	if (write(out[1], seen, 1) < 0)
		printf("revoked: %s\n", strerror(errno));
	exit(0);
}

static int share(void)
{
	struct mooncake_buffer_alloc alloc = {.size = sizeof(alloc), .length = 4 << 20, .numa_node = -1};
	struct mooncake_grant grant = {.size = sizeof(grant), .uses = 1, .rights = MOONCAKE_RIGHT_READ};
	struct mooncake_revoke revoke = {.size = sizeof(revoke), .flags = MOONCAKE_REVOKE_GRANT};
	int fd = context(), to, from, status;
	unsigned char *mine, byte;
	pid_t child = reader(&to, &from);

	check(ioctl(fd, MOONCAKE_BUFFER_ALLOC, &alloc), "BUFFER_ALLOC");
	mine = map(fd, alloc.mmap_offset, alloc.length, PROT_READ | PROT_WRITE);
	mine[alloc.length / 2] = 0xcc;

	grant.id = alloc.id;
	grant.offset = alloc.length / 2;
	check(read(from, grant.context_id, sizeof(grant.context_id)) > 0 ? 0 : -1, "read");
	check(ioctl(fd, MOONCAKE_GRANT, &grant), "GRANT");
	check(write(to, grant.key, sizeof(grant.key)) > 0 ? 0 : -1, "write");
	check(read(from, &byte, 1) > 0 ? 0 : -1, "read");

	revoke.grant = grant.grant;
	check(ioctl(fd, MOONCAKE_REVOKE, &revoke), "REVOKE");
	check(write(to, "", 1) > 0 ? 0 : -1, "write");
	check(waitpid(child, &status, 0), "waitpid");
	return byte == 0xcc && !status && read(from, &byte, 1) == 0 ? 0 : 1;
}

static int keep(const char *name, __u64 length)
{
	struct mooncake_buffer_open open_kept = {.size = sizeof(open_kept),
						 .flags = MOONCAKE_OPEN_EXCLUSIVE,
						 .uid = MOONCAKE_UID_SELF,
						 .name = (__u64)(unsigned long)name,
						 .name_length = (__u32)strlen(name)};
	struct mooncake_buffer_alloc alloc = {.size = sizeof(alloc),
					      .flags = MOONCAKE_BUFFER_KEEP | MOONCAKE_BUFFER_EXCLUSIVE,
					      .length = length,
					      .numa_node = -1,
					      .name = (__u64)(unsigned long)name,
					      .name_length = (__u32)strlen(name)};
	int fd = context();
	unsigned long *count;

	if (!ioctl(fd, MOONCAKE_BUFFER_OPEN, &open_kept)) {
		alloc.mmap_offset = open_kept.mmap_offset;
		alloc.length = open_kept.length;
	} else if (errno == EBUSY) {
		fprintf(stderr, "kernel_buffer: process %u holds \"%s\"\n", open_kept.holder_pid, name);
		return 1;
	} else {
		check(ioctl(fd, MOONCAKE_BUFFER_ALLOC, &alloc), "BUFFER_ALLOC");
	}
	count = (unsigned long *)(void *)map(fd, alloc.mmap_offset, alloc.length, PROT_READ | PROT_WRITE);
	printf("\"%s\": %llu bytes, opened %lu times before\n", name, (unsigned long long)alloc.length,
	       count[0]++);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return share();
	return keep(argv[1], (argc > 2 ? strtoull(argv[2], NULL, 10) : 1) << 20);
}
