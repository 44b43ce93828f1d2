/* SPDX-License-Identifier: MIT */
#include "base/context.h"
#include "base/cpu.h"
#include "base/log.h"
#include "measure.h"
#include "plan/plan.h"
#include "plan/problem.h"
#include "plan/solver.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A sample lasts this long at least: the clock and a call's overhead vanish in it. */
#define SAMPLE_SECONDS 200e-6
#define MOST_REPEATS 1000
#define MOST_COLD_REPEATS 3
/* A first run as long as this needs no second one to be trusted for the number of repeats. */
#define LONG_SECONDS 20e-3
#define FLUSH_BYTES ((size_t)256 << 20)
/* Another than the default must be this much faster. */
#define MARGIN 1.01
#define FINALISTS 3
/*
 * A candidate goes if it is slower than the best by these factors: after one run, after two rounds,
 * after five.
 */
#define HOPELESS_RUN 3.0
#define HOPELESS_ROUND 1.5
#define BEHIND 1.15

/* ---- the set ---- */

static float *create_values(doconv_context *ctx, size_t bytes, uint64_t seed)
{
    float *values = dc_alloc(ctx, bytes);
    if (values != NULL) {
        uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        for (size_t i = 0; i < bytes / sizeof(float); i++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            values[i] = (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
    }
    return values;
}

/* Enough to push everything else out of the caches of all threads. */
static size_t flush_size(const doconv_context *ctx)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const double bytes = 2.0 * ((double)cpu->l3_bytes + (double)cpu->l2_bytes * ctx->threads);
    return bytes < (double)FLUSH_BYTES ? (size_t)bytes : FLUSH_BYTES;
}

doconv_status dc_measure_set_create(doconv_context *ctx, const struct dc_problem *problem,
                                    const doconv_plan_options *options, int capacity,
                                    struct measure_set *set)
{
    const doconv_conv_desc *d = &problem->desc;
    const bool cold = options != NULL && options->cold_weights != 0,
               fresh = options != NULL && options->fresh_weights != 0;
    *set = (struct measure_set){
        .ctx = ctx,
        .problem = *problem,
        .cold = cold,
        .fresh = fresh,
        .src = create_values(ctx, problem->src_bytes, 1),
        .weight = create_values(ctx, problem->weight_bytes, 2),
        .bias = d->has_bias ? create_values(ctx, (size_t)d->cout * sizeof(float), 3) : NULL,
        .residual = d->residual ? create_values(ctx, problem->dst_bytes, 4) : NULL,
        .dst = create_values(ctx, problem->dst_bytes, 5),
        .flush_bytes = cold ? flush_size(ctx) : 0,
        .items = dc_alloc(ctx, (size_t)capacity * sizeof *set->items),
        .capacity = capacity,
    };
    if (cold) {
        set->flush = dc_alloc(ctx, set->flush_bytes);
        if (set->flush != NULL) {
            memset(set->flush, 1, set->flush_bytes);
        }
    }
    if (set->src == NULL || set->weight == NULL || set->dst == NULL || set->items == NULL ||
        (d->has_bias && set->bias == NULL) || (d->residual && set->residual == NULL) ||
        (cold && set->flush == NULL)) {
        dc_measure_set_destroy(set);
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY,
                       "tune: no memory for tensors of %zu + %zu + %zu bytes", problem->src_bytes,
                       problem->weight_bytes, problem->dst_bytes);
    }
    return DOCONV_OK;
}

void dc_measure_set_destroy(struct measure_set *set)
{
    doconv_context *ctx = set->ctx;
    for (int i = 0; i < set->count; i++) {
        if (set->items[i].owns_weights) {
            doconv_weights_destroy(set->items[i].weights);
        }
        doconv_plan_destroy(set->items[i].plan);
    }
    void *const all[] = {set->src, set->weight,    set->bias,  set->residual,
                         set->dst, set->workspace, set->flush, set->items};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i] != NULL) {
            dc_free(ctx, all[i]);
        }
    }
    *set = (struct measure_set){0};
}

