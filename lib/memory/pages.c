// SPDX-License-Identifier: MIT
/* Page sizes, huge pages and NUMA nodes of this machine. Nothing is kept: counts change all the time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "core/errors.h"
#include "core/log.h"
#include "memory/memory.h"

#if USE_NUMA
#include <numaif.h>
#endif

const char *mci_size_text(uint64_t bytes, char text[MCI_SIZE_TEXT])
{
	static const char unit[][4] = { "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes / 1024;
	unsigned int i = 0;

	if (bytes < 1024) {
		snprintf(text, MCI_SIZE_TEXT, "%u bytes", (unsigned int)bytes);
		return text;
	}
	while (value >= 1024 && i + 1 < sizeof(unit) / sizeof(unit[0])) {
		value /= 1024;
		i++;
	}
	snprintf(text, MCI_SIZE_TEXT, "%.*f %s", value == (double)(uint64_t)value ? 0 : 1, value, unit[i]);
	return text;
}

uint64_t mci_base_page(void) { return (uint64_t)sysconf(_SC_PAGESIZE); }

static int read_number(const char *path, uint64_t *value)
{
	unsigned long long v;
	FILE *f = fopen(path, "re");
	int n;

	if (!f)
		return -errno;
	n = fscanf(f, "%llu", &v);
	fclose(f);
	if (n != 1)
		return -EINVAL;
	*value = v;
	return 0;
}

uint64_t mci_huge_pages_free(uint64_t page_size, int node)
{
	unsigned long long kb = page_size >> 10;
	uint64_t free_pages, reserved = 0;
	char path[160];

	if (node >= 0) {
		/* Reservations are not counted per node: what is free here may be promised already. */
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/free_hugepages", node,
			 kb);
		if (read_number(path, &free_pages))
			return 0;
		return free_pages;
	}
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/free_hugepages", kb);
	if (read_number(path, &free_pages))
		return 0;
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/resv_hugepages", kb);
	if (read_number(path, &reserved))
		reserved = 0;
	return free_pages > reserved ? free_pages - reserved : 0;
}

int mci_huge_pages_missing(uint64_t page_size, uint64_t length, int node)
{
	unsigned long long need = (length + page_size - 1) / page_size, kb = page_size >> 10;
	unsigned long long have = mci_huge_pages_free(page_size, node);
	char sysfs[120], where[32] = "", size[MCI_SIZE_TEXT];
	uint64_t total;

	if (node >= 0)
		snprintf(where, sizeof(where), " on NUMA node %d", node);
	snprintf(sysfs, sizeof(sysfs), "/sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages", kb);
	mci_size_text(page_size, size);
	if (read_number(sysfs, &total))
		return mci_fail(-ENOMEM,
				"this kernel has no huge pages of %s; use page size 4096, or 0 to let the "
				"library choose",
				size);
	return mci_fail(-ENOMEM,
			"%llu huge pages of %s are needed%s, %llu are free; make it so with \"echo %llu > "
			"%s\"%s, or use "
			"page size 4096",
			need, size, where, have,
			(unsigned long long)total + (need > have ? need - have : need), sysfs,
			page_size == MCI_PAGE_2M ? " (the same as \"sysctl vm.nr_hugepages=\")" : "");
}

int mci_numa_check(int node)
{
	char path[64], online[128] = "0";
	FILE *f;

	if (node < 0)
		return node == MC_NUMA_ANY
			       ? 0
			       : mci_fail(-EINVAL, "NUMA node %d: want a node number or MC_NUMA_ANY (-1)",
					  node);
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", node);
	if (!access(path, F_OK))
		return 0;
	f = fopen("/sys/devices/system/node/online", "re");
	if (f) {
		if (!fgets(online, sizeof(online), f))
			online[0] = '\0';
		fclose(f);
		online[strcspn(online, "\n")] = '\0';
	} else if (!node) {
		return 0; /* a kernel without NUMA is one node */
	}
	return mci_fail(-EINVAL, "this machine has no NUMA node %d; it has: %s", node, online);
}

/*
 * Preferred, not bound: a node that is full then costs speed, where a strict binding would end in the
 * out-of-memory killer at some later touch.
 */
int mci_numa_place(void *addr, uint64_t length, int node)
{
	if (node < 0)
		return 0;
#if USE_NUMA
	{
		unsigned long mask[1024 / (8 * sizeof(unsigned long))] = { 0 };

		if ((unsigned int)node >= 8 * sizeof(mask))
			return mci_fail(-EINVAL, "NUMA node %d is beyond what is supported (%zu)", node,
					8 * sizeof(mask) - 1);
		mask[(unsigned int)node / (8 * sizeof(mask[0]))] =
			1ul << ((unsigned int)node % (8 * sizeof(mask[0])));
		if (!mbind(addr, length, MPOL_PREFERRED, mask, 8 * sizeof(mask), 0))
			return 0;
		if (errno == ENOSYS || errno == EPERM) { /* no NUMA in the kernel, or a seccomp filter */
			mci_warn("memory is not placed on NUMA node %d: mbind: %s", node, strerror(errno));
			return 0;
		}
		return mci_fail(-errno, "cannot place memory on NUMA node %d: mbind: %s", node,
				strerror(errno));
	}
#else
	(void)addr;
	(void)length;
	if (!node && access("/sys/devices/system/node/node1", F_OK))
		return 0;
	return mci_fail(
		-EOPNOTSUPP,
		"this build has no NUMA support (USE_NUMA=0): use MC_NUMA_ANY, or build with libnuma");
#endif
}
