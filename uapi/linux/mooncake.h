/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * The contract between mooncake.ko and user space: /dev/mooncake, its ioctls, its events and its
 * generic netlink family. Half of it is prose; both halves bind.
 */
#ifndef _UAPI_LINUX_MOONCAKE_H
#define _UAPI_LINUX_MOONCAKE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * DOC: Contexts and objects
 *
 * An open file of /dev/mooncake is a context. Everything that the calls below make is an object,
 * named by an id that means something in this context only. Ids are numbers above 0, given lowest
 * first, and used again after DESTROY. A context ends with the last descriptor and the last mapping
 * of its file, in whatever way its process dies; all its ids end with it. What an object stands for
 * lives as long as an id, a mapping, an exported dma-buf or (for kept buffers) its name refers to
 * it.
 *
 * A context also has a random 128-bit id (QUERY) that is no secret within the cluster software but
 * unguessable to others: a grant is made out to it.
 *
 * The file may be handed on (fork, SCM_RIGHTS): who has the descriptor has the context. Mappings
 * are not inherited by a child and cannot grow (VM_DONTCOPY, VM_DONTEXPAND); they do not appear in
 * core dumps.
 *
 * DOC: mmap
 *
 * What an id names is mapped with mmap() of the context's file at the offset that the call which
 * made the id returned, in whole or in part: whole pages, MAP_SHARED. The pages come with the first
 * access, some ahead of it; MAP_POPULATE brings them at once. Access to what was revoked, or whose
 * device is gone, is SIGBUS. mmap() fails with
 *
 *   EINVAL      the range is not one of an id of this context, or exceeds it; not MAP_SHARED
 *   EACCES      PROT_WRITE without the right to write (mprotect() later: the same); PROT_EXEC
 *   ESTALE      the id was revoked
 *   ENOMEM      no memory
 *
 * Offsets take up to 63 bits, and mmap() of 32-bit programs passes 44. What a call of a 32-bit program makes, of up to
 * 4 GiB, has an offset below 2^44 as long as the whole machine has no more than 4095 such ids; all else one above. It
 * is the program that made the id that counts, whoever else has the context.
 *
 * DOC: Calls
 *
 * Every struct begins with its size as the caller knows it, and flags. A newer caller may pass a
 * larger struct to an older module as long as all bytes that the module does not know are zero; an
 * older caller may pass a smaller one, down to the size of the first release: what is missing
 * counts as zero on the way in and is not written on the way out. Outputs are written only on
 * success, but for those that say otherwise. All calls may be made from several threads at once;
 * two that work on the same object are ordered one after the other.
 *
 * Errors that every call may return:
 *
 *   ENOTTY      no such call
 *   EINVAL      size below that of the first release; a value out of its range; a reserved field
 *               that is not zero
 *   E2BIG       size above what the module knows, and a byte beyond that is not zero; size above
 *               64 KiB
 *   EOPNOTSUPP  a flag that the module does not know, or what it cannot do on this kernel or with
 *               this kind of object
 *   EFAULT      the struct, or memory that it points to, cannot be read or written
 *   ENOENT      no such id, name, key or grant
 *   EOVERFLOW   offset + length does not fit in 64 bits
 *   EACCES      it exists, and the caller may not do that
 *   ENOMEM      no memory
 *   EDQUOT      the user's quota, or the limit for kept memory, is reached; a context has objects_max
 *               ids or as many grants; a user has 262144 ids in all
 *   EINTR       a fatal signal arrived during long work; nothing was done
 *   ESTALE      the object was revoked
 *
 * Checks are made in this order: size, flags, reserved fields, values by themselves (EINVAL,
 * EOVERFLOW), ids (ENOENT), kind (EOPNOTSUPP), rights (EACCES), state (ESTALE, EBUSY), range within
 * the object (EINVAL), resources. A call with two faults reports the earlier.
 *
 * Sizes and offsets are bytes. Where pages are shared or mapped, they must be multiples of QUERY's
 * page_size.
 */

#define MOONCAKE_ABI_VERSION 1
#define MOONCAKE_IOC_MAGIC   0xA7
#define MOONCAKE_KEY_SIZE    16
#define MOONCAKE_NAME_MAX    200	  /* bytes of a name, without a terminating zero */
#define MOONCAKE_LENGTH_MAX  (1ULL << 42) /* bytes of one object */
#define MOONCAKE_UID_SELF    0xffffffffu  /* the caller's effective user */

