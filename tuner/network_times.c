/* SPDX-License-Identifier: MIT */
#include "network_times.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache.h"
#include "plan/plan.h"
#include "plan/problem.h"

/* Of a copy, bytes a second that are read and written; expected, until one is measured. */
#define COPY_BYTES 12e9
/* What a problem gets of what is left to the deadline; at most, unless the caller says it. */
#define LEAST_SECONDS 0.01
#define MOST_SECONDS 0.25
/* Samples of a copy, and tries to get that many without disturbance. */
#define COPY_SAMPLES 5
#define COPY_TRIES 15
#define LOST_SHARE 0.03

/* ---- what there is ---- */

static bool same_problem(const doconv_conv_desc *a, const doconv_conv_desc *b)
{
    char x[DOCONV_PROBLEM_TEXT_SIZE], y[DOCONV_PROBLEM_TEXT_SIZE];
    doconv_conv_desc c = *a, d = *b;
    c.src_layout = d.src_layout = DOCONV_NCHW;
    c.dst_layout = d.dst_layout = DOCONV_NCHW;
    return doconv_conv_desc_format(NULL, &c, x, sizeof x) == DOCONV_OK &&
           doconv_conv_desc_format(NULL, &d, y, sizeof y) == DOCONV_OK && strcmp(x, y) == 0;
}

static void find_kinds(struct network_times *t)
{
    for (int i = 0; i < t->graph->count; i++) {
        const struct network_layer *layer = &t->graph->layers[i];
        int kind = 0;
        while (kind < t->kind_count && !same_problem(&t->kinds[kind].layer->desc, &layer->desc)) {
            kind++;
        }
        if (kind == t->kind_count) {
            t->kinds[t->kind_count++] = (struct network_kind){.layer = layer};
        }
        t->kinds[kind].count++;
        t->kind_of[i] = kind;
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
            const int src = pair / SELECT_LAYOUTS, dst = pair % SELECT_LAYOUTS;
            if ((layer->src_layouts >> src & 1) != 0 && (layer->dst_layouts >> dst & 1) != 0) {
                t->kinds[kind].cells[src][dst].possible = true;
            }
        }
    }
}

static void find_copies(struct network_times *t)
{
    for (int i = 0; i < t->graph->view_count; i++) {
        const struct network_view *v = &t->graph->views[i];
        int copy = 0;
        while (copy < t->copy_count && !(t->copies[copy].n == v->n && t->copies[copy].c == v->c &&
                                         t->copies[copy].h == v->h && t->copies[copy].w == v->w)) {
            copy++;
        }
        if (copy == t->copy_count) {
            t->copies[t->copy_count++] =
                (struct network_copy){.n = v->n, .c = v->c, .h = v->h, .w = v->w};
        }
        t->copy_of[i] = copy;
    }
}

doconv_plan_options dc_network_plan_options(const struct network_times *t)
{
    return (doconv_plan_options){.size = sizeof(doconv_plan_options),
                                 .cold_weights = 1,
                                 .workspace_limit = t->options.workspace_limit,
                                 .packed_limit = t->options.packed_limit};
}

static doconv_conv_desc desc_of(const struct network_kind *kind, int src, int dst)
{
    doconv_conv_desc desc = kind->layer->desc;
    desc.src_layout = (doconv_layout)src;
    desc.dst_layout = (doconv_layout)dst;
    return desc;
}

/* The time that the cache has for a plan's choice. */
static bool recall(struct network_times *t, const doconv_plan *plan,
                   const doconv_plan_options *options, double *seconds)
{
    struct cache_entry *entry = dc_alloc(t->ctx, sizeof *entry);
    char key[DC_KEY_SIZE];
    dc_plan_key(t->ctx, &plan->problem, options, key, sizeof key);
    const bool found = entry != NULL &&
                       dc_cache_lookup(t->ctx->advisor.self, key, entry) != CACHE_MISS &&
                       strcmp(entry->variant, plan->candidate.text) == 0;
    *seconds = found ? 1e-12 * (double)entry->picoseconds : 0.0;
    dc_free(t->ctx, entry);
    return found;
}

