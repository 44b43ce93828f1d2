/* SPDX-License-Identifier: MIT */
/*
 * Choosing by measurement: prune, measure, check, store, report; and the advisor through which
 * plans use it. There is no lock around a measurement: a caller's threads may be those that it
 * needs. Two at once disturb each other, which the noise shows.
 */
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "cache.h"
#include "kernel.h"
#include "library.h"
#include "measure.h"
#include "nearest.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"

/*
 * Candidates that are measured: the best of each solver with each kernel and the best of all, as
 * the estimate has it, none that is slower by this factor.
 */
#define PRUNED 20
#define HOPELESS 3.0
#define BUDGET_SECONDS 0.6
#define LEAST_ROUNDS 5
/*
 * A winner whose samples deviate more is not trusted, and measured again with twice the samples
 * each time.
 */
#define NOISY 0.08
#define ATTEMPTS 3

struct doconv_tune_report {
    doconv_context *ctx;
    struct cache_entry entry;
    bool from_cache, noisy, stored;
    double rms_error[CACHEFILE_MEASURED]; /* of entry.measured */
};

/* ---- pruning ---- */

static bool worth_measuring(const struct dc_candidate_list *list, int index)
{
    /*
     * Only where nothing else takes the problem: the reference and portable loops are what the
     * others are checked against.
     */
    const struct dc_kernel *kernel = list->items[index].kernel;
    const bool slow = kernel == NULL || kernel->family == DC_FAMILY_REFERENCE;
    return slow ? index == 0
                : list->items[index].estimated_seconds <=
                      HOPELESS * list->items[0].estimated_seconds;
}

/* Of its solver with its kernel; another second one is no other pair. */
static bool best_of_pair(const struct dc_candidate_list *list, int index)
{
    const struct dc_candidate *c = &list->items[index];
    for (int i = 0; i < index; i++) {
        if (list->items[i].solver == c->solver && list->items[i].kernel == c->kernel) {
            return false;
        }
    }
    return true;
}

/*
 * Picks indices from a sorted list, in its order: the default, which the library would take without
 * measuring, is the first.
 */
static int prune(const struct dc_candidate_list *list, int picked[PRUNED])
{
    int pairs = 0, count = 0;
    for (int i = 0; i < list->count && list->items[i].refused == NULL; i++) {
        pairs += worth_measuring(list, i) && best_of_pair(list, i);
    }
    int others = pairs < PRUNED ? PRUNED - pairs : 0;
    for (int i = 0; i < list->count && list->items[i].refused == NULL && count < PRUNED; i++) {
        if (worth_measuring(list, i) && (best_of_pair(list, i) || others-- > 0)) {
            picked[count++] = i;
        }
    }
    return count;
}

