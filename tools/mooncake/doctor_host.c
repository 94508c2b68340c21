// SPDX-License-Identifier: MIT
/* Checks of the machine and of this process's limits. They only look. */
#include "doctor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/output.h"

#define CAP_IPC_LOCK_BIT 14

void check_kernel(void)
{
	unsigned int major = 0, minor = 0;
	struct utsname name;

	if (uname(&name) || sscanf(name.release, "%u.%u", &major, &minor) != 2)
		finding(FINDING_WARN, "kernel", NULL, "its version cannot be read");
	else if (major < 4 || (major == 4 && minor < 17))
		finding(FINDING_FAIL, "kernel", "use 4.17 or newer, better 5.14 or newer",
			"Linux %s lacks what shared memory needs (huge page memfds with seals)",
			name.release);
	else if (major < 5 || (major == 5 && minor < 14))
		finding(FINDING_WARN, "kernel", "use 5.14 or newer",
			"Linux %s has no MADV_POPULATE_WRITE: pre-faulting is slower", name.release);
	else
		finding(FINDING_OK, "kernel", NULL, "Linux %s", name.release);
}

static bool has_ipc_lock(void)
{
	unsigned long long effective = 0;
	char line[160];
	FILE *f = fopen("/proc/self/status", "re");

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f) && sscanf(line, "CapEff: %llx", &effective) != 1)
		;
	fclose(f);
	return effective >> CAP_IPC_LOCK_BIT & 1;
}

void check_memlock(void)
{
	static const char fix[] =
		"ulimit -l unlimited, LimitMEMLOCK=infinity in the systemd unit, memlock in "
		"/etc/security/limits.conf, or --ulimit memlock=-1 for a container";
	struct rlimit limit;
	char text[OUT_SIZE_TEXT];

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		finding(FINDING_WARN, "memlock", NULL, "the limit cannot be read: %s", strerror(errno));
	else if (limit.rlim_cur == RLIM_INFINITY)
		finding(FINDING_OK, "memlock", NULL, "unlimited");
	else if (has_ipc_lock())
		finding(FINDING_OK, "memlock", NULL, "%s, but this process has CAP_IPC_LOCK",
			out_size(limit.rlim_cur, text));
	else if (limit.rlim_cur < 1ull << 30)
		finding(FINDING_WARN, "memlock", fix,
			"%s: locked memory (MC_MEMORY_LOCK) and RDMA cannot have more",
			out_size(limit.rlim_cur, text));
	else
		finding(FINDING_OK, "memlock", NULL, "%s", out_size(limit.rlim_cur, text));
}

void check_open_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		finding(FINDING_WARN, "open files", NULL, "the limit cannot be read: %s", strerror(errno));
	else if (limit.rlim_cur < 4096)
		finding(FINDING_WARN, "open files",
			"ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit",
			"%llu: each peer takes several sockets", (unsigned long long)limit.rlim_cur);
	else
		finding(FINDING_OK, "open files", NULL, "%llu", (unsigned long long)limit.rlim_cur);
}

void check_huge_pages(void)
{
	static const char fix[] =
		"sysctl vm.nr_hugepages=N (2 MiB each; a memory takes them by itself), or \"echo advise > "
		"/sys/kernel/mm/transparent_hugepage/shmem_enabled\"";
	int64_t total = small_number("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", -1);
	int64_t available = small_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", 0);
	char thp[64];

	small_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", thp, sizeof(thp));
	if (total > 0)
		finding(FINDING_OK, "huge pages", NULL, "%lld of %lld free (2 MiB)", (long long)available,
			(long long)total);
	else if (strstr(thp, "[advise]") || strstr(thp, "[always]") || strstr(thp, "[within_size]"))
		finding(FINDING_OK, "huge pages", NULL,
			"none reserved, but transparent ones are on for shared memory");
	else if (total < 0)
		finding(FINDING_OK, "huge pages", NULL, "this kernel has none of 2 MiB; base pages are used");
	else
		finding(FINDING_WARN, "huge pages", fix,
			"none: pre-faulting and copying large memory costs more CPU");
}

void check_shm_space(void)
{
	struct statvfs fs;
	char total[OUT_SIZE_TEXT], available[OUT_SIZE_TEXT];
	uint64_t bytes, left;

	if (statvfs("/dev/shm", &fs)) {
		finding(FINDING_FAIL, "/dev/shm", "mount -t tmpfs tmpfs /dev/shm",
			"named memory needs it: %s", strerror(errno));
		return;
	}
	bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	left = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (access("/dev/shm", W_OK | X_OK))
		finding(FINDING_FAIL, "/dev/shm", "chmod 1777 /dev/shm", "this user cannot write to it: %s",
			strerror(errno));
	else if (fs.f_blocks && left < 1ull << 30)
		finding(FINDING_WARN, "/dev/shm",
			"mount -o remount,size=... /dev/shm; --shm-size for a container",
			"%s free of %s: named memory has no more", out_size(left, available),
			out_size(bytes, total));
	else
		finding(FINDING_OK, "/dev/shm", NULL, "%s free of %s", out_size(left, available),
			out_size(bytes, total));
}

/* Ask the kernel itself: a child reads from its parent, as one peer does from another of the same user. */
void check_process_copy(void)
{
	int64_t scope = small_number("/proc/sys/kernel/yama/ptrace_scope", 0);
	char source = 42;
	pid_t parent = getpid(), child;
	int status;

	fflush(stdout);
	child = fork();
	if (!child) {
		char target = 0;
		struct iovec local = { &target, 1 }, remote = { &source, 1 };

		_exit(process_vm_readv(parent, &local, 1, &remote, 1, 0) == 1 && target == 42 ? 0
		      : errno								      ? errno & 0xff
											      : 1);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		finding(FINDING_WARN, "process copy", NULL, "process_vm_readv() could not be tested: %s",
			strerror(errno));
	else if (!WEXITSTATUS(status))
		finding(FINDING_OK, "process copy", NULL,
			"process_vm_readv() between processes of one user is allowed");
	else
		finding(FINDING_WARN, "process copy",
			scope > 0 ? "sysctl kernel.yama.ptrace_scope=0, or use memory of mc_memory_alloc(), "
				    "which is mapped instead"
				  : "allow it in the container (--cap-add SYS_PTRACE or its seccomp "
				    "profile), or use memory of "
				    "mc_memory_alloc(), which is mapped instead",
			"process_vm_readv() is refused (%s, yama ptrace_scope %d): memory that is not of "
			"mc_memory_alloc() goes over "
			"TCP, even on one host",
			strerror(WEXITSTATUS(status)), (int)scope);
}
