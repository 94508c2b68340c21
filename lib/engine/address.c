// SPDX-License-Identifier: MIT
/* Which addresses a process publishes (contracts G): asked for, else by route, then every other one it has.
 */
#include "engine/engine.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

static int add(struct mc_engine *engine, const char *address)
{
	unsigned int i;

	for (i = 0; i < engine->address_count; i++)
		if (!strcmp(engine->addresses[i], address))
			return 0;
	if (engine->address_count == MCI_MAX_ADDRESSES)
		return -ENOSPC;
	engine->addresses[engine->address_count] = strdup(address);
	if (!engine->addresses[engine->address_count])
		return mci_fail(-ENOMEM, "no memory for an address");
	engine->address_count++;
	return 0;
}

static int add_list(struct mc_engine *engine, const char *list)
{
	char *copy = strdup(list), *save = NULL, *word;
	int ret = copy ? 0 : mci_fail(-ENOMEM, "no memory for addresses");
	char why[400];

	for (word = copy ? strtok_r(copy, ", ", &save) : NULL; word && !ret;
	     word = strtok_r(NULL, ", ", &save)) {
		size_t n = strlen(word);

		if (n > 2 && word[0] == '[' && word[n - 1] == ']') {
			word[n - 1] = '\0';
			word++;
		}
		ret = mci_host_check(word);
		if (ret) {
			snprintf(why, sizeof(why), "%s", mc_errmsg());
			ret = mci_fail(-EINVAL, "--advertise=%.300s: peers could not use '%.200s': %s", list, word,
				       why);
			break;
		}
		ret = add(engine, word);
		if (ret == -ENOSPC)
			ret = mci_fail(-EINVAL, "--advertise=%s names more than %u addresses", list,
				       MCI_MAX_ADDRESSES);
	}
	free(copy);
	return ret;
}

/* Other addresses of interfaces that are up: a peer that cannot reach the first tries them. */
static void add_interfaces(struct mc_engine *engine)
{
	struct ifaddrs *list, *i;
	char host[NI_MAXHOST];

	if (getifaddrs(&list))
		return;
	for (i = list; i; i = i->ifa_next) {
		const struct sockaddr *sa = i->ifa_addr;

		if (!sa || (i->ifa_flags & (IFF_UP | IFF_LOOPBACK)) != IFF_UP)
			continue;
		if (sa->sa_family == AF_INET6) {
			const struct in6_addr *a = &((const struct sockaddr_in6 *)sa)->sin6_addr;

			if (IN6_IS_ADDR_LINKLOCAL(a) || !inet_ntop(AF_INET6, a, host, sizeof(host)))
				continue;
		} else if (sa->sa_family != AF_INET ||
			   !inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, host,
				      sizeof(host))) {
			continue;
		}
		if (add(engine, host))
			break;
	}
	freeifaddrs(list);
}

bool mci_metadata_is_remote(const struct mc_engine *engine)
{
	char host[MCI_HOST_MAX];

	return engine->kind != MCI_METADATA_P2P &&
	       !mci_metadata_host(engine->metadata_uri, host, sizeof(host)) && !mci_host_is_loopback(host);
}

bool mci_bind_is_any(const struct mc_engine *engine)
{
	return engine->bind && (!strcmp(engine->bind, "0.0.0.0") || !strcmp(engine->bind, "::") ||
				!strcmp(engine->bind, "[::]"));
}

int mci_addresses_choose(struct mc_engine *engine, const char *advertise, const char *name_host)
{
	char host[MCI_HOST_MAX], local[MCI_HOST_MAX];
	bool remote = mci_metadata_is_remote(engine), bound = engine->bind && !mci_bind_is_any(engine);
	unsigned int i;
	int ret = 0;

	if (advertise && *advertise)
		ret = add_list(engine, advertise);
	else if (bound)
		ret = add(engine, engine->bind);
	else if (engine->kind != MCI_METADATA_P2P &&
		 !mci_metadata_host(engine->metadata_uri, host, sizeof(host)) &&
		 !mci_local_address_to(host, local, sizeof(local)))
		ret = add(engine, local);
	else if (name_host && *name_host)
		ret = add(engine, name_host);
	if (ret)
		return ret;
	if (!advertise && !bound &&
	    (remote || !engine->address_count || !mci_host_is_loopback(engine->addresses[0])))
		add_interfaces(engine);
	if (!engine->address_count)
		ret = add(engine, mci_loopback());
	for (i = 0; i < engine->address_count && remote && !ret; i++) {
		if (!mci_host_is_loopback(engine->addresses[i]))
			continue;
		ret = mci_fail(
			-EINVAL,
			"would publish the loopback address %s in the metadata service %s, which is on "
			"another host: no peer there could reach it; give --advertise=ADDRESS (or --bind)",
			engine->addresses[i], engine->metadata_shown);
	}
	return ret;
}
