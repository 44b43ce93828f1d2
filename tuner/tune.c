/* SPDX-License-Identifier: MIT */
/*
 * Choosing by measurement: race, check, store, report; and the advisor through which plans use it.
 * There is no lock around a measurement: a caller's threads may be those that it needs. Two at once
 * disturb each other, which shows.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/context.h"
#include "base/log.h"
#include "base/versioned.h"
#include "cache.h"
#include "check.h"
#include "kernel.h"
#include "library.h"
#include "measure.h"
#include "nearest.h"
#include "picks.h"
#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "tune_report.h"

#define BUDGET_SECONDS 0.25
/* The share of it in which the first candidates race: the winner's neighbours have the rest. */
#define FIRST_SHARE 0.65
#define SEARCHES 2 /* races of neighbours */
#define MOST_CANDIDATES (PICKS_FIRST + SEARCHES * PICKS_NEAR)
/* A result that is less sure (dc_measure_finish()) is doubtful. */
#define DOUBTFUL 0.75

/* ---- tuning ---- */

static int64_t scaled(double value, double unit)
{
    const double result = value / unit + 0.5;
    return result < 9e18 ? (int64_t)result : INT64_MAX;
}

static void record_measured(struct cache_measured *to, const struct measured *m)
{
    memcpy(to->variant, m->plan->candidate.text, sizeof to->variant);
    to->picoseconds = scaled(m->median, 1e-12);
    to->rounds = m->rounds;
    to->clean = m->clean_rounds;
    to->retaken = m->retaken;
    to->spread_ppm = (int)fmin(m->spread * 1e6, 1e9);
    to->fate = m->state == MEASURED_WRONG    ? CACHE_WRONG
               : m->state == MEASURED_SLOWER ? CACHE_SLOWER
                                             : CACHE_KEPT;
}

