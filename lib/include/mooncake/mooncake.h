/* SPDX-License-Identifier: MIT */
/* Everything public of libmooncake. */
#ifndef MOONCAKE_H
#define MOONCAKE_H

#include <mooncake/types.h>
#include <mooncake/memory.h>
#include <mooncake/engine.h>
#include <mooncake/admin.h>
#include <mooncake/p2p.h>

#endif