enum {
	MOONCAKE_CMD_BASE = 0x80,
	MOONCAKE_CMD_QUERY = MOONCAKE_CMD_BASE,
	MOONCAKE_CMD_BUFFER_ALLOC,
	MOONCAKE_CMD_BUFFER_OPEN,
	MOONCAKE_CMD_BUFFER_UNLINK,
	MOONCAKE_CMD_REGION_PIN,
	MOONCAKE_CMD_REGION_IMPORT,
	MOONCAKE_CMD_REGION_BAR,
	MOONCAKE_CMD_REGION_CXL,
	MOONCAKE_CMD_EXPORT,
	MOONCAKE_CMD_GRANT,
	MOONCAKE_CMD_ATTACH,
	MOONCAKE_CMD_REVOKE,
	MOONCAKE_CMD_STAT,
	MOONCAKE_CMD_COPY,
	MOONCAKE_CMD_DESTROY,
};

/* Numbers carry no size: the struct does. */
#define MOONCAKE_QUERY	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_QUERY)
#define MOONCAKE_BUFFER_ALLOC  _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_BUFFER_ALLOC)
#define MOONCAKE_BUFFER_OPEN   _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_BUFFER_OPEN)
#define MOONCAKE_BUFFER_UNLINK _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_BUFFER_UNLINK)
#define MOONCAKE_REGION_PIN    _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_REGION_PIN)
#define MOONCAKE_REGION_IMPORT _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_REGION_IMPORT)
#define MOONCAKE_REGION_BAR    _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_REGION_BAR)
#define MOONCAKE_REGION_CXL    _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_REGION_CXL)
#define MOONCAKE_EXPORT	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_EXPORT)
#define MOONCAKE_GRANT	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_GRANT)
#define MOONCAKE_ATTACH	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_ATTACH)
#define MOONCAKE_REVOKE	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_REVOKE)
#define MOONCAKE_STAT	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_STAT)
#define MOONCAKE_COPY	       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_COPY)
#define MOONCAKE_DESTROY       _IO(MOONCAKE_IOC_MAGIC, MOONCAKE_CMD_DESTROY)

/* Rights of a grant, an attachment, an object in its context. WRITE includes READ where memory is mapped. */
#define MOONCAKE_RIGHT_READ  (1u << 0)
#define MOONCAKE_RIGHT_WRITE (1u << 1)

enum {
	MOONCAKE_KIND_BUFFER = 1,
	MOONCAKE_KIND_PIN,
	MOONCAKE_KIND_IMPORT,
	MOONCAKE_KIND_BAR,
	MOONCAKE_KIND_CXL,
};

/* QUERY: what this module, this machine and this caller have. No flags. */
#define MOONCAKE_FEATURE_KEEP	(1ULL << 0) /* kept buffers */
#define MOONCAKE_FEATURE_PIN	(1ULL << 1) /* REGION_PIN */
#define MOONCAKE_FEATURE_IMPORT (1ULL << 2) /* REGION_IMPORT */
#define MOONCAKE_FEATURE_EXPORT (1ULL << 3) /* EXPORT */
#define MOONCAKE_FEATURE_BAR	(1ULL << 4) /* REGION_BAR, mapped by page frame number, CPU only */
#define MOONCAKE_FEATURE_BAR_PAGES                                                                 \
	(1ULL << 5) /* REGION_BAR with MOONCAKE_BAR_PAGES (module parameter bar_pages) */
#define MOONCAKE_FEATURE_CXL	    (1ULL << 6) /* REGION_CXL by window */
#define MOONCAKE_FEATURE_CXL_MAPPED (1ULL << 7) /* REGION_CXL of a mapped dax device */
#define MOONCAKE_FEATURE_HUGE_MAP                                                                  \
	(1ULL << 8) /* 2 MiB page table entries; set only where a self-test passed */
#define MOONCAKE_FEATURE_REPLACE (1ULL << 9) /* REVOKE with MOONCAKE_REVOKE_REPLACE */