static void record(struct doconv_tune_report *report, const struct measure_set *set,
                   double confidence, double error)
{
    struct cache_entry *entry = &report->entry;
    const struct dc_candidate *winner = &set->items[0].plan->candidate;
    memcpy(entry->variant, winner->text, sizeof entry->variant);
    entry->revision = winner->kernel != NULL ? winner->kernel->revision : 0;
    entry->second_revision = winner->second != NULL ? winner->second->revision : 0;
    entry->workspace = (int64_t)winner->workspace_size;
    entry->picoseconds = scaled(set->items[0].median, 1e-12);
    entry->max_rel_error_e12 = scaled(error, 1e-12);
    entry->confidence_ppm = (int)(1e6 * confidence);
    entry->doubtful = confidence < DOUBTFUL || set->cancelled;
    const time_t now = time(NULL);
    struct tm utc;
    strftime(entry->when, sizeof entry->when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    entry->count = set->count < CACHEFILE_MEASURED ? set->count : CACHEFILE_MEASURED;
    for (int i = 0; i < set->count; i++) {
        const struct measured *m = &set->items[i];
        if (m->is_default) {
            memcpy(entry->against, m->plan->candidate.text, sizeof entry->against);
            entry->against_picoseconds = scaled(m->median, 1e-12);
        }
        if (i < entry->count) {
            record_measured(&entry->measured[i], m);
            report->rms_error[i] = m->rms_error;
        }
    }
}

/* The errors of all but the winner, which has been checked, and of those known to be wrong. */
static doconv_status find_errors(struct measure_set *set)
{
    for (int i = 1; i < set->count; i++) {
        struct check_result result = {0};
        if (set->items[i].state == MEASURED_WRONG) {
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

/* A measurement on its way. */
struct tuning {
    struct measure_set set;
    const struct dc_candidate_list *list;
    const doconv_plan_options *plan_options;
    const doconv_tune_options *options;
    bool *known;    /* of the list's candidates: measured, or found impossible */
    double reserve; /* seconds of the budget that the check takes */
};

/*
 * Is there time for another candidate beside those that are there? Each, and it, needs a sample
 * more, it its first call, too.
 */
static bool is_time_for(const struct tuning *t, int index, int racing, double reserve)
{
    const struct dc_candidate *items = t->list->items;
    const struct measured *first = &t->set.items[0];
    const double ratio = items[index].estimated_seconds / items[0].estimated_seconds;
    return racing < 2 ||
           dc_measure_left(&t->set) - reserve > first->once * (2.0 * ratio + (double)racing);
}

/*
 * Adds candidates, as many as there is time for; one that there is no memory for is left out while
 * there is another. Returns how many were added; *status: of the last that was not.
 */
static int add_candidates(struct tuning *t, const int *picked, int count, double reserve,
                          doconv_status *status)
{
    int added = 0;
    for (int i = 0; i < count; i++) {
        const char *text = t->list->items[picked[i]].text;
        /* The winner, and the default, race with neighbours. */
        if (t->set.count > 0 && dc_measure_cancelled(&t->set)) {
            break;
        }
        if (t->set.count > 0 &&
            !is_time_for(t, picked[i], t->set.round > 0 ? 2 + added : added, reserve)) {
            break;
        }
        t->known[picked[i]] = true;
        const doconv_status result = dc_measure_set_add(&t->set, t->plan_options, text);
        if (result == DOCONV_OK) {
            dc_measure_calibrate(&t->set, &t->set.items[t->set.count - 1]);
            added++;
        } else {
            dc_log(t->set.ctx, DOCONV_LOG_WARNING, "tune: %s is not measured: %s", text,
                   doconv_status_string(result));
            *status = result;
        }
    }
    return added;
}

/* Races the first candidates, then the winner's neighbours while there is time. */
static doconv_status race(struct tuning *t)
{
    const doconv_tune_options *options = t->options;
    const double later = fmax(t->reserve, (1.0 - FIRST_SHARE) * t->set.budget);
    int picked[PICKS_FIRST];
    doconv_status status = DOCONV_OK;
    int count = dc_picks_first(t->list, picked);
    if (add_candidates(t, picked, count, later, &status) == 0) {
        return status;
    }
    int leader =
        dc_measure_race(&t->set, later, t->reserve, options->progress, options->progress_user);
    for (int i = 0; i < SEARCHES && leader >= 0; i++) {
        const char *variant = t->set.items[leader].plan->candidate.text;
        count = dc_picks_near(t->list, variant, t->known, picked);
        if (add_candidates(t, picked, count, t->reserve, &status) == 0) {
            break;
        }
        const int before = leader;
        leader = dc_measure_race(&t->set, t->reserve, t->reserve, options->progress,
                                 options->progress_user);
        if (leader == before) {
            break; /* the neighbours that are left are worse by estimate */
        }
    }
    return DOCONV_OK;
}

/* Ranks the candidates; while others hold the core, a doubtful ranking is worth more time. */
static double rank(struct tuning *t)
{
    double confidence = dc_measure_finish(&t->set);
    if (confidence < DOUBTFUL) {
        dc_measure_extend(&t->set);
        dc_measure_race(&t->set, t->reserve, t->reserve, t->options->progress,
                        t->options->progress_user);
        confidence = dc_measure_finish(&t->set);
    }
    return confidence;
}

/* Checks the winner; while one is wrong, the next is it. */
static doconv_status finish(struct tuning *t, struct doconv_tune_report *report)
{
    struct measure_set *set = &t->set;
    for (int left = set->count; left > 0; left--) {
        double confidence = rank(t);
        struct measured *winner = &set->items[0];
        struct check_result result = {0};
        doconv_status status = dc_measure_check(set, winner, &result);
        winner->rms_error = result.rms_error;
        if (status == DOCONV_OK && result.right && t->options->errors) {
            status = find_errors(set);
        }
        if (status != DOCONV_OK) {
            return status;
        }
        if (result.right) {
            /* One alone, where there was no time for others, is not known to be the best. */
            const bool alone = set->count == 1 && left == 1 && t->list->count > 1 &&
                               t->list->items[1].refused == NULL;
            confidence = alone && winner->clean_rounds == 0 ? 0.0 : confidence;
            record(report, set, confidence, result.max_rel_error);
            return DOCONV_OK;
        }
        dc_log(set->ctx, DOCONV_LOG_ERROR,
               "tune: %s is wrong by %g of the largest value and dropped: %s",
               winner->plan->candidate.text, result.max_rel_error, report->entry.key);
        winner->state = MEASURED_WRONG;
        /* What it left behind was measured against a time that no right variant has. */
        dc_measure_again(set);
        dc_measure_race(set, t->reserve, t->reserve, t->options->progress,
                        t->options->progress_user);
    }
    return dc_fail(set->ctx, DOCONV_UNSUPPORTED,
                   "tune: every measured variant gave a wrong result");
}

static doconv_status tune(doconv_context *ctx, const struct dc_problem *problem,
                          const struct dc_candidate_list *list,
                          const doconv_plan_options *plan_options,
                          const doconv_tune_options *options, struct doconv_tune_report *report)
{
    if (list->count == 0 || list->items[0].refused != NULL) {
        const char *variant = plan_options->variant;
        return dc_fail(ctx, variant != NULL ? DOCONV_NOT_FOUND : DOCONV_UNSUPPORTED,
                       "tune: no candidate%s%.100s takes this problem",
                       variant != NULL ? " called " : "", variant != NULL ? variant : "");
    }
    struct tuning t = {.list = list, .plan_options = plan_options, .options = options};
    t.known = dc_alloc(ctx, (size_t)list->count * sizeof *t.known);
    if (t.known == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: out of memory");
    }
    memset(t.known, 0, (size_t)list->count * sizeof *t.known);
    doconv_status status =
        dc_measure_set_create(ctx, problem, plan_options, MOST_CANDIDATES, &t.set);
    if (status == DOCONV_OK) {
        const double budget =
            options->budget_seconds > 0.0 ? options->budget_seconds : BUDGET_SECONDS;
        dc_measure_set_budget(&t.set, budget);
        t.set.cancel = options->cancel;
        t.set.cancel_user = options->cancel_user;
        t.reserve = fmin(0.3 * budget, fmin(CHECK_MACS, problem->macs) / CHECK_RATE);
        status = race(&t);
        if (status == DOCONV_OK) {
            status = finish(&t, report);
        }
        if (options->progress != NULL) {
            options->progress(options->progress_user, 100, 100);
        }
        dc_measure_set_destroy(&t.set);
    }
    dc_free(ctx, t.known);
    return status;
}

/*
 * Is what was known before founded better? Then it stays: a busy machine may leave a doubtful
 * result where a quiet one had left a good one.
 */
static bool is_better(const struct cache_entry *old, const struct cache_entry *new)
{
    return new->doubtful != 0 && (old->doubtful == 0 || old->confidence_ppm > new->confidence_ppm);
}

/* Stores the report's result, unless a better founded one is there. */
static doconv_status store(struct cache *cache, struct dc_candidate_list *list,
                           struct doconv_tune_report *report)
{
    doconv_context *ctx = report->ctx;
    const struct cache_entry *entry = &report->entry;
    struct cache_entry *old = dc_alloc(ctx, sizeof *old);
    if (old == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: out of memory");
    }
    const enum cache_state state = dc_cache_lookup(cache, entry->key, old);
    if (state != CACHE_MISS && dc_candidate_find(list, old->variant) != NULL &&
        is_better(old, entry)) {
        if (state == CACHE_DOUBTFUL) {
            dc_cache_settle(cache, old);
        }
        dc_log(ctx, DOCONV_LOG_WARNING, "tune: the result is doubtful, the one before is kept: %s",
               entry->key);
    } else {
        report->stored = dc_cache_store(cache, entry) == CACHE_STORED;
    }
    dc_free(ctx, old);
    return DOCONV_OK;
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
        const bool wanting = state == CACHE_DOUBTFUL && ctx->tune == DOCONV_TUNE_TUNE;
        report->from_cache = state != CACHE_MISS && !wanting &&
                             dc_candidate_find(&list, report->entry.variant) != NULL;
        report->stored = report->from_cache && state != CACHE_MEMORY;
    }
    if (report->from_cache) {
        report->entry.count = 0;
    } else {
        memset(&report->entry, 0, sizeof report->entry);
        memcpy(report->entry.key, key, sizeof key);
        status = tune(ctx, problem, &list, plan_options, options, report);
    }
    if (status == DOCONV_OK && !report->from_cache && !restricted) {
        status = store(cache, &list, report);
    }
    dc_free(ctx, list.items);
    return status;
}

/* A caller's options, or NULL for the defaults, as checked ones of this version. */
static doconv_status read_options(doconv_context *ctx, const doconv_tune_options *from,
                                  doconv_tune_options *options)
{
    const doconv_status status = DC_READ_STRUCT(ctx, doconv_tune_options, from, options);
    if (status != DOCONV_OK) {
        return status;
    }
    const struct dc_number numbers[] = {
        {"force", options->force, 1},
        {"errors", options->errors, 1},
        {"budget_seconds", options->budget_seconds, DC_MOST_SECONDS},
    };
    return dc_check_numbers(ctx, numbers, sizeof numbers / sizeof numbers[0]);
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
    /* A layer's operations are measured before it, in the same way. */
    own_plan_options.budget_seconds = own_options.budget_seconds;
    own_plan_options.cancel = own_options.cancel;
    own_plan_options.cancel_user = own_options.cancel_user;
    if (status != DOCONV_OK) {
        return status;
    }
    return tune_problem(context, &problem, &own_plan_options, &own_options, report);
}

/* ---- the cache's directory ---- */

doconv_status doconv_cache_clean(doconv_context *context, const doconv_cache_clean_options *options)
{
    if (context == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    doconv_cache_clean_options own;
    doconv_status status = DC_READ_STRUCT(context, doconv_cache_clean_options, options, &own);
    if (status == DOCONV_OK) {
        status = dc_check_numbers(context, &(struct dc_number){"all", own.all, 1}, 1);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    const int error =
        dc_cache_clean(context->advisor.self, own.all != 0, own.report, own.report_user);
    return error == 0 ? DOCONV_OK
                      : dc_fail(context, DOCONV_IO_ERROR, "cache: the directory \"%.100s\": %s",
                                context->cache_directory, strerror(error));
}

/* ---- the advisor: self is the cache ---- */

static bool advise(void *self, const char *key, bool measures, char *variant, size_t size)
{
    struct cache *cache = self;
    struct cache_entry *entry = dc_alloc(dc_cache_context(cache), sizeof *entry);
    const enum cache_state state = entry != NULL ? dc_cache_lookup(cache, key, entry) : CACHE_MISS;
    const bool hit = state != CACHE_MISS && !(measures && state == CACHE_DOUBTFUL) &&
                     strlen(entry->variant) < size;
    if (hit) {
        memcpy(variant, entry->variant, strlen(entry->variant) + 1);
    }
    dc_free(dc_cache_context(cache), entry);
    return hit;
}

static doconv_status measure_now(void *self, const struct dc_problem *problem,
                                 const doconv_plan_options *options, char *variant, size_t size)
{
    doconv_context *ctx = dc_cache_context(self);
    doconv_tune_options force = {.size = sizeof force, .force = 1};
    if (options != NULL) {
        force.budget_seconds = options->budget_seconds;
        force.progress = options->progress;
        force.progress_user = options->progress_user;
        force.cancel = options->cancel;
        force.cancel_user = options->cancel_user;
    }
    struct doconv_tune_report *report = NULL;
    doconv_status status = tune_problem(ctx, problem, options, &force, &report);
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
