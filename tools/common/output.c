// SPDX-License-Identifier: MIT
/* What tools print. Used by the main thread of a tool only, except out_error() and out_warn(). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "output.h"

static const char *tool_name = "mooncake";
static bool progress_shown;

void out_init(const char *tool)
{
	const char *slash = strrchr(tool, '/');

	tool_name = slash ? slash + 1 : tool;
}

const char *out_tool(void) { return tool_name; }

/* Bytes of the control character at @at, 0 if it is none. C1 characters are two bytes in UTF-8. */
static unsigned int control(const char *at, bool lines)
{
	const unsigned char *c = (const unsigned char *)at;

	if (lines && (*c == '\n' || *c == '\t'))
		return 0;
	if (*c < 0x20 || *c == 0x7f)
		return 1;
	return *c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0 ? 2 : 0;
}

void out_text(FILE *stream, const char *text, bool lines)
{
	unsigned int n;

	while (*text) {
		n = control(text, lines);
		if (n)
			fprintf(stream, "\\x%02x", (unsigned char)text[n - 1]);
		else
			putc(*text, stream);
		text += n ? n : 1;
	}
}

/* The same into memory; free() it. */
static char *plain_copy(const char *text, size_t len)
{
	char *copy = malloc(4 * len + 1), *to = copy;
	size_t i = 0;
	unsigned int n;

	while (copy && i < len) {
		n = control(text + i, false);
		if (n > len - i)
			n = 0;
		if (n)
			to += sprintf(to, "\\x%02x", (unsigned char)text[i + n - 1]);
		else
			*to++ = text[i];
		i += n ? n : 1;
	}
	if (copy)
		*to = 0;
	return copy;
}

static void say(const char *prefix, const char *fmt, va_list args)
{
	char text[2048];

	vsnprintf(text, sizeof(text), fmt, args);
	progress_clear();
	fflush(stdout);
	fprintf(stderr, "%s: %s", tool_name, prefix);
	out_text(stderr, text, false);
	putc('\n', stderr);
}

int out_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("", fmt, args);
	va_end(args);
	return 1;
}

void out_warn(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("warning: ", fmt, args);
	va_end(args);
}

int out_finish(int status)
{
	bool failed;

	progress_clear();
	failed = fflush(stdout);
	if (!failed && !ferror(stdout))
		return status;
	/* An error of an earlier flush left its mark on the stream, but no errno. */
	fprintf(stderr, "%s: cannot write the output: %s\n", tool_name,
		failed ? strerror(errno) : "a write failed; is the disk full?");
	return status ? status : 1;
}

char *out_size(uint64_t bytes, char text[OUT_SIZE_TEXT])
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	unsigned int unit = 0;

	/* 4097 is not "4.00 KiB". */
	while (value >= 1024 && unit < 6 && (bytes >= 1 << 20 || !(bytes % 1024))) {
		value /= 1024;
		unit++;
	}
	if (value == (double)(uint64_t)value)
		snprintf(text, OUT_SIZE_TEXT, "%.0f %s", value, names[unit]);
	else
		snprintf(text, OUT_SIZE_TEXT, "%.*f %s", value < 10 ? 2 : 1, value, names[unit]);
	return text;
}

double out_unit(const char *unit)
{
	static const struct {
		const char *name;
		double bytes;
	} known[] = {
		{"GB", 1e9},	 {"GiB", 1073741824.0}, {"Gb", 1e9 / 8}, {"MB", 1e6},	  {"MiB", 1048576.0},
		{"Mb", 1e6 / 8}, {"KB", 1e3},		{"KiB", 1024.0}, {"Kb", 1e3 / 8},
	};
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(unit, known[i].name))
			return known[i].bytes;
	return 0;
}

char *out_time(double us, char text[OUT_SIZE_TEXT])
{
	if (us < 10)
		snprintf(text, OUT_SIZE_TEXT, "%.1f us", us);
	else if (us < 1000)
		snprintf(text, OUT_SIZE_TEXT, "%.0f us", us);
	else if (us < 1e6)
		snprintf(text, OUT_SIZE_TEXT, "%.2f ms", us / 1e3);
	else
		snprintf(text, OUT_SIZE_TEXT, "%.2f s", us / 1e6);
	return text;
}

bool progress_on(void)
{
	static int on = -1;
	const char *term;

	if (on < 0) {
		term = getenv("TERM");
		on = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb");
	}
	return on;
}

