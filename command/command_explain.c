/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include <doconv/doconv_tune.h>

#include "command_founding.h"
#include "command_operations.h"
#include "command_shared.h"

/* A variant's measured figures; 0: none. */
struct measured {
    double seconds, spread, rms_error;
    int clean, retaken;
    const char *why; /* it was dropped; "" or NULL: it was not */
};

struct explanation {
    doconv_context *context;
    const char *problem; /* as given */
    doconv_conv_desc desc;
    bool train, measure;
    bool cold;                            /* weights */
    size_t workspace, packed;             /* limits, or 0 */
    struct command_operations operations; /* of the layer, or the plan's one */
    /* of one of them, while it is explained */
    const struct command_operation *operation;
    doconv_plan_options options;
    doconv_tune_report *report; /* NULL: neither measured now nor in the cache */
    doconv_tune_summary summary;
    doconv_candidates *candidates;
};

/* ---- what is printed ---- */

static void show_rounds(void *user, int done, int total)
{
    char line[96];
    (void)user;
    snprintf(line, sizeof line, "measuring: %d %% of the time", 100 * done / total);
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
            return (struct measured){.seconds = entry.median_seconds,
                                     .spread = entry.spread,
                                     .rms_error = entry.rms_error,
                                     .clean = entry.clean,
                                     .retaken = entry.retaken,
                                     .why = entry.why};
        }
    }
    if (count == 0 && strcmp(e->summary.variant, variant) == 0) {
        return (struct measured){.seconds = e->summary.seconds};
    }
    return (struct measured){0};
}

/* What a class of accuracy takes, as doconv_candidate_info has it. */
static const char *accuracy_text(doconv_accuracy accuracy)
{
    switch (accuracy) {
    case DOCONV_ACCURACY_STRICT:
        return "strict: error 1 at most, a direct kernel's";
    case DOCONV_ACCURACY_FAST:
        return "fast: any error; 1 is a direct kernel's";
    case DOCONV_ACCURACY_DEFAULT:
        break;
    }
    return "default: error 4 at most; 1 is a direct kernel's";
}

static int print_machine(const struct explanation *e)
{
    doconv_context_info info = {.size = sizeof info};
    const doconv_status status = doconv_context_get_info(e->context, &info);
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "the context's properties");
    }
    printf("machine   %s, %s, %d thread%s\n", info.cpu, doconv_isa_string(info.isa), info.threads,
           info.threads == 1 ? "" : "s");
    printf("accuracy  %s\n", accuracy_text(e->desc.accuracy));
    if (e->workspace > 0) {
        printf("limit     workspace of %zu bytes\n", e->workspace);
    }
    if (e->packed > 0) {
        printf("limit     packed weights of %zu bytes\n", e->packed);
    }
    return COMMAND_OK;
}

static void print_shape(const char *what, const int64_t *shape, int dimensions)
{
    printf("%s", what);
    for (int i = 0; i < dimensions; i++) {
        printf("%s%" PRId64, i > 0 ? " x " : "", shape[i]);
    }
}

/* The shapes of what an operation computes; the line is not ended. */
static void print_results(const struct command_operation *operation)
{
    const doconv_conv_desc *d = &operation->desc;
    const int64_t cig = d->cin / d->groups, src[] = {d->n, d->cin, d->h, d->w},
                  weight[] = {d->cout, cig, d->kh, d->kw}, w[] = {d->cout, cig, d->d_mul},
                  factors[] = {d->cin, d->kh * d->kw, d->d_mul};
    int64_t dst[4] = {0};
    doconv_conv_dst_shape(NULL, d, dst);
    switch (operation->operation) {
    case DOCONV_OPERATION_CONVOLUTION:
    case DOCONV_OPERATION_FEATURE_FORWARD:
    case DOCONV_OPERATION_LAYER_FORWARD:
        print_shape("output    ", dst, 4);
        return;
    case DOCONV_OPERATION_FOLD:
        print_shape("weight    ", weight, 4);
        return;
    case DOCONV_OPERATION_WEIGHT_GRADIENT:
        if (d->d_mul == 0) {
            print_shape("gradient  of weight ", weight, 4);
            return;
        }
        break;
    case DOCONV_OPERATION_FEATURE_BACKWARD:
    case DOCONV_OPERATION_LAYER_STEP:
        print_shape("gradient  of src ", src, 4);
        printf("\n");
        break;
    case DOCONV_OPERATION_FOLD_GRADIENT:
        break;
    }
    print_shape("gradient  of W ", w, 3);
    print_shape(", of D ", factors, 3);
}

static void print_operation(const struct command_operation *operation)
{
    printf("problem   %s\n", operation->text);
    print_results(operation);
    printf(", %.6g million multiply-adds\n", 1e-6 * command_operation_macs(operation));
}

