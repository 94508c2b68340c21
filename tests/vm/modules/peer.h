/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Calls of /dev/mooncake_peer, a stand-in for a device that shares dma-bufs: it attaches to those of others and moves
 * data as its DMA engine would, and exports memory that CPUs are not allowed to see. For tests alone.
 */
#ifndef MOONCAKE_PEER_H
#define MOONCAKE_PEER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define PEER_DYNAMIC (1u << 0) /* attach: can be told to move */
#define PEER_PINNED  (1u << 1) /* attach: dynamic, but pinned from the start */

struct peer_attach {
	__s32 fd;
	__u32 flags;
	__u64 length;  /* out: bytes mapped */
	__u32 entries; /* out: of the scatter list */
	__u32 reserved;
};

struct peer_transfer {
	__u64 offset;
	__u64 length;
	__u64 buffer; /* pointer */
	__u32 write;
	__u32 reserved;
};

struct peer_state {
	__u32 mapped;
	__u32 notified; /* how often the exporter said: move */
};

struct peer_export {
	__u64 length;
	__s32 fd; /* out */
	__u32 reserved;
};

#define PEER_ATTACH   _IOWR('P', 1, struct peer_attach)	  /* one per open file */
#define PEER_TRANSFER _IOW('P', 2, struct peer_transfer)  /* maps again if it had to let go */
#define PEER_STATE    _IOR('P', 3, struct peer_state)
#define PEER_DETACH   _IO('P', 4)
#define PEER_EXPORT   _IOWR('P', 5, struct peer_export)

#endif