/* Is a cached variant still one that the planner would make? */
static bool is_candidate(const struct dc_candidate_list *list, const char *variant)
{
    for (int i = 0; i < list->count; i++) {
        if (list->items[i].refused == NULL && strcmp(list->items[i].text, variant) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- tuning ---- */

static int64_t scaled(double value, double unit)
{
    const double result = value / unit + 0.5;
    return result < 9e18 ? (int64_t)result : INT64_MAX;
}

static void record(struct doconv_tune_report *report, const struct measure_set *set, double error)
{
    struct cache_entry *entry = &report->entry;
    const struct dc_candidate *winner = &set->items[0].plan->candidate;
    memcpy(entry->variant, winner->text, sizeof entry->variant);
    entry->revision = winner->kernel != NULL ? winner->kernel->revision : 0;
    entry->second_revision = winner->second != NULL ? winner->second->revision : 0;
    entry->workspace = (int64_t)winner->workspace_size;
    entry->picoseconds = scaled(set->items[0].median, 1e-12);
    entry->max_rel_error_e12 = scaled(error, 1e-12);
    entry->count = set->count < CACHEFILE_MEASURED ? set->count : CACHEFILE_MEASURED;
    for (int i = 0; i < entry->count; i++) {
        const struct measured *m = &set->items[i];
        struct cache_measured *to = &entry->measured[i];
        memcpy(to->variant, m->plan->candidate.text, sizeof to->variant);
        to->picoseconds = scaled(m->median, 1e-12);
        to->rounds = m->rounds;
        to->spread_ppm = (int)fmin(m->spread * 1e6, 1e9);
        to->dropped = m->dropped;
        report->rms_error[i] = m->rms_error;
    }
}

/* The errors of all but the winner, which has been checked, and of those known to be wrong. */
static doconv_status find_errors(struct measure_set *set)
{
    for (int i = 1; i < set->count; i++) {
        struct check_result result = {0};
        if (set->items[i].wrong) {
            continue;
        }
        const doconv_status status = dc_measure_check(set, &set->items[i], &result);
        if (status != DOCONV_OK) {
            return status;
        }
        set->items[i].rms_error = result.rms_error;
    }
    return DOCONV_OK;
}

/* Measures until the winner is right. */
static doconv_status measure_and_check(struct measure_set *set, const doconv_tune_options *options,
                                       struct doconv_tune_report *report)
{
    for (int left = set->count; left > 0; left--) {
        struct measure_limits limits = {
            .budget_seconds =
                options->budget_seconds > 0.0 ? options->budget_seconds : BUDGET_SECONDS,
            .least_rounds = LEAST_ROUNDS,
            .progress = options->progress,
            .progress_user = options->progress_user,
            .cancel = options->cancel,
            .cancel_user = options->cancel_user,
        };
        bool whole = dc_measure(set, &limits);
        for (int attempt = 1; attempt < ATTEMPTS && whole && set->items[0].spread > NOISY;
             attempt++) {
            limits.budget_seconds *= 2.0;
            limits.least_rounds *= 2;
            whole = dc_measure(set, &limits);
        }
        struct measured *winner = &set->items[0];
        report->noisy = !whole || winner->spread > NOISY;
        struct check_result result = {0};
        doconv_status status = dc_measure_check(set, winner, &result);
        winner->rms_error = result.rms_error;
        if (status == DOCONV_OK && result.right && options->errors) {
            status = find_errors(set);
        }
        if (status != DOCONV_OK) {
            return status;
        }
        if (result.right) {
            record(report, set, result.max_rel_error);
            return DOCONV_OK;
        }
        dc_log(set->ctx, DOCONV_LOG_ERROR,
               "tune: %s is wrong by %g of the largest value and dropped: %s",
               winner->plan->candidate.text, result.max_rel_error, report->entry.key);
        winner->wrong = true;
        /*
         * What it left behind was measured against a time that no right variant has: all others run
         * again.
         */
    }
    return dc_fail(set->ctx, DOCONV_UNSUPPORTED,
                   "tune: every measured variant gave a wrong result");
}

/* Fills the set; a candidate that there is no memory for is left out while there is another. */
static doconv_status add_candidates(struct measure_set *set, const struct dc_candidate_list *list,
                                    const int *picked, int count,
                                    const doconv_plan_options *plan_options)
{
    doconv_status status = DOCONV_OK;
    for (int i = 0; i < count; i++) {
        const char *text = list->items[picked[i]].text;
        const doconv_status added = dc_measure_set_add(set, plan_options, text);
        if (added != DOCONV_OK) {
            dc_log(set->ctx, DOCONV_LOG_WARNING, "tune: %s is not measured: %s", text,
                   doconv_status_string(added));
            status = added;
        }
    }
    return set->count > 0 ? DOCONV_OK : status;
}

static doconv_status tune(doconv_context *ctx, const struct dc_problem *problem,
                          const struct dc_candidate_list *list,
                          const doconv_plan_options *plan_options,
                          const doconv_tune_options *options, struct doconv_tune_report *report)
{
    int picked[PRUNED];
    const int count = prune(list, picked);
    if (count == 0) {
        const char *variant = plan_options->variant;
        return dc_fail(ctx, variant != NULL ? DOCONV_NOT_FOUND : DOCONV_UNSUPPORTED,
                       "tune: no candidate%s%.100s takes this problem",
                       variant != NULL ? " called " : "", variant != NULL ? variant : "");
    }
    struct measure_set set;
    doconv_status status = dc_measure_set_create(ctx, problem, plan_options, count, &set);
    if (status != DOCONV_OK) {
        return status;
    }
    status = add_candidates(&set, list, picked, count, plan_options);
    if (status == DOCONV_OK) {
        status = measure_and_check(&set, options, report);
    }
    dc_measure_set_destroy(&set);
    return status;
}

/* Takes the winner from the cache or measures it. */
static doconv_status fill_report(doconv_context *ctx, const struct dc_problem *problem,
                                 const doconv_plan_options *plan_options,
                                 const doconv_tune_options *options,
                                 struct doconv_tune_report *report)
{
    struct cache *cache = ctx->advisor.self;
    const bool restricted = plan_options->variant != NULL;
    char key[DC_KEY_SIZE];
    dc_plan_key(ctx, problem, plan_options, key, sizeof key);
    struct dc_candidate_list list;
    doconv_status status = dc_enumerate(ctx, problem, plan_options, &list);
    if (status != DOCONV_OK) {
        return status;
    }
    if (!restricted && !options->force) {
        const enum cache_state state = dc_cache_lookup(cache, key, &report->entry);
        report->from_cache = state > CACHE_NOISY && is_candidate(&list, report->entry.variant);
        report->stored = report->from_cache && state == CACHE_STORED;
    }
    if (report->from_cache) {
        report->entry.count = 0;
    } else {
        memset(&report->entry, 0, sizeof report->entry);
        memcpy(report->entry.key, key, sizeof key);
        status = tune(ctx, problem, &list, plan_options, options, report);
    }
    dc_free(ctx, list.items);
    if (status != DOCONV_OK || report->from_cache || restricted) {
        return status;
    }
    if (report->noisy) {
        dc_log(ctx, DOCONV_LOG_WARNING, "tune: the times are too noisy to keep: %s", key);
    }
    report->stored = dc_cache_store(cache, &report->entry, report->noisy) == CACHE_STORED;
    return DOCONV_OK;
}

/* A caller's options, or NULL for the defaults, as checked ones of this version. */
static doconv_status read_options(doconv_context *ctx, const doconv_tune_options *from,
                                  doconv_tune_options *options)
{
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_tune_options, from, options);
    if (status != DOCONV_OK) {
        return status;
    }
    if (options->force != 0 && options->force != 1) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.force: %d is not in 0..1",
                       options->force);
    }
    if (options->errors != 0 && options->errors != 1) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT, "options.errors: %d is not in 0..1",
                       options->errors);
    }
    if (!(options->budget_seconds >= 0.0 && options->budget_seconds <= 86400.0)) {
        return dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                       "options.budget_seconds: %g is not in 0..86400", options->budget_seconds);
    }
    return DOCONV_OK;
}