struct mooncake_query {
	__u32 size, flags;
	__u32 abi_version; /* out: MOONCAKE_ABI_VERSION of the module */
	__u32 page_size;   /* out: granularity of mappings, grants and lengths */
	__aligned_u64 features;
	__u8 context_id[MOONCAKE_KEY_SIZE]; /* out: to whom grants for this context are made out */
	__aligned_u64 length_max;	    /* out: bytes of one object */
	__aligned_u64 user_bytes;	    /* out: charged to the calling user, buffers and pins */
	__aligned_u64 user_limit;	    /* out: his quota; all ones: none */
	__aligned_u64 kept_bytes;	    /* out: in kept buffers of all users */
	__aligned_u64 kept_limit;	    /* out: all ones: none */
	__u32 objects, objects_max;	    /* out: of this context */
};

/*
 * BUFFER_ALLOC: memory of the kernel, zeroed, in blocks as large as can be had (2 MiB first),
 * charged to the user's quota and to the memory cgroup. length is rounded up to whole pages. A
 * mapping of [mmap_offset, mmap_offset + length) of the file shows it; MAP_SHARED is required. Its
 * pages are ordinary ones: ibv_reg_mr() and O_DIRECT take the mapping.
 *
 * MOONCAKE_BUFFER_KEEP: the buffer gets a name and outlives its processes, until BUFFER_UNLINK, the
 * unloading of the module (which kept buffers forbid) or the end of the machine's uptime. Names
 * belong to users: (global user id, name). The creator holds it exclusively, as by BUFFER_OPEN with
 * MOONCAKE_OPEN_EXCLUSIVE, if MOONCAKE_BUFFER_EXCLUSIVE is set. Until BUFFER_ALLOC returns, the name
 * is taken but opens nothing. keep_key opens it from anywhere,
 * other user namespaces included: whoever knows it owns the buffer.
 *
 * EEXIST: the user has a kept buffer of that name. EINVAL: length 0 or above length_max; a node
 * that is not there; a name that is empty, too long or has bytes other than [A-Za-z0-9._-] or
 * begins with a dot; a name without KEEP; EXCLUSIVE without KEEP. EACCES: KEEP by a user whom the
 * module's parameters do not allow it.
 */
#define MOONCAKE_BUFFER_KEEP	  (1u << 0)
#define MOONCAKE_BUFFER_EXCLUSIVE (1u << 1)

struct mooncake_buffer_alloc {
	__u32 size, flags;
	__aligned_u64 length; /* in, out */
	__s32 numa_node;      /* prefer this node; -1: the caller's */
	__u32 name_length;
	__aligned_u64 name; /* pointer to name_length bytes */
	__u32 id;	    /* out */
	__u32 reserved;
	__aligned_u64 mmap_offset;	    /* out */
	__aligned_u64 generation;	    /* out: 1 */
	__u8 content_id[MOONCAKE_KEY_SIZE]; /* out: random; stays as long as the content can be what was written */
	__u8 keep_key[MOONCAKE_KEY_SIZE];   /* out: zeros without KEEP */
};

/*
 * BUFFER_OPEN: a kept buffer by (user, name), or by its keep key (MOONCAKE_OPEN_BY_KEY: then uid,
 * name and name_length are zero; without the flag keep_key is zero: EINVAL). By name: the effective
 * user must be its owner, under an id that the caller's user namespace has, or have CAP_IPC_OWNER in
 * the initial user namespace, else EACCES; uid is read in the caller's user namespace.
 *
 * MOONCAKE_OPEN_EXCLUSIVE: no other context has it open, now or as long as this id or a mapping made
 * by it is there (DESTROY alone does not end it, since who has a mapping can still write); the
 * generation grows by one. EBUSY: another context has it open so (for an open without the flag: has
 * it open exclusively); holder_pid is then written although the call fails: the process that opened
 * it, as seen in the caller's PID namespace, 0 if not visible there. Ids that were revoked do not
 * count, nor do attachments, and dma-bufs only while they are mapped: they are there by the leave of
 * an owner, this one's or an earlier one's; REVOKE ends them. The same context may open it more than once.
 */
#define MOONCAKE_OPEN_EXCLUSIVE (1u << 0)
#define MOONCAKE_OPEN_BY_KEY	(1u << 1)