doconv_status dc_measure_set_add(struct measure_set *set, const doconv_plan_options *options,
                                 const char *variant)
{
    struct measured item = {.owns_weights = true, .is_default = set->count == 0};
    doconv_plan_options forced = {.size = sizeof forced};
    if (options != NULL) {
        forced = *options;
    }
    forced.variant = variant;
    forced.rigor = DOCONV_RIGOR_ESTIMATE;
    doconv_status status = dc_plan_create(set->ctx, &set->problem, &forced, &item.plan);
    if (status != DOCONV_OK) {
        return status;
    }
    for (int i = 0; i < set->count && item.weights == NULL && !set->fresh; i++) {
        if (set->items[i].plan->packed_layout == item.plan->packed_layout) {
            item.weights = set->items[i].weights;
            item.owns_weights = false;
        }
    }
    if (item.weights == NULL && !set->fresh) {
        status = doconv_weights_create(item.plan, set->weight, set->bias, &item.weights);
    }
    const size_t needed = item.plan->workspace_size;
    if (status == DOCONV_OK && needed > set->workspace_size) {
        char *workspace = dc_alloc(set->ctx, needed);
        if (workspace != NULL) {
            dc_free(set->ctx, set->workspace);
            set->workspace = workspace;
            set->workspace_size = needed;
        } else {
            status = dc_fail(set->ctx, DOCONV_OUT_OF_MEMORY,
                             "tune: no memory for a workspace of %zu bytes", needed);
        }
    }
    if (status != DOCONV_OK) {
        if (item.owns_weights) {
            doconv_weights_destroy(item.weights);
        }
        doconv_plan_destroy(item.plan);
        return status;
    }
    set->items[set->count++] = item;
    return DOCONV_OK;
}

/* ---- a sample ---- */

void dc_measure_run(const struct measure_set *set, const struct measured *m)
{
    const struct dc_weight_source source = {
        .view = dc_weight_view(&set->problem, set->weight),
        .bias = set->bias,
    };
    const struct dc_tensors tensors = {
        .src = set->src,
        .residual = set->residual,
        .packed = set->fresh ? NULL : m->weights->data,
        .fresh = set->fresh ? &source : NULL,
        .dst = set->dst,
    };
    dc_plan_run(m->plan, &tensors, set->workspace);
}

/* Each task reads and writes its part: the caches of all cores are filled with it. */
static void flush_task(void *arg, int index)
{
    const struct measure_set *set = arg;
    const size_t tasks = (size_t)set->ctx->threads, part = set->flush_bytes / tasks;
    volatile char *bytes = set->flush + part * (size_t)index;
    for (size_t i = 0; i < part; i += 64) {
        bytes[i]++;
    }
}

static void touch(const volatile float *tensor, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(float); i += 16) {
        (void)tensor[i];
    }
}

/*
 * As in a network: the layer before has just written src, dst's memory serves every other layer,
 * the weights were last read an inference ago.
 */
static void make_cold(struct measure_set *set)
{
    dc_parallel(set->ctx, set->ctx->threads, flush_task, set);
    touch(set->dst, set->problem.dst_bytes);
    touch(set->src, set->problem.src_bytes);
}

static double time_runs(struct measure_set *set, const struct measured *m, int repeats)
{
    double seconds = 0.0;
    if (set->cold) {
        for (int i = 0; i < repeats; i++) {
            make_cold(set);
            const double start = dc_now();
            dc_measure_run(set, m);
            seconds += dc_now() - start;
        }
    } else {
        const double start = dc_now();
        for (int i = 0; i < repeats; i++) {
            dc_measure_run(set, m);
        }
        seconds = dc_now() - start;
    }
    return seconds / repeats;
}

