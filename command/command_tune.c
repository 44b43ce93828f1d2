/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <time.h>

#include <doconv/doconv_tune.h>

#include "command_chain.h"
#include "command_operations.h"
#include "command_shared.h"
#include "network_list.h"

#define DEFAULT_NETWORK "resnet50"
/*
 * Below this a blocked source would be mostly padding: the first layer of a network takes NCHW, as
 * its caller has it.
 */
#define FEWEST_BLOCKED_CHANNELS 8

struct tuning {
    doconv_context *context;
    struct command_operations operations;
    /* options */
    doconv_isa isa;
    int threads, batch;
    bool force, train, deterministic, caller, cold;
    bool bias, residual; /* that layers have beside their own */
    enum command_post post;
    size_t workspace, packed; /* limits, or 0 */
    double budget;
    doconv_accuracy accuracy;
    struct command_layouts layouts;
    int d_mul; /* of the layers of networks; 0: they are plain */
    doconv_composition composition;
    /* progress */
    int current;
    int measured, cached, failed, variants;
};

/* ---- what to tune ---- */

/* Is there an option that layers in training don't have? */
static bool is_of_inference(const struct tuning *t)
{
    return t->cold || t->residual || t->post != COMMAND_POST_NONE || t->workspace != 0 ||
           t->packed != 0;
}

static int add_problem(struct tuning *t, const doconv_conv_desc *from, const char *origin)
{
    doconv_conv_desc changed = *from, *desc = &changed;
    desc->has_bias = desc->has_bias || t->bias;
    desc->residual = desc->residual || t->residual;
    desc->relu = desc->relu || t->post == COMMAND_POST_RELU;
    if (t->post == COMMAND_POST_RELU6) {
        desc->clamp = 1;
        desc->clamp_lo = 0.0f;
        desc->clamp_hi = 6.0f;
    }
    if (desc->d_mul > 0 && is_of_inference(t)) {
        return command_usage_error("tune", "%s: a layer in training", origin);
    }
    /* Of a layer only its operations matter here, not what the estimate chooses for them. */
    const doconv_status status =
        t->train || desc->d_mul > 0 ? command_operations_add_training(&t->operations, t->context,
                                                                      desc, DOCONV_RIGOR_ESTIMATE)
                                    : command_operations_add_plan(&t->operations, t->context, desc);
    if (status == DOCONV_OK) {
        return COMMAND_OK;
    }
    command_library_error(t->context, status, "%s", origin);
    const bool malformed = status == DOCONV_INVALID_PROBLEM || status == DOCONV_INVALID_ARGUMENT ||
                           status == DOCONV_OVERFLOW;
    return malformed ? COMMAND_USAGE : COMMAND_FAILED;
}

/* Adds a problem once for each layout asked for. */
static int add_layouts(struct tuning *t, doconv_conv_desc desc, doconv_layout blocked,
                       const char *origin)
{
    for (int i = 0; i < t->layouts.count; i++) {
        const int item = t->layouts.item[i];
        const doconv_layout layout = item == COMMAND_LAYOUT_BLOCKED ? blocked : (doconv_layout)item;
        const bool few = desc.cin < FEWEST_BLOCKED_CHANNELS &&
                         (layout == DOCONV_NCHW8C || layout == DOCONV_NCHW16C);
        desc.src_layout = few ? DOCONV_NCHW : layout;
        desc.dst_layout = layout;
        const int result = add_problem(t, &desc, origin);
        if (result != COMMAND_OK) {
            return result;
        }
    }
    return COMMAND_OK;
}

/* A layer of a network becomes a DO-Conv layer if asked for, unless it is 1x1. */
static void make_doconv(const struct tuning *t, doconv_conv_desc *desc)
{
    const int64_t taps = desc->kh * desc->kw;
    if (t->d_mul != 0 && taps > 1) {
        desc->d_mul = t->d_mul == COMMAND_D_MUL_TAPS ? taps : t->d_mul;
        desc->composition = t->composition;
    }
}