struct mooncake_buffer_open {
	__u32 size, flags;
	__u32 uid; /* MOONCAKE_UID_SELF: the caller */
	__u32 name_length;
	__aligned_u64 name;
	__u8 keep_key[MOONCAKE_KEY_SIZE];   /* in: BY_KEY, else zeros; out: unchanged */
	__u32 id;			    /* out */
	__u32 holder_pid;		    /* out, only with EBUSY; 0 with success */
	__aligned_u64 length;		    /* out */
	__aligned_u64 mmap_offset;	    /* out */
	__aligned_u64 generation;	    /* out */
	__u8 content_id[MOONCAKE_KEY_SIZE]; /* out */
};

/*
 * BUFFER_UNLINK: the name ends at once, the memory with its last id, mapping and dma-buf. Rights as
 * for BUFFER_OPEN. A buffer that somebody holds may be unlinked.
 */
#define MOONCAKE_UNLINK_BY_KEY (1u << 0)

struct mooncake_buffer_unlink {
	__u32 size, flags;
	__u32 uid;
	__u32 name_length;
	__aligned_u64 name;
	__u8 keep_key[MOONCAKE_KEY_SIZE];
};

/*
 * REGION_PIN: pin pages of the caller for long, for EXPORT and COPY. Whole pages; anonymous,
 * shmem/memfd, hugetlb and device-dax memory only (else EOPNOTSUPP). Charged to the user's locked
 * memory against the caller's RLIMIT_MEMLOCK (CAP_IPC_LOCK exempt; beyond: ENOMEM) and released to
 * the same user, whatever became of the process. Others cannot map it: GRANT gives EOPNOTSUPP.
 * Unmapping the range revokes the object (an event tells). Read-only mappings: EFAULT unless the
 * kernel can unshare them.
 */
struct mooncake_region_pin {
	__u32 size, flags;
	__aligned_u64 addr;
	__aligned_u64 length;
	__u32 id; /* out */
	__u32 reserved;
};

/*
 * REGION_IMPORT: hold a dma-buf of another driver (GPU memory, udmabuf): COPY, where its exporter
 * lets the CPU see it, and EXPORT, which gives the same dma-buf again. No GRANT. A dma-buf whose file
 * is not open for writing has no right to write here either. EBADF: no such descriptor; EINVAL: not a
 * dma-buf.
 */
struct mooncake_region_import {
	__u32 size, flags;
	__s32 fd;
	__u32 id;	      /* out */
	__aligned_u64 length; /* out */
};

/*
 * REGION_BAR: a range of a memory BAR of a PCI device. CAP_SYS_RAWIO in the initial user namespace
 * (else EPERM), and not under lockdown for integrity (EPERM). ENODEV: no such device; EINVAL: no
 * such memory BAR, or the range is not whole pages within it; EBUSY: a driver has claimed it, or is just
 * coming or going; EACCES: the range meets the MSI-X table or its pending bits. Mapped write-combining if
 * prefetchable, else uncached. The device is kept powered with memory decode on; when it is unbound
 * or removed, mappings are zapped, the object is revoked and an event tells. MOONCAKE_BAR_PAGES:
 * back it with struct pages, so that NICs may register the mapping: only with the module parameter
 * bar_pages, and in whole units of memory hotplug, 2 MiB on x86 (else EOPNOTSUPP). The device then
 * cannot be unbound or removed while anybody holds one of the pages: that waits. Other PCI devices are
 * let to its dma-bufs only where the kernel knows a way between the two (CONFIG_PCI_P2PDMA).
 */
#define MOONCAKE_BAR_PAGES (1u << 0)

struct mooncake_region_bar {
	__u32 size, flags;
	__u32 domain;
	__u8 bus, device, function, bar;
	__aligned_u64 offset;
	__aligned_u64 length; /* 0: to the end of the BAR; out: the length */
	__u32 id;	      /* out */
	__u32 reserved;
	__aligned_u64 mmap_offset; /* out */
};

/*
 * REGION_CXL: memory of a CXL or soft-reserved window.
 * By window (no flag): [start, start + length) of the physical address space as /proc/iomem shows
 * it. CAP_SYS_RAWIO, not under lockdown (EPERM). The whole range must be "CXL Window" or "Soft
 * Reserved" and no RAM (else EACCES), free of other owners and of struct pages (else EBUSY), and in
 * whole units of memory hotplug, 2 MiB on x86 (else EINVAL). A window is free again when the last of
 * its pages is let go.
 * MOONCAKE_CXL_MAPPED: start is the address of a mapping of a dax device in the caller; its pages
 * are pinned (as by REGION_PIN, and with its limits); EOPNOTSUPP: the mapping is of something else.
 * Needs no capability: who may open the device may pin it.
 */
