/* SPDX-License-Identifier: MIT */
#include "command_verify.h"

#include <stdlib.h>
#include <string.h>

#include "command_shared.h"

/* Of a problem of a list, where --memory isn't given. */
#define DEFAULT_MEGABYTES 2048

struct skipped {
    char kind[16];
    int count;
};

/*
 * Kinds of case that this version does not run, each with how many. Few: what is past the end
 * counts as the last.
 */
struct skips {
    struct skipped kind[8];
    int kinds;
    int cases;
};

static void add_skip(struct skips *s, const char *kind)
{
    const int most = (int)(sizeof s->kind / sizeof s->kind[0]);
    int i = 0;
    while (i < s->kinds && strcmp(s->kind[i].kind, kind) != 0) {
        i++;
    }
    if (i == most) {
        i--;
    } else if (i == s->kinds) {
        s->kinds++;
        snprintf(s->kind[i].kind, sizeof s->kind[i].kind, "%s", i == most - 1 ? "others" : kind);
    }
    s->kind[i].count++;
    s->cases++;
}

int verify_prepare(struct verification *v)
{
    v->kernels = doconv_kernel_count(v->context);
    v->tally = calloc(v->kernels > 0 ? (size_t)v->kernels : 1, sizeof *v->tally);
    if (v->tally == NULL) {
        return command_error("out of memory");
    }
    for (int i = 0; i < v->kernels; i++) {
        v->tally[i].kernel.size = sizeof v->tally[i].kernel;
        const doconv_status status = doconv_kernel_get(v->context, i, &v->tally[i].kernel);
        if (status != DOCONV_OK) {
            return command_library_error(v->context, status, "kernel %d", i);
        }
    }
    return COMMAND_OK;
}

struct verify_tally *verify_find_tally(const struct verification *v, const char *kernel)
{
    for (int i = 0; i < v->kernels; i++) {
        if (strcmp(v->tally[i].kernel.name, kernel) == 0) {
            return &v->tally[i];
        }
    }
    return NULL;
}

void verify_print_kernels(const struct verification *v)
{
    static const char *const heads[] = {"kernel", "operation",     "cases",
                                        "runs",   "largest error", "result"};
    struct command_table table = {.align = "llrrrl"};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(&table, "%s", heads[i]);
    }
    for (int i = 0; i < v->kernels; i++) {
        const struct verify_tally *t = &v->tally[i];
        command_table_add(&table, "%s", t->kernel.name);
        command_table_add(&table, "%s", t->kernel.operation);
        command_table_add(&table, "%d", t->cases);
        command_table_add(&table, "%d", t->runs);
        if (t->runs > 0) {
            command_table_add(&table, "%.2e", t->largest);
        } else {
            command_table_add(&table, "-");
        }
        if (t->failures > 0) {
            command_table_add(&table, "%d FAILED", t->failures);
        } else if (t->runs > 0) {
            command_table_add(&table, "ok");
        } else if (!t->kernel.usable) {
            command_table_add(&table, "not run: not usable on this CPU or under this cap");
        } else {
            command_table_add(&table, "not run: %s",
                              t->refused[0] != '\0' ? t->refused : "no case for it");
        }
    }
    command_table_print(&table, 0);
}

static int count_kernels_run(const struct verification *v)
{
    int count = 0;
    for (int i = 0; i < v->kernels; i++) {
        count += v->tally[i].runs > 0;
    }
    return count;
}

/* Runs the cases that are asked for; counts. */
static int verify_all(struct verification *v, const struct golden *golden, const char *only)
{
    struct skips skips = {.kinds = 0};
    int cases = 0, failed = 0;
    for (int i = 0; i < golden->count; i++) {
        const struct golden_case *c = &golden->cases[i];
        if (only != NULL && strcmp(only, c->name) != 0) {
            continue;
        }
        if (c->weight == NULL) {
            add_skip(&skips, c->kind);
            continue;
        }
        const int runs = v->runs, failures = v->failures;
        int result = verify_case(v, c);
        if (result == COMMAND_OK && c->gradients) {
            result = verify_training(v, c);
        }
        v->failures += result != COMMAND_OK;
        failed += v->failures > failures;
        cases += v->runs > runs;
    }
    verify_print_kernels(v);
    printf("\ncases     %d run, %d of them failed; %d skipped\n", cases, failed, skips.cases);
    for (int i = 0; i < skips.kinds; i++) {
        printf("skipped   %d of kind=%s: not part of this version\n", skips.kind[i].count,
               skips.kind[i].kind);
    }
    if (v->folds > 0) {
        printf("folding   %d case%s, %d failed; largest error %.2e of max|weight|: %s\n", v->folds,
               v->folds == 1 ? "" : "s", v->fold_failures, v->largest_fold, v->largest_fold_where);
    }
    if (v->training_runs > 0) {
        printf("training  %d case%s, %d steps, %d failures; largest error %.2e of a tensor's "
               "largest element: %s\n",
               v->training_cases, v->training_cases == 1 ? "" : "s", v->training_runs,
               v->training_failures, v->largest_gradient, v->largest_gradient_where);
    }
    printf("kernels   %d run, of %d in this build; %d runs, %d failures\n", count_kernels_run(v),
           v->kernels, v->runs, v->failures);
    if (v->runs == 0) {
        return command_error("nothing ran");
    }
    printf("largest   error %.2e of max|y|: %s\n", v->largest, v->largest_where);
    printf("%s\n", v->failures == 0 ? "PASS" : "FAIL");
    return v->failures == 0 ? COMMAND_OK : COMMAND_FAILED;
}

