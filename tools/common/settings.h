/* SPDX-License-Identifier: MIT */
/* Settings as the engine would see them: environment over configuration file over default. */
#ifndef TOOLS_COMMON_SETTINGS_H
#define TOOLS_COMMON_SETTINGS_H

/* Value of a setting, free() it; NULL = unset, or the configuration is bad. @path: file, NULL = $MOONCAKE_CONFIG */
char *setting_text(const char *path, const char *key);

#endif
