/* SPDX-License-Identifier: MIT */
/*
 * An application that brings its choices along, in a table that doconv cache to-c wrote: every plan
 * gets the table's, whatever the tuner may do.
 */
#include <doconv/doconv.h>

#include <stdio.h>
#include <string.h>

extern const doconv_table tuned_table;

static void print_line(void *user, doconv_log_level level, const char *line)
{
    (void)user;
    printf("%d: %s\n", (int)level, line);
}

/* 0: the row's problem is planned as the row says. */
static int check(doconv_context *context, const doconv_table_row *row)
{
    char problem[DOCONV_PROBLEM_TEXT_SIZE];
    doconv_conv_desc desc;
    doconv_plan *plan = NULL;
    snprintf(problem, sizeof problem, "%.*s", (int)strcspn(row->key, " "), row->key);
    doconv_status status = doconv_conv_desc_parse(context, problem, &desc);
    if (status == DOCONV_OK) {
        status = doconv_plan_create(context, &desc, NULL, &plan);
    }
    const int wrong = status != DOCONV_OK || strcmp(doconv_plan_origin(plan), "table") != 0 ||
                      strcmp(doconv_plan_variant(plan), row->variant) != 0;
    printf("%s: %s, %s: %s\n", row->key, doconv_status_string(status), doconv_plan_origin(plan),
           doconv_plan_variant(plan));
    doconv_plan_destroy(plan);
    return wrong;
}

int main(void)
{
    int wrong = tuned_table.count != 2;
    for (int mode = DOCONV_TUNE_OFF; mode <= DOCONV_TUNE_ONLY; mode++) {
        const doconv_context_options options = {.size = sizeof options,
                                                .threads = 1,
                                                .log = print_line,
                                                .tune = (doconv_tune_mode)mode,
                                                .table = &tuned_table};
        doconv_context *context;
        if (doconv_context_create(&options, &context) != DOCONV_OK) {
            return 1;
        }
        for (size_t i = 0; i < tuned_table.count; i++) {
            wrong += check(context, &tuned_table.rows[i]);
        }
        doconv_context_destroy(context);
    }
    return wrong != 0;
}
