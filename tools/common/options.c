// SPDX-License-Identifier: MIT
/*
 * Command-line flags from a table. Parsing happens once, on one thread, before anything else; texts point
 * into argv or at the table's defaults and live as long as the process.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <mooncake/types.h>

#include "options.h"

#define NAME_MAX_LEN 64
#define EXIT_OK (-1)
#define EXIT_USAGE (-1 - OPT_EXIT_USAGE)

static char plain(char c) { return c == '-' ? '_' : c; }

/* Compare @len bytes of @word with @name, '-' and '_' being one. */
static bool name_equals(const char *name, const char *word, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (!name[i] || plain(name[i]) != plain(word[i]))
			return false;
	return !name[len];
}

static const struct opt *find(const struct opt *table, const char *word, size_t len)
{
	for (; table->name; table++)
		if (name_equals(table->name, word, len))
			return table;
	return NULL;
}

/* Levenshtein distance, cut off at words of NAME_MAX_LEN. */
static unsigned int distance(const char *a, size_t alen, const char *b)
{
	unsigned int row[NAME_MAX_LEN + 1], diag, up, cost;
	size_t blen = strlen(b), i, j;

	if (alen > NAME_MAX_LEN || blen > NAME_MAX_LEN)
		return NAME_MAX_LEN;
	for (j = 0; j <= blen; j++)
		row[j] = j;
	for (i = 1; i <= alen; i++) {
		diag = row[0];
		row[0] = i;
		for (j = 1; j <= blen; j++) {
			up = row[j];
			cost = diag + (plain(a[i - 1]) != plain(b[j - 1]));
			if (up + 1 < cost)
				cost = up + 1;
			if (row[j - 1] + 1 < cost)
				cost = row[j - 1] + 1;
			row[j] = cost;
			diag = up;
		}
	}
	return row[blen];
}

/* Near enough to be a slip: a third of the word, at least two letters; or one begins with the other. */
static bool near_enough(const char *word, size_t len, const char *name, unsigned int dist)
{
	if (dist <= (len < 6 ? 2 : len / 3))
		return true;
	return len >= 3 &&
	       (!strncmp(name, word, len) || (strlen(name) >= 4 && !strncmp(name, word, strlen(name))));
}

const char *opt_nearest(const char *word, const char *const *candidates, unsigned int count)
{
	unsigned int best = ~0u, dist, i;
	size_t len = strlen(word);
	const char *found = NULL;

	for (i = 0; i < count; i++) {
		dist = distance(word, len, candidates[i]);
		if (dist < best && near_enough(word, len, candidates[i], dist)) {
			best = dist;
			found = candidates[i];
		}
	}
	return found;
}

static const char *nearest_flag(const struct opt *table, const char *word, size_t len)
{
	unsigned int best = ~0u, dist;
	const char *found = NULL;

	for (; table->name; table++) {
		dist = distance(word, len, table->name);
		if (dist < best && near_enough(word, len, table->name, dist)) {
			best = dist;
			found = table->name;
		}
	}
	return found;
}

static const struct unit {
	const char *name;
	double factor;
} units[] = {
	{"", 1},
	{"B", 1},
	{"K", 1024.0},
	{"KiB", 1024.0},
	{"KB", 1e3},
	{"kB", 1e3},
	{"M", 1048576.0},
	{"MiB", 1048576.0},
	{"MB", 1e6},
	{"G", 1073741824.0},
	{"GiB", 1073741824.0},
	{"GB", 1e9},
	{"T", 1099511627776.0},
	{"TiB", 1099511627776.0},
	{"TB", 1e12},
	{"k", 1024.0},
	{"m", 1048576.0},
	{"g", 1073741824.0},
	{"t", 1099511627776.0},
};

int opt_parse_size(const char *text, uint64_t *bytes)
{
	unsigned long long whole;
	double part = 0, total;
	const char *digits;
	char *end;
	size_t i;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	whole = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end == '.') {
		digits = end;
		part = strtod(digits, &end);
		if (end == digits + 1 || part < 0 || part >= 1 || strpbrk(digits, "eExXpP"))
			return -EINVAL;
	}
	while (*end == ' ')
		end++;
	for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(end, units[i].name))
			continue;
		total = ((double)whole + part) * units[i].factor;
		if (total >= 18446744073709551615.0)
			return -ERANGE;
		*bytes = whole * (uint64_t)units[i].factor + (uint64_t)(part * units[i].factor);
		return 0;
	}
	return -EINVAL;
}

static int usage_error(const struct opt_set *set)
{
	fprintf(stderr, " (%s --help lists the flags)\n", set->tool);
	return EXIT_USAGE;
}

