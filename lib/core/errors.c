// SPDX-License-Identifier: MIT
/* The last failure of each thread, as a sentence. */
#include "core/errors.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <mooncake/types.h>

static _Thread_local char last_message[1024];

int mci_fail(int err, const char *fmt, ...)
{
	char text[sizeof(last_message)];
	size_t n;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = strlen(text);
	if ((err == -EMFILE || err == -ENFILE) && !strstr(text, "ulimit -n"))
		snprintf(text + n, sizeof(text) - n, "%s",
			 err == -EMFILE ? "; raise the limit on open files (ulimit -n, LimitNOFILE= in a systemd unit)"
					: "; the whole system is out of file descriptors (sysctl fs.file-max, and "
					  "ulimit -n of what uses them)");
	mci_plain_text(text, last_message, sizeof(last_message));
	return err;
}

char *mci_plain_text(const char *text, char *out, size_t size)
{
	const unsigned char *at = (const unsigned char *)text;
	size_t n = 0;

	for (; *at && n + 5 < size; at++) {
		/* C1 control characters are two bytes in UTF-8. */
		bool c1 = *at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0;

		if (c1)
			at++;
		if (c1 || *at < 0x20 || *at == 0x7f)
			n += (size_t)snprintf(out + n, size - n, "\\x%02x", *at);
		else
			out[n++] = (char)*at;
	}
	out[n] = '\0';
	return out;
}

char *mci_shown_uri(const char *uri, char *out, size_t size)
{
	const char *scheme = strstr(uri, "://");
	const char *at = strrchr(uri, '@');

	if (at)
		snprintf(out, size, "%.*s***%.200s", scheme && scheme < at ? (int)(scheme + 3 - uri) : 0, uri, at);
	else
		snprintf(out, size, "%.200s", uri);
	return out;
}

void mci_errmsg_set(const char *text) { snprintf(last_message, sizeof(last_message), "%s", text); }

const char *mc_errmsg(void) { return last_message; }

const char *mc_version(void) { return MC_VERSION_STRING; }
