/* SPDX-License-Identifier: MIT */
/* Sizes and offsets of the contract, the same for every compiler, language and word size. */
#include <stddef.h>
#include <linux/mooncake.h>

#ifdef __cplusplus
#define SAME(a, b) static_assert((a) == (b), #a " is not " #b)
#else
#define SAME(a, b) _Static_assert((a) == (b), #a " is not " #b)
#endif
#define SIZE(type, bytes)	 SAME(sizeof(struct mooncake_##type), bytes)
#define AT(type, field, offset)	 SAME(offsetof(struct mooncake_##type, field), offset)
#define HEAD(type)		 AT(type, size, 0); AT(type, flags, 4)

HEAD(query); SIZE(query, 88);
AT(query, abi_version, 8); AT(query, page_size, 12); AT(query, features, 16); AT(query, context_id, 24);
AT(query, length_max, 40); AT(query, user_bytes, 48); AT(query, user_limit, 56); AT(query, kept_bytes, 64);
AT(query, kept_limit, 72); AT(query, objects, 80); AT(query, objects_max, 84);

HEAD(buffer_alloc); SIZE(buffer_alloc, 88);
AT(buffer_alloc, length, 8); AT(buffer_alloc, numa_node, 16); AT(buffer_alloc, name_length, 20);
AT(buffer_alloc, name, 24); AT(buffer_alloc, id, 32); AT(buffer_alloc, reserved, 36);
AT(buffer_alloc, mmap_offset, 40); AT(buffer_alloc, generation, 48); AT(buffer_alloc, content_id, 56);
AT(buffer_alloc, keep_key, 72);

HEAD(buffer_open); SIZE(buffer_open, 88);
AT(buffer_open, uid, 8); AT(buffer_open, name_length, 12); AT(buffer_open, name, 16); AT(buffer_open, keep_key, 24);
AT(buffer_open, id, 40); AT(buffer_open, holder_pid, 44); AT(buffer_open, length, 48);
AT(buffer_open, mmap_offset, 56); AT(buffer_open, generation, 64); AT(buffer_open, content_id, 72);

HEAD(buffer_unlink); SIZE(buffer_unlink, 40);
AT(buffer_unlink, uid, 8); AT(buffer_unlink, name_length, 12); AT(buffer_unlink, name, 16);
AT(buffer_unlink, keep_key, 24);

HEAD(region_pin); SIZE(region_pin, 32);
AT(region_pin, addr, 8); AT(region_pin, length, 16); AT(region_pin, id, 24); AT(region_pin, reserved, 28);

HEAD(region_import); SIZE(region_import, 24);
AT(region_import, fd, 8); AT(region_import, id, 12); AT(region_import, length, 16);

HEAD(region_bar); SIZE(region_bar, 48);
AT(region_bar, domain, 8); AT(region_bar, bus, 12); AT(region_bar, device, 13); AT(region_bar, function, 14);
AT(region_bar, bar, 15); AT(region_bar, offset, 16); AT(region_bar, length, 24); AT(region_bar, id, 32);
AT(region_bar, reserved, 36); AT(region_bar, mmap_offset, 40);

HEAD(region_cxl); SIZE(region_cxl, 40);
AT(region_cxl, start, 8); AT(region_cxl, length, 16); AT(region_cxl, id, 24); AT(region_cxl, reserved, 28);
AT(region_cxl, mmap_offset, 32);

HEAD(export); SIZE(export, 16);
AT(export, id, 8); AT(export, fd, 12);

HEAD(grant); SIZE(grant, 88);
AT(grant, id, 8); AT(grant, rights, 12); AT(grant, offset, 16); AT(grant, length, 24); AT(grant, expiry_ns, 32);
AT(grant, uses, 40); AT(grant, reserved, 44); AT(grant, context_id, 48); AT(grant, grant, 64); AT(grant, key, 72);

HEAD(attach); SIZE(attach, 72);
AT(attach, key, 8); AT(attach, id, 24); AT(attach, rights, 28); AT(attach, length, 32); AT(attach, mmap_offset, 40);
AT(attach, generation, 48); AT(attach, content_id, 56);

HEAD(revoke); SIZE(revoke, 56);
AT(revoke, id, 8); AT(revoke, uid, 12); AT(revoke, grant, 16); AT(revoke, name, 24); AT(revoke, name_length, 32);
AT(revoke, dmabuf_attached, 36); AT(revoke, pinned, 40); AT(revoke, generation, 48);

HEAD(stat); SIZE(stat, 128);
AT(stat, id, 8); AT(stat, kind, 12); AT(stat, state, 16); AT(stat, rights, 20); AT(stat, length, 24);
AT(stat, mmap_offset, 32); AT(stat, pages, 40); AT(stat, extents, 48); AT(stat, generation, 56);
AT(stat, pinned, 64); AT(stat, contexts, 72); AT(stat, mappings, 76); AT(stat, dmabufs, 80);
AT(stat, dmabuf_attached, 84); AT(stat, grants, 88); AT(stat, owner_uid, 92); AT(stat, content_id, 96);
AT(stat, node_count, 112); AT(stat, reserved, 116); AT(stat, nodes, 120);

HEAD(copy); SIZE(copy, 48);
AT(copy, dst_id, 8); AT(copy, src_id, 12); AT(copy, dst_offset, 16); AT(copy, src_offset, 24); AT(copy, length, 32);
AT(copy, copied, 40);

HEAD(destroy); SIZE(destroy, 16);
AT(destroy, id, 8); AT(destroy, reserved, 12);

SAME(sizeof(struct mooncake_event), 32);
SAME(offsetof(struct mooncake_event, type), 0); SAME(offsetof(struct mooncake_event, id), 4);
SAME(offsetof(struct mooncake_event, value), 8); SAME(offsetof(struct mooncake_event, generation), 16);
SAME(offsetof(struct mooncake_event, count), 24);

/* The numbers too are for ever. */
SAME(MOONCAKE_QUERY, 0xa780); SAME(MOONCAKE_BUFFER_ALLOC, 0xa781); SAME(MOONCAKE_BUFFER_OPEN, 0xa782);
SAME(MOONCAKE_BUFFER_UNLINK, 0xa783); SAME(MOONCAKE_REGION_PIN, 0xa784); SAME(MOONCAKE_REGION_IMPORT, 0xa785);
SAME(MOONCAKE_REGION_BAR, 0xa786); SAME(MOONCAKE_REGION_CXL, 0xa787); SAME(MOONCAKE_EXPORT, 0xa788);
SAME(MOONCAKE_GRANT, 0xa789); SAME(MOONCAKE_ATTACH, 0xa78a); SAME(MOONCAKE_REVOKE, 0xa78b);
SAME(MOONCAKE_STAT, 0xa78c); SAME(MOONCAKE_COPY, 0xa78d); SAME(MOONCAKE_DESTROY, 0xa78e);
