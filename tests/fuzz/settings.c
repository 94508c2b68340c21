// SPDX-License-Identifier: MIT
/* The configuration parser takes any bytes: it answers with settings within their bounds, or with a sentence.
 */
#include <stdlib.h>

#include <mooncake/types.h>

#include "core/errors.h"
#include "core/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mci_settings *settings = NULL;
	int ret = mci_settings_parse((const char *)data, size, "fuzz.yaml", &settings);

	if (ret) {
		if (settings || !*mc_errmsg())
			abort();
		return 0;
	}
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		uint64_t number = mci_settings_number(settings, s->key);

		if (s->type == MCI_SETTING_NUMBER && (number < s->min || number > s->max))
			abort();
	}
	mci_settings_free(settings);
	return 0;
}
