/* SPDX-License-Identifier: MIT */
#include "harness_rig.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "kernel.h"
#include "oracle.h"
#include "plan/plan.h"
#include "solvers/winograd/winograd.h"

/* ---- data ---- */

static void *make(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL) {
        fprintf(stderr, "tests: no memory for %zu elements\n", count);
        exit(1);
    }
    return memory;
}

static float *fill_integers(struct rng *rng, size_t count, int64_t most)
{
    float *values = make(count, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)rng_range(rng, -most, most);
    }
    return values;
}

static float *fill_reals(struct rng *rng, size_t count)
{
    float *values = make(count, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)ldexp(2.0 * rng_unit(rng) - 1.0, (int)rng_range(rng, -3, 3));
    }
    return values;
}

static void answer(const doconv_conv_desc *desc, struct data *data, size_t outputs)
{
    data->value = make(outputs, sizeof *data->value);
    data->magnitude = make(outputs, sizeof *data->magnitude);
    oracle_convolve(desc, data->src, data->weight, data->bias, data->residual, data->value,
                    data->magnitude);
}

bool experiment_create(struct experiment *e, const doconv_conv_desc *d, uint64_t seed,
                       char *failure, size_t size)
{
    *e = (struct experiment){.desc = *d, .seed = seed};
    const doconv_status status = doconv_conv_desc_format(NULL, d, e->text, sizeof e->text);
    if (status != DOCONV_OK) {
        snprintf(failure, size, "a sampled problem is refused: %s", doconv_status_string(status));
        return false;
    }
    e->hout = oracle_out_size(d->h, d->kh, d->stride_h, d->dilation_h, d->pad_top, d->pad_bottom);
    e->wout = oracle_out_size(d->w, d->kw, d->stride_w, d->dilation_w, d->pad_left, d->pad_right);
    int64_t shape[4];
    doconv_conv_dst_shape(NULL, d, shape);
    if (shape[0] != d->n || shape[1] != d->cout || shape[2] != e->hout || shape[3] != e->wout) {
        snprintf(failure, size,
                 "problem=%s: dst is %" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64
                 ", the oracle's %" PRId64 "x%" PRId64,
                 e->text, shape[0], shape[1], shape[2], shape[3], e->hout, e->wout);
        return false;
    }
    const size_t inputs = (size_t)(d->n * d->cin * d->h * d->w),
                 outputs = (size_t)(d->n * d->cout * e->hout * e->wout);
    const size_t weights = (size_t)(d->cout * (d->cin / d->groups) * d->kh * d->kw);
    struct rng rng = rng_from(seed, e->text);
    e->integers.src = fill_integers(&rng, inputs, 4);
    e->integers.weight = fill_integers(&rng, weights, 4);
    e->reals.src = fill_reals(&rng, inputs);
    e->reals.weight = fill_reals(&rng, weights);
    if (d->has_bias) {
        e->integers.bias = fill_integers(&rng, (size_t)d->cout, 8);
        e->reals.bias = fill_reals(&rng, (size_t)d->cout);
    }
    if (d->residual) {
        e->integers.residual = fill_integers(&rng, outputs, 8);
        e->reals.residual = fill_reals(&rng, outputs);
    }
    e->poisoned = e->integers;
    e->poisoned.src = make(inputs, sizeof *e->poisoned.src);
    memcpy(e->poisoned.src, e->integers.src, inputs * sizeof *e->poisoned.src);
    e->poisoned.src[rng_range(&rng, 0, (int64_t)inputs - 1)] = NAN;
    answer(d, &e->integers, outputs);
    answer(d, &e->reals, outputs);
    answer(d, &e->poisoned, outputs);
    return true;
}

void experiment_destroy(struct experiment *e)
{
    e->poisoned.weight = e->poisoned.bias = e->poisoned.residual = NULL; /* those of integers */
    struct data *const all[] = {&e->integers, &e->reals, &e->poisoned};
    for (int i = 0; i < 3; i++) {
        struct data *data = all[i];
        free(data->src);
        free(data->weight);
        free(data->bias);
        free(data->residual);
        free(data->value);
        free(data->magnitude);
    }
    *e = (struct experiment){0};
}

