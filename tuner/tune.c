/* SPDX-License-Identifier: MIT */
/* Choosing by measurement: prune, measure, check, store, report. And the advisor through which plans use it. */
#include <math.h>
#include <string.h>

#include "cache.h"
#include "measure.h"

/* Candidates that are measured: the best by estimate, and the best of each kernel whose estimate is not hopeless. */
#define PRUNED 14
#define HOPELESS 3.0
#define BUDGET_SECONDS 0.6
#define LEAST_ROUNDS 5
/* A winner whose samples deviate more is not trusted. */
#define NOISY 0.08
#define ATTEMPTS 3
/* Problems up to this many MACs are checked whole, larger ones on some output channels. */
#define CHECK_MACS 2e7
#define CHECK_CHANNELS 8

struct doconv_tune_report {
    doconv_context *ctx;
    struct cache_entry entry;
    bool from_cache, noisy, stored;
};

static bool is_reference(const struct dc_candidate *c)
{
    return c->kernel->op == DC_OP_REFERENCE;
}

/* Picks candidates to measure from a sorted list; the default, the best by estimate, is the first. */
static int prune(const struct dc_candidate_list *list, const struct dc_candidate *picked[PRUNED])
{
    int count = 0;
    for (int i = 0; i < list->count && list->items[i].refused == NULL; i++) {
        const struct dc_candidate *c = &list->items[i];
        bool first_of_kernel = true;
        int later_kernels = 0; /* places to keep for kernels whose best comes after this one */
        for (int j = 0; j < list->count && list->items[j].refused == NULL; j++) {
            const bool same = list->items[j].kernel == c->kernel;
            first_of_kernel = first_of_kernel && !(same && j < i);
            bool first = j > i;
            for (int k = 0; k < j && first; k++) {
                first = list->items[k].kernel != list->items[j].kernel;
            }
            later_kernels += first && !is_reference(&list->items[j]) && list->items[j].estimated_seconds <= HOPELESS * list->items[0].estimated_seconds;
        }
        if (is_reference(c) && count > 0) {
            continue; /* measured only where nothing else takes the problem */
        }
        const bool hopeless = c->estimated_seconds > HOPELESS * list->items[0].estimated_seconds;
        if (!hopeless && (first_of_kernel ? count < PRUNED : count + later_kernels < PRUNED)) {
            picked[count++] = c;
        }
    }
    return count;
}

/* ---- the check ---- */

static ptrdiff_t channel_offset(const struct dc_tensor_map *map, int64_t channel)
{
    return channel / map->block_channels * map->block + channel % map->block_channels * map->channel;
}

/*
 * Largest |y - ref| / max|ref| of a candidate; NaN counts as infinite. The reference kernel writes one (image, output channel) a call: problems with
 * many MACs are compared on the first and last channels and some between, of the first and last image.
 */