/* The range of a flag in words, e.g. "a number from 1 to 64". */
static const char *range_text(const struct opt *o, char *text, size_t size)
{
	static const char *const kinds[] = {
		[OPT_UINT] = "a whole number",
		[OPT_INT] = "a whole number",
		[OPT_SIZE] = "a number of bytes such as 65536, 64K or 1GiB",
		[OPT_DOUBLE] = "a number",
	};
	const char *kind = kinds[o->type];
	char min[32], max[32];

	snprintf(min, sizeof(min), "%lld", (long long)o->min);
	snprintf(max, sizeof(max), "%lld", (long long)o->max);
	if (!o->min && !o->max)
		snprintf(text, size, "%s%s", kind, o->type == OPT_UINT ? ", 0 or more" : "");
	else if (!o->max && o->min > 0)
		snprintf(text, size, "%s, %s or more", kind, min);
	else
		snprintf(text, size, "%s from %s to %s", kind, min, max);
	return text;
}

static bool in_range(const struct opt *o, double value)
{
	if (!o->min && !o->max)
		return true;
	if (value < (double)o->min)
		return false;
	return (!o->max && o->min > 0) || value <= (double)o->max;
}

static int read_bool(const char *text, bool *value)
{
	static const char *const yes[] = {"true", "1", "yes", "on", "t", "y"};
	static const char *const no[] = {"false", "0", "no", "off", "f", "n"};
	size_t i;

	for (i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
		if (!strcasecmp(text, yes[i])) {
			*value = true;
			return 0;
		}
		if (!strcasecmp(text, no[i])) {
			*value = false;
			return 0;
		}
	}
	return -EINVAL;
}

/* "--check false": the word is the flag's value, unless it could be an argument. */
static bool bool_follows(const struct opt_set *set, int next, int argc, char **argv)
{
	bool value;

	return !set->positional_max && next < argc && !read_bool(argv[next], &value);
}

static int read_choice(const struct opt *o, const char *text)
{
	const char *at = o->choices;
	size_t len = strlen(text), part;

	while (*at) {
		part = strcspn(at, "|");
		if (part == len && !memcmp(at, text, len)) {
			*(const char **)o->value = text;
			return 0;
		}
		at += part + (at[part] == '|');
	}
	return -EINVAL;
}

/* Store @text into the flag's variable; -EINVAL = not a value of this type, -ERANGE = out of bounds. */
static int store(const struct opt *o, const char *text)
{
	uint64_t bytes;
	long long number;
	double real;
	char *end;
	int rc;

	switch (o->type) {
	case OPT_TEXT:
		*(const char **)o->value = text;
		return 0;
	case OPT_CHOICE:
		return read_choice(o, text);
	case OPT_BOOL:
		return read_bool(text, o->value);
	case OPT_SIZE:
		rc = opt_parse_size(text, &bytes);
		if (rc)
			return rc;
		if (!in_range(o, (double)bytes))
			return -ERANGE;
		*(uint64_t *)o->value = bytes;
		return 0;
	case OPT_UINT:
	case OPT_INT:
		if (!*text || strspn(text, "-0123456789") != strlen(text))
			return -EINVAL;
		errno = 0;
		number = strtoll(text, &end, 10);
		if (*end)
			return -EINVAL;
		if (errno || !in_range(o, (double)number) || (o->type == OPT_UINT && number < 0))
			return -ERANGE;
		if (o->type == OPT_UINT)
			*(uint64_t *)o->value = (uint64_t)number;
		else
			*(int64_t *)o->value = number;
		return 0;
	case OPT_DOUBLE:
		errno = 0;
		real = strtod(text, &end);
		if (end == text || *end || errno || !isfinite(real))
			return -EINVAL;
		if (!in_range(o, real))
			return -ERANGE;
		*(double *)o->value = real;
		return 0;
	}
	return -EINVAL;
}

static int refuse(const struct opt_set *set, const struct opt *o, const char *text)
{
	char range[128];

	fflush(stdout);
	if (o->type == OPT_BOOL)
		fprintf(stderr, "%s: --%s is true or false, not \"%s\"", set->tool, o->name, text);
	else if (o->type == OPT_CHOICE)
		fprintf(stderr, "%s: --%s is one of %s, not \"%s\"", set->tool, o->name, o->choices, text);
	else
		fprintf(stderr, "%s: --%s is %s, not \"%s\"", set->tool, o->name,
			range_text(o, range, sizeof(range)), text);
	return usage_error(set);
}

static int unknown_flag(const struct opt_set *set, const char *word, size_t len)
{
	const char *near = nearest_flag(set->table, word, len);

	fprintf(stderr, "%s: there is no flag --%.*s", set->tool, (int)len, word);
	if (near)
		fprintf(stderr, "; did you mean --%s?", near);
	return usage_error(set);
}

