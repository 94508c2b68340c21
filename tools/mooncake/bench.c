// SPDX-License-Identifier: MIT
/* mooncake bench: runs transfer_engine_bench, from beside this program or from the PATH. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"

#define BENCH "transfer_engine_bench"

int cmd_bench(int argc, char **argv)
{
	char path[PATH_MAX + sizeof(BENCH)], *slash;
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);

	(void)argc;
	argv[0] = BENCH;
	fflush(stdout);
	if (n > 0) {
		path[n] = '\0';
		slash = strrchr(path, '/');
		memcpy(slash + 1, BENCH, sizeof(BENCH));
		execv(path, argv);
		if (errno != ENOENT)
			return out_error("cannot start %s: %s", path, strerror(errno));
	}
	execvp(BENCH, argv);
	return out_error("cannot start " BENCH ": %s; it is neither beside this program nor in the PATH",
			 strerror(errno));
}