/* Five cells, four of what the cache has, none without a report. */
static void add_measured_cells(struct command_table *table, const struct explanation *e,
                               const char *variant)
{
    if (e->report == NULL) {
        return;
    }
    const struct measured m = find_measured(e, variant);
    if (m.seconds > 0) {
        command_table_add(table, "%.4f", 1e3 * m.seconds);
        command_table_add(table, "%.1f", 2e-9 * command_operation_macs(e->operation) / m.seconds);
    } else {
        command_table_add(table, "-");
        command_table_add(table, "-");
    }
    if (m.why != NULL && *m.why != '\0') {
        command_table_add(table, "%s", m.why); /* and dropped for it */
    } else if (m.spread > 0) {
        command_table_add(table, "%.1f%%", 100 * m.spread);
    } else {
        command_table_add(table, "-");
    }
    if (e->measure && m.retaken > 0) {
        command_table_add(table, "%d (%d)", m.clean, m.retaken);
    } else if (e->measure && m.seconds > 0) {
        command_table_add(table, "%d", m.clean);
    } else if (e->measure) {
        command_table_add(table, "-");
    }
    if (m.rms_error > 0) {
        command_table_add(table, "%.1f", 1e7 * m.rms_error);
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
    static const char *const measured_heads[] = {
        "candidate", "space KiB", "packed KiB",      "error", "estimate ms", "measured ms",
        "GFLOP/s",   "spread",    "clean (retaken)", "rms",   NULL};
    static const char *const cached_heads[] = {"candidate",   "space KiB",   "packed KiB", "error",
                                               "estimate ms", "measured ms", "GFLOP/s",    "spread",
                                               "rms",         NULL};
    static const char *const estimated_heads[] = {"candidate", "space KiB",   "packed KiB",
                                                  "error",     "estimate ms", NULL};
    static const char *const refused_heads[] = {"refused", "reason", NULL};
    static const char *const limited_heads[] = {"refused", "packed KiB", "reason", NULL};
    struct command_table accepted = {.align = e->report == NULL ? "lrrrr"
                                              : e->measure      ? "lrrrrrrrrr"
                                                                : "lrrrrrrrr"},
                         refused = {.align = e->packed > 0 ? "lrl" : "ll"};
    add_heads(&accepted, e->report == NULL ? estimated_heads
                         : e->measure      ? measured_heads
                                           : cached_heads);
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
                add_heads(&refused, e->packed > 0 ? limited_heads : refused_heads);
            }
            command_table_add(&refused, "%s", candidate.variant);
            if (e->packed > 0 && candidate.packed_size > 0) {
                command_table_add(&refused, "%.1f", (double)candidate.packed_size / 1024);
            } else if (e->packed > 0) {
                command_table_add(&refused, "-");
            }
            command_table_add(&refused, "%s", candidate.refused);
            continue;
        }
        command_table_add(&accepted, "%s", candidate.variant);
        if (candidate.kernel[0] == '\0') { /* a composition: its operations have their own */
            command_table_add(&accepted, "-");
            command_table_add(&accepted, "-");
        } else {
            command_table_add(&accepted, "%.1f", (double)candidate.workspace_size / 1024);
            command_table_add(&accepted, "%.1f", (double)candidate.packed_size / 1024);
        }
        command_table_add(&accepted, "%.3g", candidate.error_amplification);
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

static int print_choice(const struct explanation *e)
{
    const char *source = e->operation->source;
    printf("\nchoice    %s\n", e->operation->variant);
    printf("origin    %s%s\n", e->operation->origin,
           e->report == NULL && source[0] == '\0' ? " (nothing measured: --measure does)" : "");
    if (source[0] != '\0') {
        printf("of        %s\n", source);
    }
    if (e->report == NULL) {
        return source[0] != '\0' ? command_print_entry(e->context, source) : COMMAND_OK;
    }
    const doconv_tune_summary *s = &e->summary;
    const struct command_founding founding = {.variant = s->variant,
                                              .seconds = s->seconds,
                                              .error = s->max_rel_error,
                                              .when = s->when,
                                              .against = s->against,
                                              .against_seconds = s->against_seconds,
                                              .confidence = s->confidence,
                                              .doubtful = s->noisy != 0};
    if (s->from_cache) {
        command_print_founding(&founding);
        return COMMAND_OK;
    }
    printf("measured  %s: %.4f ms, error %.2g of max|y|, rms error %.2g; %d variants "
           "measured%s\n",
           s->variant, 1e3 * s->seconds, s->max_rel_error, s->rms_error, s->measured,
           s->stored ? "" : "; not stored in the cache");
    command_print_confidence(&founding);
    return COMMAND_OK;
}

