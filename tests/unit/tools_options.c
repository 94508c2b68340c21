// SPDX-License-Identifier: MIT
/* The flag table that every tool is driven by. Takes the source in directly: tools are no library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../tools/common/options.c"

static const char *text, *mode;
static bool flag, flag_given;
static uint64_t number, size;
static int64_t gpu;
static double ratio;

static const struct opt table[] = {
	{"text_flag", OPT_TEXT, &text, "abc", .help = "a text"},
	{"mode", OPT_CHOICE, &mode, "one", .choices = "one|two|three", .help = "a choice"},
	{"check", OPT_BOOL, &flag, "false", .help = "a bool", .given = &flag_given},
	{"threads", OPT_UINT, &number, "12", 1, 64, .help = "a number"},
	{"gpu_id", OPT_INT, &gpu, "0", -1, 128, .help = "signed"},
	{"block_size", OPT_SIZE, &size, "64K", 1, 0, .help = "bytes"},
	{"ratio", OPT_DOUBLE, &ratio, "0.5", 0, 100, .help = "real"},
	{0},
};

static const struct opt_set set = {"tool", "[flags]", "Tests.", table, NULL, 0, 2};
static const struct opt_set flags_only = {"tool", "[flags]", "Tests.", table, NULL, 0, 0};
static const struct opt_set *used = &set;

/* Arguments end with NULL; what goes to stderr lands in said, stdout in printed. */
static char said[8192], printed[8192];
static char *argv_buffer[16];

static void catch_stream(FILE *stream, FILE *file, int *kept)
{
	fflush(stream);
	*kept = dup(fileno(stream));
	dup2(fileno(file), fileno(stream));
}

static void give_back(FILE *stream, FILE *file, int kept, char *out)
{
	size_t n;

	fflush(stream);
	dup2(kept, fileno(stream));
	close(kept);
	rewind(file);
	n = fread(out, 1, 8191, file);
	out[n] = 0;
	fclose(file);
}

static int run(const char *first, ...)
{
	FILE *err = tmpfile(), *out = tmpfile();
	const char *arg = first;
	int argc = 1, rc, kept_err, kept_out;
	va_list args;

	argv_buffer[0] = (char *)"tool";
	va_start(args, first);
	for (; arg; arg = va_arg(args, const char *))
		argv_buffer[argc++] = (char *)arg;
	va_end(args);
	argv_buffer[argc] = NULL;
	catch_stream(stderr, err, &kept_err);
	catch_stream(stdout, out, &kept_out);
	rc = opt_read(used, argc, argv_buffer);
	give_back(stdout, out, kept_out, printed);
	give_back(stderr, err, kept_err, said);
	return rc;
}

static void test_defaults_are_stored_when_nothing_is_given(void **state)
{
	(void)state;
	assert_int_equal(run(NULL), 0);
	assert_string_equal(text, "abc");
	assert_string_equal(mode, "one");
	assert_false(flag);
	assert_false(flag_given);
	assert_int_equal(number, 12);
	assert_int_equal(size, 65536);
	assert_true(ratio == 0.5);
}

static void test_every_spelling_of_a_flag_means_the_same(void **state)
{
	(void)state;
	assert_int_equal(run("--text_flag=x", NULL), 0);
	assert_string_equal(text, "x");
	assert_int_equal(run("--text-flag", "y", NULL), 0);
	assert_string_equal(text, "y");
	assert_int_equal(run("-text_flag", "z", NULL), 0);
	assert_string_equal(text, "z");
	assert_int_equal(run("-text-flag=--w", NULL), 0);
	assert_string_equal(text, "--w");
	assert_int_equal(run("--text_flag=", NULL), 0);
	assert_string_equal(text, "");
	assert_int_equal(run("--gpu_id", "-1", NULL), 0);
	assert_int_equal(gpu, -1);
}

static void test_bools_are_understood_in_all_forms(void **state)
{
	static const char *const yes[] = {"--check", "--check=true", "--check=1", "--check=yes",
					  "-check=TRUE"};
	static const char *const no[] = {"--nocheck",	  "--no-check", "--no_check",
					 "--check=false", "--check=0",	"--check=no"};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
		flag = false;
		assert_int_equal(run(yes[i], NULL), 0);
		assert_true(flag);
		assert_true(flag_given);
	}
	for (i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
		assert_int_equal(run("--check", no[i], NULL), 0);
		assert_false(flag);
	}
	assert_int_equal(run("--check=maybe", NULL), -3);
	assert_non_null(strstr(said, "--check is true or false, not \"maybe\""));
	assert_int_equal(run("--nothreads", NULL), -3);
}