/* ---- a run ---- */

/* Puts an NCHW tensor into a layout; padding channels become gap. */
static void lay_out(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w,
                    const float *from, float gap, float *to)
{
    for (int64_t image = 0; image < n; image++) {
        for (int64_t channel = 0; channel < oracle_stored_channels(layout, c); channel++) {
            for (int64_t y = 0; y < h; y++) {
                for (int64_t x = 0; x < w; x++) {
                    to[oracle_index(layout, c, h, w, image, channel, y, x)] =
                        channel < c ? *from++ : gap;
                }
            }
        }
    }
}

static void pack(void *arg)
{
    struct rig *rig = arg;
    rig->status = doconv_weights_create(rig->plan, rig->weight.data, rig->bias.data, &rig->weights);
}

static void execute(void *arg)
{
    struct rig *rig = arg;
    rig->status = doconv_execute(rig->plan, rig->weights, rig->src.data,
                                 rig->residual_is_dst ? rig->dst.data : rig->residual.data,
                                 rig->dst.data, rig->workspace.data, rig->workspace.bytes);
}

static bool failed_call(const struct rig *rig, const char *call, char *failure, size_t size)
{
    char detail[256] = "";
    doconv_context_last_error(rig->ctx, detail, sizeof detail);
    snprintf(failure, size, "%s: %s: %s", call, doconv_status_string(rig->status), detail);
    return false;
}

enum { BUFFERS = 6 };
struct named_buffer {
    const char *name;
    const struct buffer *buffer;
};

static void name_buffers(const struct rig *rig, struct named_buffer named[BUFFERS])
{
    named[0] = (struct named_buffer){"src", &rig->src};
    named[1] = (struct named_buffer){"weight", &rig->weight};
    named[2] = (struct named_buffer){"bias", &rig->bias};
    named[3] = (struct named_buffer){"residual", &rig->residual};
    named[4] = (struct named_buffer){"dst", &rig->dst};
    named[5] = (struct named_buffer){"workspace", &rig->workspace};
}

/* Names the place of an address beside the nearest buffer. */
static bool faulted(const struct rig *rig, const char *call, const void *address, char *failure,
                    size_t size)
{
    struct named_buffer buffers[BUFFERS];
    name_buffers(rig, buffers);
    const uintptr_t at = (uintptr_t)address;
    for (int i = 0; i < BUFFERS; i++) {
        const struct buffer *b = buffers[i].buffer;
        if (b->data != NULL && b->place != BUFFER_CANARIES && at >= (uintptr_t)b->map &&
            at < (uintptr_t)b->map + b->map_bytes) {
            snprintf(failure, size, "%s touched byte %" PRId64 " of %s, which has %zu bytes", call,
                     (int64_t)(at - (uintptr_t)b->data), buffers[i].name, b->bytes);
            return false;
        }
    }
    snprintf(failure, size,
             "%s was stopped by a signal at address %p, beside no tensor (packed weights?)", call,
             address);
    return false;
}

