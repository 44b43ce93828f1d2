/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include <doconv/doconv_tune.h>

#include "command_shared.h"

/* A variant's measured figures; seconds 0: none. */
struct measured {
    double seconds, spread;
    bool dropped;
};

struct explanation {
    doconv_context *context;
    const char *problem; /* as given */
    doconv_conv_desc desc;
    doconv_plan_options options;
    doconv_plan *plan;
    doconv_tune_report *report; /* NULL: neither measured now nor in the cache */
    doconv_tune_summary summary;
    doconv_candidates *candidates;
};

static void show_rounds(void *user, int done, int total)
{
    char line[96];
    (void)user;
    snprintf(line, sizeof line, "measuring: round %d of %d", done + 1, total);
    command_progress(line);
}

/* Figures of a variant: from this measurement, or the winner's from the cache. */
static struct measured find_measured(const struct explanation *e, const char *variant)
{
    if (e->report == NULL) {
        return (struct measured){0};
    }
    const int count = doconv_tune_report_count(e->report);
    for (int i = 0; i < count; i++) {
        doconv_tune_entry entry = {.size = sizeof entry};
        if (doconv_tune_report_get(e->report, i, &entry) == DOCONV_OK &&
            strcmp(entry.variant, variant) == 0) {
            return (struct measured){entry.median_seconds, entry.spread, entry.dropped != 0};
        }
    }
    if (count == 0 && strcmp(e->summary.variant, variant) == 0) {
        return (struct measured){.seconds = e->summary.seconds};
    }
    return (struct measured){0};
}

static int print_problem(const struct explanation *e)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    int64_t shape[4];
    doconv_context_info info = {.size = sizeof info};
    doconv_status status = doconv_conv_desc_format(e->context, &e->desc, text, sizeof text);
    if (status == DOCONV_OK) {
        status = doconv_conv_dst_shape(e->context, &e->desc, shape);
    }
    if (status == DOCONV_OK) {
        status = doconv_context_get_info(e->context, &info);
    }
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "problem \"%s\"", e->problem);
    }
    printf("problem   %s\n", text);
    printf("output    %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
           ", %.6g million multiply-adds\n",
           shape[0], shape[1], shape[2], shape[3], 1e-6 * command_macs(&e->desc));
    printf("machine   %s, %s, %d thread%s\n", info.cpu, doconv_isa_string(info.isa), info.threads,
           info.threads == 1 ? "" : "s");
    return COMMAND_OK;
}

/* Three cells, or none without a report. */
static void add_measured_cells(struct command_table *table, const struct explanation *e,
                               const char *variant)
{
    if (e->report == NULL) {
        return;
    }
    const struct measured m = find_measured(e, variant);
    if (m.seconds > 0) {
        command_table_add(table, "%.4f%s", 1e3 * m.seconds, m.dropped ? " dropped" : "");
        command_table_add(table, "%.1f", 2e-9 * command_macs(&e->desc) / m.seconds);
    } else {
        command_table_add(table, "-");
        command_table_add(table, "-");
    }
    if (m.spread > 0) {
        command_table_add(table, "%.1f%%", 100 * m.spread);
    } else {
        command_table_add(table, "-");
    }
}

static void add_heads(struct command_table *table, const char *const *heads)
{
    for (; *heads != NULL; heads++) {
        command_table_add(table, "%s", *heads);
    }
}

static int print_candidates(const struct explanation *e)
{
    static const char *const accepted_heads[] = {
        "candidate",   "workspace KiB", "packed KiB", "estimate ms",
        "measured ms", "GFLOP/s",       "spread",     NULL};
    static const char *const estimated_heads[] = {"candidate", "workspace KiB", "packed KiB",
                                                  "estimate ms", NULL};
    static const char *const refused_heads[] = {"refused", "reason", NULL};
    struct command_table accepted = {.align = e->report != NULL ? "lrrrrrr" : "lrrr"},
                         refused = {.align = "ll"};
    add_heads(&accepted, e->report != NULL ? accepted_heads : estimated_heads);
    const int count = doconv_candidates_count(e->candidates);
    int result = COMMAND_OK;
    for (int i = 0; i < count; i++) {
        doconv_candidate_info candidate = {.size = sizeof candidate};
        const doconv_status status = doconv_candidates_get(e->candidates, i, &candidate);
        if (status != DOCONV_OK) {
            result = command_library_error(e->context, status, "candidate %d", i);
            break;
        }
        if (candidate.refused != NULL) {
            if (refused.cells == 0) {
                add_heads(&refused, refused_heads);
            }
            command_table_add(&refused, "%s", candidate.variant);
            command_table_add(&refused, "%s", candidate.refused);
            continue;
        }
        command_table_add(&accepted, "%s", candidate.variant);
        command_table_add(&accepted, "%.1f", (double)candidate.workspace_size / 1024);
        command_table_add(&accepted, "%.1f", (double)candidate.packed_size / 1024);
        command_table_add(&accepted, "%.4f", 1e3 * candidate.estimated_seconds);
        add_measured_cells(&accepted, e, candidate.variant);
    }
    putchar('\n');
    command_table_print(&accepted, 0);
    if (refused.cells > 0) {
        putchar('\n');
        command_table_print(&refused, 0);
    }
    return result;
}