#define MOONCAKE_CXL_MAPPED (1u << 0)

struct mooncake_region_cxl {
	__u32 size, flags;
	__aligned_u64 start;
	__aligned_u64 length;
	__u32 id; /* out */
	__u32 reserved;
	__aligned_u64 mmap_offset; /* out: 0 with MAPPED */
};

/*
 * EXPORT: a dma-buf of the whole object, close-on-exec: pin once, register with every NIC
 * (ibv_reg_dmabuf_mr). mmap() of it works for buffers and windows, not for pins. It keeps the
 * memory alive, not the id. EACCES: an object without the right to write, with
 * MOONCAKE_EXPORT_WRITE. BARs need BAR_PAGES (else EOPNOTSUPP). Without MOONCAKE_EXPORT_WRITE devices
 * are refused that do not promise to read only, which those for RDMA do not. It ends with what
 * revokes the id; a REVOKE that the id survives takes its mappings away and lets them come back.
 */
#define MOONCAKE_EXPORT_WRITE (1u << 0)

struct mooncake_export {
	__u32 size, flags;
	__u32 id;
	__s32 fd; /* out */
};

/*
 * GRANT: a key for a range of an object, for one context. Whoever learns the key can use it only
 * from that context. Buffers, windows and BARs; others EOPNOTSUPP. Granting on from an attachment:
 * EOPNOTSUPP. A grant lives until its uses are spent, it expires, it is revoked or the object is, or
 * the id that it was made of ends. ATTACH spends one use; an attachment stays when the grant has
 * ended, but not when it is revoked. The grant's number means something, for REVOKE, as long as the
 * grant lives or has attachments; after that REVOKE of it has no effect, and mostly gives ENOENT.
 *
 * EINVAL: no uses, rights other than the two, an expiry that is past, parts of pages, a range that is
 * not within the object.
 */
struct mooncake_grant {
	__u32 size, flags;
	__u32 id;
	__u32 rights;		 /* READ, or READ | WRITE */
	__aligned_u64 offset;	 /* whole pages */
	__aligned_u64 length;	 /* whole pages; 0: to the end */
	__aligned_u64 expiry_ns; /* CLOCK_BOOTTIME; 0: never; in the past: EINVAL */
	__u32 uses;		 /* at least 1 */
	__u32 reserved;
	__u8 context_id[MOONCAKE_KEY_SIZE]; /* the receiver's; not this context's own: EINVAL */
	__aligned_u64 grant;		    /* out: a number in this context, for REVOKE and STAT */
	__u8 key[MOONCAKE_KEY_SIZE];	    /* out */
};

/*
 * ATTACH: spend a key. ENOENT: no such key, or not for this context, or spent, or expired, or
 * revoked: these are not told apart. The attachment is an object of this context: map it, COPY with
 * it, EXPORT it, DESTROY it. Its generation is the object's.
 */
struct mooncake_attach {
	__u32 size, flags;
	__u8 key[MOONCAKE_KEY_SIZE];
	__u32 id;			    /* out */
	__u32 rights;			    /* out */
	__aligned_u64 length;		    /* out */
	__aligned_u64 mmap_offset;	    /* out */
	__aligned_u64 generation;	    /* out */
	__u8 content_id[MOONCAKE_KEY_SIZE]; /* out */
};

