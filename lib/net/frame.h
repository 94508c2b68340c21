/* SPDX-License-Identifier: MIT */
/* Within lib/net: frames of control connections as bytes, and descriptors beside them. */
#ifndef MCI_FRAME_H
#define MCI_FRAME_H

#include "net/conn.h"

#define MCI_FRAME_HEAD 12 /* u32 length, u16 type, u16 flags, u32 id */
#define MCI_FRAME_REST 8  /* of the head, counted in length */
#define MCI_FRAME_FD 1u	  /* flags: a descriptor came with the frame's first byte */

/*
 * The first frame in @p. 0: whole, *@used bytes long (body points into @p; fd is -1). -EAGAIN: not yet;
 * *@used bytes will tell more. -EPROTO: its length is below 8 or above @limit, or an unknown flag is set.
 */
int mci_frame_parse(const uint8_t *p, size_t n, uint32_t limit, struct mci_frame *frame, size_t *used);
void mci_frame_head(uint8_t p[MCI_FRAME_HEAD], uint16_t type, uint16_t flags, uint32_t id, uint32_t length);

/*
 * As mci_sock_sendv(), with @fd beside the first byte (-1: none).
 * -EOPNOTSUPP: a descriptor on anything but a plain unix socket.
 */
ssize_t mci_frame_sendv(struct mci_sock *sock, const struct iovec *iov, int count, int fd);
/* As mci_sock_recvv(). A descriptor that came goes to *@fd if that is -1; every other one is closed. */
ssize_t mci_frame_recvv(struct mci_sock *sock, const struct iovec *iov, int count, int *fd);

#endif