static doconv_status largest_error(doconv_context *ctx, const struct dc_problem *p, const struct measure_data *data, struct measured *m, double *error)
{
    const struct dc_kernel *reference = NULL;
    for (const struct dc_kernel *const *row = ctx->kernels; *row != NULL; row++) {
        reference = (*row)->op == DC_OP_REFERENCE ? *row : reference;
    }
    float *expected = dc_alloc(ctx, p->dst_bytes);
    if (reference == NULL || expected == NULL) {
        dc_free(ctx, expected);
        return dc_fail(ctx, reference == NULL ? DOCONV_UNSUPPORTED : DOCONV_OUT_OF_MEMORY, "tune: no reference to check the winner against");
    }
    const doconv_conv_desc *d = &p->desc;
    struct dc_reference_args args = {
        .src = data->src,
        .weight = data->weight,
        .bias = data->bias,
        .residual = data->residual,
        .dst = expected,
        .src_map = dc_tensor_map(d->src_layout, d->cin, d->h, d->w),
        .dst_map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .cin = d->cin,
        .h = d->h,
        .w = d->w,
        .cout = d->cout,
        .kh = d->kh,
        .kw = d->kw,
        .hout = p->hout,
        .wout = p->wout,
        .stride_h = d->stride_h,
        .stride_w = d->stride_w,
        .pad_top = d->pad_top,
        .pad_left = d->pad_left,
        .dilation_h = d->dilation_h,
        .dilation_w = d->dilation_w,
        .groups = d->groups,
        .lo = p->lo,
        .hi = p->hi,
    };
    measure_run(m, data);
    const bool whole = p->macs <= CHECK_MACS || d->cout <= CHECK_CHANNELS;
    const int64_t channels = whole ? d->cout : CHECK_CHANNELS;
    double worst = 0.0, largest = 0.0;
    for (int64_t n = 0; n < d->n; n += whole || d->n == 1 ? 1 : d->n - 1) {
        for (int64_t i = 0; i < channels; i++) {
            args.n = n;
            args.out_channel = whole ? i : i * (d->cout - 1) / (channels - 1);
            reference->reference(&args);
            const ptrdiff_t plane = n * args.dst_map.image + channel_offset(&args.dst_map, args.out_channel);
            for (int64_t y = 0; y < p->hout; y++) {
                for (int64_t x = 0; x < p->wout; x++) {
                    const ptrdiff_t at = plane + y * args.dst_map.row + x * args.dst_map.pixel;
                    const double difference = fabs((double)data->dst[at] - (double)expected[at]);
                    worst = difference <= worst ? worst : difference == difference ? difference : INFINITY;
                    largest = fmax(largest, fabs((double)expected[at]));
                }
            }
        }
    }
    dc_free(ctx, expected);
    *error = worst == 0.0 ? 0.0 : worst / largest;
    return DOCONV_OK;
}

/* Rounding of a dot product of k terms grows like sqrt(k) for data without a sign; 16 units in the last place leave room, a wrong result none. */
static double tolerance(const struct dc_problem *p, const struct dc_kernel *kernel)
{
    const double k = (double)p->group_cin * (double)p->desc.kh * (double)p->desc.kw;
    return (double)kernel->error_amplification * 16.0 * 0x1p-24 * sqrt(k + 16.0);
}

/* ---- tuning ---- */

static int64_t scaled(double value, double unit)
{
    const double result = value / unit + 0.5;
    return result < 9e18 ? (int64_t)result : INT64_MAX;
}

static void record(struct cache_entry *entry, const struct measured *items, int count, double error)
{
    const struct dc_candidate *winner = &items[0].plan->candidate;
    memcpy(entry->variant, winner->text, sizeof entry->variant);
    entry->revision = winner->kernel->revision;
    entry->picoseconds = scaled(items[0].median, 1e-12);
    entry->max_rel_error_e12 = scaled(error, 1e-12);
    entry->count = count < CACHEFILE_MEASURED ? count : CACHEFILE_MEASURED;
    for (int i = 0; i < entry->count; i++) {
        struct cache_measured *m = &entry->measured[i];
        memcpy(m->variant, items[i].plan->candidate.text, sizeof m->variant);
        m->picoseconds = scaled(items[i].median, 1e-12);
        m->rounds = items[i].rounds;
        m->spread_ppm = (int)fmin(items[i].spread * 1e6, 1e9);
        m->dropped = items[i].dropped;
    }
}

/* Moves a wrong winner to the end: it is out. */
static void discard_first(struct measured *items, int count)
{
    const struct measured wrong = items[0];
    memmove(&items[0], &items[1], (size_t)(count - 1) * sizeof *items);
    items[count - 1] = wrong;
    items[count - 1].dropped = true;
}

