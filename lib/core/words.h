/* SPDX-License-Identifier: MIT */
/* Likeness of words, for "did you mean". */
#ifndef MCI_WORDS_H
#define MCI_WORDS_H

#define MCI_WORD_MAX 64

/* Edit distance: insertions, deletions, replacements, neighbours swapped. UINT32_MAX if one is longer
 * than 64. */
unsigned int mci_word_distance(const char *a, const char *b);

#endif