static void test_a_word_after_a_bool_is_its_value_where_no_arguments_are(void **state)
{
	(void)state;
	used = &flags_only;
	assert_int_equal(run("--check", "true", "--threads=3", NULL), 0);
	assert_true(flag);
	assert_int_equal(number, 3);
	assert_int_equal(run("--check", "-check", "false", NULL), 0);
	assert_false(flag);
	assert_int_equal(run("--check", "0", NULL), 0);
	assert_false(flag);
	assert_int_equal(run("--check", "maybe", NULL), -3);
	used = &set;
	assert_int_equal(run("--check", "false", NULL), 1);
	assert_true(flag);
}

static void test_sizes_take_units(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"1", 1},
		{"4096", 4096},
		{"4K", 4096},
		{"4k", 4096},
		{"4KiB", 4096},
		{"4KB", 4000},
		{"1.5M", 1572864},
		{"16MiB", 16777216},
		{"1G", 1ull << 30},
		{"1GiB", 1ull << 30},
		{"1GB", 1000000000},
		{"2T", 2ull << 40},
		{"18014398509481984", 1ull << 54},
	};
	static const char *const bad[] = {
		"",	     "-1", "x",	 "1X", "1e3", "1.5.5", "1 2", "0x10", "99999999999999999999",
		"99999999T", "0",  "1.", "nan"};
	uint64_t bytes;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(run("--block_size", good[i].text, NULL), 0);
		assert_int_equal(size, good[i].bytes);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(run("--block_size", bad[i], NULL), -3);
	assert_int_equal(opt_parse_size("99999999T", &bytes), -ERANGE);
}

static void test_bad_numbers_name_flag_value_and_range(void **state)
{
	(void)state;
	assert_int_equal(run("--threads=0", NULL), -3);
	assert_string_equal(said, "tool: --threads is a whole number from 1 to 64, not \"0\""
				  " (tool --help lists the flags)\n");
	assert_int_equal(run("--threads=65", NULL), -3);
	assert_int_equal(run("--threads=4x", NULL), -3);
	assert_int_equal(run("--threads= 4", NULL), -3);
	assert_int_equal(run("--threads=", NULL), -3);
	assert_int_equal(run("--threads=99999999999999999999", NULL), -3);
	assert_int_equal(run("--gpu_id=-2", NULL), -3);
	assert_int_equal(run("--ratio=nan", NULL), -3);
	assert_int_equal(run("--ratio=101", NULL), -3);
	assert_int_equal(run("--mode=four", NULL), -3);
	assert_non_null(strstr(said, "--mode is one of one|two|three, not \"four\""));
	assert_int_equal(run("--mode=one|two", NULL), -3);
	assert_int_equal(run("--threads", NULL), -3);
	assert_non_null(strstr(said, "--threads needs a value"));
}

static void test_an_unknown_flag_is_answered_with_the_nearest(void **state)
{
	(void)state;
	assert_int_equal(run("--thread=4", NULL), -3);
	assert_string_equal(said, "tool: there is no flag --thread; did you mean --threads?"
				  " (tool --help lists the flags)\n");
	assert_int_equal(run("--blocksize=4", NULL), -3);
	assert_non_null(strstr(said, "did you mean --block_size?"));
	assert_int_equal(run("--qqqqqqqq", NULL), -3);
	assert_null(strstr(said, "did you mean"));
}

static void test_positionals_are_gathered_and_counted(void **state)
{
	(void)state;
	assert_int_equal(run("one", "--check", "two", NULL), 2);
	assert_string_equal(argv_buffer[1], "one");
	assert_string_equal(argv_buffer[2], "two");
	assert_true(flag);
	assert_int_equal(run("--", "--check", NULL), 1);
	assert_string_equal(argv_buffer[1], "--check");
	assert_int_equal(run("-", NULL), 1);
	assert_int_equal(run("a", "b", "c", NULL), -3);
	assert_non_null(strstr(said, "\"c\" is one argument too many"));
}

static void test_help_lists_every_flag_with_its_default(void **state)
{
	const struct opt *o;

	(void)state;
	assert_int_equal(run("--help", NULL), -1);
	for (o = table; o->name; o++) {
		assert_non_null(strstr(printed, o->name));
		assert_non_null(strstr(printed, o->def));
	}
	assert_int_equal(run("-h", NULL), -1);
	assert_int_equal(run("--version", NULL), -1);
	assert_non_null(strstr(printed, MC_VERSION_STRING));
	assert_string_equal(said, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults_are_stored_when_nothing_is_given),
		cmocka_unit_test(test_every_spelling_of_a_flag_means_the_same),
		cmocka_unit_test(test_bools_are_understood_in_all_forms),
		cmocka_unit_test(test_a_word_after_a_bool_is_its_value_where_no_arguments_are),
		cmocka_unit_test(test_sizes_take_units),
		cmocka_unit_test(test_bad_numbers_name_flag_value_and_range),
		cmocka_unit_test(test_an_unknown_flag_is_answered_with_the_nearest),
		cmocka_unit_test(test_positionals_are_gathered_and_counted),
		cmocka_unit_test(test_help_lists_every_flag_with_its_default),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