static doconv_status measure_and_check(doconv_context *ctx, const struct dc_problem *p, const struct measure_data *data, struct measured *items, int count,
                                       const doconv_tune_options *options, struct doconv_tune_report *report)
{
    struct measure_limits limits = {
        .budget_seconds = options != NULL && options->budget_seconds > 0.0 ? options->budget_seconds : BUDGET_SECONDS,
        .least_rounds = LEAST_ROUNDS,
        .progress = options != NULL ? options->progress : NULL,
        .progress_user = options != NULL ? options->progress_user : NULL,
    };
    measure(items, count, data, &limits);
    for (int attempt = 1; attempt < ATTEMPTS && items[0].spread > NOISY; attempt++) {
        for (int i = 0; i < count; i++) {
            items[i].dropped = false;
        }
        limits.budget_seconds *= 2.0;
        limits.least_rounds *= 2;
        measure(items, count, data, &limits);
    }
    report->noisy = items[0].spread > NOISY;
    for (int left = count; left > 0; left--) {
        double error = INFINITY;
        const doconv_status status = largest_error(ctx, p, data, &items[0], &error);
        if (status != DOCONV_OK) {
            return status;
        }
        const struct dc_candidate *c = &items[0].plan->candidate;
        if (error <= tolerance(p, c->kernel)) {
            record(&report->entry, items, count, error);
            return DOCONV_OK;
        }
        dc_log(ctx, DOCONV_LOG_ERROR, "tune: %s is wrong by %g of the largest value and dropped: %s", c->text, error, report->entry.key);
        discard_first(items, count);
    }
    return dc_fail(ctx, DOCONV_UNSUPPORTED, "tune: every measured variant gave a wrong result");
}

static doconv_status tune(doconv_context *ctx, const struct dc_problem *p, const doconv_plan_options *plan_options, const doconv_tune_options *options,
                          struct doconv_tune_report *report)
{
    struct dc_candidate_list list = {0};
    doconv_status status = dc_enumerate(ctx, p, plan_options, &list);
    if (status != DOCONV_OK) {
        return status;
    }
    const struct dc_candidate *picked[PRUNED];
    const int count = prune(&list, picked);
    struct measure_data data = {0};
    struct measured *items = dc_alloc(ctx, PRUNED * sizeof *items);
    int made = 0;
    if (count == 0) {
        const char *variant = plan_options != NULL ? plan_options->variant : NULL;
        status = dc_fail(ctx, variant != NULL ? DOCONV_NOT_FOUND : DOCONV_UNSUPPORTED, "tune: no candidate%s%.100s takes this problem",
                         variant != NULL ? " called " : "", variant != NULL ? variant : "");
    } else if (items == NULL) {
        status = dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "tune: out of memory");
    } else {
        status = measure_data_create(ctx, p, &data);
    }
    while (status == DOCONV_OK && made < count) {
        status = measured_create(ctx, p, plan_options, picked[made]->text, &data, &items[made]);
        made += status == DOCONV_OK;
    }
    if (status == DOCONV_OK) {
        status = measure_and_check(ctx, p, &data, items, count, options, report);
    }
    for (int i = 0; i < made; i++) {
        measured_destroy(ctx, &items[i]);
    }
    measure_data_destroy(ctx, &data);
    dc_free(ctx, items);
    dc_free(ctx, list.items);
    return status;
}

doconv_status doconv_tune(doconv_context *context, const doconv_conv_desc *desc, const doconv_plan_options *plan_options,
                          const doconv_tune_options *options, doconv_tune_report **report)
{
    if (report != NULL) {
        *report = NULL;
    }
    if (context == NULL || report == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL", context == NULL ? "context" : "report");
    }
    if (options != NULL && options->size != sizeof *options) {
        return dc_fail(context, DOCONV_MISMATCH, "options.size: %zu is not %zu, the size of doconv_tune_options in this version", options->size,
                       sizeof *options);
    }
    if (options != NULL && (!(options->budget_seconds >= 0.0 && options->budget_seconds <= 86400.0) || (options->force != 0 && options->force != 1))) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "options.budget_seconds, force: %g, %d are not in 0..86400, 0..1", options->budget_seconds,
                       options->force);
    }
    struct dc_problem problem;
    doconv_status status = dc_problem_create(context, desc, &problem);
    if (status == DOCONV_OK) {
        status = dc_plan_options_check(context, plan_options);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    struct doconv_tune_report *result = dc_alloc(context, sizeof *result);
    if (result == NULL) {
        return dc_fail(context, DOCONV_OUT_OF_MEMORY, "tune: out of memory");
    }
    memset(result, 0, sizeof *result);
    result->ctx = context;
    struct cache *cache = context->advisor.self;
    const bool restricted = plan_options != NULL && plan_options->variant != NULL;
    char key[DC_KEY_SIZE];
    dc_plan_key(context, &problem, plan_options, key, sizeof key);
    if (!restricted && (options == NULL || !options->force) && cache_lookup(cache, key, &result->entry)) {
        result->from_cache = result->stored = true;
        result->entry.count = 0;
        *report = result;
        return DOCONV_OK;
    }
    memset(&result->entry, 0, sizeof result->entry); /* a look-up may have left half an entry */
    memcpy(result->entry.key, key, sizeof key);
    status = tune(context, &problem, plan_options, options, result);
    if (status != DOCONV_OK) {
        dc_free(context, result);
        return status;
    }
    if (result->noisy) {
        dc_log(context, DOCONV_LOG_WARNING, "tune: the times are too noisy to keep: %s", key);
    } else if (!restricted) {
        result->stored = cache_store(cache, &result->entry) == DOCONV_OK;
    }
    *report = result;
    return DOCONV_OK;
}