static int add_network(struct tuning *t, const char *name, doconv_layout blocked)
{
    struct network net;
    char error[1024], origin[128];
    if (network_load(name, &net, error, sizeof error) != 0) {
        return command_usage_error("tune", "%s", error);
    }
    int result = COMMAND_OK;
    for (int i = 0; i < net.layers && result == COMMAND_OK; i++) {
        doconv_conv_desc desc = net.layer[i].desc;
        desc.n = t->batch;
        desc.accuracy = t->accuracy;
        make_doconv(t, &desc);
        snprintf(origin, sizeof origin, "network %s, layer %d", net.name, i + 1);
        result = add_layouts(t, desc, blocked, origin);
    }
    network_free(&net);
    return result;
}

static bool is_network_name(const char *text)
{
    char names[64][NETWORK_NAME_SIZE];
    const int count = network_names(names, 64);
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], text) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * A path has a slash before any colon (a problem's clamp=LO/HI comes after one) or the ending of a
 * network file.
 */
static bool is_path(const char *text)
{
    const size_t length = strlen(text), before_colon = strcspn(text, ":");
    return (length > 4 && strcmp(text + length - 4, ".tsv") == 0) ||
           memchr(text, '/', before_colon) != NULL;
}

static int add_argument(struct tuning *t, const char *text, doconv_layout blocked)
{
    if (is_path(text) || is_network_name(text)) {
        return add_network(t, text, blocked);
    }
    doconv_conv_desc desc;
    const doconv_status status = doconv_conv_desc_parse(t->context, text, &desc);
    if (status != DOCONV_OK) {
        command_library_error(t->context, status, "\"%s\" is neither a network nor a problem",
                              text);
        return COMMAND_USAGE;
    }
    /* What a problem says itself goes over the options. */
    const char *attributes = strchr(text, ':');
    if (attributes == NULL || strstr(attributes, "accuracy=") == NULL) {
        desc.accuracy = t->accuracy;
    }
    if (attributes != NULL &&
        (strstr(attributes, "src=") != NULL || strstr(attributes, "dst=") != NULL)) {
        return add_problem(t, &desc, text);
    }
    return add_layouts(t, desc, blocked, text);
}

/* ---- tuning ---- */

static void show_progress(void *user, int done, int total)
{
    const struct tuning *t = user;
    const double part = total > 0 && done < total ? (double)done / total : 1;
    const int width = 24, filled = (int)(width * (t->current + part) / t->operations.count);
    char bar[32], line[128];
    for (int i = 0; i < width; i++) {
        bar[i] = i < filled ? '#' : '.';
    }
    bar[width] = '\0';
    snprintf(line, sizeof line, "[%s] %d/%d %.40s", bar, t->current + 1, t->operations.count,
             t->operations.item[t->current].text);
    command_progress(line);
}

/* Whether there are operations of layers in training, which need a column for their roles. */
static bool has_roles(const struct tuning *t)
{
    for (int i = 0; i < t->operations.count; i++) {
        if (t->operations.item[i].role[0] != '\0') {
            return true;
        }
    }
    return false;
}

static void add_heads(struct command_table *table, bool roles)
{
    static const char *const heads[] = {"variant", "ms", "GFLOP/s", "error", "from", "note"};
    table->align = roles ? "lllrrrll" : "llrrrll";
    command_table_add(table, "problem");
    if (roles) {
        command_table_add(table, "role");
    }
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        command_table_add(table, "%s", heads[i]);
    }
}

