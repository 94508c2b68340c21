// SPDX-License-Identifier: MIT
/*
 * Which GID a port speaks with. RoCE v2 over IPv4 crosses most networks, so it comes first; addresses that
 * are not routed come last. InfiniBand has one kind. The lowest index wins among equals. No state.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "topology/topology.h"

static bool is_ipv4(const uint8_t raw[16])
{
	static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

	return !memcmp(raw, prefix, sizeof(prefix));
}

enum kind { IB_OR_IPV4, GLOBAL_IPV6, PRIVATE_IPV6, LINK_LOCAL_IPV6, LINK_LOCAL_IPV4, LOOPBACK, ROCE_V1, UNFIT };

static const char *const kinds[] = {
	[IB_OR_IPV4] = "crosses routers",
	[GLOBAL_IPV6] = "a global IPv6 address, as there is none of IPv4",
	[PRIVATE_IPV6] = "a private IPv6 address, as there is no better one",
	[LINK_LOCAL_IPV6] = "link-local, as there is no address that is routed: it reaches one network only",
	[LINK_LOCAL_IPV4] = "link-local, as there is no address that is routed: it reaches one network only",
	[LOOPBACK] = "a loopback address, as there is no other: it reaches this host only",
	[ROCE_V1] = "RoCE v1, as there is no other: it reaches one Ethernet only",
};

static enum kind kind_of(const struct mci_gid *gid)
{
	static const uint8_t zero[16];
	const uint8_t *raw = gid->raw;

	if (!memcmp(raw, zero, sizeof(zero)))
		return UNFIT;
	if (gid->type == MCI_GID_IB)
		return IB_OR_IPV4;
	if (gid->type != MCI_GID_ROCE_V2)
		return ROCE_V1;
	if (is_ipv4(raw))
		return raw[12] == 127 ? LOOPBACK : raw[12] == 169 && raw[13] == 254 ? LINK_LOCAL_IPV4
										    : IB_OR_IPV4;
	if (raw[0] == 0xfe && (raw[1] & 0xc0) == 0x80)
		return LINK_LOCAL_IPV6;
	return (raw[0] & 0xfe) == 0xfc ? PRIVATE_IPV6 : GLOBAL_IPV6;
}

const char *mci_gid_type_name(uint32_t type)
{
	return type == MCI_GID_ROCE_V2 ? "RoCE v2" : type == MCI_GID_ROCE_V1 ? "RoCE v1" : "InfiniBand";
}

char *mci_gid_address(const uint8_t raw[16], char text[MCI_GID_TEXT])
{
	if (is_ipv4(raw))
		inet_ntop(AF_INET, raw + 12, text, MCI_GID_TEXT);
	else
		inet_ntop(AF_INET6, raw, text, MCI_GID_TEXT);
	return text;
}

int mci_gid_choose(const struct mci_gid *list, unsigned int count, int wanted, char *why, size_t size)
{
	enum kind best = UNFIT, kind;
	char text[MCI_GID_TEXT];
	int chosen = -ENOENT;

	for (unsigned int i = 0; i < count; i++) {
		kind = kind_of(&list[i]);
		if (wanted >= 0 ? list[i].index != (uint32_t)wanted || kind == UNFIT : kind >= best)
			continue;
		best = kind;
		chosen = (int)i;
	}
	if (chosen < 0 && wanted >= 0)
		snprintf(why, size, "no GID at index %d; unset MC_GID_INDEX, NCCL_IB_GID_INDEX to choose by itself",
			 wanted);
	else if (chosen < 0)
		snprintf(why, size, "no GID; give its network interface an address");
	else
		snprintf(why, size, "GID %u, %s %s, %s", list[chosen].index, mci_gid_type_name(list[chosen].type),
			 mci_gid_address(list[chosen].raw, text),
			 wanted >= 0 ? "as MC_GID_INDEX says" : "chosen by itself: ");
	if (chosen >= 0 && wanted < 0)
		snprintf(why + strlen(why), size - strlen(why), "%s", kinds[best]);
	return chosen;
}