/* ---- what is asked of the library ---- */

/* Measures if asked to; else reads what the cache holds about the chosen variant. */
static int find_times(struct explanation *e)
{
    if (!e->measure && strcmp(e->operation->origin, "cache") != 0) {
        return COMMAND_OK;
    }
    const doconv_tune_options tune = {
        .size = sizeof tune, .force = e->measure, .progress = show_rounds, .errors = e->measure};
    e->summary.size = sizeof e->summary;
    doconv_status status =
        doconv_tune(e->context, &e->operation->desc, &e->options, &tune, &e->report);
    command_progress(NULL);
    if (status == DOCONV_OK) {
        status = doconv_tune_report_summary(e->report, &e->summary);
    }
    return status == DOCONV_OK
               ? COMMAND_OK
               : command_library_error(e->context, status, "tuning \"%s\"", e->operation->text);
}

/* The choice of a plan that may not measure. */
static doconv_status choose_plan(struct explanation *e, doconv_rigor rigor)
{
    struct command_operation *operation = &e->operations.item[0];
    const doconv_plan_options options = {.size = sizeof options,
                                         .rigor = rigor,
                                         .workspace_limit = e->workspace,
                                         .cold_weights = e->cold,
                                         .packed_limit = e->packed};
    doconv_plan *plan;
    const doconv_status status = doconv_plan_create(e->context, &e->desc, &options, &plan);
    snprintf(operation->variant, sizeof operation->variant, "%s", doconv_plan_variant(plan));
    snprintf(operation->origin, sizeof operation->origin, "%s", doconv_plan_origin(plan));
    snprintf(operation->source, sizeof operation->source, "%s", doconv_plan_source(plan));
    doconv_plan_destroy(plan);
    return status;
}

/*
 * Fills in the choices as they are now: what plans and layers get that may not measure, for
 * explaining must not. The operations of a layer are the same, in the same order, each time.
 */
static doconv_status choose(struct explanation *e)
{
    doconv_context_info info = {.size = sizeof info};
    const doconv_status status = doconv_context_get_info(e->context, &info);
    if (status != DOCONV_OK) {
        return status;
    }
    const doconv_rigor rigor =
        info.tune == DOCONV_TUNE_OFF ? DOCONV_RIGOR_ESTIMATE : DOCONV_RIGOR_READ;
    if (!e->train) {
        return choose_plan(e, rigor);
    }
    e->operations.count = 0;
    return command_operations_add_training(&e->operations, e->context, &e->desc, rigor);
}

static int explain_operation(struct explanation *e, int index)
{
    e->operation = &e->operations.item[index];
    e->options = command_operation_options(e->operation);
    e->options.workspace_limit = e->workspace;
    e->options.cold_weights = e->cold;
    e->options.packed_limit = e->packed;
    doconv_status status =
        doconv_candidates_create(e->context, &e->operation->desc, &e->options, &e->candidates);
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "the candidates of \"%s\"",
                                     e->operation->text);
    }
    int result = COMMAND_OK;
    if (!e->train) {
        status = choose(e); /* a layer has its choices: its operations come with them */
    }
    if (status == DOCONV_OK) {
        result = find_times(e);
    }
    if (status == DOCONV_OK && result == COMMAND_OK && e->measure) {
        status = choose(e); /* as it is now */
    }
    if (result == COMMAND_OK) {
        result = print_candidates(e); /* the reasons are worth most when there is no plan */
    }
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "a plan for \"%s\"", e->problem);
    }
    return result == COMMAND_OK ? print_choice(e) : result;
}

static void forget_operation(struct explanation *e)
{
    doconv_candidates_destroy(e->candidates);
    doconv_tune_report_destroy(e->report);
    e->candidates = NULL;
    e->report = NULL;
}

static int explain_plan(struct explanation *e)
{
    const doconv_status status = command_operations_add_plan(&e->operations, e->context, &e->desc);
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "problem \"%s\"", e->problem);
    }
    print_operation(&e->operations.item[0]);
    int result = print_machine(e);
    if (result == COMMAND_OK) {
        result = explain_operation(e, 0);
    }
    forget_operation(e);
    return result;
}

static int explain_layer(struct explanation *e)
{
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    doconv_status status = choose(e);
    if (status == DOCONV_OK) {
        status = doconv_conv_desc_format(e->context, &e->desc, text, sizeof text);
    }
    if (status != DOCONV_OK) {
        return command_library_error(e->context, status, "training \"%s\"", e->problem);
    }
    printf("problem   %s\n", text);
    printf("training  %d operations\n", e->operations.count);
    int result = print_machine(e);
    for (int i = 0; i < e->operations.count && result == COMMAND_OK; i++) {
        const struct command_operation *operation = &e->operations.item[i];
        printf("\n== %s ==\n", operation->role);
        printf("operation %s%s\n", doconv_operation_string(operation->operation),
               operation->fresh_weights ? ", its weight new in each call" : "");
        print_operation(operation);
        result = explain_operation(e, i);
        forget_operation(e);
    }
    return result;
}

