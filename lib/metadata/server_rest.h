/* SPDX-License-Identifier: MIT */
/* What the HTTP backend and the metadata server have to agree on, beyond the classic REST interface. */
#ifndef MCI_SERVER_REST_H
#define MCI_SERVER_REST_H

/* Header of every answer of ours: clients tell us from classic servers by it. */
#define MCI_HTTP_MARK "X-Mooncake-Metadata"
#define MCI_HTTP_MARK_YES "1"
#define MCI_HTTP_MARK_PATH "wrong-path"
#define MCI_HTTP_TTL "X-Mooncake-TTL-Ms" /* of a PUT or a renewal */
#define MCI_HTTP_MORE "X-Mooncake-More"	 /* of a listing: ask again with after= the last key */

#endif
