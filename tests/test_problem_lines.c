/* SPDX-License-Identifier: MIT */
/*
 * Problems in benchdnn's form: problem_lines.tsv, whose path is the argument, has a problem and its
 * meaning in each line.
 */
#include <stdio.h>

#include "api_support.h"

static const char *path;

static const struct {
    const char *name;
    doconv_status status;
} refusals[] = {{"!INVALID_ARGUMENT", DOCONV_INVALID_ARGUMENT},
                {"!INVALID_PROBLEM", DOCONV_INVALID_PROBLEM},
                {"!UNSUPPORTED", DOCONV_UNSUPPORTED}};

/* What the library makes of a problem, in the form of the file's second column. */
static void read_problem(const char *text, char *result, size_t size)
{
    doconv_conv_desc desc;
    const doconv_status status = doconv_conv_desc_parse(NULL, text, &desc);
    if (status == DOCONV_OK) {
        expect_ok(doconv_conv_desc_format(NULL, &desc, result, size));
        return;
    }
    snprintf(result, size, "%s", doconv_status_string(status));
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        if (status == refusals[i].status) {
            snprintf(result, size, "%s", refusals[i].name);
        }
    }
}

static void test_lines(void **state)
{
    (void)state;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char line[1024];
    int read = 0, refused = 0, wrong = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        char *meaning = strchr(line, '\t'), *end = strchr(line, '\n');
        assert_non_null(end);
        *end = '\0';
        if (line[0] == '#') {
            continue;
        }
        assert_non_null(meaning);
        *meaning++ = '\0';
        char result[DOCONV_PROBLEM_TEXT_SIZE];
        read_problem(line, result, sizeof result);
        read++;
        refused += meaning[0] == '!';
        if (strcmp(result, meaning) != 0) {
            print_error("%s\n    is read as %s,\n    must be    %s\n", line, result, meaning);
            wrong++;
        }
    }
    fclose(file);
    assert_int_equal(wrong, 0);
    assert_true(read > 300 && refused > 8);
}

int main(int count, char **words)
{
    if (count != 2) {
        fprintf(stderr, "usage: test_problem_lines problem_lines.tsv\n");
        return 2;
    }
    path = words[1];
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines)};
    return cmocka_run_group_tests_name("problem_lines", tests, NULL, NULL) != 0;
}