/* One argument that begins with a dash; *next is the argument after it and moves on when it was used. */
static int read_flag(const struct opt_set *set, char *arg, int *next, int argc, char **argv)
{
	const char *word = arg + (arg[1] == '-' ? 2 : 1), *value = NULL;
	size_t len = strcspn(word, "=");
	const struct opt *o = find(set->table, word, len);

	if (word[len])
		value = word + len + 1;
	if (!o && !value && ((len == 4 && !memcmp(word, "help", 4)) || (len == 1 && *word == 'h'))) {
		opt_help(set);
		return fflush(stdout) ? -2 : EXIT_OK;
	}
	if (!o && !value && len == 7 && !memcmp(word, "version", 7)) {
		printf("%s %s (library %s)\n", set->tool, MC_VERSION_STRING, mc_version());
		return fflush(stdout) ? -2 : EXIT_OK;
	}
	if (!o && len > 2 && !value && !memcmp(word, "no", 2)) {
		size_t skip = plain(word[2]) == '_' ? 3 : 2;

		o = find(set->table, word + skip, len - skip);
		if (o && o->type == OPT_BOOL)
			value = "false";
		else
			o = NULL;
	}
	if (!o)
		return unknown_flag(set, word, len);
	if (!value) {
		if (o->type == OPT_BOOL) {
			value = bool_follows(set, *next, argc, argv) ? argv[(*next)++] : "true";
		} else if (*next < argc) {
			value = argv[(*next)++];
		} else {
			fprintf(stderr, "%s: --%s needs a value", set->tool, o->name);
			return usage_error(set);
		}
	}
	if (store(o, value))
		return refuse(set, o, value);
	if (o->given)
		*o->given = true;
	return 0;
}

int opt_read(const struct opt_set *set, int argc, char **argv)
{
	const struct opt *o;
	int count = 0, next = 1, rc;
	bool flags = true;
	char *arg;

	for (o = set->table; o->name; o++) {
		if (o->def && store(o, o->def)) {
			fprintf(stderr, "%s: the default \"%s\" of --%s is not valid\n", set->tool, o->def,
				o->name);
			return -1 - 70;
		}
		if (o->given)
			*o->given = false;
	}
	while (next < argc) {
		arg = argv[next++];
		if (flags && !strcmp(arg, "--")) {
			flags = false;
			continue;
		}
		if (flags && arg[0] == '-' && arg[1]) {
			rc = read_flag(set, arg, &next, argc, argv);
			if (rc)
				return rc;
			continue;
		}
		if (set->positional_max >= 0 && count >= set->positional_max) {
			if (set->positional_max)
				fprintf(stderr, "%s: \"%s\" is one argument too many", set->tool, arg);
			else
				fprintf(stderr, "%s: \"%s\" is no flag, and only flags are understood",
					set->tool, arg);
			return usage_error(set);
		}
		argv[++count] = arg;
	}
	if (count < set->positional_min) {
		fprintf(stderr, "%s: usage: %s %s", set->tool, set->tool, set->usage);
		return usage_error(set);
	}
	return count;
}

int opt_parse(const struct opt_set *set, int argc, char **argv)
{
	int rc = opt_read(set, argc, argv);

	if (rc < 0)
		exit(-1 - rc);
	return rc;
}

/* @text wrapped at @width, every line after the first indented by @indent; '\n' in it breaks the line. */
static void wrap(const char *text, int indent, int width)
{
	int at = indent, len;

	while (*text) {
		if (*text == '\n') {
			printf("\n%*s", indent, "");
			at = indent;
			text++;
			continue;
		}
		len = (int)strcspn(text, " \n");
		if (at > indent && at + 1 + len > width) {
			printf("\n%*s", indent, "");
			at = indent;
		} else if (at > indent) {
			putchar(' ');
			at++;
		}
		printf("%.*s", len, text);
		at += len;
		text += len;
		while (*text == ' ')
			text++;
	}
	putchar('\n');
}

static const char *placeholder(const struct opt *o)
{
	switch (o->type) {
	case OPT_CHOICE:
		return o->choices;
	case OPT_UINT:
	case OPT_INT:
	case OPT_DOUBLE:
		return "N";
	case OPT_SIZE:
		return "SIZE";
	case OPT_TEXT:
		return "TEXT";
	case OPT_BOOL:
		break;
	}
	return NULL;
}

static int help_width(void)
{
	struct winsize size;

	if (isatty(STDOUT_FILENO) && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_col >= 60)
		return size.ws_col < 110 ? size.ws_col : 110;
	return 100;
}

void opt_help(const struct opt_set *set)
{
	const int indent = 28, width = help_width();
	const char *value;
	const struct opt *o;
	int n;

	printf("Usage: %s %s\n\n", set->tool, set->usage ? set->usage : "[flags]");
	if (set->summary) {
		wrap(set->summary, 0, width);
	}
	for (o = set->table; o->name; o++) {
		if (o->group || o == set->table)
			printf("\n%s:\n", o->group ? o->group : "Flags");
		value = placeholder(o);
		n = printf("  --%s%s%s", o->name, value ? "=" : "", value ? value : "");
		if (n >= indent - 1)
			printf("\n%*s", indent, "");
		else
			printf("%*s", indent - n, "");
		wrap(o->help ? o->help : "", indent, width);
		if (o->def && *o->def)
			printf("%*sdefault: %s\n", indent, "", o->def);
	}
	printf("\n  --help, --version\n");
	if (set->more)
		printf("\n%s", set->more);
}
