/* SPDX-License-Identifier: MIT */
/*
 * Configuration: one YAML file (two levels: section, key), then the environment, then flags or
 * attributes. Every key that exists is in one table (settings.c), with its type, its default, its
 * environment variables (ours and the classic MC_* one) and a line of help.
 */
#ifndef MCI_SETTINGS_H
#define MCI_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mci_settings;

enum mci_setting_type { MCI_SETTING_TEXT, MCI_SETTING_NUMBER, MCI_SETTING_BOOL };

struct mci_setting {
	const char *key; /* "engine.io_threads" */
	enum mci_setting_type type;
	const char *fallback;	 /* default as text; NULL = unset */
	const char *env;	 /* "MOONCAKE_IO_THREADS" or NULL */
	const char *classic_env; /* "MC_..." or NULL */
	uint64_t min, max;	 /* numbers */
	const char *help;
	const char *choices;	     /* text: "a|b|c", NULL = any */
	bool secret;		     /* not to be shown */
	const char *classic_env_old; /* an older spelling of classic_env, or what classic reads in its stead; or NULL */
};

extern const struct mci_setting mci_setting_table[]; /* ends with key == NULL */

/*
 * Load @path (NULL = $MOONCAKE_CONFIG; none there = defaults) and the environment.
 * -ENOENT, -EINVAL: the sentence names file, line, key, what is wrong and what is right.
 */
int mci_settings_load(const char *path, struct mci_settings **settings);
/* The text of a file alone, without the environment; @name stands in sentences. */
int mci_settings_parse(const char *text, size_t length, const char *name, struct mci_settings **settings);
void mci_settings_free(struct mci_settings *settings);
/* The key must be in the table (asserted). Text may be NULL = unset; owned by the settings. */
const char *mci_settings_text(const struct mci_settings *settings, const char *key);
uint64_t mci_settings_number(const struct mci_settings *settings, const char *key);
bool mci_settings_bool(const struct mci_settings *settings, const char *key);
/* A text that is "auto" (-1), or a number up to @max; -EINVAL with a sentence. */
int mci_settings_auto(const struct mci_settings *settings, const char *key, long max, int *out);
/* Where the value came from: "default", "file", or the name of the variable. */
const char *mci_settings_origin(const struct mci_settings *settings, const char *key);

#endif
