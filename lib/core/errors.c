// SPDX-License-Identifier: MIT
/* The last failure of each thread, as a sentence. */
#include "core/errors.h"

#include <stdarg.h>
#include <stdio.h>

#include <mooncake/types.h>

static _Thread_local char last_message[1024];

int mci_fail(int err, const char *fmt, ...)
{
	char text[sizeof(last_message)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	mci_errmsg_set(text);
	return err;
}

void mci_errmsg_set(const char *text) { snprintf(last_message, sizeof(last_message), "%s", text); }

const char *mc_errmsg(void) { return last_message; }

const char *mc_version(void) { return MC_VERSION_STRING; }
