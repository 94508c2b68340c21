// SPDX-License-Identifier: MIT
/* Attributes of mc_memory_alloc(): what is allowed, and newer and older callers. No state. */
#include <string.h>

#include "core/errors.h"
#include "memory/memory.h"

#define LENGTH_MAX (1ull << 47) /* user address space of the common machines */
#define KNOWN_FLAGS                                                                                         \
	(MC_MEMORY_LOCK | MC_MEMORY_PREFAULT | MC_MEMORY_PRIVATE | MC_MEMORY_EXCLUSIVE | MC_MEMORY_CREATE | \
	 MC_MEMORY_EXISTING | MC_MEMORY_NO_MODULE)

int mci_memory_attr_check(const struct mc_memory_attr *in, struct mc_memory_attr *out)
{
	if (!in || in->size < offsetof(struct mc_memory_attr, reserved))
		return mci_fail(
			-EINVAL,
			"mc_memory_alloc(): no attributes, or their size member is not set; begin with "
			"MC_MEMORY_ATTR_INIT");
	memset(out, 0, sizeof(*out));
	memcpy(out, in, in->size < sizeof(*out) ? in->size : sizeof(*out));
	for (size_t i = sizeof(*out); i < in->size; i++) {
		if (((const uint8_t *)in)[i])
			return mci_fail(-E2BIG,
					"mc_memory_alloc(): the attributes have members that libmooncake %s "
					"does not know",
					MC_VERSION_STRING);
	}
	for (size_t i = 0; i < sizeof(out->reserved) / sizeof(out->reserved[0]); i++) {
		if (out->reserved[i])
			return mci_fail(-EINVAL, "mc_memory_alloc(): reserved members must be zero; begin "
						 "with MC_MEMORY_ATTR_INIT");
	}
	if (out->flags & ~KNOWN_FLAGS)
		return mci_fail(-EINVAL, "mc_memory_alloc(): unknown flags 0x%x", out->flags & ~KNOWN_FLAGS);
	if (!out->length || out->length > LENGTH_MAX)
		return mci_fail(-EINVAL, "mc_memory_alloc(): length %llu; want 1 to %llu bytes",
				(unsigned long long)out->length, LENGTH_MAX);
	if (out->page_size && out->page_size != mci_base_page() && out->page_size != MCI_PAGE_2M &&
	    out->page_size != MCI_PAGE_1G)
		return mci_fail(-EINVAL,
				"mc_memory_alloc(): page size %llu; want 0, %llu, 2097152 or 1073741824",
				(unsigned long long)out->page_size, (unsigned long long)mci_base_page());
	if (out->name && out->flags & MC_MEMORY_PRIVATE)
		return mci_fail(-EINVAL,
				"mc_memory_alloc(): MC_MEMORY_PRIVATE memory cannot have a name (\"%s\")",
				out->name);
	if (!out->name && out->flags & (MC_MEMORY_EXCLUSIVE | MC_MEMORY_CREATE | MC_MEMORY_EXISTING))
		return mci_fail(-EINVAL,
				"mc_memory_alloc(): MC_MEMORY_EXCLUSIVE, _CREATE and _EXISTING need a name");
	if ((out->flags & (MC_MEMORY_CREATE | MC_MEMORY_EXISTING)) == (MC_MEMORY_CREATE | MC_MEMORY_EXISTING))
		return mci_fail(
			-EINVAL,
			"mc_memory_alloc(): MC_MEMORY_CREATE and MC_MEMORY_EXISTING exclude each other");
	return mci_numa_check(out->numa_node);
}
