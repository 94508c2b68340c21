/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints: events/mooncake. No keys and no addresses. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mooncake

#if !defined(MCK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define MCK_TRACE_H

#include <linux/tracepoint.h>
#include "object.h"

DECLARE_EVENT_CLASS(mooncake_object,
	TP_PROTO(const struct mck_object *object),
	TP_ARGS(object),
	TP_STRUCT__entry(
		__field(u64, serial)
		__field(u64, length)
		__field(u64, generation)
		__field(u32, kind)
	),
	TP_fast_assign(
		__entry->serial = object->serial;
		__entry->length = object->length;
		__entry->generation = object->generation;
		__entry->kind = object->ops->kind;
	),
	TP_printk("serial=%llu kind=%u length=%llu generation=%llu", __entry->serial, __entry->kind,
		  __entry->length, __entry->generation)
);

DEFINE_EVENT(mooncake_object, mooncake_alloc, TP_PROTO(const struct mck_object *object), TP_ARGS(object));
DEFINE_EVENT(mooncake_object, mooncake_pin, TP_PROTO(const struct mck_object *object), TP_ARGS(object));
DEFINE_EVENT(mooncake_object, mooncake_release, TP_PROTO(const struct mck_object *object), TP_ARGS(object));
DEFINE_EVENT(mooncake_object, mooncake_revoke, TP_PROTO(const struct mck_object *object), TP_ARGS(object));

DECLARE_EVENT_CLASS(mooncake_range,
	TP_PROTO(u64 serial, u64 offset, u64 length, u32 rights),
	TP_ARGS(serial, offset, length, rights),
	TP_STRUCT__entry(
		__field(u64, serial)
		__field(u64, offset)
		__field(u64, length)
		__field(u32, rights)
	),
	TP_fast_assign(
		__entry->serial = serial;
		__entry->offset = offset;
		__entry->length = length;
		__entry->rights = rights;
	),
	TP_printk("serial=%llu offset=%llu length=%llu rights=%u", __entry->serial, __entry->offset,
		  __entry->length, __entry->rights)
);

DEFINE_EVENT(mooncake_range, mooncake_grant,
	TP_PROTO(u64 serial, u64 offset, u64 length, u32 rights), TP_ARGS(serial, offset, length, rights));
DEFINE_EVENT(mooncake_range, mooncake_attach,
	TP_PROTO(u64 serial, u64 offset, u64 length, u32 rights), TP_ARGS(serial, offset, length, rights));

/* The pages of a store go back to where they came from. */
TRACE_EVENT(mooncake_free,
	TP_PROTO(u64 pages, u64 blocks),
	TP_ARGS(pages, blocks),
	TP_STRUCT__entry(
		__field(u64, pages)
		__field(u64, blocks)
	),
	TP_fast_assign(
		__entry->pages = pages;
		__entry->blocks = blocks;
	),
	TP_printk("pages=%llu blocks=%llu", __entry->pages, __entry->blocks)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