/*
 * What the solvers expect of the best by their own account, whatever is known to be better: that is
 * what the times of other layouts are estimated by.
 */
static doconv_status estimate(struct network_times *t, const struct dc_problem *problem,
                              struct network_cell *cell)
{
    doconv_plan_options options = dc_network_plan_options(t);
    options.rigor = DOCONV_RIGOR_ESTIMATE;
    doconv_plan *plan;
    const doconv_status status = dc_plan_create(t->ctx, problem, &options, &plan);
    if (status == DOCONV_OK) {
        cell->estimated = fmax(plan->candidate.estimated_seconds, 1e-12);
        doconv_plan_destroy(plan);
    }
    return status;
}

/* What a plan would take without a measurement. */
static doconv_status look_up(struct network_times *t, struct network_kind *kind, int src, int dst)
{
    struct network_cell *cell = &kind->cells[src][dst];
    const doconv_tune_mode mode = t->options.mode;
    const doconv_conv_desc desc = desc_of(kind, src, dst);
    doconv_plan_options options = dc_network_plan_options(t);
    /* A table counts in each mode; a cache with nothing in it is no choice of its own. */
    const bool off = mode == DOCONV_TUNE_OFF;
    options.rigor = off && t->ctx->tune != DOCONV_TUNE_OFF ? DOCONV_RIGOR_ESTIMATE
                    : off                                  ? DOCONV_RIGOR_DEFAULT
                                                           : DOCONV_RIGOR_READ;
    struct dc_problem problem;
    doconv_plan *plan = NULL;
    doconv_status status = dc_plan_problem(t->ctx, &desc, &options, &problem);
    if (status == DOCONV_OK) {
        status = dc_plan_create(t->ctx, &problem, &options, &plan);
    }
    cell->possible = status == DOCONV_OK;
    cell->settled = true;
    if (status != DOCONV_OK) {
        return status == DOCONV_OUT_OF_MEMORY ? status : DOCONV_OK;
    }
    const bool table = strcmp(plan->origin, "table") == 0;
    const bool cached = strcmp(plan->origin, "cache") == 0;
    const bool inferred = plan->source != NULL; /* its time is none of this problem */
    cell->estimated = fmax(plan->candidate.estimated_seconds, 1e-12);
    memcpy(cell->variant, plan->candidate.text, sizeof cell->variant);
    snprintf(cell->origin, sizeof cell->origin, "%s", plan->origin);
    cell->known = cached && recall(t, plan, &options, &cell->seconds);
    if (mode == DOCONV_TUNE_ONLY && !table && !cached) {
        cell->possible = false;
    }
    if (mode == DOCONV_TUNE_FORCE && !table) {
        cell->known = cell->settled = false;
    } else if (mode == DOCONV_TUNE_TUNE && !table) {
        cell->settled = cell->known;
    }
    doconv_plan_destroy(plan);
    return cached || inferred ? estimate(t, &problem, cell) : DOCONV_OK;
}

static doconv_status look_up_all(struct network_times *t)
{
    for (int k = 0; k < t->kind_count; k++) {
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
            const int src = pair / SELECT_LAYOUTS, dst = pair % SELECT_LAYOUTS;
            if (t->kinds[k].cells[src][dst].possible) {
                const doconv_status status = look_up(t, &t->kinds[k], src, dst);
                if (status != DOCONV_OK) {
                    return status;
                }
            }
        }
    }
    return DOCONV_OK;
}