static void add_row(struct command_table *table, const struct command_operation *operation,
                    bool roles, const doconv_tune_summary *summary)
{
    command_table_add(table, "%s", operation->text);
    if (roles) {
        command_table_add(table, "%s", operation->role[0] != '\0' ? operation->role : "plan");
    }
    command_table_add(table, "%s", summary->variant);
    command_table_add(table, "%.4f", 1e3 * summary->seconds);
    command_table_add(
        table, "%.1f",
        summary->seconds > 0 ? 2e-9 * command_operation_macs(operation) / summary->seconds : 0);
    command_table_add(table, "%.1e", summary->max_rel_error);
    command_table_add(table, "%s", summary->from_cache ? "cache" : "measured");
    const bool lost = !summary->from_cache && !summary->stored;
    command_table_add(table, "%s",
                      summary->noisy ? (lost ? "doubtful, not stored" : "doubtful")
                      : lost         ? "not stored"
                                     : "-");
}

static void tune_one(struct tuning *t, struct command_table *table, bool roles)
{
    const struct command_operation *operation = &t->operations.item[t->current];
    const char *const comma = operation->role[0] != '\0' ? ", " : "";
    doconv_plan_options plan = command_operation_options(operation);
    plan.cold_weights = t->cold;
    plan.workspace_limit = t->workspace;
    plan.packed_limit = t->packed;
    const doconv_tune_options options = {.size = sizeof options,
                                         .force = t->force,
                                         .budget_seconds = t->budget,
                                         .progress = show_progress,
                                         .progress_user = t};
    doconv_tune_report *report = NULL;
    doconv_tune_summary summary = {.size = sizeof summary};
    doconv_status status = doconv_tune(t->context, &operation->desc, &plan, &options, &report);
    if (status == DOCONV_OK) {
        status = doconv_tune_report_summary(report, &summary);
    }
    if (status != DOCONV_OK) {
        t->failed++;
        command_library_error(t->context, status, "%s%s%s", operation->text, comma,
                              operation->role);
    } else {
        t->measured += !summary.from_cache;
        t->cached += summary.from_cache != 0;
        t->variants += summary.measured;
        add_row(table, operation, roles, &summary);
        if (!command_has_progress()) {
            fprintf(stderr, "%d/%d %s%s%s: %s %.4f ms (%s)\n", t->current + 1, t->operations.count,
                    operation->text, comma, operation->role, summary.variant, 1e3 * summary.seconds,
                    summary.from_cache ? "cache" : "measured");
        }
    }
    doconv_tune_report_destroy(report);
}

