/* SPDX-License-Identifier: MIT */
/* Log lines to stderr. $MOONCAKE_LOG (else $MC_LOG_LEVEL): error, warning (default), info, debug. */
#ifndef MCI_LOG_H
#define MCI_LOG_H

enum mci_log_level { MCI_LOG_ERROR, MCI_LOG_WARNING, MCI_LOG_INFO, MCI_LOG_DEBUG };

extern int mci_log_threshold;
void mci_log_init(void); /* reads the environment; safe to call often */
void mci_log_write(enum mci_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define mci_log(level, ...)                                \
	do {                                               \
		if ((int)(level) <= mci_log_threshold)     \
			mci_log_write(level, __VA_ARGS__); \
	} while (0)
#define mci_error(...) mci_log(MCI_LOG_ERROR, __VA_ARGS__)
#define mci_warn(...) mci_log(MCI_LOG_WARNING, __VA_ARGS__)
#define mci_info(...) mci_log(MCI_LOG_INFO, __VA_ARGS__)
#define mci_debug(...) mci_log(MCI_LOG_DEBUG, __VA_ARGS__)

#endif
