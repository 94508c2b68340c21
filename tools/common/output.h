/* SPDX-License-Identifier: MIT */
/* What tools print: errors, units, one-line progress on a terminal, simple tables. */
#ifndef TOOLS_COMMON_OUTPUT_H
#define TOOLS_COMMON_OUTPUT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Name that errors begin with; call once in main(). */
void out_init(const char *tool);
const char *out_tool(void);

/* "<tool>: <sentence>" on stderr, after clearing a progress line. out_error() returns 1, the exit status. */
int out_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void out_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Text of others, who may mean to steer the terminal, with control bytes as \xNN; line breaks and tabs stay if
 * @lines. Sentences and table cells are treated so by themselves.
 */
void out_text(FILE *stream, const char *text, bool lines);

/* Flush stdout; @status, or 1 with a sentence if something could not be written. Last call of main(). */
int out_finish(int status);

/* "64 KiB", "1.5 GiB", "100 B": exact where it can be. */
#define OUT_SIZE_TEXT 32
char *out_size(uint64_t bytes, char text[OUT_SIZE_TEXT]);

/* Units of a rate, as --report_unit names them: GB GiB Gb MB MiB Mb KB KiB Kb. 0 if unknown: bytes per unit
 * else. */
double out_unit(const char *unit);

/* Microseconds with a fitting unit: "12 us", "3.4 ms", "1.2 s". */
char *out_time(double us, char text[OUT_SIZE_TEXT]);

/* One line that overwrites itself on stderr, if that is a terminal; nothing in a pipe. */
bool progress_on(void);
void progress_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void progress_clear(void);

/*
 * A table with aligned columns. Rows are '|'-separated; the first row is the heading. Columns whose
 * cells are all numbers are right-aligned. markdown = true gives a table for a document.
 */
struct out_table;
struct out_table *out_table_new(bool markdown);
void out_table_row(struct out_table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Print and free. */
void out_table_print(struct out_table *table, FILE *stream);

#endif
