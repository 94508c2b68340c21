// SPDX-License-Identifier: MIT
/* A name with a port of its own, for an initiator or a receiver that was given none and whose host name is
 * taken. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "free_name.h"

int free_name(const char *host, char *name, size_t size)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return -errno;
	rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	     getsockname(fd, (struct sockaddr *)&addr, &len);
	close(fd);
	if (rc)
		return -EADDRINUSE;
	snprintf(name, size, "%s:%u", host, ntohs(addr.sin_port));
	return 0;
}