static bool has_case(const struct golden *golden, const char *name)
{
    for (int i = 0; i < golden->count; i++) {
        if (strcmp(golden->cases[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static int run_golden(struct verification *v, const char *directory, const char *only,
                      doconv_isa isa, int threads)
{
    struct golden golden;
    char error[4608];
    if (golden_load(directory, &golden, error, sizeof error) != 0) {
        command_error("verify: %s", error);
        return COMMAND_USAGE;
    }
    int result = COMMAND_USAGE;
    if (only != NULL && !has_case(&golden, only)) {
        command_error("verify: --case: %.80s has no case called \"%.80s\"", directory, only);
    } else {
        result = command_context_create("verify", isa, threads, DOCONV_TUNE_OFF, &v->context);
    }
    if (result == COMMAND_OK) {
        result = verify_prepare(v);
    }
    if (result == COMMAND_OK) {
        result = verify_all(v, &golden, only);
    }
    golden_free(&golden);
    return result;
}

static int run_list(struct verification *v, const struct verify_list_options *list, doconv_isa isa,
                    int threads)
{
    int result = command_context_create(
        "verify", isa, threads, list->tuned ? DOCONV_TUNE_DEFAULT : DOCONV_TUNE_OFF, &v->context);
    if (result == COMMAND_OK) {
        result = verify_prepare(v);
    }
    return result == COMMAND_OK ? verify_list(v, list) : result;
}

/* What the words before the options, and options that do without others, are not. */
static const char *find_misuse(int arguments, const struct verify_list_options *list, int megabytes,
                               const char *only)
{
    if (list->file == NULL) {
        return list->tuned      ? "--tuned needs --problems"
               : megabytes != 0 ? "--memory needs --problems"
               : arguments == 0 ? "a directory is missing"
                                : NULL;
    }
    return only != NULL     ? "--case is of a directory, not of --problems"
           : arguments != 0 ? "a directory and --problems don't go together"
                            : NULL;
}

static int run_verify(int count, char **words)
{
    struct verification v = {.verbose = false};
    struct verify_list_options list = {.file = NULL};
    doconv_isa isa = DOCONV_ISA_DEFAULT;
    int threads = 1, megabytes = 0;
    const char *only = NULL;
    const struct command_option options[] = {
        {"isa", COMMAND_OPTION_ISA, &isa, 0, 0},
        {"threads", COMMAND_OPTION_INT, &threads, 1, 4096},
        {"case", COMMAND_OPTION_TEXT, &only, 0, 0},
        {"verbose", COMMAND_OPTION_FLAG, &v.verbose, 0, 0},
        {"problems", COMMAND_OPTION_TEXT, &list.file, 0, 0},
        {"tuned", COMMAND_OPTION_FLAG, &list.tuned, 0, 0},
        {"memory", COMMAND_OPTION_INT, &megabytes, 1, INT32_MAX},
        {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    const int arguments = command_parse_options(&command_verify, count, words, options);
    if (arguments < 0) {
        return COMMAND_USAGE;
    }
    const char *misuse =
        find_misuse(arguments > 0 && words[0][0] != '\0' ? arguments : 0, &list, megabytes, only);
    if (misuse != NULL) {
        return command_usage_error("verify", "%s", misuse);
    }
    if (arguments > 1) {
        return command_usage_error("verify", "one word too many: \"%.80s\"", words[1]);
    }
    list.memory = 1024.0 * 1024.0 * (megabytes != 0 ? megabytes : DEFAULT_MEGABYTES);
    const int result = list.file != NULL ? run_list(&v, &list, isa, threads)
                                         : run_golden(&v, words[0], only, isa, threads);
    free(v.tally);
    doconv_context_destroy(v.context);
    return result;
}

const struct command_verb command_verify = {
    .name = "verify",
    .summary = "runs golden cases on every kernel, or lists of problems",
    .help =
        "usage: doconv verify DIR [--OPTION=VALUE ...]\n"
        "       doconv verify --problems=FILE [--OPTION=VALUE ...]\n"
        "\n"
        "Reads DIR/cases.tsv and DIR/data.f32 and runs every case forward on every kernel that "
        "accepts it: through\n"
        "each of its variants, in every pair of source and destination layouts (nchw, nhwc, "
        "nChw8c, nChw16c). A result is\n"
        "right if each output is within the rounding error bound of its sum, gamma(K) * sum|a*b|, "
        "of the expected one;\n"
        "algorithms that are not direct have that bound times their error amplification.\n"
        "The weight of a kind=doconv case is folded from its W and D, and held to the same bound, "
        "first.\n"
        "A case with gradients (grad=1) is trained for a step in every pair of layouts, at every "
        "instruction set up to the\n"
        "cap, plain or by each composition (kernel, feature, auto); its gradients are held to the "
        "bounds of their sums.\n"
        "Prints each kernel with its runs and largest error (relative to max|y|), and what was "
        "skipped.\n"
        "\n"
        "With --problems it runs each problem of a list as a plan, on random data, and compares a "
        "few hundred outputs, corners\n"
        "and borders among them, with sums in double, within the same bound. FILE has a problem in "
        "each line, up to a tab if\n"
        "there is one; # starts a comment line; - is standard input. What is wrong or cannot be "
        "read is told line by line,\n"
        "wrong results with the command that shows them again.\n"
        "\n"
        "  --isa=NAME       cap on the instruction set: none, avx2, avx512, neon\n"
        "  --threads=N      threads (default: 1)\n"
        "  --case=NAME      this case only\n"
        "  --verbose        a line for each run\n"
        "  --problems=FILE  runs a list of problems\n"
        "  --tuned          plans as the tuner's cache and DOCONV_TUNE say (default: by estimate)\n"
        "  --memory=MB      skips problems that take more, in MiB (default: 2048)\n"
        "\n"
        "Exit status: 0 all right, 1 a failure or nothing ran, 2 bad usage, malformed files or "
        "lines.\n",
    .run = run_verify,
};
