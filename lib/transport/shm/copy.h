/* SPDX-License-Identifier: MIT */
/* Copies between mapped memories: past the caches where that is faster. */
#ifndef MCI_SHM_COPY_H
#define MCI_SHM_COPY_H

#include <stddef.h>

/*
 * From this many bytes per copy on, streaming stores are used, where the processor has them. Measured on
 * Sapphire Rapids with buffers larger than the caches; see tests/unit/shm_copy.c for what they must obey.
 */
#define MCI_SHM_STREAM_MIN 4096

/* memcpy() whose stores are ordered before every later store of this thread, streaming or not. */
void mci_shm_copy(void *to, const void *from, size_t n);
/* Name of the routine that large copies use here: "avx512", "avx2" or "memcpy". */
const char *mci_shm_copy_name(void);

/* All that this machine can run, for tests: NULL behind the last. */
typedef void (*mci_shm_copy_fn)(void *to, const void *from, size_t n);
mci_shm_copy_fn mci_shm_copy_variant(unsigned int index, const char **name);

#endif
