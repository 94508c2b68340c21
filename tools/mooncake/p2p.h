/* SPDX-License-Identifier: MIT */
/* mooncake p2p: what its two files share. */
#ifndef TOOLS_MOONCAKE_P2P_H
#define TOOLS_MOONCAKE_P2P_H

#include <stdatomic.h>

#include "common/p2p.h"

struct p2p_flags {
	struct p2p_options o;
	uint64_t max_shard_size, piece_size, timeout_ms, stall_ms, parallel;
	bool force, serve, json;
};
extern struct p2p_flags p2p;

/* p2p.c: 0 or exit status; a negative errno after a sentence, but for -ENOENT, which is left to the caller to
 * tell. */
/* @may_exist: -EEXIST, too, is the caller's to tell (mc_errmsg()). */
int p2p_register_file(mc_p2p *store, const char *name, const char *path, bool may_exist);
int p2p_get_file(mc_p2p *store, const char *name, const char *path, bool may_lack,
		 struct mc_p2p_progress *progress);

/*
 * p2p_tree.c: a directory is an object NAME/PATH for each file that is not empty, and NAME/.mooncake-tree,
 * which lists them all with modes; registered last, so that who finds it finds all. Of files with the same bytes one
 * is an object, as a store has each content once; the list says of the others which they are the same as.
 */
int p2p_tree_register(mc_p2p *store, const char *name, const char *directory);
/* -ENOENT: @name is no directory there. @progress: sums over all files. */
int p2p_tree_try(mc_p2p *store, const char *name, const char *directory, struct mc_p2p_progress *progress);

#endif
