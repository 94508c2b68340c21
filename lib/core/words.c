// SPDX-License-Identifier: MIT
/* Likeness of words, for "did you mean". */
#include "core/words.h"

#include <stdint.h>
#include <string.h>

unsigned int mci_word_distance(const char *a, const char *b)
{
	unsigned int row[3][MCI_WORD_MAX + 1], n = (unsigned int)strlen(a), m = (unsigned int)strlen(b);

	if (n > MCI_WORD_MAX || m > MCI_WORD_MAX)
		return UINT32_MAX;
	for (unsigned int j = 0; j <= m; j++)
		row[0][j] = j;
	for (unsigned int i = 1; i <= n; i++) {
		unsigned int *now = row[i % 3], *up = row[(i + 2) % 3], *upper = row[(i + 1) % 3];

		now[0] = i;
		for (unsigned int j = 1; j <= m; j++) {
			unsigned int best = up[j - 1] + (a[i - 1] != b[j - 1]);

			if (up[j] + 1 < best)
				best = up[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    upper[j - 2] + 1 < best)
				best = upper[j - 2] + 1;
			now[j] = best;
		}
	}
	return row[n % 3][m];
}