doconv_status dc_network_times_create(const struct network_edges *graph,
                                      const doconv_network_options *options, double start,
                                      struct network_times *times)
{
    const size_t layers = (size_t)graph->count, views = (size_t)graph->view_count + 1;
    *times = (struct network_times){
        .ctx = graph->ctx,
        .graph = graph,
        .options = *options,
        .start = start,
        .kinds = dc_alloc(graph->ctx, layers * sizeof *times->kinds),
        .kind_of = dc_alloc(graph->ctx, layers * sizeof *times->kind_of),
        .copies = dc_alloc(graph->ctx, views * sizeof *times->copies),
        .copy_of = dc_alloc(graph->ctx, views * sizeof *times->copy_of),
    };
    doconv_status status = DOCONV_OUT_OF_MEMORY;
    if (times->kinds != NULL && times->kind_of != NULL && times->copies != NULL &&
        times->copy_of != NULL) {
        find_kinds(times);
        find_copies(times);
        status = look_up_all(times);
    }
    if (status != DOCONV_OK) {
        dc_network_times_destroy(times);
        return dc_fail(graph->ctx, status, "network: out of memory");
    }
    return DOCONV_OK;
}

void dc_network_times_destroy(struct network_times *times)
{
    if (times->ctx != NULL) {
        dc_free(times->ctx, times->kinds);
        dc_free(times->ctx, times->kind_of);
        dc_free(times->ctx, times->copies);
        dc_free(times->ctx, times->copy_of);
    }
    *times = (struct network_times){0};
}

/* ---- seconds ---- */

/* Of a problem's measured times, and those that were estimated of the same. */
static void add_up(const struct network_kind *kind, double *known, double *estimated)
{
    for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
        const struct network_cell *cell =
            &kind->cells[pair / SELECT_LAYOUTS][pair % SELECT_LAYOUTS];
        if (cell->possible && cell->known) {
            *known += cell->seconds;
            *estimated += cell->estimated;
        }
    }
}

/* How far estimates are off: of the problem in other layouts, else of all that was measured. */
static double correction(const struct network_times *t, const struct network_kind *kind)
{
    double known = 0.0, estimated = 0.0;
    add_up(kind, &known, &estimated);
    for (int k = 0; k < t->kind_count && known == 0.0; k++) {
        add_up(&t->kinds[k], &known, &estimated);
    }
    return known > 0.0 ? known / estimated : 1.0;
}

double dc_network_layer_seconds(const struct network_times *t, int layer, int src, int dst)
{
    const struct network_layer *l = &t->graph->layers[layer];
    const struct network_kind *kind = &t->kinds[t->kind_of[layer]];
    const struct network_cell *cell = &kind->cells[src][dst];
    if (!cell->possible || (l->src_layouts >> src & 1) == 0 || (l->dst_layouts >> dst & 1) == 0) {
        return INFINITY;
    }
    if (cell->known) {
        return cell->seconds;
    }
    return cell->estimated * correction(t, kind);
}

static double copy_bytes(const struct network_copy *copy)
{
    return 2.0 * sizeof(float) * (double)copy->n * (double)copy->c * (double)copy->h *
           (double)copy->w;
}

/* Bytes a second of the copies that were measured. */
static double copy_rate(const struct network_times *t)
{
    double bytes = 0.0, seconds = 0.0;
    for (int i = 0; i < t->copy_count; i++) {
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
            const int from = pair / SELECT_LAYOUTS, to = pair % SELECT_LAYOUTS;
            if (t->copies[i].pairs[from][to].known) {
                bytes += copy_bytes(&t->copies[i]);
                seconds += t->copies[i].pairs[from][to].seconds;
            }
        }
    }
    return seconds > 0.0 ? bytes / seconds : COPY_BYTES;
}

double dc_network_copy_seconds(const struct network_times *t, int view, int from, int to)
{
    const struct network_copy *copy = &t->copies[t->copy_of[view]];
    if (from == to) {
        return 0.0;
    }
    if (copy->pairs[from][to].known) {
        return copy->pairs[from][to].seconds;
    }
    return copy_bytes(copy) / copy_rate(t);
}

/* ---- measuring ---- */