bool rig_prepare(struct rig *rig, doconv_context *ctx, const struct experiment *e,
                 const struct data *data, const char *variant, struct rig_options options,
                 char *failure, size_t size)
{
    const doconv_conv_desc *d = &e->desc;
    *rig = (struct rig){.e = e,
                        .data = data,
                        .options = options,
                        .ctx = ctx,
                        .variant = variant,
                        .residual_is_dst = options.alias && d->residual};
    const doconv_plan_options plan_options = {.size = sizeof plan_options, .variant = variant};
    rig->status = doconv_plan_create(ctx, d, &plan_options, &rig->plan);
    if (rig->status != DOCONV_OK) {
        return failed_call(rig, "doconv_plan_create", failure, size);
    }
    if (variant != NULL && strcmp(doconv_plan_variant(rig->plan), variant) != 0) {
        snprintf(failure, size, "the plan's variant is %s", doconv_plan_variant(rig->plan));
        return false;
    }
    const float gap = options.nan_gaps ? NAN : 0.0f;
    const size_t src_floats = oracle_floats(d->src_layout, d->n, d->cin, d->h, d->w);
    const size_t dst_floats = oracle_floats(d->dst_layout, d->n, d->cout, e->hout, e->wout);
    const size_t weight_floats = (size_t)(d->cout * (d->cin / d->groups) * d->kh * d->kw);
    buffer_create(&rig->src, src_floats * sizeof(float), options.place, 4);
    lay_out(d->src_layout, d->n, d->cin, d->h, d->w, data->src, gap, rig->src.data);
    buffer_create(&rig->weight, weight_floats * sizeof(float), options.place, 12);
    memcpy(rig->weight.data, data->weight, rig->weight.bytes);
    if (d->has_bias) {
        buffer_create(&rig->bias, (size_t)d->cout * sizeof(float), options.place, 20);
        memcpy(rig->bias.data, data->bias, rig->bias.bytes);
    }
    if (d->residual && !rig->residual_is_dst) {
        buffer_create(&rig->residual, dst_floats * sizeof(float), options.place, 36);
        lay_out(d->dst_layout, d->n, d->cout, e->hout, e->wout, data->residual, gap,
                rig->residual.data);
    }
    buffer_create(&rig->dst, dst_floats * sizeof(float), options.place, 28);
    buffer_create(&rig->workspace, doconv_plan_workspace_size(rig->plan), options.place, 1);
    const void *address = NULL;
    if (!fault_catch(pack, rig, &address)) {
        return faulted(rig, "doconv_weights_create", address, failure, size);
    }
    return rig->status == DOCONV_OK || failed_call(rig, "doconv_weights_create", failure, size);
}

bool rig_execute(struct rig *rig, char *failure, size_t size)
{
    const doconv_conv_desc *d = &rig->e->desc;
    if (rig->residual_is_dst) {
        lay_out(d->dst_layout, d->n, d->cout, rig->e->hout, rig->e->wout, rig->data->residual,
                rig->options.nan_gaps ? NAN : 0.0f, rig->dst.data);
    } else {
        const uint32_t word = BUFFER_UNWRITTEN;
        for (size_t i = 0; i < rig->dst.bytes / sizeof word; i++) {
            memcpy((char *)rig->dst.data + i * sizeof word, &word, sizeof word);
        }
    }
    if (rig->workspace.data != NULL) {
        memset(rig->workspace.data, rig->options.dirt, rig->workspace.bytes);
    }
    const void *address = NULL;
    if (!fault_catch(execute, rig, &address)) {
        return faulted(rig, "doconv_execute", address, failure, size);
    }
    return rig->status == DOCONV_OK || failed_call(rig, "doconv_execute", failure, size);
}

void rig_destroy(struct rig *rig)
{
    doconv_weights_destroy(rig->weights);
    doconv_plan_destroy(rig->plan);
    struct buffer *const buffers[] = {&rig->src,      &rig->weight, &rig->bias,
                                      &rig->residual, &rig->dst,    &rig->workspace};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        buffer_destroy(buffers[i]);
    }
    *rig = (struct rig){0};
}

/* ---- what came out ---- */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/*
 * Walks over dst; visit returns false to stop with a failure. at: index in the oracle's order, of
 * logical channels only.
 */
typedef bool visit_fn(const struct rig *rig, float seen, size_t at, const void *arg, char *text,
                      size_t size);

