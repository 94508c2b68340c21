// SPDX-License-Identifier: MIT
/* A build without USE_HTTP has the same public functions; they say what is missing. */
#include "config.h"

#include <mooncake/admin.h>

#if !USE_HTTP
#include "core/errors.h"

int mc_metadata_server_open(const struct mc_metadata_server_attr *attr, mc_metadata_server **server)
{
	(void)attr;
	(void)server;
	return mci_fail(-EOPNOTSUPP, "this build has no metadata server; build it with 'make USE_HTTP=1'");
}

uint16_t mc_metadata_server_port(const mc_metadata_server *server)
{
	(void)server;
	return 0;
}

int mc_metadata_server_close(mc_metadata_server *server)
{
	(void)server;
	return 0;
}
#endif