static int tune_all(struct tuning *t)
{
    const int count = t->operations.count;
    const bool roles = has_roles(t);
    struct command_table table = {.cells = 0};
    add_heads(&table, roles);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (t->current = 0; t->current < count; t->current++) {
        show_progress(t, 0, 1);
        tune_one(t, &table, roles);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    command_progress(NULL);
    command_table_print(&table, 0);
    printf("\n%d %s%s: %d measured (%d variants), %d from the cache, %d failed; %.1f s\n", count,
           roles ? "operation" : "problem", count == 1 ? "" : "s", t->measured, t->variants,
           t->cached, t->failed,
           (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
    return t->failed == 0 ? COMMAND_OK : COMMAND_FAILED;
}

static int collect(struct tuning *t, int count, char **words)
{
    doconv_context_info info = {.size = sizeof info};
    const doconv_status status = doconv_context_get_info(t->context, &info);
    if (status != DOCONV_OK) {
        return command_library_error(t->context, status, "the context's properties");
    }
    const doconv_layout blocked = command_blocked_layout(info.isa);
    if (t->layouts.count == 0) {
        t->layouts.item[t->layouts.count++] = DOCONV_NCHW;
    }
    int result = count == 0 ? add_network(t, DEFAULT_NETWORK, blocked) : COMMAND_OK;
    for (int i = 0; i < count && result == COMMAND_OK; i++) {
        result = add_argument(t, words[i], blocked);
    }
    return result;
}

/* A network whole: its only argument. */
static int run_chain(const struct tuning *t, struct command_chain *chain, int arguments,
                     char **words)
{
    if (arguments > 1) {
        return command_usage_error("tune", "--chain takes one network");
    }
    if (t->train) {
        return command_usage_error("tune", "--chain is for networks that are not in training");
    }
    if (t->bias || is_of_inference(t)) {
        return command_usage_error("tune", "--bias, --residual, --post, --cold, --workspace and "
                                           "--packed do not go with --chain");
    }
    chain->network = arguments == 1 ? words[0] : DEFAULT_NETWORK;
    chain->batch = t->batch;
    chain->force = t->force;
    chain->budget = t->budget;
    chain->accuracy = t->accuracy;
    chain->layouts = t->layouts;
    doconv_context *context;
    int result = command_context_create_for("tune", t->isa, t->threads, DOCONV_TUNE_TUNE,
                                            t->deterministic, t->caller, &context);
    if (result == COMMAND_OK) {
        result = command_chain(context, chain);
        doconv_context_destroy(context);
    }
    command_runner_end();
    return result;
}

static int run_tune(int count, char **words)
{
    struct tuning t = {.batch = 1};
    struct command_chain chain = {.network = NULL};
    bool chained = false;
    const struct command_option options[] = {
        {"layout", COMMAND_OPTION_LAYOUTS, &t.layouts, 0, 0},
        {"isa", COMMAND_OPTION_ISA, &t.isa, 0, 0},
        {"threads", COMMAND_OPTION_INT, &t.threads, 1, 4096},
        {"batch", COMMAND_OPTION_INT, &t.batch, 1, 65536},
        {"deterministic", COMMAND_OPTION_FLAG, &t.deterministic, 0, 0},
        {"force", COMMAND_OPTION_FLAG, &t.force, 0, 0},
        {"bias", COMMAND_OPTION_FLAG, &t.bias, 0, 0},
        {"residual", COMMAND_OPTION_FLAG, &t.residual, 0, 0},
        {"post", COMMAND_OPTION_POST, &t.post, 0, 0},
        {"runner", COMMAND_OPTION_RUNNER, &t.caller, 0, 0},
        {"cold", COMMAND_OPTION_FLAG, &t.cold, 0, 0},
        {"workspace", COMMAND_OPTION_BYTES, &t.workspace, 0, 0},
        {"packed", COMMAND_OPTION_BYTES, &t.packed, 0, 0},
        {"budget", COMMAND_OPTION_SECONDS, &t.budget, 0, 3600},
        {"accuracy", COMMAND_OPTION_ACCURACY, &t.accuracy, 0, 0},
        {"train", COMMAND_OPTION_FLAG, &t.train, 0, 0},
        {"d-mul", COMMAND_OPTION_D_MUL, &t.d_mul, 0, 0},
        {"composition", COMMAND_OPTION_COMPOSITION, &t.composition, 0, 0},
        {"chain", COMMAND_OPTION_FLAG, &chained, 0, 0},
        {"deadline", COMMAND_OPTION_SECONDS, &chain.deadline, 0, 86400},
        {"output", COMMAND_OPTION_TEXT, &chain.output, 0, 0},
        {NULL, COMMAND_OPTION_FLAG, NULL, 0, 0}};
    const int arguments = command_parse_options(&command_tune, count, words, options);
    if (arguments < 0) {
        return COMMAND_USAGE;
    }
    if (t.composition != DOCONV_COMPOSITION_NONE && t.d_mul == 0) {
        return command_usage_error("tune", "--composition needs --d-mul");
    }
    t.train = t.train || t.d_mul != 0;
    if (t.train && is_of_inference(&t)) {
        return command_usage_error("tune", "--residual, --post, --cold, --workspace and --packed "
                                           "are not for layers in training");
    }
    if (chained) {
        return run_chain(&t, &chain, arguments, words);
    }
    if (chain.output != NULL || chain.deadline > 0.0) {
        return command_usage_error("tune", "--output and --deadline need --chain");
    }
    if (t.composition == DOCONV_COMPOSITION_NONE) {
        t.composition = DOCONV_COMPOSITION_KERNEL;
    }
    int result = command_context_create_for("tune", t.isa, t.threads, DOCONV_TUNE_TUNE,
                                            t.deterministic, t.caller, &t.context);
    if (result != COMMAND_OK) {
        return result;
    }
    result = collect(&t, arguments, words);
    if (result == COMMAND_OK) {
        result = tune_all(&t);
    }
    command_operations_free(&t.operations);
    doconv_context_destroy(t.context);
    command_runner_end();
    return result;
}

const struct command_verb command_tune = {
    .name = "tune",
    .summary = "measures networks or problems, fills the tuner's cache",
    .help =
        "usage: doconv tune [NETWORK | FILE.tsv | PROBLEM ...] [--OPTION=VALUE ...]\n"
        "\n"
        "Finds the fastest variant of each problem and stores it in the tuner's cache; what "
        "the cache has already is not\n"
        "measured again. At the end prints a table: problem, variant, time, GFLOP/s (2 "
        "operations a multiply-add), largest\n"
        "error relative to max|y|, whether the cache had it, and a note where a result is "
        "doubtful (it is measured again\n"
        "the next time) or could not be stored.\n"
        "Of a layer in training, as a DO-Conv layer always is, it tunes each operation that "
        "its passes consist of, a row each.\n"
        "A plan that differs in its epilogue, runner, limits or cold weights alone takes what is "
        "nearest (doconv explain).\n"
        "Without an argument the network is " DEFAULT_NETWORK
        ". \"doconv info\" lists the networks.\n"
        "\n"
        "  --layout=NAMES     of source and destination, several with commas: nchw (default), "
        "nhwc, nChw8c, nChw16c,\n"
        "                     blocked (nChw16c on AVX-512, else nChw8c). A source of fewer "
        "than 8 channels stays nchw where\n"
        "                     the layout is blocked; a PROBLEM that names a layout keeps it\n"
        "  --isa=NAME         cap on the instruction set: none, avx2, avx512, neon\n"
        "  --threads=N        threads (default: OMP_NUM_THREADS, else one for each CPU)\n"
        "  --batch=N          images, for the layers of networks (default: 1)\n"
        "  --accuracy=NAME    strict, default, fast\n"
        "  --train            tune layers in training, forward and backward\n"
        "  --d-mul=N          networks are of DO-Conv layers, in training, with this D_mul; mn: "
        "as many as the kernel\n"
        "                     has taps. Layers of 1x1 stay plain\n"
        "  --composition=NAME of those: kernel (default), feature; auto: tunes the operations of "
        "both, "
        "then which of the two\n"
        "                     is faster as a whole, in forward passes and in steps\n"
        "  --bias, --residual all layers have one\n"
        "  --post=NAME        what is done to their sums: none (default), relu, relu6\n"
        "  --runner=NAME      who runs the threads: own, the library (default), or caller, a "
        "program's own parallel_for;\n"
        "                     then there is one thread unless --threads says more\n"
        "  --cold             weights come from memory, as in a network, not from a cache\n"
        "  --workspace=BYTES  of plans with this limit of workspace\n"
        "  --packed=BYTES     of plans with this limit of packed weights\n"
        "  --deterministic    for contexts that are: their winners are kept apart\n"
        "  --force            measure all anew\n"
        "  --budget=SECONDS   for each problem, at most (default: 0.25)\n"
        "  --chain            tune a NETWORK whole: its layers with what follows them, weights "
        "cold, and of --layout\n"
        "                     (default: nhwc,blocked) the mixture that makes it fastest, copies "
        "between layouts included.\n"
        "                     Prints each layer's variant, layouts and time, the total, and "
        "that of each layout alone\n"
        "  --deadline=SECONDS of --chain, for all; what is not measured by then is estimated "
        "(default: none)\n"
        "  --output=FILE      of --chain: the plan, for doconv_network_plan_parse()\n"
        "\n"
        "Exit status: 0 done, 1 a problem failed, 2 bad usage or a malformed file.\n",
    .run = run_tune,
};