static bool walk(const struct rig *rig, bool gaps, visit_fn *visit, const void *arg, char *failure,
                 size_t size)
{
    const doconv_conv_desc *d = &rig->e->desc;
    const int64_t hout = rig->e->hout, wout = rig->e->wout,
                  stored = oracle_stored_channels(d->dst_layout, d->cout);
    const float *dst = rig->dst.data;
    for (int64_t n = 0; n < d->n; n++) {
        for (int64_t c = gaps ? d->cout : 0; c < (gaps ? stored : d->cout); c++) {
            for (int64_t y = 0; y < hout; y++) {
                for (int64_t x = 0; x < wout; x++) {
                    const size_t at =
                        gaps ? 0 : (size_t)(((n * d->cout + c) * hout + y) * wout + x);
                    const float seen =
                        dst[oracle_index(d->dst_layout, d->cout, hout, wout, n, c, y, x)];
                    char text[256];
                    if (!visit(rig, seen, at, arg, text, sizeof text)) {
                        snprintf(failure, size,
                                 "dst[n=%" PRId64 "][c=%" PRId64 "][h=%" PRId64 "][w=%" PRId64
                                 "] %s",
                                 n, c, y, x, text);
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

static bool visit_exact(const struct rig *rig, float seen, size_t at, const void *arg, char *text,
                        size_t size)
{
    (void)arg;
    const float expected = (float)rig->data->value[at];
    if (bits_of(seen) == bits_of(expected) ||
        (isnan(expected) && isnan(seen) && bits_of(seen) != BUFFER_UNWRITTEN)) {
        return true;
    }
    snprintf(text, size, "is %.9g, must be %.9g", (double)seen, (double)expected);
    return false;
}

bool rig_check_exact(const struct rig *rig, char *failure, size_t size)
{
    return walk(rig, false, visit_exact, NULL, failure, size);
}

bool rig_tile(const struct rig *rig, int64_t output, struct rig_window *window)
{
    const struct experiment *e = rig->e;
    const doconv_conv_desc *d = &e->desc;
    const struct dc_kernel *kernel = rig->plan->candidate.kernel;
    if (kernel->family != DC_FAMILY_WINOGRAD) {
        return false;
    }
    const struct dc_winograd_kernel *w = &kernel->winograd;
    struct dc_winograd_parameters parameters;
    dc_get_parameters(&rig->plan->candidate, &parameters);
    const bool tiled = w->axes == 2;
    const int64_t height = tiled || parameters.down ? w->outputs : 1,
                  width = tiled || !parameters.down ? w->outputs : 1;
    const int64_t y0 = output / e->wout % e->hout / height * height - d->pad_top,
                  x0 = output % e->wout / width * width - d->pad_left;
    const int64_t y1 = y0 + height - 1 + d->kh, x1 = x0 + width - 1 + d->kw;
    *window = (struct rig_window){.y0 = y0 < 0 ? 0 : y0,
                                  .y1 = y1 > d->h ? d->h : y1,
                                  .x0 = x0 < 0 ? 0 : x0,
                                  .x1 = x1 > d->w ? d->w : x1};
    return true;
}

/* The largest absolute value of a window; one that is no number wins. */
static double largest_of(const float *plane, int64_t width, const struct rig_window *window)
{
    double largest = 0.0;
    for (int64_t y = window->y0; y < window->y1; y++) {
        for (int64_t x = window->x0; x < window->x1; x++) {
            const double value = fabs((double)plane[y * width + x]);
            largest = value > largest || isnan(value) ? value : largest;
        }
    }
    return largest;
}

/* What scales the bound of an output's error. */
static double magnitude_of(const struct rig *rig, int64_t output)
{
    const doconv_conv_desc *d = &rig->e->desc;
    const struct data *data = rig->data;
    struct rig_window window;
    if (!rig_tile(rig, output, &window)) {
        return data->magnitude[output];
    }
    const int64_t o = output / rig->e->wout / rig->e->hout % d->cout,
                  n = output / rig->e->wout / rig->e->hout / d->cout;
    const int64_t cin = d->cin / d->groups, first = o / (d->cout / d->groups) * cin,
                  taps = d->kh * d->kw;
    double sum = data->bias != NULL ? fabs((double)data->bias[o]) : 0.0;
    sum += data->residual != NULL ? fabs((double)data->residual[output]) : 0.0;
    for (int64_t c = 0; c < cin; c++) {
        double filter = 0.0;
        for (int64_t t = 0; t < taps; t++) {
            filter += fabs((double)data->weight[(o * cin + c) * taps + t]);
        }
        sum +=
            filter * largest_of(data->src + (n * d->cin + first + c) * d->h * d->w, d->w, &window);
    }
    return sum;
}

/* A sum of denormal numbers is off by its last places, which transforms scale. */
#define TINY 1e-40

static bool visit_close(const struct rig *rig, float seen, size_t at, const void *arg, char *text,
                        size_t size)
{
    const double factor = *(const double *)arg, value = rig->data->value[at],
                 error = fabs((double)seen - value);
    /* A tile's magnitude is no less than the output's own, and takes long. */
    double bound = factor * rig->data->magnitude[at];
    if (isnan(value) ? isnan(seen) : error <= bound) {
        return true;
    }
    const double magnitude = magnitude_of(rig, (int64_t)at);
    bound = factor * magnitude + (magnitude != rig->data->magnitude[at] ? TINY : 0.0);
    if (!isnan(value) && (error <= bound || !isfinite(magnitude))) {
        return true;
    }
    snprintf(text, size, "is %.9g, must be %.9g: an error of %.3g, over the bound of %.3g",
             (double)seen, rig->data->value[at], error, bound);
    return false;
}

bool rig_check_close(const struct rig *rig, double amplification, char *failure, size_t size)
{
    const doconv_conv_desc *d = &rig->e->desc;
    /*
     * gamma(n) = n u / (1 - n u): n roundings; the three are bias, residual and the rounding of the
     * oracle itself.
     */
    const double n = (double)(d->cin / d->groups * d->kh * d->kw + 3), unit = 0x1p-24;
    const double factor = amplification * n * unit / (1.0 - n * unit);
    return walk(rig, false, visit_close, &factor, failure, size);
}

/* Are sums of small integers free of rounding? Of Winograd's those whose factors are halves. */
static bool is_exact(const struct dc_kernel *kernel)
{
    return kernel->family != DC_FAMILY_WINOGRAD || kernel->winograd.points == 4;
}

bool rig_check_value(const struct rig *rig, char *failure, size_t size)
{
    const struct dc_candidate *c = &rig->plan->candidate;
    return is_exact(c->kernel)
               ? rig_check_exact(rig, failure, size)
               : rig_check_close(rig, (double)c->error_amplification, failure, size);
}

static bool visit_written(const struct rig *rig, float seen, size_t at, const void *arg, char *text,
                          size_t size)
{
    (void)rig, (void)at, (void)arg;
    if (bits_of(seen) != BUFFER_UNWRITTEN) {
        return true;
    }
    snprintf(text, size, "was not written");
    return false;
}

static bool visit_gap(const struct rig *rig, float seen, size_t at, const void *arg, char *text,
                      size_t size)
{
    (void)rig, (void)at, (void)arg;
    if (seen == 0.0f) {
        return true;
    }
    snprintf(text, size, "is a padding channel, and %s",
             bits_of(seen) == BUFFER_UNWRITTEN ? "was not written" : "not zero");
    return false;
}

bool rig_check_gaps(const struct rig *rig, char *failure, size_t size)
{
    return walk(rig, true, visit_gap, NULL, failure, size);
}

bool rig_check_complete(const struct rig *rig, char *failure, size_t size)
{
    struct named_buffer buffers[BUFFERS];
    name_buffers(rig, buffers);
    for (int i = 0; i < BUFFERS; i++) {
        if (!buffer_intact(buffers[i].buffer)) {
            snprintf(failure, size, "something was written beside %s", buffers[i].name);
            return false;
        }
    }
    return walk(rig, false, visit_written, NULL, failure, size) &&
           rig_check_gaps(rig, failure, size);
}

bool rig_check_same(const struct rig *rig, const float *other, const char *what, char *failure,
                    size_t size)
{
    const float *dst = rig->dst.data;
    for (size_t i = 0; i < rig->dst.bytes / sizeof(float); i++) {
        if (bits_of(dst[i]) != bits_of(other[i])) {
            snprintf(failure, size, "dst[%zu] (in memory order) is %.9g, but %.9g in %s", i,
                     (double)dst[i], (double)other[i], what);
            return false;
        }
    }
    return true;
}
