/* SPDX-License-Identifier: MIT */
/* Which tests of a program run: those whose name matches a pattern (* and ?), if there is one. Include cmocka first. */
#ifndef TESTS_ONLY_H
#define TESTS_ONLY_H

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>

/* A pattern that no test matches is a mistake: nothing would run, and pass. */
static inline void only_of(const char *pattern, const struct CMUnitTest *tests, size_t count)
{
	size_t i;

	cmocka_set_test_filter(pattern);
	for (i = 0; pattern && i < count && fnmatch(pattern, tests[i].name, 0); i++)
		;
	if (i < count)
		return;
	fprintf(stderr, "no test matches '%s'; they are named as '%s'\n", pattern, tests[0].name);
	exit(2);
}
#define only_tests(pattern, tests) only_of(pattern, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
