/* SPDX-License-Identifier: MIT */
/*
 * Command-line flags of every tool, from one table: --flag=value, --flag value, -flag value, '-' and
 * '_' alike, --bool, --nobool, --bool false (where only flags are understood), --help, --version.
 * Mistakes are one sentence and exit status 2.
 */
#ifndef TOOLS_COMMON_OPTIONS_H
#define TOOLS_COMMON_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Type of a flag, and of what struct opt.value points at. */
enum opt_type {
	OPT_TEXT = 0, /* const char *: points into argv or at the default */
	OPT_CHOICE,   /* const char *: one of choices, "a|b|c" */
	OPT_BOOL,     /* bool */
	OPT_UINT,     /* uint64_t, plain number */
	OPT_INT,      /* int64_t, plain number */
	OPT_SIZE, /* uint64_t, bytes: 65536, 64K, 64KiB, 1.5M, 1G (powers of 1024); 64KB, 1GB (powers of 1000)
		   */
	OPT_DOUBLE, /* double */
};

/**
 * struct opt - one flag
 * @name: without dashes, words joined by '_'
 * @type: enum opt_type
 * @value: where the value goes
 * @def: default as one would type it, stored before parsing; NULL = leave *@value as it is, show none
 * @min, @max: bounds of a number; both 0 = none. A max of 0 with a min means no upper bound
 * @choices: OPT_CHOICE: "a|b|c"
 * @help: what it does; "\n" continues on a new line
 * @group: heading in --help; NULL = that of the entry before
 * @given: NULL, or set to true if the flag was on the command line
 *
 * A table of them ends with an entry without a name.
 */
struct opt {
	const char *name;
	enum opt_type type;
	void *value;
	const char *def;
	int64_t min, max;
	const char *choices;
	const char *help;
	const char *group;
	bool *given;
};

/**
 * struct opt_set - flags of a tool or subcommand
 * @tool: as the user called it, e.g. "mooncake segment show"
 * @usage: what follows the name in the usage line, e.g. "[flags] NAME"
 * @summary: one or more sentences for --help
 * @table: flags
 * @more: NULL, or text printed at the end of --help (examples, exit status)
 * @positional_min, @positional_max: how many arguments that are no flags may be given; a max of -1 = any
 */
struct opt_set {
	const char *tool;
	const char *usage;
	const char *summary;
	const struct opt *table;
	const char *more;
	int positional_min, positional_max;
};

#define OPT_EXIT_USAGE 2

/*
 * Parse; on --help, --version and mistakes print and exit (0, 0, 2). Arguments that are no flags are
 * moved to argv[1], argv[2], ...; returns their number.
 */
int opt_parse(const struct opt_set *set, int argc, char **argv);

/* The same without exiting: a number >= 0 as above, or -1 - (exit status) once something was printed. */
int opt_read(const struct opt_set *set, int argc, char **argv);

/* What --help prints, on stdout. */
void opt_help(const struct opt_set *set);

/* A number of bytes as OPT_SIZE reads it: 0 or -EINVAL, -ERANGE. */
int opt_parse_size(const char *text, uint64_t *bytes);

/* The candidate nearest to @word by edit distance, or NULL if none is near. For "did you mean". */
const char *opt_nearest(const char *word, const char *const *candidates, unsigned int count);

#endif