static void sample(struct measure_set *set, struct measured *m)
{
    if (m->rounds < MEASURE_SAMPLES) {
        m->samples[m->rounds++] = time_runs(set, m, m->repeats);
    }
}

/* The first run warms caches and touches pages; the second tells how often to repeat. */
static void calibrate(struct measure_set *set, struct measured *m)
{
    double once = time_runs(set, m, 1);
    if (once < LONG_SECONDS) {
        once = fmin(once, time_runs(set, m, 1));
    }
    const int most = set->cold ? MOST_COLD_REPEATS : MOST_REPEATS;
    m->repeats = once * most <= SAMPLE_SECONDS ? most : (int)ceil(SAMPLE_SECONDS / once);
    m->repeats = m->repeats < 1 ? 1 : m->repeats > most ? most : m->repeats;
    m->samples[0] = once;
    m->rounds = 1;
}

/* ---- statistics ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count)
{
    double sorted[MEASURE_SAMPLES];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return count % 2 != 0 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

/* Median absolute deviation / median. */
static double relative_deviation(const double *values, int count)
{
    double deviations[MEASURE_SAMPLES];
    const double middle = median(values, count);
    for (int i = 0; i < count; i++) {
        deviations[i] = fabs(values[i] - middle);
    }
    return middle > 0.0 ? median(deviations, count) / middle : 0.0;
}

static void summarize(struct measured *m)
{
    const int count = m->rounds - m->first_kept;
    m->median = median(m->samples + m->first_kept, count);
    m->spread = relative_deviation(m->samples + m->first_kept, count);
}

static double best_sample(const struct measured *m)
{
    double best = INFINITY;
    for (int i = 0; i < m->rounds; i++) {
        best = fmin(best, m->samples[i]);
    }
    return best;
}

static int by_median(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    if (x->wrong != y->wrong) {
        return x->wrong ? 1 : -1;
    }
    return (x->median > y->median) - (x->median < y->median);
}

/* Kept ones first. */
static int by_standing(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    if (x->dropped != y->dropped) {
        return x->dropped ? 1 : -1;
    }
    return by_median(a, b);
}

/* ---- rounds ---- */

/* Samples every kept item in turn, starting with another one each time. */
static void round_of(struct measure_set *set, int count, int number)
{
    for (int i = 0; i < count; i++) {
        struct measured *m = &set->items[(i + number) % count];
        if (!m->dropped) {
            sample(set, m);
        }
    }
}

/*
 * Drops what is behind by a factor, and returns how many are left. Behind in the best sample and in
 * the median both: on a busy machine one lucky sample of one candidate is no reason to drop all
 * others, nor an unlucky median to drop that one.
 */
static int drop(struct measure_set *set, double factor)
{
    double best = INFINITY, middle = INFINITY;
    int kept = 0;
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        if (!m->dropped) {
            summarize(m);
            best = fmin(best, best_sample(m));
            middle = fmin(middle, m->median);
        }
    }
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        m->dropped = m->dropped || (best_sample(m) > best * factor && m->median > middle * factor);
        kept += !m->dropped;
    }
    return kept;
}

static void report_progress(const struct measure_limits *limits, int done, int total)
{
    if (limits->progress != NULL) {
        limits->progress(limits->progress_user, done, total);
    }
}