/* doconv_tune() of any operation, with checked options of this version. */
static doconv_status tune_problem(doconv_context *ctx, const struct dc_problem *problem,
                                  const doconv_plan_options *plan_options,
                                  const doconv_tune_options *options, doconv_tune_report **report)
{
    struct doconv_tune_report *result = dc_alloc(ctx, sizeof *result);
    if (result == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: out of memory");
    }
    memset(result, 0, sizeof *result);
    result->ctx = ctx;
    const doconv_status status = fill_report(ctx, problem, plan_options, options, result);
    if (status != DOCONV_OK) {
        dc_free(ctx, result);
        return status;
    }
    *report = result;
    return DOCONV_OK;
}

doconv_status doconv_tune(doconv_context *context, const doconv_conv_desc *desc,
                          const doconv_plan_options *plan_options,
                          const doconv_tune_options *options, doconv_tune_report **report)
{
    if (report != NULL) {
        *report = NULL;
    }
    if (context == NULL || report == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       context == NULL ? "context" : "report");
    }
    struct dc_problem problem;
    doconv_plan_options own_plan_options;
    doconv_tune_options own_options;
    doconv_status status = read_options(context, options, &own_options);
    if (status == DOCONV_OK) {
        status = dc_plan_options_read(context, plan_options, &own_plan_options);
    }
    if (status == DOCONV_OK) {
        status = dc_plan_problem(context, desc, &own_plan_options, &problem);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    return tune_problem(context, &problem, &own_plan_options, &own_options, report);
}

/* ---- the report ---- */

void doconv_tune_report_destroy(doconv_tune_report *report)
{
    if (report != NULL) {
        dc_free(report->ctx, report);
    }
}

doconv_status doconv_tune_report_summary(const doconv_tune_report *report,
                                         doconv_tune_summary *summary)
{
    if (report == NULL || summary == NULL) {
        return report == NULL ? DOCONV_INVALID_ARGUMENT
                              : dc_fail(report->ctx, DOCONV_INVALID_ARGUMENT, "summary: NULL");
    }
    const doconv_tune_summary result = {
        .size = sizeof result,
        .variant = report->entry.variant,
        .seconds = 1e-12 * (double)report->entry.picoseconds,
        .max_rel_error = 1e-12 * (double)report->entry.max_rel_error_e12,
        .from_cache = report->from_cache,
        .noisy = report->noisy,
        .stored = report->stored,
        .measured = report->entry.count,
        .rms_error = report->entry.count > 0 ? report->rms_error[0] : 0.0,
    };
    return DC_WRITE_STRUCT(report->ctx, doconv_tune_summary, &result, summary);
}