void progress_line(const char *fmt, ...)
{
	struct winsize size;
	char text[512];
	va_list args;
	int width = 80;

	if (!progress_on())
		return;
	if (!ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col > 1)
		width = size.ws_col;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fprintf(stderr, "\r\033[K%.*s", width - 1, text);
	fflush(stderr);
	progress_shown = true;
}

void progress_clear(void)
{
	if (!progress_shown)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress_shown = false;
}

#define TABLE_COLUMNS 32

struct out_table {
	bool markdown, failed;
	unsigned int rows, columns;
	char **cells; /* rows x TABLE_COLUMNS */
	size_t width[TABLE_COLUMNS];
	bool number[TABLE_COLUMNS];
};

struct out_table *out_table_new(bool markdown)
{
	struct out_table *table = calloc(1, sizeof(*table));
	unsigned int i;

	if (!table)
		return NULL;
	table->markdown = markdown;
	for (i = 0; i < TABLE_COLUMNS; i++)
		table->number[i] = true;
	return table;
}

/* Characters, not bytes: UTF-8 continuation bytes take no column. */
static size_t columns_of(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

static void set_cell(struct out_table *table, unsigned int column, const char *text, size_t len)
{
	char *cell = plain_copy(text, len);

	if (!cell) {
		table->failed = true;
		return;
	}
	table->cells[(size_t)table->rows * TABLE_COLUMNS + column] = cell;
	if (columns_of(cell) > table->width[column])
		table->width[column] = columns_of(cell);
	if (table->rows && *cell && !strchr("-+.0123456789", *cell))
		table->number[column] = false;
	if (column >= table->columns)
		table->columns = column + 1;
}

void out_table_row(struct out_table *table, const char *fmt, ...)
{
	unsigned int column = 0;
	char text[4096], *at = text;
	size_t len;
	va_list args;
	char **cells;

	if (!table || table->failed)
		return;
	cells = realloc(table->cells, (size_t)(table->rows + 1) * TABLE_COLUMNS * sizeof(*cells));
	if (!cells) {
		table->failed = true;
		return;
	}
	table->cells = cells;
	memset(cells + (size_t)table->rows * TABLE_COLUMNS, 0, TABLE_COLUMNS * sizeof(*cells));
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	while (column < TABLE_COLUMNS) {
		len = strcspn(at, "|");
		set_cell(table, column++, at, len);
		if (!at[len])
			break;
		at += len + 1;
	}
	table->rows++;
}

static void print_row(const struct out_table *table, unsigned int row, FILE *stream)
{
	unsigned int c;
	const char *cell;
	int pad;

	for (c = 0; c < table->columns; c++) {
		cell = table->cells[(size_t)row * TABLE_COLUMNS + c];
		cell = cell ? cell : "";
		pad = (int)(table->width[c] - columns_of(cell));
		if (table->markdown)
			fputs("| ", stream);
		else if (c)
			fputs("  ", stream);
		if (table->number[c])
			fprintf(stream, "%*s%s", pad, "", cell);
		else
			fprintf(stream, "%s%*s", cell, table->markdown || c + 1 < table->columns ? pad : 0,
				"");
		if (table->markdown)
			fputc(' ', stream);
	}
	fputs(table->markdown ? "|\n" : "\n", stream);
}

static void print_rule(const struct out_table *table, FILE *stream)
{
	unsigned int c;
	size_t i;

	for (c = 0; c < table->columns; c++) {
		fputc('|', stream);
		for (i = 0; i < table->width[c] + 1; i++)
			fputc('-', stream);
		fputc(table->number[c] ? ':' : '-', stream);
	}
	fputs("|\n", stream);
}

void out_table_print(struct out_table *table, FILE *stream)
{
	unsigned int row, i;

	if (!table)
		return;
	for (row = 0; row < table->rows; row++) {
		if (!table->failed)
			print_row(table, row, stream);
		if (!table->failed && table->markdown && !row)
			print_rule(table, stream);
		for (i = 0; i < TABLE_COLUMNS; i++)
			free(table->cells[(size_t)row * TABLE_COLUMNS + i]);
	}
	if (table->failed)
		fprintf(stderr, "%s: not enough memory for the table\n", tool_name);
	free(table->cells);
	free(table);
}