/*
 * REVOKE. Of a grant (MOONCAKE_REVOKE_GRANT; grant is in, id is 0): the grant and all its
 * attachments. Of an object (no flag; id is in): all its grants and attachments, and the object
 * itself for every other context that has it open; the caller keeps his own use of it. Of a kept
 * buffer by name (MOONCAKE_REVOKE_NAMED: uid, name, name_length as for BUFFER_OPEN): for all
 * contexts; the name stays, and opens the buffer anew. Of an attachment: EOPNOTSUPP (DESTROY it).
 * GRANT with another flag, and fields that the form at hand does not use but that are not zero:
 * EINVAL.
 *
 * What it promises: once the call returns, no new ATTACH, mmap, page fault or COPY succeeds through
 * what was revoked, and no CPU reaches the memory through a mapping of it: access gives SIGBUS.
 * What it cannot promise is the end of DMA: memory registrations, io_uring buffers and O_DIRECT
 * hold pins of their own. pinned says how many pages of the whole object somebody holds so, besides the
 * module and the page tables of whoever may still map it; with REPLACE, of the old pages. 0: none, but for
 * a page that is unmapped and touched again while it is looked at. Above 0 it is an upper bound: of a block
 * of several pages the kernel tells only how many references there are, so a page that is held twice may
 * count as two, up to the size of the block; and a page counts that is being looked at just then. Always 0
 * where others' references cannot be told: pins (REGION_CXL with MAPPED too), imports, BARs without
 * BAR_PAGES. dma-bufs and devices attached to them are not in it: dmabuf_attached counts those devices;
 * dynamic importers are told to move. A page goes back to the allocator with its last pin only.
 * MOONCAKE_REVOKE_REPLACE (buffers): the object gets fresh, zeroed pages, so that lingering DMA hits
 * orphans; generation and content id are new. The old pages count against the quota until dma-bufs let go
 * of them.
 *
 * The generation of the object grows by one with every REVOKE of an object.
 */
#define MOONCAKE_REVOKE_GRANT	(1u << 0)
#define MOONCAKE_REVOKE_NAMED	(1u << 1)
#define MOONCAKE_REVOKE_REPLACE (1u << 2)

struct mooncake_revoke {
	__u32 size, flags;
	__u32 id;
	__u32 uid;
	__aligned_u64 grant;
	__aligned_u64 name;
	__u32 name_length;
	__u32 dmabuf_attached;	  /* out */
	__aligned_u64 pinned;	  /* out: pages */
	__aligned_u64 generation; /* out */
};

/*
 * STAT, also of what was revoked. length, pages, extents, pinned and nodes are about the range of the
 * id (of an attachment, what was granted), the rest about the object. nodes (pointer, or 0: then
 * node_count is 0) receives node_count numbers at most: pages on NUMA node 0, 1, ...; node_count
 * comes back as the number of nodes there may be.
 */
#define MOONCAKE_STATE_REVOKED	  (1u << 0)
#define MOONCAKE_STATE_KEPT	  (1u << 1)
#define MOONCAKE_STATE_EXCLUSIVE  (1u << 2)
#define MOONCAKE_STATE_ATTACHMENT (1u << 3)
#define MOONCAKE_STATE_SUSPECT                                                                     \
	(1u << 4) /* pin: the mapping changed under it; it is checked before its next use */

struct mooncake_stat {
	__u32 size, flags;
	__u32 id;
	__u32 kind;   /* out: MOONCAKE_KIND_* */
	__u32 state;  /* out: MOONCAKE_STATE_* */
	__u32 rights; /* out: of this context */
	__aligned_u64 length;
	__aligned_u64 mmap_offset; /* out: 0 if it cannot be mapped */
	__aligned_u64 pages;	   /* out */
	__aligned_u64 extents;	   /* out: runs of adjacent pages */
	__aligned_u64 generation;
	__aligned_u64 pinned; /* out: as REVOKE says it */
	__u32 contexts; /* out: with an id of it or a mapping, attachments included, revoked ones not */
	__u32 mappings; /* out: virtual memory areas */
	__u32 dmabufs;	/* out */
	__u32 dmabuf_attached; /* out */
	__u32 grants;	       /* out: live ones */
	__u32 owner_uid; /* out: in the caller's user namespace; the overflow id if it has no name there */
	__u8 content_id[MOONCAKE_KEY_SIZE];
	__u32 node_count; /* in, out */
	__u32 reserved;
	__aligned_u64 nodes;
};

/*
 * COPY: between two objects of this context, without mapping either; needs READ of the source and
 * WRITE of the destination (EACCES). Ranges may have any alignment; they must not overlap within
 * one memory (EINVAL). A fatal signal ends it with EINTR; copied is then written although the call
 * fails.
 */