/* ---- the report ---- */

void doconv_tune_report_destroy(doconv_tune_report *report)
{
    if (report != NULL) {
        dc_free(report->ctx, report);
    }
}

doconv_status doconv_tune_report_summary(const doconv_tune_report *report, doconv_tune_summary *summary)
{
    if (report == NULL || summary == NULL) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (summary->size != sizeof *summary) {
        return DOCONV_MISMATCH;
    }
    *summary = (doconv_tune_summary){
        .size = sizeof *summary,
        .variant = report->entry.variant,
        .seconds = 1e-12 * (double)report->entry.picoseconds,
        .max_rel_error = 1e-12 * (double)report->entry.max_rel_error_e12,
        .from_cache = report->from_cache,
        .noisy = report->noisy,
        .stored = report->stored,
        .measured = report->entry.count,
    };
    return DOCONV_OK;
}

int doconv_tune_report_count(const doconv_tune_report *report)
{
    return report != NULL ? report->entry.count : 0;
}

doconv_status doconv_tune_report_get(const doconv_tune_report *report, int index, doconv_tune_entry *entry)
{
    if (report == NULL || entry == NULL || index < 0 || index >= report->entry.count) {
        return DOCONV_INVALID_ARGUMENT;
    }
    if (entry->size != sizeof *entry) {
        return DOCONV_MISMATCH;
    }
    const struct cache_measured *m = &report->entry.measured[index];
    *entry = (doconv_tune_entry){
        .size = sizeof *entry,
        .variant = m->variant,
        .median_seconds = 1e-12 * (double)m->picoseconds,
        .spread = 1e-6 * m->spread_ppm,
        .rounds = m->rounds,
        .dropped = m->dropped,
    };
    return DOCONV_OK;
}

/* ---- the advisor: self is the cache ---- */

static bool advise(void *self, const char *key, char *variant, size_t size)
{
    struct cache *cache = self;
    struct cache_entry *entry = dc_alloc(cache_context(cache), sizeof *entry);
    const bool hit = entry != NULL && cache_lookup(cache, key, entry) && strlen(entry->variant) < size;
    if (hit) {
        memcpy(variant, entry->variant, strlen(entry->variant) + 1);
    }
    dc_free(cache_context(cache), entry);
    return hit;
}

static doconv_status measure_now(void *self, const doconv_conv_desc *desc, const doconv_plan_options *options, char *variant, size_t size)
{
    doconv_tune_report *report;
    const doconv_tune_options force = {.size = sizeof force, .force = 1};
    const doconv_status status = doconv_tune(cache_context(self), desc, options, &force, &report);
    if (status == DOCONV_OK) {
        memcpy(variant, report->entry.variant, size < sizeof report->entry.variant ? size : sizeof report->entry.variant);
        doconv_tune_report_destroy(report);
    }
    return status;
}

static void detach(void *self)
{
    cache_destroy(self);
}

doconv_status dc_tuner_attach(doconv_context *ctx)
{
    struct cache *cache = cache_create(ctx);
    if (cache == NULL) {
        return DOCONV_OUT_OF_MEMORY;
    }
    ctx->advisor = (struct dc_advisor){.self = cache, .lookup = advise, .measure = measure_now, .destroy = detach};
    return DOCONV_OK;
}