static bool measures(const struct network_times *t)
{
    return t->options.mode == DOCONV_TUNE_TUNE || t->options.mode == DOCONV_TUNE_FORCE;
}

void dc_network_want_layer(struct network_times *t, int layer, int src, int dst)
{
    struct network_cell *cell = &t->kinds[t->kind_of[layer]].cells[src][dst];
    cell->wanted = cell->possible && !cell->settled;
}

void dc_network_want_copy(struct network_times *t, int view, int from, int to)
{
    struct network_copy *copy = &t->copies[t->copy_of[view]];
    copy->pairs[from][to].wanted = from != to && measures(t) && !copy->pairs[from][to].settled;
}

static double left(const struct network_times *t)
{
    const double budget = t->options.budget_seconds;
    return budget > 0.0 ? budget - (dc_now(t->ctx) - t->start) : INFINITY;
}

/* Asks whether to go on, and tells how far it is. total: what is known to be measured. */
static bool may_go_on(struct network_times *t, int remaining)
{
    const doconv_network_options *o = &t->options;
    if (o->progress != NULL) {
        o->progress(o->progress_user, t->progressed, t->progressed + remaining);
    }
    t->stopped = left(t) <= 0.0 || (o->cancel != NULL && o->cancel(o->cancel_user) != 0);
    return !t->stopped;
}

/* A problem's share of the time that is left; 0: the tuner's own budget. */
static double budget_for(const struct network_times *t, int remaining)
{
    const double share = fmax(left(t) / remaining, LEAST_SECONDS);
    const double own = t->options.problem_seconds;
    const double most = own > 0.0 ? own : MOST_SECONDS;
    return share < most ? share : own;
}

