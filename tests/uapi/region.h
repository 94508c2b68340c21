/* SPDX-License-Identifier: MIT */
/*
 * What the tests of regions need beyond uapi.h: the dma-buf peer of tests/vm/modules, events, PCI devices of the guest.
 */
#ifndef REGION_H
#define REGION_H

#include "uapi.h"

#include <dirent.h>
#include <limits.h>

#include "../vm/modules/peer.h"

#define PEER   "/dev/mooncake_peer"
#define HUGE_2M (2ul << 20)

static inline int export_object(int fd, uint32_t id, uint32_t flags)
{
	int dmabuf = try_export(fd, id, flags);

	if (dmabuf < 0)
		FAIL("EXPORT of %u: %s", id, strerror(errno));
	return dmabuf;
}

static inline uint32_t pin(int fd, const void *addr, uint64_t length)
{
	uint32_t id;

	if (try_pin(fd, addr, length, &id))
		FAIL("REGION_PIN of %llu bytes: %s", (unsigned long long)length, strerror(errno));
	return id;
}

static inline void copy(int fd, uint32_t dst, uint64_t dst_offset, uint32_t src, uint64_t src_offset, uint64_t length)
{
	if (try_copy(fd, dst, dst_offset, src, src_offset, length))
		FAIL("COPY of %llu bytes from %u to %u: %s", (unsigned long long)length, src, dst, strerror(errno));
}

/* The next event of this type for this object, at most five seconds from now. */
static inline int event_arrives(int fd, uint32_t id, uint32_t type)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct mooncake_event e;

	while (poll(&p, 1, 5000) == 1) {
		if (read(fd, &e, sizeof(e)) != (ssize_t)sizeof(e))
			return 0;
		if (e.id == id && e.type == type)
			return 1;
	}
	return 0;
}

/* ---- the peer: a device that takes part in dma-bufs ---- */

static inline int peer_open(void)
{
	int fd = open(PEER, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		SKIP("%s is not there: load mooncake_peer.ko", PEER);
	return fd;
}

static inline int try_peer_attach(int peer, int dmabuf, uint32_t flags, struct peer_attach *a)
{
	*a = (struct peer_attach){.fd = dmabuf, .flags = flags};
	return ioctl(peer, PEER_ATTACH, a);
}

static inline struct peer_attach peer_attach(int peer, int dmabuf, uint32_t flags)
{
	struct peer_attach a;

	if (try_peer_attach(peer, dmabuf, flags, &a))
		FAIL("the peer cannot attach: %s", strerror(errno));
	return a;
}

static inline int try_peer_move(int peer, uint64_t offset, void *buffer, uint64_t length, int write)
{
	struct peer_transfer t = {.offset = offset, .length = length, .buffer = PTR(buffer), .write = write};

	return ioctl(peer, PEER_TRANSFER, &t);
}

static inline void peer_read(int peer, uint64_t offset, void *buffer, uint64_t length)
{
	if (try_peer_move(peer, offset, buffer, length, 0))
		FAIL("the peer cannot read: %s", strerror(errno));
}

static inline void peer_write(int peer, uint64_t offset, void *buffer, uint64_t length)
{
	if (try_peer_move(peer, offset, buffer, length, 1))
		FAIL("the peer cannot write: %s", strerror(errno));
}

static inline struct peer_state peer_state(int peer)
{
	struct peer_state s;

	CHECK(ioctl(peer, PEER_STATE, &s) == 0);
	return s;
}

/* ---- PCI devices ---- */

struct pci {
	unsigned int domain, bus, device, function;
	char path[64];
};

/* The nth device (from 0) of these ids, if it is there. */
static inline int pci_look(unsigned int vendor, unsigned int device, int nth, struct pci *pci)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct pci found = {0};
	struct dirent *e;
	int n = 0, hit = 0;

	CHECK(dir);
	while (!hit && (e = readdir(dir))) {
		char path[PATH_MAX], text[2][16] = {"", ""};
		static const char *const file[2] = {"vendor", "device"};

		if (sscanf(e->d_name, "%x:%x:%x.%x", &found.domain, &found.bus, &found.device, &found.function) != 4)
			continue;
		for (int i = 0; i < 2; i++) {
			FILE *f;

			snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", e->d_name, file[i]);
			f = fopen(path, "re");
			if (!f || !fgets(text[i], sizeof(text[i]), f))
				text[i][0] = 0;
			if (f)
				fclose(f);
		}
		hit = strtoul(text[0], NULL, 0) == vendor && strtoul(text[1], NULL, 0) == device && n++ == nth;
	}
	closedir(dir);
	if (!hit)
		return 0;
	snprintf(found.path, sizeof(found.path), "/sys/bus/pci/devices/%04x:%02x:%02x.%x", found.domain, found.bus,
		 found.device, found.function);
	*pci = found;
	return 1;
}

/* The same, or a skip. */
static inline struct pci pci_find(unsigned int vendor, unsigned int device, int nth)
{
	struct pci found;

	if (!pci_look(vendor, device, nth, &found))
		SKIP("this guest has no PCI device %04x:%04x number %d", vendor, device, nth);
	return found;
}

static inline struct mooncake_region_bar bar_request(const struct pci *pci, unsigned int bar)
{
	struct mooncake_region_bar b = STRUCT(region_bar);

	b.domain = pci->domain;
	b.bus = pci->bus;
	b.device = pci->device;
	b.function = pci->function;
	b.bar = bar;
	return b;
}

/* ---- memory that firmware keeps apart ---- */

static inline int region_window(uint64_t *start, uint64_t *length)
{
	FILE *f = fopen("/proc/iomem", "re");
	unsigned long long first, last;
	char line[256];
	int found = 0;

	while (!found && f && fgets(line, sizeof(line), f))
		found = strstr(line, "Soft Reserved") && sscanf(line, "%llx-%llx", &first, &last) == 2;
	if (f)
		fclose(f);
	if (!found)
		return 0;
	*start = first;
	*length = last + 1 - first;
	return 1;
}

#endif
