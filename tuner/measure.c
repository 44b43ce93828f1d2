/* SPDX-License-Identifier: MIT */
#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A sample lasts this long at least: the clock and a call's overhead vanish in it. */
#define SAMPLE_SECONDS 200e-6
#define COLD_BYTES ((size_t)256 << 20)
/* Another than the default must be this much faster. */
#define MARGIN 1.01

/* ---- data ---- */

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

doconv_status measure_data_create(doconv_context *ctx, const struct dc_problem *p, struct measure_data *data)
{
    const doconv_conv_desc *d = &p->desc;
    *data = (struct measure_data){
        .src = create_values(ctx, p->src_bytes, 1),
        .weight = create_values(ctx, p->weight_bytes, 2),
        .bias = d->has_bias ? create_values(ctx, (size_t)d->cout * sizeof(float), 3) : NULL,
        .residual = d->residual ? create_values(ctx, p->dst_bytes, 4) : NULL,
        .dst = create_values(ctx, p->dst_bytes, 5),
    };
    if (data->src == NULL || data->weight == NULL || data->dst == NULL || (d->has_bias && data->bias == NULL) || (d->residual && data->residual == NULL)) {
        measure_data_destroy(ctx, data);
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: no memory for tensors of %zu + %zu + %zu bytes", p->src_bytes, p->weight_bytes, p->dst_bytes);
    }
    return DOCONV_OK;
}

void measure_data_destroy(doconv_context *ctx, struct measure_data *data)
{
    float *const all[] = {data->src, data->weight, data->bias, data->residual, data->dst};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        dc_free(ctx, all[i]);
    }
    *data = (struct measure_data){0};
}

/* ---- a candidate ---- */

doconv_status measured_create(doconv_context *ctx, const struct dc_problem *problem, const doconv_plan_options *options, const char *variant,
                              const struct measure_data *data, struct measured *m)
{
    *m = (struct measured){.copies = 1};
    doconv_plan_options forced = {.size = sizeof forced};
    if (options != NULL) {
        forced = *options;
    }
    forced.variant = variant;
    forced.rigor = DOCONV_RIGOR_ESTIMATE;
    doconv_status status = doconv_plan_create(ctx, &problem->desc, &forced, &m->plan);
    if (status != DOCONV_OK) {
        return status;
    }
    if (forced.cold_weights) {
        const int64_t cache = dc_cpu_probe()->l3_bytes + dc_cpu_probe()->l2_bytes;
        const size_t enough = (size_t)cache * 2 < COLD_BYTES ? (size_t)cache * 2 : COLD_BYTES;
        const size_t copies = enough / doconv_plan_packed_size(m->plan) + 2;
        m->copies = copies < MEASURE_COPIES ? (int)copies : MEASURE_COPIES;
    }
    for (int i = 0; i < m->copies && status == DOCONV_OK; i++) {
        status = doconv_weights_create(m->plan, data->weight, data->bias, &m->weights[i]);
    }
    m->workspace = dc_alloc(ctx, doconv_plan_workspace_size(m->plan));
    if (status == DOCONV_OK && m->workspace == NULL) {
        status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: no memory for a workspace of %zu bytes", doconv_plan_workspace_size(m->plan));
    }
    if (status != DOCONV_OK) {
        measured_destroy(ctx, m);
    }
    return status;
}

void measured_destroy(doconv_context *ctx, struct measured *m)
{
    for (int i = 0; i < m->copies; i++) {
        doconv_weights_destroy(m->weights[i]);
    }
    dc_free(ctx, m->workspace);
    doconv_plan_destroy(m->plan);
    *m = (struct measured){0};
}

void measure_run(struct measured *m, const struct measure_data *data)
{
    const doconv_weights *weights = m->weights[m->next_copy];
    m->next_copy = (m->next_copy + 1) % m->copies;
    doconv_execute(m->plan, weights, data->src, data->residual, data->dst, m->workspace, doconv_plan_workspace_size(m->plan));
}

/* ---- timing ---- */

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

static void sample(struct measured *m, const struct measure_data *data, int repeats)
{
    if (m->rounds == MEASURE_SAMPLES) {
        return;
    }
    const double start = dc_now();
    for (int i = 0; i < repeats; i++) {
        measure_run(m, data);
    }
    m->samples[m->rounds++] = (dc_now() - start) / repeats;
}

static void summarize(struct measured *m)
{
    double deviations[MEASURE_SAMPLES];
    const int count = m->rounds - m->first_kept;
    const double *values = m->samples + m->first_kept;
    if (count <= 0) {
        return;
    }
    m->median = median(values, count);
    for (int i = 0; i < count; i++) {
        deviations[i] = fabs(values[i] - m->median);
    }
    m->spread = m->median > 0.0 ? median(deviations, count) / m->median : 0.0;
}