static void measure_cell(struct network_times *t, struct network_kind *kind, int src, int dst,
                         int remaining)
{
    struct network_cell *cell = &kind->cells[src][dst];
    const doconv_conv_desc desc = desc_of(kind, src, dst);
    const doconv_plan_options plan = dc_network_plan_options(t);
    const doconv_tune_options options = {
        .size = sizeof options, .force = 1, .budget_seconds = budget_for(t, remaining)};
    doconv_tune_report *report = NULL;
    doconv_tune_summary summary = {.size = sizeof summary};
    doconv_status status = doconv_tune(t->ctx, &desc, &plan, &options, &report);
    if (status == DOCONV_OK) {
        status = doconv_tune_report_summary(report, &summary);
    }
    cell->settled = true;
    cell->wanted = false;
    if (status == DOCONV_OK) {
        cell->known = true;
        cell->seconds = summary.seconds;
        snprintf(cell->variant, sizeof cell->variant, "%s", summary.variant);
        snprintf(cell->origin, sizeof cell->origin, "measured");
        t->measured++;
    } else {
        dc_log(t->ctx, DOCONV_LOG_WARNING, "network: layer \"%.100s\" is estimated: %s",
               kind->layer->name, dc_last_failure(t->ctx));
    }
    doconv_tune_report_destroy(report);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One copy; *kept: the thread had its core. */
static double time_copy(const struct network_times *t, const struct network_copy *copy, int from,
                        int to, const float *src, float *dst, bool *kept)
{
    const struct dc_clock *clock = t->ctx->clock;
    const double thread = clock->thread(clock->user), wall = dc_now(t->ctx);
    (void)doconv_reorder((doconv_layout)from, (doconv_layout)to, copy->n, copy->c, copy->h, copy->w,
                         src, dst);
    const double seconds = dc_now(t->ctx) - wall;
    *kept = seconds - (clock->thread(clock->user) - thread) <= LOST_SHARE * seconds;
    return seconds;
}

/* The median of undisturbed copies, or of all if there are too few. */
static double time_copies(const struct network_times *t, const struct network_copy *copy, int from,
                          int to, const float *src, float *dst)
{
    double clean[COPY_SAMPLES], all[COPY_TRIES];
    int count = 0, tries = 0;
    bool kept;
    time_copy(t, copy, from, to, src, dst, &kept); /* touches the pages */
    while (count < COPY_SAMPLES && tries < COPY_TRIES) {
        all[tries] = time_copy(t, copy, from, to, src, dst, &kept);
        if (kept) {
            clean[count++] = all[tries];
        }
        tries++;
    }
    double *values = count == COPY_SAMPLES ? clean : all;
    const int values_count = count == COPY_SAMPLES ? count : tries;
    qsort(values, (size_t)values_count, sizeof *values, by_value);
    return values[values_count / 2];
}

static void measure_copy(struct network_times *t, struct network_copy *copy, int from, int to)
{
    size_t bytes[2] = {0, 0};
    const bool sized = doconv_tensor_bytes((doconv_layout)from, copy->n, copy->c, copy->h, copy->w,
                                           &bytes[0]) == DOCONV_OK &&
                       doconv_tensor_bytes((doconv_layout)to, copy->n, copy->c, copy->h, copy->w,
                                           &bytes[1]) == DOCONV_OK;
    float *src = sized ? dc_alloc(t->ctx, bytes[0] + 1) : NULL;
    float *dst = sized ? dc_alloc(t->ctx, bytes[1] + 1) : NULL;
    copy->pairs[from][to].settled = true;
    copy->pairs[from][to].wanted = false;
    if (src != NULL && dst != NULL) {
        memset(src, 0, bytes[0]);
        copy->pairs[from][to].seconds = time_copies(t, copy, from, to, src, dst);
        copy->pairs[from][to].known = true;
    } else {
        dc_log(t->ctx, DOCONV_LOG_WARNING, "network: a copy of %zu bytes is estimated: no memory",
               bytes[0]);
    }
    dc_free(t->ctx, src);
    dc_free(t->ctx, dst);
}

static int count_wanted(const struct network_times *t)
{
    int count = 0;
    for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
        const int a = pair / SELECT_LAYOUTS, b = pair % SELECT_LAYOUTS;
        for (int k = 0; k < t->kind_count; k++) {
            count += t->kinds[k].cells[a][b].wanted;
        }
        for (int i = 0; i < t->copy_count; i++) {
            count += t->copies[i].pairs[a][b].wanted;
        }
    }
    return count;
}

/* The wanted problem with the largest share of the network's time; false: none. */
static bool find_largest(struct network_times *t, struct network_kind **kind, int *src, int *dst)
{
    double most = -1.0;
    for (int k = 0; k < t->kind_count; k++) {
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS; pair++) {
            const int a = pair / SELECT_LAYOUTS, b = pair % SELECT_LAYOUTS;
            const struct network_cell *cell = &t->kinds[k].cells[a][b];
            if (cell->wanted && cell->estimated * t->kinds[k].count > most) {
                most = cell->estimated * t->kinds[k].count;
                *kind = &t->kinds[k];
                *src = a;
                *dst = b;
            }
        }
    }
    return most >= 0.0;
}

bool dc_network_measure(struct network_times *t)
{
    int remaining = count_wanted(t), src, dst;
    const bool any = remaining > 0;
    struct network_kind *kind;
    for (; find_largest(t, &kind, &src, &dst) && may_go_on(t, remaining); remaining--) {
        measure_cell(t, kind, src, dst, remaining);
        t->progressed++;
    }
    for (int i = 0; i < t->copy_count && !t->stopped; i++) {
        for (int pair = 0; pair < SELECT_LAYOUTS * SELECT_LAYOUTS && !t->stopped; pair++) {
            const int from = pair / SELECT_LAYOUTS, to = pair % SELECT_LAYOUTS;
            if (t->copies[i].pairs[from][to].wanted && may_go_on(t, remaining)) {
                measure_copy(t, &t->copies[i], from, to);
                t->progressed++;
                remaining--;
            }
        }
    }
    return any && !t->stopped;
}