static int run_explain(int count, char **words)
{
    struct explanation e = {.train = false};
    doconv_isa isa = DOCONV_ISA_DEFAULT;
    int threads = 0;
    bool deterministic = false, caller = false;
    const struct command_option options[] = {
        {"deterministic", COMMAND_OPTION_FLAG, &deterministic, 0, 0},
        {"measure", COMMAND_OPTION_FLAG, &e.measure, 0, 0},
        {"train", COMMAND_OPTION_FLAG, &e.train, 0, 0},
        {"isa", COMMAND_OPTION_ISA, &isa, 0, 0},
        {"threads", COMMAND_OPTION_INT, &threads, 1, 4096},
        {"runner", COMMAND_OPTION_RUNNER, &caller, 0, 0},
        {"cold", COMMAND_OPTION_FLAG, &e.cold, 0, 0},
        {"workspace", COMMAND_OPTION_BYTES, &e.workspace, 0, 0},
        {"packed", COMMAND_OPTION_BYTES, &e.packed, 0, 0},
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
    e.problem = words[0];
    int result = command_context_create_for("explain", isa, threads, DOCONV_TUNE_DEFAULT,
                                            deterministic, caller, &e.context);
    if (result != COMMAND_OK) {
        return result;
    }
    const doconv_status status = doconv_conv_desc_parse(e.context, e.problem, &e.desc);
    if (status == DOCONV_OK) {
        e.train = e.train || e.desc.d_mul > 0;
    }
    if (status != DOCONV_OK) {
        command_library_error(e.context, status, "\"%s\" is no problem", e.problem);
        result = COMMAND_USAGE;
    } else if (e.train && (e.workspace > 0 || e.packed > 0)) {
        result = command_usage_error("explain", "--%s: a layer in training has no limit",
                                     e.workspace > 0 ? "workspace" : "packed");
    } else if (e.train && e.cold) {
        result = command_usage_error("explain", "--cold: not of a layer in training");
    } else {
        result = e.train ? explain_layer(&e) : explain_plan(&e);
    }
    command_operations_free(&e.operations);
    doconv_context_destroy(e.context);
    command_runner_end();
    return result;
}

const struct command_verb command_explain = {
    .name = "explain",
    .summary = "a problem's candidates, their times, and the choice",
    .help =
        "usage: doconv explain PROBLEM [--train] [--measure] [--OPTION=VALUE ...]\n"
        "\n"
        "Prints every candidate for a problem, best estimate first, with its estimated time, "
        "its measured time where\n"
        "there is one, its memory (workspace and packed weights), and its error: the bound of its "
        "rounding, by that of a\n"
        "direct kernel, and with --measure the root mean square relative to the result's, in 1e-7; "
        "every kernel that refused\n"
        "the problem, with the reason; and the variant that a plan gets, with its origin: cache; "
        "nearest or neighbour, and\n"
        "the key of the cache's entry that it is from; or estimate. Of an entry it tells when it "
        "was "
        "measured, against what,\n"
        "and how sure it is.\n"
        "Of a layer in training it prints that for each operation that its passes consist of; with "
        "composition=auto for those of\n"
        "each composition, then for the layer as a whole: kernel or feature composition, for "
        "forward passes and for steps.\n"
        "\n"
        "PROBLEM is written as benchdnn writes it, e.g. "
        "mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias,relu;\n"
        "a DO-Conv layer, which is one in training, has attributes more: "
        "mb1_ic64ih56oc64kh3ph1:dmul=9,composition=feature\n"
        "\n"
        "  --train             the problem is a layer in training, forward and backward\n"
        "  --measure           measure the candidates now and store the winner in the cache\n"
        "  --isa=NAME          cap on the instruction set: none, avx2, avx512, neon\n"
        "  --threads=N         threads (default: OMP_NUM_THREADS, else one for each CPU)\n"
        "  --deterministic     for contexts that are: one order of sums for any threads\n"
        "  --runner=NAME       who runs the threads: own, the library (default), or caller\n"
        "  --cold              of plans whose weights no cache holds\n"
        "  --workspace=BYTES   refuse candidates that need more; not of a layer in training\n"
        "  --packed=BYTES      refuse candidates whose packed weights take more; likewise\n",
    .run = run_explain,
};