int doconv_tune_report_count(const doconv_tune_report *report)
{
    return report != NULL ? report->entry.count : 0;
}

doconv_status doconv_tune_report_get(const doconv_tune_report *report, int index,
                                     doconv_tune_entry *entry)
{
    if (report == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (entry == NULL || index < 0 || index >= report->entry.count) {
        return dc_fail(report->ctx, DOCONV_INVALID_ARGUMENT, "entry: NULL, or index: %d is none",
                       index);
    }
    doconv_tune_entry result = dc_cachefile_public(&report->entry.measured[index]);
    result.rms_error = report->rms_error[index];
    return DC_WRITE_STRUCT(report->ctx, doconv_tune_entry, &result, entry);
}

/* ---- the cache's directory ---- */

doconv_status doconv_cache_clean(doconv_context *context, const doconv_cache_clean_options *options)
{
    if (context == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_cache_clean_options own;
    const doconv_status status = DC_READ_STRUCT(context, doconv_cache_clean_options, options, &own);
    if (status != DOCONV_OK) {
        return status;
    }
    if (own.all != 0 && own.all != 1) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "options.all: %d is not in 0..1", own.all);
    }
    const int error =
        dc_cache_clean(context->advisor.self, own.all != 0, own.report, own.report_user);
    return error == 0 ? DOCONV_OK
                      : dc_fail(context, DOCONV_IO_ERROR, "cache: the directory \"%.100s\": %s",
                                context->cache_directory, strerror(error));
}

/* ---- the advisor: self is the cache ---- */

static bool advise(void *self, const char *key, char *variant, size_t size)
{
    struct cache *cache = self;
    struct cache_entry *entry = dc_alloc(dc_cache_context(cache), sizeof *entry);
    const bool hit = entry != NULL && dc_cache_lookup(cache, key, entry) > CACHE_NOISY &&
                     strlen(entry->variant) < size;
    if (hit) {
        memcpy(variant, entry->variant, strlen(entry->variant) + 1);
    }
    dc_free(dc_cache_context(cache), entry);
    return hit;
}

/*
 * A winner too noisy to be stored, measured in this context before: on a busy machine each further
 * plan would measure once more.
 */
static bool recall_noisy(struct cache *cache, const struct dc_problem *problem,
                         const doconv_plan_options *options, struct cache_entry *entry)
{
    doconv_context *ctx = dc_cache_context(cache);
    char key[DC_KEY_SIZE];
    if (ctx->tune == DOCONV_TUNE_FORCE) {
        return false;
    }
    dc_plan_key(ctx, problem, options, key, sizeof key);
    return dc_cache_lookup(cache, key, entry) == CACHE_NOISY;
}

static doconv_status measure_now(void *self, const struct dc_problem *problem,
                                 const doconv_plan_options *options, char *variant, size_t size)
{
    struct cache *cache = self;
    doconv_context *ctx = dc_cache_context(cache);
    struct doconv_tune_report *report = dc_alloc(ctx, sizeof *report);
    if (report == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: out of memory");
    }
    report->ctx = ctx;
    doconv_status status = DOCONV_OK;
    if (!recall_noisy(cache, problem, options, &report->entry)) {
        doconv_tune_options force = {.size = sizeof force, .force = 1};
        if (options != NULL) {
            force.budget_seconds = options->budget_seconds;
            force.progress = options->progress;
            force.progress_user = options->progress_user;
            force.cancel = options->cancel;
            force.cancel_user = options->cancel_user;
        }
        doconv_tune_report_destroy(report);
        status = tune_problem(ctx, problem, options, &force, &report);
    }
    if (status == DOCONV_OK) {
        const size_t length = strlen(report->entry.variant);
        if (length < size) {
            memcpy(variant, report->entry.variant, length + 1);
        } else {
            status =
                dc_fail(ctx, DOCONV_INVALID_ARGUMENT,
                        "tune: a variant of %zu characters does not fit %zu bytes", length, size);
        }
        doconv_tune_report_destroy(report);
    }
    return status;
}

static void detach(void *self)
{
    dc_cache_destroy(self);
}

doconv_status dc_tuner_attach(doconv_context *ctx)
{
    struct cache *cache = dc_cache_create(ctx);
    if (cache == NULL) {
        return DOCONV_OUT_OF_MEMORY;
    }
    ctx->advisor = (struct dc_advisor){.self = cache,
                                       .lookup = advise,
                                       .measure = measure_now,
                                       .infer = dc_nearest_infer,
                                       .destroy = detach};
    return DOCONV_OK;
}