/* Returns the number of items kept, which stand first then, the fastest before the others. */
static int coarse_rounds(struct measure_set *set, const struct measure_limits *limits, double start,
                         int finals)
{
    for (int i = 0; i < set->count; i++) {
        struct measured *m = &set->items[i];
        m->dropped = m->wrong;
        m->first_kept = 0;
        if (!m->wrong) {
            calibrate(set, m);
        }
    }
    int kept = drop(set, HOPELESS_RUN);
    const int most = MEASURE_SAMPLES - finals - 1;
    for (int number = 0; number < most && kept > FINALISTS; number++) {
        if (number >= limits->least_rounds && dc_now() - start > 0.6 * limits->budget_seconds) {
            break;
        }
        report_progress(limits, number,
                        (number > limits->least_rounds ? number : limits->least_rounds) + finals);
        round_of(set, set->count, number);
        if (number == 1) {
            kept = drop(set, HOPELESS_ROUND);
        } else if (number >= 4) {
            kept = drop(set, BEHIND);
        }
    }
    for (int i = 0; i < set->count; i++) {
        if (!set->items[i].wrong) {
            summarize(&set->items[i]);
        }
    }
    qsort(set->items, (size_t)set->count, sizeof *set->items, by_standing);
    return kept;
}

/* Median over the final rounds of b's time / a's: what drifts from round to round cancels. */
static double paired_ratio(const struct measured *a, const struct measured *b)
{
    double ratios[MEASURE_SAMPLES];
    const int rounds = a->rounds - a->first_kept;
    for (int r = 0; r < rounds; r++) {
        ratios[r] = b->samples[b->first_kept + r] / a->samples[a->first_kept + r];
    }
    return median(ratios, rounds);
}

/*
 * Spread of a finalist relative to its round: a clock that drifts moves all finalists of a round
 * and says nothing about their order. A finalist alone keeps the spread of its own samples.
 */
static void paired_spread(struct measured *items, int count)
{
    for (int i = 0; i < count && count > 1; i++) {
        double relative[MEASURE_SAMPLES];
        const int rounds = items[i].rounds - items[i].first_kept;
        for (int r = 0; r < rounds; r++) {
            double sum = 0.0;
            for (int j = 0; j < count; j++) {
                sum += items[j].samples[items[j].first_kept + r];
            }
            relative[r] = items[i].samples[items[i].first_kept + r] / sum;
        }
        items[i].spread = relative_deviation(relative, rounds);
    }
}

/* Index of the winner among finalists. */
static int choose(const struct measured *items, int count)
{
    int winner = 0;
    for (int i = 1; i < count; i++) {
        if (paired_ratio(&items[winner], &items[i]) < 1.0) {
            winner = i;
        }
    }
    /* A gain within the noise is no reason to leave the default. */
    for (int i = 0; i < count; i++) {
        if (items[i].is_default && i != winner &&
            paired_ratio(&items[winner], &items[i]) < MARGIN) {
            return i;
        }
    }
    return winner;
}

static void move_to_front(struct measured *items, int index)
{
    const struct measured moved = items[index];
    memmove(&items[1], &items[0], (size_t)index * sizeof *items);
    items[0] = moved;
}

void dc_measure(struct measure_set *set, const struct measure_limits *limits)
{
    const double start = dc_now();
    int finals = 2 * limits->least_rounds;
    const int kept = coarse_rounds(set, limits, start, finals);
    int count = kept < FINALISTS ? kept : FINALISTS;
    for (int i = count; i < kept; i++) {
        if (set->items[i].is_default) {
            const struct measured standard = set->items[i];
            memmove(&set->items[count + 1], &set->items[count],
                    (size_t)(i - count) * sizeof standard);
            set->items[count++] = standard;
            break;
        }
    }
    if (dc_now() - start > limits->budget_seconds) {
        finals = limits->least_rounds;
    }
    for (int i = 0; i < count; i++) {
        set->items[i].first_kept = set->items[i].rounds;
    }
    for (int number = 0; number < finals; number++) {
        report_progress(limits, limits->least_rounds + number, limits->least_rounds + finals);
        round_of(set, count, number);
    }
    for (int i = 0; i < count; i++) {
        summarize(&set->items[i]);
    }
    paired_spread(set->items, count);
    move_to_front(set->items, choose(set->items, count));
    qsort(set->items + 1, (size_t)set->count - 1, sizeof *set->items, by_median);
    report_progress(limits, limits->least_rounds + finals, limits->least_rounds + finals);
}