static void print_choice(const struct explanation *e)
{
    printf("\nchoice    %s\n", doconv_plan_variant(e->plan));
    printf("origin    %s", doconv_plan_origin(e->plan));
    if (e->report == NULL) {
        printf(" (nothing measured: --measure does)");
    }
    printf("\n");
    if (e->report == NULL) {
        return;
    }
    const doconv_tune_summary *s = &e->summary;
    if (s->from_cache) {
        printf("cached    %s: %.4f ms, error %.2g of max|y|\n", s->variant, 1e3 * s->seconds,
               s->max_rel_error);
    } else {
        printf("measured  %s: %.4f ms, error %.2g of max|y|; %d variants measured%s%s\n",
               s->variant, 1e3 * s->seconds, s->max_rel_error, s->measured,
               s->noisy ? "; noisy" : "", s->stored ? "" : "; not stored in the cache");
    }
}

/* Measures if asked to; else reads what the cache holds about the chosen variant. */
static int find_times(struct explanation *e, bool measure)
{
    if (!measure && strcmp(doconv_plan_origin(e->plan), "cache") != 0) {
        return COMMAND_OK;
    }
    const doconv_tune_options tune = {
        .size = sizeof tune, .force = measure, .progress = show_rounds};
    e->summary.size = sizeof e->summary;
    doconv_status status = doconv_tune(e->context, &e->desc, &e->options, &tune, &e->report);
    command_progress(NULL);
    if (status == DOCONV_OK) {
        status = doconv_tune_report_summary(e->report, &e->summary);
    }
    return status == DOCONV_OK
               ? COMMAND_OK
               : command_library_error(e->context, status, "tuning \"%s\"", e->problem);
}

/* Fixes the choice: what a plan gets that may not measure, for explaining must not. */
static doconv_status create_plan(struct explanation *e)
{
    doconv_context_info info = {.size = sizeof info};
    doconv_plan_options options = e->options;
    const doconv_status status = doconv_context_get_info(e->context, &info);
    if (status != DOCONV_OK) {
        return status;
    }
    options.rigor = info.tune == DOCONV_TUNE_OFF ? DOCONV_RIGOR_ESTIMATE : DOCONV_RIGOR_READ;
    doconv_plan_destroy(e->plan);
    return doconv_plan_create(e->context, &e->desc, &options, &e->plan);
}

static int explain(struct explanation *e, bool measure)
{
    int result = print_problem(e);
    if (result != COMMAND_OK) {
        return result;
    }
    doconv_status status =
        doconv_candidates_create(e->context, &e->desc, &e->options, &e->candidates);
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "the candidates of \"%s\"", e->problem);
    }
    status = create_plan(e);
    if (status == DOCONV_OK) {
        result = find_times(e, measure);
    }
    if (status == DOCONV_OK && result == COMMAND_OK && measure) {
        status = create_plan(e); /* the choice as it is now */
    }
    if (result == COMMAND_OK) {
        result = print_candidates(e); /* the reasons are worth most when there is no plan */
    }
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "a plan for \"%s\"", e->problem);
    }
    if (result == COMMAND_OK) {
        print_choice(e);
    }
    return result;
}

static int run_explain(int count, char **words)
{
    doconv_isa isa = DOCONV_ISA_DEFAULT;
    int threads = 0;
    size_t workspace = 0;
    bool measure = false;
    const struct command_option options[] = {{"measure", COMMAND_OPTION_FLAG, &measure, 0, 0},
                                             {"isa", COMMAND_OPTION_ISA, &isa, 0, 0},
                                             {"threads", COMMAND_OPTION_INT, &threads, 1, 4096},
                                             {"workspace", COMMAND_OPTION_BYTES, &workspace, 0, 0},
                                             {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    const int arguments = command_parse_options(&command_explain, count, words, options);
    if (arguments < 0) {
        return COMMAND_USAGE;
    }
    if (arguments == 0) {
        return command_usage_error("explain", "a problem is missing");
    }
    if (arguments > 1) {
        return command_usage_error("explain", "one word too many: \"%.80s\"", words[1]);
    }
    struct explanation e = {
        .problem = words[0],
        .options = {.size = sizeof e.options, .workspace_limit = workspace},
    };
    int result = command_context_create("explain", isa, threads, DOCONV_TUNE_DEFAULT, &e.context);
    if (result != COMMAND_OK) {
        return result;
    }
    const doconv_status status = doconv_conv_desc_parse(e.context, e.problem, &e.desc);
    if (status == DOCONV_OK) {
        result = explain(&e, measure);
    } else {
        command_library_error(e.context, status, "\"%s\" is no problem", e.problem);
        result = COMMAND_USAGE;
    }
    doconv_candidates_destroy(e.candidates);
    doconv_tune_report_destroy(e.report);
    doconv_plan_destroy(e.plan);
    doconv_context_destroy(e.context);
    return result;
}

const struct command_verb command_explain = {
    .name = "explain",
    .summary = "a problem's candidates, their times, and the choice",
    .help = "usage: doconv explain PROBLEM [--measure] [--OPTION=VALUE ...]\n"
            "\n"
            "Prints every candidate for a problem, best estimate first, with its estimated time, "
            "its measured time where\n"
            "there is one, and its memory; every kernel that refused the problem, with the reason; "
            "and the variant that a\n"
            "plan gets, with its origin (cache or estimate).\n"
            "\n"
            "PROBLEM is written as benchdnn writes it, e.g. "
            "mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias,relu\n"
            "\n"
            "  --measure           measure the candidates now and store the winner in the cache\n"
            "  --isa=NAME          cap on the instruction set: none, avx2, avx512, neon\n"
            "  --threads=N         threads (default: OMP_NUM_THREADS, else one for each CPU)\n"
            "  --workspace=BYTES   refuse candidates that need more\n",
    .run = run_explain,
};
