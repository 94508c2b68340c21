// SPDX-License-Identifier: MIT
/* Log lines to stderr, one write each so that threads do not mix them. */
#include "core/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "core/errors.h"

int mci_log_threshold = MCI_LOG_WARNING;

static const char *const level_names[] = {"error", "warning", "info", "debug"};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_environment(void)
{
	const char *text = getenv("MOONCAKE_LOG");
	unsigned int i;

	if (!text)
		text = getenv("MC_LOG_LEVEL");
	for (i = 0; text && i < sizeof(level_names) / sizeof(level_names[0]); i++)
		if (!strcasecmp(text, level_names[i]))
			mci_log_threshold = (int)i;
}

void mci_log_init(void) { pthread_once(&once, read_environment); }

void mci_log_write(enum mci_log_level level, const char *fmt, ...)
{
	char line[1200], text[1024];
	struct timespec now;
	struct tm tm;
	va_list ap;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	n = strftime(line, sizeof(line), "%F %T", &tm);
	n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03ld mooncake %s: ", now.tv_nsec / 1000000,
			      level_names[level]);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	mci_plain_text(text, line + n, sizeof(line) - n - 1);
	n = strlen(line);
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}
