/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "command_shared.h"
#include "command_verify.h"

#define BYTES_PER_MEGABYTE (1024.0 * 1024.0)

struct listed {
    int line;
    char *text;
};

struct list {
    struct listed *item;
    int count, capacity;
};

/* What came of the problems; names of those that are skipped are kept for the summary. */
struct list_run {
    struct verification *v;
    const struct verify_list_options *options;
    int runs, failed, refused;
    struct list skipped; /* line 0: each with the reason */
};

static bool add_line(struct list *list, int line, const char *text, size_t length)
{
    if (list->count == list->capacity) {
        const int capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        struct listed *grown = realloc(list->item, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        list->item = grown;
        list->capacity = capacity;
    }
    char *copy = strndup(text, length);
    if (copy == NULL) {
        return false;
    }
    list->item[list->count++] = (struct listed){line, copy};
    return true;
}

static void free_list(struct list *list)
{
    for (int i = 0; i < list->count; i++) {
        free(list->item[i].text);
    }
    free(list->item);
    *list = (struct list){NULL, 0, 0};
}

/* ---- reading ---- */

/* The problems of an open file: each line up to a tab, without blanks around it. */
static int read_lines(FILE *file, const char *name, struct list *list)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    int result = COMMAND_OK;
    for (int number = 1; result == COMMAND_OK && (length = getline(&line, &size, file)) >= 0;
         number++) {
        if (memchr(line, '\0', (size_t)length) != NULL) {
            command_error("verify: %s:%d: a NUL byte: no text file", name, number);
            result = COMMAND_USAGE;
            break;
        }
        const char *text = line + strspn(line, " \t");
        size_t used = strcspn(text, "\t\r\n");
        while (used > 0 && text[used - 1] == ' ') {
            used--;
        }
        if (used > 0 && text[0] != '#' && !add_line(list, number, text, used)) {
            result = command_error("out of memory");
        }
    }
    if (result == COMMAND_OK && ferror(file)) {
        command_error("verify: %s: %s", name, strerror(errno));
        result = COMMAND_USAGE;
    }
    free(line);
    return result;
}

static int read_list(const char *name, struct list *list)
{
    if (strcmp(name, "-") == 0) {
        return read_lines(stdin, "standard input", list);
    }
    FILE *file = fopen(name, "r");
    if (file == NULL) {
        command_error("verify: %s: %s", name, strerror(errno));
        return COMMAND_USAGE;
    }
    const int result = read_lines(file, name, list);
    fclose(file);
    return result;
}

/* ---- running ---- */

__attribute__((format(printf, 2, 3))) static bool add_skip(struct list_run *run, const char *format,
                                                           ...)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE + 128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return add_line(&run->skipped, 0, text, strlen(text));
}

/* A failure, and the command that shows it again. */
static int print_failure(const struct list_run *run, const struct listed *from,
                         const struct verify_problem *p)
{
    doconv_context_info info = {.size = sizeof info};
    const doconv_status status = doconv_context_get_info(run->v->context, &info);
    if (status != DOCONV_OK) {
        return command_library_error(run->v->context, status, "the context's properties");
    }
    command_error("FAIL: %s:%d: %s%s%s: %s\n  echo '%s' | doconv verify --problems=- --isa=%s "
                  "--threads=%d%s",
                  run->options->file, from->line, p->text, p->variant[0] != '\0' ? ", " : "",
                  p->variant, p->failure, p->text, doconv_isa_string(info.isa), info.threads,
                  run->options->tuned ? " --tuned" : "");
    return COMMAND_OK;
}

static void count_run(struct list_run *run, const struct verify_problem *p, bool right)
{
    struct verification *v = run->v;
    struct verify_tally *tally = verify_find_tally(v, p->kernel);
    run->runs++;
    run->failed += !right;
    if (tally != NULL) {
        tally->cases++;
        tally->runs++;
        tally->failures += !right;
        tally->largest = p->error > tally->largest ? p->error : tally->largest;
    }
    if (p->error > v->largest || v->largest_where[0] == '\0') {
        v->largest = p->error;
        snprintf(v->largest_where, sizeof v->largest_where, "%.255s", p->text);
    }
}

/* One problem of the list; returns an exit status only if the list cannot go on. */
static int run_problem(struct list_run *run, const struct listed *from)
{
    doconv_context *context = run->v->context;
    doconv_conv_desc desc;
    struct verify_problem p = {
        .desc = &desc, .tuned = run->options->tuned, .memory = run->options->memory};
    doconv_status status = doconv_conv_desc_parse(context, from->text, &desc);
    if (status == DOCONV_OK) {
        status = doconv_conv_desc_format(context, &desc, p.text, sizeof p.text);
    }
    if (status != DOCONV_OK) {
        command_library_error(context, status, "%s:%d: \"%.120s\"", run->options->file, from->line,
                              from->text);
        run->refused++;
        return COMMAND_OK;
    }
    if (desc.d_mul > 0) {
        return add_skip(run, "%s: a DO-Conv layer, which is no plan's", p.text)
                   ? COMMAND_OK
                   : command_error("out of memory");
    }
    const enum verify_outcome outcome = verify_problem(context, &p);
    if (outcome == VERIFY_TOO_LARGE) {
        return add_skip(run, "%s: takes %.0f MiB", p.text, p.needs / BYTES_PER_MEGABYTE)
                   ? COMMAND_OK
                   : command_error("out of memory");
    }
    count_run(run, &p, outcome == VERIFY_RIGHT);
    if (run->v->verbose) {
        command_progress(NULL);
        printf("%s %s, %s: %.2e\n", outcome == VERIFY_RIGHT ? "ok  " : "FAIL", p.text, p.variant,
               p.error);
    }
    return outcome == VERIFY_WRONG ? print_failure(run, from, &p) : COMMAND_OK;
}

static int print_summary(const struct list_run *run)
{
    verify_print_kernels(run->v);
    printf("\nproblems  %d run, %d of them failed; %d skipped; %d not read\n", run->runs,
           run->failed, run->skipped.count, run->refused);
    for (int i = 0; i < run->skipped.count; i++) {
        printf("skipped   %s\n", run->skipped.item[i].text);
    }
    if (run->runs == 0) {
        command_error("nothing ran");
        return run->refused > 0 ? COMMAND_USAGE : COMMAND_FAILED;
    }
    printf("largest   error %.2e of sum|a*b|: %s\n", run->v->largest, run->v->largest_where);
    if (run->failed > 0) {
        printf("FAIL\n");
        return COMMAND_FAILED;
    }
    printf("%s\n", run->refused > 0 ? "MALFORMED" : "PASS");
    return run->refused > 0 ? COMMAND_USAGE : COMMAND_OK;
}

int verify_list(struct verification *v, const struct verify_list_options *options)
{
    struct list_run run = {.v = v, .options = options};
    struct list list = {NULL, 0, 0};
    int result = read_list(options->file, &list);
    for (int i = 0; i < list.count && result == COMMAND_OK; i++) {
        char line[96];
        snprintf(line, sizeof line, "%d of %d: %.60s", i + 1, list.count, list.item[i].text);
        command_progress(line);
        result = run_problem(&run, &list.item[i]);
    }
    command_progress(NULL);
    if (result == COMMAND_OK) {
        result = print_summary(&run);
    }
    free_list(&list);
    free_list(&run.skipped);
    return result;
}