struct mooncake_copy {
	__u32 size, flags;
	__u32 dst_id, src_id;
	__aligned_u64 dst_offset, src_offset;
	__aligned_u64 length; /* not 0 */
	__aligned_u64 copied; /* out, also with EINTR */
};

/* DESTROY: the id ends. Mappings made by it stay until they are unmapped. */
struct mooncake_destroy {
	__u32 size, flags;
	__u32 id;
	__u32 reserved;
};

/*
 * DOC: Events
 *
 * read() returns whole structs, as many as there are and fit, EAGAIN if there are none and the file
 * does not block, EINVAL if not even one fits; EFAULT loses none. poll() says POLLIN. Events of one
 * object and type are one: count says how often it happened since the last read. Generations in STAT
 * are what counts; an event is a hint to look. After DESTROY none arrives for that id.
 */
enum {
	/* the object or attachment was revoked by somebody else, its range was unmapped, its device went away */
	MOONCAKE_EVENT_REVOKED = 1,
	/* one of our grants was used; value: the grant */
	MOONCAKE_EVENT_ATTACHED,
	/* the last of an attachment of our object is gone: id, mappings, dma-bufs; value: the grant */
	MOONCAKE_EVENT_DETACHED,
	/* a pinned range changed its mapping */
	MOONCAKE_EVENT_SUSPECT,
};

struct mooncake_event {
	__u32 type;
	__u32 id; /* object in this context */
	__aligned_u64 value;
	__aligned_u64 generation;
	__aligned_u64 count;
};

/*
 * DOC: Generic netlink
 *
 * Family "mooncake", version 1: dumps for administration, and best-effort messages in the group
 * "events". Nothing that must be correct hangs on it. A dump shows the caller's own (same effective
 * user, whatever his namespace calls him), with CAP_SYS_ADMIN in the initial user namespace all; it
 * can be long: it resumes by serial number. Messages in the group carry A_EVENT, A_SERIAL, A_KIND and
 * A_LENGTH, in the initial network namespace; where the kernel can, only CAP_SYS_ADMIN may listen.
 */
#define MOONCAKE_GENL_NAME    "mooncake"
#define MOONCAKE_GENL_VERSION 1
#define MOONCAKE_GENL_GROUP   "events"

enum {
	MOONCAKE_GENL_CMD_UNSPEC,
	MOONCAKE_GENL_CMD_OBJECT_GET, /* dump: live objects; a do request with A_SERIAL: that one */
	MOONCAKE_GENL_CMD_KEPT_GET,   /* dump: kept buffers */
	MOONCAKE_GENL_CMD_EVENT,      /* multicast: A_EVENT and the object */
};

enum {
	MOONCAKE_GENL_A_UNSPEC,
	MOONCAKE_GENL_A_PAD,
	MOONCAKE_GENL_A_SERIAL,	    /* u64: module-wide, never used again */
	MOONCAKE_GENL_A_KIND,	    /* u32 */
	MOONCAKE_GENL_A_STATE,	    /* u32: MOONCAKE_STATE_* */
	MOONCAKE_GENL_A_LENGTH,	    /* u64 */
	MOONCAKE_GENL_A_GENERATION, /* u64 */
	MOONCAKE_GENL_A_UID,	    /* u32 */
	MOONCAKE_GENL_A_PID,	    /* u32: of the process that made or holds it, 0: none */
	MOONCAKE_GENL_A_CONTEXTS,   /* u32 */
	MOONCAKE_GENL_A_MAPPINGS,   /* u32 */
	MOONCAKE_GENL_A_GRANTS,	    /* u32 */
	MOONCAKE_GENL_A_DMABUFS,    /* u32 */
	MOONCAKE_GENL_A_NAME,	    /* bytes */
	MOONCAKE_GENL_A_CONTENT_ID, /* 16 bytes */
	MOONCAKE_GENL_A_EVENT,	    /* u32: MOONCAKE_EVENT_*, or an administration event below */
	__MOONCAKE_GENL_A_MAX,
};

#define MOONCAKE_GENL_A_MAX (__MOONCAKE_GENL_A_MAX - 1)

/* Administration events, multicast only. */
enum {
	MOONCAKE_EVENT_CREATED = 0x100,
	MOONCAKE_EVENT_DESTROYED,
	MOONCAKE_EVENT_KEPT,
	MOONCAKE_EVENT_UNLINKED,
};

#endif