static int by_median(const void *a, const void *b)
{
    const struct measured *x = a, *y = b;
    if (x->dropped != y->dropped) {
        return x->dropped ? 1 : -1;
    }
    return (x->median > y->median) - (x->median < y->median);
}

/*
 * Spread of a finalist relative to its round: a clock that drifts moves all finalists of a round and says nothing about their order.
 * A finalist alone keeps the spread of its own samples.
 */
static void summarize_paired(struct measured *items, int count)
{
    double relative[MEASURE_SAMPLES], deviations[MEASURE_SAMPLES];
    for (int i = 0; i < count; i++) {
        summarize(&items[i]);
    }
    for (int i = 0; i < count && count > 1; i++) {
        const int rounds = items[i].rounds - items[i].first_kept;
        for (int r = 0; r < rounds; r++) {
            double sum = 0.0;
            for (int j = 0; j < count; j++) {
                sum += items[j].samples[items[j].first_kept + r];
            }
            relative[r] = items[i].samples[items[i].first_kept + r] / sum;
        }
        const double middle = median(relative, rounds);
        for (int r = 0; r < rounds; r++) {
            deviations[r] = fabs(relative[r] - middle);
        }
        items[i].spread = median(deviations, rounds) / middle;
    }
}

/* Samples every kept candidate in turn, starting with another one each time. */
static void round_of(struct measured *items, int count, const struct measure_data *data, int number)
{
    for (int i = 0; i < count; i++) {
        struct measured *m = &items[(i + number) % count];
        if (!m->dropped) {
            const double once = m->samples[0];
            const int repeats = once >= SAMPLE_SECONDS ? 1 : once <= SAMPLE_SECONDS / 1000 ? 1000 : (int)(SAMPLE_SECONDS / once) + 1;
            sample(m, data, repeats);
        }
    }
}

/* Drops what is slower than the fastest by a factor. Returns how many are left. */
static int drop(struct measured *items, int count, double factor)
{
    double best = INFINITY;
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (!items[i].dropped) {
            summarize(&items[i]);
            best = fmin(best, items[i].median);
        }
    }
    for (int i = 0; i < count; i++) {
        items[i].dropped = items[i].dropped || items[i].median > best * factor;
        kept += !items[i].dropped;
    }
    return kept;
}

void measure(struct measured *items, int count, const struct measure_data *data, const struct measure_limits *limits)
{
    enum { FINAL = 3 };
    const double start = dc_now();
    const doconv_plan *const standard = items[0].plan;
    const int finals = 2 * limits->least_rounds, most = MEASURE_SAMPLES - finals - 2;
    /* The first sample warms caches and pages; it only tells how often to repeat. */
    for (int i = 0; i < count; i++) {
        items[i].rounds = items[i].first_kept = 0;
        measure_run(&items[i], data);
        sample(&items[i], data, 1);
        items[i].first_kept = 1;
    }
    int total = limits->least_rounds + finals, kept = count;
    for (int number = 0; number < most; number++) {
        if (limits->progress != NULL) {
            limits->progress(limits->progress_user, number, total > number + finals ? total : number + finals + 1);
        }
        round_of(items, count, data, number);
        if (number == 1) {
            kept = drop(items, count, 1.5);
        } else if (number >= 4) {
            kept = drop(items, count, 1.15);
        }
        if (number + 1 >= limits->least_rounds && (kept <= FINAL || dc_now() - start > 0.6 * limits->budget_seconds)) {
            break;
        }
    }
    drop(items, count, 1.5);
    qsort(items, (size_t)count, sizeof *items, by_median);
    const int finalists = kept < FINAL ? kept : FINAL;
    for (int i = 0; i < finalists; i++) {
        items[i].first_kept = items[i].rounds;
    }
    for (int number = 0; number < finals && finalists > 0; number++) {
        if (limits->progress != NULL) {
            limits->progress(limits->progress_user, total - finals + number, total);
        }
        round_of(items, finalists, data, number);
    }
    summarize_paired(items, finalists);
    qsort(items, (size_t)finalists, sizeof *items, by_median);
    /* Finalists ran side by side: their medians compare. A gain within the noise is no reason to leave the default. */
    for (int i = 1; i < finalists; i++) {
        if (items[i].plan == standard && items[i].median < MARGIN * items[0].median) {
            const struct measured moved = items[i];
            memmove(&items[1], &items[0], (size_t)i * sizeof *items);
            items[0] = moved;
        }
    }
    if (limits->progress != NULL) {
        limits->progress(limits->progress_user, total, total);
    }
}
