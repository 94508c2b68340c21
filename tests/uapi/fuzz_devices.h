/* SPDX-License-Identifier: MIT */
/*
 * What the fuzzer knows of the guest's devices: BARs of ivshmem and edu, the window of memory that firmware keeps
 * apart, CXL memory by its dax device. The last two are there after prepare_devices() only.
 */
#ifndef FUZZ_DEVICES_H
#define FUZZ_DEVICES_H

#include "region.h"

static inline uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

#define R(n) (next(s) % (n))

enum { DAX = 4 << 20 };

/* What there is of devices, found before the processes begin. */
static struct {
	struct mooncake_region_bar at;
	uint64_t length;
	int registers; /* of QEMU's edu: a write starts DMA to anywhere, over which QEMU gives up */
} bars[8];
static unsigned bar_count;
static uint64_t window_start, window_length;
static char dax[64], *dax_map; /* each process maps it by itself */

/* A place of a BAR that is there, as often as not. */
static inline void a_bar(uint64_t *s, struct mooncake_region_bar *b)
{
	unsigned n = bar_count ? R(bar_count) : 0;

	if (bar_count && R(8)) {
		*b = bars[n].at;
		if (R(4) == 0 && bars[n].length >= 2 << 20) {
			b->flags = MOONCAKE_BAR_PAGES;
			b->offset = R(bars[n].length >> 21) << 21;
			b->length = 2 << 20;
		} else {
			b->offset = R(bars[n].length / PAGE) * PAGE;
			b->length = R(5) * PAGE;
		}
		return;
	}
	b->bus = R(3) ? 0 : R(256);
	b->device = R(R(8) ? 32 : 256);
	b->function = R(3) ? 0 : R(8);
	b->bar = R(7);
	b->offset = R(3) * PAGE;
	b->length = R(3) * PAGE;
	b->flags = R(4) ? 0 : MOONCAKE_BAR_PAGES;
}

static inline void spare_registers(struct mooncake_region_bar *b)
{
	for (unsigned i = 0; i < bar_count; i++)
		if (bars[i].registers && b->bus == bars[i].at.bus && b->device == bars[i].at.device &&
		    b->offset < PAGE)
			b->offset = PAGE;
}

/* A part of the window, or memory that the process has mapped: of the dax device, or `other`. */
static inline void a_window(uint64_t *s, struct mooncake_region_cxl *c, const void *other)
{
	c->flags = R(2) ? MOONCAKE_CXL_MAPPED : 0;
	if (c->flags) {
		c->start = PTR(dax_map && R(4) ? dax_map + R(DAX / PAGE) * PAGE : other);
		c->length = (R(R(2) ? 4 : 600) + 1) << 12;
	} else {
		c->start = window_length && R(8) ? window_start + (R(window_length >> 21) << 21) : R(1024) << 21;
		c->length = (R(4) + 1) << (R(8) ? 21 : 12);
	}
}

/* In each process. */
static inline void map_dax(void)
{
	int fd = dax[0] ? open(dax, O_RDWR | O_CLOEXEC) : -1;
	char *p;

	if (fd < 0)
		return;
	p = mmap(NULL, DAX, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	dax_map = p == MAP_FAILED ? NULL : p;
	close(fd);
}

static inline void find_bars(void)
{
	static const struct {
		unsigned vendor, device, bar;
	} known[] = {{0x1af4, 0x1110, 2}, {0x1af4, 0x1110, 0}, {0x1234, 0x11e8, 0}};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		struct pci pci;
		struct stat st;
		char path[96];

		if (!pci_look(known[i].vendor, known[i].device, 0, &pci))
			continue;
		snprintf(path, sizeof(path), "%s/resource%u", pci.path, known[i].bar);
		if (stat(path, &st) || !st.st_size)
			continue;
		bars[bar_count].at = bar_request(&pci, known[i].bar);
		bars[bar_count].length = st.st_size;
		bars[bar_count++].registers = known[i].vendor == 0x1234;
	}
}

/* The driver of the window lets go of it; CXL memory becomes a dax device. */
static inline void prepare_devices(void)
{
	static const char script[] = ". $REPO/tests/vm/lib/guest.sh; modprobe -r dax_hmem 2>/dev/null; "
				     "for d in /sys/bus/platform/drivers/dax_hmem/hmem.*; do "
				     "[ ! -e $d ] || echo ${d##*/} >/sys/bus/platform/drivers/dax_hmem/unbind; done; "
				     "vm_cxl_dax";
	char command[sizeof(script) + 32];
	FILE *f;

	file_write("/sys/module/mooncake/parameters/bar_pages", "1");
	if (!region_window(&window_start, &window_length))
		printf("note: no window of memory is kept apart in this guest\n");
	snprintf(command, sizeof(command), "exec bash -c '%s'", script);
	f = getenv("REPO") ? popen(command, "re") : NULL;
	if (!f || !fgets(dax, sizeof(dax), f))
		printf("note: no CXL memory with a dax device in this guest\n");
	dax[strcspn(dax, "\n")] = 0;
	if (f)
		pclose(f);
	printf("%u BARs, a window of %llu MiB, dax device %s\n", bar_count, (unsigned long long)window_length >> 20,
	       dax[0] ? dax : "none");
}

#endif
